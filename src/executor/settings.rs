//! Choices for a core.

use crate::reactor::{self, Backend, MockClock};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What happens to the core when a task panics. The task itself ends in each case, and its handle gets the panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Panics {
    /// Nothing: the others go on.
    #[default]
    Isolate,
    /// The core stops: its remaining tasks are dropped, and whoever runs or joins it gets a panic.
    StopCore,
    /// The process ends at once.
    Abort,
}

/// Choices for an executor on one thread; [`CoresBuilder`](crate::executor::CoresBuilder) has the same for each core, except for
/// the mock clock.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) settings: Settings,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub reactor: reactor::Builder,
    pub polls_per_turn: usize,
    pub busy_poll: Option<Duration>,
    pub panics: Panics,
    pub slow_poll: Option<SlowPoll>,
    pub shuffle: Option<u64>,
}

#[derive(Clone)]
pub(super) struct SlowPoll {
    pub threshold: Duration,
    pub hook: Arc<dyn Fn(Duration) + Send + Sync>,
}

impl fmt::Debug for SlowPoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowPoll").field("threshold", &self.threshold).finish_non_exhaustive()
    }
}

/// So many tasks may run before the kernel is asked for news. Enough that the question costs nothing beside them; few
/// enough that news waits for microseconds.
const POLLS_PER_TURN: usize = 256;

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            reactor: reactor::Builder::default(),
            polls_per_turn: POLLS_PER_TURN,
            busy_poll: None,
            panics: Panics::default(),
            slow_poll: None,
            shuffle: None,
        }
    }
}

/// The choices, once for each of the two builders.
macro_rules! choices {
    ($builder:ident, $($field:ident).+) => {
        impl $builder {
            /// Waits in this system call, whatever the environment says.
            pub fn backend(mut self, backend: Backend) -> $builder {
                self.$($field).+.reactor = self.$($field).+.reactor.backend(backend);
                self
            }

            /// At most so many tasks are polled between two looks at the kernel, and between two polls of the future that
            /// the executor was started for. The default is 256.
            ///
            /// # Panics
            ///
            /// If `polls` is zero.
            pub fn polls_per_turn(mut self, polls: usize) -> $builder {
                assert!(polls > 0, "no task would ever run with polls_per_turn(0): give it at least 1");
                self.$($field).+.polls_per_turn = polls;
                self
            }

            /// When there is nothing to do, goes on asking the kernel without waiting for this long before it sleeps.
            /// Answers come faster by the time that it takes to wake a thread, at the price of a busy processor. Off
            /// by default.
            pub fn busy_poll(mut self, limit: Duration) -> $builder {
                self.$($field).+.busy_poll = (!limit.is_zero()).then_some(limit);
                self
            }

            /// What happens when a task panics. By default, nothing happens to the others.
            pub fn panics(mut self, panics: Panics) -> $builder {
                self.$($field).+.panics = panics;
                self
            }

            /// Measures every poll of a task, and calls `hook` with the time of those that took `threshold` or longer:
            /// a task that blocks or computes keeps all others waiting. Costs two looks at the clock per poll. `hook` runs on
            /// the core, and should be quick itself.
            pub fn on_slow_poll(
                mut self,
                threshold: Duration,
                hook: impl Fn(Duration) + Send + Sync + 'static,
            ) -> $builder {
                self.$($field).+.slow_poll = Some(SlowPoll { threshold, hook: Arc::new(hook) });
                self
            }

            /// For tests: runs the tasks in an order that `seed` decides, instead of first come, first served. Code
            /// that needs the order it is used to shows it.
            pub fn shuffle(mut self, seed: u64) -> $builder {
                self.$($field).+.shuffle = Some(seed);
                self
            }
        }
    };
}
pub(super) use choices;

choices!(Builder, settings);

impl Builder {
    /// For tests: takes the time from `clock`.
    pub fn mock_clock(mut self, clock: MockClock) -> Builder {
        self.settings.reactor = self.settings.reactor.mock_clock(clock);
        self
    }
}
