//! What a step of a batch answers where it finds nothing to change, see [`Batch::must`](super::Batch::must).

use crate::Error;

/// There is none, or none any more.
pub(super) fn missing(what: impl Into<String>) -> impl Fn() -> Error + Send + Sync + 'static {
    let what = what.into();
    move || Error::NotFound { what: what.clone() }
}

/// It is not as it was when the caller read it.
pub(super) fn changed(what: impl Into<String>) -> impl Fn() -> Error + Send + Sync + 'static {
    held(what, "somebody who has changed or removed it meanwhile")
}

/// There is one already.
pub(super) fn taken(what: impl Into<String>) -> impl Fn() -> Error + Send + Sync + 'static {
    held(what, "the one that is there already")
}

/// Somebody else has it.
pub(super) fn held(
    what: impl Into<String>,
    holder: impl Into<String>,
) -> impl Fn() -> Error + Send + Sync + 'static {
    let (what, holder) = (what.into(), holder.into());
    move || Error::Conflict { what: what.clone(), holder: holder.clone() }
}

#[cfg(test)]
pub(in crate::store) mod tests {
    use crate::{
        Error,
        store::sql::{Append, Batch, Durability, Engine, Statement, values},
    };

    async fn refusal(engine: &impl Engine, sql: &'static str) -> Error {
        let one = Statement::new(sql, values![1_i64]);
        let alone = Batch::new(Durability::Power).step(one.clone());
        let first = engine.write(alone).await.unwrap_err();
        // The same as a part of more.
        let read = Statement::new("SELECT 1", vec![]);
        let more = Batch::new(Durability::Power).step(read).step(one);
        let second = engine.write(more).await.unwrap_err();
        assert_eq!((first.code(), first.chain()), (second.code(), second.chain()));
        assert!(!first.is_transient(), "{first:?}");
        first
    }

    /// What can never be stored is not called unavailable: whoever tries again does so for ever.
    pub(in crate::store) async fn what_cannot_be_stored_is_not_transient(engine: &impl Engine) {
        let member = "INSERT INTO members (name, vars, added_at) VALUES ('a', '', ?1)";
        engine
            .write(Batch::new(Durability::Power).step(Statement::new(member, values![1_i64])))
            .await
            .unwrap();
        let names =
            |err: &Error, word: &str| assert!(err.chain().contains(word), "{}", err.chain());

        let twice = refusal(engine, member).await;
        assert!(matches!(twice, Error::Conflict { .. }), "{twice:?}");
        names(&twice, "members");
        let child = "INSERT INTO grant_instances (grant_id, instance) VALUES (?1, 'x')";
        let orphan = refusal(engine, child).await;
        assert!(matches!(orphan, Error::NotFound { .. }), "{orphan:?}");
        for (sql, word) in [
            (
                "INSERT INTO instances (name, desired, restarts, updated_at) VALUES ('x', 'sideways', 0, ?1)",
                "desired",
            ),
            ("INSERT INTO members (name, vars, added_at) VALUES ('b', NULL, ?1)", "members"),
            (
                "INSERT INTO members (name, vars, added_at) VALUES ('c', '', 9223372036854775807 + ?1)",
                "the store",
            ),
        ] {
            let err = refusal(engine, sql).await;
            assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
            names(&err, word);
        }
        let columns = &["at", "kind", "from_state", "reason"];
        let rows = vec![values![1_i64, "k", "half", "r"]];
        let err = engine.append(Append { table: "events", columns, rows }).await.unwrap_err();
        assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn what_sqlite_cannot_store_is_not_transient() {
        let store = crate::store::sqlite::SqliteStore::in_memory().unwrap();
        what_cannot_be_stored_is_not_transient(&store).await;
    }
}
