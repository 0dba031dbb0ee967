//! What events share: a descriptor that is watched, a signal that is caught.

use super::one::Inner;
use super::{Error, Kinds};
use crate::io::Signals;
use crate::reactor::{Interest, Watch};
use std::io;
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A descriptor that events are, were, or will be attached to: one registration for all of them. While none is, it is not
/// registered, and keeps what it has allocated.
///
/// One line of the cache: with many of them, an event costs what has to be fetched for it.
#[repr(align(64))]
pub(super) struct File {
    watch: Watch,
    /// Of each kind one at most; in the order in which they were attached, first of all.
    events: [Option<Rc<Inner>>; 3],
}

const _: () = assert!(size_of::<File>() == 64);

impl File {
    /// For an event that is to come. To be called in the base's executor.
    pub fn new(event: &Inner) -> io::Result<File> {
        let watch = Watch::new(&event.fd.get(), Interest::NONE, event.kinds.get().trigger())?;
        Ok(File { watch, events: [const { None }; 3] })
    }

    pub fn events(&self) -> impl Iterator<Item = &Rc<Inner>> {
        self.events.iter().map_while(Option::as_ref)
    }

    /// `waker` is the same always.
    #[inline]
    pub fn add(&mut self, event: &Rc<Inner>, waker: &Waker) -> Result<(), Error> {
        let kinds = event.kinds.get();
        let interest = self.watch.interest();
        if !(interest & kinds.interest()).is_empty() {
            return Err(Error::Exists);
        }
        if self.watch.trigger() != kinds.trigger() {
            return Err(Error::Invalid(
                "another event has the descriptor with the other trigger (Kinds::EDGE)",
            ));
        }
        self.watch.set_interest(interest | kinds.interest())?;
        wait(&mut self.watch, waker);
        self.push(event);
        Ok(())
    }

    /// Nobody is attached to it, and the last one had the other trigger.
    pub fn has_old_trigger(&self, event: &Inner) -> bool {
        self.events[0].is_none() && self.watch.trigger() != event.kinds.get().trigger()
    }

    /// There is room: an event has a kind that no other one has.
    fn push(&mut self, event: &Rc<Inner>) {
        if let Some(place) = self.events.iter_mut().find(|place| place.is_none()) {
            *place = Some(event.clone());
        }
    }

    /// The caller has another reference to the event: no destructor of the user's runs here.
    #[inline(always)]
    pub fn remove(&mut self, event: &Rc<Inner>, waker: impl FnOnce() -> Waker) {
        if self.events[1].is_some() {
            return self.remove_one(event, &waker());
        }
        // Nearly always it is the only one.
        self.events[0] = None;
        self.watch.stop();
    }

    /// Others stay.
    #[inline(never)]
    fn remove_one(&mut self, event: &Rc<Inner>, waker: &Waker) {
        let at = self.events().position(|other| Rc::ptr_eq(other, event));
        if let Some(at) = at {
            self.events[at] = None;
            self.events[at..].rotate_left(1);
        }
        let interest = self.events().fold(Interest::NONE, |all, other| all | other.kinds.get().interest());
        // An error means that the descriptor has been closed. Then nobody hears of it any more, as documented.
        let _ = self.watch.set_interest(interest);
        wait(&mut self.watch, waker);
    }

    /// What has happened, and waits for more. After that, the next turn asks the kernel anew.
    #[inline]
    pub fn collect(&mut self, waker: &Waker) -> io::Result<Kinds> {
        match self.watch.take(&mut Context::from_waker(waker)) {
            Poll::Ready(found) => Ok(Kinds::found(found?)),
            Poll::Pending => Ok(Kinds::NONE),
        }
    }
}

/// Leaves the waker where the next turn finds it.
fn wait(watch: &mut Watch, waker: &Waker) {
    if watch.poll_ready(&mut Context::from_waker(waker)).is_ready() {
        // Nothing has been reported yet, so this is an error, which comes again.
        waker.wake_by_ref();
    }
}

/// A signal that events are attached to.
pub(super) struct Caught {
    waker: Waker,
    signals: Signals,
    /// It has come when nobody could be called.
    is_early: bool,
    pub events: Vec<Rc<Inner>>,
}

impl Caught {
    pub fn new(waker: Waker, event: &Rc<Inner>) -> Result<Caught, Error> {
        let signals = Signals::new([event.fd.get()])?;
        let mut caught = Caught { waker, signals, is_early: false, events: vec![event.clone()] };
        if !caught.collect()?.is_empty() {
            caught.is_early = true;
            caught.waker.wake_by_ref();
        }
        Ok(caught)
    }

    /// Is anyone left?
    pub fn remove(&mut self, event: &Rc<Inner>) -> bool {
        // The caller has another reference: no destructor of the user's runs here.
        self.events.retain(|other| !Rc::ptr_eq(other, event));
        !self.events.is_empty()
    }

    /// Has it come? Waits for more.
    pub fn collect(&mut self) -> io::Result<Kinds> {
        let cx = &mut Context::from_waker(&self.waker);
        let mut has_come = mem::take(&mut self.is_early);
        while let Poll::Ready(signal) = self.signals.poll_next(cx) {
            signal?;
            has_come = true;
        }
        Ok(if has_come { Kinds::SIGNAL } else { Kinds::NONE })
    }
}
