//! hyper 1 on our streams, timers and executors. (Feature `hyper`.)
//!
//! hyper brings no runtime: it asks for something to read and write, a timer, and an executor. These are
//!
//! | hyper's | here |
//! |---|---|
//! | [`rt::Read`], [`rt::Write`] | [`io::Stream`], `Async<TcpStream>` and `Async<UnixStream>` themselves; [`Io`] around anything with futures-io's traits, such as a stream of TLS |
//! | [`rt::Timer`], [`rt::Sleep`] | [`WheelTimer`] |
//! | [`rt::Executor`] | [`SpawnLocal`], for futures that need not be `Send`; [`CoreHandle`], for those that are |
//!
//! and on them a server, for one core or for each, and a client of one connection: [`serve`], [`Server`],
//! [`connect_http1`], [`connect_http2`]. The rest is hyper's own, and anything else can be built of the parts.
//!
//! # Examples
//!
//! A server on all cores. Neither the service nor the futures that it makes need be `Send`.
//!
//! ```no_run
//! use http_body_util::Full;
//! use hyper::body::{Bytes, Incoming};
//! use hyper::service::service_fn;
//! use hyper::{Request, Response};
//! use std::convert::Infallible;
//! use wakewheel::Cores;
//! use wakewheel::io::SocketOptions;
//!
//! async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     let body = format!("hello, you asked for {}\n", request.uri().path());
//!     Ok(Response::new(body.into()))
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     // Each core has a listener of its own at the same address; its connections inherit the options.
//!     let options = SocketOptions::new().reuse_port().nodelay();
//!     Cores::builder().try_run(async |_core| {
//!         let listener = options.listen(([127, 0, 0, 1], 8000))?;
//!         wakewheel::hyper::serve(listener, service_fn(hello)).await
//!     })?;
//!     Ok(())
//! }
//! ```
//!
//! It ends when [`request_shutdown`](crate::executor::request_shutdown) is called on one of the cores;
//! `examples/hyper_server.rs` does so on a signal.
//!
//! hyper under another executor, on our streams and with our timers:
//!
//! ```
//! use http_body_util::{BodyExt, Empty, Full};
//! use hyper::body::{Bytes, Incoming};
//! use hyper::service::service_fn;
//! use hyper::{Request, Response, client, server};
//! use std::convert::Infallible;
//! use std::os::unix::net::UnixStream;
//! use wakewheel::{Async, hyper::WheelTimer};
//!
//! async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     Ok(Response::new(Full::from("hello")))
//! }
//!
//! // This `block_on` knows nothing of wakewheel.
//! let body = futures_lite::future::block_on(async {
//!     let (ours, theirs) = Async::<UnixStream>::pair()?;
//!     let mut http1 = server::conn::http1::Builder::new();
//!     let server = http1.timer(WheelTimer).serve_connection(ours, service_fn(hello));
//!     let (mut sender, connection) = client::conn::http1::handshake(theirs).await?;
//!     let answer = async {
//!         let request = Request::new(Empty::<Bytes>::new());
//!         let answer = sender.send_request(request).await?;
//!         drop(sender);
//!         answer.into_body().collect().await
//!     };
//!     let both = futures_lite::future::zip(server, connection);
//!     let (answer, _) = futures_lite::future::zip(answer, both).await;
//!     Ok::<_, Box<dyn std::error::Error>>(answer?.to_bytes())
//! });
//! assert_eq!(body.unwrap(), "hello");
//! ```
//!
//! [`rt::Read`]: ::hyper::rt::Read
//! [`rt::Write`]: ::hyper::rt::Write
//! [`rt::Timer`]: ::hyper::rt::Timer
//! [`rt::Sleep`]: ::hyper::rt::Sleep
//! [`rt::Executor`]: ::hyper::rt::Executor
//! [`io::Stream`]: crate::io::Stream
//! [`CoreHandle`]: crate::executor::CoreHandle

mod client;
mod io;
mod rt;
mod server;

pub use client::{connect_http1, connect_http2};
pub use io::{Io, Rewound};
pub use rt::{SpawnLocal, WheelTimer};
pub use server::{Server, serve};

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::iter::successors;

/// hyper's error, as one of the kind that it is, with its causes in the text. It is the [`source`](Error::source) itself.
fn io_error(e: ::hyper::Error) -> std::io::Error {
    let cause = causes(&e).find_map(|cause| cause.downcast_ref::<std::io::Error>());
    let kind = match cause {
        Some(cause) => cause.kind(),
        None if e.is_timeout() => ErrorKind::TimedOut,
        None if e.is_incomplete_message() => ErrorKind::UnexpectedEof,
        None if e.is_parse() => ErrorKind::InvalidData,
        None => ErrorKind::Other,
    };
    std::io::Error::new(kind, HyperError(e))
}

fn causes<'a>(e: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(e.source(), |&cause| cause.source())
}

#[derive(Debug)]
struct HyperError(::hyper::Error);

impl fmt::Display for HyperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        causes(&self.0).try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl Error for HyperError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}
