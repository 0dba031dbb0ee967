//! Echoes over TLS, by futures-rustls, with a certificate that is made at the start.
//!
//!     cargo run --release --example tls_echo -- 127.0.0.1:5000 --certificate /tmp/echo.pem
//!     openssl s_client -connect 127.0.0.1:5000 -CAfile /tmp/echo.pem -verify_return_error -quiet

mod common;

use common::Signal;
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use futures_rustls::TlsAcceptor;
use futures_rustls::pki_types::PrivateKeyDer;
use futures_rustls::rustls::ServerConfig;
use futures_rustls::rustls::crypto::ring;
use lexopt::prelude::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io};
use wakewheel::executor::{CoresBuilder, drain, shutdown_requested};
use wakewheel::io::SocketOptions;
use wakewheel::{Async, Cores, spawn_local, timeout};

/// Who the certificate is for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A client may take so long for the handshake, for the next bytes, and to read what it is sent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    common::main("tls_echo [ADDRESS] [--certificate FILE] [--cores N]", parse, run)
}

struct Args {
    addr: SocketAddr,
    certificate: Option<PathBuf>,
    builder: CoresBuilder,
}

fn run(args: Args) -> io::Result<()> {
    let tls = make_acceptor(args.certificate.as_deref())?;
    let (addr, signal) = (Mutex::new(args.addr), Signal::new()?);
    // A core that cannot listen ends the others as well.
    args.builder.try_run(|core| serve(core, &tls, &addr, &signal))?;
    Ok(())
}

/// A certificate that nobody but ourselves has signed. Its public part goes to `file`, for clients.
fn make_acceptor(file: Option<&Path>) -> io::Result<TlsAcceptor> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(NAMES.map(String::from)).map_err(io::Error::other)?;
    if let Some(file) = file {
        let cannot = |e: io::Error| {
            io::Error::new(e.kind(), format!("cannot write the certificate to {}: {e}", file.display()))
        };
        fs::write(file, cert.pem()).map_err(cannot)?;
    }
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key))
        .map_err(io::Error::other)?;
    Ok(Arc::new(config).into())
}

/// One core, from its beginning to its end.
async fn serve(core: usize, tls: &TlsAcceptor, addr: &Mutex<SocketAddr>, signal: &Signal) -> io::Result<()> {
    let listener = listen(addr)?;
    if core == 0 {
        println!("listening on {}", listener.get_ref().local_addr()?);
    }
    let accepting = spawn_local(accept(listener, tls.clone()));
    let another_fails = async {
        shutdown_requested().await;
        Ok(())
    };
    signal.wait().or(another_fails).await?;
    // This closes the listener. The connections may end in peace.
    accepting.cancel();
    match drain(common::DRAIN).await {
        0 => {}
        left => eprintln!("connections cut off on core {core}: {left}"),
    }
    Ok(())
}

/// The first core to come here may choose a port, if `addr` has none. The others take the same.
fn listen(addr: &Mutex<SocketAddr>) -> io::Result<Async<TcpListener>> {
    let mut addr = addr.lock().expect("no core panics here");
    let listener = SocketOptions::new().reuse_port().nodelay().listen(*addr)?;
    *addr = listener.get_ref().local_addr()?;
    Ok(listener)
}

async fn accept(listener: Async<TcpListener>, tls: TlsAcceptor) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let tls = tls.clone();
                spawn_local(async move {
                    if let Err(e) = echo(stream, tls).await {
                        eprintln!("{peer}: {e}");
                    }
                })
                .detach();
            }
            // Too many open files, most likely. `accept` has waited before it said so: this does not spin.
            Err(e) => eprintln!("cannot accept: {e}"),
        }
    }
}

async fn echo(stream: Async<TcpStream>, tls: TlsAcceptor) -> io::Result<()> {
    let mut stream = timeout(SILENCE_MAX, tls.accept(stream)).await??;
    // A record of TLS.
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let n = timeout(SILENCE_MAX, stream.read(&mut buffer)).await??;
        if n == 0 {
            // The peer has said that there is no more, and is told the same.
            return timeout(SILENCE_MAX, stream.close()).await?;
        }
        timeout(SILENCE_MAX, stream.write_all(&buffer[..n])).await??;
        timeout(SILENCE_MAX, stream.flush()).await??;
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let (mut addr, mut certificate, mut builder) = (None, None, Cores::builder());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("certificate") => certificate = Some(parser.value()?.into()),
            Long("cores") => builder = builder.threads(parser.value()?.parse_with(common::cores)?),
            Value(value) if addr.is_none() => addr = Some(value.parse_with(common::addr)?),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(Args { addr: addr.unwrap_or(common::ADDR), certificate, builder })
}
