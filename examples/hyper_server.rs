//! A web server of hyper's, HTTP/1 and HTTP/2 on one port, with an executor per core.
//!
//!     cargo run --release --features hyper --example hyper_server -- 127.0.0.1:5000 --cores 2
//!     curl http://127.0.0.1:5000/
//!     curl --http2-prior-knowledge --data-binary @README.md http://127.0.0.1:5000/echo
//!
//! | path | answer |
//! |---|---|
//! | `/` | a greeting |
//! | `/echo` | the body of the request, as it comes |
//! | `/later` | a greeting after a second: for the graceful end, which waits for it |

mod common;

use common::Signal;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use lexopt::prelude::*;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;
use wakewheel::executor::{CoresBuilder, request_shutdown};
use wakewheel::hyper::Server;
use wakewheel::io::SocketOptions;
use wakewheel::{Async, Cores, sleep, spawn_local};

/// A client may take so long to send the head of a request, and be idle between two requests.
const SILENCE_MAX: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    common::main("hyper_server [ADDRESS] [--cores N]", parse, |(addr, builder)| run(addr, builder))
}

fn run(addr: SocketAddr, builder: CoresBuilder) -> io::Result<()> {
    let server = Server::new()
        .http1(|http1| http1.header_read_timeout(SILENCE_MAX))
        .http2(|http2| http2.keep_alive_interval(SILENCE_MAX))
        .grace(common::DRAIN)
        .on_error(|peer, e| match peer {
            // Who is idle for too long is no news.
            Some(_) if e.kind() == io::ErrorKind::TimedOut => {}
            Some(peer) => eprintln!("{peer}: {e}"),
            None => eprintln!("cannot accept: {e}"),
        });
    let (addr, signal) = (Mutex::new(addr), Signal::new()?);
    // A core that cannot listen ends the others as well.
    builder.try_run(|core| serve(core, &server, &addr, &signal))?;
    Ok(())
}

/// One core, from its beginning to its end.
async fn serve(core: usize, server: &Server, addr: &Mutex<SocketAddr>, signal: &Signal) -> io::Result<()> {
    let listener = listen(addr)?;
    if core == 0 {
        println!("listening on {}", listener.get_ref().local_addr()?);
        spawn_local(stop(signal.clone())).detach();
    }
    match server.serve(listener, service_fn(answer)).await? {
        0 => {}
        left => eprintln!("connections cut off on core {core}: {left}"),
    }
    Ok(())
}

/// The first core to come here may choose a port, if `addr` has none. The others take the same.
fn listen(addr: &Mutex<SocketAddr>) -> io::Result<Async<TcpListener>> {
    let mut addr = addr.lock().expect("no core panics here");
    let listener = SocketOptions::new().backlog(4096).reuse_port().nodelay().listen(*addr)?;
    *addr = listener.get_ref().local_addr()?;
    Ok(listener)
}

/// Ends the servers of all cores, which then wait for what is being answered.
async fn stop(signal: Signal) {
    if let Err(e) = signal.wait().await {
        eprintln!("cannot wait for signals: {e}");
    }
    request_shutdown();
}

type Body = BoxBody<Bytes, hyper::Error>;

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Body>> {
    let greeting = || text(StatusCode::OK, format!("hello by {:?}\n", request.version()));
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => greeting(),
        (&Method::GET, "/later") => {
            sleep(Duration::from_secs(1)).await;
            greeting()
        }
        // A body is read no faster than it is written.
        (&Method::POST, "/echo") => Response::new(request.into_body().boxed()),
        (_, "/" | "/later" | "/echo") => {
            text(StatusCode::METHOD_NOT_ALLOWED, "GET / or /later, POST /echo\n".into())
        }
        (_, path) => text(StatusCode::NOT_FOUND, format!("there is no {path}\n")),
    })
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response
}

fn parse(mut parser: lexopt::Parser) -> Result<(SocketAddr, CoresBuilder), lexopt::Error> {
    let (mut addr, mut builder) = (None, Cores::builder());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("cores") => builder = builder.threads(parser.value()?.parse_with(common::cores)?),
            Value(value) if addr.is_none() => addr = Some(value.parse_with(common::addr)?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok((addr.unwrap_or(common::ADDR), builder))
}
