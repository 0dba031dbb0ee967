//! How other threads reach a core: letters in its inbox, and of each task at most one that only wakes it.

use crate::reactor::Shared;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};
use std::sync::Arc;

/// Letters for the thread that turns `reactor`.
pub(super) struct Inbox<L> {
    pub reactor: Arc<Shared>,
    /// `None` when the core has gone.
    letters: Mutex<Option<Vec<L>>>,
}

impl<L> Inbox<L> {
    pub fn new(reactor: Arc<Shared>) -> Inbox<L> {
        Inbox { reactor, letters: Mutex::new(Some(Vec::new())) }
    }

    /// `Err`: the core has gone, and here is the letter. What it carries may be anybody's, and is dropped by the caller,
    /// outside of the lock.
    pub fn post(&self, letter: L) -> Result<(), L> {
        match lock(&self.letters).as_mut() {
            Some(letters) => letters.push(letter),
            None => return Err(letter),
        }
        // Only now: a core that is notified before the letter is there may look too early, and sleep.
        self.reactor.notify();
        Ok(())
    }

    /// What has come, in exchange for the room for what will come.
    pub fn swap(&self, room: &mut Vec<L>) {
        debug_assert!(room.is_empty());
        if let Some(letters) = lock(&self.letters).as_mut() {
            std::mem::swap(letters, room);
        }
    }

    /// Takes no more letters. Those that have not been read are for the caller.
    pub fn close(&self) -> Vec<L> {
        lock(&self.letters).take().unwrap_or_default()
    }
}

/// Of a task: a letter that wakes it is under way to its core.
///
/// Read-modify-write on both sides. So a wake that finds a letter under way is seen by the core when that letter
/// arrives, with all that was done before it.
pub(super) struct Posted(AtomicBool);

impl Posted {
    pub fn new() -> Posted {
        Posted(AtomicBool::new(false))
    }

    /// `true`: none was, and the caller is to post one.
    pub fn set(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The letter has arrived: from here on, wakes write a new one.
    pub fn arrive(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}
