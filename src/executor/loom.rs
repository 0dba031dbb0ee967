//! Models of how other threads reach a core, and of threads in `block_on`: see [`reactor::loom`](crate::reactor) for how
//! they are run.
//!
//! The inbox, the flag and the count of a task, the parker, the seat of the shared reactor, and the reactor with its park
//! are those that ship. What calls them cannot run here, because it finds its core or reactor by a thread-local or a
//! static, and loom's threads share those: [`run`] and [`run_future`] below are what is left of the loops.

use super::inbox::{Inbox, Posted};
use super::parker::Parker;
use super::refs::Refs;
use crate::reactor::Shared;
use crate::reactor::loom::{
    self, Unshared, alongside, meanwhile, model, scripted, scripted_reactor, set_timer, turn,
};
use crate::reactor::seat::Seat;
use ::loom::sync::Mutex;
use ::loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use ::loom::thread::JoinHandle;
use std::io;
use std::sync::{Arc, Weak};
use std::task::Waker;

/// A letter that wakes a task.
type Letter = Arc<Task>;

struct Task {
    posted: Posted,
    /// What the wakers have left for it, without any order of their own.
    work: AtomicUsize,
}

impl Task {
    fn new() -> Arc<Task> {
        Arc::new(Task { posted: Posted::new(), work: AtomicUsize::new(0) })
    }
}

fn inbox() -> Arc<Inbox<Letter>> {
    Arc::new(Inbox::new(scripted_reactor()))
}

/// Leaves work for `task` and wakes it. Says what became of the letter, if one was needed.
fn wake(inbox: &Inbox<Letter>, task: &Arc<Task>) -> Option<Result<(), Letter>> {
    task.work.fetch_add(1, Ordering::Relaxed);
    task.posted.set().then(|| inbox.post(task.clone()))
}

/// The loop of a core: `poll` is called for each letter, until it says that all is done.
fn run(inbox: &Inbox<Letter>, mut poll: impl FnMut(&Letter) -> bool) {
    let mut room = Vec::new();
    let mut done = false;
    while !done {
        let park = &inbox.reactor.park;
        let may_have_letters = if park.is_notified() { park.wake() } else { turn(&inbox.reactor).notified };
        if !may_have_letters {
            continue;
        }
        inbox.swap(&mut room);
        for (i, letter) in room.iter().enumerate() {
            let first = room.iter().position(|other| Arc::ptr_eq(other, letter));
            assert_eq!(first, Some(i), "two letters of one task");
        }
        for letter in room.drain(..) {
            letter.posted.arrive();
            done = poll(&letter);
        }
    }
}

/// Two threads wake the same task: whether the second finds the first one's letter under way or not, there is a poll
/// afterwards that sees what it left.
#[test]
fn a_wake_that_finds_a_letter_under_way_is_not_lost() {
    model(|| {
        let (inbox, task) = (inbox(), Task::new());
        let others = [(); 2].map(|()| {
            let task = task.clone();
            meanwhile(&inbox, move |inbox| drop(wake(inbox, &task)))
        });
        run(&inbox, |task| task.work.load(Ordering::Relaxed) == 2);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// Two tasks, each woken twice, in two orders.
#[test]
fn wakes_of_several_tasks_do_not_undo_each_other() {
    model(|| {
        let (inbox, a, b) = (inbox(), Task::new(), Task::new());
        let others = [[a.clone(), b.clone()], [b.clone(), a.clone()]].map(|tasks| {
            meanwhile(&inbox, move |inbox| tasks.iter().for_each(|task| drop(wake(inbox, task))))
        });
        let mut seen = [0, 0];
        run(&inbox, |task| {
            seen[usize::from(Arc::ptr_eq(task, &b))] = task.work.load(Ordering::Relaxed);
            seen == [2, 2]
        });
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// A task is woken by two threads while its core goes: the letter comes back, or is there for the core to drop, and
/// nothing keeps the task.
#[test]
fn a_letter_to_a_core_that_goes_is_not_lost() {
    model(|| {
        let (inbox, task) = (inbox(), Task::new());
        let others = [(); 2].map(|()| {
            let task = task.clone();
            meanwhile(&inbox, move |inbox| wake(inbox, &task))
        });
        let mut room = Vec::new();
        inbox.swap(&mut room);
        let mut found = room.len();
        for letter in room.drain(..) {
            letter.posted.arrive();
        }
        found += inbox.close().len();
        let outcomes = others.map(|other| other.join().unwrap());
        let posted = outcomes.iter().filter(|outcome| matches!(outcome, Some(Ok(())))).count();
        let returned = outcomes.iter().filter(|outcome| matches!(outcome, Some(Err(_)))).count();
        drop(outcomes);
        assert_eq!(found, posted);
        assert!((1..=2).contains(&(posted + returned)), "at least the first wake wrote one");
        assert_eq!(Arc::strong_count(&task), 1);
        assert!(inbox.close().is_empty());
    });
}

// ------------------------------------------------------------------------------------------------- references

/// What the references are to: freed by the last.
struct Memory {
    refs: Refs,
    /// Used under each reference. loom objects if that and the freeing are not one after the other.
    used: Unshared<u32>,
    freed: AtomicUsize,
}

// SAFETY: the part of the count that is not for all is touched by the core's thread, which says `here`.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Arc<Memory> {
        Arc::new(Memory { refs: Refs::new(), used: Unshared::new(0), freed: AtomicUsize::new(0) })
    }

    /// A waker is dropped.
    fn drop_one(&self, here: bool) {
        self.used.with(|_| ());
        self.free_if(self.refs.sub(here));
    }

    /// The last local owner goes.
    fn give_up(&self) {
        self.used.with(|_| ());
        self.free_if(self.refs.give_up());
    }

    fn free_if(&self, is_last: bool) {
        if is_last {
            self.used.with_mut(|used| *used += 1);
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The task completes on its core while wakers that were made there go on two other threads, one of them after it was
/// cloned.
#[test]
fn a_task_is_freed_once_and_by_the_last() {
    model(|| {
        let task = Memory::new();
        let wakers = [false, true].map(|clones| {
            task.refs.add(true);
            meanwhile(&task, move |task| {
                if clones {
                    task.refs.add(false);
                    task.drop_one(false);
                }
                task.drop_one(false);
            })
        });
        task.give_up();
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        assert_eq!(task.freed.load(Ordering::Relaxed), 1);
    });
}

/// A waker that was cloned on another thread ends on the core's, before or after the task is complete.
#[test]
fn a_waker_may_end_on_another_thread_than_it_began() {
    for before in [true, false] {
        model(move || {
            let task = Memory::new();
            task.refs.add(true);
            let other = meanwhile(&task, |task| {
                task.refs.add(false);
                task.drop_one(false);
            });
            if before {
                other.join().unwrap();
                task.drop_one(true);
                task.give_up();
            } else {
                task.give_up();
                other.join().unwrap();
                task.drop_one(true);
            }
            assert_eq!(task.freed.load(Ordering::Relaxed), 1);
        });
    }
}

// --------------------------------------------------------------------------------------------------- the parker

/// The loop of `block_on`, for a future that is done when `poll` says so.
fn run_future(parker: &Parker, mut poll: impl FnMut() -> bool, mut wait: impl FnMut()) {
    let mut is_first = parker.start();
    while !((std::mem::take(&mut is_first) || parker.take()) && poll()) {
        wait();
    }
}

/// Two threads leave work and wake a thread in `block_on`, which waits like this when there is none.
fn parker_model(wait: fn(&Arc<Parker>, &Arc<Shared>)) {
    model(move || {
        let (parker, reactor, work) = (Parker::new(), scripted_reactor(), Arc::new(AtomicUsize::new(0)));
        let other = |waker: Waker| {
            move |work: &AtomicUsize| {
                work.fetch_add(1, Ordering::Relaxed);
                waker.wake();
            }
        };
        let others = [other(parker.clone().into()), other(parker.clone().into())];
        alongside(&work, others, || {
            run_future(&parker, || work.load(Ordering::Relaxed) == 2, || wait(&parker, &reactor));
        });
    });
}

#[test]
fn a_wake_ends_a_turn_or_forbids_it() {
    parker_model(|parker, reactor| {
        parker
            .drive(reactor, None, || {
                turn(reactor);
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn a_wake_ends_a_park_or_forbids_it() {
    parker_model(|parker, reactor| {
        let room = Room::without_helper(reactor.clone());
        let _taken = room.seat.take();
        parker.drive_shared(&room.seat, None).unwrap();
    });
}

// ----------------------------------------------------------------------------------------------------- the seat

/// The shared reactor with its seat, and the helper as soon as somebody needs one.
struct Room {
    seat: Seat,
    helper: Mutex<Option<JoinHandle<()>>>,
    is_over: AtomicBool,
}

impl Room {
    fn new() -> Arc<Room> {
        Arc::new_cyclic(|room: &Weak<Room>| {
            let room = room.clone();
            Room::with_helper(scripted_reactor(), move || {
                let room = room.upgrade().expect("somebody is in it");
                let helper = meanwhile(&room, |room| {
                    while !room.is_over.load(Ordering::Acquire) {
                        room.seat.help();
                    }
                });
                *room.helper.lock().unwrap() = Some(helper);
            })
        })
    }

    /// Nobody helps, whoever needs it: what goes well then is not owed to the helper's habit of looking again.
    fn without_helper(reactor: Arc<Shared>) -> Arc<Room> {
        Arc::new(Room::with_helper(reactor, || {}))
    }

    fn with_helper(reactor: Arc<Shared>, start: impl Fn() + Send + Sync + 'static) -> Room {
        let start = move || -> io::Result<()> { Ok(start()) };
        Room { seat: Seat::new(reactor, start), helper: Mutex::new(None), is_over: AtomicBool::new(false) }
    }

    /// Something happens that this task has waited for: whoever drives the reactor will wake it.
    fn happens(&self, waker: &Waker) {
        set_timer(0, waker)(&self.seat.shared);
    }

    /// Nobody is in it any more.
    fn close(&self) {
        self.is_over.store(true, Ordering::Release);
        self.seat.end_help();
        if let Some(helper) = self.helper.lock().unwrap().take() {
            helper.join().unwrap();
        }
    }
}

/// `block_on` of a future that is done when `poll` says so.
fn block_on(room: &Room, mut poll: impl FnMut(&Waker) -> bool) {
    let parker = Parker::new();
    let waker = Waker::from(parker.clone());
    room.seat.come();
    run_future(&parker, || poll(&waker), || parker.drive_shared(&room.seat, None).unwrap());
    room.seat.go();
}

/// What a future waits for. Whoever drives the reactor tells it of that.
#[derive(Default)]
struct Event(Mutex<(bool, Option<Waker>)>);

impl Event {
    fn poll(&self, waker: &Waker) -> bool {
        let mut event = self.0.lock().unwrap();
        assert!(event.0 || event.1.is_none(), "polled, though nobody has woken it");
        event.1 = Some(waker.clone());
        event.0
    }

    fn happen(&self, room: &Room) {
        let waker = {
            let mut event = self.0.lock().unwrap();
            event.0 = true;
            event.1.take()
        };
        if let Some(waker) = waker {
            room.happens(&waker);
        }
    }
}

/// The first of `N` threads that share the seat with one that stays is done after so many events of its own. Then it goes,
/// and only after that comes what the next one waits for, and so on: whoever it comes for has the seat by then, or is on
/// his way to it, or has left it to one who is.
fn leave<const N: usize>(events: u32) {
    let room = Room::without_helper(scripted_reactor());
    let gone: Arc<[Event; N]> = Arc::new(std::array::from_fn(|_| Event::default()));
    let others: [_; N] = std::array::from_fn(|i| {
        let gone = gone.clone();
        move |room: &Room| {
            let mut events_left = events + 1;
            block_on(room, |waker| {
                if i > 0 {
                    return gone[i - 1].poll(waker);
                }
                events_left -= 1;
                if events_left > 0 {
                    room.happens(waker);
                }
                events_left == 0
            });
            gone[i].happen(room);
        }
    });
    alongside(&room, others, || block_on(&room, |waker| gone[N - 1].poll(waker)));
}

#[test]
fn the_seat_is_passed_on() {
    model(|| leave::<1>(1));
}

/// One who has parked, even twice, and gone is not taken for one who still parks.
#[test]
fn the_seat_is_not_passed_on_to_one_who_has_gone() {
    loom::model_with(2, || leave::<2>(2));
}

/// The helper has the seat when a thread comes that wants it, and only after the helper has left comes what that
/// thread waits for.
#[test]
fn the_helper_makes_room() {
    model(|| {
        let (reactor, script) = scripted();
        let (room, event, helper_sits) =
            (Room::without_helper(reactor), Arc::<Event>::default(), loom::Task::new());
        let sits = helper_sits.waker.clone();
        script.then_do(move || {
            sits.wake();
            Ok(Vec::new())
        });
        let happens = event.clone();
        let helper = move |room: &Room| {
            room.seat.help();
            happens.happen(room);
        };
        alongside(&room, [helper], || {
            helper_sits.wait();
            block_on(&room, |waker| event.poll(waker));
        });
    });
}

/// A thread has left the seat to poll its future, and that waits for another thread in `block_on`, which has found the seat
/// taken: the helper drives for it.
#[test]
fn the_helper_drives_for_those_who_park() {
    loom::model_with(2, || {
        let (room, event, done) = (Room::new(), Arc::<Event>::default(), Arc::new(loom::Task::new()));
        let (happens, is_done) = (event.clone(), done.clone());
        let leaves = move |room: &Room| {
            let mut polls = 0;
            block_on(room, |waker| {
                polls += 1;
                if polls == 1 {
                    room.happens(waker);
                    return false;
                }
                happens.happen(room);
                is_done.wait();
                true
            });
        };
        alongside(&room, [leaves], || {
            block_on(&room, |waker| event.poll(waker));
            done.waker.wake_by_ref();
        });
        room.close();
    });
}

/// Somebody waits whom no `block_on` serves. The helper drives for him when the thread in the seat has left it to poll
/// its future, though the helper may have been asleep because that thread was waiting, and when it has gone.
#[test]
fn the_helper_drives_for_strangers() {
    loom::model_with(2, || {
        let (room, event) = (Room::new(), Arc::<Event>::default());
        let (stranger, release) = (Arc::new(loom::Task::new()), loom::Task::new());
        let (happens, waits, releases) = (event.clone(), stranger.clone(), release.waker.clone());
        let strangers_thread = move |room: &Room| {
            room.seat.ensure_helper();
            happens.happen(room);
            waits.wait();
            releases.wake();
        };
        alongside(&room, [strangers_thread], || {
            block_on(&room, |waker| {
                let happened = event.poll(waker);
                if happened {
                    room.happens(&stranger.waker);
                    release.wait();
                }
                happened
            });
        });
        room.happens(&stranger.waker);
        stranger.wait();
        room.close();
    });
}

/// A stranger's task is woken by the helper, who lends the seat. When it waits again, its thread turns, or calls the helper;
/// while somebody in `block_on` may come to the seat, who is to find it or to be found.
fn lend(with_another: bool) {
    let (room, stranger) = (Room::new(), loom::Task::new());
    room.seat.ensure_helper();
    let event = Arc::<Event>::default();
    let happens = event.clone();
    let other = move |room: &Room| {
        if with_another {
            block_on(room, |waker| event.poll(waker));
        }
    };
    alongside(&room, [other], || {
        for _ in 0..if with_another { 1 } else { 2 } {
            // (The reactor in the models has timers, and counts events.)
            room.seat.lend_to(1);
            room.happens(&stranger.waker);
            room.seat.waits(1);
            stranger.wait();
        }
        happens.happen(&room);
        room.seat.waits(1);
    });
    room.close();
}

#[test]
fn a_stranger_turns_while_the_seat_is_lent() {
    loom::model_with(2, || lend(false));
}

#[test]
fn the_seat_that_is_lent_is_there_for_those_in_block_on() {
    loom::model_with(2, || lend(true));
}
