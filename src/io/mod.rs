//! I/O that waits without blocking: [`Async<T>`] around any pollable type, and the socket types built on it.
//!
//! There are two ways to know whether an operation is worth a try. Our own operations on std's sockets are
//! **trusted**: they go by the cached readiness, and touch the kernel only to move bytes. Everything that we cannot
//! see into (what happens through [`get_ref`](Async::get_ref), the closures of [`read_with`](Async::read_with), the
//! `Read` of a type that we do not know) is not: there, each wait asks the kernel once how things stand.
//!
//! On the shared reactor, which is turned by whoever comes by, even a trusted operation is tried when it is polled again while
//! it waits: its task may know more than the reactor. And when it is polled anew, but not where a short one counts as "would
//! block" (TCP, a batch of datagrams), which would cost each message a system call.

mod accept;
mod addr;
mod chunk;
mod connect;
mod kind;
mod listener;
mod operation;
mod options;
mod ready;
mod safe;
mod signals;
mod stream;
mod tcp;
mod udp;
mod uninit;
mod unix;

pub use accept::Accepted;
pub use addr::Addr;
pub use chunk::Chunk;
pub use listener::Listener;
pub(crate) use listener::never_again;
pub use options::{KeepAlive, SocketOptions};
pub use ready::{Closed, Readable, ReadableOwned, Writable, WritableOwned};
pub use safe::IoSafe;
pub use signals::{Signals, ctrl_c};
#[cfg(any(feature = "hyper", feature = "tokio-io"))]
pub(crate) use stream::ended;
pub use stream::{ReadAndWait, Stream, Unsent};
pub use udp::{Datagram, RecvBatch};

use crate::reactor::{Direction, Seen, Source, budget};
use crate::sys::{Ready, socket};
use futures_io::{AsyncRead, AsyncWrite};
use kind::Kind;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Async adapter for a type with a pollable file descriptor.
///
/// It registers the descriptor once with a reactor: the one of the core that it is made on, or else the shared one. It
/// works under any executor and may be polled from any thread; when the reactor goes, it moves to the one of
/// whoever polls it next.
///
/// Several tasks may use one at the same time through `&Async<T>`, or an `Arc` of it. As with any
/// [`poll_read`](AsyncRead::poll_read), one task at a time can wait for each direction by polling: a second one takes
/// the place of the first, which is woken. The async methods and [`readable`](Async::readable),
/// [`writable`](Async::writable) let any number wait.
///
/// # Which types
///
/// Sockets, pipes, terminals, eventfd, timerfd, signalfd, inotify, pidfd: what the kernel can wait for. Not regular
/// files and directories, which it says are always ready.
///
/// # Cancel safety
///
/// All futures here wait first and then do the whole operation in one step. Dropping one before it is ready loses
/// nothing. (One that is made of many operations, like `read_exact` or `write_all` of futures-lite, has done some of them.)
///
/// # Examples
///
/// ```
/// use futures_lite::{AsyncReadExt, AsyncWriteExt};
/// use std::os::unix::net::UnixStream;
/// use wakewheel::Async;
///
/// wakewheel::block_on(async {
///     let (mut a, mut b) = Async::<UnixStream>::pair()?;
///     a.write_all(b"hello").await?;
///     let mut buf = [0; 5];
///     b.read_exact(&mut buf).await?;
///     assert_eq!(&buf, b"hello");
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub struct Async<T> {
    source: Arc<Source>,
    /// `None` only while it is taken apart.
    io: Option<T>,
    kind: Kind,
}

impl<T> Unpin for Async<T> {}

impl<T: AsFd> Async<T> {
    /// Makes the descriptor non-blocking, and registers it.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` for a regular file or a directory, `AlreadyExists` if the descriptor belongs to another
    /// `Async`, which is not disturbed; what the kernel says of a closed descriptor. `io` is dropped.
    ///
    /// The text names the descriptor, and says what to do; the kernel's own error, with its number, is the
    /// [`source`](std::error::Error::source).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use wakewheel::Async;
    ///
    /// let socket = Async::new(UdpSocket::bind("127.0.0.1:0")?)?;
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// What cannot be waited for:
    ///
    /// ```
    /// use std::{error::Error, fs::File, io};
    /// use wakewheel::Async;
    ///
    /// let error = Async::new(File::open("Cargo.toml")?).unwrap_err();
    /// assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    /// assert!(error.to_string().contains("regular file"));
    /// let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    /// assert_eq!(source.and_then(|source| source.raw_os_error()), Some(libc::EPERM));
    /// # io::Result::Ok(())
    /// ```
    pub fn new(io: T) -> io::Result<Async<T>> {
        socket::set_nonblocking(io.as_fd(), true)?;
        Async::new_nonblocking(io)
    }

    /// Registers a descriptor that is non-blocking already. (If it is not, operations on it block the thread.)
    ///
    /// # Errors
    ///
    /// Those of [`new`](Async::new).
    pub fn new_nonblocking(io: T) -> io::Result<Async<T>> {
        let kind = Kind::of::<T>(io.as_fd());
        Async::with_kind(io, kind)
    }

    /// For descriptors that we made ourselves.
    pub(crate) fn with_kind(io: T, kind: Kind) -> io::Result<Async<T>> {
        Async::register(io, kind, Ready::default())
    }

    /// For connections that were accepted just now: what the peer sends is rarely there yet.
    pub(crate) fn accepted(io: T, kind: Kind) -> io::Result<Async<T>> {
        Async::register(io, kind, Ready::READABLE)
    }

    fn register(io: T, kind: Kind, not_yet: Ready) -> io::Result<Async<T>> {
        let source = Source::register(io.as_fd().as_raw_fd(), not_yet)?;
        if kind == Kind::Tcp {
            source.readiness.trust_short();
        }
        Ok(Async { source, io: Some(io), kind })
    }
}

impl<T> Async<T> {
    /// The inner type, with all that it can do without waiting: addresses, options. What is read or written through it is
    /// nobody's secret: waits by [`readable`](Async::readable), [`writable`](Async::writable) and the `_with` methods ask
    /// the kernel.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use wakewheel::Async;
    ///
    /// let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
    /// socket.get_ref().set_broadcast(true)?;
    /// socket.get_ref().connect(socket.get_ref().local_addr()?)?;
    /// assert_eq!(socket.get_ref().peer_addr()?, socket.get_ref().local_addr()?);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn get_ref(&self) -> &T {
        self.io.as_ref().expect(INNER)
    }

    /// The inner type, mutable.
    ///
    /// # Safety
    ///
    /// The descriptor must not be replaced or closed: it stays registered under its number.
    pub unsafe fn get_mut(&mut self) -> &mut T {
        self.io.as_mut().expect(INNER)
    }

    /// Ends the registration and gives the inner type back. It stays non-blocking.
    ///
    /// # Errors
    ///
    /// If the registration cannot be ended, because somebody else closed the descriptor; then the inner type is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    /// use std::os::unix::net::UnixStream;
    /// use wakewheel::Async;
    ///
    /// let (a, b) = Async::<UnixStream>::pair()?;
    /// // For a thread of its own, which blocks.
    /// let mut a = a.into_inner()?;
    /// a.set_nonblocking(false)?;
    /// std::thread::spawn(move || a.write_all(b"hello"));
    /// assert_eq!(*wakewheel::block_on(b.read_chunk())?, *b"hello");
    /// # std::io::Result::Ok(())
    /// ```
    pub fn into_inner(mut self) -> io::Result<T> {
        let io = self.io.take().expect(INNER);
        self.source.deregister()?;
        Ok(io)
    }

    /// Waits until it is readable, as the kernel sees it: data, the end, or an error. Any number of tasks may wait.
    ///
    /// It is the kernel's answer of that moment: another task may be faster.
    pub fn readable(&self) -> Readable<'_, T> {
        Readable::new(self)
    }

    /// [`readable`](Async::readable), for a future without a lifetime.
    pub fn readable_owned(self: Arc<Self>) -> ReadableOwned<T> {
        ReadableOwned::new(self)
    }

    /// Waits until it is writable, as the kernel sees it. Any number of tasks may wait.
    pub fn writable(&self) -> Writable<'_, T> {
        Writable::new(self)
    }

    /// [`writable`](Async::writable), for a future without a lifetime.
    pub fn writable_owned(self: Arc<Self>) -> WritableOwned<T> {
        WritableOwned::new(self)
    }

    /// Waits until the peer has hung up, or has shut down its writing side, without reading anything: what it sent
    /// before can still be read. For connections; others wait for ever. Any number of tasks may wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use wakewheel::Async;
    ///
    /// wakewheel::block_on(async {
    ///     let (a, b) = Async::<UnixStream>::pair()?;
    ///     drop(b);
    ///     a.closed().await
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn closed(&self) -> Closed<'_, T> {
        Closed::new(self)
    }

    /// Like [`readable`](Async::readable), for one task at a time: a second one takes the place of the first, which is
    /// woken.
    ///
    /// # Errors
    ///
    /// If its reactor has stopped and it cannot be registered with another.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.source.poll_level(Direction::Read, cx)
    }

    /// Like [`writable`](Async::writable), for one task at a time: a second one takes the place of the first, which is
    /// woken.
    ///
    /// # Errors
    ///
    /// If its reactor has stopped and it cannot be registered with another.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.source.poll_level(Direction::Write, cx)
    }

    /// Calls `op` until it does not say [`WouldBlock`](io::ErrorKind::WouldBlock), waiting until it is readable
    /// in between, or until the task is polled for another reason.
    ///
    /// # Errors
    ///
    /// Those of `op`, and [`poll_readable`](Async::poll_readable)'s.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{io::Read, os::unix::net::UnixStream};
    /// use wakewheel::Async;
    ///
    /// wakewheel::block_on(async {
    ///     let (a, b) = Async::<UnixStream>::pair()?;
    ///     std::io::Write::write_all(&mut b.get_ref(), b"x")?;
    ///     let n = a.read_with(|mut socket| socket.read(&mut [0; 8])).await?;
    ///     assert_eq!(n, 1);
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub async fn read_with<R>(&self, mut op: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        let mut was_ready = false;
        loop {
            match op(self.get_ref()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            was_ready = again(self.readable(), was_ready).await?;
        }
    }

    /// [`read_with`](Async::read_with), mutable.
    ///
    /// # Safety
    ///
    /// `op` must not replace or close the descriptor.
    ///
    /// # Errors
    ///
    /// Those of [`read_with`](Async::read_with).
    pub async unsafe fn read_with_mut<R>(
        &mut self,
        mut op: impl FnMut(&mut T) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut was_ready = false;
        loop {
            // SAFETY: the caller's promise.
            match op(unsafe { self.get_mut() }) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            was_ready = again(self.readable(), was_ready).await?;
        }
    }

    /// Calls `op` until it does not say [`WouldBlock`](io::ErrorKind::WouldBlock), waiting until it is writable
    /// in between, or until the task is polled for another reason.
    ///
    /// # Errors
    ///
    /// Those of `op`, and [`poll_writable`](Async::poll_writable)'s.
    pub async fn write_with<R>(&self, mut op: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        let mut was_ready = false;
        loop {
            match op(self.get_ref()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            was_ready = again(self.writable(), was_ready).await?;
        }
    }

    /// [`write_with`](Async::write_with), mutable.
    ///
    /// # Safety
    ///
    /// `op` must not replace or close the descriptor.
    ///
    /// # Errors
    ///
    /// Those of [`write_with`](Async::write_with).
    pub async unsafe fn write_with_mut<R>(
        &mut self,
        mut op: impl FnMut(&mut T) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut was_ready = false;
        loop {
            // SAFETY: the caller's promise.
            match op(unsafe { self.get_mut() }) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            was_ready = again(self.writable(), was_ready).await?;
        }
    }
}

/// Waits for the next try of an operation that we cannot see into, by `ready` or until the task is polled for whatever
/// reason: what the operation waits for may be something else, too. Was it ready?
///
/// If it was the last time, and yet the operation would block, there may be no end in sight, and others get a turn before.
async fn again(mut ready: impl Future<Output = io::Result<()>> + Unpin, was_ready: bool) -> io::Result<bool> {
    if was_ready {
        budget::yield_now().await;
    }
    let mut is_first = true;
    poll_fn(|cx| match Pin::new(&mut ready).poll(cx) {
        Poll::Pending if !mem::replace(&mut is_first, false) => Poll::Ready(Ok(false)),
        Poll::Pending => Poll::Pending,
        Poll::Ready(result) => Poll::Ready(result.map(|()| true)),
    })
    .await
}

impl<T> Drop for Async<T> {
    fn drop(&mut self) {
        if self.io.is_some() {
            // Before the descriptor is closed. It may be gone already, and there is nobody to tell.
            let _ = self.source.deregister();
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Async<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Async").field(self.get_ref()).finish()
    }
}

impl<T> AsRef<T> for Async<T> {
    fn as_ref(&self) -> &T {
        self.get_ref()
    }
}

impl<T: AsRawFd> AsRawFd for Async<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.get_ref().as_raw_fd()
    }
}

impl<T: AsFd> AsFd for Async<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get_ref().as_fd()
    }
}

impl<T: AsFd + From<OwnedFd>> TryFrom<OwnedFd> for Async<T> {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Async<T>> {
        Async::new(fd.into())
    }
}

impl<T: Into<OwnedFd>> TryFrom<Async<T>> for OwnedFd {
    type Error = io::Error;

    fn try_from(io: Async<T>) -> io::Result<OwnedFd> {
        io.into_inner().map(Into::into)
    }
}

// ------------------------------------------------------------------------------------- futures-io traits

/// One operation in one direction, by the task that polls it: tried when it is worth it, waited for when not.
/// `full`: did a result use all the room that there was?
#[inline(always)]
fn poll_op<R>(
    source: &Arc<Source>,
    kind: Kind,
    direction: Direction,
    cx: &mut Context<'_>,
    mut op: impl FnMut() -> io::Result<R>,
    full: impl FnOnce(&R) -> bool,
) -> Poll<io::Result<R>> {
    let mut asked = false;
    let mut tried = false;
    loop {
        let seen = source.readiness.seen();
        // What is cached of a type that we do not know says nothing.
        if !seen.is_ready(direction.interest()) && kind != Kind::Unknown {
            // Who polls again while it waits may know more than a reactor that somebody else turns.
            let is_again = seen.asks() && (kind != Kind::Tcp || seen.is_polled(direction));
            if tried || !is_again {
                ready!(source.poll_ready(direction, cx))?;
                continue;
            }
        }
        tried = true;
        ready!(budget::is_left(cx));
        match op() {
            Ok(result) => {
                if !seen.is_ready(direction.interest()) && seen.is_listed() {
                    source.tell(direction);
                }
                if !full(&result) && seen.trusts_short() {
                    source.readiness.clear(direction.interest(), seen);
                } else {
                    budget::spend();
                }
                return Poll::Ready(Ok(result));
            }
            Err(e) => {
                let would_block = failed(source, direction, seen, e)?;
                if would_block && kind == Kind::Unknown {
                    if asked {
                        // The kernel says ready and the type says not: its own reason, which no event will end.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    asked = true;
                    ready!(source.poll_level(direction, cx))?;
                }
            }
        }
    }
}

/// The error, unless it only says that the operation is to be tried again: `true`, when there was an event.
#[cold]
fn failed(source: &Source, direction: Direction, seen: Seen, e: io::Error) -> io::Result<bool> {
    match e.kind() {
        io::ErrorKind::WouldBlock => {
            source.readiness.clear(direction.interest(), seen);
            Ok(true)
        }
        io::ErrorKind::Interrupted => Ok(false),
        _ => Err(e),
    }
}

/// What one call moves of `len` bytes, if there is as much: Linux stops a little below 2 GiB. Less is less than it could.
#[inline]
fn certain(len: usize) -> usize {
    const CALL_MAX: usize = 1 << 30;
    len.min(CALL_MAX)
}

/// The same of several buffers. A call takes no more of them than the system's IOV_MAX, which is nowhere less than this.
fn total(bufs: &[impl std::ops::Deref<Target = [u8]>]) -> usize {
    const IOV_MAX_MIN: usize = 16;
    certain(bufs.iter().take(IOV_MAX_MIN).map(|buf| buf.len()).sum())
}

/// A read as the type does it; where that is recv(2), without what the C library adds to it (see `sys/call.rs`).
#[inline(always)]
fn read(source: &Source, kind: Kind, mut io: impl Read, buf: &mut [u8]) -> io::Result<usize> {
    if kind.is_socket() { socket::recv(source.fd, buf) } else { io.read(buf) }
}

/// The same of `Write`.
#[inline(always)]
fn write(source: &Source, kind: Kind, mut io: impl Write, buf: &[u8]) -> io::Result<usize> {
    if kind.is_socket() { socket::send(source.fd, buf) } else { io.write(buf) }
}

const INNER: &str = "the descriptor is there until into_inner";

impl<T: IoSafe + Read> AsyncRead for Async<T> {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let Async { source, io, kind } = &mut *self;
        let (io, room) = (io.as_mut().expect(INNER), certain(buf.len()));
        poll_op(source, *kind, Direction::Read, cx, || read(source, *kind, &mut *io, buf), |&n| n >= room)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let Async { source, io, kind } = &mut *self;
        let (io, room) = (io.as_mut().expect(INNER), total(bufs));
        poll_op(source, *kind, Direction::Read, cx, || io.read_vectored(bufs), |&n| n >= room)
    }
}

impl<T> AsyncRead for &Async<T>
where
    for<'a> &'a T: Read,
{
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let room = certain(buf.len());
        let Async { source, kind, .. } = &**self;
        let op = || read(source, *kind, self.get_ref(), buf);
        poll_op(source, *kind, Direction::Read, cx, op, |&n| n >= room)
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let room = total(bufs);
        poll_op(
            &self.source,
            self.kind,
            Direction::Read,
            cx,
            || self.get_ref().read_vectored(bufs),
            |&n| n >= room,
        )
    }
}

/// [`poll_close`](AsyncWrite::poll_close) only flushes. To tell the peer that there is no more, use
/// `get_ref().shutdown(Shutdown::Write)`, or drop it.
impl<T: IoSafe + Write> AsyncWrite for Async<T> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Async { source, io, kind } = &mut *self;
        let io = io.as_mut().expect(INNER);
        let op = || write(source, *kind, &mut *io, buf);
        poll_op(source, *kind, Direction::Write, cx, op, |&n| n >= certain(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Async { source, io, kind } = &mut *self;
        let io = io.as_mut().expect(INNER);
        poll_op(source, *kind, Direction::Write, cx, || io.write_vectored(bufs), |&n| n >= total(bufs))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Async { source, io, .. } = &mut *self;
        let io = io.as_mut().expect(INNER);
        // A flush that has nothing to do is ready, however full the socket is: the type is asked first.
        poll_op(source, Kind::Unknown, Direction::Write, cx, || io.flush(), |()| true)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// [`poll_close`](AsyncWrite::poll_close) only flushes.
impl<T> AsyncWrite for &Async<T>
where
    for<'a> &'a T: Write,
{
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Async { source, kind, .. } = &**self;
        let op = || write(source, *kind, self.get_ref(), buf);
        poll_op(source, *kind, Direction::Write, cx, op, |&n| n >= certain(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let full = |&n: &usize| n >= total(bufs);
        poll_op(&self.source, self.kind, Direction::Write, cx, || self.get_ref().write_vectored(bufs), full)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_op(&self.source, Kind::Unknown, Direction::Write, cx, || self.get_ref().flush(), |()| true)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
