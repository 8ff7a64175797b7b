//! Writers in processes of their own, which other tests here start and kill.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
};

use kissops_core::{
    Timestamp,
    id::InstanceName,
    store::{
        Desired, EventStore as _, InstanceRecord, InstanceStore as _, MemberRecord,
        MemberStore as _, sqlite::SqliteStore,
    },
};

use super::{event, open};

pub(super) const PATH: &str = "KISSOPS_TEST_STORE_PATH";
pub(super) const ROLE: &str = "KISSOPS_TEST_STORE_ROLE";
/// What the pruner takes away, and nobody looks for.
pub(super) const PASSING: &str = "passing";

/// This test binary again, as a process that runs only [`child`].
pub(super) fn command(role: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "store::process::child", "--nocapture"])
        .env(PATH, path)
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// A process that writes until it is killed, and what it says.
pub(super) struct Writer {
    pub(super) process: Child,
    pub(super) out: BufReader<ChildStdout>,
}

impl Writer {
    pub(super) fn start(role: &str, path: &Path) -> Self {
        let mut process = command(role, path).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Self { process, out }
    }

    /// Up to `enough` acknowledgements, or all until it ends.
    pub(super) fn listen(&mut self, enough: usize, heard: &mut Vec<String>) {
        let mut line = String::new();
        let enough = heard.len().saturating_add(enough);
        while heard.len() < enough && self.out.read_line(&mut line).unwrap() > 0 {
            // The kill may have cut the last line.
            let ack = line.strip_suffix('\n').and_then(|line| line.strip_prefix("ack "));
            heard.extend(ack.map(str::to_owned));
            line.clear();
        }
    }

    /// Kills it and hears what it had still said.
    pub(super) fn kill(mut self, heard: &mut Vec<String>) {
        self.process.kill().unwrap();
        self.listen(usize::MAX, heard);
        self.process.wait().unwrap();
    }
}

fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}

/// Runs only in a process that another test here starts.
#[tokio::test]
async fn child() {
    let (Some(path), Ok(role)) = (std::env::var_os(PATH), std::env::var(ROLE)) else { return };
    let path = PathBuf::from(path);
    if role == "together" {
        say("waiting");
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
    let store = Arc::new(open(&path).unwrap());
    match &*role {
        "modes" => {
            store.append_events(vec![event("x")]).await.unwrap();
            for suffix in ["", "-wal", "-shm"] {
                say(&format!("mode {:o}", mode(format!("{}{suffix}", path.display()))));
            }
            say(&format!("mode {:o}", mode(path.parent().unwrap())));
        }
        "together" => append(&store, "together", 0).await,
        _ => write_for_ever(&store).await,
    }
}

fn mode(path: impl AsRef<Path>) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn append(store: &SqliteStore, task: &str, n: usize) {
    // One to three rows in one call: all of them or none.
    let reasons: Vec<_> =
        (0..=n % 3).map(|part| format!("{}.{task}.{n}.{part}", std::process::id())).collect();
    let ids = store.append_events(reasons.iter().map(|one| event(one)).collect()).await.unwrap();
    for (id, reason) in ids.iter().zip(reasons) {
        say(&format!("ack event {} {reason}", id.0));
    }
}

async fn write_for_ever(store: &Arc<SqliteStore>) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..6_u32 {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for n in 0.. {
                append(&store, &task.to_string(), n).await;
            }
        });
    }
    let (puts, members, pruned) = (Arc::clone(store), Arc::clone(store), Arc::clone(store));
    tasks.spawn(async move {
        for n in 0_u64.. {
            put(&puts, n).await;
        }
    });
    tasks.spawn(async move {
        for n in 0_u64.. {
            member(&members, n).await;
        }
    });
    tasks.spawn(async move {
        loop {
            let mut passing = event(PASSING);
            passing.at = Timestamp(0);
            pruned.append_events(vec![passing]).await.unwrap();
            pruned.prune_events(Timestamp(1), 10).await.unwrap();
        }
    });
    while tasks.join_next().await.is_some() {}
}

/// One instance for each process, with a number that only grows.
async fn put(store: &SqliteStore, n: u64) {
    let name = InstanceName::new(&format!("bot-{}", std::process::id())).unwrap();
    let record = InstanceRecord {
        name,
        desired: Desired::Running,
        restarts: n,
        failed: Some(n.to_string()),
        updated_at: Timestamp(1),
    };
    store.put_instance(record).await.unwrap();
    say(&format!("ack instance {n} bot-{}", std::process::id()));
}

/// Adds a member and, every other time, removes it.
async fn member(store: &SqliteStore, n: u64) {
    let name = format!("m@{}-{n}", std::process::id());
    let record = MemberRecord {
        name: InstanceName::new(&name).unwrap(),
        vars: [("n".to_owned(), n.to_string())].into(),
        added_at: Timestamp(1),
    };
    store.add_member(record).await.unwrap();
    say(&format!("ack member {n} {name}"));
    if n.is_multiple_of(2) {
        store.remove_member(&InstanceName::new(&name).unwrap()).await.unwrap();
        say(&format!("ack gone {n} {name}"));
    }
}
