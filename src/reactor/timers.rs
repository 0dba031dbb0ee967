//! One deadline, set in whichever reactor concerns the thread that waits for it.

use super::current;
use super::shared::Shared;
use super::wheel::Key;
use super::{clock, registry};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

/// A deadline that is set, and the waker that goes with it.
#[derive(Debug)]
pub(crate) enum Alarm {
    /// In the wheel of the thread that drives the reactor with this id. Nobody else may touch it, so others write
    /// a letter. The id, not the reactor: this way costs no reference counting.
    Own { reactor: u64, key: Key },
    /// In a wheel that all threads share.
    Shared { reactor: Arc<Shared>, key: Key },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Pending,
    /// Or moved by another thread after it fired: look at the clock.
    Fired,
    /// The thread does not drive that reactor, or it has stopped: set it anew.
    Lost,
}

impl Alarm {
    /// `None`: it is time already. (See [`Local::is_past`](super::local::Local::is_past).)
    ///
    /// # Panics
    ///
    /// If there is no reactor yet and none can be made (no descriptors left).
    #[inline]
    pub fn set(when: Instant, waker: &Waker) -> Option<Alarm> {
        let deadline = clock::nanos(when);
        current::with_own(|own| match own {
            Some(local) if local.is_past(deadline) => None,
            Some(local) if local.shared.is_of_this_process() => {
                let waker = waker.clone();
                let key = local.wheel.borrow_mut().insert(deadline, waker);
                Some(Alarm::Own { reactor: local.shared.id, key })
            }
            _ if when <= current::now() => None,
            _ => Some(Alarm::set_shared(deadline, waker)),
        })
    }

    fn set_shared(deadline: u64, waker: &Waker) -> Alarm {
        let mut waker = waker.clone();
        loop {
            let reactor = match current::entered_or_fallback() {
                Ok(reactor) => reactor,
                Err(e) => panic!("a timer needs a reactor, and the shared one cannot be made: {e}"),
            };
            match reactor.set_timer(deadline, waker) {
                Ok(key) => return Alarm::Shared { reactor, key },
                // Stopped just now: the next one found is another.
                Err(back) => waker = back,
            }
        }
    }

    /// Has `when`, which it is set to, passed in a wheel that nobody need have turned since? A thread in `block_on` does so
    /// only when its future returns. (Who drives a reactor of its own comes back to it.)
    #[inline]
    pub fn is_overdue(&self, when: Instant) -> bool {
        match self {
            Alarm::Own { .. } => false,
            Alarm::Shared { reactor, .. } => when <= reactor.clock.now(),
        }
    }

    /// What became of it. While pending, `waker` is the one to wake.
    #[inline]
    pub fn poll(&self, waker: &Waker) -> State {
        match self {
            Alarm::Own { reactor, key } => current::with_own(|own| match own {
                Some(local) if local.shared.id == *reactor && local.shared.is_of_this_process() => {
                    let same = match local.wheel.borrow_mut().get_mut(*key) {
                        None => return State::Fired,
                        Some(slot) => slot.will_wake(waker),
                    };
                    if !same {
                        // A waker is cloned and dropped while nothing is borrowed: it may do anything.
                        let clone = waker.clone();
                        let replaced =
                            local.wheel.borrow_mut().get_mut(*key).map(|slot| std::mem::replace(slot, clone));
                        drop(replaced);
                    }
                    State::Pending
                }
                _ => State::Lost,
            }),
            Alarm::Shared { reactor, key } => {
                if !reactor.is_of_this_process() {
                    State::Lost
                } else if reactor.update_timer(*key, waker) {
                    State::Pending
                } else if reactor.is_alive() {
                    State::Fired
                } else {
                    State::Lost
                }
            }
        }
    }

    /// Moves it, and keeps the waker. `false`: it has fired, or cannot be reached; set a new one.
    pub fn reset(&self, when: Instant) -> bool {
        self.reset_to(clock::nanos(when))
    }

    /// Moves it to the end of time, and keeps the waker. `false`: as in [`reset`](Alarm::reset).
    pub fn put_off(&self) -> bool {
        self.reset_to(u64::MAX)
    }

    fn reset_to(&self, deadline: u64) -> bool {
        match self {
            Alarm::Own { reactor, key } => current::with_own(|own| match own {
                Some(local) if local.shared.id == *reactor => {
                    // It may have been elsewhere: what another thread wrote must not overtake this.
                    local.read_mail();
                    local.wheel.borrow_mut().reset(*key, deadline)
                }
                _ => match registry::find(*reactor) {
                    Some(shared) => {
                        shared.mail_reset(*key, deadline);
                        true
                    }
                    None => false,
                },
            }),
            Alarm::Shared { reactor, key } => reactor.reset_timer(*key, deadline),
        }
    }

    #[inline]
    pub fn cancel(self) {
        match self {
            Alarm::Own { reactor, key } => {
                let waker = current::with_own(|own| match own {
                    Some(local) if local.shared.id == reactor => local.wheel.borrow_mut().cancel(key),
                    _ => {
                        if let Some(shared) = registry::find(reactor) {
                            shared.mail_cancel(key);
                        }
                        None
                    }
                });
                drop(waker);
            }
            Alarm::Shared { reactor, key } => reactor.cancel_timer(key),
        }
    }
}
