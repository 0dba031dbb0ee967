//! dispatch: accept on one thread, work on others. `b107_…` and `b108_…` are the behaviours of these numbers.
//!
//! `cargo test` and `cargo nextest run` build the example first. With `--test dispatch`, cargo does not:
//! `cargo build --examples`.

mod common;
#[path = "common/evio_server.rs"]
mod evio_server;

use common::dir::Dir;
use common::in_a_process_of_its_own;
use evio_server::{Log, PATIENCE, Serving, cpu_time, eventually, pattern, scaled, text, udp};
use proptest::prelude::*;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{fs, thread};
use wakewheel::dispatch::{
    ADDR_LEN_V4, ADDR_LEN_V6, Addr, Arrival, Datagram, Dispatcher, Job, Running, Server, To, addr_from_bytes,
    addr_to_bytes,
};

const ANY: &str = "tcp://127.0.0.1:0";

#[track_caller]
fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr().socket_addr().unwrap()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client that says one byte, by which callbacks know it.
#[track_caller]
fn client(server: &Server, name: u8) -> TcpStream {
    let mut stream = connect(server);
    stream.write_all(&[name]).unwrap();
    stream
}

/// The byte that a client has said.
#[track_caller]
fn name(mut socket: &TcpStream) -> u8 {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    socket.read_exact(&mut byte).expect("the client says its name");
    byte[0]
}

/// What the server sends until it closes the connection.
#[track_caller]
fn all_of(mut client: &TcpStream) -> String {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("the server ends the connection in order");
    text(&bytes)
}

/// Waits for the end, but not for ever.
#[track_caller]
fn join(running: Running) -> io::Result<()> {
    Serving::start(move || running.join()).join()
}

#[track_caller]
fn stop(running: Running) {
    running.stop();
    join(running).expect("a server that was stopped");
}

/// Holds up whoever passes, until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    #[track_caller]
    fn pass(&self) {
        let is_open = self.0.0.lock().unwrap();
        let (is_open, _) = self.0.1.wait_timeout_while(is_open, PATIENCE, |is_open| !*is_open).unwrap();
        assert!(*is_open, "nobody opens the gate");
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// However a test ends, the workers can.
impl Drop for Gate {
    fn drop(&mut self) {
        if thread::panicking() {
            *self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
            self.0.1.notify_all();
        }
    }
}

/// A server whose worker is held up by each client that is called `b` until the gate is opened, and answers with the
/// number of the worker; and what it has served, by name, in order.
fn gated(gate: &Gate) -> (Log<char>, Dispatcher<TcpStream>) {
    let (log, gate) = (Log::new(), gate.clone());
    let served = log.clone();
    let dispatcher = Dispatcher::new(move |mut job: Job<TcpStream>| {
        let name = name(&job.socket);
        served.note(char::from(name));
        if name == b'b' {
            gate.pass();
        }
        let _ = write!(job.socket, "{}", job.worker);
    });
    (log, dispatcher)
}

// ------------------------------------------------------------------------------------------------------ b107

#[test]
fn b107_connections_go_to_the_workers_round_robin_and_a_blocked_one_delays_only_its_own() {
    let gate = Gate::default();
    let (log, dispatcher) = gated(&gate);
    let running = dispatcher.workers(4).without_take_over().start(ANY).unwrap();
    let blocked = client(&running, b'b');
    log.wait_for(1);
    // One after the other, so that the order in which they are accepted is certain.
    let mut waiting = Vec::new();
    for turn in 1..40_usize {
        let client = client(&running, b'a');
        match turn % 4 {
            0 => {
                eventually("it is accepted", || running.stats().waiting == turn / 4);
                waiting.push(client);
            }
            worker => assert_eq!(all_of(&client), worker.to_string()),
        }
    }
    eventually("only worker 0 works", || running.stats().working == 1);
    assert_eq!(running.stats().waiting, 9, "for worker 0");
    gate.open();
    assert_eq!(all_of(&blocked), "0");
    assert!(waiting.iter().all(|client| all_of(client) == "0"));
    stop(running);
}

#[test]
fn b107_a_stop_drains_what_is_queued() {
    for take_over in [true, false] {
        let gate = Gate::default();
        let (log, dispatcher) = gated(&gate);
        let dispatcher = if take_over { dispatcher } else { dispatcher.without_take_over() };
        let running = dispatcher.workers(2).start(ANY).unwrap();
        let blocked = [client(&running, b'b'), client(&running, b'b')];
        log.wait_for(2);
        let queued: Vec<_> = (0..20).map(|_| client(&running, b'q')).collect();
        eventually("they are accepted", || running.stats().waiting == 20);
        let server = running.clone();
        server.stop();
        let end = Serving::start(move || running.join());
        let addr = server.addr().socket_addr().unwrap();
        eventually("nobody listens any more", || TcpStream::connect(addr).is_err());
        assert!(server.is_stopping() && !end.has_ended(), "it waits for those who are served");
        gate.open();
        for client in blocked.iter().chain(&queued) {
            assert!(["0", "1"].contains(&all_of(client).as_str()));
        }
        end.join().unwrap();
        let stats = server.stats();
        assert_eq!((stats.served, stats.waiting, stats.working), (22, 0, 0));
    }
}

#[test]
fn b107_a_failed_accept_ends_neither_the_server_nor_a_worker() {
    in_a_process_of_its_own("b107_a_failed_accept_ends_neither_the_server_nor_a_worker", || {
        let (log, dispatcher) = gated(&Gate::default());
        let running = dispatcher.workers(2).start(ANY).unwrap();
        assert!(["0", "1"].contains(&all_of(&client(&running, b'a')).as_str()));
        eventually("it is over", || running.stats().served == 1);

        set_descriptors_max(64);
        let mut fill: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(!fill.is_empty() && fill.len() < 64);
        // The last descriptor is the client's: its connection is there, and cannot be accepted.
        drop(fill.pop());
        let client = client(&running, b'a');
        let before = cpu_time();
        eventually("accept gives up, twice", || running.stats().failed >= 2);
        let used = cpu_time() - before;
        assert!(used < Duration::from_millis(150), "it spins: {used:?} of about 200 ms");
        assert_eq!(log.len(), 1);
        fill.clear();
        assert!(["0", "1"].contains(&all_of(&client).as_str()), "it is accepted as soon as that is possible");
        stop(running);
    });
}

fn set_descriptors_max(max: u64) {
    let limit = libc::rlimit { rlim_cur: max as libc::rlim_t, rlim_max: max as libc::rlim_t };
    // SAFETY: the struct is there for the time of the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

// ------------------------------------------------------------------------------------------------------ b108

fn addrs() -> impl Strategy<Value = SocketAddr> {
    let v4 = (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port).into());
    let v6 = (any::<u128>(), any::<u16>(), any::<u32>(), any::<u32>())
        .prop_map(|(ip, port, flow, scope)| SocketAddrV6::new(ip.into(), port, flow, scope).into());
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn b108_addresses_are_8_or_28_bytes_and_come_back(addr in addrs(), more in 0..40_usize) {
        let len = if addr.is_ipv4() { 8 } else { 28 };
        let mut buf = vec![0xaa; len + more];
        prop_assert_eq!(addr_to_bytes(addr, &mut buf).unwrap(), len);
        prop_assert!(buf[len..].iter().all(|&byte| byte == 0xaa), "nothing is written behind it");
        prop_assert_eq!(addr_from_bytes(&buf).unwrap(), (addr, len));
        prop_assert_eq!(addr_from_bytes(&buf[..len]).unwrap(), (addr, len));
        for short in 0..len {
            prop_assert_eq!(addr_from_bytes(&buf[..short]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
            let mut buf = vec![0xaa; short];
            prop_assert_eq!(addr_to_bytes(addr, &mut buf).unwrap_err().kind(), ErrorKind::InvalidInput);
            prop_assert!(buf.iter().all(|&byte| byte == 0xaa), "nothing is written");
        }
    }

    #[test]
    fn b108_no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok((addr, len)) = addr_from_bytes(&bytes) {
            let mut back = vec![0; len];
            prop_assert_eq!(addr_to_bytes(addr, &mut back).unwrap(), len);
            prop_assert_eq!(&back, &bytes[..len]);
        }
    }
}

#[test]
fn b108_the_layout_is_that_of_the_kernel_in_network_order() {
    assert_eq!((ADDR_LEN_V4, ADDR_LEN_V6), (8, 28));
    let mut buf = [0; 28];
    assert_eq!(addr_to_bytes("1.2.3.4:258".parse().unwrap(), &mut buf).unwrap(), 8);
    assert_eq!(buf[..8], [0, 2, 1, 2, 1, 2, 3, 4]);

    let ip = "102:304:506:708:90a:b0c:d0e:f10".parse().unwrap();
    let addr = SocketAddrV6::new(ip, 0x1112, 0x2122_2324, 0x3132_3334);
    assert_eq!(addr_to_bytes(addr.into(), &mut buf).unwrap(), 28);
    assert_eq!(buf[..8], [0, 10, 0x11, 0x12, 0x21, 0x22, 0x23, 0x24]);
    assert_eq!(buf[8..24], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(buf[24..], [0x31, 0x32, 0x33, 0x34]);

    let error = addr_from_bytes(&[2, 0, 0, 80, 1, 2, 3, 4]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}: that is the order of the wrong machine");
    let error = addr_to_bytes(addr.into(), &mut [0; 27]).unwrap_err();
    assert!(error.to_string().contains("28 bytes, and there is room for 27"), "{error}");
}

// ---------------------------------------------------------------------------------------------- whose turn it is

#[test]
fn an_idle_worker_takes_over_what_waits_behind_a_busy_one() {
    let gate = Gate::default();
    let (log, dispatcher) = gated(&gate);
    let running = dispatcher.workers(2).start(ANY).unwrap();
    let blocked = client(&running, b'b');
    log.wait_for(1);
    for _ in 0..20 {
        let worker = all_of(&client(&running, b'a'));
        assert_eq!(worker, "1", "worker 0 is busy");
    }
    assert_eq!(running.stats().taken_over, 10);
    gate.open();
    assert_eq!(all_of(&blocked), "0");
    stop(running);
}

#[test]
fn a_worker_that_becomes_idle_takes_over_too_and_the_oldest_first() {
    let (first, second, log) = (Gate::default(), Gate::default(), Log::<char>::new());
    let (gates, noted) = ([first.clone(), second.clone()], log.clone());
    let running = Dispatcher::new(move |job: Job<TcpStream>| {
        let name = name(&job.socket);
        noted.note(char::from(name));
        if name.is_ascii_digit() {
            gates[usize::from(name - b'0')].pass();
        }
    })
    .workers(2)
    .start(ANY)
    .unwrap();
    let _blocked: Vec<_> = (0..2)
        .map(|i| {
            let client = client(&running, b'0' + i);
            log.wait_for(usize::from(i) + 1);
            client
        })
        .collect();
    let names = b'a'..=b'j';
    let clients: Vec<_> = names.clone().map(|name| client(&running, name)).collect();
    eventually("they wait", || running.stats().waiting == clients.len());
    // Its own five first, and then the five of the other one.
    second.open();
    log.wait_for(12);
    let served: String = log.all()[2..].iter().collect();
    assert_eq!(served, "bdfhjacegi");
    assert_eq!(running.stats().taken_over, 5);
    first.open();
    stop(running);
}

#[test]
fn what_is_given_to_a_certain_worker_stays_with_it() {
    let gate = Gate::default();
    let (log, hold) = (Log::<(u8, usize)>::new(), gate.clone());
    let noted = log.clone();
    let accept = |arrival: Arrival<'_, TcpStream>| {
        let name = name(arrival.socket);
        // Beyond the last one, it counts again from 0.
        if name == b'?' { To::Next(name) } else { To::Worker(usize::from(name - b'0') + 300, name) }
    };
    let work = move |mut job: Job<TcpStream, u8>| {
        noted.note((job.arg, job.worker));
        if job.arg == b'1' {
            hold.pass();
        }
        let _ = write!(job.socket, "{}", job.worker);
    };
    let running = Dispatcher::with_accept(accept, work).workers(3).start(ANY).unwrap();
    let blocked = client(&running, b'1');
    log.wait_for(1);
    let queued: Vec<_> = (0..5).map(|_| client(&running, b'1')).collect();
    eventually("they wait", || running.stats().waiting == 5);
    for _ in 0..6 {
        assert_ne!(all_of(&client(&running, b'?')), "1", "what has no wish does not wait behind them");
        assert_eq!(all_of(&client(&running, b'2')), "2");
    }
    assert_eq!(running.stats().waiting, 5, "others are idle, and leave it alone");
    gate.open();
    assert!([blocked].iter().chain(&queued).all(|client| all_of(client) == "1"));
    stop(running);
}

#[test]
fn one_worker_serves_in_the_order_of_the_accepts() {
    let gate = Gate::default();
    let (log, dispatcher) = gated(&gate);
    let running = dispatcher.workers(1).start(ANY).unwrap();
    let mut clients = vec![client(&running, b'b')];
    log.wait_for(1);
    let names: String = ('A'..='Z').collect();
    for name in names.bytes() {
        clients.push(client(&running, name));
    }
    gate.open();
    assert_eq!(log.wait_for(1 + names.len())[1..].iter().collect::<String>(), names);
    stop(running);
}

// ---------------------------------------------------------------------------------------------- back-pressure

#[test]
fn when_all_queues_are_full_nothing_is_accepted() {
    in_a_process_of_its_own("when_all_queues_are_full_nothing_is_accepted", || {
        let (gate, accepted) = (Gate::default(), Log::<()>::new());
        let (hold, noted) = (gate.clone(), accepted.clone());
        let accept = move |_: Arrival<'_, TcpStream>| {
            noted.note(());
            To::Next(())
        };
        let work = move |mut job: Job<TcpStream>| {
            hold.pass();
            let _ = job.socket.write_all(b"served");
        };
        let running = Dispatcher::with_accept(accept, work).workers(2).queue_max(3).start(ANY).unwrap();
        let mut clients: Vec<_> = (0..2).map(|_| connect(&running)).collect();
        eventually("both work", || running.stats().working == 2);
        clients.extend((0..20).map(|_| connect(&running)));
        // Two are served, and two times three wait. The others are connected: they wait in the backlog.
        accepted.wait_for(8);
        let before = cpu_time_of("dispatch-accept");
        let clock = Instant::now();
        while clock.elapsed() < Duration::from_millis(50) {
            assert_eq!(accepted.len(), 8);
            thread::yield_now();
        }
        if let (Some(before), Some(after)) = (before, cpu_time_of("dispatch-accept")) {
            assert!(after - before <= 2, "it waits without spinning: {} ticks", after - before);
        }
        assert_eq!((running.stats().working, running.stats().waiting), (2, 6));
        gate.open();
        assert!(clients.iter().all(|client| all_of(client) == "served"));
        assert_eq!(accepted.len(), 22);
        stop(running);
    });
}

/// What the threads of this name have used, in ticks of 10 ms. `None` where there is no /proc.
fn cpu_time_of(thread: &str) -> Option<u64> {
    let mut ticks = 0;
    for task in fs::read_dir("/proc/self/task").ok()? {
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).unwrap_or_default();
        if stat.contains(&format!("({thread})")) {
            let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            ticks += fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
        }
    }
    Some(ticks)
}

#[test]
fn a_full_queue_is_passed_over() {
    let gate = Gate::default();
    let (log, dispatcher) = gated(&gate);
    let running = dispatcher.workers(2).queue_max(1).without_take_over().start(ANY).unwrap();
    let blocked = client(&running, b'b');
    log.wait_for(1);
    assert_eq!(all_of(&client(&running, b'a')), "1");
    let behind = client(&running, b'a');
    eventually("it waits for worker 0", || running.stats().waiting == 1);
    for _ in 0..10 {
        assert_eq!(all_of(&client(&running, b'a')), "1", "there is no room at worker 0");
    }
    gate.open();
    assert_eq!((all_of(&blocked), all_of(&behind)), ("0".into(), "0".into()));
    stop(running);
}

#[test]
fn a_stop_while_the_queues_are_full_loses_nothing_that_was_accepted() {
    let (gate, accepted) = (Gate::default(), Log::<()>::new());
    let (hold, noted) = (gate.clone(), accepted.clone());
    let accept = move |_: Arrival<'_, TcpStream>| {
        noted.note(());
        To::Worker(0, ())
    };
    let work = move |_: Job<TcpStream>| hold.pass();
    // The third is in the hand of the accept thread: worker 0 has no room for it, only the other one has.
    let running = Dispatcher::with_accept(accept, work).workers(2).queue_max(1).start(ANY).unwrap();
    let server = running.clone();
    let clients: Vec<_> = (0..5).map(|_| connect(&running)).collect();
    accepted.wait_for(3);
    server.stop();
    let end = Serving::start(move || running.join());
    eventually("the third has room", || server.stats().waiting == 2);
    gate.open();
    end.join().unwrap();
    assert_eq!((server.stats().served, accepted.len()), (3, 3));
    drop(clients);
}

// ------------------------------------------------------------------------------------------------------ the end

#[test]
fn a_stop_while_workers_are_busy_waits_for_them_and_a_second_one_does_nothing() {
    let gate = Gate::default();
    let (log, dispatcher) = gated(&gate);
    let running = dispatcher.workers(2).start(ANY).unwrap();
    let blocked = client(&running, b'b');
    log.wait_for(1);
    let server = running.clone();
    server.stop();
    server.stop();
    let end = Serving::start(move || running.join());
    assert!(!end.has_ended());
    gate.open();
    assert_eq!(all_of(&blocked), "0");
    end.join().unwrap();
    server.stop();
    assert!(server.is_stopping());
}

#[test]
fn a_stop_at_once_and_an_idle_server_end() {
    for _ in 0..100 {
        let running = Dispatcher::new(|_: Job<TcpStream>| {}).workers(3).start(ANY).unwrap();
        stop(running);
    }
}

#[test]
fn any_callback_can_stop_it() {
    let from_accept = |arrival: Arrival<'_, TcpStream>| {
        arrival.server.stop();
        To::Next(())
    };
    let work = |mut job: Job<TcpStream>| {
        assert!(job.server.is_stopping());
        let _ = job.socket.write_all(b"the last one");
    };
    let running = Dispatcher::with_accept(from_accept, work).start(ANY).unwrap();
    let client = connect(&running);
    join(running).unwrap();
    assert_eq!(all_of(&client), "the last one");

    let running = Dispatcher::new(|job: Job<TcpStream>| job.server.stop()).start(ANY).unwrap();
    let client = connect(&running);
    join(running).unwrap();
    assert_eq!(all_of(&client), "");
}

#[test]
fn serve_returns_when_it_is_stopped() {
    let dir = Dir::new("dispatch-serve");
    let path = dir.path("socket");
    let addr = format!("unix://{}", path.display());
    let serving = Serving::start(move || {
        Dispatcher::new(|job: Job<UnixStream>| job.server.stop()).workers(1).serve(addr)
    });
    let mut client = None;
    eventually("it listens", || {
        client = UnixStream::connect(&path).ok();
        client.is_some()
    });
    serving.join().unwrap();
}

#[test]
fn to_drop_it_stops_it_and_waits() {
    let gate = Gate::default();
    let (log, dispatcher) = gated(&gate);
    let running = dispatcher.workers(2).start(ANY).unwrap();
    let server = running.clone();
    let blocked = client(&running, b'b');
    log.wait_for(1);
    let dropping = Serving::start(move || {
        drop(running);
        Ok(())
    });
    eventually("it stops", || server.is_stopping());
    assert!(!dropping.has_ended());
    gate.open();
    dropping.join().unwrap();
    assert_eq!(server.stats().served, 1);
    assert_eq!(all_of(&blocked), "0");
}

#[test]
fn a_callback_that_drops_or_joins_its_server_does_not_wait_for_itself() {
    for joins in [false, true] {
        let slot = Arc::new(Mutex::new(None::<Running>));
        let (its, log) = (slot.clone(), Log::<String>::new());
        let noted = log.clone();
        let work = move |_: Job<TcpStream>| {
            let running = its.lock().unwrap().take().expect("the server");
            noted.note(match joins {
                true => format!("{:?}", running.join().unwrap_err().kind()),
                false => {
                    drop(running);
                    "dropped".into()
                }
            });
        };
        let running = Dispatcher::new(work).workers(2).start(ANY).unwrap();
        let server = running.clone();
        let addr = server.addr().socket_addr().unwrap();
        *slot.lock().unwrap() = Some(running);
        let client = connect(&server);
        assert_eq!(log.wait_for(1), [if joins { "Deadlock" } else { "dropped" }]);
        eventually("it ends all the same", || TcpStream::connect(addr).is_err());
        assert_eq!(all_of(&client), "");
    }
}

#[test]
fn a_unix_socket_is_served_and_its_file_removed() {
    let dir = Dir::new("dispatch-unix");
    let path = dir.path("socket");
    let running = Dispatcher::new(|mut job: Job<UnixStream>| {
        let mut buf = [0; 5];
        job.socket.read_exact(&mut buf).expect("it blocks");
        job.socket.write_all(&buf).unwrap();
    })
    .start(format!("unix://{}", path.display()))
    .unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"hello").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello");
    stop(running);
    assert!(!path.exists());
}

// ------------------------------------------------------------------------------------------------- failures

#[test]
fn a_panic_costs_its_connection_only() {
    /// Panics when it is dropped, also as the payload of a panic.
    struct Mine;
    impl Drop for Mine {
        fn drop(&mut self) {
            panic!("a payload that panics");
        }
    }

    let accept = |arrival: Arrival<'_, TcpStream>| {
        let name = name(arrival.socket);
        assert_ne!(name, b'x', "the accept callback panics");
        To::Next(name)
    };
    let work = |mut job: Job<TcpStream, u8>| match job.arg {
        b'p' => panic!("the worker panics"),
        b'd' => std::panic::panic_any(Mine),
        _ => job.socket.write_all(b"served").unwrap(),
    };
    let running = Dispatcher::with_accept(accept, work).workers(1).start(ANY).unwrap();
    for name in *b"xpdpxd" {
        assert_eq!(all_of(&client(&running, name)), "");
        assert_eq!(all_of(&client(&running, b'a')), "served");
    }
    eventually("all are counted", || running.stats().served == 10);
    assert_eq!(running.stats().panicked, 6);
    stop(running);
}

#[test]
fn a_panic_is_reported_by_the_hook_with_the_name_of_the_thread() {
    in_a_process_of_its_own("a_panic_is_reported_by_the_hook_with_the_name_of_the_thread", || {
        let log = Log::<String>::new();
        let noted = log.clone();
        std::panic::set_hook(Box::new(move |info| {
            noted.note(format!(
                "{:?}: {:?}",
                thread::current().name(),
                info.payload().downcast_ref::<&str>()
            ));
        }));
        let accept = |arrival: Arrival<'_, TcpStream>| match name(arrival.socket) {
            b'x' => panic!("in accept"),
            _ => To::Worker(1, ()),
        };
        let running = Dispatcher::with_accept(accept, |_| panic!("in work")).workers(2).start(ANY).unwrap();
        assert_eq!(all_of(&client(&running, b'x')), "");
        assert_eq!(all_of(&client(&running, b'a')), "");
        eventually("both are counted", || running.stats().panicked == 2);
        stop(running);
        let expected =
            ["Some(\"dispatch-accept\"): Some(\"in accept\")", "Some(\"dispatch-1\"): Some(\"in work\")"];
        assert_eq!(log.all(), expected);
    });
}

#[test]
fn too_few_descriptors_are_an_error_of_start_and_leave_no_thread_behind() {
    const NAME: &str = "too_few_descriptors_are_an_error_of_start_and_leave_no_thread_behind";
    in_a_process_of_its_own(NAME, || {
        let start = || Dispatcher::new(|_: Job<TcpStream>| {}).workers(3).start(ANY);
        stop(start().unwrap());
        set_descriptors_max(64);
        let mut fill: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let mut failures = 0;
        let running = loop {
            match start() {
                Ok(running) => break running,
                Err(e) => {
                    assert_eq!(e.raw_os_error().or(common::os_error(&e)), Some(libc::EMFILE), "{e}");
                    failures += 1;
                }
            }
            drop(fill.pop().expect("it starts at last"));
        };
        assert!(failures >= 2, "the listener has failed, and the reactor of the accept thread: {failures}");
        drop(fill);
        assert_eq!(all_of(&connect(&running)), "");
        stop(running);
        // (The test program has a name like these.)
        let is_ours =
            |name: &String| ["dispatch-accept", "dispatch-0", "dispatch-1", "dispatch-2"].contains(&&**name);
        eventually("no thread is left of any of them", || !common::proc::thread_names().iter().any(is_ours));
    });
}

#[test]
fn who_is_not_welcome_is_closed() {
    let accept = |arrival: Arrival<'_, TcpStream>| {
        assert_eq!(*arrival.peer, Addr::Tcp(arrival.socket.peer_addr().unwrap()));
        if name(arrival.socket) == b'n' { To::Nobody } else { To::Next(()) }
    };
    let work = |mut job: Job<TcpStream>| job.socket.write_all(b"served").unwrap();
    let running = Dispatcher::with_accept(accept, work).start(ANY).unwrap();
    for name in *b"nanna" {
        let expected = if name == b'n' { "" } else { "served" };
        assert_eq!(all_of(&client(&running, name)), expected);
    }
    assert_eq!(running.stats().refused, 3);
    stop(running);
}

#[test]
fn what_cannot_be_bound_is_an_error_that_quotes_the_address() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = holder.local_addr().unwrap();
    let tcp = |addr: &str| Dispatcher::new(|_: Job<TcpStream>| {}).start(addr).map(drop).unwrap_err();
    let error = tcp(&format!("tcp://{held}"));
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&held.to_string()), "{error}");
    for wrong in ["tpc://127.0.0.1:0", "127.0.0.1", "udp://127.0.0.1:0", "unix://@wakewheel-dispatch-wrong"] {
        let error = tcp(wrong);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(wrong), "{error}");
    }
    let error = Dispatcher::new(|_: Job<Datagram>| {}).start(ANY).map(drop).unwrap_err();
    assert!(error.to_string().contains(ANY) && error.to_string().contains("udp://"), "{error}");
    let error = Dispatcher::new(|_: Job<UnixStream>| {}).serve(ANY).unwrap_err();
    assert!(error.to_string().contains("unix://"), "{error}");
}

#[test]
fn a_listener_that_does_not_listen_any_more_is_an_error_of_join() {
    in_a_process_of_its_own("a_listener_that_does_not_listen_any_more_is_an_error_of_join", || {
        let running = Dispatcher::new(|_: Job<TcpStream>| {}).start(ANY).unwrap();
        let addr = running.addr().socket_addr().unwrap();
        let is_ours = |fd: &i32| {
            // SAFETY: no pointers; a descriptor that is not open is an error.
            let copy = unsafe { libc::dup(*fd) };
            // SAFETY: it was made a moment ago, and nobody else has it.
            copy >= 0
                && unsafe { <TcpListener as std::os::fd::FromRawFd>::from_raw_fd(copy) }.local_addr().ok()
                    == Some(addr)
        };
        let fd = (3..100).find(is_ours).expect("the listener");
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::shutdown(fd, libc::SHUT_RDWR) }, 0);
        let server = running.clone();
        let error = join(running).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Deadlock, "{error}");
        assert!(server.is_stopping());
    });
}

// ------------------------------------------------------------------------------------------------- datagrams

#[test]
fn datagrams_are_answered_by_workers_that_may_block() {
    for (addr, client) in [
        ("udp://127.0.0.1:0", "127.0.0.1"),
        ("udp4://:0", "127.0.0.1"),
        ("udp://:0", "127.0.0.1"),
        ("udp://:0", "::1"),
    ] {
        if UdpSocket::bind((client, 0)).is_err() {
            continue;
        }
        let (socket, third, gate) = (udp(client), udp("127.0.0.1"), Gate::default());
        let (to_third, hold) = (third.local_addr().unwrap(), gate.clone());
        let running = Dispatcher::new(move |job: Job<Datagram>| match job.socket.bytes() {
            b"block" => hold.pass(),
            b"third" => drop(job.socket.send_to(b"for you", to_third).unwrap()),
            bytes => {
                let answer = [job.peer.to_string().as_bytes(), b" ", bytes].concat();
                job.socket.reply(&answer).unwrap();
            }
        })
        .workers(2)
        .start(addr)
        .unwrap();
        let ip: IpAddr = client.parse().unwrap();
        let to = SocketAddr::from((ip, running.addr().socket_addr().unwrap().port()));

        socket.send_to(b"block", to).unwrap();
        eventually("one is held up", || running.stats().working == 1);
        let mut buf = [0; 2048];
        for bytes in [&b"hello"[..], b"", &[b'x'; 1400]] {
            socket.send_to(bytes, to).unwrap();
            let (len, from) = socket.recv_from(&mut buf).unwrap();
            let expected = format!("udp://{} {}", socket.local_addr().unwrap(), text(bytes));
            assert_eq!((text(&buf[..len]), from), (expected, to), "at {addr}");
        }
        socket.send_to(b"third", to).unwrap();
        assert_eq!(third.recv(&mut buf).unwrap(), 7, "at {addr}");
        gate.open();
        stop(running);
    }
}

#[test]
fn datagrams_that_wait_are_answered_also_after_the_stop() {
    let gate = Gate::default();
    let hold = gate.clone();
    let running = Dispatcher::new(move |job: Job<Datagram>| {
        hold.pass();
        job.socket.reply(job.socket.bytes()).unwrap();
    })
    .workers(1)
    .start("udp://127.0.0.1:0")
    .unwrap();
    let socket = udp("127.0.0.1");
    for _ in 0..10 {
        socket.send_to(b"hello", running.addr().socket_addr().unwrap()).unwrap();
    }
    eventually("they wait", || running.stats().waiting == 9);
    running.stop();
    let end = Serving::start(move || running.join());
    gate.open();
    end.join().unwrap();
    let mut buf = [0; 16];
    assert!((0..10).all(|_| socket.recv(&mut buf).unwrap() == 5));
}

#[test]
fn each_datagram_is_served_once() {
    let n = scaled(5000);
    let log = Log::<u32>::new();
    let noted = log.clone();
    let running = Dispatcher::new(move |job: Job<Datagram>| {
        noted.note(u32::from_be_bytes(job.socket.bytes().try_into().expect("four bytes")));
    })
    .workers(4)
    .start("udp://127.0.0.1:0")
    .unwrap();
    let socket = udp("127.0.0.1");
    for i in 0..n {
        // No more on the way than the kernel keeps.
        eventually("they are received", || i - log.len() < 64);
        socket.send_to(&(i as u32).to_be_bytes(), running.addr().socket_addr().unwrap()).unwrap();
    }
    log.wait_for(n);
    stop(running);
    let mut all = log.all();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..n as u32));
}

// ----------------------------------------------------------------------------------------------------- load

const CLIENTS: usize = 8;

/// Clients that connect so many times, one after the other, each on its thread, with 512 bytes each way.
fn flood(server: &Server, connections_each: usize) {
    let bytes = pattern(512);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..connections_each {
                    let mut client = connect(server);
                    client.write_all(&bytes).unwrap();
                    let mut answer = [0; 512];
                    client.read_exact(&mut answer).unwrap();
                    assert!(answer == *bytes);
                    assert_eq!(all_of(&client), "");
                }
            });
        }
    });
}

fn echo_512() -> Dispatcher<TcpStream> {
    Dispatcher::new(|mut job: Job<TcpStream>| {
        job.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; 512];
        job.socket.read_exact(&mut bytes).unwrap();
        job.socket.write_all(&bytes).unwrap();
    })
}

#[test]
fn ten_thousand_connections_are_served_and_leave_no_descriptor_behind() {
    in_a_process_of_its_own("ten_thousand_connections_are_served_and_leave_no_descriptor_behind", || {
        // What a process has once is there after this.
        let running = echo_512().start(ANY).unwrap();
        flood(&running, 1);
        stop(running);

        let before = common::proc::descriptors();
        for (workers, queue_max) in [(4, 128), (2, 1)] {
            let running = echo_512().workers(workers).queue_max(queue_max).start(ANY).unwrap();
            let connections_each = scaled(10_000) / 2 / CLIENTS;
            flood(&running, connections_each);
            let connections = (connections_each * CLIENTS) as u64;
            eventually("all are served", || running.stats().served == connections);
            let stats = running.stats();
            assert_eq!((stats.panicked, stats.failed, stats.waiting), (0, 0, 0));
            stop(running);
        }
        assert_eq!(common::proc::descriptors(), before);
    });
}

// --------------------------------------------------------------------------------------------- the example

/// `dispatch_echo`. Killed with the value.
struct Program {
    child: Child,
    addr: String,
}

impl Program {
    #[track_caller]
    fn start(args: &[&str]) -> Program {
        let test = std::env::current_exe().unwrap();
        let path: PathBuf = test.parent().and_then(Path::parent).unwrap().join("examples/dispatch_echo");
        assert!(path.exists(), "{} is missing: `cargo build --examples` makes it", path.display());
        let mut command = Command::new(path);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, line) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = sender.send(line);
        });
        let line = line.recv_timeout(PATIENCE).expect("an address");
        let addr = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}"));
        Program { addr: addr.to_owned(), child }
    }

    fn port(&self) -> String {
        self.addr.rsplit(':').next().unwrap().to_owned()
    }

    /// Asks it to end, which it has to do without a complaint.
    #[track_caller]
    fn end(mut self) {
        // SAFETY: it touches no memory. The child has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGINT) }, 0);
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!((status.unwrap().code(), errors.as_str()), (Some(0), ""));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What nc gets back. `None` if there is no nc here.
fn nc(args: &[&str], input: &[u8]) -> Option<String> {
    let mut command = Command::new("nc");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            println!("skipped: cannot run nc: {e}");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    Some(text(&child.wait_with_output().unwrap().stdout))
}

#[test]
fn the_example_echoes_over_tcp() {
    let program = Program::start(&["tcp://127.0.0.1:0", "--workers", "2"]);
    if let Some(answer) = nc(&["-N", "-w", "10", "127.0.0.1", &program.port()], b"hello\n") {
        assert_eq!(answer, "hello\\n");
    }
    let addr = program.addr.strip_prefix("tcp://").unwrap().to_owned();
    let bytes = pattern(1 << 20);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let stream = TcpStream::connect(&addr).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut reader = &stream;
                scope.spawn({
                    let (stream, bytes) = (stream.try_clone().unwrap(), &bytes);
                    move || {
                        (&stream).write_all(bytes).unwrap();
                        stream.shutdown(Shutdown::Write).unwrap();
                    }
                });
                let mut answer = Vec::new();
                reader.read_to_end(&mut answer).unwrap();
                assert!(answer == bytes);
            });
        }
    });
    // A client that says nothing does not keep it from ending.
    let mut silent = TcpStream::connect(&addr).unwrap();
    silent.write_all(b"x").unwrap();
    silent.read_exact(&mut [0]).unwrap();
    program.end();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_example_echoes_over_udp_and_unix_sockets() {
    let program = Program::start(&["udp://127.0.0.1:0"]);
    if let Some(answer) = nc(&["-u", "-w", "1", "127.0.0.1", &program.port()], b"hello\n") {
        assert_eq!(answer, "hello\\n");
    }
    let socket = udp("127.0.0.1");
    socket.send_to(b"hello", program.addr.strip_prefix("udp://").unwrap()).unwrap();
    let mut buf = [0; 16];
    let len = socket.recv(&mut buf).unwrap();
    assert_eq!(&buf[..len], b"hello");
    program.end();

    let dir = Dir::new("dispatch-example");
    let path = dir.path("socket");
    let program = Program::start(&[&format!("unix://{}", path.display())]);
    if let Some(answer) = nc(&["-N", "-U", path.to_str().unwrap()], b"hello\n") {
        assert_eq!(answer, "hello\\n");
    }
    program.end();
    assert!(!path.exists());
}

#[test]
fn the_example_says_what_is_wrong() {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/dispatch_echo");
    for (args, code, what) in [
        (&["tcp://127.0.0.1"][..], 1, "tcp://127.0.0.1"),
        (&["--workers", "0"], 2, "at least 1"),
        (&["--nonsense"], 2, "nonsense"),
    ] {
        let output = Command::new(&path).args(args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(what), "{errors}");
    }
}
