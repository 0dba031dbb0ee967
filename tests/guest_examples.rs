//! The examples `guest_in_tokio` and `redis_client`, as programs.

#[path = "common/program.rs"]
mod program;

use program::{PATIENCE, Program, connect};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

// ------------------------------------------------------------------------------------------- guest_in_tokio

fn echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut buf = vec![0; bytes.len()];
    stream.read_exact(&mut buf).unwrap();
    assert_eq!(buf, bytes);
}

#[test]
fn guest_in_tokio_serves_on_tokios_thread_alone() {
    let server = Program::start("guest_in_tokio", &["127.0.0.1:0"]);
    let addr = server.tcp_addr();
    let mut clients: Vec<_> = (0..20).map(|_| connect(addr)).collect();
    for round in 0..20 {
        for (i, client) in clients.iter_mut().enumerate() {
            echo(client, format!("{round} {i}").as_bytes());
        }
    }
    // More than fits into the buffers of both sides.
    let large = vec![7; 8 << 20];
    let mut reader = clients[0].try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| clients[0].write_all(&large).unwrap());
        let mut back = vec![0; large.len()];
        reader.read_exact(&mut back).unwrap();
        assert!(back == large);
    });
    // libkqueue has threads of its own.
    #[cfg(all(target_os = "linux", not(wakewheel_libkqueue)))]
    assert_eq!(std::fs::read_dir(format!("/proc/{}/task", server.id())).unwrap().count(), 1);
    drop((clients, reader));
    server.end();
}

#[test]
fn guest_in_tokio_closes_connections_that_are_idle_and_those_alone() {
    let server = Program::start("guest_in_tokio", &["127.0.0.1:0", "--idle", "2s"]);
    let addr = server.tcp_addr();
    let (mut idle, mut busy) = (connect(addr), connect(addr));
    let is_closed = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_closed.load(Ordering::SeqCst) {
                echo(&mut busy, b"tick");
                thread::sleep(Duration::from_millis(10));
            }
            echo(&mut busy, b"still there");
        });
        let started = Instant::now();
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
        assert!(started.elapsed() > Duration::from_secs(1));
        is_closed.store(true, Ordering::SeqCst);
    });
    server.end();
}

#[test]
fn guest_in_tokio_ends_in_peace() {
    let server = Program::start("guest_in_tokio", &["127.0.0.1:0"]);
    let addr = server.tcp_addr();
    let mut client = connect(addr);
    echo(&mut client, b"before");
    server.signal(libc::SIGINT);
    // The listener is closed; who is connected goes on.
    let started = Instant::now();
    while TcpStream::connect(addr).is_ok() {
        assert!(started.elapsed() < PATIENCE);
    }
    echo(&mut client, b"after");
    drop(client);
    let (status, errors) = server.wait();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn guest_in_tokio_says_what_is_wrong() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _taken = TcpListener::bind(taken).unwrap();
    for (args, code, text) in [
        (vec![taken.to_string()], 1, "in use"),
        (vec!["nowhere".into()], 2, "nowhere"),
        (vec!["--idle".into(), "soon".into()], 2, "soon"),
        (vec!["--what".into()], 2, "--what"),
    ] {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let (status, errors) = Program::start("guest_in_tokio", &args).wait();
        assert_eq!(status.code(), Some(code), "{errors}");
        assert!(errors.contains(text), "{errors}");
    }
}

// --------------------------------------------------------------------------------------------- redis_client

/// A server that the client is tried with: our own, and Redis' if it is installed.
enum Server {
    Ours(Program),
    Redis(Redis),
}

/// Killed with the value.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn all() -> Vec<(Server, String)> {
        let ours = Program::start("evio_redis", &["tcp://127.0.0.1:0"]);
        let addr = ours.listening_on().trim_start_matches("tcp://").to_owned();
        let mut all = vec![(Server::Ours(ours), addr)];
        match Server::redis() {
            Some((redis, addr)) => all.push((Server::Redis(redis), addr.to_string())),
            None => println!("skipped: redis-server is not installed"),
        }
        all
    }

    /// It cannot choose a port by itself.
    fn redis() -> Option<(Redis, SocketAddr)> {
        for _ in 0..10 {
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let port = addr.port().to_string();
            let args =
                ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/tmp"];
            let mut command = Command::new("redis-server");
            command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut redis = match command.spawn() {
                Ok(child) => Redis(child),
                Err(e) if e.kind() == ErrorKind::NotFound => return None,
                Err(e) => panic!("redis-server: {e}"),
            };
            let started = Instant::now();
            // It ends by itself if somebody else was faster to take the port.
            while redis.0.try_wait().unwrap().is_none() {
                if ask(&addr.to_string(), &["PING"], "").stdout == b"PONG\n" {
                    return Some((redis, addr));
                }
                assert!(started.elapsed() < PATIENCE, "redis-server does not answer");
            }
        }
        panic!("redis-server finds no port");
    }

    fn name(&self) -> &str {
        match self {
            Server::Ours(_) => "evio_redis",
            Server::Redis(_) => "redis-server",
        }
    }

    fn end(self) {
        match self {
            Server::Ours(program) => program.end(),
            Server::Redis(redis) => drop(redis),
        }
    }
}

/// Runs the client to its end, with this as its input.
fn ask(addr: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(program::path("redis_client"))
        .arg(addr)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // It may end before it has read all.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output().unwrap()
    })
}

/// What it prints, without an error.
fn reply(addr: &str, args: &[&str], input: &str) -> String {
    let output = ask(addr, args, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), errors.as_ref()), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn redis_client_gets_its_replies_in_order() {
    for (server, addr) in Server::all() {
        let name = server.name();
        let command = "SET a 1 / GET a / INCR a / GET nothing / DEL a nothing / PING";
        let args: Vec<_> = command.split(' ').collect();
        assert_eq!(reply(&addr, &args, ""), "OK\n\"1\"\n(integer) 2\n(nil)\n(integer) 1\nPONG\n", "{name}");
        // By name, and with whatever bytes there are.
        let by_name = addr.replace("127.0.0.1", "localhost");
        assert_eq!(reply(&by_name, &["SET", "b", "a \"b\"\n€"], ""), "OK\n", "{name}");
        assert_eq!(reply(&addr, &["GET", "b"], ""), "\"a \\\"b\\\"\\n\\xe2\\x82\\xac\"\n", "{name}");
        let input = "set c 'with spaces'\n\n  get c  \nget b";
        assert_eq!(
            reply(&addr, &[], input),
            "OK\n\"with spaces\"\n\"a \\\"b\\\"\\n\\xe2\\x82\\xac\"\n",
            "{name}"
        );
        assert_eq!(reply(&addr, &[], ""), "", "{name}");
        server.end();
    }
}

#[test]
fn redis_client_pipelines_more_than_the_buffers_hold() {
    const COUNT: usize = 30_000;
    for (server, addr) in Server::all() {
        let input: String = (0..COUNT).map(|i| format!("SET key{i} {i:0500}\nGET key{i}\n")).collect();
        let expected: String = (0..COUNT).map(|i| format!("OK\n\"{i:0500}\"\n")).collect();
        assert!(reply(&addr, &[], &input) == expected, "{}", server.name());
        // Short ones, of which thousands are sent at once.
        let input = "PING\n".repeat(COUNT);
        assert!(reply(&addr, &[], &input) == "PONG\n".repeat(COUNT), "{}", server.name());
        server.end();
    }
}

#[test]
fn redis_client_prints_arrays_and_tells_of_errors() {
    for (server, addr) in Server::all() {
        let output = ask(&addr, &["NOSUCH", "/", "PING"], "");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("(error) ERR") && text.ends_with("\nPONG\n"), "{text}");
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stderr, b"error: commands that failed: 1\n");
        if let Server::Redis(_) = server {
            let args = "RPUSH list a b / LRANGE list 0 -1 / LRANGE none 0 -1 / EVAL return{1,{2,{3}},'x'} 0";
            let args: Vec<_> = args.split(' ').collect();
            let expected = "(integer) 2\n1) \"a\"\n2) \"b\"\n(empty array)\n1) (integer) 1\n2) 1) (integer) 2\n   2) 1) (integer) 3\n3) \"x\"\n";
            assert_eq!(reply(&addr, &args, ""), expected);
        }
        server.end();
    }
}

/// A server that says this to whoever comes.
fn server_that_says(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(bytes).unwrap();
        // Until it is told to end: a reset could overtake the bytes.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    });
    addr
}

#[test]
fn redis_client_does_not_believe_everything() {
    for (bytes, text) in [
        (&b""[..], "closed the connection"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "this is no reply of Redis: \"HTTP/1.1 400 Bad Request\\r\\n\"",
        ),
        (b"$5\r\nab", "no reply of Redis"),
        (b"$99999999999999999\r\nab", "no reply of Redis"),
        (b"$-x\r\n", "no reply of Redis"),
        (b"*9999999999999\r\n+OK\r\n", "closed the connection"),
        (b"+OK", "no reply of Redis"),
        (b"$2\r\nabcd", "no reply of Redis"),
    ] {
        let output = ask(&server_that_says(bytes), &["PING"], "");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && errors.contains(text), "{errors}");
    }
    let nested = [b"*1\r\n".repeat(1000), b"+OK\r\n".to_vec()].concat().leak();
    let output = ask(&server_that_says(nested), &["PING"], "");
    assert!(String::from_utf8(output.stderr).unwrap().contains("no reply"));
}

#[test]
fn redis_client_says_what_is_wrong() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_addr = silent.local_addr().unwrap().to_string();
    for (addr, args, code, text) in [
        (nobody.as_str(), vec!["PING"], 1, nobody.as_str()),
        ("localhost", vec!["PING"], 1, "write localhost:PORT"),
        (&silent_addr, vec!["--timeout", "50ms", "PING"], 1, "get a reply in time"),
        (&silent_addr, vec!["PING", "/"], 2, "before or after a /"),
        (&silent_addr, vec!["--timeout", "soon", "PING"], 2, "soon"),
    ] {
        let output = ask(addr, &args, "");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(text), "{errors}");
    }
    let output = ask(&silent_addr, &[], "GET 'a\n");
    assert!(String::from_utf8(output.stderr).unwrap().contains("GET 'a"));
}
