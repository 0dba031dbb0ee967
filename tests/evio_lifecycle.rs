//! The callbacks: a connection from its beginning to its end. The numbers are those of the list of behaviours.
//!
//! Faults of Go's evio that are shown absent here: a wake that cancels a close (b11, b23 in `evio_wake`), `closed` without
//! `opened` at the end (each `stop` of these tests counts both), a broken server that says nothing (b18, b19).

mod common;
#[path = "common/evio.rs"]
mod helper;

use common::dir::Dir;
use common::in_a_process_of_its_own;
use helper::*;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::evio::{Action, Addr, ConnHandle, Events, LoadBalance, Options, Reply, serve};

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

/// Sends parts of the pattern of random sizes for a while, and reads them back.
fn talk(mut client: Client, seed: u64, pattern: &[u8], time: Duration) {
    const MAX: usize = MIB;
    let mut writer = client.try_clone();
    let total = AtomicU64::new(u64::MAX);
    thread::scope(|scope| {
        let total = &total;
        scope.spawn(move || {
            let (mut sent, mut random, started) = (0, seed | 1, Instant::now());
            while started.elapsed() < time {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let mut left = (random >> 33) as usize % MAX;
                while left > 0 {
                    let at = sent % pattern.len();
                    let part = &pattern[at..pattern.len().min(at + left)];
                    writer.send(part);
                    (sent, left) = (sent + part.len(), left - part.len());
                }
            }
            total.store(sent as u64, SeqCst);
            writer.end();
        });
        let (mut got, mut buf) = (0, vec![0; 256 * 1024]);
        loop {
            match client.read(&mut buf).expect("an echo") {
                0 => break,
                n => {
                    let mut rest = &buf[..n];
                    while !rest.is_empty() {
                        let at = got % pattern.len();
                        let len = rest.len().min(pattern.len() - at);
                        assert!(rest[..len] == pattern[at..at + len], "not what was sent, after {got}");
                        (got, rest) = (got + len, &rest[len..]);
                    }
                }
            }
        }
        assert_eq!(got as u64, total.load(SeqCst), "all of it, and no more");
    });
}

/// The server is stopped by the last `closed`.
fn echo_to_ten_clients(balance: LoadBalance) {
    const CLIENTS: usize = 10;
    let time = if cfg!(debug_assertions) { 50 * MS } else { 300 * MS };
    // Its length is a prime, so that no size of a buffer hides a shift.
    let pattern = pattern(1_048_573);
    for loops in [1, 5, -1] {
        let dir = Dir::new(&format!("b01-{balance:?}-{loops}"));
        let closed = AtomicUsize::new(0);
        let events = echo().num_loops(loops).load_balance(balance).closed(move |_, error| {
            assert!(error.is_none(), "{error:?}");
            if closed.fetch_add(1, SeqCst) + 1 == CLIENTS { Action::Shutdown } else { Action::None }
        });
        let server = start(events, &[TCP, &unix(&dir)]);
        thread::scope(|scope| {
            for i in 0..CLIENTS {
                let client = server.connect_to(i % 2);
                let pattern = &pattern;
                scope.spawn(move || talk(client, i as u64, pattern, time));
            }
        });
        let log = server.log.clone();
        server.join().expect("stopped by an action");
        assert_eq!((log.opened(), log.closed()), (CLIENTS, CLIENTS), "{balance:?}, {loops} loops");
    }
}

#[test]
fn b01_echo_random_balance() {
    echo_to_ten_clients(LoadBalance::Random);
}

#[test]
fn b01_echo_round_robin() {
    echo_to_ten_clients(LoadBalance::RoundRobin);
}

#[test]
fn b01_echo_least_connections() {
    echo_to_ten_clients(LoadBalance::LeastConnections);
}

#[test]
fn b01_echo_source_hash() {
    echo_to_ten_clients(LoadBalance::SourceHash);
}

#[test]
fn b02_opened_comes_before_the_data_that_was_sent_first() {
    for loops in [1, 4] {
        let dir = Dir::new(&format!("b02-{loops}"));
        let gate = Signal::new();
        let events = Events::with_context::<bool>()
            .num_loops(loops)
            .serving({
                // Until all clients have sent, nothing is accepted.
                let gate = gate.clone();
                move |_| {
                    gate.wait("the clients have sent");
                    Action::None
                }
            })
            .opened(|conn| {
                assert!(!*conn.context, "opened twice");
                *conn.context = true;
                Action::None.into()
            })
            .data(|conn, input| if *conn.context { Reply::send(input) } else { Reply::send(b"too early") });
        let server = start(events, &[TCP, &unix(&dir)]);
        let mut clients: Vec<_> = (0..20).map(|i| server.connect_to(i % 2)).collect();
        clients.iter_mut().for_each(|client| client.send(b"first words"));
        gate.give();
        clients.iter_mut().for_each(|client| client.expect(b"first words"));
        drop(clients);
        assert_eq!(server.log.wait_closed(20), [None; 20]);
        assert_eq!(server.stop().opened(), 20);
    }
}

#[test]
fn b03_a_client_that_goes_at_once_is_opened_and_closed() {
    for loops in [1, 4] {
        let dir = Dir::new(&format!("b03-{loops}"));
        let order = Arc::new(Mutex::new(Vec::new()));
        let (o, c) = (order.clone(), order.clone());
        let events = Events::with_context::<u8>()
            .num_loops(loops)
            .opened(move |conn| {
                *conn.context += 1;
                o.lock().unwrap().push(*conn.context);
                Action::None.into()
            })
            .closed(move |conn, _| {
                *conn.context += 10;
                c.lock().unwrap().push(*conn.context);
                Action::None
            });
        let server = start(events, &[TCP, &unix(&dir)]);
        for i in 0..100 {
            drop(server.connect_to(i % 2));
        }
        assert_eq!(server.log.wait_closed(100), [None; 100]);
        let log = server.stop();
        assert_eq!((log.opened(), log.closed(), log.data()), (100, 100, 0));
        let order = order.lock().unwrap();
        let count = |n| order.iter().filter(|&&i| i == n).count();
        assert_eq!((count(1), count(11)), (100, 100), "one after the other, once each");
    }
}

#[test]
fn b04_the_greeting_is_the_first_output() {
    let dir = Dir::new("b04");
    let gate = Signal::new();
    let events = echo()
        .serving({
            let gate = gate.clone();
            move |_| {
                gate.wait("the clients have sent");
                Action::None
            }
        })
        .opened(|conn| {
            conn.out.extend_from_slice(b"greet");
            Reply::send(b"ing\r\n").into()
        });
    let server = start(events, &[TCP, &unix(&dir)]);
    let mut clients = [server.connect_to(0), server.connect_to(1)];
    clients.iter_mut().for_each(|client| client.send(b"hello"));
    gate.give();
    clients.iter_mut().for_each(|client| client.expect(b"greeting\r\nhello"));
    drop(clients);
    server.stop();
}

#[test]
fn b05_close_from_opened() {
    let out = pattern(2 * MIB);
    let dir = Dir::new("b05");
    let events = echo().opened({
        let out = out.clone();
        move |_| Reply::send(out.clone()).then(Action::Close).into()
    });
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        client.send(b"in vain");
        assert!(client.read_all() == out, "all of the output, and then the end");
        assert_eq!(server.log.wait_closed(i + 1), vec![None; i + 1]);
    }
    assert_eq!(server.stop().data(), 0);
}

#[test]
fn b06_detach_from_opened() {
    let dir = Dir::new("b06");
    let events = echo().opened(|_| Reply::send(b"bye ").then(Action::Detach).into()).detached(|_, stream| {
        let mut stream = stream.into_blocking().unwrap();
        thread::spawn(move || stream.write_all(b"from a thread").unwrap());
        Action::None
    });
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        assert_eq!(client.read_all(), b"bye from a thread");
    }
    eventually("they count no more", || server.server.connections() == 0);
    let log = server.stop();
    assert_eq!((log.opened(), log.detached(), log.closed(), log.data()), (2, 2, 0, 0));
}

#[test]
fn b07_without_callbacks_input_is_discarded_and_the_end_seen() {
    let dir = Dir::new("b07");
    let server = start(Events::new(), &[TCP, &unix(&dir)]);
    let core = server.server.loop_handle(0);
    // Two that accept, each with its socket, and one that does what other threads want.
    let is_idle = || {
        let now = core.stats();
        (now.tasks_alive, now.sources_alive) == (3, 2)
    };
    eventually("it has begun", is_idle);
    for i in 0..20 {
        let mut client = server.connect_to(i % 2);
        // More than any buffer of the kernel's.
        client.send(&vec![b'x'; 8 * MIB / if cfg!(debug_assertions) { 2 } else { 1 }]);
        client.end();
        client.expect_end();
    }
    assert_eq!(server.log.wait_closed(20), [None; 20]);
    eventually("nothing is left of them", is_idle);
    eventually("they count no more", || server.server.connections() == 0);
    server.stop();
}

/// A server whose answer to anything is `out`, and then the end.
fn answers_and_closes(out: Vec<u8>, options: Options) -> Events {
    Events::new().opened(move |_| options.clone().into()).data(move |_, input| match input {
        b"ping" => Reply::send(b"ping"),
        _ => Reply::send(out.clone()).then(Action::Close),
    })
}

#[test]
fn b08_close_waits_for_a_slow_client() {
    let out = pattern(8 * MIB);
    let dir = Dir::new("b08");
    let server = start(answers_and_closes(out.clone(), Options::new()), &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        client.take_little();
        client.send(b"?");
        let (mut got, mut buf) = (Vec::new(), vec![0; 128 * 1024]);
        loop {
            match client.read(&mut buf).expect("output") {
                0 => break,
                n => got.extend_from_slice(&buf[..n]),
            }
            if got.len() < 3 * MIB {
                // Slow: the server has to wait many times.
                thread::sleep(MS);
            }
        }
        assert!(got == out, "8 MiB, and not {}", got.len());
        assert_eq!(server.log.wait_closed(i + 1), vec![None; i + 1]);
    }
    server.stop();
}

#[test]
fn b09_a_client_that_never_reads_is_closed_after_the_linger_time() {
    let linger = 200 * MS;
    let dir = Dir::new("b09");
    let server =
        start(answers_and_closes(pattern(8 * MIB), Options::new().linger(linger)), &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut other = server.connect();
        let mut client = server.connect_to(i);
        let closed = server.log.closed();
        let (started, mut pings) = (Instant::now(), 0);
        client.send(b"?");
        // Meanwhile it does all that is asked of it.
        while server.log.closed() == closed {
            other.ask(b"ping");
            pings += 1;
            assert!(started.elapsed() < PATIENCE, "never closed");
        }
        assert!(started.elapsed() >= linger, "it was given its time");
        assert!(pings > 10, "responsive: {pings} answers");
        assert_eq!(server.log.wait_closed(closed + 1).last(), Some(&Some(ErrorKind::TimedOut)));
        drop(other);
        server.log.wait_closed(closed + 2);
    }
    server.stop();
}

#[test]
fn b10_force_close_drops_what_waits_to_be_sent() {
    let handle = Arc::new(Mutex::new(None::<ConnHandle>));
    let dir = Dir::new("b10");
    let events = answers_and_closes(pattern(16 * MIB), Options::new()).opened({
        let handle = handle.clone();
        move |conn| {
            *handle.lock().unwrap() = Some(conn.handle());
            // Much longer than this test waits for anything.
            Options::new().linger(10 * PATIENCE).into()
        }
    });
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        client.send(b"?");
        eventually("it begins to send", || server.log.post_writes() > 0 && server.log.data() == i + 1);
        handle.lock().unwrap().take().unwrap().force_close().unwrap();
        assert_eq!(server.log.wait_closed(i + 1), vec![None; i + 1]);
        let (mut got, mut buf) = (0, vec![0; MIB]);
        while let Ok(n @ 1..) = client.read(&mut buf) {
            got += n;
        }
        assert!(got < 16 * MIB, "what had not been sent was dropped");
    }
    let log = server.stop();
    assert_eq!((log.opened(), log.closed()), (2, 2));
}

/// Also: a wake cannot undo a close (it does in Go's evio).
#[test]
fn b11_close_with_input_unread_loses_no_output() {
    let out = pattern(64 * 1024);
    let gate = Signal::new();
    let dir = Dir::new("b11");
    let events = Events::new().data({
        let (gate, out) = (gate.clone(), out.clone());
        move |conn, _| {
            gate.wait("the client has sent more than is read at once");
            conn.wake();
            Reply::send(out.clone()).then(Action::Close)
        }
    });
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        client.send(b"?");
        eventually("the first byte is read", || server.log.data() == i + 1);
        client.send(&[b'x'; 100 * 1024]);
        gate.give();
        assert_eq!(server.log.wait_closed(i + 1), vec![None; i + 1]);
        // Still more, of which nobody will read anything.
        for _ in 0..10 {
            client.send(&[b'y'; 8 * 1024]);
        }
        client.expect(&out);
        client.expect_end();
    }
    let log = server.stop();
    assert_eq!((log.data(), log.wakes()), (2, 0), "after `Close`, no data");
}

#[test]
fn b12_a_client_that_has_ended_its_side_gets_the_whole_answer() {
    let out = pattern(8 * MIB);
    let dir = Dir::new("b12");
    let events = Events::new().data({
        let out = out.clone();
        move |_, _| Reply::send(out.clone())
    });
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        client.take_little();
        client.send(b"?");
        client.end();
        assert!(client.read_all() == out, "all of the output, and then the end");
        assert_eq!(server.log.wait_closed(i + 1), vec![None; i + 1]);
    }
    server.stop();
}

/// The server answers 100 ms after the client has ended its side, by what `answer` does with a handle.
fn late_answer(
    half_close: Option<Duration>,
    expected: &[u8],
    answer: impl Fn(&ConnHandle) + Send + Sync + Clone + 'static,
) {
    let options = half_close.map_or(Options::new(), |time| Options::new().half_close(time));
    let (ended, has_read) = (Signal::new(), Signal::new());
    let events = Events::new().opened(move |_| options.clone().into()).data({
        let (ended, has_read) = (ended.clone(), has_read.clone());
        move |conn, _| {
            if conn.is_wake() {
                return Reply::send(b"late");
            }
            let (handle, ended, has_read, answer) =
                (conn.handle(), ended.clone(), has_read.clone(), answer.clone());
            thread::spawn(move || {
                ended.wait("the client has ended its side");
                thread::sleep(100 * MS);
                answer(&handle);
                has_read.wait("the client has read the answer");
            });
            Reply::none()
        }
    });
    let server = start(events, &[TCP]);
    let mut client = server.connect();
    client.send(b"?");
    eventually("it is read", || server.log.data() == 1);
    client.end();
    ended.give();
    client.expect(expected);
    if expected.is_empty() {
        // Though there is a handle.
        client.expect_end();
    }
    // The handle goes, and with it whoever may have something to say.
    has_read.give();
    client.expect_end();
    assert_eq!(server.log.wait_closed(1), [None]);
    server.stop();
}

#[test]
fn b13_a_late_answer_by_a_handle_reaches_a_client_that_has_ended_its_side() {
    let long = Some(10 * PATIENCE);
    late_answer(long, b"late", |handle| handle.write(b"late").unwrap());
    late_answer(long, b"late", |handle| handle.wake().unwrap());
    // There is a grace by default.
    late_answer(None, b"late", |handle| drop(handle.write(b"late")));
}

#[test]
fn b13_without_half_close_it_is_closed_at_once() {
    let refused = Arc::new(Mutex::new(None));
    let write = {
        let refused = refused.clone();
        move |handle: &ConnHandle| *refused.lock().unwrap() = handle.write(b"late").err().map(|e| e.kind())
    };
    late_answer(Some(Duration::ZERO), b"", write);
    eventually("it was told", || *refused.lock().unwrap() == Some(ErrorKind::NotConnected));
}

#[test]
fn b13_the_grace_ends_though_a_handle_is_kept() {
    let kept = Arc::new(Mutex::new(None));
    let events = Events::new().opened({
        let kept = kept.clone();
        move |conn| {
            *kept.lock().unwrap() = Some(conn.handle());
            Options::new().half_close(200 * MS).into()
        }
    });
    let server = start(events, &[TCP]);
    let mut client = server.connect();
    client.end();
    #[cfg(target_os = "linux")]
    {
        let load = server.clock.load_during(150 * MS);
        assert!(load < 0.2, "it waits: {load}");
    }
    client.expect_end();
    assert_eq!(server.log.wait_closed(1), [None]);
    server.stop();
}

#[test]
fn b14_all_that_was_sent_before_the_end_is_delivered() {
    for (loops, busy) in [(1, false), (1, true), (4, true)] {
        let dir = Dir::new(&format!("b14-{loops}-{busy}"));
        let (is_busy, gate) = (Signal::new(), Signal::new());
        let events = Events::with_context::<usize>()
            .num_loops(loops)
            .data({
                let (is_busy, gate) = (is_busy.clone(), gate.clone());
                move |conn, input| {
                    if input == b"wait" {
                        is_busy.give();
                        gate.wait("the peers have gone");
                    } else {
                        *conn.context += input.len();
                    }
                    Reply::none()
                }
            })
            .closed({
                let sum = Arc::new(AtomicUsize::new(0));
                move |conn, error| {
                    assert!(error.is_none(), "{error:?}");
                    assert!([0, 50_000].contains(conn.context), "{} bytes of 50000", conn.context);
                    sum.fetch_add(*conn.context, SeqCst);
                    Action::None
                }
            });
        let server = start(events, &[TCP, &unix(&dir)]);
        let mut holder = server.connect();
        if busy {
            holder.send(b"wait");
            is_busy.wait("the loop is busy");
        }
        for i in 0..20 {
            server.connect_to(i % 2).send(&[b'x'; 50_000]);
        }
        gate.give();
        drop(holder);
        assert_eq!(server.log.wait_closed(21), [None; 21]);
        let log = server.stop();
        assert_eq!(log.input(), 20 * 50_000 + if busy { 4 } else { 0 });
    }
}

#[test]
fn b15_a_reset_is_told_once() {
    let server = start(echo(), &[TCP]);
    for i in 0..20 {
        let mut client = server.connect();
        client.ask(b"hello");
        client.reset();
        server.log.wait_closed(i + 1);
    }
    assert_eq!(server.log.wait_closed(20), [Some(ErrorKind::ConnectionReset); 20]);
    assert_eq!(server.stop().closed(), 20);
}

#[test]
fn b16_a_write_to_a_peer_that_has_gone_is_an_error_and_no_signal() {
    in_a_process_of_its_own("b16_a_write_to_a_peer_that_has_gone_is_an_error_and_no_signal", || {
        // Rust's programs ignore it; others that use this crate may not.
        // SAFETY: the usual action has no function.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let dir = Dir::new("b16");
        let gate = Signal::new();
        let events = Events::new().data({
            let gate = gate.clone();
            move |_, _| {
                gate.wait("the peer has gone");
                Reply::send(vec![b'x'; 8 * MIB])
            }
        });
        let server = start(events, &[TCP, &unix(&dir)]);
        for i in 0..2 {
            let mut client = server.connect_to(i);
            client.send(b"?");
            eventually("it is being answered", || server.log.data() == i + 1);
            match client {
                Client::Tcp(_) => client.reset(),
                Client::Unix(_) => drop(client),
            }
            gate.give();
            let error = server.log.wait_closed(i + 1)[i];
            assert!(
                matches!(error, Some(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)),
                "address {i}: {error:?}"
            );
        }
        assert_eq!(server.stop().closed(), 2);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn b17_signals_disturb_nothing() {
    extern "C" fn count(_: libc::c_int) {
        SIGNALS.fetch_add(1, SeqCst);
    }
    static SIGNALS: AtomicUsize = AtomicUsize::new(0);
    in_a_process_of_its_own("b17_signals_disturb_nothing", || {
        // SAFETY: plain data, of which the function and the flags are set: calls are not restarted.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
        // SAFETY: the handler only counts.
        assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }, 0);
        let dir = Dir::new("b17");
        let thread = Arc::new(AtomicUsize::new(0));
        let events = echo().serving({
            let thread = thread.clone();
            move |_| {
                // SAFETY: it has no preconditions.
                thread.store(unsafe { libc::pthread_self() } as usize, SeqCst);
                Action::None
            }
        });
        let server = start(events, &[TCP, &unix(&dir)]);
        eventually("it serves", || thread.load(SeqCst) != 0);
        let done = AtomicBool::new(false);
        let pattern = pattern(1_048_573);
        thread::scope(|scope| {
            let _end = SetOnDrop(&done);
            // To the loop's thread, so that each hits it.
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    // SAFETY: the thread lives: the server is stopped after this one has ended.
                    unsafe { libc::pthread_kill(thread.load(SeqCst) as libc::pthread_t, libc::SIGUSR1) };
                    thread::sleep(MS / 2);
                }
            });
            thread::scope(|scope| {
                for i in 0..4 {
                    let client = server.connect_to(i % 2);
                    let pattern = &pattern;
                    scope.spawn(move || talk(client, i as u64, pattern, 300 * MS));
                }
            });
            // And while it waits.
            let before = SIGNALS.load(SeqCst);
            eventually("signals", || SIGNALS.load(SeqCst) > before + 50);
            done.store(true, SeqCst);
        });
        assert_eq!(server.log.wait_closed(4), [None; 4]);
        assert!(!server.has_ended());
        server.stop();
        assert!(SIGNALS.load(SeqCst) > 100, "{SIGNALS:?} signals");
    });
}

/// Does it say which address it is about, as it was given?
fn quotes(error: &std::io::Error, addr: &str) -> bool {
    error.to_string().contains(addr)
}

#[test]
fn b18_an_error_of_the_kernel_quotes_the_address_as_it_was_given() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = format!("tcp://{}", taken.local_addr().unwrap());
    for addr in [tcp.as_str(), "unix:///nowhere/at/all/socket"] {
        let error = serve(echo(), [addr]).expect_err(addr);
        assert!(quotes(&error, addr), "{addr}: {error}");
        let kernel =
            std::error::Error::source(&error).and_then(|source| source.downcast_ref::<std::io::Error>());
        assert!(kernel.is_some_and(|kernel| kernel.raw_os_error().is_some()), "{addr}: {error}");
    }
}

#[test]
fn b18_addresses_that_cannot_be_served_are_errors() {
    let dir = Dir::new("b18");
    let no_directory = format!("unix://{}", dir.path("nowhere/socket").display());
    for addr in [
        "tpc://127.0.0.1:0",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:port",
        "tcp://127.0.0.1:65536",
        "udp://127.0.0.1",
        "tcp4://[::1]:0",
        "unix://",
        &no_directory,
    ] {
        let error = serve(echo(), [addr]).expect_err(addr);
        assert!(quotes(&error, addr), "{addr}: {error}");
    }
}

#[test]
fn b18_an_address_without_a_port_gets_one() {
    for addr in ["tcp://", "tcp://:0", "tcp4://", "tcp://127.0.0.1:0"] {
        let server = start(echo(), &[addr]);
        let port = server.tcp().port();
        assert_ne!(port, 0, "{addr}");
        Client::connect(&Addr::Tcp(([127, 0, 0, 1], port).into())).ask(b"hello");
        server.stop();
    }
}

#[test]
fn b19_an_address_that_fails_releases_those_before_it() {
    let dir = Dir::new("b19");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let addrs = [unix(&dir), format!("tcp://{free}"), format!("tcp://{}", taken.local_addr().unwrap())];
    // A port that was free may be somebody else's by now; that is an error as well, and the same has to hold.
    let error = serve(echo(), &addrs).expect_err("the last is in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(addrs[1..].iter().any(|addr| quotes(&error, addr)), "{error}");
    assert!(!dir.path("socket").exists(), "the socket's file is removed");
    if quotes(&error, &addrs[2]) {
        TcpListener::bind(free).expect("the listener was released");
    }
    // An address that cannot be understood: nothing is bound at all.
    serve(echo(), [&unix(&dir), "tpc://"]).expect_err("no such scheme");
    assert_eq!(fs::read_dir(dir.path("")).unwrap().count(), 0);
}

#[test]
fn b20_a_server_without_addresses_ticks() {
    for loops in [1, 4] {
        let ticks = AtomicUsize::new(0);
        let events = echo().num_loops(loops).tick(move |_| match ticks.fetch_add(1, SeqCst) {
            9 => (MS, Action::Shutdown),
            _ => (MS, Action::None),
        });
        let server = start(events, &[""; 0]);
        let log = server.log.clone();
        assert_eq!(server.server.addrs().len(), 0);
        server.join().expect("stopped by an action");
        assert_eq!(log.ticks(), 10);
    }
}
