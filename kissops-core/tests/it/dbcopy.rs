//! `kissops_core::dbcopy`: files of `SQLite` into a real Postgres, looked at by its own eyes.

#![expect(clippy::unwrap_used, reason = "what tests need has to be there")]

use std::path::{Path, PathBuf};

use kissops_core::{
    Error, Result,
    dbcopy::{Copier, OnMismatch, Options, Plan, Report, silent},
};
use rusqlite::Connection;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

use crate::postgres::{ScratchDatabase, scratch_database};

mod faults;
mod nasty;
mod odd;
mod types;

/// A file and a database to copy it to.
struct Bench {
    folder: TempDir,
    database: ScratchDatabase,
}

impl Bench {
    async fn new(sql: &str) -> Option<Self> {
        let database = scratch_database().await?;
        let bench = Self { folder: tempfile::tempdir().unwrap(), database };
        bench.sqlite().execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
        Some(bench)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("bot.db")
    }

    fn sqlite(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    async fn prepare(&self, options: Options) -> Result<Copier> {
        prepare(&self.path(), self.database.url(), options).await
    }

    /// The plan that is refused.
    async fn refused(&self, options: Options) -> Plan {
        let copier = self.prepare(options).await.unwrap();
        assert!(copier.plan().is_refused(), "{}", copier.plan().ddl());
        let text = format!("{:?}", copier.plan());
        let Error::WrongState { .. } = copier.run(&silent()).await.unwrap_err() else {
            panic!("{text}")
        };
        assert_eq!(
            self.answer(
                "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            )
            .await,
            "0"
        );
        self.prepare(Options { on_mismatch: OnMismatch::Fail, ..Options::default() })
            .await
            .unwrap()
            .into_plan()
    }

    async fn copy(&self, options: Options) -> Result<Report> {
        let copier = self.prepare(options).await?;
        assert!(
            !copier.plan().is_refused(),
            "{:#?}\n{:#?}",
            copier.plan().findings,
            copier.plan().not_copied
        );
        copier.run(&silent()).await
    }

    /// Copies with the defaults and asks Postgres.
    async fn copied(&self, query: &str) -> String {
        self.copy(Options::default()).await.unwrap();
        self.answer(query).await
    }

    /// The first column of the first row as text, or `ERROR`.
    async fn answer(&self, query: &str) -> String {
        answer(self.database.url(), query).await
    }
}

async fn prepare(path: &Path, url: &str, options: Options) -> Result<Copier> {
    Copier::prepare(path, Some(&url.to_owned().into()), options, &silent()).await
}

async fn answer(url: &str, query: &str) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let query = query.trim_end_matches(';');
    let sql = if query.starts_with("INSERT") {
        format!("WITH answer AS ({query}) SELECT answer::text FROM answer")
    } else {
        format!("SELECT (SELECT answer FROM ({query}) AS t(answer) LIMIT 1)::text")
    };
    match sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(sql))
        .fetch_one(&mut connection)
        .await
    {
        Ok(text) => text.unwrap_or_default(),
        Err(err) => format!("ERROR {err}"),
    }
}

fn with(rule: OnMismatch) -> Options {
    Options { on_mismatch: rule, ..Options::default() }
}
