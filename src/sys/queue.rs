//! A kqueue, and what else than descriptors can be waited for in one.

use super::{check, fork};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

#[cfg(wakewheel_libkqueue)]
pub(super) use super::libkqueue as bsd;
#[cfg(not(wakewheel_libkqueue))]
pub(super) use libc as bsd;

// SAFETY: all zeroes is a kevent: it is made of integers and a pointer.
pub(super) const BLANK: bsd::kevent = unsafe { std::mem::zeroed() };

#[derive(Debug)]
pub(super) struct Queue {
    kqueue: ManuallyDrop<OwnedFd>,
    /// The process that has it.
    generation: u32,
}

impl Queue {
    pub fn new() -> io::Result<Queue> {
        // SAFETY: no pointers; a descriptor that kqueue returns is ours alone.
        let kqueue = unsafe { OwnedFd::from_raw_fd(check(bsd::kqueue())?) };
        // Late is soon enough: a child that another thread forks meanwhile does not have it.
        super::socket::set_cloexec(kqueue.as_fd())?;
        Ok(Queue { kqueue: ManuallyDrop::new(kqueue), generation: fork::watch() })
    }

    /// Makes `changes`, each of which has a result of its own: an errno, or 0.
    pub fn change<const N: usize>(&self, mut changes: [bsd::kevent; N]) -> io::Result<[i32; N]> {
        for change in &mut changes {
            change.flags |= bsd::EV_RECEIPT;
        }
        let (list, now) = (changes.as_mut_ptr(), super::timespec(Duration::ZERO));
        // SAFETY: `list` is valid for N events, and `now` for reads, through the call; a receipt takes the place of a
        // change that has been read.
        check(unsafe { bsd::kevent(self.kqueue.as_raw_fd(), list, N as _, list, N as _, &now) })?;
        Ok(changes.map(|receipt| receipt.data as i32))
    }

    /// Waits until something has happened, or `timeout` has passed; how many events there are in `room` then.
    pub fn wait(&self, room: &mut [bsd::kevent], timeout: Option<Duration>) -> io::Result<usize> {
        let spec = timeout.map(super::timespec);
        let spec = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (fd, list, len) = (self.kqueue.as_raw_fd(), room.as_mut_ptr(), room.len());
        // SAFETY: there are no changes; `room` is valid for its length, and the kernel writes no more than that; `spec` is
        // null or lives through the call.
        check(unsafe { bsd::kevent(fd, std::ptr::null(), 0, list, len as _, spec) }).map(|n| n as usize)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        #[cfg(wakewheel_libkqueue)]
        return super::libkqueue::pollable(self.kqueue.as_fd());
        #[cfg(not(wakewheel_libkqueue))]
        self.kqueue.as_fd()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // A child of fork has no such descriptor: the number may be another file's.
        if self.generation == fork::generation() {
            // SAFETY: it is dropped once, and not used after this.
            unsafe { ManuallyDrop::drop(&mut self.kqueue) };
        }
    }
}

pub(super) fn succeed(errno: i32) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Those of FreeBSD. The kernel takes any number.
const SIGNALS_MAX: i32 = 128;

/// A signal, or the exit of a process, as a descriptor: a kqueue of its own, which is readable once it has happened. So it can
/// be waited for in any selector, and by several.
#[derive(Debug)]
pub(crate) struct Filter {
    queue: Queue,
}

impl Filter {
    /// Readable when this signal has come, until [`take`](Filter::take) is called. What else the signal does is not changed.
    pub fn signal(number: i32) -> io::Result<Filter> {
        if !(1..=SIGNALS_MAX).contains(&number) {
            let text = format!("signal {number} cannot be waited for: there is no such signal");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Filter::new(bsd::kevent { ident: number as _, filter: bsd::EVFILT_SIGNAL, ..BLANK })
    }

    /// Readable when this process has exited, for ever if `take` is not called. `None`: it has exited already, and some
    /// systems do not know it any more.
    pub fn exit(pid: i32) -> io::Result<Option<Filter>> {
        let exit = bsd::kevent { ident: pid as _, filter: bsd::EVFILT_PROC, fflags: bsd::NOTE_EXIT, ..BLANK };
        match Filter::new(exit) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            result => result.map(Some),
        }
    }

    fn new(change: bsd::kevent) -> io::Result<Filter> {
        let queue = Queue::new()?;
        succeed(queue.change([bsd::kevent { flags: bsd::EV_ADD, ..change }])?[0])?;
        Ok(Filter { queue })
    }

    /// Has it happened since the last time?
    pub fn take(&self) -> io::Result<bool> {
        match self.queue.wait(&mut [BLANK], Some(Duration::ZERO)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            result => result.map(|n| n > 0),
        }
    }
}

impl AsFd for Filter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
