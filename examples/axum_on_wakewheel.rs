//! axum's routes on hyper, and that on our cores. axum itself has no part of tokio in it.
//!
//!     cargo run --release --features hyper --example axum_on_wakewheel -- 127.0.0.1:5000
//!     curl http://127.0.0.1:5000/hello/you http://127.0.0.1:5000/count

mod common;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use common::Signal;
use hyper::service::service_fn;
use lexopt::prelude::*;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tower_service::Service;
use wakewheel::executor::request_shutdown;
use wakewheel::hyper::Server;
use wakewheel::io::SocketOptions;
use wakewheel::{LocalExecutor, spawn_local};

fn main() -> ExitCode {
    common::main("axum_on_wakewheel [ADDRESS]", parse, |addr| LocalExecutor::new()?.block_on(run(addr)))
}

async fn run(addr: SocketAddr) -> io::Result<()> {
    let signal = Signal::new()?;
    let router = Router::new()
        .route("/hello/{name}", get(hello))
        .route("/count", get(count))
        .with_state(Arc::new(AtomicU64::new(0)));
    // A router is a service of tower's, which wants to be called by `&mut`. Its clones share the routes.
    let service = service_fn(move |request| router.clone().call(request));

    let listener = SocketOptions::new().nodelay().listen(addr)?;
    println!("listening on {}", listener.get_ref().local_addr()?);
    spawn_local(async move {
        if let Err(e) = signal.wait().await {
            eprintln!("cannot wait for signals: {e}");
        }
        request_shutdown();
    })
    .detach();
    match Server::new().grace(common::DRAIN).serve(listener, service).await? {
        0 => {}
        left => eprintln!("connections cut off: {left}"),
    }
    Ok(())
}

async fn hello(State(greeted): State<Arc<AtomicU64>>, Path(name): Path<String>) -> String {
    greeted.fetch_add(1, Ordering::Relaxed);
    format!("hello, {name}\n")
}

async fn count(State(greeted): State<Arc<AtomicU64>>) -> String {
    format!("greeted: {}\n", greeted.load(Ordering::Relaxed))
}

fn parse(mut parser: lexopt::Parser) -> Result<SocketAddr, lexopt::Error> {
    let mut addr = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(value) if addr.is_none() => addr = Some(value.parse_with(common::addr)?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(addr.unwrap_or(common::ADDR))
}
