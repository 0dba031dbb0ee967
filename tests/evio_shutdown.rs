//! evio: the end of a server, in order and otherwise.

mod common;
#[path = "common/evio_server.rs"]
mod evio_server;

use common::dir::Dir;
use evio_server::*;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::evio::{self, Action, Builder, Conn, Events, Opened, Options, Reply, Server};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const ANY: &str = "tcp://127.0.0.1:0";

// --------------------------------------------------------------------------------------- who may shut it down

const CALLBACKS: [&str; 7] = ["serving", "opened", "data", "datagram", "closed", "detached", "tick"];

/// Runs a server in which the callback `culprit` answers `Shutdown`, and returns what was called.
fn shut_down_from(culprit: &'static str, loops: isize) -> Result<Vec<&'static str>, String> {
    let log = Log::<&'static str>::new();
    let started = Log::<Instant>::new();
    let answer = |name: &'static str| {
        let (log, started) = (log.clone(), started.clone());
        move || {
            log.note(name);
            if name != culprit {
                return Action::None;
            }
            started.note(Instant::now());
            Action::Shutdown
        }
    };
    let [serving, opened, data, datagram, closed, detached, tick] = CALLBACKS.map(answer);
    let client = Arc::new(Mutex::new(None));
    let its = client.clone();
    let events = Events::new()
        .num_loops(loops)
        .serving(move |server| {
            let addrs: Vec<_> = server.addrs().iter().map(local).collect();
            let mut stream = Client::connect(&addrs[0]);
            *its.lock().unwrap() = Some(thread::spawn(move || {
                // Nothing of this has to arrive, as the server stops in the middle.
                let _ = stream.write_all(if culprit == "detached" { b"detach" } else { b"hello" });
                let _ = udp("127.0.0.1").send_to(b"datagram", addrs[1].socket_addr().unwrap());
                if culprit == "closed" {
                    stream.finish();
                }
                stream.wait_for_the_end();
            }));
            serving()
        })
        .opened(move |_| opened().into())
        .data(move |conn, input| match (conn.is_datagram(), input) {
            (true, _) => datagram().into(),
            (_, b"detach") => Action::Detach.into(),
            _ => data().into(),
        })
        .closed(move |_, _| closed())
        .detached(move |_, _| detached())
        .tick(move |_| (HOUR, tick()));
    Serving::start(move || evio::serve(events, [ANY, "udp://127.0.0.1:0"])).join().unwrap();
    let took = started.all()[0].elapsed();
    client.lock().unwrap().take().unwrap().join().unwrap();
    if took < Duration::from_secs(1) { Ok(log.all()) } else { Err(format!("{took:?}")) }
}

#[test]
fn b78_every_callback_can_shut_the_server_down() {
    for loops in [1, 3] {
        for culprit in CALLBACKS {
            let called = at_best(|| shut_down_from(culprit, loops));
            assert!(called.contains(&culprit));
            let count = |name| called.iter().filter(|called| **called == name).count();
            assert_eq!(count("opened"), count("closed") + count("detached"), "{called:?}");
        }
    }
}

#[test]
fn b78_after_a_shutdown_from_serving_nothing_is_called() {
    for loops in [0, 1, 3] {
        assert_eq!(at_best(|| shut_down_from("serving", loops)), ["serving"], "{loops} loops");
    }
}

#[test]
fn b78_opened_shuts_down_also_for_a_connection_that_could_not_be_dialed() {
    let events = Events::new()
        .opened(|conn| match conn.error() {
            Some(_) => Action::Shutdown.into(),
            None => Opened::default(),
        })
        .tick(|server| {
            server.dial("tcp://127.0.0.1:nothing", PATIENCE).unwrap();
            (HOUR, Action::None)
        });
    start(events, &[]).join().unwrap();
}

#[test]
fn b79_a_server_that_stops_closes_every_connection_once() {
    for loops in [1, 3] {
        let log = Log::<String>::new();
        let (opened, end) = (log.clone(), log.clone());
        let (all_here, is_over) = (log.clone(), Arc::new(AtomicBool::new(false)));
        let over = is_over.clone();
        let events = Events::new()
            .num_loops(loops)
            .opened(move |_| {
                opened.note("opened");
                Opened::default()
            })
            .closed(move |_, error| {
                end.note(closed(error));
                Action::None
            })
            .tick(move |_| {
                let action = if over.load(Ordering::SeqCst) { Action::Shutdown } else { Action::None };
                (MS, action)
            });
        let running = start(events, &[ANY]);
        let mut clients: Vec<_> = (0..10).map(|_| running.connect(0)).collect();
        all_here.wait_for(10);
        assert_eq!(running.connections(), 10);
        let server = running.clone();
        is_over.store(true, Ordering::SeqCst);
        clients.iter_mut().for_each(Client::wait_for_the_end);
        running.join().unwrap();
        assert_eq!(log.len(), 20, "{:?}", log.all());
        assert_eq!(log.count("closed"), 10, "{:?}", log.all());
        assert_eq!(server.connections(), 0);
    }
}

#[test]
fn b80_a_server_that_ends_at_its_first_tick_never_hangs() {
    for i in 0..scaled(1000) {
        let events = Events::new().num_loops(1 + i as isize % 16).tick(|_| (HOUR, Action::Shutdown));
        Serving::start(move || evio::serve(events, [ANY])).join().unwrap();
    }
}

#[test]
fn b81_stop_before_the_loops_begin() {
    for loops in [1, 3] {
        let log = Log::<&str>::new();
        let tick = log.clone();
        let events = Events::new()
            .num_loops(loops)
            .serving(|server| {
                server.stop();
                server.stop();
                assert!(server.is_stopping());
                Action::None
            })
            .tick(move |_| {
                tick.note("tick");
                (HOUR, Action::None)
            });
        Serving::start(move || evio::serve(events, [ANY])).join().unwrap();
        assert_eq!(log.len(), 0, "{loops} loops");
    }
}

#[test]
fn b81_stop_twice_and_at_the_same_time_as_a_shutdown() {
    for i in 0..scaled(200) {
        let threads = 3;
        let barrier = Arc::new(Barrier::new(threads + 1));
        let at = barrier.clone();
        let events = Events::new().num_loops(1 + i as isize % 3).tick(move |_| {
            at.wait();
            (HOUR, Action::Shutdown)
        });
        let running = start(events, &[ANY]);
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                let (server, barrier) = (running.clone(), barrier.clone());
                thread::spawn(move || {
                    barrier.wait();
                    server.stop();
                    server.stop();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let server = running.clone();
        running.join().unwrap();
        // The handle may outlive the server.
        server.stop();
        assert!(server.is_stopping());
    }
}

// --------------------------------------------------------------------------------------------- last output

#[test]
fn b82_output_that_comes_with_a_shutdown_is_sent() {
    const SIZE: usize = 8 << 20;
    let data = Log::<()>::new();
    let noted = data.clone();
    let events = Events::new().choices(Builder::new().shutdown_grace(PATIENCE)).data(move |_, _| {
        noted.note(());
        Reply::send(pattern(SIZE)).then(Action::Shutdown)
    });
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    client.send("go");
    data.wait_for(1);
    // From here on, the client reads.
    assert!(client.receive_all() == pattern(SIZE));
    running.join().unwrap();
}

#[test]
fn b82_output_of_other_connections_is_sent_before_the_end() {
    const SIZE: usize = 8 << 20;
    let data = Log::<()>::new();
    let noted = data.clone();
    let events = Events::new().choices(Builder::new().shutdown_grace(PATIENCE)).data(move |_, _| {
        noted.note(());
        Reply::send(pattern(SIZE))
    });
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    client.send("go");
    data.wait_for(1);
    Server::clone(&running).stop();
    assert!(client.receive_all() == pattern(SIZE));
    running.join().unwrap();
}

/// A server that answers a request with more than the peer reads, and with a shutdown.
fn big_shutdown(end: Log<String>) -> Running<()> {
    let events = Events::new()
        .opened(|_| Options::new().linger(200 * MS).into())
        .data(|_, _| Reply::send(vec![b'x'; 16 << 20]).then(Action::Shutdown))
        .closed(move |_, error| {
            end.note(closed(error));
            Action::None
        });
    start(events, &[ANY])
}

#[test]
fn b82_a_peer_that_does_not_read_cannot_prevent_a_shutdown() {
    let end = Log::new();
    let running = big_shutdown(end.clone());
    let mut client = running.connect(0);
    client.send("go");
    running.join().unwrap();
    assert_eq!(end.all(), ["closed: TimedOut"]);
}

#[test]
fn b82_a_peer_that_is_gone_cannot_prevent_a_shutdown() {
    let end = Log::new();
    let running = big_shutdown(end.clone());
    let mut client = running.connect(0);
    client.send("go");
    client.receive(1);
    // With bytes that it has not read, this is a reset.
    drop(client);
    running.join().unwrap();
    assert_eq!(end.len(), 1);
}

#[test]
fn b82_a_forced_close_cannot_prevent_a_shutdown() {
    let end = Log::<()>::new();
    let noted = end.clone();
    let events = Events::new()
        .data(|conn, _| {
            let handle = conn.handle();
            handle.force_close().unwrap();
            Reply::send(vec![b'x'; 16 << 20]).then(Action::Shutdown)
        })
        .closed(move |_, _| {
            noted.note(());
            Action::None
        });
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    client.send("go");
    running.join().unwrap();
    assert_eq!(end.len(), 1);
}

#[test]
fn b82_the_grace_bounds_how_long_a_stop_takes() {
    at_best(|| {
        let data = Log::<()>::new();
        let noted = data.clone();
        let log = Log::<()>::new();
        let end = log.clone();
        let events = Events::new()
            .choices(Builder::new().shutdown_grace(100 * MS))
            .data(move |_, _| {
                noted.note(());
                Reply::send(vec![b'x'; 16 << 20])
            })
            .closed(move |_, _| {
                end.note(());
                Action::None
            });
        let running = start(events, &[ANY]);
        let mut client = running.connect(0);
        client.send("go");
        data.wait_for(1);
        let stopped = Instant::now();
        running.stop();
        assert_eq!(log.len(), 1, "closed is called all the same");
        let took = stopped.elapsed();
        if (90 * MS..1000 * MS).contains(&took) { Ok(()) } else { Err(format!("{took:?}")) }
    });
}

// -------------------------------------------------------------------------------------------- socket files

#[test]
fn b83_a_stale_socket_file_is_replaced_and_removed_at_the_end() {
    let dir = Dir::new("stale");
    let path = dir.path("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "std leaves it");
    let running = start(Events::new().data(|_, input| Reply::send(input)), &[&unix(&path)]);
    running.connect(0).ask("hello", "hello");
    running.stop();
    assert!(!path.exists());
}

#[test]
fn b83_a_file_or_a_directory_is_left_alone() {
    let dir = Dir::new("other");
    let file = dir.path("file");
    fs::write(&file, "precious").unwrap();
    let directory = dir.path("directory");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("file"), "precious").unwrap();
    for path in [&file, &directory] {
        let addr = unix(path);
        let error = evio::serve(Events::new(), [&addr]).unwrap_err();
        assert!(error.to_string().contains(&addr), "{error}");
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "precious");
}

#[test]
fn b83_the_socket_of_a_server_that_is_alive_is_left_alone() {
    let dir = Dir::new("alive");
    let addr = unix(&dir.path("socket"));
    let running = start(Events::new().data(|_, input| Reply::send(input)), &[&addr]);
    let error = evio::serve(Events::new(), [&addr]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    running.connect(0).ask("hello", "hello");
    running.stop();
}

#[test]
fn b83_the_file_is_removed_also_after_a_panic() {
    let dir = Dir::new("panic");
    let path = dir.path("socket");
    let events = Events::new().tick(|_| panic!("tick"));
    let addr = unix(&path);
    assert!(Serving::start(move || evio::serve(events, [addr])).end().is_err());
    assert!(!path.exists());
}

// -------------------------------------------------------------------------------------------------- panics

/// A server in which "panic NAME" makes the callback panic; others are echoed.
fn panicking(log: Log<String>, loops: isize) -> Running<String> {
    fn is(conn: &mut Conn<'_, String>, name: &str) {
        assert!(*conn.context != name, "as asked for");
    }
    let events = Events::with_context::<String>()
        .num_loops(loops)
        .opened(|_| Reply::send("hi").into())
        .data(|conn, input| {
            let input = std::str::from_utf8(input).unwrap();
            match input.strip_prefix("panic ") {
                Some("data") => {
                    conn.out.extend_from_slice(b"a secret");
                    panic!("as asked for");
                }
                Some("detached") => {
                    *conn.context = "detached".into();
                    Action::Detach.into()
                }
                Some(name) => {
                    *conn.context = name.into();
                    Reply::send("x").then(Action::Close)
                }
                None => Reply::send(input.to_owned()),
            }
        })
        .pre_write(|conn| {
            if *conn.context == "pre_write" {
                conn.out.extend_from_slice(b"a secret");
                panic!("as asked for");
            }
        })
        .post_write(|conn, _, _| is(conn, "post_write"))
        .detached(|conn, _| {
            is(conn, "detached");
            Action::None
        })
        .closed(move |conn, error| {
            log.note(closed(error));
            is(conn, "closed");
            Action::None
        });
    start(events, &[ANY])
}

#[test]
fn b84_a_callback_that_panics_costs_its_connection_and_no_other() {
    for loops in [1, 2] {
        for name in ["data", "pre_write", "post_write", "closed", "detached"] {
            let log = Log::<String>::new();
            let running = panicking(log.clone(), loops);
            // One of them is on the same loop.
            let mut others: Vec<_> = (0..2).map(|_| running.connect(0)).collect();
            let mut client = running.connect(0);
            assert_eq!(client.receive(2), b"hi");
            others.iter_mut().for_each(|other| assert_eq!(other.receive(2), b"hi"));
            client.send(format!("panic {name}"));
            client.wait_for_the_end();
            for _ in 0..3 {
                others.iter_mut().for_each(|other| other.ask("still here", "still here"));
            }
            running.connect(0).ask("new", "hinew");
            eventually("it is not counted any more", || running.connections() == 2);
            let expected = match name {
                "closed" => vec!["closed"],
                "detached" => vec![],
                _ => vec!["closed: Other"],
            };
            let before = log.wait_for(expected.len() + 1);
            // And one of the new connection.
            assert_eq!(
                before.iter().filter(|note| *note == "closed: Other").count(),
                expected.iter().filter(|note| **note == "closed: Other").count(),
                "{name}"
            );
            assert_eq!(before.len(), expected.len() + 1, "{name}: {before:?}");
            running.stop();
        }
    }
}

#[test]
fn b84_what_a_callback_had_appended_before_it_panicked_goes_to_nobody() {
    let log = Log::<String>::new();
    for name in ["data", "pre_write"] {
        let running = panicking(log.clone(), 1);
        let mut other = running.connect(0);
        assert_eq!(other.receive(2), b"hi");
        let mut client = running.connect(0);
        client.send(format!("panic {name}"));
        client.wait_for_the_end();
        other.ask("hello", "hello");
        other.finish();
        assert_eq!(text(&other.receive_all()), "", "{name}");
        running.stop();
    }
}

#[test]
fn b84_to_leave_more_input_than_there_is_is_a_panic_of_the_callback() {
    let log = Log::<String>::new();
    for idle_timeout in [false, true] {
        let end = log.clone();
        let events = Events::new()
            .opened(move |_| match idle_timeout {
                true => Options::new().idle_timeout(HOUR).into(),
                false => Opened::default(),
            })
            .data(|conn, input| {
                if conn.is_wake() || input == b"too much" {
                    conn.out.extend_from_slice(b"a secret");
                    conn.unread(input.len() + 1);
                }
                if input == b"wake" {
                    conn.wake();
                }
                Reply::send(if input == b"hello" { input } else { b"" })
            })
            .closed(move |_, error| {
                end.note(closed(error));
                Action::None
            });
        let running = start(events, &[ANY]);
        let mut other = running.connect(0);
        other.ask("hello", "hello");
        for message in ["too much", "wake"] {
            let before = log.len();
            let mut client = running.connect(0);
            client.send(message);
            client.wait_for_the_end();
            assert_eq!(log.wait_for(before + 1)[before], "closed: Other", "{message}");
            other.ask("hello", "hello");
        }
        running.stop();
        assert_eq!(log.wait(|log| log.len() % 3 == 0).last().unwrap(), "closed");
    }
}

#[test]
fn b84_a_panic_in_opened_and_a_second_one_in_closed() {
    let log = Log::<String>::new();
    let end = log.clone();
    let first = AtomicBool::new(true);
    let events = Events::new()
        .opened(move |_| {
            assert!(!first.swap(false, Ordering::SeqCst), "the first");
            Opened::default()
        })
        .data(|_, input| Reply::send(input))
        .closed(move |_, error| {
            end.note(closed(error));
            assert!(error.is_none(), "and again");
            Action::None
        });
    let running = start(events, &[ANY]);
    running.connect(0).wait_for_the_end();
    running.connect(0).ask("hello", "hello");
    assert_eq!(log.wait_for(2), ["closed: Other", "closed"]);
    running.stop();
}

#[test]
fn b84_a_datagram_that_makes_a_callback_panic_costs_that_datagram() {
    let events = Events::new().data(|conn, input| {
        conn.out.extend_from_slice(b"<");
        assert!(input != b"panic", "as asked for");
        Reply::send(input)
    });
    let running = start(events, &["udp://127.0.0.1:0"]);
    let socket = udp("127.0.0.1");
    let addr = running.addr(0).socket_addr().unwrap();
    let mut buf = [0; 100];
    for message in ["one", "panic", "two", "panic", "three"] {
        socket.send_to(message.as_bytes(), addr).unwrap();
        if message != "panic" {
            let n = socket.recv(&mut buf).expect("the server still answers");
            assert_eq!(text(&buf[..n]), format!("<{message}"));
        }
    }
    running.stop();
}

#[test]
fn b84_a_panic_in_serving_or_tick_comes_out_of_serve_after_all_loops() {
    common::in_a_process_of_its_own(
        "b84_a_panic_in_serving_or_tick_comes_out_of_serve_after_all_loops",
        || {
            let count = || (common::proc::threads(), common::proc::descriptors());
            let mut before = None;
            for round in 0..3 {
                for (name, loops) in [("serving", 1), ("serving", 3), ("tick", 1), ("tick", 3)] {
                    let log = Log::<String>::new();
                    let (opened, end) = (log.clone(), log.clone());
                    let clients = Arc::new(Mutex::new(Vec::new()));
                    let its = clients.clone();
                    let seen = log.clone();
                    let events = Events::new()
                        .num_loops(loops)
                        .serving(move |server| {
                            for _ in 0..3 {
                                its.lock().unwrap().push(Client::connect(&local(&server.addrs()[0])));
                            }
                            assert!(name != "serving", "serving panics");
                            Action::None
                        })
                        .opened(move |_| {
                            opened.note("opened");
                            Opened::default()
                        })
                        .closed(move |_, error| {
                            end.note(closed(error));
                            Action::None
                        })
                        .tick(move |_| {
                            assert!(seen.len() < 3, "tick panics");
                            (MS, Action::None)
                        });
                    let payload = Serving::start(move || evio::serve(events, [ANY])).end().unwrap_err();
                    let message = payload.downcast_ref::<&str>().unwrap();
                    assert_eq!(*message, format!("{name} panics"));
                    clients.lock().unwrap().iter_mut().for_each(Client::wait_for_the_end);
                    clients.lock().unwrap().clear();
                    let opened = if name == "tick" { 3 } else { 0 };
                    assert_eq!((log.count("opened"), log.len()), (opened, 2 * opened), "{:?}", log.all());
                }
                let before = *before.get_or_insert_with(count);
                eventually("no thread and no descriptor is left", || {
                    let now = count();
                    now.0 <= before.0 && now.1 <= before.1
                });
                println!("round {round}: {before:?}");
            }
        },
    );
}

// --------------------------------------------------------------------------------------------- fatal errors

#[cfg(target_os = "linux")]
mod broken {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use wakewheel::reactor::Backend;

    /// The descriptors of all epoll instances of this process, in order.
    fn epolls() -> Vec<i32> {
        let mut fds: Vec<i32> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|fd| {
                let fd = fd.unwrap();
                let link = fs::read_link(fd.path()).ok()?;
                (link.to_str()? == "anon_inode:[eventpoll]").then(|| fd.file_name().to_str()?.parse().ok())?
            })
            .collect();
        fds.sort();
        fds
    }

    fn test(loops: isize, pick: impl Fn(&[i32]) -> Vec<i32>) {
        let before = epolls();
        let log = Log::<String>::new();
        let (opened, end) = (log.clone(), log.clone());
        let events = Events::new()
            .num_loops(loops)
            .opened(move |_| {
                opened.note("opened");
                Opened::default()
            })
            .closed(move |_, error| {
                end.note(closed(error));
                Action::None
            });
        let running = start(events, &[ANY]);
        let _clients: Vec<_> = (0..3).map(|_| running.connect(0)).collect();
        log.wait_for(3);
        let ours: Vec<_> = epolls().into_iter().filter(|fd| !before.contains(fd)).collect();
        let null = File::open("/dev/null").unwrap();
        for fd in pick(&ours) {
            // SAFETY: no pointers. The descriptor stays one, of a file that cannot wait.
            assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), fd) }, fd);
        }
        // One that sleeps does not know yet.
        for i in 0..running.num_loops() {
            running.loop_handle(i).spawn(|| async {}).detach();
        }
        let _ = TcpStream::connect(running.addr(0).socket_addr().unwrap());
        let error = running.join().unwrap_err();
        assert!(error.raw_os_error().is_some() || std::error::Error::source(&error).is_some(), "{error:?}");
        assert!(log.count("opened") >= 3);
        assert_eq!(log.count("opened") * 2, log.len(), "closed is called for each: {:?}", log.all());
    }

    #[test]
    fn b85_a_loop_that_cannot_wait_any_more_is_an_error_of_serve() {
        if common::skip_if(common::backend() != Backend::Epoll, "there is no epoll descriptor to break") {
            return;
        }
        common::in_a_process_of_its_own(
            "broken::b85_a_loop_that_cannot_wait_any_more_is_an_error_of_serve",
            || {
                // What a process has once is there after this.
                start(Events::new(), &[ANY]).stop();
                test(1, <[i32]>::to_vec);
                test(3, <[i32]>::to_vec);
                test(3, |fds| vec![fds[0]]);
                test(3, |fds| vec![*fds.last().unwrap()]);
            },
        );
    }
}

#[test]
fn b85_a_listener_that_does_not_listen_any_more_is_an_error_of_serve() {
    // The descriptor is shut down from outside: what a program does that closes one too many.
    common::in_a_process_of_its_own(
        "b85_a_listener_that_does_not_listen_any_more_is_an_error_of_serve",
        || {
            for loops in [1, 3] {
                let running = start(Events::new().num_loops(loops), &[ANY]);
                let port = running.addr(0).socket_addr().unwrap().port();
                let is_ours = |fd: &i32| {
                    // SAFETY: no pointers; a descriptor that is not open is an error.
                    let copy = unsafe { libc::dup(*fd) };
                    if copy < 0 {
                        return false;
                    }
                    // SAFETY: it was made a moment ago, and nobody else has it.
                    let socket: TcpListener = unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) };
                    socket.local_addr().is_ok_and(|addr| addr.port() == port)
                };
                let fd = (3..100).find(is_ours).expect("the listener");
                // SAFETY: no pointers.
                assert_eq!(unsafe { libc::shutdown(fd, libc::SHUT_RDWR) }, 0);
                let error = running.join().unwrap_err();
                assert_ne!(error.kind(), ErrorKind::TimedOut, "{error}");
            }
        },
    );
}
