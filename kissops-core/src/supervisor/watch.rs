//! The slow beat: samples of every tree (SUP-26), memory limits that no cgroup enforces (SUP-13), housekeeping.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Sample,
    cell::{Cell, Control, Usage},
    shared::Shared,
};
use crate::{
    Result, clock,
    id::{InstanceName, RunId},
};

/// The first sample comes soon, so that a fresh fleet is not shown without figures.
const FIRST: Duration = Duration::from_secs(1);
/// Between samples.
const BEAT: Duration = Duration::from_secs(10);
/// Between samples while some instance has a memory limit that only sampling enforces.
const QUICK_BEAT: Duration = Duration::from_secs(1);
/// Between rounds of housekeeping.
const HOUSEKEEPING: Duration = Duration::from_hours(1);
/// How long events and runs are kept (STO-9).
const KEEP_EVENTS: Duration = Duration::from_hours(90 * 24);
/// How long crash reports are kept (SUP-25).
const KEEP_CRASHES: Duration = Duration::from_hours(30 * 24);
/// Rows that are pruned at once: small, so that nobody waits.
const PRUNE: u32 = 500;

/// What the beat remembers between samples.
#[derive(Default)]
struct Beat {
    taken: Option<Instant>,
    ticks: BTreeMap<RunId, u64>,
    /// Samples in a row above `max_rss`.
    over: BTreeMap<InstanceName, u32>,
}

/// Runs until the supervisor ends.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut beat = Beat::default();
    let mut tidied: Option<Instant> = None;
    loop {
        let wait = match beat.taken {
            None => FIRST,
            Some(_) if has_sampled_limit(&shared) => QUICK_BEAT,
            Some(_) => BEAT,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.watching.cancelled() => return,
        }
        match shared.trees.sample().await {
            Ok(samples) => beat.take(&shared, &samples),
            Err(error) => tracing::warn!(error = %error.chain(), "processes cannot be sampled"),
        }
        if tidied.is_none_or(|at| at.elapsed() >= HOUSEKEEPING) {
            tidied = Some(Instant::now());
            if let Err(error) = tidy(&shared).await {
                tracing::warn!(error = %error.chain(), "housekeeping; trying again in an hour");
            }
        }
    }
}

/// Some instance has a `memory_max` that the kernel does not enforce.
fn has_sampled_limit(shared: &Shared) -> bool {
    let by_kernel =
        shared.cgroups.as_ref().is_some_and(|root| root.controllers().contains(&"memory"));
    !by_kernel && shared.cells().iter().any(|cell| cell.definition().limits.memory_max.is_some())
}

impl Beat {
    fn take(&mut self, shared: &Shared, samples: &BTreeMap<RunId, Sample>) {
        let now = Instant::now();
        let span = self.taken.replace(now).map(|before| now.duration_since(before).as_secs_f64());
        let by_kernel =
            shared.cgroups.as_ref().is_some_and(|root| root.controllers().contains(&"memory"));
        for cell in shared.cells() {
            let run = cell.view().run.map(|run| run.id);
            let Some((run, sample)) = run.and_then(|run| Some((run, *samples.get(&run)?))) else {
                self.over.remove(&cell.name);
                continue;
            };
            let before = self.ticks.get(&run).copied();
            cell.view().sample =
                Some(Usage { sample, cpu_percent: percent(before, sample.cpu_ticks, span) });
            self.judge(&cell, &sample, by_kernel);
        }
        self.ticks = samples.iter().map(|(run, sample)| (*run, sample.cpu_ticks)).collect();
    }

    fn judge(&mut self, cell: &Cell, sample: &Sample, by_kernel: bool) {
        let definition = cell.definition();
        let limits = &definition.limits;
        if !by_kernel && let Some(most) = limits.memory_max.filter(|most| sample.rss_bytes > most.0)
        {
            let why = format!(
                "out of memory: {} MB resident, memory_max is {most}",
                sample.rss_bytes / 1_000_000
            );
            cell.mailbox.send(Control::Unwell(why));
            return;
        }
        let Some(most) = limits.max_rss.filter(|most| sample.rss_bytes > most.0) else {
            self.over.remove(&cell.name);
            return;
        };
        let times = self.over.entry(cell.name.clone()).or_default();
        *times += 1;
        if *times >= limits.max_rss_samples.max(1) {
            let why = format!(
                "{} MB resident, above max_rss {most} for {times} samples",
                sample.rss_bytes / 1_000_000
            );
            self.over.remove(&cell.name);
            cell.mailbox.send(Control::Unwell(why));
        }
    }
}

/// CPU between two samples in percent of one core. Less than before means that a process of the tree has ended.
fn percent(before: Option<u64>, now: u64, span: Option<f64>) -> Option<f64> {
    let span = span.filter(|span| *span > 0.0)?;
    let ticks = u32::try_from(now.saturating_sub(before?)).ok()?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some((f64::from(ticks) / f64::from(per_second) / span * 1000.0).round() / 10.0)
}

/// Forgets what is older than it may be, in small steps.
async fn tidy(shared: &Shared) -> Result<()> {
    let store = &shared.store;
    let (events, crashes) = (clock::now().minus(KEEP_EVENTS), clock::now().minus(KEEP_CRASHES));
    while store.prune_events(events, PRUNE).await? == u64::from(PRUNE) {}
    while store.prune_runs(events, PRUNE).await? == u64::from(PRUNE) {}
    while store.prune_crashes(crashes, PRUNE).await? == u64::from(PRUNE) {}
    shared.capture.tidy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_in_percent_of_one_core() {
        let per_second = rustix::param::clock_ticks_per_second();
        assert_eq!(percent(Some(100), 100 + per_second * 5, Some(10.0)), Some(50.0));
        assert_eq!(percent(Some(100), 50, Some(10.0)), Some(0.0));
        assert_eq!(percent(None, 50, Some(10.0)), None);
    }
}
