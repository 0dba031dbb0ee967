//! The seam between std and loom: what threads do to each other is written against this, so that the models in
//! `reactor/loom.rs` and `executor/loom.rs` run the very code that ships.

#[cfg(not(loom))]
mod lone;
#[cfg(loom)]
mod model;
#[cfg(not(loom))]
mod real;

#[cfg(not(loom))]
pub(crate) use lone::{LoneGuard, LoneMutex};
#[cfg(loom)]
pub(crate) use model::*;
#[cfg(not(loom))]
pub(crate) use real::*;

use crate::sys::threads::is_alone;
use atomic::{AtomicBool, AtomicUsize, Ordering};

/// Changes `word` from `now` to `next`, unless it is something else by now. That is a compare-exchange, which is a locked
/// instruction; or a look and a store, while the process has one thread.
#[inline(always)]
pub(crate) fn exchange(word: &AtomicUsize, now: usize, next: usize) -> bool {
    if !is_alone() {
        return word.compare_exchange(now, next, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    }
    let is_now = word.load(Ordering::Relaxed) == now;
    if is_now {
        word.store(next, Ordering::Relaxed);
    }
    is_now
}

/// Sets a flag that others look at, and says whether it was set; what this thread loads after that, [`SeqCst`](Ordering::SeqCst),
/// it loads after others can see the flag. That is a locked instruction, or none while the process has one thread.
#[inline(always)]
pub(crate) fn announce(flag: &AtomicBool) -> bool {
    if !is_alone() {
        let was_set = flag.swap(true, Ordering::SeqCst);
        // Loom has one order of all sequentially consistent steps for fences only.
        #[cfg(loom)]
        atomic::fence(Ordering::SeqCst);
        return was_set;
    }
    let was_set = flag.load(Ordering::Relaxed);
    flag.store(true, Ordering::Relaxed);
    // A signal may be handled in between.
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    was_set
}

/// Locks, and takes a poisoned lock for what it is: what these locks guard is never left half-changed, because
/// nothing that belongs to a user runs under them.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// May end early.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner())
}
