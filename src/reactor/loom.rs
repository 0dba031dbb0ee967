//! Models of what several threads do to a reactor at once: loom runs each in every order that matters, with the code
//! that ships. The selector is a [`Script`], in which a wait lasts until somebody notifies, so that a wake-up that is
//! lost shows as a deadlock.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test --profile loom --lib loom
//! ```

use super::clock::Clock;
use super::park::Park;
use super::readiness::{Direction, Readiness, Wait};
use super::shared::{Scratch, Shared};
use super::source::Source;
use super::wake_all;
use super::wheel::Wheel;
use crate::sys::scripted::Script;
use crate::sys::{Poller, Ready};
use ::loom::sync::{Condvar, Mutex};
use ::loom::thread;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

/// Three context switches at the worst place find nearly everything, and take seconds rather than days.
pub(crate) fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    let f = Arc::new(f);
    builder.check(move || {
        let f = f.clone();
        spawn(move || f()).join().unwrap();
    });
}

/// A thread with room for a wheel on its stack.
pub(crate) fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(1 << 20).spawn(f).unwrap()
}

/// A task: somebody who waits to be woken.
#[derive(Default)]
struct Task {
    woken: Mutex<u32>,
    condvar: Condvar,
}

impl Task {
    fn new() -> (Arc<Task>, Waker) {
        let task = Arc::new(Task::default());
        (task.clone(), Waker::from(task))
    }

    /// A deadlock, if nobody ever wakes it.
    fn wait(&self) {
        let mut woken = self.woken.lock().unwrap();
        while *woken == 0 {
            woken = self.condvar.wait(woken).unwrap();
        }
        *woken = 0;
    }

    fn times_woken(&self) -> u32 {
        *self.woken.lock().unwrap()
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() += 1;
        self.condvar.notify_one();
    }
}

fn publish(readiness: &Readiness, ready: Ready) -> usize {
    let mut wakers = Vec::new();
    readiness.publish(ready, &mut wakers);
    let n = wakers.len();
    wake_all(&mut wakers);
    n
}

/// A readiness where neither direction is ready.
fn nothing_ready() -> Arc<Readiness> {
    let readiness = Arc::new(Readiness::new());
    readiness.clear(Ready::READABLE | Ready::WRITABLE, readiness.seen());
    readiness
}

/// As `poll_read` and `Operation` do it: until it is ready.
fn wait_in_slot(readiness: &Readiness, direction: Direction, task: &Task, waker: &Waker) {
    loop {
        match readiness.wait(direction, waker) {
            Wait::Ready => return,
            Wait::Orphaned => panic!("there is a reactor"),
            _ => task.wait(),
        }
    }
}

// --------------------------------------------------------------------------------------------- readiness

#[test]
fn a_waker_in_a_slot_hears_of_an_event() {
    model(|| {
        let readiness = nothing_ready();
        let reactor = spawn({
            let readiness = readiness.clone();
            move || publish(&readiness, Ready::READABLE)
        });
        let (task, waker) = Task::new();
        wait_in_slot(&readiness, Direction::Read, &task, &waker);
        assert!(readiness.seen().is_ready(Ready::READABLE));
        reactor.join().unwrap();
        assert!(!readiness.seen().has_waiters());
    });
}

#[test]
fn a_waker_in_the_list_hears_of_an_event() {
    model(|| {
        let readiness = nothing_ready();
        let reactor = spawn({
            let readiness = readiness.clone();
            move || publish(&readiness, Ready::READABLE)
        });
        let (task, waker) = Task::new();
        if let (_, Some(key)) = readiness.insert(Ready::READABLE, &waker) {
            while readiness.poll_waiter(key, &waker) != Wait::Ready {
                task.wait();
            }
            readiness.remove(key);
        }
        assert!(readiness.seen().is_ready(Ready::READABLE));
        reactor.join().unwrap();
        assert!(!readiness.seen().has_waiters());
    });
}

/// A waiter polled with another waker, because it has moved to another task, is woken by that one.
#[test]
fn a_waiter_that_changes_its_waker_hears_of_an_event() {
    model(|| {
        let readiness = nothing_ready();
        let (_, first) = Task::new();
        let key = readiness.insert(Ready::READABLE, &first).1.unwrap();
        let reactor = spawn({
            let readiness = readiness.clone();
            move || publish(&readiness, Ready::READABLE)
        });
        let (task, second) = Task::new();
        while readiness.poll_waiter(key, &second) != Wait::Ready {
            task.wait();
        }
        readiness.remove(key);
        reactor.join().unwrap();
    });
}

/// A reader and a writer in two tasks, the one there already, and an event for both.
#[test]
fn both_directions_hear_of_one_event() {
    model(|| {
        let readiness = nothing_ready();
        let (writer, writers_waker) = Task::new();
        assert_eq!(readiness.wait(Direction::Write, &writers_waker), Wait::Stored);
        let reactor = spawn({
            let readiness = readiness.clone();
            move || publish(&readiness, Ready::READABLE | Ready::WRITABLE)
        });
        let (task, waker) = Task::new();
        wait_in_slot(&readiness, Direction::Read, &task, &waker);
        writer.wait();
        reactor.join().unwrap();
    });
}

/// Of two tasks that poll the same direction the later one has the slot, and the earlier one is woken to find out.
#[test]
fn nobody_is_left_behind_in_a_contended_slot() {
    model(|| {
        let readiness = nothing_ready();
        let wait = |readiness: Arc<Readiness>| {
            move || {
                let (task, waker) = Task::new();
                assert_eq!(readiness.wait(Direction::Read, &waker), Wait::Stored);
                task
            }
        };
        let other = spawn(wait(readiness.clone()));
        let one = wait(readiness.clone())();
        let other = other.join().unwrap();
        assert_eq!(one.times_woken() + other.times_woken(), 1);
        assert_eq!(publish(&readiness, Ready::READABLE), 1);
        assert_eq!((one.times_woken(), other.times_woken()), (1, 1));
    });
}

/// A waiter that is dropped while the event comes takes nothing from the others.
#[test]
fn a_waiter_that_goes_takes_nothing_from_the_others() {
    model(|| {
        let readiness = nothing_ready();
        let (stays, waker) = Task::new();
        let key = readiness.insert(Ready::READABLE, &waker).1.unwrap();
        let (_, other_waker) = Task::new();
        let other_key = readiness.insert(Ready::READABLE, &other_waker).1.unwrap();
        let goes = spawn({
            let readiness = readiness.clone();
            move || readiness.remove(other_key)
        });
        let reactor = spawn({
            let readiness = readiness.clone();
            move || publish(&readiness, Ready::READABLE)
        });
        stays.wait();
        assert_eq!(readiness.poll_waiter(key, &waker), Wait::Ready);
        readiness.remove(key);
        goes.join().unwrap();
        reactor.join().unwrap();
        assert!(!readiness.seen().has_waiters());
        assert_eq!(Arc::strong_count(&stays), 2, "the task, its waker, and none that was kept");
    });
}

/// A socket and its readiness: data that the event told of is not waited for. The reader clears what it has seen, and
/// nothing newer.
#[test]
fn a_clear_never_eats_a_newer_edge() {
    model(|| {
        let readiness = Arc::new(Readiness::new());
        let data = Arc::new(Mutex::new(0));
        let kernel = spawn({
            let (readiness, data) = (readiness.clone(), data.clone());
            move || {
                *data.lock().unwrap() += 1;
                publish(&readiness, Ready::READABLE);
            }
        });
        let (task, waker) = Task::new();
        loop {
            let seen = readiness.seen();
            if !seen.is_ready(Ready::READABLE) {
                if readiness.wait(Direction::Read, &waker) == Wait::Stored {
                    task.wait();
                }
                continue;
            }
            if std::mem::take(&mut *data.lock().unwrap()) > 0 {
                break;
            }
            readiness.clear(Ready::READABLE, seen);
        }
        kernel.join().unwrap();
    });
}

/// The same with a second direction, which is cleared at the same time by another task.
#[test]
fn a_clear_leaves_the_other_direction_alone() {
    model(|| {
        let readiness = Arc::new(Readiness::new());
        let seen = readiness.seen();
        let writer = spawn({
            let readiness = readiness.clone();
            move || readiness.clear(Ready::WRITABLE, seen)
        });
        let (_, waker) = Task::new();
        readiness.clear(Ready::READABLE, seen);
        assert_eq!(readiness.wait(Direction::Read, &waker), Wait::Stored);
        writer.join().unwrap();
        assert!(!readiness.seen().is_ready(Ready::READABLE | Ready::WRITABLE));
        assert_eq!(publish(&readiness, Ready::READABLE), 1);
    });
}

/// A clear may come while another task holds the lock bit.
#[test]
fn a_clear_and_a_wait_do_not_undo_each_other() {
    model(|| {
        let readiness = nothing_ready();
        publish(&readiness, Ready::WRITABLE);
        let seen = readiness.seen();
        let writer = spawn({
            let readiness = readiness.clone();
            move || readiness.clear(Ready::WRITABLE, seen)
        });
        let (task, waker) = Task::new();
        assert_eq!(readiness.wait(Direction::Read, &waker), Wait::Stored);
        writer.join().unwrap();
        assert!(!readiness.seen().is_ready(Ready::WRITABLE));
        assert_eq!(publish(&readiness, Ready::READABLE), 1);
        assert_eq!(task.times_woken(), 1);
    });
}

// ----------------------------------------------------------------------------------------------- hand-off

fn orphan(readiness: &Readiness) {
    let mut wakers = Vec::new();
    readiness.orphan(&mut wakers);
    wake_all(&mut wakers);
}

/// The reactor stops while a task comes to wait.
#[test]
fn nobody_waits_in_a_slot_for_a_reactor_that_has_gone() {
    model(|| {
        let readiness = nothing_ready();
        let reactor = spawn({
            let readiness = readiness.clone();
            move || orphan(&readiness)
        });
        let (task, waker) = Task::new();
        while readiness.wait(Direction::Read, &waker) != Wait::Orphaned {
            task.wait();
        }
        reactor.join().unwrap();
        assert!(!readiness.seen().has_waiters());
    });
}

#[test]
fn nobody_waits_in_the_list_for_a_reactor_that_has_gone() {
    model(|| {
        let readiness = nothing_ready();
        let reactor = spawn({
            let readiness = readiness.clone();
            move || orphan(&readiness)
        });
        let (task, waker) = Task::new();
        match readiness.insert(Ready::READABLE, &waker) {
            (Wait::Orphaned, None) => {}
            (Wait::Stored, Some(key)) => {
                while readiness.poll_waiter(key, &waker) != Wait::Orphaned {
                    task.wait();
                }
                readiness.remove(key);
            }
            other => panic!("{other:?}"),
        }
        reactor.join().unwrap();
        assert!(!readiness.seen().has_waiters());
    });
}

fn scripted(clock: Clock) -> (Arc<Shared>, Arc<Script>) {
    let script = Script::new();
    (Shared::with_poller(Poller::Scripted(script.clone()), clock, false), script)
}

pub(crate) fn scripted_reactor() -> Arc<Shared> {
    scripted(Clock::Real).0
}

/// One turn, which waits.
pub(crate) fn turn(reactor: &Shared) {
    reactor.turn(None, &mut Scratch::default(), None, &Cell::new(None)).unwrap();
}

/// A source moves to a new reactor, which stops at the same moment: the task must not wait for it.
#[test]
fn nobody_waits_for_a_second_reactor_that_goes() {
    const FD: i32 = 1000;
    model(|| {
        let (first, _) = scripted(Clock::Real);
        let source = Source::register_with(&first, FD).unwrap();
        source.readiness.clear(Ready::READABLE, source.readiness.seen());
        first.stop(None);

        let (second, _) = scripted(Clock::Real);
        let stops = spawn({
            let second = second.clone();
            move || second.stop(None)
        });
        let (task, waker) = Task::new();
        // It may be too late, which is fine: the next reactor will do.
        if source.follow(&second).is_ok() {
            while source.readiness.wait(Direction::Read, &waker) != Wait::Orphaned {
                task.wait();
            }
        }
        stops.join().unwrap();
        let _ = source.deregister();
    });
}

/// A timer is set while the reactor stops: it is refused, or its task is woken to set it elsewhere.
#[test]
fn no_timer_stays_in_a_reactor_that_has_gone() {
    model(|| {
        let (reactor, _) = scripted(Clock::Real);
        let stops = spawn({
            let reactor = reactor.clone();
            move || reactor.stop(None)
        });
        let (task, waker) = Task::new();
        if reactor.set_timer(u64::MAX - 1, waker).is_ok() {
            task.wait();
        }
        stops.join().unwrap();
    });
}

// ------------------------------------------------------------------------------------------ sleep and wake

/// Whoever leaves work and notifies either finds the loop awake, which then looks, or asleep, and ends that.
#[test]
fn no_work_is_left_while_the_loop_sleeps() {
    model(|| {
        let park = Arc::new((Park::new(), Mutex::new(0), Mutex::new(false), Condvar::new()));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let park = park.clone();
                spawn(move || {
                    let (park, work, notified, condvar) = &*park;
                    *work.lock().unwrap() += 1;
                    if park.notify() {
                        *notified.lock().unwrap() = true;
                        condvar.notify_one();
                    }
                })
            })
            .collect();
        let (park, work, notified, condvar) = &*park;
        let mut done = 0;
        while done < 2 {
            done += std::mem::take(&mut *work.lock().unwrap());
            if done < 2 && park.try_sleep() {
                let mut notified = notified.lock().unwrap();
                while !std::mem::take(&mut *notified) {
                    notified = condvar.wait(notified).unwrap();
                }
            }
            park.wake();
        }
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// Something that is left without a lock.
struct Left(::loom::cell::UnsafeCell<i32>);

// SAFETY: loom finds out whether two threads are in it at once.
unsafe impl Sync for Left {}

/// What was left before a notification that found the loop awake is visible to it, without a lock.
#[test]
fn a_notification_publishes_what_was_left() {
    model(|| {
        let shared = Arc::new((Park::new(), Left(::loom::cell::UnsafeCell::new(0))));
        let other = spawn({
            let shared = shared.clone();
            move || {
                // SAFETY: nobody looks before the notification.
                shared.1.0.with_mut(|n| unsafe { *n = 1 });
                let _ = shared.0.notify();
            }
        });
        let notified = match shared.0.try_sleep() {
            true => shared.0.wake(),
            false => true,
        };
        if notified {
            // SAFETY: it was changed before the notification, and not after.
            shared.1.0.with(|n| assert_eq!(unsafe { *n }, 1));
        }
        other.join().unwrap();
    });
}

/// The driver of a reactor: turns it until `done`.
fn drive(reactor: &Shared, own: Option<&RefCell<Wheel<Waker>>>, mut done: impl FnMut() -> bool) {
    let mut scratch = Scratch::default();
    while !done() {
        reactor.turn(own, &mut scratch, None, &Cell::new(None)).unwrap();
    }
}

/// The same with the whole turn of a reactor around it.
#[test]
fn a_turn_does_not_sleep_through_a_notification() {
    model(|| {
        let (reactor, _) = scripted(Clock::Real);
        let inbox = Arc::new(Mutex::new(0));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (reactor, inbox) = (reactor.clone(), inbox.clone());
                spawn(move || {
                    *inbox.lock().unwrap() += 1;
                    reactor.notify();
                })
            })
            .collect();
        drive(&reactor, None, || *inbox.lock().unwrap() == 2);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// A thread sets a timer while the reactor goes to sleep, without a deadline of its own: it fires.
#[test]
fn a_timer_set_by_another_thread_fires() {
    model(|| {
        let (reactor, _) = scripted(Clock::Real);
        let (task, waker) = Task::new();
        let other = spawn({
            let reactor = reactor.clone();
            move || reactor.set_timer(0, waker).map(drop).unwrap()
        });
        drive(&reactor, None, || task.times_woken() > 0);
        other.join().unwrap();
        assert_eq!(reactor.next_deadline(None), None);
    });
}

/// Two threads, the earlier timer second: the sleep that the first one's is worth is cut short.
#[test]
fn an_earlier_timer_cuts_the_sleep_short() {
    const LATER: u64 = u64::MAX / 2;
    model(|| {
        let (reactor, _) = scripted(Clock::Real);
        let (_, later) = Task::new();
        reactor.set_timer(LATER, later).unwrap();
        let (task, waker) = Task::new();
        let other = spawn({
            let reactor = reactor.clone();
            move || reactor.set_timer(0, waker).map(drop).unwrap()
        });
        drive(&reactor, None, || task.times_woken() > 0);
        other.join().unwrap();
        assert!(reactor.next_deadline(None).is_some());
    });
}

/// A timer is cancelled, or moved, while it fires: it fires or it does not, and the deadline that is kept for the
/// driver is never too late.
#[test]
fn a_timer_that_is_moved_while_it_fires_is_not_lost() {
    model(|| {
        let (reactor, _) = scripted(Clock::Real);
        let (task, waker) = Task::new();
        let key = reactor.set_timer(0, waker).unwrap();
        let other = spawn({
            let reactor = reactor.clone();
            // Put off, then back: pending both times, or fired.
            move || {
                reactor.reset_timer(key, u64::MAX / 2);
                reactor.reset_timer(key, 0);
            }
        });
        drive(&reactor, None, || task.times_woken() > 0);
        other.join().unwrap();
    });
}

#[test]
fn cancelling_a_timer_while_it_fires_harms_nobody() {
    model(|| {
        let (reactor, _) = scripted(Clock::Real);
        let (task, waker) = Task::new();
        let (_, other_waker) = Task::new();
        let key = reactor.set_timer(0, other_waker).unwrap();
        reactor.set_timer(0, waker).unwrap();
        let other = spawn({
            let reactor = reactor.clone();
            move || reactor.cancel_timer(key)
        });
        drive(&reactor, None, || task.times_woken() > 0);
        other.join().unwrap();
        assert_eq!(task.times_woken(), 1);
    });
}

/// A timer in the wheel of the reactor's own thread, moved to now by a letter from another thread.
#[test]
fn a_letter_that_moves_a_timer_is_read() {
    model(|| {
        let (reactor, _) = scripted(Clock::Real);
        let own = RefCell::new(Wheel::new());
        let (task, waker) = Task::new();
        let key = own.borrow_mut().insert(u64::MAX / 2, waker);
        let other = spawn({
            let reactor = reactor.clone();
            move || reactor.mail_reset(key, 0)
        });
        drive(&reactor, Some(&own), || task.times_woken() > 0);
        other.join().unwrap();
    });
}

/// An event is dispatched while the task comes to wait, with the reactor's table of sources in between, and the source
/// is taken out by a third thread.
#[test]
fn an_event_a_wait_and_a_removal_meet() {
    const FD: i32 = 1001;
    model(|| {
        let (reactor, script) = scripted(Clock::Real);
        let source = Source::register_with(&reactor, FD).unwrap();
        source.readiness.clear(Ready::READABLE, source.readiness.seen());
        script.then([(script.token(FD), Ready::READABLE)]);
        let driver = spawn({
            let reactor = reactor.clone();
            move || {
                let timeout = Some(Duration::ZERO);
                let turn = reactor.turn(None, &mut Scratch::default(), timeout, &Cell::new(None)).unwrap();
                turn.events
            }
        });
        let (task, waker) = Task::new();
        let stored = source.readiness.wait(Direction::Read, &waker) == Wait::Stored;
        source.deregister().unwrap();
        let dispatched = driver.join().unwrap();
        if stored && dispatched == 1 {
            assert_eq!(task.times_woken(), 1);
        }
        assert_eq!(reactor.sources_alive(), 0);
    });
}
