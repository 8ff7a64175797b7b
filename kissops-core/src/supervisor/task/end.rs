//! After the end of a process: its tree cleared, its end recorded, the next step decided.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Step, Task};
use crate::{
    HumanDuration, clock,
    logs::LogQuery,
    store::{CrashReport, RunEnd},
    supervisor::{
        ExitStatus, Exited, Kind, LastExit, RestartPolicy,
        journal::Entry,
        restart::{self, Verdict},
        run::Run,
        shared::{self, Shared},
        state::Ended,
    },
};

/// Most lines of output in a crash report.
const LAST_LINES: usize = 50;
/// Lines are stamped when they are read from the pipe, a little after they were written.
const STAMPED_LATE: Duration = Duration::from_millis(500);
/// How long the last output of a dead process is waited for.
const DRAIN: Duration = Duration::from_secs(5);

/// What is known of an end beside the exit status.
pub(super) struct Death {
    /// Nobody had asked for it.
    pub(super) crashed: bool,
    pub(super) out_of_memory: bool,
    /// Why we have ended it, where we have.
    pub(super) why: Option<String>,
}

impl Task {
    /// The process has ended by itself.
    pub(super) async fn ended(
        &mut self,
        (ended, run): (Ended, Box<Run>),
        exited: Exited,
    ) -> Option<Step> {
        // Before anything new is started: an instance whose old copy still has a child would run twice.
        let out_of_memory = run.ran_out_of_memory();
        // The usual answer costs one look that serves all who ended before it.
        if !run.tree.is_empty_since(exited.at).await.unwrap_or(false) {
            self.clear_tree(&run).await;
        }
        let uptime = run.stable_uptime(exited.at);
        let success = restart::is_success(&self.definition, exited.status);
        let reason = self.bury(run, &exited, Death { crashed: !success, out_of_memory, why: None });
        if self.quit.is_some() {
            return Step::to(ended.rest(), reason);
        }
        match restart::judge(&self.definition, exited.status) {
            Verdict::Again => {
                let due = Instant::now() + self.tally.asked(uptime);
                Step::to(ended.back_off(due), format!("{reason}: it asked for a restart"))
            }
            Verdict::Rest => {
                if success && self.definition.kind == Kind::Oneshot {
                    self.cell.update(|view| view.succeeded = true);
                }
                Step::to(ended.rest(), reason)
            }
            Verdict::GiveUp | Verdict::Retry => self.decide_retry(ended, uptime, reason),
        }
    }

    /// Start it again after a delay, or give up.
    pub(super) fn decide_retry(
        &mut self,
        ended: Ended,
        uptime: Duration,
        reason: String,
    ) -> Option<Step> {
        if self.definition.restart.policy == RestartPolicy::Never {
            return Step::to(ended.give_up(), format!("{reason}; its restart policy is `never`"));
        }
        let delay = self.tally.delay(&self.definition, uptime, shared::random());
        let due = Instant::now() + delay;
        if self.tally.is_exhausted(&self.definition, due) {
            let limit = self.definition.start_limit.unwrap_or_default();
            let why = format!(
                "{reason}; started {} times within {}, so it is given up: find the cause, then `kissops reset {}`",
                limit.starts,
                HumanDuration(limit.within),
                self.cell.name
            );
            return Step::to(ended.give_up(), why);
        }
        Step::to(ended.back_off(due), reason)
    }

    /// Kills what a process has left behind, until nothing of it is there: one kill may miss who forks all the time.
    pub(super) async fn clear_tree(&mut self, run: &Run) {
        let mut told = false;
        while !run.tree.is_empty().await.unwrap_or(false) {
            if let Err(error) = run.tree.kill(Duration::from_secs(5)).await {
                // A process in uninterruptible sleep cannot be killed; starting another copy beside it is no choice.
                self.explain(error.chain());
                tracing::error!(instance = %self.cell.name, error = %error.chain(), "cannot clear the process tree; trying on");
                tokio::time::sleep(Duration::from_secs(1)).await;
            } else if !told {
                told = true;
                tracing::info!(instance = %self.cell.name, "killed what its process had left behind");
                self.event("tree.killed", "its process had left others behind, which were killed");
            }
        }
    }

    /// Records the end of a run, with a crash report if it was one, and gives back what it held. Says how it ended.
    ///
    /// The slow part (output, disk) goes on by itself, so that a restart need not wait for it.
    pub(super) fn bury(&mut self, run: Box<Run>, exited: &Exited, death: Death) -> String {
        let Death { crashed, out_of_memory, why } = death;
        let status = exited.status;
        let memory = if out_of_memory { " (out of memory)" } else { "" };
        let reason = why
            .map_or_else(|| format!("{status}{memory}"), |why| format!("{why}; {status}{memory}"));
        let reason = self.shared.redactor.current().mask_str(&reason).into_owned();
        let at = clock::now().minus(clock::since_boot().saturating_sub(exited.at));
        let (code, signal) = match status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal { signal, .. } => (None, Some(signal)),
            ExitStatus::Unknown => (None, None),
        };
        let mut restarts = 0;
        self.cell.update(|view| {
            view.run = None;
            view.ready = false;
            view.sample = None;
            view.last_exit = Some(LastExit { code, signal, at, reason: reason.clone() });
            restarts = view.restarts;
        });
        if let Some(socket) = run.notify {
            socket.remove();
        }
        let shared = Arc::clone(&self.shared);
        let (id, main) = (run.id, run.main);
        let report = crashed.then(|| {
            Box::new(CrashReport {
                instance: self.cell.name.clone(),
                run: id,
                at,
                status,
                reason: reason.clone(),
                out_of_memory,
                uptime: exited.at.saturating_sub(run.times.boot),
                usage: exited.usage,
                restarts,
                last_lines: Vec::new(),
            })
        });
        self.shared.tasks.spawn(async move {
            // What the process wrote last is on its way through the pipe.
            if tokio::time::timeout(DRAIN, shared.capture.drained(id)).await.is_err() {
                shared.capture.finish(id).await;
            }
            if let Some(mut report) = report {
                report.last_lines = last_lines(&shared, &report).await;
                shared.journal.push(Entry::Crash(report));
            }
            shared.journal.push(Entry::RunEnded(id, RunEnd { at, status }));
            if shared.journal.written().await.is_err() {
                // A successor finds the end where the spawner keeps it.
                return;
            }
            for run in [Some(id), (main != id).then_some(main)].into_iter().flatten() {
                if let Err(error) = shared.spawn.forget(run).await {
                    tracing::debug!(run = run.0, error = %error.chain(), "the keeper did not forget a run");
                }
            }
        });
        reason
    }
}

/// The last output up to a crash, oldest first. Output that came a moment later may be of the next run already.
async fn last_lines(shared: &Arc<Shared>, report: &CrashReport) -> Vec<String> {
    let query = LogQuery {
        instances: vec![report.instance.clone()],
        lines: Some(LAST_LINES),
        since: Some(report.at.minus(report.uptime)),
        until: Some(report.at.plus(STAMPED_LATE)),
        ..LogQuery::default()
    };
    let shared = Arc::clone(shared);
    let read = tokio::task::spawn_blocking(move || {
        Ok::<_, crate::Error>(shared.logs.read(&query)?.map(|line| line.line).collect::<Vec<_>>())
    });
    // A report without output is better than none.
    read.await.ok().and_then(Result::ok).unwrap_or_default()
}
