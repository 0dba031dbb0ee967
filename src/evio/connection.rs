//! A connection under callbacks: one task.
//!
//! It reads into a buffer that the loop lends, calls [`data`](Handler::data), and tries to send the answer at once. While
//! that works, the connection has nothing of its own but this struct. What the peer does not take yet, and everything
//! else that is not usual, is in its [`Extras`](super::state::Extras), and a flag in [`SLOW`] says that [`settle`](Connection::settle) has to look
//! at it before the next read.

use super::callback::{Borrowed, KEEP, deliver};
use super::handle::{self, Shared};
use super::serve::{Hands, Loop};
use super::state::{
    ACTION, CLOSING, COUNTED, DRAINING, Due, ENDED, FAILED, HANDLE, IDLE, INPUT, Inner, NEW, OPEN, SLOW,
    TIMER, UNSENT, WAKE, WATCHED, WOKEN,
};
use super::transport::Transport;
use super::{Action, Addr, DetachedStream, Handler, Origin};
use crate::io::ReadAndWait;
use std::future::Future;
use std::io;
use std::mem;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

/// The peer may take so long, and send so much, until it closes its side as well.
const DRAIN: Duration = Duration::from_secs(1);
const DRAIN_MAX: usize = 1 << 20;
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

#[derive(PartialEq, Eq)]
enum Next {
    Read,
    End,
}

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
        let (transport, error) = match transport {
            Ok(transport) => (Some(transport), None),
            Err(e) => (None, Some(e)),
        };
        let watched = if lp.watches_writes { WATCHED } else { 0 };
        let mut inner = Inner::new(peer, origin, addr_index, NEW | COUNTED | watched);
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
