//! Much of everything, for a few seconds: what is lost or left over once in a hundred thousand times shows here.

#[path = "common/tasks.rs"]
mod tasks;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use std::cell::Cell;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tasks::*;
use wakewheel::executor::{current, drain, yield_now};
use wakewheel::reactor::MockClock;
use wakewheel::{Async, Cores, JoinHandle, LocalExecutor, Timer, block_on, sleep, spawn_local, timeout};

const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn executor() -> LocalExecutor {
    LocalExecutor::new().expect("an executor")
}

/// `tasks` tasks in a ring that goes over all cores, and several tokens in it.
#[test]
fn tokens_go_around_a_ring_of_tasks_over_all_cores() {
    const TASKS: usize = 100;
    const TOKENS: usize = 7;
    let hops = scaled(50_000);
    within_limit(move || {
        let cores = Cores::new(4).unwrap();
        let mailboxes: Vec<_> = (0..TASKS).map(|_| async_channel::bounded::<usize>(1)).collect();
        let senders: Vec<_> = mailboxes.iter().map(|(sender, _)| sender.clone()).collect();
        let total = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = mailboxes
            .into_iter()
            .enumerate()
            .map(|(i, (_, own))| {
                let (next, total) = (senders[(i + 1) % TASKS].clone(), total.clone());
                cores.spawn(move || async move {
                    while let Ok(hop) = own.recv().await {
                        total.fetch_add(1, Ordering::Relaxed);
                        // A token that has come to its end is taken out.
                        if hop < hops && next.send(hop + 1).await.is_err() {
                            break;
                        }
                    }
                })
            })
            .collect();
        for token in 0..TOKENS {
            block_on(senders[token * TASKS / TOKENS].send(1)).unwrap();
        }
        eventually("every token arrives", || total.load(Ordering::Relaxed) == TOKENS * hops);
        for sender in &senders {
            sender.close();
        }
        for task in tasks {
            block_on(task).unwrap();
        }
        assert_eq!(cores.shutdown(LIMIT), 0);
    });
}

#[test]
fn a_million_tasks_begin_and_end() {
    let count = scaled(1_000_000);
    within_limit(move || {
        let executor = executor();
        let ended = Rc::new(Cell::new(0));
        executor.block_on(async {
            // A thousand at a time: some awaited, some let go, some cancelled, some before they began.
            for round in 0..count / 1000 {
                let mut handles = Vec::new();
                for i in 0..1000 {
                    let counted = ended.clone();
                    let task = spawn_local(async move {
                        if i % 2 == 0 {
                            yield_now().await;
                        }
                        counted.set(counted.get() + 1);
                    });
                    match i % 4 {
                        0 | 1 => handles.push(task),
                        2 => task.detach(),
                        _ if round % 2 == 0 => drop(task),
                        _ => task.detach(),
                    }
                }
                for handle in handles {
                    handle.await.unwrap();
                }
            }
            assert_eq!(drain(LIMIT).await, 0);
        });
        let rounds = count / 1000;
        assert_eq!(ended.get(), rounds * 750 + rounds / 2 * 250);
    });
}

#[test]
fn tasks_are_sent_from_every_core_to_every_other() {
    let count = scaled(200_000);
    within_limit(move || {
        let cores = Cores::new(4).unwrap();
        let handles = Arc::new(cores.handles().to_vec());
        let ran = Arc::new(AtomicUsize::new(0));
        let roots: Vec<_> = (0..4)
            .map(|i| {
                let (handles, ran) = (handles.clone(), ran.clone());
                cores.handles()[i].spawn(move || async move {
                    let mut last = None::<JoinHandle<()>>;
                    for j in 0..count / 4 {
                        let ran = ran.clone();
                        let task = handles[(i + j) % 4].spawn(move || async move {
                            ran.fetch_add(1, Ordering::Relaxed);
                        });
                        if j % 100 == 99 {
                            // Not more letters than this on their way at once.
                            task.await.unwrap();
                        } else if let Some(previous) = last.replace(task) {
                            previous.detach();
                        }
                    }
                    if let Some(last) = last {
                        last.detach();
                    }
                })
            })
            .collect();
        for root in roots {
            block_on(root).unwrap();
        }
        assert_eq!(cores.shutdown(LIMIT), 0);
        assert_eq!(ran.load(Ordering::Relaxed), count / 4 * 4);
    });
}

#[test]
fn a_million_timers_fire() {
    let count = scaled(1_000_000);
    within_limit(move || {
        let clock = MockClock::new();
        let executor = LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap();
        executor.block_on(async {
            let start = clock.now() + Duration::from_millis(1);
            let fired = Rc::new(Cell::new(0));
            // All at once, over a day.
            for i in 0..count {
                let (fired, clock) = (fired.clone(), clock.clone());
                let at = start + Duration::from_secs(24 * 3600) * (i * 7919 % count) as u32 / count as u32;
                spawn_local(async move {
                    assert_eq!(Timer::at(at).await, at);
                    assert!(clock.now() >= at, "task {i}: early by {:?}", at - clock.now());
                    fired.set(fired.get() + 1);
                })
                .detach();
            }
            assert_eq!(drain(Duration::MAX).await, 0);
            assert_eq!(fired.get(), count);
        });
        assert_eq!(executor.stats().timers, count as u64);
    });
}

#[test]
fn timers_are_set_and_given_up_by_the_hundred_thousand_in_real_time() {
    let count = scaled(200_000);
    within_limit(move || {
        Cores::builder()
            .threads(2)
            .run(|core| async move {
                for i in 0..count / 200 {
                    let tasks: Vec<_> = (0..100)
                        .map(|j| {
                            let after = Duration::from_micros((i * 31 + j * 17 + core) as u64 % 500);
                            spawn_local(async move {
                                let at = Instant::now() + after;
                                let limit = if j % 2 == 0 { after / 2 } else { after * 2 };
                                let _ = timeout(limit, Timer::at(at)).await;
                                if j % 2 == 1 {
                                    assert!(Instant::now() >= at);
                                }
                            })
                        })
                        .collect();
                    for (j, task) in tasks.into_iter().enumerate() {
                        if j % 10 == 0 {
                            drop(task);
                        } else {
                            task.await.unwrap();
                        }
                    }
                }
            })
            .unwrap();
    });
}

/// One echo over a connection that both sides then close.
async fn echo_once(to: SocketAddr, byte: u8) {
    let mut stream = Async::<TcpStream>::connect(to).await.unwrap();
    stream.write_all(&[byte]).await.unwrap();
    let mut buf = [0; 1];
    stream.read_exact(&mut buf).await.unwrap();
    assert_eq!(buf, [byte], "another connection's answer");
}

#[test]
fn connections_come_and_go_on_all_cores_and_reuse_descriptors() {
    const CORES: usize = 3;
    let count = scaled(6_000);
    within_limit(move || {
        let listeners: Vec<_> = (0..CORES)
            .map(|_| Async::<TcpListener>::bind(LOCALHOST).unwrap().into_inner().unwrap())
            .collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let (addresses, listeners) = (&addresses, &listeners);
        let served: usize = Cores::builder()
            .threads(CORES)
            .run(|i| async move {
                let listener = Async::new(listeners[i].try_clone().unwrap()).unwrap();
                let served = Rc::new(Cell::new(0));
                let counted = served.clone();
                let server = spawn_local(async move {
                    loop {
                        let (mut stream, _) = listener.accept().await.unwrap();
                        counted.set(counted.get() + 1);
                        spawn_local(async move {
                            let mut buf = [0; 1];
                            while stream.read(&mut buf).await.unwrap_or(0) == 1 {
                                stream.write_all(&buf).await.unwrap();
                            }
                        })
                        .detach();
                    }
                });
                let clients: Vec<_> = (0..8)
                    .map(|client| {
                        let to = addresses[(i + client) % CORES];
                        spawn_local(async move {
                            for j in 0..count / CORES / 8 {
                                echo_once(to, (client * 31 + j) as u8).await;
                            }
                        })
                    })
                    .collect();
                for client in clients {
                    client.await.unwrap();
                }
                // The others may not be done with this one.
                let mut before = usize::MAX;
                while before != served.get() {
                    before = served.get();
                    sleep(Duration::from_millis(100)).await;
                }
                drop(server);
                served.get()
            })
            .unwrap()
            .into_iter()
            .sum();
        assert_eq!(served, count / CORES / 8 * 8 * CORES);
    });
}

#[test]
fn two_thousand_connections_wait_and_one_talks() {
    const IDLE: usize = 2000;
    // Both ends of each are ours.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = limit.rlim_max.min(10_000);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    on_executor(|| async {
        let listener = Async::<TcpListener>::bind(LOCALHOST).unwrap();
        let to = listener.get_ref().local_addr().unwrap();
        let server = spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                spawn_local(async move {
                    let mut buf = [0; 1];
                    while stream.read(&mut buf).await.unwrap_or(0) == 1 {
                        stream.write_all(&buf).await.unwrap();
                    }
                })
                .detach();
            }
        });
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            idle.push(Async::<TcpStream>::connect(to).await.unwrap());
            // The backlog has room for fewer than connect in one poll, and who finds it full waits for a second.
            yield_now().await;
        }
        while current().stats().tasks_alive < 1 + IDLE as u64 {
            yield_now().await;
        }
        sleep(Duration::from_millis(1)).await;
        let before = current().stats();
        assert_eq!(before.sources_alive, 1 + 2 * IDLE as u64);
        let rounds = scaled(5_000) as u64;
        for i in 0..rounds {
            let (stream, mut buf) = (&mut idle[i as usize * 7 % IDLE], [0; 1]);
            stream.write_all(&[i as u8]).await.unwrap();
            stream.read_exact(&mut buf).await.unwrap();
            assert_eq!(buf, [i as u8]);
        }
        let after = current().stats();
        assert!(
            after.polls - before.polls <= 2 * rounds,
            "those that wait are not polled: {before:?}, {after:?}"
        );
        drop(idle);
        // They all see the end, and go.
        while current().stats().tasks_alive > 1 {
            sleep(Duration::from_millis(1)).await;
        }
        drop(server);
        assert_eq!(current().stats().sources_alive, 0);
    });
}

#[test]
fn executors_by_the_thousand_leave_nothing_behind() {
    let count = scaled(5_000);
    within_limit(move || {
        let shared = Arc::new(());
        for i in 0..count {
            let executor = executor();
            for _ in 0..3 {
                let held = shared.clone();
                executor
                    .spawn(async move {
                        let _held = held;
                        sleep(Duration::from_secs(3600)).await;
                    })
                    .detach();
            }
            let held = shared.clone();
            let task = executor.handle().spawn(move || async move { drop(held) });
            if i % 2 == 0 {
                executor.block_on(task).unwrap();
                executor.spawn(pending::<()>()).detach();
            }
        }
        assert_eq!(Arc::strong_count(&shared), 1);
    });
}
