//! Servers that are away, silent, slow or full of connections: clear errors within their time, and recovery without help.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use kissops_core::{
    Error,
    store::{
        EventQuery, EventStore as _, InstanceStore as _,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::task::{JoinSet, block_in_place};

use super::{connect, number, open, proxy::Proxy, run, says};
use crate::{
    postgres::{PrivateServer, scratch_database},
    store::event,
};

fn quick(connections: u32) -> PostgresOptions {
    PostgresOptions {
        connections,
        connect_timeout: Duration::from_millis(500),
        statement_timeout: Duration::from_millis(500),
    }
}

/// Errors of `calls` reads at once.
async fn errors(store: &Arc<PostgresStore>, calls: usize) -> Vec<Error> {
    let mut tasks = JoinSet::new();
    for _ in 0..calls {
        let store = Arc::clone(store);
        tasks.spawn(async move { store.instances().await });
    }
    tasks.join_all().await.into_iter().filter_map(Result::err).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_named_and_found_again() {
    let Some(mut server) = PrivateServer::start() else { return };
    let store = Arc::new(connect(&server.url(), quick(3)).await.unwrap());
    store.append_events(vec![event("before")]).await.unwrap();
    block_in_place(|| server.kill_9());
    let found = errors(&store, 20).await;
    assert_eq!(found.len(), 20);
    for err in &found {
        assert!(err.is_transient(), "{err:?}");
        says(err, &["no server listens there"]);
    }
    assert_eq!(store.pool_status().exhausted, 0, "it is not the pool that is too small");
    let err = connect(&server.url(), quick(1)).await.unwrap_err();
    says(&err, &["no server listens there", "pg_isready"]);
    block_in_place(|| server.restart());
    assert_eq!(errors(&store, 20).await.len(), 0);
    store.append_events(vec![event("after")]).await.unwrap();
    let found = store.events(EventQuery { limit: 9, ..EventQuery::default() }).await.unwrap();
    assert_eq!(found.len(), 2);
}

/// A host that vanishes without a word: what was sent stays unanswered, idle connections too, new ones work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_costs_no_more_than_the_time_outs() {
    let Some(database) = scratch_database().await else { return };
    let (folder, name) = database.socket();
    let proxy = Proxy::start(folder, &name);
    let store = Arc::new(connect(&proxy.url(), quick(4)).await.unwrap());
    assert_eq!(errors(&store, 16).await.len(), 0);
    proxy.counts.silent.store(true, Relaxed);
    let begun = Instant::now();
    let found = errors(&store, 4).await;
    assert_eq!(found.len(), 4);
    for err in &found {
        says(err, &["no answer for", "look at the network"]);
    }
    let err = store.put_instance(super::load::instance("web", 1)).await.unwrap_err();
    assert!(err.is_transient(), "{err:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let connecting = connect(&proxy.url(), quick(1)).await.unwrap_err();
    says(&connecting, &["no answer for"]);
    proxy.counts.silent.store(false, Relaxed);
    // At once, although all that the store had was lost.
    assert_eq!(errors(&store, 16).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_not_waited_for_without_an_end() {
    let Some(server) = PrivateServer::start() else { return };
    let store = Arc::new(connect(&server.url(), quick(3)).await.unwrap());
    assert_eq!(errors(&store, 9).await.len(), 0);
    store.append_events(vec![event("before")]).await.unwrap();
    server.freeze(true);
    let begun = Instant::now();
    let append = store.append_events(vec![event("in doubt")]).await;
    let append = append.unwrap_err();
    assert!(matches!(append, Error::Uncertain { .. }), "{append:?}");
    says(&append, &["no answer for", "look whether it is there"]);
    assert_eq!(errors(&store, 9).await.len(), 9);
    says(&connect(&server.url(), quick(1)).await.unwrap_err(), &["no answer for"]);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    server.freeze(false);
    let next = store.append_events(vec![event("after")]).await.unwrap();
    let found = store.events(EventQuery { limit: 9, ..EventQuery::default() }).await.unwrap();
    assert!(found.len() <= 3 && found.last().is_some_and(|last| last.id == next[0]), "{found:?}");
}

/// The server may have committed before it ended the session, for instance while it waited for a standby.
#[tokio::test]
async fn a_write_whose_session_is_ended_may_be_there() {
    let Some(database) = scratch_database().await else { return };
    let options = PostgresOptions { statement_timeout: Duration::from_secs(20), ..quick(2) };
    let store = Arc::new(connect(database.url(), options).await.unwrap());
    let mut other = PgConnection::connect(database.url()).await.unwrap();
    other.execute("BEGIN; LOCK TABLE instances").await.unwrap();
    let writer = Arc::clone(&store);
    let write =
        tokio::spawn(async move { writer.put_instance(super::load::instance("web", 1)).await });
    let end =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE NOT granted AND datname = current_database()";
    let deadline = Instant::now() + Duration::from_secs(15);
    while number(database.url(), end).await == 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let err = write.await.unwrap().unwrap_err();
    assert!(matches!(err, Error::Uncertain { .. }) && !err.is_transient(), "{err:?}");
    says(&err, &["look whether it is there", "ended the connection"]);
    other.execute("ROLLBACK").await.unwrap();
    store.put_instance(super::load::instance("web", 1)).await.unwrap();
}

/// Each of them is a statement of its own, and none waits for the time-outs of all before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_behind_others_have_their_own_time() {
    let Some(server) = PrivateServer::start() else { return };
    let store = Arc::new(connect(&server.url(), quick(3)).await.unwrap());
    store.append_events(vec![event("before")]).await.unwrap();
    server.freeze(true);
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let store = Arc::clone(&store);
        let large = event(&"x".repeat(2 << 20));
        tasks.spawn(async move { store.append_events(vec![large]).await });
    }
    for answer in tasks.join_all().await {
        let err = answer.unwrap_err();
        assert!(err.is_transient() || matches!(err, Error::Uncertain { .. }), "{err:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    server.freeze(false);
    store.append_events(vec![event("after")]).await.unwrap();
}

/// Nobody waits for the second any more when its turn comes.
#[tokio::test]
async fn an_append_that_nobody_waits_for_is_not_begun() {
    let Some(database) = scratch_database().await else { return };
    let options = PostgresOptions { statement_timeout: Duration::from_secs(20), ..quick(2) };
    let store = Arc::new(connect(database.url(), options).await.unwrap());
    let mut other = PgConnection::connect(database.url()).await.unwrap();
    other.execute("BEGIN; LOCK TABLE events").await.unwrap();
    let first = Arc::clone(&store);
    let first = tokio::spawn(async move { first.append_events(vec![event("first")]).await });
    let waits = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE NOT granted AND datname = current_database()";
    let deadline = Instant::now() + Duration::from_secs(15);
    while number(database.url(), waits).await == 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let second = store.append_events(vec![event("second")]);
    tokio::time::timeout(Duration::ZERO, second).await.unwrap_err();
    other.execute("ROLLBACK").await.unwrap();
    first.await.unwrap().unwrap();
    store.append_events(vec![event("third")]).await.unwrap();
    let found = store.events(EventQuery { limit: 9, ..EventQuery::default() }).await.unwrap();
    let reasons: Vec<_> = found.iter().map(|record| record.event.reason.as_str()).collect();
    assert_eq!(reasons, ["first", "third"]);
}

#[tokio::test]
async fn a_slow_statement_is_ended_and_changes_nothing() {
    let Some(database) = scratch_database().await else { return };
    let store = connect(database.url(), quick(2)).await.unwrap();
    let mut other = PgConnection::connect(database.url()).await.unwrap();
    other.execute("BEGIN; LOCK TABLE instances, events").await.unwrap();
    let err = store.put_instance(super::load::instance("web", 1)).await.unwrap_err();
    says(&err, &["longer than its time-out", "nothing was changed"]);
    let err = store.append_events(vec![event("x")]).await.unwrap_err();
    says(&err, &["longer than its time-out", "nothing was changed"]);
    other.execute("ROLLBACK").await.unwrap();
    assert!(store.instances().await.unwrap().is_empty());
    store.append_events(vec![event("y")]).await.unwrap();
    assert_eq!(number(database.url(), "SELECT count(*) FROM events").await, 1);
}

#[tokio::test]
async fn an_exhausted_pool_says_so_and_counts() {
    let Some(database) = scratch_database().await else { return };
    let options = PostgresOptions { statement_timeout: Duration::from_secs(20), ..quick(2) };
    let store = Arc::new(connect(database.url(), options).await.unwrap());
    let mut other = PgConnection::connect(database.url()).await.unwrap();
    other.execute("BEGIN; LOCK TABLE instances").await.unwrap();
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.instances().await })
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    while store.pool_status().open - store.pool_status().idle < 2 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let err = store.instances().await.unwrap_err();
    assert!(err.is_transient());
    says(&err, &["all 2 connections were in use", "store.connections"]);
    assert_eq!(store.pool_status().exhausted, 1);
    other.execute("ROLLBACK").await.unwrap();
    for task in busy {
        task.await.unwrap().unwrap();
    }
    store.instances().await.unwrap();
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_waited_for() {
    let settings = ["max_connections=4", "superuser_reserved_connections=0", "max_wal_senders=0"];
    let Some(server) = PrivateServer::start_with(&settings) else { return };
    let store = connect(&server.url(), quick(2)).await.unwrap();
    store.close().await;
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(PgConnection::connect(&server.url()).await.unwrap());
    }
    let err = connect(&server.url(), quick(2)).await.unwrap_err();
    assert!(err.is_transient(), "{err:?}");
    says(&err, &["max_connections"]);
    let url = server.url();
    let patient = PostgresOptions { connect_timeout: Duration::from_secs(20), ..quick(2) };
    let waiting = tokio::spawn(async move { connect(&url, patient).await });
    tokio::task::yield_now().await;
    others.pop().unwrap().close().await.unwrap();
    waiting.await.unwrap().unwrap();
}

/// What the statements are written for is what they get.
#[tokio::test]
async fn a_server_that_serializes_by_default_changes_nothing() {
    let Some(database) = scratch_database().await else { return };
    let name = database.socket().1;
    let sql = format!("ALTER DATABASE {name} SET default_transaction_isolation = serializable");
    run(database.url(), &sql).await;
    let store = open(database.url()).await;
    let load = super::load::Load::start(&store);
    load.goes_on(500).await;
    let figures = load.verify(&store).await;
    assert_eq!((figures.failed, figures.doubtful_but_there), (0, 0), "{figures:?}");
}

/// Whatever makes the server roll a transaction back for the sake of others, the store runs it again.
#[tokio::test]
async fn a_transaction_that_met_another_is_run_again() {
    let Some(database) = scratch_database().await else { return };
    let store = connect(database.url(), quick(2)).await.unwrap();
    // A sequence keeps its number when a transaction is rolled back.
    let sql = "CREATE SEQUENCE tries;
        CREATE FUNCTION meet() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n bigint := nextval('tries'); BEGIN
            IF n % 4 = 1 THEN RAISE EXCEPTION 'met' USING ERRCODE = '40001'; END IF;
            IF n % 4 = 2 THEN RAISE EXCEPTION 'met' USING ERRCODE = '40P01'; END IF;
            RETURN NEW; END $$;
        CREATE TRIGGER meet BEFORE INSERT ON instances FOR EACH STATEMENT EXECUTE FUNCTION meet();
        CREATE TRIGGER meet BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION meet();";
    run(database.url(), sql).await;
    for n in 0..5 {
        store.put_instance(super::load::instance(&format!("web-{n}"), n)).await.unwrap();
        store.append_events(vec![event("x")]).await.unwrap();
    }
    assert_eq!(store.instances().await.unwrap().len(), 5);
    assert_eq!(number(database.url(), "SELECT count(*) FROM events").await, 5);
    assert!(number(database.url(), "SELECT last_value FROM tries").await > 10);
}

/// One row that cannot be stored fails alone, not those that share its statement.
#[tokio::test]
async fn an_append_that_is_refused_fails_alone() {
    let Some(database) = scratch_database().await else { return };
    let store = Arc::new(connect(database.url(), quick(4)).await.unwrap());
    run(database.url(), "ALTER TABLE events ADD CHECK (reason <> 'bad')").await;
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let store = Arc::clone(&store);
            let event = event(if n == 7 { "bad" } else { "good" });
            tokio::spawn(async move { store.append_events(vec![event]).await.is_ok() })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), n != 7, "{n}");
    }
    assert_eq!(number(database.url(), "SELECT count(*) FROM events").await, 19);
}

/// Marks are thrown away after a week. A process that added nothing for longer does not notice.
#[tokio::test]
async fn a_mark_that_is_gone_is_begun_anew() {
    let Some(database) = scratch_database().await else { return };
    let store = connect(database.url(), quick(2)).await.unwrap();
    let first = store.append_events(vec![event("first")]).await.unwrap();
    run(database.url(), "DELETE FROM append_marks").await;
    let second = store.append_events(vec![event("second")]).await.unwrap();
    assert!(first < second);
    assert_eq!(number(database.url(), "SELECT count(*) FROM events").await, 2);
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let Some(database) = scratch_database().await else { return };
    let store = connect(database.url(), quick(2)).await.unwrap();
    store.close().await;
    assert!(matches!(store.instances().await, Err(Error::Closed { .. })));
    let append = store.append_events(vec![event("x")]).await;
    assert!(matches!(append, Err(Error::Closed { .. })), "{append:?}");
    assert_eq!(store.pool_status().open, 0);
}
