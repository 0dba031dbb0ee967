//! Async I/O and timers that work under any executor, and an executor per core.
//!
//! # The idea
//!
//! A future that cannot go on leaves a [`Waker`] with whoever can tell when it could, and is polled again when that waker
//! is called. For sockets and deadlines, this is a **reactor**: it registers each file descriptor once with the kernel,
//! keeps deadlines in a timer **wheel**, waits for the first of all of them, and calls the wakers. That is all that it
//! does. It knows no tasks and no executor, so the futures here can be polled by whatever executor you have, on any thread.
//!
//! What is known of a descriptor is remembered. A read is tried when there is something to read, without asking first;
//! a task that has to wait sets a waker, without a system call. So a message that is echoed costs one read, one write,
//! and a share of one wait.
//!
//! The reactor runs where the tasks run. A core of [`Cores`] has its own, which it turns when it has run all its tasks,
//! and nothing of that is shared with another thread. Everywhere else there is a shared one, turned by a thread that is in
//! [`block_on`], or by one of its own if there is none.
//!
//! # An echo server
//!
//! ```no_run
//! use futures_lite::AsyncWriteExt;
//! use std::io;
//! use std::net::{TcpListener, TcpStream};
//! use wakewheel::{Async, LocalExecutor, spawn_local};
//!
//! async fn echo(mut stream: Async<TcpStream>) -> io::Result<()> {
//!     loop {
//!         match stream.read_chunk().await? {
//!             chunk if chunk.is_empty() => return Ok(()),
//!             chunk => stream.write_all(&chunk).await?,
//!         }
//!     }
//! }
//!
//! fn main() -> io::Result<()> {
//!     LocalExecutor::new()?.block_on(async {
//!         let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 5000))?;
//!         loop {
//!             let (stream, _) = listener.accept().await?;
//!             spawn_local(echo(stream)).detach();
//!         }
//!     })
//! }
//! ```
//!
//! [`read_chunk`](Async::read_chunk) lends a buffer when there is something in it: the task of an idle connection has none.
//! With a buffer of your own, use the `AsyncRead` of [`futures_io`](https://docs.rs/futures-io), which [`Async`] has too.
//! `examples/echo.rs` is the same with a listener per core, options, and a graceful end.
//!
//! # Time
//!
//! ```
//! use std::time::{Duration, Instant};
//! use wakewheel::{block_on, interval, sleep, timeout};
//!
//! block_on(async {
//!     let started = Instant::now();
//!     sleep(Duration::from_millis(5)).await;
//!     assert!(started.elapsed() >= Duration::from_millis(5));
//!
//!     let answer = timeout(Duration::from_millis(5), std::future::pending::<u32>()).await;
//!     assert!(answer.is_err());
//!
//!     let mut ticks = interval(Duration::from_millis(5));
//!     for _ in 0..3 {
//!         ticks.tick().await;
//!     }
//! });
//! ```
//!
//! [`Timer`] can be set again while it runs: to put off an idle time-out with every packet is a store.
//!
//! # Under another executor
//!
//! There is nothing to set up. The first use starts the shared reactor. Tasks are those of the other executor
//! (`tokio::spawn`, not [`spawn`]), and an [`Async`] has the `AsyncRead` and `AsyncWrite` of futures-io, which for
//! tokio's own are translated by `tokio_util::compat`; with the feature `tokio-io`, streams have those as well.
//!
//! ```
//! use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
//! use std::os::unix::net::UnixStream;
//! use wakewheel::Async;
//!
//! // This `block_on` knows nothing of wakewheel.
//! future::block_on(async {
//!     let (mut a, mut b) = Async::<UnixStream>::pair()?;
//!     a.write_all(b"hello").await?;
//!     let mut answer = [0; 5];
//!     b.read_exact(&mut answer).await?;
//!     assert_eq!(&answer, b"hello");
//!     std::io::Result::Ok(())
//! })?;
//! # std::io::Result::Ok(())
//! ```
//!
//! A loop that is not an executor at all, of a GUI or a game, can have a [`Reactor`](reactor::Reactor) that it turns
//! itself.
//!
//! # Cores
//!
//! ```
//! use std::{cell::Cell, rc::Rc};
//! use wakewheel::{Cores, spawn_local};
//!
//! // The same future on each of two threads. It need not be `Send`, and neither do the tasks that it starts.
//! let sums = Cores::builder().threads(2).run(|core| async move {
//!     let sum = Rc::new(Cell::new(core));
//!     let task = spawn_local({
//!         let sum = sum.clone();
//!         async move { sum.set(sum.get() + 10) }
//!     });
//!     task.await.unwrap();
//!     sum.get()
//! })?;
//! assert_eq!(sums, [10, 11]);
//! # std::io::Result::Ok(())
//! ```
//!
//! A task stays on its core. Cores talk by any channel that can wake a task of another thread, and by
//! [starting tasks on each other](executor::CoreHandle::spawn). A [`Cores`] that is built instead of run lives beside
//! other code, and [shuts down](Cores::shutdown) with a time for its tasks to end. Where the future of a core may fail,
//! [`try_run`](executor::CoresBuilder::try_run) ends the others too; they hear of it by
//! [`shutdown_requested`](executor::shutdown_requested).
//!
//! # Callbacks
//!
//! [`evio`] has servers that are callbacks instead of futures, and lets a connection go from one to the other:
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
//! Callbacks that may block, on std's own streams, are for [`dispatch`]: it accepts on one thread and works on others.
//!
//! # Features
//!
//! None is on by default. `hyper` is the module of that name: hyper 1 on our streams, timers and executors, with a server
//! and clients of HTTP/1 and HTTP/2. `tokio-io` gives tokio's `AsyncRead` and `AsyncWrite` to `Async<TcpStream>`,
//! `Async<UnixStream>` and [`io::Stream`]; their `shutdown` with an argument comes before the one of tokio's
//! `AsyncWriteExt`, which is called as `AsyncWriteExt::shutdown(&mut stream)`.
//!
//! # Where to look
//!
//! | | |
//! |---|---|
//! | [`Async`] | any descriptor as futures: TCP, UDP, Unix sockets, pipes, … |
//! | [`io`] | socket options, streams and listeners over TCP or Unix sockets |
//! | [`net`] | host names: looked up without blocking, connected to |
//! | [`process`], [`Signals`], [`ctrl_c`] | children and their pipes; signals |
//! | [`time`] | timers, intervals, limits |
//! | [`evio`] | servers of callbacks |
//! | [`event`] | callbacks for descriptors, timers and signals, in the manner of libevent |
//! | [`dispatch`] | servers of callbacks on threads that may block |
//! | [`executor`] | one future, one thread of tasks, a thread per core; counters, shutdown |
//! | [`reactor`] | a reactor in a loop of yours; which system call it waits in |
//! | [`os`] | the descriptor of the shared reactor; kqueue's signals and exits |
//!
//! # Systems
//!
//! Linux and Android (epoll), macOS, iOS and the BSDs (kqueue), other Unix systems (poll). `WAKEWHEEL_BACKEND=poll` in the
//! environment, or a [builder](executor::CoresBuilder::backend), chooses poll(2) on any of them.
//!
//! [`Waker`]: std::task::Waker
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod dispatch;
pub mod event;
pub mod evio;
pub mod executor;
#[cfg(feature = "hyper")]
#[cfg_attr(docsrs, doc(cfg(feature = "hyper")))]
pub mod hyper;
pub mod io;
pub mod net;
pub mod os;
pub mod process;
pub mod reactor;
mod sync;
mod sys;
pub mod time;
#[cfg(feature = "tokio-io")]
mod tokio_io;

pub use executor::{Cores, JoinError, JoinHandle, LocalExecutor, Task, block_on, spawn, spawn_local};
pub use io::{Async, IoSafe, Readable, ReadableOwned, Signals, Writable, WritableOwned, ctrl_c};
pub use time::{
    Interval, MissedTicks, Timer, interval, interval_at, sleep, sleep_until, timeout, timeout_at,
};

/// So that the examples in it are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
