//! Statements of [`HostStore`].

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, document,
    leases::checked,
    refuse::{changed, held},
    values,
};
use crate::{
    Error, Result,
    store::{HostId, HostLease, HostRecord, HostSession, HostState, HostStore, NewHost},
};

const STATES: [HostState; 5] = [
    HostState::Joining,
    HostState::Ready,
    HostState::Draining,
    HostState::Drained,
    HostState::Fenced,
];

fn state_word(state: HostState) -> &'static str {
    match state {
        HostState::Joining => "joining",
        HostState::Ready => "ready",
        HostState::Draining => "draining",
        HostState::Drained => "drained",
        HostState::Fenced => "fenced",
    }
}

fn named(host: HostId) -> String {
    format!("host {}", host.0)
}

fn host(row: &mut Row) -> Result<HostRecord, Damage> {
    let word: String = row.get(7)?;
    let state = STATES.into_iter().find(|state| state_word(*state) == word);
    Ok(HostRecord {
        host: NewHost {
            id: HostId(row.get(0)?),
            name: row.get(1)?,
            capacity: row.get(2)?,
            labels: document(row, 3)?,
            program: row.get(4)?,
            joined_at: row.get(5)?,
        },
        session: row.get::<Option<i64>>(6)?.map(HostSession),
        state: state.ok_or_else(|| Damage::new(7, format!("`{word}` is no state of a host")))?,
        epoch: row.get(8)?,
        seq: row.get(9)?,
        expires_at: row.get(10)?,
    })
}

#[async_trait]
impl<E: Engine> HostStore for E {
    async fn register_host(
        &self,
        host: NewHost,
        session: HostSession,
        former: Option<HostSession>,
        ttl: Duration,
    ) -> Result<HostLease> {
        let free = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM hosts WHERE name = ?1 AND id <> ?2)";
        let take = "INSERT INTO hosts (id, name, session, epoch, seq, nonce, expires_at, state, capacity, labels, program, joined_at)
            VALUES (?1, ?2, ?3, 1, 0, 0, {now} + ?4, 'joining', ?5, ?6, ?7, ?8)
            ON CONFLICT (id) DO UPDATE SET name = excluded.name, session = excluded.session, epoch = hosts.epoch + 1, seq = 0,
                nonce = 0, expires_at = {now} + ?4, state = 'joining', capacity = excluded.capacity, labels = excluded.labels,
                program = excluded.program, joined_at = excluded.joined_at
            WHERE hosts.session IS NULL OR hosts.expires_at <= {now} OR hosts.session = ?9
            RETURNING epoch, seq";
        // A map of texts always serializes.
        let labels = serde_json::to_string(&host.labels).unwrap_or_default();
        let name = format!("the name `{}` of {}", host.name, named(host.id));
        let values = values![
            host.id.0,
            host.name.as_str(),
            session.0,
            checked(ttl)?,
            host.capacity,
            labels,
            host.program,
            host.joined_at,
            former.map(|session| session.0)
        ];
        let batch = Batch::new(Durability::Power)
            .must(
                Statement::new(free, values![host.name.as_str(), host.id.0]),
                held(name, "another host"),
            )
            .must(
                Statement::new(take, values),
                held(named(host.id), "another session whose time is not over"),
            );
        let (epoch, seq) = self.one(batch, |row| Ok((row.get(0)?, row.get(1)?))).await?;
        Ok(HostLease { host: host.id, session, epoch, seq })
    }

    async fn renew_host(&self, lease: HostLease, nonce: i64, ttl: Duration) -> Result<HostLease> {
        // The second half recognizes a renewal that was carried out and whose answer was lost.
        let sql = "UPDATE hosts SET seq = ?5, nonce = ?6, expires_at = {now} + ?7
            WHERE id = ?1 AND session = ?2 AND epoch = ?3 AND (seq = ?4 OR (seq = ?5 AND nonce = ?6)) RETURNING seq";
        let next = lease.seq.wrapping_add(1);
        let values = values![
            lease.host.0,
            lease.session.0,
            lease.epoch,
            lease.seq,
            next,
            nonce,
            checked(ttl)?
        ];
        let batch = Batch::new(Durability::Process)
            .must(Statement::new(sql, values), changed(named(lease.host)));
        self.write(batch).await?;
        Ok(HostLease { seq: next, ..lease })
    }

    async fn set_host_state(&self, lease: HostLease, state: HostState) -> Result<()> {
        if state == HostState::Fenced {
            return Err(Error::invalid("host.state", "must not be `fenced`: others say so"));
        }
        let sql = "UPDATE hosts SET state = ?4 WHERE id = ?1 AND session = ?2 AND epoch = ?3";
        let values = values![lease.host.0, lease.session.0, lease.epoch, state_word(state)];
        let batch = Batch::new(Durability::Power)
            .must(Statement::new(sql, values), changed(named(lease.host)));
        self.write(batch).await.map(drop)
    }

    async fn hosts(&self) -> Result<Vec<HostRecord>> {
        let sql = "SELECT id, name, capacity, labels, program, joined_at, session, state, epoch, seq, expires_at FROM hosts ORDER BY name";
        self.fetch(Statement::new(sql, vec![]), host).await
    }

    async fn fence_host(&self, host: HostId, epoch: u64, seq: u64) -> Result<()> {
        let hold = "SELECT 1 FROM cluster WHERE hold_until <= {now} {share}";
        // A write to the row that a renewal writes: one that is just being committed is waited for and then wins.
        let fence = "UPDATE hosts SET state = 'fenced', epoch = epoch + 1, session = NULL
            WHERE id = ?1 AND epoch = ?2 AND seq = ?3 AND session IS NOT NULL AND expires_at <= {now}";
        let free = "UPDATE placements SET host = NULL, state = 'free' WHERE host = ?1 AND policy <> 'sticky'";
        let on_hold = || Error::WrongState {
            what: "the cluster".into(),
            state: "on hold after a failover or a restore".into(),
            help: "wait until every host has had the time to renew".into(),
        };
        let batch = Batch::new(Durability::Power)
            .must(Statement::new(hold, vec![]), on_hold)
            .must(
                Statement::new(fence, values![host.0, epoch, seq]),
                held(named(host), "a session that has moved on, or whose time is not over"),
            )
            .step(Statement::new(free, values![host.0]));
        self.write(batch).await.map(drop)
    }
}
