//! Connecting without blocking.

use super::{Async, Kind};
use crate::reactor::Direction;
use crate::sys::addr::SockAddr;
use crate::sys::socket::{self, Connect};
use crate::time::Timer;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Connects `fd`, a non-blocking socket. Dropped before it is done, it closes the socket.
pub(crate) async fn connect<T>(fd: OwnedFd, addr: SockAddr, kind: Kind) -> io::Result<Async<T>>
where
    T: AsFd + From<OwnedFd>,
{
    let mut pause = Duration::from_millis(1);
    let state = loop {
        match socket::connect(fd.as_fd(), &addr) {
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
