//! The keeper as its own program, with real processes: `kissops-keeper`.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kissops_core::{
    Error,
    id::{InstanceName, ProcessIdentity, RunId},
    supervisor::{
        ExitStatus, Exited, KeeperClient, KeeperOptions, Launch, Signal, SignalTo, Spawn as _,
        Started,
    },
};

const LIMIT: Duration = Duration::from_secs(20);

fn options(dir: &Path) -> KeeperOptions {
    KeeperOptions {
        socket: dir.join("keeper.sock"),
        program: PathBuf::from(env!("CARGO_BIN_EXE_kissops-keeper")),
        nofile: None,
    }
}

/// Kills what a test that has failed leaves: its keeper and all that this one has started.
struct Leftovers(Vec<i32>);

impl Drop for Leftovers {
    fn drop(&mut self) {
        for keeper in &self.0 {
            let name = fs::read_to_string(format!("/proc/{keeper}/comm")).unwrap_or_default();
            if name.trim() != "kissops-keeper" {
                continue;
            }
            let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
            let children = children.unwrap_or_default();
            let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
            for pid in children.chain([*keeper]).filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

thread_local! {
    /// Each test has a thread of its own, at whose end this is dropped.
    static LEFTOVERS: std::cell::RefCell<Leftovers> = const { std::cell::RefCell::new(Leftovers(Vec::new())) };
}

pub(crate) async fn connect(dir: &Path) -> KeeperClient {
    let client = KeeperClient::connect_or_start(options(dir)).await.unwrap();
    LEFTOVERS.with_borrow_mut(|leftovers| leftovers.0.push(client.pid()));
    client
}

/// A shell command, the read end of its output, and a copy of that end kept by the keeper.
pub(crate) fn shell(run: i64, script: &str) -> (Launch, fs::File) {
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    let reader = OwnedFd::from(reader);
    let launch = Launch {
        run: RunId(run),
        instance: InstanceName::new("bot").unwrap(),
        command: ["sh", "-c", script].map(OsString::from).to_vec(),
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        cwd: "/".into(),
        credentials: None,
        umask: None,
        rlimits: Vec::new(),
        cgroup: None,
        stdout: writer.try_clone().unwrap(),
        stderr: writer,
        kept: vec![reader.try_clone().unwrap()],
        note: format!("note {run}").into_bytes(),
    };
    (launch, reader.into())
}

pub(crate) async fn ends(started: Started) -> Exited {
    tokio::time::timeout(LIMIT, started.exit).await.unwrap().unwrap()
}

pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn identity(pid: i32) -> ProcessIdentity {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap();
    let start_ticks = fields.split(' ').nth(19).unwrap().parse().unwrap();
    ProcessIdentity { pid, start_ticks, boot_id: kissops_core::clock::boot_id().clone() }
}

/// Ends the keeper that a test has used.
pub(crate) async fn finish(client: &KeeperClient) {
    let pid = client.pid();
    client.end().await.unwrap();
    until("the keeper ends", || !is_alive(pid)).await;
}

#[tokio::test]
async fn runs_output_and_exit_codes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let (launch, mut output) = shell(1, "echo hello; exit 7");
    let started = client.spawn(launch).await.unwrap();
    let exited = ends(started).await;
    assert_eq!(exited.status, ExitStatus::Code(7));
    assert!(exited.usage.unwrap().max_rss_bytes > 0);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
    let (launch, _output) = shell(2, "kill -KILL $$");
    let exited = ends(client.spawn(launch).await.unwrap()).await;
    let killed = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
    assert_eq!(exited.status, killed);
    for run in [1, 2] {
        client.forget(RunId(run)).await.unwrap();
    }
    assert!(matches!(client.forget(RunId(1)).await, Err(Error::NotFound { .. })));
    finish(&client).await;
}

#[tokio::test]
async fn a_failed_start_says_which_step_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let (mut launch, _output) = shell(1, "true");
    launch.command = vec!["/nowhere/bot".into()];
    let err = client.spawn(launch).await.unwrap_err().chain();
    assert!(err.contains("/nowhere/bot") && err.contains("No such file"), "{err}");
    let (mut launch, _output) = shell(1, "true");
    launch.cwd = "/nowhere".into();
    let err = client.spawn(launch).await.unwrap_err().chain();
    assert!(err.contains("working directory /nowhere"), "{err}");
    assert!(client.survivors().await.unwrap().is_empty());
    finish(&client).await;
}

#[tokio::test]
async fn signals_reach_the_process_and_never_an_ended_run() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let (launch, _output) = shell(5, "exec sleep 1000");
    let started = client.spawn(launch).await.unwrap();
    client.signal(RunId(5), Signal::TERM, SignalTo::Main).await.unwrap();
    let term = ExitStatus::Signal { signal: Signal::TERM, core_dumped: false };
    assert_eq!(ends(started).await.status, term);
    let again = client.signal(RunId(5), Signal::TERM, SignalTo::Main).await;
    assert!(matches!(again, Err(Error::NotFound { .. })));
    client.forget(RunId(5)).await.unwrap();
    finish(&client).await;
}

#[tokio::test]
async fn the_next_daemon_finds_runs_notes_descriptors_and_exits() {
    let dir = tempfile::tempdir().unwrap();
    let first = connect(dir.path()).await;
    let keeper = first.pid();
    let (launch, output) = shell(1, "echo first; read -r x < go; exit 9");
    let mut launch = launch;
    launch.cwd = dir.path().into();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("go"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    first.spawn(launch).await.unwrap();
    let (launch, _output2) = shell(2, "exec sleep 1000");
    let sleeper = first.spawn(launch).await.unwrap().pid;
    first.note(RunId(2), b"newer".to_vec()).await.unwrap();
    let (mut probe, stored) = std::io::pipe().unwrap();
    first.put_fd("store", stored.into()).await.unwrap();

    // While the old daemon lives, nobody else gets in.
    let refused = KeeperClient::connect_or_start(options(dir.path())).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");

    drop((first, output));
    // Ends while no daemon is there.
    fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join("go"))
        .unwrap()
        .write_all(b"x\n")
        .unwrap();
    let second = connect(dir.path()).await;
    assert_eq!(second.pid(), keeper);
    let mut survivors = second.survivors().await.unwrap();
    survivors.sort_by_key(|survivor| survivor.run);
    assert_eq!(survivors.len(), 2);
    let two = survivors.pop().unwrap();
    let one = survivors.pop().unwrap();
    assert_eq!((two.run, two.started.pid, &*two.note), (RunId(2), sleeper, &b"newer"[..]));
    assert_eq!(ends(one.started).await.status, ExitStatus::Code(9));
    let mut text = String::new();
    fs::File::from(one.kept.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "first\n");
    let mut stored = fs::File::from(second.get_fd("store").await.unwrap());
    stored.write_all(b"!").unwrap();
    let mut byte = [0];
    probe.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");
    assert!(matches!(second.get_fd("nothing").await, Err(Error::NotFound { .. })));
    // What was handed over once is nobody's survivor again.
    assert!(second.survivors().await.unwrap().is_empty());
    second.signal(RunId(2), Signal::KILL, SignalTo::Group).await.unwrap();
    ends(two.started).await;
    second.forget(RunId(1)).await.unwrap();
    second.forget(RunId(2)).await.unwrap();
    finish(&second).await;
}

#[tokio::test]
async fn a_killed_keeper_is_replaced_and_the_processes_are_adopted_with_their_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let go = dir.path().join("go");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &go,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let (mut launch, output) = shell(1, "read -r x < go; exit 42");
    launch.cwd = dir.path().into();
    let started = client.spawn(launch).await.unwrap();
    let pid = started.pid;
    let who = identity(pid);
    let keeper = client.pid();
    let raw = rustix::process::Pid::from_raw(keeper).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    tokio::time::timeout(LIMIT, client.lost()).await.unwrap();
    started.exit.await.unwrap_err();
    let err = client.note(RunId(1), Vec::new()).await.unwrap_err();
    assert!(matches!(err, Error::Unavailable { .. }), "{err:?}");
    assert!(is_alive(pid));

    client.reconnect().await.unwrap();
    assert_ne!(client.pid(), keeper);
    let wrong = ProcessIdentity { start_ticks: who.start_ticks + 1, ..who.clone() };
    let err = client.adopt(RunId(1), &wrong, b"n", Vec::new()).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
    let started = client.adopt(RunId(1), &who, b"n", vec![output.into()]).await.unwrap();
    fs::OpenOptions::new().write(true).open(&go).unwrap().write_all(b"x\n").unwrap();
    let status = ends(started).await.status;
    eprintln!("exit of an adopted process: {status}");
    assert!([ExitStatus::Code(42), ExitStatus::Unknown].contains(&status), "{status}");
    client.forget(RunId(1)).await.unwrap();
    finish(&client).await;
}

#[tokio::test]
async fn a_thousand_runs_cost_little_and_leak_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let keeper = client.pid();
    let descriptors = || fs::read_dir(format!("/proc/{keeper}/fd")).unwrap().count();
    let before = descriptors();
    let mut times = Vec::new();
    for run in 1..=2000 {
        let (mut launch, _output) = shell(run, "");
        launch.command = vec!["/bin/true".into()];
        let begun = Instant::now();
        let started = client.spawn(launch).await.unwrap();
        times.push(begun.elapsed());
        ends(started).await;
        client.forget(RunId(run)).await.unwrap();
    }
    times.sort();
    eprintln!("spawn round trip: p50 {:?} p99 {:?}", times[1000], times[1980]);
    assert_eq!(descriptors(), before);
    let stat = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    assert_eq!(stat.trim(), "", "zombies");
    let mut outputs = Vec::new();
    let mut all = Vec::new();
    for run in 1..=200 {
        let (mut launch, output) = shell(run, "");
        launch.command = vec!["sleep".into(), "1000".into()];
        all.push(client.spawn(launch).await.unwrap());
        outputs.push(output);
    }
    let rollup = fs::read_to_string(format!("/proc/{keeper}/smaps_rollup")).unwrap();
    let pss = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    eprintln!("keeper with {} runs: {pss}", all.len());
    for run in 1..=200 {
        client.signal(RunId(run), Signal::KILL, SignalTo::Main).await.unwrap();
    }
    for started in all {
        ends(started).await;
    }
    for run in 1..=200 {
        client.forget(RunId(run)).await.unwrap();
    }
    assert_eq!(descriptors(), before);
    finish(&client).await;
}

#[tokio::test]
async fn a_crash_and_its_replacement_take_few_hops() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let mut times = Vec::new();
    let mut last = None;
    for run in 500_000..500_200 {
        let (mut launch, _output) = shell(run, "");
        launch.command = vec!["sleep".into(), "1000".into()];
        let before: Option<(Instant, Started)> = last.take();
        if let Some((begun, started)) = before {
            ends(started).await;
            let next = client.spawn(launch).await.unwrap();
            times.push(begun.elapsed());
            client.forget(RunId(run - 1)).await.unwrap();
            let pid = rustix::process::Pid::from_raw(next.pid).unwrap();
            let begun = Instant::now();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            last = Some((begun, next));
        } else {
            let next = client.spawn(launch).await.unwrap();
            let pid = rustix::process::Pid::from_raw(next.pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            last = Some((Instant::now(), next));
        }
    }
    ends(last.unwrap().1).await;
    client.forget(RunId(500_199)).await.unwrap();
    times.sort();
    eprintln!(
        "kill to replacement: p50 {:?} p99 {:?}",
        times[times.len() / 2],
        times[times.len() - 2]
    );
    finish(&client).await;
}

#[tokio::test]
async fn damaged_requests_do_no_harm() {
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let (launch, _output) = shell(600_001, "exec sleep 1000");
    let started = client.spawn(launch).await.unwrap();
    let keeper = client.pid();
    drop(client);
    let flags = SocketFlags::CLOEXEC;
    let kind = SocketType::SEQPACKET;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
    let address = SocketAddrUnix::new(dir.path().join("keeper.sock")).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let hello = [&[1_u8, 1, 0, 0, 0][..], &[1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0]].concat();
    let mut packets = vec![vec![0], vec![2, 0, 0, 0, 0], vec![127], vec![9; 70_000], hello];
    // Every kind of request, with too little, with nonsense and with impossible lengths.
    for kind in 0..=255_u8 {
        if [1, 10].contains(&kind) {
            continue;
        }
        for rest in
            [&[][..], &[0xff; 40], &[0; 40], &[1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f]]
        {
            packets.push([&[kind, 7, 0, 0, 0], rest].concat());
        }
    }
    let mut answer = [0; 1024];
    for packet in packets {
        // One that the socket itself refuses is none.
        let _ = rustix::net::send(&socket, &packet, SendFlags::NOSIGNAL);
        let wait = rustix::net::RecvFlags::DONTWAIT;
        while rustix::net::recv(&socket, &mut answer, wait).is_ok_and(|(n, _)| n > 0) {}
    }
    drop(socket);
    assert!(is_alive(started.pid));
    let client = connect(dir.path()).await;
    assert_eq!(client.pid(), keeper, "the same keeper");
    let survivor = client.survivors().await.unwrap().pop().unwrap();
    client.signal(survivor.run, Signal::KILL, SignalTo::Main).await.unwrap();
    ends(survivor.started).await;
    client.forget(survivor.run).await.unwrap();
    finish(&client).await;
}

#[tokio::test]
async fn a_large_environment_and_orphans_of_ended_processes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(dir.path()).await;
    let mut orphans = client.orphan_exits();
    let (mut launch, mut output) = shell(1, "echo ${#BIG}; (setsid sh -c 'exit 3' &)");
    launch.env.insert("BIG".into(), "x".repeat(100_000).into());
    launch.env.insert("BIG2".into(), "x".repeat(100_000).into());
    ends(client.spawn(launch).await.unwrap()).await;
    let orphan = tokio::time::timeout(LIMIT, async {
        loop {
            let orphan = orphans.recv().await.unwrap();
            if orphan.status == ExitStatus::Code(3) {
                return orphan;
            }
        }
    });
    assert!(orphan.await.unwrap().pid > 1);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "100000\n");
    client.forget(RunId(1)).await.unwrap();
    finish(&client).await;
}
