//! An echo server of callbacks for descriptors, in the manner of libevent.
//!
//! ```text
//! cargo run --example event_echo -- 127.0.0.1:5000
//! ```
//!
//! One event accepts. Each connection has one event, which reads, or, while the peer is slow to take the answer, writes; a
//! time-out closes a connection that is idle for a minute. Ctrl-C is an event, too.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::{cell::RefCell, rc::Rc};
use wakewheel::event::{self, Base, Event, Kinds};

const IDLE: Duration = Duration::from_secs(60);

/// A connection, and what the peer has not taken yet.
struct Conn {
    stream: TcpStream,
    unsent: Vec<u8>,
    event: Event,
}

/// All that are open, by descriptor: the events know their descriptors only.
type Conns = Rc<RefCell<HashMap<i32, Conn>>>;

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:5000".into());
    let base = Base::new()?;
    let listener = TcpListener::bind(&addr)?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;

    let conns = Conns::default();
    let accept = Event::new(&base, listener.as_raw_fd(), Kinds::READ | Kinds::PERSIST, {
        let conns = conns.clone();
        move |event, _| {
            let base = event.base().expect("it runs");
            loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        if let Err(e) = open(&base, &conns, stream) {
                            eprintln!("a connection: {e}");
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                    // Of a client that has gone already.
                    Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                    Err(e) => {
                        eprintln!("no connection is accepted for a while: {e}");
                        return pause(event).unwrap_or_else(|e| eprintln!("no more connections: {e}"));
                    }
                }
            }
        }
    });
    accept.attach(None)?;
    let interrupt = Event::signal(&base, libc::SIGINT, |event| {
        event.base().expect("it runs").shutdown();
    });
    interrupt.attach(None)?;
    println!("listening on {addr}");
    base.dispatch()?;
    println!("{} connections are left", conns.borrow().len());
    Ok(())
}

/// No descriptors are left, most likely. The listener stays readable, so it is left alone until some may have been closed.
fn pause(accept: &Event) -> Result<(), event::Error> {
    const PAUSE: Duration = Duration::from_millis(200);
    accept.detach()?;
    let accept = accept.clone();
    let base = accept.base().expect("it runs");
    let go_on =
        move |_: &Event| accept.attach(None).unwrap_or_else(|e| eprintln!("no more connections: {e}"));
    Event::timer(&base, go_on).attach(Some(PAUSE))
}

fn open(base: &Base, conns: &Conns, stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let event = Event::new(base, stream.as_raw_fd(), READING, ready(conns.clone()));
    event.attach(Some(IDLE))?;
    conns.borrow_mut().insert(stream.as_raw_fd(), Conn { stream, unsent: Vec::new(), event });
    Ok(())
}

const READING: Kinds = Kinds::READ.or(Kinds::TIMEOUT).or(Kinds::PERSIST);
const WRITING: Kinds = Kinds::WRITE.or(Kinds::TIMEOUT).or(Kinds::PERSIST);

/// The callback of a connection.
fn ready(conns: Conns) -> impl FnMut(&Event, Kinds) {
    move |event, kinds| {
        let mut all = conns.borrow_mut();
        let Some(conn) = all.get_mut(&event.fd()) else { return };
        let is_idle = kinds == Kinds::TIMEOUT;
        if is_idle || echo(conn).is_break() {
            let conn = all.remove(&event.fd());
            // Before the descriptor is closed.
            let _ = event.detach();
            drop(conn);
            return;
        }
        // No input is read while output waits.
        let kinds = if conn.unsent.is_empty() { READING } else { WRITING };
        if event.kinds() != kinds {
            conn.event.assign(conn.stream.as_raw_fd(), kinds, ready(conns.clone()));
            if let Err(e) = conn.event.attach(Some(IDLE)) {
                eprintln!("a connection: {e}");
                all.remove(&event.fd());
            }
        }
    }
}

/// Sends what is left, reads once (if there is more, the event is called again, after the others), and sends that. Breaks at
/// the end of the connection, or at an error.
fn echo(conn: &mut Conn) -> ControlFlow<()> {
    let mut buf = [0; 16 * 1024];
    let mut has_read = false;
    loop {
        let result = match conn.unsent.is_empty() {
            false => conn.stream.write(&conn.unsent).map(|n| drop(conn.unsent.drain(..n))),
            true if has_read => return ControlFlow::Continue(()),
            true => match conn.stream.read(&mut buf) {
                Ok(0) => return ControlFlow::Break(()),
                result => result.map(|n| {
                    has_read = true;
                    conn.unsent.extend_from_slice(&buf[..n]);
                }),
            },
        };
        match result {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return ControlFlow::Continue(()),
            Err(_) => return ControlFlow::Break(()),
        }
    }
}
