//! What is done from time to time beside refreshing: keep the session, read what comes due, find what was left behind,
//! shred what nobody wants back, and notice that the wall clock has jumped.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    decide::Case,
    engine::{Desk, Engine, lock},
    flight::Call,
    schedule::share,
    session::Owner,
    visit::HORIZON,
};
use crate::{
    Error, Result, Timestamp,
    store::{Due, DueQuery, Fence, GrantQuery, GrantRecord, GrantStateName, GrantStatus},
    vault::RotationClass,
};

/// How often the store is read for what comes due within [`HORIZON`], by any process.
const READ_EVERY: Duration = Duration::from_secs(30);
/// While more than this is due already, nothing more is read.
const ENOUGH: usize = 2_000;
/// But never seldomer than this: somebody else's may be more urgent.
const READ_AT_LEAST: Duration = Duration::from_mins(3);
/// How often refreshes are looked for that a dead process has left behind.
const RECOVER_EVERY: Duration = Duration::from_secs(10);
/// What this process began so long ago is looked at again; being worked on, it is left to that.
const LEFT_AFTER: Duration = Duration::from_secs(5);
const SHRED_EVERY: Duration = Duration::from_hours(1);
const PAGE: u32 = 500;
/// A wall clock that is off by more than this has jumped.
const JUMP: Duration = Duration::from_mins(1);
/// Suspects that vote anew are spread over this.
const ANEW_WITHIN: Duration = Duration::from_secs(10);

/// Keeps the session while there is an engine.
pub(crate) async fn keep_session(engine: Arc<Engine>) {
    loop {
        let next = engine.time.elapsed() + engine.session.renewed_every();
        if let Err(err) = engine.session.renew().await {
            tracing::warn!(error = %err.chain(), "the vault's session cannot be renewed: nothing is refreshed once it runs out");
        }
        tokio::select! {
            () = engine.stop.cancelled() => return,
            () = engine.time.sleep_until(next) => {}
        }
    }
}

/// Everything else, each in its own time.
pub(crate) async fn keep_up(engine: Arc<Engine>) {
    let mut upkeep = Upkeep {
        read_at: Duration::ZERO,
        recovered_at: Duration::ZERO,
        shredded_at: Duration::ZERO,
        clock: (engine.now(), engine.time.elapsed()),
        providers: engine.upstreams.version(),
        engine: Arc::clone(&engine),
    };
    loop {
        if let Err(err) = upkeep.turn().await {
            tracing::warn!(error = %err.chain(), "the vault cannot look after its grants");
        }
        let next = engine.time.elapsed() + Duration::from_secs(1);
        #[cfg(test)]
        engine.rests.upkeep(next);
        tokio::select! {
            () = engine.stop.cancelled() => return,
            () = engine.time.sleep_until(next) => {}
        }
    }
}

struct Upkeep {
    engine: Arc<Engine>,
    /// When each was done last; zero: never.
    read_at: Duration,
    recovered_at: Duration,
    shredded_at: Duration,
    /// Which configuration of the providers was seen last.
    providers: u64,
    /// Both clocks, when they were read last.
    clock: (Timestamp, Duration),
}

impl Upkeep {
    async fn turn(&mut self) -> Result<()> {
        let now = self.engine.time.elapsed();
        let providers = self.engine.upstreams.version();
        if std::mem::replace(&mut self.providers, providers) != providers {
            self.engine.reloaded();
            self.read_at = Duration::ZERO;
        }
        self.vote_anew().await?;
        if let Some(back) = self.went_back() {
            move_back(&self.engine, back).await?;
            self.read_at = Duration::ZERO;
        }
        if is_over(self.recovered_at, RECOVER_EVERY, now) {
            recover(&self.engine).await?;
            self.recovered_at = now;
        }
        let busy = self.engine.busy.load(std::sync::atomic::Ordering::Relaxed) > ENOUGH;
        if is_over(self.read_at, if busy { READ_AT_LEAST } else { READ_EVERY }, now) {
            for what in [Due::Refresh, Due::Validate] {
                read_due(&self.engine, what).await?;
            }
            self.read_at = now;
        }
        if is_over(self.shredded_at, SHRED_EVERY, now) {
            self.engine.redactor.forget(self.engine.now());
            while self.engine.store.shred_expired(self.engine.now(), PAGE).await? > 0 {}
            self.shredded_at = now;
        }
        self.engine.write_witness().await
    }

    /// Incidents that are over.
    async fn vote_anew(&self) -> Result<()> {
        let over: Vec<Arc<str>> = {
            let mut desks = lock(&self.engine.desks);
            let flagged = |desk: &mut Desk| std::mem::take(&mut desk.to_vote_anew);
            desks
                .iter_mut()
                .filter_map(|(name, desk)| flagged(desk).then(|| Arc::clone(name)))
                .collect()
        };
        for provider in over {
            let done = vote_anew(&self.engine, &provider).await;
            if done.is_err() {
                self.engine.with_desk(&provider, |desk| desk.to_vote_anew = true);
            }
            done?;
        }
        Ok(())
    }

    /// By how much the wall clock went back since the last turn.
    fn went_back(&mut self) -> Option<Duration> {
        let (wall, boot) =
            std::mem::replace(&mut self.clock, (self.engine.now(), self.engine.time.elapsed()));
        let expected = wall.plus(self.clock.1.saturating_sub(boot));
        let (ahead, back) = (self.clock.0.since(expected), expected.since(self.clock.0));
        if ahead > JUMP {
            tracing::warn!(by = ?ahead, "the wall clock went forward: what it makes due is refreshed");
            self.read_at = Duration::ZERO;
        }
        (back > JUMP).then_some(back)
    }
}

fn is_over(last: Duration, span: Duration, now: Duration) -> bool {
    last.is_zero() || now >= last + span
}

/// Plans what comes due soon.
async fn read_due(engine: &Engine, what: Due) -> Result<()> {
    let mut after = None;
    loop {
        let by = engine.now().plus(HORIZON);
        let page = engine.store.due_grants(DueQuery { what, by, after, limit: PAGE }).await?;
        let full = page.len() >= PAGE as usize;
        for record in page {
            let status = &record.status;
            let due = match what {
                Due::Refresh => status.next_refresh_at,
                Due::Validate => status.next_validate_at,
            };
            let Some(due) = due else { continue };
            after = Some((due, record.grant.id));
            engine.plan(&record, due.since(engine.now()));
        }
        if !full {
            return Ok(());
        }
    }
}

/// Has somebody see to each refresh that was left behind: by a dead process, or by a visit that failed half way.
async fn recover(engine: &Engine) -> Result<()> {
    let mut owners: HashMap<Fence, Owner> = HashMap::new();
    let mut after = None;
    loop {
        let page = engine.store.open_refreshes(after, PAGE).await?;
        let full = page.len() >= PAGE as usize;
        for intent in page {
            let (id, fence) = (intent.refresh.grant, intent.refresh.fence);
            after = Some(id);
            let owner = match owners.get(&fence) {
                Some(known) => *known,
                None => engine.session.owner(&fence).await?,
            };
            owners.insert(fence, owner);
            let left = match owner {
                Owner::Nobody => true,
                Owner::Own => engine.now().since(intent.updated_at) > LEFT_AFTER,
                Owner::Other(_) => false,
            };
            if left && let Some(record) = engine.store.grant_by_id(id).await? {
                engine.flights.call(id, &record.grant.key.provider, Call::LeftBehind);
                engine.plan(&record, Duration::ZERO);
            }
        }
        if !full {
            return Ok(());
        }
    }
}

/// What was refused while the provider erred is not held against anybody.
async fn vote_anew(engine: &Engine, provider: &str) -> Result<()> {
    let mut pages = Pages::of(Some(provider), Some(GrantStateName::Suspect));
    while let Some(page) = pages.next(engine).await? {
        for record in page {
            let case = Case {
                status: &record.status,
                expiry: record.expiry,
                rotation: RotationClass::Rotating,
                settle: Duration::ZERO,
                provider_down: false,
                now: engine.now(),
                jitter: share(record.grant.id),
            };
            let Some(status) = case.vote_anew() else { continue };
            if set_status(engine, &record, status).await? {
                engine.plan(&record, ANEW_WITHIN.mul_f64(share(record.grant.id)));
            }
        }
    }
    Ok(())
}

/// The wall clock went back: what was planned by it is due by so much earlier, lest tokens expire meanwhile.
async fn move_back(engine: &Engine, by: Duration) -> Result<()> {
    tracing::warn!(by = ?by, "the wall clock went back: what was planned is moved with it");
    let now = engine.now();
    let mut pages = Pages::of(None, None);
    while let Some(page) = pages.next(engine).await? {
        for record in page {
            let mut status = record.status.clone();
            for at in [&mut status.next_refresh_at, &mut status.next_validate_at] {
                *at = at.map(|at| if at > now { at.minus(by).max(now) } else { at });
            }
            if status != record.status {
                set_status(engine, &record, status).await?;
            }
        }
    }
    Ok(())
}

/// Sets a status, unless somebody has changed the grant meanwhile: `false`.
pub(crate) async fn set_status(
    engine: &Engine,
    record: &GrantRecord,
    status: GrantStatus,
) -> Result<bool> {
    let (id, version) = (record.grant.id, record.version);
    match engine.store.set_grant_status(id, version, status, engine.now()).await {
        Ok(_) => Ok(true),
        Err(Error::Conflict { .. }) => Ok(false),
        Err(err) => Err(err),
    }
}

/// Grants, page by page.
pub(crate) struct Pages {
    query: GrantQuery,
    is_last: bool,
}

impl Pages {
    pub(crate) fn of(provider: Option<&str>, state: Option<GrantStateName>) -> Self {
        let provider = provider.map(str::to_owned);
        Self {
            query: GrantQuery { provider, state, limit: PAGE, ..GrantQuery::default() },
            is_last: false,
        }
    }

    /// `None` after the last one.
    pub(crate) async fn next(&mut self, engine: &Engine) -> Result<Option<Vec<GrantRecord>>> {
        if self.is_last {
            return Ok(None);
        }
        let page = engine.store.grants(self.query.clone()).await?;
        self.is_last = page.len() < PAGE as usize;
        self.query.after = page.last().map(|record| record.grant.id);
        Ok(Some(page))
    }
}
