//! One daemon per database: a lease on the store, for as long as several hosts cannot share one yet.
//!
//! A file has the lock of its state directory. A server's database can be named by daemons on two hosts, and both would
//! run every bot. The second is refused; and one that was cut off for so long that another took over stops its bots.

use std::{fs, path::Path, sync::Arc, time::Duration};

use kissops_core::{
    Error, Result,
    id::stable_hash,
    store::{HolderId, Lease, LeaseName, Store},
};

/// Another host must wait for so long after the last renewal.
const TTL: Duration = Duration::from_secs(30);
const RENEW: Duration = Duration::from_secs(10);

/// The right to run the fleet of a database.
pub(crate) struct Tenure {
    store: Arc<dyn Store>,
    lease: Lease,
}

impl Tenure {
    /// Takes the lease. One that an earlier daemon of this state directory left is taken over at once: the directory's
    /// lock proves that it is dead.
    ///
    /// # Errors
    /// [`Error::Conflict`] while another host's daemon has it.
    pub(crate) async fn take(store: Arc<dyn Store>, state_dir: &Path) -> Result<Self> {
        let (name, holder) = (LeaseName::new("daemon"), holder(state_dir));
        let lease = match store.acquire_lease(&name, holder, TTL).await {
            Err(conflict @ Error::Conflict { .. }) => match store.lease(&name).await? {
                Some(found) if found.holder == Some(holder) => {
                    let left = Lease { name, holder, token: found.token, until: found.until };
                    store.renew_lease(&left, TTL).await?
                }
                Some(found) => return Err(taken(found.remaining)),
                None => return Err(conflict),
            },
            other => other?,
        };
        Ok(Self { store, lease })
    }

    /// Renews the lease until another daemon has it.
    pub(crate) async fn keep(&mut self) {
        let mut away = false;
        loop {
            tokio::time::sleep(RENEW).await;
            match self.store.renew_lease(&self.lease, TTL).await {
                Ok(lease) => {
                    self.lease = lease;
                    away = false;
                }
                Err(Error::Conflict { .. }) => return,
                Err(error) if !away => {
                    away = true;
                    tracing::error!(error = %error.chain(), "the store cannot be reached; the bots run on, what happens is stored later");
                }
                Err(_) => {}
            }
        }
    }

    /// Gives it back, so that another host need not wait.
    pub(crate) async fn end(self) {
        if let Err(error) = self.store.release_lease(&self.lease).await {
            tracing::warn!(error = %error.chain(), "the store was not given back: another host has to wait for it");
        }
    }
}

fn taken(remaining: Duration) -> Error {
    let seconds = remaining.as_secs() + 1;
    Error::Conflict {
        what: "the store's fleet".into(),
        holder: format!(
            "a kissopsd on another host, or with another state_dir; several hosts on one database are for a later version: give each its own. If that daemon is dead, try again in {seconds} s"
        ),
    }
}

/// This state directory of this machine.
fn holder(state_dir: &Path) -> HolderId {
    // Without one, the directory alone has to do.
    let machine = fs::read("/etc/machine-id").unwrap_or_default();
    let real = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let hash = stable_hash([&*machine, real.as_os_str().as_encoded_bytes()]);
    HolderId(hash.cast_signed())
}
