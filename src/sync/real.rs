//! What ships: std.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

use std::cell::Cell;
use std::sync::TryLockError;
use std::time::Duration;

/// What to do while another thread is inside a critical section of a few instructions.
#[cold]
pub(crate) fn spin(round: &mut u32) {
    *round += 1;
    if *round < 64 {
        std::hint::spin_loop();
    } else {
        // The other thread has been preempted inside: let it run.
        std::thread::yield_now();
    }
}

/// May end early.
pub(crate) fn wait_timeout<'a, T>(
    _mutex: &'a Mutex<T>,
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, timeout).unwrap_or_else(|poisoned| poisoned.into_inner()).0
}

/// A lock that one mostly tries only. A poisoned one is taken for what it is, as in [`lock`](super::lock).
#[derive(Default)]
pub(crate) struct TryMutex<T>(Mutex<T>);

pub(crate) type TryMutexGuard<'a, T> = MutexGuard<'a, T>;

impl<T> TryMutex<T> {
    pub fn lock(&self) -> TryMutexGuard<'_, T> {
        super::lock(&self.0)
    }

    pub fn try_lock(&self) -> Option<TryMutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A thread that parks itself until others unpark it.
pub(crate) struct Thread {
    thread: std::thread::Thread,
    address: usize,
}

thread_local! {
    /// Its address tells the thread from the others, for less than an id costs.
    static HERE: Cell<u8> = const { Cell::new(0) };
}

impl Thread {
    pub fn current() -> Thread {
        Thread { thread: std::thread::current(), address: Thread::address() }
    }

    pub fn is_current(&self) -> bool {
        self.address == Thread::address()
    }

    fn address() -> usize {
        HERE.try_with(|here| &raw const *here as usize).unwrap_or(0)
    }

    /// To be called on the thread itself. May end early.
    pub fn park(&self) {
        std::thread::park();
    }

    pub fn unpark(&self) {
        self.thread.unpark();
    }
}

/// Which thread is in a place where there is one at most. Each can tell whether it is itself.
#[derive(Default)]
pub(crate) struct Occupant(atomic::AtomicUsize);

impl Occupant {
    // Relaxed: what another thread has stored is not this one's address, however old or new it is.

    pub fn is_here(&self) -> bool {
        self.0.load(atomic::Ordering::Relaxed) == Thread::address()
    }

    /// This thread, which is the one, comes or goes. Returns whether it was there.
    pub fn set_here(&self, here: bool) -> bool {
        let was_here = self.is_here();
        self.0.store(if here { Thread::address() } else { 0 }, atomic::Ordering::Relaxed);
        was_here
    }
}

/// std's `UnsafeCell` with loom's interface.
#[derive(Debug, Default)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
