//! `kissops db copy`, against a real server where one is named.

use std::{env, path::Path, process::Command};

use crate::{Ran, kissops, run};

const BOT: &str = "
    CREATE TABLE users(id INTEGER PRIMARY KEY AUTOINCREMENT, login TEXT COLLATE NOCASE UNIQUE, seen DATETIME);
    INSERT INTO users(login, seen) VALUES ('Ann', 1704164645), ('bob', NULL);
    CREATE TABLE odd(n INTEGER); INSERT INTO odd VALUES ('n/a'), (3);
    CREATE VIEW v AS SELECT 1;";

fn make(folder: &Path) {
    let script = "import sqlite3, sys; sqlite3.connect('bot.db').executescript(sys.argv[1])";
    let made =
        Command::new("python3").args(["-c", script, BOT]).current_dir(folder).status().unwrap();
    assert!(made.success());
}

/// Calls `kissops db copy` with the target in the environment.
fn copy(folder: &Path, target: &str, args: &[&str]) -> Ran {
    let mut command = kissops(folder);
    command
        .args(["db", "copy", "--from", "sqlite:bot.db"])
        .args(args)
        .env("KISSOPS_DB_COPY_TO", target);
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_dry_run_prints_the_statements_and_what_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let ran = run(folder.path(), &["db", "copy", "--from", "bot.db", "--dry-run"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.out.contains("\"login\" citext"), "{}", ran.out);
    assert!(ran.err.contains("refused: odd.n: bigint column holds text (1 row: 1)"), "{}", ran.err);
    assert!(ran.err.contains("view v is not copied"), "{}", ran.err);
    let ran = run(
        folder.path(),
        &["db", "copy", "--from", "bot.db", "--dry-run", "--on-mismatch", "null", "--json"],
    );
    assert_eq!((ran.code, &ran.json()["refused"]), (0, &false.into()));
}

#[test]
fn wrong_uses_are_told() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    assert_eq!(run(folder.path(), &["db", "copy", "--from", "bot.db"]).code, 2);
    assert_eq!(run(folder.path(), &["db", "copy", "--from", "nowhere.db", "--dry-run"]).code, 4);
    let ran = copy(folder.path(), "mysql://me:hunter2@host/db", &["--json"]);
    assert_eq!((ran.code, ran.error()["code"].as_str()), (78, Some("invalid_config")));
    let ran = copy(folder.path(), "postgres://me:hunter2@localhost/db?host=/nonexistent", &[]);
    assert_eq!(ran.code, 75);
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
}

#[test]
fn a_copy_is_told_with_what_was_proven() {
    let (Ok(server), Ok(programs)) =
        (env::var("KISSOPS_TEST_POSTGRES"), env::var("KISSOPS_TEST_POSTGRES_BIN"))
    else {
        println!("skipped: KISSOPS_TEST_POSTGRES is not set (.ci/with-postgres sets it)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let schema = format!("cli_{}", std::process::id());
    let psql = |sql: &str| {
        let psql = Path::new(&programs).join("psql");
        let output = Command::new(psql).args(["-qAtX", "-c", sql]).arg(&server).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let refused = copy(folder.path(), &server, &["--schema", &schema]);
    let there = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'");
    assert_eq!((refused.code, psql(&there)), (1, "0".to_owned()), "{}", refused.err);
    let ran =
        copy(folder.path(), &server, &["--schema", &schema, "--on-mismatch", "null", "--json"]);
    let seen =
        psql(&format!("SELECT extract(epoch FROM seen)::int FROM {schema}.users WHERE id = 1"));
    psql(&format!("DROP SCHEMA {schema} CASCADE"));
    assert_eq!((ran.code, seen.as_str()), (0, "1704164645"), "{}", ran.err);
    let json = ran.json();
    assert_eq!(json["proven"]["tables"][0]["next_id"], 3);
    assert_eq!(json["rows"], 4);
}
