//! What must not harm a store in Postgres: kills, cut connections, a server that refuses, is silent, full or another's.

use std::{sync::Arc, time::Duration};

use kissops_core::{
    Error,
    store::{
        Store,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

mod cancel;
mod full;
mod kill;
mod load;
mod network;
mod proxy;
mod refuse;
mod schema;
mod tls;

/// In every URL of these tests that has a password. No message may show it.
const CANARY: &str = "canary-7d1f";

fn options() -> PostgresOptions {
    PostgresOptions {
        connections: 4,
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(10),
    }
}

async fn connect(url: &str, options: PostgresOptions) -> Result<PostgresStore, Error> {
    let store = PostgresStore::connect(&url.to_owned().into(), options).await;
    match &store {
        Ok(store) => assert!(!format!("{store:?}").contains(CANARY)),
        Err(err) => tells_no_secret(err),
    }
    store
}

async fn open(url: &str) -> Arc<dyn Store> {
    Arc::new(connect(url, options()).await.unwrap())
}

fn tells_no_secret(err: &Error) {
    for text in [err.to_string(), format!("{err:?}"), err.chain()] {
        assert!(!text.contains(CANARY), "{text}");
    }
}

/// The error has all of `words` in its chain.
fn says(err: &Error, words: &[&str]) {
    tells_no_secret(err);
    let text = err.chain();
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

/// Runs statements of an operator on a connection of their own.
async fn run(url: &str, sql: &str) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    conn.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    conn.close().await.unwrap();
}

async fn number(url: &str, sql: &str) -> i64 {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let number = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await;
    conn.close().await.unwrap();
    number.unwrap()
}
