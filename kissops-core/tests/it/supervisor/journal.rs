//! What is remembered, and a store that does not answer: it never holds up a bot.

use kissops_core::{
    store::EventKind,
    supervisor::{ExitStatus, Leave, StateName},
};

use super::{World, bot, memory::UNFIT, name, steady};

#[tokio::test(start_paused = true)]
async fn sup_25_a_crash_is_reported_with_what_is_known() {
    let world = World::new([steady("bot")]).await;
    world.started("bot", 1).await;
    world.pass(5).await;
    world.exit("bot", 7);
    world.until("a report", || world.store.all_crashes().len(), |count| *count == 1).await;
    let crash = world.store.all_crashes().pop().unwrap();
    assert_eq!((crash.status, crash.reason.as_str()), (ExitStatus::Code(7), "exit code 7"));
    assert_eq!((crash.uptime.as_secs(), crash.restarts, crash.out_of_memory), (5, 0, false));
    let forgotten = || world.bots.each("bot", |process| process.forgotten);
    world.until("the spawner forgets it", forgotten, |all| all[0]).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn events_wait_for_a_store_that_fails_and_keep_their_order() {
    let world = World::new([steady("bot")]).await;
    let mut live = world.supervisor.subscribe();
    world.started("bot", 1).await;
    world.pass(1).await;
    let before = world.transitions("bot").len();
    world.store.fail(true);
    for count in 2..6 {
        world.exit("bot", 1);
        world.started("bot", count).await;
    }
    world.supervisor.note("test.note", "the last");
    assert_eq!(world.transitions("bot").len(), before);
    assert!(world.bots.each("bot", |process| process.forgotten).iter().all(|yes| !yes));

    world.store.fail(false);
    let seen = || world.store.all_events().last().map(|event| event.reason.clone());
    world.until("all stored", seen, |last| last.as_deref() == Some("the last")).await;
    let came = world.transitions("bot");
    let round = ["running>backoff", "backoff>starting", "starting>running"];
    assert_eq!(came[came.len() - 12..], round.repeat(4));
    let stored = world.store.all_events();
    assert!(stored.iter().map(|event| event.at).is_sorted());
    world.until("reports", || world.store.all_crashes().len(), |count| *count == 4).await;
    let forgotten = || world.bots.each("bot", |process| process.forgotten);
    world.until("forgotten", forgotten, |all| all[..4].iter().all(|yes| *yes)).await;

    let mut heard = Vec::new();
    while let Ok(record) = live.try_recv() {
        heard.push(record.event.clone());
    }
    assert_eq!(heard, stored[stored.len() - heard.len()..]);
    assert!(heard.iter().any(|event| event.kind == EventKind::Other("test.note".to_owned())));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_store_that_fails() {
    let world = World::new([steady("bot"), bot("other")]).await;
    world.started("bot", 1).await;
    world.started("other", 1).await;
    world.store.fail(true);
    world.exit("bot", 1);
    world.reaches("bot", StateName::Backoff).await;
    world.shut_down(Leave::Stopped).await;
    // What could not be stored is left with the spawner.
    assert!(!world.last("bot", |process| process.forgotten));
    assert!(world.supervisor.stop(&name("bot")).await.is_err());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn everything_is_stored_when_a_shutdown_has_answered() {
    for _ in 0..20 {
        let world = World::new([steady("bot")]).await;
        world.started("bot", 1).await;
        world.exit("bot", 1);
        world.shut_down(Leave::Stopped).await;
        assert_eq!(world.store.all_crashes().len(), 1);
        assert!(world.transitions("bot").last().unwrap().ends_with(">stopped"));
        assert!(world.last("bot", |process| process.forgotten));
    }
}

/// Its writes may be done twice, so a lost answer loses nothing.
#[tokio::test(start_paused = true)]
async fn what_may_have_been_stored_is_stored_again() {
    let world = World::new([steady("bot")]).await;
    world.started("bot", 1).await;
    world.store.lose_answers(true);
    world.exit("bot", 7);
    world.started("bot", 2).await;
    world.supervisor.note("test.note", "the last");
    world.pass(5).await;
    assert_eq!(world.store.all_crashes().len(), 0);
    world.store.lose_answers(false);
    let seen = || world.store.all_events().last().map(|event| event.reason.clone());
    world.until("all stored", seen, |last| last.as_deref() == Some("the last")).await;
    world.until("a report", || world.store.all_crashes().len(), |count| *count == 1).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_stored_is_lost_alone() {
    let world = World::new([steady("bot")]).await;
    world.started("bot", 1).await;
    // While the store does not answer they gather, and are then written at once.
    world.store.fail(true);
    for reason in ["before", UNFIT, "after"] {
        world.supervisor.note("test.note", reason);
    }
    world.pass(5).await;
    world.store.fail(false);
    let notes = || {
        let all = world.store.all_events().into_iter();
        all.map(|event| event.reason).filter(|one| one == "before" || one == "after").collect()
    };
    world.until("both", notes, |notes: &Vec<String>| notes.len() >= 2).await;
    world.pass(5).await;
    assert_eq!(notes(), ["before", "after"]);
    world.end().await;
}
