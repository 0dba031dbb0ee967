//! The queues of the workers, and who sleeps.
//!
//! All of it is behind one lock, which is held for a few moves of pointers. Each worker sleeps on a condition variable of
//! its own, so that a job wakes one thread. Only the accept thread gives, so what it has found room for stays free.

use super::server::Control;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

pub(super) struct Pool<T> {
    queues: Mutex<Queues<T>>,
    /// One for each worker.
    bells: Vec<Condvar>,
    queue_max: usize,
    takes_over: bool,
    pub control: Arc<Control>,
}

struct Queues<T> {
    posts: Vec<Post<T>>,
    /// Whose turn it is.
    next: usize,
    /// How many jobs there ever were.
    given: u64,
    /// No more jobs will be given.
    closed: bool,
    /// Of the accept thread, while it waits for room.
    acceptor: Option<Waker>,
}

/// A worker and its queue.
struct Post<T> {
    waiting: VecDeque<Waiting<T>>,
    worker: Worker,
}

struct Waiting<T> {
    job: T,
    number: u64,
    /// Only the worker of this queue may take it.
    bound: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Worker {
    /// It runs the callback. What waits behind it may be taken over.
    Busy,
    /// It is on the way to the queues, or has been woken: it will see what is there.
    Looking,
    Sleeping,
}

/// A job, and how the worker has got it.
pub(super) struct Taken<T> {
    pub job: T,
    /// It waited behind another worker.
    pub over: bool,
}

impl<T> Pool<T> {
    pub fn new(workers: usize, queue_max: usize, takes_over: bool, control: Arc<Control>) -> Pool<T> {
        // Until a worker is there, what is in its queue can wait for it.
        let post = || Post { waiting: VecDeque::new(), worker: Worker::Looking };
        Pool {
            queues: Mutex::new(Queues {
                posts: (0..workers).map(|_| post()).collect(),
                next: 0,
                given: 0,
                closed: false,
                acceptor: None,
            }),
            bells: (0..workers).map(|_| Condvar::new()).collect(),
            queue_max,
            takes_over,
            control,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues<T>> {
        // Nothing of the user's runs under it.
        self.queues.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    // ------------------------------------------------------------------------------ for the accept thread

    /// Waits for room in the queue of `worker`, or in any.
    pub fn poll_room(&self, worker: Option<usize>, cx: &mut Context<'_>) -> Poll<()> {
        let mut queues = self.lock();
        let has_room = |post: &Post<T>| post.waiting.len() < self.queue_max;
        let is_room = match worker {
            Some(index) => has_room(&queues.posts[index]),
            None => queues.posts.iter().any(has_room),
        };
        if is_room {
            return Poll::Ready(());
        }
        queues.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }

    /// To the queue of `worker`, or to that of the next one that has room. After [`poll_room`](Pool::poll_room) there is
    /// some; without, the job goes beyond the limit.
    pub fn give(&self, job: T, worker: Option<usize>) {
        let mut queues = self.lock();
        assert!(!queues.closed, "a job is given after the last one");
        let count = queues.posts.len();
        let index = worker.unwrap_or_else(|| {
            let next = queues.next;
            let mut in_turn = (next..next + count).map(|index| index % count);
            let index = in_turn.find(|&index| queues.posts[index].waiting.len() < self.queue_max);
            index.unwrap_or(next)
        });
        if worker.is_none() {
            queues.next = (index + 1) % count;
        }
        let waiting = Waiting { job, number: queues.given, bound: worker.is_some() };
        queues.given += 1;
        self.control.waits();
        queues.posts[index].waiting.push_back(waiting);
        match queues.posts[index].worker {
            Worker::Sleeping => self.ring(&mut queues, index),
            Worker::Busy if worker.is_none() => self.ring_for_take_over(&mut queues),
            // Whoever looks will see it.
            Worker::Busy | Worker::Looking => {}
        }
    }

    /// That was the last job: workers end when there is nothing left for them.
    pub fn close(&self) {
        let mut queues = self.lock();
        queues.closed = true;
        self.ring_all(&mut queues);
    }

    // ----------------------------------------------------------------------------------- for the workers

    /// The next job of the worker `index`, which has none any more. Blocks until there is one. `None`: there will be none.
    pub fn take(&self, index: usize) -> Option<Taken<T>> {
        let mut queues = self.lock();
        queues.posts[index].worker = Worker::Looking;
        let taken = loop {
            if let Some(taken) = self.find(&mut queues, index) {
                break taken;
            }
            if queues.closed && !(self.takes_over && queues.some_may_be_taken_over()) {
                return None;
            }
            queues.posts[index].worker = Worker::Sleeping;
            queues = self.bells[index].wait(queues).unwrap_or_else(|poisoned| poisoned.into_inner());
            // Also if it was not the bell.
            queues.posts[index].worker = Worker::Looking;
        };
        queues.posts[index].worker = Worker::Busy;
        self.control.works(taken.over);
        // One bell may have been rung for several jobs, or for this one, and others are behind it.
        if queues.closed {
            self.ring_all(&mut queues);
        } else {
            self.ring_for_take_over(&mut queues);
        }
        let acceptor = queues.acceptor.take();
        drop(queues);
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
        Some(taken)
    }

    /// The oldest in its own queue, or the oldest that waits behind a worker that is busy.
    fn find(&self, queues: &mut Queues<T>, index: usize) -> Option<Taken<T>> {
        if let Some(Waiting { job, .. }) = queues.posts[index].waiting.pop_front() {
            return Some(Taken { job, over: false });
        }
        if !self.takes_over {
            return None;
        }
        let behind = queues.posts.iter_mut().filter(|post| post.worker == Worker::Busy);
        let oldest = behind.filter_map(|post| {
            let at = post.waiting.iter().position(|waiting| !waiting.bound)?;
            Some((post.waiting[at].number, at, post))
        });
        let (_, at, post) = oldest.min_by_key(|(number, ..)| *number)?;
        let Waiting { job, .. } = post.waiting.remove(at)?;
        Some(Taken { job, over: true })
    }

    fn ring(&self, queues: &mut Queues<T>, index: usize) {
        // Whoever has a reason to ring after this chooses another one.
        queues.posts[index].worker = Worker::Looking;
        self.bells[index].notify_one();
    }

    /// Wakes one worker, if there is something for it.
    fn ring_for_take_over(&self, queues: &mut Queues<T>) {
        let sleeps = |post: &Post<T>| post.worker == Worker::Sleeping;
        if let Some(index) = queues.posts.iter().position(sleeps) {
            if self.takes_over && queues.some_may_be_taken_over() {
                self.ring(queues, index);
            }
        }
    }

    fn ring_all(&self, queues: &mut Queues<T>) {
        for index in 0..self.bells.len() {
            if queues.posts[index].worker == Worker::Sleeping {
                self.ring(queues, index);
            }
        }
    }
}

impl<T> Queues<T> {
    fn some_may_be_taken_over(&self) -> bool {
        self.posts.iter().any(|post| post.waiting.iter().any(|waiting| !waiting.bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_on;
    use crate::evio::Addr;
    use std::collections::BTreeSet;
    use std::future::poll_fn;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn pool(workers: usize, queue_max: usize, takes_over: bool) -> Arc<Pool<usize>> {
        let addr = Addr::Tcp(([127, 0, 0, 1], 1).into());
        Arc::new(Pool::new(workers, queue_max, takes_over, Arc::new(Control::new(addr, workers))))
    }

    fn wait_until_asleep(pool: &Pool<usize>, index: usize) {
        let started = Instant::now();
        while pool.lock().posts[index].worker != Worker::Sleeping {
            assert!(started.elapsed() < PATIENCE, "worker {index} does not sleep");
            thread::yield_now();
        }
    }

    #[test]
    fn who_takes_a_job_wakes_another_one_for_what_is_behind_it() {
        let pool = pool(2, 8, true);
        // Worker 0 is on its way. What waits for it is its own as long as that takes.
        [0, 1, 2].into_iter().for_each(|job| pool.give(job, None));
        let (sender, jobs) = mpsc::channel();
        let other = thread::spawn({
            let pool = pool.clone();
            move || {
                while let Some(taken) = pool.take(1) {
                    sender.send((taken.job, taken.over)).unwrap();
                }
            }
        });
        assert_eq!(jobs.recv_timeout(PATIENCE), Ok((1, false)));
        wait_until_asleep(&pool, 1);
        assert_eq!(pool.take(0).unwrap().job, 0);
        assert_eq!(jobs.recv_timeout(PATIENCE), Ok((2, true)), "worker 0 is busy from now on");
        pool.close();
        other.join().unwrap();
    }

    #[test]
    fn who_has_nothing_more_to_do_stays_for_what_can_still_be_taken_over() {
        let pool = pool(2, 8, true);
        [0, 1, 2].into_iter().for_each(|job| pool.give(job, None));
        pool.close();
        let (sender, jobs) = mpsc::channel();
        let other = thread::spawn({
            let pool = pool.clone();
            move || {
                while let Some(taken) = pool.take(1) {
                    sender.send(taken.job).unwrap();
                }
            }
        });
        assert_eq!(jobs.recv_timeout(PATIENCE), Ok(1));
        wait_until_asleep(&pool, 1);
        assert_eq!(pool.take(0).unwrap().job, 0);
        assert_eq!(jobs.recv_timeout(PATIENCE), Ok(2));
        other.join().unwrap();
        assert!(pool.take(0).is_none());
    }

    #[test]
    fn an_idle_pool_keeps_to_the_round_robin() {
        let pool = pool(3, 8, true);
        (0..9).for_each(|job| pool.give(job, None));
        for index in 0..3 {
            // A worker that has not begun is not busy.
            assert_eq!(pool.take(index).unwrap().job, index);
        }
        // From here on all are.
        let rest: Vec<_> = (0..6).map(|_| pool.take(1).unwrap().job).collect();
        assert_eq!(rest, [4, 7, 3, 5, 6, 8], "its own, and then the oldest of the others");
    }

    #[test]
    fn every_job_is_taken_once_and_none_is_forgotten() {
        for (workers, queue_max, takes_over) in [(1, 1, true), (2, 1, true), (4, 3, true), (4, 1, false)] {
            let pool = pool(workers, queue_max, takes_over);
            let jobs = 20_000;
            let (done, is_done) = mpsc::channel();
            for index in 0..workers {
                let (pool, done) = (pool.clone(), done.clone());
                thread::spawn(move || {
                    let mut taken = Vec::new();
                    while let Some(Taken { job, .. }) = pool.take(index) {
                        taken.push(job);
                    }
                    done.send(taken)
                });
            }
            thread::spawn({
                let pool = pool.clone();
                move || {
                    for job in 0..jobs {
                        let worker = (job % 5 == 0).then_some(job / 5 % workers);
                        block_on(poll_fn(|cx| pool.poll_room(worker, cx)));
                        pool.give(job, worker);
                        let longest = pool.lock().posts.iter().map(|post| post.waiting.len()).max();
                        assert!(longest <= Some(queue_max));
                    }
                    pool.close();
                }
            });
            let mut all = BTreeSet::new();
            for _ in 0..workers {
                let taken = is_done.recv_timeout(PATIENCE).expect("all workers end");
                taken.into_iter().for_each(|job| assert!(all.insert(job), "{job} was taken twice"));
            }
            assert_eq!(all.len(), jobs);
        }
    }
}
