//! A chat on TCP: a line from one client goes to all of them, on all cores.
//!
//!     cargo run --release --example chat -- 127.0.0.1:5000 --cores 2
//!     nc 127.0.0.1 5000
//!
//! The lines go through one queue, in which each client has a place of its own. It is bounded, and nobody waits for a slow
//! client: the oldest lines go when new ones come, and who has not read them yet is told how many he has missed.

mod common;

use async_broadcast::{InactiveReceiver, Receiver, RecvError, Sender, broadcast};
use common::Signal;
use futures_lite::{AsyncWriteExt, FutureExt};
use lexopt::prelude::*;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use wakewheel::executor::{CoresBuilder, drain, shutdown_requested, yield_now};
use wakewheel::io::SocketOptions;
use wakewheel::{Async, Cores, spawn_local};

/// Lines that a client may be behind the others.
const LINES_MAX: usize = 1024;

/// Bytes of a line. Who sends a longer one is not here to chat, and is shown out.
const LINE_LEN_MAX: usize = 4096;

fn main() -> ExitCode {
    common::main("chat [ADDRESS] [--cores N]", parse, |(addr, builder)| run(addr, builder))
}

/// What the cores share.
#[derive(Clone)]
struct Room {
    say: Sender<Arc<str>>,
    hear: InactiveReceiver<Arc<str>>,
}

fn run(addr: SocketAddr, builder: CoresBuilder) -> io::Result<()> {
    let (mut say, hear) = broadcast(LINES_MAX);
    say.set_overflow(true);
    let room = Room { say, hear: hear.deactivate() };
    let (addr, signal) = (Mutex::new(addr), Signal::new()?);
    // A core that cannot listen ends the others as well.
    builder.try_run(|core| serve(core, &addr, &room, &signal))?;
    Ok(())
}

/// One core, from its beginning to its end.
async fn serve(core: usize, addr: &Mutex<SocketAddr>, room: &Room, signal: &Signal) -> io::Result<()> {
    let listener = listen(addr)?;
    if core == 0 {
        println!("listening on {}", listener.get_ref().local_addr()?);
    }
    let accepting = spawn_local(accept(listener, room.clone()));
    let another_fails = async {
        shutdown_requested().await;
        Ok(())
    };
    signal.wait().or(another_fails).await?;
    accepting.cancel();
    // The clients get what has been said, and then the end.
    room.say.close();
    match drain(common::DRAIN).await {
        0 => {}
        left => eprintln!("clients cut off on core {core}: {left}"),
    }
    Ok(())
}

/// The first core to come here may choose a port, if `addr` has none. The others take the same.
fn listen(addr: &Mutex<SocketAddr>) -> io::Result<Async<TcpListener>> {
    let mut addr = addr.lock().expect("no core panics here");
    let listener = SocketOptions::new().reuse_port().nodelay().listen(*addr)?;
    *addr = listener.get_ref().local_addr()?;
    Ok(listener)
}

async fn accept(listener: Async<TcpListener>, room: Room) {
    loop {
        match listener.accept().await {
            Ok((stream, name)) => spawn_local(client(stream, name, room.clone())).detach(),
            // Too many open files, most likely. `accept` has waited before it said so: this does not spin.
            Err(e) => eprintln!("cannot accept: {e}"),
        }
    }
}

/// One client, until it hangs up, breaks off, or talks too long.
async fn client(stream: Async<TcpStream>, name: SocketAddr, room: Room) {
    let lines = room.hear.activate_cloned();
    if let Err(e) = talk(&stream, name, &room.say).or(hear(&stream, lines)).await {
        eprintln!("{name}: {e}");
    }
}

/// What the client says goes to the room.
async fn talk(stream: &Async<TcpStream>, name: SocketAddr, say: &Sender<Arc<str>>) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        let chunk = stream.read_chunk().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            if line.len() + piece.len() > LINE_LEN_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"));
            }
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") {
                // It is going to other people's terminals.
                let text: String =
                    String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
                // This fails only when the room has closed.
                let _ = say.try_broadcast(format!("{name}: {text}\n").into());
                line.clear();
                // Who says much lets the others keep up.
                yield_now().await;
            }
        }
    }
}

/// What the room says goes to the client.
async fn hear(mut stream: &Async<TcpStream>, mut lines: Receiver<Arc<str>>) -> io::Result<()> {
    loop {
        match lines.recv_direct().await {
            Ok(line) => stream.write_all(line.as_bytes()).await?,
            Err(RecvError::Overflowed(missed)) => {
                stream.write_all(format!("({missed} lines missed)\n").as_bytes()).await?;
            }
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<(SocketAddr, CoresBuilder), lexopt::Error> {
    let (mut addr, mut builder) = (None, Cores::builder());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("cores") => builder = builder.threads(parser.value()?.parse_with(common::cores)?),
            Value(value) if addr.is_none() => addr = Some(value.parse_with(common::addr)?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok((addr.unwrap_or(common::ADDR), builder))
}
