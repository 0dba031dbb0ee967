//! evio: connections that leave the callbacks, and come back.

mod common;
#[path = "common/evio_server.rs"]
mod evio_server;

use async_executor::Executor;
use common::dir::Dir;
use evio_server::*;
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use wakewheel::evio::{Action, Builder, DetachedStream, Events, LoadBalance, Opened, Origin, Reply, Server};
use wakewheel::{Async, block_on, spawn_local};

/// Addresses of both kinds.
fn both(dir: &Dir) -> [String; 2] {
    ["tcp://127.0.0.1:0".into(), unix(&dir.path("socket"))]
}

/// Servers at both kinds of addresses, whose connections are detached at "detach", after the answer "detached", and are
/// then in `streams`.
fn detaching(dir: &Dir, streams: Log<Slot>, log: Log<String>) -> Running<()> {
    let events = Events::new()
        .data(|_, input| match input {
            b"detach" => Reply::send(b"detached").then(Action::Detach),
            input => Reply::send(input),
        })
        .detached(move |_, stream| {
            streams.note(Slot::new(stream));
            Action::None
        })
        .closed(move |_, error| {
            log.note(closed(error));
            Action::None
        });
    start(events, &both(dir).each_ref().map(String::as_str))
}

/// A stream for a test to take.
#[derive(Clone, Debug)]
struct Slot(Arc<std::sync::Mutex<Option<DetachedStream>>>);

impl Slot {
    fn new(stream: DetachedStream) -> Slot {
        Slot(Arc::new(std::sync::Mutex::new(Some(stream))))
    }

    fn take(&self) -> DetachedStream {
        self.0.lock().unwrap().take().expect("only one takes it")
    }
}

/// A detached connection, from both sides.
fn detach(running: &Running<()>, index: usize, streams: &Log<Slot>) -> (Client, DetachedStream) {
    let before = streams.len();
    let mut client = running.connect(index);
    client.ask("detach", "detached");
    (client, streams.wait_for(before + 1)[before].take())
}

#[test]
fn b71_the_reply_comes_first_and_then_the_stream_reads_and_writes() {
    let dir = Dir::new("b71");
    let (streams, log) = (Log::new(), Log::new());
    let running = detaching(&dir, streams.clone(), log.clone());
    let bytes = pattern(20 * 1024 + 12);
    for index in [0, 1] {
        for blocking in [false, true] {
            let (mut client, mut stream) = detach(&running, index, &streams);
            let mut received = vec![0; bytes.len()];
            client.send(&bytes);
            if blocking {
                let mut stream = stream.into_blocking().unwrap();
                stream.read_exact(&mut received).unwrap();
                stream.write_all(&received).unwrap();
                drop(stream);
            } else {
                block_on(async {
                    stream.read_exact(&mut received).await.unwrap();
                    stream.write_all(&received).await.unwrap();
                    drop(stream);
                });
            }
            assert!(client.receive_all() == bytes);
        }
    }
    eventually("none is counted", || running.connections() == 0);
    running.stop();
    assert_eq!(log.len(), 0, "a detached connection is not closed");
}

#[test]
fn b71_a_detached_stream_is_read_by_a_task_of_its_loop() {
    let dir = Dir::new("b71-task");
    let events = Events::new().opened(|_| Action::Detach.into()).detached(|_, mut stream| {
        spawn_local(async move {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.unwrap();
            }
        })
        .detach();
        Action::None
    });
    let running = start(events, &both(&dir).each_ref().map(String::as_str));
    for index in [0, 1] {
        let mut client = running.connect(index);
        client.ask("hello", "hello");
        client.finish();
        assert_eq!(text(&client.receive_all()), "");
    }
    running.stop();
}

#[test]
fn b72_the_stream_starts_with_what_was_not_delivered() {
    const SIZE: usize = 1 << 20;
    let dir = Dir::new("b72");
    // How much of the first input is left.
    for unread in [0, 1, usize::MAX] {
        let consumed = Arc::new(AtomicUsize::new(0));
        let (count, streams) = (consumed.clone(), Log::<Slot>::new());
        let detached = streams.clone();
        let events = Events::new()
            .data(move |conn, input| {
                let left = input.len().min(unread);
                conn.unread(left);
                let before = count.swap(input.len() - left, Ordering::SeqCst);
                assert_eq!(before, 0, "only the first input is delivered");
                Action::Detach.into()
            })
            .detached(move |_, stream| {
                detached.note(Slot::new(stream));
                Action::None
            });
        let running = start(events, &both(&dir).each_ref().map(String::as_str));
        let bytes = pattern(SIZE);
        for (i, index) in [0, 1].into_iter().enumerate() {
            consumed.store(0, Ordering::SeqCst);
            let mut client = running.connect(index);
            let sender = thread::spawn({
                let bytes = bytes.clone();
                move || {
                    client.send(bytes);
                    client.finish();
                    client
                }
            });
            let mut stream = streams.wait_for(i + 1)[i].take();
            let undelivered = stream.undelivered().len();
            assert_eq!(undelivered > 0, unread > 0);
            let mut received = Vec::new();
            block_on(stream.read_to_end(&mut received)).unwrap();
            assert!(received == bytes[consumed.load(Ordering::SeqCst)..], "{unread} unread, address {index}");
            sender.join().unwrap();
        }
        running.stop();
    }
}

#[test]
fn b73_all_pending_output_comes_before_what_the_stream_writes() {
    const SIZE: usize = 4 << 20;
    let dir = Dir::new("b73");
    let data = Log::<()>::new();
    let (noted, streams) = (data.clone(), Log::<()>::new());
    let detached = streams.clone();
    let events = Events::new()
        .data(move |_, _| {
            noted.note(());
            Reply::send(pattern(SIZE)).then(Action::Detach)
        })
        .detached(move |_, mut stream| {
            detached.note(());
            spawn_local(async move {
                stream.write_all(b"and the rest").await.unwrap();
            })
            .detach();
            Action::None
        });
    let running = start(events, &both(&dir).each_ref().map(String::as_str));
    for index in [0, 1] {
        let mut client = running.connect(index);
        client.send("go");
        data.wait_for(index + 1);
        assert_eq!(streams.len(), index, "it stays until its output has gone");
        // Slowly, so that the server has to wait again and again.
        let mut received = Vec::new();
        while received.len() < SIZE {
            let n = (SIZE - received.len()).min(100_000);
            received.extend(client.receive(n));
            thread::yield_now();
        }
        assert!(received == pattern(SIZE));
        assert_eq!(text(&client.receive_all()), "and the rest");
    }
    running.stop();
}

#[test]
fn b74_without_a_handler_the_connection_is_closed() {
    let dir = Dir::new("b74");
    let log = Log::<String>::new();
    let end = log.clone();
    let events =
        Events::new().data(|_, input| Reply::send(input).then(Action::Detach)).closed(move |_, error| {
            end.note(closed(error));
            Action::None
        });
    let running = start(events, &both(&dir).each_ref().map(String::as_str));
    for index in [0, 1] {
        let mut client = running.connect(index);
        client.send("bye");
        assert_eq!(text(&client.receive_all()), "bye");
        log.wait_for(index + 1);
    }
    running.stop();
    assert_eq!(log.all(), ["closed", "closed"]);
}

#[test]
fn b74_the_last_output_arrives_even_if_the_peer_had_sent_more() {
    let log = Log::<String>::new();
    let end = log.clone();
    let events = Events::new().opened(|_| Reply::send(pattern(1 << 20)).then(Action::Detach).into()).closed(
        move |_, error| {
            end.note(closed(error));
            Action::None
        },
    );
    let running = start(events, &["tcp://127.0.0.1:0"]);
    let mut client = running.connect(0);
    client.send("this is never read");
    assert!(client.receive_all() == pattern(1 << 20), "and no reset");
    assert_eq!(log.wait_for(1), ["closed"]);
    drop(client);
    running.stop();
    assert_eq!(log.len(), 1);
}

#[test]
fn b75_a_detached_stream_survives_its_server() {
    let dir = Dir::new("b75");
    let (streams, log) = (Log::new(), Log::new());
    let running = detaching(&dir, streams.clone(), log.clone());
    let mut pairs: Vec<_> = [0, 1]
        .into_iter()
        .flat_map(|i| (0..3).map(move |_| i))
        .map(|i| detach(&running, i, &streams))
        .collect();
    running.stop();
    assert_eq!(log.len(), 0);

    /// Greets, echoes five bytes, and sees the end.
    async fn talk(mut stream: DetachedStream) {
        assert_eq!(stream.read(&mut []).await.unwrap(), 0, "no byte is asked for, and none has come");
        stream.write_all(b"hello").await.unwrap();
        let mut buf = [0; 5];
        stream.read_exact(&mut buf).await.unwrap();
        stream.write_all(&buf).await.unwrap();
        for _ in 0..2 {
            assert_eq!(stream.read(&mut buf).await.unwrap(), 0);
        }
    }

    let mut how = 0;
    while let Some((mut client, stream)) = pairs.pop() {
        let server = thread::spawn(move || match how % 3 {
            0 => {
                let mut stream = stream.into_blocking().unwrap();
                assert_eq!(stream.read(&mut []).unwrap(), 0);
                stream.write_all(b"hello").unwrap();
                let mut buf = [0; 5];
                stream.read_exact(&mut buf).unwrap();
                stream.write_all(&buf).unwrap();
                for _ in 0..2 {
                    assert_eq!(stream.read(&mut buf).unwrap(), 0);
                }
            }
            1 => block_on(talk(stream)),
            _ => {
                let executor = Executor::new();
                future::block_on(executor.run(executor.spawn(talk(stream))));
            }
        });
        assert_eq!(client.receive(5), b"hello");
        client.ask("world", "world");
        client.finish();
        assert_eq!(text(&client.receive_all()), "");
        server.join().unwrap();
        how += 1;
    }
}

#[test]
fn b75_a_detached_stream_becomes_what_it_is_made_of() {
    let dir = Dir::new("b75-convert");
    let streams = Log::new();
    let running = detaching(&dir, streams.clone(), Log::new());
    let (mut client, stream) = detach(&running, 0, &streams);
    let mut std: TcpStream = stream.try_into().unwrap();
    client.send("hello");
    let mut buf = [0; 5];
    std.read_exact(&mut buf).expect("it blocks again");

    let (mut client, stream) = detach(&running, 0, &streams);
    let mut stream: Async<TcpStream> = stream.try_into().unwrap();
    client.send("hello");
    block_on(stream.read_exact(&mut buf)).unwrap();

    let (_client, stream) = detach(&running, 1, &streams);
    assert!(TcpStream::try_from(stream).is_err(), "it is a Unix socket");
    running.stop();
}

#[test]
fn b76_a_stream_that_is_dropped_is_closed_once() {
    common::in_a_process_of_its_own("b76_a_stream_that_is_dropped_is_closed_once", || {
        let dir = Dir::new("b76");
        let streams = Log::new();
        let running = detaching(&dir, streams.clone(), Log::new());
        let mut before = None;
        for _ in 0..3 {
            for index in [0, 1] {
                let (mut client, mut stream) = detach(&running, index, &streams);
                match index {
                    0 => {
                        block_on(stream.close()).unwrap();
                        block_on(stream.close()).expect("to close it again is no error");
                        drop(stream);
                    }
                    _ => {
                        let mut stream = stream.into_blocking().unwrap();
                        stream.close().unwrap();
                        stream.close().expect("to close it again is no error");
                    }
                }
                assert_eq!(text(&client.receive_all()), "");
            }
            // A descriptor that was closed twice would be another's, sooner or later: these have to work.
            let mut others: Vec<_> = (0..10).map(|_| running.connect(0)).collect();
            others.iter_mut().for_each(|other| other.ask("hello", "hello"));
            drop(others);
            eventually("all are closed", || running.connections() == 0);
            let mut now = 0;
            let before = *before.get_or_insert_with(common::proc::descriptors);
            eventually("no descriptor is left", || {
                now = common::proc::descriptors();
                now <= before
            });
        }
        running.stop();
    });
}

#[test]
fn b76_a_half_that_is_closed_does_not_disturb_the_reader() {
    let dir = Dir::new("b76-half");
    let streams = Log::new();
    let running = detaching(&dir, streams.clone(), Log::new());
    for index in [0, 1] {
        let (mut client, stream) = detach(&running, index, &streams);
        let (mut reader, mut writer) = futures_lite::io::split(stream);
        let reader = thread::spawn(move || {
            let mut received = Vec::new();
            block_on(reader.read_to_end(&mut received)).map(|_| received)
        });
        block_on(writer.close()).unwrap();
        drop(writer);
        assert_eq!(text(&client.receive_all()), "", "this direction has ended");
        // If the descriptor were free, it would be one of these.
        let mut others: Vec<_> = (0..10).map(|_| running.connect(0)).collect();
        others.iter_mut().for_each(|other| other.ask("others", "others"));
        client.send("ours");
        client.finish();
        assert_eq!(text(&reader.join().unwrap().unwrap()), "ours");
    }
    running.stop();
}

#[test]
fn b77_a_write_to_a_peer_that_is_gone_never_counts_too_much() {
    let dir = Dir::new("b77");
    let streams = Log::new();
    let running = detaching(&dir, streams.clone(), Log::new());
    for index in [0, 1] {
        for blocking in [false, true] {
            let (mut client, mut stream) = detach(&running, index, &streams);
            let wrote = thread::spawn(move || {
                let mut written = 0_usize;
                let bytes = vec![b'x'; 1 << 20];
                let mut blocking = match blocking {
                    true => Ok(stream.into_blocking().unwrap()),
                    false => Err(&mut stream),
                };
                loop {
                    let result = match &mut blocking {
                        Ok(stream) => stream.write(&bytes),
                        Err(stream) => block_on(stream.write(&bytes)),
                    };
                    match result {
                        Ok(n) => {
                            assert!((1..=bytes.len()).contains(&n), "{n}");
                            written += n;
                        }
                        Err(e) => return (written, e.kind()),
                    }
                }
            });
            let received = client.receive(3 << 20);
            // With bytes that were not read, this is a reset.
            drop(client);
            let (written, error) = wrote.join().unwrap();
            assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
            assert!(written >= received.len(), "{written}");
        }
    }
    running.stop();
}

// ------------------------------------------------------------------------------------------------ and back

/// Runs `test` with a server of `loops` loops, where each connection is under callbacks and a stream in turn, for each
/// input. All of it is echoed.
fn with_commuters(name: &str, loops: isize, how: fn(usize, &Server<usize>, DetachedStream), clients: usize) {
    const SIZE: usize = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let dir = Dir::new(name);
    let log = Log::<String>::new();
    let (opened, end, attached) = (log.clone(), log.clone(), log.clone());
    let events = Events::with_context::<usize>()
        .num_loops(loops)
        .load_balance(LoadBalance::RoundRobin)
        .opened(move |conn| {
            match conn.context {
                0 => assert_eq!((conn.origin(), conn.addr_index().is_some()), (Origin::Accepted, true)),
                _ => assert_eq!((conn.origin(), conn.addr_index()), (Origin::Attached, None)),
            }
            opened.note("opened");
            Opened::default()
        })
        .data(|conn, input| {
            // Not even all of it at once, so that there is something left to begin the stream with.
            let n = input.len().min(1000);
            conn.unread(input.len() - n);
            Reply::send(&input[..n]).then(Action::Detach)
        })
        .detached(move |conn, stream| {
            attached.note("detached");
            how(*conn.context, conn.server(), stream);
            Action::None
        })
        .closed(move |_, error| {
            end.note(closed(error));
            Action::None
        });
    let running = start(events, &both(&dir).each_ref().map(String::as_str));
    let clients: Vec<_> = (0..clients)
        .map(|i| {
            let mut client = running.connect(i % 2);
            thread::spawn(move || {
                let mut sender = client.try_clone();
                let sender = thread::spawn(move || {
                    // Of sizes that have nothing to do with those of the server.
                    pattern(SIZE).chunks(1777).for_each(|chunk| sender.send(chunk));
                    sender.finish();
                });
                assert!(client.receive_all() == pattern(SIZE), "client {i}");
                sender.join().unwrap();
            })
        })
        .collect();
    let n = clients.len();
    clients.into_iter().for_each(|client| client.join().unwrap());
    eventually("all are closed", || log.count("closed") == n);
    assert_eq!(log.count("opened"), log.count("closed") + log.count("detached"));
    assert!(
        log.count("detached") >= n * SIZE / 80_000,
        "they have really changed sides: {}",
        log.count("detached")
    );
    assert_eq!(running.connections(), 0);
    running.stop();
}

/// Echoes one input, and goes back.
async fn echo_once(mut stream: DetachedStream, server: Server<usize>, rounds: usize) {
    let mut buf = [0; 1234];
    if let Ok(n) = stream.read(&mut buf).await {
        stream.write_all(&buf[..n]).await.unwrap();
    }
    server.attach(stream, rounds + 1).map_err(drop).expect("the server runs");
}

#[test]
fn attach_brings_a_stream_back_on_its_loop() {
    fn task(rounds: usize, server: &Server<usize>, stream: DetachedStream) {
        spawn_local(echo_once(stream, server.clone(), rounds)).detach();
    }
    with_commuters("back-1", 1, task, 4);
    with_commuters("back-3", 3, task, 8);
}

#[test]
fn attach_brings_a_stream_to_another_loop() {
    fn elsewhere(rounds: usize, server: &Server<usize>, stream: DetachedStream) {
        let its = server.clone();
        let index = rounds % server.num_loops();
        server.loop_handle(index).spawn(move || echo_once(stream, its, rounds)).detach();
    }
    with_commuters("elsewhere", 3, elsewhere, 8);
}

#[test]
fn attach_brings_a_stream_from_a_thread() {
    fn thread(rounds: usize, server: &Server<usize>, stream: DetachedStream) {
        let server = server.clone();
        thread::spawn(move || future::block_on(echo_once(stream, server, rounds)));
    }
    with_commuters("thread", 2, thread, 4);
}

#[test]
fn attach_delivers_first_what_was_not_read() {
    let log = Log::<String>::new();
    let (data, end) = (log.clone(), log.clone());
    let events = Events::with_context::<usize>()
        .data(move |conn, input| {
            data.note(format!("{}: {}", conn.context, text(input)));
            if *conn.context < 3 {
                conn.unread(input.len() - 1);
                return Action::Detach.into();
            }
            Reply::send(b"thanks")
        })
        .detached(|conn, stream| {
            assert!(conn.server().attach(stream, *conn.context + 1).is_ok());
            Action::None
        })
        .closed(move |_, error| {
            end.note(closed(error));
            Action::None
        });
    let running = start(events, &["tcp://127.0.0.1:0"]);
    let mut client = running.connect(0);
    // No further input comes that would wake anybody.
    client.ask("abcd", "thanks");
    drop(client);
    assert_eq!(log.wait_for(5), ["0: abcd", "1: bcd", "2: cd", "3: d", "closed"]);
    running.stop();
}

#[test]
fn attach_takes_a_stream_that_somebody_else_has_made() {
    for loops in [1, 3] {
        let events = Events::with_context::<u8>().num_loops(loops).data(|conn, input| {
            conn.out.push(*conn.context);
            Reply::send(input)
        });
        let running = start(events, &[]);
        let (client, server) = common::tcp_pair();
        running.attach(Async::new(server).unwrap(), b'>').map_err(drop).unwrap();
        Client::Tcp(client).ask("hello", ">hello");
        running.stop();
    }
}

#[test]
fn attach_takes_the_stream_of_a_server_that_has_ended() {
    let dir = Dir::new("ended");
    let streams = Log::new();
    let running = detaching(&dir, streams.clone(), Log::new());
    let (clients, streams): (Vec<_>, Vec<_>) = (0..4).map(|i| detach(&running, i % 2, &streams)).unzip();
    running.stop();
    let events = Events::new().num_loops(2).data(|_, input| Reply::send(input));
    let running = start(events, &[]);
    for (i, (mut client, stream)) in clients.into_iter().zip(streams).enumerate() {
        let server = running.clone();
        match i < 2 {
            true => server.attach(stream, ()).map_err(drop).unwrap(),
            // On the loop, it stays where it is.
            false => block_on(running.loop_handle(i % 2).spawn(move || async move {
                server.attach(stream, ()).map_err(drop).unwrap();
            }))
            .unwrap(),
        }
        client.ask("hello", "hello");
        client.finish();
        assert_eq!(text(&client.receive_all()), "");
    }
    running.stop();
}

#[test]
fn attach_gives_the_stream_back_if_the_server_has_ended() {
    let dir = Dir::new("stopped");
    let streams = Log::new();
    let running = detaching(&dir, streams.clone(), Log::new());
    let (mut client, stream) = detach(&running, 0, &streams);
    let server = running.clone();
    running.stop();
    let (mut stream, ()) = server.attach(stream, ()).expect_err("it has ended");
    client.send("hello");
    let mut buf = [0; 5];
    block_on(stream.read_exact(&mut buf)).unwrap();
    assert_eq!(server.connections(), 0);
}

// ---------------------------------------------------------------------------------------- futures as handlers

/// One address with callbacks, which answer in lower case, and one with futures, which answer in upper case.
fn mixed(loops: isize, ended: Log<&'static str>) -> Running<()> {
    let builder = Builder::new().loops(loops).listen_async("tcp://127.0.0.1:0", move |mut stream, _| {
        let ended = ended.clone();
        async move {
            struct Note(Log<&'static str>, &'static str);
            impl Drop for Note {
                fn drop(&mut self) {
                    self.0.note(self.1);
                }
            }
            let mut note = Note(ended, "dropped");
            let mut buf = [0; 100];
            loop {
                let read = future::or(async { Some(stream.read(&mut buf).await) }, async {
                    wakewheel::executor::shutdown_requested().await;
                    None
                })
                .await;
                let Some(Ok(n @ 1..)) = read else { break };
                match &buf[..n] {
                    b"panic" => panic!("as asked for"),
                    // It does not hear of any shutdown.
                    b"deaf" => std::future::pending().await,
                    input => stream.write_all(&input.to_ascii_uppercase()).await.unwrap(),
                }
            }
            note.1 = "ended";
        }
    });
    let events = Events::new().choices(builder).data(|_, input| Reply::send(input.to_ascii_lowercase()));
    start(events, &["tcp://127.0.0.1:0"])
}

#[test]
fn listen_async_shares_loops_and_counts_with_callbacks() {
    for loops in [1, 3] {
        let ended = Log::new();
        let running = mixed(loops, ended.clone());
        assert_eq!(running.addrs().len(), 2);
        let mut clients: Vec<_> = (0..6)
            .map(|i| {
                let mut client = running.connect(i % 2);
                client.ask("Hello", ["hello", "HELLO"][i % 2]);
                client
            })
            .collect();
        let counts: Vec<_> = running.connections_by_loop().collect();
        assert_eq!(counts, vec![6 / loops as usize; loops as usize], "one round for both addresses");
        clients.truncate(2);
        eventually("those that are gone are not counted", || running.connections() == 2);
        assert_eq!(ended.len(), 2);
        clients.clear();
        eventually("none is counted", || running.connections() == 0);
        running.stop();
        assert_eq!(ended.all(), ["ended"; 3]);
    }
}

#[test]
fn listen_async_futures_are_asked_to_end_and_then_dropped() {
    let ended = Log::new();
    let running = mixed(2, ended.clone());
    let mut clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = running.connect(1);
            client.ask("x", "X");
            client
        })
        .collect();
    clients[0].send("deaf");
    // It is read at once after that.
    running.connect(1).ask("x", "X");
    running.connect(1).ask("x", "X");
    ended.wait_for(2);
    running.stop();
    clients.iter_mut().for_each(Client::wait_for_the_end);
    assert_eq!((ended.count("ended"), ended.count("dropped")), (5, 1), "{:?}", ended.all());
}

#[test]
fn listen_async_a_future_that_panics_costs_its_connection() {
    for loops in [1, 2] {
        let ended = Log::new();
        let running = mixed(loops, ended.clone());
        for _ in 0..3 {
            let mut client = running.connect(1);
            client.send("panic");
            client.wait_for_the_end();
        }
        running.connect(1).ask("x", "X");
        running.connect(0).ask("X", "x");
        eventually("none is counted", || running.connections() == 0);
        running.stop();
    }
}

#[test]
fn listen_async_a_handler_that_panics_costs_its_connection() {
    for loops in [1, 2] {
        let count = AtomicUsize::new(0);
        let handler = move |mut stream: DetachedStream, _: Server<()>| {
            // Before there is a future.
            assert!(count.fetch_add(1, Ordering::SeqCst) % 2 == 1, "as asked for");
            async move { stream.write_all(b"hello").await.unwrap() }
        };
        let builder = Builder::new().loops(loops).listen_async("tcp://127.0.0.1:0", handler);
        let running = start(Events::new().choices(builder), &[]);
        for i in 0..6 {
            let mut client = running.connect(0);
            match i % 2 {
                0 => client.wait_for_the_end(),
                _ => assert_eq!(text(&client.receive_all()), "hello"),
            }
        }
        eventually("none is counted", || running.connections() == 0);
        running.stop();
    }
}
