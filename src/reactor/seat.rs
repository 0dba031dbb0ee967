//! The one **seat** of the shared reactor: whoever sits in it drives.
//!
//! Threads in `block_on` come to it whenever their future is pending. One that finds it taken says so and parks; the one
//! in the seat wakes its future for its events, and lets one of those who park have the seat when it goes for good. What it
//! does not do is to get up for others each time that it polls its own future: they would only be woken in vain. So that a
//! poll which takes long does not hold them up, a helper thread watches (see [`fallback`](super::fallback)).
//!
//! Nothing here knows threads or processes, so the models run it as it is.

use super::driver::no_tasks;
use super::shared::{Scratch, Shared, Turn};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, Occupant, TryMutex, TryMutexGuard, lock, wait, wait_timeout};
use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Arc;
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

/// After a turn that woke so many, the helper pauses. It has given their executor work for at least that time, and would
/// be woken by, and often take the processor from it for, each single event that comes meanwhile. In the next turn they come
/// together. (Measured with an executor on the same processor, and fifty connections: half as many turns, or fewer.)
const WOKEN_BEFORE_PAUSE: usize = 6;
const PAUSE: Duration = Duration::from_micros(40);
/// Elsewhere, it may take much longer.
const CAN_PAUSE: bool = cfg!(all(any(target_os = "linux", target_os = "android"), not(loom)));

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
            self.turn(place, timeout).map(drop)
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

    fn turn(&self, place: &mut Scratch, timeout: Option<Duration>) -> io::Result<Turn> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.state.store(WAITING, Ordering::Relaxed);
        let outer = self.driver.set_here(true);
        let result = self.shared.turn(None, place, timeout, &Cell::new(None), &mut no_tasks);
        self.driver.set_here(outer);
        // Read-modify-write on both sides: either the helper finds that nobody waits, or it is called.
        if self.state.swap(LEFT, Ordering::AcqRel) == WATCHED {
            self.call_helper();
        }
        result
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

    /// In the seat, until somebody else wants it.
    fn drive(&self, mut place: TryMutexGuard<'_, Scratch>) {
        while !self.wanted.swap(false, Ordering::AcqRel) {
            match self.turn(&mut place, None) {
                Ok(turn) if CAN_PAUSE && turn.woken >= WOKEN_BEFORE_PAUSE => std::thread::sleep(PAUSE),
                Ok(_) => {}
                // A selector that cannot wait any more would hang every task in the process without a word.
                Err(e) => panic!("the shared reactor cannot wait: {e}"),
            }
        }
        self.helper_drives.store(false, Ordering::Release);
        drop(place);
        self.pass_on();
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
