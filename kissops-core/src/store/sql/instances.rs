//! Statements of [`InstanceStore`].

use async_trait::async_trait;

use super::{Damage, Durability, Engine, EngineExt as _, Row, Statement, values};
use crate::{
    Result,
    id::InstanceName,
    store::{Desired, InstanceRecord, InstanceStore},
};

fn instance(row: &mut Row) -> Result<InstanceRecord, Damage> {
    Ok(InstanceRecord {
        name: row.get(0)?,
        desired: match &*row.get::<String>(1)? {
            "running" => Desired::Running,
            "stopped" => Desired::Stopped,
            other => return Err(Damage::new(1, format!("`{other}` is no desired state"))),
        },
        restarts: row.get(2)?,
        failed: row.get(3)?,
        updated_at: row.get(4)?,
    })
}

#[async_trait]
impl<E: Engine> InstanceStore for E {
    async fn instances(&self) -> Result<Vec<InstanceRecord>> {
        let sql = "SELECT name, desired, restarts, failed, updated_at FROM instances ORDER BY name";
        self.fetch(Statement::new(sql, vec![]), instance).await
    }

    async fn put_instance(&self, record: InstanceRecord) -> Result<()> {
        let sql = "INSERT INTO instances (name, desired, restarts, failed, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (name) DO UPDATE SET desired = excluded.desired, restarts = excluded.restarts, failed = excluded.failed, updated_at = excluded.updated_at";
        let desired = match record.desired {
            Desired::Running => "running",
            Desired::Stopped => "stopped",
        };
        let values =
            values![record.name, desired, record.restarts, record.failed, record.updated_at];
        self.run(Durability::Power, Statement::new(sql, values)).await.map(drop)
    }

    async fn remove_instance(&self, name: &InstanceName) -> Result<()> {
        let sql = "DELETE FROM instances WHERE name = ?1";
        self.run(Durability::Power, Statement::new(sql, values![name])).await.map(drop)
    }
}
