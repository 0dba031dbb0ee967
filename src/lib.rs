//! draft
#![warn(missing_docs)]

pub mod executor;
pub mod io;
pub mod reactor;
mod sync;
mod sys;
pub mod time;

pub use executor::{Cores, JoinError, JoinHandle, LocalExecutor, Task, block_on, spawn, spawn_local};
pub use io::{Async, IoSafe, Readable, ReadableOwned, Writable, WritableOwned};
pub use time::{
    Interval, MissedTicks, Timer, interval, interval_at, sleep, sleep_until, timeout, timeout_at,
};
