//! Child processes: their end as a future, and their pipes as [`Async`].
//!
//! ```
//! use futures_lite::{AsyncReadExt, AsyncWriteExt};
//! use std::process::{Command, Stdio};
//! use wakewheel::process::Child;
//!
//! wakewheel::block_on(async {
//!     let mut cat = Child::spawn(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()))?;
//!     let (mut stdin, mut stdout) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
//!     stdin.write_all(b"hello").await?;
//!     drop(stdin);
//!     let mut text = String::new();
//!     stdout.read_to_string(&mut text).await?;
//!     assert_eq!(text, "hello");
//!     assert!(cat.wait().await?.success());
//!     std::io::Result::Ok(())
//! })?;
//! # std::io::Result::Ok(())
//! ```
//!
//! No handler for SIGCHLD is installed, and no thread started: a child is waited for by a descriptor of its own, a pidfd
//! (Linux) or a kqueue. (Where the system has neither, as Linux before 5.3, a thread waits in waitid(2) for each child.)

use crate::io::Async;
use crate::sys::process::Process;
use futures_io::AsyncRead;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Output};
use std::task::Poll;

/// A child process.
///
/// Several tasks may wait for it, and one that gives up loses nothing. When it has been waited for, or
/// [`try_wait`](Child::try_wait) has told its end, it is no zombie.
///
/// Dropped, it goes on, as with std. If it has ended by then, it is no zombie either; one that ends later is, until this
/// process ends.
///
/// # Examples
///
/// A limit on its time:
///
/// ```
/// use std::process::Command;
/// use std::time::Duration;
/// use wakewheel::{process::Child, timeout};
///
/// wakewheel::block_on(async {
///     let child = Child::spawn(Command::new("sleep").arg("1000"))?;
///     let status = match timeout(Duration::from_millis(10), child.wait()).await {
///         Ok(status) => status?,
///         Err(_) => {
///             child.kill()?;
///             child.wait().await?
///         }
///     };
///     assert!(!status.success());
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct Child {
    /// What it reads, if that was [piped](std::process::Stdio::piped). To let it come to the end, take this and drop it.
    pub stdin: Option<Async<ChildStdin>>,
    /// What it writes, if that was piped.
    pub stdout: Option<Async<ChildStdout>>,
    /// The errors that it writes, if they were piped.
    pub stderr: Option<Async<ChildStderr>>,
    process: Async<Process>,
}

impl Child {
    /// Starts `command`. What it reads and writes is that of this process, unless the command says otherwise.
    ///
    /// # Errors
    ///
    /// Those of std's [`spawn`](Command::spawn). If there are no descriptors left to watch it, it has been killed.
    pub fn spawn(command: &mut Command) -> io::Result<Child> {
        let mut child = command.spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let made = Process::open(child.id() as libc::pid_t)
            .and_then(|process| Child::new(process, pipes.0, pipes.1, pipes.2));
        if made.is_err() {
            // Nobody could wait for it, but here. Killed, it does not take long.
            let _ = child.kill().and_then(|()| child.wait());
        }
        made
    }

    /// The child with this process number, which was started by something else in this process: by fork(2), or by another
    /// library.
    ///
    /// # Errors
    ///
    /// They quote `pid`: [`NotFound`](io::ErrorKind::NotFound) if there is no such process, or somebody has waited for it;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is another process's child, or 0. No descriptors left.
    pub fn from_pid(pid: u32) -> io::Result<Child> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| {
            let text = format!("process {pid} cannot be waited for: there is no such process");
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        Child::new(Process::open(pid)?, None, None, None)
    }

    fn new(
        process: Process,
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> io::Result<Child> {
        Ok(Child {
            process: Async::new_nonblocking(process)?,
            stdin: stdin.map(Async::new).transpose()?,
            stdout: stdout.map(Async::new).transpose()?,
            stderr: stderr.map(Async::new).transpose()?,
        })
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.process.get_ref().pid() as u32
    }

    /// Waits for its end. Any number of tasks may wait, and all are told, also those that come later.
    ///
    /// It does not close [`stdin`](Child::stdin), as std does: a child that waits for more input has to be told that there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`NotFound`](io::ErrorKind::NotFound) if something else in this process has waited for it (a handler of SIGCHLD
    /// that waits for all children), or if SIGCHLD is ignored, so that the system keeps no status.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time.
    pub async fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            self.process.readable().await?;
        }
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Child::wait).
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.process.get_ref().try_wait()
    }

    /// Kills it, by SIGKILL. Its end is to be waited for. If it has ended, nothing happens.
    ///
    /// # Errors
    ///
    /// `PermissionDenied`, if it runs as somebody else.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Sends it a signal: SIGTERM is what asks it to end. If it has ended, nothing happens, even when its number is
    /// another's by now. (Where there are no pidfds, nothing else in the program may wait for it at the same moment.)
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a number that is no signal; those of [`kill`](Child::kill).
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.process.get_ref().signal(signal)
    }

    /// Closes its standard input, reads all that it writes to what was piped, and waits for its end.
    ///
    /// # Errors
    ///
    /// Those of reading and of [`wait`](Child::wait).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the pipes, and what has been read is lost. The child goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::{Command, Stdio};
    /// use wakewheel::process::Child;
    ///
    /// let echo = Child::spawn(Command::new("echo").arg("hello").stdout(Stdio::piped()))?;
    /// let output = wakewheel::block_on(echo.output())?;
    /// assert!(output.status.success());
    /// assert_eq!(output.stdout, b"hello\n");
    /// # std::io::Result::Ok(())
    /// ```
    pub async fn output(mut self) -> io::Result<Output> {
        drop(self.stdin.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        {
            let mut out = pin!(read_all(self.stdout.take(), &mut stdout));
            let mut err = pin!(read_all(self.stderr.take(), &mut stderr));
            let (mut is_out, mut is_err) = (false, false);
            // Both at once: a child that may not write to the one does not go on with the other.
            poll_fn(|cx| {
                if !is_out {
                    if let Poll::Ready(result) = out.as_mut().poll(cx) {
                        result?;
                        is_out = true;
                    }
                }
                if !is_err {
                    if let Poll::Ready(result) = err.as_mut().poll(cx) {
                        result?;
                        is_err = true;
                    }
                }
                if is_out && is_err { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
            })
            .await?;
        }
        Ok(Output { status: self.wait().await?, stdout, stderr })
    }
}

/// Reaps it, if it has ended.
impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.try_wait();
    }
}

/// To its end, which comes when the last process that has it closes it.
async fn read_all<T>(pipe: Option<Async<T>>, to: &mut Vec<u8>) -> io::Result<()>
where
    Async<T>: AsyncRead,
{
    const ROOM: usize = 16 * 1024;
    let Some(mut pipe) = pipe else { return Ok(()) };
    loop {
        let len = to.len();
        to.resize(len + ROOM, 0);
        let read = poll_fn(|cx| Pin::new(&mut pipe).poll_read(cx, &mut to[len..])).await;
        to.truncate(len + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
