//! What a server is made of, and its threads.

use super::pool::Pool;
use super::server::{Control, Running, Server, count};
use super::{Addr, Socket};
use crate::LocalExecutor;
use crate::evio::addr::{Bound, Listen};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;

/// A connection or a datagram that has just come, as the accept callback sees it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Arrival<'a, S> {
    /// The socket, to look at and to set options of; or the datagram.
    pub socket: &'a S,
    /// The other side.
    pub peer: &'a Addr,
    /// The server, to stop it or to look at what waits.
    pub server: &'a Server,
}

/// Where an [`Arrival`] goes, and with which argument: the answer of the accept callback.
///
/// # Examples
///
/// The connections of one peer are served by one worker, one after the other; who has no business here, by none.
///
/// ```
/// use std::hash::{BuildHasher, RandomState};
/// use std::net::TcpStream;
/// use wakewheel::dispatch::{Arrival, Dispatcher, Job, To};
///
/// let hasher = RandomState::new();
/// let accept = move |arrival: Arrival<'_, TcpStream>| match arrival.peer.socket_addr().map(|addr| addr.ip()) {
///     Some(ip) if ip.is_loopback() => To::Worker(hasher.hash_one(ip) as usize, ip),
///     _ => To::Nobody,
/// };
/// let running = Dispatcher::with_accept(accept, |job: Job<TcpStream, _>| {
///     println!("worker {} serves {}", job.worker, job.arg);
/// })
/// .start("tcp://127.0.0.1:0")?;
/// # drop(running);
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To<A = ()> {
    /// To the next worker, round robin. If it is busy, another one may take it over.
    Next(A),
    /// To this worker, and no other one; its number counts from 0 (beyond the last one, again from 0: any hash will do).
    /// While its queue is full, nothing else is accepted either.
    Worker(usize, A),
    /// It is not welcome: the connection is closed, or the datagram forgotten.
    Nobody,
}

/// What a worker gets: a connection or a datagram, and what goes with it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Job<S, A = ()> {
    /// The connection, which blocks; or the [`Datagram`](super::Datagram).
    pub socket: S,
    /// The other side.
    pub peer: Addr,
    /// What the accept callback has given with it.
    pub arg: A,
    /// The number of the worker that this is, from 0.
    pub worker: usize,
    /// The server, to stop it or to ask [whether it stops](Server::is_stopping).
    pub server: Server,
}

/// A job that waits for a worker.
struct Given<S, A> {
    socket: S,
    peer: Addr,
    arg: A,
}

type Accept<S, A> = Box<dyn FnMut(Arrival<'_, S>) -> To<A> + Send>;
type Work<S, A> = Box<dyn Fn(Job<S, A>) + Send + Sync>;

/// A server that accepts on one thread and works on others: its callbacks and choices. See the [module](super).
///
/// `S` is what it serves, and with it says which addresses it takes: `TcpStream` those of `tcp://`, `UnixStream` those of
/// `unix://`, and [`Datagram`](super::Datagram) those of `udp://`. `A` is the argument that goes with each from the accept
/// callback to the worker.
pub struct Dispatcher<S, A = ()> {
    accept: Accept<S, A>,
    work: Work<S, A>,
    workers: Option<usize>,
    queue_max: usize,
    takes_over: bool,
}

/// So many jobs may wait for each worker by default.
const QUEUE_MAX: usize = 128;

impl<S: Socket> Dispatcher<S> {
    /// A server that takes whoever comes, and calls `work` for each on one of its workers.
    ///
    /// # Examples
    ///
    /// See the [module](super).
    pub fn new(work: impl Fn(Job<S>) + Send + Sync + 'static) -> Dispatcher<S> {
        Dispatcher::with_accept(|_| To::Next(()), work)
    }
}

impl<S: Socket, A: Send + 'static> Dispatcher<S, A> {
    /// A server that asks `accept` about each, on the accept thread, and calls `work` for it on one of its workers.
    ///
    /// Nothing else is accepted while `accept` runs: what may block is for the workers.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::net::TcpStream;
    /// use std::time::{Duration, Instant};
    /// use wakewheel::dispatch::{Arrival, Dispatcher, Job, To};
    ///
    /// let accept = |arrival: Arrival<'_, TcpStream>| {
    ///     // A client that does not read must not keep a worker for ever.
    ///     match arrival.socket.set_write_timeout(Some(Duration::from_secs(10))) {
    ///         Ok(()) if arrival.server.stats().waiting < 100 => To::Next(Instant::now()),
    ///         _ => To::Nobody,
    ///     }
    /// };
    /// let work = |mut job: Job<TcpStream, Instant>| {
    ///     let text = format!("worker {} after {:?}\n", job.worker, job.arg.elapsed());
    ///     if let Err(e) = job.socket.write_all(text.as_bytes()) {
    ///         eprintln!("{}: {e}", job.peer);
    ///     }
    /// };
    /// let running = Dispatcher::with_accept(accept, work).workers(2).start("tcp://127.0.0.1:0")?;
    ///
    /// let mut answer = String::new();
    /// TcpStream::connect(running.addr().socket_addr().unwrap())?.read_to_string(&mut answer)?;
    /// assert!(answer.starts_with("worker 0 after "));
    /// # std::io::Result::Ok(())
    /// ```
    pub fn with_accept(
        accept: impl FnMut(Arrival<'_, S>) -> To<A> + Send + 'static,
        work: impl Fn(Job<S, A>) + Send + Sync + 'static,
    ) -> Dispatcher<S, A> {
        Dispatcher {
            accept: Box::new(accept),
            work: Box::new(work),
            workers: None,
            queue_max: QUEUE_MAX,
            takes_over: true,
        }
    }

    /// How many workers: threads that call back, at least one. One per processor by default; those that wait for their
    /// clients can be more.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Dispatcher<S, A> {
        self.workers = Some(workers.max(1));
        self
    }

    /// How many jobs may wait for each worker, beside the one that it works on; at least one. 128 by default. When all
    /// queues are full, nothing is accepted.
    #[must_use]
    pub fn queue_max(mut self, jobs: usize) -> Dispatcher<S, A> {
        self.queue_max = jobs.max(1);
        self
    }

    /// Each worker serves its own queue only: what waits behind one that blocks waits, even if others are idle.
    #[must_use]
    pub fn without_take_over(mut self) -> Dispatcher<S, A> {
        self.takes_over = false;
        self
    }

    /// Listens on `addr`, and returns when the server has been [stopped](Server::stop) by one of its callbacks, and has
    /// served what it had accepted.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Dispatcher::start) and of [`Running::join`].
    ///
    /// # Examples
    ///
    /// See the [module](super).
    pub fn serve(self, addr: impl AsRef<str>) -> io::Result<()> {
        self.start(addr)?.join()
    }

    /// Listens on `addr`, and returns at once: the server runs until it is [stopped](Server::stop) or what this returns is
    /// dropped.
    ///
    /// An address is `[scheme://]host:port`, `unix://path` or `unix://@name`, as in [`evio`](crate::evio): `tcp://:5000` is
    /// all addresses of the machine, port 0 is any, a `?reuseport=true` at the end lets several servers share a
    /// port. TCP connections have TCP_NODELAY.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), with the address in it, if it is none, or not one of what this server
    /// serves; what the kernel or the resolver says about it, with the address; no descriptors or no threads left.
    /// Nothing is left behind then.
    ///
    /// # Examples
    ///
    /// See [`Running`].
    pub fn start(self, addr: impl AsRef<str>) -> io::Result<Running> {
        let text = addr.as_ref();
        let bound = Listen::parse(text)?.bind(true)?;
        if !S::come_from(&bound) {
            let text = format!("this server cannot serve {text:?}: write {}", S::SCHEMES);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let processors = || thread::available_parallelism().map_or(1, |processors| processors.get());
        let workers = self.workers.unwrap_or_else(processors);
        let server = Server(Arc::new(Control::new(bound.addr()?, workers)));
        let pool = Arc::new(Pool::new(workers, self.queue_max, self.takes_over, server.0.clone()));

        // Whatever fails from here on: this closes the pool, and then `running` is dropped and waits for the threads.
        let mut running = Running::new(server.clone());
        let closes = Closes(pool.clone());
        let work = Arc::new(self.work);
        for index in 0..workers {
            let (pool, work, server) = (pool.clone(), work.clone(), server.clone());
            let thread = thread::Builder::new().name(format!("dispatch-{index}"));
            running.add_worker(thread.spawn(move || run_worker(index, &pool, &*work, &server))?);
        }
        let (opened, is_open) = mpsc::channel();
        let acceptor = Acceptor { accept: self.accept, closes, server };
        let thread = thread::Builder::new().name("dispatch-accept".into());
        running.set_acceptor(thread.spawn(move || acceptor.run(bound, &opened))?);
        if is_open.recv().is_err() {
            // It has ended already, and says why.
            running.join()?;
            return Err(io::Error::other("the accept thread has ended"));
        }
        Ok(running)
    }
}

fn run_worker<S, A>(index: usize, pool: &Pool<Given<S, A>>, work: &Work<S, A>, server: &Server) {
    while let Some(taken) = pool.take(index) {
        let Given { socket, peer, arg } = taken.job;
        let job = Job { socket, peer, arg, worker: index, server: server.clone() };
        if caught(|| work(job)).is_none() {
            count(&pool.control.panicked);
        }
        pool.control.ends();
    }
}

/// What `callback` returns. `None`: it has panicked, which the panic hook has reported.
fn caught<R>(callback: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(callback)) {
        Ok(output) => Some(output),
        Err(payload) => {
            // Its drop is the user's code, too.
            if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(another);
            }
            None
        }
    }
}

/// However the accept thread ends: the workers end after it.
struct Closes<T>(Arc<Pool<T>>);

impl<T> Drop for Closes<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Acceptor<S, A> {
    accept: Accept<S, A>,
    closes: Closes<Given<S, A>>,
    server: Server,
}

impl<S: Socket, A> Acceptor<S, A> {
    fn run(mut self, bound: Bound, opened: &mpsc::Sender<()>) -> io::Result<()> {
        LocalExecutor::new()?.block_on(async {
            let mut source = S::open(bound)?;
            let _ = opened.send(());
            let result = self.accept_all(&mut source).await;
            // Also if nobody has asked for it: who asks shall see it.
            self.server.stop();
            result
        })
    }

    async fn accept_all(&mut self, source: &mut S::Source) -> io::Result<()> {
        loop {
            let pool = &self.closes.0;
            // First room, then a connection: those that there is no room for stay in the backlog.
            let Some(()) = self.unless_stopped(poll_fn(|cx| pool.poll_room(None, cx))).await else {
                return Ok(());
            };
            match self.unless_stopped(S::receive(source)).await {
                None => return Ok(()),
                Some(Ok((socket, peer))) => self.dispatch(socket, peer).await,
                Some(Err(e)) if S::is_fatal(&e) => return Err(e),
                // Too many open files, most likely: `receive` has waited before it said so.
                Some(Err(_)) => count(&self.server.0.failed),
            }
        }
    }

    async fn dispatch(&mut self, socket: S, peer: Addr) {
        let arrival = Arrival { socket: &socket, peer: &peer, server: &self.server };
        let (worker, arg) = match caught(|| (self.accept)(arrival)) {
            Some(To::Next(arg)) => (None, arg),
            Some(To::Worker(index, arg)) => (Some(index % self.server.workers()), arg),
            Some(To::Nobody) => return count(&self.server.0.refused),
            None => return count(&self.server.0.panicked),
        };
        let pool = &self.closes.0;
        if worker.is_some() {
            // When the server stops, what has been accepted goes in beyond the limit.
            self.unless_stopped(poll_fn(|cx| pool.poll_room(worker, cx))).await;
        }
        pool.give(Given { socket, peer, arg }, worker);
    }

    /// The output of `future`, or `None` as soon as the server is stopped.
    async fn unless_stopped<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.server.0.poll_stopping(cx).is_ready() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

impl<S, A> fmt::Debug for Dispatcher<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("workers", &self.workers)
            .field("queue_max", &self.queue_max)
            .field("takes_over", &self.takes_over)
            .finish_non_exhaustive()
    }
}
