//! One daemon per database: a lease on the store, for as long as several hosts cannot share one yet.
//!
//! A file has the lock of its state directory. A server's database can be named by daemons on two hosts, and both would
//! run every bot. So the second is refused while the first renews its lease. It is no fence: a daemon that cannot reach
//! the database keeps its bots running, and stops them only when it can and finds that another has taken over.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use kissops_core::{
    Error, Result, clock,
    id::IdMaker,
    store::{HolderId, Lease, LeaseName, Store},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// Another host must wait for so long after the last renewal.
const TTL: Duration = Duration::from_secs(30);
const RENEW: Duration = Duration::from_secs(10);
/// A renewal that takes longer is tried again: with two of them there is still time.
const PATIENCE: Duration = Duration::from_secs(4);
/// In the state directory: who the daemon was that had the lease last.
const FILE: &str = "tenure";

/// The right to run the fleet of a database.
pub(crate) struct Tenure {
    lost: watch::Receiver<bool>,
    end: CancellationToken,
    renewing: JoinHandle<()>,
}

impl Tenure {
    /// Takes the lease and keeps renewing it.
    ///
    /// One that an earlier daemon of this state directory left is given back first: the directory's lock proves that it
    /// is dead. Should the directory be a copy, the daemon of the original finds out with its next renewal.
    ///
    /// # Errors
    /// [`Error::Conflict`] while another daemon has it.
    pub(crate) async fn take(store: Arc<dyn Store>, state_dir: &Path) -> Result<Self> {
        let name = LeaseName::new("daemon");
        if let (Some(left), Some(found)) = (last_holder(state_dir), store.lease(&name).await?)
            && found.holder == Some(left)
        {
            let (token, until) = (found.token, found.until);
            store.release_lease(&Lease { name: name.clone(), holder: left, token, until }).await?;
        }
        let holder = HolderId(IdMaker::new(u64::from(std::process::id())).next(clock::now()));
        // Before it is taken: a daemon that is killed in between leaves no lease that nobody can give back.
        remember(state_dir, holder)?;
        let lease = match store.acquire_lease(&name, holder, TTL).await {
            Err(Error::Conflict { .. }) => return Err(taken(&*store, &name).await),
            other => other?,
        };
        let (tell, lost) = watch::channel(false);
        let end = CancellationToken::new();
        let ending = end.clone();
        let renewing = tokio::spawn(async move {
            let mut lease = lease;
            tokio::select! {
                () = keep(&*store, &mut lease) => drop(tell.send(true)),
                () = ending.cancelled() => give_back(&*store, &lease).await,
            }
        });
        Ok(Self { lost, end, renewing })
    }

    /// Resolves when another daemon has the lease.
    pub(crate) async fn lost(&mut self) {
        if self.lost.wait_for(|lost| *lost).await.is_err() {
            // The task has panicked, which its own report says; the lease then just runs out.
            std::future::pending::<()>().await;
        }
    }

    /// Gives it back, so that another host need not wait.
    pub(crate) async fn end(self) {
        self.end.cancel();
        let _ = self.renewing.await;
    }
}

/// Renews the lease until another daemon has it.
async fn keep(store: &dyn Store, lease: &mut Lease) {
    let mut away = false;
    loop {
        tokio::time::sleep(RENEW).await;
        let renewed = timeout(PATIENCE, store.renew_lease(lease, TTL)).await;
        let late = || Error::Timeout { what: "renewing the lease".into(), limit: PATIENCE };
        match renewed.unwrap_or_else(|_| Err(late())) {
            Ok(renewed) => {
                *lease = renewed;
                away = false;
            }
            Err(Error::Conflict { .. }) => return,
            Err(error) => {
                if !away {
                    tracing::error!(error = %error.chain(), "the store cannot be reached; the bots run on, and what happens is stored later");
                }
                away = true;
            }
        }
    }
}

async fn give_back(store: &dyn Store, lease: &Lease) {
    let given = timeout(PATIENCE, store.release_lease(lease)).await;
    if !matches!(given, Ok(Ok(()))) {
        tracing::warn!(
            "the lease on the store was not given back: another host has to wait for its end"
        );
    }
}

async fn taken(store: &dyn Store, name: &LeaseName) -> Error {
    let found = store.lease(name).await.ok().flatten();
    let seconds = found.map_or(TTL, |found| found.remaining).as_secs() + 1;
    Error::Conflict {
        what: "the store's fleet".into(),
        holder: format!(
            "a kissopsd on another host, or with another state_dir; several hosts on one database are for a later version: give each its own. If that daemon is dead, try again in {seconds} s"
        ),
    }
}

fn last_holder(state_dir: &Path) -> Option<HolderId> {
    // Not there, or not a number: nobody whom this directory knows.
    fs::read_to_string(state_dir.join(FILE)).ok()?.trim().parse().ok().map(HolderId)
}

fn remember(state_dir: &Path, holder: HolderId) -> Result<()> {
    let (path, new) = (state_dir.join(FILE), state_dir.join("tenure.new"));
    let write = || {
        fs::write(&new, format!("{}\n", holder.0))?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        fs::rename(&new, &path)
    };
    write().map_err(Error::io(format!("write {}", path.display())))
}
