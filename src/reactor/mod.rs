//! The reactor: descriptors and deadlines on one side, wakers on the other.
//!
//! A [`Reactor`] waits in one selector for the descriptors that are registered with it and for the earliest of its
//! timers, and wakes the tasks that wait for them. It knows nothing of executors: a task is a [`Waker`] to it. Most
//! users never see one: each core of [`Cores`](crate::Cores), each [`LocalExecutor`](crate::LocalExecutor) has its own,
//! and every other thread uses one that is shared and driven behind the scenes.
//!
//! To put a reactor into a loop of your own (a GUI, a game, another runtime), make one with [`Reactor::new`], wait for
//! its descriptor ([`AsFd`]) or its [`next_deadline`](Reactor::next_deadline) there, and then call
//! [`turn`](Reactor::turn) with a time-out of zero. What shall be served by it is made and polled in
//! [`enter`](Reactor::enter), or is a future in its [`scope`](Handle::scope). `examples/guest_in_tokio.rs` does so, and no
//! thread is started.
//!
//! A [`Watch`] waits for a descriptor that somebody else reads and writes, level-triggered or edge-triggered.

pub(crate) mod budget;
mod clock;
pub(crate) mod current;
mod driver;
pub(crate) mod fallback;
pub(crate) mod local;
#[cfg(all(test, loom))]
pub(crate) mod loom;
mod park;
mod readiness;
pub(crate) mod registry;
mod scope;
pub(crate) mod seat;
mod shared;
mod source;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod timers;
mod watch;
mod wheel;

pub use crate::sys::{Backend, Trigger};
pub(crate) use clock::Clock;
pub use clock::MockClock;
pub(crate) use driver::{Answer, Driver, no_tasks};
pub(crate) use readiness::{Direction, Seen};
pub use scope::Scope;
pub(crate) use shared::Shared;
pub use shared::Turn;
pub(crate) use source::Source;
pub use watch::{Interest, Watch};

use crate::sys::{self, Ready};
use local::Local;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// A selector and a timer wheel, driven by the thread that calls [`turn`](Reactor::turn).
///
/// Sources and timers that are made in [`enter`](Reactor::enter), or through a [`Handle`], belong to it. They outlive
/// it: when it is dropped, all who wait are woken, and wait on with the reactor of whoever polls them next.
///
/// ```
/// use std::task::{Context, Poll, Waker};
/// use std::{future::Future, net::UdpSocket, pin::pin, time::Duration};
/// use wakewheel::{Async, reactor::Reactor};
///
/// let reactor = Reactor::new()?;
/// let socket = reactor.enter(|| Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)))?;
/// let mut readable = pin!(socket.readable());
/// let cx = &mut Context::from_waker(Waker::noop());
/// assert!(readable.as_mut().poll(cx).is_pending());
///
/// UdpSocket::bind("127.0.0.1:0")?.send_to(b"hello", socket.get_ref().local_addr()?)?;
/// reactor.turn(Some(Duration::from_secs(10)))?;
/// assert!(matches!(readable.as_mut().poll(cx), Poll::Ready(Ok(()))));
/// # std::io::Result::Ok(())
/// ```
pub struct Reactor(Local);

impl Reactor {
    /// A reactor on the backend that the environment or the system chooses.
    ///
    /// # Errors
    ///
    /// No descriptors left, or a wrong `WAKEWHEEL_BACKEND`.
    pub fn new() -> io::Result<Reactor> {
        Reactor::builder().build()
    }

    /// A reactor with choices.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs `f` with this reactor as the current one of the thread: the sources and timers that `f` makes, or polls for
    /// the first time, belong to it.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        /// From then on it counts as asleep: whoever has news for it makes its descriptor readable.
        struct Rest<'a>(&'a Shared);
        impl Drop for Rest<'_> {
            fn drop(&mut self) {
                if !self.0.park.try_sleep() {
                    self.0.poller.notify();
                }
            }
        }
        let _rest = Rest(&self.0.shared);
        current::enter_own(&self.0, f)
    }

    /// Waits for at most `timeout` (`None`: until something happens; zero: not at all), fires the timers that are due,
    /// and wakes whom all this concerns, on this thread. A waker that panics is reported by the panic hook, and
    /// the turn goes on.
    ///
    /// # Errors
    ///
    /// When the selector fails, which means that its descriptor was closed by somebody else; when it was made before a
    /// fork. An interruption by a signal is no error: the turn ends with nothing to report.
    pub fn turn(&self, timeout: Option<Duration>) -> io::Result<Turn> {
        if timeout == Some(Duration::ZERO) {
            // This turn is the answer to all notifications so far. (One that may wait sees to that itself.)
            self.0.shared.park.wake();
        }
        let turn = self.enter(|| self.0.turn(timeout, &mut no_tasks))?;
        // A loop that waits for edges of the descriptor is not told again of what was left in it.
        if self.0.may_have_left_some(turn) {
            let fd = self.as_fd().as_raw_fd();
            // The turn has happened: an error is for the next one.
            if sys::level(fd, Ready::READABLE).unwrap_or(Ready::READABLE).intersects(Ready::READABLE) {
                self.0.shared.poller.notify();
            }
        }
        Ok(turn)
    }

    /// When the next turn is due on account of a timer. `None`: no timer is set.
    ///
    /// Timers that follow each other within 0.1 milliseconds are due together, at the last one. After a timer was
    /// cancelled or moved, this may be earlier than any that is left.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.next_deadline()
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle(self.0.shared.clone())
    }

    /// Which system call it waits in.
    pub fn backend(&self) -> Backend {
        self.0.shared.poller.backend()
    }
}

/// Readable when a turn would find an event or a notification, and no more after it, unless something was left: then it becomes
/// readable anew. So it can be waited for by level or by edge, with one turn each time. (On [`Backend::Poll`], which has no
/// descriptor of its own, after a notification only: such a reactor has to be turned now and then.)
impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.shared.poller.as_fd()
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle().fmt_as("Reactor", f)
    }
}

/// Choices for a [`Reactor`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    backend: Option<Backend>,
    clock: Clock,
}

impl Builder {
    /// Waits in this system call, whatever the environment says.
    pub fn backend(mut self, backend: Backend) -> Builder {
        self.backend = Some(backend);
        self
    }

    /// Takes the time from `clock`.
    pub fn mock_clock(mut self, clock: MockClock) -> Builder {
        self.clock = Clock::Mock(clock);
        self
    }

    /// Makes the reactor.
    ///
    /// # Errors
    ///
    /// No descriptors left, a backend that this system does not have, or a wrong `WAKEWHEEL_BACKEND`.
    pub fn build(self) -> io::Result<Reactor> {
        let local = self.build_local()?;
        // See `enter`: it rests asleep.
        let _ = local.shared.park.try_sleep();
        Ok(Reactor(local))
    }

    /// Without the outer shell: for a loop that is always either awake or in a turn.
    pub(crate) fn build_local(self) -> io::Result<Local> {
        let backend = match self.backend {
            Some(backend) => backend,
            None => Backend::from_env()?,
        };
        Ok(Local::new(Shared::new(backend, self.clock, false)?))
    }
}

/// A reactor, for any thread: to register something with it, or to end its wait. Does not keep it running.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

impl Handle {
    /// Runs `f` with this reactor as the current one of the calling thread: what `f` registers is served by the thread
    /// that turns it.
    ///
    /// A reactor that has gone is passed over, in favour of the shared one.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        current::enter_shared(&self.0, f)
    }

    /// `future`, each poll of which [enters](Handle::enter) this reactor: so it can be a task of any executor, on any thread,
    /// and what it waits for is served by the thread that turns the reactor.
    ///
    /// Without this, the sockets that were made in a reactor stay with it, but the timers of a task belong to the reactor
    /// of whoever polls it, and that may be the shared one.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::future;
    /// use std::time::Duration;
    /// use wakewheel::{reactor::Reactor, sleep};
    ///
    /// let reactor = Reactor::new()?;
    /// let mut task = Box::pin(reactor.handle().scope(sleep(Duration::from_millis(5))));
    /// // This `block_on` knows nothing of the reactor.
    /// while future::block_on(future::poll_once(&mut task)).is_none() {
    ///     reactor.turn(None)?;
    /// }
    /// # std::io::Result::Ok(())
    /// ```
    pub fn scope<F: Future>(&self, future: F) -> Scope<F> {
        Scope::new(self.clone(), future)
    }

    /// Ends the turn that the reactor is waiting in, or else the wait of the next one.
    pub fn notify(&self) {
        self.0.notify();
    }

    /// How many descriptors are registered with it.
    pub fn sources_alive(&self) -> usize {
        self.0.sources_alive()
    }

    fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("id", &self.0.id)
            .field("backend", &self.0.poller.backend())
            .field("sources_alive", &self.sources_alive())
            .finish()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as("Handle", f)
    }
}

/// Wakes and empties them all. One that panics has had its say through the panic hook; the others are woken.
#[inline]
pub(crate) fn wake_all(wakers: &mut Vec<Waker>) {
    if !wakers.is_empty() {
        wake_each(wakers);
    }
}

#[inline(never)]
fn wake_each(wakers: &mut Vec<Waker>) {
    let mut rest = wakers.drain(..);
    while !contain(|| rest.by_ref().for_each(Waker::wake)) {}
}

/// Runs what is the user's: a waker, a destructor, a hook. If it panics, the panic hook has reported it, and that was
/// all: nothing unwinds out of this, which matters where things are half done. `false`: it has panicked.
pub(crate) fn contain(f: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(f)) else { return true };
    // What it panicked with has a destructor, too. If that panics, enough is enough: what that one panicked with stays.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(payload);
    }
    false
}
