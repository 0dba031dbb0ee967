//! What the parts of a runtime cost, side by side with tokio and smol, in one interleaved run.
//!
//!     cargo bench --bench micro                 all operations
//!     cargo bench --bench micro -- timer spawn  those whose name has one of these words in it
//!
//! Each operation is measured five times, the runtimes taking turns; the table has the medians in nanoseconds and, for
//! the others, the median of the ratio to ours within a round (above 1: ours is cheaper). Compare columns, not machines;
//! an otherwise idle machine and a pinned process (`taskset -c 1 cargo bench …`) give steadier figures.

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

/// Nanoseconds per operation.
async fn per_op<F: Future>(n: u64, f: F) -> f64 {
    let started = Instant::now();
    f.await;
    started.elapsed().as_nanos() as f64 / n as f64
}

async fn yields(n: u64) {
    for _ in 0..n {
        futures_lite::future::yield_now().await;
    }
}

/// Polls once; the future has to be pending.
async fn start<F: Future>(mut future: Pin<&mut F>) {
    let is_pending = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
    assert!(is_pending, "a timer for later is ready");
}

/// A generator that always gives the same numbers (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the call to fill in.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

static LATE_NS: AtomicU64 = AtomicU64::new(0);

type Channel = (async_channel::Sender<u64>, async_channel::Receiver<u64>);

async fn pong((to, from): Channel) {
    while let Ok(n) = from.recv().await {
        if to.send(n).await.is_err() {
            return;
        }
    }
}

async fn ping((to, from): &Channel, n: u64) {
    for i in 0..n {
        to.send(i).await.expect("the other side is there");
        black_box(from.recv().await.expect("the other side is there"));
    }
}

fn channels() -> (Channel, Channel) {
    let (here, there) = (async_channel::bounded(1), async_channel::bounded(1));
    ((here.0, there.1), (there.0, here.1))
}

/// The operations, written once, for a runtime that has these four things.
macro_rules! runtime {
    ($name:ident, $run:expr, $spawn:path, $sleep:path, $timeout:path) => {
        mod $name {
            use super::*;

            fn run<F: Future<Output = f64> + 'static>(future: F) -> f64 {
                $run(future)
            }

            pub fn measure(operation: &str) -> f64 {
                match operation {
                    "spawn and join" => run(async move {
                        let n = 200_000;
                        let all = async {
                            for i in 0..n {
                                let _ = black_box($spawn(async move { black_box(i) }).await);
                            }
                        };
                        per_op(n, all).await
                    }),
                    "spawn 1,000, join all" => run(async move {
                        let n = 200_000;
                        let mut tasks = Vec::with_capacity(1_000);
                        let all = async {
                            for _ in 0..n / 1_000 {
                                tasks.extend((0..1_000u64).map(|i| $spawn(async move { black_box(i) })));
                                for task in tasks.drain(..) {
                                    let _ = black_box(task.await);
                                }
                            }
                        };
                        per_op(n, all).await
                    }),
                    "yield, two tasks" => run(async move {
                        let n = 500_000;
                        let both = async {
                            let (a, b) = ($spawn(yields(n)), $spawn(yields(n)));
                            let _ = (black_box(a.await), black_box(b.await));
                        };
                        per_op(2 * n, both).await
                    }),
                    "channel ping-pong" => run(async move {
                        let n = 200_000;
                        let (here, there) = channels();
                        let other = $spawn(pong(there));
                        let time = per_op(n, ping(&here, n)).await;
                        drop(here);
                        let _ = black_box(other.await);
                        time
                    }),
                    "channel ping-pong, two threads" => run(async move {
                        let n = 5_000;
                        let (here, there) = channels();
                        let other = std::thread::spawn(move || {
                            run(async move {
                                pong(there).await;
                                0.0
                            })
                        });
                        let time = per_op(n, ping(&here, n)).await;
                        drop(here);
                        other.join().expect("the other side ends");
                        time
                    }),
                    "timer, create and cancel" => run(async move {
                        let n = 300_000;
                        let mut numbers = Numbers(88172645463325252);
                        let all = async {
                            for _ in 0..n {
                                start(pin!($sleep(Duration::from_millis(
                                    10_000 + numbers.next() % 3_600_000
                                ))))
                                .await;
                            }
                        };
                        per_op(n, all).await
                    }),
                    "the same with 1M pending" => run(async move {
                        let n = 300_000;
                        let mut numbers = Numbers(88172645463325252);
                        let mut pending = Vec::with_capacity(1_000_000);
                        for _ in 0..1_000_000 {
                            let mut timer =
                                Box::pin($sleep(Duration::from_millis(10_000 + numbers.next() % 3_600_000)));
                            start(timer.as_mut()).await;
                            pending.push(timer);
                        }
                        let all = async {
                            for _ in 0..n {
                                start(pin!($sleep(Duration::from_millis(
                                    10_000 + numbers.next() % 3_600_000
                                ))))
                                .await;
                            }
                        };
                        per_op(n, all).await
                    }),
                    "100k timers within 1 s: CPU" => run(async move {
                        let n = 100_000;
                        let mut numbers = Numbers(88172645463325252);
                        LATE_NS.store(0, Ordering::Relaxed);
                        let cpu = cpu_time();
                        let first = Instant::now() + Duration::from_millis(100);
                        let tasks: Vec<_> = (0..n)
                            .map(|_| {
                                let when = first + Duration::from_nanos(numbers.next() % 1_000_000_000);
                                $spawn(async move {
                                    $sleep(when.saturating_duration_since(Instant::now())).await;
                                    let late = Instant::now().duration_since(when).as_nanos() as u64;
                                    LATE_NS.fetch_add(late, Ordering::Relaxed);
                                })
                            })
                            .collect();
                        for task in tasks {
                            let _ = black_box(task.await);
                        }
                        (cpu_time() - cpu).as_nanos() as f64 / n as f64
                    }),
                    "timeout around a ready future" => run(async move {
                        let n = 1_000_000;
                        let all = async {
                            for i in 0..n {
                                let _ = black_box($timeout(Duration::from_secs(1), async move { i }).await);
                            }
                        };
                        per_op(n, all).await
                    }),
                    "timeout around one yield" => run(async move {
                        let n = 300_000;
                        let all = async {
                            for _ in 0..n {
                                let _ = black_box($timeout(Duration::from_secs(1), yields(1)).await);
                            }
                        };
                        per_op(n, all).await
                    }),
                    // Of the run before.
                    "the same: mean lateness" => LATE_NS.load(Ordering::Relaxed) as f64 / 100_000.0,
                    _ => unreachable!("{operation}"),
                }
            }
        }
    };
}

const OPERATIONS: [&str; 11] = [
    "spawn and join",
    "spawn 1,000, join all",
    "yield, two tasks",
    "channel ping-pong",
    "channel ping-pong, two threads",
    "timer, create and cancel",
    "the same with 1M pending",
    "100k timers within 1 s: CPU",
    "the same: mean lateness",
    "timeout around a ready future",
    "timeout around one yield",
];

runtime!(
    ours,
    |future| {
        let executor = wakewheel::LocalExecutor::new().expect("an executor");
        executor.block_on(async { wakewheel::spawn_local(future).await.expect("no panic") })
    },
    wakewheel::spawn_local,
    wakewheel::sleep,
    wakewheel::timeout
);

runtime!(
    tokio_local,
    |future| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new()
            .block_on(&runtime, async { tokio::task::spawn_local(future).await.expect("no panic") })
    },
    tokio::task::spawn_local,
    tokio::time::sleep,
    tokio::time::timeout
);

mod smol_local {
    use super::*;
    use futures_lite::FutureExt;

    thread_local! {
        static EXECUTOR: &'static async_executor::LocalExecutor<'static> = Box::leak(Box::default());
    }

    fn spawn<F: Future + 'static>(future: F) -> async_executor::Task<F::Output> {
        EXECUTOR.with(|executor| executor.spawn(future))
    }

    async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
        let late = async {
            async_io::Timer::after(limit).await;
            None
        };
        async { Some(future.await) }.or(late).await
    }

    runtime!(
        operations,
        |future| EXECUTOR.with(|executor| async_io::block_on(executor.run(executor.spawn(future)))),
        super::spawn,
        async_io::Timer::after,
        super::timeout
    );
    pub use operations::measure;
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtimes: [fn(&str) -> f64; 3] = [ours::measure, tokio_local::measure, smol_local::measure];
    println!(
        "| operation, ns | wakewheel | tokio | smol | tokio / ours | smol / ours |\n|---|---:|---:|---:|---:|---:|"
    );
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let mut lateness: Vec<[f64; 3]> = Vec::new();
    for operation in OPERATIONS.into_iter().filter(|name| wanted(name)) {
        let rounds: Vec<[f64; 3]> = if operation == "the same: mean lateness" {
            std::mem::take(&mut lateness)
        } else {
            (0..ROUNDS)
                .map(|_| {
                    let mut late = [0.0; 3];
                    let round = std::array::from_fn(|i| {
                        let time = runtimes[i](operation);
                        late[i] = runtimes[i]("the same: mean lateness");
                        time
                    });
                    lateness.push(late);
                    round
                })
                .collect()
        };
        if !operation.starts_with("100k") {
            lateness.clear();
        }
        if rounds.is_empty() {
            continue;
        }
        let column = |i: usize| median(rounds.iter().map(|round| round[i]).collect());
        let ratio = |i: usize| median(rounds.iter().map(|round| round[i] / round[0]).collect());
        println!(
            "| {operation} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} |",
            column(0),
            column(1),
            column(2),
            ratio(1),
            ratio(2)
        );
    }
}
