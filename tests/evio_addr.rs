//! evio: addresses, loops, and who goes where.

mod common;
#[path = "common/evio_server.rs"]
mod evio_server;

use common::dir::Dir;
use evio_server::*;
use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use wakewheel::evio::{self, Action, Addr, Builder, Events, LoadBalance, Loops, Opened, Reply};

const ANY: &str = "tcp://127.0.0.1:0";
const MS: Duration = Duration::from_millis(1);

fn has_v6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

/// A server that says, for each input, on which loop it is.
fn where_am_i(loops: isize, balance: LoadBalance) -> Events<()> {
    let threads = Arc::new(Mutex::new(Vec::<ThreadId>::new()));
    Events::new().num_loops(loops).load_balance(balance).data(move |_, _| {
        let id = thread::current().id();
        let mut threads = threads.lock().unwrap();
        let index = threads.iter().position(|thread| *thread == id).unwrap_or_else(|| {
            threads.push(id);
            threads.len() - 1
        });
        Reply::send(vec![index as u8])
    })
}

// ---------------------------------------------------------------------------------------------- addresses

#[test]
fn b93_every_connection_knows_its_addresses() {
    let dir = Dir::new("b93");
    let path = dir.path("socket");
    for loops in [1, 2] {
        let events = Events::new().num_loops(loops).data(|conn, _| {
            let addr = |addr: Option<Addr>| addr.map_or("none".into(), |addr| addr.to_string());
            let (local, remote) = (addr(conn.local_addr().ok()), addr(conn.remote_addr()));
            Reply::send(format!("{:?} {local} {remote}", conn.addr_index()))
        });
        let running = start(events, &[ANY, &unix(&path), "tcp://:0"]);
        assert_eq!(running.addrs().len(), 3);
        assert_eq!(running.addrs()[1].to_string(), unix(&path));
        assert!(running.addrs().iter().all(|addr| addr.socket_addr().is_none_or(|addr| addr.port() != 0)));

        let ask = |addr: SocketAddr| {
            let stream = TcpStream::connect(addr).unwrap();
            let (client, server) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let mut stream = Client::Tcp(stream);
            stream.send("?");
            stream.finish();
            (text(&stream.receive_all()), client, server)
        };
        let (answer, client, server) = ask(running.addrs()[0].socket_addr().unwrap());
        assert_eq!(answer, format!("Some(0) tcp://{server} tcp://{client}"));
        // Not the one that it listens on, which is for all, but the one where this connection is.
        let port = running.addrs()[2].socket_addr().unwrap().port();
        let (answer, client, server) = ask(([127, 0, 0, 1], port).into());
        assert_eq!(answer, format!("Some(2) tcp://{server} tcp://{client}"));
        if has_v6() {
            let (answer, client, server) = ask((std::net::Ipv6Addr::LOCALHOST, port).into());
            assert_eq!(answer, format!("Some(2) tcp://{server} tcp://{client}"));
        }
        let mut client = running.connect(1);
        client.send("?");
        client.finish();
        assert_eq!(text(&client.receive_all()), format!("Some(1) {} unix://", unix(&path)));
        running.stop();
    }
}

/// Do two servers at once accept this address, with `{}` for the port?
fn can_be_shared(addr: &str) -> bool {
    let first = start(Events::new(), &[&addr.replace("{}", "0")]);
    let port = first.addrs()[0].socket_addr().unwrap().port();
    let events = Events::new().serving(|_| Action::Shutdown);
    let second = evio::serve(events, [addr.replace("{}", &port.to_string())]);
    first.stop();
    second.is_ok()
}

#[test]
fn b94_reuseport_is_on_if_its_last_value_says_so() {
    let cases = [
        ("?reuseport=1", true),
        ("?reuseport=true", true),
        ("?reuseport=yes", true),
        ("?reuseport=T", true),
        ("?reuseport=Y", true),
        ("?reuseport=9", true),
        ("?reuseport=0", false),
        ("?reuseport=false", false),
        ("?reuseport=on", false),
        ("?reuseport=", false),
        ("?reuseport", false),
        ("", false),
        ("?reuseport=1&reuseport=0", false),
        ("?reuseport=0&reuseport=1", true),
        ("?other=1", false),
        ("?other=0&reuseport=1&more=x", true),
    ];
    for scheme in ["tcp", "udp"] {
        for (query, expected) in cases {
            let addr = format!("{scheme}://127.0.0.1:{{}}{query}");
            assert_eq!(can_be_shared(&addr), expected, "{addr}");
        }
    }
}

#[test]
fn b94_five_servers_share_one_port() {
    let answer = |i: u8| Events::new().opened(move |_| Reply::send(vec![i]).then(Action::Close).into());
    let mut servers = vec![start(answer(0), &["tcp://127.0.0.1:0?reuseport=true"])];
    let port = servers[0].addrs()[0].socket_addr().unwrap().port();
    let addr = format!("tcp://127.0.0.1:{port}?reuseport=true");
    servers.extend((1..5).map(|i| start(answer(i), &[&addr])));
    // The kernel decides by the client's port: sooner or later, everybody has had one.
    let mut seen = HashSet::new();
    eventually("each of them has a client", || {
        seen.extend(servers[0].connect(0).receive_all());
        seen.len() == 5
    });
    servers.into_iter().for_each(Running::stop);
}

#[test]
fn b95_reuseport_reaches_both_versions_of_ip() {
    for loops in [1, 3] {
        let running = start(where_am_i(loops, LoadBalance::default()), &["tcp://:0?reuseport=1"]);
        let port = running.addrs()[0].socket_addr().unwrap().port();
        let mut ips = vec!["127.0.0.1"];
        ips.extend(has_v6().then_some("::1"));
        for ip in ips {
            let mut seen = HashSet::new();
            eventually("each loop has a client", || {
                let mut client = Client::Tcp(TcpStream::connect((ip, port)).unwrap());
                client.send("?");
                seen.extend(client.receive(1));
                seen.len() == loops as usize
            });
        }
        running.stop();
    }
}

// -------------------------------------------------------------------------------------------------- balance

#[test]
fn b96_round_robin_is_exact() {
    let running = start(where_am_i(4, LoadBalance::RoundRobin), &[ANY]);
    for _ in 0..10 {
        let mut round = [0; 4];
        for _ in 0..4 {
            let mut client = running.connect(0);
            client.send("?");
            round[usize::from(client.receive(1)[0])] += 1;
        }
        assert_eq!(round, [1; 4]);
    }
    running.stop();
}

#[test]
fn b96_least_connections_fills_what_is_free() {
    let running = start(where_am_i(4, LoadBalance::LeastConnections), &[ANY]);
    let connect = || {
        let mut client = running.connect(0);
        client.send("?");
        (client.receive(1)[0], client)
    };
    let counts = || running.connections_by_loop().collect::<Vec<_>>();
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(connect());
        let counts = counts();
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }
    assert_eq!(counts(), [3, 3, 2, 2], "of several, the first");
    // All but one of a loop that had three go away, and it gets them back.
    let busy = clients[0].0;
    clients.retain(|(index, _)| *index != busy);
    eventually("those are gone", || running.connections() == 7);
    for _ in 0..2 {
        let (index, client) = connect();
        assert_eq!(index, busy);
        clients.push((index, client));
    }
    running.stop();
}

#[test]
fn b96_random_serves_everybody() {
    let running = start(where_am_i(4, LoadBalance::Random), &[ANY]);
    for _ in 0..40 {
        let mut client = running.connect(0);
        client.send("?");
        assert!(client.receive(1)[0] < 4);
    }
    running.stop();
}

#[test]
fn b96_one_source_has_one_loop() {
    let running = start(where_am_i(4, LoadBalance::SourceHash), &[ANY]);
    for _ in 0..10 {
        let mut client = running.connect(0);
        client.send("?");
        assert_eq!(client.receive(1), [0], "the first that was seen");
    }
    running.stop();
}

#[test]
fn b97_a_blocked_loop_delays_its_own_connections_only() {
    const NAME: &str = "b97_a_blocked_loop_delays_its_own_connections_only";
    common::in_a_process_of_its_own(NAME, || {
        let (release, released) = mpsc::channel::<()>();
        let (released, (blocked, is_blocked)) = (Mutex::new(released), mpsc::channel());
        let events = Events::new().num_loops(3).data(move |_, input| {
            if input == b"block" {
                blocked.send(()).unwrap();
                released.lock().unwrap().recv().unwrap();
            }
            Reply::send(input)
        });
        let running = start(events, &[ANY]);
        let mut blocker = running.connect(0);
        blocker.send("block");
        is_blocked.recv_timeout(PATIENCE).unwrap();
        // The next six: two of them have to wait, in whatever order the loops were given them.
        let mut waiting = Vec::new();
        for i in 1..=6 {
            let mut client = running.connect(0);
            client.send("hello");
            match i % 3 {
                0 => waiting.push(client),
                _ => assert_eq!(client.receive(5), b"hello"),
            }
        }
        let (started, before) = (Instant::now(), cpu_time());
        thread::sleep(500 * MS);
        let (took, used) = (started.elapsed(), cpu_time() - before);
        assert!(used < took / 10, "the others do not spin: {used:?} of {took:?}");
        release.send(()).unwrap();
        assert_eq!(blocker.receive(5), b"block");
        waiting.iter_mut().for_each(|client| assert_eq!(client.receive(5), b"hello"));
        running.stop();
    });
}

// ---------------------------------------------------------------------------------------------------- loops

#[test]
fn b98_the_number_of_loops_is_resolved() {
    let all = thread::available_parallelism().unwrap().get();
    for (loops, expected) in [(0, 1), (1, 1), (2, 2), (5, 5), (-1, all), (-7, all)] {
        let running = start(Events::new().num_loops(loops), &[ANY]);
        assert_eq!(running.num_loops(), expected, "{loops}");
        assert_eq!(running.connections_by_loop().len(), expected);
        running.stop();
    }
    let running = start(Events::new().choices(Builder::new().loops(Loops::All)), &[]);
    assert_eq!(running.num_loops(), all);
    running.stop();
}

#[test]
fn b98_a_single_loop_has_all_callbacks_on_the_calling_thread() {
    for loops in [0, 1] {
        let log = Log::<(String, ThreadId)>::new();
        let note = |what: &'static str| {
            let log = log.clone();
            move || log.note((what.to_owned(), thread::current().id()))
        };
        let [serving, opened, data, wrote, closed, tick] =
            ["serving", "opened", "data", "wrote", "closed", "tick"].map(note);
        let (sender, addr) = mpsc::channel();
        let events = Events::new()
            .num_loops(loops)
            .serving(move |server| {
                serving();
                sender.send(server.addrs()[0].clone()).unwrap();
                Action::None
            })
            .opened(move |_| {
                opened();
                Opened::default()
            })
            .data(move |_, input| {
                data();
                Reply::send(input)
            })
            .post_write(move |_, _, _| wrote())
            .closed(move |_, _| {
                closed();
                Action::Shutdown
            })
            .tick(move |_| {
                tick();
                (Duration::from_secs(3600), Action::None)
            });
        let (here, its) = mpsc::channel();
        let serving = Serving::start(move || {
            here.send(thread::current().id()).unwrap();
            evio::serve(events, [ANY])
        });
        let mut client = Client::connect(&addr.recv_timeout(PATIENCE).unwrap());
        client.ask("hello", "hello");
        drop(client);
        serving.join().unwrap();
        let (here, log) = (its.recv().unwrap(), log.all());
        assert!(log.len() >= 6, "{log:?}");
        assert!(log.iter().all(|(_, thread)| *thread == here), "{log:?}");
    }
}

#[test]
fn b99_a_connection_stays_on_one_thread() {
    #[derive(Default)]
    struct Its(Option<ThreadId>);
    impl Its {
        fn check(&mut self, calls: &AtomicUsize) {
            calls.fetch_add(1, Ordering::SeqCst);
            let here = thread::current().id();
            assert_eq!(*self.0.get_or_insert(here), here);
        }
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let [opened, data, pre_write, post_write, end] = [(); 5].map(|()| calls.clone());
    let log = Log::<String>::new();
    let noted = log.clone();
    let events = Events::with_context::<Its>()
        .num_loops(4)
        .opened(move |conn| {
            conn.context.check(&opened);
            Opened::default()
        })
        .data(move |conn, input| {
            conn.context.check(&data);
            if !conn.is_wake() {
                let handle = conn.handle();
                // From another thread, and nevertheless on its own.
                thread::spawn(move || {
                    let _ = handle.write(b"!");
                    let _ = handle.wake();
                });
            }
            Reply::send(input)
        })
        .pre_write(move |conn| conn.context.check(&pre_write))
        .post_write(move |conn, _, _| conn.context.check(&post_write))
        .closed(move |conn, error| {
            conn.context.check(&end);
            noted.note(closed(error));
            Action::None
        });
    let running = start(events, &[ANY]);
    let mut clients: Vec<_> = (0..20).map(|_| running.connect(0)).collect();
    for _ in 0..5 {
        for client in &mut clients {
            client.send("x");
            assert_eq!(client.receive(2).len(), 2);
        }
    }
    drop(clients);
    assert_eq!(log.wait_for(20), vec!["closed"; 20]);
    assert!(calls.load(Ordering::SeqCst) >= 20 * 22);
    running.stop();
}
