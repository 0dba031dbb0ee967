//! Messages out of a byte stream, which comes in packets that end anywhere.

use std::fmt;
use std::ops::Deref;

/// What a handler has received and could not use yet: the beginning of a message whose end has not come.
///
/// It is kept by the handler, in the context of a connection. Each time that bytes come, [`begin`](InputStream::begin)
/// gives them together with those that were left over; what is not consumed then is there the next time.
///
/// While nothing is left over, nothing is copied and no memory is held. A byte is copied a bounded number of times,
/// however small the packets and the messages are. The stream has no limit of its own: whoever waits for a message that
/// may be long compares its length with one.
///
/// # Examples
///
/// Lines, by a [cursor](Input):
///
/// ```
/// use wakewheel::evio::InputStream;
///
/// /// Answers each whole line. `packet` is what has come just now.
/// fn data(stream: &mut InputStream, packet: &[u8]) -> Vec<u8> {
///     let mut out = Vec::new();
///     let mut input = stream.begin(packet);
///     while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
///         let line = input.next(end + 1).unwrap_or_default();
///         out.extend_from_slice(b"> ");
///         out.extend_from_slice(line);
///     }
///     out
/// }
///
/// let mut stream = InputStream::new();
/// assert_eq!(data(&mut stream, b"one\ntwo\nthr"), b"> one\n> two\n");
/// assert_eq!(data(&mut stream, b"ee\n"), b"> three\n");
/// ```
///
/// As in Go's evio, with a parser that goes over a slice and leaves its end:
///
/// ```
/// use wakewheel::evio::InputStream;
///
/// /// A byte that is the length, and as many bytes: the message, and what comes after it.
/// fn parse(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
///     let (len, bytes) = bytes.split_first()?;
///     bytes.split_at_checked(usize::from(*len))
/// }
///
/// let mut stream = InputStream::new();
/// for packet in [&b"\x02hi\x05the"[..], b"re"] {
///     let mut input = stream.begin(packet);
///     let mut bytes = &input[..];
///     while let Some((message, rest)) = parse(bytes) {
///         println!("{}", String::from_utf8_lossy(message));
///         bytes = rest;
///     }
///     input.end(bytes.len());
/// }
/// assert!(stream.is_empty());
/// ```
#[derive(Clone, Default)]
pub struct InputStream {
    /// The bytes from `start` on are left over.
    buffer: Vec<u8>,
    start: usize,
}

/// What an idle connection may hold, so that the small leftovers of a busy one need no allocation each time.
const SMALL: usize = 1024;

impl InputStream {
    /// Nothing is left over.
    pub const fn new() -> InputStream {
        InputStream { buffer: Vec::new(), start: 0 }
    }

    /// What was left over, and `packet` after it.
    ///
    /// When the [`Input`] is dropped, the stream keeps what has not been consumed of it. That is so after an early return
    /// or a panic as well.
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::evio::InputStream;
    ///
    /// let mut stream = InputStream::new();
    /// stream.begin(b"HELLO").discard(3);
    /// assert_eq!(&*stream.begin(b"WLY"), b"LOWLY");
    /// ```
    #[must_use = "dropped as it is, it keeps all that has come"]
    pub fn begin<'a>(&'a mut self, packet: &'a [u8]) -> Input<'a> {
        if self.is_empty() {
            return Input { stream: self, packet };
        }
        self.buffer.extend_from_slice(packet);
        Input { stream: self, packet: &[] }
    }

    /// So many bytes are left over.
    pub fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Is nothing left over? At the end of a connection: did it end between two messages?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets what is left over, and gives its memory back.
    pub fn clear(&mut self) {
        *self = InputStream::new();
    }

    /// The room in front of what is left over, and after it, is given back once it is most of the buffer. Both cost no
    /// more copying than there were bytes consumed (or appended, to make the buffer so large) since the last time.
    fn compact(&mut self) {
        let len = self.len();
        if len <= self.start {
            self.buffer.copy_within(self.start.., 0);
            self.buffer.truncate(len);
            self.start = 0;
        }
        if self.buffer.capacity() > SMALL && self.buffer.len() <= self.buffer.capacity() / 4 {
            self.buffer.shrink_to_fit();
        }
    }
}

/// How much is left over. The bytes are the peer's, and may be anything.
impl fmt::Debug for InputStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputStream").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The bytes that are not consumed yet, as a slice and as a cursor; made by [`begin`](InputStream::begin).
///
/// When it is dropped, the stream keeps them for the next time.
///
/// # Examples
///
/// Messages with their length before them:
///
/// ```
/// use wakewheel::evio::InputStream;
///
/// let mut stream = InputStream::new();
/// let mut messages = Vec::new();
/// for packet in [&b"\0\0\0\x05he"[..], b"llo\0\0\0", b"\x01!\0"] {
///     let mut input = stream.begin(packet);
///     while let Some(len) = input.peek(4) {
///         let len = u32::from_be_bytes(len.try_into().unwrap()) as usize;
///         let Some(message) = input.next(4 + len) else { break };
///         messages.push(message[4..].to_vec());
///     }
/// }
/// assert_eq!(messages, [&b"hello"[..], b"!"]);
/// assert_eq!(stream.len(), 1);
/// ```
pub struct Input<'a> {
    /// Has the bytes, if `packet` is empty.
    stream: &'a mut InputStream,
    /// All of the bytes, if the stream is empty; what is left of them is copied at the end.
    packet: &'a [u8],
}

impl Input<'_> {
    /// The next `n` bytes, which stay where they are. `None` if there are not as many yet.
    pub fn peek(&self, n: usize) -> Option<&[u8]> {
        self.get(..n)
    }

    /// Consumes the next `n` bytes. `None`, and nothing is consumed, if there are not as many yet.
    pub fn next(&mut self, n: usize) -> Option<&[u8]> {
        if n > self.len() {
            return None;
        }
        if self.stream.is_empty() {
            let (next, packet) = self.packet.split_at(n);
            self.packet = packet;
            return Some(next);
        }
        let start = self.stream.start;
        self.stream.start += n;
        // At the end of this, `packet` is empty, as the stream is.
        Some(&self.stream.buffer[start..start + n])
    }

    /// Passes over the next `n` bytes, or as many as there are, and says how many that were.
    pub fn discard(&mut self, n: usize) -> usize {
        let n = n.min(self.len());
        self.next(n);
        n
    }

    /// The bytes that are not consumed yet, as the `Deref` to a slice has them.
    pub fn rest(&self) -> &[u8] {
        self
    }

    /// Passes over all but the last `left` bytes, which the stream keeps for the next time: what evio calls `End`.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn end(&mut self, left: usize) {
        let len = self.len();
        assert!(left <= len, "{left} bytes cannot be left of {len}");
        self.next(len - left);
    }
}

impl Deref for Input<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.stream.is_empty() { self.packet } else { &self.stream.buffer[self.stream.start..] }
    }
}

impl AsRef<[u8]> for Input<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        // As a rule: whole messages have come, and nothing else.
        if self.packet.is_empty() && self.stream.buffer.is_empty() {
            return;
        }
        self.stream.compact();
        self.stream.buffer.extend_from_slice(self.packet);
    }
}

/// How much is not consumed yet. The bytes are the peer's, and may be anything.
impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::time::Instant;

    #[test]
    fn what_is_left_over_comes_before_the_next_packet() {
        let mut stream = InputStream::new();
        let mut input = stream.begin(b"HELLO");
        let rest = &input[3..];
        assert_eq!(rest, b"LO");
        input.end(rest.len());
        drop(input);

        let mut input = stream.begin(b"WLY");
        assert_eq!(&*input, b"LOWLY");
        input.end(0);
        drop(input);

        assert_eq!(stream.begin(b"PLAYER").rest(), b"PLAYER");
    }

    #[test]
    fn nothing_is_copied_or_held_while_nothing_is_left_over() {
        let mut stream = InputStream::new();
        let packet = b"a whole message";
        let mut input = stream.begin(packet);
        assert_eq!(input.as_ptr(), packet.as_ptr());
        assert_eq!(input.next(15).map(<[u8]>::as_ptr), Some(packet.as_ptr()));
        drop(input);
        assert_eq!(stream.buffer.capacity(), 0);
    }

    #[test]
    fn a_large_buffer_is_given_back_even_if_a_little_is_left_over() {
        for left in [0, 1, 100] {
            let mut stream = InputStream::new();
            let message = vec![b'x'; 1 << 20];
            drop(stream.begin(b"beginning"));
            drop(stream.begin(&message));
            assert_eq!(stream.len(), message.len() + 9);
            stream.begin(b"end").end(left);
            assert_eq!(stream.len(), left);
            assert!(stream.buffer.capacity() <= SMALL, "{} for {left}", stream.buffer.capacity());
        }
    }

    #[test]
    fn a_cursor_never_gives_less_than_was_asked_for() {
        let mut stream = InputStream::new();
        for _ in 0..2 {
            // The first time, the bytes are in the packet; the second time, in the stream.
            let mut input = stream.begin(b"abc");
            let len = input.len();
            assert_eq!(input.peek(len + 1), None);
            assert_eq!(input.next(len + 1), None);
            assert_eq!(input.next(0), Some(&b""[..]));
            assert_eq!(input.len(), len);
        }
        let mut input = stream.begin(b"");
        assert_eq!(input.next(2), Some(&b"ab"[..]));
        assert_eq!(input.peek(2), Some(&b"ca"[..]));
        assert_eq!((input.discard(99), input.discard(1), input.next(0)), (4, 0, Some(&b""[..])));
    }

    #[test]
    #[should_panic = "4 bytes cannot be left of 3"]
    fn more_cannot_be_left_than_there_was() {
        InputStream::new().begin(b"abc").end(4);
    }

    #[test]
    fn a_handler_that_fails_loses_nothing() {
        let mut stream = InputStream::new();
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut input = stream.begin(b"abc");
            input.discard(1);
            std::panic::resume_unwind(Box::new("parse error"));
        }));
        assert!(failed.is_err());
        assert_eq!(stream.begin(b"d").rest(), b"bcd");
    }

    /// Lines out of packets of every size: what pipelined requests of any protocol look like.
    fn lines(packets: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<Vec<u8>> {
        let (mut stream, mut lines) = (InputStream::new(), Vec::new());
        for packet in packets {
            let mut input = stream.begin(packet.as_ref());
            // Only what is new can end a line that had no end before.
            let mut searched = input.len() - packet.as_ref().len();
            while let Some(end) = input[searched..].iter().position(|byte| *byte == b'\n') {
                lines.extend(input.next(searched + end + 1).map(<[u8]>::to_vec));
                searched = 0;
            }
        }
        assert!(stream.is_empty());
        lines
    }

    #[test]
    fn requests_that_come_byte_by_byte_are_the_same_requests() {
        let requests: Vec<u8> = (0..1000).flat_map(|i| format!("GET /{i}\r\n").into_bytes()).collect();
        let whole = lines(std::iter::once(&requests));
        assert_eq!(whole.len(), 1000);
        for size in [1, 2, 3, 7, 10, 11, 4096] {
            assert_eq!(lines(requests.chunks(size)), whole, "packets of {size}");
        }
    }

    #[test]
    fn byte_by_byte_costs_no_more_than_its_length() {
        // In quadratic time, either of these would take minutes.
        let started = Instant::now();
        let mut stream = InputStream::new();
        for _ in 0..1 << 20 {
            drop(stream.begin(b"x"));
        }
        for left in (0..1 << 20).rev() {
            assert_eq!(stream.begin(b"").next(1), Some(&b"x"[..]));
            assert_eq!(stream.len(), left);
        }
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// So many more bytes come. What is not consumed of the last packet stays.
        Begin(usize),
        Peek(usize),
        Next(usize),
        Discard(usize),
        /// So many per cent of the bytes stay.
        End(usize),
    }

    /// Does `ops` do the same to a stream as to a queue?
    fn check(ops: impl IntoIterator<Item = Op>) {
        let packet: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
        let (mut stream, mut model) = (InputStream::new(), VecDeque::new());
        let mut sent = 0;
        let mut ops = ops.into_iter().peekable();
        while let Some(op) = ops.next() {
            let Op::Begin(len) = op else { continue };
            let packet = &packet[sent % 256..][..len];
            sent += len;
            model.extend(packet);
            let mut input = stream.begin(packet);
            while let Some(op) = ops.next_if(|op| !matches!(op, Op::Begin(_))) {
                let len = model.len();
                match op {
                    Op::Begin(_) => unreachable!(),
                    Op::Peek(n) => {
                        let expected = (n <= len).then(|| model.iter().take(n));
                        assert!(same(input.peek(n), expected), "peek {n} of {len}");
                    }
                    Op::Next(n) => {
                        let expected = (n <= len).then(|| model.drain(..n)).into_iter().flatten();
                        let expected = (n <= len).then_some(expected.collect::<Vec<u8>>());
                        assert_eq!(input.next(n), expected.as_deref(), "next {n} of {len}");
                    }
                    Op::Discard(n) => {
                        assert_eq!(input.discard(n), n.min(len));
                        model.drain(..n.min(len));
                    }
                    Op::End(percent) => {
                        let left = len * percent / 100;
                        input.end(left);
                        model.drain(..len - left);
                    }
                }
                assert_eq!(input.len(), model.len());
            }
            drop(input);
            assert_eq!(stream.len(), model.len());
        }
        let input = stream.begin(b"");
        assert!(same(Some(&*input), Some(model.iter())), "the rest");
    }

    fn same<'a>(a: Option<&[u8]>, b: Option<impl Iterator<Item = &'a u8>>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => a.iter().eq(b),
            (a, b) => a.is_none() && b.is_none(),
        }
    }

    fn op() -> impl Strategy<Value = Op> {
        let size = || prop_oneof![0..20_usize, 0..300_usize, 0..5000_usize];
        prop_oneof![
            3 => size().prop_map(Op::Begin),
            1 => size().prop_map(Op::Peek),
            2 => size().prop_map(Op::Next),
            1 => size().prop_map(Op::Discard),
            1 => (0..=100_usize).prop_map(Op::End),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_stream_does_what_a_queue_does(ops in prop::collection::vec(op(), 0..200)) {
            check(ops);
        }
    }

    #[test]
    fn b105_a_stream_does_what_a_queue_does_for_long() {
        // The generator of Knuth's MMIX, which is quicker than a strategy.
        let mut state = 1_u64;
        let mut below = move |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % n) as usize
        };
        check((0..1_000_000).map(|_| match below(8) {
            0..3 => Op::Begin(below(20)),
            3 => Op::Peek(below(20)),
            4..6 => Op::Next(below(20)),
            6 => Op::Discard(below(40)),
            _ => Op::End(below(101)),
        }));
    }
}
