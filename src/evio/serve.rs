//! Binding, the loops, and their end.

use super::addr::{Bound, Listen};
use super::balance::Loops;
use super::connection::Connection;
use super::handle::Shared;
use super::server::{Inner, Letter, lock};
use super::transport::{Duplex, Transport};
use super::udp::serve_udp;
use super::{Action, Addr, DetachedStream, Handler, LoadBalance, Origin, Server};
use crate::executor::{CoresBuilder, current, drain, shutdown_requested, wake_all};
use crate::io::{self as wio, Listener, Stream, never_again};
use crate::time::{Timer, timeout};
use crate::{Async, Cores, Task, spawn_local};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Serves `addrs` with callbacks, and returns when the server has been stopped.
///
/// An address is `[scheme://]address[?reuseport=true]`:
///
/// | scheme | address |
/// |--------|---------|
/// | `tcp` (or none) | `host:port`, `:port` for all addresses of both IP versions; port 0, or nothing at all, for any port |
/// | `tcp4`, `tcp6` | the same, with one IP version only |
/// | `udp`, `udp4`, `udp6` | the same |
/// | `unix` | a path, or `@name` for an abstract name (Linux) |
///
/// With `reuseport`, several servers, or several loops of one, listen on one port, and the kernel shares out the
/// connections. The socket file of a server that has died is replaced; anything else at a path is an error. The file is
/// removed at the end.
///
/// The number of loops, their balance, and more, is what [`Handler::builder`] says: for closures,
/// [`Events`](super::Events) has methods for it. `handler` is cloned for each loop.
///
/// # Errors
///
/// Before anything is served: an address that cannot be understood, found or bound, with its text; then all that was
/// bound is released. While it serves: a reactor or a listener that does not work any more.
///
/// # Panics
///
/// As [`serving`](Handler::serving) or [`tick`](Handler::tick) does, after all loops have ended.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use wakewheel::evio::{self, Action, Events};
///
/// // A server without addresses, which stops at its third tick.
/// let events = Events::new().tick({
///     let ticks = std::sync::atomic::AtomicUsize::new(0);
///     move |_| match ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
///         2 => (Duration::ZERO, Action::Shutdown),
///         _ => (Duration::from_millis(1), Action::None),
///     }
/// });
/// evio::serve(events, [""; 0])?;
///
/// let error = evio::serve(Events::new(), ["tpc://127.0.0.1:0"]).unwrap_err();
/// assert!(error.to_string().contains("tpc://127.0.0.1:0"));
/// # std::io::Result::Ok(())
/// ```
pub fn serve<H>(mut handler: H, addrs: impl IntoIterator<Item: AsRef<str>>) -> io::Result<()>
where
    H: Handler + Clone + Send,
{
    handler.builder().serve(handler, addrs)
}

/// When [`tick`](Handler::tick) is called again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TickMode {
    /// So long after the last call has returned.
    #[default]
    FixedDelay,
    /// So long after the last call was due. One that comes late does not put off those that follow, as long as it is
    /// less than a delay late.
    FixedRate,
}

type FilterFuture = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>>>>;
type Should = dyn Fn(&Addr, Option<&Addr>) -> bool + Send + Sync;

/// What stands between a connection and its callbacks.
#[derive(Clone)]
struct Filter {
    should: Arc<Should>,
    filter: Arc<dyn Fn(Stream) -> FilterFuture + Send + Sync>,
}

type AsyncFn<C> = dyn Fn(DetachedStream, Server<C>) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync;

/// Choices for a server.
///
/// # Examples
///
/// ```no_run
/// use futures_lite::io;
/// use std::time::Duration;
/// use wakewheel::evio::{Builder, Events, LoadBalance, Loops, Reply};
///
/// fn main() -> std::io::Result<()> {
///     Builder::new()
///         .loops(Loops::All)
///         .load_balance(LoadBalance::LeastConnections)
///         .shutdown_grace(Duration::from_secs(10))
///         // One port with callbacks, and another with a future for each connection.
///         .listen_async("tcp://127.0.0.1:5001", |stream, _server| async move {
///             let (reader, writer) = io::split(stream);
///             let _ = io::copy(reader, writer).await;
///         })
///         .serve(Events::new().data(|_, input| Reply::send(input)), ["tcp://127.0.0.1:5000"])
/// }
/// ```
pub struct Builder<C> {
    loops: Loops,
    balance: LoadBalance,
    cores: CoresBuilder,
    grace: Duration,
    nodelay: bool,
    tick_mode: TickMode,
    filter: Option<Filter>,
    async_addrs: Vec<(String, Arc<AsyncFn<C>>)>,
}

impl<C: Default + 'static> Builder<C> {
    /// One loop, on the calling thread, and the usual choices.
    pub fn new() -> Builder<C> {
        Builder {
            loops: Loops::Exactly(1),
            balance: LoadBalance::default(),
            cores: Cores::builder(),
            grace: Duration::from_millis(500),
            nodelay: true,
            tick_mode: TickMode::default(),
            filter: None,
            async_addrs: Vec::new(),
        }
    }

    /// How many loops: a [`Loops`], or a number as evio has it (0 and 1 for one, on the calling thread, -1 for one for
    /// each processor).
    #[must_use]
    pub fn loops(mut self, loops: impl Into<Loops>) -> Builder<C> {
        self.loops = loops.into();
        self
    }

    /// Which loop a connection goes to.
    #[must_use]
    pub fn load_balance(mut self, balance: LoadBalance) -> Builder<C> {
        self.balance = balance;
        self
    }

    /// How the loops run: busy polling, pinning, backend, and whatever else [`CoresBuilder`] offers, but for the number
    /// of threads. (With several loops and an address without `reuseport`, there is one more core than loops: the
    /// acceptor.)
    #[must_use]
    pub fn cores(mut self, cores: CoresBuilder) -> Builder<C> {
        self.cores = cores;
        self
    }

    /// How long a server that stops waits for output to be sent, and for the tasks on its loops to end. Half a second by
    /// default. Tasks hear of it by [`shutdown_requested`].
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Builder<C> {
        self.grace = grace;
        self
    }

    /// Do connections send small packets at once (TCP_NODELAY)? Yes, if nothing else is said.
    #[must_use]
    pub fn nodelay(mut self, on: bool) -> Builder<C> {
        self.nodelay = on;
        self
    }

    /// When [`tick`](Handler::tick) is called again.
    #[must_use]
    pub fn tick_mode(mut self, mode: TickMode) -> Builder<C> {
        self.tick_mode = mode;
        self
    }

    /// Puts something between connections and their callbacks that translates what is sent and received: TLS, compression.
    /// evio 0.1's `Translate`, as a future: `filter` is given the stream and makes another of it, for example by a
    /// handshake. The connection is [`opened`](Handler::opened) after that. `should` is asked for each connection, with the
    /// address of this side and that of the peer.
    ///
    /// When the filter fails, or what it made does, [`closed`](Handler::closed) is told. A filter that waits for a peer which
    /// says nothing waits for ever: give it a [`timeout`].
    ///
    /// Connections that are [attached](Server::attach) come as they are, and so do those of
    /// [`listen_async`](Builder::listen_async).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use wakewheel::evio::{Addr, Builder};
    /// use wakewheel::io::Stream;
    ///
    /// async fn handshake(stream: Stream) -> io::Result<Stream> {
    ///     // … of which a TLS library makes another type that is read and written.
    ///     Ok(stream)
    /// }
    ///
    /// let builder = Builder::<()>::new()
    ///     .translate(|local, _peer| matches!(local, Addr::Tcp(addr) if addr.port() == 443), handshake);
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn translate<F, D>(
        mut self,
        should: impl Fn(&Addr, Option<&Addr>) -> bool + Send + Sync + 'static,
        filter: impl Fn(Stream) -> F + Send + Sync + 'static,
    ) -> Builder<C>
    where
        F: Future<Output = io::Result<D>> + 'static,
        D: Duplex + 'static,
    {
        let filter = move |stream| -> FilterFuture {
            let made = filter(stream);
            Box::pin(async move { Ok(Box::new(made.await?) as Box<dyn Duplex>) })
        };
        self.filter = Some(Filter { should: Arc::new(should), filter: Arc::new(filter) });
        self
    }

    /// One more address, of TCP or a Unix socket, whose connections are each given to a future instead of callbacks. They share loops, balance,
    /// counts and the end with the others. When the server stops, they are asked to end
    /// ([`shutdown_requested`]), and dropped after the [grace](Builder::shutdown_grace).
    #[must_use]
    pub fn listen_async<F>(
        mut self,
        addr: impl Into<String>,
        handler: impl Fn(DetachedStream, Server<C>) -> F + Send + Sync + 'static,
    ) -> Builder<C>
    where
        F: Future<Output = ()> + 'static,
    {
        let handler =
            move |stream, server| -> Pin<Box<dyn Future<Output = ()>>> { Box::pin(handler(stream, server)) };
        self.async_addrs.push((addr.into(), Arc::new(handler)));
        self
    }

    /// Serves `addrs` with these choices, and a clone of `handler` for each loop. See [`serve`].
    ///
    /// # Errors
    ///
    /// Those of [`serve`].
    ///
    /// # Panics
    ///
    /// As [`serve`] does.
    pub fn serve<H>(self, handler: H, addrs: impl IntoIterator<Item: AsRef<str>>) -> io::Result<()>
    where
        H: Handler<Context = C> + Clone + Send,
    {
        let handler = Mutex::new(handler);
        self.serve_with(move |_| lock(&handler).clone(), addrs)
    }

    /// Serves `addrs` with these choices, and a handler for each loop that `make` makes there, on the loop's thread: it need
    /// not be `Send`, and what it has needs no lock. `make` is told which loop it is. See [`serve`].
    ///
    /// # Errors
    ///
    /// Those of [`serve`].
    ///
    /// # Panics
    ///
    /// As [`serve`] does, and as `make` does.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::rc::Rc;
    /// use wakewheel::evio::{Builder, Conn, Handler, Loops, Reply};
    ///
    /// struct Greeter(Rc<str>);
    ///
    /// impl Handler for Greeter {
    ///     type Context = ();
    ///
    ///     fn data<'a>(&mut self, conn: &mut Conn<'_, ()>, _input: &'a [u8]) -> Reply<'a> {
    ///         conn.out.extend_from_slice(self.0.as_bytes());
    ///         Reply::none()
    ///     }
    /// }
    ///
    /// fn main() -> std::io::Result<()> {
    ///     let make = |index| Greeter(format!("hello from loop {index}\n").into());
    ///     Builder::new().loops(Loops::All).serve_with(make, ["tcp://:5000"])
    /// }
    /// ```
    pub fn serve_with<H>(
        self,
        make: impl Fn(usize) -> H + Sync,
        addrs: impl IntoIterator<Item: AsRef<str>>,
    ) -> io::Result<()>
    where
        H: Handler<Context = C>,
    {
        let loops = self.loops.count();
        let plan = Plan::bind(&self, loops, addrs)?;
        let cores = self.cores.clone().threads(plan.threads());
        let ends = cores.run(|index| {
            let (plan, make, builder) = (&plan, &make, &self);
            async move {
                if index < loops {
                    run_loop(plan, builder, make, index).await
                } else {
                    accept_for_all(plan).await
                }
            }
        });
        ends?;
        plan.inner.take_error().map_or(Ok(()), Err)
    }
}

impl<C: Default + 'static> Default for Builder<C> {
    fn default() -> Builder<C> {
        Builder::new()
    }
}

impl<C> Clone for Builder<C> {
    fn clone(&self) -> Builder<C> {
        Builder {
            loops: self.loops,
            balance: self.balance,
            cores: self.cores.clone(),
            grace: self.grace,
            nodelay: self.nodelay,
            tick_mode: self.tick_mode,
            filter: self.filter.clone(),
            async_addrs: self.async_addrs.clone(),
        }
    }
}

impl<C> fmt::Debug for Builder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("loops", &self.loops)
            .field("load_balance", &self.balance)
            .field("cores", &self.cores)
            .field("shutdown_grace", &self.grace)
            .finish_non_exhaustive()
    }
}

// -------------------------------------------------------------------------------------------------- binding

/// Who listens where.
struct Plan {
    inner: Arc<Inner>,
    /// For each core: its sockets, by the index of their address. The core after the loops is the acceptor, if there is
    /// one.
    sockets: Vec<Mutex<Vec<(usize, Bound)>>>,
    /// All loops are there.
    all_here: Barrier,
    _files: Vec<super::addr::SocketFile>,
}

impl Plan {
    fn bind<C>(
        builder: &Builder<C>,
        loops: usize,
        addrs: impl IntoIterator<Item: AsRef<str>>,
    ) -> io::Result<Plan> {
        let addrs: Vec<String> = addrs.into_iter().map(|addr| addr.as_ref().to_owned()).collect();
        let all = addrs.iter().chain(builder.async_addrs.iter().map(|(addr, _)| addr));
        // All of them before the first is bound.
        let listens = all.map(|addr| Listen::parse(addr)).collect::<io::Result<Vec<_>>>()?;
        if let Some(listen) = listens[addrs.len()..].iter().find(|listen| listen.is_udp()) {
            return Err(listen.not_a_stream());
        }
        let mut sockets: Vec<Vec<(usize, Bound)>> = (0..=loops).map(|_| Vec::new()).collect();
        let mut files = Vec::new();
        let mut bound_addrs = Vec::new();
        for (i, listen) in listens.iter().enumerate() {
            let mut bound = listen.bind(builder.nodelay)?;
            let addr = bound.addr()?;
            if let Bound::Unix(_, file) = &mut bound {
                files.extend(file.take());
            }
            let is_udp = matches!(bound, Bound::Udp(_));
            if listen.reuse_port() && loops > 1 {
                for sockets in &mut sockets[1..loops] {
                    sockets.push((i, listen.bind_again(&addr, builder.nodelay)?));
                }
                sockets[0].push((i, bound));
            } else if is_udp {
                sockets[i % loops].push((i, bound));
            } else if loops == 1 {
                sockets[0].push((i, bound));
            } else {
                sockets[loops].push((i, bound));
            }
            bound_addrs.push(addr);
        }
        if sockets[loops].is_empty() {
            sockets.truncate(loops);
        }
        Ok(Plan {
            inner: Arc::new(Inner::new(bound_addrs, loops, builder.balance)),
            all_here: Barrier::new(sockets.len()),
            sockets: sockets.into_iter().map(Mutex::new).collect(),
            _files: files,
        })
    }

    fn threads(&self) -> usize {
        self.sockets.len()
    }
}

// ---------------------------------------------------------------------------------------------------- loops

/// What the connections of one loop share.
pub(super) struct Loop<H: Handler> {
    pub hands: RefCell<Hands<H>>,
    pub server: Server<H::Context>,
    pub stopping: Cell<bool>,
    /// Does the handler want to hear of writes?
    pub watches_writes: bool,
    panicked: Cell<bool>,
    index: usize,
    nodelay: bool,
    filter: Option<Filter>,
    /// By the index of the address, after those of the callbacks.
    async_fns: Vec<Arc<AsyncFn<H::Context>>>,
}

/// What a callback is called with.
pub(super) struct Hands<H> {
    pub handler: H,
    /// For the output of the callback that is running.
    pub out: Vec<u8>,
    /// For what is read.
    pub input: Box<[u8; INPUT]>,
}

/// As large as the largest read that pays: beyond it, a system call costs nothing against the copying.
const INPUT: usize = 64 * 1024;

impl<H> Hands<H> {
    fn new(handler: H) -> Hands<H> {
        let input = vec![0; INPUT].into_boxed_slice().try_into().expect("its length");
        Hands { handler, out: Vec::new(), input }
    }
}

/// Notes, when it is dropped, that a callback has panicked.
pub(super) struct NotePanic<'a>(&'a Cell<bool>);

impl Drop for NotePanic<'_> {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

thread_local! {
    /// The loop that runs on this thread.
    static CURRENT: RefCell<Option<(Weak<Inner>, usize)>> = const { RefCell::new(None) };
}

/// Which loop of this server the thread runs.
pub(super) fn current_loop(inner: &Arc<Inner>) -> Option<usize> {
    CURRENT.with_borrow(|current| match current {
        Some((server, index)) if std::ptr::eq(server.as_ptr(), Arc::as_ptr(inner)) => Some(*index),
        _ => None,
    })
}

impl<H: Handler> Loop<H> {
    #[inline]
    pub fn note_panics(&self) -> NotePanic<'_> {
        NotePanic(&self.panicked)
    }

    /// Has a callback panicked since this was last asked? What it had appended to its output goes to nobody.
    pub fn has_panicked(&self) -> bool {
        let panicked = self.panicked.take();
        if panicked {
            self.hands.borrow_mut().out.clear();
        }
        panicked
    }

    pub fn uncount(&self) {
        self.server.inner().uncount(self.index);
    }

    /// A connection that was accepted, and counted.
    fn open(self: &Rc<Self>, stream: Stream, peer: Addr, addr_index: usize) {
        let callbacks = self.server.addrs().len() - self.async_fns.len();
        if let Some(handler) = addr_index.checked_sub(callbacks).and_then(|i| self.async_fns.get(i)) {
            let (handler, server) = (handler.clone(), self.server.clone());
            let counted = Counted(Some(self.clone()));
            spawn_local(async move {
                // In its task: a panic before there is a future costs no more than one after that.
                handler(stream.into(), server).await;
                drop(counted);
            })
            .detach();
            return;
        }
        self.start(Ok(stream), Some(peer), Origin::Accepted, Some(addr_index), |connection| connection);
    }

    /// A connection under callbacks, which may need a filter first.
    fn start(
        self: &Rc<Self>,
        stream: io::Result<Stream>,
        peer: Option<Addr>,
        origin: Origin,
        addr_index: Option<usize>,
        finish: impl FnOnce(Connection<H>) -> Connection<H> + 'static,
    ) {
        let lp = self.clone();
        // If one of the functions that it needs panics, there never is a connection.
        let counted = Counted(Some(self.clone()));
        let context = match catch_unwind(H::Context::default) {
            Ok(context) => context,
            // What calls this has other connections to see to. A task that panics is what the executor has its rules for.
            Err(payload) => return spawn_local(async { resume_unwind(payload) }).detach(),
        };
        match (self.filter.clone(), stream) {
            (Some(filter), Ok(stream)) => {
                let task = async move {
                    let transport = match stream.local_addr().map(Addr::from) {
                        Ok(local) if (filter.should)(&local, peer.as_ref()) => {
                            let remote = peer.clone().unwrap_or_else(|| local.clone());
                            let made = (filter.filter)(stream).await;
                            made.map(|io| Transport::filtered(Box::into_pin(io), local, remote))
                        }
                        Ok(_) => Ok(Transport::Plain(stream)),
                        // Better none than one without the filter that it may need.
                        Err(e) => Err(e),
                    };
                    counted.leave();
                    let connection = Connection::new(lp, transport, peer, origin, addr_index, context);
                    spawn_local(finish(connection)).detach();
                };
                spawn_local(task).detach();
            }
            (_, stream) => {
                counted.leave();
                let transport = stream.map(Transport::Plain);
                spawn_local(finish(Connection::new(lp, transport, peer, origin, addr_index, context)))
                    .detach();
            }
        }
    }

    fn attach(self: &Rc<Self>, stream: DetachedStream, context: H::Context, here: bool) {
        let (transport, rest) = stream.into_transport();
        let peer = transport.peer_addr().ok();
        // From the reactor of wherever it was, to that of this loop.
        let transport = if here { Ok(transport) } else { move_here(transport) };
        let connection = Connection::new(self.clone(), transport, peer, Origin::Attached, None, context);
        spawn_local(connection.with_input(rest)).detach();
    }

    fn read(self: &Rc<Self>, letter: Letter) {
        match letter {
            Letter::Accepted { accepted, peer, addr_index } => match accepted.register() {
                Ok(stream) => self.open(stream, peer, addr_index),
                // There is no memory for it, or no room in the selector. It is closed.
                Err(_) => self.uncount(),
            },
            Letter::Attach { stream, context, here } => match context.downcast() {
                Ok(context) => self.attach(stream, *context, here),
                Err(_) => unreachable!("the context of another server"),
            },
            Letter::Dial { to, timeout: limit, handle } => {
                let lp = self.clone();
                let counted = Counted(Some(self.clone()));
                let dialing = Dialing(Some(handle.shared().clone()));
                drop(handle);
                spawn_local(async move {
                    let connected = match to {
                        Ok(to) => connect(&to, limit, lp.nodelay).await,
                        Err(e) => Err(e),
                    };
                    let peer =
                        connected.as_ref().ok().and_then(|stream| stream.peer_addr().ok()).map(Addr::from);
                    counted.leave();
                    lp.start(connected, peer, Origin::Dialed, None, move |connection| {
                        connection.with_handle(dialing.end())
                    });
                })
                .detach();
            }
        }
    }

    async fn tick(self: Rc<Self>, mode: TickMode) {
        let mut due = Instant::now();
        loop {
            let answer = self.hands.borrow_mut().handler.tick(&self.server);
            let Some((delay, action)) = answer else { return };
            if action == Action::Shutdown {
                return self.server.stop();
            }
            let now = Instant::now();
            let from = match mode {
                TickMode::FixedDelay => now,
                TickMode::FixedRate => due,
            };
            // One that is more than a delay late begins anew. A delay beyond all time is for ever.
            match from.checked_add(delay) {
                Some(next) => due = next.max(now),
                None => return,
            }
            Timer::at(due).await;
        }
    }
}

/// Counted among the connections of a loop, until it is dropped.
struct Counted<H: Handler>(Option<Rc<Loop<H>>>);

impl<H: Handler> Counted<H> {
    /// Somebody else will see to it.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl<H: Handler> Drop for Counted<H> {
    fn drop(&mut self) {
        if let Some(lp) = &self.0 {
            lp.uncount();
        }
    }
}

/// What its handle is told if it is dropped: there will be no connection.
struct Dialing(Option<Arc<Shared>>);

impl Dialing {
    /// There is one.
    fn end(mut self) -> Arc<Shared> {
        self.0.take().expect("it ends once")
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.refuse();
        }
    }
}

fn move_here(transport: Transport) -> io::Result<Transport> {
    Ok(match transport {
        Transport::Plain(Stream::Tcp(stream)) => {
            Transport::Plain(Async::<TcpStream>::new_nonblocking(stream.into_inner()?)?.into())
        }
        Transport::Plain(Stream::Unix(stream)) => {
            Transport::Plain(Async::<UnixStream>::new_nonblocking(stream.into_inner()?)?.into())
        }
        filtered => filtered,
    })
}

/// Tries the addresses of a name in their order.
async fn connect(to: &Listen, limit: Duration, nodelay: bool) -> io::Result<Stream> {
    let connect = async {
        let mut result = Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address"));
        for addr in to.peers().await? {
            let addr = match addr {
                Addr::Tcp(addr) => wio::Addr::Tcp(addr),
                Addr::Unix(addr) => wio::Addr::Unix(addr),
                Addr::Udp(_) => {
                    let text =
                        format!("cannot dial {addr}: a datagram needs no connection, see Server::send_to");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
            };
            result = Stream::connect(&addr).await;
            if let Ok(Stream::Tcp(stream)) = &result {
                stream.get_ref().set_nodelay(nodelay)?;
            }
            if result.is_ok() {
                break;
            }
        }
        result
    };
    match timeout(limit, connect).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("could not connect within {limit:?}"))),
    }
}

/// One loop, from its beginning to its end.
async fn run_loop<H: Handler>(
    plan: &Plan,
    builder: &Builder<H::Context>,
    make: &impl Fn(usize) -> H,
    index: usize,
) {
    let inner = &plan.inner;
    inner.set_core(index, current());
    plan.all_here.wait();
    let _end = OnEnd::new(inner, index);
    let handler = make(index);
    let lp = Rc::new(Loop {
        watches_writes: handler.watches_writes(),
        hands: RefCell::new(Hands::new(handler)),
        server: Server::new(inner.clone()),
        stopping: Cell::new(false),
        panicked: Cell::new(false),
        index,
        nodelay: builder.nodelay,
        filter: builder.filter.clone(),
        async_fns: builder.async_addrs.iter().map(|(_, handler)| handler.clone()).collect(),
    });

    if index == 0 {
        let action = lp.hands.borrow_mut().handler.serving(&lp.server);
        if action == Action::Shutdown {
            inner.stop();
        }
        inner.start();
    }
    let mut end = pin!(shutdown_requested());
    either(poll_fn(|cx| inner.poll_started(cx)), end.as_mut()).await;
    let mut tasks = Vec::new();
    // Until the last connection is closed: its callbacks may send something.
    let mut sockets = Vec::new();
    if !inner.is_stopping() {
        for (addr_index, bound) in lock(&plan.sockets[index]).drain(..) {
            match listen(&lp, bound, addr_index, &mut sockets) {
                Ok(task) => tasks.push(task),
                Err(e) => inner.fail(e),
            }
        }
        tasks.push(spawn_local(read_letters(lp.clone())));
        let tick = async {
            if index == 0 {
                lp.clone().tick(builder.tick_mode).await;
            }
            std::future::pending().await
        };
        either(end, tick).await;
    }
    inner.stop();
    // This closes the listeners.
    drop(tasks);
    lp.stopping.set(true);
    inner.close(index);
    wake_all();
    drain(builder.grace).await;
}

/// A loop, while it runs on this thread. Whatever ends it, also a panic: then the server stops, and nobody waits for it.
struct OnEnd<'a> {
    inner: &'a Inner,
    index: usize,
    /// A callback may have called `serve`.
    outer: Option<(Weak<Inner>, usize)>,
}

impl<'a> OnEnd<'a> {
    fn new(inner: &'a Arc<Inner>, index: usize) -> OnEnd<'a> {
        let outer = CURRENT.replace(Some((Arc::downgrade(inner), index)));
        OnEnd { inner, index, outer }
    }
}

impl Drop for OnEnd<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.outer.take());
        self.inner.stop();
        self.inner.close(self.index);
    }
}

/// Until one of the two is ready.
async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(
        |cx: &mut Context<'_>| {
            if a.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { b.as_mut().poll(cx) }
        },
    )
    .await;
}

async fn read_letters<H: Handler>(lp: Rc<Loop<H>>) {
    let mut letters = Vec::new();
    loop {
        poll_fn(|cx| lp.server.inner().poll_letters(lp.index, &mut letters, cx)).await;
        for letter in letters.drain(..) {
            lp.read(letter);
        }
    }
}

/// Serves one socket on this loop. That of datagrams belongs to `sockets`.
fn listen<H: Handler>(
    lp: &Rc<Loop<H>>,
    bound: Bound,
    addr_index: usize,
    sockets: &mut Vec<Arc<Async<UdpSocket>>>,
) -> io::Result<Task<()>> {
    let lp = lp.clone();
    Ok(match bound {
        Bound::Udp(socket) => {
            let socket = Arc::new(Async::new_nonblocking(socket)?);
            lp.server.inner().set_socket(addr_index, &socket);
            sockets.push(socket.clone());
            spawn_local(serve_udp(lp, socket, addr_index))
        }
        other => {
            let listener = register(other)?;
            spawn_local(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, peer)) => {
                            lp.server.inner().count(lp.index);
                            lp.open(stream, peer.into(), addr_index);
                        }
                        Err(e) if never_again(&e) => return lp.server.inner().fail(e),
                        // Too many open files, most likely: `accept` has waited before it said so.
                        Err(_) => {}
                    }
                }
            })
        }
    })
}

fn register(bound: Bound) -> io::Result<Listener> {
    match bound {
        Bound::Tcp(listener) => Async::<TcpListener>::new_nonblocking(listener).map(Listener::from),
        Bound::Unix(listener, _) => Async::<UnixListener>::new_nonblocking(listener).map(Listener::from),
        Bound::Udp(_) => unreachable!("a UDP socket does not listen"),
    }
}

/// The core that accepts for all loops.
async fn accept_for_all(plan: &Plan) {
    plan.all_here.wait();
    let inner = &plan.inner;
    let mut end = pin!(shutdown_requested());
    either(poll_fn(|cx| inner.poll_started(cx)), end.as_mut()).await;
    if inner.is_stopping() {
        return;
    }
    let mut tasks = Vec::new();
    for (addr_index, bound) in lock(plan.sockets.last().expect("there are loops")).drain(..) {
        match register(bound) {
            Ok(listener) => tasks.push(spawn_local(hand_out(inner.clone(), listener, addr_index))),
            Err(e) => inner.fail(e),
        }
    }
    end.await;
}

async fn hand_out(inner: Arc<Inner>, listener: Listener, addr_index: usize) {
    loop {
        match listener.accept_unregistered().await {
            Ok((accepted, peer)) => {
                let peer = Addr::from(peer);
                let index = inner.pick(Some(&peer));
                if inner.post(index, Letter::Accepted { accepted, peer, addr_index }).is_err() {
                    return;
                }
            }
            Err(e) if never_again(&e) => return inner.fail(e),
            Err(_) => {}
        }
    }
}
