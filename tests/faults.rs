//! System calls that fail: each test runs itself once more under strace(1), which makes certain calls fail in ways that
//! a healthy kernel hardly ever shows. The calls are not made then, so only faults that leave nothing undone are
//! told: an `EAGAIN` for a socket that had data, say, would be a lie that no edge-triggered program could survive.

#![cfg(target_os = "linux")]

#[path = "common/dir.rs"]
mod dir;
#[path = "common/strace.rs"]
mod strace;

use dir::Dir;
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, future};
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};
use strace::{Traced, call, missing, skip};
use wakewheel::executor::{self, drain};
use wakewheel::io::{RecvBatch, SocketOptions};
use wakewheel::reactor::{Backend, Reactor};
use wakewheel::{Async, LocalExecutor, Timer, sleep, spawn_local, timeout};

const SCENARIO: &str = "WAKEWHEEL_TEST_SCENARIO";

/// Runs `scenario` in a process where the calls fail as `faults` say (strace's `inject`), and returns the lines of
/// strace's log in which one did. `None`: cannot be done here, and that has been said.
fn under(test: &str, faults: &[&str], scenario: impl FnOnce()) -> Option<Vec<String>> {
    if std::env::var(SCENARIO).is_ok_and(|name| name == test) {
        scenario();
        return None;
    }
    if let Some(why) = missing() {
        skip(test, &why);
        return None;
    }
    let options: Vec<_> = faults.iter().flat_map(|fault| ["-e".into(), format!("inject={fault}")]).collect();
    let itself = std::env::current_exe().expect("the path of this test");
    let mut traced = Traced::start(&options, &itself, |command| {
        // One thread: the harness has no calls of its own while the scenario runs.
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(SCENARIO, test);
    });
    let status = traced.wait();
    let log = traced.log();
    if !status.success() {
        panic!(
            "the scenario failed: {status}\n{}\nits last calls:\n{}",
            traced.said(),
            traced.last_lines(40)
        );
    }
    let injected: Vec<_> =
        log.lines().filter(|line| line.ends_with("(INJECTED)")).map(String::from).collect();
    Some(injected)
}

/// How many of the lines are of one of these calls.
fn of(calls: &[&str], lines: &[String]) -> usize {
    // A call during which strace had something else to tell ends on a line of its own.
    let name = |line: &str| {
        let line = line.replace("<... ", "").replace(" resumed>", "(");
        call(&format!("{line}\n")).map(String::from)
    };
    lines.iter().filter(|line| name(line).is_some_and(|name| calls.contains(&name.as_str()))).count()
}

fn is_epoll() -> bool {
    Reactor::new().is_ok_and(|reactor| reactor.backend() == Backend::Epoll)
}

/// For faults of calls that only this backend makes.
fn only_epoll(test: &str) -> bool {
    let is_epoll = is_epoll();
    if !is_epoll {
        skip(test, "the backend is not epoll");
    }
    is_epoll
}

fn run<T>(future: impl Future<Output = io::Result<T>>) -> T {
    LocalExecutor::new()
        .expect("an executor")
        .block_on(timeout(Duration::from_secs(30), future))
        .expect("done within half a minute")
        .expect("no errors")
}

/// The descriptors that this process has open.
fn open_descriptors() -> Vec<String> {
    let dir = std::fs::read_dir("/proc/self/fd").expect("/proc");
    let mut names: Vec<_> = dir
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        // Not the one that reads the directory.
        .filter(|name| std::fs::metadata(format!("/proc/self/fd/{name}")).is_ok())
        .collect();
    names.sort();
    names
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8).collect()
}

/// Sends `n` bytes through `stream`, whose other end echoes, and checks what comes back.
async fn exchange(stream: &Async<TcpStream>, n: usize) -> io::Result<()> {
    let sent = bytes(n);
    let mut received = vec![0; n];
    let (mut reader, mut writer) = (stream, stream);
    let send = async { writer.write_all(&sent).await };
    let receive = async { reader.read_exact(&mut received).await };
    future::try_zip(send, receive).await?;
    assert!(sent == received, "{n} bytes came back as others");
    Ok(())
}

async fn echo(mut stream: Async<TcpStream>) -> io::Result<()> {
    loop {
        let chunk = stream.read_chunk().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        stream.write_all(&chunk).await?;
    }
}

// ------------------------------------------------------------------------------------------------- EINTR

#[test]
fn interruptions_are_no_errors() {
    const CALLS: &str =
        "recvfrom,recvmmsg,sendto,recvmsg,sendmsg,accept4,epoll_wait,epoll_pwait,epoll_pwait2,ppoll,poll";
    let fault = format!("{CALLS}:error=EINTR:when=1+2");
    let injected = under("interruptions_are_no_errors", &[&fault], || {
        run(async {
            let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
            let addr = listener.get_ref().local_addr()?;
            let server = spawn_local(async move {
                for _ in 0..20 {
                    let (stream, _) = listener.accept().await?;
                    spawn_local(echo(stream)).detach();
                }
                io::Result::Ok(())
            });
            for i in 0..20 {
                let client = Async::<TcpStream>::connect(addr).await?;
                exchange(&client, 1 << i).await?;
                client
                    .readable()
                    .or(async {
                        Timer::after(Duration::from_millis(1)).await;
                        Ok(())
                    })
                    .await?;
            }
            server.await.expect("no panic")?;

            let (a, b) = (
                Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?,
                Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?,
            );
            let mut batch = RecvBatch::new(4, 1);
            for i in 0..20 {
                let mut buf = [0];
                a.send_to(&[i], b.get_ref().local_addr()?).await?;
                assert_eq!(b.recv_from(&mut buf).await?.0, 1);
                assert_eq!(buf, [i]);
                a.send_to(&[i], b.get_ref().local_addr()?).await?;
                assert_eq!(b.recv_batch(&mut batch).await?, 1);
                assert!(batch.iter().all(|datagram| datagram.bytes == [i]));
            }

            let (a, b) = Async::<UnixStream>::pair()?;
            a.send_fds(b"fd", &[a.as_fd()]).await?;
            let (n, fds) = b.recv_fds(&mut [0; 8], 1).await?;
            assert_eq!((n, fds.len()), (2, 1));
            drain(Duration::from_secs(30)).await;
            Ok(())
        });
    });
    if let Some(injected) = injected {
        for call in ["recvfrom", "recvmmsg", "sendto", "accept4", "recvmsg", "sendmsg"] {
            assert!(of(&[call], &injected) >= 1, "{call}: {injected:?}");
        }
        assert!(
            of(&["epoll_wait", "epoll_pwait", "epoll_pwait2", "ppoll", "poll"], &injected) >= 10,
            "{injected:?}"
        );
    }
}

/// An interrupted wait is a turn with nothing to report, and not a reason to fire a timer early.
#[test]
fn timers_are_not_early_when_waits_are_interrupted() {
    let faults = ["epoll_wait,epoll_pwait,epoll_pwait2,ppoll:error=EINTR:when=1+2"];
    let injected = under("timers_are_not_early_when_waits_are_interrupted", &faults, || {
        run(async {
            for i in 1..20 {
                let (started, duration) = (Instant::now(), Duration::from_micros(i * 177));
                sleep(duration).await;
                assert!(started.elapsed() >= duration, "{:?} instead of {duration:?}", started.elapsed());
            }
            Ok(())
        });
    });
    if let Some(injected) = injected {
        assert!(injected.len() >= 10, "{injected:?}");
    }
}

/// One that was interrupted goes on by itself. (strace does not make the call, so here it has to be made again.)
#[test]
fn a_wait_in_a_reactor_of_ones_own_may_be_interrupted() {
    let faults = ["epoll_wait,epoll_pwait,epoll_pwait2,ppoll:error=EINTR:when=1..3"];
    let injected = under("a_wait_in_a_reactor_of_ones_own_may_be_interrupted", &faults, || {
        let reactor = Reactor::new().unwrap();
        for _ in 0..3 {
            let turn = reactor.turn(Some(Duration::from_secs(60))).unwrap();
            assert_eq!((turn.events, turn.timers, turn.woken), (0, 0, 0));
        }
    });
    if let Some(injected) = injected {
        assert_eq!(injected.len(), 3, "{injected:?}");
    }
}

// ------------------------------------------------------------------------------------------------ EAGAIN

/// A pipe with little room.
fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, which are ours alone.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        assert!(libc::fcntl(fds[1], libc::F_SETPIPE_SZ, 4096) >= 4096);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

/// A descriptor whose rules we do not know may say "would block" whatever the kernel says of it: every wait asks the
/// kernel again.
#[test]
fn a_storm_of_would_block_on_a_pipe_loses_nothing() {
    // readv and writev: the harness has no use for them.
    let faults = ["readv,writev:error=EAGAIN:when=1+2"];
    let injected = under("a_storm_of_would_block_on_a_pipe_loses_nothing", &faults, || {
        run(async {
            let (r, w) = pipe();
            let (r, w) = (Async::new(std::fs::File::from(r))?, Async::new(std::fs::File::from(w))?);
            let sent = bytes(100_000);
            let write = async {
                let mut left = &sent[..];
                while !left.is_empty() {
                    let n = w.write_with(|mut pipe| pipe.write_vectored(&[io::IoSlice::new(left)])).await?;
                    left = &left[n..];
                }
                io::Result::Ok(())
            };
            let read = async {
                let mut received = Vec::new();
                let mut buf = [0; 3000];
                while received.len() < sent.len() {
                    let n = r
                        .read_with(|mut pipe| pipe.read_vectored(&mut [io::IoSliceMut::new(&mut buf)]))
                        .await?;
                    received.extend_from_slice(&buf[..n]);
                }
                assert!(received == sent);
                Ok(())
            };
            future::try_zip(write, read).await?;
            Ok(())
        });
    });
    if let Some(injected) = injected {
        assert!(of(&["readv"], &injected) >= 10 && of(&["writev"], &injected) >= 10, "{injected:?}");
    }
}

/// The backlog of a Unix listener is full, and no event tells when it is not.
#[test]
fn connecting_to_a_busy_unix_listener_waits() {
    let faults = ["connect:error=EAGAIN:when=1..4"];
    let injected = under("connecting_to_a_busy_unix_listener_waits", &faults, || {
        run(async {
            let dir = Dir::new("busy");
            let listener = Async::<UnixListener>::bind(dir.path("socket"))?;
            let started = Instant::now();
            let (client, server) =
                future::try_zip(Async::<UnixStream>::connect(dir.path("socket")), listener.accept()).await?;
            // 1 + 2 + 4 + 8 milliseconds.
            assert!(started.elapsed() >= Duration::from_millis(15), "{:?}", started.elapsed());
            (&client).write_all(b"x").await?;
            assert_eq!(&*server.0.read_chunk().await?, b"x");
            Ok(())
        });
    });
    if let Some(injected) = injected {
        assert_eq!(injected.len(), 4, "{injected:?}");
    }
}

/// The queue of another's datagram socket is full: the same.
#[test]
fn sending_to_a_busy_unix_datagram_socket_waits() {
    let faults = ["sendto:error=EAGAIN:when=1..4"];
    let injected = under("sending_to_a_busy_unix_datagram_socket_waits", &faults, || {
        run(async {
            let dir = Dir::new("datagram");
            let receiver = Async::<UnixDatagram>::bind(dir.path("socket"))?;
            let sender = Async::<UnixDatagram>::unbound()?;
            assert_eq!(sender.send_to(b"hello", dir.path("socket")).await?, 5);
            assert_eq!(receiver.recv(&mut [0; 8]).await?, 5);
            Ok(())
        });
    });
    if let Some(injected) = injected {
        assert_eq!(injected.len(), 4, "{injected:?}");
    }
}

// ------------------------------------------------------------------------------- no descriptors, no memory

async fn accept_once(listener: &Async<TcpListener>) -> io::Result<Async<TcpStream>> {
    listener.accept().await.map(|(stream, _)| stream)
}

/// A shortage that passes is not seen at all.
#[test]
fn accept_outlasts_a_short_lack_of_descriptors() {
    for error in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"] {
        let fault = format!("accept4:error={error}:when=1..4");
        let injected = under("accept_outlasts_a_short_lack_of_descriptors", &[&fault], || {
            run(async {
                let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
                let client = TcpStream::connect(listener.get_ref().local_addr()?)?;
                let started = Instant::now();
                let server = accept_once(&listener).await?;
                assert!(started.elapsed() >= Duration::from_millis(1 + 2 + 4 + 8), "{:?}", started.elapsed());
                assert_eq!(server.get_ref().peer_addr()?, client.local_addr()?);
                Ok(())
            });
        });
        match injected {
            Some(injected) => assert_eq!(injected.len(), 4, "{injected:?}"),
            None => return,
        }
    }
}

/// One that lasts is reported after a tenth of a second, again and again without spinning, and accepting goes on when it
/// is over. The other tasks of the core run all the time.
#[test]
fn accept_reports_a_long_lack_of_descriptors_and_does_not_spin() {
    let faults = ["accept4:error=EMFILE:when=1..25"];
    let injected = under("accept_reports_a_long_lack_of_descriptors_and_does_not_spin", &faults, || {
        run(async {
            let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
            let client = TcpStream::connect(listener.get_ref().local_addr()?)?;
            let _other = spawn_local(async {
                loop {
                    sleep(Duration::from_millis(5)).await;
                }
            });
            let (started, mut errors) = (Instant::now(), 0);
            let server = loop {
                match accept_once(&listener).await {
                    Ok(server) => break server,
                    Err(e) => {
                        assert_eq!(e.raw_os_error(), Some(libc::EMFILE));
                        errors += 1;
                    }
                }
            };
            assert_eq!(server.get_ref().peer_addr()?, client.local_addr()?);
            // Eight tries, at 0, 1, 3, 7, 15, 31, 63 and 100 milliseconds, make an error.
            assert_eq!(errors, 3);
            assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
            Ok(())
        });
    });
    if let Some(injected) = injected {
        assert_eq!(injected.len(), 25, "{injected:?}");
    }
}

/// Runs `scenario` in a process where the `nth` registration with epoll fails with `error`. (The first two are those of
/// the notifiers, in [`only_epoll`] and in the reactor of the scenario.)
fn unregistrable(test: &str, nth: u32, error: &str, scenario: impl FnOnce()) {
    if !only_epoll(test) {
        return;
    }
    let fault = format!("epoll_ctl:error={error}:when={nth}");
    if let Some(injected) = under(test, &[&fault], scenario) {
        assert_eq!(injected.len(), 1, "{injected:?}");
        assert!(injected[0].contains("EPOLL_CTL_ADD"), "{injected:?}");
    }
}

/// It is closed, its peer hears of that, and the listener goes on.
#[test]
fn a_connection_that_cannot_be_registered_is_closed() {
    unregistrable("a_connection_that_cannot_be_registered_is_closed", 4, "ENOMEM", || {
        run(async {
            let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
            let addr = listener.get_ref().local_addr()?;
            let mut refused = TcpStream::connect(addr)?;
            let before = open_descriptors();
            let e = accept_once(&listener).await.unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::ENOMEM), "{e}");
            assert_eq!(open_descriptors(), before);
            assert_eq!(refused.read(&mut [0])?, 0);

            let client = TcpStream::connect(addr)?;
            let server = accept_once(&listener).await?;
            assert_eq!(server.get_ref().peer_addr()?, client.local_addr()?);
            exchange_bytes(&server, &client).await
        });
    });
}

async fn exchange_bytes(server: &Async<TcpStream>, mut client: &TcpStream) -> io::Result<()> {
    let mut writer = server;
    writer.write_all(b"hello").await?;
    let mut buf = [0; 5];
    client.read_exact(&mut buf)?;
    assert_eq!(&buf, b"hello");
    Ok(())
}

#[test]
fn a_socket_that_cannot_be_registered_is_closed_and_its_number_is_free() {
    unregistrable("a_socket_that_cannot_be_registered_is_closed_and_its_number_is_free", 3, "ENOSPC", || {
        run(async {
            let before = open_descriptors();
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            let fd = socket.as_raw_fd();
            let e = Async::new(socket).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::StorageFull);
            let text = e.to_string();
            assert!(text.contains(&format!("descriptor {fd}")), "{text}");
            assert!(text.contains("/proc/sys/fs/epoll/max_user_watches"), "{text}");
            assert_eq!(open_descriptors(), before);
            assert_eq!(executor::current().stats().sources_alive, 0);

            let next = Async::new(UdpSocket::bind("127.0.0.1:0")?)?;
            assert_eq!(next.as_raw_fd(), fd);
            next.send_to(b"x", next.get_ref().local_addr()?).await?;
            assert_eq!(next.recv(&mut [0; 2]).await?, 1);
            Ok(())
        });
    });
}

#[test]
fn a_connect_that_cannot_be_registered_closes_its_socket() {
    unregistrable("a_connect_that_cannot_be_registered_closes_its_socket", 3, "ENOMEM", || {
        run(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            let addr = listener.local_addr()?;
            let before = open_descriptors();
            let e = Async::<TcpStream>::connect(addr).await.unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::ENOMEM), "{e}");
            assert_eq!(open_descriptors(), before);
            Async::<TcpStream>::connect(addr).await.map(drop)
        });
    });
}

#[test]
fn a_pair_of_which_one_cannot_be_registered_is_closed() {
    unregistrable("a_pair_of_which_one_cannot_be_registered_is_closed", 4, "ENOMEM", || {
        run(async {
            let before = open_descriptors();
            assert_eq!(Async::<UnixStream>::pair().unwrap_err().raw_os_error(), Some(libc::ENOMEM));
            assert_eq!(open_descriptors(), before);
            assert_eq!(executor::current().stats().sources_alive, 0);
            Ok(())
        });
    });
}

/// Whatever fails when a reactor is made, it leaves nothing behind.
#[test]
fn a_reactor_that_cannot_be_made_leaves_no_descriptors() {
    const TEST: &str = "a_reactor_that_cannot_be_made_leaves_no_descriptors";
    if !only_epoll(TEST) {
        return;
    }
    // The first of each is that of `only_epoll`.
    let faults = [
        "epoll_create1:error=EMFILE:when=2",
        "eventfd2:error=ENFILE:when=2",
        "epoll_ctl:error=ENOMEM:when=2",
    ];
    let injected = under(TEST, &faults, || {
        let before = open_descriptors();
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            assert_eq!(Reactor::new().unwrap_err().raw_os_error(), Some(code));
            assert_eq!(open_descriptors(), before);
        }
        run(async { Ok(sleep(Duration::from_millis(1)).await) });
        assert_eq!(open_descriptors(), before);
    });
    if let Some(injected) = injected {
        assert_eq!(injected.len(), 3, "{injected:?}");
    }
}

// -------------------------------------------------------------------------------- an older or a stricter kernel

/// Before Linux 5.11 there is no epoll_pwait2 (ENOSYS), and a filter that does not know it may forbid it (EPERM). Then
/// waits count in milliseconds, rounded up.
fn without_epoll_pwait2(test: &str, error: &str) {
    if !only_epoll(test) {
        return;
    }
    let fault = format!("epoll_pwait2:error={error}");
    let injected = under(test, &[&fault], || {
        run(async {
            for i in 1..20 {
                let (started, duration) = (Instant::now(), Duration::from_micros(i * 177));
                sleep(duration).await;
                assert!(started.elapsed() >= duration, "{:?} instead of {duration:?}", started.elapsed());
            }
            let stats = executor::current().stats();
            assert_eq!(stats.timers, 19);
            // Rounded down, the last millisecond of each would be a turn after the other.
            assert!(stats.turns <= 3 * 19, "{stats:?}");
            let (a, b) = Async::<UnixStream>::pair()?;
            let started = Instant::now();
            let late = timeout(Duration::from_millis(20), a.read_chunk());
            assert!(late.await.is_err() && started.elapsed() >= Duration::from_millis(20));
            (&b).write_all(b"x").await?;
            assert_eq!(&*a.read_chunk().await?, b"x");
            Ok(())
        });
    });
    if let Some(injected) = injected {
        assert_eq!(injected.len(), 1, "the kernel has said it once, and is not asked again: {injected:?}");
    }
}

#[test]
fn without_epoll_pwait2_timers_are_not_early() {
    without_epoll_pwait2("without_epoll_pwait2_timers_are_not_early", "ENOSYS");
}

#[test]
fn with_epoll_pwait2_forbidden_timers_are_not_early() {
    without_epoll_pwait2("with_epoll_pwait2_forbidden_timers_are_not_early", "EPERM");
}

/// What the kernel says of a wait is not passed over: here, that the selector is none.
#[test]
fn a_selector_that_fails_is_an_error() {
    let faults = ["epoll_wait,epoll_pwait,epoll_pwait2,ppoll:error=EINVAL:when=1"];
    let injected = under("a_selector_that_fails_is_an_error", &faults, || {
        let reactor = Reactor::new().unwrap();
        let timeout = Some(Duration::from_millis(1));
        assert_eq!(reactor.turn(timeout).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        // It may be tried again.
        reactor.turn(timeout).unwrap();
    });
    if let Some(injected) = injected {
        assert_eq!(injected.len(), 1, "{injected:?}");
    }
}

// ---------------------------------------------------------------------------------------------- short writes

/// Not by strace, whose short writes would be lies: by buffers that have room for little.
#[test]
fn short_writes_and_short_reads_lose_nothing() {
    run(async {
        let options = SocketOptions::new().send_buffer_size(4096).recv_buffer_size(4096).nodelay();
        let listener = options.listen(([127, 0, 0, 1], 0))?;
        let addr: SocketAddr = listener.get_ref().local_addr()?;
        let server = spawn_local(async move { echo(accept_once(&listener).await?).await });
        let client = options.connect(addr).await?;
        exchange(&client, 1_000_000).await?;
        client.get_ref().shutdown(std::net::Shutdown::Write)?;
        server.await.expect("no panic")
    });
}

/// The same over a Unix socket, with a reader that takes a few bytes at a time and is slow about it.
#[test]
fn a_slow_reader_gets_everything() {
    run(async {
        let (mut writer, mut reader) = Async::<UnixStream>::pair()?;
        let sent = bytes(300_000);
        let send = async {
            writer.write_all(&sent).await?;
            writer.close().await?;
            writer.get_ref().shutdown(std::net::Shutdown::Write)
        };
        let receive = async {
            let (mut received, mut buf) = (Vec::new(), [0; 777]);
            loop {
                let n = reader.read(&mut buf).await?;
                if n == 0 {
                    break;
                }
                received.extend_from_slice(&buf[..n]);
                if received.len() % 5 == 0 {
                    executor::yield_now().await;
                }
            }
            assert!(received == sent);
            Ok(())
        };
        future::try_zip(send, receive).await?;
        Ok(())
    });
}
