//! UDP.

use super::Async;
use crate::reactor::Direction;
use std::io;
use std::net::{SocketAddr, UdpSocket};

impl Async<UdpSocket> {
    /// A socket on `addr` (port 0: any). For options that must be set before binding, see
    /// [`SocketOptions`](crate::io::SocketOptions).
    ///
    /// # Errors
    ///
    /// What the kernel says: `AddrInUse`, `PermissionDenied`, … The address is not in it, as in std;
    /// [`SocketOptions::bind_udp`](crate::io::SocketOptions::bind_udp) names it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use wakewheel::Async;
    ///
    /// wakewheel::block_on(async {
    ///     let a = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
    ///     let b = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
    ///     a.send_to(b"hello", b.get_ref().local_addr()?).await?;
    ///     let mut buf = [0; 16];
    ///     let (n, from) = b.recv_from(&mut buf).await?;
    ///     assert_eq!((&buf[..n], from), (&b"hello"[..], a.get_ref().local_addr()?));
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind<A: Into<SocketAddr>>(addr: A) -> io::Result<Async<UdpSocket>> {
        Async::new(UdpSocket::bind(addr.into())?)
    }

    /// Receives one datagram. What does not fit into `buf` is lost. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// What the kernel says; on a connected socket also `ConnectionRefused`, for an earlier datagram.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.operation(Direction::Read, |socket| socket.recv_from(buf)).await
    }

    /// [`recv_from`](Async::<UdpSocket>::recv_from), leaving the datagram where it is.
    ///
    /// # Errors
    ///
    /// Those of [`recv_from`](Async::<UdpSocket>::recv_from).
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.operation(Direction::Read, |socket| socket.peek_from(buf)).await
    }

    /// Sends one datagram to `addr`. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// What the kernel says: a datagram that is too long, no route, …
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: it was sent, or not.
    pub async fn send_to<A: Into<SocketAddr>>(&self, buf: &[u8], addr: A) -> io::Result<usize> {
        let addr = addr.into();
        self.operation(Direction::Write, |socket| socket.send_to(buf, addr)).await
    }

    /// Receives one datagram from the peer that `get_ref().connect` chose. What does not fit into `buf` is lost.
    ///
    /// # Errors
    ///
    /// What the kernel says; also `ConnectionRefused`, for an earlier datagram.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.operation(Direction::Read, |socket| socket.recv(buf)).await
    }

    /// [`recv`](Async::<UdpSocket>::recv), leaving the datagram where it is.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Async::<UdpSocket>::recv).
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: no datagram is lost.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.operation(Direction::Read, |socket| socket.peek(buf)).await
    }

    /// Sends one datagram to the peer that `get_ref().connect` chose.
    ///
    /// # Errors
    ///
    /// What the kernel says; also `ConnectionRefused`, for an earlier datagram.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time: it was sent, or not.
    pub async fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.operation(Direction::Write, |socket| socket.send(buf)).await
    }
}

impl TryFrom<UdpSocket> for Async<UdpSocket> {
    type Error = io::Error;

    fn try_from(socket: UdpSocket) -> io::Result<Self> {
        Async::new(socket)
    }
}
