//! Executors: tasks that stay on the core that they were started on.
//!
//! [`block_on`] runs one future on any thread. [`LocalExecutor`] runs tasks on the current one. [`Cores`] is the same on
//! each of N threads. In each, a task that is woken by its own core goes into a plain queue, without an atomic operation;
//! one that is woken by another thread gets there by a letter, and a system call only if the core sleeps.

mod block_on;
mod core;
mod cores;
mod inbox;
mod join;
mod local;
#[cfg(all(test, loom))]
mod loom;
mod parker;
mod refs;
mod settings;
mod stats;
mod task;
mod waiters;

pub use block_on::block_on;
pub use cores::{CoreHandle, Cores, CoresBuilder};
pub use join::{JoinError, JoinHandle};
pub use local::LocalExecutor;
pub use settings::{Builder, Panics};
pub use stats::Stats;
pub use task::Task;

use self::core::Core;
use self::waiters::Waiting;
use crate::reactor::budget;
use crate::reactor::current::now;
use crate::time::timeout_at;
use std::future::{Future, poll_fn};
use std::time::{Duration, Instant};

/// The core of this thread.
fn with_core<R>(what: &str, f: impl FnOnce(&Core) -> R) -> R {
    self::core::with_current(|core| match core {
        Some(core) => f(core),
        None => panic!(
            "{what} was called outside of an executor: run the future by LocalExecutor::block_on or on Cores \
             (wakewheel::block_on runs one future, and no tasks)"
        ),
    })
}

/// Starts a task on the current core. It need not be `Send`, and its handle stays here.
///
/// # Panics
///
/// Outside of a [`LocalExecutor`] and of [`Cores`].
///
/// # Examples
///
/// See [`Task`].
pub fn spawn_local<F: Future + 'static>(future: F) -> Task<F::Output> {
    with_core("spawn_local", |core| core.spawn(future))
}

/// Starts a task on the current core, with a handle that can go to other threads.
///
/// To start one on another core, use [`CoreHandle::spawn`] or [`Cores::spawn`].
///
/// # Panics
///
/// Outside of a [`LocalExecutor`] and of [`Cores`].
///
/// # Examples
///
/// ```
/// use wakewheel::{LocalExecutor, block_on, spawn};
///
/// let executor = LocalExecutor::new()?;
/// executor.block_on(async {
///     let handle = spawn(async { "from here" });
///     let waiter = std::thread::spawn(move || block_on(handle).unwrap());
///     wakewheel::sleep(std::time::Duration::from_millis(1)).await;
///     assert_eq!(waiter.join().unwrap(), "from here");
/// });
/// # std::io::Result::Ok(())
/// ```
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: Send + 'static,
{
    with_core("spawn", |core| {
        let (sender, handle) = join::packet();
        sender.start(core, || future);
        handle
    })
}

/// A handle of the current core, for other threads.
///
/// # Panics
///
/// Outside of a [`LocalExecutor`] and of [`Cores`].
pub fn current() -> CoreHandle {
    with_core("current", |core| CoreHandle(core.mailbox().clone()))
}

/// Lets the other tasks have a turn, under any executor.
pub async fn yield_now() {
    budget::yield_now().await;
}

/// Waits until the tasks of the current core are asked to end: by [`Cores::shutdown`], by [`request_shutdown`], or because
/// another core of [`CoresBuilder::run`] panicked, or of [`try_run`](CoresBuilder::try_run) failed. For loops that accept:
/// from then on, they should not. Once it is ready, it stays so.
///
/// # Cancel safety
///
/// Safe to drop at any time.
///
/// # Panics
///
/// Outside of a [`LocalExecutor`] and of [`Cores`].
///
/// # Examples
///
/// ```
/// use futures_lite::FutureExt;
/// use std::time::Duration;
/// use wakewheel::{Cores, executor::shutdown_requested};
///
/// let cores = Cores::new(1)?;
/// cores.spawn(|| async {
///     let work = async { std::future::pending::<()>().await };
///     work.or(shutdown_requested()).await;
///     // Say good-bye here.
/// }).detach();
/// assert_eq!(cores.shutdown(Duration::from_secs(10)), 0);
/// # std::io::Result::Ok(())
/// ```
pub async fn shutdown_requested() {
    let mut waiting = Waiting::new(|mailbox| &mailbox.on_shutdown);
    poll_fn(|cx| with_core("shutdown_requested", |core| core.poll_shutdown(cx, &mut waiting))).await;
}

/// Asks the tasks of the current core, and of all that run with it, to end: [`shutdown_requested`] becomes ready on each
/// core of the same [`Cores`] or [`CoresBuilder::run`]; on a [`LocalExecutor`], on that one.
///
/// It ends nothing by itself: a [`run`](CoresBuilder::run) goes on until the futures of all cores are ready, and a
/// [`Cores`] until its owner [shuts it down](Cores::shutdown) or drops it. It cannot be taken back.
///
/// # Panics
///
/// Outside of a [`LocalExecutor`] and of [`Cores`].
///
/// # Examples
///
/// ```
/// use futures_lite::AsyncReadExt;
/// use std::os::unix::net::UnixStream;
/// use wakewheel::executor::{request_shutdown, shutdown_requested};
/// use wakewheel::{Async, Cores};
///
/// let (ours, theirs) = UnixStream::pair()?;
/// drop(theirs);
/// Cores::builder().threads(2).try_run(|core| {
///     let control = ours.try_clone();
///     async move {
///         // One core hears that it is time to end, and tells the others.
///         if core == 0 {
///             Async::new(control?)?.read(&mut [0]).await?;
///             request_shutdown();
///         }
///         shutdown_requested().await;
///         std::io::Result::Ok(())
///     }
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub fn request_shutdown() {
    with_core("request_shutdown", |core| core.mailbox().request_shutdown());
}

/// Schedules every task of the current core, so that each looks again at whatever it waits for. For a change that concerns
/// all of them, but is too rare for each to wait for it.
///
/// # Panics
///
/// Outside of a [`LocalExecutor`] and of [`Cores`].
///
/// # Examples
///
/// ```
/// use std::{cell::Cell, future::poll_fn, rc::Rc, task::Poll};
/// use wakewheel::{LocalExecutor, executor::{wake_all, yield_now}, spawn_local};
///
/// LocalExecutor::new()?.block_on(async {
///     let over = Rc::new(Cell::new(false));
///     let task = spawn_local(poll_fn({
///         let over = over.clone();
///         move |_| if over.get() { Poll::Ready(()) } else { Poll::Pending }
///     }));
///     yield_now().await;
///     over.set(true);
///     wake_all();
///     task.await.unwrap();
/// });
/// # std::io::Result::Ok(())
/// ```
pub fn wake_all() {
    with_core("wake_all", |core| core.wake_all());
}

/// Waits until all tasks of the current core have ended, for at most `limit`. Returns how many are left.
///
/// To be awaited in the future that the executor was started for; a task that waits for this waits for itself.
///
/// # Cancel safety
///
/// Safe to drop at any time. The tasks go on.
///
/// # Panics
///
/// Outside of a [`LocalExecutor`] and of [`Cores`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use wakewheel::{LocalExecutor, executor::drain, sleep, spawn_local};
///
/// LocalExecutor::new()?.block_on(async {
///     spawn_local(sleep(Duration::from_millis(5))).detach();
///     assert_eq!(drain(Duration::from_secs(10)).await, 0);
/// });
/// # std::io::Result::Ok(())
/// ```
pub async fn drain(limit: Duration) -> usize {
    drain_until(now().checked_add(limit)).await
}

async fn drain_until(deadline: Option<Instant>) -> usize {
    let mut waiting = Waiting::new(|mailbox| &mailbox.on_empty);
    let empty = poll_fn(|cx| with_core("drain", |core| core.poll_empty(cx, &mut waiting)));
    match deadline {
        Some(deadline) => drop(timeout_at(deadline, empty).await),
        None => empty.await,
    }
    with_core("drain", |core| core.tasks_alive())
}
