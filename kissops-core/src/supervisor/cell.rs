//! What the rest of the program sees of an instance: its view, its inbox, its neighbours. Only its task writes the view.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicI64};

use tokio::sync::{Notify, oneshot};

use super::{
    Definition, InstanceStatus, LastExit, ProcessDetail, Sample, Signal, SignalTo, StateName,
    mailbox::Mailbox, notify::Said,
};
use crate::{
    Result, Timestamp, clock,
    id::{InstanceName, RunId},
    store::{Desired, InstanceRecord},
};

/// Tells the sender that its control was taken up, so that what it reads next is the state after it.
pub(super) type Ack = oneshot::Sender<Result<()>>;

/// What a task can be told.
#[derive(Debug)]
pub(super) enum Control {
    /// An operator wants it up.
    Start(Ack),
    /// An operator wants it down.
    Stop(Ack),
    /// A new process is wanted, for the reason given.
    Restart(&'static str, Ack),
    /// A run was taken over whose definition is no longer the one in force.
    Outdated,
    /// An operator says: what was, is forgotten.
    Reset(Ack),
    /// A signal for its process.
    Signal { signal: Signal, to: SignalTo, ack: Ack },
    /// What its processes are, in detail.
    Describe(oneshot::Sender<Result<Vec<ProcessDetail>>>),
    /// Its definition may have changed.
    Define(Arc<Definition>, Ack),
    /// It is no longer part of the fleet: stop it and end.
    Remove,
    /// The daemon ends: stop it in its turn and end.
    Shutdown,
    /// The daemon ends: end, and leave the process to a successor.
    Leave,
    /// What it requires is about to stop: stop first, and come back with it.
    Hold,
    /// It uses more than it may.
    Unwell(String),
    /// A grant of its needs a new authorization: down, until that is there.
    Reauth(String),
    /// Its grants are good again.
    Release,
    /// It asks for a new process itself, for the reason given.
    Asked(String),
}

/// One instance, shared between its task and everyone else.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) name: InstanceName,
    pub(super) mailbox: Mailbox<Control>,
    /// What the bot says of itself by another way than its notify socket.
    pub(super) spoken: Mailbox<Said>,
    /// When it last said that it is alive, by such a way: microseconds since the epoch, 0 for never.
    pub(super) beat: AtomicI64,
    /// Woken at each change of the view that others may wait for.
    pub(super) changed: Notify,
    view: Mutex<View>,
    definition: Mutex<Arc<Definition>>,
    dependents: Mutex<Vec<InstanceName>>,
}

/// The instance as its task last described it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) state: StateName,
    pub(super) reason: String,
    pub(super) since: Timestamp,
    pub(super) ready: bool,
    /// A one-shot has done its work.
    pub(super) succeeded: bool,
    pub(super) desired: Desired,
    pub(super) run: Option<RunView>,
    pub(super) restarts: u64,
    pub(super) next_start_at: Option<Timestamp>,
    pub(super) status_text: Option<String>,
    pub(super) last_exit: Option<LastExit>,
    pub(super) sample: Option<Usage>,
    /// The task has ended.
    pub(super) ended: bool,
}

/// What its process tree uses, between the last two samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) sample: Sample,
    /// Percent of one core.
    pub(super) cpu_percent: Option<f64>,
}

/// The process as others see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunView {
    pub(super) id: RunId,
    pub(super) pid: i32,
    /// On [`clock::since_boot`].
    pub(super) started: std::time::Duration,
}

impl Cell {
    pub(super) fn new(definition: Arc<Definition>, desired: Desired) -> Self {
        Self {
            name: definition.name.clone(),
            mailbox: Mailbox::new(),
            spoken: Mailbox::new(),
            beat: AtomicI64::new(0),
            changed: Notify::new(),
            view: Mutex::new(View {
                state: StateName::Stopped,
                reason: "not started yet".to_owned(),
                since: clock::now(),
                ready: false,
                succeeded: false,
                desired,
                run: None,
                restarts: 0,
                next_start_at: None,
                status_text: None,
                last_exit: None,
                sample: None,
                ended: false,
            }),
            definition: Mutex::new(definition),
            dependents: Mutex::new(Vec::new()),
        }
    }

    /// The view, locked: never held across an await.
    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the view and wakes those who wait for a change.
    pub(super) fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view());
        self.changed.notify_waiters();
    }

    pub(super) fn definition(&self) -> Arc<Definition> {
        Arc::clone(&self.definition.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn redefine(&self, definition: Arc<Definition>) {
        *self.definition.lock().unwrap_or_else(PoisonError::into_inner) = definition;
    }

    /// Those that require this one.
    pub(super) fn dependents(&self) -> Vec<InstanceName> {
        self.dependents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_dependents(&self, names: Vec<InstanceName>) {
        *self.dependents.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Waits until `condition` holds of the view.
    pub(super) async fn until<T>(&self, mut condition: impl FnMut(&View) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Enabled before the look, so that a change between the look and the wait is not missed.
            changed.as_mut().enable();
            if let Some(found) = condition(&self.view()) {
                return found;
            }
            changed.await;
        }
    }

    pub(super) fn record(&self) -> InstanceRecord {
        let view = self.view();
        InstanceRecord {
            name: self.name.clone(),
            desired: view.desired,
            restarts: view.restarts,
            failed: (view.state == StateName::Failed).then(|| view.reason.clone()),
            updated_at: clock::now(),
        }
    }

    pub(super) fn status(&self) -> InstanceStatus {
        let definition = self.definition();
        let view = self.view();
        let sample = view.sample.as_ref();
        InstanceStatus {
            name: self.name.clone(),
            state: view.state,
            ready: view.ready,
            desired: view.desired,
            since: view.since,
            reason: view.reason.clone(),
            pid: view.run.map(|run| run.pid),
            uptime_seconds: view
                .run
                .map(|run| clock::since_boot().saturating_sub(run.started).as_secs_f64()),
            restarts: view.restarts,
            next_start_at: view.next_start_at,
            rss_bytes: sample.map(|usage| usage.sample.rss_bytes),
            cpu_percent: sample.and_then(|usage| usage.cpu_percent),
            threads: sample.map(|usage| usage.sample.threads),
            processes: sample.map(|usage| usage.sample.processes),
            memory_max_bytes: definition.limits.memory_max.map(|size| size.0),
            status_text: view.status_text.clone(),
            last_exit: view.last_exit.clone(),
            description: definition.description.clone(),
            tags: definition.tags.clone(),
        }
    }
}

impl View {
    /// Nobody has to start it: it is up, on its way there by itself, or has done its work.
    pub(super) fn is_up_or_coming(&self) -> bool {
        let waits =
            matches!(self.state, StateName::Stopped | StateName::Failed | StateName::NeedsReauth);
        self.succeeded || (self.desired == Desired::Running && !waits)
    }

    /// There is nothing of it that could still need what it requires.
    pub(super) fn is_down(&self) -> bool {
        self.ended || self.run.is_none()
    }
}
