//! When an instance is started again, and when it is given up.

use std::time::Duration;

use kissops_core::{
    store::Desired,
    supervisor::{
        ExitStatus, Goal, Hook, Kind, Restart, RestartPolicy, Signal, StartLimit, StateName,
    },
};
use tokio::time::Instant;

use super::{Definition, World, assert_about, bot, name, steady};

fn limited(starts: u32) -> Definition {
    let limit = StartLimit { starts: starts.try_into().unwrap(), within: Duration::from_mins(5) };
    Definition { start_limit: Some(limit), ..steady("bot") }
}

/// Ends the latest process and says how long its successor took.
async fn delay_after(world: &World, code: i32) -> Duration {
    let (count, ended) = (world.bots.count("bot"), Instant::now());
    world.exit("bot", code);
    world.started("bot", count + 1).await;
    world.last("bot", |process| process.started) - ended
}

#[tokio::test(start_paused = true)]
async fn sup_7_delays_grow_to_the_cap_and_a_stable_uptime_resets_them() {
    let world = World::new([steady("bot")]).await;
    world.started("bot", 1).await;
    for seconds in [1, 2, 4, 8, 8] {
        assert_about(delay_after(&world, 1).await, Duration::from_secs(seconds));
    }
    world.pass(61).await;
    assert_about(delay_after(&world, 1).await, Duration::from_secs(1));
    assert_eq!(world.status("bot").restarts, 6);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_7_a_backoff_says_when_it_ends() {
    let world = World::new([steady("bot")]).await;
    world.started("bot", 1).await;
    world.exit("bot", 3);
    world.reaches("bot", StateName::Backoff).await;
    let status = world.status("bot");
    assert_eq!(status.reason, "exit code 3");
    assert_eq!(status.last_exit.unwrap().code, Some(3));
    assert!(status.next_start_at.is_some() && status.pid.is_none());
    world.started("bot", 2).await;
    assert_eq!(world.status("bot").next_start_at, None);
    let came = ["starting>running", "running>backoff", "backoff>starting", "starting>running"];
    world.until("stored", || world.transitions("bot"), |seen| *seen == came).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_7_the_start_limit_gives_up_until_a_reset() {
    let world = World::new([limited(3)]).await;
    for count in 1..=3 {
        world.started("bot", count).await;
        world.exit("bot", 1);
    }
    world.reaches("bot", StateName::Failed).await;
    let status = world.status("bot");
    assert!(status.reason.contains("started 3 times within 5m"), "{}", status.reason);
    assert!(status.reason.contains("kissops reset bot"), "{}", status.reason);
    world.pass(600).await;
    assert_eq!(world.bots.count("bot"), 3);
    assert!(world.store.instance("bot").unwrap().failed.is_some());

    world.supervisor.reset(&name("bot")).await.unwrap();
    let status = world.supervisor.settled(&name("bot"), Goal::Up).await.unwrap();
    assert_eq!((status.state, status.restarts), (StateName::Running, 0));
    world.pass(1).await;
    assert_eq!(world.store.instance("bot").unwrap().failed, None);
    world.exit("bot", 1);
    world.started("bot", 5).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_7_starts_outside_the_window_do_not_count() {
    let world = World::new([limited(3)]).await;
    for count in 1..=6 {
        world.started("bot", count).await;
        world.pass(200).await;
        world.exit("bot", 1);
    }
    world.started("bot", 7).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_a_failed_one_that_is_wanted_down_leaves_it_down() {
    let world = World::new([limited(1)]).await;
    world.started("bot", 1).await;
    world.exit("bot", 1);
    world.reaches("bot", StateName::Failed).await;
    world.supervisor.stop(&name("bot")).await.unwrap();
    assert_eq!(world.state("bot"), StateName::Stopped);
    world.supervisor.reset(&name("bot")).await.unwrap();
    world.pass(60).await;
    assert_eq!(world.bots.count("bot"), 1);
    assert_eq!(world.store.instance("bot").unwrap().desired, Desired::Stopped);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_starts_one_that_waits_at_once() {
    let world = World::new([steady("bot")]).await;
    world.started("bot", 1).await;
    for _ in 0..3 {
        delay_after(&world, 1).await;
    }
    world.exit("bot", 1);
    world.reaches("bot", StateName::Backoff).await;
    let asked = Instant::now();
    world.supervisor.start(&name("bot")).await.unwrap();
    world.supervisor.settled(&name("bot"), Goal::Up).await.unwrap();
    assert_about(world.last("bot", |process| process.started) - asked, Duration::ZERO);
    assert_about(delay_after(&world, 1).await, Duration::from_secs(1));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_6_every_policy_and_every_kind_of_end() {
    let restart = |policy| Restart {
        policy,
        success_exit_codes: vec![3],
        restart_exit_codes: vec![75],
        stop_exit_codes: vec![64],
    };
    let killed = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
    let (always, failure, never) =
        (RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never);
    let code = ExitStatus::Code;
    let table = [
        (always, code(0), StateName::Backoff),
        (always, code(1), StateName::Backoff),
        (always, code(64), StateName::Stopped),
        (failure, code(0), StateName::Stopped),
        (failure, code(3), StateName::Stopped),
        (failure, code(1), StateName::Backoff),
        (failure, killed, StateName::Backoff),
        (failure, ExitStatus::Unknown, StateName::Backoff),
        (never, code(0), StateName::Stopped),
        (never, code(75), StateName::Stopped),
        (never, code(1), StateName::Failed),
        (never, killed, StateName::Failed),
    ];
    for (policy, status, state) in table {
        let world = World::new([Definition { restart: restart(policy), ..steady("bot") }]).await;
        world.started("bot", 1).await;
        world.last("bot", |process| process.end(status));
        world.until("it ends", || world.status("bot"), |now| now.pid.is_none()).await;
        world.until("at rest", || world.state("bot"), |now| *now != StateName::Running).await;
        assert_eq!(world.state("bot"), state, "{policy:?} {status}");
        assert_eq!(world.status("bot").desired, Desired::Running);
        world.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn sup_6_a_bot_may_ask_for_a_restart() {
    let restart = Restart { restart_exit_codes: vec![75], ..Restart::default() };
    let world = World::new([Definition { restart, ..limited(3) }]).await;
    world.started("bot", 1).await;
    for _ in 0..8 {
        world.pass(2).await;
        assert_about(delay_after(&world, 75).await, Duration::ZERO);
    }
    // None of them was a failure: neither the delay nor the limit knows of them.
    assert_about(delay_after(&world, 1).await, Duration::from_secs(1));
    assert_about(delay_after(&world, 1).await, Duration::from_secs(2));
    assert!(world.store.all_crashes().iter().all(|crash| crash.status == ExitStatus::Code(1)));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_6_policy_never_holds_for_failed_starts_too() {
    let restart = Restart { policy: RestartPolicy::Never, ..Restart::default() };
    let world = World::empty(|builder| builder);
    world.bots.refuse("bot", true);
    world.supervisor.begin(vec![Definition { restart, ..steady("bot") }]).await.unwrap();
    world.reaches("bot", StateName::Failed).await;
    assert!(world.status("bot").reason.contains("cannot run the program"));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_spawn_is_tried_again_after_its_delay() {
    let world = World::empty(|builder| builder);
    world.bots.refuse("bot", true);
    world.supervisor.begin(vec![steady("bot")]).await.unwrap();
    world.reaches("bot", StateName::Backoff).await;
    assert!(world.status("bot").reason.contains("cannot run the program"));
    assert!(world.status("bot").next_start_at.is_some());
    world.pass(20).await;
    assert_eq!(world.bots.count("bot"), 0);
    world.bots.refuse("bot", false);
    world.reaches("bot", StateName::Running).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_12_a_failing_pre_start_is_a_failed_start() {
    let mut definition = limited(2);
    let timeout = Duration::from_secs(5);
    definition.hooks.pre_start = vec![Hook { command: vec!["hook".into()], timeout }];
    let world = World::new([definition]).await;
    for count in 1..=2 {
        // A hook is a process of its instance; here it is the only one.
        world.until("a hook", || world.bots.count("bot"), |seen| *seen >= count).await;
        assert_eq!(world.state("bot"), StateName::Starting);
        world.exit("bot", 1);
    }
    world.reaches("bot", StateName::Failed).await;
    assert!(world.status("bot").reason.contains("pre_start `hook`"), "{:?}", world.status("bot"));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_16_a_service_that_ended_well_is_no_success_of_a_one_shot() {
    let restart = Restart { policy: RestartPolicy::OnFailure, ..Restart::default() };
    let service = Definition { restart, ..bot("service") };
    let user = Definition { requires: vec![name("service")], ..bot("user") };
    let world = World::new([service, user]).await;
    world.started("user", 1).await;
    world.exit("service", 0);
    world.reaches("service", StateName::Stopped).await;
    world.supervisor.restart(&name("user")).await.unwrap();
    // It starts what it requires, or waits: it does not run without.
    world.until("the old one is gone", || world.bots.is_alive("user"), |alive| !alive).await;
    world.pass(60).await;
    assert!(!world.bots.is_alive("user"));
    assert_eq!(world.status("user").reason, "waits for `service`, which is stopped");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_16_others_wait_for_the_success_of_a_one_shot() {
    let migration = Definition { kind: Kind::Oneshot, ..steady("migration") };
    let user = Definition { requires: vec![name("migration")], ..bot("user") };
    let world = World::new([migration, user]).await;
    world.started("migration", 1).await;
    world.exit("migration", 1);
    world.started("migration", 2).await;
    assert_eq!(world.bots.count("user"), 0);
    assert!(!world.status("migration").ready);
    world.exit("migration", 0);
    world.started("user", 1).await;
    assert_eq!(world.state("migration"), StateName::Stopped);
    world.end().await;
}
