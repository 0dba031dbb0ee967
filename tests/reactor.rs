//! A reactor that is turned by hand, one that sits in somebody else's loop, and the shared one: who drives it, and
//! when it needs a thread.

mod common;

use common::proc::thread_names;
use common::{
    PATIENCE, Wakes, backend, in_a_process_of_its_own, poll, run, skip_if, tcp_pair, turn_until, within,
};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use std::cell::Cell;
use std::future::Future;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::reactor::{Backend, Handle, Reactor};
use wakewheel::{Async, Cores, LocalExecutor, Timer, block_on, sleep};

/// Is the reactor's descriptor readable, or does it become so within `patience`?
fn is_readable(reactor: &Reactor, patience: Duration) -> bool {
    let mut one = libc::pollfd { fd: reactor.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `one` is a valid array of one pollfd.
    unsafe { libc::poll(&mut one, 1, patience.as_millis() as i32) == 1 }
}

fn has_helper() -> bool {
    thread_names().iter().any(|name| name == "wakewheel")
}

/// Tokens that can be waited for, without any reactor.
#[derive(Default)]
struct Tokens {
    count: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl Tokens {
    fn give(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for one, and takes it.
    async fn take(&self) {
        future::poll_fn(|cx| {
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            if self.count.load(Ordering::SeqCst) == 0 {
                return Poll::Pending;
            }
            // Only one takes.
            self.count.fetch_sub(1, Ordering::SeqCst);
            Poll::Ready(())
        })
        .await;
    }
}

// ------------------------------------------------------------------------------------------ by hand

#[test]
fn a_turn_ends_with_its_time_out_and_not_before() {
    let reactor = Reactor::new().unwrap();
    for ms in [0, 1, 5, 20] {
        let (started, timeout) = (Instant::now(), Duration::from_millis(ms));
        let turn = reactor.turn(Some(timeout)).unwrap();
        assert!(started.elapsed() >= timeout, "{:?}, not {timeout:?}", started.elapsed());
        assert_eq!((turn.events, turn.timers, turn.woken), (0, 0, 0));
    }
}

#[test]
fn a_turn_says_what_it_did() {
    let reactor = Reactor::new().unwrap();
    let (a, mut b) = tcp_pair();
    let (_, waker) = Wakes::new();
    let a = reactor.enter(|| Async::new(a)).unwrap();
    while reactor.turn(Some(Duration::ZERO)).unwrap().events > 0 {}
    let (mut first, mut second) = (a.readable(), a.readable());
    reactor.enter(|| {
        assert!(poll(&mut first, &waker).is_pending());
        assert!(poll(&mut second, &waker).is_pending());
    });
    b.write_all(b"x").unwrap();
    let turn = reactor.turn(Some(PATIENCE)).unwrap();
    assert_eq!((turn.timers, turn.woken), (0, 2));
    // kqueue has an event for each direction. (To the real one, that it can be written to is no news.)
    let events_max = if backend() == Backend::Kqueue { 2 } else { 1 };
    assert!((1..=events_max).contains(&turn.events), "{turn:?}");
    let mut timer = Timer::after(Duration::from_millis(50));
    reactor.enter(|| assert!(poll(&mut timer, &waker).is_pending()));
    let turn = reactor.turn(Some(PATIENCE)).unwrap();
    assert_eq!((turn.events, turn.timers, turn.woken), (0, 1, 1));
    assert_eq!(reactor.handle().sources_alive(), 1);
    drop((first, second));
    drop(a);
    assert_eq!(reactor.handle().sources_alive(), 0);
}

#[test]
fn a_notification_from_another_thread_ends_a_turn_without_end() {
    let reactor = Reactor::new().unwrap();
    let handle = reactor.handle();
    let (go, gone) = mpsc::channel();
    let other = thread::spawn(move || gone.iter().for_each(|()| handle.notify()));
    for _ in 0..500 {
        // It comes before the turn, at its beginning, or while it waits.
        go.send(()).unwrap();
        reactor.turn(None).unwrap();
    }
    drop(go);
    other.join().unwrap();
}

#[test]
fn notifications_before_a_turn_count_once() {
    let reactor = Reactor::new().unwrap();
    for timeout in [None, Some(Duration::ZERO)] {
        for _ in 0..3 {
            reactor.handle().notify();
        }
        assert!(is_readable(&reactor, Duration::ZERO));
        reactor.turn(timeout).unwrap();
        assert!(!is_readable(&reactor, Duration::ZERO), "it was told already");
        let started = Instant::now();
        reactor.turn(Some(Duration::from_millis(5))).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(5), "it was told already");
    }
}

#[test]
fn the_next_deadline_is_that_of_the_earliest_timer() {
    let reactor = Reactor::new().unwrap();
    let (wakes, waker) = Wakes::new();
    assert_eq!(reactor.next_deadline(), None);
    let now = Instant::now();
    let deadlines = [30, 10, 20].map(|s| now + Duration::from_secs(s));
    let mut timers = deadlines.map(Timer::at);
    reactor.enter(|| timers.iter_mut().for_each(|timer| assert!(poll(timer, &waker).is_pending())));
    // Those of the same tick are due together.
    let tick = Duration::from_micros(40);
    let next = reactor.next_deadline().unwrap();
    assert!(next >= deadlines[1] && next <= deadlines[1] + tick || next <= deadlines[1], "{next:?}");
    // One that another thread sets counts as well.
    let (handle, other) = (reactor.handle(), waker.clone());
    let soon = thread::spawn(move || {
        handle.enter(|| {
            let mut timer = Timer::after(Duration::from_millis(50));
            assert!(poll(&mut timer, &other).is_pending());
            timer
        })
    });
    let _soon = soon.join().unwrap();
    assert!(reactor.next_deadline().unwrap() < now + Duration::from_secs(9));
    turn_until(&reactor, || wakes.count() == 1);
    drop(timers);
    turn_until(&reactor, || {
        reactor.turn(Some(Duration::ZERO)).unwrap();
        reactor.next_deadline().is_none_or(|deadline| deadline > Instant::now())
    });
    assert_eq!(wakes.count(), 1);
}

#[test]
fn what_another_thread_registers_by_the_handle_is_served_by_the_one_who_turns() {
    let reactor = Reactor::new().unwrap();
    let handle = reactor.handle();
    let done = Arc::new(AtomicBool::new(false));
    let other = thread::spawn({
        let done = done.clone();
        move || {
            let (a, mut b) = tcp_pair();
            let mut a = handle.enter(|| Async::new(a)).unwrap();
            assert_eq!(handle.sources_alive(), 1);
            let result = future::block_on(async {
                let mut buf = [0; 1];
                assert!(future::poll_once(a.read(&mut buf)).await.is_none());
                b.write_all(b"x")?;
                a.read_exact(&mut buf).await
            });
            done.store(true, Ordering::SeqCst);
            handle.notify();
            result
        }
    });
    turn_until(&reactor, || done.load(Ordering::SeqCst));
    other.join().unwrap().unwrap();
}

#[test]
fn a_waker_that_panics_does_not_stop_the_others() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics, as the test wants it");
        }
    }
    let reactor = Reactor::new().unwrap();
    let (a, mut b) = tcp_pair();
    let a = reactor.enter(|| Async::new(a)).unwrap();
    let bad = Waker::from(Arc::new(Panics));
    let (wakes, good) = Wakes::new();
    reactor.enter(|| {
        let mut waiting: Vec<_> = (0..6).map(|_| a.readable()).collect();
        let mut timers: Vec<_> = (0..6).map(|_| Timer::after(Duration::from_millis(50))).collect();
        for i in 0..6 {
            let waker = if i % 2 == 0 { &bad } else { &good };
            assert!(poll(&mut waiting[i], waker).is_pending());
            assert!(poll(&mut timers[i], waker).is_pending());
        }
        b.write_all(b"x").unwrap();
        turn_until(&reactor, || wakes.count() == 6);
        // And it goes on as if nothing had happened.
        for future in &mut waiting {
            assert!(poll(future, &good).is_ready());
        }
        run(async { Ok(sleep(Duration::from_millis(1)).await) });
    });
}

#[test]
fn a_waker_may_turn_the_reactor_that_wakes_it() {
    struct Turns(AtomicUsize);
    thread_local! {
        static REACTOR: Cell<Option<&'static Reactor>> = const { Cell::new(None) };
    }
    impl Wake for Turns {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
            REACTOR.get().unwrap().turn(Some(Duration::ZERO)).unwrap();
        }
    }
    let reactor: &'static Reactor = Box::leak(Box::new(Reactor::new().unwrap()));
    REACTOR.set(Some(reactor));
    let turns = Arc::new(Turns(AtomicUsize::new(0)));
    let waker = Waker::from(turns.clone());
    reactor.enter(|| {
        let mut timers = [50, 50, 60].map(|ms| Timer::after(Duration::from_millis(ms)));
        for timer in &mut timers {
            assert!(poll(timer, &waker).is_pending());
        }
        turn_until(reactor, || turns.0.load(Ordering::SeqCst) == 3);
    });
}

#[test]
fn who_waits_for_a_reactor_that_is_dropped_goes_on_with_another() {
    let (sender, reactors) = mpsc::channel();
    let (a, mut b) = tcp_pair();
    let waiting = thread::spawn(move || {
        let reactor = Reactor::new().unwrap();
        let mut a = reactor.enter(|| Async::new(a)).unwrap();
        let mut timer = Timer::after(Duration::from_millis(100));
        let mut buf = [0; 1];
        let mut read = pin!(async { a.read_exact(&mut buf).await });
        reactor.enter(|| {
            let (_, waker) = Wakes::new();
            assert!(poll(&mut read, &waker).is_pending());
            assert!(poll(&mut timer, &waker).is_pending());
        });
        // From now on it is nobody's duty to turn it.
        drop(reactor);
        sender.send(()).unwrap();
        run(async {
            timer.await;
            read.await
        });
    });
    reactors.recv_timeout(PATIENCE).unwrap();
    b.write_all(b"x").unwrap();
    waiting.join().unwrap();
}

#[test]
fn a_task_in_another_thread_is_moved_when_its_reactor_is_dropped_under_it() {
    for _ in 0..20 {
        let reactor = Reactor::new().unwrap();
        let (a, mut b) = tcp_pair();
        let a = reactor.enter(|| Async::new(a)).unwrap();
        let (sender, waits) = mpsc::channel();
        let task = thread::spawn(move || {
            run(async {
                let mut buf = [0; 1];
                let mut a_read = &a;
                let mut read = pin!(a_read.read_exact(&mut buf));
                let mut readable = a.readable();
                assert!(future::poll_once(read.as_mut()).await.is_none());
                assert!(future::poll_once(&mut readable).await.is_none());
                sender.send(()).unwrap();
                future::try_zip(readable, read).await
            })
        });
        waits.recv_timeout(PATIENCE).unwrap();
        drop(reactor);
        b.write_all(b"x").unwrap();
        task.join().unwrap();
    }
}

// ------------------------------------------------------------------------------------------ as a guest

#[test]
fn who_registers_with_a_reactor_while_it_is_dropped_gets_another() {
    const DROPPED: usize = 1 << 30;
    let (handles, next) = mpsc::channel::<(Handle, Arc<AtomicUsize>)>();
    let registers = thread::spawn(move || {
        let (socket, _peer) = UnixStream::pair().unwrap();
        for (handle, state) in next {
            handle.enter(|| {
                while state.fetch_add(1, Ordering::SeqCst) < DROPPED {
                    drop(Async::new(&socket).unwrap());
                }
            });
        }
    });
    for i in 0..200 {
        let (reactor, state) = (Reactor::new().unwrap(), Arc::new(AtomicUsize::new(0)));
        if handles.send((reactor.handle(), state.clone())).is_err() {
            break;
        }
        // The other thread is busy with it, a little further on each time.
        while state.load(Ordering::SeqCst) < 3 && !registers.is_finished() {
            thread::yield_now();
        }
        (0..i % 100 * 10).for_each(|_| std::hint::spin_loop());
        drop(reactor);
        state.fetch_add(DROPPED, Ordering::SeqCst);
    }
    drop(handles);
    registers.join().unwrap();
}

#[test]
fn a_reactor_sits_in_a_loop_of_poll_by_its_descriptor() {
    if skip_if(backend() == Backend::Poll, "its descriptor tells of notifications only") {
        return;
    }
    let reactor = Reactor::new().unwrap();
    let (done, waker) = Wakes::new();
    let mut work = Box::pin(async {
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
        let addr = listener.get_ref().local_addr()?;
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(addr).unwrap();
            for _ in 0..20 {
                thread::yield_now();
                stream.write_all(b"ping").unwrap();
                io::Read::read_exact(&mut stream, &mut [0; 4]).unwrap();
            }
        });
        let (mut stream, _) = listener.accept().await?;
        for _ in 0..20 {
            let mut buf = [0; 4];
            stream.read_exact(&mut buf).await?;
            sleep(Duration::from_micros(700)).await;
            stream.write_all(&buf).await?;
        }
        client.join().unwrap();
        io::Result::Ok(())
    });
    // The host: it polls the task when it was woken, and waits in poll(2) for the descriptor or the deadline.
    let mut polled = usize::MAX;
    let give_up = Instant::now() + PATIENCE;
    loop {
        if polled != done.count() {
            polled = done.count();
            if let Poll::Ready(result) = reactor.enter(|| poll(&mut work, &waker)) {
                return result.unwrap();
            }
            continue;
        }
        let deadline = reactor.next_deadline().unwrap_or(give_up);
        let left = deadline.saturating_duration_since(Instant::now());
        is_readable(&reactor, left + Duration::from_millis(1));
        assert!(Instant::now() < give_up, "the guest hangs");
        reactor.turn(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn news_from_other_threads_make_the_descriptor_readable() {
    let reactor = Reactor::new().unwrap();
    let handle = reactor.handle();
    for _ in 0..50 {
        assert!(!is_readable(&reactor, Duration::ZERO));
        let notifier = handle.clone();
        let other = thread::spawn(move || notifier.notify());
        assert!(is_readable(&reactor, PATIENCE), "a notification");
        reactor.turn(Some(Duration::ZERO)).unwrap();
        other.join().unwrap();
    }
    let (wakes, waker) = Wakes::new();
    let other = thread::spawn(move || {
        handle.enter(|| {
            let mut timer = Timer::after(Duration::from_millis(50));
            assert!(poll(&mut timer, &waker).is_pending());
            timer
        })
    });
    assert!(is_readable(&reactor, PATIENCE), "a timer that is earlier than all others");
    turn_until(&reactor, || wakes.count() == 1);
    drop(other.join().unwrap());
}

#[test]
fn news_make_the_descriptor_readable_after_a_block_on_has_driven_the_reactor() {
    let reactor = Reactor::new().unwrap();
    for _ in 0..2 {
        reactor.enter(|| block_on(sleep(Duration::from_millis(1))));
        reactor.turn(Some(Duration::ZERO)).unwrap();
        reactor.enter(|| block_on(sleep(Duration::from_millis(1))));
        // What ended its waits is no longer news.
        while is_readable(&reactor, Duration::ZERO) {
            reactor.enter(|| block_on(sleep(Duration::from_millis(1))));
        }
        reactor.handle().notify();
        assert!(is_readable(&reactor, Duration::ZERO), "a notification");
        reactor.turn(Some(Duration::ZERO)).unwrap();
    }
}

// -------------------------------------------------------------------------------------------- block_on

/// Sockets, timers, a connection: what one thread can do alone.
async fn some_work() -> io::Result<()> {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    let addr = listener.get_ref().local_addr()?;
    let (client, (server, _)) = future::try_zip(Async::<TcpStream>::connect(addr), listener.accept()).await?;
    for i in 0..20_u8 {
        let mut buf = [0; 1];
        let (mut reader, mut writer) = (&server, &client);
        let read = async { reader.read_exact(&mut buf).await };
        let write = async {
            sleep(Duration::from_micros(300)).await;
            writer.write_all(&[i]).await
        };
        future::try_zip(read, write).await?;
        assert_eq!(buf, [i]);
    }
    Ok(())
}

#[test]
fn a_program_that_uses_only_block_on_has_no_other_thread() {
    in_a_process_of_its_own("a_program_that_uses_only_block_on_has_no_other_thread", || {
        let before = thread_names();
        run(some_work());
        run(async { future::zip(some_work(), some_work()).await.0 });
        run(async { block_on(some_work()) });
        LocalExecutor::new().unwrap().block_on(within(some_work())).unwrap();
        assert_eq!(thread_names(), before);
    });
}

#[test]
fn sockets_and_timers_that_nobody_waits_for_need_no_thread() {
    in_a_process_of_its_own("sockets_and_timers_that_nobody_waits_for_need_no_thread", || {
        let before = thread_names();
        let (a, b) = tcp_pair();
        let (_a, mut b) = (Async::new(a).unwrap(), Async::new(b).unwrap());
        let _timer = Timer::after(Duration::from_millis(1));
        // What is ready at once does not wait.
        future::block_on(b.write_all(b"x")).unwrap();
        assert_eq!(thread_names(), before);
    });
}

#[test]
fn a_thread_drives_when_another_executor_waits() {
    in_a_process_of_its_own("a_thread_drives_when_another_executor_waits", || {
        assert!(!has_helper());
        future::block_on(within(some_work())).unwrap();
        assert!(has_helper());
        // Once is enough.
        future::block_on(within(some_work())).unwrap();
        assert_eq!(thread_names().iter().filter(|name| *name == "wakewheel").count(), 1);
        // And it gives the seat back.
        run(some_work());
        future::block_on(within(some_work())).unwrap();
    });
}

#[test]
fn a_waker_that_another_executor_left_is_served_after_the_last_block_on_has_ended() {
    in_a_process_of_its_own(
        "a_waker_that_another_executor_left_is_served_after_the_last_block_on_has_ended",
        || {
            let (wakes, waker) = Wakes::new();
            let mut timer = Timer::after(Duration::from_millis(50));
            run(async {
                sleep(Duration::from_millis(1)).await;
                // A task of somebody else's, polled here by chance.
                assert!(poll(&mut timer, &waker).is_pending());
                Ok(())
            });
            let deadline = Instant::now() + PATIENCE;
            while wakes.count() == 0 {
                assert!(Instant::now() < deadline, "nobody drives");
                thread::yield_now();
            }
        },
    );
}

#[test]
fn many_threads_in_block_on_talk_over_sockets() {
    const THREADS: usize = 8;
    const ROUNDS: u32 = 300;
    // A ring: everybody passes on what the one before him sends.
    let (mut outs, mut ins): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| UnixStream::pair().unwrap()).unzip();
    ins.rotate_left(1);
    let threads: Vec<_> = std::iter::zip(outs.drain(..), ins.drain(..))
        .enumerate()
        .map(|(i, (to, from))| {
            thread::spawn(move || {
                run(async move {
                    let (mut to, mut from) = (Async::new(to)?, Async::new(from)?);
                    let mut buf = [0; 4];
                    for round in 0..ROUNDS {
                        if i == 0 {
                            to.write_all(&round.to_le_bytes()).await?;
                        }
                        from.read_exact(&mut buf).await?;
                        assert_eq!(u32::from_le_bytes(buf), round);
                        if i != 0 {
                            to.write_all(&buf).await?;
                        }
                    }
                    Ok(())
                })
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn no_wake_is_lost_between_threads_in_block_on() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 20_000;
    // Each waits for what another one gives, and nothing else happens that could wake them.
    let tokens: Arc<Vec<Tokens>> = Arc::new((0..THREADS).map(|_| Tokens::default()).collect());
    let (sender, done) = mpsc::channel();
    for i in 0..THREADS {
        let (tokens, sender) = (tokens.clone(), sender.clone());
        thread::spawn(move || {
            for _ in 0..ROUNDS {
                block_on(tokens[i].take());
                tokens[(i + 1) % THREADS].give();
            }
            sender.send(()).unwrap();
        });
    }
    // Two tokens: so that two of them look for the seat at the same time.
    tokens[0].give();
    tokens[THREADS / 2].give();
    for _ in 0..THREADS {
        done.recv_timeout(PATIENCE).expect("a wake was lost");
    }
}

#[test]
fn a_thread_whose_future_blocks_does_not_stop_the_io_of_others() {
    let (sender, receiver) = mpsc::channel();
    let (started, has_started) = mpsc::channel();
    let blocking = thread::spawn(move || {
        run(async {
            // It has had the seat, perhaps, and does not come back to it.
            sleep(Duration::from_millis(2)).await;
            started.send(()).unwrap();
            receiver.recv_timeout(PATIENCE).expect("the others are done");
            Ok(())
        });
    });
    has_started.recv_timeout(PATIENCE).unwrap();
    let others: Vec<_> = (0..3).map(|_| thread::spawn(|| run(some_work()))).collect();
    for other in others {
        other.join().unwrap();
    }
    sender.send(()).unwrap();
    blocking.join().unwrap();
}

#[test]
fn a_thread_whose_future_begins_to_block_while_others_wait_does_not_stop_their_io() {
    in_a_process_of_its_own(
        "a_thread_whose_future_begins_to_block_while_others_wait_does_not_stop_their_io",
        || {
            for _ in 0..10 {
                let (started, has_started) = mpsc::channel();
                let (sender, receiver) = mpsc::channel();
                let blocking = thread::spawn(move || {
                    run(async {
                        sleep(Duration::from_millis(3)).await;
                        started.send(()).unwrap();
                        receiver.recv_timeout(PATIENCE).expect("the others are done");
                        Ok(())
                    });
                });
                // It begins while the other one drives.
                let other = thread::spawn(|| run(some_work()));
                has_started.recv_timeout(PATIENCE).unwrap();
                other.join().unwrap();
                sender.send(()).unwrap();
                blocking.join().unwrap();
            }
        },
    );
}

#[test]
fn block_on_can_be_nested() {
    run(async {
        sleep(Duration::from_millis(1)).await;
        block_on(async {
            sleep(Duration::from_millis(1)).await;
            block_on(some_work())
        })?;
        some_work().await
    });
}

#[test]
fn a_waker_may_be_in_block_on_whoever_drives_the_reactor_that_wakes_it() {
    struct Blocks(AtomicUsize);
    impl Wake for Blocks {
        fn wake(self: Arc<Self>) {
            run(some_work());
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    const NAME: &str = "a_waker_may_be_in_block_on_whoever_drives_the_reactor_that_wakes_it";
    in_a_process_of_its_own(NAME, || {
        let blocks = Arc::new(Blocks(AtomicUsize::new(0)));
        let waker = Waker::from(blocks.clone());
        let mut timers = [5, 5, 6].map(|ms| Timer::after(Duration::from_millis(ms)));
        run(async {
            for timer in &mut timers {
                assert!(poll(timer, &waker).is_pending());
            }
            sleep(Duration::from_millis(10)).await;
            Ok(())
        });
        // This one is for the helper.
        let mut timer = Timer::after(Duration::from_millis(40));
        assert!(poll(&mut timer, &waker).is_pending());
        let give_up = Instant::now() + PATIENCE;
        while blocks.0.load(Ordering::SeqCst) < 4 {
            assert!(Instant::now() < give_up, "it does not happen");
            thread::yield_now();
        }
    });
}

#[test]
fn the_future_of_a_nested_block_on_is_woken_as_itself() {
    in_a_process_of_its_own("the_future_of_a_nested_block_on_is_woken_as_itself", || {
        let (outer_polls, token) = (Cell::new(0), Arc::new(Tokens::default()));
        let giver = token.clone();
        run(async {
            let mut outer = pin!(async {
                block_on(within(async {
                    let thread = thread::spawn(move || giver.give());
                    token.take().await;
                    thread.join().unwrap();
                }));
                sleep(Duration::from_millis(1)).await;
            });
            future::poll_fn(|cx| {
                outer_polls.set(outer_polls.get() + 1);
                outer.as_mut().poll(cx)
            })
            .await;
            Ok(())
        });
        assert!(outer_polls.get() <= 3, "{} polls", outer_polls.get());
    });
}

#[test]
fn block_on_works_inside_a_task_of_a_core() {
    let cores = Cores::new(1).unwrap();
    // A socket of the shared reactor, which this core does not drive.
    let (a, mut b) = tcp_pair();
    let mut a = Async::new(a).unwrap();
    let task = cores.spawn(move || async move {
        block_on(within(some_work())).unwrap();
        sleep(Duration::from_millis(1)).await;
        block_on(within(async {
            let mut buf = [0; 1];
            assert!(future::poll_once(a.read(&mut buf)).await.is_none());
            b.write_all(b"x")?;
            a.read_exact(&mut buf).await
        }))
        .unwrap();
        block_on(within(some_work())).unwrap();
    });
    block_on(within(task)).unwrap();
}

#[test]
fn another_executors_block_on_works_inside_a_task_of_a_core() {
    let cores = Cores::new(1).unwrap();
    let (a, mut b) = tcp_pair();
    let mut a = Async::new(a).unwrap();
    let task = cores.spawn(move || async move {
        sleep(Duration::from_millis(1)).await;
        // The shared reactor's, because this core's waits for the task to end.
        future::block_on(within_shared(async {
            let mut buf = [0; 1];
            assert!(future::poll_once(a.read(&mut buf)).await.is_none());
            b.write_all(b"x")?;
            a.read_exact(&mut buf).await
        }))
        .unwrap();
    });
    block_on(within(task)).unwrap();

    /// Without a timer: it would be the core's.
    async fn within_shared<F: Future>(future: F) -> F::Output {
        future.await
    }
}

#[test]
fn a_local_executor_inside_block_on_is_woken_by_sockets_of_the_shared_reactor() {
    in_a_process_of_its_own(
        "a_local_executor_inside_block_on_is_woken_by_sockets_of_the_shared_reactor",
        || {
            run(async {
                let (a, mut b) = tcp_pair();
                let mut a = Async::new(a)?;
                sleep(Duration::from_millis(1)).await;
                LocalExecutor::new()?.block_on(within(async {
                    let mut buf = [0; 1];
                    assert!(future::poll_once(a.read(&mut buf)).await.is_none());
                    b.write_all(b"x")?;
                    a.read_exact(&mut buf).await
                }))
            });
        },
    );
}

#[test]
fn another_executors_block_on_works_inside_block_on() {
    in_a_process_of_its_own("another_executors_block_on_works_inside_block_on", || {
        run(async {
            sleep(Duration::from_millis(1)).await;
            future::block_on(some_work())?;
            some_work().await
        });
    });
}

#[test]
fn every_reactor_is_of_the_backend_that_was_asked_for() {
    assert_eq!(Reactor::new().unwrap().backend(), backend());
    assert_eq!(Reactor::builder().backend(Backend::Poll).build().unwrap().backend(), Backend::Poll);
    let other = if Backend::NATIVE == Backend::Kqueue { Backend::Epoll } else { Backend::Kqueue };
    let error = Reactor::builder().backend(other).build().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("Backend::NATIVE"), "{error}");
}
