//! Statements of [`SecretStore`].

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement,
    refuse::{changed, missing, taken},
    values,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        DataKeyId, Fingerprint, NewSecret, Sealed, SealedBy, SecretId, SecretRecord, SecretSource,
        SecretStore, SecretValue,
    },
};

const COLUMNS: &str = "id, name, kind, version, data_key, sealed, fingerprint, source, created_at, rotated_at, max_age_us";
/// A hundred years; the sum of a time and this is still a time.
const OLDEST: Duration = Duration::from_hours(24 * 36_525);

fn source_word(source: SecretSource) -> &'static str {
    match source {
        SecretSource::Given => "given",
        SecretSource::Generated => "generated",
    }
}

fn checked(max_age: Option<Duration>) -> Result<Option<Duration>> {
    match max_age {
        Some(age) if age > OLDEST => {
            Err(Error::invalid("secret.max_age", "must be at most 100 years"))
        }
        age => Ok(age),
    }
}

fn secret(row: &mut Row) -> Result<SecretRecord, Damage> {
    let source = match &*row.get::<String>(7)? {
        "given" => SecretSource::Given,
        "generated" => SecretSource::Generated,
        other => return Err(Damage::new(7, format!("`{other}` is no source of a secret"))),
    };
    let key = DataKeyId(row.get(4)?);
    Ok(SecretRecord {
        secret: NewSecret {
            id: SecretId(row.get(0)?),
            name: row.get(1)?,
            kind: row.get(2)?,
            value: SecretValue {
                sealed: SealedBy { key, sealed: Sealed(row.get(5)?) },
                fingerprint: Fingerprint(row.get(6)?),
                source,
                at: row.get(9)?,
            },
            max_age: row.get(10)?,
        },
        version: row.get(3)?,
        created_at: row.get(8)?,
    })
}

fn of_version(id: SecretId, version: u64) -> String {
    format!("version {version} of secret {}", id.0)
}

#[async_trait]
impl<E: Engine> SecretStore for E {
    async fn add_secret(&self, secret: NewSecret) -> Result<()> {
        let sql = "INSERT INTO secrets (id, name, kind, version, data_key, sealed, fingerprint, source, created_at, rotated_at, max_age_us, due_at)
            VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?8 + ?9) ON CONFLICT DO NOTHING";
        let (what, value) = (format!("secret `{}`", secret.name), secret.value);
        let values = values![
            secret.id.0,
            secret.name,
            secret.kind,
            value.sealed.key.0,
            value.sealed.sealed.0,
            value.fingerprint.0,
            source_word(value.source),
            value.at,
            checked(secret.max_age)?
        ];
        let batch = Batch::new(Durability::Power)
            .with_key(value.sealed.key)
            .must(Statement::new(sql, values), taken(what));
        self.write(batch).await.map(drop)
    }

    async fn secret(&self, name: &str) -> Result<Option<SecretRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM secrets WHERE name = ?1");
        Ok(self.fetch(Statement::new(sql, values![name]), secret).await?.pop())
    }

    async fn secrets(&self, after: Option<&str>, limit: u32) -> Result<Vec<SecretRecord>> {
        let (condition, values) = match after {
            Some(after) => ("WHERE name > ?2", values![limit, after]),
            None => ("", values![limit]),
        };
        let sql = format!("SELECT {COLUMNS} FROM secrets {condition} ORDER BY name LIMIT ?1");
        self.fetch(Statement::new(sql, values), secret).await
    }

    async fn rotate_secret(&self, id: SecretId, from: u64, value: SecretValue) -> Result<()> {
        let sql = "UPDATE secrets SET version = version + 1, data_key = ?3, sealed = ?4, fingerprint = ?5, source = ?6,
            rotated_at = ?7, due_at = ?7 + max_age_us WHERE id = ?1 AND version = ?2";
        let key = value.sealed.key;
        let values = values![
            id.0,
            from,
            key.0,
            value.sealed.sealed.0,
            value.fingerprint.0,
            source_word(value.source),
            value.at
        ];
        let batch = Batch::new(Durability::Power)
            .with_key(key)
            .must(Statement::new(sql, values), changed(of_version(id, from)));
        self.write(batch).await.map(drop)
    }

    async fn set_secret_age(&self, name: &str, max_age: Option<Duration>) -> Result<()> {
        let sql = "UPDATE secrets SET max_age_us = ?2, due_at = rotated_at + ?2 WHERE name = ?1";
        let batch = Batch::new(Durability::Power).must(
            Statement::new(sql, values![name, checked(max_age)?]),
            missing(format!("secret `{name}`")),
        );
        self.write(batch).await.map(drop)
    }

    async fn due_secrets(&self, by: Timestamp, limit: u32) -> Result<Vec<SecretRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM secrets WHERE due_at <= ?1 ORDER BY due_at, name LIMIT ?2"
        );
        self.fetch(Statement::new(sql, values![by, limit]), secret).await
    }

    async fn secrets_alike(&self, fingerprint: &Fingerprint) -> Result<Vec<String>> {
        let sql = "SELECT name FROM secrets WHERE fingerprint = ?1 ORDER BY name";
        self.fetch(Statement::new(sql, values![&*fingerprint.0]), |row| row.get(0)).await
    }

    async fn secrets_sealed_by(
        &self,
        key: DataKeyId,
        after: Option<SecretId>,
        limit: u32,
    ) -> Result<Vec<SecretRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM secrets WHERE data_key = ?1 AND id > ?2 ORDER BY id LIMIT ?3"
        );
        let after = after.map_or(i64::MIN, |id| id.0);
        self.fetch(Statement::new(sql, values![key.0, after, limit]), secret).await
    }

    async fn reseal_secret(
        &self,
        id: SecretId,
        version: u64,
        from: DataKeyId,
        to: SealedBy,
    ) -> Result<()> {
        let sql = "UPDATE secrets SET data_key = ?4, sealed = ?5 WHERE id = ?1 AND version = ?2 AND data_key = ?3";
        let values = values![id.0, version, from.0, to.key.0, to.sealed.0];
        let batch = Batch::new(Durability::Power)
            .with_key(to.key)
            .must(Statement::new(sql, values), changed(of_version(id, version)));
        self.write(batch).await.map(drop)
    }

    async fn remove_secret(&self, name: &str) -> Result<()> {
        let remove = Statement::new("DELETE FROM secrets WHERE name = ?1", values![name]);
        let batch = Batch::new(Durability::Power).must(remove, missing(format!("secret `{name}`")));
        self.write(batch).await.map(drop)
    }
}
