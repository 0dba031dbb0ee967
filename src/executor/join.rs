//! The result of a task, on its own thread and on others.

use super::core::{self, Core};
use super::task::TaskRef;
use crate::reactor::contain;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Why a task has no output.
///
/// It is an error like others: `?` turns it into an [`io::Error`] or a `Box<dyn Error + Send + Sync>`.
///
/// # Examples
///
/// ```
/// use std::io;
/// use wakewheel::{LocalExecutor, spawn_local};
///
/// async fn sum(numbers: Vec<u64>) -> io::Result<u64> {
///     let task = spawn_local(async move { numbers.iter().sum() });
///     Ok(task.await?)
/// }
///
/// assert_eq!(LocalExecutor::new()?.block_on(sum(vec![1, 2, 3]))?, 6);
/// # io::Result::Ok(())
/// ```
pub struct JoinError(Reason);

enum Reason {
    Cancelled,
    // What a task panics with need not be Sync: the lock makes it so. Boxed, because every result of a task has room for
    // this, and few need it.
    Panicked(Box<Mutex<Payload>>),
}

type Payload = Box<dyn Any + Send>;

impl JoinError {
    pub(super) fn cancelled() -> JoinError {
        JoinError(Reason::Cancelled)
    }

    pub(super) fn panicked(payload: Payload) -> JoinError {
        JoinError(Reason::Panicked(Box::new(Mutex::new(payload))))
    }

    /// Was it cancelled: by its handle, or because its executor ended?
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0, Reason::Cancelled)
    }

    /// Did it panic?
    pub fn is_panic(&self) -> bool {
        matches!(self.0, Reason::Panicked(_))
    }

    /// What it panicked with; `Err` if it did not.
    ///
    /// # Errors
    ///
    /// The error itself, if the task was cancelled.
    pub fn into_panic(self) -> Result<Box<dyn Any + Send>, JoinError> {
        match self.0 {
            Reason::Panicked(payload) => {
                Ok(payload.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
            }
            Reason::Cancelled => Err(self),
        }
    }

    /// Panics as the task did.
    ///
    /// # Panics
    ///
    /// Always: if the task was cancelled, with a message that says so.
    pub fn resume(self) -> ! {
        match self.into_panic() {
            Ok(payload) => resume_unwind(payload),
            Err(cancelled) => panic!("{cancelled}"),
        }
    }

    /// A copy: whoever writes it may be anybody's code, which does not run under the lock.
    fn message(&self) -> Option<String> {
        let Reason::Panicked(payload) = &self.0 else { return None };
        let payload = payload.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        payload
            .downcast_ref::<&str>()
            .map(|message| message.to_string())
            .or_else(|| payload.downcast_ref::<String>().cloned())
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0, self.message()) {
            (Reason::Cancelled, _) => f.write_str("the task was cancelled"),
            (Reason::Panicked(_), Some(message)) => write!(f, "the task panicked: {message}"),
            (Reason::Panicked(_), None) => f.write_str("the task panicked"),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for JoinError {}

/// Of kind [`Other`](io::ErrorKind::Other), with the `JoinError` in it: its message, and
/// [`downcast`](io::Error::downcast) gives it back. A cancelled task is not `Interrupted`: that says "try again" to whoever
/// reads or writes, and a task that is gone stays gone.
impl From<JoinError> for io::Error {
    fn from(e: JoinError) -> io::Error {
        io::Error::other(e)
    }
}

/// The handle of a task on whatever core: join it, cancel it, or let it go, from any thread and under any executor.
///
/// Awaiting it gives the task's result; a panic in the task is a [`JoinError`] that carries what it panicked with.
/// **Dropping it cancels the task**, on its core, which drops the future there. To let the task run on by
/// itself, [`detach`](JoinHandle::detach) it.
///
/// # Cancel safety
///
/// Awaiting `&mut handle` can be given up and taken up again.
#[must_use = "dropping a handle cancels its task: await it, or call .detach() to let it run by itself"]
pub struct JoinHandle<T> {
    packet: Option<Arc<Packet<T>>>,
}

/// Where a task leaves its result for another thread.
struct Packet<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    result: Option<Result<T, JoinError>>,
    /// There is a result, or there was.
    done: bool,
    /// Cancelled before it was there: it is not to begin.
    cancelled: bool,
    task: Option<TaskRef>,
    awaiter: Option<Waker>,
}

impl<T> Packet<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn finish(&self, result: Result<T, JoinError>) {
        let mut state = self.lock();
        if state.done {
            return;
        }
        state.done = true;
        state.result = Some(result);
        let (task, awaiter) = (state.task.take(), state.awaiter.take());
        drop(state);
        drop(task);
        if let Some(awaiter) = awaiter {
            contain(|| awaiter.wake());
        }
    }
}

pin_project_lite::pin_project! {
    /// A future whose result goes into a packet, whatever becomes of it.
    pub(super) struct Deliver<F: Future> {
        // `None` once it is ready: the future goes before its result is told.
        #[pin]
        future: Option<F>,
        packet: Sender<F::Output>,
    }
}

/// The task's end of a packet.
pub(super) struct Sender<T>(Arc<Packet<T>>);

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.finish(Err(JoinError::cancelled()));
    }
}

/// Both ends.
pub(super) fn packet<T>() -> (Sender<T>, JoinHandle<T>) {
    let state = State { result: None, done: false, cancelled: false, task: None, awaiter: None };
    let packet = Arc::new(Packet { state: Mutex::new(state) });
    (Sender(packet.clone()), JoinHandle { packet: Some(packet) })
}

impl<T> Sender<T> {
    /// Starts the task that `make` makes, on its core, unless it has been cancelled on the way there.
    pub fn start<F: Future<Output = T> + 'static>(self, core: &Core, make: impl FnOnce() -> F)
    where
        T: 'static,
    {
        let packet = self.0.clone();
        if packet.lock().cancelled {
            return;
        }
        let future = match catch_unwind(AssertUnwindSafe(make)) {
            Ok(future) => future,
            Err(payload) => {
                packet.finish(Err(JoinError::panicked(payload)));
                return core.note_panic();
            }
        };
        let task = core.spawn(Deliver { future: Some(future), packet: self });
        let mut state = packet.lock();
        if state.cancelled {
            // While the future was being made, when there was no task to cancel.
            drop(state);
            return drop(task);
        }
        state.task = Some(task.to_ref());
        drop(state);
        task.detach();
    }
}

impl<F: Future> Future for Deliver<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let future = this.future.as_mut().as_pin_mut().expect("a task is not polled after it was ready");
        let result = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(payload) => {
                core::with_current(|core| core.into_iter().for_each(Core::note_panic));
                Err(JoinError::panicked(payload))
            }
        };
        // A future whose drop panics has still delivered.
        contain(|| this.future.set(None));
        this.packet.0.finish(result);
        Poll::Ready(())
    }
}

impl<T> JoinHandle<T> {
    /// Lets the task run by itself, until it ends or its executor does. Its result is dropped.
    pub fn detach(mut self) {
        self.packet = None;
    }

    /// Cancels the task. Its future is dropped by its core; await the handle to know when that has been done.
    pub fn cancel(&self) {
        if let Some(packet) = &self.packet {
            packet.cancel();
        }
    }

    /// Is it done, or cancelled? Then awaiting it does not wait.
    pub fn is_finished(&self) -> bool {
        self.packet.as_ref().is_none_or(|packet| packet.lock().done)
    }
}

impl<T> Packet<T> {
    fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            core::cancel(task);
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// If it is polled again after it gave the result.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let packet = self.packet.as_ref().expect("a handle that was not detached");
        let clone = cx.waker().clone();
        let mut state = packet.lock();
        if state.done {
            return Poll::Ready(state.result.take().expect("polled after it gave its result"));
        }
        let replaced = state.awaiter.replace(clone);
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl<T> Unpin for JoinHandle<T> {}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(packet) = self.packet.take() {
            packet.cancel();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("is_finished", &self.is_finished()).finish_non_exhaustive()
    }
}
