//! evio: datagrams.

mod common;
#[path = "common/evio_server.rs"]
mod evio_server;
#[path = "common/strace.rs"]
mod strace;

use evio_server::*;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use wakewheel::evio::{Action, Addr, Events, Opened, Reply, Server};

const ANY: &str = "udp://127.0.0.1:0";

/// A server that answers each datagram with who has sent it, and the same.
fn echo(addr: &str) -> Running<()> {
    let events = Events::new().data(|conn, input| {
        let peer = conn.remote_addr().unwrap();
        conn.out.extend_from_slice(format!("{peer} ").as_bytes());
        Reply::send(input)
    });
    start(events, &[addr])
}

fn to<C>(running: &Running<C>, index: usize, ip: &str) -> SocketAddr {
    (ip.parse::<std::net::IpAddr>().unwrap(), running.addrs()[index].socket_addr().unwrap().port()).into()
}

#[track_caller]
fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buf = vec![0; 1 << 16];
    let (n, from) = socket.recv_from(&mut buf).expect("a datagram comes");
    buf.truncate(n);
    (buf, from)
}

fn has_v6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

#[test]
fn b86_datagrams_are_echoed_whole() {
    let events = Events::new().data(|_, input| Reply::send(input));
    let running = start(events, &[ANY]);
    let socket = udp("127.0.0.1");
    let to = to(&running, 0, "127.0.0.1");
    for size in [1, 1472, 65507] {
        let bytes = pattern(size);
        socket.send_to(&bytes, to).unwrap();
        let (received, from) = receive(&socket);
        assert!(received == bytes, "{size} bytes");
        assert_eq!(from, to);
    }
    running.stop();
}

#[test]
fn b86_datagrams_keep_their_boundaries() {
    let log = Log::<String>::new();
    let data = log.clone();
    let events = Events::new().data(move |_, input| {
        data.note(text(input));
        Reply::send(b"<").then(Action::None)
    });
    let running = start(events, &[ANY]);
    let socket = udp("127.0.0.1");
    let to = to(&running, 0, "127.0.0.1");
    let sent: Vec<_> = (0..20).map(|i| "x".repeat(i + 1)).collect();
    for message in &sent {
        socket.send_to(message.as_bytes(), to).unwrap();
    }
    assert_eq!(log.wait_for(20), sent, "also if they come at once");
    for _ in 0..20 {
        assert_eq!(receive(&socket).0, b"<");
    }
    running.stop();
}

#[test]
fn b86_the_peer_is_the_one_who_has_sent_it() {
    for (addr, clients) in [
        (ANY, &["127.0.0.1"][..]),
        ("udp4://:0", &["127.0.0.1"]),
        ("udp6://[::1]:0", &["::1"]),
        ("udp://:0", &["127.0.0.1", "::1"]),
    ] {
        for client in clients {
            if client.contains(':') && !has_v6() {
                continue;
            }
            let running = echo(addr);
            let socket = udp(client);
            socket.send_to(b"hello", to(&running, 0, client)).unwrap();
            // An IPv4 peer is one also for a socket for both versions.
            let expected = format!("udp://{} hello", socket.local_addr().unwrap());
            assert_eq!(text(&receive(&socket).0), expected, "at {addr}");
            running.stop();
        }
    }
}

#[test]
fn b86_the_own_address_of_a_socket_for_both_versions_has_its_port() {
    let events = Events::new().data(|conn, _| {
        let addr = conn.local_addr().unwrap();
        assert_eq!(conn.addr_index(), Some(0));
        assert!(conn.is_datagram());
        Reply::send(addr.to_string())
    });
    let running = start(events, &["udp://:0"]);
    let socket = udp("127.0.0.1");
    socket.send_to(b"hello", to(&running, 0, "127.0.0.1")).unwrap();
    assert_eq!(text(&receive(&socket).0), running.addrs()[0].to_string());
    running.stop();
}

#[test]
fn b87_schemes_of_one_version_bind_that_version() {
    let echo4 = echo("udp4://:0");
    assert!(matches!(echo4.addrs()[0], Addr::Udp(SocketAddr::V4(_))), "{:?}", echo4.addrs());
    echo4.stop();
    if has_v6() {
        let echo6 = echo("udp6://:0");
        let Addr::Udp(addr @ SocketAddr::V6(_)) = echo6.addrs()[0] else { panic!("{:?}", echo6.addrs()) };
        UdpSocket::bind(("127.0.0.1", addr.port())).expect("the port is free for the other version");
        echo6.stop();
    }
}

#[test]
fn b88_an_empty_datagram_is_delivered() {
    let events = Events::new().data(|conn, input| {
        assert!(!conn.is_wake(), "there is input, even if it is empty");
        Reply::send(format!("{} bytes", input.len()))
    });
    let running = start(events, &[ANY]);
    let socket = udp("127.0.0.1");
    socket.send_to(b"", to(&running, 0, "127.0.0.1")).unwrap();
    assert_eq!(text(&receive(&socket).0), "0 bytes");
    running.stop();
}

#[test]
fn b89_close_and_detach_mean_nothing_for_datagrams() {
    let log = Log::<&str>::new();
    let (opened, closed, detached) = (log.clone(), log.clone(), log.clone());
    let events = Events::new()
        .opened(move |_| {
            opened.note("opened");
            Opened::default()
        })
        .closed(move |_, _| {
            closed.note("closed");
            Action::None
        })
        .detached(move |_, _| {
            detached.note("detached");
            Action::None
        })
        .data(|_, input| {
            Reply::send(input).then(match input {
                b"close" => Action::Close,
                b"detach" => Action::Detach,
                _ => Action::None,
            })
        });
    let running = start(events, &[ANY]);
    let socket = udp("127.0.0.1");
    for message in ["close", "detach", "still here"] {
        socket.send_to(message.as_bytes(), to(&running, 0, "127.0.0.1")).unwrap();
        assert_eq!(text(&receive(&socket).0), message);
    }
    running.stop();
    assert_eq!(log.all(), [""; 0]);
}

#[test]
fn b89_the_output_of_a_shutdown_is_sent() {
    for loops in [1, 3] {
        let events =
            Events::new().num_loops(loops).data(|_, _| Reply::send(b"good-bye").then(Action::Shutdown));
        let running = start(events, &[ANY]);
        let socket = udp("127.0.0.1");
        socket.send_to(b"stop", to(&running, 0, "127.0.0.1")).unwrap();
        assert_eq!(text(&receive(&socket).0), "good-bye");
        running.join().unwrap();
    }
}

/// Sends `n` numbered datagrams to a server with 4 loops, as fast as they are received, and checks that each came once.
fn flood(n: usize, addr: &str) {
    let seen: Arc<Vec<AtomicUsize>> = Arc::new((0..n).map(|_| AtomicUsize::new(0)).collect());
    let count = Arc::new(AtomicUsize::new(0));
    let (its, counted) = (seen.clone(), count.clone());
    let events = Events::new().num_loops(4).data(move |_, input| {
        let number = u32::from_be_bytes(input.try_into().expect("four bytes"));
        its[number as usize].fetch_add(1, Ordering::SeqCst);
        counted.fetch_add(1, Ordering::SeqCst);
        Reply::none()
    });
    let running = start(events, &[addr]);
    let to = to(&running, 0, "127.0.0.1");
    // With reuseport, each sender has its loop.
    let sockets: Vec<_> = (0..16).map(|_| udp("127.0.0.1")).collect();
    for i in 0..n {
        // No more on the way than the kernel keeps.
        eventually("they are received", || i - count.load(Ordering::SeqCst) < 64);
        sockets[i % sockets.len()].send_to(&(i as u32).to_be_bytes(), to).unwrap();
    }
    eventually("all are received", || count.load(Ordering::SeqCst) == n);
    running.stop();
    assert!(seen.iter().all(|count| count.load(Ordering::SeqCst) == 1));
}

#[test]
fn b90_each_datagram_is_delivered_once() {
    flood(scaled(10_000), ANY);
    flood(scaled(10_000), "udp://127.0.0.1:0?reuseport=1");
}

#[test]
fn b90_a_datagram_costs_two_calls_at_most() {
    const NAME: &str = "b90_a_datagram_costs_two_calls_at_most";
    const N: usize = 500;
    if std::env::var("WAKEWHEEL_TEST_CHILD").is_ok_and(|child| child == NAME) {
        return flood(N, ANY);
    }
    if let Some(why) = strace::missing() {
        return strace::skip(NAME, &why);
    }
    let program = std::env::current_exe().unwrap();
    let mut traced = strace::Traced::start(&["-e", "trace=recvfrom,recvmsg,recvmmsg"], &program, |command| {
        command.args([NAME, "--exact", "--nocapture", "--test-threads=1"]);
        command.env("WAKEWHEEL_TEST_CHILD", NAME);
    });
    assert!(traced.wait().success(), "{}", traced.said());
    let calls = traced.calls();
    let total = strace::total(&calls) as usize;
    assert!(total > 0 && total <= 2 * N, "{calls:?}");
}

#[test]
fn b91_a_datagram_goes_to_a_third_address_from_a_callback() {
    let third = udp("127.0.0.1");
    let addr = third.local_addr().unwrap();
    for (server_addr, loops) in [(ANY, 1), ("udp://:0", 1), (ANY, 3)] {
        let events = Events::new().num_loops(loops).data(move |conn, input| {
            assert_eq!(conn.server().send_to(0, input, addr).unwrap(), input.len());
            Reply::none()
        });
        let running = start(events, &[server_addr]);
        let socket = udp("127.0.0.1");
        let server = to(&running, 0, "127.0.0.1");
        socket.send_to(b"hello", server).unwrap();
        assert_eq!(receive(&third), (b"hello".to_vec(), server), "it comes from the server's address");
        running.stop();
    }
}

#[test]
fn b91_a_datagram_is_sent_by_another_thread_later() {
    let (first, third) = (udp("127.0.0.1"), udp("127.0.0.1"));
    let log = Log::<Addr>::new();
    let data = log.clone();
    let events = Events::new().data(move |conn, _| {
        data.note(conn.remote_addr().unwrap());
        Reply::none()
    });
    let running = start(events, &["tcp://127.0.0.1:0", "udp://:0"]);
    first.send_to(b"hello", to(&running, 1, "127.0.0.1")).unwrap();
    let first_addr = log.wait_for(1)[0].socket_addr().unwrap();
    let server: Server<()> = running.clone();
    let third_addr = third.local_addr().unwrap();
    thread::spawn(move || {
        server.send_to(1, b"later", first_addr).unwrap();
        server.send_to(1, b"later", third_addr).unwrap();
        assert!(server.send_to(0, b"later", third_addr).is_err(), "this is not a UDP socket");
        assert!(server.send_to(9, b"later", third_addr).is_err());
    })
    .join()
    .unwrap();
    assert_eq!(receive(&first).0, b"later");
    assert_eq!(receive(&third).0, b"later");
    running.stop();
}

#[test]
fn b92_a_receiver_that_is_not_there_does_not_end_the_server() {
    let nobody = udp("127.0.0.1").local_addr().unwrap();
    let events = Events::new().data(move |conn, input| {
        for _ in 0..10 {
            let _ = conn.server().send_to(0, b"is there anybody?", nobody);
        }
        Reply::send(input)
    });
    let running = start(events, &[ANY]);
    let socket = udp("127.0.0.1");
    for i in 0..20 {
        // Its answers have no receiver, either.
        let gone = udp("127.0.0.1");
        gone.send_to(b"gone", to(&running, 0, "127.0.0.1")).unwrap();
        drop(gone);
        let message = format!("still here {i}");
        socket.send_to(message.as_bytes(), to(&running, 0, "127.0.0.1")).unwrap();
        assert_eq!(text(&receive(&socket).0), message);
    }
    running.stop();
}

#[test]
fn b86_several_sockets_have_their_own_index() {
    let events =
        Events::new().num_loops(2).data(|conn, _| Reply::send(conn.addr_index().unwrap().to_string()));
    let running = start(events, &[ANY, "tcp://127.0.0.1:0", ANY, ANY]);
    let socket = udp("127.0.0.1");
    let mut answers = BTreeMap::new();
    for index in [0, 2, 3] {
        socket.send_to(b"?", to(&running, index, "127.0.0.1")).unwrap();
        answers.insert(index, text(&receive(&socket).0));
    }
    assert_eq!(answers, [0, 2, 3].map(|i| (i, i.to_string())).into());
    running.stop();
}
