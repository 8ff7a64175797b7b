//! Statements of [`DataKeyStore`].

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement,
    refuse::{changed, missing, taken},
    values,
};
use crate::{
    Error, Result, Timestamp,
    store::{DataKeyId, DataKeyRecord, DataKeyStore, KekId, NewDataKey, Sealed},
};

impl Batch {
    /// Goes on only if there is such a key, which stays until this transaction ends.
    pub(super) fn with_key(self, key: DataKeyId) -> Self {
        let sql = "SELECT 1 FROM data_keys WHERE id = ?1 {share}";
        self.must(Statement::new(sql, values![key.0]), missing(named(key)))
    }

    /// The same for who changes the key itself: two that both shared it first would wait for each other.
    fn with_key_to_change(self, key: DataKeyId) -> Self {
        let sql = "SELECT 1 FROM data_keys WHERE id = ?1 {update}";
        self.must(Statement::new(sql, values![key.0]), missing(named(key)))
    }
}

fn named(key: DataKeyId) -> String {
    key.name()
}

fn wrong_state(key: DataKeyId, state: &str, help: &str) -> impl Fn() -> Error + Send + Sync {
    let (what, state, help) = (named(key), state.to_owned(), help.to_owned());
    move || Error::WrongState { what: what.clone(), state: state.clone(), help: help.clone() }
}

fn data_key(row: &mut Row) -> Result<DataKeyRecord, Damage> {
    Ok(DataKeyRecord {
        key: NewDataKey {
            id: DataKeyId(row.get(0)?),
            kek: KekId(row.get(1)?),
            wrapped: Sealed(row.get(2)?),
            created_at: row.get(4)?,
        },
        seals: row.get(3)?,
        retired_at: row.get(5)?,
    })
}

#[async_trait]
impl<E: Engine> DataKeyStore for E {
    async fn add_data_key(&self, key: NewDataKey) -> Result<()> {
        let sql = "INSERT INTO data_keys (id, kek, wrapped, seals, created_at) VALUES (?1, ?2, ?3, 0, ?4) ON CONFLICT DO NOTHING";
        let what = named(key.id);
        let values = values![key.id.0, key.kek.0, key.wrapped.0, key.created_at];
        let batch = Batch::new(Durability::Power).must(Statement::new(sql, values), taken(what));
        self.write(batch).await.map(drop)
    }

    async fn data_keys(&self) -> Result<Vec<DataKeyRecord>> {
        let sql =
            "SELECT id, kek, wrapped, seals, created_at, retired_at FROM data_keys ORDER BY id";
        self.fetch(Statement::new(sql, vec![]), data_key).await
    }

    async fn rewrap_data_key(
        &self,
        id: DataKeyId,
        from: &KekId,
        to: KekId,
        wrapped: Sealed,
    ) -> Result<()> {
        let sql = "UPDATE data_keys SET kek = ?3, wrapped = ?4 WHERE id = ?1 AND kek = ?2";
        let values = values![id.0, from.0.as_str(), to.0, wrapped.0];
        let batch = Batch::new(Durability::Power)
            .with_key_to_change(id)
            .must(Statement::new(sql, values), changed(named(id)));
        self.write(batch).await.map(drop)
    }

    async fn reserve_seals(&self, id: DataKeyId, count: u32) -> Result<u64> {
        let sql = "UPDATE data_keys SET seals = seals + ?2 WHERE id = ?1 AND retired_at IS NULL RETURNING seals";
        let retired = wrong_state(id, "retired", "seal with a newer key");
        let batch = Batch::new(Durability::Power)
            .with_key_to_change(id)
            .must(Statement::new(sql, values![id.0, count]), retired);
        self.one(batch, |row| row.get(0)).await
    }

    async fn retire_data_key(&self, id: DataKeyId, at: Timestamp) -> Result<()> {
        let sql = "UPDATE data_keys SET retired_at = coalesce(retired_at, ?2) WHERE id = ?1";
        let batch = Batch::new(Durability::Power)
            .must(Statement::new(sql, values![id.0, at]), missing(named(id)));
        self.write(batch).await.map(drop)
    }

    async fn remove_data_key(&self, id: DataKeyId) -> Result<()> {
        let sql = "DELETE FROM data_keys WHERE id = ?1 AND retired_at IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM sealed_tokens WHERE data_key = ?1)
            AND NOT EXISTS (SELECT 1 FROM refresh_landings WHERE data_key = ?1)
            AND NOT EXISTS (SELECT 1 FROM secrets WHERE data_key = ?1)";
        let in_use =
            wrong_state(id, "in use", "retire it and seal what it sealed with a newer key");
        let batch = Batch::new(Durability::Power)
            .with_key_to_change(id)
            .must(Statement::new(sql, values![id.0]), in_use);
        self.write(batch).await.map(drop)
    }
}
