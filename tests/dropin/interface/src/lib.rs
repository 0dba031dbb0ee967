//! The whole interface of async-io 2.6.0 on Unix systems, item by item, for the compiler to check: names, arguments and results,
//! bounds, and what the unnamed futures are. Nothing here is run. What the items do is in `tests/`.
//!
//! It was made from the list that rustdoc gives of the published crate. There can be more than this in a crate that passes.

// An `unsafe` that need not be is a difference.
#![deny(unused_unsafe)]
#![allow(clippy::type_complexity)]

use async_io::{Async, IoSafe, Readable, ReadableOwned, Timer, Writable, WritableOwned};
use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};
use std::borrow::Cow;
use std::fmt::Debug;
use std::fs::File;
use std::future::Future;
use std::io::{self, BufReader, BufWriter, LineWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

// ------------------------------------------------------------------------------------------------ functions

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    async_io::block_on(future)
}

pub fn block_on_takes_what_borrows_and_is_not_send(text: &str) -> usize {
    let not_send = Rc::new(1);
    async_io::block_on(async { text.len() + *not_send })
}

pub const REACTOR_FD: fn() -> Option<BorrowedFd<'static>> = async_io::os::unix::reactor_fd;

// ---------------------------------------------------------------------------------------------------- Timer

pub fn timer() {
    let _: fn() -> Timer = Timer::never;
    let _: fn(Duration) -> Timer = Timer::after;
    let _: fn(Instant) -> Timer = Timer::at;
    let _: fn(Duration) -> Timer = Timer::interval;
    let _: fn(Instant, Duration) -> Timer = Timer::interval_at;
    let _: fn(&Timer) -> bool = Timer::will_fire;
    let _: fn(&mut Timer, Duration) = Timer::set_after;
    let _: fn(&mut Timer, Instant) = Timer::set_at;
    let _: fn(&mut Timer, Duration) = Timer::set_interval;
    let _: fn(&mut Timer, Instant, Duration) = Timer::set_interval_at;
    let _: fn(&mut Timer) = Timer::clear;
    future::<Timer, Instant>();
    stream::<Timer, Instant>();
    everything::<Timer>();
    debug::<Timer>();
}

// ---------------------------------------------------------------------------------------------------- Async

pub fn made_of_a_descriptor<T: AsFd>() {
    let _: fn(T) -> io::Result<Async<T>> = Async::new;
    let _: fn(T) -> io::Result<Async<T>> = Async::new_nonblocking;
    as_fd::<Async<T>>();
}

pub fn of_any_type<T>() {
    let _: fn(&Async<T>) -> &T = Async::get_ref;
    let _: unsafe fn(&mut Async<T>) -> &mut T = Async::get_mut;
    let _: fn(Async<T>) -> io::Result<T> = Async::into_inner;
    let _: for<'a> fn(&'a Async<T>) -> Readable<'a, T> = Async::readable;
    let _: for<'a> fn(&'a Async<T>) -> Writable<'a, T> = Async::writable;
    let _: fn(Arc<Async<T>>) -> ReadableOwned<T> = Async::readable_owned;
    let _: fn(Arc<Async<T>>) -> WritableOwned<T> = Async::writable_owned;
    let _: fn(&Async<T>, &mut Context<'_>) -> Poll<io::Result<()>> = Async::poll_readable;
    let _: fn(&Async<T>, &mut Context<'_>) -> Poll<io::Result<()>> = Async::poll_writable;
    as_ref::<Async<T>, T>();
    unpin::<Async<T>>();
}

pub fn what_an_async_has_of_its_type<T>()
where
    T: Debug + AsFd + AsRawFd + From<OwnedFd> + Into<OwnedFd>,
{
    debug::<Async<T>>();
    as_fd::<Async<T>>();
    as_raw_fd::<Async<T>>();
    try_from::<OwnedFd, Async<T>>();
    try_from::<Async<T>, OwnedFd>();
}

pub fn auto_traits_of_an_async<T: Send, U: Sync, V: UnwindSafe, W: RefUnwindSafe>() {
    send::<Async<T>>();
    sync::<Async<U>>();
    unwind_safe::<Async<V>>();
    ref_unwind_safe::<Async<W>>();
}

/// What the closure returns need not be Send.
pub fn with_a_shared_closure<T: Sync>(io: &Async<T>, op: impl FnMut(&T) -> io::Result<Rc<u8>> + Send + Sync) {
    result::<Rc<u8>>(io.read_with(op));
}

pub fn with_closures_that_borrow<'a, T: 'a>(io: &'a mut Async<T>, sum: &'a mut u8) {
    fn is<R>(_: impl Future<Output = io::Result<R>>) {}
    is::<u8>(io.read_with(|_: &T| Ok(*sum)));
    is::<u8>(io.write_with(|_: &T| Ok(*sum)));
    // SAFETY: these futures are dropped, not polled.
    is::<u8>(unsafe { io.read_with_mut(|_: &mut T| Ok(std::mem::take(sum))) });
    // SAFETY: as above.
    is::<u8>(unsafe { io.write_with_mut(|_: &mut T| Ok(std::mem::take(sum))) });
}

pub fn with_mutable_closures<T: Send + Sync>(io: &mut Async<T>) {
    // SAFETY: these futures are dropped, not polled.
    result::<u8>(unsafe { io.read_with_mut(|_: &mut T| Ok(1)) });
    // SAFETY: as above.
    result::<u8>(unsafe { io.write_with_mut(|_: &mut T| Ok(1)) });
    result::<u8>(io.read_with(|_: &T| Ok(1)));
    result::<u8>(io.write_with(|_: &T| Ok(1)));
}

// ---------------------------------------------------------------------------------------- the named futures

pub fn waiting_futures<T>() {
    future::<Readable<'_, T>, io::Result<()>>();
    future::<Writable<'_, T>, io::Result<()>>();
    future::<ReadableOwned<T>, io::Result<()>>();
    future::<WritableOwned<T>, io::Result<()>>();
    unpin::<Readable<'_, T>>();
    unpin::<Writable<'_, T>>();
    unpin::<ReadableOwned<T>>();
    unpin::<WritableOwned<T>>();
    debug::<Readable<'_, T>>();
    debug::<Writable<'_, T>>();
    debug::<ReadableOwned<T>>();
    debug::<WritableOwned<T>>();
}

pub fn auto_traits_of_the_waiting_futures<T: Sync, U: Send + Sync, V: RefUnwindSafe>() {
    send::<Readable<'_, T>>();
    sync::<Readable<'_, T>>();
    send::<Writable<'_, T>>();
    sync::<Writable<'_, T>>();
    send::<ReadableOwned<U>>();
    sync::<ReadableOwned<U>>();
    send::<WritableOwned<U>>();
    sync::<WritableOwned<U>>();
    unwind_safe::<Readable<'_, V>>();
    ref_unwind_safe::<Readable<'_, V>>();
    unwind_safe::<ReadableOwned<V>>();
    ref_unwind_safe::<ReadableOwned<V>>();
    unwind_safe::<Writable<'_, V>>();
    ref_unwind_safe::<Writable<'_, V>>();
    unwind_safe::<WritableOwned<V>>();
    ref_unwind_safe::<WritableOwned<V>>();
}

/// A longer lifetime does for a shorter one.
pub fn shorter<'a: 'b, 'b>(long: Readable<'a, &'a TcpStream>) -> Readable<'b, &'b TcpStream> {
    long
}

/// As above.
pub fn shorter_owned<'a: 'b, 'b>(long: ReadableOwned<&'a TcpStream>) -> ReadableOwned<&'b TcpStream> {
    long
}

/// As above.
pub fn shorter_async<'a: 'b, 'b>(long: Async<&'a TcpStream>) -> Async<&'b TcpStream> {
    long
}

// ------------------------------------------------------------------------------------- reading and writing

pub fn by_an_exclusive_reference<R: IoSafe + Read, W: IoSafe + Write>() {
    read::<Async<R>>();
    write::<Async<W>>();
}

pub fn by_a_shared_reference<R, W>()
where
    for<'a> &'a R: Read,
    for<'a> &'a W: Write,
{
    read::<&Async<R>>();
    write::<&Async<W>>();
}

pub fn by_pointers_to_it() {
    read::<&mut Async<TcpStream>>();
    write::<&mut Async<TcpStream>>();
    read::<Box<Async<UnixStream>>>();
    write::<Box<Async<UnixStream>>>();
    read::<Async<&TcpStream>>();
    write::<Async<&UnixStream>>();
    read::<Async<Box<dyn SafeRead>>>();
}

pub trait SafeRead: IoSafe + Read {}

pub fn io_safe_types<T, R, W, C>()
where
    T: IoSafe + ?Sized,
    R: IoSafe + Read,
    W: IoSafe + Write,
    C: IoSafe + Clone,
{
    io_safe::<&str>();
    io_safe::<&mut T>();
    io_safe::<Box<T>>();
    io_safe::<BufReader<R>>();
    io_safe::<BufWriter<W>>();
    io_safe::<LineWriter<W>>();
    io_safe::<Cow<'_, C>>();
    io_safe::<File>();
    io_safe::<io::Stdin>();
    io_safe::<io::Stdout>();
    io_safe::<io::Stderr>();
    io_safe::<io::StdinLock<'_>>();
    io_safe::<io::StdoutLock<'_>>();
    io_safe::<io::StderrLock<'_>>();
    io_safe::<std::process::ChildStdin>();
    io_safe::<std::process::ChildStdout>();
    io_safe::<std::process::ChildStderr>();
    io_safe::<TcpStream>();
    io_safe::<UnixStream>();
}

/// From Rust 1.87 on.
pub mod pipe {
    #![allow(clippy::incompatible_msrv)]
    use super::*;

    pub fn io_safe_types() {
        io_safe::<io::PipeReader>();
        io_safe::<io::PipeWriter>();
    }
}

/// Anybody can promise it.
pub struct Mine;
// SAFETY: it has no descriptor.
unsafe impl IoSafe for Mine {}

// ------------------------------------------------------------------------------------------------------ TCP

pub fn at_any_address<A: Into<SocketAddr> + Send + Sync>(udp: &Async<UdpSocket>, a: A, b: A) {
    let _: fn(A) -> io::Result<Async<TcpListener>> = Async::<TcpListener>::bind;
    let _: fn(A) -> io::Result<Async<UdpSocket>> = Async::<UdpSocket>::bind;
    result::<Async<TcpStream>>(Async::<TcpStream>::connect(a));
    result::<usize>(udp.send_to(b"", b));
}

pub fn tcp(listener: &Async<TcpListener>, stream: &Async<TcpStream>, buf: &mut [u8]) {
    result::<(Async<TcpStream>, SocketAddr)>(listener.accept());
    result::<Async<TcpStream>>(Async::<TcpStream>::connect(([0; 16], 1)));
    result::<usize>(stream.peek(buf));
    try_from::<TcpListener, Async<TcpListener>>();
    try_from::<TcpStream, Async<TcpStream>>();
    everything::<Async<TcpListener>>();
    everything::<Async<TcpStream>>();
}

pub fn tcp_incoming(
    listener: &Async<TcpListener>,
) -> impl Stream<Item = io::Result<Async<TcpStream>>> + Send + Sync + '_ {
    listener.incoming()
}

/// It does not keep what it was made of.
pub fn tcp_connect() -> impl Future<Output = io::Result<Async<TcpStream>>> + Send + Sync + 'static {
    Async::<TcpStream>::connect(([127, 0, 0, 1], 1))
}

// ------------------------------------------------------------------------------------------------------ UDP

pub fn udp(socket: &Async<UdpSocket>, buf: &mut [u8], addr: SocketAddr) {
    result::<(usize, SocketAddr)>(socket.recv_from(buf));
    result::<(usize, SocketAddr)>(socket.peek_from(buf));
    result::<usize>(socket.send_to(buf, addr));
    result::<usize>(socket.recv(buf));
    result::<usize>(socket.peek(buf));
    result::<usize>(socket.send(buf));
    try_from::<UdpSocket, Async<UdpSocket>>();
    everything::<Async<UdpSocket>>();
}

// ----------------------------------------------------------------------------------------------------- Unix

pub fn at_any_path<P: AsRef<Path> + Send + Sync>(socket: &Async<UnixDatagram>, a: P, b: P) {
    let _: fn(P) -> io::Result<Async<UnixListener>> = Async::<UnixListener>::bind;
    let _: fn(P) -> io::Result<Async<UnixDatagram>> = Async::<UnixDatagram>::bind;
    result::<Async<UnixStream>>(Async::<UnixStream>::connect(a));
    result::<usize>(socket.send_to(b"", b));
}

pub fn unix(listener: &Async<UnixListener>) {
    let _: fn() -> io::Result<(Async<UnixStream>, Async<UnixStream>)> = Async::<UnixStream>::pair;
    result::<(Async<UnixStream>, UnixSocketAddr)>(listener.accept());
    try_from::<UnixListener, Async<UnixListener>>();
    try_from::<UnixStream, Async<UnixStream>>();
    everything::<Async<UnixListener>>();
    everything::<Async<UnixStream>>();
}

pub fn unix_incoming(
    listener: &Async<UnixListener>,
) -> impl Stream<Item = io::Result<Async<UnixStream>>> + Send + Sync + '_ {
    listener.incoming()
}

pub fn unix_datagrams(socket: &Async<UnixDatagram>, buf: &mut [u8]) {
    let _: fn() -> io::Result<Async<UnixDatagram>> = Async::<UnixDatagram>::unbound;
    let _: fn() -> io::Result<(Async<UnixDatagram>, Async<UnixDatagram>)> = Async::<UnixDatagram>::pair;
    result::<(usize, UnixSocketAddr)>(socket.recv_from(buf));
    result::<usize>(socket.send_to(buf, "path"));
    result::<usize>(socket.recv(buf));
    result::<usize>(socket.send(buf));
    try_from::<UnixDatagram, Async<UnixDatagram>>();
    everything::<Async<UnixDatagram>>();
}

// --------------------------------------------------------------------------------------------------- kqueue

#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
))]
pub mod kqueue {
    use super::*;
    use async_io::os::kqueue::{Exit, Filter, Queueable, Ready, Signal};
    use std::hash::Hash;
    use std::num::NonZeroI32;
    use std::process::Child;

    pub fn filter<T>() {
        let _: fn(&Filter<T>) -> &T = Filter::get_ref;
        let _: fn(&mut Filter<T>) -> &mut T = Filter::get_mut;
        let _: fn(Filter<T>) -> io::Result<T> = Filter::into_inner;
        let _: for<'a> fn(&'a Filter<T>) -> Ready<'a, T> = Filter::ready;
        let _: fn(&Filter<T>, &mut Context<'_>) -> Poll<io::Result<()>> = Filter::poll_ready;
        as_ref::<Filter<T>, T>();
        as_mut::<Filter<T>, T>();
        future::<Ready<'_, T>, io::Result<()>>();
        unpin::<Filter<T>>();
        unpin::<Ready<'_, T>>();
    }

    pub fn queueable<T: Queueable>() {
        let _: fn(T) -> io::Result<Filter<T>> = Filter::new;
    }

    pub fn what_a_filter_has_of_its_type<T>()
    where
        T: Debug + AsFd + AsRawFd + From<OwnedFd> + Into<OwnedFd>,
    {
        debug::<Filter<T>>();
        debug::<Ready<'_, T>>();
        as_fd::<Filter<T>>();
        as_raw_fd::<Filter<T>>();
        try_from::<OwnedFd, Filter<T>>();
        try_from::<Filter<T>, OwnedFd>();
    }

    pub fn what_can_be_waited_for() {
        fn signal<T: Queueable + Copy + Debug + Ord + Hash>() {}
        fn exit<T: Queueable + Debug>() {}
        signal::<Signal>();
        exit::<Exit>();
        let Signal(_) = Signal(1);
        let _: fn(Child) -> Exit = Exit::new;
        let _: unsafe fn(NonZeroI32) -> Exit = Exit::from_pid;
        everything::<Filter<Signal>>();
        everything::<Filter<Exit>>();
        everything::<Ready<'_, Signal>>();
    }

    fn as_mut<T: AsMut<U>, U>() {}
}

// ----------------------------------------------------------------------------------------------- questions

fn send<T: Send>() {}
fn sync<T: Sync>() {}
fn unpin<T: Unpin>() {}
fn unwind_safe<T: UnwindSafe>() {}
fn ref_unwind_safe<T: RefUnwindSafe>() {}
fn everything<T: Send + Sync + Unpin + UnwindSafe + RefUnwindSafe>() {}
fn debug<T: Debug>() {}
fn future<F: Future<Output = T>, T>() {}
fn stream<S: Stream<Item = T>, T>() {}
fn read<T: AsyncRead>() {}
fn write<T: AsyncWrite>() {}
fn io_safe<T: IoSafe + ?Sized>() {}
fn as_fd<T: AsFd>() {}
fn as_raw_fd<T: AsRawFd>() {}
fn as_ref<T: AsRef<U>, U>() {}
fn try_from<T, U: TryFrom<T, Error = io::Error>>() {}
/// The future of a method can be spawned on any executor, and boxed as whatever it is.
fn result<T>(_: impl Future<Output = io::Result<T>> + Send + Sync) {}
