//! Running one future on any thread.

use crate::reactor::fallback::Call;
use crate::reactor::{Shared, budget, current, registry};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

/// Runs `future` on this thread until it is ready.
///
/// While the future waits, the thread drives the reactor that serves it: its own if it is a core's, else the shared one. So
/// a program that uses nothing but `block_on` starts no thread. Calls may be nested, and many threads may be in one.
///
/// # Panics
///
/// If `future` does; if it has to wait where there is no reactor yet and none can be made (no descriptors left, or a wrong
/// `WAKEWHEEL_BACKEND`).
///
/// # Examples
///
/// ```
/// let answer = wakewheel::block_on(async { 6 * 7 });
/// assert_eq!(answer, 42);
/// ```
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    // No thread-local any more, while the thread ends: then there is nothing to keep.
    let parker = CACHE.try_with(RefCell::take).ok().flatten().unwrap_or_else(Parker::new);
    let waker = Waker::from(parker.clone());
    let result = run(future, &parker, &waker);
    drop(waker);
    let _ = CACHE.try_with(|cache| cache.replace(Some(parker)));
    result
}

thread_local! {
    /// The parker of the last call: nested ones make their own.
    static CACHE: RefCell<Option<Arc<Parker>>> = const { RefCell::new(None) };
    /// Its address stands for the thread.
    static THREAD: Cell<u8> = const { Cell::new(0) };
}

/// So many polls in a row may follow each other before the reactor gets a turn.
const POLLS_PER_TURN: u32 = 64;

fn run<T>(future: impl Future<Output = T>, parker: &Arc<Parker>, waker: &Waker) -> T {
    let mut future = pin!(future);
    let cx = &mut Context::from_waker(waker);
    let mut call = Call::new(waker);
    let mut notices = Notices(false);
    let mut polls = 0;
    parker.state.store(NOTIFIED, Ordering::Release);
    loop {
        if parker.state.load(Ordering::Relaxed) == NOTIFIED {
            parker.state.swap(RUNNING, Ordering::AcqRel);
            budget::grant();
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return output;
            }
            polls += 1;
            if polls < POLLS_PER_TURN && parker.state.load(Ordering::Relaxed) == NOTIFIED {
                continue;
            }
        }
        let timeout = if polls < POLLS_PER_TURN { None } else { Some(Duration::ZERO) };
        polls = 0;
        let own = current::with_own(|own| {
            let own = own.filter(|own| own.shared.is_of_this_process())?;
            let mut turn = || own.turn(timeout).map(|turn| notices.0 |= turn.notified);
            Some(parker.drive(&own.shared, timeout, || Some(turn())))
        });
        let result = own.unwrap_or_else(|| {
            let fallback = call.wait();
            let is_woken = || parker.state.load(Ordering::Acquire) == NOTIFIED;
            let turn = || fallback.try_turn(waker, timeout, is_woken);
            let result = parker.drive(&fallback.shared, timeout, turn);
            fallback.unpark(waker);
            result
        });
        if let Err(e) = result {
            panic!("block_on cannot wait: {e}");
        }
    }
}

/// Has a turn of the thread's own reactor been ended by a notice? It may have been meant for the core that is running
/// further up on this thread, which has letters then: it gets the notice back.
struct Notices(bool);

impl Drop for Notices {
    fn drop(&mut self) {
        if self.0 {
            current::with_own(|own| own.into_iter().for_each(|own| own.shared.notify()));
        }
    }
}

const RUNNING: u8 = 0;
/// In a turn of a reactor.
const DRIVING: u8 = 1;
/// Waiting for somebody else, who drives.
const PARKED: u8 = 2;
/// The future is to be polled.
const NOTIFIED: u8 = 3;

/// How a thread in `block_on` is woken.
struct Parker {
    state: AtomicU8,
    /// The reactor that it drives.
    reactor: AtomicU64,
    thread: Thread,
    /// Tells the thread's own wakes from others'.
    address: usize,
}

impl Parker {
    fn new() -> Arc<Parker> {
        Arc::new(Parker {
            state: AtomicU8::new(RUNNING),
            reactor: AtomicU64::new(0),
            thread: thread::current(),
            address: address(),
        })
    }

    /// Calls `turn`, which waits in `reactor`, such that a wake ends the wait. If `turn` says that another thread
    /// drives, parks instead (unless `timeout` says not to wait).
    fn drive(
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
                thread::park();
            }
        }
        Ok(())
    }

    /// From one state to the next, unless it was notified.
    fn pass(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

fn address() -> usize {
    THREAD.try_with(|here| &raw const *here as usize).unwrap_or(0)
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.state.swap(NOTIFIED, Ordering::AcqRel);
        if self.address == address() {
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
