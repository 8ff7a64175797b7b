//! Changes of the fleet's definition (SUP-15), and restarts of a set (SUP-14).

use std::time::Duration;

use kissops_core::{
    Error, Result,
    id::InstanceName,
    store::Desired,
    supervisor::{Goal, Kind, Ready, ReadyCheck, Rolling, StateName},
};

use super::{Definition, World, bot, name, steady};

fn names(texts: &[&str]) -> Vec<InstanceName> {
    texts.iter().map(|text| name(text)).collect()
}

fn changed(text: &str) -> Definition {
    Definition { umask: Some(0o27), ..bot(text) }
}

#[tokio::test(start_paused = true)]
async fn sup_15_a_change_touches_only_what_differs() {
    let world = World::new([bot("same"), bot("new"), bot("gone")]).await;
    for one in ["same", "new", "gone"] {
        world.started(one, 1).await;
    }
    let wanted = vec![bot("added"), bot("same"), changed("new")];
    let plan = world.supervisor.plan(&wanted);
    assert_eq!(plan.added, names(&["added"]));
    assert_eq!(plan.removed, names(&["gone"]));
    assert_eq!(plan.changed, names(&["new"]));
    assert_eq!(plan.unchanged, names(&["same"]));
    assert_eq!(world.supervisor.apply(wanted.clone()).await.unwrap(), plan);
    world.started("added", 1).await;
    world.started("new", 2).await;
    world.until("gone", || world.supervisor.names(), |all| !all.contains(&name("gone"))).await;
    assert!(!world.bots.is_alive("gone"));
    assert!(world.last("same", |process| process.signals.is_empty()));
    world.until("no record", || world.store.instance("gone"), Option::is_none).await;
    assert_eq!(world.supervisor.definition(&name("new")).unwrap().umask, Some(0o27));

    let again = world.supervisor.apply(wanted).await.unwrap();
    assert_eq!(again.unchanged, names(&["added", "new", "same"]));
    world.pass(60).await;
    assert_eq!(["added", "same", "new"].map(|one| world.bots.count(one)), [1, 1, 2]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_15_a_change_does_not_start_what_is_to_be_down() {
    let world = World::new([bot("bot")]).await;
    world.started("bot", 1).await;
    world.supervisor.stop(&name("bot")).await.unwrap();
    world.supervisor.settled(&name("bot"), Goal::Down).await.unwrap();
    let fleet = vec![changed("bot"), Definition { autostart: false, ..bot("off") }];
    world.supervisor.apply(fleet).await.unwrap();
    world.pass(60).await;
    assert_eq!((world.bots.count("bot"), world.bots.count("off")), (1, 0));
    assert_eq!(world.state("off"), StateName::Stopped);
    world.supervisor.start(&name("bot")).await.unwrap();
    world.started("bot", 2).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_15_a_change_is_tried_at_once_by_one_that_had_failed() {
    let once = |definition| Definition {
        start_limit: Some(kissops_core::supervisor::StartLimit {
            starts: 1.try_into().unwrap(),
            within: Duration::from_mins(5),
        }),
        ..definition
    };
    let world = World::new([once(bot("bot"))]).await;
    world.started("bot", 1).await;
    world.exit("bot", 1);
    world.reaches("bot", StateName::Failed).await;
    world.supervisor.apply(vec![once(changed("bot"))]).await.unwrap();
    world.started("bot", 2).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_15_what_is_required_from_now_on_counts_from_now_on() {
    let world = World::new([bot("bot"), bot("db")]).await;
    world.started("bot", 1).await;
    world.started("db", 1).await;
    let bound = Definition { requires: names(&["db"]), ..bot("bot") };
    world.supervisor.apply(vec![bound, bot("db")]).await.unwrap();
    world.started("bot", 2).await;
    world.supervisor.stop(&name("db")).await.unwrap();
    world.supervisor.settled(&name("db"), Goal::Down).await.unwrap();
    assert!(!world.bots.is_alive("bot"), "it stopped first");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_15_one_that_is_removed_and_added_again_is_there() {
    let world = World::new([bot("bot")]).await;
    world.bots.make_stubborn("bot");
    world.started("bot", 1).await;
    world.supervisor.apply(Vec::new()).await.unwrap();
    world.reaches("bot", StateName::Stopping).await;
    world.supervisor.apply(vec![bot("bot")]).await.unwrap();
    world.started("bot", 2).await;
    assert_eq!(world.state("bot"), StateName::Running);
    world.pass(60).await;
    assert!(world.store.instance("bot").is_some());

    // The same in every moment of a removal.
    for count in 3..12 {
        world.supervisor.apply(Vec::new()).await.unwrap();
        for _ in 0..count * 3 {
            tokio::task::yield_now().await;
        }
        if count % 3 == 0 {
            world.bots.last("bot", |process| {
                process.end(kissops_core::supervisor::ExitStatus::Code(0));
            });
        }
        world.supervisor.apply(vec![bot("bot")]).await.unwrap();
        world.started("bot", count).await;
        world.reaches("bot", StateName::Running).await;
    }
    world.pass(5).await;
    assert!(world.store.instance("bot").is_some());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_is_durable_before_the_answer_or_not_granted() {
    let world = World::new([bot("bot"), Definition { autostart: false, ..bot("off") }]).await;
    world.started("bot", 1).await;
    world.store.fail(true);
    let refused = |result: Result<()>| assert!(matches!(result, Err(Error::Unavailable { .. })));
    refused(world.supervisor.start(&name("off")).await);
    let added = world.supervisor.apply(vec![bot("bot"), bot("added")]).await;
    assert!(matches!(added, Err(Error::Unavailable { .. })));
    world.pass(30).await;
    assert_eq!(world.status("bot").desired, Desired::Running);
    assert_eq!(world.status("off").desired, Desired::Stopped);
    assert_eq!(world.supervisor.names(), names(&["bot", "off"]));
    assert_eq!((world.bots.count("bot"), world.bots.count("off")), (1, 0));
    assert!(world.last("bot", |process| process.signals.is_empty()));

    world.store.fail(false);
    world.supervisor.stop(&name("bot")).await.unwrap();
    assert_eq!(world.store.instance("bot").unwrap().desired, Desired::Stopped);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_and_a_restart_need_no_store() {
    let world = World::new([bot("bot")]).await;
    world.started("bot", 1).await;
    world.store.fail(true);
    world.supervisor.restart(&name("bot")).await.unwrap();
    world.started("bot", 2).await;
    let said = world.supervisor.stop(&name("bot")).await.unwrap_err();
    assert!(said.is_transient() && said.chain().starts_with("`bot` is stopping, but"), "{said:?}");
    world.reaches("bot", StateName::Stopped).await;
    world.pass(30).await;
    assert_eq!(world.bots.count("bot"), 2);

    world.store.fail(false);
    world.pass(5).await;
    assert_eq!(world.store.instance("bot").unwrap().desired, Desired::Stopped);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_outlives_the_supervisor() {
    let world = World::new([bot("bot"), Definition { autostart: false, ..bot("off") }]).await;
    world.started("bot", 1).await;
    world.supervisor.stop(&name("bot")).await.unwrap();
    world.supervisor.start(&name("off")).await.unwrap();
    let kept = world.store.clone();
    world.end().await;

    let dir = tempfile::tempdir().unwrap();
    let next = World::empty(|_| {
        kissops_core::supervisor::Supervisor::builder(kept)
            .spawn(std::sync::Arc::new(super::Scripted::default()))
            .log_dir(dir.path())
            .runtime_dir(dir.path())
    });
    let off = Definition { autostart: false, ..bot("off") };
    next.supervisor.begin(vec![bot("bot"), off]).await.unwrap();
    next.reaches("off", StateName::Running).await;
    assert_eq!(next.state("bot"), StateName::Stopped);
    next.shut_down(kissops_core::supervisor::Leave::Stopped).await;
}

fn slow(text: &str) -> Definition {
    let ready = Ready { check: ReadyCheck::Notify, within: Duration::from_secs(30) };
    Definition { ready: Some(ready), ..steady(text) }
}

#[tokio::test(start_paused = true)]
async fn sup_14_a_rolling_restart_stops_at_the_first_that_does_not_come_up() {
    let all = ["a", "b", "c", "d", "e"];
    let world = World::new(all.map(slow)).await;
    for one in all {
        world.started(one, 1).await;
        world.last(one, |process| process.say("READY=1"));
        world.is_ready(one).await;
    }
    let supervisor = world.supervisor.clone();
    let roll = tokio::spawn(async move {
        let rolling = Rolling { batch: 2, wait_ready: true };
        supervisor.rolling_restart(&names(&all), rolling).await
    });
    for one in ["a", "b"] {
        world.started(one, 2).await;
    }
    assert_eq!(world.bots.count("c"), 1, "the next batch waits");
    for one in ["a", "b"] {
        world.last(one, |process| process.say("READY=1"));
    }
    world.started("c", 2).await;
    world.started("d", 2).await;
    world.last("d", |process| process.say("READY=1"));
    world.exit("c", 1);
    let results = roll.await.unwrap();
    let failed: Vec<&str> =
        results.iter().filter(|(_, result)| result.is_err()).map(|(one, _)| one.as_str()).collect();
    assert_eq!(failed, ["c", "e"]);
    assert_eq!(results.len(), 5);
    let why = results.last().unwrap().1.as_ref().unwrap_err().to_string();
    assert!(why.contains("`c` did not come up"), "{why}");
    assert!(world.bots.is_alive("e") && world.bots.count("e") == 1);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_14_a_one_shot_of_a_set_is_done_when_it_has_succeeded() {
    let once = Definition { kind: Kind::Oneshot, ..bot("once") };
    let world = World::new([once, bot("bot")]).await;
    world.started("once", 1).await;
    world.exit("once", 0);
    world.reaches("once", StateName::Stopped).await;
    let supervisor = world.supervisor.clone();
    let roll = tokio::spawn(async move {
        let rolling = Rolling { batch: 1, wait_ready: true };
        supervisor.rolling_restart(&names(&["once", "bot"]), rolling).await
    });
    world.started("once", 2).await;
    world.exit("once", 0);
    assert!(roll.await.unwrap().iter().all(|(_, result)| result.is_ok()));
    assert_eq!(world.bots.count("bot"), 2);
    world.end().await;
}
