//! Who waits for something that happens to a core as a whole: its last task, its end.

use super::core::Mailbox;
use crate::reactor::wake_all;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

/// The wakers of all who wait. Each is there for as long as its [`Waiting`].
#[derive(Default)]
pub(super) struct Waiters(Mutex<List>);

#[derive(Default)]
struct List {
    /// Never used twice, so that who has been woken removes nobody else.
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Waiters {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn wake(&self) {
        let wakers = std::mem::take(&mut self.list().wakers);
        wake_all(&mut wakers.into_values().collect());
    }
}

/// The place of one who waits, given up when this is dropped.
pub(super) struct Waiting {
    /// Which list.
    of: fn(&Mailbox) -> &Waiters,
    place: Option<(Arc<Mailbox>, u64)>,
}

impl Waiting {
    pub fn new(of: fn(&Mailbox) -> &Waiters) -> Waiting {
        Waiting { of, place: None }
    }

    /// `waker` is the one to wake, by this core.
    pub fn wait(&mut self, mailbox: &Arc<Mailbox>, waker: &Waker) {
        // A waker is cloned and dropped while nothing is locked: it may do anything.
        let waker = waker.clone();
        if self.place.as_ref().is_some_and(|(old, _)| !Arc::ptr_eq(old, mailbox)) {
            self.leave();
        }
        let mut list = (self.of)(mailbox).list();
        let id = match &self.place {
            Some((_, id)) => *id,
            None => {
                list.next += 1;
                list.next
            }
        };
        let replaced = list.wakers.insert(id, waker);
        drop(list);
        drop(replaced);
        self.place.get_or_insert_with(|| (mailbox.clone(), id));
    }

    fn leave(&mut self) {
        if let Some((mailbox, id)) = self.place.take() {
            let waker = (self.of)(&mailbox).list().wakers.remove(&id);
            drop(waker);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave();
    }
}
