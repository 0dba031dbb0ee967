//! Libraries that know nothing of us, on our streams as they are: futures-rustls, async-tungstenite, tokio-util's `compat`.
//! And the examples with them, `tls_echo` and `websocket_chat`, driven by the clients that people use.
//!
//! `cargo test` and `cargo nextest run` build the examples first. With `--test compat`, cargo does not:
//! `cargo build --examples`.

mod common;
#[path = "common/program.rs"]
mod program;

use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::{WebSocketStream, accept_async, client_async};
use common::dir::Dir;
use common::{run, within};
use futures_lite::{AsyncReadExt, AsyncWriteExt, StreamExt, future};
use futures_rustls::pki_types::{PrivateKeyDer, ServerName};
use futures_rustls::rustls::crypto::ring;
use futures_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use futures_rustls::{TlsAcceptor, TlsConnector};
use program::Program;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use tokio_util::compat::FuturesAsyncReadCompatExt;
use wakewheel::{Async, LocalExecutor, spawn_local};

/// More than any buffer holds.
fn much() -> Vec<u8> {
    (0..3_000_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect()
}

async fn pair() -> io::Result<(Async<TcpStream>, Async<TcpStream>)> {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    let client = Async::<TcpStream>::connect(listener.get_ref().local_addr()?).await?;
    Ok((client, listener.accept().await?.0))
}

// --------------------------------------------------------------------------------------------------- TLS

fn tls() -> (TlsConnector, TlsAcceptor) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let server = server.unwrap().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(client).into(), Arc::new(server.unwrap()).into())
}

#[test]
fn tls_carries_much_both_ways_at_once_and_ends_in_good_order() {
    run(async {
        let (connector, acceptor) = tls();
        let (client, server) = pair().await?;
        let name = ServerName::try_from("localhost").unwrap();
        let both = future::try_zip(connector.connect(name, client), acceptor.accept(server));
        let (client, server) = both.await?;
        let sent = much();
        let transfer = async |stream: Box<dyn Duplex>| {
            let (mut reader, mut writer) = futures_lite::io::split(stream);
            let write = async {
                writer.write_all(&sent).await?;
                // Tells the other side that there is no more.
                writer.close().await
            };
            let mut received = Vec::new();
            future::try_zip(write, reader.read_to_end(&mut received)).await?;
            io::Result::Ok(received)
        };
        let (a, b) = future::try_zip(transfer(Box::new(client)), transfer(Box::new(server))).await?;
        assert!(a == sent && b == sent);
        Ok(())
    });
}

trait Duplex: futures_lite::AsyncRead + futures_lite::AsyncWrite + Unpin {}
impl<T: futures_lite::AsyncRead + futures_lite::AsyncWrite + Unpin> Duplex for T {}

#[test]
fn tls_tells_an_end_that_nobody_has_announced() {
    run(async {
        let (connector, acceptor) = tls();
        let (client, server) = pair().await?;
        let name = ServerName::try_from("localhost").unwrap();
        let (mut client, server) =
            future::try_zip(connector.connect(name, client), acceptor.accept(server)).await?;
        drop(server);
        let e = client.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::UnexpectedEof);
        Ok(())
    });
}

// -------------------------------------------------------------------------------------------- WebSockets

#[test]
fn web_sockets_carry_messages_and_end_in_good_order() {
    run(async {
        let (client, server) = pair().await?;
        let both = future::zip(client_async("ws://localhost/", client), accept_async(server)).await;
        let ((mut client, _), mut server) = (both.0.unwrap(), both.1.unwrap());
        let large = Message::binary(much());
        // The server closes the connection at the end, for which the client waits.
        let echo = async move {
            while let Some(message) = server.next().await {
                let message = message.unwrap();
                if !message.is_close() {
                    server.send(message).await.unwrap();
                }
            }
        };
        let talk = async {
            for message in [Message::text("hello"), large] {
                client.send(message.clone()).await.unwrap();
                assert!(client.next().await.unwrap().unwrap() == message);
            }
            client.close(None).await.unwrap();
            while let Some(message) = client.next().await {
                assert!(message.unwrap().is_close());
            }
        };
        future::zip(echo, talk).await;
        Ok(())
    });
}

// ------------------------------------------------------------------------------------------- tokio-util

#[test]
fn tokio_reads_and_writes_our_streams_by_compat() {
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let done = tokio.block_on(within(async {
        let (client, server) = pair().await?;
        let server = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(server.compat());
            tokio::io::copy(&mut reader, &mut writer).await
        });
        let (sent, mut client) = (much(), client.compat());
        let (mut reader, mut writer) = tokio::io::split(&mut client);
        let write = async {
            tokio::io::AsyncWriteExt::write_all(&mut writer, &sent).await?;
            tokio::io::AsyncWriteExt::flush(&mut writer).await
        };
        let mut received = vec![0; sent.len()];
        future::try_zip(write, tokio::io::AsyncReadExt::read_exact(&mut reader, &mut received)).await?;
        assert!(received == sent);
        drop(client);
        server.await?
    }));
    assert_eq!(done.unwrap(), much().len() as u64);
}

// ------------------------------------------------------------------------------------------ both examples

#[test]
fn wrong_arguments_are_quoted_and_help_is_the_usage() {
    for (example, args, quoted) in [
        ("tls_echo", &["localhost:5000"][..], "\"localhost:5000\""),
        ("tls_echo", &["--cores", "0"], "at least 1"),
        ("tls_echo", &["--certificate"], "'--certificate'"),
        ("websocket_chat", &["nowhere"], "\"nowhere\""),
        ("websocket_chat", &["--bogus"], "'--bogus'"),
    ] {
        let (status, errors) = Program::start(example, args).wait();
        assert_eq!(status.code(), Some(2), "{example} {args:?}: {errors}");
        assert!(errors.contains(quoted), "{example} {args:?}: {errors}");
        assert!(errors.contains(&format!("\nusage: {example}")), "{example} {args:?}: {errors}");
        let program = Program::start(example, &["--help"]);
        assert!(program.line().starts_with(&format!("usage: {example}")));
        assert_eq!(program.wait().0.code(), Some(0));
    }
}

#[test]
fn what_cannot_be_had_at_the_start_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for (example, args, named) in [
        ("tls_echo", &[&addr[..], "--cores", "2"][..], &addr[..]),
        ("websocket_chat", &[&addr, "--cores", "2"], &addr),
        ("tls_echo", &["127.0.0.1:0", "--certificate", "/no/such/dir/x.pem"], "/no/such/dir/x.pem"),
    ] {
        let (status, errors) = Program::start(example, args).wait();
        assert_eq!(status.code(), Some(1), "{example} {args:?}: {errors}");
        assert!(errors.contains(named), "{example} {args:?}: {errors}");
    }
}

// --------------------------------------------------------------------------------------------- tls_echo

/// openssl's client, which sends what it is given and returns what it gets until the server has closed. `None`: there is no
/// openssl.
fn s_client(addr: SocketAddr, args: &[&str], input: Vec<u8>, len: usize) -> Option<Vec<u8>> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-verify_return_error", "-connect", &addr.to_string()]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            println!("skipped: cannot run openssl: {e}");
            return None;
        }
    };
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // Without end, so that it does not hang up before it has the answers.
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(&input);
        stdin
    });
    let mut answer = vec![0; len];
    let read = stdout.read_exact(&mut answer);
    let _ = child.kill();
    drop(writer.join());
    let output = child.wait_with_output().unwrap();
    if let Err(e) = read {
        panic!("openssl: {e}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Some(answer)
}

#[test]
fn tls_echo_speaks_to_openssl() {
    let dir = Dir::new("certificate");
    let file = dir.path("certificate.pem");
    let file = file.to_str().unwrap();
    let program = Program::start("tls_echo", &["127.0.0.1:0", "--cores", "2", "--certificate", file]);
    let addr = program.tcp_addr();
    for args in [&["-tls1_3"][..], &["-tls1_2"], &["-verify_ip", "127.0.0.1"]] {
        let args: Vec<_> = ["-CAfile", file].iter().chain(args).copied().collect();
        let sent = much();
        if let Some(answer) = s_client(addr, &args, sent.clone(), sent.len()) {
            assert!(answer == sent, "{args:?}");
        }
    }
    // Who does not speak TLS gets nowhere, and the others do not notice.
    let mut stream = program::connect(addr);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"GET"));
    if let Some(answer) = s_client(addr, &["-CAfile", file], b"hello\n".into(), 6) {
        assert_eq!(answer, b"hello\n");
    }
    program.signal(libc::SIGTERM);
    assert_eq!(program.wait().0.code(), Some(0));
}

// --------------------------------------------------------------------------------------- websocket_chat

type Client = WebSocketStream<Async<TcpStream>>;

async fn enter(addr: SocketAddr) -> Client {
    let stream = Async::<TcpStream>::connect(addr).await.unwrap();
    client_async(format!("ws://{addr}/"), stream).await.unwrap().0
}

/// The next text.
async fn hear(client: &mut Client) -> String {
    client.next().await.expect("another message").unwrap().into_text().unwrap().to_string()
}

fn name(client: &Client) -> SocketAddr {
    client.get_ref().get_ref().local_addr().unwrap()
}

/// Waits until both hear of each other: they may be on different cores.
async fn meet(a: &mut Client, b: &mut Client) {
    a.send(Message::text("hello")).await.unwrap();
    let greeting = format!("{}: hello", name(a));
    assert_eq!(hear(a).await, greeting);
    assert_eq!(hear(b).await, greeting);
}

#[test]
fn websocket_chat_tells_all_on_all_cores_and_says_good_bye() {
    let program = Program::start("websocket_chat", &["127.0.0.1:0", "--cores", "2"]);
    let addr = program.tcp_addr();
    run(async {
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(enter(addr).await);
        }
        let greeting = format!("{}: hello", name(&clients[0]));
        clients[0].send(Message::text("hel\u{7}lo")).await.unwrap();
        for client in &mut clients {
            assert_eq!(hear(client).await, greeting);
        }
        // One leaves, one breaks off, one talks too long: the others do not notice.
        let mut leaver = clients.pop().unwrap();
        leaver.close(None).await.unwrap();
        while let Some(message) = leaver.next().await {
            assert!(message.unwrap().is_close());
        }
        let mut talker = clients.pop().unwrap();
        talker.send(Message::text("x".repeat(5000))).await.unwrap();
        match talker.next().await.unwrap().unwrap() {
            Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Size),
            other => panic!("{other:?}"),
        }
        let [first, second, ..] = &mut clients[..] else { unreachable!() };
        meet(first, second).await;

        program.signal(libc::SIGINT);
        for client in &mut clients {
            loop {
                match client.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Away),
                    Some(Ok(message)) => assert!(message.is_text(), "{message:?}"),
                    Some(Err(e)) => panic!("{e}"),
                    None => break,
                }
            }
        }
        Ok(())
    });
    let (status, errors) = program.wait();
    assert_eq!(status.code(), Some(0));
    // Of the one who talked too long.
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn websocket_chat_does_not_wait_for_a_slow_client() {
    const MESSAGES: usize = 5000;
    let program = Program::start("websocket_chat", &["127.0.0.1:0", "--cores", "2"]);
    let addr = program.tcp_addr();
    LocalExecutor::new().unwrap().block_on(within(async {
        let (mut slow, mut fast, mut talker) = (enter(addr).await, enter(addr).await, enter(addr).await);
        meet(&mut fast, &mut talker).await;
        let text = "x".repeat(4000);
        let listening = spawn_local(async move {
            let mut heard = 0;
            loop {
                let message = hear(&mut fast).await;
                heard += 1;
                if message.ends_with("the end") {
                    return heard;
                }
            }
        });
        // He hears himself, too, and with that knows that all has been said.
        for _ in 0..MESSAGES {
            talker.send(Message::text(text.clone())).await.unwrap();
            hear(&mut talker).await;
        }
        talker.send(Message::text("the end")).await.unwrap();
        assert!(listening.await.unwrap() > MESSAGES / 2);
        // Who comes late hears the last ones, and how many he has missed.
        let mut missed = false;
        loop {
            let message = hear(&mut slow).await;
            missed |= message.ends_with("messages missed)");
            if message.ends_with("the end") {
                break;
            }
        }
        assert!(missed, "all of it was kept for him");
    }));
    drop(program);
}
