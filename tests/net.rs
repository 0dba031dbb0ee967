//! Host names: looked up and connected to, with a resolver that takes as long as a test wants.

mod common;
#[path = "common/evio_server.rs"]
mod evio_server;

use common::{in_a_process_of_its_own, poll, run, within};
use evio_server::{Log, PATIENCE, closed, eventually, start};
use std::ffi::{CStr, c_char, c_int};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::{Condvar, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};
use wakewheel::evio::{Action, Events};
use wakewheel::io::SocketOptions;
use wakewheel::net::{resolve, resolve_host};
use wakewheel::{Async, LocalExecutor, sleep, spawn_local, timeout};

const MS: Duration = Duration::from_millis(1);

// ------------------------------------------------------------------------------------------- the resolver

/// How many look-ups of names in `.slow` have begun, and whether they may end.
static SLOW: Mutex<(usize, bool)> = Mutex::new((0, false));
static MAY_END: Condvar = Condvar::new();

/// In the place of the C library's: names in `.slow` wait for the test; the others
/// are real.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
) -> c_int {
    type Real = unsafe extern "C" fn(
        *const c_char,
        *const c_char,
        *const libc::addrinfo,
        *mut *mut libc::addrinfo,
    ) -> c_int;
    // SAFETY: the name is a string; the function that it names has this type.
    let real = unsafe {
        std::mem::transmute::<*mut libc::c_void, Real>(libc::dlsym(libc::RTLD_NEXT, c"getaddrinfo".as_ptr()))
    };
    // SAFETY: whoever calls this gives a string, or none.
    let name = if node.is_null() { c"" } else { unsafe { CStr::from_ptr(node) } };
    let node = if name.to_bytes().ends_with(b".slow") {
        let mut slow = SLOW.lock().unwrap();
        slow.0 += 1;
        drop(MAY_END.wait_while(slow, |slow| !slow.1).unwrap());
        c"127.0.0.1".as_ptr()
    } else {
        node
    };
    // SAFETY: as whoever calls this.
    unsafe { real(node, service, hints, result) }
}

fn slow() -> usize {
    SLOW.lock().unwrap().0
}

fn slow_ones_may_end() {
    SLOW.lock().unwrap().1 = true;
    MAY_END.notify_all();
}

// --------------------------------------------------------------------------------------------- look-ups

#[test]
fn a_name_is_looked_up() {
    let addrs = run(resolve("localhost:80"));
    assert!(!addrs.is_empty() && addrs.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 80));
    assert_eq!(run(resolve_host("localhost", 80)), addrs);
}

#[test]
fn an_address_is_known_at_once() {
    for (text, host, port) in [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:65535", "::1", 65535)] {
        for mut known in [resolve(text), resolve_host(host, port)] {
            let addr: SocketAddr = text.parse().unwrap();
            assert!(
                matches!(poll(&mut known, Waker::noop()), std::task::Poll::Ready(Ok(addrs)) if addrs == [addr])
            );
        }
    }
}

#[test]
fn what_is_wrong_is_quoted() {
    for wrong in [
        "localhost",
        "",
        ":80",
        "localhost:http",
        "localhost:65536",
        "::1",
        "[::1]",
        "[::1:80",
        "localhost:-1",
    ] {
        let e = wakewheel::block_on(resolve(wrong)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
        assert!(e.to_string().contains(&format!("{wrong:?}")), "{e}");
        let e = wakewheel::block_on(Async::<TcpStream>::connect_host(wrong)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
    }
    for name in ["no such host", "nul\0"] {
        let e = wakewheel::block_on(within(resolve_host(name, 80))).unwrap_err();
        assert!(e.to_string().contains(&format!("{name:?}")), "{e}");
        assert!(std::error::Error::source(&e).is_some(), "{e}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_look_up_that_takes_long_blocks_nobody_and_can_be_given_up() {
    const NAME: &str = "a_look_up_that_takes_long_blocks_nobody_and_can_be_given_up";
    in_a_process_of_its_own(NAME, || {
        LocalExecutor::new().unwrap().block_on(async {
            let tasks: Vec<_> = (0..50)
                .map(|i| spawn_local(async move { resolve(&format!("{i}.slow:{i}")).await }))
                .collect();
            // The core goes on.
            sleep(5 * MS).await;
            eventually("eight are under way", || slow() == 8);
            let given_up = timeout(5 * MS, resolve("late.slow:1")).await;
            assert!(given_up.is_err());
            // Neither do they keep up what needs no look-up.
            within(resolve("127.0.0.1:80")).await.unwrap();
            let mut tasks = tasks.into_iter();
            // These are dropped, under way or not.
            tasks.by_ref().take(25).for_each(drop);
            slow_ones_may_end();
            for (i, task) in tasks.enumerate() {
                let addrs = within(task).await.unwrap().unwrap();
                assert_eq!(addrs, [SocketAddr::from(([127, 0, 0, 1], 25 + i as u16))]);
            }
            assert_eq!(slow(), 8 + 25, "what was given up before it was begun is not begun");
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_of_fork_asks_again() {
    const NAME: &str = "a_child_of_fork_asks_again";
    in_a_process_of_its_own(NAME, || {
        let mut waiting = pin!(resolve("x.slow:7"));
        assert!(poll(&mut waiting, Waker::noop()).is_pending());
        let mut dropped = resolve("y.slow:7");
        assert!(poll(&mut dropped, Waker::noop()).is_pending());
        eventually("they are under way", || slow() == 2);
        slow_ones_may_end();
        // SAFETY: the child does what a program of one thread may do: nobody else holds a lock that it needs but those that
        // this test is about.
        match unsafe { libc::fork() } {
            0 => {
                drop(dropped);
                let addrs = wakewheel::block_on(within(waiting));
                let code = if addrs.is_ok_and(|addrs| addrs[0].port() == 7) { 0 } else { 1 };
                // SAFETY: it ends the process.
                unsafe { libc::_exit(code) };
            }
            child => {
                let mut status = 0;
                // SAFETY: `status` is valid for writes.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0);
            }
        }
        run(waiting);
    });
}

// ----------------------------------------------------------------------------------------- connections

#[test]
fn a_host_is_connected_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let stream = run(SocketOptions::new().nodelay().connect_host(&format!("localhost:{}", addr.port())));
    assert_eq!(stream.get_ref().peer_addr().unwrap(), addr);
    assert!(stream.get_ref().nodelay().unwrap());
    let stream = run(Async::<TcpStream>::connect_host(&addr.to_string()));
    assert_eq!(stream.get_ref().peer_addr().unwrap(), addr);
}

#[test]
fn a_host_that_refuses_is_an_error_with_its_name_and_its_addresses() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let name = format!("localhost:{}", nobody.port());
    let e = wakewheel::block_on(within(Async::<TcpStream>::connect_host(&name))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
    assert!(e.to_string().contains(&name) && e.to_string().contains(&nobody.to_string()), "{e}");
}

// --------------------------------------------------------------------------------------- evio's dial

#[cfg(target_os = "linux")]
#[test]
fn b100_the_time_out_of_a_dial_is_for_the_look_up_too() {
    const NAME: &str = "b100_the_time_out_of_a_dial_is_for_the_look_up_too";
    in_a_process_of_its_own(NAME, || {
        let log = Log::<String>::new();
        let (opened, end) = (log.clone(), log.clone());
        let events = Events::<()>::new()
            .opened(move |conn| {
                opened.note(format!("{:?}", conn.error().map(io::Error::kind)));
                Default::default()
            })
            .closed(move |_, error| {
                end.note(closed(error));
                Action::None
            });
        let running = start(events, &[]);
        let dialed = Instant::now();
        let handle = running.dial("tcp://x.slow:80", 100 * MS).unwrap();
        assert_eq!(log.wait_for(2), ["Some(TimedOut)", "closed: TimedOut"]);
        assert!(dialed.elapsed() >= 100 * MS && dialed.elapsed() < PATIENCE);
        assert!(handle.is_closed());
        // A server that stops does not wait for the look-up.
        running.dial("tcp://y.slow:80", PATIENCE).unwrap();
        eventually("they are under way", || slow() == 2);
        running.stop();
        slow_ones_may_end();
    });
}
