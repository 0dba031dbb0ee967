//! A future that takes its reactor along.

use super::Handle;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project_lite::pin_project! {
    /// Future of [`Handle::scope`].
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Scope<F> {
        #[pin]
        future: F,
        reactor: Handle,
    }
}

impl<F> Scope<F> {
    pub(super) fn new(reactor: Handle, future: F) -> Scope<F> {
        Scope { future, reactor }
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.reactor.enter(|| this.future.poll(cx))
    }
}

impl<F: fmt::Debug> fmt::Debug for Scope<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("future", &self.future).field("reactor", &self.reactor).finish()
    }
}
