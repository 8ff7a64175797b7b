//! Statements of [`UserStore`].

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value,
    refuse::{changed, missing, taken},
    values,
};
use crate::{
    Result, Timestamp,
    store::{NewUser, PasswordHash, Role, UserChange, UserId, UserRecord, UserStore},
};

const COLUMNS: &str =
    "id, name, role, password, disabled_at, session_epoch, created_at, updated_at, last_login_at";

pub(super) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Operator => "operator",
        Role::Viewer => "viewer",
    }
}

pub(super) fn role_of(word: &str) -> Option<Role> {
    [Role::Admin, Role::Operator, Role::Viewer].into_iter().find(|role| role_word(*role) == word)
}

fn user(row: &mut Row) -> Result<UserRecord, Damage> {
    let role: String = row.get(2)?;
    Ok(UserRecord {
        user: NewUser {
            id: UserId(row.get(0)?),
            name: row.get(1)?,
            role: role_of(&role).ok_or_else(|| Damage::new(2, format!("`{role}` is no role")))?,
            password: row.get::<Option<String>>(3)?.map(PasswordHash),
            created_at: row.get(6)?,
        },
        disabled_at: row.get(4)?,
        session_epoch: row.get(5)?,
        updated_at: row.get(7)?,
        last_login_at: row.get(8)?,
    })
}

#[async_trait]
impl<E: Engine> UserStore for E {
    async fn add_user(&self, user: NewUser) -> Result<()> {
        let sql =
            "INSERT INTO users (id, name, role, password, session_epoch, created_at, updated_at)
            VALUES (?1, ?2, ?3, ?4, 0, ?5, ?5) ON CONFLICT DO NOTHING";
        let what = format!("user `{}`", user.name);
        let password = user.password.map(|hash| hash.0);
        let values = values![user.id.0, user.name, role_word(user.role), password, user.created_at];
        let batch = Batch::new(Durability::Power).must(Statement::new(sql, values), taken(what));
        self.write(batch).await.map(drop)
    }

    async fn users(&self) -> Result<Vec<UserRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM users ORDER BY name");
        self.fetch(Statement::new(sql, vec![]), user).await
    }

    async fn user(&self, name: &str) -> Result<Option<UserRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM users WHERE name = ?1");
        Ok(self.fetch(Statement::new(sql, values![name]), user).await?.pop())
    }

    async fn change_user(
        &self,
        name: &str,
        change: UserChange,
        at: Timestamp,
    ) -> Result<UserRecord> {
        let (assignment, value): (_, Option<Value>) = match change {
            UserChange::Role(role) => ("role = ?3,", Some(role_word(role).into())),
            UserChange::Password(hash) => ("password = ?3,", Some(hash.map(|hash| hash.0).into())),
            UserChange::Disable => ("disabled_at = coalesce(disabled_at, ?2),", None),
            UserChange::Enable => ("disabled_at = NULL,", None),
            UserChange::EndSessions => ("", None),
        };
        let sql = format!(
            "UPDATE users SET {assignment} session_epoch = session_epoch + 1, updated_at = ?2 WHERE name = ?1 RETURNING {COLUMNS}"
        );
        let mut values = values![name, at];
        values.extend(value);
        let batch = Batch::new(Durability::Power)
            .must(Statement::new(sql, values), missing(format!("user `{name}`")));
        self.one(batch, user).await
    }

    async fn rehash_password(
        &self,
        id: UserId,
        old: &PasswordHash,
        new: PasswordHash,
        at: Timestamp,
    ) -> Result<()> {
        let sql = "UPDATE users SET password = ?3, updated_at = ?4 WHERE id = ?1 AND password = ?2";
        let values = values![id.0, old.0.as_str(), new.0, at];
        let batch = Batch::new(Durability::Power)
            .must(Statement::new(sql, values), changed(format!("the password of user {}", id.0)));
        self.write(batch).await.map(drop)
    }

    async fn note_login(&self, id: UserId, at: Timestamp) -> Result<()> {
        let sql = "UPDATE users SET last_login_at = ?2
            WHERE id = ?1 AND (last_login_at IS NULL OR last_login_at < ?2)";
        self.run(Durability::Process, Statement::new(sql, values![id.0, at])).await.map(drop)
    }

    async fn remove_user(&self, name: &str) -> Result<()> {
        let remove = Statement::new("DELETE FROM users WHERE name = ?1", values![name]);
        let batch = Batch::new(Durability::Power).must(remove, missing(format!("user `{name}`")));
        self.write(batch).await.map(drop)
    }
}
