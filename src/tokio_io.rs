//! tokio's [`AsyncRead`] and [`AsyncWrite`] for our streams. (Feature `tokio-io`.)
//!
//! As with tokio's own streams, a shutdown ends the writing side: the peer reads to the end, and can still send.

use crate::io::{Async, Stream, ended};
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The same for each type of stream, owned or shared.
macro_rules! streams {
    ($($stream:ty as $io:ty;)*) => { $(
        impl AsyncRead for $stream {
            #[inline]
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                // SAFETY: what the buffer lends is only written to, so nothing in it ceases to be initialised.
                let room = unsafe { buf.unfilled_mut() };
                let n = ready!(self.poll_read_uninit(cx, room))?.len();
                // SAFETY: the read has initialised these bytes, the first that are not filled.
                unsafe { buf.assume_init(n) };
                buf.advance(n);
                Poll::Ready(Ok(()))
            }
        }

        impl AsyncWrite for $stream {
            #[inline]
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                let mut io: &$io = &self;
                futures_io::AsyncWrite::poll_write(Pin::new(&mut io), cx, buf)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let mut io: &$io = &self;
                futures_io::AsyncWrite::poll_write_vectored(Pin::new(&mut io), cx, bufs)
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
