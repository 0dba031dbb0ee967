//! What a reader who wished it no good has found in the servers of callbacks.

mod common;
#[path = "common/evio_server.rs"]
mod helper;

use futures_io::{AsyncRead, AsyncWrite};
use helper::*;
use std::io::{ErrorKind, Write};
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;
use wakewheel::evio::{self, Action, Builder, ConnHandle, Events, Options, Origin, Reply, Server};
use wakewheel::io::Stream;

const ANY: &str = "tcp://127.0.0.1:0";
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

// -------------------------------------------------------------------------------------------------- panics

#[test]
fn what_a_callback_had_appended_before_it_left_too_much_goes_to_nobody() {
    // Idle timeouts have a path of their own.
    for options in [Options::new(), Options::new().idle_timeout(HOUR)] {
        let log = Log::<String>::new();
        let end = log.clone();
        let events = Events::new()
            .opened(move |_| options.clone().into())
            .data(|conn, input| {
                if input == b"panic" {
                    conn.out.extend_from_slice(b"a secret");
                    conn.unread(input.len() + 1);
                }
                Reply::send(input)
            })
            .closed(move |_, error| {
                end.note(closed(error));
                Action::None
            });
        let running = start(events, &[ANY]);
        let (mut client, mut other) = (running.connect(0), running.connect(0));
        other.ask("hello", "hello");
        client.send("panic");
        client.wait_for_the_end();
        other.ask("hello", "hello");
        assert_eq!(log.wait_for(1), ["closed: Other"]);
        other.finish();
        assert_eq!(text(&other.receive_all()), "");
        running.stop();
    }
}

// --------------------------------------------------------------------------------------------- for ever

#[test]
fn input_that_is_left_for_ever_is_not_copied_again_and_again() {
    let received = Log::<usize>::new();
    let data = received.clone();
    let events = Events::new().data(move |conn, input| {
        conn.unread(input.len());
        data.note(input.len());
        Reply::none()
    });
    let running = start(events, &[ANY]);
    let time = |len: usize| {
        let started = cpu_time();
        let mut client = running.connect(0);
        let bytes = vec![0; 1 << 16];
        for _ in 0..len >> 16 {
            client.write_all(&bytes).unwrap();
        }
        received.wait(|log| log.last() == Some(&len));
        cpu_time() - started
    };
    at_best(|| {
        let (short, long) = (time(4 << 20), time(32 << 20));
        let ratio = long.as_secs_f64() / short.as_secs_f64();
        // 8 times as much. In quadratic time it would be 64.
        if ratio < 20.0 { Ok(()) } else { Err(format!("{short:?}, {long:?}")) }
    });
    running.stop();
}

// --------------------------------------------------------------------------------------- several servers
