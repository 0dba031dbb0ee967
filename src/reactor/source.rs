//! A registered descriptor: its readiness, and the reactor that reports to it.

use super::readiness::{ALL, Direction, Readiness, Seen, Wait};
use super::shared::Shared;
use super::{current, wake_all};
use crate::sync::{Mutex, lock};
use crate::sys::{self, Ready, Watched, fork};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
pub(crate) struct Source {
    pub readiness: Readiness,
    pub fd: RawFd,
    /// The process, as counted by [`fork`], that registered it.
    process: AtomicU32,
    home: Mutex<Home>,
}

// With the two counts of an Arc, 80 bytes.
#[cfg(all(target_pointer_width = "64", target_os = "linux", not(loom)))]
const _: () = assert!(size_of::<Source>() <= 64);

#[derive(Debug)]
struct Home {
    reactor: Arc<Shared>,
    token: u64,
}

impl Source {
    /// Registers `fd` with the reactor of the current thread, or else with the shared one.
    ///
    /// Until something is known, both directions count as ready, but for `not_yet`, where the first operation would
    /// most likely be in vain: the kernel will say so if it is not.
    ///
    /// Errors: see [`Shared::add`].
    pub fn register(fd: RawFd, not_yet: Ready) -> io::Result<Arc<Source>> {
        current::with_reactor(|reactor| {
            reactor.add(fd, |token| {
                let readiness = Readiness::new();
                // (Where others turn, who polls at once is not made to wait for them.)
                if !reactor.asks() {
                    readiness.clear(not_yet, readiness.seen());
                }
                let source = Arc::new(Source {
                    readiness,
                    fd,
                    process: AtomicU32::new(fork::generation()),
                    home: Mutex::new(Home { reactor: reactor.clone(), token }),
                });
                source.readiness.adopt(reactor.asks());
                source
            })
        })
    }

    /// Registers `fd` to be told of a part only, as a [`Watch`](super::Watch) is. Nothing counts as ready until the kernel
    /// has said so.
    pub fn register_watch(fd: RawFd, watched: Watched) -> io::Result<Arc<Source>> {
        current::with_reactor(|reactor| {
            reactor.add_watch(fd, watched, |token| {
                let readiness = Readiness::new();
                readiness.clear(ALL, readiness.seen());
                let source = Arc::new(Source {
                    readiness,
                    fd,
                    process: AtomicU32::new(fork::generation()),
                    home: Mutex::new(Home { reactor: reactor.clone(), token }),
                });
                source.readiness.adopt(reactor.asks());
                source
            })
        })
    }

    /// Changes what is watched.
    pub fn change_watch(self: &Arc<Self>, watched: Watched) -> io::Result<()> {
        self.find_home_watch(watched)?;
        let home = lock(&self.home);
        home.reactor.change_watch(self.fd, home.token, watched)?;
        // What is known was about something else. The kernel reports anew.
        self.readiness.clear(ALL, self.readiness.seen());
        Ok(())
    }

    /// Takes what the kernel has reported of `watched` since the last time; waits if that is nothing.
    pub fn poll_watch(
        self: &Arc<Self>,
        waiter: &mut Option<usize>,
        watched: Watched,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Ready>> {
        // Of an error one is told unasked, and it counts as everything. Nobody else is told of writing unasked.
        let heard = watched.interest | Ready::WRITABLE;
        loop {
            if self.process.load(Ordering::Relaxed) != fork::generation() {
                self.find_home_watch(watched)?;
            }
            let seen = self.readiness.seen();
            if seen.is_ready(heard) {
                self.readiness.clear(ALL, seen);
                self.forget(waiter);
                return Poll::Ready(Ok(seen.ready()));
            }
            let wait = match *waiter {
                Some(key) => self.readiness.poll_waiter(key, cx.waker()),
                None => {
                    let (wait, key) = self.readiness.insert(heard, cx.waker());
                    *waiter = key;
                    wait
                }
            };
            match wait {
                Wait::Ready => self.forget(waiter),
                Wait::Stored => return Poll::Pending,
                Wait::StoredAndAsks => {
                    self.ask(watched.interest, cx.waker());
                    return Poll::Pending;
                }
                Wait::Orphaned => self.find_home_watch(watched)?,
            }
        }
    }

    #[cold]
    fn find_home_watch(self: &Arc<Self>, watched: Watched) -> io::Result<()> {
        let mut home = lock(&self.home);
        if home.reactor.is_alive() {
            return Ok(());
        }
        current::with_reactor(|reactor| {
            self.move_by(&mut home, reactor, |make| reactor.add_watch(self.fd, watched, make))
        })
    }

    /// Takes the descriptor out of its reactor. To be called once, before the descriptor is closed or given away.
    pub fn deregister(&self) -> io::Result<()> {
        let home = lock(&self.home);
        home.reactor.remove(self.fd, home.token)
    }

    /// Waits, as the one task that polls this direction, until an operation is worth a try (which may be now).
    #[inline(always)]
    pub fn poll_ready(self: &Arc<Self>, direction: Direction, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.process.load(Ordering::Relaxed) == fork::generation()
            && self.readiness.wait(direction, cx.waker()) == Wait::Stored
        {
            return Poll::Pending;
        }
        self.poll_ready_slowly(direction, cx)
    }

    /// What `seen` has promised is used up. If the task, which is the one that polls this direction, has waited before, it
    /// waits again (`true`).
    #[inline(always)]
    pub fn clear_and_wait(&self, direction: Direction, seen: Seen, cx: &mut Context<'_>) -> bool {
        if self.process.load(Ordering::Relaxed) == fork::generation() {
            return self.readiness.clear_and_wait(direction, seen, cx.waker());
        }
        self.readiness.clear(direction.interest(), seen);
        false
    }

    #[cold]
    fn poll_ready_slowly(
        self: &Arc<Self>,
        direction: Direction,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.process.load(Ordering::Relaxed) != fork::generation() {
                self.find_home()?;
            }
            match self.readiness.wait(direction, cx.waker()) {
                Wait::Ready => return Poll::Ready(Ok(())),
                Wait::Stored => return Poll::Pending,
                Wait::StoredAndAsks => {
                    self.ask(direction.interest(), cx.waker());
                    return Poll::Pending;
                }
                Wait::Orphaned => self.find_home()?,
            }
        }
    }

    /// The same for descriptors whose rules we do not know: whatever was read or written, and by whomever, only the
    /// kernel is believed. Costs one poll(2) per wait.
    pub fn poll_level(self: &Arc<Self>, direction: Direction, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.distrust(direction.interest());
        self.poll_ready(direction, cx)
    }

    /// Like [`poll_ready`](Source::poll_ready), with a waiter of its own: any number of tasks may wait.
    /// `waiter` is `None` before it waits, and is to be given to [`forget`](Source::forget) if it is dropped waiting.
    pub fn poll_waiter(
        self: &Arc<Self>,
        waiter: &mut Option<usize>,
        interest: Ready,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.process.load(Ordering::Relaxed) != fork::generation() {
                self.find_home()?;
            }
            let wait = match *waiter {
                Some(key) => self.readiness.poll_waiter(key, cx.waker()),
                None => {
                    let (wait, key) = self.readiness.insert(interest, cx.waker());
                    *waiter = key;
                    wait
                }
            };
            match wait {
                Wait::Ready => {
                    self.forget(waiter);
                    return Poll::Ready(Ok(()));
                }
                Wait::Stored => return Poll::Pending,
                Wait::StoredAndAsks => {
                    self.ask(interest, cx.waker());
                    return Poll::Pending;
                }
                Wait::Orphaned => self.find_home()?,
            }
        }
    }

    pub fn forget(&self, waiter: &mut Option<usize>) {
        if let Some(key) = waiter.take() {
            self.readiness.remove(key);
        }
    }

    /// Makes the readiness of `interest` what the kernel says at this instant. Somebody may have read or written
    /// without our knowledge: what is cached may be too much. And an edge may have been used up by somebody else:
    /// it may be too little.
    pub fn distrust(&self, interest: Ready) {
        let mut seen = self.readiness.seen();
        loop {
            // An error (a closed descriptor) is left to the operation that will be tried.
            let level = sys::level(self.fd, interest).unwrap_or(interest);
            if level.intersects(interest) {
                // Whoever else waits in this direction may have just lost the edge that was his: he is told as well.
                let mut wakers = Vec::new();
                self.readiness.publish(level, |_| false, &mut wakers);
                return wake_all(&mut wakers);
            }
            self.readiness.clear(interest, seen);
            seen = self.readiness.seen();
            if !seen.is_ready(interest) {
                return;
            }
            // There was an event meanwhile, of whatever direction: so it was not cleared, and the answer may be old.
        }
    }

    /// Somebody has used up what the reactor has not heard of, and now may never: this is the event, for those who wait.
    #[cold]
    pub fn tell(&self, direction: Direction) {
        let mut wakers = Vec::new();
        self.readiness.publish(direction.interest(), |_| false, &mut wakers);
        wake_all(&mut wakers);
    }

    #[cold]
    fn ask(&self, interest: Ready, waker: &Waker) {
        let home = lock(&self.home);
        home.reactor.asked(self.fd, home.token, interest, waker);
    }

    /// Its reactor has stopped, or belongs to the process that forked this one: on to the one of whoever polls now.
    #[cold]
    fn find_home(self: &Arc<Self>) -> io::Result<()> {
        let mut home = lock(&self.home);
        if home.reactor.is_alive() {
            return Ok(());
        }
        current::with_reactor(|reactor| self.move_to(&mut home, reactor))
    }

    fn move_to(self: &Arc<Self>, home: &mut Home, reactor: &Arc<Shared>) -> io::Result<()> {
        self.move_by(home, reactor, |make| reactor.add(self.fd, make))
    }

    fn move_by(
        self: &Arc<Self>,
        home: &mut Home,
        reactor: &Arc<Shared>,
        add: impl FnOnce(&mut dyn FnMut(u64) -> Arc<Source>) -> io::Result<Arc<Source>>,
    ) -> io::Result<()> {
        let _ = home.reactor.remove(self.fd, home.token);
        add(&mut |token| {
            *home = Home { reactor: reactor.clone(), token };
            // Here, where that one cannot stop: if it does later, it finds the source in its table.
            self.readiness.adopt(reactor.asks());
            self.clone()
        })?;
        self.process.store(fork::generation(), Ordering::Relaxed);
        Ok(())
    }

    /// Its reactor, which has stopped, is followed by this one.
    #[cfg(all(test, loom))]
    pub fn follow(self: &Arc<Self>, reactor: &Arc<Shared>) -> io::Result<()> {
        self.move_to(&mut lock(&self.home), reactor)
    }

    /// [`register`](Source::register) with this reactor.
    #[cfg(test)]
    pub fn register_with(reactor: &Arc<Shared>, fd: RawFd) -> io::Result<Arc<Source>> {
        current::enter_shared(reactor, || Source::register(fd, Ready::default()))
    }
}
