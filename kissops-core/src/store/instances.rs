//! Desired states and counters of instances.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Result, Timestamp, id::InstanceName};

/// What the operator wants of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Keep it running, also after a restart of the daemon.
    Running,
    /// Leave it stopped, also after a restart of the daemon.
    Stopped,
}

/// What is kept of an instance between lives of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceRecord {
    /// Its name.
    pub name: InstanceName,
    /// What the operator wants.
    pub desired: Desired,
    /// How often it was restarted since it was first seen or reset.
    pub restarts: u64,
    /// Why it was given up (start limit), until an operator resets it.
    pub failed: Option<String>,
    /// When this record was last changed.
    pub updated_at: Timestamp,
}

/// Desired states and counters of instances.
#[async_trait]
pub trait InstanceStore: fmt::Debug + Send + Sync + 'static {
    /// All records, by name.
    async fn instances(&self) -> Result<Vec<InstanceRecord>>;
    /// Writes the record of `record.name`, in place of one that was there.
    async fn put_instance(&self, record: InstanceRecord) -> Result<()>;
    /// Forgets an instance. Nothing happens where there is none.
    async fn remove_instance(&self, name: &InstanceName) -> Result<()>;
}
