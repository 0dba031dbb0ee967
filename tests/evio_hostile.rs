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

#[test]
fn a_connection_of_which_two_callbacks_panic_is_not_counted_for_ever() {
    let events =
        Events::new().data(|_, _| -> Reply<'_> { panic!("as asked for") }).closed(|_, _| panic!("and again"));
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    client.send("x");
    client.wait_for_the_end();
    eventually("it is not counted any more", || running.connections() == 0);
    running.stop();
}

#[test]
fn a_done_that_panics_leaves_out_no_other() {
    for is_sent in [true, false] {
        let log = Log::<String>::new();
        let (data, end) = (log.clone(), log.clone());
        let events = Events::new()
            .data(move |conn, input| {
                let handle = conn.handle();
                for i in 0..3 {
                    let data = data.clone();
                    handle.write_then(b"x", move |result| {
                        data.note(format!("{i} {}", result.is_ok()));
                        assert!(i != 0, "as asked for");
                    });
                }
                match input {
                    b"panic" => panic!("as asked for"),
                    _ => Reply::none(),
                }
            })
            .closed(move |_, error| {
                end.note(closed(error));
                Action::None
            });
        let running = start(events, &[ANY]);
        let mut client = running.connect(0);
        client.send(if is_sent { "send" } else { "panic" });
        client.wait_for_the_end();
        let told = |i| format!("{i} {is_sent}");
        assert_eq!(log.wait_for(4), [told(0), told(1), told(2), "closed: Other".into()]);
        eventually("it is not counted any more", || running.connections() == 0);
        running.stop();
    }
}

static CONTEXTS_FAIL: AtomicBool = AtomicBool::new(false);

struct Delicate;

impl Default for Delicate {
    fn default() -> Delicate {
        assert!(!CONTEXTS_FAIL.swap(false, SeqCst), "the first is not made");
        Delicate
    }
}

#[test]
fn a_context_that_cannot_be_made_costs_its_connection() {
    for loops in [1, 2] {
        let events = Events::with_context::<Delicate>().num_loops(loops).data(|_, input| Reply::send(input));
        let running = start(events, &[ANY]);
        // One for each loop.
        for _ in 0..loops {
            CONTEXTS_FAIL.store(true, SeqCst);
            running.connect(0).wait_for_the_end();
            assert!(!CONTEXTS_FAIL.load(SeqCst));
        }
        for _ in 0..loops {
            running.connect(0).ask("still here", "still here");
        }
        CONTEXTS_FAIL.store(true, SeqCst);
        let handle = running.dial(&running.addr(0).to_string(), HOUR).unwrap();
        eventually("the handle says so", || handle.is_closed());
        eventually("none is counted any more", || running.connections() == 0);
        CONTEXTS_FAIL.store(false, SeqCst);
        running.stop();
    }
}

#[test]
fn a_context_of_datagrams_that_cannot_be_made_is_an_error_of_serve() {
    struct Never;
    impl Default for Never {
        fn default() -> Never {
            panic!("as asked for")
        }
    }
    let events = Events::with_context::<Never>();
    let serving = Serving::start(move || evio::serve(events, ["udp://127.0.0.1:0"]));
    let error = serving.join().unwrap_err();
    assert!(error.to_string().contains("address 0"), "{error}");
}

#[test]
fn a_server_that_has_panicked_has_stopped() {
    let (sender, server) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let events = Events::new()
        .serving(move |server| {
            sender.send(server.clone()).unwrap();
            Action::None
        })
        .tick(move |_| {
            may_go.lock().unwrap().recv().unwrap();
            panic!("as asked for");
        });
    let serving = Serving::start(move || evio::serve(events, [ANY]));
    let server = server.recv().unwrap();
    // It will not be read.
    let dialed = server.dial("tcp://127.0.0.1:1", HOUR).unwrap();
    go.send(()).unwrap();
    assert!(serving.end().is_err());
    assert!(server.is_stopping());
    assert!(dialed.is_closed());
    assert_eq!(server.connections(), 0);
    assert!(server.dial("tcp://127.0.0.1:1", HOUR).is_err());
}

// --------------------------------------------------------------------------------------------- for ever

#[test]
fn a_write_of_nothing_is_done_as_well() {
    let log = Log::<String>::new();
    let data = log.clone();
    let events = Events::new().data(move |conn, _| {
        let data = data.clone();
        conn.handle().write_then(b"", move |result| data.note(format!("{result:?}")));
        Reply::none()
    });
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    client.send("x");
    assert_eq!(log.wait_for(1), ["Ok(())"]);
    running.stop();
}

#[test]
fn a_connection_that_wakes_itself_for_ever_holds_up_nobody() {
    fn again(handle: ConnHandle) {
        let next = handle.clone();
        handle.write_then(b"", move |result| {
            if result.is_ok() {
                again(next);
            }
        });
    }
    for way in ["wake", "handle", "done"] {
        let events = Events::new().data(move |conn, input| {
            if !conn.is_wake() && input != b"begin" {
                return Reply::send(input);
            }
            match way {
                "wake" => conn.wake(),
                "handle" => conn.handle().wake().unwrap(),
                _ => again(conn.handle()),
            }
            Reply::none()
        });
        let running = start(events, &[ANY]);
        let mut client = running.connect(0);
        client.send("begin");
        for _ in 0..3 {
            running.connect(0).ask("hello", "hello");
        }
        running.stop();
    }
}

#[test]
fn an_answer_by_many_wakes_reaches_a_peer_that_has_ended_its_side() {
    const PARTS: usize = 100;
    let events = Events::with_context::<usize>().data(|conn, _| {
        *conn.context += 1;
        if *conn.context == PARTS {
            return Reply::send("end").then(Action::Close);
        }
        conn.wake();
        Reply::send("part ")
    });
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    client.send("x");
    client.finish();
    assert_eq!(text(&client.receive_all()), "part ".repeat(PARTS - 1) + "end");
    running.stop();
}

#[test]
fn ticks_without_a_pause_hold_up_nobody() {
    let events = Events::new().data(|_, input| Reply::send(input)).tick(|_| (Duration::ZERO, Action::None));
    let running = start(events, &[ANY]);
    running.connect(0).ask("hello", "hello");
    running.stop();
}

/// Sends so much that waits to be sent.
const MUCH: usize = 8 << 20;

#[test]
fn an_idle_timeout_that_is_set_late_does_not_replace_the_linger_time() {
    let log = Log::<String>::new();
    let end = log.clone();
    let events = Events::new()
        .opened(|_| Options::new().linger(50 * MS).into())
        .data(|_, _| Reply::send(vec![0; MUCH]).then(Action::Close))
        .post_write(|conn, _, _| conn.set_options(Options::new().idle_timeout(HOUR)).unwrap())
        .closed(move |_, error| {
            end.note(closed(error));
            Action::None
        });
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    client.send("x");
    assert_eq!(log.wait_for(1), ["closed: TimedOut"]);
    running.stop();
}

#[test]
fn the_end_of_the_half_close_time_does_not_undo_a_detach() {
    let log = Log::<String>::new();
    let (detached, end) = (log.clone(), log.clone());
    let handles = Arc::new(Mutex::new(Vec::new()));
    let events = Events::new()
        .opened({
            let handles = handles.clone();
            move |conn| {
                handles.lock().unwrap().push(conn.handle());
                Options::new().half_close(100 * MS).into()
            }
        })
        .data(|conn, _| match conn.is_wake() {
            true => Reply::send(vec![0; MUCH]).then(Action::Detach),
            false => Reply::send("hello"),
        })
        .detached(move |_, stream| {
            detached.note("detached");
            drop(stream);
            Action::None
        })
        .closed(move |_, error| {
            end.note(closed(error));
            Action::None
        });
    let running = start(events, &[ANY]);
    let mut client = running.connect(0);
    client.ask("hello", "hello");
    let handle = handles.lock().unwrap()[0].clone();
    client.finish();
    // The loop has seen that by now.
    let mut other = running.connect(0);
    other.ask("hello", "hello");
    handle.wake().unwrap();
    // That the time has passed is all that this waits for.
    thread::sleep(300 * MS);
    assert_eq!(client.receive_all().len(), MUCH);
    assert_eq!(log.wait_for(1), ["detached"]);
    running.stop();
}

#[test]
fn the_idle_timeout_comes_back_after_the_half_close_time() {
    let log = Log::<String>::new();
    let opened = log.clone();
    let handles = Arc::new(Mutex::new(Vec::new()));
    let events = Events::new()
        .opened({
            let handles = handles.clone();
            move |conn| {
                handles.lock().unwrap().push(conn.handle());
                opened.note("opened");
                Options::new().half_close(50 * MS).idle_timeout(200 * MS).into()
            }
        })
        .data(|conn, input| match conn.is_wake() {
            true => Reply::send(vec![0; MUCH]).then(Action::Detach),
            false => Reply::send(input),
        });
    let running = start(events, &[ANY]);
    let client = running.connect(0);
    log.wait_for(1);
    let handle = handles.lock().unwrap()[0].clone();
    client.finish();
    // The loop has seen that by now.
    let mut other = running.connect(0);
    other.ask("hello", "hello");
    handle.wake().unwrap();
    // Which does not read.
    eventually("it is closed", || handle.is_closed());
    running.stop();
}

/// A filter that cannot say good-bye.
struct Stubborn(Stream);

impl AsyncRead for Stubborn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stubborn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

#[test]
fn a_filter_that_cannot_end_has_the_linger_time() {
    for by_the_peer in [true, false] {
        let log = Log::<String>::new();
        let end = log.clone();
        let builder = Builder::new().translate(|_, _| true, async |stream| Ok(Stubborn(stream)));
        let events = Events::new()
            .choices(builder)
            .opened(|_| Options::new().linger(50 * MS).into())
            .data(|_, _| Action::Close.into())
            .closed(move |_, error| {
                end.note(closed(error));
                Action::None
            });
        let running = start(events, &[ANY]);
        let mut client = running.connect(0);
        if by_the_peer {
            client.finish()
        } else {
            client.send("x")
        }
        assert_eq!(log.wait_for(1), ["closed: TimedOut"]);
        running.stop();
    }
}

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

#[test]
fn a_half_closed_connection_that_somebody_holds_costs_no_time() {
    let handles = Arc::new(Mutex::new(Vec::new()));
    let events = Events::new()
        .opened({
            let handles = handles.clone();
            move |conn| {
                handles.lock().unwrap().push(conn.handle());
                Options::new().half_close(HOUR).into()
            }
        })
        .data(|_, input| Reply::send(input));
    let running = start(events, &[ANY]);
    let mut clients: Vec<_> = (0..4).map(|_| running.connect(0)).collect();
    clients.iter_mut().for_each(|client| client.ask("hello", "hello"));
    clients.iter().for_each(Client::finish);
    // The loop has seen that by now.
    running.connect(0).ask("hello", "hello");
    let turns = || running.loop_handle(0).stats().turns;
    let before = turns();
    thread::sleep(200 * MS);
    assert!(turns() - before < 20, "{} turns", turns() - before);
    running.stop();
}

// --------------------------------------------------------------------------------------- several servers

#[test]
fn no_two_connections_of_a_process_have_one_number() {
    let ids = Log::<u64>::new();
    let events = |ids: &Log<u64>| {
        let ids = ids.clone();
        Events::new().opened(move |conn| {
            ids.note(conn.id());
            Action::None.into()
        })
    };
    let servers: Vec<_> = (0..2).map(|_| start(events(&ids), &[ANY])).collect();
    let _clients: Vec<_> = servers.iter().map(|server| server.connect(0)).collect();
    let ids = ids.wait_for(2);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_server_inside_of_a_callback_does_not_disturb_the_loop_around_it() {
    let log = Log::<thread::ThreadId>::new();
    let opened = log.clone();
    let events = Events::new()
        .num_loops(2)
        .opened(move |conn| {
            if conn.origin() == Origin::Attached {
                opened.note(thread::current().id());
                return Action::Close.into();
            }
            let inner = Events::new().serving(|_| Action::Shutdown);
            evio::serve(inner, [ANY]).unwrap();
            Action::Detach.into()
        })
        .detached({
            let log = log.clone();
            move |conn, stream| {
                log.note(thread::current().id());
                let server = conn.server().clone();
                server.attach(stream, ()).unwrap();
                Action::None
            }
        });
    let running = start(events, &[ANY]);
    for i in 1..=4 {
        running.connect(0).wait_for_the_end();
        let log = log.wait_for(2 * i);
        assert_eq!(log[2 * i - 2], log[2 * i - 1], "it stays on its loop");
    }
    running.stop();
}

#[test]
fn a_server_that_has_ended_holds_no_udp_socket() {
    let running = start(Events::new(), &["udp://127.0.0.1:0"]);
    let (server, addr): (Server<()>, _) = (running.clone(), running.addr(0).socket_addr().unwrap());
    eventually("it sends", || server.send_to(0, b"x", addr).is_ok());
    running.stop();
    UdpSocket::bind(addr).expect("nobody has it");
    assert_eq!(server.send_to(0, b"x", addr).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(server.send_to(1, b"x", addr).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_datagram_can_be_sent_from_closed_when_the_server_stops() {
    let socket = udp("127.0.0.1");
    let to = socket.local_addr().unwrap();
    let events = Events::new().closed(move |conn, _| {
        conn.server().send_to(1, b"good-bye", to).unwrap();
        Action::None
    });
    let opened = Log::<()>::new();
    let events = events.opened({
        let opened = opened.clone();
        move |_| {
            opened.note(());
            Action::None.into()
        }
    });
    let running = start(events, &[ANY, "udp://127.0.0.1:0"]);
    let _client = running.connect(0);
    opened.wait_for(1);
    running.stop();
    assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 8);
}

#[test]
fn an_address_for_futures_is_not_for_datagrams() {
    let called = Arc::new(AtomicUsize::new(0));
    let builder = Builder::new().listen_async("udp://127.0.0.1:0", |_, _| async {});
    let events = Events::new().choices(builder).serving({
        let called = called.clone();
        move |_| {
            called.fetch_add(1, SeqCst);
            Action::Shutdown
        }
    });
    let error = evio::serve(events, [ANY]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("\"udp://127.0.0.1:0\""), "{error}");
    assert_eq!(called.load(SeqCst), 0);
}

#[test]
fn a_stream_that_is_attached_after_stop_comes_back() {
    let log = Log::<bool>::new();
    let detached = log.clone();
    let events = Events::new().opened(|_| Action::Detach.into()).detached(move |conn, stream| {
        conn.server().stop();
        detached.note(conn.server().attach(stream, ()).is_err());
        Action::None
    });
    let running = start(events, &[ANY]);
    let _client = running.connect(0);
    assert_eq!(log.wait_for(1), [true]);
    running.join().unwrap();
}

#[test]
fn the_choice_of_nodelay_is_for_dialed_connections_too() {
    use std::os::fd::AsFd;
    for on in [true, false] {
        let log = Log::<bool>::new();
        let opened = log.clone();
        let events = Events::new()
            .choices(Builder::new().nodelay(on))
            .opened(|_| Action::Detach.into())
            .detached(move |_, stream| {
                let (stream, _) = stream.into_parts().unwrap();
                let stream = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned().unwrap());
                opened.note(stream.nodelay().unwrap());
                Action::None
            });
        let running = start(events, &[ANY]);
        running.dial(&running.addr(0).to_string(), HOUR).unwrap();
        assert_eq!(log.wait_for(2), [on, on]);
        running.stop();
    }
}

#[test]
fn what_belonged_to_a_server_is_gone_when_serve_returns() {
    // A context that has a handle of its own connection, and a handler that has the server.
    #[derive(Default)]
    struct Mine {
        handle: Option<ConnHandle>,
        alive: Option<Arc<()>>,
    }
    let (alive, server) = (Arc::new(()), Arc::new(Mutex::new(None::<Server<Mine>>)));
    let log = Log::<()>::new();
    let events = Events::with_context::<Mine>()
        .num_loops(2)
        .opened({
            let (alive, server, log) = (alive.clone(), server.clone(), log.clone());
            move |conn| {
                conn.context.handle = Some(conn.handle());
                conn.context.alive = Some(alive.clone());
                *server.lock().unwrap() = Some(conn.server().clone());
                log.note(());
                Action::None.into()
            }
        })
        .data(|conn, input| {
            let handle = conn.handle();
            // What waits for the end of a write may own the connection as well.
            conn.handle().write_then(input, move |_| drop(handle));
            Reply::none()
        });
    let running = start(events, &[ANY]);
    let mut clients: Vec<_> = (0..4).map(|_| running.connect(0)).collect();
    log.wait_for(4);
    clients.iter_mut().for_each(|client| client.ask("hello", "hello"));
    // Dialed as well.
    running.dial(&running.addr(0).to_string(), HOUR).unwrap();
    log.wait_for(6);
    running.stop();
    // This and that of the closure, which `server` in it does not keep.
    assert_eq!(Arc::strong_count(&alive), 1);
    assert_eq!(server.lock().unwrap().as_ref().unwrap().connections(), 0);
}

#[test]
fn a_server_runs_inside_of_other_executors() {
    let serve = || {
        let (sender, done) = mpsc::channel();
        let sender = Mutex::new(sender);
        let events = Events::new()
            .serving(move |server| {
                let (server, addr) = (server.clone(), server.addrs()[0].clone());
                thread::spawn(move || {
                    helper::Client::connect(&addr).ask("hello", "hello");
                    server.stop();
                });
                Action::None
            })
            .data(|_, input| Reply::send(input))
            .closed(move |_, _| {
                sender.lock().unwrap().send(()).unwrap();
                Action::None
            });
        evio::serve(events, [ANY]).unwrap();
        done.recv().unwrap();
    };
    // Twice on one thread, and in each of what may run there.
    serve();
    serve();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async { serve() });
    wakewheel::block_on(async { serve() });
    wakewheel::LocalExecutor::new().unwrap().block_on(async {
        let task = wakewheel::spawn_local(async move { serve() });
        task.await.unwrap();
        wakewheel::sleep(MS).await;
    });
}

#[test]
fn times_beyond_all_time_are_for_ever() {
    let forever = Options::new().idle_timeout(Duration::MAX).linger(Duration::MAX).half_close(Duration::MAX);
    let events = Events::new().opened(move |_| forever.clone().into()).data(|_, input| Reply::send(input));
    let running = start(events, &[ANY]);
    running.connect(0).ask("hello", "hello");
    let handle = running.dial(&running.addr(0).to_string(), Duration::MAX).unwrap();
    eventually("it is there", || handle.local_addr().is_some());
    running.stop();
}
