//! Who starts before whom, and who stops before whom (SUP-5).

use std::time::Duration;

use kissops_core::{
    store::Desired,
    supervisor::{Goal, Ready, ReadyCheck, StateName},
};

use super::{Definition, World, bot, name, steady};

fn slow(text: &str) -> Definition {
    let ready = Ready { check: ReadyCheck::Notify, within: Duration::from_mins(1) };
    Definition { ready: Some(ready), ..steady(text) }
}

fn requiring(text: &str, others: &[&str]) -> Definition {
    Definition { requires: others.iter().map(|other| name(other)).collect(), ..steady(text) }
}

async fn get_ready(world: &World, instance: &str) {
    world.started(instance, 1).await;
    world.last(instance, |process| process.say("READY=1"));
    world.is_ready(instance).await;
}

#[tokio::test(start_paused = true)]
async fn sup_5_an_instance_starts_when_what_it_requires_is_ready() {
    let world =
        World::new([requiring("bot", &["db", "cache"]), slow("db"), slow("cache"), bot("other")])
            .await;
    world.started("other", 1).await;
    world.started("db", 1).await;
    world.started("cache", 1).await;
    let status = world.status("bot");
    assert_eq!(status.state, StateName::Starting);
    assert_eq!(
        status.reason,
        "waits for `db`, which is not ready".replace("not ready", "starting")
    );
    get_ready(&world, "db").await;
    world.pass(5).await;
    assert_eq!(world.bots.count("bot"), 0);
    get_ready(&world, "cache").await;
    world.started("bot", 1).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_5_after_waits_for_an_attempt_and_no_longer() {
    let after = |other: &str| Definition { after: vec![name(other)], ..bot("bot") };
    let world = World::new([after("first"), slow("first")]).await;
    world.started("first", 1).await;
    world.pass(5).await;
    assert_eq!(world.bots.count("bot"), 0, "it waits");
    world.exit("first", 1);
    world.started("bot", 1).await;
    world.end().await;

    let off = Definition { autostart: false, ..bot("first") };
    let world = World::new([after("first"), off]).await;
    world.started("bot", 1).await;
    assert_eq!(world.bots.count("first"), 0, "it starts nothing");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_5_a_crash_of_what_is_required_leaves_the_others_alone() {
    let world = World::new([requiring("bot", &["db"]), steady("db")]).await;
    world.started("bot", 1).await;
    world.exit("db", 1);
    world.started("db", 2).await;
    assert!(world.bots.is_alive("bot"));
    assert_eq!(world.bots.count("bot"), 1);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_5_a_stop_takes_the_others_down_first_and_they_come_back() {
    let fleet = [requiring("front", &["bot"]), requiring("bot", &["db"]), steady("db")];
    let world = World::new(fleet).await;
    world.started("front", 1).await;
    world.bots.make_stubborn("front");
    world.supervisor.stop(&name("db")).await.unwrap();
    world
        .until("a reason", || world.status("db").reason, |why| why.contains("`bot` to stop"))
        .await;
    assert!(world.bots.is_alive("db") && world.bots.is_alive("bot"), "front ends first");
    world.supervisor.settled(&name("db"), Goal::Down).await.unwrap();
    assert_eq!(world.bots.ends(), ["front", "bot", "db"]);
    let status = world.status("bot");
    assert_eq!((status.state, status.desired), (StateName::Starting, Desired::Running));
    assert_eq!(status.reason, "waits for `db`, which is stopped");
    world.pass(600).await;
    assert_eq!(world.bots.count("bot"), 1);

    world.supervisor.start(&name("db")).await.unwrap();
    world.started("front", 2).await;
    assert_eq!(["db", "bot", "front"].map(|one| world.bots.count(one)), [2, 2, 2]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_5_those_that_must_go_first_go_at_once() {
    let mut fleet = vec![steady("db")];
    let names: Vec<String> = (0..20).map(|n| format!("bot{n}")).collect();
    fleet.extend(names.iter().map(|one| requiring(one, &["db"])));
    let world = World::new(fleet).await;
    for one in &names {
        world.started(one, 1).await;
        world.bots.make_stubborn(one);
    }
    let asked = tokio::time::Instant::now();
    world.supervisor.stop(&name("db")).await.unwrap();
    world.supervisor.settled(&name("db"), Goal::Down).await.unwrap();
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(40), "{took:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_5_a_restart_of_what_is_required_restarts_the_others() {
    let world = World::new([requiring("bot", &["db"]), steady("db")]).await;
    world.started("bot", 1).await;
    world.supervisor.restart(&name("db")).await.unwrap();
    world.started("bot", 2).await;
    assert_eq!(world.bots.ends(), ["bot", "db"]);
    assert_eq!(world.bots.count("db"), 2);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_5_a_start_brings_up_what_it_requires() {
    let off = |definition: Definition| Definition { autostart: false, ..definition };
    let fleet = [requiring("bot", &["db"]), requiring("db", &["disk"]), steady("disk")];
    let world = World::new(fleet.map(off)).await;
    world.supervisor.start(&name("bot")).await.unwrap();
    let status = world.supervisor.settled(&name("bot"), Goal::Up).await.unwrap();
    assert_eq!(status.state, StateName::Running);
    assert_eq!(world.store.instance("disk").unwrap().desired, Desired::Running);

    // One that an operator is just stopping comes back, too.
    world.bots.make_stubborn("disk");
    world.supervisor.stop(&name("disk")).await.unwrap();
    world.until("bot is down", || world.bots.is_alive("bot"), |alive| !alive).await;
    world.supervisor.start(&name("bot")).await.unwrap();
    world.started("bot", 2).await;
    assert_eq!(world.bots.count("disk"), 2);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_5_at_most_so_many_start_at_once() {
    let names: Vec<String> = (0..10).map(|n| format!("bot{n}")).collect();
    let world =
        World::with(names.iter().map(|one| slow(one)), |builder| builder.start_concurrency(3))
            .await;
    let launched = || names.iter().filter(|one| world.bots.count(one) > 0).cloned();
    let mut up: Vec<String> = Vec::new();
    while up.len() < names.len() {
        let wanted = (up.len() + 3).min(names.len());
        world.until("the next", || launched().count(), |seen| *seen >= wanted).await;
        world.pass(5).await;
        assert_eq!(launched().count(), wanted);
        let waiting = world.supervisor.status();
        let mut waiting = waiting.iter().filter(|status| status.reason.contains("its turn"));
        assert!(waiting.all(|status| status.state == StateName::Starting && status.pid.is_none()));
        let next = launched().find(|one| !up.contains(one)).unwrap();
        // One that is ready makes room, and so does one that has failed.
        if up.len().is_multiple_of(2) {
            get_ready(&world, &next).await;
        } else {
            world.supervisor.stop(&name(&next)).await.unwrap();
        }
        up.push(next);
    }
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_5_jitter_spreads_the_first_starts_and_no_restart() {
    let names: Vec<String> = (0..20).map(|n| format!("bot{n}")).collect();
    let most = Duration::from_mins(1);
    let begun = tokio::time::Instant::now();
    let world =
        World::with(names.iter().map(|one| steady(one)), |builder| builder.start_jitter(most))
            .await;
    for one in &names {
        world.started(one, 1).await;
    }
    let delays: Vec<Duration> =
        names.iter().map(|one| world.last(one, |process| process.started) - begun).collect();
    assert!(delays.iter().all(|delay| *delay <= most + Duration::from_secs(1)), "{delays:?}");
    assert!(delays.iter().any(|delay| *delay > Duration::from_secs(5)), "{delays:?}");
    let ended = tokio::time::Instant::now();
    world.exit("bot0", 1);
    world.started("bot0", 2).await;
    super::assert_about(
        world.last("bot0", |process| process.started) - ended,
        Duration::from_secs(1),
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_19_a_shutdown_stops_in_order() {
    let fleet = [
        steady("db"),
        requiring("bot", &["db"]),
        requiring("front", &["bot"]),
        requiring("waits", &["never"]),
        slow("never"),
    ];
    let world = World::new(fleet).await;
    world.started("front", 1).await;
    world.bots.make_stubborn("front");
    world.supervisor.shutdown(kissops_core::supervisor::Leave::Stopped).await;
    let mut ends = world.bots.ends();
    ends.retain(|one| one != "never");
    assert_eq!(ends, ["front", "bot", "db"]);
    assert_eq!(world.bots.count("waits"), 0);
    // A shutdown is no wish of an operator: all come back with the next daemon.
    assert_eq!(world.store.instance("bot").unwrap().desired, Desired::Running);
    world.end().await;
}
