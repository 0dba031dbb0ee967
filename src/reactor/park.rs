//! Whether a loop sleeps, and who has to wake it: two flags, one of each side.
//!
//! A loop that has run out of work announces that it will sleep, and does not if somebody notified it since it last
//! looked. Whoever has work for it leaves the work first, then notifies, and has to use the notifier (a system call)
//! only if the loop had announced its sleep. Each side [announces](announce) with its own flag, and then looks at the other's:
//! one of the two always sees the other (as in Dekker's algorithm), and no wake-up is lost. To run on is a plain store.

use crate::sync::announce;
use crate::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub(crate) struct Park {
    is_asleep: AtomicBool,
    is_notified: AtomicBool,
}

impl Park {
    pub fn new() -> Park {
        Park { is_asleep: AtomicBool::new(false), is_notified: AtomicBool::new(false) }
    }

    /// The loop is about to sleep. `false`: it has been notified, and must not.
    #[inline]
    pub fn try_sleep(&self) -> bool {
        announce(&self.is_asleep);
        !self.is_notified.load(Ordering::SeqCst)
    }

    /// The loop runs. Says whether it was notified since the last call; what was left for it is visible now.
    #[inline]
    pub fn wake(&self) -> bool {
        // Who still sees it asleep ends a wait for nothing.
        self.is_asleep.store(false, Ordering::Relaxed);
        // Who is not seen yet is seen by the next `try_sleep`.
        self.is_notified() && self.is_notified.swap(false, Ordering::Acquire)
    }

    /// Cheap, and may be late: has somebody notified the loop?
    #[inline]
    pub fn is_notified(&self) -> bool {
        self.is_notified.load(Ordering::Relaxed)
    }

    /// There is something to look at. `true`: the loop sleeps, and the caller has to end that.
    #[must_use]
    pub fn notify(&self) -> bool {
        // If somebody has notified it before, and it has not looked since, it will, and sees this as well.
        !announce(&self.is_notified) && self.is_asleep.load(Ordering::SeqCst)
    }
}
