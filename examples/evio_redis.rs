//! A server for Redis clients, in memory: strings, counters and deadlines.
//!
//!     cargo run --release --example evio_redis -- tcp://127.0.0.1:6380 --loops 2
//!     redis-cli -p 6380 set greeting hello ex 60
//!     redis-benchmark -p 6380 -t set,get -P 16 -q
//!
//! A request that has come whole is answered out of the buffer that it was read into: its arguments are slices of the
//! input, and the reply is appended to the loop's output. What allocates is a new key, or a value longer than the one
//! before it.

mod common;
#[path = "common/resp.rs"]
mod resp;

use common::Signal;
use foldhash::fast::RandomState;
use resp::Parsed;
use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker, ready};
use std::time::{Duration, Instant};
use wakewheel::evio::{Action, Builder, Conn, Handler, InputStream, Reply, Server};
use wakewheel::{Timer, spawn_local};

const USAGE: &str = "evio_redis [ADDRESS]... [--loops N] [--busy-poll TIME] [--backend epoll|kqueue|poll]";

/// When so much output has been made, it is sent before the next command is looked at: a few bytes ask for many.
const OUT_LEN_MAX: usize = 1024 * 1024;

/// The list of arguments that is kept from one input to the next. A longer one is given back.
const ARGS_KEPT: usize = 1024;

fn main() -> ExitCode {
    common::main(USAGE, |parser| common::server(parser, "tcp://127.0.0.1:6380"), run)
}

fn run((addrs, builder): (Vec<String>, Builder<Client>)) -> io::Result<()> {
    let redis = Redis { store: Arc::default(), args: Vec::new(), signal: Signal::new()? };
    builder.serve(redis, addrs)
}

/// What a loop has: a part in the one store, and a list to reuse.
#[derive(Clone)]
struct Redis {
    store: Arc<Mutex<Store>>,
    args: Vec<&'static [u8]>,
    signal: Signal,
}

#[derive(Default)]
struct Client {
    /// What has come and was not answered yet. (Not `unread`, because of `OUT_LEN_MAX`: there may be whole commands in it,
    /// to be gone on with when nothing more comes.)
    input: InputStream,
    /// It is of no use before there is so much of it.
    needed: usize,
}

/// Why no more commands are executed.
enum Stop {
    /// The rest is not a command before there are so many bytes of it.
    Incomplete(usize),
    /// There is much output.
    Flush,
    End(Action),
}

impl Handler for Redis {
    type Context = Client;

    fn serving(&mut self, server: &Server<Client>) -> Action {
        for addr in server.addrs() {
            println!("listening on {addr}");
        }
        spawn_local(self.signal.clone().stop(server.clone())).detach();
        spawn_local(sweep(self.store.clone())).detach();
        Action::None
    }

    fn data<'a>(&mut self, conn: &mut Conn<'_, Client>, input: &'a [u8]) -> Reply<'a> {
        let Client { input: stream, needed } = &mut *conn.context;
        let mut input = stream.begin(input);
        if input.len() < *needed {
            return Reply::none();
        }
        let mut args = recycle(mem::take(&mut self.args));
        // Once for all commands of the input. With one loop nobody else wants it; with several, they take turns at what
        // takes less time than the system calls around it.
        let (left, stop) = execute_all(&mut lock(&self.store), &input, &mut args, conn.out);
        self.args = recycle(args);
        input.end(left);
        drop(input);
        *needed = 0;
        match stop {
            Stop::Incomplete(len) => *needed = len,
            Stop::Flush => conn.wake(),
            Stop::End(action) => return action.into(),
        }
        Reply::none()
    }
}

/// An empty list with the memory of another, whose slices need not live any more: no allocation for each input.
fn recycle<'b>(mut args: Vec<&[u8]>) -> Vec<&'b [u8]> {
    args.clear();
    args.shrink_to(ARGS_KEPT);
    args.into_iter().map(|_| unreachable!("it is empty")).collect()
}

// -------------------------------------------------------------------------------------------------- commands

/// To tell a command that is unknown from one with a wrong number of arguments.
const COMMANDS: [&[u8]; 24] = [
    b"COMMAND",
    b"CONFIG",
    b"DBSIZE",
    b"DECR",
    b"DEL",
    b"ECHO",
    b"EXISTS",
    b"EXPIRE",
    b"FLUSHALL",
    b"GET",
    b"INCR",
    b"INCRBY",
    b"INFO",
    b"MGET",
    b"MSET",
    b"PERSIST",
    b"PEXPIRE",
    b"PING",
    b"PTTL",
    b"QUIT",
    b"SELECT",
    b"SET",
    b"SHUTDOWN",
    b"TTL",
];
const COMMAND_NAME_LEN_MAX: usize = 16;

const NOT_AN_INTEGER: &str = "value is not an integer or out of range";

/// Executes the commands of `input`, one after the other. How much of it is left over, and why.
fn execute_all<'a>(
    store: &mut Store,
    mut input: &'a [u8],
    args: &mut Vec<&'a [u8]>,
    out: &mut Vec<u8>,
) -> (usize, Stop) {
    let stop = loop {
        if out.len() >= OUT_LEN_MAX {
            break Stop::Flush;
        }
        if let Some(rest) = execute_usual(store, input, out) {
            input = rest;
            continue;
        }
        match resp::parse(input, args) {
            Ok(Parsed::Command(len)) => {
                input = &input[len..];
                if let Some(action) = execute(store, args, out) {
                    break Stop::End(action);
                }
            }
            Ok(Parsed::Incomplete(len)) => break Stop::Incomplete(len),
            Err(e) => {
                resp::error(out, format_args!("Protocol error: {e}"));
                break Stop::End(Action::Close);
            }
        }
    };
    (input.len(), stop)
}

/// GET and SET, of which a server hears more than of all others, as programs write them: what there is to know about such a
/// command is in its first bytes. It returns what comes after it, or `None` if it is another one, or not all there.
#[inline]
fn execute_usual<'a>(store: &mut Store, input: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    if let Some(args) = input.strip_prefix(b"*2\r\n$3\r\nGET\r\n") {
        let (key, rest) = resp::short_arg(args)?;
        bulk_or_null(out, store.get(key));
        return Some(rest);
    }
    let args = input.strip_prefix(b"*3\r\n$3\r\nSET\r\n")?;
    let (key, args) = resp::short_arg(args)?;
    let (value, rest) = resp::short_arg(args)?;
    store.set(key, value, None);
    out.extend_from_slice(b"+OK\r\n");
    Some(rest)
}

/// Does what one command says, and appends the reply to `out`. The action, if it is the last one.
fn execute(store: &mut Store, command: &[&[u8]], out: &mut Vec<u8>) -> Option<Action> {
    // An empty line has no name and no reply.
    let (name, args) = command.split_first()?;
    let mut upper = [0; COMMAND_NAME_LEN_MAX];
    let upper = match upper.get_mut(..name.len()) {
        Some(upper) => {
            upper.iter_mut().zip(name.iter()).for_each(|(upper, byte)| *upper = byte.to_ascii_uppercase());
            &*upper
        }
        None => name,
    };
    match (upper, args) {
        (b"GET", [key]) => bulk_or_null(out, store.get(key)),
        (b"SET", [key, value]) => {
            store.set(key, value, None);
            resp::simple(out, "OK");
        }
        (b"SET", [key, value, options @ ..]) => set(store, key, value, options, out),
        (b"MGET", keys @ [_, ..]) => {
            resp::array(out, keys.len());
            for key in keys {
                bulk_or_null(out, store.get(key));
            }
        }
        (b"MSET", pairs @ [_, _, ..]) if pairs.len() % 2 == 0 => {
            for pair in pairs.chunks_exact(2) {
                store.set(pair[0], pair[1], None);
            }
            resp::simple(out, "OK");
        }
        (b"DEL", keys @ [_, ..]) => {
            let count = keys.iter().filter(|key| store.remove(key)).count();
            resp::integer(out, count as i64);
        }
        (b"EXISTS", keys @ [_, ..]) => {
            let count = keys.iter().filter(|key| store.get(key).is_some()).count();
            resp::integer(out, count as i64);
        }
        (b"INCR", [key]) => integer_or_error(out, store.add(key, 1)),
        (b"DECR", [key]) => integer_or_error(out, store.add(key, -1)),
        (b"INCRBY", [key, by]) => {
            let sum = number(by).ok_or(NOT_AN_INTEGER).and_then(|by| store.add(key, by));
            integer_or_error(out, sum);
        }
        (b"EXPIRE", [key, time]) => integer_or_error(out, expire(store, key, time, 1000)),
        (b"PEXPIRE", [key, time]) => integer_or_error(out, expire(store, key, time, 1)),
        (b"PERSIST", [key]) => {
            let had_one = store.deadline(key).flatten().is_some();
            store.set_deadline(key, None);
            resp::integer(out, i64::from(had_one));
        }
        // Rounded: just after EXPIRE with 10, it is 10.
        (b"TTL", [key]) => {
            let ms = time_left_ms(store, key);
            resp::integer(out, if ms < 0 { ms } else { (ms + 500) / 1000 });
        }
        (b"PTTL", [key]) => resp::integer(out, time_left_ms(store, key)),
        (b"PING", []) => resp::simple(out, "PONG"),
        (b"PING" | b"ECHO", [text]) => resp::bulk(out, text),
        (b"DBSIZE", []) => resp::integer(out, store.values.len() as i64),
        (b"FLUSHALL", _) => {
            store.clear();
            resp::simple(out, "OK");
        }
        (b"SELECT", [b"0"]) => resp::simple(out, "OK"),
        (b"SELECT", [_]) => resp::error(out, "DB index is out of range: there is only 0"),
        (b"INFO", _) => {
            let (keys, expires) = (store.values.len(), store.deadlines.len());
            let text = format!(
                "# Server\r\nserver_name:wakewheel evio_redis\r\nprocess_id:{}\r\n\
                 # Keyspace\r\ndb0:keys={keys},expires={expires},avg_ttl=0\r\n",
                std::process::id()
            );
            resp::bulk(out, text.as_bytes());
        }
        // redis-benchmark wants to know these two.
        (b"CONFIG", [get, name]) if get.eq_ignore_ascii_case(b"GET") => {
            let value = match &name.to_ascii_lowercase()[..] {
                b"save" => "",
                b"appendonly" => "no",
                _ => {
                    resp::array(out, 0);
                    return None;
                }
            };
            resp::array(out, 2);
            resp::bulk(out, name);
            resp::bulk(out, value.as_bytes());
        }
        // redis-cli asks for it, to help with typing, and does without.
        (b"COMMAND", _) => resp::array(out, 0),
        (b"QUIT", _) => {
            resp::simple(out, "OK");
            return Some(Action::Close);
        }
        // Like Redis, it answers nothing but the end.
        (b"SHUTDOWN", _) => return Some(Action::Shutdown),
        (known, _) if COMMANDS.contains(&known) => {
            let name = known.to_ascii_lowercase();
            let name = name.escape_ascii();
            resp::error(out, format_args!("wrong number of arguments for '{name}' command"));
        }
        _ => {
            let name = name[..name.len().min(128)].escape_ascii();
            resp::error(out, format_args!("unknown command '{name}'"));
        }
    }
    None
}

#[inline]
fn bulk_or_null(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => resp::bulk(out, bytes),
        None => resp::null(out),
    }
}

fn integer_or_error(out: &mut Vec<u8>, result: Result<i64, &str>) {
    match result {
        Ok(number) => resp::integer(out, number),
        Err(text) => resp::error(out, text),
    }
}

/// SET with options.
fn set(store: &mut Store, key: &[u8], value: &[u8], options: &[&[u8]], out: &mut Vec<u8>) {
    const BAD_TIME: &str = "invalid expire time in 'set' command";

    let (mut deadline, mut only_if) = (None, None);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match &option.to_ascii_uppercase()[..] {
            unit @ (b"EX" | b"PX") if deadline.is_none() => {
                let Some(time) = options.next() else { return resp::error(out, "syntax error") };
                let Some(time) = number(time) else { return resp::error(out, NOT_AN_INTEGER) };
                let at = deadline_after(time, if unit == b"EX" { 1000 } else { 1 });
                let Some(at) = at.filter(|_| time > 0) else { return resp::error(out, BAD_TIME) };
                deadline = Some(at);
            }
            b"NX" if only_if.is_none() => only_if = Some(false),
            b"XX" if only_if.is_none() => only_if = Some(true),
            _ => return resp::error(out, "syntax error"),
        }
    }
    if only_if.is_some_and(|exists| exists != store.get(key).is_some()) {
        return resp::null(out);
    }
    store.set(key, value, deadline);
    resp::simple(out, "OK");
}

/// EXPIRE: 1 if there is such a key. A time that has passed is the end of it.
fn expire(store: &mut Store, key: &[u8], time: &[u8], unit_ms: i64) -> Result<i64, &'static str> {
    let time = number(time).ok_or(NOT_AN_INTEGER)?;
    let is_there = match time {
        ..=0 => store.remove(key),
        _ => {
            let at = deadline_after(time, unit_ms).ok_or("invalid expire time in 'expire' command")?;
            store.set_deadline(key, Some(at))
        }
    };
    Ok(i64::from(is_there))
}

fn deadline_after(time: i64, unit_ms: i64) -> Option<Instant> {
    let ms = u64::try_from(time.checked_mul(unit_ms)?).ok()?;
    Instant::now().checked_add(Duration::from_millis(ms))
}

/// -1: without end; -2: there is no such key.
fn time_left_ms(store: &Store, key: &[u8]) -> i64 {
    match store.deadline(key) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => {
            i64::try_from(at.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(i64::MAX)
        }
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

// ----------------------------------------------------------------------------------------------------- store

/// The values by their keys, for all loops.
#[derive(Default)]
struct Store {
    /// With a hash that has a new seed in each process, and takes a fraction of the time of std's. Std's is the harder one
    /// to aim at: take that where strangers choose the keys.
    values: HashMap<Box<[u8]>, Value, RandomState>,
    /// When values expire, the next first; each as its value has it.
    deadlines: BTreeSet<(Instant, Box<[u8]>)>,
    /// Who wants to know when there is a new first one.
    sweeper: Option<Waker>,
}

struct Value {
    bytes: Vec<u8>,
    deadline: Option<Instant>,
}

impl Value {
    /// Is it still there, for all to see? Those that are not will be swept away in a moment.
    #[inline]
    fn is_alive(&self) -> bool {
        self.deadline.is_none_or(|at| at > Instant::now())
    }

    /// In the memory of the bytes before, unless that is much too large.
    #[inline]
    fn replace(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        if self.bytes.capacity() / 4 > bytes.len() {
            self.bytes.shrink_to(bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }
}

impl Store {
    #[inline]
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.values.get(key).filter(|value| value.is_alive()).map(|value| &value.bytes[..])
    }

    /// When the key expires: `None` if there is no such key, `Some(None)` if it does not.
    fn deadline(&self, key: &[u8]) -> Option<Option<Instant>> {
        self.values.get(key).filter(|value| value.is_alive()).map(|value| value.deadline)
    }

    #[inline]
    fn set(&mut self, key: &[u8], bytes: &[u8], deadline: Option<Instant>) {
        let before = match self.values.get_mut(key) {
            Some(value) => {
                value.replace(bytes);
                mem::replace(&mut value.deadline, deadline)
            }
            None => {
                self.values.insert(key.into(), Value { bytes: bytes.to_vec(), deadline });
                None
            }
        };
        if before.is_some() || deadline.is_some() {
            self.note_deadline(key, before, deadline);
        }
    }

    /// Says whether there was one.
    fn remove(&mut self, key: &[u8]) -> bool {
        let Some(value) = self.values.remove(key) else { return false };
        self.note_deadline(key, value.deadline, None);
        value.is_alive()
    }

    /// Adds to a number, which begins as 0, and keeps its deadline.
    fn add(&mut self, key: &[u8], by: i64) -> Result<i64, &'static str> {
        let Some(value) = self.values.get_mut(key).filter(|value| value.is_alive()) else {
            self.set(key, by.to_string().as_bytes(), None);
            return Ok(by);
        };
        let before = number(&value.bytes).ok_or(NOT_AN_INTEGER)?;
        let sum = before.checked_add(by).ok_or("increment or decrement would overflow")?;
        value.replace(sum.to_string().as_bytes());
        Ok(sum)
    }

    /// Says whether there is such a key.
    fn set_deadline(&mut self, key: &[u8], deadline: Option<Instant>) -> bool {
        let Some(value) = self.values.get_mut(key).filter(|value| value.is_alive()) else { return false };
        let before = mem::replace(&mut value.deadline, deadline);
        self.note_deadline(key, before, deadline);
        true
    }

    #[cold]
    fn note_deadline(&mut self, key: &[u8], before: Option<Instant>, after: Option<Instant>) {
        if let Some(at) = before {
            self.deadlines.remove(&(at, key.into()));
        }
        if let Some(at) = after {
            let is_first = self.deadlines.first().is_none_or(|(first, _)| at < *first);
            self.deadlines.insert((at, key.into()));
            if let Some(sweeper) = self.sweeper.take_if(|_| is_first) {
                sweeper.wake();
            }
        }
    }

    fn clear(&mut self) {
        self.values = HashMap::default();
        self.deadlines = BTreeSet::new();
    }

    /// Removes what has expired, but for what is beyond `max`. Says when there is something to do again.
    fn sweep(&mut self, max: usize) -> Option<Instant> {
        let now = Instant::now();
        for _ in 0..max {
            let (at, _) = self.deadlines.first()?;
            if *at > now {
                return Some(*at);
            }
            if let Some((_, key)) = self.deadlines.pop_first() {
                self.values.remove(&key);
            }
        }
        self.deadlines.first().map(|(at, _)| *at)
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    // A callback that panics costs its own connection, not all the others.
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes each value when its time has come. One timer for all of them: it is set to the first deadline.
async fn sweep(store: Arc<Mutex<Store>>) {
    /// The others have their turn after so many.
    const SWEPT_MAX: usize = 1000;

    let mut timer = Timer::never();
    poll_fn(|cx| {
        {
            let mut store = lock(&store);
            match store.sweep(SWEPT_MAX) {
                Some(at) => timer.set_at(at),
                None => timer.clear(),
            }
            // Under the same lock, so that no loop can come in between with a deadline that is earlier.
            store.sweeper = Some(cx.waker().clone());
        }
        ready!(Pin::new(&mut timer).poll(cx));
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
