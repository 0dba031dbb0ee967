//! The callbacks as closures.

use super::{Action, Builder, Conn, DetachedStream, Handler, LoadBalance, Loops, Opened, Reply, Server};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Callbacks as closures, which all loops share. What is not set does nothing; see [`Handler`] for what each is for.
///
/// `C` is what belongs to each connection. [`Events::new`] has nothing there.
///
/// # Examples
///
/// ```no_run
/// use wakewheel::evio::{self, Events, Reply};
///
/// fn main() -> std::io::Result<()> {
///     let events = Events::new().data(|_, input| Reply::send(input));
///     evio::serve(events, ["tcp://127.0.0.1:5000"])
/// }
/// ```
pub struct Events<C = ()> {
    builder: Builder<C>,
    serving: Callback<Serving<C>>,
    opened: Callback<OpenedFn<C>>,
    closed: Callback<Closed<C>>,
    detached: Callback<Detached<C>>,
    pre_write: Callback<PreWrite<C>>,
    post_write: Callback<PostWrite<C>>,
    /// Always there: for every message, to call it is less than to ask.
    data: Arc<Box<Data<C>>>,
    tick: Callback<Tick<C>>,
}

/// The box is for speed: with a trait object in the `Arc` itself, each call would compute where that begins.
type Callback<F> = Option<Arc<Box<F>>>;

type Serving<C> = dyn Fn(&Server<C>) -> Action + Send + Sync;
type OpenedFn<C> = dyn Fn(&mut Conn<'_, C>) -> Opened + Send + Sync;
type Closed<C> = dyn Fn(&mut Conn<'_, C>, Option<&io::Error>) -> Action + Send + Sync;
type Detached<C> = dyn Fn(&mut Conn<'_, C>, DetachedStream) -> Action + Send + Sync;
type PreWrite<C> = dyn Fn(&mut Conn<'_, C>) + Send + Sync;
type PostWrite<C> = dyn Fn(&mut Conn<'_, C>, usize, usize) + Send + Sync;
type Data<C> = dyn for<'a> Fn(&mut Conn<'_, C>, &'a [u8]) -> Reply<'a> + Send + Sync;
type Tick<C> = dyn Fn(&Server<C>) -> (Duration, Action) + Send + Sync;

impl Events {
    /// No callbacks, and nothing that belongs to a connection.
    pub fn new() -> Events {
        Events::default()
    }

    /// No callbacks; to each connection belongs a `C`, which begins as its default.
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::evio::{Events, InputStream};
    ///
    /// #[derive(Default)]
    /// struct Session {
    ///     name: Option<String>,
    ///     input: InputStream,
    /// }
    ///
    /// let events = Events::with_context::<Session>().closed(|conn, _error| {
    ///     println!("{:?} has left", conn.context.name);
    ///     wakewheel::evio::Action::None
    /// });
    /// # drop(events);
    /// ```
    pub fn with_context<C: Default + 'static>() -> Events<C> {
        Events::default()
    }
}

impl<C: Default + 'static> Events<C> {
    /// How many loops: 0 or 1 for one, on the calling thread; -1 for one for each processor. As in evio;
    /// [`Builder::loops`] says the same in words.
    #[must_use]
    pub fn num_loops(mut self, loops: isize) -> Events<C> {
        self.builder = self.builder.loops(Loops::from(loops));
        self
    }

    /// Which loop a connection goes to.
    #[must_use]
    pub fn load_balance(mut self, balance: LoadBalance) -> Events<C> {
        self.builder = self.builder.load_balance(balance);
        self
    }

    /// All choices for the server, instead of those made so far.
    #[must_use]
    pub fn choices(mut self, builder: Builder<C>) -> Events<C> {
        self.builder = builder;
        self
    }

    /// See [`Handler::serving`].
    #[must_use]
    pub fn serving(mut self, f: impl Fn(&Server<C>) -> Action + Send + Sync + 'static) -> Events<C> {
        self.serving = Some(Arc::new(Box::new(f)));
        self
    }

    /// See [`Handler::opened`].
    #[must_use]
    pub fn opened(mut self, f: impl Fn(&mut Conn<'_, C>) -> Opened + Send + Sync + 'static) -> Events<C> {
        self.opened = Some(Arc::new(Box::new(f)));
        self
    }

    /// See [`Handler::closed`].
    #[must_use]
    pub fn closed(
        mut self,
        f: impl Fn(&mut Conn<'_, C>, Option<&io::Error>) -> Action + Send + Sync + 'static,
    ) -> Events<C> {
        self.closed = Some(Arc::new(Box::new(f)));
        self
    }

    /// See [`Handler::detached`].
    #[must_use]
    pub fn detached(
        mut self,
        f: impl Fn(&mut Conn<'_, C>, DetachedStream) -> Action + Send + Sync + 'static,
    ) -> Events<C> {
        self.detached = Some(Arc::new(Box::new(f)));
        self
    }

    /// See [`Handler::pre_write`].
    #[must_use]
    pub fn pre_write(mut self, f: impl Fn(&mut Conn<'_, C>) + Send + Sync + 'static) -> Events<C> {
        self.pre_write = Some(Arc::new(Box::new(f)));
        self
    }

    /// See [`Handler::post_write`].
    #[must_use]
    pub fn post_write(
        mut self,
        f: impl Fn(&mut Conn<'_, C>, usize, usize) + Send + Sync + 'static,
    ) -> Events<C> {
        self.post_write = Some(Arc::new(Box::new(f)));
        self
    }

    /// See [`Handler::data`].
    #[must_use]
    pub fn data(
        mut self,
        f: impl for<'a> Fn(&mut Conn<'_, C>, &'a [u8]) -> Reply<'a> + Send + Sync + 'static,
    ) -> Events<C> {
        self.data = Arc::new(Box::new(f));
        self
    }

    /// See [`Handler::tick`].
    #[must_use]
    pub fn tick(mut self, f: impl Fn(&Server<C>) -> (Duration, Action) + Send + Sync + 'static) -> Events<C> {
        self.tick = Some(Arc::new(Box::new(f)));
        self
    }
}

impl<C: Default + 'static> Handler for Events<C> {
    type Context = C;

    fn builder(&mut self) -> Builder<C> {
        self.builder.clone()
    }

    fn serving(&mut self, server: &Server<C>) -> Action {
        self.serving.as_ref().map_or(Action::None, |f| f(server))
    }

    fn opened(&mut self, conn: &mut Conn<'_, C>) -> Opened {
        self.opened.as_ref().map_or_else(Opened::default, |f| f(conn))
    }

    fn closed(&mut self, conn: &mut Conn<'_, C>, error: Option<&io::Error>) -> Action {
        self.closed.as_ref().map_or(Action::None, |f| f(conn, error))
    }

    fn detached(&mut self, conn: &mut Conn<'_, C>, stream: DetachedStream) -> Result<Action, DetachedStream> {
        match &self.detached {
            Some(f) => Ok(f(conn, stream)),
            None => Err(stream),
        }
    }

    fn watches_writes(&self) -> bool {
        self.pre_write.is_some() || self.post_write.is_some()
    }

    #[inline]
    fn pre_write(&mut self, conn: &mut Conn<'_, C>) {
        if let Some(f) = &self.pre_write {
            f(conn);
        }
    }

    #[inline]
    fn post_write(&mut self, conn: &mut Conn<'_, C>, amount: usize, remaining: usize) {
        if let Some(f) = &self.post_write {
            f(conn, amount, remaining);
        }
    }

    #[inline]
    fn data<'a>(&mut self, conn: &mut Conn<'_, C>, input: &'a [u8]) -> Reply<'a> {
        (self.data)(conn, input)
    }

    fn tick(&mut self, server: &Server<C>) -> Option<(Duration, Action)> {
        self.tick.as_ref().map(|f| f(server))
    }
}

impl<C: Default + 'static> Default for Events<C> {
    fn default() -> Events<C> {
        Events {
            builder: Builder::new(),
            serving: None,
            opened: None,
            closed: None,
            detached: None,
            pre_write: None,
            post_write: None,
            data: Arc::new(Box::new(|_, _| Reply::none())),
            tick: None,
        }
    }
}

impl<C> Clone for Events<C> {
    fn clone(&self) -> Events<C> {
        Events {
            builder: self.builder.clone(),
            serving: self.serving.clone(),
            opened: self.opened.clone(),
            closed: self.closed.clone(),
            detached: self.detached.clone(),
            pre_write: self.pre_write.clone(),
            post_write: self.post_write.clone(),
            data: self.data.clone(),
            tick: self.tick.clone(),
        }
    }
}

impl<C> fmt::Debug for Events<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("builder", &self.builder).finish_non_exhaustive()
    }
}
