//! The wakers that an event base leaves with the reactor.
//!
//! Only the base's own thread turns its reactor, so nobody has to be woken: a waker writes down whose news it is, and the base
//! looks at the list after each turn. All that a waker needs for that are two numbers, of the base and of the [`Key`], so it
//! **is** these numbers, where others have a pointer. It costs no allocation and counts no references.
//!
//! A number says who is to be looked at, and nothing more: whoever is rung for nothing, because the waker is older than the
//! owner of a number, is looked at in vain.

use slab::Slab;
use std::cell::RefCell;
use std::ptr;
use std::rc::Rc;
use std::task::{RawWaker, RawWakerVTable, Waker};

/// What has news: a place in one of the tables of the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(usize);

/// What the place is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    File,
    Signal,
    Timer,
}

impl Key {
    pub fn file(index: usize) -> Key {
        Key(index << 2)
    }

    pub fn signal(index: usize) -> Key {
        Key(index << 2 | 1)
    }

    pub fn timer(index: usize) -> Key {
        Key(index << 2 | 2)
    }

    pub fn index(self) -> usize {
        self.0 >> 2
    }

    pub fn of(self) -> Of {
        match self.0 & 3 {
            0 => Of::File,
            1 => Of::Signal,
            _ => Of::Timer,
        }
    }
}

/// The keys that have been rung, in this order.
type Rung = Rc<RefCell<Vec<Key>>>;

thread_local! {
    /// The lists of the bases of this thread, by their numbers.
    static BASES: RefCell<Slab<Rung>> = const { RefCell::new(Slab::new()) };
}

/// The bells of one base.
pub(super) struct Bells {
    number: usize,
    rung: Rung,
}

/// The keys have the lower bits: a million places in each table on systems with 32 bits.
const KEY_BITS: u32 = if usize::BITS >= 64 { 40 } else { 22 };
const KEY_MAX: usize = (1 << KEY_BITS) - 1;

impl Bells {
    pub fn new() -> Bells {
        let rung = Rung::default();
        let number = BASES.with_borrow_mut(|bases| bases.insert(rung.clone()));
        assert!(number <= usize::MAX >> KEY_BITS, "a thread cannot have {number} event bases");
        Bells { number, rung }
    }

    pub fn waker(&self, key: Key) -> Waker {
        assert!(key.0 <= KEY_MAX, "an event base cannot have {} events", key.index());
        let data = ptr::without_provenance(self.number << KEY_BITS | key.0);
        // SAFETY: the data is a number that nobody follows, so clones and drops have nothing to keep. On another thread, to
        // wake rings for whoever has the number there, or for nobody, which is allowed as well.
        unsafe { Waker::new(data, &VTABLE) }
    }

    pub fn ring(&self, key: Key) {
        self.rung.borrow_mut().push(key);
    }

    /// Rings if this is a waker of this base; says whether it is.
    #[inline]
    pub fn note(&self, waker: &Waker) -> bool {
        let data = waker.data().addr();
        let is_ours = ptr::eq(waker.vtable(), &VTABLE) && data >> KEY_BITS == self.number;
        if is_ours {
            self.ring(Key(data & KEY_MAX));
        }
        is_ours
    }

    pub fn is_silent(&self) -> bool {
        self.rung.borrow().is_empty()
    }

    /// Takes all that have been rung; `room`, which is empty, is for those to come.
    pub fn take(&self, room: Vec<Key>) -> Vec<Key> {
        self.rung.replace(room)
    }
}

impl Drop for Bells {
    fn drop(&mut self) {
        // No thread-local any more, while the thread ends: then there is no list either.
        let _ = BASES.try_with(|bases| bases.borrow_mut().try_remove(self.number));
    }
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(|data| RawWaker::new(data, &VTABLE), wake, wake, |_| {});

fn wake(data: *const ()) {
    let _ = BASES.try_with(|bases| {
        if let Some(rung) = bases.borrow().get(data.addr() >> KEY_BITS) {
            rung.borrow_mut().push(Key(data.addr() & KEY_MAX));
        }
    });
}
