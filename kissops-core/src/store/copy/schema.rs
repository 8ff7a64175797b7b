//! Which tables there are: what the migrations make of an empty database.

use rusqlite::Connection;

use crate::{
    Error, Result,
    pg::quoted,
    store::{migrate::MIGRATIONS, sqlite},
};

/// Tables that describe a database, not what is kept in it.
const OWN: [&str; 2] = ["schema_migrations", "append_marks"];

/// The tables to copy; one that refers to others comes after them.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    pub(super) version: i64,
    pub(super) tables: Vec<Table>,
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// How many rows the migrations put there.
    pub(super) rows_when_new: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Real,
    Text,
    Blob,
}

impl Table {
    /// The columns' names, in their order, as SQL.
    pub(super) fn list(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|column| quoted(&column.name)).collect();
        names.join(", ")
    }
}

impl Schema {
    pub(super) fn new() -> Result<Self> {
        let conn = sqlite::empty()?;
        read(&conn).map_err(Error::unavailable("the schema of a new store"))
    }
}

fn read(conn: &Connection) -> rusqlite::Result<Schema> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let mut waiting = Vec::new();
    for name in texts(conn, sql, 0)? {
        if OWN.contains(&&*name) {
            continue;
        }
        let parents = texts(conn, &format!("PRAGMA foreign_key_list({})", quoted(&name)), 2)?;
        let columns = texts(conn, &format!("PRAGMA table_info({})", quoted(&name)), 1)?;
        let kinds = texts(conn, &format!("PRAGMA table_info({})", quoted(&name)), 2)?;
        let columns = columns.into_iter().zip(kinds).map(|(name, kind)| {
            let kind = match &*kind {
                "INTEGER" => Kind::Integer,
                "REAL" => Kind::Real,
                "BLOB" => Kind::Blob,
                _ => Kind::Text,
            };
            Column { name, kind }
        });
        let columns = columns.collect();
        let sql = format!("SELECT count(*) FROM {}", quoted(&name));
        let rows_when_new = conn.query_row(&sql, [], |row| row.get(0))?;
        waiting.push((Table { name, columns, rows_when_new }, parents));
    }
    let version = MIGRATIONS.last().map_or(0, |step| i64::from(step.version));
    Ok(Schema { version, tables: in_order(waiting) })
}

/// Parents first.
fn in_order(mut waiting: Vec<(Table, Vec<String>)>) -> Vec<Table> {
    let mut done: Vec<Table> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let free = waiting.iter().position(|(table, parents)| {
            parents
                .iter()
                .all(|parent| *parent == table.name || done.iter().any(|done| done.name == *parent))
        });
        // A circle is not in our schema; were there one, its constraints would tell.
        done.push(waiting.remove(free.unwrap_or(0)).0);
    }
    done
}

fn texts(conn: &Connection, sql: &str, column: usize) -> rusqlite::Result<Vec<String>> {
    let mut query = conn.prepare(sql)?;
    query.query_map([], |row| row.get(column))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_every_table_but_the_databases_own() {
        let schema = Schema::new().unwrap();
        let names: Vec<_> = schema.tables.iter().map(|table| &*table.name).collect();
        for name in ["crashes", "events", "high_water", "instances", "members", "runs"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        assert!(!names.contains(&"schema_migrations"), "{names:?}");
        let kinds: Vec<_> = schema.tables.iter().flat_map(|table| &table.columns).collect();
        assert!(kinds.iter().any(|column| column.kind == Kind::Integer));
    }

    #[test]
    fn parents_come_first() {
        let table = |name: &str, parents: &[&str]| {
            let parents = parents.iter().map(|parent| (*parent).to_owned()).collect();
            (Table { name: name.into(), columns: vec![], rows_when_new: 0 }, parents)
        };
        let all = vec![table("a", &["b", "a"]), table("b", &["c"]), table("c", &[])];
        let names: Vec<_> = in_order(all).into_iter().map(|table| table.name).collect();
        assert_eq!(names, ["c", "b", "a"]);
    }
}
