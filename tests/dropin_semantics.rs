//! What programs written for async-io rely on, beyond names and types. The rest of it is in `auto_traits.rs`, `block_on.rs`,
//! `io.rs` and `time.rs`; async-io's own tests, and those of its friends, run by `tests/dropin/run`.

mod common;

use common::{run, tcp_pair};
use futures_lite::future::poll_once;
use futures_lite::{AsyncReadExt, AsyncWriteExt, StreamExt};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};
use wakewheel::{Async, IoSafe, Timer};

/// Nobody turns the reactor between the event and the poll.
#[test]
fn a_read_is_tried_whenever_it_is_polled() {
    fn read<T>((ours, mut theirs): (T, impl Write)) -> io::Result<()>
    where
        T: AsFd + IoSafe + Read,
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
        T: AsFd + IoSafe + Read + Write,
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

/// Who waits to hear of it does, though somebody else was quicker than the reactor.
#[test]
fn an_event_that_a_read_was_quicker_than_is_one_to_others() {
    let (stream, mut theirs) = UnixStream::pair().unwrap();
    let stream = Async::new(stream).unwrap();
    let (socket, peer) = UnixDatagram::pair().unwrap();
    let socket = Async::new(socket).unwrap();
    run(async {
        let mut buf = [0; 1];
        assert!(poll_once((&stream).read(&mut buf)).await.is_none());
        let mut readable = stream.readable();
        assert!(poll_once(&mut readable).await.is_none());
        theirs.write_all(b"x")?;
        assert_eq!(poll_once((&stream).read(&mut buf)).await.expect("it is there")?, 1);
        readable.await?;

        assert!(poll_once(socket.recv(&mut buf)).await.is_none());
        let mut readable = socket.readable();
        assert!(poll_once(&mut readable).await.is_none());
        peer.send(b"x")?;
        assert_eq!(poll_once(socket.recv(&mut buf)).await.expect("it is there")?, 1);
        readable.await
    });
}

/// Level-triggered, whoever reads, and how much.
#[test]
fn what_was_left_by_a_partial_read_is_readable() {
    let (ours, mut theirs) = tcp_pair();
    let mut ours = Async::new(ours).unwrap();
    run(async {
        theirs.write_all(b"abc")?;
        let mut byte = [0];
        ours.read_exact(&mut byte).await?;
        ours.readable().await?;
        assert_eq!(ours.get_ref().read(&mut byte)?, 1);
        ours.readable().await?;
        poll_fn(|cx| ours.poll_readable(cx)).await?;
        assert_eq!(ours.read(&mut byte).await?, 1);
        assert_eq!(byte, *b"c");
        assert!(poll_once(ours.readable()).await.is_none());
        Ok(())
    });
}

#[test]
fn to_close_only_flushes() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut ours, mut theirs) = (Async::new(ours).unwrap(), Async::new(theirs).unwrap());
    run(async {
        ours.write_all(b"a").await?;
        ours.close().await?;
        ours.write_all(b"b").await?;
        let mut buf = [0; 2];
        theirs.read_exact(&mut buf).await?;
        assert!(poll_once(theirs.read(&mut buf)).await.is_none(), "not the end");
        Ok(())
    });
}

#[test]
fn a_timer_is_a_stream_that_never_ends() {
    run(async {
        let at = Instant::now();
        let mut timer = Timer::at(at);
        assert_eq!(timer.next().await, Some(at));
        assert!(poll_once(timer.next()).await.is_none());
        assert!(!timer.will_fire());
        timer.set_at(at);
        assert!(timer.will_fire());
        assert_eq!((&mut timer).await, at);
        Ok(())
    });
}

/// Also while the thread that would turn the reactor does not come back from this poll.
#[test]
fn a_timer_is_ready_when_its_moment_has_passed() {
    common::in_a_process_of_its_own("a_timer_is_ready_when_its_moment_has_passed", || {
        wakewheel::block_on(async {
            let at = Instant::now() + Duration::from_millis(2);
            let mut timer = Timer::at(at);
            assert!(poll_once(&mut timer).await.is_none());
            while Instant::now() < at {
                std::thread::yield_now();
            }
            assert_eq!(poll_once(&mut timer).await, Some(at));
        });
    });
}

/// As D-Bus clients do it.
#[test]
fn descriptors_come_in_messages_that_are_read_through_get_ref() {
    let (ours, theirs) = Async::<UnixStream>::pair().unwrap();
    let (mut near, far) = UnixStream::pair().unwrap();
    run(async {
        let mut buf = [0; 8];
        for _ in 0..3 {
            let mut readable = poll_fn(|cx| ours.poll_readable(cx));
            assert!(poll_once(&mut readable).await.is_none());
            theirs.send_fds(b"here", &[far.as_fd()]).await?;
            readable.await?;
            let (n, fds) = ours.recv_fds(&mut buf, 1).await?;
            assert_eq!((n, fds.len()), (4, 1));
            let mut far = UnixStream::from(fds.into_iter().next().unwrap());
            near.write_all(b"x")?;
            far.read_exact(&mut buf[..1])?;
        }
        Ok(())
    });
}

/// What others wrap, whose rules are not known here.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use super::*;
    use std::fs::File;
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::process::{Command, Stdio};

    fn owned(fd: i64) -> OwnedFd {
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the kernel has made it just now, for nobody else.
        unsafe { OwnedFd::from_raw_fd(fd as i32) }
    }

    #[test]
    fn a_pidfd_is_readable_once_its_process_has_exited() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        // SAFETY: no pointers.
        let fd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) });
        let fd = Async::new(fd).unwrap();
        run(async {
            assert!(poll_once(fd.readable()).await.is_none());
            child.kill()?;
            fd.readable().await?;
            fd.readable().await
        });
        child.wait().unwrap();
    }

    #[test]
    fn a_timerfd_that_is_drained_is_waited_for_again() {
        // SAFETY: no pointers.
        let fd = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK) }.into());
        let period = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        let spec = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: `spec` is valid for reads; null is allowed.
        unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &spec, std::ptr::null_mut()) };
        let mut timer = Async::new(File::from(fd)).unwrap();
        run(async {
            let mut count = [0; 8];
            for _ in 0..3 {
                timer.read_exact(&mut count).await?;
                assert_ne!(u64::from_ne_bytes(count), 0);
                timer.readable().await?;
                timer.read_with(|mut file| file.read(&mut count)).await?;
            }
            Ok(())
        });
    }

    #[test]
    fn inotify_tells_of_a_file() {
        let dir = common::dir::Dir::new("inotify");
        // SAFETY: no pointers.
        let fd = owned(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) }.into());
        let path = std::ffi::CString::new(dir.path("").into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path ends with a zero.
        assert!(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), libc::IN_CREATE) } >= 0);
        let mut inotify = Async::new(File::from(fd)).unwrap();
        run(async {
            let mut events = [0; 1024];
            for name in ["a", "b"] {
                let mut read = inotify.read(&mut events);
                assert!(poll_once(&mut read).await.is_none());
                File::create(dir.path(name))?;
                assert_ne!(read.await?, 0);
            }
            Ok(())
        });
    }
}
