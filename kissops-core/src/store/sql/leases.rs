//! Statements of [`LeaseStore`], and the guard of other concepts' writes.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, refuse::held, values,
};
use crate::{
    Error, Result, Timestamp,
    store::{Fence, FencingToken, HolderId, Lease, LeaseName, LeaseRecord, LeaseStore},
};

/// No lease is that long; the sum of a time and this is still a time.
const LONGEST: Duration = Duration::from_hours(24 * 366);

/// `ttl`, if a lease may last so long.
pub(super) fn checked(ttl: Duration) -> Result<Duration> {
    checked_as("lease.ttl", ttl)
}

/// `ttl`, if a claim of work may last so long.
pub(super) fn checked_claim(ttl: Duration) -> Result<Duration> {
    checked_as("claim.ttl", ttl)
}

fn checked_as(key: &str, ttl: Duration) -> Result<Duration> {
    if ttl.as_micros() == 0 || ttl > LONGEST {
        return Err(Error::invalid(key, "must be from 1 µs to 366 days"));
    }
    Ok(ttl)
}

impl Batch {
    /// Goes on only while no later lease was granted, and none will be before this transaction ends: on Postgres a grant
    /// waits for the lock, and a grant that was first is seen by it.
    pub(super) fn guarded(self, fence: &Fence) -> Self {
        let sql =
            "SELECT 1 FROM leases WHERE name = ?1 AND token = ?2 AND holder IS NOT NULL {share}";
        let guard = Statement::new(sql, values![fence.name.as_str(), fence.token.0]);
        self.must(guard, held(format!("lease `{}`", fence.name), "a later lease, or nobody"))
    }
}

fn granted(row: &mut Row) -> Result<(FencingToken, Timestamp), Damage> {
    Ok((FencingToken(row.get(0)?), row.get(1)?))
}

#[async_trait]
impl<E: Engine> LeaseStore for E {
    async fn acquire_lease(
        &self,
        name: &LeaseName,
        holder: HolderId,
        ttl: Duration,
    ) -> Result<Lease> {
        // The floor is read under a lock, so that a lease that is removed meanwhile does not begin anew below its last
        // token.
        let sql = "INSERT INTO leases (name, holder, token, valid_until)
            SELECT ?1, ?2, token + 1, {now} + ?3 FROM lease_floor WHERE only_row = 1 {share}
            ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = leases.token + 1, valid_until = {now} + ?3
            WHERE leases.holder IS NULL OR leases.valid_until <= {now}
            RETURNING token, valid_until";
        let acquire = Statement::new(sql, values![name.as_str(), holder.0, checked(ttl)?]);
        let batch = Batch::new(Durability::Power)
            .must(acquire, held(format!("lease `{name}`"), "a holder whose time is not over"));
        let (token, until) = self.one(batch, granted).await?;
        Ok(Lease { name: name.clone(), holder, token, until })
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<Lease> {
        let sql = "UPDATE leases SET valid_until = {now} + ?4 WHERE name = ?1 AND holder = ?2 AND token = ?3
            RETURNING token, valid_until";
        let values = values![lease.name.as_str(), lease.holder.0, lease.token.0, checked(ttl)?];
        let batch = Batch::new(Durability::Process).must(
            Statement::new(sql, values),
            held(format!("lease `{}`", lease.name), "a later lease, or nobody"),
        );
        let (token, until) = self.one(batch, granted).await?;
        Ok(Lease { token, until, ..lease.clone() })
    }

    async fn release_lease(&self, lease: &Lease) -> Result<()> {
        let sql = "UPDATE leases SET holder = NULL, valid_until = {now} WHERE name = ?1 AND holder = ?2 AND token = ?3";
        let values = values![lease.name.as_str(), lease.holder.0, lease.token.0];
        self.run(Durability::Process, Statement::new(sql, values)).await.map(drop)
    }

    async fn lease(&self, name: &LeaseName) -> Result<Option<LeaseRecord>> {
        let sql = "SELECT name, token, holder, valid_until,
                CASE WHEN holder IS NULL OR valid_until <= now THEN 0 ELSE valid_until - now END
            FROM (SELECT name, token, holder, valid_until, {now} AS now FROM leases WHERE name = ?1) AS seen";
        let found = self.fetch(Statement::new(sql, values![name.as_str()]), |row| {
            Ok(LeaseRecord {
                name: LeaseName::new(row.get::<String>(0)?),
                token: FencingToken(row.get(1)?),
                holder: row.get::<Option<i64>>(2)?.map(HolderId),
                until: row.get(3)?,
                remaining: row.get(4)?,
            })
        });
        Ok(found.await?.pop())
    }

    async fn prune_leases(&self, idle: Duration, limit: u32) -> Result<u64> {
        // Whoever acquires holds a share of the floor: none does between here and the commit.
        let lock = "SELECT token FROM lease_floor {update}";
        let raise = "UPDATE lease_floor SET token = (SELECT max(token) FROM leases)
            WHERE token < (SELECT coalesce(max(token), 0) FROM leases)";
        let remove = "DELETE FROM leases WHERE valid_until <= {now} - ?1 AND name IN
            (SELECT name FROM leases WHERE valid_until <= {now} - ?1 ORDER BY valid_until, name LIMIT ?2)";
        let idle = idle.min(LONGEST);
        let batch = Batch::new(Durability::Power)
            .step(Statement::new(lock, vec![]))
            .step(Statement::new(raise, vec![]))
            .step(Statement::new(remove, values![idle, limit]));
        Ok(self.write(batch).await?.pop().unwrap_or_default().changed)
    }
}
