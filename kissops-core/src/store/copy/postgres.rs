//! A server's database as the source or the target of a copy.

use std::{io, pin::Pin, time::Duration};

use futures_util::TryStreamExt as _;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::{sync::mpsc, time::timeout};

use super::{
    CopyPhase, PIECE, Piece, Watch, broken_off, in_use, other_version, prove,
    schema::{Schema, Table},
    tuple::{self, HEADER, TRAILER},
    unless_stopped,
};
use crate::{
    Result,
    pg::{self, Digest, Place, quoted},
    store::postgres::{PostgresOptions, PostgresStore},
};

/// How long the target's tables may be in somebody else's use.
const LOCKS: &str = "SET LOCAL lock_timeout = '5s'";

/// Whether both URLs lead to the same tables. However they are spelt: their text does not tell.
pub(super) async fn is_same(from: &SecretString, to: &SecretString) -> Result<bool> {
    let (from, to) = (Identity::of(from).await?, Identity::of(to).await?);
    let same_server = match (&from.system, &to.system) {
        (Some(from), Some(to)) => from == to,
        // By the microsecond. Its address would not do: a socket and a network have different ones.
        _ => from.started == to.started,
    };
    Ok(same_server && from.database == to.database && from.schema == to.schema)
}

/// What tells one place for tables from all others.
struct Identity {
    /// Drawn when the cluster was made; not everybody may see it.
    system: Option<i64>,
    started: String,
    database: i64,
    schema: Option<String>,
}

impl Identity {
    async fn of(url: &SecretString) -> Result<Self> {
        let (mut conn, place) = pg::connect("the store", url).await?;
        let found = Self::ask(&mut conn).await.map_err(|err| place.explain_sql(err))?;
        // It is going away either way.
        let _ = conn.close().await;
        Ok(found)
    }

    async fn ask(conn: &mut PgConnection) -> sqlx::Result<Self> {
        let sql = "SELECT extract(epoch FROM pg_postmaster_start_time())::text, oid::int8, current_schema()::text,
            has_function_privilege('pg_control_system()', 'EXECUTE')
            FROM pg_database WHERE datname = current_database()";
        let row = sqlx::query(sql).fetch_one(&mut *conn).await?;
        let system = if row.try_get(3)? {
            let sql = "SELECT system_identifier FROM pg_control_system()";
            Some(sqlx::query(sql).fetch_one(conn).await?.try_get(0)?)
        } else {
            None
        };
        Ok(Self {
            system,
            started: row.try_get(0)?,
            database: row.try_get(1)?,
            schema: row.try_get(2)?,
        })
    }
}

/// Begins to send all tables; says how many rows there are.
pub(super) async fn begin(
    url: &SecretString,
    schema: &Schema,
    send: mpsc::Sender<Piece>,
) -> Result<u64> {
    let (mut conn, place) = pg::connect("the store", url).await?;
    let (version, rows) =
        snapshot(&mut conn, schema).await.map_err(|err| place.explain_sql(err))?;
    if version != schema.version {
        return Err(other_version(&place.to_string(), version, schema.version));
    }
    let schema = schema.clone();
    // It ends with the last piece, or when the target has gone.
    tokio::spawn(async move {
        if let Err(err) = send_all(&mut conn, &schema, &send).await {
            let _ = send.send(Piece::Failed(place.explain_sql(err))).await;
        }
    });
    Ok(rows)
}

/// Begins a transaction that sees one state of everything; the schema's version and the number of rows in it.
async fn snapshot(conn: &mut PgConnection, schema: &Schema) -> sqlx::Result<(i64, u64)> {
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let known = "SELECT to_regclass('schema_migrations') IS NOT NULL";
    if !sqlx::query(known).fetch_one(&mut *conn).await?.try_get::<bool, _>(0)? {
        return Ok((0, 0));
    }
    let sql = "SELECT coalesce(max(version), 0) FROM schema_migrations";
    let version: i64 = sqlx::query(sql).fetch_one(&mut *conn).await?.try_get(0)?;
    let mut rows = 0;
    if version == schema.version {
        for table in &schema.tables {
            rows += count(conn, table).await?;
        }
    }
    Ok((version, rows.cast_unsigned()))
}

async fn count(conn: &mut PgConnection, table: &Table) -> sqlx::Result<i64> {
    let sql = format!("SELECT count(*) FROM {}", quoted(&table.name));
    sqlx::query(AssertSqlSafe(sql)).fetch_one(conn).await?.try_get(0)
}

async fn send_all(
    conn: &mut PgConnection,
    schema: &Schema,
    send: &mpsc::Sender<Piece>,
) -> sqlx::Result<()> {
    for (at, table) in schema.tables.iter().enumerate() {
        // Where the other side has gone, it has said why.
        if send.send(Piece::Table(at)).await.is_err() {
            return Ok(());
        }
        let digest = read(conn, table, Some(send)).await?;
        if send.send(Piece::End(digest)).await.is_err() {
            return Ok(());
        }
    }
    let _ = send.send(Piece::Done).await;
    Ok(())
}

/// Reads a table, sends its rows where somebody wants them, and sums them up.
async fn read(
    conn: &mut PgConnection,
    table: &Table,
    send: Option<&mpsc::Sender<Piece>>,
) -> sqlx::Result<Digest> {
    let sql = format!(
        "COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)",
        table.list(),
        quoted(&table.name)
    );
    let mut stream = conn.copy_out_raw(&sql).await?;
    let mut digest = Digest::default();
    // What has come and is not a whole row yet; and whole rows that are to be sent.
    let (mut pending, mut piece, mut rows) = (Vec::new(), Vec::new(), 0);
    let mut header = HEADER.len();
    while let Some(bytes) = lively(stream.try_next()).await? {
        pending.extend_from_slice(&bytes);
        let mut rest = &*pending;
        if header > 0 {
            let Some(after) = rest.get(header..) else { continue };
            rest = after;
            header = 0;
        }
        while let Some(row) = tuple::split(&mut rest) {
            digest.add(row);
            if send.is_some() {
                piece.extend_from_slice(row);
                rows += 1;
            }
        }
        let done = pending.len() - rest.len();
        pending.drain(..done);
        if let Some(send) = send
            && piece.len() >= PIECE
        {
            let bytes = std::mem::take(&mut piece);
            if send.send(Piece::Rows { bytes, rows }).await.is_err() {
                return Ok(digest);
            }
            rows = 0;
        }
    }
    if pending != TRAILER {
        return Err(sqlx::Error::Protocol("the rows of a COPY did not end".into()));
    }
    if let Some(send) = send
        && rows > 0
    {
        let _ = send.send(Piece::Rows { bytes: piece, rows }).await;
    }
    Ok(digest)
}

/// Writes all that comes, in one transaction.
pub(super) async fn load(
    url: &SecretString,
    schema: &Schema,
    receive: mpsc::Receiver<Piece>,
    watch: &mut Watch<'_>,
    stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<Vec<Digest>> {
    let (mut conn, place, digests) =
        unless_stopped(stop, fill(url, schema, receive, watch)).await?;
    // From here on, only the server's answer tells what is there.
    conn.execute("COMMIT").await.map_err(|err| place.explain_commit(err))?;
    Ok(digests)
}

/// All but the end of the transaction, which ends with its connection if nobody else does it.
async fn fill(
    url: &SecretString,
    schema: &Schema,
    receive: mpsc::Receiver<Piece>,
    watch: &mut Watch<'_>,
) -> Result<(PgConnection, Place, Vec<Digest>)> {
    // Makes the tables where there are none.
    let options = PostgresOptions { connections: 1, ..PostgresOptions::default() };
    PostgresStore::connect(url, options).await?.close().await;
    let (mut conn, place) = pg::connect("the store", url).await?;
    take_over(&mut conn, schema, &place).await?;
    let sent = insert_all(&mut conn, schema, receive, watch, &place).await?;
    watch.next_phase();
    let mut digests = Vec::with_capacity(sent.len());
    let failed = |err| place.explain_sql(err);
    for (table, sent) in schema.tables.iter().zip(sent) {
        let found = read(&mut conn, table, None).await.map_err(failed)?;
        digests.push(prove(&table.name, sent, found)?);
        watch.tell(CopyPhase::Proving, &table.name, found.rows);
        // Here and not after all: what fails then would say of a copy that is there that it is not.
        let sql = format!("ANALYZE {}", quoted(&table.name));
        conn.execute(AssertSqlSafe(sql)).await.map_err(failed)?;
    }
    Ok((conn, place, digests))
}

/// Begins the transaction, and has the tables for itself and empty.
async fn take_over(conn: &mut PgConnection, schema: &Schema, place: &Place) -> Result<()> {
    let failed = |err| place.explain_sql(err);
    conn.execute("BEGIN").await.map_err(failed)?;
    // Before anything is locked: a database in use is told so at once, and those who use it do not wait.
    refuse_used(conn, schema, place).await?;
    conn.execute(LOCKS).await.map_err(failed)?;
    for table in &schema.tables {
        // Nobody may write to it from here on,
        let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", quoted(&table.name));
        conn.execute(AssertSqlSafe(lock)).await.map_err(failed)?;
    }
    // nor be overlooked.
    refuse_used(conn, schema, place).await?;
    for table in schema.tables.iter().rev() {
        let sql = format!("DELETE FROM {}", quoted(&table.name));
        conn.execute(AssertSqlSafe(sql)).await.map_err(failed)?;
    }
    Ok(())
}

/// The target must have nothing to lose.
async fn refuse_used(conn: &mut PgConnection, schema: &Schema, place: &Place) -> Result<()> {
    for table in &schema.tables {
        let rows = count(conn, table).await.map_err(|err| place.explain_sql(err))?;
        if rows > table.rows_when_new {
            return Err(in_use(&place.to_string(), &table.name));
        }
    }
    Ok(())
}

async fn insert_all(
    conn: &mut PgConnection,
    schema: &Schema,
    mut receive: mpsc::Receiver<Piece>,
    watch: &mut Watch<'_>,
    place: &Place,
) -> Result<Vec<Digest>> {
    let failed = |err| place.explain_sql(err);
    let mut sent = Vec::with_capacity(schema.tables.len());
    loop {
        let table = match receive.recv().await {
            Some(Piece::Table(at)) => schema.tables.get(at).ok_or_else(|| broken_off(None))?,
            Some(Piece::Done) => return Ok(sent),
            last => return Err(broken_off(last)),
        };
        let sql =
            format!("COPY {} ({}) FROM STDIN (FORMAT binary)", quoted(&table.name), table.list());
        let mut copy = conn.copy_in_raw(&sql).await.map_err(failed)?;
        lively(copy.send(HEADER)).await.map_err(failed)?;
        loop {
            match receive.recv().await {
                Some(Piece::Rows { bytes, rows }) => {
                    lively(copy.send(bytes)).await.map_err(failed)?;
                    watch.tell(CopyPhase::Copying, &table.name, rows);
                }
                Some(Piece::End(digest)) => {
                    sent.push(digest);
                    break;
                }
                last => {
                    copy.abort("the source broke").await.map_err(failed)?;
                    return Err(broken_off(last));
                }
            }
        }
        lively(copy.send(&TRAILER[..])).await.map_err(failed)?;
        copy.finish().await.map_err(failed)?;
    }
}

/// A server that takes or gives no row for so long is taken for gone.
const STALLED: Duration = Duration::from_mins(1);

async fn lively<T>(step: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let late = |_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into()));
    timeout(STALLED, step).await.unwrap_or_else(late)
}
