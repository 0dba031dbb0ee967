//! The server, as its callbacks and other threads see it; and what its loops share.

use super::addr::Listen;
use super::balance::Balancer;
use super::handle::ConnHandle;
use super::{Addr, DetachedStream, LoadBalance};
use crate::Async;
use crate::executor::CoreHandle;
use crate::io::Accepted;
use std::any::Any;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A server that runs: to stop it, ask it, and bring it connections, from any thread.
///
/// `C` is what belongs to each connection.
pub struct Server<C> {
    inner: Arc<Inner>,
    context: PhantomData<fn(C)>,
}

/// What all loops share.
pub(super) struct Inner {
    addrs: Vec<Addr>,
    loops: Vec<Post>,
    balancer: Mutex<Balancer>,
    gate: Mutex<Gate>,
    stopping: AtomicBool,
    /// What has ended the server, if that was not its purpose.
    error: Mutex<Option<io::Error>>,
    /// The sockets of UDP addresses, once they are registered. Their loops own them: a `Server` may be kept for longer.
    sockets: Vec<OnceLock<Weak<Async<UdpSocket>>>>,
}

/// A loop, for others.
struct Post {
    core: OnceLock<CoreHandle>,
    count: AtomicUsize,
    letters: Mutex<Letters>,
}

#[derive(Default)]
struct Letters {
    letters: Vec<Letter>,
    waker: Option<Waker>,
    closed: bool,
}

/// Where all wait for `serving`.
#[derive(Default)]
struct Gate {
    is_open: bool,
    wakers: Vec<Waker>,
}

/// What comes to a loop from outside. Its connection has been counted.
pub(super) enum Letter {
    Accepted { accepted: Accepted, peer: Addr, addr_index: usize },
    Attach { stream: DetachedStream, context: Box<dyn Any + Send>, here: bool },
    Dial { to: io::Result<Box<Listen>>, timeout: Duration, handle: ConnHandle },
}

impl<C> Server<C> {
    pub(super) fn new(inner: Arc<Inner>) -> Server<C> {
        Server { inner, context: PhantomData }
    }

    /// The addresses that it listens on, in the order in which they were given (those of
    /// [`listen_async`](super::Builder::listen_async) last), with the ports that the system has chosen.
    pub fn addrs(&self) -> &[Addr] {
        &self.inner.addrs
    }

    /// How many loops there are.
    pub fn num_loops(&self) -> usize {
        self.inner.loops.len()
    }

    /// How many connections there are: under callbacks, or with the handler of an address of
    /// [`listen_async`](super::Builder::listen_async). Those that were detached are not counted.
    pub fn connections(&self) -> usize {
        self.connections_by_loop().sum()
    }

    /// The same for each loop.
    pub fn connections_by_loop(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.inner.loops.iter().map(|post| post.count.load(Ordering::Relaxed))
    }

    /// The executor of a loop: [`spawn`](CoreHandle::spawn) runs something there.
    ///
    /// # Panics
    ///
    /// If there is no such loop.
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::evio::{self, Action, Events};
    ///
    /// let events = Events::new().serving(|server| {
    ///     let on_another_thread = server.clone();
    ///     let task = server.loop_handle(0).spawn(move || async move {
    ///         println!("here is the loop");
    ///         on_another_thread.stop();
    ///     });
    ///     task.detach();
    ///     Action::None
    /// });
    /// evio::serve(events, ["tcp://127.0.0.1:0"])?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn loop_handle(&self, index: usize) -> &CoreHandle {
        self.inner.loops[index].core.get().expect("all loops are there before `serving`")
    }

    /// Stops the server: no connection is accepted any more, and each that is there is closed, once its output has been
    /// sent, within its [linger time](super::Options::linger) and the server's
    /// [grace](super::Builder::shutdown_grace). Then [`serve`](super::serve) returns. To stop it again does nothing.
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// Is it being stopped, or has it been?
    pub fn is_stopping(&self) -> bool {
        self.inner.is_stopping()
    }

    /// Brings a stream under the callbacks: one that was detached, or any other. It is [`opened`](super::Handler::opened)
    /// with this context. On a loop of this server it stays there; from elsewhere it goes where the [balance](LoadBalance)
    /// says.
    ///
    /// # Errors
    ///
    /// The stream and the context come back if the server stops.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::AsyncReadExt;
    /// use wakewheel::evio::{Action, Events, Reply};
    /// use wakewheel::spawn_local;
    ///
    /// // The first byte is read by a task, the others go to `data`.
    /// let events = Events::with_context::<u8>()
    ///     .opened(|conn| match conn.context {
    ///         0 => Action::Detach.into(),
    ///         _ => Action::None.into(),
    ///     })
    ///     .detached(|conn, mut stream| {
    ///         let server = conn.server().clone();
    ///         spawn_local(async move {
    ///             let mut version = [0];
    ///             if stream.read_exact(&mut version).await.is_ok() && version[0] != 0 {
    ///                 let _ = server.attach(stream, version[0]);
    ///             }
    ///         })
    ///         .detach();
    ///         Action::None
    ///     })
    ///     .data(|conn, input| Reply::send(format!("{:?}: {input:?}\n", conn.context)));
    /// # drop(events);
    /// ```
    pub fn attach(&self, stream: impl Into<DetachedStream>, context: C) -> Result<(), (DetachedStream, C)>
    where
        C: Send + 'static,
    {
        let stream = stream.into();
        if self.is_stopping() {
            return Err((stream, context));
        }
        let here = super::serve::current_loop(&self.inner);
        let index = here.unwrap_or_else(|| self.inner.pick(stream.peer_addr().ok().as_ref()));
        if here.is_some() {
            self.inner.count(index);
        }
        let letter = Letter::Attach { stream, context: Box::new(context), here: here.is_some() };
        self.inner.post(index, letter).map_err(|letter| match *letter {
            Letter::Attach { stream, context, .. } => {
                (stream, *context.downcast().expect("what was put in a moment ago"))
            }
            _ => unreachable!("what was posted comes back"),
        })
    }

    /// Connects to `addr`, which is written as for [`serve`](super::serve), with TCP or a Unix socket. The connection is
    /// [`opened`](super::Handler::opened) when it is there. If that fails, or takes longer than `timeout`, it is opened with
    /// an [`error`](super::Conn::error), and [`closed`](super::Handler::closed) with the same. So it is with an address that
    /// cannot be understood.
    ///
    /// A host name is [looked up](crate::net), which blocks nobody and is within `timeout`. Its addresses are tried in their
    /// order.
    ///
    /// # Errors
    ///
    /// `NotConnected` if the server stops; no callback is called then.
    pub fn dial(&self, addr: &str, timeout: Duration) -> io::Result<ConnHandle> {
        let handle = ConnHandle::new(self.next_id(), super::handle::HIGH_WATER);
        if self.is_stopping() {
            return Err(stops());
        }
        let letter = Letter::Dial { to: Listen::parse(addr).map(Box::new), timeout, handle: handle.clone() };
        self.inner.post(self.inner.pick(None), letter).map_err(|_| stops())?;
        Ok(handle)
    }

    /// Sends a datagram from the UDP socket of the address `addr_index`, to anybody.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the socket's buffer is full; `InvalidInput` if there is no UDP socket at this index; `NotConnected`
    /// if the server does not serve yet ([`serving`](super::Handler::serving) comes before that), or has ended; what the
    /// kernel says.
    pub fn send_to(&self, addr_index: usize, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        let Some(Addr::Udp(_)) = self.inner.addrs.get(addr_index) else {
            let text = format!("address {addr_index} of this server is not a UDP socket");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        let socket = self.inner.sockets[addr_index].get().and_then(Weak::upgrade).ok_or_else(|| {
            let text = "the server does not serve yet, or has ended";
            io::Error::new(io::ErrorKind::NotConnected, text)
        })?;
        super::udp::send_to(socket.get_ref(), bytes, to)
    }

    pub(super) fn next_id(&self) -> u64 {
        /// For all servers of the process.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

fn stops() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the server stops")
}

impl Letter {
    /// Nobody will read it.
    pub fn refuse(self) {
        if let Letter::Dial { handle, .. } = self {
            handle.shared().refuse();
        }
    }
}

impl Inner {
    pub fn new(addrs: Vec<Addr>, loops: usize, balance: LoadBalance) -> Inner {
        let post = || Post { core: OnceLock::new(), count: AtomicUsize::new(0), letters: Mutex::default() };
        Inner {
            sockets: addrs.iter().map(|_| OnceLock::new()).collect(),
            addrs,
            loops: (0..loops).map(|_| post()).collect(),
            balancer: Mutex::new(Balancer::new(balance)),
            gate: Mutex::default(),
            stopping: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub fn stop(&self) {
        if !self.stopping.swap(true, Ordering::AcqRel) {
            if let Some(core) = self.loops[0].core.get() {
                core.request_shutdown();
            }
        }
    }

    /// Stops the server because of an error. Only the first counts.
    pub fn fail(&self, error: io::Error) {
        lock(&self.error).get_or_insert(error);
        self.stop();
    }

    pub fn take_error(&self) -> Option<io::Error> {
        lock(&self.error).take()
    }

    pub fn set_core(&self, index: usize, core: CoreHandle) {
        let _ = self.loops[index].core.set(core);
    }

    pub fn set_socket(&self, addr_index: usize, socket: &Arc<Async<UdpSocket>>) {
        let _ = self.sockets[addr_index].set(Arc::downgrade(socket));
    }

    /// The loop for a connection from `peer`, where it is counted.
    pub fn pick(&self, peer: Option<&Addr>) -> usize {
        if self.loops.len() == 1 {
            self.count(0);
            return 0;
        }
        let mut balancer = lock(&self.balancer);
        let index = balancer.pick(peer, self.loops.iter().map(|post| &post.count));
        // Before the next one is picked.
        self.count(index);
        index
    }

    pub fn count(&self, index: usize) {
        self.loops[index].count.fetch_add(1, Ordering::Relaxed);
    }

    pub fn uncount(&self, index: usize) {
        self.loops[index].count.fetch_sub(1, Ordering::Relaxed);
    }

    /// To a loop. `Err`: it does not read any more; the connection is not counted any more.
    pub fn post(&self, index: usize, letter: Letter) -> Result<(), Box<Letter>> {
        let mut letters = lock(&self.loops[index].letters);
        if letters.closed {
            drop(letters);
            self.uncount(index);
            return Err(Box::new(letter));
        }
        letters.letters.push(letter);
        let waker = letters.waker.take();
        drop(letters);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Lets all begin.
    pub fn start(&self) {
        let wakers = {
            let mut gate = lock(&self.gate);
            gate.is_open = true;
            std::mem::take(&mut gate.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Has the server started?
    pub fn poll_started(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut gate = lock(&self.gate);
        if gate.is_open {
            return Poll::Ready(());
        }
        gate.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    /// For the loop: waits for letters, and swaps them for an empty list.
    pub fn poll_letters(&self, index: usize, into: &mut Vec<Letter>, cx: &mut Context<'_>) -> Poll<()> {
        let mut letters = lock(&self.loops[index].letters);
        if letters.letters.is_empty() {
            letters.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut letters.letters, into);
        Poll::Ready(())
    }

    /// For the loop: no more letters. Connections that have not begun are given up.
    pub fn close(&self, index: usize) {
        let letters = {
            let mut letters = lock(&self.loops[index].letters);
            letters.closed = true;
            letters.waker = None;
            std::mem::take(&mut letters.letters)
        };
        for letter in letters {
            self.uncount(index);
            letter.refuse();
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl<C> Clone for Server<C> {
    fn clone(&self) -> Server<C> {
        Server::new(self.inner.clone())
    }
}

impl<C> fmt::Debug for Server<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addrs", &self.addrs())
            .field("num_loops", &self.num_loops())
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}
