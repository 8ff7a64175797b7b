//! The supervisor's decisions, with scripted processes and a paused clock: hours pass in milliseconds.

#![expect(clippy::unwrap_used, reason = "the functions around the tests are tests, too")]

mod fleet;
mod journal;
mod memory;
mod order;
mod restarts;
mod scripted;
mod signs;
mod stopping;

use std::{fmt::Debug, sync::Arc, time::Duration};

use kissops_core::{
    Backoff,
    backoff::Jitter,
    store::EventKind,
    supervisor::{
        Definition, ExitStatus, InstanceStatus, Leave, StateName, Supervisor, SupervisorBuilder,
    },
};
use memory::Memory;
use scripted::{Process, Scripted};

/// Between two looks at a condition, of the paused clock.
const LOOK: Duration = Duration::from_millis(5);
/// The longest that a condition may take, of a real clock: the thread that captures output knows no other, and while it
/// is waited for the paused one leaps ahead.
const LIMIT: Duration = Duration::from_secs(20);
/// A timer may be late by its resolution.
const TICK: Duration = Duration::from_millis(2);

/// A supervisor whose processes, store and time are the test's.
struct World {
    supervisor: Supervisor,
    bots: Arc<Scripted>,
    store: Arc<Memory>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(fleet: impl IntoIterator<Item = Definition>) -> Self {
        Self::with(fleet, |builder| builder).await
    }

    async fn with(
        fleet: impl IntoIterator<Item = Definition>,
        build: impl FnOnce(SupervisorBuilder) -> SupervisorBuilder,
    ) -> Self {
        let world = Self::empty(build);
        world.supervisor.begin(fleet.into_iter().collect()).await.unwrap();
        world
    }

    fn empty(build: impl FnOnce(SupervisorBuilder) -> SupervisorBuilder) -> Self {
        let (bots, store) = (Arc::new(Scripted::default()), Arc::new(Memory::default()));
        let dir = tempfile::tempdir().unwrap();
        let builder = Supervisor::builder(Arc::<Memory>::clone(&store))
            .spawn(Arc::<Scripted>::clone(&bots))
            .log_dir(dir.path().join("logs"))
            .runtime_dir(dir.path().join("run"));
        let supervisor = build(builder).build().unwrap();
        Self { supervisor, bots, store, _dir: dir }
    }

    fn status(&self, name: &str) -> InstanceStatus {
        self.supervisor.instance(&name.parse().unwrap()).unwrap()
    }

    fn state(&self, name: &str) -> StateName {
        self.status(name).state
    }

    /// Waits until something holds; fails with what `show` says of that moment.
    async fn until<S: Debug>(&self, what: &str, show: impl Fn() -> S, holds: impl Fn(&S) -> bool) {
        let begun = std::time::Instant::now();
        loop {
            let now = show();
            if holds(&now) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "{what}: still {now:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn reaches(&self, name: &str, state: StateName) {
        let look = || self.status(name);
        self.until(&format!("{name} {state}"), look, |status| status.state == state).await;
    }

    async fn is_ready(&self, name: &str) {
        self.until(name, || self.status(name), |status| status.ready).await;
    }

    /// Waits for the `count`th process of an instance.
    async fn started(&self, name: &str, count: usize) {
        let look = || (self.bots.count(name), self.status(name).reason);
        self.until(&format!("{name} {count}"), look, |(seen, _)| *seen >= count).await;
        self.until(name, || self.status(name), |status| status.pid.is_some()).await;
    }

    fn exit(&self, name: &str, code: i32) {
        self.bots.last(name, |process| process.end(ExitStatus::Code(code)));
    }

    fn last<T>(&self, name: &str, look: impl FnOnce(&mut Process) -> T) -> T {
        self.bots.last(name, look)
    }

    /// Lets time pass.
    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Stored transitions of an instance, as `from>to`.
    fn transitions(&self, name: &str) -> Vec<String> {
        let of = |event: &kissops_core::store::NewEvent| match &event.kind {
            EventKind::Transition { from, to }
                if event.instance.as_ref().is_some_and(|instance| instance.as_str() == name) =>
            {
                Some(format!("{from}>{to}"))
            }
            _ => None,
        };
        self.store.all_events().iter().filter_map(of).collect()
    }

    async fn shut_down(&self, leave: Leave) {
        let begun = std::time::Instant::now();
        let mut ended = std::pin::pin!(self.supervisor.shutdown(leave));
        // In small steps, so that the paused clock does not leap.
        while tokio::time::timeout(LOOK, &mut ended).await.is_err() {
            assert!(begun.elapsed() < LIMIT, "still {:?}", self.supervisor.unfinished());
        }
    }

    /// Ends it all; every process has ended then, and the spawner was told to forget it.
    async fn end(self) {
        self.shut_down(Leave::Stopped).await;
        let names = self.supervisor.names();
        assert!(names.iter().all(|name| !self.bots.is_alive(name.as_str())));
    }
}

fn bot(name: &str) -> Definition {
    Definition::new(name, ["bot"]).unwrap()
}

/// Restarted after exact delays of 1, 2, 4, 8, 8 … seconds, as often as it takes.
fn steady(name: &str) -> Definition {
    let second = Duration::from_secs(1);
    let backoff = Backoff::new(second, 8 * second).unwrap().with_jitter(Jitter::None);
    Definition { backoff, start_limit: None, ..bot(name) }
}

fn name(text: &str) -> kissops_core::id::InstanceName {
    text.parse().unwrap()
}

#[track_caller]
fn assert_about(found: Duration, wanted: Duration) {
    assert!(found >= wanted && found <= wanted + TICK, "{found:?}, not {wanted:?}");
}
