//! What a `SQLite` file says of its tables, read through its own pragmas; only what these leave out is parsed.

use std::collections::HashMap;

use rusqlite::Connection;

use super::parse::{self, Definition};

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Schema {
    pub(super) tables: Vec<Table>,
    /// Views, triggers, virtual tables and what belongs to them: kind and name.
    pub(super) others: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// Places in `columns`, in the order of the key.
    pub(super) primary_key: Vec<usize>,
    /// The column that is another name of the rowid.
    pub(super) rowid_key: Option<usize>,
    /// A name for the rowid that no column hides; none in a table `WITHOUT ROWID`.
    pub(super) rowid: Option<&'static str>,
    pub(super) indexes: Vec<Index>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    /// Expressions, as they stand in the definition.
    pub(super) checks: Vec<String>,
    /// The largest id given out so far, where the table remembers it: `AUTOINCREMENT`.
    pub(super) last_id: Option<i64>,
    /// Why the definition could not be parsed: its checks and generated columns are unknown.
    pub(super) unparsed: Option<String>,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) declared: String,
    pub(super) not_null: bool,
    /// An expression, as it stands in the definition.
    pub(super) default: Option<String>,
    pub(super) no_case: bool,
    pub(super) generated: bool,
    /// Its expression, if `generated` and parsed.
    pub(super) expression: Option<String>,
}

/// A `UNIQUE` constraint, or an index of its own.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) unique: bool,
    pub(super) origin: Origin,
    pub(super) terms: Vec<Term>,
    /// The text of `CREATE INDEX`, where a partial index or an expression needs it.
    pub(super) sql: Option<String>,
    pub(super) partial: bool,
}

/// Where an index comes from. Those that come with the table's definition have no name that anybody gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    CreateIndex,
    Unique,
    PrimaryKey,
}

#[derive(Debug)]
pub(super) struct Term {
    /// The column; an expression if none.
    pub(super) column: Option<usize>,
    pub(super) descending: bool,
    pub(super) no_case: bool,
}

#[derive(Debug)]
pub(super) struct ForeignKey {
    pub(super) columns: Vec<usize>,
    pub(super) parent: String,
    /// Empty if it names none: the parent's primary key.
    pub(super) parent_columns: Vec<String>,
    pub(super) on_update: String,
    pub(super) on_delete: String,
    /// ` DEFERRABLE INITIALLY DEFERRED` and the like.
    pub(super) deferrable: &'static str,
}

impl Table {
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }
}

/// Reads the schema of `main`.
pub(super) fn read(db: &Connection) -> rusqlite::Result<Schema> {
    let mut schema = Schema::default();
    let mut list = db.prepare(
        "SELECT l.name, l.type, l.wr, s.sql FROM pragma_table_list AS l
         LEFT JOIN sqlite_schema AS s ON s.type = 'table' AND s.name = l.name
         WHERE l.schema = 'main' AND l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY s.rowid, l.name",
    )?;
    let mut rows = list.query([])?;
    while let Some(row) = rows.next()? {
        let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
        match kind.as_str() {
            "table" => {
                let sql: Option<String> = row.get(3)?;
                let without_rowid = row.get::<_, i64>(2)? != 0;
                schema.tables.push(table(db, name, without_rowid, &sql.unwrap_or_default())?);
            }
            "view" => schema.others.push(("view", name)),
            "virtual" => schema.others.push(("virtual table", name)),
            _ => schema.others.push(("shadow table", name)),
        }
    }
    let mut triggers =
        db.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name")?;
    let names: Vec<String> = triggers.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    schema.others.extend(names.into_iter().map(|name| ("trigger", name)));
    for (table, last) in last_ids(db)? {
        if let Some(table) = schema.tables.iter_mut().find(|one| one.name == table) {
            table.last_id = last;
        }
    }
    Ok(schema)
}

/// What `AUTOINCREMENT` remembers. A program may have put something else than numbers there.
fn last_ids(db: &Connection) -> rusqlite::Result<HashMap<String, Option<i64>>> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'";
    if db.query_row(there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(HashMap::new());
    }
    let mut ids = db.prepare(
        "SELECT name, max(CASE typeof(seq) WHEN 'integer' THEN seq END) FROM sqlite_sequence
         WHERE typeof(name) = 'text' GROUP BY name",
    )?;
    ids.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn table(db: &Connection, name: String, without_rowid: bool, sql: &str) -> rusqlite::Result<Table> {
    let (definition, unparsed) = match parse::table(sql) {
        Ok(definition) => (definition, None),
        Err(why) => (Definition::default(), Some(why)),
    };
    let mut key: Vec<(i64, usize)> = Vec::new();
    let mut columns = Vec::new();
    let mut list = db.prepare(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid",
    )?;
    let mut rows = list.query([&name])?;
    while let Some(row) = rows.next()? {
        let (column, declared): (String, String) =
            (row.get(0)?, row.get::<_, Option<_>>(1)?.unwrap_or_default());
        if row.get::<_, i64>(4)? > 0 {
            key.push((row.get(4)?, columns.len()));
        }
        let parsed = definition.columns.iter().find(|one| one.name.eq_ignore_ascii_case(&column));
        let hidden: i64 = row.get(5)?;
        columns.push(Column {
            declared: declared.trim_end_matches("GENERATED ALWAYS").trim().to_owned(),
            not_null: row.get::<_, i64>(2)? != 0,
            default: row.get(3)?,
            no_case: parsed.is_some_and(|one| one.no_case),
            generated: hidden >= 2,
            expression: parsed.and_then(|one| one.generated.clone()),
            name: column,
        });
    }
    key.sort_unstable();
    let primary_key: Vec<usize> = key.into_iter().map(|(_, column)| column).collect();
    let indexes = indexes(db, &name)?;
    let rowid_key = match primary_key[..] {
        [only] if !without_rowid && columns[only].declared.eq_ignore_ascii_case("INTEGER") => {
            (!indexes.iter().any(|index| index.origin == Origin::PrimaryKey)).then_some(only)
        }
        _ => None,
    };
    let hidden =
        |alias: &&str| !columns.iter().any(|column| column.name.eq_ignore_ascii_case(alias));
    let rowid =
        (!without_rowid).then(|| ["rowid", "_rowid_", "oid"].into_iter().find(hidden)).flatten();
    let foreign_keys = foreign_keys(db, &name, &columns, &definition)?;
    Ok(Table {
        foreign_keys,
        name,
        columns,
        primary_key,
        rowid_key,
        rowid,
        indexes,
        checks: definition.checks,
        last_id: None,
        unparsed,
    })
}

fn indexes(db: &Connection, table: &str) -> rusqlite::Result<Vec<Index>> {
    let mut list = db.prepare(
        "SELECT l.name, l.\"unique\", l.origin, l.partial, s.sql FROM pragma_index_list(?1) AS l
         LEFT JOIN sqlite_schema AS s ON s.type = 'index' AND s.name = l.name ORDER BY l.seq DESC",
    )?;
    let mut rows = list.query([table])?;
    let mut indexes = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, origin): (String, String) = (row.get(0)?, row.get(2)?);
        indexes.push(Index {
            terms: terms(db, &name)?,
            name,
            unique: row.get::<_, i64>(1)? != 0,
            origin: match origin.as_str() {
                "pk" => Origin::PrimaryKey,
                "u" => Origin::Unique,
                _ => Origin::CreateIndex,
            },
            partial: row.get::<_, i64>(3)? != 0,
            sql: row.get(4)?,
        });
    }
    Ok(indexes)
}

fn terms(db: &Connection, index: &str) -> rusqlite::Result<Vec<Term>> {
    let mut list = db.prepare(
        "SELECT cid, \"desc\", coll FROM pragma_index_xinfo(?1) WHERE key = 1 ORDER BY seqno",
    )?;
    let terms = list.query_map([index], |row| {
        Ok(Term {
            column: usize::try_from(row.get::<_, i64>(0)?).ok(),
            descending: row.get::<_, i64>(1)? != 0,
            no_case: row
                .get::<_, Option<String>>(2)?
                .is_some_and(|name| name.eq_ignore_ascii_case("NOCASE")),
        })
    })?;
    terms.collect()
}

fn foreign_keys(
    db: &Connection,
    table: &str,
    columns: &[Column],
    definition: &Definition,
) -> rusqlite::Result<Vec<ForeignKey>> {
    let mut list = db.prepare(
        "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete FROM pragma_foreign_key_list(?1)
         ORDER BY id DESC, seq",
    )?;
    let mut rows = list.query([table])?;
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        if keys.last().is_none_or(|(last, _)| *last != id) {
            let deferrable = definition.foreign_keys.get(keys.len()).copied().unwrap_or_default();
            let key = ForeignKey {
                columns: Vec::new(),
                parent: row.get(1)?,
                parent_columns: Vec::new(),
                on_update: row.get(4)?,
                on_delete: row.get(5)?,
                deferrable,
            };
            keys.push((id, key));
        }
        let (from, to): (String, Option<String>) = (row.get(2)?, row.get(3)?);
        let column = columns.iter().position(|column| column.name.eq_ignore_ascii_case(&from));
        if let (Some((_, key)), Some(column)) = (keys.last_mut(), column) {
            key.columns.push(column);
            key.parent_columns.extend(to);
        }
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}
