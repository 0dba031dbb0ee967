//! sigaction(2): signals as something readable.
//!
//! The handler may do very little. For each place that wants the signal it sets a bit, and writes a byte into a pair of
//! sockets. Places are static, and their sockets are never closed: a handler that runs on another thread may be about to
//! write, and must not meet somebody else's file under that number. A place that is given up is used again.

use super::{check, fork, socket};
use libc::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// As many can wait for signals at a time in a process.
const PLACES: usize = 256;
/// Bits.
const SIGNALS_MAX: c_int = 64;

struct Place {
    /// The signals that it wants: 1 << (number - 1).
    wanted: AtomicU64,
    /// Those that have come.
    come: AtomicU64,
    /// The end that the handler writes to; -1 before there is one.
    write: AtomicI32,
    read: AtomicI32,
    /// The process, as counted by `fork`, that uses it: a child has the sockets in common with its parent.
    process: AtomicU32,
}

static TABLE: [Place; PLACES] = [const {
    Place {
        wanted: AtomicU64::new(0),
        come: AtomicU64::new(0),
        write: AtomicI32::new(-1),
        read: AtomicI32::new(-1),
        process: AtomicU32::new(0),
    }
}; PLACES];

/// What is changed by one thread at a time.
struct Book {
    taken: [bool; PLACES],
    /// For each signal, how many places want it, and the action from before the first.
    actions: [(usize, Option<libc::sigaction>); SIGNALS_MAX as usize],
}

static BOOK: Mutex<Book> =
    Mutex::new(Book { taken: [false; PLACES], actions: [(0, None); SIGNALS_MAX as usize] });

fn book() -> MutexGuard<'static, Book> {
    BOOK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Room for one who waits for signals.
#[derive(Debug)]
pub(crate) struct Catch {
    index: usize,
    signals: Vec<c_int>,
}

impl Catch {
    /// From now on, these signals come here, and do not do what they did before.
    pub fn new(signals: &[c_int]) -> io::Result<Catch> {
        for &signal in signals {
            check_number(signal)?;
        }
        let process = fork::watch();
        let mut book = book();
        let Some(index) = book.taken.iter().position(|taken| !taken) else {
            return Err(io::Error::other(format!("{PLACES} wait for signals in this process: no more can")));
        };
        let place = &TABLE[index];
        // What a child has inherited is its parent's, too.
        if place.write.load(Ordering::Relaxed) == -1 || place.process.load(Ordering::Relaxed) != process {
            let (read, write) = socket::pair(libc::SOCK_STREAM)?;
            place.read.store(read.into_raw_fd(), Ordering::Relaxed);
            place.write.store(write.into_raw_fd(), Ordering::Relaxed);
            place.process.store(process, Ordering::Relaxed);
        }
        place.come.store(0, Ordering::Relaxed);
        book.taken[index] = true;
        // On an error, what has been begun is undone by its drop; which needs the book.
        let mut catch = Catch { index, signals: Vec::new() };
        for &signal in signals {
            if catch.signals.contains(&signal) {
                continue;
            }
            place.wanted.fetch_or(bit(signal), Ordering::SeqCst);
            let (count, before) = &mut book.actions[signal as usize - 1];
            if *count == 0 {
                match set_action(signal, &ours()) {
                    Ok(old) => *before = Some(old),
                    Err(e) => {
                        drop(book);
                        drop(catch);
                        return Err(e);
                    }
                }
            }
            *count += 1;
            catch.signals.push(signal);
        }
        Ok(catch)
    }

    /// Readable when signals have come; to be read empty before [`take`](Catch::take) is asked. Never closed.
    pub fn descriptor(&self) -> BorrowedFd<'static> {
        let fd = TABLE[self.index].read.load(Ordering::Relaxed);
        // SAFETY: the descriptors of a place are never closed.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// The signals that have come since the last time, as bits. Of those that it wants: a handler that was about to tell the
    /// place's last owner may do so late.
    pub fn take(&self) -> u64 {
        let place = &TABLE[self.index];
        place.come.swap(0, Ordering::SeqCst) & place.wanted.load(Ordering::SeqCst)
    }

    pub fn has_come(&self) -> bool {
        TABLE[self.index].come.load(Ordering::SeqCst) != 0
    }
}

impl Drop for Catch {
    fn drop(&mut self) {
        let mut book = book();
        TABLE[self.index].wanted.store(0, Ordering::SeqCst);
        for &signal in &self.signals {
            let (count, before) = &mut book.actions[signal as usize - 1];
            *count -= 1;
            if let (0, Some(before)) = (*count, before.take_if(|_| *count == 0)) {
                // Unless somebody has set another one meanwhile.
                if action(signal).is_ok_and(|now| now.sa_sigaction == ours().sa_sigaction) {
                    let _ = set_action(signal, &before);
                }
            }
        }
        book.taken[self.index] = false;
    }
}

pub(crate) fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

fn check_number(signal: c_int) -> io::Result<()> {
    let why = match signal {
        libc::SIGKILL | libc::SIGSTOP => "the kernel keeps it for itself",
        libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL => {
            "it says that this thread cannot go on, and cannot wait for a loop"
        }
        1..=SIGNALS_MAX => return Ok(()),
        _ => "there is no such signal",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("signal {signal} cannot be waited for: {why}")))
}

fn ours() -> libc::sigaction {
    // SAFETY: all zeroes is a sigaction: integers, and a set that is emptied below.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as extern "C" fn(c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the set is valid for writes.
    unsafe { libc::sigemptyset(&mut action.sa_mask) };
    action
}

fn set_action(signal: c_int, action: &libc::sigaction) -> io::Result<libc::sigaction> {
    let mut old = MaybeUninit::uninit();
    // SAFETY: both are valid for the call. The handler, if it is ours, does only what a handler may; one that was there
    // before is put back as it was.
    check(unsafe { libc::sigaction(signal, action, old.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, and filled it.
    Ok(unsafe { old.assume_init() })
}

fn action(signal: c_int) -> io::Result<libc::sigaction> {
    let mut now = MaybeUninit::uninit();
    // SAFETY: `now` is valid for writes; nothing is changed.
    check(unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, and filled it.
    Ok(unsafe { now.assume_init() })
}

/// Runs between any two instructions of any thread: atomics, write(2), and errno as it was.
extern "C" fn handler(signal: c_int) {
    if !(1..=SIGNALS_MAX).contains(&signal) {
        return;
    }
    let errno = errno();
    // SAFETY: what errno() returns is null or this thread's.
    let before = unsafe { errno.as_ref() }.copied();
    for place in &TABLE {
        if place.wanted.load(Ordering::SeqCst) & bit(signal) == 0
            || place.process.load(Ordering::SeqCst) != fork::generation()
        {
            continue;
        }
        place.come.fetch_or(bit(signal), Ordering::SeqCst);
        // If it is full it is readable, and that is all that is wanted.
        // SAFETY: one byte from a static; the descriptor is never closed.
        unsafe { libc::write(place.write.load(Ordering::SeqCst), b"s".as_ptr().cast(), 1) };
    }
    if let Some(before) = before {
        // SAFETY: as above; not null, since there was something before.
        unsafe { *errno = before };
    }
}

fn errno() -> *mut c_int {
    #[cfg(any(
        target_os = "linux",
        target_os = "dragonfly",
        target_os = "emscripten",
        target_os = "fuchsia"
    ))]
    // SAFETY: no arguments.
    return unsafe { libc::__errno_location() };
    #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
    // SAFETY: no arguments.
    return unsafe { libc::__errno() };
    #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
    // SAFETY: no arguments.
    return unsafe { libc::__error() };
    #[cfg(any(target_os = "solaris", target_os = "illumos"))]
    // SAFETY: no arguments.
    return unsafe { libc::___errno() };
    #[allow(unreachable_code)]
    std::ptr::null_mut()
}
