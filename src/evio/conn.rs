//! A connection, as its callbacks see it.

use super::handle::ConnHandle;
use super::state::{self, Inner};
use super::transport::Transport;
use super::{Addr, Options, Server};
use crate::Async;
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

/// A connection, for the time of a callback. (For UDP: the datagram that has come.)
///
/// Its two fields can be used at the same time: `conn.out.extend_from_slice(&conn.context.name)`.
#[non_exhaustive]
pub struct Conn<'a, C> {
    /// What belongs to the connection. (Datagrams of one UDP socket share theirs.)
    pub context: &'a mut C,
    /// Output: what is appended is sent after the callback, before the bytes of its answer. The buffer is the loop's, and
    /// empty when the callback begins, so that a connection holds one only while the peer is slow.
    pub out: &'a mut Vec<u8>,
    pub(super) link: Link<'a>,
    pub(super) server: &'a Server<C>,
}

pub(super) enum Link<'a> {
    Stream(&'a Option<Transport>, &'a mut Inner),
    Datagram(&'a Datagram),
}

pub(super) struct Datagram {
    pub socket: Arc<Async<UdpSocket>>,
    pub from: SocketAddr,
    pub addr_index: usize,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A peer has connected. (Or has sent a datagram.)
    Accepted,
    /// [`Server::dial`].
    Dialed,
    /// [`Server::attach`].
    Attached,
}

impl<C> Conn<'_, C> {
    /// Where the connection comes from.
    pub fn origin(&self) -> Origin {
        match &self.link {
            Link::Stream(_, inner) => inner.origin,
            Link::Datagram(_) => Origin::Accepted,
        }
    }

    /// Which of the addresses that the server was given it has come by: an index into [`Server::addrs`]. `None` if it was
    /// not accepted.
    pub fn addr_index(&self) -> Option<usize> {
        match &self.link {
            Link::Stream(_, inner) => inner.addr_index(),
            Link::Datagram(datagram) => Some(datagram.addr_index),
        }
    }

    /// The address of this side, as the kernel has it.
    ///
    /// # Errors
    ///
    /// `NotConnected` if there is no connection any more, or there never was.
    pub fn local_addr(&self) -> io::Result<Addr> {
        match &self.link {
            Link::Stream(transport, _) => state::local_addr(transport),
            Link::Datagram(datagram) => datagram.socket.get_ref().local_addr().map(Addr::udp),
        }
    }

    /// The address of the other side; also after the end of the connection. That of a client of a Unix socket has no name,
    /// as a rule. `None` if it could not be dialed.
    pub fn remote_addr(&self) -> Option<Addr> {
        match &self.link {
            Link::Stream(_, inner) => inner.remote_addr(),
            Link::Datagram(datagram) => Some(Addr::udp(datagram.from)),
        }
    }

    /// Why the connection could not be dialed, or its filter failed.
    pub fn error(&self) -> Option<&io::Error> {
        match &self.link {
            Link::Stream(_, inner) => inner.error(),
            Link::Datagram(_) => None,
        }
    }

    /// Is [`data`](super::Handler::data) called because somebody has woken the connection? Then there is no input.
    pub fn is_wake(&self) -> bool {
        match &self.link {
            Link::Stream(_, inner) => inner.is_wake(),
            Link::Datagram(_) => false,
        }
    }

    /// Is this a datagram?
    pub fn is_datagram(&self) -> bool {
        matches!(self.link, Link::Datagram(_))
    }

    /// Has [`data`](super::Handler::data) called once more, with an empty input, when the output of this callback has been
    /// sent. (Nothing, for a datagram.)
    pub fn wake(&mut self) {
        if let Link::Stream(_, inner) = &mut self.link {
            inner.wake();
        }
    }

    /// Leaves the last `len` bytes of the input for the next time: they are delivered again, before what comes then, as one
    /// slice. For a message that is not complete. (Nothing, for a datagram.) If the connection is detached, its stream
    /// begins with them. A wake does not deliver them.
    ///
    /// Nothing limits how much that can become: if `input.len()` is more than a message may have, close the connection.
    ///
    /// See [`InputStream`](super::InputStream) for the way of evio, where the handler keeps them.
    ///
    /// # Panics
    ///
    /// After the callback, if the input was not as long.
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::evio::{Events, Reply};
    ///
    /// // Echoes whole lines.
    /// let events = Events::new().data(|conn, input| {
    ///     let lines = input.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    ///     conn.unread(input.len() - lines);
    ///     Reply::send(&input[..lines])
    /// });
    /// # drop(events);
    /// ```
    pub fn unread(&mut self, len: usize) {
        if let Link::Stream(_, inner) = &mut self.link {
            inner.unread(len);
        }
    }

    /// Changes the options that [`opened`](super::Handler::opened) has answered. What is not set stays as it is.
    ///
    /// # Errors
    ///
    /// What the kernel says of `tcp_keepalive` and `nodelay`; the others are set before that. `Unsupported` for datagrams.
    pub fn set_options(&mut self, options: Options) -> io::Result<()> {
        match &mut self.link {
            Link::Stream(transport, inner) => inner.set_options(transport, &options),
            Link::Datagram(_) => {
                let text = "a datagram has no options: they are for connections";
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
        }
    }

    /// The connection, for other threads and for later.
    ///
    /// # Panics
    ///
    /// If this is a datagram: [`Server::send_to`] can answer later.
    pub fn handle(&mut self) -> ConnHandle {
        match &mut self.link {
            Link::Stream(transport, inner) => inner.handle(transport, || self.server.next_id()),
            Link::Datagram(_) => panic!("a datagram has no handle: use Server::send_to to answer later"),
        }
    }

    /// A number that no other connection of this process has: that of its [handle](Conn::handle).
    ///
    /// # Panics
    ///
    /// If this is a datagram.
    pub fn id(&mut self) -> u64 {
        self.handle().id()
    }

    /// The server.
    pub fn server(&self) -> &Server<C> {
        self.server
    }
}

impl<C: fmt::Debug> fmt::Debug for Conn<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("context", &self.context)
            .field("remote_addr", &self.remote_addr())
            .finish_non_exhaustive()
    }
}
