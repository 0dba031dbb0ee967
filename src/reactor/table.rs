//! The table of a reactor: which of its sources a token means, and what is registered with the selector.

use super::driver::Driver;
use super::registry::{self, Place};
use super::shared::{Shared, stopped};
use super::source::Source;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{LoneGuard, LoneMutex};
use crate::sys::error::explained;
use crate::sys::{Event, Poller, Trigger, Watched};
use slab::Slab;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::task::Waker;

#[derive(Debug)]
pub(super) struct Table {
    sources: LoneMutex<Sources>,
    /// Has anybody ever watched a level?
    watches_levels: AtomicBool,
}

#[derive(Debug, Default)]
struct Sources {
    slab: Slab<(u64, Arc<Source>)>,
    generation: u32,
    /// How many are registered: not those that have been [parked](Shared::park_watch).
    registered: usize,
    stopped: bool,
}

impl Sources {
    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }
}

impl Table {
    pub fn new() -> Table {
        Table { sources: LoneMutex::new(Sources::default()), watches_levels: AtomicBool::new(false) }
    }

    /// From now on, nobody is registered any more. Returns those who are.
    pub fn stop(&self) -> Vec<Arc<Source>> {
        let mut sources = self.sources.lock();
        sources.stopped = true;
        sources.slab.iter().map(|(_, (_, source))| source.clone()).collect()
    }

    pub fn is_stopped(&self) -> bool {
        self.sources.lock().stopped
    }
}

impl Shared {
    /// Registers `fd` under a new token, for the source that `make` makes of the token.
    ///
    /// Errors, with nothing registered: what the kernel says of `fd` (`PermissionDenied` for a regular file),
    /// `AlreadyExists` if it is registered, here or in any other reactor, `NotConnected` if this reactor has stopped.
    pub fn add(&self, fd: RawFd, make: impl FnOnce(u64) -> Arc<Source>) -> io::Result<Arc<Source>> {
        self.add_by(fd, |poller, token| poller.add(fd, token), make)
    }

    /// The same, for those who watch a part only.
    pub fn add_watch(
        &self,
        fd: RawFd,
        watched: Watched,
        make: impl FnOnce(u64) -> Arc<Source>,
    ) -> io::Result<Arc<Source>> {
        self.note_trigger(watched);
        self.add_by(fd, |poller, token| poller.watch(fd, token, watched, true), make)
    }

    fn note_trigger(&self, watched: Watched) {
        if watched.trigger == Trigger::Level {
            self.table.watches_levels.store(true, Ordering::Release);
        }
    }

    pub fn watches_levels(&self) -> bool {
        self.table.watches_levels.load(Ordering::Acquire)
    }

    /// Changes what is watched, and the kernel reports it anew. An error if the number has passed to another owner.
    pub fn change_watch(&self, place: &Place, fd: RawFd, token: u64, watched: Watched) -> io::Result<()> {
        let sources = self.table.sources.lock();
        if !place.is(self.id, token) {
            return Err(explain(io::Error::from_raw_os_error(libc::EBADF), fd));
        }
        self.poller.watch(fd, token, watched, false).map_err(|e| explain(e, fd))?;
        // Before the lock is given up, and somebody publishes what is new.
        if let Some((_, source)) = sources.slab.get(index(token)) {
            source.readiness.forget();
        }
        Ok(())
    }

    #[inline]
    fn add_by(
        &self,
        fd: RawFd,
        register: impl FnOnce(&Poller, u64) -> io::Result<()>,
        make: impl FnOnce(u64) -> Arc<Source>,
    ) -> io::Result<Arc<Source>> {
        let place = place(fd)?;
        place.check_free(fd)?;
        let mut sources = self.sources_if_alive()?;
        let generation = sources.next_generation();
        let entry = sources.slab.vacant_entry();
        let token = token(entry.key(), generation);
        self.take(place, fd, token, register)?;
        let source = make(token);
        entry.insert((token, source.clone()));
        sources.registered += 1;
        Ok(source)
    }

    /// Takes the place, and registers. With the lock held. An error leaves nothing behind.
    #[inline(always)]
    fn take(
        &self,
        place: &Place,
        fd: RawFd,
        token: u64,
        register: impl FnOnce(&Poller, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        if !place.take(self.id, token) {
            return Err(registry::exists(fd));
        }
        register(&self.poller, token).map_err(|e| {
            place.leave();
            explain(e, fd)
        })
    }

    #[inline(always)]
    fn sources_if_alive(&self) -> io::Result<LoneGuard<'_, Sources>> {
        // Before the lock, which another thread may have held in the parent.
        if !self.is_of_this_process() {
            return Err(stopped());
        }
        let sources = self.table.sources.lock();
        if sources.stopped { Err(stopped()) } else { Ok(sources) }
    }

    /// For a source that has a place here, and is not registered yet: as after [`park_watch`](Shared::park_watch).
    pub fn add_parked(
        &self,
        watched: Watched,
        make: impl FnOnce(u64) -> Arc<Source>,
    ) -> io::Result<Arc<Source>> {
        self.note_trigger(watched);
        let mut sources = self.sources_if_alive()?;
        let generation = sources.next_generation();
        let entry = sources.slab.vacant_entry();
        let token = token(entry.key(), generation);
        let source = make(token);
        entry.insert((token, source.clone()));
        Ok(source)
    }

    /// Stops to watch `fd`. Its source stays in the table, and nothing that is new is published to it.
    #[inline(always)]
    pub fn park_watch(&self, place: &Place, fd: RawFd, token: u64) {
        // If not, as below.
        if self.is_of_this_process() {
            let sources = &mut *self.table.sources.lock();
            // An error means that the descriptor has been closed: then it is not registered either.
            let _ = self.leave(sources, place, fd, token);
        }
    }

    /// Watches `fd` again, whose source has been parked with this token; returns a new one. What was published before is
    /// forgotten: it may be about another file.
    ///
    /// Errors, with nothing changed: those of [`add`](Shared::add).
    pub fn unpark_watch(&self, place: &Place, fd: RawFd, parked: u64, watched: Watched) -> io::Result<u64> {
        place.check_free(fd)?;
        let sources = &mut *self.sources_if_alive()?;
        let generation = sources.next_generation();
        let entry = sources.slab.get_mut(index(parked)).filter(|entry| entry.0 == parked);
        let entry = entry.ok_or_else(stopped)?;
        let token = token(index(parked), generation);
        self.take(place, fd, token, |poller, token| poller.watch(fd, token, watched, true))?;
        entry.0 = token;
        entry.1.readiness.forget();
        sources.registered += 1;
        Ok(token)
    }

    pub fn remove(&self, fd: RawFd, token: u64) -> io::Result<()> {
        if !self.is_of_this_process() {
            // The selector of a parent process is not ours to change, though we share it.
            return Ok(());
        }
        let place = registry::place(fd);
        let mut sources = self.table.sources.lock();
        let source = match sources.slab.get(index(token)) {
            Some((found, _)) if *found == token => Some(sources.slab.remove(index(token))),
            _ => None,
        };
        let result = place.map_or(Ok(()), |place| self.leave(&mut sources, place, fd, token));
        drop(sources);
        drop(source);
        result
    }

    /// Gives the place of `fd` up, and what is registered. The number may have passed to another owner, if
    /// its file was closed behind our back: then nothing is done.
    #[inline(always)]
    fn leave(&self, sources: &mut Sources, place: &Place, fd: RawFd, token: u64) -> io::Result<()> {
        if !place.is(self.id, token) {
            return Ok(());
        }
        sources.registered -= 1;
        let result = self.poller.delete(fd);
        place.leave();
        result
    }

    /// Does somebody own `fd`, whose place names this reactor? If not, the place is free after that.
    pub fn is_registered(&self, fd: RawFd, place: &Place) -> bool {
        let mut sources = self.table.sources.lock();
        let Some(token) = place.token(self.id) else { return false };
        let is_known = matches!(sources.slab.get(index(token)), Some((found, _)) if *found == token);
        let is_registered = is_known && self.poller.holds(fd, token);
        if !is_registered {
            sources.registered -= 1;
            place.leave();
        }
        is_registered
    }

    pub fn sources_alive(&self) -> usize {
        self.table.sources.lock().registered
    }

    /// Publishes the events. Counts those that concern no source.
    #[inline(never)]
    pub(super) fn dispatch(
        &self,
        events: impl Iterator<Item = Event>,
        wakers: &mut Vec<Waker>,
        driver: &mut impl Driver,
    ) -> usize {
        let mut others = 0;
        let sources = self.table.sources.lock();
        for event in events {
            match sources.slab.get(index(event.token)) {
                Some((token, source)) if *token == event.token => {
                    source.readiness.publish(event.ready, driver, wakers)
                }
                // The notifier, or the news of a source that has gone since, whose place in the slab may have passed
                // to another.
                _ => others += 1,
            }
        }
        others
    }
}

/// Where it is noted who has `fd`.
pub(super) fn place(fd: RawFd) -> io::Result<&'static Place> {
    registry::place(fd).map_err(|e| explain(e, fd))
}

fn token(index: usize, generation: u32) -> u64 {
    debug_assert!(index < u32::MAX as usize, "{index} sources in one reactor");
    index as u64 | u64::from(generation) << 32
}

fn index(token: u64) -> usize {
    token as u32 as usize
}

/// The kernel's word for it, and what to do.
fn explain(e: io::Error, fd: RawFd) -> io::Error {
    let text = match e.raw_os_error() {
        Some(libc::EPERM) => {
            "what is always ready (a regular file, a directory, /dev/null) cannot be waited for: use blocking I/O on a thread of its own"
        }
        Some(libc::EBADF) => "the descriptor is closed",
        Some(libc::EEXIST) => {
            "the descriptor is registered already: use one Async per descriptor, and share that"
        }
        Some(libc::ENOSPC) => "the limit /proc/sys/fs/epoll/max_user_watches is reached",
        _ => return e,
    };
    let text = format!("cannot register descriptor {fd}: {text} ({e})");
    explained(e, text)
}
