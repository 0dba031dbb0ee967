//! What programs written for async-io rely on, beyond names and types. The rest of it is in `auto_traits.rs`, `block_on.rs`,
//! `io.rs` and `time.rs`; async-io's own tests, and those of its friends, run by `tests/dropin/run`.

mod common;

use common::{run, tcp_pair};
use futures_lite::future::poll_once;
use futures_lite::{AsyncReadExt, AsyncWriteExt, StreamExt};
use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use wakewheel::Async;

/// Nobody turns the reactor between the event and the poll.
#[test]
fn a_read_is_tried_whenever_it_is_polled() {
    fn read<T>((ours, mut theirs): (T, impl Write)) -> io::Result<()>
    where
        T: std::os::fd::AsFd + wakewheel::IoSafe + Read,
    {
        let mut ours = Async::new(ours)?;
        let mut buf = [0; 8];
        run(async {
            for _ in 0..3 {
                let mut read = ours.read(&mut buf);
                assert!(poll_once(&mut read).await.is_none());
                theirs.write_all(b"ab")?;
                assert_eq!(poll_once(&mut read).await.expect("it is there")?, 2);
                // The same in a future of its own.
                assert!(poll_once(ours.read(&mut buf)).await.is_none());
                theirs.write_all(b"abc")?;
                assert_eq!(poll_once(ours.read(&mut buf)).await.expect("it is there")?, 3);
            }
            Ok(())
        });
        Ok(())
    }
    read(tcp_pair()).unwrap();
    read(UnixStream::pair().unwrap()).unwrap();
}

#[test]
fn a_write_is_tried_whenever_it_is_polled() {
    fn write<T>((ours, mut theirs): (T, T)) -> io::Result<()>
    where
        T: std::os::fd::AsFd + wakewheel::IoSafe + Read + Write,
        for<'a> &'a T: Write,
    {
        let mut ours = Async::new(ours)?;
        let full = vec![1; 1 << 20];
        run(async {
            let mut sent = 0;
            while let Some(n) = poll_once(ours.write(&full)).await {
                sent += n?;
            }
            let mut write = ours.write(&full);
            assert!(poll_once(&mut write).await.is_none());
            let mut room = vec![0; 1 << 20];
            while poll_once(&mut write).await.is_none() {
                assert_ne!(sent, 0, "all is read, and there is no room");
                sent -= theirs.read(&mut room)?;
            }
            Ok(())
        });
        Ok(())
    }
    write(tcp_pair()).unwrap();
    write(UnixStream::pair().unwrap()).unwrap();
}

#[test]
fn a_connection_is_accepted_and_read_whenever_that_is_polled() {
    run(async {
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
        let addr = listener.get_ref().local_addr()?;
        assert!(poll_once(listener.accept()).await.is_none());
        let _client = TcpStream::connect(addr)?;
        poll_once(listener.accept()).await.expect("it is there")?;

        let mut accept = Box::pin(listener.accept());
        assert!(poll_once(&mut accept).await.is_none());
        let mut client = TcpStream::connect(addr)?;
        client.write_all(b"hello")?;
        let (mut server, _) = poll_once(&mut accept).await.expect("it is there")?;
        assert_eq!(poll_once(server.read(&mut [0; 8])).await.expect("it is there")?, 5);

        let mut incoming = Box::pin(listener.incoming());
        assert!(poll_once(incoming.next()).await.is_none());
        let _client = TcpStream::connect(addr)?;
        poll_once(incoming.next()).await.expect("it is there").unwrap()?;
        Ok(())
    });
}

#[test]
fn a_datagram_is_received_whenever_that_is_polled() {
    run(async {
        let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?;
        let addr = socket.get_ref().local_addr()?;
        let peer = UdpSocket::bind("127.0.0.1:0")?;
        let mut buf = [0; 8];
        assert!(poll_once(socket.recv_from(&mut buf)).await.is_none());
        peer.send_to(b"ab", addr)?;
        assert_eq!(poll_once(socket.peek_from(&mut buf)).await.expect("it is there")?.0, 2);
        assert_eq!(poll_once(socket.recv(&mut buf)).await.expect("it is there")?, 2);
        let mut recv = Box::pin(socket.recv_from(&mut buf));
        assert!(poll_once(&mut recv).await.is_none());
        peer.send_to(b"abc", addr)?;
        assert_eq!(poll_once(&mut recv).await.expect("it is there")?.0, 3);

        let (ours, theirs) = UnixDatagram::pair()?;
        let ours = Async::new(ours)?;
        assert!(poll_once(ours.recv(&mut [0; 8])).await.is_none());
        theirs.send(b"ab")?;
        assert_eq!(poll_once(ours.recv(&mut [0; 8])).await.expect("it is there")?, 2);
        Ok(())
    });
}

/// What a closure waits for may be something else than the descriptor: another task's work on a session that they share.
#[test]
fn a_closure_is_called_again_in_every_poll() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut ours = Async::new(ours).unwrap();
    let calls = Cell::new(0);
    let done = Cell::new(false);
    let op = || {
        calls.set(calls.get() + 1);
        if done.get() { Ok(calls.get()) } else { Err(ErrorKind::WouldBlock.into()) }
    };
    run(async {
        let mut with = Box::pin(ours.read_with(|_| op()));
        for n in 1..4 {
            assert!(poll_once(&mut with).await.is_none());
            assert_eq!(calls.get(), n);
        }
        done.set(true);
        assert_eq!(poll_once(&mut with).await.expect("it is called")?, 4);
        drop(with);

        // A socket with room to write is ready, and the closure is asked at once.
        done.set(false);
        // SAFETY: nothing is replaced.
        let mut with = Box::pin(unsafe { ours.write_with_mut(|_| op()) });
        assert!(poll_once(&mut with).await.is_none());
        done.set(true);
        poll_once(&mut with).await.expect("it is called")?;
        drop(with);

        // An interruption is the closure's affair.
        let interrupted = ours.read_with(|_| Err::<(), _>(ErrorKind::Interrupted.into())).await;
        assert_eq!(interrupted.unwrap_err().kind(), ErrorKind::Interrupted);
        theirs.write_all(b"x")?;
        assert_eq!(ours.read_with(|mut stream| stream.read(&mut [0; 8])).await?, 1);
        Ok(())
    });
}
