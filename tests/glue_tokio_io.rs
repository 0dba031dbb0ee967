//! tokio's traits on our streams. (Feature `tokio-io`.)

mod common;

use common::{run, tcp_pair, within};
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use wakewheel::io::{Listener, Stream};
use wakewheel::{Async, LocalExecutor, spawn_local, timeout};

fn pairs() -> io::Result<Vec<(Stream, Stream)>> {
    let (a, b) = tcp_pair();
    let (c, d) = Async::<UnixStream>::pair()?;
    Ok(vec![(Async::new(a)?.into(), Async::new(b)?.into()), (c.into(), d.into())])
}

/// Runs a test under tokio, where we are guests.
fn under_tokio(test: impl Future<Output = io::Result<()>>) {
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio.block_on(within(test)).unwrap();
}

#[test]
fn streams_are_read_and_written_under_tokio() {
    under_tokio(async {
        for (mut a, mut b) in pairs()? {
            a.write_all(b"hello").await?;
            let mut answer = [0; 5];
            b.read_exact(&mut answer).await?;
            assert_eq!(&answer, b"hello");
            b.write_all(b"world").await?;
            // Our streams have a `shutdown` of their own, with an argument.
            AsyncWriteExt::shutdown(&mut b).await?;
            let mut rest = String::new();
            a.read_to_string(&mut rest).await?;
            assert_eq!(rest, "world");
        }
        Ok(())
    });
}

#[test]
fn each_type_of_stream_can_be_owned_or_shared() {
    fn is<T: AsyncRead + AsyncWrite + Unpin + Send>(_: T) {}
    let (mut a, mut b) = Async::<UnixStream>::pair().unwrap();
    let (c, d) = tcp_pair();
    let (mut c, mut d) = (Async::new(c).unwrap(), Stream::from(Async::new(d).unwrap()));
    is(&a);
    is(&c);
    is(&d);
    run(async {
        AsyncWriteExt::write_all(&mut &a, b"1").await?;
        assert_eq!(AsyncReadExt::read_u8(&mut b).await?, b'1');
        AsyncWriteExt::write_all(&mut b, b"2").await?;
        assert_eq!(AsyncReadExt::read_u8(&mut a).await?, b'2');
        AsyncWriteExt::write_all(&mut c, b"3").await?;
        assert_eq!(AsyncReadExt::read_u8(&mut &d).await?, b'3');
        AsyncWriteExt::write_all(&mut d, b"4").await?;
        assert_eq!(AsyncReadExt::read_u8(&mut &c).await?, b'4');
        Ok(())
    });
}

#[test]
fn a_copy_in_both_directions_is_exact_and_ends_each_by_itself() {
    const LEN: usize = 3_000_000;
    // On a core of ours, with tokio's functions.
    let executor = LocalExecutor::new().unwrap();
    let result = executor.block_on(within(async {
        let listener = Listener::bind(&"127.0.0.1:0".parse()?)?;
        let mut client = Stream::connect(&listener.local_addr()?).await?;
        let (mut front, _) = listener.accept().await?;
        let (mut back, mut server) = Async::<UnixStream>::pair()?;
        let proxy = spawn_local(async move { tokio::io::copy_bidirectional(&mut front, &mut back).await });
        let server = spawn_local(async move {
            let mut received = Vec::new();
            server.read_to_end(&mut received).await?;
            // Half closed: the other half still works.
            server.write_all(b"answer").await?;
            io::Result::Ok(received)
        });
        let sent: Vec<u8> = (0..LEN).map(|i| (i ^ (i >> 8)) as u8).collect();
        client.write_all(&sent).await?;
        AsyncWriteExt::shutdown(&mut client).await?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await?;
        assert_eq!(answer, b"answer");
        assert!(server.await?? == sent);
        assert_eq!(proxy.await??, (LEN as u64, 6));
        io::Result::Ok(())
    }));
    result.unwrap();
}

#[test]
fn a_read_initialises_what_it_reads_and_no_more() {
    run(async {
        for (a, mut b) in pairs()? {
            b.write_all(b"hello").await?;
            let mut room = [MaybeUninit::uninit(); 1000];
            let mut buf = ReadBuf::uninit(&mut room);
            buf.put_slice(b"ab");
            poll_fn(|cx| Pin::new(&mut &a).poll_read(cx, &mut buf)).await?;
            assert_eq!(buf.filled(), b"abhello");
            assert_eq!(buf.initialized().len(), 7, "nothing is zeroed for nothing");
        }
        Ok(())
    });
}

#[test]
fn a_read_keeps_what_was_initialised_before() {
    run(async {
        for (a, mut b) in pairs()? {
            b.write_all(b"hi").await?;
            let mut room = *b"..........";
            let mut buf = ReadBuf::new(&mut room);
            poll_fn(|cx| Pin::new(&mut &a).poll_read(cx, &mut buf)).await?;
            assert_eq!((buf.filled(), buf.initialized()), (&b"hi"[..], &b"hi........"[..]));
        }
        Ok(())
    });
}

#[test]
fn a_read_without_room_is_ready_at_once_also_when_nothing_has_come() {
    let cx = &mut Context::from_waker(Waker::noop());
    for (mut a, _b) in pairs().unwrap() {
        let mut poll = |len: usize| {
            let mut room = vec![0; len];
            Pin::new(&mut a).poll_read(cx, &mut ReadBuf::new(&mut room))
        };
        assert!(matches!(poll(0), Poll::Ready(Ok(()))));
        assert!(poll(1).is_pending());
    }
}

#[test]
fn a_read_that_is_given_up_loses_nothing() {
    run(async {
        for (mut a, mut b) in pairs()? {
            let mut buf = [0; 5];
            assert!(timeout(Duration::from_millis(1), a.read_exact(&mut buf)).await.is_err());
            b.write_all(b"hello").await?;
            a.read_exact(&mut buf).await?;
            assert_eq!(&buf, b"hello");
        }
        Ok(())
    });
}

#[test]
fn several_buffers_are_written_at_once() {
    run(async {
        for (mut a, mut b) in pairs()? {
            assert!(a.is_write_vectored());
            let bufs = [IoSlice::new(b"hel"), IoSlice::new(b""), IoSlice::new(b"lo")];
            assert_eq!(a.write_vectored(&bufs).await?, 5);
            let mut answer = [0; 5];
            b.read_exact(&mut answer).await?;
            assert_eq!(&answer, b"hello");
        }
        Ok(())
    });
}

#[test]
fn a_shutdown_ends_one_direction_and_can_be_repeated() {
    run(async {
        for (mut a, mut b) in pairs()? {
            b.write_all(b"still here").await?;
            for _ in 0..2 {
                AsyncWriteExt::shutdown(&mut a).await?;
            }
            assert_eq!(b.read(&mut [0; 10]).await?, 0);
            assert_eq!(a.read(&mut [0; 10]).await?, 10);
            assert_eq!(a.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
            Stream::shutdown(&b, Shutdown::Both)?;
            drop(b);
            AsyncWriteExt::shutdown(&mut a).await?;
        }
        Ok(())
    });
}
