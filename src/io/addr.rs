//! Addresses that a program takes as an argument.

use super::options::invalid;
use crate::sys::addr::SockAddr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::SocketAddr;
#[cfg(target_os = "android")]
use std::os::android::net::SocketAddrExt;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::path::Path;
use std::str::FromStr;

/// The address of a TCP or Unix socket, as a program takes it as an argument and prints it.
///
/// | text                              | address |
/// |-----------------------------------|---------|
/// | `127.0.0.1:5000`, `[::1]:5000`    | TCP; host names are not looked up |
/// | `unix:/run/name.sock`             | a Unix socket at a path, which may be relative |
/// | `unix:@name`                      | a Unix socket with an abstract name, on Linux and Android |
/// | `unix:`                           | one without a name: printed, but not accepted |
///
/// What is printed can be parsed again, except that control characters, and bytes that are not UTF-8, are printed
/// escaped: the name of a peer cannot break the lines of a log.
///
/// # Examples
///
/// ```
/// use wakewheel::io::Addr;
///
/// for text in ["127.0.0.1:5000", "[::1]:5000", "unix:/tmp/x.sock"] {
///     let addr: Addr = text.parse()?;
///     assert_eq!(addr.to_string(), text);
/// }
/// let error = "localhost:5000".parse::<Addr>().unwrap_err();
/// assert!(error.to_string().contains(r#""localhost:5000""#));
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub enum Addr {
    /// IPv4 or IPv6, and a port.
    Tcp(SocketAddr),
    /// A path, an abstract name, or none.
    Unix(UnixSocketAddr),
}

const UNIX: &str = "unix:";

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addr = match self {
            Addr::Tcp(addr) => return addr.fmt(f),
            Addr::Unix(addr) => addr,
        };
        let (space, name) = unix_name(addr);
        let mut text = format!("{UNIX}{space}");
        if space.is_empty() && name.starts_with(b"@") {
            text.push_str("./");
        }
        for chunk in name.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
            }
            text.extend(chunk.invalid().escape_ascii().map(char::from));
        }
        f.pad(&text)
    }
}

/// [`InvalidInput`](io::ErrorKind::InvalidInput) quotes what was to be parsed, and says what could be instead.
impl FromStr for Addr {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Addr> {
        let Some(name) = text.strip_prefix(UNIX) else {
            return text.parse().map(Addr::Tcp).map_err(|_| {
                let forms = "127.0.0.1:80, [::1]:80, unix:/path or unix:@name; host names are not looked up";
                invalid(format!("not an address: {text:?} (write {forms})"))
            });
        };
        let abstract_name = name.strip_prefix('@');
        if abstract_name.unwrap_or(name).is_empty() {
            return Err(invalid(format!("not an address: {text:?} (the name is missing)")));
        }
        let path = match abstract_name {
            Some(_) if !cfg!(any(target_os = "linux", target_os = "android")) => {
                return Err(invalid(format!("not an address: {text:?} (only Linux has abstract names)")));
            }
            Some(name) => format!("\0{name}"),
            None => name.to_owned(),
        };
        SockAddr::unix_path(Path::new(&path))?.unix().map(Addr::Unix)
    }
}

/// Unix addresses are equal if their names are, byte by byte. Those without a name are all equal.
impl PartialEq for Addr {
    fn eq(&self, other: &Addr) -> bool {
        match (self, other) {
            (Addr::Tcp(a), Addr::Tcp(b)) => a == b,
            (Addr::Unix(a), Addr::Unix(b)) => unix_name(a) == unix_name(b),
            _ => false,
        }
    }
}

impl Eq for Addr {}

impl Hash for Addr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Addr::Tcp(addr) => addr.hash(state),
            Addr::Unix(addr) => unix_name(addr).hash(state),
        }
    }
}

/// `@` if the name is abstract, nothing if it is a path; and the name.
fn unix_name(addr: &UnixSocketAddr) -> (&'static str, &[u8]) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(name) = addr.as_abstract_name() {
        return ("@", name);
    }
    ("", addr.as_pathname().map_or(b"", |path| path.as_os_str().as_bytes()))
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Addr {
        Addr::Tcp(addr)
    }
}

impl From<UnixSocketAddr> for Addr {
    fn from(addr: UnixSocketAddr) -> Addr {
        Addr::Unix(addr)
    }
}
