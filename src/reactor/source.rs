//! A registered descriptor: its readiness, and the reactor that reports to it.

use super::driver::no_tasks;
use super::readiness::{ALL, Asks, Direction, Readiness, Seen, Wait};
use super::registry::Place;
use super::shared::Shared;
use super::table::place;
use super::{current, fallback, wake_all};
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
    /// A [`Watch`](super::Watch), which has one owner, has its own, without a lock. Of this one it uses nothing, and only sees to it
    /// that it does not keep a reactor that has stopped.
    home: Mutex<Home>,
}

// With the two counts of an Arc, 80 bytes.
#[cfg(all(target_pointer_width = "64", target_os = "linux", not(loom)))]
const _: () = assert!(size_of::<Source>() <= 64);

/// Where a source is registered.
#[derive(Debug)]
pub(crate) struct Home {
    reactor: Arc<Shared>,
    token: u64,
}

impl Home {
    /// Somebody waits for `interest` from now on, and the selector wants to hear of it.
    fn arm(&self, fd: RawFd, interest: Ready) {
        self.reactor.poller.arm(fd, self.token, interest);
    }

    fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.reactor.remove(fd, self.token)
    }
}

/// The same of a watch, which knows its place, as it comes and goes more often.
#[derive(Debug)]
pub(crate) struct WatchHome {
    home: Home,
    place: &'static Place,
}

impl WatchHome {
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.home.remove(fd)
    }

    /// It is told of nothing any more.
    #[inline(always)]
    pub fn park(&mut self, fd: RawFd) {
        self.home.reactor.park_watch(self.place, fd, self.home.token);
    }
}

/// The token of what is not registered.
const NOWHERE: u64 = u64::MAX;

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
                if !reactor.asks().anything() {
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

    /// Registers `fd` to be told of a part only, as a [`Watch`](super::Watch) is, which has a [`WatchHome`] of its own. Nothing
    /// counts as ready until the kernel has said so. To be told of nothing is not to be registered.
    pub fn register_watch(fd: RawFd, watched: Watched) -> io::Result<(Arc<Source>, WatchHome)> {
        current::with_reactor(|reactor| {
            let place = place(fd)?;
            let mut home = Home { reactor: reactor.clone(), token: NOWHERE };
            let make = |token| {
                home.token = token;
                let readiness = Readiness::new();
                readiness.clear(ALL, readiness.seen());
                let source = Arc::new(Source {
                    readiness,
                    fd,
                    process: AtomicU32::new(fork::generation()),
                    home: Mutex::new(Home { reactor: reactor.clone(), token: NOWHERE }),
                });
                if reactor.asks().anything() {
                    source.readiness.adopt(reactor.asks());
                }
                source
            };
            let source = match watched.interest {
                Ready::NONE => reactor.add_parked(watched, make)?,
                _ => reactor.add_watch(fd, watched, make)?,
            };
            Ok((source, WatchHome { home, place }))
        })
    }

    /// Changes what is watched, which is to be told of something. An error has changed nothing.
    pub fn change_watch(self: &Arc<Self>, own: &mut WatchHome, watched: Watched) -> io::Result<()> {
        let home = &own.home;
        if home.reactor.is_alive() {
            home.reactor.change_watch(own.place, self.fd, home.token, watched)
        } else {
            self.readiness.forget();
            self.move_watch(own, watched)
        }
    }

    /// Watches a descriptor that has been [parked](WatchHome::park), or was told of nothing from the start. An error has changed
    /// nothing.
    #[inline]
    pub fn unpark_watch(
        self: &Arc<Self>,
        own: &mut WatchHome,
        fd: RawFd,
        watched: Watched,
    ) -> io::Result<()> {
        let home = &mut own.home;
        match home.reactor.unpark_watch(own.place, fd, home.token, watched) {
            Ok(token) => {
                home.token = token;
                Ok(())
            }
            Err(_) if !home.reactor.is_alive() => {
                self.readiness.forget();
                self.move_watch(own, watched)
            }
            Err(e) => Err(e),
        }
    }

    /// Takes what the kernel has reported since the last time; waits, as the one task that does so, if that is nothing. It may
    /// be more than what is watched.
    #[inline]
    pub fn poll_watch(
        self: &Arc<Self>,
        home: &mut WatchHome,
        watched: Watched,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Ready>> {
        if watched.interest == Ready::NONE {
            return Poll::Pending;
        }
        loop {
            if !self.is_of_this_process() {
                self.find_home_watch(home, watched)?;
            }
            let seen = self.readiness.seen();
            if seen.is_ready(ALL) {
                self.readiness.clear(ALL, seen);
                return Poll::Ready(Ok(seen.ready()));
            }
            match self.wait_watch(watched.interest, cx.waker()) {
                Wait::Ready => {}
                Wait::Stored => return Poll::Pending,
                Wait::StoredAndAsks(asks) => {
                    self.ask_watch(asks, home, watched.interest, cx.waker());
                    return Poll::Pending;
                }
                Wait::Orphaned => self.find_home_watch(home, watched)?,
            }
        }
    }

    /// The usual case of [`poll_watch`](Source::poll_watch) for those who wait on at once: there is something to read, and
    /// nothing else. `false`: this is not that case, and nothing has changed.
    #[inline]
    pub fn take_readable(&self, home: &WatchHome, cx: &mut Context<'_>) -> bool {
        let seen = self.readiness.seen();
        if seen.ready() != Ready::READABLE || !self.is_of_this_process() {
            return false;
        }
        if !self.clear_and_wait(Direction::Read, seen, cx) {
            match self.readiness.wait(Direction::Read, cx.waker()) {
                Wait::Stored => {}
                Wait::StoredAndAsks(asks) => self.ask_watch(asks, home, Ready::READABLE, cx.waker()),
                // Something new; the next look finds out.
                Wait::Ready | Wait::Orphaned => cx.waker().wake_by_ref(),
            }
        }
        true
    }

    /// In the slots, where there is room without an allocation. The end comes with the news that there is something to read,
    /// and an error with both directions, so nothing is missed.
    #[inline]
    fn wait_watch(&self, interest: Ready, waker: &Waker) -> Wait {
        if interest != Ready::WRITABLE {
            let wait = self.readiness.wait(Direction::Read, waker);
            if !interest.contains(Ready::WRITABLE) || !matches!(wait, Wait::Stored | Wait::StoredAndAsks(_)) {
                return wait;
            }
        }
        self.readiness.wait(Direction::Write, waker)
    }

    #[cold]
    fn find_home_watch(self: &Arc<Self>, own: &mut WatchHome, watched: Watched) -> io::Result<()> {
        if own.home.reactor.is_alive() {
            return Ok(());
        }
        self.move_watch(own, watched)
    }

    fn move_watch(self: &Arc<Self>, own: &mut WatchHome, watched: Watched) -> io::Result<()> {
        current::with_reactor(|reactor| {
            // The old one may be of the process that forked this one.
            own.place = place(self.fd)?;
            self.move_by(&mut own.home, reactor, |make| reactor.add_watch(self.fd, watched, make))?;
            // Nothing keeps the one that has stopped.
            lock(&self.home).reactor = reactor.clone();
            Ok(())
        })
    }

    #[inline]
    fn is_of_this_process(&self) -> bool {
        fork::is_first() || self.is_of_forked_process()
    }

    #[cold]
    #[inline(never)]
    fn is_of_forked_process(&self) -> bool {
        self.process.load(Ordering::Relaxed) == fork::generation()
    }

    /// Takes the descriptor out of its reactor. To be called once, before the descriptor is closed or given away.
    pub fn deregister(&self) -> io::Result<()> {
        lock(&self.home).remove(self.fd)
    }

    /// Waits, as the one task that polls this direction, until an operation is worth a try (which may be now).
    #[inline(always)]
    pub fn poll_ready(self: &Arc<Self>, direction: Direction, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_of_this_process() {
            match self.readiness.wait(direction, cx.waker()) {
                Wait::Stored => return Poll::Pending,
                Wait::StoredAndAsks(asks) => {
                    self.ask(asks, direction.interest(), cx.waker());
                    return Poll::Pending;
                }
                Wait::Ready | Wait::Orphaned => {}
            }
        }
        self.poll_ready_slowly(direction, cx)
    }

    /// What `seen` has promised is used up. If the task, which is the one that polls this direction, has waited before, it
    /// waits again (`true`).
    #[inline(always)]
    pub fn clear_and_wait(&self, direction: Direction, seen: Seen, cx: &mut Context<'_>) -> bool {
        if self.is_of_this_process() {
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
            if !self.is_of_this_process() {
                self.find_home()?;
            }
            match self.readiness.wait(direction, cx.waker()) {
                Wait::Ready => return Poll::Ready(Ok(())),
                Wait::Stored => return Poll::Pending,
                Wait::StoredAndAsks(asks) => {
                    self.ask(asks, direction.interest(), cx.waker());
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
            if !self.is_of_this_process() {
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
                Wait::StoredAndAsks(asks) => {
                    self.ask(asks, interest, cx.waker());
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
                self.readiness.publish(level, &mut no_tasks, &mut wakers);
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
        self.readiness.publish(direction.interest(), &mut no_tasks, &mut wakers);
        wake_all(&mut wakers);
    }

    /// A waker has been stored, and the reactor wants to hear of it. (If there is another one by now, the first has woken it.)
    /// No lock is held.
    fn ask(&self, asks: Asks, interest: Ready, waker: &Waker) {
        if asks.to_arm {
            lock(&self.home).arm(self.fd, interest);
        }
        if asks.to_count {
            fallback::waits(waker);
        }
    }

    fn ask_watch(&self, asks: Asks, own: &WatchHome, interest: Ready, waker: &Waker) {
        if asks.to_arm {
            own.home.arm(self.fd, interest);
        }
        if asks.to_count {
            fallback::waits(waker);
        }
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
        // If this is the last of it, it goes when `add` has given up the lock of the new one's sources.
        let old = home.reactor.clone();
        let _ = old.remove(self.fd, home.token);
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
