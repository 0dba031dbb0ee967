//! The cooperative budget: an operation that is always ready yields now and then.
//!
//! A peer that sends without end would otherwise keep its task running, and all others waiting, because its read never
//! has a reason to return `Pending`. Every operation that succeeds spends one unit; when none is left, the next one
//! wakes its own task and returns `Pending` once. Our executors grant a new budget with every poll of a task. Under
//! any other the count goes on over all tasks of the thread, and starts again after it has made one of them yield.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};

/// Operations that a task may complete in one poll.
const UNITS: u32 = 128;

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(UNITS) };
    static POLLS: Cell<u32> = const { Cell::new(0) };
}

/// `block_on`, which has turned the reactor, is about to poll its future.
pub(crate) fn count_poll() {
    POLLS.set(POLLS.get().wrapping_add(1));
}

/// The poll of `block_on` that this thread is in. Two operations with the same number have had no turn in between, if there is
/// a `block_on`; if not, nobody knows.
pub(crate) fn poll_number() -> u32 {
    POLLS.get()
}

/// A task is about to be polled.
#[inline]
pub(crate) fn grant() {
    LEFT.set(UNITS);
}

/// An operation is about to be tried. If nothing is left, the task has to yield first.
#[inline]
pub(crate) fn is_left(cx: &mut Context<'_>) -> Poll<()> {
    if LEFT.get() == 0 { give_way(cx) } else { Poll::Ready(()) }
}

/// An operation has succeeded, and the next one may, too.
#[inline]
pub(crate) fn spend() {
    LEFT.set(LEFT.get().wrapping_sub(1));
}

#[cold]
fn give_way(cx: &mut Context<'_>) -> Poll<()> {
    LEFT.set(UNITS);
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Lets other tasks have a turn.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
