//! An executor for the current thread.

use super::core::Core;
use super::settings::{Builder, Settings};
use super::stats::Stats;
use super::{CoreHandle, Task};
use crate::reactor::{Handle, Turn};
use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::task::Waker;
use std::time::Duration;

/// An executor for the current thread, with a reactor of its own: one core, where it is called.
///
/// Its tasks run while the thread is in [`block_on`](LocalExecutor::block_on), and need not be `Send`. What they
/// register, sockets and timers, is served by this reactor. When the executor is dropped, so are its tasks.
///
/// # Examples
///
/// ```
/// use std::{cell::Cell, rc::Rc};
/// use wakewheel::{LocalExecutor, spawn_local};
///
/// let executor = LocalExecutor::new()?;
/// let count = Rc::new(Cell::new(0));
/// executor.block_on(async {
///     let tasks: Vec<_> = (0..10).map(|_| {
///         let count = count.clone();
///         spawn_local(async move { count.set(count.get() + 1) })
///     }).collect();
///     for task in tasks {
///         task.await.unwrap();
///     }
/// });
/// assert_eq!(count.get(), 10);
/// # std::io::Result::Ok(())
/// ```
pub struct LocalExecutor(Box<Core>);

impl LocalExecutor {
    /// An executor with the usual choices.
    ///
    /// # Errors
    ///
    /// No descriptors left, or a wrong `WAKEWHEEL_BACKEND`.
    pub fn new() -> io::Result<LocalExecutor> {
        LocalExecutor::builder().build()
    }

    /// An executor with choices.
    pub fn builder() -> Builder {
        Builder { settings: Settings::default() }
    }

    /// Runs `future`, and all tasks, until `future` is ready. Tasks that are left go on in the next call.
    ///
    /// When both are busy, `future` has its turn once for every [`polls_per_turn`](Builder::polls_per_turn) polls of tasks.
    /// What has to keep up with busy tasks should be a task itself; `future` can await its handle.
    ///
    /// # Panics
    ///
    /// If it runs already, further up on this thread; if `future` does; if a task does and
    /// [`Panics::StopCore`](crate::executor::Panics::StopCore) is chosen; if the selector fails, which means that
    /// somebody closed its descriptor.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    /// One step of the loop, for those who have a loop of their own: waits for at most `timeout` (`None`: until something
    /// happens; not at all, if a task is ready to run), and then runs the tasks that are ready, a
    /// [bounded number](Builder::polls_per_turn) of them.
    ///
    /// # Errors
    ///
    /// If the selector fails: see [`Reactor::turn`](crate::reactor::Reactor::turn). [`block_on`](LocalExecutor::block_on)
    /// would panic.
    ///
    /// # Panics
    ///
    /// If it runs already, further up on this thread; if a task panics and
    /// [`Panics::StopCore`](crate::executor::Panics::StopCore) is chosen.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use wakewheel::{LocalExecutor, sleep};
    ///
    /// let executor = LocalExecutor::new()?;
    /// let task = executor.spawn(sleep(Duration::from_millis(5)));
    /// while !task.is_finished() {
    ///     executor.turn(Some(Duration::from_millis(100)))?;
    ///     // Draw the next frame here.
    /// }
    /// # std::io::Result::Ok(())
    /// ```
    pub fn turn(&self, timeout: Option<Duration>) -> io::Result<Turn> {
        self.0.step(timeout, |_| false)
    }

    /// [`turn`](LocalExecutor::turn), for a loop with wakers of its own: of each waker that a descriptor has news for, `note`
    /// is asked first. If it answers `true`, it has noted whose news it is: that waker is not woken, and **stays** where it
    /// waits, so that the next wait with the same one costs next to nothing. (What is about timers, and what has come by
    /// other ways, is woken. So `note` has to answer `false` for what it does not know, and its wakers have to work.)
    ///
    /// `note` runs under the locks of the reactor: it may do no more than to write down what it was asked. If it panics, the
    /// process is aborted.
    ///
    /// # Errors
    ///
    /// Those of [`turn`](LocalExecutor::turn).
    ///
    /// # Panics
    ///
    /// As in [`turn`](LocalExecutor::turn).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    /// use std::task::{Context, Wake, Waker};
    /// use std::{io::Write, os::unix::net::UnixStream, sync::Arc, time::Duration};
    /// use wakewheel::{LocalExecutor, reactor::{Interest, Trigger, Watch}};
    ///
    /// struct Note(AtomicUsize);
    /// impl Wake for Note {
    ///     fn wake(self: Arc<Self>) {
    ///         self.0.fetch_add(1, Ordering::Relaxed);
    ///     }
    /// }
    ///
    /// let executor = LocalExecutor::new()?;
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// let mut watch = executor.enter(|| Watch::new(&ours, Interest::READ, Trigger::Level))?;
    /// let (note, mut noted) = (Arc::new(Note(AtomicUsize::new(0))), 0);
    /// let waker = Waker::from(note.clone());
    /// assert!(watch.poll_ready(&mut Context::from_waker(&waker)).is_pending());
    ///
    /// theirs.write_all(b"news")?;
    /// executor.turn_with(Some(Duration::from_secs(10)), |other| {
    ///     let is_mine = waker.will_wake(other);
    ///     noted += usize::from(is_mine);
    ///     is_mine
    /// })?;
    /// assert_eq!(noted, 1);
    /// assert_eq!(note.0.load(Ordering::Relaxed), 0, "it was not woken");
    /// # std::io::Result::Ok(())
    /// ```
    #[inline]
    pub fn turn_with(
        &self,
        timeout: Option<Duration>,
        mut note: impl FnMut(&Waker) -> bool,
    ) -> io::Result<Turn> {
        self.0.step(timeout, |waker| {
            let bomb = Bomb;
            let is_noted = note(waker);
            mem::forget(bomb);
            is_noted
        })
    }

    /// A handle of its reactor, for other threads: to end a wait, or to register something there.
    pub fn reactor(&self) -> Handle {
        Handle(self.0.shared().clone())
    }

    /// Starts a task. It runs when the thread is in [`block_on`](LocalExecutor::block_on).
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        self.0.spawn(future)
    }

    /// Runs `f` with this as the thread's executor: [`spawn_local`](crate::spawn_local) spawns here, and sockets and timers
    /// are served by its reactor.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        self.0.enter(f)
    }

    /// A handle for other threads.
    pub fn handle(&self) -> CoreHandle {
        CoreHandle(self.0.mailbox().clone())
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.0.mailbox().stats()
    }
}

/// What is half done under locks cannot be left to others.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::process::abort();
    }
}

impl Builder {
    /// Makes the executor.
    ///
    /// # Errors
    ///
    /// No descriptors left, a backend that this system does not have, or a wrong `WAKEWHEEL_BACKEND`.
    pub fn build(self) -> io::Result<LocalExecutor> {
        Core::new(self.settings).map(LocalExecutor)
    }
}

impl fmt::Debug for LocalExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalExecutor").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
