//! How a thread in `block_on` waits and is woken.

use crate::reactor::seat::Seat;
use crate::reactor::{Shared, registry};
use crate::sync::Thread;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::io;
use std::sync::Arc;
use std::task::{Wake, Waker};
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
/// Waiting for somebody else, who drives.
const PARKED: u8 = 2;
/// The future is to be polled.
const NOTIFIED: u8 = 3;

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

    /// Calls `turn`, which waits in `reactor`, such that a wake ends the wait. If `turn` says that another thread
    /// drives, parks instead (unless `timeout` says not to wait).
    pub fn drive(
        &self,
        reactor: &Arc<Shared>,
        timeout: Option<Duration>,
        turn: impl FnOnce() -> Option<io::Result<()>>,
    ) -> io::Result<()> {
        self.reactor.store(reactor.id, Ordering::Relaxed);
        if timeout.is_none() && !self.pass(RUNNING, DRIVING) {
            return Ok(());
        }
        if let Some(result) = turn() {
            self.pass(DRIVING, RUNNING);
            return result;
        }
        if timeout.is_none() && self.pass(DRIVING, PARKED) {
            while self.state.load(Ordering::Acquire) == PARKED {
                self.thread.park();
            }
        }
        Ok(())
    }

    /// The same with the shared reactor: in its seat, or parked until the seat is free. `waker` is this parker's.
    pub fn drive_shared(&self, seat: &Seat, timeout: Option<Duration>, waker: &Waker) -> io::Result<()> {
        let is_woken = || self.state.load(Ordering::Acquire) == NOTIFIED;
        let result = self.drive(&seat.shared, timeout, || seat.try_turn(waker, timeout, is_woken));
        seat.unpark(waker);
        result
    }

    /// From one state to the next, unless it was notified.
    fn pass(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
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
