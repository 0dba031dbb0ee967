//! Counts the references to a task: without atomic operations on its core's thread, where nearly all of them are.
//!
//! Biased reference counting, after J. Choi, T. Shull and J. Torrellas, "Biased Reference Counting: Minimizing Atomic
//! Operations in Garbage Collection", PACT 2018. Two numbers make up the count: one for the core's thread alone, and one
//! for all. Either may be negative, as a reference can be made on one thread and dropped on another. What counts is
//! their sum, which only the core's thread can see. So it holds a share of its own, far more than there can be
//! references, and as long as it does, nobody else can find the count at its end. When the core has done with the task it
//! puts its number and its share back into the common one, and from then on that is the count.

use crate::sync::atomic::{AtomicI32, Ordering};
use std::cell::Cell;

pub(super) struct Refs {
    /// Of any thread.
    common: AtomicI32,
    /// Of the core's thread; [`NONE`] when it has been put into the common one.
    own: Cell<i32>,
}

const SHARE: i32 = i32::MAX / 2 + 1;
const NONE: i32 = i32::MIN;

impl Refs {
    /// The core's share, and no other reference.
    pub fn new() -> Refs {
        Refs { common: AtomicI32::new(SHARE), own: Cell::new(0) }
    }

    /// One more. `here`: this is the core's thread.
    #[inline]
    pub fn add(&self, here: bool) {
        if here {
            let own = self.own.get();
            // Also false for NONE.
            if is_sane(own) {
                return self.own.set(own + 1);
            }
        }
        self.add_common();
    }

    #[inline(never)]
    fn add_common(&self) {
        // Relaxed, as in Arc: a new one is made from one that is there.
        let before = self.common.fetch_add(1, Ordering::Relaxed);
        if !is_sane(before) && !is_sane(before - SHARE) {
            // So many leaked wakers that the count would wrap, and the task be freed under them.
            std::process::abort();
        }
    }

    /// One less. `true`: it was the last.
    #[inline]
    pub fn sub(&self, here: bool) -> bool {
        if here && self.own.get() != NONE {
            self.own.set(self.own.get() - 1);
            return false;
        }
        self.common.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The core's thread has done with the task. `true`: and so has everybody else.
    #[inline]
    pub fn give_up(&self) -> bool {
        let share = SHARE - self.own.replace(NONE);
        // If it is all that is left, nobody can make it more: no need for the costly operation.
        self.common.load(Ordering::Acquire) == share
            || self.common.fetch_sub(share, Ordering::AcqRel) == share
    }
}

/// Far from where numbers wrap: a quarter of the range to both sides. (A thousand million wakers of one task, which would
/// have 16 GB.)
#[inline]
fn is_sane(number: i32) -> bool {
    number.wrapping_add(SHARE / 2) as u32 <= SHARE as u32
}
