//! The one **seat** of the shared reactor: whoever sits in it drives.
//!
//! Threads in `block_on` come to it whenever their future is pending. One that finds it taken says so and parks; the one
//! in the seat wakes its future for its events, and lets one of those who park have the seat when it goes for good. What it
//! does not do is to get up for others each time that it polls its own future: they would only be woken in vain. So that a
//! poll which takes long does not hold them up, a helper thread watches (see [`fallback`](super::fallback)).
//!
//! Where executors that know nothing of us run the tasks, the helper drives. When several that it has woken do not wait again
//! yet, it **lends** the seat: they have something to do, and it would be woken by, and often take the processor from them for,
//! each single event that comes meanwhile. The last of them that waits again turns without waiting, on the thread that polls
//! it; if that wakes nobody, it calls the helper, who is also back by himself if they take long.
//!
//! Nothing here knows processes, nor threads but by a number, so the models run it as it is.

use super::driver::{Answer, Driver};
use super::shared::{Scratch, Shared};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, Occupant, TryMutex, TryMutexGuard, lock, wait, wait_timeout};
use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

pub(crate) struct Seat {
    pub shared: Arc<Shared>,
    /// Who holds it drives.
    place: TryMutex<Scratch>,
    /// Who is in a turn.
    driver: Occupant,
    /// [`LEFT`], [`WAITING`] or [`WATCHED`].
    state: AtomicU8,
    /// Turns begun: shows whether anything goes on.
    turns: AtomicUsize,
    /// Threads in `block_on`.
    blocked: AtomicUsize,
    /// Those among them that found the seat taken.
    parked: Mutex<Vec<Arc<dyn Parks>>>,
    has_helper: AtomicBool,
    /// Starts a thread that does nothing but [`help`](Seat::help).
    start_helper: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    /// The helper has the seat, or is about to take it.
    helper_drives: AtomicBool,
    /// A thread in `block_on` wants the seat that the helper has.
    wanted: AtomicBool,
    called: Mutex<bool>,
    call: Condvar,
    /// How many of those who have had events do not wait again. (About: others who wait count as well, and some never do.)
    out: AtomicUsize,
    /// The thread on which one has waited last, and how often that was another one than before.
    waiter: AtomicUsize,
    changes: AtomicUsize,
}

/// A thread in `block_on`.
pub(crate) trait Parks: Send + Sync {
    /// It has the seat. Returns whether it may wait: not if its future is to be polled.
    fn sit(&self) -> bool;

    /// It may have the seat, if it parks. Its future has not been woken by this.
    fn unpark(&self);
}

/// Nobody waits in the kernel: the seat is free, or somebody is about to leave it or has just come.
const LEFT: u8 = 0;
/// The one in the seat waits in the kernel: nothing has to be watched.
const WAITING: u8 = 1;
/// The same, and the helper sleeps until that is over.
const WATCHED: u8 = 2;

/// The helper lends the seat to so many. (For fewer, to call it costs more than to turn less often saves.)
const LENDS_TO: usize = if cfg!(loom) { 1 } else { 2 };
/// To so many if they are on several threads, one of which may be idle while it waits for another one to turn.
const LENDS_TO_THREADS: usize = if cfg!(loom) { 1 } else { 4 };
/// For so long, unless somebody turns meanwhile. On one thread, also as long as they get on, and for up to [`LOAN_MAX`] at a time:
/// who comes to look takes the processor from one of them.
const LOAN: Duration = Duration::from_micros(200);
const LOAN_MAX: Duration = Duration::from_millis(1);
/// Elsewhere, so short a sleep may take much longer.
const LENDS: bool = cfg!(any(target_os = "linux", target_os = "android", loom));

/// Who sits there has no tasks. But those whom he wakes are counted, before they can wait again.
struct Counts<'a>(&'a AtomicUsize);

impl Driver for Counts<'_> {
    fn claim(&mut self, _: &Waker) -> Answer {
        Answer::No
    }

    fn wakes(&mut self, others: usize) {
        if others > 0 {
            self.0.fetch_add(others, Ordering::AcqRel);
        }
    }
}

impl Seat {
    pub fn new(
        shared: Arc<Shared>,
        start_helper: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> Seat {
        Seat {
            shared,
            place: TryMutex::default(),
            driver: Occupant::default(),
            state: AtomicU8::new(LEFT),
            turns: AtomicUsize::new(0),
            blocked: AtomicUsize::new(0),
            parked: Mutex::default(),
            has_helper: AtomicBool::new(false),
            start_helper: Box::new(start_helper),
            helper_drives: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            called: Mutex::new(false),
            call: Condvar::new(),
            out: AtomicUsize::new(0),
            waiter: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
        }
    }

    // ---------------------------------------------------------------------------------- threads in `block_on`

    /// A thread waits in `block_on`, or will wait again, from now on until it [goes](Seat::go).
    pub fn come(&self) {
        self.blocked.fetch_add(1, Ordering::AcqRel);
    }

    pub fn go(&self) {
        self.blocked.fetch_sub(1, Ordering::AcqRel);
        self.pass_on();
        if self.has_helper.load(Ordering::Acquire) {
            // It would find out by itself, later.
            self.call_helper();
        }
    }

    /// Takes the seat and waits until something has happened (at most for `timeout`). `None`: the seat is taken, and
    /// `thread` will be unparked when it is free, unless it [gives that up](Seat::give_up).
    pub fn try_turn<P: Parks + 'static>(
        &self,
        thread: &Arc<P>,
        timeout: Option<Duration>,
    ) -> Option<io::Result<()>> {
        let turn = |place: &mut Scratch| {
            let timeout = if thread.sit() { timeout } else { Some(Duration::ZERO) };
            self.turn(place, timeout)
        };
        if self.driver.is_here() {
            // It is in a turn already, and wakes a waker that is in block_on: nobody else could drive.
            return Some(turn(&mut Scratch::default()));
        }
        if let Some(mut place) = self.place.try_lock() {
            return Some(turn(&mut place));
        }
        // First on the list, then one more try: whoever leaves the seat after that sees the list.
        lock(&self.parked).push(thread.clone());
        if let Some(mut place) = self.place.try_lock() {
            self.give_up(thread);
            return Some(turn(&mut place));
        }
        if self.helper_drives.load(Ordering::Acquire) {
            self.wanted.swap(true, Ordering::AcqRel);
            self.shared.notify();
        } else {
            // Another thread's future decides when the seat is free: somebody has to watch that it does not take long.
            self.ensure_helper();
        }
        None
    }

    /// `thread` does not park any more.
    pub fn give_up<P: Parks>(&self, thread: &Arc<P>) {
        lock(&self.parked).retain(|other| !ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(thread)));
    }

    fn turn(&self, place: &mut Scratch, timeout: Option<Duration>) -> io::Result<()> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.state.store(WAITING, Ordering::Relaxed);
        let outer = self.driver.set_here(true);
        let result = self.shared.turn(None, place, timeout, &Cell::new(None), &mut Counts(&self.out));
        self.driver.set_here(outer);
        // Read-modify-write on both sides: either the helper finds that nobody waits, or it is called.
        if self.state.swap(LEFT, Ordering::AcqRel) == WATCHED {
            self.call_helper();
        }
        result.map(drop)
    }

    /// The seat is free: one of those who park may have it.
    fn pass_on(&self) {
        let next = lock(&self.parked).pop();
        if let Some(thread) = next {
            thread.unpark();
        }
    }

    // ------------------------------------------------------------------------------------------- the helper

    /// # Panics
    ///
    /// If there is none, and none can be started.
    pub fn ensure_helper(&self) {
        if self.has_helper.load(Ordering::Relaxed) || self.has_helper.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(e) = (self.start_helper)() {
            self.has_helper.store(false, Ordering::Release);
            panic!("the shared reactor needs a thread of its own here, and none can be started: {e}");
        }
    }

    fn call_helper(&self) {
        *lock(&self.called) = true;
        self.call.notify_one();
    }

    /// What the helper does, again and again.
    pub fn help(&self) {
        if self.blocked.load(Ordering::Acquire) == 0 {
            self.helper_drives.store(true, Ordering::Release);
            self.drive(self.place.lock());
        } else if let Some(place) = self.watch() {
            self.drive(place);
        }
    }

    /// In the seat, until somebody else wants it or takes it while it is lent.
    fn drive<'a>(&'a self, mut place: TryMutexGuard<'a, Scratch>) {
        self.out.store(0, Ordering::Relaxed);
        let mut lends_to = LENDS_TO;
        while !self.wanted.swap(false, Ordering::AcqRel) {
            match self.turn(&mut place, None) {
                Ok(()) if LENDS && self.out.load(Ordering::Acquire) >= lends_to => {
                    drop(place);
                    lends_to = if self.wait_for_return() { LENDS_TO } else { LENDS_TO_THREADS };
                    match self.place.try_lock() {
                        Some(returned) => place = returned,
                        // A thread in `block_on` has come, which passes it on when it goes; or one of them turns, and there is
                        // [help](Seat::help) again afterwards.
                        None => return self.helper_drives.store(false, Ordering::Release),
                    }
                }
                Ok(()) => {}
                // A selector that cannot wait any more would hang every task in the process without a word.
                Err(e) => panic!("the shared reactor cannot wait: {e}"),
            }
        }
        self.helper_drives.store(false, Ordering::Release);
        drop(place);
        self.pass_on();
    }

    /// Says whether those who were out have waited on one thread.
    fn wait_for_return(&self) -> bool {
        // The first change is from whoever waited before they were woken.
        let changes = self.changes.load(Ordering::Relaxed);
        let is_one = || self.changes.load(Ordering::Relaxed).wrapping_sub(changes) <= 1;
        let mut loan = LOAN;
        loop {
            let (turns, out) = (self.turns.load(Ordering::Relaxed), self.out.load(Ordering::Relaxed));
            // Timers do not wait for those who are out.
            if self.wait_for_call(self.shared.limit(None, Some(loan))) {
                return is_one();
            }
            if self.turns.load(Ordering::Relaxed) == turns
                && (self.out.load(Ordering::Relaxed) == out || !is_one())
            {
                // They take long, or never wait again.
                self.out.store(0, Ordering::Relaxed);
                return is_one();
            }
            loan = if is_one() { (loan * 2).min(LOAN_MAX) } else { LOAN };
        }
    }

    /// A task waits, on a thread (of this number) that is not in `block_on`. No lock is held: what this wakes may run anything.
    pub fn waits(&self, thread: usize) {
        // (If two do so at once, one change more or less is no matter.)
        if self.waiter.load(Ordering::Relaxed) != thread {
            self.waiter.store(thread, Ordering::Relaxed);
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        let one_less = |out: usize| out.checked_sub(1);
        if self.out.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_less) != Ok(1)
            || self.driver.is_here()
        {
            return;
        }
        let Some(mut place) = self.place.try_lock() else { return };
        // (What has become of the selector, the helper finds out.)
        let _ = self.turn(&mut place, Some(Duration::ZERO));
        drop(place);
        self.pass_on();
        if self.out.load(Ordering::Acquire) == 0 {
            self.call_helper();
        }
    }

    /// Threads are in `block_on`, and take the seat by themselves. Returns it if they do not, or `None` to look again.
    fn watch(&self) -> Option<TryMutexGuard<'_, Scratch>> {
        const FIRST: Duration = Duration::from_millis(1);
        const LAST: Duration = Duration::from_millis(10);
        let mut pause = FIRST;
        loop {
            let turns = self.turns.load(Ordering::Relaxed);
            if self.wait_for_call(Some(pause)) {
                return None;
            }
            if self.turns.load(Ordering::Relaxed) != turns {
                pause = (pause * 2).min(LAST);
            } else if self.may_sleep() {
                self.wait_for_call(None);
                if self.blocked.load(Ordering::Acquire) == 0 {
                    return None;
                }
                pause = FIRST;
            } else {
                self.helper_drives.store(true, Ordering::Release);
                match self.place.try_lock() {
                    Some(place) => return Some(place),
                    None => self.helper_drives.store(false, Ordering::Release),
                }
            }
        }
    }

    /// Does somebody wait in the seat? Then the helper is called when that is over.
    fn may_sleep(&self) -> bool {
        self.state.compare_exchange(WAITING, WATCHED, Ordering::AcqRel, Ordering::Acquire) != Err(LEFT)
    }

    /// `false`: nobody called within `timeout`.
    fn wait_for_call(&self, timeout: Option<Duration>) -> bool {
        let mut called = lock(&self.called);
        match timeout {
            None => {
                while !*called {
                    called = wait(&self.call, called);
                }
            }
            // A wait that ends early only makes the helper look earlier.
            Some(timeout) if !*called => called = wait_timeout(&self.called, &self.call, called, timeout),
            Some(_) => {}
        }
        std::mem::take(&mut *called)
    }
}

/// For the tests and the models.
#[cfg(test)]
impl Seat {
    pub fn lend_to(&self, woken: usize) {
        Counts(&self.out).wakes(woken);
    }
}

/// For the tests.
#[cfg(all(test, not(loom)))]
impl Seat {
    pub fn take_call(&self) -> bool {
        std::mem::take(&mut *lock(&self.called))
    }
}

/// For the models.
#[cfg(all(test, loom))]
impl Seat {
    pub fn take(&self) -> TryMutexGuard<'_, Scratch> {
        self.place.lock()
    }

    /// Makes the helper come back from [`help`](Seat::help), now or from the next time.
    pub fn end_help(&self) {
        self.wanted.swap(true, Ordering::AcqRel);
        self.shared.notify();
        self.call_helper();
    }
}
