//! The examples, as programs: started with arguments, used by real clients, ended by signals.
//!
//! `cargo test` and `cargo nextest run` build them first. With `--test examples`, cargo does not: `cargo build --examples`.

#[path = "common/dir.rs"]
mod dir;
#[path = "common/program.rs"]
mod program;

use dir::Dir;
use program::{PATIENCE, Program, connect};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::block_on;
use wakewheel::io::SocketOptions;

/// Sends bytes and gets the same back, and nothing else before the end.
#[track_caller]
fn check_echo(mut stream: impl Read + Write, writer: impl Write + Send, half_close: impl FnOnce() + Send) {
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");

    // More than any buffer holds, so that it has to come back while it is sent.
    let sent: Vec<u8> = (0..8_000_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let received = thread::scope(|scope| {
        let (mut writer, sent) = (writer, &sent);
        scope.spawn(move || {
            writer.write_all(sent).unwrap();
            half_close();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent, "{} bytes came back of {}", received.len(), sent.len());
}

#[track_caller]
fn check_tcp_echo(addr: SocketAddr) {
    let stream = connect(addr);
    check_echo(&stream, &stream, || stream.shutdown(Shutdown::Write).unwrap());
}

// ------------------------------------------------------------------------------------------- all of them

#[test]
fn wrong_arguments_are_quoted() {
    for (example, args, quoted) in [
        ("echo", &["nowhere"][..], "\"nowhere\""),
        ("echo", &["127.0.0.1"], "\"127.0.0.1\""),
        ("echo", &["127.0.0.1:0", "127.0.0.1:1"], "\"127.0.0.1:1\""),
        ("echo", &["--cores", "0"], "\"0\""),
        ("echo", &["--cores", "many"], "\"many\""),
        ("echo", &["--cores"], "'--cores'"),
        ("echo", &["--busy-poll", "50"], "\"50\""),
        ("echo", &["--busy-poll", "é€"], "\"é€\""),
        ("echo", &["--backend", "telepathy"], "\"telepathy\""),
        ("echo", &["--pinned=yes"], "\"yes\""),
        ("echo", &["--bogus"], "'--bogus'"),
        ("chat", &["nowhere"], "\"nowhere\""),
        ("chat", &["--cores", "-1"], "\"-1\""),
        ("udp_echo", &["localhost:5000"], "\"localhost:5000\""),
        ("udp_echo", &["--bogus"], "'--bogus'"),
        ("unix_echo", &["/tmp/without-a-scheme"], "\"/tmp/without-a-scheme\""),
        ("unix_echo", &["unix:"], "\"unix:\""),
        ("timers", &["lots"], "\"lots\""),
        ("timers", &["4000000000"], "\"4000000000\""),
    ] {
        let (status, errors) = Program::start(example, args).wait();
        assert_eq!(status.code(), Some(2), "{example} {args:?}: {errors}");
        assert!(errors.contains(quoted), "{example} {args:?}: {errors}");
        assert!(errors.contains(&format!("\nusage: {example}")), "{example} {args:?}: {errors}");
    }
}

#[test]
fn wrong_arguments_are_told_what_to_write() {
    for (example, args, told) in [
        ("echo", &["localhost:5000"][..], "write 127.0.0.1:5000 or [::1]:5000"),
        ("chat", &["5000"], "write 127.0.0.1:5000 or [::1]:5000"),
        ("udp_echo", &[":5000"], "write 127.0.0.1:5000 or [::1]:5000"),
        ("unix_echo", &["/tmp/without-a-scheme"], "unix:/path"),
        ("echo", &["--cores", "0"], "at least 1"),
        ("chat", &["--cores", "0"], "at least 1"),
        ("echo", &["--busy-poll", "5x"], "write a time like 50us, 2ms or 30s"),
        ("echo", &["--backend", "telepathy"], "or \"poll\""),
        ("timers", &["4000000000"], "a number up to 1000000"),
    ] {
        let (_, errors) = Program::start(example, args).wait();
        assert!(errors.contains(told), "{example} {args:?}: {errors}");
    }
}

#[test]
fn a_wrong_backend_in_the_environment_is_an_error_that_names_it() {
    for (backend, quoted) in [(&b"telepathy"[..], "\"telepathy\""), (b"pol\xff", "\"pol\u{fffd}\"")] {
        for example in ["echo", "timers", "udp_echo", "unix_echo", "chat"] {
            let (status, errors) = Program::start_in(example, &[], Some(OsStr::from_bytes(backend))).wait();
            assert_eq!(status.code(), Some(1), "{example}: {errors}");
            assert!(errors.contains("WAKEWHEEL_BACKEND") && errors.contains(quoted), "{example}: {errors}");
        }
    }
}

#[test]
fn help_is_the_usage() {
    for example in ["echo", "timers", "udp_echo", "unix_echo", "chat"] {
        let program = Program::start(example, &["--help"]);
        assert!(program.line().starts_with(&format!("usage: {example}")));
        assert_eq!(program.wait().0.code(), Some(0));
    }
}

#[test]
fn an_address_that_is_taken_is_an_error_that_names_it() {
    let first = Program::start("echo", &["127.0.0.1:0", "--cores", "1"]);
    let addr = first.tcp_addr().to_string();
    for (example, args) in [
        ("echo", &[&addr, "--cores", "1"][..]),
        ("echo", &[&addr, "--cores", "2"]),
        ("chat", &[&addr]),
        ("unix_echo", &[&addr]),
    ] {
        let (status, errors) = Program::start(example, args).wait();
        assert_eq!(status.code(), Some(1), "{example}: {errors}");
        assert!(errors.contains(&addr), "{example}: {errors}");
    }
    first.end();

    let first = Program::start("udp_echo", &["127.0.0.1:0"]);
    let addr = first.tcp_addr().to_string();
    let (status, errors) = Program::start("udp_echo", &[&addr]).wait();
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains(&addr), "{errors}");
    first.end();
}

// -------------------------------------------------------------------------------------------------- echo

#[test]
fn echo_on_one_core() {
    let program = Program::start("echo", &["127.0.0.1:0", "--cores", "1"]);
    check_tcp_echo(program.tcp_addr());
    program.end();
}

#[test]
fn echo_over_ipv6() {
    let program = Program::start("echo", &["[::1]:0", "--cores", "1"]);
    if let Ok(line) = program.lines.recv_timeout(PATIENCE) {
        let addr = line.strip_prefix("listening on ").expect("an address");
        check_tcp_echo(addr.parse().unwrap());
        return program.end();
    }
    let (status, errors) = program.wait();
    assert_eq!(status.code(), Some(1));
    println!("skipped: there is no IPv6 here: {errors}");
}

#[test]
fn echo_with_all_its_options() {
    let mut args = vec!["127.0.0.1:0", "--cores", "3", "--busy-poll", "50us", "--backend", "poll"];
    // The other systems have no way to pin.
    if cfg!(any(target_os = "linux", target_os = "android", target_os = "freebsd")) {
        args.push("--pinned");
    }
    let program = Program::start("echo", &args);
    let addr = program.tcp_addr();
    let streams: Vec<_> = (0..30).map(|_| connect(addr)).collect();
    for (i, mut stream) in streams.iter().enumerate() {
        stream.write_all(&[i as u8; 100]).unwrap();
    }
    for (i, mut stream) in streams.iter().enumerate() {
        let mut answer = [0; 100];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [i as u8; 100]);
    }
    drop(streams);
    program.end();
}

#[test]
fn echo_outlives_rude_clients() {
    let program = Program::start("echo", &["127.0.0.1:0", "--cores", "1"]);
    let addr = program.tcp_addr();
    for i in 0..50 {
        let resetting = SocketOptions::new().reset_on_close();
        let stream = block_on(resetting.connect(addr)).unwrap().into_inner().unwrap();
        // Some of them with bytes on the way, in one direction or both.
        let _ = (&stream).write(&vec![0; i * 1000]);
    }
    check_tcp_echo(addr);
    program.end();
}

#[test]
fn echo_ends_by_ctrl_c_and_cuts_off_who_stays() {
    let program = Program::start("echo", &["127.0.0.1:0", "--cores", "2"]);
    let addr = program.tcp_addr();
    let mut stays = connect(addr);
    stays.write_all(b"x").unwrap();
    stays.read_exact(&mut [0]).unwrap();
    program.signal(libc::SIGINT);
    let started = Instant::now();
    while TcpStream::connect(addr).is_ok() {
        assert!(started.elapsed() < PATIENCE, "it goes on accepting");
        thread::sleep(Duration::from_millis(1));
    }
    let (status, errors) = program.wait();
    assert_eq!(status.code(), Some(0));
    assert!(errors.starts_with("connections cut off on core ") && errors.ends_with(": 1\n"), "{errors}");
    assert_eq!(stays.read(&mut [0]).unwrap(), 0);
}

#[test]
fn echo_for_netcat() {
    let help = Command::new("nc").arg("-h").output();
    let understands = |help: &[u8]| String::from_utf8_lossy(help).contains("-N");
    if !help.is_ok_and(|help| understands(&help.stderr) || understands(&help.stdout)) {
        return println!("skipped: there is no nc with -N here");
    }
    let program = Program::start("echo", &["127.0.0.1:0"]);
    let addr = program.tcp_addr();
    let args = ["-N", "-w", "30", &addr.ip().to_string(), &addr.port().to_string()];
    let mut nc = Command::new("nc").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    nc.stdin.take().unwrap().write_all(b"hello from nc\n").unwrap();
    assert_eq!(nc.wait_with_output().unwrap().stdout, b"hello from nc\n");
    program.end();
}

// ---------------------------------------------------------------------------------------- udp_echo, timers

#[test]
fn udp_echo_keeps_the_boundaries_of_datagrams() {
    let program = Program::start("udp_echo", &["127.0.0.1:0"]);
    let addr = program.tcp_addr();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(addr).unwrap();
    for len in [0, 1, 1400, 60_000] {
        let sent = vec![len as u8; len];
        client.send(&sent).unwrap();
        let mut received = vec![0; 65536];
        let len = client.recv(&mut received).unwrap();
        assert!(sent == received[..len], "{len} bytes came back of {}", sent.len());
    }
    program.end();
}

#[test]
fn udp_echo_outlives_who_cannot_be_answered() {
    let program = Program::start("udp_echo", &["127.0.0.1:0"]);
    let addr = program.tcp_addr();
    for _ in 0..10 {
        // Gone before the answer comes.
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", addr).unwrap();
    }
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"still there?", addr).unwrap();
    assert_eq!(client.recv_from(&mut [0; 64]).unwrap(), (12, addr));
    program.end();
}

#[test]
fn timers_show_and_tick() {
    let program = Program::start("timers", &["1000"]);
    for beginning in ["limit: ", "silence: ", "many: 1000 timers", "clock: tick"] {
        let line = program.line();
        assert!(line.starts_with(beginning), "{line}");
    }
    program.end();
    // Also in the middle of it, and with no timer at all.
    let program = Program::start("timers", &["0"]);
    assert!(program.line().starts_with("limit: "));
    program.end();
}

// --------------------------------------------------------------------------------------------- unix_echo

#[test]
fn unix_echo_removes_its_socket() {
    let dir = Dir::new("echo");
    let path = dir.path("socket");
    let addr = format!("unix:{}", path.display());
    let program = Program::start("unix_echo", &[&addr]);
    assert_eq!(program.listening_on(), addr);
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    check_echo(&stream, &stream, || stream.shutdown(Shutdown::Write).unwrap());

    let (status, errors) = Program::start("unix_echo", &[&addr]).wait();
    assert_eq!(status.code(), Some(1), "a second one: {errors}");
    assert!(errors.contains(&addr), "{errors}");
    UnixStream::connect(&path).expect("the first one is not disturbed");

    program.end();
    assert!(!path.exists());
}

#[test]
fn unix_echo_takes_the_place_of_a_dead_server_only() {
    let dir = Dir::new("stale");
    let path = dir.path("socket");
    let addr = format!("unix:{}", path.display());
    drop(UnixListener::bind(&path).unwrap());
    let program = Program::start("unix_echo", &[&addr]);
    assert_eq!(program.listening_on(), addr);
    program.end();

    fs::write(&path, "precious").unwrap();
    let (status, errors) = Program::start("unix_echo", &[&addr]).wait();
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("socket is not a socket: choose another path"), "{errors}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn unix_echo_lets_its_clients_end_when_its_socket_has_been_removed() {
    let dir = Dir::new("removed");
    let path = dir.path("socket");
    let addr = format!("unix:{}", path.display());
    let program = Program::start("unix_echo", &[&addr]);
    assert_eq!(program.listening_on(), addr);
    let mut stays = UnixStream::connect(&path).unwrap();
    stays.write_all(b"x").unwrap();
    stays.read_exact(&mut [0]).unwrap();
    fs::remove_file(&path).unwrap();
    program.signal(libc::SIGTERM);
    let (status, errors) = program.wait();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(errors.contains(&format!("cannot remove {addr}: ")), "{errors}");
    assert!(errors.ends_with("connections cut off: 1\n"), "{errors}");
}

#[cfg(target_os = "linux")]
#[test]
fn unix_echo_with_an_abstract_name() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    let name = format!("wakewheel-{}", std::process::id());
    let program = Program::start("unix_echo", &[&format!("unix:@{name}")]);
    assert_eq!(program.listening_on(), format!("unix:@{name}"));
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    check_echo(&stream, &stream, || stream.shutdown(Shutdown::Write).unwrap());
    program.end();
}

#[test]
fn unix_echo_serves_tcp_as_well() {
    let program = Program::start("unix_echo", &["127.0.0.1:0"]);
    check_tcp_echo(program.tcp_addr());
    program.end();
}

// -------------------------------------------------------------------------------------------------- chat

/// Somebody in the room.
struct Person {
    stream: BufReader<TcpStream>,
    name: SocketAddr,
}

impl Person {
    /// Enters, and knows that it has.
    #[track_caller]
    fn enter(stream: TcpStream) -> Person {
        let mut person = Person { name: stream.local_addr().unwrap(), stream: BufReader::new(stream) };
        person.say("hi");
        let own = format!("{}: hi", person.name);
        while person.hear() != own {}
        person
    }

    #[track_caller]
    fn say(&mut self, line: &str) {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line; an empty one is the end.
    #[track_caller]
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_string()
    }
}

#[test]
fn chat_goes_to_everybody_on_all_cores() {
    let program = Program::start("chat", &["127.0.0.1:0", "--cores", "2"]);
    let addr = program.tcp_addr();
    // It would take bad luck for the kernel to give all of them to the same core.
    let mut people: Vec<Person> = (0..16).map(|_| Person::enter(connect(addr))).collect();
    people[0].say("hello, all");
    people[0].say("\u{1b}[2Jbad manners\r");
    let name = people[0].name;
    for person in &mut people {
        while person.hear() != format!("{name}: hello, all") {}
        assert_eq!(person.hear(), format!("{name}: [2Jbad manners"));
    }
    program.signal(libc::SIGTERM);
    for person in &mut people {
        assert_eq!(person.hear(), "", "the end");
    }
    let (status, errors) = program.wait();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn chat_does_not_wait_for_a_slow_client() {
    const LINES: usize = 6000;
    let program = Program::start("chat", &["127.0.0.1:0", "--cores", "2"]);
    let addr = program.tcp_addr();
    let narrow = SocketOptions::new().recv_buffer_size(10_000).connect(addr);
    let slow = block_on(narrow).unwrap().into_inner().unwrap();
    slow.set_nonblocking(false).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut slow = Person::enter(slow);
    let mut quick = Person::enter(connect(addr));

    // 24 MB, of which the slow one reads nothing, while the quick one misses nothing.
    let text = "x".repeat(4000);
    for i in 0..LINES {
        let line = format!("{i} {text}");
        quick.say(&line);
        assert_eq!(quick.hear(), format!("{}: {line}", quick.name));
    }
    quick.say("end");
    assert!(quick.hear().ends_with(": end"));

    let (mut heard, mut missed) = (0, 0);
    loop {
        let line = slow.hear();
        if line.ends_with(": end") {
            break;
        }
        match line.strip_prefix('(').and_then(|line| line.strip_suffix(" lines missed)")) {
            Some(count) => missed += count.parse::<usize>().unwrap(),
            None => heard += 1,
        }
    }
    // The "hi" of the quick one, too.
    assert_eq!(heard + missed, LINES + 1);
    assert!(missed > 0);
    drop((slow, quick));
    program.end();
}

#[test]
fn chat_shows_out_who_talks_too_long() {
    let program = Program::start("chat", &["127.0.0.1:0", "--cores", "1"]);
    let addr = program.tcp_addr();
    let mut polite = Person::enter(connect(addr));
    let mut rude = connect(addr);
    let _ = rude.write_all(&[b'x'; 100_000]);
    let mut rest = Vec::new();
    // A reset, if not all was read.
    let _ = rude.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    polite.say("where were we?");
    assert!(polite.hear().ends_with("where were we?"));
    drop(polite);
    program.signal(libc::SIGTERM);
    let (status, errors) = program.wait();
    assert_eq!(status.code(), Some(0));
    assert_eq!(errors, format!("{}: line too long\n", rude.local_addr().unwrap()));
}

// --------------------------------------------------------------------------------------------- events

#[test]
fn event_echo_gives_back_and_ends_by_a_signal() {
    for backend in [None, Some(OsStr::new("poll"))] {
        let program = Program::start_in("event_echo", &["127.0.0.1:0"], backend);
        let addr = program.tcp_addr();
        let idle = connect(addr);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| check_tcp_echo(addr));
            }
        });
        program.signal(libc::SIGINT);
        assert_eq!(program.line(), "1 connections are left");
        let (status, errors) = program.wait();
        assert!(status.success(), "{errors}");
        drop(idle);
    }
}

/// Four clients that connect so many times, one after the other, with 512 bytes each way.
#[test]
fn event_echo_serves_a_flood_of_connections() {
    let connections_each = if cfg!(debug_assertions) { 500 } else { 2500 };
    let program = Program::start("event_echo", &["127.0.0.1:0"]);
    let addr = program.tcp_addr();
    let bytes: Vec<u8> = (0..512).map(|i| i as u8).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..connections_each {
                    let mut client = connect(addr);
                    client.write_all(&bytes).unwrap();
                    let mut answer = [0; 512];
                    client.read_exact(&mut answer).unwrap();
                    assert!(answer == *bytes);
                    client.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(client.read(&mut answer).unwrap(), 0);
                }
            });
        }
    });
    program.signal(libc::SIGINT);
    assert_eq!(program.line(), "0 connections are left");
    assert_eq!(program.wait().1, "");
}

#[cfg(target_os = "linux")]
#[test]
fn event_echo_without_descriptors_left_waits_and_goes_on_later() {
    if cfg!(wakewheel_libkqueue) {
        return eprintln!("skipped: libkqueue needs descriptors of its own");
    }
    let program = Program::start("event_echo", &["127.0.0.1:0"]);
    let addr = program.tcp_addr();
    let limit = libc::rlimit { rlim_cur: 16, rlim_max: 16 };
    // SAFETY: `limit` is valid for reads, and nothing is written.
    let result = unsafe {
        libc::prlimit(program.id() as libc::pid_t, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut())
    };
    assert_eq!(result, 0);
    let clients: Vec<_> = (0..40).map(|_| connect(addr)).collect();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", program.id())).unwrap();
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .map_while(|field| field.parse().ok().or(Some(0)))
            .collect();
        fields[11] + fields[12]
    };
    let before = ticks();
    thread::sleep(Duration::from_secs(1));
    let used = ticks() - before;
    assert!(used <= 5, "{used} of 100 ticks: it spins");
    drop(clients);
    let mut late = connect(addr);
    late.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    late.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    program.signal(libc::SIGINT);
    assert_eq!(program.line(), "1 connections are left");
    assert!(program.wait().1.starts_with("no connection is accepted for a while: "));
}

#[test]
fn event_timers_ends_after_silence_or_by_a_signal() {
    let program = Program::start("event_timers", &["127.0.0.1:0"]);
    let addr = program.tcp_addr();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"hello", addr).unwrap();
    let me = socket.local_addr().unwrap();
    for expected in [&*format!("5 bytes from {me}"), "1 s", "a future, after 1.5 s", "2 s"] {
        assert_eq!(program.line(), expected);
    }
    // The third second and the silence may come in either order.
    while program.line() != "silence" {}
    assert!(program.wait().0.success());

    let program = Program::start("event_timers", &["127.0.0.1:0"]);
    program.tcp_addr();
    program.signal(libc::SIGINT);
    assert_eq!(program.line(), "interrupted");
    assert!(program.wait().0.success());
}
