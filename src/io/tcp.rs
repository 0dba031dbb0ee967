//! TCP.

use super::accept::{Accept, Incoming, register};
use super::connect::connect;
use super::{Async, KeepAlive, Kind, SocketOptions};
use crate::reactor::Direction;
use crate::sys::addr::SockAddr;
use crate::sys::socket;
use futures_core::Stream;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Instant;

impl Async<TcpListener> {
    /// Listens on `addr` (port 0: any; see `get_ref().local_addr()`), with std's choices: the address is reused, and 128
    /// connections may wait. For others, see [`SocketOptions`].
    ///
    /// # Errors
    ///
    /// What the kernel says: `AddrInUse`, `PermissionDenied`, … The address is not in it, as in std;
    /// [`SocketOptions::listen`] names it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use wakewheel::Async;
    ///
    /// let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    /// println!("listening on {}", listener.get_ref().local_addr()?);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind<A: Into<SocketAddr>>(addr: A) -> io::Result<Async<TcpListener>> {
        Async::new(TcpListener::bind(addr.into())?)
    }

    /// Waits for a connection. Any number of tasks may wait.
    ///
    /// A connection that its peer gave up before it was accepted is passed over.
    ///
    /// # Errors
    ///
    /// When the process or the system has no descriptors left, it tries again after 1, 2, 4 … milliseconds, and says so
    /// after 100: a loop that logs the error and goes on does not spin.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no connection is lost.
    pub async fn accept(&self) -> io::Result<(Async<TcpStream>, SocketAddr)> {
        let (stream, peer) = Accept::new(self).await?;
        Ok((register::<TcpListener>(stream)?, peer))
    }

    /// The connections, one after the other, for ever. Like calling [`accept`](Async::<TcpListener>::accept) in a loop.
    ///
    /// # Errors
    ///
    /// An item is an error where [`accept`](Async::<TcpListener>::accept) would give one. The stream goes on after it.
    pub fn incoming(&self) -> impl Stream<Item = io::Result<Async<TcpStream>>> + Send + Sync + '_ {
        Incoming(Accept::new(self))
    }
}

impl Async<TcpStream> {
    /// Connects to `addr`. That is no host name: for those there is [`connect_host`](Async::<TcpStream>::connect_host).
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` and others, as the kernel says. The address is not in it, as in std;
    /// [`SocketOptions::connect`] names it.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    /// use wakewheel::Async;
    ///
    /// wakewheel::block_on(async {
    ///     let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    ///     let client = Async::<TcpStream>::connect(listener.get_ref().local_addr()?).await?;
    ///     let (server, peer) = listener.accept().await?;
    ///     assert_eq!(peer, client.get_ref().local_addr()?);
    ///     assert_eq!(server.get_ref().local_addr()?, client.get_ref().peer_addr()?);
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub async fn connect<A: Into<SocketAddr>>(addr: A) -> io::Result<Async<TcpStream>> {
        let addr = addr.into();
        let fd = socket::new(SockAddr::from(addr).family(), libc::SOCK_STREAM)?;
        connect(fd, |fd| socket::connect(fd, &addr.into()), Kind::Tcp).await
    }

    /// Connects to `addr`, or gives up at `deadline`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut), and those of [`connect`](Async::<TcpStream>::connect).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the socket.
    pub fn connect_deadline<A: Into<SocketAddr>>(
        addr: A,
        deadline: Instant,
    ) -> impl Future<Output = io::Result<Async<TcpStream>>> + Send + Sync + 'static + use<A> {
        SocketOptions::new().connect_deadline(addr, deadline)
    }

    /// Receives without removing what it receives. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// Those of reading.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.operation(Direction::Read, |stream| stream.peek(buf)).await
    }

    /// Switches keep-alive on, as [`SocketOptions::keep_alive`] does for sockets that are being made.
    ///
    /// # Errors
    ///
    /// `Unsupported` where the system has no such times; what the kernel says of times that are too long.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    /// use wakewheel::{Async, io::KeepAlive};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = Async::new(TcpStream::connect(listener.local_addr()?)?)?;
    /// stream.set_keep_alive(KeepAlive::default())?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn set_keep_alive(&self, keep_alive: KeepAlive) -> io::Result<()> {
        keep_alive.set(self.get_ref().as_fd())
    }

    /// Ends one direction or both. After `Shutdown::Write` the peer reads to the end, and can still send.
    ///
    /// # Errors
    ///
    /// `NotConnected`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.get_ref().shutdown(how)
    }
}

impl TryFrom<TcpListener> for Async<TcpListener> {
    type Error = io::Error;

    fn try_from(listener: TcpListener) -> io::Result<Self> {
        Async::new(listener)
    }
}

impl TryFrom<TcpStream> for Async<TcpStream> {
    type Error = io::Error;

    fn try_from(stream: TcpStream) -> io::Result<Self> {
        Async::new(stream)
    }
}
