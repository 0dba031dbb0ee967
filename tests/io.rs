//! `Async<T>` and the socket types, as their users meet them: ends and errors, back-pressure, many tasks, level and
//! cancel semantics, and what happens when there are no descriptors left.

mod common;

use common::dir::Dir;
use common::port::taken_port;
use common::{PATIENCE, Wakes, in_a_process_of_its_own, poll, run, tcp_pair, within};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt, future};
use std::cell::Cell;
use std::fs::File;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::io::{Listener, RecvBatch, SocketOptions};
use wakewheel::{Async, IoSafe, LocalExecutor, block_on, sleep, spawn_local};

const LOCALHOST: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// The same test for TCP and for Unix sockets, with two connected ends.
macro_rules! with_tcp_and_unix {
    ($($(#[$attribute:meta])* fn $name:ident($($a:ident)+, $($b:ident)+) $test:block)+) => {
        $($(#[$attribute])*
        #[test]
        fn $name() {
            println!("TCP");
            let (a, b) = tcp_pair();
            let ($($a)+, $($b)+) = (Async::new(a).unwrap(), Async::new(b).unwrap());
            run(async { $test Ok(()) });
            println!("Unix");
            let ($($a)+, $($b)+) = Async::<UnixStream>::pair().unwrap();
            run(async { $test Ok(()) });
        })+
    };
}

/// The error of what has to fail because a socket was closed. Not at once, if another test is starting a child just now,
/// which has a copy of the socket for a moment.
async fn error_of<T, F: Future<Output = io::Result<T>>>(mut attempt: impl FnMut() -> F) -> io::Error {
    loop {
        match attempt().await {
            Ok(_) => future::yield_now().await,
            Err(e) => return e,
        }
    }
}

/// The bytes from number `from` on of every long transfer.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    let mut bytes = (0..251).collect::<Vec<u8>>().repeat(len / 251 + 2);
    bytes.drain(..from % 251);
    bytes.truncate(len);
    bytes
}

/// Writes so many bytes of the pattern, in pieces of many sizes.
async fn write_pattern(mut to: impl AsyncWrite + Unpin, len: usize) -> io::Result<()> {
    let (mut sent, mut piece) = (0, 1);
    while sent < len {
        piece = piece * 3 % 300_007;
        let n = piece.min(len - sent);
        to.write_all(&pattern(sent, n)).await?;
        sent += n;
    }
    Ok(())
}

/// Reads as many, and checks each.
async fn read_pattern(mut from: impl AsyncRead + Unpin, len: usize) -> io::Result<()> {
    let (mut buf, mut received, mut room) = (vec![0; 70_000], 0, 1);
    while received < len {
        room = room * 5 % 69_997;
        let n = from.read(&mut buf[..room.min(len - received)]).await?;
        assert_ne!(n, 0, "the end after {received} of {len} bytes");
        assert!(buf[..n] == pattern(received, n), "wrong bytes after {received}");
        received += n;
    }
    Ok(())
}

/// The output, if it does not have to be waited for.
fn now<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Writes until there is no room, and the kernel has moved what it can to the other end. Returns how much that was.
async fn fill<T>(stream: &Async<T>) -> io::Result<usize>
where
    for<'a> &'a T: Write,
{
    let mut sent = 0;
    loop {
        match stream.get_ref().write(&[0; 10_000]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if wakewheel::timeout(Duration::from_millis(20), stream.writable()).await.is_err() {
                    return Ok(sent);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

/// Closes with a reset.
fn reset(stream: impl Into<OwnedFd>) {
    let fd = stream.into();
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: `linger` is valid for reads of its length.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}

/// The two ends of a pipe: one to read from, one to write to.
fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: there is room for both descriptors, which are ours alone.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1]))
    }
}

// ------------------------------------------------------------------------------------- ends and errors

with_tcp_and_unix! {
    fn the_end_comes_after_all_bytes_and_stays(mut a, mut b) {
        b.write_all(b"all of it").await?;
        drop(b);
        let mut text = String::new();
        a.read_to_string(&mut text).await?;
        assert_eq!(text, "all of it");
        assert_eq!(a.read(&mut [0; 8]).await?, 0);
    }

    fn a_reader_who_waits_is_told_of_the_end(mut a, b) {
        let mut buf = [0; 8];
        let mut read = a.read(&mut buf);
        assert!(future::poll_once(&mut read).await.is_none());
        drop(b);
        assert_eq!(read.await?, 0);
    }

    fn after_a_half_close_the_other_direction_goes_on(mut a, mut b) {
        a.write_all(b"question").await?;
        a.shutdown(Shutdown::Write)?;
        let mut text = String::new();
        b.read_to_string(&mut text).await?;
        assert_eq!(text, "question");
        b.write_all(b"answer").await?;
        let mut buf = [0; 6];
        a.read_exact(&mut buf).await?;
        assert_eq!(&buf, b"answer");
        assert_eq!(a.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    fn to_shut_down_the_own_reading_side_ends_a_read_that_waits(a, _b) {
        let (mut reader, mut buf) = (&a, [0; 8]);
        let mut read = reader.read(&mut buf);
        assert!(future::poll_once(&mut read).await.is_none());
        a.shutdown(Shutdown::Read)?;
        assert_eq!(read.await?, 0);
    }

    fn to_shut_down_both_sides_ends_a_write_that_waits(a, b) {
        // (A Unix socket's own writing side alone does not: its kernel does not count that as an event.)
        let mut writer = &a;
        let mut write = pin!(async move { writer.write_all(&vec![0; 64 << 20]).await });
        assert!(future::poll_once(write.as_mut()).await.is_none());
        a.shutdown(Shutdown::Both)?;
        assert_eq!(write.await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        drop(b);
    }

    fn to_close_the_async_writer_only_flushes(mut a, mut b) {
        a.close().await?;
        a.write_all(b"still there").await?;
        let mut buf = [0; 11];
        b.read_exact(&mut buf).await?;
        assert_eq!(&buf, b"still there");
    }

    fn a_peer_that_goes_ends_a_write_that_waits(mut a, b) {
        let mut write = pin!(async move { a.write_all(&vec![0; 64 << 20]).await });
        assert!(future::poll_once(write.as_mut()).await.is_none());
        // With unread data.
        drop(b);
        let kind = write.await.unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
    }

    fn a_peer_that_goes_with_unread_data_resets(mut a, b) {
        a.write_all(b"unread").await?;
        b.readable().await?;
        let mut buf = [0; 8];
        let mut read = a.read(&mut buf);
        assert!(future::poll_once(&mut read).await.is_none());
        drop(b);
        assert_eq!(read.await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(a.read(&mut [0; 8]).await?, 0, "the error is told once");
    }
}

/// The writer closes, on another thread, as soon as it has written.
fn close_right_after_the_last_byte<T>(pair: impl Fn() -> (Async<T>, Async<T>))
where
    T: IoSafe + Read + Write + Send + 'static,
{
    for round in 0..200 {
        let len = 1 + round * 997;
        let (mut a, b) = pair();
        let writer = thread::spawn(move || run(write_pattern(b, len)));
        run(async {
            read_pattern(&mut a, len).await?;
            assert_eq!(a.read(&mut [0; 8]).await?, 0);
            Ok(())
        });
        writer.join().unwrap();
    }
}

#[test]
fn a_tcp_close_right_after_the_last_byte_loses_nothing() {
    close_right_after_the_last_byte(|| {
        let (a, b) = tcp_pair();
        (Async::new(a).unwrap(), Async::new(b).unwrap())
    });
}

#[test]
fn a_unix_close_right_after_the_last_byte_loses_nothing() {
    close_right_after_the_last_byte(|| Async::<UnixStream>::pair().unwrap());
}

#[test]
fn to_shut_down_the_own_tcp_writing_side_ends_a_write_that_waits() {
    run(async {
        let (a, _b) = tcp_pair();
        let a = Async::new(a)?;
        let mut write = pin!(async { (&a).write_all(&vec![0; 64 << 20]).await });
        assert!(future::poll_once(write.as_mut()).await.is_none());
        a.shutdown(Shutdown::Write)?;
        assert_eq!(write.await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        Ok(())
    });
}

#[test]
fn a_reset_wakes_reader_writer_and_watcher() {
    run(async {
        let (a, b) = tcp_pair();
        let a = Async::new(a)?;
        let (mut reader, mut writer) = (&a, &a);
        let read = async { Ok(reader.read(&mut [0; 8]).await) };
        let write = async { Ok(writer.write_all(&vec![0; 64 << 20]).await) };
        let reset = async {
            // By now the others wait.
            sleep(Duration::from_millis(5)).await;
            reset(b);
            Ok(())
        };
        let ((read, write), ((), ())) =
            future::try_zip(future::try_zip(read, write), future::try_zip(a.closed(), reset)).await?;
        // The first of them gets the error, the other its consequence.
        let kinds = [read.map_or_else(|e| e.kind(), |_| ErrorKind::UnexpectedEof), write.unwrap_err().kind()];
        assert!(kinds.contains(&ErrorKind::ConnectionReset), "{kinds:?}");
        io::Result::Ok(())
    });
}

// --------------------------------------------------------------------------------------- back-pressure

with_tcp_and_unix! {
    fn megabytes_arrive_in_order_however_slow_the_reader(a, b) {
        const LEN: usize = 8 << 20;
        let slow_reader = async {
            // The writer has long filled all buffers.
            sleep(Duration::from_millis(5)).await;
            read_pattern(&a, LEN).await
        };
        future::try_zip(write_pattern(&b, LEN), slow_reader).await?;
    }

    fn both_directions_are_full_at_the_same_time(a, b) {
        const LEN: usize = 4 << 20;
        let one = future::try_zip(write_pattern(&a, LEN), read_pattern(&a, LEN));
        let other = future::try_zip(write_pattern(&b, LEN), read_pattern(&b, LEN));
        future::try_zip(one, other).await?;
    }

    fn a_writer_waits_while_there_is_no_room(mut a, mut b) {
        let sent = fill(&a).await?;
        let mut writable = a.writable();
        assert!(future::poll_once(&mut writable).await.is_none(), "there is no room");
        let mut all = vec![0; sent];
        b.read_exact(&mut all).await?;
        writable.await?;
        assert_ne!(a.write(&[1; 10_000]).await?, 0);
    }

    fn vectored_reads_and_writes_use_all_buffers(mut a, mut b) {
        let slices = [IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two"), IoSlice::new(b"three")];
        assert_eq!(a.write_vectored(&slices).await?, 11);
        let (mut first, mut second, mut third) = ([0; 2], [0; 5], [0; 20]);
        let mut bufs = [&mut first[..], &mut second, &mut third].map(IoSliceMut::new);
        assert_eq!(b.read_vectored(&mut bufs).await?, 11);
        assert_eq!((&first, &second, &third[..4]), (b"on", b"etwot", &b"hree"[..]));
        // And it waits like any other read.
        assert!(future::poll_once(b.read_vectored(&mut [IoSliceMut::new(&mut [0; 4])])).await.is_none());
        a.write_all(b"more").await?;
        let (mut left, mut right) = ([0; 2], [0; 2]);
        let n = b.read_vectored(&mut [IoSliceMut::new(&mut left), IoSliceMut::new(&mut right)]).await?;
        assert_eq!((n, &left, &right), (4, b"mo", b"re"));
    }

    fn vectored_writes_of_megabytes_arrive(mut a, b) {
        const LEN: usize = 6 << 20;
        let data = pattern(0, LEN);
        let write = async {
            let mut sent = 0;
            while sent < LEN {
                let (left, right) = data[sent..].split_at((LEN - sent) / 2);
                sent += a.write_vectored(&[IoSlice::new(left), IoSlice::new(right)]).await?;
            }
            Ok(())
        };
        future::try_zip(write, read_pattern(&b, LEN)).await?;
    }
}

// ------------------------------------------------------------------------------------------ many tasks

with_tcp_and_unix! {
    fn one_task_reads_while_another_writes(a, b) {
        let (mut a_reader, mut a_writer) = (&a, &a);
        let echo = async {
            let mut buf = [0; 100];
            loop {
                let n = (&b).read(&mut buf).await?;
                if n == 0 {
                    return b.shutdown(Shutdown::Write);
                }
                (&b).write_all(&buf[..n]).await?;
            }
        };
        let write = async {
            for i in 0..1000_u32 {
                a_writer.write_all(&i.to_le_bytes()).await?;
            }
            a.shutdown(Shutdown::Write)
        };
        let read = async {
            for i in 0..1000_u32 {
                let mut buf = [0; 4];
                a_reader.read_exact(&mut buf).await?;
                assert_eq!(u32::from_le_bytes(buf), i);
            }
            assert_eq!(a_reader.read(&mut [0; 4]).await?, 0);
            Ok(())
        };
        future::try_zip(echo, future::try_zip(write, read)).await?;
    }

    fn everybody_who_waits_for_readability_is_woken(a, mut b) {
        let a = Arc::new(a);
        let (wakes, waker) = Wakes::new();
        let mut waiting: Vec<_> = (0..50).map(|_| a.clone().readable_owned()).collect();
        for readable in &mut waiting {
            assert!(poll(readable, &waker).is_pending());
        }
        b.write_all(b"x").await?;
        // One more, which makes sure that the event has come.
        while wakes.count() < 50 {
            sleep(Duration::from_micros(100)).await;
        }
        for readable in &mut waiting {
            assert!(matches!(poll(readable, &waker), Poll::Ready(Ok(()))));
        }
    }

    fn who_polls_a_direction_second_takes_the_place_of_the_first_which_is_woken(a, mut b) {
        let ((first, first_waker), (second, second_waker)) = (Wakes::new(), Wakes::new());
        let mut buf = [0; 8];
        assert!(poll(&mut (&a).read(&mut buf), &first_waker).is_pending());
        assert!(poll(&mut (&a).read(&mut buf), &first_waker).is_pending());
        assert_eq!(first.count(), 0, "it is the same task");
        assert!(poll(&mut (&a).read(&mut buf), &second_waker).is_pending());
        assert_eq!((first.count(), second.count()), (1, 0));
        let mut cx = Context::from_waker(&first_waker);
        assert!(a.poll_readable(&mut cx).is_pending(), "it is the same place");
        assert_eq!((first.count(), second.count()), (1, 1));
        // The other direction is not concerned.
        fill(&a).await?;
        let (writes, writer) = Wakes::new();
        assert!(poll(&mut (&a).write(&[0; 9000]), &writer).is_pending());
        assert!(a.poll_writable(&mut Context::from_waker(&writer)).is_pending());
        assert_eq!((first.count(), second.count(), writes.count()), (1, 1, 0));
        b.write_all(b"x").await?;
        while first.count() == 1 {
            sleep(Duration::from_micros(100)).await;
        }
        assert_eq!(second.count(), 1);
    }

    fn futures_that_are_dropped_leave_no_waker_behind(a, b) {
        let (wakes, waker) = Wakes::new();
        let futures: Vec<Pin<Box<dyn Future<Output = io::Result<()>> + '_>>> = vec![
            Box::pin(a.readable()),
            Box::pin(a.closed()),
            Box::pin(a.read_with(|_| Err(ErrorKind::WouldBlock.into()))),
        ];
        for mut waiting in futures {
            assert!(poll(&mut waiting, &waker).is_pending());
            assert_eq!(Arc::strong_count(&wakes), 3);
            drop(waiting);
            assert_eq!(Arc::strong_count(&wakes), 2);
        }
        drop(b);
        a.closed().await?;
        assert_eq!(wakes.count(), 0, "nobody waited");
    }

    fn a_waiter_who_is_moved_between_threads_is_woken_where_it_is(a, mut b) {
        let a = Arc::new(a);
        let mut readable = a.clone().readable_owned();
        let mut reading = Box::pin(async move {
            let mut buf = [0; 2];
            (&*a).read_exact(&mut buf).await.map(|()| buf)
        });
        // Both begin to wait here, and are moved to another thread and executor, then to the next.
        assert!(future::poll_once(&mut readable).await.is_none());
        assert!(future::poll_once(&mut reading).await.is_none());
        let (mut readable, mut reading) = thread::spawn(move || {
            future::block_on(async {
                assert!(future::poll_once(&mut readable).await.is_none());
                assert!(future::poll_once(&mut reading).await.is_none());
            });
            (readable, reading)
        }).join().unwrap();
        let (sender, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            LocalExecutor::new().unwrap().block_on(within(async move {
                assert!(future::poll_once(&mut readable).await.is_none());
                assert!(future::poll_once(&mut reading).await.is_none());
                sender.send(()).unwrap();
                readable.await?;
                reading.await
            }))
        });
        started.recv_timeout(PATIENCE).unwrap();
        b.write_all(b"ok").await?;
        assert_eq!(&thread.join().unwrap()?, b"ok");
    }

    fn a_socket_of_an_executor_that_has_gone_works_on_under_another(a, b) {
        let (a, b) = (a.into_inner()?, b.into_inner()?);
        let executor = LocalExecutor::new()?;
        let (mut a, mut readable, b) = executor.block_on(async {
            let mut a = Async::new(a)?;
            assert!(future::poll_once(a.read(&mut [0; 8])).await.is_none());
            let b = Arc::new(Async::new(b)?);
            let mut readable = b.clone().readable_owned();
            assert!(future::poll_once(&mut readable).await.is_none());
            io::Result::Ok((a, readable, b))
        })?;
        drop(executor);
        thread::spawn(move || {
            future::block_on(within(async {
                let mut buf = [0; 8];
                assert!(future::poll_once(a.read(&mut buf)).await.is_none());
                a.write_all(b"ping").await?;
                (&mut readable).await?;
                assert_eq!((&*b).read(&mut buf).await?, 4);
                (&*b).write_all(b"pong").await?;
                assert_eq!(a.read(&mut buf).await?, 4);
                io::Result::Ok(())
            }))
        })
        .join()
        .unwrap()?;
    }
}

// ---------------------------------------------------------------------------------------------- levels

with_tcp_and_unix! {
    fn after_a_partial_read_behind_our_back_it_is_still_readable(a, mut b) {
        b.write_all(b"0123456789").await?;
        a.readable().await?;
        assert_eq!(a.get_ref().read(&mut [0; 4])?, 4);
        a.readable().await?;
        assert!(now(future::poll_fn(|cx| a.poll_readable(cx))).is_some());
        let mut buf = [0; 64];
        let mut rest = 0;
        while rest < 6 {
            a.readable().await?;
            rest += a.get_ref().read(&mut buf)?;
        }
    }

    fn what_is_written_behind_our_back_counts(a, mut b) {
        a.writable().await?;
        let sent = fill(&a).await?;
        let mut writable = a.writable();
        assert!(future::poll_once(&mut writable).await.is_none(), "there is no room");
        b.read_exact(&mut vec![0; sent]).await?;
        writable.await?;
        assert_ne!(a.get_ref().write(b"x")?, 0);
    }

    fn a_level_check_by_one_task_does_not_steal_the_wake_of_another(a, mut b) {
        let ((polls, polls_waker), (waits, waits_waker)) = (Wakes::new(), Wakes::new());
        let mut waiting = a.readable();
        assert!(poll(&mut (&a).read(&mut [0; 8]), &polls_waker).is_pending());
        assert!(poll(&mut waiting, &waits_waker).is_pending());
        b.write_all(b"x").await?;
        a.readable().await?;
        while polls.count() == 0 || waits.count() == 0 {
            sleep(Duration::from_micros(100)).await;
        }
        assert!(poll(&mut waiting, &waits_waker).is_ready());
        assert!(poll(&mut (&a).read(&mut [0; 8]), &polls_waker).is_ready());
    }

    fn an_operation_is_tried_again_after_would_block_and_nothing_else(a, mut b) {
        let tries = Cell::new(0);
        let mut op = |mut io: &_| {
            tries.set(tries.get() + 1);
            read_from(&mut io, &mut [0; 8])
        };
        let mut reading = pin!(a.read_with(&mut op));
        assert!(future::poll_once(reading.as_mut()).await.is_none());
        let first = tries.get();
        b.write_all(b"x").await?;
        assert_eq!(reading.await?, 1);
        assert!((1..4).contains(&(tries.get() - first)), "{} tries", tries.get());
        // Interrupted is an error like any other.
        for kind in [ErrorKind::Interrupted, ErrorKind::TimedOut] {
            let failing = |_: &_| -> io::Result<()> { Err(kind.into()) };
            assert_eq!(a.read_with(failing).await.unwrap_err().kind(), kind);
            assert_eq!(a.write_with(failing).await.unwrap_err().kind(), kind);
        }
        // It decides by itself when it has enough, and others run meanwhile.
        let tries = Cell::new(0);
        let stubborn = |_: &_| match tries.replace(tries.get() + 1) {
            100.. => Ok(()),
            _ => Err(ErrorKind::WouldBlock.into()),
        };
        a.write_with(stubborn).await?;
        assert_eq!(tries.get(), 101);
    }
}

/// On an executor of its own: nobody else takes the events, so they come when the test waits, and not before.
fn after_all_was_read_behind_our_back_it_waits<T>(a: T, mut b: impl Write)
where
    T: AsFd,
    for<'a> &'a T: Read,
{
    LocalExecutor::new().unwrap().block_on(within(async {
        let a = Async::new(a).unwrap();
        for _ in 0..20 {
            b.write_all(b"x").unwrap();
            a.readable().await.unwrap();
            assert_eq!(a.get_ref().read(&mut [0; 4]).unwrap(), 1);
            let mut readable = a.readable();
            assert!(future::poll_once(&mut readable).await.is_none(), "there is nothing to read");
            let again = future::poll_once(future::poll_fn(|cx| a.poll_readable(cx)));
            assert!(again.await.is_none(), "there is nothing to read");
            b.write_all(b"y").unwrap();
            readable.await.unwrap();
            assert_eq!(a.get_ref().read(&mut [0; 4]).unwrap(), 1);
        }
    }));
}

#[test]
fn after_all_was_read_from_tcp_behind_our_back_it_waits() {
    let (a, b) = tcp_pair();
    after_all_was_read_behind_our_back_it_waits(a, b);
}

#[test]
fn after_all_was_read_from_a_unix_socket_behind_our_back_it_waits() {
    let (a, b) = UnixStream::pair().unwrap();
    after_all_was_read_behind_our_back_it_waits(a, b);
}

#[test]
fn a_socket_without_news_is_not_readable_whatever_event_comes_while_it_is_asked() {
    in_a_process_of_its_own(
        "a_socket_without_news_is_not_readable_whatever_event_comes_while_it_is_asked",
        || {
            // A thread of its own takes the event "writable" of each new socket at some moment.
            future::block_on(sleep(Duration::from_millis(1)));
            let mut wrong = 0;
            for _ in 0..3000 {
                let (a, _b) = Async::<UnixStream>::pair().unwrap();
                wrong += usize::from(now(a.readable()).is_some());
            }
            assert_eq!(wrong, 0, "so many of 3000 were readable");
        },
    );
}

fn read_from(io: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    io.read(buf)
}

/// A type of which we know nothing, which now and then has reasons of its own to say "would block".
struct Moody {
    stream: UnixStream,
    moods: AtomicUsize,
}

impl Moody {
    fn is_in_the_mood(&self) -> io::Result<()> {
        match self.moods.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => Ok(()),
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl AsFd for Moody {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Read for &Moody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.is_in_the_mood()?;
        (&self.stream).read(buf)
    }
}

impl Write for &Moody {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.is_in_the_mood()?;
        (&self.stream).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_type_that_says_would_block_by_itself_makes_progress() {
    const LEN: usize = 1 << 20;
    let (a, b) = UnixStream::pair().unwrap();
    let a = Async::new(Moody { stream: a, moods: AtomicUsize::new(0) }).unwrap();
    let b = Async::new(Moody { stream: b, moods: AtomicUsize::new(1) }).unwrap();
    run(async {
        future::try_zip(write_pattern(&a, LEN), read_pattern(&b, LEN)).await?;
        drop(a);
        assert_eq!((&b).read(&mut [0; 8]).await?, 0);
        Ok(())
    });
}

// ------------------------------------------------------------------------------------- unknown types

#[test]
fn a_pipe_has_back_pressure_and_an_end() {
    const LEN: usize = 3 << 20;
    let (reader, writer) = pipe();
    let (mut reader, writer) = (Async::new(reader).unwrap(), Async::new(writer).unwrap());
    run(async {
        future::try_zip(write_pattern(&writer, LEN), read_pattern(&reader, LEN)).await?;
        let mut buf = [0; 8];
        let mut read = reader.read(&mut buf);
        assert!(future::poll_once(&mut read).await.is_none());
        drop(writer);
        assert_eq!(read.await?, 0);
        Ok(())
    });
}

#[test]
fn a_pipe_without_a_reader_is_broken() {
    let (reader, writer) = pipe();
    let (reader, mut writer) = (Async::new(reader).unwrap(), Async::new(writer).unwrap());
    run(async {
        let mut write = pin!(async move { writer.write_all(&vec![0; 3 << 20]).await });
        assert!(future::poll_once(write.as_mut()).await.is_none());
        drop(reader);
        assert_eq!(write.await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        Ok(())
    });
}

#[test]
fn an_eventfd_counts() {
    // SAFETY: no pointers; the descriptor is ours alone.
    let file = unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    let mut event = Async::new(file).unwrap();
    run(async {
        let mut buf = [0; 8];
        for i in 1..=20_u64 {
            assert!(future::poll_once(event.read(&mut buf)).await.is_none());
            event.write_all(&i.to_ne_bytes()).await?;
            event.read_exact(&mut buf).await?;
            assert_eq!(u64::from_ne_bytes(buf), i);
        }
        // Full, it waits for a reader.
        event.write_all(&(u64::MAX - 1).to_ne_bytes()).await?;
        let (mut one, mut other) = (&event, &event);
        let mut write = pin!(async move { one.write_all(&1_u64.to_ne_bytes()).await });
        assert!(future::poll_once(write.as_mut()).await.is_none());
        other.read_exact(&mut buf).await?;
        write.await
    });
}

// ----------------------------------------------------------------------------------------- conversions

#[test]
fn std_types_go_in_and_come_out() {
    fn check<T>(io: T)
    where
        T: AsFd + AsRawFd + From<OwnedFd> + Into<OwnedFd>,
        Async<T>: TryFrom<T, Error = io::Error>,
    {
        let number = io.as_raw_fd();
        let io: Async<T> = io.try_into().unwrap();
        assert_eq!(
            (io.as_raw_fd(), io.get_ref().as_raw_fd(), io.as_fd().as_raw_fd()),
            (number, number, number)
        );
        let io: T = io.into_inner().unwrap();
        // SAFETY: no pointers.
        let flags = unsafe { libc::fcntl(io.as_raw_fd(), libc::F_GETFL) };
        assert_ne!(flags & libc::O_NONBLOCK, 0, "it stays non-blocking");
        let fd: OwnedFd = Async::new_nonblocking(io).unwrap().try_into().unwrap();
        let io: Async<T> = fd.try_into().unwrap();
        assert_eq!(io.as_ref().as_raw_fd(), number);
        assert_eq!(io.into_inner().unwrap().as_raw_fd(), number);
    }
    let dir = Dir::new("std_types");
    check(TcpListener::bind("127.0.0.1:0").unwrap());
    check(tcp_pair().0);
    check(UdpSocket::bind("127.0.0.1:0").unwrap());
    check(UnixListener::bind(dir.path("socket")).unwrap());
    check(UnixStream::pair().unwrap().0);
    check(UnixDatagram::unbound().unwrap());
}

#[test]
fn what_was_taken_out_is_registered_no_more() {
    let (a, mut b) = tcp_pair();
    let a = Arc::new(Async::new(a).unwrap());
    let (wakes, waker) = Wakes::new();
    let mut readable = a.clone().readable_owned();
    assert!(poll(&mut readable, &waker).is_pending());
    assert!(poll(&mut (&*a).read(&mut [0; 8]), &waker).is_pending());
    drop(readable);
    let inner = Arc::into_inner(a).unwrap().into_inner().unwrap();
    drop(waker);
    assert_eq!(Arc::strong_count(&wakes), 1);
    b.write_all(b"x").unwrap();
    // Another Async for the same file hears of it; the old waker does not.
    run(async { Async::new(inner)?.readable().await });
    assert_eq!(wakes.count(), 0);
}

// ------------------------------------------------------------------------------------------- accepting

/// Accepts in many tasks on two threads. Each connection says who it is.
fn accept_in_many_tasks<L: Send + Sync + 'static>(
    listener: Async<L>,
    accept: impl AsyncFn(&Async<L>) -> io::Result<u32> + Send + Sync + Copy + 'static,
    connect: impl Fn(u32),
) {
    const CONNECTIONS: u32 = 200;
    let listener = Arc::new(listener);
    let (sender, accepted) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let threads = [0, 1].map(|_| {
        let (listener, sender, stop) = (listener.clone(), sender.clone(), stop.clone());
        thread::spawn(move || {
            let executor = LocalExecutor::new().unwrap();
            for _ in 0..10 {
                let (listener, sender) = (listener.clone(), sender.clone());
                executor
                    .spawn(async move {
                        loop {
                            sender.send(accept(&listener).await.unwrap()).unwrap();
                        }
                    })
                    .detach();
            }
            executor.block_on(async {
                while !stop.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(1)).await;
                }
            });
        })
    });
    (0..CONNECTIONS).for_each(connect);
    let mut found: Vec<u32> = (0..CONNECTIONS).map(|_| accepted.recv_timeout(PATIENCE).unwrap()).collect();
    found.sort();
    assert!(found.iter().copied().eq(0..CONNECTIONS), "{found:?}");
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
}

async fn read_number(mut stream: impl AsyncRead + Unpin) -> io::Result<u32> {
    let mut buf = [0; 4];
    stream.read_exact(&mut buf).await?;
    Ok(u32::from_le_bytes(buf))
}

#[test]
fn many_tasks_accept_from_one_tcp_listener() {
    let listener = Async::<TcpListener>::bind(LOCALHOST).unwrap();
    let addr = listener.get_ref().local_addr().unwrap();
    accept_in_many_tasks(
        listener,
        async |listener: &Async<TcpListener>| read_number(listener.accept().await?.0).await,
        |i| TcpStream::connect(addr).unwrap().write_all(&i.to_le_bytes()).unwrap(),
    );
}

#[test]
fn many_tasks_accept_from_one_unix_listener() {
    let dir = Dir::new("many_tasks_accept");
    let listener = Async::<UnixListener>::bind(dir.path("socket")).unwrap();
    accept_in_many_tasks(
        listener,
        async |listener: &Async<UnixListener>| read_number(listener.accept().await?.0).await,
        |i| UnixStream::connect(dir.path("socket")).unwrap().write_all(&i.to_le_bytes()).unwrap(),
    );
}

#[test]
fn incoming_connections_are_a_stream() {
    run(async {
        let listener = Async::<TcpListener>::bind(LOCALHOST)?;
        let addr = listener.get_ref().local_addr()?;
        let mut incoming = pin!(listener.incoming());
        assert!(future::poll_once(incoming.next()).await.is_none());
        for _ in 0..10 {
            let client = Async::<TcpStream>::connect(addr).await?;
            let server = incoming.next().await.expect("for ever")?;
            assert_eq!(server.get_ref().peer_addr()?, client.get_ref().local_addr()?);
        }
        Ok(())
    });
}

/// Uses up all descriptors, until what it returns is dropped.
fn exhaust() -> Vec<File> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes, and then for reads.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = 64;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// Counts how often a future is polled.
async fn counted<F: Future>(polls: &Cell<u32>, future: F) -> F::Output {
    let mut future = pin!(future);
    future::poll_fn(|cx| {
        polls.set(polls.get() + 1);
        future.as_mut().poll(cx)
    })
    .await
}

#[test]
fn accept_without_descriptors_left_waits_reports_and_goes_on_later() {
    in_a_process_of_its_own("accept_without_descriptors_left_waits_reports_and_goes_on_later", || {
        run(async {
            let dir = Dir::new("accept_without_descriptors");
            let tcp = Async::<TcpListener>::bind(LOCALHOST)?;
            let unix = Async::<UnixListener>::bind(dir.path("socket"))?;
            let either = Listener::from(Async::<UnixListener>::bind(dir.path("either"))?);
            let _clients = (
                TcpStream::connect(tcp.get_ref().local_addr()?)?,
                UnixStream::connect(dir.path("socket"))?,
                UnixStream::connect(dir.path("either"))?,
            );
            let files = exhaust();
            for _ in 0..2 {
                let (started, polls) = (Instant::now(), Cell::new(0));
                let error = counted(&polls, tcp.accept()).await.expect_err("no descriptors");
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                assert!(started.elapsed() >= Duration::from_millis(100), "it came at once");
                assert!(polls.get() < 30, "{} polls: it spins", polls.get());
                let error = counted(&polls, unix.accept()).await.expect_err("no descriptors");
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                assert!(polls.get() < 60, "{} polls: it spins", polls.get());
                let error = counted(&polls, either.accept_unregistered()).await.expect_err("no descriptors");
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                assert!(polls.get() < 90, "{} polls: it spins", polls.get());
            }
            // A stream of connections tells the same, and does not end.
            let mut incoming = pin!(tcp.incoming());
            assert!(incoming.next().await.expect("for ever").is_err());
            // There are descriptors again while it waits: it notices by itself.
            let mut accepting = pin!(unix.accept());
            assert!(future::poll_once(accepting.as_mut()).await.is_none());
            drop(files);
            accepting.await?;
            incoming.next().await.expect("for ever")?;
            either.accept_unregistered().await?.0.register()?;
            Ok(())
        });
    });
}

#[test]
fn of_two_tasks_that_accept_without_descriptors_left_both_go_on_later() {
    in_a_process_of_its_own("of_two_tasks_that_accept_without_descriptors_left_both_go_on_later", || {
        run(async {
            let listener = Async::<TcpListener>::bind(LOCALHOST)?;
            let addr = listener.get_ref().local_addr()?;
            let mut clients = vec![TcpStream::connect(addr)?];
            let files = exhaust();
            let (mut first, mut second) = (pin!(listener.accept()), pin!(listener.accept()));
            assert!(future::poll_once(first.as_mut()).await.is_none());
            assert!(future::poll_once(second.as_mut()).await.is_none());
            drop(files);
            // One of them gets the connection, and finds that there is no other. Then the other one looks.
            let mut both = pin!(future::or(async { first.as_mut().await.map(|_| 1) }, async {
                second.as_mut().await.map(|_| 2)
            }));
            let who = both.as_mut().await?;
            listener_is_empty(&listener).await;
            sleep(Duration::from_millis(10)).await;
            let other = async { if who == 1 { second.await } else { first.await } };
            let mut other = pin!(other);
            assert!(future::poll_once(other.as_mut()).await.is_none());
            clients.push(TcpStream::connect(addr)?);
            other.await?;
            Ok(())
        });
    });
}

/// Finds out, as any task that accepts does, that nobody waits to be accepted.
async fn listener_is_empty(listener: &Async<TcpListener>) {
    assert!(future::poll_once(listener.accept()).await.is_none());
}

// ------------------------------------------------------------------------------------------ connecting

#[test]
fn a_connection_that_is_refused_is_an_error() {
    let dir = Dir::new("refused");
    run(async {
        let (addr, _taken) = taken_port();
        let error = error_of(|| Async::<TcpStream>::connect(addr)).await;
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let error = Async::<UnixStream>::connect(dir.path("socket")).await.expect_err("nothing is there");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        drop(UnixListener::bind(dir.path("socket"))?);
        let error = error_of(|| Async::<UnixStream>::connect(dir.path("socket"))).await;
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        Ok(())
    });
}

#[test]
fn a_unix_listener_with_a_full_backlog_is_waited_for() {
    let dir = Dir::new("full_backlog");
    run(async {
        let listener = SocketOptions::new().backlog(1).listen_unix(dir.path("socket"))?;
        let mut connected = Vec::new();
        let mut waiting = loop {
            let mut connecting = Box::pin(Async::<UnixStream>::connect(dir.path("socket")));
            match future::poll_once(&mut connecting).await {
                Some(stream) => connected.push(stream?),
                None => break connecting,
            }
            assert!(connected.len() < 10, "the backlog does not end");
        };
        assert!(future::poll_once(&mut waiting).await.is_none());
        listener.accept().await?;
        waiting.await?;
        Ok(())
    });
}

/// As many as the system lets wait: a burst of clients is not turned away.
#[test]
fn a_unix_listener_has_as_much_room_as_one_of_std() {
    let dir = Dir::new("room");
    let room = |listener: Async<UnixListener>| {
        let connect =
            || future::block_on(future::poll_once(Async::<UnixStream>::connect(dir.path("socket"))));
        let clients: Vec<_> = (0..200).map_while(|_| connect()).collect::<io::Result<_>>().unwrap();
        drop(listener);
        std::fs::remove_file(dir.path("socket")).unwrap();
        clients.len()
    };
    let std = room(Async::new(UnixListener::bind(dir.path("socket")).unwrap()).unwrap());
    let ours = room(Async::<UnixListener>::bind(dir.path("socket")).unwrap());
    assert_eq!(ours, std);
}

/// A listener that answers nobody any more, and the connections that make it so.
async fn silent_listener() -> io::Result<(Async<TcpListener>, Vec<Async<TcpStream>>)> {
    let listener = SocketOptions::new().backlog(1).listen(SocketAddr::from(LOCALHOST))?;
    let addr = listener.get_ref().local_addr()?;
    let mut connected = Vec::new();
    loop {
        match wakewheel::timeout(Duration::from_millis(200), Async::<TcpStream>::connect(addr)).await {
            Ok(stream) => connected.push(stream?),
            Err(_) => return Ok((listener, connected)),
        }
        assert!(connected.len() < 10, "the backlog does not end");
    }
}

#[test]
fn a_connection_that_does_not_come_is_given_up_at_the_deadline() {
    run(async {
        let (listener, _connected) = silent_listener().await?;
        let addr = listener.get_ref().local_addr()?;
        let deadline = Instant::now() + Duration::from_millis(30);
        let error = Async::<TcpStream>::connect_deadline(addr, deadline).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
        assert!(Instant::now() >= deadline);
        let error = Async::<TcpStream>::connect_deadline(addr, deadline).await.expect_err("it has passed");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        Ok(())
    });
}

#[test]
fn a_connection_that_comes_before_the_deadline_is_made() {
    run(async {
        let listener = Async::<TcpListener>::bind(LOCALHOST)?;
        let addr = listener.get_ref().local_addr()?;
        let mut client = Async::<TcpStream>::connect_deadline(addr, Instant::now() + PATIENCE).await?;
        let (mut server, _) = listener.accept().await?;
        client.write_all(b"hello").await?;
        server.read_exact(&mut [0; 5]).await?;
        Ok(())
    });
}

#[test]
fn a_connection_that_is_no_longer_wanted_is_closed() {
    in_a_process_of_its_own("a_connection_that_is_no_longer_wanted_is_closed", || {
        let descriptors = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
        run(async {
            let (listener, _connected) = silent_listener().await?;
            let addr = listener.get_ref().local_addr()?;
            let before = descriptors();
            let mut connecting = Box::pin(Async::<TcpStream>::connect(addr));
            assert!(future::poll_once(&mut connecting).await.is_none());
            assert_eq!(descriptors(), before + 1);
            drop(connecting);
            assert_eq!(descriptors(), before);
            Ok(())
        });
    });
}

// -------------------------------------------------------------------------------------------- datagrams

#[test]
fn a_datagram_without_a_byte_is_a_datagram() {
    run(async {
        let (a, b) = (Async::<UdpSocket>::bind(LOCALHOST)?, Async::<UdpSocket>::bind(LOCALHOST)?);
        let (a_addr, b_addr) = (a.get_ref().local_addr()?, b.get_ref().local_addr()?);
        let mut buf = [7; 8];
        for _ in 0..3 {
            let mut receiving = Box::pin(b.recv_from(&mut buf));
            assert!(future::poll_once(&mut receiving).await.is_none());
            assert_eq!(a.send_to(b"", b_addr).await?, 0);
            assert_eq!(receiving.await?, (0, a_addr));
        }
        a.send_to(b"", b_addr).await?;
        a.send_to(b"more", b_addr).await?;
        assert_eq!(b.peek_from(&mut buf).await?, (0, a_addr));
        assert_eq!(b.recv_from(&mut buf).await?, (0, a_addr));
        assert_eq!(b.peek_from(&mut buf[..2]).await?.0, 2);
        assert_eq!(b.recv_from(&mut buf).await?, (4, a_addr));
        Ok(())
    });
}

#[test]
fn a_datagram_to_nobody_is_refused_on_a_connected_socket() {
    run(async {
        let a = Async::<UdpSocket>::bind(LOCALHOST)?;
        // It hears its own peer only, which is itself: for others, nobody is there. (A socket that was closed might be
        // held by the child that another test starts just now.)
        let deaf = UdpSocket::bind("127.0.0.1:0")?;
        deaf.connect(deaf.local_addr()?)?;
        a.get_ref().connect(deaf.local_addr()?)?;
        let mut buf = [0; 8];
        let mut receiving = Box::pin(a.recv(&mut buf));
        assert!(future::poll_once(&mut receiving).await.is_none());
        a.send(b"hello?").await?;
        assert_eq!(receiving.await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        // It is over with that: from then on it waits, and works.
        let mut receiving = Box::pin(a.recv(&mut buf));
        assert!(future::poll_once(&mut receiving).await.is_none());
        deaf.connect(a.get_ref().local_addr()?)?;
        let somebody = Async::new(deaf)?;
        somebody.send(b"here").await?;
        assert_eq!(receiving.await?, 4);
        assert_eq!(a.send(b"fine").await?, 4);
        assert_eq!(somebody.recv_from(&mut [0; 8]).await?.0, 4);
        Ok(())
    });
}

#[test]
fn a_udp_socket_is_polled_before_any_receive() {
    run(async {
        let (a, b) = (Async::<UdpSocket>::bind(LOCALHOST)?, Async::<UdpSocket>::bind(LOCALHOST)?);
        assert!(future::poll_once(future::poll_fn(|cx| b.poll_readable(cx))).await.is_none());
        a.send_to(b"x", b.get_ref().local_addr()?).await?;
        future::poll_fn(|cx| b.poll_readable(cx)).await?;
        assert_eq!(b.get_ref().recv(&mut [0; 8])?, 1);
        a.writable().await
    });
}

// ------------------------------------------------------------------------------------ batches of datagrams

/// What is in a batch: text, sender, truncated.
fn contents(batch: &RecvBatch) -> Vec<(String, SocketAddr, bool)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    batch.iter().map(|datagram| (text(datagram.bytes), datagram.from, datagram.truncated)).collect()
}

/// Does one call receive many?
const BATCHES: bool = cfg!(any(target_os = "linux", target_os = "android"));

#[test]
fn a_batch_has_the_boundaries_and_senders_of_its_datagrams() {
    let addrs: [SocketAddr; 2] = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    for addr in addrs.into_iter().filter(|addr| UdpSocket::bind(addr).is_ok()) {
        run(async {
            let to = Async::<UdpSocket>::bind(addr)?;
            let senders = [UdpSocket::bind(addr)?, UdpSocket::bind(addr)?];
            let mut expected = Vec::new();
            for (i, text) in ["one", "", "four", "fivefive", ""].into_iter().enumerate() {
                let sender = &senders[i % 2];
                sender.send_to(text.as_bytes(), to.get_ref().local_addr()?)?;
                let cut = text.len() > 4;
                expected.push((text[..text.len().min(4)].to_owned(), sender.local_addr()?, cut));
            }
            // The kernel may leave the delivery to another thread.
            thread::sleep(Duration::from_millis(10));
            let mut batch = RecvBatch::new(3, 4);
            assert_eq!((batch.capacity(), batch.len(), batch.is_empty()), (3, 0, true));
            let mut all = Vec::new();
            while all.len() < expected.len() {
                let n = to.recv_batch(&mut batch).await?;
                assert_eq!((batch.len(), batch.iter().len()), (n, n));
                if all.is_empty() {
                    assert_eq!(n, if BATCHES { 3 } else { 1 });
                }
                all.extend(contents(&batch));
            }
            assert_eq!(all, expected);
            Ok(())
        });
    }
}

#[test]
fn a_batch_has_room_for_the_longest_datagrams() {
    run(async {
        let to = SocketOptions::new().recv_buffer_size(1 << 20).bind_udp(LOCALHOST)?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        // macOS has a limit of its own.
        let len = if cfg!(target_os = "linux") { 65_507 } else { 9_000 };
        let mut batch = RecvBatch::new(16, 65_527);
        for byte in 1..=3 {
            sender.send_to(&vec![byte; len], to.get_ref().local_addr()?)?;
        }
        let mut byte = 0;
        while byte < 3 {
            to.recv_batch(&mut batch).await?;
            for datagram in batch.iter() {
                byte += 1;
                assert!(datagram.bytes == vec![byte; len] && !datagram.truncated);
            }
        }
        Ok(())
    });
}

#[test]
fn a_batch_is_waited_for_and_no_datagram_is_lost_or_seen_twice() {
    run(async {
        let (a, b) = (Async::<UdpSocket>::bind(LOCALHOST)?, Async::<UdpSocket>::bind(LOCALHOST)?);
        let addr = b.get_ref().local_addr()?;
        let mut batch = RecvBatch::new(8, 100);
        for round in 0..200 {
            // Before, during and after the wait; fewer than there is room for, and more.
            let count = round % 13 + 1;
            let send = async {
                for i in 0..count {
                    if i % 3 == round % 3 {
                        future::yield_now().await;
                    }
                    a.send_to(format!("{round}.{i}").as_bytes(), addr).await?;
                }
                io::Result::Ok(())
            };
            let mut came = Vec::new();
            let receive = async {
                while came.len() < count {
                    if round % 2 == 0 {
                        b.recv_batch(&mut batch).await?;
                    } else {
                        future::poll_fn(|cx| b.poll_recv_batch(cx, &mut batch)).await?;
                    }
                    came.extend(contents(&batch).into_iter().map(|(text, ..)| text));
                }
                Ok(())
            };
            if round % 5 == 0 {
                future::try_zip(receive, send).await?;
            } else {
                future::try_zip(send, receive).await?;
            }
            assert_eq!(came, (0..count).map(|i| format!("{round}.{i}")).collect::<Vec<_>>());
        }
        Ok(())
    });
}

#[test]
fn a_batch_is_empty_when_it_is_given_up_and_the_next_one_has_all() {
    run(async {
        let (a, b) = (Async::<UdpSocket>::bind(LOCALHOST)?, Async::<UdpSocket>::bind(LOCALHOST)?);
        let addr = b.get_ref().local_addr()?;
        let mut batch = RecvBatch::new(8, 100);
        a.send_to(b"old", addr).await?;
        b.recv_batch(&mut batch).await?;
        assert_eq!(batch.len(), 1);
        assert!(future::poll_once(b.recv_batch(&mut batch)).await.is_none());
        assert!(batch.is_empty());

        let mut given_up = Box::pin(b.recv_batch(&mut batch));
        assert!(future::poll_once(&mut given_up).await.is_none());
        a.send_to(b"new", addr).await?;
        b.readable().await?;
        drop(given_up);
        assert!(batch.is_empty());
        b.recv_batch(&mut batch).await?;
        assert_eq!(contents(&batch), [("new".into(), a.get_ref().local_addr()?, false)]);
        assert!(future::poll_once(future::poll_fn(|cx| b.poll_recv_batch(cx, &mut batch))).await.is_none());
        assert!(batch.is_empty());
        Ok(())
    });
}

#[test]
fn an_error_comes_between_batches_and_ends_nothing() {
    run(async {
        let (a, peer) = (Async::<UdpSocket>::bind(LOCALHOST)?, UdpSocket::bind("127.0.0.1:0")?);
        let addr = peer.local_addr()?;
        a.get_ref().connect(addr)?;
        peer.send_to(b"old", a.get_ref().local_addr()?)?;
        let mut batch = RecvBatch::new(8, 100);
        a.recv_batch(&mut batch).await?;
        drop(peer);
        a.send(b"anybody?").await?;
        let e = a.recv_batch(&mut batch).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
        assert!(batch.is_empty());

        let peer = UdpSocket::bind(addr)?;
        for text in ["1", "2", "3"] {
            peer.send_to(text.as_bytes(), a.get_ref().local_addr()?)?;
            a.recv_batch(&mut batch).await?;
            assert_eq!(contents(&batch), [(text.into(), addr, false)]);
        }
        Ok(())
    });
}

/// Many sockets with a task each, and many tasks on one: everybody gets what is theirs, everything once.
#[test]
fn many_tasks_wait_for_batches() {
    const SOCKETS: usize = 100;
    const EACH: usize = 50;
    let executor = LocalExecutor::new().unwrap();
    executor.block_on(within(async {
        let sender = Async::<UdpSocket>::bind(LOCALHOST).unwrap();
        let mut addrs = Vec::new();
        let tasks: Vec<_> = (0..SOCKETS)
            .map(|i| {
                let socket = Async::<UdpSocket>::bind(LOCALHOST).unwrap();
                addrs.push(socket.get_ref().local_addr().unwrap());
                spawn_local(async move {
                    let mut batch = RecvBatch::new(8, 8);
                    let mut came = Vec::new();
                    while came.len() < EACH {
                        socket.recv_batch(&mut batch).await.unwrap();
                        came.extend(contents(&batch).into_iter().map(|(text, ..)| text));
                    }
                    assert_eq!(came, (0..EACH).map(|n| format!("{i}.{n}")).collect::<Vec<_>>());
                })
            })
            .collect();
        for n in 0..EACH {
            for (i, addr) in addrs.iter().enumerate() {
                sender.send_to(format!("{i}.{n}").as_bytes(), *addr).await.unwrap();
            }
            if n % 7 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        for task in tasks {
            task.await.unwrap();
        }

        let shared = std::rc::Rc::new(Async::<UdpSocket>::bind(LOCALHOST).unwrap());
        let addr = shared.get_ref().local_addr().unwrap();
        let total = std::rc::Rc::new(Cell::new(0));
        for _ in 0..10 {
            let (shared, total) = (shared.clone(), total.clone());
            spawn_local(async move {
                let mut batch = RecvBatch::new(4, 8);
                loop {
                    total.set(total.get() + shared.recv_batch(&mut batch).await.unwrap());
                }
            })
            .detach();
        }
        for n in 0..300 {
            sender.send_to(b"x", addr).await.unwrap();
            if n % 11 == 0 {
                future::yield_now().await;
            }
        }
        while total.get() < 300 {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(total.get(), 300);
    }));
}

#[test]
fn unix_datagrams_go_by_path_and_by_abstract_name() {
    let dir = Dir::new("datagrams");
    run(async {
        let name = format!("\0wakewheel-io-datagrams-{}", std::process::id());
        let paths = if cfg!(target_os = "linux") {
            vec![dir.path("socket"), PathBuf::from(name)]
        } else {
            vec![dir.path("socket")]
        };
        for path in paths {
            let (to, from) = (Async::<UnixDatagram>::bind(&path)?, Async::<UnixDatagram>::unbound()?);
            let mut buf = [0; 8];
            let mut receiving = Box::pin(to.recv_from(&mut buf));
            assert!(future::poll_once(&mut receiving).await.is_none());
            assert_eq!(from.send_to(b"", &path).await?, 0);
            assert_eq!(receiving.await?.0, 0);
            assert_eq!(from.send_to(b"hello", &path).await?, 5);
            let (n, sender) = to.recv_from(&mut buf).await?;
            assert_eq!((&buf[..n], sender.is_unnamed()), (&b"hello"[..], true));
            drop(to);
            let error = error_of(|| from.send_to(b"hello?", &path)).await;
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
        Ok(())
    });
}

#[test]
#[cfg(target_os = "linux")]
fn streams_connect_by_abstract_name() {
    run(async {
        let name = format!("\0wakewheel-io-streams-{}", std::process::id());
        let listener = Async::<UnixListener>::bind(&name)?;
        let mut client = Async::<UnixStream>::connect(&name).await?;
        let (mut server, _) = listener.accept().await?;
        client.write_all(b"hello").await?;
        server.read_exact(&mut [0; 5]).await?;
        Ok(())
    });
}

#[test]
fn a_full_queue_of_unix_datagrams_is_waited_for() {
    let dir = Dir::new("full_queue");
    run(async {
        const MANY: u32 = 2000;
        let (a, b) = Async::<UnixDatagram>::pair()?;
        let to = Async::<UnixDatagram>::bind(dir.path("socket"))?;
        let from = Async::<UnixDatagram>::unbound()?;
        let send = async {
            for i in 0..MANY {
                a.send(&i.to_le_bytes()).await?;
                from.send_to(&i.to_le_bytes(), dir.path("socket")).await?;
            }
            Ok(())
        };
        let receive = async {
            let mut buf = [0; 8];
            for i in 0..MANY {
                assert_eq!(b.recv(&mut buf).await?, 4);
                assert_eq!(buf[..4], i.to_le_bytes());
                to.recv_from(&mut buf).await?;
                assert_eq!(buf[..4], i.to_le_bytes());
            }
            Ok(())
        };
        future::try_zip(send, receive).await.map(drop)
    });
}

// ---------------------------------------------------------------------------------------- hang-ups

with_tcp_and_unix! {
    fn a_hang_up_is_seen_without_reading_and_by_everybody(a, mut b) {
        let (wakes, waker) = Wakes::new();
        let (mut first, mut second) = (a.closed(), a.closed());
        assert!(poll(&mut first, &waker).is_pending());
        assert!(poll(&mut second, &waker).is_pending());
        b.write_all(b"data is no hang-up").await?;
        a.readable().await?;
        assert!(poll(&mut first, &waker).is_pending());
        assert_eq!(wakes.count(), 0);
        drop(b);
        a.closed().await?;
        while wakes.count() < 2 {
            sleep(Duration::from_micros(100)).await;
        }
        assert!(poll(&mut first, &waker).is_ready() && poll(&mut second, &waker).is_ready());
        // It stays, and nothing was read.
        a.closed().await?;
        let mut text = String::new();
        (&a).read_to_string(&mut text).await?;
        assert_eq!(text, "data is no hang-up");
        a.closed().await?;
    }

    fn a_half_close_of_the_peer_is_a_hang_up_and_ones_own_is_not(a, b) {
        a.shutdown(Shutdown::Write)?;
        assert!(future::poll_once(a.closed()).await.is_none());
        b.closed().await?;
        b.shutdown(Shutdown::Write)?;
        a.closed().await?;
    }
}

/// An error ends nobody's wait for a hang-up, whether somebody takes it or not.
#[cfg(target_os = "linux")]
mod behind_an_error {
    use super::*;
    use common::skip_if;
    use wakewheel::reactor::{Backend, Reactor};

    /// Turns `reactor` until `done`.
    fn turn_until(reactor: &Reactor, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it does not happen");
            reactor.turn(Some(left)).unwrap();
        }
    }

    fn backends() -> &'static [Backend] {
        if skip_if(cfg!(wakewheel_libkqueue), "to libkqueue, an error is the end") {
            &[Backend::Poll]
        } else {
            &[Backend::NATIVE, Backend::Poll]
        }
    }

    /// The socket has its error from a datagram that nobody wanted, and its hang-up from a shutdown: its own, because UDP has
    /// no other.
    #[test]
    fn a_hang_up_is_seen() {
        for &backend in backends() {
            for taken in [false, true] {
                println!("{backend}, taken: {taken}");
                let deaf = UdpSocket::bind(SocketAddr::from(LOCALHOST)).unwrap();
                deaf.connect(deaf.local_addr().unwrap()).unwrap();
                let reactor = Reactor::builder().backend(backend).build().unwrap();
                let a = reactor.enter(|| Async::<UdpSocket>::bind(LOCALHOST)).unwrap();
                a.get_ref().connect(deaf.local_addr().unwrap()).unwrap();

                let (closed, waker) = Wakes::new();
                let (mut first, mut second) = (a.closed(), a.closed());
                assert!(poll(&mut first, &waker).is_pending());
                assert!(poll(&mut second, &waker).is_pending());
                a.get_ref().send(b"hello").unwrap();
                // The error is reported while two wait for the hang-up and perhaps a third for the error.
                let (answers, answer) = Wakes::new();
                let mut buf = [0; 8];
                let mut recv = Box::pin(a.recv(&mut buf));
                let mut result = Poll::Pending;
                if taken {
                    turn_until(&reactor, || {
                        result = poll(&mut recv, &answer);
                        result.is_ready()
                    });
                    assert!(
                        matches!(result, Poll::Ready(Err(e)) if e.kind() == ErrorKind::ConnectionRefused)
                    );
                } else {
                    turn_until(&reactor, || reactor.turn(Some(PATIENCE)).unwrap().events > 0);
                }
                drop((recv, answers));
                assert_eq!(closed.count(), 0, "an error is no hang-up");

                // SAFETY: no pointers.
                assert_eq!(unsafe { libc::shutdown(a.as_raw_fd(), libc::SHUT_RD) }, 0);
                turn_until(&reactor, || closed.count() == 2);
                assert!(poll(&mut first, &waker).is_ready() && poll(&mut second, &waker).is_ready());
            }
        }
    }

    /// What a TCP socket has to tell of its own sending (when a segment was acknowledged, for one who asked) is an error to
    /// poll(2), and lasts until it is taken.
    #[test]
    fn a_hang_up_is_seen_behind_timestamps() {
        for &backend in backends() {
            println!("{backend}");
            let (a, b) = tcp_pair();
            let wanted = libc::SOF_TIMESTAMPING_TX_ACK | libc::SOF_TIMESTAMPING_SOFTWARE;
            // SAFETY: `wanted` is valid, with its length.
            let result = unsafe {
                let len = size_of_val(&wanted) as libc::socklen_t;
                libc::setsockopt(
                    a.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_TIMESTAMPING,
                    (&raw const wanted).cast(),
                    len,
                )
            };
            assert_eq!(result, 0);
            let reactor = Reactor::builder().backend(backend).build().unwrap();
            let a = reactor.enter(|| Async::new(a)).unwrap();
            let (closed, waker) = Wakes::new();
            let mut closing = a.closed();
            assert!(poll(&mut closing, &waker).is_pending());
            a.get_ref().write_all(b"x").unwrap();
            turn_until(&reactor, || reactor.turn(Some(PATIENCE)).unwrap().events > 0);
            assert_eq!(closed.count(), 0);
            drop(b);
            turn_until(&reactor, || closed.count() == 1);
            assert!(poll(&mut closing, &waker).is_ready());
        }
    }
}

// -------------------------------------------------------------------------------------------- signals

#[test]
fn a_storm_of_signals_is_no_error() {
    in_a_process_of_its_own("a_storm_of_signals_is_no_error", || {
        static SIGNALS: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn count(_: libc::c_int) {
            SIGNALS.fetch_add(1, Ordering::Relaxed);
        }
        let every = libc::timeval { tv_sec: 0, tv_usec: 200 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        // SAFETY: zeroes are a sigaction without flags (no SA_RESTART); the handler only adds to an atomic; both
        // structures are valid for reads.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
            assert_eq!(libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()), 0);
            assert_eq!(libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()), 0);
        }
        async fn echo() -> io::Result<()> {
            let listener = Async::<TcpListener>::bind(LOCALHOST)?;
            let addr = listener.get_ref().local_addr()?;
            let server = async {
                let (mut stream, _) = listener.accept().await?;
                let mut buf = [0; 4];
                while stream.read(&mut buf).await? != 0 {
                    stream.write_all(&buf).await?;
                }
                Ok(())
            };
            let client = async {
                let mut stream = Async::<TcpStream>::connect(addr).await?;
                let mut buf = [0; 4];
                for i in 0..300_u32 {
                    stream.write_all(&i.to_le_bytes()).await?;
                    stream.read_exact(&mut buf).await?;
                    assert_eq!(buf, i.to_le_bytes());
                    if i % 10 == 0 {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
                Ok(())
            };
            future::try_zip(server, client).await.map(drop)
        }
        run(echo());
        LocalExecutor::new().unwrap().block_on(within(echo())).unwrap();
        future::block_on(within(echo())).unwrap();
        assert!(SIGNALS.load(Ordering::Relaxed) > 100, "no storm");
    });
}

// ------------------------------------------------------------------------------------------- fairness

/// More operations than anybody should have to wait for.
const TOO_MANY: u32 = 5_000_000;

/// A peek that is always ready, for ever.
async fn firehose(stream: &Async<TcpStream>) {
    for _ in 0..TOO_MANY {
        assert_eq!(stream.peek(&mut [0; 8]).await.unwrap(), 1);
    }
    panic!("nobody else had a chance");
}

fn firehose_stream() -> (Async<TcpStream>, TcpStream) {
    let (a, mut b) = tcp_pair();
    b.write_all(b"x").unwrap();
    (Async::new(a).unwrap(), b)
}

#[test]
fn a_firehose_lets_other_tasks_of_our_executor_run() {
    LocalExecutor::new().unwrap().block_on(within(async {
        let (stream, _peer) = firehose_stream();
        let hose = spawn_local(async move { firehose(&stream).await });
        let (mut a, b) = Async::<UnixStream>::pair().unwrap();
        let reader = spawn_local(async move { (&b).read(&mut [0; 8]).await });
        sleep(Duration::from_millis(2)).await;
        a.write_all(b"me too").await.unwrap();
        assert_eq!(reader.await.unwrap().unwrap(), 6);
        drop(hose);
    }));
}

#[test]
fn a_firehose_lets_the_others_of_its_own_task_run() {
    let test = async || {
        let (stream, _peer) = firehose_stream();
        let timer = async {
            sleep(Duration::from_millis(2)).await;
        };
        future::or(timer, firehose(&stream)).await;
    };
    block_on(within(test()));
    future::block_on(within(test()));
}

#[test]
fn every_kind_of_operation_that_is_always_ready_yields() {
    async fn yields<R>(what: &str, mut op: impl AsyncFnMut() -> io::Result<R>) {
        let polls = Cell::new(0);
        let operations = async {
            for _ in 0..1000 {
                op().await.unwrap_or_else(|e| panic!("{what}: {e}"));
            }
        };
        counted(&polls, operations).await;
        assert!(polls.get() > 3, "{what}: {} polls for 1000 operations", polls.get());
    }
    let test = async || {
        let (stream, _peer) = firehose_stream();
        let udp = Async::<UdpSocket>::bind(LOCALHOST).unwrap();
        let nobody = udp.get_ref().local_addr().unwrap();
        // A semaphore: each read takes one of very many.
        // SAFETY: no pointers; the descriptor is ours alone.
        let event = unsafe {
            let flags = libc::EFD_CLOEXEC | libc::EFD_SEMAPHORE;
            Async::new(File::from_raw_fd(libc::eventfd(u32::MAX, flags))).unwrap()
        };
        let listener = Async::<TcpListener>::bind(LOCALHOST).unwrap();
        let addr = listener.get_ref().local_addr().unwrap();
        yields("peek", async || stream.peek(&mut [0; 8]).await).await;
        yields("send_to", async || udp.send_to(b"x", nobody).await).await;
        yields("the read of a type that we do not know", async || (&event).read(&mut [0; 8]).await).await;
        yields("accept", async || {
            let client = TcpStream::connect(addr)?;
            listener.accept().await.map(|_| reset(client))
        })
        .await;
    };
    block_on(within(test()));
    future::block_on(within(test()));
    LocalExecutor::new().unwrap().block_on(within(test()));
}

// ---------------------------------------------------------------------------------- passing descriptors

#[test]
fn descriptors_are_passed_with_bytes() {
    run(async {
        let (a, b) = Async::<UnixStream>::pair()?;
        let ((pipe_reader, mut pipe_writer), (other_reader, _other_writer)) = (pipe(), pipe());
        let mut buf = [0; 16];
        let mut receiving = Box::pin(b.recv_fds(&mut buf, 4));
        assert!(future::poll_once(&mut receiving).await.is_none());
        let fds = [pipe_reader.as_fd(), other_reader.as_fd()];
        assert_eq!(a.send_fds(b"two", &fds).await?, 3);
        drop(pipe_reader);
        let (n, fds) = receiving.await?;
        assert_eq!((n, fds.len()), (3, 2));
        for fd in &fds {
            // SAFETY: no pointers.
            assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
        }
        let mut received: Async<File> = fds.into_iter().next().unwrap().try_into()?;
        pipe_writer.write_all(b"through")?;
        assert_eq!(received.read(&mut buf).await?, 7);
        // Bytes without descriptors, and the end.
        (&a).write_all(b"none").await?;
        drop(a);
        let (n, fds) = b.recv_fds(&mut buf, 4).await?;
        assert_eq!((n, fds.len()), (4, 0));
        let (n, fds) = b.recv_fds(&mut buf, 4).await?;
        assert_eq!((n, fds.len()), (0, 0));
        Ok(())
    });
}

#[test]
fn more_descriptors_than_were_asked_for_are_an_error_and_closed() {
    run(async {
        let (a, b) = Async::<UnixStream>::pair()?;
        let (reader, mut writer) = pipe();
        a.send_fds(b"x", &[reader.as_fd(), reader.as_fd(), reader.as_fd()]).await?;
        drop(reader);
        b.recv_fds(&mut [0; 8], 1).await.expect_err("three, not one");
        // No reader is left anywhere.
        assert_eq!(writer.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        Ok(())
    });
}

/// One call takes no more than IOV_MAX slices. That it filled all of those does not say that nothing is left.
#[test]
fn more_slices_than_a_call_takes_do_not_hide_what_is_left() {
    let (mut a, b) = tcp_pair();
    a.write_all(&[1; 3000]).unwrap();
    let mut b = Async::new(b).unwrap();
    run(async {
        let mut came = 0;
        while came < 3000 {
            let mut bytes = [0; 3000];
            let mut slices: Vec<_> = bytes.chunks_mut(1).map(IoSliceMut::new).collect();
            came += b.read_vectored(&mut slices).await?;
        }
        Ok(())
    });
}
