//! What a core has done: counted by its own thread, read by any.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that one thread changes and others read. The change costs no more than that of a plain number.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub turns: Counter,
    pub sleeps: Counter,
    pub events: Counter,
    pub timers: Counter,
    pub polls: Counter,
    pub wakes_local: Counter,
    pub wakes_remote: Counter,
    pub longest_poll_ns: Counter,
    pub tasks_alive: Counter,
}

/// What a core has done since it was made. Each number is right, but they need not be of exactly the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Turns of the reactor.
    pub turns: u64,
    /// Those among them that were allowed to wait: the core had run out of work.
    pub sleeps: u64,
    /// Descriptors that had news.
    pub events: u64,
    /// Timers that fired.
    pub timers: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Tasks put into the run queue by the core's own thread, counted by the batch of polls.
    pub wakes_local: u64,
    /// Tasks put into the run queue on behalf of other threads.
    pub wakes_remote: u64,
    /// The longest poll of a task. Zero unless slow polls are watched, by
    /// [`on_slow_poll`](crate::executor::CoresBuilder::on_slow_poll).
    pub longest_poll: Duration,
    /// Tasks that are not complete now.
    pub tasks_alive: u64,
    /// Descriptors that are registered now.
    pub sources_alive: u64,
}

impl Counters {
    pub fn snapshot(&self, sources_alive: usize) -> Stats {
        Stats {
            turns: self.turns.get(),
            sleeps: self.sleeps.get(),
            events: self.events.get(),
            timers: self.timers.get(),
            polls: self.polls.get(),
            wakes_local: self.wakes_local.get(),
            wakes_remote: self.wakes_remote.get(),
            longest_poll: Duration::from_nanos(self.longest_poll_ns.get()),
            tasks_alive: self.tasks_alive.get(),
            sources_alive: sources_alive as u64,
        }
    }
}
