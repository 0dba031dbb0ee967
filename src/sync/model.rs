//! The same for the models: loom, and what it lacks.

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic};

use super::{lock, wait};
use loom::thread::{self, ThreadId};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

pub(crate) fn spin(_round: &mut u32) {
    thread::yield_now();
}

/// There is no time in a model: it has passed as soon as the others have had an opportunity to run. (loom's own lasts
/// until it is notified.)
pub(crate) fn wait_timeout<'a, T>(
    mutex: &'a Mutex<T>,
    _condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    _timeout: Duration,
) -> MutexGuard<'a, T> {
    drop(guard);
    thread::yield_now();
    lock(mutex)
}

/// (loom's own `try_lock` waits, if another thread takes the lock just before.)
#[derive(Default)]
pub(crate) struct TryMutex<T> {
    is_taken: Mutex<bool>,
    is_free: Condvar,
    value: Mutex<T>,
}

pub(crate) struct TryMutexGuard<'a, T> {
    mutex: &'a TryMutex<T>,
    /// Always there, until it is dropped.
    value: Option<MutexGuard<'a, T>>,
}

impl<T> TryMutex<T> {
    pub fn lock(&self) -> TryMutexGuard<'_, T> {
        let mut is_taken = lock(&self.is_taken);
        while *is_taken {
            is_taken = wait(&self.is_free, is_taken);
        }
        *is_taken = true;
        drop(is_taken);
        TryMutexGuard { mutex: self, value: Some(lock(&self.value)) }
    }

    pub fn try_lock(&self) -> Option<TryMutexGuard<'_, T>> {
        let was_taken = std::mem::replace(&mut *lock(&self.is_taken), true);
        (!was_taken).then(|| TryMutexGuard { mutex: self, value: Some(lock(&self.value)) })
    }
}

impl<T> Deref for TryMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().unwrap()
    }
}

impl<T> DerefMut for TryMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().unwrap()
    }
}

impl<T> Drop for TryMutexGuard<'_, T> {
    fn drop(&mut self) {
        self.value = None;
        if std::thread::panicking() {
            // The model has failed: no more of loom's operations.
            return;
        }
        *lock(&self.mutex.is_taken) = false;
        self.mutex.is_free.notify_one();
    }
}

/// Nobody is alone in a model.
#[derive(Debug)]
pub(crate) struct LoneMutex<T>(Mutex<T>);

pub(crate) type LoneGuard<'a, T> = MutexGuard<'a, T>;

impl<T> LoneMutex<T> {
    pub fn new(value: T) -> LoneMutex<T> {
        LoneMutex(Mutex::new(value))
    }

    pub fn lock(&self) -> LoneGuard<'_, T> {
        lock(&self.0)
    }
}

/// Told by std's lock, which loom does not see: a thread asks for what only it can have changed.
#[derive(Default)]
pub(crate) struct Occupant(std::sync::Mutex<Option<ThreadId>>);

impl Occupant {
    pub fn is_here(&self) -> bool {
        *self.0.lock().unwrap() == Some(thread::current().id())
    }

    pub fn set_here(&self, here: bool) -> bool {
        let was_here = self.is_here();
        *self.0.lock().unwrap() = here.then(|| thread::current().id());
        was_here
    }
}

/// (loom's own token is lost when the thread waits for a lock.)
pub(crate) struct Thread {
    id: ThreadId,
    token: Mutex<bool>,
    unparked: Condvar,
}

impl Thread {
    pub fn current() -> Thread {
        Thread { id: thread::current().id(), token: Mutex::new(false), unparked: Condvar::new() }
    }

    pub fn is_current(&self) -> bool {
        self.id == thread::current().id()
    }

    pub fn park(&self) {
        let mut token = lock(&self.token);
        while !std::mem::take(&mut *token) {
            token = wait(&self.unparked, token);
        }
    }

    pub fn unpark(&self) {
        *lock(&self.token) = true;
        self.unparked.notify_one();
    }
}
