//! Passes connections on to another server, over TCP or Unix sockets on either side.
//!
//!     cargo run --release --example proxy -- tcp://127.0.0.1:5000 127.0.0.1:6000 --loops 2
//!     cargo run --release --example proxy -- unix:///tmp/front.sock unix:/tmp/back.sock --idle 30s
//!
//! Callbacks accept the connections, and spread them over the loops. Then each is detached, and a task on its loop
//! copies both ways: a slow reader on one side slows down the writer on the other, and no buffer grows.

mod common;

use common::Signal;
use futures_lite::{AsyncWriteExt, FutureExt, future};
use lexopt::prelude::*;
use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wakewheel::evio::{Action, Builder, DetachedStream, Events};
use wakewheel::io::{Addr, Stream};
use wakewheel::{Timer, spawn_local, timeout};

const USAGE: &str = "proxy ADDRESS UPSTREAM [--loops N] [--idle TIME]\n\
                     UPSTREAM: IP:PORT | unix:PATH | unix:@NAME";

/// How long the upstream may take to accept.
const CONNECT_MAX: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    common::main(USAGE, parse, run)
}

struct Args {
    addr: String,
    upstream: Addr,
    idle_max: Duration,
    builder: Builder<()>,
}

/// What the loops share.
struct Proxy {
    upstream: Addr,
    /// How long a connection may have nothing to pass on, in either direction.
    idle_max: Duration,
    connections: AtomicU64,
    failed: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

fn run(Args { addr, upstream, idle_max, builder }: Args) -> io::Result<()> {
    let signal = Signal::new()?;
    let proxy = Arc::new(Proxy {
        upstream,
        idle_max,
        connections: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        bytes_up: AtomicU64::new(0),
        bytes_down: AtomicU64::new(0),
    });
    let for_tasks = proxy.clone();
    let events = Events::new()
        .serving(move |server| {
            for addr in server.addrs() {
                println!("listening on {addr}");
            }
            spawn_local(signal.clone().stop(server.clone())).detach();
            Action::None
        })
        // Before anything is read: the callbacks have no use for it.
        .opened(|_| Action::Detach.into())
        .detached(move |_, client| {
            spawn_local(for_tasks.clone().serve(client)).detach();
            Action::None
        });
    // A stopped server waits so long for the tasks. Those that are not done then are dropped, with their connections.
    builder.shutdown_grace(common::DRAIN).serve(events, [addr])?;
    println!(
        "{} connections, {} failed; {} bytes to the upstream, {} bytes back",
        proxy.connections.load(Relaxed),
        proxy.failed.load(Relaxed),
        proxy.bytes_up.load(Relaxed),
        proxy.bytes_down.load(Relaxed)
    );
    Ok(())
}

impl Proxy {
    /// One client, from its beginning to its end.
    async fn serve(self: Arc<Proxy>, client: DetachedStream) {
        self.connections.fetch_add(1, Relaxed);
        let peer = client.peer_addr();
        if let Err(e) = self.relay(client).await {
            self.failed.fetch_add(1, Relaxed);
            match peer {
                Ok(peer) => eprintln!("{peer}: {e}"),
                // It has gone before it could be served.
                Err(_) => eprintln!("a client: {e}"),
            }
        }
    }

    /// Copies both ways until both have ended. An error of one ends the other, too: both streams are dropped, and so
    /// closed.
    async fn relay(&self, client: DetachedStream) -> io::Result<()> {
        let upstream = self.connect().await?;
        let Ok((client, received)) = client.into_parts() else {
            return Err(io::Error::new(ErrorKind::Unsupported, "there is a filter around the connection"));
        };
        let last = Cell::new(Instant::now());
        let up = async {
            // What the callbacks have received, and left. (Here nothing, since they detach it before they read.)
            self.send(&received, &upstream, &last, &self.bytes_up).await?;
            self.copy(&client, &upstream, &last, &self.bytes_up).await
        };
        let down = self.copy(&upstream, &client, &last, &self.bytes_down);
        // One limit for both: who only downloads is silent in the other direction, and not idle.
        let idle = async {
            while let Some(left) = self.idle_max.checked_sub(last.get().elapsed()) {
                Timer::after(left).await;
            }
            Err(io::Error::new(ErrorKind::TimedOut, format!("idle for {:?}", self.idle_max)))
        };
        future::try_zip(up, down).or(idle).await?;
        Ok(())
    }

    async fn connect(&self) -> io::Result<Stream> {
        let Ok(connected) = timeout(CONNECT_MAX, Stream::connect(&self.upstream)).await else {
            let text = format!("cannot connect to {}: no answer within {CONNECT_MAX:?}", self.upstream);
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        };
        let upstream = connected?;
        if let Stream::Tcp(stream) = &upstream {
            // The client decides what is sent together. The proxy does not wait for more.
            stream.get_ref().set_nodelay(true)?;
        }
        Ok(upstream)
    }

    /// One direction, to its end, which is passed on. The other direction goes on.
    async fn copy(
        &self,
        from: &Stream,
        to: &Stream,
        last: &Cell<Instant>,
        count: &AtomicU64,
    ) -> io::Result<()> {
        loop {
            // This lends a buffer when there is something to read: a connection that waits has none.
            let chunk = from.read_chunk().await?;
            if chunk.is_empty() {
                return to.shutdown(Shutdown::Write);
            }
            self.send(&chunk, to, last, count).await?;
        }
    }

    /// Sends all of `bytes`, as fast as they are taken. Each step is a sign of life.
    async fn send(
        &self,
        mut bytes: &[u8],
        mut to: &Stream,
        last: &Cell<Instant>,
        count: &AtomicU64,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = to.write(bytes).await?;
            bytes = &bytes[sent..];
            count.fetch_add(sent as u64, Relaxed);
            last.set(Instant::now());
        }
        Ok(())
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let (mut addr, mut upstream) = (None, None);
    let (mut builder, mut idle_max) = (Builder::new(), Duration::from_secs(300));
    while let Some(arg) = parser.next()? {
        match arg {
            Long("loops") => builder = builder.loops(parser.value()?.parse::<isize>()?),
            Long("idle") => idle_max = parser.value()?.parse_with(common::duration)?,
            Value(value) if addr.is_none() => addr = Some(value.string()?),
            Value(value) if upstream.is_none() => upstream = Some(value.parse()?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(Args {
        addr: addr.ok_or("where shall it listen?")?,
        upstream: upstream.ok_or("what is the upstream?")?,
        idle_max,
        builder,
    })
}
