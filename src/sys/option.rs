//! The options of sockets: what a user sets, and what this library asks. What the kernel does with a socket is in
//! [`socket`](super::socket).

use super::check;
use libc::{c_int, socklen_t};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;
use std::{io, mem};

/// The error that waits on the socket, if any; it is cleared.
pub(crate) fn take_error(fd: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    let error: c_int = get_option(fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
    Ok((error != 0).then(|| io::Error::from_raw_os_error(error)))
}

/// Is this TCP over IPv4 or IPv6, and not another stream (SCTP, MPTCP), or no socket at all?
///
/// To be asked of what was made as a stream: Linux is asked for the protocol alone, one system call per new source,
/// and a raw socket may have that of TCP.
pub(crate) fn is_tcp(fd: BorrowedFd<'_>) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return get_option::<c_int>(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL).ok() == Some(libc::IPPROTO_TCP);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return get_option::<c_int>(fd, libc::SOL_SOCKET, libc::SO_TYPE).ok() == Some(libc::SOCK_STREAM)
        && super::socket::local_addr(fd)
            .is_ok_and(|addr| matches!(addr.family(), libc::AF_INET | libc::AF_INET6));
}

/// Sending to a closed peer is an error and not a signal: here an option, elsewhere a flag of each call.
#[cfg(target_vendor = "apple")]
pub(crate) fn set_no_sigpipe(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_flag(fd, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, true)
}

pub(crate) fn set_reuse_address(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_flag(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, on)
}

/// Several sockets may have one address and port. Linux, Android, FreeBSD and DragonFly share the connections or
/// datagrams out among them; elsewhere one socket gets them all.
pub(crate) fn set_reuse_port(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_flag(fd, libc::SOL_SOCKET, SO_REUSEPORT, on)
}

/// FreeBSD has two of them, and this is the one that shares out.
#[cfg(target_os = "freebsd")]
const SO_REUSEPORT: c_int = libc::SO_REUSEPORT_LB;
#[cfg(not(any(target_os = "freebsd", target_os = "illumos", target_os = "solaris")))]
const SO_REUSEPORT: c_int = libc::SO_REUSEPORT;
/// libc has no name for it here: no such option, says the kernel to this.
#[cfg(any(target_os = "illumos", target_os = "solaris"))]
const SO_REUSEPORT: c_int = -1;

/// `bind` to port 0 leaves the choice of the port to `connect`: it need not differ from those of all other sockets,
/// only from those of connections to the same peer. A wish: without it (Linux before 4.2, other systems) `bind` chooses.
pub(crate) fn set_bind_address_no_port(fd: BorrowedFd<'_>) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = set_flag(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, true);
    let _ = fd;
}

/// Off, an IPv6 socket serves IPv4 as well. Before `bind`. OpenBSD has it always on.
pub(crate) fn set_only_v6(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_flag(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, on)
}

pub(crate) fn set_nodelay(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_flag(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, on)
}

pub(crate) fn set_keepalive(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_flag(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, on)
}

/// The options that say how a connection is kept alive. OpenBSD has none of them, only a setting of the whole system.
#[cfg(not(target_os = "openbsd"))]
mod keep {
    use libc::c_int;
    #[cfg(target_vendor = "apple")]
    pub const IDLE: Option<c_int> = Some(libc::TCP_KEEPALIVE);
    #[cfg(not(target_vendor = "apple"))]
    pub const IDLE: Option<c_int> = Some(libc::TCP_KEEPIDLE);
    pub const INTERVAL: Option<c_int> = Some(libc::TCP_KEEPINTVL);
    pub const COUNT: Option<c_int> = Some(libc::TCP_KEEPCNT);
}
#[cfg(target_os = "openbsd")]
mod keep {
    use libc::c_int;
    pub const IDLE: Option<c_int> = None;
    pub const INTERVAL: Option<c_int> = None;
    pub const COUNT: Option<c_int> = None;
}

fn set_keep(fd: BorrowedFd<'_>, name: Option<c_int>, value: c_int) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, name.ok_or_else(no_keep)?, value)
}

fn no_keep() -> io::Error {
    let text = "this system has no keep-alive times per socket, only for all (sysctl net.inet.tcp.keepidle, keepintvl)";
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// How long a connection is silent before the first probe: in whole seconds, rounded up, at least one.
pub(crate) fn set_keepalive_idle(fd: BorrowedFd<'_>, idle: Duration) -> io::Result<()> {
    set_keep(fd, keep::IDLE, whole_secs(idle).max(1))
}

/// The time from one unanswered probe to the next: in whole seconds, rounded up, at least one.
pub(crate) fn set_keepalive_interval(fd: BorrowedFd<'_>, interval: Duration) -> io::Result<()> {
    set_keep(fd, keep::INTERVAL, whole_secs(interval).max(1))
}

/// After so many unanswered probes the connection is lost.
pub(crate) fn set_keepalive_count(fd: BorrowedFd<'_>, count: u32) -> io::Result<()> {
    set_keep(fd, keep::COUNT, c_int::try_from(count).unwrap_or(c_int::MAX))
}

/// A wish: the kernel has a least and a largest size. (Linux doubles it, for its own bookkeeping.)
pub(crate) fn set_recv_buffer_size(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)
}

/// As [`set_recv_buffer_size`].
pub(crate) fn set_send_buffer_size(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)
}

/// Apple's `SO_LINGER` counts clock ticks.
#[cfg(target_vendor = "apple")]
const SO_LINGER: c_int = libc::SO_LINGER_SEC;
#[cfg(not(target_vendor = "apple"))]
const SO_LINGER: c_int = libc::SO_LINGER;

/// What becomes of unsent data at close: the kernel sends it on (`None`), or for so long, in whole seconds, rounded
/// up; zero throws it away and resets the connection.
pub(crate) fn set_linger(fd: BorrowedFd<'_>, time: Option<Duration>) -> io::Result<()> {
    let l_linger = time.map_or(0, whole_secs);
    set_option(
        fd,
        libc::SOL_SOCKET,
        SO_LINGER,
        libc::linger { l_onoff: c_int::from(time.is_some()), l_linger },
    )
}

fn whole_secs(time: Duration) -> c_int {
    let secs = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    c_int::try_from(secs).unwrap_or(c_int::MAX)
}

/// # Safety
///
/// A plain C value: any bytes are one.
unsafe trait OptionValue: Copy {}
// SAFETY: a number.
unsafe impl OptionValue for c_int {}
// SAFETY: two numbers.
unsafe impl OptionValue for libc::linger {}

fn get_option<T: OptionValue>(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut len = size_of::<T>() as socklen_t;
    // SAFETY: `value` has room for `len` bytes, and whatever the kernel writes there, and the zeros that it leaves, are
    // a value of `T`.
    unsafe {
        let mut value: T = mem::zeroed();
        check(libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &mut len))?;
        Ok(value)
    }
}

fn set_option<T: OptionValue>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: T) -> io::Result<()> {
    let len = size_of::<T>() as socklen_t;
    // SAFETY: `value` is valid for reads of `len` bytes.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) }).map(drop)
}

fn set_flag(fd: BorrowedFd<'_>, level: c_int, name: c_int, on: bool) -> io::Result<()> {
    set_option(fd, level, name, c_int::from(on))
}

#[cfg(test)]
mod tests {
    use super::super::socket;
    use super::*;
    use std::fs::File;
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
    use std::os::fd::{AsFd, OwnedFd};

    const LOCALHOST: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

    /// What the kernel says of an option.
    fn number(fd: &OwnedFd, level: c_int, name: c_int) -> c_int {
        get_option(fd.as_fd(), level, name).unwrap()
    }

    #[test]
    fn only_tcp_is_tcp() {
        for (domain, kind, tcp) in [
            (libc::AF_INET, libc::SOCK_STREAM, true),
            (libc::AF_INET6, libc::SOCK_STREAM, true),
            (libc::AF_INET, libc::SOCK_DGRAM, false),
            (libc::AF_UNIX, libc::SOCK_STREAM, false),
        ] {
            let fd = socket::new(domain, kind).unwrap();
            assert_eq!(is_tcp(fd.as_fd()), tcp, "domain {domain}, kind {kind}");
        }
        assert!(is_tcp(TcpListener::bind("127.0.0.1:0").unwrap().as_fd()));
        assert!(!is_tcp(File::open("/dev/null").unwrap().as_fd()));
    }

    #[test]
    fn flags_are_set_and_cleared() {
        type Set = fn(BorrowedFd<'_>, bool) -> io::Result<()>;
        let fd = socket::new(libc::AF_INET6, libc::SOCK_STREAM).unwrap();
        for (set, level, name) in [
            (set_reuse_address as Set, libc::SOL_SOCKET, libc::SO_REUSEADDR),
            (set_reuse_port, libc::SOL_SOCKET, SO_REUSEPORT),
            #[cfg(not(target_os = "openbsd"))]
            (set_only_v6, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
            (set_nodelay, libc::IPPROTO_TCP, libc::TCP_NODELAY),
            (set_keepalive, libc::SOL_SOCKET, libc::SO_KEEPALIVE),
        ] {
            for on in [true, false] {
                set(fd.as_fd(), on).unwrap();
                // The BSDs report a flag that is on by some bit of theirs, not by 1.
                assert_eq!(number(&fd, level, name) != 0, on, "option {name}");
            }
        }
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn the_choice_of_a_port_is_left_to_connect() {
        for domain in [libc::AF_INET, libc::AF_INET6] {
            let fd = socket::new(domain, libc::SOCK_STREAM).unwrap();
            set_bind_address_no_port(fd.as_fd());
            assert_eq!(number(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT), 1, "domain {domain}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = socket::new(libc::AF_INET, libc::SOCK_STREAM).unwrap();
        let port = || socket::local_addr(fd.as_fd()).unwrap().inet().unwrap().port();
        set_bind_address_no_port(fd.as_fd());
        socket::bind(fd.as_fd(), &LOCALHOST.into()).unwrap();
        assert_eq!(port(), 0);
        let _ = socket::connect(fd.as_fd(), &listener.local_addr().unwrap().into()).unwrap();
        assert_ne!(port(), 0);
    }

    #[test]
    #[cfg(not(target_os = "openbsd"))]
    fn keepalive_times_are_whole_seconds_rounded_up() {
        type Set = fn(BorrowedFd<'_>, Duration) -> io::Result<()>;
        let fd = socket::new(libc::AF_INET, libc::SOCK_STREAM).unwrap();
        let keep = |name: Option<c_int>| number(&fd, libc::IPPROTO_TCP, name.unwrap());
        for (set, name) in [(set_keepalive_idle as Set, keep::IDLE), (set_keepalive_interval, keep::INTERVAL)]
        {
            for (asked_ms, secs) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (60_000, 60)] {
                set(fd.as_fd(), Duration::from_millis(asked_ms)).unwrap();
                assert_eq!(keep(name), secs, "{asked_ms} ms");
            }
        }
        set_keepalive_count(fd.as_fd(), 7).unwrap();
        assert_eq!(keep(keep::COUNT), 7);
    }

    #[test]
    #[cfg(target_os = "openbsd")]
    fn keepalive_times_are_unsupported() {
        let fd = socket::new(libc::AF_INET, libc::SOCK_STREAM).unwrap();
        let error = set_keepalive_idle(fd.as_fd(), Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn buffer_sizes_are_at_least_what_was_asked() {
        let fd = socket::new(libc::AF_INET, libc::SOCK_STREAM).unwrap();
        set_recv_buffer_size(fd.as_fd(), 32 << 10).unwrap();
        assert!((32 << 10..=64 << 10).contains(&number(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF)));
        set_send_buffer_size(fd.as_fd(), 16 << 10).unwrap();
        assert!((16 << 10..=32 << 10).contains(&number(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF)));
    }

    #[test]
    fn linger_is_whole_seconds_rounded_up_or_none() {
        let fd = socket::new(libc::AF_INET, libc::SOCK_STREAM).unwrap();
        let secs = || {
            let linger: libc::linger = get_option(fd.as_fd(), libc::SOL_SOCKET, SO_LINGER).unwrap();
            (linger.l_onoff != 0).then_some(linger.l_linger)
        };
        assert_eq!(secs(), None);
        for (asked_ms, expected) in [(0, 0), (1, 1), (2500, 3)] {
            set_linger(fd.as_fd(), Some(Duration::from_millis(asked_ms))).unwrap();
            assert_eq!(secs(), Some(expected), "{asked_ms} ms");
        }
        set_linger(fd.as_fd(), None).unwrap();
        assert_eq!(secs(), None);
    }

    #[test]
    fn several_listeners_share_a_port() {
        let first = socket::new(libc::AF_INET, libc::SOCK_STREAM).unwrap();
        set_reuse_port(first.as_fd(), true).unwrap();
        socket::bind(first.as_fd(), &LOCALHOST.into()).unwrap();
        let addr = socket::local_addr(first.as_fd()).unwrap();

        let second = socket::new(libc::AF_INET, libc::SOCK_STREAM).unwrap();
        assert_eq!(socket::bind(second.as_fd(), &addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        set_reuse_port(second.as_fd(), true).unwrap();
        socket::bind(second.as_fd(), &addr).unwrap();
        socket::listen(first.as_fd(), 1).unwrap();
        socket::listen(second.as_fd(), 1).unwrap();
    }

    #[test]
    fn an_error_is_taken_once() {
        let closed = UdpSocket::bind(LOCALHOST).unwrap();
        let client = UdpSocket::bind(LOCALHOST).unwrap();
        client.connect(closed.local_addr().unwrap()).unwrap();
        assert!(take_error(client.as_fd()).unwrap().is_none());
        drop(closed);
        client.send(b"x").unwrap();
        let mut one = libc::pollfd { fd: client.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `one` is a valid array of one pollfd for the whole call.
        assert_eq!(unsafe { libc::poll(&mut one, 1, 10_000) }, 1, "no ICMP error in ten seconds");
        let error = take_error(client.as_fd()).unwrap().expect("an ICMP error");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(take_error(client.as_fd()).unwrap().is_none());
    }
}
