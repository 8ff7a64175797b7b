//! Whole process trees of direct children, without a reaper: a pass over `/proc` finds them.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::{
    fs,
    io::Read as _,
    time::{Duration, Instant},
};

use kissops_core::{
    id::RunId,
    supervisor::{DirectSpawn, Spawn as _, Tracked, Trees},
};

use crate::spawn::{ends, shell};

const LIMIT: Duration = Duration::from_secs(20);

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test]
async fn a_grandchild_that_left_its_session_dies_with_the_tree() {
    // Attributed by its environment, and where that is gone by the pipe that it still writes to.
    let scripts = [
        "setsid sh -c 'setsid sleep 1000 >/dev/null 2>&1 & echo $!' & wait; exit 1",
        "setsid sh -c 'setsid env -i sleep 1000 & echo $!' & wait; exit 1",
    ];
    for (script, run) in scripts.into_iter().zip(700_001..) {
        let spawn = DirectSpawn::new().unwrap();
        let trees = Trees::new(spawn.reaper()).unwrap();
        let (launch, mut output) = shell(run, script);
        let inode = rustix::fs::fstat(&output).unwrap().st_ino;
        let started = spawn.spawn(launch).await.unwrap();
        let tracked =
            Tracked { run: RunId(run), pid: started.pid, cgroup: None, outputs: vec![inode] };
        let tree = trees.track(tracked);
        let at = ends(started).await.at;
        let mut text = [0; 16];
        let n = output.read(&mut text).unwrap();
        let escaped: i32 = String::from_utf8_lossy(&text[..n]).trim().parse().unwrap();
        assert!(!tree.is_empty_since(at).await.unwrap());
        let killed = tree.kill(LIMIT).await.unwrap();
        assert!(killed.processes >= 1, "{killed:?}");
        let deadline = Instant::now() + LIMIT;
        while is_alive(escaped) {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(tree.is_empty().await.unwrap());
    }
}
