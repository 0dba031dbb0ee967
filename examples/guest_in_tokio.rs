//! A reactor of wakewheel as a guest in tokio: the tasks and the thread are tokio's, the sockets and timers ours. An echo server
//! with an idle time-out.
//!
//!     cargo run --release --example guest_in_tokio -- 127.0.0.1:5000 --idle 30s
//!
//! No other thread is started. (Without all this, [`Async`] and the timers work in tokio just as well: then they are served by the
//! shared reactor, which has a thread of its own there.)

mod common;

use futures_lite::AsyncWriteExt;
use lexopt::prelude::*;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use wakewheel::reactor::{Backend, Reactor};
use wakewheel::{Async, Signals, timeout};

const USAGE: &str = "guest_in_tokio [ADDRESS] [--idle TIME]";

fn main() -> ExitCode {
    common::main(USAGE, parse, run)
}

struct Args {
    addr: SocketAddr,
    idle_max: Duration,
}

fn run(args: Args) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // poll(2), which the environment may ask for, has no descriptor that a host could wait for.
        let reactor = Reactor::builder().backend(Backend::NATIVE).build()?;
        let handle = reactor.handle();
        let mut driver = tokio::spawn(drive(reactor));
        // A task that is spawned by another one needs a scope of its own.
        let mut server = std::pin::pin!(handle.scope(serve(args, handle.clone())));
        tokio::select! {
            result = &mut server => result,
            // It ends by an error only.
            result = &mut driver => result?,
        }
    })
}

/// The host's part: a turn whenever the descriptor has news, or a timer is due.
async fn drive(reactor: Reactor) -> io::Result<()> {
    let fd = reactor.as_fd().try_clone_to_owned()?;
    // SAFETY: it owns the descriptor, and nobody replaces that.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
    loop {
        // Cleared before the turn: news that come during it are those of the next.
        let news = async { fd.readable().await.map(|mut guard| guard.clear_ready()) };
        match reactor.next_deadline() {
            None => news.await?,
            Some(due) => tokio::time::timeout_at(due.into(), news).await.unwrap_or(Ok(()))?,
        }
        reactor.turn(Some(Duration::ZERO))?;
    }
}

async fn serve(Args { addr, idle_max }: Args, reactor: wakewheel::reactor::Handle) -> io::Result<()> {
    let listener = Async::<TcpListener>::bind(addr)?;
    let mut signals = Signals::shutdown()?;
    println!("listening on {}", listener.get_ref().local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(reactor.scope(echo(stream, idle_max)))),
                // Too many open files, most likely. `accept` has waited before it said so: this does not spin.
                Err(e) => eprintln!("cannot accept: {e}"),
            },
            // An error on a connection ends that one, and is no news.
            Some(_) = connections.join_next() => {}
            signal = signals.next() => {
                signal?;
                break;
            }
        }
    }
    drop(listener);
    // The connections may end in peace.
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(common::DRAIN, all).await.is_err() {
        eprintln!("connections cut off: {}", connections.len());
    }
    Ok(())
}

async fn echo(mut stream: Async<TcpStream>, idle_max: Duration) -> io::Result<()> {
    loop {
        let chunk = timeout(idle_max, stream.read_chunk()).await??;
        if chunk.is_empty() {
            return Ok(());
        }
        timeout(idle_max, stream.write_all(&chunk)).await??;
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let (mut addr, mut idle_max) = (None, Duration::from_secs(60));
    while let Some(arg) = parser.next()? {
        match arg {
            Long("idle") => idle_max = parser.value()?.parse_with(common::duration)?,
            Value(value) if addr.is_none() => addr = Some(value.parse_with(common::addr)?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(Args { addr: addr.unwrap_or(common::ADDR), idle_max })
}
