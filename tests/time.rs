//! Time: timers, intervals and limits, on cores, on the shared reactor and under foreign executors.

// A timer that is given back is not to be awaited there.
#![allow(clippy::async_yields_async)]

#[path = "common/tasks.rs"]
mod tasks;

use futures_lite::future::{self, poll_once};
use futures_lite::{FutureExt, StreamExt};
use std::cell::RefCell;
use std::future::{Future, pending, poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tasks::*;
use wakewheel::executor::{current, drain, yield_now};
use wakewheel::reactor::MockClock;
use wakewheel::{
    Cores, LocalExecutor, MissedTicks, Timer, block_on, interval, interval_at, sleep, sleep_until,
    spawn_local, timeout, timeout_at,
};

const MS: Duration = Duration::from_millis(1);

type Body = Pin<Box<dyn Future<Output = ()>>>;

/// Runs a test on a core, in `block_on`, and under an executor that knows nothing of this crate.
#[track_caller]
fn everywhere(test: fn() -> Body) {
    within_limit(move || LocalExecutor::new().unwrap().block_on(test()));
    within_limit(move || block_on(test()));
    within_limit(move || future::block_on(test()));
}

/// Runs a test on an executor whose time stands still while there is something to do.
fn mocked<F: Future>(test: impl FnOnce(MockClock) -> F) -> F::Output {
    let clock = MockClock::new();
    let executor = LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap();
    executor.block_on(async { test(clock).await })
}

// ----------------------------------------------------------------------------------------------- timers

#[test]
fn a_timer_gives_the_moment_that_was_asked_for_and_is_not_early() {
    everywhere(|| {
        Box::pin(async {
            let at = Instant::now() + 5 * MS;
            assert_eq!(Timer::at(at).await, at);
            assert!(Instant::now() >= at);
            let started = Instant::now();
            let due = Timer::after(5 * MS).await;
            assert!(due >= started + 5 * MS && due <= Instant::now());
            let at = Instant::now() + MS;
            assert_eq!(sleep_until(at).await, at);
            assert!(sleep(MS).await <= Instant::now());
        })
    });
}

#[test]
fn a_timer_that_has_fired_is_pending_until_it_is_set_again() {
    everywhere(|| {
        Box::pin(async {
            let mut timer = Timer::after(MS);
            assert!(timer.will_fire());
            (&mut timer).await;
            assert!(!timer.will_fire());
            let (wakes, waker) = Wakes::new();
            for _ in 0..3 {
                assert!(poll_with(&waker, &mut timer).is_pending());
                assert!(poll_once(timer.next()).await.is_none(), "as a stream it does not end");
            }
            sleep(2 * MS).await;
            drop(waker);
            assert_eq!(Arc::strong_count(&wakes), 1, "it keeps nobody's waker");
            let at = Instant::now() + MS;
            timer.set_at(at);
            assert!(timer.will_fire());
            assert_eq!(timer.await, at);
        })
    });
}

#[test]
fn a_timer_that_never_fires_fires_when_it_is_set() {
    everywhere(|| {
        Box::pin(async {
            let mut timer = Timer::never();
            assert!(!timer.will_fire());
            assert!(poll_once(&mut timer).await.is_none());
            timer.set_after(MS);
            assert!(timer.will_fire());
            timer.await;
        })
    });
}

#[test]
fn a_moment_that_no_instant_can_hold_is_never() {
    everywhere(|| {
        Box::pin(async {
            let mut timers =
                [Timer::after(Duration::MAX), Timer::interval(Duration::MAX), sleep(Duration::MAX)];
            for timer in &mut timers {
                assert!(!timer.will_fire());
                assert!(poll_once(timer).await.is_none());
            }
            let mut timer = Timer::after(LIMIT);
            timer.set_after(Duration::MAX);
            assert!(!timer.will_fire());
            assert_eq!(timeout(Duration::MAX, async { 7 }).await, Ok(7));
            assert!(timeout(MS, timeout(Duration::MAX, pending::<()>())).await.is_err());
        })
    });
}

#[test]
fn the_far_future_is_waited_for_and_the_far_past_is_not() {
    everywhere(|| {
        Box::pin(async {
            let now = Instant::now();
            let century = Duration::from_secs(100 * 365 * 24 * 3600);
            for far in [century, 100 * century] {
                let mut timer = Timer::after(far);
                assert!(timer.will_fire());
                assert!(poll_once(&mut timer).await.is_none());
                timer.set_after(MS);
                timer.await;
            }
            // As far back as the system lets an instant go.
            let past = (0..40).filter_map(|i| now.checked_sub(Duration::from_secs(1 << i))).next_back();
            for past in [past, now.checked_sub(MS), Some(now)].into_iter().flatten() {
                assert_eq!(poll_once(Timer::at(past)).await, Some(past), "ready at the first poll");
            }
            assert!(poll_once(Timer::after(Duration::ZERO)).await.is_some());
        })
    });
}

#[test]
fn a_timer_that_was_cleared_does_not_fire() {
    everywhere(|| {
        Box::pin(async {
            let (wakes, waker) = Wakes::new();
            let mut timer = Timer::after(5 * MS);
            assert!(poll_with(&waker, &mut timer).is_pending());
            timer.clear();
            assert!(!timer.will_fire());
            sleep(10 * MS).await;
            assert!(poll_with(&waker, &mut timer).is_pending());
            assert_eq!(wakes.count(), 0);
            timer.set_after(MS);
            timer.await;
        })
    });
}

#[test]
fn a_task_that_waits_is_woken_by_a_timer_that_was_cleared_and_set_again() {
    everywhere(|| {
        Box::pin(async {
            let (wakes, waker) = Wakes::new();
            let mut timer = Timer::after(LIMIT);
            assert!(poll_with(&waker, &mut timer).is_pending());
            timer.clear();
            timer.set_after(MS);
            sleep(5 * MS).await;
            while wakes.count() == 0 {
                sleep(MS).await;
            }
            assert!(poll_with(&waker, &mut timer).is_ready());
        })
    });
}

#[test]
fn a_timer_wakes_the_task_that_polled_it_last() {
    everywhere(|| {
        Box::pin(async {
            let ((first, first_waker), (last, last_waker)) = (Wakes::new(), Wakes::new());
            let mut timer = Timer::after(5 * MS);
            assert!(poll_with(&first_waker, &mut timer).is_pending());
            assert!(poll_with(&last_waker, &mut timer).is_pending());
            drop(first_waker);
            assert_eq!(Arc::strong_count(&first), 1);
            while last.count() == 0 {
                sleep(MS).await;
            }
            assert_eq!((first.count(), last.count()), (0, 1));
            assert!(poll_with(&last_waker, &mut timer).is_ready());
        })
    });
}

#[test]
fn a_dropped_timer_lets_go_of_its_waker() {
    everywhere(|| {
        Box::pin(async {
            let (wakes, waker) = Wakes::new();
            for after in [MS, Duration::from_secs(3600)] {
                let mut timers: Vec<_> = (0..10).map(|_| Timer::after(after)).collect();
                for timer in &mut timers {
                    assert!(poll_with(&waker, timer).is_pending());
                }
            }
            drop(waker);
            assert_eq!(Arc::strong_count(&wakes), 1);
            sleep(3 * MS).await;
            assert_eq!(wakes.count(), 0);
        })
    });
}

#[test]
fn no_timer_is_early_and_few_are_late() {
    everywhere(|| {
        Box::pin(async {
            // From 1 us to 50 ms, all at once, each at its own time.
            let (count, longest) = (scaled(20_000) as u32, 50 * MS);
            let done = Rc::new(RefCell::new((0_u32, Duration::ZERO)));
            let mut all: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
            for i in 0..count {
                let done = done.clone();
                let after = Duration::from_micros(1) + longest * i / count;
                all.push(Box::pin(async move {
                    let at = Instant::now() + after;
                    assert_eq!(Timer::at(at).await, at);
                    let now = Instant::now();
                    assert!(now >= at, "early by {:?}", at - now);
                    let mut done = done.borrow_mut();
                    *done = (done.0 + 1, done.1 + (now - at));
                }));
            }
            // Polled in groups, so that what is late is not the time to poll all of them.
            let mut groups: Vec<_> = Vec::new();
            while !all.is_empty() {
                let mut group = all.split_off(all.len().saturating_sub(50));
                groups.push(Box::pin(poll_fn(move |cx| {
                    group.retain_mut(|timer| timer.as_mut().poll(cx).is_pending());
                    if group.is_empty() { Poll::Ready(()) } else { Poll::Pending }
                })));
            }
            poll_fn(|cx| {
                groups.retain_mut(|group| group.as_mut().poll(cx).is_pending());
                if groups.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            assert_eq!(done.borrow().0, count);
        })
    });
}

#[test]
fn a_timer_is_late_by_little() {
    everywhere(|| {
        Box::pin(async {
            const TIMERS: u32 = 100;
            const ENOUGH: Duration = Duration::from_millis(5);
            let mut mean = Duration::MAX;
            // On a busy machine a round says more of the machine: one that is good enough will do.
            for _ in 0..10 {
                let mut late = Duration::ZERO;
                for i in 0..TIMERS {
                    let at = Instant::now() + Duration::from_micros(1 + u64::from(i) * 17);
                    Timer::at(at).await;
                    let now = Instant::now();
                    assert!(now >= at, "early by {:?}", at - now);
                    late += now - at;
                }
                mean = late / TIMERS;
                if mean < ENOUGH {
                    return;
                }
            }
            panic!("late by {mean:?} on average, again and again");
        })
    });
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    mocked(async |clock| {
        let start = clock.now() + MS;
        let fired = Rc::new(RefCell::new(Vec::new()));
        // Nanoseconds apart, within one tick and over many, and equal ones in the order in which they were set.
        let offsets =
            [3, 1, 2, 1, 40_000, 39_999, 2, 1_000_000_007, 65_536, 32_768, 1, 32_767, 1_000_000_006];
        for (i, &offset) in offsets.iter().enumerate() {
            let fired = fired.clone();
            spawn_local(async move {
                sleep_until(start + Duration::from_nanos(offset)).await;
                fired.borrow_mut().push((offset, i));
            })
            .detach();
        }
        drain(LIMIT).await;
        let mut expected: Vec<_> =
            offsets.iter().copied().enumerate().map(|(i, offset)| (offset, i)).collect();
        expected.sort_unstable();
        assert_eq!(*fired.borrow(), expected);
    });
}

#[test]
fn timers_that_are_due_together_fire_in_order_on_the_shared_reactor_too() {
    /// Notes when it is woken.
    struct Notes(usize, Arc<Mutex<Vec<usize>>>);
    impl Wake for Notes {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }
    for _ in 0..3 {
        let woken = Arc::new(Mutex::new(Vec::new()));
        // Time enough to set them all.
        let start = Instant::now() + 200 * MS;
        let order = [3, 1, 2, 0, 4];
        let mut timers: Vec<_> =
            order.iter().map(|&i| (i, Timer::at(start + Duration::from_micros(10 * i as u64)))).collect();
        for (i, timer) in &mut timers {
            assert!(poll_with(&Waker::from(Arc::new(Notes(*i, woken.clone()))), timer).is_pending());
        }
        eventually("all fire", || woken.lock().unwrap().len() == order.len());
        assert_eq!(*woken.lock().unwrap(), [0, 1, 2, 3, 4]);
    }
}

#[test]
fn an_earlier_timer_ends_the_wait_for_a_later_one() {
    everywhere(|| {
        Box::pin(async {
            let mut late = Timer::after(Duration::from_secs(3600));
            let started = Instant::now();
            // Set by another thread while this one sleeps for the hour.
            let (sender, receiver) = async_channel::bounded::<Instant>(1);
            let thread = thread::spawn(move || {
                thread::sleep(10 * MS);
                sender.send_blocking(future::block_on(Timer::after(MS))).unwrap();
            });
            let due = future::or(&mut late, async { receiver.recv().await.unwrap() }).await;
            thread.join().unwrap();
            assert!(due >= started + 11 * MS);
            assert!(late.will_fire());
        })
    });
}

/// A timer that another thread may set while a task waits for it.
struct Settable(Arc<Mutex<Timer>>);

impl Future for Settable {
    type Output = Instant;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Instant> {
        Pin::new(&mut *self.0.lock().unwrap()).poll(cx)
    }
}

#[test]
fn a_timer_is_set_by_another_thread_while_its_task_waits() {
    type Set = fn(&mut Timer);
    let sets: [Set; 5] = [
        |timer| timer.set_after(MS),
        |timer| timer.set_at(Instant::now() + MS),
        |timer| timer.set_interval(MS),
        |timer| timer.set_interval_at(Instant::now(), MS),
        |timer| {
            timer.clear();
            timer.set_after(MS);
        },
    ];
    static SET: Mutex<Option<Set>> = Mutex::new(None);
    for set in sets {
        *SET.lock().unwrap() = Some(set);
        everywhere(|| {
            Box::pin(async {
                let set = SET.lock().unwrap().unwrap();
                let timer = Arc::new(Mutex::new(Timer::after(Duration::from_secs(3600))));
                let other = timer.clone();
                let (polled, is_polled) = mpsc::channel();
                let thread = thread::spawn(move || {
                    is_polled.recv().unwrap();
                    set(&mut other.lock().unwrap());
                });
                let mut waiting = Settable(timer);
                assert!(poll_once(&mut waiting).await.is_none());
                polled.send(()).unwrap();
                assert!(waiting.await <= Instant::now());
                thread.join().unwrap();
            })
        });
    }
}

#[test]
fn a_deadline_that_is_put_off_again_and_again_fires_once_at_the_last() {
    everywhere(|| {
        Box::pin(async {
            let (wakes, waker) = Wakes::new();
            let started = Instant::now();
            let mut timer = Timer::at(started + MS);
            assert!(poll_with(&waker, &mut timer).is_pending());
            let mut last = started;
            for i in 0..1000 {
                last = started + Duration::from_secs(3600) + MS * i;
                timer.set_at(last);
            }
            sleep(5 * MS).await;
            assert_eq!(wakes.count(), 0, "not at the first");
            last = last.min(Instant::now() + 5 * MS);
            timer.set_at(last);
            while wakes.count() == 0 {
                sleep(MS).await;
            }
            assert!(Instant::now() >= last);
            assert_eq!(poll_with(&waker, &mut timer), Poll::Ready(last));
            sleep(3 * MS).await;
            assert_eq!(wakes.count(), 1);
        })
    });
}

#[test]
fn an_idle_limit_that_is_renewed_fires_when_the_renewing_ends() {
    mocked(async |clock| {
        let started = clock.now();
        let timer = Arc::new(Mutex::new(Timer::after(Duration::from_secs(10))));
        let renewed = timer.clone();
        spawn_local(async move {
            for _ in 0..100 {
                sleep(Duration::from_secs(9)).await;
                renewed.lock().unwrap().set_after(Duration::from_secs(10));
            }
        })
        .detach();
        let polls = current().stats().timers;
        assert_eq!(Settable(timer).await - started, Duration::from_secs(910));
        assert_eq!(clock.now() - started, Duration::from_secs(910));
        assert_eq!(current().stats().timers, polls + 101);
    });
}

#[test]
fn a_timer_is_brought_forward() {
    everywhere(|| {
        Box::pin(async {
            let mut timer = Timer::after(Duration::from_secs(3600));
            assert!(poll_once(&mut timer).await.is_none());
            let at = Instant::now() + MS;
            timer.set_at(at);
            assert_eq!(timer.await, at);
            let mut timer = Timer::after(Duration::from_secs(3600));
            assert!(poll_once(&mut timer).await.is_none());
            timer.set_at(at);
            assert_eq!(timer.await, at, "to a moment that is past");
        })
    });
}

// ------------------------------------------------------------------------------- timers that move about

#[test]
fn a_timer_may_be_polled_by_one_task_and_then_by_another() {
    within_limit(|| {
        let cores = Cores::new(2).unwrap();
        let started = Instant::now();
        let (sender, receiver) = async_channel::bounded(1);
        let first = cores.spawn(move || async move {
            let mut timer = Timer::after(20 * MS);
            assert!(poll_once(&mut timer).await.is_none());
            sender.send(timer).await.unwrap();
        });
        let second = cores.spawn(move || async move { receiver.recv().await.unwrap().await });
        block_on(first).unwrap();
        assert!(block_on(second).unwrap() >= started + 20 * MS);
        assert!(started.elapsed() >= 20 * MS);
    });
}

/// Where a timer can be waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Core,
    BlockOn,
    Foreign,
    Manual,
}

const PLACES: [Place; 4] = [Place::Core, Place::BlockOn, Place::Foreign, Place::Manual];

/// Calls `f` with a polled timer there, on a thread of its own.
fn at<R: Send + 'static>(place: Place, f: impl AsyncFnOnce() -> R + Send + 'static) -> R {
    within_limit(move || match place {
        Place::Core => LocalExecutor::new().unwrap().block_on(f()),
        Place::BlockOn => block_on(f()),
        Place::Foreign => future::block_on(f()),
        Place::Manual => {
            let mut f = pin!(f());
            loop {
                // Without a waker: only the time decides.
                if let Poll::Ready(result) = f.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    return result;
                }
                thread::yield_now();
            }
        }
    })
}

#[test]
fn a_timer_that_was_begun_anywhere_ends_anywhere() {
    for begin in PLACES {
        for end in PLACES {
            let started = Instant::now();
            let timer = at(begin, async || {
                let mut timer = Timer::after(10 * MS);
                assert!(poll_once(&mut timer).await.is_none(), "{:?}", timer);
                timer
            });
            // The core of the first place, if it was one, has stopped by now.
            let due = at(end, async move || timer.await);
            assert!(due >= started + 10 * MS && due <= Instant::now(), "from {begin:?} to {end:?}");
        }
    }
}

#[test]
fn who_waits_for_a_timer_of_a_core_that_stops_is_woken_and_goes_on_elsewhere() {
    within_limit(|| {
        let executor = LocalExecutor::new().unwrap();
        let (wakes, waker) = Wakes::new();
        let started = Instant::now();
        let mut timer = executor.enter(|| {
            let mut timer = Timer::after(10 * MS);
            assert!(poll_with(&waker, &mut timer).is_pending());
            timer
        });
        drop(executor);
        assert_eq!(wakes.count(), 1);
        assert!(block_on(&mut timer) >= started + 10 * MS);
    });
}

#[test]
fn a_timer_is_set_from_outside_after_its_core_has_stopped() {
    within_limit(|| {
        let executor = LocalExecutor::new().unwrap();
        let mut timer = executor.block_on(async {
            let mut timer = Timer::after(Duration::from_secs(3600));
            assert!(poll_once(&mut timer).await.is_none());
            timer
        });
        let handle = executor.handle();
        drop(executor);
        let at = Instant::now() + MS;
        timer.set_at(at);
        assert_eq!(block_on(timer), at);
        drop(handle);
    });
}

#[test]
fn what_a_timer_was_set_to_elsewhere_does_not_come_after_what_it_is_set_to_at_home() {
    within_limit(|| {
        LocalExecutor::new().unwrap().block_on(async {
            let mut timer = Timer::after(LIMIT);
            for clears in [true, false] {
                timer.set_after(LIMIT);
                assert!(poll_once(&mut timer).await.is_none());
                // Back before the core has had a turn in which it would hear of it.
                let elsewhere = || if clears { timer.clear() } else { timer.set_after(2 * LIMIT) };
                thread::scope(|scope| scope.spawn(elsewhere).join().unwrap());
                let at = Instant::now() + MS;
                timer.set_at(at);
                assert_eq!(timeout(LIMIT / 2, &mut timer).await, Ok(at));
            }
        });
    });
}

#[test]
fn a_timer_that_is_dropped_on_another_thread_lets_go_of_its_waker() {
    within_limit(|| {
        for on_core in [true, false] {
            let (wakes, waker) = Wakes::new();
            let cores = Cores::new(1).unwrap();
            let begin = move || {
                (0..100)
                    .map(|_| {
                        let mut timer = Timer::after(Duration::from_secs(3600));
                        assert!(poll_with(&waker, &mut timer).is_pending());
                        timer
                    })
                    .collect::<Vec<_>>()
            };
            let timers = if on_core {
                block_on(cores.spawn(move || async move { begin() })).unwrap()
            } else {
                thread::spawn(begin).join().unwrap()
            };
            assert_eq!(Arc::strong_count(&wakes), 101);
            drop(timers);
            // The letters are read with the next ones.
            block_on(cores.spawn(yield_now)).unwrap();
            block_on(cores.spawn(|| sleep(MS))).unwrap();
            assert_eq!(Arc::strong_count(&wakes), 1, "on a core: {on_core}");
        }
    });
}

#[test]
fn a_core_that_sleeps_for_ever_hears_of_a_timer_that_another_thread_sets() {
    within_limit(|| {
        let cores = Cores::new(2).unwrap();
        let (sender, receiver) = async_channel::bounded(1);
        let owner = cores.handles()[0].spawn(|| async move {
            let timer = Arc::new(Mutex::new(Timer::after(Duration::from_secs(3600))));
            let mut waiting = Settable(timer.clone());
            assert!(poll_once(&mut waiting).await.is_none());
            sender.send(timer).await.unwrap();
            waiting.await
        });
        let setter = cores.handles()[1].spawn(|| async move {
            let timer = receiver.recv().await.unwrap();
            let at = Instant::now() + 5 * MS;
            timer.lock().unwrap().set_at(at);
            at
        });
        assert_eq!(block_on(owner).unwrap(), block_on(setter).unwrap());
    });
}

#[test]
fn timers_are_set_and_dropped_by_two_threads_at_once() {
    // A tug-of-war over the wheel of a core: nothing hangs, nothing fires early.
    within_limit(|| {
        let executor = LocalExecutor::new().unwrap();
        let timer = Arc::new(Mutex::new(Timer::after(MS)));
        let stop = Arc::new(AtomicBool::new(false));
        let (other, stopped) = (timer.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let mut i = 0;
            while !stopped.load(Ordering::Relaxed) {
                i += 1;
                let mut timer = other.lock().unwrap();
                match i % 3 {
                    0 => *timer = Timer::after(Duration::from_micros(i % 50)),
                    1 => timer.set_after(Duration::from_micros(i % 100)),
                    _ => timer.set_interval(Duration::from_micros(1 + i % 70)),
                }
                drop(timer);
                thread::yield_now();
            }
        });
        executor.block_on(async {
            for _ in 0..scaled(10_000) {
                // A timer that is replaced does not wake who waited for the old one: look again now and then.
                if let Ok(due) = timeout(MS, Settable(timer.clone())).await {
                    assert!(due <= Instant::now());
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    });
}

#[test]
fn a_mock_clock_is_exact_from_its_first_moment_on() {
    const NAME: &str = "a_mock_clock_is_exact_from_its_first_moment_on";
    if !is_child(NAME) {
        return succeeds_in_child(NAME, &[]);
    }
    // The first thing that this process asks of the crate: it has no notion of time yet.
    let clock = MockClock::new();
    let started = clock.now();
    thread::sleep(20 * MS);
    let executor = LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap();
    executor.block_on(sleep_until(started + MS));
    assert_eq!(clock.now() - started, MS);
}

#[test]
fn a_mock_clock_stops_at_no_deadline_that_was_given_up() {
    within_limit(|| {
        mocked(async |clock| {
            let start = clock.now();
            let [mut cleared, mut put_off, mut dropped] = [10, 20, 30].map(|ms| Timer::after(ms * MS));
            for timer in [&mut cleared, &mut put_off, &mut dropped] {
                assert!(poll_once(timer).await.is_none());
            }
            cleared.clear();
            drop(dropped);

            let sleeps = || current().stats().sleeps;
            let before = sleeps();
            put_off.set_at(start + 50 * MS);
            assert_eq!((&mut put_off).await, start + 50 * MS);
            assert_eq!((clock.now() - start, sleeps() - before), (50 * MS, 1));

            // Nothing but another thread ends this wait.
            let mut late = Timer::after(10 * MS);
            assert!(poll_once(&mut late).await.is_none());
            late.clear();
            let (core, before) = (current(), sleeps());
            let mut thread = None;
            poll_fn(|cx| {
                if thread.is_some() {
                    return Poll::Ready(());
                }
                let (core, waker) = (core.clone(), cx.waker().clone());
                thread = Some(thread::spawn(move || {
                    eventually("the core sleeps", || core.stats().sleeps > before);
                    waker.wake();
                }));
                Poll::Pending
            })
            .await;
            assert_eq!(clock.now() - start, 50 * MS);
        });
    });
}

// --------------------------------------------------------------------------------------------- intervals

#[test]
fn an_interval_timer_makes_up_for_missed_ticks() {
    mocked(async |clock| {
        let start = clock.now() + MS;
        let mut timer = Timer::interval_at(start, 10 * MS);
        clock.advance(35 * MS);
        for i in 0..10 {
            assert_eq!(timer.next().await, Some(start + 10 * MS * i));
            let late = if i <= 3 { 35 * MS } else { MS + 10 * MS * i };
            assert_eq!(clock.now() - (start - MS), late, "tick {i}");
        }
        assert!(timer.will_fire());
    });
}

#[test]
fn an_interval_timer_stays_one_when_it_is_set_anew() {
    mocked(async |clock| {
        let start = clock.now();
        let mut timer = Timer::interval(10 * MS);
        assert_eq!((&mut timer).await, start + 10 * MS);
        timer.set_at(start + 13 * MS);
        assert_eq!((&mut timer).await, start + 13 * MS);
        assert_eq!((&mut timer).await, start + 23 * MS);
        timer.set_interval(3 * MS);
        assert_eq!((&mut timer).await, start + 26 * MS);
        assert_eq!((&mut timer).await, start + 29 * MS);
        timer.set_interval_at(start + 100 * MS, 50 * MS);
        assert_eq!((&mut timer).await, start + 100 * MS);
        assert_eq!((&mut timer).await, start + 150 * MS);
        timer.clear();
        assert!(poll_once(&mut timer).await.is_none());
    });
}

/// Futures that are written by hand take a tick, and return `Pending` for other reasons.
#[test]
fn who_has_had_a_tick_of_an_interval_timer_is_woken_for_the_next_one() {
    async fn two_ticks(mut timer: Timer) {
        let mut ticks = 0;
        poll_fn(|cx| {
            if Pin::new(&mut timer).poll(cx).is_ready() {
                ticks += 1;
            }
            if ticks < 2 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
    everywhere(|| {
        Box::pin(async {
            two_ticks(Timer::interval(MS)).await;
            // They are due already.
            two_ticks(Timer::interval_at(Instant::now() - MS, MS / 10)).await;
            // It is set to a moment by somebody else.
            let mut timer = Timer::interval_at(Instant::now(), 3600 * 1000 * MS);
            let mut polls = 0;
            poll_fn(|cx| {
                polls += 1;
                if polls == 1 {
                    assert!(Pin::new(&mut timer).poll(cx).is_ready());
                    timer.set_after(MS);
                }
                if polls < 2 { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        })
    });
}

#[test]
fn an_interval_timer_that_is_set_to_never_keeps_its_period() {
    mocked(async |clock| {
        let mut timer = Timer::interval(MS);
        timer.set_interval(Duration::MAX);
        assert!(!timer.will_fire());
        let start = clock.now();
        timer.set_at(start);
        assert_eq!(poll_once(&mut timer).await, Some(start));
        assert!(timer.will_fire(), "it is an interval still");
    });
}

/// When the ticks of an interval of 10 ms were due, and when they came, if the third one is waited for 37 ms too late;
/// in milliseconds.
fn ticks(missed: MissedTicks) -> Vec<(u128, u128)> {
    mocked(async |clock| {
        let start = clock.now();
        let mut ticks = interval(10 * MS).missed_ticks(missed);
        let mut seen = Vec::new();
        for i in 0..9 {
            if i == 2 {
                clock.advance(47 * MS);
            }
            let due = ticks.tick().await;
            seen.push(((due - start).as_millis(), (clock.now() - start).as_millis()));
        }
        seen
    })
}

#[test]
fn missed_ticks_are_made_up_for_in_a_burst() {
    let made_up = [(10, 10), (20, 20), (30, 67), (40, 67), (50, 67), (60, 67), (70, 70), (80, 80), (90, 90)];
    assert_eq!(ticks(MissedTicks::Burst), made_up);
    assert_eq!(ticks(MissedTicks::default()), made_up);
}

#[test]
fn missed_ticks_delay_the_schedule() {
    assert_eq!(
        ticks(MissedTicks::Delay),
        [(10, 10), (20, 20), (30, 67), (77, 77), (87, 87), (97, 97), (107, 107), (117, 117), (127, 127)]
    );
}

#[test]
fn missed_ticks_are_skipped() {
    assert_eq!(
        ticks(MissedTicks::Skip),
        [(10, 10), (20, 20), (30, 67), (70, 70), (80, 80), (90, 90), (100, 100), (110, 110), (120, 120)]
    );
}

#[test]
fn a_tick_that_is_due_right_now_is_not_skipped() {
    mocked(async |clock| {
        let start = clock.now();
        let mut ticks = interval_at(start + 10 * MS, 10 * MS).missed_ticks(MissedTicks::Skip);
        clock.advance(40 * MS);
        let mut due = Vec::new();
        for _ in 0..3 {
            due.push((ticks.tick().await - start).as_millis());
        }
        assert_eq!(due, [10, 40, 50], "20 and 30 were missed");
    });
}

#[test]
fn an_interval_loses_no_tick_when_a_wait_is_given_up() {
    mocked(async |clock| {
        let start = clock.now();
        let mut ticks = interval(10 * MS);
        for i in 1..10 {
            assert!(timeout(4 * MS, ticks.tick()).await.is_err());
            assert_eq!(ticks.tick().await, start + 10 * MS * i);
        }
        assert_eq!(clock.now(), start + 90 * MS);
        assert_eq!(ticks.next().await, Some(start + 100 * MS), "as a stream");
    });
}

#[test]
fn an_interval_that_would_tick_without_end_is_refused() {
    for make in [|| interval(Duration::ZERO), || interval_at(Instant::now(), Duration::ZERO)] {
        assert!(std::panic::catch_unwind(make).is_err());
    }
}

#[test]
fn a_tiny_period_starves_nobody() {
    everywhere(|| {
        Box::pin(async {
            for missed in [MissedTicks::Burst, MissedTicks::Delay, MissedTicks::Skip] {
                let mut ticks = interval(Duration::from_nanos(1)).missed_ticks(missed);
                let ticking = async {
                    loop {
                        ticks.tick().await;
                    }
                };
                let mut timer = Timer::interval(Duration::from_nanos(1));
                let timing = async {
                    loop {
                        timer.next().await;
                    }
                };
                // Polled after the others: only if they are pending now and then.
                ticking
                    .or(timing)
                    .or(async {
                        sleep(2 * MS).await;
                    })
                    .await;
            }
        })
    });
}

#[test]
fn a_tiny_period_starves_no_task() {
    on_executor(|| async {
        let ticking = spawn_local(async {
            let mut ticks = interval(Duration::from_nanos(1));
            loop {
                ticks.tick().await;
            }
        });
        let mut timer = Timer::interval(Duration::from_nanos(1));
        let timing = spawn_local(async move {
            loop {
                timer.next().await;
            }
        });
        spawn_local(async {
            for _ in 0..10 {
                yield_now().await;
            }
            sleep(MS).await;
        })
        .await
        .unwrap();
        drop((ticking, timing));
    });
}

// ------------------------------------------------------------------------------------------------ limits

#[test]
fn a_future_that_is_ready_in_time_gives_its_result() {
    everywhere(|| {
        Box::pin(async {
            assert_eq!(timeout(Duration::ZERO, ready(7)).await, Ok(7), "ready comes before the limit");
            assert_eq!(timeout_at(Instant::now() - MS, ready(7)).await, Ok(7));
            assert_eq!(timeout(LIMIT, async { sleep(MS).await }).await.map(drop), Ok(()));
            assert_eq!(timeout_at(Instant::now() + LIMIT, async { sleep(MS).await }).await.map(drop), Ok(()));
        })
    });
}

#[test]
fn a_future_that_takes_too_long_is_given_up() {
    everywhere(|| {
        Box::pin(async {
            let started = Instant::now();
            assert!(timeout(5 * MS, pending::<()>()).await.is_err());
            assert!(started.elapsed() >= 5 * MS);
            let at = Instant::now() + 5 * MS;
            assert!(timeout_at(at, pending::<()>()).await.is_err());
            assert!(Instant::now() >= at);
            assert!(timeout(Duration::ZERO, pending::<()>()).await.is_err());
            let elapsed = timeout_at(at, pending::<()>()).await.unwrap_err();
            let error = io::Error::from(elapsed);
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(error.to_string(), elapsed.to_string());
            let question = async || -> io::Result<()> {
                timeout(MS, pending::<()>()).await?;
                Ok(())
            };
            assert_eq!(question().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        })
    });
}

#[test]
fn a_limit_counts_from_the_first_poll_and_a_deadline_from_nowhere() {
    mocked(async |clock| {
        let start = clock.now();
        let (limit, deadline) =
            (timeout(10 * MS, pending::<()>()), timeout_at(start + 10 * MS, pending::<()>()));
        clock.advance(5 * MS);
        assert!(deadline.await.is_err());
        assert_eq!(clock.now() - start, 10 * MS);
        assert!(limit.await.is_err());
        assert_eq!(clock.now() - start, 20 * MS);
    });
}

#[test]
fn what_takes_too_long_is_dropped_with_its_limit() {
    on_executor(|| async {
        let drops = Drops::default();
        let guard = drops.guard();
        let mut limited = Box::pin(timeout(MS, async move {
            let _guard = guard;
            pending::<()>().await;
        }));
        assert!(limited.as_mut().await.is_err());
        assert_eq!(drops.count(), 0);
        drop(limited);
        assert_eq!(drops.count(), 1);
        assert_eq!(current().stats().tasks_alive, 0);
    });
}

#[test]
fn a_limit_that_was_not_needed_leaves_no_timer() {
    mocked(async |clock| {
        let start = clock.now();
        for _ in 0..100 {
            timeout(Duration::from_secs(3600), sleep(MS)).await.unwrap();
        }
        assert_eq!(clock.now() - start, 100 * MS);
        assert_eq!(current().stats().timers, 100);
    });
}

// ----------------------------------------------------------------------------------------------- in bulk

#[test]
fn b53_a_hundred_thousand_timers_half_of_them_cancelled_fire_in_exact_order() {
    let count = 100_000;
    within_limit(move || {
        mocked(async |clock| {
            let start = clock.now() + MS;
            // Marsaglia's xorshift: any numbers will do, if they are the same ones every time.
            let mut x = 0x2545_F491_4F6C_DD1D_u64;
            let mut random = move || {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x
            };
            let fired = Rc::new(RefCell::new(Vec::with_capacity(count)));
            /// Notes when its timer fires, without a task.
            struct Noted<'a> {
                timer: Option<Timer>,
                at: u64,
                fired: &'a RefCell<Vec<u64>>,
            }
            let mut all: Vec<_> = (0..count)
                .map(|_| {
                    // Up to about a day, most of them near.
                    let at = random() >> (18 + random() % 24);
                    Noted { timer: Some(Timer::at(start + Duration::from_nanos(at))), at, fired: &fired }
                })
                .collect();
            for noted in &mut all {
                assert!(poll_once(noted.timer.as_mut().unwrap()).await.is_none());
            }
            for noted in all.iter_mut().filter(|_| random() % 2 == 0) {
                noted.timer = None;
            }
            all.retain(|noted| noted.timer.is_some());
            let mut expected: Vec<_> = all.iter().map(|noted| noted.at).collect();
            expected.sort_unstable();
            all.sort_by_key(|noted| noted.at);
            assert!((count / 3..2 * count / 3).contains(&all.len()));
            for noted in &mut all {
                let due = noted.timer.take().unwrap().await;
                assert_eq!(due - start, Duration::from_nanos(noted.at));
                assert!(clock.now() >= due);
                // One that others follow may be left to share their turn.
                assert!(clock.now() - due < MS / 10, "late by {:?}", clock.now() - due);
                noted.fired.borrow_mut().push(noted.at);
            }
            assert_eq!(*fired.borrow(), expected);
        });
    });
}

#[test]
fn tasks_by_the_thousand_wake_in_the_order_of_their_deadlines() {
    within_limit(|| {
        mocked(async |clock| {
            let start = clock.now() + MS;
            let fired = Rc::new(RefCell::new(Vec::new()));
            let mut x = 88_172_645_463_325_252_u64;
            let mut tasks = Vec::new();
            for i in 0..10_000 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let (at, fired) = (x >> 34, fired.clone());
                tasks.push(spawn_local(async move {
                    sleep_until(start + Duration::from_nanos(at)).await;
                    fired.borrow_mut().push((at, i));
                }));
            }
            // They set their timers first.
            yield_now().await;
            while tasks.len() > 5000 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                drop(tasks.swap_remove(x as usize % tasks.len()));
            }
            tasks.into_iter().for_each(|task| task.detach());
            assert_eq!(drain(Duration::MAX).await, 0);
            let fired = fired.borrow();
            assert_eq!(fired.len(), 5000);
            assert!(fired.is_sorted(), "equal ones in the order in which they were set");
        });
    });
}
