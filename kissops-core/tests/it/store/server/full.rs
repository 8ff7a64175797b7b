//! A server whose disk is full.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use kissops_core::{
    Error,
    store::{
        EventQuery, EventStore as _,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use tokio::task::block_in_place;

use super::{connect, options, run, says};
use crate::{postgres::PrivateServer, store::event};

/// A small file system of its own, gone at the end.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(path: &'a Path, size: &str) -> Option<Self> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=777"), "tmpfs"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        let mounted = mount.is_ok_and(|status| status.success()).then_some(Self(path));
        if mounted.is_none() {
            println!("skipped: mounting a tmpfs needs more rights");
        }
        mounted
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn quick() -> PostgresOptions {
    PostgresOptions {
        connect_timeout: Duration::from_secs(1),
        statement_timeout: Duration::from_secs(1),
        ..options()
    }
}

/// Appends until that fails: how many were acknowledged, and the error.
async fn fill(store: &PostgresStore) -> (usize, Error) {
    for acknowledged in 0.. {
        let reason = format!("{acknowledged} {}", noise(50_000));
        if let Err(err) = store.append_events(vec![event(&reason)]).await {
            assert!(err.is_transient(), "{err:?}");
            return (acknowledged, err);
        }
    }
    unreachable!("a disk without an end")
}

async fn count(store: &PostgresStore) -> usize {
    store.events(EventQuery { limit: u32::MAX, ..EventQuery::default() }).await.unwrap().len()
}

/// Nothing acknowledged is lost, the error says what to do, and it works again once there is space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_the_server_is_survived() {
    let Some(mut server) = PrivateServer::start() else { return };
    let folder = server.folder().join("disk");
    fs::create_dir(&folder).unwrap();
    let Some(disk) = Disk::mount(&folder, "24m") else { return };
    let space = folder.join("space");
    fs::create_dir(&space).unwrap();
    PrivateServer::give(&space);
    let sql = format!("CREATE TABLESPACE small LOCATION '{}'", space.display());
    run(&server.url(), &sql).await;
    run(&server.url(), "CREATE DATABASE small TABLESPACE small").await;
    let url = format!("postgres://postgres@localhost/small?host={}", server.folder().display());
    let store = connect(&url, quick()).await.unwrap();
    fs::write(folder.join("filler"), vec![0; 8 << 20]).unwrap();
    let (acknowledged, err) = fill(&store).await;
    says(&err, &["disk is full", "nothing that was acknowledged is lost"]);
    assert!(acknowledged > 0);
    fs::remove_file(folder.join("filler")).unwrap();
    store.append_events(vec![event("there is space again")]).await.unwrap();
    assert_eq!(count(&store).await, acknowledged + 1);
    store.close().await;
    block_in_place(|| server.kill_9());
    drop(disk);
}

/// Text that cannot be compressed.
fn noise(length: usize) -> String {
    let random = RandomState::new();
    let letter = |n| char::from(b' ' + u8::try_from(random.hash_one(n) % 90).unwrap());
    (0..length).map(letter).collect()
}
