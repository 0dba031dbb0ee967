//! Datagrams under callbacks.

use super::conn::{Datagram, Link};
use super::serve::{Hands, Loop};
use super::{Action, Conn, Handler, Reply};
use crate::Async;
use std::io;
use std::mem;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;

/// One UDP socket, which belongs to this loop.
pub(super) async fn serve_udp<H: Handler>(lp: Rc<Loop<H>>, socket: Arc<Async<UdpSocket>>, addr_index: usize) {
    let mut context = H::Context::default();
    // The largest datagram that there is.
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(e) if is_fatal(&e) => return lp.server.inner().fail(e),
            // Of a datagram sent before: its receiver is not there. That is nothing to us.
            Err(_) => continue,
        };
        let datagram = Datagram { socket: socket.clone(), from, addr_index };
        let mut out = Vec::new();
        let action = {
            let Hands { handler, out: lent, .. } = &mut *lp.hands.borrow_mut();
            let link = Link::Datagram(&datagram);
            let conn = &mut Conn { context: &mut context, out: lent, link, server: &lp.server };
            let Reply { output, action } = handler.data(conn, &buffer[..len]);
            mem::swap(&mut out, lent);
            out.extend_from_slice(&output);
            action
        };
        if !out.is_empty() {
            // What cannot be sent is lost, as datagrams are.
            let _ = socket.send_to(&out, from).await;
            out.clear();
            lp.hands.borrow_mut().out = out;
        }
        if action == Action::Shutdown {
            return lp.server.stop();
        }
    }
}

fn is_fatal(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK))
}
