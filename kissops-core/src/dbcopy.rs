//! Copies any `SQLite` file to a Postgres database, and proves it.
//!
//! [`Copier::prepare`] reads the schema and looks at every value; what comes of it is a [`Plan`], to be printed.
//! [`Copier::run`] then makes the tables, loads the rows, makes keys, indexes and checks, reads everything back and
//! compares, all in one transaction: a copy that fails, or whose process dies, leaves the target as it was. The file is
//! opened to read and held at one moment; a bot that uses write-ahead logging may go on writing meanwhile.
//!
//! ```no_run
//! # async fn copy() -> kissops_core::Result<()> {
//! use kissops_core::dbcopy::{Copier, Options, silent};
//!
//! let to = "postgres://bot@localhost/bot".into();
//! let copier = Copier::prepare("bot.db".as_ref(), Some(&to), Options::default(), &silent()).await?;
//! if copier.plan().is_refused() {
//!     for finding in &copier.plan().findings {
//!         println!("{}.{} {}: rows {:?}", finding.table, finding.column, finding.problem, finding.rows);
//!     }
//! } else {
//!     println!("{} tables", copier.run(&silent()).await?.tables.len());
//! }
//! # Ok(())
//! # }
//! ```

use std::{path::Path, sync::Arc};

use secrecy::SecretString;
use serde::Serialize;

use crate::{Error, Result};

mod decide;
mod encode;
mod expression;
mod function;
mod kind;
mod lint;
mod numeric;
mod parse;
mod plan;
mod schema;
mod source;
mod statements;
mod target;
mod time;
mod transfer;

use plan::Traits;
pub use plan::{ColumnPlan, Finding, NotCopied, Plan, TablePlan};
use source::{CancelOnDrop, Source};
use target::Target;

/// What to do with values that do not fit the type of their column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMismatch {
    /// Report them and copy nothing.
    #[default]
    Fail,
    /// The column becomes `text` (or `numeric` without limits, where that is enough).
    Text,
    /// They become NULL.
    Null,
}

/// What is copied, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The schema of the target; made if it is not there.
    pub schema: String,
    /// What to do with values that do not fit.
    pub on_mismatch: OnMismatch,
    /// Only these tables; all if empty.
    pub only: Vec<String>,
    /// All but these tables.
    pub exclude: Vec<String>,
    /// Leave behind the defaults, checks, indexes and keys that have no counterpart, instead of copying nothing.
    pub skip_untranslatable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            schema: "public".to_owned(),
            on_mismatch: OnMismatch::Fail,
            only: Vec::new(),
            exclude: Vec::new(),
            skip_untranslatable: false,
        }
    }
}

impl Options {
    fn leaves_out(&self, table: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case(table));
        named(&self.exclude) || !(self.only.is_empty() || named(&self.only))
    }
}

/// How far a copy is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The part of the work.
    pub phase: Phase,
    /// The table; in [`Phase::Index`], what is being made.
    pub table: &'a str,
    /// Rows of the table that are done; in [`Phase::Index`], statements.
    pub rows: u64,
    /// Of how many, where that is known.
    pub of: Option<u64>,
}

/// The parts of a copy, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Looking at every value.
    Lint,
    /// Loading rows.
    Load,
    /// Making keys, indexes and checks.
    Index,
    /// Reading everything back.
    Proof,
}

/// Told of the progress, from any thread; it should return soon.
pub type Watcher = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// A watcher that says nothing.
#[must_use]
pub fn silent() -> Watcher {
    Arc::new(|_| {})
}

/// What was copied and proven.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The tables, each with what was proven of it.
    pub tables: Vec<TableReport>,
    /// Keys, indexes, foreign keys and checks that the server made, and so found to hold.
    pub steps: usize,
}

/// What was proven of a table: this is the same on both sides.
#[derive(Debug, Serialize)]
pub struct TableReport {
    /// Its name.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// A checksum of all values, whatever the order of the rows.
    pub checksum: String,
    /// The next id that its sequence gives, if it has one.
    pub next_id: Option<i64>,
}

/// A copy that is planned, and can be run.
#[derive(Debug)]
pub struct Copier {
    source: Source,
    target: Option<Target>,
    plan: Plan,
    _guard: CancelOnDrop,
}

impl Copier {
    /// Reads the schema of the file at `source`, looks at all its values and plans the copy. Writes nothing.
    /// Without a target, the plan is one for a Postgres that has the extension citext, and cannot be run.
    ///
    /// # Errors
    /// - [`NotFound`](Error::NotFound): there is no such file, or no such table as the options name.
    /// - [`Denied`](Error::Denied): the file cannot be read by this user.
    /// - [`Conflict`](Error::Conflict): a writer without write-ahead log keeps the file locked.
    /// - [`Corrupt`](Error::Corrupt): it is no `SQLite` file, or damaged.
    /// - [`Unavailable`](Error::Unavailable): Postgres does not answer.
    /// - [`Denied`](Error::Denied): it does not let this user in, or has no trusted certificate.
    /// - [`InvalidConfig`](Error::InvalidConfig): the URL is none of Postgres.
    /// - [`WrongState`](Error::WrongState): the server is too old, or the target has tables of these names.
    ///
    /// # Cancel safety
    /// Safe: nothing is written.
    pub async fn prepare(
        source: &Path,
        target: Option<&SecretString>,
        options: Options,
        watcher: &Watcher,
    ) -> Result<Self> {
        check_schema(&options.schema)?;
        let path = source.to_owned();
        let (source, guard) = blocking(move || Source::open(&path)).await?;
        let mut target = match target {
            Some(url) => Some(Target::connect(url).await?),
            None => None,
        };
        let traits = match &mut target {
            Some(target) => target.traits().await?,
            None => Traits { citext: true, sorts_by: None },
        };
        let (chosen, watch) = (options.clone(), Arc::clone(watcher));
        let (source, plan) = blocking(move || {
            let plan = look(&source, &traits, &chosen, &watch)?;
            Ok((source, plan))
        })
        .await?;
        if let Some(target) = &mut target {
            let names: Vec<String> = plan.tables.iter().map(|table| table.name.clone()).collect();
            let taken = target.taken(&options.schema, &names).await?;
            if !taken.is_empty() {
                return Err(Error::WrongState {
                    what: format!("the schema {} of {}", options.schema, target.place),
                    state: format!("not empty, it has {}", taken.join(", ")),
                    help: "name an empty schema with --schema, or drop or rename these tables"
                        .to_owned(),
                });
            }
        }
        Ok(Self { source, target, plan, _guard: guard })
    }

    /// What the copy would do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Gives up the copy, and keeps what was found.
    #[must_use]
    pub fn into_plan(self) -> Plan {
        self.plan
    }

    /// Copies and proves.
    ///
    /// # Errors
    /// The target is as it was, but for the one case that `Uncertain` tells.
    /// - [`WrongState`](Error::WrongState): the plan is refused, or there is no target.
    /// - [`Io`](Error::Io): the server refused a statement; the error says which and why.
    /// - [`Unavailable`](Error::Unavailable): the connection was lost. [`Uncertain`](Error::Uncertain) where that happened
    ///   while the transaction ended: look whether the tables are there, complete, before you try again.
    /// - [`Corrupt`](Error::Corrupt): what was read back is not what was sent, or the file is damaged.
    ///
    /// # Cancel safety
    /// A dropped call closes the connection, and the server gives up the transaction.
    pub async fn run(self, watcher: &Watcher) -> Result<Report> {
        self.run_until(std::future::pending(), watcher).await
    }

    /// As [`run`](Self::run), until `stop` is ready. A copy that is being committed by then is finished, and answers so:
    /// whoever stops it learns whether it was made.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Closed`](Error::Closed) if it was stopped: the target is then as it was.
    ///
    /// # Cancel safety
    /// As [`run`](Self::run).
    pub async fn run_until(
        self,
        stop: impl Future<Output = ()> + Send,
        watcher: &Watcher,
    ) -> Result<Report> {
        let wrong = |state: &str, help: &str| Error::WrongState {
            what: "the plan".to_owned(),
            state: state.to_owned(),
            help: help.to_owned(),
        };
        if self.plan.is_refused() {
            return Err(wrong("refused", "see its findings"));
        }
        let Some(mut target) = self.target else {
            return Err(wrong("one without a target", "name one"));
        };
        let done = tokio::select! {
            biased;
            // The server gives up the transaction with its connection.
            () = stop => return Err(Error::Closed { what: "the copy" }),
            done = transfer::run(self.source, &mut target, &self.plan, watcher) => done,
        };
        let done = match done {
            Ok(report) => target.commit().await.map(|()| report),
            Err(err) => Err(err),
        };
        target.roll_back().await;
        done
    }
}

/// Postgres cuts longer names off, and keeps two kinds of schemas to itself.
fn check_schema(name: &str) -> Result<()> {
    let own = name.starts_with("pg_") || name == "information_schema";
    if name.is_empty() || name.len() > 63 || name.contains('\0') || own {
        return Err(Error::invalid(
            "the schema of the target",
            "must have 1 to 63 bytes, and be none of the server's own",
        ));
    }
    Ok(())
}

fn look(source: &Source, traits: &Traits, options: &Options, watcher: &Watcher) -> Result<Plan> {
    let mut schema = schema::read(&source.db).map_err(source.failed("the schema"))?;
    for name in options.only.iter().chain(&options.exclude) {
        if !schema.tables.iter().any(|table| table.name.eq_ignore_ascii_case(name)) {
            return Err(Error::NotFound { what: format!("table {name} in the file") });
        }
    }
    schema.tables.retain(|table| !options.leaves_out(&table.name));
    let facts = lint::lint(source, &schema, watcher)?;
    Ok(plan::make(&schema, &facts, traits, options))
}

/// Runs `f` where waiting is allowed.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(f).await;
    joined.map_err(Error::unavailable("the thread that reads the file"))?
}
