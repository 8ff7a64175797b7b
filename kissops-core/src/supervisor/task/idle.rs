//! States without a process to watch: stopped, backoff, failed, waiting for a token.

use super::{Quit, Step, Task, Want, wall};
use crate::{
    store::Desired,
    supervisor::state::{BackingOff, Failed, NeedsReauth, Stopped, Then},
};

impl Task {
    pub(super) async fn stopped(&mut self, stopped: Stopped) -> Option<Step> {
        loop {
            if self.quit.is_some() {
                return None;
            }
            match self.wanted().await {
                Want::Up => return Step::to(stopped.start(), "started by an operator"),
                Want::Again(why) if self.is_wanted() => return Step::to(stopped.start(), why),
                Want::Clear if self.is_wanted() => {
                    return Step::to(stopped.start(), "reset by an operator");
                }
                Want::Signal(_, _, ack) => self.no_process(ack),
                Want::Describe(reply) => drop(reply.send(Ok(Vec::new()))),
                Want::Leave => return None,
                Want::Nothing | Want::Again(_) | Want::Clear | Want::Release | Want::Down(..) => {}
            }
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.cell.view().desired == Desired::Running
    }

    pub(super) async fn backing_off(&mut self, waiting: BackingOff) -> Option<Step> {
        self.cell.update(|view| view.next_start_at = Some(wall(waiting.until)));
        loop {
            if self.quit.is_some() {
                return Step::to(waiting.stop(), "stopped while it waited for its next start");
            }
            let want = tokio::select! {
                biased;
                want = self.wanted() => want,
                () = tokio::time::sleep_until(waiting.until) => {
                    self.count_restart();
                    return Step::to(waiting.start(), "its delay is over");
                }
            };
            match want {
                Want::Up | Want::Again(_) | Want::Clear => {
                    self.count_restart();
                    return Step::to(
                        waiting.start(),
                        "started by an operator before its delay was over",
                    );
                }
                Want::Down(Then::Rest, why) => return Step::to(waiting.stop(), why),
                Want::Down(Then::Reauth(_), why) => return Step::to(waiting.reauth(), why),
                Want::Signal(_, _, ack) => self.no_process(ack),
                Want::Describe(reply) => drop(reply.send(Ok(Vec::new()))),
                Want::Leave => return None,
                Want::Nothing
                | Want::Release
                | Want::Down(Then::Start | Then::Judge(_) | Then::Asked(_), _) => {}
            }
        }
    }

    fn count_restart(&self) {
        // Kept with the next run's note and the next record: a crash loop must not sync a disk at each turn.
        self.cell.update(|view| view.restarts += 1);
    }

    pub(super) async fn failed(&mut self, failed: Failed) -> Option<Step> {
        loop {
            match self.quit {
                Some(Quit::Shutdown) => return None,
                Some(Quit::Remove) => {
                    return Step::to(failed.stop(), "no longer part of the fleet");
                }
                None => {}
            }
            match self.wanted().await {
                Want::Up => return Step::to(failed.start(), "started by an operator"),
                Want::Again(why) if self.is_wanted() => return Step::to(failed.start(), why),
                Want::Clear if self.is_wanted() => {
                    return Step::to(failed.start(), "reset by an operator");
                }
                Want::Clear => return Step::to(failed.stop(), "reset by an operator"),
                Want::Down(Then::Rest, why) if self.quit.is_none() => {
                    return Step::to(failed.stop(), why);
                }
                Want::Signal(_, _, ack) => self.no_process(ack),
                Want::Describe(reply) => drop(reply.send(Ok(Vec::new()))),
                Want::Leave => return None,
                Want::Nothing | Want::Again(_) | Want::Release | Want::Down(..) => {}
            }
        }
    }

    pub(super) async fn needs_reauth(&mut self, waiting: NeedsReauth) -> Option<Step> {
        loop {
            if self.quit.is_some() {
                return Step::to(waiting.stop(), "stopped while it waited for a new token");
            }
            match self.wanted().await {
                Want::Up | Want::Again(_) | Want::Clear => {
                    return Step::to(waiting.start(), "started by an operator");
                }
                Want::Release if self.is_wanted() => {
                    return Step::to(waiting.start(), "its grants are authorized again");
                }
                Want::Release => {
                    return Step::to(waiting.stop(), "its grants are authorized again");
                }
                Want::Down(Then::Rest, why) => return Step::to(waiting.stop(), why),
                Want::Down(Then::Reauth(_), why) => self.explain(why),
                Want::Signal(_, _, ack) => self.no_process(ack),
                Want::Describe(reply) => drop(reply.send(Ok(Vec::new()))),
                Want::Leave => return None,
                Want::Nothing | Want::Down(..) => {}
            }
        }
    }
}
