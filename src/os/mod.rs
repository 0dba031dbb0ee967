//! What not every system has.

pub mod unix;

#[cfg(any(
    wakewheel_libkqueue,
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
pub mod kqueue;
