//! Echoes what its clients send, with callbacks: the example of evio.
//!
//!     cargo run --release --example evio_echo -- tcp://127.0.0.1:5000 udp://127.0.0.1:5000 unix:///tmp/echo.sock --loops 2

mod common;

use common::Signal;
use lexopt::prelude::*;
use std::io;
use std::process::ExitCode;
use wakewheel::evio::{Action, Builder, Events, LoadBalance, Reply};
use wakewheel::{Cores, spawn_local};

const USAGE: &str = "evio_echo [ADDRESS]... [--loops N] [--balance random|round-robin|least-connections|source-hash] \
                     [--reuseport] [--busy-poll TIME] [--backend epoll|kqueue|poll]";

fn main() -> ExitCode {
    common::main(USAGE, parse, run)
}

struct Args {
    addrs: Vec<String>,
    builder: Builder<()>,
}

fn run(Args { addrs, builder }: Args) -> io::Result<()> {
    let signal = Signal::new()?;
    let events = Events::new()
        .serving(move |server| {
            for addr in server.addrs() {
                println!("listening on {addr}");
            }
            spawn_local(signal.clone().stop(server.clone())).detach();
            Action::None
        })
        .data(|_, input| Reply::send(input));
    builder.serve(events, addrs)
}

fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let (mut addrs, mut reuse_port) = (Vec::new(), false);
    let (mut builder, mut cores) = (Builder::new(), Cores::builder());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("loops") => builder = builder.loops(parser.value()?.parse::<isize>()?),
            Long("balance") => builder = builder.load_balance(parser.value()?.parse_with(balance)?),
            Long("reuseport") => reuse_port = true,
            Long("busy-poll") => cores = cores.busy_poll(parser.value()?.parse_with(common::duration)?),
            Long("backend") => cores = cores.backend(parser.value()?.parse()?),
            Value(value) => addrs.push(value.string()?),
            _ => return Err(arg.unexpected()),
        }
    }
    if addrs.is_empty() {
        addrs.push(format!("tcp://{}", common::ADDR));
    }
    if reuse_port {
        for addr in &mut addrs {
            addr.push_str(if addr.contains('?') { "&reuseport=true" } else { "?reuseport=true" });
        }
    }
    Ok(Args { addrs, builder: builder.cores(cores) })
}

fn balance(text: &str) -> Result<LoadBalance, &'static str> {
    Ok(match text {
        "random" => LoadBalance::Random,
        "round-robin" => LoadBalance::RoundRobin,
        "least-connections" => LoadBalance::LeastConnections,
        "source-hash" => LoadBalance::SourceHash,
        _ => return Err("write random, round-robin, least-connections or source-hash"),
    })
}
