//! How a thread in `block_on` waits and is woken.

use crate::reactor::seat::{Parks, Seat};
use crate::reactor::{Shared, registry};
use crate::sync::Thread;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::io;
use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

/// The thread itself changes its state only from one that it knows to be there, and a wake swaps in [`NOTIFIED`]: so
/// whoever wakes it learns what it is doing, and a wake that came before it said so keeps it from waiting.
pub(super) struct Parker {
    state: AtomicU8,
    /// The reactor that it drives.
    reactor: AtomicU64,
    thread: Thread,
}

const RUNNING: u8 = 0;
/// In a turn of a reactor.
const DRIVING: u8 = 1;
/// On the way to the seat of the shared reactor.
const COMING: u8 = 2;
/// Waiting for the seat, while somebody else drives.
const PARKED: u8 = 3;
/// The future is to be polled.
const NOTIFIED: u8 = 4;

impl Parker {
    /// For the current thread.
    pub fn new() -> Arc<Parker> {
        Arc::new(Parker {
            state: AtomicU8::new(RUNNING),
            reactor: AtomicU64::new(0),
            thread: Thread::current(),
        })
    }

    /// Has it been woken, and not [taken](Parker::take) that? Cheap, and may be late.
    pub fn is_notified(&self) -> bool {
        self.state.load(Ordering::Relaxed) == NOTIFIED
    }

    /// A future is to be polled (`true`), woken or not. If it comes from an earlier call, it may have been woken since: what
    /// was done before that is visible now.
    pub fn start(&self) -> bool {
        self.state.swap(RUNNING, Ordering::AcqRel);
        true
    }

    /// Is the future to be polled? What was done before the wakes so far is visible then.
    pub fn take(&self) -> bool {
        let notified = self.is_notified();
        if notified {
            self.state.swap(RUNNING, Ordering::AcqRel);
        }
        notified
    }

    /// Calls `turn`, which waits in `reactor`, such that a wake ends the wait.
    pub fn drive(
        &self,
        reactor: &Arc<Shared>,
        timeout: Option<Duration>,
        turn: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.reactor.store(reactor.id, Ordering::Relaxed);
        if timeout.is_none() && !self.pass(RUNNING, DRIVING) {
            return Ok(());
        }
        let result = turn();
        self.pass(DRIVING, RUNNING);
        result
    }

    /// The same with the shared reactor: in its seat, or parked until that is free (unless `timeout` says not to wait).
    pub fn drive_shared(self: &Arc<Self>, seat: &Seat, timeout: Option<Duration>) -> io::Result<()> {
        self.reactor.store(seat.shared.id, Ordering::Relaxed);
        if timeout.is_none() && !self.pass(RUNNING, COMING) {
            return Ok(());
        }
        if let Some(result) = seat.try_turn(self, timeout) {
            self.pass(DRIVING, RUNNING);
            return result;
        }
        if timeout.is_none() && self.pass(COMING, PARKED) {
            while self.state.load(Ordering::Acquire) == PARKED {
                self.thread.park();
            }
        }
        seat.give_up(self);
        Ok(())
    }

    /// From one state to the next, unless it was notified.
    fn pass(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Parks for Parker {
    fn sit(&self) -> bool {
        // The seat may have been offered on the way.
        self.pass(COMING, DRIVING) || self.pass(RUNNING, DRIVING)
    }

    fn unpark(&self) {
        let mut state = self.state.load(Ordering::Acquire);
        // In any other state it is not waiting for this, and comes again or goes.
        while state == COMING || state == PARKED {
            match self.state.compare_exchange(state, RUNNING, Ordering::AcqRel, Ordering::Acquire) {
                Ok(PARKED) => return self.thread.unpark(),
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.state.swap(NOTIFIED, Ordering::AcqRel);
        if self.thread.is_current() {
            // It does not wait while it is here.
            return;
        }
        match before {
            PARKED => self.thread.unpark(),
            DRIVING => registry::notify(self.reactor.load(Ordering::Relaxed)),
            _ => {}
        }
    }
}
