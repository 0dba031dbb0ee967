//! A descriptor that somebody else reads and writes.

use super::Source;
use super::source::WatchHome;
use crate::sys::{Ready, Trigger, Watched};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::ops::{BitAnd, BitOr, BitOrAssign};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// What a [`Watch`] waits for, and what it has found: a set of bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Interest(u8);

impl Interest {
    /// Nothing.
    pub const NONE: Interest = Interest(0);
    /// There is something to read, or the end.
    pub const READ: Interest = Interest(Ready::READABLE.0);
    /// There is room to write.
    pub const WRITE: Interest = Interest(Ready::WRITABLE.0);
    /// The peer has hung up, or has shut down its writing side.
    pub const CLOSED: Interest = Interest(Ready::READ_CLOSED.0);
    const ALL: Interest = Interest(Ready::READABLE.0 | Ready::WRITABLE.0 | Ready::READ_CLOSED.0);

    /// Are all bits of `other` among these?
    pub const fn contains(self, other: Interest) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is there none?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What the kernel says. A hang-up or an error counts as everything.
    fn found(ready: Ready) -> Interest {
        if ready.intersects(Ready::ERROR | Ready::HANGUP) {
            return Interest::ALL;
        }
        Interest(ready.0) & Interest::ALL
    }
}

impl BitOr for Interest {
    type Output = Interest;
    fn bitor(self, other: Interest) -> Interest {
        Interest(self.0 | other.0)
    }
}

impl BitOrAssign for Interest {
    fn bitor_assign(&mut self, other: Interest) {
        self.0 |= other.0;
    }
}

impl BitAnd for Interest {
    type Output = Interest;
    fn bitand(self, other: Interest) -> Interest {
        Interest(self.0 & other.0)
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Interest::READ, "READ"), (Interest::WRITE, "WRITE"), (Interest::CLOSED, "CLOSED")];
        let mut names = names.iter().filter(|(bit, _)| self.contains(*bit)).map(|(_, name)| *name);
        f.write_str(names.next().unwrap_or("NONE"))?;
        names.try_for_each(|name| write!(f, " | {name}"))
    }
}

/// Waits for a descriptor that is somebody else's: a library's socket, or whatever a loop of callbacks is about. It reads and
/// writes nothing, changes no flag of the descriptor, and belongs to the reactor that it is made on.
///
/// Where an [`Async`](crate::Async) is registered once, for both directions and edge-triggered, and asks the kernel when it
/// has been used by others, a watch is registered for exactly what it waits for: one system call to make it, one to change
/// or drop it, and none for a wait. [Level-triggered](Trigger::Level), the reactor hears of it in each turn, as long as it
/// is ready. So it should be used by the thread that turns the reactor, which takes what is found after each turn; on
/// the shared reactor, a watch that is ready and not attended to keeps a processor busy.
///
/// The descriptor is known by its number. The watch must be dropped before the descriptor is closed. If it is not,
/// nothing is heard any more; and a new file with the same number is not disturbed by it.
///
/// # Examples
///
/// ```
/// use std::{io::{Read, Write}, os::unix::net::UnixStream};
/// use wakewheel::reactor::{Interest, Trigger, Watch};
/// use wakewheel::LocalExecutor;
///
/// let (mut ours, mut theirs) = UnixStream::pair()?;
/// LocalExecutor::new()?.block_on(async {
///     let mut watch = Watch::new(&ours, Interest::READ, Trigger::Level)?;
///     theirs.write_all(b"ab")?;
///     for expected in *b"ab" {
///         assert_eq!(watch.ready().await?, Interest::READ);
///         let mut byte = [0];
///         ours.read_exact(&mut byte)?;
///         assert_eq!(byte[0], expected);
///     }
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub struct Watch {
    source: Arc<Source>,
    home: WatchHome,
    /// As in the source, which so is not looked at for it.
    fd: RawFd,
    watched: Watched,
    /// The peer has gone, which does not change any more.
    is_closed: bool,
}

impl Watch {
    /// Starts to watch `fd`. What it is ready for already is reported.
    ///
    /// # Errors
    ///
    /// Those of [`Async::new`](crate::Async::new): `PermissionDenied` for a regular file, `AlreadyExists` if the descriptor is
    /// registered with a reactor, by an `Async` or another watch; what the kernel says of a closed one. `Unsupported` for
    /// [`Trigger::Edge`] on a system that has only poll(2). For [`Interest::NONE`], the first
    /// [`set_interest`](Watch::set_interest) has these errors.
    pub fn new(fd: &impl AsRawFd, interest: Interest, trigger: Trigger) -> io::Result<Watch> {
        let fd = fd.as_raw_fd();
        let watched = Watched { interest: Ready(interest.0), trigger };
        let (source, home) = Source::register_watch(fd, watched)?;
        Ok(Watch { source, home, fd, watched, is_closed: false })
    }

    /// Waits for something else from now on. What the descriptor is ready for already is reported, also if it has been
    /// before.
    ///
    /// While it waits for [nothing](Interest::NONE), its descriptor is not registered: it may be closed, or watched by somebody
    /// else. To wait for something again allocates nothing.
    ///
    /// # Errors
    ///
    /// The kernel's, which means that the descriptor was closed by somebody else; after it has waited for nothing, those of
    /// [`new`](Watch::new). Then nothing has changed.
    pub fn set_interest(&mut self, interest: Interest) -> io::Result<()> {
        let watched = Watched { interest: Ready(interest.0), ..self.watched };
        match (self.watched.interest, watched.interest) {
            (Ready::NONE, Ready::NONE) => {}
            (Ready::NONE, _) => self.source.unpark_watch(&mut self.home, self.fd, watched)?,
            (_, Ready::NONE) => self.stop(),
            _ => self.source.change_watch(&mut self.home, watched)?,
        }
        self.watched = watched;
        Ok(())
    }

    /// It waits for nothing from now on, having waited for something.
    #[inline(always)]
    pub(crate) fn stop(&mut self) {
        self.home.park(self.fd);
        self.watched.interest = Ready::NONE;
        // The next one with the number may be another.
        self.is_closed = false;
    }

    /// What it waits for.
    pub fn interest(&self) -> Interest {
        Interest(self.watched.interest.0)
    }

    /// Level or edge.
    pub fn trigger(&self) -> Trigger {
        self.watched.trigger
    }

    /// Takes what has been found since the last time: a part of what it waits for, and not nothing. One task can wait.
    ///
    /// # Errors
    ///
    /// If its reactor has stopped and it cannot be registered with another.
    #[inline]
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Interest>> {
        loop {
            let ready = match self.source.poll_watch(&mut self.home, self.watched, cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending if !self.is_closed => return Poll::Pending,
                Poll::Pending => Ready::NONE,
            };
            let mut found = Interest::found(ready);
            self.is_closed |= found.contains(Interest::CLOSED);
            // kqueue tells of it once only.
            if self.is_closed && self.watched.trigger == Trigger::Level {
                found |= Interest::CLOSED;
            }
            let found = found & self.interest();
            if !found.is_empty() {
                return Poll::Ready(Ok(found));
            }
            if ready == Ready::NONE {
                return Poll::Pending;
            }
        }
    }

    /// [`poll_ready`](Watch::poll_ready), and waits on in the same step, for those who come back whenever they are woken: a
    /// loop of callbacks. If there is something new already, the waker is woken at once.
    ///
    /// # Errors
    ///
    /// Those of [`poll_ready`](Watch::poll_ready).
    #[inline]
    pub fn take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Interest>> {
        if self.watched.interest == Ready::READABLE && self.source.take_readable(&self.home, cx) {
            return Poll::Ready(Ok(Interest::READ));
        }
        let mut found = ready!(self.poll_ready(cx))?;
        if let Poll::Ready(more) = self.poll_ready(cx) {
            found |= more?;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(found))
    }

    /// Waits until something is found. See [`poll_ready`](Watch::poll_ready).
    ///
    /// # Errors
    ///
    /// Those of [`poll_ready`](Watch::poll_ready).
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time.
    pub async fn ready(&mut self) -> io::Result<Interest> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }
}

/// The number of the descriptor.
impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The descriptor may have been closed, and there is nobody to tell.
        let _ = self.home.remove(self.fd);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("fd", &self.fd)
            .field("interest", &self.interest())
            .field("trigger", &self.trigger())
            .finish_non_exhaustive()
    }
}
