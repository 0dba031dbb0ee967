//! A connection under callbacks: one task.
//!
//! It reads into a buffer that the loop lends, calls [`data`](Handler::data), and tries to send the answer at once. While
//! that works, the connection has nothing of its own but this struct. What the peer does not take yet, and everything
//! else that is not usual, is in its [`Extras`], and a flag in [`SLOW`] says that [`settle`](Connection::settle) has to look
//! at it before the next read.

use super::conn::Link;
use super::handle::{self, ConnHandle, Done, HIGH_WATER, Shared};
use super::serve::{Hands, Loop};
use super::transport::Transport;
use super::{Action, Addr, Conn, DetachedStream, Handler, Opened, Options, Origin, Reply};
use crate::io::{KeepAlive, ReadAndWait, Stream, Unsent};
use crate::time::Timer;
use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

/// The peer may take so long to read the last output.
const LINGER: Duration = Duration::from_secs(10);
/// Others who have a handle may take so long to answer after the peer has ended its side.
const HALF_CLOSE: Duration = Duration::from_secs(1);
/// The peer may take so long, and send so much, until it closes its side as well.
const DRAIN: Duration = Duration::from_secs(1);
const DRAIN_MAX: usize = 1 << 20;
/// A buffer that has grown beyond this is not kept.
const KEEP: usize = 256 * 1024;
/// After so many, others have a turn.
const FLUSHES: u32 = 64;

pub(super) struct Connection<H: Handler> {
    /// `None` if it could not be dialed, or has been detached.
    transport: Option<Transport>,
    inner: Inner,
    context: H::Context,
    lp: Rc<Loop<H>>,
}

impl<H: Handler> Unpin for Connection<H> {}

/// The part that callbacks may use.
pub(super) struct Inner {
    extras: Option<Box<Extras>>,
    peer: Peer,
    flags: u32,
    addr_index: u16,
    pub origin: Origin,
}

/// In two words for the usual case.
enum Peer {
    None,
    V4(SocketAddrV4),
    Other(Box<Addr>),
}

/// What most connections never need.
struct Extras {
    /// Output, of which the first `sent` bytes have gone.
    unsent: Vec<u8>,
    sent: usize,
    /// How many bytes of the handle's writes, and of all before them, have gone: to know whom to tell.
    position: u64,
    done: Vec<(u64, Done)>,
    /// What happens once the output has gone.
    action: Action,
    /// Input to be delivered again, before the next.
    rest: Vec<u8>,
    /// How many bytes of the input the callback that is running has left.
    unread: usize,
    idle: Option<Duration>,
    /// When a byte was received or sent, if that is of interest.
    alive: Instant,
    linger: Duration,
    half_close: Duration,
    high_water: usize,
    timer: Timer,
    due: Due,
    shared: Option<Arc<Shared>>,
    /// It has left its waker with those who share it.
    listens: bool,
    error: Option<io::Error>,
    drained: usize,
}

/// What the timer is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    Idle,
    Linger,
    HalfClose,
    Drain,
}

/// `opened` has not been called.
const NEW: u32 = 1;
/// There is output to be sent.
const UNSENT: u32 = 1 << 1;
/// There is something to be done after that.
const ACTION: u32 = 1 << 2;
/// `data` is to be called with an empty input.
const WOKEN: u32 = 1 << 3;
/// Others may have left a signal.
const HANDLE: u32 = 1 << 4;
/// There is input to be delivered before the next read: it came with an attached stream.
const INPUT: u32 = 1 << 5;
/// The peer has ended its side.
const ENDED: u32 = 1 << 6;
/// It cannot go on, because of `error`.
const FAILED: u32 = 1 << 7;
/// Its side is to be ended, output first.
const CLOSING: u32 = 1 << 8;
/// It is over, and what the peer still sends is thrown away, so that it can read to the end.
const DRAINING: u32 = 1 << 9;
/// What makes `settle` look.
const SLOW: u32 = NEW | UNSENT | ACTION | WOKEN | HANDLE | INPUT | ENDED | FAILED | CLOSING | DRAINING;

/// `opened` has been called, and neither `closed` nor `detached`.
const OPEN: u32 = 1 << 10;
/// It is counted among the connections of its loop.
const COUNTED: u32 = 1 << 11;
/// The timer runs.
const TIMER: u32 = 1 << 12;
/// Every sign of life puts the timer off.
const IDLE: u32 = 1 << 13;
/// Input was left for the next time.
const REST: u32 = 1 << 14;
/// The callback that is running answers a wake.
const WAKE: u32 = 1 << 15;
/// The handler wants to hear of writes.
const WATCHED: u32 = 1 << 16;

const NO_INDEX: u16 = u16::MAX;

#[derive(PartialEq, Eq)]
enum Next {
    Read,
    End,
}

// ---------------------------------------------------------------------------------- what callbacks may do

impl Inner {
    fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    fn set(&mut self, flags: u32) {
        self.flags |= flags;
    }

    fn unset(&mut self, flags: u32) {
        self.flags &= !flags;
    }

    fn extras(&mut self) -> &mut Extras {
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

    fn tell_addrs(&self, transport: &Option<Transport>, shared: &Shared) {
        if let Ok(addr) = local_addr(transport) {
            let _ = shared.local.set(addr);
        }
        if let Some(addr) = self.remote_addr() {
            let _ = shared.peer.set(addr);
        }
    }

    fn arm(&mut self, due: Due, after: Duration) {
        let extras = self.extras();
        extras.timer.set_after(after);
        extras.due = due;
        self.set(TIMER);
    }

    /// A sign of life. It does not touch the timer, which finds out when it fires.
    #[inline]
    fn touch(&mut self) {
        if self.has(IDLE) {
            self.extras().alive = Instant::now();
        }
    }

    /// How long it may still be silent.
    fn idle_left(&mut self) -> Option<Duration> {
        let extras = self.extras();
        let left = extras.idle?.saturating_sub(extras.alive.elapsed());
        (!left.is_zero()).then_some(left)
    }

    fn fail(&mut self, error: io::Error) {
        self.extras().error = Some(error);
        self.set(FAILED);
    }

    /// It is to be closed once its output has gone.
    fn close_later(&mut self, action: Action) {
        self.extras().action = action;
        self.set(ACTION);
        if matches!(action, Action::Close | Action::Shutdown) && self.extras().due != Due::Linger {
            let linger = self.extras().linger;
            self.arm(Due::Linger, linger);
        }
    }

    /// Output that could not be sent at once.
    fn keep(&mut self, bytes: Vec<u8>, sent: usize) {
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

// ------------------------------------------------------------------------------------------------ a life

impl<H: Handler> Connection<H> {
    /// A connection of this loop, which has counted it.
    pub fn new(
        lp: Rc<Loop<H>>,
        transport: io::Result<Transport>,
        peer: Option<Addr>,
        origin: Origin,
        addr_index: Option<usize>,
        context: H::Context,
    ) -> Connection<H> {
        let peer = match peer {
            None => Peer::None,
            Some(Addr::Tcp(SocketAddr::V4(addr))) => Peer::V4(addr),
            Some(addr) => Peer::Other(Box::new(addr)),
        };
        let (transport, error) = match transport {
            Ok(transport) => (Some(transport), None),
            Err(e) => (None, Some(e)),
        };
        let mut inner = Inner {
            extras: None,
            peer,
            flags: NEW | COUNTED | if lp.watches_writes { WATCHED } else { 0 },
            addr_index: addr_index.map_or(NO_INDEX, |i| u16::try_from(i).unwrap_or(NO_INDEX)),
            origin,
        };
        if let Some(error) = error {
            inner.fail(error);
        }
        Connection { transport, inner, context, lp }
    }

    /// With input that was read before.
    pub fn with_input(mut self, input: Vec<u8>) -> Connection<H> {
        if !input.is_empty() {
            self.inner.extras().rest = input;
            self.inner.set(INPUT);
        }
        self
    }

    /// With the handle that was given out before there was a connection.
    pub fn with_handle(mut self, shared: Arc<Shared>) -> Connection<H> {
        self.inner.tell_addrs(&self.transport, &shared);
        self.inner.extras().shared = Some(shared);
        self.inner.set(HANDLE);
        self
    }
}

impl<H: Handler> Future for Connection<H> {
    type Output = ();

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let (mut len, mut waits) = (None, false);
        if !this.inner.has(SLOW) && !this.lp.stopping.get() {
            let Connection { transport, inner, context, lp } = &mut *this;
            let lp = &**lp;
            if let Some(Transport::Plain(stream)) = &*transport {
                let hands = &mut *lp.hands.borrow_mut();
                match stream.try_read_and_wait(cx, &mut hands.input[..]) {
                    // The usual message: there is nothing to be done after it but to wait.
                    Ok(ReadAndWait { len, waits: true }) => {
                        deliver(transport, stream, inner, context, lp, hands, len);
                        if !inner.has(SLOW | TIMER) {
                            return Poll::Pending;
                        }
                        waits = !inner.has(SLOW);
                    }
                    Ok(read) => len = Some(read.len),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => inner.fail(e),
                }
            }
        }
        if waits {
            ready!(this.poll_timer(cx));
        }
        this.go_on(cx, len)
    }
}

impl<H: Handler> Connection<H> {
    /// Everything that is not usual, from any point on. `len`: so many bytes have been read.
    #[inline(never)]
    fn go_on(&mut self, cx: &mut Context<'_>, mut len: Option<usize>) -> Poll<()> {
        loop {
            if let Some(len) = len.take() {
                self.has_read(len);
            }
            if (self.inner.has(SLOW) || self.lp.stopping.get()) && ready!(self.settle(cx)) == Next::End {
                return Poll::Ready(());
            }
            let read = match &mut self.transport {
                Some(transport) => transport.poll_read(cx, &mut self.lp.hands.borrow_mut().input[..]),
                None => Poll::Ready(Ok(0)),
            };
            match read {
                Poll::Pending => ready!(self.wait(cx)),
                Poll::Ready(Ok(n)) => len = Some(n),
                Poll::Ready(Err(e)) => self.inner.fail(e),
            }
        }
    }

    /// Delivers what has been read.
    fn has_read(&mut self, len: usize) {
        if len == 0 {
            return self.inner.set(ENDED);
        }
        let Connection { transport, inner, context, lp } = self;
        let hands = &mut *lp.hands.borrow_mut();
        if let Some(Transport::Plain(stream)) = &*transport {
            return deliver(transport, stream, inner, context, lp, hands, len);
        }
        let Hands { handler, out, input } = hands;
        Borrowed { transport, inner, context, lp, handler, out }.data(&input[..len]);
    }

    /// There is nothing to do for the socket; is there for the timer?
    #[inline]
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.has(TIMER) { self.poll_timer(cx) } else { Poll::Pending }
    }

    #[cold]
    #[inline(never)]
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let extras = self.inner.extras();
        ready!(Pin::new(&mut extras.timer).poll(cx));
        let due = mem::replace(&mut extras.due, Due::Nothing);
        self.inner.unset(TIMER);
        let timed_out = |text| io::Error::new(io::ErrorKind::TimedOut, text);
        match due {
            Due::Nothing => {}
            Due::Idle => match self.inner.idle_left() {
                Some(left) => self.inner.arm(Due::Idle, left),
                None => self.inner.fail(timed_out("no byte was received or sent for the idle timeout")),
            },
            Due::Linger => {
                self.inner.fail(timed_out("the peer did not read the last output within the linger time"))
            }
            // Or else there is an answer under way, and it is known what comes after that.
            Due::HalfClose if !self.inner.has(ACTION) => self.inner.close_later(Action::Close),
            Due::HalfClose if self.inner.has(IDLE) => {
                let left = self.inner.idle_left().unwrap_or_default();
                self.inner.arm(Due::Idle, left);
            }
            Due::HalfClose => {}
            Due::Drain => self.inner.set(FAILED),
        }
        Poll::Ready(())
    }

    /// With what the loop lends to all its connections.
    fn hands<R>(&mut self, f: impl FnOnce(&mut Borrowed<'_, H>) -> R) -> R {
        let Connection { transport, inner, context, lp } = self;
        let Hands { handler, out, .. } = &mut *lp.hands.borrow_mut();
        f(&mut Borrowed { transport, inner, context, lp, handler, out })
    }

    /// All that has to be done before the next read.
    #[cold]
    #[inline(never)]
    fn settle(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let (mut woken, mut answers, mut flushes) = (false, false, 0);
        loop {
            let stopping = self.lp.stopping.get();
            if self.inner.has(DRAINING) {
                return self.drain(cx, stopping);
            }
            if self.inner.has(NEW) {
                if stopping {
                    // It has never been opened, and so it is not closed.
                    return Poll::Ready(Next::End);
                }
                self.open();
                continue;
            }
            if self.inner.has(FAILED) {
                let error = self.inner.extras().error.take();
                self.finish(error);
                return Poll::Ready(Next::End);
            }
            if self.inner.has(HANDLE) && self.listen(cx.waker()) {
                self.finish(None);
                return Poll::Ready(Next::End);
            }
            if self.inner.has(UNSENT) {
                if stopping && !self.inner.has(ACTION) {
                    self.inner.close_later(Action::Close);
                }
                // Who is told of the end of a write may write again, and again.
                flushes += 1;
                if flushes > FLUSHES {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if self.flush(cx).is_pending() {
                    ready!(self.wait(cx));
                }
                continue;
            }
            if self.inner.has(ACTION) {
                self.inner.unset(ACTION);
                let action = self.inner.extras().action;
                if action == Action::Detach && self.detach() {
                    return Poll::Ready(Next::End);
                }
                if action == Action::Shutdown {
                    self.lp.server.stop();
                }
                self.inner.set(CLOSING);
                continue;
            }
            if stopping || self.inner.has(CLOSING) {
                if let Some(next) = ready!(self.close(cx)) {
                    return Poll::Ready(next);
                }
                continue;
            }
            if self.inner.has(INPUT) {
                self.inner.unset(INPUT);
                let input = mem::take(&mut self.inner.extras().rest);
                self.hands(|hands| hands.data(&input));
                continue;
            }
            if self.inner.has(WOKEN) {
                if !woken {
                    woken = true;
                    self.inner.unset(WOKEN);
                    self.inner.set(WAKE);
                    self.hands(|hands| hands.woken());
                    self.inner.unset(WAKE);
                    answers = self.inner.has(UNSENT);
                    continue;
                }
                // It wakes itself again and again: its input has its turn before that, and so have all others.
                cx.waker().wake_by_ref();
                if self.inner.has(ENDED) && answers {
                    // There is no more input, but a peer that waits for all of an answer.
                    return Poll::Pending;
                }
            }
            if self.inner.has(ENDED) {
                if self.inner.is_expected_to_answer() {
                    ready!(self.wait(cx));
                    continue;
                }
                self.inner.set(CLOSING);
                continue;
            }
            return Poll::Ready(Next::Read);
        }
    }

    fn open(&mut self) {
        self.inner.unset(NEW);
        self.inner.set(OPEN);
        self.hands(|hands| hands.opened());
    }

    /// Does what others want of the connection. `true`: it shall end now.
    fn listen(&mut self, waker: &Waker) -> bool {
        let extras = self.inner.extras();
        let Some(shared) = extras.shared.clone() else { return false };
        if !mem::replace(&mut extras.listens, true) {
            shared.start(waker);
        }
        let signals = shared.take_signals();
        if signals & handle::FORCE != 0 {
            return true;
        }
        if signals & handle::WRITE != 0 {
            self.queued(&shared);
        }
        if signals & handle::WAKE != 0 {
            self.inner.set(WOKEN);
        }
        if signals & handle::CLOSE != 0 && !self.inner.has(ACTION | CLOSING) {
            self.inner.close_later(Action::Close);
        }
        false
    }

    /// Ends our side, now that the output has gone. `None`: it has failed.
    fn close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        self.inner.set(CLOSING);
        let ended = self.inner.has(ENDED);
        match &mut self.transport {
            // The peer knows that nothing more comes, and has nothing more to send: there is nothing to wait for.
            Some(Transport::Plain(_)) if ended => {}
            Some(Transport::Plain(stream)) => {
                // The peer may have been faster.
                let _ = stream.shutdown(Shutdown::Write);
            }
            Some(transport) => match transport.poll_close(cx) {
                Poll::Ready(_) => {}
                Poll::Pending => {
                    if self.inner.extras().due != Due::Linger {
                        let linger = self.inner.extras().linger;
                        self.inner.arm(Due::Linger, linger);
                    }
                    ready!(self.wait(cx));
                    return Poll::Ready(None);
                }
            },
            None => {}
        }
        self.finish(None);
        if ended {
            return Poll::Ready(Some(Next::End));
        }
        // If it were closed with input unread, the kernel would reset it, and the peer lose what it has not read yet.
        self.inner.set(DRAINING);
        self.inner.arm(Due::Drain, DRAIN);
        Poll::Ready(None)
    }

    /// Throws away what the peer still sends, until it has ended its side.
    fn drain(&mut self, cx: &mut Context<'_>, stopping: bool) -> Poll<Next> {
        loop {
            let read = match &mut self.transport {
                Some(transport) => transport.poll_read(cx, &mut [0; 4096]),
                None => Poll::Ready(Ok(0)),
            };
            match read {
                Poll::Ready(Ok(n @ 1..)) => {
                    let extras = self.inner.extras();
                    extras.drained += n;
                    if extras.drained > DRAIN_MAX {
                        return Poll::Ready(Next::End);
                    }
                }
                Poll::Pending if !stopping => {
                    ready!(self.wait(cx));
                    return Poll::Ready(Next::End);
                }
                _ => return Poll::Ready(Next::End),
            }
        }
    }

    /// `false`: nobody wants the stream, so that it is to be closed.
    fn detach(&mut self) -> bool {
        let Some(transport) = self.transport.take() else { return true };
        let extras = self.inner.extras();
        let rest = mem::take(&mut extras.rest);
        if let Some(shared) = extras.shared.take() {
            handle::fail_all(shared.close());
        }
        self.inner.unset(OPEN | HANDLE);
        let stream = DetachedStream::new(transport, rest);
        let result = self.hands(|hands| hands.call(|handler, conn| handler.detached(conn, stream)));
        match result {
            Ok(action) => {
                self.uncount(action);
                true
            }
            Err(stream) => {
                self.transport = Some(stream.into_transport().0);
                self.inner.set(OPEN);
                false
            }
        }
    }

    /// The end of a connection under callbacks: all are told.
    fn finish(&mut self, error: Option<io::Error>) {
        let mut told = Ok(());
        if let Some(extras) = &mut self.inner.extras {
            let mut done = mem::take(&mut extras.done);
            if let Some(shared) = &extras.shared {
                done.append(&mut shared.close());
            }
            if !done.is_empty() {
                told = catch_unwind(AssertUnwindSafe(|| handle::fail_all(done)));
            }
        }
        if self.inner.has(ACTION) && self.inner.extras().action == Action::Shutdown {
            // It has failed before its output had gone.
            self.lp.server.stop();
        }
        let mut action = Action::None;
        if self.inner.has(OPEN) {
            self.inner.unset(OPEN | HANDLE);
            action = self.hands(|hands| hands.call(|handler, conn| handler.closed(conn, error.as_ref())));
        }
        self.uncount(action);
        if let Err(payload) = told {
            resume_unwind(payload);
        }
    }

    fn uncount(&mut self, action: Action) {
        if self.inner.has(COUNTED) {
            self.inner.unset(COUNTED);
            self.lp.uncount();
        }
        if action == Action::Shutdown {
            self.lp.server.stop();
        }
    }
}

/// It was cancelled, or one of its callbacks has panicked.
impl<H: Handler> Drop for Connection<H> {
    fn drop(&mut self) {
        let panicked = self.lp.has_panicked();
        // `closed` may be the next to panic.
        let _end = AtEnd { lp: self.lp.clone(), counted: self.inner.has(COUNTED) };
        self.inner.unset(COUNTED);
        let error = panicked.then(|| io::Error::other("a callback of this connection has panicked"));
        self.finish(error);
    }
}

struct AtEnd<H: Handler> {
    lp: Rc<Loop<H>>,
    counted: bool,
}

impl<H: Handler> Drop for AtEnd<H> {
    fn drop(&mut self) {
        self.lp.has_panicked();
        if self.counted {
            self.lp.uncount();
        }
    }
}

impl Inner {
    /// An attempt to send an answer has not sent all of it.
    #[cold]
    #[inline(never)]
    fn sent_partly(&mut self, unsent: Unsent, Reply { output, action }: Reply<'_>) {
        match unsent.error {
            Some(e) => self.fail(e),
            None => self.keep_unsent(output, unsent.sent),
        }
        if action != Action::None {
            self.close_later(action);
        }
    }

    fn keep_unsent(&mut self, output: Cow<'_, [u8]>, sent: usize) {
        // Nothing waited before the callback. What does now was added while it was sent, and comes after it.
        let added = mem::take(&mut self.extras().unsent);
        self.keep(output.into_owned(), sent);
        if !added.is_empty() {
            self.keep(added, 0);
        }
    }

    /// How many bytes the callback has left, of an input of `len`.
    fn take_unread(&mut self, len: usize) -> usize {
        let left = mem::take(&mut self.extras().unread);
        assert!(left <= len, "unread({left}), but the input had {len} bytes");
        left
    }

    #[cold]
    #[inline(never)]
    fn keep_rest(&mut self, input: &[u8]) {
        let left = self.take_unread(input.len());
        self.extras().rest = input[input.len() - left..].to_vec();
        if left == 0 {
            self.unset(REST);
        }
    }

    /// The peer has ended its side. Is there somebody who may still have something for it?
    fn is_expected_to_answer(&mut self) -> bool {
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

// --------------------------------------------------------------------------------------------- callbacks

/// Input for `data`, `len` bytes, whose answer is sent at once.
#[inline(always)]
fn deliver<H: Handler>(
    transport: &Option<Transport>,
    stream: &Stream,
    inner: &mut Inner,
    context: &mut H::Context,
    lp: &Loop<H>,
    Hands { handler, out, input }: &mut Hands<H>,
    len: usize,
) {
    let input = &input[..len];
    if inner.has(REST | IDLE) {
        inner.touch();
        if inner.has(REST) {
            return Borrowed { transport, inner, context, lp, handler, out }.data(input);
        }
    }
    let panics = lp.note_panics();
    let conn = &mut Conn { context, out, link: Link::Stream(transport, inner), server: &lp.server };
    let reply = handler.data(conn, input);
    mem::forget(panics);
    if inner.has(REST | WATCHED) || !out.is_empty() {
        return Borrowed { transport, inner, context, lp, handler, out }.answer_at_once(stream, input, reply);
    }
    if !reply.output.is_empty() {
        if let Err(unsent) = stream.try_write_all(&reply.output) {
            return inner.sent_partly(unsent, reply);
        }
    }
    if reply.action != Action::None {
        inner.close_later(reply.action);
    }
}

/// A connection, and what the loop lends it for a callback.
struct Borrowed<'a, H: Handler> {
    transport: &'a Option<Transport>,
    inner: &'a mut Inner,
    context: &'a mut H::Context,
    lp: &'a Loop<H>,
    handler: &'a mut H,
    out: &'a mut Vec<u8>,
}

impl<H: Handler> Borrowed<'_, H> {
    /// A callback. What it appends to its output is sent after all that waits already.
    #[inline]
    fn call<R>(&mut self, f: impl FnOnce(&mut H, &mut Conn<'_, H::Context>) -> R) -> R {
        let panics = self.lp.note_panics();
        let link = Link::Stream(self.transport, self.inner);
        let conn = &mut Conn { context: self.context, out: self.out, link, server: &self.lp.server };
        let result = f(self.handler, conn);
        mem::forget(panics);
        if !self.out.is_empty() {
            self.inner.keep(mem::take(self.out), 0);
        }
        result
    }

    /// The answer to `input`, of which something may be left, with what the callback has appended to its output.
    #[inline(never)]
    fn answer_at_once(mut self, stream: &Stream, input: &[u8], Reply { output, action }: Reply<'_>) {
        if self.inner.has(REST) {
            let panics = self.lp.note_panics();
            self.inner.keep_rest(input);
            mem::forget(panics);
        }
        if !self.out.is_empty() {
            self.out.extend_from_slice(&output);
            let mut bytes = mem::take(self.out);
            if let Err(unsent) = self.send(stream, &bytes) {
                return self.inner.sent_partly(unsent, Reply { output: bytes.into(), action });
            }
            if bytes.capacity() <= KEEP {
                bytes.clear();
                *self.out = bytes;
            }
        } else if !output.is_empty() {
            if let Err(unsent) = self.send(stream, &output) {
                return self.inner.sent_partly(unsent, Reply { output, action });
            }
        }
        if action != Action::None {
            self.inner.close_later(action);
        }
    }

    /// Sends what can be sent at once.
    fn send(&mut self, stream: &Stream, bytes: &[u8]) -> Result<(), Unsent> {
        if !self.inner.has(WATCHED) {
            return stream.try_write_all(bytes);
        }
        self.call(|handler, conn| handler.pre_write(conn));
        let result = stream.try_write_all(bytes);
        let sent = result.as_ref().map_or_else(|unsent| unsent.sent, |()| bytes.len());
        if sent > 0 {
            self.call(|handler, conn| handler.post_write(conn, sent, bytes.len() - sent));
        }
        result
    }

    /// A wake, which is no sign of life of the peer, and leaves alone what was left of its input.
    fn woken(&mut self) {
        let (reply, _) = self.call_data(&[]);
        if self.inner.has(REST) && self.inner.extras().rest.is_empty() {
            self.inner.unset(REST);
        }
        self.answer(reply);
    }

    /// Input. The answer waits to be sent.
    #[cold]
    #[inline(never)]
    fn data(&mut self, input: &[u8]) {
        self.inner.touch();
        let mut rest = Vec::new();
        if self.inner.has(REST) {
            self.inner.unset(REST);
            rest = mem::take(&mut self.inner.extras().rest);
            rest.extend_from_slice(input);
        }
        let input = if rest.is_empty() { input } else { &rest };
        let (reply, left) = self.call_data(input);
        self.answer(reply);
        if left > 0 {
            // What was left before, and is again, is not copied: however often it is, that costs no more than its length.
            let left = if left == rest.len() { rest } else { input[input.len() - left..].to_vec() };
            self.inner.extras().rest = left;
        } else {
            self.inner.unset(REST);
        }
    }

    /// The answer, and how much of the input it has left.
    fn call_data<'i>(&mut self, input: &'i [u8]) -> (Reply<'i>, usize) {
        let reply = self.call(|handler, conn| handler.data(conn, input));
        // To leave more than there was is a panic of the callback.
        let panics = self.lp.note_panics();
        let left = if self.inner.has(REST) { self.inner.take_unread(input.len()) } else { 0 };
        mem::forget(panics);
        (reply, left)
    }

    fn opened(&mut self) {
        let Opened { reply, options } = self.call(|handler, conn| handler.opened(conn));
        if !self.inner.has(FAILED) {
            match self.inner.set_options(self.transport, &options) {
                Ok(()) => return self.answer(reply),
                Err(e) => self.inner.fail(e),
            }
        }
        if reply.action == Action::Shutdown {
            self.inner.close_later(Action::Shutdown);
        }
    }

    fn answer(&mut self, Reply { output, action }: Reply<'_>) {
        if !output.is_empty() {
            self.inner.keep(output.into_owned(), 0);
        }
        if action != Action::None {
            self.inner.close_later(action);
        }
    }
}

impl<H: Handler> Connection<H> {
    /// One attempt to send.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let watched = self.inner.has(WATCHED);
        if watched {
            self.hands(|hands| hands.call(|handler, conn| handler.pre_write(conn)));
        }
        let Some(transport) = &mut self.transport else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let sent = ready!(transport.poll_write(cx, bytes))?;
        self.inner.touch();
        if watched {
            let left = bytes.len() - sent;
            self.hands(|hands| hands.call(|handler, conn| handler.post_write(conn, sent, left)));
        }
        Poll::Ready(Ok(sent))
    }

    /// Sends what waits to be sent.
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let extras = self.inner.extras();
        // Callbacks may add to it meanwhile.
        let (mut unsent, before) = (mem::take(&mut extras.unsent), mem::take(&mut extras.sent));
        let mut sent = before;
        let result = loop {
            if sent == unsent.len() {
                break match &mut self.transport {
                    Some(transport) => transport.poll_flush(cx),
                    None => Poll::Ready(Ok(())),
                };
            }
            match self.write(cx, &unsent[sent..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(e)) => break Poll::Ready(Err(e)),
                Poll::Pending => break Poll::Pending,
            }
        };
        let extras = self.inner.extras();
        unsent.append(&mut extras.unsent);
        (extras.unsent, extras.sent) = (unsent, sent);
        if extras.held() == 0 && result.is_ready() {
            self.inner.unset(UNSENT);
            self.give_back_buffer();
        }
        self.tell(sent - before);
        match result {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(e)) => {
                self.inner.fail(e);
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// All has gone: a connection that waits for its peer needs no buffer. The loop's own may have come here.
    fn give_back_buffer(&mut self) {
        let extras = self.inner.extras();
        extras.sent = 0;
        let mut buffer = mem::take(&mut extras.unsent);
        let out = &mut self.lp.hands.borrow_mut().out;
        if out.capacity() < buffer.capacity() && buffer.capacity() <= KEEP {
            buffer.clear();
            *out = buffer;
        }
    }

    /// Output of the handles comes after that which there is.
    fn queued(&mut self, shared: &Shared) {
        let extras = self.inner.extras();
        extras.compact();
        let before = extras.position + extras.held() as u64;
        let mut done = Vec::new();
        let (base, taken) = shared.take_writes(&mut extras.unsent, &mut done);
        // Also if it is only a write of nothing: somebody wants to know when that is done.
        let news = taken > 0 || !done.is_empty();
        extras.done.extend(done.into_iter().map(|(end, done)| (before + (end - base), done)));
        if news {
            self.inner.set(UNSENT);
        }
    }

    /// So many more bytes have gone: whoever waits for that is told.
    fn tell(&mut self, moved: usize) {
        let extras = self.inner.extras();
        extras.position += moved as u64;
        if let Some(shared) = &extras.shared {
            shared.holds(extras.held());
        }
        let position = extras.position;
        let gone = extras.done.iter().take_while(|(end, _)| *end <= position).count();
        let gone: Vec<_> = extras.done.drain(..gone).collect();
        if !gone.is_empty() {
            let panics = self.lp.note_panics();
            handle::tell_all(gone, || Ok(()));
            mem::forget(panics);
        }
    }
}

impl Extras {
    /// How many bytes wait to be sent.
    fn held(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Gives up the part that has gone, before there is more: a peer that is always a little behind must not make it grow.
    fn compact(&mut self) {
        if self.sent > self.unsent.len() / 2 {
            self.unsent.drain(..self.sent);
            self.sent = 0;
        }
    }
}
