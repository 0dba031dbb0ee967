//! Echoes what its TCP clients send, with an executor per core.
//!
//!     cargo run --release --example echo -- 127.0.0.1:5000 --cores 2 --pinned
//!
//! Each core has a listener of its own at the same address, and the kernel shares out the connections, which then stay
//! where they are: no core waits for another. (So it is on Linux, Android, FreeBSD and DragonFly. Elsewhere, one of the
//! listeners gets them all.)

mod common;

use common::Signal;
use futures_lite::{AsyncWriteExt, FutureExt};
use lexopt::prelude::*;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Mutex;
use wakewheel::executor::{CoresBuilder, drain, shutdown_requested};
use wakewheel::io::SocketOptions;
use wakewheel::{Async, Cores, spawn_local};

const USAGE: &str = "echo [ADDRESS] [--cores N] [--pinned] [--busy-poll TIME] [--backend epoll|kqueue|poll]";

fn main() -> ExitCode {
    common::main(USAGE, parse, run)
}

struct Args {
    addr: SocketAddr,
    builder: CoresBuilder,
}

fn run(Args { addr, builder }: Args) -> io::Result<()> {
    // What is set on a listener is inherited by its connections.
    let mut options = SocketOptions::new().backlog(4096).nodelay();
    if builder.count() > 1 {
        options = options.reuse_port();
    }
    let (addr, signal) = (Mutex::new(addr), Signal::new()?);
    // A core that cannot listen ends the others as well.
    builder.try_run(|core| serve(core, &options, &addr, &signal))?;
    Ok(())
}

/// One core, from its beginning to its end.
async fn serve(
    core: usize,
    options: &SocketOptions,
    addr: &Mutex<SocketAddr>,
    signal: &Signal,
) -> io::Result<()> {
    let listener = listen(options, addr)?;
    if core == 0 {
        println!("listening on {}", listener.get_ref().local_addr()?);
    }
    let accepting = spawn_local(accept(listener));
    let another_fails = async {
        shutdown_requested().await;
        Ok(())
    };
    signal.wait().or(another_fails).await?;
    // This closes the listener. The connections may end in peace.
    accepting.cancel();
    match drain(common::DRAIN).await {
        0 => {}
        left => eprintln!("connections cut off on core {core}: {left}"),
    }
    Ok(())
}

/// The first core to come here may choose a port, if `addr` has none. The others take the same.
fn listen(options: &SocketOptions, addr: &Mutex<SocketAddr>) -> io::Result<Async<TcpListener>> {
    let mut addr = addr.lock().expect("no core panics here");
    let listener = options.listen(*addr)?;
    *addr = listener.get_ref().local_addr()?;
    Ok(listener)
}

async fn accept(listener: Async<TcpListener>) {
    loop {
        match listener.accept().await {
            // An error on a connection ends that one, and is no news.
            Ok((stream, _)) => spawn_local(echo(stream)).detach(),
            // Too many open files, most likely. `accept` has waited before it said so: this does not spin.
            Err(e) => eprintln!("cannot accept: {e}"),
        }
    }
}

async fn echo(mut stream: Async<TcpStream>) -> io::Result<()> {
    loop {
        // The core lends the buffer once there is something to read: a task that waits holds none.
        let chunk = stream.read_chunk().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        stream.write_all(&chunk).await?;
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let (mut addr, mut builder) = (None, Cores::builder());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("cores") => builder = builder.threads(parser.value()?.parse_with(common::cores)?),
            Long("pinned") => builder = builder.pinned(),
            Long("busy-poll") => builder = builder.busy_poll(parser.value()?.parse_with(common::duration)?),
            Long("backend") => builder = builder.backend(parser.value()?.parse()?),
            Value(value) if addr.is_none() => addr = Some(value.parse_with(common::addr)?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(Args { addr: addr.unwrap_or(common::ADDR), builder })
}
