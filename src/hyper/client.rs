//! Clients of one connection each.

use super::{SpawnLocal, WheelTimer, io_error};
use crate::executor::spawn_local;
use crate::io::{Addr, SocketOptions, Stream};
use ::hyper::body::Body;
use ::hyper::client::conn::{http1, http2};
use std::error::Error;
use std::io;

/// Connects to `addr`, and is ready to send requests by HTTP/1.1, one after the other.
///
/// The connection is a task of the current core. It ends when the `SendRequest` is dropped and the last answer has been read,
/// and then closes the socket. For a limit on the time, see [`timeout`](crate::timeout).
///
/// # Errors
///
/// `ConnectionRefused`, `NotFound`, …, with the address in the text. What happens to the connection afterwards, the
/// request says that is being made.
///
/// # Cancel safety
///
/// Dropped, it closes the socket.
///
/// # Panics
///
/// Outside of a [`LocalExecutor`](crate::LocalExecutor) and of [`Cores`](crate::Cores).
///
/// # Examples
///
/// ```no_run
/// use http_body_util::{BodyExt, Empty};
/// use hyper::{Request, body::Bytes};
/// use wakewheel::{LocalExecutor, hyper::connect_http1};
///
/// async fn get() -> Result<Bytes, Box<dyn std::error::Error>> {
///     let mut client = connect_http1(&"127.0.0.1:8000".parse()?).await?;
///     // HTTP/1.1 wants to know the host; hyper sends what it is told.
///     let request = Request::get("/").header("host", "127.0.0.1:8000").body(Empty::<Bytes>::new())?;
///     let answer = client.send_request(request).await?;
///     Ok(answer.into_body().collect().await?.to_bytes())
/// }
///
/// let body = LocalExecutor::new()?.block_on(get()).unwrap();
/// # std::io::Result::Ok(())
/// ```
pub async fn connect_http1<B>(addr: &Addr) -> io::Result<http1::SendRequest<B>>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let stream = connect(addr).await?;
    let (client, connection) = http1::handshake(stream).await.map_err(io_error)?;
    spawn_local(async move {
        // The requests are told.
        let _ = connection.with_upgrades().await;
    })
    .detach();
    Ok(client)
}

/// Connects to `addr`, and is ready to send requests by HTTP/2, any number at a time: a clone of the `SendRequest` uses the
/// same connection. The server has to know that it is going to be HTTP/2.
///
/// The connection is a task of the current core. It ends when all clones are dropped and the last answer has been read, and
/// then closes the socket. For a limit on the time, see [`timeout`](crate::timeout).
///
/// # Errors
///
/// `ConnectionRefused`, `NotFound`, …, with the address in the text. What happens to the connection afterwards, the
/// requests say that are being made.
///
/// # Cancel safety
///
/// Dropped, it closes the socket.
///
/// # Panics
///
/// Outside of a [`LocalExecutor`](crate::LocalExecutor) and of [`Cores`](crate::Cores).
///
/// # Examples
///
/// ```no_run
/// use http_body_util::{BodyExt, Empty};
/// use hyper::{Request, body::Bytes};
/// use wakewheel::{LocalExecutor, hyper::connect_http2};
///
/// async fn get() -> Result<Bytes, Box<dyn std::error::Error>> {
///     let mut client = connect_http2(&"127.0.0.1:8000".parse()?).await?;
///     let request = Request::get("http://127.0.0.1:8000/").body(Empty::<Bytes>::new())?;
///     let answer = client.send_request(request).await?;
///     Ok(answer.into_body().collect().await?.to_bytes())
/// }
///
/// let body = LocalExecutor::new()?.block_on(get()).unwrap();
/// # std::io::Result::Ok(())
/// ```
pub async fn connect_http2<B>(addr: &Addr) -> io::Result<http2::SendRequest<B>>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let stream = connect(addr).await?;
    let mut http2 = http2::Builder::new(SpawnLocal);
    let (client, connection) = http2.timer(WheelTimer).handshake(stream).await.map_err(io_error)?;
    spawn_local(async move {
        // The requests are told.
        let _ = connection.await;
    })
    .detach();
    Ok(client)
}

/// What hyper writes is complete: there is nothing to wait for before it goes out.
async fn connect(addr: &Addr) -> io::Result<Stream> {
    match addr {
        Addr::Tcp(addr) => SocketOptions::new().nodelay().connect(*addr).await.map(Stream::from),
        Addr::Unix(_) => Stream::connect(addr).await,
    }
}
