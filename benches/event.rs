//! `wakewheel::event` beside libevent and libuv, in the manner of libevent's own benchmark (`test/bench.c`): pairs of
//! sockets, each with a persistent, level-triggered reader; a number of bytes travel along the chain of pairs, each callback
//! reading one and writing one to the next pair.
//!
//!     cargo bench --bench event              nanoseconds (CPU time, of the kernel as well)
//!     cargo bench --bench event -- insns     instructions, without those of the kernel (valgrind); exact
//!     cargo bench --bench event -- syscalls  system calls (strace); exact
//!
//! The others are the C programs in `event/`, which are compiled if their library is there (Debian: libevent-dev,
//! libuv1-dev); `libevent mt` is libevent with its locks, which it needs as soon as another thread stops the loop, as any
//! thread can stop ours; `libevent pt`, which differs with time-outs only, is libevent with precise timers, as ours are
//! (its own clock is the tick of the kernel, some milliseconds, which costs less to read). `with threads` is ours in a process
//! that has a second thread: without one, the lock of the sources is not locked. All are measured in the same way: a process
//! for each run, the programs taking turns; in it the readers are made, and then added, called and deleted [`ROUNDS`] times.
//! The tables have medians and, for the others, the median of the ratio to ours within a turn (above 1: ours is cheaper).
//!
//! "add" is the first time, when libevent gets memory for the descriptor; we, and libuv, have got it in "make". It and
//! "delete" end with an iteration that does not wait: libuv tells the kernel only then what was added.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use wakewheel::event::{Base, Event, Kinds, Run};

const PAIRS: [usize; 3] = [100, 1000, 10_000];
/// How many bytes travel at a time.
const ACTIVE: [usize; 2] = [1, 100];
/// How many are written in all.
const WRITES: usize = 5_000;
/// How often all are added and deleted again in a process.
const ROUNDS: usize = 12;
/// How many processes of each.
const RUNS: usize = 7;

const PHASES: [&str; 6] = ["make", "add", "add again", "call", "delete", "free"];

// ------------------------------------------------------------------------------------------------ our side

#[derive(Clone, Copy)]
struct Work {
    pairs: usize,
    active: usize,
    writes: usize,
    rounds: usize,
    /// Each reader has an idle time-out as well.
    timeouts: bool,
}

impl Work {
    fn args(&self) -> [String; 5] {
        [self.pairs, self.active, self.writes, self.rounds, usize::from(self.timeouts)].map(|n| n.to_string())
    }

    fn from_args(args: &[String]) -> Option<Work> {
        let numbers: Vec<usize> = args.iter().map_while(|arg| arg.parse().ok()).collect();
        let &[pairs, active, writes, rounds, timeouts] = &numbers[..] else { return None };
        Some(Work { pairs, active, writes, rounds, timeouts: timeouts != 0 })
    }
}

struct Side {
    work: Work,
    base: Base,
    events: Vec<Event>,
    chain: Rc<Chain>,
}

struct Chain {
    base: Base,
    sockets: Vec<(OwnedFd, OwnedFd)>,
    left: Cell<usize>,
    /// Callbacks to come.
    to_call: Cell<usize>,
}

impl Chain {
    fn give(&self, i: usize) {
        // SAFETY: one byte that lives through the call.
        let sent = unsafe { libc::send(self.sockets[i].1.as_raw_fd(), b"e".as_ptr().cast(), 1, 0) };
        assert_eq!(sent, 1, "send: {}", io::Error::last_os_error());
    }

    fn take(&self, i: usize) {
        let mut byte = 0u8;
        // SAFETY: one byte that lives through the call.
        let read = unsafe { libc::recv(self.sockets[i].0.as_raw_fd(), (&raw mut byte).cast(), 1, 0) };
        assert_eq!(read, 1, "recv: {}", io::Error::last_os_error());
        if self.left.get() > 0 {
            self.left.set(self.left.get() - 1);
            self.give(if i + 1 < self.sockets.len() { i + 1 } else { 0 });
        }
        self.to_call.set(self.to_call.get() - 1);
        if self.to_call.get() == 0 {
            self.base.shutdown();
        }
    }
}

// Functions of these names are what valgrind counts the instructions of.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phase_make(side: &mut Side) {
    let kinds = Kinds::READ | Kinds::PERSIST | if side.work.timeouts { Kinds::TIMEOUT } else { Kinds::NONE };
    side.events.extend((0..side.work.pairs).map(|i| {
        let chain = side.chain.clone();
        let fd = chain.sockets[i].0.as_raw_fd();
        Event::new(&side.base, fd, kinds, move |_, _| chain.take(i))
    }));
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phase_add(side: &mut Side) {
    for event in &side.events {
        event.attach(Some(Duration::from_secs(10))).expect("it is free");
    }
    side.base.run(Run::NonBlocking).expect("the loop");
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phase_call(side: &mut Side) {
    side.base.dispatch().expect("the loop");
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phase_delete(side: &mut Side) {
    for event in &side.events {
        event.detach().expect("it is attached");
    }
    side.base.run(Run::NonBlocking).expect("the loop");
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phase_free(side: &mut Side) {
    side.events.clear();
}

/// Prints the nanoseconds for one of each, like the C programs.
fn run(work: Work) -> io::Result<()> {
    descriptors_max();
    let base = Base::new()?;
    let mut sockets = Vec::new();
    for _ in 0..work.pairs {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        sockets.push((reader.into(), writer.into()));
    }
    let (left, to_call) = Default::default();
    let chain = Rc::new(Chain { base: base.clone(), sockets, left, to_call });
    let side = &mut Side { work, base, events: Vec::with_capacity(work.pairs), chain };

    // Written at the end, as stdio does it in the C programs: who reads it is not to be woken between the phases.
    let mut out = String::new();
    measure(&mut out, "make", phase_make, side, work.pairs);
    for round in 0..work.rounds {
        measure(&mut out, if round == 0 { "add" } else { "add again" }, phase_add, side, work.pairs);
        let calls = work.writes + work.active;
        side.chain.to_call.set(calls);
        side.chain.left.set(work.writes);
        (0..work.active).for_each(|i| side.chain.give(i * (work.pairs / work.active)));
        measure(&mut out, "call", phase_call, side, calls);
        measure(&mut out, "delete", phase_delete, side, work.pairs);
    }
    measure(&mut out, "free", phase_free, side, work.pairs);
    print!("{out}");
    Ok(())
}

fn measure(out: &mut String, name: &str, phase: extern "C" fn(&mut Side), side: &mut Side, n: usize) {
    let started = cpu_time();
    phase(side);
    let ns = (cpu_time() - started).as_nanos() as f64;
    writeln!(out, "{name} {:.1}", ns / n as f64).expect("a string takes it");
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the call to fill in.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// As many descriptors as may be. Says how many those are.
fn descriptors_max() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the calls, to fill in and to read.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    usize::try_from(limit.rlim_max).unwrap_or(usize::MAX)
}

// ---------------------------------------------------------------------------------------------- comparison

/// One of those that are compared: we, first of all.
struct Peer {
    name: &'static str,
    program: PathBuf,
    /// What it is told beside the work.
    arg: Option<&'static str>,
    /// Without time-outs it is the same as another one.
    needs_timeouts: bool,
}

impl Peer {
    fn args(&self, work: Work) -> Vec<String> {
        work.args().into_iter().chain(self.arg.map(str::to_owned)).collect()
    }
}

/// Tells us to have a second thread, so that our locks are needed.
const THREADS: &str = "threads";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let Some(work) = Work::from_args(&args) {
        if args.last().is_some_and(|arg| arg == THREADS) {
            std::thread::spawn(std::thread::park);
        }
        return Ok(run(work)?);
    }
    let ours =
        |name, arg| std::env::current_exe().map(|program| Peer { name, program, arg, needs_timeouts: false });
    let mut peers = vec![ours("wakewheel", None)?, ours("with threads", Some(THREADS))?];
    for (name, source, packages, flag) in [
        ("libevent", "libevent.c", &["libevent_core"][..], "-DNO_THREADS"),
        ("libevent mt", "libevent.c", &["libevent_pthreads", "libevent_core"], "-DTHREADS"),
        ("libuv", "libuv.c", &["libuv"], "-DNO_THREADS"),
        ("libevent pt", "libevent.c", &["libevent_core"], "-DPRECISE"),
    ] {
        match compile(source, packages, flag) {
            Ok(program) => peers.push(Peer { name, program, arg: None, needs_timeouts: flag == "-DPRECISE" }),
            Err(e) => println!("not compared with {name}: {e}"),
        }
    }
    // Some are for the library, the output, and valgrind.
    let pairs_max = descriptors_max().saturating_sub(40) / 2;
    if pairs_max < PAIRS[PAIRS.len() - 1] {
        println!("no more than {pairs_max} pairs at a time: more need more descriptors (ulimit -Hn)");
    }
    let pairs = PAIRS.map(|pairs| pairs.min(pairs_max));
    match args.first().map(String::as_str) {
        None => times(&peers, pairs),
        Some("insns") => instructions(&peers, pairs),
        Some("syscalls") => system_calls(&peers, pairs),
        Some(other) => Err(format!("{other:?}: give nothing, or insns, or syscalls").into()),
    }
}

fn compile(source: &str, packages: &[&str], flag: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let flags = output(Command::new("pkg-config").args(["--cflags", "--libs"]).args(packages))?;
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}{flag}"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/event").join(source);
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    output(command.args(["-O2", flag]).arg(source).arg("-o").arg(&program).args(flags.split_whitespace()))?;
    Ok(program)
}

/// What it prints, if it succeeds.
fn output(command: &mut Command) -> Result<String, Box<dyn std::error::Error>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// For each phase, what there is of each peer.
type Table = Vec<(&'static str, Vec<Vec<f64>>)>;

/// Those who are worth a column.
fn peers_for(peers: &[Peer], work: Work) -> Vec<&Peer> {
    peers.iter().filter(|peer| work.timeouts || !peer.needs_timeouts).collect()
}

fn works(pairs: [usize; 3], writes: usize, rounds: usize) -> impl Iterator<Item = Work> {
    [false, true].into_iter().flat_map(move |timeouts| {
        ACTIVE.into_iter().flat_map(move |active| {
            pairs.into_iter().map(move |pairs| Work { pairs, active, writes, rounds, timeouts })
        })
    })
}

fn times(peers: &[Peer], pairs: [usize; 3]) -> Result<(), Box<dyn std::error::Error>> {
    let mut growth = Vec::new();
    for work in works(pairs, WRITES, ROUNDS) {
        let peers = &peers_for(peers, work);
        let mut table: Table = PHASES.map(|phase| (phase, vec![Vec::new(); peers.len()])).into();
        for _ in 0..RUNS {
            for (i, peer) in peers.iter().enumerate() {
                let text = output(Command::new(&peer.program).args(peer.args(work)))?;
                let figures = figures(&text)?;
                for (phase, columns) in &mut table {
                    columns[i].push(median(figures.get(phase).ok_or("a phase is missing")?));
                }
            }
        }
        print(peers, work, &format!(", {} active", work.active), &table, "ns");
        growth.push((work, table));
    }
    // Who needs time-outs comes last: the columns before it are the same ones in all tables.
    print_growth(peers, &growth);
    Ok(())
}

/// Lines of a phase and a figure.
fn figures(text: &str) -> Result<BTreeMap<&str, Vec<f64>>, Box<dyn std::error::Error>> {
    let mut figures = BTreeMap::<&str, Vec<f64>>::new();
    for line in text.lines() {
        let (phase, figure) = line.rsplit_once(' ').ok_or("a line without a figure")?;
        figures.entry(phase).or_default().push(figure.parse()?);
    }
    Ok(figures)
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn print(peers: &[&Peer], work: Work, active: &str, table: &Table, unit: &str) {
    let with = if work.timeouts { ", with idle time-outs" } else { "" };
    println!("\n{} pairs{active}{with}", work.pairs);
    print!("  {unit:<10}");
    peers.iter().for_each(|peer| print!(" {:>12} {:>5}", peer.name, ""));
    println!();
    for (phase, columns) in table {
        print!("  {phase:<10} {:>12.0} {:>5}", median(&columns[0]), "");
        for column in &columns[1..] {
            let ratios: Vec<f64> = column.iter().zip(&columns[0]).map(|(other, ours)| other / ours).collect();
            print!(" {:>12.0} {:>5.2}", median(column), median(&ratios));
        }
        println!();
    }
}

/// What one of each costs with the most pairs, in terms of what it costs with the fewest.
fn print_growth(peers: &[Peer], tables: &[(Work, Table)]) {
    println!("\ngrowth from {} pairs to {}", tables[0].0.pairs, tables[PAIRS.len() - 1].0.pairs);
    for tables in tables.chunks(PAIRS.len()) {
        let (few, many) = (&tables[0], &tables[PAIRS.len() - 1]);
        let with = if few.0.timeouts { ", with idle time-outs" } else { "" };
        for ((phase, few_ns), (_, many_ns)) in few.1.iter().zip(&many.1) {
            if ["add again", "call", "delete"].contains(phase) {
                print!("  {phase:<10} {:>3} active{with:<22}", few.0.active);
                for (peer, (few, many)) in peers.iter().zip(few_ns.iter().zip(many_ns)) {
                    print!(" {} {:.2}", peer.name, median(many) / median(few));
                }
                println!();
            }
        }
    }
}

fn instructions(peers: &[Peer], pairs: [usize; 3]) -> Result<(), Box<dyn std::error::Error>> {
    for work in works(pairs, 5000, 1).filter(|work| work.active == ACTIVE[0]) {
        let count = |peer: &Peer, phase: &str, active, rounds| -> Result<f64, Box<dyn std::error::Error>> {
            let mut command = Command::new("valgrind");
            command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
            command.arg(format!("--toggle-collect=phase_{phase}"));
            command.arg(&peer.program).args(peer.args(Work { active, rounds, ..work }));
            let output = command.output().map_err(|e| format!("valgrind: {e}"))?;
            let text = String::from_utf8_lossy(&output.stderr);
            let counted = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
            Ok(counted.ok_or_else(|| format!("valgrind: {}", text.trim()))?)
        };
        let mut table: Table = Vec::new();
        let mut add = |phase, column| match table.iter_mut().find(|(other, _)| *other == phase) {
            Some((_, columns)) => columns.push(vec![column]),
            None => table.push((phase, vec![vec![column]])),
        };
        let [few, many] = ACTIVE;
        let peers = &peers_for(peers, work);
        for peer in peers {
            let pairs = work.pairs as f64;
            let calls = |active| (work.writes + active) as f64;
            let first = count(peer, "add", few, 1)?;
            add("make", count(peer, "make", few, 1)? / pairs);
            add("add", first / pairs);
            add("add again", (count(peer, "add", few, 2)? - first) / pairs);
            add("call/1", count(peer, "call", few, 1)? / calls(few));
            add("call/100", count(peer, "call", many, 1)? / calls(many));
            add("delete", count(peer, "delete", few, 1)? / pairs);
            add("free", count(peer, "free", few, 1)? / pairs);
        }
        print(peers, work, "", &table, "insns");
    }
    Ok(())
}

fn system_calls(peers: &[Peer], pairs: [usize; 3]) -> Result<(), Box<dyn std::error::Error>> {
    // Their number is what it is for any number of pairs.
    const ROUNDS: usize = 2;
    for work in works(pairs, 2000, ROUNDS).filter(|work| work.pairs == pairs[1]) {
        let with = if work.timeouts { ", with idle time-outs" } else { "" };
        println!(
            "\n{} pairs, {} active{with}, {ROUNDS} rounds, {} writes",
            work.pairs, work.active, work.writes
        );
        for peer in peers_for(peers, work) {
            let mut command = Command::new("strace");
            command.args(["-f", "-c", "-U", "calls,name", "--"]).arg(&peer.program).args(peer.args(work));
            let output = command.output().map_err(|e| format!("strace: {e}"))?;
            let text = String::from_utf8_lossy(&output.stderr);
            let mut counts = BTreeMap::new();
            for line in text.lines() {
                let mut words = line.split_whitespace();
                if let (Some(Ok(n)), Some(name)) = (words.next().map(str::parse::<u64>), words.next()) {
                    // What the pairs themselves and the start of the program cost is no matter here.
                    let is_ours =
                        name.starts_with("epoll_") || ["recvfrom", "sendto", "write"].contains(&name);
                    if is_ours && n > ROUNDS as u64 {
                        counts.insert(name.to_owned(), n);
                    }
                }
            }
            let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
            println!("  {:<12} {}", peer.name, counts.join(", "));
        }
    }
    Ok(())
}
