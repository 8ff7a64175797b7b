//! The first filling of a supervisor: what a predecessor left running goes on under us (SUP-17).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use super::{
    Cgroup, Definition, Kind, Stop, Supervisor, Survivor, Tracked,
    apply::{Plan, desired_at_first, first_state},
    cell::{Cell, Control},
    notify::NotifySocket,
    procfs,
    restart::{self, Tally},
    run::{Note, Run},
    state::{Readiness, State},
    stray,
    task::{identity, line_watch},
};
use crate::{
    Error, Result, clock,
    id::{InstanceName, RunId},
    logs::Output,
    store::{Desired, InstanceRecord, RunEnd, RunRecord},
    supervisor::ExitStatus,
};

impl Supervisor {
    /// Fills the supervisor: takes over every process that a predecessor's spawner has kept, starts what is wanted up,
    /// stops what is no longer part of the fleet. To be called once, before [`apply`](Self::apply).
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store or the spawner does not answer, [`Io`](crate::Error::Io) if a
    /// process that runs cannot be taken back. Nothing was started or stopped.
    pub async fn begin(&self, fleet: Vec<Definition>) -> Result<Plan> {
        let records = self.shared.store.instances().await?;
        let open = self.shared.store.open_runs().await?;
        let mut survivors = self.shared.spawn.survivors().await?;
        let mut found: BTreeMap<InstanceName, (Note, Survivor)> = BTreeMap::new();
        let mut strays = Vec::new();
        let given_up: BTreeSet<InstanceName> = records
            .iter()
            .filter(|record| record.failed.is_some())
            .map(|record| record.name.clone())
            .collect();
        survivors.sort_by_key(|survivor| survivor.run);
        let mut taken_over = false;
        for mut survivor in survivors {
            match Note::decode(&survivor.note) {
                // Of two runs of one instance the later is the one that counts; the other has ended before.
                Some(note)
                    if !note.hook && self.is_buried(&note, &mut survivor, &given_up).await? =>
                {
                    taken_over = true;
                    strays.push(survivor);
                }
                Some(note) if !note.hook => {
                    let follows = note.follows;
                    let newer = found.entry(note.instance.clone());
                    match newer {
                        Entry::Vacant(place) => drop(place.insert((note, survivor))),
                        Entry::Occupied(mut place) => {
                            let (_, mut older) = place.insert((note, survivor));
                            if follows == Some(older.run) {
                                place.get_mut().1.kept = std::mem::take(&mut older.kept);
                            } else {
                                strays.push(older);
                            }
                        }
                    }
                }
                _ => strays.push(survivor),
            }
        }
        self.find_lost(&open, &mut found).await?;
        self.clear_forgotten(&found, &strays).await?;
        taken_over |= !found.is_empty();
        let mut records: BTreeMap<InstanceName, InstanceRecord> =
            records.into_iter().map(|record| (record.name.clone(), record)).collect();
        let mut plan = Plan::default();
        let mut owned = Vec::with_capacity(fleet.len());
        for definition in fleet {
            let name = definition.name.clone();
            let record = records.remove(&name);
            let cell = cell_from(definition, record.as_ref());
            let survivor = found.remove(&name);
            let ours = if survivor.is_some() { &mut plan.unchanged } else { &mut plan.added };
            ours.push(name);
            if record.is_none() {
                self.shared.store.put_instance(cell.record()).await?;
            }
            owned.push((cell, record, survivor));
        }
        plan.removed = found.keys().cloned().collect();
        for (name, (note, survivor)) in found {
            let orphan = Self::unknown(&name, &note)?;
            owned.push((cell_from(orphan, None), None, Some((note, survivor))));
        }
        for (cell, ..) in &owned {
            self.shared.insert(Arc::clone(cell));
        }
        self.shared.link();
        let removed: BTreeSet<&InstanceName> = plan.removed.iter().collect();
        let mut starts = Vec::with_capacity(owned.len());
        for (cell, record, survivor) in owned {
            let is_removed = removed.contains(&cell.name);
            starts.push(self.first(cell, record, survivor, taken_over, is_removed).await?);
        }
        for (cell, state, tally) in starts {
            self.own(cell, state, tally);
        }
        for name in records.into_keys() {
            // A record without an instance: its definition went while we were away.
            self.shared.store.remove_instance(&name).await?;
        }
        for stray in strays {
            self.clear(stray).await;
        }
        Ok(plan)
    }

    /// The first state of an instance, shown before its task runs.
    async fn first(
        &self,
        cell: Arc<Cell>,
        record: Option<InstanceRecord>,
        survivor: Option<(Note, Survivor)>,
        taken_over: bool,
        removed: bool,
    ) -> Result<(Arc<Cell>, State, Tally)> {
        if let Some((note, survivor)) = survivor {
            return self.adopt(cell, note, survivor, removed);
        }
        if let Some(reason) = record.and_then(|record| record.failed) {
            let state = State::given_up();
            cell.update(|view| {
                view.state = state.name();
                view.reason = reason;
            });
            return Ok((cell, state, Tally::default()));
        }
        if taken_over && let Some(status) = self.rests(&cell).await? {
            cell.update(|view| {
                view.succeeded = restart::is_success(&cell.definition(), status);
                view.reason = format!("{status}, before the daemon was restarted");
            });
            return Ok((cell, State::new(), Tally::default()));
        }
        let state = first_state(&cell);
        Ok((cell, state, Tally::default()))
    }

    /// How its last run ended, if that was in this boot and in a way after which it stays down: a daemon that comes back
    /// to a running fleet repeats no one-shot, and starts no bot that has asked to stay down.
    async fn rests(&self, cell: &Cell) -> Result<Option<ExitStatus>> {
        let Some(run) = self.shared.store.runs(&cell.name, 1).await?.pop() else { return Ok(None) };
        let status =
            run.end.filter(|_| run.process.boot_id == *clock::boot_id()).map(|end| end.status);
        let definition = cell.definition();
        // Any other good end may have been a restart that the predecessor's own end cut short.
        let rests = |status: &ExitStatus| match (definition.kind, status) {
            (Kind::Oneshot, status) => restart::is_success(&definition, *status),
            (Kind::Service, ExitStatus::Code(code)) => {
                definition.restart.stop_exit_codes.contains(code)
            }
            (Kind::Service, _) => false,
        };
        Ok(status.filter(rests))
    }

    /// It has ended, and the predecessor had recorded that and acted on it: only its keeper has not forgotten it yet.
    async fn is_buried(
        &self,
        note: &Note,
        survivor: &mut Survivor,
        given_up: &BTreeSet<InstanceName>,
    ) -> Result<bool> {
        let Ok(exited) = survivor.started.exit.try_recv() else { return Ok(false) };
        let (again, exit) = tokio::sync::oneshot::channel();
        // The receiver is right here.
        let _ = again.send(exited);
        survivor.started.exit = exit;
        if given_up.contains(&note.instance) {
            // Decided upon before the end itself was stored.
            return Ok(true);
        }
        let id = note.follows.unwrap_or(survivor.run);
        let last = self.shared.store.runs(&note.instance, 1).await?.pop();
        Ok(last.is_some_and(|run| run.id > id || (run.id == id && run.end.is_some())))
    }

    fn adopt(
        &self,
        cell: Arc<Cell>,
        note: Note,
        survivor: Survivor,
        removed: bool,
    ) -> Result<(Arc<Cell>, State, Tally)> {
        let definition = cell.definition();
        let mut kept = survivor.kept.into_iter();
        let stdout = kept.next();
        let stderr = if note.stderr { kept.next() } else { None };
        let user = if note.notify { kept.next() } else { None };
        let notify = match user {
            Some(fd) => Some(NotifySocket::adopted(fd, note.speaker)?),
            None => None,
        };
        let (watch, line) = if note.ready { (None, None) } else { line_watch(&definition)? };
        let id = note.follows.unwrap_or(survivor.run);
        let outputs = [stdout.as_ref(), stderr.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|fd| Some(rustix::fs::fstat(fd).ok()?.st_ino))
            .collect();
        if let Some(stdout) = stdout {
            let policy = Arc::new(definition.logs.clone());
            self.shared.capture.attach(Output {
                instance: cell.name.clone(),
                run: id,
                stdout,
                stderr,
                policy,
                watch,
            })?;
        }
        let cgroup = self
            .shared
            .cgroups
            .as_ref()
            .and_then(|root| root.instance(&cell.name, &definition.limits).ok());
        let oom_before = cgroup.as_ref().and_then(Cgroup::oom_kills).unwrap_or(0);
        let tree = self.shared.trees.track(Tracked {
            run: id,
            pid: survivor.started.pid,
            cgroup,
            outputs,
        });
        let times = note.times();
        let changed = note.fingerprint != 0 && note.fingerprint != definition.fingerprint();
        let mut tally = Tally::default();
        tally.attempt = note.attempt;
        let readiness = if note.ready || definition.ready.is_none() {
            Readiness::Reached
        } else {
            Readiness::Awaited
        };
        let process = identity(survivor.started.pid);
        let run = Box::new(Run {
            id,
            main: survivor.run,
            pid: survivor.started.pid,
            process,
            exit: survivor.started.exit,
            tree,
            oom_before,
            notify,
            times,
            line,
            turn: None,
            note,
        });
        cell.update(|view| {
            view.restarts = view.restarts.max(run.note.restarts);
            view.run = Some(super::cell::RunView { id: run.id, pid: run.pid, started: times.boot });
            view.since = times.at;
            "taken over from an earlier daemon".clone_into(&mut view.reason);
        });
        let state = State::adopted(run, readiness);
        cell.update(|view| {
            view.state = state.name();
            view.ready = readiness == Readiness::Reached && definition.kind == Kind::Service;
        });
        if removed {
            cell.mailbox.send(Control::Remove);
        } else if cell.view().desired == Desired::Stopped {
            // The predecessor was killed while it stopped it.
            let (ack, _) = tokio::sync::oneshot::channel();
            cell.mailbox.send(Control::Stop(ack));
        } else if changed {
            cell.mailbox.send(Control::Outdated);
        }
        Ok((cell, state, tally))
    }

    /// A definition for a process whose own is gone: enough to stop it as it wanted to be stopped.
    fn unknown(name: &InstanceName, note: &Note) -> Result<Definition> {
        let mut definition = Definition::new(name.as_str(), ["(no longer defined)"])?;
        definition.stop = Stop::from(note.stop);
        definition.autostart = false;
        Ok(definition)
    }

    /// Ends processes of this fleet of which neither the spawner nor the store knows.
    async fn clear_forgotten(
        &self,
        found: &BTreeMap<InstanceName, (Note, Survivor)>,
        strays: &[Survivor],
    ) -> Result<()> {
        let Some(fleet) = self.shared.fleet.clone() else { return Ok(()) };
        let ours = found.values().flat_map(|(note, survivor)| [Some(survivor.run), note.follows]);
        let known: BTreeSet<RunId> =
            ours.flatten().chain(strays.iter().map(|stray| stray.run)).collect();
        let cleared = tokio::task::spawn_blocking(move || stray::clear(&fleet, &known)).await;
        let killed = cleared.map_err(|_| Error::Closed { what: "the runtime" })??;
        if killed > 0 {
            tracing::warn!(
                processes = killed,
                "killed processes of this fleet that no record knew of"
            );
            self.note("strays.killed", &format!("{killed} processes were left by an earlier daemon and keeper that died before they could record them"));
        }
        Ok(())
    }

    /// Processes that the store knows to be running and the spawner does not: it died too. They are found by their
    /// identity, never by their pid alone.
    async fn find_lost(
        &self,
        open: &[RunRecord],
        found: &mut BTreeMap<InstanceName, (Note, Survivor)>,
    ) -> Result<()> {
        for run in open {
            if found.get(&run.instance).is_some_and(|(_, survivor)| survivor.run >= run.id) {
                continue;
            }
            let pid = run.process.pid;
            let started =
                procfs::started(pid).map_err(Error::io(format!("look at process {pid}")))?;
            let alive = run.process.boot_id == *clock::boot_id()
                && started == Some(run.process.start_ticks);
            let adopted = if alive { self.take_back(run).await? } else { None };
            if let Some(adopted) = adopted {
                found.insert(run.instance.clone(), adopted);
            } else {
                // It ended while nobody was there to see how.
                let end = RunEnd { at: clock::now(), status: ExitStatus::Unknown };
                self.shared.journal.push(super::journal::Entry::RunEnded(run.id, end));
            }
        }
        Ok(())
    }

    /// `None` if it has ended.
    async fn take_back(&self, run: &RunRecord) -> Result<Option<(Note, Survivor)>> {
        let mut definition = Definition::new(run.instance.as_str(), ["?"])?;
        definition.autostart = true;
        let age = clock::now().since(run.started_at);
        let times = super::run::Times::of(run.started_at, clock::since_boot().saturating_sub(age));
        let mut note = Note::new(&definition, &times, 0, 0);
        note.ready = true;
        note.fingerprint = 0;
        match self.shared.spawn.adopt(run.id, &run.process, note.encode(), Vec::new()).await {
            Ok(started) => {
                tracing::warn!(instance = %run.instance, pid = run.process.pid, "took back a process whose keeper had died; its output is lost");
                Ok(Some((
                    note,
                    Survivor { run: run.id, started, note: Vec::new(), kept: Vec::new() },
                )))
            }
            Err(Error::NotFound { .. }) => Ok(None),
            // It may well be alive: a fleet that does not start is better than one that runs twice.
            Err(error) => {
                let what =
                    format!("take back the running `{}`, pid {}", run.instance, run.process.pid);
                Err(Error::Io { what, source: std::io::Error::other(error.chain()) })
            }
        }
    }

    /// Ends what belongs to no instance any more: a hook that was cut short, an older run that had ended.
    async fn clear(&self, stray: Survivor) {
        let tree = self.shared.trees.track(Tracked {
            run: stray.run,
            pid: stray.started.pid,
            cgroup: None,
            outputs: Vec::new(),
        });
        let cleared = tree.kill(std::time::Duration::from_secs(5)).await;
        let forgotten = self.shared.spawn.forget(stray.run).await;
        if let Err(error) = cleared.map(drop).and(forgotten) {
            tracing::warn!(run = stray.run.0, error = %error.chain(), "cannot clear what an earlier daemon left");
        }
    }
}

/// An instance as it was when the record was made.
fn cell_from(definition: Definition, record: Option<&InstanceRecord>) -> Arc<Cell> {
    let desired = record.map_or_else(|| desired_at_first(&definition), |record| record.desired);
    let cell = Arc::new(Cell::new(Arc::new(definition), desired));
    cell.view().restarts = record.map_or(0, |record| record.restarts);
    cell
}
