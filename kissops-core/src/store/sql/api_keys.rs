//! Statements of [`ApiKeyStore`].

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement,
    refuse::{missing, taken},
    users::{role_of, role_word},
    values,
};
use crate::{
    Result, Timestamp,
    store::{
        API_KEY_USE_RESOLUTION, Access, ApiKeyId, ApiKeyRecord, ApiKeyStore, KeyHash, NewApiKey,
    },
};

const COLUMNS: &str = "id, name, prefix, hash, role, instance, created_by, created_at, expires_at, last_used_at, revoked_at";

fn api_key(row: &mut Row) -> Result<ApiKeyRecord, Damage> {
    let role: String = row.get(4)?;
    let access = match &*role {
        "bot" => Access::Bot(row.get(5)?),
        word => Access::Role(
            role_of(word).ok_or_else(|| Damage::new(4, format!("`{word}` is no role")))?,
        ),
    };
    Ok(ApiKeyRecord {
        key: NewApiKey {
            id: ApiKeyId(row.get(0)?),
            name: row.get(1)?,
            prefix: row.get(2)?,
            hash: KeyHash(row.get(3)?),
            access,
            created_by: row.get(6)?,
            created_at: row.get(7)?,
            expires_at: row.get(8)?,
        },
        last_used_at: row.get(9)?,
        revoked_at: row.get(10)?,
    })
}

#[async_trait]
impl<E: Engine> ApiKeyStore for E {
    async fn add_api_key(&self, key: NewApiKey) -> Result<()> {
        let sql = "INSERT INTO api_keys (id, name, prefix, hash, role, instance, created_by, created_at, expires_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";
        let what = format!("the name or prefix of API key `{}`", key.name);
        let (role, instance) = match key.access {
            Access::Role(role) => (role_word(role), None),
            Access::Bot(instance) => ("bot", Some(instance)),
        };
        let values = values![
            key.id.0,
            key.name,
            key.prefix,
            key.hash.0,
            role,
            instance,
            key.created_by,
            key.created_at,
            key.expires_at
        ];
        let batch = Batch::new(Durability::Power).must(Statement::new(sql, values), taken(what));
        self.write(batch).await.map(drop)
    }

    async fn api_keys(&self) -> Result<Vec<ApiKeyRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM api_keys ORDER BY name, id");
        self.fetch(Statement::new(sql, vec![]), api_key).await
    }

    async fn api_key(&self, prefix: &str) -> Result<Option<ApiKeyRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE prefix = ?1");
        Ok(self.fetch(Statement::new(sql, values![prefix]), api_key).await?.pop())
    }

    async fn note_api_key_use(&self, id: ApiKeyId, at: Timestamp) -> Result<()> {
        let sql = "UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at <= ?3)";
        let values = values![id.0, at, at.minus(API_KEY_USE_RESOLUTION)];
        self.run(Durability::Process, Statement::new(sql, values)).await.map(drop)
    }

    async fn revoke_api_key(&self, name: &str, at: Timestamp) -> Result<()> {
        let sql = "UPDATE api_keys SET revoked_at = ?2 WHERE name = ?1 AND revoked_at IS NULL";
        let batch = Batch::new(Durability::Power)
            .must(Statement::new(sql, values![name, at]), missing(format!("API key `{name}`")));
        self.write(batch).await.map(drop)
    }

    async fn prune_api_keys(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM api_keys WHERE id IN
            (SELECT id FROM api_keys WHERE revoked_at < ?1 OR expires_at < ?1 ORDER BY id LIMIT ?2)";
        let prune = Statement::new(sql, values![before, limit]);
        Ok(self.run(Durability::Process, prune).await?.changed)
    }
}
