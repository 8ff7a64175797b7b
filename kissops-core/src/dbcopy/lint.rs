//! One look at every value before anything is written.

use std::fmt::Write as _;

use super::{
    Phase, Progress, Watcher,
    kind::{Class, Kind, Stored, classify},
    schema::{ForeignKey, Schema, Table},
    source::{Source, stored},
};
use crate::{Result, pg::quoted};

/// How many values there are of a class, and which rows come first.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) first: Vec<String>,
}

const SHOWN: u64 = 5;
/// Rows between two reports.
const BEAT: u64 = 1 << 15;

/// What the values of a column are.
#[derive(Clone, Debug)]
pub(super) struct Tallies([Tally; Class::ALL.len()]);

impl Default for Tallies {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Tally::default()))
    }
}

impl Tallies {
    pub(super) fn of(&self, class: Class) -> &Tally {
        &self.0[class.index()]
    }

    /// The classes that occur, NULL left out.
    pub(super) fn found(&self) -> impl Iterator<Item = (Class, &Tally)> {
        let all = Class::ALL.iter().map(|class| (*class, self.of(*class)));
        all.filter(|(class, tally)| *class != Class::Null && tally.count > 0)
    }

    fn add(&mut self, class: Class, key: impl FnOnce() -> String) {
        let tally = &mut self.0[class.index()];
        tally.count += 1;
        if tally.count <= SHOWN {
            tally.first.push(key());
        }
    }
}

/// What a table holds.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) rows: u64,
    pub(super) columns: Vec<Tallies>,
    /// Rows whose parent is missing, for each foreign key that can be looked up.
    pub(super) orphans: Vec<Option<Tally>>,
    /// For each index: values that differ for `SQLite`, but not for a comparison that folds all letters.
    pub(super) doubles: Vec<Tally>,
    /// The largest value of the rowid key.
    pub(super) largest: Option<i64>,
}

/// Looks at all values of the chosen tables.
pub(super) fn lint(source: &Source, schema: &Schema, watcher: &Watcher) -> Result<Vec<Facts>> {
    let mut all = Vec::with_capacity(schema.tables.len());
    for table in &schema.tables {
        source.check()?;
        let failed = |err| source.failed(&format!("table {}", table.name))(err);
        let mut facts = values(source, table, watcher).map_err(failed)?;
        for key in &table.foreign_keys {
            let found = parent(schema, key).map(|parent| orphans(source, table, key, &parent));
            facts.orphans.push(found.transpose().map_err(failed)?);
        }
        for index in 0..table.indexes.len() {
            facts.doubles.push(doubles(source, table, index).map_err(failed)?);
        }
        if let Some(key) = table.rowid_key {
            let name = quoted(&table.columns[key].name);
            let sql = format!("SELECT max({name}) FROM {}", quoted(&table.name));
            facts.largest = source.db.query_row(&sql, [], |row| row.get(0)).map_err(failed)?;
        }
        all.push(facts);
    }
    Ok(all)
}

/// The columns that name a row: the rowid, or the primary key.
fn key_columns(table: &Table) -> Vec<String> {
    match table.rowid {
        Some(rowid) => vec![rowid.to_owned()],
        None => table.primary_key.iter().map(|at| quoted(&table.columns[*at].name)).collect(),
    }
}

fn values(source: &Source, table: &Table, watcher: &Watcher) -> rusqlite::Result<Facts> {
    let keys = key_columns(table);
    let columns = table.columns.iter().map(|column| quoted(&column.name));
    let list: Vec<String> = keys.iter().cloned().chain(columns).collect();
    let kinds: Vec<Kind> = table.columns.iter().map(|column| Kind::of(&column.declared)).collect();
    let mut facts = Facts { columns: vec![Tallies::default(); kinds.len()], ..Facts::default() };
    let mut statement =
        source.db.prepare(&format!("SELECT {} FROM {}", list.join(", "), quoted(&table.name)))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for (at, (kind, tallies)) in kinds.iter().zip(&mut facts.columns).enumerate() {
            let class = classify(*kind, stored(row, keys.len() + at)?);
            tallies.add(class, || name_of(row, keys.len()));
        }
        facts.rows += 1;
        if facts.rows.is_multiple_of(BEAT) {
            watcher(Progress {
                phase: Phase::Lint,
                table: &table.name,
                rows: facts.rows,
                of: None,
            });
        }
    }
    watcher(Progress {
        phase: Phase::Lint,
        table: &table.name,
        rows: facts.rows,
        of: Some(facts.rows),
    });
    Ok(facts)
}

/// A row as an operator finds it again: `17`, or `('ann', 3)`.
fn name_of(row: &rusqlite::Row<'_>, keys: usize) -> String {
    let parts: Vec<String> =
        (0..keys).map(|at| stored(row, at).map(show).unwrap_or_default()).collect();
    if let [only] = &parts[..] { only.clone() } else { format!("({})", parts.join(", ")) }
}

fn show(value: Stored<'_>) -> String {
    let cut = |text: &[u8]| String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
    match value {
        Stored::Null => "NULL".to_owned(),
        Stored::Int(n) => n.to_string(),
        Stored::Real(n) => n.to_string(),
        Stored::Text(text) => format!("'{}'", cut(text)),
        Stored::Blob(bytes) => bytes.iter().take(30).fold("x".to_owned(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
    }
}

/// The table that a foreign key leads to, and the columns there; `None` where there is no such thing.
pub(super) fn parent<'a>(schema: &'a Schema, key: &ForeignKey) -> Option<(&'a Table, Vec<usize>)> {
    let table = schema.tables.iter().find(|table| table.name.eq_ignore_ascii_case(&key.parent))?;
    let columns: Vec<usize> = if key.parent_columns.is_empty() {
        table.primary_key.clone()
    } else {
        key.parent_columns.iter().map(|name| table.column(name)).collect::<Option<_>>()?
    };
    (!columns.is_empty() && columns.len() == key.columns.len()).then_some((table, columns))
}

/// A condition on a row of the child, here called `t`: its parent is there, or need not be.
pub(super) fn has_parent(table: &Table, key: &ForeignKey, parent: &(&Table, Vec<usize>)) -> String {
    let child = |at: &usize| format!("t.{}", quoted(&table.columns[*at].name));
    let nulls: Vec<String> =
        key.columns.iter().map(|at| format!("{} IS NULL", child(at))).collect();
    let pairs = key.columns.iter().zip(&parent.1);
    let same: Vec<String> = pairs
        .map(|(at, theirs)| {
            format!("p.{} = {}", quoted(&parent.0.columns[*theirs].name), child(at))
        })
        .collect();
    let (nulls, same, name) = (nulls.join(" OR "), same.join(" AND "), quoted(&parent.0.name));
    format!("({nulls} OR EXISTS (SELECT 1 FROM {name} AS p WHERE {same}))")
}

fn orphans(
    source: &Source,
    table: &Table,
    key: &ForeignKey,
    parent: &(&Table, Vec<usize>),
) -> rusqlite::Result<Tally> {
    let condition = has_parent(table, key, parent);
    let keys = key_columns(table);
    let list: Vec<String> = keys.iter().map(|key| format!("t.{key}")).collect();
    let sql = format!(
        "SELECT {} FROM {} AS t WHERE NOT {condition}",
        list.join(", "),
        quoted(&table.name)
    );
    collect(source, &sql, keys.len())
}

/// The table's column `index` is compared without regard to case in both; only letters beyond ASCII can differ.
fn doubles(source: &Source, table: &Table, index: usize) -> rusqlite::Result<Tally> {
    let index = &table.indexes[index];
    let columns: Option<Vec<usize>> = index.terms.iter().map(|term| term.column).collect();
    let Some(columns) =
        columns.filter(|_| index.unique && !index.partial && index.terms.iter().any(|t| t.no_case))
    else {
        return Ok(Tally::default());
    };
    let name = |at: &usize| quoted(&table.columns[*at].name);
    let terms = index.terms.iter().zip(&columns);
    let groups: Vec<String> = terms
        .map(
            |(term, at)| {
                if term.no_case { format!("kissops_fold({})", name(at)) } else { name(at) }
            },
        )
        .collect();
    let filled: Vec<String> =
        columns.iter().map(|at| format!("{} IS NOT NULL", name(at))).collect();
    let shown: Vec<String> = columns.iter().map(name).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {} GROUP BY {} HAVING count(*) > 1",
        shown.join(", "),
        quoted(&table.name),
        filled.join(" AND "),
        groups.join(", ")
    );
    collect(source, &sql, columns.len())
}

fn collect(source: &Source, sql: &str, keys: usize) -> rusqlite::Result<Tally> {
    let mut tally = Tally::default();
    let mut statement = source.db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        tally.count += 1;
        if tally.count <= SHOWN {
            tally.first.push(name_of(row, keys));
        }
    }
    Ok(tally)
}
