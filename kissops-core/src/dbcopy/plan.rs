//! The plan of a copy: a value to be printed, tested, and then applied.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    OnMismatch, Options,
    decide::{self, Choice},
    encode::Encoding,
    kind::{Kind, Target},
    lint::{self, Facts, Tally},
    schema::{Schema, Table},
    statements,
};
use crate::pg::quoted;

/// What a copy is going to do, and why it refuses if it does.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    /// The tables, in the order of their creation.
    pub tables: Vec<TablePlan>,
    /// Values that do not fit, and rows whose parent is missing.
    pub findings: Vec<Finding>,
    /// What is not carried over.
    pub not_copied: Vec<NotCopied>,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// Statements for what the tables need: schema and extension.
    #[serde(skip)]
    pub(super) first: Vec<Step>,
    /// Statements before the rows are loaded.
    #[serde(skip)]
    pub(super) before: Vec<Step>,
    /// Statements after that.
    #[serde(skip)]
    pub(super) after: Vec<Step>,
    #[serde(skip)]
    pub(super) loads: Vec<Load>,
}

/// What becomes of a table.
#[derive(Debug, Serialize)]
pub struct TablePlan {
    /// Its name, the same on both sides.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its columns, in order.
    pub columns: Vec<ColumnPlan>,
}

/// What becomes of a column.
#[derive(Debug, Serialize)]
pub struct ColumnPlan {
    /// Its name, the same on both sides.
    pub name: String,
    /// Its type in `SQLite`, as declared.
    pub declared: String,
    /// Its type in Postgres.
    pub becomes: String,
    /// What was found in it, where the declaration alone did not decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Values that do not fit.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The table that holds them.
    pub table: String,
    /// The column, or the columns.
    pub column: String,
    /// What is wrong: "bigint column holds text".
    pub problem: String,
    /// How many there are.
    pub count: u64,
    /// The first rows: their rowid, or their primary key.
    pub rows: Vec<String>,
    /// What is done about it, or what to do.
    pub outcome: String,
    /// Nothing is copied because of it.
    pub refused: bool,
}

impl Finding {
    pub(super) fn new(
        table: &Table,
        column: &str,
        problem: &str,
        tally: &Tally,
        outcome: Result<String, &str>,
    ) -> Self {
        Self {
            table: table.name.clone(),
            column: column.to_owned(),
            problem: problem.to_owned(),
            count: tally.count,
            rows: tally.first.clone(),
            refused: outcome.is_err(),
            outcome: outcome.unwrap_or_else(str::to_owned),
        }
    }
}

/// Something that stays behind.
#[derive(Debug, Serialize)]
pub struct NotCopied {
    /// What it is: view, trigger, index, check.
    pub what: String,
    /// Its name, or its text.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Nothing is copied because of it, unless `--skip-untranslatable` is said.
    pub refused: bool,
}

/// One statement, and what it is for.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) what: String,
    pub(super) sql: String,
    /// Not needed where there is a schema of this name.
    pub(super) unless_schema: Option<String>,
}

impl Step {
    pub(super) fn new(what: impl Into<String>, sql: String) -> Self {
        Self { what: what.into(), sql, unless_schema: None }
    }
}

/// How the rows of a table are moved.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) table: String,
    /// With its schema, quoted.
    pub(super) target: String,
    pub(super) select: String,
    /// Quoted names of the columns that are sent.
    pub(super) sent: Vec<String>,
    /// Quoted names of all columns.
    pub(super) all: Vec<String>,
    /// One for each of `all`; `true` for those that Postgres computes.
    pub(super) encodings: Vec<(Encoding, bool)>,
    pub(super) rows: u64,
    /// The identity column, and the largest id given out so far.
    pub(super) identity: Option<(String, i64)>,
}

/// What the plan knows of the target.
#[derive(Clone, Debug)]
pub(super) struct Traits {
    pub(super) citext: bool,
    /// The names of its collation, where it does not sort as `SQLite` does.
    pub(super) sorts_by: Option<String>,
}

impl Plan {
    /// Why nothing can be copied: findings and things left behind that nobody has agreed to.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.findings.iter().any(|one| one.refused) || self.not_copied.iter().any(|one| one.refused)
    }

    /// The statements that make the target, as `--dry-run` prints them.
    #[must_use]
    pub fn ddl(&self) -> String {
        let mut text = String::new();
        for step in self.first.iter().chain(&self.before) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{};", step.sql);
        }
        text.push_str("-- here the rows are loaded\n");
        for step in &self.after {
            let _ = writeln!(text, "{};", step.sql);
        }
        text
    }

    /// Rows in all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    pub(super) fn leave(&mut self, what: &str, name: &str, reason: &str, refused: bool) {
        let (what, name, reason) = (what.to_owned(), name.to_owned(), reason.to_owned());
        self.not_copied.push(NotCopied { what, name, reason, refused });
    }
}

/// Makes the plan from what was read.
pub(super) fn make(schema: &Schema, facts: &[Facts], traits: &Traits, options: &Options) -> Plan {
    let mut plan = Plan::default();
    for (what, name) in &schema.others {
        let reason = match *what {
            "view" | "trigger" => "its SQL is not translated",
            "virtual table" => "Postgres has no such thing; its own tables hold its content",
            _ => "it belongs to a virtual table",
        };
        plan.leave(what, name, reason, false);
    }
    names(schema, &mut plan);
    let tables = schema.tables.iter().zip(facts);
    let mut choices: Vec<Vec<Choice>> = tables
        .map(|(table, facts)| {
            decide::columns(table, facts, traits.citext, options.on_mismatch, &mut plan.findings)
        })
        .collect();
    follow_parents(schema, facts, &mut choices);
    for ((table, facts), choices) in schema.tables.iter().zip(facts).zip(&choices) {
        relations(schema, table, facts, options, &mut plan);
        plan.tables.push(TablePlan {
            name: table.name.clone(),
            rows: facts.rows,
            columns: table.columns.iter().zip(choices).map(column_plan).collect(),
        });
        plan.loads.push(load(schema, table, facts, choices, options));
    }
    if let Some(collation) = &traits.sorts_by {
        plan.notes.push(format!(
            "text is sorted by the database's collation {collation}, where SQLite sorts by bytes; \
             CREATE DATABASE … TEMPLATE template0 LC_COLLATE 'C' makes one that does as SQLite does"
        ));
    }
    statements::write(schema, &choices, options, &mut plan);
    plan
}

fn column_plan((column, choice): (&super::schema::Column, &Choice)) -> ColumnPlan {
    ColumnPlan {
        name: column.name.clone(),
        declared: column.declared.clone(),
        becomes: choice.target.to_string(),
        note: choice.note.clone(),
    }
}

/// What Postgres cannot take as a name.
fn names(schema: &Schema, plan: &mut Plan) {
    const TAKEN: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];
    for table in &schema.tables {
        let names =
            std::iter::once(&table.name).chain(table.columns.iter().map(|column| &column.name));
        for name in names.filter(|name| name.is_empty() || name.len() > 63 || name.contains('\0')) {
            plan.leave(
                "table",
                &table.name,
                &format!("Postgres cannot have the name \"{name}\": 1 to 63 bytes"),
                true,
            );
        }
        for column in table.columns.iter().filter(|column| TAKEN.contains(&column.name.as_str())) {
            plan.leave(
                "table",
                &table.name,
                &format!("Postgres has a column {} of its own", column.name),
                true,
            );
        }
    }
}

/// A column without a type and without values gets the type of the column that it refers to.
fn follow_parents(schema: &Schema, facts: &[Facts], choices: &mut [Vec<Choice>]) {
    for (at, table) in schema.tables.iter().enumerate() {
        for key in &table.foreign_keys {
            let Some((parent, theirs)) = lint::parent(schema, key) else { continue };
            let Some(parent) = schema.tables.iter().position(|table| table.name == parent.name)
            else {
                continue;
            };
            for (mine, theirs) in key.columns.iter().zip(theirs) {
                let is_open = choices[at][*mine].kind == Kind::Open
                    && facts[at].columns[*mine].found().next().is_none();
                if is_open {
                    choices[at][*mine].target = choices[parent][theirs].target;
                }
            }
        }
    }
}

/// Rows without a parent, and values that are doubles once letters are folded.
fn relations(schema: &Schema, table: &Table, facts: &Facts, options: &Options, plan: &mut Plan) {
    for (key, tally) in table.foreign_keys.iter().zip(&facts.orphans) {
        let Some(tally) = tally.as_ref().filter(|tally| tally.count > 0) else { continue };
        let names: Vec<&str> =
            key.columns.iter().map(|at| table.columns[*at].name.as_str()).collect();
        let outcome = if options.on_mismatch != OnMismatch::Null {
            Err("add the missing rows, or delete these, or say --on-mismatch null")
        } else if nullable(table, &key.columns) {
            Ok("they become NULL".to_owned())
        } else {
            Err("add the missing rows, or delete these: NULL is not allowed there")
        };
        let parent = lint::parent(schema, key).map_or(&key.parent, |(parent, _)| &parent.name);
        let problem = format!("refers to rows of {parent} that are not there");
        plan.findings.push(Finding::new(table, &names.join(", "), &problem, tally, outcome));
    }
    for (index, tally) in
        table.indexes.iter().zip(&facts.doubles).filter(|(_, tally)| tally.count > 0)
    {
        let problem = format!(
            "equal but for the case of letters beyond ASCII, under the unique index {}",
            index.name
        );
        let names: Vec<&str> = index
            .terms
            .iter()
            .filter_map(|term| Some(table.columns[term.column?].name.as_str()))
            .collect();
        plan.findings.push(Finding::new(
            table,
            &names.join(", "),
            &problem,
            tally,
            Err("make them different"),
        ));
    }
}

fn nullable(table: &Table, columns: &[usize]) -> bool {
    let fixed = |at: &usize| {
        table.columns[*at].not_null
            || table.columns[*at].generated
            || table.primary_key.contains(at)
    };
    !columns.iter().any(fixed)
}

fn load(
    schema: &Schema,
    table: &Table,
    facts: &Facts,
    choices: &[Choice],
    options: &Options,
) -> Load {
    let mut conditions: Vec<Vec<String>> = vec![Vec::new(); table.columns.len()];
    if options.on_mismatch == OnMismatch::Null {
        for (key, tally) in table.foreign_keys.iter().zip(&facts.orphans) {
            let is_orphaned = tally.as_ref().is_some_and(|tally| tally.count > 0);
            let Some(parent) = lint::parent(schema, key).filter(|_| is_orphaned) else { continue };
            for at in &key.columns {
                conditions[*at].push(lint::has_parent(table, key, &parent));
            }
        }
    }
    let list: Vec<String> = table
        .columns
        .iter()
        .zip(conditions)
        .map(|(column, conditions)| {
            let name = format!("t.{}", quoted(&column.name));
            if conditions.is_empty() {
                name
            } else {
                format!("CASE WHEN {} THEN {name} END", conditions.join(" AND "))
            }
        })
        .collect();
    let names = || table.columns.iter().map(|column| (quoted(&column.name), column));
    Load {
        table: table.name.clone(),
        target: format!("{}.{}", quoted(&options.schema), quoted(&table.name)),
        select: format!("SELECT {} FROM {} AS t", list.join(", "), quoted(&table.name)),
        sent: names()
            .filter(|(_, column)| column.expression.is_none())
            .map(|(name, _)| name)
            .collect(),
        all: names().map(|(name, _)| name).collect(),
        encodings: table
            .columns
            .iter()
            .zip(choices)
            .map(|(column, choice)| (encoding(choice), column.expression.is_some()))
            .collect(),
        rows: facts.rows,
        identity: table.rowid_key.map(|at| {
            let given = table.last_id.unwrap_or(0).max(facts.largest.unwrap_or(0));
            (table.columns[at].name.clone(), given)
        }),
    }
}

fn encoding(choice: &Choice) -> Encoding {
    Encoding { kind: choice.kind, target: choice.target, misfits_are_null: choice.misfits_are_null }
}

/// The types of a table's columns.
pub(super) fn targets(choices: &[Choice]) -> Vec<Target> {
    choices.iter().map(|choice| choice.target).collect()
}
