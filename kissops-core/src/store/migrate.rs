//! The schema's history, the same for both engines: ordered, checksummed steps, each in one transaction.

use crate::{Error, Result, id::stable_hash};

/// One step, in the SQL that both engines share (see `sql`).
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
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "initial", sql: include_str!("migrations/0001_initial.sql") },
    Migration { version: 2, name: "ids", sql: include_str!("migrations/0002_ids.sql") },
    Migration {
        version: 3,
        name: "people and grants",
        sql: include_str!("migrations/0003_people_and_grants.sql"),
    },
    Migration {
        version: 4,
        name: "alerts, jobs and backups",
        sql: include_str!("migrations/0004_alerts_jobs_backups.sql"),
    },
];

/// Where the steps that were applied are written down.
pub(super) const HISTORY: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    checksum   TEXT    NOT NULL,
    applied_at INTEGER NOT NULL,
    applied_by TEXT    NOT NULL
) STRICT";

pub(super) const SELECT_HISTORY: &str =
    "SELECT version, name, checksum, applied_by FROM schema_migrations ORDER BY version";

pub(super) const INSERT_HISTORY: &str = "INSERT INTO schema_migrations (version, name, checksum, applied_at, applied_by) VALUES (?1, ?2, ?3, ?4, ?5)";

/// A step that was applied, as the database remembers it.
pub(super) struct Applied {
    pub(super) version: u32,
    pub(super) name: String,
    pub(super) checksum: String,
    pub(super) by: String,
}

/// What remains to be done.
pub(super) struct Pending {
    /// Nothing was there before: there is nothing to keep a copy of.
    pub(super) fresh: bool,
    /// The steps, in order.
    pub(super) steps: &'static [Migration],
}

/// The steps of `known` that follow `applied`.
///
/// # Errors
/// [`Error::WrongState`] for a database that is newer than the program, with `older` as the way back, or whose history
/// is another than the program's.
pub(super) fn pending(
    what: &str,
    applied: &[Applied],
    known: &'static [Migration],
    older: impl FnOnce(u32) -> String,
) -> Result<Pending> {
    let last = known.last().map_or(0, |step| step.version);
    if let Some(newest) = applied.last()
        && newest.version > last
    {
        return Err(Error::WrongState {
            what: what.into(),
            state: format!(
                "of schema version {} (by {}), newer than {last}, the last that {} knows",
                newest.version,
                newest.by,
                program()
            ),
            help: format!("nothing was changed: use the newer program{}", older(last + 1)),
        });
    }
    for (found, step) in applied.iter().zip(known) {
        if found.version != step.version || found.checksum != checksum(step.sql) {
            return Err(Error::WrongState {
                what: what.into(),
                state: format!(
                    "made by another migration {} (`{}`, checksum {}, by {}) than the program's (`{}`, checksum {})",
                    found.version, found.name, found.checksum, found.by, step.name, checksum(step.sql)
                ),
                help: "nothing was changed: use the program that made it, or restore a backup that this one made".into(),
            });
        }
    }
    Ok(Pending { fresh: applied.is_empty(), steps: known.get(applied.len()..).unwrap_or_default() })
}

/// What to say of a database that has tables, but no history.
pub(super) fn foreign(what: &str, help: &str) -> Error {
    Error::WrongState {
        what: what.into(),
        state: "another program's database".into(),
        help: format!("nothing was changed: {help}"),
    }
}

pub(super) fn program() -> String {
    format!("kissops {}", env!("CARGO_PKG_VERSION"))
}

/// It is to notice an edit, not to withstand an attacker, who could edit the stored sum as well.
pub(super) fn checksum(sql: &str) -> String {
    format!("{:016x}", stable_hash([sql.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_steps_are_in_order_and_unedited() {
        let found: Vec<_> =
            MIGRATIONS.iter().map(|step| (step.version, checksum(step.sql))).collect();
        let released = [
            (1, "c0169317793577e9"),
            (2, "857e1c0d80beb172"),
            (3, "506cff9603c5cd0f"),
            (4, "8836b62fb2e85df1"),
        ];
        assert_eq!(found, released.map(|(version, sum)| (version, sum.to_owned())));
    }
}
