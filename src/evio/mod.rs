//! Servers of callbacks: the `Events` of Go's [evio](https://github.com/tidwall/evio), and the way from there to `await`
//! and back.
//!
//! ```no_run
//! use wakewheel::evio::{self, Events, Reply};
//!
//! fn main() -> std::io::Result<()> {
//!     let events = Events::new().data(|_, input| Reply::send(input));
//!     evio::serve(events, ["tcp://127.0.0.1:5000"])
//! }
//! ```
//!
//! A connection is a small task on one of the server's loops, which calls back: [`opened`](Handler::opened) once,
//! [`data`](Handler::data) for what comes, and [`closed`](Handler::closed) or [`detached`](Handler::detached) once. Input is
//! a slice of a buffer that the loop lends; output goes to the kernel at once. A connection that waits has no buffer.
//!
//! | what | how |
//! |---|---|
//! | callbacks without state, or with what `Sync` allows | closures, in [`Events`] |
//! | callbacks with state | a type that is a [`Handler`]: cloned for each loop, or [made there](Builder::serve_with) |
//! | what belongs to a connection | [`conn.context`](Conn::context) |
//! | answering | a [`Reply`], [`conn.out`](Conn::out), or both |
//! | messages that are cut in pieces | [`conn.unread`](Conn::unread), or an [`InputStream`] in the context |
//! | answering later, from another thread | [`conn.handle()`](Conn::handle): [`write`](ConnHandle::write), [`wake`](ConnHandle::wake), [`close`](ConnHandle::close) |
//! | more threads, and which one a connection goes to | [`Events::num_loops`], [`LoadBalance`], `?reuseport=true` in an address |
//! | a connection that needs `await` | [`Action::Detach`], and [`detached`](Handler::detached) gets a [`DetachedStream`] |
//! | and back | [`Server::attach`] |
//! | an address of which all connections do | [`Builder::listen_async`] |
//! | connecting to others | [`Server::dial`] |
//! | TLS, compression | [`Builder::translate`] |
//! | something at intervals | [`tick`](Handler::tick) |
//! | stopping | [`Action::Shutdown`], [`Server::stop`] |
//!
//! # Back-pressure
//!
//! `data` is not called for a connection whose last output waits to be sent: a peer that does not read what it asked for
//! is not read from either. What others write to a [`ConnHandle`] is limited by its [high-water mark](Options::high_water).
//!
//! # The end of a connection
//!
//! [`Action::Close`] sends all output first, then ends this side, and then, for a second at most, throws away what the peer
//! still sends, so that it can read to the end instead of being reset. A peer that does not read the last output has the
//! [linger time](Options::linger). One that has ended its own side (but may still read) is closed as soon as its
//! output has gone, or, if somebody has a handle of it, after the [half-close time](Options::half_close).
//!
//! # From evio
//!
//! What is a callback in evio is one here. Different are: the context is a type of yours; `ReuseInputBuffer` is always on,
//! and safe; `Detached` is given a stream that works with `await` as well as with blocking threads; `Addr`s are those that
//! the kernel has; errors of the loops come out of [`serve`]; and a callback's panic costs its connection only.

pub(crate) mod addr;
mod balance;
mod callback;
mod conn;
mod connection;
mod detached;
mod events;
mod handle;
mod handler;
mod input;
mod serve;
mod server;
mod state;
mod transport;
mod udp;

pub use addr::Addr;
pub use balance::{LoadBalance, Loops};
pub use conn::{Conn, Origin};
pub use detached::{BlockingStream, DetachedStream};
pub use events::Events;
pub use handle::ConnHandle;
pub use handler::{Action, Handler, IntoBytes, Opened, Options, Reply};
pub use input::{Input, InputStream};
pub use serve::{Builder, TickMode, serve};
pub use server::Server;
pub use transport::Duplex;
