//! Making a process: its environment, its pipes, its place, then the spawner.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Task;
use crate::{
    Error, Result, clock,
    id::{ProcessIdentity, RunId},
    logs::{self, LineWatch, Output, Pipes},
    store::RunRecord,
    supervisor::{
        Cgroup, Credentials, Definition, Launch, LiveCheck, ReadyCheck, Started, Tracked,
        cell::RunView,
        environment,
        journal::Entry,
        notify::NotifySocket,
        procfs,
        run::{Note, Run, Times},
        stray::FLEET_MARK,
        user::Account,
    },
};

/// Variables and their values.
type Environ = BTreeMap<OsString, OsString>;

/// Everything that is there before the process is.
struct Prepared {
    id: RunId,
    credentials: Option<Credentials>,
    env: Environ,
    cgroup: Option<Cgroup>,
    notify: Option<NotifySocket>,
}

/// A process that has just begun.
struct Begun {
    started: Started,
    /// Of the pipes that it writes to.
    outputs: Vec<u64>,
    line: Option<oneshot::Receiver<()>>,
}

/// Stands for a start time that nobody knows: the largest that every store can hold, at which no process starts.
const NO_START: u64 = i64::MAX.unsigned_abs();

impl Task {
    /// Starts the process. What it had set up is taken down again on an error.
    pub(super) async fn launch(&mut self, turn: Option<OwnedSemaphorePermit>) -> Result<Box<Run>> {
        let definition = Arc::clone(&self.definition);
        let mut prepared = self.prepare_launch(&definition).await?;
        let id = prepared.id;
        let times = Times::now();
        let restarts = self.cell.view().restarts;
        let mut note = Note::new(&definition, &times, restarts, self.tally.attempt);
        note.notify = prepared.notify.is_some();
        note.speaker = prepared.credentials.as_ref().map(|user| user.uid);
        let Begun { started, outputs, line } =
            match self.begin(&definition, &mut prepared, &mut note).await {
                Ok(begun) => begun,
                Err(error) => {
                    if let Some(socket) = prepared.notify {
                        socket.remove();
                    }
                    return Err(error);
                }
            };
        let Prepared { cgroup, notify, .. } = prepared;
        let pid = started.pid;
        let oom_before = cgroup.as_ref().and_then(Cgroup::oom_kills).unwrap_or(0);
        // Another than before where a keeper has died.
        self.shared.trees.set_reaper(self.shared.spawn.reaper());
        let tree = self.shared.trees.track(Tracked { run: id, pid, cgroup, outputs });
        self.show(id, pid, &times);
        let process = self.record(id, pid, &times);
        Ok(Box::new(Run {
            id,
            main: id,
            pid,
            process,
            exit: started.exit,
            tree,
            oom_before,
            notify,
            times,
            line,
            turn,
            note,
        }))
    }

    /// Why it is not to be started, by a grant that needs a new authorization.
    pub(super) async fn obstacle(&self) -> Option<String> {
        let equip = self.shared.equip.as_ref()?;
        Box::pin(equip.obstacle(&self.definition)).await
    }

    async fn prepare_launch(&self, definition: &Arc<Definition>) -> Result<Prepared> {
        let id = self.shared.next_run();
        let (mut env, credentials) = self.surroundings(definition).await?;
        let cgroup = match &self.shared.cgroups {
            Some(root) => Some(root.instance(&definition.name, &definition.limits)?),
            None => None,
        };
        if let Some(equip) = &self.shared.equip {
            env.extend(equip.equip(definition, credentials.as_ref().map(|user| user.uid)).await?);
        }
        // The last: nothing after it can fail and leave its file behind.
        let notify = self.notify_socket(definition, id, credentials.as_ref(), &mut env)?;
        Ok(Prepared { id, credentials, env, cgroup, notify })
    }

    /// Its pipes, the capture of them, and the process. Takes the environment and the user out of `prepared`.
    async fn begin(
        &self,
        definition: &Definition,
        prepared: &mut Prepared,
        note: &mut Note,
    ) -> Result<Begun> {
        let id = prepared.id;
        let pipes = logs::pipes(definition.logs.format)?;
        note.stderr = pipes.stderr.is_some();
        let mut kept: Vec<OwnedFd> = Vec::with_capacity(3);
        for fd in [Some(&pipes.stdout), pipes.stderr.as_ref()].into_iter().flatten() {
            kept.push(
                fd.as_fd().try_clone_to_owned().map_err(Error::io("duplicate an output pipe"))?,
            );
        }
        if let Some(socket) = &prepared.notify {
            kept.push(socket.share()?);
        }
        let outputs = output_inodes(&pipes);
        let (watch, line) = line_watch(definition)?;
        self.shared.capture.attach(Output {
            instance: definition.name.clone(),
            run: id,
            stdout: pipes.stdout,
            stderr: pipes.stderr,
            policy: Arc::new(definition.logs.clone()),
            watch,
        })?;
        let launch = Launch {
            run: id,
            instance: definition.name.clone(),
            command: definition.command.iter().map(OsString::from).collect(),
            env: std::mem::take(&mut prepared.env),
            cwd: definition.cwd.clone(),
            credentials: prepared.credentials.take(),
            umask: definition.umask,
            rlimits: definition.limits.rlimits.clone(),
            cgroup: prepared.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
            stdout: pipes.child_stdout,
            stderr: pipes.child_stderr,
            kept,
            note: note.encode(),
        };
        match self.shared.spawn.spawn(launch).await {
            Ok(started) => Ok(Begun { started, outputs, line }),
            Err(error) => {
                self.shared.capture.finish(id).await;
                Err(error)
            }
        }
    }

    /// Environment and user. Files are read off the runtime: a slow disk or directory holds up nobody else.
    pub(super) async fn surroundings(
        &self,
        definition: &Arc<Definition>,
    ) -> Result<(Environ, Option<Credentials>)> {
        let variables = self.shared.variables();
        let redactor = Arc::clone(&self.shared.redactor);
        let reads = definition.user.is_some()
            || definition.group.is_some()
            || !definition.env_file.is_empty()
            || definition.has_secret_files();
        let kept = environment::kept(definition, self.shared.secrets.as_deref()).await?;
        let definition = Arc::clone(definition);
        let build = move || -> Result<(Environ, Option<Credentials>)> {
            let mut env = environment::build(&definition, &variables, &kept, &redactor)?;
            let account = Account::find(definition.user.as_deref(), definition.group.as_deref())?;
            if let Some(account) = &account {
                for (key, value) in account.variables() {
                    // What the definition says of them wins.
                    if !definition.env.contains_key(key) {
                        env.insert(key.into(), value.into());
                    }
                }
            }
            Ok((env, account.map(|account| account.credentials)))
        };
        let (mut env, credentials) = if reads {
            tokio::task::spawn_blocking(build)
                .await
                .map_err(|_| Error::Closed { what: "the runtime" })??
        } else {
            build()?
        };
        if let Some(fleet) = &self.shared.fleet {
            env.insert(FLEET_MARK.into(), fleet.into());
        }
        Ok((env, credentials))
    }

    fn notify_socket(
        &self,
        definition: &Definition,
        id: RunId,
        credentials: Option<&Credentials>,
        env: &mut Environ,
    ) -> Result<Option<NotifySocket>> {
        if !definition.uses_notify() {
            return Ok(None);
        }
        let socket = NotifySocket::bind(
            &self.shared.notify_dir,
            &definition.name,
            id.0,
            credentials.map(|user| user.uid),
        )?;
        env.insert("NOTIFY_SOCKET".into(), socket.variable());
        for live in &definition.live {
            if let LiveCheck::Watchdog { every } = live.check {
                env.insert("WATCHDOG_USEC".into(), every.as_micros().to_string().into());
            }
        }
        Ok(Some(socket))
    }

    pub(super) fn show(&self, id: RunId, pid: i32, times: &Times) {
        // What an earlier process had said is not about this one.
        self.cell.spoken.clear();
        let run = RunView { id, pid, started: times.boot };
        self.cell.update(|view| {
            view.run = Some(run);
            view.succeeded = false;
            view.status_text = None;
            view.sample = None;
        });
    }

    /// Remembers which process it is, for a successor that finds neither us nor the keeper.
    fn record(&self, id: RunId, pid: i32, times: &Times) -> Option<ProcessIdentity> {
        let process = identity(pid);
        // One that is gone already cannot be found again, and its exit is on its way; but that it has run is to be known.
        let gone =
            || ProcessIdentity { pid, start_ticks: NO_START, boot_id: clock::boot_id().clone() };
        let run = RunRecord {
            id,
            instance: self.cell.name.clone(),
            process: process.clone().unwrap_or_else(gone),
            started_at: times.at,
            end: None,
        };
        self.shared.journal.push(Entry::RunBegan(run));
        process
    }
}

/// By which a process that has lost every other trace of its run is still known: the pipes that it writes to.
pub(super) fn output_inodes(pipes: &Pipes) -> Vec<u64> {
    let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).ok().map(|stat| stat.st_ino);
    [Some(&pipes.stdout), pipes.stderr.as_ref()].into_iter().flatten().filter_map(inode).collect()
}

/// What tells a living process from any other that ever had its pid.
pub(in crate::supervisor) fn identity(pid: i32) -> Option<ProcessIdentity> {
    let start_ticks = procfs::start_ticks(pid)?;
    Some(ProcessIdentity { pid, start_ticks, boot_id: clock::boot_id().clone() })
}

/// The watch over output that readiness may need.
pub(in crate::supervisor) fn line_watch(
    definition: &Definition,
) -> Result<(Option<LineWatch>, Option<oneshot::Receiver<()>>)> {
    let Some(ReadyCheck::Log(pattern)) = definition.ready.as_ref().map(|ready| &ready.check) else {
        return Ok((None, None));
    };
    let pattern = regex::bytes::Regex::new(pattern).map_err(|error| {
        Error::invalid(
            format!("instance.{}.ready.log", definition.name),
            format!("is not a regular expression: {error}"),
        )
    })?;
    let (found, line) = oneshot::channel();
    Ok((Some(LineWatch { pattern, found }), Some(line)))
}
