//! VLT-7: two processes on one store, each of which stands still now and then until its session has run out.

use std::{
    hash::{BuildHasher as _, RandomState},
    thread::sleep,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    site::{Setup, Site},
    worker::Worker,
};
use crate::{
    harness::{count, signal, until},
    postgres::scratch_database,
};

/// Short enough to be outlasted, and long enough for a busy machine.
const SESSION: Duration = Duration::from_secs(6);
/// Longer than anybody stands still: until then nobody decides what became of what a sleeper has sent.
const SETTLE: Duration = Duration::from_secs(20);

fn setups(site: &Site) -> [Setup; 2] {
    ["a", "b"].map(|name| {
        let dir = site.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        Setup { dir, ..site.setup.clone() }
    })
}

/// Waits until so much more was refreshed.
fn goes_on(site: &Site, by: u32) {
    let committed = || site.mock.totals().refreshes.committed;
    let from = committed();
    until("refreshes go on", || committed() >= from + by);
}

async fn two_share(mut site: Site) {
    site.setup.session = SESSION;
    // The provider's answer has to come in time on a busy machine: one that does not is lost, as it should be.
    site.setup.exchange_limit = Duration::from_millis(3500);
    site.setup.settle = SETTLE;
    let mut rows = site.add("one-time", 20);
    rows.extend(site.add("rotating", 20));
    rows.extend(site.add("reusable", 10));
    let [one, other] = setups(&site);
    // To be known in each folder from the beginning: a store that was in use elsewhere is taken for a copy.
    for setup in [&one, &other, &site.setup] {
        setup.vault(setup.store().await, None).await.close().await;
    }
    // The first keeps the grants; the second finds them there.
    let mut first = Worker::start(&one, None, rows);
    first.until_ready();
    let mut second = Worker::start(&other, None, Vec::new());
    second.until_ready();
    for round in 0..count(2, 30) {
        goes_on(&site, 30);
        let sleeper = if round % 2 == 0 { &first } else { &second };
        // Not a wait for anything: when it stands still, and for how long beyond its session, is what varies.
        sleep(Duration::from_micros(RandomState::new().hash_one(0) % 100_000));
        signal(sleeper.pid(), Signal::STOP);
        sleep(SESSION + Duration::from_millis(500 + RandomState::new().hash_one(0) % 1000));
        signal(sleeper.pid(), Signal::CONT);
    }
    goes_on(&site, 30);
    first.end();
    second.end();
    let (vault, took) = site.settled().await;
    let lost = site.verify(&vault).await;
    vault.close().await;
    let totals = site.mock.totals();
    println!("{} refreshes carried out, decided after {took:?}", totals.refreshes.committed);
    assert_eq!(lost, Vec::<String>::new());
}

#[tokio::test]
async fn two_on_a_file() {
    two_share(Site::new().await).await;
}

#[tokio::test]
async fn two_on_a_server() {
    let Some(database) = scratch_database().await else { return };
    let url = database.url().to_owned();
    two_share(Site::on(Some(&url), database).await).await;
}
