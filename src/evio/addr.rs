//! Addresses as a server takes them, and the sockets that it listens on.
//!
//! What is made here is std's, non-blocking, and registered with no reactor: each core that serves it registers a
//! descriptor of its own.

use crate::Async;
use crate::io::SocketOptions;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::{fmt, fs, io, path};

/// Where a server listens, or who a peer is.
///
/// It is printed in the form in which a server takes an address: `tcp://127.0.0.1:5000`, `udp://[::1]:5000`,
/// `unix:///tmp/x.sock`, `unix://@name` for an abstract name, which Linux has. A peer without a name is `unix://`. Control
/// characters, and bytes that are not UTF-8, are printed escaped. (A `?` in a path begins the options of an
/// address: such a path is printed, but not taken.)
///
/// An IPv4 address is one, also where the kernel says `[::ffff:192.0.2.1]` because the socket is for both versions.
///
/// # Examples
///
/// ```
/// use std::net::SocketAddr;
/// use wakewheel::{evio::Addr, io};
///
/// let peer: SocketAddr = "[::ffff:192.0.2.1]:5000".parse()?;
/// let peer = Addr::from(io::Addr::from(peer));
/// assert_eq!(peer.to_string(), "tcp://192.0.2.1:5000");
/// assert_eq!(peer.socket_addr().map(|addr| addr.port()), Some(5000));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug)]
pub enum Addr {
    /// IPv4 or IPv6, and a port.
    Tcp(SocketAddr),
    /// IPv4 or IPv6, and a port.
    Udp(SocketAddr),
    /// A path, an abstract name, or none.
    Unix(UnixSocketAddr),
}

impl Addr {
    /// The address of a TCP socket, as the kernel gives it.
    pub(super) fn tcp(addr: SocketAddr) -> Addr {
        Addr::Tcp(unmapped(addr))
    }

    /// The address of a UDP socket, as the kernel gives it.
    pub(super) fn udp(addr: SocketAddr) -> Addr {
        Addr::Udp(unmapped(addr))
    }

    /// The Internet address and the port. `None` for a Unix socket.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Addr::Tcp(addr) | Addr::Udp(addr) => Some(*addr),
            Addr::Unix(_) => None,
        }
    }
}

/// `[::ffff:192.0.2.1]` is an IPv4 address to everybody but an IPv6 socket.
fn unmapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, addr.port()).into(),
        // As it is, with its scope.
        IpAddr::V6(_) => addr,
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Addr::Tcp(addr) => format!("tcp://{addr}"),
            Addr::Udp(addr) => format!("udp://{addr}"),
            Addr::Unix(addr) => {
                let text = crate::io::Addr::from(addr.clone()).to_string();
                format!("unix://{}", text.strip_prefix("unix:").unwrap_or(&text))
            }
        };
        f.pad(&text)
    }
}

/// Unix addresses are equal if their names are, byte by byte. Those without a name are all equal.
impl PartialEq for Addr {
    fn eq(&self, other: &Addr) -> bool {
        match (self, other) {
            (Addr::Tcp(a), Addr::Tcp(b)) | (Addr::Udp(a), Addr::Udp(b)) => a == b,
            (Addr::Unix(a), Addr::Unix(b)) => {
                crate::io::Addr::from(a.clone()) == crate::io::Addr::from(b.clone())
            }
            _ => false,
        }
    }
}

impl Eq for Addr {}

impl Hash for Addr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Addr::Tcp(addr) | Addr::Udp(addr) => addr.hash(state),
            Addr::Unix(addr) => crate::io::Addr::from(addr.clone()).hash(state),
        }
    }
}

impl From<crate::io::Addr> for Addr {
    fn from(addr: crate::io::Addr) -> Addr {
        match addr {
            crate::io::Addr::Tcp(addr) => Addr::tcp(addr),
            crate::io::Addr::Unix(addr) => Addr::Unix(addr),
        }
    }
}

/// What to listen on, as a server takes it: `[scheme://]address[?key=value&…]`.
///
/// | scheme                            | address |
/// |-----------------------------------|---------|
/// | `tcp` (the default), `udp`        | `host:port`, `ip:port`, `[ipv6]:port`; `:port` and nothing are for both versions of IP, with any port if none is given or it is 0 |
/// | `tcp4`, `udp4`, `tcp6`, `udp6`    | the same, for one version of IP |
/// | `unix`                            | a path, which may be relative, or `@name` for an abstract name |
///
/// The only key is `reuseport`, which is on if its value begins with 1 to 9, t, T, y or Y; others are passed over.
#[derive(Clone, Debug)]
pub(super) struct Listen {
    /// As it was given, for errors.
    text: String,
    place: Place,
    reuse_port: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Tcp(Inet),
    Udp(Inet),
    /// An abstract name begins with a NUL byte, as `SocketOptions` have it.
    Unix(PathBuf),
}

#[derive(Clone, Debug)]
struct Inet {
    versions: Versions,
    host: Host,
    port: u16,
}

/// Which versions of IP a scheme is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Versions {
    Both,
    V4,
    V6,
}

#[derive(Clone, Debug)]
enum Host {
    /// None is given: all of this machine's addresses.
    Any,
    Ip(SocketAddr),
    Name(String),
}

/// Connections that may wait to be accepted: a server on few cores may have many clients that come at once.
const BACKLOG: u32 = 4096;

impl Listen {
    /// Understands `text`. Nothing is looked up or opened.
    ///
    /// Errors: `InvalidInput`, with `text` in it, and what to write.
    pub fn parse(text: &str) -> io::Result<Listen> {
        let wrong = |why: &str| Err(invalid(format!("not an address: {text:?}: {why}")));
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let (scheme, address) = address.split_once("://").unwrap_or(("tcp", address));

        use Versions::{Both, V4, V6};
        let inet = |versions| Inet::parse(versions, address);
        let place = match scheme {
            "tcp" => inet(Both).map(Place::Tcp),
            "tcp4" => inet(V4).map(Place::Tcp),
            "tcp6" => inet(V6).map(Place::Tcp),
            "udp" => inet(Both).map(Place::Udp),
            "udp4" => inet(V4).map(Place::Udp),
            "udp6" => inet(V6).map(Place::Udp),
            "unix" => unix_path(address).map(Place::Unix),
            scheme => {
                Err(format!("there is no scheme {scheme:?}: write tcp, tcp4, tcp6, udp, udp4, udp6 or unix"))
            }
        };
        let mut reuse_port = false;
        for (key, value) in query.split('&').filter_map(|part| part.split_once('=')) {
            if key == "reuseport" {
                reuse_port = value.starts_with(|c| matches!(c, '1'..='9' | 't' | 'T' | 'y' | 'Y'));
            }
        }
        match place {
            Ok(place) => Ok(Listen { text: text.to_owned(), place, reuse_port }),
            Err(why) => wrong(&why),
        }
    }

    /// Shall there be a listener for each core? Never for Unix sockets, which cannot have it.
    pub fn reuse_port(&self) -> bool {
        self.reuse_port && !matches!(self.place, Place::Unix(_))
    }

    /// Has a host to be looked up?
    pub fn is_a_name(&self) -> bool {
        matches!(&self.place, Place::Tcp(Inet { host: Host::Name(_), .. }))
    }

    /// Where a connection to it may go, in the order in which to try. A host name is looked up, which blocks.
    ///
    /// Errors: those of the resolver, with the address in the text. `InvalidInput` if there is no host to connect to.
    pub fn peers(&self) -> io::Result<Vec<Addr>> {
        match &self.place {
            Place::Unix(path) => Ok(vec![unix_addr(path)?]),
            Place::Tcp(inet) if inet.port != 0 && !matches!(inet.host, Host::Any) => {
                Ok(inet.look_up(&self.text)?.into_iter().map(Addr::Tcp).collect())
            }
            Place::Tcp(_) => {
                Err(invalid(format!("cannot connect to {:?}: write a host and a port", self.text)))
            }
            Place::Udp(_) => {
                let why = "datagrams need no connection, see Server::send_to";
                Err(invalid(format!("cannot connect to {:?}: {why}", self.text)))
            }
        }
    }

    /// Opens a socket there. A host name is looked up, which blocks. The connections of a TCP listener inherit `nodelay`.
    ///
    /// Errors: what the kernel or the resolver says, with the address in the text. `AddrInUse` where a server listens on
    /// the Unix socket already, `AlreadyExists` if there is something else at its path.
    pub fn bind(&self, nodelay: bool) -> io::Result<Bound> {
        match &self.place {
            Place::Unix(path) => bind_unix(path, &self.text),
            Place::Tcp(inet) | Place::Udp(inet) => {
                let addr = inet.resolve(&self.text)?;
                match self.bind_at(addr, nodelay) {
                    Err(e)
                        if matches!(inet.host, Host::Any)
                            && inet.versions == Versions::Both
                            && lacks_v6(&e) =>
                    {
                        self.bind_at((Ipv4Addr::UNSPECIFIED, inet.port).into(), nodelay)
                    }
                    result => result,
                }
            }
        }
    }

    /// Opens one more socket at the address that the first one got. Both of them have asked for `reuseport`.
    ///
    /// Errors: what the kernel says; `InvalidInput` if `addr` is not of this scheme, or a Unix socket.
    pub fn bind_again(&self, addr: &Addr, nodelay: bool) -> io::Result<Bound> {
        match (&self.place, addr) {
            (Place::Tcp(_), Addr::Tcp(addr)) | (Place::Udp(_), Addr::Udp(addr)) => {
                self.bind_at(*addr, nodelay)
            }
            _ => Err(invalid(format!("{:?} cannot have one more listener, at {addr}", self.text))),
        }
    }

    fn bind_at(&self, addr: SocketAddr, nodelay: bool) -> io::Result<Bound> {
        let (Place::Tcp(inet) | Place::Udp(inet)) = &self.place else {
            unreachable!("{:?} is no Internet address", self.text)
        };
        let mut options = SocketOptions::new();
        if self.reuse_port {
            options = options.reuse_port();
        }
        if inet.versions == Versions::V6 {
            options = options.only_v6();
        } else if addr.is_ipv6() && addr.ip().is_unspecified() {
            options = options.dual_stack();
        }
        if let Place::Udp(_) = self.place {
            return options.bind_udp(addr)?.into_inner().map(Bound::Udp);
        }
        if nodelay {
            options = options.nodelay();
        }
        options.backlog(BACKLOG).listen(addr)?.into_inner().map(Bound::Tcp)
    }
}

impl Inet {
    /// Errors: what is wrong with it, and what to write.
    fn parse(versions: Versions, address: &str) -> Result<Inet, String> {
        if address.is_empty() {
            return Ok(Inet { versions, host: Host::Any, port: 0 });
        }
        let no_port = || format!("the port is missing: write {address}:PORT, with 0 for any");
        let (host, port) = match address.strip_prefix('[') {
            Some(address) => match address.split_once(']') {
                Some((host, port)) => (host, port.strip_prefix(':').ok_or_else(no_port)?),
                None => return Err("the ] after the IPv6 address is missing".into()),
            },
            None => address.rsplit_once(':').ok_or_else(no_port)?,
        };
        if !address.starts_with('[') && host.contains(':') {
            return Err("write an IPv6 address in brackets, and a port: [::1]:5000".into());
        }
        if port.is_empty() {
            return Err("the port is missing after the colon: write a number, 0 for any".into());
        }
        // `parse` takes a sign.
        let number = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten();
        let port = number.ok_or_else(|| format!("the port {port:?} is not a number from 0 to 65535"))?;

        let ip = if address.starts_with('[') {
            // With its scope, if it has one.
            format!("[{host}]:{port}").parse().ok()
        } else {
            host.parse().ok().map(|ip: Ipv4Addr| SocketAddr::from((ip, port)))
        };
        let host = match ip.map(unmapped) {
            Some(ip) if !versions.include(ip) => return Err(versions.miss(host)),
            Some(ip) => Host::Ip(ip),
            None if host.is_empty() && address.starts_with('[') => {
                return Err("there is no IPv6 address in the brackets".into());
            }
            None if host.is_empty() => Host::Any,
            None => Host::Name(host.to_owned()),
        };
        Ok(Inet { versions, host, port })
    }

    /// Where to bind.
    fn resolve(&self, text: &str) -> io::Result<SocketAddr> {
        Ok(self.look_up(text)?[0])
    }

    /// All addresses, at least one. Those of IPv4 are first, as in Go: a name with both is most often reached by these.
    fn look_up(&self, text: &str) -> io::Result<Vec<SocketAddr>> {
        let name = match &self.host {
            Host::Ip(addr) => return Ok(vec![*addr]),
            Host::Any if self.versions == Versions::V4 => {
                return Ok(vec![(IpAddr::V4(Ipv4Addr::UNSPECIFIED), self.port).into()]);
            }
            Host::Any => return Ok(vec![(IpAddr::V6(Ipv6Addr::UNSPECIFIED), self.port).into()]),
            Host::Name(name) => name,
        };
        let addrs = (name.as_str(), self.port).to_socket_addrs().map_err(|e| {
            let text = format!("{text:?}: the host {name:?} is not found: {e}");
            io::Error::new(e.kind(), text)
        })?;
        let mut addrs: Vec<_> = addrs.map(unmapped).filter(|addr| self.versions.include(*addr)).collect();
        addrs.sort_by_key(SocketAddr::is_ipv6);
        match addrs.is_empty() {
            true => Err(invalid(format!("{text:?}: {}", self.versions.miss(name)))),
            false => Ok(addrs),
        }
    }
}

impl Versions {
    fn include(self, addr: SocketAddr) -> bool {
        match self {
            Versions::Both => true,
            Versions::V4 => addr.is_ipv4(),
            Versions::V6 => addr.is_ipv6(),
        }
    }

    /// `host` has no address that is included.
    fn miss(self, host: &str) -> String {
        match self {
            Versions::Both => format!("{host} has no address"),
            Versions::V4 => format!("{host} has no IPv4 address: write tcp or udp, without the 4"),
            Versions::V6 => format!("{host} has no IPv6 address: write tcp or udp, without the 6"),
        }
    }
}

/// Did an IPv6 socket for both versions fail because the system has no such thing?
fn lacks_v6(e: &io::Error) -> bool {
    let source = std::error::Error::source(e).and_then(|source| source.downcast_ref::<io::Error>());
    match source.unwrap_or(e).raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EADDRNOTAVAIL) => true,
        // It has IPv6, and no sockets for both.
        Some(libc::EINVAL | libc::ENOPROTOOPT) => cfg!(target_os = "openbsd"),
        _ => false,
    }
}

/// Errors: what is wrong with it, and what to write.
fn unix_path(name: &str) -> Result<PathBuf, String> {
    let abstract_name = name.strip_prefix('@');
    if abstract_name.unwrap_or(name).is_empty() {
        return Err("the path is missing: write unix:///run/name.sock".into());
    }
    if abstract_name.is_none() && name.contains('\0') {
        return Err("there is a NUL byte in the path".into());
    }
    // It knows how long a name may be, and where there are abstract ones.
    match format!("unix:{name}").parse::<crate::io::Addr>() {
        Ok(_) => Ok(abstract_name.map_or_else(|| name.into(), |name| format!("\0{name}").into())),
        Err(e) => Err(e.to_string()),
    }
}

fn unix_addr(path: &Path) -> io::Result<Addr> {
    let name = path.as_os_str().as_encoded_bytes();
    let addr = match name.strip_prefix(b"\0") {
        Some(name) => format!("unix:@{}", String::from_utf8_lossy(name)).parse::<crate::io::Addr>()?,
        None => UnixSocketAddr::from_pathname(path)?.into(),
    };
    Ok(addr.into())
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// A socket to serve: of std, non-blocking, registered nowhere.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
    /// With its file, if it has one. Whoever closes the listener drops both.
    Unix(UnixListener, Option<SocketFile>),
}

impl Bound {
    /// Where it is, with the port that it got.
    pub fn addr(&self) -> io::Result<Addr> {
        match self {
            Bound::Tcp(listener) => listener.local_addr().map(Addr::tcp),
            Bound::Udp(socket) => socket.local_addr().map(Addr::udp),
            Bound::Unix(listener, _) => listener.local_addr().map(Addr::Unix),
        }
    }
}

fn bind_unix(path: &Path, text: &str) -> io::Result<Bound> {
    let listen = || SocketOptions::new().backlog(BACKLOG).listen_unix(path)?.into_inner();
    if path.as_os_str().as_encoded_bytes().starts_with(b"\0") {
        return Ok(Bound::Unix(listen()?, None));
    }
    let listener = match listen() {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, text)?;
            listen()?
        }
        result => result?,
    };
    let file = SocketFile::of(path)?;
    Ok(Bound::Unix(listener, Some(file)))
}

/// Removes the socket of a server that could not do so itself. Anything else stays where it is, and is an error.
fn remove_stale(path: &Path, text: &str) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        // Whoever had it was faster.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    if !file.file_type().is_socket() {
        let text =
            format!("cannot listen on {text:?}: {path:?} exists and is not a socket: choose another path");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    if !is_stale(path) {
        let text = format!("cannot listen on {text:?}: another server listens there");
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    SocketFile::new(path, &file).map(drop)
}

/// Does the kernel say that nobody listens? Asked once, without waiting: where there are too many connections for the
/// server to accept, there is a server.
fn is_stale(path: &Path) -> bool {
    let connecting = pin!(Async::<UnixStream>::connect(path));
    match connecting.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(e)) => e.kind() == io::ErrorKind::ConnectionRefused,
        Poll::Ready(Ok(_)) | Poll::Pending => false,
    }
}

/// The file of a Unix socket. It is removed when this is dropped, if it is still the same one: a new server may have taken
/// its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    /// From the root: the program may go to another directory.
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The one that was bound just now.
    fn of(path: &Path) -> io::Result<SocketFile> {
        SocketFile::new(path, &fs::symlink_metadata(path)?)
    }

    fn new(path: &Path, file: &fs::Metadata) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path::absolute(path)?, device: file.dev(), inode: file.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Ok(file) = fs::symlink_metadata(&self.path) {
            if file.file_type().is_socket() && (file.dev(), file.ino()) == (self.device, self.inode) {
                // If it cannot be removed, the next server can replace it.
                let _ = fs::remove_file(&self.path);
            }
        }
    }
}
