//! One task: a future, its result, and all the pointers to it. The one room of the executor that has pointers in it.
//!
//! A task is one allocation: a [`Header`] of one type for all, then the future, whose place its output takes. It
//! belongs to one core, and nearly everything about it is touched by that core's thread alone, without atomics. Other
//! threads can hold wakers. For them there are three fields: a [count](Refs) of references, the core's id, and a flag
//! that says that the task is on its way to the core.
//!
//! # Who keeps it alive
//!
//! On the core's thread: the core's list until the task is complete, the run queue while it is in it, the handle until
//! it goes, and whoever runs it at the moment. All of these are known from the flags, and together hold the core's share
//! of `refs`, which the last of them gives up. Every waker, and every letter to the core, holds a reference. So a task
//! whose wakers stay on its core is made, run, joined and freed without a single atomic operation on the count.
//!
//! The future and the output are dropped by the core's thread, always: when the task completes, is cancelled, or its
//! handle goes. When the last reference goes, on whatever thread, there is only memory to give back.

use super::core::{self, Core};
use super::inbox::Posted;
use super::join::JoinError;
use super::refs::Refs;
use crate::reactor::{budget, contain};
use std::alloc::{Layout, dealloc};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::future::Future;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

/// What all tasks have, whatever their future.
pub(super) struct Header {
    vtable: &'static VTable,
    /// Of any thread: wakers and letters, and the core's share for all local owners.
    refs: Refs,
    /// Of any thread: a letter with this task lies in the core's inbox.
    posted: Posted,
    /// Which core: for any thread.
    core_id: u64,

    // The rest belongs to the core's thread.
    /// The next one in the run queue.
    next: Cell<Option<TaskPtr>>,
    flags: Cell<u8>,
    /// Its neighbours among the tasks of the core that are not complete.
    siblings: Cell<(Option<TaskPtr>, Option<TaskPtr>)>,
    /// Who waits for the result.
    awaiter: Cell<Option<Waker>>,
}

// Idle connections are counted in tens of thousands, and each is a task.
#[cfg(all(target_pointer_width = "64", not(loom)))]
const _: () = assert!(size_of::<Header>() <= 72);

/// In the run queue.
const SCHEDULED: u8 = 1;
/// Somebody is in the stage: nobody else may be, and it is for him to look whether he was the last owner.
const RUNNING: u8 = 2;
/// The future has gone. The output is there if there is one and a handle.
const COMPLETE: u8 = 4;
/// To be cancelled as soon as it is not running.
const CANCELLED: u8 = 8;
/// Somebody may want the output.
const HANDLE: u8 = 16;
/// There is no output any more, or never was one.
const EMPTY: u8 = 32;

struct VTable {
    /// Polls the future; if that completes it, drops it and leaves the result in its place.
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Poll<()>,
    /// Drops the future, whose poll has panicked, and leaves the panic in its place.
    panicked: unsafe fn(NonNull<Header>, Box<dyn Any + Send>),
    /// Drops whatever is there, future or output, in its place.
    clear: unsafe fn(NonNull<Header>),
    /// Moves the result, a `Result<T, JoinError>`, to where the pointer points.
    take: unsafe fn(NonNull<Header>, *mut ()),
    /// Gives the memory back.
    free: unsafe fn(NonNull<Header>),
}

#[repr(C)]
struct Body<F: Future> {
    header: Header,
    stage: UnsafeCell<Stage<F>>,
}

enum Stage<F: Future> {
    Future(F),
    Done(Result<F::Output, Box<dyn Any + Send>>),
    Empty,
}

// -------------------------------------------------------------------------------------- by type of future

impl<F: Future> Body<F> {
    const VTABLE: VTable = VTable {
        poll: Self::poll,
        panicked: Self::panicked,
        clear: Self::clear,
        take: Self::take,
        free: Self::free,
    };

    /// # Safety
    ///
    /// `task` is a `Body<F>` that is alive, this is its core's thread, and nobody else is in the stage.
    unsafe fn stage<'a>(task: NonNull<Header>) -> &'a mut Stage<F> {
        // SAFETY: the header is the first field of a `Body<F>` (repr(C)), and the caller promises the rest.
        unsafe { &mut *task.cast::<Body<F>>().as_ref().stage.get() }
    }

    unsafe fn poll(task: NonNull<Header>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `run` calls this once at a time, on the core's thread, for a task that is not complete. RUNNING keeps
        // everybody else out of the stage until it is over. The future lies in the heap and is not moved until it is
        // dropped there.
        let future = match unsafe { Self::stage(task) } {
            // SAFETY: as above.
            Stage::Future(future) => unsafe { Pin::new_unchecked(future) },
            // SAFETY: `run` calls this for no task that is complete, nor for one that is RUNNING, whose future may be
            // half dropped. Any other has its future.
            _ => unsafe { std::hint::unreachable_unchecked() },
        };
        let output = std::task::ready!(future.poll(cx));
        // SAFETY: as above.
        unsafe { Self::finish(task, Ok(output)) };
        Poll::Ready(())
    }

    unsafe fn panicked(task: NonNull<Header>, payload: Box<dyn Any + Send>) {
        // SAFETY: the caller's promise, which is that of `finish`.
        unsafe { Self::finish(task, Err(payload)) };
    }

    /// # Safety
    ///
    /// The task is RUNNING and not complete, and the caller is the only one in the stage.
    unsafe fn finish(task: NonNull<Header>, result: Result<F::Output, Box<dyn Any + Send>>) {
        // A future whose drop panics has still delivered.
        // SAFETY: the caller's promise. The place is empty when it is written.
        unsafe {
            if mem::needs_drop::<F>() {
                contain(|| Self::clear(task));
            }
            ptr::write(Self::stage(task), Stage::Done(result));
        }
    }

    unsafe fn clear(task: NonNull<Header>) {
        /// Whatever happens while the old value is dropped, it is not dropped twice.
        struct Emptied<F: Future>(*mut Stage<F>);
        impl<F: Future> Drop for Emptied<F> {
            fn drop(&mut self) {
                // SAFETY: the place is valid, and what was there has been dropped.
                unsafe { ptr::write(self.0, Stage::Empty) };
            }
        }
        // SAFETY: the caller is the only one in the stage. The value is dropped in place, as a pinned future must be.
        unsafe {
            let stage: *mut Stage<F> = Self::stage(task);
            let _emptied = Emptied(stage);
            ptr::drop_in_place(stage);
        }
    }

    unsafe fn take(task: NonNull<Header>, to: *mut ()) {
        // SAFETY: the task is complete, so there is no future that must not be moved; the caller is its handle, on
        // the core's thread, and `to` is what `VTable::take` says, with the `T` of this future's output.
        unsafe {
            let result = match mem::replace(Self::stage(task), Stage::Empty) {
                Stage::Done(result) => result.map_err(JoinError::panicked),
                _ => Err(JoinError::cancelled()),
            };
            to.cast::<Result<F::Output, JoinError>>().write(result);
        }
    }

    unsafe fn free(task: NonNull<Header>) {
        // SAFETY: no reference is left. The stage is empty (see the module's text), and of the header's fields only the
        // awaiter could need a drop, and it was taken at completion.
        unsafe { dealloc(task.as_ptr().cast(), Layout::new::<Body<F>>()) };
    }
}

/// Makes a task of `future`, for the current thread's `core`, which has to put it into its list. Returns its handle.
///
/// # Safety
///
/// The core completes the task before it goes, and before anything that `future` borrows.
pub(super) unsafe fn spawn<F: Future>(core: &Core, future: F) -> (TaskPtr, Task<F::Output>) {
    let body = Box::new(Body {
        header: Header {
            vtable: &Body::<F>::VTABLE,
            refs: Refs::new(),
            posted: Posted::new(),
            core_id: core.id(),
            next: Cell::new(None),
            flags: Cell::new(HANDLE),
            siblings: Cell::new((None, None)),
            awaiter: Cell::new(None),
        },
        stage: UnsafeCell::new(Stage::Future(future)),
    });
    let task = NonNull::from(Box::leak(body)).cast::<Header>();
    (TaskPtr(task), Task { task: TaskPtr(task), core: NonNull::from(core), output: PhantomData })
}

// --------------------------------------------------------------------------------- on the core's thread

/// A task, on its core's thread. Does not keep it alive by itself: its owners see to that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TaskPtr(NonNull<Header>);

impl TaskPtr {
    /// The task of this core that `waker` wakes, if it is one. The waker keeps it alive.
    #[inline]
    pub fn of(waker: &Waker, core: &Core) -> Option<TaskPtr> {
        if !ptr::eq(waker.vtable(), &VTABLE) {
            return None;
        }
        // SAFETY: nobody but `raw_waker` makes a waker with this vtable, unless he promises (`Waker::new` is unsafe) that the
        // pointer beside it is such a waker's. And a waker has a reference.
        let task = unsafe { of_waker(waker.data()) };
        (task.core_id() == core.id()).then_some(TaskPtr(task.0))
    }

    /// The same without a look.
    ///
    /// # Safety
    ///
    /// It is the waker of a task of this thread's core.
    #[inline]
    pub unsafe fn of_own(waker: &Waker) -> TaskPtr {
        // SAFETY: the caller's promise.
        TaskPtr(unsafe { of_waker(waker.data()) }.0)
    }

    /// The header. Whoever has a `TaskPtr` is one of the local owners, or was called by one.
    fn header(&self) -> &Header {
        // SAFETY: a local owner keeps the task alive, and the fields that change are cells and atomics.
        unsafe { self.0.as_ref() }
    }

    pub fn is_complete(&self) -> bool {
        self.has(COMPLETE)
    }

    fn has(&self, flag: u8) -> bool {
        self.header().flags.get() & flag != 0
    }

    fn set(&self, flag: u8) {
        self.header().flags.set(self.header().flags.get() | flag);
    }

    fn unset(&self, flag: u8) {
        self.header().flags.set(self.header().flags.get() & !flag);
    }

    /// Polls a task that comes out of the run queue, unless it was cancelled in there (`false`). If this panics, the
    /// caller has to say so to [`panicked`](TaskPtr::panicked): to catch every poll by itself would cost each of them.
    #[inline]
    pub fn run(self, core: &Core) -> bool {
        let header = self.header();
        let flags = header.flags.get();
        // Cancelled in there; or its future is being dropped, further up on this stack, and runs its executor.
        if flags & (COMPLETE | RUNNING) != 0 {
            header.flags.set(flags & !SCHEDULED);
            self.release();
            return false;
        }
        header.flags.set(flags ^ (SCHEDULED | RUNNING));
        budget::grant();
        // SAFETY: the waker is not dropped, so it needs no reference of its own: this thread keeps the task.
        let waker = ManuallyDrop::new(unsafe { Waker::from_raw(raw_waker(self.0)) });
        // SAFETY: this is the core's thread, and the task is neither complete nor was it running. RUNNING keeps everybody
        // else out.
        let polled = unsafe { (header.vtable.poll)(self.0, &mut Context::from_waker(&waker)) };
        if polled.is_ready() {
            self.complete(core);
            return true;
        }
        let flags = header.flags.get() & !RUNNING;
        header.flags.set(flags);
        if flags & CANCELLED != 0 {
            self.cancel(core);
        }
        true
    }

    /// The poll of this task has unwound out of [`run`](TaskPtr::run).
    pub fn panicked(self, core: &Core, payload: Box<dyn Any + Send>) {
        // SAFETY: RUNNING is still set, so nobody else is in the stage, and the future is still there: the poll did not
        // come to its end.
        unsafe { (self.header().vtable.panicked)(self.0, payload) };
        self.complete(core);
    }

    /// Drops the future of a task that is not complete; at once, or, if it is running, after that.
    #[cold]
    pub fn cancel(self, core: &Core) {
        if self.drop_future() {
            self.complete(core);
        }
    }

    /// [`cancel`](TaskPtr::cancel), but for what follows (`true`): to [`complete`](TaskPtr::complete) it with its core, which
    /// is there.
    fn drop_future(self) -> bool {
        if self.has(COMPLETE) {
            return false;
        }
        if self.has(RUNNING) {
            self.set(CANCELLED);
            return false;
        }
        self.set(RUNNING);
        // SAFETY: this is the core's thread, and RUNNING keeps the others out of the stage.
        contain(|| unsafe { (self.header().vtable.clear)(self.0) });
        self.set(EMPTY);
        if self.has(COMPLETE) {
            // The future owned the executor, which has gone with it, and has seen to its part.
            self.finish_up();
            return false;
        }
        true
    }

    /// [`cancel`](TaskPtr::cancel), by the core, which goes. A task that is being cancelled already, further up on this
    /// stack, is one whose future owned the core: it is complete as far as that is concerned.
    pub fn end(self, core: &Core) {
        if self.has(RUNNING) {
            self.set(COMPLETE);
            core.forget(self);
        } else {
            self.cancel(core);
        }
    }

    /// The future of this task, which is RUNNING, has gone: the list gives it up, and whoever waits for the result may
    /// have it.
    fn complete(self, core: &Core) {
        self.set(COMPLETE);
        // This may wake whoever waits for the last task, who may drop the handle: so it comes first.
        core.forget(self);
        self.finish_up();
    }

    /// The rest of it, for which the core need not be there.
    fn finish_up(self) {
        if !self.has(HANDLE) {
            self.clear_output();
        }
        let awaiter = self.header().awaiter.take();
        self.unset(RUNNING);
        self.release();
        if let Some(awaiter) = awaiter {
            contain(|| awaiter.wake());
        }
    }

    fn clear_output(self) {
        // SAFETY: this is the core's thread; the task is complete and not running, and nobody will want the output.
        contain(|| unsafe { (self.header().vtable.clear)(self.0) });
    }

    /// An owner on the core's thread has gone: if it was the last one, so does the core's share.
    fn release(self) {
        let header = self.header();
        let flags = header.flags.get();
        if flags & COMPLETE != 0 && flags & (SCHEDULED | RUNNING | HANDLE) == 0 && header.refs.give_up() {
            // SAFETY: there was no other reference.
            unsafe { (header.vtable.free)(self.0) };
        }
    }
}

/// Tasks that are to be run, in order.
pub(super) struct Queue {
    /// How many tasks it has ever had.
    pushed: Cell<u64>,
    first: Cell<Option<TaskPtr>>,
    /// Of no use if there is no first one.
    last: Cell<TaskPtr>,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { pushed: Cell::new(0), first: Cell::new(None), last: Cell::new(TaskPtr(NonNull::dangling())) }
    }
}

impl Queue {
    /// Puts `task` at the end, unless it is in the queue or complete.
    #[inline]
    pub fn push_back(&self, task: TaskPtr) -> bool {
        let flags = task.header().flags.get();
        if flags & (SCHEDULED | COMPLETE) != 0 {
            return false;
        }
        task.header().flags.set(flags | SCHEDULED);
        self.pushed.set(self.pushed.get() + 1);
        self.append(task);
        true
    }

    pub fn pushed(&self) -> u64 {
        self.pushed.get()
    }

    #[inline]
    fn append(&self, task: TaskPtr) {
        task.header().next.set(None);
        let last = self.last.replace(task);
        let place = if self.is_empty() { &self.first } else { &last.header().next };
        place.set(Some(task));
    }

    /// The first one, which is to be [run](TaskPtr::run) now.
    #[inline]
    pub fn pop_front(&self) -> Option<TaskPtr> {
        let first = self.first.get()?;
        self.first.set(first.header().next.get());
        Some(first)
    }

    /// Puts the first one at the end.
    pub fn rotate(&self) {
        if let Some(first) = self.pop_front() {
            self.append(first);
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.get().is_none()
    }
}

/// The tasks of a core that are not complete.
#[derive(Default)]
pub(super) struct Tasks {
    first: Cell<Option<TaskPtr>>,
    len: Cell<usize>,
}

impl Tasks {
    #[inline]
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// The one that came last.
    pub fn first(&self) -> Option<TaskPtr> {
        self.first.get()
    }

    pub fn each(&self, f: impl Fn(TaskPtr)) {
        let mut next = self.first.get();
        while let Some(task) = next {
            next = task.header().siblings.get().1;
            f(task);
        }
    }

    #[inline]
    pub fn insert(&self, task: TaskPtr) {
        let next = self.first.replace(Some(task));
        task.header().siblings.set((None, next));
        if let Some(next) = next {
            next.header().siblings.set((Some(task), next.header().siblings.get().1));
        }
        self.len.set(self.len.get() + 1);
    }

    #[inline]
    pub fn remove(&self, task: TaskPtr) {
        let (prev, next) = task.header().siblings.get();
        match prev {
            Some(prev) => prev.header().siblings.set((prev.header().siblings.get().0, next)),
            None => self.first.set(next),
        }
        if let Some(next) = next {
            next.header().siblings.set((prev, next.header().siblings.get().1));
        }
        self.len.set(self.len.get() - 1);
    }
}

/// The handle of a task on the same core: join it, cancel it, or let it go.
///
/// Awaiting it gives the task's result; a panic in the task is a [`JoinError`] that carries what it panicked with.
/// **Dropping it cancels the task**: its future is dropped at once. To let the task run on by itself,
/// [`detach`](Task::detach) it.
///
/// It stays on its thread. For a handle that can go to another one, see [`spawn`](crate::spawn).
///
/// # Cancel safety
///
/// Awaiting `&mut task` can be given up and taken up again.
///
/// # Examples
///
/// ```
/// use wakewheel::{LocalExecutor, spawn_local};
///
/// let executor = LocalExecutor::new()?;
/// let sum = executor.block_on(async {
///     let a = spawn_local(async { 3 });
///     let b = spawn_local(async { 4 });
///     a.await.unwrap() + b.await.unwrap()
/// });
/// assert_eq!(sum, 7);
/// # std::io::Result::Ok(())
/// ```
#[must_use = "dropping a task cancels it: await it, or call .detach() to let it run by itself"]
pub struct Task<T> {
    task: TaskPtr,
    /// Valid as long as the task is not complete: a core completes all its tasks before it goes.
    core: NonNull<Core>,
    output: PhantomData<*mut T>,
}

impl<T> Unpin for Task<T> {}

impl<T> Task<T> {
    /// Lets the task run by itself, until it ends or its executor does. Its result is dropped.
    pub fn detach(self) {
        let task = ManuallyDrop::new(self).task;
        task.let_go();
    }

    /// Cancels the task: its future is dropped before this returns, unless this is the task itself.
    ///
    /// Returns the result if the task was done already.
    pub fn cancel(mut self) -> Option<Result<T, JoinError>> {
        let done = self.is_finished();
        self.end();
        if done { Some(self.take()) } else { None }
    }

    pub(super) fn to_ref(&self) -> TaskRef {
        self.task.header().refs.add(is_here(self.task.header()));
        TaskRef(self.task.0)
    }

    /// Is it done, or cancelled? Then awaiting it does not wait.
    pub fn is_finished(&self) -> bool {
        self.task.has(COMPLETE)
    }

    /// Cancels it, if it is not complete.
    #[inline]
    fn end(&self) {
        if !self.is_finished() && self.task.drop_future() {
            // SAFETY: the task is not complete, so its core is there, and this is its thread.
            self.task.complete(unsafe { self.core.as_ref() });
        }
    }

    fn take(&mut self) -> Result<T, JoinError> {
        let mut result = MaybeUninit::<Result<T, JoinError>>::uninit();
        // SAFETY: the task is complete, this is its handle on its core's thread, and `T` is the output's type.
        unsafe { (self.task.header().vtable.take)(self.task.0, result.as_mut_ptr().cast()) };
        self.task.set(EMPTY);
        // SAFETY: `take` has written it.
        unsafe { result.assume_init() }
    }
}

impl TaskPtr {
    /// The handle goes.
    #[inline]
    fn let_go(self) {
        // Nobody waits any more. Somebody can have done so only if the task is not complete.
        let mut awaiter = None;
        match self.header().flags.get() & (COMPLETE | RUNNING | EMPTY) {
            COMPLETE => self.clear_output(),
            0 | RUNNING => awaiter = self.header().awaiter.take(),
            _ => {}
        }
        self.unset(HANDLE);
        self.release();
        drop(awaiter);
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    /// Polled again after it gave the result, it says that the task was cancelled.
    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.is_finished() {
            return Poll::Ready(self.take());
        }
        let awaiter = &self.task.header().awaiter;
        let waker = match awaiter.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        awaiter.set(Some(waker));
        if self.is_finished() {
            // To clone a waker may be anything, and the task has come to its end meanwhile.
            drop(self.task.header().awaiter.take());
            return Poll::Ready(self.take());
        }
        Poll::Pending
    }
}

impl<T> Drop for Task<T> {
    #[inline]
    fn drop(&mut self) {
        self.end();
        self.task.let_go();
    }
}

impl<T> std::fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("is_finished", &self.is_finished()).finish_non_exhaustive()
    }
}

// ---------------------------------------------------------------------------------------- on any thread

/// A reference to a task, which any thread may hold: a letter to its core.
pub(super) struct TaskRef(NonNull<Header>);

// SAFETY: it gives access to nothing but `refs`, `posted` and `core_id`; the rest is for `open`, on the core's thread.
unsafe impl Send for TaskRef {}
// SAFETY: as above.
unsafe impl Sync for TaskRef {}

impl TaskRef {
    fn header(&self) -> &Header {
        // SAFETY: the reference keeps the task alive. See above for what may be touched.
        unsafe { self.0.as_ref() }
    }

    pub fn core_id(&self) -> u64 {
        self.header().core_id
    }

    /// The task itself, on its core's thread.
    pub fn open(&self, core: &Core) -> TaskPtr {
        assert_eq!(self.core_id(), core.id(), "this task belongs to another core");
        TaskPtr(self.0)
    }

    pub fn posted(&self) -> &Posted {
        &self.header().posted
    }

    /// If this is the thread of the task's core: into the run queue, without a letter.
    #[inline]
    fn wake_here(&self) -> bool {
        core::with_current(|core| match core {
            Some(core) if core.id() == self.core_id() => {
                core.schedule(TaskPtr(self.0));
                true
            }
            _ => false,
        })
    }

    /// The end of this reference. `here`: this is the core's thread.
    #[inline]
    fn give_up(&self, here: bool) {
        if self.header().refs.sub(here) {
            // SAFETY: it was the last reference.
            unsafe { (self.header().vtable.free)(self.0) };
        }
    }

    #[cold]
    fn wake_there(self) {
        if self.posted().set() {
            core::post(self);
        }
    }
}

impl Clone for TaskRef {
    #[inline]
    fn clone(&self) -> TaskRef {
        self.header().refs.add(is_here(self.header()));
        TaskRef(self.0)
    }
}

impl Drop for TaskRef {
    #[inline]
    fn drop(&mut self) {
        self.give_up(is_here(self.header()));
    }
}

/// Is this the thread of the task's core? (If the core is not being run, no: then everybody counts as another thread.)
#[inline]
fn is_here(task: &Header) -> bool {
    core::with_current(|core| core.is_some_and(|core| core.id() == task.core_id))
}

/// Of all wakers of tasks, and no others. (A static: it has one address.)
static VTABLE: RawWakerVTable = RawWakerVTable::new(waker_clone, waker_wake, waker_wake_by_ref, waker_drop);

fn raw_waker(task: NonNull<Header>) -> RawWaker {
    RawWaker::new(task.as_ptr().cast(), &VTABLE)
}

/// The reference that a waker is, or was.
///
/// # Safety
///
/// `task` comes from [`raw_waker`], and whoever has the waker has a reference (the waker that [`run`](TaskPtr::run) lends
/// is covered by the core's share). It stays the waker's as long as what is returned is not dropped.
unsafe fn of_waker(task: *const ()) -> ManuallyDrop<TaskRef> {
    // SAFETY: a waker's pointer is not null.
    ManuallyDrop::new(TaskRef(unsafe { NonNull::new_unchecked(task.cast_mut().cast::<Header>()) }))
}

unsafe fn waker_clone(task: *const ()) -> RawWaker {
    // SAFETY: called for a waker. The new reference is the new waker's.
    let task = ManuallyDrop::new(unsafe { TaskRef::clone(&of_waker(task)) });
    raw_waker(task.0)
}

unsafe fn waker_wake(task: *const ()) {
    // SAFETY: called for a waker, which ends here.
    let task = unsafe { of_waker(task) };
    if task.wake_here() {
        task.give_up(true);
    } else {
        ManuallyDrop::into_inner(task).wake_there();
    }
}

unsafe fn waker_wake_by_ref(task: *const ()) {
    // SAFETY: called for a waker.
    let task = unsafe { of_waker(task) };
    if !task.wake_here() {
        TaskRef::clone(&task).wake_there();
    }
}

unsafe fn waker_drop(task: *const ()) {
    // SAFETY: called for a waker, which ends here.
    drop(ManuallyDrop::into_inner(unsafe { of_waker(task) }));
}
