//! On the way up: what it requires, its turn, its hooks, its process, its readiness.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{Step, Task, Want, hooks::Stage};
use crate::supervisor::{
    ReadyCheck, StateName,
    cell::{Cell, View},
    notify::{NotifySocket, Said},
    ready,
    run::Run,
    shared,
    state::{Cause, Launched, Starting, Then},
};

/// What interrupts a start.
enum Cut {
    Stop(String),
    Reauth(String),
    Leave,
}

impl Task {
    pub(super) async fn starting(&mut self, starting: Starting) -> Option<Step> {
        match self.prepare(starting.cause).await {
            Err(Cut::Leave) => None,
            Err(Cut::Stop(why)) => Step::to(starting.stop(), why),
            Err(Cut::Reauth(why)) => Step::to(starting.reauth(), why),
            Ok(turn) => self.try_start(starting, turn).await,
        }
    }

    /// Waits for what it requires and for its turn. `Err` when it is not to start any more.
    async fn prepare(&mut self, cause: Cause) -> Result<Option<OwnedSemaphorePermit>, Cut> {
        let mut jitter = match cause {
            Cause::Ordered => self.shared.start_jitter.mul_f64(shared::random()),
            Cause::Again => Duration::ZERO,
        };
        loop {
            self.wait_for_others().await?;
            if cause == Cause::Again {
                return Ok(None);
            }
            if !jitter.is_zero() {
                self.or_cut(tokio::time::sleep(jitter)).await?;
                jitter = Duration::ZERO;
                // What it requires may have gone meanwhile.
                continue;
            }
            let places = Arc::clone(&self.shared.turns);
            if let Ok(turn) = Arc::clone(&places).try_acquire_owned() {
                return Ok(Some(turn));
            }
            self.explain("waits for its turn to start");
            let turn = self.or_cut(places.acquire_owned()).await?;
            if let Some(turn) = turn
                && self.missing().is_none()
            {
                return Ok(turn.ok());
            }
        }
    }

    async fn wait_for_others(&mut self) -> Result<(), Cut> {
        while let Some(other) = self.missing() {
            let strict = self.definition.requires.contains(&other.name);
            let (seen, shown) = {
                let view = other.view();
                (view.state, describe(&view))
            };
            self.explain(format!("waits for `{}`, which is {shown}", other.name));
            // A new state is to be shown, and one that has ended may have a successor of its name: look again.
            let met = async {
                let is_over =
                    |view: &View| view.ended || view.state != seen || is_met(view, strict);
                other.until(|view| is_over(view).then_some(())).await;
            };
            // A changed definition may name others: look again, too.
            self.or_cut(met).await?;
        }
        Ok(())
    }

    /// Does `work` unless a control ends the start; `None` when a control changed what is to be started.
    async fn or_cut<T>(&mut self, work: impl Future<Output = T>) -> Result<Option<T>, Cut> {
        let mut work = pin!(work);
        loop {
            let want = tokio::select! {
                biased;
                want = self.wanted() => want,
                done = &mut work => return Ok(Some(done)),
            };
            match want {
                Want::Nothing
                | Want::Up
                | Want::Clear
                | Want::Release
                | Want::Down(Then::Start | Then::Judge(_) | Then::Asked(_), _) => {}
                Want::Again(_) => return Ok(None),
                Want::Down(Then::Reauth(_), why) => return Err(Cut::Reauth(why)),
                Want::Down(Then::Rest, why) => return Err(Cut::Stop(why)),
                Want::Signal(_, _, ack) => self.no_process(ack),
                Want::Describe(reply) => drop(reply.send(Ok(Vec::new()))),
                Want::Leave => return Err(Cut::Leave),
            }
        }
    }

    /// The first instance that this one still has to wait for.
    fn missing(&self) -> Option<Arc<Cell>> {
        let definition = &self.definition;
        let requires = definition.requires.iter().map(|name| (name, true));
        let all = requires.chain(definition.after.iter().map(|name| (name, false)));
        all.filter_map(|(name, strict)| Some((self.shared.cell(name)?, strict)))
            .find(|(cell, strict)| !is_met(&cell.view(), *strict))
            .map(|(cell, _)| cell)
    }

    /// From here on there may be processes: hooks, then the instance's own.
    async fn try_start(
        &mut self,
        starting: Starting,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Option<Step> {
        if let Some(why) = self.obstacle().await {
            return Step::to(starting.reauth(), why);
        }
        self.tally.started(&self.definition, Instant::now());
        if !self.definition.hooks.pre_start.is_empty() {
            self.explain("runs its pre_start");
            match self.pre_start().await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return self.failed_start(starting, why),
                Err(Cut::Leave) => return None,
                Err(Cut::Stop(why)) => return Step::to(starting.stop(), why),
                Err(Cut::Reauth(why)) => return Step::to(starting.reauth(), why),
            }
            if self.missing().is_some_and(|other| self.definition.requires.contains(&other.name)) {
                return Step::to(starting.again(), "what it requires went while its pre_start ran");
            }
        }
        match Box::pin(self.launch(turn)).await {
            Ok(run) => Step::to(starting.launched(run), "its process runs"),
            Err(error) => self.failed_start(starting, error.chain()),
        }
    }

    /// The outcome of the hooks, or what cut them short (and then nothing of them is left).
    async fn pre_start(&mut self) -> Result<Result<(), String>, Cut> {
        let (mut hooks, cancel) = self.hooks_aside(Stage::PreStart);
        let outcome = loop {
            match self.or_cut(&mut hooks).await {
                Ok(Some(outcome)) => {
                    return Ok(outcome.unwrap_or_else(|_| Err("the runtime ends".to_owned())));
                }
                // A changed definition starts with its own hooks, after these.
                Ok(None) => {}
                Err(cut) => break cut,
            }
        };
        cancel.cancel();
        // Its answer is that it was cancelled.
        let _ = hooks.await;
        Err(outcome)
    }

    fn failed_start(&mut self, starting: Starting, why: String) -> Option<Step> {
        self.event("start.failed", &why);
        self.decide_retry(starting.ended(), Duration::ZERO, why)
    }

    pub(super) async fn launched(&mut self, mut launched: Launched) -> Option<Step> {
        let definition = Arc::clone(&self.definition);
        let Some(wanted) = &definition.ready else {
            return self.up(launched, "its process runs").await;
        };
        self.explain("its process runs; it is not ready yet");
        let line = launched.run.line.take();
        // In a box: an HTTP request is large, and this future lies in every instance's task.
        let mut reached = Box::pin(ready::reached(&wanted.check, launched.run.times.wall, line));
        let spoken = Arc::clone(&self.cell);
        let mut deadline = (launched.run.times.instant + wanted.within).max(Instant::now());
        loop {
            tokio::select! {
                biased;
                exited = &mut launched.run.exit => {
                    if let Some(exited) = self.end_of(&mut launched.run, exited).await {
                        return self.ended(launched.ended(), exited).await;
                    }
                }
                want = self.wanted() => {
                    if let Some((then, why)) = self.interruption(want, &launched.run).await? {
                        return Step::to(launched.stop(then), why);
                    }
                }
                said = heard(launched.run.notify.as_ref(), &spoken) => {
                    let mut is_ready = false;
                    for said in said {
                        match said {
                            Said::Ready => is_ready = wanted.check == ReadyCheck::Notify,
                            Said::ExtendTimeout(by) => deadline = deadline.max(Instant::now() + by),
                            other => self.note_said(&mut launched.run, other).await,
                        }
                    }
                    // Only now: one message may say more than that.
                    if is_ready {
                        return self.up(launched, "it said that it is ready").await;
                    }
                }
                () = &mut reached => return self.up(launched, "its readiness check passed").await,
                () = tokio::time::sleep_until(deadline) => {
                    let why = format!("not ready within {}", crate::HumanDuration(wanted.within));
                    return Step::to(launched.stop(Then::Judge(why.clone())), why);
                }
            }
        }
    }

    async fn up(&mut self, mut launched: Launched, why: &str) -> Option<Step> {
        launched.run.turn = None;
        launched.run.note.ready = true;
        let run = &launched.run;
        if self.definition.ready.is_some()
            && let Err(error) = self.shared.spawn.note(run.main, run.note.encode()).await
        {
            tracing::debug!(instance = %self.cell.name, error = %error.chain(), "the keeper did not take a note");
        }
        Step::to(launched.ready(), why)
    }

    /// What a control does to an instance with a process: `Some` if it is to stop. `None` from `?` ends the task.
    pub(super) async fn interruption(
        &mut self,
        want: Want,
        run: &Run,
    ) -> Option<Option<(Then, String)>> {
        match want {
            Want::Nothing | Want::Up | Want::Clear | Want::Release => Some(None),
            Want::Again(why) => Some(Some((Then::Start, why.to_owned()))),
            Want::Down(then, why) => Some(Some((then, why))),
            Want::Signal(signal, to, ack) => {
                let sent = self.shared.spawn.signal(run.main, signal, to).await;
                // Whoever asked may have gone.
                let _ = ack.send(sent);
                Some(None)
            }
            Want::Describe(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(Box::pin(run.tree.describe()).await);
                Some(None)
            }
            Want::Leave => None,
        }
    }
}

/// What the bot says next, on its notify socket or otherwise.
pub(super) async fn heard(notify: Option<&NotifySocket>, cell: &Cell) -> Vec<Said> {
    let Some(socket) = notify else { return vec![cell.spoken.next().await] };
    tokio::select! {
        said = socket.next() => said,
        said = cell.spoken.next() => vec![said],
    }
}

/// Whether one instance need not be waited for. `strict`: it is required; otherwise only its attempt is awaited.
fn is_met(view: &View, strict: bool) -> bool {
    let up = view.succeeded || (view.state == StateName::Running && view.ready);
    up || !strict
        && (view.ended
            || matches!(
                view.state,
                StateName::Stopped
                    | StateName::Backoff
                    | StateName::Failed
                    | StateName::NeedsReauth
            ))
}

fn describe(view: &View) -> String {
    if view.state == StateName::Running { "not ready".to_owned() } else { view.state.to_string() }
}
