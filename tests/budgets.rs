//! What things cost, exactly: system calls, allocations, memory, wake-ups. A number here is a promise; if one changes,
//! it has become a decision.

#[path = "common/counting.rs"]
mod counting;
#[path = "common/strace.rs"]
mod strace;

use counting::{allocations, bytes};
use futures_lite::future::poll_once;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;
use strace::{Calls, PATIENCE, Traced, difference, skip, total};
use wakewheel::executor::{self, Stats, yield_now};
use wakewheel::io::RecvBatch;
use wakewheel::reactor::Backend;
use wakewheel::{Async, LocalExecutor, Timer, sleep, spawn, spawn_local, timeout};

/// How often the current thread allocates in `n` rounds of `round`, once it has warmed up.
async fn allocations_of(n: u64, mut round: impl AsyncFnMut()) -> u64 {
    for _ in 0..n {
        round().await;
    }
    let before = allocations();
    for _ in 0..n {
        round().await;
    }
    allocations() - before
}

fn run<T>(future: impl Future<Output = T>) -> T {
    LocalExecutor::new().expect("an executor").block_on(future)
}

#[test]
fn the_allocator_counts() {
    let before = (allocations(), bytes());
    let mut numbers = std::hint::black_box(Vec::<u8>::with_capacity(100));
    numbers.reserve_exact(1000);
    assert_eq!((allocations() - before.0, bytes() - before.1), (2, 1000));
    drop(numbers);
    assert_eq!((allocations() - before.0, bytes() - before.1), (2, 0));
}

// ------------------------------------------------------------------------------------------- allocations

/// The echo server of the example, for either kind of stream.
async fn echo<T>(stream: Async<T>) -> io::Result<()>
where
    for<'a> &'a T: Read + Write,
{
    loop {
        let chunk = stream.read_chunk().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        (&stream).write_all(&chunk).await?;
    }
}

/// How often a thousand messages allocate that `server` echoes to `client`.
async fn allocations_of_messages<T>(mut client: Async<T>, server: Async<T>) -> u64
where
    Async<T>: AsyncRead + AsyncWrite,
    T: 'static,
    for<'a> &'a T: Read + Write,
{
    let _server = spawn_local(echo(server));
    let mut buf = [0; 100];
    allocations_of(1000, async || {
        client.write_all(&buf).await.unwrap();
        client.read_exact(&mut buf).await.unwrap();
    })
    .await
}

#[test]
fn a_tcp_message_allocates_nothing() {
    let n = run(async {
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
        let client = Async::<TcpStream>::connect(listener.get_ref().local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        allocations_of_messages(client, server).await
    });
    assert_eq!(n, 0);
}

#[test]
fn a_unix_message_allocates_nothing() {
    let n = run(async {
        let (client, server) = Async::<UnixStream>::pair().unwrap();
        allocations_of_messages(client, server).await
    });
    assert_eq!(n, 0);
}

#[test]
fn a_datagram_allocates_nothing() {
    let n = run(async {
        let client = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
        let server = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
        let addr = server.get_ref().local_addr().unwrap();
        let _server = spawn_local(async move {
            let mut buf = [0; 100];
            loop {
                let (n, from) = server.recv_from(&mut buf).await.unwrap();
                server.send_to(&buf[..n], from).await.unwrap();
            }
        });
        let mut buf = [0; 100];
        allocations_of(1000, async || {
            client.send_to(&buf, addr).await.unwrap();
            client.recv_from(&mut buf).await.unwrap();
        })
        .await
    });
    assert_eq!(n, 0);
}

/// `readable()` and `read_with`: any number of tasks may wait, and their wakers lie in a list.
#[test]
fn a_batch_of_datagrams_allocates_nothing() {
    let n = run(async {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let receiver = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
        let addr = receiver.get_ref().local_addr().unwrap();
        let mut batch = RecvBatch::new(8, 100);
        allocations_of(1000, async || {
            for _ in 0..3 {
                sender.send_to(&[7; 64], addr).unwrap();
            }
            receiver.recv_batch(&mut batch).await.unwrap();
            assert!(batch.iter().all(|datagram| datagram.bytes == [7; 64]));
        })
        .await
    });
    assert_eq!(n, 0);
}

#[test]
fn waiting_for_readiness_allocates_nothing() {
    let n = run(async {
        let (a, b) = Async::<UnixStream>::pair().unwrap();
        let _server = spawn_local(async move {
            loop {
                b.readable().await.unwrap();
                let mut byte = [0];
                b.read_with(|mut io| io.read(&mut byte)).await.unwrap();
                b.write_with(|mut io| io.write(&byte)).await.unwrap();
            }
        });
        allocations_of(1000, async || {
            a.write_with(|mut io| io.write(&[1])).await.unwrap();
            a.readable().await.unwrap();
            a.read_with(|mut io| io.read(&mut [0])).await.unwrap();
        })
        .await
    });
    assert_eq!(n, 0);
}

#[test]
fn a_yield_allocates_nothing() {
    assert_eq!(run(allocations_of(10_000, async || yield_now().await)), 0);
    // Nor does one among other tasks.
    let n = run(async {
        let _others: Vec<_> = (0..10)
            .map(|_| {
                spawn_local(async {
                    loop {
                        yield_now().await;
                    }
                })
            })
            .collect();
        allocations_of(10_000, async || yield_now().await).await
    });
    assert_eq!(n, 0);
}

/// A place to leave a waker in, and a word for it.
#[derive(Default)]
struct Bell {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[test]
fn a_wake_on_the_same_core_allocates_nothing() {
    let n = run(async {
        let (there, back) = (Rc::new(Bell::default()), Rc::new(Bell::default()));
        let _other = spawn_local({
            let (there, back) = (there.clone(), back.clone());
            async move {
                loop {
                    there.wait().await;
                    back.ring();
                }
            }
        });
        allocations_of(10_000, async || {
            there.ring();
            back.wait().await;
        })
        .await
    });
    assert_eq!(n, 0);
}

/// The letter that takes the wake to the task's core has its place already.
#[test]
fn a_wake_from_another_thread_allocates_nothing() {
    const ROUNDS: u64 = 2000;
    let (wakers, to_wake) = mpsc::sync_channel::<Waker>(1);
    let (counts, woken) = mpsc::channel();
    thread::spawn(move || {
        let mut before = 0;
        for (i, waker) in to_wake.iter().enumerate() {
            if i as u64 == ROUNDS {
                before = allocations();
            }
            waker.wake();
        }
        counts.send(allocations() - before).unwrap();
    });
    let here = run(async {
        // A task, and not the future that the executor was started for, which has a waker of its own kind.
        let task = spawn_local(async move {
            allocations_of(ROUNDS, async || {
                let mut sent = false;
                poll_fn(|cx| {
                    if std::mem::replace(&mut sent, true) {
                        return Poll::Ready(());
                    }
                    wakers.send(cx.waker().clone()).unwrap();
                    Poll::Pending
                })
                .await;
            })
            .await
        });
        task.await.unwrap()
    });
    let there = woken.recv_timeout(PATIENCE).unwrap();
    assert_eq!((here, there), (0, 0), "allocations of the woken and of the waking thread");
}

#[test]
fn timers_allocate_nothing() {
    const LONG: Duration = Duration::from_secs(1000);
    run(async {
        let created = allocations_of(1000, async || {
            let mut timer = sleep(LONG);
            assert_eq!(poll_once(&mut timer).await, None);
        });
        assert_eq!(created.await, 0, "created, waited for, dropped");

        let mut timer = sleep(LONG);
        let rearmed = allocations_of(1000, async || {
            timer.set_after(LONG);
            assert_eq!(poll_once(&mut timer).await, None);
        });
        assert_eq!(rearmed.await, 0, "put off");

        let mut later = 0;
        let moved = allocations_of(1000, async || {
            // Through all levels of the wheel, forwards and backwards.
            later = (later + 17) % 40;
            timer.set_after(LONG + Duration::from_nanos(1 << later));
            assert_eq!(poll_once(&mut timer).await, None);
        });
        assert_eq!(moved.await, 0, "moved");

        let fired = allocations_of(200, async || {
            sleep(Duration::from_micros(50)).await;
        });
        assert_eq!(fired.await, 0, "fired");

        let limited = allocations_of(1000, async || timeout(LONG, yield_now()).await.unwrap());
        assert_eq!(limited.await, 0, "timeout");
    });
}

/// With the shared reactor, whose wheel has a lock. (The only test here that uses it: with another thread in
/// `block_on`, the two have to find out who drives.)
#[test]
fn timers_of_the_shared_reactor_allocate_nothing() {
    let n = wakewheel::block_on(allocations_of(200, async || {
        let mut timer = Timer::after(Duration::from_secs(1000));
        assert_eq!(poll_once(&mut timer).await, None);
        timer.set_after(Duration::from_micros(50));
        timer.await;
    }));
    assert_eq!(n, 0);
}

#[test]
fn a_task_is_one_allocation() {
    const ROUNDS: u64 = 1000;
    let n = run(allocations_of(ROUNDS, async || {
        let bytes = [1u8; 100];
        let sum = spawn_local(async move {
            yield_now().await;
            bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>()
        });
        assert_eq!(sum.await.unwrap(), 100);
    }));
    assert_eq!(n, ROUNDS);
    // A detached one is no more.
    let n = run(allocations_of(ROUNDS, async || {
        spawn_local(async {}).detach();
        yield_now().await;
    }));
    assert_eq!(n, ROUNDS);
}

/// The waker of a task that has read stays with the socket, and with it the task's memory, until another task waits.
#[test]
fn a_waker_that_stays_keeps_the_memory_of_one_task() {
    const LARGE: usize = 10_000;
    let (first, last, left) = run(async {
        let (a, mut b) = Async::<UnixStream>::pair().unwrap();
        let a = Rc::new(a);
        let mut kept = Vec::with_capacity(5);
        for _ in 0..5 {
            let a = a.clone();
            let task = spawn_local(async move {
                let large = std::hint::black_box([0; LARGE]);
                (&*a).read_exact(&mut [0]).await.unwrap();
                std::hint::black_box(&large);
            });
            yield_now().await;
            b.write_all(b"x").await.unwrap();
            task.await.unwrap();
            kept.push(bytes());
        }
        drop(a);
        (kept[0], kept[4], bytes())
    });
    assert!(last - first < LARGE as i64, "{first} bytes after one task, {last} after five");
    assert!(left + LARGE as i64 <= last, "{last} bytes with the socket, {left} without");
}

/// A handle that can go to other threads has a place for the result that they share.
#[test]
fn a_task_with_a_handle_for_any_thread_is_two_allocations() {
    const ROUNDS: u64 = 1000;
    let n = run(allocations_of(ROUNDS, async || assert_eq!(spawn(async { 1 }).await.unwrap(), 1)));
    assert_eq!(n, 2 * ROUNDS);
}

/// The task, and what the reactor knows of the descriptor.
#[test]
fn a_connection_is_two_allocations() {
    const ROUNDS: u64 = 200;
    let n = run(async {
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
        let addr = listener.get_ref().local_addr().unwrap();
        allocations_of(ROUNDS, async || {
            let mut client = TcpStream::connect(addr).unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let server = spawn_local(echo(server));
            client.write_all(b"hello").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            server.await.unwrap().unwrap();
        })
        .await
    });
    // The table of all descriptors grows with the highest number, which other tests raise meanwhile.
    let growth = ROUNDS / 10;
    assert!((2 * ROUNDS..2 * ROUNDS + growth).contains(&n), "{n} for {ROUNDS} connections");
}

// ------------------------------------------------------------------------------------------------ memory

/// A connection that waits for its next message costs its task, its place in the reactor, and no buffer.
#[test]
fn an_idle_connection_has_600_bytes_at_most() {
    const CONNECTIONS: usize = 1000;
    allow_descriptors(2 * CONNECTIONS as u64 + 200);
    let per_connection = run(async {
        // Whatever there is once per thread is there after the first.
        let (mut first, server) = Async::<UnixStream>::pair().unwrap();
        let _first_task = spawn_local(echo(server));
        first.write_all(b"x").await.unwrap();
        first.read_exact(&mut [0]).await.unwrap();

        let mut clients = Vec::with_capacity(CONNECTIONS);
        let before = bytes();
        for _ in 0..CONNECTIONS {
            let (client, server) = UnixStream::pair().unwrap();
            clients.push(client);
            spawn_local(echo(Async::new(server).unwrap())).detach();
        }
        sleep(Duration::from_millis(10)).await;
        let waiting = bytes() - before;
        assert_eq!(executor::current().stats().tasks_alive, CONNECTIONS as u64 + 1);

        // And again when each has had a message: nothing stays behind.
        for client in &mut clients {
            client.write_all(b"hello").unwrap();
        }
        sleep(Duration::from_millis(100)).await;
        for client in &mut clients {
            let mut buf = [0; 5];
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.read_exact(&mut buf).unwrap();
        }
        let after_a_message = bytes() - before;
        // (The reactor's list of the tasks that one turn wakes has grown to a thousand.)
        let grown = (CONNECTIONS * 64) as i64;
        assert!(after_a_message <= waiting + grown, "{waiting} bytes, then {after_a_message}");
        waiting as f64 / CONNECTIONS as f64
    });
    println!("{per_connection} bytes per idle connection");
    assert!(per_connection <= 600.0, "{per_connection} bytes per idle connection");
}

fn allow_descriptors(n: u64) {
    // SAFETY: all zeroes is a rlimit, and it is valid for both calls.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        if limit.rlim_cur < n {
            limit.rlim_cur = n;
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0, "{n} descriptors are needed");
        }
    }
}

// --------------------------------------------------------------------------------------------- wake-ups

/// A request wakes its task once, the core sleeps once, and the inbox is not used.
#[test]
fn a_request_is_one_wake_up() {
    const WARM_UP: u64 = 100;
    const REQUESTS: u64 = 1000;
    let executor = LocalExecutor::new().unwrap();
    let backend = Backend::from_env().unwrap();
    let (before, after) = executor.block_on(async {
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
        let addr = listener.get_ref().local_addr().unwrap();
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            for _ in 0..WARM_UP + REQUESTS {
                stream.write_all(b"request").unwrap();
                stream.read_exact(&mut [0; 7]).unwrap();
            }
        });
        let (stream, _) = listener.accept().await.unwrap();
        let task = spawn_local(async move {
            let mut before = None;
            for i in 0..WARM_UP + REQUESTS {
                let chunk = stream.read_chunk().await.unwrap();
                assert_eq!(&*chunk, b"request");
                if i == WARM_UP - 1 {
                    before = Some(executor::current().stats());
                }
                if i == WARM_UP + REQUESTS - 1 {
                    let after = executor::current().stats();
                    (&stream).write_all(&chunk).await.unwrap();
                    return (before.unwrap(), after);
                }
                (&stream).write_all(&chunk).await.unwrap();
            }
            unreachable!("it returns in the last round")
        });
        let stats = task.await.unwrap();
        client.join().unwrap();
        stats
    });
    assert_eq!(after.wakes_remote - before.wakes_remote, 0);
    let counts = |stats: Stats| [stats.wakes_local, stats.polls, stats.sleeps, stats.turns];
    let counts = std::array::from_fn(|i| counts(after)[i] - counts(before)[i]);
    if backend == Backend::Kqueue {
        // It does not tell of urgent data, so a short read is followed by another, which may find the next request
        // before its event does. One such event may be left from the warm-up.
        assert!(counts.iter().all(|&n: &u64| n <= REQUESTS + 1), "{counts:?}");
        return;
    }
    assert_eq!(counts, [REQUESTS; 4]);
    assert_eq!(after.events - before.events, REQUESTS);
}

// ------------------------------------------------------------------------------------------ system calls

/// The `echo` example on one core, under strace.
struct Server {
    traced: Traced,
    addr: SocketAddr,
}

/// A processor for a server and its client: they take turns.
const PROCESSOR: usize = 0;

impl Server {
    /// The futures' and the callbacks' server, each with one loop. None, and says why, if that cannot be measured here.
    fn each(test: &str) -> impl Iterator<Item = Server> {
        [("echo", "--cores"), ("evio_echo", "--loops")]
            .into_iter()
            .map_while(move |(name, number)| Server::start(test, name, number))
    }

    fn start(test: &str, name: &str, number: &str) -> Option<Server> {
        let why = strace::missing().or_else(|| match Backend::from_env() {
            Ok(Backend::Epoll) => None,
            Ok(backend) => Some(format!("the backend is {backend}, and the budget is epoll's")),
            Err(e) => Some(e.to_string()),
        });
        if let Some(why) = why {
            skip(test, &why);
            return None;
        }
        println!("{name}:");
        let example = example(name);
        // `cargo test` does, `cargo test --test budgets` does not build it.
        assert!(example.exists(), "there is no {}: run `cargo build --examples` first", example.display());
        let mut traced = Traced::start::<&str>(&[], &example, |command| {
            command.args(["127.0.0.1:0", number, "1"]);
            // SAFETY: two system calls, and no allocation, between fork and exec.
            unsafe {
                command.pre_exec(|| {
                    stay_on(PROCESSOR);
                    // A batch process that wakes does not interrupt the one that runs: the client sends all that it has
                    // before the server sees the first of it.
                    let param: libc::sched_param = std::mem::zeroed();
                    libc::sched_setscheduler(0, libc::SCHED_BATCH, &param);
                    Ok(())
                })
            };
        });
        let line = traced.wait_for_line("listening on ");
        let addr = line.trim_start_matches("tcp://").parse().expect("an address");
        traced.settle();
        Some(Server { traced, addr })
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What the server calls while `client` works, and until it is idle again.
    fn calls_of(&self, client: impl FnOnce()) -> Calls {
        let before = self.traced.settle();
        client();
        difference(&before, &self.traced.settle())
    }
}

/// `target/<profile>/examples/name`, beside which this test lies in `deps`.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps").join("examples").join(name)
}

/// The calling thread runs on one processor from now on. (Or wherever it likes, if it has no choice.)
fn stay_on(processor: usize) {
    // SAFETY: all zeroes is an empty set; it is valid for the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

fn echo_once(stream: &mut TcpStream) {
    let mut buf = [7; 64];
    stream.write_all(&buf).unwrap();
    stream.read_exact(&mut buf).unwrap();
}

#[test]
fn a_message_is_three_system_calls() {
    for server in Server::each("a_message_is_three_system_calls") {
        const MESSAGES: u64 = 1000;
        let mut stream = server.connect();
        for _ in 0..10 {
            echo_once(&mut stream);
        }
        let calls = server.calls_of(|| (0..MESSAGES).for_each(|_| echo_once(&mut stream)));
        let per_message = total(&calls) as f64 / MESSAGES as f64;
        println!("{per_message} system calls per message: {calls:?}");
        assert!((3.00..=3.01).contains(&per_message), "{per_message} system calls per message: {calls:?}");
        assert_eq!(calls.get("epoll_ctl"), None);
    }
}

#[test]
fn with_fifty_connections_a_message_is_two_system_calls() {
    for server in Server::each("with_fifty_connections_a_message_is_two_system_calls") {
        const CONNECTIONS: usize = 50;
        const ROUNDS: usize = 40;
        stay_on(PROCESSOR);
        let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
        let mut round = || {
            for stream in &mut streams {
                stream.write_all(&[7; 64]).unwrap();
            }
            for stream in &mut streams {
                stream.read_exact(&mut [0; 64]).unwrap();
            }
        };
        round();
        // If the client is interrupted between two messages, the server may see only those before: the best of a few.
        let measure = |_| {
            let calls = server.calls_of(|| (0..ROUNDS).for_each(|_| round()));
            let per_message = total(&calls) as f64 / (CONNECTIONS * ROUNDS) as f64;
            println!("{per_message} system calls per message: {calls:?}");
            (per_message, calls)
        };
        let (per_message, calls) =
            (0..5).map(measure).find(|(n, _)| *n <= 2.05).expect("at most 2.05 system calls per message");
        assert!(per_message >= 2.00, "{per_message} system calls per message: {calls:?}");
        assert_eq!(calls.get("epoll_ctl"), None);
    }
}

/// A wait, accept, register; a wait, a read that finds the end, deregister, close; and an accept that finds nobody. A
/// message in between costs a read, a write and a wait. (Connections that come many at a time share the waits
/// and the vain accept.)
#[test]
fn a_connection_is_eight_system_calls() {
    for server in Server::each("a_connection_is_eight_system_calls") {
        const CONNECTIONS: u64 = 200;
        stay_on(PROCESSOR);
        let per_connection = |what: &str, client: &dyn Fn(&mut TcpStream)| {
            let mut calls = server.calls_of(|| {
                for _ in 0..CONNECTIONS {
                    let mut stream = server.connect();
                    client(&mut stream);
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
                }
            });
            // Without optimisation, std looks whether a descriptor is open before it closes it.
            calls.remove("fcntl");
            let n = total(&calls) as f64 / CONNECTIONS as f64;
            println!("{n} system calls per connection {what}: {calls:?}");
            // A client that was interrupted may have made the server wait twice.
            let slack = 0.5;
            (n - slack).ceil() as u64
        };
        echo_once(&mut server.connect());
        assert_eq!(per_connection("without a message", &|_| {}), 8);
        assert_eq!(per_connection("with a message", &echo_once), 11);
    }
}

/// One that finds what is there, and none that finds nothing more.
#[test]
fn a_batch_of_datagrams_is_one_system_call() {
    const NAME: &str = "a_batch_of_datagrams_is_one_system_call";
    const SCENARIO: &str = "WAKEWHEEL_TEST_SCENARIO";
    const BATCHES: u64 = 20;
    if std::env::var(SCENARIO).is_ok_and(|name| name == NAME) {
        return run(async {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            let receiver = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
            let addr = receiver.get_ref().local_addr().unwrap();
            let mut batch = RecvBatch::new(64, 100);
            for _ in 0..BATCHES {
                for _ in 0..32 {
                    sender.send_to(&[7; 64], addr).unwrap();
                }
                let mut left = 32;
                while left > 0 {
                    left -= receiver.recv_batch(&mut batch).await.unwrap();
                }
            }
        });
    }
    if let Some(why) = strace::missing() {
        return skip(NAME, &why);
    }
    let itself = std::env::current_exe().expect("the path of this test");
    let mut traced = Traced::start::<&str>(&[], &itself, |command| {
        command.args(["--exact", NAME, "--nocapture", "--test-threads=1"]).env(SCENARIO, NAME);
    });
    assert!(traced.wait().success(), "{}", traced.said());
    let calls = traced.calls();
    assert_eq!(calls["sendto"], BATCHES * 32);
    // The kernel may leave the delivery to another thread, now and then.
    assert!((BATCHES..=BATCHES + 5).contains(&calls["recvmmsg"]), "{calls:?}");
}

#[test]
fn an_idle_server_makes_no_system_call() {
    for server in Server::each("an_idle_server_makes_no_system_call") {
        let nothing = Calls::new();
        assert_eq!(server.calls_of(|| thread::sleep(Duration::from_secs(1))), nothing, "without connections");
        let mut streams: Vec<_> = (0..10).map(|_| server.connect()).collect();
        streams.iter_mut().for_each(echo_once);
        assert_eq!(
            server.calls_of(|| thread::sleep(Duration::from_secs(1))),
            nothing,
            "with idle connections"
        );
    }
}
