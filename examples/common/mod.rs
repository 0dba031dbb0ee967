//! What the examples share: how they begin, with arguments, and how they are asked to end.

#![allow(dead_code, reason = "not every example uses all of it")]

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, io};
use wakewheel::Async;

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

/// Ctrl-C and SIGTERM, which from now on do not kill the process.
pub struct Signal(UnixStream);

impl Signal {
    pub fn new() -> io::Result<Signal> {
        // All that a signal handler can safely do is to write a byte, and all that a task needs is something to wait for.
        let (reader, writer) = UnixStream::pair()?;
        pipe::register(SIGINT, writer.try_clone()?)?;
        pipe::register(SIGTERM, writer)?;
        Ok(Signal(reader))
    }

    /// Waits for the first of them: any number of tasks, on any core.
    pub async fn wait(&self) -> io::Result<()> {
        // Nobody reads the byte, so it is there for everybody.
        Async::new(self.0.try_clone()?)?.readable().await
    }
}
