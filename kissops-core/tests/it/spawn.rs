//! Direct spawning with real processes: what a child gets, and what an operator reads when it cannot start.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::Read as _,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use kissops_core::{
    id::{InstanceName, RunId},
    supervisor::{
        Credentials, DirectSpawn, ExitStatus, Exited, Launch, Signal, SignalTo, Spawn as _,
        Started,
        limits::{Resource, Rlimit},
    },
};

const LIMIT: Duration = Duration::from_secs(20);

/// A shell command and the read end of its output.
pub(crate) fn shell(run: i64, script: &str) -> (Launch, fs::File) {
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    let launch = Launch {
        run: RunId(run),
        instance: InstanceName::new("bot").unwrap(),
        command: ["sh", "-c", script].map(OsString::from).to_vec(),
        env: BTreeMap::from([("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())]),
        cwd: "/".into(),
        credentials: None,
        umask: None,
        rlimits: Vec::new(),
        cgroup: None,
        stdout: writer.try_clone().unwrap(),
        stderr: writer,
        kept: Vec::new(),
        note: Vec::new(),
    };
    (launch, OwnedFd::from(reader).into())
}

pub(crate) async fn ends(started: Started) -> Exited {
    tokio::time::timeout(LIMIT, started.exit).await.unwrap().unwrap()
}

/// Runs it to its end and returns its output.
async fn output(launch: Launch, mut reader: fs::File) -> String {
    let spawn = DirectSpawn::new().unwrap();
    let started = spawn.spawn(launch).await.unwrap();
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let text = text.await.unwrap();
    assert_eq!(ends(started).await.status, ExitStatus::Code(0), "{text}");
    text
}

async fn refused(change: impl FnOnce(&mut Launch)) -> String {
    let (mut launch, _reader) = shell(1, "true");
    change(&mut launch);
    let spawn = DirectSpawn::new().unwrap();
    spawn.spawn(launch).await.unwrap_err().chain()
}

#[tokio::test]
async fn each_failing_step_is_named() {
    let table = [
        (
            refused(|l| l.command = vec!["no-such-bot".into()]).await,
            "cannot run `no-such-bot`: it is in no folder of PATH",
        ),
        (
            refused(|l| l.command = vec!["/etc/passwd".into()]).await,
            "cannot run `/etc/passwd`: Permission denied",
        ),
        (
            refused(|l| l.cwd = "/no/such".into()).await,
            "cannot enter the working directory /no/such: No such file",
        ),
        (
            refused(|l| l.cgroup = Some("/no/such".into())).await,
            "in the cgroup /no/such: No such file",
        ),
        (refused(|l| l.cgroup = Some("/tmp".into())).await, "in the cgroup /tmp"),
        (
            refused(|l| l.command = vec!["a\0b".into()]).await,
            "instance.bot.command must not hold a zero byte",
        ),
        (refused(|l| l.command.clear()).await, "instance.bot.command must name a program"),
    ];
    for (message, expected) in table {
        assert!(message.contains(expected), "{message} / {expected}");
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("bot");
    fs::write(&script, "#!/no/such/python\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let message = refused(|l| l.command = vec![script.into()]).await;
    assert!(message.contains("interpreter"), "{message}");
    if !rustix::process::geteuid().is_root() {
        let root = Credentials { uid: 0, gid: 0, groups: vec![] };
        let message = refused(|l| l.credentials = Some(root)).await;
        assert!(message.contains("cannot become user 0"), "{message}");
    }
}

#[tokio::test]
async fn a_child_gets_its_own_session_clean_signals_and_three_descriptors() {
    let (launch, reader) = shell(
        7,
        "ls /proc/self/fd; cat /proc/self/status; ps -o sid= -p $$; echo $$; cat; echo $KISSOPS_RUN; umask",
    );
    let launch = Launch { umask: Some(0o027), ..launch };
    let text = output(launch, reader).await;
    let mut lines = text.lines();
    // `ls` has opened the folder itself as 3.
    for expected in ["0", "1", "2", "3"] {
        assert_eq!(lines.next(), Some(expected), "{text}");
    }
    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        let line = lines.clone().find(|line| line.starts_with(mask)).unwrap();
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
    let last: Vec<&str> = text.lines().rev().take(4).map(str::trim).collect();
    assert_eq!(last[3], last[2], "leads its session");
    assert_eq!(&last[..2], ["0027", "7"]);
}

#[tokio::test]
async fn limits_and_user_are_set() {
    let (mut launch, reader) = shell(1, "ulimit -n; ulimit -c; id -u; id -g; id -G");
    launch.rlimits = vec![
        Rlimit { resource: Resource::Nofile, value: Some(123) },
        Rlimit { resource: Resource::Core, value: Some(0) },
    ];
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: the change of user is not tested");
        assert!(output(launch, reader).await.starts_with("123\n0\n"));
        return;
    }
    launch.credentials = Some(Credentials { uid: 12345, gid: 23456, groups: vec![23456, 7] });
    assert_eq!(output(launch, reader).await, "123\n0\n12345\n23456\n23456 7\n");
    // The change of user in the child, which shared our memory, must not have changed us.
    assert_eq!(rustix::process::geteuid().as_raw(), 0);
    let dumpable = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(dumpable, rustix::process::DumpableBehavior::Dumpable);
}

#[tokio::test]
async fn exit_codes_signals_and_usage_are_told_and_the_run_forgotten() {
    let spawn = DirectSpawn::new().unwrap();
    let (launch, _reader) = shell(1, "exit 3");
    let exited = ends(spawn.spawn(launch).await.unwrap()).await;
    assert_eq!(exited.status, ExitStatus::Code(3));
    assert!(exited.usage.unwrap().max_rss_bytes > 0);
    let (launch, _reader) = shell(2, "sleep 1000");
    let started = spawn.spawn(launch).await.unwrap();
    assert!(spawn.forget(RunId(2)).await.is_err());
    spawn.signal(RunId(2), Signal::KILL, SignalTo::Group).await.unwrap();
    let killed = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
    assert_eq!(ends(started).await.status, killed);
    assert!(spawn.signal(RunId(2), Signal::KILL, SignalTo::Group).await.is_err());
    spawn.forget(RunId(1)).await.unwrap();
    spawn.forget(RunId(2)).await.unwrap();
    assert!(spawn.survivors().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_hosts_other_children_are_left_alone() {
    let mut other = std::process::Command::new("sh").args(["-c", "exit 5"]).spawn().unwrap();
    let (launch, reader) = shell(1, "true");
    output(launch, reader).await;
    assert_eq!(other.wait().unwrap().code(), Some(5));
}

/// Median time of a start with the heap as it is.
async fn median(spawn: &DirectSpawn, runs: std::ops::Range<i64>) -> Duration {
    let mut times = Vec::new();
    for run in runs {
        let (mut launch, _reader) = shell(run, "");
        launch.command = vec!["/bin/true".into()];
        let begun = Instant::now();
        let started = spawn.spawn(launch).await.unwrap();
        times.push(begun.elapsed());
        ends(started).await;
        spawn.forget(RunId(run)).await.unwrap();
    }
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
async fn a_start_costs_the_same_with_a_large_heap() {
    let spawn = DirectSpawn::new().unwrap();
    let small = median(&spawn, 0..100).await;
    let heap = vec![1_u8; 1 << 30];
    let large = median(&spawn, 100..200).await;
    assert_eq!(heap[heap.len() - 1], 1);
    eprintln!("start: {small:?}, with 1 GiB of heap {large:?}");
    // A fork would copy 2 MiB of page tables: some 10 ms. Other tests run beside us, so the bound is wide.
    assert!(large < small * 5 + Duration::from_millis(5), "{small:?} {large:?}");
}
