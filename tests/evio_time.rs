//! evio: ticks, and the time-outs of connections.

mod common;
#[path = "common/evio_server.rs"]
mod evio_server;

use evio_server::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use wakewheel::evio::{self, Action, Builder, Events, Options, Reply, TickMode};
use wakewheel::spawn_local;

const MS: Duration = Duration::from_millis(1);

/// The moments of the first `n` ticks with this delay, each of which takes `work`, since the first.
fn ticks(n: usize, delay: Duration, work: Duration, mode: TickMode) -> Vec<Duration> {
    let log = Log::<Instant>::new();
    let noted = log.clone();
    let events = Events::new().choices(Builder::new().tick_mode(mode)).tick(move |_| {
        noted.note(Instant::now());
        thread::sleep(work);
        (delay, if noted.len() == n { Action::Shutdown } else { Action::None })
    });
    Serving::start(move || evio::serve(events, [""; 0])).join().unwrap();
    let log = log.all();
    log.iter().map(|tick| *tick - log[0]).collect()
}

#[test]
fn b49_ticks_come_after_their_delay() {
    at_best(|| {
        let started = Instant::now();
        // The first comes at once, and the last shuts down.
        let ticks = ticks(26, 10 * MS, Duration::ZERO, TickMode::FixedDelay);
        let took = started.elapsed();
        assert_eq!(ticks.len(), 26);
        assert!(took >= 250 * MS, "{took:?}");
        if took < 400 * MS { Ok(()) } else { Err(format!("{took:?}")) }
    });
}

#[test]
fn b50_the_first_tick_follows_serving_on_the_first_loop_before_any_connection() {
    for loops in [1, 3] {
        let log = Log::<(String, thread::ThreadId)>::new();
        let note = |what: &'static str| {
            let log = log.clone();
            move || log.note((what.to_owned(), thread::current().id()))
        };
        let (serving, opened, tick) = (note("serving"), note("opened"), note("tick"));
        let client = Mutex::new(None);
        let events = Events::new()
            .num_loops(loops)
            .serving(move |server| {
                serving();
                // This one waits to be accepted.
                *client.lock().unwrap() = Some(Client::connect(&local(&server.addrs()[0])));
                Action::None
            })
            .opened(move |_| {
                opened();
                Action::Shutdown.into()
            })
            .tick(move |_| {
                tick();
                (Duration::from_secs(3600), Action::None)
            });
        let here = mpsc::channel();
        let serving = Serving::start(move || {
            here.0.send(thread::current().id()).unwrap();
            evio::serve(events, ["tcp://127.0.0.1:0"])
        });
        let first = here.1.recv().unwrap();
        serving.join().unwrap();
        let log = log.all();
        let what: Vec<_> = log.iter().map(|(what, _)| what.as_str()).collect();
        match loops {
            1 => assert_eq!(what, ["serving", "tick", "opened"]),
            // On another loop, it may be opened at the same moment.
            _ => assert_eq!(what[0], "serving"),
        }
        assert!(log.iter().all(|(what, thread)| what == "opened" || *thread == first), "{loops} loops");
        assert!(log.iter().filter(|(what, _)| what == "tick").count() <= 1, "{loops} loops");
    }
}

#[test]
fn b51_a_fixed_delay_counts_from_the_end_of_a_tick() {
    let ticks = ticks(10, 10 * MS, 5 * MS, TickMode::FixedDelay);
    assert!(ticks.windows(2).all(|two| two[1] - two[0] >= 15 * MS), "{ticks:?}");
}

#[test]
fn b51_a_fixed_rate_does_not_depend_on_how_long_a_tick_takes() {
    at_best(|| {
        let ticks = ticks(11, 20 * MS, 10 * MS, TickMode::FixedRate);
        // The first is due a little before it is noted.
        let is_early = (0..).zip(&ticks).any(|(i, tick)| *tick + MS < 20 * i * MS);
        // With a fixed delay, none of them would be.
        let kept = ticks.windows(2).filter(|two| two[1] - two[0] < 30 * MS).count();
        if !is_early && kept >= 5 { Ok(()) } else { Err(format!("{ticks:?}")) }
    });
}

#[test]
fn b51_a_rate_that_cannot_be_kept_makes_no_burst() {
    at_best(|| {
        let calls = AtomicUsize::new(0);
        let log = Log::<Instant>::new();
        let noted = log.clone();
        let events = Events::new().choices(Builder::new().tick_mode(TickMode::FixedRate)).tick(move |_| {
            noted.note(Instant::now());
            let call = calls.fetch_add(1, Ordering::Relaxed);
            if call == 0 {
                thread::sleep(205 * MS);
            }
            (20 * MS, if call == 4 { Action::Shutdown } else { Action::None })
        });
        Serving::start(move || evio::serve(events, [""; 0])).join().unwrap();
        let log = log.all();
        // The one that is late comes at once; those that were missed meanwhile do not come at all.
        let rest = log[4] - log[1];
        if rest >= 59 * MS { Ok(()) } else { Err(format!("{rest:?}")) }
    });
}

#[test]
fn b52_a_server_that_sleeps_until_the_next_tick_stops_at_once() {
    common::in_a_process_of_its_own("b52_a_server_that_sleeps_until_the_next_tick_stops_at_once", || {
        let count = || (common::proc::threads(), common::proc::descriptors());
        let mut before = None;
        at_best(|| {
            let ticks = Log::<()>::new();
            let noted = ticks.clone();
            let events = Events::new().num_loops(3).tick(move |_| {
                noted.note(());
                (Duration::from_secs(3600), Action::None)
            });
            let running = start(events, &["tcp://127.0.0.1:0"]);
            ticks.wait_for(1);
            let stopped = Instant::now();
            running.stop();
            let took = stopped.elapsed();
            assert_eq!(ticks.len(), 1);
            // The first server may leave something that a process has once.
            let before = *before.get_or_insert_with(count);
            eventually("no thread and no descriptor is left", || {
                let now = count();
                now.0 <= before.0 && now.1 <= before.1
            });
            if took < 100 * MS { Ok(()) } else { Err(format!("{took:?}")) }
        });
    });
}

// ------------------------------------------------------------------------------------------ what time it is

/// How long after `from` something happened, which has to be `due` or a little later.
fn a_little_after(due: Duration, from: Instant) -> Result<(), String> {
    let took = from.elapsed();
    assert!(took >= due, "early: {took:?}");
    if took <= due + 5 * MS { Ok(()) } else { Err(format!("{took:?}")) }
}

#[test]
fn b54_a_timer_counts_from_when_it_is_made_after_a_long_sleep() {
    at_best(|| {
        wakewheel::LocalExecutor::new().unwrap().block_on(async {
            wakewheel::sleep(60 * MS).await;
            let made = Instant::now();
            wakewheel::sleep(50 * MS).await;
            a_little_after(50 * MS, made)
        })
    });
}

#[test]
fn b55_a_timer_counts_from_when_it_is_made_in_a_long_callback() {
    at_best(|| {
        wakewheel::LocalExecutor::new().unwrap().block_on(async {
            // The loop has slept before, and its time is that of long ago.
            wakewheel::sleep(20 * MS).await;
            let made = Instant::now();
            let timer = spawn_local(wakewheel::Timer::after(40 * MS));
            thread::sleep(30 * MS);
            timer.await.unwrap();
            let by_task = a_little_after(40 * MS, made);

            let made = Instant::now();
            let timer = wakewheel::Timer::after(40 * MS);
            thread::sleep(30 * MS);
            timer.await;
            by_task.and(a_little_after(40 * MS, made))
        })
    });
}

// ------------------------------------------------------------------------------------------------ the clock

#[cfg(target_os = "linux")]
mod wall_clock {
    use super::*;
    use std::sync::atomic::AtomicI64;
    use std::time::SystemTime;

    static STEP: AtomicI64 = AtomicI64::new(0);

    /// What this program calls instead of libc's: the wall clock can be stepped.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
        // SAFETY: the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        if result == 0 && clock == libc::CLOCK_REALTIME {
            // SAFETY: the kernel has just written there.
            unsafe { (*time).tv_sec += STEP.load(Ordering::SeqCst) as libc::time_t };
        }
        result as libc::c_int
    }

    #[test]
    fn b57_a_wall_clock_that_is_stepped_changes_nothing() {
        for step in [-3600, 3600] {
            let log = Log::<(String, Instant)>::new();
            let (opened, tick, end) = (log.clone(), log.clone(), log.clone());
            let events = Events::new()
                .opened(move |_| {
                    opened.note(("opened".to_owned(), Instant::now()));
                    Options::new().idle_timeout(300 * MS).into()
                })
                .closed(move |_, error| {
                    end.note((closed(error), Instant::now()));
                    Action::None
                })
                .tick(move |_| {
                    tick.note(("tick".to_owned(), Instant::now()));
                    (50 * MS, Action::None)
                });
            let running = start(events, &["tcp://127.0.0.1:0"]);
            let wall = SystemTime::now();
            let mut client = running.connect(0);
            STEP.fetch_add(step, Ordering::SeqCst);
            let moved = SystemTime::now();
            match step < 0 {
                true => assert!(moved + Duration::from_secs(3000) < wall, "the step is seen"),
                false => assert!(moved > wall + Duration::from_secs(3000), "the step is seen"),
            }
            client.wait_for_the_end();
            let log = log.wait(|log| log.iter().any(|(what, _)| what.starts_with("closed")));
            let (what, at) = log.iter().find(|(what, _)| what.starts_with("closed")).unwrap();
            assert_eq!(what, "closed: TimedOut");
            let (_, opened) = log.iter().find(|(what, _)| what == "opened").unwrap();
            assert!(*at - *opened >= 300 * MS, "{:?}", *at - *opened);
            let ticks: Vec<_> = log.iter().filter(|(what, _)| what == "tick").map(|(_, at)| *at).collect();
            assert!(ticks.windows(2).all(|two| two[1] - two[0] >= 50 * MS), "{ticks:?}");
            assert!(ticks.len() >= 3, "{ticks:?}");
            running.stop();
        }
    }
}

// ---------------------------------------------------------------------------------------------- idle time

#[test]
fn b58_an_idle_timeout_counts_from_the_last_activity() {
    at_best(|| {
        let log = Log::<(String, Instant)>::new();
        let (data, end) = (log.clone(), log.clone());
        let events = Events::new()
            .opened(|_| Options::new().idle_timeout(200 * MS).into())
            .data(move |_, input| {
                data.note((text(input), Instant::now()));
                Reply::send(input)
            })
            .closed(move |_, error| {
                end.note((closed(error), Instant::now()));
                Action::None
            });
        let running = start(events, &["tcp://127.0.0.1:0"]);
        let mut client = running.connect(0);
        let mut last = Instant::now();
        for _ in 0..5 {
            thread::sleep((last + 100 * MS).saturating_duration_since(Instant::now()));
            if last.elapsed() > 180 * MS {
                return Err("the client was late".into());
            }
            last = Instant::now();
            client.ask("x", "x");
        }
        client.wait_for_the_end();
        let log = log.wait_for(6);
        let what: Vec<_> = log.iter().map(|(what, _)| what.as_str()).collect();
        assert_eq!(what, ["x", "x", "x", "x", "x", "closed: TimedOut"]);
        let idle = log[5].1 - log[4].1;
        assert!(idle >= 199 * MS, "{idle:?}");
        running.stop();
        if idle < 300 * MS { Ok(()) } else { Err(format!("{idle:?}")) }
    });
}

#[test]
fn b58_sending_is_activity_too() {
    let log = Log::<(String, Instant)>::new();
    let (data, end) = (log.clone(), log.clone());
    let events = Events::new()
        .opened(|conn| {
            let handle = conn.handle();
            // Output at twice the rate that is needed, and no input.
            spawn_local(async move {
                for _ in 0..5 {
                    wakewheel::sleep(100 * MS).await;
                    let _ = handle.write(b"x");
                }
            })
            .detach();
            Options::new().idle_timeout(200 * MS).into()
        })
        .pre_write(move |_| data.note(("sends".to_owned(), Instant::now())))
        .closed(move |_, error| {
            end.note((closed(error), Instant::now()));
            Action::None
        });
    let running = start(events, &["tcp://127.0.0.1:0"]);
    let mut client = running.connect(0);
    // Both timers are the loop's, so that a slow machine delays both.
    assert_eq!(text(&client.receive_all()), "xxxxx");
    let log = log.wait_for(6);
    assert_eq!(log[5].0, "closed: TimedOut");
    assert!(log[5].1 - log[4].1 >= 199 * MS);
    running.stop();
}

#[test]
fn b58_a_wake_is_no_activity() {
    let log = Log::<String>::new();
    let (data, end) = (log.clone(), log.clone());
    let events = Events::new()
        .opened(|conn| {
            let handle = conn.handle();
            spawn_local(async move {
                while handle.wake().is_ok() {
                    wakewheel::sleep(20 * MS).await;
                }
            })
            .detach();
            Options::new().idle_timeout(200 * MS).into()
        })
        .data(move |conn, _| {
            assert!(conn.is_wake());
            data.note("wake");
            Reply::none()
        })
        .closed(move |_, error| {
            end.note(closed(error));
            Action::None
        });
    let running = start(events, &["tcp://127.0.0.1:0"]);
    running.connect(0).wait_for_the_end();
    let log = log.wait(|log| log.last().is_some_and(|last| last != "wake"));
    assert!(log.len() > 1 && log.last().unwrap() == "closed: TimedOut", "{log:?}");
    running.stop();
}

#[test]
fn b59_data_that_comes_with_the_end_of_the_idle_time_is_delivered() {
    const IDLE: Duration = Duration::from_millis(100);
    let log = Log::<(String, Instant)>::new();
    let (data, end) = (log.clone(), log.clone());
    let (blocked, is_blocked) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let (blocked, released) = (blocked, Mutex::new(Some(released)));
    let events = Events::new()
        .opened(move |_| {
            let (blocked, released) = (blocked.clone(), released.lock().unwrap().take().unwrap());
            // It comes right after this callback, and before the loop looks at its sockets and timers again.
            spawn_local(async move {
                blocked.send(()).unwrap();
                released.recv().unwrap();
            })
            .detach();
            Options::new().idle_timeout(IDLE).into()
        })
        .data(move |_, input| {
            data.note((text(input), Instant::now()));
            Reply::none()
        })
        .closed(move |_, error| {
            end.note((closed(error), Instant::now()));
            Action::None
        });
    let running = start(events, &["tcp://127.0.0.1:0"]);
    let mut client = running.connect(0);
    is_blocked.recv_timeout(PATIENCE).unwrap();
    client.send("just in time");
    // The loop wakes up when both have happened.
    thread::sleep(2 * IDLE);
    release.send(()).unwrap();
    client.wait_for_the_end();
    let log = log.wait_for(2);
    let what: Vec<_> = log.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(what, ["just in time", "closed: TimedOut"]);
    assert!(log[1].1 - log[0].1 >= IDLE / 2, "the time begins again: {:?}", log[1].1 - log[0].1);
    running.stop();
}
