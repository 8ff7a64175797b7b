//! Statements of [`MemberStore`].

use async_trait::async_trait;

use super::{Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, document, values};
use crate::{
    Error, Result,
    id::InstanceName,
    store::{MemberRecord, MemberStore},
};

fn member(row: &mut Row) -> Result<MemberRecord, Damage> {
    Ok(MemberRecord { name: row.get(0)?, vars: document(row, 1)?, added_at: row.get(2)? })
}

#[async_trait]
impl<E: Engine> MemberStore for E {
    async fn members(&self) -> Result<Vec<MemberRecord>> {
        let sql = "SELECT name, vars, added_at FROM members ORDER BY name";
        self.fetch(Statement::new(sql, vec![]), member).await
    }

    async fn add_member(&self, member: MemberRecord) -> Result<()> {
        // A map of texts always serializes.
        let vars = serde_json::to_string(&member.vars).unwrap_or_default();
        let sql = "INSERT INTO members (name, vars, added_at) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING";
        let add = Statement::new(sql, values![&member.name, vars, member.added_at]);
        let batch = Batch::new(Durability::Power).must(add, move || Error::Conflict {
            what: format!("member `{}`", member.name),
            holder: "the member that is there already".into(),
        });
        self.write(batch).await.map(drop)
    }

    async fn remove_member(&self, name: &InstanceName) -> Result<()> {
        let sql = "DELETE FROM members WHERE name = ?1";
        let (remove, name) = (Statement::new(sql, values![name]), name.clone());
        let batch = Batch::new(Durability::Power)
            .must(remove, move || Error::NotFound { what: format!("member `{name}`") });
        self.write(batch).await.map(drop)
    }
}
