//! Fetches a page by HTTP/1.1 or HTTP/2, with hyper's client.
//!
//!     cargo run --release --features hyper --example hyper_client -- http://127.0.0.1:5000/ --http2
//!
//! The body goes to standard output as it comes, the status and the headers to standard error. Ctrl-C breaks it off.

mod common;

use common::Signal;
use futures_lite::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, Uri, header};
use lexopt::prelude::*;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use wakewheel::hyper::{connect_http1, connect_http2};
use wakewheel::{LocalExecutor, timeout};

const USAGE: &str = "hyper_client URL [--http2] [--data TEXT] [--limit TIME]";

fn main() -> ExitCode {
    common::main(USAGE, parse, |args| {
        let signal = Signal::new()?;
        let broken_off = async {
            signal.wait().await?;
            Err(io::Error::new(ErrorKind::Interrupted, "broken off by a signal"))
        };
        let limit = args.limit;
        LocalExecutor::new()?.block_on(async {
            let fetched = async { timeout(limit, fetch(args)).await? };
            fetched.or(broken_off).await
        })
    })
}

struct Args {
    uri: Uri,
    addr: SocketAddr,
    is_http2: bool,
    data: Option<String>,
    limit: Duration,
}

async fn fetch(args: Args) -> io::Result<()> {
    let answer = ask(args).await?;
    eprintln!("{:?} {}", answer.version(), answer.status());
    for (name, value) in answer.headers() {
        eprintln!("{name}: {}", value.as_bytes().escape_ascii());
    }
    let (status, mut body) = (answer.status(), answer.into_body());
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(io::Error::other)?.data_ref() {
            // This may block, as standard output does. There is nothing else to do.
            io::stdout().write_all(data)?;
        }
    }
    io::stdout().flush()?;
    match status.is_success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("the server says {status}"))),
    }
}

async fn ask(args: Args) -> io::Result<Response<Incoming>> {
    let method = if args.data.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::new(Full::new(Bytes::from(args.data.unwrap_or_default())));
    *request.method_mut() = method;
    let addr = args.addr.into();
    let answer = if args.is_http2 {
        *request.uri_mut() = args.uri;
        connect_http2(&addr).await?.send_request(request).await
    } else {
        // HTTP/1.1 has the two parts of the address in two places.
        let host = args.uri.authority().and_then(|authority| authority.as_str().parse().ok());
        request.headers_mut().extend(host.map(|host| (header::HOST, host)));
        *request.uri_mut() =
            args.uri.path_and_query().map_or("/", |path| path.as_str()).parse().map_err(io::Error::other)?;
        connect_http1(&addr).await?.send_request(request).await
    };
    answer.map_err(io::Error::other)
}

fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let (mut target, mut is_http2, mut data, mut limit) = (None, false, None, Duration::from_secs(30));
    while let Some(arg) = parser.next()? {
        match arg {
            Long("http2") => is_http2 = true,
            Long("data") => data = Some(parser.value()?.string()?),
            Long("limit") => limit = parser.value()?.parse_with(common::duration)?,
            Value(value) if target.is_none() => target = Some(value.parse_with(url)?),
            _ => return Err(arg.unexpected()),
        }
    }
    let (uri, addr) = target.ok_or("a URL is missing")?;
    Ok(Args { uri, addr, is_http2, data, limit })
}

/// The URL, and the address in it.
fn url(text: &str) -> Result<(Uri, SocketAddr), &'static str> {
    let uri: Uri = text.parse().map_err(|_| FORM)?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or(FORM)?;
    let addr = match authority.port_u16() {
        Some(_) => authority.as_str().parse(),
        None => format!("{authority}:80").parse(),
    };
    addr.map_err(|_| FORM).map(|addr| (uri, addr))
}

const FORM: &str = "write http://127.0.0.1:5000/path or http://[::1]:5000/path; host names are not looked up";
