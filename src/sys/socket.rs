//! Sockets: what the kernel does with one, a function per question. Their options are in [`option`](super::option).
//!
//! Every descriptor made here is non-blocking and close-on-exec, no operation raises SIGPIPE, and an interrupted
//! one is repeated. `WouldBlock` is an ordinary answer: who waits for readiness, and how, is the business of the
//! floors above, which are the callers.

use super::addr::SockAddr;
use super::option::take_error;
use super::{call, check};
use libc::c_int;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

// ---- Making them ----

/// Where the kernel makes a descriptor non-blocking and close-on-exec in the call that creates it.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
mod born {
    pub const FLAGS: libc::c_int = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;

    /// As accept(2).
    pub unsafe fn accept(
        fd: libc::c_int,
        addr: *mut libc::sockaddr,
        len: *mut libc::socklen_t,
    ) -> libc::c_int {
        // SAFETY: the pointers are as accept(2) wants them, says the caller.
        unsafe { libc::accept4(fd, addr, len, FLAGS) }
    }
}

/// Where it does not, and [`prepare`] has to.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
)))]
mod born {
    pub const FLAGS: libc::c_int = 0;
    pub use libc::accept;
}

/// A socket of an address family (`AF_INET`) and a kind (`SOCK_STREAM`).
pub(crate) fn new(domain: c_int, kind: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor that socket returns is ours alone.
    let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(domain, kind | born::FLAGS, 0))?) };
    prepare(&fd)?;
    silence(&fd)?;
    Ok(fd)
}

/// Two Unix sockets of a kind, connected to each other.
pub(crate) fn pair(kind: c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors, which are ours alone.
    let (a, b) = unsafe {
        check(libc::socketpair(libc::AF_UNIX, kind | born::FLAGS, 0, fds.as_mut_ptr()))?;
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    };
    for fd in [&a, &b] {
        prepare(fd)?;
        silence(fd)?;
    }
    Ok((a, b))
}

/// Makes a new descriptor non-blocking and close-on-exec where it was not born so.
#[inline]
fn prepare(fd: &OwnedFd) -> io::Result<()> {
    if born::FLAGS == 0 {
        set_nonblocking(fd.as_fd(), true)?;
        set_cloexec(fd.as_fd())?;
    }
    Ok(())
}

/// Apple's systems did without `MSG_NOSIGNAL` for long; they have an option, which accepted sockets inherit.
fn silence(fd: &OwnedFd) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    super::option::set_no_sigpipe(fd.as_fd())?;
    let _ = fd;
    Ok(())
}

/// Sets or clears `O_NONBLOCK`; one system call if it is as it should be, two if not.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: no pointers.
    let old = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let new = if on { old | libc::O_NONBLOCK } else { old & !libc::O_NONBLOCK };
    if new != old {
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, new) })?;
    }
    Ok(())
}

/// A program that this process starts shall not have `fd`.
pub(crate) fn set_cloexec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

// ---- Addresses and connections ----

pub(crate) fn bind(fd: BorrowedFd<'_>, addr: &SockAddr) -> io::Result<()> {
    // SAFETY: `addr` is valid for reads of its length.
    check(unsafe { libc::bind(fd.as_raw_fd(), addr.as_ptr(), addr.len()) }).map(drop)
}

pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// How far [`connect`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Connect {
    Done,
    /// When the socket is writable, [`finish_connect`] tells the outcome.
    InProgress,
}

/// Begins to connect. `WouldBlock` is a Unix listener whose backlog is full: nothing has begun, and no event will
/// tell when there is room; to be tried again later.
pub(crate) fn connect(fd: BorrowedFd<'_>, addr: &SockAddr) -> io::Result<Connect> {
    // SAFETY: `addr` is valid for reads of its length.
    let result = check(unsafe { libc::connect(fd.as_raw_fd(), addr.as_ptr(), addr.len()) });
    match result {
        Ok(_) => Ok(Connect::Done),
        Err(e) => match e.raw_os_error() {
            // An interrupted connect goes on by itself: a second call would be told EALREADY.
            Some(libc::EINPROGRESS | libc::EINTR) => Ok(Connect::InProgress),
            _ => Err(e),
        },
    }
}

/// The outcome of a [`connect`] that was in progress; `WouldBlock` if it still is (the wake-up was spurious).
pub(crate) fn finish_connect(fd: BorrowedFd<'_>) -> io::Result<()> {
    if let Some(e) = take_error(fd)? {
        return Err(e);
    }
    match peer_addr(fd) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
        Err(e) => Err(e),
    }
}

/// The next connection of a listener, and the peer's address. `WouldBlock`: there is none.
#[inline]
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    loop {
        match accept_one(fd) {
            // That one was given up by its peer while it waited. It has left the queue, so this ends with the queue.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNABORTED | libc::EPROTO | libc::EINTR)) => {}
            result => return result,
        }
    }
}

#[inline]
fn accept_one(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    // SAFETY: accept fills the address as `fill` asks for; the descriptor that it returns is ours alone.
    let (fd, addr) = unsafe {
        SockAddr::fill(|addr, len| {
            check(born::accept(fd.as_raw_fd(), addr, len)).map(|fd| OwnedFd::from_raw_fd(fd))
        })?
    };
    if cfg!(target_vendor = "apple") && addr.len() == 0 {
        // Another way to say it: the peer has gone, and its address with it.
        return Err(io::Error::from_raw_os_error(libc::ECONNABORTED));
    }
    prepare(&fd)?;
    Ok((fd, addr))
}

/// Is this accept's way to say that the process or the system has no room for another descriptor? The connection is
/// still in the queue then, and no event will tell when there is room.
pub(crate) fn is_exhausted(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
pub(crate) fn local_addr(fd: BorrowedFd<'_>) -> io::Result<SockAddr> {
    // SAFETY: getsockname fills the address as `fill` asks for.
    let result = unsafe { SockAddr::fill(|addr, len| check(libc::getsockname(fd.as_raw_fd(), addr, len))) };
    result.map(|(_, addr)| addr)
}

pub(crate) fn peer_addr(fd: BorrowedFd<'_>) -> io::Result<SockAddr> {
    // SAFETY: getpeername fills the address as `fill` asks for.
    let result = unsafe { SockAddr::fill(|addr, len| check(libc::getpeername(fd.as_raw_fd(), addr, len))) };
    result.map(|(_, addr)| addr)
}

// ---- Data ----

/// What a system call has transferred. An interrupted call is repeated.
#[inline]
fn transfer(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        let n = call();
        if n >= 0 {
            return Ok(n as usize);
        }
        if let Some(e) = failure() {
            return Err(e);
        }
    }
}

/// Why the last call has failed, unless it was only interrupted.
#[cold]
fn failure() -> Option<io::Error> {
    let e = io::Error::last_os_error();
    (e.raw_os_error() != Some(libc::EINTR)).then_some(e)
}

/// The same, of the calls that are [made here](call).
#[inline]
fn repeat(mut call: impl FnMut() -> Once) -> io::Result<usize> {
    loop {
        let once = call();
        if let Ok(n) = usize::try_from(once.0) {
            return Ok(n);
        }
        match once.result() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[inline]
pub(crate) fn send(fd: impl AsRawFd, buf: &[u8]) -> io::Result<usize> {
    repeat(|| send_once(&fd, buf))
}

#[inline]
pub(crate) fn recv(fd: impl AsRawFd, buf: &mut [u8]) -> io::Result<usize> {
    repeat(|| recv_once(&fd, buf))
}

/// The outcome of one call: where the usual one must cost as little as it can. Any other may be asked
/// [what it means](Once::result).
#[derive(Clone, Copy)]
pub(crate) struct Once(isize);

impl Once {
    /// Were so many bytes moved?
    #[inline(always)]
    pub fn is(self, len: usize) -> bool {
        self.0 as usize == len
    }

    /// So many bytes were moved, and not none.
    #[inline(always)]
    pub fn some(self) -> Option<usize> {
        (self.0 > 0).then_some(self.0 as usize)
    }

    /// An interrupted call has moved nothing, and is [repeated](io::ErrorKind::Interrupted) by the caller.
    #[cold]
    pub fn result(self) -> io::Result<usize> {
        usize::try_from(self.0).map_err(|_| io::Error::from_raw_os_error(-self.0 as i32))
    }
}

#[inline(always)]
pub(crate) fn send_once(fd: &impl AsRawFd, buf: &[u8]) -> Once {
    // SAFETY: `buf` is valid for reads of its length.
    Once(unsafe { call::send(fd.as_raw_fd(), buf.as_ptr(), buf.len(), libc::MSG_NOSIGNAL) })
}

#[inline(always)]
pub(crate) fn recv_once(fd: &impl AsRawFd, buf: &mut [u8]) -> Once {
    // SAFETY: `buf` is valid for writes of its length.
    Once(unsafe { call::recv(fd.as_raw_fd(), buf.as_mut_ptr(), buf.len(), 0) })
}

/// [`recv`], into memory that need not hold anything yet: as many bytes as are returned, from the first on, do then.
#[inline]
pub(crate) fn recv_uninit(fd: BorrowedFd<'_>, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: `buf` is valid for writes of its length. The kernel only writes to it.
    repeat(|| Once(unsafe { call::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) }))
}

#[inline]
pub(crate) fn send_to(fd: BorrowedFd<'_>, buf: &[u8], addr: &SockAddr) -> io::Result<usize> {
    let (from, len, flags) = (buf.as_ptr().cast(), buf.len(), libc::MSG_NOSIGNAL);
    // SAFETY: `buf` and `addr` are valid for reads of their lengths.
    transfer(|| unsafe { libc::sendto(fd.as_raw_fd(), from, len, flags, addr.as_ptr(), addr.len()) })
}

// ---- Many datagrams ----

/// Room for datagrams, and those that the last [`receive`](Datagrams::receive) has filled it with.
pub(crate) struct Datagrams {
    /// The kernel touches what it writes; the rest stays the zeros that it was born with, which take no memory.
    bytes: Vec<u8>,
    bytes_each: usize,
    /// As many there is room for.
    count: usize,
    received: Vec<Received>,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    headers: Headers,
}

#[derive(Clone, Copy)]
pub(crate) struct Received {
    /// As many as were written to the room, which may be fewer than were sent.
    len: usize,
    pub truncated: bool,
    pub from: SocketAddr,
}

/// What the kernel is told of the room for each datagram.
#[cfg(any(target_os = "linux", target_os = "android"))]
struct Headers {
    addrs: Vec<SockAddr>,
    slices: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers in it are written anew for each call, from what this call has a unique reference to, and nobody but
// the kernel follows them, during the call.
#[cfg(any(target_os = "linux", target_os = "android"))]
unsafe impl Send for Headers {}
// SAFETY: as above; a shared reference is good for nothing.
#[cfg(any(target_os = "linux", target_os = "android"))]
unsafe impl Sync for Headers {}

impl Datagrams {
    /// As many as one call may ask for (`UIO_MAXIOV`).
    const COUNT_MAX: usize = 1024;

    /// Room for `count` datagrams (at least 1, and no more than a call can fill) of so many bytes.
    pub fn new(count: usize, bytes_each: usize) -> Datagrams {
        let count = count.clamp(1, Datagrams::COUNT_MAX);
        let size = count.checked_mul(bytes_each).expect("more bytes than there are addresses");
        Datagrams {
            bytes: vec![0; size],
            bytes_each,
            count,
            received: Vec::with_capacity(count),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            headers: Headers {
                addrs: Vec::with_capacity(count),
                slices: Vec::with_capacity(count),
                messages: Vec::with_capacity(count),
            },
        }
    }

    /// Datagrams that there is room for.
    pub fn count_max(&self) -> usize {
        self.count
    }

    /// Those of the last call.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], Received)> + Clone {
        let place = move |(i, &received): (usize, &Received)| {
            let start = i * self.bytes_each;
            (&self.bytes[start..start + received.len], received)
        };
        self.received.iter().enumerate().map(place)
    }

    pub fn len(&self) -> usize {
        self.received.len()
    }

    pub fn clear(&mut self) {
        self.received.clear();
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Datagrams {
    /// As many as a call receives if they are there. After fewer of them, the queue was empty, or there was an error, which
    /// the next call tells.
    pub fn per_call(&self) -> usize {
        self.count
    }

    /// Receives those that are there, up to [`per_call`](Datagrams::per_call), instead of those that were. At least one;
    /// `WouldBlock`: there is none, also on a socket that blocks.
    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.clear();
        let count = self.count;
        let Headers { addrs, slices, messages } = &mut self.headers;
        addrs.clear();
        addrs.resize_with(count, SockAddr::room);
        slices.clear();
        let start = self.bytes.as_mut_ptr();
        slices.extend((0..count).map(|i| libc::iovec {
            // It is `count` times as long; nothing is followed here.
            iov_base: start.wrapping_add(i * self.bytes_each).cast(),
            iov_len: self.bytes_each,
        }));
        messages.clear();
        messages.extend(addrs.iter_mut().zip(slices).map(|(addr, slice)| {
            let mut message = message(slice);
            message.msg_namelen = addr.len();
            message.msg_name = addr.as_mut_ptr().cast();
            libc::mmsghdr { msg_hdr: message, msg_len: 0 }
        }));
        let (vec, vec_len) = (messages.as_mut_ptr(), count as libc::c_uint);
        // SAFETY: there are `count` headers, which no vector has grown since. Each points to a slice and to an address of its own, with the lengths that they
        // have, in vectors that nothing else touches until the call is over; and each slice to a part of its own of `bytes`.
        // There is no time limit.
        let n = transfer(|| unsafe {
            libc::recvmmsg(fd.as_raw_fd(), vec, vec_len, libc::MSG_DONTWAIT as _, ptr::null_mut())
                as libc::ssize_t
        })?;
        for (message, addr) in messages.iter().zip(addrs).take(n) {
            // SAFETY: it was made by `room`, and the kernel writes no more than there is room for.
            unsafe { addr.set_len(message.msg_hdr.msg_namelen) };
            let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let from = addr.inet().inspect_err(|_| self.received.clear())?;
            self.received.push(Received { len: message.msg_len as usize, truncated, from });
        }
        Ok(n)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Datagrams {
    /// As many as a call receives if they are there.
    pub fn per_call(&self) -> usize {
        1
    }

    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.receive_one(fd)
    }
}

#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
impl Datagrams {
    /// Receives one, instead of those that were. `WouldBlock`: there is none.
    fn receive_one(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.clear();
        let mut slice = IoSliceMut::new(&mut self.bytes[..self.bytes_each]);
        let mut message = message((&raw mut slice).cast());
        // SAFETY: recvmsg fills the address as `fill` asks for, and the slice, which is an iovec of memory that is valid for
        // writes.
        let (len, addr) = unsafe {
            SockAddr::fill(|addr, addr_len| {
                message.msg_name = addr.cast();
                message.msg_namelen = *addr_len;
                let n = transfer(|| libc::recvmsg(fd.as_raw_fd(), &mut message, 0))?;
                *addr_len = message.msg_namelen;
                Ok(n)
            })?
        };
        let truncated = message.msg_flags & libc::MSG_TRUNC != 0;
        self.received.push(Received { len, truncated, from: addr.inet()? });
        Ok(1)
    }
}

// ---- Descriptors over Unix sockets ----

/// As many descriptors as go with one message: Linux's limit, which the others have room for.
pub(crate) const FDS_PER_MESSAGE_MAX: usize = 253;

/// As much control data as a message can have: the BSDs' limit, which Linux's 253 descriptors fit into. With less
/// room, what the kernel cuts off stays open, nameless, on some systems.
const CONTROL_BYTES_MAX: usize = 2048;

/// Room for control messages, aligned for their headers.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES_MAX]);

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());
// SAFETY: CMSG_SPACE computes from its argument alone.
const _: () =
    assert!(unsafe { libc::CMSG_SPACE(fds_bytes(FDS_PER_MESSAGE_MAX)) } as usize <= CONTROL_BYTES_MAX);

/// The size of so many descriptors in a control message.
const fn fds_bytes(count: usize) -> libc::c_uint {
    (count * size_of::<c_int>()) as libc::c_uint
}

/// Sends data and, with its first byte, copies of descriptors; `Ok` means that all of these went, whatever the
/// count of bytes.
///
/// Errors: `InvalidInput` for more than [`FDS_PER_MESSAGE_MAX`], and for descriptors without a byte to go with.
pub(crate) fn send_fds(fd: BorrowedFd<'_>, buf: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.is_empty() {
        return send(fd, buf);
    }
    let count = fds.len();
    if count > FDS_PER_MESSAGE_MAX {
        let text = format!("{count} descriptors in one message: the limit is {FDS_PER_MESSAGE_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if buf.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "descriptors go with data: send at least one byte",
        ));
    }
    let slice = IoSlice::new(buf);
    let mut message = message((&raw const slice).cast_mut().cast());
    let mut control = Control([0; CONTROL_BYTES_MAX]);
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: `control` has room for a header and `count` descriptors (see the assertion above) and is aligned for
    // the header; the descriptors behind it are written with no alignment in mind, from a slice of as many numbers
    // (a BorrowedFd is one). sendmsg reads what was written, and the slice, which is an iovec.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(fds_bytes(count)) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(fds_bytes(count)) as _;
        ptr::copy_nonoverlapping(fds.as_ptr().cast(), libc::CMSG_DATA(header), fds_bytes(count) as usize);
        transfer(|| libc::sendmsg(fd.as_raw_fd(), &message, libc::MSG_NOSIGNAL))
    }
}

/// Close-on-exec from the first moment, where there is such a thing.
#[cfg(not(target_vendor = "apple"))]
const RECV_FDS_FLAGS: c_int = libc::MSG_CMSG_CLOEXEC;
#[cfg(target_vendor = "apple")]
const RECV_FDS_FLAGS: c_int = 0;

/// A message of one slice, with neither address nor control data.
fn message(slice: *mut libc::iovec) -> libc::msghdr {
    // SAFETY: zeros are a value of each of its fields, which are numbers and pointers.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = slice;
    message.msg_iovlen = 1;
    message
}

/// Receives data and the descriptors that came with it, at most `max`. They are close-on-exec.
///
/// Errors: `InvalidData` if more came than `max`, or if the kernel dropped some because the process may not have
/// more. All of them are closed then, and the data is lost.
pub(crate) fn recv_fds(fd: BorrowedFd<'_>, buf: &mut [u8], max: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
    recv_fds_into(&mut Control([0; CONTROL_BYTES_MAX]).0, fd, buf, max)
}

/// With room of the caller's, which has the alignment of a [`Control`]: a test wants less of it.
fn recv_fds_into(
    control: &mut [u8],
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    max: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut slice = IoSliceMut::new(buf);
    let mut message = message((&raw mut slice).cast());
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len() as _;
    // SAFETY: the slice is an iovec, of memory that is valid for writes, and so is `control`.
    let n = transfer(|| unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, RECV_FDS_FLAGS) })?;
    // SAFETY: recvmsg has just filled this message in.
    let fds = unsafe { take_fds(&message) };
    if fds.len() > max || message.msg_flags & libc::MSG_CTRUNC != 0 {
        let came = fds.len();
        let text = if came > max {
            format!("{came} descriptors came with a message, at most {max} were expected: all are closed")
        } else {
            format!(
                "descriptors of a message were lost for want of room (RLIMIT_NOFILE?): the other {came} are closed"
            )
        };
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    if RECV_FDS_FLAGS == 0 {
        for fd in &fds {
            set_cloexec(fd.as_fd())?;
        }
    }
    Ok((n, fds))
}

/// The descriptors among the control data of a message.
///
/// # Safety
///
/// `message` is as recvmsg has left it, its control data is there, and nobody has taken the descriptors yet.
unsafe fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let end = message.msg_control.cast::<u8>().wrapping_add(message.msg_controllen as _);
    let mut fds = Vec::new();
    // SAFETY: the headers are walked as the system's own macros do it. Some systems leave the length of a message that
    // they cut as it was: what is read ends where the control data ends. A received descriptor is ours alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(header);
                let len = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let count = len.min((end as usize).saturating_sub(data as usize)) / size_of::<c_int>();
                let numbers = data.cast::<c_int>();
                fds.extend((0..count).map(|i| OwnedFd::from_raw_fd(numbers.add(i).read_unaligned())));
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::super::option;
    use super::*;
    use std::io::Read;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    const LOCALHOSTS: [SocketAddr; 2] = [
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
    ];

    /// Those that this machine has.
    fn localhosts() -> impl Iterator<Item = SocketAddr> {
        LOCALHOSTS.into_iter().filter(|addr| addr.is_ipv4() || UdpSocket::bind(addr).is_ok())
    }

    fn family(addr: &SocketAddr) -> c_int {
        if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
    }

    /// A socket that is bound to a port of its own.
    fn bound(addr: SocketAddr, kind: c_int) -> OwnedFd {
        let fd = new(family(&addr), kind).unwrap();
        bind(fd.as_fd(), &addr.into()).unwrap();
        fd
    }

    fn listener(addr: SocketAddr) -> OwnedFd {
        let fd = bound(addr, libc::SOCK_STREAM);
        listen(fd.as_fd(), 128).unwrap();
        fd
    }

    /// Two TCP sockets that are connected to each other.
    fn tcp_pair(addr: SocketAddr) -> (OwnedFd, OwnedFd) {
        let listener = listener(addr);
        let client = new(family(&addr), libc::SOCK_STREAM).unwrap();
        if connect(client.as_fd(), &local_addr(listener.as_fd()).unwrap()).unwrap() == Connect::InProgress {
            wait(&client, libc::POLLOUT);
            finish_connect(client.as_fd()).unwrap();
        }
        wait(&listener, libc::POLLIN);
        let (server, from) = accept(listener.as_fd()).unwrap();
        assert_eq!(from.inet().unwrap(), local_addr(client.as_fd()).unwrap().inet().unwrap());
        (client, server)
    }

    /// Blocks until `fd` is ready, or the test has failed.
    fn wait(fd: &impl AsRawFd, events: libc::c_short) {
        let mut one = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
        // SAFETY: `one` is a valid array of one pollfd for the whole call.
        assert_eq!(check(unsafe { libc::poll(&mut one, 1, 10_000) }).unwrap(), 1, "not ready in ten seconds");
    }

    fn is_nonblocking(fd: &OwnedFd) -> bool {
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }).unwrap() & libc::O_NONBLOCK != 0
    }

    fn is_cloexec(fd: &OwnedFd) -> bool {
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }).unwrap() & libc::FD_CLOEXEC != 0
    }

    fn kind_of<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
        result.unwrap_err().kind()
    }

    /// A path in the temporary directory that nothing else has; the file goes with it.
    struct TempPath(PathBuf);

    impl TempPath {
        fn new() -> TempPath {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("wakewheel-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            TempPath(std::env::temp_dir().join(name))
        }
    }

    impl Drop for TempPath {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn every_new_descriptor_is_nonblocking_and_close_on_exec() {
        let (client, server) = tcp_pair(LOCALHOSTS[0]);
        let (a, b) = pair(libc::SOCK_DGRAM).unwrap();
        for fd in [client, server, a, b] {
            assert!(is_nonblocking(&fd));
            assert!(is_cloexec(&fd));
        }
    }

    #[test]
    fn nonblocking_is_set_and_cleared() {
        let (a, _b) = pair(libc::SOCK_STREAM).unwrap();
        for on in [true, false, false, true] {
            set_nonblocking(a.as_fd(), on).unwrap();
            assert_eq!(is_nonblocking(&a), on);
        }
    }

    #[test]
    fn connect_accept_and_data_over_tcp() {
        for addr in localhosts() {
            let (client, server) = tcp_pair(addr);
            let mut server = TcpStream::from(server);
            assert_eq!(peer_addr(client.as_fd()).unwrap().inet().unwrap().ip(), addr.ip());

            let mut buf = [0; 16];
            assert_eq!(kind_of(server.read(&mut buf)), io::ErrorKind::WouldBlock);
            assert_eq!(send(client.as_fd(), b"ping").unwrap(), 4);
            wait(&server, libc::POLLIN);
            assert_eq!(server.read(&mut buf).unwrap(), 4);
            assert_eq!(&buf[..4], b"ping");

            drop(client);
            wait(&server, libc::POLLIN);
            assert_eq!(server.read(&mut buf).unwrap(), 0);
        }
    }

    #[test]
    fn an_empty_queue_would_block() {
        let listener = listener(LOCALHOSTS[0]);
        assert_eq!(kind_of(accept(listener.as_fd())), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_connection_that_was_reset_in_the_queue_does_not_fail_the_listener() {
        let listener = listener(LOCALHOSTS[0]);
        let addr = local_addr(listener.as_fd()).unwrap();
        let connected = || {
            let client = new(libc::AF_INET, libc::SOCK_STREAM).unwrap();
            let _ = connect(client.as_fd(), &addr).unwrap();
            wait(&client, libc::POLLOUT);
            client
        };
        let reset = connected();
        option::set_linger(reset.as_fd(), Some(Duration::ZERO)).unwrap();
        drop(reset);
        let alive = local_addr(connected().as_fd()).unwrap().inet().unwrap();
        // Systems differ in whether the first one is still handed out.
        wait(&listener, libc::POLLIN);
        while accept(listener.as_fd()).unwrap().1.inet().unwrap() != alive {}
    }

    #[test]
    fn a_refused_connection_is_an_error() {
        for addr in localhosts() {
            // Bound but not listening: nobody else can listen there.
            let closed = bound(addr, libc::SOCK_STREAM);
            let client = new(family(&addr), libc::SOCK_STREAM).unwrap();
            let result = connect(client.as_fd(), &local_addr(closed.as_fd()).unwrap()).and_then(|_| {
                wait(&client, libc::POLLOUT);
                finish_connect(client.as_fd())
            });
            assert_eq!(kind_of(result), io::ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn a_connection_that_is_not_there_yet_would_block() {
        let client = new(libc::AF_INET, libc::SOCK_STREAM).unwrap();
        assert_eq!(kind_of(finish_connect(client.as_fd())), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_full_unix_backlog_would_block() {
        let path = TempPath::new();
        let addr = SockAddr::unix_path(&path.0).unwrap();
        let listener = new(libc::AF_UNIX, libc::SOCK_STREAM).unwrap();
        bind(listener.as_fd(), &addr).unwrap();
        listen(listener.as_fd(), 1).unwrap();

        let attempt = || {
            let client = new(libc::AF_UNIX, libc::SOCK_STREAM).unwrap();
            connect(client.as_fd(), &addr).map(|state| (client, state))
        };
        let mut clients = Vec::new();
        let error = loop {
            match attempt() {
                Ok((client, state)) => {
                    assert_eq!(state, Connect::Done);
                    clients.push(client);
                }
                Err(e) => break e,
            }
        };
        // The BSDs refuse; Linux asks to try again, which is worth a try once there is room.
        if cfg!(any(target_os = "linux", target_os = "android")) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            let (_server, from) = accept(listener.as_fd()).unwrap();
            assert!(from.unix().unwrap().is_unnamed());
            assert_eq!(attempt().unwrap().1, Connect::Done);
        }
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn a_closed_peer_is_an_error_and_not_a_signal() {
        let signals = |what: unsafe extern "C" fn(*mut libc::sigset_t) -> c_int| {
            // SAFETY: zeros are a set of signals, which `what` changes.
            unsafe {
                let mut set: libc::sigset_t = mem::zeroed();
                what(&mut set);
                set
            }
        };
        let is_pending = || {
            // SAFETY: the set is filled in.
            unsafe { libc::sigismember(&signals(libc::sigpending), libc::SIGPIPE) == 1 }
        };
        // A signal that this thread blocks stays pending, even one that the process ignores.
        let mut pipe = signals(libc::sigemptyset);
        // SAFETY: the set is valid, and only this thread blocks it.
        unsafe {
            libc::sigaddset(&mut pipe, libc::SIGPIPE);
            libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, ptr::null_mut());
        }
        let (a, b) = pair(libc::SOCK_STREAM).unwrap();
        let addr = SockAddr::from(LOCALHOSTS[0]);
        drop(b);
        for result in [
            send(a.as_fd(), b"x"),
            send_fds(a.as_fd(), b"x", &[a.as_fd()]),
            send_to(new(libc::AF_INET, libc::SOCK_STREAM).unwrap().as_fd(), b"x", &addr),
        ] {
            assert_eq!(kind_of(result), io::ErrorKind::BrokenPipe);
            assert!(!is_pending());
        }
        // SAFETY: one byte is valid for reads.
        assert_eq!(unsafe { libc::write(a.as_raw_fd(), b"x".as_ptr().cast(), 1) }, -1);
        assert!(is_pending(), "this is what a signal would have looked like");
    }

    #[test]
    fn exhaustion_is_told_from_other_errors() {
        for (errno, expected) in [(libc::EMFILE, true), (libc::ENFILE, true), (libc::ENOBUFS, true)]
            .into_iter()
            .chain([(libc::ENOMEM, true), (libc::EAGAIN, false), (libc::EINVAL, false)])
        {
            let e = io::Error::from_raw_os_error(errno);
            assert_eq!(is_exhausted(&e), expected, "{e}");
        }
        assert!(!is_exhausted(&io::ErrorKind::OutOfMemory.into()));
    }

    #[test]
    fn datagrams_carry_their_senders_address() {
        for addr in localhosts() {
            let (a, b) = (bound(addr, libc::SOCK_DGRAM), UdpSocket::from(bound(addr, libc::SOCK_DGRAM)));
            assert_eq!(send_to(a.as_fd(), b"hello", &local_addr(b.as_fd()).unwrap()).unwrap(), 5);
            wait(&b, libc::POLLIN);
            let mut buf = [0; 16];
            let (n, from) = b.recv_from(&mut buf).unwrap();
            assert_eq!(&buf[..n], b"hello");
            assert_eq!(from, local_addr(a.as_fd()).unwrap().inet().unwrap());
            assert_eq!(kind_of(b.recv_from(&mut buf)), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn many_datagrams_are_received_at_once_or_one_by_one() {
        type Receive = fn(&mut Datagrams, BorrowedFd<'_>) -> io::Result<usize>;
        let ways: [(Receive, usize); 2] =
            [(Datagrams::receive, Datagrams::new(3, 0).per_call()), (Datagrams::receive_one, 1)];
        for ((receive, per_call), addr) in
            ways.into_iter().flat_map(|way| localhosts().map(move |a| (way, a)))
        {
            let senders = [bound(addr, libc::SOCK_DGRAM), bound(addr, libc::SOCK_DGRAM)];
            let [a, b] = senders.each_ref().map(|fd| local_addr(fd.as_fd()).unwrap().inet().unwrap());
            let to = bound(addr, libc::SOCK_DGRAM);
            let to_addr = local_addr(to.as_fd()).unwrap();
            let mut datagrams = Datagrams::new(3, 5);
            assert_eq!(kind_of(receive(&mut datagrams, to.as_fd())), io::ErrorKind::WouldBlock);
            for (i, text) in ["one", "", "three", "too long"].into_iter().enumerate() {
                send_to(senders[i % 2].as_fd(), text.as_bytes(), &to_addr).unwrap();
            }
            // The kernel may leave the delivery to another thread.
            std::thread::sleep(Duration::from_millis(10));
            let mut all = Vec::new();
            let mut largest = 0;
            while all.len() < 4 {
                let n = receive(&mut datagrams, to.as_fd()).unwrap();
                assert_eq!(n, datagrams.len());
                largest = largest.max(n);
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                all.extend(datagrams.iter().map(|(bytes, r)| (text(bytes), r.from, r.truncated)));
            }
            assert_eq!(largest, per_call);
            let expected = [("one", a, false), ("", b, false), ("three", a, false), ("too l", b, true)];
            assert_eq!(all, expected.map(|(text, from, cut)| (text.to_string(), from, cut)));
            assert_eq!(kind_of(receive(&mut datagrams, to.as_fd())), io::ErrorKind::WouldBlock);
            assert_eq!(datagrams.len(), 0, "none of the last call");
        }
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn receiving_datagrams_does_not_wait_on_a_socket_that_blocks() {
        let to = bound(LOCALHOSTS[0], libc::SOCK_DGRAM);
        set_nonblocking(to.as_fd(), false).unwrap();
        let mut datagrams = Datagrams::new(3, 5);
        assert_eq!(kind_of(datagrams.receive(to.as_fd())), io::ErrorKind::WouldBlock);
        send_to(to.as_fd(), b"x", &local_addr(to.as_fd()).unwrap()).unwrap();
        assert_eq!(datagrams.receive(to.as_fd()).unwrap(), 1);
    }

    #[test]
    fn there_is_room_for_as_many_datagrams_as_a_call_can_fill() {
        for (count, room) in [(0, 1), (1, 1), (17, 17), (1024, 1024), (5000, 1024)] {
            assert_eq!(Datagrams::new(count, 1).count_max(), room);
        }
    }

    #[test]
    fn a_unix_datagram_has_its_senders_path_or_none() {
        let (path, own) = (TempPath::new(), TempPath::new());
        let to = SockAddr::unix_path(&path.0).unwrap();
        let receiver = new(libc::AF_UNIX, libc::SOCK_DGRAM).unwrap();
        bind(receiver.as_fd(), &to).unwrap();
        let receiver = UnixDatagram::from(receiver);
        let sender = new(libc::AF_UNIX, libc::SOCK_DGRAM).unwrap();

        let mut buf = [0; 16];
        send_to(sender.as_fd(), b"unnamed", &to).unwrap();
        let (n, from) = receiver.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"unnamed");
        assert!(from.is_unnamed());

        bind(sender.as_fd(), &SockAddr::unix_path(&own.0).unwrap()).unwrap();
        send_to(sender.as_fd(), b"named", &to).unwrap();
        let (n, from) = receiver.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"named");
        assert_eq!(from.as_pathname(), Some(&*own.0));
    }

    #[test]
    fn an_interrupted_call_goes_on() {
        static CAUGHT: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn count(_: c_int) {
            CAUGHT.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the handler only adds to an atomic; zeros are no flags (no SA_RESTART) and no other signals blocked.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(c_int) as usize;
            check(libc::sigaction(libc::SIGURG, &action, ptr::null_mut())).unwrap();
        }
        let (a, b) = pair(libc::SOCK_STREAM).unwrap();
        set_nonblocking(b.as_fd(), false).unwrap();
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let thread = scope.spawn(move || {
                // SAFETY: no pointers.
                sender.send(unsafe { libc::pthread_self() }).unwrap();
                let (n, _) = recv_fds(b.as_fd(), &mut [0; 16], 0)?;
                io::Result::Ok(n)
            });
            let id = receiver.recv().unwrap();
            while CAUGHT.load(Ordering::Relaxed) < 200 && !thread.is_finished() {
                // SAFETY: the thread has not been joined, so its id is good.
                unsafe { libc::pthread_kill(id, libc::SIGURG) };
                std::thread::yield_now();
            }
            send(a.as_fd(), b"done").unwrap();
            assert_eq!(thread.join().unwrap().unwrap(), 4);
        });
    }

    /// A pipe's reading end and so many copies of its writing end: when all of them are closed, and not before, the
    /// reading end is at its end of file.
    fn pipe(count: usize) -> (UnixStream, Vec<OwnedFd>) {
        let (read, write) = UnixStream::pair().unwrap();
        read.set_nonblocking(true).unwrap();
        let mut copies: Vec<OwnedFd> = (1..count).map(|_| write.try_clone().unwrap().into()).collect();
        copies.push(write.into());
        (read, copies)
    }

    fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
        fds.iter().map(AsFd::as_fd).collect()
    }

    #[test]
    fn descriptors_arrive_with_their_data() {
        let (a, b) = pair(libc::SOCK_STREAM).unwrap();
        let (mut read, write) = pipe(3);
        assert_eq!(send_fds(a.as_fd(), b"three", &borrowed(&write)).unwrap(), 5);
        assert_eq!(send_fds(a.as_fd(), b"none", &[]).unwrap(), 4);
        drop(write);

        let mut buf = [0; 16];
        let (n, fds) = recv_fds(b.as_fd(), &mut buf, 3).unwrap();
        assert_eq!((&buf[..n], fds.len()), (&b"three"[..], 3));
        assert!(fds.iter().all(is_cloexec));
        assert_eq!(kind_of(read.read(&mut [0])), io::ErrorKind::WouldBlock);
        drop(fds);
        assert_eq!(read.read(&mut [0]).unwrap(), 0);

        let (n, fds) = recv_fds(b.as_fd(), &mut buf, 3).unwrap();
        assert_eq!((&buf[..n], fds.len()), (&b"none"[..], 0));
        assert_eq!(kind_of(recv_fds(b.as_fd(), &mut buf, 3)), io::ErrorKind::WouldBlock);
        drop(a);
        let (n, fds) = recv_fds(b.as_fd(), &mut buf, 3).unwrap();
        assert_eq!((n, fds.len()), (0, 0));
    }

    #[test]
    fn as_many_descriptors_as_a_message_takes() {
        let (a, b) = pair(libc::SOCK_STREAM).unwrap();
        let (_read, write) = pipe(1);
        let fds = vec![write[0].as_fd(); FDS_PER_MESSAGE_MAX + 1];
        send_fds(a.as_fd(), b"x", &fds[1..]).unwrap();
        let (_, came) = recv_fds(b.as_fd(), &mut [0], FDS_PER_MESSAGE_MAX).unwrap();
        assert_eq!(came.len(), FDS_PER_MESSAGE_MAX);

        let error = send_fds(a.as_fd(), b"x", &fds).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), "254 descriptors in one message: the limit is 253");
        assert_eq!(kind_of(send_fds(a.as_fd(), b"", &fds[1..])), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn more_descriptors_than_expected_are_closed() {
        let (a, b) = pair(libc::SOCK_STREAM).unwrap();
        let (mut read, write) = pipe(3);
        send_fds(a.as_fd(), b"x", &borrowed(&write)).unwrap();
        drop(write);
        let error = recv_fds(b.as_fd(), &mut [0], 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().starts_with("3 descriptors came"), "{error}");
        assert_eq!(read.read(&mut [0]).unwrap(), 0, "a descriptor has leaked");
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn descriptors_of_a_message_that_the_kernel_cut_are_closed() {
        let (a, b) = pair(libc::SOCK_STREAM).unwrap();
        let (mut read, write) = pipe(5);
        send_fds(a.as_fd(), b"x", &borrowed(&write)).unwrap();
        drop(write);
        let mut control = Control([0; CONTROL_BYTES_MAX]);
        // SAFETY: CMSG_LEN computes from its argument alone.
        let room = unsafe { libc::CMSG_LEN(fds_bytes(2)) } as usize;
        let error = recv_fds_into(&mut control.0[..room], b.as_fd(), &mut [0], 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().ends_with("the other 2 are closed"), "{error}");
        assert_eq!(read.read(&mut [0]).unwrap(), 0, "a descriptor has leaked");
    }

    #[test]
    fn sockets_of_the_standard_library_are_served_as_well() {
        let listener = TcpListener::bind(LOCALHOSTS[0]).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(local_addr(listener.as_fd()).unwrap().inet().unwrap(), listener.local_addr().unwrap());
        assert_eq!(kind_of(accept(listener.as_fd())), io::ErrorKind::WouldBlock);
        assert_eq!(kind_of(peer_addr(listener.as_fd())), io::ErrorKind::NotConnected);
    }
}
