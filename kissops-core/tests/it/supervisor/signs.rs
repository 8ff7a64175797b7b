//! Readiness and liveness: what a bot says of itself, and what its silence means.

use std::time::Duration;

use kissops_core::supervisor::{
    Live, LiveCheck, Ready, ReadyCheck, Restart, RestartPolicy, Signal, StateName,
};
use tokio::time::Instant;

use super::{Definition, World, assert_about, name, steady};

const WITHIN: Duration = Duration::from_secs(30);

fn by_notify() -> Definition {
    let ready = Ready { check: ReadyCheck::Notify, within: WITHIN };
    Definition { ready: Some(ready), ..steady("bot") }
}

fn watched() -> Definition {
    let check = LiveCheck::Watchdog { every: Duration::from_secs(10) };
    Definition { live: vec![Live { check, failures: 1.try_into().unwrap() }], ..steady("bot") }
}

/// When the latest process was told to end, after its start.
async fn told_to_end(world: &World, count: usize) -> Duration {
    world.started("bot", count).await;
    let term = || world.bots.each("bot", |process| process.got(Signal::TERM));
    world.until("a signal", term, |seen| seen.get(count - 1).is_some_and(Option::is_some)).await;
    world.bots.each("bot", |one| one.got(Signal::TERM).unwrap_or(one.started) - one.started)
        [count - 1]
}

#[tokio::test(start_paused = true)]
async fn sup_8_it_is_ready_when_it_says_so() {
    let world = World::new([by_notify()]).await;
    world.started("bot", 1).await;
    assert_eq!(world.state("bot"), StateName::Starting);
    world.last("bot", |process| process.say("STATUS=connecting"));
    let text = || world.status("bot").status_text;
    world.until("a status", text, |text| text.as_deref() == Some("connecting")).await;
    assert!(!world.status("bot").ready);
    world.last("bot", |process| process.say("READY=1"));
    world.is_ready("bot").await;
    assert_eq!(world.state("bot"), StateName::Running);
    world.last("bot", |process| process.say("STOPPING=1"));
    world.until("no work", || world.status("bot").ready, |ready| !ready).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_8_never_ready_is_a_failed_start_however_long_it_took() {
    let world = World::new([by_notify()]).await;
    assert_about(told_to_end(&world, 1).await, WITHIN);
    world.reaches("bot", StateName::Backoff).await;
    assert!(world.status("bot").reason.starts_with("not ready within 30s"));
    let crash = world.store.all_crashes();
    assert!(crash.len() <= 1);
    // Each took longer than others need to be called stable, and yet the delays grow.
    let mut ended = world.last("bot", |process| process.ended).unwrap();
    for (count, delay) in [(2, 1), (3, 2), (4, 4), (5, 8)] {
        told_to_end(&world, count).await;
        let started = world.last("bot", |process| process.started);
        assert_about(started - ended, Duration::from_secs(delay));
        world.reaches("bot", StateName::Backoff).await;
        ended = world.last("bot", |process| process.ended).unwrap();
    }
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_8_a_bot_may_ask_for_more_time_to_become_ready() {
    let world = World::new([by_notify()]).await;
    world.started("bot", 1).await;
    world.last("bot", |process| process.say("EXTEND_TIMEOUT_USEC=90000000"));
    let took = told_to_end(&world, 1).await;
    assert!(took >= Duration::from_secs(90) && took < Duration::from_secs(92), "{took:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_8_a_delay_counts_from_the_start() {
    let ready = Ready { check: ReadyCheck::Delay(Duration::from_secs(5)), within: WITHIN };
    let world = World::new([Definition { ready: Some(ready), ..steady("bot") }]).await;
    world.started("bot", 1).await;
    let started = world.last("bot", |process| process.started);
    world.is_ready("bot").await;
    let took = Instant::now() - started;
    assert!(took >= Duration::from_secs(5) && took < Duration::from_millis(5020), "{took:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_8_a_death_before_readiness_is_a_crash() {
    let world = World::new([by_notify()]).await;
    world.started("bot", 1).await;
    world.exit("bot", 2);
    world.reaches("bot", StateName::Backoff).await;
    assert_eq!(world.status("bot").reason, "exit code 2");
    world.until("a report", || world.store.all_crashes().len(), |count| *count == 1).await;
    world.started("bot", 2).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_9_silence_restarts_it_and_the_reason_says_so() {
    let world = World::new([watched()]).await;
    world.started("bot", 1).await;
    for _ in 0..5 {
        world.pass(8).await;
        world.last("bot", |process| process.say("WATCHDOG=1"));
    }
    let spoke = Instant::now();
    world.reaches("bot", StateName::Backoff).await;
    let term = world.last("bot", |process| process.got(Signal::TERM)).unwrap();
    assert!(term - spoke >= Duration::from_secs(10) - Duration::from_millis(10));
    assert!(term - spoke < Duration::from_secs(11), "{:?}", term - spoke);
    let reason = world.status("bot").reason;
    assert!(reason.starts_with("watchdog: no sign of life for 10s; killed by SIGTERM"), "{reason}");
    world.started("bot", 2).await;
    let events = world.store.all_events();
    assert!(events.iter().any(|event| event.reason.contains("no sign of life")));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_9_it_may_say_itself_that_it_is_stuck() {
    let world = World::new([watched()]).await;
    world.started("bot", 1).await;
    world.last("bot", |process| process.say("WATCHDOG=trigger"));
    world.reaches("bot", StateName::Backoff).await;
    assert!(world.status("bot").reason.contains("says that it is stuck"));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_9_policy_never_holds_for_failed_checks_too() {
    let restart = Restart { policy: RestartPolicy::Never, ..Restart::default() };
    let world = World::new([Definition { restart, ..watched() }]).await;
    world.reaches("bot", StateName::Failed).await;
    world.pass(60).await;
    assert_eq!(world.bots.count("bot"), 1);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_8_another_main_process_is_refused_unless_it_is_of_the_tree() {
    let world = World::new([watched()]).await;
    world.started("bot", 1).await;
    let pid = world.status("bot").pid;
    let ours = std::process::id();
    world.last("bot", |process| process.say(&format!("MAINPID={ours}")));
    let refused = || world.store.all_events().iter().any(|event| event.reason.contains("MAINPID"));
    world.until("refused", refused, |yes| *yes).await;
    assert_eq!(world.status("bot").pid, pid);
    world.supervisor.stop(&name("bot")).await.unwrap();
    world.end().await;
}
