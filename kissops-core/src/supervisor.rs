//! Keeps instances alive: one owning task each, a handle that sends it controls.
//!
//! A [`Supervisor`] is a cheap handle on a fleet of instances, each described by a [`Definition`]. It runs on the
//! caller's tokio runtime, installs no signal handler, reaps no child that is not its own, and keeps what must survive
//! in a [`FleetStore`]. Who starts processes is passed in as a [`Spawn`].

mod adopt;
mod apply;
#[cfg(feature = "vault")]
mod bot;
mod builder;
mod cell;
mod cgroup;
pub(crate) mod companion;
mod definition;
mod direct;
mod environment;
mod equip;
mod journal;
pub mod keeper;
mod keeper_client;
pub mod limits;
mod live;
mod mailbox;
mod notify;
mod plan;
mod planned;
mod procfs;
mod ready;
mod restart;
mod rolling;
mod run;
pub mod select;
mod shared;
mod signal;
mod spawn;
mod state;
mod status;
mod stray;
mod sys;
mod task;
mod tree;
mod user;
mod watch;
mod wire;

use std::sync::Arc;

use tokio::sync::{broadcast, oneshot};

pub use apply::Plan;
#[cfg(feature = "vault")]
pub(crate) use bot::{PeerProcess, WeakSupervisor, uid_of};
pub use builder::SupervisorBuilder;
#[cfg(feature = "vault")]
pub(crate) use builder::make_private;
pub use cgroup::{Cgroup, CgroupRoot};
pub use definition::{
    Definition, EnvValue, Hook, Hooks, Kind, Live, LiveCheck, Ready, ReadyCheck, Restart,
    RestartPolicy, SecretRef, StartLimit, Stop, TokenPolicy,
};
pub use direct::DirectSpawn;
pub use environment::{SecretLookup, Variables};
pub use equip::Equip;
pub use keeper_client::{KeeperClient, KeeperOptions, OrphanExit};
#[cfg(feature = "vault")]
pub(crate) use notify::Said;
pub use plan::RUN_MARK;
pub use rolling::Rolling;
pub use signal::Signal;
pub use spawn::{
    Credentials, ExitStatus, Exited, Launch, ResourceUse, SignalTo, Spawn, Started, Survivor,
};
pub use state::StateName;
pub use status::{InstanceStatus, LastExit};
pub use sys::{trim_heap, use_one_heap};
pub use tree::{Killed, ProcessDetail, Sample, Tracked, Tree, Trees};
pub use user::{credentials, drop_privileges};

use crate::{
    Error, Result,
    id::InstanceName,
    store::{Desired, EventKind, EventRecord, FleetStore},
};
use cell::{Ack, Cell, Control, View};
use journal::Entry;
use shared::Shared;

/// A handle on a running fleet. Clones are handles on the same one.
///
/// Dropping the last handle ends nothing: call [`shutdown`](Self::shutdown).
#[derive(Clone, Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

/// What to wait for with [`Supervisor::settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Running and ready; a one-shot: succeeded.
    Up,
    /// No process.
    Down,
}

/// What becomes of the processes when the supervisor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// They are stopped, in order.
    Stopped,
    /// They run on, for a successor to take over. Only a spawner that outlives us can do that.
    Running,
}

impl Supervisor {
    /// What it needs at least; the rest has defaults.
    pub fn builder(store: Arc<dyn FleetStore>) -> SupervisorBuilder {
        SupervisorBuilder::new(store)
    }

    /// All instances at this moment, by name.
    #[must_use]
    pub fn status(&self) -> Vec<InstanceStatus> {
        self.shared.cells().iter().map(|cell| cell.status()).collect()
    }

    /// One instance at this moment.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub fn instance(&self, name: &InstanceName) -> Result<InstanceStatus> {
        Ok(self.cell(name)?.status())
    }

    /// The definition that is in force for an instance.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub fn definition(&self, name: &InstanceName) -> Result<Arc<Definition>> {
        Ok(self.cell(name)?.definition())
    }

    /// The names of all instances, in order.
    #[must_use]
    pub fn names(&self) -> Vec<InstanceName> {
        self.shared.cells().iter().map(|cell| cell.name.clone()).collect()
    }

    /// Events from now on, each after it was stored. A slow reader misses some and is told so by its receiver.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<EventRecord>> {
        self.shared.journal.subscribe()
    }

    /// Duplicates of what a successor's capture needs to go on where this one ends; see `CaptureOptions::spool`.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if there are too many open files.
    pub fn spool(&self) -> Result<Vec<std::os::fd::OwnedFd>> {
        let share = |fd: &std::os::fd::OwnedFd| {
            fd.try_clone().map_err(Error::io("duplicate the capture's spool"))
        };
        self.shared.capture.spool().iter().map(share).collect()
    }

    /// The store that it was built with.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn FleetStore> {
        &self.shared.store
    }

    /// Notes an event of the fleet as a whole.
    pub fn note(&self, kind: &str, reason: &str) {
        self.shared.journal.event(None, EventKind::Other(kind.to_owned()), reason);
    }

    /// Replaces what instances inherit and what secrets their definitions may name, from their next start on.
    pub fn set_variables(&self, variables: Variables) {
        self.shared.set_variables(variables);
    }

    /// Wants an instance up, and all that it requires. Answers once that is durable and its task has taken it up; the
    /// process follows. Nothing happens to one that is up.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound); [`Unavailable`](Error::Unavailable) if the store does not take it.
    pub async fn start(&self, name: &InstanceName) -> Result<()> {
        let mut order = vec![self.cell(name)?];
        let mut next = 0;
        while let Some(cell) = order.get(next).cloned() {
            for required in &cell.definition().requires {
                if let Some(other) = self.shared.cell(required)
                    && !order.iter().any(|known| known.name == other.name)
                {
                    order.push(other);
                }
            }
            next += 1;
        }
        for cell in order.iter().rev() {
            if cell.name != *name && cell.view().is_up_or_coming() {
                continue;
            }
            self.want(cell, Desired::Running).await?;
            tell(cell, Control::Start).await?;
        }
        Ok(())
    }

    /// Wants an instance down; those that require it stop first and wait for its return. Answers as
    /// [`start`](Self::start) does.
    ///
    /// # Errors
    /// As [`start`](Self::start), but [`Unavailable`](Error::Unavailable) means that it is stopping all the same: a bot
    /// that fills the disk must not go on because the disk is full. The wish is stored once the store takes it again.
    pub async fn stop(&self, name: &InstanceName) -> Result<()> {
        let cell = self.cell(name)?;
        cell.view().desired = Desired::Stopped;
        // At once: a store that is slow to answer must not hold this up either.
        let (saved, told) =
            tokio::join!(self.shared.journal.save(&cell), tell(&cell, Control::Stop));
        saved.map_err(|error| {
            self.shared.journal.push(Entry::Instance(Arc::clone(&cell), None));
            let what = format!("`{name}` is stopping, but the store, which is to remember that,");
            Error::unavailable(what)(error)
        })?;
        told
    }

    /// Wants a new process of an instance. Answers as [`start`](Self::start) does.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart(&self, name: &InstanceName) -> Result<()> {
        let cell = self.cell(name)?;
        if cell.view().state == StateName::Stopped {
            return self.start(name).await;
        }
        self.want(&cell, Desired::Running).await?;
        tell(&cell, |ack| Control::Restart("restarted by an operator", ack)).await
    }

    /// The bot itself asks for a new process: it is stopped as usual, and started as after one of its
    /// `restart_exit_codes`. Nothing happens to one that is not running.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound); [`WrongState`](Error::WrongState) if its restart policy is `never`.
    pub fn request_restart(&self, name: &InstanceName, why: &str) -> Result<()> {
        let cell = self.cell(name)?;
        if cell.definition().restart.policy == RestartPolicy::Never {
            return Err(Error::WrongState {
                what: format!("instance `{name}`"),
                state: "never restarted: restart = \"never\"".into(),
                help: "end the process instead, or let the operator change its restart policy"
                    .into(),
            });
        }
        let why = self.shared.redactor.current().mask_str(why).into_owned();
        cell.mailbox.send(Control::Asked(why));
        Ok(())
    }

    /// Forgets failures and counters of an instance, and starts it if it is wanted up.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn reset(&self, name: &InstanceName) -> Result<()> {
        tell(&*self.cell(name)?, Control::Reset).await
    }

    /// Stops an instance until [`release_reauth`](Self::release_reauth): one of its grants needs a new authorization. One
    /// that is stopped or given up stays so; one that is held already shows the new reason. What is wanted of it does not
    /// change, and an operator who starts it by hand has the last word, unless an [`Equip`] objects.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub fn hold_for_reauth(&self, name: &InstanceName, why: &str) -> Result<()> {
        self.cell(name)?.mailbox.send(Control::Reauth(why.to_owned()));
        Ok(())
    }

    /// Starts an instance that is held for a new authorization, if it is wanted up. Nothing happens to any other.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub fn release_reauth(&self, name: &InstanceName) -> Result<()> {
        self.cell(name)?.mailbox.send(Control::Release);
        Ok(())
    }

    /// Sends a signal to an instance.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound); [`WrongState`](Error::WrongState) if it has no process.
    pub async fn signal(&self, name: &InstanceName, signal: Signal, to: SignalTo) -> Result<()> {
        let cell = self.cell(name)?;
        tell(&cell, |ack| Control::Signal { signal, to, ack }).await
    }

    /// Sends an instance its reload signal.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn reload_signal(&self, name: &InstanceName) -> Result<()> {
        let signal = self.cell(name)?.definition().reload_signal;
        self.signal(name, signal, SignalTo::Main).await
    }

    /// Waits until an instance has reached the goal, or is in a state from which it will not by itself at once:
    /// `stopped`, `failed`, `needs_reauth` and `backoff` end the wait for [`Goal::Up`]. Look at the status to see which.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if it is or becomes no part of the fleet.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn settled(&self, name: &InstanceName, goal: Goal) -> Result<InstanceStatus> {
        let cell = self.cell(name)?;
        let is_over = |view: &View| match (goal, view.state) {
            _ if view.ended => true,
            (Goal::Up, StateName::Running) => view.ready,
            (
                Goal::Up,
                StateName::Stopped
                | StateName::Backoff
                | StateName::Failed
                | StateName::NeedsReauth,
            ) => true,
            (Goal::Up, StateName::Starting | StateName::Stopping) => false,
            (Goal::Down, _) => {
                view.run.is_none()
                    && !matches!(
                        view.state,
                        StateName::Starting | StateName::Stopping | StateName::Running
                    )
            }
        };
        cell.until(|view| is_over(view).then_some(())).await;
        Ok(cell.status())
    }

    fn cell(&self, name: &InstanceName) -> Result<Arc<Cell>> {
        self.shared.cell(name).ok_or_else(|| Error::NotFound { what: format!("instance `{name}`") })
    }

    async fn want(&self, cell: &Arc<Cell>, desired: Desired) -> Result<()> {
        let before = std::mem::replace(&mut cell.view().desired, desired);
        let saved = self.shared.journal.save(cell).await;
        match saved {
            Err(error) if before != desired => {
                cell.view().desired = before;
                Err(error)
            }
            // What was wanted already need not be remembered anew.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// Ends the supervisor: its tasks, and the processes unless they are left. Answers when the last has ended and all
    /// is stored.
    pub async fn shutdown(&self, leave: Leave) {
        for cell in self.shared.cells() {
            cell.mailbox.send(match leave {
                Leave::Stopped => Control::Shutdown,
                Leave::Running => Control::Leave,
            });
        }
        self.shared.stop_watching();
        for cell in self.shared.cells() {
            cell.until(|view| view.ended.then_some(())).await;
        }
        self.shared.journal.hurry();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.journal.close();
        self.shared.writer.close();
        self.shared.writer.wait().await;
        if let Some(cgroups) = &self.shared.cgroups
            && leave == Leave::Stopped
        {
            cgroups.remove();
        }
    }

    /// The processes of an instance, for people: the main one first.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub async fn processes(&self, name: &InstanceName) -> Result<Vec<ProcessDetail>> {
        let (reply, described) = oneshot::channel();
        self.cell(name)?.mailbox.send(Control::Describe(reply));
        let mut processes = described.await.unwrap_or_else(|_| Ok(Vec::new()))?;
        let masks = self.shared.redactor.current();
        for word in processes.iter_mut().flat_map(|process| &mut process.cmdline) {
            *word = masks.mask_str(word).into_owned();
        }
        Ok(processes)
    }

    /// What a shutdown still waits for: instances that have not ended, and why.
    #[must_use]
    pub fn unfinished(&self) -> Vec<(InstanceName, String)> {
        let cells = self.shared.cells();
        cells
            .iter()
            .filter(|cell| !cell.view().ended)
            .map(|cell| (cell.name.clone(), cell.view().reason.clone()))
            .collect()
    }
}

/// Sends a control and waits until the task has taken it up.
async fn tell(cell: &Cell, control: impl FnOnce(Ack) -> Control) -> Result<()> {
    let (ack, taken) = oneshot::channel();
    if cell.view().ended {
        return Err(Error::NotFound { what: format!("instance `{}` any more", cell.name) });
    }
    cell.mailbox.send(control(ack));
    taken.await.unwrap_or_else(|_| {
        Err(Error::NotFound { what: format!("instance `{}` any more", cell.name) })
    })
}
