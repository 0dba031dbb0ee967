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

use super::driver::{Answer, Driver, no_tasks};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{UnsafeCell, exchange, spin};
use crate::sys::Ready;
use slab::Slab;
use std::task::Waker;

/// All that can be reported.
pub(crate) const ALL: Ready = Ready((1 << Ready::BITS) - 1);

const LOCKED: usize = 1 << 6;
/// The bits of those who wait in a slot lie this far above the readiness bits that they wait for.
const SLOT_SHIFT: u32 = 7;
const SLOTS: usize = ((Ready::READABLE.0 | Ready::WRITABLE.0) as usize) << SLOT_SHIFT;
/// Somebody waits in the list, for whatever.
const LISTED: usize = 1 << 8;
/// Somebody waits for reading, as the one who polls.
const READER: usize = Direction::Read.slot_bit();
const WAITING: usize = SLOTS | LISTED;
/// The reactor has gone: the next one who wants to wait registers the source with another.
const ORPHANED: usize = 1 << 10;
/// What the reactor [asks](Asks) of whoever stores a waker ([`Source`](super::source::Source) does it).
const TO_COUNT: usize = 1 << 11;
const TO_ARM: usize = 1 << 12;
const ASKS: usize = TO_COUNT | TO_ARM;
/// A short operation says nothing: see [`Seen::trusts_short`].
const WARY: usize = 1 << 13;
/// The waker in the reader's slot is one that the driver has scheduled before.
const KNOWN: usize = 1 << 14;
const TICK: usize = 1 << 15;

const _: () = assert!((1 << Ready::BITS) <= LOCKED && WAITING < ORPHANED && SLOTS & LISTED == 0);

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

/// What makes an operation stop before its end.
const SPECIAL: usize = (Ready::READ_CLOSED.0 | Ready::HANGUP.0 | Ready::ERROR.0 | Ready::PRIORITY.0) as usize;

/// The word at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen(usize);

impl Seen {
    pub fn is_ready(self, interest: Ready) -> bool {
        self.0 & interest.0 as usize != 0
    }

    /// All that is known to be ready.
    pub fn ready(self) -> Ready {
        Ready(self.0 as u8 & ALL.0)
    }

    /// Its reactor is one that others turn, or has to be asked: what it will say next may be old news to the kernel.
    pub fn asks(self) -> bool {
        self.0 & ASKS != 0
    }

    /// Somebody waits in this direction by polling.
    pub fn is_polled(self, direction: Direction) -> bool {
        self.0 & direction.slot_bit() != 0
    }

    /// Somebody waits in the list.
    pub fn is_listed(self) -> bool {
        self.0 & LISTED != 0
    }

    /// May a read or write that moved fewer bytes than it could count as "would block"? Only on [such](Readiness::trust_short)
    /// a descriptor; and not once the end, an error or an urgent mark is in sight: what stopped it may have been that, and no
    /// further edge would come.
    #[inline]
    pub fn trusts_short(self) -> bool {
        self.0 & (WARY | SPECIAL) == 0
    }

    /// The same for a batch of datagrams that is not full, on any descriptor.
    pub fn trusts_batch(self) -> bool {
        self.0 & SPECIAL == 0
    }

    #[cfg(all(test, loom))]
    pub fn has_waiters(self) -> bool {
        self.0 & WAITING != 0
    }
}

/// What a reactor wants to hear of each one who waits for a source of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asks {
    /// It is the shared one, and wants to hear [that somebody waits](super::fallback::waits).
    pub to_count: bool,
    /// Its selector wants to hear [for what](crate::sys::Poller::arm).
    pub to_arm: bool,
}

impl Asks {
    pub fn anything(self) -> bool {
        self != Asks::default()
    }

    fn of(word: usize) -> Asks {
        Asks { to_count: word & TO_COUNT != 0, to_arm: word & TO_ARM != 0 }
    }

    fn bits(self) -> usize {
        let count = if self.to_count { TO_COUNT } else { 0 };
        let arm = if self.to_arm { TO_ARM } else { 0 };
        count | arm
    }
}

/// How an attempt to wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// There is nothing to wait for; no waker is kept.
    Ready,
    /// The waker is kept, and will be woken by the next event.
    Stored,
    /// The same, and the reactor is to be told.
    StoredAndAsks(Asks),
    /// No reactor would wake it; no waker is kept.
    Orphaned,
}

impl Wait {
    fn stored(word: usize) -> Wait {
        if word & ASKS == 0 { Wait::Stored } else { Wait::StoredAndAsks(Asks::of(word)) }
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
// for one thread at a time: between setting LOCKED by compare-exchange (acquire), or by a thread that is alone, and clearing
// it (release).
unsafe impl Sync for Readiness {}
// SAFETY: Wakers are Send, and there is nothing else in it.
unsafe impl Send for Readiness {}
impl std::panic::RefUnwindSafe for Readiness {}
impl std::panic::UnwindSafe for Readiness {}

impl Readiness {
    /// Both directions count as ready: the first operation finds out.
    pub fn new() -> Readiness {
        let both = Ready::READABLE | Ready::WRITABLE;
        Readiness {
            word: AtomicUsize::new(both.0 as usize | WARY),
            waiters: UnsafeCell::new(Waiters::default()),
        }
    }

    /// A read or write of this descriptor that moves fewer bytes than it could has met the end of the kernel's queue.
    pub fn trust_short(&self) {
        self.change(|now| now & !WARY);
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

    /// Nothing is known from now on. For whoever keeps events from being published meanwhile.
    pub fn forget(&self) {
        let seen = self.seen();
        if seen.is_ready(ALL) {
            self.clear(ALL, seen);
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
        if now & (LOCKED | interest | ORPHANED | ASKS) != 0 || !exchange(&self.word, now, now | LOCKED) {
            // Where the driver has no tasks, an event has taken the waker out of the slot.
            return self.wait_slowly(direction, waker, now & ASKS != 0);
        }
        // SAFETY: the lock bit is ours, so no other thread has a reference.
        let kept = self.waiters.with_mut(|w| unsafe { &*w }.keeps(direction, waker));
        // The usual case: it has to wait, and has done so before, or does so still.
        self.word.store(if kept { now | direction.slot_bit() } else { now }, Ordering::Release);
        if kept { Wait::Stored } else { self.wait_slowly(direction, waker, true) }
    }

    /// [`clear`](Readiness::clear) and [`wait`](Readiness::wait) in one, for a task that was told by its operation that
    /// there is nothing more for now. `false`: it does not wait, because this is not the usual case.
    #[inline(always)]
    pub fn clear_and_wait(&self, direction: Direction, seen: Seen, waker: &Waker) -> bool {
        let (interest, slot) = (direction.interest().0 as usize, direction.slot_bit());
        let waiting = seen.0 & !interest | slot;
        if seen.0 & (LOCKED | ORPHANED | ASKS | slot) != 0
            || self
                .word
                .compare_exchange(seen.0, waiting | LOCKED, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            self.clear(direction.interest(), seen);
            return false;
        }
        // SAFETY: the lock bit is ours, so no other thread has a reference.
        if !self.waiters.with_mut(|w| unsafe { &*w }.keeps(direction, waker)) {
            self.word.store(waiting & !slot, Ordering::Release);
            return false;
        }
        self.word.store(waiting, Ordering::Release);
        true
    }

    /// `is_new`: the slot is likely to have no waker like this one.
    #[cold]
    #[inline(never)]
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
                locked.knows(direction, false);
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
        locked.word |= LISTED;
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
                locked.word |= LISTED;
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
        let (waiter, anybody) = locked.with(|w| {
            let list = w.others.as_mut().map(|others| &mut others.list);
            list.map_or((None, false), |list| (Some(list.remove(key)), anybody_waits(list)))
        });
        if !anybody {
            locked.word &= !LISTED;
        }
        drop(locked);
        drop(waiter);
    }

    /// An event: notes it, and moves the wakers of those who waited for it to `wakers`.
    ///
    /// But those in slots that are of the driver's own tasks stay where they are, and the tasks are scheduled.
    #[inline(always)]
    pub fn publish<D: Driver>(&self, ready: Ready, driver: &mut D, wakers: &mut Vec<Waker>) {
        // Locked, as if somebody waited for it: that is the usual case.
        let news = |now: usize| (now | ready.0 as usize).wrapping_add(TICK | LOCKED);
        let mut now = self.word.load(Ordering::Relaxed);
        if now & LOCKED != 0
            || self.word.compare_exchange(now, news(now), Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            now = self.change_slowly(news);
        }
        let told = now & (((ready.0 as usize) << SLOT_SHIFT) & SLOTS | LISTED | KNOWN);
        // Nearly always it is a task of this core that waits for reading, and has done so before.
        if told == READER | KNOWN || D::CLAIMS_UNKNOWN && told == READER {
            let scheduled = self.waiters.with_mut(
                #[inline(always)]
                |w| {
                    // SAFETY: the lock bit is ours, so no other thread has a reference. Whoever sets the slot's bit has put a waker
                    // there, and whoever takes it out clears the bit.
                    let reader = unsafe { (&*w).reader.as_ref().unwrap_unchecked() };
                    if D::CLAIMS_UNKNOWN {
                        return driver.claim(reader) != Answer::No;
                    }
                    // SAFETY: KNOWN is set when the driver has said so of this one, and cleared when there is another waker or
                    // another reactor.
                    unsafe { driver.claim_again(reader) }
                },
            );
            if scheduled {
                let next = (now | ready.0 as usize).wrapping_add(TICK) & !READER;
                return self.word.store(next, Ordering::Release);
            }
        }
        let mut locked = Locked { readiness: self, word: news(now) & !LOCKED };
        match told & !KNOWN {
            0 => {}
            // He has been asked.
            READER if D::CLAIMS_UNKNOWN => locked.take_reader(&mut no_tasks, wakers),
            READER => locked.take_reader(driver, wakers),
            waiting => locked.take(waiting, Some(ready), driver, wakers),
        }
    }

    /// The reactor goes: nobody is left waiting for it. Those who come back find out by [`Wait::Orphaned`].
    pub fn orphan(&self, wakers: &mut Vec<Waker>) {
        let mut locked = self.lock();
        let waiting = locked.word & WAITING;
        locked.word |= ORPHANED;
        locked.take(waiting, None, &mut no_tasks, wakers);
    }

    /// There is a reactor again.
    pub fn adopt(&self, asks: Asks) {
        let mut locked = self.lock();
        locked.word = locked.word & !(ORPHANED | ASKS | KNOWN) | asks.bits();
    }

    fn lock(&self) -> Locked<'_> {
        let word = self.change(|now| now | LOCKED);
        Locked { readiness: self, word }
    }

    #[cold]
    #[inline(never)]
    fn change_slowly(&self, next: impl Fn(usize) -> usize) -> usize {
        self.change(next)
    }

    /// Changes the word, which nobody has locked, in one step. Returns what it was.
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

    /// The usual case of [`take`](Locked::take).
    #[inline(never)]
    fn take_reader(&mut self, driver: &mut impl Driver, wakers: &mut Vec<Waker>) {
        self.word &= !READER;
        self.take_slot(Direction::Read, driver, wakers);
    }

    #[inline(always)]
    fn take_slot(&mut self, direction: Direction, driver: &mut impl Driver, wakers: &mut Vec<Waker>) {
        let answer = self.with(|w| {
            let slot = w.slot(direction);
            let answer = slot.as_ref().map_or(Answer::No, |waker| driver.claim(waker));
            if answer == Answer::No {
                wakers.extend(slot.take());
            }
            answer
        });
        self.knows(direction, answer == Answer::Known);
    }

    /// Those in `waiting`, the bits of some who wait, are told: their wakers are moved out, but for those in slots whose tasks
    /// the driver has seen to. Of the list, it is those who wait for something of `fired`, which they have got; or all, who
    /// have not.
    #[cold]
    #[inline(never)]
    fn take(
        &mut self,
        waiting: usize,
        fired: Option<Ready>,
        driver: &mut impl Driver,
        wakers: &mut Vec<Waker>,
    ) {
        self.word &= !waiting;
        for direction in [Direction::Read, Direction::Write] {
            if waiting & direction.slot_bit() != 0 {
                self.take_slot(direction, driver, wakers);
            }
        }
        let anybody = self.with(|w| {
            let Some(others) = w.others.as_mut().filter(|_| waiting & LISTED != 0) else { return false };
            for (_, waiter) in &mut others.list {
                if fired.is_none_or(|ready| waiter.interest.intersects(ready)) {
                    waiter.fired |= fired.is_some();
                    wakers.extend(waiter.waker.take());
                }
            }
            anybody_waits(&others.list)
        });
        if anybody {
            self.word |= LISTED;
        }
    }

    /// There is another waker in this slot, or none; or the driver has said that it `is_known`.
    fn knows(&mut self, direction: Direction, is_known: bool) {
        if direction == Direction::Read {
            self.word = if is_known { self.word | KNOWN } else { self.word & !KNOWN };
        }
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

    /// # Panics
    ///
    /// If there is no waiter `key`.
    fn listed(&mut self, key: usize) -> &mut Waiter {
        &mut self.others.as_mut().expect("a key came from this list").list[key]
    }
}

fn anybody_waits(list: &Slab<Waiter>) -> bool {
    list.iter().any(|(_, waiter)| waiter.waker.is_some())
}
