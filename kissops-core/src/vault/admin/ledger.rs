//! The audit as the desk writes it.

use super::Caller;
use crate::{
    Result, clock,
    store::{AuditOutcome, NewAudit, Store},
};

/// Writes down who does what.
#[derive(Clone, Copy)]
pub(super) struct Ledger<'a>(pub(super) &'a dyn Store);

impl Ledger<'_> {
    pub(super) async fn record(
        self,
        caller: &Caller,
        action: &str,
        target: &str,
        outcome: AuditOutcome,
    ) -> Result<()> {
        let entry = NewAudit {
            at: clock::now(),
            actor: caller.actor.clone(),
            action: action.to_owned(),
            target: target.to_owned(),
            origin: caller.origin.clone(),
            outcome,
        };
        self.0.append_audit(vec![entry]).await.map(drop)
    }

    /// Records what has happened already: it cannot be held up by that any more.
    pub(super) async fn record_late(
        self,
        caller: &Caller,
        action: &str,
        target: &str,
        outcome: AuditOutcome,
    ) {
        if let Err(err) = self.record(caller, action, target, outcome).await {
            tracing::error!(action, target, error = %err.chain(), "the audit could not be written");
        }
    }

    /// Gives a secret once it is recorded that it is given, and not otherwise.
    pub(super) async fn reveal<T>(
        self,
        caller: &Caller,
        action: &str,
        target: &str,
        secret: Result<T>,
    ) -> Result<T> {
        match secret {
            Ok(secret) => {
                self.record(caller, action, target, AuditOutcome::Done).await?;
                Ok(secret)
            }
            Err(err) => {
                let outcome = AuditOutcome::Failed(err.chain());
                self.record_late(caller, action, target, outcome).await;
                Err(err)
            }
        }
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::store::{AuditQuery, AuditStore as _, sqlite::SqliteStore};

    /// CTL-3: who cannot be written down gets nothing.
    #[tokio::test]
    async fn a_secret_stays_hidden_where_the_audit_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kissops.db");
        let store =
            SqliteStore::open(&path, crate::store::sqlite::SqliteOptions::default()).unwrap();
        let (ledger, caller) = (Ledger(&store), Caller::local());
        let shown = ledger.reveal(&caller, "secret.reveal", "secret x", Ok("value")).await;
        assert_eq!(shown.unwrap(), "value");
        let full =
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END";
        rusqlite::Connection::open(&path).unwrap().execute_batch(full).unwrap();
        let hidden = ledger.reveal(&caller, "secret.reveal", "secret x", Ok("value")).await;
        assert!(hidden.is_err(), "{hidden:?}");
        let query = AuditQuery { limit: 9, ..AuditQuery::default() };
        assert_eq!(store.audit(query).await.unwrap().len(), 1);
    }
}
