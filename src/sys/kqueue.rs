//! kqueue(2): two edge-triggered filters per descriptor, one for each direction.
//!
//! What is not as with epoll: the directions come as two events with the same token. To register twice is no error,
//! it changes the token. Nothing tells of urgent data. A child of fork has none of its parent's kqueues.
//!
//! `--cfg wakewheel_libkqueue` builds this on Linux, over a kqueue in user space that is made of epoll. What it does
//! differently is put right where that name stands below, and in its own file, except that a wait may leave events though
//! there is room for them, and that in a child of fork it closes the numbers of kqueues that the parent has closed a
//! moment before, whosever they are by then.

use super::notifier::Notifier;
use super::queue::{BLANK, Queue, bsd, succeed};
use super::{Backend, EVENTS_PER_WAIT_MAX, Event, NOTIFY_TOKEN, Ready, Trigger, Watched};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

pub(crate) const BACKEND: Backend = Backend::Kqueue;

#[derive(Debug)]
pub(crate) struct Poller {
    queue: Queue,
    /// Where there is no EVFILT_USER: OpenBSD before 7.8, NetBSD before 10.
    notifier: Option<Notifier>,
}

pub(crate) struct RawEvents {
    room: Box<[bsd::kevent]>,
    /// How many the last wait had.
    pub len: usize,
}

// SAFETY: the pointers in it are tokens, which nobody follows.
unsafe impl Send for RawEvents {}
// SAFETY: as above.
unsafe impl Sync for RawEvents {}

impl Default for RawEvents {
    fn default() -> RawEvents {
        RawEvents { room: vec![BLANK; EVENTS_PER_WAIT_MAX].into_boxed_slice(), len: 0 }
    }
}

impl RawEvents {
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Event> + '_ {
        self.room[..self.len].iter().map(|e| Event { token: e.udata as u64, ready: ready(e) })
    }
}

impl std::fmt::Debug for RawEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawEvents")
    }
}

#[cfg(not(target_os = "netbsd"))]
type Flags = u16;
#[cfg(target_os = "netbsd")]
type Flags = u32;

impl Poller {
    pub fn new() -> io::Result<Poller> {
        let mut poller = Poller { queue: Queue::new()?, notifier: None };
        if poller.user(bsd::EV_ADD | bsd::EV_CLEAR, 0).is_err() {
            let notifier = Notifier::new()?;
            // Level-triggered, and drained: under EV_CLEAR it would fill up, and what is full has no more edges.
            let [_, read] = both(notifier.as_fd().as_raw_fd(), bsd::EV_ADD, NOTIFY_TOKEN);
            succeed(poller.queue.change([read])?[0])?;
            poller.notifier = Some(notifier);
        }
        Ok(poller)
    }

    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        super::poll::file(fd)?;
        if cfg!(wakewheel_libkqueue) {
            // It does not see that a file was closed, and would change what it has of that one.
            let _ = self.delete(fd);
        }
        let [write, read] = self.queue.change(both(fd, bsd::EV_ADD | bsd::EV_CLEAR, token))?;
        // A file with one direction refuses the other filter, with an errno that depends on the system.
        if (write == 0 || read == 0) && write != libc::ENOMEM && read != libc::ENOMEM {
            return Ok(());
        }
        let _ = self.delete(fd);
        succeed(read).and(succeed(write))
    }

    /// Each filter is made anew: the flags of one that is there cannot be changed.
    pub fn watch(&self, fd: RawFd, token: u64, watched: Watched, is_new: bool) -> io::Result<()> {
        if is_new {
            super::poll::file(fd)?;
        }
        let wants_read = watched.interest.contains(Ready::READABLE);
        let wants_closed = watched.interest.contains(Ready::READ_CLOSED);
        let wants_write = watched.interest.contains(Ready::WRITABLE);
        // Who waits for the end alone is not to be told of data again and again: there, it is an edge, and who asked for
        // the level has to remember it.
        let clear = |level: bool| if level && watched.trigger == Trigger::Level { 0 } else { bsd::EV_CLEAR };
        let [write_off, read_off] = both(fd, bsd::EV_DELETE, token);
        let [write_on, _] = both(fd, bsd::EV_ADD | clear(true), token);
        let [_, read_on] = both(fd, bsd::EV_ADD | clear(wants_read), token);
        // What is not there cannot be deleted, and need not be.
        self.queue.change([write_off, read_off])?;
        let mut errnos = [0; 2];
        if wants_write {
            errnos[0] = self.queue.change([write_on])?[0];
        }
        if wants_read || wants_closed {
            errnos[1] = self.queue.change([read_on])?[0];
        }
        let result = succeed(errnos[1]).and(succeed(errnos[0]));
        if result.is_err() {
            let _ = self.delete(fd);
        }
        result
    }

    pub fn delete(&self, fd: RawFd) -> io::Result<()> {
        let [write, read] = self.queue.change(both(fd, bsd::EV_DELETE, 0))?;
        succeed(read).or(succeed(write))
    }

    pub fn holds(&self, fd: RawFd, token: u64) -> bool {
        if cfg!(wakewheel_libkqueue) {
            // Only epoll knows, and is only asked when a filter comes to, or leaves, another one.
            let [write, read] = both(fd, bsd::EV_DELETE, token);
            let [write_again, read_again] = both(fd, bsd::EV_ADD | bsd::EV_CLEAR, token);
            let held = self
                .queue
                .change([write, write_again, read, read_again])
                .is_ok_and(|errnos| errnos == [0; 4]);
            if !held {
                let _ = self.delete(fd);
            }
            return held;
        }
        self.queue.change(both(fd, 0, token)).is_ok_and(|errnos| errnos.contains(&0))
    }

    fn user(&self, flags: Flags, fflags: u32) -> io::Result<()> {
        let (filter, udata) = (bsd::EVFILT_USER, NOTIFY_TOKEN as _);
        succeed(self.queue.change([bsd::kevent { filter, flags, fflags, udata, ..BLANK }])?[0])
    }

    pub fn wait(&self, raw: &mut RawEvents, timeout: Option<Duration>) -> io::Result<()> {
        raw.len = match self.queue.wait(&mut raw.room, timeout) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        if let Some(notifier) = self.notifier.as_ref().filter(|_| raw.iter().any(|e| e.token == NOTIFY_TOKEN))
        {
            notifier.drain();
        }
        Ok(())
    }

    pub fn notify(&self) {
        match &self.notifier {
            Some(notifier) => notifier.notify(),
            // It changes what is there and needs no memory: it does not fail.
            None => drop(self.user(0, bsd::NOTE_TRIGGER)),
        }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// A change to both filters of `fd`. In this order: libkqueue forgets EPOLLRDHUP when another filter joins the reading
/// one.
fn both(fd: RawFd, flags: Flags, token: u64) -> [bsd::kevent; 2] {
    let (ident, udata) = (fd as _, token as _);
    [bsd::EVFILT_WRITE, bsd::EVFILT_READ].map(|filter| bsd::kevent { ident, filter, flags, udata, ..BLANK })
}

fn ready(event: &bsd::kevent) -> Ready {
    let eof = event.flags & bsd::EV_EOF != 0;
    let mut ready = match event.filter {
        // Our own shutdown sets EOF here too, so it says nothing of the peer.
        bsd::EVFILT_WRITE => Ready::WRITABLE,
        // No word of an urgent mark: any read may stop at one.
        bsd::EVFILT_READ if eof => Ready::READABLE | Ready::PRIORITY | Ready::READ_CLOSED,
        bsd::EVFILT_READ => Ready::READABLE | Ready::PRIORITY,
        _ => Ready::READABLE,
    };
    if event.flags & bsd::EV_ERROR != 0 || eof && event.fflags != 0 {
        ready |= Ready::ERROR | Ready::READABLE | Ready::WRITABLE;
    }
    ready
}
