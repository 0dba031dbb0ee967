//! Which types may be read and written through `&mut`.

use std::borrow::Cow;
use std::fs::File;
use std::io::{
    BufReader, BufWriter, LineWriter, Read, Stderr, StderrLock, Stdin, StdinLock, Stdout, StdoutLock, Write,
};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{ChildStderr, ChildStdin, ChildStdout};

/// Types whose `Read` and `Write` leave the descriptor in place.
///
/// [`Async<T>`](crate::Async) hands `&mut T` to them, and relies on the descriptor that it registered.
///
/// # Safety
///
/// Neither `Read` nor `Write` may drop, close or replace the type's descriptor.
pub unsafe trait IoSafe {}

macro_rules! io_safe {
    ($($(#[$why:meta])* $type:ty),* $(,)?) => {
        // SAFETY: std's `Read` and `Write` for these types only make the system call.
        $($(#[$why])* unsafe impl IoSafe for $type {})*
    };
}

io_safe! {
    File, Stdin, Stdout, Stderr, StdinLock<'_>, StdoutLock<'_>, StderrLock<'_>,
    TcpStream, UnixStream, ChildStdin, ChildStdout, ChildStderr,
}

// Where the compiler has them: from Rust 1.87 on.
#[cfg(wakewheel_std_pipe)]
#[allow(clippy::incompatible_msrv)]
mod pipe {
    use super::IoSafe;
    io_safe!(std::io::PipeReader, std::io::PipeWriter);
}

// SAFETY: nothing can be replaced through a shared reference.
unsafe impl<T: ?Sized> IoSafe for &T {}
// SAFETY: they read and write through the inner type, which keeps its promise.
unsafe impl<T: IoSafe + Read> IoSafe for BufReader<T> {}
// SAFETY: as above.
unsafe impl<T: IoSafe + Write> IoSafe for BufWriter<T> {}
// SAFETY: as above.
unsafe impl<T: IoSafe + Write> IoSafe for LineWriter<T> {}
// SAFETY: as above.
unsafe impl<T: IoSafe + ?Sized> IoSafe for &mut T {}
// SAFETY: as above.
unsafe impl<T: IoSafe + ?Sized> IoSafe for Box<T> {}
// SAFETY: as above.
unsafe impl<T: IoSafe + Clone> IoSafe for Cow<'_, T> {}
