//! VLT-10: processes that are killed at every labelled point of a refresh, and at random moments.
//!
//! What is shown: no used token is presented again, every loss is real and said, and with an exchanger that outlives the
//! process that asked, there is none. So that each life is short, the provider is said to settle within 300 ms; the large
//! run has one life with the usual 30 s.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use kissops_core::{store::GrantState, vault::Checkpoint};
use kissops_mock_provider::{Reply, Scope, Step};
use rustix::process::Signal;

use super::{
    site::{CLASSES, KNOWN_WITHIN, Site, records},
    worker::{Kill, Worker},
};
use crate::harness::{count, large, signal};

/// Grants of each class.
const GRANTS: usize = 4;

/// A number below `end`, of no quality but different at each call.
fn random(end: u64) -> u64 {
    RandomState::new().hash_one(0) % end
}

/// Has the worker come to a point that it would not come to by itself.
async fn lead_to(site: &mut Site, at: Checkpoint, class: &str) {
    let reusable = class == "reusable";
    let reply = match at {
        Checkpoint::BeforeEnd | Checkpoint::Ended => Reply::Unavailable,
        Checkpoint::BeforeProbe if reusable => Reply::InvalidGrant,
        Checkpoint::BeforeProbe => Reply::DropBeforeCommit,
        Checkpoint::BeforeMark => Reply::CommitThenDrop,
        Checkpoint::Retried => return kill_at(site, Checkpoint::Intended, class, 1).await,
        _ => return,
    };
    let account = records(&*site.store).await.into_iter().rev().find(|record| {
        record.grant.key.provider == class
            && matches!(record.status.state, GrantState::Active { .. })
    });
    let account = account.unwrap().grant.key.account;
    if at == Checkpoint::BeforeMark {
        site.victims.insert(account.clone());
        if reusable {
            // Its tokens are taken back by its owner: nothing else ends them.
            assert_eq!(site.mock.disconnect(&account).unwrap(), 1);
            return;
        }
    }
    site.mock.script(&Scope::Account(account), vec![Step::new(reply)]).unwrap();
}

async fn kill_at(site: &mut Site, at: Checkpoint, class: &str, nth: i64) {
    let rows = site.replenish(GRANTS).await;
    let kill = Kill { at: format!("{at:?}"), class: class.to_owned(), nth };
    Worker::start(&site.setup, Some(kill), rows).until_killed(&format!("{at:?} of {class}"));
}

/// A kill at every checkpoint of every class, each in a life of its own on what the one before has left. Says how many.
async fn kill_everywhere(site: &mut Site) -> usize {
    let mut kills = 0;
    // A life to begin with, which keeps the first grants.
    kill_at(site, Checkpoint::Committed, CLASSES[0], 1).await;
    for at in Checkpoint::ALL {
        for class in CLASSES {
            lead_to(site, at, class).await;
            let led = matches!(
                at,
                Checkpoint::BeforeEnd
                    | Checkpoint::Ended
                    | Checkpoint::Retried
                    | Checkpoint::BeforeProbe
                    | Checkpoint::BeforeMark
            );
            let nth = if led { 1 } else { i64::try_from(1 + random(6)).unwrap() };
            kill_at(site, at, class, nth).await;
            kills += 1 + usize::from(at == Checkpoint::Retried);
        }
    }
    kills + 1
}

/// Everything is decided and looked at. Gives the accounts that were lost without the provider's doing.
async fn judged(site: &Site) -> Vec<String> {
    let (vault, took) = site.settled().await;
    let mut lost = site.verify(&vault).await;
    vault.close().await;
    drop(vault);
    if site.setup.detached {
        site.until_alone().await;
    }
    lost.retain(|account| !site.victims.contains(account));
    let committed = site.mock.totals().refreshes.committed;
    println!("{committed} refreshes carried out, {} lost, decided after {took:?}", lost.len());
    lost
}

#[tokio::test]
async fn killed_at_every_point() {
    let mut kills = 0;
    for _ in 0..count(1, 11) {
        let mut site = Site::new().await;
        kills += kill_everywhere(&mut site).await;
        judged(&site).await;
    }
    println!("{kills} kills");
}

#[tokio::test]
async fn killed_at_every_point_with_an_exchanger_that_lives_on() {
    let mut kills = 0;
    for _ in 0..count(1, 11) {
        let mut site = Site::new().await;
        site.setup.detached = true;
        kills += kill_everywhere(&mut site).await;
        assert_eq!(judged(&site).await, Vec::<String>::new(), "lost with the daemon");
    }
    println!("{kills} kills");
}

/// Who is killed at a random moment.
#[derive(Clone, Copy, PartialEq)]
enum Dead {
    Daemon,
    Both,
}

async fn kill_at_random(dead: Dead, kills: usize) -> Vec<String> {
    let mut lost = Vec::new();
    for _ in 0..kills.div_ceil(20) {
        let mut site = Site::new().await;
        site.setup.detached = true;
        for _ in 0..kills.min(20) {
            let rows = site.replenish(GRANTS).await;
            let mut worker = Worker::start(&site.setup, None, rows);
            worker.until_ready();
            // Not a wait for anything: the moment of the kill is what varies.
            std::thread::sleep(Duration::from_micros(random(200_000)));
            let exchanger = site.exchanger().filter(|_| dead == Dead::Both);
            let first = random(2) == 0;
            if first && let Some(pid) = exchanger {
                signal(pid, Signal::KILL);
            }
            worker.kill();
            if let Some(pid) = exchanger.filter(|_| !first) {
                signal(pid, Signal::KILL);
            }
        }
        lost.extend(judged(&site).await);
    }
    lost
}

#[tokio::test]
async fn killed_at_random_with_an_exchanger_that_lives_on() {
    let lost = kill_at_random(Dead::Daemon, count(10, 200)).await;
    assert_eq!(lost, Vec::<String>::new(), "lost with the daemon");
}

/// What was under way is lost then, and said: that is looked at by [`Site::verify`].
#[tokio::test]
async fn killed_at_random_together_with_the_exchanger() {
    kill_at_random(Dead::Both, count(10, 200)).await;
}

/// With the settle time and the session that a daemon has.
#[tokio::test]
async fn a_loss_is_known_within_a_minute_of_the_restart() {
    if !large() {
        return;
    }
    let mut site = Site::new().await;
    (site.setup.settle, site.setup.exchange_limit) =
        (Duration::from_secs(30), kissops_core::vault::EXCHANGE_LIMIT);
    kill_at(&mut site, Checkpoint::Committed, "one-time", 3).await;
    kill_at(&mut site, Checkpoint::Answered, "one-time", 3).await;
    let (vault, took) = site.settled().await;
    let lost = site.verify(&vault).await;
    vault.close().await;
    println!("{lost:?} known after {took:?}");
    assert!(!lost.is_empty() && took < KNOWN_WITHIN, "{lost:?} {took:?}");
}
