//! A deadline as a future and as a stream.

use crate::reactor::timers::{Alarm, State};
use crate::reactor::{budget, current};
use futures_core::Stream;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

/// A future or stream that emits timed events.
///
/// The result is the instant that was asked for, which is not later than now. A timer for a moment that has passed is
/// ready at once. After it has fired, a timer without a period is pending for ever, until it is set again.
///
/// Setting and cancelling costs the same however many timers are pending, and does not allocate.
///
/// # Cancel safety
///
/// Safe to drop at any time.
///
/// # Panics
///
/// If it is polled where there is no reactor yet and none can be made: no descriptors left, or a wrong `WAKEWHEEL_BACKEND`.
/// (On a core there always is one.)
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use wakewheel::Timer;
///
/// let started = Instant::now();
/// wakewheel::block_on(Timer::after(Duration::from_millis(10)));
/// assert!(started.elapsed() >= Duration::from_millis(10));
/// ```
pub struct Timer {
    /// `None`: never.
    when: Option<Instant>,
    /// `Duration::MAX`: only once.
    period: Duration,
    /// While it is waited for.
    alarm: Option<Alarm>,
}

/// Waits until `duration` has passed, counted from this call.
///
/// ```
/// # use std::time::Duration;
/// # wakewheel::block_on(async {
/// wakewheel::sleep(Duration::from_millis(10)).await;
/// # });
/// ```
pub fn sleep(duration: Duration) -> Timer {
    Timer::after(duration)
}

/// Waits until `deadline`. Ready at once if that is past.
pub fn sleep_until(deadline: Instant) -> Timer {
    Timer::at(deadline)
}

impl Timer {
    const ONCE: Duration = Duration::MAX;

    /// A timer that never fires, unless it is set.
    pub fn never() -> Timer {
        Timer { when: None, period: Timer::ONCE, alarm: None }
    }

    /// Fires once, when `duration` has passed from now; never, if that is beyond what an [`Instant`] can hold.
    pub fn after(duration: Duration) -> Timer {
        Timer { when: current::now().checked_add(duration), period: Timer::ONCE, alarm: None }
    }

    /// Fires once, at `instant`.
    pub fn at(instant: Instant) -> Timer {
        Timer { when: Some(instant), period: Timer::ONCE, alarm: None }
    }

    /// Fires every `period`, for the first time when one has passed. Ticks that were missed are made up for one after the
    /// other; [`Interval`](crate::Interval) can do otherwise. With a period of zero, it is always time.
    ///
    /// Who has had a tick is woken for the next one without another poll.
    pub fn interval(period: Duration) -> Timer {
        Timer { when: current::now().checked_add(period), period, alarm: None }
    }

    /// Fires every `period`, for the first time at `start`.
    pub fn interval_at(start: Instant, period: Duration) -> Timer {
        Timer { when: Some(start), period, alarm: None }
    }

    /// Will it fire? Not if it never was to, or has, or was cleared.
    #[inline]
    pub fn will_fire(&self) -> bool {
        self.when.is_some()
    }

    /// Is there a task that waits for it? After it was set, that one need not poll it again.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.alarm.is_some()
    }

    /// Sets it to fire when `duration` has passed from now. A period stays as it is.
    ///
    /// A task that waits for it is woken at the new time. Putting a pending deadline off is a store.
    pub fn set_after(&mut self, duration: Duration) {
        match current::now().checked_add(duration) {
            Some(instant) => self.set_at(instant),
            None => self.clear(),
        }
    }

    /// Sets it to fire at `instant`. A period stays as it is.
    ///
    /// A task that waits for it is woken at the new time. Putting a pending deadline off is a store.
    pub fn set_at(&mut self, instant: Instant) {
        self.when = Some(instant);
        if let Some(alarm) = self.alarm.take_if(|alarm| !alarm.reset(instant)) {
            alarm.cancel();
        }
    }

    /// Sets it to fire every `period`, for the first time when one has passed; never, if that is beyond what an [`Instant`] can
    /// hold, and then its period stays as it is.
    pub fn set_interval(&mut self, period: Duration) {
        match current::now().checked_add(period) {
            Some(instant) => self.set_interval_at(instant, period),
            None => self.clear(),
        }
    }

    /// Sets it to fire every `period`, for the first time at `start`.
    pub fn set_interval_at(&mut self, start: Instant, period: Duration) {
        self.period = period;
        self.set_at(start);
    }

    /// Makes it never fire, until it is set again. A task that waits for it is not woken; if it is set while that task
    /// still waits, the task is woken at the new time.
    pub fn clear(&mut self) {
        self.when = None;
        // It keeps the waker, and its place: to be set again, which is what mostly follows, is a store then.
        if let Some(alarm) = self.alarm.take_if(|alarm| !alarm.put_off()) {
            alarm.cancel();
        }
    }

    #[inline]
    fn poll_fire(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        let Some(when) = self.when else {
            // Cleared, perhaps, while it was waited for: who polls last is woken if it is set again.
            if let Some(alarm) = self.alarm.take_if(|alarm| alarm.poll(cx.waker()) != State::Pending) {
                alarm.cancel();
            }
            return Poll::Pending;
        };
        if let Some(alarm) = &self.alarm {
            if !alarm.is_overdue(when) && alarm.poll(cx.waker()) == State::Pending {
                return Poll::Pending;
            }
        }
        if let Some(alarm) = self.alarm.take() {
            alarm.cancel();
        }
        self.alarm = Alarm::set(when, cx.waker());
        if self.alarm.is_some() {
            return Poll::Pending;
        }
        // Timers for which it is always time must not keep the task running.
        ready!(budget::is_left(cx));
        budget::spend();
        if self.period == Timer::ONCE {
            self.when = None;
        } else {
            self.set_next_tick(when, cx.waker());
        }
        Poll::Ready(when)
    }

    /// Who has had a tick at `when` waits for the next one already, without another poll, as with async-io.
    fn set_next_tick(&mut self, when: Instant, waker: &Waker) {
        self.when = when.checked_add(self.period);
        if let Some(next) = self.when {
            self.alarm = Alarm::set(next, waker);
            if self.alarm.is_none() {
                waker.wake_by_ref();
            }
        }
    }
}

impl Future for Timer {
    type Output = Instant;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Instant> {
        self.poll_fire(cx)
    }
}

/// A stream that never ends.
impl Stream for Timer {
    type Item = Instant;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Instant>> {
        self.poll_fire(cx).map(Some)
    }
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        if let Some(alarm) = self.alarm.take() {
            alarm.cancel();
        }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = (self.period != Timer::ONCE).then_some(self.period);
        f.debug_struct("Timer").field("when", &self.when).field("period", &period).finish_non_exhaustive()
    }
}
