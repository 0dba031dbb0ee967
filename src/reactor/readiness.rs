//! What is known of one descriptor, and who waits for more: one atomic word and the wakers that it guards.
//!
//! The word holds the [`Ready`] bits, a bit per kind of waiter, a lock bit, and a **tick** that every event
//! advances. Three parties meet in it:
//!
//! - a task that found "would block" [clears](Readiness::clear) the direction, but only if no event came since it
//!   loaded the word that made it try: a clear never eats a newer edge;
//! - a task that found the direction clear [stores its waker](Readiness::wait), and looks at the bit once more while
//!   it holds the lock bit;
//! - the reactor [publishes](Readiness::publish) an event: sets bits and tick in one step, which only succeeds while
//!   nobody holds the lock bit, and takes out the wakers of those who waited for it.
//!
//! Nothing of a user's runs under the lock bit: wakers are cloned before, and woken or dropped after.

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{UnsafeCell, spin};
use crate::sys::Ready;
use slab::Slab;
use std::task::Waker;

const LOCKED: usize = 1;
/// The reactor has gone: the next one who wants to wait registers the source with another.
const ORPHANED: usize = 1 << 10;
/// Whoever stores a waker has to tell the reactor ([`Source::wait`](super::source::Source) does).
const ASKS: usize = 1 << 11;
const TICK: usize = 1 << 12;

/// The waiters' bits lie this far above the readiness bits that they wait for.
const WAITING_SHIFT: u32 = 6;
const WAITING: usize = (INTERESTS.0 as usize) << WAITING_SHIFT;

/// All that one can wait for.
const INTERESTS: Ready = Ready(Ready::READABLE.0 | Ready::WRITABLE.0 | Ready::READ_CLOSED.0);

/// One of the two directions of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read = 0,
    Write = 1,
}

impl Direction {
    pub const fn interest(self) -> Ready {
        match self {
            Direction::Read => Ready::READABLE,
            Direction::Write => Ready::WRITABLE,
        }
    }
}

/// The word at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen(usize);

impl Seen {
    pub fn is_ready(self, interest: Ready) -> bool {
        self.0 & interest.0 as usize != 0
    }

    /// May a read or write that moved fewer bytes than it could count as "would block"? Not once the end, an error
    /// or an urgent mark is in sight: what stopped it may have been that, and no further edge would come.
    pub fn trusts_short(self) -> bool {
        const SPECIAL: usize =
            (Ready::READ_CLOSED.0 | Ready::HANGUP.0 | Ready::ERROR.0 | Ready::PRIORITY.0) as usize;
        self.0 & SPECIAL == 0
    }

    #[cfg(all(test, loom))]
    pub fn has_waiters(self) -> bool {
        self.0 & WAITING != 0
    }
}

/// How an attempt to wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// There is nothing to wait for; no waker is kept.
    Ready,
    /// The waker is kept, and will be woken by the next event.
    Stored,
    /// The same, and the reactor has to be [asked](super::shared::Shared::asked).
    StoredAndAsks,
    /// No reactor would wake it; no waker is kept.
    Orphaned,
}

impl Wait {
    fn stored(word: usize) -> Wait {
        if word & ASKS == 0 { Wait::Stored } else { Wait::StoredAndAsks }
    }
}

#[derive(Debug, Default)]
struct Waiters {
    /// One task per direction, which waits by polling: `poll_read` and the like. The usual case, without allocation.
    slots: [Option<Waker>; 2],
    /// Any number of futures. Boxed, because most sources never see one; once there, it stays.
    list: Option<Box<Slab<Waiter>>>,
}

#[derive(Debug)]
struct Waiter {
    interest: Ready,
    waker: Option<Waker>,
    /// What it waits for has happened. (No waker does not say so: a stopped reactor wakes everybody.)
    fired: bool,
}

#[derive(Debug)]
pub(crate) struct Readiness {
    word: AtomicUsize,
    waiters: UnsafeCell<Waiters>,
}

// SAFETY: `waiters` is the only part that is not Sync by itself, and is reached only through `Locked`, which exists
// for one thread at a time: between setting LOCKED by compare-exchange (acquire) and clearing it (release).
unsafe impl Sync for Readiness {}
// SAFETY: Wakers are Send, and there is nothing else in it.
unsafe impl Send for Readiness {}
impl std::panic::RefUnwindSafe for Readiness {}
impl std::panic::UnwindSafe for Readiness {}

impl Readiness {
    /// Both directions count as ready: the first operation finds out.
    pub fn new() -> Readiness {
        let both = Ready::READABLE | Ready::WRITABLE;
        Readiness { word: AtomicUsize::new(both.0 as usize), waiters: UnsafeCell::new(Waiters::default()) }
    }

    #[inline]
    pub fn seen(&self) -> Seen {
        Seen(self.word.load(Ordering::Acquire))
    }

    /// The operation that `seen` made somebody try would block: the direction is not ready any more, unless
    /// something has happened since.
    #[inline]
    pub fn clear(&self, interest: Ready, seen: Seen) {
        let next = seen.0 & !(interest.0 as usize);
        if self.word.compare_exchange(seen.0, next, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            self.clear_slowly(interest, seen);
        }
    }

    #[cold]
    fn clear_slowly(&self, interest: Ready, seen: Seen) {
        let mut now = self.word.load(Ordering::Relaxed);
        while now & !(TICK - 1) == seen.0 & !(TICK - 1) && now & interest.0 as usize != 0 {
            let next = now & !(interest.0 as usize);
            match self.word.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(changed) => now = changed,
            }
        }
    }

    /// Keeps the waker of the one task that polls this direction. Another one's that was there is woken, so that it
    /// does not wait for something that it will not hear of.
    #[inline(always)]
    pub fn wait(&self, direction: Direction, waker: &Waker) -> Wait {
        let interest = direction.interest().0 as usize;
        let waiting = interest << WAITING_SHIFT;
        let now = self.word.load(Ordering::Relaxed);
        if now & (LOCKED | interest | ORPHANED | ASKS | waiting) != 0 {
            return self.wait_slowly(direction, waker, None);
        }
        // The usual case: it has to wait, and nobody else does. (A waker is cloned outside of the lock.)
        let clone = waker.clone();
        if self.word.compare_exchange(now, now | LOCKED, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return self.wait_slowly(direction, waker, Some(clone));
        }
        // SAFETY: the lock bit is ours, so no other thread has a reference.
        let none = self.waiters.with_mut(|w| unsafe { (&mut (*w).slots)[direction as usize].replace(clone) });
        debug_assert!(none.is_none(), "a waker without its bit");
        std::mem::forget(none);
        // Ours alone to change: both are known.
        self.word.fetch_xor(LOCKED | waiting, Ordering::AcqRel);
        Wait::Stored
    }

    #[cold]
    fn wait_slowly(&self, direction: Direction, waker: &Waker, mut clone: Option<Waker>) -> Wait {
        loop {
            let mut locked = self.lock();
            if let Some(end) = locked.no_wait(direction.interest()) {
                return end;
            }
            let slot = direction as usize;
            if locked.with(|w| w.slots[slot].as_ref().is_some_and(|old| old.will_wake(waker))) {
                return Wait::stored(locked.word);
            }
            if let Some(clone) = clone.take() {
                let word = locked.word;
                let replaced = locked.with(|w| w.slots[slot].replace(clone));
                locked.waiting |= (direction.interest().0 as usize) << WAITING_SHIFT;
                drop(locked);
                if let Some(other) = replaced {
                    other.wake();
                }
                return Wait::stored(word);
            }
            drop(locked);
            clone = Some(waker.clone());
        }
    }

    /// Adds one more waiter for `interest`. Its key is `Some` exactly if it was stored.
    pub fn insert(&self, interest: Ready, waker: &Waker) -> (Wait, Option<usize>) {
        let waker = waker.clone();
        let mut locked = self.lock();
        if let Some(end) = locked.no_wait(interest) {
            return (end, None);
        }
        let waiter = Waiter { interest, waker: Some(waker), fired: false };
        let key = locked.with(|w| w.list.get_or_insert_default().insert(waiter));
        locked.waiting |= (interest.0 as usize) << WAITING_SHIFT;
        (Wait::stored(locked.word), Some(key))
    }

    /// Has the event come that the waiter `key` was inserted for? If not, `waker` is the one to wake from now on.
    pub fn poll_waiter(&self, key: usize, waker: &Waker) -> Wait {
        let mut clone = None;
        loop {
            let mut locked = self.lock();
            let orphaned = locked.word & ORPHANED != 0;
            let (fired, same, interest) = locked.with(|w| {
                let waiter = w.listed(key);
                let same = waiter.waker.as_ref().is_some_and(|old| old.will_wake(waker));
                (waiter.fired, same, waiter.interest)
            });
            // Or else, since a stopped reactor woke it, it has not been on the list of those to be told.
            if fired || locked.word & interest.0 as usize != 0 {
                return Wait::Ready;
            }
            if orphaned {
                return Wait::Orphaned;
            }
            if same {
                return Wait::stored(locked.word);
            }
            if let Some(clone) = clone.take() {
                let word = locked.word;
                let replaced = locked.with(|w| w.listed(key).waker.replace(clone));
                locked.waiting |= (interest.0 as usize) << WAITING_SHIFT;
                drop(locked);
                drop(replaced);
                return Wait::stored(word);
            }
            drop(locked);
            clone = Some(waker.clone());
        }
    }

    /// The waiter `key` does not wait any more.
    pub fn remove(&self, key: usize) {
        let mut locked = self.lock();
        let (waiter, left) = locked.with(|w| (w.list.as_mut().map(|list| list.remove(key)), w.waiting()));
        locked.waiting = left;
        drop(locked);
        drop(waiter);
    }

    /// An event: notes it, and moves the wakers of those who waited for it to `wakers`.
    #[inline(always)]
    pub fn publish(&self, ready: Ready, wakers: &mut Vec<Waker>) {
        let waiting = ((ready.0 & INTERESTS.0) as usize) << WAITING_SHIFT;
        let now = self.change(|now| {
            let lock = if now & waiting == 0 { 0 } else { LOCKED };
            (now | ready.0 as usize).wrapping_add(TICK) | lock
        });
        if now & waiting == 0 {
            return;
        }
        let mut locked = Locked { readiness: self, word: now, waiting: now & WAITING & !waiting };
        locked.with(|w| w.take(now & waiting, true, wakers));
    }

    /// The reactor goes: nobody is left waiting for it. Those who come back find out by [`Wait::Orphaned`].
    pub fn orphan(&self, wakers: &mut Vec<Waker>) {
        let mut locked = self.lock();
        locked.with(|w| w.take(WAITING, false, wakers));
        locked.waiting = 0;
        self.word.fetch_or(ORPHANED, Ordering::AcqRel);
    }

    /// There is a reactor again. `asks`: does it want to hear of waiters?
    pub fn adopt(&self, asks: bool) {
        let _locked = self.lock();
        if asks {
            self.word.fetch_or(ASKS, Ordering::AcqRel);
        } else {
            self.word.fetch_and(!ASKS, Ordering::AcqRel);
        }
        self.word.fetch_and(!ORPHANED, Ordering::AcqRel);
    }

    fn lock(&self) -> Locked<'_> {
        let now = self.change(|now| now | LOCKED);
        Locked { readiness: self, word: now, waiting: now & WAITING }
    }

    /// Changes the word, which nobody has locked, in one step. Returns what it was.
    #[inline(always)]
    fn change(&self, next: impl Fn(usize) -> usize) -> usize {
        let mut round = 0;
        let mut now = self.word.load(Ordering::Relaxed);
        loop {
            if now & LOCKED != 0 {
                spin(&mut round);
                now = self.word.load(Ordering::Relaxed);
                continue;
            }
            match self.word.compare_exchange_weak(now, next(now), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return now,
                Err(changed) => now = changed,
            }
        }
    }
}

/// The lock bit, held. Meanwhile nobody publishes, so a readiness bit that is clear stays clear.
struct Locked<'a> {
    readiness: &'a Readiness,
    /// The word as it was found.
    word: usize,
    /// Who waits when it is given up.
    waiting: usize,
}

impl Locked<'_> {
    fn with<R>(&mut self, f: impl FnOnce(&mut Waiters) -> R) -> R {
        // SAFETY: the lock bit is ours, so no other thread has a reference; `&mut self` keeps this one alone here.
        self.readiness.waiters.with_mut(|waiters| f(unsafe { &mut *waiters }))
    }

    fn no_wait(&self, interest: Ready) -> Option<Wait> {
        if self.word & interest.0 as usize != 0 {
            Some(Wait::Ready)
        } else if self.word & ORPHANED != 0 {
            Some(Wait::Orphaned)
        } else {
            None
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Not a plain store: a `clear` may have changed the word meanwhile. But nobody else changes these bits.
        self.readiness.word.fetch_xor(LOCKED | (self.word & WAITING) ^ self.waiting, Ordering::AcqRel);
    }
}

impl Waiters {
    /// Moves out the wakers of all who wait for something in `waiting` (waiters' bits). They have what they waited for if
    /// it `fired`.
    #[inline(always)]
    fn take(&mut self, waiting: usize, fired: bool, wakers: &mut Vec<Waker>) {
        for direction in [Direction::Read, Direction::Write] {
            if waiting & (direction.interest().0 as usize) << WAITING_SHIFT != 0 {
                if let Some(waker) = self.slots[direction as usize].take() {
                    wakers.push(waker);
                }
            }
        }
        if self.list.is_some() {
            self.take_listed(Ready((waiting >> WAITING_SHIFT) as u32), fired, wakers);
        }
    }

    #[cold]
    fn take_listed(&mut self, interests: Ready, fired: bool, wakers: &mut Vec<Waker>) {
        for (_, waiter) in self.list.iter_mut().flat_map(|list| list.iter_mut()) {
            if interests.intersects(waiter.interest) {
                waiter.fired |= fired;
                wakers.extend(waiter.waker.take());
            }
        }
    }

    /// # Panics
    ///
    /// If there is no waiter `key`.
    fn listed(&mut self, key: usize) -> &mut Waiter {
        &mut self.list.as_mut().expect("a key came from this list")[key]
    }

    fn waiting(&self) -> usize {
        let mut interests = Ready::default();
        for direction in [Direction::Read, Direction::Write] {
            if self.slots[direction as usize].is_some() {
                interests |= direction.interest();
            }
        }
        for (_, waiter) in self.list.iter().flat_map(|list| list.iter()) {
            if waiter.waker.is_some() {
                interests |= waiter.interest;
            }
        }
        (interests.0 as usize) << WAITING_SHIFT
    }
}
