//! hyper's [`Read`] and [`Write`] for our streams, and a bridge to and from the traits of futures-io.

use crate::io::{Async, Stream, ended};
use ::hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use futures_io::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The same for each type of stream, owned or shared.
macro_rules! streams {
    ($($stream:ty as $io:ty;)*) => { $(
        /// What is read goes to where hyper wants it, without a stop between.
        impl Read for $stream {
            #[inline]
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                mut buf: ReadBufCursor<'_>,
            ) -> Poll<io::Result<()>> {
                // SAFETY: what the cursor lends is only written to, so nothing in it ceases to be initialised.
                let room = unsafe { buf.as_mut() };
                let n = ready!(self.poll_read_uninit(cx, room))?.len();
                // SAFETY: the read has initialised these bytes, the first of the room.
                unsafe { buf.advance(n) };
                Poll::Ready(Ok(()))
            }
        }

        /// A shutdown ends the writing side: the peer reads to the end, and can still send. One that has been made is not
        /// made again.
        impl Write for $stream {
            #[inline]
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                let mut io: &$io = &self;
                AsyncWrite::poll_write(Pin::new(&mut io), cx, buf)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let mut io: &$io = &self;
                AsyncWrite::poll_write_vectored(Pin::new(&mut io), cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            /// Every write has gone to the kernel already.
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(ended(self.shutdown(Shutdown::Write)))
            }
        }
    )* };
}

streams! {
    Async<TcpStream> as Async<TcpStream>;
    &Async<TcpStream> as Async<TcpStream>;
    Async<UnixStream> as Async<UnixStream>;
    &Async<UnixStream> as Async<UnixStream>;
    Stream as Stream;
    &Stream as Stream;
}

/// What a read into hyper's buffer fetches at most through [`Io`], in bytes: a record of TLS. That much is initialised
/// before each read.
const READ_MAX: usize = 16 * 1024;

pin_project_lite::pin_project! {
    /// A bridge between futures-io's traits and hyper's, both ways.
    ///
    /// Over what has futures-io's `AsyncRead` and `AsyncWrite`, such as a stream of futures-rustls, it has hyper's
    /// [`Read`] and [`Write`]. Over what has hyper's, such as an [`Upgraded`](::hyper::upgrade::Upgraded) connection, it
    /// has futures-io's. Our own streams have both, and need none.
    ///
    /// futures-io does not tell whether a type writes several buffers at once, so hyper is told that it does not, and
    /// hands over one buffer at a time.
    ///
    /// # Examples
    ///
    /// A WebSocket, after hyper has answered the request:
    ///
    /// ```
    /// use async_tungstenite::WebSocketStream;
    /// use async_tungstenite::tungstenite::protocol::Role;
    /// use futures_lite::StreamExt;
    /// use hyper::{Request, body::Incoming};
    /// use wakewheel::hyper::Io;
    ///
    /// async fn web_socket(request: Request<Incoming>) -> Result<(), Box<dyn std::error::Error>> {
    ///     let upgraded = hyper::upgrade::on(request).await?;
    ///     let mut socket = WebSocketStream::from_raw_socket(Io::new(upgraded), Role::Server, None).await;
    ///     while let Some(message) = socket.next().await {
    ///         println!("{}", message?);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[derive(Clone, Debug)]
    pub struct Io<T> {
        #[pin]
        inner: T,
    }
}

impl<T> Io<T> {
    /// A bridge to `inner`.
    pub fn new(inner: T) -> Io<T> {
        Io { inner }
    }

    /// What it leads to.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// What it leads to, mutable.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// What it leads to. Nothing is lost: a bridge holds no bytes.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<T: AsyncRead> Read for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let len = buf.remaining().min(READ_MAX);
        if len == 0 {
            return Poll::Ready(Ok(()));
        }
        let n = ready!(self.project().inner.poll_read(cx, buf.initialize_unfilled_to(len)))?;
        assert!(n <= len, "poll_read says that it has read {n} bytes into a buffer of {len}");
        // SAFETY: the first `len` bytes that are not filled have been initialised, and `n` is not more.
        unsafe { buf.advance(n) };
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite> Write for Io<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_close(cx)
    }
}

impl<T: Read> AsyncRead for Io<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        ready!(self.project().inner.poll_read(cx, buf.unfilled()))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

/// [`poll_close`](AsyncWrite::poll_close) is hyper's shutdown.
impl<T: Write> AsyncWrite for Io<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}

/// A stream of which the first bytes have been read already: they are read from it once more, and then what follows.
///
/// [`Server`](super::Server) reads the beginning of a connection to find out which version of HTTP it speaks, and gives
/// hyper this: it is the type to [`downcast`](::hyper::upgrade::Upgraded::downcast) an upgraded connection to.
#[derive(Debug)]
pub struct Rewound<T> {
    /// Empty, and without memory, once all of it has been read again.
    first: Vec<u8>,
    again: usize,
    io: T,
}

impl<T> Rewound<T> {
    pub(super) fn new(first: Vec<u8>, io: T) -> Rewound<T> {
        Rewound { first, again: 0, io }
    }

    /// What has not been read again yet, and the stream.
    pub fn into_parts(mut self) -> (Vec<u8>, T) {
        (self.first.split_off(self.again), self.io)
    }
}

impl<T: Read + Unpin> Read for Rewound<T> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let first = &this.first[this.again..];
        if first.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let len = first.len().min(buf.remaining());
        buf.put_slice(&first[..len]);
        this.again += len;
        if this.again == this.first.len() {
            (this.first, this.again) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + Unpin> Write for Rewound<T> {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn what_was_read_is_read_again_in_parts_of_any_size_and_then_the_rest() {
        let read = |io: &mut Rewound<Io<&[u8]>>, len| {
            let mut room = vec![0; len];
            let mut buf = ReadBuf::new(&mut room);
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(matches!(Pin::new(io).poll_read(cx, buf.unfilled()), Poll::Ready(Ok(()))));
            buf.filled().to_vec()
        };
        let mut io = Rewound::new(b"hello".to_vec(), Io::new(&b" world"[..]));
        assert_eq!(read(&mut io, 3), b"hel");
        assert_eq!(read(&mut io, 0), b"");
        assert_eq!(read(&mut io, 1), b"l");
        assert_eq!(read(&mut io, 10), b"o");
        assert_eq!(read(&mut io, 10), b" world");
        assert_eq!(io.into_parts().0, b"");

        let mut io = Rewound::new(b"hello".to_vec(), Io::new(&b""[..]));
        assert_eq!(read(&mut io, 2), b"he");
        assert_eq!(io.into_parts().0, b"llo");
    }
}
