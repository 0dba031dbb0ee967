//! A server on the current core: it accepts, finds out the version of HTTP, and comes to an end without haste.

use super::{Rewound, SpawnLocal, WheelTimer, io_error};
use crate::Task;
use crate::executor::{shutdown_requested, spawn_local, wake_all};
use crate::io::{Addr, Listener, Stream, never_again};
use crate::time::timeout;
use ::hyper::body::{Body, Incoming};
use ::hyper::rt::{Read, ReadBuf, Write};
use ::hyper::server::conn::{http1, http2};
use ::hyper::service::Service;
use ::hyper::{Request, Response};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn, ready};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Serves HTTP/1 and HTTP/2 on `listener`, on the current core, until the core is
/// [asked to end](crate::executor::shutdown_requested): [`Server::serve`] without choices.
///
/// # Errors
///
/// Those of [`Server::serve`].
///
/// # Cancel safety
///
/// When it is dropped, so are the listener and its connections.
///
/// # Panics
///
/// Outside of a [`LocalExecutor`](crate::LocalExecutor) and of [`Cores`](crate::Cores).
///
/// # Examples
///
/// See [the module](super).
pub async fn serve<S, B>(listener: impl Into<Listener>, service: S) -> io::Result<usize>
where
    S: Service<Request<Incoming>, Response = Response<B>> + 'static,
    S::Future: 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    Server::new().serve(listener, service).await
}

/// Choices for a server, which then [serves](Server::serve) on as many cores as it is used on.
///
/// # Examples
///
/// ```no_run
/// use http_body_util::Full;
/// use hyper::body::{Bytes, Incoming};
/// use hyper::service::service_fn;
/// use hyper::{Request, Response};
/// use std::{convert::Infallible, time::Duration};
/// use wakewheel::{Cores, hyper::Server, io::SocketOptions};
///
/// async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
///     Ok(Response::new(Full::from("hello\n")))
/// }
///
/// let server = Server::new()
///     .http1(|http1| http1.header_read_timeout(Duration::from_secs(10)))
///     .http2(|http2| http2.max_concurrent_streams(100))
///     .on_error(|peer, e| match peer {
///         Some(peer) => eprintln!("{peer}: {e}"),
///         None => eprintln!("cannot accept: {e}"),
///     });
/// let options = SocketOptions::new().reuse_port().nodelay();
/// Cores::builder().try_run(async |_core| {
///     server.serve(options.listen(([127, 0, 0, 1], 8000))?, service_fn(hello)).await
/// })?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct Server {
    http1: http1::Builder,
    http2: http2::Builder<SpawnLocal>,
    /// `None`: both.
    only: Option<Version>,
    start_limit: Duration,
    grace: Duration,
    on_error: Arc<OnError>,
}

type OnError = dyn Fn(Option<&Addr>, io::Error) + Send + Sync;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

impl Server {
    /// A server with hyper's choices for each version of HTTP, and a [`WheelTimer`].
    pub fn new() -> Server {
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(SpawnLocal));
        http1.timer(WheelTimer);
        http2.timer(WheelTimer);
        Server {
            http1,
            http2,
            only: None,
            start_limit: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            on_error: Arc::new(|_, _| {}),
        }
    }

    /// Choices for HTTP/1: those of hyper's builder, which `choose` is given. The time-out for the head of a request is 30
    /// seconds, unless chosen; an idle connection is closed when it has passed, too.
    pub fn http1(mut self, choose: impl FnOnce(&mut http1::Builder) -> &mut http1::Builder) -> Server {
        choose(&mut self.http1);
        self
    }

    /// Choices for HTTP/2: those of hyper's builder, which `choose` is given. An idle connection stays, unless
    /// [`keep_alive_interval`](http2::Builder::keep_alive_interval) has it asked whether its peer is still there.
    pub fn http2(
        mut self,
        choose: impl FnOnce(&mut http2::Builder<SpawnLocal>) -> &mut http2::Builder<SpawnLocal>,
    ) -> Server {
        choose(&mut self.http2);
        self
    }

    /// Speaks HTTP/1 only. hyper reads the connection from its first byte, and is given the stream itself instead of a
    /// [`Rewound`] one.
    pub fn http1_only(mut self) -> Server {
        self.only = Some(Version::Http1);
        self
    }

    /// Speaks HTTP/2 only.
    pub fn http2_only(mut self) -> Server {
        self.only = Some(Version::Http2);
        self
    }

    /// How long it may take from the accept until the version of HTTP is known, with what [`serve_with`](Server::serve_with)
    /// is given to do before. 30 seconds, if nothing else is said.
    pub fn start_limit(mut self, limit: Duration) -> Server {
        self.start_limit = limit;
        self
    }

    /// How long connections may go on when the core has been asked to end. 10 seconds, if nothing else is said.
    pub fn grace(mut self, grace: Duration) -> Server {
        self.grace = grace;
        self
    }

    /// Calls `hook` with each error of a connection, and its peer; and with each of accepting, which has no peer. A
    /// time-out, that of an idle connection too, is of kind [`TimedOut`](io::ErrorKind::TimedOut). Errors are no news, if
    /// nothing else is said.
    pub fn on_error(mut self, hook: impl Fn(Option<&Addr>, io::Error) + Send + Sync + 'static) -> Server {
        self.on_error = Arc::new(hook);
        self
    }

    /// Serves the connections of `listener` on the current core, each as a task, until the core is
    /// [asked to end](crate::executor::shutdown_requested). Then the listener is closed; requests that are being answered
    /// have [so long](Server::grace) to come to their end, and idle connections are closed at once. Returns how
    /// many connections had to be cut off.
    ///
    /// HTTP/2 is recognised by its preface, with which a client begins that knows that the server speaks it
    /// (`curl --http2-prior-knowledge`), or that has agreed on it by TLS.
    ///
    /// A panic in `service` ends its connection, or its stream of HTTP/2. A connection that was upgraded, to a WebSocket for
    /// example, is that of whoever took it, and is not waited for.
    ///
    /// # Errors
    ///
    /// If the listener can never accept again, because somebody closed its descriptor, after the connections have ended as
    /// above. Other errors of accepting go to the [hook](Server::on_error).
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, so are the listener and its connections.
    ///
    /// # Panics
    ///
    /// Outside of a [`LocalExecutor`](crate::LocalExecutor) and of [`Cores`](crate::Cores).
    pub async fn serve<S, B>(&self, listener: impl Into<Listener>, service: S) -> io::Result<usize>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + 'static,
        S::Future: 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let service = Rc::new(service);
        self.serve_with(listener, move |stream, _| ready(Ok((stream, service.clone())))).await
    }

    /// [`serve`](Server::serve), where `start` has the connection first: for a handshake of TLS, for a service that knows
    /// its peer, or to refuse it by an error.
    ///
    /// # Errors
    ///
    /// Those of [`serve`](Server::serve). What `start` says ends the connection, and goes to the [hook](Server::on_error).
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, so are the listener and its connections.
    ///
    /// # Panics
    ///
    /// Outside of a [`LocalExecutor`](crate::LocalExecutor) and of [`Cores`](crate::Cores).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use futures_rustls::TlsAcceptor;
    /// use http_body_util::Full;
    /// use hyper::{Response, body::Bytes, service::service_fn};
    /// use std::{convert::Infallible, io};
    /// use wakewheel::hyper::{Io, Server};
    /// use wakewheel::io::{Addr, Listener};
    ///
    /// /// Tells its clients who they are.
    /// async fn serve(listener: Listener, tls: TlsAcceptor) -> io::Result<usize> {
    ///     let start = |stream, peer: Addr| {
    ///         let accepting = tls.accept(stream);
    ///         async move {
    ///             let service = service_fn(move |_| {
    ///                 let body = Full::new(Bytes::from(format!("{peer}\n")));
    ///                 async { Ok::<_, Infallible>(Response::new(body)) }
    ///             });
    ///             Ok((Io::new(accepting.await?), service))
    ///         }
    ///     };
    ///     Server::new().serve_with(listener, start).await
    /// }
    /// ```
    pub async fn serve_with<F, T, S, B>(
        &self,
        listener: impl Into<Listener>,
        mut start: impl FnMut(Stream, Addr) -> F,
    ) -> io::Result<usize>
    where
        F: Future<Output = io::Result<(T, S)>> + 'static,
        T: Read + Write + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + 'static,
        S::Future: 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let listener = listener.into();
        let (server, connections) = (Rc::new(self.clone()), Connections::default());
        let mut stop = pin!(shutdown_requested());
        let end = loop {
            let mut accepting = pin!(listener.accept());
            let accepted = poll_fn(|cx| match stop.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => accepting.as_mut().poll(cx).map(Some),
            });
            match accepted.await {
                Some(Ok((stream, peer))) => {
                    let (start, state) = (start(stream, peer.clone()), connections.state.clone());
                    let server = server.clone();
                    connections.spawn(async move {
                        if let Err(e) = server.connection(start, &state).await {
                            (server.on_error)(Some(&peer), e);
                        }
                    });
                }
                // Too many open files, most likely. `accept` has waited before it said so: this does not spin.
                Some(Err(e)) if !never_again(&e) => (self.on_error)(None, e),
                Some(Err(e)) => break Err(e),
                None => break Ok(()),
            }
        };
        drop(listener);
        connections.close();
        let left = match timeout(self.grace, connections.ended()).await {
            Ok(()) => 0,
            Err(_) => connections.count(),
        };
        end.map(|()| left)
    }

    /// One connection, from its beginning to its end.
    async fn connection<T, S, B>(
        &self,
        start: impl Future<Output = io::Result<(T, S)>>,
        state: &State,
    ) -> io::Result<()>
    where
        T: Read + Write + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + 'static,
        S::Future: 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let starting = timeout(self.start_limit, async {
            let (mut io, service) = start.await?;
            let (version, first) = match self.only {
                Some(version) => (version, Vec::new()),
                None => detect(&mut io).await?,
            };
            io::Result::Ok((io, service, version, first))
        });
        // Nobody has asked for anything yet.
        let Some(started) = state.unless_closing(starting).await else { return Ok(()) };
        let (io, service, version, first) = started??;
        if self.only == Some(Version::Http1) {
            // The same as below, but for the type of the stream.
            let connection = pin!(self.http1.serve_connection(io, service).with_upgrades());
            return state.drive(connection, |connection| connection.graceful_shutdown()).await;
        }
        let io = Rewound::new(first, io);
        match version {
            Version::Http1 => {
                let connection = pin!(self.http1.serve_connection(io, service).with_upgrades());
                state.drive(connection, |connection| connection.graceful_shutdown()).await
            }
            Version::Http2 => {
                // Boxed: it is more than twice as large, and there are fewer of them.
                let mut connection = Box::pin(self.http2.serve_connection(io, service));
                state.drive(connection.as_mut(), |connection| connection.graceful_shutdown()).await
            }
        }
    }
}

impl Default for Server {
    fn default() -> Server {
        Server::new()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("http1", &self.http1)
            .field("http2", &self.http2)
            .field("only", &self.only)
            .field("start_limit", &self.start_limit)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

// ------------------------------------------------------------------------------------ the version of HTTP

/// With this a client of HTTP/2 begins. No request of HTTP/1 does: `PRI` is no method.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until the version is certain. What was read, it returns as well.
async fn detect<T: Read + Unpin>(io: &mut T) -> io::Result<(Version, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        let before = read.len();
        poll_fn(|cx| poll_read_more(io, cx, &mut read)).await?;
        if read.starts_with(PREFACE) {
            return Ok((Version::Http2, read));
        }
        // At the end of the stream, what there is to say about it is for hyper to say.
        if !PREFACE.starts_with(&read) || read.len() == before {
            return Ok((Version::Http1, read));
        }
    }
}

/// The buffer is not part of the future: a connection that says nothing has none.
fn poll_read_more<T: Read + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    to: &mut Vec<u8>,
) -> Poll<io::Result<()>> {
    // The head of a request, as a rule.
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut buf = ReadBuf::uninit(&mut room);
    let result = Pin::new(io).poll_read(cx, buf.unfilled());
    to.extend_from_slice(buf.filled());
    result
}

// ---------------------------------------------------------------------------------------- the connections

/// The connections of one server on one core. Dropped, it ends them.
#[derive(Default)]
struct Connections {
    state: Rc<State>,
}

/// What the connections share with their server.
#[derive(Default)]
struct State {
    tasks: RefCell<Slab<Task<()>>>,
    closing: Cell<bool>,
    /// Who waits for the last one to end.
    waiter: Cell<Option<Waker>>,
}

impl Connections {
    fn spawn(&self, connection: impl Future<Output = ()> + 'static) {
        let key = self.state.tasks.borrow().vacant_key();
        let place = Place { state: self.state.clone(), key };
        let task = spawn_local(async move {
            let _place = place;
            connection.await;
        });
        // It has not run yet.
        self.state.tasks.borrow_mut().insert(task);
    }

    fn count(&self) -> usize {
        self.state.tasks.borrow().len()
    }

    /// Tells them all, each of which looks at the flag when it is polled.
    fn close(&self) {
        self.state.closing.set(true);
        wake_all();
    }

    async fn ended(&self) {
        poll_fn(|cx| {
            if self.state.tasks.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.state.waiter.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let tasks = self.state.tasks.take();
        drop(tasks);
    }
}

/// A connection's place among the others, given up when its task ends, however it does.
struct Place {
    state: Rc<State>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut tasks = self.state.tasks.borrow_mut();
        let task = tasks.try_remove(self.key);
        let is_last = tasks.is_empty();
        drop(tasks);
        if let Some(task) = task {
            task.detach();
        }
        if is_last {
            if let Some(waiter) = self.state.waiter.take() {
                waiter.wake();
            }
        }
    }
}

impl State {
    /// Gives up on `future` when the server closes.
    async fn unless_closing<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Pending if self.closing.get() => Poll::Ready(None),
            poll => poll.map(Some),
        })
        .await
    }

    /// Runs `connection` to its end, which it is asked to come to when the server closes.
    async fn drive<C>(&self, mut connection: Pin<&mut C>, close: impl Fn(Pin<&mut C>)) -> io::Result<()>
    where
        C: Future<Output = ::hyper::Result<()>>,
    {
        let mut closed = false;
        poll_fn(|cx| {
            // First: what was read to find out the version is hyper's only once it has been polled. Before that, hyper takes
            // the connection for one that has said nothing, and closes it.
            let polled = connection.as_mut().poll(cx);
            if polled.is_ready() || closed || !self.closing.get() {
                return polled;
            }
            closed = true;
            close(connection.as_mut());
            connection.as_mut().poll(cx)
        })
        .await
        .map_err(io_error)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Async, LocalExecutor};
    use ::hyper::service::service_fn;
    use futures_lite::{AsyncReadExt, future};
    use std::convert::Infallible;
    use std::os::unix::net::UnixStream;

    /// To find out the version, it is read before hyper sees it.
    #[test]
    fn a_request_that_was_read_before_the_end_is_asked_for_is_answered() {
        let (mut client, server) = Async::<UnixStream>::pair().unwrap();
        let answer = LocalExecutor::new().unwrap().block_on(async {
            let state = State::default();
            state.closing.set(true);
            let io = Rewound::new(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), server);
            let service = service_fn(async |_| Ok::<_, Infallible>(Response::new("hello".to_owned())));
            let serve = async {
                let connection = pin!(http1::Builder::new().serve_connection(io, service));
                state.drive(connection, |connection| connection.graceful_shutdown()).await
            };
            let mut answer = String::new();
            let (served, read) = future::zip(serve, client.read_to_string(&mut answer)).await;
            served.unwrap();
            read.unwrap();
            answer
        });
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer:?}");
    }
}
