//! The store against hand-written rusqlite on the same schema and settings: what the trait, the thread and the group
//! commit cost, and what they save.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]

use std::{hint::black_box, path::PathBuf, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kissops_core::{
    Timestamp,
    id::InstanceName,
    store::{
        Desired, EventKind, EventStore, HolderId, InstanceRecord, InstanceStore, LeaseName,
        LeaseStore, NewEvent,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use rusqlite::{Connection, params};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

const TASKS: u64 = 100;
const EACH: u64 = 10;
const INSERT: &str = "INSERT INTO events (id, at, instance, kind, from_state, to_state, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// A store, the same database in a second file for the floor, and the daemon's kind of runtime.
struct Pair {
    store: Arc<SqliteStore>,
    floor: Connection,
    runtime: Runtime,
    _folder: TempDir,
}

impl Pair {
    fn new(synchronous: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| -> (PathBuf, SqliteStore) {
            let path = folder.path().join(name);
            let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
            (path, store)
        };
        let (path, made) = open("floor.db");
        drop(made);
        let floor = Connection::open(path).unwrap();
        floor.pragma_update(None, "journal_mode", "WAL").unwrap();
        floor.pragma_update(None, "synchronous", synchronous).unwrap();
        let store = Arc::new(open("kissops.db").1);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { store, floor, runtime, _folder: folder }
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

fn record(i: u64) -> InstanceRecord {
    InstanceRecord {
        name: InstanceName::new(&format!("bot-{i:04}")).unwrap(),
        desired: Desired::Running,
        restarts: i,
        failed: None,
        updated_at: Timestamp(1_790_000_000_000_000),
    }
}

fn insert(conn: &Connection, id: i64) {
    let event = event();
    let name = event.instance.as_ref().map(InstanceName::as_str);
    let none: Option<&str> = None;
    conn.prepare_cached(INSERT)
        .unwrap()
        .execute(params![id, event.at.0, name, "logs.dropped", none, none, event.reason])
        .unwrap();
}

fn appends_of_many(c: &mut Criterion) {
    let pair = Pair::new("NORMAL");
    let mut group = c.benchmark_group("append_events_100_tasks");
    group.throughput(Throughput::Elements(TASKS * EACH)).sample_size(30);
    group.bench_function("store", |b| {
        b.iter(|| {
            pair.runtime.block_on(async {
                let tasks: Vec<_> = (0..TASKS)
                    .map(|_| {
                        let store = Arc::clone(&pair.store);
                        tokio::spawn(async move {
                            for _ in 0..EACH {
                                store.append_events(vec![event()]).await.unwrap();
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
            });
        });
    });
    let mut id = 0;
    group.bench_function("floor_batched_by_100", |b| {
        b.iter(|| {
            for _ in 0..EACH {
                pair.floor.prepare_cached("BEGIN IMMEDIATE").unwrap().execute([]).unwrap();
                for _ in 0..TASKS {
                    id += 1;
                    insert(&pair.floor, id);
                }
                pair.floor.prepare_cached("COMMIT").unwrap().execute([]).unwrap();
            }
        });
    });
    group.finish();
}

fn single_append(c: &mut Criterion) {
    let pair = Pair::new("NORMAL");
    let mut group = c.benchmark_group("append_one_event");
    group.bench_function("store", |b| {
        b.iter(|| pair.runtime.block_on(pair.store.append_events(vec![event()])).unwrap());
    });
    let mut id = 0;
    group.bench_function("floor", |b| {
        b.iter(|| {
            id += 1;
            insert(&pair.floor, id);
        });
    });
    group.finish();
}

fn single_put(c: &mut Criterion) {
    let pair = Pair::new("FULL");
    let mut group = c.benchmark_group("put_one_instance_synced");
    group.sample_size(30);
    group.bench_function("store", |b| {
        b.iter(|| pair.runtime.block_on(pair.store.put_instance(record(1))).unwrap());
    });
    let sql = "INSERT INTO instances VALUES (?1, 'running', ?2, NULL, ?3) ON CONFLICT (name) DO UPDATE SET restarts = excluded.restarts";
    group.bench_function("floor", |b| {
        b.iter(|| {
            let record = record(1);
            let values = params![record.name.as_str(), 1, record.updated_at.0];
            pair.floor.prepare_cached(sql).unwrap().execute(values).unwrap();
        });
    });
    group.finish();
}

fn read_instances(c: &mut Criterion) {
    let pair = Pair::new("NORMAL");
    pair.runtime.block_on(async {
        for i in 0..1_000 {
            pair.store.put_instance(record(i)).await.unwrap();
        }
    });
    pair.floor.execute_batch("BEGIN").unwrap();
    for i in 0..1_000 {
        let record = record(i);
        let sql = "INSERT INTO instances VALUES (?1, 'running', ?2, NULL, ?3)";
        let restarts = record.restarts.cast_signed();
        let values = params![record.name.as_str(), restarts, record.updated_at.0];
        pair.floor.execute(sql, values).unwrap();
    }
    pair.floor.execute_batch("COMMIT").unwrap();
    let mut group = c.benchmark_group("instances_of_1000");
    group.bench_function("store", |b| {
        b.iter(|| black_box(pair.runtime.block_on(pair.store.instances()).unwrap()));
    });
    group.bench_function("floor", |b| {
        b.iter(|| {
            let sql =
                "SELECT name, desired, restarts, failed, updated_at FROM instances ORDER BY name";
            let mut query = pair.floor.prepare_cached(sql).unwrap();
            let rows = query.query_map([], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, Option<String>>(3)?,
                    row.get::<_, i64>(4)?,
                ))
            });
            black_box(rows.unwrap().collect::<rusqlite::Result<Vec<_>>>().unwrap())
        });
    });
    group.finish();
}

fn point_reads(c: &mut Criterion) {
    let pair = Pair::new("NORMAL");
    let name = LeaseName::new("daemon");
    pair.runtime.block_on(async {
        let (holder, ttl) = (HolderId(1), Duration::from_hours(1));
        pair.store.acquire_lease(&name, holder, ttl).await.unwrap();
    });
    let sql = "INSERT INTO leases (name, token, holder, valid_until) VALUES ('daemon', 1, 1, 1)";
    pair.floor.execute(sql, []).unwrap();
    let mut group = c.benchmark_group("point_reads_100_tasks");
    group.throughput(Throughput::Elements(TASKS * EACH)).sample_size(30);
    group.bench_function("store", |b| {
        b.iter(|| {
            pair.runtime.block_on(async {
                let tasks: Vec<_> = (0..TASKS)
                    .map(|_| {
                        let (store, name) = (Arc::clone(&pair.store), name.clone());
                        tokio::spawn(async move {
                            for _ in 0..EACH {
                                black_box(store.lease(&name).await.unwrap());
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
            });
        });
    });
    group.bench_function("floor_in_a_loop", |b| {
        b.iter(|| {
            for _ in 0..TASKS * EACH {
                let sql = "SELECT token, holder, valid_until FROM leases WHERE name = ?1";
                let mut query = pair.floor.prepare_cached(sql).unwrap();
                let row = |row: &rusqlite::Row<'_>| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
                };
                black_box(query.query_row(["daemon"], row).unwrap());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, appends_of_many, single_append, single_put, read_instances, point_reads);
criterion_main!(benches);
