//! An executor per core.

use super::core::{Core, Mailbox};
use super::join::JoinHandle;
use super::settings::{Panics, Settings, SlowPoll, choices};
use super::stats::Stats;
use super::waiters::Waiting;
use super::{drain_until, request_shutdown, with_core};
use crate::reactor::Backend;
use crate::sys::cpu;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::Duration;

/// Threads that each have a reactor, a run queue and tasks of their own.
///
/// A task stays on the core that it was started on, so it need not be `Send`, and what it uses is never touched by
/// two threads. Cores talk by spawning on each other and by whatever channels the tasks have.
///
/// [`Cores::builder`]`().`[`run`](CoresBuilder::run) is the usual way to be a server: the same future on every core, until
/// all are ready; [`try_run`](CoresBuilder::try_run) ends all of them when one fails. A `Cores` value lives beside other
/// code, takes tasks from any thread, and ends with [`shutdown`](Cores::shutdown), or, at once, when it is dropped.
///
/// # Examples
///
/// ```
/// use wakewheel::{Cores, block_on};
///
/// let cores = Cores::new(2)?;
/// // The closure goes to the core; the future that it makes there need not be `Send`.
/// let sum = cores.spawn(|| async { std::rc::Rc::new(3 + 4).as_ref().clone() });
/// assert_eq!(block_on(sum).unwrap(), 7);
/// # std::io::Result::Ok(())
/// ```
pub struct Cores {
    cores: Vec<CoreHandle>,
    threads: Vec<thread::JoinHandle<usize>>,
    next: AtomicUsize,
}

impl Cores {
    /// So many cores, with the usual choices.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for zero; no descriptors or threads left; a wrong `WAKEWHEEL_BACKEND`.
    pub fn new(threads: usize) -> io::Result<Cores> {
        Cores::builder().threads(threads).build()
    }

    /// Cores with choices; as many as there are processors, if nothing else is said.
    pub fn builder() -> CoresBuilder {
        CoresBuilder::default()
    }

    /// The cores: `handles().len()` is how many there are.
    pub fn handles(&self) -> &[CoreHandle] {
        &self.cores
    }

    /// Starts the task that `make` makes, on the next core in turn. If that core has gone, the handle says that it was
    /// cancelled.
    pub fn spawn<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.cores[next % self.cores.len()].spawn(make)
    }

    /// What each core has done so far, in order.
    pub fn stats(&self) -> Vec<Stats> {
        self.cores.iter().map(CoreHandle::stats).collect()
    }

    /// Ends all cores, and waits for that: the calling thread is blocked.
    /// [`shutdown_requested`](crate::executor::shutdown_requested) becomes ready on each; tasks then have `drain` to come
    /// to their end; those that are left are cancelled, each on its own core. Returns how many those were.
    ///
    /// # Panics
    ///
    /// If a core has panicked, as it did ([`Panics::StopCore`]); on one of these cores, which cannot wait for its own end.
    pub fn shutdown(mut self, drain: Duration) -> usize {
        let threads = self.ask_to_end(drain);
        // All of them, before one's panic goes on: no thread is left behind.
        let ends: Vec<_> = threads.into_iter().map(thread::JoinHandle::join).collect();
        ends.into_iter().map(|end| end.unwrap_or_else(|payload| resume_unwind(payload))).sum()
    }

    fn ask_to_end(&mut self, drain: Duration) -> Vec<thread::JoinHandle<usize>> {
        for core in &self.cores {
            core.0.ask_to_end(drain);
        }
        std::mem::take(&mut self.threads)
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        let here = thread::current().id();
        for thread in self.ask_to_end(Duration::ZERO) {
            // A task of theirs may drop them: its own core ends when it returns, and cannot be waited for here.
            if thread.thread().id() != here {
                // What it panicked with has been reported by the hook.
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cores").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// One core, for any thread. Does not keep it running.
#[derive(Clone)]
pub struct CoreHandle(pub(super) Arc<Mailbox>);

impl CoreHandle {
    /// Starts the task that `make` makes on this core. If the core has gone, the handle says that it was cancelled.
    pub fn spawn<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        self.0.spawn(make)
    }

    /// Asks the tasks of this core to end, and of all that run with it: [`request_shutdown`](crate::executor::request_shutdown),
    /// from any thread.
    pub fn request_shutdown(&self) {
        self.0.request_shutdown();
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

impl fmt::Debug for CoreHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreHandle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Choices for [`Cores`].
#[derive(Clone, Debug, Default)]
pub struct CoresBuilder {
    core: Settings,
    threads: Option<usize>,
    pinned: bool,
}

choices!(CoresBuilder, core);

impl CoresBuilder {
    /// So many cores. The default is one for each processor that the process may use.
    pub fn threads(mut self, threads: usize) -> CoresBuilder {
        self.threads = Some(threads);
        self
    }

    /// Keeps each thread on a processor of its own (the first on the first that the process may use, and so on, round
    /// again if there are more threads), and makes sure that the system has done so. On Linux, Android and FreeBSD;
    /// elsewhere, [`build`](CoresBuilder::build) and [`run`](CoresBuilder::run) say `Unsupported`.
    pub fn pinned(mut self) -> CoresBuilder {
        self.pinned = true;
        self
    }

    /// How many cores there will be: as many as [`threads`](CoresBuilder::threads) said, or one for each processor that
    /// the process may use.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use wakewheel::Cores;
    ///
    /// // A queue to each core.
    /// let builder = Cores::builder().threads(2);
    /// let (senders, receivers): (Vec<_>, Vec<_>) = (0..builder.count()).map(|_| mpsc::channel::<u32>()).unzip();
    /// let cores = builder.build()?;
    /// assert_eq!(cores.handles().len(), senders.len());
    /// # drop(receivers);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn count(&self) -> usize {
        self.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
    }

    /// The processor of each core, if it is to have one.
    fn places(&self) -> io::Result<Vec<Option<usize>>> {
        let count = self.count();
        if count == 0 {
            let text = "0 cores would run nothing: ask for at least 1";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if !self.pinned {
            return Ok(vec![None; count]);
        }
        let allowed = cpu::allowed()?;
        Ok((0..count).map(|i| Some(allowed[i % allowed.len()])).collect())
    }

    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for zero threads; no descriptors or threads left; a processor that the system does not give;
    /// a wrong `WAKEWHEEL_BACKEND`. No thread is left over.
    pub fn build(self) -> io::Result<Cores> {
        let mut cores = Cores { cores: Vec::new(), threads: Vec::new(), next: AtomicUsize::new(0) };
        for (i, place) in self.places()?.into_iter().enumerate() {
            let (ready, is_ready) = mpsc::channel();
            let settings = self.core.clone();
            let thread = thread::Builder::new().name(format!("core {i}")).spawn(move || {
                match start(settings, place) {
                    Ok(core) => {
                        let _ = ready.send(Ok(CoreHandle(core.mailbox().clone())));
                        drop(ready);
                        core.block_on(until_the_end())
                    }
                    Err(e) => {
                        let _ = ready.send(Err(e));
                        0
                    }
                }
            })?;
            cores.threads.push(thread);
            cores.cores.push(is_ready.recv().expect("the thread answers")?);
        }
        group(cores.cores.iter().map(|core| &core.0));
        Ok(cores)
    }

    /// Runs the future that `main` makes for each core (it is told which one it is) until all of them are ready, and returns
    /// what they gave, in order. `main` may borrow. Tasks that are left when the future of their core is ready are dropped;
    /// [`drain`](crate::executor::drain) waits for them. The first core is the calling thread.
    ///
    /// On a busy core, the future has its turn once for every [`polls_per_turn`](CoresBuilder::polls_per_turn) polls of
    /// tasks. What has to keep up with busy tasks should be a task itself; the future can await its handle.
    ///
    /// When one of them is ready, the others go on. To end them all, [`request_shutdown`](crate::executor::request_shutdown)
    /// on any core; if it is an error that shall end them, use [`try_run`](CoresBuilder::try_run).
    ///
    /// # Errors
    ///
    /// Those of [`build`](CoresBuilder::build), before anything has run.
    ///
    /// If the reactor of a core cannot wait any more, which means that somebody closed its descriptor: then the future and the
    /// tasks of this core are dropped, and the others are asked to end
    /// ([`shutdown_requested`](crate::executor::shutdown_requested) becomes ready). Once they have, their outputs are dropped.
    /// The kernel's error is the [`source`](std::error::Error::source).
    ///
    /// # Panics
    ///
    /// As one of the futures does, after the others have ended. They are asked to:
    /// [`shutdown_requested`](crate::executor::shutdown_requested) becomes ready.
    ///
    /// # Examples
    ///
    /// ```
    /// use wakewheel::Cores;
    ///
    /// let names = ["a", "b"];
    /// let greetings = Cores::builder().threads(2).run(|i| {
    ///     let name = names[i];
    ///     async move { format!("hello from {name}") }
    /// })?;
    /// assert_eq!(greetings, ["hello from a", "hello from b"]);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn run<F: Future>(self, main: impl Fn(usize) -> F + Sync) -> io::Result<Vec<F::Output>>
    where
        F::Output: Send,
    {
        let places = self.places()?;
        let (main, settings) = (&main, &self.core);
        let mut cores = Vec::new();
        // The calling thread is lent only.
        let _unpin = self.pinned.then(cpu::restore_later).transpose()?;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            let mut starts = Vec::new();
            for (i, &place) in places.iter().enumerate().skip(1) {
                // Nothing runs before every core is there: a thread whose start signal never comes ends.
                let (ready, is_ready) = mpsc::channel();
                let (start_now, may_start) = mpsc::channel::<()>();
                let body = move || match start(settings.clone(), place) {
                    Ok(core) => {
                        let _ = ready.send(Ok(core.mailbox().clone()));
                        may_start.recv().ok()?;
                        Some(run_one(core, || main(i)))
                    }
                    Err(e) => {
                        let _ = ready.send(Err(e));
                        None
                    }
                };
                threads.push(thread::Builder::new().name(format!("core {i}")).spawn_scoped(scope, body)?);
                cores.push(is_ready.recv().expect("the thread answers")?);
                starts.push(start_now);
            }
            let core = start(settings.clone(), places[0])?;
            cores.push(core.mailbox().clone());
            group(cores.iter());
            for start_now in starts {
                let _ = start_now.send(());
            }
            let mut ends = vec![run_one(core, || main(0))];
            for thread in threads {
                match thread.join() {
                    Ok(end) => ends.extend(end),
                    Err(payload) => resume_unwind(payload),
                }
            }
            ends.into_iter().collect()
        })
    }

    /// [`run`](CoresBuilder::run) for futures that may fail. When one does, the others are asked to end:
    /// [`shutdown_requested`](crate::executor::shutdown_requested) becomes ready on each core. Once they have ended, the
    /// first error is returned.
    ///
    /// # Errors
    ///
    /// Those of [`run`](CoresBuilder::run); the first that a future ended with.
    ///
    /// # Panics
    ///
    /// As one of the futures does, like [`run`](CoresBuilder::run).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use wakewheel::{Cores, executor::shutdown_requested};
    ///
    /// let result = Cores::builder().threads(2).try_run(|core| async move {
    ///     if core == 1 {
    ///         return Err(io::Error::other("cannot listen"));
    ///     }
    ///     // It would serve for ever.
    ///     shutdown_requested().await;
    ///     Ok(())
    /// });
    /// assert_eq!(result.unwrap_err().to_string(), "cannot listen");
    /// ```
    pub fn try_run<T, E, F>(self, main: impl Fn(usize) -> F + Sync) -> Result<Vec<T>, E>
    where
        T: Send,
        E: From<io::Error> + Send,
        F: Future<Output = Result<T, E>>,
    {
        let first = &Mutex::new(None);
        let outputs = self.run(|core| {
            let future = main(core);
            async move {
                match future.await {
                    Ok(output) => Some(output),
                    Err(error) => {
                        // A later one may be due to the shutdown.
                        lock(first).get_or_insert(error);
                        request_shutdown();
                        None
                    }
                }
            }
        })?;
        match lock(first).take() {
            None => Ok(outputs.into_iter().flatten().collect()),
            Some(error) => Err(error),
        }
    }
}

/// Makes them ask each other to end.
fn group<'a>(cores: impl Iterator<Item = &'a Arc<Mailbox>> + Clone) {
    let ids: Arc<[u64]> = cores.clone().map(|core| core.id).collect();
    for core in cores {
        let _ = core.group.set(ids.clone());
    }
}

/// Runs what `main` makes on `core`. If one of the two panics, or the core cannot wait, the others are asked to end.
fn run_one<F: Future>(core: Box<Core>, main: impl FnOnce() -> F) -> io::Result<F::Output> {
    struct OnFailure<'a>(&'a Mailbox);
    impl Drop for OnFailure<'_> {
        fn drop(&mut self) {
            self.0.request_shutdown();
        }
    }
    let on_failure = OnFailure(core.mailbox());
    // The future is made on the core as well: what it registers from the start belongs there.
    let output = core.try_block_on(async { main().await })?;
    std::mem::forget(on_failure);
    Ok(output)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn start(settings: Settings, place: Option<usize>) -> io::Result<Box<Core>> {
    if let Some(processor) = place {
        cpu::pin(processor)?;
    }
    Core::new(settings)
}

/// A core's life in [`Cores`]: until it is asked to end, and its tasks have, or their time is up. Returns how many
/// are left.
async fn until_the_end() -> usize {
    // Not shutdown_requested: that may be the tasks' own idea, and what becomes of the cores is for their owner to say.
    let mut waiting = Waiting::new(|mailbox| &mailbox.on_shutdown);
    poll_fn(|cx| with_core("end", |core| core.poll_end(cx, &mut waiting))).await;
    let deadline = with_core("drain", |core| core.mailbox().deadline());
    drain_until(deadline).await
}
