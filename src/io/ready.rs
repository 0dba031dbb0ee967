//! Futures that wait for readiness, and nothing else.

use super::Async;
use crate::reactor::Source;
use crate::sys::Ready;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// One waiter of a source.
struct Waiter {
    interest: Ready,
    key: Option<usize>,
    polled: bool,
}

impl Waiter {
    fn new(interest: Ready) -> Waiter {
        Waiter { interest, key: None, polled: false }
    }

    fn poll(&mut self, source: &Arc<Source>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A closed connection stays closed. Everything else may have changed since the last event.
        if !self.polled && self.interest != Ready::READ_CLOSED {
            source.distrust(self.interest);
        }
        self.polled = true;
        source.poll_waiter(&mut self.key, self.interest, cx)
    }
}

macro_rules! waiting_future {
    ($(#[$doc:meta])* $name:ident<$($life:lifetime,)? $t:ident>, $io:ty, $interest:expr) => {
        $(#[$doc])*
        ///
        /// # Errors
        ///
        /// If its reactor has stopped and it cannot be registered with another.
        ///
        /// # Cancel safety
        ///
        /// Safe to drop at any time.
        #[must_use = "futures do nothing unless you `.await` or poll them"]
        pub struct $name<$($life,)? $t> {
            io: $io,
            waiter: Waiter,
        }

        impl<$($life,)? $t> $name<$($life,)? $t> {
            pub(super) fn new(io: $io) -> Self {
                $name { io, waiter: Waiter::new($interest) }
            }
        }

        impl<$($life,)? $t> Unpin for $name<$($life,)? $t> {}

        impl<$($life,)? $t> Future for $name<$($life,)? $t> {
            type Output = io::Result<()>;

            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                let this = &mut *self;
                this.waiter.poll(&this.io.source, cx)
            }
        }

        impl<$($life,)? $t> Drop for $name<$($life,)? $t> {
            fn drop(&mut self) {
                self.io.source.forget(&mut self.waiter.key);
            }
        }

        impl<$($life,)? $t> fmt::Debug for $name<$($life,)? $t> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("fd", &self.io.source.fd).finish_non_exhaustive()
            }
        }
    };
}

waiting_future!(
    /// Future of [`Async::readable`].
    Readable<'a, T>, &'a Async<T>, Ready::READABLE
);
waiting_future!(
    /// Future of [`Async::readable_owned`].
    ReadableOwned<T>, Arc<Async<T>>, Ready::READABLE
);
waiting_future!(
    /// Future of [`Async::writable`].
    Writable<'a, T>, &'a Async<T>, Ready::WRITABLE
);
waiting_future!(
    /// Future of [`Async::writable_owned`].
    WritableOwned<T>, Arc<Async<T>>, Ready::WRITABLE
);
waiting_future!(
    /// Future of [`Async::closed`].
    Closed<'a, T>, &'a Async<T>, Ready::READ_CLOSED
);
