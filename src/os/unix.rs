//! Unix systems.

use crate::reactor::fallback;
use crate::sys::Backend;
use std::os::fd::BorrowedFd;

/// The descriptor of the shared reactor: readable when there is news for what is registered there, for a loop of another
/// library that waits in poll, epoll or kqueue.
///
/// The shared reactor is driven with or without that loop, by a thread in [`block_on`](crate::block_on) or by its own: the
/// descriptor may be readable for a moment only, and there is nothing to be done about it but to poll one's futures. Nothing
/// should be registered with it, read from it, or written to it. What is made on a core, or in a
/// [`Reactor`](crate::reactor::Reactor), is not registered there. For a reactor that the other loop drives, make one, and use
/// its descriptor.
///
/// `None` if the shared reactor waits in poll(2), which has no descriptor; or if there is none yet and none can be made, for
/// want of descriptors or because of a wrong `WAKEWHEEL_BACKEND`.
///
/// # Examples
///
/// ```
/// use std::os::fd::AsRawFd;
/// use wakewheel::os::unix::reactor_fd;
///
/// if let Some(fd) = reactor_fd() {
///     println!("the shared reactor waits in descriptor {}", fd.as_raw_fd());
/// }
/// ```
pub fn reactor_fd() -> Option<BorrowedFd<'static>> {
    let poller = fallback::poller().ok()?;
    (poller.backend() != Backend::Poll).then(|| poller.as_fd())
}
