//! Servers that refuse: each with an error that says what to do, and none with a password in it.

use std::{fs, time::Duration};

use kissops_core::{
    Error,
    store::{EventQuery, EventStore as _, InstanceStore as _, postgres::PostgresOptions},
};
use tokio::task::block_in_place;

use super::{CANARY, connect, load, number, options, run, says};
use crate::{
    postgres::{PrivateServer, scratch_database},
    store::event,
};

fn url_of(server: &PrivateServer, user: &str, database: &str) -> String {
    format!("postgres://{user}@localhost/{database}?host={}", server.folder().display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_databases_and_rights_are_refused_with_advice() {
    let Some(mut server) = PrivateServer::start() else { return };
    let admin = server.url();
    let sql = format!(
        "CREATE ROLE bot LOGIN PASSWORD '{CANARY}'; CREATE DATABASE its OWNER bot; CREATE ROLE guest LOGIN"
    );
    for sql in sql.split(';') {
        run(&admin, sql).await;
    }
    server.write(
        "pg_hba.conf",
        "local all postgres trust\nlocal postgres guest trust\nlocal all bot scram-sha-256\n",
    );
    block_in_place(|| server.restart());

    let store =
        connect(&url_of(&server, &format!("bot:{CANARY}"), "its"), options()).await.unwrap();
    store.append_events(vec![event("x")]).await.unwrap();
    let err = connect(&url_of(&server, &format!("bot:{CANARY}-not"), "its"), options()).await;
    let err = err.unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    says(&err, &["password authentication failed", "pg_hba.conf", "psql -U bot its"]);
    let err = connect(&url_of(&server, "stranger", "its"), options()).await.unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    says(&err, &["no pg_hba.conf entry"]);
    let err = connect(&url_of(&server, "postgres", "nowhere"), options()).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
    says(&err, &["createdb -O postgres nowhere"]);
    let err = connect(&url_of(&server, "guest", "postgres"), options()).await.unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    says(&err, &["ALTER SCHEMA public OWNER TO guest"]);

    // The password is changed while the store is open: what is connected goes on, what is not says why.
    run(&admin, "ALTER ROLE bot PASSWORD 'another'").await;
    store.append_events(vec![event("y")]).await.unwrap();
    run(&admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bot'")
        .await;
    // A read finds the connection cut and asks for another; a write would not know whether it had been done.
    let err = store.instances().await.unwrap_err();
    says(&err, &["password authentication failed"]);
    let err = store.put_instance(load::instance("web", 1)).await.unwrap_err();
    says(&err, &["password authentication failed"]);
}

/// A primary that becomes a standby under an open store, and the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_refused_and_a_primary_again_is_used() {
    let Some(mut server) = PrivateServer::start() else { return };
    let store = connect(&server.url(), options()).await.unwrap();
    store.append_events(vec![event("before")]).await.unwrap();
    block_in_place(|| server.stop());
    server.write("standby.signal", "");
    block_in_place(|| server.restart());
    for err in [
        connect(&server.url(), options()).await.map(drop).unwrap_err(),
        store.append_events(vec![event("x")]).await.map(drop).unwrap_err(),
        store.put_instance(load::instance("web", 1)).await.unwrap_err(),
    ] {
        // An append's first attempt may have met the connection that ended with the primary.
        assert!(err.is_transient() || matches!(err, Error::Uncertain { .. }), "{err:?}");
        says(&err, &["standby", "name the primary"]);
    }
    assert_eq!(
        store.events(EventQuery { limit: 9, ..EventQuery::default() }).await.unwrap().len(),
        1
    );
    block_in_place(|| server.stop());
    fs::remove_file(server.data().join("standby.signal")).unwrap();
    block_in_place(|| server.restart());
    store.append_events(vec![event("after")]).await.unwrap();
    assert_eq!(number(&server.url(), "SELECT count(*) FROM events").await, 2);
}

#[tokio::test]
async fn a_database_that_may_lose_commits_is_refused() {
    let Some(database) = scratch_database().await else { return };
    let name = database.socket().1;
    run(database.url(), &format!("ALTER DATABASE {name} SET synchronous_commit = off")).await;
    let err = connect(database.url(), options()).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    let advice = format!("ALTER DATABASE {name} SET synchronous_commit = on");
    says(&err, &["synchronous_commit=off", &advice]);
    assert_eq!(
        number(database.url(), "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await,
        0
    );
    run(database.url(), &advice).await;
    connect(database.url(), options()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_url_is_refused_without_its_password() {
    for url in [
        format!("postgres://u:{CANARY}@h:port/x"),
        format!("mysql://u:{CANARY}@h/x"),
        format!("u:{CANARY}"),
        format!("postgres://u:{CANARY}@h/x?sslmode=perhaps"),
    ] {
        let err = connect(&url, options()).await.unwrap_err();
        assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
        says(&err, &["postgres://USER:PASSWORD@HOST:PORT/DATABASE"]);
    }
    let hasty = PostgresOptions { connect_timeout: Duration::from_millis(300), ..options() };
    let url = format!("postgres://u:{CANARY}@nowhere.invalid/x");
    let err = connect(&url, hasty).await.unwrap_err();
    says(&err, &["postgres://u@nowhere.invalid:5432/x"]);
}
