//! The shared reactor: it serves every thread that has none of its own, whatever executor runs there.
//!
//! It is driven by whoever sits in its one **[seat](Seat)**. A thread in `block_on` takes the seat whenever its future is
//! pending, and so does its own waiting: no other thread is involved. If the seat is taken, it parks, and the one in
//! the seat wakes it. Only where nobody may come to sit, because the futures are run by an executor that knows
//! nothing of us, or because the thread in the seat has left it to poll its future and does not come back, a
//! **helper** thread is needed. It is started when the first such waiter appears, and then
//!
//! - sits in the seat for good as long as no thread is in `block_on`;
//! - otherwise watches: while the seat is busy waiting it sleeps without a time-out; when the seat has been left, it
//!   looks every few milliseconds whether anything goes on, and takes it over if not.

use super::clock::Clock;
use super::current;
use super::seat::Seat;
use super::shared::Shared;
use crate::sys::fork::PerProcess;
use crate::sys::slack::Precise;
use crate::sys::{Backend, Poller};
use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread;

static SEAT: PerProcess<OnceLock<Seat>> = PerProcess::new(OnceLock::new);

/// The seat of the shared reactor.
fn seat() -> io::Result<&'static Seat> {
    let cell = SEAT.get();
    if let Some(seat) = cell.get() {
        return Ok(seat);
    }
    let made = Seat::new(Shared::new(Backend::from_env()?, Clock::Real, true)?, start_helper);
    Ok(cell.get_or_init(|| made))
}

fn start_helper() -> io::Result<()> {
    let seat = seat()?;
    let help = || {
        let _precise = Precise::new();
        loop {
            seat.help();
        }
    };
    thread::Builder::new().name("wakewheel".into()).spawn(help).map(drop)
}

pub(crate) fn shared() -> io::Result<Arc<Shared>> {
    seat().map(|seat| seat.shared.clone())
}

/// What it waits in. Of this process, for ever.
pub(crate) fn poller() -> io::Result<&'static Poller> {
    seat().map(|seat| &seat.shared.poller)
}

thread_local! {
    /// The waker (its data) of the innermost `block_on` of this thread, if that drives the shared reactor.
    static COMES: Cell<*const ()> = const { Cell::new(ptr::null()) };
}

/// `waker` is left with the shared reactor: somebody has to turn it.
///
/// For its own waker, a thread in `block_on` comes to the seat by itself. Any other may be that of an executor which keeps
/// the thread for itself, even inside of the call.
pub(crate) fn ensure_driven(waker: &Waker) {
    if COMES.get() != waker.data() {
        if let Ok(seat) = seat() {
            seat.ensure_helper();
        }
    }
}

/// `waker` has been left with one of its sources. To be called without any lock.
pub(crate) fn waits(waker: &Waker) {
    if COMES.get() != waker.data() {
        // It is there: a source has been registered with it.
        if let Some(seat) = SEAT.get().get() {
            seat.ensure_helper();
            seat.waits(COMES.with(|here| ptr::from_ref(here).addr()));
        }
    }
}

/// A call of `block_on`. It makes no reactor unless it has to wait.
pub(crate) struct Call {
    blocking: Option<Blocking>,
    outer: *const (),
}

impl Call {
    /// `waker`: the call's own.
    pub fn new(waker: &Waker) -> Call {
        let comes = current::with_own(|own| if own.is_none() { waker.data() } else { ptr::null() });
        Call { blocking: None, outer: COMES.replace(comes) }
    }

    /// The seat of the shared reactor, which this thread will come to.
    ///
    /// # Panics
    ///
    /// If there is none yet and none can be made.
    pub fn wait(&mut self) -> &'static Seat {
        // A new one after a fork.
        let blocking = self.blocking.take().filter(Blocking::is_of_this_process);
        self.blocking.insert(blocking.unwrap_or_else(Blocking::new)).0
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        COMES.set(self.outer);
    }
}

/// A thread waits in `block_on`, or will wait again, from making this until dropping it.
struct Blocking(&'static Seat);

impl Blocking {
    /// # Panics
    ///
    /// If there is no shared reactor yet and none can be made.
    fn new() -> Blocking {
        match seat() {
            Ok(seat) => {
                seat.come();
                Blocking(seat)
            }
            Err(e) => panic!("block_on needs a reactor, and the shared one cannot be made: {e}"),
        }
    }

    /// Not any more after a fork.
    fn is_of_this_process(&self) -> bool {
        self.0.shared.is_of_this_process()
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        if self.is_of_this_process() {
            self.0.go();
        }
    }
}
