//! epoll(7): one edge-triggered registration per descriptor, for both directions.

use super::notifier::Notifier;
use super::{Backend, EVENTS_PER_WAIT_MAX, Event, NOTIFY_TOKEN, Ready, Trigger, Watched, call, check};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const BACKEND: Backend = Backend::Epoll;

#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    notifier: Notifier,
}

pub(crate) struct RawEvents {
    room: Box<[libc::epoll_event]>,
    /// How many the last wait had.
    pub len: usize,
}

impl Default for RawEvents {
    fn default() -> RawEvents {
        let none = libc::epoll_event { events: 0, u64: 0 };
        RawEvents { room: vec![none; EVENTS_PER_WAIT_MAX].into_boxed_slice(), len: 0 }
    }
}

impl RawEvents {
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Event> + '_ {
        self.room[..self.len].iter().map(|e| Event { token: e.u64, ready: ready(e.events as libc::c_int) })
    }
}

impl std::fmt::Debug for RawEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawEvents")
    }
}

/// RDHUP and PRI are asked for because a short read is taken for "drained" only as long as neither was seen.
const INTEREST: libc::c_int =
    libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLET;

impl Poller {
    pub fn new() -> io::Result<Poller> {
        // SAFETY: no pointers; a descriptor that epoll_create1 returns is ours alone.
        let epoll = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let poller = Poller { epoll, notifier: Notifier::new()? };
        // Edge-triggered, so that nobody has to drain it: every notification is an edge of its own.
        poller.control(
            libc::EPOLL_CTL_ADD,
            poller.notifier.as_fd().as_raw_fd(),
            libc::EPOLLIN | libc::EPOLLET,
            NOTIFY_TOKEN,
        )?;
        Ok(poller)
    }

    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, INTEREST, token)
    }

    #[inline]
    pub fn watch(&self, fd: RawFd, token: u64, watched: Watched, is_new: bool) -> io::Result<()> {
        // See `ready`.
        let mut mask = (watched.interest.0 & (Ready::READABLE | Ready::WRITABLE).0) as libc::c_int;
        if watched.interest.contains(Ready::READ_CLOSED) {
            mask |= libc::EPOLLRDHUP;
        }
        if watched.trigger == Trigger::Edge {
            mask |= libc::EPOLLET;
        }
        let op = if is_new { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_MOD };
        self.control(op, fd, mask, token)
    }

    #[inline]
    pub fn delete(&self, fd: RawFd) -> io::Result<()> {
        // SAFETY: this op reads no event. (Linux before 2.6.9 would.)
        done(unsafe { call::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null()) })
    }

    /// To add it once more is refused if it is there, and disturbs nobody. (To modify it would report it again, and would
    /// have to know how it was added.)
    pub fn holds(&self, fd: RawFd, token: u64) -> bool {
        match self.control(libc::EPOLL_CTL_ADD, fd, 0, token) {
            Ok(()) => {
                let _ = self.delete(fd);
                false
            }
            Err(e) => e.raw_os_error() == Some(libc::EEXIST),
        }
    }

    #[inline]
    fn control(&self, op: libc::c_int, fd: RawFd, interest: libc::c_int, token: u64) -> io::Result<()> {
        let event = libc::epoll_event { events: interest as u32, u64: token };
        // SAFETY: `event` lives through the call, and the kernel copies it.
        done(unsafe { call::epoll_ctl(self.epoll.as_raw_fd(), op, fd, &event) })
    }

    #[inline]
    pub fn wait(&self, raw: &mut RawEvents, timeout: Option<Duration>) -> io::Result<()> {
        let epoll = self.epoll.as_raw_fd();
        let n = match timeout {
            None => wait_ms(epoll, &mut raw.room, -1),
            Some(Duration::ZERO) => wait_ms(epoll, &mut raw.room, 0),
            Some(time) => wait_for(epoll, &mut raw.room, time),
        };
        raw.len = if n < 0 { no_events(-n as libc::c_int)? } else { n as usize };
        Ok(())
    }

    pub fn notify(&self) {
        self.notifier.notify();
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[inline]
fn ready(events: libc::c_int) -> Ready {
    // Nearly always.
    if events & !(libc::EPOLLIN | libc::EPOLLOUT) == 0 {
        const { assert!(libc::EPOLLIN == Ready::READABLE.0 as i32 && libc::EPOLLOUT == Ready::WRITABLE.0 as i32) };
        return Ready(events as u8);
    }
    special(events)
}

#[cold]
fn special(events: libc::c_int) -> Ready {
    let mut ready = Ready::default();
    for (mask, bits) in [
        (libc::EPOLLIN, Ready::READABLE),
        (libc::EPOLLOUT, Ready::WRITABLE),
        (libc::EPOLLPRI, Ready::PRIORITY | Ready::READABLE),
        (libc::EPOLLRDHUP, Ready::READ_CLOSED | Ready::READABLE),
        (libc::EPOLLHUP, Ready::HANGUP | Ready::READ_CLOSED | Ready::READABLE | Ready::WRITABLE),
        (libc::EPOLLERR, Ready::ERROR | Ready::READABLE | Ready::WRITABLE),
    ] {
        if events & mask != 0 {
            ready |= bits;
        }
    }
    ready
}

/// Set once the kernel has refused epoll_pwait2: ENOSYS before Linux 5.11, EPERM under a seccomp filter.
static NO_PWAIT2: AtomicBool = AtomicBool::new(false);

/// A wait in milliseconds: how many events there are, or the number of the error, negated.
#[inline]
fn wait_ms(epoll: RawFd, buf: &mut [libc::epoll_event], ms: libc::c_int) -> isize {
    // SAFETY: `buf` is valid for `buf.len()` events, and the kernel writes no more than that.
    unsafe { call::epoll_wait(epoll, buf.as_mut_ptr(), buf.len(), ms) }
}

/// A wait in nanoseconds where the kernel can, else in milliseconds, rounded up.
#[inline(never)]
fn wait_for(epoll: RawFd, buf: &mut [libc::epoll_event], time: Duration) -> isize {
    if !NO_PWAIT2.load(Ordering::Relaxed) {
        // A struct __kernel_timespec, which has 64 bits for both also where the C library's has 32.
        let spec = [time.as_secs() as i64, i64::from(time.subsec_nanos())];
        // SAFETY: as above; `spec` lives through the call, and there is no signal mask. By number, because not every
        // C library has the function.
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                epoll,
                buf.as_mut_ptr(),
                buf.len() as libc::c_int,
                spec.as_ptr(),
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        if n >= 0 {
            return n as isize;
        }
        let error = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        if !matches!(error, libc::ENOSYS | libc::EPERM) {
            return -(error as isize);
        }
        NO_PWAIT2.store(true, Ordering::Relaxed);
    }
    wait_ms(epoll, buf, super::poll::ms_rounded_up(time))
}

#[inline]
fn done(result: isize) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result as libc::c_int)) } else { Ok(()) }
}

/// A wait has failed. To be interrupted is no error.
#[cold]
fn no_events(error: libc::c_int) -> io::Result<usize> {
    let e = io::Error::from_raw_os_error(error);
    if e.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(e) }
}
