//! The threads that wait for the resolver.

use crate::reactor::contain;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

/// So many names are looked up at a time.
const THREADS_MAX: usize = 8;
/// A thread that has had nothing to do for so long ends.
const IDLE_MAX: Duration = Duration::from_secs(5);

pub(super) type Answer = io::Result<Vec<SocketAddr>>;

/// What a thread is asked.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub host: String,
    pub port: u16,
}

pub(super) struct Pool {
    look_up: fn(&Query) -> Answer,
    idle_max: Duration,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// What no thread has begun, by its ticket: in order, and quickly found by whoever gives up.
    queue: BTreeMap<u64, Arc<Job>>,
    tickets: u64,
    threads: usize,
    /// Those of them that wait for work.
    idle: usize,
}

struct Job {
    query: Query,
    progress: Mutex<Progress>,
}

enum Progress {
    Waiting(Waker),
    Answered(Answer),
    /// The answer was taken, or is not wanted.
    Over,
}

/// A place in the queue, or with a thread. Dropped, it gives that up.
pub(super) struct Ticket {
    pub pool: &'static Pool,
    number: u64,
    job: Arc<Job>,
}

impl Pool {
    pub fn new(look_up: fn(&Query) -> Answer) -> Pool {
        Pool { look_up, idle_max: IDLE_MAX, state: Mutex::default(), work: Condvar::new() }
    }

    /// Has `query` answered; `waker` is woken then.
    ///
    /// Errors: there is no thread, and none can be started.
    pub fn ask(&'static self, query: Query, waker: &Waker) -> io::Result<Ticket> {
        let job = Arc::new(Job { query, progress: Mutex::new(Progress::Waiting(waker.clone())) });
        let mut state = lock(&self.state);
        state.tickets += 1;
        let number = state.tickets;
        state.queue.insert(number, job.clone());
        // An idle thread that was called a moment ago still counts as idle, and what it was called for is still there.
        if state.queue.len() <= state.idle {
            self.work.notify_one();
        } else if state.threads < THREADS_MAX {
            let work = || self.work();
            match thread::Builder::new().name("resolver".into()).spawn(work) {
                Ok(_) => state.threads += 1,
                // Those that there are will come to it.
                Err(_) if state.threads > 0 => {}
                Err(e) => {
                    state.queue.remove(&number);
                    return Err(e);
                }
            }
        }
        drop(state);
        Ok(Ticket { pool: self, number, job })
    }

    /// A thread, from its beginning to its end.
    fn work(&self) {
        while let Some(job) = self.next() {
            let answer = (self.look_up)(&job.query);
            let mut progress = lock(&job.progress);
            if let Progress::Waiting(_) = *progress {
                if let Progress::Waiting(waker) =
                    std::mem::replace(&mut *progress, Progress::Answered(answer))
                {
                    drop(progress);
                    contain(|| waker.wake());
                }
            }
        }
    }

    /// Waits for work. `None`: there was none for long, and this thread is not counted any more.
    fn next(&self) -> Option<Arc<Job>> {
        let mut state = lock(&self.state);
        loop {
            if let Some((_, job)) = state.queue.pop_first() {
                return Some(job);
            }
            state.idle += 1;
            let (guard, waited) =
                self.work.wait_timeout(state, self.idle_max).unwrap_or_else(|e| e.into_inner());
            state = guard;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

impl Ticket {
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut progress = lock(&self.job.progress);
        match &mut *progress {
            Progress::Waiting(waker) => {
                if !waker.will_wake(cx.waker()) {
                    let old = std::mem::replace(waker, cx.waker().clone());
                    drop(progress);
                    // It is the user's, and may do anything.
                    drop(old);
                }
                Poll::Pending
            }
            _ => match std::mem::replace(&mut *progress, Progress::Over) {
                Progress::Answered(answer) => Poll::Ready(answer),
                _ => panic!("polled again after it was ready"),
            },
        }
    }

    /// In a child of fork, to which neither the threads nor the locks of its parent are of use.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let queued = lock(&self.pool.state).queue.remove(&self.number);
        let progress = std::mem::replace(&mut *lock(&self.job.progress), Progress::Over);
        drop((queued, progress));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A pool whose threads answer when the test says so.
    struct Gate {
        begun: AtomicUsize,
        open: Mutex<bool>,
        opened: Condvar,
    }

    impl Gate {
        const fn new() -> Gate {
            Gate { begun: AtomicUsize::new(0), open: Mutex::new(false), opened: Condvar::new() }
        }

        fn pass(&self, query: &Query) -> Answer {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let guard = lock(&self.open);
            drop(self.opened.wait_while(guard, |open| !*open).unwrap());
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], query.port))])
        }

        fn open(&self) {
            *lock(&self.open) = true;
            self.opened.notify_all();
        }
    }

    fn query(port: u16) -> Query {
        Query { host: "host".into(), port }
    }

    #[track_caller]
    fn eventually(what: &str, is_so: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < PATIENCE, "never: {what}");
            thread::yield_now();
        }
    }

    fn wait(ticket: &Ticket) -> Vec<SocketAddr> {
        let answer = std::future::poll_fn(|cx| ticket.poll(cx));
        crate::block_on(crate::timeout(PATIENCE, answer)).expect("in time").expect("addresses")
    }

    #[test]
    fn no_more_threads_than_allowed_answer_all_in_their_order() {
        static GATE: Gate = Gate::new();
        let pool: &Pool = Box::leak(Box::new(Pool::new(|query| GATE.pass(query))));
        let tickets: Vec<_> = (0..100).map(|port| pool.ask(query(port), Waker::noop()).unwrap()).collect();
        eventually("all threads are busy", || GATE.begun.load(Ordering::SeqCst) == THREADS_MAX);
        assert_eq!(lock(&pool.state).threads, THREADS_MAX);
        assert_eq!(*lock(&pool.state).queue.first_key_value().unwrap().0, THREADS_MAX as u64 + 1);
        GATE.open();
        for (port, ticket) in tickets.iter().enumerate() {
            assert_eq!(wait(ticket)[0].port(), port as u16);
        }
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        static GATE: Gate = Gate::new();
        let pool: &Pool = Box::leak(Box::new(Pool::new(|query| GATE.pass(query))));
        let tickets: Vec<_> = (0..20).map(|port| pool.ask(query(port), Waker::noop()).unwrap()).collect();
        eventually("all threads are busy", || GATE.begun.load(Ordering::SeqCst) == THREADS_MAX);
        let jobs: Vec<_> = tickets.iter().map(|ticket| Arc::downgrade(&ticket.job)).collect();
        drop(tickets);
        assert!(lock(&pool.state).queue.is_empty());
        assert!(jobs[THREADS_MAX..].iter().all(|job| job.strong_count() == 0), "what was not begun is gone");
        GATE.open();
        eventually("all is gone", || jobs.iter().all(|job| job.strong_count() == 0));
        assert_eq!(GATE.begun.load(Ordering::SeqCst), THREADS_MAX);
        // And the pool goes on.
        assert_eq!(wait(&pool.ask(query(7), Waker::noop()).unwrap())[0].port(), 7);
    }

    #[test]
    fn threads_that_are_idle_end() {
        let pool = Pool { idle_max: Duration::from_millis(1), ..Pool::new(|_| Ok(Vec::new())) };
        let pool: &Pool = Box::leak(Box::new(pool));
        for _ in 0..3 {
            wait(&pool.ask(query(1), Waker::noop()).unwrap());
            eventually("no threads are left", || lock(&pool.state).threads == 0);
        }
    }
}
