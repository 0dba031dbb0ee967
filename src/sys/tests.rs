//! What the reactor relies on, of each backend that there is here. A test that is named after a row shows one of
//! the facts of `docs/kernel.md` (`tests/kernel.rs` has the same rows for the whole crate).

use super::*;
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// Long enough for the slowest machine: it only passes when a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

const TOKEN: u64 = 7;

/// A poller and what a reactor would do with it.
struct Bench {
    poller: Poller,
    events: Events,
}

/// Runs a test on every backend. The last one that is printed is the one that failed.
fn each(test: impl Fn(Bench)) {
    for backend in [Backend::NATIVE, Backend::Poll] {
        eprintln!("backend: {backend}");
        test(Bench::new(backend));
    }
}

/// Says why a test has nothing to show over libkqueue, if it is there.
fn skip_on_libkqueue(why: &str) -> bool {
    if cfg!(wakewheel_libkqueue) {
        eprintln!("skipped on libkqueue: {why}");
    }
    cfg!(wakewheel_libkqueue)
}

impl Bench {
    fn new(backend: Backend) -> Bench {
        Bench { poller: Poller::new(backend).unwrap(), events: Events::default() }
    }

    fn is(&self, backend: Backend) -> bool {
        self.poller.backend() == backend
    }

    fn add(&self, fd: &impl AsRawFd, token: u64) {
        self.poller.add(fd.as_raw_fd(), token).unwrap();
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Vec<Event> {
        self.poller.wait(&mut self.events, timeout).unwrap();
        assert_eq!(self.events.len(), self.events.iter().count());
        self.events.iter().collect()
    }

    /// Waits for one thing as a task does, and returns all that it was told of `token` until then.
    fn wait_for(&mut self, fd: &impl AsRawFd, token: u64, interest: Ready) -> Ready {
        self.poller.arm(fd.as_raw_fd(), token, interest);
        self.wait_until(token, interest)
    }

    fn wait_until(&mut self, token: u64, interest: Ready) -> Ready {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Ready::default();
        while !seen.contains(interest) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waits for {interest:?} of {token}, has seen {seen:?}");
            for event in self.wait(Some(left)) {
                assert_eq!(event.token, token, "a stranger's event: {event:?}");
                seen |= event.ready;
            }
        }
        seen
    }

    /// Forgets what is ready by now: a new socket is writable.
    fn settle(&mut self) {
        while !self.wait(Some(Duration::ZERO)).is_empty() {}
    }

    #[track_caller]
    fn assert_quiet(&mut self) {
        assert_eq!(self.wait(Some(Duration::ZERO)), []);
    }
}

/// Ends a thread that waits for a notification, also if the test fails.
struct NotifyAtLast<'a>(&'a Poller);

impl Drop for NotifyAtLast<'_> {
    fn drop(&mut self) {
        self.0.notify();
    }
}

/// Two connected sockets: ours, which does not block, and the peer's, which does.
fn unix_pair() -> (UnixStream, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, peer)
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, peer)
}

fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: there is room for both descriptors, which are ours alone.
    unsafe {
        check(libc::pipe(fds.as_mut_ptr())).unwrap();
        (File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1]))
    }
}

/// The limit on descriptors, once it is high enough for these tests.
fn descriptor_limit() -> RawFd {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes, and for reads.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit)).unwrap();
        limit.rlim_cur = limit.rlim_cur.max(4096);
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit)).unwrap();
    }
    limit.rlim_cur.min(8192) as RawFd
}

/// One of the highest numbers that a descriptor can have: no other test, in another thread, is given it.
fn high_fd(nth: RawFd) -> RawFd {
    descriptor_limit() - nth
}

/// Another name for a file, with this number.
fn duplicate_to(file: &impl AsRawFd, number: RawFd) -> RawFd {
    // SAFETY: no pointers; whoever calls this owns what has that number.
    check(unsafe { libc::dup2(file.as_raw_fd(), number) }).unwrap()
}

// ---- The table ----

#[test]
fn row_1_what_is_ready_already_is_reported_and_only_once() {
    each(|mut bench| {
        let (ours, mut peer) = unix_pair();
        peer.write_all(b"x").unwrap();
        bench.add(&ours, TOKEN);
        bench.wait_for(&ours, TOKEN, Ready::READABLE);
        bench.assert_quiet();
    });
}

#[test]
fn row_2_a_partial_read_makes_no_event_but_new_data_does() {
    each(|mut bench| {
        let (mut ours, mut peer) = unix_pair();
        bench.add(&ours, TOKEN);
        peer.write_all(b"xy").unwrap();
        bench.wait_for(&ours, TOKEN, Ready::READABLE);
        assert_eq!(ours.read(&mut [0]).unwrap(), 1);
        bench.assert_quiet();
        peer.write_all(b"z").unwrap();
        bench.wait_for(&ours, TOKEN, Ready::READABLE);
    });
}

#[test]
fn row_3_data_and_the_end_come_together() {
    each(|mut bench| {
        // poll(2) has no word for the end everywhere.
        let end = if bench.is(Backend::Poll) && poll::mask(Ready::READ_CLOSED) == 0 {
            Ready::READABLE
        } else {
            Ready::READABLE | Ready::READ_CLOSED
        };
        let (mut ours, mut peer) = tcp_pair();
        bench.add(&ours, TOKEN);
        bench.settle();
        peer.write_all(b"last words").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        // The two packets may arrive one by one.
        bench.wait_for(&ours, TOKEN, end);
        assert_eq!(ours.read(&mut [0; 64]).unwrap(), 10);
        bench.assert_quiet();
        assert_eq!(ours.read(&mut [0; 64]).unwrap(), 0);
    });
}

#[test]
fn row_3_the_end_behind_unread_data_is_seen() {
    each(|mut bench| {
        if bench.is(Backend::Poll) && poll::mask(Ready::READ_CLOSED) == 0 {
            return;
        }
        let (ours, mut peer) = unix_pair();
        bench.add(&ours, TOKEN);
        peer.write_all(b"unread").unwrap();
        bench.wait_for(&ours, TOKEN, Ready::READABLE);
        bench.settle();
        peer.shutdown(Shutdown::Write).unwrap();
        bench.wait_for(&ours, TOKEN, Ready::READ_CLOSED);
    });
}

#[test]
fn row_4_what_lies_behind_an_urgent_mark_is_not_lost() {
    each(|mut bench| {
        let (mut ours, mut peer) = tcp_pair();
        bench.add(&ours, TOKEN);
        bench.settle();
        peer.write_all(b"ab").unwrap();
        // SAFETY: the buffer is valid for one byte.
        let sent = unsafe { libc::send(peer.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        peer.write_all(b"de").unwrap();
        // Edge-triggered, the event has to say that there is a mark. poll(2) is asked again.
        let first = if bench.is(Backend::Poll) { Ready::READABLE } else { Ready::READABLE | Ready::PRIORITY };
        bench.wait_for(&ours, TOKEN, first);
        let mut buf = [0; 64];
        assert_eq!(ours.read(&mut buf).unwrap(), 2, "stops at the mark");
        if bench.is(Backend::Poll) {
            bench.wait_for(&ours, TOKEN, Ready::READABLE);
        }
        assert_eq!(ours.read(&mut buf).unwrap(), 2);
        assert_eq!(buf[..2], *b"de");
    });
}

#[test]
fn row_6_a_poller_is_readable_when_it_has_events() {
    each(|mut outer| {
        let mut inner = Bench::new(Backend::NATIVE);
        if inner.is(Backend::Poll) {
            return;
        }
        let (ours, mut peer) = unix_pair();
        inner.add(&ours, TOKEN);
        inner.settle();
        let inner_fd = inner.poller.as_fd().as_raw_fd();
        outer.add(&inner_fd, TOKEN + 1);
        outer.assert_quiet();
        peer.write_all(b"x").unwrap();
        outer.wait_for(&inner_fd, TOKEN + 1, Ready::READABLE);
        inner.wait_for(&ours, TOKEN, Ready::READABLE);
        assert_eq!(level(inner_fd, Ready::READABLE).unwrap(), Ready::default());
    });
}

#[test]
fn row_7_a_short_write_is_enough_for_the_next_event() {
    each(|mut bench| {
        let (mut ours, mut peer) = tcp_pair();
        bench.add(&ours, TOKEN);
        bench.settle();
        let much = vec![0; 32 << 20];
        let written = ours.write(&much).unwrap();
        assert!(written < much.len());
        peer.read_exact(&mut vec![0; written]).unwrap();
        bench.wait_for(&ours, TOKEN, Ready::WRITABLE);
    });
}

#[test]
fn row_8_two_pollers_hear_of_one_descriptor() {
    each(|mut bench| {
        let mut other = Bench::new(Backend::NATIVE);
        let (ours, mut peer) = unix_pair();
        bench.add(&ours, TOKEN);
        other.add(&ours, TOKEN + 1);
        peer.write_all(b"x").unwrap();
        bench.wait_for(&ours, TOKEN, Ready::READABLE);
        other.wait_for(&ours, TOKEN + 1, Ready::READABLE);
    });
}

#[test]
fn row_8_a_second_add_is_refused_where_it_can_be() {
    each(|mut bench| {
        let (ours, mut peer) = unix_pair();
        bench.add(&ours, TOKEN);
        let second = bench.poller.add(ours.as_raw_fd(), TOKEN + 1);
        if bench.is(Backend::Kqueue) {
            // It changes the token, so that whoever adds has to know.
            second.unwrap();
            bench.poller.add(ours.as_raw_fd(), TOKEN).unwrap();
        } else {
            assert_eq!(second.unwrap_err().kind(), ErrorKind::AlreadyExists);
        }
        assert!(bench.poller.holds(ours.as_raw_fd(), TOKEN));
        bench.settle();
        peer.write_all(b"x").unwrap();
        bench.wait_for(&ours, TOKEN, Ready::READABLE);
    });
}

#[test]
fn row_9_a_file_closed_behind_our_back_is_no_longer_held() {
    each(|mut bench| {
        let (first, _first_peer) = unix_pair();
        let (second, mut second_peer) = unix_pair();
        let fd = first.into_raw_fd();
        bench.poller.add(fd, TOKEN).unwrap();
        bench.settle();
        assert!(bench.poller.holds(fd, TOKEN));
        bench.settle();
        // In one step, lest another test gets the number: the first file is closed, the second takes its place.
        duplicate_to(&second, fd);
        // SAFETY: nobody else owns it.
        let reused = unsafe { OwnedFd::from_raw_fd(fd) };
        assert!(!bench.poller.holds(fd, TOKEN));
        bench.add(&reused, TOKEN + 1);
        assert!(bench.poller.holds(fd, TOKEN + 1));
        second_peer.write_all(b"x").unwrap();
        bench.wait_for(&reused, TOKEN + 1, Ready::READABLE);
    });
}

#[test]
fn row_9_the_next_file_with_a_number_can_be_added() {
    each(|mut bench| {
        let (first, _first_peer) = unix_pair();
        let (second, mut second_peer) = unix_pair();
        let fd = first.into_raw_fd();
        bench.poller.add(fd, TOKEN).unwrap();
        bench.settle();
        duplicate_to(&second, fd);
        // SAFETY: nobody else owns it.
        let reused = unsafe { OwnedFd::from_raw_fd(fd) };
        bench.add(&reused, TOKEN + 1);
        second_peer.write_all(b"x").unwrap();
        bench.wait_for(&reused, TOKEN + 1, Ready::READABLE);
    });
}

#[test]
fn row_9_a_closed_descriptor_is_no_longer_held() {
    each(|bench| {
        let (ours, _peer) = unix_pair();
        let fd = duplicate_to(&ours, high_fd(1));
        bench.poller.add(fd, TOKEN).unwrap();
        // SAFETY: made above, and known to nobody else but the poller.
        check(unsafe { libc::close(fd) }).unwrap();
        assert!(!bench.poller.holds(fd, TOKEN));
    });
}

#[test]
fn row_10_a_file_or_a_directory_is_refused() {
    each(|bench| {
        for path in ["Cargo.toml", "/"] {
            let file = File::open(path).unwrap();
            let error = bench.poller.add(file.as_raw_fd(), TOKEN).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{path}");
        }
    });
}

#[test]
fn row_12_an_event_for_one_direction_may_tell_of_the_other() {
    each(|mut bench| {
        let (ours, mut peer) = unix_pair();
        bench.add(&ours, TOKEN);
        bench.settle();
        peer.write_all(b"x").unwrap();
        let seen = bench.wait_for(&ours, TOKEN, Ready::READABLE);
        match bench.poller.backend() {
            Backend::Epoll => assert!(seen.contains(Ready::WRITABLE)),
            Backend::Poll => assert_eq!(seen, Ready::READABLE),
            Backend::Kqueue => {}
        }
    });
}

#[test]
fn row_14_a_level_check_leaves_the_edge_alone() {
    each(|mut bench| {
        let (ours, mut peer) = unix_pair();
        bench.add(&ours, TOKEN);
        bench.settle();
        let both = Ready::READABLE | Ready::WRITABLE;
        assert_eq!(level(ours.as_raw_fd(), both).unwrap(), Ready::WRITABLE);
        peer.write_all(b"x").unwrap();
        assert_eq!(level(ours.as_raw_fd(), Ready::READABLE).unwrap(), Ready::READABLE);
        assert_eq!(level(ours.as_raw_fd(), Ready::WRITABLE).unwrap(), Ready::WRITABLE);
        bench.wait_for(&ours, TOKEN, Ready::READABLE);
    });
}

// ---- add, delete ----

#[test]
fn a_closed_descriptor_is_refused() {
    each(|bench| {
        let error = bench.poller.add(high_fd(2), TOKEN).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    });
}

#[test]
fn both_ends_of_a_pipe_are_watched() {
    each(|mut bench| {
        let (read, mut write) = pipe();
        bench.add(&read, TOKEN);
        bench.settle();
        bench.add(&write, TOKEN + 1);
        bench.wait_for(&write, TOKEN + 1, Ready::WRITABLE);
        write.write_all(b"x").unwrap();
        bench.wait_for(&read, TOKEN, Ready::READABLE);
        bench.poller.delete(write.as_raw_fd()).unwrap();
        drop(write);
        bench.wait_for(&read, TOKEN, Ready::READABLE | Ready::READ_CLOSED);
        bench.poller.delete(read.as_raw_fd()).unwrap();
    });
}

#[test]
fn the_end_of_the_reading_side_is_told_to_the_writing_one() {
    each(|mut bench| {
        let (read, write) = pipe();
        bench.add(&write, TOKEN);
        bench.settle();
        drop(read);
        bench.wait_for(&write, TOKEN, Ready::WRITABLE);
    });
}

#[test]
fn nothing_is_reported_after_a_delete() {
    each(|mut bench| {
        let (ours, mut peer) = unix_pair();
        bench.add(&ours, TOKEN);
        bench.poller.arm(ours.as_raw_fd(), TOKEN, Ready::READABLE);
        peer.write_all(b"x").unwrap();
        bench.poller.delete(ours.as_raw_fd()).unwrap();
        bench.assert_quiet();
        let again = bench.poller.delete(ours.as_raw_fd()).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_token_that_was_deleted_is_not_reported_for_its_successor() {
    each(|mut bench| {
        let (ours, mut peer) = unix_pair();
        peer.write_all(b"x").unwrap();
        for token in 0..100 {
            bench.add(&ours, token);
            bench.wait_for(&ours, token, Ready::READABLE);
            bench.poller.arm(ours.as_raw_fd(), token, Ready::READABLE);
            bench.poller.delete(ours.as_raw_fd()).unwrap();
        }
    });
}

#[test]
fn tokens_have_64_bits() {
    each(|mut bench| {
        let (ours, _peer) = unix_pair();
        for token in [0, 1 << 31, 1 << 32, 1 << 63, 0x0123_4567_89ab_cdef, NOTIFY_TOKEN - 1] {
            bench.add(&ours, token);
            bench.wait_for(&ours, token, Ready::WRITABLE);
            bench.poller.delete(ours.as_raw_fd()).unwrap();
        }
    });
}

#[test]
fn a_close_during_a_wait_reaches_the_peer() {
    const ROUNDS: usize = 200;
    each(|mut bench| {
        let Bench { poller, events } = &mut bench;
        let poller = &*poller;
        thread::scope(|scope| {
            scope.spawn(|| {
                while !tokens(events.iter()).contains(&NOTIFY_TOKEN) {
                    poller.wait(events, None).unwrap();
                }
            });
            let _notify = NotifyAtLast(poller);
            for round in 0..ROUNDS {
                let (ours, mut peer) = unix_pair();
                poller.add(ours.as_raw_fd(), TOKEN).unwrap();
                poller.arm(ours.as_raw_fd(), TOKEN, Ready::READABLE);
                // Long enough, in some rounds, for the other thread to be waiting for it.
                (0..round).for_each(|_| thread::yield_now());
                poller.delete(ours.as_raw_fd()).unwrap();
                drop(ours);
                peer.set_read_timeout(Some(PATIENCE)).unwrap();
                assert_eq!(peer.read(&mut [0]).unwrap(), 0);
            }
        });
    });
}

#[test]
fn a_late_event_does_not_disarm_a_successor() {
    const ROUNDS: u64 = 200;
    each(|mut bench| {
        let Bench { poller, events } = &mut bench;
        let poller = &*poller;
        let (sender, receiver) = mpsc::channel();
        let (mut ours, mut peer) = unix_pair();
        let fd = ours.as_raw_fd();
        thread::scope(|scope| {
            scope.spawn(move || {
                while !tokens(events.iter()).contains(&NOTIFY_TOKEN) {
                    poller.wait(events, None).unwrap();
                    events.iter().for_each(|event| sender.send(event).unwrap());
                }
            });
            let _notify = NotifyAtLast(poller);
            for round in 0..ROUNDS {
                let (first, successor) = (2 * round, 2 * round + 1);
                poller.add(fd, first).unwrap();
                poller.arm(fd, first, Ready::READABLE);
                // Long enough, in some rounds, for the other thread to be waiting for it.
                (0..round).for_each(|_| thread::yield_now());
                peer.write_all(b"x").unwrap();
                poller.delete(fd).unwrap();
                poller.add(fd, successor).unwrap();
                poller.arm(fd, successor, Ready::READABLE);
                let is_it = |event: Event| event.token == successor && event.ready.contains(Ready::READABLE);
                while !is_it(receiver.recv_timeout(PATIENCE).unwrap()) {}
                assert_eq!(ours.read(&mut [0]).unwrap(), 1);
                poller.delete(fd).unwrap();
            }
        });
    });
}

#[test]
fn more_than_one_wait_can_tell_comes_out_of_several() {
    const FILES: usize = EVENTS_PER_WAIT_MAX * 3 / 2;
    assert!(FILES < descriptor_limit() as usize);
    each(|mut bench| {
        let (read, mut write) = pipe();
        write.write_all(b"x").unwrap();
        let files: Vec<File> = (0..FILES).map(|_| read.try_clone().unwrap()).collect();
        for (token, file) in (0..).zip(&files) {
            bench.add(file, token);
            bench.poller.arm(file.as_raw_fd(), token, Ready::READABLE);
        }
        let mut seen = HashMap::new();
        while seen.len() < FILES {
            let events = bench.wait(Some(PATIENCE));
            assert!(!events.is_empty(), "only {} of {FILES}", seen.len());
            assert!(events.len() <= EVENTS_PER_WAIT_MAX || bench.is(Backend::Poll));
            for event in events {
                assert!(event.ready.contains(Ready::READABLE));
                assert_eq!(seen.insert(event.token, ()), None, "twice");
            }
        }
        bench.assert_quiet();
    });
}

// ---- arm: only poll(2) needs it ----

#[test]
fn poll_reports_what_is_armed_and_once() {
    let mut bench = Bench::new(Backend::Poll);
    let (ours, mut peer) = unix_pair();
    bench.add(&ours, TOKEN);
    peer.write_all(b"x").unwrap();
    bench.assert_quiet();
    for _ in 0..3 {
        bench.poller.arm(ours.as_raw_fd(), TOKEN, Ready::READABLE);
        assert_eq!(bench.wait(None), [Event { token: TOKEN, ready: Ready::READABLE }]);
        bench.assert_quiet();
    }
    bench.poller.arm(ours.as_raw_fd(), TOKEN, Ready::READABLE | Ready::WRITABLE);
    assert_eq!(bench.wait(None), [Event { token: TOKEN, ready: Ready::READABLE | Ready::WRITABLE }]);
    bench.assert_quiet();
}

#[test]
fn poll_keeps_one_direction_armed_while_it_reports_the_other() {
    let mut bench = Bench::new(Backend::Poll);
    let (ours, mut peer) = unix_pair();
    bench.add(&ours, TOKEN);
    bench.poller.arm(ours.as_raw_fd(), TOKEN, Ready::READABLE | Ready::WRITABLE);
    assert_eq!(bench.wait(None), [Event { token: TOKEN, ready: Ready::WRITABLE }]);
    bench.assert_quiet();
    peer.write_all(b"x").unwrap();
    assert_eq!(bench.wait(None), [Event { token: TOKEN, ready: Ready::READABLE }]);
}

#[test]
fn poll_does_not_arm_for_another_token() {
    let mut bench = Bench::new(Backend::Poll);
    let (ours, _peer) = unix_pair();
    bench.add(&ours, TOKEN);
    bench.poller.arm(ours.as_raw_fd(), TOKEN + 1, Ready::WRITABLE);
    bench.assert_quiet();
}

#[test]
fn poll_sleeps_through_a_hang_up_that_was_reported() {
    let mut bench = Bench::new(Backend::Poll);
    let (ours, peer) = unix_pair();
    bench.add(&ours, TOKEN);
    drop(peer);
    bench.assert_quiet();
    let seen = bench.wait_for(&ours, TOKEN, Ready::WRITABLE);
    assert!(seen.contains(Ready::HANGUP | Ready::READ_CLOSED | Ready::READABLE));
    bench.assert_quiet();
}

#[test]
fn poll_sleeps_through_an_error_that_was_reported() {
    let mut bench = Bench::new(Backend::Poll);
    let (read, write) = pipe();
    bench.add(&write, TOKEN);
    drop(read);
    bench.poller.arm(write.as_raw_fd(), TOKEN, Ready::READ_CLOSED);
    assert!(!bench.wait(None).is_empty());
    bench.assert_quiet();
}

/// With an error that nobody takes, a hang-up later, and somebody who waits for nothing but that.
#[cfg(target_os = "linux")]
#[test]
fn poll_hears_of_a_hang_up_behind_an_error_and_does_not_spin_until_then() {
    use std::net::UdpSocket;
    fn cpu_time() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for writes.
        check(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }).unwrap();
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
    let mut bench = Bench::new(Backend::Poll);
    // It hears its own peer only, which is itself: for others, the kernel says that nobody is there.
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
    deaf.connect(deaf.local_addr().unwrap()).unwrap();
    let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
    ours.connect(deaf.local_addr().unwrap()).unwrap();
    bench.add(&ours, TOKEN);
    bench.poller.arm(ours.as_raw_fd(), TOKEN, Ready::READ_CLOSED);
    ours.send(b"hello").unwrap();
    let error = Ready::ERROR | Ready::READABLE | Ready::WRITABLE;
    assert_eq!(bench.wait(Some(PATIENCE)), [Event { token: TOKEN, ready: error }]);

    let (quiet, before) = (Duration::from_millis(400), cpu_time());
    assert_eq!(bench.wait(Some(quiet)), []);
    let used = cpu_time() - before;
    assert!(used < quiet / 4, "{used:?} of computing in {quiet:?} of waiting");

    // Its own, which counts as one (UDP has no other).
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(ours.as_raw_fd(), libc::SHUT_RD) }).unwrap();
    assert!(bench.wait_until(TOKEN, Ready::READ_CLOSED).contains(error));
    bench.assert_quiet();
    assert_eq!(ours.take_error().unwrap().map(|e| e.kind()), Some(ErrorKind::ConnectionRefused));
}

#[test]
fn poll_reports_a_descriptor_closed_behind_our_back_once() {
    let mut bench = Bench::new(Backend::Poll);
    let (ours, _peer) = unix_pair();
    let fd = duplicate_to(&ours, high_fd(3));
    bench.poller.add(fd, TOKEN).unwrap();
    // SAFETY: made above, and known to nobody else but the poller.
    check(unsafe { libc::close(fd) }).unwrap();
    bench.wait_for(&fd, TOKEN, Ready::READABLE | Ready::ERROR);
    bench.assert_quiet();
}

#[test]
fn poll_is_armed_without_a_notification_by_the_thread_that_waits_next() {
    let mut bench = Bench::new(Backend::Poll);
    let (ours, _peer) = unix_pair();
    bench.add(&ours, TOKEN);
    bench.settle();
    bench.poller.arm(ours.as_raw_fd(), TOKEN, Ready::READABLE);
    let notifier = bench.poller.as_fd().as_raw_fd();
    assert_eq!(level(notifier, Ready::READABLE).unwrap(), Ready::default());
}

// ---- notify ----

/// All that a wait tells when nothing but a notification has ended it.
const NOTIFIED: [u64; 1] = [NOTIFY_TOKEN];

fn tokens(events: impl IntoIterator<Item = Event>) -> Vec<u64> {
    events.into_iter().map(|event| event.token).collect()
}

#[test]
fn a_notification_ends_the_next_wait() {
    each(|mut bench| {
        bench.poller.notify();
        assert_eq!(tokens(bench.wait(None)), NOTIFIED);
        bench.assert_quiet();
    });
}

#[test]
fn a_notification_comes_with_what_is_ready() {
    each(|mut bench| {
        let (ours, _peer) = unix_pair();
        bench.add(&ours, TOKEN);
        bench.poller.arm(ours.as_raw_fd(), TOKEN, Ready::WRITABLE);
        bench.poller.notify();
        let mut both = tokens(bench.wait(None));
        both.sort();
        assert_eq!(both, [TOKEN, NOTIFY_TOKEN]);
    });
}

#[test]
fn many_notifications_are_one_and_the_next_is_another() {
    each(|mut bench| {
        // More than a pipe or a socket can hold.
        for _ in 0..100_000 {
            bench.poller.notify();
        }
        for _ in 0..3 {
            assert_eq!(tokens(bench.wait(None)), NOTIFIED);
            bench.assert_quiet();
            bench.poller.notify();
        }
    });
}

#[test]
fn no_notification_is_lost_in_a_ring_of_threads() {
    const THREADS: usize = 3;
    const ROUNDS: usize = 5_000;
    each(|bench| {
        let backend = bench.poller.backend();
        let ring: Vec<Poller> = (0..THREADS).map(|_| Poller::new(backend).unwrap()).collect();
        thread::scope(|scope| {
            for (at, poller) in ring.iter().enumerate() {
                let next = &ring[(at + 1) % THREADS];
                scope.spawn(move || {
                    let mut events = Events::default();
                    for _ in 0..ROUNDS {
                        poller.wait(&mut events, Some(PATIENCE)).unwrap();
                        assert_eq!(tokens(events.iter()), NOTIFIED);
                        next.notify();
                    }
                });
            }
            ring[0].notify();
        });
    });
}

#[test]
fn no_notification_is_lost_while_another_is_consumed() {
    const THREADS: usize = 2;
    const NOTIFICATIONS: usize = 50_000;
    each(|mut bench| {
        let Bench { poller, events } = &mut bench;
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    (0..NOTIFICATIONS).for_each(|_| poller.notify());
                    done.fetch_add(1, Ordering::SeqCst);
                    poller.notify();
                });
            }
            while done.load(Ordering::SeqCst) < THREADS {
                poller.wait(events, Some(PATIENCE)).unwrap();
                assert_eq!(tokens(events.iter()), NOTIFIED);
            }
        });
    });
}

#[test]
fn a_notified_poller_is_readable() {
    each(|mut bench| {
        let is_readable =
            |bench: &Bench| level(bench.poller.as_fd().as_raw_fd(), Ready::READABLE).unwrap().0 != 0;
        assert!(!is_readable(&bench));
        bench.poller.notify();
        assert!(is_readable(&bench));
        bench.settle();
        assert!(!is_readable(&bench));
    });
}

// ---- wait ----

#[test]
fn a_timeout_is_never_early() {
    each(|mut bench| {
        for ns in [1, 999, 1_000, 50_000, 999_999, 1_000_000, 1_500_000, 3_000_000] {
            let timeout = Duration::from_nanos(ns);
            let start = Instant::now();
            assert_eq!(bench.wait(Some(timeout)), []);
            let elapsed = start.elapsed();
            assert!(elapsed >= timeout, "{elapsed:?} instead of {timeout:?}");
        }
    });
}

#[test]
fn the_longest_timeout_is_a_timeout() {
    each(|mut bench| {
        for timeout in [Duration::MAX, Duration::from_secs(1 << 32), TIMEOUT_MAX] {
            let (poller, events) = (&bench.poller, &mut bench.events);
            let (sender, receiver) = mpsc::channel();
            thread::scope(|scope| {
                scope.spawn(move || {
                    sender.send(()).unwrap();
                    poller.wait(events, Some(timeout)).unwrap();
                    assert_eq!(tokens(events.iter()), NOTIFIED);
                });
                receiver.recv().unwrap();
                poller.notify();
            });
        }
    });
}

#[test]
fn milliseconds_are_rounded_up() {
    for (ns, ms) in [(0, 0), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2)] {
        assert_eq!(poll::ms_rounded_up(Duration::from_nanos(ns)), ms);
    }
    assert_eq!(poll::ms_rounded_up(TIMEOUT_MAX), i32::MAX);
    assert_eq!(poll::ms_rounded_up(Duration::MAX), i32::MAX);
}

#[test]
fn an_interrupted_wait_has_no_error_and_no_events() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: all zeroes is a sigaction without flags, of which SA_RESTART would be one, and the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
        check(libc::sigaction(libc::SIGWINCH, &action, std::ptr::null_mut())).unwrap();
    }
    each(|mut bench| {
        static RETURNED: AtomicBool = AtomicBool::new(false);
        RETURNED.store(false, Ordering::SeqCst);
        let waiter = thread::spawn(move || {
            let events = bench.wait(Some(PATIENCE));
            RETURNED.store(true, Ordering::SeqCst);
            events
        });
        let start = Instant::now();
        while !RETURNED.load(Ordering::SeqCst) {
            // SAFETY: the thread is not joined yet, so that it can be named.
            unsafe { libc::pthread_kill(waiter.as_pthread_t(), libc::SIGWINCH) };
            thread::yield_now();
        }
        assert!(start.elapsed() < PATIENCE);
        assert_eq!(waiter.join().unwrap(), []);
    });
}

// ---- fork ----

#[test]
fn a_child_that_drops_a_poller_harms_nobody() {
    each(|mut bench| {
        if bench.is(Backend::Poll) && skip_on_libkqueue("it closes others' descriptors in the child") {
            return;
        }
        let (ours, mut peer) = unix_pair();
        bench.add(&ours, TOKEN);
        bench.settle();
        let Bench { poller, events } = bench;
        // A kqueue is not in the child. There its number belongs to another file.
        let number = poller.as_fd().as_raw_fd();
        let is_reused = poller.backend() == Backend::Kqueue;
        let other = duplicate_to(&ours, high_fd(4));
        // SAFETY: the child makes system calls and frees what the poller has: it allocates nothing, waits for no lock,
        // and runs no destructor but one.
        let child = check(unsafe { libc::fork() }).unwrap();
        if child == 0 {
            // SAFETY: the poller is dropped once in each process.
            unsafe {
                if is_reused {
                    libc::dup2(other, number);
                }
                drop(std::ptr::read(&poller));
                libc::_exit((is_reused && libc::fcntl(number, libc::F_GETFD) == -1).into());
            }
        }
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        assert_eq!(check(unsafe { libc::waitpid(child, &mut status, 0) }).unwrap(), child);
        assert_eq!(status, 0);
        let mut bench = Bench { poller, events };
        peer.write_all(b"x").unwrap();
        bench.wait_for(&ours, TOKEN, Ready::READABLE);
        // SAFETY: made above.
        check(unsafe { libc::close(other) }).unwrap();
    });
}
