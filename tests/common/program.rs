//! The examples, as programs that a test starts and ends.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Long enough for the slowest machine: it only passes when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where cargo puts an example, seen from this test program.
pub fn path(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(example);
    assert!(path.exists(), "{} is missing: `cargo build --examples` makes it", path.display());
    path
}

/// An example that runs. Killed with the value.
pub struct Program {
    child: Child,
    pub lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

impl Program {
    pub fn start(example: &str, args: &[&str]) -> Program {
        Program::start_in(example, args, None)
    }

    /// With this in the environment as the backend to use.
    pub fn start_in(example: &str, args: &[&str], backend: Option<&OsStr>) -> Program {
        let mut command = Command::new(path(example));
        command.envs(backend.map(|backend| ("WAKEWHEEL_BACKEND", backend)));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let _ =
                BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
        });
        let errors = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Program { child, lines, errors: Some(errors) }
    }

    /// The next line that it prints.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("another line")
    }

    /// The address of a server, which it prints first.
    #[track_caller]
    pub fn listening_on(&self) -> String {
        let line = self.line();
        line.strip_prefix("listening on ").unwrap_or_else(|| panic!("an address in {line:?}")).to_string()
    }

    #[track_caller]
    pub fn tcp_addr(&self) -> SocketAddr {
        let addr: SocketAddr = self.listening_on().parse().unwrap();
        assert_ne!(addr.port(), 0);
        addr
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: it touches no memory. The child has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as libc::pid_t, signal) }, 0);
    }

    /// Waits for its end. Returns that, and what it wrote to standard error.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, String) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(5));
        };
        (status, self.errors.take().unwrap().join().unwrap())
    }

    /// Asks it to end, which it has to do without a complaint.
    #[track_caller]
    pub fn end(self) {
        self.signal(libc::SIGTERM);
        let (status, errors) = self.wait();
        assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a client that may not be there. What it says, if it is.
#[track_caller]
pub fn run(client: &str, args: &[&str]) -> Option<String> {
    let output = match Command::new(client).args(args).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(e) => {
            println!("skipped: cannot run {client}: {e}");
            return None;
        }
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{client} {args:?}: {}\n{stdout}{stderr}", output.status);
    Some(stdout.into_owned() + &stderr)
}

#[track_caller]
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}
