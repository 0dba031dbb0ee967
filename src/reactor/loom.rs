//! Models of what several threads do to a reactor at once: loom runs each in every order that matters, with the code
//! that ships. The selector is a [`Script`], in which a wait lasts until somebody notifies, so that a wake-up that is
//! lost shows as a deadlock.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test --profile loom --lib loom
//! ```

use super::clock::Clock;
use super::current::enter_shared;
use super::driver::{Answer, Driver, no_tasks};
use super::park::Park;
use super::readiness::{Direction, Readiness, Wait};
use super::shared::{Scratch, Shared, Turn};
use super::source::Source;
use super::wake_all;
use super::wheel::Wheel;
use crate::sys::scripted::Script;
use crate::sys::{Poller, Ready, Trigger, Watched};
use ::loom::sync::{Condvar, Mutex};
use ::loom::thread;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

/// Three context switches at the worst place find nearly everything, and take seconds rather than days.
pub(crate) fn model(f: impl Fn() + Sync + Send + 'static) {
    model_with(3, f);
}

/// The same with another number of them.
pub(crate) fn model_with(preemptions_max: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions_max));
    let f = Arc::new(f);
    builder.check(move || {
        let f = f.clone();
        spawn(move || f()).join().unwrap();
    });
}

/// A thread with room for a wheel on its stack.
fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(1 << 20).spawn(f).unwrap()
}

/// A thread that does this with what it shares with others.
pub(crate) fn meanwhile<S, T>(
    shared: &Arc<S>,
    f: impl FnOnce(&S) -> T + Send + 'static,
) -> thread::JoinHandle<T>
where
    S: Send + Sync + 'static,
    T: Send + 'static,
{
    let shared = shared.clone();
    spawn(move || f(&shared))
}

/// Does `this` here and `others` each on a thread, all at once, until all have come to their end.
pub(crate) fn alongside<S, F, R, const N: usize>(
    shared: &Arc<S>,
    others: [F; N],
    this: impl FnOnce() -> R,
) -> R
where
    S: Send + Sync + 'static,
    F: FnOnce(&S) + Send + 'static,
{
    let others = others.map(|other| meanwhile(shared, other));
    let result = this();
    others.into_iter().for_each(|other| other.join().unwrap());
    result
}

/// A task: somebody who waits to be woken.
pub(crate) struct Task {
    wakes: Arc<Wakes>,
    pub waker: Waker,
}

#[derive(Default)]
struct Wakes {
    /// Those that have not been waited for, and all.
    count: Mutex<(u32, u32)>,
    condvar: Condvar,
}

impl Task {
    pub fn new() -> Task {
        let wakes = Arc::new(Wakes::default());
        Task { waker: Waker::from(wakes.clone()), wakes }
    }

    /// A deadlock, if nobody ever wakes it.
    pub fn wait(&self) {
        let mut count = self.wakes.count.lock().unwrap();
        while count.0 == 0 {
            count = self.wakes.condvar.wait(count).unwrap();
        }
        count.0 = 0;
    }

    fn times_woken(&self) -> u32 {
        self.wakes.count.lock().unwrap().1
    }

    /// How many copies of its waker are kept by others.
    fn wakers_elsewhere(&self) -> usize {
        Arc::strong_count(&self.wakes) - 2
    }

    /// Waits in a slot, as `poll_read` and `Operation` do it, until the wait ends like this.
    fn wait_in_slot(&self, readiness: &Readiness, direction: Direction, end: Wait) {
        loop {
            match readiness.wait(direction, &self.waker) {
                wait if wait == end => return,
                Wait::Stored => self.wait(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits in the list, as the futures do it, until the wait ends like this.
    fn wait_in_list(&self, readiness: &Readiness, end: Wait) {
        match readiness.insert(Ready::READABLE, &self.waker) {
            (wait, None) => assert_eq!(wait, end),
            (_, Some(key)) => self.wait_on_in_list(readiness, key, end),
        }
    }

    /// The same in a place that it has already.
    fn wait_on_in_list(&self, readiness: &Readiness, key: usize, end: Wait) {
        while readiness.poll_waiter(key, &self.waker) != end {
            self.wait();
        }
        readiness.remove(key);
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        let mut count = self.count.lock().unwrap();
        *count = (count.0 + 1, count.1 + 1);
        self.condvar.notify_one();
    }
}

/// What threads may only use one after the other: loom finds out whether they do.
pub(crate) struct Unshared<T>(::loom::cell::UnsafeCell<T>);

// SAFETY: loom panics before two threads are in it at once.
unsafe impl<T: Send> Sync for Unshared<T> {}

impl<T> Unshared<T> {
    pub fn new(value: T) -> Unshared<T> {
        Unshared(::loom::cell::UnsafeCell::new(value))
    }

    pub fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        // SAFETY: see `Sync`.
        self.0.with(|value| f(unsafe { &*value }))
    }

    pub fn with_mut<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: see `Sync`.
        self.0.with_mut(|value| f(unsafe { &mut *value }))
    }
}

/// A readiness where neither direction is ready.
fn nothing_ready() -> Arc<Readiness> {
    let readiness = Arc::new(Readiness::new());
    readiness.clear(Ready::READABLE | Ready::WRITABLE, readiness.seen());
    readiness
}

/// Somebody waits in the list for reading, and has the place that is returned.
fn insert(readiness: &Readiness, task: &Task) -> usize {
    readiness.insert(Ready::READABLE, &task.waker).1.expect("it is not ready")
}

/// An event, as a reactor's turn publishes it. Returns how many were woken.
fn publish(readiness: &Readiness, ready: Ready) -> usize {
    let mut wakers = Vec::new();
    readiness.publish(ready, &mut no_tasks, &mut wakers);
    let n = wakers.len();
    wake_all(&mut wakers);
    n
}

/// The driver of the task that has this waker. (Here to be scheduled is to be woken.)
struct DriverOf<'a>(&'a Waker);

impl Driver for DriverOf<'_> {
    fn claim(&mut self, waker: &Waker) -> Answer {
        if !waker.will_wake(self.0) {
            return Answer::No;
        }
        waker.wake_by_ref();
        Answer::Known
    }

    unsafe fn claim_again(&mut self, waker: &Waker) -> bool {
        assert_eq!(self.claim(waker), Answer::Known, "another waker than the one that it knows");
        true
    }
}

/// The same by the driver of this task, which schedules it there and then.
fn publish_to_own(readiness: &Readiness, ready: Ready, task: &Waker) {
    let mut wakers = Vec::new();
    readiness.publish(ready, &mut DriverOf(task), &mut wakers);
    wake_all(&mut wakers);
}

/// A readiness where neither direction is ready, and a task that has been told of an event: its waker has stayed.
fn waker_stays() -> (Arc<Readiness>, Task) {
    let (readiness, task) = (nothing_ready(), Task::new());
    assert_eq!(readiness.wait(Direction::Read, &task.waker), Wait::Stored);
    publish_to_own(&readiness, Ready::READABLE, &task.waker);
    task.wait();
    readiness.clear(Ready::READABLE, readiness.seen());
    assert_eq!((task.times_woken(), task.wakers_elsewhere()), (1, 1));
    (readiness, task)
}

fn readable(readiness: &Readiness) {
    publish(readiness, Ready::READABLE);
}

/// The reactor stops.
fn orphan(readiness: &Readiness) {
    let mut wakers = Vec::new();
    readiness.orphan(&mut wakers);
    wake_all(&mut wakers);
}

/// A reactor whose waits end as a script says.
pub(crate) fn scripted() -> (Arc<Shared>, Arc<Script>) {
    let script = Script::new();
    (Shared::with_poller(Poller::Scripted(script.clone()), Clock::Real, false), script)
}

pub(crate) fn scripted_reactor() -> Arc<Shared> {
    scripted().0
}

/// A source of this reactor, with nothing ready.
fn source(reactor: &Arc<Shared>, fd: i32) -> Arc<Source> {
    let source = Source::register_with(reactor, fd).unwrap();
    source.readiness.clear(Ready::READABLE, source.readiness.seen());
    source
}

/// Sets a timer, from a thread that does not drive the reactor.
pub(crate) fn set_timer(deadline: u64, waker: &Waker) -> impl FnOnce(&Shared) + Send + use<> {
    let waker = waker.clone();
    move |reactor| {
        reactor.set_timer(deadline, waker).expect("it has not stopped");
    }
}

/// One turn, which waits.
pub(crate) fn turn(reactor: &Shared) -> Turn {
    reactor.turn(None, &mut Scratch::default(), None, &Cell::new(None), &mut no_tasks).unwrap()
}

/// The driver of a reactor, with the wheel of its own: turns it until `task` is woken.
fn drive_until_woken(reactor: &Shared, own: Option<&RefCell<Wheel<Waker>>>, task: &Task) {
    let mut scratch = Scratch::default();
    while task.times_woken() == 0 {
        reactor.turn(own, &mut scratch, None, &Cell::new(None), &mut no_tasks).unwrap();
    }
}

// --------------------------------------------------------------------------------------------- readiness

#[test]
fn a_waker_in_a_slot_hears_of_an_event() {
    model(|| {
        let (readiness, task) = (nothing_ready(), Task::new());
        alongside(&readiness, [readable], || task.wait_in_slot(&readiness, Direction::Read, Wait::Ready));
        assert!(!readiness.seen().has_waiters());
    });
}

#[test]
fn a_waker_in_the_list_hears_of_an_event() {
    model(|| {
        let (readiness, task) = (nothing_ready(), Task::new());
        alongside(&readiness, [readable], || task.wait_in_list(&readiness, Wait::Ready));
        assert!(readiness.seen().is_ready(Ready::READABLE));
        assert!(!readiness.seen().has_waiters());
    });
}

/// A waiter polled with another waker, because it has moved to another task, is woken by that one.
#[test]
fn a_waiter_that_changes_its_waker_hears_of_an_event() {
    model(|| {
        let (readiness, first, second) = (nothing_ready(), Task::new(), Task::new());
        let key = insert(&readiness, &first);
        alongside(&readiness, [readable], || second.wait_on_in_list(&readiness, key, Wait::Ready));
    });
}

/// A reader and a writer in two tasks, the one there already, and an event for both.
#[test]
fn both_directions_hear_of_one_event() {
    model(|| {
        let (readiness, reader, writer) = (nothing_ready(), Task::new(), Task::new());
        assert_eq!(readiness.wait(Direction::Write, &writer.waker), Wait::Stored);
        let event = |readiness: &Readiness| {
            publish(readiness, Ready::READABLE | Ready::WRITABLE);
        };
        alongside(&readiness, [event], || {
            reader.wait_in_slot(&readiness, Direction::Read, Wait::Ready);
            writer.wait();
        });
    });
}

/// Of two tasks that poll the same direction the later one has the slot, and the earlier one is woken to find out.
#[test]
fn nobody_is_left_behind_in_a_contended_slot() {
    model(|| {
        let (readiness, tasks) = (nothing_ready(), Arc::new([Task::new(), Task::new()]));
        let wait = |task: &Task, readiness: &Readiness| {
            assert_eq!(readiness.wait(Direction::Read, &task.waker), Wait::Stored);
        };
        let others = tasks.clone();
        alongside(&readiness, [move |readiness: &_| wait(&others[1], readiness)], || {
            wait(&tasks[0], &readiness)
        });
        let times_woken = || [tasks[0].times_woken(), tasks[1].times_woken()];
        assert_eq!(times_woken().iter().sum::<u32>(), 1);
        assert_eq!(publish(&readiness, Ready::READABLE), 1);
        assert_eq!(times_woken(), [1, 1]);
    });
}

/// A waiter that is dropped while the event comes takes nothing from the others.
#[test]
fn a_waiter_that_goes_takes_nothing_from_the_others() {
    model(|| {
        let (readiness, stays, goes) = (nothing_ready(), Task::new(), Task::new());
        let (place, others_place) = (insert(&readiness, &stays), insert(&readiness, &goes));
        let goes = meanwhile(&readiness, move |readiness| readiness.remove(others_place));
        alongside(&readiness, [readable], || stays.wait());
        stays.wait_on_in_list(&readiness, place, Wait::Ready);
        goes.join().unwrap();
        assert!(!readiness.seen().has_waiters());
        assert_eq!(stays.wakers_elsewhere(), 0);
    });
}

/// A socket and its readiness: data that the event told of is not waited for. The reader clears what it has seen, and
/// nothing newer.
#[test]
fn a_clear_never_eats_a_newer_edge() {
    model(|| {
        let (readiness, task) = (Arc::new(Readiness::new()), Task::new());
        let data = Arc::new(Mutex::new(false));
        let arrives = data.clone();
        let kernel = move |readiness: &Readiness| {
            *arrives.lock().unwrap() = true;
            readable(readiness);
        };
        alongside(&readiness, [kernel], || {
            loop {
                let seen = readiness.seen();
                if !seen.is_ready(Ready::READABLE) {
                    task.wait_in_slot(&readiness, Direction::Read, Wait::Ready);
                    continue;
                }
                if *data.lock().unwrap() {
                    break;
                }
                readiness.clear(Ready::READABLE, seen);
            }
        });
    });
}

/// The same with a second direction, which is cleared at the same time by another task.
#[test]
fn a_clear_leaves_the_other_direction_alone() {
    model(|| {
        let (readiness, task) = (Arc::new(Readiness::new()), Task::new());
        let seen = readiness.seen();
        alongside(&readiness, [move |readiness: &Readiness| readiness.clear(Ready::WRITABLE, seen)], || {
            readiness.clear(Ready::READABLE, seen);
            assert_eq!(readiness.wait(Direction::Read, &task.waker), Wait::Stored);
        });
        assert!(!readiness.seen().is_ready(Ready::READABLE | Ready::WRITABLE));
        assert_eq!(publish(&readiness, Ready::READABLE), 1);
    });
}

/// A clear may come while another task holds the lock bit.
#[test]
fn a_clear_and_a_wait_do_not_undo_each_other() {
    model(|| {
        let (readiness, task) = (nothing_ready(), Task::new());
        publish(&readiness, Ready::WRITABLE);
        let seen = readiness.seen();
        alongside(&readiness, [move |readiness: &Readiness| readiness.clear(Ready::WRITABLE, seen)], || {
            assert_eq!(readiness.wait(Direction::Read, &task.waker), Wait::Stored);
        });
        assert!(!readiness.seen().is_ready(Ready::WRITABLE));
        assert_eq!(publish(&readiness, Ready::READABLE), 1);
        assert_eq!(task.times_woken(), 1);
    });
}

/// An event: the driver of this task tells of it, or another thread (which has asked the kernel).
fn event_by(driver_of: Option<Waker>) -> impl FnOnce(&Readiness) + Send {
    move |readiness| match driver_of {
        Some(task) => publish_to_own(readiness, Ready::READABLE, &task),
        None => readable(readiness),
    }
}

/// The task waits again while the event comes.
#[test]
fn a_waker_that_stays_hears_of_the_next_event() {
    for by_driver in [true, false] {
        model(move || {
            let (readiness, task) = waker_stays();
            let event = event_by(by_driver.then(|| task.waker.clone()));
            alongside(&readiness, [event], || task.wait_in_slot(&readiness, Direction::Read, Wait::Ready));
            assert!(!readiness.seen().has_waiters());
            assert_eq!(publish(&readiness, Ready::READABLE), 0);
        });
    }
}

/// Two events, told of in both ways: the task hears of the first, if it has come to wait before.
#[test]
fn a_waker_that_stays_is_woken_once_for_a_wait() {
    for driver_is_first in [true, false] {
        model(move || {
            let (readiness, task) = waker_stays();
            let by_driver = || Some(task.waker.clone());
            let [first, second] = if driver_is_first { [by_driver(), None] } else { [None, by_driver()] };
            let events = |readiness: &Readiness| {
                event_by(first)(readiness);
                event_by(second)(readiness);
            };
            let wait = alongside(&readiness, [events], || readiness.wait(Direction::Read, &task.waker));
            assert_eq!(task.times_woken(), 1 + u32::from(wait == Wait::Stored));
            assert!(!readiness.seen().has_waiters());
        });
    }
}

/// Another task takes the slot of the one whose waker has stayed, which waits again at the same time: one of the two
/// is there in the end, and the other was woken to find out. Neither is woken for a wait that was over.
#[test]
fn nobody_is_left_behind_in_the_slot_of_a_waker_that_stays() {
    model(|| {
        let (readiness, task) = waker_stays();
        let other = Arc::new(Task::new());
        let others = other.clone();
        let takes = move |readiness: &Readiness| {
            assert_eq!(readiness.wait(Direction::Read, &others.waker), Wait::Stored);
        };
        alongside(&readiness, [takes], || {
            assert_eq!(readiness.wait(Direction::Read, &task.waker), Wait::Stored);
        });
        let times_woken = || [task.times_woken() - 1, other.times_woken()];
        assert_eq!(times_woken().iter().sum::<u32>(), 1);
        assert_eq!(publish(&readiness, Ready::READABLE), 1);
        assert_eq!(times_woken(), [1, 1]);
        assert_eq!([task.wakers_elsewhere(), other.wakers_elsewhere()], [0, 0]);
    });
}

/// Somebody comes to the list and goes, while the task whose waker has stayed waits again.
#[test]
fn the_list_does_not_touch_a_waker_that_stays() {
    model(|| {
        let (readiness, task) = waker_stays();
        let listed = |readiness: &Readiness| {
            let key = insert(readiness, &Task::new());
            readiness.remove(key);
        };
        alongside(&readiness, [listed], || {
            assert_eq!(readiness.wait(Direction::Read, &task.waker), Wait::Stored);
        });
        assert_eq!(task.times_woken(), 1);
        assert_eq!(publish(&readiness, Ready::READABLE), 1);
        assert_eq!(task.times_woken(), 2);
    });
}

/// A socket where bytes arrive: how many there are to be read.
type Bytes = Mutex<u32>;

/// Reads what there is, as [`try_read_and_wait`](crate::io::Stream::try_read_and_wait) does: after each read, which is
/// short, it waits without another look. Until `n` bytes have come.
fn read_each(readiness: &Readiness, bytes: &Bytes, task: &Task, n: u32) {
    let mut read = 0;
    while read < n {
        let seen = readiness.seen();
        if !seen.is_ready(Ready::READABLE) {
            task.wait_in_slot(readiness, Direction::Read, Wait::Ready);
            continue;
        }
        let now = std::mem::take(&mut *bytes.lock().unwrap());
        if now == 0 {
            readiness.clear(Ready::READABLE, seen);
            continue;
        }
        read += now;
        if readiness.clear_and_wait(Direction::Read, seen, &task.waker) && read < n {
            task.wait();
        }
    }
}

/// A byte comes before the read, after it, or between it and the wait, which asks nobody: it is not lost.
#[test]
fn a_wait_without_a_look_misses_no_byte() {
    for by_driver in [true, false] {
        model(move || {
            let (readiness, task) = waker_stays();
            let bytes = Arc::new(Bytes::new(1));
            readable(&readiness);
            let (arrives, event) = (bytes.clone(), event_by(by_driver.then(|| task.waker.clone())));
            let kernel = move |readiness: &Readiness| {
                *arrives.lock().unwrap() += 1;
                event(readiness);
            };
            alongside(&readiness, [kernel], || read_each(&readiness, &bytes, &task, 2));
        });
    }
}

/// The same with two bytes, which are told of in both ways.
#[test]
fn a_wait_without_a_look_hears_of_the_next_event() {
    model_with(2, move || {
        let (readiness, task) = waker_stays();
        let bytes = Arc::new(Bytes::new(1));
        readable(&readiness);
        let (arrive, events) = (bytes.clone(), [event_by(Some(task.waker.clone())), event_by(None)]);
        let kernel = move |readiness: &Readiness| {
            for event in events {
                *arrive.lock().unwrap() += 1;
                event(readiness);
            }
        };
        alongside(&readiness, [kernel], || read_each(&readiness, &bytes, &task, 3));
    });
}

/// An event that comes while a task begins to wait without a look: the task waits and is woken once, or does not wait.
#[test]
fn a_wait_without_a_look_is_woken_once() {
    for by_driver in [true, false] {
        model(move || {
            let (readiness, task) = waker_stays();
            readable(&readiness);
            let seen = readiness.seen();
            let event = event_by(by_driver.then(|| task.waker.clone()));
            let waits = alongside(&readiness, [event], || {
                readiness.clear_and_wait(Direction::Read, seen, &task.waker)
            });
            assert_eq!(task.times_woken(), 1 + u32::from(waits));
            assert!(readiness.seen().is_ready(Ready::READABLE), "the event is there to be found");
            assert!(!readiness.seen().has_waiters());
        });
    }
}

/// Another task takes the slot: one is there in the end, and the other does not wait or was woken to find out.
#[test]
fn nobody_is_left_behind_in_the_slot_of_a_wait_without_a_look() {
    model(|| {
        let (readiness, task) = waker_stays();
        readable(&readiness);
        let (seen, other) = (readiness.seen(), Arc::new(Task::new()));
        let others = other.clone();
        let takes = move |readiness: &Readiness| readiness.wait(Direction::Read, &others.waker);
        let taker = meanwhile(&readiness, takes);
        let waits = readiness.clear_and_wait(Direction::Read, seen, &task.waker);
        let takes = taker.join().unwrap();
        // The other one came before the clear, and had something to read.
        let both = waits && takes == Wait::Stored;
        assert!(both || takes == Wait::Ready || !waits);
        assert_eq!(task.times_woken(), 1 + u32::from(both));
        assert_eq!(other.times_woken(), 0);
        let there = usize::from(waits || takes == Wait::Stored);
        assert_eq!(publish(&readiness, Ready::READABLE), there);
        let woken = (task.times_woken() - 1) + other.times_woken();
        assert_eq!(woken, u32::from(waits) + u32::from(takes == Wait::Stored));
    });
}

/// A wait that is taken for another task's, or without a waker, is none; but what was used up is cleared.
#[test]
fn only_the_task_whose_waker_has_stayed_waits_without_a_look() {
    model(|| {
        let (readiness, task) = waker_stays();
        let other = Task::new();
        for (direction, task) in [(Direction::Read, &other), (Direction::Write, &task)] {
            publish(&readiness, direction.interest());
            assert!(!readiness.clear_and_wait(direction, readiness.seen(), &task.waker));
            assert!(!readiness.seen().is_ready(direction.interest()) && !readiness.seen().has_waiters());
        }
        // Who is there is not put out by one who does not wait.
        assert_eq!(readiness.wait(Direction::Read, &task.waker), Wait::Stored);
        for task in [&other, &task] {
            assert!(!readiness.clear_and_wait(Direction::Read, readiness.seen(), &task.waker));
        }
        assert_eq!((task.times_woken(), other.times_woken()), (1, 0));
        assert_eq!(publish(&readiness, Ready::READABLE), 1);
        assert_eq!((task.times_woken(), other.times_woken()), (2, 0));
    });
}

/// The other direction is cleared meanwhile, and somebody comes to the list and goes.
#[test]
fn a_wait_without_a_look_leaves_the_others_alone() {
    model(|| {
        let (readiness, task) = waker_stays();
        publish(&readiness, Ready::READABLE | Ready::WRITABLE);
        let seen = readiness.seen();
        let writer = move |readiness: &Readiness| {
            readiness.clear(Ready::WRITABLE, seen);
            let key = readiness.insert(Ready::WRITABLE, &Task::new().waker).1.expect("it was cleared");
            readiness.remove(key);
        };
        let waits =
            alongside(&readiness, [writer], || readiness.clear_and_wait(Direction::Read, seen, &task.waker));
        assert!(!readiness.seen().is_ready(Ready::READABLE | Ready::WRITABLE));
        assert_eq!(publish(&readiness, Ready::READABLE), usize::from(waits));
        assert_eq!(task.times_woken(), 1 + u32::from(waits));
    });
}

// ----------------------------------------------------------------------------------------------- hand-off

/// The reactor stops while a task comes to wait.
#[test]
fn nobody_waits_in_a_slot_for_a_reactor_that_has_gone() {
    model(|| {
        let (readiness, task) = (nothing_ready(), Task::new());
        alongside(&readiness, [orphan], || task.wait_in_slot(&readiness, Direction::Read, Wait::Orphaned));
        assert!(!readiness.seen().has_waiters());
    });
}

/// The same with a task whose waker has stayed. If it has not come to wait, it is not woken.
#[test]
fn a_waker_that_stays_does_not_wait_for_a_reactor_that_has_gone() {
    model(|| {
        let (readiness, task) = waker_stays();
        let mut waited = false;
        alongside(&readiness, [orphan], || match readiness.wait(Direction::Read, &task.waker) {
            Wait::Orphaned => {}
            wait => {
                assert_eq!(wait, Wait::Stored);
                waited = true;
                task.wait();
            }
        });
        assert_eq!(task.times_woken(), 1 + u32::from(waited));
        assert_eq!(readiness.wait(Direction::Read, &task.waker), Wait::Orphaned);
        assert!(!readiness.seen().has_waiters());
    });
}

/// The same for one who waits without a look.
#[test]
fn a_wait_without_a_look_is_not_for_a_reactor_that_has_gone() {
    model(|| {
        let (readiness, task) = waker_stays();
        readable(&readiness);
        let seen = readiness.seen();
        let waits =
            alongside(&readiness, [orphan], || readiness.clear_and_wait(Direction::Read, seen, &task.waker));
        assert_eq!(task.times_woken(), 1 + u32::from(waits));
        assert!(!readiness.seen().is_ready(Ready::READABLE) && !readiness.seen().has_waiters());
        assert!(!readiness.clear_and_wait(Direction::Read, readiness.seen(), &task.waker));
        assert_eq!(readiness.wait(Direction::Read, &task.waker), Wait::Orphaned);
        assert!(!readiness.seen().has_waiters());
    });
}

#[test]
fn nobody_waits_in_the_list_for_a_reactor_that_has_gone() {
    model(|| {
        let (readiness, task) = (nothing_ready(), Task::new());
        alongside(&readiness, [orphan], || task.wait_in_list(&readiness, Wait::Orphaned));
        assert!(!readiness.seen().has_waiters());
    });
}

/// A source moves to a new reactor, which stops at the same moment: the task must not wait for it.
#[test]
fn nobody_waits_for_a_second_reactor_that_goes() {
    const FD: i32 = 1000;
    model(|| {
        let (first, second, task) = (scripted_reactor(), scripted_reactor(), Task::new());
        let source = source(&first, FD);
        first.stop(None);
        alongside(&second, [|second: &Shared| second.stop(None)], || {
            // It may be too late, which is fine: the next reactor will do.
            if source.follow(&second).is_ok() {
                task.wait_in_slot(&source.readiness, Direction::Read, Wait::Orphaned);
            }
        });
        let _ = source.deregister();
    });
}

/// A timer is set while the reactor stops: it is refused, or its task is woken to set it elsewhere.
#[test]
fn no_timer_stays_in_a_reactor_that_has_gone() {
    model(|| {
        let (reactor, task) = (scripted_reactor(), Task::new());
        alongside(&reactor, [|reactor: &Shared| reactor.stop(None)], || {
            if reactor.set_timer(LATER, task.waker.clone()).is_ok() {
                task.wait();
            }
        });
    });
}

// ------------------------------------------------------------------------------------------ sleep and wake

/// Not in this process's life.
const LATER: u64 = u64::MAX / 2;

/// Whoever leaves work and notifies either finds the loop awake, which then looks, or asleep, and ends that.
#[test]
fn no_work_is_left_while_the_loop_sleeps() {
    model(|| {
        let (work, sleeper) = (Mutex::new(0), Task::new());
        let shared = Arc::new((Park::new(), work, sleeper));
        let other = |(park, work, sleeper): &(Park, Mutex<u32>, Task)| {
            *work.lock().unwrap() += 1;
            if park.notify() {
                sleeper.waker.wake_by_ref();
            }
        };
        let (park, work, sleeper) = &*shared;
        alongside(&shared, [other; 2], || {
            let mut done = 0;
            while done < 2 {
                done += std::mem::take(&mut *work.lock().unwrap());
                if done < 2 && park.try_sleep() {
                    sleeper.wait();
                }
                park.wake();
            }
        });
    });
}

/// What was left before a notification that found the loop awake is visible to it, without a lock.
#[test]
fn a_notification_publishes_what_was_left() {
    model(|| {
        let shared = Arc::new((Park::new(), Unshared::new(0)));
        let other = |(park, left): &(Park, Unshared<i32>)| {
            left.with_mut(|n| *n = 1);
            let _ = park.notify();
        };
        let (park, left) = &*shared;
        alongside(&shared, [other], || {
            if !park.try_sleep() || park.wake() {
                left.with(|n| assert_eq!(*n, 1));
            }
        });
    });
}

/// The same with the whole turn of a reactor around it.
#[test]
fn a_turn_does_not_sleep_through_a_notification() {
    model(|| {
        let inbox = Arc::new((scripted_reactor(), Mutex::new(0)));
        let other = |(reactor, inbox): &(Arc<Shared>, Mutex<u32>)| {
            *inbox.lock().unwrap() += 1;
            reactor.notify();
        };
        alongside(&inbox, [other; 2], || {
            while *inbox.1.lock().unwrap() < 2 {
                turn(&inbox.0);
            }
        });
    });
}

/// A thread sets a timer while the reactor goes to sleep, without a deadline of its own: it fires.
#[test]
fn a_timer_set_by_another_thread_fires() {
    model(|| {
        let (reactor, task) = (scripted_reactor(), Task::new());
        alongside(&reactor, [set_timer(0, &task.waker)], || {
            drive_until_woken(&reactor, None, &task);
        });
        assert_eq!(reactor.next_deadline(None), None);
    });
}

/// Two threads, the earlier timer second: the sleep that the first one's is worth is cut short.
#[test]
fn an_earlier_timer_cuts_the_sleep_short() {
    model(|| {
        let (reactor, task, later) = (scripted_reactor(), Task::new(), Task::new());
        set_timer(LATER, &later.waker)(&reactor);
        alongside(&reactor, [set_timer(0, &task.waker)], || {
            drive_until_woken(&reactor, None, &task);
        });
        assert!(reactor.next_deadline(None).is_some());
    });
}

/// A timer is cancelled, or moved, while it fires: it fires or it does not, and the deadline that is kept for the
/// driver is never too late.
#[test]
fn a_timer_that_is_moved_while_it_fires_is_not_lost() {
    model(|| {
        let (reactor, task) = (scripted_reactor(), Task::new());
        let key = reactor.set_timer(0, task.waker.clone()).unwrap();
        // Put off, then back: pending both times, or fired.
        let other = move |reactor: &Shared| {
            reactor.reset_timer(key, LATER);
            reactor.reset_timer(key, 0);
        };
        alongside(&reactor, [other], || drive_until_woken(&reactor, None, &task));
    });
}

#[test]
fn cancelling_a_timer_while_it_fires_harms_nobody() {
    model(|| {
        let (reactor, task, cancelled) = (scripted_reactor(), Task::new(), Task::new());
        let key = reactor.set_timer(0, cancelled.waker.clone()).unwrap();
        reactor.set_timer(0, task.waker.clone()).unwrap();
        alongside(&reactor, [move |reactor: &Shared| reactor.cancel_timer(key)], || {
            drive_until_woken(&reactor, None, &task);
        });
        assert_eq!(task.times_woken(), 1);
    });
}

/// A timer in the wheel of the reactor's own thread, moved to now by a letter from another thread.
#[test]
fn a_letter_that_moves_a_timer_is_read() {
    model(|| {
        let (reactor, task, own) = (scripted_reactor(), Task::new(), RefCell::new(Wheel::new()));
        let key = own.borrow_mut().insert(LATER, task.waker.clone());
        alongside(&reactor, [move |reactor: &Shared| reactor.mail_reset(key, 0)], || {
            drive_until_woken(&reactor, Some(&own), &task);
        });
    });
}

/// An event is dispatched while the task comes to wait, with the reactor's table of sources in between, and the source
/// is taken out by a third thread.
#[test]
fn an_event_a_wait_and_a_removal_meet() {
    const FD: i32 = 1001;
    model(|| {
        let ((reactor, script), task) = (scripted(), Task::new());
        let source = source(&reactor, FD);
        script.then([(script.token(FD), Ready::READABLE)]);
        let driver = meanwhile(&reactor, |reactor| turn(reactor).events);
        let stored = source.readiness.wait(Direction::Read, &task.waker) == Wait::Stored;
        source.deregister().unwrap();
        let dispatched = driver.join().unwrap();
        if stored && dispatched == 1 {
            assert_eq!(task.times_woken(), 1);
        }
        assert_eq!(reactor.sources_alive(), 0);
    });
}

/// A watch is changed while another thread turns the reactor: the news that come of the change are not taken for old ones.
/// (It fails where the lock of the sources is given up and taken again before the old ones are forgotten. Where it is only given
/// up too early, loom does not come to that order of steps.)
#[test]
fn what_is_reported_of_a_change_is_not_forgotten() {
    const FD: i32 = 1002;
    model(|| {
        let (reactor, task) = (scripted_reactor(), Task::new());
        let mut watched = Watched { interest: Ready::READABLE, trigger: Trigger::Edge };
        let (source, mut home) = enter_shared(&reactor, || Source::register_watch(FD, watched)).unwrap();
        let driver = meanwhile(&reactor, |reactor| assert_eq!(turn(reactor).events, 1));
        watched.interest = Ready::WRITABLE;
        source.change_watch(&mut home, watched).unwrap();
        let cx = &mut Context::from_waker(&task.waker);
        while source.poll_watch(&mut home, watched, cx).is_pending() {
            task.wait();
        }
        driver.join().unwrap();
        home.remove(FD).unwrap();
    });
}
