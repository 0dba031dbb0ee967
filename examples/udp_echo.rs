//! Sends UDP datagrams back to where they came from.
//!
//!     cargo run --release --example udp_echo -- 127.0.0.1:5000
//!     echo hello | nc -u -w1 127.0.0.1 5000

mod common;

use common::Signal;
use futures_lite::FutureExt;
use lexopt::prelude::*;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use wakewheel::io::SocketOptions;
use wakewheel::{Async, LocalExecutor};

/// More than fits into a datagram, so that none is cut short.
const BUFFER_LEN: usize = 64 * 1024;

fn main() -> ExitCode {
    common::main("udp_echo [ADDRESS]", parse, |addr| LocalExecutor::new()?.block_on(run(addr)))
}

async fn run(addr: SocketAddr) -> io::Result<()> {
    let signal = Signal::new()?;
    let socket = SocketOptions::new().bind_udp(addr)?;
    println!("listening on {}", socket.get_ref().local_addr()?);
    // One future is enough. No datagram is left half done when the signal ends it.
    echo(&socket).or(signal.wait()).await
}

async fn echo(socket: &Async<UdpSocket>) -> io::Result<()> {
    let mut buf = vec![0; BUFFER_LEN];
    loop {
        // Its errors are our own: what peers do wrong, the kernel drops.
        let (len, peer) = socket.recv_from(&mut buf).await?;
        if let Err(e) = socket.send_to(&buf[..len], peer).await {
            // A peer can claim to be anybody, whom it may be impossible to reach.
            eprintln!("cannot answer {peer}: {e}");
        }
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<SocketAddr, lexopt::Error> {
    let mut addr = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(value) if addr.is_none() => addr = Some(value.parse_with(common::addr)?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(addr.unwrap_or(common::ADDR))
}
