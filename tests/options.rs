//! Socket options: each has its effect on the socket that it was set for, and on what a listener accepts.

mod common;

use common::dir::Dir;
use common::{os_error, run};
use futures_lite::future;
use std::ffi::c_int;
use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
#[cfg(target_os = "linux")]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use wakewheel::io::{KeepAlive, SocketOptions};
use wakewheel::{Async, Cores, LocalExecutor};

const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// An option as the kernel has it.
fn option(socket: &impl AsFd, level: c_int, name: c_int) -> c_int {
    let (mut value, mut len) = (0, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: `value` has room for `len` bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &mut len)
    };
    assert_eq!(result, 0, "option {name}: {}", io::Error::last_os_error());
    value
}

fn is_on(socket: &impl AsFd, level: c_int, name: c_int) -> bool {
    option(socket, level, name) != 0
}

#[cfg(target_os = "linux")]
fn tcp_info(socket: &impl AsFd) -> libc::tcp_info {
    // SAFETY: zeros are a value of each of its fields, which are numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` has room for `len` bytes.
    let result = unsafe {
        let fd = socket.as_fd().as_raw_fd();
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &mut len)
    };
    assert_eq!(result, 0, "TCP_INFO: {}", io::Error::last_os_error());
    info
}

fn local_addr(listener: &Async<TcpListener>) -> SocketAddr {
    listener.get_ref().local_addr().expect("the address of a listener")
}

type Tcp = Async<TcpStream>;

/// A connection, made with options on both sides: the client's end and the accepted one.
async fn connection(listener: &SocketOptions, client: &SocketOptions) -> io::Result<(Tcp, Tcp)> {
    let listener = listener.listen(LOCALHOST)?;
    let client = client.connect(local_addr(&listener)).await?;
    let (server, _) = listener.accept().await?;
    Ok((client, server))
}

#[test]
fn without_options_nothing_is_set() {
    run(async {
        let none = SocketOptions::new();
        let (client, server) = connection(&none, &none).await?;
        for stream in [client, server] {
            assert!(!is_on(&stream, libc::IPPROTO_TCP, libc::TCP_NODELAY));
            assert!(!is_on(&stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE));
            assert!(!is_on(&stream, libc::SOL_SOCKET, libc::SO_LINGER));
        }
        Ok(())
    });
}

#[test]
fn nodelay_is_set_on_connected_and_accepted_sockets() {
    run(async {
        let options = SocketOptions::new().nodelay();
        let (client, server) = connection(&options, &options).await?;
        assert!(is_on(&client, libc::IPPROTO_TCP, libc::TCP_NODELAY));
        assert!(is_on(&server, libc::IPPROTO_TCP, libc::TCP_NODELAY));
        Ok(())
    });
}

#[test]
#[cfg(target_os = "linux")]
fn keep_alive_is_set_on_connected_and_accepted_sockets() {
    run(async {
        let keep_alive =
            KeepAlive { idle: Duration::from_secs(45), interval: Duration::from_millis(6_001), count: 3 };
        let options = SocketOptions::new().keep_alive(keep_alive);
        let (client, server) = connection(&options, &options).await?;
        for stream in [client, server] {
            assert!(is_on(&stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE));
            assert_eq!(option(&stream, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 45);
            assert_eq!(option(&stream, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL), 7, "rounded up");
            assert_eq!(option(&stream, libc::IPPROTO_TCP, libc::TCP_KEEPCNT), 3);
        }
        Ok(())
    });
}

#[test]
#[cfg(target_os = "linux")]
fn buffer_sizes_are_set_on_connected_and_accepted_sockets() {
    run(async {
        let options = SocketOptions::new().recv_buffer_size(20_000).send_buffer_size(30_000);
        let (client, server) = connection(&options, &options).await?;
        for stream in [client, server] {
            // Linux doubles what it is asked for, to have room for its own.
            assert_eq!(option(&stream, libc::SOL_SOCKET, libc::SO_RCVBUF), 40_000);
            assert_eq!(option(&stream, libc::SOL_SOCKET, libc::SO_SNDBUF), 60_000);
        }
        Ok(())
    });
}

#[test]
#[cfg(target_os = "linux")]
fn buffer_sizes_are_set_before_the_window_scale_is_agreed_on() {
    run(async {
        let (none, small) = (SocketOptions::new(), SocketOptions::new().recv_buffer_size(16 << 10));
        let scales = async |listener: &SocketOptions, client: &SocketOptions| {
            let (client, server) = connection(listener, client).await?;
            // Of a window that its owner receives into, in the upper four bits.
            io::Result::Ok([client, server].map(|stream| tcp_info(&stream).tcpi_snd_rcv_wscale >> 4))
        };
        let [client, server] = scales(&none, &none).await?;
        assert!(client > 0 && server > 0, "windows of more than 64 KiB: {client}, {server}");
        assert_eq!(scales(&small, &none).await?, [client, 0]);
        assert_eq!(scales(&none, &small).await?, [0, server]);
        Ok(())
    });
}

#[test]
fn without_reset_on_close_a_peer_reads_to_the_end() {
    run(async {
        let (client, server) = connection(&SocketOptions::new(), &SocketOptions::new()).await?;
        drop(client);
        assert_eq!(server.read_chunk().await?.len(), 0);
        Ok(())
    });
}

#[test]
fn reset_on_close_resets_connected_and_accepted_sockets() {
    run(async {
        let (none, reset) = (SocketOptions::new(), SocketOptions::new().reset_on_close());
        let (client, server) = connection(&none, &reset).await?;
        drop(client);
        assert_eq!(server.read_chunk().await.unwrap_err().kind(), ErrorKind::ConnectionReset);

        let (client, server) = connection(&reset, &none).await?;
        drop(server);
        assert_eq!(client.read_chunk().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        Ok(())
    });
}

#[test]
#[cfg(target_os = "linux")]
fn the_backlog_is_1024_or_what_was_asked_for() {
    let backlog = |options: SocketOptions| {
        // For a listener, these are the connections that may wait.
        options.listen(LOCALHOST).map(|listener| tcp_info(&listener).tcpi_sacked)
    };
    let system_limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let system_limit: u32 = system_limit.trim().parse().unwrap();
    assert_eq!(backlog(SocketOptions::new()).unwrap(), system_limit.min(1024));
    assert_eq!(backlog(SocketOptions::new().backlog(7)).unwrap(), 7);
    assert_eq!(backlog(SocketOptions::new().backlog(u32::MAX)).unwrap(), system_limit);
}

#[test]
#[cfg(target_os = "linux")]
fn the_backlog_of_a_unix_listener_is_what_was_asked_for() {
    let dir = Dir::new("backlog");
    let path = dir.path("socket");
    let _listener = SocketOptions::new().backlog(4).listen_unix(&path).unwrap();
    // A connection is there at once, or has to wait for its place in the queue. Linux admits one more than asked.
    let connect = || {
        let connecting = Async::<std::os::unix::net::UnixStream>::connect(&path);
        wakewheel::block_on(future::poll_once(connecting)).map(|result| result.unwrap())
    };
    let waiting: Vec<_> = std::iter::from_fn(connect).take(100).collect();
    assert_eq!(waiting.len(), 5);
}

#[test]
fn listeners_share_a_port_if_all_of_them_ask_for_it() {
    let options = SocketOptions::new().reuse_port();
    let first = options.listen(LOCALHOST).unwrap();
    let second = options.listen(local_addr(&first)).unwrap();
    assert_eq!(local_addr(&first), local_addr(&second));

    let e = SocketOptions::new().listen(local_addr(&first)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AddrInUse);
}

#[test]
fn udp_sockets_share_a_port_if_all_of_them_ask_for_it() {
    let options = SocketOptions::new().reuse_port();
    let first = options.bind_udp(LOCALHOST).unwrap();
    let addr = first.get_ref().local_addr().unwrap();
    assert_eq!(options.bind_udp(addr).unwrap().get_ref().local_addr().unwrap(), addr);
    assert_eq!(SocketOptions::new().bind_udp(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
#[cfg(target_os = "linux")]
fn udp_sockets_have_buffer_sizes() {
    let options = SocketOptions::new().recv_buffer_size(20_000).send_buffer_size(30_000);
    let socket = options.bind_udp(LOCALHOST).unwrap();
    assert_eq!(option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF), 40_000);
    assert_eq!(option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF), 60_000);
}

#[test]
fn a_listener_for_another_core_keeps_its_options() {
    let listener: TcpListener =
        SocketOptions::new().nodelay().listen(LOCALHOST).unwrap().into_inner().unwrap();
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_GETFL) };
    assert_ne!(flags & libc::O_NONBLOCK, 0, "it blocks");
    let addr = listener.local_addr().unwrap();
    let cores = Cores::new(1).unwrap();
    let accepted = cores.spawn(move || async move { Async::new(listener)?.accept().await?.0.into_inner() });
    let client = TcpStream::connect(addr).unwrap();
    let server = run(async { accepted.await? });
    assert_eq!(server.local_addr().unwrap(), client.peer_addr().unwrap());
    assert!(server.nodelay().unwrap());
}

#[test]
fn a_port_on_which_connections_are_still_closing_can_be_listened_on() {
    run(async {
        let listener = SocketOptions::new().listen(LOCALHOST)?;
        let addr = local_addr(&listener);
        let client = SocketOptions::new().connect(addr).await?;
        let (server, _) = listener.accept().await?;
        // The side that closes first keeps the port for a minute.
        drop((listener, server));
        assert_eq!(client.read_chunk().await?.len(), 0);
        drop(client);
        SocketOptions::new().listen(addr)?;
        Ok(())
    });
}

fn any_v6() -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
}

/// Not every machine has it.
fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[test]
#[cfg(not(target_os = "openbsd"))]
fn a_dual_stack_listener_takes_both_versions() {
    if !has_ipv6() {
        return;
    }
    run(async {
        let listener = SocketOptions::new().dual_stack().listen(any_v6())?;
        let port = local_addr(&listener).port();
        for ip in ["127.0.0.1", "::1"] {
            let client =
                SocketOptions::new().connect((ip.parse::<std::net::IpAddr>().unwrap(), port)).await?;
            let (_, peer) = listener.accept().await?;
            assert_eq!(peer.ip().to_canonical(), client.get_ref().local_addr()?.ip());
            assert!(peer.is_ipv6(), "{peer}");
        }
        Ok(())
    });
}

#[test]
fn what_an_ipv6_socket_serves_is_what_was_asked_for_or_as_std_has_it() {
    if !has_ipv6() {
        return;
    }
    let only_v6 = |socket: &dyn AsFd| is_on(&socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    let std = TcpListener::bind(any_v6()).unwrap();
    assert_eq!(only_v6(&SocketOptions::new().listen(any_v6()).unwrap()), only_v6(&std));
    assert_eq!(only_v6(&SocketOptions::new().bind_udp(any_v6()).unwrap()), only_v6(&std));

    let options = SocketOptions::new().only_v6();
    assert!(only_v6(&options.listen(any_v6()).unwrap()));
    assert!(only_v6(&options.bind_udp(any_v6()).unwrap()));
    // The last word counts.
    if cfg!(not(target_os = "openbsd")) {
        let options = options.dual_stack();
        assert!(!only_v6(&options.listen(any_v6()).unwrap()));
        assert!(!only_v6(&options.bind_udp(any_v6()).unwrap()));
    }
}

#[test]
fn ip_versions_are_no_matter_for_an_ipv4_address() {
    SocketOptions::new().dual_stack().listen(LOCALHOST).unwrap();
    SocketOptions::new().only_v6().bind_udp(LOCALHOST).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_connection_comes_from_its_bind_addr() {
    run(async {
        let listener = SocketOptions::new().listen(LOCALHOST)?;
        let from = SocketAddr::from(([127, 0, 0, 2], 0));
        let _client = SocketOptions::new().bind_addr(from).connect(local_addr(&listener)).await?;
        let (_, peer) = listener.accept().await?;
        assert_eq!(peer.ip(), from.ip());
        Ok(())
    });
}

#[test]
fn a_bind_addr_that_does_not_fit_is_an_error_with_both_addresses() {
    // Not an address of this machine, and not of the same version.
    for (from, kind) in
        [("192.0.2.1:0", ErrorKind::AddrNotAvailable), ("[2001:db8::1]:0", ErrorKind::InvalidInput)]
    {
        let options = SocketOptions::new().bind_addr(from.parse::<SocketAddr>().unwrap());
        let e = wakewheel::block_on(options.connect(([127, 0, 0, 1], 9))).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(
            e.to_string().starts_with(&format!("cannot connect to 127.0.0.1:9: bind_addr {from}: ")),
            "{e}"
        );
    }
}

#[test]
fn options_can_be_used_again_and_outlived_by_their_futures() {
    run(async {
        let listener = SocketOptions::new().listen(LOCALHOST)?;
        let connecting = {
            let options = SocketOptions::new().nodelay();
            [options.connect(local_addr(&listener)), options.connect(local_addr(&listener))]
        };
        for connecting in connecting {
            assert!(connecting.await?.get_ref().nodelay()?);
        }
        Ok(())
    });
}

#[test]
fn futures_may_move_to_and_be_shared_with_other_threads() {
    fn check<T: Send + Sync + 'static>(_: T) {}
    check(SocketOptions::new().connect(LOCALHOST));
    check(SocketOptions::new().connect_deadline(LOCALHOST, Instant::now()));
}

#[test]
fn a_refused_connection_is_an_error_with_the_address() {
    // The port of a client: nobody listens on it, and nobody else can have it.
    let listener = TcpListener::bind(LOCALHOST).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let closed = client.local_addr().unwrap();
    let far = Instant::now() + Duration::from_secs(30);
    for result in [
        wakewheel::block_on(SocketOptions::new().connect(closed)),
        wakewheel::block_on(SocketOptions::new().connect_deadline(closed, far)),
    ] {
        let e = result.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
        assert!(e.to_string().starts_with(&format!("cannot connect to {closed}: ")), "{e}");
        assert_eq!(os_error(&e), Some(libc::ECONNREFUSED));
    }
}

#[test]
fn a_connection_in_time_is_not_disturbed_by_its_deadline() {
    run(async {
        let listener = SocketOptions::new().listen(LOCALHOST)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let client = SocketOptions::new().connect_deadline(local_addr(&listener), deadline).await?;
        let (server, _) = listener.accept().await?;
        drop(client);
        assert_eq!(server.read_chunk().await?.len(), 0);
        Ok(())
    });
}

/// Linux leaves a connection for which there is no room in the queue without an answer.
#[test]
#[cfg(target_os = "linux")]
fn a_connection_without_an_answer_is_given_up_at_its_deadline() {
    let listener = SocketOptions::new().backlog(0).listen(LOCALHOST).unwrap();
    let addr = local_addr(&listener);
    let connect = || {
        let deadline = Instant::now() + Duration::from_millis(200);
        (wakewheel::block_on(SocketOptions::new().connect_deadline(addr, deadline)), deadline)
    };
    let mut waiting = Vec::new();
    let (e, deadline) = loop {
        match connect() {
            (Ok(stream), _) => waiting.push(stream),
            (Err(e), deadline) => break (e, deadline),
        }
        assert!(waiting.len() < 16, "no room for as many");
    };
    assert!(Instant::now() >= deadline);
    assert_eq!(e.kind(), ErrorKind::TimedOut);
    assert_eq!(e.to_string(), format!("cannot connect to {addr}: no answer by the deadline"));
}

#[test]
fn sockets_that_are_not_registered_are_the_same() {
    fn check(socket: &impl AsFd) {
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: no pointers.
        let (status, flags) = unsafe { (libc::fcntl(fd, libc::F_GETFL), libc::fcntl(fd, libc::F_GETFD)) };
        assert!(status & libc::O_NONBLOCK != 0, "non-blocking");
        assert!(flags & libc::FD_CLOEXEC != 0, "close-on-exec");
    }
    let dir = Dir::new("std");
    let executor = LocalExecutor::new().unwrap();
    let tcp = SocketOptions::new().nodelay().reuse_port().listen_std(LOCALHOST).unwrap();
    let unix = SocketOptions::new().backlog(3).listen_unix_std(dir.path("socket")).unwrap();
    let udp = SocketOptions::new().reuse_port().bind_udp_std(LOCALHOST).unwrap();
    check(&tcp);
    check(&unix);
    check(&udp);
    assert!(is_on(&tcp, libc::SOL_SOCKET, libc::SO_REUSEADDR));
    assert!(is_on(&tcp, libc::IPPROTO_TCP, libc::TCP_NODELAY));
    assert!(is_on(&udp, libc::SOL_SOCKET, libc::SO_REUSEPORT));
    assert_eq!(executor.stats().sources_alive, 0);

    executor.block_on(async {
        let tcp = Async::new_nonblocking(tcp).unwrap();
        let unix = Async::new_nonblocking(unix).unwrap();
        let udp = Async::new_nonblocking(udp).unwrap();
        assert_eq!(executor.stats().sources_alive, 3);
        let client = Async::<TcpStream>::connect(local_addr(&tcp)).await.unwrap();
        let (server, peer) = tcp.accept().await.unwrap();
        assert_eq!(peer, client.get_ref().local_addr().unwrap());
        assert!(is_on(&server, libc::IPPROTO_TCP, libc::TCP_NODELAY));
        let _client = Async::<UnixStream>::connect(dir.path("socket")).await.unwrap();
        unix.accept().await.unwrap();
        udp.send_to(b"x", udp.get_ref().local_addr().unwrap()).await.unwrap();
        assert_eq!(udp.recv_from(&mut [0; 2]).await.unwrap().0, 1);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn an_abstract_name_is_listened_on() {
    use std::os::linux::net::SocketAddrExt;
    run(async {
        let name = format!("wakewheel-options-{}", std::process::id());
        let addr = UnixSocketAddr::from_abstract_name(&name)?;
        let listener = SocketOptions::new().listen_unix_addr(&addr)?;
        for e in [
            SocketOptions::new().listen_unix_addr_std(&addr).unwrap_err(),
            SocketOptions::new().listen_unix_std(format!("\0{name}")).unwrap_err(),
        ] {
            assert_eq!(e.kind(), ErrorKind::AddrInUse);
            assert!(e.to_string().starts_with(&format!("cannot listen on unix:@{name}: ")), "{e}");
            assert_eq!(os_error(&e), Some(libc::EADDRINUSE));
        }
        drop(listener);
        let listener = SocketOptions::new().listen_unix_addr_std(&addr)?;
        assert_eq!(listener.local_addr()?.as_abstract_name(), Some(name.as_bytes()));
        Ok(())
    });
}

#[test]
fn a_taken_address_is_an_error_with_the_address() {
    let listener = SocketOptions::new().listen(LOCALHOST).unwrap();
    let e = SocketOptions::new().listen(local_addr(&listener)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AddrInUse);
    assert!(e.to_string().starts_with(&format!("cannot listen on {}: ", local_addr(&listener))), "{e}");
    assert_eq!(os_error(&e), Some(libc::EADDRINUSE));

    let text = e.to_string();
    let e = SocketOptions::new().listen_std(local_addr(&listener)).unwrap_err();
    assert_eq!((e.kind(), e.to_string()), (ErrorKind::AddrInUse, text));

    let socket = SocketOptions::new().bind_udp(LOCALHOST).unwrap();
    let addr = socket.get_ref().local_addr().unwrap();
    let e = SocketOptions::new().bind_udp(addr).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AddrInUse);
    assert!(e.to_string().starts_with(&format!("cannot bind a UDP socket to {addr}: ")), "{e}");
    assert_eq!(os_error(&e), Some(libc::EADDRINUSE));
    let text = e.to_string();
    let e = SocketOptions::new().bind_udp_std(addr).unwrap_err();
    assert_eq!((e.kind(), e.to_string()), (ErrorKind::AddrInUse, text));

    let dir = Dir::new("taken");
    let path = dir.path("socket");
    let _listener = SocketOptions::new().listen_unix(&path).unwrap();
    let e = SocketOptions::new().listen_unix(&path).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AddrInUse);
    assert!(e.to_string().starts_with(&format!("cannot listen on unix:{}: ", path.display())), "{e}");
    assert_eq!(os_error(&e), Some(libc::EADDRINUSE));
}

#[test]
#[cfg(target_os = "linux")]
fn an_option_that_the_kernel_refuses_is_named() {
    let too_long = KeepAlive { idle: Duration::from_secs(32_768), ..KeepAlive::default() };
    let e = SocketOptions::new().keep_alive(too_long).listen(LOCALHOST).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    assert!(e.to_string().starts_with("cannot listen on 127.0.0.1:0: keep_alive: idle: "), "{e}");
    assert_eq!(os_error(&e), Some(libc::EINVAL), "explained twice, and still there");
}

/// What each socket can be made with: the table in the documentation of [`SocketOptions`].
#[test]
fn an_option_that_a_socket_does_not_have_is_an_error_that_names_it() {
    let new = SocketOptions::new;
    let [listen, connect, bind_udp, listen_unix] = [1, 2, 4, 8];
    let options = [
        ("backlog", new().backlog(7), listen | listen_unix),
        ("reuse_port", new().reuse_port(), listen | connect | bind_udp),
        ("dual_stack", new().dual_stack(), listen | bind_udp),
        ("only_v6", new().only_v6(), listen | bind_udp),
        ("recv_buffer_size", new().recv_buffer_size(1 << 16), listen | connect | bind_udp),
        ("send_buffer_size", new().send_buffer_size(1 << 16), listen | connect | bind_udp),
        ("nodelay", new().nodelay(), listen | connect),
        ("keep_alive", new().keep_alive(KeepAlive::default()), listen | connect),
        ("reset_on_close", new().reset_on_close(), listen | connect),
        ("bind_addr", new().bind_addr(LOCALHOST), connect),
    ];
    let peer = new().listen(LOCALHOST).unwrap();
    let dir = Dir::new("options");
    for (name, options, makes) in options {
        let path = dir.path(name);
        let results = [
            (listen, LOCALHOST.to_string(), options.listen(LOCALHOST).map(drop)),
            (
                connect,
                local_addr(&peer).to_string(),
                wakewheel::block_on(options.connect(local_addr(&peer))).map(drop),
            ),
            (listen, LOCALHOST.to_string(), options.listen_std(LOCALHOST).map(drop)),
            (bind_udp, LOCALHOST.to_string(), options.bind_udp(LOCALHOST).map(drop)),
            (bind_udp, LOCALHOST.to_string(), options.bind_udp_std(LOCALHOST).map(drop)),
            (listen_unix, format!("unix:{}", path.display()), options.listen_unix(&path).map(drop)),
        ];
        for (make, addr, result) in results {
            if makes & make != 0 {
                result.unwrap_or_else(|e| panic!("{name}: {e}"));
                continue;
            }
            let e = result.expect_err(name);
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
            assert!(
                e.to_string().contains(&addr)
                    && e.to_string().contains(&format!(": {name} is not an option for a ")),
                "{e}"
            );
        }
    }
}
