//! What the kernel gives: a readiness selector, a way to interrupt it, and sockets.
//!
//! One question per file. "How does this system wait?" has three answers with the same few functions in the
//! same order: [`epoll`] (Linux, Android), [`kqueue`] (macOS, iOS, the BSDs) and [`poll`] (every Unix, and the
//! one that can be chosen at run time everywhere). [`Poller`] is the choice between the system's own and poll(2).
//!
//! This floor knows file descriptors, tokens and [`Ready`] bits. It knows nothing of sources, wakers or futures.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::time::Duration;

#[cfg(all(any(target_os = "linux", target_os = "android"), not(wakewheel_libkqueue)))]
#[path = "epoll.rs"]
mod native;

// kqueue has room for a pointer where it keeps our 64-bit tokens.
#[cfg(all(
    target_pointer_width = "64",
    any(
        wakewheel_libkqueue,
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly"
    )
))]
#[path = "kqueue.rs"]
mod native;

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    all(
        target_pointer_width = "64",
        any(
            target_vendor = "apple",
            target_os = "freebsd",
            target_os = "netbsd",
            target_os = "openbsd",
            target_os = "dragonfly"
        )
    )
)))]
mod native {
    pub(super) use super::poll::{Poller, RawEvents};
    pub(super) const BACKEND: super::Backend = super::Backend::Poll;
}

pub(crate) mod addr;
mod call;
pub(crate) mod cpu;
pub(crate) mod error;
pub(crate) mod fork;
#[cfg(wakewheel_libkqueue)]
mod libkqueue;
mod notifier;
pub(crate) mod option;
mod poll;
pub(crate) mod process;
#[cfg(any(
    wakewheel_libkqueue,
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
pub(crate) mod queue;
#[cfg(test)]
pub(crate) mod scripted;
pub(crate) mod signal;
pub(crate) mod slack;
pub(crate) mod socket;
#[cfg(test)]
mod tests;
pub(crate) mod threads;

/// The token of the notifier: an event with it says only that somebody called [`Poller::notify`].
pub(crate) const NOTIFY_TOKEN: u64 = u64::MAX;

/// The system call that a reactor waits in.
///
/// The default is the system's own. `WAKEWHEEL_BACKEND=poll` in the environment makes poll(2) the default. As a string, to be
/// parsed and printed, it is `epoll`, `kqueue` or `poll`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// epoll(7): Linux and Android.
    Epoll,
    /// kqueue(2): macOS, iOS, FreeBSD, NetBSD, OpenBSD, DragonFly BSD, where pointers have 64 bits.
    Kqueue,
    /// poll(2): every Unix; its cost grows with the number of descriptors.
    Poll,
}

impl Backend {
    /// The one that this system is best at.
    pub const NATIVE: Backend = native::BACKEND;

    /// What `WAKEWHEEL_BACKEND` asks for (`epoll`, `kqueue` or `poll`). If it is empty or not set:
    /// [`NATIVE`](Backend::NATIVE).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the variable names a backend that does not exist here, or is not
    /// UTF-8.
    pub fn from_env() -> io::Result<Backend> {
        match std::env::var_os("WAKEWHEEL_BACKEND") {
            None => Ok(Backend::NATIVE),
            Some(name) if name.is_empty() => Ok(Backend::NATIVE),
            // What is not UTF-8 is no backend, and is quoted.
            Some(name) => name
                .to_string_lossy()
                .parse()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("WAKEWHEEL_BACKEND: {e}"))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Backend::Epoll => "epoll",
            Backend::Kqueue => "kqueue",
            Backend::Poll => "poll",
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// [`InvalidInput`](io::ErrorKind::InvalidInput) quotes a name that is none on this system, and says which ones are.
impl std::str::FromStr for Backend {
    type Err = io::Error;

    fn from_str(name: &str) -> io::Result<Backend> {
        [Backend::NATIVE, Backend::Poll].into_iter().find(|b| b.name() == name).ok_or_else(|| {
            let native = Backend::NATIVE;
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no backend {name:?} on this system: use \"{native}\" or \"poll\""),
            )
        })
    }
}

/// What a wait reports of one descriptor: a set of bits.
///
/// `READABLE` and `WRITABLE` mean "an operation in that direction is worth a try", whatever the reason. The
/// others say more about it and come in addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Ready(pub u8);

impl Ready {
    pub const NONE: Ready = Ready(0);
    // This one and the next as epoll has them, which so need no translation.
    pub const READABLE: Ready = Ready(1);
    pub const WRITABLE: Ready = Ready(1 << 2);
    /// Urgent data: a read may stop at the mark.
    pub const PRIORITY: Ready = Ready(1 << 1);
    pub const ERROR: Ready = Ready(1 << 3);
    /// Both directions are closed.
    pub const HANGUP: Ready = Ready(1 << 4);
    /// The peer has shut down its writing side, or everything.
    pub const READ_CLOSED: Ready = Ready(1 << 5);
    /// How many bits there are.
    pub const BITS: u32 = 6;

    pub const fn contains(self, other: Ready) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn intersects(self, other: Ready) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Ready {
    type Output = Ready;
    fn bitor(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Ready) {
        self.0 |= other.0;
    }
}

/// When is a descriptor that is watched reported? See [`Watch`](crate::reactor::Watch).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// In every turn, for as long as it is ready.
    Level,
    /// Once, until there is something new.
    Edge,
}

/// What is reported of a descriptor that is not registered for all of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// `READABLE`, `WRITABLE`, `READ_CLOSED`.
    pub interest: Ready,
    pub trigger: Trigger,
}

/// One descriptor's news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub token: u64,
    pub ready: Ready,
}

/// Room for the events of one wait; kept between waits. They are in one of the two lists.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Those of epoll or kqueue, which are translated as they are read.
    native: native::RawEvents,
    /// Those of the others.
    list: Vec<Event>,
    poll: poll::RawEvents,
}

/// At most so many events come out of one wait of epoll or kqueue; the rest come out of the next. (poll(2), which is
/// asked about all descriptors at once, answers for all.)
pub(crate) const EVENTS_PER_WAIT_MAX: usize = 1024;

impl Events {
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.native.iter().chain(self.list.iter().copied())
    }

    #[inline]
    pub fn native(&self) -> impl ExactSizeIterator<Item = Event> + '_ {
        self.native.iter()
    }

    #[inline]
    pub fn list(&self) -> impl ExactSizeIterator<Item = Event> + '_ {
        self.list.iter().copied()
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.native.len + self.list.len()
    }
}

/// No wait is longer: the most that a call can take which counts in milliseconds. Twenty-four days.
const TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// The selector: edge-triggered, both directions, one `add` per descriptor for its whole life; or whatever is asked for
/// by `watch`.
///
/// `add`, `arm`, `delete` and `notify` may be called from any thread, also while another one is in `wait`.
#[derive(Debug)]
pub(crate) enum Poller {
    Native(native::Poller),
    Poll(poll::Poller),
    #[cfg(test)]
    Scripted(std::sync::Arc<scripted::Script>),
}

impl Poller {
    pub fn new(backend: Backend) -> io::Result<Poller> {
        if backend == Backend::Poll {
            poll::Poller::new().map(Poller::Poll)
        } else if backend == Backend::NATIVE {
            native::Poller::new().map(Poller::Native)
        } else {
            let native = Backend::NATIVE;
            let text = format!(
                "the {backend} backend does not exist on this system: use Backend::NATIVE ({native}) or Backend::Poll"
            );
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        }
    }

    pub fn backend(&self) -> Backend {
        match self {
            Poller::Native(_) => Backend::NATIVE,
            Poller::Poll(_) => Backend::Poll,
            #[cfg(test)]
            Poller::Scripted(_) => Backend::NATIVE,
        }
    }

    /// Does [`arm`](Poller::arm) do anything here? Edge-triggered selectors report without being asked again.
    pub fn needs_arming(&self) -> bool {
        self.backend() == Backend::Poll
    }

    /// Starts to watch `fd`, in both directions. What it is ready for already comes out of the next wait; with
    /// poll(2), only once it is [armed](Poller::arm).
    ///
    /// Errors: the kernel's, with nothing registered: a regular file (`PermissionDenied`), a closed descriptor, one
    /// that is registered here already (`AlreadyExists`). kqueue does not notice the last: who adds has to know.
    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        match self {
            Poller::Native(p) => p.add(fd, token),
            Poller::Poll(p) => p.add(fd, token),
            #[cfg(test)]
            Poller::Scripted(p) => p.add(fd, token),
        }
    }

    /// Starts to watch `fd` (if it `is_new`), or changes what is watched of it. What it is ready for is reported (again).
    ///
    /// Errors: those of [`add`](Poller::add); `Unsupported` for edges where the system has only poll(2).
    #[inline]
    pub fn watch(&self, fd: RawFd, token: u64, watched: Watched, is_new: bool) -> io::Result<()> {
        match self {
            Poller::Native(p) => p.watch(fd, token, watched, is_new),
            Poller::Poll(p) => p.watch(fd, token, watched, is_new),
            #[cfg(test)]
            Poller::Scripted(p) => p.watch(fd, token, watched, is_new),
        }
    }

    /// Somebody waits for `interest` (`READABLE`, `WRITABLE`, `READ_CLOSED`): poll(2) has to be told, once per event.
    pub fn arm(&self, fd: RawFd, token: u64, interest: Ready) {
        match self {
            Poller::Native(_) => {}
            Poller::Poll(p) => p.arm(fd, token, interest),
            #[cfg(test)]
            Poller::Scripted(_) => {}
        }
    }

    /// Stops to watch `fd`. To be called before the descriptor is closed or given away.
    #[inline(always)]
    pub fn delete(&self, fd: RawFd) -> io::Result<()> {
        match self {
            Poller::Native(p) => p.delete(fd),
            Poller::Poll(p) => p.delete(fd),
            #[cfg(test)]
            Poller::Scripted(p) => p.delete(fd),
        }
    }

    /// Is `fd`, as the open file that it is now, registered here? (A number whose file was closed behind our back
    /// is not.)
    pub fn holds(&self, fd: RawFd, token: u64) -> bool {
        match self {
            Poller::Native(p) => p.holds(fd, token),
            Poller::Poll(p) => p.holds(fd, token),
            #[cfg(test)]
            Poller::Scripted(p) => p.holds(fd, token),
        }
    }

    /// Waits until something is ready, somebody notifies, or `timeout` has passed (`None`: for ever), and puts what
    /// happened into `events`. Never returns early for want of precision; an interrupted wait has no events, nor has
    /// one that was to be longer than twenty-four days, after that time. One thread at a time may wait.
    #[inline]
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.native.len = 0;
        events.list.clear();
        let timeout = timeout.map(|time| time.min(TIMEOUT_MAX));
        match self {
            Poller::Native(p) => p.wait(&mut events.native, timeout),
            Poller::Poll(p) => p.wait(&mut events.poll, &mut events.list, timeout),
            #[cfg(test)]
            Poller::Scripted(p) => p.wait(&mut events.list, timeout),
        }
    }

    /// Ends the current wait, or else the next one. Never blocks and is never lost.
    pub fn notify(&self) {
        match self {
            Poller::Native(p) => p.notify(),
            Poller::Poll(p) => p.notify(),
            #[cfg(test)]
            Poller::Scripted(p) => p.notify(),
        }
    }

    /// The selector's own descriptor, readable when a wait would find something. With poll(2), which has none, the
    /// notifier's: readable after a notification only.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Poller::Native(p) => p.as_fd(),
            Poller::Poll(p) => p.as_fd(),
            #[cfg(test)]
            Poller::Scripted(_) => unreachable!("a script has no descriptor"),
        }
    }
}

/// Which of `interest` is `fd` ready for at this instant? One poll(2) with no time-out: the level re-check of an
/// edge-triggered registration, without a side effect on it.
pub(crate) fn level(fd: RawFd, interest: Ready) -> io::Result<Ready> {
    let mut one = libc::pollfd { fd, events: poll::mask(interest), revents: 0 };
    loop {
        // SAFETY: `one` is a valid array of one pollfd for the whole call.
        match unsafe { libc::poll(&mut one, 1, 0) } {
            -1 => {
                let e = io::Error::last_os_error();
                if e.kind() != io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
            _ => return Ok(poll::ready(one.revents)),
        }
    }
}

/// An error if there is no such descriptor.
pub(crate) fn is_open(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).map(drop)
}

/// The result of a system call that says -1 for "see errno".
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A timeout, which is no longer than [`TIMEOUT_MAX`], as the kernel takes it.
fn timespec(time: Duration) -> libc::timespec {
    libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ }
}
