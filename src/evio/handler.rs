//! What a server is made of: its callbacks, and what they answer.

use super::{Builder, Conn, DetachedStream, Server};
use std::borrow::Cow;
use std::io;
use std::time::Duration;

/// What happens after a callback, once the connection's output has gone to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// It goes on.
    #[default]
    None,
    /// The connection leaves the callbacks, and becomes a stream: [`detached`](Handler::detached) gets it.
    Detach,
    /// The connection is closed.
    Close,
    /// The server is stopped.
    Shutdown,
}

/// The answer of a callback: bytes for the peer, and what happens after that.
///
/// The bytes may be a part of the input, so that an echo copies nothing. They follow what the callback has appended to
/// [`conn.out`](Conn::out).
///
/// # Examples
///
/// ```
/// use wakewheel::evio::{Action, Reply};
///
/// fn data(input: &[u8]) -> Reply<'_> {
///     match input {
///         b"bye\n" => Reply::send(b"bye\n").then(Action::Close),
///         b"time\n" => Reply::send(format!("{:?}\n", std::time::SystemTime::now())),
///         _ => Reply::send(input),
///     }
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply<'a> {
    pub(super) output: Cow<'a, [u8]>,
    pub(super) action: Action,
}

impl<'a> Reply<'a> {
    /// Nothing to send, and it goes on.
    #[inline]
    pub fn none() -> Reply<'a> {
        Reply::default()
    }

    /// Sends bytes: a slice of the input or of a constant, or a `Vec<u8>` or `String` that was made for it.
    #[inline]
    pub fn send(output: impl IntoBytes<'a>) -> Reply<'a> {
        Reply { output: output.into_bytes(), action: Action::None }
    }

    /// Does `action` after the bytes have gone to the kernel.
    #[inline]
    #[must_use]
    pub fn then(mut self, action: Action) -> Reply<'a> {
        self.action = action;
        self
    }
}

impl Reply<'static> {
    /// With options for the connection: what [`opened`](Handler::opened) answers.
    pub fn with(self, options: Options) -> Opened {
        Opened { reply: self, options }
    }
}

impl From<Action> for Reply<'_> {
    fn from(action: Action) -> Self {
        Reply { action, ..Reply::default() }
    }
}

/// What can be sent: bytes or text, borrowed or owned.
pub trait IntoBytes<'a> {
    /// The bytes.
    fn into_bytes(self) -> Cow<'a, [u8]>;
}

macro_rules! into_bytes {
    ($([$($generics:tt)*] $type:ty: $self:ident => $bytes:expr;)*) => { $(
        impl<'a, $($generics)*> IntoBytes<'a> for $type {
            #[inline]
            fn into_bytes($self) -> Cow<'a, [u8]> {
                $bytes
            }
        }
    )* };
}

into_bytes! {
    [] &'a [u8]: self => Cow::Borrowed(self);
    [const N: usize] &'a [u8; N]: self => Cow::Borrowed(self);
    [] &'a str: self => Cow::Borrowed(self.as_bytes());
    [] Vec<u8>: self => Cow::Owned(self);
    [] String: self => Cow::Owned(self.into_bytes());
    [] Cow<'a, [u8]>: self => self;
}

/// The answer of [`opened`](Handler::opened): a first output, what happens after it, and options for the connection. Made
/// by [`Reply::with`], or from a `Reply`, an `Action` or `Options` alone.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    pub(super) reply: Reply<'static>,
    pub(super) options: Options,
}

impl From<Reply<'static>> for Opened {
    fn from(reply: Reply<'static>) -> Opened {
        reply.with(Options::new())
    }
}

impl From<Action> for Opened {
    fn from(action: Action) -> Opened {
        Reply::from(action).into()
    }
}

impl From<Options> for Opened {
    fn from(options: Options) -> Opened {
        Reply::none().with(options)
    }
}

/// Options of one connection.
///
/// evio's `ReuseInputBuffer` has no counterpart, because there is nothing to choose: the input is a slice of a buffer
/// that the loop lends for the time of the callback, nothing is copied, and the borrow checker sees to it that nobody
/// keeps it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use wakewheel::evio::{Options, Reply};
///
/// let options = Options::new().idle_timeout(Duration::from_secs(60)).high_water(256 * 1024);
/// let opened = Reply::send(b"welcome\r\n").with(options);
/// # drop(opened);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub(super) keepalive: Option<Duration>,
    pub(super) nodelay: Option<bool>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) high_water: Option<usize>,
    pub(super) linger: Option<Duration>,
    pub(super) half_close: Option<Duration>,
}

impl Options {
    /// The usual ones.
    pub fn new() -> Options {
        Options::default()
    }

    /// Lets the kernel find out that the peer has vanished (TCP): it asks after so much silence, and as often from then
    /// on. The kernel counts in whole seconds; parts of one are rounded up. Off by default. (This one and
    /// [`nodelay`](Options::nodelay) do nothing for Unix sockets, and behind a [filter](super::Builder::translate), which has the
    /// stream and can set them.)
    #[must_use]
    pub fn tcp_keepalive(mut self, time: Duration) -> Options {
        self.keepalive = Some(time);
        self
    }

    /// Sends small packets at once (TCP_NODELAY). Connections have it from their listener, where it is on unless
    /// [`Builder::nodelay`] says otherwise.
    #[must_use]
    pub fn nodelay(mut self, on: bool) -> Options {
        self.nodelay = Some(on);
        self
    }

    /// Closes the connection when no byte has been received or sent for so long; [`closed`](Handler::closed) is told
    /// [`TimedOut`](io::ErrorKind::TimedOut). Never by default. To be woken is no sign of life. While the
    /// [linger](Options::linger) or the [half-close time](Options::half_close) runs, it counts instead of this one.
    #[must_use]
    pub fn idle_timeout(mut self, time: Duration) -> Options {
        self.idle_timeout = Some(time);
        self
    }

    /// When so many bytes wait to be sent, [`ConnHandle::write`](super::ConnHandle::write) says
    /// [`WouldBlock`](io::ErrorKind::WouldBlock). Output of callbacks counts, and is not refused. 1 MiB by default.
    #[must_use]
    pub fn high_water(mut self, bytes: usize) -> Options {
        self.high_water = Some(bytes);
        self
    }

    /// How long a peer may take to read the last output, after [`Action::Close`] or when the server stops. Then the
    /// connection is closed all the same, and [`closed`](Handler::closed) is told [`TimedOut`](io::ErrorKind::TimedOut).
    /// 10 seconds by default.
    #[must_use]
    pub fn linger(mut self, time: Duration) -> Options {
        self.linger = Some(time);
        self
    }

    /// How long a connection whose peer has said that it will send no more is kept for those who have a
    /// [handle](super::ConnHandle) of it, and may still have to answer. 1 second by default. Without a handle, it is
    /// closed as soon as its output has gone. A handle in the context of the connection is one, too.
    #[must_use]
    pub fn half_close(mut self, time: Duration) -> Options {
        self.half_close = Some(time);
        self
    }
}

/// The callbacks of a server, as a type with state. (Without any, [`Events`](super::Events) takes closures.)
///
/// Every loop has a handler of its own, which only its thread uses: a clone of the one given to
/// [`serve`](super::serve), or one made there by the closure given to [`Builder::serve_with`]. What the loops share is an
/// `Arc` in it; what each has for itself needs no lock.
///
/// A callback that blocks holds up all connections of its loop, and no other.
///
/// # Panics
///
/// A callback that panics costs its connection: it is closed, and [`closed`](Handler::closed) is told so. The server goes
/// on, with the handler as the panic left it. So it is with what [`ConnHandle::write_then`](super::ConnHandle::write_then)
/// calls, and with a context whose `default` panics (then there are no callbacks at all). A panic in [`serving`](Handler::serving) or [`tick`](Handler::tick) ends the
/// server, and goes on out of [`serve`](super::serve).
///
/// # Examples
///
/// A server that counts the lines of each connection.
///
/// ```no_run
/// use std::io::Write;
/// use wakewheel::evio::{self, Conn, Handler, Reply};
///
/// #[derive(Clone)]
/// struct Counter;
///
/// impl Handler for Counter {
///     /// How many lines a connection has sent.
///     type Context = usize;
///
///     fn data<'a>(&mut self, conn: &mut Conn<'_, usize>, input: &'a [u8]) -> Reply<'a> {
///         *conn.context += input.iter().filter(|&&byte| byte == b'\n').count();
///         let _ = writeln!(conn.out, "{} lines", conn.context);
///         Reply::none()
///     }
/// }
///
/// fn main() -> std::io::Result<()> {
///     evio::serve(Counter, ["tcp://127.0.0.1:5000"])
/// }
/// ```
pub trait Handler: 'static {
    /// What belongs to each connection: [`conn.context`](Conn::context). `()` if there is nothing.
    type Context: Default + 'static;

    /// The choices that [`serve`](super::serve) makes for this handler. It is asked once.
    fn builder(&mut self) -> Builder<Self::Context> {
        Builder::new()
    }

    /// The server has bound all its addresses, and nothing else has happened yet. Called once, on the first loop.
    fn serving(&mut self, server: &Server<Self::Context>) -> Action {
        let _ = server;
        Action::None
    }

    /// A connection is there: accepted, [dialed](Server::dial) or [attached](Server::attach), as
    /// [`conn.origin()`](Conn::origin) says. Called exactly once for each, before anything else. Its output is sent before
    /// the first input is read.
    ///
    /// A connection that could not be dialed, or whose filter failed, is shown as well:
    /// [`conn.error()`](Conn::error) says why, and [`closed`](Handler::closed) follows.
    fn opened(&mut self, conn: &mut Conn<'_, Self::Context>) -> Opened {
        let _ = conn;
        Opened::default()
    }

    /// The connection is over. Called exactly once for each that was opened and not [detached](Handler::detached).
    /// `error` is `None` if the peer has closed it, the server did, or it was stopped. Of the answer, only
    /// [`Shutdown`](Action::Shutdown) means anything.
    fn closed(&mut self, conn: &mut Conn<'_, Self::Context>, error: Option<&io::Error>) -> Action {
        let _ = (conn, error);
        Action::None
    }

    /// The connection has left the callbacks, after [`Action::Detach`], and all its output has been sent. `stream` is the
    /// rest of it, for a task ([`spawn_local`](crate::spawn_local)) or a thread: it begins with all input that has not
    /// been delivered. It does not end with the server.
    ///
    /// # Errors
    ///
    /// To give it back closes the connection, with [`closed`](Handler::closed) and no error. So does this method if it is
    /// not implemented.
    fn detached(
        &mut self,
        conn: &mut Conn<'_, Self::Context>,
        stream: DetachedStream,
    ) -> Result<Action, DetachedStream> {
        let _ = conn;
        Err(stream)
    }

    /// Shall [`pre_write`](Handler::pre_write) and [`post_write`](Handler::post_write) be called? It is asked once, on each
    /// loop. A handler that has neither saves a little by `false`.
    fn watches_writes(&self) -> bool {
        true
    }

    /// Output is about to be tried to be sent; again and again, if the peer is slow to take it.
    fn pre_write(&mut self, conn: &mut Conn<'_, Self::Context>) {
        let _ = conn;
    }

    /// `amount` bytes of output have gone to the kernel, `remaining` wait for the peer to take some.
    fn post_write(&mut self, conn: &mut Conn<'_, Self::Context>, amount: usize, remaining: usize) {
        let _ = (conn, amount, remaining);
    }

    /// Input has come; or somebody has [woken](super::ConnHandle::wake) the connection, and then `input` is empty and
    /// [`conn.is_wake()`](Conn::is_wake) says so.
    ///
    /// It is not called while output of this connection waits to be sent, or an action to be done: a peer that does not
    /// read its answers cannot ask for more.
    ///
    /// For UDP, it is called for each datagram, and what it sends goes to the sender, as one datagram. Of actions, only
    /// [`Shutdown`](Action::Shutdown) means anything there.
    fn data<'a>(&mut self, conn: &mut Conn<'_, Self::Context>, input: &'a [u8]) -> Reply<'a> {
        let _ = (conn, input);
        Reply::none()
    }

    /// Called on the first loop, first right after [`serving`](Handler::serving), then after each delay that it answers.
    /// `None`: not any more. Of actions, only [`Shutdown`](Action::Shutdown) means anything.
    fn tick(&mut self, server: &Server<Self::Context>) -> Option<(Duration, Action)> {
        let _ = server;
        None
    }
}
