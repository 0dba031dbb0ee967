//! The seam between std and loom: the lock-free parts are written against this, so that the models in
//! `reactor/loom.rs` run the very code that ships.

#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};

/// What to do while another thread is inside a critical section of a few instructions.
#[cfg(not(loom))]
pub(crate) fn spin(round: &mut u32) {
    *round += 1;
    if *round < 64 {
        std::hint::spin_loop();
    } else {
        // The other thread has been preempted inside: let it run.
        std::thread::yield_now();
    }
}

#[cfg(loom)]
pub(crate) fn spin(_round: &mut u32) {
    loom::thread::yield_now();
}

/// Locks, and takes a poisoned lock for what it is: what these locks guard is never left half-changed, because
/// nothing that belongs to a user runs under them.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// std's `UnsafeCell` with loom's interface.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell;
