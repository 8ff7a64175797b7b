//! The readers: as many connections as are needed at once, each on a thread of the blocking pool while there is work.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{SqliteOptions, open_reader, run};
use crate::{
    Error, Result,
    store::sql::{Row, Statement},
};

/// Reads until nothing is waiting, when it is dropped: a runtime that shuts down drops it instead of running it, and
/// those that wait may belong to another runtime.
struct Worker(Arc<Readers>);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.work();
    }
}

/// What is to be read, and who reads.
#[derive(Debug)]
pub(super) struct Readers {
    state: Mutex<State>,
    path: PathBuf,
    options: SqliteOptions,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Read>,
    idle: Vec<Connection>,
    /// Threads at work; each takes from `waiting` until nothing is left.
    working: usize,
}

#[derive(Debug)]
struct Read {
    statement: Statement,
    reply: oneshot::Sender<rusqlite::Result<Vec<Row>>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, options: SqliteOptions) -> Self {
        Self { state: Mutex::default(), path, options }
    }

    /// Runs `statement` on a connection that only reads. The inner result is the database's.
    ///
    /// # Errors
    /// [`Error::Closed`] if the runtime is shutting down.
    pub(super) async fn read(
        self: &Arc<Self>,
        statement: Statement,
    ) -> Result<rusqlite::Result<Vec<Row>>> {
        let (reply, answer) = oneshot::channel();
        let one_more = {
            let mut state = self.lock();
            state.waiting.push_back(Read { statement, reply });
            let one_more = state.working < self.options.readers.clamp(1, 64);
            state.working += usize::from(one_more);
            one_more
        };
        if one_more {
            let worker = Worker(Arc::clone(self));
            // Not joined: it ends by itself as soon as nothing is waiting.
            drop(tokio::task::spawn_blocking(move || drop(worker)));
        }
        answer.await.map_err(|_| Error::Closed { what: "the store" })
    }

    /// What a connection of one's own needs.
    pub(super) fn opened(&self) -> (&Path, &SqliteOptions) {
        (&self.path, &self.options)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until nothing is waiting.
    fn work(&self) {
        let mut conn = self.lock().idle.pop();
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.waiting.pop_front();
                if next.is_none() {
                    state.working -= 1;
                    state.idle.extend(conn.take());
                }
                next
            };
            let Some(Read { statement, reply }) = next else { return };
            let found = self.run(&mut conn, &statement);
            // Nobody waits any more where the caller was dropped.
            let _ = reply.send(found);
        }
    }

    fn run(
        &self,
        conn: &mut Option<Connection>,
        statement: &Statement,
    ) -> rusqlite::Result<Vec<Row>> {
        let open = match conn.take() {
            Some(open) => open,
            None => open_reader(&self.path, &self.options)?,
        };
        let found = run::query(&open, statement)?;
        // After an error the connection is closed instead: a new one starts from what is on the disk.
        *conn = Some(open);
        Ok(found)
    }
}
