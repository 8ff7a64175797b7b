//! On the way down: those that need it first, then its hooks, its signal, its grace, its tree (SUP-10).

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Quit, Step, Task, Want, end::Death, hooks::Stage, start::heard};
use crate::{
    HumanDuration,
    supervisor::{
        Exited, Signal, SignalTo,
        cell::Control,
        notify::Said,
        run::Run,
        state::{Stopping, Then},
    },
};

impl Task {
    pub(super) async fn stopping(&mut self, mut stopping: Stopping) -> Option<Step> {
        if !self.release_dependents(&mut stopping.then).await {
            return None;
        }
        if !self.definition.hooks.pre_stop.is_empty() {
            self.explain("runs its pre_stop");
            // A hook that fails does not keep an instance alive.
            let _ = self.hooks(Stage::PreStop).await;
        }
        let (exited, forced) = self.end_process(&mut stopping).await?;
        let (ended, run, then) = stopping.ended();
        self.explain("clears its process tree");
        let out_of_memory = run.ran_out_of_memory();
        self.clear_tree(&run).await;
        let uptime = run.stable_uptime(exited.at);
        let failed = matches!(then, Then::Judge(_));
        let why = match &then {
            Then::Judge(why) => Some(why.clone()),
            _ => forced.then(|| {
                format!(
                    "did not end within its grace of {}",
                    HumanDuration(self.definition.stop.grace)
                )
            }),
        };
        let reason = self.bury(run, &exited, Death { crashed: failed, out_of_memory, why });
        if !self.definition.hooks.post_stop.is_empty() {
            let _ = self.hooks(Stage::PostStop).await;
        }
        match then {
            Then::Rest => Step::to(ended.rest(), reason),
            Then::Start | Then::Judge(_) | Then::Asked(_) if self.quit.is_some() => {
                Step::to(ended.rest(), reason)
            }
            Then::Start => Step::to(ended.start(), reason),
            Then::Reauth(why) => Step::to(ended.reauth(), why),
            Then::Judge(_) => self.decide_retry(ended, uptime, reason),
            Then::Asked(why) => {
                let due = Instant::now() + self.tally.asked(uptime);
                Step::to(ended.back_off(due), format!("{reason}: it asked for a restart: {why}"))
            }
        }
    }

    /// Asks those that require this one to stop first, and waits until they have. `false` if the task is to end now.
    async fn release_dependents(&mut self, then: &mut Then) -> bool {
        let names = self.cell.dependents();
        let mut dependents: Vec<_> =
            names.iter().filter_map(|name| self.shared.cell(name)).collect();
        dependents.retain(|other| !other.view().is_down());
        // All at once: each may take its whole grace.
        if self.quit != Some(Quit::Shutdown) {
            for other in &dependents {
                other.mailbox.send(Control::Hold);
            }
        }
        for other in dependents {
            self.explain(format!("waits for `{}` to stop first", other.name));
            let down = async { other.until(|view| view.is_down().then_some(())).await };
            let mut down = pin!(down);
            loop {
                let want = tokio::select! {
                    biased;
                    want = self.wanted() => want,
                    () = &mut down => break,
                };
                if !self.reconsider(want, then, None).await {
                    return false;
                }
            }
        }
        true
    }

    /// Signals the process and waits for its end: politely, then not. `None` if the task is to end now.
    async fn end_process(&mut self, stopping: &mut Stopping) -> Option<(Exited, bool)> {
        let stop = self.definition.stop;
        self.send(&stopping.run, stop.signal, stop.to).await;
        // A stopped process sees no signal until it goes on.
        self.send(&stopping.run, Signal::CONT, SignalTo::Group).await;
        self.explain(format!("got {}; has {} to end", stop.signal, HumanDuration(stop.grace)));
        let mut deadline = Instant::now() + stop.grace;
        let mut forced = false;
        let cell = Arc::clone(&self.cell);
        loop {
            let want = tokio::select! {
                biased;
                exited = &mut stopping.run.exit => match self.end_of(&mut stopping.run, exited).await {
                    Some(exited) => return Some((exited, forced)),
                    None => continue,
                },
                want = self.wanted() => want,
                said = heard(stopping.run.notify.as_ref(), &cell) => {
                    for said in said {
                        match said {
                            Said::ExtendTimeout(by) if !forced => deadline = deadline.max(Instant::now() + by),
                            other => self.note_said(&mut stopping.run, other).await,
                        }
                    }
                    continue;
                }
                () = tokio::time::sleep_until(deadline) => {
                    if !forced {
                        self.explain(format!("did not end within {}; killed", HumanDuration(stop.grace)));
                        self.event("stop.forced", &format!("did not end within {}; its process tree is killed", HumanDuration(stop.grace)));
                    }
                    forced = true;
                    self.send(&stopping.run, Signal::KILL, SignalTo::Group).await;
                    // Its end arrives like any other; this only repeats for what cannot die at once.
                    if let Err(error) = stopping.run.tree.kill(Duration::from_secs(1)).await {
                        self.explain(error.chain());
                    }
                    deadline = Instant::now() + Duration::from_secs(1);
                    continue;
                }
            };
            if !self.reconsider(want, &mut stopping.then, Some(&stopping.run)).await {
                return None;
            }
        }
    }

    /// What a control changes about a stop that is under way. `false` if the task is to end now.
    async fn reconsider(&mut self, want: Want, then: &mut Then, run: Option<&Run>) -> bool {
        match want {
            // The second: who is stopped for good does not come back because something else had wanted it to.
            Want::Release if matches!(then, Then::Reauth(_)) => *then = Then::Start,
            Want::Nothing
            | Want::Clear
            | Want::Release
            | Want::Down(Then::Start | Then::Judge(_) | Then::Asked(_), _) => {}
            Want::Up | Want::Again(_) => *then = Then::Start,
            Want::Down(Then::Rest, _) => *then = Then::Rest,
            Want::Down(Then::Reauth(why), _) => *then = Then::Reauth(why),
            Want::Signal(signal, to, ack) => match run {
                Some(run) => {
                    let sent = self.shared.spawn.signal(run.main, signal, to).await;
                    // Whoever asked may have gone.
                    let _ = ack.send(sent);
                }
                None => self.no_process(ack),
            },
            Want::Describe(reply) => {
                let described = match run {
                    Some(run) => run.tree.describe().await,
                    None => Ok(Vec::new()),
                };
                // Whoever asked may have gone.
                let _ = reply.send(described);
            }
            Want::Leave => return false,
        }
        true
    }

    /// Sends a signal; a process that has ended meanwhile is no error.
    async fn send(&self, run: &Run, signal: Signal, to: SignalTo) {
        match self.shared.spawn.signal(run.main, signal, to).await {
            Ok(()) | Err(crate::Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(instance = %self.cell.name, %signal, error = %error.chain(), "a signal could not be sent");
            }
        }
    }
}
