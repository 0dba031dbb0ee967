//! Callbacks for what is quick, tasks for what takes its time: both in one server, and on one connection.
//!
//!     cargo run --release --example mixed -- tcp://127.0.0.1:5000 tcp://127.0.0.1:5001 --loops 2
//!     nc 127.0.0.1 5000
//!
//! The first address is served by callbacks, which answer lines:
//!
//! | line | answer |
//! |---|---|
//! | `PING` | `PONG` |
//! | `ECHO text` | `text` |
//! | `COUNT` | how many lines the connection has sent |
//! | `PUT len` | a task takes the `len` bytes that follow, and brings the connection back |
//! | `GET /…` | a task makes it a WebSocket, which echoes (in a browser: `new WebSocket("ws://127.0.0.1:5000")`) |
//!
//! The second has a task for each connection from the beginning. It shows how many there are, every second.

mod common;

use async_tungstenite::accept_async_with_config;
use async_tungstenite::tungstenite::protocol::WebSocketConfig;
use common::Signal;
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use lexopt::prelude::*;
use std::io::{self, ErrorKind};
use std::mem;
use std::process::ExitCode;
use std::time::Duration;
use wakewheel::evio::{Action, Builder, Conn, DetachedStream, Events, Options, Reply, Server};
use wakewheel::executor::shutdown_requested;
use wakewheel::{Timer, spawn_local, timeout};

/// Bytes of a line. Who sends a longer one is shown out.
const LINE_LEN_MAX: usize = 4096;

/// Bytes of a WebSocket message.
const MESSAGE_LEN_MAX: usize = 1 << 20;

/// A client may say nothing for so long, and take so long to read what it is sent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    common::main("mixed [ADDRESS [ADDRESS-OF-THE-MONITOR]] [--loops N]", parse, |(addrs, builder)| {
        run(addrs, builder)
    })
}

/// What belongs to a connection. It goes with it to a task, and comes back.
#[derive(Default)]
struct Session {
    lines: u64,
    job: Job,
}

/// What a task does with a connection that is detached.
#[derive(Clone, Copy, Default)]
enum Job {
    #[default]
    WebSocket,
    Put(u64),
}

fn run([addr, monitor_addr]: [String; 2], builder: Builder<Session>) -> io::Result<()> {
    let signal = Signal::new()?;
    let events = Events::with_context::<Session>()
        .serving(move |server| {
            for addr in server.addrs() {
                println!("listening on {addr}");
            }
            spawn_local(signal.clone().stop(server.clone())).detach();
            Action::None
        })
        .opened(|_| Options::new().idle_timeout(SILENCE_MAX).into())
        .data(data)
        .detached(detached);
    builder.shutdown_grace(common::DRAIN).listen_async(monitor_addr, monitor).serve(events, [addr])
}

// ---------------------------------------------------------------------------------------------- callbacks

fn data<'a>(conn: &mut Conn<'_, Session>, input: &'a [u8]) -> Reply<'a> {
    let mut rest = input;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        if line.starts_with(b"GET ") {
            // The stream starts with what is unread: the task sees the request from its first byte.
            conn.context.job = Job::WebSocket;
            conn.unread(rest.len());
            return Action::Detach.into();
        }
        rest = after;
        conn.context.lines += 1;
        let action = answer(conn, &String::from_utf8_lossy(line.trim_ascii_end()));
        if action != Action::None {
            conn.unread(rest.len());
            return action.into();
        }
    }
    if rest.len() > LINE_LEN_MAX {
        return Reply::send(b"ERR line too long\n").then(Action::Close);
    }
    // The beginning of a line, perhaps: it comes again, with what follows.
    conn.unread(rest.len());
    Reply::none()
}

fn answer(conn: &mut Conn<'_, Session>, line: &str) -> Action {
    let text = match line.split_once(' ').unwrap_or((line, "")) {
        ("PING", "") => "PONG",
        ("ECHO", text) => text,
        ("COUNT", "") => &conn.context.lines.to_string(),
        ("PUT", len) => match len.parse() {
            Ok(len) => {
                conn.context.job = Job::Put(len);
                return Action::Detach;
            }
            Err(_) => "ERR write PUT and how many bytes follow the line",
        },
        _ => "ERR write PING, ECHO, COUNT or PUT",
    };
    conn.out.extend_from_slice(text.as_bytes());
    conn.out.push(b'\n');
    Action::None
}

/// All answers have been sent, and nobody else has the connection any more.
fn detached(conn: &mut Conn<'_, Session>, stream: DetachedStream) -> Action {
    let (server, session, peer) = (conn.server().clone(), mem::take(conn.context), conn.remote_addr());
    spawn_local(async move {
        let done = match session.job {
            Job::WebSocket => web_socket(stream).await,
            Job::Put(len) => put(stream, len, session, server).await,
        };
        if let (Err(e), Some(peer)) = (done, peer) {
            eprintln!("{peer}: {e}");
        }
    })
    .detach();
    Action::None
}

// -------------------------------------------------------------------------------------------------- tasks

/// Takes `len` bytes, as they come, and brings the connection back.
///
/// No byte is read beyond them: what the client has sent after that is for the callbacks, and they get it.
async fn put(
    mut stream: DetachedStream,
    len: u64,
    session: Session,
    server: Server<Session>,
) -> io::Result<()> {
    let (mut body, mut buffer, mut sum) = ((&mut stream).take(len), vec![0; 16 * 1024], 0_u32);
    while body.limit() > 0 {
        let read = timeout(SILENCE_MAX, body.read(&mut buffer)).await??;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        sum = buffer[..read].iter().fold(sum, |sum, &byte| sum.rotate_left(1) ^ u32::from(byte));
    }
    let answer = format!("{len} bytes, sum {sum:08x}\n");
    timeout(SILENCE_MAX, stream.write_all(answer.as_bytes())).await??;
    // A server that stops does not take it, and it is closed.
    let _ = server.attach(stream, session);
    Ok(())
}

/// Echoes messages, until the client closes the WebSocket or the server stops.
///
/// A WebSocket does not go back under the callbacks: tungstenite reads ahead, and what it has read it keeps.
async fn web_socket(stream: DetachedStream) -> io::Result<()> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LEN_MAX))
        .max_frame_size(Some(MESSAGE_LEN_MAX));
    let accepting = timeout(SILENCE_MAX, accept_async_with_config(stream, Some(config)));
    let mut socket = accepting.await?.map_err(io::Error::other)?;
    loop {
        let message = async { Some(socket.next().await) };
        let stop = async {
            shutdown_requested().await;
            None
        };
        let message = match timeout(SILENCE_MAX, message.or(stop)).await? {
            Some(Some(message)) => message.map_err(io::Error::other)?,
            Some(None) => return Ok(()),
            None => return socket.close(None).await.map_err(io::Error::other),
        };
        // tungstenite answers pings, and the end, when it is asked for the next message.
        if message.is_text() || message.is_binary() {
            timeout(SILENCE_MAX, socket.send(message)).await?.map_err(io::Error::other)?;
        }
    }
}

/// Shows how many connections there are.
async fn monitor(mut stream: DetachedStream, server: Server<Session>) {
    while !server.is_stopping() {
        let line = format!("connections: {}\n", server.connections());
        match timeout(SILENCE_MAX, stream.write_all(line.as_bytes())).await {
            Ok(Ok(())) => {}
            // Who has gone, or does not read, misses nothing.
            _ => return,
        }
        let second = async {
            Timer::after(Duration::from_secs(1)).await;
        };
        second.or(shutdown_requested()).await;
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<([String; 2], Builder<Session>), lexopt::Error> {
    let (mut addrs, mut given) = (["tcp://127.0.0.1:5000", "tcp://127.0.0.1:5001"].map(String::from), 0);
    let mut builder = Builder::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("loops") => builder = builder.loops(parser.value()?.parse::<isize>()?),
            Value(value) if given < addrs.len() => {
                addrs[given] = value.string()?;
                given += 1;
            }
            _ => return Err(arg.unexpected()),
        }
    }
    Ok((addrs, builder))
}
