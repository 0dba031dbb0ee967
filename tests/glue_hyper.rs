//! hyper on our streams, timers and executors, and the server and clients that are made of them. (Feature `hyper`.)

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/tasks.rs"]
mod tasks;

use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::{Message, protocol::Role};
use common::dir::Dir;
use common::port::taken_port;
use common::{PATIENCE, tcp_pair, within};
use futures_lite::{AsyncReadExt, AsyncWriteExt, StreamExt, future};
use futures_rustls::TlsAcceptor;
use futures_rustls::pki_types::PrivateKeyDer;
use futures_rustls::rustls::ServerConfig;
use futures_rustls::rustls::crypto::ring;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::rt::{Executor, Read, ReadBuf, Sleep, Timer as _, Write};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};
use tasks::{OnDrop, Wakes, message, on_executor, within_limit};
use wakewheel::executor::{CoreHandle, request_shutdown, yield_now};
use wakewheel::hyper::{Io, Rewound, Server, SpawnLocal, WheelTimer, connect_http1, connect_http2, serve};
use wakewheel::io::{Addr, Listener, SocketOptions, Stream};
use wakewheel::reactor::MockClock;
use wakewheel::{Async, Cores, LocalExecutor, sleep, spawn_local, timeout};

// ---------------------------------------------------------------------------------------- reading and writing

/// Reads once into a buffer of `len` bytes that are not initialised.
async fn read(mut io: impl Read + Unpin, len: usize) -> io::Result<Vec<u8>> {
    let mut room = vec![MaybeUninit::uninit(); len];
    let mut buf = ReadBuf::uninit(&mut room);
    poll_fn(|cx| Pin::new(&mut io).poll_read(cx, buf.unfilled())).await?;
    Ok(buf.filled().to_vec())
}

/// Polls a read into a buffer of `len` bytes once.
fn poll_read(io: &mut (impl Read + Unpin), cx: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
    let mut room = vec![MaybeUninit::uninit(); len];
    let mut buf = ReadBuf::uninit(&mut room);
    Pin::new(io).poll_read(cx, buf.unfilled()).map_ok(|()| buf.filled().len())
}

fn pairs() -> io::Result<Vec<(Stream, Stream)>> {
    let (a, b) = tcp_pair();
    let (c, d) = Async::<UnixStream>::pair()?;
    Ok(vec![(Async::new(a)?.into(), Async::new(b)?.into()), (c.into(), d.into())])
}

#[test]
fn what_is_read_is_what_was_sent_and_then_the_end() {
    common::run(async {
        for (a, mut b) in pairs()? {
            b.write_all(b"hello world").await?;
            b.shutdown(Shutdown::Write)?;
            // As much as there is room for, and the rest later.
            assert_eq!(read(&a, 5).await?, b"hello");
            assert_eq!(read(a, 100).await?, b" world");
        }
        let (a, b) = tcp_pair();
        io::Write::write_all(&mut &b, b"x")?;
        drop(b);
        let mut a = Async::new(a)?;
        assert_eq!(read(&mut a, 100).await?, b"x");
        assert_eq!(read(&mut a, 100).await?, b"");
        let (mut a, b) = Async::<UnixStream>::pair()?;
        drop(b);
        assert_eq!(read(&mut a, 100).await?, b"");
        Ok(())
    });
}

#[test]
fn a_read_leaves_what_is_filled_as_it_is_and_touches_nothing_behind_the_buffer() {
    common::run(async {
        for (a, mut b) in pairs()? {
            b.write_all(b"hello").await?;
            let mut room = *b"................";
            let mut buf = ReadBuf::new(&mut room[..10]);
            buf.unfilled().put_slice(b"ab");
            poll_fn(|cx| Pin::new(&mut &a).poll_read(cx, buf.unfilled())).await?;
            assert_eq!(buf.filled(), b"abhello");
            assert_eq!(&room, b"abhello.........");
        }
        Ok(())
    });
}

#[test]
fn a_read_without_room_is_ready_at_once_also_when_nothing_has_come() {
    let (_, waker) = Wakes::new();
    let cx = &mut Context::from_waker(&waker);
    for (mut a, _b) in pairs().unwrap() {
        assert!(matches!(poll_read(&mut a, cx, 0), Poll::Ready(Ok(0))));
        assert!(poll_read(&mut a, cx, 1).is_pending());
    }
    let (a, _b) = Async::<UnixStream>::pair().unwrap();
    assert!(matches!(poll_read(&mut Io::new(a), cx, 0), Poll::Ready(Ok(0))));
}

#[test]
fn a_read_that_is_given_up_loses_nothing() {
    common::run(async {
        for (a, mut b) in pairs()? {
            assert!(timeout(Duration::from_millis(1), read(&a, 10)).await.is_err());
            b.write_all(b"hello").await?;
            assert_eq!(read(&a, 10).await?, b"hello");
        }
        Ok(())
    });
}

#[test]
fn a_read_that_is_always_ready_gives_way_now_and_then() {
    let (wakes, waker) = Wakes::new();
    let cx = &mut Context::from_waker(&waker);
    for (mut a, b) in pairs().unwrap() {
        common::run(async { (&b).write_all(&[7; 4000]).await });
        // Until the reactor has heard of them.
        common::run(async { a.readable().await });
        let before = wakes.count();
        let ready = (0..4000).take_while(|_| poll_read(&mut a, cx, 1).is_ready()).count();
        assert!((1..=128).contains(&ready), "{ready} reads without a break");
        assert_eq!(wakes.count(), before + 1, "who gives way is woken");
        assert!(poll_read(&mut a, cx, 1).is_ready());
    }
}

#[test]
fn several_buffers_are_written_at_once() {
    common::run(async {
        for (mut a, b) in pairs()? {
            assert!(a.is_write_vectored());
            let bufs = [IoSlice::new(b"hel"), IoSlice::new(b""), IoSlice::new(b"lo")];
            let n = poll_fn(|cx| Write::poll_write_vectored(Pin::new(&mut a), cx, &bufs)).await?;
            assert_eq!(n, 5);
            assert_eq!(read(b, 100).await?, b"hello");
        }
        Ok(())
    });
}

#[test]
fn a_shutdown_ends_one_direction_and_can_be_repeated() {
    common::run(async {
        for (mut a, mut b) in pairs()? {
            b.write_all(b"still here").await?;
            for _ in 0..2 {
                poll_fn(|cx| Write::poll_shutdown(Pin::new(&mut a), cx)).await?;
            }
            assert_eq!(read(&mut b, 10).await?, b"");
            assert_eq!(read(&mut a, 10).await?, b"still here");
            let e = poll_fn(|cx| Write::poll_write(Pin::new(&mut a), cx, b"x")).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BrokenPipe);
            // When the peer has gone as well, there is nothing to complain of either.
            drop(b);
            assert_eq!(read(&mut a, 10).await?, b"");
            poll_fn(|cx| Write::poll_shutdown(Pin::new(&mut a), cx)).await?;
        }
        Ok(())
    });
}

#[test]
fn a_shutdown_after_a_reset_is_no_error() {
    common::run(async {
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
        let mut client = Async::<TcpStream>::connect(listener.get_ref().local_addr()?).await?;
        let (server, _) = listener.accept().await?;
        reset(server.into_inner()?);
        let e = read(&mut client, 1).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ConnectionReset);
        poll_fn(|cx| Write::poll_shutdown(Pin::new(&mut client), cx)).await
    });
}

/// Closes a connection so that the peer gets an error.
fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (value, len) = ((&raw const linger).cast(), size_of_val(&linger) as libc::socklen_t);
    // SAFETY: the option's value is valid for reads of its length.
    let result =
        unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, len) };
    assert_eq!(result, 0);
}

// ------------------------------------------------------------------------------------------------- bridges

#[test]
fn a_bridge_leads_both_ways() {
    common::run(async {
        let (a, b) = Async::<UnixStream>::pair()?;
        // To hyper's traits and back again, on one side.
        let (mut a, mut b) = (Io::new(Io::new(a)), b);
        let sent: Vec<u8> = (0..500_000_u32).map(|i| i as u8).collect();
        let (result, received) = future::zip(
            async {
                AsyncWriteExt::write_all(&mut a, &sent).await?;
                AsyncWriteExt::flush(&mut a).await?;
                let mut answer = [0; 4];
                AsyncReadExt::read_exact(&mut a, &mut answer).await?;
                a.get_ref().get_ref().get_ref().shutdown(Shutdown::Write)?;
                io::Result::Ok(answer)
            },
            async {
                let mut received = vec![0; sent.len()];
                AsyncReadExt::read_exact(&mut b, &mut received).await?;
                AsyncWriteExt::write_all(&mut b, b"done").await?;
                let mut rest = Vec::new();
                AsyncReadExt::read_to_end(&mut b, &mut rest).await?;
                assert!(rest.is_empty());
                io::Result::Ok(received)
            },
        )
        .await;
        assert_eq!(&result?, b"done");
        assert!(received? == sent);
        a.into_inner().into_inner().into_inner().map(drop)
    });
}

#[test]
fn a_bridge_closes_what_it_leads_to() {
    common::run(async {
        let (a, b) = Async::<UnixStream>::pair()?;
        // futures-io's close of an `Async` only flushes, that of a `Stream` ends the direction.
        let mut a = Io::new(Stream::from(a));
        poll_fn(|cx| Write::poll_shutdown(Pin::new(&mut a), cx)).await?;
        assert_eq!(read(b, 10).await?, b"");
        Ok(())
    });
}

/// Says that it has read more than there was room for.
struct Liar;

impl futures_lite::AsyncRead for Liar {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len() + 1))
    }
}

#[test]
#[should_panic(expected = "into a buffer of 10")]
fn a_bridge_believes_no_number_that_is_too_large() {
    let _ = future::block_on(read(Io::new(Liar), 10));
}

// -------------------------------------------------------------------------------------------------- timers

fn poll_once(sleep: &mut Pin<Box<dyn Sleep>>) -> Poll<()> {
    sleep.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn a_sleep_follows_the_clock_of_its_reactor_and_can_be_set_again() {
    let clock = MockClock::new();
    let executor = LocalExecutor::builder().mock_clock(clock.clone()).build().unwrap();
    let second = Duration::from_secs(1);
    executor.block_on(async {
        let started = WheelTimer.now();
        assert_eq!(started, clock.now());
        let mut sleep = WheelTimer.sleep(second);
        assert!(poll_once(&mut sleep).is_pending());

        // Put off.
        WheelTimer.reset(&mut sleep, started + 3 * second);
        clock.advance(2 * second);
        assert!(poll_once(&mut sleep).is_pending());

        // Brought forward, to what has passed already.
        WheelTimer.reset(&mut sleep, started + second);
        sleep.as_mut().await;
        assert_eq!(clock.now(), started + 2 * second);
        // It stays over.
        assert!(poll_once(&mut sleep).is_ready());

        // And is as good as new.
        WheelTimer.reset(&mut sleep, clock.now() + second);
        assert!(poll_once(&mut sleep).is_pending());
        let before = clock.now();
        sleep.await;
        assert!(clock.now() >= before + second);
        assert_eq!(WheelTimer.now(), clock.now());
        WheelTimer.sleep_until(started).await;
    });
}

#[test]
fn a_sleep_that_is_put_off_wakes_at_the_new_time_only() {
    common::run(async {
        let started = Instant::now();
        let mut sleep = WheelTimer.sleep(Duration::from_millis(5));
        assert!(poll_once(&mut sleep).is_pending());
        WheelTimer.reset(&mut sleep, started + Duration::from_millis(30));
        sleep.await;
        assert!(started.elapsed() >= Duration::from_millis(30));
        Ok(())
    });
}

#[test]
fn a_sleep_of_somebody_else_is_replaced() {
    struct Never;
    impl Future for Never {
        type Output = ();
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }
    }
    impl Sleep for Never {}
    common::run(async {
        let mut sleep: Pin<Box<dyn Sleep>> = Box::pin(Never);
        WheelTimer.reset(&mut sleep, Instant::now());
        sleep.await;
        Ok(())
    });
}

// ----------------------------------------------------------------------------------------------- executors

#[test]
fn tasks_of_hyper_are_tasks_of_the_core() {
    on_executor(|| async {
        let (done, is_done) = (Rc::new(Cell::new(false)), OnDrop(|| {}));
        let flag = done.clone();
        // Not `Send`, and with an output that nobody wants.
        SpawnLocal.execute(async move {
            let _is_done = is_done;
            yield_now().await;
            flag.set(true);
            flag
        });
        while !done.get() {
            yield_now().await;
        }
    });
}

#[test]
fn tasks_of_hyper_go_to_a_core_from_any_thread() {
    fn cloneable_and_shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let cores = Cores::builder().threads(1).build().unwrap();
    let core: CoreHandle = cores.handles()[0].clone();
    cloneable_and_shared(&core);
    let (sender, receiver) = mpsc::channel();
    core.execute(async move { sender.send(thread::current().name().map(String::from)).unwrap() });
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().as_deref(), Some("core 0"));

    // When the core has gone, the future is dropped.
    assert_eq!(cores.shutdown(PATIENCE), 0);
    let (sender, receiver) = mpsc::channel::<()>();
    core.execute(async move {
        let _sender = sender;
        pending::<()>().await;
    });
    assert_eq!(receiver.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn tasks_of_hyper_without_a_core_say_what_to_do() {
    let panic = std::panic::catch_unwind(|| SpawnLocal.execute(async {})).unwrap_err();
    assert!(message(&*panic).contains("LocalExecutor::block_on"), "{}", message(&*panic));
}

#[test]
fn the_parts_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Unpin + 'static>() {}
    shared::<Io<Stream>>();
    shared::<Rewound<Stream>>();
    shared::<Server>();
    shared::<SpawnLocal>();
    shared::<WheelTimer>();
}

// ------------------------------------------------------------------------------------------------ a server

type TestBody = BoxBody<Bytes, hyper::Error>;

fn text(text: impl Into<Bytes>) -> Response<TestBody> {
    Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed())
}

/// `/echo` returns the body, `/panic` panics, `/never` is not answered, everything else is greeted.
async fn answer(request: Request<Incoming>) -> hyper::Result<Response<TestBody>> {
    match request.uri().path() {
        "/echo" => Ok(Response::new(request.into_body().boxed())),
        "/panic" => panic!("this service panics"),
        "/never" => pending().await,
        path => Ok(text(format!("{:?} {path}", request.version()))),
    }
}

fn listen() -> io::Result<(Async<TcpListener>, Addr)> {
    let listener = SocketOptions::new().nodelay().listen(([127, 0, 0, 1], 0))?;
    let addr = listener.get_ref().local_addr()?.into();
    Ok((listener, addr))
}

/// What a server tells of errors.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<Told>>>);

type Told = (Option<Addr>, ErrorKind, String);

impl Errors {
    fn hook(&self) -> impl Fn(Option<&Addr>, io::Error) + Send + Sync + 'static {
        let errors = self.0.clone();
        move |peer, e| errors.lock().unwrap().push((peer.cloned(), e.kind(), e.to_string()))
    }

    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Runs a server on an executor of its own, and `test` with its address beside it; then asks it to end. How many connections
/// it had to cut off.
#[track_caller]
fn with_server<F>(server: Server, test: impl FnOnce(Addr) -> F + Send + 'static) -> usize
where
    F: Future<Output = io::Result<()>> + 'static,
{
    on_executor(move || async move {
        let (listener, addr) = listen()?;
        let serving = spawn_local(async move { server.serve(listener, service_fn(answer)).await });
        within(test(addr)).await?;
        request_shutdown();
        within(serving).await?
    })
    .unwrap()
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "test").body(Empty::new()).unwrap()
}

async fn body<B: Body<Error: std::fmt::Debug, Data: Sized>>(response: Response<B>) -> Bytes {
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.unwrap().to_bytes()
}

#[test]
fn both_versions_are_served_on_one_port() {
    let left = with_server(Server::new(), |addr| async move {
        let mut http1 = connect_http1(&addr).await?;
        let mut http2 = connect_http2(&addr).await?;
        for _ in 0..3 {
            let response = http1.send_request(get("/a")).await.unwrap();
            assert_eq!(response.version(), Version::HTTP_11);
            assert_eq!(body(response).await, "HTTP/1.1 /a");
            let response = http2.send_request(get("http://test/b")).await.unwrap();
            assert_eq!(response.version(), Version::HTTP_2);
            assert_eq!(body(response).await, "HTTP/2.0 /b");
        }
        Ok(())
    });
    assert_eq!(left, 0);
}

#[test]
fn a_unix_socket_is_served_like_tcp() {
    on_executor(|| async {
        let path = std::env::temp_dir().join(format!("wakewheel-hyper-{}.sock", std::process::id()));
        let _remove = OnDrop(|| drop(std::fs::remove_file(&path)));
        let listener = Listener::from(SocketOptions::new().listen_unix(&path)?);
        let addr = listener.local_addr()?;
        let _serving = spawn_local(serve(listener, service_fn(answer)));
        let mut http1 = connect_http1(&addr).await?;
        assert_eq!(body(http1.send_request(get("/")).await.unwrap()).await, "HTTP/1.1 /");
        let mut http2 = connect_http2(&addr).await?;
        assert_eq!(body(http2.send_request(get("http://test/")).await.unwrap()).await, "HTTP/2.0 /");
        io::Result::Ok(())
    })
    .unwrap();
}

/// A body of many frames, made as they are wanted.
fn frames(count: u64) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
    StreamBody::new(futures_lite::stream::iter(0..count).map(|i| {
        let bytes: Vec<u8> = (0..10_000).map(|j| (i as usize * 31 + j) as u8).collect();
        Ok(Frame::data(Bytes::from(bytes)))
    }))
}

#[test]
fn large_bodies_come_back_as_they_were_sent() {
    with_server(Server::new(), |addr| async move {
        let sent = frames(300).collect().await.unwrap().to_bytes();
        let post = |uri: &str| Request::post(uri).header("host", "test").body(frames(300)).unwrap();
        let mut http1 = connect_http1(&addr).await?;
        let response = http1.send_request(post("/echo")).await.unwrap();
        assert!(body(response).await == sent);
        let mut http2 = connect_http2(&addr).await?;
        let both = future::zip(
            http2.clone().send_request(post("http://test/echo")),
            http2.send_request(post("http://test/echo")),
        );
        let (one, other) = both.await;
        let (one, other) = future::zip(body(one.unwrap()), body(other.unwrap())).await;
        assert!(one == sent && other == sent);
        Ok(())
    });
}

/// Sends the pieces one by one, and returns what comes until `end` does.
async fn exchange(addr: &Addr, pieces: &[&[u8]], end: &str) -> io::Result<String> {
    let mut stream = Stream::connect(addr).await?;
    for piece in pieces {
        stream.write_all(piece).await?;
        // So that they come as they are.
        sleep(Duration::from_millis(2)).await;
    }
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(end) {
        let chunk = stream.read_chunk().await?;
        if chunk.is_empty() {
            break;
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn the_version_is_recognised_however_the_first_bytes_come() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    with_server(Server::new(), |addr| async move {
        // Byte by byte. An empty SETTINGS frame follows the preface, and is what is answered.
        let settings = b"\0\0\0\x04\0\0\0\0\0";
        let pieces: Vec<&[u8]> = PREFACE.chunks(1).chain([&settings[..]]).collect();
        let answer = exchange(&addr, &pieces, "\x04").await?;
        assert_eq!(answer.as_bytes()[3], 4, "the server's settings: {answer:?}");
        let answer = exchange(&addr, &[&[PREFACE, settings].concat()], "\x04").await?;
        assert_eq!(answer.as_bytes()[3], 4, "the server's settings: {answer:?}");

        let request: &[u8] = b"POST /p HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\nx";
        let pieces: Vec<&[u8]> = request.chunks(1).collect();
        assert!(exchange(&addr, &pieces, "/p").await?.ends_with("HTTP/1.1 /p"));
        // Two in one go, and a third in two parts.
        let pieces = [&b"GET /1 HTTP/1.1\r\n\r\nPUT /2 HTTP/1.1\r\n\r\nP"[..], b"ATCH /3 HTTP/1.0\r\n\r\n"];
        let answer = exchange(&addr, &pieces, "nothing, until the end").await?;
        assert_eq!(answer.matches(" 200 OK").count(), 3, "{answer}");
        // Neither.
        let answer = exchange(&addr, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx"], "nothing").await?;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        Ok(())
    });
}

#[test]
fn a_server_of_one_version_does_not_speak_the_other() {
    with_server(Server::new().http1_only(), |addr| async move {
        let answer = exchange(&addr, &[b"GET /1 HTTP/1.1\r\n\r\n"], "/1").await?;
        assert!(answer.ends_with("HTTP/1.1 /1"), "{answer}");
        // The rest of what was sent may be unread when the server closes, which is a reset.
        let answer = exchange(&addr, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "nothing").await;
        assert_eq!(answer.unwrap_or_default(), "");
        Ok(())
    });
    with_server(Server::new().http2_only(), |addr| async move {
        let mut http2 = connect_http2(&addr).await?;
        assert_eq!(body(http2.send_request(get("http://test/b")).await.unwrap()).await, "HTTP/2.0 /b");
        let answer = exchange(&addr, &[b"GET /1 HTTP/1.1\r\nhost: test\r\n\r\n"], "nothing").await;
        assert!(!answer.unwrap_or_default().contains("200"));
        Ok(())
    });
}

#[test]
fn a_client_that_says_that_it_has_no_more_gets_its_answer() {
    let server = Server::new().http1(|http1| http1.half_close(true));
    with_server(server, |addr| async move {
        let mut stream = Stream::connect(&addr).await?;
        stream.write_all(b"POST /echo HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello").await?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
        Ok(())
    });
}

/// A server behind TLS, where the client chooses the version by ALPN.
#[test]
fn both_versions_are_served_by_tls() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = config.with_single_cert(vec![cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));

    let dir = Dir::new("tls");
    let (certificate, file) = (dir.path("certificate.pem"), dir.path("body"));
    let sent: String = (0..100_000).map(|i| format!("{i}\n")).collect();
    std::fs::write(&certificate, cert.pem()).unwrap();
    std::fs::write(&file, &sent).unwrap();
    let (certificate, body) = (certificate.display().to_string(), format!("@{}", file.display()));

    within_limit(move || {
        let executor = LocalExecutor::new().unwrap();
        let (listener, addr) = executor.enter(listen).unwrap();
        let stop = executor.handle();
        let start = move |stream, _| {
            let accepting = tls.accept(stream);
            async { Ok((Io::new(accepting.await?), service_fn(answer))) }
        };
        let Addr::Tcp(addr) = addr else { unreachable!() };
        let url = format!("https://localhost:{}/echo", addr.port());
        let client = thread::spawn(move || {
            for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
                let args = ["-sS", "--max-time", "20", option, "--cacert", &certificate, "--resolve"];
                let resolve = format!("localhost:{}:127.0.0.1", addr.port());
                let rest = [&resolve, "-w", "%{http_version}", "--data-binary", &body, "-H", "expect:", &url];
                if let Some(said) = program::run("curl", &[&args[..], &rest].concat()) {
                    assert!(said == format!("{sent}{version}"), "{} bytes by {version}", said.len());
                }
            }
            stop.request_shutdown();
        });
        let left = executor.block_on(async { Server::new().serve_with(listener, start).await });
        client.join().unwrap();
        assert_eq!(left.unwrap(), 0);
    });
}

// ------------------------------------------------------------------------------------------ how it comes to its end

/// A server of which the test decides when `/wait` is answered.
struct Gate {
    addr: Addr,
    open: Rc<Cell<bool>>,
    begun: Rc<Cell<usize>>,
    serving: wakewheel::Task<io::Result<usize>>,
}

impl Gate {
    fn start(server: Server) -> io::Result<Gate> {
        let (listener, addr) = listen()?;
        let (open, begun) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (is_open, count) = (open.clone(), begun.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (is_open, count) = (is_open.clone(), count.clone());
            async move {
                count.set(count.get() + 1);
                while request.uri().path() == "/wait" && !is_open.get() {
                    yield_now().await;
                }
                Ok::<_, Infallible>(text("done"))
            }
        });
        let serving = spawn_local(async move { server.serve(listener, service).await });
        Ok(Gate { addr, open, begun, serving })
    }

    async fn begun(&self, count: usize) {
        while self.begun.get() < count {
            yield_now().await;
        }
    }
}

#[test]
fn requests_are_answered_before_the_end_and_idle_connections_closed_at_once() {
    on_executor(|| async {
        within(async {
            let gate = Gate::start(Server::new())?;
            // One that is idle after a request, one that has said nothing, two that wait for an answer.
            let mut idle = connect_http1(&gate.addr).await?;
            body(idle.send_request(get("/")).await.unwrap()).await;
            let silent = Stream::connect(&gate.addr).await?;
            let mut http1 = connect_http1(&gate.addr).await?;
            let mut http2 = connect_http2(&gate.addr).await?;
            let idle2 = connect_http2::<Empty<Bytes>>(&gate.addr).await?;
            let one = spawn_local(async move { http1.send_request(get("/wait")).await });
            let two = spawn_local(async move { http2.send_request(get("http://test/wait")).await });
            gate.begun(3).await;

            request_shutdown();
            assert_eq!(*silent.read_chunk().await?, *b"");
            while !idle.is_closed() || !idle2.is_closed() {
                yield_now().await;
            }
            // Nobody gets in any more.
            let e = connect_http1::<Empty<Bytes>>(&gate.addr).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
            assert!(!gate.serving.is_finished() && !one.is_finished() && !two.is_finished());

            gate.open.set(true);
            assert_eq!(body(one.await?.unwrap()).await, "done");
            assert_eq!(body(two.await?.unwrap()).await, "done");
            assert_eq!(gate.serving.await??, 0);
            io::Result::Ok(())
        })
        .await
    })
    .unwrap();
}

#[test]
fn what_takes_longer_than_the_grace_is_cut_off_and_counted() {
    on_executor(|| async {
        within(async {
            let gate = Gate::start(Server::new().grace(Duration::from_millis(20)))?;
            let mut one = connect_http1(&gate.addr).await?;
            let mut two = connect_http2(&gate.addr).await?;
            let one = spawn_local(async move { one.send_request(get("/wait")).await });
            let two = spawn_local(async move { two.send_request(get("http://test/wait")).await });
            gate.begun(2).await;
            request_shutdown();
            assert_eq!(gate.serving.await??, 2);
            assert!(one.await?.unwrap_err().is_incomplete_message());
            assert!(two.await?.is_err());
            io::Result::Ok(())
        })
        .await
    })
    .unwrap();
}

#[test]
fn a_server_that_is_dropped_takes_its_connections_along() {
    on_executor(|| async {
        within(async {
            let gate = Gate::start(Server::new())?;
            let mut one = connect_http1(&gate.addr).await?;
            let one = spawn_local(async move { one.send_request(get("/wait")).await });
            let mut two = connect_http2(&gate.addr).await?;
            let two = spawn_local(async move { two.send_request(get("http://test/wait")).await });
            let silent = Stream::connect(&gate.addr).await?;
            gate.begun(2).await;
            gate.serving.cancel();
            assert!(one.await?.is_err());
            assert!(two.await?.is_err());
            assert_eq!(*silent.read_chunk().await?, *b"");
            let e = Stream::connect(&gate.addr).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
            // Whoever held on to the service lets go of it.
            while Rc::strong_count(&gate.open) > 1 {
                yield_now().await;
            }
            io::Result::Ok(())
        })
        .await
    })
    .unwrap();
}

#[test]
fn servers_of_all_cores_end_together() {
    within_limit(|| {
        let (server, options) = (Server::new(), SocketOptions::new().reuse_port());
        let addr = Mutex::new(([127, 0, 0, 1], 0).into());
        let (bound, is_bound) = mpsc::channel();
        let client = thread::spawn(move || {
            LocalExecutor::new().unwrap().block_on(async {
                let addr: Addr = is_bound.recv().unwrap();
                for _ in 0..20 {
                    let mut http1 = connect_http1(&addr).await?;
                    body(http1.send_request(get("/")).await.unwrap()).await;
                }
                // The last one.
                connect_http1(&addr).await?.send_request(get("/end")).await.map_err(io::Error::other)
            })
        });
        let lefts = Cores::builder().threads(3).try_run(async |core| {
            let listener = {
                let mut addr = addr.lock().unwrap();
                let listener = options.listen(*addr)?;
                *addr = listener.get_ref().local_addr()?;
                listener
            };
            if core == 0 {
                bound.send(listener.get_ref().local_addr()?.into()).unwrap();
            }
            let service = service_fn(|request: Request<Incoming>| async move {
                if request.uri().path() == "/end" {
                    request_shutdown();
                }
                Ok::<_, Infallible>(text("ok"))
            });
            server.serve(listener, service).await
        });
        assert_eq!(lefts.unwrap(), [0, 0, 0]);
        assert_eq!(client.join().unwrap().unwrap().status(), StatusCode::OK);
    });
}

#[test]
fn a_listener_that_can_accept_no_more_is_an_error_after_the_connections_have_ended() {
    // Only Linux ends a listener by a shutdown of its socket.
    if !cfg!(target_os = "linux") {
        return;
    }
    on_executor(|| async {
        within(async {
            let (listener, addr) = listen()?;
            let socket = listener.get_ref().try_clone()?;
            let serving = spawn_local(serve(listener, service_fn(answer)));
            let mut http1 = connect_http1(&addr).await?;
            body(http1.send_request(get("/")).await.unwrap()).await;
            // SAFETY: no pointers.
            assert_eq!(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) }, 0);
            let e = serving.await?.unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EINVAL));
            // Closed, and not cut off.
            while !http1.is_closed() {
                yield_now().await;
            }
            io::Result::Ok(())
        })
        .await
    })
    .unwrap();
}

// ------------------------------------------------------------------------------------------------- what goes wrong

#[test]
fn who_says_nothing_is_shown_out() {
    let errors = Errors::default();
    let server = Server::new().start_limit(Duration::from_millis(20)).on_error(errors.hook());
    with_server(server, |addr| async move {
        let silent = Stream::connect(&addr).await?;
        let mut begins_like_http2 = Stream::connect(&addr).await?;
        begins_like_http2.write_all(b"PRI").await?;
        assert_eq!(*silent.read_chunk().await?, *b"");
        assert!(begins_like_http2.read_chunk().await.map_or(true, |chunk| chunk.is_empty()));
        Ok(())
    });
    let kinds: Vec<_> = errors.take().into_iter().map(|(peer, kind, _)| (peer.is_some(), kind)).collect();
    assert_eq!(kinds, [(true, ErrorKind::TimedOut); 2]);
}

#[test]
fn who_goes_before_the_version_is_certain_is_let_go_at_once() {
    let errors = Errors::default();
    with_server(Server::new().on_error(errors.hook()), |addr| async move {
        for first in [&b""[..], b"PRI"] {
            let mut stream = Stream::connect(&addr).await?;
            stream.write_all(first).await?;
            stream.shutdown(Shutdown::Write)?;
            while !stream.read_chunk().await?.is_empty() {}
        }
        Ok(())
    });
    // Who has said nothing has done nothing wrong.
    let kinds: Vec<_> = errors.take().into_iter().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds, [ErrorKind::UnexpectedEof]);
}

#[test]
fn who_takes_too_long_for_a_request_is_shown_out_by_our_timer() {
    let errors = Errors::default();
    let limit = Duration::from_millis(20);
    let server = Server::new().http1(|http1| http1.header_read_timeout(limit)).on_error(errors.hook());
    with_server(server, |addr| async move {
        let mut slow = Stream::connect(&addr).await?;
        slow.write_all(b"GET / HTTP/1.1\r\n").await?;
        while !slow.read_chunk().await?.is_empty() {}
        // One that is idle after a request, too.
        let mut idle = connect_http1(&addr).await?;
        body(idle.send_request(get("/")).await.unwrap()).await;
        while !idle.is_closed() {
            yield_now().await;
        }
        Ok(())
    });
    let kinds: Vec<_> = errors.take().into_iter().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds, [ErrorKind::TimedOut; 2]);
}

#[test]
fn errors_of_connections_have_a_kind_a_text_and_a_peer() {
    let errors = Errors::default();
    let told = errors.clone();
    with_server(Server::new().on_error(errors.hook()), |addr| async move {
        let wait = async || {
            loop {
                match told.take().pop() {
                    Some(error) => return error,
                    None => yield_now().await,
                }
            }
        };
        // A client that goes in the middle of a body, in good order, by a reset, and one that speaks nonsense.
        let head = b"POST /echo HTTP/1.1\r\ncontent-length: 100\r\n\r\nx";
        let mut stream = Stream::connect(&addr).await?;
        stream.write_all(head).await?;
        while !String::from_utf8_lossy(&stream.read_chunk().await?).contains(" 200 OK") {}
        let name = stream.local_addr()?;
        reset(Async::<TcpStream>::try_from(stream)?.into_inner()?);
        let (peer, kind, text) = wait().await;
        assert_eq!(peer, Some(name));
        assert_eq!(kind, ErrorKind::ConnectionReset, "{text}");
        assert!(text.contains("reset"), "{text}");

        let mut stream = Stream::connect(&addr).await?;
        stream.write_all(b"nonsense\r\n\r\n").await?;
        let (peer, kind, text) = wait().await;
        assert_eq!((peer, kind), (Some(stream.local_addr()?), ErrorKind::InvalidData), "{text}");

        let mut stream = Stream::connect(&addr).await?;
        stream.write_all(b"GET / HT").await?;
        stream.shutdown(Shutdown::Write)?;
        let (_, kind, text) = wait().await;
        assert_eq!(kind, ErrorKind::UnexpectedEof, "{text}");
        // Who connects and goes without a word is no error.
        drop(Stream::connect(&addr).await?);
        let mut http1 = connect_http1(&addr).await?;
        body(http1.send_request(get("/")).await.unwrap()).await;
        assert_eq!(told.take(), []);
        Ok(())
    });
}

#[test]
fn a_service_that_panics_ends_its_connection_or_stream_and_nothing_else() {
    let left = with_server(Server::new(), |addr| async move {
        let mut http1 = connect_http1(&addr).await?;
        let mut other = connect_http1(&addr).await?;
        body(other.send_request(get("/")).await.unwrap()).await;
        assert!(http1.send_request(get("/panic")).await.unwrap_err().is_incomplete_message());
        body(other.send_request(get("/")).await.unwrap()).await;

        let mut http2 = connect_http2(&addr).await?;
        http2.send_request(get("http://test/panic")).await.unwrap_err();
        assert_eq!(body(http2.send_request(get("http://test/b")).await.unwrap()).await, "HTTP/2.0 /b");
        Ok(())
    });
    assert_eq!(left, 0, "the place of a connection that panicked is given up");
}

#[test]
fn a_client_that_sends_without_end_holds_nobody_up() {
    with_server(Server::new().grace(Duration::ZERO), |addr| async move {
        let mut firehose = connect_http1(&addr).await?;
        let endless = Request::post("/echo").body(frames(u64::MAX)).unwrap();
        let response = firehose.send_request(endless).await.unwrap();
        let mut echoed = response.into_body();
        let (mut bytes, mut answers) = (0, 0);
        let mut http1 = connect_http1(&addr).await?;
        let read = async {
            while let Some(frame) = echoed.frame().await {
                bytes += frame.unwrap().data_ref().map_or(0, Bytes::len);
            }
        };
        let ask = async {
            while answers < 100 {
                body(http1.send_request(get("/")).await.unwrap()).await;
                answers += 1;
            }
        };
        future::or(read, ask).await;
        assert_eq!(answers, 100);
        assert!(bytes > 0);
        Ok(())
    });
}

#[test]
fn what_comes_before_hyper_may_refuse_a_connection_and_gives_it_a_service_of_its_own() {
    let errors = Errors::default();
    let server = Server::new().on_error(errors.hook());
    on_executor(move || async move {
        within(async {
            let (listener, addr) = listen()?;
            let count = Cell::new(0);
            let start = move |stream: Stream, peer: Addr| {
                count.set(count.get() + 1);
                let number = count.get();
                async move {
                    if number == 2 {
                        return Err(io::Error::new(ErrorKind::PermissionDenied, "not the second"));
                    }
                    let service = service_fn(move |_| {
                        let greeting = format!("{number} {peer}");
                        async move { Ok::<_, Infallible>(text(greeting)) }
                    });
                    Ok((Io::new(stream), service))
                }
            };
            let serving = spawn_local(async move { server.serve_with(listener, start).await });
            let mut first = connect_http1(&addr).await?;
            let mut second = connect_http1(&addr).await?;
            let greeting = body(first.send_request(get("/")).await.unwrap()).await;
            assert!(greeting.starts_with(b"1 127.0.0.1:"), "{greeting:?}");
            assert!(second.send_request(get("/")).await.is_err());
            let mut third = connect_http2(&addr).await?;
            let greeting = body(third.send_request(get("http://test/")).await.unwrap()).await;
            assert!(greeting.starts_with(b"3 127.0.0.1:"), "{greeting:?}");
            request_shutdown();
            assert_eq!(serving.await??, 0);
            io::Result::Ok(())
        })
        .await
    })
    .unwrap();
    let told = errors.take();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].1, told[0].2.as_str()), (ErrorKind::PermissionDenied, "not the second"));
}

#[test]
fn a_client_that_cannot_connect_says_where() {
    on_executor(|| async {
        let (port, _taken) = taken_port();
        let addr = Addr::Tcp(port);
        let e = connect_http1::<Empty<Bytes>>(&addr).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
        assert!(e.to_string().contains(&addr.to_string()), "{e}");
        let e = connect_http2::<Empty<Bytes>>(&"unix:/no/such/socket".parse()?).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        io::Result::Ok(())
    })
    .unwrap();
}

#[test]
fn a_client_that_is_dropped_closes_its_connection() {
    on_executor(|| async {
        within(async {
            let (listener, addr) = listen()?;
            let http1 = connect_http1::<Empty<Bytes>>(&addr).await?;
            let (server, _) = listener.accept().await?;
            drop(http1);
            assert_eq!(*server.read_chunk().await?, *b"");
            let http2 = connect_http2::<Empty<Bytes>>(&addr).await?;
            let (server, _) = listener.accept().await?;
            drop(http2);
            while !server.read_chunk().await?.is_empty() {}
            io::Result::Ok(())
        })
        .await
    })
    .unwrap();
}

// ------------------------------------------------------------------------------------------------ upgrades

/// Answers the request for a WebSocket, and then echoes on it.
async fn upgrade(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let key = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    spawn_local(async move {
        let upgraded = upgraded.await.unwrap();
        let mut socket = WebSocketStream::from_raw_socket(Io::new(upgraded), Role::Server, None).await;
        while let Some(message) = socket.next().await {
            let message = message.unwrap();
            if message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    })
    .detach();
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", key);
    Ok(response.body(Empty::new()).unwrap())
}

#[test]
fn a_connection_can_go_on_as_a_web_socket() {
    on_executor(|| async {
        within(async {
            let (listener, addr) = listen()?;
            let _serving = spawn_local(serve(listener, service_fn(upgrade)));
            let stream = Stream::connect(&addr).await?;
            let (mut socket, _) = async_tungstenite::client_async("ws://test/", stream).await.unwrap();
            for text in ["hello", "world"] {
                socket.send(Message::text(text)).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
            }
            socket.close(None).await.unwrap();
            while let Some(message) = socket.next().await {
                assert!(message.unwrap().is_close());
            }
            io::Result::Ok(())
        })
        .await
    })
    .unwrap();
}

#[test]
fn an_upgraded_connection_is_our_stream_again() {
    on_executor(|| async {
        within(async {
            let (listener, addr) = listen()?;
            let taken = Rc::new(RefCell::new(None));
            let to = taken.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let (upgraded, to) = (hyper::upgrade::on(&mut request), to.clone());
                spawn_local(async move {
                    let parts = upgraded.await.unwrap().downcast::<Rewound<Stream>>().unwrap();
                    *to.borrow_mut() = Some((parts.read_buf, parts.io));
                })
                .detach();
                let response = Response::builder()
                    .status(StatusCode::SWITCHING_PROTOCOLS)
                    .header("connection", "upgrade")
                    .header("upgrade", "lines");
                async move { Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap()) }
            });
            let _serving = spawn_local(serve(listener, service));
            let mut stream = Stream::connect(&addr).await?;
            // What follows the request in the same packet belongs to what comes after it.
            stream
                .write_all(b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\nhello ")
                .await?;
            let (read_buf, io) = loop {
                if let Some(taken) = taken.take() {
                    break taken;
                }
                yield_now().await;
            };
            stream.write_all(b"world").await?;
            let (first, mut io) = io.into_parts();
            let mut rest = [0; 5];
            io.read_exact(&mut rest).await?;
            assert_eq!([&read_buf[..], &first, &rest].concat(), b"hello world");
            io::Result::Ok(())
        })
        .await
    })
    .unwrap();
}

#[test]
fn hyper_runs_under_another_executor_with_its_streams_on_a_core() {
    let cores = Cores::builder().threads(1).build().unwrap();
    let core = &cores.handles()[0];
    let (ours, theirs) = Async::<UnixStream>::pair().unwrap();
    let service = service_fn(|_: Request<Incoming>| async {
        let name = thread::current().name().map(String::from).unwrap_or_default();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(name))))
    });
    let body = within_limit({
        let core = core.clone();
        // This `block_on` knows nothing of wakewheel.
        move || {
            futures_lite::future::block_on(async move {
                let mut http2 = hyper::server::conn::http2::Builder::new(core.clone());
                let server = http2.timer(WheelTimer).serve_connection(ours, service);
                let client = async {
                    let http2 = hyper::client::conn::http2::Builder::new(core.clone());
                    let (mut sender, connection) = http2.handshake(theirs).await.unwrap();
                    core.execute(async { drop(connection.await) });
                    body(sender.send_request(get("http://test/")).await.unwrap()).await
                };
                future::zip(client, server).await.0
            })
        }
    });
    assert_eq!(body, "core 0");
    assert_eq!(cores.shutdown(PATIENCE), 0);
}
