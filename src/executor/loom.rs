//! Models of how other threads reach a core: see [`reactor::loom`](crate::reactor) for how they are run.
//!
//! The inbox, the flag and the count of a task, and the reactor with its park are those that ship. A
//! [`Core`](super::core::Core) itself cannot run here, because it is known by a thread-local, and loom's threads share
//! theirs: [`Core`] and [`Task`] below are what is left when the futures are taken away.

use super::inbox::{Inbox, Posted};
use super::refs::Refs;
use crate::reactor::loom::{Unshared, meanwhile, model, scripted_reactor, turn};
use ::loom::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

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

impl Memory {
    fn new() -> Arc<Memory> {
        Arc::new(Memory { refs: Refs::new(), used: Unshared::new(0), freed: AtomicUsize::new(0) })
    }

    /// A waker is dropped, or the last local owner goes.
    fn release(&self) {
        self.used.with(|_| ());
        if self.refs.release() {
            self.used.with_mut(|used| *used += 1);
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The task completes on its core while the wakers go on two other threads, one of them after it was cloned.
#[test]
fn a_task_is_freed_once_and_by_the_last() {
    model(|| {
        let task = Memory::new();
        task.refs.add();
        task.refs.add();
        let wakers = [false, true].map(|clones| {
            meanwhile(&task, move |task| {
                if clones {
                    task.refs.add();
                    task.release();
                }
                task.release();
            })
        });
        task.release();
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        assert_eq!(task.freed.load(Ordering::Relaxed), 1);
    });
}
