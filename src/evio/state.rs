//! What a connection is in the midst of: flags, and what most connections never need.
//!
//! A connection that is well has a few words here, and nothing in the heap.

use super::handle::{ConnHandle, Done, HIGH_WATER, Shared};
use super::transport::Transport;
use super::{Action, Addr, Options, Origin, Reply};
use crate::io::{KeepAlive, Stream, Unsent};
use crate::time::Timer;
use std::borrow::Cow;
use std::io;
use std::mem;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The peer may take so long to read the last output.
const LINGER: Duration = Duration::from_secs(10);
/// Others who have a handle may take so long to answer after the peer has ended its side.
const HALF_CLOSE: Duration = Duration::from_secs(1);

/// The part that callbacks may use.
pub(super) struct Inner {
    pub extras: Option<Box<Extras>>,
    peer: Peer,
    flags: u32,
    addr_index: u16,
    pub origin: Origin,
}

// Beside it, a connection has its transport, its loop and its context.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(mem::size_of::<Inner>() <= 32);

/// In two words for the usual case.
enum Peer {
    None,
    V4(SocketAddrV4),
    Other(Box<Addr>),
}

/// What most connections never need.
pub(super) struct Extras {
    /// Output, of which the first `sent` bytes have gone.
    pub unsent: Vec<u8>,
    pub sent: usize,
    /// How many bytes of the handle's writes, and of all before them, have gone: to know whom to tell.
    pub position: u64,
    pub done: Vec<(u64, Done)>,
    /// What happens once the output has gone.
    pub action: Action,
    /// Input to be delivered again, before the next.
    pub rest: Vec<u8>,
    /// How many bytes of the input the callback that is running has left.
    pub unread: usize,
    pub idle: Option<Duration>,
    /// When a byte was received or sent, if that is of interest.
    pub alive: Instant,
    pub linger: Duration,
    pub half_close: Duration,
    pub high_water: usize,
    pub timer: Timer,
    pub due: Due,
    pub shared: Option<Arc<Shared>>,
    /// It has left its waker with those who share it.
    pub listens: bool,
    pub error: Option<io::Error>,
    pub drained: usize,
}

/// What the timer is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Idle,
    Linger,
    HalfClose,
    Drain,
}

/// `opened` has not been called.
pub(super) const NEW: u32 = 1;
/// There is output to be sent.
pub(super) const UNSENT: u32 = 1 << 1;
/// There is something to be done after that.
pub(super) const ACTION: u32 = 1 << 2;
/// `data` is to be called with an empty input.
pub(super) const WOKEN: u32 = 1 << 3;
/// Others may have left a signal.
pub(super) const HANDLE: u32 = 1 << 4;
/// There is input to be delivered before the next read: it came with an attached stream.
pub(super) const INPUT: u32 = 1 << 5;
/// The peer has ended its side.
pub(super) const ENDED: u32 = 1 << 6;
/// It cannot go on, because of `error`.
pub(super) const FAILED: u32 = 1 << 7;
/// Its side is to be ended, output first.
pub(super) const CLOSING: u32 = 1 << 8;
/// It is over, and what the peer still sends is thrown away, so that it can read to the end.
pub(super) const DRAINING: u32 = 1 << 9;
/// What makes `settle` look.
pub(super) const SLOW: u32 =
    NEW | UNSENT | ACTION | WOKEN | HANDLE | INPUT | ENDED | FAILED | CLOSING | DRAINING;

/// `opened` has been called, and neither `closed` nor `detached`.
pub(super) const OPEN: u32 = 1 << 10;
/// It is counted among the connections of its loop.
pub(super) const COUNTED: u32 = 1 << 11;
/// The timer runs.
pub(super) const TIMER: u32 = 1 << 12;
/// Every sign of life puts the timer off.
pub(super) const IDLE: u32 = 1 << 13;
/// Input was left for the next time.
pub(super) const REST: u32 = 1 << 14;
/// The callback that is running answers a wake.
pub(super) const WAKE: u32 = 1 << 15;
/// The handler wants to hear of writes. The loop knows; here it is asked together with [`REST`], once for each message.
pub(super) const WATCHED: u32 = 1 << 16;

const NO_INDEX: u16 = u16::MAX;

impl Inner {
    pub fn new(peer: Option<Addr>, origin: Origin, addr_index: Option<usize>, flags: u32) -> Inner {
        let peer = match peer {
            None => Peer::None,
            Some(Addr::Tcp(SocketAddr::V4(addr))) => Peer::V4(addr),
            Some(addr) => Peer::Other(Box::new(addr)),
        };
        let addr_index = addr_index.map_or(NO_INDEX, |i| u16::try_from(i).unwrap_or(NO_INDEX));
        Inner { extras: None, peer, flags, addr_index, origin }
    }

    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    pub fn set(&mut self, flags: u32) {
        self.flags |= flags;
    }

    pub fn unset(&mut self, flags: u32) {
        self.flags &= !flags;
    }

    pub fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_with(|| {
            Box::new(Extras {
                unsent: Vec::new(),
                sent: 0,
                position: 0,
                done: Vec::new(),
                action: Action::None,
                rest: Vec::new(),
                unread: 0,
                idle: None,
                alive: Instant::now(),
                linger: LINGER,
                half_close: HALF_CLOSE,
                high_water: HIGH_WATER,
                timer: Timer::never(),
                due: Due::Nothing,
                shared: None,
                listens: false,
                error: None,
                drained: 0,
            })
        })
    }

    pub fn addr_index(&self) -> Option<usize> {
        (self.addr_index != NO_INDEX).then_some(usize::from(self.addr_index))
    }

    pub fn remote_addr(&self) -> Option<Addr> {
        match &self.peer {
            Peer::None => None,
            Peer::V4(addr) => Some(Addr::Tcp(SocketAddr::V4(*addr))),
            Peer::Other(addr) => Some((**addr).clone()),
        }
    }

    pub fn error(&self) -> Option<&io::Error> {
        self.extras.as_ref().and_then(|extras| extras.error.as_ref())
    }

    pub fn is_wake(&self) -> bool {
        self.has(WAKE)
    }

    pub fn wake(&mut self) {
        self.set(WOKEN);
    }

    pub fn unread(&mut self, len: usize) {
        if len == 0 && !self.has(REST) {
            return;
        }
        self.extras().unread = len;
        self.set(REST);
    }

    pub fn set_options(&mut self, transport: &Option<Transport>, options: &Options) -> io::Result<()> {
        if let Some(idle) = options.idle_timeout {
            self.extras().idle = Some(idle);
            self.set(IDLE);
            self.touch();
            if matches!(self.extras().due, Due::Idle | Due::Nothing) {
                self.arm(Due::Idle, idle);
            }
        }
        if let Some(bytes) = options.high_water {
            self.extras().high_water = bytes;
            if let Some(shared) = &self.extras().shared {
                shared.set_high_water(bytes);
            }
        }
        if let Some(linger) = options.linger {
            self.extras().linger = linger;
        }
        if let Some(half_close) = options.half_close {
            self.extras().half_close = half_close;
        }
        if let Some(Transport::Plain(Stream::Tcp(stream))) = transport {
            if let Some(on) = options.nodelay {
                stream.get_ref().set_nodelay(on)?;
            }
            if let Some(time) = options.keepalive {
                stream.set_keep_alive(KeepAlive { idle: time, interval: time, ..KeepAlive::default() })?;
            }
        }
        Ok(())
    }

    pub fn handle(&mut self, transport: &Option<Transport>, id: impl FnOnce() -> u64) -> ConnHandle {
        if let Some(shared) = &self.extras().shared {
            return ConnHandle::of(shared);
        }
        let handle = ConnHandle::new(id(), self.extras().high_water);
        if self.has(OPEN) {
            self.set(HANDLE);
        } else {
            handle.shared().refuse();
        }
        self.tell_addrs(transport, handle.shared());
        self.extras().shared = Some(handle.shared().clone());
        handle
    }

    pub fn tell_addrs(&self, transport: &Option<Transport>, shared: &Shared) {
        if let Ok(addr) = local_addr(transport) {
            let _ = shared.local.set(addr);
        }
        if let Some(addr) = self.remote_addr() {
            let _ = shared.peer.set(addr);
        }
    }

    pub fn arm(&mut self, due: Due, after: Duration) {
        let extras = self.extras();
        extras.timer.set_after(after);
        extras.due = due;
        self.set(TIMER);
    }

    /// A sign of life. It does not touch the timer, which finds out when it fires.
    #[inline]
    pub fn touch(&mut self) {
        if self.has(IDLE) {
            self.extras().alive = Instant::now();
        }
    }

    /// How long it may still be silent.
    pub fn idle_left(&mut self) -> Option<Duration> {
        let extras = self.extras();
        let left = extras.idle?.saturating_sub(extras.alive.elapsed());
        (!left.is_zero()).then_some(left)
    }

    pub fn fail(&mut self, error: io::Error) {
        self.extras().error = Some(error);
        self.set(FAILED);
    }

    /// It is to be closed once its output has gone.
    pub fn close_later(&mut self, action: Action) {
        self.extras().action = action;
        self.set(ACTION);
        if matches!(action, Action::Close | Action::Shutdown) && self.extras().due != Due::Linger {
            let linger = self.extras().linger;
            self.arm(Due::Linger, linger);
        }
    }

    /// Output that could not be sent at once.
    pub fn keep(&mut self, bytes: Vec<u8>, sent: usize) {
        let extras = self.extras();
        extras.compact();
        if extras.unsent.is_empty() {
            (extras.unsent, extras.sent) = (bytes, sent);
        } else {
            extras.unsent.extend_from_slice(&bytes[sent..]);
        }
        self.set(UNSENT);
    }
}

pub(super) fn local_addr(transport: &Option<Transport>) -> io::Result<Addr> {
    match transport {
        Some(transport) => transport.local_addr(),
        None => Err(io::Error::new(io::ErrorKind::NotConnected, "there is no connection")),
    }
}

impl Inner {
    /// An attempt to send an answer has not sent all of it.
    #[cold]
    #[inline(never)]
    pub fn sent_partly(&mut self, unsent: Unsent, Reply { output, action }: Reply<'_>) {
        match unsent.error {
            Some(e) => self.fail(e),
            None => self.keep_unsent(output, unsent.sent),
        }
        if action != Action::None {
            self.close_later(action);
        }
    }

    pub fn keep_unsent(&mut self, output: Cow<'_, [u8]>, sent: usize) {
        // Nothing waited before the callback. What does now was added while it was sent, and comes after it.
        let added = mem::take(&mut self.extras().unsent);
        self.keep(output.into_owned(), sent);
        if !added.is_empty() {
            self.keep(added, 0);
        }
    }

    /// How many bytes the callback has left, of an input of `len`.
    pub fn take_unread(&mut self, len: usize) -> usize {
        let left = mem::take(&mut self.extras().unread);
        assert!(left <= len, "unread({left}), but the input had {len} bytes");
        left
    }

    #[cold]
    #[inline(never)]
    pub fn keep_rest(&mut self, input: &[u8]) {
        let left = self.take_unread(input.len());
        self.extras().rest = input[input.len() - left..].to_vec();
        if left == 0 {
            self.unset(REST);
        }
    }

    /// The peer has ended its side. Is there somebody who may still have something for it?
    pub fn is_expected_to_answer(&mut self) -> bool {
        let half_close = self.extras().half_close;
        match &self.extras().shared {
            Some(shared) if !half_close.is_zero() && !shared.is_lonely() => {}
            _ => return false,
        }
        if self.extras().due != Due::HalfClose {
            self.arm(Due::HalfClose, half_close);
        }
        true
    }
}

impl Extras {
    /// How many bytes wait to be sent.
    pub fn held(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Gives up the part that has gone, before there is more: a peer that is always a little behind must not make it grow.
    pub fn compact(&mut self) {
        if self.sent > self.unsent.len() / 2 {
            self.unsent.drain(..self.sent);
            self.sent = 0;
        }
    }
}
