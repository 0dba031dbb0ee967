//! Connecting without blocking.

use super::{Async, Kind};
use crate::reactor::Direction;
use crate::sys::socket::{self, Connect};
use crate::time::Timer;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Connects `fd`, a non-blocking socket, to where `attempt` does. Dropped before it is done, it closes the socket.
///
/// A task has room for the largest future that it awaits. So this one does not keep the address as the kernel takes it,
/// which has room for a path; nor is it an `async fn`, which would keep its arguments twice.
#[allow(clippy::manual_async_fn, reason = "see above")]
pub(crate) fn connect<T>(
    fd: OwnedFd,
    attempt: impl Fn(BorrowedFd<'_>) -> io::Result<Connect>,
    kind: Kind,
) -> impl Future<Output = io::Result<Async<T>>>
where
    T: AsFd + From<OwnedFd>,
{
    async move {
        let mut pause = Duration::from_millis(1);
        let state = loop {
            match attempt(fd.as_fd()) {
                // The backlog of a Unix listener is full: there is no event for that.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    Timer::after(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                state => break state?,
            }
        };
        let io = Async::<T>::with_kind(T::from(fd), kind)?;
        if state == Connect::InProgress {
            // The fresh registration says "writable, perhaps"; the kernel knows.
            io.operation(Direction::Write, |io| socket::finish_connect(io.as_fd())).await?;
        }
        Ok(io)
    }
}
