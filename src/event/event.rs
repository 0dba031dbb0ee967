//! One event: what it waits for, and its callback.

use super::base::Core;
use super::bell::Key;
use super::{Base, Error, Kinds, Priority};
use crate::time::{Timer, now};
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// A callback and what it waits for. All clones are the same event.
///
/// It is made detached. While it is [attached](Event::attach) the base keeps it, so the handle need not be kept; to drop the
/// handles does not detach it. A callback that holds a [`Base`] is a cycle as long as its event is attached: detach it, or
/// use [`Event::base`] instead.
///
/// # Examples
///
/// An idle time-out: the event is called when there is something to read, and when there has been nothing for a minute.
///
/// ```no_run
/// use std::{io::Read, net::TcpStream, os::fd::AsRawFd, time::Duration};
/// use wakewheel::event::{Base, Event, Kinds};
///
/// let base = Base::new()?;
/// let stream = TcpStream::connect("127.0.0.1:5000")?;
/// stream.set_nonblocking(true)?;
/// let kinds = Kinds::READ | Kinds::TIMEOUT | Kinds::PERSIST;
/// let event = Event::new(&base, stream.as_raw_fd(), kinds, move |event, kinds| {
///     let mut buf = [0; 1024];
///     if kinds.contains(Kinds::READ) && matches!((&stream).read(&mut buf), Ok(1..)) {
///         return;
///     }
///     // The end, an error, or silence.
///     let _ = event.detach();
/// });
/// event.attach(Some(Duration::from_secs(60)))?;
/// base.dispatch()?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct Event(pub(super) Rc<Inner>);

type Callback = Box<dyn FnMut(&Event, Kinds)>;

/// In this order, so that what to attach and to detach it needs is together: with many events, it is fetched from memory.
#[repr(C)]
pub(super) struct Inner {
    base: Weak<Core>,
    /// If it can have a time-out, or could before it was [assigned](Event::assign) anew.
    timing: Cell<Option<Box<Timing>>>,
    /// The index of the place in the base: of its descriptor, or [`NOWHERE`]; of its signal, while it is attached.
    pub place: Cell<u32>,
    pub kinds: Cell<Kinds>,
    /// What it was collected for, and is to be called with.
    active: Cell<Kinds>,
    is_attached: Cell<bool>,
    /// It has been collected, and its turn has not come yet. If it is not active then, that is in vain.
    pub is_queued: Cell<bool>,
    pub priority: Cell<Priority>,
    pub fd: Cell<RawFd>,
    /// `None` while it runs.
    callback: Cell<Option<Callback>>,
}

// With the two counts of an Rc, 64 bytes.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Inner>() <= 48);

/// The place of a descriptor that has none yet.
pub(super) const NOWHERE: u32 = u32::MAX;

/// What concerns the time of an event.
struct Timing {
    /// Of its place in the base.
    key: Key,
    /// While it is attached with a time that counts.
    period: Option<Duration>,
    deadline: Option<Instant>,
    /// Keeps its place in the reactor as well, unless it fires.
    timer: Timer,
}

impl Event {
    /// An event for a descriptor, detached. `fd` is its number, by
    /// [`as_raw_fd`](std::os::fd::AsRawFd); for [`Kinds::SIGNAL`], the number of the signal. Which kinds can be together, [`attach`](Event::attach) says.
    ///
    /// The callback is given the event, which knows its [descriptor](Event::fd), and what it was called for.
    ///
    /// What its descriptor and its time need is allocated here: to [`attach`](Event::attach) it, and to detach it, allocates
    /// nothing.
    pub fn new(base: &Base, fd: RawFd, kinds: Kinds, callback: impl FnMut(&Event, Kinds) + 'static) -> Event {
        let event = Event(Rc::new(Inner {
            base: Rc::downgrade(&base.0),
            timing: Cell::new(None),
            place: Cell::new(NOWHERE),
            kinds: Cell::new(kinds),
            active: Cell::default(),
            is_attached: Cell::new(false),
            is_queued: Cell::new(false),
            priority: Cell::default(),
            fd: Cell::new(fd),
            callback: Cell::new(Some(Box::new(callback))),
        }));
        event.0.prepare(&base.0);
        event
    }

    /// An event that is called once, when the time that it is [attached](Event::attach) with has passed.
    ///
    /// ```
    /// use std::time::Duration;
    /// use wakewheel::event::{Base, Event};
    ///
    /// let base = Base::new()?;
    /// let timer = Event::timer(&base, |timer| timer.base().unwrap().shutdown());
    /// timer.attach(Some(Duration::from_millis(5)))?;
    /// base.dispatch()?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn timer(base: &Base, mut callback: impl FnMut(&Event) + 'static) -> Event {
        Event::new(base, -1, Kinds::TIMEOUT, move |event, _| callback(event))
    }

    /// An event that is called again and again, each time when the time that it is [attached](Event::attach) with has
    /// passed. The time is counted from the last deadline, so that the period does not depend on how long callbacks take;
    /// ticks that were missed are left out.
    pub fn ticker(base: &Base, mut callback: impl FnMut(&Event) + 'static) -> Event {
        Event::new(base, -1, Kinds::TIMEOUT | Kinds::PERSIST, move |event, _| callback(event))
    }

    /// An event that is called each time the process has got a signal. (If it comes several times in one iteration, once.)
    /// While such events are attached, the signal does not do what it did before. Several events, on several bases as
    /// well, may wait for the same one.
    pub fn signal(base: &Base, signal: i32, mut callback: impl FnMut(&Event) + 'static) -> Event {
        Event::new(base, signal, Kinds::SIGNAL | Kinds::PERSIST, move |event, _| callback(event))
    }

    /// From now on, the base calls it. `timeout` counts only with [`Kinds::TIMEOUT`]; zero is the next iteration.
    ///
    /// Without [`Kinds::PERSIST`], the event is detached before its callback runs, which may attach it again. With it, it
    /// stays, and the time-out starts anew each time it is called, whatever for.
    ///
    /// # Errors
    ///
    /// [`Exists`](Error::Exists): it is attached already, or its descriptor is taken by another event for one of its kinds.
    /// [`Invalid`](Error::Invalid): it has no kind to wait for, or kinds that do not go together: signals and descriptors,
    /// edge and level on one descriptor, a time-out alone and no time; or its base has gone. [`Io`](Error::Io): the kernel
    /// refuses the descriptor. In each case the event stays as it was.
    pub fn attach(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let inner = &self.0;
        if inner.is_attached.get() {
            return Err(Error::Exists);
        }
        let core = inner.base.upgrade().ok_or(Error::Invalid("its base has gone"))?;
        let kinds = inner.kinds.get();
        let timeout = timeout.filter(|_| kinds.contains(Kinds::TIMEOUT));
        let reasons = kinds & Kinds::REASONS;
        if reasons.is_empty() {
            return Err(Error::Invalid(
                "it has no kind: reading, writing, a peer that closes, a time or a signal",
            ));
        }
        if reasons == Kinds::TIMEOUT && timeout.is_none() {
            return Err(Error::Invalid("it waits for a time only, and has none"));
        }
        if kinds.contains(Kinds::SIGNAL) && kinds.intersects(Kinds::FILE) {
            return Err(Error::Invalid(
                "it cannot wait for a signal and a descriptor, which are the same number",
            ));
        }
        core.attach(inner)?;
        inner.is_attached.set(true);
        if let Some(after) = timeout {
            inner.with_timing(|timing| {
                timing.period = Some(after);
                core.keep_timed(timing.key, inner);
                core.executor.enter(|| timing.start(&core, now().checked_add(after)));
            });
        }
        Ok(())
    }

    /// Once this has returned, the base does not call it any more, also if it was collected already in this iteration;
    /// and it has nothing to do with the descriptor any more, which may be closed now.
    ///
    /// # Errors
    ///
    /// [`NotExists`](Error::NotExists): it is not attached.
    pub fn detach(&self) -> Result<(), Error> {
        if !self.0.is_attached.get() {
            return Err(Error::NotExists);
        }
        match self.0.base.upgrade() {
            Some(core) => self.0.detach(&core),
            None => self.0.is_attached.set(false),
        }
        Ok(())
    }

    /// Makes it another event, with a new descriptor, kinds and callback. If it is attached, it is detached first.
    pub fn assign(&self, fd: RawFd, kinds: Kinds, callback: impl FnMut(&Event, Kinds) + 'static) {
        let _ = self.detach();
        self.0.fd.set(fd);
        self.0.kinds.set(kinds);
        self.0.place.set(NOWHERE);
        if let Some(core) = self.0.base.upgrade() {
            self.0.prepare(&core);
        }
        let old = self.0.callback.replace(Some(Box::new(callback)));
        // It may own anything: nothing is borrowed here.
        drop(old);
    }

    /// Which callbacks come first; [`Priority::Middle`] if it is not set. For an event that was collected already, from the
    /// next iteration on.
    pub fn set_priority(&self, priority: Priority) {
        self.0.priority.set(priority);
    }

    /// See [`set_priority`](Event::set_priority).
    pub fn priority(&self) -> Priority {
        self.0.priority.get()
    }

    /// The number of its descriptor, or signal. -1 for a timer.
    pub fn fd(&self) -> RawFd {
        self.0.fd.get()
    }

    /// What it waits for, with options.
    pub fn kinds(&self) -> Kinds {
        self.0.kinds.get()
    }

    /// Is it attached?
    pub fn is_attached(&self) -> bool {
        self.0.is_attached.get()
    }

    /// When its time-out is due, if it has one.
    pub fn deadline(&self) -> Option<Instant> {
        let timing = self.0.timing.take();
        let deadline = timing.as_ref().and_then(|timing| timing.deadline);
        self.0.timing.set(timing);
        deadline
    }

    /// The base, unless that has gone.
    pub fn base(&self) -> Option<Base> {
        self.0.base.upgrade().map(Base)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("fd", &self.fd())
            .field("kinds", &self.kinds())
            .field("is_attached", &self.is_attached())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Allocates what it will need to be attached, as far as that can be done now. (If not, it is done then.)
    fn prepare(&self, core: &Core) {
        let kinds = self.kinds.get();
        if kinds.intersects(Kinds::FILE) {
            let _ = core.find_file(self);
        }
        if kinds.contains(Kinds::TIMEOUT) {
            let timing = self.timing.take().unwrap_or_else(|| Box::new(Timing::new(core)));
            self.timing.set(Some(timing));
        }
    }

    fn detach(self: &Rc<Self>, core: &Core) {
        self.is_attached.set(false);
        self.active.set(Kinds::NONE);
        core.detach(self);
        self.with_timing(|timing| timing.stop(core));
    }

    /// It is to be called in this iteration, for `kinds` as well. Is that new, so that it is to be queued?
    #[inline]
    pub fn activate(&self, kinds: Kinds) -> bool {
        if !self.is_attached.get() || kinds.is_empty() {
            return false;
        }
        let before = self.active.get();
        self.active.set(before | kinds);
        before.is_empty()
    }

    // --------------------------------------------------------------------------------------------- time

    /// Nothing of a user's runs in `f`. `None`: it has no time.
    #[inline]
    fn with_timing<R>(&self, f: impl FnOnce(&mut Timing) -> R) -> Option<R> {
        let mut timing = self.timing.take()?;
        let result = f(&mut timing);
        self.timing.set(Some(timing));
        Some(result)
    }

    /// Its bell has rung. Is it time? (If not, it waits on.)
    pub fn is_due(&self, core: &Core, now: Instant) -> bool {
        let is_due = self.with_timing(|timing| {
            let Some(deadline) = timing.deadline else { return false };
            if deadline <= now {
                timing.timer.clear();
                return true;
            }
            wait(&mut timing.timer, &core.waker(timing.key));
            false
        });
        is_due == Some(true)
    }

    // ---------------------------------------------------------------------------------------------- call

    /// Its turn in the queue has come: calls it for what it was collected for. `false`: it has been detached since.
    pub fn fire(self: Rc<Self>, core: &Core) -> bool {
        self.is_queued.set(false);
        let kinds = self.active.take();
        if kinds.is_empty() {
            return false;
        }
        if !self.kinds.get().contains(Kinds::PERSIST) {
            self.detach(core);
        } else {
            self.with_timing(|timing| timing.start_anew(core, kinds));
        }
        let mut call = Call { callback: self.callback.take(), event: Event(self) };
        if let Some(callback) = &mut call.callback {
            callback(&call.event, kinds);
        }
        true
    }
}

/// It has no time any more, nor a place for it.
impl Drop for Inner {
    fn drop(&mut self) {
        if let (Some(timing), Some(core)) = (self.timing.take(), self.base.upgrade()) {
            core.remove_timed(timing.key);
            core.executor.enter(|| drop(timing));
        }
    }
}

impl Timing {
    /// More than the clock has room for.
    const NEVER: Duration = Duration::from_secs(600 * 366 * 24 * 3600);

    fn new(core: &Core) -> Timing {
        let key = core.add_timed();
        let mut timing = Timing { key, period: None, deadline: None, timer: Timer::never() };
        core.executor.enter(|| {
            timing.take_place(core, now());
            timing.timer.clear();
        });
        timing
    }

    /// In the reactor, long after `moment`; its waker stays there until it fires.
    fn take_place(&mut self, core: &Core, moment: Instant) {
        self.timer.set_at(moment.checked_add(Timing::NEVER).unwrap_or(moment));
        wait(&mut self.timer, &core.waker(self.key));
    }

    /// `None`: never.
    fn start(&mut self, core: &Core, deadline: Option<Instant>) {
        self.deadline = deadline;
        let Some(deadline) = deadline else { return self.timer.clear() };
        if self.period == Some(Duration::ZERO) {
            core.hurry();
        }
        self.timer.set_at(deadline);
        if !self.timer.is_waited_for() {
            // It has fired. Also if it is time again already, those come first that are due before.
            self.take_place(core, deadline);
            self.timer.set_at(deadline);
        }
    }

    #[inline(never)]
    fn stop(&mut self, core: &Core) {
        if self.period.take().is_some() {
            core.let_go_of_timed(self.key);
            self.deadline = None;
            core.executor.enter(|| self.timer.clear());
        }
    }

    /// The event, which stays attached, is called for `kinds`.
    fn start_anew(&mut self, core: &Core, kinds: Kinds) {
        let Some(period) = self.period else { return };
        let now = now();
        // A ticker keeps its time, as long as it can.
        let from_last =
            self.deadline.filter(|_| kinds == Kinds::TIMEOUT).and_then(|last| last.checked_add(period));
        let next = from_last.filter(|next| *next > now).or(now.checked_add(period));
        self.start(core, next);
    }
}

/// Leaves the waker where the reactor finds it when it is time.
fn wait(timer: &mut Timer, waker: &Waker) {
    if Pin::new(timer).poll(&mut Context::from_waker(waker)).is_ready() {
        waker.wake_by_ref();
    }
}

/// The callback, while it runs: nothing is borrowed then.
struct Call {
    callback: Option<Callback>,
    event: Event,
}

/// Puts it back, also after a panic; unless it has assigned another one.
impl Drop for Call {
    fn drop(&mut self) {
        let place = &self.event.0.callback;
        match place.take() {
            None => place.set(self.callback.take()),
            newer => place.set(newer),
        }
    }
}
