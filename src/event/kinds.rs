//! What an event waits for, and what it has met.

use crate::reactor::{Interest, Trigger};
use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};

/// What an event waits for, with its options; and what it was called for. A set of bits.
///
/// ```
/// use wakewheel::event::Kinds;
///
/// let kinds = Kinds::READ | Kinds::TIMEOUT | Kinds::PERSIST;
/// assert!(kinds.contains(Kinds::READ));
/// assert!(!kinds.contains(Kinds::WRITE));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Kinds(u8);

impl Kinds {
    /// Nothing.
    pub const NONE: Kinds = Kinds(0);
    /// There is something to read, or the end; or a hang-up or an error.
    pub const READ: Kinds = Kinds(1);
    /// There is room to write; or a hang-up or an error.
    pub const WRITE: Kinds = Kinds(1 << 1);
    /// The time given to [`attach`](super::Event::attach) has passed.
    pub const TIMEOUT: Kinds = Kinds(1 << 2);
    /// The signal has come of which the number was given as the descriptor.
    pub const SIGNAL: Kinds = Kinds(1 << 3);
    /// The peer of a connection has hung up, or has shut down its writing side. What it sent before can still be read.
    pub const PEER_CLOSED: Kinds = Kinds(1 << 4);
    /// Option: the event stays attached when it is called.
    pub const PERSIST: Kinds = Kinds(1 << 5);
    /// Option: called once, until there is something new, instead of in each iteration for as long as it is ready.
    pub const EDGE: Kinds = Kinds(1 << 6);

    /// Those that concern a descriptor.
    pub(super) const FILE: Kinds = Kinds(Kinds::READ.0 | Kinds::WRITE.0 | Kinds::PEER_CLOSED.0);
    /// Those that can be waited for.
    pub(super) const REASONS: Kinds = Kinds(Kinds::FILE.0 | Kinds::TIMEOUT.0 | Kinds::SIGNAL.0);

    /// Both together: `|`, for constants.
    pub const fn or(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    /// Are all bits of `other` among these?
    #[inline]
    pub const fn contains(self, other: Kinds) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is one of the bits of `other` among these?
    #[inline]
    pub const fn intersects(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    /// Is there none?
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What the reactor has to wait for.
    #[inline]
    pub(super) fn interest(self) -> Interest {
        PAIRS
            .iter()
            .fold(Interest::NONE, |all, &(kind, bit)| if self.contains(kind) { all | bit } else { all })
    }

    #[inline]
    pub(super) fn found(interest: Interest) -> Kinds {
        PAIRS
            .iter()
            .fold(Kinds::NONE, |all, &(kind, bit)| if interest.contains(bit) { all | kind } else { all })
    }

    #[inline]
    pub(super) fn trigger(self) -> Trigger {
        if self.contains(Kinds::EDGE) { Trigger::Edge } else { Trigger::Level }
    }
}

const PAIRS: [(Kinds, Interest); 3] =
    [(Kinds::READ, Interest::READ), (Kinds::WRITE, Interest::WRITE), (Kinds::PEER_CLOSED, Interest::CLOSED)];

impl BitOr for Kinds {
    type Output = Kinds;
    fn bitor(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
}

impl BitOrAssign for Kinds {
    fn bitor_assign(&mut self, other: Kinds) {
        self.0 |= other.0;
    }
}

impl BitAnd for Kinds {
    type Output = Kinds;
    fn bitand(self, other: Kinds) -> Kinds {
        Kinds(self.0 & other.0)
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Kinds::READ, "READ"),
            (Kinds::WRITE, "WRITE"),
            (Kinds::TIMEOUT, "TIMEOUT"),
            (Kinds::SIGNAL, "SIGNAL"),
            (Kinds::PEER_CLOSED, "PEER_CLOSED"),
            (Kinds::PERSIST, "PERSIST"),
            (Kinds::EDGE, "EDGE"),
        ];
        let mut names = names.iter().filter(|(kind, _)| self.contains(*kind)).map(|(_, name)| *name);
        f.write_str(names.next().unwrap_or("NONE"))?;
        names.try_for_each(|name| write!(f, " | {name}"))
    }
}

/// Which callbacks of an iteration come first. All levels are run in each iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Before all others.
    High,
    /// The usual one.
    #[default]
    Middle,
    /// After all others.
    Low,
}
