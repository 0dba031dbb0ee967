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

/// Runs `f` with `local` as this thread's own reactor, which comes before one that was entered.
#[inline]
pub(crate) fn enter_own<R>(local: &Local, f: impl FnOnce() -> R) -> R {
    enter(local, f)
}

/// `own` is null or is valid until this returns or unwinds.
#[inline]
fn enter<R>(own: *const Local, f: impl FnOnce() -> R) -> R {
    struct Restore(*const Local);
    impl Drop for Restore {
        fn drop(&mut self) {
            OWN.set(self.0);
        }
    }
    let _restore = Restore(OWN.replace(own));
    f()
}

/// Runs `f` with `shared` as the reactor where this thread registers sources and timers.
pub(crate) fn enter_shared<R>(shared: &Arc<Shared>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<Shared>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            replace_entered(self.0.take());
        }
    }
    let _restore = Restore(replace_entered(Some(shared.clone())));
    enter(std::ptr::null(), f)
}

/// No thread-local any more, while the thread ends: then nothing was entered, and nothing can be.
fn replace_entered(entered: Option<Arc<Shared>>) -> Option<Arc<Shared>> {
    ENTERED.try_with(|place| place.replace(entered)).ok().flatten()
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
