//! Socket addresses in the form in which the kernel takes and gives them.

use libc::{c_int, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_un, socklen_t};
use std::ffi::OsStr;
use std::mem::{self, offset_of};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
#[cfg(target_os = "android")]
use std::os::android::net::SocketAddrExt;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::path::Path;
use std::{fmt, io, slice};

/// An Internet or Unix address, ready to be passed to a system call, or as one has written it.
///
/// The first `len` bytes of `raw` are initialized, and there are never fewer than `len`.
#[derive(Clone, Copy)]
pub(crate) struct SockAddr {
    raw: Raw,
    len: socklen_t,
}

/// The length byte that the BSDs and macOS begin an address with stays zero, as in std: their kernels set it from the
/// length that the call is given.
#[derive(Clone, Copy)]
#[repr(C)]
union Raw {
    any: sockaddr,
    inet: sockaddr_in,
    inet6: sockaddr_in6,
    unix: sockaddr_un,
}

/// Where the name begins in a Unix address, after the family.
const UNIX_NAME: usize = offset_of!(sockaddr_un, sun_path);

/// So that an address that is long enough to have a family is long enough to have a name, if an empty one.
const _: () = assert!(UNIX_NAME <= offset_of!(sockaddr, sa_data));

/// The bytes that a Unix address has for its name. A path leaves one of them to its final NUL.
const UNIX_NAME_MAX: usize = size_of::<sockaddr_un>() - UNIX_NAME;

/// A name that begins with a NUL byte is not in the file system: Linux only.
const HAS_ABSTRACT_NAMES: bool = cfg!(any(target_os = "linux", target_os = "android"));

impl SockAddr {
    /// The address of a Unix socket: a path or, on Linux, a NUL byte and an abstract name.
    ///
    /// The empty path is the unnamed address; on Linux, binding to it makes the kernel invent an abstract name.
    ///
    /// Errors: `InvalidInput` for a path that is too long or has a NUL byte in it.
    pub fn unix_path(path: &Path) -> io::Result<SockAddr> {
        let name = path.as_os_str().as_bytes();
        let is_abstract = HAS_ABSTRACT_NAMES && name.first() == Some(&0);
        if !is_abstract && name.contains(&0) {
            return Err(invalid(format!("a NUL byte in the path of a Unix socket: {path:?}")));
        }
        let max = if is_abstract { UNIX_NAME_MAX } else { UNIX_NAME_MAX - 1 };
        if name.len() > max {
            let len = name.len();
            return Err(invalid(format!(
                "{len} bytes in the path of a Unix socket, at most {max}: {path:?}"
            )));
        }
        Ok(SockAddr::from_unix_name(name))
    }

    /// The address that the standard library's type stands for.
    pub fn from_unix(addr: &UnixSocketAddr) -> SockAddr {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(name) = addr.as_abstract_name() {
            return SockAddr::from_unix_name(&[b"\0", name].concat());
        }
        SockAddr::from_unix_name(addr.as_pathname().map_or(b"", |path| path.as_os_str().as_bytes()))
    }

    /// `name` is a path, or abstract with its leading NUL, or empty; it fits.
    fn from_unix_name(name: &[u8]) -> SockAddr {
        // SAFETY: zeros are a value of each of its fields, which are numbers.
        let mut unix: sockaddr_un = unsafe { mem::zeroed() };
        unix.sun_family = libc::AF_UNIX as libc::sa_family_t;
        assert!(name.len() <= unix.sun_path.len(), "a name of {} bytes", name.len());
        for (to, from) in unix.sun_path.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        // A path takes its final NUL along. One that fills the whole room, which Linux admits, has none.
        let is_path = name.first().is_some_and(|first| *first != 0);
        let name_len = (name.len() + usize::from(is_path)).min(UNIX_NAME_MAX);
        SockAddr { raw: Raw { unix }, len: (UNIX_NAME + name_len) as socklen_t }
    }

    /// The address as a system call writes it: `call` is given room for one, and the length of that room.
    ///
    /// # Safety
    ///
    /// `call` treats the two pointers as accept(2) does: it writes as many bytes as there is room for or the address
    /// has, whichever is less, and then stores the length of the address; or it has none and leaves both alone.
    #[inline]
    pub unsafe fn fill<T>(
        call: impl FnOnce(*mut sockaddr, *mut socklen_t) -> io::Result<T>,
    ) -> io::Result<(T, SockAddr)> {
        let mut addr = SockAddr::room();
        let mut len = addr.len;
        let result = call(addr.as_mut_ptr(), &mut len)?;
        // SAFETY: all of it is initialized, and the caller has promised that `call` changes only that.
        unsafe { addr.set_len(len) };
        Ok((result, addr))
    }

    /// Room for an address that a system call is to write: all zeros, with the length of the room.
    #[inline]
    pub fn room() -> SockAddr {
        // SAFETY: zeros are a value of each variant; their family is AF_UNSPEC.
        SockAddr { raw: unsafe { mem::zeroed() }, len: size_of::<Raw>() as socklen_t }
    }

    /// The pointer for a system call to write to.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut sockaddr {
        (&raw mut self.raw).cast()
    }

    /// What a system call has stored as the length: an address that was cut has its whole length here.
    ///
    /// # Safety
    ///
    /// So many bytes are initialized, or all that there is room for. (They are where it was made by
    /// [`room`](SockAddr::room).)
    #[inline]
    pub unsafe fn set_len(&mut self, len: socklen_t) {
        self.len = len.min(size_of::<Raw>() as socklen_t);
    }

    /// The pointer for a system call to read from, together with [`len`](SockAddr::len).
    #[inline]
    pub fn as_ptr(&self) -> *const sockaddr {
        (&raw const self.raw).cast()
    }

    #[inline]
    pub fn len(&self) -> socklen_t {
        self.len
    }

    /// `AF_INET`, `AF_INET6`, `AF_UNIX`; `AF_UNSPEC` if the kernel gave no address at all.
    #[inline]
    pub fn family(&self) -> c_int {
        if (self.len as usize) < offset_of!(sockaddr, sa_data) {
            return libc::AF_UNSPEC;
        }
        // SAFETY: every address begins like a sockaddr, and the family's bytes are among the `len` initialized ones.
        c_int::from(unsafe { self.raw.any.sa_family })
    }

    /// The IPv4 or IPv6 address and port that this is. `InvalidInput` if it is something else.
    #[inline]
    pub fn inet(&self) -> io::Result<SocketAddr> {
        let len = self.len as usize;
        match self.family() {
            libc::AF_INET if len >= size_of::<sockaddr_in>() => {
                // SAFETY: as the family says, and `len` bytes are initialized.
                let inet = unsafe { self.raw.inet };
                let ip = inet.sin_addr.s_addr.to_ne_bytes().into();
                Ok(SocketAddrV4::new(ip, u16::from_be(inet.sin_port)).into())
            }
            libc::AF_INET6 if len >= size_of::<sockaddr_in6>() => {
                // SAFETY: as above.
                let inet6 = unsafe { self.raw.inet6 };
                let ip = inet6.sin6_addr.s6_addr.into();
                let port = u16::from_be(inet6.sin6_port);
                Ok(SocketAddrV6::new(ip, port, inet6.sin6_flowinfo, inet6.sin6_scope_id).into())
            }
            family => Err(invalid(format!("not an Internet address: address family {family}"))),
        }
    }

    /// The Unix address that this is, in the standard library's type. `InvalidInput` if it is something else, or a
    /// path without a final NUL (Linux admits one more byte than [`unix_path`](SockAddr::unix_path) and std do).
    pub fn unix(&self) -> io::Result<UnixSocketAddr> {
        let name = match self.family() {
            // SAFETY: `len` bytes are initialized, of which these are the ones from `UNIX_NAME` on; that is
            // not beyond them, because an address with a family is as long (see the assertion at that constant).
            libc::AF_UNIX => unsafe {
                let start = self.as_ptr().cast::<u8>().add(UNIX_NAME);
                slice::from_raw_parts(start, self.len as usize - UNIX_NAME)
            },
            // What Linux reports for a datagram from an unnamed socket.
            libc::AF_UNSPEC => &[],
            family => return Err(invalid(format!("not a Unix address: address family {family}"))),
        };
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some((0, name)) = name.split_first() {
            return UnixSocketAddr::from_abstract_name(name);
        }
        let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
        UnixSocketAddr::from_pathname(OsStr::from_bytes(path))
    }
}

impl From<SocketAddr> for SockAddr {
    #[inline]
    fn from(addr: SocketAddr) -> SockAddr {
        match addr {
            SocketAddr::V4(addr) => {
                // SAFETY: zeros are a value of each of its fields, which are numbers.
                let mut inet: sockaddr_in = unsafe { mem::zeroed() };
                inet.sin_family = libc::AF_INET as libc::sa_family_t;
                inet.sin_port = addr.port().to_be();
                inet.sin_addr.s_addr = u32::from_ne_bytes(addr.ip().octets());
                SockAddr { raw: Raw { inet }, len: size_of::<sockaddr_in>() as socklen_t }
            }
            SocketAddr::V6(addr) => {
                // SAFETY: as above.
                let mut inet6: sockaddr_in6 = unsafe { mem::zeroed() };
                inet6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                inet6.sin6_port = addr.port().to_be();
                inet6.sin6_flowinfo = addr.flowinfo();
                inet6.sin6_addr.s6_addr = addr.ip().octets();
                inet6.sin6_scope_id = addr.scope_id();
                SockAddr { raw: Raw { inet6 }, len: size_of::<sockaddr_in6>() as socklen_t }
            }
        }
    }
}

impl fmt::Debug for SockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.inet(), self.unix()) {
            (Ok(addr), _) => addr.fmt(f),
            (_, Ok(addr)) => addr.fmt(f),
            _ => write!(f, "(address family {})", self.family()),
        }
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::local_addr;
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;

    fn text<T: fmt::Debug>(result: io::Result<T>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        error.to_string()
    }

    /// The address as a kernel would write it that says it has `len` bytes.
    fn filled(bytes: &[u8], len: usize) -> SockAddr {
        // SAFETY: no more is written than there is room for.
        let result = unsafe {
            SockAddr::fill(|addr, addr_len| {
                let count = bytes.len().min(*addr_len as usize);
                addr.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), count);
                *addr_len = len as socklen_t;
                Ok(())
            })
        };
        result.unwrap().1
    }

    fn bytes(addr: &SockAddr) -> &[u8] {
        // SAFETY: so many bytes are initialized.
        unsafe { slice::from_raw_parts(addr.as_ptr().cast(), addr.len() as usize) }
    }

    #[test]
    fn internet_addresses_survive_the_way_there_and_back() {
        for addr in [
            SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 0x1234)),
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, u16::MAX)),
            SocketAddrV6::new("fe80::1:2:3".parse().unwrap(), 80, 0x000a_bcde, 42).into(),
        ] {
            let raw = SockAddr::from(addr);
            assert_eq!(raw.inet().unwrap(), addr);
            assert_eq!(filled(bytes(&raw), raw.len() as usize).inet().unwrap(), addr);
            assert!(text(raw.unix()).starts_with("not a Unix address"));
            assert_eq!(format!("{raw:?}"), addr.to_string());
        }
    }

    #[test]
    fn the_kernel_and_the_standard_library_agree_with_us() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = local_addr(socket.as_fd()).unwrap();
        assert_eq!(addr.inet().unwrap(), socket.local_addr().unwrap());
    }

    #[test]
    fn paths_survive_the_way_there_and_back() {
        let longest = format!("/{}", "p".repeat(UNIX_NAME_MAX - 2));
        for path in ["/run/socket", "relative", "a", &longest].map(Path::new) {
            let raw = SockAddr::unix_path(path).unwrap();
            assert_eq!(raw.unix().unwrap().as_pathname(), Some(path));
            assert_eq!(bytes(&raw).last(), Some(&0), "the final NUL goes along");
            let again = SockAddr::from_unix(&raw.unix().unwrap());
            assert_eq!(bytes(&again), bytes(&raw));
            assert!(text(raw.inet()).starts_with("not an Internet address"));
        }
    }

    #[test]
    fn a_path_may_come_back_with_any_number_of_nuls() {
        let raw = SockAddr::unix_path(Path::new("/run/socket")).unwrap();
        let path = &bytes(&raw)[..raw.len() as usize - 1];
        let mut padded = path.to_vec();
        padded.resize(size_of::<sockaddr_un>(), 0);
        for bytes in [path, &padded] {
            let addr = filled(bytes, bytes.len()).unix().unwrap();
            assert_eq!(addr.as_pathname(), Some(Path::new("/run/socket")));
        }
    }

    #[test]
    fn the_empty_path_is_the_unnamed_address() {
        let raw = SockAddr::unix_path(Path::new("")).unwrap();
        assert_eq!(raw.len() as usize, UNIX_NAME);
        assert!(raw.unix().unwrap().is_unnamed());
        let std = UnixDatagram::unbound().unwrap().local_addr().unwrap();
        assert_eq!(bytes(&SockAddr::from_unix(&std)), bytes(&raw));
    }

    #[test]
    fn no_address_at_all_is_an_unnamed_socket_and_no_internet_address() {
        let none = filled(&[], 0);
        assert_eq!(none.family(), libc::AF_UNSPEC);
        assert!(none.unix().unwrap().is_unnamed());
        assert!(none.inet().is_err());
    }

    #[test]
    fn what_the_kernel_cut_is_not_read_beyond_its_end() {
        let inet6 = SockAddr::from(SocketAddr::from((Ipv6Addr::LOCALHOST, 80)));
        let cut = filled(&bytes(&inet6)[..20], 20);
        assert!(cut.inet().is_err());

        let whole = vec![0xff; 300];
        let long = filled(&whole, whole.len());
        assert_eq!(long.len() as usize, size_of::<Raw>());
        assert!(long.inet().is_err() && long.unix().is_err());
    }

    #[test]
    fn a_path_that_is_too_long_is_quoted_with_the_limit() {
        let path = PathBuf::from("/long".repeat(40));
        let text = text(SockAddr::unix_path(&path));
        assert!(text.contains(&format!("{path:?}")), "{text}");
        assert!(
            text.contains("200 bytes") && text.contains(&format!("at most {}", UNIX_NAME_MAX - 1)),
            "{text}"
        );
    }

    #[test]
    fn a_nul_byte_inside_a_path_is_quoted() {
        let text = text(SockAddr::unix_path(Path::new("/run/\0socket")));
        assert_eq!(text, r#"a NUL byte in the path of a Unix socket: "/run/\0socket""#);
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn abstract_names_survive_the_way_there_and_back() {
        let longest = [0x61; UNIX_NAME_MAX - 1];
        for name in [&b"name"[..], b"with\0nul", b"final\0", &longest] {
            let path = [b"\0", name].concat();
            let raw = SockAddr::unix_path(Path::new(OsStr::from_bytes(&path))).unwrap();
            assert_eq!(raw.unix().unwrap().as_abstract_name(), Some(name));
            assert_eq!(bytes(&SockAddr::from_unix(&raw.unix().unwrap())), bytes(&raw));
        }
        let path = format!("\0{}", "n".repeat(UNIX_NAME_MAX));
        let text = text(SockAddr::unix_path(Path::new(&path)));
        assert!(text.contains("109 bytes") && text.contains("at most 108"), "{text}");
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn a_listener_on_an_abstract_name_has_that_address() {
        let name = format!("wakewheel-{}", std::process::id());
        let addr = UnixSocketAddr::from_abstract_name(&name).unwrap();
        let listener = std::os::unix::net::UnixListener::bind_addr(&addr).unwrap();
        let raw = local_addr(listener.as_fd()).unwrap();
        assert_eq!(raw.unix().unwrap().as_abstract_name(), Some(name.as_bytes()));
        assert_eq!(bytes(&raw), bytes(&SockAddr::unix_path(Path::new(&format!("\0{name}"))).unwrap()));
    }

    #[test]
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn there_are_no_abstract_names() {
        assert!(SockAddr::unix_path(Path::new("\0name")).is_err());
    }
}
