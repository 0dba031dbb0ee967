//! `wakewheel::event`: the behaviours 60 to 70 of its contract, each by its number, and what the original got wrong.

mod common;

use common::proc::descriptors;
use common::{Wakes, backend, in_a_process_of_its_own, skip_if, tcp_pair};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::event::{Base, Error, Event, Kinds, Priority, Run};
use wakewheel::io::Signals;
use wakewheel::reactor::{Backend, Interest, MockClock, Trigger, Watch};
use wakewheel::{Async, LocalExecutor};

const READ: Kinds = Kinds::READ;
const WRITE: Kinds = Kinds::WRITE;
const TIMEOUT: Kinds = Kinds::TIMEOUT;
const PERSIST: Kinds = Kinds::PERSIST;
const EDGE: Kinds = Kinds::EDGE;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

/// What was called, in this order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<(&'static str, Kinds)>>>);

impl Log {
    fn of(&self, name: &'static str) -> impl FnMut(&Event, Kinds) + 'static {
        let log = self.clone();
        move |_, kinds| log.0.borrow_mut().push((name, kinds))
    }

    fn take(&self) -> Vec<(&'static str, Kinds)> {
        self.0.take()
    }

    fn names(&self) -> Vec<&'static str> {
        self.take().into_iter().map(|(name, _)| name).collect()
    }
}

/// So many iterations that do not wait. Returns how many callbacks were called.
fn iterate(base: &Base, n: usize) -> usize {
    (0..n).map(|_| base.run(Run::NonBlocking).unwrap()).sum()
}

fn read_all(mut stream: &UnixStream) -> usize {
    let mut buf = [0; 4096];
    let mut sum = 0;
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        sum += n;
    }
    sum
}

// ------------------------------------------------------------------------------------------- 60 to 70

#[test]
fn b60_a_one_shot_event_is_called_once_and_can_attach_itself_again() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    let log = Log::default();
    let event = Event::new(&base, ours.as_raw_fd(), READ, log.of("once"));
    event.attach(None).unwrap();
    theirs.write_all(b"a").unwrap();
    theirs.write_all(b"b").unwrap();
    assert_eq!(iterate(&base, 5), 1);
    assert_eq!(log.take(), [("once", READ)]);
    assert!(!event.is_attached());

    let was_attached = Rc::new(Cell::new(true));
    event.assign(ours.as_raw_fd(), READ, {
        let (log, was_attached) = (log.clone(), was_attached.clone());
        let mut times = 0;
        move |event, kinds| {
            was_attached.set(event.is_attached());
            log.of("again")(event, kinds);
            times += 1;
            if times < 2 {
                event.attach(None).unwrap();
            }
        }
    });
    event.attach(None).unwrap();
    assert_eq!(iterate(&base, 5), 2);
    assert_eq!(log.names(), ["again", "again"]);
    assert!(!was_attached.get(), "it was attached while its callback ran");
}

#[test]
fn b61_a_level_triggered_event_is_called_in_every_iteration() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    let log = Log::default();
    let event = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, log.of("level"));
    event.attach(None).unwrap();
    assert_eq!(iterate(&base, 2), 0);
    theirs.write_all(b"a").unwrap();
    for _ in 0..10 {
        assert_eq!(iterate(&base, 1), 1);
    }
    // And not once more than that.
    read_all(&ours);
    assert_eq!(iterate(&base, 3), 0);
    theirs.write_all(b"b").unwrap();
    assert_eq!(iterate(&base, 2), 2);
}

#[test]
fn b61_an_edge_triggered_event_is_called_once_until_there_is_new_data() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    let log = Log::default();
    let event = Event::new(&base, ours.as_raw_fd(), READ | PERSIST | EDGE, log.of("edge"));
    theirs.write_all(b"a").unwrap();
    event.attach(None).unwrap();
    assert_eq!(iterate(&base, 10), 1, "what was there before");
    theirs.write_all(b"b").unwrap();
    assert_eq!(iterate(&base, 10), 1, "new data behind old");
    read_all(&ours);
    theirs.write_all(b"c").unwrap();
    assert_eq!(iterate(&base, 10), 1, "new data alone");
    assert_eq!(log.take(), [("edge", READ); 3]);
}

#[test]
fn b61_an_edge_triggered_event_ends_a_wait() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    let event = Event::new(&base, ours.as_raw_fd(), READ | PERSIST | EDGE, |_, _| {});
    event.attach(None).unwrap();
    let writer = thread::spawn(move || {
        for _ in 0..3 {
            thread::sleep(ms(10));
            theirs.write_all(b"a").unwrap();
        }
        theirs
    });
    for _ in 0..3 {
        assert_eq!(base.run(Run::Once).unwrap(), 1);
    }
    drop(writer.join().unwrap());
}

#[test]
fn b62_priorities_come_first_and_within_one_what_was_first() {
    let base = Base::new().unwrap();
    let log = Log::default();
    let sockets: Vec<_> = (0..5).map(|_| pair()).collect();
    for (i, name) in ["middle 1", "high 1", "low", "middle 2", "high 2"].into_iter().enumerate() {
        let event = Event::new(&base, sockets[i].0.as_raw_fd(), READ | PERSIST, log.of(name));
        event.set_priority(match name.as_bytes()[0] {
            b'h' => Priority::High,
            b'm' => Priority::Middle,
            _ => Priority::Low,
        });
        (&sockets[i].1).write_all(b"x").unwrap();
        event.attach(None).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(iterate(&base, 1), 5);
        assert_eq!(log.names(), ["high 1", "high 2", "middle 1", "middle 2", "low"]);
    }
}

#[test]
fn b62_a_timer_of_high_priority_comes_before_io_of_the_middle_one_and_after_it_otherwise() {
    for (priority, expected) in [(Priority::High, ["timer", "io"]), (Priority::Middle, ["io", "timer"])] {
        let base = Base::new().unwrap();
        let (ours, mut theirs) = pair();
        let log = Log::default();
        let timer = Event::new(&base, -1, TIMEOUT, log.of("timer"));
        timer.set_priority(priority);
        timer.attach(Some(ms(2))).unwrap();
        let event = Event::new(&base, ours.as_raw_fd(), READ, log.of("io"));
        event.attach(None).unwrap();
        theirs.write_all(b"x").unwrap();
        thread::sleep(ms(5));
        assert_eq!(iterate(&base, 1), 2);
        assert_eq!(log.names(), expected);
    }
}

#[test]
fn b62_timers_of_one_iteration_fire_in_the_order_of_their_deadlines() {
    let base = Base::new().unwrap();
    let log = Log::default();
    for (name, time) in [("third", ms(3)), ("first", ms(1)), ("second", ms(2)), ("zeroth", ms(0))] {
        Event::new(&base, -1, TIMEOUT, log.of(name)).attach(Some(time)).unwrap();
    }
    thread::sleep(ms(10));
    assert_eq!(iterate(&base, 1), 4);
    assert_eq!(log.names(), ["zeroth", "first", "second", "third"]);
}

#[test]
fn b62_a_timer_that_has_fired_before_comes_after_those_that_are_due_before_it() {
    let base = Base::new().unwrap();
    let log = Log::default();
    let timers = ["first", "second"].map(|name| Event::new(&base, -1, TIMEOUT, log.of(name)));
    timers[1].attach(Some(Duration::ZERO)).unwrap();
    assert_eq!(iterate(&base, 1), 1);
    log.take();
    timers.iter().for_each(|timer| timer.attach(Some(Duration::ZERO)).unwrap());
    assert_eq!(iterate(&base, 1), 2);
    assert_eq!(log.names(), ["first", "second"]);
}

#[test]
fn b63_an_event_of_high_priority_that_is_always_ready_starves_nobody() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    let log = Log::default();
    theirs.write_all(b"x").unwrap();
    let high = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, log.of("high"));
    high.set_priority(Priority::High);
    high.attach(None).unwrap();
    let low = Event::new(&base, -1, TIMEOUT | PERSIST, log.of("low"));
    low.set_priority(Priority::Low);
    low.attach(Some(Duration::ZERO)).unwrap();
    for _ in 0..5 {
        assert_eq!(iterate(&base, 1), 2);
        assert_eq!(log.names(), ["high", "low"]);
    }
}

#[test]
fn b64_who_is_detached_in_the_same_batch_is_not_called() {
    for again in [false, true] {
        let base = Base::new().unwrap();
        let sockets: Vec<_> = (0..2).map(|_| pair()).collect();
        let log = Log::default();
        let io = Event::new(&base, sockets[1].0.as_raw_fd(), READ | PERSIST, log.of("io"));
        let timer = Event::new(&base, -1, TIMEOUT, log.of("timer"));
        let ticker = Event::new(&base, -1, TIMEOUT | PERSIST, log.of("ticker"));
        let siblings = [io.clone(), timer.clone(), ticker.clone()];
        let first = Event::new(&base, sockets[0].0.as_raw_fd(), READ, move |_, _| {
            for sibling in &siblings {
                sibling.detach().unwrap();
                if again {
                    sibling.attach(Some(Duration::from_secs(100))).unwrap();
                }
            }
        });
        first.set_priority(Priority::High);
        first.attach(None).unwrap();
        io.attach(None).unwrap();
        timer.attach(Some(ms(1))).unwrap();
        ticker.attach(Some(ms(1))).unwrap();
        for (_, theirs) in &sockets {
            (&*theirs).write_all(b"x").unwrap();
        }
        thread::sleep(ms(3));
        assert_eq!(iterate(&base, 1), 1);
        assert!(log.take().is_empty(), "a stale callback");
        // Who was attached again is called for what happens from then on.
        assert_eq!(iterate(&base, 1), usize::from(again));
        assert_eq!(log.names().len(), usize::from(again));
    }
}

#[test]
fn b65_a_second_reader_of_one_descriptor_is_refused() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    let log = Log::default();
    let first = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, log.of("first"));
    let second = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, log.of("second"));
    first.attach(None).unwrap();
    assert!(matches!(second.attach(None), Err(Error::Exists)));
    theirs.write_all(b"x").unwrap();
    assert_eq!(iterate(&base, 1), 1);
    assert_eq!(log.names(), ["first"]);
    first.detach().unwrap();
    assert!(matches!(second.detach(), Err(Error::NotExists)));
    second.attach(None).unwrap();
    assert_eq!(iterate(&base, 1), 1);
    second.detach().unwrap();
    assert_eq!(base.executor().reactor().sources_alive(), 0);
}

#[test]
fn b65_a_reader_and_a_writer_share_one_descriptor() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    let log = Log::default();
    let reader = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, log.of("reader"));
    let writer = Event::new(&base, ours.as_raw_fd(), WRITE | PERSIST, log.of("writer"));
    reader.attach(None).unwrap();
    writer.attach(None).unwrap();
    assert_eq!(base.executor().reactor().sources_alive(), 1);
    iterate(&base, 1);
    assert_eq!(log.take(), [("writer", WRITE)]);
    theirs.write_all(b"x").unwrap();
    iterate(&base, 1);
    assert_eq!(log.take(), [("reader", READ), ("writer", WRITE)]);
    writer.detach().unwrap();
    iterate(&base, 2);
    assert_eq!(log.take(), [("reader", READ); 2]);
    reader.detach().unwrap();
    iterate(&base, 2);
    assert!(log.take().is_empty());
}

#[test]
fn b66_what_cannot_be_attached_or_detached_says_so_and_stays_as_it_was() {
    let base = Base::new().unwrap();
    let (ours, _theirs) = pair();
    let event = Event::new(&base, ours.as_raw_fd(), READ, |_, _| {});
    event.attach(None).unwrap();
    assert!(matches!(event.attach(None), Err(Error::Exists)));
    event.detach().unwrap();
    assert!(matches!(event.detach(), Err(Error::NotExists)));

    for kinds in [Kinds::NONE, PERSIST, EDGE, READ | Kinds::SIGNAL] {
        let none = Event::new(&base, ours.as_raw_fd(), kinds, |_, _| {});
        assert!(matches!(none.attach(None), Err(Error::Invalid(_))), "{kinds:?}");
        assert!(!none.is_attached());
    }

    let number = ours.as_raw_fd();
    drop(ours);
    let closed = Event::new(&base, number, READ | TIMEOUT, |_, _| {});
    // (Another test may have got the number meanwhile; -1 nobody gets.)
    let nobody = Event::new(&base, -1, READ | TIMEOUT, |_, _| {});
    match nobody.attach(Some(Duration::ZERO)) {
        Err(Error::Io(e)) => assert!(e.to_string().contains("closed"), "{e}"),
        other => panic!("{other:?}"),
    }
    assert!(!nobody.is_attached());
    assert_eq!(iterate(&base, 2), 0);
    drop(closed);

    let file = File::open("Cargo.toml").unwrap();
    let regular = Event::new(&base, file.as_raw_fd(), READ, |_, _| {});
    match regular.attach(None) {
        Err(Error::Io(e)) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied),
        other => panic!("{other:?}"),
    }
    assert!(!regular.is_attached());
    assert_eq!(base.executor().reactor().sources_alive(), 0);
}

#[test]
fn b67_a_time_out_of_zero_is_the_next_iteration_and_without_its_kind_there_is_none() {
    let base = Base::new().unwrap();
    let (ours, _theirs) = pair();
    let log = Log::default();
    Event::new(&base, ours.as_raw_fd(), READ | TIMEOUT, log.of("with")).attach(Some(Duration::ZERO)).unwrap();
    assert_eq!(iterate(&base, 1), 1);
    assert_eq!(log.take(), [("with", TIMEOUT)]);
    let without = Event::new(&base, ours.as_raw_fd(), READ, log.of("without"));
    without.attach(Some(Duration::ZERO)).unwrap();
    assert_eq!(without.deadline(), None);
    thread::sleep(ms(2));
    assert_eq!(iterate(&base, 3), 0);
}

#[test]
fn b67_who_is_attached_with_zero_in_a_callback_is_called_in_the_next_iteration() {
    let base = Base::new().unwrap();
    let log = Log::default();
    let second = Event::new(&base, -1, TIMEOUT, log.of("second"));
    second.set_priority(Priority::Low);
    Event::timer(&base, move |_| second.attach(Some(Duration::ZERO)).unwrap())
        .attach(Some(Duration::ZERO))
        .unwrap();
    assert_eq!(iterate(&base, 1), 1);
    assert!(log.take().is_empty());
    assert_eq!(iterate(&base, 1), 1);
    assert_eq!(log.names(), ["second"]);
}

#[test]
fn b68_a_hang_up_is_told_to_reader_and_writer() {
    let base = Base::new().unwrap();
    let (ours, theirs) = pair();
    // No room to write: it is the hang-up that is told.
    while (&ours).write(&[0; 65536]).is_ok() {}
    let log = Log::default();
    Event::new(&base, ours.as_raw_fd(), READ, log.of("reader")).attach(None).unwrap();
    Event::new(&base, ours.as_raw_fd(), WRITE, log.of("writer")).attach(None).unwrap();
    Event::new(&base, ours.as_raw_fd(), Kinds::PEER_CLOSED, log.of("closed")).attach(None).unwrap();
    assert_eq!(iterate(&base, 2), 0);
    drop(theirs);
    assert_eq!(iterate(&base, 1), 3);
    assert_eq!(log.take(), [("reader", READ), ("writer", WRITE), ("closed", Kinds::PEER_CLOSED)]);
}

#[test]
fn b68_a_peer_that_closes_is_noticed_without_reading_and_data_is_not_that() {
    for kinds in [PERSIST, PERSIST | EDGE] {
        let base = Base::new().unwrap();
        let (mut client, server) = tcp_pair();
        let log = Log::default();
        let event = Event::new(&base, server.as_raw_fd(), Kinds::PEER_CLOSED | kinds, log.of("closed"));
        event.attach(None).unwrap();
        client.write_all(b"unread").unwrap();
        thread::sleep(ms(5));
        assert_eq!(iterate(&base, 3), 0);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(base.run(Run::Once).unwrap(), 1);
        let more = iterate(&base, 3);
        assert_eq!(more, if kinds.contains(EDGE) { 0 } else { 3 });
        let mut buf = [0; 16];
        assert_eq!((&server).read(&mut buf).unwrap(), 6);
    }
}

#[test]
fn b69_non_blocking_returns_at_once_and_once_after_one_pass() {
    let base = Base::new().unwrap();
    let started = Instant::now();
    assert_eq!(base.run(Run::NonBlocking).unwrap(), 0);
    assert!(started.elapsed() < ms(1000));

    let log = Log::default();
    Event::new(&base, -1, TIMEOUT | PERSIST, log.of("tick")).attach(Some(ms(5))).unwrap();
    let started = Instant::now();
    assert_eq!(base.run(Run::Once).unwrap(), 1);
    assert!(started.elapsed() >= ms(4));
    assert_eq!(log.names(), ["tick"]);
}

#[test]
fn b70_shutdown_from_a_callback_is_no_error_and_the_rest_is_called_when_it_goes_on() {
    let base = Base::new().unwrap();
    let log = Log::default();
    let stop = Event::timer(&base, |event| event.base().unwrap().shutdown());
    stop.attach(Some(Duration::ZERO)).unwrap();
    Event::new(&base, -1, TIMEOUT, log.of("rest")).attach(Some(Duration::ZERO)).unwrap();
    base.dispatch().unwrap();
    assert!(log.take().is_empty());
    assert_eq!(iterate(&base, 1), 1);
    assert_eq!(log.names(), ["rest"]);
}

#[test]
fn who_was_collected_and_then_detached_is_called_once_when_it_is_attached_again_and_collected_anew() {
    let base = Base::new().unwrap();
    let log = Log::default();
    Event::timer(&base, |event| event.base().unwrap().shutdown()).attach(Some(Duration::ZERO)).unwrap();
    let event = Event::new(&base, -1, TIMEOUT, log.of("event"));
    event.attach(Some(Duration::ZERO)).unwrap();
    base.dispatch().unwrap();
    event.detach().unwrap();
    assert_eq!(iterate(&base, 1), 0);

    Event::timer(&base, |event| event.base().unwrap().shutdown()).attach(Some(Duration::ZERO)).unwrap();
    event.attach(Some(Duration::ZERO)).unwrap();
    base.dispatch().unwrap();
    event.detach().unwrap();
    event.attach(Some(Duration::ZERO)).unwrap();
    assert_eq!(iterate(&base, 3), 1);
    assert_eq!(log.names(), ["event"]);
}

#[test]
fn who_was_collected_and_then_detached_begins_anew_when_it_is_collected_again() {
    let base = Base::new().unwrap();
    let log = Log::default();
    let [first, second, third] =
        ["first", "second", "third"].map(|name| Event::new(&base, -1, TIMEOUT, log.of(name)));
    Event::timer(&base, |event| event.base().unwrap().shutdown()).attach(Some(Duration::ZERO)).unwrap();
    third.attach(Some(Duration::ZERO)).unwrap();
    base.dispatch().unwrap();
    third.detach().unwrap();
    third.set_priority(Priority::High);
    third.attach(Some(Duration::ZERO)).unwrap();
    first.attach(Some(Duration::ZERO)).unwrap();
    second.set_priority(Priority::High);
    second.attach(Some(Duration::ZERO)).unwrap();
    assert_eq!(iterate(&base, 1), 3);
    assert_eq!(log.names(), ["third", "second", "first"]);
}

/// It is not left to share the turn of one that comes soon.
#[test]
fn b67_a_time_out_of_zero_does_not_wait_for_a_neighbour() {
    let base = Base::new().unwrap();
    let neighbour = Event::timer(&base, |_| {});
    let again = Event::timer(&base, |event| event.attach(Some(Duration::ZERO)).unwrap());
    again.attach(Some(Duration::ZERO)).unwrap();
    let is_called_alone = || {
        let _ = neighbour.detach();
        neighbour.attach(Some(Duration::from_micros(50))).unwrap();
        base.run(Run::Once).unwrap() == 1
    };
    // Some microseconds later; where the machine is busy, or a turn would not be shared anyway, it is the same by chance.
    let alone = (0..1000).filter(|_| is_called_alone()).count();
    assert!(alone > 500, "it has waited: {alone} times of 1000 it was called alone");
}

#[test]
fn b70_shutdown_from_another_thread_ends_the_wait() {
    let base = Base::new().unwrap();
    let (ours, _theirs) = pair();
    Event::new(&base, ours.as_raw_fd(), READ, |_, _| {}).attach(None).unwrap();
    for _ in 0..20 {
        let handle = base.handle();
        let other = thread::spawn(move || {
            thread::sleep(ms(2));
            let asked = Instant::now();
            handle.shutdown();
            asked
        });
        base.dispatch().unwrap();
        assert!(other.join().unwrap().elapsed() < ms(50));
    }
    // Before it runs: it is not forgotten.
    base.handle().shutdown();
    base.dispatch().unwrap();
    base.shutdown();
    assert_eq!(base.run(Run::Once).unwrap(), 0);
}

// --------------------------------------------------------------------------------------------- faults

#[test]
fn a_deadline_is_counted_from_the_moment_of_attach_and_not_from_an_old_time() {
    let base = Base::new().unwrap();
    iterate(&base, 1);
    thread::sleep(ms(60));
    let attached = Instant::now();
    Event::timer(&base, |_| {}).attach(Some(ms(50))).unwrap();
    base.run(Run::Once).unwrap();
    assert!(attached.elapsed() >= ms(50), "early: {:?}", attached.elapsed());

    // In a callback that has taken its time.
    let fired = Rc::new(Cell::new(None));
    let timer = Event::timer(&base, {
        let fired = fired.clone();
        move |_| fired.set(Some(Instant::now()))
    });
    let attached = Rc::new(Cell::new(None));
    Event::timer(&base, {
        let attached = attached.clone();
        move |event| {
            let before = event.base().unwrap().now();
            thread::sleep(ms(20));
            assert_eq!(event.base().unwrap().now(), before, "cached in an iteration");
            attached.set(Some(Instant::now()));
            timer.attach(Some(ms(20))).unwrap();
        }
    })
    .attach(Some(ms(0)))
    .unwrap();
    base.run(Run::Once).unwrap();
    base.run(Run::Once).unwrap();
    assert!(fired.get().unwrap() - attached.get().unwrap() >= ms(20));
}

#[test]
fn an_error_of_the_loop_comes_out_of_dispatch() {
    if skip_if(backend() != Backend::Epoll, "the descriptor to close is epoll's") {
        return;
    }
    in_a_process_of_its_own("an_error_of_the_loop_comes_out_of_dispatch", || {
        let epolls = || {
            let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            all.filter(|entry| {
                std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("eventpoll"))
            })
            .map(|entry| entry.file_name().to_string_lossy().parse::<i32>().unwrap())
            .collect::<Vec<_>>()
        };
        let base = Base::new().unwrap();
        let epoll = epolls()[0];
        // SAFETY: to break it is the purpose, and nothing else runs in this process.
        unsafe { libc::close(epoll) };
        assert!(base.dispatch().is_err());
        assert!(base.run(Run::NonBlocking).is_err());
        // The number is not to be closed again.
        std::mem::forget(base);
    });
}

#[test]
fn an_event_can_be_detached_attached_and_assigned_from_its_own_callback() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    let log = Log::default();
    theirs.write_all(b"x").unwrap();
    let next = log.clone();
    let event = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, move |event, _| {
        next.of("before")(event, READ);
        event.assign(-1, TIMEOUT | PERSIST, next.of("after"));
        event.attach(Some(Duration::ZERO)).unwrap();
    });
    event.attach(None).unwrap();
    assert_eq!(iterate(&base, 3), 3);
    assert_eq!(log.take(), [("before", READ), ("after", TIMEOUT), ("after", TIMEOUT)]);
    assert_eq!(base.executor().reactor().sources_alive(), 0);
}

#[test]
fn the_next_file_with_the_number_gets_its_own_events() {
    let base = Base::new().unwrap();
    let log = Log::default();
    for _ in 0..50 {
        let (ours, mut theirs) = pair();
        let event = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, log.of("event"));
        event.attach(None).unwrap();
        theirs.write_all(b"x").unwrap();
        assert_eq!(iterate(&base, 1), 1);
        event.detach().unwrap();
        drop(ours);
        let (_next, _peer) = pair();
        assert_eq!(iterate(&base, 1), 0);
    }
    assert_eq!(base.executor().reactor().sources_alive(), 0);
}

#[test]
fn an_idle_time_out_starts_anew_with_each_call() {
    let clock = MockClock::new();
    let base = Base::with_executor(LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap());
    let (ours, mut theirs) = pair();
    let log = Log::default();
    let called = log.clone();
    let reader = ours.try_clone().unwrap();
    let event = Event::new(&base, ours.as_raw_fd(), READ | TIMEOUT | PERSIST, move |event, kinds| {
        read_all(&reader);
        called.of("idle")(event, kinds);
    });
    event.attach(Some(ms(100))).unwrap();
    for _ in 0..5 {
        clock.advance(ms(60));
        theirs.write_all(b"x").unwrap();
        assert_eq!(iterate(&base, 1), 1);
        assert_eq!(log.take(), [("idle", READ)]);
    }
    let before = clock.now();
    assert_eq!(base.run(Run::Once).unwrap(), 1);
    assert_eq!(log.take(), [("idle", TIMEOUT)]);
    assert_eq!(clock.now() - before, ms(100));
    // Both at once are one call.
    theirs.write_all(b"x").unwrap();
    clock.advance(ms(100));
    assert_eq!(iterate(&base, 1), 1);
    assert_eq!(log.take(), [("idle", READ | TIMEOUT)]);
}

#[test]
fn a_ticker_keeps_its_time_and_leaves_out_what_it_has_missed() {
    let clock = MockClock::new();
    let base = Base::with_executor(LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap());
    let started = clock.now();
    let times = Rc::new(RefCell::new(Vec::new()));
    let ticker = Event::ticker(&base, {
        let (clock, times) = (clock.clone(), times.clone());
        move |_| {
            times.borrow_mut().push((clock.now() - started).as_millis());
            let late = if times.borrow().len() == 3 { ms(25) } else { ms(3) };
            clock.advance(late);
        }
    });
    ticker.attach(Some(ms(10))).unwrap();
    for _ in 0..5 {
        base.run(Run::Once).unwrap();
    }
    assert_eq!(*times.borrow(), [10, 20, 30, 55, 65]);
}

#[test]
fn a_hundred_thousand_timers_fire_in_order_and_those_detached_do_not() {
    let clock = MockClock::new();
    let base = Base::with_executor(LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap());
    let fired = Rc::new(RefCell::new(Vec::new()));
    let mut seed = 1u64;
    let mut expected = Vec::new();
    for i in 0..100_000u64 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let time = Duration::from_micros(seed >> 34);
        let timer = Event::timer(&base, {
            let fired = fired.clone();
            move |_| fired.borrow_mut().push(time)
        });
        timer.attach(Some(time)).unwrap();
        if i % 2 == 0 {
            timer.detach().unwrap();
        } else {
            expected.push(time);
        }
    }
    expected.sort();
    while fired.borrow().len() < expected.len() {
        base.run(Run::Once).unwrap();
    }
    assert_eq!(*fired.borrow(), expected);
}

#[test]
fn a_panic_goes_out_and_the_base_goes_on() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    theirs.write_all(b"x").unwrap();
    let log = Log::default();
    let mut panics = true;
    let called = log.clone();
    let event = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, move |event, kinds| {
        if std::mem::take(&mut panics) {
            panic!("on purpose");
        }
        called.of("after")(event, kinds);
    });
    event.attach(None).unwrap();
    Event::new(&base, -1, TIMEOUT, log.of("rest")).attach(Some(Duration::ZERO)).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| base.run(Run::Once))).is_err());
    assert_eq!(iterate(&base, 1), 2);
    assert_eq!(log.names(), ["rest", "after"]);
}

#[test]
fn what_another_base_or_an_async_has_is_refused() {
    if skip_if(cfg!(wakewheel_libkqueue), "libkqueue cannot tell whether one filter of a descriptor is there")
    {
        return;
    }
    let (ours, theirs) = pair();
    let (one, other) = (Base::new().unwrap(), Base::new().unwrap());
    let event = Event::new(&one, ours.as_raw_fd(), READ, |_, _| {});
    let second = Event::new(&other, ours.as_raw_fd(), WRITE, |_, _| {});
    event.attach(None).unwrap();
    assert!(matches!(second.attach(None), Err(Error::Exists)));
    event.detach().unwrap();
    second.attach(None).unwrap();
    second.detach().unwrap();
    let theirs = Async::new(theirs).unwrap();
    let taken = Event::new(&one, theirs.as_raw_fd(), READ, |_, _| {});
    assert!(matches!(taken.attach(None), Err(Error::Exists)));
    drop(theirs);
}

#[test]
fn an_attempt_to_take_a_descriptor_does_not_disturb_the_one_who_has_it() {
    if skip_if(cfg!(wakewheel_libkqueue), "libkqueue cannot tell whether one filter of a descriptor is there")
    {
        return;
    }
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    let event = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, |_, _| {});
    event.attach(None).unwrap();
    assert!(Watch::new(&ours, Interest::READ, Trigger::Edge).is_err());
    theirs.write_all(b"x").unwrap();
    assert_eq!(iterate(&base, 3), 3, "it is level-triggered still");
}

#[test]
fn a_descriptor_that_was_detached_is_free_and_can_come_back() {
    let base = Base::new().unwrap();
    let (ours, mut theirs) = pair();
    theirs.write_all(b"x").unwrap();
    for trigger in [Kinds::NONE, EDGE, Kinds::NONE] {
        let log = Log::default();
        let reader = Event::new(&base, ours.as_raw_fd(), READ | PERSIST | trigger, log.of("reader"));
        for _ in 0..2 {
            reader.attach(None).unwrap();
            assert_eq!(iterate(&base, 2), if trigger == EDGE { 1 } else { 2 });
            reader.detach().unwrap();
            assert_eq!(base.executor().reactor().sources_alive(), 0);
            assert_eq!(iterate(&base, 2), 0);
            let taken = Async::new(ours.try_clone().unwrap()).unwrap();
            drop(taken);
        }
        if cfg!(wakewheel_libkqueue) {
            // It cannot tell whether one filter of a descriptor is there.
            continue;
        }
        let other = Base::new().unwrap();
        let taken = Event::new(&other, ours.as_raw_fd(), WRITE, |_, _| {});
        taken.attach(None).unwrap();
        assert!(matches!(reader.attach(None), Err(Error::Exists)));
        assert!(!reader.is_attached());
        taken.detach().unwrap();
        reader.attach(None).unwrap();
        assert_eq!(iterate(&base, 1), 1);
        reader.detach().unwrap();
    }
}

#[test]
fn edge_and_level_on_one_descriptor_are_refused() {
    let base = Base::new().unwrap();
    let (ours, _theirs) = pair();
    let reader = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, |_, _| {});
    let writer = Event::new(&base, ours.as_raw_fd(), WRITE | PERSIST | EDGE, |_, _| {});
    reader.attach(None).unwrap();
    assert!(matches!(writer.attach(None), Err(Error::Invalid(_))));
    reader.detach().unwrap();
    writer.attach(None).unwrap();
    assert_eq!(iterate(&base, 3), 1);
}

#[test]
fn what_is_attached_is_freed_with_its_base_and_a_handle_that_is_left_does_no_harm() {
    let alive = Rc::new(());
    let (ours, _theirs) = pair();
    let left = {
        let base = Base::new().unwrap();
        let (a, b) = (alive.clone(), alive.clone());
        Event::timer(&base, move |_| drop(a.clone())).attach(Some(Duration::from_secs(100))).unwrap();
        let event = Event::new(&base, ours.as_raw_fd(), READ, move |_, _| drop(b.clone()));
        event.attach(None).unwrap();
        event
    };
    assert!(left.base().is_none());
    left.detach().unwrap();
    assert!(matches!(left.attach(None), Err(Error::Invalid(_))));
    drop(left);
    assert_eq!(Rc::strong_count(&alive), 1);
    // The descriptor is free.
    Async::new(ours).unwrap();
}

#[test]
fn a_timer_that_nobody_holds_fires_and_is_freed() {
    let base = Base::new().unwrap();
    let alive = Rc::new(());
    let held = alive.clone();
    Event::timer(&base, move |_| drop(held.clone())).attach(Some(ms(1))).unwrap();
    assert_eq!(base.run(Run::Once).unwrap(), 1);
    assert_eq!(Rc::strong_count(&alive), 1);
}

// --------------------------------------------------------------------------------------------- mixing

#[test]
fn futures_and_events_share_a_base() {
    let base = Base::new().unwrap();
    let (ours, theirs) = pair();
    let (sender, receiver) = async_channel::unbounded();
    // A callback wakes a task, and the task, by its answer, an event.
    let reader = ours.try_clone().unwrap();
    let event = Event::new(&base, ours.as_raw_fd(), READ | PERSIST, move |_, _| {
        sender.try_send(read_all(&reader)).unwrap();
    });
    event.attach(None).unwrap();
    let handle = base.handle();
    let task = base.spawn(async move {
        let theirs = Async::new(theirs).unwrap();
        let mut sum = 0;
        for _ in 0..100 {
            theirs.get_ref().write_all(b"hello").unwrap();
            sum += receiver.recv().await.unwrap();
        }
        wakewheel::sleep(ms(2)).await;
        handle.shutdown();
        sum
    });
    base.dispatch().unwrap();
    assert!(task.is_finished());
    assert_eq!(base.executor().block_on(task).unwrap(), 500);
    event.detach().unwrap();
}

#[test]
fn a_callback_can_start_a_future_on_its_base() {
    let base = Base::new().unwrap();
    let timer = Event::timer(&base, |event| {
        let handle = event.base().unwrap().handle();
        wakewheel::spawn_local(async move {
            wakewheel::sleep(ms(1)).await;
            handle.shutdown();
        })
        .detach();
    });
    timer.attach(Some(ms(1))).unwrap();
    base.dispatch().unwrap();
}

#[test]
fn busy_futures_do_not_keep_events_from_being_called() {
    let base = Base::new().unwrap();
    base.spawn(async {
        loop {
            wakewheel::executor::yield_now().await;
        }
    })
    .detach();
    let timer = Event::timer(&base, |event| event.base().unwrap().shutdown());
    timer.attach(Some(ms(5))).unwrap();
    base.dispatch().unwrap();
}

#[test]
fn what_happens_while_only_the_executor_runs_is_told_by_the_next_iteration() {
    for again in [false, true] {
        let base = Base::new().unwrap();
        let (ours, mut theirs) = pair();
        let log = Log::default();
        let reader = Event::new(&base, ours.as_raw_fd(), READ | PERSIST | EDGE, log.of("reader"));
        let timer = Event::new(&base, -1, TIMEOUT, log.of("timer"));
        reader.attach(None).unwrap();
        timer.attach(Some(ms(1))).unwrap();
        theirs.write_all(b"x").unwrap();
        base.executor().block_on(wakewheel::sleep(ms(5)));
        if again {
            reader.detach().unwrap();
            reader.attach(None).unwrap();
        }
        assert_eq!(iterate(&base, 3), 2);
        assert_eq!(log.take(), [("reader", READ), ("timer", TIMEOUT)]);
        // And what happens then.
        theirs.write_all(b"y").unwrap();
        assert_eq!(base.run(Run::Once).unwrap(), 1);
        assert_eq!(log.take(), [("reader", READ)]);
    }
}

#[test]
fn a_base_can_run_in_a_callback_of_another_one() {
    let (outer, inner) = (Base::new().unwrap(), Base::new().unwrap());
    let log = Log::default();
    let (ours, mut theirs) = pair();
    theirs.write_all(b"x").unwrap();
    let reader = Event::new(&outer, ours.as_raw_fd(), READ, log.of("outer"));
    let timer = Event::timer(&inner, {
        let (log, outer) = (log.clone(), outer.clone());
        move |timer| {
            log.of("inner")(timer, TIMEOUT);
            // On the outer one, which waits meanwhile for this to return.
            reader.attach(None).unwrap();
            Event::new(&outer, -1, TIMEOUT, log.of("outer timer")).attach(Some(ms(1))).unwrap();
        }
    });
    timer.attach(Some(ms(1))).unwrap();
    Event::timer(&outer, move |_| assert_eq!(inner.run(Run::Once).unwrap(), 1)).attach(Some(ms(0))).unwrap();
    assert_eq!(iterate(&outer, 1), 1);
    assert_eq!(log.names(), ["inner"]);
    let mut called = 0;
    while called < 2 {
        called += outer.run(Run::Once).unwrap();
    }
    assert_eq!(log.names(), ["outer", "outer timer"]);
}

// -------------------------------------------------------------------------------------------- signals

#[test]
fn a_signal_is_told_to_all_its_events_and_does_what_it_did_before_afterwards() {
    in_a_process_of_its_own(
        "a_signal_is_told_to_all_its_events_and_does_what_it_did_before_afterwards",
        || {
            extern "C" fn before(_: i32) {
                SEEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
            static SEEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            let seen = || SEEN.load(std::sync::atomic::Ordering::SeqCst);
            // SAFETY: the handler only adds to an atomic.
            unsafe { libc::signal(libc::SIGUSR1, before as extern "C" fn(i32) as usize) };
            let raise = |signal| {
                // SAFETY: no pointers.
                assert_eq!(unsafe { libc::raise(signal) }, 0);
            };
            raise(libc::SIGUSR1);
            assert_eq!(seen(), 1);

            let base = Base::new().unwrap();
            let log = Log::default();
            let persist = Kinds::SIGNAL | PERSIST;
            let first = Event::new(&base, libc::SIGUSR1, persist, log.of("first"));
            let second = Event::new(&base, libc::SIGUSR1, persist, log.of("second"));
            let once = Event::new(&base, libc::SIGUSR1, Kinds::SIGNAL, log.of("once"));
            let other = Event::new(&base, libc::SIGUSR2, persist, log.of("other"));
            for event in [&first, &second, &once, &other] {
                event.attach(None).unwrap();
            }
            assert_eq!(iterate(&base, 2), 0);
            raise(libc::SIGUSR1);
            raise(libc::SIGUSR1);
            assert_eq!(base.run(Run::Once).unwrap(), 3);
            assert_eq!(log.names(), ["first", "second", "once"]);
            raise(libc::SIGUSR2);
            assert_eq!(iterate(&base, 2), 1);
            assert_eq!(log.take(), [("other", Kinds::SIGNAL)]);
            assert_eq!(seen(), 1);

            first.detach().unwrap();
            raise(libc::SIGUSR1);
            assert_eq!(iterate(&base, 2), 1);
            second.detach().unwrap();
            raise(libc::SIGUSR1);
            assert_eq!(seen(), 2, "the action from before is back");
            assert_eq!(iterate(&base, 2), 0);
            assert!(matches!(Event::signal(&base, libc::SIGKILL, |_| {}).attach(None), Err(Error::Io(_))));
            assert!(matches!(Event::signal(&base, 0, |_| {}).attach(None), Err(Error::Io(_))));
        },
    );
}

#[test]
fn a_signal_ends_a_wait_on_every_base_that_wants_it() {
    in_a_process_of_its_own("a_signal_ends_a_wait_on_every_base_that_wants_it", || {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (ready, is_ready) = std::sync::mpsc::channel();
                let thread = thread::spawn(move || {
                    let base = Base::new().unwrap();
                    let signal =
                        Event::signal(&base, libc::SIGTERM, |event| event.base().unwrap().shutdown());
                    signal.attach(None).unwrap();
                    ready.send(()).unwrap();
                    base.dispatch().unwrap();
                });
                is_ready.recv().unwrap();
                thread
            })
            .collect();
        // SAFETY: no pointers; the signal is caught.
        unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

// -------------------------------------------------------------------------------------------- backends

#[test]
fn level_and_edge_hold_on_poll_whatever_the_environment_says() {
    let executor = LocalExecutor::builder().backend(Backend::Poll).build().unwrap();
    let base = Base::with_executor(executor);
    let sockets: Vec<_> = (0..4).map(|_| pair()).collect();
    let log = Log::default();
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        Event::new(&base, sockets[i].0.as_raw_fd(), READ | PERSIST, log.of(name)).attach(None).unwrap();
    }
    if Backend::NATIVE != Backend::Poll {
        Event::new(&base, sockets[3].0.as_raw_fd(), READ | PERSIST | EDGE, log.of("edge"))
            .attach(None)
            .unwrap();
    }
    for (_, theirs) in sockets.iter().rev() {
        (&*theirs).write_all(b"x").unwrap();
    }
    assert_eq!(iterate(&base, 1), 4);
    assert_eq!(log.names(), ["edge", "a", "b", "c"]);
    assert_eq!(iterate(&base, 2), 6);
    assert_eq!(log.names(), ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn ten_thousand_events_come_and_go() {
    let base = Base::new().unwrap();
    let (client, server): (TcpStream, TcpStream) = tcp_pair();
    let count = Rc::new(Cell::new(0));
    let event = Event::new(&base, server.as_raw_fd(), WRITE, {
        let count = count.clone();
        move |event, _| {
            count.set(count.get() + 1);
            event.attach(None).unwrap();
        }
    });
    event.attach(None).unwrap();
    assert_eq!(iterate(&base, 10_000), 10_000);
    assert_eq!(count.get(), 10_000);
    assert_eq!(base.executor().reactor().sources_alive(), 1);
    drop(client);
}

// ---------------------------------------------------------------- what was added to the floors below

#[test]
fn a_watch_tells_of_a_level_in_each_turn_and_of_an_edge_once() {
    for trigger in [Trigger::Level, Trigger::Edge] {
        let (ours, mut theirs) = pair();
        let executor = LocalExecutor::new().unwrap();
        let mut watch = executor.enter(|| Watch::new(&ours, Interest::READ, trigger).unwrap());
        assert_eq!((watch.interest(), watch.trigger()), (Interest::READ, trigger));
        let mut ready = || {
            let soon = async { wakewheel::timeout(ms(5), watch.ready()).await.map(Result::unwrap).ok() };
            executor.block_on(soon)
        };
        assert_eq!(ready(), None);
        theirs.write_all(b"a").unwrap();
        assert_eq!(ready(), Some(Interest::READ));
        assert_eq!(ready(), (trigger == Trigger::Level).then_some(Interest::READ));
        theirs.write_all(b"b").unwrap();
        assert_eq!(ready(), Some(Interest::READ));
        drop(theirs);
        assert_eq!(ready(), Some(Interest::READ));
    }
}

#[test]
fn a_watch_can_wait_for_something_else_and_moves_on_when_its_reactor_stops() {
    let (ours, mut theirs) = pair();
    let mut watch =
        LocalExecutor::new().unwrap().enter(|| Watch::new(&ours, Interest::READ, Trigger::Level).unwrap());
    let executor = LocalExecutor::new().unwrap();
    executor.block_on(async {
        theirs.write_all(b"a").unwrap();
        assert_eq!(watch.ready().await.unwrap(), Interest::READ);
        watch.set_interest(Interest::READ | Interest::WRITE).unwrap();
        let mut found = Interest::NONE;
        while found != Interest::READ | Interest::WRITE {
            found |= watch.ready().await.unwrap();
        }
        watch.set_interest(Interest::CLOSED).unwrap();
        assert!(wakewheel::timeout(ms(5), watch.ready()).await.is_err());
        drop(theirs);
        assert_eq!(watch.ready().await.unwrap(), Interest::CLOSED);
        assert_eq!(watch.ready().await.unwrap(), Interest::CLOSED);
    });
    drop(watch);
    Async::new(ours).unwrap();
}

#[test]
fn a_watch_that_has_moved_on_keeps_nothing_of_the_reactor_that_stopped() {
    let name = "a_watch_that_has_moved_on_keeps_nothing_of_the_reactor_that_stopped";
    in_a_process_of_its_own(name, || {
        let (ours, _theirs) = pair();
        let mut watch = LocalExecutor::new()
            .unwrap()
            .enter(|| Watch::new(&ours, Interest::READ, Trigger::Level).unwrap());
        let executor = LocalExecutor::new().unwrap();
        let before = descriptors();
        executor.enter(|| watch.set_interest(Interest::READ | Interest::WRITE).unwrap());
        assert!(descriptors() < before, "{before}");
        assert_eq!(executor.reactor().sources_alive(), 1);
    });
}

#[test]
fn a_watch_for_nothing_is_not_registered() {
    for trigger in [Trigger::Level, Trigger::Edge] {
        let executor = LocalExecutor::new().unwrap();
        let (ours, mut theirs) = pair();
        let mut watch = executor.enter(|| Watch::new(&ours, Interest::NONE, trigger).unwrap());
        let alive = || executor.reactor().sources_alive();
        assert_eq!(alive(), 0);
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..3 {
            theirs.write_all(b"a").unwrap();
            executor.turn(Some(Duration::ZERO)).unwrap();
            assert!(watch.poll_ready(cx).is_pending());
            // Somebody else may have it.
            drop(executor.enter(|| Watch::new(&ours, Interest::READ, Trigger::Level).unwrap()));

            watch.set_interest(Interest::READ).unwrap();
            assert_eq!(alive(), 1);
            assert!(watch.poll_ready(cx).is_pending(), "nothing is known yet");
            executor.turn(Some(Duration::from_secs(10))).unwrap();
            assert!(matches!(watch.poll_ready(cx), Poll::Ready(Ok(Interest::READ))));
            let _ = watch.poll_ready(cx);
            executor.turn(Some(Duration::ZERO)).unwrap();
            // What is known then is not known any more when it is registered again.
            watch.set_interest(Interest::NONE).unwrap();
            watch.set_interest(Interest::NONE).unwrap();
            assert_eq!(alive(), 0);
            read_all(&ours);
        }
        let taken = executor.enter(|| Watch::new(&ours, Interest::READ, Trigger::Level).unwrap());
        if !cfg!(wakewheel_libkqueue) {
            let e = watch.set_interest(Interest::READ).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(watch.interest(), Interest::NONE);
        }
        drop(taken);
        // Its reactor has gone: it finds another.
        drop(executor);
        theirs.write_all(b"b").unwrap();
        let executor = LocalExecutor::new().unwrap();
        executor.block_on(async {
            watch.set_interest(Interest::READ).unwrap();
            assert_eq!(watch.ready().await.unwrap(), Interest::READ);
        });
        assert_eq!(executor.reactor().sources_alive(), 1);
    }
}

#[test]
fn a_watch_whose_file_was_closed_does_not_count_once_its_number_has_another_owner() {
    if skip_if(cfg!(wakewheel_libkqueue), "libkqueue cannot tell whether one filter of a descriptor is there")
    {
        return;
    }
    // Alone in the process: the number is taken by the next one.
    let name = "a_watch_whose_file_was_closed_does_not_count_once_its_number_has_another_owner";
    in_a_process_of_its_own(name, || {
        let executor = LocalExecutor::new().unwrap();
        let alive = || executor.reactor().sources_alive();
        let watch = |stream: &UnixStream| {
            executor.enter(|| Watch::new(stream, Interest::READ, Trigger::Level)).unwrap()
        };
        let (ours, _theirs) = pair();
        let fd = ours.as_raw_fd();
        let mut old = watch(&ours);
        drop(ours);
        let (next, _peer) = pair();
        assert_eq!(next.as_raw_fd(), fd);
        let new = watch(&next);
        assert_eq!(alive(), 1);
        old.set_interest(Interest::NONE).unwrap();
        assert_eq!(alive(), 1);
        drop(new);
        assert_eq!(alive(), 0);
        old.set_interest(Interest::READ).unwrap();
        assert_eq!(alive(), 1);
        drop(old);
        assert_eq!(alive(), 0);
    });
}

#[test]
fn a_watch_that_is_taken_from_waits_on() {
    for (interest, trigger) in [
        (Interest::READ, Trigger::Level),
        (Interest::READ, Trigger::Edge),
        (Interest::READ | Interest::CLOSED, Trigger::Level),
        (Interest::CLOSED, Trigger::Level),
    ] {
        let executor = LocalExecutor::new().unwrap();
        let (ours, mut theirs) = pair();
        let mut watch = executor.enter(|| Watch::new(&ours, interest, trigger).unwrap());
        let (wakes, waker) = Wakes::new();
        let cx = &mut Context::from_waker(&waker);
        assert!(watch.take(cx).is_pending());
        if interest.contains(Interest::READ) {
            for round in 1..4 {
                theirs.write_all(b"a").unwrap();
                executor.turn(Some(Duration::from_secs(10))).unwrap();
                assert_eq!(wakes.count(), round);
                assert!(matches!(watch.take(cx), Poll::Ready(Ok(Interest::READ))));
                assert!(watch.take(cx).is_pending());
                read_all(&ours);
            }
        }
        let before = wakes.count();
        drop(theirs);
        executor.turn(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(wakes.count(), before + 1);
        match watch.take(cx) {
            Poll::Ready(Ok(found)) => assert_eq!(found, interest),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_waker_that_a_turn_has_noted_is_not_woken_and_stays() {
    let executor = LocalExecutor::new().unwrap();
    let (ours, mut theirs) = pair();
    let mut watch =
        executor.enter(|| Watch::new(&ours, Interest::READ | Interest::WRITE, Trigger::Level).unwrap());
    let (mine, waker) = Wakes::new();
    let (others, other) = Wakes::new();
    let cx = &mut Context::from_waker(&waker);
    let mut timer = Box::pin(wakewheel::sleep(ms(1)));
    executor.enter(|| assert!(timer.as_mut().poll(&mut Context::from_waker(&other)).is_pending()));
    assert!(watch.take(cx).is_pending());
    let handles = Arc::strong_count(&mine);
    theirs.write_all(b"a").unwrap();
    let mut noted = 0;
    while noted < 10 || others.count() == 0 {
        executor
            .turn_with(Some(ms(1)), |waker_of| {
                let is_mine = waker_of.will_wake(&waker);
                noted += usize::from(is_mine);
                is_mine
            })
            .unwrap();
        assert!(watch.take(cx).is_ready());
    }
    assert_eq!((mine.count(), others.count()), (0, 1));
    assert_eq!(Arc::strong_count(&mine), handles, "no clones");
    // Who is not noted is woken.
    executor.turn_with(Some(ms(1)), |_| false).unwrap();
    assert!(mine.count() > 0);
}

#[test]
fn a_turn_asks_once_whether_a_waker_is_noted() {
    let executor = LocalExecutor::new().unwrap();
    let (ours, mut theirs) = pair();
    let mut watch = executor.enter(|| Watch::new(&ours, Interest::READ, Trigger::Level).unwrap());
    let (wakes, waker) = Wakes::new();
    assert!(watch.take(&mut Context::from_waker(&waker)).is_pending());
    theirs.write_all(b"a").unwrap();
    let mut asked = 0;
    let turn = executor.turn_with(Some(Duration::from_secs(10)), |waker_of| {
        asked += usize::from(waker_of.will_wake(&waker));
        false
    });
    assert_eq!((turn.unwrap().events, asked, wakes.count()), (1, 1, 1));
}

#[test]
fn a_turn_of_an_executor_waits_no_longer_than_it_may_and_a_task_that_is_ready_ends_the_wait() {
    let executor = LocalExecutor::new().unwrap();
    let started = Instant::now();
    executor.turn(Some(ms(5))).unwrap();
    assert!(started.elapsed() >= ms(5));
    // A task that was started, one that another thread starts, and a notification.
    let task = executor.spawn(async {});
    executor.turn(None).unwrap();
    assert!(task.is_finished());
    let handle = executor.handle();
    let other = thread::spawn(move || drop(handle.spawn(|| async {})));
    other.join().unwrap();
    executor.turn(None).unwrap();
    executor.reactor().notify();
    executor.turn(None).unwrap();
    // Not inside of itself.
    let inner = Rc::new(executor);
    let task = inner.spawn({
        let inner = inner.clone();
        async move { catch_unwind(AssertUnwindSafe(|| inner.turn(None))).is_err() }
    });
    assert!(inner.block_on(task).unwrap());
}

#[test]
fn signals_are_futures_too() {
    in_a_process_of_its_own("signals_are_futures_too", || {
        let mut signals = Signals::new([libc::SIGUSR1, libc::SIGUSR2]).unwrap();
        for signal in [libc::SIGUSR2, libc::SIGUSR1] {
            // SAFETY: no pointers; it is caught.
            unsafe { libc::raise(signal) };
        }
        let expected = if libc::SIGUSR1 < libc::SIGUSR2 { libc::SIGUSR1 } else { libc::SIGUSR2 };
        assert_eq!(wakewheel::block_on(signals.next()).unwrap(), expected);
        let both = libc::SIGUSR1 + libc::SIGUSR2;
        assert_eq!(wakewheel::block_on(signals.next()).unwrap(), both - expected);
        let other = thread::spawn(|| {
            thread::sleep(ms(5));
            // SAFETY: as above.
            unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
        });
        assert_eq!(wakewheel::block_on(signals.next()).unwrap(), libc::SIGUSR1);
        other.join().unwrap();
        for wrong in [0, -1, 65, libc::SIGKILL, libc::SIGSEGV] {
            assert_eq!(Signals::new([wrong]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    });
}
