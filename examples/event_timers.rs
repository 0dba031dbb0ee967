//! Timers, a ticker, priorities, a signal, and a future beside them, on one base of events.
//!
//! ```text
//! cargo run --example event_timers -- 127.0.0.1:5000
//! ```
//!
//! Whoever sends a datagram to the address puts the end off; after three seconds of silence, or ctrl-C, it ends.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;
use wakewheel::event::{Base, Event, Kinds, Priority};
use wakewheel::sleep;

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:5000".into());
    let base = Base::new()?;
    let socket = UdpSocket::bind(&addr)?;
    socket.set_nonblocking(true)?;
    let addr = socket.local_addr()?;

    let mut seconds = 0;
    let ticker = Event::ticker(&base, move |_| {
        seconds += 1;
        println!("{seconds} s");
    });
    ticker.set_priority(Priority::Low);
    ticker.attach(Some(Duration::from_secs(1)))?;

    // Reading, and a time-out that starts anew each time.
    let kinds = Kinds::READ | Kinds::TIMEOUT | Kinds::PERSIST;
    let silence = Event::new(&base, socket.as_raw_fd(), kinds, move |event, kinds| {
        let mut buf = [0; 1500];
        while let Ok((n, from)) = socket.recv_from(&mut buf) {
            println!("{n} bytes from {from}");
        }
        if kinds == Kinds::TIMEOUT {
            println!("silence");
            event.base().expect("it runs").shutdown();
        }
    });
    silence.attach(Some(Duration::from_secs(3)))?;

    let interrupt = Event::signal(&base, libc::SIGINT, |event| {
        println!("interrupted");
        event.base().expect("it runs").shutdown();
    });
    interrupt.set_priority(Priority::High);
    interrupt.attach(None)?;

    println!("listening on {addr}");
    base.spawn(async {
        sleep(Duration::from_millis(1500)).await;
        println!("a future, after 1.5 s");
    })
    .detach();

    base.dispatch()
}
