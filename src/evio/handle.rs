//! A connection, as seen from other threads.

use super::Addr;
use crate::reactor::contain;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::Waker;

/// A connection, for any thread: to write to it, wake it, and close it.
///
/// It keeps nothing alive: when the connection is over, it says so, and its addresses can still be read. It never reaches
/// another connection, even if that has got the same descriptor.
///
/// The context of a connection stays on its loop; what others shall see of it is an `Arc` in there.
///
/// # Examples
///
/// An answer that a thread computes:
///
/// ```
/// use wakewheel::evio::{Events, Reply};
///
/// let events = Events::new().data(|conn, input| {
///     let (conn, question) = (conn.handle(), input.to_vec());
///     std::thread::spawn(move || {
///         // The client may have gone meanwhile.
///         let _ = conn.write(&question);
///     });
///     Reply::none()
/// });
/// # drop(events);
/// ```
pub struct ConnHandle(Arc<Shared>);

pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What a connection and its handles share.
pub(super) struct Shared {
    id: u64,
    signals: AtomicU8,
    handles: AtomicUsize,
    queue: Mutex<Queue>,
    pub local: OnceLock<Addr>,
    pub peer: OnceLock<Addr>,
}

struct Queue {
    bytes: Vec<u8>,
    /// Who wants to know when the first so many bytes of all that were ever queued have been sent.
    done: Vec<(u64, Done)>,
    /// How many bytes were ever queued.
    end: u64,
    /// How many bytes the connection itself holds.
    held: usize,
    high_water: usize,
    closed: bool,
    waker: Option<Waker>,
}

/// Signals to the connection.
pub(super) const WAKE: u8 = 1;
pub(super) const WRITE: u8 = 2;
pub(super) const CLOSE: u8 = 4;
pub(super) const FORCE: u8 = 8;
/// From the connection: it wants to hear when the last handle goes.
const LONELY: u8 = 16;

pub(super) const HIGH_WATER: usize = 1 << 20;

impl ConnHandle {
    pub(super) fn new(id: u64, high_water: usize) -> ConnHandle {
        ConnHandle(Arc::new(Shared {
            id,
            signals: AtomicU8::new(0),
            handles: AtomicUsize::new(1),
            queue: Mutex::new(Queue {
                bytes: Vec::new(),
                done: Vec::new(),
                end: 0,
                held: 0,
                high_water,
                closed: false,
                waker: None,
            }),
            local: OnceLock::new(),
            peer: OnceLock::new(),
        }))
    }

    pub(super) fn of(shared: &Arc<Shared>) -> ConnHandle {
        shared.handles.fetch_add(1, Ordering::Relaxed);
        ConnHandle(shared.clone())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// A number that no other connection of this process has.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The address of this side. `None` while it is being dialed, or if that failed.
    pub fn local_addr(&self) -> Option<&Addr> {
        self.0.local.get()
    }

    /// The address of the other side. `None` while it is being dialed, or if that failed.
    pub fn remote_addr(&self) -> Option<&Addr> {
        self.0.peer.get()
    }

    /// Is the connection over, or detached?
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// Has [`data`](super::Handler::data) called with an empty input, once all output has been sent. Wakes that follow each
    /// other before that are one.
    ///
    /// # Errors
    ///
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the connection is over.
    pub fn wake(&self) -> io::Result<()> {
        if self.0.signals.load(Ordering::Acquire) & WAKE != 0 {
            return Ok(());
        }
        let queue = self.0.open_queue()?;
        self.0.signal(WAKE, queue);
        Ok(())
    }

    /// Sends `bytes`, after all that was to be sent before: what one thread writes keeps its order. (In a callback of the
    /// connection itself, what the callback answers goes before that.) When the connection ends, what has not gone is lost;
    /// [`write_then`](ConnHandle::write_then) tells.
    ///
    /// # Errors
    ///
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the connection is over; [`WouldBlock`](io::ErrorKind::WouldBlock) if
    /// the peer is so slow that more than the [high-water mark](super::Options::high_water) waits already. Nothing was
    /// taken then.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut queue = self.0.open_queue()?;
        queue.push(bytes)?;
        self.0.signal(WRITE, queue);
        Ok(())
    }

    /// [`write`](ConnHandle::write), and then calls `done`, exactly once: when the kernel has the last byte, or when it
    /// is certain that it never will. That is on the connection's loop, or, if the write is refused, at once.
    pub fn write_then(&self, bytes: &[u8], done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let refused = match self.0.open_queue() {
            Ok(mut queue) => match queue.push(bytes) {
                Ok(()) => {
                    let end = queue.end;
                    queue.done.push((end, Box::new(done)));
                    return self.0.signal(WRITE, queue);
                }
                Err(e) => e,
            },
            Err(e) => e,
        };
        done(Err(refused));
    }

    /// Closes the connection, once its output has been sent.
    ///
    /// # Errors
    ///
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the connection is over.
    pub fn close(&self) -> io::Result<()> {
        let queue = self.0.open_queue()?;
        self.0.signal(CLOSE, queue);
        Ok(())
    }

    /// Closes the connection now. Output that waits to be sent is lost.
    ///
    /// # Errors
    ///
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the connection is over.
    pub fn force_close(&self) -> io::Result<()> {
        let queue = self.0.open_queue()?;
        self.0.signal(FORCE, queue);
        Ok(())
    }
}

impl Queue {
    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes.len() + self.held >= self.high_water {
            let text = format!(
                "{} bytes wait to be sent already: the peer is too slow",
                self.bytes.len() + self.held
            );
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        self.bytes.extend_from_slice(bytes);
        self.end += bytes.len() as u64;
        Ok(())
    }
}

fn over() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection is over, or has been detached")
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn open_queue(&self) -> io::Result<MutexGuard<'_, Queue>> {
        let queue = self.lock();
        if queue.closed { Err(over()) } else { Ok(queue) }
    }

    fn signal(&self, signal: u8, queue: MutexGuard<'_, Queue>) {
        // With the lock held: a connection that has just left its waker there looks at the signals after that.
        let before = self.signals.fetch_or(signal, Ordering::AcqRel);
        let waker = if before & signal == 0 { queue.waker.clone() } else { None };
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    // ------------------------------------------------------------------------------- for the connection

    /// This task is the connection.
    pub fn start(&self, waker: &Waker) {
        self.lock().waker = Some(waker.clone());
    }

    pub fn set_high_water(&self, bytes: usize) {
        self.lock().high_water = bytes;
    }

    /// What has been asked for since the last look.
    pub fn take_signals(&self) -> u8 {
        const ALL: u8 = WAKE | WRITE | CLOSE | FORCE;
        if self.signals.load(Ordering::Relaxed) & ALL == 0 {
            return 0;
        }
        self.signals.fetch_and(!ALL, Ordering::AcqRel)
    }

    /// Moves what was written to the end of `unsent`, and who wants to know to `done`. Returns how many bytes had been
    /// queued before these, and how many these are.
    pub fn take_writes(&self, unsent: &mut Vec<u8>, done: &mut Vec<(u64, Done)>) -> (u64, usize) {
        let mut queue = self.lock();
        let taken = queue.bytes.len();
        if unsent.is_empty() {
            std::mem::swap(unsent, &mut queue.bytes);
        } else {
            unsent.append(&mut queue.bytes);
        }
        done.append(&mut queue.done);
        queue.held += taken;
        (queue.end - taken as u64, taken)
    }

    /// The connection holds so many bytes.
    pub fn holds(&self, bytes: usize) {
        self.lock().held = bytes;
    }

    /// Is there nobody else? If there is, the connection is woken when the last one goes.
    pub fn is_lonely(&self) -> bool {
        // One of two things happens first in the order of all these operations: the bit, or the end of the last handle.
        self.signals.fetch_or(LONELY, Ordering::SeqCst);
        self.handles.load(Ordering::SeqCst) == 0
    }

    /// The connection is over. Returns those who are to be told that their bytes will not be sent.
    #[must_use]
    pub fn close(&self) -> Vec<(u64, Done)> {
        let mut queue = self.lock();
        queue.closed = true;
        queue.bytes = Vec::new();
        // A wake that nobody will answer must not make the next one look as if somebody would.
        self.signals.store(0, Ordering::Release);
        let (done, waker) = (std::mem::take(&mut queue.done), queue.waker.take());
        drop(queue);
        drop(waker);
        done
    }

    /// [`close`](Shared::close) for one that never was, and has no task that a panic could cost.
    pub fn refuse(&self) {
        let done = self.close();
        contain(|| fail_all(done));
    }
}

/// Tells them that their bytes will not be sent. See [`tell_all`].
pub(super) fn fail_all(done: Vec<(u64, Done)>) {
    tell_all(done, || Err(over()));
}

/// Tells each of them. If one panics, that goes on after the last.
pub(super) fn tell_all(done: Vec<(u64, Done)>, what: impl Fn() -> io::Result<()>) {
    let mut panic = None;
    for (_, done) in done {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| done(what()))) {
            panic = Some(payload);
        }
    }
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

impl Clone for ConnHandle {
    fn clone(&self) -> ConnHandle {
        ConnHandle::of(&self.0)
    }
}

impl Drop for ConnHandle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::SeqCst) == 1
            && self.0.signals.load(Ordering::SeqCst) & LONELY != 0
        {
            let waker = self.0.lock().waker.clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// The same connection.
impl PartialEq for ConnHandle {
    fn eq(&self, other: &ConnHandle) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ConnHandle {}

impl fmt::Debug for ConnHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnHandle")
            .field("id", &self.id())
            .field("remote_addr", &self.remote_addr())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
