//! A reactor as a guest in somebody else's loop, by its descriptor: poll(2), epoll in both of its ways, mio, tokio.

mod common;

use common::proc::thread_names;
use common::{PATIENCE, Wakes, backend, in_a_process_of_its_own, poll, skip_if, tcp_pair, within};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use wakewheel::reactor::{Backend, Handle, Reactor, Trigger, Watch};
use wakewheel::{Async, Timer, interval, sleep, timeout};

const MS: Duration = Duration::from_millis(1);

fn cannot_be_a_guest() -> bool {
    skip_if(backend() == Backend::Poll, "its descriptor tells of notifications only")
}

// --------------------------------------------------------------------------------------------------- hosts

/// Somebody else's loop: it waits until the reactor's descriptor has news, or for so long.
trait Host {
    /// Was there news?
    fn wait(&mut self, timeout: Duration) -> bool;
}

/// poll(2): told of a level.
struct Bare(RawFd);

impl Host for Bare {
    fn wait(&mut self, timeout: Duration) -> bool {
        let mut one = libc::pollfd { fd: self.0, events: libc::POLLIN, revents: 0 };
        // SAFETY: `one` is a valid array of one pollfd.
        unsafe { libc::poll(&mut one, 1, ms_rounded_up(timeout)) == 1 }
    }
}

fn ms_rounded_up(time: Duration) -> i32 {
    time.as_nanos().div_ceil(1_000_000) as i32
}

#[cfg(target_os = "linux")]
struct Epoll(OwnedFd);

#[cfg(target_os = "linux")]
impl Epoll {
    /// `edge`: EPOLLET, or 0 for a level.
    fn new(reactor: &Reactor, edge: i32) -> Epoll {
        // SAFETY: no pointers; the descriptor is new.
        let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | edge) as u32, u64: 7 };
        let fd = reactor.as_fd().as_raw_fd();
        // SAFETY: `event` lives through the call.
        assert_eq!(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) }, 0);
        Epoll(epoll)
    }
}

#[cfg(target_os = "linux")]
impl Host for Epoll {
    fn wait(&mut self, timeout: Duration) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: there is room for one event.
        unsafe { libc::epoll_wait(self.0.as_raw_fd(), &mut event, 1, ms_rounded_up(timeout)) == 1 }
    }
}

/// mio: told of edges.
struct Mio(mio::Poll, mio::Events);

impl Mio {
    fn new(reactor: &Reactor) -> Mio {
        let poll = mio::Poll::new().unwrap();
        let fd = reactor.as_fd().as_raw_fd();
        let interest = mio::Interest::READABLE;
        poll.registry().register(&mut mio::unix::SourceFd(&fd), mio::Token(7), interest).unwrap();
        Mio(poll, mio::Events::with_capacity(8))
    }
}

impl Host for Mio {
    fn wait(&mut self, timeout: Duration) -> bool {
        self.0.poll(&mut self.1, Some(timeout)).unwrap();
        !self.1.is_empty()
    }
}

/// All of them.
fn hosts(reactor: &Reactor) -> Vec<(&'static str, Box<dyn Host>)> {
    vec![
        ("poll", Box::new(Bare(reactor.as_fd().as_raw_fd()))),
        #[cfg(target_os = "linux")]
        ("epoll, by level", Box::new(Epoll::new(reactor, 0))),
        #[cfg(target_os = "linux")]
        ("epoll, by edge", Box::new(Epoll::new(reactor, libc::EPOLLET))),
        ("mio", Box::new(Mio::new(reactor))),
    ]
}

/// A task in such a loop: it is polled when it was woken, and whoever wakes it ends the loop's wait.
struct Bell {
    woken: AtomicBool,
    reactor: Handle,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.reactor.notify();
    }
}

/// What a host does for its guest. Returns how often it has waited, too.
fn drive<F: Future>(reactor: &Reactor, host: &mut dyn Host, work: F) -> (F::Output, usize) {
    let bell = Arc::new(Bell { woken: AtomicBool::new(true), reactor: reactor.handle() });
    let (waker, mut work) = (Waker::from(bell.clone()), pin!(work));
    let (give_up, mut waits) = (Instant::now() + PATIENCE, 0);
    loop {
        while bell.woken.swap(false, Ordering::SeqCst) {
            let cx = &mut Context::from_waker(&waker);
            if let Poll::Ready(output) = reactor.enter(|| work.as_mut().poll(cx)) {
                return (output, waits);
            }
        }
        let deadline = reactor.next_deadline().unwrap_or(give_up).min(give_up);
        host.wait(deadline.saturating_duration_since(Instant::now()));
        waits += 1;
        assert!(Instant::now() < give_up, "the guest hangs");
        reactor.turn(Some(Duration::ZERO)).unwrap();
    }
}

// ---------------------------------------------------------------------------------------------------- work

/// Some of everything: connections, datagrams, timers, and wakes from another thread.
async fn some_work() -> io::Result<()> {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    let addr = listener.get_ref().local_addr()?;
    let (client, (server, _)) = future::try_zip(Async::<TcpStream>::connect(addr), listener.accept()).await?;
    let udp = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
    let udp_addr = udp.get_ref().local_addr()?;
    let (sender, tokens) = async_channel::bounded(1);
    let other = thread::spawn(move || (0..20_u8).try_for_each(|i| sender.send_blocking(i)));
    for i in 0..20_u8 {
        let mut buf = [0; 1];
        let read = async {
            (&server).read_exact(&mut buf).await?;
            (&server).write_all(&buf).await
        };
        let write = async {
            sleep(Duration::from_micros(300)).await;
            (&client).write_all(&[i]).await
        };
        future::try_zip(read, write).await?;
        (&client).read_exact(&mut buf).await?;
        assert_eq!(buf, [i]);
        udp.send_to(&[i], udp_addr).await?;
        assert_eq!(udp.recv_from(&mut buf).await?, (1, udp_addr));
        assert_eq!(tokens.recv().await, Ok(i));
    }
    assert!(timeout(MS, future::pending::<()>()).await.is_err());
    let mut ticks = interval(MS);
    for _ in 0..3 {
        ticks.tick().await;
    }
    other.join().unwrap().unwrap();
    Ok(())
}

#[test]
fn a_guest_works_in_a_loop_that_waits_for_its_descriptor_and_starts_no_thread() {
    if cannot_be_a_guest() {
        return;
    }
    in_a_process_of_its_own(
        "a_guest_works_in_a_loop_that_waits_for_its_descriptor_and_starts_no_thread",
        || {
            let before = thread_names();
            let reactor = Reactor::new().unwrap();
            for (_, host) in &mut hosts(&reactor) {
                drive(&reactor, &mut **host, some_work()).0.unwrap();
            }
            // A name is the exception, and its thread goes again.
            assert_eq!(thread_names(), before);
        },
    );
}

// ---------------------------------------------------------------------------------- told, and told once

#[test]
fn a_loop_is_quiet_after_a_turn_whatever_there_was() {
    if cannot_be_a_guest() {
        return;
    }
    let reactor = Reactor::new().unwrap();
    let hosts = &mut hosts(&reactor);
    let (a, mut b) = tcp_pair();
    let a = reactor.enter(|| Async::new(a)).unwrap();
    let quiet = |hosts: &mut Vec<(&str, Box<dyn Host>)>, after: &str| {
        for (name, host) in hosts {
            // What one is told of an edge may come after the turn that saw to it.
            host.wait(Duration::ZERO);
            assert!(!host.wait(Duration::ZERO), "{name}, after {after}");
        }
    };
    let told = |hosts: &mut Vec<(&str, Box<dyn Host>)>, of: &str| {
        for (name, host) in hosts {
            assert!(host.wait(PATIENCE), "{name}, of {of}");
        }
    };
    let turn = || reactor.turn(Some(Duration::ZERO)).unwrap();
    turn();
    quiet(hosts, "a registration");
    let (wakes, waker) = Wakes::new();
    for i in 1..=3 {
        let mut readable = a.readable();
        reactor.enter(|| assert!(poll(&mut readable, &waker).is_pending()));
        b.write_all(b"x").unwrap();
        told(hosts, "data");
        assert_eq!(turn().woken, 1);
        assert_eq!(wakes.count(), i);
        // Unread, and yet no news.
        quiet(hosts, "data");
        a.get_ref().read_exact(&mut [0]).unwrap();
        quiet(hosts, "reading");
        let handle = reactor.handle();
        thread::spawn(move || handle.notify()).join().unwrap();
        told(hosts, "a notification");
        turn();
        quiet(hosts, "a notification");
        // One that comes while its thread is busy with the reactor is told afterwards.
        reactor.enter(|| reactor.handle().notify());
        told(hosts, "a notification to one who is awake");
        turn();
        quiet(hosts, "a notification to one who is awake");
    }
    drop(b);
    told(hosts, "a hang-up");
    turn();
    quiet(hosts, "a hang-up");
}

#[test]
fn a_timer_of_another_thread_is_news_if_it_is_the_earliest() {
    if cannot_be_a_guest() {
        return;
    }
    let reactor = Reactor::new().unwrap();
    let (wakes, waker) = Wakes::new();
    for (name, host) in &mut hosts(&reactor) {
        reactor.turn(Some(Duration::ZERO)).unwrap();
        host.wait(Duration::ZERO);
        let (handle, waker) = (reactor.handle(), waker.clone());
        let timer = thread::spawn(move || {
            let mut timer = Timer::after(5 * MS);
            handle.enter(|| assert!(poll(&mut timer, &waker).is_pending()));
            timer
        });
        assert!(host.wait(PATIENCE), "{name}");
        reactor.turn(Some(Duration::ZERO)).unwrap();
        let mut timer = timer.join().unwrap();
        // It is moved by whoever has it: earlier is news.
        timer.set_after(10 * PATIENCE);
        let mut wait_until_due = || {
            let left =
                reactor.next_deadline().expect("a timer is set").saturating_duration_since(Instant::now());
            let is_soon = left < PATIENCE;
            if is_soon {
                host.wait(left);
                reactor.turn(Some(Duration::ZERO)).unwrap();
            }
            is_soon
        };
        while wait_until_due() {}
        let before = wakes.count();
        timer.set_after(5 * MS);
        assert!(host.wait(PATIENCE), "{name}, moved");
        reactor.turn(Some(Duration::ZERO)).unwrap();
        while wakes.count() == before {
            let due = reactor.next_deadline().expect("a timer is set");
            host.wait(due.saturating_duration_since(Instant::now()));
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
    }
}

#[test]
fn no_wake_of_another_thread_is_lost() {
    if cannot_be_a_guest() {
        return;
    }
    const ROUNDS: usize = 3000;
    let reactor = Reactor::new().unwrap();
    for (_, host) in &mut hosts(&reactor) {
        // Each answer is asked for: a wake that is lost stops both.
        let (ask, asked) = async_channel::bounded(1);
        let (answer, answered) = async_channel::bounded(1);
        let other = thread::spawn(move || {
            while let Ok(i) = asked.recv_blocking() {
                answer.send_blocking(i).unwrap();
            }
        });
        let ((), waits) = drive(&reactor, &mut **host, async move {
            for i in 0..ROUNDS {
                ask.send(i).await.unwrap();
                assert_eq!(answered.recv().await, Ok(i));
            }
        });
        other.join().unwrap();
        assert!(waits <= 4 * ROUNDS, "{waits} waits for {ROUNDS} wakes");
    }
}

#[test]
fn a_guest_that_waits_for_a_timer_lets_its_host_sleep() {
    if cannot_be_a_guest() {
        return;
    }
    let reactor = Reactor::new().unwrap();
    for (name, host) in &mut hosts(&reactor) {
        let ((), waits) = drive(&reactor, &mut **host, async {
            sleep(100 * MS).await;
        });
        assert!(waits <= 10, "{name}: {waits} waits for one timer");
    }
}

// ----------------------------------------------------------------------------- more than an edge can tell

#[cfg(target_os = "linux")]
fn eventfd() -> OwnedFd {
    // SAFETY: no pointers; the descriptor is new.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: as above.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(target_os = "linux")]
#[test]
fn more_events_than_come_out_of_one_wait_are_all_told() {
    if cannot_be_a_guest()
        || skip_if(cfg!(wakewheel_libkqueue), "libkqueue leaves events though there is room")
    {
        return;
    }
    in_a_process_of_its_own("more_events_than_come_out_of_one_wait_are_all_told", || {
        const COUNT: usize = 2500;
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is valid for writes, and for reads.
        unsafe {
            assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
            limit.rlim_cur = limit.rlim_max.min(COUNT as u64 + 100);
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        }
        let reactor = Reactor::new().unwrap();
        for (name, host) in &mut hosts(&reactor) {
            let all: Vec<_> =
                (0..COUNT).map(|_| reactor.enter(|| Async::new_nonblocking(eventfd())).unwrap()).collect();
            while host.wait(Duration::ZERO) {
                reactor.turn(Some(Duration::ZERO)).unwrap();
            }
            let (wakes, waker) = Wakes::new();
            let mut waiting: Vec<_> = all.iter().map(|one| one.readable()).collect();
            reactor.enter(|| waiting.iter_mut().for_each(|one| assert!(poll(one, &waker).is_pending())));
            for one in &all {
                let buf = 1u64.to_ne_bytes();
                // SAFETY: `buf` is valid for reads.
                assert_eq!(unsafe { libc::write(one.as_raw_fd(), buf.as_ptr().cast(), 8) }, 8);
            }
            while wakes.count() < COUNT {
                assert!(host.wait(PATIENCE), "{name}: no news after {} of {COUNT}", wakes.count());
                reactor.turn(Some(Duration::ZERO)).unwrap();
            }
        }
    });
}

#[test]
fn a_level_that_stays_is_told_again() {
    if cannot_be_a_guest() {
        return;
    }
    use wakewheel::reactor::Interest;
    for at_first in [Interest::READ, Interest::NONE] {
        told_again_of_a_level(at_first);
    }
}

/// Of a watch that waits for this when it is made, and for reading after that.
fn told_again_of_a_level(at_first: wakewheel::reactor::Interest) {
    let reactor = Reactor::new().unwrap();
    for (name, host) in &mut hosts(&reactor) {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let mut watch = reactor.enter(|| Watch::new(&a, at_first, Trigger::Level).unwrap());
        watch.set_interest(wakewheel::reactor::Interest::READ).unwrap();
        let (_, waker) = Wakes::new();
        let cx = &mut Context::from_waker(&waker);
        b.write_all(b"12345").unwrap();
        for i in 1..=5 {
            while reactor.enter(|| watch.poll_ready(cx)).is_pending() {
                assert!(host.wait(PATIENCE), "{name}: no news of byte {i}");
                reactor.turn(Some(Duration::ZERO)).unwrap();
            }
            a.read_exact(&mut [0]).unwrap();
        }
        drop(watch);
        drop((a, b));
        while host.wait(Duration::ZERO) {
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
    }
}

// --------------------------------------------------------------------------------------------------- tokio

/// What `examples/guest_in_tokio.rs` does, in short: turns the reactor whenever its descriptor has news or a timer is due.
async fn drive_in_tokio(reactor: Reactor, turns: Arc<AtomicUsize>) -> io::Result<()> {
    let fd = reactor.as_fd().try_clone_to_owned()?;
    // SAFETY: it owns the descriptor, and nobody replaces it.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
    loop {
        let news = async { fd.readable().await.map(|mut guard| guard.clear_ready()) };
        match reactor.next_deadline() {
            None => news.await?,
            Some(due) => tokio::time::timeout_at(due.into(), news).await.unwrap_or(Ok(()))?,
        }
        reactor.turn(Some(Duration::ZERO))?;
        turns.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_guest_works_in_tokio_and_starts_no_thread() {
    if cannot_be_a_guest() {
        return;
    }
    in_a_process_of_its_own("a_guest_works_in_tokio_and_starts_no_thread", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let before = thread_names();
        runtime.block_on(async {
            let reactor = Reactor::new().unwrap();
            let (handle, turns) = (reactor.handle(), Arc::new(AtomicUsize::new(0)));
            let driver = tokio::spawn(drive_in_tokio(reactor, turns.clone()));
            let tasks: Vec<_> = (0..10).map(|_| tokio::spawn(handle.scope(some_work()))).collect();
            for task in tasks {
                tokio::time::timeout(PATIENCE, task).await.expect("in time").unwrap().unwrap();
            }
            // It sleeps when there is nothing to do.
            let before = turns.load(Ordering::SeqCst);
            handle.scope(sleep(100 * MS)).await;
            let turns = turns.load(Ordering::SeqCst) - before;
            assert!(turns <= 10, "{turns} turns for one timer");
            assert_eq!(handle.sources_alive(), 0);
            driver.abort();
        });
        assert_eq!(thread_names(), before);
    });
}

#[test]
fn a_guest_works_in_tokio_with_many_threads_and_is_replaced_when_it_ends() {
    if cannot_be_a_guest() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(async {
        let reactor = Reactor::new().unwrap();
        let handle = reactor.handle();
        let driver = tokio::spawn(drive_in_tokio(reactor, Arc::default()));
        let tasks: Vec<_> = (0..20).map(|_| tokio::spawn(handle.scope(some_work()))).collect();
        for task in tasks {
            tokio::time::timeout(PATIENCE, task).await.expect("in time").unwrap().unwrap();
        }
        // Those that are under way go on with the shared one.
        let tasks: Vec<_> = (0..20).map(|_| tokio::spawn(handle.scope(some_work()))).collect();
        while handle.sources_alive() == 0 {
            tokio::task::yield_now().await;
        }
        driver.abort();
        for task in tasks {
            tokio::time::timeout(PATIENCE, task).await.expect("in time").unwrap().unwrap();
        }
        assert!(driver.await.unwrap_err().is_cancelled());
        handle.scope(within(some_work())).await.unwrap();
    });
}

/// The number of a closed descriptor has passed to somebody else.
#[test]
fn an_old_watch_does_not_disturb_the_next_owner_of_its_number() {
    if skip_if(backend() == Backend::Poll, "poll(2) does not see that a file was closed") {
        return;
    }
    let (old, _peer) = UnixStream::pair().unwrap();
    let (new, mut peer) = UnixStream::pair().unwrap();
    let reactor = Reactor::new().unwrap();
    reactor.enter(|| {
        let readable = wakewheel::reactor::Interest::READ;
        let mut watch = Watch::new(&old, readable, Trigger::Level).unwrap();
        // SAFETY: both are open, and `old` is that number's owner still, now of the other file.
        assert_ne!(unsafe { libc::dup2(new.as_raw_fd(), old.as_raw_fd()) }, -1);
        drop(new);
        let mut owner = Async::new(old).unwrap();
        let mut buf = [0; 1];
        let mut read = pin!(owner.read(&mut buf));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(read.as_mut().poll(&mut cx).is_pending());
        watch.set_interest(wakewheel::reactor::Interest::WRITE).unwrap_err();
        peer.write_all(b"x").unwrap();
        reactor.turn(Some(PATIENCE)).unwrap();
        assert!(matches!(read.as_mut().poll(&mut cx), Poll::Ready(Ok(1))));
    });
}
