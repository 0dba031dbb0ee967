//! Signals as a future.

use super::Async;
use crate::sys::signal::{self, Catch};
use futures_core::Stream;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Waits for signals of the process. While it exists, these do not do what they did before (to end the process, mostly);
/// when the last one that waits for a signal is dropped, they do so again.
///
/// Several may wait for the same signal: each is told. What comes several times before it is asked for is one.
///
/// # Examples
///
/// ```no_run
/// use wakewheel::Signals;
///
/// wakewheel::block_on(async {
///     let mut signals = Signals::new([libc::SIGHUP, libc::SIGTERM])?;
///     loop {
///         match signals.next().await? {
///             libc::SIGHUP => println!("the configuration is read again"),
///             _ => return std::io::Result::Ok(()),
///         }
///     }
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub struct Signals {
    // In this order: what is registered goes before the place is given up.
    socket: Async<BorrowedFd<'static>>,
    catch: Catch,
    /// What has come, and was not asked for yet.
    come: u64,
}

impl Signals {
    /// Waits for these from now on.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a number that is no signal, and for one that cannot be waited for:
    /// SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE, SIGILL. No descriptors left; 256 wait already.
    pub fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<Signals> {
        let catch = Catch::new(&signals.into_iter().collect::<Vec<_>>())?;
        let socket = Async::new_nonblocking(catch.descriptor())?;
        Ok(Signals { socket, catch, come: 0 })
    }

    /// Waits for what asks a program to end: SIGINT (ctrl-C) and SIGTERM.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Signals::new).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use wakewheel::Signals;
    ///
    /// wakewheel::block_on(async {
    ///     let signal = Signals::shutdown()?.next().await?;
    ///     println!("asked to end by signal {signal}");
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn shutdown() -> io::Result<Signals> {
        Signals::new([libc::SIGINT, libc::SIGTERM])
    }

    /// The number of a signal that has come; the lowest, if there are several. One task can wait.
    ///
    /// # Errors
    ///
    /// If its reactor has stopped and it cannot be registered with another.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<i32>> {
        loop {
            self.come |= self.catch.take();
            if self.come != 0 {
                let signal = self.come.trailing_zeros() as i32 + 1;
                self.come &= !signal::bit(signal);
                return Poll::Ready(Ok(signal));
            }
            self.drain();
            // The handler sets its bit first, and writes then.
            if !self.catch.has_come() {
                ready!(self.socket.poll_readable(cx))?;
            }
        }
    }

    /// Waits for the next one. See [`poll_next`](Signals::poll_next).
    ///
    /// # Errors
    ///
    /// Those of [`poll_next`](Signals::poll_next).
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no signal is lost.
    pub async fn next(&mut self) -> io::Result<i32> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn drain(&self) {
        let mut buf = [MaybeUninit::<u8>::uninit(); 256];
        let fd = self.socket.get_ref().as_raw_fd();
        // SAFETY: `buf` is valid for writes of its length; the descriptor is open as long as the process.
        while unsafe { libc::read(fd, buf.as_mut_ptr().cast(), buf.len()) } == buf.len() as isize {}
    }
}

/// Waits for ctrl-C (SIGINT), from the call on: one that comes before the first poll counts. When the future is ready or
/// dropped, ctrl-C does again what it did before: a second one ends a program that is slow to end by itself.
///
/// Several may wait: each is told.
///
/// # Errors
///
/// When the future is polled, those of [`Signals::new`] and [`Signals::poll_next`].
///
/// # Cancel safety
///
/// Dropped, it does not wait any more.
///
/// # Examples
///
/// ```no_run
/// wakewheel::block_on(async {
///     wakewheel::ctrl_c().await?;
///     println!("goodbye");
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub fn ctrl_c() -> impl Future<Output = io::Result<()>> + Send + Sync + 'static {
    let signals = Signals::new([libc::SIGINT]);
    async move { signals?.next().await.map(drop) }
}

/// A stream that never ends.
impl Stream for Signals {
    type Item = io::Result<i32>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<i32>>> {
        Signals::poll_next(&mut self, cx).map(Some)
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signals").field(&self.catch).finish()
    }
}
