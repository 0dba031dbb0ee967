//! Who turns a reactor.

use std::task::Waker;

/// Whoever turns a reactor may have tasks of his own, which he schedules on the spot instead of waking them.
///
/// Whoever else turns it for a while has none: of one reactor, only one ever says yes.
pub(crate) trait Driver {
    /// If this is the waker of one of his tasks, sees to it that the task runs (`true`). It must do no more than to put it where
    /// he will look for it: it is called under locks.
    fn schedule(&self, waker: &Waker) -> bool;

    /// The same for a waker of which he has said yes before.
    ///
    /// # Safety
    ///
    /// He has, to this waker.
    #[inline]
    unsafe fn schedule_again(&self, waker: &Waker) -> bool {
        self.schedule(waker)
    }
}

impl<F: Fn(&Waker) -> bool> Driver for F {
    #[inline]
    fn schedule(&self, waker: &Waker) -> bool {
        self(waker)
    }
}

/// One who has no tasks.
pub(crate) fn no_tasks(_: &Waker) -> bool {
    false
}
