//! What can be served: where it comes from, and what a worker gets.

use super::Addr;
use crate::evio::addr::{Bound, SocketFile, mapped};
use crate::io::{Listener, never_again};
use crate::{Async, block_on};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

/// What a worker can get: a [`TcpStream`], a [`UnixStream`] or a [`Datagram`]. No other type can be one.
#[allow(private_bounds, reason = "how they come is nobody else's business")]
pub trait Socket: Receive {}

impl Socket for TcpStream {}
impl Socket for UnixStream {}
impl Socket for Datagram {}

/// How they come. All of it is for the accept thread.
pub(super) trait Receive: Send + Sized + 'static {
    /// What is bound, registered with the reactor of the thread.
    type Source;
    /// The addresses that it can have.
    const SCHEMES: &'static str;

    /// Is this what they come from?
    fn come_from(bound: &Bound) -> bool;
    fn open(bound: Bound) -> io::Result<Self::Source>;
    /// Waits for the next one. Safe to drop at any time: nothing is lost.
    async fn receive(source: &mut Self::Source) -> io::Result<(Self, Addr)>;

    /// Is this an error after which nothing will ever come?
    fn is_fatal(e: &io::Error) -> bool {
        never_again(e)
    }
}

impl Receive for TcpStream {
    type Source = Listener;
    const SCHEMES: &'static str = "tcp://, tcp4:// or tcp6://";

    fn come_from(bound: &Bound) -> bool {
        matches!(bound, Bound::Tcp(_))
    }

    fn open(bound: Bound) -> io::Result<Listener> {
        let Bound::Tcp(listener) = bound else { unreachable!("{bound:?} was checked") };
        Async::<TcpListener>::new_nonblocking(listener).map(Listener::from)
    }

    async fn receive(listener: &mut Listener) -> io::Result<(TcpStream, Addr)> {
        let (accepted, peer) = listener.accept_unregistered().await?;
        let stream = TcpStream::from(OwnedFd::from(accepted));
        stream.set_nonblocking(false)?;
        Ok((stream, peer.into()))
    }
}

impl Receive for UnixStream {
    /// The file goes when the listener does.
    type Source = (Listener, Option<SocketFile>);
    const SCHEMES: &'static str = "unix://";

    fn come_from(bound: &Bound) -> bool {
        matches!(bound, Bound::Unix(..))
    }

    fn open(bound: Bound) -> io::Result<Self::Source> {
        let Bound::Unix(listener, file) = bound else { unreachable!("{bound:?} was checked") };
        Ok((Async::<UnixListener>::new_nonblocking(listener)?.into(), file))
    }

    async fn receive((listener, _): &mut Self::Source) -> io::Result<(UnixStream, Addr)> {
        let (accepted, peer) = listener.accept_unregistered().await?;
        let stream = UnixStream::from(OwnedFd::from(accepted));
        stream.set_nonblocking(false)?;
        Ok((stream, peer.into()))
    }
}

/// More than a datagram can have.
const BYTES_MAX: usize = 64 * 1024;

/// Where datagrams come from.
pub(super) struct Datagrams {
    socket: Arc<Async<UdpSocket>>,
    buf: Box<[u8]>,
}

impl Receive for Datagram {
    type Source = Datagrams;
    const SCHEMES: &'static str = "udp://, udp4:// or udp6://";

    fn come_from(bound: &Bound) -> bool {
        matches!(bound, Bound::Udp(_))
    }

    fn open(bound: Bound) -> io::Result<Datagrams> {
        let Bound::Udp(socket) = bound else { unreachable!("{bound:?} was checked") };
        let socket = Arc::new(Async::new_nonblocking(socket)?);
        Ok(Datagrams { socket, buf: vec![0; BYTES_MAX].into() })
    }

    async fn receive(Datagrams { socket, buf }: &mut Datagrams) -> io::Result<(Datagram, Addr)> {
        let (len, from) = socket.recv_from(buf).await?;
        let datagram = Datagram { bytes: buf[..len].into(), from, socket: socket.clone() };
        Ok((datagram, Addr::udp(from)))
    }

    fn is_fatal(e: &io::Error) -> bool {
        // Others are of a datagram sent before: its receiver is not there. That is nothing to us.
        matches!(e.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK))
    }
}

/// A datagram, and a way to answer it.
///
/// # Examples
///
/// ```
/// use std::net::UdpSocket;
/// use wakewheel::dispatch::{Datagram, Dispatcher, Job};
///
/// let running = Dispatcher::new(|job: Job<Datagram>| {
///     if let Err(e) = job.socket.reply(job.socket.bytes()) {
///         eprintln!("{}: {e}", job.peer);
///     }
/// })
/// .start("udp://127.0.0.1:0")?;
///
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"hello", running.addr().socket_addr().unwrap())?;
/// let mut buf = [0; 8];
/// let len = client.recv(&mut buf)?;
/// assert_eq!(&buf[..len], b"hello");
/// # std::io::Result::Ok(())
/// ```
pub struct Datagram {
    bytes: Box<[u8]>,
    /// As the kernel gives it.
    from: SocketAddr,
    socket: Arc<Async<UdpSocket>>,
}

impl Datagram {
    /// What it says, which may be nothing.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Sends a datagram back to who has sent this one, from the server's address. Blocks while there is no room in the
    /// socket's buffer.
    ///
    /// # Errors
    ///
    /// What the kernel says: a datagram that is too long, no route, …
    pub fn reply(&self, bytes: &[u8]) -> io::Result<usize> {
        block_on(self.socket.send_to(bytes, self.from))
    }

    /// Sends a datagram to any address, from the server's. Blocks while there is no room in the socket's buffer.
    ///
    /// # Errors
    ///
    /// Those of [`reply`](Datagram::reply).
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        // Not every system takes an IPv4 address on a socket for both versions.
        let to = if self.from.is_ipv6() { mapped(to) } else { to };
        block_on(self.socket.send_to(bytes, to))
    }
}

impl fmt::Debug for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagram")
            .field("len", &self.bytes.len())
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}
