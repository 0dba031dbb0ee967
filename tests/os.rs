//! `wakewheel::os`: the shared reactor's descriptor, and what kqueue can wait for.

mod common;

use common::{backend, in_a_process_of_its_own, skip_if};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::task::Context;
use wakewheel::Async;
use wakewheel::os::unix::reactor_fd;
use wakewheel::reactor::Backend;

#[test]
fn the_shared_reactor_has_a_descriptor_unless_it_waits_in_poll() {
    let fd = reactor_fd();
    assert_eq!(fd.is_some(), backend() != Backend::Poll);
    assert_eq!(fd.map(|fd| fd.as_raw_fd()), reactor_fd().map(|fd| fd.as_raw_fd()));
}

#[test]
fn the_descriptor_of_the_shared_reactor_is_readable_when_there_is_news_that_nobody_has_looked_at() {
    in_a_process_of_its_own(
        "the_descriptor_of_the_shared_reactor_is_readable_when_there_is_news_that_nobody_has_looked_at",
        || {
            let Some(fd) = reactor_fd() else {
                assert!(skip_if(true, "poll has no descriptor"));
                return;
            };
            // Nobody waits for it, so nobody turns the reactor, whose thread has not been started.
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let _ours = Async::new(ours).unwrap();
            theirs.write_all(b"x").unwrap();
            let mut one = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, valid through the call.
            let ready = unsafe { libc::poll(&mut one, 1, common::PATIENCE.as_millis() as _) };
            assert_eq!((ready, one.revents), (1, libc::POLLIN));
        },
    );
}

/// Of `os`, this is all there is elsewhere.
#[test]
fn what_is_registered_on_a_core_is_not_in_the_shared_reactor() {
    let reactor = wakewheel::reactor::Reactor::new().unwrap();
    let listener = reactor.enter(|| Async::<TcpListener>::bind(([127, 0, 0, 1], 0))).unwrap();
    assert!(listener.poll_readable(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    assert_eq!(reactor.handle().sources_alive(), 1);
}

#[cfg(any(
    wakewheel_libkqueue,
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
mod kqueue {
    use super::common::{Wakes, poll, run, within};
    use super::*;
    use futures_lite::future::zip;
    use std::future::poll_fn;
    use std::io::ErrorKind;
    use std::num::NonZeroI32;
    use std::os::fd::OwnedFd;
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc;
    use std::thread;
    use wakewheel::LocalExecutor;
    use wakewheel::os::kqueue::{Exit, Filter, Signal};

    /// libkqueue hears of a signal only if all threads of the process have blocked it: this runs before there is a second.
    #[cfg(wakewheel_libkqueue)]
    #[used]
    #[unsafe(link_section = ".init_array")]
    static BLOCK_SIGNALS: extern "C" fn() = {
        extern "C" fn block() {
            // SAFETY: the set is made of zeroes, which is one, emptied, and valid through the calls.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&mut set);
                for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH] {
                    libc::sigaddset(&mut set, signal);
                }
                libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            }
        }
        block
    };

    /// A signal of this process that does nothing else. Each test has its own.
    fn ignored(number: i32) -> Signal {
        // SAFETY: to ignore a signal runs no code.
        unsafe { libc::signal(number, libc::SIG_IGN) };
        Signal(number)
    }

    fn send(signal: Signal) {
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::kill(std::process::id() as i32, signal.0) }, 0);
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
    }

    fn exit(child: &Child) -> Exit {
        // SAFETY: it is a child that has not been waited for.
        unsafe { Exit::from_pid(NonZeroI32::new(child.id() as i32).unwrap()) }
    }

    #[test]
    fn a_signal_ends_a_wait_each_time_and_only_once() {
        let signal = ignored(libc::SIGUSR1);
        let filter = Filter::new(signal).unwrap();
        assert_eq!(*filter.get_ref(), signal);
        run(async {
            for _ in 0..3 {
                let (_, waker) = Wakes::new();
                let mut ready = filter.ready();
                assert!(poll(&mut ready, &waker).is_pending());
                send(signal);
                ready.await?;
                assert!(poll(&mut filter.ready(), &waker).is_pending());
                assert!(filter.poll_ready(&mut Context::from_waker(&waker)).is_pending());
                send(signal);
                poll_fn(|cx| filter.poll_ready(cx)).await?;
            }
            Ok(())
        });
    }

    #[test]
    fn a_signal_that_came_while_nobody_waited_is_told_to_the_next() {
        let signal = ignored(libc::SIGUSR2);
        let filter = Filter::new(signal).unwrap();
        let (_, waker) = Wakes::new();
        run(async {
            send(signal);
            filter.ready().await?;
            assert!(poll(&mut filter.ready(), &waker).is_pending());
            send(signal);
            poll_fn(|cx| filter.poll_ready(cx)).await?;
            assert!(poll(&mut filter.ready(), &waker).is_pending());
            Ok(())
        });
    }

    #[test]
    fn all_who_wait_for_a_signal_are_told() {
        let signal = ignored(libc::SIGWINCH);
        let one = Filter::new(signal).unwrap();
        let other = Filter::new(signal).unwrap();
        let (_, waker) = Wakes::new();
        let (mut a, mut b, mut c) = (one.ready(), one.ready(), other.ready());
        for ready in [&mut a, &mut b, &mut c] {
            assert!(poll(ready, &waker).is_pending());
        }
        run(async {
            send(signal);
            let ((a, b), c) = zip(zip(a, b), c).await;
            a.and(b).and(c)
        });
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused_and_quoted() {
        for number in [0, -1, 1000] {
            let e = Filter::new(Signal(number)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
            assert!(e.to_string().contains(&number.to_string()), "{e}");
        }
    }

    #[test]
    fn the_exit_of_a_child_ends_all_waits_and_can_be_collected() {
        let mut child = sleeper();
        let (one, other) = (Filter::new(exit(&child)).unwrap(), Filter::new(exit(&child)).unwrap());
        let (_, waker) = Wakes::new();
        let (mut a, mut b) = (one.ready(), other.ready());
        assert!(poll(&mut a, &waker).is_pending() && poll(&mut b, &waker).is_pending());
        assert!(one.poll_ready(&mut Context::from_waker(&waker)).is_pending());
        child.kill().unwrap();
        run(async {
            a.await?;
            b.await?;
            // A child stays exited.
            one.ready().await?;
            poll_fn(|cx| one.poll_ready(cx)).await
        });
        assert!(child.try_wait().unwrap().is_some());
        run(one.ready());
    }

    #[test]
    fn a_child_that_has_exited_before_is_noticed() {
        let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        // The end of its output is the end of it, or nearly so.
        std::io::copy(child.stdout.as_mut().unwrap(), &mut std::io::sink()).unwrap();
        let filter = Filter::new(exit(&child)).unwrap();
        run(filter.ready());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_filter_outlives_the_core_that_made_it_and_is_waited_for_on_another_thread() {
        let mut child = sleeper();
        let filter = LocalExecutor::new().unwrap().block_on(async {
            let filter = Filter::new(exit(&child)).unwrap();
            assert!(poll(&mut filter.ready(), std::task::Waker::noop()).is_pending());
            filter
        });
        let (waits, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            wakewheel::block_on(within(async {
                let mut ready = filter.ready();
                assert!(poll(&mut ready, std::task::Waker::noop()).is_pending());
                waits.send(()).unwrap();
                ready.await
            }))
        });
        started.recv().unwrap();
        child.kill().unwrap();
        thread.join().unwrap().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_filter_gives_back_what_it_was_made_of() {
        let mut child = sleeper();
        let mut filter = Filter::new(exit(&child)).unwrap();
        assert!(format!("{:?}", filter.get_mut()).contains(&child.id().to_string()));
        let _: Exit = filter.into_inner().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_filter_of_a_descriptor_waits_for_reading() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        let mut filter = Filter::<UnixStream>::try_from(OwnedFd::from(ours)).unwrap();
        assert_eq!(
            (filter.as_raw_fd(), filter.as_mut().as_raw_fd(), filter.as_ref().as_raw_fd()),
            (fd, fd, fd)
        );
        assert!(poll(&mut filter.ready(), std::task::Waker::noop()).is_pending());
        theirs.write_all(b"x").unwrap();
        run(filter.ready());
        run(poll_fn(|cx| filter.poll_ready(cx)));
        assert_eq!(OwnedFd::try_from(filter).unwrap().as_raw_fd(), fd);
    }
}
