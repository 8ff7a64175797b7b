//! Whole process trees under a keeper: found, counted, killed.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::{
    fs,
    io::Read as _,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use kissops_core::{
    id::{InstanceName, RunId},
    supervisor::{CgroupRoot, KeeperClient, Spawn as _, Tracked, Tree, Trees, limits::Limits},
};

use crate::keeper::{connect, ends, finish, is_alive, shell, until};

const LIMIT: Duration = Duration::from_secs(20);

/// Prints the pid of a grandchild that has left its session and parents and closed its output.
const ESCAPE: &str = "setsid sh -c 'setsid sleep 1000 >/dev/null 2>&1 & echo $!' & wait; ";

/// Reads one line that holds a number.
fn number(output: &mut fs::File) -> i32 {
    let mut text = Vec::new();
    let mut byte = [0];
    while output.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap().trim().parse().unwrap()
}

async fn start(
    client: &KeeperClient,
    trees: &Trees,
    run: i64,
    script: &str,
) -> (Tree, kissops_core::supervisor::Started, fs::File) {
    let (launch, output) = shell(run, script);
    let started = client.spawn(launch).await.unwrap();
    let tree =
        trees.track(Tracked { run: RunId(run), pid: started.pid, cgroup: None, outputs: vec![] });
    (tree, started, output)
}

/// CPU time of this process, in 1/100 s.
fn cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

async fn becomes_empty(tree: &Tree) {
    let deadline = Instant::now() + LIMIT;
    while !tree.is_empty().await.unwrap() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

// Runs are told apart by their numbers all over the machine: each test has its own.

#[tokio::test]
async fn a_grandchild_that_left_everything_is_found_and_killed() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let trees = Trees::new(client.reaper()).unwrap();
    // While its main process lives, and after that has ended.
    for (run, script) in
        [(100_001, format!("{ESCAPE} exec sleep 1000")), (100_002, format!("{ESCAPE} exit 1"))]
    {
        let (tree, started, mut output) = start(&client, &trees, run, &script).await;
        let escaped = number(&mut output);
        if run == 100_002 {
            ends(started).await;
        }
        assert!(!tree.is_empty().await.unwrap());
        // While it becomes another program it has no environment, and so no mark, for a moment.
        let deadline = Instant::now() + LIMIT;
        while !tree.pids().await.unwrap().contains(&escaped) {
            assert!(Instant::now() < deadline);
        }
        let killed = tree.kill(LIMIT).await.unwrap();
        assert!(killed.processes >= 1, "{killed:?}");
        until("the grandchild ends", || !is_alive(escaped)).await;
        assert!(tree.is_empty().await.unwrap());
        // One that had ended before it was tracked has no identity.
        until("the exit is known", || tree.identity().is_none_or(|main| !is_alive(main.pid))).await;
    }
    forget_all(&client, 100_001..=100_002).await;
    finish(&client).await;
}

async fn forget_all(client: &KeeperClient, runs: std::ops::RangeInclusive<i64>) {
    for run in runs {
        let deadline = Instant::now() + LIMIT;
        while client.forget(RunId(run)).await.is_err() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn fast_forkers_lose() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let trees = Trees::new(client.reaper()).unwrap();
    // One forks children in its own group all the time; the other is never for long the same process, group or session.
    // Both end by themselves, should the test fail before they are killed.
    let crowd = "i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done; while [ $i -lt 100000 ]; do /bin/true & i=$((i+1)); done; wait";
    let chain = "exec python3 -c '\nimport os, time\nend = time.monotonic() + 60\nwhile time.monotonic() < end:\n if os.fork(): os._exit(0)\n os.setsid()\n'";
    for (run, script) in [(200_001, crowd), (200_002, chain)] {
        let (tree, _started, _output) = start(&client, &trees, run, script).await;
        let pid = tree.identity().unwrap().pid;
        let deadline = Instant::now() + LIMIT;
        if run == 200_001 {
            while tree.pids().await.unwrap().len() < 50 {
                assert!(Instant::now() < deadline);
            }
        } else {
            until("the first of the chain is gone", || !is_alive(pid)).await;
        }
        // As the supervisor does: one kill may miss who is never for long in one place, so it goes on until nobody is left.
        let deadline = Instant::now() + LIMIT;
        loop {
            let killed = tree.kill(LIMIT).await.unwrap();
            eprintln!("fast forker {run}: {killed:?}");
            becomes_empty(&tree).await;
            if tree.pids().await.unwrap().is_empty() {
                break;
            }
            assert!(Instant::now() < deadline);
        }
    }
    forget_all(&client, 200_001..=200_002).await;
    finish(&client).await;
}

#[tokio::test]
async fn a_run_in_a_cgroup_is_born_there_and_killed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = format!("test-{}", std::process::id());
    let Some(root) = CgroupRoot::detect(&fleet) else {
        eprintln!("no cgroup v2 to write to: not tested");
        return;
    };
    let limits = Limits { memory_max: Some(kissops_core::ByteSize(1 << 30)), ..Limits::default() };
    let cgroup = root.instance(&InstanceName::new("bot").unwrap(), &limits).unwrap();
    let has_memory = root.controllers().contains(&"memory");
    assert_eq!(cgroup.not_applied().is_empty(), has_memory);
    let client = connect(dir.path()).await;
    let trees = Trees::new(client.reaper()).unwrap();
    let (mut launch, mut output) =
        shell(300_001, &format!("cat /proc/self/cgroup >&2; {ESCAPE} exec sleep 1000"));
    launch.cgroup = Some(cgroup.path().to_owned());
    let (mut errors, writer) = std::io::pipe().unwrap();
    launch.stderr = OwnedFd::from(writer);
    let started = client.spawn(launch).await.unwrap();
    let pid = started.pid;
    let tree = trees.track(Tracked {
        run: RunId(300_001),
        pid,
        cgroup: Some(cgroup.clone()),
        outputs: vec![],
    });
    let escaped = number(&mut output);
    assert!(tree.pids().await.unwrap().contains(&escaped));
    assert!(!tree.is_empty().await.unwrap());
    tree.kill(LIMIT).await.unwrap();
    ends(started).await;
    let mut text = String::new();
    errors.read_to_string(&mut text).unwrap();
    assert!(text.contains(&format!("/kissops-{fleet}/bot\n")), "{text}");
    assert!(cgroup.is_empty().unwrap());
    cgroup.remove().unwrap();
    root.remove();
    assert!(!root.path().exists());
    forget_all(&client, 300_001..=300_001).await;
    finish(&client).await;
}

#[tokio::test]
async fn looks_and_samples_are_cheap_with_many_instances() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let trees = Trees::new(client.reaper()).unwrap();
    let count: i64 = if std::env::var_os("KISSOPS_TEST_LARGE").is_some() { 1000 } else { 200 };
    let mut all = Vec::new();
    for run in 400_001..=400_000 + count {
        let (mut launch, _) = shell(run, "");
        launch.command = vec!["sleep".into(), "1000".into()];
        let started = client.spawn(launch).await.unwrap();
        let tree = trees.track(Tracked {
            run: RunId(run),
            pid: started.pid,
            cgroup: None,
            outputs: vec![],
        });
        all.push((tree, started));
    }
    let (probe, started) = all.pop().unwrap();
    probe.kill(LIMIT).await.unwrap();
    let at = ends(started).await.at;
    assert!(probe.is_empty_since(at).await.unwrap());
    let mut looks = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        assert!(probe.is_empty().await.unwrap());
        looks.push(begun.elapsed());
    }
    let mut samples = Vec::new();
    let before = cpu_ticks();
    for _ in 0..20 {
        let begun = Instant::now();
        let by_run = trees.sample().await.unwrap();
        samples.push(begun.elapsed());
        assert_eq!(i64::try_from(by_run.len()).unwrap(), count - 1);
        let one = by_run[&RunId(400_001)];
        assert!(one.processes == 1 && one.threads == 1 && one.rss_bytes > 0, "{one:?}");
    }
    let cpu = Duration::from_millis((cpu_ticks() - before) * 10 / 20);
    looks.sort();
    samples.sort();
    let (look, sample) = (looks[25], samples[10]);
    eprintln!("{count} instances: is_empty p50 {look:?}, sample p50 {sample:?}, CPU {cpu:?}");
    let detail = all[0].0.describe().await.unwrap();
    assert_eq!((detail.len(), detail[0].comm.as_str()), (1, "sleep"));
    assert_eq!(detail[0].cmdline, ["sleep", "1000"]);
    assert!(detail[0].pss_bytes.is_some() && detail[0].open_files == Some(3));
    for (tree, started) in all {
        tree.kill(LIMIT).await.unwrap();
        ends(started).await;
    }
    forget_all(&client, 400_001..=400_000 + count).await;
    finish(&client).await;
}
