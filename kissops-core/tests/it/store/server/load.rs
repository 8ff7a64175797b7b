//! Tasks that write to a store without a pause and remember what was acknowledged.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use kissops_core::{
    Error, Timestamp,
    id::{InstanceName, RecordId, RunId},
    store::{CrashQuery, CrashReport, Desired, EventQuery, InstanceRecord, MemberRecord, Store},
    supervisor::ExitStatus,
};
use tokio::{task::JoinSet, time::sleep};

use crate::store::event;

/// What is acknowledged must come forward within.
const DEADLINE: Duration = Duration::from_mins(1);

pub(super) struct Load {
    tasks: JoinSet<Seen>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

/// What one task saw.
#[derive(Default)]
struct Seen {
    events: Vec<(RecordId, String)>,
    /// Appends that failed: each may be there, whole.
    doubtful: Vec<Vec<String>>,
    crashes: Vec<(RecordId, String)>,
    /// The largest number that was acknowledged, and the largest that was tried.
    instances: Vec<(InstanceName, u64, u64)>,
    /// Whether it must be there; `None` after an error.
    members: BTreeMap<InstanceName, Option<bool>>,
    failed: u64,
}

/// What a run did, for the reader of a test's output.
#[derive(Debug)]
#[allow(dead_code, reason = "printed")]
pub(super) struct Figures {
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) doubtful_but_there: usize,
}

impl Load {
    pub(super) fn start(store: &Arc<dyn Store>) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            tasks.spawn(events(Arc::clone(store), Arc::clone(&shared), task));
        }
        for task in 0..4 {
            tasks.spawn(instances(Arc::clone(store), Arc::clone(&shared), task));
            tasks.spawn(crashes(Arc::clone(store), Arc::clone(&shared), task));
        }
        for task in 0..2 {
            tasks.spawn(members(Arc::clone(store), Arc::clone(&shared), task));
        }
        Self { tasks, shared }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Relaxed)
    }

    /// Waits until `more` writes have been acknowledged from now on.
    pub(super) async fn goes_on(&self, more: u64) {
        let (begun, wanted) = (Instant::now(), self.acknowledged() + more);
        while self.acknowledged() < wanted {
            assert!(begun.elapsed() < DEADLINE, "the store does not recover");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends the tasks and compares what they saw with what is there.
    pub(super) async fn verify(mut self, store: &Arc<dyn Store>) -> Figures {
        self.shared.stop.store(true, Relaxed);
        let mut seen = Vec::new();
        while let Some(task) = self.tasks.join_next().await {
            seen.push(task.unwrap());
        }
        let doubtful_but_there = verify_events(store, &seen).await;
        verify_crashes(store, &seen).await;
        verify_instances(store, &seen).await;
        Figures {
            acknowledged: self.acknowledged(),
            failed: seen.iter().map(|seen| seen.failed).sum(),
            doubtful_but_there,
        }
    }
}

async fn verify_events(store: &Arc<dyn Store>, seen: &[Seen]) -> usize {
    let found =
        store.events(EventQuery { limit: u32::MAX, ..EventQuery::default() }).await.unwrap();
    assert!(found.is_sorted_by(|a, b| a.id < b.id), "ids in their order");
    let by_id: HashMap<_, _> = found.iter().map(|one| (one.id, &*one.event.reason)).collect();
    let reasons: HashSet<_> = found.iter().map(|one| &*one.event.reason).collect();
    assert_eq!(reasons.len(), found.len(), "an event is there twice");
    let mut known = 0;
    for seen in seen {
        for (id, reason) in &seen.events {
            assert_eq!(by_id.get(id), Some(&&**reason), "acknowledged and lost");
        }
        assert!(seen.events.is_sorted_by(|a, b| a.0 < b.0), "ids grow");
        known += seen.events.len();
        for append in &seen.doubtful {
            let there = append.iter().filter(|reason| reasons.contains(&***reason)).count();
            assert!(there == 0 || there == append.len(), "half of an append: {append:?}");
        }
    }
    found.len() - known
}

async fn verify_crashes(store: &Arc<dyn Store>, seen: &[Seen]) {
    let query = CrashQuery { limit: u32::MAX, ..CrashQuery::default() };
    let found = store.crashes(query).await.unwrap();
    let by_id: HashMap<_, _> = found.iter().map(|one| (one.id, &*one.report.reason)).collect();
    let reasons: HashSet<_> = found.iter().map(|one| &*one.report.reason).collect();
    assert_eq!(reasons.len(), found.len(), "a crash is there twice");
    for (id, reason) in seen.iter().flat_map(|seen| &seen.crashes) {
        assert_eq!(by_id.get(id), Some(&&**reason), "acknowledged and lost");
    }
}

async fn verify_instances(store: &Arc<dyn Store>, seen: &[Seen]) {
    let found = store.instances().await.unwrap();
    let found: HashMap<_, _> = found.into_iter().map(|one| (one.name, one.restarts)).collect();
    for (name, acknowledged, tried) in seen.iter().flat_map(|seen| &seen.instances) {
        let there = found.get(name).copied().unwrap_or(0);
        assert!(
            (*acknowledged..=*tried).contains(&there),
            "{name}: {there} of {acknowledged}..{tried}"
        );
    }
    let members: HashSet<_> =
        store.members().await.unwrap().into_iter().map(|one| one.name).collect();
    for (name, expected) in seen.iter().flat_map(|seen| &seen.members) {
        assert!(
            expected.is_none_or(|there| there == members.contains(name)),
            "{name}: {expected:?}"
        );
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    /// Counts an answer; after an error that may pass, a moment for others.
    async fn answered<T>(&self, answer: Result<T, Error>, failed: &mut u64) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.acknowledged.fetch_add(1, Relaxed);
                Some(answer)
            }
            Err(err) => {
                let uncertain = matches!(err, Error::Uncertain { .. });
                assert!(err.is_transient() || uncertain, "{}", err.chain());
                *failed += 1;
                sleep(Duration::from_millis(1)).await;
                None
            }
        }
    }
}

async fn events(store: Arc<dyn Store>, shared: Arc<Shared>, task: usize) -> Seen {
    let mut seen = Seen::default();
    for n in 0_usize.. {
        if !shared.goes_on() {
            break;
        }
        let reasons: Vec<_> = (0..=n % 3).map(|part| format!("{task}.{n}.{part}")).collect();
        let answer = store.append_events(reasons.iter().map(|one| event(one)).collect()).await;
        match shared.answered(answer, &mut seen.failed).await {
            Some(ids) => {
                assert_eq!(ids.len(), reasons.len());
                seen.events.extend(ids.into_iter().zip(reasons));
            }
            None => seen.doubtful.push(reasons),
        }
    }
    seen
}

pub(super) fn instance(name: &str, restarts: u64) -> InstanceRecord {
    InstanceRecord {
        name: InstanceName::new(name).unwrap(),
        desired: Desired::Running,
        restarts,
        failed: None,
        updated_at: Timestamp(1),
    }
}

async fn instances(store: Arc<dyn Store>, shared: Arc<Shared>, task: usize) -> Seen {
    let mut seen = Seen::default();
    let name = InstanceName::new(&format!("bot-{task}")).unwrap();
    let (mut acknowledged, mut tried) = (0, 0);
    while shared.goes_on() {
        tried += 1;
        let answer = store.put_instance(instance(name.as_str(), tried)).await;
        if shared.answered(answer, &mut seen.failed).await.is_some() {
            acknowledged = tried;
        }
    }
    seen.instances.push((name, acknowledged, tried));
    seen
}

async fn crashes(store: Arc<dyn Store>, shared: Arc<Shared>, task: usize) -> Seen {
    let mut seen = Seen::default();
    for n in 0.. {
        if !shared.goes_on() {
            break;
        }
        let reason = format!("{task}.{n}");
        let report = CrashReport {
            instance: InstanceName::new("bot").unwrap(),
            run: RunId(n),
            at: Timestamp(n),
            status: ExitStatus::Code(1),
            reason: reason.clone(),
            out_of_memory: false,
            uptime: Duration::from_secs(1),
            usage: None,
            restarts: 0,
            last_lines: vec!["a line".into()],
        };
        let answer = store.add_crash(report).await;
        seen.crashes.extend(shared.answered(answer, &mut seen.failed).await.map(|id| (id, reason)));
    }
    seen
}

/// Adds members and removes every other one. Each name is used once, so what must be there is known.
async fn members(store: Arc<dyn Store>, shared: Arc<Shared>, task: usize) -> Seen {
    let mut seen = Seen::default();
    for n in 0_usize.. {
        if !shared.goes_on() {
            break;
        }
        let name = InstanceName::new(&format!("m@{task}-{n}")).unwrap();
        let record =
            MemberRecord { name: name.clone(), vars: BTreeMap::new(), added_at: Timestamp(1) };
        let answer = store.add_member(record).await;
        let mut there = shared.answered(answer, &mut seen.failed).await.map(|()| true);
        if there.is_some() && n % 2 == 0 {
            let answer = store.remove_member(&name).await;
            there = shared.answered(answer, &mut seen.failed).await.map(|()| false);
        }
        seen.members.insert(name, there);
    }
    seen
}
