//! Models of a core's letters: see [`reactor::loom`](crate::reactor) for how they are run.
//!
//! The reactor with its park is the one that ships. The inbox and the flag of a task are told here once more, in the few
//! lines that matter, because a [`Core`](super::core::Core) knows its thread by a thread-local, and loom's threads share
//! theirs.

use crate::reactor::Shared;
use crate::reactor::loom::{model, scripted_reactor, spawn, turn};
use ::loom::sync::Mutex;
use ::loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

struct Mailbox {
    reactor: Arc<Shared>,
    inbox: Mutex<Option<Vec<Arc<Task>>>>,
}

#[derive(Default)]
struct Task {
    posted: AtomicBool,
    /// What the wakers have left for it, without any order of their own.
    work: AtomicUsize,
}

impl Mailbox {
    fn new() -> Arc<Mailbox> {
        Arc::new(Mailbox { reactor: scripted_reactor(), inbox: Mutex::new(Some(Vec::new())) })
    }

    /// `Mailbox::post`.
    fn post(&self, letter: Arc<Task>) {
        match self.inbox.lock().unwrap().as_mut() {
            Some(inbox) => inbox.push(letter),
            None => return,
        }
        self.reactor.notify();
    }

    /// `waker_wake`, on another thread.
    fn wake(&self, task: Arc<Task>) {
        if !task.posted.swap(true, Ordering::AcqRel) {
            self.post(task);
        }
    }

    /// `Core::read_letters`, and a poll of every task that it wakes.
    fn read_letters(&self, mut poll: impl FnMut(&Task)) {
        let letters = std::mem::take(self.inbox.lock().unwrap().as_mut().unwrap());
        for task in letters {
            task.posted.swap(false, Ordering::AcqRel);
            poll(&task);
        }
    }
}

/// Two threads wake the same task: whether the second finds the first one's letter under way or not, there is a poll
/// afterwards that sees what it left.
#[test]
fn a_wake_that_finds_a_letter_under_way_is_not_lost() {
    model(|| {
        let (mailbox, task) = (Mailbox::new(), Arc::new(Task::default()));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (mailbox, task) = (mailbox.clone(), task.clone());
                spawn(move || {
                    task.work.fetch_add(1, Ordering::Relaxed);
                    mailbox.wake(task);
                })
            })
            .collect();
        let mut seen = 0;
        while seen < 2 {
            turn(&mailbox.reactor);
            mailbox.read_letters(|task| seen = task.work.load(Ordering::Relaxed));
        }
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// A task is woken while its core goes: the letter is dropped by one of the two, and nothing keeps the task.
#[test]
fn a_letter_to_a_core_that_goes_is_dropped() {
    model(|| {
        let (mailbox, task) = (Mailbox::new(), Arc::new(Task::default()));
        let other = spawn({
            let (mailbox, task) = (mailbox.clone(), task.clone());
            move || mailbox.wake(task)
        });
        // `Core::drop`.
        let letters = mailbox.inbox.lock().unwrap().take();
        drop(letters);
        mailbox.reactor.stop(None);
        other.join().unwrap();
        assert_eq!(Arc::strong_count(&task), 1);
    });
}
