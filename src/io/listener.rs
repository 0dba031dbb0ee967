//! Listeners of either kind, TCP or Unix.

use super::accept::{Accept, Incoming};
use super::{Accepted, Addr, Async, SocketOptions, Stream};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What accepts connections, over TCP or a Unix socket.
///
/// # Examples
///
/// An echo server, where its first argument says:
///
/// ```no_run
/// use futures_lite::AsyncWriteExt;
/// use wakewheel::io::{Addr, Listener, Stream};
///
/// fn main() -> std::io::Result<()> {
///     let addr: Addr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:5000").parse()?;
///     wakewheel::block_on(async {
///         let listener = Listener::bind(&addr)?;
///         println!("listening on {}", listener.local_addr()?);
///         loop {
///             let (stream, peer) = listener.accept().await?;
///             println!("{peer} is here");
///             if let Err(e) = echo(stream).await {
///                 println!("{peer}: {e}");
///             }
///         }
///     })
/// }
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
#[derive(Debug)]
pub enum Listener {
    /// Over TCP.
    Tcp(Async<TcpListener>),
    /// Over a Unix socket.
    Unix(Async<UnixListener>),
}

impl Listener {
    /// Listens on `addr` (TCP port 0: any; see [`local_addr`](Listener::local_addr)), as [`SocketOptions`] without an
    /// option do. The file of a Unix socket is not removed afterwards.
    ///
    /// # Errors
    ///
    /// `AddrInUse`, `PermissionDenied`, …, with the address in the text.
    ///
    /// # Examples
    ///
    /// With options, there is `From`:
    ///
    /// ```
    /// use wakewheel::io::{Addr, Listener, SocketOptions};
    ///
    /// fn listen(addr: &Addr) -> std::io::Result<Listener> {
    ///     match addr {
    ///         Addr::Tcp(addr) => SocketOptions::new().nodelay().listen(*addr).map(Listener::from),
    ///         Addr::Unix(_) => Listener::bind(addr),
    ///     }
    /// }
    ///
    /// let listener = listen(&"127.0.0.1:0".parse()?)?;
    /// assert_ne!(listener.local_addr()?.to_string(), "127.0.0.1:0");
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind(addr: &Addr) -> io::Result<Listener> {
        match addr {
            Addr::Tcp(addr) => SocketOptions::new().listen(*addr).map(Listener::Tcp),
            Addr::Unix(addr) => SocketOptions::new().listen_unix_addr(addr).map(Listener::Unix),
        }
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
    pub async fn accept(&self) -> io::Result<(Stream, Addr)> {
        match self {
            Listener::Tcp(io) => io.accept().await.map(|(stream, peer)| (stream.into(), peer.into())),
            Listener::Unix(io) => io.accept().await.map(|(stream, peer)| (stream.into(), peer.into())),
        }
    }

    /// [`accept`](Listener::accept) for another core: the connection is registered nowhere, until the core that it goes to
    /// does so. That core's reactor is then the only one that hears of it, for the price of one registration. Any number of
    /// tasks may wait.
    ///
    /// # Errors
    ///
    /// Those of [`accept`](Listener::accept).
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no connection is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::AsyncWriteExt;
    /// use std::io;
    /// use wakewheel::io::{Listener, Stream};
    /// use wakewheel::{Cores, block_on};
    ///
    /// async fn greet(mut stream: Stream) -> io::Result<()> {
    ///     stream.write_all(b"hello").await
    /// }
    ///
    /// let cores = Cores::new(2)?;
    /// block_on(async {
    ///     let listener = Listener::bind(&"127.0.0.1:0".parse()?)?;
    ///     let client = Stream::connect(&listener.local_addr()?).await?;
    ///     let (accepted, _peer) = listener.accept_unregistered().await?;
    ///     let greeting = cores.spawn(|| async { greet(accepted.register()?).await });
    ///     assert_eq!(*client.read_chunk().await?, *b"hello");
    ///     greeting.await?
    /// })?;
    /// # io::Result::Ok(())
    /// ```
    pub async fn accept_unregistered(&self) -> io::Result<(Accepted, Addr)> {
        match self {
            Listener::Tcp(io) => {
                Accept::new(io).await.map(|(stream, peer)| (Accepted::tcp(stream), peer.into()))
            }
            Listener::Unix(io) => {
                Accept::new(io).await.map(|(stream, peer)| (Accepted::unix(stream), peer.into()))
            }
        }
    }

    /// The connections, one after the other, for ever. Like calling [`accept`](Listener::accept) in a loop.
    ///
    /// # Errors
    ///
    /// An item is an error where [`accept`](Listener::accept) would give one. The stream goes on after it.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::StreamExt;
    /// use wakewheel::io::{Listener, Stream};
    ///
    /// wakewheel::block_on(async {
    ///     let listener = Listener::bind(&"127.0.0.1:0".parse()?)?;
    ///     let client = Stream::connect(&listener.local_addr()?).await?;
    ///     let mut incoming = listener.incoming();
    ///     while let Some(server) = incoming.next().await {
    ///         assert_eq!(server?.peer_addr()?, client.local_addr()?);
    ///         # break;
    ///     }
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn incoming(&self) -> impl futures_core::Stream<Item = io::Result<Stream>> + Send + Sync + '_ {
        match self {
            Listener::Tcp(io) => Connections::Tcp(Incoming(Accept::new(io))),
            Listener::Unix(io) => Connections::Unix(Incoming(Accept::new(io))),
        }
    }

    /// The address that it listens on.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<Addr> {
        match self {
            Listener::Tcp(io) => io.get_ref().local_addr().map(Addr::Tcp),
            Listener::Unix(io) => io.get_ref().local_addr().map(Addr::Unix),
        }
    }
}

/// After this error of accepting, will a listener never accept again?
pub(crate) fn never_again(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(io) => io.as_fd(),
            Listener::Unix(io) => io.as_fd(),
        }
    }
}

enum Connections<'a> {
    Tcp(Incoming<'a, TcpListener>),
    Unix(Incoming<'a, UnixListener>),
}

impl futures_core::Stream for Connections<'_> {
    type Item = io::Result<Stream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Connections::Tcp(incoming) => Pin::new(incoming).poll_next(cx).map_ok(Stream::Tcp),
            Connections::Unix(incoming) => Pin::new(incoming).poll_next(cx).map_ok(Stream::Unix),
        }
    }
}
