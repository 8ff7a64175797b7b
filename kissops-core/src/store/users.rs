//! People who may log in.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Result, Timestamp};

/// What somebody may do, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, secrets and people included.
    Admin,
    /// Whatever keeps bots running.
    Operator,
    /// Looking.
    Viewer,
}

/// A user's number, made by an [`IdMaker`](crate::id::IdMaker). Somebody who gets a former user's name has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub i64);

/// A password's hash as text that names its own method and salt, as argon2 and bcrypt write it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Somebody to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// Their number.
    pub id: UserId,
    /// The name they log in with.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// `None`: cannot log in by password.
    pub password: Option<PasswordHash>,
    /// When they were admitted.
    pub created_at: Timestamp,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// Who, as admitted; role and password as they are now.
    pub user: NewUser,
    /// Since when they may not log in.
    pub disabled_at: Option<Timestamp>,
    /// Sessions that began under a smaller number are over.
    pub session_epoch: u64,
    /// When this record was last changed, but for logins.
    pub updated_at: Timestamp,
    /// When they last logged in.
    pub last_login_at: Option<Timestamp>,
}

/// What can be changed of a user. Each of these ends the user's sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserChange {
    /// Gives another role.
    Role(Role),
    /// Gives another password, or none.
    Password(Option<PasswordHash>),
    /// Bars them from logging in. The first time stays.
    Disable,
    /// Lets them log in again.
    Enable,
    /// Nothing else: revokes what sessions there are.
    EndSessions,
}

/// Users.
#[async_trait]
pub trait UserStore: fmt::Debug + Send + Sync + 'static {
    /// Admits somebody.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if there is one of that name or number; they stay as they are.
    async fn add_user(&self, user: NewUser) -> Result<()>;

    /// All users, by name.
    async fn users(&self) -> Result<Vec<UserRecord>>;

    /// The user of that name.
    async fn user(&self, name: &str) -> Result<Option<UserRecord>>;

    /// Changes a user and ends their sessions, in one step. Answers with what they are now.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is none of that name.
    async fn change_user(
        &self,
        name: &str,
        change: UserChange,
        at: Timestamp,
    ) -> Result<UserRecord>;

    /// Puts a better hash of the same password in the place of `old`. Sessions go on.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if the password is no longer `old`, or the user is gone.
    async fn rehash_password(
        &self,
        id: UserId,
        old: &PasswordHash,
        new: PasswordHash,
        at: Timestamp,
    ) -> Result<()>;

    /// Notes a login. The latest time stays; a user who is gone is no error.
    async fn note_login(&self, id: UserId, at: Timestamp) -> Result<()>;

    /// Removes a user.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is none of that name.
    async fn remove_user(&self, name: &str) -> Result<()>;
}
