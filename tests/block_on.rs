//! `block_on`: one future on any thread, with nothing else needed.

#[cfg(target_os = "linux")]
#[path = "common/proc.rs"]
mod proc;
#[path = "common/tasks.rs"]
mod tasks;

use futures_lite::future::{self, poll_once, yield_now};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
#[cfg(target_os = "linux")]
use proc::{descriptors, thread_names, threads};
use std::cell::Cell;
use std::future::{Future, pending, poll_fn, ready};
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tasks::*;
use wakewheel::executor::current;
use wakewheel::{Async, LocalExecutor, Timer, block_on, sleep, spawn_local, timeout};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_future_that_is_ready_is_polled_once() {
    let polls = Cell::new(0);
    let result = block_on(poll_fn(|_| {
        polls.set(polls.get() + 1);
        Poll::Ready(7)
    }));
    assert_eq!((result, polls.get()), (7, 1));
}

#[test]
fn a_future_may_borrow_and_need_not_be_send() {
    let text = String::from("borrowed");
    let cell = Cell::new(0);
    let length = block_on(async {
        sleep(MS).await;
        cell.set(1);
        text.len()
    });
    assert_eq!((length, cell.get()), (8, 1));
}

#[cfg(target_os = "linux")]
#[test]
fn a_future_that_is_ready_makes_no_reactor() {
    const NAME: &str = "a_future_that_is_ready_makes_no_reactor";
    if !is_child(NAME) {
        return succeeds_in_child(NAME, &[]);
    }
    let before = (threads(), descriptors());
    assert_eq!(block_on(async { 7 }), 7);
    block_on(async {
        // Dropped before it was waited for.
        drop(sleep(LIMIT));
        assert!(poll_once(pending::<()>()).await.is_none());
        yield_now().await;
    });
    assert_eq!((threads(), descriptors()), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_that_only_blocks_starts_no_thread() {
    const NAME: &str = "a_program_that_only_blocks_starts_no_thread";
    if !is_child(NAME) {
        return succeeds_in_child(NAME, &[]);
    }
    let before = threads();
    block_on(async {
        for _ in 0..5 {
            sleep(MS).await;
        }
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
        let to = listener.get_ref().local_addr().unwrap();
        let client = async {
            let mut stream = Async::<TcpStream>::connect(to).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
        };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buf = [0; 5];
            stream.read_exact(&mut buf).await.unwrap();
            assert_eq!(&buf, b"hello");
        };
        future::zip(client, server).await;
    });
    assert_eq!(threads(), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_foreign_executor_gets_a_thread_that_drives() {
    const NAME: &str = "a_foreign_executor_gets_a_thread_that_drives";
    if !is_child(NAME) {
        return succeeds_in_child(NAME, &[]);
    }
    let before = threads();
    within_limit(|| future::block_on(sleep(MS)));
    eventually("one more thread", || threads() == before + 1);
    assert!(thread_names().iter().any(|name| name == "wakewheel"), "it has a name");
    for _ in 0..10 {
        within_limit(|| future::block_on(sleep(MS)));
    }
    eventually("still one more", || threads() == before + 1);
}

#[test]
fn a_program_may_end_while_a_thread_waits() {
    const NAME: &str = "a_program_may_end_while_a_thread_waits";
    if is_child(NAME) {
        // From now on there is one that drives.
        within_limit(|| future::block_on(sleep(MS)));
        return;
    }
    for _ in 0..5 {
        let output = in_child(NAME, &[]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !errors.contains("panicked"), "{}\n{errors}", output.status);
    }
}

#[test]
fn calls_may_be_nested() {
    within_limit(|| {
        let sum = block_on(async {
            sleep(MS).await;
            let inner = block_on(async {
                sleep(MS).await;
                let innermost = block_on(async {
                    sleep(MS).await;
                    1
                });
                sleep(MS).await;
                innermost + 1
            });
            sleep(MS).await;
            inner + 1
        });
        assert_eq!(sum, 3);
    });
}

#[test]
fn every_level_has_a_waker_of_its_own() {
    within_limit(|| {
        block_on(async {
            let outer = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            let polls = Cell::new(0);
            block_on(poll_fn(|cx| {
                assert!(!cx.waker().will_wake(&outer));
                polls.set(polls.get() + 1);
                // Not a wake of this one.
                outer.wake_by_ref();
                if polls.get() == 1 {
                    let waker = cx.waker().clone();
                    thread::spawn(move || {
                        thread::sleep(5 * MS);
                        waker.wake();
                    });
                    return Poll::Pending;
                }
                Poll::Ready(())
            }));
            assert_eq!(polls.get(), 2);
        });
    });
}

#[test]
fn a_wake_of_the_outer_future_is_kept_while_the_inner_one_runs() {
    within_limit(|| {
        let polls = Cell::new(0);
        block_on(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            if polls.get() == 2 {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            let (woken, is_woken) = async_channel::bounded::<()>(1);
            let thread = thread::spawn(move || {
                waker.wake();
                drop(woken);
            });
            // The inner call waits in the same reactor.
            block_on(async {
                let _ = is_woken.recv().await;
                sleep(MS).await;
            });
            thread.join().unwrap();
            Poll::Pending
        }));
    });
}

#[test]
fn many_threads_block_at_once() {
    within_limit(|| {
        let barrier = Arc::new(Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let barrier = barrier.clone();
                thread::spawn(move || {
                    barrier.wait();
                    block_on(async {
                        for j in 0..20 {
                            if (i + j) % 3 == 0 {
                                // Nobody drives while this computes, or should have to.
                                thread::sleep(MS);
                            }
                            let at = Instant::now() + MS;
                            Timer::at(at).await;
                            assert!(Instant::now() >= at);
                            let (mut a, mut b) = Async::<UnixStream>::pair().unwrap();
                            a.write_all(b"hello").await.unwrap();
                            let mut buf = [0; 5];
                            b.read_exact(&mut buf).await.unwrap();
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn two_blocked_threads_talk_over_a_socket() {
    let rounds = scaled(10_000);
    within_limit(move || {
        let (mut a, mut b) = Async::<UnixStream>::pair().unwrap();
        let thread = thread::spawn(move || {
            block_on(async {
                let mut buf = [0; 1];
                while b.read(&mut buf).await.unwrap() == 1 {
                    b.write_all(&buf).await.unwrap();
                }
            });
        });
        block_on(async {
            for i in 0..rounds {
                let mut buf = [0; 1];
                a.write_all(&[i as u8]).await.unwrap();
                a.read_exact(&mut buf).await.unwrap();
                assert_eq!(buf, [i as u8]);
            }
            drop(a);
        });
        thread.join().unwrap();
    });
}

/// When one goes, another one that has parked drives, and does not take that for a wake of its future.
#[test]
fn a_future_is_not_polled_because_another_thread_goes() {
    within_limit(|| {
        // Waits for a byte. Returns how often it was polled.
        let wait = |mut socket: Async<UnixStream>| {
            let (pending, is_pending) = mpsc::channel();
            let thread = thread::spawn(move || {
                let mut polls = 0;
                let mut buf = [0; 1];
                let mut reading = socket.read_exact(&mut buf);
                block_on(poll_fn(|cx| {
                    polls += 1;
                    let result = Pin::new(&mut reading).poll(cx);
                    let _ = pending.send(());
                    result
                }))
                .unwrap();
                polls
            });
            is_pending.recv().unwrap();
            thread
        };
        for _ in 0..scaled(2_000) {
            let (first, to_first) = Async::<UnixStream>::pair().unwrap();
            let (second, to_second) = Async::<UnixStream>::pair().unwrap();
            let (first, second) = (wait(first), wait(second));
            to_first.get_ref().write_all(b"x").unwrap();
            assert_eq!(first.join().unwrap(), 2);
            to_second.get_ref().write_all(b"x").unwrap();
            assert_eq!(second.join().unwrap(), 2);
        }
    });
}

#[test]
fn a_thread_that_computes_in_block_on_holds_up_nobody() {
    within_limit(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let (computes, is_computing) = mpsc::channel();
        let stopped = stop.clone();
        let busy = thread::spawn(move || {
            block_on(async {
                // It has had the seat, and does not come back to it.
                sleep(MS).await;
                computes.send(()).unwrap();
                while !stopped.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        });
        is_computing.recv().unwrap();
        let started = Instant::now();
        for i in 0..10 {
            if i % 2 == 0 {
                block_on(sleep(MS));
            } else {
                future::block_on(sleep(MS));
            }
        }
        assert!(started.elapsed() < LIMIT / 4, "{:?}", started.elapsed());
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
    });
}

#[test]
fn threads_come_and_go_while_others_wait() {
    // The seat passes from one to the next, and to the helper and back.
    let rounds = scaled(2_000);
    within_limit(move || {
        let threads: Vec<_> = (0..4)
            .map(|i| {
                thread::spawn(move || {
                    for j in 0..rounds {
                        let after = Duration::from_micros((j % 7) as u64 * 50);
                        match (i + j) % 3 {
                            0 => assert!(block_on(sleep(after)) <= Instant::now()),
                            1 => assert!(future::block_on(sleep(after)) <= Instant::now()),
                            _ => block_on(async {
                                let (sender, receiver) = async_channel::bounded(1);
                                let other = thread::spawn(move || block_on(sender.send(())).unwrap());
                                receiver.recv().await.unwrap();
                                other.join().unwrap();
                            }),
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_wake_without_a_reason_is_one_more_poll() {
    within_limit(|| {
        let polls = Arc::new(AtomicUsize::new(0));
        let seen = polls.clone();
        let (sender, receiver) = mpsc::channel::<Waker>();
        let waking = thread::spawn(move || {
            let waker = receiver.recv().unwrap();
            while polls.load(Ordering::Relaxed) < 100 {
                waker.wake_by_ref();
                thread::yield_now();
            }
        });
        let mut sender = Some(sender);
        block_on(poll_fn(|cx| {
            if let Some(sender) = sender.take() {
                sender.send(cx.waker().clone()).unwrap();
            }
            match seen.fetch_add(1, Ordering::Relaxed) {
                99.. => Poll::Ready(()),
                _ => Poll::Pending,
            }
        }));
        waking.join().unwrap();
    });
}

#[test]
fn spurious_wakes_make_no_timer_early() {
    within_limit(|| {
        let (sender, receiver) = mpsc::channel::<Waker>();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let waking = thread::spawn(move || {
            let waker = receiver.recv().unwrap();
            while !stopped.load(Ordering::Relaxed) {
                waker.wake_by_ref();
                thread::yield_now();
            }
        });
        let at = Instant::now() + 20 * MS;
        block_on(async {
            sender.send(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await).unwrap();
            Timer::at(at).await;
        });
        assert!(Instant::now() >= at);
        stop.store(true, Ordering::Relaxed);
        waking.join().unwrap();
    });
}

#[test]
fn wakers_do_no_harm_after_the_call_has_returned() {
    within_limit(|| {
        let stale = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..20 {
            block_on(poll_fn(|cx| {
                stale.lock().unwrap().push(cx.waker().clone());
                Poll::Ready(())
            }));
        }
        let other = stale.clone();
        let waking = thread::spawn(move || {
            for _ in 0..1000 {
                other.lock().unwrap().iter().for_each(Waker::wake_by_ref);
            }
            other.lock().unwrap().clear();
        });
        // The next calls may find themselves woken, and are right all the same.
        while !waking.is_finished() {
            let at = Instant::now() + Duration::from_micros(200);
            block_on(Timer::at(at));
            assert!(Instant::now() >= at);
        }
        waking.join().unwrap();
    });
}

#[test]
fn a_waker_outlives_the_thread_it_was_for() {
    let waker = thread::spawn(|| block_on(poll_fn(|cx| Poll::Ready(cx.waker().clone())))).join().unwrap();
    waker.wake_by_ref();
    thread::spawn(move || waker.wake()).join().unwrap();
}

#[test]
fn a_call_works_after_one_that_panicked() {
    within_limit(|| {
        assert!(catch_unwind(|| block_on(async { panic!("before a wait") })).is_err());
        assert!(
            catch_unwind(|| block_on(async {
                sleep(MS).await;
                panic!("after a wait")
            }))
            .is_err()
        );
        block_on(sleep(MS));
    });
}

#[test]
fn a_future_that_wakes_itself_lets_io_go_on() {
    within_limit(|| {
        let (mut a, mut b) = Async::<UnixStream>::pair().unwrap();
        let peer = thread::spawn(move || {
            future::block_on(async {
                let mut buf = [0; 1];
                for _ in 0..100 {
                    b.read_exact(&mut buf).await.unwrap();
                    b.write_all(&buf).await.unwrap();
                }
            });
        });
        let selfish = async {
            loop {
                yield_now().await;
            }
        };
        let talking = async {
            for i in 0..100 {
                let mut buf = [0; 1];
                a.write_all(&[i]).await.unwrap();
                a.read_exact(&mut buf).await.unwrap();
                sleep(Duration::from_micros(10)).await;
            }
        };
        block_on(future::or(selfish, talking));
        peer.join().unwrap();
    });
}

// ---------------------------------------------------------------------------------------- inside of a core

#[test]
fn block_on_inside_a_task_drives_the_reactor_of_its_core() {
    on_executor(|| async {
        // Registered on this core, and waited for with its loop standing still.
        let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
        let to = socket.get_ref().local_addr().unwrap();
        assert_eq!(current().stats().sources_alive, 1);
        let (mut timer, turns) = (Timer::after(MS), current().stats().turns);
        assert!(poll_once(&mut timer).await.is_none());
        spawn_local(async move {
            let sender = thread::spawn(move || {
                thread::sleep(5 * MS);
                UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"news", to).unwrap();
            });
            let mut buf = [0; 8];
            assert_eq!(block_on(socket.recv(&mut buf)).unwrap(), 4);
            block_on(timer);
            block_on(sleep(MS));
            sender.join().unwrap();
        })
        .await
        .unwrap();
        assert!(current().stats().turns <= turns + 3, "the core itself has not turned");
    });
}

#[test]
fn tasks_that_are_woken_during_a_block_on_run_after_it() {
    on_executor(|| async {
        let woken = spawn_local(sleep(MS));
        let (socket, peer) = Async::<UnixStream>::pair().unwrap();
        let reads = spawn_local(async move {
            let mut buf = [0; 1];
            (&socket).read_exact(&mut buf).await.unwrap();
        });
        wakewheel::executor::yield_now().await;
        block_on(async {
            (&peer).write_all(b"x").await.unwrap();
            sleep(10 * MS).await;
        });
        assert!(!woken.is_finished() && !reads.is_finished(), "one thing at a time");
        woken.await.unwrap();
        reads.await.unwrap();
    });
}

#[test]
fn block_on_inside_a_task_hears_of_other_threads() {
    let rounds = scaled(2_000);
    on_executor(move || async move {
        let (sender, receiver) = async_channel::bounded(1);
        let thread = thread::spawn(move || {
            for i in 0..rounds {
                sender.send_blocking(i).unwrap();
            }
        });
        spawn_local(async move {
            for i in 0..rounds {
                assert_eq!(block_on(receiver.recv()), Ok(i));
            }
        })
        .await
        .unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn block_on_where_an_executor_was_entered_uses_its_reactor() {
    within_limit(|| {
        let executor = LocalExecutor::new().unwrap();
        executor.enter(|| {
            let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
            assert_eq!(executor.stats().sources_alive, 1);
            let to = socket.get_ref().local_addr().unwrap();
            let buf = &mut [0; 8];
            let (sent, received) = block_on(future::zip(socket.send_to(b"self", to), socket.recv(buf)));
            assert_eq!((sent.unwrap(), received.unwrap()), (4, 4));
            block_on(sleep(MS));
        });
    });
}

#[test]
fn a_limit_works_for_a_future_that_would_block_for_ever() {
    within_limit(|| {
        let started = Instant::now();
        assert!(block_on(timeout(10 * MS, pending::<()>())).is_err());
        assert!(started.elapsed() >= 10 * MS);
        assert_eq!(block_on(timeout(LIMIT, ready(7))), Ok(7));
    });
}

#[test]
fn block_on_works_while_a_thread_ends() {
    struct AtExit(mpsc::Sender<u32>);
    impl Drop for AtExit {
        fn drop(&mut self) {
            let result = block_on(async {
                sleep(MS).await;
                7
            });
            self.0.send(result).unwrap();
        }
    }
    thread_local! {
        static AT_EXIT: Cell<Option<AtExit>> = const { Cell::new(None) };
    }
    within_limit(|| {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            // Made before what block_on keeps for the thread, so that it goes after that.
            AT_EXIT.set(Some(AtExit(sender)));
            block_on(sleep(MS));
        });
        assert_eq!(receiver.recv(), Ok(7));
        thread.join().unwrap();
    });
}

#[test]
fn a_call_that_never_waits_leaves_what_it_set_to_somebody_who_drives() {
    const NAME: &str = "a_call_that_never_waits_leaves_what_it_set_to_somebody_who_drives";
    if !is_child(NAME) {
        return succeeds_in_child(NAME, &[]);
    }
    let (wakes, waker) = Wakes::new();
    let mut timer = Timer::after(MS);
    block_on(async { assert!(poll_with(&waker, &mut timer).is_pending()) });
    eventually("the timer fires", || wakes.count() == 1);
    assert!(poll_with(&waker, &mut timer).is_ready());
}
