//! A process that refreshes without pause, until it kills itself at a checkpoint or is killed from outside.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use kissops_core::{
    store::{GrantId, GrantState, Store},
    vault::{Checkpoint, CheckpointHook, TokenVault as _, Vault},
};
use kissops_mock_provider::ImportRow;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::site::{Setup, records, tokens_of};
use crate::harness::until;

const ORDERS: &str = "KISSOPS_TEST_VAULT";
/// After a refusal.
const REST: Duration = Duration::from_millis(10);

/// Where a worker dies.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kill {
    /// The checkpoint's name.
    pub(super) at: String,
    /// Of a grant of this class.
    pub(super) class: String,
    /// When it is passed for the nth time.
    pub(super) nth: i64,
}

#[derive(Serialize, Deserialize)]
struct Orders {
    setup: Setup,
    kill: Option<Kill>,
    rows: Vec<ImportRow>,
}

/// A worker as its starter has it. Dropping it kills it.
pub(super) struct Worker {
    process: Child,
    out: BufReader<ChildStdout>,
    complaints: std::path::PathBuf,
}

impl Worker {
    /// This test binary again, as a process that runs only [`worker`].
    pub(super) fn start(setup: &Setup, kill: Option<Kill>, rows: Vec<ImportRow>) -> Self {
        let orders = Orders { setup: setup.clone(), kill, rows };
        let complaints = setup.dir.join("worker.err");
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "vault::worker::worker", "--nocapture"])
            .env(ORDERS, serde_json::to_string(&orders).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::options().create(true).append(true).open(&complaints).unwrap())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Self { process, out, complaints }
    }

    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    /// It has opened its vault and refreshes from now on.
    pub(super) fn until_ready(&mut self) {
        let mut line = String::new();
        while line != "ready\n" {
            line.clear();
            let read = self.out.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended: {}", self.complaints());
        }
    }

    /// It has killed itself, and not ended otherwise.
    pub(super) fn until_killed(&mut self, what: &str) {
        let mut ended = None;
        until(&format!("a kill at {what}"), || {
            ended = self.process.try_wait().unwrap();
            ended.is_some()
        });
        let by = ended.unwrap().signal();
        assert_eq!(by, Some(Signal::KILL.as_raw()), "{what}: {}", self.complaints());
    }

    pub(super) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Lets it close its vault.
    pub(super) fn end(&mut self) {
        drop(self.process.stdin.take());
        let mut ended = None;
        until("the worker's end", || {
            ended = self.process.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success(), "{}", self.complaints());
    }

    fn complaints(&self) -> String {
        fs::read_to_string(&self.complaints).unwrap_or_default()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended already is what was wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs only in a process that another test here starts.
#[tokio::test]
async fn worker() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let Orders { setup, kill, rows } = serde_json::from_str(&orders).unwrap();
    // What a failing test shows.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let store = setup.store().await;
    let classes = Arc::new(Mutex::new(HashMap::new()));
    let hook = kill.map(|kill| suicide(kill, Arc::clone(&classes)));
    let vault = setup.vault(Arc::clone(&store), hook).await;
    import(&vault, &*store, rows).await;
    let mut tasks = tokio::task::JoinSet::new();
    for record in records(&*store).await {
        if matches!(record.status.state, GrantState::NeedsReauth { .. }) {
            continue;
        }
        let (key, vault) = (record.grant.key, vault.clone());
        classes.lock().unwrap().insert(record.grant.id, key.provider.clone());
        tasks.spawn(async move {
            loop {
                match vault.refresh(&key).await {
                    Ok(_) => {}
                    Err(err) if ["wrong_state", "closed"].contains(&err.code()) => return,
                    Err(_) => tokio::time::sleep(REST).await,
                }
            }
        });
    }
    vault.start();
    std::io::stdout().write_all(b"\nready\n").unwrap();
    let until_told = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(until_told).await.unwrap().unwrap();
    vault.close().await;
    tasks.shutdown().await;
}

/// Keeps what is not kept yet: one that was killed before may have kept some.
async fn import(vault: &Vault, store: &dyn Store, rows: Vec<ImportRow>) {
    for new in rows.iter().map(tokens_of) {
        let known = store.grant(&new.key).await.unwrap();
        if known.is_none_or(|known| matches!(known.status.state, GrantState::Pending { .. })) {
            vault.put(new).await.unwrap();
        }
    }
}

fn suicide(kill: Kill, classes: Arc<Mutex<HashMap<GrantId, String>>>) -> CheckpointHook {
    let left = AtomicI64::new(kill.nth);
    Arc::new(move |at: Checkpoint, id: GrantId| {
        let class = classes.lock().unwrap().get(&id).cloned();
        let here = format!("{at:?}") == kill.at && class.as_deref() == Some(&*kill.class);
        if here && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap();
            kill_process(own, Signal::KILL).unwrap();
        }
    })
}
