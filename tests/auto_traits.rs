//! What is `Send`, `Sync`, `Unpin`, `UnwindSafe`, `RefUnwindSafe`, and how large: a table of every public type and of
//! every public future, the unnamed ones of async methods as well. Whoever changes one of these breaks programs that
//! box them, spawn them on other threads, or catch panics around them.
//!
//! Nearly all of it is checked by the compiler. Nothing here opens a socket: a future that is never called has a type
//! all the same.

use futures_core::Stream;
use std::any::type_name;
use std::cell::Cell;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wakewheel::dispatch;
use wakewheel::event;
use wakewheel::evio;
use wakewheel::executor::{self, CoreHandle, CoresBuilder, Panics, Stats};
use wakewheel::io::Signals;
use wakewheel::io::{
    Accepted, Addr, Chunk, Closed, Datagram, KeepAlive, Listener, RecvBatch, SocketOptions,
    Stream as Connection,
};
use wakewheel::net::Resolve;
use wakewheel::process::Child;
use wakewheel::reactor::{Backend, Handle, MockClock, Reactor, Scope, Turn, Watch};
use wakewheel::time::{Elapsed, Timeout};
use wakewheel::{
    Async, Cores, Interval, IoSafe, JoinError, JoinHandle, LocalExecutor, MissedTicks, Readable,
    ReadableOwned, Task, Timer, Writable, WritableOwned,
};

/// Answers "does `$type` implement `$trait`?" with a constant: an inherent constant, where its bounds hold, comes
/// before a trait's.
macro_rules! implements {
    ($type:ty: $trait:path) => {{
        #[allow(dead_code)]
        trait No {
            const ANSWER: bool = false;
        }
        impl<T: ?Sized> No for Question<T> {}
        #[allow(dead_code)]
        struct Question<T: ?Sized>(PhantomData<T>);
        #[allow(dead_code)]
        impl<T: ?Sized + $trait> Question<T> {
            const ANSWER: bool = true;
        }
        <Question<$type>>::ANSWER
    }};
}

/// A row of the table: the type, and whether it is Send, Sync, Unpin, UnwindSafe, RefUnwindSafe (y or n).
macro_rules! row {
    ($type:ty: $($answer:ident)*) => {
        const _: () = {
            let is = [
                implements!($type: Send),
                implements!($type: Sync),
                implements!($type: Unpin),
                implements!($type: UnwindSafe),
                implements!($type: RefUnwindSafe),
            ];
            let expected = [$(row!(@ $answer)),*];
            assert!(is[0] == expected[0], concat!(stringify!($type), ": Send"));
            assert!(is[1] == expected[1], concat!(stringify!($type), ": Sync"));
            assert!(is[2] == expected[2], concat!(stringify!($type), ": Unpin"));
            assert!(is[3] == expected[3], concat!(stringify!($type), ": UnwindSafe"));
            assert!(is[4] == expected[4], concat!(stringify!($type), ": RefUnwindSafe"));
        };
    };
    (@ y) => { true };
    (@ n) => { false };
}

type ReadableTcp = Readable<'static, TcpStream>;
type WritableTcp = Writable<'static, TcpStream>;
type ClosedTcp = Closed<'static, TcpStream>;

/// Send, but not Sync.
type SendOnly = Cell<u8>;
/// Sync, but not Send.
struct SyncOnly(#[allow(dead_code)] std::sync::MutexGuard<'static, u8>);
/// Neither.
type Neither = Rc<u8>;

#[rustfmt::skip]
mod table {
    use super::*;

    //                                  Send Sync Unpin UnwindSafe RefUnwindSafe
    // Sockets, and what waits for them.
    row!(Async<TcpStream>:                 y y y y y);
    row!(Async<TcpListener>:               y y y y y);
    row!(Async<UdpSocket>:                 y y y y y);
    row!(Async<UnixStream>:                y y y y y);
    row!(Async<UnixListener>:              y y y y y);
    row!(Async<UnixDatagram>:              y y y y y);
    row!(Async<std::process::ChildStdin>:  y y y y y);
    row!(Readable<'static, UdpSocket>:     y y y y y);
    row!(ReadableTcp:                      y y y y y);
    row!(WritableTcp:                      y y y y y);
    row!(ClosedTcp:                        y y y y y);
    row!(ReadableOwned<TcpStream>:         y y y y y);
    row!(WritableOwned<TcpStream>:         y y y y y);
    row!(Connection:                       y y y y y);
    row!(Listener:                         y y y y y);
    row!(Accepted:                         y y y y y);
    row!(RecvBatch:                        y y y y y);
    row!(Datagram<'static>:                y y y y y);
    row!(Chunk:                            y y y y y);
    row!(Addr:                             y y y y y);
    row!(SocketOptions:                    y y y y y);
    row!(KeepAlive:                        y y y y y);

    // They are what their inner type is, and no more; but always Unpin.
    row!(Async<SendOnly>:                  y n y y n);
    row!(Async<SyncOnly>:                  n y y y y);
    row!(Async<Neither>:                   n n y y y);
    row!(Async<std::marker::PhantomPinned>: y y y y y);
    row!(Readable<'static, SendOnly>:      n n y n n);
    row!(Readable<'static, SyncOnly>:      y y y y y);
    row!(ReadableOwned<SendOnly>:          n n y n n);
    row!(ReadableOwned<SyncOnly>:          n n y y y);
    row!(Writable<'static, SendOnly>:      n n y n n);
    row!(WritableOwned<SendOnly>:          n n y n n);
    row!(Closed<'static, SendOnly>:        n n y n n);

    // Time.
    row!(Timer:                            y y y y y);
    row!(Interval:                         y y y y y);
    row!(MissedTicks:                      y y y y y);
    row!(Elapsed:                          y y y y y);
    row!(Timeout<Timer>:                   y y y y y);
    row!(Timeout<Neither>:                 n n y y y);
    row!(Timeout<std::marker::PhantomPinned>: y y n y y);

    // Reactors. One belongs to one thread at a time, for its timers' sake.
    row!(Reactor:                          y n y y n);
    row!(Handle:                           y y y y y);
    row!(Watch:                            y y y y y);
    row!(Signals:                          y y y y y);
    row!(Scope<Timer>:                     y y y y y);
    row!(Scope<Neither>:                   n n y y y);
    row!(Scope<std::marker::PhantomPinned>: y y n y y);
    // Names and children.
    row!(Resolve:                          y y y n n);
    row!(Child:                            y y y y y);
    // Events belong to one thread; what stops them does not.
    row!(event::Base:                      n n y n n);
    row!(event::Event:                     n n y n n);
    row!(event::BaseHandle:                y y y y y);
    row!(wakewheel::reactor::Builder:      y y y y y);
    row!(Backend:                          y y y y y);
    row!(MockClock:                        y y y y y);
    row!(Turn:                             y y y y y);

    // Executors. A task does not leave its thread, nor does its handle.
    row!(LocalExecutor:                    n n y n n);
    row!(Task<()>:                         n n y n n);
    row!(Task<Neither>:                    n n y n n);
    row!(JoinHandle<()>:                   y y y y y);
    row!(JoinHandle<SendOnly>:             y y y y y);
    row!(JoinError:                        y y y y y);
    row!(Cores:                            y y y n n);
    row!(CoreHandle:                       y y y y y);
    row!(CoresBuilder:                     y y y n n);
    row!(wakewheel::executor::Builder:     y y y n n);
    row!(Panics:                           y y y y y);
    row!(Stats:                            y y y y y);

    // evio. A filter around a connection need not be more than Send.
    row!(dispatch::Dispatcher<TcpStream>:  y n y n n);
    row!(dispatch::Running:                y y y n n);
    row!(dispatch::Server:                 y y y y y);
    row!(dispatch::Job<TcpStream>:         y y y y y);
    row!(dispatch::Job<TcpStream, Cell<u8>>: y n y y n);
    row!(dispatch::Arrival<'static, TcpStream>: y y y y y);
    row!(dispatch::To<u8>:                 y y y y y);
    row!(dispatch::Datagram:               y y y y y);
    row!(dispatch::Stats:                  y y y y y);
    row!(evio::Addr:                       y y y y y);
    row!(evio::DetachedStream:             y n y n n);
    row!(evio::BlockingStream:             y n y n n);
    row!(evio::InputStream:                y y y y y);
    row!(evio::Input<'static>:             y y y n y);
}

fn tcp() -> &'static Async<TcpStream> {
    unreachable!("only its type is wanted")
}

fn thread_safe<T: Send + Sync>(make: fn() -> T) -> (&'static str, usize) {
    let _ = make;
    (type_name::<T>(), size_of::<T>())
}

fn future<F: Future + Send + Sync>(make: fn() -> F) -> (&'static str, usize) {
    thread_safe(make)
}

#[test]
fn unnamed_futures_are_send_and_sync() {
    fn listener() -> &'static Async<TcpListener> {
        unreachable!()
    }
    fn udp() -> &'static Async<UdpSocket> {
        unreachable!()
    }
    fn unix() -> &'static Async<UnixStream> {
        unreachable!()
    }
    fn unix_listener() -> &'static Async<UnixListener> {
        unreachable!()
    }
    fn datagram() -> &'static Async<UnixDatagram> {
        unreachable!()
    }
    fn connection() -> &'static Connection {
        unreachable!()
    }
    fn any_listener() -> &'static Listener {
        unreachable!()
    }
    fn options() -> &'static SocketOptions {
        unreachable!()
    }
    fn signals() -> &'static mut Signals {
        unreachable!()
    }
    fn child() -> &'static Child {
        unreachable!()
    }
    fn owned_child() -> Child {
        unreachable!()
    }
    fn interval() -> &'static mut Interval {
        unreachable!()
    }
    fn buf() -> &'static mut [u8] {
        unreachable!()
    }
    fn batch() -> &'static mut RecvBatch {
        unreachable!()
    }
    fn addr() -> SocketAddr {
        unreachable!()
    }
    fn any_addr() -> &'static Addr {
        unreachable!()
    }
    fn handle() -> JoinHandle<Cell<u8>> {
        unreachable!()
    }

    let futures = [
        // TCP.
        future(|| listener().accept()),
        future(|| Async::<TcpStream>::connect(addr())),
        future(|| Async::<TcpStream>::connect_deadline(addr(), Instant::now())),
        future(|| tcp().peek(buf())),
        future(|| tcp().read_chunk()),
        future(|| tcp().readable()),
        future(|| tcp().writable()),
        future(|| tcp().closed()),
        future(|| tcp().read_with(|_| Ok(1))),
        future(|| tcp().write_with(|_| Ok(1))),
        // Their closures may borrow.
        future(|| {
            let bytes = buf();
            tcp().read_with(move |mut io| io::Read::read(&mut io, bytes))
        }),
        // SAFETY: never called.
        future(|| unsafe { mutable_tcp().read_with_mut(|_| Ok(1)) }),
        // SAFETY: never called.
        future(|| unsafe { mutable_tcp().write_with_mut(|_| Ok(1)) }),
        // UDP.
        future(|| udp().recv_from(buf())),
        future(|| udp().peek_from(buf())),
        future(|| udp().send_to(buf(), addr())),
        future(|| udp().recv(buf())),
        future(|| udp().peek(buf())),
        future(|| udp().recv_batch(batch())),
        future(|| udp().send(buf())),
        // Unix.
        future(|| unix_listener().accept()),
        future(|| Async::<UnixStream>::connect("path")),
        future(|| unix().read_chunk()),
        future(|| unix().send_fds(buf(), &[])),
        future(|| unix().recv_fds(buf(), 1)),
        future(|| datagram().recv_from(buf())),
        future(|| datagram().send_to(buf(), "path")),
        future(|| datagram().recv(buf())),
        future(|| datagram().send(buf())),
        // Either.
        future(|| Connection::connect(any_addr())),
        future(|| any_listener().accept()),
        future(|| any_listener().accept_unregistered()),
        future(|| connection().readable()),
        future(|| connection().writable()),
        future(|| connection().closed()),
        future(|| connection().read_chunk()),
        // With options.
        future(|| options().connect(addr())),
        future(|| options().connect_deadline(addr(), Instant::now())),
        // By name.
        future(|| options().connect_host("")),
        future(|| Async::<TcpStream>::connect_host("")),
        // Signals and children.
        future(|| signals().next()),
        future(wakewheel::ctrl_c),
        future(|| child().wait()),
        // Time.
        future(|| wakewheel::sleep(Duration::ZERO)),
        future(|| wakewheel::sleep_until(Instant::now())),
        future(|| wakewheel::timeout(Duration::ZERO, tcp().read_chunk())),
        future(|| wakewheel::timeout_at(Instant::now(), udp().recv(buf()))),
        future(|| interval().tick()),
        // Executors.
        future(handle),
        future(executor::yield_now),
        future(executor::shutdown_requested),
        future(|| executor::drain(Duration::ZERO)),
        // Streams.
        thread_safe(|| listener().incoming()),
        thread_safe(|| unix_listener().incoming()),
        thread_safe(|| any_listener().incoming()),
    ];
    // This one has the child in it, with its pipes.
    future(|| owned_child().output());
    // A task has room for the largest future that it awaits.
    let largest = futures.iter().max_by_key(|(_, size)| size).expect("there are some");
    println!("the largest is {largest:?}");
    assert!(largest.1 <= 400, "{largest:?}");
}

fn mutable_tcp() -> &'static mut Async<TcpStream> {
    unreachable!("only its type is wanted")
}

/// As async-net does.
#[test]
fn incoming_can_be_boxed_for_any_thread() {
    type Boxed<'a, T> = Pin<Box<dyn Stream<Item = io::Result<T>> + Send + Sync + 'a>>;
    fn tcp(listener: &Async<TcpListener>) -> Boxed<'_, Async<TcpStream>> {
        Box::pin(listener.incoming())
    }
    fn unix(listener: &Async<UnixListener>) -> Boxed<'_, Async<UnixStream>> {
        Box::pin(listener.incoming())
    }
    fn either(listener: &Listener) -> Boxed<'_, Connection> {
        Box::pin(listener.incoming())
    }
    let _ = (tcp, unix, either);
}

/// A future does not take over what its closure lacks, nor anything more than that.
#[test]
fn closures_decide_for_their_futures() {
    fn _send_only(io: &Async<TcpStream>, cell: Cell<u8>) -> impl Future + Send + '_ {
        io.read_with(move |_| Ok(cell.get()))
    }
    fn _neither(io: &Async<TcpStream>, rc: Rc<u8>) -> impl Future + '_ {
        io.write_with(move |_| Ok(*rc))
    }
    // What the closure returns need not be Send: it is not kept.
    fn _result(io: &Async<TcpStream>) -> impl Future + Send + Sync + '_ {
        io.read_with(|_| Ok(Rc::new(1)))
    }
}

/// `tokio::spawn` and its like take these.
#[test]
fn tasks_of_other_executors_can_hold_them() {
    fn spawn<F: Future + Send + 'static>(_: fn() -> F) {}
    spawn(|| async {
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
        let (stream, _) = listener.accept().await?;
        let stream = Arc::new(stream);
        stream.clone().readable_owned().await?;
        let chunk = stream.read_chunk().await?;
        stream.writable().await?;
        Timer::after(Duration::from_secs(1)).await;
        drop(chunk);
        io::Result::Ok(())
    });
}

#[test]
fn io_safe_types() {
    fn io_safe<T: IoSafe + ?Sized>() {}
    io_safe::<TcpStream>();
    io_safe::<UnixStream>();
    io_safe::<&TcpListener>();
    io_safe::<&mut TcpStream>();
    io_safe::<Box<TcpStream>>();
    io_safe::<std::fs::File>();
    io_safe::<io::Stdin>();
    io_safe::<io::Stdout>();
    io_safe::<io::Stderr>();
    io_safe::<io::StdinLock<'_>>();
    io_safe::<io::StdoutLock<'_>>();
    io_safe::<io::StderrLock<'_>>();
    io_safe::<std::process::ChildStdin>();
    io_safe::<std::process::ChildStdout>();
    io_safe::<std::process::ChildStderr>();
    io_safe::<io::BufReader<TcpStream>>();
    io_safe::<io::BufWriter<UnixStream>>();
    io_safe::<io::LineWriter<UnixStream>>();
    #[cfg(wakewheel_std_pipe)]
    #[allow(clippy::incompatible_msrv, reason = "where the compiler has them")]
    {
        io_safe::<io::PipeReader>();
        io_safe::<io::PipeWriter>();
    }
    const {
        assert!(!implements!(TcpListener: IoSafe));
        assert!(!implements!(UdpSocket: IoSafe));
        assert!(!implements!(UnixDatagram: IoSafe));
        assert!(!implements!(std::os::fd::OwnedFd: IoSafe));
    }
}

/// Not Deref, not AsMut: with them, safe code could replace the descriptor.
#[test]
fn an_async_does_not_lend_its_descriptor_for_change() {
    const {
        assert!(implements!(Async<TcpStream>: AsRef<TcpStream>));
        assert!(!implements!(Async<TcpStream>: AsMut<TcpStream>));
        assert!(!implements!(Async<TcpStream>: std::ops::Deref));
        assert!(!implements!(Async<TcpStream>: Clone));
    }
}

#[test]
fn everything_can_be_printed() {
    fn debug<T: Debug>() {}
    debug::<Async<TcpStream>>();
    debug::<Readable<'_, TcpStream>>();
    debug::<ReadableOwned<TcpStream>>();
    debug::<Writable<'_, TcpStream>>();
    debug::<WritableOwned<TcpStream>>();
    debug::<Closed<'_, TcpStream>>();
    debug::<Connection>();
    debug::<Listener>();
    debug::<Accepted>();
    debug::<RecvBatch>();
    debug::<Datagram<'_>>();
    debug::<Chunk>();
    debug::<Addr>();
    debug::<SocketOptions>();
    debug::<KeepAlive>();
    debug::<Timer>();
    debug::<Interval>();
    debug::<Timeout<Timer>>();
    debug::<Elapsed>();
    debug::<MissedTicks>();
    debug::<Reactor>();
    debug::<Handle>();
    debug::<wakewheel::reactor::Builder>();
    debug::<MockClock>();
    debug::<Turn>();
    debug::<Backend>();
    debug::<LocalExecutor>();
    debug::<wakewheel::executor::Builder>();
    debug::<Cores>();
    debug::<CoreHandle>();
    debug::<CoresBuilder>();
    debug::<Task<Neither>>();
    debug::<JoinHandle<Neither>>();
    debug::<JoinError>();
    debug::<Panics>();
    debug::<Stats>();
}

/// What users embed in their own futures, in thousands. Sizes of 64-bit systems.
#[cfg(target_pointer_width = "64")]
#[test]
fn sizes() {
    const {
        assert!(size_of::<Async<TcpStream>>() == 16);
        assert!(size_of::<Async<UnixStream>>() == 16);
        assert!(size_of::<Connection>() <= 24);
        assert!(size_of::<Timer>() <= 56);
        assert!(size_of::<Readable<'_, TcpStream>>() <= 56);
        assert!(size_of::<ReadableOwned<TcpStream>>() <= 56);
        assert!(size_of::<Writable<'_, TcpStream>>() <= 56);
        assert!(size_of::<WritableOwned<TcpStream>>() <= 56);
        assert!(size_of::<Task<[u8; 64]>>() == 16);
        assert!(size_of::<JoinHandle<[u8; 64]>>() == 8);
        assert!(size_of::<JoinError>() == 8);
        assert!(size_of::<Chunk>() <= 16);
    }
    // An unnamed future of an operation is not much more than what it borrows.
    fn of<F>(_: fn(&'static Async<TcpStream>) -> F) -> usize {
        size_of::<F>()
    }
    let read_chunk = of(|io| io.read_chunk());
    assert!(read_chunk <= 8, "read_chunk has {read_chunk} bytes");
}
