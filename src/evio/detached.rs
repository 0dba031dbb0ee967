//! Streams that callbacks have let go.

use super::Addr;
use super::transport::{Filtered, Transport};
use crate::io::Stream;
use crate::{Async, block_on};
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A connection that has left the callbacks, as a stream. It is nobody else's any more: the server may stop.
///
/// It starts with every byte that was received and not given to a callback, and goes on with what comes from the peer.
/// It can be read and written by a task on the same core, on another one, or of any other executor; by a thread that
/// blocks, see [`into_blocking`](DetachedStream::into_blocking); or go back to a server.
///
/// [`poll_close`](AsyncWrite::poll_close) ends the direction to the peer, which may still send. To drop the stream closes
/// the connection, in both directions.
///
/// # Converting it
///
/// `TryFrom` makes it a `TcpStream` or a `UnixStream`, of std (which blocks, as std's do) or in an [`Async`]. That fails,
/// and closes the connection, if bytes were not read that it starts with, if there is a filter around it, or if
/// it is of the other kind. [`into_parts`](DetachedStream::into_parts) keeps everything.
///
/// # Cancel safety
///
/// To read or write is one step: a future that is dropped before it is ready has lost nothing.
///
/// # Examples
///
/// ```
/// use futures_lite::{AsyncReadExt, AsyncWriteExt};
/// use std::io;
/// use wakewheel::evio::DetachedStream;
///
/// /// What a server does with the one connection in a thousand that is not for callbacks.
/// async fn talk(mut stream: DetachedStream) -> io::Result<()> {
///     let mut request = [0; 5];
///     stream.read_exact(&mut request).await?;
///     stream.write_all(&request).await?;
///     stream.close().await
/// }
/// # use std::os::unix::net::UnixStream;
/// # wakewheel::block_on(async {
/// #     let (a, mut b) = wakewheel::Async::<UnixStream>::pair()?;
/// #     b.write_all(b"hello").await?;
/// #     talk(a.into()).await?;
/// #     let mut text = String::new();
/// #     b.read_to_string(&mut text).await?;
/// #     assert_eq!(text, "hello");
/// #     io::Result::Ok(())
/// # })?;
/// # io::Result::Ok(())
/// ```
pub struct DetachedStream {
    transport: Transport,
    rest: Rest,
}

/// What was received and not delivered.
#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    /// So many of them are delivered.
    start: usize,
}

impl Rest {
    fn get(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    #[inline]
    fn is_empty(&self) -> bool {
        // Once all are delivered, there is no buffer left.
        self.bytes.is_empty()
    }

    /// Delivers as many bytes as there are, and room is for.
    fn read<B: AsMut<[u8]>>(&mut self, bufs: impl IntoIterator<Item = B>) -> usize {
        let mut read = 0;
        for mut buf in bufs {
            let (buf, from) = (buf.as_mut(), &self.bytes[self.start..]);
            let n = buf.len().min(from.len());
            buf[..n].copy_from_slice(&from[..n]);
            self.start += n;
            read += n;
        }
        if self.start == self.bytes.len() {
            *self = Rest::default();
        }
        read
    }

    fn into_vec(mut self) -> Vec<u8> {
        self.bytes.drain(..self.start);
        self.bytes
    }
}

impl DetachedStream {
    /// `rest` was received, and has been given to nobody.
    pub(super) fn new(transport: Transport, rest: Vec<u8>) -> DetachedStream {
        DetachedStream { transport, rest: Rest { bytes: rest, start: 0 } }
    }

    /// What is needed to go on with it, in a server.
    pub(super) fn into_transport(self) -> (Transport, Vec<u8>) {
        (self.transport, self.rest.into_vec())
    }

    /// The bytes that were received and are not read yet: what the stream starts with.
    pub fn undelivered(&self) -> &[u8] {
        self.rest.get()
    }

    /// Gives bytes back that were read and not used: they are read again, first. For what a parser or a
    /// [`BufReader`](https://docs.rs/futures-lite/latest/futures_lite/io/struct.BufReader.html) has read too much, before the
    /// stream goes back [under the callbacks](super::Server::attach).
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_lite::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    /// use wakewheel::{Async, evio::DetachedStream};
    ///
    /// wakewheel::block_on(async {
    ///     let (stream, mut peer) = Async::<std::os::unix::net::UnixStream>::pair()?;
    ///     peer.write_all(b"first\nsecond\n").await?;
    ///
    ///     let mut reader = BufReader::new(DetachedStream::from(stream));
    ///     let mut line = String::new();
    ///     reader.read_line(&mut line).await?;
    ///     let too_much = reader.buffer().to_vec();
    ///     let mut stream = reader.into_inner();
    ///     stream.unread(&too_much);
    ///
    ///     let mut rest = [0; 7];
    ///     stream.read_exact(&mut rest).await?;
    ///     assert_eq!((line.as_str(), &rest), ("first\n", b"second\n"));
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn unread(&mut self, bytes: &[u8]) {
        let mut all = bytes.to_vec();
        all.extend_from_slice(self.rest.get());
        self.rest = Rest { bytes: all, start: 0 };
    }

    /// The address of this side.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<Addr> {
        self.transport.local_addr()
    }

    /// The address of the other side. Clients of a Unix listener have none, as a rule: it is the unnamed one.
    ///
    /// # Errors
    ///
    /// `NotConnected`, if the peer has reset the connection.
    pub fn peer_addr(&self) -> io::Result<Addr> {
        self.transport.peer_addr()
    }

    /// Ends one direction or both. After `Shutdown::Write` the peer reads to the end, and can still send. What was received
    /// before can be read in any case.
    ///
    /// # Errors
    ///
    /// `NotConnected`, if the peer has reset the connection; `Unsupported` with a filter around it, which may have
    /// something to say before: close it.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.transport {
            Transport::Plain(stream) => stream.shutdown(how),
            Transport::Filtered(_) => Err(unsupported(
                "the connection has a filter around it, which may have an end of its own to send: use `close`",
            )),
        }
    }

    /// The stream, and what was received before and is not read yet.
    ///
    /// # Errors
    ///
    /// The same `DetachedStream`, if there is a filter around the connection: then what was received means something only
    /// to that.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::TcpStream;
    /// use wakewheel::{Async, evio::DetachedStream, io::Stream};
    ///
    /// fn tcp(stream: DetachedStream) -> Option<(Async<TcpStream>, Vec<u8>)> {
    ///     match stream.into_parts() {
    ///         Ok((Stream::Tcp(stream), received)) => Some((stream, received)),
    ///         _ => None,
    ///     }
    /// }
    /// ```
    pub fn into_parts(self) -> Result<(Stream, Vec<u8>), DetachedStream> {
        match self.transport {
            Transport::Plain(stream) => Ok((stream, self.rest.into_vec())),
            transport => Err(DetachedStream { transport, ..self }),
        }
    }

    /// The stream for a thread that may block, with `Read` and `Write` of std. It starts with the bytes that were received
    /// before, and there may be a filter around it.
    ///
    /// # Errors
    ///
    /// What the kernel says. The connection is closed then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{self, BufRead, BufReader, Write};
    /// use std::thread::{self, JoinHandle};
    /// use wakewheel::evio::DetachedStream;
    ///
    /// fn serve(stream: DetachedStream) -> JoinHandle<io::Result<()>> {
    ///     thread::spawn(move || {
    ///         let mut stream = BufReader::new(stream.into_blocking()?);
    ///         let mut line = String::new();
    ///         while stream.read_line(&mut line)? > 0 {
    ///             stream.get_mut().write_all(line.as_bytes())?;
    ///             line.clear();
    ///         }
    ///         Ok(())
    ///     })
    /// }
    /// ```
    pub fn into_blocking(self) -> io::Result<BlockingStream> {
        let socket = match self.transport {
            Transport::Plain(Stream::Tcp(stream)) => Socket::Tcp(blocking_tcp(stream)?),
            Transport::Plain(Stream::Unix(stream)) => Socket::Unix(blocking_unix(stream)?),
            Transport::Filtered(filtered) => Socket::Filtered(filtered),
        };
        Ok(BlockingStream { socket, rest: self.rest })
    }

    /// The stream alone, if that is all that there is.
    fn into_stream(self) -> io::Result<Stream> {
        match (self.transport, self.rest.get().len()) {
            (Transport::Plain(stream), 0) => Ok(stream),
            (Transport::Plain(_), len) => Err(invalid(format!(
                "{len} bytes were received and are not read yet: read them before, or use `into_parts` or \
                 `into_blocking`"
            ))),
            (Transport::Filtered(_), _) => Err(unsupported(
                "the connection has a filter around it, without which its bytes mean nothing: use `into_blocking`, or \
                 the stream as it is",
            )),
        }
    }
}

fn unsupported(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, text)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn blocking_tcp(stream: Async<TcpStream>) -> io::Result<TcpStream> {
    let stream = stream.into_inner()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn blocking_unix(stream: Async<UnixStream>) -> io::Result<UnixStream> {
    let stream = stream.into_inner()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

impl AsyncRead for DetachedStream {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            // A filter might wait for a byte that there is no room for.
            return Poll::Ready(Ok(0));
        }
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(self.rest.read([buf])));
        }
        self.transport.poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(self.rest.read(bufs.iter_mut().map(|buf| &mut **buf))));
        }
        self.transport.poll_read_vectored(cx, bufs)
    }
}

/// [`poll_close`](AsyncWrite::poll_close) ends the direction to the peer: it reads to the end, and can still send.
impl AsyncWrite for DetachedStream {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.transport.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.transport.poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.poll_close(cx)
    }
}

/// What it is around, and how many bytes it starts with. Those are the peer's, and may be anything.
impl fmt::Debug for DetachedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedStream")
            .field("transport", &self.transport)
            .field("undelivered", &self.rest.get().len())
            .finish()
    }
}

impl From<Stream> for DetachedStream {
    fn from(stream: Stream) -> DetachedStream {
        DetachedStream::new(Transport::Plain(stream), Vec::new())
    }
}

impl From<Async<TcpStream>> for DetachedStream {
    fn from(stream: Async<TcpStream>) -> DetachedStream {
        Stream::from(stream).into()
    }
}

impl From<Async<UnixStream>> for DetachedStream {
    fn from(stream: Async<UnixStream>) -> DetachedStream {
        Stream::from(stream).into()
    }
}

macro_rules! conversions {
    ($($socket:ident: $blocking:ident),* $(,)?) => { $(
        /// `InvalidInput` if bytes are not read yet that it starts with, or if it is of the other kind; `Unsupported` if
        /// there is a filter around it. The connection is closed then.
        impl TryFrom<DetachedStream> for Async<$socket> {
            type Error = io::Error;

            fn try_from(stream: DetachedStream) -> io::Result<Async<$socket>> {
                stream.into_stream()?.try_into()
            }
        }

        /// It blocks, as std's own do. The errors are those of the conversion to an [`Async`], and what the kernel says.
        impl TryFrom<DetachedStream> for $socket {
            type Error = io::Error;

            fn try_from(stream: DetachedStream) -> io::Result<$socket> {
                $blocking(stream.try_into()?)
            }
        }
    )* };
}

conversions!(TcpStream: blocking_tcp, UnixStream: blocking_unix);

/// A connection for a thread that may block, made by [`into_blocking`](DetachedStream::into_blocking).
///
/// To drop it closes the connection.
pub struct BlockingStream {
    socket: Socket,
    rest: Rest,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Filtered(Box<Filtered>),
}

/// The same for all three; a filter waits by the shared reactor.
macro_rules! any {
    ($socket:expr, $io:ident => $op:expr, $filter:ident, $cx:ident => $poll:expr) => {
        match $socket {
            Socket::Tcp($io) => $op,
            Socket::Unix($io) => $op,
            Socket::Filtered(filtered) => block_on(poll_fn(|$cx| {
                let $filter = filtered.io.as_mut();
                $poll
            })),
        }
    };
}

impl BlockingStream {
    /// The bytes that were received and are not read yet: what the stream starts with.
    pub fn undelivered(&self) -> &[u8] {
        self.rest.get()
    }

    /// The address of this side.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<Addr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().map(|addr| crate::io::Addr::from(addr).into()),
            Socket::Unix(socket) => socket.local_addr().map(|addr| crate::io::Addr::from(addr).into()),
            Socket::Filtered(filtered) => Ok(filtered.local.clone()),
        }
    }

    /// The address of the other side. Clients of a Unix listener have none, as a rule: it is the unnamed one.
    ///
    /// # Errors
    ///
    /// `NotConnected`, if the peer has reset the connection.
    pub fn peer_addr(&self) -> io::Result<Addr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.peer_addr().map(|addr| crate::io::Addr::from(addr).into()),
            Socket::Unix(socket) => socket.peer_addr().map(|addr| crate::io::Addr::from(addr).into()),
            Socket::Filtered(filtered) => Ok(filtered.peer.clone()),
        }
    }

    /// Ends the direction to the peer, after what was written. It reads to the end, and can still send. (A filter
    /// sends its own end before.)
    ///
    /// # Errors
    ///
    /// What the kernel or the filter says; a peer that was faster is no error.
    pub fn close(&mut self) -> io::Result<()> {
        let shutdown = |result: io::Result<()>| match result {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        };
        any!(&mut self.socket,
            socket => shutdown(socket.shutdown(Shutdown::Write)),
            filter, cx => filter.poll_close(cx))
    }
}

impl Read for BlockingStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if !self.rest.is_empty() {
            return Ok(self.rest.read([buf]));
        }
        any!(&mut self.socket, socket => socket.read(buf), filter, cx => filter.poll_read(cx, buf))
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Ok(0);
        }
        if !self.rest.is_empty() {
            return Ok(self.rest.read(bufs.iter_mut().map(|buf| &mut **buf)));
        }
        any!(&mut self.socket, socket => socket.read_vectored(bufs), filter, cx => filter.poll_read_vectored(cx, bufs))
    }
}

impl Write for BlockingStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        any!(&mut self.socket, socket => socket.write(buf), filter, cx => filter.poll_write(cx, buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        any!(&mut self.socket, socket => socket.write_vectored(bufs), filter, cx => filter.poll_write_vectored(cx, bufs))
    }

    /// For a filter that keeps what was written: it goes to the kernel now.
    fn flush(&mut self) -> io::Result<()> {
        any!(&mut self.socket, socket => socket.flush(), filter, cx => filter.poll_flush(cx))
    }
}

/// What it is around, and how many bytes it starts with.
impl fmt::Debug for BlockingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket: &dyn fmt::Debug = match &self.socket {
            Socket::Tcp(socket) => socket,
            Socket::Unix(socket) => socket,
            Socket::Filtered(filtered) => filtered,
        };
        let undelivered = self.rest.get().len();
        f.debug_struct("BlockingStream").field("socket", socket).field("undelivered", &undelivered).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::{AsyncReadExt, AsyncWriteExt};
    use std::thread;

    const RECEIVED: &[u8] = b"received";

    fn plain() -> (DetachedStream, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        let a = Transport::Plain(Async::new(a).unwrap().into());
        (DetachedStream::new(a, RECEIVED.to_vec()), b)
    }

    /// With a filter that does nothing.
    fn filtered() -> (DetachedStream, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        let (local, peer) = (Addr::Unix(a.local_addr().unwrap()), Addr::Unix(a.peer_addr().unwrap()));
        let io = Box::pin(Stream::from(Async::new(a).unwrap()));
        let a = Transport::Filtered(Box::new(Filtered { io, local, peer }));
        (DetachedStream::new(a, RECEIVED.to_vec()), b)
    }

    #[test]
    fn what_was_received_before_comes_first() {
        for make in [plain, filtered] {
            block_on(async {
                let (mut stream, mut peer) = make();
                peer.write_all(b" later")?;
                drop(peer);
                assert_eq!(stream.read(&mut []).await?, 0);
                let (mut one, mut three) = ([0], [0; 3]);
                assert_eq!(stream.read(&mut one).await?, 1);
                let mut bufs = [&mut one[..], &mut [], &mut three].map(IoSliceMut::new);
                assert_eq!(stream.read_vectored(&mut bufs).await?, 4);
                assert_eq!((&one, &three), (b"e", b"cei"));
                assert_eq!(stream.undelivered(), b"ved");

                let mut rest = String::new();
                stream.read_to_string(&mut rest).await?;
                assert_eq!(rest, "ved later");
                assert_eq!((stream.undelivered(), stream.rest.bytes.capacity()), (&[][..], 0));
                io::Result::Ok(())
            })
            .unwrap();
        }
    }

    #[test]
    fn what_was_received_before_comes_first_in_a_thread_that_blocks() {
        for make in [plain, filtered] {
            let (stream, mut peer) = make();
            let thread = thread::spawn(move || {
                let mut stream = stream.into_blocking()?;
                assert_eq!(stream.undelivered(), RECEIVED);
                let (mut start, mut text) = ([0; 3], String::new());
                let n = stream.read_vectored(&mut [IoSliceMut::new(&mut start)])?;
                assert_eq!((n, &start), (3, b"rec"));
                stream.write_all(b"go on")?;
                stream.flush()?;
                stream.read_to_string(&mut text)?;
                stream.close()?;
                io::Result::Ok(text)
            });
            peer.read_exact(&mut [0; 5]).unwrap();
            peer.write_all(b" later").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            assert_eq!(peer.read(&mut [0]).unwrap(), 0);
            assert_eq!(thread.join().unwrap().unwrap(), "eived later");
        }
    }

    #[test]
    fn nothing_is_lost_in_parts() {
        let (mut stream, _peer) = plain();
        block_on(stream.read_exact(&mut [0; 3])).unwrap();
        let (stream, received) = stream.into_parts().unwrap();
        assert_eq!(received, b"eived");

        let stream = DetachedStream::new(Transport::Plain(stream), received);
        let (transport, received) = stream.into_transport();
        assert!(matches!(transport, Transport::Plain(_)));
        assert_eq!(received, b"eived");

        let (mut stream, _peer) = filtered();
        block_on(stream.read_exact(&mut [0; 3])).unwrap();
        let stream = stream.into_parts().unwrap_err();
        assert_eq!(stream.undelivered(), b"eived");
    }

    #[test]
    fn a_conversion_that_would_lose_something_says_what() {
        let (stream, mut peer) = plain();
        let e = UnixStream::try_from(stream).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
        assert!(e.to_string().starts_with("8 bytes were received and are not read yet"), "{e}");
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "it is closed");

        let (stream, _peer) = filtered();
        let e = Async::<UnixStream>::try_from(stream).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::Unsupported);
        assert!(e.to_string().contains("filter"), "{e}");
    }

    #[test]
    fn a_filter_is_closed_and_not_shut_down() {
        let (mut stream, mut peer) = filtered();
        let e = stream.shutdown(Shutdown::Write).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::Unsupported);
        assert!(e.to_string().contains("use `close`"), "{e}");
        block_on(stream.close()).unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        assert_eq!(stream.peer_addr().unwrap().to_string(), "unix://");
    }

    #[test]
    fn what_a_peer_has_sent_is_not_in_a_log() {
        for make in [plain, filtered] {
            let (stream, _peer) = make();
            let text = format!("{stream:?}");
            assert!(text.contains("undelivered: 8") && !text.contains("received"), "{text}");
            let text = format!("{:?}", stream.into_blocking().unwrap());
            assert!(text.contains("undelivered: 8") && !text.contains("received"), "{text}");
        }
    }

    #[test]
    fn it_is_send_and_unpin() {
        fn check<T: Send + Unpin>() {}
        check::<DetachedStream>();
        check::<BlockingStream>();
    }
}
