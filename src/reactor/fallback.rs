//! The shared reactor: it serves every thread that has none of its own, whatever executor runs there.
//!
//! It is driven by whoever sits in its one **seat**. A thread in `block_on` takes the seat whenever its future is
//! pending, and so does its own waiting: no other thread is involved. If the seat is taken, it parks, and the one in
//! the seat wakes it. Only where nobody may come to sit, because the futures are run by an executor that knows
//! nothing of us, or because the thread in the seat has left it to poll its future and does not come back, a
//! **helper** thread is needed. It is started when the first such waiter appears, and then
//!
//! - sits in the seat for good as long as no thread is in `block_on`;
//! - otherwise watches: while the seat is busy waiting it sleeps without a time-out; when the seat has been left, it
//!   looks every few milliseconds whether anything goes on, and takes it over if not.

use super::clock::Clock;
use super::shared::{Scratch, Shared};
use super::{current, wake_all};
use crate::sys::Backend;
use crate::sys::fork::PerProcess;
use crate::sys::slack::Precise;
use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, TryLockError};
use std::task::Waker;
use std::thread;
use std::time::Duration;

static FALLBACK: PerProcess<OnceLock<Fallback>> = PerProcess::new(OnceLock::new);

pub(crate) struct Fallback {
    pub shared: Arc<Shared>,
    /// Who holds it drives.
    seat: Mutex<Scratch>,
    /// Is the one in the seat waiting in the kernel? If so, nothing has to be watched.
    waiting: AtomicBool,
    /// Turns begun: shows whether anything goes on.
    turns: AtomicUsize,
    /// Threads in `block_on`.
    blocked: AtomicUsize,
    /// Wakers of those among them that found the seat taken.
    parked: Mutex<Vec<Waker>>,
    has_helper: AtomicBool,
    /// The helper has the seat, or is about to take it.
    helper_drives: AtomicBool,
    /// A thread in `block_on` wants the seat that the helper has.
    wanted: AtomicBool,
    /// The helper sleeps until it is called, because the seat is busy waiting.
    helper_sleeps: AtomicBool,
    called: Mutex<bool>,
    call: Condvar,
}

pub(crate) fn get() -> io::Result<&'static Fallback> {
    let cell = FALLBACK.get();
    if let Some(fallback) = cell.get() {
        return Ok(fallback);
    }
    let made = Fallback {
        shared: Shared::new(Backend::from_env()?, Clock::Real, true)?,
        seat: Mutex::default(),
        waiting: AtomicBool::new(false),
        turns: AtomicUsize::new(0),
        blocked: AtomicUsize::new(0),
        parked: Mutex::default(),
        has_helper: AtomicBool::new(false),
        helper_drives: AtomicBool::new(false),
        wanted: AtomicBool::new(false),
        helper_sleeps: AtomicBool::new(false),
        called: Mutex::new(false),
        call: Condvar::new(),
    };
    Ok(cell.get_or_init(|| made))
}

pub(crate) fn shared() -> io::Result<Arc<Shared>> {
    get().map(|fallback| fallback.shared.clone())
}

thread_local! {
    /// The waker (its data) of the innermost `block_on` of this thread, if that drives the shared reactor.
    static COMES: Cell<*const ()> = const { Cell::new(ptr::null()) };
    /// The shared reactor that this thread turns at the moment.
    static TURNS: Cell<*const Fallback> = const { Cell::new(ptr::null()) };
}

/// `waker` has been left with the shared reactor: somebody has to turn it.
///
/// For its own waker, a thread in `block_on` comes to the seat by itself. Any other may be that of an executor which keeps
/// the thread for itself, even inside of the call.
pub(crate) fn ensure_driven(waker: &Waker) {
    if COMES.get() != waker.data() {
        if let Ok(fallback) = get() {
            fallback.ensure_helper();
        }
    }
}

/// A call of `block_on`. It makes no reactor unless it has to wait.
pub(crate) struct Call {
    blocking: Option<Blocking>,
    outer: *const (),
}

impl Call {
    /// `waker`: the call's own.
    pub fn new(waker: &Waker) -> Call {
        let comes = current::with_own(|own| if own.is_none() { waker.data() } else { ptr::null() });
        Call { blocking: None, outer: COMES.replace(comes) }
    }

    /// The shared reactor, which this thread will drive.
    ///
    /// # Panics
    ///
    /// If there is none yet and none can be made.
    pub fn wait(&mut self) -> &'static Fallback {
        // A new one after a fork.
        let blocking = self.blocking.take().filter(Blocking::is_of_this_process);
        self.blocking.insert(blocking.unwrap_or_else(Blocking::new)).0
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        COMES.set(self.outer);
    }
}

/// A thread waits in `block_on`, or will wait again, from making this until dropping it.
struct Blocking(&'static Fallback);

impl Blocking {
    /// # Panics
    ///
    /// If there is no shared reactor yet and none can be made.
    fn new() -> Blocking {
        match get() {
            Ok(fallback) => {
                fallback.blocked.fetch_add(1, Ordering::AcqRel);
                Blocking(fallback)
            }
            Err(e) => panic!("block_on needs a reactor, and the shared one cannot be made: {e}"),
        }
    }

    /// Not any more after a fork.
    fn is_of_this_process(&self) -> bool {
        self.0.shared.is_of_this_process()
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        if !self.is_of_this_process() {
            return;
        }
        self.0.blocked.fetch_sub(1, Ordering::AcqRel);
        self.0.pass_on();
        if self.0.has_helper.load(Ordering::Acquire) {
            self.0.call_helper();
        }
    }
}

impl Fallback {
    /// Takes the seat and waits until something has happened (at most for `timeout`). `None`: the seat is taken, and
    /// `waker` will be woken when it is free.
    ///
    /// `is_woken`: has the thread been woken since it said that it would be here? While it had no seat, that may have ended
    /// the turn of the one who had it: then this turn must not wait.
    pub fn try_turn(
        &'static self,
        waker: &Waker,
        timeout: Option<Duration>,
        is_woken: impl Fn() -> bool,
    ) -> Option<io::Result<()>> {
        let turn = |seat: &mut Scratch| {
            let timeout = if is_woken() { Some(Duration::ZERO) } else { timeout };
            self.turn(seat, timeout)
        };
        if ptr::eq(TURNS.get(), self) {
            // It is in the seat already, and calls a waker that is in block_on: nobody else could drive.
            return Some(turn(&mut Scratch::default()));
        }
        if let Some(mut seat) = self.try_seat() {
            return Some(turn(&mut seat));
        }
        // First on the list, then one more try: whoever leaves the seat after that sees the list.
        lock(&self.parked).push(waker.clone());
        if let Some(mut seat) = self.try_seat() {
            self.unpark(waker);
            return Some(turn(&mut seat));
        }
        if self.helper_drives.load(Ordering::Acquire) {
            self.wanted.store(true, Ordering::Release);
            self.shared.notify();
        } else {
            // Another thread's future decides when the seat is free: somebody has to watch that it does not take long.
            self.ensure_helper();
        }
        None
    }

    /// `waker`'s thread does not park any more.
    pub fn unpark(&self, waker: &Waker) {
        let mut removed = Vec::new();
        let mut parked = lock(&self.parked);
        while let Some(i) = parked.iter().position(|other| other.will_wake(waker)) {
            removed.push(parked.swap_remove(i));
        }
    }

    fn try_seat(&self) -> Option<MutexGuard<'_, Scratch>> {
        match self.seat.try_lock() {
            Ok(seat) => Some(seat),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn turn(&self, seat: &mut Scratch, timeout: Option<Duration>) -> io::Result<()> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        // Sequentially consistent against `helper_sleeps`: either the helper sees that nobody waits, or it is called.
        self.waiting.store(true, Ordering::SeqCst);
        let outer = TURNS.replace(self);
        let result = self.shared.turn(None, seat, timeout, &Cell::new(None));
        TURNS.set(outer);
        self.waiting.store(false, Ordering::SeqCst);
        if self.helper_sleeps.load(Ordering::SeqCst) {
            self.call_helper();
        }
        result.map(drop)
    }

    /// The seat is free: one of those who park may have it.
    fn pass_on(&self) {
        let next = lock(&self.parked).pop();
        wake_all(&mut next.into_iter().collect());
    }

    fn ensure_helper(&'static self) {
        if self.has_helper.load(Ordering::Relaxed) || self.has_helper.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(e) = thread::Builder::new().name("wakewheel".into()).spawn(|| self.help()) {
            self.has_helper.store(false, Ordering::Release);
            panic!("the shared reactor needs a thread of its own here, and none can be started: {e}");
        }
    }

    fn call_helper(&self) {
        *lock(&self.called) = true;
        self.call.notify_one();
    }

    /// The helper's life.
    fn help(&self) {
        let _precise = Precise::new();
        loop {
            if self.blocked.load(Ordering::Acquire) == 0 {
                self.helper_drives.store(true, Ordering::Release);
                let seat = self.seat.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                self.drive(seat);
            } else if let Some(seat) = self.watch() {
                self.drive(seat);
            }
        }
    }

    /// In the seat, until somebody else wants it.
    fn drive(&self, mut seat: MutexGuard<'_, Scratch>) {
        while !self.wanted.swap(false, Ordering::AcqRel) {
            if let Err(e) = self.turn(&mut seat, None) {
                // A selector that cannot wait any more would hang every task in the process without a word.
                panic!("the shared reactor cannot wait: {e}");
            }
        }
        self.helper_drives.store(false, Ordering::Release);
        drop(seat);
        self.pass_on();
    }

    /// Threads are in `block_on`, and take the seat by themselves. Returns it if they do not, or `None` to look again.
    fn watch(&self) -> Option<MutexGuard<'_, Scratch>> {
        const FIRST: Duration = Duration::from_millis(1);
        const LAST: Duration = Duration::from_millis(10);
        let mut pause = FIRST;
        loop {
            let turns = self.turns.load(Ordering::Relaxed);
            if self.wait_for_call(Some(pause)) {
                return None;
            }
            let waiting = self.waiting.load(Ordering::SeqCst);
            if self.turns.load(Ordering::Relaxed) != turns {
                pause = (pause * 2).min(LAST);
            } else if waiting {
                self.helper_sleeps.store(true, Ordering::SeqCst);
                if self.waiting.load(Ordering::SeqCst) {
                    self.wait_for_call(None);
                }
                self.helper_sleeps.store(false, Ordering::SeqCst);
                if self.blocked.load(Ordering::Acquire) == 0 {
                    return None;
                }
                pause = FIRST;
            } else {
                self.helper_drives.store(true, Ordering::Release);
                match self.try_seat() {
                    Some(seat) => return Some(seat),
                    None => self.helper_drives.store(false, Ordering::Release),
                }
            }
        }
    }

    /// `false`: nobody called within `timeout`.
    fn wait_for_call(&self, timeout: Option<Duration>) -> bool {
        let mut called = lock(&self.called);
        if !*called {
            called = match timeout {
                None => self.call.wait_while(called, |called| !*called).unwrap_or_else(|e| e.into_inner()),
                Some(timeout) => {
                    self.call
                        .wait_timeout_while(called, timeout, |called| !*called)
                        .unwrap_or_else(|e| e.into_inner())
                        .0
                }
            };
        }
        std::mem::take(&mut *called)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
