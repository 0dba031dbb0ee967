//! Servers of callbacks, and their clients.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::evio::{self, Action, Addr, Builder, Conn, DetachedStream, Handler, Opened, Reply, Server};

/// Long enough for the slowest machine: it only passes when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// So many in an optimized build, a tenth of it in one that is not.
pub const fn scaled(n: usize) -> usize {
    if cfg!(debug_assertions) { n / 10 } else { n }
}

/// Waits for what other threads do without a word. Fails if they do not.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// What threads and callbacks say to each other: something has happened.
pub struct Signal(Mutex<(mpsc::Sender<()>, Option<mpsc::Receiver<()>>)>);

impl Signal {
    pub fn new() -> Arc<Signal> {
        let (sender, receiver) = mpsc::channel();
        Arc::new(Signal(Mutex::new((sender, Some(receiver)))))
    }

    pub fn give(&self) {
        let _ = self.0.lock().unwrap().0.send(());
    }

    /// Waits for one that was given. Only one thread waits.
    #[track_caller]
    pub fn wait(&self, what: &str) {
        let receiver = self.0.lock().unwrap().1.take().expect("one thread that waits");
        let result = receiver.recv_timeout(PATIENCE);
        self.0.lock().unwrap().1 = Some(receiver);
        assert!(result.is_ok(), "never: {what}");
    }
}

/// Ends threads that look at it, also when a test fails while they run.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

// ------------------------------------------------------------------------------------------------- servers

/// How often each callback was called.
#[derive(Debug, Default)]
pub struct Log {
    opened: AtomicUsize,
    detached: AtomicUsize,
    data: AtomicUsize,
    wakes: AtomicUsize,
    pre_writes: AtomicUsize,
    post_writes: AtomicUsize,
    ticks: AtomicUsize,
    /// How many bytes of input.
    input: AtomicUsize,
    closed: Mutex<Vec<Option<ErrorKind>>>,
}

macro_rules! counts {
    ($($name:ident)*) => { $(
        pub fn $name(&self) -> usize {
            self.$name.load(SeqCst)
        }
    )* };
}

impl Log {
    counts! { opened detached data wakes pre_writes post_writes ticks input }

    pub fn closed(&self) -> usize {
        self.closed.lock().unwrap().len()
    }

    /// Waits for so many, and says with which errors.
    #[track_caller]
    pub fn wait_closed(&self, n: usize) -> Vec<Option<ErrorKind>> {
        let started = Instant::now();
        while self.closed() < n {
            assert!(started.elapsed() < PATIENCE, "not {n} connections closed: {self:?}");
            thread::sleep(Duration::from_micros(200));
        }
        self.closed.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn wait_opened(&self, n: usize) {
        let started = Instant::now();
        while self.opened() < n {
            assert!(started.elapsed() < PATIENCE, "not {n} connections opened: {self:?}");
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A handler that is watched.
struct Probe<H: Handler> {
    handler: H,
    log: Arc<Log>,
    serving: mpsc::Sender<(Server<H::Context>, Clock)>,
}

impl<H: Handler + Clone> Clone for Probe<H> {
    fn clone(&self) -> Self {
        Probe { handler: self.handler.clone(), log: self.log.clone(), serving: self.serving.clone() }
    }
}

impl<H: Handler> Handler for Probe<H> {
    type Context = H::Context;

    fn builder(&mut self) -> Builder<H::Context> {
        self.handler.builder()
    }

    fn serving(&mut self, server: &Server<H::Context>) -> Action {
        let _ = self.serving.send((server.clone(), Clock::of_this_thread()));
        self.handler.serving(server)
    }

    fn opened(&mut self, conn: &mut Conn<'_, H::Context>) -> Opened {
        self.log.opened.fetch_add(1, SeqCst);
        self.handler.opened(conn)
    }

    fn closed(&mut self, conn: &mut Conn<'_, H::Context>, error: Option<&io::Error>) -> Action {
        // First the callback: what it does is done when a test sees the count.
        let action = self.handler.closed(conn, error);
        self.log.closed.lock().unwrap().push(error.map(|e| e.kind()));
        action
    }

    fn detached(
        &mut self,
        conn: &mut Conn<'_, H::Context>,
        stream: DetachedStream,
    ) -> Result<Action, DetachedStream> {
        let action = self.handler.detached(conn, stream)?;
        self.log.detached.fetch_add(1, SeqCst);
        Ok(action)
    }

    fn pre_write(&mut self, conn: &mut Conn<'_, H::Context>) {
        self.log.pre_writes.fetch_add(1, SeqCst);
        self.handler.pre_write(conn);
    }

    fn post_write(&mut self, conn: &mut Conn<'_, H::Context>, amount: usize, remaining: usize) {
        self.log.post_writes.fetch_add(1, SeqCst);
        self.handler.post_write(conn, amount, remaining);
    }

    fn data<'a>(&mut self, conn: &mut Conn<'_, H::Context>, input: &'a [u8]) -> Reply<'a> {
        assert_eq!(conn.is_wake(), input.is_empty(), "input is empty for a wake, and only then");
        let count = if conn.is_wake() { &self.log.wakes } else { &self.log.data };
        count.fetch_add(1, SeqCst);
        self.log.input.fetch_add(input.len(), SeqCst);
        self.handler.data(conn, input)
    }

    fn tick(&mut self, server: &Server<H::Context>) -> Option<(Duration, Action)> {
        self.log.ticks.fetch_add(1, SeqCst);
        self.handler.tick(server)
    }
}

/// A server that runs on a thread. Stopped with the value.
pub struct Running<C: 'static> {
    pub server: Server<C>,
    pub log: Arc<Log>,
    /// Of its first loop.
    pub clock: Clock,
    thread: Mutex<Option<thread::JoinHandle<io::Result<()>>>>,
}

/// Serves on a thread, and waits until `serving` has been called.
#[track_caller]
pub fn start<H>(handler: H, addrs: &[impl AsRef<str>]) -> Running<H::Context>
where
    H: Handler + Clone + Send,
{
    match try_start(handler, addrs) {
        Ok(running) => running,
        Err(e) => panic!("it does not serve: {e:?}"),
    }
}

/// The same. If it cannot serve, what `serve` has returned.
#[track_caller]
pub fn try_start<H>(handler: H, addrs: &[impl AsRef<str>]) -> io::Result<Running<H::Context>>
where
    H: Handler + Clone + Send,
{
    let addrs: Vec<String> = addrs.iter().map(|addr| addr.as_ref().to_owned()).collect();
    let log = Arc::new(Log::default());
    let (serving, is_serving) = mpsc::channel();
    let probe = Probe { handler, log: log.clone(), serving };
    let thread = thread::Builder::new().name("server".into()).spawn(move || evio::serve(probe, addrs))?;
    match is_serving.recv_timeout(PATIENCE) {
        Ok((server, clock)) => Ok(Running { server, log, clock, thread: Mutex::new(Some(thread)) }),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("serving is never called"),
        Err(_) => match thread.join() {
            Ok(Ok(())) => panic!("it has ended without serving"),
            Ok(Err(e)) => Err(e),
            Err(payload) => resume_unwind(payload),
        },
    }
}

impl<C: 'static> Running<C> {
    /// Of the first address.
    pub fn tcp(&self) -> SocketAddr {
        self.server.addrs()[0].socket_addr().expect("a TCP address")
    }

    /// To the first address.
    #[track_caller]
    pub fn connect(&self) -> Client {
        self.connect_to(0)
    }

    #[track_caller]
    pub fn connect_to(&self, index: usize) -> Client {
        Client::connect(&self.server.addrs()[index])
    }

    /// Has `serve` returned?
    pub fn has_ended(&self) -> bool {
        self.thread.lock().unwrap().as_ref().is_none_or(thread::JoinHandle::is_finished)
    }

    /// Waits for the end that something else brings about.
    #[track_caller]
    pub fn join(self) -> io::Result<()> {
        let started = Instant::now();
        while !self.has_ended() {
            assert!(started.elapsed() < PATIENCE, "serve does not return: {:?}, {:?}", self.server, self.log);
            thread::sleep(Duration::from_micros(200));
        }
        let thread = self.thread.lock().unwrap().take().expect("it is joined once");
        thread.join().unwrap_or_else(|payload| resume_unwind(payload))
    }

    /// Stops it without an error, and says what has happened: all that was opened was closed or detached.
    #[track_caller]
    pub fn stop(self) -> Arc<Log> {
        self.server.stop();
        let log = self.log.clone();
        self.join().expect("no error");
        assert_eq!(log.opened(), log.closed() + log.detached(), "an end for each beginning: {log:?}");
        let closed = log.wait_closed(0);
        assert!(!closed.contains(&Some(ErrorKind::Other)), "a callback has panicked: {log:?}");
        log
    }
}

impl<C: 'static> Drop for Running<C> {
    fn drop(&mut self) {
        self.server.stop();
    }
}

/// The processor time of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Clock(#[cfg(target_os = "linux")] libc::clockid_t);

#[cfg(target_os = "linux")]
impl Clock {
    pub fn of_this_thread() -> Clock {
        let mut clock = 0;
        // SAFETY: a pointer to where it goes, and the calling thread, which lives.
        let result = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        assert_eq!(result, 0);
        Clock(clock)
    }

    pub fn now(self) -> Duration {
        // SAFETY: plain data.
        let mut time: libc::timespec = unsafe { mem::zeroed() };
        // SAFETY: a pointer to where it goes.
        let result = unsafe { libc::clock_gettime(self.0, &mut time) };
        assert_eq!(result, 0, "the thread lives");
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// Which part of `time` the thread computes.
    pub fn load_during(self, time: Duration) -> f64 {
        let (started, before) = (Instant::now(), self.now());
        thread::sleep(time);
        (self.now() - before).as_secs_f64() / started.elapsed().as_secs_f64()
    }
}

#[cfg(not(target_os = "linux"))]
impl Clock {
    pub fn of_this_thread() -> Clock {
        Clock()
    }
}

// ------------------------------------------------------------------------------------------------- clients

/// A client that never waits for ever.
#[derive(Debug)]
pub enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! both {
    ($client:expr, $stream:ident => $op:expr) => {
        match $client {
            Client::Tcp($stream) => $op,
            Client::Unix($stream) => $op,
        }
    };
}

impl Client {
    #[track_caller]
    pub fn connect(addr: &Addr) -> Client {
        Client::try_connect(addr).unwrap_or_else(|e| panic!("{addr}: {e}"))
    }

    pub fn try_connect(addr: &Addr) -> io::Result<Client> {
        let client = match addr {
            Addr::Tcp(addr) => Client::Tcp(TcpStream::connect(addr)?),
            Addr::Unix(addr) => Client::Unix(UnixStream::connect_addr(addr)?),
            Addr::Udp(_) => panic!("not a stream: {addr}"),
        };
        client.set_patience();
        Ok(client)
    }

    fn set_patience(&self) {
        both!(self, stream => {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
        })
    }

    pub fn try_clone(&self) -> Client {
        match self {
            Client::Tcp(stream) => Client::Tcp(stream.try_clone().unwrap()),
            Client::Unix(stream) => Client::Unix(stream.try_clone().unwrap()),
        }
    }

    /// Its own address. (`None` for a Unix socket.)
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Client::Tcp(stream) => Some(stream.local_addr().unwrap()),
            Client::Unix(_) => None,
        }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.write_all(bytes).unwrap_or_else(|e| panic!("cannot send {} bytes: {e}", bytes.len()));
    }

    /// Reads as much as `bytes`, and it is that.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.read_exact(&mut got).unwrap_or_else(|e| panic!("not {} bytes: {e}", bytes.len()));
        if got != bytes {
            let at = got.iter().zip(bytes).position(|(a, b)| a != b).unwrap();
            let show = |bytes: &[u8]| bytes[at..].escape_ascii().take(80).map(char::from).collect::<String>();
            panic!("at {at} of {}: {} instead of {}", bytes.len(), show(&got), show(bytes));
        }
    }

    #[track_caller]
    pub fn ask(&mut self, bytes: &[u8]) {
        self.send(bytes);
        self.expect(bytes);
    }

    /// All that comes, and the end of it.
    #[track_caller]
    pub fn read_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        if let Err(e) = self.read_to_end(&mut all) {
            panic!("after {} bytes: {e} ({:?})", all.len(), e.kind());
        }
        all
    }

    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.read_all();
        assert!(
            rest.is_empty(),
            "the end, and not {} bytes: {}…",
            rest.len(),
            rest[..rest.len().min(80)].escape_ascii()
        );
    }

    /// It sends no more.
    pub fn end(&self) {
        both!(self, stream => stream.shutdown(Shutdown::Write)).unwrap();
    }

    /// Its kernel does not take more and more for it until it reads. (With less than this, one packet of the loopback
    /// interface would be too much, and TCP be slow.)
    pub fn take_little(&self) {
        const SIZE: libc::c_int = 128 * 1024;
        set_option(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, SIZE);
    }

    /// Closes it so that the peer is reset.
    pub fn reset(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        set_option(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, linger);
    }
}

impl Read for Client {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        both!(self, stream => stream.read(buf))
    }
}

impl Write for Client {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        both!(self, stream => stream.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        both!(self, stream => stream.as_raw_fd())
    }
}

pub fn set_option<T>(fd: RawFd, level: libc::c_int, option: libc::c_int, value: T) {
    let len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: a pointer to a plain value, with its size.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) };
    assert_eq!(result, 0, "setsockopt: {}", io::Error::last_os_error());
}

pub fn option(fd: RawFd, level: libc::c_int, option: libc::c_int) -> libc::c_int {
    let mut value = 0;
    let mut len = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: pointers to plain values, with the size of the first.
    let result = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &mut len) };
    assert_eq!(result, 0, "getsockopt: {}", io::Error::last_os_error());
    value
}

/// The descriptor in this process whose peer is the TCP client `addr`: that of its server.
pub fn server_descriptor(addr: SocketAddr) -> Option<RawFd> {
    (0..4096).find(|&fd| peer(fd) == Some(addr))
}

fn peer(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: plain data.
    let mut name: libc::sockaddr_in = unsafe { mem::zeroed() };
    let mut len = mem::size_of_val(&name) as libc::socklen_t;
    // SAFETY: pointers to plain values, with the size of the first.
    let result = unsafe { libc::getpeername(fd, (&raw mut name).cast(), &mut len) };
    let is_v4 = result == 0 && libc::c_int::from(name.sin_family) == libc::AF_INET;
    is_v4.then(|| (u32::from_be(name.sin_addr.s_addr).to_be_bytes(), u16::from_be(name.sin_port)).into())
}

/// Bytes in which each place is known by its neighbours.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}
