//! Moves everything from one database to another, and proves that it is there.
//!
//! The source is read in one snapshot and never written to. The target gets all rows in one transaction, which is
//! committed only after they were read back and found to be the same; so a copy that fails, or is killed, leaves it empty
//! and can be run again. Rows go through in pieces: memory does not grow with the database.

use std::{
    pin::{Pin, pin},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::mpsc;

use self::schema::Schema;
use super::StoreUrl;
use crate::{Error, Result, pg::Digest};

mod postgres;
mod schema;
mod sqlite;
mod tuple;

/// Bytes of rows that are handed over at once.
const PIECE: usize = 64 << 10;
/// Pieces that may wait for the slower side.
const AHEAD: usize = 8;

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress<'a> {
    /// What is done at the moment.
    pub phase: CopyPhase,
    /// With which table.
    pub table: &'a str,
    /// Rows of all tables that are done, in this phase.
    pub rows: u64,
    /// Rows of all tables that are to be copied.
    pub total: u64,
}

/// What a copy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyPhase {
    /// Rows go over.
    Copying,
    /// They are read back.
    Proving,
}

/// What was copied, and proven to be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// The tables, in the order of their copying.
    pub tables: Vec<CopiedTable>,
    /// How long it took.
    #[serde(skip)]
    pub elapsed: Duration,
}

/// One table, the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopiedTable {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// The sum over its rows' contents, 128 bits in hexadecimal; it does not depend on their order.
    pub checksum: String,
}

/// What goes from the source to the target.
enum Piece {
    /// The next table, by its place in the schema.
    Table(usize),
    /// Whole rows of it.
    Rows { bytes: Vec<u8>, rows: u64 },
    /// All of it was sent.
    End(Digest),
    /// All tables were sent.
    Done,
    /// The source broke.
    Failed(Error),
}

/// Copies the store `from` to `to`, which must be new: a file that is not there yet, or a database without tables or with
/// an unused store. `progress` is called now and then, from any thread.
///
/// Whoever writes to the source meanwhile loses nothing there, but what is written after the beginning is not copied.
///
/// # Errors
/// - [`Error::WrongState`] if the source is of another version of the program, or the target is in use.
/// - [`Error::Corrupt`] if what was read back is not what was written.
/// - As opening either; [`Error::Unavailable`] if one goes away meanwhile. The target is then as it was.
///
/// # Cancel safety
/// A dropped call leaves the target as it was, soon after.
pub async fn copy(
    from: &StoreUrl,
    to: &StoreUrl,
    progress: impl FnMut(CopyProgress<'_>) + Send,
) -> Result<CopyReport> {
    copy_until(from, to, std::future::pending(), progress).await
}

/// As [`copy`], until `stop` is ready. A copy that is being committed by then is finished, and answers so: whoever stops
/// it learns whether it was made.
///
/// # Errors
/// As [`copy`]; [`Error::Closed`] if it was stopped: the target is then as it was.
///
/// # Cancel safety
/// As [`copy`].
pub async fn copy_until(
    from: &StoreUrl,
    to: &StoreUrl,
    stop: impl Future<Output = ()> + Send,
    mut progress: impl FnMut(CopyProgress<'_>) + Send,
) -> Result<CopyReport> {
    let begun = Instant::now();
    let mut stop = pin!(stop);
    let schema = Schema::new()?;
    let (send, receive) = mpsc::channel(AHEAD);
    let told = &mut progress as &mut (dyn FnMut(CopyProgress<'_>) + Send);
    let total = unless_stopped(stop.as_mut(), begin(from, to, &schema, send)).await?;
    let mut watch = Watch { told, total, rows: 0 };
    let digests = match to {
        StoreUrl::Sqlite(path) => sqlite::load(path, &schema, receive, &mut watch, stop).await?,
        StoreUrl::Postgres(url) => postgres::load(url, &schema, receive, &mut watch, stop).await?,
    };
    let tables = schema.tables.iter().zip(digests).map(|(table, digest)| CopiedTable {
        name: table.name.clone(),
        rows: digest.rows,
        checksum: digest.to_string(),
    });
    Ok(CopyReport { tables: tables.collect(), elapsed: begun.elapsed() })
}

async fn begin(
    from: &StoreUrl,
    to: &StoreUrl,
    schema: &Schema,
    send: mpsc::Sender<Piece>,
) -> Result<u64> {
    let same = match (from, to) {
        (StoreUrl::Postgres(from), StoreUrl::Postgres(to)) => postgres::is_same(from, to).await?,
        _ => from == to,
    };
    if same {
        return Err(Error::invalid("the target", "must be another database than the source"));
    }
    match from {
        StoreUrl::Sqlite(path) => sqlite::begin(path, schema, send).await,
        StoreUrl::Postgres(url) => postgres::begin(url, schema, send).await,
    }
}

/// Does `work`, which can be given up at any point.
async fn unless_stopped<T>(
    stop: Pin<&mut impl Future<Output = ()>>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = stop => Err(STOPPED),
        done = work => done,
    }
}

const STOPPED: Error = Error::Closed { what: "the copy" };

/// Tells how far it is.
struct Watch<'a> {
    told: &'a mut (dyn FnMut(CopyProgress<'_>) + Send),
    total: u64,
    rows: u64,
}

impl Watch<'_> {
    fn tell(&mut self, phase: CopyPhase, table: &str, more: u64) {
        self.rows += more;
        (self.told)(CopyProgress { phase, table, rows: self.rows, total: self.total });
    }

    fn next_phase(&mut self) {
        self.rows = 0;
    }
}

/// Why the source does not go on: it has said so, or its thread has panicked.
fn broken_off(last: Option<Piece>) -> Error {
    match last {
        Some(Piece::Failed(err)) => err,
        _ => Error::Closed { what: "the source of the copy" },
    }
}

/// Compares what was sent with what is there now.
fn prove(table: &str, sent: Digest, found: Digest) -> Result<Digest> {
    if sent == found {
        return Ok(found);
    }
    Err(Error::Corrupt {
        what: format!("the copy of {table}"),
        detail: format!(
            "{} rows with checksum {sent} were sent, {} rows with checksum {found} were read back; nothing was kept: try again, and look at the target's disk",
            sent.rows, found.rows
        ),
    })
}

/// The target must have nothing to lose.
fn in_use(what: &str, table: &str) -> Error {
    Error::WrongState {
        what: what.to_owned(),
        state: format!("in use: there are rows in its table {table}"),
        help: "nothing was changed: name a new database".into(),
    }
}

/// The source must have the schema of this program.
fn other_version(what: &str, found: i64, known: i64) -> Error {
    Error::WrongState {
        what: what.to_owned(),
        state: format!("of schema version {found}, and this program's is {known}"),
        help: if found < known {
            "nothing was changed: start kissopsd of this version once, which brings it up to date"
                .into()
        } else {
            "nothing was changed: use the newer program".into()
        },
    }
}
