//! Callbacks of a connection, and what becomes of their answers.

use super::conn::Link;
use super::serve::{Hands, Loop};
use super::state::{FAILED, IDLE, Inner, REST, WATCHED};
use super::transport::Transport;
use super::{Action, Conn, Handler, Opened, Reply};
use crate::io::{Stream, Unsent};
use std::mem;

/// A buffer that has grown beyond this is not kept.
pub(super) const KEEP: usize = 256 * 1024;

/// Input for `data`, `len` bytes, whose answer is sent at once.
#[inline(always)]
pub(super) fn deliver<H: Handler>(
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
        if inner.has(REST) {
            return Borrowed { transport, inner, context, lp, handler, out }.data(input);
        }
        inner.touch();
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
pub(super) struct Borrowed<'a, H: Handler> {
    pub transport: &'a Option<Transport>,
    pub inner: &'a mut Inner,
    pub context: &'a mut H::Context,
    pub lp: &'a Loop<H>,
    pub handler: &'a mut H,
    pub out: &'a mut Vec<u8>,
}

impl<H: Handler> Borrowed<'_, H> {
    /// A callback. What it appends to its output is sent after all that waits already.
    #[inline]
    pub fn call<R>(&mut self, f: impl FnOnce(&mut H, &mut Conn<'_, H::Context>) -> R) -> R {
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
    pub fn answer_at_once(mut self, stream: &Stream, input: &[u8], Reply { output, action }: Reply<'_>) {
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
    pub fn send(&mut self, stream: &Stream, bytes: &[u8]) -> Result<(), Unsent> {
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
    pub fn woken(&mut self) {
        let (reply, _) = self.call_data(&[]);
        if self.inner.has(REST) && self.inner.extras().rest.is_empty() {
            self.inner.unset(REST);
        }
        self.answer(reply);
    }

    /// Input. The answer waits to be sent.
    #[cold]
    #[inline(never)]
    pub fn data(&mut self, input: &[u8]) {
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
    pub fn call_data<'i>(&mut self, input: &'i [u8]) -> (Reply<'i>, usize) {
        let reply = self.call(|handler, conn| handler.data(conn, input));
        // To leave more than there was is a panic of the callback.
        let panics = self.lp.note_panics();
        let left = if self.inner.has(REST) { self.inner.take_unread(input.len()) } else { 0 };
        mem::forget(panics);
        (reply, left)
    }

    pub fn opened(&mut self) {
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

    pub fn answer(&mut self, Reply { output, action }: Reply<'_>) {
        if !output.is_empty() {
            self.inner.keep(output.into_owned(), 0);
        }
        if action != Action::None {
            self.inner.close_later(action);
        }
    }
}
