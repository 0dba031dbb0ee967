//! A trusted operation as a future that has a waiter of its own: any number of tasks may be in one.

use super::Async;
use crate::reactor::{Direction, budget};
use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pub(crate) struct Operation<'a, T, F, P> {
    io: &'a Async<T>,
    direction: Direction,
    waiter: Option<usize>,
    op: F,
    full: P,
    until_short: bool,
    tries: Tries,
}

/// Where others turn the reactor, who polls may know more than it does: an operation is worth a try though nothing is ready.
#[derive(Default)]
pub(super) struct Tries {
    /// The [poll](budget::poll_number) in which it was last polled.
    last: u32,
}

impl Tries {
    /// It is polled. Is it so again, without a turn in between?
    pub fn is_again(&mut self) -> bool {
        let poll = budget::poll_number();
        mem::replace(&mut self.last, poll) == poll
    }
}

impl<T> Async<T> {
    /// `op` must do its work on the socket of this `Async`, and nothing else, and say `WouldBlock` only if the kernel does.
    pub(super) fn operation<R, F: FnMut(&T) -> io::Result<R>>(
        &self,
        direction: Direction,
        op: F,
    ) -> Operation<'_, T, F, impl Fn(&R) -> bool + use<T, R, F>> {
        Operation {
            io: self,
            direction,
            waiter: None,
            op,
            full: |_: &R| true,
            until_short: false,
            tries: Tries::default(),
        }
    }

    /// [`operation`](Async::operation), for an `op` whose result tells that there was no more: it is not `full`.
    pub(super) fn operation_until_short<R, F: FnMut(&T) -> io::Result<R>, P: Fn(&R) -> bool>(
        &self,
        direction: Direction,
        op: F,
        full: P,
    ) -> Operation<'_, T, F, P> {
        Operation { io: self, direction, waiter: None, op, full, until_short: true, tries: Tries::default() }
    }
}

impl<T, F, P> Unpin for Operation<'_, T, F, P> {}

impl<T, R, F: FnMut(&T) -> io::Result<R>, P: Fn(&R) -> bool> Future for Operation<'_, T, F, P> {
    type Output = io::Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        ready!(budget::is_left(cx));
        let Operation { io, direction, waiter, op, full, until_short, tries } = &mut *self;
        let (interest, readiness) = (direction.interest(), &io.source.readiness);
        let is_again = tries.is_again();
        let mut tries_blind = if waiter.is_none() { !*until_short } else { is_again };
        loop {
            let seen = readiness.seen();
            let is_worth_a_try = seen.is_ready(interest) || tries_blind && seen.asks();
            if !is_worth_a_try {
                ready!(io.source.poll_waiter(waiter, interest, cx))?;
                // Somebody else may have used it up: look again, and wait anew if so.
                continue;
            }
            tries_blind = false;
            match op(io.get_ref()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => readiness.clear(interest, seen),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    io.source.forget(waiter);
                    let left = readiness.seen();
                    if !seen.is_ready(interest) && (left.is_listed() || left.is_polled(*direction)) {
                        io.source.tell(*direction);
                    }
                    if result.as_ref().is_ok_and(|result| !full(result)) && seen.trusts_batch() {
                        readiness.clear(interest, seen);
                    } else {
                        budget::spend();
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl<T, F, P> Drop for Operation<'_, T, F, P> {
    fn drop(&mut self) {
        self.io.source.forget(&mut self.waiter);
    }
}
