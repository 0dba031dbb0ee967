//! The executor: how tasks begin and end, who runs when, and what it says of itself.

// A handle that is given back is not to be awaited there; a waker has two ways to wake, and both are tested.
#![allow(clippy::async_yields_async, clippy::waker_clone_wake)]

#[path = "common/tasks.rs"]
mod tasks;

use futures_lite::future::{self, or, poll_once};
use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn, ready};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tasks::*;
use wakewheel::executor::{Panics, current, drain, shutdown_requested, yield_now};
use wakewheel::reactor::MockClock;
use wakewheel::{
    Async, Cores, JoinError, JoinHandle, LocalExecutor, Task, Timer, sleep, spawn, spawn_local, timeout,
};

fn executor() -> LocalExecutor {
    LocalExecutor::new().expect("an executor")
}

// ------------------------------------------------------------------------------------- beginning and end

#[test]
fn a_task_gives_its_result_to_whoever_awaits_it() {
    on_executor(|| async {
        assert_eq!(spawn_local(async { 1 }).await.unwrap(), 1);
        assert_eq!(spawn(async { 2 }).await.unwrap(), 2);
        assert_eq!(current().spawn(|| async { 3 }).await.unwrap(), 3);
    });
    let executor = executor();
    let early = executor.spawn(async { 4 });
    assert_eq!(executor.block_on(early).unwrap(), 4);
}

#[test]
fn the_result_is_there_however_late_it_is_asked_for() {
    on_executor(|| async {
        let (local, sent) = (spawn_local(async { 1 }), spawn(async { 2 }));
        while !(local.is_finished() && sent.is_finished()) {
            yield_now().await;
        }
        assert_eq!(local.await.unwrap(), 1);
        assert_eq!(sent.await.unwrap(), 2);
    });
}

#[test]
fn a_result_outlives_its_executor() {
    let executor = executor();
    let task = executor.block_on(async {
        let task = spawn_local(async { String::from("kept") });
        yield_now().await;
        task
    });
    drop(executor);
    assert_eq!(future::block_on(task).unwrap(), "kept");
}

#[test]
fn dropping_a_task_handle_drops_the_future_at_once() {
    on_executor(|| async {
        let drops = Drops::default();
        let guard = drops.guard();
        let task = spawn_local(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        yield_now().await;
        assert_eq!(drops.count(), 0);
        drop(task);
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn dropping_a_join_handle_cancels_the_task() {
    on_executor(|| async {
        let drops = Drops::default();
        let guard = drops.guard();
        let handle = spawn(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        yield_now().await;
        assert_eq!(drops.count(), 0);
        drop(handle);
        assert_eq!(drops.count(), 1, "this is its core: it is cancelled at once");
    });
}

#[test]
fn cancelling_a_task_gives_its_result_only_if_it_was_done() {
    on_executor(|| async {
        let (done, waiting) = (spawn_local(async { 7 }), spawn_local(pending::<()>()));
        yield_now().await;
        assert_eq!(done.cancel().expect("it was done").unwrap(), 7);
        assert!(waiting.cancel().is_none());
    });
}

#[test]
fn a_cancelled_join_handle_says_so() {
    on_executor(|| async {
        let handle = spawn(pending::<()>());
        yield_now().await;
        handle.cancel();
        handle.cancel();
        let error = handle.await.unwrap_err();
        assert!(error.is_cancelled() && !error.is_panic());
        assert!(error.into_panic().is_err());
    });
}

#[test]
fn a_detached_task_runs_to_its_end() {
    on_executor(|| async {
        let ended = Arc::new(AtomicUsize::new(0));
        let body = || {
            let ended = ended.clone();
            async move {
                yield_now().await;
                ended.fetch_add(1, Ordering::Relaxed);
            }
        };
        spawn_local(body()).detach();
        spawn(body()).detach();
        assert_eq!(drain(LIMIT).await, 0);
        assert_eq!(ended.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_detached_task_drops_its_result_when_it_ends() {
    on_executor(|| async {
        let drops = Drops::default();
        let (a, b) = (drops.guard(), drops.guard());
        spawn_local(async move { a }).detach();
        spawn(async move { b }).detach();
        assert_eq!(drain(LIMIT).await, 0);
        assert_eq!(drops.count(), 2);
    });
}

#[test]
fn tasks_run_first_come_first_served() {
    on_executor(|| async {
        let order = Rc::new(RefCell::new(Vec::new()));
        for i in 0..100 {
            let order = order.clone();
            spawn_local(async move {
                order.borrow_mut().push(i);
                yield_now().await;
                order.borrow_mut().push(100 + i);
            })
            .detach();
        }
        drain(LIMIT).await;
        assert_eq!(*order.borrow(), (0..200).collect::<Vec<_>>());
    });
}

#[test]
fn a_task_that_was_cancelled_before_it_began_never_begins() {
    on_executor(|| async {
        let began = Rc::new(Cell::new(false));
        let seen = began.clone();
        drop(spawn_local(async move { seen.set(true) }));
        let seen = Arc::new(AtomicBool::new(false));
        let of_make = seen.clone();
        let handle = current().spawn(move || {
            of_make.store(true, Ordering::Relaxed);
            ready(())
        });
        handle.cancel();
        assert!(handle.await.unwrap_err().is_cancelled());
        drain(LIMIT).await;
        assert!(!began.get());
        assert!(!seen.load(Ordering::Relaxed), "not even the closure was called");
    });
}

#[test]
fn a_task_that_is_cancelled_while_its_future_is_being_made_is_cancelled() {
    within_limit(|| {
        let cores = Cores::new(1).unwrap();
        let drops = Drops::default();
        let guard = drops.guard();
        let (in_make, is_in_make) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let handle = cores.spawn(move || {
            in_make.send(()).unwrap();
            may_go_on.recv().unwrap();
            async move {
                let _guard = guard;
                pending::<()>().await;
            }
        });
        is_in_make.recv().unwrap();
        drop(handle);
        go_on.send(()).unwrap();
        // One more, so that the first has begun if it ever will.
        wakewheel::block_on(cores.spawn(yield_now)).unwrap();
        assert_eq!(drops.count(), 1, "its handle went before it had begun");
        eventually("no task is left", || cores.stats()[0].tasks_alive == 0);
    });
}

#[test]
fn a_task_whose_core_has_gone_counts_as_cancelled() {
    let executor = executor();
    let handle = executor.handle();
    drop(executor);
    let called = Arc::new(AtomicBool::new(false));
    let seen = called.clone();
    let task = handle.spawn(move || {
        seen.store(true, Ordering::Relaxed);
        ready(())
    });
    assert!(task.is_finished());
    assert!(future::block_on(task).unwrap_err().is_cancelled());
    assert!(!called.load(Ordering::Relaxed));
    assert_eq!(handle.stats().tasks_alive, 0);
}

#[test]
fn spawning_outside_of_an_executor_panics_and_says_what_to_do() {
    let payload = catch_unwind(|| spawn_local(ready(())).detach()).unwrap_err();
    let text = message(&*payload);
    assert!(text.contains("spawn_local") && text.contains("LocalExecutor::block_on"), "{text}");
}

#[test]
fn tasks_that_are_left_go_on_in_the_next_call() {
    let executor = executor();
    let steps = Rc::new(Cell::new(0));
    let seen = steps.clone();
    executor
        .spawn(async move {
            loop {
                seen.set(seen.get() + 1);
                yield_now().await;
            }
        })
        .detach();
    let mut before = 0;
    for _ in 0..5 {
        executor.block_on(async {
            yield_now().await;
            yield_now().await;
        });
        assert!(steps.get() > before, "it has not run in this call");
        before = steps.get();
    }
}

#[test]
fn a_task_can_be_awaited_in_the_call_after_the_one_that_started_it() {
    within_limit(|| {
        let executor = executor();
        let mut task = executor.block_on(async { spawn(sleep(Duration::from_millis(5))) });
        assert!(executor.block_on(poll_once(&mut task)).is_none());
        executor.block_on(task).unwrap();
    });
}

#[test]
fn an_executor_refuses_to_run_inside_itself() {
    within_limit(|| {
        let executor = Rc::new(executor());
        let inner = executor.clone();
        let task = executor.spawn(async move {
            let nested = catch_unwind(AssertUnwindSafe(|| inner.block_on(ready(()))));
            message(&*nested.unwrap_err()).to_owned()
        });
        let text = executor.block_on(task).unwrap();
        assert!(text.contains("runs already"), "{text}");
        assert_eq!(executor.block_on(async { 7 }), 7, "and is none the worse for it");
    });
}

#[test]
fn an_executor_runs_again_after_its_future_has_panicked() {
    let executor = executor();
    let task = executor.spawn(async { 3 });
    assert!(catch_unwind(AssertUnwindSafe(|| executor.block_on(async { panic!("root") }))).is_err());
    assert_eq!(executor.block_on(task).unwrap(), 3);
}

// -------------------------------------------------------------------------------- where a task is dropped

/// A future that leaves `guard` when it is dropped, for `then` or for ever.
async fn holding<G>(guard: G, then: impl Future<Output = ()>) {
    let _guard = guard;
    then.await;
}

#[test]
fn a_future_is_dropped_on_its_own_core_whatever_ends_it() {
    within_limit(|| {
        let cores = Cores::new(1).unwrap();
        let here = wakewheel::block_on(cores.spawn(|| async { thread::current().id() })).unwrap();
        assert_ne!(here, thread::current().id());
        let drops = Drops::default();
        let start = |then: fn() -> Pin<Box<dyn Future<Output = ()>>>| {
            let guard = drops.guard();
            cores.spawn(move || async move { holding(guard, then()).await })
        };

        wakewheel::block_on(start(|| Box::pin(async {}))).unwrap();
        assert_eq!(drops.threads(), [here], "completion");

        let handle = start(|| Box::pin(pending()));
        handle.cancel();
        assert!(wakewheel::block_on(handle).unwrap_err().is_cancelled());

        let handle = start(|| Box::pin(async { panic!("a task that panics") }));
        assert!(wakewheel::block_on(handle).unwrap_err().is_panic());
        assert_eq!(drops.threads(), [here; 3].as_slice()[..drops.count()], "cancelled, panicked");

        let handle = start(|| Box::pin(pending()));
        wakewheel::block_on(cores.spawn(yield_now)).unwrap();
        let before = drops.count();
        drop(handle);
        wakewheel::block_on(cores.spawn(yield_now)).unwrap();
        assert_eq!(drops.count(), before + 1, "its handle went");

        start(|| Box::pin(pending())).detach();
        start(|| Box::pin(async { shutdown_requested().await })).detach();
        wakewheel::block_on(cores.spawn(yield_now)).unwrap();
        let before = drops.count();
        // Time enough for the one that ends when it is asked to.
        assert_eq!(cores.shutdown(Duration::from_millis(500)), 1);
        assert_eq!(drops.count(), before + 2, "shutdown");
        assert!(
            drops.threads().iter().all(|&thread| thread == here),
            "{:?} and not {here:?}",
            drops.threads()
        );
    });
}

#[test]
fn what_a_closure_captured_is_dropped_on_the_core_when_it_is_cancelled_on_the_way() {
    within_limit(|| {
        let cores = Cores::new(1).unwrap();
        let drops = Drops::default();
        let (block, is_blocked) = mpsc::channel::<()>();
        let (blocked, has_blocked) = mpsc::channel();
        let blocker = cores.spawn(move || async move {
            blocked.send(thread::current().id()).unwrap();
            is_blocked.recv().unwrap();
        });
        let there = has_blocked.recv().unwrap();
        let guard = drops.guard();
        let handle = cores.spawn(move || holding(guard, pending()));
        handle.cancel();
        block.send(()).unwrap();
        assert!(wakewheel::block_on(handle).unwrap_err().is_cancelled());
        wakewheel::block_on(blocker).unwrap();
        assert_eq!(drops.threads(), [there]);
    });
}

/// At the end of a thread, executors go in whatever order its thread-locals do, the crate's own among them.
#[test]
fn an_executor_may_end_with_its_thread() {
    struct Ends(LocalExecutor);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.block_on(async { yield_now().await });
        }
    }
    thread_local! {
        static EARLY: RefCell<Option<Ends>> = const { RefCell::new(None) };
        static LATE: RefCell<Option<Ends>> = const { RefCell::new(None) };
    }
    let drops = Drops::default();
    let of_thread = drops.clone();
    let thread = thread::spawn(move || {
        // Known to the thread before anything of the crate, and after it.
        EARLY.set(None);
        for place in [&EARLY, &LATE] {
            let executor = executor();
            let guard = of_thread.guard();
            executor.block_on(async {
                spawn_local(async move {
                    let _guard = guard;
                    pending::<()>().await;
                })
                .detach();
                sleep(Duration::from_millis(1)).await;
            });
            place.set(Some(Ends(executor)));
        }
    });
    thread.join().unwrap();
    assert_eq!(drops.count(), 2);
}

#[test]
fn every_future_has_gone_when_the_executor_has() {
    let drops = Drops::default();
    let executor = executor();
    let (waker, waker_sender) = (Rc::new(RefCell::new(None::<Waker>)), Rc::new(RefCell::new(None)));
    let seen = waker.clone();
    executor.spawn(holding(drops.guard(), pending())).detach();
    let kept: Task<()> = executor.spawn(holding(drops.guard(), pending()));
    executor
        .spawn(holding(
            drops.guard(),
            poll_fn(move |cx| {
                *seen.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }),
        ))
        .detach();
    let guard = drops.guard();
    *waker_sender.borrow_mut() = Some(executor.handle().spawn(move || holding(guard, pending())));
    executor.block_on(yield_now());
    // Neither of these has ever been polled.
    executor.spawn(holding(drops.guard(), pending())).detach();
    let guard = drops.guard();
    let unread = executor.handle().spawn(move || holding(guard, pending()));
    assert_eq!(drops.count(), 0);
    drop(executor);
    assert_eq!(drops.threads(), vec![thread::current().id(); 6]);
    assert!(future::block_on(kept).unwrap_err().is_cancelled());
    assert!(future::block_on(unread).unwrap_err().is_cancelled());
    waker.take().unwrap().wake();
}

#[test]
fn the_result_is_told_after_the_future_has_gone() {
    /// Ready at once, with something to drop.
    struct Ready(DropGuard);
    impl Future for Ready {
        type Output = ();
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            let _ = &self.0;
            Poll::Ready(())
        }
    }
    /// Looks, when it is woken, whether the future is still there.
    struct Looks(Drops, AtomicUsize);
    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            self.1.store(self.0.count(), Ordering::Relaxed);
        }
    }
    let executor = executor();
    for local in [true, false] {
        let drops = Drops::default();
        let looks = Arc::new(Looks(drops.clone(), AtomicUsize::new(usize::MAX)));
        let waker = Waker::from(looks.clone());
        let future = Ready(drops.guard());
        let (mut task, mut handle) = (None, None);
        if local {
            let task = task.insert(executor.spawn(future));
            assert!(poll_with(&waker, task).is_pending());
        } else {
            let handle = handle.insert(executor.handle().spawn(move || future));
            assert!(poll_with(&waker, handle).is_pending());
        }
        executor.block_on(yield_now());
        executor.block_on(yield_now());
        assert_eq!(looks.1.load(Ordering::Relaxed), 1, "futures dropped when the waiter was woken");
    }
}

// ----------------------------------------------------------------------------------------- tasks and wakers

#[test]
fn the_wakers_of_a_finished_task_do_no_harm_on_any_thread() {
    let executor = executor();
    let (sender, receiver) = mpsc::channel();
    executor.block_on(async {
        spawn_local(async move {
            let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            for _ in 0..4 {
                sender.send(waker.clone()).unwrap();
            }
        })
        .await
        .unwrap();
        let polls = current().stats().polls;
        let threads: Vec<_> = receiver
            .iter()
            .map(|waker| {
                thread::spawn(move || {
                    for _ in 0..1000 {
                        waker.wake_by_ref();
                        waker.clone().wake();
                    }
                    waker
                })
            })
            .collect();
        for thread in threads {
            let waker = thread.join().unwrap();
            waker.wake_by_ref();
            waker.wake();
        }
        yield_now().await;
        yield_now().await;
        assert_eq!(current().stats().polls, polls, "nothing was polled for them");
    });
}

#[test]
fn the_wakers_of_an_executor_that_has_gone_do_no_harm_on_any_thread() {
    let executor = executor();
    let (sender, wakers) = mpsc::channel();
    for i in 0..100 {
        let sender = sender.clone();
        executor
            .spawn(async move {
                poll_fn(|cx| {
                    sender.send(cx.waker().clone()).unwrap();
                    if i % 2 == 0 { Poll::Ready(()) } else { Poll::Pending }
                })
                .await
            })
            .detach();
    }
    let root = executor.block_on(async {
        yield_now().await;
        poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
    });
    drop(sender);
    drop(executor);
    let threads: Vec<_> = wakers
        .iter()
        .chain([root])
        .map(|waker| {
            thread::spawn(move || {
                waker.wake_by_ref();
                let other = waker.clone();
                waker.wake();
                other
            })
        })
        .collect();
    assert_eq!(threads.len(), 101);
    for thread in threads {
        drop(thread.join().unwrap());
    }
}

#[test]
fn wakers_may_be_woken_while_the_executor_is_dropped() {
    within_limit(|| {
        for _ in 0..50 {
            let stop = Arc::new(AtomicBool::new(false));
            let (sender, wakers) = mpsc::channel();
            let waking: Vec<_> = {
                let executor = executor();
                for _ in 0..20 {
                    let sender = sender.clone();
                    executor
                        .spawn(poll_fn(move |cx| {
                            let _ = sender.send(cx.waker().clone());
                            Poll::<()>::Pending
                        }))
                        .detach();
                }
                executor.block_on(async {
                    yield_now().await;
                });
                let wakers: Vec<Waker> = wakers.try_iter().collect();
                assert_eq!(wakers.len(), 20);
                let (is_waking, started) = mpsc::channel();
                let waking = wakers
                    .chunks(10)
                    .map(|wakers| {
                        let (wakers, stop, is_waking) = (wakers.to_vec(), stop.clone(), is_waking.clone());
                        thread::spawn(move || {
                            while !stop.load(Ordering::Relaxed) {
                                wakers.iter().for_each(Waker::wake_by_ref);
                                let _ = is_waking.send(());
                            }
                        })
                    })
                    .collect();
                started.recv().unwrap();
                executor.block_on(yield_now());
                waking
            };
            stop.store(true, Ordering::Relaxed);
            waking.into_iter().for_each(|thread| thread.join().unwrap());
        }
    });
}

#[test]
fn a_task_that_wakes_itself_is_polled_again() {
    let polls = on_executor(|| async {
        let mut polls = 0;
        spawn_local(poll_fn(move |cx| {
            polls += 1;
            if polls == 1000 {
                return Poll::Ready(polls);
            }
            // More than once makes no difference.
            cx.waker().wake_by_ref();
            cx.waker().clone().wake();
            Poll::Pending
        }))
        .await
        .unwrap()
    });
    assert_eq!(polls, 1000);
}

#[test]
fn many_wakes_before_a_poll_are_one_poll() {
    on_executor(|| async {
        let polls = Rc::new(Cell::new(0));
        let seen = polls.clone();
        let waker = Rc::new(RefCell::new(None::<Waker>));
        let of_task = waker.clone();
        spawn_local(poll_fn(move |cx| {
            seen.set(seen.get() + 1);
            *of_task.borrow_mut() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }))
        .detach();
        yield_now().await;
        let waker = waker.borrow().clone().unwrap();
        for _ in 0..10 {
            waker.wake_by_ref();
        }
        yield_now().await;
        yield_now().await;
        assert_eq!(polls.get(), 2);
    });
}

#[test]
fn a_task_may_drop_its_own_handle_while_it_runs() {
    on_executor(|| async {
        let drops = Drops::default();
        let slot = Rc::new(RefCell::new(None::<Task<()>>));
        let steps = Rc::new(Cell::new(0));
        let (own, seen, guard) = (slot.clone(), steps.clone(), drops.guard());
        let of_task = drops.clone();
        *slot.borrow_mut() = Some(spawn_local(async move {
            let _guard = guard;
            drop(own.take());
            assert_eq!(of_task.count(), 0, "it is still running");
            seen.set(1);
            yield_now().await;
            seen.set(2);
        }));
        drain(LIMIT).await;
        assert_eq!(drops.count(), 1);
        assert_eq!(steps.get(), 1, "it ended at its next wait");
    });
}

/// Who waits for the last task hears of it while that task comes to its end, and does then whatever it likes.
#[test]
fn a_handle_may_be_dropped_by_whoever_hears_of_the_last_end() {
    thread_local! {
        static HANDLE: RefCell<Option<Task<DropGuard>>> = const { RefCell::new(None) };
    }
    struct DropsIt;
    impl Wake for DropsIt {
        fn wake(self: Arc<Self>) {
            drop(HANDLE.take());
        }
    }
    on_executor(|| async {
        let drops = Drops::default();
        let guard = drops.guard();
        HANDLE.set(Some(spawn_local(async move { guard })));
        let mut draining = pin!(drain(LIMIT));
        assert!(
            draining.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(DropsIt)))).is_pending()
        );
        yield_now().await;
        assert!(HANDLE.take().is_none(), "it has heard");
        assert_eq!(drops.count(), 1, "the result goes with the handle");
    });
}

#[test]
fn a_result_that_comes_while_the_waker_is_cloned_is_not_missed() {
    use std::task::{RawWaker, RawWakerVTable};
    static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, |_| {}, |_| {}, |_| {});
    /// Runs the executor that the pointer points to.
    unsafe fn clone(executor: *const ()) -> RawWaker {
        // SAFETY: the executor lives as long as the waker is used.
        unsafe { &*executor.cast::<LocalExecutor>() }.block_on(yield_now());
        RawWaker::new(executor, &VTABLE)
    }
    within_limit(|| {
        let executor = executor();
        let mut task = executor.spawn(async { 7 });
        // SAFETY: nobody keeps a clone, and the other functions do nothing.
        let waker = unsafe { Waker::new((&raw const executor).cast(), &VTABLE) };
        let result = Pin::new(&mut task).poll(&mut Context::from_waker(&waker));
        assert!(matches!(result, Poll::Ready(Ok(7))));
    });
}

#[test]
fn a_task_that_cancels_itself_ends_at_its_next_wait_unless_it_is_ready() {
    on_executor(|| async {
        for is_ready in [false, true] {
            let drops = Drops::default();
            let slot = Rc::new(RefCell::new(None::<JoinHandle<u32>>));
            let (own, guard) = (slot.clone(), drops.guard());
            let handle = spawn(async move {
                let _guard = guard;
                own.borrow().as_ref().unwrap().cancel();
                if !is_ready {
                    yield_now().await;
                }
                7
            });
            *slot.borrow_mut() = Some(handle);
            yield_now().await;
            yield_now().await;
            assert_eq!(drops.count(), 1);
            let result = slot.take().unwrap().await;
            if is_ready {
                assert_eq!(result.unwrap(), 7);
            } else {
                assert!(result.unwrap_err().is_cancelled());
            }
        }
    });
}

#[test]
fn a_future_may_spawn_when_it_is_dropped() {
    on_executor(|| async {
        let ran = Rc::new(Cell::new(false));
        let seen = ran.clone();
        let bomb = OnDrop(move || {
            let seen = seen.clone();
            spawn_local(async move { seen.set(true) }).detach();
        });
        let task = spawn_local(async move {
            let _bomb = bomb;
            pending::<()>().await;
        });
        yield_now().await;
        drop(task);
        yield_now().await;
        assert!(ran.get());
    });
}

#[test]
fn what_is_spawned_while_the_executor_is_dropped_is_cancelled_at_once() {
    let drops = Drops::default();
    let results = Rc::new(RefCell::new(Vec::new()));
    let executor = executor();
    for _ in 0..10 {
        let (drops, results) = (drops.clone(), results.clone());
        let bomb = OnDrop(move || {
            let task = spawn_local(holding(drops.guard(), pending()));
            assert!(task.is_finished());
            let handle = spawn(holding(drops.guard(), pending()));
            assert!(handle.is_finished());
            let other = current().spawn(|| ready(()));
            results.borrow_mut().push((task, handle, other));
        });
        executor
            .spawn(async move {
                let _bomb = bomb;
                pending::<()>().await;
            })
            .detach();
    }
    executor.block_on(yield_now());
    drop(executor);
    assert_eq!(drops.count(), 20);
    let results = results.take();
    assert_eq!(results.len(), 10, "every destructor ran");
    for (task, handle, other) in results {
        assert!(future::block_on(task).unwrap_err().is_cancelled());
        assert!(future::block_on(handle).unwrap_err().is_cancelled());
        assert!(future::block_on(other).unwrap_err().is_cancelled());
    }
}

#[test]
fn a_future_may_cancel_others_when_it_is_dropped() {
    let drops = Drops::default();
    let executor = executor();
    executor.block_on(async {
        // Each holds the next one, and all hold the last.
        let last = Rc::new(RefCell::new(Some(spawn_local(holding(drops.guard(), pending())))));
        let mut next = None::<Task<()>>;
        for _ in 0..100 {
            let (held, last, guard) = (next.take(), last.clone(), drops.guard());
            let cancel_last = OnDrop(move || drop(last.take()));
            next = Some(spawn_local(async move {
                let _all = (held, guard, cancel_last);
                pending::<()>().await;
            }));
        }
        yield_now().await;
        assert_eq!(drops.count(), 0);
        drop(next);
        assert_eq!(drops.count(), 101);
        assert_eq!(current().stats().tasks_alive, 0);
    });
}

#[test]
fn an_executor_may_belong_to_its_own_tasks() {
    within_limit(|| {
        let drops = Drops::default();
        let owned = Rc::new(executor());
        let owner = owned.clone();
        let inner = owned.spawn(holding(owner, pending::<()>()));
        let outer = owned.spawn(holding((drops.guard(), inner), pending::<()>()));
        owned.spawn(holding(drops.guard(), pending::<()>())).detach();
        drop(owned);
        // The one drops the other, which drops the executor, with all of them in it.
        drop(outer);
        assert_eq!(drops.count(), 2);
    });
}

#[test]
fn tasks_that_hold_each_others_handles_go_with_the_executor() {
    let drops = Drops::default();
    let executor = executor();
    let slots: [Rc<RefCell<Option<Task<()>>>>; 2] = Default::default();
    for (own, other) in [(0, 1), (1, 0)] {
        let (other, guard) = (slots[other].clone(), drops.guard());
        let task = executor.spawn(async move {
            let _guard = guard;
            let other = other.take().unwrap();
            other.await.unwrap();
        });
        *slots[own].borrow_mut() = Some(task);
    }
    executor.block_on(yield_now());
    assert_eq!(drops.count(), 0);
    drop(executor);
    assert_eq!(drops.count(), 2);
}

#[test]
fn nothing_is_left_of_tasks_that_have_ended() {
    let shared = Arc::new(());
    let executor = executor();
    executor.block_on(async {
        for i in 0..1000 {
            let (a, b, c, d) = (shared.clone(), shared.clone(), shared.clone(), shared.clone());
            let task = spawn_local(async move { a });
            let handle = spawn(async move { b });
            let remote = current().spawn(move || async move { drop(c) });
            spawn_local(async move {
                let _d = d;
                yield_now().await;
            })
            .detach();
            match i % 3 {
                0 => drop((task.await.unwrap(), handle.await.unwrap())),
                1 => drop((task, handle)),
                _ => {
                    task.detach();
                    handle.detach();
                }
            }
            match i % 2 {
                0 => remote.detach(),
                _ => drop(remote),
            }
        }
        assert_eq!(drain(LIMIT).await, 0);
        assert_eq!(Arc::strong_count(&shared), 1);
    });
}

#[test]
fn waiting_for_the_end_leaves_nothing_behind_when_it_is_given_up() {
    on_executor(|| async {
        spawn_local(pending::<()>()).detach();
        let (wakes, waker) = Wakes::new();
        for _ in 0..10 {
            let mut waiting = Box::pin(shutdown_requested());
            assert!(poll_with(&waker, &mut waiting).is_pending());
            let mut draining = Box::pin(drain(Duration::MAX));
            assert!(poll_with(&waker, &mut draining).is_pending());
        }
        drop(waker);
        assert_eq!(Arc::strong_count(&wakes), 1, "the waker of who waits no more is still kept");
    });
}

// ------------------------------------------------------------------------------------------------- panics

#[test]
fn a_panic_is_the_result_of_its_task_and_the_others_go_on() {
    on_executor(|| async {
        let other = spawn_local(async {
            yield_now().await;
            yield_now().await;
            5
        });
        let error = spawn_local(async { panic!("number {}", 1) }).await.unwrap_err();
        assert_eq!(error.to_string(), "the task panicked: number 1");
        let error = spawn(async { panic_any(7_u32) }).await.unwrap_err();
        assert!(error.is_panic() && !error.is_cancelled());
        assert_eq!(*error.into_panic().unwrap().downcast::<u32>().unwrap(), 7);
        let error = current().spawn(|| -> std::future::Ready<()> { panic!("no future") }).await.unwrap_err();
        assert_eq!(error.to_string(), "the task panicked: no future");
        assert_eq!(other.await.unwrap(), 5);
    });
}

#[test]
fn why_a_task_failed_is_an_error_like_others() {
    on_executor(|| async {
        async fn panics() -> std::io::Result<()> {
            Ok(spawn_local(async { panic!("number {}", 1) }).await?)
        }
        async fn cancelled() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            let task = spawn(pending());
            task.cancel();
            Ok(task.await?)
        }
        let error = panics().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Other);
        assert_eq!(error.to_string(), "the task panicked: number 1");
        let why: JoinError = error.downcast().unwrap();
        assert!(why.is_panic());

        let error = cancelled().await.unwrap_err();
        assert_eq!(error.to_string(), "the task was cancelled");
        let why: Box<JoinError> = error.downcast().unwrap();
        assert_eq!(std::io::Error::from(*why).kind(), ErrorKind::Other);

        // What a task panics with may belong to one thread at a time: it goes to others with its error, and is read there.
        let error = Arc::new(spawn(async { panic_any(Cell::new(7)) }).await.unwrap_err());
        let reader = thread::spawn({
            let error = error.clone();
            move || error.to_string()
        });
        assert_eq!(reader.join().unwrap(), "the task panicked");
        let payload = Arc::into_inner(error).unwrap().into_panic().unwrap();
        assert_eq!(payload.downcast::<Cell<i32>>().unwrap().get(), 7);
    });
}

/// The guard runs the executor, in whose queue its task still is.
#[test]
fn a_task_whose_future_is_being_dropped_is_not_polled() {
    struct Runs(Rc<LocalExecutor>, Rc<Cell<u32>>);
    impl Drop for Runs {
        fn drop(&mut self) {
            self.1.set(self.1.get() + 1);
            self.0.block_on(future::yield_now());
        }
    }
    let executor = Rc::new(LocalExecutor::new().unwrap());
    let (polls, drops) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (counted, guard) = (polls.clone(), Runs(executor.clone(), drops.clone()));
    let task = executor.spawn(async move {
        counted.set(counted.get() + 1);
        drop(guard);
    });
    drop(task);
    executor.block_on(future::yield_now());
    assert_eq!((polls.get(), drops.get()), (0, 1));
}

#[test]
fn a_future_is_dropped_once_after_it_panicked() {
    on_executor(|| async {
        let drops = Drops::default();
        struct Bomb(#[allow(dead_code)] DropGuard);
        impl Future for Bomb {
            type Output = ();
            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
                panic!("poll");
            }
        }
        assert!(spawn_local(Bomb(drops.guard())).await.unwrap_err().is_panic());
        assert!(spawn(Bomb(drops.guard())).await.unwrap_err().is_panic());
        spawn_local(Bomb(drops.guard())).detach();
        drain(LIMIT).await;
        assert_eq!(drops.count(), 3);
    });
}

/// Panics when it is dropped, unless something panics already.
struct DropBomb;

impl Drop for DropBomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("a destructor that panics");
        }
    }
}

#[test]
fn a_result_is_delivered_though_the_future_panics_when_it_is_dropped() {
    struct Ready(#[allow(dead_code)] DropBomb);
    impl Future for Ready {
        type Output = u32;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u32> {
            Poll::Ready(7)
        }
    }
    on_executor(|| async {
        assert_eq!(spawn_local(Ready(DropBomb)).await.unwrap(), 7);
        assert_eq!(current().spawn(|| Ready(DropBomb)).await.unwrap(), 7);
    });
}

#[test]
fn a_panic_in_a_destructor_stops_nobody_else() {
    let drops = Drops::default();
    let executor = executor();
    executor.block_on(async {
        let task = spawn_local(async {
            let _bomb = DropBomb;
            pending::<()>().await;
        });
        let output = spawn_local(async { DropBomb });
        spawn_local(async { DropBomb }).detach();
        yield_now().await;
        drop(task);
        drop(output);
        assert_eq!(spawn_local(async { 5 }).await.unwrap(), 5);
    });
    for i in 0..6 {
        let (bomb, guard) = ((i % 2 == 0).then(|| DropBomb), drops.guard());
        executor
            .spawn(async move {
                let _held = (guard, bomb);
                pending::<()>().await;
            })
            .detach();
    }
    executor.block_on(yield_now());
    drop(executor);
    assert_eq!(drops.count(), 6);
}

#[test]
fn what_a_panic_carries_may_panic_as_well_when_it_is_dropped() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            panic!("the payload of a panic panics");
        }
    }
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic_any(Payload);
        }
    }
    let bomb = || OnDrop(|| panic_any(Payload));
    within_limit(move || {
        let drops = Drops::default();
        let waker = Waker::from(Arc::new(Panics));
        let executor =
            LocalExecutor::builder().on_slow_poll(Duration::ZERO, |_| panic_any(Payload)).build().unwrap();
        // A future, while it is polled or when it is dropped; an output; a waker; a letter.
        executor.spawn(async { panic_any(Payload) }).detach();
        executor.spawn(holding(bomb(), ready(()))).detach();
        executor.spawn(async move { bomb() }).detach();
        let mut awaited = executor.spawn(async { 1 });
        assert!(poll_with(&waker, &mut awaited).is_pending());
        let mut sent = executor.handle().spawn(|| async { 2 });
        assert!(poll_with(&waker, &mut sent).is_pending());
        let (letter, not_read) = (bomb(), bomb());
        let cancelled = executor.handle().spawn(move || {
            let _letter = &letter;
            ready(())
        });
        drop(cancelled);
        executor.block_on(async {
            drop(spawn_local(holding(bomb(), pending::<()>())));
            let handle = spawn(holding(bomb(), pending::<()>()));
            handle.cancel();
            assert!(handle.await.unwrap_err().is_cancelled());
            let mut timer = Timer::after(Duration::from_millis(1));
            assert!(poll_with(&waker, &mut timer).is_pending());
            sleep(Duration::from_millis(2)).await;
            assert_eq!(awaited.await.unwrap(), 1);
            assert_eq!(sent.await.unwrap(), 2);
            assert_eq!(drain(LIMIT).await, 0);
        });
        executor.spawn(holding((bomb(), drops.guard()), pending::<()>())).detach();
        executor.spawn(holding((drops.guard(), bomb()), pending::<()>())).detach();
        executor.block_on(yield_now());
        executor
            .handle()
            .spawn(move || {
                let _not_read = &not_read;
                ready(())
            })
            .detach();
        drop(executor);
        assert_eq!(drops.count(), 2);
    });
}

#[test]
fn a_closure_that_panics_when_it_is_dropped_on_its_way_stops_nobody() {
    within_limit(|| {
        let executor = executor();
        executor.block_on(async {
            let bomb = DropBomb;
            let handle = current().spawn(move || {
                let _bomb = &bomb;
                ready(())
            });
            handle.cancel();
            drop(handle);
            let after = current().spawn(|| async { 5 });
            assert_eq!(after.await.unwrap(), 5, "the letter after it was read");
        });
        // And one that is never read.
        let (bomb, drops) = (DropBomb, Drops::default());
        let guard = drops.guard();
        let handle = executor.handle();
        handle
            .spawn(move || {
                let _bomb = &bomb;
                ready(())
            })
            .detach();
        let after = handle.spawn(move || holding(guard, ready(())));
        drop(executor);
        assert_eq!(drops.count(), 1);
        assert!(future::block_on(after).unwrap_err().is_cancelled());
    });
}

#[test]
fn a_waiter_whose_waker_panics_does_no_harm() {
    within_limit(|| {
        for panics in [Panics::Isolate, Panics::StopCore] {
            let executor = LocalExecutor::builder().panics(panics).build().unwrap();
            let waker = panicking_waker();
            let mut task = executor.spawn(async { 1 });
            assert!(poll_with(&waker, &mut task).is_pending());
            let mut handle = executor.handle().spawn(|| async { 2 });
            assert!(poll_with(&waker, &mut handle).is_pending());
            let other = executor.handle().spawn(|| async { 3 });
            executor.block_on(async {
                assert_eq!(task.await.unwrap(), 1);
                assert_eq!(handle.await.unwrap(), 2);
                assert_eq!(other.await.unwrap(), 3);
            });
        }
    });
}

#[test]
fn a_waiter_whose_waker_panics_does_no_harm_when_the_closure_panics_too() {
    within_limit(|| {
        let executor = executor();
        let mut handle = executor.handle().spawn(|| -> std::future::Ready<()> { panic!("no future") });
        assert!(poll_with(&panicking_waker(), &mut handle).is_pending());
        let other = executor.handle().spawn(|| async { 3 });
        assert_eq!(executor.block_on(other).unwrap(), 3);
        assert!(future::block_on(handle).unwrap_err().is_panic());
        // Nor when the letter is never read.
        let mut unread = executor.handle().spawn(|| ready(()));
        assert!(poll_with(&panicking_waker(), &mut unread).is_pending());
        let mut waiting = executor.spawn(pending::<()>());
        assert!(poll_with(&panicking_waker(), &mut waiting).is_pending());
        drop(executor);
        assert!(future::block_on(unread).unwrap_err().is_cancelled());
        assert!(future::block_on(waiting).unwrap_err().is_cancelled());
    });
}

#[test]
fn a_panic_stops_the_core_if_it_is_told_to() {
    within_limit(|| {
        type Start = fn(&LocalExecutor) -> JoinHandle<()>;
        let starts: [Start; 3] = [
            |executor| executor.enter(|| spawn(async { panic!("task") })),
            |executor| executor.handle().spawn(|| async { panic!("task") }),
            |executor| executor.handle().spawn(|| -> std::future::Ready<()> { panic!("task") }),
        ];
        for start in starts {
            let drops = Drops::default();
            let executor = LocalExecutor::builder().panics(Panics::StopCore).build().unwrap();
            executor.spawn(holding(drops.guard(), pending())).detach();
            let handle = start(&executor);
            let payload =
                catch_unwind(AssertUnwindSafe(|| executor.block_on(pending::<()>()))).expect_err("it stops");
            assert!(message(&*payload).contains("StopCore"), "{}", message(&*payload));
            assert_eq!(future::block_on(handle).unwrap_err().to_string(), "the task panicked: task");
            drop(executor);
            assert_eq!(drops.count(), 1);
        }
        let executor = LocalExecutor::builder().panics(Panics::StopCore).build().unwrap();
        let task = executor.spawn(async { panic!("task") });
        assert!(catch_unwind(AssertUnwindSafe(|| executor.block_on(pending::<()>()))).is_err());
        assert!(future::block_on::<Result<(), _>>(task).unwrap_err().is_panic());
    });
}

#[test]
fn a_letter_that_panics_stops_the_core_though_nothing_else_goes_on() {
    within_limit(|| {
        let executor = LocalExecutor::builder().panics(Panics::StopCore).build().unwrap();
        let root = async {
            // The core is awake when this comes, so that no wait is ended by it.
            current().spawn(|| -> std::future::Ready<()> { panic!("no future") }).detach();
            pending::<()>().await;
        };
        assert!(catch_unwind(AssertUnwindSafe(|| executor.block_on(root))).is_err());
    });
}

#[test]
fn a_panic_ends_the_process_if_it_is_told_to() {
    const NAME: &str = "a_panic_ends_the_process_if_it_is_told_to";
    if is_child(NAME) {
        let executor = LocalExecutor::builder().panics(Panics::Abort).build().unwrap();
        let _ = executor.block_on(executor.spawn(async { panic!("the last word") }));
        std::process::exit(0);
    }
    use std::os::unix::process::ExitStatusExt;
    let output = in_child(NAME, &[]);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the last word"));
}

// ---------------------------------------------------------------------------------- handles and threads

#[test]
fn a_handle_is_awaited_on_another_thread_under_any_executor() {
    on_executor(|| async {
        let (here, there) = (spawn(sleep(Duration::from_millis(1))), spawn(async { 2 }));
        let threads = [
            thread::spawn(|| assert!(future::block_on(here).unwrap() <= Instant::now())),
            thread::spawn(|| assert_eq!(wakewheel::block_on(there).unwrap(), 2)),
        ];
        for thread in threads {
            while !thread.is_finished() {
                yield_now().await;
            }
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_handle_wakes_the_one_who_polled_it_last() {
    on_executor(|| async {
        let mut handle = spawn(yield_now());
        let ((first, first_waker), (last, last_waker)) = (Wakes::new(), Wakes::new());
        assert!(poll_with(&first_waker, &mut handle).is_pending());
        assert!(poll_with(&last_waker, &mut handle).is_pending());
        let mut task = spawn_local(yield_now());
        assert!(poll_with(&first_waker, &mut task).is_pending());
        assert!(poll_with(&last_waker, &mut task).is_pending());
        drain(LIMIT).await;
        assert_eq!((first.count(), last.count()), (0, 2));
        handle.await.unwrap();
        task.await.unwrap();
    });
}

#[test]
fn a_handle_is_cancelled_from_another_thread_while_the_core_sleeps() {
    within_limit(|| {
        let executor = executor();
        let drops = Drops::default();
        let guard = drops.guard();
        executor.block_on(async {
            let handle = spawn(holding(guard, pending()));
            yield_now().await;
            let thread = thread::spawn(move || drop(handle));
            // Nothing but the letter wakes the core.
            assert_eq!(drain(Duration::MAX).await, 0);
            thread.join().unwrap();
        });
        assert_eq!(drops.threads(), [thread::current().id()]);
    });
}

#[test]
fn a_task_of_one_executor_can_await_one_of_another() {
    within_limit(|| {
        let cores = Cores::new(1).unwrap();
        let executor = executor();
        let remote = cores.handles()[0].clone();
        let sum = executor.block_on(async move {
            let mut sum = 0;
            for i in 0..100 {
                sum += remote.spawn(move || async move { i }).await.unwrap();
            }
            sum
        });
        assert_eq!(sum, 4950);
    });
}

#[test]
fn an_executor_inside_a_task_of_another_keeps_to_its_own_tasks() {
    within_limit(|| {
        let outer = executor();
        let log = Rc::new(RefCell::new(Vec::new()));
        let say = |what: &'static str| {
            let log = log.clone();
            async move { log.borrow_mut().push(what) }
        };
        outer.spawn(say("outer, before")).detach();
        let (inner_task, after) = (say("inner task"), say("outer, after"));
        let said = log.clone();
        let main = outer.spawn(async move {
            let inner = executor();
            let (outer_id, waker) = (current(), poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
            spawn_local(after).detach();
            inner.block_on(async {
                assert_ne!(format!("{outer_id:?}"), "");
                let task = spawn_local(inner_task);
                // A wake of the outer task, inside the inner executor.
                waker.wake_by_ref();
                assert_eq!(outer_id.stats().tasks_alive, 2, "the spawn went to the inner one");
                task.await.unwrap();
                sleep(Duration::from_millis(1)).await;
                assert_eq!(drain(LIMIT).await, 0);
            });
            said.borrow_mut().push("inner has ended");
            yield_now().await;
        });
        outer.block_on(async {
            main.await.unwrap();
            drain(LIMIT).await;
        });
        assert_eq!(*log.borrow(), ["outer, before", "inner task", "inner has ended", "outer, after"]);
    });
}

#[test]
fn a_task_woken_from_inside_another_executor_goes_on() {
    within_limit(|| {
        let outer = executor();
        let (sender, receiver) = async_channel::bounded(1);
        let waiting = outer.spawn(async move { receiver.recv().await.unwrap() });
        let waking = outer.spawn(async move {
            yield_now().await;
            executor().block_on(async { sender.send(7).await.unwrap() });
            pending::<()>().await;
        });
        assert_eq!(outer.block_on(waiting).unwrap(), 7);
        drop(waking);
    });
}

#[test]
fn a_letter_that_comes_while_a_task_is_in_block_on_is_read_after_it() {
    within_limit(|| {
        let executor = executor();
        let remote = executor.handle();
        let (reached, is_reached) = mpsc::channel();
        let (leave, may_leave) = async_channel::bounded::<()>(1);
        let (sender, receiver) = async_channel::bounded(1);
        let thread = thread::spawn(move || {
            is_reached.recv().unwrap();
            // This ends the wait of the block_on, but is not for it.
            remote.spawn(move || async move { sender.send(5).await.unwrap() }).detach();
            leave.send_blocking(()).unwrap();
        });
        executor
            .spawn(async move {
                wakewheel::block_on(async {
                    reached.send(()).unwrap();
                    may_leave.recv().await.unwrap();
                });
            })
            .detach();
        assert_eq!(executor.block_on(receiver.recv()), Ok(5));
        thread.join().unwrap();
    });
}

// --------------------------------------------------------------------------------------------- fairness

/// Runs without end, and never waits.
async fn selfish() {
    loop {
        yield_now().await;
    }
}

#[test]
fn a_task_that_yields_for_ever_starves_neither_timers_nor_sockets() {
    for polls_per_turn in [1, 2, 256] {
        within_limit(move || {
            let executor = LocalExecutor::builder().polls_per_turn(polls_per_turn).build().unwrap();
            executor.block_on(async {
                spawn_local(selfish()).detach();
                let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
                let to = socket.get_ref().local_addr().unwrap();
                let receiver = spawn_local(async move {
                    let mut buf = [0; 8];
                    for _ in 0..10 {
                        socket.recv(&mut buf).await.unwrap();
                    }
                });
                let sender = thread::spawn(move || {
                    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                    for _ in 0..10 {
                        socket.send_to(b"news", to).unwrap();
                    }
                });
                for _ in 0..3 {
                    sleep(Duration::from_millis(1)).await;
                }
                receiver.await.unwrap();
                sender.join().unwrap();
            });
        });
    }
}

#[test]
fn a_future_that_wakes_itself_for_ever_starves_no_task() {
    within_limit(|| {
        let executor = executor();
        let task = executor.spawn(async {
            for _ in 0..100 {
                yield_now().await;
            }
            sleep(Duration::from_millis(1)).await;
        });
        executor.block_on(or(selfish(), async { task.await.unwrap() }));
    });
}

#[test]
fn the_kernel_is_asked_after_so_many_polls() {
    const YIELDS: u64 = 1000;
    for polls_per_turn in [1, 10, 100] {
        let executor = LocalExecutor::builder().polls_per_turn(polls_per_turn as usize).build().unwrap();
        executor
            .block_on(executor.spawn(async {
                for _ in 0..YIELDS {
                    yield_now().await;
                }
            }))
            .unwrap();
        let stats = executor.stats();
        assert_eq!(stats.polls, YIELDS + 1);
        let turns = YIELDS / polls_per_turn;
        assert!((turns..=turns + 1).contains(&stats.turns), "{polls_per_turn} polls per turn: {stats:?}");
    }
}

#[test]
fn the_future_of_an_executor_has_its_turn_between_those_of_the_tasks() {
    for polls_per_turn in [1, 10, 256] {
        let executor = LocalExecutor::builder().polls_per_turn(polls_per_turn).build().unwrap();
        let polls = Rc::new(Cell::new(0));
        // A task that never rests.
        let busy = executor.spawn({
            let polls = polls.clone();
            async move {
                loop {
                    polls.set(polls.get() + 1);
                    yield_now().await;
                }
            }
        });
        executor.block_on(async {
            for turn in 0..5 {
                assert_eq!(polls.get(), turn * polls_per_turn);
                yield_now().await;
            }
        });
        drop(busy);
    }
}

#[test]
#[should_panic(expected = "give it at least 1")]
fn no_polls_per_turn_is_refused() {
    let _ = LocalExecutor::builder().polls_per_turn(0);
}

#[test]
fn a_socket_that_is_always_ready_starves_nobody() {
    on_executor(|| async {
        let sends = Rc::new(Cell::new(0));
        let counted = sends.clone();
        spawn_local(async move {
            let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
            let to = socket.get_ref().local_addr().unwrap();
            // What does not fit is thrown away: this never waits.
            loop {
                socket.send_to(b"drop by drop", to).await.unwrap();
                counted.set(counted.get() + 1);
            }
        })
        .detach();
        let other = spawn_local(async move {
            for _ in 0..3 {
                yield_now().await;
            }
            sends.get()
        });
        let sends = other.await.unwrap();
        assert!((1..2000).contains(&sends), "{sends} sends while another task yielded thrice");
    });
}

#[test]
fn a_socket_that_is_always_ready_starves_nobody_under_a_foreign_executor() {
    within_limit(|| {
        let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
        let to = socket.get_ref().local_addr().unwrap();
        let firehose = async {
            loop {
                socket.send_to(b"drop by drop", to).await.unwrap();
            }
        };
        // Polled in turn: the second one is only reached if the first one is pending now and then.
        let other = async {
            for _ in 0..3 {
                yield_now().await;
            }
        };
        future::block_on(or(firehose, other));
    });
}

// ---------------------------------------------------------------------------------------------- choices

/// In which order 20 tasks run, that all are ready, and how the ones that yield go on.
fn order(seed: Option<u64>) -> Vec<u32> {
    let mut builder = LocalExecutor::builder();
    if let Some(seed) = seed {
        builder = builder.shuffle(seed);
    }
    let executor = builder.build().unwrap();
    let order = Rc::new(RefCell::new(Vec::new()));
    for i in 0..20 {
        let order = order.clone();
        executor
            .spawn(async move {
                order.borrow_mut().push(i);
                yield_now().await;
                order.borrow_mut().push(i);
            })
            .detach();
    }
    executor.block_on(async { drain(LIMIT).await });
    order.take()
}

#[test]
fn a_seed_decides_the_order_of_the_tasks() {
    let mut orders = Vec::new();
    for seed in (0..32).chain([u64::MAX, u64::MAX - 1, 1 << 63, 0x9E37_79B9_7F4A_7C15]) {
        let first = order(Some(seed));
        assert_eq!(first, order(Some(seed)), "the same seed, another order");
        let mut all = first.clone();
        all.sort_unstable();
        assert_eq!(all, (0..40).map(|i| i / 2).collect::<Vec<_>>(), "every task runs");
        assert_ne!(first, order(None));
        orders.push(first);
    }
    let seeds = orders.len();
    orders.sort_unstable();
    orders.dedup();
    assert_eq!(orders.len(), seeds, "different seeds, the same order");
}

#[test]
fn a_shuffled_executor_starves_no_task() {
    within_limit(|| {
        let executor = LocalExecutor::builder().shuffle(7).build().unwrap();
        executor.block_on(async {
            spawn_local(selfish()).detach();
            spawn_local(selfish()).detach();
            let tasks: Vec<_> = (0..100).map(|_| spawn_local(yield_now())).collect();
            for task in tasks {
                task.await.unwrap();
            }
            sleep(Duration::from_millis(1)).await;
        });
    });
}

#[test]
fn the_hook_is_told_of_slow_polls_and_no_others() {
    const SLOW: Duration = Duration::from_millis(20);
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = told.clone();
    let executor = LocalExecutor::builder()
        .on_slow_poll(SLOW, move |took| hook.lock().unwrap().push(took))
        .build()
        .unwrap();
    executor.block_on(async {
        for _ in 0..2 {
            spawn_local(async { thread::sleep(SLOW) }).await.unwrap();
        }
    });
    let slow = told.lock().unwrap().clone();
    assert!(slow.len() == 2 && slow.iter().all(|&took| took >= SLOW), "{slow:?}");
    assert_eq!(executor.stats().longest_poll, *slow.iter().max().unwrap());
    let quick =
        LocalExecutor::builder().on_slow_poll(LIMIT, |took| panic!("told of {took:?}")).build().unwrap();
    quick.block_on(quick.spawn(async {})).unwrap();
    assert!(quick.stats().longest_poll > Duration::ZERO);
}

#[test]
fn the_figures_are_exact() {
    let executor = executor();
    assert_eq!(executor.stats(), wakewheel::executor::Stats::default());
    executor.block_on(async {
        let waiting = spawn_local(pending::<()>());
        for _ in 0..10 {
            spawn_local(yield_now()).await.unwrap();
        }
        let stats = current().stats();
        assert_eq!(stats.polls, 1 + 20);
        assert_eq!(stats.wakes_local, 1 + 20, "each was put into the queue as often as it was polled");
        assert_eq!(stats.wakes_remote, 0);
        assert_eq!(stats.tasks_alive, 1);
        assert_eq!(stats.longest_poll, Duration::ZERO, "nobody asked for it");

        let timers = stats.timers;
        for _ in 0..5 {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(current().stats().timers, timers + 5);
        assert!(current().stats().sleeps >= 5);

        let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
        let to = socket.get_ref().local_addr().unwrap();
        assert_eq!(current().stats().sources_alive, 1);
        let events = current().stats().events;
        let sender = thread::spawn(move || {
            thread::sleep(Duration::from_millis(5));
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"news", to).unwrap();
        });
        socket.recv(&mut [0; 8]).await.unwrap();
        sender.join().unwrap();
        assert!(current().stats().events > events);
        drop(socket);
        assert_eq!(current().stats().sources_alive, 0);
        drop(waiting);
        assert_eq!(current().stats().tasks_alive, 0);
    });
    let (waker_of_task, waker) = mpsc::channel::<Waker>();
    let task = executor.spawn(async move {
        let mut is_first = true;
        poll_fn(|cx| {
            let _ = waker_of_task.send(cx.waker().clone());
            if std::mem::replace(&mut is_first, false) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await
    });
    let thread = thread::spawn(move || waker.recv().unwrap().wake());
    executor.block_on(task).unwrap();
    thread.join().unwrap();
    let stats = executor.stats();
    assert!(stats.wakes_remote == 1 && stats.turns >= stats.sleeps, "{stats:?}");
}

#[test]
fn a_poll_that_does_not_happen_does_not_count() {
    let executor = executor();
    executor.block_on(async {
        for _ in 0..10 {
            drop(spawn_local(pending::<()>()));
        }
        yield_now().await;
    });
    assert_eq!(executor.stats().polls, 0, "they were cancelled before");
}

#[test]
fn busy_polling_changes_nothing_but_the_time_it_takes() {
    within_limit(|| {
        let executor = LocalExecutor::builder().busy_poll(Duration::from_millis(2)).build().unwrap();
        let (here, there) = (async_channel::bounded(1), async_channel::bounded(1));
        let echo = thread::spawn(move || {
            while let Ok(i) = here.1.recv_blocking() {
                there.0.send_blocking(i).unwrap();
            }
        });
        executor.block_on(async {
            for i in 0..100 {
                here.0.send(i).await.unwrap();
                assert_eq!(there.1.recv().await, Ok(i), "a letter while it spins");
            }
            drop(here.0);
            let started = Instant::now();
            sleep(Duration::from_millis(1)).await;
            sleep(Duration::from_millis(10)).await;
            assert!(
                started.elapsed() >= Duration::from_millis(11),
                "timers while it spins, and while it sleeps"
            );
            let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
            let to = socket.get_ref().local_addr().unwrap();
            let sender = thread::spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                for _ in 0..10 {
                    socket.send_to(b"news", to).unwrap();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            for _ in 0..10 {
                socket.recv(&mut [0; 8]).await.unwrap();
            }
            sender.join().unwrap();
        });
        echo.join().unwrap();
        let stats = executor.stats();
        assert!(stats.turns > stats.sleeps, "it has not spun: {stats:?}");
    });
}

#[test]
fn timers_take_no_time_under_a_mock_clock() {
    within_limit(|| {
        let clock = MockClock::new();
        let executor = LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap();
        let (started, real) = (clock.now(), Instant::now());
        let log = Rc::new(RefCell::new(Vec::new()));
        executor.block_on(async {
            for hours in [3, 1, 2] {
                let (log, clock) = (log.clone(), clock.clone());
                spawn_local(async move {
                    sleep(Duration::from_secs(3600 * hours)).await;
                    log.borrow_mut().push((hours, clock.now() - started));
                })
                .detach();
            }
            assert_eq!(drain(Duration::from_secs(3600 * 24)).await, 0);
        });
        assert_eq!(*log.borrow(), [1, 2, 3].map(|hours| (hours, Duration::from_secs(3600 * hours))));
        assert!(real.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn a_mock_clock_stands_still_while_there_is_something_to_do() {
    within_limit(|| {
        let clock = MockClock::new();
        let executor = LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap();
        let started = clock.now();
        executor.block_on(async {
            let timer = spawn_local(sleep(Duration::from_secs(1)));
            for _ in 0..10_000 {
                yield_now().await;
            }
            assert_eq!(clock.now(), started);
            clock.advance(Duration::from_millis(999));
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(!timer.is_finished());
            clock.advance(Duration::from_millis(1));
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(timer.is_finished());
            assert_eq!(clock.now() - started, Duration::from_secs(1));
        });
    });
}

// ------------------------------------------------------------------------------------- drain and shutdown

#[test]
fn draining_waits_for_the_tasks_and_those_that_they_start() {
    on_executor(|| async {
        let ended = Rc::new(Cell::new(0));
        fn start(depth: u32, ended: Rc<Cell<u32>>) {
            spawn_local(async move {
                yield_now().await;
                if depth > 0 {
                    start(depth - 1, ended.clone());
                    start(depth - 1, ended.clone());
                }
                ended.set(ended.get() + 1);
            })
            .detach();
        }
        start(5, ended.clone());
        assert_eq!(drain(Duration::MAX).await, 0);
        assert_eq!(ended.get(), 63);
        assert_eq!(drain(Duration::ZERO).await, 0, "nothing to wait for");
    });
}

#[test]
fn draining_gives_up_at_its_limit_and_counts_what_is_left() {
    let clock = MockClock::new();
    let executor = LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap();
    let started = clock.now();
    executor.block_on(async {
        for seconds in 1..=10 {
            spawn_local(sleep(Duration::from_secs(seconds))).detach();
        }
        spawn_local(pending::<()>()).detach();
        assert_eq!(drain(Duration::from_millis(4500)).await, 7);
        assert_eq!(clock.now() - started, Duration::from_millis(4500));
        assert_eq!(drain(Duration::from_secs(60)).await, 1);
        assert_eq!(clock.now() - started, Duration::from_millis(64_500));
    });
}

#[test]
fn every_task_that_waits_for_the_shutdown_hears_of_it() {
    within_limit(|| {
        let cores = Cores::new(2).unwrap();
        let heard = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let heard = heard.clone();
            let task = cores.spawn(move || async move {
                shutdown_requested().await;
                // From now on it is ready at once.
                shutdown_requested().await;
                heard.fetch_add(1, Ordering::Relaxed);
            });
            task.detach();
        }
        assert_eq!(cores.shutdown(LIMIT), 0);
        assert_eq!(heard.load(Ordering::Relaxed), 20);
    });
}

#[test]
fn a_task_can_be_given_a_limit_and_is_gone_after_it() {
    on_executor(|| async {
        let drops = Drops::default();
        let mut task = pin!(spawn(holding(drops.guard(), pending())));
        assert!(timeout(Duration::from_millis(1), &mut task).await.is_err());
        assert_eq!(drops.count(), 0, "only the wait for it has ended");
        let task = spawn(holding(drops.guard(), pending()));
        assert!(timeout(Duration::from_millis(1), task).await.is_err());
        assert_eq!(drops.count(), 1);
        Timer::after(Duration::from_millis(1)).await;
    });
}
