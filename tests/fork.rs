//! fork(2): a child shares its parent's selectors, so it makes new ones at its first use, and leaves the parent's alone.
//!
//! Each test runs in a process of its own, which is the parent.

mod common;

use common::{PATIENCE, Wakes, in_a_process_of_its_own, poll, run, tcp_pair, within};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::reactor::{Interest, Reactor, Trigger, Watch};
use wakewheel::{Async, LocalExecutor, Timer, block_on, sleep};

/// A child process, in which `body` runs and nothing else.
#[must_use]
struct Child(libc::pid_t);

impl Child {
    fn fork(body: impl FnOnce()) -> Child {
        // SAFETY: the child runs what a program would run after a fork, and leaves by _exit.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", io::Error::last_os_error()),
            0 => {
                // SAFETY: no pointers. Who hangs is killed.
                unsafe { libc::alarm(PATIENCE.as_secs() as u32) };
                let result = catch_unwind(AssertUnwindSafe(body));
                // SAFETY: no destructors of the parent's are run.
                unsafe { libc::_exit(if result.is_ok() { 0 } else { 1 }) }
            }
            child => Child(child),
        }
    }

    /// Waits until it has ended, as it should.
    #[track_caller]
    fn ends_well(self) {
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        assert_eq!(unsafe { libc::waitpid(self.0, &mut status, 0) }, self.0);
        assert_eq!(
            status,
            0,
            "the child: exited with {}, signal {}",
            libc::WEXITSTATUS(status),
            libc::WTERMSIG(status)
        );
    }
}

async fn some_work() -> io::Result<()> {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    let addr = listener.get_ref().local_addr()?;
    let (client, (server, _)) = future::try_zip(Async::<TcpStream>::connect(addr), listener.accept()).await?;
    let (mut client, mut server) = (client, server);
    let mut buf = [0; 4];
    assert!(future::poll_once(server.read(&mut buf)).await.is_none());
    client.write_all(b"ping").await?;
    server.read_exact(&mut buf).await?;
    sleep(Duration::from_millis(1)).await;
    Ok(())
}

#[test]
fn a_child_makes_reactors_of_its_own() {
    in_a_process_of_its_own("a_child_makes_reactors_of_its_own", || {
        run(some_work());
        Child::fork(|| {
            run(some_work());
            LocalExecutor::new().unwrap().block_on(within(some_work())).unwrap();
            let reactor = Reactor::new().unwrap();
            reactor.enter(|| run(some_work()));
        })
        .ends_well();
        run(some_work());
    });
}

#[test]
fn a_child_starts_a_thread_of_its_own_for_other_executors() {
    in_a_process_of_its_own("a_child_starts_a_thread_of_its_own_for_other_executors", || {
        // The parent's is running.
        future::block_on(within(some_work())).unwrap();
        Child::fork(|| future::block_on(within(some_work())).unwrap()).ends_well();
        future::block_on(within(some_work())).unwrap();
    });
}

#[test]
fn a_watch_with_news_that_nobody_has_taken_goes_on_in_a_child() {
    in_a_process_of_its_own("a_watch_with_news_that_nobody_has_taken_goes_on_in_a_child", || {
        let parent = LocalExecutor::new().unwrap();
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let mut watch = parent.enter(|| Watch::new(&ours, Interest::READ, Trigger::Level)).unwrap();
        let (wakes, waker) = Wakes::new();
        assert!(watch.poll_ready(&mut Context::from_waker(&waker)).is_pending());
        theirs.write_all(b"x").unwrap();
        parent.turn(Some(PATIENCE)).unwrap();
        assert_eq!(wakes.count(), 1);
        Child::fork(|| {
            let child = LocalExecutor::new().unwrap();
            let (wakes, waker) = Wakes::new();
            let mut take = || child.enter(|| watch.take(&mut Context::from_waker(&waker)));
            assert!(matches!(take(), Poll::Ready(Ok(Interest::READ))));
            ours.read_exact(&mut [0; 1]).unwrap();
            // It waits for more already.
            let before = wakes.count();
            theirs.write_all(b"y").unwrap();
            let give_up = Instant::now() + PATIENCE;
            while wakes.count() == before {
                assert!(Instant::now() < give_up, "nobody is woken");
                child.turn(Some(Duration::from_millis(10))).unwrap();
            }
            assert!(matches!(take(), Poll::Ready(Ok(Interest::READ))));
        })
        .ends_well();
    });
}

#[test]
fn a_watch_that_waits_for_nothing_goes_on_in_a_child_and_is_refused_what_the_child_has() {
    let name = "a_watch_that_waits_for_nothing_goes_on_in_a_child_and_is_refused_what_the_child_has";
    in_a_process_of_its_own(name, || {
        let parent = LocalExecutor::new().unwrap();
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let mut watch = parent.enter(|| Watch::new(&ours, Interest::NONE, Trigger::Level)).unwrap();
        Child::fork(|| {
            let child = LocalExecutor::new().unwrap();
            let alive = || child.reactor().sources_alive();
            child.block_on(async {
                let own = Watch::new(&ours, Interest::READ, Trigger::Level).unwrap();
                // libkqueue cannot tell whether one filter of a descriptor is there.
                if !cfg!(wakewheel_libkqueue) {
                    let e = watch.set_interest(Interest::READ).unwrap_err();
                    assert_eq!((e.kind(), alive()), (ErrorKind::AlreadyExists, 1));
                }
                drop(own);
                watch.set_interest(Interest::READ).unwrap();
                assert_eq!(alive(), 1);
                theirs.write_all(b"x").unwrap();
                assert_eq!(watch.ready().await.unwrap(), Interest::READ);
                ours.read_exact(&mut [0; 1]).unwrap();
                watch.set_interest(Interest::NONE).unwrap();
                assert_eq!(alive(), 0);
            });
        })
        .ends_well();
        parent.block_on(async {
            watch.set_interest(Interest::READ).unwrap();
            theirs.write_all(b"y").unwrap();
            assert_eq!(watch.ready().await.unwrap(), Interest::READ);
        });
    });
}

#[test]
fn what_a_child_drops_stays_registered_in_the_parent() {
    in_a_process_of_its_own("what_a_child_drops_stays_registered_in_the_parent", || {
        let (a, mut b) = tcp_pair();
        let (c, mut d) = tcp_pair();
        let executor = LocalExecutor::new().unwrap();
        let a = Async::new(a).unwrap();
        let c = executor.enter(|| Async::new(c)).unwrap();
        let (mut a, mut c) = (Some(a), Some(c));
        Child::fork(|| {
            drop(a.take());
            c.take().unwrap().into_inner().unwrap();
            run(some_work());
        })
        .ends_well();
        let (mut a, mut c) = (a.unwrap(), c.unwrap());
        run(async {
            let mut buf = [0; 1];
            assert!(future::poll_once(a.read(&mut buf)).await.is_none());
            b.write_all(b"x")?;
            a.read_exact(&mut buf).await
        });
        executor.block_on(within(async {
            let mut buf = [0; 1];
            assert!(future::poll_once(c.read(&mut buf)).await.is_none());
            d.write_all(b"x").unwrap();
            c.read_exact(&mut buf).await.unwrap();
        }));
    });
}

#[test]
fn a_child_takes_no_event_from_its_parent() {
    in_a_process_of_its_own("a_child_takes_no_event_from_its_parent", || {
        let (a, mut b) = tcp_pair();
        let a = Async::new(a).unwrap();
        let (_, waker) = Wakes::new();
        assert!(poll(&mut (&a).read(&mut [0; 1]), &waker).is_pending());
        let (mut go, mut ready) = UnixStream::pair().unwrap();
        let child = Child::fork(|| {
            // Waits, for a while, with a reactor of its own.
            run(async {
                ready.write_all(b"r").unwrap();
                for _ in 0..20 {
                    sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            });
        });
        go.read_exact(&mut [0; 1]).unwrap();
        run(async {
            let mut buf = [0; 1];
            let (mut reader, mut closed) = (&a, a.closed());
            let mut read = pin!(reader.read_exact(&mut buf));
            assert!(future::poll_once(read.as_mut()).await.is_none());
            assert!(future::poll_once(&mut closed).await.is_none());
            b.write_all(b"x")?;
            read.await?;
            drop(b.shutdown(std::net::Shutdown::Both));
            closed.await
        });
        child.ends_well();
    });
}

#[test]
fn a_child_uses_what_it_has_inherited() {
    in_a_process_of_its_own("a_child_uses_what_it_has_inherited", || {
        let (a, b) = tcp_pair();
        let executor = LocalExecutor::new().unwrap();
        let (mut a, mut b) = (Async::new(a).unwrap(), executor.enter(|| Async::new(b)).unwrap());
        Child::fork(|| {
            run(async {
                let mut buf = [0; 4];
                let mut readable = a.readable();
                assert!(future::poll_once(&mut readable).await.is_none());
                b.write_all(b"ping").await?;
                readable.await?;
                a.read_exact(&mut buf).await?;
                assert!(future::poll_once(a.read(&mut buf)).await.is_none());
                b.write_all(b"pong").await?;
                a.read_exact(&mut buf).await
            });
        })
        .ends_well();
    });
}

#[test]
fn what_the_parent_began_to_wait_for_comes_in_the_child() {
    in_a_process_of_its_own("what_the_parent_began_to_wait_for_comes_in_the_child", || {
        let (a, mut b) = tcp_pair();
        let a = Async::new(a).unwrap();
        let mut readable = a.readable();
        let mut closed = a.closed();
        let mut buf = [0; 4];
        let mut a_read = &a;
        let mut read = pin!(a_read.read_exact(&mut buf));
        let mut timer = Timer::after(Duration::from_millis(30));
        block_on(async {
            assert!(future::poll_once(&mut readable).await.is_none());
            assert!(future::poll_once(&mut closed).await.is_none());
            assert!(future::poll_once(read.as_mut()).await.is_none());
            assert!(future::poll_once(&mut timer).await.is_none());
        });
        Child::fork(|| {
            run(async {
                timer.await;
                assert!(future::poll_once(&mut readable).await.is_none());
                b.write_all(b"ping")?;
                readable.await?;
                read.await?;
                b.shutdown(std::net::Shutdown::Both)?;
                closed.await
            });
        })
        .ends_well();
    });
}

/// Most forks come while the other thread is busy with the timers that all share.
#[test]
fn a_child_need_not_wait_for_a_thread_of_its_parents_to_let_go_of_a_timer() {
    in_a_process_of_its_own("a_child_need_not_wait_for_a_thread_of_its_parents_to_let_go_of_a_timer", || {
        fn pending() -> Timer {
            let mut timer = Timer::after(10 * PATIENCE);
            assert!(poll(&mut timer, Waker::noop()).is_pending());
            timer
        }
        thread::spawn(|| {
            loop {
                drop(pending());
            }
        });
        for _ in 0..100 {
            let (dropped, mut set) = (pending(), pending());
            Child::fork(|| {
                drop(dropped);
                set.set_after(Duration::ZERO);
                assert!(poll(&mut set, Waker::noop()).is_ready());
            })
            .ends_well();
        }
    });
}

#[test]
fn a_call_of_block_on_goes_on_in_the_child() {
    in_a_process_of_its_own("a_call_of_block_on_goes_on_in_the_child", || {
        run(async {
            let (a, mut b) = tcp_pair();
            let mut a = Async::new(a)?;
            sleep(Duration::from_millis(1)).await;
            // SAFETY: the child leaves by _exit.
            let child = unsafe { libc::fork() };
            sleep(Duration::from_millis(1)).await;
            if child == 0 {
                let mut buf = [0; 1];
                assert!(future::poll_once(a.read(&mut buf)).await.is_none());
                b.write_all(b"x")?;
                a.read_exact(&mut buf).await?;
                // SAFETY: no destructors of the parent's are run.
                unsafe { libc::_exit(0) };
            }
            some_work().await?;
            Child(child).ends_well();
            Ok(())
        });
    });
}

#[test]
fn the_parents_reactor_tells_the_child_what_to_do() {
    in_a_process_of_its_own("the_parents_reactor_tells_the_child_what_to_do", || {
        let reactor = Reactor::new().unwrap();
        let executor = LocalExecutor::new().unwrap();
        Child::fork(|| {
            let error = reactor.turn(Some(Duration::ZERO)).expect_err("it is the parent's");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            assert!(error.to_string().contains("fork"), "{error}");
            // In it, the shared one is used.
            reactor.enter(|| run(some_work()));
            let panic = catch_unwind(AssertUnwindSafe(|| executor.block_on(sleep(PATIENCE))));
            let text = *panic.expect_err("it cannot wait").downcast::<String>().expect("a text");
            assert!(text.contains("fork"), "{text}");
        })
        .ends_well();
        reactor.turn(Some(Duration::ZERO)).unwrap();
        executor.block_on(sleep(Duration::from_millis(1)));
    });
}

#[test]
fn the_parents_registrations_are_none_of_the_childs() {
    struct Number<'a>(BorrowedFd<'a>);
    impl AsFd for Number<'_> {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0
        }
    }
    in_a_process_of_its_own("the_parents_registrations_are_none_of_the_childs", || {
        let (a, mut b) = tcp_pair();
        let a = Async::new(a).unwrap();
        Child::fork(|| {
            // A number that the parent uses may be used for something else here.
            // SAFETY: no pointers; nobody uses the old one any more in this process.
            assert_ne!(unsafe { libc::dup2(b.as_raw_fd(), a.as_raw_fd()) }, -1);
            let mine = Async::new(Number(a.as_fd())).unwrap();
            run(async { mine.writable().await });
        })
        .ends_well();
        let started = Instant::now();
        b.write_all(b"x").unwrap();
        run(async { a.readable().await });
        assert!(started.elapsed() < PATIENCE);
    });
}
