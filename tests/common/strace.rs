//! Programs under strace(1): to count their system calls, and to make some of those fail.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for the slowest machine: it only passes when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no strace here; `None` if there is.
pub fn missing() -> Option<String> {
    // It may be installed and not allowed to trace.
    match Command::new("strace").args(["-o", "/dev/null", "true"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            Some(format!("strace does not work: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(e) => Some(format!("no strace: {e}")),
    }
}

/// Says why a test is not run.
pub fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

/// A program that is being traced. Killed with the value.
pub struct Traced {
    strace: Child,
    log: PathBuf,
    said: PathBuf,
}

/// System calls by name.
pub type Calls = BTreeMap<String, u64>;

impl Traced {
    /// Starts `program`. `options` are strace's; its log is ours.
    pub fn start<S: AsRef<OsStr>>(
        options: &[S],
        program: &Path,
        arrange: impl FnOnce(&mut Command),
    ) -> Traced {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wakewheel-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let log = std::env::temp_dir().join(name).with_extension("strace");
        let said = log.with_extension("said");
        let output = fs::File::create(&said).expect("a place for what the program says");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&log).args(options).arg(program);
        // A group of their own, so that one signal ends both strace and the program.
        command.process_group(0).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("descriptors are left")).stderr(output);
        arrange(&mut command);
        Traced { strace: command.spawn().expect("strace starts"), log, said }
    }

    /// What the program has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Waits until the program says a line that starts with `start`, and returns the rest of the line.
    pub fn wait_for_line(&mut self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.strace.try_wait().expect("strace is our child").is_some();
            let said = self.said();
            let line =
                said.split_inclusive('\n').find_map(|line| line.strip_prefix(start)?.strip_suffix('\n'));
            match line {
                Some(rest) => return rest.to_string(),
                None if ended || Instant::now() > deadline => panic!("no line {start:?} in {said:?}"),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Waits until the program has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.strace.try_wait().expect("strace is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; its last calls:\n{}", self.last_lines(20));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// strace's log. What libkqueue does in the thread that waits for kqueues to be closed is left out.
    pub fn log(&self) -> String {
        let log =
            fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let thread = |line: &str| line.split(' ').next().map(String::from);
        match log.lines().find(|line| line.contains("\"libkqueue_mon\"")).and_then(thread) {
            None => log,
            Some(its) => {
                log.split_inclusive('\n').filter(|line| thread(line).as_ref() != Some(&its)).collect()
            }
        }
    }

    pub fn last_lines(&self, n: usize) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(n)..].join("\n")
    }

    /// Waits until the program is idle, and returns what it has called until then.
    pub fn settle(&self) -> Calls {
        const QUIET: Duration = Duration::from_millis(150);
        let len = || fs::metadata(&self.log).map_or(0, |meta| meta.len());
        let deadline = Instant::now() + PATIENCE;
        let mut before = len();
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            assert!(Instant::now() < deadline, "it is never idle; its last calls:\n{}", self.last_lines(20));
            thread::sleep(Duration::from_millis(10));
            let now = len();
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        self.calls()
    }

    /// What it has called: the calls that have returned, and those that strace saw begin before another thread's.
    pub fn calls(&self) -> Calls {
        let mut calls = Calls::new();
        for name in self.log().split_inclusive('\n').filter_map(call) {
            *calls.entry(name.to_string()).or_default() += 1;
        }
        calls
    }
}

/// The name of the call in a line like `4711 read(3, "", 8) = 0`.
pub fn call(line: &str) -> Option<&str> {
    // A line without its end is a call that has not returned.
    let line = line.strip_suffix('\n')?;
    let line = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    let name = line.split('(').next()?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_name && line.len() > name.len()).then_some(name)
}

impl Drop for Traced {
    fn drop(&mut self) {
        // SAFETY: no pointers. The group is that of our child, which has not been waited for, or has ended with all.
        unsafe { libc::kill(-(self.strace.id() as i32), libc::SIGKILL) };
        let _ = self.strace.wait();
        if !thread::panicking() {
            let _ = fs::remove_file(&self.log);
            let _ = fs::remove_file(&self.said);
        }
    }
}

/// What was called between two moments.
pub fn difference(before: &Calls, after: &Calls) -> Calls {
    after
        .iter()
        .map(|(name, n)| (name.clone(), n - before.get(name).copied().unwrap_or(0)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

pub fn total(calls: &Calls) -> u64 {
    calls.values().sum()
}
