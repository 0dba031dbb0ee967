//! The examples on hyper, as programs: `hyper_server`, `hyper_client` and `axum_on_wakewheel`, driven by the clients that
//! people use, and by bare sockets. (Feature `hyper`.)
//!
//! With `--test glue_examples`, cargo does not build them: `cargo build --features hyper --examples`.

#[path = "common/program.rs"]
mod program;

use program::{PATIENCE, Program, connect, run};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Starts an example that serves.
#[track_caller]
fn start(example: &str, args: &[&str]) -> (Program, SocketAddr, String) {
    let args: Vec<_> = ["127.0.0.1:0"].iter().chain(args).copied().collect();
    let program = Program::start(example, &args);
    let addr = program.tcp_addr();
    (program, addr, format!("http://{addr}"))
}

/// Reads the head of an answer, and its body as long as it says.
#[track_caller]
fn read_answer(stream: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "an end in the middle of {head:?}");
    }
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; len.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

// ------------------------------------------------------------------------------------------- all of them

#[test]
fn wrong_arguments_are_quoted_and_help_is_the_usage() {
    for (example, args, quoted) in [
        ("hyper_server", &["nowhere"][..], "\"nowhere\""),
        ("hyper_server", &["--cores", "0"], "at least 1"),
        ("hyper_server", &["--bogus"], "'--bogus'"),
        ("hyper_client", &[], "a URL is missing"),
        ("hyper_client", &["https://127.0.0.1/"], "write http://127.0.0.1:5000/path"),
        ("hyper_client", &["http://localhost/"], "\"http://localhost/\""),
        ("hyper_client", &["http://127.0.0.1:5000/", "--limit", "5"], "write a time like"),
        ("axum_on_wakewheel", &["localhost:5000"], "\"localhost:5000\""),
        ("axum_on_wakewheel", &["--bogus"], "'--bogus'"),
    ] {
        let (status, errors) = Program::start(example, args).wait();
        assert_eq!(status.code(), Some(2), "{example} {args:?}: {errors}");
        assert!(errors.contains(quoted), "{example} {args:?}: {errors}");
        assert!(errors.contains(&format!("\nusage: {example}")), "{example} {args:?}: {errors}");
        let program = Program::start(example, &["--help"]);
        assert!(program.line().starts_with(&format!("usage: {example}")));
        assert_eq!(program.wait().0.code(), Some(0));
    }
}

#[test]
fn an_address_that_is_taken_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for (example, args) in [
        ("hyper_server", &[&addr, "--cores", "1"][..]),
        ("hyper_server", &[&addr, "--cores", "2"]),
        ("axum_on_wakewheel", &[&addr]),
    ] {
        let (status, errors) = Program::start(example, args).wait();
        assert_eq!(status.code(), Some(1), "{example}: {errors}");
        assert!(errors.contains(&addr), "{example}: {errors}");
    }
}

// ------------------------------------------------------------------------------------------- hyper_server

#[test]
fn hyper_server_speaks_to_curl_by_both_versions() {
    let (program, addr, url) = start("hyper_server", &["--cores", "2"]);
    let file = std::env::temp_dir().join(format!("wakewheel-hyper-{}", std::process::id()));
    let sent: String = (0..400_000).map(|i| format!("{i}\n")).collect();
    std::fs::write(&file, &sent).unwrap();
    let (root, echo) = (format!("{url}/"), format!("{url}/echo"));
    let body = format!("@{}", file.display());
    for (option, version) in [("--http1.1", "HTTP/1.1"), ("--http2-prior-knowledge", "HTTP/2.0")] {
        // Once only: with a second URL on one connection of HTTP/2, curl 7.88 fails, whatever the server.
        if let Some(said) = run("curl", &["-sS", "--max-time", "20", option, &root]) {
            assert_eq!(said, format!("hello by {version}\n"));
        }
        // The body comes back while it is sent.
        let args = ["-sS", "--max-time", "20", option, "-H", "expect:", "--data-binary", &body, &echo];
        if let Some(said) = run("curl", &args) {
            assert!(said == sent, "{} bytes of {} by {version}", said.len(), sent.len());
        }
        if let Some(said) = run("curl", &["-sS", option, &format!("{url}/later")]) {
            assert_eq!(said, format!("hello by {version}\n"));
        }
        for (path, method, status) in [("/nothing", "GET", "404"), ("/", "DELETE", "405")] {
            let url = format!("{url}{path}");
            let args = ["-sS", option, "-X", method, "-o", "/dev/null", "-w", "%{http_code}", &url];
            if let Some(said) = run("curl", &args) {
                assert_eq!(said, status);
            }
        }
    }
    std::fs::remove_file(&file).unwrap();

    // Pipelined, without a client that could do that.
    let stream = connect(addr);
    (&stream).write_all(&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100)).unwrap();
    (&stream).write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answers = String::new();
    (&stream).read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 101);
    program.end();
}

#[test]
fn hyper_server_stands_under_the_load_of_h2load_and_wrk() {
    let (program, _, url) = start("hyper_server", &["--cores", "2"]);
    let root = format!("{url}/");
    if let Some(said) = run("h2load", &["-n", "5000", "-c", "20", "-m", "20", &root]) {
        assert!(said.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    }
    if let Some(said) = run("h2load", &["--h1", "-n", "2000", "-c", "20", &root]) {
        assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    }
    if let Some(said) = run("wrk", &["-t", "1", "-c", "50", "-d", "1", &root]) {
        assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    }
    // It may complain of wrk, which goes in the middle of requests.
    program.signal(libc::SIGTERM);
    assert_eq!(program.wait().0.code(), Some(0));
}

#[test]
fn hyper_server_speaks_to_nghttp() {
    let (program, _, url) = start("hyper_server", &["--cores", "1"]);
    let (root, echo) = (format!("{url}/"), format!("{url}/echo"));
    if let Some(said) = run("nghttp", &[&root]) {
        assert_eq!(said, "hello by HTTP/2.0\n");
    }
    // Several streams at once.
    if let Some(said) = run("nghttp", &["-m", "20", &root]) {
        assert_eq!(said, "hello by HTTP/2.0\n".repeat(20));
    }
    if let Some(said) = run("nghttp", &["-d", "Cargo.toml", &echo]) {
        assert_eq!(said, std::fs::read_to_string("Cargo.toml").unwrap());
    }
    program.end();
}

/// Reads as far as `end`.
#[track_caller]
fn read_to(mut from: impl Read, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let mut byte = [0];
        from.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e}, after {}", read.escape_ascii()));
        read.extend(byte);
    }
    String::from_utf8(read).unwrap()
}

#[test]
fn hyper_server_answers_what_was_asked_before_it_ends() {
    let (program, addr, _) = start("hyper_server", &["--cores", "2"]);
    let idle = connect(addr);
    (&idle).write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!(read_answer(&idle).1, "hello by HTTP/1.1\n");
    // What comes back of a body shows that its request has arrived.
    let asking = connect(addr);
    (&asking).write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\nfirst ").unwrap();
    read_to(&asking, "\r\n\r\nfirst ");

    program.signal(libc::SIGTERM);
    let ended = Instant::now();
    assert_eq!((&idle).read(&mut [0; 10]).unwrap(), 0);
    (&asking).write_all(b"second").unwrap();
    let mut rest = String::new();
    (&asking).read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "second");
    let (status, errors) = program.wait();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    assert!(ended.elapsed() < PATIENCE);
}

#[test]
fn hyper_server_reports_what_goes_wrong_on_a_connection() {
    let (program, addr, _) = start("hyper_server", &["--cores", "1"]);
    let stream = connect(addr);
    (&stream).write_all(b"nonsense\r\n\r\n").unwrap();
    let mut answer = String::new();
    (&stream).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    program.signal(libc::SIGINT);
    let (status, errors) = program.wait();
    assert_eq!(status.code(), Some(0));
    assert!(errors.starts_with(&stream.local_addr().unwrap().to_string()), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

// ------------------------------------------------------------------------------------------- hyper_client

/// Runs the client. Its exit code, what it writes, and its errors.
#[track_caller]
fn fetch(args: &[&str]) -> (Option<i32>, String, String) {
    let client = Program::start("hyper_client", args);
    let body: String = client.lines.iter().map(|line| line + "\n").collect();
    let (status, errors) = client.wait();
    (status.code(), body, errors)
}

#[test]
fn hyper_client_fetches_by_both_versions() {
    let (program, _, url) = start("hyper_server", &["--cores", "1"]);
    let (root, echo, nothing) = (format!("{url}/"), format!("{url}/echo"), format!("{url}/nothing"));
    let (code, body, head) = fetch(&[&root]);
    assert_eq!((code, body.as_str()), (Some(0), "hello by HTTP/1.1\n"));
    assert!(head.starts_with("HTTP/1.1 200 OK\n") && head.contains("\ncontent-length: 18\n"), "{head}");
    let (code, body, head) = fetch(&["--http2", &root]);
    assert_eq!((code, body.as_str()), (Some(0), "hello by HTTP/2.0\n"));
    assert!(head.starts_with("HTTP/2.0 200 OK\n"), "{head}");
    for version in [&[][..], &["--http2"]] {
        let args: Vec<&str> = [&["--data", "one\ntwo", &echo], version].concat();
        assert_eq!(fetch(&args).1, "one\ntwo\n");
    }
    let (code, body, errors) = fetch(&[&nothing]);
    assert_eq!((code, body.as_str()), (Some(1), "there is no /nothing\n"));
    assert!(errors.ends_with("error: the server says 404 Not Found\n"), "{errors}");
    program.end();
}

/// A server of the nghttp2 project. Killed with the value.
struct Nghttpd(Child);

impl Drop for Nghttpd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn hyper_client_speaks_to_nghttpd() {
    // It does not say which port it has chosen: one that was free just now.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut command = Command::new("nghttpd");
    command.args(["--no-tls", "-a", "127.0.0.1", "-d", env!("CARGO_MANIFEST_DIR"), &port]);
    let _server = match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
        Ok(child) => Nghttpd(child),
        Err(e) => return println!("skipped: cannot run nghttpd: {e}"),
    };
    let started = Instant::now();
    while TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
        assert!(started.elapsed() < PATIENCE, "nghttpd does not listen");
        thread::sleep(Duration::from_millis(5));
    }
    let (code, body, head) = fetch(&["--http2", &format!("http://127.0.0.1:{port}/Cargo.toml")]);
    assert_eq!(code, Some(0), "{head}");
    assert!(head.contains("\nserver: nghttpd"), "{head}");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    assert_eq!(body, std::fs::read_to_string(file).unwrap());
}

#[test]
fn hyper_client_sends_what_http_1_1_asks_for_and_reports_what_goes_wrong() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let url = format!("http://{addr}/a/b?c=d");
    let answers: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n4\r\ntwo\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        b"220 this is no web server\r\n",
    ];
    let server = thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut reader) = (String::new(), BufReader::new(stream.try_clone().unwrap()));
            while !request.ends_with("\r\n\r\n") {
                reader.read_line(&mut request).unwrap();
            }
            stream.write_all(answer).unwrap();
            requests.push(request);
        }
        requests
    });
    let (code, body, errors) = fetch(&[&url]);
    assert_eq!((code, body.as_str()), (Some(0), "onetwo\n"), "{errors}");
    for _ in 0..2 {
        let (code, _, errors) = fetch(&[&url]);
        assert_eq!(code, Some(1));
        assert!(errors.lines().last().unwrap().starts_with("error: "), "{errors}");
    }
    let request = &server.join().unwrap()[0];
    assert!(request.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nhost: {addr}\r\n")), "{request}");

    // Nobody is there any more.
    let (code, _, errors) = fetch(&[&url]);
    assert_eq!(code, Some(1));
    assert!(errors.contains(&addr.to_string()) && errors.contains("refused"), "{errors}");
}

#[test]
fn hyper_client_gives_up_in_time_and_on_a_signal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (code, _, errors) = fetch(&[&url, "--limit", "20ms"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("time limit"), "{errors}");

    let client = Program::start("hyper_client", &[&url]);
    // The one before is still in the queue.
    let _both = [listener.accept().unwrap(), listener.accept().unwrap()];
    client.signal(libc::SIGINT);
    let (status, errors) = client.wait();
    assert_eq!((status.code(), errors.as_str()), (Some(1), "error: broken off by a signal\n"));
}

// -------------------------------------------------------------------------------------- axum_on_wakewheel

#[test]
fn axum_has_its_routes() {
    let (program, addr, url) = start("axum_on_wakewheel", &[]);
    let (hello, count) = (format!("{url}/hello/a%20b"), format!("{url}/count"));
    for option in ["--http1.1", "--http2-prior-knowledge"] {
        if let Some(said) = run("curl", &["-sS", option, &hello]) {
            assert_eq!(said, "hello, a b\n");
        }
    }
    if let Some(said) = run("curl", &["-sS", &count]) {
        assert_eq!(said, "greeted: 2\n");
    }
    let stream = connect(addr);
    (&stream).write_all(b"POST /count HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(read_answer(&stream).0.starts_with("HTTP/1.1 405 "));
    program.end();
}
