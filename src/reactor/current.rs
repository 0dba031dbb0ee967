//! Which reactor a thread uses: the one that it drives, the one that it has entered by a handle, or the shared one.

use super::clock::Clock;
use super::fallback;
use super::local::Local;
use super::shared::Shared;
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::time::Instant;

thread_local! {
    /// The reactor that this thread drives, while it runs in [`enter_own`].
    static OWN: Cell<*const Local> = const { Cell::new(std::ptr::null()) };
    /// The reactor that this thread has entered by a handle.
    static ENTERED: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

/// Puts the old state back, also after a panic.
struct Restore {
    own: *const Local,
    entered: Option<Arc<Shared>>,
}

impl Drop for Restore {
    fn drop(&mut self) {
        OWN.set(self.own);
        replace_entered(self.entered.take());
    }
}

/// No thread-local any more, while the thread ends: then nothing was entered, and nothing can be.
fn replace_entered(entered: Option<Arc<Shared>>) -> Option<Arc<Shared>> {
    ENTERED.try_with(|place| place.replace(entered)).ok().flatten()
}

/// Runs `f` with `local` as this thread's own reactor.
pub(crate) fn enter_own<R>(local: &Local, f: impl FnOnce() -> R) -> R {
    enter(local, None, f)
}

/// Runs `f` with `shared` as the reactor where this thread registers sources and timers.
pub(crate) fn enter_shared<R>(shared: &Arc<Shared>, f: impl FnOnce() -> R) -> R {
    enter(std::ptr::null(), Some(shared.clone()), f)
}

/// `own` is null or is valid until this returns or unwinds.
fn enter<R>(own: *const Local, entered: Option<Arc<Shared>>, f: impl FnOnce() -> R) -> R {
    // Whoever is in already, as a callback in its loop, is in.
    let is_in = !own.is_null() && OWN.get() == own;
    let _restore = (!is_in).then(|| Restore { own: OWN.replace(own), entered: replace_entered(entered) });
    f()
}

/// The reactor that this thread drives.
#[inline]
pub(crate) fn with_own<R>(f: impl FnOnce(Option<&Local>) -> R) -> R {
    let own = OWN.get();
    // SAFETY: the pointer comes from `enter_own` only, which holds the reference that it came from until the old one is
    // back, also when it unwinds. A `Local` is not Sync, and the pointer never leaves the thread.
    f(unsafe { own.as_ref() })
}

/// The reactor where this thread registers sources.
pub(crate) fn with_reactor<R>(mut f: impl FnMut(&Arc<Shared>) -> io::Result<R>) -> io::Result<R> {
    with_own(|own| match own {
        Some(local) if local.shared.is_of_this_process() => f(&local.shared),
        _ => loop {
            let reactor = entered_or_fallback()?;
            match f(&reactor) {
                // Stopped just now: the next one found is another.
                Err(_) if !reactor.is_alive() => {}
                result => return result,
            }
        },
    })
}

/// The reactor where this thread sets timers, unless it has its own.
pub(crate) fn entered_or_fallback() -> io::Result<Arc<Shared>> {
    // No thread-local any more, while the thread ends: the shared one is still there.
    let entered = ENTERED.try_with(|entered| entered.borrow().clone()).ok().flatten();
    match entered {
        Some(shared) if shared.is_alive() => Ok(shared),
        _ => fallback::shared(),
    }
}

/// The time of this thread's reactor.
pub(crate) fn now() -> Instant {
    with_own(|own| match own {
        Some(local) => local.shared.clock.now(),
        None => ENTERED
            .try_with(|entered| entered.borrow().as_ref().map(|shared| shared.clock.now()))
            .ok()
            .flatten()
            .unwrap_or_else(|| Clock::Real.now()),
    })
}
