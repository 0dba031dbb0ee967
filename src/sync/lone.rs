//! A mutex that costs nothing but a look while the process has one thread.
//!
//! To lock a mutex and to unlock it is a locked instruction each, some 10 ns, also if nobody else is there to lock it. The
//! C++ library spares its shared pointers that in the same way.

use super::lock;
use crate::sys::threads::is_alone;
use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

pub(crate) struct LoneMutex<T> {
    mutex: Mutex<()>,
    is_taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: as of a mutex: one thread at a time reaches the value, by the argument of `lock`.
unsafe impl<T: Send> Sync for LoneMutex<T> {}

pub(crate) struct LoneGuard<'a, T> {
    of: &'a LoneMutex<T>,
    /// `None`: the thread was alone when it came.
    _held: Option<MutexGuard<'a, ()>>,
}

impl<T> LoneMutex<T> {
    pub fn new(value: T) -> LoneMutex<T> {
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
        let mut held = None;
        if is_alone() {
            assert!(!self.is_taken.load(Ordering::Acquire), "this lock is taken by its own thread");
        } else {
            held = Some(lock(&self.mutex));
            if self.is_taken.load(Ordering::Acquire) {
                self.wait();
            }
        }
        self.is_taken.store(true, Ordering::Relaxed);
        LoneGuard { of: self, _held: held }
    }

    #[cold]
    fn wait(&self) {
        let mut round = 0;
        while self.is_taken.load(Ordering::Acquire) {
            super::spin(&mut round);
        }
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
    }
}

impl<T> fmt::Debug for LoneMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoneMutex").finish_non_exhaustive()
    }
}
