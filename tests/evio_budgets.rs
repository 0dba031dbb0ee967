//! What callbacks cost, exactly: allocations and memory. (System calls are in `budgets.rs`, side by side with those of
//! futures.) A number here is a promise; if one changes, it has become a decision.

#[path = "common/counting.rs"]
mod counting;

use counting::{allocations, bytes};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;
use wakewheel::evio::{self, Action, Conn, Handler, Reply, Server};
use wakewheel::reactor::Backend;

const PATIENCE: Duration = Duration::from_secs(60);

/// Echoes, in one of three ways, and says what its loop has allocated by then.
#[derive(Clone)]
struct Echo {
    way: Way,
    allocated: Arc<Allocated>,
    addr: Sender<(SocketAddr, Server<()>)>,
}

/// What the loop had allocated when the last message came.
#[derive(Default)]
struct Allocated {
    times: AtomicU64,
    bytes: AtomicI64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The answer is the input.
    Borrowed,
    /// The answer is appended to the loop's buffer.
    Appended,
    /// The second half of each message is left for the next time.
    Unread,
}

impl Handler for Echo {
    type Context = ();

    fn serving(&mut self, server: &Server<()>) -> Action {
        let addr = server.addrs()[0].socket_addr().unwrap();
        self.addr.send((addr, server.clone())).unwrap();
        Action::None
    }

    fn data<'a>(&mut self, conn: &mut Conn<'_, ()>, input: &'a [u8]) -> Reply<'a> {
        self.allocated.times.store(allocations(), Ordering::Relaxed);
        self.allocated.bytes.store(bytes(), Ordering::Relaxed);
        match self.way {
            Way::Borrowed => Reply::send(input),
            Way::Appended => {
                conn.out.extend_from_slice(input);
                Reply::none()
            }
            Way::Unread if input.len() == 64 => {
                conn.unread(32);
                Reply::send(&input[..32])
            }
            Way::Unread => Reply::send(input),
        }
    }
}

struct Running {
    addr: SocketAddr,
    server: Server<()>,
    allocated: Arc<Allocated>,
    thread: thread::JoinHandle<std::io::Result<()>>,
}

fn start(way: Way) -> Running {
    let allocated = Arc::new(Allocated::default());
    let (addr, addrs) = mpsc::channel();
    let handler = Echo { way, allocated: allocated.clone(), addr };
    let thread = thread::spawn(|| evio::serve(handler, ["tcp://127.0.0.1:0"]));
    let (addr, server) = addrs.recv_timeout(PATIENCE).unwrap();
    Running { addr, server, allocated, thread }
}

impl Running {
    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.addr).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// Sends so many bytes and reads as many, and says what the loop had allocated when the last of them came.
    fn exchange<const SENT: usize, const READ: usize>(&self, client: &mut TcpStream) -> (u64, i64) {
        client.write_all(&[7; SENT]).unwrap();
        client.read_exact(&mut [0; READ]).unwrap();
        (self.allocated.times.load(Ordering::Relaxed), self.allocated.bytes.load(Ordering::Relaxed))
    }

    fn stop(self) {
        self.server.stop();
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn a_message_allocates_nothing() {
    for way in [Way::Borrowed, Way::Appended] {
        let running = start(way);
        let mut client = running.connect();
        let mut exchange = || running.exchange::<64, 64>(&mut client);
        (0..10).for_each(|_| _ = exchange());
        let (before, _) = exchange();
        (0..500).for_each(|_| _ = exchange());
        let (after, _) = exchange();
        assert_eq!(after - before, 0, "{way:?}");
        running.stop();
    }
}

/// What is left of a message is in a buffer of its own, which is given up when it has been used.
#[test]
fn input_that_was_left_is_kept_no_longer_than_it_takes() {
    let running = start(Way::Unread);
    let mut client = running.connect();
    let mut exchange = || {
        running.exchange::<64, 32>(&mut client);
        running.exchange::<1, 33>(&mut client)
    };
    (0..10).for_each(|_| _ = exchange());
    let (_, before) = exchange();
    (0..100).for_each(|_| _ = exchange());
    let (_, after) = exchange();
    assert_eq!(after, before, "bytes");
    running.stop();
}

/// The task and the reactor's part, in the sizes that were asked of the allocator. poll(2) needs a list of its own, and what
/// waits to be armed.
#[test]
fn an_idle_connection_has_300_bytes_at_most() {
    const CONNECTIONS: usize = 200;
    if Backend::from_env().unwrap() == Backend::Poll {
        return println!("skipped: this is about the backends of large servers");
    }
    let running = start(Way::Borrowed);
    let mut first = running.connect();
    running.exchange::<64, 64>(&mut first);
    let (_, before) = running.exchange::<64, 64>(&mut first);
    let connect = |_| {
        let mut client = running.connect();
        // It has been opened, and waits for the next message.
        running.exchange::<64, 64>(&mut client);
        client
    };
    let clients: Vec<_> = (0..CONNECTIONS).map(connect).collect();
    let (_, after) = running.exchange::<64, 64>(&mut first);
    let each = (after - before) as f64 / CONNECTIONS as f64;
    println!("{each} bytes per idle connection");
    assert!(each <= 300.0, "{each} bytes per idle connection");
    drop(clients);
    running.stop();
}
