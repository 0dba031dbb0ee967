//! Helpers of the tests of executors and timers. Included by path, so that a test takes only these.
#![allow(dead_code)]

use std::any::Any;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::pin;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use wakewheel::LocalExecutor;

/// Long enough for anything here on a machine that is busy with something else. Nobody waits for it but a test that fails.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Runs a test that might hang: if it has not ended within the limit, it has failed.
#[track_caller]
pub fn within_limit<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, is_done) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = test();
        let _ = done.send(());
        result
    });
    if is_done.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the test hangs");
    }
    thread.join().unwrap_or_else(|payload| resume_unwind(payload))
}

/// Runs the future that `make` makes on an executor of its own, within the limit.
#[track_caller]
pub fn on_executor<F: Future>(make: impl FnOnce() -> F + Send + 'static) -> F::Output
where
    F::Output: Send + 'static,
{
    within_limit(|| LocalExecutor::new().expect("an executor").block_on(async { make().await }))
}

/// Waits for what other threads do without a word. Fails if they do not.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "never: {what}");
        thread::yield_now();
    }
}

/// A waker that counts.
#[derive(Debug, Default)]
pub struct Wakes(AtomicUsize);

impl Wakes {
    pub fn new() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes::default());
        (wakes.clone(), Waker::from(wakes))
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// A waker that panics when it is woken.
pub fn panicking_waker() -> Waker {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("this waker panics");
        }
    }
    Waker::from(Arc::new(Panics))
}

/// Polls once.
pub fn poll_with<F: Future + Unpin>(waker: &Waker, future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(waker))
}

/// On which threads the values of a test were dropped.
#[derive(Clone, Debug, Default)]
pub struct Drops(Arc<Mutex<Vec<ThreadId>>>);

impl Drops {
    pub fn guard(&self) -> DropGuard {
        DropGuard(self.clone())
    }

    pub fn threads(&self) -> Vec<ThreadId> {
        self.0.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Tells [`Drops`] of its drop.
#[derive(Debug)]
pub struct DropGuard(Drops);

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().push(thread::current().id());
    }
}

/// Calls its function when it is dropped.
pub struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The message of a panic.
pub fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a string")
}

const CHILD: &str = "WAKEWHEEL_TEST_CHILD";

/// Is this the process that [`in_child`] started for the test `name`?
pub fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

/// Runs the test `name` of this binary in a process of its own, where [`is_child`] holds.
pub fn in_child(name: &str, variables: &[(&str, &str)]) -> Output {
    let binary = std::env::current_exe().expect("the path of this test");
    Command::new(binary)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .envs(variables.iter().copied())
        .output()
        .expect("the child runs")
}

/// As [`in_child`], and it has to succeed.
#[track_caller]
pub fn succeeds_in_child(name: &str, variables: &[(&str, &str)]) {
    let output = in_child(name, variables);
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the child has run no test");
}

/// So many in an optimized build, a tenth of it in one that is not.
pub const fn scaled(n: usize) -> usize {
    if cfg!(debug_assertions) { n / 10 } else { n }
}
