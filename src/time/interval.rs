//! Ticks at a fixed rate.

use super::Timer;
use crate::reactor::{budget, current};
use futures_core::Stream;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// What an [`Interval`] does about ticks that nobody waited for in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MissedTicks {
    /// Makes up for them: they follow each other at once, until the schedule is met again.
    #[default]
    Burst,
    /// Starts a new schedule: the next tick is one period after the late one.
    Delay,
    /// Leaves them out: the next tick is the next one of the old schedule that is not past.
    Skip,
}

/// Ticks at a fixed rate, with a choice of what happens to those that were missed.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use wakewheel::{MissedTicks, block_on, interval};
///
/// block_on(async {
///     let mut ticks = interval(Duration::from_millis(5)).missed_ticks(MissedTicks::Skip);
///     let first = ticks.tick().await;
///     let second = ticks.tick().await;
///     assert!(second - first >= Duration::from_millis(5));
/// });
/// ```
#[derive(Debug)]
pub struct Interval {
    timer: Timer,
    period: Duration,
    missed: MissedTicks,
}

/// Ticks every `period`, for the first time when one has passed.
///
/// # Panics
///
/// If `period` is zero.
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval of zero would tick without end: give it a period");
    Interval { timer: Timer::after(period), period, missed: MissedTicks::default() }
}

/// Ticks every `period`, for the first time at `start`.
///
/// # Panics
///
/// If `period` is zero.
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval of zero would tick without end: give it a period");
    Interval { timer: Timer::at(start), period, missed: MissedTicks::default() }
}

impl Interval {
    /// Chooses what happens to missed ticks.
    pub fn missed_ticks(mut self, missed: MissedTicks) -> Interval {
        self.missed = missed;
        self
    }

    /// Waits for the next tick, and returns when it was due.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no tick is lost.
    pub async fn tick(&mut self) -> Instant {
        poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// Like [`tick`](Interval::tick), for one task at a time: the one that polls last is woken.
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        // A period so short that a tick is always due must not keep the task running.
        ready!(budget::is_left(cx));
        budget::spend();
        let due = ready!(Pin::new(&mut self.timer).poll(cx));
        match self.next(due, current::now()) {
            Some(next) => self.timer.set_at(next),
            None => self.timer.clear(),
        }
        Poll::Ready(due)
    }

    /// When the next tick is due; `None`: never.
    fn next(&self, due: Instant, now: Instant) -> Option<Instant> {
        let next = due.checked_add(self.period)?;
        if next > now {
            return Some(next);
        }
        match self.missed {
            MissedTicks::Burst => Some(next),
            MissedTicks::Delay => now.checked_add(self.period),
            MissedTicks::Skip => {
                let into_period = (now - due).as_nanos() % self.period.as_nanos();
                // Zero if one is due right now: that one is not past.
                let rest = (self.period.as_nanos() - into_period) % self.period.as_nanos();
                now.checked_add(Duration::new((rest / 1_000_000_000) as u64, (rest % 1_000_000_000) as u32))
            }
        }
    }
}

/// A stream that never ends.
impl Stream for Interval {
    type Item = Instant;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Instant>> {
        self.poll_tick(cx).map(Some)
    }
}
