//! A mutex that costs no more than a look while the process has one thread.
//!
//! To lock a mutex and to unlock it is a locked instruction each, some 10 ns, also if there is nobody else. GNU's C++ library
//! spares its shared pointers that in the same way.

use super::lock;
use crate::sys::threads;
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

pub(crate) struct LoneMutex<T> {
    mutex: Mutex<()>,
    is_taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: as of a mutex: one thread at a time reaches the value, by the argument of `lock`.
unsafe impl<T: Send> Sync for LoneMutex<T> {}
// As std's, which is poisoned by a panic instead: what these guard is never left half-changed.
impl<T> RefUnwindSafe for LoneMutex<T> {}
impl<T> UnwindSafe for LoneMutex<T> {}

pub(crate) struct LoneGuard<'a, T> {
    of: &'a LoneMutex<T>,
    /// `None`: the thread was alone when it came.
    held: Option<MutexGuard<'a, ()>>,
    _value: PhantomData<&'a mut T>,
}

impl<T> LoneMutex<T> {
    pub fn new(value: T) -> LoneMutex<T> {
        threads::ask();
        LoneMutex { mutex: Mutex::new(()), is_taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// # Panics
    ///
    /// If the thread has it already; or it waits for ever, as with any mutex.
    ///
    /// There is one guard at a time, who has set `is_taken`. Without the mutex, it is looked at and set by a thread that has no
    /// other beside it. With the mutex, by one at a time of those who have; and whoever had come alone before has started them,
    /// so that they see what he had set, and wait until he has gone.
    #[inline(always)]
    pub fn lock(&self) -> LoneGuard<'_, T> {
        self.lock_as(threads::is_alone())
    }

    #[inline(always)]
    fn lock_as(&self, is_alone: bool) -> LoneGuard<'_, T> {
        let held = if is_alone {
            assert!(!self.is_taken.load(Ordering::Acquire), "this lock is taken by its own thread");
            None
        } else {
            Some(self.lock_beside_others())
        };
        self.is_taken.store(true, Ordering::Relaxed);
        LoneGuard { of: self, held, _value: PhantomData }
    }

    /// Out of the way of those who are alone.
    #[inline(never)]
    fn lock_beside_others(&self) -> MutexGuard<'_, ()> {
        let held = lock(&self.mutex);
        let mut round = 0;
        while self.is_taken.load(Ordering::Acquire) {
            super::spin(&mut round);
        }
        held
    }
}

impl<T> Deref for LoneGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this is the only guard; see `lock`.
        unsafe { &*self.of.value.get() }
    }
}

impl<T> DerefMut for LoneGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` keeps this reference alone.
        unsafe { &mut *self.of.value.get() }
    }
}

impl<T> Drop for LoneGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.of.is_taken.store(false, Ordering::Release);
        if let Some(held) = self.held.take() {
            unlock(held);
        }
    }
}

/// Out of the way of those who are alone.
#[inline(never)]
fn unlock(held: MutexGuard<'_, ()>) {
    drop(held);
}

impl<T> fmt::Debug for LoneMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoneMutex").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    #[test]
    fn one_thread_at_a_time_has_it() {
        const ROUNDS: usize = 10_000;
        let mutex = LoneMutex::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let mut guard = mutex.lock();
                        let now = *guard;
                        std::hint::black_box(&mut *guard);
                        *guard = now + 1;
                    }
                });
            }
        });
        assert_eq!(*mutex.lock(), 4 * ROUNDS);
    }

    #[test]
    fn a_thread_that_is_started_by_one_who_came_alone_waits_until_he_has_gone() {
        let mutex = LoneMutex::new("before");
        thread::scope(|scope| {
            let mut guard = mutex.lock_as(true);
            let other = scope.spawn(|| *mutex.lock_as(false));
            while mutex.mutex.try_lock().is_ok() {
                thread::yield_now();
            }
            // The other one has the mutex now, and would see it.
            (0..1000).for_each(|_| thread::yield_now());
            *guard = "after";
            drop(guard);
            assert_eq!(other.join().unwrap(), "after");
        });
    }

    #[test]
    fn to_lock_it_twice_is_a_panic_and_a_panic_gives_it_up() {
        let mutex = LoneMutex::new(());
        let twice = catch_unwind(AssertUnwindSafe(|| {
            let _guard = mutex.lock_as(true);
            mutex.lock_as(true);
        }));
        assert!(twice.is_err());
        drop(mutex.lock_as(true));
        drop(mutex.lock_as(false));
    }
}
