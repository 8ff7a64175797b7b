//! The document as a tree that keeps where each value stands, so that layers can be laid over each other.

use std::collections::BTreeMap;

use super::secret::is_reference;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Which layer a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// The configuration file.
    File,
    /// The selected profile, in the same file.
    Profile,
    /// A line of the `.env` file beside it.
    Dotenv(usize),
    /// A variable of the environment.
    Environment,
}

/// Where a value stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) layer: Layer,
    /// In bytes of the file.
    pub(super) offset: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    /// With its base, because a decimal `27` is no file mode; `None` beyond 64 bits.
    Integer(Option<i64>, u32),
    Float(f64),
    Bool(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

impl Value {
    /// What it is, with its article.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(..) => "an integer",
            Self::Float(_) => "a decimal number",
            Self::Bool(_) => "true or false",
            Self::Datetime => "a date",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

/// A table: each key with the place of the key and its value.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) BTreeMap<String, (Place, Node)>);

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.0.get(key).map(|(_, node)| node)
    }

    /// Where `key` stands; the file's begin if it does not.
    pub(super) fn place(&self, key: &str) -> Place {
        self.0.get(key).map_or(Place { layer: Layer::File, offset: 0 }, |(at, _)| *at)
    }

    /// The table under `key`, if there is one and it is a table.
    pub(super) fn table(&self, key: &str) -> Option<&Table> {
        match self.get(key).map(|node| &node.value) {
            Some(Value::Table(table)) => Some(table),
            _ => None,
        }
    }

    /// Sets the value at a path of tables, making those that are missing.
    pub(super) fn set(&mut self, path: &[&str], node: Node) {
        match path {
            [] => {}
            [key] => {
                self.0.insert((*key).to_owned(), (node.at, node));
            }
            [key, rest @ ..] => {
                let empty = Node { at: node.at, value: Value::Table(Self::default()) };
                let entry = self.0.entry((*key).to_owned()).or_insert((node.at, empty));
                if let Value::Table(table) = &mut entry.1.value {
                    table.set(rest, node);
                }
            }
        }
    }

    /// Lays `over` over this: tables are merged, all else is replaced.
    pub(super) fn overlay(&mut self, over: &Self) {
        self.overlay_at(over, "");
    }

    fn overlay_at(&mut self, over: &Self, parent: &str) {
        for (key, (at, node)) in &over.0 {
            let merged = match (self.0.get_mut(key).map(|(_, node)| node), &node.value) {
                (Some(Node { value: Value::Table(below), .. }), Value::Table(above))
                    if merges(parent, key) && !is_reference(below) && !is_reference(above) =>
                {
                    below.overlay_at(above, key);
                    true
                }
                _ => false,
            };
            if !merged {
                self.0.insert(key.clone(), (*at, node.clone()));
            }
        }
    }

    pub(super) fn from_toml(table: &DeTable<'_>, layer: Layer) -> Self {
        let entries = table.iter().map(|(key, value)| {
            let at = Place { layer, offset: key.span().start };
            (key.get_ref().to_string(), (at, Node::from_toml(value, layer)))
        });
        Self(entries.collect())
    }

    /// The same tree as another layer's.
    pub(super) fn relayer(&mut self, layer: Layer) {
        for (at, node) in self.0.values_mut() {
            at.layer = layer;
            node.relayer(layer);
        }
    }
}

/// Whether two tables under `key` are merged. Where a table is one choice among several, mixing two would make a third.
fn merges(parent: &str, key: &str) -> bool {
    !matches!(key, "ready" | "live" | "url") && parent != "env"
}

impl Node {
    fn from_toml(value: &Spanned<DeValue<'_>>, layer: Layer) -> Self {
        let at = Place { layer, offset: value.span().start };
        let value = match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
                Value::Integer(parsed, number.radix())
            }
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Value::Bool(*flag),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => {
                Value::Array(items.iter().map(|item| Self::from_toml(item, layer)).collect())
            }
            DeValue::Table(table) => Value::Table(Table::from_toml(table, layer)),
        };
        Self { at, value }
    }

    fn relayer(&mut self, layer: Layer) {
        self.at.layer = layer;
        match &mut self.value {
            Value::Array(items) => items.iter_mut().for_each(|item| item.relayer(layer)),
            Value::Table(table) => table.relayer(layer),
            _ => {}
        }
    }
}
