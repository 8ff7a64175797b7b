//! STO-4, STO-6: the server is killed and restarted under load, connections are cut, and nothing acknowledged is lost.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use kissops_core::store::Store;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::task::block_in_place;

use super::{load::Load, open, proxy::Proxy};
use crate::postgres::PrivateServer;

/// Ends of a server or of one of its processes.
const KILLS: usize = 60;

/// Processes that serve a store at this moment.
async fn backends(server: &PrivateServer) -> Vec<i32> {
    let mut conn = PgConnection::connect(&server.url()).await.unwrap();
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'kissops' ORDER BY random()";
    let rows = sqlx::query(sql).fetch_all(&mut conn).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn end_backend(server: &PrivateServer) {
    let mut conn = PgConnection::connect(&server.url()).await.unwrap();
    for pid in backends(server).await.into_iter().take(2) {
        let sql = format!("SELECT pg_terminate_backend({pid})");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    }
}

async fn kill_backend(server: &mut PrivateServer) {
    if let Some(pid) = backends(server).await.first() {
        PrivateServer::kill_backend(*pid);
    }
    // The first process restarts the others by itself, unless it has been too often.
    block_in_place(|| server.wait_until_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_loses_nothing_acknowledged() {
    // Otherwise each recovery first syncs a thousand files one by one.
    let settings = ["recovery_init_sync_method=syncfs"];
    let Some(mut server) = PrivateServer::start_with(&settings) else { return };
    let proxy = Proxy::start(server.folder().to_owned(), "postgres");
    let store = open(&proxy.url()).await;
    let load = Load::start(&store);
    proxy.counts.one_of.store(60, Relaxed);
    for kill in 0..KILLS {
        load.goes_on(20).await;
        match kill % 5 {
            0 => block_in_place(|| {
                server.kill_9();
                server.restart();
            }),
            1 => block_in_place(|| {
                server.quit();
                server.restart();
            }),
            2 => block_in_place(|| server.restart()),
            3 => kill_backend(&mut server).await,
            _ => end_backend(&server).await,
        }
    }
    load.goes_on(200).await;
    finish(load, &proxy, &store).await;
}

/// The moments in which nobody knows whether an append took effect, without anything else that goes wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_neither_lose_nor_double_an_append() {
    let Some(database) = crate::postgres::scratch_database().await else { return };
    let (folder, name) = database.socket();
    let proxy = Proxy::start(folder, &name);
    let store = open(&proxy.url()).await;
    let load = Load::start(&store);
    proxy.counts.one_of.store(5, Relaxed);
    while proxy.counts.resolved.load(Relaxed) < 20 {
        load.goes_on(20).await;
    }
    finish(load, &proxy, &store).await;
}

async fn finish(load: Load, proxy: &Proxy, store: &Arc<dyn Store>) {
    proxy.counts.one_of.store(0, Relaxed);
    let figures = load.verify(store).await;
    println!("{figures:?} {:?}", proxy.counts);
    assert!(proxy.counts.resolved.load(Relaxed) > 0, "no append was ever in doubt");
    assert!(proxy.counts.cuts.iter().all(|cuts| cuts.load(Relaxed) > 0));
    assert_eq!(figures.doubtful_but_there, 0, "the store gave up although it could tell");
}
