//! What the kernel tells of this process.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::mem;
use std::sync::Once;
use wakewheel::reactor::Reactor;

/// The names of the threads, in order.
pub fn thread_names() -> Vec<String> {
    start_libkqueue();
    let tasks = fs::read_dir("/proc/self/task").expect("the threads of this process");
    let mut names: Vec<_> = tasks
        // One that has ended meanwhile has no name.
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    names.sort();
    names
}

/// How many threads there are.
pub fn threads() -> usize {
    thread_names().len()
}

/// How many descriptors are open. (libkqueue closes those of a kqueue a little later than we do.)
pub fn descriptors() -> usize {
    start_libkqueue();
    fs::read_dir("/proc/self/fd").expect("the descriptors of this process").count()
}

/// As long as there is a kqueue, libkqueue has threads and descriptors of its own. With one that stays, they are there
/// the first time that somebody counts, and from then on.
fn start_libkqueue() {
    static START: Once = Once::new();
    if cfg!(wakewheel_libkqueue) {
        START.call_once(|| mem::forget(Reactor::new()));
    }
}
