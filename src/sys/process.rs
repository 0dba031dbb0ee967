//! The end of a process, as something readable.
//!
//! A pidfd where there is one (Linux, Android); a kqueue that holds one filter, which is the same to whoever waits for it;
//! elsewhere, and before Linux 5.3, a thread in waitid(2) and a pair of sockets. All of them can be waited for by any
//! selector. The status is then there to be taken, once.

use super::{check, socket};
use libc::{c_int, pid_t};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Mutex;

/// A child of this process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: pid_t,
    end: End,
    /// Set once somebody has taken it from the kernel, who gives it once: after that, `pid` may be anybody's.
    status: Mutex<Option<ExitStatus>>,
}

impl Process {
    /// A child that nobody has waited for.
    ///
    /// Errors: there is no such process; it is no child of this one; no descriptors are left.
    pub fn open(pid: pid_t) -> io::Result<Process> {
        Process::open_with(pid, end)
    }

    fn open_with(pid: pid_t, end: fn(pid_t) -> io::Result<End>) -> io::Result<Process> {
        if pid <= 0 {
            let text = format!("{pid} is not the number of a process");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if !is_child(pid)? {
            // SAFETY: no pointers, and signal 0 is none.
            let is_there = match check(unsafe { libc::kill(pid, 0) }) {
                Err(e) => e.raw_os_error() != Some(libc::ESRCH),
                Ok(_) => true,
            };
            let (kind, why) = match is_there {
                true => (io::ErrorKind::InvalidInput, "only its parent can, and that is another process"),
                false => (io::ErrorKind::NotFound, "there is no such process, or somebody has waited for it"),
            };
            return Err(io::Error::new(kind, format!("process {pid} cannot be waited for: {why}")));
        }
        // From here on it is there until somebody waits for it, and the number is its own.
        let end = end(pid).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot watch for the end of process {pid}: {e}"))
        })?;
        Ok(Process { pid, end, status: Mutex::new(None) })
    }

    pub fn pid(&self) -> pid_t {
        self.pid
    }

    /// Its status, if it has ended. It is a zombie no more then.
    ///
    /// Errors: somebody else has taken the status.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let mut status = self.status.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if status.is_none() {
            *status = self.take_status().map_err(|e| match e.raw_os_error() {
                Some(libc::ECHILD) => io::Error::new(
                    io::ErrorKind::NotFound,
                    format!(
                        "the status of process {} is gone: something else in this program has waited for it, or ignores SIGCHLD",
                        self.pid
                    ),
                ),
                _ => e,
            })?;
        }
        Ok(*status)
    }

    fn take_status(&self) -> io::Result<Option<ExitStatus>> {
        if let End::Kernel(handle) = &self.end {
            if let Some(result) = handle.take_status() {
                return result;
            }
        }
        let mut status = 0;
        loop {
            // SAFETY: `status` is valid for writes.
            match check(unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) }) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(ExitStatus::from_raw(status))),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends it a signal, unless it has ended and was waited for: then its number may be another's.
    ///
    /// Errors: the kernel's: no such signal; it runs as somebody else.
    pub fn signal(&self, signal: c_int) -> io::Result<()> {
        let status = self.status.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if status.is_some() {
            return Ok(());
        }
        let by_handle = match &self.end {
            End::Kernel(handle) => handle.signal(signal),
            End::Socket(_) => None,
        };
        let by_number = || {
            // Somebody else in the program may have waited for it: then its number may be a stranger's.
            if !is_child(self.pid)? {
                return Ok(());
            }
            // SAFETY: no pointers.
            check(unsafe { libc::kill(self.pid, signal) }).map(drop)
        };
        match by_handle.unwrap_or_else(by_number) {
            // It has ended: not worth an error.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result,
        }
    }
}

/// Readable when it has ended.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.end {
            End::Kernel(handle) => handle.as_fd(),
            End::Socket(fd) => fd.as_fd(),
        }
    }
}

/// Is it a child that nobody has waited for, running or not?
fn is_child(pid: pid_t) -> io::Result<bool> {
    match wait_id(libc::P_PID, pid as libc::id_t, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(false),
        Err(e) => Err(e),
    }
}

/// waitid(2). `None`: it has not ended.
fn wait_id(kind: libc::idtype_t, id: libc::id_t, options: c_int) -> io::Result<Option<libc::siginfo_t>> {
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: `info` is valid for writes.
        match check(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), options) }) {
            Ok(_) => {
                // SAFETY: all zeroes is a siginfo, and what the kernel writes is one.
                let info = unsafe { info.assume_init() };
                // It stays 0 if there is nothing to tell.
                return Ok((info.si_signo != 0).then_some(info));
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// What is readable when it has ended.
#[derive(Debug)]
enum End {
    Kernel(kernel::Handle),
    Socket(OwnedFd),
}

fn end(pid: pid_t) -> io::Result<End> {
    match kernel::Handle::open(pid)? {
        Some(handle) => Ok(End::Kernel(handle)),
        None => end_by_thread(pid),
    }
}

/// A thread waits for it, leaves it as it is, and hangs up.
fn end_by_thread(pid: pid_t) -> io::Result<End> {
    let (read, write) = socket::pair(libc::SOCK_STREAM)?;
    let wait = move || {
        // An error is that somebody has waited for it: the end as well.
        let _ = wait_id(libc::P_PID, pid as libc::id_t, libc::WEXITED | libc::WNOWAIT);
        drop(write);
    };
    std::thread::Builder::new().name("wait for child".into()).stack_size(64 * 1024).spawn(wait)?;
    Ok(End::Socket(read))
}

/// A pidfd.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(wakewheel_libkqueue)))]
mod kernel {
    use super::*;
    use std::os::fd::{AsRawFd, FromRawFd};

    #[derive(Debug)]
    pub struct Handle(OwnedFd);

    impl Handle {
        /// `None`: the kernel has none.
        pub fn open(pid: pid_t) -> io::Result<Option<Handle>> {
            // SAFETY: it takes numbers.
            match check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as c_int) {
                // Close-on-exec by nature.
                // SAFETY: the call has made it, for us alone.
                Ok(fd) => Ok(Some(Handle(unsafe { OwnedFd::from_raw_fd(fd) }))),
                // Before Linux 5.3, and under a filter of system calls.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(None),
                Err(e) => Err(e),
            }
        }

        /// By what it is, and not by a number that may have passed to another child. `None`: the kernel cannot.
        pub fn take_status(&self) -> Option<io::Result<Option<ExitStatus>>> {
            let id = self.0.as_raw_fd() as libc::id_t;
            match wait_id(libc::P_PIDFD, id, libc::WEXITED | libc::WNOHANG) {
                // Linux 5.3.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => None,
                result => Some(result.map(|info| info.map(|info| status_of(&info)))),
            }
        }

        /// As above.
        pub fn signal(&self, signal: c_int) -> Option<io::Result<()>> {
            let more = std::ptr::null::<libc::siginfo_t>();
            // SAFETY: it takes numbers, and no more about the signal.
            let sent =
                unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, more, 0) };
            match check(sent as c_int) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS)) => None,
                result => Some(result.map(drop)),
            }
        }
    }

    /// What waitpid(2) would have said.
    fn status_of(info: &libc::siginfo_t) -> ExitStatus {
        // SAFETY: it comes from waitid, which sets this field.
        let status = unsafe { info.si_status() };
        ExitStatus::from_raw(match info.si_code {
            libc::CLD_EXITED => (status & 0xff) << 8,
            libc::CLD_DUMPED => status & 0x7f | 0x80,
            _ => status & 0x7f,
        })
    }

    impl AsFd for Handle {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

/// A kqueue with one filter.
#[cfg(any(
    wakewheel_libkqueue,
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
mod kernel {
    use super::*;
    use crate::sys::queue::Filter;

    #[derive(Debug)]
    pub struct Handle(Filter);

    impl Handle {
        /// `None`: it has ended, which some systems have no event for.
        pub fn open(pid: pid_t) -> io::Result<Option<Handle>> {
            Filter::exit(pid).map(|filter| filter.map(Handle))
        }

        /// By its number.
        pub fn take_status(&self) -> Option<io::Result<Option<ExitStatus>>> {
            None
        }

        /// By its number.
        pub fn signal(&self, _: c_int) -> Option<io::Result<()>> {
            None
        }
    }

    impl AsFd for Handle {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

/// Nothing.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
)))]
mod kernel {
    use super::*;

    #[derive(Debug)]
    pub enum Handle {}

    impl Handle {
        pub fn open(_: pid_t) -> io::Result<Option<Handle>> {
            Ok(None)
        }

        pub fn take_status(&self) -> Option<io::Result<Option<ExitStatus>>> {
            match *self {}
        }

        pub fn signal(&self, _: c_int) -> Option<io::Result<()>> {
            match *self {}
        }
    }

    impl AsFd for Handle {
        fn as_fd(&self) -> BorrowedFd<'_> {
            match *self {}
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    /// A shell that does what `script` says, and what is readable at its end.
    #[expect(clippy::zombie_processes, reason = "the test waits for it, in its own way")]
    fn shell(script: &str, end: fn(pid_t) -> io::Result<End>) -> Process {
        let child = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
        Process::open_with(child.id() as pid_t, end).unwrap()
    }

    fn is_readable(process: &Process, patience: Duration) -> bool {
        let mut one = libc::pollfd { fd: process.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `one` is a valid array of one pollfd.
        unsafe { libc::poll(&mut one, 1, patience.as_millis() as c_int) == 1 }
    }

    /// Each way to hear of it.
    const ENDS: [fn(pid_t) -> io::Result<End>; 2] = [end, end_by_thread];

    #[test]
    fn the_end_is_readable_and_its_status_stays() {
        for end in ENDS {
            for (script, code, signal) in
                [("exit 0", Some(0), None), ("exit 77", Some(77), None), ("kill -9 $$", None, Some(9))]
            {
                let process = shell(script, end);
                assert!(is_readable(&process, Duration::from_secs(20)), "{script}");
                let status = process.try_wait().unwrap().expect("it has ended");
                assert_eq!((status.code(), status.signal()), (code, signal));
                assert!(!is_child(process.pid()).unwrap(), "it is a zombie");
                assert_eq!(process.try_wait().unwrap(), Some(status));
                assert!(process.signal(libc::SIGTERM).is_ok());
            }
        }
    }

    #[test]
    fn one_that_runs_has_no_status_and_can_be_signalled() {
        for end in ENDS {
            let process = shell("exec sleep 1000", end);
            assert_eq!(process.try_wait().unwrap(), None);
            assert!(!is_readable(&process, Duration::ZERO));
            assert_eq!(process.signal(-1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            process.signal(libc::SIGTERM).unwrap();
            assert!(is_readable(&process, Duration::from_secs(20)));
            assert_eq!(process.try_wait().unwrap().unwrap().signal(), Some(libc::SIGTERM));
        }
    }

    #[test]
    fn a_status_that_somebody_else_has_taken_is_an_error() {
        for end in ENDS {
            let process = shell("exit 1", end);
            let mut status = 0;
            // SAFETY: `status` is valid for writes.
            assert_eq!(unsafe { libc::waitpid(process.pid(), &mut status, 0) }, process.pid());
            assert!(is_readable(&process, Duration::from_secs(20)), "nobody waits for ever");
            let e = process.try_wait().unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::NotFound);
            assert!(e.to_string().contains(&process.pid().to_string()), "{e}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_thread_ends_with_the_child_whoever_waits_for_it() {
        let process = shell("exec sleep 1000", end_by_thread);
        process.signal(libc::SIGKILL).unwrap();
        assert!(is_readable(&process, Duration::from_secs(20)));
        drop(process);
        // Those of other tests end as well.
        let threads = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        };
        let started = std::time::Instant::now();
        while threads().any(|name| name.trim() == "wait for child") {
            assert!(started.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_no_child_is_refused() {
        for (pid, kind) in [
            (0, io::ErrorKind::InvalidInput),
            (-1, io::ErrorKind::InvalidInput),
            (1, io::ErrorKind::InvalidInput),
            (pid_t::MAX, io::ErrorKind::NotFound),
        ] {
            let e = Process::open(pid).unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.to_string().contains(&pid.to_string()), "{e}");
        }
    }
}
