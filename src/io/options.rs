//! Sockets with options, in particular those that must be set before `bind`, `listen` or `connect`.
//!
//! The kernels let an accepted socket inherit what was set on its listener (Linux, the BSDs, macOS; `tests/options.rs`
//! holds them to it), so that options cost a server nothing per connection.

use super::connect::connect;
use super::{Addr, Async, Kind};
use crate::sys::addr::SockAddr;
use crate::sys::error::explained;
use crate::sys::{option, socket};
use crate::time::timeout_at;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// Makes sockets with options that std does not have, or could set only when it is too late.
///
/// What is not asked for is as in std, except for the [`backlog`](SocketOptions::backlog). Connections inherit the
/// options of the listener that accepts them. The same options can make any number of sockets.
///
/// | option                                 | [`listen`] | [`connect`] | [`bind_udp`] | [`listen_unix`] |
/// |----------------------------------------|:---:|:---:|:---:|:---:|
/// | [`backlog`](SocketOptions::backlog)    |  ✓  |     |     |  ✓  |
/// | [`reuse_port`](SocketOptions::reuse_port) | ✓ |  ✓  |  ✓  |     |
/// | [`dual_stack`](SocketOptions::dual_stack), [`only_v6`](SocketOptions::only_v6) | ✓ | | ✓ | |
/// | [`recv_buffer_size`](SocketOptions::recv_buffer_size), [`send_buffer_size`](SocketOptions::send_buffer_size) | ✓ | ✓ | ✓ | |
/// | [`nodelay`](SocketOptions::nodelay)    |  ✓  |  ✓  |     |     |
/// | [`keep_alive`](SocketOptions::keep_alive) | ✓ |  ✓  |     |     |
/// | [`reset_on_close`](SocketOptions::reset_on_close) | ✓ | ✓ | |    |
/// | [`bind_addr`](SocketOptions::bind_addr) |     |  ✓  |     |     |
///
/// [`listen`]: SocketOptions::listen
/// [`connect`]: SocketOptions::connect
/// [`bind_udp`]: SocketOptions::bind_udp
/// [`listen_unix`]: SocketOptions::listen_unix
///
/// # Errors
///
/// All of them name the address, and the option if it is one that failed. Their kind is that of the kernel's error, which is
/// their [`source`](std::error::Error::source).
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for an option that the socket does not have, by the table.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use wakewheel::io::{KeepAlive, SocketOptions};
///
/// let options = SocketOptions::new()
///     .nodelay()
///     .keep_alive(KeepAlive { idle: Duration::from_secs(30), ..KeepAlive::default() });
///
/// wakewheel::block_on(async {
///     let listener = options.listen(([127, 0, 0, 1], 0))?;
///     let client = options.connect(listener.get_ref().local_addr()?).await?;
///     let (server, _) = listener.accept().await?;
///     assert!(client.get_ref().nodelay()? && server.get_ref().nodelay()?);
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
///
/// A socket for somebody else, another core or another process, is made by the methods that end in `_std`: std's type,
/// non-blocking and close-on-exec, and registered nowhere. [`Async::new_nonblocking`] registers it where it is to be used.
///
/// ```
/// use std::{io, net::TcpListener};
/// use wakewheel::{Async, Cores, io::SocketOptions};
///
/// async fn serve(listener: Async<TcpListener>) -> io::Result<()> {
///     // …
/// #   drop(listener);
///     Ok(())
/// }
///
/// // One listener for all cores. Each registers a descriptor of its own.
/// let listener = SocketOptions::new().backlog(4096).nodelay().listen_std(([127, 0, 0, 1], 0))?;
/// Cores::builder().threads(2).try_run(|_| {
///     let listener = listener.try_clone().and_then(Async::new_nonblocking);
///     async { serve(listener?).await }
/// })?;
/// # io::Result::Ok(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until a socket is made with them"]
pub struct SocketOptions {
    backlog: Option<u32>,
    reuse_port: bool,
    ip_versions: IpVersions,
    recv_buffer_size: Option<usize>,
    send_buffer_size: Option<usize>,
    nodelay: bool,
    keep_alive: Option<KeepAlive>,
    reset_on_close: bool,
    bind_addr: Option<SocketAddr>,
}

/// What an IPv6 socket serves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum IpVersions {
    #[default]
    AsTheSystemHasIt,
    Both,
    OnlyV6,
}

/// How a silent connection is kept alive, or found to be dead: one whose peer has vanished is lost after
/// `idle + count * interval`. See [`SocketOptions::keep_alive`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use wakewheel::io::KeepAlive;
///
/// // Home routers forget connections that are silent for some minutes.
/// let keep_alive = KeepAlive { idle: Duration::from_secs(45), ..KeepAlive::default() };
/// assert_eq!(keep_alive.interval, Duration::from_secs(10));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeepAlive {
    /// The silence before the first probe. In whole seconds, rounded up.
    pub idle: Duration,
    /// From one unanswered probe to the next. In whole seconds, rounded up.
    pub interval: Duration,
    /// So many unanswered probes end the connection.
    pub count: u32,
}

/// A minute of silence, then six probes in the next: two minutes. (The systems' own default is two hours and more.)
impl Default for KeepAlive {
    fn default() -> KeepAlive {
        KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 }
    }
}

/// Enough for the clients that arrive in one slow turn of a loop. The kernel takes memory for those that wait, not for
/// those that may.
const BACKLOG: u32 = 1024;

impl SocketOptions {
    /// No options.
    pub fn new() -> SocketOptions {
        SocketOptions::default()
    }

    /// So many connections may wait to be accepted, within the system's limit (`net.core.somaxconn`,
    /// `kern.ipc.somaxconn`). The default is 1024; std has 128.
    pub fn backlog(mut self, connections: u32) -> SocketOptions {
        self.backlog = Some(connections);
        self
    }

    /// Lets several sockets have the same address and port, if all of them ask for it. Linux, Android, FreeBSD and
    /// DragonFly share connections and datagrams out among them: a listener for each core.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{SocketAddr, TcpListener};
    /// use wakewheel::{Async, io::SocketOptions};
    ///
    /// fn listeners(addr: SocketAddr, count: usize) -> std::io::Result<Vec<Async<TcpListener>>> {
    ///     let options = SocketOptions::new().reuse_port();
    ///     let first = options.listen(addr)?;
    ///     let addr = first.get_ref().local_addr()?; // Port 0 has become a real one.
    ///     let others = (1..count).map(|_| options.listen(addr));
    ///     std::iter::once(Ok(first)).chain(others).collect()
    /// }
    ///
    /// assert_eq!(listeners(([127, 0, 0, 1], 0).into(), 4)?.len(), 4);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn reuse_port(mut self) -> SocketOptions {
        self.reuse_port = true;
        self
    }

    /// A socket on `[::]` serves IPv4 as well; the addresses of such peers look like `[::ffff:192.0.2.1]:80`.
    ///
    /// Without this and [`only_v6`](SocketOptions::only_v6), the system's setting holds, as it does for std: both
    /// versions on Linux and macOS, only IPv6 on the BSDs. OpenBSD cannot do otherwise, and says so. No effect on an
    /// IPv4 address.
    pub fn dual_stack(mut self) -> SocketOptions {
        self.ip_versions = IpVersions::Both;
        self
    }

    /// A socket on `[::]` leaves IPv4 alone: another one can have the port on `0.0.0.0`. No effect on an IPv4 address.
    pub fn only_v6(mut self) -> SocketOptions {
        self.ip_versions = IpVersions::OnlyV6;
        self
    }

    /// The kernel's buffer for what has arrived and is not read yet. A wish, within the system's limits; it ends the
    /// kernel's own tuning of the size.
    ///
    /// TCP announces the scale of its window when a connection begins, and never again: a large buffer that is set
    /// later is not used to the full.
    pub fn recv_buffer_size(mut self, bytes: usize) -> SocketOptions {
        self.recv_buffer_size = Some(bytes);
        self
    }

    /// The kernel's buffer for what is written and not acknowledged yet. A wish, within the system's limits; it ends
    /// the kernel's own tuning of the size.
    pub fn send_buffer_size(mut self, bytes: usize) -> SocketOptions {
        self.send_buffer_size = Some(bytes);
        self
    }

    /// Sends small writes at once (`TCP_NODELAY`), instead of waiting for the peer's acknowledgement of the last one. For
    /// whoever writes whole messages.
    pub fn nodelay(mut self) -> SocketOptions {
        self.nodelay = true;
        self
    }

    /// Probes a connection that is silent, so that one whose peer has vanished ends with an error.
    ///
    /// Linux takes up to 32767 seconds and 127 probes. OpenBSD has these figures for the whole system only
    /// (`net.inet.tcp.keepidle`): there the connections are kept alive by those.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> SocketOptions {
        self.keep_alive = Some(keep_alive);
        self
    }

    /// Dropping a connection resets it, and throws away what has not been sent yet (`SO_LINGER` of zero). Its port is free
    /// at once, instead of a minute later.
    ///
    /// There is no other time to linger for: on Linux, dropping a connection would block its thread for as long.
    pub fn reset_on_close(mut self) -> SocketOptions {
        self.reset_on_close = true;
        self
    }

    /// Connects from this address (port 0: any).
    pub fn bind_addr<A: Into<SocketAddr>>(mut self, addr: A) -> SocketOptions {
        self.bind_addr = Some(addr.into());
        self
    }

    /// Listens on `addr` (port 0: any; see `get_ref().local_addr()`). As in std, a port that old connections are still
    /// closing on can be taken again.
    ///
    /// # Errors
    ///
    /// `AddrInUse`, `PermissionDenied`, …; see [`SocketOptions`].
    pub fn listen<A: Into<SocketAddr>>(&self, addr: A) -> io::Result<Async<TcpListener>> {
        let addr = addr.into();
        Async::with_kind(self.listen_std(addr)?, Kind::Socket).map_err(|e| cannot("listen on", addr, e))
    }

    /// [`listen`](SocketOptions::listen), registered nowhere: for the core that is to use it, or for somebody else.
    ///
    /// # Errors
    ///
    /// Those of [`listen`](SocketOptions::listen).
    ///
    /// # Examples
    ///
    /// Before any core runs, so that a port that is taken is found out at once:
    ///
    /// ```
    /// use std::{io, net::TcpListener, sync::Mutex};
    /// use wakewheel::{Async, Cores, io::SocketOptions};
    ///
    /// async fn serve(listener: Async<TcpListener>) -> io::Result<()> {
    ///     // …
    /// #   drop(listener);
    ///     Ok(())
    /// }
    ///
    /// // A listener of its own for each core.
    /// let options = SocketOptions::new().reuse_port();
    /// let first = options.listen_std(([127, 0, 0, 1], 0))?;
    /// let addr = first.local_addr()?;
    /// let listeners = Mutex::new(vec![first, options.listen_std(addr)?]);
    /// Cores::builder().threads(2).try_run(|_| {
    ///     let listener = listeners.lock().unwrap().pop().expect("one for each core");
    ///     async { serve(Async::new_nonblocking(listener)?).await }
    /// })?;
    /// # io::Result::Ok(())
    /// ```
    pub fn listen_std<A: Into<SocketAddr>>(&self, addr: A) -> io::Result<TcpListener> {
        let addr = addr.into();
        let listen = || {
            let fd = self.socket(Make::TcpListener, addr)?;
            option::set_reuse_address(fd.as_fd(), true)?;
            socket::bind(fd.as_fd(), &addr.into())?;
            self.start_listening(fd)
        };
        listen().map_err(|e| cannot("listen on", addr, e))
    }

    /// Listens on a Unix socket at `path`, or with an abstract name, which begins with a NUL byte (Linux only). The file
    /// is not removed afterwards.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if there is something at `path`; `InvalidInput` if it is too long; see [`SocketOptions`].
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::io::SocketOptions;
    ///
    /// # let dir = std::env::temp_dir().join(format!("wakewheel-options-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// let path = dir.join("socket");
    /// let listener = SocketOptions::new().backlog(4096).listen_unix(&path)?;
    /// # drop(listener);
    /// std::fs::remove_file(&path)?;
    /// # std::fs::remove_dir(&dir)?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn listen_unix<P: AsRef<Path>>(&self, path: P) -> io::Result<Async<UnixListener>> {
        self.listen_unix_addr(&SockAddr::unix_path(path.as_ref())?.unix()?)
    }

    /// [`listen_unix`](SocketOptions::listen_unix), registered nowhere: for the core that is to use it, or for somebody else.
    ///
    /// # Errors
    ///
    /// Those of [`listen_unix`](SocketOptions::listen_unix).
    pub fn listen_unix_std<P: AsRef<Path>>(&self, path: P) -> io::Result<UnixListener> {
        self.listen_unix_addr_std(&SockAddr::unix_path(path.as_ref())?.unix()?)
    }

    /// [`listen_unix`](SocketOptions::listen_unix), on an address as std and [`Addr::Unix`] have it: a path, or an abstract
    /// name. With none, Linux invents an abstract name.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if there is something at that path, or somebody has that name; see [`SocketOptions`].
    pub fn listen_unix_addr(&self, addr: &UnixSocketAddr) -> io::Result<Async<UnixListener>> {
        Async::with_kind(self.listen_unix_addr_std(addr)?, Kind::Socket)
            .map_err(|e| cannot("listen on", Addr::from(addr.clone()), e))
    }

    /// [`listen_unix_addr`](SocketOptions::listen_unix_addr), registered nowhere: for the core that is to use it, or for
    /// somebody else.
    ///
    /// # Errors
    ///
    /// Those of [`listen_unix_addr`](SocketOptions::listen_unix_addr).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::fd::OwnedFd;
    /// use wakewheel::io::{Addr, SocketOptions};
    ///
    /// /// To be given to another process.
    /// fn listen(addr: &Addr) -> std::io::Result<OwnedFd> {
    ///     let options = SocketOptions::new().backlog(4096);
    ///     match addr {
    ///         Addr::Tcp(addr) => options.listen_std(*addr).map(OwnedFd::from),
    ///         Addr::Unix(addr) => options.listen_unix_addr_std(addr).map(OwnedFd::from),
    ///     }
    /// }
    ///
    /// let listener = listen(&"127.0.0.1:0".parse()?)?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn listen_unix_addr_std(&self, addr: &UnixSocketAddr) -> io::Result<UnixListener> {
        let listen = || {
            self.check(Make::UnixListener)?;
            let fd = socket::new(libc::AF_UNIX, libc::SOCK_STREAM)?;
            socket::bind(fd.as_fd(), &SockAddr::from_unix(addr))?;
            self.start_listening(fd)
        };
        listen().map_err(|e| cannot("listen on", Addr::from(addr.clone()), e))
    }

    fn start_listening<T: From<OwnedFd>>(&self, fd: OwnedFd) -> io::Result<T> {
        let backlog = self.backlog.unwrap_or(BACKLOG);
        socket::listen(fd.as_fd(), backlog.try_into().unwrap_or(libc::c_int::MAX))?;
        Ok(fd.into())
    }

    /// Connects to `addr`.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused`, …; see [`SocketOptions`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the socket.
    ///
    /// # Examples
    ///
    /// A service may insist on the address that its clients come from:
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use wakewheel::io::SocketOptions;
    ///
    /// let service = TcpListener::bind("127.0.0.1:0")?;
    /// let connecting = SocketOptions::new().bind_addr(([127, 0, 0, 1], 0)).connect(service.local_addr()?);
    /// let stream = wakewheel::block_on(connecting)?;
    /// assert!(stream.get_ref().local_addr()?.ip().is_loopback());
    /// # std::io::Result::Ok(())
    /// ```
    pub fn connect<A: Into<SocketAddr>>(
        &self,
        addr: A,
    ) -> impl Future<Output = io::Result<Async<TcpStream>>> + Send + Sync + 'static + use<A> {
        let (options, addr) = (self.clone(), addr.into());
        async move { options.try_connect(&addr).await.map_err(|e| cannot("connect to", addr, e)) }
    }

    /// Connects to `addr`, or gives up at `deadline`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut), and those of [`connect`](SocketOptions::connect).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{SocketAddr, TcpStream};
    /// use std::time::{Duration, Instant};
    /// use wakewheel::{Async, io::SocketOptions};
    ///
    /// /// The first of `addrs` that answers, in five seconds altogether.
    /// async fn connect_any(addrs: &[SocketAddr]) -> std::io::Result<Async<TcpStream>> {
    ///     let deadline = Instant::now() + Duration::from_secs(5);
    ///     let mut result = Err(std::io::ErrorKind::NotFound.into());
    ///     for addr in addrs {
    ///         result = SocketOptions::new().nodelay().connect_deadline(*addr, deadline).await;
    ///         if result.is_ok() {
    ///             break;
    ///         }
    ///     }
    ///     result
    /// }
    /// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # wakewheel::block_on(connect_any(&[listener.local_addr()?]))?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn connect_deadline<A: Into<SocketAddr>>(
        &self,
        addr: A,
        deadline: Instant,
    ) -> impl Future<Output = io::Result<Async<TcpStream>>> + Send + Sync + 'static + use<A> {
        let (options, addr) = (self.clone(), addr.into());
        async move {
            let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer by the deadline"));
            let result = timeout_at(deadline, options.try_connect(&addr)).await;
            result.unwrap_or_else(late).map_err(|e| cannot("connect to", addr, e))
        }
    }

    async fn try_connect(&self, addr: &SocketAddr) -> io::Result<Async<TcpStream>> {
        let fd = self.stream_socket(*addr)?;
        connect(fd, |fd| socket::connect(fd, &SockAddr::from(*addr)), Kind::Tcp).await
    }

    /// A socket with all that it has before it connects to `addr`.
    fn stream_socket(&self, addr: SocketAddr) -> io::Result<OwnedFd> {
        let fd = self.socket(Make::TcpStream, addr)?;
        if let Some(local) = self.bind_addr {
            let bound = if local.is_ipv4() == addr.is_ipv4() {
                if local.port() == 0 {
                    option::set_bind_address_no_port(fd.as_fd());
                }
                socket::bind(fd.as_fd(), &local.into())
            } else {
                Err(invalid("one address is IPv4 and the other IPv6".into()))
            };
            named(format_args!("bind_addr {local}"), bound)?;
        }
        Ok(fd)
    }

    /// A UDP socket on `addr` (port 0: any).
    ///
    /// # Errors
    ///
    /// `AddrInUse`, `PermissionDenied`, …; see [`SocketOptions`].
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::io::SocketOptions;
    ///
    /// // Room for the datagrams that come while their reader is busy.
    /// let socket = SocketOptions::new().recv_buffer_size(1 << 20).bind_udp(([127, 0, 0, 1], 0))?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind_udp<A: Into<SocketAddr>>(&self, addr: A) -> io::Result<Async<UdpSocket>> {
        let addr = addr.into();
        Async::with_kind(self.bind_udp_std(addr)?, Kind::Socket)
            .map_err(|e| cannot("bind a UDP socket to", addr, e))
    }

    /// [`bind_udp`](SocketOptions::bind_udp), registered nowhere: for the core that is to use it, or for somebody else.
    ///
    /// # Errors
    ///
    /// Those of [`bind_udp`](SocketOptions::bind_udp).
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::{Async, LocalExecutor, io::SocketOptions};
    ///
    /// let socket = SocketOptions::new().bind_udp_std(([127, 0, 0, 1], 0))?;
    /// LocalExecutor::new()?.block_on(async {
    ///     let socket = Async::new_nonblocking(socket)?;
    ///     socket.send_to(b"hello", socket.get_ref().local_addr()?).await
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind_udp_std<A: Into<SocketAddr>>(&self, addr: A) -> io::Result<UdpSocket> {
        let addr = addr.into();
        let bind = || {
            let fd = self.socket(Make::UdpSocket, addr)?;
            socket::bind(fd.as_fd(), &addr.into())?;
            Ok(fd.into())
        };
        bind().map_err(|e| cannot("bind a UDP socket to", addr, e))
    }

    /// A socket with every option that is set.
    fn socket(&self, make: Make, addr: SocketAddr) -> io::Result<OwnedFd> {
        self.check(make)?;
        let domain = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let kind = if make == Make::UdpSocket { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
        let socket = socket::new(domain, kind)?;
        let fd = socket.as_fd();
        if self.reuse_port {
            named("reuse_port", option::set_reuse_port(fd, true))?;
        }
        if addr.is_ipv6() {
            match self.ip_versions {
                IpVersions::AsTheSystemHasIt => {}
                IpVersions::Both => named("dual_stack", option::set_only_v6(fd, false))?,
                IpVersions::OnlyV6 => named("only_v6", option::set_only_v6(fd, true))?,
            }
        }
        if let Some(bytes) = self.recv_buffer_size {
            named("recv_buffer_size", option::set_recv_buffer_size(fd, bytes))?;
        }
        if let Some(bytes) = self.send_buffer_size {
            named("send_buffer_size", option::set_send_buffer_size(fd, bytes))?;
        }
        if self.nodelay {
            named("nodelay", option::set_nodelay(fd, true))?;
        }
        if let Some(KeepAlive { idle, interval, count }) = self.keep_alive {
            named("keep_alive", option::set_keepalive(fd, true))?;
            if cfg!(not(target_os = "openbsd")) {
                named("keep_alive: idle", option::set_keepalive_idle(fd, idle))?;
                named("keep_alive: interval", option::set_keepalive_interval(fd, interval))?;
                named("keep_alive: count", option::set_keepalive_count(fd, count))?;
            }
        }
        if self.reset_on_close {
            named("reset_on_close", option::set_linger(fd, Some(Duration::ZERO)))?;
        }
        Ok(socket)
    }

    /// Is there an option that `make` does not have?
    fn check(&self, make: Make) -> io::Result<()> {
        use Make::{TcpListener, TcpStream, UdpSocket, UnixListener};
        let options: [(&str, bool, &[Make]); 10] = [
            ("backlog", self.backlog.is_some(), &[TcpListener, UnixListener]),
            ("reuse_port", self.reuse_port, &[TcpListener, TcpStream, UdpSocket]),
            ("dual_stack", self.ip_versions == IpVersions::Both, &[TcpListener, UdpSocket]),
            ("only_v6", self.ip_versions == IpVersions::OnlyV6, &[TcpListener, UdpSocket]),
            ("recv_buffer_size", self.recv_buffer_size.is_some(), &[TcpListener, TcpStream, UdpSocket]),
            ("send_buffer_size", self.send_buffer_size.is_some(), &[TcpListener, TcpStream, UdpSocket]),
            ("nodelay", self.nodelay, &[TcpListener, TcpStream]),
            ("keep_alive", self.keep_alive.is_some(), &[TcpListener, TcpStream]),
            ("reset_on_close", self.reset_on_close, &[TcpListener, TcpStream]),
            ("bind_addr", self.bind_addr.is_some(), &[TcpStream]),
        ];
        match options.into_iter().find(|(_, is_set, of)| *is_set && !of.contains(&make)) {
            Some((name, ..)) => Err(invalid(format!("{name} is not an option for a {make:?}"))),
            None => Ok(()),
        }
    }
}

/// What is to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Make {
    TcpListener,
    TcpStream,
    UdpSocket,
    UnixListener,
}

fn named(option: impl fmt::Display, result: io::Result<()>) -> io::Result<()> {
    result.map_err(|e| {
        let text = format!("{option}: {e}");
        explained(e, text)
    })
}

pub(super) fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// The error of an attempt to `do_it` with an address, which shall be in it.
pub(super) fn cannot(do_it: &str, addr: impl fmt::Display, e: io::Error) -> io::Error {
    let text = format!("cannot {do_it} {addr}: {e}");
    explained(e, text)
}
