//! Between a store and its server: cuts connections where it hurts, or stops to pass anything on.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// A socket in a folder of its own, as Postgres has one. Dropping it cuts all connections.
pub(super) struct Proxy {
    folder: TempDir,
    database: String,
    pub(super) counts: Arc<Counts>,
    task: JoinHandle<()>,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    server: PathBuf,
    /// One of so many statements is cut off; 0 for none.
    pub(super) one_of: AtomicU64,
    /// Nothing is passed on.
    pub(super) silent: AtomicBool,
    /// Cut before the server got the statement; while it ran; when its answer was there, which then got lost.
    pub(super) cuts: [AtomicU64; 3],
    /// Answers of the server that an append had taken effect already.
    pub(super) resolved: AtomicU64,
}

impl Proxy {
    pub(super) fn start(server: PathBuf, database: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("kissops-proxy.").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let counts = Arc::new(Counts { server, ..Counts::default() });
        let shared = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, Arc::clone(&shared)));
            }
        });
        Self { folder, database: database.to_owned(), counts, task }
    }

    pub(super) fn url(&self) -> String {
        let (folder, database) = (self.folder.path().display(), &self.database);
        format!("postgres://postgres@localhost/{database}?host={folder}&sslmode=disable")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is to happen to the statement that is on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Before = 0,
    During = 1,
    After = 2,
}

/// Of one connection.
#[derive(Default)]
struct Statement {
    /// It adds rows: names of prepared ones, and whether one runs.
    appends: HashSet<Vec<u8>>,
    appending: AtomicBool,
    swallow: AtomicBool,
}

async fn pass(client: UnixStream, counts: Arc<Counts>) {
    let Ok(server) = UnixStream::connect(counts.server.join(".s.PGSQL.5432")).await else { return };
    let ((client_in, client_out), (server_in, server_out)) =
        (client.into_split(), server.into_split());
    let statement = Statement::default();
    let (appending, swallow) = (&statement.appending, &statement.swallow);
    // When one direction ends, both connections are closed.
    tokio::select! {
        _ = requests(client_in, server_out, statement.appends, appending, swallow, &counts) => {}
        _ = answers(server_in, client_out, appending, swallow, &counts) => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut appends: HashSet<Vec<u8>>,
    appending: &AtomicBool,
    swallow: &AtomicBool,
    counts: &Counts,
) -> Option<()> {
    let (mut buffer, mut cut) = (Vec::new(), None);
    // The first message has no type.
    let startup = message(&mut from, &mut buffer, 0).await?;
    to.write_all(&startup).await.ok()?;
    loop {
        let message = message(&mut from, &mut buffer, 1).await?;
        unless_silent(counts).await;
        let mut fields = message[5..].split(|byte| *byte == 0);
        match message[0] {
            b'P' => {
                let (name, sql) = (fields.next()?, fields.next()?);
                if sql.starts_with(b"WITH taken AS") {
                    appends.insert(name.to_vec());
                }
            }
            b'B' => {
                appending.store(appends.contains(fields.nth(1)?), Relaxed);
                cut = choose(counts);
                if cut == Some(Cut::Before) {
                    counts.cuts[0].fetch_add(1, Relaxed);
                    return None;
                }
                swallow.store(cut == Some(Cut::After), Relaxed);
            }
            _ => {}
        }
        to.write_all(&message).await.ok()?;
        if message[0] == b'S' && cut == Some(Cut::During) {
            counts.cuts[1].fetch_add(1, Relaxed);
            return None;
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    appending: &AtomicBool,
    swallow: &AtomicBool,
    counts: &Counts,
) -> Option<()> {
    let mut buffer = Vec::new();
    // Everything up to "ready for query" is one answer.
    let mut answer = Vec::new();
    loop {
        let Some(message) = message(&mut from, &mut buffer, 1).await else {
            to.write_all(&answer).await.ok()?;
            return None;
        };
        unless_silent(counts).await;
        if message[0] == b'C' && message[5..] == *b"SELECT 0\0" && appending.load(Relaxed) {
            counts.resolved.fetch_add(1, Relaxed);
        }
        answer.extend_from_slice(&message);
        if message[0] == b'Z' {
            appending.store(false, Relaxed);
            if swallow.swap(false, Relaxed) {
                counts.cuts[2].fetch_add(1, Relaxed);
                return None;
            }
            to.write_all(&answer).await.ok()?;
            answer.clear();
        }
    }
}

/// The next whole message, of which the length stands `at` some byte.
async fn message(from: &mut OwnedReadHalf, buffer: &mut Vec<u8>, at: usize) -> Option<Vec<u8>> {
    loop {
        if let Some(length) = buffer.get(at..at + 4) {
            let length = u32::from_be_bytes(length.try_into().ok()?) as usize + at;
            if buffer.len() >= length {
                return Some(buffer.drain(..length).collect());
            }
        }
        if from.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

async fn unless_silent(counts: &Counts) {
    if counts.silent.load(Relaxed) {
        // Not even when others are heard again.
        std::future::pending::<()>().await;
    }
}

fn choose(counts: &Counts) -> Option<Cut> {
    let one_of = counts.one_of.load(Relaxed);
    let random = RandomState::new().hash_one(0);
    if one_of == 0 || !random.is_multiple_of(one_of) {
        return None;
    }
    Some([Cut::Before, Cut::During, Cut::After][usize::try_from((random / one_of) % 3).unwrap()])
}
