//! Connections of either kind, TCP or Unix.

use super::connect::connect;
use super::options::{cannot, invalid};
use super::{Addr, Async, Chunk, Kind, Listener, certain, failed, poll_op};
use crate::reactor::{Direction, Seen, Source};
use crate::sys::addr::SockAddr;
use crate::sys::socket;
use futures_io::{AsyncRead, AsyncWrite};
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A connection, over TCP or a Unix socket.
///
/// What is not here is reached by a `match`: `Stream::Tcp(stream) => stream.get_ref().set_nodelay(true)?`.
///
/// `&Stream` can be read and written as well, so that one task reads while another writes. As with [`Async`], one task at
/// a time can wait in each direction for bytes to move.
///
/// # Cancel safety
///
/// All futures here wait first and then do the whole operation in one step. Dropping one before it is ready loses
/// nothing. (One that is made of many operations, like `read_exact` or `write_all`, has done some of them.)
///
/// # Examples
///
/// ```
/// use futures_lite::{AsyncReadExt, AsyncWriteExt};
/// use wakewheel::io::{Listener, Stream};
///
/// wakewheel::block_on(async {
///     let listener = Listener::bind(&"127.0.0.1:0".parse()?)?;
///     let mut client = Stream::connect(&listener.local_addr()?).await?;
///     let (mut server, _) = listener.accept().await?;
///
///     client.write_all(b"hello").await?;
///     client.close().await?;
///     let mut text = String::new();
///     server.read_to_string(&mut text).await?;
///     assert_eq!(text, "hello");
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(Async<TcpStream>),
    /// Over a Unix socket.
    Unix(Async<UnixStream>),
}

/// The same for both.
macro_rules! either {
    ($stream:expr, $io:ident => $op:expr) => {
        match $stream {
            Stream::Tcp($io) => $op,
            Stream::Unix($io) => $op,
        }
    };
}

impl Stream {
    /// Connects to `addr`. With options, see [`SocketOptions::connect`](super::SocketOptions::connect).
    ///
    /// # Errors
    ///
    /// `ConnectionRefused`, `NotFound`, …, with the address in the text. The kernel's error is the
    /// [`source`](std::error::Error::source).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::io::Stream;
    ///
    /// let error = wakewheel::block_on(Stream::connect(&"unix:/no/such/socket".parse()?)).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// assert!(error.to_string().starts_with("cannot connect to unix:/no/such/socket: "));
    /// # std::io::Result::Ok(())
    /// ```
    pub async fn connect(addr: &Addr) -> io::Result<Stream> {
        let connecting = async {
            match addr {
                Addr::Tcp(addr) => Async::<TcpStream>::connect(*addr).await.map(Stream::Tcp),
                Addr::Unix(addr) => {
                    let fd = socket::new(libc::AF_UNIX, libc::SOCK_STREAM)?;
                    let attempt = |fd: BorrowedFd<'_>| socket::connect(fd, &SockAddr::from_unix(addr));
                    connect(fd, attempt, Kind::Socket).await.map(Stream::Unix)
                }
            }
        };
        connecting.await.map_err(|e| cannot("connect to", addr, e))
    }

    /// The address of this side.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<Addr> {
        either!(self, io => io.get_ref().local_addr().map(Addr::from))
    }

    /// The address of the other side. Clients of a Unix listener have none, as a rule: it is the unnamed one.
    ///
    /// # Errors
    ///
    /// `NotConnected`, if the peer has reset the connection.
    pub fn peer_addr(&self) -> io::Result<Addr> {
        either!(self, io => io.get_ref().peer_addr().map(Addr::from))
    }

    #[inline(always)]
    fn source(&self) -> (&Arc<Source>, Kind) {
        either!(self, io => (&io.source, io.kind))
    }

    /// Waits until it is readable, as the kernel sees it: data, the end, or an error. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// If its reactor has stopped and it cannot be registered with another.
    pub async fn readable(&self) -> io::Result<()> {
        either!(self, io => io.readable().await)
    }

    /// Waits until it is writable, as the kernel sees it. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// If its reactor has stopped and it cannot be registered with another.
    pub async fn writable(&self) -> io::Result<()> {
        either!(self, io => io.writable().await)
    }

    /// Waits until the peer has hung up, or has shut down its writing side, without reading anything: what it sent
    /// before can still be read. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// If its reactor has stopped and it cannot be registered with another.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::{FutureExt, future};
    /// use wakewheel::{Async, io::Stream};
    ///
    /// /// Computes an answer for as long as the client is there to hear it.
    /// async fn answer(client: &Stream) -> std::io::Result<Option<u64>> {
    ///     let compute = async { future::pending().await };
    ///     let gone = async { client.closed().await.map(|()| None) };
    ///     compute.or(gone).await
    /// }
    ///
    /// wakewheel::block_on(async {
    ///     let (a, b) = Async::<std::os::unix::net::UnixStream>::pair()?;
    ///     drop(b);
    ///     assert_eq!(answer(&a.into()).await?, None);
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub async fn closed(&self) -> io::Result<()> {
        either!(self, io => io.closed().await)
    }

    /// Waits until there is something to read, and reads up to 64 KiB into a buffer lent by the thread: a task that
    /// waits here holds none. The chunk is empty at the end of the stream.
    ///
    /// As with [`poll_read`](AsyncRead::poll_read), one task at a time can wait.
    ///
    /// # Errors
    ///
    /// Those of reading.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::AsyncWriteExt;
    /// use wakewheel::io::Stream;
    ///
    /// async fn echo(mut stream: Stream) -> std::io::Result<()> {
    ///     loop {
    ///         let chunk = stream.read_chunk().await?;
    ///         if chunk.is_empty() {
    ///             return Ok(());
    ///         }
    ///         stream.write_all(&chunk).await?;
    ///     }
    /// }
    /// ```
    pub fn read_chunk(&self) -> impl Future<Output = io::Result<Chunk>> {
        poll_fn(|cx| self.poll_read_chunk(cx))
    }

    /// See [`read_chunk`](Stream::read_chunk).
    ///
    /// # Errors
    ///
    /// Those of reading.
    #[inline(always)]
    pub fn poll_read_chunk(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        either!(self, io => io.poll_read_chunk(cx))
    }

    /// Reads what has come; and if that was all, the task waits for more in the same step. Zero bytes are the end of the
    /// stream.
    ///
    /// For futures that are polled by hand and live on what they are sent: one that has been told that it
    /// [waits](ReadAndWait::waits), and has dealt with what it has read, returns [`Poll::Pending`] without another look.
    /// Where it does not, [`poll_read`](AsyncRead::poll_read) sees to the rest, which also lets others have a turn: this one asks
    /// for nothing of the cooperative budget. As with `poll_read`, one task at a time can wait.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing is known to have come; nobody is woken for what comes then. And
    /// those of reading.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::{AsyncRead, AsyncWriteExt};
    /// use std::task::{Context, Poll, ready};
    /// use std::{future::poll_fn, io, pin::Pin};
    /// use wakewheel::{Async, io::Stream};
    ///
    /// /// Adds up all bytes that come.
    /// fn poll_sum(stream: &Stream, cx: &mut Context<'_>, sum: &mut u32) -> Poll<io::Result<()>> {
    ///     let mut buf = [0; 1024];
    ///     let mut waits = false;
    ///     while !waits {
    ///         let len;
    ///         (len, waits) = match stream.try_read_and_wait(cx, &mut buf) {
    ///             Ok(read) => (read.len, read.waits),
    ///             Err(_) => (ready!(Pin::new(&mut &*stream).poll_read(cx, &mut buf))?, false),
    ///         };
    ///         if len == 0 {
    ///             return Poll::Ready(Ok(()));
    ///         }
    ///         *sum += buf[..len].iter().copied().map(u32::from).sum::<u32>();
    ///     }
    ///     Poll::Pending
    /// }
    ///
    /// wakewheel::block_on(async {
    ///     let (a, mut b) = Async::<std::os::unix::net::UnixStream>::pair()?;
    ///     let a = Stream::from(a);
    ///     b.write_all(b"hello").await?;
    ///     drop(b);
    ///     let mut sum = 0;
    ///     poll_fn(|cx| poll_sum(&a, cx, &mut sum)).await?;
    ///     assert_eq!(sum, 532);
    ///     io::Result::Ok(())
    /// })?;
    /// # io::Result::Ok(())
    /// ```
    #[inline(always)]
    pub fn try_read_and_wait(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> io::Result<ReadAndWait> {
        let (source, _) = self.source();
        let seen = source.readiness.seen();
        if !seen.is_ready(Direction::Read.interest()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let once = socket::recv_once(&source.fd, buf);
        if let Some(len) = once.some().filter(|&len| len < certain(buf.len()) && seen.trusts_short()) {
            if source.clear_and_wait(Direction::Read, seen, cx) {
                return Ok(ReadAndWait { len, waits: true });
            }
        }
        read_otherwise(source, seen, once).map(|len| ReadAndWait { len, waits: false })
    }

    /// Sends all of `buf` at once, or as much of it as the kernel takes. Nobody is woken when it would take more: the rest is
    /// for [`poll_write`](AsyncWrite::poll_write). Like [`try_read_and_wait`](Stream::try_read_and_wait), it asks for nothing
    /// of the cooperative budget.
    ///
    /// # Errors
    ///
    /// If not all has gone. That is an error of the connection only if [`Unsent::error`] says so.
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::{Async, io::Stream};
    ///
    /// let (a, b) = Async::<std::os::unix::net::UnixStream>::pair()?;
    /// let (a, b) = (Stream::from(a), Stream::from(b));
    /// let full = loop {
    ///     if let Err(unsent) = a.try_write_all(&[0; 1000]) {
    ///         break unsent;
    ///     }
    /// };
    /// assert!(full.sent < 1000 && full.error.is_none());
    ///
    /// drop(b);
    /// let broken = a.try_write_all(&[0; 1000]).unwrap_err();
    /// assert_eq!(broken.error.unwrap().kind(), std::io::ErrorKind::BrokenPipe);
    /// # std::io::Result::Ok(())
    /// ```
    #[inline(always)]
    pub fn try_write_all(&self, buf: &[u8]) -> Result<(), Unsent> {
        let (source, _) = self.source();
        let seen = source.readiness.seen();
        let once = socket::send_once(&source.fd, buf);
        if once.is(buf.len()) { Ok(()) } else { Err(unsent(source, seen, once, buf.len())) }
    }

    /// Ends one direction or both. After `Shutdown::Write` the peer reads to the end, and can still send.
    ///
    /// # Errors
    ///
    /// `NotConnected`, if the peer has reset the connection.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        either!(self, io => io.get_ref().shutdown(how))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, io => io.as_fd())
    }
}

impl AsyncRead for &Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        either!(*self, io => Pin::new(&mut &*io).poll_read(cx, buf))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(*self, io => Pin::new(&mut &*io).poll_read_vectored(cx, bufs))
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_read_vectored(cx, bufs)
    }
}

/// [`poll_close`](AsyncWrite::poll_close) shuts down the writing side: the peer reads to the end, and can still send.
/// (That of [`Async`] only flushes.)
impl AsyncWrite for &Stream {
    #[inline(always)]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // As `Async` does, but for std's function around the call, which the compiler cannot see into.
        let (source, kind) = self.source();
        let op = || socket::send(source.fd, buf);
        poll_op(source, kind, Direction::Write, cx, op, |&n| n >= certain(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(*self, io => Pin::new(&mut &*io).poll_write_vectored(cx, bufs))
    }

    /// Every write has gone to the kernel already.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(ended(self.shutdown(Shutdown::Write)))
    }
}

/// [`poll_close`](AsyncWrite::poll_close) shuts down the writing side: the peer reads to the end, and can still send.
/// (That of [`Async`] only flushes.)
impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_close(cx)
    }
}

/// How the end of the writing side has gone: a peer that was faster is no error.
pub(crate) fn ended(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

/// What [`Stream::try_read_and_wait`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadAndWait {
    /// So many bytes are in the buffer.
    pub len: usize,
    /// There were no more, and the task will be woken when there are.
    pub waits: bool,
}

/// A read that does not wait for more.
#[inline(never)]
fn read_otherwise(source: &Source, seen: Seen, once: socket::Once) -> io::Result<usize> {
    match once.result() {
        Ok(len) => Ok(len),
        Err(e) => {
            // Interrupted, it may be tried again.
            failed(source, Direction::Read, seen, e)?;
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}

/// Why [`Stream::try_write_all`] has not sent everything.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unsent {
    /// So many bytes have gone.
    pub sent: usize,
    /// What is wrong with the connection. `None`: the kernel has no room for more now.
    pub error: Option<io::Error>,
}

/// A write that has not moved all of `len` bytes.
#[cold]
#[inline(never)]
fn unsent(source: &Source, seen: Seen, once: socket::Once, len: usize) -> Unsent {
    match once.result() {
        Ok(sent) => {
            if sent < certain(len) && seen.trusts_short() {
                source.readiness.clear(Direction::Write.interest(), seen);
            }
            Unsent { sent, error: None }
        }
        Err(e) => Unsent { sent: 0, error: failed(source, Direction::Write, seen, e).err() },
    }
}

/// There and back.
macro_rules! conversions {
    ($($either:ident::$kind:ident($io:ident)),* $(,)?) => { $(
        impl From<Async<$io>> for $either {
            fn from(io: Async<$io>) -> $either {
                $either::$kind(io)
            }
        }

        /// `InvalidInput` if it is of the other kind, and then it is closed; a `match` keeps it.
        impl TryFrom<$either> for Async<$io> {
            type Error = io::Error;

            fn try_from(either: $either) -> io::Result<Async<$io>> {
                match either {
                    $either::$kind(io) => Ok(io),
                    other => Err(invalid(format!("not a {}: {other:?}", stringify!($io)))),
                }
            }
        }
    )* };
}

conversions!(
    Stream::Tcp(TcpStream),
    Stream::Unix(UnixStream),
    Listener::Tcp(TcpListener),
    Listener::Unix(UnixListener)
);
