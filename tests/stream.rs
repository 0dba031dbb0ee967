//! Streams, listeners and addresses of either kind. Whatever does not say so holds for TCP and for Unix sockets.

mod common;

use common::dir::Dir;
use common::{Wakes, backend, run, within};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt, future, stream};
use proptest::{prop_assert_eq, prop_assume, proptest};
use std::collections::HashSet;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixListener, UnixStream};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use wakewheel::io::{Addr, Listener, Stream};
use wakewheel::reactor::Backend;
use wakewheel::{Async, Cores, LocalExecutor, spawn_local};

fn addr(text: &str) -> Addr {
    text.parse().expect(text)
}

fn unix_addr(dir: &Dir, name: &str) -> Addr {
    addr(&format!("unix:{}", dir.path(name).display()))
}

/// Runs `test` with a listener of each kind.
fn with_listeners<F: Future<Output = io::Result<()>>>(name: &str, test: impl Fn(Listener) -> F) {
    let dir = Dir::new(name);
    for addr in [addr("127.0.0.1:0"), unix_addr(&dir, "socket")] {
        run(test(Listener::bind(&addr).expect("an address to listen on")));
    }
}

/// Runs `test` with a connection of each kind: the client's end and the accepted one.
fn with_connections<F: Future<Output = io::Result<()>>>(name: &str, test: impl Fn(Stream, Stream) -> F) {
    with_listeners(name, async |listener| {
        let client = Stream::connect(&listener.local_addr()?).await?;
        let (server, _) = listener.accept().await?;
        test(client, server).await
    });
}

#[test]
fn the_kind_is_that_of_the_address() {
    with_listeners("kind", async |listener| {
        let client = Stream::connect(&listener.local_addr()?).await?;
        let (server, _) = listener.accept().await?;
        match listener {
            Listener::Tcp(_) => assert!(matches!((client, server), (Stream::Tcp(_), Stream::Tcp(_)))),
            Listener::Unix(_) => assert!(matches!((client, server), (Stream::Unix(_), Stream::Unix(_)))),
        }
        Ok(())
    });
}

#[test]
fn both_sides_agree_on_their_addresses() {
    with_listeners("addresses", async |listener| {
        let client = Stream::connect(&listener.local_addr()?).await?;
        let (server, peer) = listener.accept().await?;
        assert_eq!(client.peer_addr()?, listener.local_addr()?);
        assert_eq!(server.local_addr()?, listener.local_addr()?);
        assert_eq!(server.peer_addr()?, client.local_addr()?);
        assert_eq!(peer, client.local_addr()?);
        Ok(())
    });
}

#[test]
fn a_unix_listener_has_the_address_that_it_was_given_and_a_tcp_one_a_real_port() {
    let dir = Dir::new("local");
    let path = unix_addr(&dir, "socket");
    assert_eq!(Listener::bind(&path).unwrap().local_addr().unwrap(), path);
    match Listener::bind(&addr("127.0.0.1:0")).unwrap().local_addr().unwrap() {
        Addr::Tcp(addr) => assert_ne!(addr.port(), 0),
        Addr::Unix(addr) => panic!("{addr:?}"),
    }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn abstract_names_are_listened_on_and_connected_to() {
    run(async {
        let name = addr(&format!("unix:@wakewheel-stream-{}", std::process::id()));
        let listener = Listener::bind(&name)?;
        assert_eq!(listener.local_addr()?, name);
        let client = Stream::connect(&name).await?;
        let (server, _) = listener.accept().await?;
        drop(client);
        assert!(server.read_chunk().await?.is_empty());
        Ok(())
    });
}

#[test]
fn what_is_accepted_unregistered_belongs_to_the_core_that_registers_it() {
    with_listeners("unregistered", async |listener| {
        let cores = Cores::new(2)?;
        let sources = || cores.stats().iter().map(|stats| stats.sources_alive).collect::<Vec<_>>();
        let addr = listener.local_addr()?;
        for (i, core) in cores.handles().iter().enumerate() {
            let before = sources();
            let mut client = Stream::connect(&addr).await?;
            let (accepted, peer) = listener.accept_unregistered().await?;
            assert_eq!(peer, client.local_addr()?);
            // Sent before there is anybody who could be told.
            client.write_all(b"early").await?;
            assert_eq!(sources(), before, "nobody's yet");
            let serve = core.spawn(async move || {
                let mut server = accepted.register()?;
                assert_eq!(*server.read_chunk().await?, *b"early");
                server.write_all(b"registered").await?;
                assert_eq!(*server.read_chunk().await?, *b"late");
                server.peer_addr()
            });
            assert_eq!(*client.read_chunk().await?, *b"registered");
            let mut expected = before;
            expected[i] += 1;
            assert_eq!(sources(), expected, "core {i} has it, and nobody else");
            client.write_all(b"late").await?;
            assert_eq!(serve.await??, peer);
        }
        Ok(())
    });
}

#[test]
fn what_is_accepted_unregistered_is_a_descriptor() {
    with_listeners("descriptor", async |listener| {
        let mut client = Stream::connect(&listener.local_addr()?).await?;
        let (accepted, _) = listener.accept_unregistered().await?;
        assert!(format!("{accepted:?}").starts_with("Accepted("), "{accepted:?}");
        let number = accepted.as_fd().as_raw_fd();
        // SAFETY: no pointers.
        let (status, flags) =
            unsafe { (libc::fcntl(number, libc::F_GETFL), libc::fcntl(number, libc::F_GETFD)) };
        assert!(status & libc::O_NONBLOCK != 0 && flags & libc::FD_CLOEXEC != 0);
        let fd = OwnedFd::from(accepted);
        assert_eq!(fd.as_raw_fd(), number);
        client.write_all(b"x").await?;
        let server = Async::<UnixStream>::try_from(fd)?;
        assert_eq!(*server.read_chunk().await?, *b"x");

        // Dropped, it ends the connection.
        let client = Stream::connect(&listener.local_addr()?).await?;
        drop(listener.accept_unregistered().await?);
        assert!(client.read_chunk().await?.is_empty());
        Ok(())
    });
}

#[test]
fn no_connection_is_lost_when_accepting_unregistered_is_cancelled() {
    with_listeners("cancelled", async |listener| {
        let mut given_up = Box::pin(listener.accept_unregistered());
        assert!(future::poll_once(&mut given_up).await.is_none());
        let client = Stream::connect(&listener.local_addr()?).await?;
        drop(given_up);
        let (accepted, _) = listener.accept_unregistered().await?;
        drop(client);
        assert!(accepted.register()?.read_chunk().await?.is_empty());
        Ok(())
    });
}

#[test]
fn incoming_is_one_connection_after_the_other() {
    with_listeners("incoming", async |listener| {
        let addr = listener.local_addr()?;
        let connect = async {
            for byte in 0..5 {
                Stream::connect(&addr).await?.write_all(&[byte]).await?;
            }
            io::Result::Ok(())
        };
        let accept = async {
            let mut incoming = listener.incoming().take(5).enumerate();
            while let Some((i, server)) = incoming.next().await {
                assert_eq!(*server?.read_chunk().await?, [i as u8]);
            }
            Ok(())
        };
        future::try_zip(connect, accept).await.map(drop)
    });
}

#[test]
fn bytes_go_there_and_back() {
    with_connections("bytes", async |mut client, mut server| {
        // More than the kernel has room for: both sides wait, now and then.
        let bytes: Vec<u8> = (0..2_000_000).map(|i| (i % 251) as u8).collect();
        let (mut there, mut back) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        future::try_zip(client.write_all(&bytes), server.read_exact(&mut there)).await?;
        future::try_zip(server.write_all(&there), client.read_exact(&mut back)).await?;
        assert!(bytes == back);
        Ok(())
    });
}

#[test]
fn a_reference_reads_while_another_writes() {
    with_connections("references", async |client, server| {
        let bytes = vec![7; 2_000_000];
        let (mut a, mut b) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        let (mut client_writes, mut client_reads) = (&client, &client);
        let (mut server_writes, mut server_reads) = (&server, &server);
        let writes = future::try_zip(client_writes.write_all(&bytes), server_writes.write_all(&bytes));
        let reads = future::try_zip(client_reads.read_exact(&mut a), server_reads.read_exact(&mut b));
        future::try_zip(writes, reads).await?;
        assert!(a == bytes && b == bytes);
        Ok(())
    });
}

#[test]
fn slices_go_and_come_in_one_call() {
    async fn check(mut from: impl AsyncWrite + Unpin, mut to: impl AsyncRead + Unpin) -> io::Result<()> {
        let sent = from.write_vectored(&[IoSlice::new(b"abc"), IoSlice::new(b"defg")]).await?;
        let (mut one, mut two) = ([0; 2], [0; 9]);
        let mut bufs = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        let received = to.read_vectored(&mut bufs).await?;
        assert_eq!((sent, received), (7, 7));
        assert_eq!((&one, &two[..5]), (b"ab", &b"cdefg"[..]));
        Ok(())
    }
    with_connections("slices", async |client, server| {
        check(&client, &server).await?;
        check(client, server).await
    });
}

#[test]
fn chunks_are_what_was_written_and_empty_at_the_end() {
    with_connections("chunks", async |mut client, server| {
        assert!(future::poll_once(server.read_chunk()).await.is_none(), "nothing was written yet");
        client.write_all(b"hello").await?;
        assert_eq!(*server.read_chunk().await?, *b"hello");
        drop(client);
        assert!(server.read_chunk().await?.is_empty());
        Ok(())
    });
}

/// As a future polls a stream that lives on what it is sent: it reads, and waits in the same step where that works.
fn poll_input(stream: &Stream, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<()>> {
    let mut buf = [0; 4096];
    loop {
        let (len, waits) = match stream.try_read_and_wait(cx, &mut buf) {
            Ok(read) => (read.len, read.waits),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                (ready!(Pin::new(&mut &*stream).poll_read(cx, &mut buf))?, false)
            }
            Err(e) => return Poll::Ready(Err(e)),
        };
        bytes.extend_from_slice(&buf[..len]);
        match (len, waits) {
            (0, _) => return Poll::Ready(Ok(())),
            (_, true) => return Poll::Pending,
            (_, false) => {}
        }
    }
}

/// Everything up to the end of the stream.
async fn all_input(stream: &Stream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    poll_fn(|cx| poll_input(stream, cx, &mut bytes)).await?;
    Ok(bytes)
}

/// Polls it once in a task of its own, which is asked by hand and counts how often it is woken.
fn poll_by(waker: &Waker, stream: &Stream, bytes: &mut Vec<u8>) -> Poll<io::Result<()>> {
    poll_input(stream, &mut Context::from_waker(waker), bytes)
}

#[test]
fn reads_that_wait_come_to_the_end_and_to_it_again() {
    with_connections("each", async |mut client, server| {
        let write = async {
            for _ in 0..100 {
                client.write_all(b"hello").await?;
                future::yield_now().await;
            }
            drop(client);
            io::Result::Ok(())
        };
        let (written, read) = future::zip(write, all_input(&server)).await;
        written?;
        assert_eq!(read?, b"hello".repeat(100));
        assert!(all_input(&server).await?.is_empty());
        Ok(())
    });
}

#[test]
fn reads_that_wait_find_more_than_a_buffer() {
    with_connections("more", async |mut client, server| {
        let bytes: Vec<u8> = (0..251).cycle().take(3_000_000).collect();
        let write = async {
            client.write_all(&bytes).await?;
            drop(client);
            io::Result::Ok(())
        };
        let (written, read) = future::zip(write, all_input(&server)).await;
        written?;
        assert!(read? == bytes, "what arrives is what was sent");
        Ok(())
    });
}

#[test]
fn reads_that_wait_come_to_an_error() {
    run(async {
        let listener = Listener::bind(&addr("127.0.0.1:0"))?;
        let client = Stream::connect(&listener.local_addr()?).await?;
        let (mut server, _) = listener.accept().await?;
        // What the client has not read makes its end a reset.
        server.write_all(b"unread").await?;
        future::yield_now().await;
        drop(client);
        let error = loop {
            match all_input(&server).await {
                Ok(_) => future::yield_now().await,
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        Ok(())
    });
}

/// After a short read it waits without another look: each message wakes it all the same, once.
#[test]
fn after_each_short_read_one_waits() {
    with_connections("short", async |mut client, server| {
        let (wakes, waker) = Wakes::new();
        let mut bytes = Vec::new();
        assert!(poll_by(&waker, &server, &mut bytes).is_pending());
        for i in 1..=20 {
            client.write_all(b"message").await?;
            while wakes.count() < i {
                future::yield_now().await;
            }
            assert!(poll_by(&waker, &server, &mut bytes).is_pending());
            assert_eq!(bytes, b"message".repeat(i));
            // Nothing has come since, and nobody says so.
            assert!(poll_by(&waker, &server, &mut bytes).is_pending());
            assert_eq!(wakes.count(), i);
        }
        drop(client);
        while wakes.count() < 21 {
            future::yield_now().await;
        }
        assert!(matches!(poll_by(&waker, &server, &mut bytes), Poll::Ready(Ok(()))));
        Ok(())
    });
}

/// It goes from one task to another, which is the one that is woken then.
#[test]
fn a_read_makes_its_task_the_one_that_waits() {
    with_connections("tasks", async |mut client, server| {
        let tasks = [Wakes::new(), Wakes::new()];
        let mut bytes = Vec::new();
        for i in 0..20 {
            let (wakes, waker) = &tasks[i / 3 % 2];
            assert!(poll_by(waker, &server, &mut bytes).is_pending());
            let before = wakes.count();
            client.write_all(b"x").await?;
            while wakes.count() == before {
                future::yield_now().await;
            }
            assert!(poll_by(waker, &server, &mut bytes).is_pending());
            assert_eq!(bytes.len(), i + 1);
        }
        Ok(())
    });
}

/// A read that has filled its buffer may have left something. Of a Unix socket, and elsewhere than in a core's task on epoll,
/// only "would block" says that it has not.
#[test]
fn a_read_waits_if_it_has_found_the_end_of_what_there_is() {
    async fn waits(listener: Listener) -> io::Result<()> {
        let mut client = Stream::connect(&listener.local_addr()?).await?;
        let (server, _) = listener.accept().await?;
        let knows = matches!(server, Stream::Tcp(_)) && backend() == Backend::Epoll;
        let (told, reads) = async_channel::unbounded();
        let mut is_first = true;
        let reader = spawn_local(poll_fn(move |cx| {
            let mut buf = [0; 4];
            if std::mem::take(&mut is_first) {
                assert!(Pin::new(&mut &server).poll_read(cx, &mut buf).is_pending());
                let nothing = server.try_read_and_wait(cx, &mut buf).unwrap_err();
                assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
                return Poll::Pending;
            }
            loop {
                let Ok(read) = server.try_read_and_wait(cx, &mut buf) else {
                    assert!(Pin::new(&mut &server).poll_read(cx, &mut buf).is_pending());
                    return Poll::<()>::Pending;
                };
                told.try_send((read.len, read.waits)).unwrap();
                if read.waits {
                    return Poll::Pending;
                }
            }
        }));
        future::yield_now().await;
        for _ in 0..3 {
            client.write_all(b"sevenby").await?;
            for expected in [(4, false), (3, knows)] {
                assert_eq!(reads.recv().await, Ok(expected));
            }
        }
        drop(reader);
        Ok(())
    }

    let dir = Dir::new("waits");
    for addr in [addr("127.0.0.1:0"), unix_addr(&dir, "socket")] {
        let executor = LocalExecutor::new().unwrap();
        executor.block_on(within(async { waits(Listener::bind(&addr)?).await })).unwrap();
    }
}

#[test]
fn what_is_not_sent_at_once_can_be_waited_for() {
    with_connections("unsent", async |mut client, server| {
        // More than the kernel takes.
        let len = if matches!(server, Stream::Tcp(_)) { 32 << 20 } else { 2 << 20 };
        let bytes: Vec<u8> = (0..251).cycle().take(len).collect();
        let mut sent = 0;
        let unsent = loop {
            match server.try_write_all(&bytes[sent..]) {
                Ok(()) => panic!("the kernel has taken {} bytes", bytes.len()),
                Err(unsent) if unsent.sent == 0 => break unsent,
                Err(unsent) => sent += unsent.sent,
            }
        };
        assert!(unsent.error.is_none() && sent > 0, "{unsent:?} after {sent}");

        let mut received = Vec::new();
        let rest = async {
            (&server).write_all(&bytes[sent..]).await?;
            server.shutdown(Shutdown::Write)
        };
        let (written, read) = future::zip(rest, client.read_to_end(&mut received)).await;
        written?;
        read?;
        assert!(received == bytes, "what arrives is what was sent");
        Ok(())
    });
}

#[test]
fn closing_is_the_end_for_the_peer_which_can_still_send() {
    with_connections("close", async |mut client, mut server| {
        client.write_all(b"question").await?;
        client.close().await?;
        let mut text = String::new();
        server.read_to_string(&mut text).await?;
        assert_eq!(text, "question");
        assert_eq!(client.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);

        server.write_all(b"answer").await?;
        (&server).close().await?;
        text.clear();
        client.read_to_string(&mut text).await?;
        assert_eq!(text, "answer");
        client.close().await
    });
}

#[test]
fn shutdown_ends_the_direction_that_it_is_told() {
    with_connections("shutdown", async |mut client, mut server| {
        client.shutdown(Shutdown::Read)?;
        assert_eq!(client.read(&mut [0]).await?, 0);
        client.write_all(b"x").await?;
        assert_eq!(server.read(&mut [0]).await?, 1);

        client.shutdown(Shutdown::Write)?;
        assert_eq!(server.read(&mut [0]).await?, 0);
        assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        Ok(())
    });
}

/// Writes until both buffers are full.
async fn fill(stream: &mut Stream) -> io::Result<()> {
    while future::poll_once(stream.writable()).await.transpose()?.is_some() {
        future::poll_once(stream.write(&[0; 1 << 16])).await.transpose()?;
    }
    Ok(())
}

#[test]
fn flushing_does_not_wait_for_the_peer() {
    with_connections("flush", async |mut client, _server| {
        fill(&mut client).await?;
        client.flush().await
    });
}

#[test]
fn readable_waits_for_data_and_writable_for_room() {
    with_connections("readiness", async |mut client, server| {
        client.writable().await?;
        assert!(future::poll_once(server.readable()).await.is_none());
        future::try_zip(server.readable(), client.write_all(b"x")).await?;

        fill(&mut client).await?;
        let drain = async {
            loop {
                server.read_chunk().await?;
            }
        };
        future::or(client.writable(), drain).await
    });
}

#[test]
fn closed_waits_for_the_peer_to_go_and_not_for_what_it_sends() {
    with_connections("closed", async |mut client, server| {
        client.write_all(b"last words").await?;
        server.readable().await?;
        assert!(future::poll_once(server.closed()).await.is_none());
        let leave = async {
            drop(client);
            Ok(())
        };
        // Any number of tasks may wait.
        future::try_zip(future::try_zip(server.closed(), server.closed()), leave).await?;
        assert_eq!(*server.read_chunk().await?, *b"last words");
        Ok(())
    });
}

#[test]
fn a_socket_turns_into_a_stream_and_back() {
    run(async {
        let listener: Listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?.into();
        let fd = listener.as_fd().as_raw_fd();
        let Addr::Tcp(addr) = listener.local_addr()? else { panic!("{listener:?}") };
        let stream: Stream = Async::<TcpStream>::connect(addr).await?.into();
        let stream_fd = stream.as_fd().as_raw_fd();
        assert_eq!(Async::<TcpListener>::try_from(listener)?.as_raw_fd(), fd);
        assert_eq!(Async::<TcpStream>::try_from(stream)?.as_raw_fd(), stream_fd);

        let (stream, other) = Async::<UnixStream>::pair()?;
        let (stream, other) = (Stream::from(stream), Stream::from(other));
        let fd = stream.as_fd().as_raw_fd();
        assert_eq!(Async::<UnixStream>::try_from(stream)?.as_raw_fd(), fd);

        // Of the other kind.
        let e = Async::<TcpStream>::try_from(other).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
        assert!(e.to_string().starts_with("not a TcpStream: Unix("), "{e}");
        let listener = Listener::bind(&"127.0.0.1:0".parse()?)?;
        let e = Async::<UnixListener>::try_from(listener).unwrap_err();
        assert!(e.to_string().starts_with("not a UnixListener: Tcp("), "{e}");
        Ok(())
    });
}

#[test]
fn futures_may_move_to_and_be_shared_with_other_threads() {
    fn check<T: Send + Sync>(_: T) {}
    let addr = addr("127.0.0.1:0");
    let listener = Listener::bind(&addr).unwrap();
    let (stream, _other) = Async::<UnixStream>::pair().unwrap();
    let stream = Stream::from(stream);
    check(Stream::connect(&addr));
    check(listener.accept());
    check(listener.accept_unregistered());
    check(listener.incoming());
    check(stream.readable());
    check(stream.writable());
    check(stream.closed());
    check(stream.read_chunk());
    check((stream, listener, addr));
}

#[test]
fn errors_quote_the_address() {
    let dir = Dir::new("errors");
    // The port of a client: nobody listens on it, and nobody else can have it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let closed = client.local_addr().unwrap();
    for (addr, kind) in
        [(Addr::from(closed), ErrorKind::ConnectionRefused), (unix_addr(&dir, "nobody"), ErrorKind::NotFound)]
    {
        let e = wakewheel::block_on(Stream::connect(&addr)).unwrap_err();
        assert_eq!(e.kind(), kind);
        assert!(e.to_string().starts_with(&format!("cannot connect to {addr}: ")), "{e}");
    }
    let bind = |addr: &Addr| Listener::bind(addr).and_then(|listener| Ok((listener.local_addr()?, listener)));
    for addr in [addr("127.0.0.1:0"), unix_addr(&dir, "socket")] {
        let (addr, _listener) = bind(&addr).unwrap();
        let e = bind(&addr).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AddrInUse);
        assert!(e.to_string().starts_with(&format!("cannot listen on {addr}: ")), "{e}");
    }
}

// ---- Addresses ----

#[test]
fn addresses_are_printed_as_they_were_written() {
    for text in ["127.0.0.1:80", "[::1]:5000", "[fe80::1%3]:1", "unix:/run/x.sock", "unix:x", "unix:/ä b:c@d"]
    {
        assert_eq!(addr(text).to_string(), text);
    }
    assert!(matches!(addr("127.0.0.1:80"), Addr::Tcp(tcp) if tcp == SocketAddr::from(([127, 0, 0, 1], 80))));
    match addr("unix:/run/x.sock") {
        Addr::Unix(unix) => assert_eq!(unix.as_pathname(), Some("/run/x.sock".as_ref())),
        Addr::Tcp(tcp) => panic!("{tcp}"),
    }
}

proptest! {
    #[test]
    fn what_is_printed_is_parsed_again(name in r"@?[^\pC]{1,25}") {
        prop_assume!(cfg!(target_os = "linux") || !name.starts_with('@'));
        prop_assume!(name != "@");
        let addr = addr(&format!("unix:{name}"));
        prop_assert_eq!(addr.to_string().parse::<Addr>().unwrap(), addr);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_name_that_begins_with_an_at_sign_is_abstract_and_a_path_is_told_from_it() {
    use std::os::linux::net::SocketAddrExt;
    match addr("unix:@name") {
        Addr::Unix(unix) => assert_eq!(unix.as_abstract_name(), Some(&b"name"[..])),
        Addr::Tcp(tcp) => panic!("{tcp}"),
    }
    assert_eq!(addr("unix:@name").to_string(), "unix:@name");
    assert_eq!(addr("unix:@@").to_string(), "unix:@@");
    let path = Addr::from(UnixSocketAddr::from_pathname("@name").unwrap());
    assert_eq!(path.to_string(), "unix:./@name");
    for path in ["@name", "name"] {
        let path = Addr::from(UnixSocketAddr::from_pathname(path).unwrap());
        assert_ne!(path, addr("unix:@name"));
    }
}

#[test]
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn there_are_no_abstract_names() {
    let e = "unix:@name".parse::<Addr>().unwrap_err();
    assert!(e.to_string().contains("\"unix:@name\""), "{e}");
}

#[test]
fn an_unnamed_address_is_printed_without_a_name() {
    run(async {
        let (a, _b) = Async::<UnixStream>::pair()?;
        assert_eq!(Stream::from(a).peer_addr()?.to_string(), "unix:");
        Ok(())
    });
}

#[test]
fn what_cannot_be_printed_is_escaped() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let path = OsStr::from_bytes(b"/a\nb\x1b[1mc\xffd\\e");
    let addr = Addr::from(UnixSocketAddr::from_pathname(path).unwrap());
    assert_eq!(addr.to_string(), r"unix:/a\nb\u{1b}[1mc\xffd\e");
}

#[test]
fn addresses_line_up_in_columns() {
    assert_eq!(
        format!("{:>14}|{:<10}|", addr("127.0.0.1:80"), addr("unix:/x")),
        "  127.0.0.1:80|unix:/x   |"
    );
}

#[test]
fn what_is_not_an_address_is_quoted() {
    for text in [
        "",
        "80",
        ":80",
        "127.0.0.1",
        "127.0.0.1:65536",
        "::1:80",
        "localhost:80",
        " 127.0.0.1:80",
        "tcp://127.0.0.1:80",
        "/run/x.sock",
        "UNIX:/run/x.sock",
        "unix:",
        "unix:@",
    ] {
        let e = text.parse::<Addr>().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
        assert!(e.to_string().starts_with(&format!("not an address: {text:?}")), "{e}");
    }
}

#[test]
fn a_path_that_is_not_one_is_quoted() {
    let e = "unix:/a\0b".parse::<Addr>().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    assert!(e.to_string().contains(r#""/a\0b""#), "{e}");

    let path = format!("/{}", "long".repeat(50));
    let e = format!("unix:{path}").parse::<Addr>().unwrap_err();
    assert!(e.to_string().contains(&path) && e.to_string().contains("at most"), "{e}");
}

#[test]
fn equal_addresses_are_one_in_a_set() {
    let unnamed = || Addr::from(UnixSocketAddr::from_pathname("").unwrap());
    let texts = ["127.0.0.1:80", "127.0.0.1:81", "[::1]:80", "unix:/a", "unix:/b", "unix:/a/"];
    let all: HashSet<Addr> =
        texts.iter().chain(&texts).map(|text| addr(text)).chain([unnamed(), unnamed()]).collect();
    assert_eq!(all.len(), 7);
    assert!(all.contains(&addr("unix:/b")) && all.contains(&unnamed()));
    assert!(!all.contains(&addr("unix:/c")));
}

/// So that it can be kept in a struct.
#[test]
fn incoming_can_be_boxed() {
    fn check(
        listener: &Listener,
    ) -> Pin<Box<dyn stream::Stream<Item = io::Result<Stream>> + Send + Sync + '_>> {
        Box::pin(listener.incoming())
    }
    let listener = Listener::bind(&addr("127.0.0.1:0")).unwrap();
    assert!(wakewheel::block_on(future::poll_once(check(&listener).next())).is_none());
}
