//! What the examples share: how they begin, with arguments, and how they are asked to end.

#![allow(dead_code, reason = "not every example uses all of it")]

use lexopt::prelude::*;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{env, io};
use wakewheel::evio::{Builder, Server};
use wakewheel::{Async, Cores};

/// Where a server listens, if nothing else is said.
pub const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);

/// How long tasks may go on after the program was asked to end.
pub const DRAIN: Duration = Duration::from_secs(2);

/// Runs `program` with what `parse` makes of the arguments. The exit code is 2 if the arguments are wrong, and 1 if the
/// program fails.
pub fn main<Args>(
    usage: &str,
    parse: impl FnOnce(lexopt::Parser) -> Result<Args, lexopt::Error>,
    program: impl FnOnce(Args) -> io::Result<()>,
) -> ExitCode {
    if env::args_os().skip(1).any(|arg| arg == "--help" || arg == "-h") {
        println!("usage: {usage}");
        return ExitCode::SUCCESS;
    }
    let args = match parse(lexopt::Parser::from_env()) {
        Ok(args) => args,
        Err(e) => {
            eprintln!("error: {e}\nusage: {usage}");
            return ExitCode::from(2);
        }
    };
    match program(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// An address to listen on. (The error of std's parser says only that it is none.)
pub fn addr(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write 127.0.0.1:5000 or [::1]:5000; host names are not looked up")
}

/// How many cores.
pub fn cores(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|&cores| cores > 0).ok_or("write how many cores, at least 1")
}

/// `50us`, `2ms` or `30s`.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    let number = |unit| text.strip_suffix(unit).and_then(|number: &str| number.parse().ok());
    let (us, ms) = (number("us").map(Duration::from_micros), number("ms").map(Duration::from_millis));
    us.or(ms).or(number("s").map(Duration::from_secs)).ok_or("write a time like 50us, 2ms or 30s")
}

/// The addresses of a server, or `addr` if none is given, and how it shall run.
pub fn server<C: Default + 'static>(
    mut parser: lexopt::Parser,
    addr: &str,
) -> Result<(Vec<String>, Builder<C>), lexopt::Error> {
    let (mut addrs, mut builder, mut cores) = (Vec::new(), Builder::new(), Cores::builder());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("loops") => builder = builder.loops(parser.value()?.parse::<isize>()?),
            Long("busy-poll") => cores = cores.busy_poll(parser.value()?.parse_with(duration)?),
            Long("backend") => cores = cores.backend(parser.value()?.parse()?),
            Value(value) => addrs.push(value.string()?),
            _ => return Err(arg.unexpected()),
        }
    }
    if addrs.is_empty() {
        addrs.push(addr.to_owned());
    }
    Ok((addrs, builder.cores(cores)))
}

/// Ctrl-C and SIGTERM, which from now on do not kill the process.
#[derive(Clone)]
pub struct Signal(Arc<UnixStream>);

impl Signal {
    pub fn new() -> io::Result<Signal> {
        // All that a signal handler can safely do is to write a byte, and all that a task needs is something to wait for.
        let (reader, writer) = UnixStream::pair()?;
        pipe::register(SIGINT, writer.try_clone()?)?;
        pipe::register(SIGTERM, writer)?;
        Ok(Signal(Arc::new(reader)))
    }

    /// Waits for the first of them: any number of tasks, on any core.
    pub async fn wait(&self) -> io::Result<()> {
        // Nobody reads the byte, so it is there for everybody.
        Async::new(self.0.try_clone()?)?.readable().await
    }

    /// Waits for the first of them, and stops `server`.
    pub async fn stop<C>(self, server: Server<C>) {
        match self.wait().await {
            Ok(()) => {}
            Err(e) => eprintln!("cannot wait for signals: {e}"),
        }
        server.stop();
    }
}
