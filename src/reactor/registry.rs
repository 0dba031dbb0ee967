//! Two tables of the whole process: which reactors there are, and which descriptor is registered where.
//!
//! The second exists because a kernel lets one descriptor sit in two selectors, and then delivers its events to both:
//! two owners of one descriptor are refused whichever reactors they use.

use super::shared::Shared;
use crate::sys;
use crate::sys::fork::PerProcess;
use crate::sys::threads::is_alone;
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

static REACTORS: PerProcess<Mutex<HashMap<u64, Weak<Shared>>>> = PerProcess::new(Mutex::default);

/// The length of the first row.
const ROW: usize = 64;
/// The longest row that is made without a question (64 KiB).
const UNASKED_MAX: usize = 4096;
const ROWS: usize = (RawFd::BITS - ROW.ilog2()) as usize;
static DESCRIPTORS: PerProcess<[OnceLock<Box<[Place]>>; ROWS]> =
    PerProcess::new(|| std::array::from_fn(|_| OnceLock::new()));

pub(crate) fn enter(reactor: &Arc<Shared>) {
    lock(REACTORS.get()).insert(reactor.id, Arc::downgrade(reactor));
}

pub(crate) fn leave(id: u64) {
    lock(REACTORS.get()).remove(&id);
}

/// The reactor with this id, if it has not gone and was made by this process.
pub(crate) fn find(id: u64) -> Option<Arc<Shared>> {
    let reactor = lock(REACTORS.get()).get(&id).cloned();
    reactor?.upgrade()
}

/// Ends the wait of the reactor with this id.
pub(crate) fn notify(id: u64) {
    if let Some(reactor) = find(id) {
        reactor.notify();
    }
}

/// Where a descriptor is registered, if it is.
///
/// An entry belongs to the reactor that it names: only who holds the lock of that one's sources changes it. (If that one
/// has gone, anybody may empty it: no id comes twice.) One that names nobody is for the first who [takes](Place::take)
/// it. So what happens to a descriptor happens in one step, and nobody holds two locks for it.
#[derive(Debug, Default)]
pub(crate) struct Place {
    reactor: AtomicU64,
    /// Under the lock.
    token: AtomicU64,
}

/// No reactor has this id.
const NOBODY: u64 = 0;

impl Place {
    /// Takes a place that nobody has, for the reactor with this id, whose lock is held. `false`: somebody has it.
    #[inline]
    pub fn take(&self, reactor: u64, token: u64) -> bool {
        let is_taken = if is_alone() {
            // Nobody comes in between: that is less than a compare-exchange.
            let is_free = self.reactor.load(Ordering::Relaxed) == NOBODY;
            if is_free {
                self.reactor.store(reactor, Ordering::Relaxed);
            }
            is_free
        } else {
            self.reactor.compare_exchange(NOBODY, reactor, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if is_taken {
            self.token.store(token, Ordering::Relaxed);
        }
        is_taken
    }

    /// Does it belong to the reactor with this id, whose lock is held, under this token?
    #[inline]
    pub fn is(&self, reactor: u64, token: u64) -> bool {
        self.reactor.load(Ordering::Relaxed) == reactor && self.token.load(Ordering::Relaxed) == token
    }

    /// Nobody has it any more. For whom it belongs to.
    #[inline]
    pub fn leave(&self) {
        self.reactor.store(NOBODY, Ordering::Release);
    }

    /// The token, if it belongs to the reactor with this id, whose lock is held.
    pub fn token(&self, reactor: u64) -> Option<u64> {
        (self.reactor.load(Ordering::Relaxed) == reactor).then(|| self.token.load(Ordering::Relaxed))
    }

    /// An error if `fd`, whose place this is, is registered. One whose file was closed without our knowledge is not: its
    /// number is free. No lock is held.
    #[inline]
    pub fn check_free(&self, fd: RawFd) -> io::Result<()> {
        match self.reactor.load(Ordering::Acquire) {
            NOBODY => Ok(()),
            reactor => self.check_stale(reactor, fd),
        }
    }

    #[cold]
    fn check_stale(&self, id: u64, fd: RawFd) -> io::Result<()> {
        let is_registered = match find(id) {
            Some(reactor) => reactor.is_registered(fd, self),
            None => {
                // It will not come back.
                let _ = self.reactor.compare_exchange(id, NOBODY, Ordering::AcqRel, Ordering::Relaxed);
                false
            }
        };
        if is_registered { Err(exists(fd)) } else { Ok(()) }
    }
}

/// Somebody has the descriptor.
#[cold]
pub(crate) fn exists(fd: RawFd) -> io::Error {
    io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!(
            "descriptor {fd} is registered already: use one Async per descriptor, and share that (&Async reads and writes)"
        ),
    )
}

/// The place of a descriptor, which it has once for all. An error if it is negative; or so high that its row is worth the
/// question whether it is open, and it is not.
#[inline(always)]
pub(crate) fn place(fd: RawFd) -> io::Result<&'static Place> {
    let Some((row, index)) = position(fd) else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
    match DESCRIPTORS.get()[row].get() {
        Some(row) => Ok(&row[index]),
        None => grow(row, fd).map(|row| &row[index]),
    }
}

#[cold]
#[inline(never)]
fn grow(row: usize, fd: RawFd) -> io::Result<&'static [Place]> {
    let len = ROW << row;
    if len > UNASKED_MAX {
        sys::is_open(fd)?;
    }
    Ok(DESCRIPTORS.get()[row].get_or_init(|| (0..len).map(|_| Place::default()).collect()))
}

/// Each row is twice as long as the one before, so that none ever moves. Neighbours share a line of the cache, as they do in the
/// kernel's own table of descriptors.
#[inline(always)]
fn position(fd: RawFd) -> Option<(usize, usize)> {
    let number = usize::try_from(fd).ok()? + ROW;
    let log2 = number.ilog2();
    Some(((log2 - ROW.ilog2()) as usize, number & !(1 << log2)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
