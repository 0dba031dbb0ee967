use futures_lite::AsyncWriteExt;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use wakewheel::{Async, Cores, spawn_local};

async fn echo(mut stream: Async<TcpStream>) -> std::io::Result<()> {
    loop {
        let chunk = stream.read_chunk().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        stream.write_all(&chunk).await?;
    }
}

fn main() -> std::io::Result<()> {
    let addr: std::net::SocketAddr =
        std::env::args().nth(1).unwrap_or("127.0.0.1:5000".into()).parse().unwrap();
    let busy: u64 = std::env::args().nth(2).unwrap_or("0".into()).parse().unwrap();
    Cores::builder()
        .threads(1)
        .busy_poll(Duration::from_micros(busy))
        .run(|_| async {
            let listener = Async::<TcpListener>::bind(addr)?;
            loop {
                let (stream, _) = listener.accept().await?;
                spawn_local(echo(stream)).detach();
            }
        })?
        .into_iter()
        .collect::<std::io::Result<Vec<()>>>()?;
    Ok(())
}
