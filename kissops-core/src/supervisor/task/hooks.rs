//! Commands around the life of an instance (SUP-12), each a process like the instance's own: same user, same
//! environment, same log, its own tree.

use std::{ffi::OsString, sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Task, launch::output_inodes};
use crate::{
    Error, Result,
    logs::{self, Output},
    supervisor::{
        Definition, ExitStatus, Hook, Launch, Signal, SignalTo, Tracked,
        restart::Tally,
        run::{Note, Times},
    },
};

/// Which list of hooks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    PreStart,
    PostStart,
    PreStop,
    PostStop,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::PreStart => "pre_start",
            Self::PostStart => "post_start",
            Self::PreStop => "pre_stop",
            Self::PostStop => "post_stop",
        }
    }

    fn of(self, definition: &Definition) -> &[Hook] {
        let hooks = &definition.hooks;
        match self {
            Self::PreStart => &hooks.pre_start,
            Self::PostStart => &hooks.post_start,
            Self::PreStop => &hooks.pre_stop,
            Self::PostStop => &hooks.post_stop,
        }
    }
}

impl Task {
    /// Runs the hooks of a stage in order, up to the first that fails. Says which and why.
    pub(super) async fn hooks(&self, stage: Stage) -> Result<(), String> {
        let (hooks, _cancel) = self.hooks_aside(stage);
        hooks.await.unwrap_or_else(|_| Err("the runtime ends".to_owned()))
    }

    /// Runs the hooks of a stage beside the instance, until the token is cancelled.
    pub(super) fn hooks_aside(
        &self,
        stage: Stage,
    ) -> (JoinHandle<Result<(), String>>, CancellationToken) {
        let aside = Self::new(Arc::clone(&self.cell), Arc::clone(&self.shared), Tally::default());
        let cancel = CancellationToken::new();
        let cancelled = cancel.clone();
        (self.shared.tasks.spawn(async move { aside.run_hooks(stage, &cancelled).await }), cancel)
    }

    async fn run_hooks(&self, stage: Stage, cancel: &CancellationToken) -> Result<(), String> {
        let definition = Arc::clone(&self.definition);
        for hook in stage.of(&definition) {
            let outcome = self.hook(&definition, hook, cancel).await;
            if let Err(error) = outcome {
                let why =
                    format!("{} `{}`: {}", stage.name(), hook.command.join(" "), error.chain());
                let why = self.shared.redactor.current().mask_str(&why).into_owned();
                tracing::warn!(instance = %self.cell.name, error = %why, "a hook failed");
                self.event("hook.failed", &why);
                return Err(why);
            }
        }
        Ok(())
    }

    async fn hook(
        &self,
        definition: &Arc<Definition>,
        hook: &Hook,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let id = self.shared.next_run();
        let (env, credentials) = self.surroundings(definition).await?;
        let pipes = logs::pipes(definition.logs.format)?;
        let outputs = output_inodes(&pipes);
        self.shared.capture.attach(Output {
            instance: definition.name.clone(),
            run: id,
            stdout: pipes.stdout,
            stderr: pipes.stderr,
            policy: Arc::new(definition.logs.clone()),
            watch: None,
        })?;
        let mut note = Note::new(definition, &Times::now(), 0, 0);
        note.hook = true;
        let launch = Launch {
            run: id,
            instance: definition.name.clone(),
            command: hook.command.iter().map(OsString::from).collect(),
            env,
            cwd: definition.cwd.clone(),
            credentials,
            umask: definition.umask,
            rlimits: definition.limits.rlimits.clone(),
            // Not in the instance's own: what a hook has left behind is killed without touching the instance.
            cgroup: None,
            stdout: pipes.child_stdout,
            stderr: pipes.child_stderr,
            kept: Vec::new(),
            note: note.encode(),
        };
        let started = match self.shared.spawn.spawn(launch).await {
            Ok(started) => started,
            Err(error) => {
                self.shared.capture.finish(id).await;
                return Err(error);
            }
        };
        let tree =
            self.shared.trees.track(Tracked { run: id, pid: started.pid, cgroup: None, outputs });
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(hook.timeout, started.exit) => Some(outcome),
            () = cancel.cancelled() => None,
        };
        if !matches!(outcome, Some(Ok(_))) {
            // Its end is waited for below, as its tree becoming empty.
            let _ = self.shared.spawn.signal(id, Signal::KILL, SignalTo::Group).await;
        }
        tree.kill(Duration::from_secs(5)).await?;
        self.shared.capture.finish(id).await;
        self.shared.spawn.forget(id).await?;
        match outcome {
            Some(Ok(Ok(exited))) if exited.status == ExitStatus::Code(0) => Ok(()),
            Some(Ok(Ok(exited))) => Err(Error::WrongState {
                what: "it".into(),
                state: "over".into(),
                help: exited.status.to_string(),
            }),
            Some(Ok(Err(_))) => Err(Error::Closed { what: "the keeper" }),
            Some(Err(_)) => Err(Error::Timeout { what: "it".into(), limit: hook.timeout }),
            None => Err(Error::Closed { what: "the start that it belonged to" }),
        }
    }
}
