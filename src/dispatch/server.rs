//! A server that runs, and its end.

use super::Addr;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};

/// A server, for any thread and any callback: to stop it, and to see what it does. Clones are the same server.
///
/// It keeps nothing running: what does is [`Running`].
///
/// # Examples
///
/// A server that ends with its first connection:
///
/// ```
/// use std::net::TcpStream;
/// use wakewheel::dispatch::{Dispatcher, Job};
///
/// let running = Dispatcher::new(|job: Job<TcpStream>| job.server.stop()).start("tcp://127.0.0.1:0")?;
/// let client = TcpStream::connect(running.addr().socket_addr().unwrap())?;
/// running.join()?;
/// # drop(client);
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct Server(pub(super) Arc<Control>);

/// What all threads of a server share, whatever it serves.
pub(super) struct Control {
    addr: Addr,
    workers: usize,
    stopping: AtomicBool,
    /// Of the accept thread: it wants to hear of the stop.
    acceptor: Mutex<Option<Waker>>,
    waiting: AtomicUsize,
    working: AtomicUsize,
    served: AtomicU64,
    taken_over: AtomicU64,
    pub refused: AtomicU64,
    pub panicked: AtomicU64,
    pub failed: AtomicU64,
}

/// What a server has done, and does: see [`Server::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Jobs that wait for a worker.
    pub waiting: usize,
    /// Jobs whose callback runs.
    pub working: usize,
    /// Jobs whose callback has come to its end, be it by a panic.
    pub served: u64,
    /// Jobs that a worker has taken out of another one's queue.
    pub taken_over: u64,
    /// Connections and datagrams that went to [nobody](super::To::Nobody).
    pub refused: u64,
    /// Callbacks that have panicked: those of workers, and the accept callback.
    pub panicked: u64,
    /// Accepts and receives that have failed.
    pub failed: u64,
}

impl Server {
    /// Where it listens, with the port that it got.
    pub fn addr(&self) -> &Addr {
        &self.0.addr
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.0.workers
    }

    /// Stops it: nothing is accepted any more, what has been accepted is served, and then its threads end. Returns at once:
    /// [`Running::join`] waits. To stop it again does nothing.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        let acceptor = self.0.acceptor().take();
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
    }

    /// Has it been stopped? It may still serve what it had accepted before.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst)
    }

    /// What it has done so far. The numbers are read one after the other, while it goes on.
    pub fn stats(&self) -> Stats {
        let control = &*self.0;
        Stats {
            waiting: control.waiting.load(Ordering::Acquire),
            working: control.working.load(Ordering::Acquire),
            served: control.served.load(Ordering::Acquire),
            taken_over: control.taken_over.load(Ordering::Acquire),
            refused: control.refused.load(Ordering::Acquire),
            panicked: control.panicked.load(Ordering::Acquire),
            failed: control.failed.load(Ordering::Acquire),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addr", self.addr())
            .field("workers", &self.workers())
            .field("is_stopping", &self.is_stopping())
            .field("stats", &self.stats())
            .finish()
    }
}

impl Control {
    pub fn new(addr: Addr, workers: usize) -> Control {
        Control {
            addr,
            workers,
            stopping: AtomicBool::new(false),
            acceptor: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            taken_over: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn acceptor(&self) -> MutexGuard<'_, Option<Waker>> {
        self.acceptor.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// For the accept thread: waits for the stop.
    pub fn poll_stopping(&self, cx: &mut Context<'_>) -> Poll<()> {
        // First the waker, then the look: whoever stops does it the other way round.
        let mut acceptor = self.acceptor();
        match &mut *acceptor {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        drop(acceptor);
        if self.stopping.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A job waits.
    pub fn waits(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// One that has waited is being worked on.
    pub fn works(&self, over: bool) {
        self.working.fetch_add(1, Ordering::AcqRel);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        if over {
            self.taken_over.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// It has been served.
    pub fn ends(&self) {
        self.working.fetch_sub(1, Ordering::AcqRel);
        self.served.fetch_add(1, Ordering::AcqRel);
    }
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::AcqRel);
}

/// The threads of a server, and a [`Server`] to which it dereferences. To drop it stops the server, and waits for its threads.
///
/// # Examples
///
/// ```
/// use std::net::TcpStream;
/// use wakewheel::dispatch::{Dispatcher, Job};
///
/// let running = Dispatcher::new(|_: Job<TcpStream>| {}).start("tcp://127.0.0.1:0")?;
/// println!("listening on {}", running.addr());
/// let server = running.clone();
/// std::thread::spawn(move || server.stop());
/// running.join()?;
/// # std::io::Result::Ok(())
/// ```
#[must_use = "to drop it stops the server"]
pub struct Running {
    server: Server,
    acceptor: Option<JoinHandle<io::Result<()>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Running {
    pub(super) fn new(server: Server) -> Running {
        Running { server, acceptor: None, workers: Vec::new() }
    }

    pub(super) fn add_worker(&mut self, worker: JoinHandle<()>) {
        self.workers.push(worker);
    }

    pub(super) fn set_acceptor(&mut self, acceptor: JoinHandle<io::Result<()>>) {
        self.acceptor = Some(acceptor);
    }

    /// Waits until the server has been [stopped](Server::stop) by somebody, has served what it had accepted, and all its
    /// threads have ended.
    ///
    /// # Errors
    ///
    /// Of a listener that will never accept again, because somebody has shut its descriptor down: the server has stopped by
    /// itself then. [`Deadlock`](io::ErrorKind::Deadlock) if this is one of its own threads: the server is stopped, and nobody
    /// waits for it.
    pub fn join(mut self) -> io::Result<()> {
        self.wait()
    }

    fn wait(&mut self) -> io::Result<()> {
        let own = thread::current().id();
        let acceptor = self.acceptor.iter().map(JoinHandle::thread);
        if acceptor.chain(self.workers.iter().map(JoinHandle::thread)).any(|thread| thread.id() == own) {
            let text = "a server's own callback cannot wait for its end";
            return Err(io::Error::new(io::ErrorKind::Deadlock, text));
        }
        let result = self.acceptor.take().map_or(Ok(()), |acceptor| {
            let failed = |_| Err(io::Error::other("the accept thread cannot wait any more: see its panic"));
            acceptor.join().unwrap_or_else(failed)
        });
        for worker in self.workers.drain(..) {
            // It catches the panics of the callback.
            let _ = worker.join();
        }
        result
    }
}

impl Deref for Running {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.stop();
        let _ = self.wait();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Running").field(&self.server).finish()
    }
}
