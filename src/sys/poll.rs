//! poll(2): every Unix has it. The one that has to be told each time somebody starts to wait.
//!
//! It passes for edge-triggered: [`Poller::arm`] says what is waited for, and the event that answers takes it away
//! again. A descriptor with nothing armed is left out of the call, because poll(2) would report its hang-up unasked,
//! again and again. Nor can one be asked without being told of its error, which lasts until somebody takes it: whoever
//! waits for the hang-up behind it is served by asking now and then.
//!
//! What shall be told of edges only ([`Poller::watch`]) would be told again and again. Where the system has a selector that
//! knows edges, these descriptors sit in one of those, which is a member here; elsewhere it is an error.
//!
//! The kernel sees a copy of the set, so that other threads can change the set meanwhile. A change that the copy
//! must follow interrupts the call, and it starts again; no event is reported that the set does not back any more.

use super::notifier::Notifier;
use super::{Backend, Event, NOTIFY_TOKEN, Ready, Trigger, Watched, native};
use crate::sync::{Mutex, MutexGuard, lock};
use libc::{c_int, c_short};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Poller {
    set: Mutex<Set>,
    notifier: Notifier,
    /// Those of which only edges count.
    edges: OnceLock<Box<native::Poller>>,
    /// Somebody has notified since the notifier was drained: the next one need not write.
    notified: AtomicBool,
}

#[derive(Debug, Default)]
struct Set {
    members: HashMap<RawFd, Member>,
    /// How many have been added so far.
    added: u64,
    /// A thread is in poll(2) with a copy of the set, and nobody has told it that the copy is old.
    asleep: bool,
}

#[derive(Debug)]
struct Member {
    token: u64,
    /// When it was, among all that were: those that are ready together are reported in this order.
    added: u64,
    armed: Ready,
    /// It has an error, which has been reported: not to be asked before this moment, unless somebody arms it for more.
    again: Option<Instant>,
    file: FileId,
}

/// From one look for what may be behind an error to the next.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Tells two files apart that had the same descriptor: device and inode. (Not an eventfd from another.)
type FileId = (libc::dev_t, libc::ino_t);

/// What the kernel is asked: the notifier, and the armed members with their tokens at that time.
#[derive(Default)]
pub(crate) struct RawEvents {
    fds: Vec<libc::pollfd>,
    tokens: Vec<u64>,
    /// Is the second one the selector of edges?
    has_edges: bool,
    /// Room for what that one finds.
    edges: Option<Box<super::Events>>,
    /// Room for what the others find, with the order that it is to be reported in.
    answers: Vec<(u64, Event)>,
}

impl std::fmt::Debug for RawEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawEvents")
    }
}

impl Poller {
    pub fn new() -> io::Result<Poller> {
        Ok(Poller {
            set: Mutex::default(),
            notifier: Notifier::new()?,
            edges: OnceLock::new(),
            notified: AtomicBool::new(false),
        })
    }

    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let file = file(fd)?;
        let mut set = lock(&self.set);
        set.added += 1;
        let member = Member { token, added: set.added, armed: Ready::default(), again: None, file };
        match set.members.entry(fd) {
            Entry::Vacant(place) => {
                place.insert(member);
            }
            Entry::Occupied(place) if place.get().file == member.file => {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
            // Its file was closed behind our back. The kernel's own selectors have forgotten it by now.
            Entry::Occupied(mut place) => {
                place.insert(member);
            }
        }
        Ok(())
    }

    pub fn watch(&self, fd: RawFd, token: u64, watched: Watched, is_new: bool) -> io::Result<()> {
        match watched.trigger {
            Trigger::Level if is_new => self.add(fd, token),
            Trigger::Level => {
                let mut set = lock(&self.set);
                let member = set.members.get_mut(&fd).filter(|member| member.token == token);
                let member = member.ok_or(io::Error::from_raw_os_error(libc::ENOENT))?;
                member.armed = Ready(member.armed.0 & watched.interest.0);
                member.again = None;
                self.changed(set);
                Ok(())
            }
            Trigger::Edge => {
                self.edges()?.watch(fd, token, watched, is_new)?;
                // The copy may not have the selector yet.
                self.changed(lock(&self.set));
                Ok(())
            }
        }
    }

    fn edges(&self) -> io::Result<&native::Poller> {
        if native::BACKEND == Backend::Poll {
            let text = "this system has only poll(2), which knows no edges: use the level-triggered kind";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        if self.edges.get().is_none() {
            let _ = self.edges.set(Box::new(native::Poller::new()?));
        }
        Ok(self.edges.get().expect("it was made above"))
    }

    pub fn arm(&self, fd: RawFd, token: u64, interest: Ready) {
        let mut set = lock(&self.set);
        if let Some(member) = set.members.get_mut(&fd).filter(|m| m.token == token) {
            if !member.armed.contains(interest) {
                member.armed |= interest;
                member.again = None;
                self.changed(set);
            }
        }
    }

    pub fn delete(&self, fd: RawFd) -> io::Result<()> {
        let mut set = lock(&self.set);
        let Some(member) = set.members.remove(&fd) else {
            return match self.edges.get() {
                Some(edges) => edges.delete(fd),
                None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
            };
        };
        // The call holds on to the file: a close would not reach the peer before it ends.
        if member.armed != Ready::default() {
            self.changed(set);
        }
        Ok(())
    }

    pub fn holds(&self, fd: RawFd, token: u64) -> bool {
        let set = lock(&self.set);
        match set.members.get(&fd) {
            Some(m) => m.token == token && file(fd).is_ok_and(|file| file == m.file),
            None => self.edges.get().is_some_and(|edges| edges.holds(fd, token)),
        }
    }

    /// Interrupts a thread that waits with a copy of what the set was before.
    fn changed(&self, mut set: MutexGuard<'_, Set>) {
        let asleep = std::mem::take(&mut set.asleep);
        drop(set);
        if asleep {
            self.notifier.notify();
        }
    }

    #[inline(never)]
    pub fn wait(
        &self,
        raw: &mut RawEvents,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let start = Instant::now();
        let mut left = timeout;
        loop {
            let until_again = self.ask(raw, left != Some(Duration::ZERO));
            let limit = left.into_iter().chain(until_again).min();
            let answers = wait(&mut raw.fds, limit);
            self.answer(raw, *answers.as_ref().unwrap_or(&0), events)?;
            match answers {
                Ok(n) if n > 0 && events.is_empty() => {}
                Ok(0) if limit != left => {}
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => return Ok(()),
            }
            left = timeout.map(|time| time.saturating_sub(start.elapsed()));
        }
    }

    /// Copies what is armed. Returns the time until some of it is to be asked that is left out now.
    fn ask(&self, raw: &mut RawEvents, sleep: bool) -> Option<Duration> {
        let pollfd = |fd, interest| libc::pollfd { fd, events: mask(interest), revents: 0 };
        raw.fds.clear();
        raw.fds.push(pollfd(self.notifier.as_fd().as_raw_fd(), Ready::READABLE));
        raw.tokens.clear();
        raw.has_edges = self.edges.get().is_some();
        if let Some(edges) = self.edges.get() {
            raw.fds.push(pollfd(edges.as_fd().as_raw_fd(), Ready::READABLE));
        }
        let mut set = lock(&self.set);
        debug_assert!(!set.asleep, "two threads wait in one poller");
        let mut until_again = None;
        for (&fd, member) in set.members.iter().filter(|(_, m)| m.armed != Ready::default()) {
            let pause =
                member.again.map_or(Duration::ZERO, |again| again.saturating_duration_since(Instant::now()));
            if !pause.is_zero() {
                until_again = until_again.into_iter().chain([pause]).min();
                continue;
            }
            raw.fds.push(pollfd(fd, member.armed));
            raw.tokens.push(member.token);
        }
        set.asleep = sleep;
        until_again
    }

    /// Turns the `n` answers into events, as far as the set still wants them, and disarms what they were for.
    fn answer(&self, raw: &mut RawEvents, n: usize, events: &mut Vec<Event>) -> io::Result<()> {
        let mut set = lock(&self.set);
        set.asleep = false;
        if n == 0 {
            return Ok(());
        }
        if raw.fds[0].revents != 0 {
            // In this order: who finds `notified` set has not written, and relies on its being seen here.
            self.notifier.drain();
            if self.notified.swap(false, Ordering::AcqRel) {
                events.push(Event { token: NOTIFY_TOKEN, ready: Ready::READABLE });
            }
        }
        let mut others = &raw.fds[1..];
        if let (true, Some(edges)) = (raw.has_edges, self.edges.get()) {
            if others[0].revents != 0 {
                let found = raw.edges.get_or_insert_default();
                edges.wait(&mut found.native, Some(Duration::ZERO))?;
                events.extend(found.native.iter().filter(|event| event.token != NOTIFY_TOKEN));
            }
            others = &others[1..];
        }
        for (one, &token) in others.iter().zip(&raw.tokens).filter(|(one, _)| one.revents != 0) {
            let member =
                set.members.get_mut(&one.fd).filter(|m| m.token == token && m.armed != Ready::default());
            let Some(member) = member else { continue };
            let ready = ready(one.revents);
            let is_news = member.again.is_none() || member.armed.intersects(ready);
            // Of a descriptor closed behind our back, there is nothing more to hear.
            let left = if one.revents & libc::POLLNVAL != 0 { 0 } else { member.armed.0 & !ready.0 };
            member.armed = Ready(left);
            // An error comes whatever was asked for, and answers whoever would read or write.
            member.again = (left != 0 && ready.contains(Ready::ERROR)).then(|| Instant::now() + ERROR_PAUSE);
            if is_news {
                raw.answers.push((member.added, Event { token, ready }));
            }
        }
        raw.answers.sort_unstable_by_key(|(added, _)| *added);
        events.extend(raw.answers.drain(..).map(|(_, event)| event));
        Ok(())
    }

    pub fn notify(&self) {
        if !self.notified.swap(true, Ordering::AcqRel) {
            self.notifier.notify();
        }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifier.as_fd()
    }
}

/// The file behind `fd`, if it is one to wait for. A regular file is not, nor a directory, and the error is epoll's:
/// they are always ready.
pub(crate) fn file(fd: RawFd) -> io::Result<FileId> {
    // SAFETY: all zeroes is a stat: it is made of integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writes through the call.
    super::check(unsafe { libc::fstat(fd, &mut stat) })?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR => Err(io::Error::from_raw_os_error(libc::EPERM)),
        _ => Ok((stat.st_dev, stat.st_ino)),
    }
}

/// Where there is no word for "the peer has shut down its writing side" we hear of the full hang-up only.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "illumos"))]
const POLLRDHUP: c_short = libc::POLLRDHUP;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "illumos")))]
const POLLRDHUP: c_short = 0;

/// No POLLPRI: whoever is armed again is told again of what a read left behind at an urgent mark.
pub(crate) fn mask(interest: Ready) -> c_short {
    let mut events = 0;
    for (bit, mask) in
        [(Ready::READABLE, libc::POLLIN), (Ready::WRITABLE, libc::POLLOUT), (Ready::READ_CLOSED, POLLRDHUP)]
    {
        if interest.contains(bit) {
            events |= mask;
        }
    }
    events
}

pub(crate) fn ready(revents: c_short) -> Ready {
    let mut ready = Ready::default();
    for (mask, bits) in [
        (libc::POLLIN, Ready::READABLE),
        (libc::POLLOUT, Ready::WRITABLE),
        (POLLRDHUP, Ready::READ_CLOSED | Ready::READABLE),
        (libc::POLLHUP, Ready::HANGUP | Ready::READ_CLOSED | Ready::READABLE | Ready::WRITABLE),
        // POLLNVAL: closed behind our back.
        (libc::POLLERR | libc::POLLNVAL, Ready::ERROR | Ready::READABLE | Ready::WRITABLE),
    ] {
        if revents & mask != 0 {
            ready |= bits;
        }
    }
    ready
}

/// A wait in nanoseconds.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
fn wait(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
    #[cfg(target_os = "netbsd")]
    use libc::pollts as ppoll;
    #[cfg(not(target_os = "netbsd"))]
    use libc::ppoll;
    let spec = timeout.map(super::timespec);
    let spec = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` is valid for `fds.len()` entries, and `spec`, if it is not null, for the call; no signal mask.
    super::check(unsafe { ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, spec, std::ptr::null()) })
        .map(|n| n as usize)
}

/// A wait in milliseconds, rounded up.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
)))]
fn wait(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
    // SAFETY: `fds` is valid for `fds.len()` entries.
    super::check(unsafe {
        libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout.map_or(-1, ms_rounded_up))
    })
    .map(|n| n as usize)
}

/// For the calls that count in milliseconds. Up, or else the last millisecond of every wait would be a busy one.
#[allow(dead_code, reason = "not where every call counts in nanoseconds")]
pub(crate) fn ms_rounded_up(time: Duration) -> c_int {
    c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}
