//! The task that owns an instance: one state at a time, one transition after the other.
//!
//! Each state is a method that consumes the state's own data and returns the next. Nobody else starts, stops or
//! signals the instance; they send a [`Control`].

mod end;
mod hooks;
mod idle;
mod launch;
mod recover;
mod running;
mod start;
mod stop;

use std::sync::Arc;

use tokio::sync::oneshot;

pub(super) use launch::{identity, line_watch};

use super::{
    Definition, Kind, ProcessDetail, Signal, SignalTo, StateName,
    cell::{Ack, Cell, Control},
    journal::Entry,
    restart::Tally,
    shared::Shared,
    state::{State, Then},
};
use crate::{Error, Result, Timestamp, clock, store::EventKind};

/// The next state, and why.
struct Step {
    state: State,
    reason: String,
}

impl Step {
    #[expect(clippy::unnecessary_wraps, reason = "a state's answer: `None` would end the task")]
    fn to(state: State, reason: impl Into<String>) -> Option<Self> {
        Some(Self { state, reason: reason.into() })
    }
}

/// What a control asks of the state that it meets.
enum Want {
    /// Nothing, or it is done already.
    Nothing,
    /// Be up.
    Up,
    /// Be up, with a new process, for this reason.
    Again(&'static str),
    /// Be down, or come back after it.
    Down(Then, String),
    /// Forget failures; be up if that is desired.
    Clear,
    /// Need no new token any more.
    Release,
    /// Send a signal.
    Signal(Signal, SignalTo, Ack),
    /// Describe the processes.
    Describe(oneshot::Sender<Result<Vec<ProcessDetail>>>),
    /// End at once and leave the process alone.
    Leave,
}

/// How the task is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quit {
    /// The daemon ends.
    Shutdown,
    /// The instance is no longer wanted, nor its record.
    Remove,
}

pub(super) struct Task {
    cell: Arc<Cell>,
    shared: Arc<Shared>,
    definition: Arc<Definition>,
    tally: Tally,
    quit: Option<Quit>,
    /// Controls that were taken up but do not show yet.
    unanswered: Vec<Ack>,
}

impl Task {
    pub(super) fn new(cell: Arc<Cell>, shared: Arc<Shared>, tally: Tally) -> Self {
        let definition = cell.definition();
        Self { cell, shared, definition, tally, quit: None, unanswered: Vec::new() }
    }

    /// Owns the instance until it is removed or the daemon ends.
    pub(super) async fn run(mut self, mut state: State) {
        loop {
            let step = match state {
                State::Stopped(stopped) => self.stopped(stopped).await,
                // In boxes: nobody is in these states for long, and the room for the largest is always taken.
                State::Starting(starting) => Box::pin(self.starting(starting)).await,
                State::Launched(launched) => Box::pin(self.launched(launched)).await,
                State::Running(running) => self.running(running).await,
                State::Backoff(waiting) => self.backing_off(waiting).await,
                State::Stopping(stopping) => Box::pin(self.stopping(stopping)).await,
                State::Failed(failed) => self.failed(failed).await,
                State::NeedsReauth(waiting) => self.needs_reauth(waiting).await,
            };
            let Some(step) = step else { break };
            self.publish(step.state.name(), &step.reason);
            state = step.state;
        }
        if self.quit == Some(Quit::Remove) {
            self.shared.remove(&self.cell.name);
            self.shared.journal.push(Entry::Forget(self.cell.name.clone()));
            // A capture that has ended keeps nothing of it either.
            let _ = self.shared.capture.remove(self.cell.name.clone());
            if let Some(cgroups) = &self.shared.cgroups
                && let Some(cgroup) = cgroups.existing(&self.cell.name)
            {
                tokio::task::spawn_blocking(move || cgroup.remove());
            }
        }
        self.cell.update(|view| view.ended = true);
        // Whoever still waits for an answer gets one: their ack is dropped with the message.
        self.cell.mailbox.close();
    }

    /// Tells who asked that what they read from now on is the state after it.
    fn answer(&mut self) {
        for ack in self.unanswered.drain(..) {
            // Whoever asked may have gone.
            let _ = ack.send(Ok(()));
        }
    }

    /// Shows the new state and records the transition.
    fn publish(&mut self, to: StateName, reason: &str) {
        let mut from = to;
        let at = clock::now();
        self.cell.update(|view| {
            from = view.state;
            view.state = to;
            // A one-shot is never ready: those that require it wait for its success.
            view.ready = to == StateName::Running && self.definition.kind == Kind::Service;
            if from != to {
                view.since = at;
            }
            if to != StateName::Backoff {
                view.next_start_at = None;
            }
            reason.clone_into(&mut view.reason);
        });
        self.answer();
        if from == to {
            return;
        }
        let instance = &self.cell.name;
        match to {
            StateName::Failed => tracing::error!(%instance, %from, %to, reason, "instance gave up"),
            StateName::Backoff => tracing::warn!(%instance, %from, %to, reason, "instance ended"),
            _ => tracing::info!(%instance, %from, %to, reason, "instance"),
        }
        // Before its event: who sees that it gave up can count on its staying so.
        if matches!((from, to), (_, StateName::Failed) | (StateName::Failed, _)) {
            self.shared.journal.push(Entry::Instance(Arc::clone(&self.cell), None));
        }
        self.shared.journal.event(
            Some(instance.clone()),
            EventKind::Transition { from, to },
            reason,
        );
    }

    /// Shows why it is still in its state.
    fn explain(&self, reason: impl Into<String>) {
        self.cell.update(|view| view.reason = reason.into());
    }

    fn event(&self, kind: &str, reason: &str) {
        self.shared.journal.event(
            Some(self.cell.name.clone()),
            EventKind::Other(kind.to_owned()),
            reason,
        );
    }

    /// The next control, reduced to what it asks of the present state.
    async fn wanted(&mut self) -> Want {
        // Back here without a new state: what was asked for had nothing to change.
        self.answer();
        let control = self.cell.mailbox.next().await;
        self.understand(control)
    }

    fn understand(&mut self, control: Control) -> Want {
        match control {
            Control::Start(ack) => {
                self.tally.clear();
                self.unanswered.push(ack);
                Want::Up
            }
            Control::Stop(ack) => {
                self.unanswered.push(ack);
                Want::Down(Then::Rest, "stopped by an operator".to_owned())
            }
            Control::Restart(why, ack) => {
                self.tally.clear();
                self.unanswered.push(ack);
                Want::Again(why)
            }
            Control::Outdated => Want::Again("its definition changed while the daemon was away"),
            Control::Reset(ack) => {
                self.tally.clear();
                self.cell.update(|view| view.restarts = 0);
                self.shared.journal.push(Entry::Instance(Arc::clone(&self.cell), None));
                self.unanswered.push(ack);
                Want::Clear
            }
            Control::Signal { signal, to, ack } => Want::Signal(signal, to, ack),
            Control::Describe(reply) => Want::Describe(reply),
            Control::Define(definition, ack) => {
                let changed = definition.fingerprint() != self.definition.fingerprint();
                self.cell.redefine(Arc::clone(&definition));
                self.definition = definition;
                self.unanswered.push(ack);
                if self.quit == Some(Quit::Remove) {
                    // It was on its way out and is wanted again.
                    self.quit = None;
                    if self.is_wanted() {
                        return Want::Again("it is part of the fleet again");
                    }
                }
                if !changed {
                    return Want::Nothing;
                }
                self.tally.clear();
                Want::Again("its definition changed")
            }
            Control::Remove => {
                self.quit = Some(Quit::Remove);
                Want::Down(Then::Rest, "no longer part of the fleet".to_owned())
            }
            Control::Shutdown => {
                self.quit = self.quit.or(Some(Quit::Shutdown));
                Want::Down(Then::Rest, "the daemon ends".to_owned())
            }
            Control::Leave => Want::Leave,
            Control::Hold => Want::Down(Then::Start, "what it requires stops".to_owned()),
            Control::Unwell(why) => Want::Down(Then::Judge(why.clone()), why),
            Control::Reauth(why) => Want::Down(Then::Reauth(why.clone()), why),
            Control::Release => Want::Release,
            Control::Asked(why) => Want::Down(Then::Asked(why), "it asked for a restart".into()),
        }
    }

    /// Answers a signal that meets no process.
    fn no_process(&self, ack: Ack) {
        let state = self.cell.view().state.to_string();
        let what = format!("instance `{}`", self.cell.name);
        let _ = ack.send(Err(Error::WrongState {
            what,
            state,
            help: "it has no process to signal; start it first".to_owned(),
        }));
    }
}

/// When an instant of tokio's clock is, on the wall.
fn wall(at: tokio::time::Instant) -> Timestamp {
    clock::now().plus(at.saturating_duration_since(tokio::time::Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_answer<A, B, R>(_: impl Fn(A, B) -> R) -> usize {
        size_of::<R>()
    }

    /// A thousand of them lie in memory for ever: what is rare belongs in a box.
    #[test]
    fn a_task_is_small() {
        let bytes = size_of_answer(Task::run);
        println!("the future of a task takes {bytes} bytes, a state {}", size_of::<State>());
        assert!(bytes <= 1280, "{bytes}");
    }
}
