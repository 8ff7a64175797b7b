//! The keeper has died under a process: it lives on, and a new keeper takes it over (SUP-17).

use std::{os::fd::OwnedFd, time::Duration};

use tokio::sync::oneshot::error::RecvError;

use super::Task;
use crate::{
    Error, Result, clock, logs,
    supervisor::{
        ExitStatus, Exited,
        run::{Note, Run},
    },
};

/// Between tries, while no keeper can be had.
const AGAIN: Duration = Duration::from_secs(1);

impl Task {
    /// What came of waiting for the end of a process: its end, or `None` if only the keeper has ended. Then the process
    /// is under a new one, and its end is to be waited for again.
    pub(super) async fn end_of(
        &mut self,
        run: &mut Run,
        exited: Result<Exited, RecvError>,
    ) -> Option<Exited> {
        if let Ok(exited) = exited {
            return Some(exited);
        }
        tracing::warn!(instance = %self.cell.name, pid = run.pid, "the keeper is gone; looking for another");
        let gone = Exited { status: ExitStatus::Unknown, at: clock::since_boot(), usage: None };
        // One that had ended before it could be named.
        let Some(process) = run.process.clone() else { return Some(gone) };
        loop {
            let (note, kept) = self.belongings(run).await;
            let adopted = self.shared.spawn.adopt(run.main, &process, note.encode(), kept).await;
            match adopted {
                Ok(started) => {
                    run.exit = started.exit;
                    run.note = note;
                    tracing::info!(instance = %self.cell.name, pid = run.pid, "taken over by the new keeper");
                    return None;
                }
                Err(Error::NotFound { .. }) => return Some(gone),
                // It may well be alive: to start another beside it is no choice.
                Err(error) => {
                    tracing::error!(instance = %self.cell.name, error = %error.chain(), "no keeper for a running process; trying on");
                    self.explain(format!("no keeper: {}", error.chain()));
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// What a keeper is to keep of a run for a successor of ours.
    async fn belongings(&self, run: &Run) -> (Note, Vec<OwnedFd>) {
        let pipes = self.shared.capture.share(run.id).await;
        let notify = run.notify.as_ref().and_then(|socket| socket.share().ok());
        let mut note = run.note.clone();
        // The places count: one that has ended leaves a pipe without a writer.
        let stdout = pipes.stdout.or_else(|| Some(logs::pipes(logs::LogFormat::Raw).ok()?.stdout));
        let Some(stdout) = stdout else {
            (note.stderr, note.notify) = (false, false);
            return (note, Vec::new());
        };
        (note.stderr, note.notify) = (pipes.stderr.is_some(), notify.is_some());
        (note, [Some(stdout), pipes.stderr, notify].into_iter().flatten().collect())
    }
}
