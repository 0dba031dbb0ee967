//! What a connection's bytes go over: a socket, or a filter around one.

use super::Addr;
use crate::io::Stream;
use futures_io::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::{fmt, mem};

/// Bytes in both directions: what a filter, like TLS or compression, makes of a connection. Whatever can be read and
/// written and sent to another thread is one.
///
/// # Examples
///
/// ```
/// use futures_lite::{AsyncReadExt, AsyncWriteExt, io::BufReader};
/// use wakewheel::{Async, evio::Duplex};
///
/// async fn greet(mut stream: Box<dyn Duplex + Unpin>) -> std::io::Result<Vec<u8>> {
///     stream.write_all(b"hello").await?;
///     stream.flush().await?;
///     let mut answer = vec![0; 5];
///     stream.read_exact(&mut answer).await?;
///     Ok(answer)
/// }
///
/// wakewheel::block_on(async {
///     let (a, mut b) = Async::<std::os::unix::net::UnixStream>::pair()?;
///     b.write_all(b"howdy").await?;
///     assert_eq!(greet(Box::new(BufReader::new(a))).await?, b"howdy");
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send + ?Sized> Duplex for T {}

/// Nearly every connection is a plain one, and is as large and as fast as its stream.
pub(super) enum Transport {
    Plain(Stream),
    Filtered(Box<Filtered>),
}

/// A filter does not say what it is around: the addresses were recorded before.
pub(super) struct Filtered {
    pub io: Pin<Box<dyn Duplex>>,
    pub local: Addr,
    pub peer: Addr,
}

const _: () = assert!(mem::size_of::<Transport>() <= mem::size_of::<Stream>());

/// The same for both.
macro_rules! either {
    ($transport:expr, $io:ident => $op:expr) => {
        match $transport {
            Transport::Plain(stream) => {
                let $io = Pin::new(stream);
                $op
            }
            Transport::Filtered(filtered) => {
                let $io = filtered.io.as_mut();
                $op
            }
        }
    };
}

impl Transport {
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_read(cx, buf))
    }

    #[inline]
    pub fn poll_read_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_read_vectored(cx, bufs))
    }

    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_write(cx, buf))
    }

    #[inline]
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_write_vectored(cx, bufs))
    }

    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_flush(cx))
    }

    /// Ends the direction to the peer, which may still send.
    #[inline]
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_close(cx))
    }

    pub fn local_addr(&self) -> io::Result<Addr> {
        match self {
            Transport::Plain(stream) => stream.local_addr().map(Addr::from),
            Transport::Filtered(filtered) => Ok(filtered.local.clone()),
        }
    }

    pub fn peer_addr(&self) -> io::Result<Addr> {
        match self {
            Transport::Plain(stream) => stream.peer_addr().map(Addr::from),
            Transport::Filtered(filtered) => Ok(filtered.peer.clone()),
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Transport::Plain(stream) => stream.fmt(f),
            Transport::Filtered(filtered) => filtered.fmt(f),
        }
    }
}

impl fmt::Debug for Filtered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Filtered { io: _, local, peer } = self;
        f.debug_struct("Filtered").field("local", local).field("peer", peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Async;
    use std::future::poll_fn;
    use std::os::unix::net::UnixStream;

    fn filtered(stream: Stream) -> Transport {
        let (local, peer) = (stream.local_addr().unwrap().into(), stream.peer_addr().unwrap().into());
        Transport::Filtered(Box::new(Filtered { io: Box::pin(stream), local, peer }))
    }

    #[test]
    fn a_plain_and_a_filtered_connection_do_the_same() {
        for make in [Transport::Plain, filtered] {
            crate::block_on(async {
                let (a, b) = Async::<UnixStream>::pair()?;
                let (mut a, mut b) = (make(a.into()), make(b.into()));
                assert_eq!(poll_fn(|cx| a.poll_write(cx, b"one")).await?, 3);
                let two = [IoSlice::new(b"t"), IoSlice::new(b"wo")];
                assert_eq!(poll_fn(|cx| a.poll_write_vectored(cx, &two)).await?, 3);
                poll_fn(|cx| a.poll_flush(cx)).await?;
                poll_fn(|cx| a.poll_close(cx)).await?;

                let (mut start, mut end) = ([0; 2], [0; 10]);
                assert_eq!(poll_fn(|cx| b.poll_read(cx, &mut start)).await?, 2);
                assert_eq!(&start, b"on");
                let mut bufs = [IoSliceMut::new(&mut start), IoSliceMut::new(&mut end)];
                assert_eq!(poll_fn(|cx| b.poll_read_vectored(cx, &mut bufs)).await?, 4);
                assert_eq!((&start, &end[..2]), (b"et", &b"wo"[..]));
                assert_eq!(poll_fn(|cx| b.poll_read(cx, &mut end)).await?, 0);

                assert_eq!(poll_fn(|cx| b.poll_write(cx, b"!")).await?, 1);
                assert_eq!(poll_fn(|cx| a.poll_read(cx, &mut end)).await?, 1, "only one direction is closed");
                assert_eq!(a.local_addr()?.to_string(), "unix://");
                assert_eq!(a.peer_addr()?, b.local_addr()?);
                io::Result::Ok(())
            })
            .unwrap();
        }
    }
}
