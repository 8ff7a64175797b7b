//! The store on a Postgres server against hand-written sqlx on the same schema and server.
//!
//! Wants a server: `KISSOPS_TEST_POSTGRES_FSYNC=on .ci/with-postgres cargo bench -p kissops-benches --bench postgres`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kissops_core::{
    Timestamp,
    id::InstanceName,
    store::{
        Desired, EventKind, EventStore, HolderId, InstanceRecord, InstanceStore, LeaseName,
        LeaseStore, NewEvent,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use sqlx::{PgPool, Row as _, postgres::PgPoolOptions};
use tokio::runtime::{Builder, Runtime};

const TASKS: u64 = 100;
const EACH: u64 = 10;
const CONNECTIONS: u32 = 10;

/// The store and a pool of as many connections, on one database, and the daemon's kind of runtime.
struct Pair {
    store: Arc<PostgresStore>,
    floor: PgPool,
    runtime: Runtime,
}

impl Pair {
    fn new() -> Option<Self> {
        let Ok(url) = std::env::var("KISSOPS_TEST_POSTGRES") else {
            eprintln!("skipped: run it through .ci/with-postgres");
            return None;
        };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let options = PostgresOptions { connections: CONNECTIONS, ..PostgresOptions::default() };
        let store = runtime.block_on(PostgresStore::connect(&url.as_str().into(), options));
        // As a host would: no round trip before each use.
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false);
        let floor = runtime.block_on(pool.connect(&url)).unwrap();
        Some(Self { store: Arc::new(store.unwrap()), floor, runtime })
    }

    /// As many tasks as there are, each doing `work` a few times.
    fn many<F: Future<Output = ()> + Send + 'static>(&self, work: impl Fn(u64) -> F) {
        self.runtime.block_on(async {
            let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(work(task))).collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
}

fn event() -> NewEvent {
    NewEvent {
        at: Timestamp(1_790_000_000_000_000),
        instance: InstanceName::new("twitch@el_serda").ok(),
        kind: EventKind::Other("logs.dropped".into()),
        reason: "the disk of the logs is full".into(),
    }
}

/// An id for a row of the floor: no two alike, and below those of the store.
fn floor_id() -> i64 {
    use std::sync::atomic::{AtomicI64, Ordering};
    static NEXT: AtomicI64 = AtomicI64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

const INSERT: &str =
    "INSERT INTO events (id, at, instance, kind, reason) VALUES ($1, $2, $3, $4, $5)";
const INSERT_MANY: &str = "INSERT INTO events (id, at, instance, kind, reason) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])";

fn appends(c: &mut Criterion) {
    let Some(pair) = Pair::new() else { return };
    let mut group = c.benchmark_group("postgres_append_events_100_tasks");
    group.throughput(Throughput::Elements(TASKS * EACH)).sample_size(20);
    group.bench_function("store", |b| {
        b.iter(|| {
            pair.many(|_| {
                let store = Arc::clone(&pair.store);
                async move {
                    for _ in 0..EACH {
                        store.append_events(vec![event()]).await.unwrap();
                    }
                }
            });
        });
    });
    group.bench_function("floor_one_by_one", |b| {
        b.iter(|| {
            pair.many(|_| {
                let pool = pair.floor.clone();
                async move {
                    for _ in 0..EACH {
                        let event = event();
                        let insert = sqlx::query(INSERT)
                            .bind(floor_id())
                            .bind(event.at.0)
                            .bind(event.instance.as_ref().map(InstanceName::as_str))
                            .bind("logs.dropped")
                            .bind(event.reason);
                        insert.execute(&pool).await.unwrap();
                    }
                }
            });
        });
    });
    group.bench_function("floor_batched_by_100", |b| {
        b.iter(|| {
            pair.runtime.block_on(async {
                for _ in 0..EACH {
                    let all: Vec<NewEvent> = (0..TASKS).map(|_| event()).collect();
                    let insert = sqlx::query(INSERT_MANY)
                        .bind(all.iter().map(|_| floor_id()).collect::<Vec<_>>())
                        .bind(all.iter().map(|event| event.at.0).collect::<Vec<_>>())
                        .bind(vec!["twitch@el_serda"; all.len()])
                        .bind(vec!["logs.dropped"; all.len()])
                        .bind(all.iter().map(|event| event.reason.clone()).collect::<Vec<_>>());
                    insert.execute(&pair.floor).await.unwrap();
                }
            });
        });
    });
    group.finish();
}

fn record(name: &str) -> InstanceRecord {
    InstanceRecord {
        name: InstanceName::new(name).unwrap(),
        desired: Desired::Running,
        restarts: 1,
        failed: None,
        updated_at: Timestamp(1_790_000_000_000_000),
    }
}

const PUT: &str = "INSERT INTO instances (name, desired, restarts, failed, updated_at) VALUES ($1, 'running', $2, $3, $4) ON CONFLICT (name) DO UPDATE SET desired = excluded.desired, restarts = excluded.restarts, failed = excluded.failed, updated_at = excluded.updated_at";

async fn put(pool: &PgPool, name: &str) {
    let record = record(name);
    let put = sqlx::query(PUT)
        .bind(record.name.as_str())
        .bind(record.restarts.cast_signed())
        .bind(record.failed)
        .bind(record.updated_at.0);
    put.execute(pool).await.unwrap();
}

fn puts(c: &mut Criterion) {
    let Some(pair) = Pair::new() else { return };
    let mut group = c.benchmark_group("postgres_put_one_instance");
    group.bench_function("store", |b| {
        b.iter(|| pair.runtime.block_on(pair.store.put_instance(record("one"))).unwrap());
    });
    group.bench_function("floor", |b| {
        b.iter(|| pair.runtime.block_on(put(&pair.floor, "two")));
    });
    group.finish();
    let mut group = c.benchmark_group("postgres_put_instances_100_tasks");
    group.throughput(Throughput::Elements(TASKS * EACH)).sample_size(20);
    group.bench_function("store", |b| {
        b.iter(|| {
            pair.many(|task| {
                let store = Arc::clone(&pair.store);
                async move {
                    for _ in 0..EACH {
                        store.put_instance(record(&format!("a{task}"))).await.unwrap();
                    }
                }
            });
        });
    });
    group.bench_function("floor", |b| {
        b.iter(|| {
            pair.many(|task| {
                let pool = pair.floor.clone();
                async move {
                    for _ in 0..EACH {
                        put(&pool, &format!("b{task}")).await;
                    }
                }
            });
        });
    });
    group.finish();
}

fn point_reads(c: &mut Criterion) {
    let Some(pair) = Pair::new() else { return };
    let name = LeaseName::new("bench");
    pair.runtime.block_on(async {
        // One of an earlier run may last still, which is as good.
        let _ = pair.store.acquire_lease(&name, HolderId(1), Duration::from_hours(1)).await;
    });
    let mut group = c.benchmark_group("postgres_point_reads_100_tasks");
    group.throughput(Throughput::Elements(TASKS * EACH)).sample_size(20);
    group.bench_function("store", |b| {
        b.iter(|| {
            pair.many(|_| {
                let (store, name) = (Arc::clone(&pair.store), name.clone());
                async move {
                    for _ in 0..EACH {
                        black_box(store.lease(&name).await.unwrap());
                    }
                }
            });
        });
    });
    group.bench_function("floor", |b| {
        b.iter(|| {
            pair.many(|_| {
                let pool = pair.floor.clone();
                async move {
                    for _ in 0..EACH {
                        let sql = "SELECT token, holder, valid_until FROM leases WHERE name = $1";
                        let row = sqlx::query(sql).bind("bench").fetch_one(&pool).await.unwrap();
                        black_box((
                            row.get::<i64, _>(0),
                            row.get::<Option<i64>, _>(1),
                            row.get::<i64, _>(2),
                        ));
                    }
                }
            });
        });
    });
    group.finish();
}

criterion_group!(benches, appends, puts, point_reads);
criterion_main!(benches);
