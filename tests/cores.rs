//! Cores: where their threads run, how they begin and end, and what goes on between them.

#[cfg(target_os = "linux")]
#[path = "common/proc.rs"]
mod proc;
#[path = "common/tasks.rs"]
mod tasks;

use futures_lite::{AsyncRead, AsyncReadExt, AsyncWriteExt, future};
#[cfg(target_os = "linux")]
use proc::{descriptors, threads};
use std::future::{pending, poll_fn, ready};
use std::io::{Error, ErrorKind};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tasks::*;
use wakewheel::executor::{Panics, current, drain, request_shutdown, shutdown_requested, yield_now};
use wakewheel::{Async, Cores, LocalExecutor, block_on, sleep, spawn, spawn_local};

// ---------------------------------------------------------------------------------------------- where

#[test]
fn every_core_has_a_thread_of_its_own() {
    let cores = Cores::new(3).unwrap();
    let mut threads: Vec<_> = cores
        .handles()
        .iter()
        .map(|core| block_on(core.spawn(|| async { thread::current().id() })).unwrap())
        .collect();
    for (core, thread) in cores.handles().iter().zip(threads.clone()) {
        for _ in 0..10 {
            let again = block_on(core.spawn(|| async {
                yield_now().await;
                thread::current().id()
            }));
            assert_eq!(again.unwrap(), thread, "a core's tasks run on its thread");
        }
    }
    threads.push(thread::current().id());
    for (i, thread) in threads.iter().enumerate() {
        assert!(!threads[..i].contains(thread), "{threads:?}");
    }
}

#[test]
fn tasks_go_to_the_cores_in_turn() {
    let cores = Cores::new(3).unwrap();
    let names: Vec<_> = (0..6)
        .map(|_| block_on(cores.spawn(|| async { thread::current().name().unwrap().to_owned() })).unwrap())
        .collect();
    assert_eq!(names, ["core 0", "core 1", "core 2", "core 0", "core 1", "core 2"]);
}

#[test]
fn a_task_on_another_core_need_not_be_send() {
    let cores = Cores::new(1).unwrap();
    let sum = cores.spawn(|| async {
        let shared = Rc::new(7);
        let of_task = shared.clone();
        let task = spawn_local(async move {
            yield_now().await;
            *of_task
        });
        task.await.unwrap() + *shared
    });
    assert_eq!(block_on(sum).unwrap(), 14);
}

#[cfg(target_os = "linux")]
mod pinning {
    use super::*;
    use std::mem;

    /// The processors that this thread may run on, as the kernel has it.
    fn allowed() -> Vec<usize> {
        // SAFETY: all zeros is the empty set; the kernel fills it, and no more than its size.
        let set = unsafe {
            let mut set: libc::cpu_set_t = mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set), 0);
            set
        };
        // SAFETY: CPU_ISSET reads the bit of a number that lies within the set.
        (0..libc::CPU_SETSIZE as usize).filter(|&i| unsafe { libc::CPU_ISSET(i, &set) }).collect()
    }

    #[test]
    fn pinned_cores_are_where_they_should_be_and_stay_there() {
        let processors = allowed();
        let count = processors.len() + 1;
        let cores = Cores::builder().threads(count).pinned().build().unwrap();
        for (i, core) in cores.handles().iter().enumerate() {
            let there = block_on(core.spawn(|| async { allowed() })).unwrap();
            assert_eq!(there, [processors[i % processors.len()]], "core {i}");
        }
        assert_eq!(allowed(), processors, "the calling thread is not a core here");
    }

    #[test]
    fn a_pinned_run_gives_the_calling_thread_back() {
        let processors = allowed();
        let count = processors.len() + 1;
        let places = Cores::builder().threads(count).pinned().run(|_| async { allowed() }).unwrap();
        for (i, place) in places.iter().enumerate() {
            assert_eq!(*place, [processors[i % processors.len()]], "core {i}");
        }
        assert_eq!(allowed(), processors);
        let panics = catch_unwind(|| Cores::builder().threads(1).pinned().run(|_| async { panic!("main") }));
        assert!(panics.is_err());
        assert_eq!(allowed(), processors, "after a panic, too");
    }

    #[test]
    fn cores_that_are_not_pinned_run_anywhere() {
        let processors = allowed();
        let places = Cores::builder().threads(2).run(|_| async { allowed() }).unwrap();
        assert_eq!(places, [processors.clone(), processors]);
    }
}

/// A socket belongs to the core that made it, which hears of its events. Whoever waits for them runs where it always does.
#[test]
fn a_task_that_waits_for_a_socket_of_another_core_stays_where_it_is() {
    let cores = Cores::new(2).unwrap();
    let [owner, user] = [0, 1].map(|i| cores.handles()[i].clone());
    let (a, b) = block_on(owner.spawn(|| async { Async::<UnixStream>::pair().unwrap() })).unwrap();
    let echo = user.spawn(move || async move {
        let here = thread::current().id();
        let mut a = a;
        for _ in 0..100 {
            let mut byte = [0];
            poll_fn(|cx| {
                assert_eq!(thread::current().id(), here);
                Pin::new(&mut a).poll_read(cx, &mut byte)
            })
            .await
            .unwrap();
            a.write_all(&byte).await.unwrap();
        }
    });
    let client = owner.spawn(move || async move {
        let mut b = b;
        for i in 0..100 {
            b.write_all(&[i]).await.unwrap();
            let mut byte = [0];
            b.read_exact(&mut byte).await.unwrap();
            assert_eq!(byte, [i]);
        }
    });
    block_on(echo).unwrap();
    block_on(client).unwrap();
}

// ------------------------------------------------------------------------------------------------- run

#[test]
fn a_run_borrows_and_returns_what_the_cores_gave_in_order() {
    within_limit(|| {
        let names = [String::from("a"), String::from("b"), String::from("c")];
        let calls = AtomicUsize::new(0);
        let main = thread::current().id();
        let outputs = Cores::builder()
            .threads(3)
            .run(|i| {
                calls.fetch_add(1, Ordering::Relaxed);
                let name = &names[i];
                async move {
                    // The last is ready first.
                    sleep(Duration::from_millis(5 * (3 - i as u64))).await;
                    (format!("{i}{name}"), thread::current().id())
                }
            })
            .unwrap();
        assert_eq!(outputs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["0a", "1b", "2c"]);
        assert_eq!(outputs[0].1, main, "the calling thread is the first core");
        assert_ne!(outputs[1].1, outputs[2].1);
        assert_eq!(calls.into_inner(), 3);
    });
}

#[test]
fn the_future_of_a_run_is_made_on_its_core() {
    within_limit(|| {
        let alive = Cores::builder().threads(2).run(|_| {
            // Before the first await.
            let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
            let task = spawn_local(async { 1 });
            async move {
                let alive = current().stats().sources_alive;
                drop(socket);
                alive + task.await.unwrap()
            }
        });
        assert_eq!(alive.unwrap(), [2, 2]);
    });
}

#[test]
fn a_run_drops_the_tasks_that_are_left_each_on_its_core() {
    within_limit(|| {
        let drops = Drops::default();
        let threads = Cores::builder()
            .threads(2)
            .run(|_| async {
                let guard = drops.guard();
                spawn_local(async move {
                    let _guard = guard;
                    pending::<()>().await;
                })
                .detach();
                yield_now().await;
                thread::current().id()
            })
            .unwrap();
        let mut dropped = drops.threads();
        if dropped[0] != threads[0] {
            dropped.reverse();
        }
        assert_eq!(dropped, threads);
    });
}

#[test]
fn a_panic_of_one_main_ends_the_run_and_asks_the_others_to_end() {
    for culprit in 0..3 {
        within_limit(move || {
            let ended = AtomicUsize::new(0);
            let run = catch_unwind(AssertUnwindSafe(|| {
                Cores::builder().threads(3).run(|i| {
                    let ended = &ended;
                    async move {
                        if i == culprit {
                            panic!("core {i} gives up");
                        }
                        shutdown_requested().await;
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                })
            }));
            assert_eq!(message(&*run.unwrap_err()), format!("core {culprit} gives up"));
            assert_eq!(ended.into_inner(), 2);
        });
    }
}

#[test]
fn a_panic_before_the_first_await_ends_the_run_as_well() {
    for culprit in 0..2 {
        within_limit(move || {
            let run = catch_unwind(AssertUnwindSafe(|| {
                Cores::builder().threads(2).run(|i| {
                    assert_ne!(i, culprit, "no future");
                    shutdown_requested()
                })
            }));
            assert!(message(&*run.unwrap_err()).contains("no future"));
        });
    }
}

#[test]
fn a_task_that_panics_does_not_end_a_run_unless_it_is_told_to() {
    within_limit(|| {
        let run = |panics| {
            catch_unwind(AssertUnwindSafe(|| {
                Cores::builder().threads(2).panics(panics).run(|i| async move {
                    if i == 1 {
                        spawn_local(async { panic!("task") }).detach();
                        yield_now().await;
                        yield_now().await;
                        return;
                    }
                    if panics == Panics::StopCore {
                        shutdown_requested().await;
                    }
                })
            }))
        };
        assert!(run(Panics::Isolate).is_ok());
        assert!(message(&*run(Panics::StopCore).unwrap_err()).contains("StopCore"));
    });
}

#[test]
fn a_core_of_a_run_can_ask_all_to_end() {
    for who in 0..3 {
        within_limit(move || {
            let ended = Cores::builder().threads(3).run(|i| async move {
                if i == who {
                    // From a task, as from the future of the core.
                    spawn(async { request_shutdown() }).await.unwrap();
                }
                shutdown_requested().await;
                i
            });
            assert_eq!(ended.unwrap(), [0, 1, 2]);
        });
    }
}

#[test]
fn an_error_of_one_core_ends_a_run_that_may_fail() {
    for culprit in 0..3 {
        within_limit(move || {
            let ended = AtomicUsize::new(0);
            let result = Cores::builder().threads(3).try_run(|i| {
                let ended = &ended;
                async move {
                    if i == culprit {
                        return Err(Error::other(format!("core {i} fails")));
                    }
                    shutdown_requested().await;
                    ended.fetch_add(1, Ordering::Relaxed);
                    match i % 2 {
                        0 => Ok(i),
                        // What the end of the others leads to is not the reason.
                        _ => Err(Error::other("later")),
                    }
                }
            });
            assert_eq!(result.unwrap_err().to_string(), format!("core {culprit} fails"));
            assert_eq!(ended.into_inner(), 2, "the others come to their end");
        });
    }
}

#[test]
fn a_run_that_may_fail_and_does_not_gives_what_the_cores_gave() {
    within_limit(|| {
        let outputs = Cores::builder().threads(3).try_run(|i| async move {
            yield_now().await;
            Ok::<_, Error>(10 * i)
        });
        assert_eq!(outputs.unwrap(), [0, 10, 20]);
        // An error type of one's own, which hears of what goes wrong before the start as well.
        let error = Cores::builder()
            .threads(0)
            .try_run(|_| ready(Err::<(), Box<dyn std::error::Error + Send + Sync>>("unreached".into())));
        assert!(error.unwrap_err().to_string().contains("at least 1"));
    });
}

#[test]
fn a_run_with_the_choices_of_a_core_makes_them_for_each() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = seen.clone();
    Cores::builder()
        .threads(2)
        .on_slow_poll(Duration::from_millis(5), move |_| hook.lock().unwrap().push(thread::current().id()))
        .polls_per_turn(1)
        .busy_poll(Duration::from_micros(10))
        .run(|_| async { spawn_local(async { thread::sleep(Duration::from_millis(5)) }).await.unwrap() })
        .unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 2 && seen[0] != seen[1], "{seen:?}");
}

// -------------------------------------------------------------------------------------------- errors

#[test]
fn the_number_of_cores_is_known_before_they_run() {
    let builder = Cores::builder();
    let count = builder.count();
    assert_eq!(count, thread::available_parallelism().map_or(1, usize::from));
    assert_eq!(builder.build().unwrap().handles().len(), count);
    let builder = Cores::builder().threads(3);
    assert_eq!(builder.count(), 3);
    assert_eq!(builder.run(ready).unwrap().len(), 3);
}

#[test]
fn no_cores_is_refused() {
    let error = Cores::new(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("at least 1"), "{error}");
    let error = Cores::builder().threads(0).run(|_| async {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[cfg(target_os = "linux")]
#[test]
fn an_error_leaves_no_thread_behind() {
    const NAME: &str = "an_error_leaves_no_thread_behind";
    if !is_child(NAME) {
        return succeeds_in_child(NAME, &[("WAKEWHEEL_BACKEND", "nonsense")]);
    }
    let before = (threads(), descriptors());
    assert!(Cores::new(0).is_err());
    let error = Cores::new(4).unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
    let ran = AtomicBool::new(false);
    let error = Cores::builder()
        .threads(4)
        .run(|_| {
            ran.store(true, Ordering::Relaxed);
            ready(())
        })
        .unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
    assert!(!ran.into_inner(), "nothing runs if not everything can");
    // The kernel lists a thread a little longer than a join waits for it.
    eventually("no thread is left", || threads() == before.0);
    assert_eq!(descriptors(), before.1);
}

/// Cores whose reactor is taken away from them, in a process of its own.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod broken {
    use super::*;
    use std::error::Error as _;
    use std::fs::{File, read_dir, read_link, read_to_string};
    use std::os::fd::AsRawFd;
    use wakewheel::reactor::Backend;

    /// Is `name` to be run here? If not, it has been, in a child, or there is no epoll.
    fn is_to_run(name: &str) -> bool {
        if Backend::from_env().expect("a backend of this system") != Backend::Epoll {
            println!("skipped: there is no epoll");
            return false;
        }
        let is_child = is_child(name);
        if !is_child {
            succeeds_in_child(name, &[]);
        }
        is_child
    }

    /// Replaces the epoll descriptor of the core that this is called on, which can be told by what is registered with it.
    fn break_reactor() {
        let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
        let entry = format!("tfd: {:8} ", socket.as_raw_fd());
        let epoll = read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap()).find(|fd| {
            // One is that of this directory, closed already when it is looked at.
            read_link(fd.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]")
                && read_to_string(format!("/proc/self/fdinfo/{}", fd.file_name().to_str().unwrap()))
                    .is_ok_and(|info| info.contains(&entry))
        });
        let epoll: i32 = epoll.expect("the descriptor").file_name().to_str().unwrap().parse().unwrap();
        let null = File::open("/dev/null").unwrap();
        // SAFETY: no pointers; what the number stands for from now on is not memory to anybody.
        assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), epoll) }, epoll);
    }

    const TEXT: &str = "the reactor of this core cannot wait: ";

    #[track_caller]
    fn check(e: &Error) {
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
        assert!(e.to_string().starts_with(TEXT), "{e}");
        let source = e.source().and_then(|source| source.downcast_ref::<Error>()).expect("the kernel's");
        assert_eq!(source.raw_os_error(), Some(libc::EINVAL));
        assert!(e.to_string().ends_with(&source.to_string()), "{e}");
    }

    #[test]
    fn a_run_ends_with_the_error_after_the_others_have_ended() {
        if !is_to_run("broken::a_run_ends_with_the_error_after_the_others_have_ended") {
            return;
        }
        for broken in 0..3 {
            let (drops, ended) = (Drops::default(), AtomicUsize::new(0));
            let builder = Cores::builder().threads(3);
            let result = builder.run(|i| {
                let (drops, ended) = (drops.clone(), &ended);
                async move {
                    let guard = drops.guard();
                    spawn_local(async move {
                        let _guard = guard;
                        pending::<()>().await;
                    })
                    .detach();
                    if i == broken {
                        sleep(Duration::from_millis(1)).await;
                        break_reactor();
                        return pending().await;
                    }
                    shutdown_requested().await;
                    // Their reactors still work.
                    sleep(Duration::from_millis(10)).await;
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            });
            check(&result.unwrap_err());
            assert_eq!(ended.into_inner(), 2);
            assert_eq!(drops.count(), 3, "the tasks of all cores are dropped");
        }
    }

    #[test]
    fn the_error_goes_before_those_that_it_causes() {
        if !is_to_run("broken::the_error_goes_before_those_that_it_causes") {
            return;
        }
        let result: Result<Vec<()>, Error> = Cores::builder().threads(2).try_run(|i| async move {
            if i == 1 {
                break_reactor();
                return pending().await;
            }
            shutdown_requested().await;
            Err(Error::other("ended too early"))
        });
        check(&result.unwrap_err());
    }

    #[test]
    fn who_cannot_return_an_error_panics_with_its_text() {
        if !is_to_run("broken::who_cannot_return_an_error_panics_with_its_text") {
            return;
        }
        let executor = LocalExecutor::new().unwrap();
        let busy = LocalExecutor::builder().busy_poll(Duration::from_millis(1)).build().unwrap();
        for executor in [executor, busy] {
            let payload = catch_unwind(AssertUnwindSafe(|| {
                executor.block_on(async {
                    break_reactor();
                    pending::<()>().await
                })
            }));
            assert!(message(&*payload.unwrap_err()).starts_with(TEXT));
        }

        let cores = Cores::new(2).unwrap();
        let breaks = cores.handles()[1].spawn(|| async { break_reactor() });
        let _ = block_on(breaks);
        let payload = catch_unwind(AssertUnwindSafe(|| cores.shutdown(Duration::ZERO)));
        assert!(message(&*payload.unwrap_err()).starts_with(TEXT));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_error_of_a_later_core_leaves_no_thread_behind() {
    const NAME: &str = "an_error_of_a_later_core_leaves_no_thread_behind";
    if !is_child(NAME) {
        return succeeds_in_child(NAME, &[]);
    }
    let before = (threads(), descriptors());
    // Room for the descriptors of a few cores, and not for those of all.
    let limit = libc::rlimit { rlim_cur: before.1 as u64 + 8, rlim_max: before.1 as u64 + 8 };
    // SAFETY: `limit` is valid.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let error = Cores::new(20).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
    let error = Cores::builder().threads(20).run(|_| async {}).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
    eventually("no thread is left", || threads() == before.0);
    // libkqueue closes a kqueue's a little later.
    eventually("nor a descriptor", || descriptors() == before.1);
}

#[cfg(target_os = "linux")]
#[test]
fn cores_that_have_ended_leave_nothing_behind() {
    const NAME: &str = "cores_that_have_ended_leave_nothing_behind";
    if !is_child(NAME) {
        return succeeds_in_child(NAME, &[]);
    }
    let before = (threads(), descriptors());
    for _ in 0..20 {
        let cores = Cores::new(2).unwrap();
        cores.spawn(pending::<()>).detach();
        cores.spawn(|| sleep(LIMIT)).detach();
        drop(cores);
        Cores::builder().threads(2).run(|_| yield_now()).unwrap();
    }
    eventually("no thread is left", || threads() == before.0);
    eventually("nor a descriptor", || descriptors() == before.1);
}

// ------------------------------------------------------------------------------------------- shutdown

#[test]
fn a_shutdown_waits_for_the_tasks() {
    within_limit(|| {
        let cores = Cores::new(2).unwrap();
        let ended = Arc::new(AtomicUsize::new(0));
        for _ in 0..10 {
            let ended = ended.clone();
            let task = cores.spawn(move || async move {
                shutdown_requested().await;
                sleep(Duration::from_millis(20)).await;
                // Started when it was already time.
                spawn(async move { ended.fetch_add(1, Ordering::Relaxed) }).await.unwrap();
            });
            task.detach();
        }
        assert_eq!(cores.shutdown(LIMIT), 0);
        assert_eq!(ended.load(Ordering::Relaxed), 10);
    });
}

#[test]
fn tasks_that_ask_each_other_to_end_leave_the_cores_to_their_owner() {
    within_limit(|| {
        let (cores, others) = (Cores::new(3).unwrap(), Cores::new(1).unwrap());
        let waiting: Vec<_> = (0..3).map(|_| cores.spawn(shutdown_requested)).collect();
        let of_others = others.spawn(shutdown_requested);
        block_on(cores.spawn(|| async { request_shutdown() })).unwrap();
        for task in waiting {
            block_on(task).unwrap();
        }
        // All of them still take tasks, and the owner's limit is the one that counts.
        for core in cores.handles() {
            block_on(core.spawn(shutdown_requested)).unwrap();
        }
        cores.spawn(|| sleep(Duration::from_millis(20))).detach();
        assert_eq!(cores.shutdown(LIMIT), 0);
        assert!(!of_others.is_finished(), "those are not of the same group");
        assert_eq!(others.shutdown(LIMIT), 0);
        block_on(of_others).unwrap();
    });
}

#[test]
fn a_single_executor_can_be_asked_to_end_too() {
    within_limit(|| {
        let executor = LocalExecutor::new().unwrap();
        executor.block_on(async {
            let task = spawn_local(shutdown_requested());
            yield_now().await;
            assert!(!task.is_finished());
            request_shutdown();
            task.await.unwrap();
            // It stays so.
            shutdown_requested().await;
        });
    });
}

#[test]
fn a_shutdown_does_not_lose_tasks_that_were_still_on_their_way() {
    within_limit(|| {
        for _ in 0..100 {
            let cores = Cores::new(1).unwrap();
            let ran = Arc::new(AtomicUsize::new(0));
            for _ in 0..10 {
                let ran = ran.clone();
                cores
                    .spawn(|| async move {
                        ran.fetch_add(1, Ordering::Relaxed);
                    })
                    .detach();
            }
            assert_eq!(cores.shutdown(LIMIT), 0);
            assert_eq!(ran.load(Ordering::Relaxed), 10);
        }
    });
}

#[test]
fn a_shutdown_cancels_and_counts_what_is_left_at_its_deadline() {
    within_limit(|| {
        let cores = Cores::new(2).unwrap();
        let drops = Drops::default();
        for i in 0..10 {
            let guard = drops.guard();
            let task = cores.spawn(move || async move {
                let _guard = guard;
                if i < 4 {
                    shutdown_requested().await;
                } else {
                    pending::<()>().await;
                }
            });
            task.detach();
        }
        let started = Instant::now();
        assert_eq!(cores.shutdown(Duration::from_millis(50)), 6);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(50), "{took:?}");
        assert!(took < LIMIT / 2, "{took:?}");
        assert_eq!(drops.count(), 10);
        assert!(!drops.threads().contains(&thread::current().id()));
    });
}

#[test]
fn a_shutdown_without_time_cancels_at_once() {
    within_limit(|| {
        let cores = Cores::new(2).unwrap();
        for core in cores.handles() {
            block_on(core.spawn(|| async { spawn_local(sleep(LIMIT)).detach() })).unwrap();
        }
        assert_eq!(cores.shutdown(Duration::ZERO), 2);
        Cores::new(2).unwrap().shutdown(Duration::MAX);
    });
}

#[test]
fn dropping_the_cores_drops_their_tasks_each_on_its_core() {
    within_limit(|| {
        let cores = Cores::new(2).unwrap();
        let drops = Drops::default();
        let mut expected = Vec::new();
        for core in cores.handles() {
            let guard = drops.guard();
            let (began, has_begun) = mpsc::channel();
            core.spawn(move || async move {
                let _guard = guard;
                began.send(thread::current().id()).unwrap();
                pending::<()>().await;
            })
            .detach();
            expected.push(has_begun.recv().unwrap());
        }
        drop(cores);
        let threads = drops.threads();
        assert!(threads.len() == 2 && expected.iter().all(|thread| threads.contains(thread)), "{threads:?}");
    });
}

#[test]
fn a_task_may_drop_the_cores_that_it_runs_on() {
    within_limit(|| {
        for of in 0..2 {
            let cores = Arc::new(Cores::new(2).unwrap());
            let drops = Drops::default();
            for core in cores.handles() {
                let guard = drops.guard();
                core.spawn(move || async move {
                    let _guard = guard;
                    pending::<()>().await;
                })
                .detach();
            }
            let (last, own) = (mpsc::channel(), cores.clone());
            let task = cores.handles()[of].spawn(move || async move {
                last.1.recv().unwrap();
                drop(own);
                "it goes on"
            });
            drop(cores);
            last.0.send(()).unwrap();
            assert_eq!(block_on(task).unwrap(), "it goes on");
            eventually("the task's own core ends", || drops.count() == 2);
        }
    });
}

#[test]
fn a_handle_that_is_left_after_the_cores_says_cancelled() {
    within_limit(|| {
        let cores = Cores::new(1).unwrap();
        let core = cores.handles()[0].clone();
        let (waiting, unread) = (core.spawn(pending::<()>), core.spawn(|| ready(())));
        drop(cores);
        assert!(block_on(waiting).unwrap_err().is_cancelled());
        // It may have run.
        let _ = block_on(unread);
        assert!(block_on(core.spawn(|| ready(()))).unwrap_err().is_cancelled());
        assert_eq!(core.stats().tasks_alive, 0);
    });
}

#[test]
fn a_core_that_stops_by_a_panic_ends_its_tasks_and_the_shutdown_tells() {
    within_limit(|| {
        let cores = Cores::builder().threads(2).panics(Panics::StopCore).build().unwrap();
        let (first, second) = (cores.handles()[0].clone(), cores.handles()[1].clone());
        let waiting = first.spawn(pending::<()>);
        let panics = first.spawn(|| async { panic!("one") });
        assert!(block_on(panics).unwrap_err().is_panic());
        assert!(block_on(waiting).unwrap_err().is_cancelled(), "it went with its core");
        let ended = Arc::new(AtomicBool::new(false));
        let seen = ended.clone();
        let slow = second.spawn(move || async move {
            shutdown_requested().await;
            sleep(Duration::from_millis(100)).await;
            seen.store(true, Ordering::Relaxed);
        });
        slow.detach();
        let shutdown = catch_unwind(AssertUnwindSafe(|| cores.shutdown(LIMIT)));
        assert!(message(&*shutdown.unwrap_err()).contains("StopCore"));
        assert!(ended.load(Ordering::Relaxed), "the other core had the time that it was promised");
    });
}

#[test]
fn cores_may_live_in_a_task_of_others() {
    within_limit(|| {
        // Cores inside of a task of other cores: each ends by itself.
        let outer = Cores::new(1).unwrap();
        let left = block_on(outer.spawn(|| async {
            let inner = Cores::new(1).unwrap();
            let sum = inner.spawn(|| async { 7 }).await.unwrap();
            (sum, inner.shutdown(LIMIT))
        }));
        assert_eq!(left.unwrap(), (7, 0));
        assert_eq!(outer.shutdown(LIMIT), 0);
    });
}

// --------------------------------------------------------------------------------- from core to core

/// Passes a token around a ring of cores, from mailbox to mailbox. A wake-up that is lost stops it.
fn token_ring(cores: usize, hops: usize) {
    let mailboxes: Vec<_> = (0..cores).map(|_| async_channel::bounded::<usize>(1)).collect();
    let mailboxes = &mailboxes;
    let seen: Vec<usize> = Cores::builder()
        .threads(cores)
        .run(|i| async move {
            let (receiver, next) = (&mailboxes[i].1, &mailboxes[(i + 1) % cores].0);
            if i == 0 {
                next.send(1).await.unwrap();
            }
            let mut seen = 0;
            while let Ok(hop) = receiver.recv().await {
                seen += 1;
                if hop >= hops {
                    // Whoever gets it last ends all.
                    for (sender, _) in mailboxes {
                        sender.close();
                    }
                    break;
                }
                next.send(hop + 1).await.unwrap();
            }
            seen
        })
        .unwrap();
    assert_eq!(seen.iter().sum::<usize>(), hops);
}

#[test]
fn a_token_goes_around_a_ring_of_cores() {
    within_limit(|| {
        token_ring(2, scaled(100_000));
        token_ring(4, scaled(100_000));
    });
}

#[test]
fn a_token_goes_around_a_ring_of_tasks_by_bare_wakers() {
    // No channel in between: a flag and a waker per place, on cores that sleep after every hop.
    struct Place {
        token: AtomicUsize,
        waker: Mutex<Option<Waker>>,
    }
    let hops = scaled(100_000);
    within_limit(move || {
        const CORES: usize = 3;
        let places: Arc<Vec<_>> = Arc::new(
            (0..CORES).map(|_| Place { token: AtomicUsize::new(0), waker: Mutex::new(None) }).collect(),
        );
        fn give(place: &Place, token: usize) {
            place.token.store(token, Ordering::Release);
            let waker = place.waker.lock().unwrap().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        Cores::builder()
            .threads(CORES)
            .run(|i| {
                let places = places.clone();
                let task = spawn_local(async move {
                    let (own, next) = (&places[i], &places[(i + 1) % CORES]);
                    if i == 0 {
                        give(next, 1);
                    }
                    loop {
                        let token = poll_fn(|cx| {
                            *own.waker.lock().unwrap() = Some(cx.waker().clone());
                            match own.token.swap(0, Ordering::AcqRel) {
                                0 => Poll::Pending,
                                token => Poll::Ready(token),
                            }
                        })
                        .await;
                        give(next, token + 1);
                        // The others have one round to hear of it.
                        if token >= hops {
                            return;
                        }
                    }
                });
                async { task.await.unwrap() }
            })
            .unwrap();
    });
}

#[test]
fn two_cores_talk_in_both_directions_at_once() {
    let messages = scaled(50_000);
    within_limit(move || {
        let ((to_a, of_a), (to_b, of_b)) = (async_channel::bounded(1), async_channel::bounded(1));
        let ends = [(to_b, of_a), (to_a, of_b)];
        let ends = &ends;
        Cores::builder()
            .threads(2)
            .run(|i| async move {
                let (sender, receiver) = (ends[i].0.clone(), ends[i].1.clone());
                let receiving = spawn_local(async move {
                    for j in 0..messages {
                        assert_eq!(receiver.recv().await, Ok(j));
                    }
                });
                for j in 0..messages {
                    sender.send(j).await.unwrap();
                }
                receiving.await.unwrap();
            })
            .unwrap();
    });
}

#[test]
fn a_core_joins_the_tasks_that_it_started_on_others() {
    within_limit(|| {
        let cores = Cores::new(3).unwrap();
        let handles: Arc<Vec<_>> = Arc::new(cores.handles().to_vec());
        let roots: Vec<_> = (0..3)
            .map(|i| {
                let others = handles.clone();
                handles[i].spawn(move || async move {
                    let mut sum = 0;
                    for j in 0..300 {
                        let other = &others[(i + 1 + j % 2) % 3];
                        sum += other
                            .spawn(move || async move {
                                if j % 3 == 0 {
                                    yield_now().await;
                                }
                                j
                            })
                            .await
                            .unwrap();
                    }
                    sum
                })
            })
            .collect();
        for root in roots {
            assert_eq!(block_on(root).unwrap(), 300 * 299 / 2);
        }
    });
}

#[test]
fn every_wake_from_many_threads_is_followed_by_a_poll() {
    const THREADS: usize = 4;
    let rounds = scaled(20_000);
    within_limit(move || {
        let executor = wakewheel::LocalExecutor::new().unwrap();
        let sum = Arc::new(AtomicUsize::new(0));
        let (sender, wakers) = mpsc::channel::<Waker>();
        let seen = sum.clone();
        let task = executor.spawn(async move {
            let mut sender = Some(sender);
            poll_fn(move |cx| {
                if let Some(sender) = sender.take() {
                    for _ in 0..THREADS {
                        sender.send(cx.waker().clone()).unwrap();
                    }
                }
                // What was added before a wake has to be seen by a poll after it: the last one sees all.
                match seen.load(Ordering::Relaxed) {
                    sum if sum == THREADS * rounds => Poll::Ready(()),
                    _ => Poll::Pending,
                }
            })
            .await
        });
        let threads = thread::spawn(move || {
            let barrier = Arc::new(Barrier::new(THREADS));
            wakers
                .iter()
                .take(THREADS)
                .map(|waker| {
                    let (sum, barrier) = (sum.clone(), barrier.clone());
                    thread::spawn(move || {
                        barrier.wait();
                        for _ in 0..rounds {
                            sum.fetch_add(1, Ordering::Relaxed);
                            waker.wake_by_ref();
                        }
                    })
                })
                .collect::<Vec<_>>()
        });
        executor.block_on(task).unwrap();
        threads.join().unwrap().into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn the_future_of_a_core_is_woken_from_other_threads() {
    let messages = scaled(20_000);
    within_limit(move || {
        let (sender, receiver) = async_channel::bounded(1);
        let thread = thread::spawn(move || {
            for i in 0..messages {
                sender.send_blocking(i).unwrap();
            }
        });
        wakewheel::LocalExecutor::new().unwrap().block_on(async {
            for i in 0..messages {
                assert_eq!(receiver.recv().await, Ok(i));
            }
        });
        thread.join().unwrap();
    });
}

#[test]
fn tasks_and_their_end_cross_each_other() {
    // Handles go on one thread while their tasks begin and end on another: nothing is left, whoever is first.
    within_limit(|| {
        let cores = Cores::new(2).unwrap();
        let shared = Arc::new(());
        for i in 0..scaled(20_000) {
            let (a, b) = (shared.clone(), shared.clone());
            let handle = cores.spawn(move || async move {
                yield_now().await;
                drop(a);
            });
            let other = cores.spawn(move || async move {
                let _b = b;
                pending::<()>().await;
            });
            match i % 4 {
                0 => drop((handle, other)),
                1 => {
                    other.cancel();
                    handle.detach();
                    let _ = future::block_on(other);
                }
                2 => {
                    handle.cancel();
                    drop(other);
                    let _ = future::block_on(handle);
                }
                _ => {
                    drop(other);
                    future::block_on(handle).unwrap();
                }
            }
        }
        assert_eq!(cores.shutdown(LIMIT), 0);
        assert_eq!(Arc::strong_count(&shared), 1);
    });
}

#[test]
fn draining_is_for_the_tasks_of_the_own_core() {
    within_limit(|| {
        let left = Cores::builder()
            .threads(2)
            .run(|i| async move {
                if i == 0 {
                    spawn_local(sleep(Duration::from_millis(10))).detach();
                } else {
                    spawn_local(pending::<()>()).detach();
                }
                drain(Duration::from_millis(if i == 0 { 10_000 } else { 1 })).await
            })
            .unwrap();
        assert_eq!(left, [0, 1]);
    });
}
