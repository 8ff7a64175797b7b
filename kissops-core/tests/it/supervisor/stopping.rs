//! How an instance is stopped, whatever it was doing.

use std::time::Duration;

use kissops_core::{
    Error,
    store::Desired,
    supervisor::{
        Goal, Hook, Leave, Ready, ReadyCheck, Restart, RestartPolicy, Signal, SignalTo, StateName,
        Stop,
    },
};
use tokio::time::Instant;

use super::{Definition, World, assert_about, bot, name, steady};

fn by_notify(text: &str) -> Definition {
    let ready = Ready { check: ReadyCheck::Notify, within: Duration::from_mins(1) };
    Definition { ready: Some(ready), ..steady(text) }
}

#[tokio::test(start_paused = true)]
async fn sup_10_a_stop_is_polite_and_lasts() {
    let world = World::new([bot("bot")]).await;
    world.started("bot", 1).await;
    world.supervisor.stop(&name("bot")).await.unwrap();
    assert_eq!(world.store.instance("bot").unwrap().desired, Desired::Stopped);
    let status = world.supervisor.settled(&name("bot"), Goal::Down).await.unwrap();
    assert_eq!((status.state, status.pid), (StateName::Stopped, None));
    assert!(world.last("bot", |process| process.got(Signal::KILL)).is_none());
    world.pass(600).await;
    assert_eq!(world.bots.count("bot"), 1);
    world.until("forgotten", || world.last("bot", |one| one.forgotten), |yes| *yes).await;
    assert!(world.store.all_crashes().is_empty(), "a stop is no crash");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_10_after_its_grace_it_is_killed() {
    let stop = Stop { grace: Duration::from_secs(7), ..Stop::default() };
    let world = World::new([Definition { stop, ..bot("bot") }]).await;
    world.bots.make_stubborn("bot");
    world.started("bot", 1).await;
    let asked = Instant::now();
    world.supervisor.stop(&name("bot")).await.unwrap();
    let status = world.supervisor.settled(&name("bot"), Goal::Down).await.unwrap();
    let killed = world.last("bot", |process| process.got(Signal::KILL)).unwrap();
    assert_about(killed - asked, Duration::from_secs(7));
    assert_eq!(status.reason, "did not end within its grace of 7s; killed by SIGKILL");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_8_a_bot_may_ask_for_more_time_to_end() {
    let stop = Stop { grace: Duration::from_secs(5), ..Stop::default() };
    let world = World::new([Definition { stop, ..by_notify("bot") }]).await;
    world.bots.make_stubborn("bot");
    world.started("bot", 1).await;
    world.last("bot", |process| process.say("READY=1"));
    world.reaches("bot", StateName::Running).await;
    let asked = Instant::now();
    world.supervisor.stop(&name("bot")).await.unwrap();
    world.last("bot", |process| process.say("EXTEND_TIMEOUT_USEC=20000000"));
    world.supervisor.settled(&name("bot"), Goal::Down).await.unwrap();
    let killed = world.last("bot", |process| process.got(Signal::KILL)).unwrap();
    assert!(killed - asked >= Duration::from_secs(20), "{:?}", killed - asked);
    assert!(killed - asked < Duration::from_secs(25), "{:?}", killed - asked);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_start_that_waits_for_others() {
    let world =
        World::new([by_notify("base"), Definition { requires: vec![name("base")], ..bot("bot") }])
            .await;
    world.started("base", 1).await;
    world.supervisor.stop(&name("bot")).await.unwrap();
    assert_eq!(world.state("bot"), StateName::Stopped);
    world.last("base", |process| process.say("READY=1"));
    world.is_ready("base").await;
    world.pass(60).await;
    assert_eq!(world.bots.count("bot"), 0);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_backoff_and_a_start_that_is_not_ready() {
    let world = World::new([by_notify("bot")]).await;
    world.started("bot", 1).await;
    world.exit("bot", 1);
    world.reaches("bot", StateName::Backoff).await;
    world.supervisor.stop(&name("bot")).await.unwrap();
    assert_eq!(world.state("bot"), StateName::Stopped);
    assert_eq!(world.status("bot").next_start_at, None);

    world.supervisor.start(&name("bot")).await.unwrap();
    world.started("bot", 2).await;
    assert_eq!(world.state("bot"), StateName::Starting);
    world.supervisor.stop(&name("bot")).await.unwrap();
    let status = world.supervisor.settled(&name("bot"), Goal::Down).await.unwrap();
    assert_eq!(status.state, StateName::Stopped);
    world.pass(60).await;
    assert_eq!(world.bots.count("bot"), 2);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_pre_start_with_all_of_it() {
    let timeout = Duration::from_mins(1);
    let mut definition = bot("bot");
    definition.hooks.pre_start = vec![Hook { command: vec!["hook".into()], timeout }];
    let world = World::new([definition]).await;
    world.until("the hook", || world.bots.count("bot"), |seen| *seen == 1).await;
    world.supervisor.stop(&name("bot")).await.unwrap();
    assert_eq!(world.state("bot"), StateName::Stopped);
    assert!(!world.bots.is_alive("bot"));
    world.pass(60).await;
    assert_eq!(world.bots.count("bot"), 1);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_10_a_post_start_does_not_outlive_its_instance() {
    let timeout = Duration::from_hours(1);
    let mut definition = bot("bot");
    definition.hooks.post_start = vec![Hook { command: vec!["hook".into()], timeout }];
    let world = World::new([definition]).await;
    world.until("both", || world.bots.count("bot"), |seen| *seen == 2).await;
    world.supervisor.stop(&name("bot")).await.unwrap();
    world.supervisor.settled(&name("bot"), Goal::Down).await.unwrap();
    let alive = || world.bots.each("bot", |process| process.ended.is_none());
    world.until("both gone", alive, |alive| *alive == [false, false]).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_during_a_stop_comes_after_it() {
    let world = World::new([bot("bot")]).await;
    world.bots.make_stubborn("bot");
    world.started("bot", 1).await;
    world.supervisor.stop(&name("bot")).await.unwrap();
    assert_eq!(world.state("bot"), StateName::Stopping);
    world.supervisor.start(&name("bot")).await.unwrap();
    let status = world.supervisor.settled(&name("bot"), Goal::Up).await.unwrap();
    assert_eq!(status.state, StateName::Running);
    assert_eq!(world.bots.count("bot"), 2);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn settled_never_tells_of_the_time_before() {
    let world = World::new([bot("bot")]).await;
    world.started("bot", 1).await;
    let bot = name("bot");
    for count in 2..10 {
        world.supervisor.restart(&bot).await.unwrap();
        let status = world.supervisor.settled(&bot, Goal::Up).await.unwrap();
        assert_eq!((status.state, world.bots.count("bot")), (StateName::Running, count));
        assert!(world.bots.is_alive("bot"));
    }
    world.supervisor.stop(&bot).await.unwrap();
    assert_ne!(world.state("bot"), StateName::Running);
    world.supervisor.settled(&bot, Goal::Down).await.unwrap();
    world.supervisor.start(&bot).await.unwrap();
    let status = world.supervisor.settled(&bot, Goal::Up).await.unwrap();
    assert_eq!(status.state, StateName::Running);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_11_a_signal_needs_a_process() {
    let world = World::new([Definition { autostart: false, ..bot("bot") }]).await;
    let instance = name("bot");
    let hup = || world.supervisor.signal(&instance, Signal::HUP, SignalTo::Main);
    assert!(matches!(hup().await, Err(Error::WrongState { .. })));
    world.supervisor.start(&name("bot")).await.unwrap();
    world.started("bot", 1).await;
    hup().await.unwrap();
    assert!(world.last("bot", |process| process.got(Signal::HUP)).is_some());
    let nobody = world.supervisor.stop(&name("nobody")).await;
    assert!(matches!(nobody, Err(Error::NotFound { .. })));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_no_longer_accepted_stops_until_an_operator_starts() {
    let world = World::new([bot("bot")]).await;
    world.started("bot", 1).await;
    world.supervisor.hold_for_reauth(&name("bot"), "the grant was revoked").unwrap();
    world.reaches("bot", StateName::NeedsReauth).await;
    world.pass(600).await;
    assert_eq!(world.bots.count("bot"), 1);
    world.supervisor.start(&name("bot")).await.unwrap();
    world.started("bot", 2).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn vlt_8_who_waits_for_a_grant_comes_back_with_it_unless_it_was_stopped() {
    let world = World::new([bot("bot"), bot("other"), bot("down")]).await;
    for instance in ["bot", "other", "down"] {
        world.started(instance, 1).await;
    }
    world.supervisor.stop(&name("down")).await.unwrap();
    world.reaches("down", StateName::Stopped).await;
    for instance in ["bot", "other", "down"] {
        world.supervisor.hold_for_reauth(&name(instance), "its grant is dead").unwrap();
    }
    for instance in ["bot", "other"] {
        world.reaches(instance, StateName::NeedsReauth).await;
        assert_eq!(world.status(instance).reason, "its grant is dead");
        assert!(world.last(instance, |process| process.got(Signal::TERM)).is_some());
    }
    world.supervisor.hold_for_reauth(&name("bot"), "still dead").unwrap();
    let reason = || world.status("bot").reason;
    world.until("the new reason", reason, |reason| reason == "still dead").await;
    world.supervisor.stop(&name("other")).await.unwrap();
    for instance in ["bot", "other", "down"] {
        world.supervisor.release_reauth(&name(instance)).unwrap();
    }
    world.started("bot", 2).await;
    world.pass(600).await;
    assert_eq!((world.bots.count("other"), world.bots.count("down")), (1, 1));
    assert_eq!(world.state("other"), StateName::Stopped);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_bot_that_asks_for_a_restart_gets_it_and_no_crash_report() {
    let world = World::new([bot("bot")]).await;
    world.started("bot", 1).await;
    world.supervisor.request_restart(&name("bot"), "a new version").unwrap();
    world.started("bot", 2).await;
    assert_eq!(world.status("bot").restarts, 1);
    assert!(world.store.all_crashes().is_empty());
    let never = Definition {
        restart: Restart { policy: RestartPolicy::Never, ..Restart::default() },
        ..bot("bot")
    };
    world.supervisor.apply(vec![never]).await.unwrap();
    let refused = world.supervisor.request_restart(&name("bot"), "again");
    assert!(matches!(refused, Err(Error::WrongState { .. })), "{refused:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn sup_17_leaving_touches_no_process() {
    let world = World::new([bot("ready"), by_notify("starting"), steady("ended")]).await;
    for instance in ["ready", "starting", "ended"] {
        world.started(instance, 1).await;
    }
    world.exit("ended", 1);
    world.reaches("ended", StateName::Backoff).await;
    world.shut_down(Leave::Running).await;
    for instance in ["ready", "starting"] {
        assert!(world.bots.is_alive(instance));
        assert!(world.last(instance, |process| process.signals.is_empty() && !process.forgotten));
    }
    world.pass(60).await;
    assert_eq!(world.bots.count("ended"), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_hangs_after_the_end() {
    let world = World::new([bot("bot")]).await;
    world.started("bot", 1).await;
    world.shut_down(Leave::Stopped).await;
    let bot = name("bot");
    assert!(world.supervisor.start(&bot).await.is_err());
    assert!(world.supervisor.stop(&bot).await.is_err());
    assert!(world.supervisor.restart(&bot).await.is_err());
    assert!(world.supervisor.reset(&bot).await.is_err());
    assert!(world.supervisor.processes(&bot).await.unwrap().is_empty());
    world.supervisor.settled(&bot, Goal::Up).await.unwrap();
    world.end().await;
}
