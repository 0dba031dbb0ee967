//! Reading without a buffer of one's own: it is lent, once there is something to put into it.

use super::{Async, poll_op, read};
use crate::reactor::Direction;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, Read};
use std::ops::Deref;
use std::task::{Context, Poll};

/// Bytes that were read, in a buffer lent by the thread.
///
/// A task that waits in [`read_chunk`](Async::read_chunk) holds no buffer, so that ten thousand idle connections need none.
/// The buffer goes back when the chunk is dropped; hold it no longer than it takes to use it. Empty at the end of the
/// stream.
#[derive(Default)]
pub struct Chunk {
    buffer: Option<Buffer>,
    len: usize,
}

/// As large as the largest read that pays: beyond it, a system call costs nothing against the copying.
const BUFFER_LEN: usize = 64 * 1024;

/// Buffers that a thread keeps beside the first. They are needed only while writes are pending.
const MORE_MAX: usize = 15;

/// A box, as a reference: thread-locals without a destructor are faster.
type Buffer = &'static mut [u8; BUFFER_LEN];

thread_local! {
    /// The one that is used over and over.
    static FIRST: Cell<Option<Buffer>> = const { Cell::new(None) };
    static MORE: RefCell<More> = const { RefCell::new(More(Vec::new())) };
}

/// The thread's other buffers. When the thread ends, it frees all.
struct More(Vec<Buffer>);

impl Drop for More {
    fn drop(&mut self) {
        self.0.drain(..).chain(FIRST.take()).for_each(free);
    }
}

fn free(buffer: Buffer) {
    // SAFETY: every buffer comes from `Box::leak` in `take_more`, and this is the only reference to it.
    drop(unsafe { Box::from_raw(buffer) });
}

#[cold]
fn take_more() -> Buffer {
    let kept = MORE.try_with(|more| more.borrow_mut().0.pop()).ok().flatten();
    kept.unwrap_or_else(|| {
        let buffer: Box<[u8; BUFFER_LEN]> =
            vec![0; BUFFER_LEN].into_boxed_slice().try_into().expect("its length");
        Box::leak(buffer)
    })
}

#[cold]
fn keep_more(buffer: Buffer) {
    let mut buffer = Some(buffer);
    let _ = MORE.try_with(|more| {
        let more = &mut more.borrow_mut().0;
        if more.len() < MORE_MAX {
            more.extend(buffer.take());
        }
    });
    // There are enough, or the thread ends.
    if let Some(buffer) = buffer {
        free(buffer);
    }
}

impl Chunk {
    #[inline(always)]
    fn read(from: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<Chunk> {
        let mut chunk = Chunk { buffer: Some(FIRST.take().unwrap_or_else(take_more)), len: 0 };
        if let Some(buffer) = &mut chunk.buffer {
            chunk.len = from(&mut buffer[..])?;
        }
        Ok(chunk)
    }
}

/// Bytes, which a panic leaves as they are.
impl std::panic::UnwindSafe for Chunk {}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer[..self.len],
            None => &[],
        }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // This may be another thread than the one that took it, or this one at its end: is there somebody to free it?
            if MORE.try_with(|_| ()).is_err() {
                free(buffer);
            } else if let Some(second) = FIRST.replace(Some(buffer)) {
                keep_more(second);
            }
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chunk").field(&self.deref()).finish()
    }
}

impl<T> Async<T>
where
    for<'a> &'a T: Read,
{
    /// Waits until there is something to read, and reads up to 64 KiB into a buffer lent by the thread. The chunk is
    /// empty at the end of the stream.
    ///
    /// As with [`poll_read`](futures_io::AsyncRead::poll_read), one task at a time can wait.
    ///
    /// # Errors
    ///
    /// Those of reading.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no byte is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::AsyncWriteExt;
    /// use std::{io, net::TcpStream};
    /// use wakewheel::Async;
    ///
    /// async fn echo(mut stream: Async<TcpStream>) -> io::Result<()> {
    ///     loop {
    ///         let chunk = stream.read_chunk().await?;
    ///         if chunk.is_empty() {
    ///             return Ok(());
    ///         }
    ///         stream.write_all(&chunk).await?;
    ///     }
    /// }
    /// ```
    pub fn read_chunk(&self) -> impl Future<Output = io::Result<Chunk>> {
        poll_fn(|cx| self.poll_read_chunk(cx))
    }

    /// See [`read_chunk`](Async::read_chunk).
    ///
    /// # Errors
    ///
    /// Those of reading.
    #[inline(always)]
    pub fn poll_read_chunk(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let full = |chunk: &Chunk| chunk.len == BUFFER_LEN;
        let Async { source, kind, .. } = self;
        let op = || Chunk::read(|buf| read(source, *kind, self.get_ref(), buf));
        poll_op(source, *kind, Direction::Read, cx, op, full)
    }
}
