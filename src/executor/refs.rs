//! How many references a task has.

use crate::sync::atomic::{AtomicUsize, Ordering};

/// A count that starts at one.
pub(super) struct Refs(AtomicUsize);

impl Refs {
    pub fn new() -> Refs {
        Refs(AtomicUsize::new(1))
    }

    /// One more, made by somebody who has one.
    #[inline]
    pub fn add(&self) {
        // Relaxed, as in Arc: a new one is made from one that is there.
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        if before > isize::MAX as usize {
            // So many leaked wakers that the count would wrap, and the task be freed under them.
            std::process::abort();
        }
    }

    /// One less. `true`: it was the last, and whatever the others did is over and visible.
    #[inline]
    pub fn release(&self) -> bool {
        // If it is the only one, nobody can make it more: no need for the costly operation.
        self.0.load(Ordering::Acquire) == 1 || self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }
}
