//! Reading into memory that holds nothing yet.

use super::{Async, Stream, certain, poll_op};
use crate::reactor::Direction;
use crate::sys::socket;
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll};

impl Stream {
    /// [`poll_read`](futures_io::AsyncRead::poll_read) into a buffer whose bytes need not be initialised: the spare
    /// capacity of a vector, or what another library lends. What is ready is the part that was read, which is the first
    /// of `buf`; it is empty at the end of the stream, and if `buf` is, for which this never waits.
    ///
    /// As with `poll_read`, one task at a time can wait. `buf` is only ever written to.
    ///
    /// # Errors
    ///
    /// Those of reading.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::AsyncWriteExt;
    /// use std::{future::poll_fn, io, os::unix::net::UnixStream};
    /// use wakewheel::{Async, io::Stream};
    ///
    /// wakewheel::block_on(async {
    ///     let (a, mut b) = Async::<UnixStream>::pair()?;
    ///     b.write_all(b"hello").await?;
    ///
    ///     let stream = Stream::from(a);
    ///     let mut vec = Vec::with_capacity(1024);
    ///     let room = vec.spare_capacity_mut();
    ///     let n = poll_fn(|cx| stream.poll_read_uninit(cx, room).map_ok(|read| read.len())).await?;
    ///     // SAFETY: so many bytes have been read, and the vector was empty.
    ///     unsafe { vec.set_len(n) };
    ///     assert_eq!(vec, b"hello");
    ///     io::Result::Ok(())
    /// })?;
    /// # io::Result::Ok(())
    /// ```
    #[inline]
    pub fn poll_read_uninit<'a>(
        &self,
        cx: &mut Context<'_>,
        buf: &'a mut [MaybeUninit<u8>],
    ) -> Poll<io::Result<&'a mut [u8]>> {
        match self {
            Stream::Tcp(io) => io.poll_read_uninit(cx, buf),
            Stream::Unix(io) => io.poll_read_uninit(cx, buf),
        }
    }
}

macro_rules! poll_read_uninit {
    ($($io:ty),*) => { $(
        impl Async<$io> {
            /// See [`Stream::poll_read_uninit`].
            ///
            /// # Errors
            ///
            /// Those of reading.
            #[inline]
            pub fn poll_read_uninit<'a>(
                &self,
                cx: &mut Context<'_>,
                buf: &'a mut [MaybeUninit<u8>],
            ) -> Poll<io::Result<&'a mut [u8]>> {
                if buf.is_empty() {
                    return Poll::Ready(Ok(&mut []));
                }
                let room = certain(buf.len());
                let read = poll_op(
                    &self.source,
                    self.kind,
                    Direction::Read,
                    cx,
                    || socket::recv_uninit(self.as_fd(), buf),
                    |&n| n >= room,
                );
                read.map_ok(|n| {
                    let read: *mut [MaybeUninit<u8>] = &mut buf[..n];
                    // SAFETY: the kernel has written these bytes, so they are initialised; the pointer is that of a slice
                    // that is borrowed for 'a, and is not used any more.
                    unsafe { &mut *(read as *mut [u8]) }
                })
            }
        }
    )* };
}

poll_read_uninit!(TcpStream, UnixStream);
