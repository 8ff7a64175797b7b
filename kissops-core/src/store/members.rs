//! Members that were added to templates at run time.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;

use crate::{Result, Timestamp, id::InstanceName};

/// A member that was added to a template at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its full name, `template@member`.
    pub name: InstanceName,
    /// What `{vars.x}` stands for in the template.
    pub vars: BTreeMap<String, String>,
    /// When it was added.
    pub added_at: Timestamp,
}

/// Template members that were added at run time.
#[async_trait]
pub trait MemberStore: fmt::Debug + Send + Sync + 'static {
    /// All members, by name.
    async fn members(&self) -> Result<Vec<MemberRecord>>;
    /// Adds a member.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if there is one of that name; it stays as it is.
    async fn add_member(&self, member: MemberRecord) -> Result<()>;
    /// Removes a member.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is none of that name.
    async fn remove_member(&self, name: &InstanceName) -> Result<()>;
}
