//! UDP.

use super::{Async, Kind, poll_op};
use crate::reactor::Direction;
use crate::sys::socket::Datagrams;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::{fmt, io};

impl Async<UdpSocket> {
    /// A socket on `addr` (port 0: any). For options that must be set before binding, see
    /// [`SocketOptions`](crate::io::SocketOptions).
    ///
    /// # Errors
    ///
    /// What the kernel says: `AddrInUse`, `PermissionDenied`, … The address is not in it, as in std;
    /// [`SocketOptions::bind_udp`](crate::io::SocketOptions::bind_udp) names it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use wakewheel::Async;
    ///
    /// wakewheel::block_on(async {
    ///     let a = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
    ///     let b = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
    ///     a.send_to(b"hello", b.get_ref().local_addr()?).await?;
    ///     let mut buf = [0; 16];
    ///     let (n, from) = b.recv_from(&mut buf).await?;
    ///     assert_eq!((&buf[..n], from), (&b"hello"[..], a.get_ref().local_addr()?));
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind<A: Into<SocketAddr>>(addr: A) -> io::Result<Async<UdpSocket>> {
        Async::new(UdpSocket::bind(addr.into())?)
    }

    /// Receives one datagram. What does not fit into `buf` is lost. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// What the kernel says; on a connected socket also `ConnectionRefused`, for an earlier datagram.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.operation(Direction::Read, |socket| socket.recv_from(buf)).await
    }

    /// [`recv_from`](Async::<UdpSocket>::recv_from), leaving the datagram where it is.
    ///
    /// # Errors
    ///
    /// Those of [`recv_from`](Async::<UdpSocket>::recv_from).
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.operation(Direction::Read, |socket| socket.peek_from(buf)).await
    }

    /// Receives the datagrams that are there, at least one and as many as `batch` has room for, in place of those in it;
    /// returns how many. On Linux and Android with one system call; elsewhere one datagram. Any number of tasks may wait.
    ///
    /// Worth it where many small datagrams come: for those that wait already, it saves a system call each.
    ///
    /// # Errors
    ///
    /// What the kernel says; on a connected socket also `ConnectionRefused`, for an earlier datagram. The batch is empty then.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost. The batch is empty then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use wakewheel::Async;
    /// use wakewheel::io::RecvBatch;
    ///
    /// async fn echo(socket: &Async<UdpSocket>) -> std::io::Result<()> {
    ///     // 32 of those that fit into an Ethernet frame.
    ///     let mut batch = RecvBatch::new(32, 1500);
    ///     loop {
    ///         socket.recv_batch(&mut batch).await?;
    ///         for datagram in batch.iter().filter(|datagram| !datagram.truncated) {
    ///             socket.send_to(datagram.bytes, datagram.from).await?;
    ///         }
    ///     }
    /// }
    /// # use futures_lite::FutureExt;
    /// # wakewheel::block_on(async {
    /// #     let server = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
    /// #     let client = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
    /// #     client.send_to(b"hello", server.get_ref().local_addr()?).await?;
    /// #     let mut buf = [0; 8];
    /// #     let (n, _) = client.recv_from(&mut buf).or(async { Err(echo(&server).await.unwrap_err()) }).await?;
    /// #     assert_eq!(&buf[..n], b"hello");
    /// #     std::io::Result::Ok(())
    /// # })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub async fn recv_batch(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.0.clear();
        let room = batch.0.per_call();
        let receive = |socket: &UdpSocket| batch.0.receive(socket.as_fd());
        self.operation_until_short(Direction::Read, receive, |&n| n >= room).await
    }

    /// [`recv_batch`](Async::<UdpSocket>::recv_batch), for one task at a time: a second one takes the place of the first,
    /// which is woken. While it is pending, the batch is empty.
    ///
    /// # Errors
    ///
    /// Those of [`recv_batch`](Async::<UdpSocket>::recv_batch).
    pub fn poll_recv_batch(&self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<usize>> {
        batch.0.clear();
        let room = batch.0.per_call();
        let receive = || batch.0.receive(self.get_ref().as_fd());
        // Like a TCP stream's: one that is short has met the end of the queue, or an error of which there is an event.
        poll_op(&self.source, Kind::Tcp, Direction::Read, cx, receive, |&n| n >= room)
    }

    /// Sends one datagram to `addr`. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// What the kernel says: a datagram that is too long, no route, …
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: it was sent, or not.
    pub async fn send_to<A: Into<SocketAddr>>(&self, buf: &[u8], addr: A) -> io::Result<usize> {
        let addr = addr.into();
        self.operation(Direction::Write, |socket| socket.send_to(buf, addr)).await
    }

    /// Receives one datagram from the peer that `get_ref().connect` chose. What does not fit into `buf` is lost.
    ///
    /// # Errors
    ///
    /// What the kernel says; also `ConnectionRefused`, for an earlier datagram.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.operation(Direction::Read, |socket| socket.recv(buf)).await
    }

    /// [`recv`](Async::<UdpSocket>::recv), leaving the datagram where it is.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Async::<UdpSocket>::recv).
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.operation(Direction::Read, |socket| socket.peek(buf)).await
    }

    /// Sends one datagram to the peer that `get_ref().connect` chose.
    ///
    /// # Errors
    ///
    /// What the kernel says; also `ConnectionRefused`, for an earlier datagram.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: it was sent, or not.
    pub async fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.operation(Direction::Write, |socket| socket.send(buf)).await
    }
}

/// Room for many datagrams, and those that came with the last
/// [`recv_batch`](Async::<UdpSocket>::recv_batch). It can be used again, with any socket, and then allocates nothing.
///
/// # Examples
///
/// ```
/// use std::net::UdpSocket;
/// use wakewheel::Async;
/// use wakewheel::io::RecvBatch;
///
/// wakewheel::block_on(async {
///     let a = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
///     let b = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
///     for text in ["one", "two", "three"] {
///         a.send_to(text.as_bytes(), b.get_ref().local_addr()?).await?;
///     }
///
///     let mut batch = RecvBatch::new(16, 1500);
///     let mut came = 0;
///     while came < 3 {
///         came += b.recv_batch(&mut batch).await?;
///         for datagram in batch.iter() {
///             println!("{} bytes from {}", datagram.bytes.len(), datagram.from);
///         }
///     }
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub struct RecvBatch(Datagrams);

/// One of a [`RecvBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// What it says, which may be nothing.
    pub bytes: &'a [u8],
    /// Who has sent it.
    pub from: SocketAddr,
    /// It was longer than the room for it: what is missing is lost.
    pub truncated: bool,
}

impl RecvBatch {
    /// Room for as many datagrams (1 to 1024: no call receives more) of so many bytes each. What a datagram has beyond those is
    /// lost; none has more than 65,527.
    ///
    /// The memory is reserved at once, and taken only where datagrams come: `new(16, 65_527)` is a MiB of addresses, of which
    /// short datagrams take a page or two each.
    ///
    /// # Panics
    ///
    /// If that is more than there can be: `isize::MAX` bytes.
    pub fn new(datagrams: usize, bytes_each: usize) -> RecvBatch {
        RecvBatch(Datagrams::new(datagrams, bytes_each))
    }

    /// The datagrams that came with the last call, in the order in which they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Datagram<'_>> + Clone {
        self.0.iter().map(|(bytes, received)| Datagram {
            bytes,
            from: received.from,
            truncated: received.truncated,
        })
    }

    /// How many came with the last call.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Did none come?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there is room for.
    pub fn capacity(&self) -> usize {
        self.0.count_max()
    }
}

impl fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBatch").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

impl TryFrom<UdpSocket> for Async<UdpSocket> {
    type Error = io::Error;

    fn try_from(socket: UdpSocket) -> io::Result<Self> {
        Async::new(socket)
    }
}
