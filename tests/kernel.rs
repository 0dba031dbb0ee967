//! What the kernel does, and what has bitten the users of other crates: each row and each point of `docs/kernel.md`
//! that concerns reactor and I/O, as the behaviour of this crate.

mod common;

use common::proc::thread_names;
use common::{
    PATIENCE, Wakes, backend, in_a_process_of_its_own, os_error, poll, run, skip_if, tcp_pair, turn_until,
    within,
};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::io::SocketOptions;
use wakewheel::reactor::{Backend, Reactor};
use wakewheel::{Async, Cores, LocalExecutor, Timer, block_on, sleep, spawn_local};

/// Waits, without the crate, until the kernel has all of `events` for `fd`.
fn has_arrived(fd: &impl AsRawFd, events: libc::c_short) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut one = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
        // SAFETY: `one` is a valid array of one pollfd.
        assert_eq!(unsafe { libc::poll(&mut one, 1, PATIENCE.as_millis() as i32) }, 1);
        if one.revents & events == events {
            return;
        }
        assert!(Instant::now() < deadline, "{events:#x} does not come, only {:#x}", one.revents);
    }
}

/// Waits until as many bytes can be read.
fn have_arrived(fd: &impl AsRawFd, bytes: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut there: libc::c_int = 0;
    while (there as usize) < bytes {
        // SAFETY: `there` is valid for writes.
        assert_eq!(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut there) }, 0);
        assert!(Instant::now() < deadline, "{there} of {bytes} bytes");
        thread::yield_now();
    }
}

/// Turns `reactor` until it has nothing left to tell.
fn settle(reactor: &Reactor) {
    while reactor.turn(Some(Duration::ZERO)).unwrap().events > 0 {}
}

/// Registers `io` with `reactor`.
fn register<T: AsFd>(reactor: &Reactor, io: T) -> Async<T> {
    reactor.enter(|| Async::new(io)).unwrap()
}

/// A descriptor that is not closed with its owner.
#[derive(Debug)]
struct Number(RawFd);

impl AsFd for Number {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: for a test of what happens when it is closed too early, which harms nobody but the test.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// Another name for the file behind `fd`, with this number.
fn duplicate_to(fd: &impl AsRawFd, number: RawFd) -> OwnedFd {
    // SAFETY: no pointers; the tests that use a number are the only ones that use it.
    unsafe {
        assert_eq!(libc::dup2(fd.as_raw_fd(), number), number);
        OwnedFd::from_raw_fd(number)
    }
}

// ------------------------------------------------------------------------------------------------ rows

#[test]
fn row_1_a_hang_up_before_the_registration_is_seen() {
    let (ours, peer) = tcp_pair();
    drop(peer);
    has_arrived(&ours, libc::POLLRDHUP);
    run(async { Async::new(ours)?.closed().await });
}

#[test]
fn row_1_data_from_before_the_registration_is_reported_once() {
    if skip_if(backend() == Backend::Poll, "poll(2) is asked only when somebody waits") {
        return;
    }
    let (ours, mut peer) = tcp_pair();
    peer.write_all(b"early").unwrap();
    has_arrived(&ours, libc::POLLIN);
    let reactor = Reactor::new().unwrap();
    let _ours = register(&reactor, ours);
    // It can be written to as well, for which kqueue has another event.
    let events = if backend() == Backend::Kqueue { 2 } else { 1 };
    assert_eq!(reactor.turn(Some(Duration::ZERO)).unwrap().events, events);
    assert_eq!(reactor.turn(Some(Duration::ZERO)).unwrap().events, 0);
}

#[test]
fn row_2_after_a_partial_read_the_rest_is_there_without_another_event() {
    let reactor = Reactor::new().unwrap();
    let ((tcp, mut tcp_peer), (unix, mut unix_peer)) = (tcp_pair(), UnixStream::pair().unwrap());
    let (tcp, unix) = (register(&reactor, tcp), register(&reactor, unix));
    check(&reactor, &tcp, &mut tcp_peer);
    check(&reactor, &unix, &mut unix_peer);

    fn check<T: AsRawFd>(reactor: &Reactor, ours: &Async<T>, peer: &mut impl Write)
    where
        for<'a> &'a T: Read,
    {
        reactor.enter(|| {
            let (wakes, waker) = Wakes::new();
            let mut buf = [0; 3];
            let mut ours_mut = ours;
            assert!(poll(&mut ours_mut.read(&mut buf), &waker).is_pending());
            peer.write_all(b"0123456789").unwrap();
            have_arrived(ours, 10);
            turn_until(reactor, || wakes.count() == 1);
            // No turn from here on.
            let mut all = Vec::new();
            while let Poll::Ready(n) = poll(&mut ours_mut.read(&mut buf), &waker) {
                all.extend_from_slice(&buf[..n.unwrap()]);
            }
            assert_eq!(all, b"0123456789");
        });
    }
}

#[test]
fn row_3_data_and_fin_in_one_edge_are_data_and_then_the_end() {
    run(async {
        let (ours, mut peer) = tcp_pair();
        let mut ours = Async::new(ours)?;
        let mut buf = [0; 64];
        // From here on it knows only what an event says.
        assert!(future::poll_once(ours.read(&mut buf)).await.is_none());
        peer.write_all(b"last words")?;
        drop(peer);
        has_arrived(&ours, libc::POLLIN | libc::POLLRDHUP);
        assert_eq!(ours.read(&mut buf).await?, 10, "a short read");
        assert_eq!(ours.read(&mut buf).await?, 0);
        assert_eq!(ours.read(&mut buf).await?, 0, "the end stays");
        Ok(())
    });
}

#[test]
fn row_4_what_lies_behind_urgent_data_is_read() {
    run(async {
        let (ours, mut peer) = tcp_pair();
        let mut ours = Async::new(ours)?;
        let mut buf = [0; 64];
        assert!(future::poll_once(ours.read(&mut buf)).await.is_none());
        peer.write_all(b"before")?;
        // SAFETY: one byte, valid for reads.
        assert_eq!(unsafe { libc::send(peer.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) }, 1);
        peer.write_all(b"after")?;
        has_arrived(&ours, libc::POLLIN | libc::POLLPRI);
        assert_eq!(ours.read(&mut buf).await?, 6, "a read stops at the mark");
        ours.read_exact(&mut buf[..5]).await?;
        assert_eq!(&buf[..5], b"after");
        Ok(())
    });
}

#[test]
fn row_5_what_lies_behind_a_message_with_descriptors_is_read() {
    run(async {
        let (mut ours, mut peer) = Async::<UnixStream>::pair()?;
        let mut buf = [0; 64];
        assert!(future::poll_once(ours.read(&mut buf)).await.is_none());
        peer.write_all(b"before").await?;
        peer.send_fds(b"with", &[peer.as_fd()]).await?;
        peer.write_all(b"after").await?;
        have_arrived(&ours, 15);
        let n = ours.read(&mut buf).await?;
        assert!(n < 15, "a read stops at a message with descriptors");
        ours.read_exact(&mut buf[n..15]).await?;
        assert_eq!(&buf[..15], b"beforewithafter");
        Ok(())
    });
}

#[test]
fn row_6_a_reactor_can_be_waited_for_in_another_one() {
    if skip_if(backend() == Backend::Poll, "it has no descriptor of its own") {
        return;
    }
    let inner = Reactor::new().unwrap();
    let (ours, mut peer) = tcp_pair();
    let ours = register(&inner, ours);
    let (wakes, waker) = Wakes::new();
    inner.enter(|| assert!(poll(&mut (&ours).read(&mut [0; 8]), &waker).is_pending()));
    settle(&inner);
    let outer = Reactor::new().unwrap();
    outer.enter(|| {
        run(async {
            let inside = Async::new(inner.as_fd())?;
            assert!(future::poll_once(inside.readable()).await.is_none());
            peer.write_all(b"x")?;
            inside.readable().await?;
            assert_eq!(wakes.count(), 0, "nobody has turned it");
            assert_eq!(inner.turn(Some(Duration::ZERO))?.woken, 1);
            assert_eq!(wakes.count(), 1);
            Ok(())
        });
    });
}

#[test]
fn row_7_after_a_short_write_the_rest_goes_out_when_the_peer_has_read() {
    let reactor = Reactor::new().unwrap();
    let (ours, mut peer) = tcp_pair();
    let ours = register(&reactor, ours);
    settle(&reactor);
    reactor.enter(|| {
        let (wakes, waker) = Wakes::new();
        let data = vec![7; 64 << 20];
        let Poll::Ready(Ok(first)) = poll(&mut (&ours).write(&data), &waker) else {
            panic!("a fresh connection takes something")
        };
        assert!(first < data.len(), "{first}: not a short write");
        settle(&reactor);
        // It may take a little more: the kernel has sent some of it by now.
        let mut sent = first;
        while let Poll::Ready(n) = poll(&mut (&ours).write(&data[sent..]), &waker) {
            sent += n.unwrap();
        }
        settle(&reactor);
        let before = wakes.count();
        let reader = thread::spawn(move || peer.read_exact(&mut vec![0; sent]).map(|()| peer));
        turn_until(&reactor, || wakes.count() > before);
        let _peer = reader.join().unwrap().unwrap();
        assert!(matches!(poll(&mut (&ours).write(b"more"), &waker), Poll::Ready(Ok(4))));
    });
}

/// Is there an owner already, who is not to be disturbed?
fn assert_taken(second: io::Result<Async<Number>>) {
    let error = second.expect_err("two owners of one descriptor");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("one Async per descriptor"), "{error}");
}

async fn works(ours: &Async<TcpStream>, peer: &mut TcpStream) -> io::Result<()> {
    let mut buf = [0; 4];
    let (mut ours_read, mut ours_write) = (ours, ours);
    let mut read = pin!(ours_read.read_exact(&mut buf));
    assert!(future::poll_once(read.as_mut()).await.is_none());
    peer.write_all(b"ping")?;
    read.await?;
    ours_write.write_all(&buf).await?;
    peer.read_exact(&mut buf)?;
    assert_eq!(&buf, b"ping");
    Ok(())
}

#[test]
fn row_8_a_second_owner_in_the_same_reactor_is_refused_and_the_first_not_disturbed() {
    let (ours, mut peer) = tcp_pair();
    run(async {
        let ours = Async::new(ours)?;
        assert_taken(Async::new(Number(ours.as_raw_fd())));
        works(&ours, &mut peer).await?;
        assert_taken(Async::new(Number(ours.as_raw_fd())));
        works(&ours, &mut peer).await
    });
}

#[test]
fn row_8_a_second_owner_in_another_reactor_is_refused_and_the_first_not_disturbed() {
    let (first, second) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let (ours, mut peer) = tcp_pair();
    let ours = register(&first, ours);
    second.enter(|| assert_taken(Async::new(Number(ours.as_raw_fd()))));
    assert_taken(Async::new(Number(ours.as_raw_fd())));
    first.enter(|| run(works(&ours, &mut peer)));
}

#[test]
fn row_8_a_second_owner_on_a_core_is_refused_and_the_first_not_disturbed() {
    let cores = Cores::new(2).unwrap();
    let (ours, mut peer) = tcp_pair();
    let ours = Arc::new(Async::new(ours).unwrap());
    for core in cores.handles() {
        let ours = ours.clone();
        let second = core.spawn(async move || assert_taken(Async::new(Number(ours.as_raw_fd()))));
        block_on(within(second)).unwrap();
    }
    run(works(&ours, &mut peer));
    // And the other way round.
    let (theirs, mut peer) = tcp_pair();
    let theirs = block_on(cores.spawn(async move || Arc::new(Async::new(theirs).unwrap()))).unwrap();
    assert_taken(Async::new(Number(theirs.as_raw_fd())));
    run(works(&theirs, &mut peer));
}

#[test]
fn row_8_a_second_owner_is_refused_also_when_the_reactor_of_the_first_has_gone() {
    let (ours, mut peer) = tcp_pair();
    let executor = LocalExecutor::new().unwrap();
    let ours = executor.enter(|| Async::new(ours)).unwrap();
    drop(executor);
    assert_taken(Async::new(Number(ours.as_raw_fd())));
    run(works(&ours, &mut peer));
}

#[test]
fn row_8_the_attempt_of_a_second_owner_wakes_nobody() {
    let reactor = Reactor::new().unwrap();
    let (ours, _peer) = tcp_pair();
    let ours = register(&reactor, ours);
    let (wakes, waker) = Wakes::new();
    reactor.enter(|| assert!(poll(&mut (&ours).read(&mut [0; 8]), &waker).is_pending()));
    settle(&reactor);
    assert_taken(Async::new(Number(ours.as_raw_fd())));
    settle(&reactor);
    assert_eq!(wakes.count(), 0);
}

#[test]
fn row_9_after_a_drop_nothing_is_heard_of_a_file_that_lives_on_under_another_name() {
    let reactor = Reactor::new().unwrap();
    let (ours, mut peer) = tcp_pair();
    let other_name = ours.try_clone().unwrap();
    let ours = register(&reactor, ours);
    let (wakes, waker) = Wakes::new();
    reactor.enter(|| assert!(poll(&mut (&ours).read(&mut [0; 8]), &waker).is_pending()));
    settle(&reactor);
    drop(ours);
    peer.write_all(b"x").unwrap();
    has_arrived(&other_name, libc::POLLIN);
    let (started, timeout) = (Instant::now(), Duration::from_millis(10));
    assert_eq!(reactor.turn(Some(timeout)).unwrap().events, 0);
    assert!(started.elapsed() >= timeout, "the selector tells of it");
    assert_eq!(wakes.count(), 0);
}

#[test]
fn row_9_an_event_of_the_last_owner_of_a_number_does_not_reach_the_next() {
    const NUMBER: RawFd = 901;
    let reactor = Reactor::new().unwrap();
    let ((ours, mut peer), (next, _next_peer)) = (tcp_pair(), tcp_pair());
    let (_wakes, waker) = Wakes::new();
    let first = register(&reactor, duplicate_to(&ours, NUMBER));
    settle(&reactor);
    assert!(poll(&mut first.readable(), &waker).is_pending());
    // There is an event, and nobody has taken it yet.
    peer.write_all(b"x").unwrap();
    has_arrived(&ours, libc::POLLIN);
    drop(first);
    let second = register(&reactor, duplicate_to(&next, NUMBER));
    let (wakes, waker) = Wakes::new();
    let mut readable = second.readable();
    reactor.enter(|| assert!(poll(&mut readable, &waker).is_pending()));
    settle(&reactor);
    assert_eq!(wakes.count(), 0, "somebody else's event");
}

#[test]
fn row_9_a_number_that_was_closed_behind_our_back_serves_its_next_owner() {
    const NUMBER: RawFd = 902;
    run(async {
        let ((ours, mut peer), (next, mut next_peer)) = (tcp_pair(), tcp_pair());
        let number = duplicate_to(&ours, NUMBER);
        let _first = Async::new(Number(NUMBER))?;
        drop(number);
        // Its file lives on as `ours`, so the kernel has not forgotten it.
        let second = Async::new(TcpStream::from(duplicate_to(&next, NUMBER)))?;
        peer.write_all(b"not for you")?;
        works(&second, &mut next_peer).await
    });
}

#[test]
fn row_9_an_owner_who_ends_after_his_number_has_passed_on_does_not_disturb_the_next() {
    const NUMBER: RawFd = 903;
    run(async {
        let ((ours, _peer), (next, mut next_peer)) = (tcp_pair(), tcp_pair());
        let number = duplicate_to(&ours, NUMBER);
        let first = Async::new(Number(NUMBER))?;
        drop(number);
        let second = Async::new(TcpStream::from(duplicate_to(&next, NUMBER)))?;
        works(&second, &mut next_peer).await?;
        drop(first);
        works(&second, &mut next_peer).await
    });
}

#[test]
fn row_10_a_regular_file_or_a_directory_is_refused_with_advice() {
    for path in [file!(), "."] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let error = Async::new(File::open(&path).unwrap()).expect_err("it can be waited for?");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = error.to_string();
        assert!(text.contains("regular file") && text.contains("blocking I/O on a thread"), "{text}");
        assert_eq!(os_error(&error), Some(libc::EPERM));
    }
}

#[test]
fn row_10_a_closed_descriptor_is_refused() {
    const NUMBER: RawFd = 904;
    let error = Async::new(Number(NUMBER)).expect_err("it is closed");
    assert!(error.to_string().to_lowercase().contains("descriptor"), "{error}");
    let error = Async::new_nonblocking(Number(NUMBER)).expect_err("it is closed");
    assert!(error.to_string().contains("descriptor 904"), "{error}");
    assert!(error.to_string().contains("closed"), "{error}");
    assert_eq!(os_error(&error), Some(libc::EBADF));
    assert_eq!(error.kind(), io::Error::from_raw_os_error(libc::EBADF).kind());
}

#[test]
fn row_11_of_two_reactors_that_share_a_listener_one_gets_each_connection() {
    const CONNECTIONS: usize = 100;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let cores = Cores::new(2).unwrap();
    let (sender, accepted) = mpsc::channel();
    for core in cores.handles() {
        let (listener, sender) = (listener.try_clone().unwrap(), sender.clone());
        let accept = move || async move {
            let listener = Async::new(listener).unwrap();
            loop {
                sender.send(listener.accept().await.unwrap().1).unwrap();
            }
        };
        core.spawn(accept).detach();
    }
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let mut expected: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
    let mut found: Vec<_> = clients.iter().map(|_| accepted.recv_timeout(PATIENCE).unwrap()).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn row_12_data_that_arrives_does_not_wake_a_writer_who_has_no_room() {
    let reactor = Reactor::new().unwrap();
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let ours = register(&reactor, ours);
    let ((reads, reader), (writes, writer)) = (Wakes::new(), Wakes::new());
    reactor.enter(|| {
        while poll(&mut (&ours).write(&[0; 4096]), &writer).is_ready() {}
        settle(&reactor);
        while poll(&mut (&ours).write(&[0; 4096]), &writer).is_ready() {}
        let before = writes.count();
        assert!(poll(&mut (&ours).read(&mut [0; 8]), &reader).is_pending());
        peer.write_all(b"x").unwrap();
        turn_until(&reactor, || reads.count() == 1);
        settle(&reactor);
        assert_eq!(writes.count(), before);
    });
}

#[test]
fn row_13_a_level_check_of_one_direction_is_no_event_for_the_other() {
    let reactor = Reactor::new().unwrap();
    let (ours, _peer) = tcp_pair();
    let ours = register(&reactor, ours);
    settle(&reactor);
    let ((reads, reader), (_, writer)) = (Wakes::new(), Wakes::new());
    reactor.enter(|| {
        let mut readable = ours.readable();
        assert!(poll(&mut readable, &reader).is_pending());
        for _ in 0..10 {
            assert!(poll(&mut ours.writable(), &writer).is_ready(), "it has room");
        }
        settle(&reactor);
        assert_eq!(reads.count(), 0);
    });
}

#[test]
fn row_14_a_level_check_takes_nobodys_event_away() {
    let reactor = Reactor::new().unwrap();
    let (ours, mut peer) = tcp_pair();
    let ours = register(&reactor, ours);
    let ((wakes, waker), (_, other)) = (Wakes::new(), Wakes::new());
    reactor.enter(|| {
        assert!(poll(&mut (&ours).read(&mut [0; 8]), &waker).is_pending());
        settle(&reactor);
        peer.write_all(b"x").unwrap();
        has_arrived(&ours, libc::POLLIN);
        // Before the reactor has told the first.
        assert!(poll(&mut ours.readable(), &other).is_ready());
        turn_until(&reactor, || wakes.count() > 0);
        assert!(poll(&mut (&ours).read(&mut [0; 8]), &waker).is_ready());
    });
}

// ----------------------------------------------------------------------------------------------- points

#[test]
fn bite_1_a_reactor_of_ones_own_needs_no_thread() {
    in_a_process_of_its_own("bite_1_a_reactor_of_ones_own_needs_no_thread", || {
        let before = thread_names();
        let reactor = Reactor::new().unwrap();
        let (ours, mut peer) = tcp_pair();
        let ours = register(&reactor, ours);
        reactor.enter(|| {
            let (wakes, waker) = Wakes::new();
            let (mut read, mut timer) = (pin!(ours.readable()), Timer::after(Duration::from_millis(50)));
            assert!(poll(&mut read, &waker).is_pending());
            assert!(poll(&mut timer, &waker).is_pending());
            peer.write_all(b"x").unwrap();
            turn_until(&reactor, || wakes.count() == 2);
        });
        assert_eq!(thread_names(), before);
    });
}

#[test]
fn bite_2_readiness_that_comes_in_the_turn_of_the_last_one_is_not_ignored() {
    // With the rule "not the tick that I saw when I began to wait" this takes a turn more, or hangs.
    let reactor = Reactor::new().unwrap();
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let ours = register(&reactor, ours);
    settle(&reactor);
    reactor.enter(|| {
        for round in 0..100 {
            let (wakes, waker) = Wakes::new();
            let mut readable = ours.readable();
            assert!(poll(&mut readable, &waker).is_pending(), "spurious in round {round}");
            peer.write_all(b"x").unwrap();
            assert_eq!(reactor.turn(Some(PATIENCE)).unwrap().woken, 1);
            assert_eq!(wakes.count(), 1);
            assert!(poll(&mut readable, &waker).is_ready());
            assert_eq!(ours.get_ref().read(&mut [0; 8]).unwrap(), 1);
        }
    });
}

#[test]
fn bite_3_an_operation_that_is_always_ready_does_not_starve_the_other_side_of_a_select() {
    const MANY: u64 = 20_000_000;
    let (ours, mut peer) = tcp_pair();
    peer.write_all(b"x").unwrap();
    run(async {
        let ours = Async::new(ours)?;
        let always = async {
            for _ in 0..MANY {
                // The byte stays where it is.
                assert_eq!(ours.peek(&mut [0; 8]).await?, 1);
            }
            panic!("the timer had no chance")
        };
        let timer = async {
            sleep(Duration::from_millis(1)).await;
            Ok(())
        };
        future::or(timer, always).await
    });
}

#[test]
fn bite_4_futures_work_under_any_executor() {
    let test = || async {
        let (ours, peer) = tcp_pair();
        let (mut ours, mut peer) = (Async::new(ours)?, Async::new(peer)?);
        let mut buf = [0; 4];
        assert!(future::poll_once(ours.read(&mut buf)).await.is_none());
        peer.write_all(b"ping").await?;
        ours.read_exact(&mut buf).await?;
        sleep(Duration::from_millis(1)).await;
        io::Result::Ok(())
    };
    future::block_on(within(test())).unwrap();
    block_on(within(test())).unwrap();
    LocalExecutor::new().unwrap().block_on(within(test())).unwrap();
    // A loop that knows nothing, not even how to sleep.
    let mut future = pin!(within(test()));
    let result = loop {
        match poll(&mut future, Waker::noop()) {
            Poll::Ready(result) => break result,
            Poll::Pending => thread::yield_now(),
        }
    };
    result.unwrap();
}

#[test]
fn bite_5_connections_that_come_and_go_never_meet_anothers_registration() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    run(async {
        let listener = Async::new(listener)?;
        for round in 0..300_u32 {
            let (client, accepted) =
                future::try_zip(Async::<TcpStream>::connect(addr), listener.accept()).await?;
            let (mut client, mut server) = (client, accepted.0);
            server.write_all(&round.to_le_bytes()).await?;
            let mut buf = [0; 4];
            client.read_exact(&mut buf).await?;
            assert_eq!(u32::from_le_bytes(buf), round);
            // In every order, also by way of the inner type.
            match round % 3 {
                0 => drop(client),
                1 => drop(client.into_inner()?.into_raw_fd()),
                _ => drop((server, client.into_inner()?)),
            }
        }
        Ok(())
    });
}

#[test]
fn bite_6_a_hang_up_is_noticed_without_reading() {
    run(async {
        let (ours, mut peer) = tcp_pair();
        let ours = Async::new(ours)?;
        peer.write_all(b"unread")?;
        let mut closed = pin!(ours.closed());
        assert!(future::poll_once(closed.as_mut()).await.is_none(), "data is no hang-up");
        peer.shutdown(Shutdown::Write)?;
        closed.await?;
        let mut text = String::new();
        (&ours).read_to_string(&mut text).await?;
        assert_eq!(text, "unread");
        Ok(())
    });
}

#[test]
fn bite_7_the_wakers_go_with_the_async() {
    let (ours, _peer) = tcp_pair();
    let ours = Arc::new(Async::new(ours).unwrap());
    let (wakes, waker) = Wakes::new();
    assert!(poll(&mut (&*ours).read(&mut [0; 8]), &waker).is_pending());
    let mut readable = ours.clone().readable_owned();
    let mut closed = Box::pin(ours.closed());
    assert!(poll(&mut readable, &waker).is_pending());
    assert!(poll(&mut closed, &waker).is_pending());
    drop(waker);
    assert_eq!(Arc::strong_count(&wakes), 4);
    drop(closed);
    drop(readable);
    assert_eq!(Arc::strong_count(&wakes), 2, "they went with the futures");
    drop(ours);
    assert_eq!(Arc::strong_count(&wakes), 1);
    assert_eq!(wakes.count(), 0);
}

#[test]
fn bite_7_the_wakers_go_with_the_reactor() {
    let reactor = Reactor::new().unwrap();
    let (ours, _peer) = tcp_pair();
    let ours = register(&reactor, ours);
    let (wakes, waker) = Wakes::new();
    let (mut readable, mut timer) = (ours.readable(), Timer::after(PATIENCE));
    reactor.enter(|| {
        assert!(poll(&mut (&ours).read(&mut [0; 8]), &waker).is_pending());
        assert!(poll(&mut readable, &waker).is_pending());
        assert!(poll(&mut timer, &waker).is_pending());
    });
    drop(waker);
    assert_eq!(Arc::strong_count(&wakes), 4);
    drop(reactor);
    assert_eq!(Arc::strong_count(&wakes), 1);
    assert_eq!(wakes.count(), 3, "they are told to look for another");
}

#[test]
fn bite_7_a_task_that_owns_its_socket_and_its_waker_is_freed_with_its_executor() {
    struct Freed(mpsc::Sender<()>);
    impl Drop for Freed {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let (sender, freed) = mpsc::channel();
    let executor = LocalExecutor::new().unwrap();
    let (ours, _peer) = tcp_pair();
    executor
        .spawn(async move {
            let _freed = Freed(sender);
            let mut ours = Async::new(ours).unwrap();
            ours.read(&mut [0; 8]).await
        })
        .detach();
    executor.block_on(async { sleep(Duration::from_millis(1)).await });
    drop(executor);
    freed.try_recv().expect("the task was dropped");
}

#[test]
fn bite_7_wakers_that_fire_while_an_executor_is_dropped_do_no_harm() {
    for _ in 0..50 {
        let (ours, peer) = tcp_pair();
        // A socket of the shared reactor, so that another thread wakes the tasks of this one.
        let ours = Arc::new(Async::new(ours).unwrap());
        let executor = LocalExecutor::new().unwrap();
        for _ in 0..10 {
            let ours = ours.clone();
            executor.spawn(async move { ours.readable().await }).detach();
        }
        executor.block_on(async { sleep(Duration::from_micros(100)).await });
        let writer = thread::spawn(move || (&peer).write_all(b"x").map(|()| peer));
        drop(executor);
        writer.join().unwrap().unwrap();
    }
}

#[test]
fn bite_11_standard_input_is_a_descriptor_like_any_other() {
    in_a_process_of_its_own("bite_11_standard_input_is_a_descriptor_like_any_other", || {
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let stdin = duplicate_to(&ours, 0);
        run(async {
            let mut stdin = Async::new(File::from(stdin))?;
            assert_eq!(stdin.as_raw_fd(), 0);
            let mut buf = [0; 8];
            assert!(future::poll_once(stdin.read(&mut buf)).await.is_none());
            peer.write_all(b"typed")?;
            assert_eq!(stdin.read(&mut buf).await?, 5);
            Ok(())
        });
        let stdin = duplicate_to(&file, 0);
        let error = Async::new(stdin).expect_err("a regular file");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn bite_12_an_earlier_timer_interrupts_a_wait_for_a_later_one() {
    let (sender, receiver) = mpsc::channel();
    let first = thread::spawn(move || {
        // Waits in the shared reactor for as long as the test takes.
        run(async {
            let (ours, peer) = tcp_pair();
            sender.send(peer).unwrap();
            Async::new(ours)?.closed().await
        });
    });
    let peer = receiver.recv_timeout(PATIENCE).unwrap();
    for _ in 0..20 {
        run(async { Ok(sleep(Duration::from_millis(1)).await) });
    }
    drop(peer);
    first.join().unwrap();
}

#[test]
fn bite_12_a_timer_of_another_thread_interrupts_a_turn_without_end() {
    let reactor = Reactor::new().unwrap();
    let handle = reactor.handle();
    let (wakes, waker) = Wakes::new();
    let other = thread::spawn(move || {
        let mut timer = handle.enter(|| Timer::after(Duration::from_millis(50)));
        handle.enter(|| assert!(poll(&mut timer, &waker).is_pending()));
        timer
    });
    let deadline = Instant::now() + PATIENCE;
    while wakes.count() == 0 {
        assert!(Instant::now() < deadline);
        reactor.turn(None).unwrap();
    }
    let mut timer = other.join().unwrap();
    assert!(poll(&mut timer, Waker::noop()).is_ready());
}

#[test]
fn bite_12_a_timer_that_is_due_now_or_was_due_before_is_ready_at_once() {
    let now = Instant::now();
    for at in [now, now - Duration::from_millis(1), now + Duration::from_nanos(1)] {
        assert_eq!(run(async { Ok(Timer::at(at).await) }), at);
    }
}

#[test]
fn bite_15_what_must_be_set_before_binding_can_be() {
    let addr: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    let first = SocketOptions::new().reuse_port().listen(addr).unwrap();
    let second = SocketOptions::new().reuse_port().listen(first.get_ref().local_addr().unwrap());
    second.expect("two listeners on one port");
}

#[test]
fn bite_15_a_reader_with_reasons_of_its_own_to_say_would_block_lets_others_run() {
    /// Like a TLS session that waits for something else than bytes.
    struct Never(TcpStream);
    impl AsFd for Never {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl Read for &Never {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }
    }
    let (ours, mut peer) = tcp_pair();
    peer.write_all(b"x").unwrap();
    LocalExecutor::new().unwrap().block_on(within(async {
        let ours = Async::new(Never(ours)).unwrap();
        ours.readable().await.unwrap();
        let mut ours_read = &ours;
        let spinning = async { drop(ours_read.read(&mut [0; 8]).await) };
        let retrying = async {
            drop(
                ours.read_with(|io| {
                    let mut io = io;
                    io.read(&mut [0; 8])
                })
                .await,
            )
        };
        let other = spawn_local(async { sleep(Duration::from_millis(5)).await });
        let other = async {
            let _ = other.await.unwrap();
        };
        future::or(other, future::or(spinning, retrying)).await;
    }));
}

#[test]
fn the_document_names_tests_that_exist_and_all_of_these() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |path: &str| std::fs::read_to_string(dir.join(path)).expect(path);
    let here = text("tests/kernel.rs");
    let (document, mut file, mut named) = (text("docs/kernel.md"), here.clone(), Vec::new());
    // What stands in code quotes.
    for quoted in document.split('`').skip(1).step_by(2) {
        if quoted.ends_with(".rs") {
            file = text(quoted);
        } else if quoted.starts_with("row_") || quoted.starts_with("bite_") || quoted.matches('_').count() > 2
        {
            let function = format!("fn {quoted}(");
            let is_there = file.contains(&function) || here.contains(&function);
            assert!(is_there, "{quoted} is not in the file that stands before it");
            named.push(quoted);
        }
    }
    for name in here.lines().filter_map(|line| line.strip_prefix("fn ")?.split('(').next()) {
        let is_one = name.starts_with("row_") || name.starts_with("bite_");
        assert!(!is_one || named.contains(&name), "docs/kernel.md does not name {name}");
    }
}

#[test]
fn every_test_here_runs_on_the_backend_that_was_asked_for() {
    assert_eq!(Reactor::new().unwrap().backend(), backend());
}
