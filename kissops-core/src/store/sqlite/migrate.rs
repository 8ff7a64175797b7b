//! Brings a file's schema up to date; safe when two processes open at once.

use std::{fs, io, path::Path};

use rusqlite::{Connection, OpenFlags, params};

use super::{fault::Failure, file};
use crate::{
    Error, Result, clock,
    store::migrate::{
        Applied, HISTORY, INSERT_HISTORY, Migration, Pending, SELECT_HISTORY, checksum, foreign,
        pending, program,
    },
};

/// Brings the database at `file` (`None`: in memory) to the last of `steps`.
///
/// Before the first step that changes what another version has made, the database is copied to
/// `<file>.before-v<version>` (mode 600).
///
/// # Errors
/// [`Error::WrongState`] for a database that is newer than the program, or whose history differs; as for statements.
pub(super) fn migrate(
    conn: &Connection,
    file: Option<&Path>,
    steps: &'static [Migration],
) -> Result<(), Failure> {
    let what = file.map_or("the store in memory".into(), |f| format!("the store {}", f.display()));
    // Without a lock first: nearly always there is nothing to do.
    if has_history(conn)? && todo(conn, &what, file, steps)?.steps.is_empty() {
        return Ok(());
    }
    let mut copied = false;
    loop {
        conn.execute_batch("BEGIN EXCLUSIVE")?;
        match one_step(conn, &what, file, steps, &mut copied) {
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
    steps: &'static [Migration],
    copied: &mut bool,
) -> Result<bool, Failure> {
    // The lock is held now, so what another process did meanwhile is seen and stays.
    if !has_history(conn)? {
        refuse_foreign(conn, what)?;
    }
    conn.execute_batch(HISTORY)?;
    let todo = todo(conn, what, file, steps)?;
    let Some(step) = todo.steps.first() else { return Ok(false) };
    // What this very call has made needs no copy.
    if todo.fresh {
        *copied = true;
    }
    if let Some(file) = file
        && !*copied
    {
        copy_before(file, step.version)?;
        *copied = true;
    }
    conn.execute_batch(step.sql)?;
    conn.execute(
        INSERT_HISTORY,
        params![step.version, step.name, checksum(step.sql), clock::now().0, program()],
    )?;
    Ok(true)
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
    Err(Failure::Refused(foreign(what, "give kissops a file of its own")))
}

/// What follows the history that is there.
fn todo(
    conn: &Connection,
    what: &str,
    file: Option<&Path>,
    steps: &'static [Migration],
) -> Result<Pending, Failure> {
    let mut query = conn.prepare(SELECT_HISTORY)?;
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
    let older = |version| {
        file.map_or(String::new(), |file| {
            let copy = file::beside(file, &format!(".before-v{version}"));
            format!(", or restore {} if it is there", copy.display())
        })
    };
    Ok(pending(what, &applied, steps, older)?)
}

/// Copies the database as it was committed last, through a second connection: the first is inside its transaction.
fn copy_before(file: &Path, version: u32) -> Result<(), Failure> {
    let copy = file::beside(file, &format!(".before-v{version}"));
    let partial = file::beside(&copy, ".partial");
    let gone = |err: io::Error| {
        if err.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(err) }
    };
    fs::remove_file(&partial)
        .or_else(gone)
        .map_err(Error::io(format!("remove {}", partial.display())))?;
    file::create(&partial)?;
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

    const FIRST: &[Migration] = &[ONE];
    const BOTH: &[Migration] = &[ONE, TWO];
    const ALL: &[Migration] = &[ONE, TWO, BROKEN];

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
    fn a_later_step_is_preceded_by_a_copy_that_only_the_owner_can_read() {
        let (_folder, path) = scratch();
        let conn = open(&path);
        migrate(&conn, Some(&path), FIRST).unwrap();
        let copy = file::beside(&path, ".before-v2");
        assert!(!copy.exists());
        fs::write(file::beside(&copy, ".partial"), "left over").unwrap();
        migrate(&conn, Some(&path), BOTH).unwrap();
        assert_eq!(columns(&conn), 2);
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!file::beside(&copy, ".partial").exists());
        let copied = open(&copy);
        assert_eq!(columns(&copied), 1);
        migrate(&copied, Some(&copy), FIRST).unwrap();
    }

    #[test]
    fn a_step_that_fails_changes_nothing_and_earlier_ones_stay() {
        let (_folder, path) = scratch();
        let conn = open(&path);
        migrate(&conn, Some(&path), ALL).unwrap_err();
        assert!(conn.is_autocommit());
        assert_eq!(columns(&conn), 2);
        migrate(&conn, Some(&path), BOTH).unwrap();
    }

    #[test]
    fn threads_that_migrate_at_once_apply_each_step_once() {
        let (_folder, path) = scratch();
        migrate(&open(&path), Some(&path), FIRST).unwrap();
        std::thread::scope(|scope| {
            let all: Vec<_> =
                (0..4).map(|_| scope.spawn(|| migrate(&open(&path), Some(&path), BOTH))).collect();
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
        migrate(&conn, Some(&path), BOTH).unwrap();
        let Failure::Refused(err) = migrate(&conn, Some(&path), FIRST).unwrap_err() else {
            panic!("not refused")
        };
        assert!(err.to_string().contains(".before-v2"), "{err}");
    }
}
