//! A port where nobody listens.

use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;

/// A port that is taken, though nobody listens: to connect is refused, and nobody else gets it. `listen` makes a listener of it.
pub fn taken_port() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}
