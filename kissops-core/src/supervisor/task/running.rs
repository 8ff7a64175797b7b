//! Up: watching for the end, for silence, for orders, for the next planned restart.

use std::{pin::pin, sync::Arc};

use tokio::time::Instant;

use super::launch::identity;
use super::{Step, Task, hooks::Stage, start::heard};
use crate::supervisor::{
    Definition, LiveCheck, live,
    notify::Said,
    planned,
    ready::at,
    run::{Note, Run},
    state::{Running, Then},
};

impl Task {
    pub(super) async fn running(&mut self, mut running: Running) -> Option<Step> {
        let definition = Arc::clone(&self.definition);
        // Not waited for: it has its own time limit and reports its own failure. It ends with the state, lest it outlive
        // the process that it is about.
        let _after = (!definition.hooks.post_start.is_empty())
            .then(|| self.hooks_aside(Stage::PostStart).1.drop_guard());
        // Most instances have nothing to poll: they pay for a box only when they do.
        let cell = Arc::clone(&self.cell);
        let mut stuck = live::watch(&definition.live, running.run.times.wall, &cell.beat);
        let watchdog = watchdog(&definition);
        let mut silence = watchdog.map(|every| Instant::now() + every);
        let planned = definition.restart_schedule.as_deref().and_then(planned::next);
        let mut planned = pin!(at(planned));
        loop {
            let why = tokio::select! {
                biased;
                exited = &mut running.run.exit => match self.end_of(&mut running.run, exited).await {
                    Some(exited) => return Box::pin(self.ended(running.ended(), exited)).await,
                    None => continue,
                },
                want = self.wanted() => match self.interruption(want, &running.run).await? {
                    Some((then, why)) => return Step::to(running.stop(then), why),
                    None => continue,
                },
                said = heard(running.run.notify.as_ref(), &cell) => {
                    if let Some(why) = self.listen(&mut running.run, said, watchdog, &mut silence).await {
                        why
                    } else {
                        continue;
                    }
                }
                why = live::failing(&mut stuck) => why,
                () = at(silence) => format!("watchdog: no sign of life for {}", crate::HumanDuration(watchdog.unwrap_or_default())),
                () = &mut planned => return Step::to(running.stop(Then::Start), "planned restart"),
            };
            self.event("liveness.failed", &why);
            return Step::to(running.stop(Then::Judge(why.clone())), why);
        }
    }

    /// Takes up what the bot says; a reason if it says that it is stuck.
    async fn listen(
        &mut self,
        run: &mut Run,
        said: Vec<Said>,
        every: Option<std::time::Duration>,
        silence: &mut Option<Instant>,
    ) -> Option<String> {
        for said in said {
            match said {
                Said::Alive => *silence = every.map(|every| Instant::now() + every),
                Said::ExtendTimeout(by) => {
                    *silence = silence.map(|due| due.max(Instant::now() + by));
                }
                Said::Stuck => return Some("watchdog: it says that it is stuck".to_owned()),
                other => self.note_said(run, other).await,
            }
        }
        None
    }

    /// Statements that mean the same in every state.
    pub(super) async fn note_said(&mut self, run: &mut Run, said: Said) {
        match said {
            Said::Status(text) => {
                let text = self.shared.redactor.current().mask_str(&text).into_owned();
                self.cell.update(|view| view.status_text = Some(text));
            }
            Said::Stopping => self.cell.update(|view| view.ready = false),
            Said::MainPid(pid) => Box::pin(self.follow(run, pid)).await,
            Said::Ready | Said::Alive | Said::Stuck | Said::ExtendTimeout(_) => {}
        }
    }

    /// Takes another process of the same tree for the main one. Any other pid is refused: a bot could have us signal
    /// and wait for a stranger.
    async fn follow(&mut self, run: &mut Run, pid: i32) {
        if pid == run.pid {
            return;
        }
        if !run.tree.pids().await.is_ok_and(|pids| pids.contains(&pid)) {
            tracing::warn!(instance = %self.cell.name, pid, "MAINPID is not in the instance's process tree; refused");
            self.event("notify.refused", &format!("MAINPID={pid} is not in its process tree"));
            return;
        }
        let Some(process) = identity(pid) else { return };
        let main = self.shared.next_run();
        let note = Note { follows: Some(run.id), ..run.note.clone() };
        match self.shared.spawn.adopt(main, &process, note.encode(), Vec::new()).await {
            Ok(started) => {
                run.main = main;
                run.pid = pid;
                run.process = Some(process);
                run.note = note;
                run.exit = started.exit;
                self.cell.update(|view| {
                    if let Some(run) = &mut view.run {
                        run.pid = pid;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(instance = %self.cell.name, pid, error = %error.chain(), "MAINPID cannot be followed");
            }
        }
    }
}

fn watchdog(definition: &Definition) -> Option<std::time::Duration> {
    definition.live.iter().find_map(|live| match live.check {
        LiveCheck::Watchdog { every } => Some(every),
        _ => None,
    })
}
