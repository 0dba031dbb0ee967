//! What timers are good for, and how late a hundred thousand of them are.
//!
//!     cargo run --release --example timers -- 100000

mod common;

use common::Signal;
use futures_lite::FutureExt;
use lexopt::prelude::*;
use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use wakewheel::{LocalExecutor, MissedTicks, Timer, interval, sleep, sleep_until, spawn_local, timeout};

const MS: Duration = Duration::from_millis(1);

/// Each needs a task: a few hundred bytes.
const COUNT_MAX: u32 = 1_000_000;

fn main() -> ExitCode {
    common::main("timers [COUNT]", parse, |count| LocalExecutor::new()?.block_on(run(count)))
}

async fn run(count: u32) -> io::Result<()> {
    let signal = Signal::new()?;
    let show = async {
        limit().await;
        silence().await;
        many(count).await?;
        clock().await
    };
    show.or(signal.wait()).await
}

/// A future gets so much time, and no more.
async fn limit() {
    if let Err(e) = timeout(50 * MS, pending::<()>()).await {
        println!("limit: {e}");
    }
}

/// A connection may be silent for so long. Each sign of life puts the deadline off, which costs a store.
async fn silence() {
    let started = Instant::now();
    let mut silence = Timer::after(50 * MS);
    for _ in 0..10 {
        sleep(10 * MS).await;
        silence.set_after(50 * MS);
    }
    silence.await;
    println!("silence: noticed after {} ms", started.elapsed().as_millis());
}

/// So many tasks sleep, each to a moment of its own within the same second.
async fn many(count: u32) -> io::Result<()> {
    let first = Instant::now() + Duration::from_secs(1);
    let tasks = Vec::from_iter((0..count).map(|i| {
        let deadline = first + Duration::from_secs(1) * i / count;
        spawn_local(async move {
            sleep_until(deadline).await;
            deadline.elapsed()
        })
    }));
    let (mut total, mut worst) = (Duration::ZERO, Duration::ZERO);
    for task in tasks {
        let late = task.await?;
        (total, worst) = (total + late, worst.max(late));
    }
    let mean = total.checked_div(count).unwrap_or_default();
    println!(
        "many: {count} timers, late by {} us on average, {} us at worst",
        mean.as_micros(),
        worst.as_micros()
    );
    Ok(())
}

/// Ticks until ctrl-C. When the computer has slept, what was missed is not made up for.
async fn clock() -> io::Result<()> {
    let mut ticks = interval(1000 * MS).missed_ticks(MissedTicks::Skip);
    loop {
        ticks.tick().await;
        println!("clock: tick");
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<u32, lexopt::Error> {
    let mut count = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(value) if count.is_none() => count = Some(value.parse_with(at_most_max)?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(count.unwrap_or(100_000))
}

fn at_most_max(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|&count| count <= COUNT_MAX).ok_or(format!("write a number up to {COUNT_MAX}"))
}
