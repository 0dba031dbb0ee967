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
//! Whoever holds the lock bit is alone with the word, and gives it up by a plain store.
//!
//! Nothing of a user's runs under the lock bit: wakers are cloned before, and woken or dropped after. But a task of the
//! core that publishes is scheduled there and then, and its waker **stays** in its slot, without its bit: when the same task
//! waits again, to set the bit is all that there is to do. Until then nobody wakes it. If the task is complete by then, it
//! keeps its memory, but not its future.

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{UnsafeCell, spin};
use crate::sys::Ready;
use slab::Slab;
use std::task::Waker;

const LOCKED: usize = 1;
/// The reactor has gone: the next one who wants to wait registers the source with another.
const ORPHANED: usize = 1 << 12;
/// Whoever stores a waker has to tell the reactor ([`Source::wait`](super::source::Source) does).
const ASKS: usize = 1 << 13;
const TICK: usize = 1 << 14;

/// The bits of those who wait in a slot lie this far above the readiness bits that they wait for.
const SLOT_SHIFT: u32 = 6;
const SLOTS: usize = ((Ready::READABLE.0 | Ready::WRITABLE.0) as usize) << SLOT_SHIFT;
/// The same for those in the list.
const LIST_SHIFT: u32 = 8;
const LISTED: usize = (INTERESTS.0 as usize) << LIST_SHIFT;
const WAITING: usize = SLOTS | LISTED;

const _: () = assert!(SLOTS > 2 * Ready::PRIORITY.0 as usize && SLOTS & LISTED == 0 && LISTED < ORPHANED);

/// All that one can wait for.
const INTERESTS: Ready = Ready(Ready::READABLE.0 | Ready::WRITABLE.0 | Ready::READ_CLOSED.0);

/// All that can be reported.
pub(crate) const ALL: Ready = Ready(2 * Ready::PRIORITY.0 - Ready::READABLE.0);

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

    /// Somebody waits in its slot.
    const fn slot_bit(self) -> usize {
        (self.interest().0 as usize) << SLOT_SHIFT
    }
}

/// Somebody in the list waits for something of this.
const fn list_bits(interest: Ready) -> usize {
    ((interest.0 as usize) << LIST_SHIFT) & LISTED
}

/// The word at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen(usize);

impl Seen {
    pub fn is_ready(self, interest: Ready) -> bool {
        self.0 & interest.0 as usize != 0
    }

    /// All that is known to be ready.
    pub fn ready(self) -> Ready {
        Ready(self.0 as u32 & ALL.0)
    }

    /// Its reactor is one that others turn, or has to be asked: what it will say next may be old news to the kernel.
    pub fn asks(self) -> bool {
        self.0 & ASKS != 0
    }

    /// Somebody waits in this direction by polling.
    pub fn is_polled(self, direction: Direction) -> bool {
        self.0 & direction.slot_bit() != 0
    }

    /// Somebody in the list waits for this direction.
    pub fn is_listed(self, direction: Direction) -> bool {
        self.0 & list_bits(direction.interest()) != 0
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
    /// The one task that waits for reading by polling (`poll_read` and the like), if its bit is set; else one that has
    /// waited. The usual case, without allocation.
    reader: Option<Waker>,
    /// Boxed, because most sources never see any of them; once there, it stays.
    others: Option<Box<Others>>,
}

#[derive(Debug, Default)]
struct Others {
    /// Like `reader`, for writing.
    writer: Option<Waker>,
    /// Any number of futures.
    list: Slab<Waiter>,
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
        if seen.0 & LOCKED != 0
            || self.word.compare_exchange(seen.0, next, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            self.clear_slowly(interest, seen);
        }
    }

    #[cold]
    fn clear_slowly(&self, interest: Ready, seen: Seen) {
        let mut round = 0;
        let mut now = self.word.load(Ordering::Relaxed);
        while now & !(TICK - 1) == seen.0 & !(TICK - 1) && now & interest.0 as usize != 0 {
            if now & LOCKED != 0 {
                spin(&mut round);
                now = self.word.load(Ordering::Relaxed);
                continue;
            }
            let next = now & !(interest.0 as usize);
            match self.word.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(changed) => now = changed,
            }
        }
    }

    /// Keeps the waker of the one task that polls this direction. Another one's that waits there is woken, so that it
    /// does not wait for something that it will not hear of.
    #[inline(always)]
    pub fn wait(&self, direction: Direction, waker: &Waker) -> Wait {
        let interest = direction.interest().0 as usize;
        let now = self.word.load(Ordering::Relaxed);
        if now & (LOCKED | interest | ORPHANED | ASKS | direction.slot_bit()) != 0
            || self.word.compare_exchange(now, now | LOCKED, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return self.wait_slowly(direction, waker, false);
        }
        // SAFETY: the lock bit is ours, so no other thread has a reference.
        let kept = self.waiters.with_mut(|w| unsafe { &*w }.keeps(direction, waker));
        // The usual case: it has to wait, and has done so before.
        self.word.store(if kept { now | direction.slot_bit() } else { now }, Ordering::Release);
        if kept { Wait::Stored } else { self.wait_slowly(direction, waker, true) }
    }

    /// [`clear`](Readiness::clear) and [`wait`](Readiness::wait) in one, for a task that was told by its operation that
    /// there is nothing more for now. `false`: it does not wait, because this is not the usual case.
    #[inline(always)]
    pub fn clear_and_wait(&self, direction: Direction, seen: Seen, waker: &Waker) -> bool {
        let (interest, slot) = (direction.interest().0 as usize, direction.slot_bit());
        let cleared = seen.0 & !interest;
        if seen.0 & (LOCKED | ORPHANED | ASKS | slot) != 0
            || self
                .word
                .compare_exchange(seen.0, cleared | LOCKED, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            self.clear(direction.interest(), seen);
            return false;
        }
        // SAFETY: the lock bit is ours, so no other thread has a reference.
        let kept = self.waiters.with_mut(|w| unsafe { &*w }.keeps(direction, waker));
        self.word.store(if kept { cleared | slot } else { cleared }, Ordering::Release);
        kept
    }

    /// `is_new`: the slot is likely to have no waker like this one.
    #[cold]
    fn wait_slowly(&self, direction: Direction, waker: &Waker, is_new: bool) -> Wait {
        // Outside of the lock.
        let mut clone = is_new.then(|| waker.clone());
        loop {
            let mut locked = self.lock();
            if let Some(end) = locked.no_wait(direction.interest()) {
                return end;
            }
            if locked.with(|w| w.keeps(direction, waker)) {
                locked.word |= direction.slot_bit();
                return Wait::stored(locked.word);
            }
            if let Some(clone) = clone.take() {
                let word = locked.word;
                let replaced = locked.with(|w| w.slot(direction).replace(clone));
                locked.word |= direction.slot_bit();
                drop(locked);
                // If the bit was clear, nobody waited.
                if let Some(other) = replaced.filter(|_| word & direction.slot_bit() != 0) {
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
        let key = locked.with(|w| w.others.get_or_insert_default().list.insert(waiter));
        locked.word |= list_bits(interest);
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
                locked.word |= list_bits(interest);
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
        let (waiter, left) = locked.with(|w| {
            let list = w.others.as_mut().map(|others| &mut others.list);
            list.map_or((None, 0), |list| (Some(list.remove(key)), bits_of_all(list)))
        });
        locked.word = locked.word & !LISTED | left;
        drop(locked);
        drop(waiter);
    }

    /// An event: notes it, and moves the wakers of those who waited for it to `wakers`.
    ///
    /// But first, `schedule` is asked about each that is in a slot. If the event is news for a task of its own core, it
    /// may see to it that the task runs (`true`); then the waker stays where it is. It is called under the lock bit, and
    /// whatever locks the caller holds.
    #[inline(always)]
    pub fn publish(&self, ready: Ready, mut schedule: impl FnMut(&Waker) -> bool, wakers: &mut Vec<Waker>) {
        let waiting = ((ready.0 as usize) << SLOT_SHIFT) & SLOTS | list_bits(ready);
        let (now, next) = self.change(|now| {
            let lock = if now & waiting == 0 { 0 } else { LOCKED };
            (now | ready.0 as usize).wrapping_add(TICK) | lock
        });
        if now & waiting == 0 {
            return;
        }
        let mut locked = Locked { readiness: self, word: next & !(LOCKED | waiting) };
        locked.with(
            #[inline(always)]
            |w| match &w.reader {
                // The usual case: a task of this core waits for reading, and nobody else for any of this.
                Some(waker) if now & waiting == Direction::Read.slot_bit() && schedule(waker) => {}
                _ => w.take(now & waiting, true, schedule, wakers),
            },
        );
    }

    /// The reactor goes: nobody is left waiting for it. Those who come back find out by [`Wait::Orphaned`].
    pub fn orphan(&self, wakers: &mut Vec<Waker>) {
        let mut locked = self.lock();
        let waiting = locked.word & WAITING;
        locked.word = locked.word & !WAITING | ORPHANED;
        locked.with(|w| w.take(waiting, false, |_| false, wakers));
    }

    /// There is a reactor again. `asks`: does it want to hear of waiters?
    pub fn adopt(&self, asks: bool) {
        let mut locked = self.lock();
        locked.word &= !(ORPHANED | ASKS);
        if asks {
            locked.word |= ASKS;
        }
    }

    fn lock(&self) -> Locked<'_> {
        let (word, _) = self.change(|now| now | LOCKED);
        Locked { readiness: self, word }
    }

    /// Changes the word, which nobody has locked, in one step. Returns what it was, and what it is.
    #[inline(always)]
    fn change(&self, next: impl Fn(usize) -> usize) -> (usize, usize) {
        let mut round = 0;
        let mut now = self.word.load(Ordering::Relaxed);
        loop {
            if now & LOCKED != 0 {
                spin(&mut round);
                now = self.word.load(Ordering::Relaxed);
                continue;
            }
            let next = next(now);
            match self.word.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return (now, next),
                Err(changed) => now = changed,
            }
        }
    }
}

/// The lock bit, held. Meanwhile nobody else changes the word, so to give it up is a plain store.
struct Locked<'a> {
    readiness: &'a Readiness,
    /// What the word will be when it is given up.
    word: usize,
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
        self.readiness.word.store(self.word, Ordering::Release);
    }
}

impl Waiters {
    /// Is this the waker in the slot, whether it waits or has waited?
    #[inline(always)]
    fn keeps(&self, direction: Direction, waker: &Waker) -> bool {
        let slot = match direction {
            Direction::Read => &self.reader,
            Direction::Write => match &self.others {
                Some(others) => &others.writer,
                None => return false,
            },
        };
        slot.as_ref().is_some_and(|kept| kept.will_wake(waker))
    }

    fn slot(&mut self, direction: Direction) -> &mut Option<Waker> {
        match direction {
            Direction::Read => &mut self.reader,
            Direction::Write => &mut self.others.get_or_insert_default().writer,
        }
    }

    /// Those in `waiting`, the bits of some who wait, have been told: their wakers are moved out, but for those in slots
    /// whose tasks `schedule` has seen to. They have what they waited for if it `fired`.
    #[cold]
    fn take(
        &mut self,
        waiting: usize,
        fired: bool,
        mut schedule: impl FnMut(&Waker) -> bool,
        wakers: &mut Vec<Waker>,
    ) {
        for direction in [Direction::Read, Direction::Write] {
            if waiting & direction.slot_bit() != 0 {
                let slot = self.slot(direction);
                if slot.as_ref().is_some_and(|waker| !schedule(waker)) {
                    wakers.extend(slot.take());
                }
            }
        }
        if waiting & LISTED != 0 {
            for (_, waiter) in self.others.iter_mut().flat_map(|others| others.list.iter_mut()) {
                if waiting & list_bits(waiter.interest) != 0 {
                    waiter.fired |= fired;
                    wakers.extend(waiter.waker.take());
                }
            }
        }
    }

    /// # Panics
    ///
    /// If there is no waiter `key`.
    fn listed(&mut self, key: usize) -> &mut Waiter {
        &mut self.others.as_mut().expect("a key came from this list").list[key]
    }
}

/// What those in the list wait for.
fn bits_of_all(list: &Slab<Waiter>) -> usize {
    let waiting = list.iter().filter(|(_, waiter)| waiter.waker.is_some());
    waiting.fold(0, |bits, (_, waiter)| bits | list_bits(waiter.interest))
}
