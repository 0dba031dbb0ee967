//! Host names: [`resolve`], and [connecting by name](SocketOptions::connect_host).
//!
//! The C library's resolver blocks, for as long as a name server takes to answer. It is asked on a thread that has nothing
//! else to do: there are eight such threads at most, which are started when they are needed and end when they have been idle
//! for five seconds. What they cannot begin yet waits in a queue, in order.

mod connect;
mod pool;
mod resolve;

pub use resolve::{Resolve, resolve, resolve_host};

#[cfg(doc)]
use crate::io::SocketOptions;
