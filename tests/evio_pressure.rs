//! The callbacks under pressure: back-pressure, fairness, resources. The numbers are those of the list of behaviours.
//!
//! Faults of Go's evio that are shown absent here: full use of a processor while output is pending and input unread (b35),
//! a server that ends, with `Ok`, when descriptors run out (b41), descriptors that a child process inherits (b45).

mod common;
#[path = "common/evio.rs"]
mod helper;

use common::dir::Dir;
use common::in_a_process_of_its_own;
use helper::*;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{fs, mem, thread};
use wakewheel::evio::{Action, Addr, Builder, ConnHandle, Events, LoadBalance, Options, Reply};
use wakewheel::io::Stream;

const MS: Duration = Duration::from_millis(1);
const TCP: &str = "tcp://127.0.0.1:0";
const MIB: usize = 1 << 20;

/// A Unix address in a directory.
fn unix(dir: &Dir) -> String {
    format!("unix://{}", dir.path("socket").display())
}

fn echo() -> Events {
    Events::new().data(|_, input| Reply::send(input))
}

/// Sends what it can without waiting, until for a while nothing goes any more. Returns how much that was.
fn send_until_full(client: &mut Client) -> usize {
    match client {
        Client::Tcp(stream) => stream.set_nonblocking(true).unwrap(),
        Client::Unix(stream) => stream.set_nonblocking(true).unwrap(),
    }
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < 150 * MS {
        match client.write(&[b'x'; 16 * 1024]) {
            Ok(n) => (sent, last) = (sent + n, Instant::now()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(MS),
            Err(e) => panic!("{e}"),
        }
        assert!(sent < 100 * MIB, "nothing stops it");
    }
    match client {
        Client::Tcp(stream) => stream.set_nonblocking(false).unwrap(),
        Client::Unix(stream) => stream.set_nonblocking(false).unwrap(),
    }
    sent
}

#[cfg(target_os = "linux")]
#[test]
fn b35_a_client_that_does_not_read_is_not_read() {
    let dir = Dir::new("b35");
    let server = start(echo(), &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        client.take_little();
        let before = server.log.input();
        let sent = send_until_full(&mut client);
        let read = server.log.input() - before;
        assert!(read < sent, "the server has stopped to read: {read} of {sent}");
        let load = server.clock.load_during(if i == 0 { 1000 * MS } else { 200 * MS });
        assert!(load < 0.1, "it waits: {load}");
        assert_eq!(server.log.input() - before, read, "still the same");
        // Others notice nothing.
        let mut other = server.connect_to(i);
        (0..100).for_each(|_| other.ask(b"ping"));
        // And when it reads, it gets everything.
        client.end();
        assert_eq!(client.read_all().len(), sent);
    }
    server.stop();
}

#[test]
fn b36_no_data_while_output_is_unsent() {
    #[derive(Default)]
    struct Session {
        queued: usize,
        sent: usize,
        handle: Option<ConnHandle>,
    }
    let block = pattern(MIB);
    let events = Events::with_context::<Session>()
        .opened(|conn| {
            conn.context.handle = Some(conn.handle());
            Action::None.into()
        })
        .data({
            let block = block.clone();
            move |conn, _| {
                let session = &mut *conn.context;
                assert_eq!(session.sent, session.queued, "all has been sent before data is called");
                session.queued += block.len();
                // And wakes all the time.
                session.handle.as_ref().unwrap().wake().unwrap();
                if session.queued > 16 * MIB { Action::Close.into() } else { Reply::send(block.clone()) }
            }
        })
        .post_write(|conn, amount, remaining| {
            conn.context.sent += amount;
            assert_eq!(conn.context.sent + remaining, conn.context.queued);
        });
    let dir = Dir::new("b36");
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        client.take_little();
        client.send(&[b'?'; 100]);
        let (mut got, mut buf) = (0, vec![0; 300_000]);
        loop {
            match client.read(&mut buf).unwrap() {
                0 => break,
                n => got += n,
            }
            client.send(b"?");
        }
        assert_eq!(got, 16 * MIB);
        assert_eq!(server.log.wait_closed(i + 1), vec![None; i + 1], "no callback has panicked");
    }
    server.stop();
}

#[cfg(target_os = "linux")]
#[test]
fn b37_the_high_water_mark_stops_a_writer() {
    /// How much memory the process has.
    fn resident() -> usize {
        let pages = fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }
    in_a_process_of_its_own("b37_the_high_water_mark_stops_a_writer", || {
        const MARK: usize = MIB;
        const PART: usize = 64 * 1024;
        let (sender, handles) = mpsc::channel();
        let sender = Mutex::new(sender);
        let events = Events::new().opened(move |conn| {
            sender.lock().unwrap().send(conn.handle()).unwrap();
            Options::new().high_water(MARK).into()
        });
        let dir = Dir::new("b37");
        let server = start(events, &[&unix(&dir)]);
        let mut client = server.connect();
        let handle = handles.recv_timeout(PATIENCE).unwrap();
        let part = vec![b'x'; PART];
        let before = resident();
        let (mut taken, mut refused, mut last) = (0, 0, Instant::now());
        for n in 0.. {
            match handle.write(&part) {
                Ok(()) => (taken, last) = (taken + PART, Instant::now()),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::WouldBlock);
                    refused += PART;
                }
            }
            // A hundred MiB, and until nothing goes any more.
            if n > 100 * MIB / PART && last.elapsed() > 50 * MS {
                break;
            }
        }
        assert!(refused > 50 * MIB, "{refused}");
        // The kernel has a part of it.
        assert!((MARK..MARK + MIB).contains(&taken), "{taken}");
        let grown = resident().saturating_sub(before);
        assert!(grown < 16 * MIB, "{} KiB more memory", grown / 1024);
        // When the client reads, there is room again.
        let mut all = vec![0; taken];
        client.read_exact(&mut all).unwrap();
        eventually("room", || handle.write(b"more").is_ok());
        client.expect(b"more");
        server.stop();
    });
}

#[test]
fn b38_post_write_tells_of_every_byte() {
    const MESSAGES: usize = 1000;
    #[derive(Default)]
    struct Session {
        queued: usize,
        sent: usize,
        pending: bool,
    }
    let sums = Arc::new(Mutex::new(Vec::new()));
    let events = Events::with_context::<Session>()
        .data(|conn, input| {
            // The answer is ten times as long.
            for _ in 0..9 {
                conn.out.extend_from_slice(input);
            }
            conn.context.queued += 10 * input.len();
            Reply::send(input)
        })
        .pre_write(|conn| conn.context.pending = true)
        .post_write(|conn, amount, remaining| {
            let session = &mut *conn.context;
            assert!(mem::take(&mut session.pending), "there is a `pre_write` before each");
            session.sent += amount;
            assert_eq!(session.sent + remaining, session.queued);
        })
        .closed({
            let sums = sums.clone();
            move |conn, _| {
                sums.lock().unwrap().push((conn.context.queued, conn.context.sent));
                Action::None
            }
        });
    let dir = Dir::new("b38");
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        let mut reader = client.try_clone();
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..MESSAGES {
                    client.send(&[b'm'; 1000]);
                }
                client.end();
            });
            // For a while, the server is alone.
            thread::sleep(20 * MS);
            assert_eq!(reader.read_all().len(), 10 * 1000 * MESSAGES);
        });
        assert_eq!(server.log.wait_closed(i + 1), vec![None; i + 1]);
        assert_eq!(sums.lock().unwrap()[i], (10 * 1000 * MESSAGES, 10 * 1000 * MESSAGES));
    }
    server.stop();
}

/// A stream that counts how often it is to be written to, and takes a little each second time only.
struct Stingy {
    stream: Stream,
    writes: Arc<AtomicUsize>,
    refuse: bool,
}

impl futures_io::AsyncRead for Stingy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl futures_io::AsyncWrite for Stingy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, SeqCst);
        self.refuse = !self.refuse;
        if self.refuse {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let len = buf.len().min(10);
        Pin::new(&mut self.stream).poll_write(cx, &buf[..len])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[test]
fn b39_pre_write_is_called_for_each_attempt() {
    let writes = Arc::new(AtomicUsize::new(0));
    let builder = Builder::new().translate(|_, _| true, {
        let writes = writes.clone();
        move |stream| {
            let writes = writes.clone();
            async move { Ok(Stingy { stream, writes, refuse: false }) }
        }
    });
    let dir = Dir::new("b39");
    let server = start(echo().choices(builder), &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        client.ask(&[b'x'; 1000]);
    }
    server.log.wait_closed(2);
    let log = server.stop();
    assert_eq!(log.pre_writes(), writes.load(SeqCst), "one for each attempt");
    assert!(log.post_writes() >= 200, "ten bytes at a time: {log:?}");
    assert_eq!(log.pre_writes(), 2 * log.post_writes(), "each second attempt was refused");
}

#[test]
fn b39_pre_write_is_called_once_for_an_answer_that_goes_at_once() {
    let dir = Dir::new("b39-plain");
    let server = start(echo(), &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        (0..100).for_each(|_| client.ask(b"x"));
    }
    let log = server.stop();
    assert_eq!((log.pre_writes(), log.post_writes()), (200, 200));
}

#[test]
fn b40_one_client_that_never_stops_holds_up_no_other() {
    let server = start(
        Events::new().data(|_, input| if input.len() == 4 { Reply::send(input) } else { Reply::none() }),
        &[TCP],
    );
    let done = AtomicBool::new(false);
    let mut firehose = server.connect();
    let late = thread::scope(|scope| {
        let _end = SetOnDrop(&done);
        scope.spawn(|| {
            let block = vec![b'x'; MIB];
            while !done.load(SeqCst) {
                firehose.send(&block);
            }
        });
        eventually("it flows", || server.log.input() > 4 * MIB);
        let mut clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
        let mut round = || {
            let mut times = Vec::new();
            for _ in 0..5 {
                let started = Instant::now();
                clients.iter_mut().for_each(|client| client.send(b"ping"));
                for client in &mut clients {
                    client.expect(b"ping");
                    times.push(started.elapsed());
                }
            }
            times.sort();
            times[times.len() * 99 / 100]
        };
        // Other tests run as well, and the best of three is the server's.
        let late = (0..3).map(|_| round()).min().unwrap();
        done.store(true, SeqCst);
        late
    });
    assert!(late < 50 * MS, "{late:?}");
    drop(firehose);
    server.stop();
}

#[test]
fn b40_a_connection_that_wakes_itself_all_the_time_holds_up_no_other() {
    for by_handle in [false, true] {
        let events = Events::new().data(move |conn, input| {
            if conn.is_wake() || input == b"wake" {
                match by_handle {
                    true => conn.handle().wake().unwrap(),
                    false => conn.wake(),
                }
            }
            Reply::send(input)
        });
        let server = start(events, &[TCP]);
        let mut busy = server.connect();
        busy.ask(b"wake");
        eventually("it wakes itself", || server.log.wakes() > 1000);
        for _ in 0..10 {
            server.connect().ask(b"ping");
        }
        // It can be spoken to as well, and be closed.
        busy.ask(b"hello");
        drop(busy);
        assert_eq!(server.log.wait_closed(11), [None; 11]);
        server.stop();
    }
}

#[test]
fn b40_a_thread_that_writes_without_end_holds_up_no_other() {
    let (sender, handles) = mpsc::channel();
    let sender = Mutex::new(sender);
    let events = echo().opened(move |conn| {
        let _ = sender.lock().unwrap().send(conn.handle());
        Action::None.into()
    });
    let server = start(events, &[TCP]);
    let mut reader = server.connect();
    let handle = handles.recv_timeout(PATIENCE).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = SetOnDrop(&done);
        scope.spawn(|| {
            let block = [b'x'; 4096];
            while !done.load(SeqCst) {
                let _ = handle.write(&block);
            }
            handle.close().unwrap();
        });
        scope.spawn(|| reader.read_all());
        eventually("it flows", || server.log.post_writes() > 100);
        for _ in 0..20 {
            server.connect().ask(b"ping");
        }
        done.store(true, SeqCst);
    });
    server.stop();
}

/// A TCP socket that is not connected, with a number that is at least `from`.
#[cfg(target_os = "linux")]
fn socket(from: libc::c_int) -> OwnedFd {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let low = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    assert!(low >= 0, "{}", io::Error::last_os_error());
    // SAFETY: it is new, and nobody else's.
    let low = unsafe { OwnedFd::from_raw_fd(low) };
    // SAFETY: no pointers.
    let high = unsafe { libc::fcntl(low.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) };
    assert!(high >= from, "{}", io::Error::last_os_error());
    // SAFETY: it is new, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(high) }
}

/// Begins to connect one.
#[cfg(target_os = "linux")]
fn connect(socket: &OwnedFd, to: SocketAddr) {
    let SocketAddr::V4(to) = to else { panic!("IPv4 only: {to}") };
    // SAFETY: plain data.
    let mut addr: libc::sockaddr_in = unsafe { mem::zeroed() };
    addr.sin_family = libc::AF_INET as libc::sa_family_t;
    addr.sin_port = to.port().to_be();
    addr.sin_addr.s_addr = u32::from(*to.ip()).to_be();
    let len = mem::size_of_val(&addr) as libc::socklen_t;
    // SAFETY: a pointer to an address, with its size.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const addr).cast(), len) };
    let error = io::Error::last_os_error();
    assert!(result == 0 || error.raw_os_error() == Some(libc::EINPROGRESS), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn b41_without_descriptors_it_waits_until_some_are_closed() {
    in_a_process_of_its_own("b41_without_descriptors_it_waits_until_some_are_closed", || {
        const CLIENTS: usize = 500;
        for loops in [1, 2] {
            // The clients have numbers beyond the limit: it does not concern them.
            let clients: Vec<_> = (0..CLIENTS).map(|_| socket(1000)).collect();
            let mut before: libc::rlimit = limit(64);
            let server = start(echo().num_loops(loops), &[TCP]);
            clients.iter().for_each(|client| connect(client, server.tcp()));
            eventually("there are no more descriptors", || {
                // SAFETY: no pointers; if it works, it is closed again.
                let fd = unsafe { libc::dup(2) };
                if fd >= 0 {
                    // SAFETY: ours, and nobody else's.
                    unsafe { libc::close(fd) };
                }
                fd < 0
            });
            let opened = server.log.opened();
            assert!(opened < 64, "{opened}");
            let started = Instant::now();
            let process = process_time();
            thread::sleep(500 * MS);
            let load = (process_time() - process).as_secs_f64() / started.elapsed().as_secs_f64();
            assert!(load < 0.2, "it does not try again and again: {load}");
            assert!(!server.has_ended());

            // One after the other has its turn.
            let mut clients: Vec<_> = clients.into_iter().map(|fd| Client::Tcp(fd.into())).collect();
            for mut client in clients.drain(..).rev().collect::<Vec<_>>().drain(..).rev() {
                if let Client::Tcp(stream) = &client {
                    stream.set_nonblocking(false).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                }
                client.ask(b"at last");
            }
            server.log.wait_closed(CLIENTS);
            assert_eq!(server.log.opened(), CLIENTS);
            assert!(!server.has_ended());
            server.stop();
            before.rlim_cur = before.rlim_max;
            // SAFETY: a pointer to a limit.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &before) };
        }
    });
}

/// From now on, descriptors are less than `n`. Returns what the limit was.
#[cfg(target_os = "linux")]
fn limit(n: u64) -> libc::rlimit {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a pointer to where it goes.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut before) }, 0);
    let limit = libc::rlimit { rlim_cur: n, ..before };
    // SAFETY: a pointer to a limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    before
}

/// The processor time of all threads.
#[cfg(target_os = "linux")]
fn process_time() -> Duration {
    // SAFETY: plain data.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: a pointer to where it goes.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) }, 0);
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, 1000 * t.tv_usec as u32);
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[test]
fn b42_connections_that_are_reset_before_they_are_accepted_are_ignored() {
    for loops in [1, 2] {
        let gate = Signal::new();
        let events = echo().num_loops(loops).serving({
            let gate = gate.clone();
            move |_| {
                // Nothing is accepted before this has returned.
                gate.wait("the first are gone");
                Action::None
            }
        });
        let server = start(events, &[TCP]);
        for _ in 0..20 {
            server.connect().reset();
        }
        gate.give();
        let mut client = server.connect();
        client.ask(b"hello");
        drop(client);
        // Some kernels accept them all the same, and they are opened and closed.
        eventually("each has an end", || server.log.closed() == server.log.opened());
        assert!(!server.has_ended());
        server.stop();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn b43_cycles_leave_nothing_behind() {
    in_a_process_of_its_own("b43_cycles_leave_nothing_behind", || {
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        for loops in [1, 4] {
            let dir = Dir::new(&format!("b43-{loops}"));
            let server = start(echo().num_loops(loops), &[TCP, &unix(&dir)]);
            let left = || {
                let stats: Vec<_> =
                    (0..loops).map(|i| server.server.loop_handle(i as usize).stats()).collect();
                (
                    descriptors(),
                    stats.iter().map(|stats| stats.sources_alive).sum::<u64>(),
                    stats.iter().map(|stats| stats.tasks_alive).sum::<u64>(),
                    server.server.connections(),
                )
            };
            let cycles = |n: usize| {
                let before = server.log.closed();
                for i in 0..n {
                    let mut client = server.connect_to(i % 2);
                    match i % 3 {
                        0 => client.ask(b"x"),
                        1 => client.send(b"x"),
                        _ => {}
                    }
                    if i % 2 == 0 {
                        client.reset();
                    }
                }
                server.log.wait_closed(before + n);
            };
            // What is made at the first use.
            cycles(20);
            thread::sleep(10 * MS);
            let before = left();
            cycles(scaled(10_000));
            eventually("all is as before", || left() == before);
            server.stop();
        }
    });
}

#[test]
fn b44_a_flood_of_connections_is_served() {
    const THREADS: usize = 4;
    let each = scaled(10_000) / THREADS;
    for loops in [1, 4] {
        let server = start(echo().num_loops(loops).load_balance(LoadBalance::LeastConnections), &[TCP]);
        let message = pattern(512);
        let successes = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    // Some of them at the same time.
                    for _ in 0..each / 50 {
                        let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
                        clients.iter_mut().for_each(|client| client.send(&message));
                        for client in &mut clients {
                            client.expect(&message);
                            successes.fetch_add(1, SeqCst);
                        }
                        // No need to keep the ports for a minute.
                        clients.into_iter().for_each(Client::reset);
                    }
                });
            }
        });
        let all = THREADS * (each / 50) * 50;
        assert_eq!(successes.load(SeqCst), all);
        server.log.wait_closed(all);
        assert_eq!(server.stop().opened(), all);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn b45_a_child_process_inherits_nothing() {
    in_a_process_of_its_own("b45_a_child_process_inherits_nothing", || {
        let dir = Dir::new("b45");
        let udp = "udp://127.0.0.1:0";
        let server = start(echo().num_loops(2), &[TCP, &unix(&dir), udp, "tcp://127.0.0.1:0?reuseport=1"]);
        let addr = server.server.addrs()[0].to_string();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _end = SetOnDrop(&done);
            for i in 0..2 {
                let (server, done) = (&server, &done);
                scope.spawn(move || {
                    while !done.load(SeqCst) {
                        server.connect_to(i).ask(b"load");
                    }
                });
            }
            let dialed: Vec<_> = (0..5).map(|_| server.server.dial(&addr, PATIENCE).unwrap()).collect();
            eventually("the load", || server.log.opened() > 20);
            for _ in 0..20 {
                // What `ls` itself has open is the directory.
                let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
                assert!(output.status.success());
                let text = String::from_utf8(output.stdout).unwrap();
                let mut numbers = 0;
                for line in text.lines().filter(|line| line.contains(" -> ")) {
                    let inherited = ["socket:", "anon_inode:"].iter().any(|kind| line.contains(kind));
                    assert!(!inherited, "inherited: {line}");
                    numbers += 1;
                }
                assert!(numbers >= 3, "{text}");
            }
            done.store(true, SeqCst);
            drop(dialed);
        });
        server.stop();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn b46_the_number_0_is_a_descriptor_like_others() {
    /// The address that the socket 0 is bound to.
    fn address_of_0() -> Option<u16> {
        // SAFETY: plain data.
        let mut name: libc::sockaddr_in = unsafe { mem::zeroed() };
        let mut len = mem::size_of_val(&name) as libc::socklen_t;
        // SAFETY: pointers to plain values, with the size of the first.
        let result = unsafe { libc::getsockname(0, (&raw mut name).cast(), &mut len) };
        (result == 0).then(|| u16::from_be(name.sin_port))
    }
    fn close_0() {
        // SAFETY: nobody reads from it here.
        unsafe { libc::close(0) };
    }
    in_a_process_of_its_own("b46_the_number_0_is_a_descriptor_like_others", || {
        // A listener.
        close_0();
        let server = start(echo(), &[TCP]);
        assert_eq!(address_of_0(), Some(server.tcp().port()));
        for _ in 0..3 {
            server.connect().ask(b"hello");
        }
        server.stop();

        // A connection.
        let gate = Signal::new();
        let events = echo().serving({
            let gate = gate.clone();
            move |_| {
                gate.wait("a client has connected");
                Action::None
            }
        });
        // SAFETY: a constant text.
        assert_eq!(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY) }, 0, "0 is free again");
        let server = start(events, &[TCP]);
        let mut client = server.connect();
        close_0();
        gate.give();
        client.ask(b"hello");
        assert_eq!(address_of_0(), Some(server.tcp().port()), "the connection has got it");
        assert_eq!(server_descriptor(client.local_addr().unwrap()), Some(0));
        client.ask(b"once more");
        drop(client);
        assert_eq!(server.log.wait_closed(1), [None]);
        server.stop();
        eventually("it is closed", || address_of_0().is_none());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn b47_small_packets_are_sent_at_once() {
    // For the server, for a connection, and what comes of it.
    let cases = [
        (None, None, true),
        (Some(false), None, false),
        (Some(false), Some(true), true),
        (Some(true), Some(false), false),
    ];
    for loops in [1, 2] {
        for (of_server, of_conn, expected) in cases {
            let builder = of_server.map_or(Builder::new(), |on| Builder::new().nodelay(on));
            let options = of_conn.map_or(Options::new(), |on| Options::new().nodelay(on));
            let events = Events::new()
                .choices(builder)
                .num_loops(loops)
                .opened(move |_| options.clone().into())
                .data(|_, input| Reply::send(input));
            let server = start(events, &[TCP, "tcp://localhost:0?reuseport=1"]);
            for i in 0..2 {
                let port = server.server.addrs()[i].socket_addr().unwrap().port();
                let mut client = Client::connect(&Addr::Tcp(([127, 0, 0, 1], port).into()));
                client.ask(b"hello");
                let Some(fd) = server_descriptor(client.local_addr().unwrap()) else {
                    panic!("no descriptor of the server's")
                };
                let on = option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY) != 0;
                assert_eq!(on, expected, "server {of_server:?}, connection {of_conn:?}, address {i}");
            }
            server.stop();
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn b48_an_idle_server_sleeps() {
    /// How often the threads of this process, but for this one, have gone to sleep.
    fn sleeps() -> usize {
        // SAFETY: it has no preconditions.
        let this = unsafe { libc::gettid() };
        let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        tasks
            .filter(|task| !task.ends_with(this.to_string()))
            .map(|task| {
                let status = fs::read_to_string(task.join("status")).unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                line.unwrap().trim().parse::<usize>().unwrap()
            })
            .sum()
    }
    in_a_process_of_its_own("b48_an_idle_server_sleeps", || {
        let time = if cfg!(debug_assertions) { 500 * MS } else { 2000 * MS };
        for loops in [1, 4] {
            let dir = Dir::new(&format!("b48-{loops}"));
            let server = start(echo().num_loops(loops), &[TCP, &unix(&dir), "udp://127.0.0.1:0"]);
            // With connections that have been used.
            let mut clients: Vec<_> = (0..8).map(|i| server.connect_to(i % 2)).collect();
            clients.iter_mut().for_each(|client| client.ask(b"hello"));
            thread::sleep(100 * MS);
            let before = sleeps();
            thread::sleep(time);
            let woken = sleeps() - before;
            assert!(woken <= 2, "{woken} times in {time:?}, with {loops} loops");
            drop(clients);
            server.stop();
        }
    });
}
