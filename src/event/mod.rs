//! Callbacks for descriptors, timers and signals, in the manner of [libevent](https://libevent.org) and of Go's
//! [event](https://github.com/cheng-zhongliang/event).
//!
//! ```
//! use std::io::{Read, Write};
//! use std::os::fd::AsRawFd;
//! use std::os::unix::net::UnixStream;
//! use wakewheel::event::{Base, Event, Kinds};
//!
//! let base = Base::new()?;
//! let (mut ours, mut theirs) = UnixStream::pair()?;
//! let event = Event::new(&base, ours.as_raw_fd(), Kinds::READ, {
//!     let base = base.clone();
//!     move |_event, kinds| {
//!         assert_eq!(kinds, Kinds::READ);
//!         let mut hello = [0; 5];
//!         ours.read_exact(&mut hello).unwrap();
//!         base.shutdown();
//!     }
//! });
//! event.attach(None)?;
//! theirs.write_all(b"hello")?;
//! base.dispatch()?;
//! # std::io::Result::Ok(())
//! ```
//!
//! | what | how |
//! |---|---|
//! | a descriptor that can be read or written, a peer that hangs up | [`Event::new`], [`Kinds`] |
//! | a time-out for that; an idle time-out | [`Kinds::TIMEOUT`] in addition; [`Kinds::PERSIST`] as well |
//! | a timer, a ticker | [`Event::timer`], [`Event::ticker`] |
//! | a signal | [`Event::signal`] |
//! | edge-triggered | [`Kinds::EDGE`] |
//! | what comes first | [`Event::set_priority`] |
//! | running | [`Base::dispatch`], [`Base::run`] |
//! | stopping, from any thread | [`Base::shutdown`], [`BaseHandle::shutdown`] |
//! | futures beside events | [`Base::spawn`]; a callback may wake a task |
//!
//! # An iteration
//!
//! The base waits for descriptors, signals and the first deadline. It lets the futures run that are ready. Then it collects
//! which events are concerned: those of descriptors and signals first, in the order in which the kernel reports
//! them, then those of which the time has expired, in the order of their deadlines. Then it calls them: all of high
//! priority, all of the middle, all of low priority, each in the order in which they were collected. An event that several
//! things have happened to is called once, and told of all.
//!
//! A callback may attach, detach and re-assign any event, its own included. One that is detached is not called any more,
//! also if it was collected already in this iteration. One that is attached is called in the next iteration at the
//! earliest.
//!
//! # Level and edge
//!
//! Without [`Kinds::EDGE`], an event that stays attached is called in each iteration in which its descriptor is ready, whichever
//! system call the base waits in. With it, once, until there is something new; that may be the case when another event
//! comes to or leaves the same descriptor. Two events on one descriptor have to agree on this. On a system
//! that has neither epoll nor kqueue, edges are refused.
//!
//! # Descriptors
//!
//! They are the user's: an event only knows the number, changes no flags, and closes nothing. **Detach an event before its
//! descriptor is closed.** If that is forgotten, it is not called any more, and an event for the next file with
//! the same number is refused until the old one has been detached.
//!
//! To make an event allocates what it needs: about 100 bytes of its own, 160 if it can have a time, and 200 for its
//! descriptor, which all events with that number share, and the base keeps as long as it lives. To attach and to detach
//! allocates nothing.
//!
//! # Panics
//!
//! A callback that panics does so out of [`dispatch`](Base::dispatch) or [`run`](Base::run). The base can be used after that:
//! the events that were collected and not called yet are called in the next iteration.

mod base;
mod bell;
mod error;
mod file;
mod kinds;
#[path = "event.rs"]
mod one;

pub use base::{Base, BaseHandle, Run};
pub use error::Error;
pub use kinds::{Kinds, Priority};
pub use one::Event;
