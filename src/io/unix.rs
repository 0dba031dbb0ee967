//! Unix domain sockets. On Linux and Android, a path that begins with a NUL byte is an abstract name.

use super::accept::{Accept, Incoming, register};
use super::connect::connect;
use super::{Async, Kind};
use crate::reactor::Direction;
use crate::sys::addr::SockAddr;
use crate::sys::socket;
use crate::time::Timer;
use futures_core::Stream;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Connections that may wait to be accepted: as many as the system lets them, as std has it.
const BACKLOG: libc::c_int =
    if cfg!(any(target_os = "netbsd", target_os = "dragonfly")) { libc::SOMAXCONN } else { -1 };

impl Async<UnixListener> {
    /// Listens on `path`. The file is not removed afterwards.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if there is something at `path`; `InvalidInput` if it is too long; what the kernel says.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::{UnixListener, UnixStream};
    /// use wakewheel::Async;
    ///
    /// # let dir = std::env::temp_dir().join(format!("wakewheel-unix-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// let path = dir.join("socket");
    /// wakewheel::block_on(async {
    ///     let listener = Async::<UnixListener>::bind(&path)?;
    ///     let client = Async::<UnixStream>::connect(&path).await?;
    ///     let (_server, peer) = listener.accept().await?;
    ///     assert!(peer.is_unnamed());
    ///     assert_eq!(client.get_ref().peer_addr()?.as_pathname(), Some(&*path));
    ///     std::io::Result::Ok(())
    /// })?;
    /// std::fs::remove_file(&path)?;
    /// # std::fs::remove_dir(&dir)?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<Async<UnixListener>> {
        let fd = socket::new(libc::AF_UNIX, libc::SOCK_STREAM)?;
        socket::bind(fd.as_fd(), &SockAddr::unix_path(path.as_ref())?)?;
        socket::listen(fd.as_fd(), BACKLOG)?;
        Async::with_kind(UnixListener::from(fd), Kind::Socket)
    }

    /// Waits for a connection. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// When the process or the system has no descriptors left, it tries again after 1, 2, 4 … milliseconds, and says so
    /// after 100: a loop that logs the error and goes on does not spin.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no connection is lost.
    pub async fn accept(&self) -> io::Result<(Async<UnixStream>, SocketAddr)> {
        let (stream, peer) = Accept::new(self).await?;
        Ok((register::<UnixListener>(stream)?, peer))
    }

    /// The connections, one after the other, for ever. Like calling [`accept`](Async::<UnixListener>::accept) in a loop.
    ///
    /// # Errors
    ///
    /// An item is an error where [`accept`](Async::<UnixListener>::accept) would give one. The stream goes on after it.
    pub fn incoming(&self) -> impl Stream<Item = io::Result<Async<UnixStream>>> + Send + Sync + '_ {
        Incoming(Accept::new(self))
    }
}

impl Async<UnixStream> {
    /// Connects to the listener on `path`. Waits while its backlog is full.
    ///
    /// # Errors
    ///
    /// `NotFound`, `ConnectionRefused` if nobody listens there; `InvalidInput` if `path` is too long.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the socket.
    pub async fn connect<P: AsRef<Path>>(path: P) -> io::Result<Async<UnixStream>> {
        let addr = SockAddr::unix_path(path.as_ref())?;
        let fd = socket::new(libc::AF_UNIX, libc::SOCK_STREAM)?;
        connect(fd, |fd| socket::connect(fd, &addr), Kind::Socket).await
    }

    /// Two sockets, connected to each other.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn pair() -> io::Result<(Async<UnixStream>, Async<UnixStream>)> {
        let (a, b) = socket::pair(libc::SOCK_STREAM)?;
        Ok((Async::with_kind(a.into(), Kind::Socket)?, Async::with_kind(b.into(), Kind::Socket)?))
    }

    /// Sends `buf` (not empty) with descriptors, of which the peer gets copies. Returns how many of the bytes were sent;
    /// the descriptors went with the first. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for more than 253 descriptors or an empty `buf`; what the kernel says.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: it was sent, or not.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{fs::File, os::{fd::AsFd, unix::net::UnixStream}};
    /// use wakewheel::Async;
    ///
    /// wakewheel::block_on(async {
    ///     let (a, b) = Async::<UnixStream>::pair()?;
    ///     let file = File::open("/dev/null")?;
    ///     a.send_fds(b"a file", &[file.as_fd()]).await?;
    ///     let mut buf = [0; 16];
    ///     let (n, fds) = b.recv_fds(&mut buf, 1).await?;
    ///     assert_eq!((&buf[..n], fds.len()), (&b"a file"[..], 1));
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub async fn send_fds(&self, buf: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.operation(Direction::Write, |socket| socket::send_fds(socket.as_fd(), buf, fds)).await
    }

    /// Receives bytes, and the descriptors that came with them, close-on-exec. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// If more than `fds_max` came: the ones that did are closed. What the kernel says.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time.
    pub async fn recv_fds(&self, buf: &mut [u8], fds_max: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.operation(Direction::Read, |socket| socket::recv_fds(socket.as_fd(), buf, fds_max)).await
    }

    /// Ends one direction or both. After `Shutdown::Write` the peer reads to the end, and can still send.
    ///
    /// # Errors
    ///
    /// `NotConnected`.
    pub fn shutdown(&self, how: std::net::Shutdown) -> io::Result<()> {
        self.get_ref().shutdown(how)
    }
}

impl Async<UnixDatagram> {
    /// A socket with the address `path`. The file is not removed afterwards.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if there is something at `path`; `InvalidInput` if it is too long; what the kernel says.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<Async<UnixDatagram>> {
        let fd = socket::new(libc::AF_UNIX, libc::SOCK_DGRAM)?;
        socket::bind(fd.as_fd(), &SockAddr::unix_path(path.as_ref())?)?;
        Async::with_kind(UnixDatagram::from(fd), Kind::Socket)
    }

    /// A socket without an address.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn unbound() -> io::Result<Async<UnixDatagram>> {
        Async::with_kind(socket::new(libc::AF_UNIX, libc::SOCK_DGRAM)?.into(), Kind::Socket)
    }

    /// Two sockets, connected to each other.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn pair() -> io::Result<(Async<UnixDatagram>, Async<UnixDatagram>)> {
        let (a, b) = socket::pair(libc::SOCK_DGRAM)?;
        Ok((Async::with_kind(a.into(), Kind::Socket)?, Async::with_kind(b.into(), Kind::Socket)?))
    }

    /// Receives one datagram. What does not fit into `buf` is lost. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.operation(Direction::Read, |socket| socket.recv_from(buf)).await
    }

    /// Sends one datagram to the socket on `path`. While its queue is full, tries again after 0.1 to 10 milliseconds: no
    /// kernel tells when another socket's queue has room. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// `NotFound`, `ConnectionRefused` if nobody is there; `InvalidInput` if `path` is too long.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: it was sent, or not.
    pub async fn send_to<P: AsRef<Path>>(&self, buf: &[u8], path: P) -> io::Result<usize> {
        const PAUSE_MAX: Duration = Duration::from_millis(10);
        let addr = SockAddr::unix_path(path.as_ref())?;
        let mut pause = Duration::from_micros(100);
        loop {
            match socket::send_to(self.get_ref().as_fd(), buf, &addr) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    Timer::after(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                result => return result,
            }
        }
    }

    /// Receives one datagram from the connected peer. What does not fit into `buf` is lost.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.operation(Direction::Read, |socket| socket.recv(buf)).await
    }

    /// Sends one datagram to the connected peer. Waits while its queue is full.
    ///
    /// # Errors
    ///
    /// What the kernel says: `NotConnected`, `ConnectionRefused` if the peer has gone, …
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: it was sent, or not.
    pub async fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.operation(Direction::Write, |socket| socket.send(buf)).await
    }
}

impl TryFrom<UnixListener> for Async<UnixListener> {
    type Error = io::Error;

    fn try_from(listener: UnixListener) -> io::Result<Self> {
        Async::new(listener)
    }
}

impl TryFrom<UnixStream> for Async<UnixStream> {
    type Error = io::Error;

    fn try_from(stream: UnixStream) -> io::Result<Self> {
        Async::new(stream)
    }
}

impl TryFrom<UnixDatagram> for Async<UnixDatagram> {
    type Error = io::Error;

    fn try_from(socket: UnixDatagram) -> io::Result<Self> {
        Async::new(socket)
    }
}
