//! Leases with fencing tokens: who may do what only one may do, and how the others' late writes are refused.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::{Result, Timestamp};

/// What a lease is for: `vault/17`, `job/backup.nightly`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName(String);

impl LeaseName {
    /// Any text; by convention a kind, a slash, a name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Who holds a lease: one life of one program, made anew by an [`IdMaker`](crate::id::IdMaker) at each start. So a
/// restarted program is never taken for the one that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(pub i64);

/// A number that grows with every grant of a lease. A write that carries an older one comes too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub i64);

/// What a guarded write shows: it takes effect only while no later lease of that name was granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Of which lease.
    pub name: LeaseName,
    /// Its token.
    pub token: FencingToken,
}

/// A lease as its holder sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: LeaseName,
    /// Who holds it.
    pub holder: HolderId,
    /// Larger than any that was granted for `name` before.
    pub token: FencingToken,
    /// When it runs out, by the database's clock. A holder measures its own deadline from before it asked: its clock
    /// need not agree with this one.
    pub until: Timestamp,
}

impl Lease {
    /// What guarded writes show.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence { name: self.name.clone(), token: self.token }
    }
}

/// A lease as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// What it is for.
    pub name: LeaseName,
    /// The latest token that was granted.
    pub token: FencingToken,
    /// Who holds it, unless it was released. It may have run out.
    pub holder: Option<HolderId>,
    /// When it runs out, or was released, by the database's clock.
    pub until: Timestamp,
    /// For how long it is still held, by the database's clock; zero when it is free.
    pub remaining: Duration,
}

/// Leases. Here, and nowhere else in a store, the database's own clock decides.
#[async_trait]
pub trait LeaseStore: fmt::Debug + Send + Sync + 'static {
    /// Grants `name` to `holder` for `ttl`.
    ///
    /// The token is larger than any granted for `name` before: releases, restarts and removals included.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) while a lease lasts, the same holder's included: that may be another task of
    /// its own.
    ///
    /// # Cancel safety
    /// A dropped call may still have granted the lease; it runs out after `ttl`.
    async fn acquire_lease(
        &self,
        name: &LeaseName,
        holder: HolderId,
        ttl: Duration,
    ) -> Result<Lease>;

    /// Lets the lease last for `ttl` from now. One that ran out is renewed as long as nobody else has got it.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if it was granted again, or released: stop what it stands for.
    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<Lease>;

    /// Gives the lease back. Nothing happens where it is another's by now.
    async fn release_lease(&self, lease: &Lease) -> Result<()>;

    /// The lease of that name; `None` where there never was one, or it was removed.
    async fn lease(&self, name: &LeaseName) -> Result<Option<LeaseRecord>>;

    /// Removes at most `limit` leases that nobody has held for `idle`; says how many.
    async fn prune_leases(&self, idle: Duration, limit: u32) -> Result<u64>;
}
