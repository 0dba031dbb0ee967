//! evio: connections that the server makes, filters, and the helpers for streams of bytes.

mod common;
#[path = "common/counting.rs"]
mod counting;
#[path = "common/evio_server.rs"]
mod evio_server;

use common::dir::Dir;
use common::port::taken_port;
use counting::allocations;
use evio_server::*;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::evio::{Action, Builder, Conn, Events, InputStream, Opened, Options, Origin, Reply};
use wakewheel::io::Stream;
use wakewheel::spawn_local;

const ANY: &str = "tcp://127.0.0.1:0";
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A client: it greets, and notes all that happens. What it is told is answered with the same.
fn dialer(log: &Log<String>) -> Events<()> {
    let (opened, data, end) = (log.clone(), log.clone(), log.clone());
    Events::new()
        .opened(move |conn| {
            assert_eq!((conn.origin(), conn.addr_index()), (Origin::Dialed, None));
            let addrs = (conn.local_addr().is_ok(), conn.remote_addr().is_some());
            match conn.error() {
                None => {
                    assert_eq!(addrs, (true, true));
                    opened.note("opened");
                }
                Some(e) => {
                    assert_eq!(addrs, (false, false));
                    opened.note(format!("opened: {:?}", e.kind()));
                }
            }
            // Who keeps a handle would be waited for.
            Reply::send("greeting").with(Options::new().half_close(Duration::ZERO))
        })
        .data(move |conn, input| {
            data.note(if conn.is_wake() { "wake".into() } else { text(input) });
            Reply::send(input)
        })
        .closed(move |_, error| {
            end.note(closed(error));
            Action::None
        })
}

/// An address where connections are not made, and not refused either. What it has to be kept for is returned with it.
fn black_hole() -> (SocketAddr, impl Drop) {
    struct Keep(#[expect(dead_code, reason = "kept")] (TcpListener, Vec<TcpStream>));
    impl Drop for Keep {
        fn drop(&mut self) {}
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: no pointers. The queue of those that wait to be accepted is as short as it can be.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let addr = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, 200 * MS) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue has an end");
    }
    (addr, Keep((listener, waiting)))
}

// ----------------------------------------------------------------------------------------------------- dial

#[test]
fn b100_a_dialed_connection_is_opened_used_and_closed() {
    let dir = Dir::new("b100");
    let path = dir.path("socket");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix_listener = UnixListener::bind(&path).unwrap();
    for loops in [1, 3] {
        for index in [0, 1] {
            let log = Log::new();
            let running = start(dialer(&log).num_loops(loops), &[]);
            let addr = match index {
                0 => format!("tcp://{}", tcp.local_addr().unwrap()),
                _ => unix(&path),
            };
            let handle = running.dial(&addr, PATIENCE).unwrap();
            let mut peer = match index {
                0 => Client::Tcp(tcp.accept().unwrap().0),
                _ => Client::Unix(unix_listener.accept().unwrap().0),
            };
            assert_eq!(peer.receive(8), b"greeting");
            peer.ask("hello", "hello");
            assert_eq!(handle.remote_addr().unwrap().to_string(), addr);
            if let Client::Tcp(peer) = &peer {
                assert_eq!(handle.local_addr().unwrap().socket_addr(), peer.peer_addr().ok());
            }
            assert_eq!(running.connections(), 1);
            drop(peer);
            assert_eq!(log.wait_for(3), ["opened", "hello", "closed"]);
            eventually("it is over", || handle.is_closed() && running.connections() == 0);
            running.stop();
            assert_eq!(log.len(), 3);
        }
    }
}

#[test]
fn b100_a_name_is_looked_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = Log::new();
    let running = start(dialer(&log), &[]);
    running.dial(&format!("localhost:{}", listener.local_addr().unwrap().port()), PATIENCE).unwrap();
    let mut peer = Client::Tcp(listener.accept().unwrap().0);
    assert_eq!(peer.receive(8), b"greeting");
    running.stop();
}

#[test]
fn b100_a_dial_that_fails_is_opened_and_closed_with_its_error() {
    let (nobody, _taken) = taken_port();
    let refused = format!("tcp://{nobody}");
    let cases = [
        (refused.as_str(), ErrorKind::ConnectionRefused),
        ("unix:///this/is/not/there", ErrorKind::NotFound),
        ("tpc://127.0.0.1:1", ErrorKind::InvalidInput),
        ("tcp://127.0.0.1", ErrorKind::InvalidInput),
        ("tcp://127.0.0.1:many", ErrorKind::InvalidInput),
        ("tcp://:1", ErrorKind::InvalidInput),
        ("tcp://127.0.0.1:0", ErrorKind::InvalidInput),
        ("udp://127.0.0.1:1", ErrorKind::InvalidInput),
    ];
    for loops in [1, 2] {
        for (addr, kind) in cases {
            let log = Log::new();
            let running = start(dialer(&log).num_loops(loops), &[]);
            let handle = running.dial(addr, PATIENCE).unwrap();
            log.wait_for(2);
            eventually("it is over", || handle.is_closed() && running.connections() == 0);
            assert!(handle.wake().is_err() && handle.remote_addr().is_none());
            running.stop();
            assert_eq!(log.all(), [format!("opened: {kind:?}"), format!("closed: {kind:?}")], "{addr}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn b100_a_dial_that_takes_too_long_is_given_up() {
    let (addr, _keep) = black_hole();
    at_best(|| {
        let log = Log::new();
        let running = start(dialer(&log), &[]);
        let dialed = Instant::now();
        running.dial(&format!("tcp://{addr}"), 100 * MS).unwrap();
        assert_eq!(log.wait_for(2), ["opened: TimedOut", "closed: TimedOut"]);
        let took = dialed.elapsed();
        assert!(took >= 100 * MS, "{took:?}");
        running.stop();
        if took < 200 * MS { Ok(()) } else { Err(format!("{took:?}")) }
    });
}

#[test]
fn b100_a_server_that_has_stopped_does_not_dial() {
    let log = Log::new();
    let running = start(dialer(&log), &[]);
    let server = running.clone();
    running.stop();
    let (nobody, _taken) = taken_port();
    for addr in [format!("tcp://{nobody}"), "tcp://localhost:1".into(), "tpc://".into()] {
        assert_eq!(server.dial(&addr, PATIENCE).unwrap_err().kind(), ErrorKind::NotConnected);
    }
    assert_eq!((log.len(), server.connections()), (0, 0));
}

#[cfg(target_os = "linux")]
#[test]
fn b100_a_dial_that_is_under_way_ends_with_the_server() {
    let (addr, _keep) = black_hole();
    let log = Log::new();
    let running = start(dialer(&log).choices(Builder::new().shutdown_grace(50 * MS)), &[]);
    let server = running.clone();
    let handle = running.dial(&format!("tcp://{addr}"), HOUR).unwrap();
    let written = Log::<String>::new();
    let noted = written.clone();
    handle.write_then(b"never", move |result| noted.note(format!("{:?}", result.map_err(|e| e.kind()))));
    wakewheel::block_on(running.loop_handle(0).spawn(|| async {})).unwrap();
    running.stop();
    assert!(handle.is_closed());
    assert_eq!(written.all(), ["Err(NotConnected)"]);
    assert!(handle.write(b"x").is_err());
    assert_eq!(server.connections(), 0);
    // Either of none or of both.
    assert_eq!(log.len() % 2, 0, "{:?}", log.all());
}

/// Dials `listener` from a tick, and does something with the handle while the loop cannot connect yet. Returns the peer's
/// side.
fn dial_from_tick(
    log: &Log<String>,
    act: impl Fn(&wakewheel::evio::ConnHandle) + Send + Sync + 'static,
) -> (Running<()>, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = format!("tcp://{}", listener.local_addr().unwrap());
    let events = dialer(log).tick(move |server| {
        let handle = server.dial(&addr, PATIENCE).unwrap();
        act(&handle);
        assert!(!handle.is_closed() && handle.remote_addr().is_none());
        (HOUR, Action::None)
    });
    let running = start(events, &[]);
    let peer = listener.accept().unwrap().0;
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    (running, Client::Tcp(peer))
}

#[test]
fn b101_a_connection_that_is_being_dialed_can_be_woken() {
    let log = Log::new();
    let (running, mut peer) = dial_from_tick(&log, |handle| handle.wake().unwrap());
    assert_eq!(log.wait_for(2), ["opened", "wake"]);
    assert_eq!(peer.receive(8), b"greeting");
    peer.ask("x", "x");
    running.stop();
    assert_eq!(log.all(), ["opened", "wake", "x", "closed"]);
}

#[test]
fn b101_what_is_written_before_it_is_connected_is_sent_after_the_greeting() {
    let log = Log::new();
    let (running, mut peer) = dial_from_tick(&log, |handle| {
        handle.write(b" and more").unwrap();
        handle.close().unwrap();
    });
    assert_eq!(text(&peer.receive_all()), "greeting and more");
    assert_eq!(log.wait_for(2), ["opened", "closed"]);
    running.stop();
}

// -------------------------------------------------------------------------------------------------- filters

/// Flips bits, and fails at a byte 255.
struct Xor<S> {
    stream: S,
    key: u8,
}

impl<S: AsyncRead + Unpin> AsyncRead for Xor<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf[..n].contains(&255) {
            return Poll::Ready(Err(ErrorKind::InvalidData.into()));
        }
        buf[..n].iter_mut().for_each(|byte| *byte ^= self.key);
        Poll::Ready(Ok(n))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Xor<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let flipped = xor(buf, self.key);
        Pin::new(&mut self.stream).poll_write(cx, &flipped)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

fn xor(bytes: &[u8], key: u8) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ key).collect()
}

/// Its first byte is the key. 0 is refused, and at 1 it panics.
async fn handshake(mut stream: Stream) -> io::Result<Xor<Stream>> {
    let mut key = [0];
    stream.read_exact(&mut key).await?;
    match key[0] {
        0 => Err(io::Error::new(ErrorKind::PermissionDenied, "this is no key")),
        1 => panic!("as asked for"),
        key => Ok(Xor { stream, key }),
    }
}

/// Upper case with a filter at the first address, and without one at the second.
fn filtering(loops: isize, log: &Log<String>) -> Running<()> {
    let first = Arc::new(Mutex::new(None));
    let its = first.clone();
    let builder = Builder::new().loops(loops).translate(
        move |local, peer| {
            assert!(peer.is_some());
            let first: &Option<u16> = &its.lock().unwrap();
            local.socket_addr().unwrap().port() == first.unwrap()
        },
        handshake,
    );
    let (opened, end) = (log.clone(), log.clone());
    let events = Events::new()
        .choices(builder)
        .opened(move |conn| {
            opened.note(conn.error().map_or("opened".into(), |e| format!("opened: {:?}", e.kind())));
            Opened::default()
        })
        .data(|conn, input| {
            assert!(conn.local_addr().is_ok() && conn.remote_addr().is_some());
            match input {
                b"detach" => Reply::send("ok").then(Action::Detach),
                _ => Reply::send(input.to_ascii_uppercase()),
            }
        })
        .detached(|_, mut stream| {
            spawn_local(async move {
                let mut buf = [0; 5];
                stream.read_exact(&mut buf).await.unwrap();
                stream.write_all(&buf).await.unwrap();
                stream.close().await.unwrap();
            })
            .detach();
            Action::None
        })
        .closed(move |_, error| {
            end.note(closed(error));
            Action::None
        });
    let running = start(events, &[ANY, ANY]);
    *first.lock().unwrap() = running.addrs()[0].socket_addr().map(|addr| addr.port());
    running
}

#[test]
fn b102_a_filter_translates_both_directions() {
    const KEY: u8 = 0x55;
    for loops in [1, 3] {
        let log = Log::new();
        let running = filtering(loops, &log);
        let mut client = running.connect(0);
        // In pieces: the second one is a handshake and a piece of data at once.
        client.send([&[KEY][..], &xor(b"hello", KEY)].concat());
        assert_eq!(text(&client.receive(5)), text(&xor(b"HELLO", KEY)));
        let bytes: Vec<u8> = pattern(1 << 20).iter().map(|byte| b'a' + byte % 26).collect();
        let mut sender = client.try_clone();
        let sent = xor(&bytes, KEY);
        let sender = thread::spawn(move || sender.send(sent));
        assert!(client.receive(bytes.len()) == xor(&bytes.to_ascii_uppercase(), KEY));
        sender.join().unwrap();
        client.finish();
        assert_eq!(text(&client.receive_all()), "");
        assert_eq!(log.wait_for(2), ["opened", "closed"]);
        eventually("none is counted", || running.connections() == 0);
        running.stop();
    }
}

#[test]
fn b102_a_connection_that_is_not_to_be_filtered_is_as_it_was() {
    for loops in [1, 3] {
        let log = Log::new();
        let running = filtering(loops, &log);
        let mut client = running.connect(1);
        client.ask("hello", "HELLO");
        drop(client);
        assert_eq!(log.wait_for(2), ["opened", "closed"]);
        eventually("none is counted", || running.connections() == 0);
        running.stop();
    }
}

#[test]
fn b102_the_stream_of_a_filter_is_a_filter() {
    const KEY: u8 = 7;
    let log = Log::new();
    let running = filtering(1, &log);
    let mut client = running.connect(0);
    client.send([KEY]);
    client.ask(xor(b"detach", KEY), xor(b"ok", KEY));
    client.ask(xor(b"world", KEY), xor(b"world", KEY));
    assert_eq!(text(&client.receive_all()), "");
    running.stop();
    assert_eq!(log.all(), ["opened"]);
}

#[test]
fn b102_the_error_of_a_filter_is_that_of_the_connection() {
    for loops in [1, 3] {
        let log = Log::new();
        let running = filtering(loops, &log);
        let mut client = running.connect(0);
        client.send([0]);
        client.wait_for_the_end();
        assert_eq!(log.wait_for(2), ["opened: PermissionDenied", "closed: PermissionDenied"]);

        let mut client = running.connect(0);
        client.send([3, b'x' ^ 3]);
        assert_eq!(client.receive(1), [b'X' ^ 3]);
        client.send([255]);
        client.wait_for_the_end();
        assert_eq!(log.wait_for(4)[2..], ["opened", "closed: InvalidData"]);

        // The peer goes away in the handshake.
        running.connect(0).finish();
        assert_eq!(log.wait_for(6)[4..], ["opened: UnexpectedEof", "closed: UnexpectedEof"]);
        eventually("none is counted", || running.connections() == 0);
        running.stop();
        assert_eq!(log.len(), 6);
    }
}

#[test]
fn b102_a_filter_that_panics_costs_its_connection() {
    for loops in [1, 3] {
        let log = Log::new();
        let running = filtering(loops, &log);
        for _ in 0..3 {
            let mut client = running.connect(0);
            client.send([1]);
            client.wait_for_the_end();
        }
        eventually("none is counted", || running.connections() == 0);
        running.connect(1).ask("hello", "HELLO");
        let mut client = running.connect(0);
        client.ask([3, b'x' ^ 3], [b'X' ^ 3]);
        running.stop();
    }
}

#[test]
fn b102_a_choice_that_panics_costs_its_connection() {
    for loops in [1, 3] {
        let panics = AtomicBool::new(true);
        let builder = Builder::new().loops(loops).translate(
            move |_, _| {
                assert!(!panics.swap(false, Ordering::SeqCst), "as asked for");
                false
            },
            |stream| async { Ok(stream) },
        );
        let running = start(Events::new().choices(builder).data(|_, input| Reply::send(input)), &[ANY]);
        running.connect(0).wait_for_the_end();
        running.connect(0).ask("hello", "hello");
        eventually("none is counted", || running.connections() == 0);
        running.stop();
    }
}

#[test]
fn b102_a_filter_is_for_dialed_connections_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = Log::new();
    let filter = |stream| async { Ok(Xor { stream, key: 1 }) };
    let events = dialer(&log).choices(Builder::new().translate(|_, _| true, filter));
    let running = start(events, &[]);
    running.dial(&format!("tcp://{}", listener.local_addr().unwrap()), PATIENCE).unwrap();
    let mut peer = Client::Tcp(listener.accept().unwrap().0);
    assert_eq!(peer.receive(8), xor(b"greeting", 1));
    peer.ask(xor(b"hello", 1), xor(b"hello", 1));
    running.stop();
    assert_eq!(log.all(), ["opened", "hello", "closed"]);
}

// -------------------------------------------------------------------------------------------------- parsing

/// The arguments of one request, and how long it was. `None` if it is not complete.
type Parse = fn(&[u8]) -> Option<(Vec<Vec<u8>>, usize)>;

fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some((&bytes[..end], end + 2))
}

fn number(bytes: &[u8]) -> usize {
    std::str::from_utf8(bytes).unwrap().trim().parse().unwrap()
}

fn resp(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (count, mut at) = line(bytes)?;
    let mut arguments = Vec::new();
    for _ in 0..number(&count[1..]) {
        let (len, n) = line(bytes.get(at..)?)?;
        at += n;
        let len = number(&len[1..]);
        arguments.push(bytes.get(at..at + len)?.to_vec());
        at += len + 2;
    }
    (at <= bytes.len()).then_some((arguments, at))
}

fn http(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (request, mut at) = line(bytes)?;
    let mut parts = vec![request.to_vec()];
    let mut len = 0;
    loop {
        let (header, n) = line(&bytes[at..])?;
        at += n;
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix(b"Content-Length:") {
            len = number(value);
        }
        parts.push(header.to_vec());
    }
    parts.push(bytes.get(at..at + len)?.to_vec());
    Some((parts, at + len))
}

fn requests() -> [(Parse, Vec<u8>); 2] {
    let (mut of_resp, mut of_http) = (Vec::new(), Vec::new());
    for i in 0..50 {
        let value: Vec<u8> = pattern(i * 7);
        write!(of_resp, "*3\r\n$3\r\nSET\r\n$4\r\n{i:04}\r\n${}\r\n", value.len()).unwrap();
        of_resp.extend([&value[..], b"\r\n"].concat());
        write!(of_http, "POST /{i} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", value.len()).unwrap();
        of_http.extend(value);
    }
    [(resp, of_resp), (http, of_http)]
}

fn parse_all(parse: Parse, stream: &mut InputStream, packet: &[u8], found: &mut Vec<Vec<Vec<u8>>>) {
    let mut input = stream.begin(packet);
    while let Some((request, n)) = parse(&input) {
        found.push(request);
        input.discard(n);
    }
}

#[test]
fn b103_what_is_not_consumed_begins_the_next_input() {
    let mut stream = InputStream::new();
    stream.begin(b"HELLO").end(2);
    let mut input = stream.begin(b"WLY");
    assert_eq!(&*input, b"LOWLY");
    input.end(0);
    drop(input);
    assert_eq!(&*stream.begin(b"PLAYER"), b"PLAYER");
}

#[test]
fn b103_requests_that_come_byte_by_byte_are_those_that_come_at_once() {
    for (parse, bytes) in requests() {
        let mut whole = Vec::new();
        parse_all(parse, &mut InputStream::new(), &bytes, &mut whole);
        assert_eq!(whole.len(), 50);
        for size in [1, 2, 3, 5, 7, 64, 1000] {
            let (mut stream, mut found) = (InputStream::new(), Vec::new());
            bytes.chunks(size).for_each(|packet| parse_all(parse, &mut stream, packet, &mut found));
            assert!(found == whole && stream.is_empty(), "packets of {size}");
        }
    }
}

#[test]
fn b103_pipelined_requests_are_answered_in_whatever_pieces_they_come() {
    for (parse, bytes) in requests() {
        let mut whole = Vec::new();
        parse_all(parse, &mut InputStream::new(), &bytes, &mut whole);
        let expected = whole.iter().map(|request| request.concat()).collect::<Vec<_>>().concat();
        // With the handler's own stream, and with the connection's rest.
        let with_stream = Events::with_context::<InputStream>().data(move |conn, packet| {
            let mut found = Vec::new();
            parse_all(parse, conn.context, packet, &mut found);
            Reply::send(found.concat().concat())
        });
        let with_rest = Events::with_context::<InputStream>().data(move |conn, mut input| {
            while let Some((request, n)) = parse(input) {
                conn.out.extend(request.concat());
                input = &input[n..];
            }
            conn.unread(input.len());
            Reply::none()
        });
        for events in [with_stream, with_rest] {
            let running = start(events, &[ANY]);
            for size in [1, 11, bytes.len()] {
                let mut client = running.connect(0);
                let mut sender = client.try_clone();
                let bytes = bytes.clone();
                let sender = thread::spawn(move || {
                    bytes.chunks(size).for_each(|chunk| sender.send(chunk));
                    sender.finish();
                });
                assert!(client.receive_all() == expected, "pieces of {size}");
                sender.join().unwrap();
            }
            running.stop();
        }
    }
}

#[test]
fn b103_what_is_left_over_is_not_the_input_of_a_wake() {
    let log = Log::<String>::new();
    let (data, end) = (log.clone(), log.clone());
    let events = Events::new()
        .data(move |conn, input| {
            data.note(if conn.is_wake() { format!("wake {}", text(input)) } else { text(input) });
            if conn.is_wake() {
                return Reply::send("woken");
            }
            if !input.ends_with(b"!") {
                conn.unread(input.len());
                conn.wake();
            }
            Reply::none()
        })
        .closed(move |_, error| {
            end.note(closed(error));
            Action::None
        });
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    client.ask("a", "woken");
    client.ask("b", "woken");
    client.send("!");
    client.finish();
    assert_eq!(text(&client.receive_all()), "");
    assert_eq!(log.wait_for(6), ["a", "wake ", "ab", "wake ", "ab!", "closed"]);
    running.stop();
}

// ----------------------------------------------------------------------------------------------- allocations

#[test]
fn b104_to_read_and_to_answer_allocates_nothing() {
    // What the first few inputs need is there after that.
    const WARM: u64 = 100;
    let (calls, before, after) = (AtomicU64::new(0), AtomicU64::new(0), Arc::new(AtomicU64::new(u64::MAX)));
    let end = after.clone();
    let events = Events::new().data(move |conn, input| {
        let now = allocations();
        let call = calls.fetch_add(1, Ordering::SeqCst);
        if call == WARM {
            before.store(now, Ordering::SeqCst);
        }
        end.store(now - before.load(Ordering::SeqCst), Ordering::SeqCst);
        match call % 2 {
            0 => Reply::send(input),
            _ => {
                conn.out.extend_from_slice(input);
                Reply::none()
            }
        }
    });
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    for i in 0..WARM + 500 {
        client.ask(format!("message {i:9}"), format!("message {i:9}"));
    }
    assert_eq!(after.load(Ordering::SeqCst), 0);
    running.stop();
}

// -------------------------------------------------------------------------------------------------- options

/// Whether the kernel keeps a connection alive that was opened with `options`, after how long, and how often.
fn keep_alive(options: Options) -> (bool, i32, i32) {
    let log = Log::<(bool, i32, i32)>::new();
    let noted = log.clone();
    let events = Events::new().opened(move |_| Reply::from(Action::Detach).with(options.clone())).detached(
        move |_, stream| {
            let stream: TcpStream = stream.try_into().unwrap();
            let get = |level, name| {
                let (mut value, mut len) = (0_i32, size_of::<i32>() as libc::socklen_t);
                let (pointer, fd) = ((&raw mut value).cast(), stream.as_raw_fd());
                // SAFETY: the pointers are to a value, and to its size.
                assert_eq!(unsafe { libc::getsockopt(fd, level, name, pointer, &mut len) }, 0);
                value
            };
            #[cfg(target_os = "linux")]
            let (idle, interval) = (libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL);
            #[cfg(target_os = "macos")]
            let (idle, interval) = (libc::TCP_KEEPALIVE, libc::TCP_KEEPINTVL);
            #[cfg(not(any(target_os = "linux", target_os = "macos")))]
            let (idle, interval) = (libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL);
            noted.note((
                get(libc::SOL_SOCKET, libc::SO_KEEPALIVE) != 0,
                get(libc::IPPROTO_TCP, idle),
                get(libc::IPPROTO_TCP, interval),
            ));
            Action::None
        },
    );
    let running = start(events, &[ANY]);
    running.connect(0).wait_for_the_end();
    let result = log.wait_for(1)[0];
    running.stop();
    result
}

#[test]
fn b106_keepalive_is_set_in_whole_seconds() {
    let cases = [(300_000, 300), (1000, 1), (1, 1), (500, 1), (1500, 2), (1999, 2)];
    for (ms, seconds) in cases {
        let options = Options::new().tcp_keepalive(ms * MS);
        assert_eq!(keep_alive(options), (true, seconds, seconds), "{ms} ms");
    }
    assert!(!keep_alive(Options::new()).0, "off by default");
}

#[test]
fn b106_a_unix_socket_has_no_keepalive_and_does_not_mind() {
    let dir = Dir::new("b106");
    let events = Events::new()
        .opened(|_| Options::new().tcp_keepalive(300_000 * MS).nodelay(true).into())
        .data(|_, input| Reply::send(input));
    let running = start(events, &[&unix(&dir.path("socket"))]);
    running.connect(0).ask("hello", "hello");
    running.stop();
}

#[test]
fn b106_an_option_that_the_kernel_refuses_costs_the_connection_and_nothing_else() {
    let log = Log::<String>::new();
    let end = log.clone();
    let count = AtomicUsize::new(0);
    let events = Events::new()
        .opened(move |conn: &mut Conn<'_, ()>| match count.fetch_add(1, Ordering::SeqCst) {
            0 => Opened::default(),
            _ => {
                conn.out.extend_from_slice(b"a secret");
                Options::new().tcp_keepalive(Duration::from_secs(1 << 20)).into()
            }
        })
        .data(|_, input| Reply::send(input))
        .closed(move |_, error| {
            end.note(if error.is_some() { "failed" } else { "closed" });
            Action::None
        });
    let running = start(events, &[ANY]);
    let mut first = running.connect(0);
    first.ask("hello", "hello");
    let mut second = running.connect(0);
    second.wait_for_the_end();
    assert_eq!(log.wait_for(1), ["failed"]);
    first.ask("hello", "hello");
    first.finish();
    assert_eq!(text(&first.receive_all()), "");
    running.stop();
}
