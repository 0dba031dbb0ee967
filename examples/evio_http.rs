//! A web server with callbacks: `/` says hello, and echoes what is posted to it.
//!
//!     cargo run --release --example evio_http -- tcp://127.0.0.1:8080 --loops 2
//!     curl -i http://127.0.0.1:8080/
//!     curl --data-binary @README.md http://127.0.0.1:8080/
//!     wrk -t1 -c64 -d5s http://127.0.0.1:8080/
//!
//! A request that has come whole is answered out of the buffer that it was read into. The beginning of one is left unread,
//! and comes again with what follows.

mod common;
#[path = "common/http.rs"]
mod http;

use common::Signal;
use http::{Parsed, Request};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wakewheel::evio::{Action, Builder, Conn, Handler, Opened, Options, Reply, Server};
use wakewheel::spawn_local;

const USAGE: &str = "evio_http [ADDRESS]... [--loops N] [--busy-poll TIME] [--backend epoll|kqueue|poll]";

/// Who sends nothing, or takes nothing, for so long makes room for others.
const IDLE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    common::main(USAGE, |parser| common::server(parser, "tcp://127.0.0.1:8080"), run)
}

fn run((addrs, builder): (Vec<String>, Builder<Client>)) -> io::Result<()> {
    let http = Http { second: None, date: String::new(), hello: Vec::new(), signal: Signal::new()? };
    builder.serve(http, addrs)
}

/// What a loop has.
#[derive(Clone)]
struct Http {
    /// What the clock said last, as a number and as HTTP writes it.
    second: Option<u64>,
    date: String,
    /// The answer that nearly all get, made once a second.
    hello: Vec<u8>,
    signal: Signal,
}

#[derive(Default)]
struct Client {
    /// What has been left unread is of no use before there is so much of it.
    needed: usize,
    /// It has been told to go on with the body that it is about to send.
    continued: bool,
}

impl Handler for Http {
    type Context = Client;

    fn serving(&mut self, server: &Server<Client>) -> Action {
        for addr in server.addrs() {
            println!("listening on {addr}");
        }
        spawn_local(self.signal.clone().stop(server.clone())).detach();
        Action::None
    }

    fn opened(&mut self, _: &mut Conn<'_, Client>) -> Opened {
        Options::new().idle_timeout(IDLE).into()
    }

    fn data<'a>(&mut self, conn: &mut Conn<'_, Client>, input: &'a [u8]) -> Reply<'a> {
        let mut rest = input;
        if rest.len() < conn.context.needed {
            conn.unread(rest.len());
            return Reply::none();
        }
        self.look_at_the_clock();
        // As many as have come: a client need not wait for one answer before it asks again.
        while !rest.is_empty() {
            match http::parse(rest) {
                Ok(Parsed::Request(request)) => {
                    rest = &rest[request.len..];
                    *conn.context = Client::default();
                    self.answer(&request, conn.out);
                    if !request.keep_alive {
                        return Action::Close.into();
                    }
                }
                Ok(Parsed::Incomplete { needed, expects_continue }) => {
                    if expects_continue && !conn.context.continued {
                        conn.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                        conn.context.continued = true;
                    }
                    conn.context.needed = needed;
                    conn.unread(rest.len());
                    break;
                }
                Err(e) => {
                    let status = e.status();
                    let headers = [CLOSE, ""];
                    let response = Response { status, headers, ..Response::ok(&self.date) };
                    response.write_head(conn.out);
                    return Action::Close.into();
                }
            }
        }
        Reply::none()
    }
}

// --------------------------------------------------------------------------------------------------- answers

const TEXT: &str = "text/plain";
const BYTES: &str = "application/octet-stream";
const HELLO: &[u8] = b"Hello World!\r\n";
const CLOSE: &str = "Connection: close\r\n";
/// Those that are known, and so may be not allowed rather than not implemented.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

impl Http {
    /// Each loop keeps its own time, so that there is nothing to lock.
    fn look_at_the_clock(&mut self) {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).ok().map(|time| time.as_secs());
        if second != self.second || self.hello.is_empty() {
            self.second = second;
            self.date = httpdate::fmt_http_date(now);
            self.hello.clear();
            let hello = Response { body: HELLO, ..Response::ok(&self.date) };
            hello.write_head(&mut self.hello);
            self.hello.extend_from_slice(HELLO);
        }
    }

    fn answer(&self, request: &Request<'_>, out: &mut Vec<u8>) {
        let mut response = Response::ok(&self.date);
        response.headers[0] = match (request.keep_alive, request.is_1_1) {
            (true, true) => "",
            // A client of HTTP/1.0 has asked for it, and counts on it only if it is told so.
            (true, false) => "Connection: keep-alive\r\n",
            (false, _) => CLOSE,
        };
        match (request.path, request.method) {
            ("/", "GET") if response.headers[0].is_empty() => return out.extend_from_slice(&self.hello),
            ("/", "GET" | "HEAD") => response.body = HELLO,
            ("/", "POST") => (response.content, response.body) = (BYTES, request.body),
            (_, method) if !METHODS.contains(&method) => response.status = "501 Not Implemented",
            ("/", _) => {
                response.status = "405 Method Not Allowed";
                response.headers[1] = "Allow: GET, HEAD, POST\r\n";
            }
            _ => response.status = "404 Not Found",
        }
        response.write_head(out);
        // Its head says what there would be.
        if request.method != "HEAD" {
            out.extend_from_slice(response.body);
        }
    }
}

struct Response<'a> {
    status: &'static str,
    date: &'a str,
    /// Further ones, each with its line end.
    headers: [&'static str; 2],
    content: &'static str,
    body: &'a [u8],
}

impl<'a> Response<'a> {
    fn ok(date: &'a str) -> Response<'a> {
        Response { status: "200 OK", date, headers: [""; 2], content: TEXT, body: b"" }
    }

    fn write_head(&self, out: &mut Vec<u8>) {
        let Response { status, date, headers: [first, second], content, body } = self;
        let len = body.len();
        // Writing to a vector does not fail.
        let _ = write!(
            out,
            "HTTP/1.1 {status}\r\nDate: {date}\r\n{first}{second}Content-Type: {content}\r\nContent-Length: {len}\r\n\r\n"
        );
    }
}
