//! The wheel against a model that cannot be wrong: a set of deadlines, in order.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};

const TICK: u64 = 1 << TICK_BITS;

/// A wheel of timers that are numbered as they come, and the model of it.
struct Checked {
    wheel: Wheel<usize>,
    now: u64,
    timers: Vec<Timer>,
    /// Deadline and number of each timer that is neither fired nor cancelled.
    pending: BTreeSet<(u64, usize)>,
    /// Nothing was cancelled or reset since the wheel was last empty: the bounds are exact.
    exact: bool,
}

struct Timer {
    key: Key,
    deadline: u64,
    reset: bool,
}

impl Checked {
    fn new(now: u64) -> Checked {
        let mut wheel = Wheel::new();
        wheel.advance(now, &mut Vec::new());
        Checked { wheel, now, timers: Vec::new(), pending: BTreeSet::new(), exact: true }
    }

    fn insert(&mut self, deadline: u64) {
        let number = self.timers.len();
        let key = self.wheel.insert(deadline, number);
        self.timers.push(Timer { key, deadline, reset: false });
        self.pending.insert((deadline, number));
        self.check();
    }

    fn cancel(&mut self, number: usize) {
        let timer = &self.timers[number];
        let pending = self.pending.remove(&(timer.deadline, number));
        assert_eq!(self.wheel.cancel(timer.key), pending.then_some(number));
        self.exact &= !pending;
        self.check();
    }

    fn reset(&mut self, number: usize, deadline: u64) {
        let timer = &mut self.timers[number];
        let pending = self.pending.remove(&(timer.deadline, number));
        assert_eq!(self.wheel.reset(timer.key, deadline), pending);
        if pending {
            (timer.deadline, timer.reset) = (deadline, true);
            self.pending.insert((deadline, number));
            self.exact = false;
        }
        self.check();
    }

    /// Returns how many timers fired.
    fn advance(&mut self, now: u64) -> usize {
        self.now = self.now.max(now);
        let mut fired = vec![usize::MAX];
        self.wheel.advance(now, &mut fired);
        assert_eq!(fired.remove(0), usize::MAX, "what was in `fired` before stays there");

        let mut due = self.pending.clone();
        self.pending = match self.now.checked_add(1) {
            Some(later) => due.split_off(&(later, 0)),
            None => BTreeSet::new(),
        };
        let fired: Vec<(u64, usize)> =
            fired.iter().map(|&number| (self.timers[number].deadline, number)).collect();
        assert_eq!(fired.iter().copied().collect::<BTreeSet<_>>(), due, "fired, due; now {now}");
        assert_eq!(fired.len(), due.len());
        assert!(fired.is_sorted_by_key(|&(deadline, _)| deadline), "{fired:?}");
        let untouched = |&&(_, number): &&(u64, usize)| !self.timers[number].reset;
        assert!(
            fired.iter().filter(untouched).is_sorted(),
            "equal deadlines in order of insertion: {fired:?}"
        );
        self.check();
        fired.len()
    }

    /// Sleeps until the bound says so, again and again, until a timer fires.
    fn advance_to_bound(&mut self) {
        while let Some(bound) = self.wheel.next_deadline() {
            if self.advance(bound) > 0 {
                return;
            }
            let next = self.wheel.next_deadline();
            assert!(next > Some(bound), "no progress: {bound}, then {next:?}");
        }
    }

    fn settle(&mut self) {
        self.wheel.settle();
        self.check();
        assert_eq!(self.wheel.next_deadline(), self.pending.first().map(|&(deadline, _)| deadline));
    }

    fn drain(&mut self) {
        let mut drained = BTreeSet::new();
        self.wheel.drain(|number| assert!(drained.insert(number)));
        assert_eq!(drained, self.pending.iter().map(|&(_, number)| number).collect());
        self.pending.clear();
        self.check();
    }

    fn check(&mut self) {
        let earliest = self.pending.first().map(|&(deadline, _)| deadline);
        self.exact |= earliest.is_none();
        assert_eq!(self.wheel.len(), self.pending.len());
        assert_eq!(self.wheel.is_empty(), self.pending.is_empty());

        let (bound, wakeup) = (self.wheel.next_deadline(), self.wheel.next_wakeup());
        assert_eq!(bound.is_none(), earliest.is_none());
        assert!(bound <= earliest, "bound {bound:?}, earliest {earliest:?}");
        assert!(!self.exact || bound == earliest, "bound {bound:?}, earliest {earliest:?}");
        assert!(bound <= wakeup, "bound {bound:?}, wakeup {wakeup:?}");
        if let (Some(earliest), Some(wakeup)) = (earliest, wakeup) {
            let late = wakeup.saturating_sub(earliest);
            let late_max = if earliest > self.now { u64::from(SHARED_TICKS) * TICK - 1 } else { 0 };
            assert!(late <= late_max, "wakeup {wakeup}, earliest {earliest}, now {}", self.now);
            if self.exact {
                assert_eq!(wakeup, self.wakeup(earliest), "earliest {earliest}, now {}", self.now);
            }
        }
        check_structure(&self.wheel);
    }

    /// The last deadline of those ticks that share a wake-up, if they are near: among the 64 that level 0 is about.
    fn wakeup(&self, earliest: u64) -> u64 {
        let near = earliest > self.now && earliest | span(SLOTS) == self.now | span(SLOTS);
        let end = (earliest | span(0))
            .saturating_add(u64::from(SHARED_TICKS - 1) * TICK)
            .min(self.now | span(SLOTS));
        let ticks = (earliest, 0)..=(end, usize::MAX);
        if near { self.pending.range(ticks).next_back().unwrap().0 } else { earliest }
    }

    fn check_key(&mut self, number: usize) {
        let Timer { key, deadline, .. } = self.timers[number];
        let pending = self.pending.contains(&(deadline, number));
        assert_eq!(self.wheel.contains(key), pending);
        assert_eq!(self.wheel.deadline(key), pending.then_some(deadline));
        assert_eq!(self.wheel.get_mut(key).copied(), pending.then_some(number));
    }
}

/// What must hold between any two calls, whatever the calls were.
fn check_structure<T>(wheel: &Wheel<T>) {
    let mut seen = HashSet::new();
    for slot in 0..LEVELS * SLOTS {
        if wheel.occupied[slot / SLOTS] & 1 << (slot % SLOTS) == 0 {
            continue;
        }
        let Slot { earliest, head, tail } = wheel.slots[slot];
        assert_ne!(head, NIL, "slot {slot} is marked, and empty");
        let (mut prev, mut index) = (NIL, head);
        while index != NIL {
            let entry = &wheel.entries[index as usize];
            assert!(seen.insert(index), "entry {index} is in two places");
            assert!(entry.payload.is_some());
            assert_eq!((entry.slot as usize, entry.prev), (slot, prev), "entry {index}");
            assert!(entry.deadline >= earliest, "slot {slot}: {} is earlier than {earliest}", entry.deadline);
            (prev, index) = (index, entry.next);
        }
        assert_eq!(tail, prev, "slot {slot}");

        let (level, place) = (slot / SLOTS, (slot % SLOTS) as u64);
        let current = wheel.now >> (TICK_BITS + level as u32 * SLOT_BITS) & (SLOTS as u64 - 1);
        assert!(place > current || level == 0 && place == current, "slot {slot} is behind {}", wheel.now);
    }
    assert_eq!(seen.len(), wheel.len());

    let mut index = wheel.vacant;
    while index != NIL {
        assert!(seen.insert(index), "entry {index} is vacant and pending, or vacant twice");
        index = wheel.entries[index as usize].next;
    }
    let retired = wheel.entries.iter().filter(|entry| entry.generation == RETIRED).count();
    assert_eq!(seen.len() + retired, wheel.entries.len(), "entries are lost");
}

/// One more, one less, or none.
fn around(time: u64) -> [u64; 3] {
    [time.saturating_sub(1), time, time.saturating_add(1)]
}

/// The times at which something could go wrong: around every power of two, of nanoseconds and so of ticks.
fn edges() -> impl Iterator<Item = u64> {
    (0..u64::BITS).flat_map(|bit| around(1 << bit)).chain([0, u64::MAX - 1, u64::MAX])
}

#[test]
fn b56_every_edge_fires_at_its_own_time_from_every_edge() {
    for start in edges() {
        let mut deadlines: Vec<u64> = edges().chain(edges().map(|edge| start.saturating_add(edge))).collect();
        deadlines.extend(edges().map(|edge| start.saturating_sub(edge)));
        let mut wheel = Wheel::new();
        let mut fired = Vec::new();
        wheel.advance(start, &mut fired);
        for &deadline in &deadlines {
            wheel.insert(deadline, deadline);
        }
        check_structure(&wheel);
        deadlines.sort_unstable();

        let (past, ahead) = deadlines.split_at(deadlines.partition_point(|&deadline| deadline <= start));
        wheel.advance(start, &mut fired);
        assert_eq!(fired, past, "start {start}");
        for due in ahead.chunk_by(|a, b| a == b) {
            assert_eq!(wheel.next_deadline(), Some(due[0]), "start {start}");
            fired.clear();
            wheel.advance(due[0] - 1, &mut fired);
            assert!(fired.is_empty(), "start {start}, deadline {}: early", due[0]);
            assert_eq!(wheel.next_deadline(), Some(due[0]), "start {start}");
            wheel.advance(due[0], &mut fired);
            assert_eq!(fired, due, "start {start}");
        }
        assert!(wheel.is_empty());
    }
}

#[test]
fn a_far_timer_needs_no_wakeup_on_the_way() {
    const HOUR: u64 = 3_600_000_000_000;
    let mut wheel = Wheel::new();
    let mut fired = Vec::new();
    wheel.insert(HOUR, ());
    assert_eq!((wheel.next_deadline(), wheel.next_wakeup()), (Some(HOUR), Some(HOUR)));
    wheel.advance(HOUR, &mut fired);
    assert_eq!(fired.len(), 1);
}

#[test]
fn timers_of_neighbouring_ticks_share_a_wakeup() {
    let mut wheel = Wheel::new();
    for deadline in [7 * TICK + 3, 5 * TICK + 1, 7 * TICK + 2, 8 * TICK] {
        wheel.insert(deadline, deadline);
    }
    assert_eq!(wheel.next_deadline(), Some(5 * TICK + 1));
    assert_eq!(wheel.next_wakeup(), Some(7 * TICK + 3));
    let mut fired = Vec::new();
    wheel.advance(7 * TICK + 3, &mut fired);
    assert_eq!(fired, [5 * TICK + 1, 7 * TICK + 2, 7 * TICK + 3]);
    assert_eq!(wheel.next_wakeup(), Some(8 * TICK), "one that is alone is not made late");

    wheel.insert(TICK, TICK);
    wheel.insert(8 * TICK - 1, 8 * TICK - 1);
    assert_eq!(wheel.next_wakeup(), Some(TICK), "neither is one that is overdue");
}

#[test]
fn a_later_deadline_is_only_a_store() {
    let mut wheel = Wheel::new();
    let mut fired = Vec::new();
    let key = wheel.insert(10 * TICK, ());
    let slot = wheel.entries[0].slot;
    for tick in 11..10_000 {
        assert!(wheel.reset(key, tick * TICK));
        assert_eq!((wheel.entries[0].slot, wheel.deadline(key)), (slot, Some(tick * TICK)));
    }
    wheel.advance(10 * TICK, &mut fired);
    assert_eq!(wheel.next_deadline(), Some(9_999 * TICK), "it has moved, to the last of its deadlines");
    wheel.advance(9_999 * TICK, &mut fired);
    assert_eq!(fired.len(), 1);
}

#[test]
fn entries_are_reused() {
    let mut wheel = Wheel::new();
    let mut fired = Vec::new();
    for round in 0..1_000 {
        let kept = wheel.insert(round * TICK, ());
        let cancelled = wheel.insert(round * TICK, ());
        wheel.cancel(cancelled);
        wheel.advance(round * TICK, &mut fired);
        assert!(!wheel.contains(kept));
    }
    assert_eq!(wheel.entries.len(), 2);
}

#[test]
fn an_entry_that_has_used_up_its_generations_is_not_reused() {
    let mut wheel = Wheel::new();
    let first = wheel.insert(1, 1);
    wheel.cancel(first);
    wheel.entries[0].generation = NonZeroU32::new(u32::MAX - 1).unwrap();
    let last = wheel.insert(2, 2);
    assert_eq!(last.index, first.index);
    assert_eq!(wheel.cancel(last), Some(2));
    let next = wheel.insert(3, 3);
    assert_ne!(next.index, first.index);
    assert!(!wheel.contains(first) && !wheel.contains(last) && wheel.contains(next));
    check_structure(&wheel);
    wheel.drain(drop);
    check_structure(&wheel);
}

#[test]
fn a_panic_while_draining_leaves_the_rest_in_the_wheel() {
    let mut wheel = Wheel::new();
    let keys = [1, 2, 3].map(|deadline| wheel.insert(deadline, deadline));
    let panic = std::panic::AssertUnwindSafe(|| wheel.drain(|_| std::panic::resume_unwind(Box::new(()))));
    assert!(std::panic::catch_unwind(panic).is_err());
    check_structure(&wheel);
    assert_eq!(keys.map(|key| wheel.cancel(key)), [None, Some(2), Some(3)]);
}

/// A time, told from where the wheel is.
#[derive(Clone, Debug)]
enum Time {
    Ahead(u64),
    Behind(u64),
    /// Around the next instant at which time enters a slot of this level.
    Boundary(u32, i64),
    /// Around this many ticks ahead: two to the power of six times the level.
    Width(u32, i64),
    /// The deadline of a timer, pending or not.
    Equal(prop::sample::Index),
    BeforeEnd(u64),
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Time),
    Cancel(prop::sample::Index),
    Reset(prop::sample::Index, Time),
    CheckKey(prop::sample::Index),
    Advance(Time),
    AdvanceToBound,
    AdvanceToWakeup,
    Settle,
    Drain,
}

impl Time {
    fn resolve(&self, model: &Checked) -> u64 {
        match *self {
            Time::Ahead(distance) => model.now.saturating_add(distance),
            Time::Behind(distance) => model.now.saturating_sub(distance),
            Time::Boundary(level, offset) => {
                (model.now | span(level as usize * SLOTS)).saturating_add(1).saturating_add_signed(offset)
            }
            Time::Width(level, offset) => {
                model.now.saturating_add(span(level as usize * SLOTS) + 1).saturating_add_signed(offset)
            }
            Time::Equal(_) if model.timers.is_empty() => model.now,
            Time::Equal(index) => model.timers[index.index(model.timers.len())].deadline,
            Time::BeforeEnd(distance) => u64::MAX - distance,
        }
    }
}

/// All orders of magnitude below 2^`bits`, with the same probability.
fn distance(bits: u32) -> impl Strategy<Value = u64> {
    (any::<u64>(), u64::BITS - bits..=u64::BITS).prop_map(|(n, shift)| n.checked_shr(shift).unwrap_or(0))
}

fn nearby(bits: u32) -> impl Strategy<Value = Time> {
    let levels = || 0..=(bits - TICK_BITS - 1) / SLOT_BITS;
    let tick = TICK as i64;
    let offset =
        move || (prop::sample::select(vec![-tick, 0, tick]), -1..=1i64).prop_map(|(ticks, ns)| ticks + ns);
    prop_oneof![
        6 => distance(bits).prop_map(Time::Ahead),
        1 => distance(bits).prop_map(Time::Behind),
        3 => (levels(), offset()).prop_map(|(level, offset)| Time::Boundary(level, offset)),
        3 => (levels(), offset()).prop_map(|(level, offset)| Time::Width(level, offset)),
    ]
}

fn anywhere() -> impl Strategy<Value = Time> {
    prop_oneof![
        6 => nearby(36),
        6 => nearby(64),
        3 => any::<prop::sample::Index>().prop_map(Time::Equal),
        1 => distance(64).prop_map(Time::BeforeEnd),
    ]
}

/// Deadlines anywhere, but jumps mostly short, so that there is time left for all the steps.
fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let jump = prop_oneof![9 => nearby(36), 1 => anywhere()];
    prop_oneof![
        12 => anywhere().prop_map(Step::Insert),
        4 => index().prop_map(Step::Cancel),
        6 => (index(), anywhere()).prop_map(|(index, time)| Step::Reset(index, time)),
        2 => index().prop_map(Step::CheckKey),
        6 => jump.prop_map(Step::Advance),
        3 => Just(Step::AdvanceToBound),
        3 => Just(Step::AdvanceToWakeup),
        2 => Just(Step::Settle),
        1 => Just(Step::Drain),
    ]
}

fn run(start: u64, steps: &[Step]) {
    let mut model = Checked::new(start);
    for step in steps {
        let timer = |index: &prop::sample::Index| index.index(model.timers.len().max(1));
        match step {
            Step::Cancel(_) | Step::Reset(..) | Step::CheckKey(_) if model.timers.is_empty() => {}
            Step::Insert(time) => model.insert(time.resolve(&model)),
            Step::Cancel(index) => model.cancel(timer(index)),
            Step::Reset(index, time) => model.reset(timer(index), time.resolve(&model)),
            Step::CheckKey(index) => model.check_key(timer(index)),
            Step::Advance(time) => {
                model.advance(time.resolve(&model));
            }
            Step::AdvanceToBound => model.advance_to_bound(),
            Step::AdvanceToWakeup => {
                model.advance(model.wheel.next_wakeup().unwrap_or(0));
            }
            Step::Settle => model.settle(),
            Step::Drain => model.drain(),
        }
    }
    for number in 0..model.timers.len() {
        model.check_key(number);
    }
    while !model.pending.is_empty() {
        model.advance_to_bound();
    }
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(start in distance(64), steps in prop::collection::vec(step(), 1..150)) {
        run(start, &steps);
    }

    /// Without `cancel` and `reset`, the bounds stay exact all along.
    #[test]
    fn left_alone_it_is_exact(start in distance(64), steps in prop::collection::vec(step(), 1..150)) {
        let alone = |step: &Step| !matches!(step, Step::Cancel(_) | Step::Reset(..));
        run(start, &steps.into_iter().filter(alone).collect::<Vec<_>>());
    }
}
