//! Two tables of the whole process: which reactors there are, and which descriptor is registered where.
//!
//! The second exists because a kernel lets one descriptor sit in two selectors, and then delivers its events to both:
//! two owners of one descriptor are refused whichever reactors they use.

use super::shared::Shared;
use crate::sys::fork::PerProcess;
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

static REACTORS: PerProcess<Mutex<HashMap<u64, Weak<Shared>>>> = PerProcess::new(Mutex::default);

/// Neighbouring descriptors lie in different shards, so that cores that accept at the same time do not meet.
const SHARDS: usize = 64;
static DESCRIPTORS: PerProcess<[Mutex<Shard>; SHARDS]> =
    PerProcess::new(|| std::array::from_fn(|_| Mutex::default()));

pub(crate) fn enter(reactor: &Arc<Shared>) {
    lock(REACTORS.get()).insert(reactor.id, Arc::downgrade(reactor));
}

pub(crate) fn leave(id: u64) {
    lock(REACTORS.get()).remove(&id);
}

/// The reactor with this id, if it has not gone and was made by this process.
pub(crate) fn find(id: u64) -> Option<Arc<Shared>> {
    let reactor = lock(REACTORS.get()).get(&id).cloned();
    reactor?.upgrade()
}

/// Ends the wait of the reactor with this id.
pub(crate) fn notify(id: u64) {
    if let Some(reactor) = find(id) {
        reactor.notify();
    }
}

/// Where a descriptor is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub reactor: u64,
    pub token: u64,
}

/// The descriptors whose number divided by [`SHARDS`] leaves the same rest, locked: what happens to one of them
/// happens in one step.
#[derive(Default)]
pub(crate) struct Shard(Vec<Place>);

/// No reactor has this id.
const NOBODY: Place = Place { reactor: 0, token: 0 };

pub(crate) fn shard(fd: RawFd) -> MutexGuard<'static, Shard> {
    lock(&DESCRIPTORS.get()[fd as usize % SHARDS])
}

impl Shard {
    /// An error if `fd` is registered. One whose file was closed without our knowledge is not: its number is free.
    pub fn check_free(&self, fd: RawFd) -> io::Result<()> {
        let Some(place) = self.0.get(fd as usize / SHARDS).filter(|place| **place != NOBODY) else {
            return Ok(());
        };
        match find(place.reactor) {
            Some(reactor) if reactor.is_registered(fd, place.token) => Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "descriptor {fd} is registered already: use one Async per descriptor, and share that (&Async reads and writes)"
                ),
            )),
            _ => Ok(()),
        }
    }

    pub fn set(&mut self, fd: RawFd, place: Place) {
        let index = fd as usize / SHARDS;
        if self.0.len() <= index {
            self.0.resize(index + 1, NOBODY);
        }
        self.0[index] = place;
    }

    /// Forgets `fd`, unless the number has passed to somebody else. Says whether it had not.
    pub fn unset(&mut self, fd: RawFd, place: Place) -> bool {
        match self.0.get_mut(fd as usize / SHARDS) {
            Some(entry) if *entry == place => {
                *entry = NOBODY;
                true
            }
            _ => false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
