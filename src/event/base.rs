//! The loop: what it waits in, and the order in which callbacks are called.

use super::bell::{Bells, Key, Of};
use super::file::{Caught, File};
use super::one::{Inner, NOWHERE};
use super::{Error, Kinds};
use crate::executor::{LocalExecutor, Task};
use crate::reactor;
use crate::time::now;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::rc::Rc;
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
            files: RefCell::default(),
            by_fd: RefCell::default(),
            signals: RefCell::default(),
            timers: RefCell::default(),
            queues: RefCell::default(),
            bells: Bells::new(),
            room: Cell::default(),
            is_running: Cell::new(false),
            is_calling: Cell::new(false),
            now: Cell::new(None),
            hurries: Cell::new(false),
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
        self.0.executor.enter(|| {
            while !self.0.is_stopped() {
                self.0.iterate(None)?;
            }
            Ok(())
        })
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
        self.0.executor.enter(|| {
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
        })
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

    /// The time, which in an iteration is read once, when it is first wanted, and stays the same for all of its callbacks.
    /// (For logs and the like. Deadlines are counted from the moment of [`attach`](super::Event::attach).)
    pub fn now(&self) -> Instant {
        self.0.executor.enter(|| self.0.now())
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
            .field("timers", &self.0.timers.borrow().len())
            .field("executor", &self.0.executor)
            .finish_non_exhaustive()
    }
}

/// Events that were collected, by priority. Those that have been detached since are in vain.
type Queues = [VecDeque<Rc<Inner>>; 3];

#[inline]
fn activate(event: &Rc<Inner>, kinds: Kinds, queues: &mut Queues) {
    if event.activate(kinds) {
        if event.is_queued.replace(true) {
            take_out(event, queues);
        }
        queues[event.priority.get() as usize].push_back(event.clone());
    }
}

/// It has been detached, after a shutdown, while it was in a queue, and collected again.
#[cold]
fn take_out(event: &Rc<Inner>, queues: &mut Queues) {
    // The caller has another reference: no destructor of the user's runs here.
    queues.iter_mut().for_each(|queue| queue.retain(|other| !Rc::ptr_eq(other, event)));
}

/// No `RefCell` here is borrowed while something of a user's runs: a callback, a waker, a destructor.
///
/// To make an event allocates what its registration and its time need, in the reactor as well; to attach it, nothing.
pub(super) struct Core {
    /// These three by the index in the key of the bell. They own what is attached. A descriptor that has a place keeps it.
    files: RefCell<Vec<File>>,
    signals: RefCell<Slab<Caught>>,
    /// A place for each that can have a time. Those that are attached with one are in them.
    timers: RefCell<Slab<Option<Rc<Inner>>>>,
    /// The index of a descriptor's place, plus one; 0 for none.
    by_fd: RefCell<Vec<u32>>,
    queues: RefCell<Queues>,
    bells: Bells,
    /// Room for those that were rung.
    room: Cell<Vec<Key>>,
    is_running: Cell<bool>,
    /// It has collected, and calls.
    is_calling: Cell<bool>,
    /// The time of this iteration, if it was wanted.
    now: Cell<Option<Instant>>,
    /// The next iteration does not wait.
    hurries: Cell<bool>,
    handle: BaseHandle,
    /// Last: what is registered goes before.
    pub executor: LocalExecutor,
}

/// As long as it lives, the base runs.
struct Running<'a>(&'a Core);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.is_running.set(false);
        self.0.is_calling.set(false);
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
        self.bells.is_silent() && self.queues.borrow().iter().all(VecDeque::is_empty)
    }

    /// See [`Base::now`]. To be called in the executor.
    fn now(&self) -> Instant {
        let cached = self.now.get().filter(|_| self.is_calling.get());
        cached.unwrap_or_else(|| {
            let now = now();
            self.now.set(Some(now));
            now
        })
    }

    /// Waits, collects, calls. Returns how many were called. To be called in the executor.
    fn iterate(&self, timeout: Option<Duration>) -> io::Result<usize> {
        self.is_calling.set(false);
        let hurries = self.hurries.take();
        let timeout = if self.is_idle() && !hurries { timeout } else { Some(Duration::ZERO) };
        self.executor.turn_with(timeout, |waker| self.bells.note(waker))?;
        self.now.set(None);
        self.is_calling.set(true);
        self.collect()?;
        Ok(self.call())
    }

    // ------------------------------------------------------------------------------------------- collect

    fn collect(&self) -> io::Result<()> {
        let mut rung = self.bells.take(self.room.take());
        let mut queues = self.queues.borrow_mut();
        let mut result = Ok(());
        let mut has_timers = false;
        for key in &rung {
            // An error does not keep the others from being collected.
            match key.of() {
                Of::File => result = result.and(self.collect_file(*key, &mut queues)),
                Of::Signal => result = result.and(self.collect_signal(*key, &mut queues)),
                Of::Timer => has_timers = true,
            }
        }
        if has_timers {
            let timers = rung.iter().filter(|key| key.of() == Of::Timer);
            timers.for_each(|key| self.collect_timer(*key, &mut queues));
        }
        rung.clear();
        self.room.set(rung);
        result
    }

    #[inline]
    fn collect_file(&self, key: Key, queues: &mut Queues) -> io::Result<()> {
        if let Some(file) = self.files.borrow_mut().get_mut(key.index()) {
            let found = file.collect(&self.bells.waker(key))?;
            for event in file.events() {
                activate(event, found & event.kinds.get(), queues);
            }
        }
        Ok(())
    }

    #[cold]
    fn collect_signal(&self, key: Key, queues: &mut Queues) -> io::Result<()> {
        if let Some(caught) = self.signals.borrow_mut().get_mut(key.index()) {
            let found = caught.collect()?;
            for event in &caught.events {
                activate(event, found, queues);
            }
        }
        Ok(())
    }

    fn collect_timer(&self, key: Key, queues: &mut Queues) {
        if let Some(Some(event)) = self.timers.borrow().get(key.index()) {
            if event.is_due(self, self.now()) {
                activate(event, Kinds::TIMEOUT, queues);
            }
        }
    }

    // ---------------------------------------------------------------------------------------------- call

    fn call(&self) -> usize {
        let mut called = 0;
        while !self.handle.stop.load(Ordering::Acquire) {
            // Nothing is added meanwhile.
            let next = self.queues.borrow_mut().iter_mut().find_map(VecDeque::pop_front);
            let Some(event) = next else { break };
            called += usize::from(event.fire(self));
        }
        called
    }

    // -------------------------------------------------------------------------------------------- attach

    /// The part that concerns a descriptor or a signal.
    #[inline]
    pub fn attach(&self, event: &Rc<Inner>) -> Result<(), Error> {
        let kinds = event.kinds.get();
        if kinds.intersects(Kinds::FILE) {
            self.attach_to_file(event)
        } else if kinds.contains(Kinds::SIGNAL) {
            self.attach_to_signal(event)
        } else {
            Ok(())
        }
    }

    fn attach_to_file(&self, event: &Rc<Inner>) -> Result<(), Error> {
        let index = self.find_file(event)?;
        let file = &mut self.files.borrow_mut()[index];
        if file.has_old_trigger(event) {
            *file = self.executor.enter(|| File::new(event))?;
        }
        file.add(event, &self.bells.waker(Key::file(index)))
    }

    /// The index of the place of its descriptor, which is made if there is none.
    #[inline(always)]
    pub fn find_file(&self, event: &Inner) -> io::Result<usize> {
        if event.place.get() == NOWHERE {
            event.place.set(self.make_file(event)?);
        }
        Ok(event.place.get() as usize)
    }

    #[inline(never)]
    fn make_file(&self, event: &Inner) -> io::Result<u32> {
        let mut by_fd = self.by_fd.borrow_mut();
        // The reactor refuses negative ones: nothing is found for them here.
        let fd = event.fd.get() as usize;
        if let Some(index) = by_fd.get(fd).and_then(|next| next.checked_sub(1)) {
            return Ok(index);
        }
        let file = self.executor.enter(|| File::new(event))?;
        let mut files = self.files.borrow_mut();
        let index = files.len() as u32;
        files.push(file);
        if by_fd.len() <= fd {
            by_fd.resize((fd + 1).next_power_of_two(), 0);
        }
        by_fd[fd] = index + 1;
        Ok(index)
    }

    fn attach_to_signal(&self, event: &Rc<Inner>) -> Result<(), Error> {
        let mut signals = self.signals.borrow_mut();
        let same =
            |(_, caught): &(usize, &mut Caught)| caught.events.iter().any(|other| other.fd == event.fd);
        if let Some((index, caught)) = signals.iter_mut().find(same) {
            event.place.set(index as u32);
            caught.events.push(event.clone());
            return Ok(());
        }
        let place = signals.vacant_entry();
        event.place.set(place.key() as u32);
        let waker = self.bells.waker(Key::signal(place.key()));
        place.insert(self.executor.enter(|| Caught::new(waker, event))?);
        Ok(())
    }

    /// Undoes [`attach`](Core::attach). Once it has returned, the descriptor is not registered for this event.
    #[inline(always)]
    pub fn detach(&self, event: &Rc<Inner>) {
        let (kinds, index) = (event.kinds.get(), event.place.get() as usize);
        if kinds.intersects(Kinds::FILE) {
            self.files.borrow_mut()[index].remove(event, || self.bells.waker(Key::file(index)));
        } else if kinds.contains(Kinds::SIGNAL) {
            self.detach_from_signal(event, index);
        }
    }

    #[cold]
    fn detach_from_signal(&self, event: &Rc<Inner>, index: usize) {
        let mut signals = self.signals.borrow_mut();
        if !signals[index].remove(event) {
            signals.remove(index);
        }
    }

    /// A place for an event that can have a time.
    pub fn add_timed(&self) -> Key {
        Key::timer(self.timers.borrow_mut().insert(None))
    }

    /// The place of an event that has gone.
    pub fn remove_timed(&self, key: Key) {
        self.timers.borrow_mut().remove(key.index());
    }

    /// The event has a time from now on. The base keeps it as long as that is so.
    pub fn keep_timed(&self, key: Key, event: &Rc<Inner>) {
        self.timers.borrow_mut()[key.index()] = Some(event.clone());
    }

    /// The caller has another reference to the event: its destructor does not run here.
    pub fn let_go_of_timed(&self, key: Key) {
        self.timers.borrow_mut()[key.index()] = None;
    }

    pub fn waker(&self, key: Key) -> Waker {
        self.bells.waker(key)
    }

    /// A time-out is for the next iteration, which is not put off so that others share it.
    pub fn hurry(&self) {
        self.hurries.set(true);
    }
}
