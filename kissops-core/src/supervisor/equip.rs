//! [`Equip`]: what an instance gets at its start beside what its definition says.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use async_trait::async_trait;

use super::Definition;
use crate::Result;

/// Gives instances what they need from elsewhere, at each start. Held as `Arc<dyn Equip>`.
#[async_trait]
pub trait Equip: fmt::Debug + Send + Sync + 'static {
    /// Why an instance is not to be started, for people: one of its grants needs a new authorization. It waits in
    /// `needs_reauth` then, for [`Supervisor::release_reauth`](super::Supervisor::release_reauth). Asked before its hooks.
    async fn obstacle(&self, definition: &Definition) -> Option<String>;

    /// Variables for its environment. `user` is whom it runs as, where its definition says so.
    ///
    /// # Errors
    /// Any: it counts as a failed start.
    ///
    /// # Cancel safety
    /// May be dropped, and may be called again for the same instance.
    async fn equip(
        &self,
        definition: &Definition,
        user: Option<u32>,
    ) -> Result<BTreeMap<OsString, OsString>>;
}
