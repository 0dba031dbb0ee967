//! hyper's [`Timer`](rt::Timer) on our wheel, and its [`Executor`](rt::Executor) on our cores.

use crate::executor::{CoreHandle, spawn_local};
use crate::time::{self, Timer};
use ::hyper::rt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// hyper's timer: its sleeps are [`Timer`]s, on the wheel of whichever core or thread waits for them.
///
/// Its time is that of the reactor's clock, which may be a [`MockClock`](crate::reactor::MockClock).
///
/// # Examples
///
/// Without a timer, hyper has no time-outs at all:
///
/// ```
/// use hyper::server::conn::http1;
/// use std::time::Duration;
/// use wakewheel::hyper::WheelTimer;
///
/// let mut http1 = http1::Builder::new();
/// http1.timer(WheelTimer).header_read_timeout(Duration::from_secs(10));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WheelTimer;

impl rt::Timer for WheelTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Sleep { timer: Timer::after(duration), over: false })
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Sleep { timer: Timer::at(deadline), over: false })
    }

    fn now(&self) -> Instant {
        time::now()
    }

    /// A sleep of ours is set again: to put it off is a store.
    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, new_deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<Sleep>() {
            Some(mut sleep) => {
                sleep.timer.set_at(new_deadline);
                sleep.over = false;
            }
            None => *sleep = self.sleep_until(new_deadline),
        }
    }
}

/// A [`Timer`] that stays ready when its time has come.
#[derive(Debug)]
struct Sleep {
    timer: Timer,
    over: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.over {
            ready!(Pin::new(&mut self.timer).poll(cx));
            self.over = true;
        }
        Poll::Ready(())
    }
}

impl rt::Sleep for Sleep {}

/// hyper's executor for futures that need not be `Send`: they become tasks of the core that they are started on, by
/// [`spawn_local`].
///
/// # Panics
///
/// `execute` does, outside of a [`LocalExecutor`](crate::LocalExecutor) and of [`Cores`](crate::Cores).
///
/// # Examples
///
/// ```
/// use hyper::server::conn::http2;
/// use wakewheel::hyper::{SpawnLocal, WheelTimer};
///
/// let mut http2 = http2::Builder::new(SpawnLocal);
/// http2.timer(WheelTimer);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SpawnLocal;

impl<F> rt::Executor<F> for SpawnLocal
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future).detach();
    }
}

/// hyper's executor for futures that are `Send`, wherever they come from: they become tasks of this core. If it has gone,
/// they are dropped.
///
/// ```
/// use hyper::client::conn::http2;
/// use wakewheel::Cores;
///
/// let cores = Cores::new(1)?;
/// // To be used on any thread, under any executor.
/// let http2 = http2::Builder::new(cores.handles()[0].clone());
/// # drop(http2);
/// # std::io::Result::Ok(())
/// ```
impl<F> rt::Executor<F> for CoreHandle
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.spawn(move || future).detach();
    }
}
