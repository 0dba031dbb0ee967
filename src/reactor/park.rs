//! Whether a loop sleeps, and who has to wake it: one atomic, read-modify-write on both sides.
//!
//! A loop that has run out of work announces that it will sleep, and does not if somebody notified it since it last
//! looked. Whoever has work for it leaves the work first, then notifies, and has to use the notifier (a system call)
//! only if the loop had announced its sleep. Both steps are a read-modify-write of the same atomic, so one of the two
//! always sees the other: no wake-up is lost, and no fence is needed.

use crate::sync::atomic::{AtomicU8, Ordering};

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const NOTIFIED: u8 = 2;

#[derive(Debug)]
pub(crate) struct Park(AtomicU8);

impl Park {
    pub fn new() -> Park {
        Park(AtomicU8::new(AWAKE))
    }

    /// The loop is about to sleep. `false`: it has been notified, and must not.
    pub fn try_sleep(&self) -> bool {
        self.0.swap(ASLEEP, Ordering::AcqRel) != NOTIFIED
    }

    /// The loop runs. Says whether it was notified since the last call; what was left for it is visible now.
    pub fn wake(&self) -> bool {
        self.0.swap(AWAKE, Ordering::AcqRel) == NOTIFIED
    }

    /// Cheap, and may be late: has somebody notified the loop?
    pub fn is_notified(&self) -> bool {
        self.0.load(Ordering::Relaxed) == NOTIFIED
    }

    /// There is something to look at. `true`: the loop sleeps, and the caller has to end that.
    #[must_use]
    pub fn notify(&self) -> bool {
        self.0.swap(NOTIFIED, Ordering::AcqRel) == ASLEEP
    }
}
