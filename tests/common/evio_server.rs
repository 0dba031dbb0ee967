//! Servers on threads of their own, and what goes to them.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::evio::{self, Action, Addr, Events, Server};

/// Long enough for the slowest machine: it only passes when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// So many in an optimized build, a tenth of it in one that is not.
pub const fn scaled(n: usize) -> usize {
    if cfg!(debug_assertions) { n / 10 } else { n }
}

// ------------------------------------------------------------------------------------------------- server

/// `serve` on a thread of its own.
pub struct Serving(mpsc::Receiver<thread::Result<io::Result<()>>>);

impl Serving {
    pub fn start(serve: impl FnOnce() -> io::Result<()> + Send + 'static) -> Serving {
        let (sender, end) = mpsc::channel();
        thread::spawn(move || sender.send(catch_unwind(AssertUnwindSafe(serve))));
        Serving(end)
    }

    /// What `serve` returned or panicked with.
    #[track_caller]
    pub fn end(self) -> thread::Result<io::Result<()>> {
        self.0.recv_timeout(PATIENCE).expect("serve returns")
    }

    /// What `serve` returned.
    #[track_caller]
    pub fn join(self) -> io::Result<()> {
        self.end().unwrap_or_else(|payload| resume_unwind(payload))
    }

    /// Has it returned?
    pub fn has_ended(&self) -> bool {
        !matches!(self.0.try_recv(), Err(mpsc::TryRecvError::Empty))
    }
}

/// A server that serves. Stopped with the value.
pub struct Running<C> {
    server: Server<C>,
    serving: Option<Serving>,
}

/// Starts a server. `serving` is taken: it tells when all is bound.
#[track_caller]
pub fn start<C: Default + 'static>(events: Events<C>, addrs: &[&str]) -> Running<C> {
    let addrs: Vec<String> = addrs.iter().map(|addr| addr.to_string()).collect();
    let (sender, server) = mpsc::channel();
    let events = events.serving(move |server| {
        sender.send(server.clone()).expect("the test waits");
        Action::None
    });
    let serving = Serving::start(move || evio::serve(events, addrs));
    match server.recv_timeout(PATIENCE) {
        Ok(server) => Running { server, serving: Some(serving) },
        Err(_) => panic!("the server does not start: {:?}", serving.join()),
    }
}

impl<C> Running<C> {
    /// The address at `index`, for clients on this machine.
    pub fn addr(&self, index: usize) -> Addr {
        local(&self.server.addrs()[index])
    }

    #[track_caller]
    pub fn connect(&self, index: usize) -> Client {
        Client::connect(&self.addr(index))
    }

    /// Waits for the end, which something else has caused.
    #[track_caller]
    pub fn join(mut self) -> io::Result<()> {
        self.serving.take().expect("only taken here").join()
    }

    #[track_caller]
    pub fn stop(self) {
        self.server.stop();
        self.join().expect("a server that was stopped");
    }
}

impl<C> Deref for Running<C> {
    type Target = Server<C>;

    fn deref(&self) -> &Server<C> {
        &self.server
    }
}

impl<C> Drop for Running<C> {
    fn drop(&mut self) {
        self.server.stop();
    }
}

/// Where clients on this machine find what listens on `addr`.
pub fn local(addr: &Addr) -> Addr {
    let local = |addr: &SocketAddr| match addr.ip().is_unspecified() {
        true => (Ipv4Addr::LOCALHOST, addr.port()).into(),
        false => *addr,
    };
    match addr {
        Addr::Tcp(addr) => Addr::Tcp(local(addr)),
        Addr::Udp(addr) => Addr::Udp(local(addr)),
        Addr::Unix(_) => addr.clone(),
    }
}

/// The address of a Unix socket at `path`.
pub fn unix(path: &Path) -> String {
    format!("unix://{}", path.display())
}

// ------------------------------------------------------------------------------------------------ clients

/// A client that blocks, but not for ever.
pub enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    #[track_caller]
    pub fn connect(addr: &Addr) -> Client {
        let client = match addr {
            Addr::Unix(addr) => Client::Unix(UnixStream::connect_addr(addr).expect("a connection")),
            addr => Client::Tcp(TcpStream::connect(addr.socket_addr().unwrap()).expect("a connection")),
        };
        match &client {
            Client::Tcp(stream) => stream.set_read_timeout(Some(PATIENCE)),
            Client::Unix(stream) => stream.set_read_timeout(Some(PATIENCE)),
        }
        .expect("a time-out");
        client
    }

    pub fn try_clone(&self) -> Client {
        match self {
            Client::Tcp(stream) => Client::Tcp(stream.try_clone().unwrap()),
            Client::Unix(stream) => Client::Unix(stream.try_clone().unwrap()),
        }
    }

    /// Sends the end.
    pub fn finish(&self) {
        let _ = match self {
            Client::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Client::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
        };
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.write_all(bytes.as_ref()).expect("the server receives");
    }

    /// The next `n` bytes.
    #[track_caller]
    pub fn receive(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.read_exact(&mut bytes).expect("the server sends");
        bytes
    }

    /// Sends, and receives `answer`.
    #[track_caller]
    pub fn ask(&mut self, bytes: impl AsRef<[u8]>, answer: impl AsRef<[u8]>) {
        self.send(bytes);
        let received = self.receive(answer.as_ref().len());
        assert_eq!(text(&received), text(answer.as_ref()));
    }

    /// All bytes up to the end.
    #[track_caller]
    pub fn receive_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).expect("the server ends the connection in order");
        bytes
    }

    /// Waits until the server has closed the connection, in whichever way.
    #[track_caller]
    pub fn wait_for_the_end(&mut self) {
        match io::copy(self, &mut io::sink()) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
            Err(e) => panic!("it does not end: {e}"),
        }
    }
}

impl Read for Client {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => stream.read(buf),
            Client::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Client {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => stream.write(buf),
            Client::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A UDP socket at `ip` that does not block for ever.
pub fn udp(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// For messages of tests.
pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Bytes of which no two stretches look the same.
pub fn pattern(n: usize) -> Vec<u8> {
    let mut state = 1_u32;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

// --------------------------------------------------------------------------------------------------- notes

/// What has happened, in order.
pub struct Log<T>(Arc<(Mutex<Vec<T>>, Condvar)>);

impl<T> Log<T> {
    pub fn new() -> Log<T> {
        Log(Arc::default())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn note(&self, what: impl Into<T>) {
        self.lock().push(what.into());
        self.0.1.notify_all();
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }
}

impl<T: Clone + Debug> Log<T> {
    pub fn all(&self) -> Vec<T> {
        self.lock().clone()
    }

    /// Waits until it is as is wanted, and returns it.
    #[track_caller]
    pub fn wait(&self, is_so: impl Fn(&[T]) -> bool) -> Vec<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut log = self.lock();
        while !is_so(&log) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it does not happen: {log:?}");
            log = self.0.1.wait_timeout(log, left).unwrap().0;
        }
        log.clone()
    }

    /// Waits until there are `n` notes.
    #[track_caller]
    pub fn wait_for(&self, n: usize) -> Vec<T> {
        self.wait(|log| log.len() >= n)
    }
}

impl<T: PartialEq> Log<T> {
    pub fn count(&self, what: impl Into<T>) -> usize {
        let what = what.into();
        self.lock().iter().filter(|note| **note == what).count()
    }
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Log<T> {
        Log(self.0.clone())
    }
}

/// What `closed` is told, for a log.
pub fn closed(error: Option<&io::Error>) -> String {
    error.map_or("closed".into(), |e| format!("closed: {:?}", e.kind()))
}

/// Waits for what happens without a word.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Something that takes a certain time on a machine that does nothing else: one of a few attempts has to.
#[track_caller]
pub fn at_best<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let mut why = Vec::new();
    for _ in 0..8 {
        match attempt() {
            Ok(result) => return result,
            Err(e) => why.push(e),
        }
    }
    panic!("it never works: {why:?}");
}

/// The processor time that this process has used.
pub fn cpu_time() -> Duration {
    // SAFETY: all zeros is a value of this struct, and the kernel fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}
