//! What is known of a type, and so which shortcuts its operations may take.

use crate::sys::option;
use std::any::TypeId;
use std::marker::PhantomData;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A TCP stream: an operation that moves fewer bytes than it could has met the end of the kernel's queue.
    Tcp,
    /// Another socket of std's: only "would block" says that. (A read from a Unix stream also stops where a message
    /// with descriptors begins.)
    Socket,
    /// Anything else: whatever its `Read` does, only the kernel is believed.
    Unknown,
}

impl Kind {
    /// Its `Read` is recv(2), and its `Write` send(2).
    #[inline]
    pub fn is_socket(self) -> bool {
        self != Kind::Unknown
    }

    pub fn of<T>(fd: BorrowedFd<'_>) -> Kind {
        if is::<T, TcpStream>() {
            // A `TcpStream` can be made of any descriptor.
            if option::is_tcp(fd) { Kind::Tcp } else { Kind::Socket }
        } else if is::<T, TcpListener>()
            || is::<T, UdpSocket>()
            || is::<T, UnixStream>()
            || is::<T, UnixListener>()
            || is::<T, UnixDatagram>()
        {
            Kind::Socket
        } else {
            Kind::Unknown
        }
    }
}

/// Is `T` the type `U`? `T` may have lifetimes in it, for which `TypeId::of` cannot be asked.
fn is<T, U: 'static>() -> bool {
    trait Identify {
        fn identify(&self) -> TypeId
        where
            Self: 'static;
    }
    impl<T> Identify for PhantomData<T> {
        fn identify(&self) -> TypeId
        where
            Self: 'static,
        {
            TypeId::of::<T>()
        }
    }
    let marker = PhantomData::<T>;
    let marker: &(dyn Identify + '_) = &marker;
    // SAFETY: only the lifetime bound of the trait object changes. The marker holds nothing, so nothing is reached
    // through a lifetime that is too long, and the reference does not leave this function. Where `T` has lifetimes, the
    // identity is that of `T` with all of them 'static; `U` has none, so it is equal only to itself.
    let marker = unsafe { std::mem::transmute::<&(dyn Identify + '_), &(dyn Identify + 'static)>(marker) };
    marker.identify() == TypeId::of::<U>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_recognised_only_as_itself() {
        fn with_lifetime<'a>(_: &'a TcpStream) -> bool {
            is::<&'a TcpStream, TcpStream>()
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(is::<TcpStream, TcpStream>());
        assert!(!is::<UnixStream, TcpStream>());
        assert!(!is::<std::io::BufReader<TcpStream>, TcpStream>());
        assert!(!with_lifetime(&stream));
    }
}
