//! The copy itself: tables, rows, keys, proof, all in one transaction.

use bytes_of::Walker;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::{
    Phase, Progress, Report, TableReport, Watcher,
    encode::{HEADER, TRAILER},
    plan::{Load, Plan},
    source::{Source, stored},
    target::{Target, refused},
};
use crate::{Error, Result, pg::Digest};

mod bytes_of;

/// What is sent at once, and how many of these may wait: all the memory that rows take.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 4;

/// Copies and proves, all but the end of the transaction.
pub(super) async fn run(
    mut source: Source,
    target: &mut Target,
    plan: &Plan,
    watcher: &Watcher,
) -> Result<Report> {
    target.begin().await?;
    prepare(target, plan).await?;
    let mut digests = Vec::with_capacity(plan.loads.len());
    let loads: Vec<std::sync::Arc<Load>> =
        plan.loads.iter().map(|load| std::sync::Arc::new(load.clone())).collect();
    for load in &loads {
        let (back, digest) = send(source, target, load, watcher).await?;
        source = back;
        digests.push(digest);
    }
    for (at, step) in plan.after.iter().enumerate() {
        watcher(Progress {
            phase: Phase::Index,
            table: &step.what,
            rows: at as u64,
            of: Some(plan.after.len() as u64),
        });
        target.execute(&step.what, &step.sql).await?;
    }
    let mut report = Report { tables: Vec::new(), steps: plan.after.len() };
    for (load, digest) in loads.iter().zip(digests) {
        report.tables.push(prove(target, load, digest, watcher).await?);
    }
    for load in &loads {
        target
            .execute(&format!("analyze {}", load.table), &format!("ANALYZE {}", load.target))
            .await?;
    }
    Ok(report)
}

async fn prepare(target: &mut Target, plan: &Plan) -> Result<()> {
    for step in &plan.first {
        // IF NOT EXISTS asks for the right to make it, also where it is.
        if let Some(schema) = &step.unless_schema
            && target.has_schema(schema).await?
        {
            continue;
        }
        target.execute(&step.what, &step.sql).await?;
    }
    // Wherever the extension lives, its type and its operators are to be found.
    let path = "SELECT set_config('search_path', concat_ws(', ', (SELECT quote_ident(nspname) FROM pg_extension e
        JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'citext'), current_setting('search_path')), true)";
    target.execute("find the extension citext", path).await?;
    for step in &plan.before {
        target.execute(&step.what, &step.sql).await?;
    }
    Ok(())
}

/// Sends the rows of a table. The file is read and encoded on a thread of its own while the server works.
async fn send(
    source: Source,
    target: &mut Target,
    load: &std::sync::Arc<Load>,
    watcher: &Watcher,
) -> Result<(Source, Digest)> {
    let what = format!("load the table {}", load.table);
    let sql = format!(
        "COPY {} ({}) FROM STDIN (FORMAT binary, FREEZE)",
        load.target,
        load.sent.join(", ")
    );
    // A table whose columns are all computed has rows, but nothing to send.
    let mut copy = target.connection.copy_in_raw(&sql).await.map_err(|err| refused(&what, &err))?;
    let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(WAITING);
    let (job, watch) = (std::sync::Arc::clone(load), std::sync::Arc::clone(watcher));
    let reader = tokio::task::spawn_blocking(move || {
        let read = read(&source, &job, &sender, &watch);
        (source, read)
    });
    let mut sent = Ok(());
    while let Some(chunk) = chunks.recv().await {
        if let Err(err) = copy.send(chunk).await {
            sent = Err(refused(&what, &err));
            break;
        }
    }
    drop(chunks);
    let (source, read) =
        reader.await.map_err(Error::unavailable("the thread that reads the file"))?;
    let digest = match (sent, read) {
        (Ok(()), Ok(digest)) => digest,
        (sent, read) => {
            // What the server says now is only what it was told.
            let _ = copy.abort("the file could not be read").await;
            return Err(sent.err().or(read.err()).unwrap_or(Error::Closed { what: "the copy" }));
        }
    };
    let rows = copy.finish().await.map_err(|err| refused(&what, &err))?;
    if rows != digest.rows {
        let detail = format!("{rows} of {} rows arrived", digest.rows);
        return Err(Error::Corrupt { what: format!("the table {}", load.table), detail });
    }
    Ok((source, digest))
}

/// Reads and encodes all rows, with their digest.
fn read(
    source: &Source,
    load: &Load,
    sender: &mpsc::Sender<Vec<u8>>,
    watcher: &Watcher,
) -> Result<Digest> {
    let what = format!("table {}", load.table);
    let failed = |err| source.failed(&what)(err);
    let mut statement = source.db.prepare(&load.select).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut digest = Digest::default();
    let mut chunk = Vec::with_capacity(CHUNK + CHUNK / 8);
    chunk.extend_from_slice(HEADER);
    let (all, sent) = (count(load.all.len()), count(load.sent.len()));
    let computed = load.all.len() > load.sent.len();
    let mut whole = Vec::new();
    let gone = |_| Error::Closed { what: "the connection" };
    while let Some(row) = rows.next().map_err(failed)? {
        let start = chunk.len();
        let out = if computed { &mut whole } else { &mut chunk };
        out.extend_from_slice(&all);
        for (at, (encoding, _)) in load.encodings.iter().enumerate() {
            let value = stored(row, at).map_err(failed)?;
            encoding.field(value, out).map_err(|_| misfit(load, at))?;
        }
        if computed {
            digest.add(&whole);
            whole.clear();
            chunk.extend_from_slice(&sent);
            for (at, (encoding, _)) in
                load.encodings.iter().enumerate().filter(|(_, (_, computed))| !computed)
            {
                let value = stored(row, at).map_err(failed)?;
                encoding.field(value, &mut chunk).map_err(|_| misfit(load, at))?;
            }
        } else {
            digest.add(&chunk[start..]);
        }
        if chunk.len() >= CHUNK {
            let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK + CHUNK / 8));
            sender.blocking_send(full).map_err(gone)?;
            watcher(Progress {
                phase: Phase::Load,
                table: &load.table,
                rows: digest.rows,
                of: Some(load.rows),
            });
        }
    }
    chunk.extend_from_slice(&TRAILER);
    sender.blocking_send(chunk).map_err(gone)?;
    watcher(Progress {
        phase: Phase::Load,
        table: &load.table,
        rows: digest.rows,
        of: Some(load.rows),
    });
    Ok(digest)
}

fn misfit(load: &Load, at: usize) -> Error {
    let what = format!("column {} of table {}", load.all[at], load.table);
    Error::Corrupt {
        what,
        detail: "a value that was not there when all were looked at, or one of over 1 GB"
            .to_owned(),
    }
}

/// The number of fields of a row. Neither side has tables of more than some thousand columns.
fn count(fields: usize) -> [u8; 2] {
    u16::try_from(fields).unwrap_or(u16::MAX).to_be_bytes()
}

/// Reads the table back and compares; then moves its sequence.
async fn prove(
    target: &mut Target,
    load: &Load,
    wanted: Digest,
    watcher: &Watcher,
) -> Result<TableReport> {
    let what = format!("read the table {} back", load.table);
    let computed = load.all.len() > load.sent.len();
    let from = if computed {
        format!("(SELECT {} FROM {})", load.all.join(", "), load.target)
    } else {
        format!("{} ({})", load.target, load.all.join(", "))
    };
    let sql = format!("COPY {from} TO STDOUT (FORMAT binary)");
    let mut walker = Walker::default();
    {
        let mut stream =
            target.connection.copy_out_raw(&sql).await.map_err(|err| refused(&what, &err))?;
        let mut next = 0;
        while let Some(bytes) = stream.next().await {
            walker.walk(&bytes.map_err(|err| refused(&what, &err))?);
            if walker.digest.rows >= next {
                next = walker.digest.rows + (1 << 15);
                watcher(Progress {
                    phase: Phase::Proof,
                    table: &load.table,
                    rows: walker.digest.rows,
                    of: Some(load.rows),
                });
            }
        }
    }
    if !walker.is_complete() || walker.digest != wanted {
        let detail = format!(
            "{} rows with the checksum {wanted} were sent, {} rows with {} were read back",
            wanted.rows, walker.digest.rows, walker.digest
        );
        return Err(Error::Corrupt { what: format!("the copy of table {}", load.table), detail });
    }
    let next_id = match &load.identity {
        Some((column, last)) => Some(target.move_sequence(&load.target, column, *last).await?),
        None => None,
    };
    if let (Some(next), Some((column, last))) = (next_id, &load.identity)
        && next <= *last
        && *last < i64::MAX
    {
        let detail = format!("{column} would go on at {next}, but {last} is given out");
        return Err(Error::Corrupt { what: format!("the sequence of {}", load.table), detail });
    }
    Ok(TableReport {
        table: load.table.clone(),
        rows: wanted.rows,
        checksum: wanted.to_string(),
        next_id,
    })
}
