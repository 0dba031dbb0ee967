//! Echoes what clients of a Unix socket send.
//!
//!     cargo run --release --example unix_echo -- unix:/tmp/echo.sock
//!     nc -U /tmp/echo.sock
//!
//! It takes TCP addresses as well: [`Listener`] and [`Stream`] are over either.

mod common;

use common::Signal;
use futures_lite::AsyncWriteExt;
use lexopt::prelude::*;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::{fs, os::unix::fs::FileTypeExt};
use wakewheel::executor::drain;
use wakewheel::io::{Addr, Listener, Stream};
use wakewheel::{LocalExecutor, spawn_local};

fn main() -> ExitCode {
    common::main("unix_echo [IP:PORT | unix:PATH | unix:@NAME]", parse, |addr| {
        LocalExecutor::new()?.block_on(run(addr))
    })
}

async fn run(addr: Addr) -> io::Result<()> {
    let signal = Signal::new()?;
    let path = match &addr {
        Addr::Unix(addr) => addr.as_pathname(),
        Addr::Tcp(_) => None,
    };
    path.map_or(Ok(()), remove_stale)?;
    let listener = Listener::bind(&addr)?;
    println!("listening on {}", listener.local_addr()?);

    let accepting = spawn_local(accept(listener));
    signal.wait().await?;
    accepting.cancel();
    // Nobody else removes it. If somebody did, the clients still have their time.
    if let Some(Err(e)) = path.map(fs::remove_file) {
        eprintln!("cannot remove {addr}: {e}");
    }
    match drain(common::DRAIN).await {
        0 => {}
        left => eprintln!("connections cut off: {left}"),
    }
    Ok(())
}

/// Removes the socket of a server that could not do so itself. Any other file, and the socket of a server that runs,
/// stays where it is, and is an error for whoever listens there.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_stale = || UnixStream::connect(path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
    match fs::symlink_metadata(path) {
        // The kernel would say that the address is in use, as if a server were there.
        Ok(file) if !file.file_type().is_socket() => {
            let text = format!("{} is not a socket: choose another path", path.display());
            Err(io::Error::new(ErrorKind::AlreadyExists, text))
        }
        Ok(_) if is_stale() => fs::remove_file(path),
        _ => Ok(()),
    }
}

async fn accept(listener: Listener) {
    loop {
        match listener.accept().await {
            // An error on a connection ends that one, and is no news.
            Ok((stream, _)) => spawn_local(echo(stream)).detach(),
            // Too many open files, most likely. `accept` has waited before it said so: this does not spin.
            Err(e) => eprintln!("cannot accept: {e}"),
        }
    }
}

async fn echo(mut stream: Stream) -> io::Result<()> {
    loop {
        let chunk = stream.read_chunk().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        stream.write_all(&chunk).await?;
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Addr, lexopt::Error> {
    let mut addr = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(value) if addr.is_none() => addr = Some(value.parse()?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(addr.unwrap_or(common::ADDR.into()))
}
