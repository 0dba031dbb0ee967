//! The loop: what it waits in, and the order in which callbacks are called.

use super::file::{Bell, Caught, File, Rung};
use super::one::Inner;
use super::{Error, Kinds};
use crate::executor::{LocalExecutor, Task};
use crate::reactor;
use crate::time::now;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

/// A loop that calls events, on one thread. All clones are the same base.
///
/// It is made of a [`LocalExecutor`], which runs [futures](Base::spawn) beside the events, and of what any user of the
/// reactor has: a [`Watch`](reactor::Watch) for each descriptor, a [`Timer`](crate::Timer) for each time-out,
/// [`Signals`](crate::io::Signals).
///
/// # Examples
///
/// See the [module](crate::event).
#[derive(Clone)]
pub struct Base(pub(super) Rc<Core>);

/// How long [`Base::run`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Run {
    /// Until events have been called: waits for the first, and returns after the iteration in which it came.
    Once,
    /// For one iteration, without waiting.
    NonBlocking,
}

/// Stops a [`Base`], from any thread.
#[derive(Clone, Debug)]
pub struct BaseHandle {
    stop: Arc<AtomicBool>,
    reactor: reactor::Handle,
}

impl BaseHandle {
    /// The loop returns as soon as the callback that runs has: see [`Base::shutdown`].
    pub fn shutdown(&self) {
        self.stop.store(true, Ordering::Release);
        self.reactor.notify();
    }
}

impl Base {
    /// A base with an executor of the usual choices.
    ///
    /// # Errors
    ///
    /// No descriptors left, or a wrong `WAKEWHEEL_BACKEND`.
    pub fn new() -> io::Result<Base> {
        LocalExecutor::new().map(Base::with_executor)
    }

    /// A base on this executor: for a choice of the [backend](crate::executor::Builder::backend), or a [mock
    /// clock](crate::executor::Builder::mock_clock).
    pub fn with_executor(executor: LocalExecutor) -> Base {
        let handle = BaseHandle { stop: Arc::default(), reactor: executor.reactor() };
        Base(Rc::new(Core {
            places: RefCell::default(),
            files: RefCell::default(),
            signals: RefCell::default(),
            queues: RefCell::default(),
            rung: Arc::default(),
            room: Cell::default(),
            is_running: Cell::new(false),
            now: Cell::new(None),
            handle,
            executor,
        }))
    }

    /// Runs until it is [shut down](Base::shutdown), also when no event is attached.
    ///
    /// # Errors
    ///
    /// If the base cannot wait any more, because somebody closed its descriptor, or because it was made before a fork.
    ///
    /// # Panics
    ///
    /// If it runs already, further up on this thread; if a callback does.
    pub fn dispatch(&self) -> io::Result<()> {
        let _running = self.0.start();
        while !self.0.is_stopped() {
            self.0.iterate(None)?;
        }
        Ok(())
    }

    /// Runs for a while. Returns how many callbacks were called. After a [`shutdown`](Base::shutdown) it returns at once.
    ///
    /// # Errors
    ///
    /// Those of [`dispatch`](Base::dispatch).
    ///
    /// # Panics
    ///
    /// As in [`dispatch`](Base::dispatch).
    pub fn run(&self, run: Run) -> io::Result<usize> {
        let _running = self.0.start();
        let timeout = match run {
            Run::Once => None,
            Run::NonBlocking => Some(Duration::ZERO),
        };
        let mut called = 0;
        while !self.0.is_stopped() {
            called += self.0.iterate(timeout)?;
            if called > 0 || run == Run::NonBlocking {
                // A request that came meanwhile has been fulfilled.
                self.0.is_stopped();
                break;
            }
        }
        Ok(called)
    }

    /// The loop returns, without an error, as soon as the callback that runs has. If it does not run, the next
    /// [`dispatch`](Base::dispatch) or [`run`](Base::run) returns at once.
    ///
    /// The events of the iteration that have not been called yet are called first if the base runs again.
    pub fn shutdown(&self) {
        self.0.handle.shutdown();
    }

    /// A handle for other threads.
    pub fn handle(&self) -> BaseHandle {
        self.0.handle.clone()
    }

    /// The time at which the current iteration has collected its events, if this is called in one; else the time. (For
    /// logs and the like. Deadlines are counted from the moment of [`attach`](super::Event::attach).)
    pub fn now(&self) -> Instant {
        self.0.now.get().unwrap_or_else(|| self.0.executor.enter(now))
    }

    /// Starts a future, which runs between the events.
    ///
    /// ```
    /// use std::time::Duration;
    /// use wakewheel::{event::Base, sleep};
    ///
    /// let base = Base::new()?;
    /// let handle = base.handle();
    /// base.spawn(async move {
    ///     sleep(Duration::from_millis(5)).await;
    ///     handle.shutdown();
    /// }).detach();
    /// base.dispatch()?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        self.0.executor.spawn(future)
    }

    /// The executor that it runs on.
    pub fn executor(&self) -> &LocalExecutor {
        &self.0.executor
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base")
            .field("descriptors", &self.0.files.borrow().len())
            .field("executor", &self.0.executor)
            .finish_non_exhaustive()
    }
}

/// Events that were collected, with their tickets.
type Queue = VecDeque<(Rc<Inner>, u64)>;

/// What a bell belongs to.
enum Place {
    /// Its owner is being made.
    Reserved,
    File(Rc<File>),
    Signal(Rc<Caught>),
    /// The second is there while the event is attached with a time: the base keeps it.
    Timer(Weak<Inner>, Option<Rc<Inner>>),
}

/// No `RefCell` here is borrowed while something of a user's runs: a callback, a waker, a destructor.
pub(super) struct Core {
    /// By the key of the bell. A bell that was rung for the last owner of a key makes the next one look in vain.
    places: RefCell<Slab<Place>>,
    files: RefCell<HashMap<RawFd, Rc<File>>>,
    signals: RefCell<HashMap<RawFd, Rc<Caught>>>,
    /// By priority.
    queues: RefCell<[Queue; 3]>,
    rung: Arc<Rung>,
    /// Room for those that were rung.
    room: Cell<Vec<Arc<Bell>>>,
    is_running: Cell<bool>,
    /// The time of this iteration.
    now: Cell<Option<Instant>>,
    handle: BaseHandle,
    /// Last: what is registered goes before.
    pub executor: LocalExecutor,
}

/// As long as it lives, the base runs.
struct Running<'a>(&'a Core);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.is_running.set(false);
        self.0.now.set(None);
    }
}

impl Core {
    fn start(&self) -> Running<'_> {
        assert!(!self.is_running.replace(true), "this base runs already: a callback cannot run it as well");
        Running(self)
    }

    /// A request to stop is fulfilled by this.
    fn is_stopped(&self) -> bool {
        self.handle.stop.load(Ordering::Acquire) && self.handle.stop.swap(false, Ordering::AcqRel)
    }

    fn is_idle(&self) -> bool {
        self.rung().is_empty() && self.queues.borrow().iter().all(VecDeque::is_empty)
    }

    fn rung(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Bell>>> {
        self.rung.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits, collects, calls. Returns how many were called.
    fn iterate(self: &Rc<Self>, timeout: Option<Duration>) -> io::Result<usize> {
        self.now.set(None);
        self.executor.turn(if self.is_idle() { timeout } else { Some(Duration::ZERO) })?;
        self.executor.enter(|| {
            self.collect()?;
            Ok(self.call())
        })
    }

    // ------------------------------------------------------------------------------------------- collect

    fn collect(&self) -> io::Result<()> {
        let now = now();
        self.now.set(Some(now));
        let mut rung = self.room.take();
        std::mem::swap(&mut rung, &mut *self.rung());
        let mut result = Ok(());
        for bell in rung.iter().filter(|bell| !bell.is_timer) {
            bell.reset();
            // An error does not keep the others from being collected.
            result = result.and(self.collect_shared(bell.key));
        }
        for bell in rung.iter().filter(|bell| bell.is_timer) {
            bell.reset();
            self.collect_timer(bell.key, now);
        }
        rung.clear();
        self.room.set(rung);
        result
    }

    fn collect_shared(&self, key: usize) -> io::Result<()> {
        let (file, caught) = match self.places.borrow().get(key) {
            Some(Place::File(file)) => (Some(file.clone()), None),
            Some(Place::Signal(caught)) => (None, Some(caught.clone())),
            _ => return Ok(()),
        };
        if let Some(file) = file {
            let found = file.collect()?;
            for event in file.events.borrow().iter() {
                self.activate(event, found & event.kinds.get());
            }
        }
        if let Some(caught) = caught {
            if caught.collect()? {
                for event in caught.events.borrow().iter() {
                    self.activate(event, Kinds::SIGNAL);
                }
            }
        }
        Ok(())
    }

    fn collect_timer(&self, key: usize, now: Instant) {
        let event = match self.places.borrow().get(key) {
            Some(Place::Timer(_, event)) => event.clone(),
            _ => None,
        };
        if let Some(event) = event.filter(|event| event.is_due(now)) {
            self.activate(&event, Kinds::TIMEOUT);
        }
    }

    fn activate(&self, event: &Rc<Inner>, kinds: Kinds) {
        if event.activate(kinds) {
            let queue = event.priority.get() as usize;
            self.queues.borrow_mut()[queue].push_back((event.clone(), event.ticket.get()));
        }
    }

    // ---------------------------------------------------------------------------------------------- call

    fn call(self: &Rc<Self>) -> usize {
        let mut called = 0;
        for level in 0..3 {
            loop {
                if self.handle.stop.load(Ordering::Acquire) {
                    return called;
                }
                let next = self.queues.borrow_mut()[level].pop_front();
                let Some((event, ticket)) = next else { break };
                called += usize::from(event.fire(self, ticket));
            }
        }
        called
    }

    // -------------------------------------------------------------------------------------------- attach

    /// The part that concerns a descriptor or a signal.
    pub fn attach(&self, event: &Rc<Inner>) -> Result<(), Error> {
        let (kinds, fd) = (event.kinds.get(), event.fd.get());
        if kinds.intersects(Kinds::FILE) {
            let file = self.files.borrow().get(&fd).cloned();
            if let Some(file) = file {
                return file.add(event);
            }
            let file = self.place(|key, waker| File::new(key, waker, event).map(Rc::new), Place::File)?;
            self.files.borrow_mut().insert(fd, file);
        } else if kinds.contains(Kinds::SIGNAL) {
            let caught = self.signals.borrow().get(&fd).cloned();
            if let Some(caught) = caught {
                caught.events.borrow_mut().push(event.clone());
                return Ok(());
            }
            let caught =
                self.place(|key, waker| Caught::new(key, waker, event).map(Rc::new), Place::Signal)?;
            self.signals.borrow_mut().insert(fd, caught);
        }
        Ok(())
    }

    /// Undoes [`attach`](Core::attach). Once it has returned, the descriptor is not registered for this event.
    pub fn detach(&self, event: &Rc<Inner>) {
        let (kinds, fd) = (event.kinds.get(), event.fd.get());
        if kinds.intersects(Kinds::FILE) {
            let file = self.files.borrow().get(&fd).cloned();
            if let Some(file) = file.filter(|file| !file.remove(event)) {
                self.files.borrow_mut().remove(&fd);
                self.forget(file.key);
            }
        } else if kinds.contains(Kinds::SIGNAL) {
            let caught = self.signals.borrow().get(&fd).cloned();
            if let Some(caught) = caught {
                let mut events = caught.events.borrow_mut();
                events.retain(|other| !Rc::ptr_eq(other, event));
                if events.is_empty() {
                    self.signals.borrow_mut().remove(&fd);
                    self.forget(caught.key);
                }
            }
        }
    }

    /// Makes what has a bell.
    fn place<T>(
        &self,
        make: impl FnOnce(usize, Waker) -> Result<Rc<T>, Error>,
        place: impl FnOnce(Rc<T>) -> Place,
    ) -> Result<Rc<T>, Error> {
        let key = self.places.borrow_mut().insert(Place::Reserved);
        match make(key, Bell::waker(key, false, &self.rung)) {
            Ok(made) => {
                self.places.borrow_mut()[key] = place(made.clone());
                Ok(made)
            }
            Err(e) => {
                self.forget(key);
                Err(e)
            }
        }
    }

    pub fn timer_bell(&self, event: &Rc<Inner>) -> (usize, Waker) {
        let key = self.places.borrow_mut().insert(Place::Timer(Rc::downgrade(event), None));
        (key, Bell::waker(key, true, &self.rung))
    }

    /// From now on, until it is told otherwise, the base keeps the event that has this bell.
    pub fn keep(&self, key: usize, keep: bool) {
        let old = match self.places.borrow_mut().get_mut(key) {
            Some(Place::Timer(event, kept)) => std::mem::replace(kept, event.upgrade().filter(|_| keep)),
            _ => None,
        };
        drop(old);
    }

    pub fn forget(&self, key: usize) {
        let place = self.places.borrow_mut().remove(key);
        drop(place);
    }
}
