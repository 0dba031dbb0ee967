//! Systems with kqueue: signals and the exit of children, as the kernel tells of them.
//!
//! For programs that were written for async-io. [`Signals`](crate::io::Signals) is there on all systems.

use crate::Async;
use crate::io::Readable;
use crate::sys::queue;
use sealed::{Registration, Sealed};
use std::fmt;
use std::future::Future;
use std::io;
use std::num::NonZeroI32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::process::Child;
use std::task::{Context, Poll, ready};

/// Waits for what kqueue can tell of beside descriptors: a [`Signal`], or the [`Exit`] of a child.
///
/// Each has a kqueue of its own, which is registered like any descriptor: it works on every backend, and several can wait
/// for the same.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroI32;
/// use std::process::Command;
/// use wakewheel::os::kqueue::{Exit, Filter};
///
/// let mut child = Command::new("true").spawn()?;
/// let pid = NonZeroI32::new(child.id() as i32).unwrap();
/// // SAFETY: it is a child, and is not waited for before that.
/// let exit = Filter::new(unsafe { Exit::from_pid(pid) })?;
/// wakewheel::block_on(exit.ready())?;
/// assert!(child.wait()?.success());
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct Filter<T>(Inner<T>);

#[derive(Debug)]
enum Inner<T> {
    /// A child that has exited before it could be registered.
    Over(T),
    /// `repeats`: it can happen again, and is to be taken.
    Queue { queue: Async<queue::Filter>, repeats: bool, value: T },
    /// A descriptor, which somebody has made a filter of.
    Descriptor(Async<T>),
}

impl<T> Unpin for Filter<T> {}

impl<T: Queueable> Filter<T> {
    /// Waits for it from now on.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a number that is no signal; no descriptors left.
    pub fn new(mut filter: T) -> io::Result<Filter<T>> {
        let (queue, repeats) = match filter.registration() {
            Registration::Signal(number) => (Some(queue::Filter::signal(number)?), true),
            Registration::Exit(pid) => (queue::Filter::exit(pid.get())?, false),
        };
        Ok(Filter(match queue {
            Some(queue) => Inner::Queue { queue: Async::new_nonblocking(queue)?, repeats, value: filter },
            None => Inner::Over(filter),
        }))
    }
}

impl<T> Filter<T> {
    /// What it waits for.
    pub fn get_ref(&self) -> &T {
        match &self.0 {
            Inner::Over(value) | Inner::Queue { value, .. } => value,
            Inner::Descriptor(io) => io.get_ref(),
        }
    }

    /// What it was made of, mutable. What it waits for does not change by that.
    pub fn get_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Inner::Over(value) | Inner::Queue { value, .. } => value,
            // SAFETY: a value of safe code that replaces its descriptor makes this wait in vain, or for another file of the
            // program's. Nothing else relies on it: a filter does not read or write.
            Inner::Descriptor(io) => unsafe { io.get_mut() },
        }
    }

    /// Ends the registration and gives back what it was made of.
    ///
    /// # Errors
    ///
    /// If the registration cannot be ended, because somebody else closed the descriptor; then the value is dropped.
    pub fn into_inner(self) -> io::Result<T> {
        match self.0 {
            Inner::Over(value) => Ok(value),
            Inner::Queue { queue, value, .. } => queue.into_inner().map(|_| value),
            Inner::Descriptor(io) => io.into_inner(),
        }
    }

    /// Waits until it has happened: a child stays exited. A signal is told to all tasks that wait for it here; one that comes
    /// while none does, to the next that waits. Several before that are one.
    ///
    /// # Errors
    ///
    /// If its reactor has stopped and it cannot be registered with another.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time.
    pub fn ready(&self) -> Ready<'_, T> {
        Ready { filter: self, wait: Wait::None }
    }

    /// Like [`ready`](Filter::ready), for one task at a time: a second one takes the place of the first, which is woken.
    ///
    /// # Errors
    ///
    /// If its reactor has stopped and it cannot be registered with another.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let queue = match &self.0 {
            Inner::Over(_) => return Poll::Ready(Ok(())),
            Inner::Descriptor(io) => return io.poll_readable(cx),
            Inner::Queue { queue, repeats: false, .. } => return queue.poll_readable(cx),
            Inner::Queue { queue, repeats: true, .. } => queue,
        };
        if queue.get_ref().take()? {
            return Poll::Ready(Ok(()));
        }
        ready!(queue.poll_readable(cx))?;
        if queue.get_ref().take()? { Poll::Ready(Ok(())) } else { again(cx) }
    }
}

/// Somebody else was faster, at this very moment.
fn again<R>(cx: &mut Context<'_>) -> Poll<R> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Future of [`Filter::ready`].
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct Ready<'a, T> {
    filter: &'a Filter<T>,
    wait: Wait<'a, T>,
}

enum Wait<'a, T> {
    None,
    Queue(Readable<'a, queue::Filter>),
    Descriptor(Readable<'a, T>),
}

impl<T> Future for Ready<'_, T> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Ready { filter, wait } = &mut *self;
        match wait {
            Wait::Queue(readable) => {
                ready!(Pin::new(readable).poll(cx))?;
                // It has come while this one waited, whoever takes it.
                if let Inner::Queue { queue, repeats: true, .. } = &filter.0 {
                    queue.get_ref().take()?;
                }
                *wait = Wait::None;
                return Poll::Ready(Ok(()));
            }
            Wait::Descriptor(readable) => return Pin::new(readable).poll(cx),
            Wait::None => {}
        }
        let (queue, repeats) = match &filter.0 {
            Inner::Over(_) => return Poll::Ready(Ok(())),
            Inner::Descriptor(io) => {
                let mut readable = io.readable();
                let result = Pin::new(&mut readable).poll(cx);
                *wait = Wait::Descriptor(readable);
                return result;
            }
            Inner::Queue { queue, repeats, .. } => (queue, *repeats),
        };
        if repeats && queue.get_ref().take()? {
            return Poll::Ready(Ok(()));
        }
        let mut readable = queue.readable();
        if Pin::new(&mut readable).poll(cx)?.is_pending() {
            *wait = Wait::Queue(readable);
            return Poll::Pending;
        }
        if !repeats || queue.get_ref().take()? { Poll::Ready(Ok(())) } else { again(cx) }
    }
}

impl<T> fmt::Debug for Ready<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").finish_non_exhaustive()
    }
}

impl<T> AsRef<T> for Filter<T> {
    fn as_ref(&self) -> &T {
        self.get_ref()
    }
}

impl<T> AsMut<T> for Filter<T> {
    fn as_mut(&mut self) -> &mut T {
        self.get_mut()
    }
}

impl<T: AsRawFd> AsRawFd for Filter<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.get_ref().as_raw_fd()
    }
}

impl<T: AsFd> AsFd for Filter<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get_ref().as_fd()
    }
}

/// Ready when the descriptor is readable.
impl<T: AsFd + From<OwnedFd>> TryFrom<OwnedFd> for Filter<T> {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Filter<T>> {
        Async::try_from(fd).map(|io| Filter(Inner::Descriptor(io)))
    }
}

impl<T: Into<OwnedFd>> TryFrom<Filter<T>> for OwnedFd {
    type Error = io::Error;

    fn try_from(filter: Filter<T>) -> io::Result<OwnedFd> {
        filter.into_inner().map(Into::into)
    }
}

/// What a [`Filter`] can wait for.
pub trait Queueable: Sealed {}

/// A signal, by its number. It also does what it did before, which for most is to end the process: set it to be ignored, or
/// handled. The kernel tells of it all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(pub i32);

impl Queueable for Signal {}

impl Sealed for Signal {
    fn registration(&mut self) -> Registration {
        Registration::Signal(self.0)
    }
}

/// The exit of a child. It can be waited for (as with [`Child::wait`]) from then on, and has to be, by whoever has the
/// [`Child`].
#[derive(Debug)]
pub struct Exit(NonZeroI32);

impl Exit {
    /// Of this child. To keep it, use [`from_pid`](Exit::from_pid).
    pub fn new(child: Child) -> Exit {
        let pid = i32::try_from(child.id()).ok().and_then(NonZeroI32::new);
        Exit(pid.expect("the number of a process is positive"))
    }

    /// Of the child with this number.
    ///
    /// # Safety
    ///
    /// It must be a child of this process that nobody has waited for, and nobody does before a [`Filter`] is made of this: the
    /// number may pass to another process then.
    pub unsafe fn from_pid(pid: NonZeroI32) -> Exit {
        Exit(pid)
    }
}

impl Queueable for Exit {}

impl Sealed for Exit {
    fn registration(&mut self) -> Registration {
        Registration::Exit(self.0)
    }
}

mod sealed {
    use std::num::NonZeroI32;

    pub trait Sealed {
        fn registration(&mut self) -> Registration;
    }

    pub enum Registration {
        Signal(i32),
        Exit(NonZeroI32),
    }
}
