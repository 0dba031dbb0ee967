//! Echoes what its clients send, with a thread for each that is served: accepted on one thread, answered by workers.
//!
//!     cargo run --release --example dispatch_echo -- tcp://127.0.0.1:5000 --workers 8
//!
//! `udp://127.0.0.1:5000` and `unix:///tmp/echo.sock` are addresses, too.

mod common;

use common::Signal;
use lexopt::prelude::*;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::block_on;
use wakewheel::dispatch::{Arrival, Datagram, Dispatcher, Job, Running, Server, To};

const USAGE: &str = "dispatch_echo [ADDRESS] [--workers N] [--queue N] [--idle TIME]";

/// How often a worker that waits for its client looks whether the server stops.
const LOOK: Duration = Duration::from_millis(500);
/// How long a client may take to read some of what it is sent.
const WRITE_MAX: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    common::main(USAGE, parse, run)
}

struct Args {
    addr: String,
    workers: usize,
    queue_max: usize,
    /// After so long without a byte a client is left alone: others want its worker.
    idle_max: Duration,
}

fn run(args: Args) -> io::Result<()> {
    let signal = Signal::new()?;
    let running = start(&args)?;
    println!("listening on {}", running.addr());
    let server = running.clone();
    thread::spawn(move || {
        if let Err(e) = block_on(signal.wait()) {
            eprintln!("cannot wait for signals: {e}");
        }
        server.stop();
    });
    running.join()
}

fn start(args: &Args) -> io::Result<Running> {
    let &Args { ref addr, workers, queue_max, idle_max } = args;
    match addr.split_once("://") {
        Some(("udp" | "udp4" | "udp6", _)) => {
            let echo = |job: Job<Datagram>| report(&job.peer, job.socket.reply(job.socket.bytes()).map(drop));
            Dispatcher::new(echo).workers(workers).queue_max(queue_max).start(addr)
        }
        Some(("unix", _)) => {
            let accept = |arrival: Arrival<'_, UnixStream>| {
                let socket = arrival.socket;
                let set = socket.set_read_timeout(Some(LOOK)).and(socket.set_write_timeout(Some(WRITE_MAX)));
                welcome(&arrival, set)
            };
            let work = move |job: Job<UnixStream>| {
                report(&job.peer, echo(&job.socket, &job.socket, &job.server, idle_max));
            };
            Dispatcher::with_accept(accept, work).workers(workers).queue_max(queue_max).start(addr)
        }
        _ => {
            let accept = |arrival: Arrival<'_, TcpStream>| {
                let socket = arrival.socket;
                let set = socket.set_read_timeout(Some(LOOK)).and(socket.set_write_timeout(Some(WRITE_MAX)));
                welcome(&arrival, set)
            };
            let work = move |job: Job<TcpStream>| {
                report(&job.peer, echo(&job.socket, &job.socket, &job.server, idle_max));
            };
            Dispatcher::with_accept(accept, work).workers(workers).queue_max(queue_max).start(addr)
        }
    }
}

/// A connection without its time-outs could keep a worker for ever.
fn welcome<S>(arrival: &Arrival<'_, S>, time_outs: io::Result<()>) -> To {
    match time_outs {
        Ok(()) => To::Next(()),
        Err(e) => {
            eprintln!("{}: {e}", arrival.peer);
            To::Nobody
        }
    }
}

/// Until the client ends it, is idle for too long, or the server stops.
fn echo(mut from: impl Read, mut to: impl Write, server: &Server, idle_max: Duration) -> io::Result<()> {
    let mut buf = [0; 16 * 1024];
    let mut last = Instant::now();
    loop {
        match from.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(&buf[..n])?;
                last = Instant::now();
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if server.is_stopping() || last.elapsed() >= idle_max {
                    return Ok(());
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn report(peer: &impl std::fmt::Display, result: io::Result<()>) {
    match result {
        // What clients do is no failure of ours.
        Err(e) if !matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            eprintln!("{peer}: {e}");
        }
        _ => {}
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let mut args = Args {
        addr: format!("tcp://{}", common::ADDR),
        workers: 4,
        queue_max: 128,
        idle_max: Duration::from_secs(60),
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("workers") => args.workers = parser.value()?.parse_with(common::cores)?,
            Long("queue") => args.queue_max = parser.value()?.parse_with(common::cores)?,
            Long("idle") => args.idle_max = parser.value()?.parse_with(common::duration)?,
            Value(value) => args.addr = value.string()?,
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(args)
}
