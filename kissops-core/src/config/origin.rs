//! [`Origin`]: where each value comes from.

use serde::Serialize;

use super::{
    definition,
    env_file::looks_secret,
    node::{Layer, Node, Place, Table, Value},
    reader::Shared,
    secret::is_reference,
};
use crate::{
    Backoff, HumanDuration,
    logs::LogPolicy,
    supervisor::{StartLimit, Stop},
};

/// Where one value comes from; a row of `kissops check --origin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The dotted key: `instance.web.stop.grace`.
    pub key: String,
    /// The value as the file would say it; `***` for secrets.
    pub value: String,
    /// `default`, `kissops.toml:12`, `profile.staging (kissops.toml:40)`, `.env:3` or `environment`.
    pub from: String,
}

pub(super) struct Collector<'a> {
    pub(super) shared: &'a Shared,
    pub(super) profile: Option<&'a str>,
    pub(super) origins: Vec<Origin>,
}

impl Collector<'_> {
    /// Everything under the sections that have an effect, then what is at its default.
    pub(super) fn collect(&mut self, doc: &Table) {
        for name in ["daemon", "store", "vault"] {
            if let Some(table) = doc.table(name) {
                self.table(name, table);
            }
        }
        let defaults = doc.table("defaults");
        for kind in ["instance", "template"] {
            for (name, (_, node)) in doc.table(kind).map(|table| &table.0).into_iter().flatten() {
                if let Value::Table(own) = &node.value {
                    let path = format!("{kind}.{name}");
                    let start = self.origins.len();
                    self.table(&path, &definition::inherit(defaults, own));
                    self.usual(&path, start);
                }
            }
        }
    }

    /// A value at its default, unless there is one already among the rows from `start` on.
    pub(super) fn default(&mut self, start: usize, key: &str, value: impl Into<String>) {
        let inside = |origin: &Origin| {
            let rest = origin.key.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if !self.origins.iter().skip(start).any(inside) {
            let (key, value) = (key.to_owned(), value.into());
            self.origins.push(Origin { key, value, from: "default".to_owned() });
        }
    }

    /// What every instance has; its own rows begin at `start`.
    fn usual(&mut self, path: &str, start: usize) {
        let key = |name: &str| format!("{path}.{name}");
        let text = |span| format!("\"{}\"", HumanDuration(span));
        let (backoff, limit, stop, logs) =
            (Backoff::default(), StartLimit::default(), Stop::default(), LogPolicy::default());
        self.default(start, &key("autostart"), "true");
        self.default(start, &key("restart"), "\"always\"");
        self.default(start, &key("backoff.base"), text(backoff.base()));
        self.default(start, &key("backoff.factor"), backoff.factor().to_string());
        self.default(start, &key("backoff.cap"), text(backoff.cap()));
        self.default(start, &key("backoff.reset_after"), text(backoff.reset_after()));
        if !self.origins.iter().skip(start).any(|origin| origin.key == key("start_limit")) {
            self.default(start, &key("start_limit.starts"), limit.starts.to_string());
            self.default(start, &key("start_limit.within"), text(limit.within));
        }
        self.default(start, &key("stop.signal"), format!("\"{}\"", stop.signal));
        self.default(start, &key("stop.grace"), text(stop.grace));
        self.default(start, &key("reload_signal"), "\"SIGHUP\"");
        self.default(start, &key("logs.rotate_size"), format!("\"{}\"", logs.rotate_size));
        self.default(start, &key("logs.rotate_daily"), logs.rotate_daily.to_string());
        self.default(start, &key("logs.keep"), logs.keep.to_string());
        self.default(start, &key("logs.keep_for"), text(logs.keep_for));
        self.default(start, &key("logs.keep_size"), format!("\"{}\"", logs.keep_size));
        self.default(start, &key("logs.compress"), logs.compress.to_string());
        self.default(start, &key("logs.max_line"), format!("\"{}\"", logs.max_line));
    }

    fn table(&mut self, path: &str, table: &Table) {
        for (key, (_, node)) in &table.0 {
            self.node(&format!("{path}.{key}"), key, node);
        }
    }

    fn node(&mut self, path: &str, key: &str, node: &Node) {
        match &node.value {
            Value::Table(table) if !is_reference(table) => self.table(path, table),
            value => {
                let hidden = (looks_secret(key) && !matches!(value, Value::Table(_)))
                    || path == "store.url"
                        && !matches!(value, Value::String(url) if url.starts_with("sqlite:"));
                let value = if hidden { "***".to_owned() } else { show(value) };
                self.origins.push(Origin { key: path.to_owned(), value, from: self.from(node.at) });
            }
        }
    }

    fn from(&self, at: Place) -> String {
        let file = self.shared.sources.first();
        let line = || {
            let name = file.and_then(|source| source.path.file_name()).unwrap_or_default();
            let line = file.map_or(0, |source| source.position(at.offset).0);
            format!("{}:{line}", name.to_string_lossy())
        };
        match at.layer {
            Layer::File => line(),
            Layer::Profile => format!("profile.{} ({})", self.profile.unwrap_or_default(), line()),
            Layer::Dotenv(line) => format!(".env:{line}"),
            Layer::Environment => "environment".to_owned(),
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", text.escape_debug()),
        Value::Integer(number, _) => number.map_or_else(String::new, |number| number.to_string()),
        Value::Float(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Datetime => "a date".to_owned(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| show(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) if is_reference(table) => {
            let source = table.0.iter().map(|(key, (_, node))| match &node.value {
                Value::String(text) => format!("*** ({key} {})", text.escape_debug()),
                _ => "***".to_owned(),
            });
            source.collect()
        }
        Value::Table(table) => {
            let entries: Vec<_> = table
                .0
                .iter()
                .map(|(key, (_, node))| {
                    if looks_secret(key) {
                        format!("{key} = ***")
                    } else {
                        format!("{key} = {}", show(&node.value))
                    }
                })
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}
