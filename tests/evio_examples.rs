//! The examples with callbacks, as programs: `evio_redis` and `evio_http`, driven by the clients that people use and by bare
//! sockets; and their parsers.
//!
//! `cargo test` and `cargo nextest run` build them first. With `--test evio_examples`, cargo does not:
//! `cargo build --examples`.

#[allow(dead_code, reason = "an example uses more of it")]
#[path = "../examples/common/http.rs"]
mod http;
#[path = "common/program.rs"]
mod program;
#[allow(dead_code, reason = "an example uses more of it")]
#[path = "../examples/common/resp.rs"]
mod resp;

use program::{PATIENCE, Program, run};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// An example that serves, at an address of its own.
struct Server {
    program: Program,
    addr: SocketAddr,
}

impl Server {
    #[track_caller]
    fn start(example: &str, args: &[&str]) -> Server {
        let args: Vec<_> = ["tcp://127.0.0.1:0"].into_iter().chain(args.iter().copied()).collect();
        let program = Program::start(example, &args);
        let addr = program.listening_on().trim_start_matches("tcp://").parse().unwrap();
        Server { program, addr }
    }

    #[track_caller]
    fn connect(&self) -> TcpStream {
        let stream = program::connect(self.addr);
        stream.set_nodelay(true).unwrap();
        stream
    }

    #[track_caller]
    fn wait(self) -> (ExitStatus, String) {
        self.program.wait()
    }

    #[track_caller]
    fn end(self) {
        self.program.end();
    }
}

/// Sends `request`, and compares what comes back. More must not come.
#[track_caller]
fn ask(mut stream: &TcpStream, request: &[u8], expected: &[u8]) {
    stream.write_all(request).unwrap();
    expect(stream, expected);
}

#[track_caller]
fn expect(mut stream: &TcpStream, expected: &[u8]) {
    let mut answer = vec![0; expected.len()];
    if let Err(e) = stream.read_exact(&mut answer) {
        panic!("{e}, in place of {}", expected.escape_ascii());
    }
    assert_eq!(answer.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

/// Sends `request`, and returns all that comes until the end, which the server makes.
#[track_caller]
fn ask_to_the_end(program: &Server, request: &[u8]) -> String {
    let mut stream = program.connect();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn array(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    resp::array(&mut bytes, args.len());
    args.iter().for_each(|arg| resp::bulk(&mut bytes, arg));
    bytes
}

// -------------------------------------------------------------------------------------------- the parser of RESP

#[track_caller]
fn parse_resp(input: &[u8]) -> (Result<resp::Parsed, resp::Error>, Vec<&[u8]>) {
    let mut args = Vec::new();
    (resp::parse(input, &mut args), args)
}

#[test]
fn resp_commands_are_arrays_or_lines() {
    for (input, expected) in [
        (&b"*2\r\n$3\r\nGET\r\n$5\r\na\r\n\0b\r\n"[..], &[&b"GET"[..], b"a\r\n\0b"][..]),
        (b"*1\r\n$0\r\n\r\n", &[b""]),
        (b"*0\r\n", &[]),
        (b"*-1\r\n", &[]),
        (b"\r\n", &[]),
        (b"  ping  \r\n", &[b"ping"]),
        (b"set 'a b' \"\"\n", &[b"set", b"a b", b""]),
    ] {
        let more = [input, b"*1\r\n$4\r\nPING\r\n"].concat();
        let (parsed, args) = parse_resp(&more);
        assert_eq!(parsed, Ok(resp::Parsed::Command(input.len())), "{}", input.escape_ascii());
        assert_eq!(args, expected);
    }
}

#[test]
fn resp_parts_of_a_command_never_ask_for_more_than_it_has() {
    let long = vec![b'x'; 12345];
    for command in [
        array(&[b"SET", b"key", b"value"]),
        array(&[&b""[..]; 30]),
        array(&[b"SET", &long, b""]),
        b"get x\r\n".into(),
    ] {
        for len in 0..command.len() {
            match parse_resp(&command[..len]).0 {
                Ok(resp::Parsed::Incomplete(needed)) => {
                    assert!(
                        len < needed && needed <= command.len(),
                        "{needed} after {len} of {}",
                        command.len()
                    );
                }
                other => panic!("{other:?} after {len} of {}", command.escape_ascii()),
            }
        }
    }
}

#[test]
fn resp_errors() {
    use resp::Error::*;
    let long_line = vec![b'x'; resp::INLINE_LEN_MAX];
    for (input, error) in [
        (&b"*x\r\n"[..], MultibulkLength),
        (b"*\r\n", MultibulkLength),
        (b"*1\rx", MultibulkLength),
        (b"*9999999999999999999999", MultibulkLength),
        (b"*1048577\r\n", MultibulkLength),
        (b"*1\r\n:1\r\n", ExpectedBulk(b':')),
        (b"*1\r\n$-1\r\n", BulkLength),
        (b"*1\r\n$536870913\r\n", BulkLength),
        (b"*1\r\n$1x", BulkLength),
        (b"*1\r\n$4\r\nPINGxx", ExpectedLineEnd),
        (b"get 'x\r\n", UnbalancedQuotes),
        (b"get 'x'y\r\n", UnbalancedQuotes),
        (&long_line, LineTooLong),
    ] {
        assert_eq!(parse_resp(input).0, Err(error), "{}", input[..input.len().min(50)].escape_ascii());
    }
    // What is announced and allowed is waited for, and takes no memory before it comes.
    let (parsed, args) = parse_resp(b"*1048576\r\n$536870912\r\nx");
    assert!(matches!(parsed, Ok(resp::Parsed::Incomplete(536870912..))), "{parsed:?}");
    assert_eq!(args.capacity(), 0);
}

#[test]
fn resp_short_arguments_are_arguments() {
    for len in 0..=101 {
        let arg = vec![b'\r'; len];
        let whole = array(&[&arg])[b"*1\r\n".len()..].to_vec();
        let more = [&whole[..], b"$1\r\nx\r\n"].concat();
        let expected = (len < 100).then_some((&arg[..], &b"$1\r\nx\r\n"[..]));
        assert_eq!(resp::short_arg(&more), expected, "{len}");
        for part in 0..whole.len() {
            assert_eq!(resp::short_arg(&whole[..part]), None, "{part} of {}", whole.len());
        }
    }
    for other in [
        "$3\r\nkey\r\r",
        "$3\r\nkey\n\n",
        "$3\r\nkeys\r\n",
        "$3\n\nkey\r\n",
        "$3\r\rkey\r\n",
        ":3\r\nkey\r\n",
        "$:\r\n1234567890\r\n",
        "$-1\r\n",
        "$\r\n\r\n",
    ] {
        assert_eq!(resp::short_arg(other.as_bytes()), None, "{other:?}");
    }
}

// ---------------------------------------------------------------------------------------------------- evio_redis

#[test]
fn redis_commands() {
    let program = Server::start("evio_redis", &[]);
    let stream = program.connect();
    for (command, reply) in [
        ("PING", "+PONG"),
        ("ping hello", "$5\r\nhello"),
        ("ECHO hello", "$5\r\nhello"),
        ("GET a", "$-1"),
        ("SET a 1", "+OK"),
        ("GET a", "$1\r\n1"),
        ("SET a longer", "+OK"),
        ("GET a", "$6\r\nlonger"),
        ("SET a x NX", "$-1"),
        ("SET none x xx", "$-1"),
        ("SET a 7 XX", "+OK"),
        ("SET n 1 NX", "+OK"),
        ("SET a x EX", "-ERR syntax error"),
        ("SET a x EX 0", "-ERR invalid expire time in 'set' command"),
        ("SET a x PX 9223372036854775807 NX", "$-1"),
        ("SET a x EX 9223372036854775807", "-ERR invalid expire time in 'set' command"),
        ("SET a x NX XX", "-ERR syntax error"),
        ("INCR a", ":8"),
        ("INCR new", ":1"),
        ("DECR new", ":0"),
        ("DECR new", ":-1"),
        ("INCRBY new 9223372036854775807", ":9223372036854775806"),
        ("INCRBY new 2", "-ERR increment or decrement would overflow"),
        ("SET text x", "+OK"),
        ("INCR text", "-ERR value is not an integer or out of range"),
        ("MSET x 1 y 2", "+OK"),
        ("MSET x 1 y", "-ERR wrong number of arguments for 'mset' command"),
        ("MGET x nothing y", "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2"),
        ("EXISTS x x nothing", ":2"),
        ("DEL x nothing y", ":2"),
        ("TTL a", ":-1"),
        ("TTL nothing", ":-2"),
        ("EXPIRE nothing 10", ":0"),
        ("EXPIRE a ten", "-ERR value is not an integer or out of range"),
        ("EXPIRE a 10", ":1"),
        ("TTL a", ":10"),
        ("INCR a", ":9"),
        ("TTL a", ":10"),
        ("PERSIST a", ":1"),
        ("PERSIST a", ":0"),
        ("TTL a", ":-1"),
        ("EXPIRE a -1", ":1"),
        ("GET a", "$-1"),
        ("DBSIZE", ":3"),
        ("SELECT 0", "+OK"),
        ("SELECT 1", "-ERR DB index is out of range: there is only 0"),
        ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n"),
        ("CONFIG GET appendonly", "*2\r\n$10\r\nappendonly\r\n$2\r\nno"),
        ("CONFIG GET else", "*0"),
        ("COMMAND", "*0"),
        ("command docs", "*0"),
        ("get", "-ERR wrong number of arguments for 'get' command"),
        ("Frobnicate 'a b'", "-ERR unknown command 'Frobnicate'"),
        ("FLUSHALL", "+OK"),
        ("DBSIZE", ":0"),
    ] {
        println!("{command}");
        ask(&stream, format!("{command}\r\n").as_bytes(), format!("{reply}\r\n").as_bytes());
    }
    // A name cannot break out of the error.
    ask(&stream, &array(&[b"a\r\n+OK"]), b"-ERR unknown command 'a\\r\\n+OK'\r\n");
    // Any bytes are a key, and any a value.
    let (key, value): (Vec<u8>, Vec<u8>) = ((0..=255).collect(), (0..=255).rev().collect());
    ask(&stream, &array(&[b"SET", &key, &value]), b"+OK\r\n");
    ask(&stream, &array(&[b"GET", &key]), &[b"$256\r\n", &value[..], b"\r\n"].concat());
    assert_eq!(ask_to_the_end(&program, b"QUIT\r\nPING\r\n"), "+OK\r\n");
    program.end();
}

/// The same is said in capitals and in small letters, of short and of long arguments, and among commands that begin alike.
#[test]
fn redis_gets_what_was_set() {
    let program = Server::start("evio_redis", &[]);
    let stream = program.connect();
    let lens = [0, 1, 9, 10, 99, 100, 1000];
    for (key, value) in lens.iter().flat_map(|key| lens.iter().map(move |value| (*key, *value))) {
        let (key, before) = (vec![b'k'; key], vec![b'b'; 20]);
        let value: Vec<u8> = b"\r\n$".iter().copied().cycle().take(value).collect();
        let commands = [
            array(&[b"SET", &key, &before]),
            array(&[b"SET", &key, &value]),
            array(&[b"GET", &key]),
            array(&[b"get", &key]),
            array(&[b"set", &key, &before]),
            array(&[b"GET", &key]),
            array(&[b"GET", &key, &key]),
            array(&[b"SET", &key]),
            array(&[b"SET", &key, &value, b"NX"]),
            array(&[b"GETS", &key]),
        ]
        .concat();
        let mut replies = b"+OK\r\n+OK\r\n".to_vec();
        resp::bulk(&mut replies, &value);
        resp::bulk(&mut replies, &value);
        replies.extend(b"+OK\r\n");
        resp::bulk(&mut replies, &before);
        for name in ["get", "set"] {
            resp::error(&mut replies, format_args!("wrong number of arguments for '{name}' command"));
        }
        replies.extend(b"$-1\r\n-ERR unknown command 'GETS'\r\n");
        ask(&stream, &commands, &replies);
    }
    program.end();
}

#[test]
fn redis_one_byte_at_a_time() {
    let program = Server::start("evio_redis", &[]);
    let mut stream = program.connect();
    let commands =
        [array(&[b"SET", b"key", b"value"]), b"get key\r\n".into(), array(&[b"GET", b"key"])].concat();
    for byte in commands {
        stream.write_all(&[byte]).unwrap();
    }
    expect(&stream, b"+OK\r\n$5\r\nvalue\r\n$5\r\nvalue\r\n");
    program.end();
}

#[test]
fn redis_pipelines() {
    const COUNT: usize = 50_000;
    let program = Server::start("evio_redis", &["--loops", "2"]);
    let stream = program.connect();
    let mut commands = Vec::new();
    let mut replies = String::new();
    for i in 1..=COUNT {
        commands.extend(array(&[b"INCR", b"n"]));
        replies += &format!(":{i}\r\n");
    }
    thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&commands).unwrap());
        expect(&stream, replies.as_bytes());
    });
    program.end();
}

/// Small commands with a large reply each, of which the last ones are in the input while the first are still being sent.
#[test]
fn redis_answers_all_of_a_pipeline_whose_replies_are_large() {
    let program = Server::start("evio_redis", &[]);
    let stream = program.connect();
    let value = vec![b'x'; 3_000_000];
    ask(&stream, &array(&[b"SET", b"key", &value]), b"+OK\r\n");
    // Half a command at the end, which is there when the others have been answered.
    let (end, rest) = (&b"*1\r\n$4\r\nPI"[..], b"NG\r\n");
    let mut commands = array(&[b"GET", b"key"]).repeat(50);
    commands.extend_from_slice(end);
    (&stream).write_all(&commands).unwrap();
    let reply = [b"$3000000\r\n", &value[..], b"\r\n"].concat();
    for i in 0..50 {
        let mut answer = vec![0; reply.len()];
        (&stream).read_exact(&mut answer).unwrap();
        assert!(answer == reply, "reply {i}");
    }
    ask(&stream, rest, b"+PONG\r\n");
    // And a client that says that it has nothing more gets all of it, too.
    (&stream).write_all(&array(&[b"GET", b"key"]).repeat(5)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    (&stream).read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 5 * reply.len());
    program.end();
}

#[test]
fn redis_tells_who_sends_nonsense_and_closes() {
    let program = Server::start("evio_redis", &[]);
    for (input, reply) in [
        (&b"*1\r\n:1\r\n"[..], "-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*1\r\n\xff", "-ERR Protocol error: expected '$', got '\\xff'\r\n"),
        (b"*1\r\n$999999999999\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*2000000\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*2\r\n$3\r\nGET\r\n$3\r\nkeyGET", "-ERR Protocol error: expected a line end after the bulk\r\n"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*x\r\n", "$-1\r\n-ERR Protocol error: invalid multibulk length\r\n"),
        (b"PING\r\n*x\r\nPING\r\n", "+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n"),
        (&[b'x'; 100_000], "-ERR Protocol error: too big inline request\r\n"),
    ] {
        assert_eq!(ask_to_the_end(&program, input), reply);
    }
    program.end();
}

#[test]
fn redis_keys_expire() {
    let program = Server::start("evio_redis", &["--loops", "2"]);
    // They are on different loops, and share the keys.
    let (one, other) = (program.connect(), program.connect());
    let started = Instant::now();
    ask(&one, b"SET late x PX 3600000\r\nSET short x PX 100\r\nSET longer x\r\nPEXPIRE longer 150\r\nSET put-off x PX 100\r\n", b"+OK\r\n+OK\r\n+OK\r\n:1\r\n+OK\r\n");
    ask(&other, b"EXPIRE put-off 3600\r\n", b":1\r\n");
    ask(&other, b"SET kept x PX 100\r\nSET kept y\r\n", b"+OK\r\n+OK\r\n");
    let count = |stream: &TcpStream| -> String {
        (&*stream).write_all(b"DBSIZE\r\n").unwrap();
        let mut reply = [0; 4];
        (&*stream).read_exact(&mut reply).unwrap();
        String::from_utf8_lossy(&reply).into_owned()
    };
    // DBSIZE counts what there is: they really go, though nobody asks for them.
    while count(&other) != ":3\r\n" {
        assert!(started.elapsed() < PATIENCE, "{}", count(&other));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(started.elapsed() >= Duration::from_millis(150));
    ask(
        &other,
        b"MGET late short longer put-off kept\r\n",
        b"*5\r\n$1\r\nx\r\n$-1\r\n$-1\r\n$1\r\nx\r\n$1\r\ny\r\n",
    );
    program.end();
}

#[test]
fn redis_shuts_down() {
    let program = Server::start("evio_redis", &["--loops", "2"]);
    let other = program.connect();
    ask(&other, b"PING\r\n", b"+PONG\r\n");
    assert_eq!(ask_to_the_end(&program, b"SET a b\r\nSHUTDOWN\r\nGET a\r\n"), "+OK\r\n");
    assert_eq!((&other).read(&mut [0]).unwrap(), 0);
    let (status, errors) = program.wait();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn redis_for_its_own_clients() {
    let program = Server::start("evio_redis", &["--loops", "2"]);
    let port = program.addr.port().to_string();
    let cli = |args: &[&str]| run("redis-cli", &[&["-p", &port], args].concat());
    if let Some(reply) = cli(&["set", "greeting", "hello world"]) {
        assert_eq!(reply, "OK\n");
        assert_eq!(cli(&["get", "greeting"]).unwrap(), "hello world\n");
        assert_eq!(cli(&["--no-raw", "mget", "greeting", "none"]).unwrap(), "1) \"hello world\"\n2) (nil)\n");
        assert!(cli(&["frobnicate"]).unwrap().starts_with("ERR unknown command 'frobnicate'"));
        assert!(cli(&["info"]).unwrap().contains("keys=1"));
    }
    let bench = ["-p", &port, "-t", "ping,set,get,incr,mset", "-n", "20000", "-r", "1000", "-c", "20"];
    for depth in ["1", "16"] {
        if let Some(figures) = run("redis-benchmark", &[&bench[..], &["-P", depth, "--csv"]].concat()) {
            for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
                assert!(figures.contains(&format!("\"{test}\",")), "{figures}");
            }
            assert!(!figures.contains("WARN") && !figures.contains("rror"), "{figures}");
        }
    }
    program.end();
}

// -------------------------------------------------------------------------------------------- the parser of HTTP

const HOST: &str = "Host: x\r\n";

#[test]
fn http_requests() {
    use http::{Parsed, Request};
    let usual = Request { method: "GET", path: "/", body: b"", keep_alive: true, is_1_1: true, len: 0 };
    for (input, expected) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", usual),
        ("GET /?a=/b HTTP/1.1\r\nhost:x\r\n\r\n", usual),
        ("GET http://x/ HTTP/1.1\r\nhost:x\r\n\r\n", usual),
        ("GET http://x HTTP/1.1\r\nhost:x\r\n\r\n", usual),
        ("GET /a/b HTTP/1.1\r\nHost: x\r\n\r\n", Request { path: "/a/b", ..usual }),
        ("GET / HTTP/1.0\r\n\r\n", Request { keep_alive: false, is_1_1: false, ..usual }),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Request { is_1_1: false, ..usual }),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: x, Close\r\n\r\n", Request { keep_alive: false, ..usual }),
        (
            "POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabc",
            Request { method: "POST", body: b"abc", ..usual },
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            Request { method: "POST", body: b"a", ..usual },
        ),
    ] {
        let more = format!("{input}GET / HTTP/1.1\r\n");
        let expected = Request { len: input.len(), ..expected };
        assert_eq!(http::parse(more.as_bytes()), Ok(Parsed::Request(expected)), "{input}");
        for len in 0..input.len() {
            match http::parse(&input.as_bytes()[..len]) {
                Ok(Parsed::Incomplete { needed, .. }) => {
                    assert!(len < needed && needed <= input.len(), "{input}")
                }
                other => panic!("{other:?} after {len} bytes of {input}"),
            }
        }
    }
}

#[test]
fn http_errors() {
    use http::Error::*;
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(http::HEAD_LEN_MAX));
    let many = "a: b\r\n".repeat(http::HEADERS_MAX + 1);
    for (line, headers, error) in [
        ("nonsense\r\n", "", BadRequest),
        ("GET / HTTP/1.1\r\n", "", BadRequest),
        ("GET / HTTP/1.1\r\nHost: y\r\n", HOST, BadRequest),
        ("GET / HTTP/1.1\r\nHost : y\r\n", "", BadRequest),
        ("GET / HTTP/1.1\r\n bad\r\n", HOST, BadRequest),
        ("GET / HTTP/2.0\r\n", HOST, VersionNotSupported),
        ("POST / HTTP/1.1\r\nContent-Length: +1\r\n", HOST, BadRequest),
        ("POST / HTTP/1.1\r\nContent-Length: \r\n", HOST, BadRequest),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n", HOST, BadRequest),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n", HOST, BadRequest),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", HOST, BadRequest),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", HOST, LengthRequired),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n", HOST, NotImplemented),
        ("POST / HTTP/1.1\r\nContent-Length: 1048577\r\n", HOST, ContentTooLarge),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n", HOST, ContentTooLarge),
        ("POST / HTTP/1.1\r\nExpect: a miracle\r\n", HOST, ExpectationFailed),
        (&long, HOST, HeadTooLarge),
        ("GET / HTTP/1.1\r\n", &many, HeadTooLarge),
    ] {
        let request = format!("{line}{headers}\r\n");
        assert_eq!(http::parse(request.as_bytes()), Err(error), "{}", &request[..request.len().min(100)]);
    }
}

// ----------------------------------------------------------------------------------------------------- evio_http

/// Reads one answer, without its date: the head in lines, and the body.
#[track_caller]
fn read_answer(reader: &mut impl BufRead, has_body: bool) -> (String, Vec<u8>) {
    let mut head = String::new();
    let mut len = 0;
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the end after {head:?}");
        let line = line.strip_suffix("\r\n").expect("a whole line");
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            len = value.parse().unwrap();
        }
        match line.strip_prefix("Date: ") {
            Some(date) => assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}"),
            None => head += &format!("{line}\n"),
        }
    }
    let mut body = vec![0; if has_body { len } else { 0 }];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}

const HELLO_HEAD: &str = "HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 14\n";
const HELLO: &[u8] = b"Hello World!\r\n";

#[test]
fn http_answers() {
    let program = Server::start("evio_http", &[]);
    let mut stream = BufReader::new(program.connect());
    for (request, head, body) in [
        ("GET / HTTP/1.1\r\n", HELLO_HEAD, HELLO),
        ("HEAD / HTTP/1.1\r\n", HELLO_HEAD, b""),
        (
            "GET /none HTTP/1.1\r\n",
            "HTTP/1.1 404 Not Found\nContent-Type: text/plain\nContent-Length: 0\n",
            b"",
        ),
        (
            "PUT / HTTP/1.1\r\n",
            "HTTP/1.1 405 Method Not Allowed\nAllow: GET, HEAD, POST\nContent-Type: text/plain\nContent-Length: 0\n",
            b"",
        ),
        (
            "BREW / HTTP/1.1\r\n",
            "HTTP/1.1 501 Not Implemented\nContent-Type: text/plain\nContent-Length: 0\n",
            b"",
        ),
        (
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n",
            "HTTP/1.1 200 OK\nConnection: keep-alive\nContent-Type: text/plain\nContent-Length: 14\n",
            HELLO,
        ),
        ("GET / HTTP/1.1\r\n", HELLO_HEAD, HELLO),
    ] {
        stream.get_mut().write_all(format!("{request}{HOST}\r\n").as_bytes()).unwrap();
        assert_eq!(
            read_answer(&mut stream, !request.starts_with("HEAD")),
            (head.into(), body.into()),
            "{request}"
        );
    }
    // A body that comes in many reads.
    let body: Vec<u8> = (0..1_000_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let head = format!("POST / HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n", body.len());
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    stream.get_mut().write_all(&body).unwrap();
    let (head, echoed) = read_answer(&mut stream, true);
    assert_eq!(head, "HTTP/1.1 200 OK\nContent-Type: application/octet-stream\nContent-Length: 1000000\n");
    assert!(echoed == body);
    // The body is not sent before it is welcome.
    let head = format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    expect_line(&mut stream, "HTTP/1.1 100 Continue\r\n");
    expect_line(&mut stream, "\r\n");
    stream.get_mut().write_all(b"o").unwrap();
    stream.get_mut().write_all(b"k").unwrap();
    assert_eq!(read_answer(&mut stream, true).1, b"ok");
    drop(stream);
    program.end();
}

#[track_caller]
fn expect_line(reader: &mut impl BufRead, expected: &str) {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, expected);
}

#[test]
fn http_one_byte_at_a_time_and_many_at_once() {
    let program = Server::start("evio_http", &["--loops", "2"]);
    let mut stream = BufReader::new(program.connect());
    let request = format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello");
    for byte in request.bytes() {
        stream.get_mut().write_all(&[byte]).unwrap();
    }
    assert_eq!(read_answer(&mut stream, true).1, b"hello");

    let requests = [format!("GET / HTTP/1.1\r\n{HOST}\r\n"), request].concat().repeat(10_000);
    let writer = stream.get_ref().try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| (&writer).write_all(requests.as_bytes()).unwrap());
        for _ in 0..10_000 {
            assert_eq!(read_answer(&mut stream, true), (HELLO_HEAD.into(), HELLO.into()));
            assert_eq!(read_answer(&mut stream, true).1, b"hello");
        }
    });
    drop((stream, writer));
    program.end();
}

#[test]
fn http_connections_that_end() {
    let program = Server::start("evio_http", &[]);
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000));
    for (request, first) in [
        ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n", "HTTP/1.1 200 OK"),
        ("nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (&long, "HTTP/1.1 431 Request Header Fields Too Large"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 411 Length Required",
        ),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n", "HTTP/1.1 413 Content Too Large"),
    ] {
        let answer = ask_to_the_end(&program, request.as_bytes());
        assert!(answer.starts_with(first), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    program.end();
}

#[test]
fn http_for_curl_nc_and_wrk() {
    let program = Server::start("evio_http", &["--loops", "2"]);
    let url = format!("http://{}/", program.addr);
    if let Some(answer) = run("curl", &["-sS", "-i", "-m", "30", &url, &url]) {
        assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answer}");
        assert_eq!(answer.matches("Hello World!\r\n").count(), 2, "{answer}");
        assert_eq!(run("curl", &["-sS", "-m", "30", "-d", "x=1", &url]).unwrap(), "x=1");
        let head = run("curl", &["-sS", "-m", "30", "-I", "-0", &url]).unwrap();
        assert!(head.contains("Connection: close\r\n") && !head.contains("Hello"), "{head}");
        // More than a megabyte, of which curl asks first whether it may send it.
        let large = std::env::current_exe().unwrap();
        let status = ["-sS", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary"];
        let data = format!("@{}", large.display());
        assert_eq!(run("curl", &[&status[..], &[&data, &url]].concat()).unwrap(), "413");
    }
    if let Some(figures) = run("wrk", &["-t1", "-c20", "-d1s", &url]) {
        assert!(figures.contains("requests in") && !figures.contains("rrors"), "{figures}");
        assert!(!figures.contains("Non-2xx") && !figures.contains(" 0 requests in"), "{figures}");
    }
    let (host, port) = (program.addr.ip().to_string(), program.addr.port().to_string());
    let nc = Command::new("nc")
        .args(["-w", "30", &host, &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    match nc {
        Ok(mut nc) => {
            // (That nc has no more to say, it does not tell the server, which ends because of the version.)
            nc.stdin.take().unwrap().write_all(b"GET / HTTP/1.0\n\n").unwrap();
            let answer = nc.wait_with_output().unwrap().stdout;
            assert!(answer.ends_with(b"\r\n\r\nHello World!\r\n"), "{}", answer.escape_ascii());
        }
        Err(e) => println!("skipped: cannot run nc: {e}"),
    }
    program.end();
}
