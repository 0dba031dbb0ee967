//! The timing wheel: the pending deadlines of one reactor, each with a payload to hand out when it has passed.
//!
//! It owns the payloads (wakers, in use) from [`insert`](Wheel::insert) until it gives them back. It is pure: times
//! are nanoseconds since an origin that the caller chose, `now` is what the caller says it is, and nothing in here
//! wakes, waits or runs foreign code. Its caller is the reactor, which inserts and cancels for timers, sleeps until
//! [`next_wakeup`](Wheel::next_wakeup) and then calls [`advance`](Wheel::advance).
//!
//! # How it works
//!
//! Time is cut into ticks of 2^15 ns. A level is 64 slots; a slot of level 0 is one tick wide, one of level 1 is 64
//! ticks wide, and so on: nine levels cover all of `u64`. A deadline goes by the highest group of six bits in which
//! its tick differs from the current one: the group's position is the level, its value the slot. Three things follow,
//! and the rest of the file lives on them:
//!
//! - Occupied slots lie ahead of the current one in every level, they never wrap around. Whatever is in a lower level
//!   is due before anything in a higher one. So the first slot is two searches for a set bit.
//! - When time enters a slot, what is in it belongs at lower levels. The slot is emptied then, once, and each entry
//!   either fires or moves. Slots that time has not entered are not touched, and empty ones are never seen.
//! - An entry may wait in a slot that is too early for it. When the slot is emptied, the entry moves to the right one.
//!   Hence a deadline that is pushed later and later is only written down ([`reset`](Wheel::reset)).
//!
//! A slot knows the earliest deadline in it, so a timer an hour away needs no wake-up before its hour is over.
//!
//! After G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987 (their scheme 7); the choice of
//! a slot by differing bits is that of tokio's wheel. Unlike both, a tick only decides the slot: what fires, and in
//! which order, is decided by nanoseconds.

use std::num::NonZeroU32;
use std::{fmt, mem};

#[cfg(test)]
mod tests;

/// A tick is 2^15 ns, or 32.768 us.
const TICK_BITS: u32 = 15;
/// Timers that fall within so many ticks (98 us) share a wake-up. To sleep and wake costs a thread about ten times as
/// much as a timer does: a hundred thousand timers a second would spend it on that.
const SHARED_TICKS: u32 = 3;
/// Six bits of the tick choose a slot: the 64 slots of a level have their occupancy in one word.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(SLOT_BITS) as usize;

/// The link that leads nowhere. It is out of bounds for `entries`, always: `get` answers "is there one?" and "is it in
/// bounds?" with one comparison.
const NIL: u32 = u32::MAX;

/// The generation of an entry that has used up all others and is never used again, 40 bytes lost per four billion
/// timers. That is the price of "never" in "a stale key never reaches a newer entry".
const RETIRED: NonZeroU32 = NonZeroU32::MAX;

/// Names an entry from its insertion until it fires or is cancelled. After that it is stale, and names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    index: u32,
    generation: NonZeroU32,
}

/// See the [module](self).
pub struct Wheel<T> {
    /// The latest time that the wheel was given. Its tick is the current one.
    now: u64,
    /// A bit per slot, a word per level: is there anything in the slot?
    occupied: [u64; LEVELS],
    /// Level by level. What stands in a slot means something only as long as its bit in `occupied` is set.
    slots: [Slot; LEVELS * SLOTS],
    /// For the slots of level 0, an upper bound of the deadlines that they were chosen by.
    latest: [u64; SLOTS],
    /// Grows to the most that were ever pending at once, and stays.
    entries: Vec<Entry<T>>,
    /// The first of the vacant entries, which are linked by `next`: last out, first in, while it is still in the cache.
    vacant: u32,
    len: usize,
    /// Scratch space of `open`, kept for its capacity: deadline, position in the slot, index.
    due: Vec<(u64, u32, u32)>,
}

/// A list of entries in the order in which they came.
#[derive(Clone, Copy)]
struct Slot {
    /// No deadline in the slot is earlier. A cancelled entry, or one that was reset, may leave it too low, never too
    /// high.
    earliest: u64,
    head: u32,
    tail: u32,
}

struct Entry<T> {
    /// What the user asked for. It may be later than the slot, see `reset`.
    deadline: u64,
    /// `None` if the entry is vacant.
    payload: Option<T>,
    prev: u32,
    next: u32,
    /// The generation of the keys that reach this entry: moves on whenever the entry becomes vacant.
    generation: NonZeroU32,
    /// Where the entry is. It does not follow from the deadline: that may have moved, and so has `now`.
    slot: u16,
}

const _: () = {
    assert!(size_of::<Option<Key>>() == 8);
    assert!(size_of::<Entry<std::task::Waker>>() <= 40);
    assert!(LEVELS * SLOTS <= u16::MAX as usize);
};

impl<T> Wheel<T> {
    /// An empty wheel at time 0. Allocates nothing.
    pub const fn new() -> Wheel<T> {
        Wheel {
            now: 0,
            occupied: [0; LEVELS],
            slots: [Slot { earliest: 0, head: 0, tail: 0 }; LEVELS * SLOTS],
            latest: [0; SLOTS],
            entries: Vec::new(),
            vacant: NIL,
            len: 0,
            due: Vec::new(),
        }
    }

    /// The number of pending entries.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Is the entry still pending?
    #[cfg(test)]
    pub fn contains(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    #[cfg(test)]
    pub fn deadline(&self, key: Key) -> Option<u64> {
        Some(self.get(key)?.deadline)
    }

    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation == key.generation { entry.payload.as_mut() } else { None }
    }

    #[inline]
    fn get(&self, key: Key) -> Option<&Entry<T>> {
        self.entries.get(key.index as usize).filter(|entry| entry.generation == key.generation)
    }

    /// Adds an entry, in constant time. One whose deadline has passed already fires at the next `advance`.
    #[inline]
    pub fn insert(&mut self, deadline: u64, payload: T) -> Key {
        let index = self.vacant;
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return self.grow_and_insert(deadline, payload);
        };
        self.vacant = entry.next;
        entry.deadline = deadline;
        entry.payload = Some(payload);
        let generation = entry.generation;
        self.len += 1;
        self.link(index, self.slot_of(deadline));
        Key { index, generation }
    }

    #[cold]
    fn grow_and_insert(&mut self, deadline: u64, payload: T) -> Key {
        let len = self.entries.len();
        assert!(len < NIL as usize, "a timing wheel holds {NIL} entries at most");
        self.entries.push(Entry {
            deadline,
            payload: None,
            prev: NIL,
            next: NIL,
            generation: NonZeroU32::MIN,
            slot: 0,
        });
        self.vacant = len as u32;
        self.insert(deadline, payload)
    }

    /// Takes an entry out, in constant time. `None` if the key is stale.
    #[inline]
    pub fn cancel(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        self.unlink(key.index);
        self.release(key.index)
    }

    /// Gives an entry a new deadline. `false` if the key is stale.
    ///
    /// A later deadline is only a store: the entry stays where it is until its slot is emptied, and moves then. So is
    /// an earlier one, unless it is the earliest in its slot: the slot is emptied in time for the others.
    #[inline]
    pub fn reset(&mut self, key: Key, deadline: u64) -> bool {
        let Some(entry) = self.get(key) else { return false };
        let may_stay = deadline >= self.slots[entry.slot as usize].earliest;
        if !may_stay {
            self.unlink(key.index);
        }
        self.entries[key.index as usize].deadline = deadline;
        if !may_stay {
            self.link(key.index, self.slot_of(deadline));
        }
        true
    }

    /// Moves time on to `now`, and every entry whose deadline is `now` or earlier to the end of `fired`.
    ///
    /// They come in the order of their deadlines. Equal ones come in the order of insertion, except that an entry that
    /// was `reset` may come anywhere among its equals. Time never goes back: a `now` before the latest one counts as
    /// the latest one.
    pub fn advance(&mut self, now: u64, fired: &mut Vec<T>) {
        let now = now.max(self.now);
        while let Some(slot) = self.first_slot() {
            let earliest = self.slots[slot].earliest;
            // A higher slot is due for emptying as soon as time enters it. At level 0 time may well be inside: an
            // entry that is not due has no better place, and is left alone until one is.
            let begin = if slot < SLOTS { earliest } else { earliest & !span(slot) };
            if begin > now {
                break;
            }
            self.open(slot, now, fired);
        }
        self.now = now;
    }

    /// A time before which nothing is due: `None` if the wheel is empty.
    ///
    /// It is the earliest deadline, exactly, unless the first slot has seen a `cancel` or a `reset`. Then it may be too
    /// early, and an `advance` to it corrects it.
    pub fn next_deadline(&self) -> Option<u64> {
        Some(self.slots[self.first_slot()?].earliest)
    }

    /// Makes [`next_deadline`](Self::next_deadline) the earliest deadline, exactly. Takes as long as the first slot is full.
    pub fn settle(&mut self) {
        while let Some(slot) = self.first_slot() {
            let Slot { earliest, head, .. } = self.slots[slot];
            let mut index = head;
            while let Some(entry) = self.entries.get(index as usize) {
                if entry.deadline == earliest {
                    return;
                }
                index = entry.next;
            }
            // Whoever was so early has gone, or been put off: the others go to where they belong.
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
            index = head;
            while let Some(entry) = self.entries.get(index as usize) {
                let (deadline, next) = (entry.deadline, entry.next);
                self.link(index, self.slot_of(deadline));
                index = next;
            }
        }
    }

    /// When to call `advance` next, so that timers of neighbouring ticks share a wake-up: `None` if the wheel is empty.
    ///
    /// It is less than `SHARED_TICKS` ticks after [`next_deadline`](Self::next_deadline), and late for none but timers
    /// that another one follows within that time. A timer that is alone is not made late, and neither is one that is
    /// overdue.
    pub fn next_wakeup(&self) -> Option<u64> {
        let slot = self.first_slot()?;
        let earliest = self.slots[slot].earliest;
        if slot >= SLOTS || earliest <= self.now {
            return Some(earliest);
        }
        let near = (self.occupied[0] >> slot) & ((1 << SHARED_TICKS) - 1);
        Some(self.latest[slot + near.ilog2() as usize])
    }

    /// Takes all entries out, in no particular order.
    pub fn drain(&mut self, mut f: impl FnMut(T)) {
        // One by one, so that the wheel is sound whenever `f` panics.
        for index in 0..self.entries.len() {
            if self.entries[index].payload.is_some() {
                self.unlink(index as u32);
                if let Some(payload) = self.release(index as u32) {
                    f(payload);
                }
            }
        }
    }

    /// The slot that a deadline belongs to as things stand now. The past belongs to the current tick.
    #[inline]
    fn slot_of(&self, deadline: u64) -> usize {
        let tick = deadline.max(self.now) >> TICK_BITS;
        let differing = tick ^ (self.now >> TICK_BITS);
        // Setting the low bits makes it level 0 if nothing differs.
        let level = (differing | (SLOTS as u64 - 1)).ilog2() / SLOT_BITS;
        level as usize * SLOTS + (tick >> (level * SLOT_BITS)) as usize % SLOTS
    }

    /// The occupied slot that is the first in time.
    fn first_slot(&self) -> Option<usize> {
        let level = self.occupied.iter().position(|&word| word != 0)?;
        Some(level * SLOTS + self.occupied[level].trailing_zeros() as usize)
    }

    /// Empties the first slot, which time has entered: fires what is due and puts the rest where it belongs now.
    fn open(&mut self, slot: usize, now: u64, fired: &mut Vec<T>) {
        let Slot { earliest, head, .. } = self.slots[slot];
        self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        // All others are due after the end of this slot: up to there, the order among its own entries is the order.
        let end = earliest.max(self.now) | span(slot);
        self.now = end.min(now);

        let mut due = mem::take(&mut self.due);
        let mut index = head;
        while let Some(entry) = self.entries.get(index as usize) {
            let (deadline, next) = (entry.deadline, entry.next);
            if deadline <= self.now {
                due.push((deadline, due.len() as u32, index));
            } else {
                self.link(index, self.slot_of(deadline));
            }
            index = next;
        }
        due.sort_unstable();
        for (.., index) in due.drain(..) {
            fired.extend(self.release(index));
        }
        self.due = due;
    }

    /// Appends an entry to the list of a slot.
    #[inline]
    fn link(&mut self, index: u32, slot: usize) {
        let entry = &mut self.entries[index as usize];
        let deadline = entry.deadline;
        entry.slot = slot as u16;
        entry.next = NIL;
        let empty = self.occupied[slot / SLOTS] & 1 << (slot % SLOTS) == 0;
        if empty {
            entry.prev = NIL;
            self.occupied[slot / SLOTS] |= 1 << (slot % SLOTS);
            self.slots[slot] = Slot { earliest: deadline, head: index, tail: index };
        } else {
            let Slot { earliest, head, tail } = self.slots[slot];
            entry.prev = tail;
            self.entries[tail as usize].next = index;
            self.slots[slot] = Slot { earliest: earliest.min(deadline), head, tail: index };
        }
        // Only level 0 has it: a timer that is far away is rounded when it has come near.
        if let Some(latest) = self.latest.get_mut(slot) {
            *latest = if empty { deadline } else { deadline.max(*latest) };
        }
    }

    /// Takes an entry out of the list that it is in.
    #[inline]
    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, slot, .. } = self.entries[index as usize];
        let slot = slot as usize;
        if prev == NIL && next == NIL {
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
            return;
        }
        match self.entries.get_mut(prev as usize) {
            Some(entry) => entry.next = next,
            None => self.slots[slot].head = next,
        }
        match self.entries.get_mut(next as usize) {
            Some(entry) => entry.prev = prev,
            None => self.slots[slot].tail = prev,
        }
    }

    /// Makes an entry vacant that is in no list, and its keys stale.
    #[inline]
    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.saturating_add(1);
        if entry.generation != RETIRED {
            entry.next = mem::replace(&mut self.vacant, index);
        }
        self.len -= 1;
        entry.payload.take()
    }
}

impl<T> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel::new()
    }
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("now", &self.now)
            .field("len", &self.len)
            .field("next_deadline", &self.next_deadline())
            .finish_non_exhaustive()
    }
}

/// The width of a slot in nanoseconds, less one: the bits of a time that change within the slot.
#[inline]
fn span(slot: usize) -> u64 {
    let level = (slot / SLOTS) as u32;
    (1 << (TICK_BITS + level * SLOT_BITS)) - 1
}
