//! The one task that decides which grant is seen to next. It starts visits, and never waits for one of them alone.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::task::{Id, JoinError, JoinSet};

use super::{
    engine::{Demand, Desk, Engine, lock, trouble_of},
    flight::{Refusal, Wants},
    schedule::{Schedule, Urgency},
    visit::{Outcome, visit},
};
use crate::store::GrantId;

/// Most grants that are seen to at once, over all providers.
pub(crate) const VISITS: usize = 256;
/// How long what is under way may take when everything ends.
const DRAIN: Duration = Duration::from_secs(10);
/// After a visit that ended by a panic.
const PANIC_REST: Duration = Duration::from_mins(1);

struct Visitor {
    id: GrantId,
    provider: Arc<str>,
    wants: Wants,
}

pub(crate) struct Refresher {
    engine: Arc<Engine>,
    schedule: Schedule,
    visits: JoinSet<Outcome>,
    visitors: HashMap<Id, Visitor>,
}

impl Refresher {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            schedule: Schedule::default(),
            visits: JoinSet::new(),
            visitors: HashMap::new(),
        }
    }

    /// Works until the engine is stopped, and then until what is under way has ended.
    pub(crate) async fn run(mut self) {
        let engine = Arc::clone(&self.engine);
        while !engine.stop.is_cancelled() {
            #[cfg(test)]
            engine.rests.refresher_works();
            self.take_inbox();
            self.refuse_in_vain();
            self.start_visits();
            let now = engine.time.elapsed();
            let wake = if self.visits.len() < VISITS {
                self.schedule.wake(|name| engine.gate(name, now))
            } else {
                None
            };
            #[cfg(test)]
            if self.visits.is_empty() {
                engine.rests.refresher(wake);
            }
            tokio::select! {
                biased;
                () = engine.stop.cancelled() => {}
                Some(ended) = self.visits.join_next_with_id() => self.ended(ended),
                () = engine.wake.notified() => {}
                () = engine.time.sleep_until(wake.unwrap_or_default()), if wake.is_some() => {}
            }
            while let Some(ended) = self.visits.try_join_next_with_id() {
                self.ended(ended);
            }
        }
        self.drain().await;
    }

    fn take_inbox(&mut self) {
        let demands = std::mem::take(&mut *lock(&self.engine.inbox));
        for Demand { id, provider, due, urgency } in demands {
            self.schedule.plan_no_later(id, &provider, due, urgency);
        }
        let is_busy = self.schedule.backlog() + self.visits.len();
        self.engine.busy.store(is_busy, Ordering::Relaxed);
    }

    /// Those who wait for a provider that fails as a whole are told so.
    fn refuse_in_vain(&mut self) {
        let failing: Vec<_> = {
            let mut desks = lock(&self.engine.desks);
            let why = |desk: &mut Desk| {
                std::mem::take(&mut desk.to_refuse).then(|| desk.health.trouble()).flatten()
            };
            desks
                .iter_mut()
                .filter_map(|(name, desk)| Some((Arc::clone(name), why(desk)?)))
                .collect()
        };
        for (provider, why) in failing {
            let refusal = trouble_of(&provider, why);
            self.engine.flights.refuse(Some(&provider), &refusal, |id| self.engine.is_seen_to(id));
        }
    }

    fn start_visits(&mut self) {
        while self.visits.len() < VISITS {
            let engine = &self.engine;
            let now = engine.time.elapsed();
            let Some((id, provider)) = self.schedule.next(now, |name| engine.gate(name, now))
            else {
                return;
            };
            engine.begin(&provider, id, now);
            let wants = engine.flights.wants(id);
            let engine = Arc::clone(engine);
            let task = self.visits.spawn(async move { visit(&engine, id, wants).await });
            self.visitors.insert(task.id(), Visitor { id, provider, wants });
        }
    }

    fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let engine = &self.engine;
        let (task, outcome) = match ended {
            Ok((task, outcome)) => (task, outcome),
            Err(err) => {
                tracing::error!(error = %err, "seeing to a grant has failed: a defect of this program");
                let next = Some((engine.time.elapsed() + PANIC_REST, Urgency::Whenever));
                (err.id(), Outcome { fate: Some(Err(Refusal::Closed)), next })
            }
        };
        let Some(Visitor { id, provider, wants }) = self.visitors.remove(&task) else { return };
        engine.end(&provider, id);
        let more = match &outcome.fate {
            Some(fate) => engine.flights.land(id, &wants, fate),
            None => false,
        };
        let now = engine.time.elapsed();
        let next = if more { Some((now, Urgency::Awaited)) } else { outcome.next };
        self.schedule.done(id, next);
    }

    async fn drain(&mut self) {
        let engine = Arc::clone(&self.engine);
        let refusal = Refusal::Closed;
        engine.flights.refuse(None, &refusal, |id| engine.is_seen_to(id));
        // Real time: whoever ends the program waits for it.
        let drained = tokio::time::timeout(DRAIN, async {
            while let Some(ended) = self.visits.join_next_with_id().await {
                self.ended(ended);
            }
        });
        if drained.await.is_err() {
            tracing::warn!(
                left = self.visits.len(),
                "refreshes are still under way: what becomes of them is found out at the next start"
            );
            self.visits.shutdown().await;
        }
        engine.flights.refuse(None, &refusal, |_| false);
    }
}
