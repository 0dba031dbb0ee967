//! What async-io does that its users rely on, by its own interface: both crates have to do the same.

use async_io::{Async, Timer, block_on};
use futures_lite::future::{self, poll_once};
use futures_lite::{AsyncReadExt, AsyncWriteExt, StreamExt};
use std::cell::Cell;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for the slowest machine: it only passes when a test fails.
const PATIENCE: Duration = Duration::from_secs(20);
const LATER: Duration = Duration::from_secs(3600);

/// Runs a test that ends without an error, and in time.
#[track_caller]
fn run<T>(test: impl Future<Output = io::Result<T>>) -> T {
    let late = async {
        Timer::after(PATIENCE).await;
        panic!("not done within {PATIENCE:?}")
    };
    block_on(future::or(test, late)).expect("no errors")
}

/// A waker that counts, and can be waited for.
#[derive(Default)]
struct Wakes {
    count: Mutex<usize>,
    more: Condvar,
}

impl Wakes {
    fn new() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes::default());
        (wakes.clone(), wakes.into())
    }

    fn count(&self) -> usize {
        *self.count.lock().unwrap()
    }

    /// Until it has been woken so many times in all.
    #[track_caller]
    fn wait(&self, count: usize) {
        let few = |now: &mut usize| *now < count;
        let (now, waited) = self.more.wait_timeout_while(self.count.lock().unwrap(), PATIENCE, few).unwrap();
        assert!(!waited.timed_out(), "woken {now} times within {PATIENCE:?}, not {count}");
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        *self.count.lock().unwrap() += 1;
        self.more.notify_all();
    }
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn is_nonblocking(fd: &impl AsFd) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFL) };
    assert!(flags >= 0, "{}", io::Error::last_os_error());
    flags & libc::O_NONBLOCK != 0
}

// --------------------------------------------------------------------------------------------------- timers

#[test]
fn a_timer_gives_the_moment_that_it_was_set_to() {
    let at = Instant::now() + Duration::from_millis(5);
    let mut timer = Timer::at(at);
    assert!(timer.will_fire());
    assert_eq!(block_on(&mut timer), at);
    assert!(Instant::now() >= at);
    assert!(!timer.will_fire());
    assert!(block_on(poll_once(&mut timer)).is_none());
}

#[test]
fn a_moment_that_no_instant_can_hold_is_never() {
    assert!(!Timer::never().will_fire());
    assert!(!Timer::after(Duration::MAX).will_fire());
    assert!(!Timer::interval(Duration::MAX).will_fire());
    let mut timer = Timer::after(LATER);
    timer.set_after(Duration::MAX);
    assert!(!timer.will_fire());
    timer.set_after(LATER);
    timer.set_interval(Duration::MAX);
    assert!(!timer.will_fire());
    timer.set_interval_at(Instant::now(), Duration::MAX);
    assert!(timer.will_fire());
    timer.clear();
    assert!(!timer.will_fire());
}

#[test]
fn a_timer_for_a_moment_that_has_passed_is_ready_when_it_is_polled_first() {
    let past = Instant::now();
    assert_eq!(block_on(poll_once(Timer::at(past))), Some(past));
    assert_eq!(future::block_on(poll_once(Timer::at(past))), Some(past));
    assert!(future::block_on(poll_once(Timer::after(Duration::ZERO))).is_some());
}

#[test]
fn an_interval_makes_up_for_the_ticks_that_were_missed() {
    let period = Duration::from_millis(100);
    let start = Instant::now().checked_sub(3 * period).unwrap();
    let mut timer = Timer::interval_at(start, period);
    run(async {
        for n in 0..4 {
            assert_eq!(timer.next().await, Some(start + n * period));
        }
        Ok(())
    });
    assert!(timer.will_fire());
}

/// To set it to a moment leaves it an interval, and to set it to never does not change the period.
#[test]
fn an_interval_stays_one_when_it_is_set_to_a_moment() {
    let period = Duration::from_millis(1);
    let now = Instant::now();
    let mut timer = Timer::interval(period);
    timer.set_at(now);
    run(async {
        assert_eq!(timer.next().await, Some(now));
        assert_eq!(timer.next().await, Some(now + period));
        timer.set_interval(Duration::MAX);
        timer.set_at(now);
        assert_eq!(timer.next().await, Some(now));
        assert_eq!(timer.next().await, Some(now + period));
        timer.set_interval_at(now, 2 * period);
        assert_eq!(timer.next().await, Some(now));
        assert_eq!(timer.next().await, Some(now + 2 * period));
        Ok(())
    });
}

/// Futures that are written by hand take a tick, and return `Pending` for other reasons.
#[test]
fn who_has_had_a_tick_is_woken_for_the_next_one() {
    let (wakes, waker) = Wakes::new();
    let mut timer = Timer::interval(Duration::from_millis(1));
    assert!(poll(&mut timer, &waker).is_pending());
    wakes.wait(1);
    assert!(poll(&mut timer, &waker).is_ready());
    wakes.wait(2);
    assert!(poll(&mut timer, &waker).is_ready());
    wakes.wait(3);

    // Also for one that is due already.
    let (wakes, waker) = Wakes::new();
    let past = Instant::now().checked_sub(LATER).unwrap();
    let mut timer = Timer::interval_at(past, Duration::from_millis(1));
    assert!(poll(&mut timer, &waker).is_ready());
    wakes.wait(1);
}

#[test]
fn who_has_had_a_tick_is_woken_when_the_interval_is_set_anew() {
    let (wakes, waker) = Wakes::new();
    let mut timer = Timer::interval_at(Instant::now(), LATER);
    assert!(poll(&mut timer, &waker).is_ready());
    timer.set_after(Duration::ZERO);
    wakes.wait(1);
    assert!(poll(&mut timer, &waker).is_ready());
    timer.clear();
    timer.set_interval(Duration::from_millis(1));
    wakes.wait(2);
}

#[test]
fn who_waits_for_a_timer_is_woken_when_it_was_cleared_and_is_set_again() {
    let (wakes, waker) = Wakes::new();
    let mut timer = Timer::after(LATER);
    assert!(poll(&mut timer, &waker).is_pending());
    timer.clear();
    timer.set_after(Duration::ZERO);
    wakes.wait(1);
    assert!(poll(&mut timer, &waker).is_ready());
}

#[test]
fn a_timer_wakes_who_polled_it_last() {
    let (first, first_waker) = Wakes::new();
    let (second, second_waker) = Wakes::new();
    let mut timer = Timer::after(Duration::from_millis(20));
    assert!(poll(&mut timer, &first_waker).is_pending());
    assert!(poll(&mut timer, &second_waker).is_pending());
    second.wait(1);
    assert_eq!(first.count(), 0);
}

/// Also where the thread has not come back to whoever drives.
#[test]
fn a_timer_is_ready_when_its_moment_has_passed() {
    let polled_late = || async {
        let at = Instant::now() + Duration::from_millis(2);
        let mut timer = Timer::at(at);
        assert!(poll_once(&mut timer).await.is_none());
        while Instant::now() < at {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(poll_once(&mut timer).await, Some(at));
    };
    block_on(polled_late());
    future::block_on(polled_late());
}

#[test]
fn a_timer_that_is_dropped_wakes_nobody() {
    let (wakes, waker) = Wakes::new();
    let mut timer = Timer::after(Duration::from_millis(5));
    assert!(poll(&mut timer, &waker).is_pending());
    drop(timer);
    block_on(Timer::after(Duration::from_millis(20)));
    assert_eq!(wakes.count(), 0);
}

// ------------------------------------------------------------------------------------------------- ownership

#[test]
fn descriptors_are_made_non_blocking_and_stay_it() {
    let (a, b) = UnixStream::pair().unwrap();
    let a = Async::new(a).unwrap();
    assert!(is_nonblocking(&a));
    let a = a.into_inner().unwrap();
    assert!(is_nonblocking(&a));

    let b = Async::new_nonblocking(b).unwrap();
    assert!(!is_nonblocking(&b), "that is the caller's affair");

    let a = Async::<UnixStream>::try_from(OwnedFd::from(a)).unwrap();
    assert!(is_nonblocking(&OwnedFd::try_from(a).unwrap()));
}

#[test]
fn all_sockets_are_non_blocking_and_not_inherited() {
    fn check(sockets: &[&dyn AsFd]) {
        for fd in sockets.iter().map(|socket| socket.as_fd()) {
            assert!(is_nonblocking(&fd));
            // SAFETY: no pointers.
            let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }
    let path = std::env::temp_dir().join(format!("interface-{}.sock", std::process::id()));
    run(async {
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
        let client = Async::<TcpStream>::connect(listener.get_ref().local_addr()?).await?;
        let (server, addr) = listener.accept().await?;
        assert_eq!(addr, client.get_ref().local_addr()?);
        check(&[&listener, &client, &server]);
        let unix = Async::<UnixListener>::bind(&path)?;
        let client = Async::<UnixStream>::connect(&path).await?;
        let (server, addr) = unix.accept().await?;
        assert!(addr.is_unnamed());
        check(&[&unix, &client, &server]);
        std::fs::remove_file(&path)?;
        check(&[&Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?]);
        check(&[&Async::<UnixDatagram>::unbound()?]);
        let (a, b) = Async::<UnixDatagram>::pair()?;
        check(&[&a, &b]);
        let (a, b) = Async::<UnixStream>::pair()?;
        check(&[&a, &b]);
        Ok(())
    });
}

#[test]
fn a_second_owner_is_refused_and_the_first_not_disturbed() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let a = Async::new(a).unwrap();
    let second = Async::new(a.get_ref()).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::AlreadyExists);
    run(async {
        let mut readable = a.readable();
        assert!(poll_once(&mut readable).await.is_none());
        assert!(Async::new(a.as_fd()).is_err());
        b.write_all(b"x")?;
        readable.await
    });
    // After the first it is free.
    Async::new(a.into_inner().unwrap()).unwrap();
}

#[test]
fn a_duplicate_of_a_descriptor_has_an_owner_of_its_own() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let (first, second) = (Async::new(a.try_clone().unwrap()).unwrap(), Async::new(a).unwrap());
    b.write_all(b"x").unwrap();
    run(async {
        first.readable().await?;
        second.readable().await?;
        drop(first);
        assert_eq!((&second).read(&mut [0; 8]).await?, 1);
        b.write_all(b"y")?;
        assert_eq!((&second).read(&mut [0; 8]).await?, 1);
        Ok(())
    });
}

#[test]
fn what_the_kernel_cannot_wait_for_is_refused() {
    let error = Async::new(File::open("Cargo.toml").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn a_type_is_dropped_after_its_descriptor_was_deregistered() {
    struct RegistersAgain(UnixStream, Arc<Mutex<Option<io::Result<()>>>>);
    impl AsFd for RegistersAgain {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl Drop for RegistersAgain {
        fn drop(&mut self) {
            *self.1.lock().unwrap() = Some(Async::new(&self.0).map(drop));
        }
    }
    let result = Arc::default();
    drop(Async::new(RegistersAgain(UnixStream::pair().unwrap().0, Arc::clone(&result))).unwrap());
    result.lock().unwrap().take().expect("it was dropped").unwrap();
}

#[test]
fn a_number_is_used_again_by_the_next_descriptor() {
    run(async {
        for _ in 0..100 {
            let (a, mut b) = UnixStream::pair()?;
            let a = Async::new(a)?;
            assert!(poll_once(a.readable()).await.is_none());
            b.write_all(b"x")?;
            a.readable().await?;
            assert_eq!((&a).read(&mut [0; 8]).await?, 1);
            assert!(poll_once((&a).read(&mut [0; 8])).await.is_none());
        }
        Ok(())
    });
}

#[test]
fn a_socket_goes_from_thread_to_thread() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let a = Arc::new(Async::new(a).unwrap());
    for _ in 0..3 {
        let readable = a.clone().readable_owned();
        let waits = thread::spawn(move || block_on(readable));
        b.write_all(b"x").unwrap();
        waits.join().unwrap().unwrap();
        let a = a.clone();
        thread::spawn(move || future::block_on((&*a).read(&mut [0; 8])).unwrap()).join().unwrap();
    }
}

// ------------------------------------------------------------------------------------------------- readiness

#[test]
fn a_second_poller_takes_the_place_of_the_first_which_is_woken() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let a = Async::new(a).unwrap();
    let (first, first_waker) = Wakes::new();
    let (second, second_waker) = Wakes::new();
    let poll = |waker| a.poll_readable(&mut Context::from_waker(waker));
    assert!(poll(&first_waker).is_pending());
    assert!(poll(&first_waker).is_pending());
    assert_eq!(first.count(), 0);
    assert!(poll(&second_waker).is_pending());
    assert_eq!((first.count(), second.count()), (1, 0));
    b.write_all(b"x").unwrap();
    second.wait(1);
    assert_eq!(first.count(), 1);
    run(poll_fn(|cx| a.poll_readable(cx)));
}

#[test]
fn reader_and_writer_wait_apart() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let a = Async::new(a).unwrap();
    let full = [0; 1 << 16];
    while block_on(poll_once((&a).write(&full))).is_some() {}
    let (reader, reader_waker) = Wakes::new();
    let (writer, writer_waker) = Wakes::new();
    assert!(a.poll_readable(&mut Context::from_waker(&reader_waker)).is_pending());
    assert!(a.poll_writable(&mut Context::from_waker(&writer_waker)).is_pending());
    b.write_all(b"x").unwrap();
    reader.wait(1);
    assert_eq!(writer.count(), 0);
    assert!(a.poll_writable(&mut Context::from_waker(&writer_waker)).is_pending());
    b.set_nonblocking(true).unwrap();
    while b.read(&mut [0; 1 << 16]).is_ok() {}
    writer.wait(1);
    run(poll_fn(|cx| a.poll_writable(cx)));
}

#[test]
fn everybody_who_waits_is_woken_but_those_who_gave_up() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let a = Async::new(a).unwrap();
    let wakes: Vec<_> = (0..5).map(|_| Wakes::new()).collect();
    let mut waiting: Vec<_> = wakes.iter().map(|_| a.readable()).collect();
    for (readable, (_, waker)) in waiting.iter_mut().zip(&wakes) {
        assert!(poll(readable, waker).is_pending());
    }
    drop(waiting.remove(1));
    b.write_all(b"x").unwrap();
    for n in [0, 2, 3, 4] {
        wakes[n].0.wait(1);
    }
    assert_eq!(wakes[1].0.count(), 0);
    for readable in &mut waiting {
        run(readable);
    }
}

#[test]
fn who_waits_may_be_moved_to_another_task() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let a = Async::new(a).unwrap();
    let (first, first_waker) = Wakes::new();
    let (second, second_waker) = Wakes::new();
    let mut readable = a.readable();
    assert!(poll(&mut readable, &first_waker).is_pending());
    let mut moved = Box::new(readable);
    assert!(poll(&mut moved, &second_waker).is_pending());
    b.write_all(b"x").unwrap();
    second.wait(1);
    assert_eq!(first.count(), 0);
    run(moved);
}

/// Whoever has read, and how: it is the kernel that is asked.
#[test]
fn readiness_is_a_level() {
    let (a, mut b) = tcp_pair();
    let a = Async::new(a).unwrap();
    run(async {
        b.write_all(b"abc")?;
        for _ in 0..3 {
            a.readable().await?;
            poll_fn(|cx| a.poll_readable(cx)).await?;
            assert_eq!(a.get_ref().read(&mut [0])?, 1);
        }
        assert!(poll_once(a.readable()).await.is_none());
        assert!(poll_once(poll_fn(|cx| a.poll_readable(cx))).await.is_none());
        b.shutdown(Shutdown::Write)?;
        a.readable().await?;
        assert_eq!((&a).read(&mut [0]).await?, 0);
        assert_eq!((&a).read(&mut [0]).await?, 0);
        a.readable().await
    });
}

#[test]
fn a_closed_peer_ends_both_waits() {
    let (a, b) = UnixStream::pair().unwrap();
    let a = Async::new(a).unwrap();
    let full = [0; 1 << 16];
    while block_on(poll_once((&a).write(&full))).is_some() {}
    run(async {
        let (mut readable, mut writable) = (a.readable(), a.writable());
        assert!(poll_once(&mut readable).await.is_none());
        assert!(poll_once(&mut writable).await.is_none());
        drop(b);
        readable.await?;
        writable.await?;
        assert_eq!((&a).write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        Ok(())
    });
}

/// Only "would block" is tried again, and in every poll, for whatever reason it comes.
#[test]
fn a_closure_decides_by_what_it_returns() {
    let (a, _b) = UnixStream::pair().unwrap();
    let mut a = Async::new(a).unwrap();
    let calls = Cell::new(0);
    let op = |end: u32| {
        calls.set(calls.get() + 1);
        if calls.get() < end { Err(io::Error::from(ErrorKind::WouldBlock)) } else { Ok(calls.get()) }
    };
    run(async {
        let mut with = Box::pin(a.read_with(|_| op(3)));
        assert!(poll_once(&mut with).await.is_none());
        assert!(poll_once(&mut with).await.is_none());
        assert_eq!(poll_once(&mut with).await.expect("it is called")?, 3);
        drop(with);
        assert_eq!(a.write_with(|_| op(6)).await?, 6);
        // SAFETY: nothing is replaced.
        assert_eq!(unsafe { a.write_with_mut(|_| op(9)).await? }, 9);
        for kind in [ErrorKind::Interrupted, ErrorKind::TimedOut] {
            let error = a.read_with(|_| Err::<(), _>(kind.into())).await.unwrap_err();
            assert_eq!(error.kind(), kind);
        }
        Ok(())
    });
}

#[test]
fn to_close_flushes_and_does_not_shut_down() {
    let (mut a, mut b) = Async::<UnixStream>::pair().unwrap();
    run(async {
        a.close().await?;
        a.write_all(b"x").await?;
        a.flush().await?;
        assert_eq!(b.read(&mut [0; 8]).await?, 1);
        Ok(())
    });
}

// --------------------------------------------------------------------------------------------------- sockets

#[test]
fn a_connection_that_is_refused_has_the_error_of_the_kernel() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = block_on(Async::<TcpStream>::connect(addr)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    let error = block_on(Async::<UnixStream>::connect("/no/such/socket")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    let error = Async::<UnixListener>::bind("/no/such/directory/socket").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    let taken = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
    let error = Async::<TcpListener>::bind(taken.get_ref().local_addr().unwrap()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
}

#[test]
fn a_connection_that_nobody_waits_for_any_more_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut connect = Box::pin(Async::<TcpStream>::connect(addr));
    let done = block_on(poll_once(&mut connect));
    let (mut server, _) = listener.accept().unwrap();
    drop((connect, done));
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
}

/// The socket is registered before it is told where to connect to.
#[test]
fn a_connection_can_be_begun_behind_its_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(to) = listener.local_addr().unwrap() else { unreachable!() };
    // SAFETY: no pointers; and the descriptor is nobody else's.
    let socket = unsafe { TcpStream::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)) };
    let socket = Async::new(socket).unwrap();
    run(async {
        // SAFETY: zeroes are a valid value.
        let mut addr: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        addr.sin_family = libc::AF_INET as libc::sa_family_t;
        addr.sin_port = to.port().to_be();
        addr.sin_addr.s_addr = u32::from(*to.ip()).to_be();
        let len = size_of_val(&addr) as libc::socklen_t;
        // SAFETY: the address is valid for reads of `len` bytes.
        if unsafe { libc::connect(socket.as_raw_fd(), (&raw const addr).cast(), len) } < 0 {
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EINPROGRESS));
        }
        socket.writable().await?;
        assert!(socket.get_ref().take_error()?.is_none());
        let (mut server, _) = listener.accept()?;
        assert!(poll_once((&socket).read(&mut [0; 8])).await.is_none());
        assert!(poll_once(socket.readable()).await.is_none());
        server.write_all(b"x")?;
        assert_eq!((&socket).read(&mut [0; 8]).await?, 1);
        assert_eq!((&socket).write(b"y").await?, 1);
        Ok(())
    });
}

#[test]
fn the_pipes_of_a_child_are_read_and_written() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = Async::new(child.stdin.take().unwrap()).unwrap();
    let mut stdout = Async::new(child.stdout.take().unwrap()).unwrap();
    run(async {
        let mut buf = [0; 8];
        for text in ["a", "bcd"] {
            let mut read = stdout.read(&mut buf);
            assert!(poll_once(&mut read).await.is_none());
            stdin.write_all(text.as_bytes()).await?;
            assert_eq!(read.await?, text.len());
            assert_eq!(&buf[..text.len()], text.as_bytes());
        }
        drop(stdin);
        assert_eq!(stdout.read(&mut buf).await?, 0);
        Ok(())
    });
    child.wait().unwrap();
}

#[test]
fn several_tasks_accept_and_each_connection_goes_to_one() {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
    let addr = listener.get_ref().local_addr().unwrap();
    run(async {
        let (mut first, mut second) = (Box::pin(listener.accept()), Box::pin(listener.accept()));
        assert!(poll_once(&mut first).await.is_none());
        assert!(poll_once(&mut second).await.is_none());
        let clients = [TcpStream::connect(addr)?, TcpStream::connect(addr)?];
        let mut peers = vec![first.await?.1, second.await?.1];
        peers.sort();
        let mut addrs = clients.iter().map(TcpStream::local_addr).collect::<io::Result<Vec<_>>>()?;
        addrs.sort();
        assert_eq!(peers, addrs);
        Ok(())
    });
}

/// As many as the system allows, as with std: a burst of clients is not refused.
#[test]
fn a_unix_listener_has_room_for_a_burst() {
    let path = std::env::temp_dir().join(format!("interface-burst-{}.sock", std::process::id()));
    let std_room = room(UnixListener::bind(&path).unwrap(), &path);
    let room = room(Async::<UnixListener>::bind(&path).unwrap(), &path);
    assert_eq!(room, std_room);

    /// How many connect before anybody accepts, of those that are tried.
    fn room(listener: impl AsFd, path: &std::path::Path) -> usize {
        let clients: Vec<_> = (0..400)
            .map_while(|_| {
                let mut connect = Box::pin(Async::<UnixStream>::connect(path));
                match future::block_on(poll_once(&mut connect)) {
                    Some(Err(_)) => None,
                    Some(Ok(client)) => Some(client),
                    // async-io waits for the event of a connection that is there.
                    None => {
                        let limit = async {
                            Timer::after(Duration::from_millis(200)).await;
                            Err(ErrorKind::TimedOut.into())
                        };
                        block_on(future::or(connect, limit)).ok()
                    }
                }
            })
            .collect();
        drop(listener);
        std::fs::remove_file(path).unwrap();
        clients.len()
    }
}

#[test]
fn datagrams_keep_their_bounds_and_senders() {
    let path = std::env::temp_dir().join(format!("interface-datagrams-{}.sock", std::process::id()));
    run(async {
        let mut buf = [0; 8];
        let (a, b) = (bind_udp()?, bind_udp()?);
        let (a_addr, b_addr) = (a.get_ref().local_addr()?, b.get_ref().local_addr()?);
        assert_eq!(a.send_to(b"ab", b_addr).await?, 2);
        assert_eq!(a.send_to(b"", b_addr).await?, 0);
        assert_eq!(b.peek_from(&mut buf).await?, (2, a_addr));
        assert_eq!(b.recv_from(&mut buf[..1]).await?, (1, a_addr));
        assert_eq!(b.recv_from(&mut buf).await?, (0, a_addr));
        a.get_ref().connect(b_addr)?;
        assert_eq!(a.send(b"abc").await?, 3);
        assert_eq!(b.peek(&mut buf).await?, 3);
        assert_eq!(b.recv(&mut buf).await?, 3);

        let named = Async::<UnixDatagram>::bind(&path)?;
        let unnamed = Async::<UnixDatagram>::unbound()?;
        assert_eq!(unnamed.send_to(b"ab", &path).await?, 2);
        let (n, from) = named.recv_from(&mut buf).await?;
        assert!(n == 2 && from.is_unnamed());
        std::fs::remove_file(&path)
    });

    fn bind_udp() -> io::Result<Async<UdpSocket>> {
        Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))
    }
}

#[test]
fn incoming_connections_never_end() {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
    let addr = listener.get_ref().local_addr().unwrap();
    let mut incoming = Box::pin(listener.incoming());
    run(async {
        for _ in 0..3 {
            let _client = TcpStream::connect(addr)?;
            incoming.next().await.expect("no end")?;
        }
        assert!(poll_once(incoming.next()).await.is_none());
        Ok(())
    });
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn a_name_that_begins_with_zero_is_abstract() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("interface-{}", std::process::id());
    let addr = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = Async::new(UnixListener::bind_addr(&addr).unwrap()).unwrap();
    run(async {
        let _client = Async::<UnixStream>::connect(format!("\0{name}")).await?;
        listener.accept().await
    });
}

// -------------------------------------------------------------------------------------------- who runs them

/// No thread of this program is in `block_on`.
#[test]
fn any_executor_will_do() {
    let (a, b) = UnixStream::pair().unwrap();
    let (mut a, mut b) = (Async::new(a).unwrap(), Async::new(b).unwrap());
    let answers = thread::spawn(move || {
        future::block_on(async {
            let mut byte = [0];
            b.read_exact(&mut byte).await?;
            Timer::after(Duration::from_millis(5)).await;
            b.write_all(&byte).await
        })
    });
    let (wakes, waker) = Wakes::new();
    let mut byte = [7];
    let mut asks = Box::pin(async {
        a.write_all(&byte).await?;
        byte[0] = 0;
        a.read_exact(&mut byte).await
    });
    let mut polls = 0;
    loop {
        if let Poll::Ready(result) = poll(&mut asks, &waker) {
            result.unwrap();
            break;
        }
        polls += 1;
        wakes.wait(polls);
    }
    drop(asks);
    assert_eq!(byte, [7]);
    answers.join().unwrap().unwrap();
}

/// For another waker than that of the call.
#[test]
fn who_waits_inside_of_a_call_is_woken_though_the_call_does_not_come_back() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let a = Async::new(a).unwrap();
    block_on(async {
        let (wakes, waker) = Wakes::new();
        let mut timer = Timer::after(Duration::from_millis(2));
        assert!(poll(&mut timer, &waker).is_pending());
        wakes.wait(1);
        let mut readable = a.readable();
        assert!(poll(&mut readable, &waker).is_pending());
        b.write_all(b"x").unwrap();
        wakes.wait(2);
    });
}

#[test]
fn calls_are_nested_and_each_has_a_waker_of_its_own() {
    let outer_polls = Cell::new(0);
    let mut inner_waker = None;
    run(poll_fn(|cx| {
        outer_polls.set(outer_polls.get() + 1);
        if let Some(waker) = inner_waker.take() {
            let waker: Waker = waker;
            assert!(!waker.will_wake(cx.waker()));
            return Poll::Ready(Ok(()));
        }
        inner_waker = Some(block_on(async {
            Timer::after(Duration::from_millis(5)).await;
            poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
        }));
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
    assert_eq!(outer_polls.get(), 2);
}

#[test]
fn a_panic_goes_through_and_harms_no_later_call() {
    let panics = AssertUnwindSafe(|| {
        block_on(async {
            Timer::after(Duration::from_millis(1)).await;
            panic!("on purpose")
        })
    });
    assert!(catch_unwind(panics).is_err());
    block_on(Timer::after(Duration::from_millis(1)));
}

/// Neither the thread that drives nor anybody who waits.
#[test]
fn a_waker_that_panics_harms_nobody() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }
    let waker = Waker::from(Arc::new(Panics));
    let (a, mut b) = UnixStream::pair().unwrap();
    let a = Async::new(a).unwrap();
    let mut readable = a.readable();
    let mut timer = Timer::after(Duration::from_millis(1));
    assert!(poll(&mut readable, &waker).is_pending());
    assert!(poll(&mut timer, &waker).is_pending());
    b.write_all(b"x").unwrap();
    run(async {
        a.readable().await?;
        Timer::after(Duration::from_millis(20)).await;
        Ok(())
    });
    future::block_on(Timer::after(Duration::from_millis(5)));
}

#[test]
fn the_descriptor_of_the_reactor_can_be_waited_for() {
    let Some(fd) = async_io::os::unix::reactor_fd() else {
        return println!("skipped: it waits in poll(2), which has none");
    };
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry.
    let result = unsafe { libc::poll(&mut poll, 1, 0) };
    assert!(result >= 0 && poll.revents & libc::POLLNVAL == 0, "{}", io::Error::last_os_error());
}

#[test]
fn everything_can_be_printed() {
    let (a, _b) = Async::<UnixStream>::pair().unwrap();
    let a = Arc::new(a);
    let text = format!("{:?} {:?} {:?}", a, a.readable(), a.clone().readable_owned());
    assert!(text.contains("Async") && text.contains("Readable") && text.contains("ReadableOwned"), "{text}");
    let text = format!("{:?} {:?} {:?}", a.writable(), a.clone().writable_owned(), Timer::never());
    assert!(text.contains("Writable") && text.contains("WritableOwned") && text.contains("Timer"), "{text}");
}
