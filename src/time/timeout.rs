//! A limit on another future's time.

use super::Timer;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Gives `future` at most `limit`, counted from its first poll: as long as it is never pending, this costs nothing, not
/// even a look at the clock.
///
/// # Errors
///
/// [`Elapsed`], when the time is up and `future` is not ready. It turns into an [`io::Error`] of kind
/// [`TimedOut`](io::ErrorKind::TimedOut) by `?`: so one `?` is for the limit, and one more for what `future` gives.
///
/// # Cancel safety
///
/// That of `future`, which is dropped with this one.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use wakewheel::{block_on, timeout};
///
/// let limit = Duration::from_millis(10);
/// assert_eq!(block_on(timeout(limit, async { 7 })), Ok(7));
/// assert!(block_on(timeout(limit, std::future::pending::<()>())).is_err());
/// ```
///
/// A connection that may be silent for so long:
///
/// ```
/// use futures_lite::AsyncWriteExt;
/// use std::{io, time::Duration};
/// use wakewheel::{io::Stream, timeout};
///
/// const SILENCE_MAX: Duration = Duration::from_secs(30);
///
/// async fn echo(mut stream: Stream) -> io::Result<()> {
///     loop {
///         let chunk = timeout(SILENCE_MAX, stream.read_chunk()).await??;
///         if chunk.is_empty() {
///             return Ok(());
///         }
///         // A peer who does not read must not hold the task for ever either.
///         timeout(SILENCE_MAX, stream.write_all(&chunk)).await??;
///     }
/// }
/// ```
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { future, limit: Limit::For(limit) }
}

/// Gives `future` time until `deadline`. Otherwise like [`timeout`].
///
/// # Errors
///
/// [`Elapsed`], when the time is up and `future` is not ready.
///
/// # Cancel safety
///
/// That of `future`, which is dropped with this one.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future, limit: Limit::Until(Timer::at(deadline)) }
}

pin_project_lite::pin_project! {
    /// Future of [`timeout`] and [`timeout_at`].
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        limit: Limit,
    }
}

#[derive(Debug)]
enum Limit {
    For(Duration),
    Until(Timer),
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let timer = match this.limit {
            Limit::Until(timer) => timer,
            Limit::For(limit) => {
                *this.limit = Limit::Until(Timer::after(*limit));
                match this.limit {
                    Limit::Until(timer) => timer,
                    Limit::For(_) => unreachable!("it was set just now"),
                }
            }
        };
        Pin::new(timer).poll(cx).map(|_| Err(Elapsed(())))
    }
}

impl<F: fmt::Debug> fmt::Debug for Timeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout").field("future", &self.future).field("limit", &self.limit).finish()
    }
}

/// The time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit was reached before the future was ready")
    }
}

impl Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, elapsed)
    }
}
