//! A chat by WebSockets, of async-tungstenite: a message from one client goes to all of them, on all cores.
//!
//!     cargo run --release --example websocket_chat -- 127.0.0.1:5000 --cores 2
//!
//! In a browser's console, in any number of windows:
//!
//! ```js
//! room = new WebSocket("ws://127.0.0.1:5000"); room.onmessage = (message) => console.log(message.data)
//! room.send("hello")
//! ```
//!
//! The messages go through one queue, in which each client has a place of its own. It is bounded, and nobody waits for a
//! slow client: the oldest messages go when new ones come, and who has not read them yet is told how many he has missed.

mod common;

use async_broadcast::{InactiveReceiver, Receiver, RecvError, Sender, broadcast};
use async_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode};
use async_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use async_tungstenite::{WebSocketReceiver, WebSocketSender, accept_async_with_config};
use common::Signal;
use futures_lite::{FutureExt, StreamExt};
use lexopt::prelude::*;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;
use wakewheel::executor::{CoresBuilder, drain, shutdown_requested, yield_now};
use wakewheel::io::SocketOptions;
use wakewheel::{Async, Cores, spawn_local, timeout};

/// Messages that a client may be behind the others.
const MESSAGES_MAX: usize = 1024;

/// Bytes of a message. Who sends a longer one is not here to chat, and is shown out.
const MESSAGE_LEN_MAX: usize = 4096;

/// A client may take so long for the handshake, and to read what it is sent.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    common::main("websocket_chat [ADDRESS] [--cores N]", parse, |(addr, builder)| run(addr, builder))
}

/// What the cores share.
#[derive(Clone)]
struct Room {
    say: Sender<Utf8Bytes>,
    hear: InactiveReceiver<Utf8Bytes>,
}

fn run(addr: SocketAddr, builder: CoresBuilder) -> io::Result<()> {
    let (mut say, hear) = broadcast(MESSAGES_MAX);
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

/// One client, until it closes the WebSocket, breaks off, or talks too long.
async fn client(stream: Async<TcpStream>, name: SocketAddr, room: Room) {
    let messages = room.hear.activate_cloned();
    match chat(stream, name, &room.say, messages).await {
        Ok(()) | Err(Error::ConnectionClosed) => {}
        Err(e) => eprintln!("{name}: {e}"),
    }
}

async fn chat(
    stream: Async<TcpStream>,
    name: SocketAddr,
    say: &Sender<Utf8Bytes>,
    messages: Receiver<Utf8Bytes>,
) -> Result<(), Error> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LEN_MAX))
        .max_frame_size(Some(MESSAGE_LEN_MAX));
    let (mut sender, mut receiver) = limited(accept_async_with_config(stream, Some(config))).await?.split();
    let end = talk(&mut receiver, name, say).or(hear(&mut sender, messages)).await;
    let (code, reason) = match &end {
        Ok(End::Left) => return Ok(()),
        Ok(End::Closed) => (CloseCode::Away, "the room closes"),
        Err(Error::Capacity(_)) => (CloseCode::Size, "message too long"),
        Err(_) => return end.map(drop),
    };
    limited(sender.close(Some(CloseFrame { code, reason: reason.into() }))).await?;
    // Until the client says that it has heard this.
    limited(async {
        while let Some(Ok(_)) = receiver.next().await {}
        Ok(())
    })
    .await?;
    end.map(drop)
}

/// Why a chat has ended.
enum End {
    /// The client has closed the WebSocket.
    Left,
    /// Nobody can say anything any more.
    Closed,
}

/// What the client says goes to the room.
async fn talk(
    receiver: &mut WebSocketReceiver<Async<TcpStream>>,
    name: SocketAddr,
    say: &Sender<Utf8Bytes>,
) -> Result<End, Error> {
    // tungstenite answers pings, and the end, when it is asked for the next message.
    while let Some(message) = receiver.next().await {
        if let Message::Text(text) = message? {
            // It may be going to other people's terminals.
            let text: String = text.chars().filter(|c| !c.is_control()).collect();
            // This fails only when the room has closed.
            let _ = say.try_broadcast(format!("{name}: {text}").into());
            // Who says much lets the others keep up.
            yield_now().await;
        }
    }
    Ok(End::Left)
}

/// What the room says goes to the client.
async fn hear(
    sender: &mut WebSocketSender<Async<TcpStream>>,
    mut messages: Receiver<Utf8Bytes>,
) -> Result<End, Error> {
    loop {
        let text = match messages.recv_direct().await {
            Ok(text) => text,
            Err(RecvError::Overflowed(missed)) => format!("({missed} messages missed)").into(),
            Err(RecvError::Closed) => return Ok(End::Closed),
        };
        limited(sender.send(Message::Text(text))).await?;
    }
}

/// The output of `future`, if it does not take too long.
async fn limited<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(PATIENCE, future).await.map_err(io::Error::from)?
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
