//! Children and signals.

mod common;

use common::{Wakes, in_a_process_of_its_own, poll, run, skip_if, within};
use futures_lite::{AsyncReadExt, AsyncWriteExt, StreamExt, future};
use std::fs;
use std::io::ErrorKind;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Duration;
use wakewheel::process::Child;
use wakewheel::{LocalExecutor, Signals, ctrl_c, sleep, spawn_local, timeout};

const MS: Duration = Duration::from_millis(1);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

fn spawn(script: &str) -> Child {
    Child::spawn(&mut shell(script)).unwrap()
}

/// Is there such a process, or a zombie?
#[cfg(target_os = "linux")]
fn is_there(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

// ------------------------------------------------------------------------------------------------ children

#[test]
fn the_end_of_a_child_is_its_status() {
    for (script, code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 255", Some(255), None),
        ("kill -TERM $$", None, Some(libc::SIGTERM)),
    ] {
        let child = spawn(script);
        let status = run(child.wait());
        assert_eq!((status.code(), status.signal()), (code, signal), "{script}");
        // It stays what it was.
        assert_eq!(run(child.wait()), status);
        assert_eq!(child.try_wait().unwrap(), Some(status));
        child.kill().unwrap();
        #[cfg(target_os = "linux")]
        assert!(!is_there(child.id()), "a zombie");
    }
}

#[test]
fn one_that_runs_is_waited_for() {
    let mut child = Child::spawn(shell("read line").stdin(Stdio::piped())).unwrap();
    let (wakes, waker) = Wakes::new();
    let mut wait = Box::pin(child.wait());
    assert!(poll(&mut wait, &waker).is_pending());
    assert_eq!(wakes.count(), 0);
    drop(wait);
    assert_eq!(child.try_wait().unwrap(), None);
    run(async { child.stdin.take().expect("it was piped").write_all(b"line\n").await });
    assert!(run(child.wait()).success());
}

#[test]
fn all_who_wait_for_a_child_are_told() {
    LocalExecutor::new().unwrap().block_on(async {
        let mut child = Child::spawn(shell("cat").stdin(Stdio::piped())).unwrap();
        let stdin = child.stdin.take();
        let child = Arc::new(child);
        let (waits, waiting) = async_channel::unbounded();
        let wait = || {
            let (child, waits) = (child.clone(), waits.clone());
            async move {
                let mut end = pin!(within(child.wait()));
                assert!(future::poll_once(end.as_mut()).await.is_none());
                waits.try_send(()).unwrap();
                end.await.unwrap()
            }
        };
        let elsewhere = wait();
        let elsewhere = thread::spawn(move || future::block_on(elsewhere));
        let tasks: Vec<_> = (0..5).map(|_| spawn_local(wait())).collect();
        {
            // One who does not want to know any more.
            let mut gives_up = pin!(child.wait());
            assert!(future::poll_once(gives_up.as_mut()).await.is_none());
        }
        for _ in 0..6 {
            within(waiting.recv()).await.unwrap();
        }
        drop(stdin);
        for task in tasks {
            assert!(task.await.unwrap().success());
        }
        assert!(elsewhere.join().unwrap().success());
    });
}

#[test]
fn what_a_child_writes_is_read_from_both_pipes_at_once() {
    // More than a pipe holds, first to the one, then to the other, and again.
    let script = "for i in 1 2; do head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2; done; exit 3";
    let child = Child::spawn(shell(script).stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
    let output = run(child.output());
    assert_eq!((output.stdout.len(), output.stderr.len()), (600_000, 400_000));
    assert_eq!(output.status.code(), Some(3));
    // What is not piped is not read; and an end of its input is what it gets.
    let child = Child::spawn(shell("cat >/dev/null").stdin(Stdio::piped())).unwrap();
    let output = run(child.output());
    assert!(output.stdout.is_empty() && output.stderr.is_empty() && output.status.success());
}

#[test]
fn a_child_is_talked_with() {
    let mut child = Child::spawn(shell("cat").stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    run(async {
        for i in 0..50_u8 {
            stdin.write_all(&[i; 100]).await?;
            let mut buf = [0; 100];
            stdout.read_exact(&mut buf).await?;
            assert_eq!(buf, [i; 100]);
        }
        drop(stdin);
        assert_eq!(stdout.read(&mut [0]).await?, 0);
        assert!(child.wait().await?.success());
        Ok(())
    });
}

#[test]
fn a_child_is_killed_at_its_limit() {
    run(async {
        let child = spawn("exec sleep 1000");
        assert!(timeout(5 * MS, child.wait()).await.is_err());
        child.kill()?;
        assert_eq!(child.wait().await?.signal(), Some(libc::SIGKILL));
        Ok(())
    });
}

#[test]
fn a_program_that_does_not_exist_is_an_error() {
    let e = Child::spawn(&mut Command::new("/no/such/program")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
}

#[test]
#[expect(clippy::zombie_processes, reason = "it is waited for, by its number")]
fn a_child_that_something_else_has_started_is_waited_for_by_its_number() {
    for script in ["exit 5", "sleep 0.01; exit 5"] {
        let std_child = shell(script).spawn().unwrap();
        let child = Child::from_pid(std_child.id()).unwrap();
        assert_eq!(child.id(), std_child.id());
        assert_eq!(run(child.wait()).code(), Some(5));
    }
}

#[test]
fn what_cannot_be_waited_for_is_refused_by_its_number() {
    // SAFETY: no pointers.
    let parent = unsafe { libc::getppid() } as u32;
    let mut ended = shell("exit 0").spawn().unwrap();
    ended.wait().unwrap();
    for (pid, kind) in [
        (0, ErrorKind::InvalidInput),
        (parent, ErrorKind::InvalidInput),
        (std::process::id(), ErrorKind::InvalidInput),
        (ended.id(), ErrorKind::NotFound),
        (u32::MAX, ErrorKind::NotFound),
    ] {
        let e = Child::from_pid(pid).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(&pid.to_string()), "{e}");
    }
}

#[test]
fn a_status_that_nobody_can_have_is_an_error_and_no_wait_for_ever() {
    in_a_process_of_its_own("a_status_that_nobody_can_have_is_an_error_and_no_wait_for_ever", || {
        let child = spawn("exec sleep 1000");
        child.kill().unwrap();
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        assert_eq!(unsafe { libc::waitpid(-1, &mut status, 0) }, child.id() as libc::pid_t);
        let e = wakewheel::block_on(within(child.wait())).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.to_string().contains(&child.id().to_string()), "{e}");
        // SAFETY: nobody else here has to do with the signal.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let child = spawn("exec sleep 1000");
        child.kill().unwrap();
        let e = wakewheel::block_on(within(child.wait())).unwrap_err();
        assert!(e.to_string().contains("SIGCHLD"), "{e}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn children_leave_nothing_behind() {
    in_a_process_of_its_own("children_leave_nothing_behind", || {
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        let round = || {
            run(async {
                let pipe = Stdio::piped;
                let children: Vec<_> = (0..40)
                    .map(|i| {
                        let script = format!("echo {i}; exit {i}");
                        let child =
                            Child::spawn(shell(&script).stdin(pipe()).stdout(pipe()).stderr(pipe())).unwrap();
                        (i, child)
                    })
                    .collect();
                for (i, child) in children {
                    let pid = child.id();
                    let output = child.output().await?;
                    assert_eq!(output.status.code(), Some(i));
                    assert_eq!(output.stdout, format!("{i}\n").into_bytes());
                    assert!(!is_there(pid));
                }
                // One that has ended when it is dropped is no zombie either.
                let child = Child::spawn(shell("echo").stdout(pipe())).unwrap();
                let pid = child.id();
                within(is_zombie(pid)).await;
                drop(child);
                assert!(!is_there(pid));
                Ok(())
            });
        };
        round();
        let before = descriptors();
        round();
        // libkqueue closes a kqueue's a little later.
        run(async {
            while descriptors() > before {
                sleep(MS).await;
            }
            Ok(())
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_that_cannot_be_watched_is_not_left_behind() {
    if skip_if(cfg!(wakewheel_libkqueue), "libkqueue has descriptors of its own") {
        return;
    }
    in_a_process_of_its_own("a_child_that_cannot_be_watched_is_not_left_behind", || {
        // With all that it has inherited: what is opened is what it is watched by.
        let start = || Child::spawn(Command::new("sleep").arg("1000"));
        let kill = |child: Child| {
            child.kill().unwrap();
            run(child.wait());
        };
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count() - 1;
        // The shared reactor, and what else stays.
        kill(start().unwrap());
        let (before, mut failed) = (descriptors(), Vec::new());
        let free = fs::File::open("/dev/null").unwrap().as_raw_fd() as usize;
        let limit = |most: usize| {
            let limit = libc::rlimit { rlim_cur: most as u64, rlim_max: 1024 };
            // SAFETY: `limit` is valid for reads.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        };
        for more in 0..10 {
            limit(free + more);
            let result = start();
            limit(1024);
            match result {
                Ok(child) => kill(child),
                Err(e) => failed.push(e.to_string()),
            }
            let mut status = 0;
            // SAFETY: `status` is valid for writes.
            let child = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            assert_eq!(child, -1, "{more} more: there is a child");
            assert_eq!(descriptors(), before, "{more} more");
        }
        let expected =
            |e: &String| e.contains("cannot watch for the end of process") && e.contains("open files");
        assert!(failed.len() < 10 && failed.iter().any(expected), "{failed:?}");
    });
}

/// Waits until it has ended, and leaves its status.
#[cfg(target_os = "linux")]
async fn is_zombie(pid: u32) {
    let stat = Path::new("/proc").join(pid.to_string()).join("stat");
    while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
        sleep(MS).await;
    }
}

// ------------------------------------------------------------------------------------------------- signals

fn raise(signal: i32) {
    // SAFETY: no pointers. It is caught, or ends a process in which nothing else happens.
    unsafe { libc::kill(libc::getpid(), signal) };
}

#[test]
fn every_listener_is_told_of_every_signal_once() {
    in_a_process_of_its_own("every_listener_is_told_of_every_signal_once", || {
        const ROUNDS: usize = 500;
        let (told, count) = async_channel::unbounded();
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let told = told.clone();
                let mut signals = Signals::new([libc::SIGUSR1]).unwrap();
                thread::spawn(move || {
                    let listen = async {
                        for _ in 0..ROUNDS {
                            assert_eq!(within(signals.next()).await.unwrap(), libc::SIGUSR1);
                            told.send(i).await.unwrap();
                        }
                        // One time each, and no more.
                        assert!(future::poll_once(pin!(signals.next())).await.is_none());
                    };
                    // Under executors of all kinds.
                    match i {
                        0 => wakewheel::block_on(listen),
                        1 => LocalExecutor::new().unwrap().block_on(listen),
                        _ => future::block_on(listen),
                    }
                })
            })
            .collect();
        for _ in 0..ROUNDS {
            raise(libc::SIGUSR1);
            let mut all: Vec<_> = (0..4).map(|_| future::block_on(within(count.recv())).unwrap()).collect();
            all.sort();
            assert_eq!(all, [0, 1, 2, 3]);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_listener_that_waits_is_woken_once() {
    in_a_process_of_its_own("a_listener_that_waits_is_woken_once", || {
        let mut signals = Signals::new([libc::SIGUSR1, libc::SIGUSR2]).unwrap();
        for _ in 0..20 {
            let (wakes, waker) = Wakes::new();
            assert!(poll(&mut StreamExt::next(&mut signals), &waker).is_pending());
            raise(libc::SIGUSR2);
            while wakes.count() == 0 {
                thread::yield_now();
            }
            let mut next = StreamExt::next(&mut signals);
            assert!(matches!(poll(&mut next, &waker), std::task::Poll::Ready(Some(Ok(libc::SIGUSR2)))));
            assert!(poll(&mut next, &waker).is_pending());
            assert_eq!(wakes.count(), 1);
        }
    });
}

#[test]
fn what_asks_to_end_is_heard_until_nobody_listens() {
    in_a_process_of_its_own("what_asks_to_end_is_heard_until_nobody_listens", || {
        let is_default = |signal| {
            let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
            // SAFETY: `now` is valid for writes, and filled if the call succeeds.
            let now = unsafe {
                assert_eq!(libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()), 0);
                now.assume_init()
            };
            now.sa_sigaction == libc::SIG_DFL
        };
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // A shell ignores the first for what it starts in the background.
            // SAFETY: no handler of anybody's is called.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // From the call on, and not from the first poll.
        let (first, second) = (ctrl_c(), ctrl_c());
        raise(libc::SIGINT);
        run(first);
        assert!(!is_default(libc::SIGINT), "somebody listens still");
        run(second);
        assert!(is_default(libc::SIGINT) && is_default(libc::SIGTERM));
        drop(ctrl_c());
        assert!(is_default(libc::SIGINT));

        let mut signals = Signals::shutdown().unwrap();
        for signal in [libc::SIGINT, libc::SIGTERM] {
            raise(signal);
            assert_eq!(run(signals.next()), signal);
        }
        assert!(poll(&mut pin!(signals.next()), Waker::noop()).is_pending());
        drop(signals);
        assert!(is_default(libc::SIGINT) && is_default(libc::SIGTERM));
    });
}
