//! Sockets and timers under executors that know nothing of us, of several kinds at once, and moving between them.

mod common;

use common::{PATIENCE, Wakes, tcp_pair, within};
use futures::executor::{LocalPool, ThreadPool};
use futures::task::SpawnExt;
use futures_lite::{AsyncReadExt, AsyncWriteExt, StreamExt, future};
use std::future::Future;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use wakewheel::reactor::Reactor;
use wakewheel::{Async, Cores, LocalExecutor, Timer, interval, sleep, timeout};

const MS: Duration = Duration::from_millis(1);

/// What each executor is given.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An executor by its name, and how it runs a future to its end.
type Executor = (&'static str, fn(Work));

/// A loop of three lines: it parks, and every waker unparks it.
fn by_hand(mut work: Work) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    while work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        thread::park();
    }
}

/// One that waits for no waker: it polls again and again, with a new waker each time, as a game does with its frames.
fn by_frames(mut work: Work) {
    loop {
        let (_, waker) = Wakes::new();
        if work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return;
        }
        thread::yield_now();
    }
}

fn tokio_current_thread(work: Work) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
}

/// As a task, that may move from thread to thread.
fn tokio_multi_thread(work: Work) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async { tokio::spawn(work).await.unwrap() });
}

/// As a task of a pool that is run by the calling thread.
fn local_pool(work: Work) {
    let mut pool = LocalPool::new();
    let task = pool.spawner().spawn_with_handle(work).unwrap();
    pool.run_until(task);
}

fn thread_pool(work: Work) {
    let pool = ThreadPool::builder().pool_size(2).create().unwrap();
    futures::executor::block_on(pool.spawn_with_handle(work).unwrap());
}

fn executors() -> Vec<Executor> {
    vec![
        ("tokio, one thread", tokio_current_thread),
        ("tokio, many threads", tokio_multi_thread),
        ("smol::block_on", |work| smol::block_on(work)),
        ("smol::spawn", |work| smol::block_on(smol::spawn(work))),
        ("async-std", |work| async_std::task::block_on(async_std::task::spawn(work))),
        ("futures::executor::block_on", |work| futures::executor::block_on(work)),
        ("LocalPool", local_pool),
        ("ThreadPool", thread_pool),
        ("pollster", |work| pollster::block_on(work)),
        ("futures_lite", |work| future::block_on(work)),
        ("by hand", by_hand),
        ("by frames", by_frames),
        ("our block_on", |work| wakewheel::block_on(work)),
        ("our executor", |work| LocalExecutor::new().unwrap().block_on(work)),
    ]
}

/// Runs `test` under each executor, all at once, each on a thread of its own.
fn under_each(test: impl Fn() -> Work) {
    let threads: Vec<_> = executors()
        .into_iter()
        .map(|(name, run)| {
            let work = test();
            (name, thread::Builder::new().name(name.into()).spawn(move || run(work)).unwrap())
        })
        .collect();
    for (name, thread) in threads {
        assert!(thread.join().is_ok(), "under {name}");
    }
}

// --------------------------------------------------------------------------------- everything, everywhere

async fn tcp() -> io::Result<()> {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    let addr = listener.get_ref().local_addr()?;
    let client = async {
        let mut stream = Async::<TcpStream>::connect(addr).await?;
        for round in 0..20 {
            stream.write_all(&[round; 1000]).await?;
            let mut buf = [0; 1000];
            stream.read_exact(&mut buf).await?;
            assert_eq!(buf, [round; 1000]);
        }
        stream.close().await?;
        stream.shutdown(std::net::Shutdown::Write)
    };
    let server = async {
        let (stream, _) = listener.incoming().next().await.expect("it never ends").map(|s| (s, ()))?;
        futures_lite::io::copy(&stream, &stream).await.map(|bytes| assert_eq!(bytes, 20_000))
    };
    future::try_zip(client, server).await.map(drop)
}

async fn more_than_fits() -> io::Result<()> {
    const BYTES: usize = 4 << 20;
    let (a, b) = tcp_pair();
    let (mut a, mut b) = (Async::new(a)?, Async::new(b)?);
    let write = async move {
        a.write_all(&vec![7; BYTES]).await?;
        drop(a);
        io::Result::Ok(())
    };
    let read = async move {
        let mut all = Vec::new();
        b.read_to_end(&mut all).await?;
        assert_eq!(all.len(), BYTES);
        Ok(())
    };
    future::try_zip(write, read).await.map(drop)
}

async fn datagrams() -> io::Result<()> {
    let (a, b) =
        (Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?, Async::<UdpSocket>::bind(([127, 0, 0, 1], 0))?);
    let to = b.get_ref().local_addr()?;
    let mut buf = [0; 10];
    for i in 0..20 {
        let receive = b.recv_from(&mut buf);
        let send = async {
            future::yield_now().await;
            a.send_to(&[i; 3], to).await
        };
        let ((bytes, from), _) = future::try_zip(receive, send).await?;
        assert_eq!((&buf[..bytes], from), (&[i; 3][..], a.get_ref().local_addr()?));
    }
    Ok(())
}

async fn readiness() -> io::Result<()> {
    let (a, mut b) = Async::<UnixStream>::pair()?;
    let (a, late) = (Arc::new(a), sleep(2 * MS));
    // Both are told.
    let both = future::try_zip(a.clone().readable_owned(), a.readable());
    let write = async {
        late.await;
        b.write_all(b"x").await
    };
    future::try_zip(both, write).await?;
    a.writable().await
}

async fn time() -> io::Result<()> {
    let started = Instant::now();
    sleep(5 * MS).await;
    assert!(started.elapsed() >= 5 * MS);
    assert!(timeout(MS, future::pending::<()>()).await.is_err());
    let mut ticks = interval(MS);
    for _ in 0..5 {
        ticks.tick().await;
    }
    let mut timer = Timer::after(PATIENCE);
    assert!(future::poll_once(&mut timer).await.is_none());
    timer.set_after(MS);
    timer.await;
    Ok(())
}

async fn names_and_children() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stream =
        Async::<TcpStream>::connect_host(&format!("localhost:{}", listener.local_addr()?.port())).await?;
    assert_eq!(stream.get_ref().peer_addr()?, listener.local_addr()?);
    let mut command = std::process::Command::new("sh");
    let child = wakewheel::process::Child::spawn(command.args(["-c", "exit 3"]))?;
    assert_eq!(child.wait().await?.code(), Some(3));
    Ok(())
}

#[test]
fn everything_works_under_every_executor_at_once() {
    under_each(|| {
        Box::pin(async {
            within(tcp()).await.unwrap();
            within(more_than_fits()).await.unwrap();
            within(datagrams()).await.unwrap();
            within(readiness()).await.unwrap();
            within(time()).await.unwrap();
            within(names_and_children()).await.unwrap();
        })
    });
}

// -------------------------------------------------------------------------------------------- on the move

#[test]
fn a_socket_goes_around_all_executors() {
    // Each has it for one message, which comes when it waits already, and passes it on.
    const ROUNDS: usize = 10;
    let (a, mut b) = tcp_pair();
    let executors = executors();
    let (senders, receivers): (Vec<_>, Vec<_>) =
        executors.iter().map(|_| async_channel::bounded::<Async<TcpStream>>(1)).unzip();
    let (waits, waiting) = mpsc::channel();
    let threads: Vec<_> = (0..executors.len())
        .map(|i| {
            let (this, next) = (receivers[i].clone(), senders[(i + 1) % senders.len()].clone());
            let (waits, (name, run)) = (waits.clone(), executors[i]);
            let work = async move {
                for _ in 0..ROUNDS {
                    let mut stream = within(this.recv()).await.unwrap();
                    let mut buf = [0; 4];
                    let mut read = stream.read_exact(&mut buf);
                    if let Some(early) = future::poll_once(&mut read).await {
                        panic!("there is nothing to read yet: {early:?}");
                    }
                    waits.send(name).unwrap();
                    within(read).await.unwrap();
                    assert_eq!(&buf, b"ping");
                    within(stream.write_all(b"pong")).await.unwrap();
                    let _ = next.send(stream).await;
                }
            };
            thread::spawn(move || run(Box::pin(work)))
        })
        .collect();
    b.set_read_timeout(Some(PATIENCE)).unwrap();
    senders[0].send_blocking(Async::new(a).unwrap()).unwrap();
    for i in 0..ROUNDS * executors.len() {
        let name = waiting.recv_timeout(PATIENCE).unwrap();
        assert_eq!(name, executors[i % executors.len()].0);
        io::Write::write_all(&mut b, b"ping").unwrap();
        let mut buf = [0; 4];
        io::Read::read_exact(&mut b, &mut buf).unwrap_or_else(|e| panic!("from {name}: {e}"));
        assert_eq!(&buf, b"pong");
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_future_that_waits_goes_around_all_executors() {
    // Polled once by each, it is the last one's waker that counts.
    let (a, mut b) = tcp_pair();
    let mut a = Async::new(a).unwrap();
    // Longer than they take to poll it. (If not, this shows less, and does not fail.)
    let timer = sleep(200 * MS);
    let mut work: Work = Box::pin(async move {
        timer.await;
        let mut buf = [0; 1];
        within(a.read_exact(&mut buf)).await.unwrap();
    });
    for round in 0..2 {
        for (_, run) in executors() {
            let (sender, receiver) = mpsc::channel();
            run(Box::pin(async move {
                assert!(future::poll_once(&mut work).await.is_none());
                sender.send(work).unwrap();
            }));
            work = receiver.recv().unwrap();
        }
        if round == 0 {
            // From now on it waits for the socket.
            let (sender, receiver) = mpsc::channel();
            by_hand(Box::pin(async move {
                sleep(201 * MS).await;
                sender.send(()).unwrap();
            }));
            receiver.recv().unwrap();
        }
    }
    io::Write::write_all(&mut b, b"x").unwrap();
    pollster::block_on(work);
}

// ------------------------------------------------------------------------------- whose reactor has stopped

/// A listener with a connection, a UDP socket, and a timer that have waited already, so that they belong to the
/// reactor of whoever calls this.
struct Things {
    listener: Async<TcpListener>,
    stream: Async<TcpStream>,
    peer: TcpStream,
    udp: Async<UdpSocket>,
    timer: Timer,
}

impl Things {
    /// With a timer that fires after `time`.
    fn new(time: Duration) -> Things {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = Async::new(listener.accept().unwrap().0).unwrap();
        let mut things = Things {
            listener: Async::new(listener).unwrap(),
            stream,
            peer,
            udp: Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap(),
            timer: sleep(time),
        };
        let (_, waker) = Wakes::new();
        let cx = &mut Context::from_waker(&waker);
        assert!(Pin::new(&mut things.timer).poll(cx).is_pending());
        assert!(things.stream.poll_readable(cx).is_pending());
        assert!(things.udp.poll_readable(cx).is_pending());
        assert!(things.listener.poll_readable(cx).is_pending());
        things
    }

    /// The same, of which the first is a wait.
    async fn go_on_later(mut self) -> io::Result<()> {
        let poke = self.peer.try_clone()?;
        let Things { timer, stream, .. } = &mut self;
        let later = async {
            timer.await;
            io::Write::write_all(&mut &poke, b"x")
        };
        future::try_zip(async { stream.read_exact(&mut [0]).await }, later).await?;
        self.timer = sleep(MS);
        self.go_on().await
    }

    /// They go on.
    async fn go_on(mut self) -> io::Result<()> {
        let addr = self.listener.get_ref().local_addr()?;
        let connect = thread::spawn(move || TcpStream::connect(addr));
        self.listener.accept().await?;
        connect.join().unwrap()?;
        io::Write::write_all(&mut self.peer, b"x")?;
        self.stream.read_exact(&mut [0]).await?;
        let to = self.udp.get_ref().local_addr()?;
        UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", to)?;
        self.udp.recv_from(&mut [0; 2]).await?;
        self.timer.await;
        Ok(())
    }
}

#[test]
fn what_was_made_on_a_core_that_has_stopped_goes_on_under_every_executor() {
    let cores = Cores::builder().threads(1).build().unwrap();
    let (sender, things) = mpsc::channel();
    for _ in executors() {
        let sender = sender.clone();
        let task = cores.handles()[0].spawn(move || async move { drop(sender.send(Things::new(20 * MS))) });
        wakewheel::block_on(task).unwrap();
    }
    assert_eq!(cores.shutdown(PATIENCE), 0);
    under_each(|| {
        let things: Things = things.recv_timeout(PATIENCE).unwrap();
        Box::pin(async { within(things.go_on()).await.unwrap() })
    });
}

#[test]
fn what_waits_under_every_executor_goes_on_when_its_core_stops() {
    // Longer than it takes until all wait.
    const TIME: Duration = Duration::from_millis(200);
    let cores = Cores::builder().threads(1).build().unwrap();
    let reactor = Reactor::new().unwrap();
    let (sender, things) = mpsc::channel();
    for i in 0..executors().len() {
        if i % 2 == 0 {
            sender.send(reactor.enter(|| Things::new(TIME))).unwrap();
            continue;
        }
        let sender = sender.clone();
        let task = cores.handles()[0].spawn(move || async move { drop(sender.send(Things::new(TIME))) });
        wakewheel::block_on(task).unwrap();
    }
    let (waits, waiting) = mpsc::channel();
    let count = executors().len();
    // All wait when it happens.
    let stopper = thread::spawn(move || {
        for _ in 0..count {
            waiting.recv_timeout(PATIENCE).unwrap();
        }
        drop(reactor);
        assert_eq!(cores.shutdown(PATIENCE), 0);
    });
    under_each(|| {
        let things: Things = things.recv_timeout(PATIENCE).unwrap();
        let waits = waits.clone();
        Box::pin(async move {
            let mut go_on = Box::pin(things.go_on_later());
            assert!(future::poll_once(&mut go_on).await.is_none());
            waits.send(()).unwrap();
            within(go_on).await.unwrap();
        })
    });
    stopper.join().unwrap();
}
