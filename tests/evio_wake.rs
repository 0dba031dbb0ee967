//! The callbacks: wakes, and handles in other threads. The numbers are those of the list of behaviours.
//!
//! Faults of Go's evio that are shown absent here: the output of a wake that overwrites what is unsent (b22), a wake that
//! cancels a close (b23), a wake in a callback that is a deadlock (b24), wakes that are lost until a time-out (b25, b26).

mod common;
#[path = "common/evio.rs"]
mod helper;

use common::dir::Dir;
use common::in_a_process_of_its_own;
use helper::*;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};
use std::{mem, thread};
use wakewheel::Cores;
use wakewheel::evio::{Action, Builder, Conn, ConnHandle, Events, Options, Origin, Reply};
use wakewheel::reactor::Backend;

const MS: Duration = Duration::from_millis(1);
const TCP: &str = "tcp://127.0.0.1:0";
const MIB: usize = 1 << 20;

/// A Unix address in a directory.
fn unix(dir: &Dir) -> String {
    format!("unix://{}", dir.path("socket").display())
}

/// Where a callback leaves the handle of a connection for the test.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<VecDeque<ConnHandle>>>);

impl Slot {
    fn put(&self, handle: ConnHandle) {
        self.0.lock().unwrap().push_back(handle);
    }

    /// Events whose `opened` puts the handle here.
    fn events(&self) -> Events {
        self.events_with(Options::new())
    }

    fn events_with<C: Default + 'static>(&self, options: Options) -> Events<C> {
        let slot = self.clone();
        Events::default().opened(move |conn| {
            slot.put(conn.handle());
            options.clone().into()
        })
    }

    #[track_caller]
    fn take(&self) -> ConnHandle {
        let mut handle = None;
        eventually("a connection has been opened", || {
            handle = self.0.lock().unwrap().pop_front();
            handle.is_some()
        });
        handle.unwrap()
    }
}

/// More than any kernel takes for a client that does not read.
const BLOCK: usize = 8 * MIB;

#[test]
fn b21_the_output_of_a_wake_comes_after_that_of_the_callback() {
    let dir = Dir::new("b21");
    let events = Events::new().data(|conn, _| {
        if conn.is_wake() {
            return Reply::send(b"WAKE");
        }
        conn.wake();
        Reply::send(b"DATA")
    });
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        for _ in 0..100 {
            client.send(b"?");
            client.expect(b"DATAWAKE");
        }
    }
    assert_eq!(server.stop().wakes(), 200);
}

#[test]
fn b22_wakes_overwrite_no_output_that_is_unsent() {
    let block = pattern(BLOCK);
    let slot = Slot::default();
    let queue = Arc::new(Mutex::new(Vec::new()));
    let events = slot.events().data({
        let (block, queue) = (block.clone(), queue.clone());
        move |conn, _| {
            if conn.is_wake() {
                return Reply::send(mem::take(&mut *queue.lock().unwrap()));
            }
            Reply::send(block.clone())
        }
    });
    let dir = Dir::new("b22");
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        let handle = slot.take();
        client.take_little();
        client.send(b"?");
        eventually("it is being answered", || server.log.data() == i + 1);
        let mut expected = block.clone();
        for n in 0..100 {
            let text = format!("[wake {n:03}]");
            expected.extend_from_slice(text.as_bytes());
            queue.lock().unwrap().extend_from_slice(text.as_bytes());
            handle.wake().unwrap();
        }
        client.expect(&expected);
        drop((client, handle));
        server.log.wait_closed(i + 1);
    }
    server.stop();
}

#[test]
fn b22_writes_overwrite_no_output_that_is_unsent() {
    let block = pattern(BLOCK);
    let slot = Slot::default();
    let events = slot
        .events_with::<bool>(Options::new().high_water(2 * BLOCK))
        .data({
            let block = block.clone();
            move |_, _| Reply::send(block.clone())
        })
        // In the middle of it, the callbacks have something to add.
        .post_write(|conn, _, remaining| {
            if remaining > 0 && !mem::replace(&mut *conn.context, true) {
                conn.out.extend_from_slice(b"[aside]");
            }
        });
    let dir = Dir::new("b22-writes");
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        let handle = slot.take();
        client.take_little();
        let mut expected = block.clone();
        client.send(b"?");
        eventually("it is being answered", || server.log.post_writes() > 0 && server.log.data() == i + 1);
        client.expect(&expected[..10]);
        expected.drain(..10);
        expected.extend_from_slice(b"[aside]");
        for n in 0..100 {
            let text = format!("[write {n:02}]");
            expected.extend_from_slice(text.as_bytes());
            handle.write(text.as_bytes()).unwrap();
        }
        client.expect(&expected);
        drop((client, handle));
        server.log.wait_closed(i + 1);
    }
    server.stop();
}

#[cfg(target_os = "linux")]
#[test]
fn b23_a_wake_does_not_cancel_a_close() {
    for size in [10, BLOCK] {
        let slot = Slot::default();
        let out = pattern(size);
        let events = slot.events().data({
            let out = out.clone();
            move |conn, _| {
                if conn.is_wake() {
                    return Reply::none();
                }
                // From inside, and as others do it.
                conn.wake();
                conn.handle().wake().unwrap();
                Reply::send(out.clone()).then(Action::Close)
            }
        });
        let dir = Dir::new(&format!("b23-{size}"));
        let server = start(events, &[TCP, &unix(&dir)]);
        for i in 0..2 {
            let mut client = server.connect_to(i);
            let handle = slot.take();
            client.send(b"?");
            eventually("it is being answered", || server.log.data() == i + 1);
            for _ in 0..10 {
                let _ = handle.wake();
            }
            client.expect(&out);
            client.expect_end();
            assert_eq!(server.log.wait_closed(i + 1), vec![None; i + 1]);
            assert_eq!(handle.wake().unwrap_err().kind(), ErrorKind::NotConnected);
        }
        let load = server.clock.load_during(100 * MS);
        assert!(load < 0.1, "idle after that: {load}");
        assert_eq!(server.stop().wakes(), 0);
    }
}

#[test]
fn b24_a_wake_inside_a_callback_is_no_deadlock() {
    for backend in [Backend::Epoll, Backend::Kqueue, Backend::Poll] {
        if Cores::builder().threads(1).backend(backend).build().is_err() {
            continue;
        }
        fn both(conn: &mut Conn<'_, u32>, bit: u32) {
            if *conn.context & bit == 0 {
                *conn.context |= bit;
                conn.handle().wake().unwrap();
            }
        }
        let slot = Slot::default();
        let tick = slot.clone();
        let ticked = Arc::new(AtomicBool::new(false));
        let events = Events::with_context::<u32>()
            .choices(Builder::new().cores(Cores::builder().backend(backend)))
            .opened(move |conn| {
                slot.put(conn.handle());
                both(conn, 1);
                Options::new().half_close(Duration::ZERO).into()
            })
            .pre_write(|conn| both(conn, 2))
            .post_write(|conn, _, _| both(conn, 4))
            .data({
                let ticked = ticked.clone();
                move |conn, input| {
                    if !conn.is_wake() {
                        both(conn, 8);
                        return Reply::send(input);
                    }
                    // A wake that is answered by another one.
                    both(conn, 16);
                    if ticked.load(SeqCst) && *conn.context & 32 == 0 {
                        *conn.context |= 32;
                        return Reply::send(b"after a tick");
                    }
                    Reply::none()
                }
            })
            .tick(move |_| {
                let handles = tick.0.lock().unwrap();
                for handle in handles.iter().filter(|handle| !handle.is_closed()) {
                    ticked.store(true, SeqCst);
                    handle.wake().unwrap();
                }
                (MS, Action::None)
            })
            .closed(|conn, _| {
                assert_eq!(*conn.context, 63, "each has woken it");
                // Nobody is there any more to be woken; this does nothing.
                conn.wake();
                assert!(conn.handle().wake().is_err());
                Action::None
            });
        let server = start(events, &[TCP]);
        let mut client = server.connect();
        client.expect(b"after a tick");
        client.ask(b"hello");
        // Those of `hello`, too.
        let wakes = server.log.wakes();
        eventually("more wakes", || server.log.wakes() > wakes + 2);
        drop(client);
        assert_eq!(server.log.wait_closed(1), [None]);
        server.stop();
    }
}

#[test]
fn b25_no_wake_waits_for_the_loop() {
    let slot = Slot::default();
    let gate = Signal::new();
    let events = slot.events().data({
        let gate = gate.clone();
        move |conn, _| {
            if !conn.is_wake() {
                gate.wait("all have woken it");
            }
            Reply::none()
        }
    });
    let server = start(events, &[TCP]);
    let mut client = server.connect();
    let handle = slot.take();
    client.send(b"?");
    eventually("the loop is blocked", || server.log.data() == 1);
    wake_from_four_threads(&handle, || {});
    assert_eq!(server.log.wakes(), 0, "the loop is still blocked");
    gate.give();
    eventually("one wake after them", || server.log.wakes() == 1);
    drop((client, handle));
    server.stop();
}

/// A million times.
fn wake_from_four_threads(handle: &ConnHandle, before: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..scaled(250_000) {
                    before();
                    handle.wake().unwrap();
                }
            });
        }
    });
}

#[test]
fn b25_after_the_last_of_a_million_wakes_there_is_data() {
    let slot = Slot::default();
    let begun = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(AtomicUsize::new(0));
    let events = slot.events().data({
        let (begun, seen) = (begun.clone(), seen.clone());
        move |conn, _| {
            assert!(conn.is_wake());
            seen.store(begun.load(SeqCst), SeqCst);
            Reply::none()
        }
    });
    let server = start(events, &[TCP]);
    let client = server.connect();
    let handle = slot.take();
    wake_from_four_threads(&handle, || {
        begun.fetch_add(1, SeqCst);
    });
    eventually("a wake is seen after the last", || seen.load(SeqCst) == 4 * scaled(250_000));
    drop((client, handle));
    server.stop();
}

#[test]
fn b26_no_wake_of_a_sleeping_loop_is_late() {
    let slot = Slot::default();
    let (woken, is_woken) = mpsc::channel();
    let woken = Mutex::new(woken);
    let events = slot.events().data(move |_, _| {
        let _ = woken.lock().unwrap().send(());
        Reply::none()
    });
    let server = start(events, &[TCP]);
    let client = server.connect();
    let handle = slot.take();
    let mut times: Vec<_> = (0..scaled(20_000))
        .map(|i| {
            let started = Instant::now();
            handle.wake().unwrap();
            // Nothing else happens: one that is lost stays lost.
            is_woken.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("wake {i}: {e}"));
            started.elapsed()
        })
        .collect();
    times.sort();
    // One in a hundred is the machine's, on which other tests run.
    let late = times[times.len() * 99 / 100];
    assert!(late < 20 * MS, "late: {late:?}");
    drop((client, handle));
    server.stop();
}

#[cfg(target_os = "linux")]
#[test]
fn b27_a_handle_never_reaches_the_next_connection_of_its_descriptor() {
    // With descriptors that nobody else takes.
    in_a_process_of_its_own("b27_a_handle_never_reaches_the_next_connection_of_its_descriptor", || {
        let slot = Slot::default();
        let gate = Signal::new();
        let events = slot.events().data({
            let gate = gate.clone();
            move |conn, input| {
                assert!(!conn.is_wake(), "a wake of another connection");
                if input == b"close" {
                    gate.wait("the next have connected");
                    conn.handle().force_close().unwrap();
                }
                Reply::send(input)
            }
        });
        let server = start(events, &[TCP]);
        let mut first = server.connect();
        let handle = slot.take();
        let descriptor = server_descriptor(first.local_addr().unwrap());
        first.send(b"close");
        eventually("the loop is blocked", || server.log.data() == 1);
        let mut next: Vec<_> = (0..10).map(|_| server.connect()).collect();
        gate.give();
        server.log.wait_opened(11);
        let reused = next.iter().any(|c| server_descriptor(c.local_addr().unwrap()) == descriptor);
        assert!(descriptor.is_some() && reused, "{descriptor:?} was not used again: this test shows nothing");

        let errors = [handle.wake(), handle.write(b"for the first"), handle.close(), handle.force_close()];
        for error in errors {
            assert_eq!(error.unwrap_err().kind(), ErrorKind::NotConnected);
        }
        assert!(handle.is_closed());
        next.iter_mut().for_each(|client| client.ask(b"not for the first"));
        assert_eq!(server.log.closed(), 1);
        slot.0.lock().unwrap().clear();
        drop(next);
        server.log.wait_closed(11);
        server.stop();
    });
}

#[test]
fn b28_a_wake_before_the_connection_is_there_comes_after_opened() {
    let events = Events::with_context::<bool>()
        .opened(|conn| {
            *conn.context = true;
            match conn.origin() {
                Origin::Dialed => Action::None.into(),
                _ => {
                    conn.wake();
                    Action::None.into()
                }
            }
        })
        .data(|conn, _| {
            assert!(conn.is_wake() && *conn.context, "opened comes first");
            Reply::none()
        });
    for loops in [1, 4] {
        let server = start(events.clone().num_loops(loops), &[TCP]);
        let addr = server.server.addrs()[0].to_string();
        for i in 0..50 {
            let handle = server.server.dial(&addr, PATIENCE).unwrap();
            handle.wake().unwrap();
            // One of each end.
            eventually("both ends are woken", || server.log.wakes() == 2 * (i + 1));
            assert!(handle.remote_addr().is_some());
            handle.close().unwrap();
        }
        server.log.wait_closed(100);
        assert_eq!(server.stop().opened(), 100);
    }
}

#[test]
fn b28_a_handle_given_away_in_opened_wakes() {
    let events = Events::with_context::<bool>()
        .opened(|conn| {
            let handle = conn.handle();
            // It may well be faster than this callback.
            thread::spawn(move || handle.wake().unwrap()).join().unwrap();
            *conn.context = true;
            Action::None.into()
        })
        .data(|conn, _| {
            assert!(conn.is_wake() && *conn.context, "opened comes first");
            Reply::send(b"woken")
        });
    let dir = Dir::new("b28");
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..20 {
        server.connect_to(i % 2).expect(b"woken");
    }
    server.stop();
}

#[test]
fn b29_a_thread_echoes_lines_by_wakes() {
    const LINES: usize = 1000;
    #[derive(Default)]
    struct Session {
        partial: Vec<u8>,
        answers: Arc<Mutex<Vec<u8>>>,
    }
    for loops in [1, 4] {
        let (lines, their_lines) = mpsc::channel::<(Vec<u8>, ConnHandle, Arc<Mutex<Vec<u8>>>)>();
        let lines = Mutex::new(lines);
        thread::spawn(move || {
            for (line, handle, answers) in their_lines {
                answers.lock().unwrap().extend_from_slice(&line);
                let _ = handle.wake();
            }
        });
        let events = Events::with_context::<Session>().num_loops(loops).data(move |conn, input| {
            if conn.is_wake() {
                return Reply::send(mem::take(&mut *conn.context.answers.lock().unwrap()));
            }
            conn.context.partial.extend_from_slice(input);
            while let Some(end) = conn.context.partial.iter().position(|&byte| byte == b'\n') {
                let line = conn.context.partial.drain(..=end).collect();
                let answers = conn.context.answers.clone();
                lines.lock().unwrap().send((line, conn.handle(), answers)).unwrap();
            }
            Reply::none()
        });
        let dir = Dir::new(&format!("b29-{loops}"));
        let server = start(events, &[TCP, &unix(&dir)]);
        for i in 0..2 {
            let mut client = server.connect_to(i);
            let mut reader = BufReader::new(client.try_clone());
            let mut line = String::new();
            // One after the other, and then many at once.
            for n in 0..LINES / 2 {
                let text = format!("line {n}\n");
                client.send(text.as_bytes());
                line.clear();
                reader.read_line(&mut line).unwrap();
                assert_eq!(line, text);
            }
            let all: String = (LINES / 2..LINES).map(|n| format!("line {n}\n")).collect();
            client.send(all.as_bytes());
            let mut got = vec![0; all.len()];
            reader.read_exact(&mut got).unwrap();
            assert!(got == all.as_bytes());
        }
        server.stop();
    }
}

/// Writes, and waits while the client is too slow.
fn write(handle: &ConnHandle, bytes: &[u8]) {
    let started = Instant::now();
    loop {
        match handle.write(bytes) {
            Ok(()) => return,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                assert!(started.elapsed() < PATIENCE, "{e}, and for ever");
                thread::yield_now();
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn b30_what_one_thread_writes_keeps_its_order() {
    const THREADS: u32 = 4;
    let each = scaled(100_000) as u32;
    for loops in [1, 4] {
        let slot = Slot::default();
        let events = slot.events().num_loops(loops).data(|_, input| Reply::send(input));
        let dir = Dir::new(&format!("b30-{loops}"));
        let server = start(events, &[TCP, &unix(&dir)]);
        for i in 0..2 {
            let mut client = server.connect_to(i);
            let handle = slot.take();
            let done = AtomicBool::new(false);
            // The load.
            let mut other = server.connect_to(i);
            slot.take();
            thread::scope(|scope| {
                let _end = SetOnDrop(&done);
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        other.ask(&[b'x'; 1000]);
                    }
                });
                for id in 0..THREADS {
                    let handle = handle.clone();
                    scope.spawn(move || {
                        for n in 0..each {
                            write(&handle, &[id.to_ne_bytes(), n.to_ne_bytes()].concat());
                        }
                    });
                }
                let mut next = [0; THREADS as usize];
                let mut reader = BufReader::new(&mut client);
                for _ in 0..THREADS * each {
                    let (mut id, mut n) = ([0; 4], [0; 4]);
                    reader.read_exact(&mut id).unwrap();
                    reader.read_exact(&mut n).unwrap();
                    let next = &mut next[u32::from_ne_bytes(id) as usize];
                    assert_eq!(u32::from_ne_bytes(n), *next, "in order");
                    *next += 1;
                }
                done.store(true, SeqCst);
            });
        }
        server.stop();
    }
}

/// Which write, and its error.
type End = (usize, Option<ErrorKind>);

/// What the ends of writes were told.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<End>>>);

impl Ends {
    fn of(&self, n: usize) -> impl FnOnce(std::io::Result<()>) + Send + 'static {
        let ends = self.0.clone();
        move |result| ends.lock().unwrap().push((n, result.err().map(|e| e.kind())))
    }

    #[track_caller]
    fn wait(&self, n: usize) -> Vec<End> {
        eventually("all are told", || self.0.lock().unwrap().len() >= n);
        self.0.lock().unwrap().clone()
    }
}

#[test]
fn b31_the_end_of_a_write_to_a_closed_connection_is_told_once() {
    let slot = Slot::default();
    let server = start(slot.events(), &[TCP]);
    let mut client = server.connect();
    let handle = slot.take();
    handle.close().unwrap();
    client.expect_end();
    server.log.wait_closed(1);
    let ends = Ends::default();
    handle.write_then(b"too late", ends.of(1));
    assert_eq!(ends.wait(1), [(1, Some(ErrorKind::NotConnected))], "at once");
    server.stop();
    assert_eq!(ends.wait(1).len(), 1);
}

#[test]
fn b31_writes_are_told_their_end_in_order() {
    let slot = Slot::default();
    let dir = Dir::new("b31");
    let server = start(slot.events(), &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let mut client = server.connect_to(i);
        let (handle, ends) = (slot.take(), Ends::default());
        for n in 0..100 {
            handle.write_then(b"0123456789", ends.of(n));
        }
        client.expect(&b"0123456789".repeat(100));
        let expected: Vec<_> = (0..100).map(|n| (n, None)).collect();
        assert_eq!(ends.wait(100), expected);
    }
    server.stop();
}

#[test]
fn b31_the_end_of_a_write_of_nothing_is_told() {
    let slot = Slot::default();
    let server = start(slot.events(), &[TCP]);
    let mut client = server.connect();
    let (handle, ends) = (slot.take(), Ends::default());
    handle.write_then(b"", ends.of(1));
    assert_eq!(ends.wait(1), [(1, None)], "nothing is before it");
    handle.write_then(b"some", ends.of(2));
    handle.write_then(b"", ends.of(3));
    client.expect(b"some");
    assert_eq!(ends.wait(3), [(1, None), (2, None), (3, None)]);
    server.stop();
}

#[test]
fn b31_what_is_not_sent_when_the_connection_ends_is_told_so() {
    let slot = Slot::default();
    let dir = Dir::new("b31-lost");
    let server = start(slot.events(), &[&unix(&dir)]);
    let mut client = server.connect();
    let (handle, ends) = (slot.take(), Ends::default());
    // Of the kernel's buffer, 200 KiB at most are sent.
    handle.write_then(b"first", ends.of(1));
    client.expect(b"first");
    ends.wait(1);
    handle.write_then(&vec![b'x'; BLOCK], ends.of(2));
    handle.write_then(b"third", ends.of(3));
    assert_eq!(ends.wait(2)[1..], [(3, Some(ErrorKind::WouldBlock))], "beyond the high-water mark");
    // Some of it is sent, which is not its end.
    client.expect(&[b'x'; 1000]);
    handle.force_close().unwrap();
    assert_eq!(
        ends.wait(3),
        [(1, None), (3, Some(ErrorKind::WouldBlock)), (2, Some(ErrorKind::NotConnected))]
    );
    server.stop();
    assert_eq!(ends.wait(3).len(), 3);
}

#[test]
fn b32_a_handle_can_be_asked_after_the_end() {
    // What others shall see of the context is an `Arc` in it.
    type Context = Arc<OnceLock<String>>;
    let (sender, receiver) = mpsc::channel::<(ConnHandle, Context)>();
    let sender = Mutex::new(sender);
    let events = Events::with_context::<Context>()
        .opened(move |conn| {
            conn.context.set("its name".into()).unwrap();
            let local = conn.local_addr().unwrap();
            assert_eq!(conn.handle().local_addr(), Some(&local));
            sender.lock().unwrap().send((conn.handle(), conn.context.clone())).unwrap();
            Action::None.into()
        })
        .closed(|conn, _| {
            assert!(conn.remote_addr().is_some(), "also in the last callback");
            Action::None
        });
    let dir = Dir::new("b32");
    let server = start(events, &[TCP, &unix(&dir)]);
    for i in 0..2 {
        let client = server.connect_to(i);
        let (handle, context) = receiver.recv_timeout(PATIENCE).unwrap();
        let (local, id) = (client.local_addr(), handle.id());
        handle.close().unwrap();
        drop(client);
        server.log.wait_closed(i + 1);
        for result in [handle.write(b"x"), handle.wake(), handle.close(), handle.force_close()] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
        }
        assert!(handle.is_closed());
        assert_eq!(handle.id(), id);
        assert_eq!(handle.local_addr(), Some(&server.server.addrs()[i]));
        assert_eq!(handle.remote_addr().expect("a peer").socket_addr(), local);
        assert_eq!(context.get().unwrap(), "its name");
    }
    server.stop();
}

#[test]
fn b33_a_close_from_tick_and_from_a_thread() {
    for from_tick in [true, false] {
        for loops in [1, 4] {
            let (slot, asked) = (Slot::default(), Arc::new(AtomicUsize::new(0)));
            let events = slot.events().num_loops(loops).tick({
                let (slot, asked) = (slot.clone(), asked.clone());
                move |_| {
                    if from_tick {
                        for handle in slot.0.lock().unwrap().drain(..) {
                            asked.fetch_add(1, SeqCst);
                            handle.close().unwrap();
                            // It is being closed already, or has been.
                            let _ = handle.close();
                        }
                    }
                    (MS, Action::None)
                }
            });
            let dir = Dir::new(&format!("b33-{from_tick}-{loops}"));
            let server = start(events, &[TCP, &unix(&dir)]);
            for i in 0..10 {
                let mut client = server.connect_to(i % 2);
                if !from_tick {
                    let handle = slot.take();
                    handle.close().unwrap();
                    let _ = handle.close();
                    asked.fetch_add(1, SeqCst);
                }
                client.expect_end();
            }
            assert_eq!(server.log.wait_closed(10), [None; 10]);
            assert_eq!(asked.load(SeqCst), 10);
            assert_eq!(server.stop().closed(), 10);
        }
    }
}

#[test]
fn b34_wakes_for_connections_that_are_gone_stop_no_accept() {
    for loops in [1, 4] {
        let slot = Slot::default();
        let dir = Dir::new(&format!("b34-{loops}"));
        let server = start(slot.events().num_loops(loops), &[TCP, &unix(&dir)]);
        let mut handles = Vec::new();
        for i in 0..50 {
            let client = server.connect_to(i % 2);
            handles.push(slot.take());
            thread::scope(|scope| {
                // At the same time as its end, and after that.
                scope.spawn(|| {
                    while handles[i].wake().and_then(|()| handles[i].write(b"x")).is_ok() {
                        thread::yield_now();
                    }
                });
                drop(client);
            });
        }
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _end = SetOnDrop(&done);
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    for handle in &handles {
                        assert!(handle.wake().is_err());
                        assert!(handle.write(b"x").is_err());
                    }
                    thread::yield_now();
                }
            });
            for i in 0..1000 {
                drop(server.connect_to(i % 2));
            }
            server.log.wait_opened(1050);
            done.store(true, SeqCst);
        });
        // Those of which a handle is kept end after the grace of half-closed ones.
        slot.0.lock().unwrap().clear();
        server.log.wait_closed(1050);
        server.stop();
    }
}
