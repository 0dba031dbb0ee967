//! `wakewheel::event` in the manner of libevent's own benchmark (`test/bench.c`): pairs of sockets, each with a persistent
//! reader; a number of bytes travel along the chain, each callback reading one and writing one to the next pair.
//!
//! ```text
//! cargo bench --bench event    # 20,000 descriptors, ulimit -n
//! ```

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use wakewheel::event::{Base, Event, Kinds, Run};

/// How many bytes travel at a time.
const ACTIVE: usize = 100;
/// How many are written in all.
const WRITES: usize = 100_000;
const ROUNDS: usize = 5;

fn main() {
    println!("{:>8} {:>12} {:>12} {:>16}", "pairs", "add ns", "delete ns", "ns per callback");
    for pairs in [100, 1000, 9_900] {
        let mut best = [f64::MAX; 3];
        for _ in 0..ROUNDS {
            match round(pairs) {
                Ok(figures) => {
                    for (best, figure) in best.iter_mut().zip(figures) {
                        *best = best.min(figure);
                    }
                }
                Err(e) => return println!("{pairs:>8} {e}: more descriptors are needed (ulimit -n)"),
            }
        }
        println!("{pairs:>8} {:>12.0} {:>12.0} {:>16.0}", best[0], best[1], best[2]);
    }
}

/// Nanoseconds: to add one, to delete one, for one callback.
fn round(pairs: usize) -> std::io::Result<[f64; 3]> {
    let base = Base::new()?;
    let sockets = (0..pairs).map(|_| UnixStream::pair()).collect::<Result<Vec<_>, _>>()?;
    let sockets = Rc::new(sockets);
    let left = Rc::new(Cell::new(WRITES));
    let called = Rc::new(Cell::new(0));
    let kinds = Kinds::READ | Kinds::PERSIST | Kinds::TIMEOUT;
    let events: Vec<_> = (0..pairs)
        .map(|i| {
            let (sockets, left, called) = (sockets.clone(), left.clone(), called.clone());
            let fd = sockets[i].0.as_raw_fd();
            Event::new(&base, fd, kinds, move |_, _| {
                called.set(called.get() + 1);
                let mut byte = [0];
                (&sockets[i].0).read_exact(&mut byte).expect("it is readable");
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    (&sockets[(i + 1) % pairs].1).write_all(&byte).expect("there is room");
                }
            })
        })
        .collect();

    let per = |time: Duration, n: usize| time.as_nanos() as f64 / n as f64;
    let started = Instant::now();
    for event in &events {
        event.attach(Some(Duration::from_secs(10))).expect("it is free");
    }
    let add = per(started.elapsed(), pairs);
    base.run(Run::NonBlocking)?;

    let active = ACTIVE.min(pairs);
    for i in 0..active {
        (&sockets[i * (pairs / active)].1).write_all(b"e")?;
    }
    let started = Instant::now();
    while called.get() < WRITES + active {
        base.run(Run::Once)?;
    }
    let call = per(started.elapsed(), WRITES + active);

    let started = Instant::now();
    for event in &events {
        event.detach().expect("it is attached");
    }
    Ok([add, per(started.elapsed(), pairs), call])
}
