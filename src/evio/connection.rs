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
use crate::io::{KeepAlive, Stream};
use crate::time::Timer;
use std::future::Future;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

/// The peer may take so long to read the last output.
const LINGER: Duration = Duration::from_secs(10);
/// Others who have a handle may take so long to answer after the peer has ended its side.
const HALF_CLOSE: Duration = Duration::from_secs(1);
/// The peer may take so long, and send so much, until it closes its side as well.
const DRAIN: Duration = Duration::from_secs(1);
const DRAIN_MAX: usize = 1 << 20;
/// A buffer that has grown beyond this is not kept.
const KEEP: usize = 256 * 1024;
/// What is read at a time through a filter.
const FILTERED: usize = 64 * 1024;

pub(super) struct Connection<H: Handler> {
    inner: Inner,
    context: H::Context,
    lp: Rc<Loop<H>>,
}

impl<H: Handler> Unpin for Connection<H> {}

/// The part that callbacks may use.
pub(super) struct Inner {
    /// `None` if it could not be dialed, or has been detached.
    transport: Option<Transport>,
    extras: Option<Box<Extras>>,
    peer: Peer,
    flags: u16,
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
    linger: Duration,
    half_close: Duration,
    high_water: usize,
    timer: Timer,
    due: Due,
    shared: Option<Arc<Shared>>,
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
const NEW: u16 = 1;
/// There is output to be sent.
const UNSENT: u16 = 1 << 1;
/// There is something to be done after that.
const ACTION: u16 = 1 << 2;
/// `data` is to be called with an empty input.
const WOKEN: u16 = 1 << 3;
/// Others may have left a signal.
const HANDLE: u16 = 1 << 4;
/// There is input to be delivered before the next read: it came with an attached stream.
const INPUT: u16 = 1 << 5;
/// The peer has ended its side.
const ENDED: u16 = 1 << 6;
/// It cannot go on, because of `error`.
const FAILED: u16 = 1 << 7;
/// Its side is to be ended, output first.
const CLOSING: u16 = 1 << 8;
/// It is over, and what the peer still sends is thrown away, so that it can read to the end.
const DRAINING: u16 = 1 << 9;
/// What makes `settle` look.
const SLOW: u16 = NEW | UNSENT | ACTION | WOKEN | HANDLE | INPUT | ENDED | FAILED | CLOSING | DRAINING;

/// `opened` has been called, and neither `closed` nor `detached`.
const OPEN: u16 = 1 << 10;
/// It is counted among the connections of its loop.
const COUNTED: u16 = 1 << 11;
/// The timer runs.
const TIMER: u16 = 1 << 12;
/// Every sign of life puts the timer off.
const IDLE: u16 = 1 << 13;
/// Input was left for the next time.
const REST: u16 = 1 << 14;
/// The callback that is running answers a wake.
const WAKE: u16 = 1 << 15;

const NO_INDEX: u16 = u16::MAX;

#[derive(PartialEq, Eq)]
enum Next {
    Read,
    End,
}

// ---------------------------------------------------------------------------------- what callbacks may do

impl Inner {
    fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    fn set(&mut self, flags: u16) {
        self.flags |= flags;
    }

    fn unset(&mut self, flags: u16) {
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
                linger: LINGER,
                half_close: HALF_CLOSE,
                high_water: HIGH_WATER,
                timer: Timer::never(),
                due: Due::Nothing,
                shared: None,
                error: None,
                drained: 0,
            })
        })
    }

    pub fn addr_index(&self) -> Option<usize> {
        (self.addr_index != NO_INDEX).then_some(usize::from(self.addr_index))
    }

    pub fn local_addr(&self) -> io::Result<Addr> {
        match &self.transport {
            Some(transport) => transport.local_addr(),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "there is no connection")),
        }
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
        self.extras().unread = len;
        self.set(REST);
    }

    pub fn set_options(&mut self, options: &Options) -> io::Result<()> {
        if let Some(idle) = options.idle_timeout {
            self.extras().idle = Some(idle);
            self.set(IDLE);
            self.arm(Due::Idle, idle);
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
        if let Some(Transport::Plain(Stream::Tcp(stream))) = &self.transport {
            if let Some(on) = options.nodelay {
                stream.get_ref().set_nodelay(on)?;
            }
            if let Some(time) = options.keepalive {
                stream.set_keep_alive(KeepAlive { idle: time, interval: time, ..KeepAlive::default() })?;
            }
        }
        Ok(())
    }

    pub fn handle(&mut self, waker: &Waker, id: impl FnOnce() -> u64) -> ConnHandle {
        if let Some(shared) = &self.extras().shared {
            return ConnHandle::of(shared);
        }
        let handle = ConnHandle::new(id(), self.extras().high_water);
        if self.has(OPEN) {
            self.set(HANDLE);
            handle.shared().start(waker);
        } else {
            handle.shared().close();
        }
        self.tell_addrs(handle.shared());
        self.extras().shared = Some(handle.shared().clone());
        handle
    }

    fn tell_addrs(&self, shared: &Shared) {
        if let Ok(addr) = self.local_addr() {
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

    /// A sign of life.
    fn touch(&mut self) {
        if self.has(IDLE) {
            let extras = self.extras();
            if let (Due::Idle | Due::Nothing, Some(idle)) = (extras.due, extras.idle) {
                self.arm(Due::Idle, idle);
            }
        }
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
            transport,
            extras: None,
            peer,
            flags: NEW | COUNTED,
            addr_index: addr_index.map_or(NO_INDEX, |i| u16::try_from(i).unwrap_or(NO_INDEX)),
            origin,
        };
        if let Some(error) = error {
            inner.fail(error);
        }
        Connection { inner, context, lp }
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
        self.inner.tell_addrs(&shared);
        self.inner.extras().shared = Some(shared);
        self.inner.set(HANDLE);
        self
    }
}

impl<H: Handler> Future for Connection<H> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            if (this.inner.has(SLOW) || this.lp.stopping.get()) && ready!(this.settle(cx)) == Next::End {
                return Poll::Ready(());
            }
            let end = match &this.inner.transport {
                Some(Transport::Plain(stream)) => match stream.poll_read_chunk(cx) {
                    Poll::Ready(Ok(chunk)) if !chunk.is_empty() => {
                        this.deliver(cx, &chunk);
                        continue;
                    }
                    Poll::Ready(end) => end.map(drop),
                    Poll::Pending => {
                        ready!(this.wait(cx));
                        continue;
                    }
                },
                _ => match this.read_filtered(cx) {
                    Poll::Ready(Ok(0)) => Ok(()),
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(e)) => Err(e),
                    Poll::Pending => {
                        ready!(this.wait(cx));
                        continue;
                    }
                },
            };
            match end {
                Ok(()) => this.inner.set(ENDED),
                Err(e) => this.inner.fail(e),
            }
        }
    }
}

impl<H: Handler> Connection<H> {
    /// There is nothing to do for the socket; is there for the timer?
    #[inline]
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.has(TIMER) { self.poll_timer(cx) } else { Poll::Pending }
    }

    #[cold]
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let extras = self.inner.extras();
        ready!(Pin::new(&mut extras.timer).poll(cx));
        let due = mem::replace(&mut extras.due, Due::Nothing);
        self.inner.unset(TIMER);
        let timed_out = |text| io::Error::new(io::ErrorKind::TimedOut, text);
        match due {
            Due::Nothing => {}
            Due::Idle => self.inner.fail(timed_out("no byte was received or sent for the idle timeout")),
            Due::Linger => {
                self.inner.fail(timed_out("the peer did not read the last output within the linger time"))
            }
            Due::HalfClose => self.inner.close_later(Action::Close),
            Due::Drain => self.inner.set(FAILED),
        }
        Poll::Ready(())
    }

    /// Input, or a wake.
    #[inline]
    fn deliver(&mut self, cx: &mut Context<'_>, input: &[u8]) {
        if self.inner.has(REST | IDLE) {
            return self.deliver_with_rest(cx, input);
        }
        self.hands(|hands| hands.data(cx, input));
        if self.inner.has(REST) {
            self.inner.keep_rest(input);
        }
    }

    #[cold]
    fn deliver_with_rest(&mut self, cx: &mut Context<'_>, input: &[u8]) {
        self.inner.touch();
        self.inner.unset(REST);
        let mut rest = mem::take(&mut self.inner.extras().rest);
        let input = if rest.is_empty() {
            input
        } else {
            rest.extend_from_slice(input);
            &rest
        };
        self.hands(|hands| hands.data(cx, input));
        if self.inner.has(REST) {
            self.inner.keep_rest(input);
        }
    }

    /// With what the loop lends to all its connections.
    #[inline]
    fn hands<R>(&mut self, f: impl FnOnce(&mut Borrowed<'_, H>) -> R) -> R {
        let Connection { inner, context, lp } = self;
        let Hands { handler, out, aside } = &mut *lp.hands.borrow_mut();
        f(&mut Borrowed { inner, context, lp, handler, out, aside })
    }

    /// Reads from what is behind a filter, and delivers it. Says how much that was.
    #[cold]
    fn read_filtered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(transport) = &mut self.inner.transport else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut buffer = self.lp.filtered.take();
        buffer.resize(FILTERED, 0);
        let read = transport.poll_read(cx, &mut buffer);
        if let Poll::Ready(Ok(n @ 1..)) = read {
            self.deliver(cx, &buffer[..n]);
        }
        self.lp.filtered.set(buffer);
        read
    }

    /// All that has to be done before the next read.
    #[cold]
    fn settle(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut woken = false;
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
                self.open(cx);
                continue;
            }
            if self.inner.has(FAILED) {
                let error = self.inner.extras().error.take();
                self.finish(cx.waker(), error);
                return Poll::Ready(Next::End);
            }
            if self.inner.has(HANDLE) && self.listen() {
                self.finish(cx.waker(), None);
                return Poll::Ready(Next::End);
            }
            if self.inner.has(UNSENT) {
                if stopping && !self.inner.has(ACTION) {
                    self.inner.close_later(Action::Close);
                }
                if self.hands(|hands| hands.flush(cx)).is_pending() {
                    ready!(self.wait(cx));
                }
                continue;
            }
            if self.inner.has(ACTION) {
                self.inner.unset(ACTION);
                let action = self.inner.extras().action;
                if action == Action::Detach {
                    self.detach(cx.waker());
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
                self.deliver(cx, &input);
                continue;
            }
            if self.inner.has(WOKEN) {
                if !woken {
                    woken = true;
                    self.inner.unset(WOKEN);
                    self.inner.set(WAKE);
                    self.hands(|hands| hands.data(cx, &[]));
                    self.inner.unset(WAKE);
                    continue;
                }
                // It wakes itself again and again: its input has its turn before that, and so have all others.
                cx.waker().wake_by_ref();
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

    fn open(&mut self, cx: &mut Context<'_>) {
        self.inner.unset(NEW);
        self.inner.set(OPEN);
        if let Some(shared) = self.inner.extras.as_ref().and_then(|extras| extras.shared.clone()) {
            shared.start(cx.waker());
        }
        self.hands(|hands| hands.opened(cx));
    }

    /// Does what others want of the connection. `true`: it shall end now.
    fn listen(&mut self) -> bool {
        let Some(shared) = self.inner.extras().shared.clone() else { return false };
        let signals = shared.take_signals();
        if signals & handle::FORCE != 0 {
            return true;
        }
        if signals & handle::WRITE != 0 {
            self.hands(|hands| hands.queued(&shared));
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
        let inner = &mut self.inner;
        inner.set(CLOSING);
        let ended = inner.has(ENDED);
        match &mut inner.transport {
            // The peer knows that nothing more comes, and has nothing more to send: there is nothing to wait for.
            Some(Transport::Plain(_)) if ended => {}
            Some(Transport::Plain(stream)) => {
                // The peer may have been faster.
                let _ = stream.shutdown(Shutdown::Write);
            }
            Some(transport) => match transport.poll_close(cx) {
                Poll::Ready(_) => {}
                Poll::Pending => {
                    ready!(self.wait(cx));
                    return Poll::Ready(None);
                }
            },
            None => {}
        }
        self.finish(cx.waker(), None);
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
            let read = match &mut self.inner.transport {
                Some(Transport::Plain(stream)) => stream.poll_read_chunk(cx).map_ok(|chunk| chunk.len()),
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

    fn detach(&mut self, waker: &Waker) {
        let Some(transport) = self.inner.transport.take() else { return };
        let extras = self.inner.extras();
        let rest = mem::take(&mut extras.rest);
        if let Some(shared) = extras.shared.take() {
            shared.close();
        }
        self.inner.unset(OPEN | HANDLE);
        let stream = DetachedStream::new(transport, rest);
        let result = self.hands(|hands| {
            let result = hands.call(waker, |handler, conn| handler.detached(conn, stream));
            hands.aside.clear();
            result
        });
        match result {
            Ok(action) => self.uncount(action),
            Err(stream) => {
                self.inner.transport = Some(stream.into_transport().0);
                self.inner.set(OPEN);
                self.finish(waker, None);
            }
        }
    }

    /// The end of a connection under callbacks: all are told.
    fn finish(&mut self, waker: &Waker, error: Option<io::Error>) {
        if let Some(extras) = &mut self.inner.extras {
            let done = mem::take(&mut extras.done);
            if let Some(shared) = &extras.shared {
                shared.close();
            }
            handle::fail_all(done);
        }
        let mut action = Action::None;
        if self.inner.has(OPEN) {
            self.inner.unset(OPEN | HANDLE);
            action = self.hands(|hands| {
                let action = hands.call(waker, |handler, conn| handler.closed(conn, error.as_ref()));
                hands.aside.clear();
                action
            });
        }
        self.uncount(action);
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
        let error = panicked.then(|| io::Error::other("a callback of this connection has panicked"));
        self.finish(Waker::noop(), error);
    }
}

impl Inner {
    #[cold]
    fn keep_rest(&mut self, input: &[u8]) {
        let extras = self.extras();
        let left = mem::take(&mut extras.unread);
        assert!(left <= input.len(), "unread({left}), but the input had {} bytes", input.len());
        extras.rest = input[input.len() - left..].to_vec();
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

/// A connection, and what the loop lends it for a callback.
struct Borrowed<'a, H: Handler> {
    inner: &'a mut Inner,
    context: &'a mut H::Context,
    lp: &'a Loop<H>,
    handler: &'a mut H,
    /// For the output of `data` and `opened`.
    out: &'a mut Vec<u8>,
    /// For that of the others: `out` is being sent meanwhile.
    aside: &'a mut Vec<u8>,
}

impl<H: Handler> Borrowed<'_, H> {
    fn call<R>(&mut self, waker: &Waker, f: impl FnOnce(&mut H, &mut Conn<'_, H::Context>) -> R) -> R {
        let panics = self.lp.note_panics();
        let link = Link::Stream(self.inner, waker);
        let conn = &mut Conn { context: self.context, out: self.aside, link, server: &self.lp.server };
        let result = f(self.handler, conn);
        mem::forget(panics);
        result
    }

    #[inline]
    fn data(&mut self, cx: &mut Context<'_>, input: &[u8]) {
        let panics = self.lp.note_panics();
        let link = Link::Stream(self.inner, cx.waker());
        let conn = &mut Conn { context: self.context, out: self.out, link, server: &self.lp.server };
        let reply = self.handler.data(conn, input);
        mem::forget(panics);
        self.answer(cx, reply);
    }

    fn opened(&mut self, cx: &mut Context<'_>) {
        let panics = self.lp.note_panics();
        let link = Link::Stream(self.inner, cx.waker());
        let conn = &mut Conn { context: self.context, out: self.out, link, server: &self.lp.server };
        let Opened { reply, options } = self.handler.opened(conn);
        mem::forget(panics);
        if self.inner.has(FAILED) {
            self.out.clear();
        } else if let Err(e) = self.inner.set_options(&options) {
            self.inner.fail(e);
        } else {
            self.answer(cx, reply);
        }
    }

    /// Sends what a callback has answered, and notes what is to be done after that.
    #[inline]
    fn answer(&mut self, cx: &mut Context<'_>, Reply { output, action }: Reply<'_>) {
        if !self.out.is_empty() {
            self.send_out(cx, &output);
        } else if !output.is_empty() {
            let sent = self.try_send(cx, &output);
            if sent < output.len() {
                self.inner.keep(output.into_owned(), sent);
            }
        }
        if !self.aside.is_empty() {
            self.take_aside();
        }
        if action != Action::None {
            self.inner.close_later(action);
        }
    }

    /// What was appended to `out`, and then `output`.
    fn send_out(&mut self, cx: &mut Context<'_>, output: &[u8]) {
        let mut out = mem::take(self.out);
        out.extend_from_slice(output);
        let sent = self.try_send(cx, &out);
        if sent < out.len() {
            self.inner.keep(out, sent);
        } else if out.capacity() <= KEEP {
            out.clear();
            *self.out = out;
        }
    }

    /// Sends what can be sent at once, if nothing else waits to be sent. Returns how much that was.
    #[inline]
    fn try_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        if self.inner.has(UNSENT | FAILED) || !matches!(self.inner.transport, Some(Transport::Plain(_))) {
            return 0;
        }
        match self.write(cx, bytes) {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(e)) => {
                self.inner.fail(e);
                0
            }
            Poll::Pending => 0,
        }
    }

    /// One attempt.
    #[inline]
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.call(cx.waker(), |handler, conn| handler.pre_write(conn));
        let Some(transport) = &mut self.inner.transport else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let sent = ready!(transport.poll_write(cx, bytes))?;
        self.inner.touch();
        self.call(cx.waker(), |handler, conn| handler.post_write(conn, sent, bytes.len() - sent));
        Poll::Ready(Ok(sent))
    }

    /// Sends what waits to be sent.
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let unsent = mem::take(&mut self.inner.extras().unsent);
        let mut sent = self.inner.extras().sent;
        let result = loop {
            if sent == unsent.len() {
                break match &mut self.inner.transport {
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
        let moved = sent - self.inner.extras().sent;
        let extras = self.inner.extras();
        (extras.unsent, extras.sent) = (unsent, sent);
        let is_over = matches!(result, Poll::Ready(Ok(())));
        if is_over {
            self.inner.unset(UNSENT);
            let unsent = &mut self.inner.extras().unsent;
            unsent.clear();
            unsent.shrink_to(KEEP);
            self.inner.extras().sent = 0;
        }
        self.take_aside();
        self.tell(moved);
        match result {
            Poll::Ready(Err(e)) => {
                self.inner.fail(e);
                Poll::Ready(())
            }
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }

    /// What was appended while output was being sent comes after that.
    #[cold]
    fn take_aside(&mut self) {
        if !self.aside.is_empty() {
            self.inner.keep(mem::take(self.aside), 0);
        }
    }

    /// Output of the handles comes after that which there is.
    fn queued(&mut self, shared: &Shared) {
        let extras = self.inner.extras();
        extras.compact();
        let before = extras.position + extras.held() as u64;
        let mut done = Vec::new();
        let (base, taken) = shared.take_writes(&mut extras.unsent, &mut done);
        extras.done.extend(done.into_iter().map(|(end, done)| (before + (end - base), done)));
        // Who has written nothing is told at once, unless something is before it.
        if taken > 0 || !extras.done.is_empty() {
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
        for (_, done) in gone {
            done(Ok(()));
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
