//! What an event may allocate.

#[path = "common/counting.rs"]
mod counting;

use counting::{allocations, bytes};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use wakewheel::event::{Base, Error, Event, Kinds, Run};
use wakewheel::reactor::Backend;

const PAIRS: usize = 200;

#[test]
fn an_event_allocates_when_it_is_made_and_neither_when_it_is_attached_nor_when_it_is_called() {
    let pairs: Vec<_> = (0..PAIRS).map(|_| UnixStream::pair().unwrap()).collect();
    // The table of all descriptors, which the process has once, grows with this.
    for (ours, _) in &pairs {
        Event::new(&Base::new().unwrap(), ours.as_raw_fd(), Kinds::READ, |_, _| {}).attach(None).unwrap();
    }
    let base = Base::new().unwrap();
    let hour = Some(Duration::from_secs(3600));
    for (kinds, needs) in [(Kinds::READ, 3), (Kinds::READ | Kinds::TIMEOUT, 4)] {
        let make = || -> Vec<_> {
            let events = pairs.iter().map(|(ours, _)| {
                let reader = ours.try_clone().unwrap();
                Event::new(&base, ours.as_raw_fd(), kinds | Kinds::PERSIST, move |_, _| {
                    let mut buf = [0; 8];
                    assert_eq!((&reader).read(&mut buf).unwrap(), 1);
                })
            });
            events.collect()
        };
        // The event, its callback, what is registered, its time. And the lists of them all grow, which is rarer the longer
        // they are.
        let before = allocations();
        let events = make();
        let made = allocations() - before;
        assert!(made <= needs * PAIRS as u64 + 40, "{kinds:?}: {made}");
        // Another one for the same descriptor needs no registration of its own.
        for lists in [3, 1, 1] {
            let before = allocations();
            let others = make();
            let made = allocations() - before;
            assert!(made <= (needs - 1) * PAIRS as u64 + lists, "{kinds:?}: {made}");
            // What they had is for the next ones.
            drop(others);
        }

        let round = || {
            let before = allocations();
            events.iter().for_each(|event| event.attach(hour).unwrap());
            let attached = allocations() - before;
            for (_, theirs) in &pairs {
                (&*theirs).write_all(b"x").unwrap();
            }
            let mut called = 0;
            while called < PAIRS {
                called += base.run(Run::Once).unwrap();
            }
            events.iter().for_each(|event| event.detach().unwrap());
            (attached, allocations() - before - attached)
        };
        let (attached, _) = round();
        // What poll(2) is given grows.
        let lists = if Backend::from_env().unwrap() == Backend::Poll { 20 } else { 0 };
        assert!(attached <= lists, "{kinds:?}: {attached}");
        // There are two lists of those that have news, which take turns.
        round();
        let held = bytes();
        for _ in 0..3 {
            assert_eq!(round(), (0, 0));
        }
        assert_eq!(bytes(), held);
    }
}

#[test]
fn a_number_that_no_descriptor_has_costs_an_event_that_has_it_nothing_more() {
    let base = Base::new().unwrap();
    let before = bytes();
    for fd in [1 << 30, RawFd::MAX, -1] {
        let event = Event::new(&base, fd, Kinds::READ, |_, _| {});
        assert!(matches!(event.attach(None), Err(Error::Io(_))), "{fd}");
    }
    assert!(bytes() - before < 1024, "{}", bytes() - before);
}
