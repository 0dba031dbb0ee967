//! Servers that accept on one thread and work on others, which may block.
//!
//! ```no_run
//! use std::io;
//! use std::net::TcpStream;
//! use wakewheel::dispatch::{Dispatcher, Job};
//!
//! fn main() -> io::Result<()> {
//!     let echo = |job: Job<TcpStream>| {
//!         // This thread has nothing else to do: it may wait for its client.
//!         if let Err(e) = io::copy(&mut &job.socket, &mut &job.socket) {
//!             eprintln!("{}: {e}", job.peer);
//!         }
//!     };
//!     Dispatcher::new(echo).workers(4).serve("tcp://127.0.0.1:5000")
//! }
//! ```
//!
//! One thread accepts, or receives datagrams. It shows each [`Arrival`] to the accept callback, which answers where it
//! goes [`To`], and with which argument; the socket and the argument wait as a [`Job`] in the queue of one of the workers.
//! A worker is a thread that takes one job after the other, and runs the work callback to its end. The socket is std's,
//! and blocking: what is written there needs no `await`, and can use any library.
//!
//! It is meant for few connections that live shortly, or for work that takes long: a connection has a thread as long as it
//! is served. For many that mostly wait, there are [`evio`](crate::evio) and [tasks](crate::Cores).
//!
//! | what | how |
//! |---|---|
//! | what is served | the type of the job: [`TcpStream`](std::net::TcpStream), [`UnixStream`](std::os::unix::net::UnixStream) or [`Datagram`] |
//! | something to go with a connection | [`Dispatcher::with_accept`], and [`job.arg`](Job::arg) |
//! | who is not welcome | [`To::Nobody`] |
//! | a connection for a certain worker | [`To::Worker`] |
//! | threads, and how much may wait | [`Dispatcher::workers`], [`Dispatcher::queue_max`] |
//! | running beside other code | [`Dispatcher::start`] |
//! | stopping | [`Server::stop`], which each callback has, or to drop what `start` returned |
//! | what it does | [`Server::stats`] |
//! | addresses as bytes | [`addr_to_bytes`], [`addr_from_bytes`] |
//!
//! # Whose turn it is
//!
//! The queues are filled round robin; one that is full is passed over. What waits behind a worker that is busy, an idle one
//! takes over, the oldest first. So a worker that blocks delays nobody while another one is idle; without
//! take-over ([`Dispatcher::without_take_over`]), and for jobs that the accept callback has given to a certain
//! [worker](To::Worker), it delays its own queue only. Each queue is served in order.
//!
//! # Back-pressure
//!
//! When all queues are full, nothing is accepted until a worker takes a job: connections wait in the kernel's backlog, and
//! when that is full, their clients wait. Datagrams wait in the socket's buffer, and when that is full, they are lost,
//! as datagrams are.
//!
//! # Failures
//!
//! A callback that panics costs its connection and nothing else: std's panic hook prints it, with the name of the thread
//! (`dispatch-accept`, `dispatch-0`, `dispatch-1` …), it is counted in [`Stats::panicked`], and the thread goes on. An accept that
//! fails is counted in [`Stats::failed`]. If that is because no descriptors are left, it is tried again after 1, 2, 4 …
//! milliseconds, so that the thread does not spin. An address that cannot be bound is an error of `start`.
//!
//! # The end
//!
//! From [`Server::stop`] on nothing is accepted; the listener is closed, and with it what waits in its backlog. What had been
//! accepted is served, also what still waits in a queue; then the workers end. A worker that waits for a client waits
//! as long as ever: give the stream a time-out (`set_read_timeout`), and ask [`Server::is_stopping`].

mod addr_bytes;
mod dispatcher;
mod pool;
mod server;
mod socket;

pub use crate::evio::Addr;
pub use addr_bytes::{ADDR_LEN_V4, ADDR_LEN_V6, addr_from_bytes, addr_to_bytes};
pub use dispatcher::{Arrival, Dispatcher, Job, To};
pub use server::{Running, Server, Stats};
pub use socket::{Datagram, Socket};
