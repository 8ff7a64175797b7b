//! STO-5 on a server: whose database it is, which version, and daemons that start together.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
};

use kissops_core::{Error, store::EventStore as _};

use super::{connect, number, options, run, says};
use crate::{postgres::scratch_database, store::event};

const URL: &str = "KISSOPS_TEST_STORE_URL";

/// Runs only in a process that another test here starts.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    println!("\nwaiting");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let store = connect(&url, options()).await.unwrap();
    let ids = store.append_events(vec![event(&std::process::id().to_string())]).await.unwrap();
    std::io::stdout().write_all(format!("\nack {}\n", ids[0].0).as_bytes()).unwrap();
}

#[tokio::test]
async fn many_processes_open_a_new_database_at_once() {
    let Some(database) = scratch_database().await else { return };
    let mut processes = Vec::new();
    for _ in 0..6 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::server::schema::child", "--nocapture"])
            .env(URL, database.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "waiting"));
        processes.push((process, lines));
    }
    for (process, _) in &mut processes {
        drop(process.stdin.take());
    }
    for (mut process, lines) in processes {
        let acknowledged = lines.filter(|line| line.as_ref().unwrap().starts_with("ack ")).count();
        assert_eq!(acknowledged, 1);
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(number(database.url(), "SELECT count(*) FROM events").await, 6);
    let sql = "SELECT count(*) - max(version) FROM schema_migrations";
    assert_eq!(number(database.url(), sql).await, 0, "each step once");
}

#[tokio::test]
async fn a_newer_database_is_refused_and_names_both_versions() {
    let Some(database) = scratch_database().await else { return };
    connect(database.url(), options()).await.unwrap().close().await;
    let sql = "INSERT INTO schema_migrations VALUES (99, 'later', '0', 0, 'kissops 9.9.9')";
    run(database.url(), sql).await;
    let err = connect(database.url(), options()).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    says(&err, &["version 99", "kissops 9.9.9", concat!("kissops ", env!("CARGO_PKG_VERSION"))]);
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let Some(database) = scratch_database().await else { return };
    connect(database.url(), options()).await.unwrap().close().await;
    let sql = "UPDATE schema_migrations SET checksum = '00000000deadbeef' WHERE version = 1";
    run(database.url(), sql).await;
    let err = connect(database.url(), options()).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    says(&err, &["deadbeef", "nothing was changed"]);
}

#[tokio::test]
async fn another_programs_database_is_refused_and_left_as_it_is() {
    let Some(database) = scratch_database().await else { return };
    run(database.url(), "CREATE TABLE users (id bigint PRIMARY KEY)").await;
    let err = connect(database.url(), options()).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    says(&err, &["another program's database", "a database of its own"]);
    let sql = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(number(database.url(), sql).await, 1);
}
