//! Sends commands to a Redis server, or to anything else that speaks its protocol, and prints the replies.
//!
//!     cargo run --release --example redis_client -- 127.0.0.1:6379 SET greeting hello / GET greeting
//!     cargo run --release --example redis_client -- localhost:6379 < commands
//!
//! Commands from the command line are separated by `/`. If there are none there, they are read from the standard input, one a
//! line, with quotes around what has spaces. They are pipelined: a command does not wait for the replies to those before it. (So
//! SUBSCRIBE, MONITOR and the like, which are answered as often as they please, are not for this.)

mod common;
#[path = "common/resp.rs"]
#[allow(dead_code, reason = "replies are the server's part")]
mod resp;

use async_channel::{Receiver, Sender};
use futures_lite::io::BufReader;
use futures_lite::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, future};
use lexopt::prelude::*;
use resp::Parsed;
use std::future::Future;
use std::io::{self, BufRead, ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStringExt;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;
use std::{fmt, thread};
use wakewheel::io::SocketOptions;
use wakewheel::{Async, block_on, timeout};

const USAGE: &str = "redis_client [HOST:PORT] [--timeout TIME] [COMMAND ARG... [/ COMMAND ARG...]...]";

/// So many commands may wait for their replies.
const PIPELINE_MAX: usize = 1000;
/// What is sent at once: as many commands as are there, until they are so long.
const OUT_LEN_MAX: usize = 64 * 1024;
/// A reply that is an array of arrays of arrays …
const DEPTH_MAX: usize = 32;
/// A line of a reply: a number, or a text.
const LINE_LEN_MAX: u64 = 64 * 1024;

fn main() -> ExitCode {
    common::main(USAGE, parse, run)
}

struct Args {
    addr: String,
    limit: Duration,
    commands: Vec<Command>,
}

type Command = Vec<Vec<u8>>;

fn run(Args { addr, limit, commands }: Args) -> io::Result<()> {
    let (sender, next) = async_channel::bounded(PIPELINE_MAX);
    // The standard input may be a file, which cannot be waited for: a thread of its own may block. It ends with the program.
    let source = thread::spawn(move || {
        if commands.is_empty() {
            return read_lines(&sender);
        }
        // Until nobody wants more: there is an error then, which is told elsewhere.
        let _ = commands.into_iter().try_for_each(|command| sender.send_blocking(command));
        Ok(())
    });
    let failed = block_on(talk(&addr, limit, next))?;
    source.join().expect("it does not panic")?;
    match failed {
        0 => Ok(()),
        failed => Err(io::Error::other(format!("commands that failed: {failed}"))),
    }
}

/// Sends what comes out of `next`, and prints the replies. Returns how many were errors.
async fn talk(addr: &str, limit: Duration, next: Receiver<Command>) -> io::Result<usize> {
    let connecting = timeout(limit, SocketOptions::new().nodelay().connect_host(addr));
    let stream = connecting.await.map_err(|e| late(e, &format!("connect to {addr}")))??;
    // One entry for each command that was sent: whoever reads knows what to wait for.
    let (sent, expected) = async_channel::bounded(PIPELINE_MAX);
    let receiving = async {
        let (mut reader, mut failed) = (BufReader::new(&stream), 0);
        while let Ok(()) = expected.recv().await {
            let reply = timeout(limit, read_reply(&mut reader, DEPTH_MAX));
            let reply = reply.await.map_err(|e| late(e, "get a reply"))??;
            failed += usize::from(matches!(reply, Reply::Error(_)));
            writeln!(io::stdout().lock(), "{reply}")?;
        }
        Ok(failed)
    };
    // The sender goes when all is sent, and then the loop above ends.
    Ok(future::try_zip(send(&stream, next, sent), receiving).await?.1)
}

async fn send(mut stream: &Async<TcpStream>, next: Receiver<Command>, sent: Sender<()>) -> io::Result<()> {
    let mut out = Vec::new();
    while let Ok(command) = next.recv().await {
        let (mut more, mut count) = (Some(command), 0);
        // And what else is there already.
        while let Some(command) = more {
            resp::array(&mut out, command.len());
            command.iter().for_each(|arg| resp::bulk(&mut out, arg));
            count += 1;
            let is_enough = out.len() >= OUT_LEN_MAX || count == PIPELINE_MAX;
            more = if is_enough { None } else { next.try_recv().ok() };
        }
        // Before the bytes: replies that come meanwhile are read, or else neither side could go on. There is room for all of
        // them, as soon as those before them are answered.
        for _ in 0..count {
            let _ = sent.send(()).await;
        }
        stream.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}

fn late(e: wakewheel::time::Elapsed, what: &str) -> io::Error {
    io::Error::new(io::Error::from(e).kind(), format!("could not {what} in time"))
}

// ------------------------------------------------------------------------------------------------- replies

enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Option<Vec<Reply>>),
}

/// Reads one reply. (Boxed, since it reads those in an array by itself.)
fn read_reply<'a>(
    reader: &'a mut BufReader<&Async<TcpStream>>,
    depth_max: usize,
) -> Pin<Box<dyn Future<Output = io::Result<Reply>> + 'a>> {
    Box::pin(async move {
        let mut line = Vec::new();
        (&mut *reader).take(LINE_LEN_MAX).read_until(b'\n', &mut line).await?;
        let Some([kind, text @ ..]) = line.strip_suffix(b"\r\n") else {
            return Err(match line.is_empty() {
                true => io::Error::new(ErrorKind::UnexpectedEof, "the server has closed the connection"),
                false => wrong(&line),
            });
        };
        let text = String::from_utf8_lossy(text);
        let number = || text.parse::<i64>().map_err(|_| wrong(&line));
        Ok(match kind {
            b'+' => Reply::Simple(text.into_owned()),
            b'-' => Reply::Error(text.into_owned()),
            b':' => Reply::Integer(number()?),
            // Less than none is none at all.
            b'$' => match u64::try_from(number()?) {
                Err(_) => Reply::Bulk(None),
                Ok(len) => {
                    // Room is made for what comes, and not for what is announced.
                    let mut bytes = Vec::new();
                    (&mut *reader).take(len.saturating_add(2)).read_to_end(&mut bytes).await?;
                    if bytes.len() as u64 != len.saturating_add(2) || !bytes.ends_with(b"\r\n") {
                        return Err(wrong(&line));
                    }
                    bytes.truncate(bytes.len() - 2);
                    Reply::Bulk(Some(bytes))
                }
            },
            b'*' if depth_max == 0 => return Err(wrong(&line)),
            b'*' => match number()? {
                ..0 => Reply::Array(None),
                len => {
                    let mut replies = Vec::new();
                    for _ in 0..len {
                        replies.push(read_reply(reader, depth_max - 1).await?);
                    }
                    Reply::Array(Some(replies))
                }
            },
            _ => return Err(wrong(&line)),
        })
    })
}

fn wrong(line: &[u8]) -> io::Error {
    let text = format!("this is no reply of Redis: \"{}\"", line[..line.len().min(100)].escape_ascii());
    io::Error::new(ErrorKind::InvalidData, text)
}

/// As redis-cli prints it.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Simple(text) => f.write_str(text),
            Reply::Error(text) => write!(f, "(error) {text}"),
            Reply::Integer(number) => write!(f, "(integer) {number}"),
            Reply::Bulk(Some(bytes)) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Reply::Bulk(None) | Reply::Array(None) => f.write_str("(nil)"),
            Reply::Array(Some(replies)) if replies.is_empty() => f.write_str("(empty array)"),
            Reply::Array(Some(replies)) => replies.iter().enumerate().try_for_each(|(i, reply)| {
                let end = if i + 1 < replies.len() { "\n" } else { "" };
                write!(f, "{}) {}{end}", i + 1, reply.to_string().replace('\n', "\n   "))
            }),
        }
    }
}

// ------------------------------------------------------------------------------------------------ commands

/// Until the input ends, or nobody wants more.
fn read_lines(sender: &Sender<Command>) -> io::Result<()> {
    for line in io::stdin().lock().split(b'\n') {
        let mut line = line?;
        line.push(b'\n');
        let mut args = Vec::new();
        let Ok(Parsed::Command(_)) = resp::parse(&line, &mut args) else {
            let text = format!("this is no command: {:?}", String::from_utf8_lossy(line.trim_ascii()));
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        };
        let command: Command = args.iter().map(|arg| arg.to_vec()).collect();
        if !command.is_empty() && sender.send_blocking(command).is_err() {
            break;
        }
    }
    Ok(())
}

fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let (mut addr, mut limit, mut commands) = (None, Duration::from_secs(10), Vec::new());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("timeout") => limit = parser.value()?.parse_with(common::duration)?,
            Value(value) if addr.is_none() => addr = Some(value.string()?),
            // From here on, all is commands, whatever it begins with.
            Value(value) => {
                let words = std::iter::once(value).chain(parser.raw_args()?).map(OsStringExt::into_vec);
                let words: Vec<_> = words.collect();
                commands = words.split(|word| word == b"/").map(<[_]>::to_vec).collect();
                if commands.iter().any(Vec::is_empty) {
                    return Err("there is no command before or after a /".into());
                }
                break;
            }
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(Args { addr: addr.unwrap_or_else(|| "127.0.0.1:6379".into()), limit, commands })
}
