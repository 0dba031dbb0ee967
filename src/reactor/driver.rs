//! Who turns a reactor.

use std::task::Waker;

/// Whoever turns a reactor may have tasks of his own, to which he sees on the spot instead of waking them.
pub(crate) trait Driver {
    /// Are most of those who wait his, though he says [`Known`](Answer::Known) of none? Then he is asked before anything else
    /// is looked at.
    const CLAIMS_UNKNOWN: bool = false;

    /// Is this the waker of one of his tasks? Then he sees to it that the task runs, and the waker stays where it is. He must
    /// do no more than to put the task where he will look for it: he is asked under locks.
    fn claim(&mut self, waker: &Waker) -> Answer;

    /// The same for a waker of which one driver of this reactor has said that it is [`Known`](Answer::Known). `false`: it is
    /// of no use any more.
    ///
    /// # Safety
    ///
    /// That is so. Of one reactor, all drivers that say so mean the same.
    #[inline]
    unsafe fn claim_again(&mut self, waker: &Waker) -> bool {
        self.claim(waker) != Answer::No
    }

    /// So many others have had events, and are about to be woken.
    #[inline]
    fn wakes(&mut self, _others: usize) {}
}

/// Whose waker it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    No,
    Yes,
    /// His, and he need not be asked again.
    Known,
}

impl<F: FnMut(&Waker) -> bool> Driver for F {
    #[inline]
    fn claim(&mut self, waker: &Waker) -> Answer {
        if self(waker) { Answer::Yes } else { Answer::No }
    }
}

/// One who has no tasks.
pub(crate) fn no_tasks(_: &Waker) -> bool {
    false
}
