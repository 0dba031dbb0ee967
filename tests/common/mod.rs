//! What the integration tests share. Keep it small.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod dir;
pub mod port;
pub mod proc;

use std::future::Future;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use wakewheel::reactor::{Backend, Reactor};

/// Long enough for the slowest machine: it only passes when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The output of a future that does not take for ever.
pub async fn within<F: Future>(future: F) -> F::Output {
    match wakewheel::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not done within {PATIENCE:?}"),
    }
}

/// Runs a test that ends without an error.
#[track_caller]
pub fn run<T>(test: impl Future<Output = io::Result<T>>) -> T {
    wakewheel::block_on(within(test)).expect("no errors")
}

/// What the tests of this process wait in.
pub fn backend() -> Backend {
    Backend::from_env().expect("a backend of this system")
}

/// Says why a test has nothing to show here, if so.
pub fn skip_if(so: bool, why: &str) -> bool {
    if so {
        println!("skipped: {why} (this is {})", backend());
    }
    so
}

/// Two ends of a TCP connection.
pub fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

/// The number of the kernel's error that is the source of one with a text.
pub fn os_error(e: &io::Error) -> Option<i32> {
    std::error::Error::source(e)?.downcast_ref::<io::Error>()?.raw_os_error()
}

/// A waker that counts.
#[derive(Default)]
pub struct Wakes(AtomicUsize);

impl Wakes {
    pub fn new() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes::default());
        (wakes.clone(), wakes.into())
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls a future by hand.
pub fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Turns `reactor` until `done`.
#[track_caller]
pub fn turn_until(reactor: &Reactor, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "it does not happen");
        reactor.turn(Some(left)).unwrap();
    }
}

/// Runs `body`, a part of the test `name`, in a process in which nothing else happens.
#[track_caller]
pub fn in_a_process_of_its_own(name: &str, body: impl FnOnce()) {
    const CHILD: &str = "WAKEWHEEL_TEST_CHILD";
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        return body();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child process");
    let id = child.id() as libc::pid_t;
    let (sender, output) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = match output.recv_timeout(3 * PATIENCE) {
        Ok(output) => output.expect("its output"),
        Err(_) => {
            // SAFETY: no pointers; it is our child, and nobody has waited for it.
            unsafe { libc::kill(id, libc::SIGKILL) };
            panic!("{name}: the process hangs");
        }
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{name}, in a process of its own: {}\n{text}", output.status);
    assert!(text.contains("1 passed"), "{name} is not the name of the test:\n{text}");
}
