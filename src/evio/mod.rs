//! Callbacks for connections, after Go's evio.
#![allow(dead_code, reason = "the server that uses these is written beside them")]

mod input;

pub use input::{Input, InputStream};
