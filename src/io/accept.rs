//! Accepting connections, also when there are no descriptors left.

use super::operation::Tries;
use super::{Async, Kind, Stream as Connection};
use crate::reactor::{Direction, budget};
use crate::sys::addr::SockAddr;
use crate::sys::socket;
use crate::time::Timer;
use futures_core::Stream;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixListener, UnixStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// What a listener accepts.
pub(crate) trait Accepts: AsFd {
    const KIND: Kind;
    type Connection: AsFd + From<OwnedFd>;
    type Address;
    fn address(addr: &SockAddr) -> io::Result<Self::Address>;
}

impl Accepts for TcpListener {
    const KIND: Kind = Kind::Tcp;
    type Connection = TcpStream;
    type Address = SocketAddr;

    fn address(addr: &SockAddr) -> io::Result<SocketAddr> {
        addr.inet()
    }
}

impl Accepts for UnixListener {
    const KIND: Kind = Kind::Socket;
    type Connection = UnixStream;
    type Address = UnixSocketAddr;

    fn address(addr: &SockAddr) -> io::Result<UnixSocketAddr> {
        // A peer can choose a name that std's type has no room for: no reason to refuse the connection.
        addr.unix().or_else(|_| UnixSocketAddr::from_pathname(""))
    }
}

/// Registers a connection of the listener `L` that was accepted just now.
#[inline]
pub(crate) fn register<L: Accepts>(connection: L::Connection) -> io::Result<Async<L::Connection>> {
    Async::accepted(connection, L::KIND)
}

/// Waits for a connection, which it leaves unregistered. With a waiter of its own: any number of tasks may accept.
pub(crate) struct Accept<'a, L> {
    listener: &'a Async<L>,
    waiter: Option<usize>,
    exhausted: Option<Exhausted>,
    tries: Tries,
}

/// There were no descriptors left. An error at once would make the usual loop around accept spin, because the
/// connection stays in the backlog; so it is reported only after a while of trying again.
struct Exhausted {
    timer: Timer,
    pause: Duration,
    paused: Duration,
}

const PAUSE_FIRST: Duration = Duration::from_millis(1);
const PAUSED_MAX: Duration = Duration::from_millis(100);

impl<'a, L> Accept<'a, L> {
    pub fn new(listener: &'a Async<L>) -> Accept<'a, L> {
        Accept { listener, waiter: None, exhausted: None, tries: Tries::default() }
    }
}

impl<L: Accepts> Accept<'_, L> {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(L::Connection, L::Address)>> {
        ready!(budget::is_left(cx));
        let source = &self.listener.source;
        let interest = Direction::Read.interest();
        let mut tries_blind = self.tries.is_again() || self.waiter.is_none();
        loop {
            if let Some(exhausted) = &mut self.exhausted {
                ready!(Pin::new(&mut exhausted.timer).poll(cx));
            }
            let seen = source.readiness.seen();
            let is_worth_a_try = seen.is_ready(interest) || tries_blind && seen.asks();
            if !is_worth_a_try {
                // Somebody else has emptied the queue: the next connection is what to wait for, and no timer.
                self.exhausted = None;
                ready!(source.poll_waiter(&mut self.waiter, interest, cx))?;
                continue;
            }
            tries_blind = false;
            match socket::accept(self.listener.get_ref().as_fd()) {
                Ok((fd, addr)) => {
                    source.forget(&mut self.waiter);
                    self.exhausted = None;
                    budget::spend();
                    return Poll::Ready(Ok((fd.into(), L::address(&addr)?)));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.exhausted = None;
                    source.readiness.clear(interest, seen);
                }
                Err(e) if socket::is_exhausted(&e) && !self.pause() => {
                    return Poll::Ready(Err(self.give_up(e)));
                }
                Err(e) if socket::is_exhausted(&e) => {}
                Err(e) => return Poll::Ready(Err(self.give_up(e))),
            }
        }
    }

    /// Sets the timer for the next try, unless there were enough of them.
    fn pause(&mut self) -> bool {
        let (pause, paused) = match &self.exhausted {
            None => (PAUSE_FIRST, Duration::ZERO),
            Some(last) => (last.pause * 2, last.paused + last.pause),
        };
        let pause = pause.min(PAUSED_MAX.saturating_sub(paused));
        if pause.is_zero() {
            return false;
        }
        self.exhausted = Some(Exhausted { timer: Timer::after(pause), pause, paused });
        true
    }

    fn give_up(&mut self, e: io::Error) -> io::Error {
        self.exhausted = None;
        self.listener.source.forget(&mut self.waiter);
        e
    }
}

impl<L: Accepts> Future for Accept<'_, L> {
    type Output = io::Result<(L::Connection, L::Address)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_accept(cx)
    }
}

/// One connection after the other, without the addresses.
pub(crate) struct Incoming<'a, L>(pub Accept<'a, L>);

impl<L: Accepts> Stream for Incoming<'_, L> {
    type Item = io::Result<Async<L::Connection>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (connection, _) = ready!(self.0.poll_accept(cx))?;
        Poll::Ready(Some(register::<L>(connection)))
    }
}

impl<L> Drop for Accept<'_, L> {
    fn drop(&mut self) {
        self.listener.source.forget(&mut self.waiter);
    }
}

/// A connection that was accepted and belongs to no reactor yet: for another core than the one that accepts. See
/// [`Listener::accept_unregistered`](super::Listener::accept_unregistered).
///
/// It can do nothing but be registered, once, where it is to be used. As an [`OwnedFd`] it goes elsewhere: to another
/// process, or into a type of your own. It is non-blocking and close-on-exec. Dropped, it closes the connection.
pub struct Accepted(Kept);

/// What is known of it is the type, so that registering need not ask the kernel.
enum Kept {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Accepted {
    pub(super) fn tcp(stream: TcpStream) -> Accepted {
        Accepted(Kept::Tcp(stream))
    }

    pub(super) fn unix(stream: UnixStream) -> Accepted {
        Accepted(Kept::Unix(stream))
    }

    /// Registers it with the reactor of the core that this is called on; without a core, with the shared one. The stream is
    /// the same as if it had been accepted here.
    ///
    /// # Errors
    ///
    /// What the kernel says, if it has no room for another registration. The connection is closed.
    ///
    /// # Examples
    ///
    /// See [`Listener::accept_unregistered`](super::Listener::accept_unregistered).
    pub fn register(self) -> io::Result<Connection> {
        match self.0 {
            Kept::Tcp(stream) => register::<TcpListener>(stream).map(Connection::Tcp),
            Kept::Unix(stream) => register::<UnixListener>(stream).map(Connection::Unix),
        }
    }
}

impl AsFd for Accepted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kept::Tcp(stream) => stream.as_fd(),
            Kept::Unix(stream) => stream.as_fd(),
        }
    }
}

impl From<Accepted> for OwnedFd {
    fn from(accepted: Accepted) -> OwnedFd {
        match accepted.0 {
            Kept::Tcp(stream) => stream.into(),
            Kept::Unix(stream) => stream.into(),
        }
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream: &dyn fmt::Debug = match &self.0 {
            Kept::Tcp(stream) => stream,
            Kept::Unix(stream) => stream,
        };
        f.debug_tuple("Accepted").field(stream).finish()
    }
}
