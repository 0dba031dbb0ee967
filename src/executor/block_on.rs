//! Running one future on any thread.

use super::parker::Parker;
use crate::reactor::fallback::Call;
use crate::reactor::{budget, current, no_tasks};
use std::cell::RefCell;
use std::future::Future;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
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
}

/// So many polls in a row may follow each other before the reactor gets a turn.
const POLLS_PER_TURN: u32 = 64;

fn run<T>(future: impl Future<Output = T>, parker: &Arc<Parker>, waker: &Waker) -> T {
    let mut future = pin!(future);
    let cx = &mut Context::from_waker(waker);
    let mut call = Call::new(waker);
    let mut notices = Notices(false);
    let mut polls = 0;
    let mut is_first = parker.start();
    loop {
        if mem::take(&mut is_first) || parker.take() {
            budget::grant();
            budget::count_poll();
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return output;
            }
            polls += 1;
            if polls < POLLS_PER_TURN && parker.is_notified() {
                continue;
            }
        }
        let timeout = if polls < POLLS_PER_TURN { None } else { Some(Duration::ZERO) };
        polls = 0;
        let own = current::with_own(|own| {
            let own = own.filter(|own| own.shared.is_of_this_process())?;
            let turn = || own.turn(timeout, &mut no_tasks).map(|turn| notices.0 |= turn.notified);
            Some(parker.drive(&own.shared, timeout, turn))
        });
        let result = own.unwrap_or_else(|| parker.drive_shared(call.wait(), timeout));
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
