//! What events share: a descriptor that is watched, a signal that is caught. And the bell that says that there is news of it.

use super::one::Inner;
use super::{Error, Kinds};
use crate::io::Signals;
use crate::reactor::{Interest, Trigger, Watch};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

/// The waker that an event base leaves with the reactor: it writes down who has news. Only the base's thread turns the
/// reactor, so nobody has to be woken; the list is looked at after each turn.
pub(super) struct Bell {
    pub key: usize,
    pub is_timer: bool,
    is_rung: AtomicBool,
    list: Arc<Rung>,
}

/// The bells that have been rung, in this order.
pub(super) type Rung = Mutex<Vec<Arc<Bell>>>;

impl Bell {
    pub fn waker(key: usize, is_timer: bool, list: &Arc<Rung>) -> Waker {
        Waker::from(Arc::new(Bell { key, is_timer, is_rung: AtomicBool::new(false), list: list.clone() }))
    }

    pub fn reset(&self) {
        self.is_rung.store(false, Ordering::Relaxed);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if !self.is_rung.swap(true, Ordering::Relaxed) {
            let list = self.list.clone();
            list.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(self);
        }
    }
}

/// A descriptor that events are attached to: one registration for all of them.
pub(super) struct File {
    pub key: usize,
    waker: Waker,
    watch: RefCell<Watch>,
    /// Of each kind one at most, in the order in which they were attached.
    pub events: RefCell<Vec<Rc<Inner>>>,
}

impl File {
    /// With its first event. To be called in the base's executor, as all of this.
    pub fn new(key: usize, waker: Waker, event: &Rc<Inner>) -> Result<File, Error> {
        let kinds = event.kinds.get();
        let mut watch = Watch::new(&event.fd.get(), kinds.interest(), kinds.trigger())?;
        wait(&mut watch, &waker);
        Ok(File { key, waker, watch: RefCell::new(watch), events: RefCell::new(vec![event.clone()]) })
    }

    pub fn add(&self, event: &Rc<Inner>) -> Result<(), Error> {
        let kinds = event.kinds.get();
        let wanted = kinds & Kinds::FILE;
        if self.events.borrow().iter().any(|other| other.kinds.get().intersects(wanted)) {
            return Err(Error::Exists);
        }
        let mut watch = self.watch.borrow_mut();
        if watch.trigger() != kinds.trigger() {
            return Err(Error::Invalid(
                "another event has the descriptor with the other trigger (Kinds::EDGE)",
            ));
        }
        let interest = watch.interest() | kinds.interest();
        watch.set_interest(interest)?;
        wait(&mut watch, &self.waker);
        self.events.borrow_mut().push(event.clone());
        Ok(())
    }

    /// Is anyone left?
    pub fn remove(&self, event: &Rc<Inner>) -> bool {
        let interest = {
            let mut events = self.events.borrow_mut();
            // The caller has another reference: no destructor of the user's runs here.
            events.retain(|other| !Rc::ptr_eq(other, event));
            events.iter().fold(Interest::NONE, |all, other| all | other.kinds.get().interest())
        };
        if interest.is_empty() {
            return false;
        }
        let mut watch = self.watch.borrow_mut();
        // An error means that the descriptor has been closed. Then nobody hears of it any more, as documented.
        let _ = watch.set_interest(interest);
        wait(&mut watch, &self.waker);
        true
    }

    /// What has happened, and waits for more. After that, the next turn asks the kernel anew.
    pub fn collect(&self) -> io::Result<Kinds> {
        let cx = &mut Context::from_waker(&self.waker);
        let mut watch = self.watch.borrow_mut();
        let Poll::Ready(found) = watch.poll_ready(cx) else { return Ok(Kinds::NONE) };
        let mut found = found?;
        if let Poll::Ready(more) = watch.poll_ready(cx) {
            found |= more?;
            self.waker.wake_by_ref();
        }
        debug_assert!(watch.trigger() == Trigger::Edge || watch.interest().contains(found));
        Ok(Kinds::found(found))
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
    pub key: usize,
    waker: Waker,
    signals: RefCell<Signals>,
    /// It has come when nobody could be called.
    early: Cell<bool>,
    pub events: RefCell<Vec<Rc<Inner>>>,
}

impl Caught {
    pub fn new(key: usize, waker: Waker, event: &Rc<Inner>) -> Result<Caught, Error> {
        let signals = RefCell::new(Signals::new([event.fd.get()])?);
        let caught = Caught {
            key,
            waker,
            signals,
            early: Cell::new(false),
            events: RefCell::new(vec![event.clone()]),
        };
        if caught.collect()? {
            caught.early.set(true);
            caught.waker.wake_by_ref();
        }
        Ok(caught)
    }

    /// Has it come? Waits for more.
    pub fn collect(&self) -> io::Result<bool> {
        let cx = &mut Context::from_waker(&self.waker);
        let mut signals = self.signals.borrow_mut();
        let mut has_come = self.early.take();
        while let Poll::Ready(signal) = signals.poll_next(cx) {
            signal?;
            has_come = true;
        }
        Ok(has_come)
    }
}
