//! Connections that go from callbacks to tasks and back: the examples `mixed` and `proxy`, as programs, and the library.
//!
//! `cargo test` and `cargo nextest run` build the examples first. With `--test evio_mixed`, cargo does not: `cargo build
//! --examples`.

#[path = "common/dir.rs"]
mod dir;
#[path = "common/port.rs"]
mod port;
#[path = "common/program.rs"]
mod program;

use async_tungstenite::tungstenite::{self, Message, WebSocket};
use dir::Dir;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use port::taken_port;
use program::{PATIENCE, Program, connect};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::block_on;
use wakewheel::evio::{Action, Builder, DetachedStream, Events, Origin, Reply, Server};
use wakewheel::io::SocketOptions;

fn listening_on(program: &Program) -> SocketAddr {
    program.listening_on().strip_prefix("tcp://").expect("a TCP address").parse().unwrap()
}

/// Bytes that do not repeat soon.
fn bytes(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b1) >> 24) as u8).collect()
}

#[track_caller]
fn assert_same(got: &[u8], expected: &[u8]) {
    let first = got.iter().zip(expected).position(|(a, b)| a != b);
    assert!(got == expected, "{} bytes of {}, different at {first:?}", got.len(), expected.len());
}

/// Does a connection end here, in one way or the other?
fn has_ended(result: io::Result<usize>) -> bool {
    match result {
        Ok(n) => n == 0,
        Err(e) => matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
    }
}

#[test]
fn wrong_arguments_are_quoted() {
    for (example, args, quoted) in [
        ("mixed", &["--loops", "many"][..], "\"many\""),
        ("mixed", &["tcp://:0", "tcp://:0", "tcp://:1"], "\"tcp://:1\""),
        ("proxy", &[], "where shall it listen?"),
        ("proxy", &["tcp://:0"], "what is the upstream?"),
        ("proxy", &["tcp://:0", "nowhere"], "\"nowhere\""),
        ("proxy", &["tcp://:0", "127.0.0.1:1", "--idle", "5"], "\"5\""),
    ] {
        let (status, errors) = Program::start(example, args).wait();
        assert_eq!(status.code(), Some(2), "{example} {args:?}: {errors}");
        assert!(errors.contains(quoted), "{example} {args:?}: {errors}");
        assert!(errors.contains(&format!("\nusage: {example}")), "{example} {args:?}: {errors}");
    }
    let (status, errors) = Program::start("mixed", &["tpc://127.0.0.1:0"]).wait();
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("tpc://127.0.0.1:0"), "{errors}");
}

// ------------------------------------------------------------------------------------------------- mixed

/// It runs, with the address of the callbacks and that of the monitor.
fn mixed(loops: &str) -> (Program, SocketAddr, SocketAddr) {
    let program = Program::start("mixed", &["tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "--loops", loops]);
    let (lines, monitor) = (listening_on(&program), listening_on(&program));
    (program, lines, monitor)
}

fn put_answer(body: &[u8]) -> String {
    let sum = body.iter().fold(0_u32, |sum, &byte| sum.rotate_left(1) ^ u32::from(byte));
    format!("{} bytes, sum {sum:08x}\n", body.len())
}

/// What comes back for all of `input`, sent in these pieces.
#[track_caller]
fn talk<'a>(addr: SocketAddr, input: impl Iterator<Item = &'a [u8]>) -> String {
    let mut stream = connect(addr);
    for piece in input {
        stream.write_all(piece).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    answers
}

#[test]
fn mixed_for_netcat() {
    let help = Command::new("nc").arg("-h").output();
    let understands = |help: &[u8]| String::from_utf8_lossy(help).contains("-N");
    if !help.is_ok_and(|help| understands(&help.stderr) || understands(&help.stdout)) {
        return println!("skipped: there is no nc with -N here");
    }
    let (program, addr, _) = mixed("2");
    let args = ["-N", "-w", "30", &addr.ip().to_string(), &addr.port().to_string()];
    let mut nc = Command::new("nc").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    nc.stdin
        .take()
        .unwrap()
        .write_all(b"PING\r\nECHO hello from nc\nPUT 5\nabcdeCOUNT\nPUT x\nWHAT\n")
        .unwrap();
    let expected = format!(
        "PONG\nhello from nc\n{}4\nERR write PUT and how many bytes follow the line\nERR write PING, ECHO, COUNT or \
         PUT\n",
        put_answer(b"abcde")
    );
    assert_eq!(String::from_utf8(nc.wait_with_output().unwrap().stdout).unwrap(), expected);
    program.end();
}

#[test]
fn mixed_goes_to_a_task_and_back_without_losing_a_byte() {
    let (program, addr, _) = mixed("3");
    let (mut input, mut expected) = (Vec::new(), String::new());
    let mut cut = (0, 0);
    for i in 0..200 {
        let body = bytes(i * i % 5000, i as u32);
        input.extend_from_slice(format!("ECHO {i}\nPUT {}\n", body.len()).as_bytes());
        input.extend_from_slice(&body);
        input.extend_from_slice(b"COUNT\n");
        expected += &format!("{i}\n{}{}\n", put_answer(&body), 3 * i + 3);
        if i == 40 {
            cut = (input.len(), expected.len());
        }
    }
    // All at once, in pieces that end anywhere, and byte by byte.
    assert_eq!(talk(addr, std::iter::once(&input[..])), expected);
    assert_eq!(talk(addr, input.chunks(1234)), expected);
    assert_eq!(talk(addr, input[..cut.0].chunks(1)), expected[..cut.1]);
    program.end();
}

#[test]
fn mixed_takes_large_bodies_while_it_answers_others() {
    let (program, addr, _) = mixed("1");
    let body = bytes(10_000_000, 7);
    let uploads: Vec<_> = (0..3)
        .map(|_| {
            let body = body.clone();
            thread::spawn(move || {
                let head = format!("PUT {}\n", body.len());
                talk(addr, [head.as_bytes(), &body, b"PING\n"].into_iter())
            })
        })
        .collect();
    for _ in 0..100 {
        assert_eq!(talk(addr, [&b"PING\n"[..]].into_iter()), "PONG\n");
    }
    for upload in uploads {
        assert_eq!(upload.join().unwrap(), put_answer(&body) + "PONG\n");
    }
    program.end();
}

#[test]
fn mixed_outlives_rude_clients() {
    let (program, addr, _) = mixed("2");
    assert_eq!(talk(addr, [&[b'x'; 5000][..]].into_iter()), "ERR line too long\n");
    assert_eq!(talk(addr, [&b"PUT 10\nabc"[..]].into_iter()), "");
    assert_eq!(talk(addr, [&b"GET / HTTP/1.1\r\n"[..]].into_iter()), "");
    let resetting = SocketOptions::new().reset_on_close();
    for input in [&b"PUT 10\nabc"[..], b"PUT 0\n", b"GET / HTTP/1.1\r\n", b"PING\n"] {
        let stream = block_on(resetting.connect(addr)).unwrap().into_inner().unwrap();
        (&stream).write_all(input).unwrap();
    }
    assert_eq!(talk(addr, [&b"PING\n"[..]].into_iter()), "PONG\n");
    program.signal(libc::SIGTERM);
    let (status, errors) = program.wait();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(errors.contains(": unexpected end of file\n"), "{errors}");
    assert!(errors.lines().all(|line| line.starts_with("tcp://127.0.0.1:")), "{errors}");
}

/// A WebSocket over a connection that is there.
#[track_caller]
fn web_socket(addr: SocketAddr, stream: TcpStream) -> WebSocket<TcpStream> {
    let (socket, _) = tungstenite::client(format!("ws://{addr}/"), stream).expect("a handshake");
    socket
}

#[test]
fn mixed_has_web_sockets_on_connections_that_have_sent_lines() {
    let (program, addr, _) = mixed("2");
    let mut stream = connect(addr);
    stream.write_all(b"PUT 3\nabcPING\n").unwrap();
    let mut lines = BufReader::new(&stream);
    for expected in [&put_answer(b"abc")[..], "PONG\n"] {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    }
    let mut socket = web_socket(addr, stream);
    let messages = [
        Message::text("hello"),
        Message::binary(bytes(1 << 20, 1)),
        Message::text(""),
        Message::text("PING\n"),
    ];
    for message in messages {
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message);
    }
    socket.send(Message::Ping("there?".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("there?".into()));
    socket.close(None).unwrap();
    assert!(socket.read().unwrap().is_close());
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    program.end();
}

#[test]
fn mixed_waits_for_a_request_that_comes_in_pieces() {
    let (program, addr, _) = mixed("1");
    let mut stream = connect(addr);
    stream.set_nodelay(true).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // Not byte by byte: tungstenite takes that for an attack.
    for piece in request.as_bytes().chunks(7) {
        stream.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let mut answer = vec![0; 1000];
    let mut len = 0;
    while !answer[..len].ends_with(b"\r\n\r\n") {
        len += stream.read(&mut answer[len..]).unwrap();
    }
    let answer = String::from_utf8_lossy(&answer[..len]).to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    // The example of RFC 6455.
    assert!(answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    let mut socket = WebSocket::from_raw_socket(stream, tungstenite::protocol::Role::Client, None);
    socket.send(Message::text("x")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("x"));
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    program.end();
}

#[test]
fn mixed_limits_messages() {
    let (program, addr, _) = mixed("1");
    let mut socket = web_socket(addr, connect(addr));
    let _ = socket.send(Message::binary(vec![0; (1 << 20) + 1]));
    assert!(socket.read().is_err());
    let mut socket = web_socket(addr, connect(addr));
    socket.send(Message::text("still there?")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("still there?"));
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    program.signal(libc::SIGTERM);
    let (status, errors) = program.wait();
    assert_eq!((status.code(), errors.lines().count()), (Some(0), 1), "{errors}");
}

#[test]
fn mixed_says_goodbye_to_all() {
    let (program, addr, monitor) = mixed("2");
    let mut socket = web_socket(addr, connect(addr));
    let mut line = connect(addr);
    line.write_all(b"PING\nPI").unwrap();
    line.read_exact(&mut [0; 5]).unwrap();
    let mut monitored = BufReader::new(connect(monitor)).lines();
    // A WebSocket has left the callbacks, and is not counted.
    assert_eq!(monitored.next().unwrap().unwrap(), "connections: 2");
    assert_eq!(monitored.next().unwrap().unwrap(), "connections: 2", "a second later");
    program.signal(libc::SIGINT);
    assert!(socket.read().unwrap().is_close());
    assert_eq!(line.read(&mut [0]).unwrap(), 0);
    assert!(monitored.next().is_none());
    let (status, errors) = program.wait();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

// ------------------------------------------------------------------------------------------------- proxy

/// It runs, in front of `upstream`.
fn proxy(upstream: SocketAddr, more: &[&str]) -> (Program, SocketAddr) {
    let upstream = upstream.to_string();
    let program = Program::start("proxy", &[&["tcp://127.0.0.1:0", &upstream], more].concat());
    let addr = listening_on(&program);
    (program, addr)
}

/// Ends it. Returns its final line, and what it has complained of.
#[track_caller]
fn end(program: Program) -> (String, String) {
    program.signal(libc::SIGTERM);
    let line = program.line();
    let (status, errors) = program.wait();
    assert_eq!(status.code(), Some(0), "{errors}");
    (line, errors)
}

/// A server with this as its connections' life.
fn upstream(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, serve) = (listener.local_addr().unwrap(), Arc::new(serve));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            thread::spawn(move || serve(stream));
        }
    });
    addr
}

fn echo(stream: TcpStream) {
    let _ = io::copy(&mut &stream, &mut &stream);
}

/// Sends `bytes` and then the end, while it reads to the end.
fn exchange<S>(stream: S, bytes: &[u8], end: impl FnOnce(&S) + Send) -> Vec<u8>
where
    S: Sync,
    for<'a> &'a S: Read + Write,
{
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(bytes).unwrap();
            end(&stream);
        });
        let mut received = Vec::new();
        (&stream).read_to_end(&mut received).unwrap();
        received
    })
}

fn end_tcp(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn proxy_passes_on_both_directions_at_the_same_time() {
    const LEN: usize = 4 << 20;
    let (sender, received) = mpsc::channel();
    let upstream = upstream(move |stream| {
        sender.send(exchange(stream, &bytes(LEN, 2), end_tcp)).unwrap();
    });
    for loops in ["1", "2"] {
        let (program, addr) = proxy(upstream, &["--loops", loops]);
        let down = exchange(connect(addr), &bytes(LEN, 1), end_tcp);
        assert_same(&down, &bytes(LEN, 2));
        assert_same(&received.recv_timeout(PATIENCE).unwrap(), &bytes(LEN, 1));
        let line = format!("1 connections, 0 failed; {LEN} bytes to the upstream, {LEN} bytes back");
        assert_eq!(end(program), (line, String::new()));
    }
}

#[test]
fn proxy_passes_on_the_end_of_one_direction() {
    // The upstream answers when it has seen the end.
    let sum = upstream(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        thread::sleep(Duration::from_millis(50));
        stream.write_all(put_answer(&all).as_bytes()).unwrap();
    });
    let (program, addr) = proxy(sum, &[]);
    let body = bytes(300_000, 3);
    assert_eq!(exchange(connect(addr), &body, end_tcp), put_answer(&body).as_bytes());
    assert_eq!(end(program).1, "");

    // The client sends what it has when it has seen the end.
    let (sender, received) = mpsc::channel();
    let greeter = upstream(move |mut stream| {
        stream.write_all(b"your turn").unwrap();
        end_tcp(&stream);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        sender.send(all).unwrap();
    });
    let (program, addr) = proxy(greeter, &[]);
    let mut client = connect(addr);
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "your turn");
    client.write_all(&body).unwrap();
    drop(client);
    assert_same(&received.recv_timeout(PATIENCE).unwrap(), &body);
    assert_eq!(end(program).1, "");
}

#[test]
fn proxy_goes_on_when_the_upstream_is_not_there() {
    let (upstream, socket) = taken_port();
    let (program, addr) = proxy(upstream, &["--loops", "2"]);
    for _ in 0..20 {
        let mut client = connect(addr);
        let _ = client.write_all(b"anybody?");
        assert!(has_ended(client.read(&mut [0])));
    }
    // It comes back.
    socket.listen(1).unwrap();
    let listener = TcpListener::from(socket);
    let server = thread::spawn(move || echo(listener.accept().unwrap().0));
    assert_eq!(exchange(connect(addr), b"hello", end_tcp), b"hello");
    server.join().unwrap();
    let (line, errors) = end(program);
    assert_eq!(line, "21 connections, 20 failed; 5 bytes to the upstream, 5 bytes back");
    assert_eq!(errors.matches(&format!("cannot connect to {upstream}: ")).count(), 20, "{errors}");
}

#[test]
fn proxy_does_not_wait_for_ever_for_an_upstream_that_does_not_accept() {
    // A queue of one or two, which is full: the kernel says nothing to those who come then.
    let listener = SocketOptions::new().backlog(1).listen(([127, 0, 0, 1], 0)).unwrap();
    let upstream = listener.get_ref().local_addr().unwrap();
    let limit = Duration::from_millis(100);
    let waiting: Vec<_> =
        std::iter::from_fn(|| TcpStream::connect_timeout(&upstream, limit).ok()).take(100).collect();
    if waiting.len() == 100 {
        return println!("skipped: this kernel's queue is not that short");
    }
    let (program, addr) = proxy(upstream, &[]);
    let started = Instant::now();
    assert!(has_ended(connect(addr).read(&mut [0])));
    assert!(started.elapsed() >= Duration::from_secs(5));
    let (_, errors) = end(program);
    assert!(errors.ends_with(&format!(": cannot connect to {upstream}: no answer within 5s\n")), "{errors}");
}

/// How many files the process has open.
#[cfg(target_os = "linux")]
fn files(program: &Program) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", program.id())).unwrap().count()
}

#[cfg(target_os = "linux")]
#[test]
fn proxy_closes_what_it_has_opened() {
    const CONNECTIONS: usize = 200;
    let (program, addr) = proxy(upstream(echo), &["--loops", "2"]);
    // What comes with the first one stays.
    assert_eq!(exchange(connect(addr), b"x", end_tcp), b"x");
    let wait_for = |what: &dyn Fn(usize) -> bool| {
        let started = Instant::now();
        while !what(files(&program)) {
            assert!(started.elapsed() < PATIENCE, "{} files", files(&program));
            thread::sleep(Duration::from_millis(5));
        }
    };
    // Perhaps with its two: they do not count.
    let before = files(&program);

    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(addr)).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.write_all(&[i as u8; 1000]).unwrap();
    }
    for (i, client) in clients.iter_mut().enumerate() {
        let mut answer = [0; 1000];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [i as u8; 1000]);
    }
    wait_for(&|files| files >= before - 2 + 2 * CONNECTIONS);
    drop(clients);
    wait_for(&|files| files <= before);
    assert_eq!(
        end(program),
        (
            format!(
                "{} connections, 0 failed; {n} bytes to the upstream, {n} bytes back",
                CONNECTIONS + 1,
                n = CONNECTIONS * 1000 + 1
            ),
            String::new()
        )
    );
}

#[test]
fn proxy_ends_both_sides_by_a_reset() {
    // Of the client.
    let (sender, ended) = mpsc::channel();
    let server = upstream(move |mut stream| {
        let mut buf = [0; 100];
        while !has_ended(stream.read(&mut buf)) {
            let _ = stream.write_all(&buf);
        }
        sender.send(()).unwrap();
    });
    let (program, addr) = proxy(server, &[]);
    let client = block_on(SocketOptions::new().reset_on_close().connect(addr)).unwrap().into_inner().unwrap();
    client.set_nonblocking(false).unwrap();
    (&client).write_all(b"x").unwrap();
    (&client).read_exact(&mut [0]).unwrap();
    drop(client);
    ended.recv_timeout(PATIENCE).expect("the end");
    let (line, errors) = end(program);
    assert!(line.starts_with("1 connections, 1 failed; "), "{line}");
    assert_eq!(errors.lines().count(), 1, "{errors}");

    // Of the upstream: closed with input unread.
    let server = upstream(|stream| {
        stream.peek(&mut [0]).unwrap();
    });
    let (program, addr) = proxy(server, &[]);
    let mut client = connect(addr);
    client.write_all(b"x").unwrap();
    assert!(has_ended(client.read(&mut [0])));
    assert!(end(program).0.starts_with("1 connections, 1 failed; "));
}

#[test]
fn proxy_closes_idle_connections_only() {
    const IDLE: Duration = Duration::from_millis(1000);
    let (sender, pauses) = mpsc::channel();
    let slow = upstream(move |mut stream| {
        let mut longest = Duration::ZERO;
        for _ in 0..15 {
            let began = Instant::now();
            let sent = stream.write_all(b"x");
            thread::sleep(IDLE / 10);
            longest = longest.max(began.elapsed());
            if sent.is_err() {
                break;
            }
        }
        sender.send(longest).unwrap();
        // And then nothing.
        let _ = stream.read(&mut [0]);
    });
    let (program, addr) = proxy(slow, &["--idle", "1000ms"]);
    let mut received = Vec::new();
    let began = Instant::now();
    let result = connect(addr).read_to_end(&mut received);
    let lasted = began.elapsed();
    let pause = pauses.recv_timeout(PATIENCE).unwrap();
    if received.len() < 15 && pause >= IDLE / 2 {
        return println!("skipped: the machine has paused for {pause:?}");
    }
    assert!(has_ended(result.map(|_| 0)));
    assert_eq!(received.len(), 15);
    assert!(lasted >= 2 * IDLE, "{lasted:?}");
    let (_, errors) = end(program);
    assert!(errors.ends_with(": idle for 1s\n"), "{errors}");
}

#[test]
fn proxy_over_unix_sockets() {
    let dir = Dir::new("proxy");
    let (front, back) = (dir.path("front"), dir.path("back"));
    let listener = UnixListener::bind(&back).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            io::copy(&mut &stream, &mut &stream).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
    });
    let addr = format!("unix://{}", front.display());
    let program = Program::start("proxy", &[&addr, &format!("unix:{}", back.display())]);
    assert_eq!(program.listening_on(), addr);
    for seed in 0..3 {
        let stream = UnixStream::connect(&front).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let sent = bytes(1 << 20, seed);
        assert_same(&exchange(stream, &sent, |stream| stream.shutdown(Shutdown::Write).unwrap()), &sent);
    }
    assert_eq!(end(program).1, "");
    assert!(!front.exists());
}

#[test]
fn proxy_ends_with_connections_that_stay() {
    let (program, addr) = proxy(upstream(echo), &["--loops", "2"]);
    let mut client = connect(addr);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let (line, errors) = end(program);
    assert_eq!(line, "1 connections, 0 failed; 1 bytes to the upstream, 1 bytes back");
    assert_eq!(errors, "");
    assert!(has_ended(client.read(&mut [0])));
}

// ------------------------------------------------------------------------------------------- the library

/// How often each connection leaves the callbacks and comes back.
const ROUNDS: usize = 200;

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    attached: AtomicUsize,
    detached: AtomicUsize,
    closed: AtomicUsize,
    /// By loop, those attached.
    threads: std::sync::Mutex<std::collections::HashSet<thread::ThreadId>>,
}

/// What a task does: it echoes a part of what comes, without taking all, and brings the connection to a loop.
async fn echo_some(mut stream: DetachedStream, round: usize, server: Server<usize>) -> io::Result<()> {
    let mut buffer = vec![0; 1 + round * 37 % 5000];
    let read = stream.read(&mut buffer).await?;
    stream.write_all(&buffer[..read]).await?;
    assert!(server.attach(stream, round).is_ok(), "the server does not stop");
    Ok(())
}

/// A server that echoes, at times in callbacks and at times in tasks, on all its loops.
fn serve_in_rounds(loops: usize, counts: Arc<Counts>, started: mpsc::Sender<(SocketAddr, Server<usize>)>) {
    let events = Events::with_context::<usize>()
        .serving(move |server| {
            let wakewheel::evio::Addr::Tcp(addr) = server.addrs()[0] else { panic!("not TCP") };
            started.send((addr, server.clone())).unwrap();
            Action::None
        })
        .opened({
            let counts = counts.clone();
            move |conn| {
                match conn.origin() {
                    Origin::Attached => {
                        assert!(*conn.context > 0);
                        counts.threads.lock().unwrap().insert(thread::current().id());
                        counts.attached.fetch_add(1, Ordering::Relaxed)
                    }
                    _ => counts.accepted.fetch_add(1, Ordering::Relaxed),
                };
                // Some leave before they have read a byte.
                if *conn.context % 7 == 3 { Action::Detach.into() } else { Action::None.into() }
            }
        })
        .data(|conn, input| {
            if *conn.context == ROUNDS {
                return Reply::send(input);
            }
            // Some of it for the callback, the rest for the task.
            let here = input.len() / (1 + *conn.context % 3);
            conn.unread(input.len() - here);
            Reply::send(&input[..here]).then(Action::Detach)
        })
        .detached({
            let counts = counts.clone();
            move |conn, stream| {
                counts.detached.fetch_add(1, Ordering::Relaxed);
                let (round, server) = (*conn.context + 1, conn.server().clone());
                match round % 4 {
                    // On the same loop, on the next, and on a thread of its own.
                    0 => wakewheel::spawn_local(async move {
                        echo_some(stream, round, server).await.unwrap();
                    })
                    .detach(),
                    1 => drop(thread::spawn(move || block_on(echo_some(stream, round, server)).unwrap())),
                    _ => {
                        let there = server.loop_handle(round % server.num_loops()).clone();
                        let task = there.spawn(move || async move {
                            echo_some(stream, round, server).await.unwrap();
                        });
                        task.detach();
                    }
                }
                Action::None
            }
        })
        .closed(move |_, error| {
            assert!(error.is_none(), "{error:?}");
            counts.closed.fetch_add(1, Ordering::Relaxed);
            Action::None
        });
    Builder::new().loops(loops as isize).serve(events, ["tcp://127.0.0.1:0"]).unwrap();
}

#[test]
fn a_connection_leaves_and_comes_back_again_and_again() {
    for loops in [1, 3] {
        let counts = Arc::new(Counts::default());
        let (sender, started) = mpsc::channel();
        let serving = thread::spawn({
            let counts = counts.clone();
            move || serve_in_rounds(loops, counts, sender)
        });
        let (addr, server) = started.recv_timeout(PATIENCE).unwrap();
        const CLIENTS: usize = 6;
        let clients: Vec<_> = (0..CLIENTS as u32)
            .map(|i| {
                thread::spawn(move || {
                    // In questions and answers until all rounds are through, and then as fast as it goes.
                    let mut stream = connect(addr);
                    for round in 0..3 * ROUNDS {
                        let sent = bytes(1 + round * 101 % 20_000, i + round as u32);
                        stream.write_all(&sent).unwrap();
                        let mut received = vec![0; sent.len()];
                        stream.read_exact(&mut received).unwrap();
                        assert_same(&received, &sent);
                    }
                    let sent = bytes(2 << 20, i);
                    assert_same(&exchange(stream, &sent, end_tcp), &sent);
                    // All of it in a flood.
                    assert_same(&exchange(connect(addr), &sent, end_tcp), &sent);
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        let begun = Instant::now();
        while server.connections() > 0 {
            assert!(begun.elapsed() < PATIENCE, "{server:?}");
            thread::sleep(Duration::from_millis(1));
        }
        server.stop();
        serving.join().unwrap();
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        assert_eq!(count(&counts.accepted), 2 * CLIENTS);
        assert_eq!(count(&counts.closed), 2 * CLIENTS);
        assert_eq!(count(&counts.attached), count(&counts.detached));
        assert!(count(&counts.attached) >= CLIENTS * ROUNDS, "{}", count(&counts.attached));
        assert_eq!(counts.threads.lock().unwrap().len(), loops);
    }
}
