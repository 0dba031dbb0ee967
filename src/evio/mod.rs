//! Callbacks for connections, after Go's evio.
#![allow(dead_code, reason = "the server that uses these is written beside them")]

mod addr;
mod detached;
mod input;
mod transport;

pub use addr::Addr;
pub use detached::{BlockingStream, DetachedStream};
pub use input::{Input, InputStream};
pub use transport::Duplex;
