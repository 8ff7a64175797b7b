//! Hosts of a cluster. Each renews one row; who is to be fenced is decided by watching it, never by clocks alone.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;

use crate::{Result, Timestamp};

/// A host's number, made by an [`IdMaker`](crate::id::IdMaker) when it joins; it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub i64);

/// One life of the program on a host, made anew at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostSession(pub i64);

/// How a host is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostState {
    /// It takes no instances yet.
    Joining,
    /// It takes instances.
    Ready,
    /// It takes no more and gives away those it has.
    Draining,
    /// It has none left.
    Drained,
    /// It was found dead. It has to register again.
    Fenced,
}

/// A host that wants to take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHost {
    /// Its number.
    pub id: HostId,
    /// Its name, one of a kind.
    pub name: String,
    /// How many instances it can take.
    pub capacity: u32,
    /// What instances may ask for.
    pub labels: BTreeMap<String, String>,
    /// Program and version.
    pub program: String,
    /// When it asked.
    pub joined_at: Timestamp,
}

/// A host's own view of its row: what its next renewal has to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLease {
    /// Which host.
    pub host: HostId,
    /// Which life of it.
    pub session: HostSession,
    /// Grows with every registration and every fencing.
    pub epoch: u64,
    /// Grows with every renewal. A copy of this host, such as a restored machine, loses the race for the next one.
    pub seq: u64,
}

/// A host as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRecord {
    /// The host.
    pub host: NewHost,
    /// The life that holds the row; none once it was fenced.
    pub session: Option<HostSession>,
    /// How it is doing.
    pub state: HostState,
    /// Grows with every registration and every fencing.
    pub epoch: u64,
    /// Grows with every renewal.
    pub seq: u64,
    /// When it runs out unless renewed, by the database's clock.
    pub expires_at: Timestamp,
}

/// Hosts.
#[async_trait]
pub trait HostStore: fmt::Debug + Send + Sync + 'static {
    /// Takes the host's row for `session`, for `ttl`, in state [`HostState::Joining`]. `former` is the host's own last
    /// session, if it can prove that this is over: by the lock of its state folder.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) while another session lasts, or if another host has the name.
    async fn register_host(
        &self,
        host: NewHost,
        session: HostSession,
        former: Option<HostSession>,
        ttl: Duration,
    ) -> Result<HostLease>;

    /// Renews for `ttl`. A host that was not fenced may renew late. `nonce` is new for each renewal, and the same where one
    /// is tried again because its answer was lost: that one is recognized.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if the row is not as `lease` says any more: stop everything.
    async fn renew_host(&self, lease: HostLease, nonce: i64, ttl: Duration) -> Result<HostLease>;

    /// Says how the host is doing.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if the row is another session's by now.
    /// - [`InvalidConfig`](crate::Error::InvalidConfig) for [`HostState::Fenced`]: no host does that to itself.
    async fn set_host_state(&self, lease: HostLease, state: HostState) -> Result<()>;

    /// All hosts, by name.
    async fn hosts(&self) -> Result<Vec<HostRecord>>;

    /// Fences a host that the caller saw at `epoch` and `seq` for a whole term of its lease, by the caller's own clock, and
    /// that has run out by the database's clock too. Its instances become free, but for sticky ones.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if it has moved, or its time is not over.
    /// - [`WrongState`](crate::Error::WrongState) while fencing is on hold after a failover or a restore.
    async fn fence_host(&self, host: HostId, epoch: u64, seq: u64) -> Result<()>;
}
