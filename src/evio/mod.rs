//! Callbacks for connections, after Go's evio.
mod addr;
mod balance;
mod conn;
mod connection;
mod detached;
mod events;
mod handle;
mod handler;
mod input;
mod serve;
mod server;
mod transport;
mod udp;

pub use addr::Addr;
pub use balance::{LoadBalance, Loops};
pub use conn::{Conn, Origin};
pub use detached::{BlockingStream, DetachedStream};
pub use events::Events;
pub use handle::ConnHandle;
pub use handler::{Action, Handler, IntoBytes, Opened, Options, Reply};
pub use input::{Input, InputStream};
pub use serve::{Builder, TickMode, serve};
pub use server::Server;
pub use transport::Duplex;
