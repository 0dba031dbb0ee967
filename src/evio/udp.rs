//! Datagrams under callbacks.

use super::addr::mapped;
use super::conn::{Datagram, Link};
use super::serve::{Hands, Loop};
use super::{Action, Conn, Handler, Reply};
use crate::Async;
use crate::io::RecvBatch;
use crate::{sleep, spawn_local};
use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// So many datagrams are received at a time.
const BATCH: usize = 16;
/// From an error to the next try.
const PAUSE: Duration = Duration::from_millis(1);
/// As long as a datagram can be.
const LEN_MAX: usize = 64 * 1024;

/// Serves one UDP socket, which belongs to this loop.
pub(super) async fn serve_udp<H: Handler>(lp: Rc<Loop<H>>, socket: Arc<Async<UdpSocket>>, addr_index: usize) {
    let mut context = match catch_unwind(H::Context::default) {
        Ok(context) => context,
        Err(payload) => {
            // There is nothing that it could serve, and nobody would know.
            let text = format!("the context of the datagrams of address {addr_index} has panicked");
            lp.server.inner().fail(io::Error::other(text));
            resume_unwind(payload);
        }
    };
    let mut batch = RecvBatch::new(BATCH, LEN_MAX);
    loop {
        match socket.recv_batch(&mut batch).await {
            Ok(_) => {}
            Err(e) if is_fatal(&e) => return lp.server.inner().fail(e),
            Err(_) => {
                // Of a datagram sent before, whose receiver is not there: nothing to us. Or the system is short of something.
                sleep(PAUSE).await;
                continue;
            }
        }
        for received in batch.iter() {
            let datagram = Datagram { socket: socket.clone(), from: received.from, addr_index };
            let answer = catch_unwind(AssertUnwindSafe(|| {
                let Hands { handler, out, .. } = &mut *lp.hands.borrow_mut();
                let link = Link::Datagram(&datagram);
                let conn = &mut Conn { context: &mut context, out, link, server: &lp.server };
                let Reply { output, action } = handler.data(conn, received.bytes);
                out.extend_from_slice(&output);
                (mem::take(out), action)
            }));
            let (mut out, action) = match answer {
                Ok(answer) => answer,
                Err(payload) => {
                    lp.hands.borrow_mut().out.clear();
                    // A task that panics is what the executor has its rules for. The next datagram is another one.
                    spawn_local(async { resume_unwind(payload) }).detach();
                    continue;
                }
            };
            if !out.is_empty() {
                // What cannot be sent is lost, as datagrams are.
                let _ = socket.send_to(&out, received.from).await;
                out.clear();
                lp.hands.borrow_mut().out = out;
            }
            if action == Action::Shutdown {
                return lp.server.stop();
            }
            if lp.stopping.get() {
                return;
            }
        }
    }
}

/// Sends one datagram at once, or not at all.
pub(super) fn send_to(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
    // Not every system takes an IPv4 address on a socket for both versions.
    let to = if socket.local_addr()?.is_ipv6() { mapped(to) } else { to };
    socket.send_to(bytes, to)
}

fn is_fatal(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK))
}
