//! Connections that have left the callbacks. Here they are made of connections that never had any; that the
//! server's are complete is tested with the server.

mod common;

use common::{run, tcp_pair};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use wakewheel::evio::{Addr, DetachedStream};
use wakewheel::io::Stream;
use wakewheel::{Async, LocalExecutor};

fn detached_tcp() -> (DetachedStream, TcpStream) {
    let (client, server) = tcp_pair();
    (Async::new(server).unwrap().into(), client)
}

fn detached_unix() -> (DetachedStream, UnixStream) {
    let (client, server) = UnixStream::pair().unwrap();
    (Async::new(server).unwrap().into(), client)
}

#[test]
fn it_reads_and_writes_on_any_executor_after_its_own_has_stopped() {
    let (mut stream, mut client) = LocalExecutor::new().unwrap().block_on(async { detached_tcp() });
    let reading = async {
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        stream.write_all(text.as_bytes()).await?;
        stream.close().await?;
        stream.close().await?;
        assert_eq!(stream.read(&mut [0; 8]).await?, 0, "the end stays the end");
        io::Result::Ok(())
    };
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    future::block_on(reading).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello");
}

#[test]
fn it_is_send_and_goes_to_a_thread_that_blocks() {
    let (stream, mut client) = detached_tcp();
    let thread = std::thread::spawn(move || {
        let mut stream = stream.into_blocking()?;
        assert_eq!(stream.read(&mut [])?, 0);
        let mut line = [0; 5];
        stream.read_exact(&mut line)?;
        assert_eq!(stream.write_vectored(&[IoSlice::new(&line), IoSlice::new(b"!")])?, 6);
        stream.flush()?;
        stream.close()?;
        stream.close()?;
        io::Result::Ok((stream.local_addr()?, stream.peer_addr()?))
    });
    let expected = (Addr::Tcp(client.peer_addr().unwrap()), Addr::Tcp(client.local_addr().unwrap()));
    client.write_all(b"hello").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello!");
    assert_eq!(thread.join().unwrap().unwrap(), expected);
}

#[test]
fn nothing_is_read_into_no_room() {
    run(async {
        let (mut stream, _client) = detached_tcp();
        assert_eq!(stream.read(&mut []).await?, 0);
        assert_eq!(stream.read_vectored(&mut [IoSliceMut::new(&mut [])]).await?, 0);
        io::Result::Ok(())
    });
}

#[test]
fn it_becomes_a_stream_of_std_that_blocks() {
    let (stream, mut client) = detached_tcp();
    let mut stream = TcpStream::try_from(stream).unwrap();
    // SAFETY: it only asks.
    let flags = unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_GETFL) };
    assert_eq!(flags & libc::O_NONBLOCK, 0);
    client.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();

    let (stream, mut client) = detached_unix();
    let mut stream = UnixStream::try_from(stream).unwrap();
    // SAFETY: it only asks.
    let flags = unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_GETFL) };
    assert_eq!(flags & libc::O_NONBLOCK, 0);
    client.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn it_becomes_an_async_stream() {
    run(async {
        let (stream, mut client) = detached_tcp();
        let mut stream = Async::<TcpStream>::try_from(stream)?;
        client.write_all(b"x")?;
        stream.read_exact(&mut [0]).await?;

        let (stream, mut client) = detached_unix();
        let mut stream = Async::<UnixStream>::try_from(stream)?;
        client.write_all(b"x")?;
        stream.read_exact(&mut [0]).await?;

        let (stream, _client) = detached_unix();
        let Ok((Stream::Unix(_), received)) = stream.into_parts() else { panic!("a plain stream") };
        assert!(received.is_empty());
        io::Result::Ok(())
    });
}

#[test]
fn it_does_not_become_what_it_is_not() {
    let (stream, mut client) = detached_unix();
    let e = TcpStream::try_from(stream).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    assert!(e.to_string().starts_with("not a TcpStream"), "{e}");
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is closed");

    let (stream, _client) = detached_tcp();
    let e = Async::<UnixStream>::try_from(stream).unwrap_err();
    assert!(e.to_string().starts_with("not a UnixStream"), "{e}");
}

#[test]
fn to_write_to_a_peer_that_has_reset_is_an_error() {
    run(async {
        let (mut stream, client) = detached_tcp();
        // What it has not read makes its end a reset.
        stream.write_all(b"unread").await?;
        client.peek(&mut [0])?;
        drop(client);
        let mut written = 0;
        let e = loop {
            match stream.write(b"into the void").await {
                Ok(n) => written += n,
                Err(e) => break e,
            }
            assert!(written < 1 << 20);
        };
        assert!(matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{e}");
        stream.close().await
    });
}

#[test]
fn one_direction_can_be_shut_down() {
    run(async {
        let (mut stream, mut client) = detached_tcp();
        stream.shutdown(Shutdown::Write)?;
        assert_eq!(client.read(&mut [0])?, 0);
        client.write_all(b"x")?;
        stream.read_exact(&mut [0]).await
    });
}
