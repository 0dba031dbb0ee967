//! The part of a reactor that any thread may use: set timers, notify, turn. (What is registered, see [`table`](super::table).)

use super::clock::{self, Clock, MockClock};
use super::driver::Driver;
use super::park::Park;
use super::readiness::Asks;
use super::table::Table;
use super::wheel::{Key, Wheel};
use super::{contain, fallback, registry, wake_all};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, lock};
use crate::sys::{Backend, EVENTS_PER_WAIT_MAX, Events, Poller, fork};
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Shared {
    /// Never used twice in a process.
    pub id: u64,
    pub poller: Poller,
    pub park: Park,
    pub clock: Clock,
    /// Is this the one that serves every thread which has none of its own?
    is_fallback: bool,
    /// The process, as counted by [`fork`], that made it.
    process: u32,
    pub(super) table: Table,
    timers: Mutex<Timers>,
    /// When the driver has to look into `timers`, in nanoseconds; `u64::MAX` for never.
    timers_due: AtomicU64,
    /// What other threads want done to timers in the wheel of the reactor's own thread. `None` once it has stopped.
    mail: Mutex<Option<Vec<Mail>>>,
    has_mail: AtomicBool,
}

/// The timers of threads that are not the reactor's own.
#[derive(Debug)]
struct Timers {
    wheel: Wheel<Waker>,
    stopped: bool,
}

#[derive(Debug)]
enum Mail {
    Cancel(Key),
    Reset(Key, u64),
}

/// What one turn of a reactor did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// Descriptors that had news.
    pub events: usize,
    /// Timers that fired.
    pub timers: usize,
    /// Wakers that were woken for these reasons. The tasks of an executor that had an event on its own reactor are not woken but
    /// run, and do not count; nor does what [`turn_with`](crate::LocalExecutor::turn_with) has noted.
    pub woken: usize,
    /// Did somebody end the wait, or forbid it?
    pub(crate) notified: bool,
}

/// Room that a turn needs, kept between turns.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    events: Events,
    wakers: Vec<Waker>,
}

impl Scratch {
    /// Did the last wait find as many events as it has room for?
    pub fn was_full(&self) -> bool {
        self.events.native().len() == EVENTS_PER_WAIT_MAX
    }
}

impl Shared {
    pub fn new(backend: Backend, clock: Clock, is_fallback: bool) -> io::Result<Arc<Shared>> {
        Poller::new(backend).map(|poller| Shared::with_poller(poller, clock, is_fallback))
    }

    pub fn with_poller(poller: Poller, clock: Clock, is_fallback: bool) -> Arc<Shared> {
        static IDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let shared = Arc::new(Shared {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            poller,
            park: Park::new(),
            clock,
            is_fallback,
            process: fork::watch(),
            table: Table::new(),
            timers: Mutex::new(Timers { wheel: Wheel::new(), stopped: false }),
            timers_due: AtomicU64::new(u64::MAX),
            mail: Mutex::new(Some(Vec::new())),
            has_mail: AtomicBool::new(false),
        });
        registry::enter(&shared);
        shared
    }

    /// Will it still wake anybody?
    pub fn is_alive(&self) -> bool {
        self.is_of_this_process() && !self.table.is_stopped()
    }

    pub fn is_of_this_process(&self) -> bool {
        self.process == fork::generation()
    }

    /// What it wants to hear of those who wait.
    pub fn asks(&self) -> Asks {
        Asks { to_count: self.is_fallback, to_arm: self.poller.needs_arming() }
    }

    /// Ends the wait that the reactor is in, if it is in one.
    pub fn notify(&self) {
        if self.park.notify() {
            self.poller.notify();
        }
    }

    // -------------------------------------------------------------------------------------------- timers

    /// Sets a timer from a thread that is not the reactor's own. `Err`: the reactor has stopped.
    pub fn set_timer(&self, deadline: u64, waker: Waker) -> Result<Key, Waker> {
        if self.is_fallback {
            fallback::ensure_driven(&waker);
        }
        let mut timers = lock(&self.timers);
        if timers.stopped {
            return Err(waker);
        }
        let key = timers.wheel.insert(deadline, waker);
        self.timers_changed(timers);
        Ok(key)
    }

    /// Moves a timer that [`set_timer`](Shared::set_timer) set. `false`: it has fired, or is a parent process's.
    pub fn reset_timer(&self, key: Key, deadline: u64) -> bool {
        if !self.is_of_this_process() {
            // The parent may have forked while another of its threads held the lock.
            return false;
        }
        let mut timers = lock(&self.timers);
        let pending = timers.wheel.reset(key, deadline);
        self.timers_changed(timers);
        pending
    }

    pub fn cancel_timer(&self, key: Key) {
        // As above.
        if self.is_of_this_process() {
            let waker = lock(&self.timers).wheel.cancel(key);
            drop(waker);
        }
    }

    /// `waker` is the one to wake from now on. `false`: the timer has fired.
    pub fn update_timer(&self, key: Key, waker: &Waker) -> bool {
        if self.is_fallback {
            fallback::ensure_driven(waker);
        }
        let clone = waker.clone();
        let replaced = lock(&self.timers).wheel.get_mut(key).map(|slot| std::mem::replace(slot, clone));
        replaced.is_some()
    }

    fn timers_changed(&self, timers: impl std::ops::DerefMut<Target = Timers>) {
        let due = timers.wheel.next_wakeup().unwrap_or(u64::MAX);
        let before = self.timers_due.swap(due, Ordering::AcqRel);
        drop(timers);
        if due < before {
            self.notify();
        }
    }

    /// Cancels a timer in the wheel of the reactor's own thread, from another one.
    pub fn mail_cancel(&self, key: Key) {
        // Not worth a wake-up of its own, unless nobody empties the box.
        const LETTERS_MAX: usize = 64;
        if self.post(Mail::Cancel(key)) >= LETTERS_MAX {
            self.notify();
        }
    }

    /// Moves a timer in the wheel of the reactor's own thread, from another one.
    pub fn mail_reset(&self, key: Key, deadline: u64) {
        self.post(Mail::Reset(key, deadline));
        self.notify();
    }

    /// Returns how many letters there are.
    fn post(&self, letter: Mail) -> usize {
        match lock(&self.mail).as_mut() {
            None => 0,
            Some(mail) => {
                mail.push(letter);
                self.has_mail.store(true, Ordering::Release);
                mail.len()
            }
        }
    }

    /// Does what other threads want done to timers in the wheel of this thread, which is `own`.
    #[inline]
    pub fn read_mail(&self, own: &RefCell<Wheel<Waker>>) {
        if self.has_mail.load(Ordering::Acquire) {
            self.read_letters(own);
        }
    }

    #[cold]
    fn read_letters(&self, own: &RefCell<Wheel<Waker>>) {
        let mut letters = match lock(&self.mail).as_mut() {
            Some(mail) => {
                self.has_mail.store(false, Ordering::Relaxed);
                std::mem::take(mail)
            }
            None => return,
        };
        let mut cancelled = Vec::new();
        for letter in letters.drain(..) {
            let mut own = own.borrow_mut();
            match letter {
                Mail::Cancel(key) => cancelled.extend(own.cancel(key)),
                Mail::Reset(key, deadline) => drop(own.reset(key, deadline)),
            }
        }
        // The room for the next ones.
        if let Some(mail) = lock(&self.mail).as_mut().filter(|mail| mail.is_empty()) {
            *mail = letters;
        }
        // Last, because a waker that is dropped may do anything: set these timers anew, or panic.
        for waker in cancelled {
            contain(|| drop(waker));
        }
    }

    // ---------------------------------------------------------------------------------------------- turn

    /// The earliest moment, in nanoseconds, at which a timer will want a turn.
    pub fn next_deadline(&self, own: Option<&RefCell<Wheel<Waker>>>) -> Option<u64> {
        let own = own.and_then(|wheel| wheel.borrow().next_wakeup()).unwrap_or(u64::MAX);
        let due = own.min(self.timers_due.load(Ordering::Acquire));
        (due != u64::MAX).then_some(due)
    }

    /// The same for a clock that moves there instead of waiting: a moment at which a timer is due, and not one that was
    /// cancelled or put off.
    fn settled_deadline(&self, own: Option<&RefCell<Wheel<Waker>>>) -> Option<u64> {
        let settled = |wheel: &mut Wheel<Waker>| {
            wheel.settle();
            wheel.next_deadline().unwrap_or(u64::MAX)
        };
        let own = own.map_or(u64::MAX, |wheel| settled(&mut wheel.borrow_mut()));
        let mut timers = lock(&self.timers);
        let due = settled(&mut timers.wheel);
        self.timers_due.store(due, Ordering::Release);
        Some(own.min(due)).filter(|&due| due != u64::MAX)
    }

    /// One turn: waits for at most `timeout` (`None`: until something happens), then wakes whom it concerns:
    /// descriptors first, then timers in the order of their deadlines. `own` is the wheel of the driving thread, if it
    /// has one. `now` is set to the time, if it had to be read.
    ///
    #[inline(always)]
    pub fn turn(
        &self,
        own: Option<&RefCell<Wheel<Waker>>>,
        scratch: &mut Scratch,
        timeout: Option<Duration>,
        now: &Cell<Option<u64>>,
        driver: &mut impl Driver,
    ) -> io::Result<Turn> {
        if !self.is_of_this_process() {
            return Err(stopped());
        }
        now.set(None);
        let Scratch { events, wakers } = scratch;
        let notified = self.wait(own, events, timeout)?;
        let mut told = events.len();
        if events.native().len() > 0 {
            told -= self.dispatch(events.native(), wakers, driver);
        }
        if events.list().len() > 0 {
            told -= self.dispatch(events.list(), wakers, driver);
        }
        let woken_by_events = wakers.len();
        driver.wakes(woken_by_events);
        self.fire(own, wakers, now);
        let woken = wakers.len();
        wake_all(wakers);
        Ok(Turn { events: told, timers: woken - woken_by_events, woken, notified })
    }

    /// Waits; says whether it was notified.
    #[inline(always)]
    fn wait(
        &self,
        own: Option<&RefCell<Wheel<Waker>>>,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        if timeout == Some(Duration::ZERO) {
            self.poller.wait(events, timeout)?;
            return Ok(false);
        }
        // Sleep is announced before anything is looked at that others may change: what changes later ends the wait.
        let may_sleep = self.park.try_sleep();
        let limit = if may_sleep { self.limit(own, timeout) } else { Some(Duration::ZERO) };
        let result = match (&self.clock, limit) {
            (Clock::Mock(clock), Some(limit)) => self.wait_at_once(clock, events, limit),
            _ => self.poller.wait(events, limit),
        };
        let notified = self.park.wake();
        result.map(|()| notified || !may_sleep)
    }

    /// Nothing is waited for that only time would bring: if nothing else has happened, it is brought forward.
    #[cold]
    fn wait_at_once(&self, clock: &MockClock, events: &mut Events, limit: Duration) -> io::Result<()> {
        self.poller.wait(events, Some(Duration::ZERO))?;
        if events.len() == 0 {
            clock.advance(limit);
        }
        Ok(())
    }

    /// Is there a timer in one of the two wheels?
    #[inline]
    fn has_timers(&self, own: Option<&RefCell<Wheel<Waker>>>) -> bool {
        self.timers_due.load(Ordering::Acquire) != u64::MAX || own.is_some_and(|own| !own.borrow().is_empty())
    }

    /// `timeout`, or the time until the next deadline if that is less.
    #[inline]
    pub fn limit(&self, own: Option<&RefCell<Wheel<Waker>>>, timeout: Option<Duration>) -> Option<Duration> {
        if let Some(own) = own {
            self.read_mail(own);
        }
        if self.has_timers(own) { self.limit_by_timers(own, timeout) } else { timeout }
    }

    #[inline(never)]
    fn limit_by_timers(
        &self,
        own: Option<&RefCell<Wheel<Waker>>>,
        timeout: Option<Duration>,
    ) -> Option<Duration> {
        let deadline = match &self.clock {
            Clock::Real => self.next_deadline(own),
            Clock::Mock(_) => self.settled_deadline(own),
        };
        let until_deadline = deadline.map(|deadline| {
            let now = clock::nanos(self.clock.now());
            Duration::from_nanos(deadline.saturating_sub(now))
        });
        match (timeout, until_deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Moves the wakers of all timers that are due to `wakers`.
    #[inline]
    fn fire(&self, own: Option<&RefCell<Wheel<Waker>>>, wakers: &mut Vec<Waker>, cached: &Cell<Option<u64>>) {
        if let Some(own) = own {
            self.read_mail(own);
        }
        if self.has_timers(own) {
            self.fire_due(own, wakers, cached);
        }
    }

    #[inline(never)]
    fn fire_due(
        &self,
        own: Option<&RefCell<Wheel<Waker>>>,
        wakers: &mut Vec<Waker>,
        cached: &Cell<Option<u64>>,
    ) {
        let own_due = own.and_then(|own| own.borrow().next_deadline()).unwrap_or(u64::MAX);
        let due = self.timers_due.load(Ordering::Acquire);
        if own_due.min(due) == u64::MAX {
            // They are all put off to the end of time: that needs no look at the clock.
            return;
        }
        let now = clock::nanos(self.clock.now());
        cached.set(Some(now));
        if due <= now {
            let mut timers = lock(&self.timers);
            timers.wheel.advance(now, wakers);
            self.timers_due.store(timers.wheel.next_wakeup().unwrap_or(u64::MAX), Ordering::Release);
        }
        if let Some(own) = own.filter(|_| own_due <= now) {
            own.borrow_mut().advance(now, wakers);
        }
    }

    /// Nobody will turn it any more. All who wait for it are woken, and find another reactor when they come back.
    pub fn stop(&self, own: Option<Wheel<Waker>>) {
        // They stay in the table until their owners drop them or find another reactor: until then, a second owner of
        // one of their descriptors is refused.
        let sources = self.table.stop();
        let mut wakers = Vec::new();
        for source in &sources {
            source.readiness.orphan(&mut wakers);
        }
        {
            let mut timers = lock(&self.timers);
            timers.stopped = true;
            timers.wheel.drain(|waker| wakers.push(waker));
        }
        *lock(&self.mail) = None;
        if let Some(mut own) = own {
            own.drain(|waker| wakers.push(waker));
        }
        drop(sources);
        wake_all(&mut wakers);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        registry::leave(self.id);
    }
}

pub(super) fn stopped() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "this reactor has stopped, or was made before a fork: make a new one, or use none (the shared one is always there)",
    )
}
