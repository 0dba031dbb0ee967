//! Waiting for a moment: [`Timer`], [`Interval`], [`timeout`], [`sleep`].
//!
//! Nothing here fires early. A timer fires in the first turn of its reactor after its deadline; one that others follow
//! within 0.1 milliseconds may be left to share their turn. Deadlines beyond what an
//! [`Instant`](std::time::Instant) can hold are never.

mod interval;
mod timeout;
mod timer;

pub use interval::{Interval, MissedTicks, interval, interval_at};
pub use timeout::{Elapsed, Timeout, timeout, timeout_at};
pub use timer::{Timer, sleep, sleep_until};

/// The time that timers on this thread go by: that of the clock of its reactor, which may be a
/// [`MockClock`](crate::reactor::MockClock).
///
/// ```
/// let deadline = wakewheel::time::now() + std::time::Duration::from_millis(5);
/// wakewheel::block_on(wakewheel::sleep_until(deadline));
/// assert!(wakewheel::time::now() >= deadline);
/// ```
pub fn now() -> std::time::Instant {
    crate::reactor::current::now()
}
