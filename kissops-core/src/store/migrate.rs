//! The schema's history: ordered, checksummed, each step in one transaction, safe when two processes open at once.

use std::{fs, io, path::Path};

use rusqlite::{Connection, OpenFlags, params};

use super::sqlite::{Failure, beside, create_file};
use crate::{Error, Result, clock};

/// One step, in SQL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    /// Counted from 1, without gaps.
    pub(super) version: u32,
    /// What it does, in a word.
    pub(super) name: &'static str,
    /// The statements.
    pub(super) sql: &'static str,
}

/// All steps, in order. One that was released is never edited: its checksum is compared at each opening.
pub(super) const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, name: "initial", sql: include_str!("migrations/0001_initial.sql") }];

const HISTORY: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    checksum   TEXT    NOT NULL,
    applied_at INTEGER NOT NULL,
    applied_by TEXT    NOT NULL
) STRICT";

/// A step that was applied, as the database remembers it.
struct Applied {
    version: u32,
    name: String,
    checksum: String,
    by: String,
}

/// Brings the database at `file` (`None`: in memory) to the last of `steps`.
///
/// Before a step that is not the first, the database is copied to `<file>.before-v<version>` (mode 600).
///
/// # Errors
/// [`Error::WrongState`] for a database that is newer than the program, or whose history differs; as for statements.
pub(super) fn migrate(
    conn: &Connection,
    file: Option<&Path>,
    steps: &[Migration],
) -> Result<(), Failure> {
    let what = file.map_or("the store in memory".into(), |f| format!("the store {}", f.display()));
    // Without a lock first: nearly always there is nothing to do.
    if has_history(conn)? && next_step(conn, &what, file, steps)?.is_none() {
        return Ok(());
    }
    loop {
        conn.execute_batch("BEGIN EXCLUSIVE")?;
        match one_step(conn, &what, file, steps) {
            Ok(true) => conn.execute_batch("COMMIT")?,
            Ok(false) => return Ok(conn.execute_batch("COMMIT")?),
            Err(failure) => {
                if !conn.is_autocommit() {
                    conn.execute_batch("ROLLBACK")?;
                }
                return Err(failure);
            }
        }
    }
}

/// Applies the next step inside the open transaction. `false`: there was none.
fn one_step(
    conn: &Connection,
    what: &str,
    file: Option<&Path>,
    steps: &[Migration],
) -> Result<bool, Failure> {
    // The lock is held now, so what another process did meanwhile is seen and stays.
    if !has_history(conn)? {
        refuse_foreign(conn, what)?;
    }
    conn.execute_batch(HISTORY)?;
    let Some(step) = next_step(conn, what, file, steps)? else { return Ok(false) };
    if let Some(file) = file
        && step.version > 1
    {
        copy_before(file, step.version)?;
    }
    conn.execute_batch(step.sql)?;
    conn.execute(
        "INSERT INTO schema_migrations (version, name, checksum, applied_at, applied_by) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![step.version, step.name, checksum(step.sql), clock::now().0, program()],
    )?;
    Ok(true)
}

fn program() -> String {
    format!("kissops {}", env!("CARGO_PKG_VERSION"))
}

fn has_history(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'",
        [],
        |row| Ok(row.get::<_, i64>(0)? > 0),
    )
}

/// Some other program's database is never written to.
fn refuse_foreign(conn: &Connection, what: &str) -> Result<(), Failure> {
    let tables: i64 = conn.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        [],
        |row| row.get(0),
    )?;
    if tables == 0 {
        return Ok(());
    }
    Err(Failure::Refused(Error::WrongState {
        what: what.into(),
        state: "another program's database".into(),
        help: "nothing was changed: give kissops a file of its own".into(),
    }))
}

/// The step to apply next, once the history was found to be a beginning of `steps`.
fn next_step<'a>(
    conn: &Connection,
    what: &str,
    file: Option<&Path>,
    steps: &'a [Migration],
) -> Result<Option<&'a Migration>, Failure> {
    let sql = "SELECT version, name, checksum, applied_by FROM schema_migrations ORDER BY version";
    let mut query = conn.prepare(sql)?;
    let applied: Vec<Applied> = query
        .query_map([], |row| {
            Ok(Applied {
                version: row.get(0)?,
                name: row.get(1)?,
                checksum: row.get(2)?,
                by: row.get(3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let known = steps.last().map_or(0, |step| step.version);
    if let Some(last) = applied.last()
        && last.version > known
    {
        let copy = file.map_or(String::new(), |file| {
            let copy = beside(file, &format!(".before-v{}", known + 1));
            format!(", or restore {} if it is there", copy.display())
        });
        return Err(Failure::Refused(Error::WrongState {
            what: what.into(),
            state: format!(
                "of schema version {} (by {}), newer than {known}, the last that {} knows",
                last.version,
                last.by,
                program()
            ),
            help: format!("nothing was changed: use the newer program{copy}"),
        }));
    }
    for (found, step) in applied.iter().zip(steps) {
        if found.version != step.version || found.checksum != checksum(step.sql) {
            return Err(Failure::Refused(Error::WrongState {
                what: what.into(),
                state: format!(
                    "made by another migration {} (`{}`, checksum {}, by {}) than the program's (`{}`, checksum {})",
                    found.version, found.name, found.checksum, found.by, step.name, checksum(step.sql)
                ),
                help: "nothing was changed: use the program that made it, or restore a backup that this one made".into(),
            }));
        }
    }
    Ok(steps.get(applied.len()))
}

/// It is to notice an edit, not to withstand an attacker, who could edit the stored sum as well.
fn checksum(sql: &str) -> String {
    format!("{:016x}", crate::id::stable_hash([sql.as_bytes()]))
}

/// Copies the database as it was committed last, through a second connection: the first is inside its transaction.
fn copy_before(file: &Path, version: u32) -> Result<(), Failure> {
    let copy = beside(file, &format!(".before-v{version}"));
    let partial = beside(&copy, ".partial");
    let gone = |err: io::Error| {
        if err.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(err) }
    };
    fs::remove_file(&partial)
        .or_else(gone)
        .map_err(Error::io(format!("remove {}", partial.display())))?;
    create_file(&partial)?;
    let source = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let text = partial.to_str().ok_or_else(|| {
        Error::invalid("store.url", "must be UTF-8 for the copy that is made before a migration")
    })?;
    source.execute("VACUUM INTO ?1", [text])?;
    fs::File::open(&partial)
        .and_then(|copy| copy.sync_all())
        .map_err(Error::io(format!("sync {}", partial.display())))?;
    fs::rename(&partial, &copy).map_err(Error::io(format!("rename {}", partial.display())))?;
    tracing::info!(copy = %copy.display(), "copied the store before its schema changes");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

    use super::*;

    const ONE: Migration =
        Migration { version: 1, name: "one", sql: "CREATE TABLE a (x INTEGER) STRICT" };
    const TWO: Migration = Migration {
        version: 2,
        name: "two",
        sql: "ALTER TABLE a ADD COLUMN y INTEGER; INSERT INTO a VALUES (7, 8)",
    };
    const BROKEN: Migration =
        Migration { version: 3, name: "broken", sql: "DROP TABLE a; SELECT nonsense" };

    fn open(path: &Path) -> Connection {
        let conn = Connection::open(path).unwrap();
        conn.busy_timeout(Duration::from_secs(5)).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        conn
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kissops.db");
        (folder, path)
    }

    fn columns(conn: &Connection) -> i64 {
        conn.query_row("SELECT count(*) FROM pragma_table_info('a')", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn the_released_steps_are_in_order_and_unedited() {
        let found: Vec<_> =
            MIGRATIONS.iter().map(|step| (step.version, checksum(step.sql))).collect();
        assert_eq!(found, [(1, "c0169317793577e9".to_owned())]);
    }

    #[test]
    fn a_later_step_is_preceded_by_a_copy_that_only_the_owner_can_read() {
        let (_folder, path) = scratch();
        let conn = open(&path);
        migrate(&conn, Some(&path), &[ONE]).unwrap();
        let copy = beside(&path, ".before-v2");
        assert!(!copy.exists());
        fs::write(beside(&copy, ".partial"), "left over").unwrap();
        migrate(&conn, Some(&path), &[ONE, TWO]).unwrap();
        assert_eq!(columns(&conn), 2);
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!beside(&copy, ".partial").exists());
        let copied = open(&copy);
        assert_eq!(columns(&copied), 1);
        migrate(&copied, Some(&copy), &[ONE]).unwrap();
    }

    #[test]
    fn a_step_that_fails_changes_nothing_and_earlier_ones_stay() {
        let (_folder, path) = scratch();
        let conn = open(&path);
        migrate(&conn, Some(&path), &[ONE, TWO, BROKEN]).unwrap_err();
        assert!(conn.is_autocommit());
        assert_eq!(columns(&conn), 2);
        migrate(&conn, Some(&path), &[ONE, TWO]).unwrap();
    }

    #[test]
    fn threads_that_migrate_at_once_apply_each_step_once() {
        let (_folder, path) = scratch();
        migrate(&open(&path), Some(&path), &[ONE]).unwrap();
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| migrate(&open(&path), Some(&path), &[ONE, TWO])))
                .collect();
            for one in all {
                one.join().unwrap().unwrap();
            }
        });
        let rows: i64 =
            open(&path).query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1);
    }

    #[test]
    fn an_older_program_names_the_copy_to_go_back_to() {
        let (_folder, path) = scratch();
        let conn = open(&path);
        migrate(&conn, Some(&path), &[ONE, TWO]).unwrap();
        let Failure::Refused(err) = migrate(&conn, Some(&path), &[ONE]).unwrap_err() else {
            panic!("not refused")
        };
        assert!(err.to_string().contains(".before-v2"), "{err}");
    }
}
