//! Turns of a reactor, step by step: what the selector finds is a [`Script`], time is a mock clock, and so each turn goes
//! the same way every time.

use super::clock::{self, Clock, MockClock};
use super::driver::{Answer, Driver, no_tasks};
use super::readiness::{Asks, Direction, Wait};
use super::registry;
use super::seat::Seat;
use super::shared::{Scratch, Shared, Turn};
use super::source::Source;
use super::wheel::Wheel;
use crate::sync::lock;
use crate::sys::scripted::{Call, Script};
use crate::sys::{Backend, Poller, Ready, Trigger, Watched};
use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

const READ: Ready = Ready::READABLE;
const WRITE: Ready = Ready::WRITABLE;
const MS: Duration = Duration::from_millis(1);
const NOW: Option<Duration> = Some(Duration::ZERO);

/// A reactor, its script, its clock, and the names of those who were woken.
struct Bench {
    reactor: Arc<Shared>,
    script: Arc<Script>,
    clock: MockClock,
    own: RefCell<Wheel<Waker>>,
    scratch: RefCell<Scratch>,
    woken: Arc<Mutex<Vec<&'static str>>>,
    /// Tasks of the driver, which it schedules when an event is theirs: their wakers and their names.
    tasks: RefCell<Vec<(Waker, &'static str)>>,
}

impl Bench {
    fn new() -> Bench {
        let (script, clock) = (Script::new(), MockClock::new());
        Bench {
            reactor: Shared::with_poller(Poller::Scripted(script.clone()), Clock::Mock(clock.clone()), false),
            script,
            clock,
            own: RefCell::new(Wheel::new()),
            scratch: RefCell::default(),
            woken: Arc::default(),
            tasks: RefCell::default(),
        }
    }

    /// A registered descriptor that is ready for nothing. (A number that no test process opens.)
    fn source(&self, fd: RawFd) -> Arc<Source> {
        let source = Source::register_with(&self.reactor, fd).unwrap();
        source.readiness.clear(READ | WRITE, source.readiness.seen());
        source
    }

    fn waker(&self, name: &'static str) -> Waker {
        let woken = self.woken.clone();
        waker(move || woken.lock().unwrap().push(name))
    }

    /// The waker of a task of the driver. Woken as any other, it says so.
    fn task(&self, name: &'static str) -> Waker {
        let woken = self.woken.clone();
        let waker = waker(move || woken.lock().unwrap().push("a task, by its waker"));
        self.tasks.borrow_mut().push((waker.clone(), name));
        waker
    }

    /// An event, and the turn that finds it.
    fn happens(&self, fd: RawFd, ready: Ready) -> Turn {
        self.script.then([(self.script.token(fd), ready)]);
        self.turn(NOW)
    }

    /// Nanoseconds of the moment that is `after` the clock's.
    fn at(&self, after: Duration) -> u64 {
        clock::nanos(self.clock.now() + after)
    }

    fn set(&self, after: Duration, name: &'static str) {
        self.reactor.set_timer(self.at(after), self.waker(name)).unwrap();
    }

    fn set_own(&self, after: Duration, name: &'static str) {
        self.own.borrow_mut().insert(self.at(after), self.waker(name));
    }

    fn turn(&self, timeout: Option<Duration>) -> Turn {
        self.try_turn(timeout).unwrap()
    }

    fn try_turn(&self, timeout: Option<Duration>) -> io::Result<Turn> {
        let mut scratch = self.scratch.borrow_mut();
        self.reactor.turn(Some(&self.own), &mut scratch, timeout, &Cell::new(None), &mut &*self)
    }

    /// Who was woken since the last time, in order.
    fn woken(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.woken.lock().unwrap())
    }
}

impl Driver for &Bench {
    fn claim(&mut self, waker: &Waker) -> Answer {
        let tasks = self.tasks.borrow();
        let task = tasks.iter().find(|(task, _)| task.will_wake(waker));
        self.woken.lock().unwrap().extend(task.map(|(_, name)| name));
        task.map_or(Answer::No, |_| Answer::Known)
    }

    unsafe fn claim_again(&mut self, waker: &Waker) -> bool {
        assert_eq!(self.claim(waker), Answer::Known, "this is not the waker of one of its tasks");
        true
    }
}

struct Does<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Does<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn waker(wake: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(Does(wake)))
}

fn figures(turn: Turn) -> (usize, usize, usize) {
    (turn.events, turn.timers, turn.woken)
}

// ------------------------------------------------------------------------------------------------- order

#[test]
fn descriptors_are_woken_before_timers_and_timers_by_deadline() {
    let bench = Bench::new();
    let (a, b) = (bench.source(2000), bench.source(2001));
    bench.set_own(3 * MS, "third timer");
    bench.set_own(MS, "first timer");
    bench.set_own(2 * MS, "second timer");
    bench.clock.advance(5 * MS);
    assert_eq!(a.readiness.wait(Direction::Read, &bench.waker("a reads")), Wait::Stored);
    assert_eq!(b.readiness.wait(Direction::Read, &bench.waker("b reads")), Wait::Stored);
    assert_eq!(b.readiness.wait(Direction::Write, &bench.waker("b writes")), Wait::Stored);
    bench.script.then([(bench.script.token(2001), READ | WRITE), (bench.script.token(2000), READ)]);
    assert_eq!(figures(bench.turn(NOW)), (2, 3, 6));
    assert_eq!(
        bench.woken(),
        ["b reads", "b writes", "a reads", "first timer", "second timer", "third timer"]
    );
    // And nobody twice.
    assert_eq!(figures(bench.turn(NOW)), (0, 0, 0));
    assert_eq!(bench.woken(), [""; 0]);
}

#[test]
fn timers_of_other_threads_fire_by_deadline_as_well() {
    let bench = Bench::new();
    bench.set(2 * MS, "second");
    bench.set(3 * MS, "third");
    bench.set(MS, "first");
    bench.clock.advance(2 * MS);
    assert_eq!(figures(bench.turn(NOW)), (0, 2, 2));
    assert_eq!(bench.woken(), ["first", "second"]);
    assert_eq!(bench.reactor.next_deadline(None), Some(bench.at(MS)));
}

#[test]
fn only_those_who_wait_for_an_event_are_woken_by_it() {
    let bench = Bench::new();
    let source = bench.source(2010);
    let token = bench.script.token(2010);
    source.readiness.wait(Direction::Read, &bench.waker("reader"));
    source.readiness.wait(Direction::Write, &bench.waker("writer"));
    source.readiness.insert(READ, &bench.waker("listed reader"));
    source.readiness.insert(Ready::READ_CLOSED, &bench.waker("waits for the end"));
    bench.script.then([(token, WRITE)]);
    assert_eq!(figures(bench.turn(NOW)), (1, 0, 1));
    assert_eq!(bench.woken(), ["writer"]);
    bench.script.then([(token, READ)]);
    bench.turn(NOW);
    assert_eq!(bench.woken(), ["reader", "listed reader"]);
    bench.script.then([(token, READ | Ready::READ_CLOSED)]);
    bench.turn(NOW);
    assert_eq!(bench.woken(), ["waits for the end"]);
}

// ------------------------------------------------------------------------------------------- generations

#[test]
fn an_event_for_a_source_that_has_gone_is_nobodys() {
    let bench = Bench::new();
    let source = bench.source(2020);
    let old = bench.script.token(2020);
    source.readiness.wait(Direction::Read, &bench.waker("old"));
    source.deregister().unwrap();
    assert_eq!(bench.script.calls(), [Call::Add(2020, old), Call::Delete(2020)]);
    bench.script.then([(old, READ)]);
    assert_eq!(figures(bench.turn(NOW)), (0, 0, 0));
    assert_eq!(bench.woken(), [""; 0]);

    // The same number, and the same place in the table: another token.
    let source = bench.source(2020);
    let new = bench.script.token(2020);
    assert_ne!(old, new);
    assert_eq!(old as u32, new as u32, "the place is used again");
    source.readiness.wait(Direction::Read, &bench.waker("new"));
    bench.script.then([(old, READ)]);
    assert_eq!(figures(bench.turn(NOW)), (0, 0, 0));
    assert!(!source.readiness.seen().is_ready(READ));
    bench.script.then([(old, READ), (new, READ)]);
    assert_eq!(figures(bench.turn(NOW)), (1, 0, 1));
    assert_eq!(bench.woken(), ["new"]);
}

#[test]
fn of_those_who_want_a_descriptor_at_once_one_gets_it() {
    let reactors = [Bench::new().reactor, Bench::new().reactor, Bench::new().reactor];
    for _ in 0..200 {
        let start = Barrier::new(reactors.len());
        let results = std::thread::scope(|scope| {
            let all = reactors.each_ref().map(|reactor| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    Source::register_with(reactor, 2120)
                })
            });
            all.map(|one| one.join().unwrap())
        });
        for e in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(e.kind(), io::ErrorKind::AlreadyExists);
        }
        let owners: Vec<_> = results.iter().flatten().collect();
        assert_eq!(owners.len(), 1);
        assert_eq!(reactors.iter().map(|reactor| reactor.sources_alive()).sum::<usize>(), 1);
        owners[0].deregister().unwrap();
    }
}

#[test]
fn a_number_that_no_descriptor_has_gets_no_table_of_its_size() {
    for fd in [1 << 30, RawFd::MAX, -1, RawFd::MIN] {
        let e = registry::place(fd).map(drop).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EBADF), "{fd}");
    }
    // All others have one each.
    let mut places: Vec<_> = (0..4000).map(|fd| ptr::from_ref(registry::place(fd).unwrap())).collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 4000);
}

/// Between the wait and the dispatch: the source goes while the selector has its event in hand.
#[test]
fn a_source_that_goes_while_the_selector_reports_it_is_not_touched() {
    let bench = Bench::new();
    let source = bench.source(2030);
    let token = bench.script.token(2030);
    bench.script.then_do(move || {
        source.deregister().unwrap();
        let next = Ready::READABLE;
        Ok(vec![crate::sys::Event { token, ready: next }])
    });
    assert_eq!(figures(bench.turn(NOW)), (0, 0, 0));
    assert_eq!(bench.reactor.sources_alive(), 0);
}

/// The same for a watch that stops, and goes on: what comes late is about the time before.
#[test]
fn a_watch_that_stops_while_the_selector_reports_it_begins_anew() {
    const FD: RawFd = 2031;
    let bench = Bench::new();
    let watched = Watched { interest: READ, trigger: Trigger::Level };
    let (source, home) =
        super::current::enter_shared(&bench.reactor, || Source::register_watch(FD, watched)).unwrap();
    let token = bench.script.token(FD);
    let home = Arc::new(Mutex::new(home));
    bench.script.then_do({
        let home = home.clone();
        move || {
            lock(&home).park(FD);
            Ok(vec![crate::sys::Event { token, ready: READ }])
        }
    });
    bench.turn(NOW);
    assert_eq!(bench.reactor.sources_alive(), 0);

    let home = &mut *lock(&home);
    source.unpark_watch(home, FD, watched).unwrap();
    assert_eq!(bench.reactor.sources_alive(), 1);
    let waker = bench.waker("watch");
    let cx = &mut Context::from_waker(&waker);
    assert!(source.poll_watch(home, watched, cx).is_pending());
    // Nor is anything reported with the old token any more.
    bench.script.then([(token, READ), (bench.script.token(FD), READ)]);
    assert_eq!(figures(bench.turn(NOW)), (1, 0, 1));
    assert!(source.poll_watch(home, watched, cx).is_ready());
    home.remove(FD).unwrap();
    assert_eq!(bench.reactor.sources_alive(), 0);
}

#[test]
fn a_second_owner_of_a_descriptor_is_refused_and_the_first_not_disturbed() {
    let (bench, other) = (Bench::new(), Bench::new());
    let source = bench.source(2040);
    for reactor in [&bench.reactor, &other.reactor] {
        let e = Source::register_with(reactor, 2040).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::AlreadyExists);
    }
    assert_eq!((bench.reactor.sources_alive(), other.reactor.sources_alive()), (1, 0));
    source.readiness.wait(Direction::Read, &bench.waker("first"));
    bench.script.then([(bench.script.token(2040), READ)]);
    bench.turn(NOW);
    assert_eq!(bench.woken(), ["first"]);
    // Once it is gone, the number is free for any reactor.
    source.deregister().unwrap();
    Source::register_with(&other.reactor, 2040).unwrap();
}

// ------------------------------------------------------------------------------------------------ timers

#[test]
fn timers_in_the_past_and_now_fire_and_later_ones_do_not() {
    let bench = Bench::new();
    bench.set_own(Duration::ZERO, "past");
    bench.clock.advance(MS);
    bench.set_own(Duration::ZERO, "now");
    bench.set_own(Duration::from_nanos(1), "a nanosecond later");
    assert_eq!(figures(bench.turn(NOW)), (0, 2, 2));
    assert_eq!(bench.woken(), ["past", "now"]);
    bench.clock.advance(Duration::from_nanos(1));
    assert_eq!(figures(bench.turn(NOW)), (0, 1, 1));
    assert_eq!(bench.woken(), ["a nanosecond later"]);
}

/// A reactor with a mock clock does not wait for time: it moves it.
#[test]
fn a_mock_clock_is_moved_to_the_next_deadline() {
    let bench = Bench::new();
    let start = bench.clock.now();
    bench.set_own(3600 * 1000 * MS, "in an hour");
    bench.set(7200 * 1000 * MS, "in two hours");
    while bench.woken.lock().unwrap().is_empty() {
        bench.turn(None);
    }
    assert_eq!(bench.woken(), ["in an hour"]);
    let passed = bench.clock.now() - start;
    assert!(passed >= 3600 * 1000 * MS && passed < 3600 * 1000 * MS + MS, "{passed:?}");
    assert!(bench.script.calls().iter().all(|call| *call == Call::Wait(NOW)));
    while bench.woken.lock().unwrap().is_empty() {
        bench.turn(None);
    }
    assert_eq!(bench.woken(), ["in two hours"]);
}

/// As long as there are events, no time passes on a mock clock.
#[test]
fn a_mock_clock_stands_still_while_there_are_events() {
    let bench = Bench::new();
    let start = bench.clock.now();
    let _source = bench.source(2050);
    bench.set_own(MS, "timer");
    for _ in 0..3 {
        bench.script.then([(bench.script.token(2050), READ)]);
        assert_eq!(figures(bench.turn(None)), (1, 0, 0));
        assert_eq!(bench.clock.now(), start);
    }
    bench.turn(None);
    assert_eq!(bench.woken(), ["timer"]);
}

/// The shorter of the time-out and the next deadline limits the wait.
#[test]
fn a_time_out_shorter_than_the_next_deadline_ends_the_turn() {
    let bench = Bench::new();
    let start = bench.clock.now();
    bench.set_own(10 * MS, "timer");
    assert_eq!(figures(bench.turn(Some(4 * MS))), (0, 0, 0));
    assert_eq!(bench.clock.now() - start, 4 * MS);
    while bench.woken.lock().unwrap().is_empty() {
        bench.turn(Some(MS));
    }
    let passed = bench.clock.now() - start;
    assert!(passed >= 10 * MS && passed <= 11 * MS, "{passed:?}");
}

#[test]
fn a_cancelled_timer_does_not_fire_and_drops_its_waker() {
    let bench = Bench::new();
    let waker = waker(|| panic!("it was cancelled"));
    let own = bench.own.borrow_mut().insert(bench.at(MS), waker.clone());
    let shared = bench.reactor.set_timer(bench.at(MS), waker.clone()).unwrap();
    drop(bench.own.borrow_mut().cancel(own));
    bench.reactor.cancel_timer(shared);
    bench.clock.advance(10 * MS);
    assert_eq!(figures(bench.turn(NOW)), (0, 0, 0));
    // A stale key says so.
    assert!(!bench.reactor.update_timer(shared, &waker) && !bench.reactor.reset_timer(shared, 0));
}

/// Letters of other threads about this thread's timers are read before anything fires.
#[test]
fn letters_move_and_cancel_timers_before_they_fire() {
    let bench = Bench::new();
    let mut keys = ["cancelled", "put off", "brought forward"]
        .into_iter()
        .zip([MS, MS, 100 * MS])
        .map(|(name, after)| bench.own.borrow_mut().insert(bench.at(after), bench.waker(name)));
    let (cancelled, put_off, forward) = (keys.next().unwrap(), keys.next().unwrap(), keys.next().unwrap());
    bench.reactor.mail_cancel(cancelled);
    bench.reactor.mail_reset(put_off, bench.at(50 * MS));
    bench.reactor.mail_reset(forward, bench.at(2 * MS));
    bench.clock.advance(2 * MS);
    bench.turn(NOW);
    assert_eq!(bench.woken(), ["brought forward"]);
    bench.clock.advance(48 * MS);
    bench.turn(NOW);
    assert_eq!(bench.woken(), ["put off"]);
}

// --------------------------------------------------------------------------------------- sleep and notify

#[test]
fn a_notification_while_awake_costs_no_system_call_and_forbids_the_next_sleep() {
    let bench = Bench::new();
    bench.reactor.notify();
    bench.reactor.notify();
    assert_eq!(bench.script.calls(), []);
    assert!(bench.turn(None).notified);
    assert_eq!(bench.script.calls(), [Call::Wait(NOW)]);
    // It is used up.
    bench.script.then([]);
    assert!(!bench.turn(None).notified);
    assert_eq!(bench.script.calls(), [Call::Wait(None)]);
}

#[test]
fn notifications_while_asleep_are_one_system_call() {
    let bench = Bench::new();
    let reactor = bench.reactor.clone();
    bench.script.then_do(move || {
        (0..3).for_each(|_| reactor.notify());
        Ok(Vec::new())
    });
    let turn = bench.turn(None);
    assert!(turn.notified);
    assert_eq!(figures(turn), (0, 0, 0), "the notifier is no event");
    assert_eq!(bench.script.calls(), [Call::Wait(None), Call::Notify]);
    // Awake again.
    bench.reactor.notify();
    assert_eq!(bench.script.calls(), []);
}

/// A turn that does not wait is not asleep: nobody has to end it.
#[test]
fn a_notification_during_a_turn_without_a_wait_costs_nothing_and_is_kept() {
    let bench = Bench::new();
    let reactor = bench.reactor.clone();
    bench.script.then_do(move || {
        reactor.notify();
        Ok(Vec::new())
    });
    assert!(!bench.turn(NOW).notified);
    assert!(bench.reactor.park.is_notified());
    assert!(bench.turn(None).notified);
    assert_eq!(bench.script.calls(), [Call::Wait(NOW), Call::Wait(NOW)]);
}

#[test]
fn an_earlier_timer_ends_the_sleep_and_a_later_one_does_not() {
    let bench = Bench::new();
    // (Real time: a mock clock is never slept with.)
    let script = Script::new();
    let reactor = Shared::with_poller(Poller::Scripted(script.clone()), Clock::Real, false);
    let set = |after: u64, waker: Waker| {
        let reactor = reactor.clone();
        move || {
            reactor.set_timer(u64::MAX / 2 + after, waker).unwrap();
            Ok(Vec::new())
        }
    };
    let turn = || {
        let mut scratch = Scratch::default();
        reactor.turn(None, &mut scratch, Some(MS), &Cell::new(None), &mut no_tasks).unwrap().notified
    };
    script.then_do(set(10, bench.waker("first")));
    assert!(turn());
    script.then_do(set(20, bench.waker("later")));
    assert!(!turn());
    script.then_do(set(5, bench.waker("earlier")));
    assert!(turn());
    let wait = Call::Wait(Some(MS));
    assert_eq!(script.calls(), [wait, Call::Notify, wait, wait, Call::Notify]);
}

#[test]
fn an_error_of_the_selector_is_the_turns_and_the_next_one_works() {
    let bench = Bench::new();
    bench.script.then_do(|| Err(io::Error::from_raw_os_error(libc::EINVAL)));
    assert_eq!(bench.try_turn(None).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    bench.script.calls();
    // It is awake: a notification is no system call.
    bench.reactor.notify();
    assert_eq!(bench.script.calls(), []);
    assert!(bench.turn(None).notified);
}

// ------------------------------------------------------------------------------------------------ wakers

#[test]
fn a_waker_that_panics_keeps_nobody_from_being_woken() {
    let bench = Bench::new();
    let sources: Vec<_> = (2060..2064).map(|fd| bench.source(fd)).collect();
    let bad = || waker(|| panic!("a waker that panics, for the test"));
    sources[0].readiness.wait(Direction::Read, &bench.waker("first"));
    sources[1].readiness.wait(Direction::Read, &bad());
    sources[2].readiness.wait(Direction::Read, &bad());
    sources[3].readiness.wait(Direction::Read, &bench.waker("last"));
    bench.own.borrow_mut().insert(bench.at(Duration::ZERO), bad());
    bench.set_own(Duration::ZERO, "timer");
    bench.script.then((2060..2064).map(|fd| (bench.script.token(fd), READ)));
    assert_eq!(figures(bench.turn(NOW)), (4, 2, 6));
    assert_eq!(bench.woken(), ["first", "last", "timer"]);
    // And the reactor is as good as before.
    bench.set_own(Duration::ZERO, "next");
    bench.turn(NOW);
    assert_eq!(bench.woken(), ["next"]);
}

/// A waker runs without any lock: it may use the reactor that calls it.
#[test]
fn a_waker_may_use_the_reactor() {
    let bench = Bench::new();
    let source = bench.source(2070);
    let (reactor, weak, deadline) = (bench.reactor.clone(), Arc::downgrade(&source), bench.at(MS));
    let busy = waker(move || {
        let source = weak.upgrade().unwrap();
        let key = reactor.set_timer(deadline, Waker::noop().clone()).unwrap();
        reactor.cancel_timer(key);
        reactor.set_timer(deadline, Waker::noop().clone()).unwrap();
        Source::register_with(&reactor, 2071).unwrap().deregister().unwrap();
        source.readiness.clear(READ, source.readiness.seen());
        assert_eq!(source.readiness.wait(Direction::Read, Waker::noop()), Wait::Stored);
        source.deregister().unwrap();
        reactor.notify();
    });
    source.readiness.wait(Direction::Read, &busy);
    bench.script.then([(bench.script.token(2070), READ)]);
    assert_eq!(figures(bench.turn(NOW)), (1, 0, 1));
    assert_eq!(bench.reactor.sources_alive(), 0);
    assert_eq!(bench.reactor.next_deadline(None), Some(deadline));
    assert!(bench.turn(None).notified);
}

// ------------------------------------------------------------------------------------ tasks of the driver

/// How many copies of a task's waker there are, beside the bench's own.
fn copies(counted: &Arc<()>) -> usize {
    Arc::strong_count(counted) - 1
}

#[test]
fn a_task_of_the_driver_is_scheduled_and_its_waker_stays() {
    let bench = Bench::new();
    let source = bench.source(2110);
    let nothing = Asks::default();
    let (count, arm) = (Asks { to_count: true, ..nothing }, Asks { to_arm: true, ..nothing });
    for (direction, ready, asks, stored) in [
        (Direction::Read, READ, nothing, Wait::Stored),
        (Direction::Write, WRITE, nothing, Wait::Stored),
        (Direction::Read, READ, count, Wait::StoredAndAsks(count)),
        (Direction::Write, WRITE, arm, Wait::StoredAndAsks(arm)),
    ] {
        let task = bench.task("task");
        source.readiness.adopt(asks);
        for _ in 0..3 {
            assert_eq!(source.readiness.wait(direction, &task), stored);
            assert_eq!(figures(bench.happens(2110, ready)), (1, 0, 0));
            assert_eq!(bench.woken(), ["task"]);
            // Nobody waits now.
            assert_eq!(figures(bench.happens(2110, ready)), (1, 0, 0));
            assert_eq!(source.readiness.wait(direction, &task), Wait::Ready);
            source.readiness.clear(ready, source.readiness.seen());
        }
    }
    assert!(bench.woken().is_empty());
    source.deregister().unwrap();
}

/// Two directions, the list, and tasks of both kinds, in one event.
#[test]
fn tasks_of_the_driver_and_others_hear_of_one_event() {
    let bench = Bench::new();
    let source = bench.source(2111);
    source.readiness.wait(Direction::Read, &bench.waker("reader"));
    source.readiness.wait(Direction::Write, &bench.task("writer's task"));
    source.readiness.insert(READ, &bench.task("in the list")).1.unwrap();
    assert_eq!(figures(bench.happens(2111, READ | WRITE)), (1, 0, 2));
    assert_eq!(bench.woken(), ["writer's task", "reader", "a task, by its waker"]);
    assert_eq!(figures(bench.happens(2111, READ | WRITE)), (1, 0, 0));

    // Nor do they stand back for a task that the driver knows already.
    let known = bench.task("reader's task");
    for others in [false, true] {
        source.readiness.clear(READ | WRITE, source.readiness.seen());
        source.readiness.wait(Direction::Read, &known);
        if others {
            source.readiness.wait(Direction::Write, &bench.waker("writer"));
            source.readiness.insert(READ, &bench.waker("in the list")).1.unwrap();
        }
        assert_eq!(figures(bench.happens(2111, READ | WRITE)), (1, 0, if others { 2 } else { 0 }));
    }
    assert_eq!(bench.woken(), ["reader's task", "reader's task", "writer", "in the list"]);
    source.deregister().unwrap();
}

/// Whose waker has only stayed does not wait: neither whoever takes the slot wakes it, nor an event that another one in
/// the same direction waits for, nor the end of the reactor.
#[test]
fn a_waker_that_has_stayed_is_not_woken() {
    let bench = Bench::new();
    let source = bench.source(2112);
    let stays = || {
        let task = bench.task("task");
        assert_eq!(source.readiness.wait(Direction::Read, &task), Wait::Stored);
        bench.happens(2112, READ);
        source.readiness.clear(READ, source.readiness.seen());
        assert_eq!(bench.woken(), ["task"]);
        task
    };
    stays();
    source.readiness.wait(Direction::Read, &bench.waker("takes the slot"));
    assert!(bench.woken().is_empty());
    bench.happens(2112, READ);
    assert_eq!(bench.woken(), ["takes the slot"]);
    source.readiness.clear(READ, source.readiness.seen());

    stays();
    let key = source.readiness.insert(READ, &bench.waker("in the list")).1.unwrap();
    assert_eq!(figures(bench.happens(2112, READ)), (1, 0, 1));
    assert_eq!(bench.woken(), ["in the list"]);
    source.readiness.clear(READ, source.readiness.seen());
    source.readiness.remove(key);

    stays();
    bench.reactor.stop(None);
    assert!(bench.woken().is_empty());
    source.deregister().unwrap();
}

/// The driver is told that it knows a waker only if it does: not of the one that came into the slot after that, or by
/// which a task waits that has gone to another reactor.
#[test]
fn a_driver_is_not_taken_to_know_another_waker() {
    let bench = Bench::new();
    let source = bench.source(2114);
    let event = |name| {
        bench.happens(2114, READ);
        source.readiness.clear(READ, source.readiness.seen());
        assert_eq!(bench.woken(), [name]);
    };
    let task = bench.task("task");
    for _ in 0..2 {
        source.readiness.wait(Direction::Read, &task);
        event("task");
    }
    source.readiness.wait(Direction::Read, &bench.waker("another"));
    event("another");
    source.readiness.wait(Direction::Read, &task);
    event("task");

    source.readiness.adopt(Asks::default());
    bench.tasks.borrow_mut().clear();
    source.readiness.wait(Direction::Read, &task);
    event("a task, by its waker");
    source.deregister().unwrap();
}

/// The task whose waker has stayed waits again, while others do so in the list: it is there, and stays when they go.
#[test]
fn whoever_waits_in_the_list_does_not_stand_for_the_slot() {
    let bench = Bench::new();
    let source = bench.source(2113);
    let task = bench.task("task");
    source.readiness.wait(Direction::Read, &task);
    bench.happens(2113, READ);
    source.readiness.clear(READ, source.readiness.seen());
    let key = source.readiness.insert(READ, &bench.waker("in the list")).1.unwrap();
    assert_eq!(source.readiness.wait(Direction::Read, &task), Wait::Stored);
    source.readiness.remove(key);
    assert_eq!(bench.woken(), ["task"]);
    assert_eq!(figures(bench.happens(2113, READ)), (1, 0, 0));
    assert_eq!(bench.woken(), ["task"]);
    source.deregister().unwrap();
}

/// A task waits again, and the other one that has taken the slot meanwhile is woken to find out.
#[test]
fn a_task_that_comes_back_to_its_slot_wakes_whoever_waits_there() {
    let bench = Bench::new();
    let source = bench.source(2114);
    let (task, other) = (bench.task("task"), bench.waker("other"));
    source.readiness.wait(Direction::Read, &task);
    bench.happens(2114, READ);
    source.readiness.clear(READ, source.readiness.seen());
    source.readiness.wait(Direction::Read, &other);
    source.readiness.wait(Direction::Read, &task);
    assert_eq!(bench.woken(), ["task", "other"]);
    bench.happens(2114, READ);
    assert_eq!(bench.woken(), ["task"]);
    source.deregister().unwrap();
}

/// A waker that stays is dropped with its source, or by whoever takes the slot.
#[test]
fn a_waker_that_has_stayed_is_dropped() {
    let bench = Bench::new();
    let counted = Arc::new(());
    let held = counted.clone();
    let task = waker(move || drop(held.clone()));
    bench.tasks.borrow_mut().push((task.clone(), "task"));
    let drops = |source: Arc<Source>| {
        bench.happens(2115, READ);
        source.readiness.clear(READ, source.readiness.seen());
        source
    };
    let source = bench.source(2115);
    source.readiness.wait(Direction::Read, &task);
    let source = drops(source);
    bench.tasks.borrow_mut().clear();
    drop(task);
    assert_eq!(copies(&counted), 1, "the slot's");
    source.readiness.wait(Direction::Read, Waker::noop());
    assert_eq!(copies(&counted), 0);

    let held = counted.clone();
    let task = waker(move || drop(held.clone()));
    bench.tasks.borrow_mut().push((task.clone(), "task"));
    source.readiness.wait(Direction::Read, &task);
    let source = drops(source);
    bench.tasks.borrow_mut().clear();
    drop(task);
    assert_eq!(copies(&counted), 1, "the slot's");
    source.deregister().unwrap();
    drop(source);
    assert_eq!(copies(&counted), 0);
}

// -------------------------------------------------------------------------------------------------- stop

#[test]
fn when_a_reactor_stops_all_who_wait_are_woken_and_nobody_waits_again() {
    let bench = Bench::new();
    let source = bench.source(2080);
    source.readiness.wait(Direction::Read, &bench.waker("reader"));
    source.readiness.wait(Direction::Write, &bench.waker("writer"));
    let key = source.readiness.insert(READ, &bench.waker("listed")).1.unwrap();
    bench.set(MS, "timer");
    bench.set_own(MS, "own timer");
    bench.reactor.stop(Some(bench.own.take()));
    let mut woken = bench.woken();
    woken.sort_unstable();
    assert_eq!(woken, ["listed", "own timer", "reader", "timer", "writer"]);

    assert!(!bench.reactor.is_alive());
    let waker = bench.waker("too late");
    assert_eq!(source.readiness.wait(Direction::Read, &waker), Wait::Orphaned);
    assert_eq!(source.readiness.poll_waiter(key, &waker), Wait::Orphaned);
    assert_eq!(source.readiness.insert(READ, &waker), (Wait::Orphaned, None));
    assert!(bench.reactor.set_timer(0, waker).is_err());
    let refused = bench.reactor.add(2081, |_| unreachable!("it is refused before")).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::NotConnected);
    // Letters to it go nowhere, and harm nobody.
    let key = Wheel::new().insert(1, ());
    bench.reactor.mail_cancel(key);
    bench.reactor.mail_reset(key, 0);
    source.readiness.remove(0);
    source.deregister().unwrap();
}

/// What happened before the stop is not forgotten by it.
#[test]
fn a_waiter_whose_event_has_come_is_ready_even_after_the_stop() {
    let bench = Bench::new();
    let source = bench.source(2090);
    let key = source.readiness.insert(READ, &bench.waker("listed")).1.unwrap();
    bench.script.then([(bench.script.token(2090), READ)]);
    bench.turn(NOW);
    bench.reactor.stop(None);
    assert_eq!(bench.woken(), ["listed"]);
    assert_eq!(source.readiness.poll_waiter(key, &bench.waker("again")), Wait::Ready);
    source.readiness.remove(key);
    source.deregister().unwrap();
}

#[test]
fn a_source_of_a_stopped_reactor_moves_to_the_next() {
    let (first, second) = (Bench::new(), Bench::new());
    let source = first.source(2100);
    first.reactor.stop(None);
    let waker = second.waker("moved");
    let cx = &mut std::task::Context::from_waker(&waker);
    let pending =
        super::current::enter_shared(&second.reactor, || source.poll_ready(Direction::Read, cx).is_pending());
    assert!(pending);
    assert_eq!((first.reactor.sources_alive(), second.reactor.sources_alive()), (0, 1));
    assert!(first.script.calls().contains(&Call::Delete(2100)));
    second.script.then([(second.script.token(2100), READ)]);
    second.turn(NOW);
    assert_eq!(second.woken(), ["moved"]);
    source.deregister().unwrap();
    assert_eq!(second.reactor.sources_alive(), 0);
}

/// While the seat is lent.
#[test]
fn the_last_who_waits_again_turns_and_if_that_was_in_vain_calls_the_helper() {
    let shared = Shared::new(Backend::from_env().unwrap(), Clock::Real, false).unwrap();
    let seat = Seat::new(shared.clone(), || Ok(()));
    let woken = Arc::new(AtomicUsize::new(0));
    let counts = woken.clone();
    let waker = waker(move || {
        counts.fetch_add(1, Ordering::SeqCst);
    });
    // Who waits without having had an event counts for nobody.
    seat.waits(1);
    seat.lend_to(2);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let source = Source::register_with(&shared, ours.as_raw_fd()).unwrap();
    source.readiness.clear(READ, source.readiness.seen());
    assert!(source.poll_ready(Direction::Read, &mut Context::from_waker(&waker)).is_pending());
    (&theirs).write_all(b"x").unwrap();
    seat.waits(1);
    assert_eq!(woken.load(Ordering::SeqCst), 0, "one has not come back");
    seat.waits(1);
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert!(!seat.take_call(), "the one that it has woken has not come back");
    seat.waits(1);
    assert!(seat.take_call());
    source.deregister().unwrap();
}
