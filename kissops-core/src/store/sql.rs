//! What both engines have in common: a concept's statements, written once, and the seam through which an engine runs them.
//!
//! The text is `SQLite`'s dialect with numbered parameters, as far as Postgres understands it too. What differs is a word
//! in braces, see [`translate`]. A value means the same in both: times are microseconds, booleans 0 or 1, documents text.

use std::{borrow::Cow, fmt, time::Duration};

use crate::{
    Error, Result, Timestamp,
    id::{InstanceName, RecordId, RunId},
};

mod alerts;
mod api_keys;
mod audit;
mod backups;
mod channels;
mod crashes;
mod data_keys;
mod drills;
mod events;
mod grants;
mod health;
mod hosts;
mod instances;
mod jobs;
mod leases;
mod members;
mod outbox;
mod refreshes;
mod refuse;
mod row;
mod runs;
mod secrets;
mod silences;
mod users;

#[cfg(all(test, feature = "postgres"))]
pub(super) use self::refuse::tests::what_cannot_be_stored_is_not_transient;
pub(super) use self::row::{Damage, Row, document};

/// A parameter, or a column of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number, a boolean, a time in microseconds.
    Int(Option<i64>),
    /// A number.
    Real(Option<f64>),
    /// A text without NUL.
    Text(Option<String>),
    /// Bytes.
    Blob(Option<Vec<u8>>),
    /// For `IN {list ?1}`.
    Ints(Vec<i64>),
    /// For `IN {list ?1}`.
    Texts(Vec<String>),
    /// The next id of a record, in the order of commits.
    NextId,
}

macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::sql::Value::from($value)),*] };
}
pub(super) use values;

macro_rules! value_from {
    ($($variant:ident: $($from:ty => $convert:expr),+;)*) => { $($(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                let convert: fn($from) -> _ = $convert;
                Self::$variant(Some(convert(value)))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                let convert: fn($from) -> _ = $convert;
                Self::$variant(value.map(convert))
            }
        }
    )+)* };
}

value_from! {
    // Unsigned numbers keep their 64 bits and show as negative above 2^63.
    Int: i64 => |n| n, i32 => i64::from, u32 => i64::from, u16 => i64::from, u64 => u64::cast_signed, bool => i64::from,
         Timestamp => |at| at.0, RecordId => |id| id.0, RunId => |id| id.0, Duration => micros;
    Real: f64 => |n| n;
    Text: &str => |text| text_of(text.to_owned()), String => text_of, &InstanceName => |name| name.as_str().to_owned(),
          InstanceName => |name| name.as_str().to_owned();
    Blob: Vec<u8> => |bytes| bytes, &[u8] => <[u8]>::to_vec;
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts.into_iter().map(text_of).collect())
    }
}

impl From<Vec<i64>> for Value {
    fn from(numbers: Vec<i64>) -> Self {
        Self::Ints(numbers)
    }
}

impl From<&[InstanceName]> for Value {
    fn from(names: &[InstanceName]) -> Self {
        Self::Texts(names.iter().map(|name| name.as_str().to_owned()).collect())
    }
}

impl From<Value> for Vec<Value> {
    fn from(value: Value) -> Self {
        vec![value]
    }
}

/// Whole microseconds, as they are stored; 292,000 years at most.
fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Postgres has no NUL in a text, so neither engine keeps one.
fn text_of(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// One statement with its parameters.
#[derive(Clone, Debug)]
pub struct Statement {
    pub(super) sql: Cow<'static, str>,
    pub(super) values: Vec<Value>,
}

impl Statement {
    pub(super) fn new(sql: impl Into<Cow<'static, str>>, values: Vec<Value>) -> Self {
        Self { sql: sql.into(), values }
    }
}

/// What a power cut may cost. A killed process costs nothing either way. Postgres decides it for itself
/// (`synchronous_commit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Durability {
    /// The latest moments of history. The database stays whole.
    Process,
    /// Nothing: the log is on the disk before the answer.
    Power,
}

/// Statements of one transaction. An engine may run them twice: it is data, without effects of its own.
#[derive(Debug)]
pub struct Batch {
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "a server decides by itself"))]
    pub(super) durability: Durability,
    pub(super) steps: Vec<Step>,
}

/// A statement of a [`Batch`].
pub(super) struct Step {
    pub(super) statement: Statement,
    pub(super) otherwise: Option<Box<dyn Fn() -> Error + Send + Sync>>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.statement.fmt(f)
    }
}

impl Batch {
    pub(super) fn new(durability: Durability) -> Self {
        Self { durability, steps: Vec::new() }
    }

    /// Runs `statement`, however many rows that changes.
    pub(super) fn step(mut self, statement: Statement) -> Self {
        self.steps.push(Step { statement, otherwise: None });
        self
    }

    /// Runs `statement`; where it neither changes nor finds a row, all is rolled back and `otherwise` is the answer.
    pub(super) fn must(
        mut self,
        statement: Statement,
        otherwise: impl Fn() -> Error + Send + Sync + 'static,
    ) -> Self {
        self.steps.push(Step { statement, otherwise: Some(Box::new(otherwise)) });
        self
    }
}

/// What one step of a [`Batch`] did.
#[derive(Debug, Default)]
pub struct Answer {
    /// What it returned.
    pub(super) rows: Vec<Row>,
    /// How many rows it changed or returned.
    pub(super) changed: u64,
}

/// Rows to be added to one table, each with an id of its own as the first column.
#[derive(Clone, Debug)]
pub struct Append {
    pub(super) table: &'static str,
    /// Without the id.
    pub(super) columns: &'static [&'static str],
    /// Each as long as `columns`, and of the same types.
    pub(super) rows: Vec<Vec<Value>>,
}

/// A database that runs statements. Its implementor is a [`Store`](super::Store) by that.
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// Which database, as messages name it; without a password.
    fn place(&self) -> String;

    /// Runs one statement that only reads.
    fn read(&self, statement: Statement) -> impl Future<Output = Result<Vec<Row>>> + Send;

    /// Runs a transaction; one answer for each step.
    fn write(&self, batch: Batch) -> impl Future<Output = Result<Vec<Answer>>> + Send;

    /// Adds rows, in one transaction; their ids grow in the order given and are larger than any that was to be read
    /// before. Never adds them twice, whatever happens to a connection.
    fn append(&self, rows: Append) -> impl Future<Output = Result<Vec<RecordId>>> + Send;
}

/// What concepts do with an engine.
pub(super) trait EngineExt: Engine {
    /// Reads rows as records.
    fn fetch<T: Send>(
        &self,
        statement: Statement,
        read: fn(&mut Row) -> Result<T, Damage>,
    ) -> impl Future<Output = Result<Vec<T>>> + Send {
        async move {
            let rows = self.read(statement).await?;
            self.decode(rows, read)
        }
    }

    /// Runs one statement as a transaction of its own.
    fn run(
        &self,
        durability: Durability,
        statement: Statement,
    ) -> impl Future<Output = Result<Answer>> + Send {
        async move {
            let answers = self.write(Batch::new(durability).step(statement)).await?;
            Ok(answers.into_iter().next().unwrap_or_default())
        }
    }

    /// Runs a transaction whose last step gives one row: a `must` with RETURNING.
    fn one<T: Send>(
        &self,
        batch: Batch,
        read: fn(&mut Row) -> Result<T, Damage>,
    ) -> impl Future<Output = Result<T>> + Send {
        async move {
            let last = self.write(batch).await?.pop().unwrap_or_default();
            self.decode_one(last.rows, read)
        }
    }

    /// The one row that a statement returned, as a record.
    fn decode_one<T>(&self, rows: Vec<Row>, read: fn(&mut Row) -> Result<T, Damage>) -> Result<T> {
        self.decode(rows, read)?.into_iter().next().ok_or_else(|| Error::Corrupt {
            what: self.place(),
            detail: "a statement returned no row".into(),
        })
    }

    /// Rows as records.
    fn decode<T>(&self, rows: Vec<Row>, read: fn(&mut Row) -> Result<T, Damage>) -> Result<Vec<T>> {
        let all = rows.into_iter().map(|mut row| read(&mut row));
        all.collect::<Result<_, _>>()
            .map_err(|damage| Error::Corrupt { what: self.place(), detail: damage.to_string() })
    }
}

impl<E: Engine> EngineExt for E {}

/// A dialect's words.
pub(super) struct Dialect {
    /// `{now}`: the database's clock, in microseconds.
    pub(super) now: &'static str,
    /// `{share}`: others may read the rows, not change them, until the transaction ends.
    pub(super) share: &'static str,
    /// `{update}`: only this transaction may change the rows.
    pub(super) update: &'static str,
    /// `{skip_locked}`: the same, passing over rows that others have locked.
    pub(super) skip_locked: &'static str,
    /// `{list ?1}`: what stands before the parameter and behind it.
    pub(super) list: [&'static str; 2],
    /// `{sha256 …}`: the hash of a text, as hexadecimal text: what stands before the text and behind it.
    pub(super) sha256: [&'static str; 2],
    /// What a parameter's number follows.
    pub(super) parameter: char,
}

/// `sql` in the words of `dialect`.
pub(super) fn translate<'a>(sql: &'a str, dialect: &Dialect) -> Cow<'a, str> {
    if dialect.parameter == '?' && !sql.contains('{') {
        return Cow::Borrowed(sql);
    }
    let mut text = String::with_capacity(sql.len() + 64);
    let mut rest = sql;
    while let Some(at) = rest.find(['{', '?']) {
        let (before, found) = rest.split_at(at);
        text.push_str(before);
        if let Some(after) = found.strip_prefix('?') {
            text.push(dialect.parameter);
            rest = after;
            continue;
        }
        let Some((word, after)) = found[1..].split_once('}') else { break };
        rest = after;
        match word {
            "now" => text.push_str(dialect.now),
            "share" => text.push_str(dialect.share),
            "update" => text.push_str(dialect.update),
            "skip_locked" => text.push_str(dialect.skip_locked),
            _ if word.starts_with("sha256 ") => {
                text.push_str(dialect.sha256[0]);
                text.push_str(&translate(&word[7..], dialect));
                text.push_str(dialect.sha256[1]);
            }
            _ => {
                let number = word.strip_prefix("list ?");
                debug_assert!(number.is_some(), "`{word}` is no word of the dialect");
                text.push_str(dialect.list[0]);
                text.push(dialect.parameter);
                text.push_str(number.unwrap_or(word));
                text.push_str(dialect.list[1]);
            }
        }
    }
    text.push_str(rest);
    Cow::Owned(text)
}
