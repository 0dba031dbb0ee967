//! Addresses as a server takes them, and the sockets that it listens on.
//!
//! What is made here is std's, non-blocking, and registered with no reactor: each core that serves it registers a
//! descriptor of its own.

use crate::Async;
use crate::io::SocketOptions;
use crate::net::resolve_host;
use crate::sys::error::explained;
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
    pub(crate) fn tcp(addr: SocketAddr) -> Addr {
        Addr::Tcp(unmapped(addr))
    }

    /// The address of a UDP socket, as the kernel gives it.
    pub(crate) fn udp(addr: SocketAddr) -> Addr {
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

/// The other way: as a socket for both versions takes an address to send to. (Linux takes the IPv4 address as well.)
pub(crate) fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => addr,
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
pub(crate) struct Listen {
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

    /// Is it for datagrams?
    pub fn is_udp(&self) -> bool {
        matches!(self.place, Place::Udp(_))
    }

    /// It is for datagrams, and should not be.
    pub fn not_a_stream(&self) -> io::Error {
        invalid(format!("cannot listen on {:?}: datagrams are for callbacks, see `Handler::data`", self.text))
    }

    /// Where a connection to it may go, in the order in which to try. A host name is looked up.
    ///
    /// Errors: those of the resolver, with the address in the text. `InvalidInput` if there is no host to connect to.
    pub async fn peers(&self) -> io::Result<Vec<Addr>> {
        match &self.place {
            Place::Unix(path) => Ok(vec![unix_addr(path)?]),
            Place::Tcp(inet) if inet.port != 0 && !matches!(inet.host, Host::Any) => {
                let found = match inet.known() {
                    Ok(addr) => vec![addr],
                    Err(name) => inet.found(&self.text, name, resolve_host(name, inet.port).await)?,
                };
                Ok(found.into_iter().map(Addr::Tcp).collect())
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
        self.bind_first(nodelay).map_err(|e| self.quoted(e))
    }

    /// What the kernel says, with the address as it was given.
    fn quoted(&self, e: io::Error) -> io::Error {
        if e.to_string().contains(&self.text) {
            return e;
        }
        let text = match std::error::Error::source(&e) {
            Some(kernel) => format!("cannot listen on {:?}: {kernel}", self.text),
            None => format!("cannot listen on {:?}: {e}", self.text),
        };
        explained(e, text)
    }

    fn bind_first(&self, nodelay: bool) -> io::Result<Bound> {
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
                self.bind_at(*addr, nodelay).map_err(|e| self.quoted(e))
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
            return options.bind_udp_std(addr).map(Bound::Udp);
        }
        if nodelay {
            options = options.nodelay();
        }
        options.backlog(BACKLOG).listen_std(addr).map(Bound::Tcp)
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

    /// Where to bind. A host name is looked up, which blocks.
    fn resolve(&self, text: &str) -> io::Result<SocketAddr> {
        let name = match self.known() {
            Ok(addr) => return Ok(addr),
            Err(name) => name,
        };
        let addrs = (name, self.port).to_socket_addrs().map(Iterator::collect);
        Ok(self.found(text, name, addrs)?[0])
    }

    /// The address, unless it is that of a name. `Err`: the name.
    fn known(&self) -> Result<SocketAddr, &str> {
        match &self.host {
            Host::Ip(addr) => Ok(*addr),
            Host::Any if self.versions == Versions::V4 => {
                Ok((IpAddr::V4(Ipv4Addr::UNSPECIFIED), self.port).into())
            }
            Host::Any => Ok((IpAddr::V6(Ipv6Addr::UNSPECIFIED), self.port).into()),
            Host::Name(name) => Err(name),
        }
    }

    /// What was found for `name`: at least one address. Those of IPv4 are first, as in Go: a name with both is most often
    /// reached by these.
    fn found(
        &self,
        text: &str,
        name: &str,
        addrs: io::Result<Vec<SocketAddr>>,
    ) -> io::Result<Vec<SocketAddr>> {
        let addrs = addrs.map_err(|e| {
            // The resolver's word, without the name, which is there already.
            let why = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            io::Error::new(e.kind(), format!("{text:?}: the host {name:?} is not found: {why}"))
        })?;
        let mut addrs: Vec<_> =
            addrs.into_iter().map(unmapped).filter(|addr| self.versions.include(*addr)).collect();
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
pub(crate) enum Bound {
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
    let listen = || SocketOptions::new().backlog(BACKLOG).listen_unix_std(path);
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
    let why = match connect_now(path) {
        Some(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
            // To drop it removes the file, unless that is another one by now.
            return SocketFile::new(path, &file).map(drop);
        }
        Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Some(Err(e)) => format!("another server may be there: {e}"),
        Some(Ok(_)) | None => "another server is there".into(),
    };
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("cannot listen on {text:?}: {why}")))
}

/// Tries to connect, once. `None` if one would have to wait: the server has more connections than it can accept.
fn connect_now(path: &Path) -> Option<io::Result<Async<UnixStream>>> {
    let connecting = pin!(Async::<UnixStream>::connect(path));
    match connecting.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// The file of a Unix socket. It is removed when this is dropped, if it is still the same one: a new server may have taken
/// its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::ErrorKind;
    use std::net::TcpStream;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixDatagram;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn listen(text: &str) -> Listen {
        Listen::parse(text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn bind(text: &str) -> Bound {
        listen(text).bind(true).unwrap_or_else(|e| panic!("{e}"))
    }

    fn port(bound: &Bound) -> u16 {
        bound.addr().unwrap().socket_addr().unwrap().port()
    }

    fn has_v6() -> bool {
        UdpSocket::bind("[::1]:0").is_ok()
    }

    /// A directory of a test's own.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let dir = std::env::temp_dir().join(format!("wakewheel-addr-{}-{number}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            Dir(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn text(&self, name: &str) -> String {
            format!("unix://{}", self.path(name).display())
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_cannot_be_understood_is_quoted_and_says_what_to_write() {
        let wrong = [
            ("tpc://:5000", "no scheme \"tpc\""),
            ("http://localhost", "no scheme"),
            ("tcp-net://:0", "no scheme"),
            ("TCP://:0", "no scheme"),
            ("localhost", "the port is missing: write localhost:PORT"),
            ("tcp://127.0.0.1", "the port is missing"),
            ("tcp://localhost:", "the port is missing after the colon"),
            ("tcp://[::1]", "the port is missing"),
            ("tcp://[::1]5000", "the port is missing"),
            ("tcp://[::1", "the ] "),
            ("tcp://[]:5000", "no IPv6 address in the brackets"),
            ("tcp://::1:5000", "in brackets"),
            ("tcp://:65536", "the port \"65536\""),
            ("udp://:-1", "the port \"-1\""),
            ("udp://:+1", "the port \"+1\""),
            ("tcp://:http?reuseport=1", "the port \"http\""),
            ("tcp4://[::1]:0", "::1 has no IPv4 address"),
            ("udp6://127.0.0.1:0", "127.0.0.1 has no IPv6 address"),
            ("tcp6://[::ffff:127.0.0.1]:0", "has no IPv6 address"),
            ("unix://", "the path is missing"),
            ("unix://?reuseport=1", "the path is missing"),
            ("unix://@", "the path is missing"),
            ("unix:///tmp/a\0b", "NUL byte"),
        ];
        for (text, why) in wrong {
            let e = Listen::parse(text).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(e.to_string().contains(&format!("{text:?}")), "{e}");
            assert!(e.to_string().contains(why), "{e}: not {why}");
        }
        let long = format!("unix:///{}", "p".repeat(200));
        let e = Listen::parse(&long).unwrap_err();
        assert!(e.to_string().contains("at most"), "{e}");
    }

    #[test]
    fn reuseport_is_on_for_the_values_that_evio_knows() {
        for (query, on) in [
            ("", false),
            ("?", false),
            ("?reuseport", false),
            ("?reuseport=", false),
            ("?reuseport=1", true),
            ("?reuseport=9", true),
            ("?reuseport=true", true),
            ("?reuseport=True", true),
            ("?reuseport=yes", true),
            ("?reuseport=Y", true),
            ("?reuseport=0", false),
            ("?reuseport=01", false),
            ("?reuseport=false", false),
            ("?reuseport=on", false),
            ("?reuseport=-1", false),
            ("?REUSEPORT=1", false),
            ("?reuseport=0&reuseport=1", true),
            ("?reuseport=1&reuseport=0", false),
            ("?other=1&&=&x&reuseport=t&also=0", true),
        ] {
            assert_eq!(listen(&format!("tcp://:0{query}")).reuse_port(), on, "{query}");
            assert_eq!(listen(&format!("udp://{query}")).reuse_port(), on, "{query}");
            assert!(!listen(&format!("unix:///tmp/x{query}")).reuse_port(), "{query}");
        }
    }

    #[test]
    fn the_schemes_bind_what_they_say() {
        let v4 = ["127.0.0.1:0", "tcp://127.0.0.1:0", "tcp4://127.0.0.1:0", "tcp4://:0", "tcp://localhost:0"];
        for text in v4.into_iter().chain(["tcp4://", "tcp4://localhost:0", "tcp://[::ffff:127.0.0.1]:0"]) {
            let addr = bind(text).addr().unwrap();
            assert!(matches!(addr, Addr::Tcp(SocketAddr::V4(addr)) if addr.port() != 0), "{text}: {addr}");
        }
        for text in ["udp://127.0.0.1:0", "udp4://127.0.0.1:0", "udp4://", "udp4://:0", "udp://localhost:0"] {
            let addr = bind(text).addr().unwrap();
            assert!(matches!(addr, Addr::Udp(SocketAddr::V4(addr)) if addr.port() != 0), "{text}: {addr}");
        }
        if !has_v6() {
            return println!("skipped: no IPv6 here");
        }
        for text in
            ["tcp://[::1]:0", "tcp6://[::1]:0", "tcp6://", "tcp6://:0", "tcp://", "tcp://:0", ":0", ""]
        {
            let addr = bind(text).addr().unwrap();
            assert!(matches!(addr, Addr::Tcp(SocketAddr::V6(addr)) if addr.port() != 0), "{text}: {addr}");
        }
        for text in ["udp://[::1]:0", "udp6://[::1]:0", "udp6://", "udp://", "udp://:0"] {
            let addr = bind(text).addr().unwrap();
            assert!(matches!(addr, Addr::Udp(SocketAddr::V6(addr)) if addr.port() != 0), "{text}: {addr}");
        }
    }

    #[test]
    fn a_host_that_nobody_knows_is_an_error_with_the_address() {
        // RFC 6761: this is never a name.
        let e = listen("tcp://no.such.host.invalid:0").bind(false).unwrap_err();
        assert!(e.to_string().contains("\"tcp://no.such.host.invalid:0\""), "{e}");
    }

    #[test]
    fn sockets_do_not_block_and_connections_inherit_nodelay() {
        for nodelay in [true, false] {
            let Bound::Tcp(listener) = listen("127.0.0.1:0").bind(nodelay).unwrap() else {
                panic!("not TCP")
            };
            assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            listener.set_nonblocking(false).unwrap();
            let (server, _) = listener.accept().unwrap();
            assert_eq!(server.nodelay().unwrap(), nodelay);
        }
        let Bound::Udp(socket) = bind("udp://127.0.0.1:0") else { panic!("not UDP") };
        assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn one_address_is_for_both_versions_of_ip_and_for_several_listeners() {
        let first = bind("tcp://:0?reuseport=1");
        let text = format!("tcp://:{}?reuseport=yes", port(&first));
        let mut all: Vec<_> = (0..2).map(|_| bind(&text)).collect();
        for _ in 0..2 {
            all.push(listen(&text).bind_again(&first.addr().unwrap(), true).unwrap());
        }
        for other in &all {
            assert_eq!(other.addr().unwrap(), first.addr().unwrap());
        }
        TcpStream::connect(("127.0.0.1", port(&first))).unwrap();
        if has_v6() {
            TcpStream::connect(("::1", port(&first))).unwrap();
        }

        let alone = bind("tcp://:0");
        let e = listen(&format!("tcp://:{}", port(&alone))).bind(true).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_udp_address_is_for_both_versions_of_ip_and_for_several_sockets() {
        let text = "udp://?reuseport=1";
        let first = bind(text);
        let again = listen(text).bind_again(&first.addr().unwrap(), true).unwrap();
        assert_eq!(again.addr().unwrap(), first.addr().unwrap());
        drop(again);
        let Bound::Udp(socket) = &first else { panic!("not UDP") };
        socket.set_nonblocking(false).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", ("127.0.0.1", port(&first))).unwrap();
        let (_, peer) = socket.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(Addr::udp(peer), Addr::Udp(client.local_addr().unwrap()), "an IPv4 peer is one");
        if socket.local_addr().unwrap().is_ipv6() {
            socket.send_to(b"y", mapped(client.local_addr().unwrap())).unwrap();
            assert_eq!(client.recv(&mut [0; 8]).unwrap(), 1);
        }
    }

    #[test]
    fn that_there_is_no_ipv6_is_not_mistaken_for_another_error() {
        // An address that is for documents, not for machines. The kernel's error is behind one of ours.
        let e = SocketOptions::new().listen_std(([192, 0, 2, 1], 0)).unwrap_err();
        assert_eq!((e.raw_os_error(), lacks_v6(&e)), (None, true), "{e}");
        assert!(lacks_v6(&io::Error::from_raw_os_error(libc::EAFNOSUPPORT)));
        assert!(!lacks_v6(&io::Error::from_raw_os_error(libc::EADDRINUSE)));
        assert!(!lacks_v6(&invalid("no number".into())));
    }

    #[test]
    fn one_more_listener_is_of_the_same_kind() {
        let dir = Dir::new();
        let unix = bind(&dir.text("socket"));
        let addr = unix.addr().unwrap();
        for text in [dir.text("socket"), "tcp://:0?reuseport=1".into(), "udp://:0?reuseport=1".into()] {
            let e = listen(&text).bind_again(&addr, true).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
        }
    }

    #[test]
    fn version_six_alone_leaves_the_port_of_version_four() {
        if !has_v6() {
            return println!("skipped: no IPv6 here");
        }
        let six = bind("tcp6://:0");
        let e = TcpStream::connect(("127.0.0.1", port(&six))).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn the_file_of_a_unix_socket_goes_with_it() {
        let dir = Dir::new();
        let bound = bind(&dir.text("socket"));
        assert_eq!(bound.addr().unwrap().to_string(), dir.text("socket"));
        UnixStream::connect(dir.path("socket")).unwrap();
        drop(bound);
        assert!(!dir.path("socket").exists());
    }

    #[test]
    fn the_socket_of_a_server_that_is_gone_is_replaced() {
        let dir = Dir::new();
        drop(UnixListener::bind(dir.path("socket")).unwrap());
        let bound = bind(&dir.text("socket"));
        UnixStream::connect(dir.path("socket")).unwrap();
        drop(bound);
        assert!(!dir.path("socket").exists());
    }

    #[test]
    fn the_socket_of_another_server_stays() {
        let dir = Dir::new();
        let other = UnixListener::bind(dir.path("socket")).unwrap();
        let e = listen(&dir.text("socket")).bind(false).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AddrInUse);
        assert!(e.to_string().contains(&format!("{:?}", dir.text("socket"))), "{e}");
        // Also when it is so busy that there is no room for one more connection. (The BSDs say "refused" then.)
        if cfg!(any(target_os = "linux", target_os = "android")) {
            let full = SocketOptions::new().backlog(0).listen_unix_std(dir.path("full")).unwrap();
            let _waits = UnixStream::connect(dir.path("full")).unwrap();
            let e = listen(&dir.text("full")).bind(false).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::AddrInUse);
            drop(full);
        }
        // Or speaks another language.
        let _datagrams = UnixDatagram::bind(dir.path("datagrams")).unwrap();
        let e = listen(&dir.text("datagrams")).bind(false).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AddrInUse);
        drop(other);
        bind(&dir.text("socket"));
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = Dir::new();
        fs::write(dir.path("file"), "precious").unwrap();
        fs::create_dir(dir.path("directory")).unwrap();
        fs::write(dir.path("directory/file"), "precious").unwrap();
        symlink(dir.path("file"), dir.path("link")).unwrap();
        symlink(dir.path("directory"), dir.path("link to a directory")).unwrap();
        symlink(dir.path("nothing"), dir.path("link to nothing")).unwrap();
        for name in ["file", "directory", "link", "link to a directory", "link to nothing"] {
            let e = listen(&dir.text(name)).bind(false).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{name}: {e}");
            assert!(e.to_string().contains(&format!("{:?}", dir.path(name))), "{e}");
            assert!(fs::symlink_metadata(dir.path(name)).is_ok(), "{name}");
        }
        assert_eq!(fs::read(dir.path("directory/file")).unwrap(), b"precious");
        assert!(!dir.path("nothing").exists());
    }

    #[test]
    fn a_file_that_is_another_one_by_now_stays() {
        let dir = Dir::new();
        let (old, path) = (bind(&dir.text("socket")), dir.path("socket"));
        // It keeps its inode: the next socket is another one for certain.
        fs::rename(&path, dir.path("elsewhere")).unwrap();
        let _new = UnixListener::bind(&path).unwrap();
        drop(old);
        UnixStream::connect(&path).unwrap();

        let old = bind(&dir.text("other"));
        fs::rename(dir.path("other"), dir.path("away")).unwrap();
        fs::write(dir.path("other"), "precious").unwrap();
        drop(old);
        assert_eq!(fs::read(dir.path("other")).unwrap(), b"precious");
    }

    #[test]
    fn a_file_that_is_gone_already_is_no_matter() {
        let dir = Dir::new();
        let bound = bind(&dir.text("socket"));
        fs::remove_file(dir.path("socket")).unwrap();
        drop(bound);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_with_the_address() {
        let e = listen("unix:///no/such/directory/socket").bind(false).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.to_string().contains("/no/such/directory/socket"), "{e}");
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn abstract_names_leave_no_file() {
        let text = format!("unix://@wakewheel-addr-{}", std::process::id());
        let bound = bind(&text);
        assert!(matches!(bound, Bound::Unix(_, None)));
        assert_eq!(bound.addr().unwrap().to_string(), text);
        let e = listen(&text).bind(false).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AddrInUse);
        drop(bound);
        bind(&text);
    }

    #[test]
    fn a_peer_without_a_name_is_printed() {
        let (a, _b) = UnixStream::pair().unwrap();
        let addr = Addr::Unix(a.peer_addr().unwrap());
        assert_eq!((addr.to_string().as_str(), addr.socket_addr()), ("unix://", None));
        assert_eq!(format!("{addr:>9}|"), "  unix://|");
    }

    #[test]
    fn addresses_are_equal_if_kind_and_name_are() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_ne!(Addr::Tcp(addr), Addr::Udp(addr));
        let unix = |path| Addr::Unix(UnixSocketAddr::from_pathname(path).unwrap());
        assert_eq!(unix("/a"), unix("/a"));
        assert_ne!(unix("/a"), unix("/b"));
    }

    #[test]
    fn scopes_are_kept() {
        let text = "tcp://[fe80::1%3]:80";
        let Place::Tcp(Inet { host: Host::Ip(addr), .. }) = listen(text).place else { panic!("no address") };
        assert_eq!(Addr::tcp(addr).to_string(), text);
    }

    /// Where `text` says, if no name is to be looked up.
    fn place(text: &str) -> Addr {
        match listen(text).place {
            Place::Tcp(Inet { host: Host::Ip(addr), .. }) => Addr::Tcp(addr),
            Place::Udp(Inet { host: Host::Ip(addr), .. }) => Addr::Udp(addr),
            Place::Unix(path) => Addr::Unix(UnixSocketAddr::from_pathname(path).unwrap()),
            place => panic!("{place:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn what_is_printed_can_be_parsed(ip: IpAddr, port: u16, path in "[ ->@-~]{1,40}") {
            let addr = SocketAddr::new(ip, port);
            let path = UnixSocketAddr::from_pathname(path).unwrap();
            for addr in [Addr::tcp(addr), Addr::udp(addr), Addr::Unix(path)] {
                let again = place(&addr.to_string());
                // A path that begins with @ is printed with ./ before it.
                let text = addr.to_string();
                prop_assert!(again == addr || text.starts_with("unix://./@"), "{} is {}", text, again);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,30}", scheme in "(tcp|udp6|unix|)(://|:)?") {
            let text = format!("{scheme}{text}");
            if let Err(e) = Listen::parse(&text) {
                let (error, quoted) = (e.to_string(), format!("{text:?}"));
                prop_assert!(error.contains(&quoted), "{}", error);
            }
        }
    }
}
