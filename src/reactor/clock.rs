//! Time as the wheels count it: nanoseconds since this process first asked.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Nanoseconds of `instant`. Before the origin is 0: long past. Beyond what 64 bits hold (584 years) is the end.
pub(crate) fn nanos(instant: Instant) -> u64 {
    let since = instant.saturating_duration_since(origin());
    since.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(since.subsec_nanos()))
}

/// The inverse of [`nanos`]; `None` where an `Instant` cannot hold it.
pub(crate) fn instant(nanos: u64) -> Option<Instant> {
    origin().checked_add(Duration::from_nanos(nanos))
}

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// A clock that stands still until it is told to move: tests with timers take no time and always go the same way.
///
/// Given to [`Builder::mock_clock`](crate::reactor::Builder::mock_clock) or to an executor's builder. A reactor with
/// such a clock never waits for a timer: when nothing else is ready and it would sleep until a deadline, it moves the
/// clock there instead. All clones are the same clock.
///
/// ```
/// use std::time::{Duration, Instant};
/// use wakewheel::{LocalExecutor, reactor::MockClock, sleep};
///
/// let clock = MockClock::new();
/// let executor = LocalExecutor::builder().mock_clock(clock.clone()).build()?;
/// let (started, real) = (clock.now(), Instant::now());
/// executor.block_on(async { sleep(Duration::from_secs(3600)).await; });
/// assert_eq!(clock.now() - started, Duration::from_secs(3600));
/// assert!(real.elapsed() < Duration::from_secs(60));
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct MockClock(Arc<Mutex<Instant>>);

impl MockClock {
    /// A clock that shows the real time of this moment.
    #[allow(clippy::new_without_default)]
    pub fn new() -> MockClock {
        // Nothing that it will show lies before the origin, where all moments are one.
        origin();
        MockClock(Arc::new(Mutex::new(Instant::now())))
    }

    /// What it shows.
    pub fn now(&self) -> Instant {
        *lock_std(&self.0)
    }

    /// Moves it on. Timers that come due fire in the next turn of their reactor; a reactor that sleeps at this moment,
    /// on another thread, notices when it wakes.
    ///
    /// # Panics
    ///
    /// If the result is beyond what an [`Instant`] can hold.
    pub fn advance(&self, by: Duration) {
        *lock_std(&self.0) += by;
    }
}

impl fmt::Debug for MockClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MockClock").field(&self.now()).finish()
    }
}

fn lock_std<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Where a reactor's time comes from.
#[derive(Clone, Debug, Default)]
pub(crate) enum Clock {
    #[default]
    Real,
    Mock(MockClock),
}

impl Clock {
    pub fn now(&self) -> Instant {
        match self {
            Clock::Real => Instant::now(),
            Clock::Mock(clock) => clock.now(),
        }
    }
}
