//! The part of a reactor that belongs to the thread that drives it: its timers, which pay for no other thread.

use super::clock;
use super::driver::Driver;
use super::shared::{Scratch, Shared, Turn};
use super::wheel::Wheel;
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

pub(crate) struct Local {
    pub shared: Arc<Shared>,
    pub wheel: RefCell<Wheel<Waker>>,
    scratch: Cell<Option<Box<Scratch>>>,
    /// The time, if somebody has read it since the last turn began.
    now: Cell<Option<u64>>,
}

impl Local {
    pub fn new(shared: Arc<Shared>) -> Local {
        Local { shared, wheel: RefCell::new(Wheel::new()), scratch: Cell::new(None), now: Cell::new(None) }
    }

    /// See [`Shared::turn`].
    #[inline(always)]
    pub fn turn(&self, timeout: Option<Duration>, driver: &mut impl Driver) -> io::Result<Turn> {
        // Taken out, so that a waker may turn the reactor as well.
        let mut scratch = self.scratch.take().unwrap_or_default();
        let result = self.shared.turn(Some(&self.wheel), &mut scratch, timeout, &self.now, driver);
        self.scratch.set(Some(scratch));
        result
    }

    /// After `turn`, the last one: can the selector have more events that it has been told of already? It has room for so
    /// many at a time, and a level is there until it ends.
    pub fn may_have_left_some(&self, turn: Turn) -> bool {
        let scratch = self.scratch.take();
        let was_full = scratch.as_ref().is_some_and(|scratch| scratch.was_full());
        self.scratch.set(scratch);
        was_full || turn.events > 0 && self.shared.watches_levels()
    }

    #[inline]
    pub fn read_mail(&self) {
        self.shared.read_mail(&self.wheel);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.shared.next_deadline(Some(&self.wheel)).and_then(clock::instant)
    }

    /// Has `deadline` (nanoseconds) passed? The time is read at most once per turn, and again only where it matters:
    /// near the deadline. (A task that runs for longer than that sees its timers fire one turn later.)
    #[inline]
    pub fn is_past(&self, deadline: u64) -> bool {
        const NEAR_NS: u64 = 1_000_000_000;
        match self.now.get() {
            Some(now) if deadline <= now => true,
            Some(now) if deadline - now > NEAR_NS => false,
            _ => {
                let now = clock::nanos(self.shared.clock.now());
                self.now.set(Some(now));
                deadline <= now
            }
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.shared.stop(Some(self.wheel.take()));
    }
}
