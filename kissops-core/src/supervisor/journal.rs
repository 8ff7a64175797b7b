//! Everything that is to be remembered, in order, written behind the supervisor's back: a slow or full disk never
//! holds up a restart.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, broadcast, oneshot};

use super::cell::Cell;
use crate::{
    Result, clock,
    id::{InstanceName, RunId},
    redact::Redactor,
    store::{CrashReport, EventKind, EventRecord, FleetStore, NewEvent, RunEnd, RunRecord},
};

/// One thing to be remembered.
#[derive(Debug)]
pub(super) enum Entry {
    Event(NewEvent),
    RunBegan(RunRecord),
    RunEnded(RunId, RunEnd),
    Crash(Box<CrashReport>),
    /// The record of an instance as it is when its turn comes, so that an older one never overtakes a newer.
    Instance(Arc<Cell>, Option<oneshot::Sender<Result<()>>>),
    Forget(InstanceName),
    /// Resolves once all before it is written.
    Barrier(oneshot::Sender<()>),
}

impl Entry {
    /// While the store does not answer: history may be lost, wishes may not.
    fn may_be_dropped(&self) -> bool {
        !matches!(self, Self::Instance(..) | Self::Forget(_))
    }
}

/// Most entries that wait while the store does not answer. Beyond it the oldest history is dropped, and counted.
const WAITING: usize = 20_000;
/// Most entries in one turn.
const BATCH: usize = 512;
/// Between tries while the store does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Takes entries from everyone; [`Journal::write`] is the one who writes them.
#[derive(Debug)]
pub(super) struct Journal {
    store: Arc<dyn FleetStore>,
    redactor: Arc<Redactor>,
    queue: Mutex<Queue>,
    wake: Notify,
    live: broadcast::Sender<Arc<EventRecord>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Entry>,
    dropped: u64,
    phase: Phase,
}

/// How far the end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// A store that does not answer is waited for.
    #[default]
    Open,
    /// It is no longer waited for.
    Ending,
    /// Nothing more comes.
    Closed,
    /// What comes all the same is dropped.
    Over,
}

impl Journal {
    pub(super) fn new(store: Arc<dyn FleetStore>, redactor: Arc<Redactor>) -> Self {
        Self {
            store,
            redactor,
            queue: Mutex::default(),
            wake: Notify::new(),
            live: broadcast::Sender::new(1024),
        }
    }

    /// Events as they are stored.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<EventRecord>> {
        self.live.subscribe()
    }

    /// Notes an event; its reason is redacted.
    pub(super) fn event(&self, instance: Option<InstanceName>, kind: EventKind, reason: &str) {
        let reason = self.redactor.current().mask_str(reason).into_owned();
        self.push(Entry::Event(NewEvent { at: clock::now(), instance, kind, reason }));
    }

    pub(super) fn push(&self, entry: Entry) {
        let mut queue = self.lock();
        if queue.phase == Phase::Over {
            // Whoever waits for it is told by its end; not under the lock.
            drop(queue);
            return;
        }
        if queue.waiting.len() >= WAITING
            && let Some(oldest) = queue.waiting.iter().position(Entry::may_be_dropped)
        {
            match queue.waiting.remove(oldest) {
                // Whoever waited may have gone.
                Some(Entry::Barrier(done)) => drop(done.send(())),
                _ => queue.dropped += 1,
            }
        }
        queue.waiting.push_back(entry);
        drop(queue);
        self.wake.notify_one();
    }

    /// Writes an instance's record and waits until it is durable.
    pub(super) async fn save(&self, cell: &Arc<Cell>) -> Result<()> {
        let (done, saved) = oneshot::channel();
        self.push(Entry::Instance(Arc::clone(cell), Some(done)));
        saved.await.unwrap_or(Err(crate::Error::Closed { what: "the journal" }))
    }

    /// Resolves once all that was pushed before is written (or was too old to be kept), however long the store does not
    /// answer.
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed) if the journal has ended before.
    pub(super) async fn written(&self) -> Result<()> {
        let (done, written) = oneshot::channel();
        self.push(Entry::Barrier(done));
        written.await.map_err(|_| crate::Error::Closed { what: "the journal" })
    }

    /// A store that does not answer from now on is not waited for: the supervisor ends.
    pub(super) fn hurry(&self) {
        self.enter(Phase::Ending);
    }

    /// Lets [`write`](Self::write) end once nothing waits any more.
    pub(super) fn close(&self) {
        self.enter(Phase::Closed);
    }

    fn enter(&self, phase: Phase) {
        let mut queue = self.lock();
        queue.phase = queue.phase.max(phase);
        drop(queue);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what comes, in order, until [`close`](Self::close).
    pub(super) async fn write(self: Arc<Self>) {
        let mut healthy = true;
        loop {
            let (batch, phase) = self.take();
            if batch.is_empty() {
                if phase == Phase::Closed {
                    return self.end();
                }
                self.wake.notified().await;
                continue;
            }
            let failed = self.write_batch(batch).await;
            if let Some(error) = failed {
                if healthy {
                    tracing::error!(error = %error.chain(), "the store does not take events; they wait in memory");
                }
                healthy = false;
                if phase >= Phase::Ending && keeps(&error) {
                    return self.end();
                }
                tokio::time::sleep(RETRY).await;
            } else if !healthy {
                healthy = true;
                self.report_dropped();
            }
        }
    }

    fn end(&self) {
        let mut queue = self.lock();
        queue.phase = Phase::Over;
        let lost = std::mem::take(&mut queue.waiting);
        drop(queue);
        if !lost.is_empty() {
            tracing::error!(
                entries = lost.len(),
                "not stored before the end: events, ends of runs, crash reports"
            );
        }
    }

    fn take(&self) -> (Vec<Entry>, Phase) {
        let mut queue = self.lock();
        let count = queue.waiting.len().min(BATCH);
        let batch = queue.waiting.drain(..count).collect();
        if queue.waiting.is_empty() {
            queue.waiting.shrink_to(64);
        }
        (batch, queue.phase)
    }

    /// Writes a batch: events as one call, the rest one by one before them. What a store that does not answer has not taken goes
    /// back to the front.
    async fn write_batch(&self, batch: Vec<Entry>) -> Option<crate::Error> {
        let mut events = Vec::new();
        let mut rest = Vec::new();
        let mut barriers = Vec::new();
        for entry in batch {
            match entry {
                Entry::Event(event) => events.push(event),
                Entry::Barrier(done) => barriers.push(done),
                other => rest.push(other),
            }
        }
        let mut failed = None;
        let mut back = Vec::new();
        // All at once, so that the store can commit them together; before the events, so that whoever sees that a process
        // runs can count on its being found again.
        let writes = rest.into_iter().map(|entry| self.write_one(entry));
        for (entry, error) in futures_util::future::join_all(writes).await.into_iter().flatten() {
            if keeps(&error) {
                back.extend(entry);
            }
            failed = Some(error);
        }
        if let Some((events, error)) = self.write_events(events).await {
            if keeps(&error) {
                back.extend(events.into_iter().map(Entry::Event));
            }
            failed = Some(error);
        }
        if back.is_empty() {
            for done in barriers {
                // Whoever waited may have gone.
                let _ = done.send(());
            }
        } else {
            back.extend(barriers.into_iter().map(Entry::Barrier));
            let mut queue = self.lock();
            for entry in back.into_iter().rev() {
                queue.waiting.push_front(entry);
            }
        }
        failed
    }

    /// Writes events as one call; where one of them cannot be stored, one by one, so that it alone is lost. Gives back
    /// those from the first that failed on.
    async fn write_events(
        &self,
        mut events: Vec<NewEvent>,
    ) -> Option<(Vec<NewEvent>, crate::Error)> {
        if events.is_empty() {
            return None;
        }
        let error = self.append(events.clone()).await.err()?;
        if !refuses_data(&error) {
            return Some((events, error));
        }
        let mut last = error;
        for at in 0..events.len() {
            match self.append(vec![events[at].clone()]).await {
                Err(error) if !refuses_data(&error) => return Some((events.split_off(at), error)),
                Err(error) => last = error,
                Ok(()) => {}
            }
        }
        Some((Vec::new(), last))
    }

    async fn append(&self, events: Vec<NewEvent>) -> Result<()> {
        let ids = self.store.append_events(events.clone()).await?;
        for (id, event) in ids.into_iter().zip(events) {
            // No receiver is no error: nobody listens.
            let _ = self.live.send(Arc::new(EventRecord { id, event }));
        }
        Ok(())
    }

    async fn write_one(&self, entry: Entry) -> Option<(Option<Entry>, crate::Error)> {
        let result = match &entry {
            Entry::Event(event) => self.store.append_events(vec![event.clone()]).await.map(drop),
            Entry::RunBegan(run) => self.store.begin_run(run.clone()).await,
            Entry::RunEnded(run, end) => self.store.end_run(*run, end.clone()).await,
            Entry::Crash(report) => self.store.add_crash(report.as_ref().clone()).await.map(drop),
            Entry::Forget(name) => self.store.remove_instance(name).await,
            Entry::Instance(cell, _) => self.store.put_instance(cell.record()).await,
            Entry::Barrier(_) => Ok(()),
        };
        match (entry, result) {
            // Somebody waits for the answer, and decides what to do with it.
            (Entry::Instance(_, Some(done)), result) => {
                let _ = done.send(result);
                None
            }
            (_, Ok(())) => None,
            (entry, Err(error)) => Some((Some(entry), error)),
        }
    }

    fn report_dropped(&self) {
        let dropped = std::mem::take(&mut self.lock().dropped);
        tracing::info!(dropped, "the store takes events again");
        if dropped > 0 {
            self.event(
                None,
                EventKind::Other("events.dropped".to_owned()),
                &format!("{dropped} events and records of runs were dropped while the store did not answer"),
            );
        }
    }
}

/// It is what was to be written that the store refuses, not all that comes.
fn refuses_data(error: &crate::Error) -> bool {
    use crate::Error::{Conflict, InvalidConfig, NotFound};
    matches!(error, Conflict { .. } | InvalidConfig { .. } | NotFound { .. })
}

/// Worth another try; what can never be written must not hold up the rest.
///
/// What may have been written is written again: instances and runs are put by their names and numbers, so the second time
/// changes nothing. Events and crash reports go through the store's append, which itself tells what took effect; should
/// even that have given up, history that is there twice is better than history that is missing.
fn keeps(error: &crate::Error) -> bool {
    use crate::Error::{Io, Uncertain};
    error.is_transient() || matches!(error, Io { .. } | Uncertain { .. })
}
