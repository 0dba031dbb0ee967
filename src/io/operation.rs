//! A trusted operation as a future that has a waiter of its own: any number of tasks may be in one.

use super::Async;
use crate::reactor::{Direction, budget};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pub(crate) struct Operation<'a, T, F> {
    io: &'a Async<T>,
    direction: Direction,
    waiter: Option<usize>,
    op: F,
}

impl<T> Async<T> {
    /// `op` must do its work on the socket of this `Async`, and nothing else, and say `WouldBlock` only if the kernel does.
    pub(super) fn operation<R, F: FnMut(&T) -> io::Result<R>>(
        &self,
        direction: Direction,
        op: F,
    ) -> Operation<'_, T, F> {
        Operation { io: self, direction, waiter: None, op }
    }
}

impl<T, F> Unpin for Operation<'_, T, F> {}

impl<T, R, F: FnMut(&T) -> io::Result<R>> Future for Operation<'_, T, F> {
    type Output = io::Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        ready!(budget::is_left(cx));
        let Operation { io, direction, waiter, op } = &mut *self;
        let (interest, readiness) = (direction.interest(), &io.source.readiness);
        loop {
            let seen = readiness.seen();
            if !seen.is_ready(interest) {
                ready!(io.source.poll_waiter(waiter, interest, cx))?;
                // Somebody else may have used it up: look again, and wait anew if so.
                continue;
            }
            match op(io.get_ref()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => readiness.clear(interest, seen),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    io.source.forget(waiter);
                    budget::spend();
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl<T, F> Drop for Operation<'_, T, F> {
    fn drop(&mut self) {
        self.io.source.forget(&mut self.waiter);
    }
}
