//! Something readable that one thread can make readable for another.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// An eventfd where there is one, else a pair of sockets. Non-blocking and close-on-exec.
#[derive(Debug)]
pub(crate) struct Notifier {
    read: OwnedFd,
    /// The pair's other end; an eventfd has only one.
    write: Option<OwnedFd>,
}

impl Notifier {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn new() -> io::Result<Notifier> {
        use std::os::fd::FromRawFd;
        // SAFETY: no pointers.
        let fd = super::check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: eventfd has made it, for us alone.
        let read = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Notifier { read, write: None })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub fn new() -> io::Result<Notifier> {
        let (read, write) = super::socket::pair(libc::SOCK_STREAM)?;
        Ok(Notifier { read, write: Some(write) })
    }

    /// Makes it readable. Full means readable, so a failure to write more is a success.
    pub fn notify(&self) {
        let one = 1u64.to_ne_bytes();
        let fd = self.write.as_ref().unwrap_or(&self.read);
        // SAFETY: `one` is valid for 8 bytes.
        unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable, for a level-triggered selector.
    pub fn drain(&self) {
        let mut buf = [0u8; 64];
        // Sockets may hold more than one buffer.
        // SAFETY: `buf` is valid for writes of its length.
        while unsafe { libc::read(self.read.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) }
            == buf.len() as isize
        {}
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}
