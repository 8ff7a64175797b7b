//! Databases that hundreds of rules use one after the other: making one takes far longer than what a rule does in it.
//!
//! A rule has its database to itself. Before the next one gets it, whoever is still connected is sent away, and all rows
//! go but for those that the migrations made. A rule that fails takes its database with it.

use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    thread,
};

use kissops_core::store::postgres::{PostgresOptions, PostgresStore};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use crate::postgres::{ScratchDatabase, scratch_database};

/// Those that nobody uses, and how many somebody does. With the last user they all go.
static IDLE: Mutex<(Vec<ScratchDatabase>, usize)> = Mutex::new((Vec::new(), 0));

/// A migrated database without rows, for one test.
pub(super) struct LentDatabase(Option<ScratchDatabase>);

impl LentDatabase {
    pub(super) fn url(&self) -> &str {
        self.0.as_ref().unwrap().url()
    }
}

impl Drop for LentDatabase {
    fn drop(&mut self) {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        idle.1 -= 1;
        let gone = if idle.1 == 0 { std::mem::take(&mut idle.0) } else { Vec::new() };
        if idle.1 > 0 && !thread::panicking() {
            idle.0.extend(self.0.take());
        }
        // What is left in `gone` and in `self` is dropped, and so are its databases, once nobody waits for the lock.
        drop(idle);
        drop(gone);
    }
}

/// A database of one's own for as long as it is held, or `None` where no server is named.
pub(super) async fn lent_database() -> Option<LentDatabase> {
    let found = {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        idle.1 += 1;
        idle.0.pop()
    };
    let mut lent = LentDatabase(found);
    if let Some(database) = &lent.0 {
        empty(database.url()).await;
    } else {
        lent.0 = Some(scratch_database().await?);
        let options = PostgresOptions { connections: 1, ..PostgresOptions::default() };
        PostgresStore::connect(&lent.url().into(), options).await.unwrap().close().await;
        keep_first_rows(lent.url()).await;
    }
    Some(lent)
}

async fn tables(conn: &mut PgConnection) -> Vec<String> {
    let sql = "SELECT CAST(relname AS TEXT) FROM pg_class WHERE relnamespace = CAST('public' AS regnamespace)
        AND relkind = 'r' AND relname NOT IN ('schema_migrations', 'high_water')";
    let rows = sqlx::query(sql).fetch_all(conn).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Remembers what the migrations have put into the tables.
async fn keep_first_rows(url: &str) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let mut sql = "CREATE SCHEMA first;".to_owned();
    for table in tables(&mut conn).await {
        write!(sql, "CREATE TABLE first.{table} AS TABLE public.{table};").unwrap();
    }
    conn.execute(AssertSqlSafe(sql)).await.unwrap();
}

async fn empty(url: &str) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    // A statement of a dropped call may still be at work, and must not write into the next test. This one waits until
    // they are gone.
    let others = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    conn.execute(others).await.unwrap();
    let mut sql = "SET session_replication_role = replica;".to_owned();
    for table in tables(&mut conn).await {
        write!(sql, "DELETE FROM public.{table}; INSERT INTO public.{table} TABLE first.{table};")
            .unwrap();
    }
    conn.execute(AssertSqlSafe(sql)).await.unwrap();
}
