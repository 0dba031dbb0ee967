//! What an event may allocate.

#[path = "common/counting.rs"]
mod counting;

use counting::{allocations, bytes};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use wakewheel::event::{Base, Event, Kinds, Run};

const PAIRS: usize = 200;

#[test]
fn an_event_allocates_when_it_is_made_and_its_descriptor_is_first_attached_and_not_after_that() {
    let pairs: Vec<_> = (0..PAIRS).map(|_| UnixStream::pair().unwrap()).collect();
    // The table of all descriptors, which the process has once, grows with this.
    for (ours, _) in &pairs {
        Event::new(&Base::new().unwrap(), ours.as_raw_fd(), Kinds::READ, |_, _| {}).attach(None).unwrap();
    }
    let base = Base::new().unwrap();
    let hour = Some(Duration::from_secs(3600));
    let kinds = Kinds::READ | Kinds::TIMEOUT | Kinds::PERSIST;

    let before = allocations();
    let events: Vec<_> = pairs
        .iter()
        .map(|(ours, _)| {
            let reader = ours.try_clone().unwrap();
            Event::new(&base, ours.as_raw_fd(), kinds, move |_, _| {
                let mut buf = [0; 8];
                assert_eq!((&reader).read(&mut buf).unwrap(), 1);
            })
        })
        .collect();
    let made = allocations() - before;
    assert!(made <= 2 * PAIRS as u64 + 1, "{made}: the event and its callback");

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
    // A source each; and the lists grow, which is rarer the longer they are.
    assert!(attached <= PAIRS as u64 + 60, "{attached}");
    // There are two lists of those that have news, which take turns.
    round();
    let held = bytes();
    for _ in 0..3 {
        assert_eq!(round(), (0, 0));
    }
    assert_eq!(bytes(), held);
}
