//! Waiting for a moment: [`Timer`], [`Interval`], [`timeout`], [`sleep`].
//!
//! Nothing here fires early. A timer fires in the first turn of its reactor after its deadline, late by less than
//! 33 microseconds and what the system takes to wake the thread. Deadlines beyond what an
//! [`Instant`](std::time::Instant) can hold are never.

mod interval;
mod timeout;
mod timer;

pub use interval::{Interval, MissedTicks, interval, interval_at};
pub use timeout::{Elapsed, Timeout, timeout, timeout_at};
pub use timer::{Timer, sleep, sleep_until};
