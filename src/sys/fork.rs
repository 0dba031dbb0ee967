//! fork(2): a child shares its parent's selectors, so it must not touch them.

use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between this process and the one that first asked. What was made under another number
/// belongs to a parent.
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Nearly always: there was no such fork.
#[inline]
pub(crate) fn is_first() -> bool {
    generation() == 0
}

/// [`generation`], and from now on it counts. To be called by everything that keeps a generation.
pub(crate) fn watch() -> u32 {
    static WATCH: Once = Once::new();
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    WATCH.call_once(|| {
        // SAFETY: the handler only adds to an atomic, which is allowed in the child of a threaded process. If it fails
        // (out of memory), children are not told apart; nothing else depends on it.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
    generation()
}

/// A static that every process makes for itself at first use. A child of fork does not inherit it: a lock in it may
/// have been held by a thread that does not exist in the child.
pub(crate) struct PerProcess<T: 'static> {
    current: AtomicPtr<(u32, T)>,
    make: fn() -> T,
}

impl<T: Send + Sync> PerProcess<T> {
    pub const fn new(make: fn() -> T) -> PerProcess<T> {
        PerProcess { current: AtomicPtr::new(std::ptr::null_mut()), make }
    }

    #[inline(always)]
    pub fn get(&'static self) -> &'static T {
        let found = self.current.load(Ordering::Acquire);
        // SAFETY: what was stored is a leaked box: it is never freed, and never changed.
        match unsafe { found.as_ref() } {
            Some((generation, value)) if *generation == self::generation() => value,
            _ => self.make(found),
        }
    }

    /// `found` is of no process, or of a parent's.
    #[cold]
    #[inline(never)]
    fn make(&'static self, found: *mut (u32, T)) -> &'static T {
        let made = Box::into_raw(Box::new((watch(), (self.make)())));
        match self.current.compare_exchange(found, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: as above.
            Ok(_) => unsafe { &(*made).1 },
            Err(_) => {
                // SAFETY: it was made above and nobody has seen it.
                drop(unsafe { Box::from_raw(made) });
                self.get()
            }
        }
    }
}
