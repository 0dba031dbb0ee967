//! A selector for tests, whose waits end as a script says: turns of a reactor that are exactly reproducible.
//!
//! The test keeps the [`Script`], writes down what each wait finds and what others do while it lasts, and reads
//! afterwards what the reactor has asked for. Once the script is over, a wait ends by its time-out or a notification. One
//! that has neither would be for ever, which is an error of the test; under loom it lasts until another thread notifies or
//! goes on with the script, so that a notification that is lost shows as a deadlock.

use super::{Event, NOTIFY_TOKEN, Ready, Watched};
use crate::sync::{Mutex, lock};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

/// What a reactor asks of its selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Add(RawFd, u64),
    Delete(RawFd),
    Wait(Option<Duration>),
    Notify,
}

/// The answer to one wait.
type Scene = Box<dyn FnOnce() -> io::Result<Vec<Event>> + Send>;

#[derive(Default)]
pub(crate) struct Script {
    state: Mutex<State>,
    #[cfg(loom)]
    notified: loom::sync::Condvar,
}

#[derive(Default)]
struct State {
    scenes: VecDeque<Scene>,
    calls: Vec<Call>,
    members: Vec<(RawFd, u64)>,
    notified: bool,
}

impl Script {
    pub fn new() -> Arc<Script> {
        Arc::default()
    }

    /// The next wait that has no answer yet finds this.
    pub fn then(&self, events: impl IntoIterator<Item = (u64, Ready)>) {
        let events: Vec<_> = events.into_iter().map(|(token, ready)| Event { token, ready }).collect();
        self.then_do(move || Ok(events));
    }

    /// During the next wait that has no answer yet, this happens, and then it ends as this says.
    pub fn then_do(&self, scene: impl FnOnce() -> io::Result<Vec<Event>> + Send + 'static) {
        lock(&self.state).scenes.push_back(Box::new(scene));
        #[cfg(loom)]
        self.notified.notify_one();
    }

    /// What has been asked since the last time.
    #[cfg(not(loom))]
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.state).calls)
    }

    /// The token that `fd` was last added with.
    pub fn token(&self, fd: RawFd) -> u64 {
        let state = lock(&self.state);
        state.members.iter().find(|(member, _)| *member == fd).expect("it is registered").1
    }

    pub(super) fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.calls.push(Call::Add(fd, token));
        state.members.push((fd, token));
        Ok(())
    }

    /// As in epoll, a change reports anew what the descriptor is ready for: here, for everything.
    pub(super) fn watch(&self, fd: RawFd, token: u64, watched: Watched, is_new: bool) -> io::Result<()> {
        if is_new {
            return self.add(fd, token);
        }
        self.then([(token, watched.interest)]);
        Ok(())
    }

    pub(super) fn delete(&self, fd: RawFd) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.calls.push(Call::Delete(fd));
        state.members.retain(|(member, _)| *member != fd);
        Ok(())
    }

    pub(super) fn holds(&self, fd: RawFd, token: u64) -> bool {
        lock(&self.state).members.contains(&(fd, token))
    }

    pub(super) fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let scene = {
            let mut state = lock(&self.state);
            state.calls.push(Call::Wait(timeout));
            #[cfg(loom)]
            while state.scenes.is_empty() && !state.notified && timeout != Some(Duration::ZERO) {
                state = self.notified.wait(state).unwrap();
            }
            state.scenes.pop_front()
        };
        // Without the lock: it may notify.
        let is_scene = scene.is_some();
        if let Some(scene) = scene {
            events.extend(scene()?);
        }
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.notified) {
            events.push(Event { token: NOTIFY_TOKEN, ready: Ready::READABLE });
        } else {
            assert!(is_scene || timeout.is_some(), "the script is over, and this wait would never end");
        }
        Ok(())
    }

    pub(super) fn notify(&self) {
        let mut state = lock(&self.state);
        state.calls.push(Call::Notify);
        state.notified = true;
        #[cfg(loom)]
        self.notified.notify_one();
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}
