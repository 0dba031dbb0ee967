//! One core: a run queue, a reactor, and an inbox for other threads.
//!
//! The loop runs tasks, a bounded number between two looks at the kernel; reads its letters; and turns the reactor,
//! which puts the tasks that it wakes straight into the queue. When there is nothing to run, that turn is the one that
//! waits. Everything that other threads want comes as a [`Letter`], and they have to end the wait only if there is one.

use super::inbox::Inbox;
use super::join::{JoinHandle, packet};
use super::settings::{Panics, Settings};
use super::stats::{Counters, Stats};
use super::task::{self, Queue, Task, TaskPtr, TaskRef, Tasks};
use super::waiters::{Waiters, Waiting};
use crate::reactor::local::Local;
use crate::reactor::{Answer, Driver, Shared, Turn, budget, contain, current};
use crate::sys::error::explained;
use crate::sys::fork::PerProcess;
use crate::sys::slack::Precise;
use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// The part of a core that belongs to its thread. It does not move.
pub(super) struct Core {
    id: u64,
    queue: Queue,
    /// All tasks that are not complete: so that none outlives the core.
    tasks: Tasks,
    local: Local,
    mailbox: Arc<Mailbox>,
    /// Room for the letters that are being read.
    letters: Cell<Vec<Letter>>,
    settings: Settings,
    /// Nothing is spawned any more.
    closed: Cell<bool>,
    /// A task has panicked, and the settings say that this stops the core.
    stopped: Cell<bool>,
    /// Somebody is in `block_on`.
    running: Cell<bool>,
    /// Its tasks have been asked to end.
    requested: Cell<bool>,
    /// It has been asked to end itself, and has read all that was in its inbox before.
    ending: Cell<bool>,
    /// Somebody waits for the last task to be complete.
    drains: Cell<bool>,
    /// The state of the generator that shuffles the queue.
    shuffle: Cell<u64>,
}

/// The part of a core that other threads use.
pub(super) struct Mailbox {
    pub id: u64,
    inbox: Inbox<Letter>,
    /// All cores that are asked to end with this one, by number. Not set if it is alone.
    pub group: OnceLock<Arc<[u64]>>,
    /// Set when the core is asked to end: by when its tasks should have (`None`: no limit).
    end: OnceLock<Option<Instant>>,
    /// Who waits for the last task to be complete.
    pub on_empty: Waiters,
    /// Who waits for the request to shut down.
    pub on_shutdown: Waiters,
    pub counters: Counters,
}

/// What another thread wants of a core.
pub(super) enum Letter {
    Wake(TaskRef),
    Cancel(TaskRef),
    Run(Box<dyn FnOnce(&Core) + Send>),
    /// The tasks are asked to end.
    RequestShutdown,
    /// So is the core, when they have.
    Shutdown,
}

static CORES: PerProcess<RwLock<HashMap<u64, Arc<Mailbox>>>> = PerProcess::new(RwLock::default);

thread_local! {
    /// The core that this thread runs, while it is in [`Core::enter`].
    static CURRENT: Cell<*const Core> = const { Cell::new(ptr::null()) };
}

/// The core that this thread runs.
#[inline]
pub(super) fn with_current<R>(f: impl FnOnce(Option<&Core>) -> R) -> R {
    let current = CURRENT.get();
    // SAFETY: the pointer is set by `Core::enter` only, which holds the reference that it came from until it has put the
    // old one back, also when it unwinds. A `Core` is not Sync, and the pointer never leaves the thread.
    f(unsafe { current.as_ref() })
}

/// Wakes a task of a core that is not this thread's.
pub(super) fn post(task: TaskRef) {
    let mailbox = find(task.core_id());
    if let Some(mailbox) = mailbox {
        mailbox.post(Letter::Wake(task));
    }
}

/// Cancels a task, at once if this is its core.
pub(super) fn cancel(task: TaskRef) {
    with_current(|core| match core {
        Some(core) if core.id() == task.core_id() => task.open(core).cancel(core),
        _ => {
            if let Some(mailbox) = find(task.core_id()) {
                mailbox.post(Letter::Cancel(task));
            }
        }
    });
}

fn find(id: u64) -> Option<Arc<Mailbox>> {
    CORES.get().read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&id).cloned()
}

impl Mailbox {
    /// `false`: the core has gone, and the letter with it.
    pub fn post(&self, letter: Letter) -> bool {
        self.inbox.post(letter).is_ok()
    }

    /// Starts, on the core, the task that `make` makes there.
    pub fn spawn<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let (sender, handle) = packet();
        self.post(Letter::Run(Box::new(move |core| sender.start(core, make))));
        handle
    }

    /// Asks the tasks of all cores of the group to end.
    pub fn request_shutdown(&self) {
        match self.group.get() {
            Some(ids) => ids.iter().filter_map(|id| find(*id)).for_each(|core| core.ask_tasks_to_end()),
            None => self.ask_tasks_to_end(),
        }
    }

    fn ask_tasks_to_end(&self) {
        self.post(Letter::RequestShutdown);
    }

    /// Asks the core to end, and its tasks to do so within `drain`. Only the first request counts.
    pub fn ask_to_end(&self, drain: Duration) {
        let _ = self.end.set(Instant::now().checked_add(drain));
        self.post(Letter::Shutdown);
    }

    /// By when the tasks should have ended.
    pub fn deadline(&self) -> Option<Instant> {
        self.end.get().copied().flatten()
    }

    pub fn stats(&self) -> Stats {
        self.counters.snapshot(self.inbox.reactor.sources_alive())
    }
}

impl Core {
    pub fn new(settings: Settings) -> io::Result<Box<Core>> {
        let local = settings.reactor.clone().build_local()?;
        let mailbox = Arc::new(Mailbox {
            id: local.shared.id,
            inbox: Inbox::new(local.shared.clone()),
            group: OnceLock::new(),
            end: OnceLock::new(),
            on_empty: Waiters::default(),
            on_shutdown: Waiters::default(),
            counters: Counters::default(),
        });
        let cores = CORES.get();
        cores.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(mailbox.id, mailbox.clone());
        // Any seed will do but zero, where the generator would stand still.
        let shuffle = Cell::new(settings.shuffle.unwrap_or_default().wrapping_mul(SPREAD).max(1));
        Ok(Box::new(Core {
            id: mailbox.id,
            queue: Queue::default(),
            tasks: Tasks::default(),
            local,
            mailbox,
            letters: Cell::default(),
            settings,
            closed: Cell::new(false),
            stopped: Cell::new(false),
            running: Cell::new(false),
            requested: Cell::new(false),
            ending: Cell::new(false),
            drains: Cell::new(false),
            shuffle,
        }))
    }

    /// The id of its reactor, which is never used twice in a process.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    fn counters(&self) -> &Counters {
        &self.mailbox.counters
    }

    /// Runs `f` with this as the thread's core.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Restore(*const Core);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(self));
        current::enter_own(&self.local, f)
    }

    // ------------------------------------------------------------------------------------------- tasks

    /// Starts a task. On a core that has closed, it is cancelled before it runs.
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        // SAFETY: `Drop` completes every task that is in the list, and the future borrows nothing.
        let (ptr, task) = unsafe { task::spawn(self, future) };
        self.tasks.insert(ptr);
        self.counters().tasks_alive.set(self.tasks.len() as u64);
        if self.closed.get() {
            ptr.cancel(self);
        } else {
            self.schedule(ptr);
        }
        task
    }

    /// Into the run queue, unless it is there (`false`) or complete.
    #[inline]
    pub fn schedule(&self, task: TaskPtr) -> bool {
        self.queue.push_back(task)
    }

    /// Heads or tails, as the seed has it. Xorshift (Marsaglia 2003): any generator will do here.
    fn flip(&self) -> bool {
        let mut x = self.shuffle.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.shuffle.set(x);
        x & 1 << 32 != 0
    }

    /// The task is complete: out of the list.
    pub fn forget(&self, task: TaskPtr) {
        self.tasks.remove(task);
        self.counters().tasks_alive.set(self.tasks.len() as u64);
        if self.tasks.len() == 0 && self.drains.take() {
            self.mailbox.on_empty.wake();
        }
    }

    pub fn note_panic(&self) {
        match self.settings.panics {
            Panics::Isolate => {}
            Panics::StopCore => self.stopped.set(true),
            Panics::Abort => std::process::abort(),
        }
    }

    fn run_tasks(&self) {
        let mut left = self.settings.polls_per_turn;
        let mut polled = None;
        let is_usual = self.settings.slow_poll.is_none() && self.settings.shuffle.is_none();
        while let Err(payload) = catch_unwind(AssertUnwindSafe(|| {
            if is_usual {
                self.run_each(&mut left, &mut polled, |task| task.run(self));
            } else {
                self.run_each(&mut left, &mut polled, |task| self.run_watched(task));
            }
        })) {
            // Nothing but the poll of this task unwinds there.
            left -= 1;
            let task: TaskPtr = polled.take().unwrap_or_else(|| std::process::abort());
            task.panicked(self, payload);
            self.note_panic();
        }
        let counters = self.counters();
        counters.polls.add((self.settings.polls_per_turn - left) as u64);
        counters.wakes_local.set(self.queue.pushed() - counters.wakes_remote.get());
    }

    /// `left`: so many may be polled. `polled`: this one is being polled.
    #[inline(always)]
    fn run_each(&self, left: &mut usize, polled: &mut Option<TaskPtr>, run: impl Fn(TaskPtr) -> bool) {
        while *left > 0 {
            *polled = self.queue.pop_front();
            let Some(task) = *polled else { break };
            if run(task) {
                *left -= 1;
            }
            *polled = None;
        }
    }

    #[cold]
    fn run_watched(&self, task: TaskPtr) -> bool {
        if self.settings.shuffle.is_some() {
            // Whose turn comes next.
            while self.flip() {
                self.queue.rotate();
            }
        }
        let Some(slow) = &self.settings.slow_poll else { return task.run(self) };
        let started = Instant::now();
        let was_polled = task.run(self);
        let took = started.elapsed();
        let longest = &self.counters().longest_poll_ns;
        longest.set(longest.get().max(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)));
        if took >= slow.threshold {
            contain(|| (slow.hook)(took));
        }
        was_polled
    }

    // -------------------------------------------------------------------------------------------- loop

    /// Runs everything until `future` is ready.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        // To stop quietly would leave every task hanging.
        self.try_block_on(future).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.local.shared
    }

    /// One turn of the reactor, and the tasks that are ready. `note` is asked about each waker: see
    /// [`LocalExecutor::turn_with`](super::LocalExecutor::turn_with).
    #[inline]
    pub fn step(&self, timeout: Option<Duration>, mut note: impl FnMut(&Waker) -> bool) -> io::Result<Turn> {
        let _running = self.start();
        self.enter(|| {
            let has_news = self.local.shared.park.is_notified();
            if has_news {
                self.local.shared.park.wake();
                self.read_letters();
            }
            let is_busy = has_news || !self.queue.is_empty();
            let timeout = if is_busy { Some(Duration::ZERO) } else { timeout };
            let turn = self.turn_by(timeout, &mut Noting { core: self, note: &mut note })?;
            if turn.notified {
                self.read_letters();
            }
            if !self.queue.is_empty() {
                self.run_tasks();
            }
            self.check_stopped();
            Ok(turn)
        })
    }

    fn start(&self) -> Running<'_> {
        assert!(!self.running.replace(true), "this executor runs already: await the future instead");
        Running(&self.running)
    }

    fn check_stopped(&self) {
        if self.stopped.get() {
            panic!("a task has panicked, and this executor is set to stop then (Panics::StopCore)");
        }
    }

    /// [`block_on`](Core::block_on), and an error if the reactor cannot wait any more. Then the core is of no use but to be
    /// dropped.
    pub fn try_block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let _running = self.start();
        let _precise = Precise::new();
        let root = Arc::new(Root {
            woken: AtomicBool::new(true),
            core_id: self.id(),
            reactor: self.local.shared.clone(),
        });
        let waker = Waker::from(root.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        self.enter(|| {
            loop {
                if root.woken.load(Ordering::Relaxed) {
                    root.woken.swap(false, Ordering::AcqRel);
                    budget::grant();
                    if let Poll::Ready(output) = future.as_mut().poll(cx) {
                        return Ok(output);
                    }
                }
                self.run_until_woken(&root.woken)?;
            }
        })
    }

    /// Runs everything but the future that has this flag, until that may have to be polled.
    fn run_until_woken(&self, woken: &AtomicBool) -> io::Result<()> {
        loop {
            self.run_tasks();
            if self.local.shared.park.is_notified() {
                self.local.shared.park.wake();
                self.read_letters();
            }
            self.check_stopped();
            let idle = || self.queue.is_empty() && !woken.load(Ordering::Relaxed);
            let mut timeout = Some(Duration::ZERO);
            if idle() {
                match self.settings.busy_poll {
                    Some(limit) if self.spin(limit, idle)? => return Ok(()),
                    _ => {}
                }
                self.counters().sleeps.add(1);
                timeout = None;
            }
            if self.turn(timeout)?.notified {
                self.read_letters();
            }
            if woken.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }

    /// One turn of the reactor. If it was notified, there may be letters.
    #[inline(always)]
    fn turn(&self, timeout: Option<Duration>) -> io::Result<Turn> {
        self.turn_by(timeout, &mut &*self)
    }

    #[inline(always)]
    fn turn_by(&self, timeout: Option<Duration>, driver: &mut impl Driver) -> io::Result<Turn> {
        let counters = self.counters();
        counters.turns.add(1);
        match self.local.turn(timeout, driver) {
            Ok(turn) => {
                counters.events.add(turn.events as u64);
                counters.timers.add(turn.timers as u64);
                Ok(turn)
            }
            // To go on would be to spin.
            Err(e) => Err(cannot_wait(e)),
        }
    }

    /// Turns without waiting, for as long as there is nothing to do and `limit` has not passed. Is there something now?
    #[cold]
    fn spin(&self, limit: Duration, idle: impl Fn() -> bool) -> io::Result<bool> {
        let busy = || !idle() || self.local.shared.park.is_notified();
        let started = Instant::now();
        while started.elapsed() < limit {
            self.turn(Some(Duration::ZERO))?;
            if busy() {
                break;
            }
            std::hint::spin_loop();
        }
        Ok(busy())
    }

    #[inline(never)]
    fn read_letters(&self) {
        // Two lists take turns: once they have grown, a letter allocates nothing.
        let mut letters = self.letters.take();
        self.mailbox.inbox.swap(&mut letters);
        for letter in letters.drain(..) {
            self.read(letter);
        }
        self.letters.set(letters);
    }

    fn read(&self, letter: Letter) {
        match letter {
            Letter::Wake(task) => {
                task.posted().arrive();
                if self.queue.push_back(task.open(self)) {
                    self.counters().wakes_remote.add(1);
                }
            }
            Letter::Cancel(task) => task.open(self).cancel(self),
            // What a closure captured may panic when it is dropped, because it was cancelled on its way here.
            Letter::Run(run) => {
                contain(|| run(self));
            }
            Letter::RequestShutdown => {
                self.requested.set(true);
                self.mailbox.on_shutdown.wake();
            }
            Letter::Shutdown => {
                self.ending.set(true);
                self.read(Letter::RequestShutdown);
            }
        }
    }

    /// Until the tasks are asked to end.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>, waiting: &mut Waiting) -> Poll<()> {
        self.poll_asked(&self.requested, cx, waiting)
    }

    /// Until the core is asked to end. It hears of that by a letter, so tasks that were sent before have come.
    pub fn poll_end(&self, cx: &mut Context<'_>, waiting: &mut Waiting) -> Poll<()> {
        self.poll_asked(&self.ending, cx, waiting)
    }

    fn poll_asked(&self, asked: &Cell<bool>, cx: &mut Context<'_>, waiting: &mut Waiting) -> Poll<()> {
        if asked.get() {
            return Poll::Ready(());
        }
        waiting.wait(&self.mailbox, cx.waker());
        Poll::Pending
    }

    /// Until no task is left.
    pub fn poll_empty(&self, cx: &mut Context<'_>, waiting: &mut Waiting) -> Poll<()> {
        if self.tasks.len() == 0 {
            return Poll::Ready(());
        }
        self.drains.set(true);
        waiting.wait(&self.mailbox, cx.waker());
        Poll::Pending
    }

    /// Schedules every task.
    pub fn wake_all(&self) {
        self.tasks.each(|task| {
            self.schedule(task);
        });
    }

    pub fn tasks_alive(&self) -> usize {
        self.tasks.len()
    }
}

/// Of its own reactor. Of a task that is complete, the waker is not worth keeping.
impl Driver for &Core {
    #[inline]
    fn claim(&mut self, waker: &Waker) -> Answer {
        match TaskPtr::of(waker, self) {
            Some(task) if self.schedule(task) || !task.is_complete() => Answer::Known,
            _ => Answer::No,
        }
    }

    #[inline]
    unsafe fn claim_again(&mut self, waker: &Waker) -> bool {
        // SAFETY: `TaskPtr::of` has found it to be one of this core, which is the only one to turn its reactor.
        let task = unsafe { TaskPtr::of_own(waker) };
        self.schedule(task) || !task.is_complete()
    }
}

/// A core, and somebody who is asked first.
struct Noting<'a, F> {
    core: &'a Core,
    note: F,
}

impl<F: FnMut(&Waker) -> bool> Driver for Noting<'_, F> {
    /// Nothing is known of those that are noted.
    const CLAIMS_UNKNOWN: bool = true;

    #[inline(always)]
    fn claim(&mut self, waker: &Waker) -> Answer {
        if (self.note)(waker) { Answer::Yes } else { self.core.claim(waker) }
    }
}

/// Every task is dropped here, on its own thread, and nothing can be left of one.
impl Drop for Core {
    fn drop(&mut self) {
        self.closed.set(true);
        let this = &*self;
        this.enter(|| {
            // Dropping a future may spawn another (which is cancelled at once), cancel others, and wake anything.
            while let Some(task) = this.tasks.first() {
                task.end(this);
            }
            for letter in this.mailbox.inbox.close() {
                // Closures, with whatever they captured.
                contain(|| drop(letter));
            }
            // What is queued now is complete: running it only gives it up.
            while let Some(task) = this.queue.pop_front() {
                task.run(this);
            }
        });
        let cores = CORES.get();
        cores.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&self.mailbox.id);
    }
}

#[cold]
fn cannot_wait(e: io::Error) -> io::Error {
    let text = format!("the reactor of this core cannot wait: {e}");
    explained(e, text)
}

/// Odd, so that no two seeds become one; and with bits everywhere, so that seeds in a row look nothing alike.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// As long as it lives, the core runs.
struct Running<'a>(&'a Cell<bool>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The waker of the future that a core was started for.
struct Root {
    woken: AtomicBool,
    core_id: u64,
    reactor: Arc<Shared>,
}

impl Wake for Root {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.swap(true, Ordering::AcqRel) {
            return;
        }
        let here = with_current(|core| core.is_some_and(|core| core.id() == self.core_id));
        if !here {
            self.reactor.notify();
        }
    }
}
