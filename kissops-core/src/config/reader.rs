//! Reads the tree into values and collects every error on the way, instead of stopping at the first.

use std::{
    cell::RefCell,
    fmt::Display,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use super::{
    ConfigError, Environment,
    node::{Layer, Node, Place, Table, Value},
    source::Source,
    suggest::{nearest, shown, unknown_help},
    template::Scope,
};
use crate::HumanDuration;

/// What every value of one configuration shares.
#[derive(Debug)]
pub(super) struct Shared {
    /// The configuration file first, then `.env` where there is one.
    pub(super) sources: Arc<[Source]>,
    /// The file's folder, absolute.
    pub(super) folder: PathBuf,
    pub(super) environment: Environment,
}

/// One pass of checking: what it has found.
pub(super) struct Pass<'a> {
    pub(super) shared: &'a Shared,
    pub(super) errors: RefCell<Vec<ConfigError>>,
    pub(super) warnings: RefCell<Vec<ConfigError>>,
    /// A profile that is not selected is tried on: only what it brings in itself is reported, and no secret is needed.
    pub(super) rehearsal: bool,
}

impl<'a> Pass<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, errors: RefCell::default(), warnings: RefCell::default(), rehearsal: false }
    }

    pub(super) fn rehearsal(shared: &'a Shared) -> Self {
        Self { rehearsal: true, ..Self::new(shared) }
    }

    pub(super) fn finding(
        &self,
        at: Place,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> ConfigError {
        let (message, help) = (message.into(), help.into());
        let path = |index: usize| {
            self.shared.sources.get(index).map_or_else(PathBuf::new, |source| source.path.clone())
        };
        let (file, line, column) = match at.layer {
            Layer::File | Layer::Profile => {
                let (line, column) =
                    self.shared.sources.first().map_or((0, 0), |source| source.position(at.offset));
                (path(0), line, column)
            }
            Layer::Dotenv(line) => (path(1), line, 1),
            Layer::Environment => (PathBuf::from("environment"), 0, 0),
        };
        ConfigError { file, line, column, key: key.to_owned(), message, help }
    }

    pub(super) fn error(
        &self,
        at: Place,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if self.rehearsal && at.layer != Layer::Profile {
            return;
        }
        let error = self.finding(at, key, message, help);
        push(&mut self.errors.borrow_mut(), error);
    }

    /// Takes over what another pass has found.
    pub(super) fn adopt(&self, error: ConfigError) {
        push(&mut self.errors.borrow_mut(), error);
    }

    pub(super) fn warn(
        &self,
        at: Place,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let warning = self.finding(at, key, message, help);
        push(&mut self.warnings.borrow_mut(), warning);
    }
}

/// The most errors of one file. One that is wrong everywhere is no use to its reader, and comparing all with all would
/// take for ever.
const MOST: usize = 500;

/// A value that many instances inherit is reported once.
fn push(list: &mut Vec<ConfigError>, new: ConfigError) {
    let same = |old: &ConfigError| {
        (&old.file, old.line, old.column, &old.message)
            == (&new.file, new.line, new.column, &new.message)
            && (old.line > 0 || old.key == new.key)
    };
    if list.len() < MOST && !list.iter().any(same) {
        list.push(new);
    }
}

/// A table that is being read; keys that nobody asked for are errors at its [`finish`](Self::finish).
pub(super) struct Section<'a> {
    pub(super) pass: &'a Pass<'a>,
    pub(super) table: &'a Table,
    pub(super) at: Place,
    pub(super) path: String,
    pub(super) scope: Option<&'a Scope>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(pass: &'a Pass<'a>, table: &'a Table, at: Place, path: String) -> Self {
        Self { pass, table, at, path, scope: None, known: RefCell::default() }
    }

    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Item<'a>> {
        self.known.borrow_mut().push(key);
        let (key_at, node) = self.table.0.get(key)?;
        let path = join(&self.path, key);
        Some(Item { pass: self.pass, node, key_at: *key_at, path, scope: self.scope })
    }

    /// Every value, for tables whose keys are names.
    pub(super) fn items(&self) -> impl Iterator<Item = (&'a str, Item<'a>)> {
        self.table.0.iter().map(|(key, (key_at, node))| {
            let path = join(&self.path, key);
            (key.as_str(), Item { pass: self.pass, node, key_at: *key_at, path, scope: self.scope })
        })
    }

    /// Says that `key` is missing.
    pub(super) fn missing(&self, key: &str, help: &str) {
        self.pass.error(self.at, &join(&self.path, key), "is missing", help);
    }

    /// Reports keys that are not known here.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, (at, _)) in &self.table.0 {
            if !known.contains(&key.as_str()) {
                let help = unknown_help(key, &known);
                let message = if self.path.is_empty() {
                    "is not a known section"
                } else {
                    "is not a known key"
                };
                self.pass.error(*at, &join(&self.path, key), message, help);
            }
        }
    }
}

/// A value that is being read. Each method reports what is wrong and gives `None` then.
pub(super) struct Item<'a> {
    pub(super) pass: &'a Pass<'a>,
    pub(super) node: &'a Node,
    pub(super) key_at: Place,
    pub(super) path: String,
    pub(super) scope: Option<&'a Scope>,
}

impl<'a> Item<'a> {
    pub(super) fn fail<T>(&self, message: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.pass.error(self.node.at, &self.path, message, help);
        None
    }

    fn wrong_type<T>(&self, wanted: &str, help: impl Into<String>) -> Option<T> {
        self.fail(format!("must be {wanted}, not {}", self.node.value.kind()), help)
    }

    /// The last part of the key.
    pub(super) fn key(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// A string as it stands.
    pub(super) fn string(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::String(text) if text.contains('\0') => self.fail("may not hold a NUL byte", ""),
            Value::String(text) => Some(text),
            Value::Integer(Some(_), _) | Value::Float(_) | Value::Bool(_) => {
                if self.path.ends_with(']') {
                    self.wrong_type("a string", "put it in quotes")
                } else {
                    self.wrong_type("a string", format!("put it in quotes: {} = \"…\"", self.key()))
                }
            }
            _ => self.wrong_type("a string", ""),
        }
    }

    /// A string whose placeholders are filled in where it belongs to a template.
    pub(super) fn text(&self) -> Option<String> {
        let text = self.string()?;
        match self.scope.map(|scope| scope.fill(text)) {
            None => Some(text.to_owned()),
            Some(Ok(text)) => Some(text),
            Some(Err((message, help))) => self.fail(message, help),
        }
    }

    /// A path, made absolute from the folder of the file.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() {
            return self.fail("may not be empty", "");
        }
        Some(absolute(&self.pass.shared.folder, Path::new(&text)))
    }

    pub(super) fn bool(&self) -> Option<bool> {
        match &self.node.value {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) if text == "true" || text == "false" => {
                self.wrong_type("true or false", format!("without quotes: {} = {text}", self.key()))
            }
            _ => self.wrong_type("true or false", ""),
        }
    }

    pub(super) fn integer<T: TryFrom<i64> + TryInto<i64> + Copy + Display>(
        &self,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let Value::Integer(number, _) = &self.node.value else {
            let help = match &self.node.value {
                Value::String(text) if text.parse::<i64>().is_ok() => {
                    format!("without quotes: {} = {text}", self.key())
                }
                _ => String::new(),
            };
            return self.wrong_type("an integer", help);
        };
        let inside = |n: &i64| {
            let low = (*range.start()).try_into().unwrap_or(i64::MIN);
            let high = (*range.end()).try_into().unwrap_or(i64::MAX);
            (low..=high).contains(n)
        };
        match number.filter(inside).and_then(|n| T::try_from(n).ok()) {
            Some(number) => Some(number),
            None => self.fail(format!("must be from {} to {}", range.start(), range.end()), ""),
        }
    }

    /// A number with or without decimals.
    pub(super) fn decimal(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let number = match &self.node.value {
            Value::Float(number) => *number,
            // Whole numbers of this size are exact.
            Value::Integer(Some(number), _) => i32::try_from(*number).map_or(f64::MAX, f64::from),
            _ => return self.wrong_type("a number", ""),
        };
        if range.contains(&number) {
            return Some(number);
        }
        self.fail(format!("must be from {} to {}", range.start(), range.end()), "")
    }

    /// A span such as `"30s"`, at least `least`.
    pub(super) fn duration(&self, least: Duration) -> Option<Duration> {
        const LIKE: &str = "write it like \"500ms\", \"30s\", \"5m\" or \"7d\"";
        // What does not fit 10 years is a mistake, and would overflow later sums.
        const MOST: Duration = Duration::from_hours(87_600);
        let text = match &self.node.value {
            Value::String(text) => text,
            Value::Integer(Some(n), 10) => {
                let help = format!("numbers need a unit: {} = \"{n}s\"", self.key());
                return self.wrong_type("a duration", help);
            }
            _ => return self.wrong_type("a duration", LIKE),
        };
        let Ok(HumanDuration(span)) = text.parse() else {
            return self.fail(format!("`{}` is not a duration", shown(text)), LIKE);
        };
        if span < least {
            return self.fail(format!("must be at least {}", HumanDuration(least)), "");
        }
        if span > MOST {
            return self.fail("must be at most ten years", "");
        }
        Some(span)
    }

    /// A value with a text form of its own; `what` and `like` describe it.
    pub(super) fn parse<T: FromStr>(&self, what: &str, like: &str) -> Option<T> {
        match &self.node.value {
            Value::String(text) => match text.parse() {
                Ok(value) => Some(value),
                Err(_) => self.fail(format!("`{}` is not {what}", shown(text)), like),
            },
            _ => self.wrong_type(what, like),
        }
    }

    /// One word of a list.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let Value::String(text) = &self.node.value else {
            return self.wrong_type("a string", format!("one of {list}"));
        };
        if let Some((_, value)) = words.iter().find(|(name, _)| name == text) {
            return Some(*value);
        }
        let help = nearest(text, &names).map_or_else(
            || format!("one of {list}"),
            |near| format!("did you mean \"{near}\"? one of {list}"),
        );
        self.fail(format!("`{}` is not a valid value", shown(text)), help)
    }

    /// The elements of an array.
    pub(super) fn array(&self, help: &str) -> Option<Vec<Item<'a>>> {
        let Value::Array(nodes) = &self.node.value else {
            return self.wrong_type("an array", help);
        };
        let item = |(index, node): (usize, &'a Node)| Item {
            pass: self.pass,
            node,
            key_at: self.key_at,
            path: format!("{}[{index}]", self.path),
            scope: self.scope,
        };
        Some(nodes.iter().enumerate().map(item).collect())
    }

    /// An array of strings, filled in.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        let help = match &self.node.value {
            Value::String(text) => format!("write {} = [\"{}\"]", self.key(), shown(text)),
            _ => String::new(),
        };
        // All elements are read before any failure counts: each has its own error.
        let items: Vec<_> = self.array(&help)?.iter().map(Item::text).collect();
        items.into_iter().collect()
    }

    /// A table.
    pub(super) fn section(&self, help: &str) -> Option<Section<'a>> {
        let Value::Table(table) = &self.node.value else {
            return self.wrong_type("a table", help);
        };
        let mut section = Section::new(self.pass, table, self.key_at, self.path.clone());
        section.scope = self.scope;
        Some(section)
    }
}

/// `path` seen from `folder`, without `.` parts.
pub(super) fn absolute(folder: &Path, path: &Path) -> PathBuf {
    folder
        .join(path)
        .components()
        .filter(|part| !matches!(part, std::path::Component::CurDir))
        .collect()
}

fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '@';
    let key = if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        format!("\"{}\"", key.escape_debug())
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
