//! Statements of [`EventStore`], and the conditions that its queries share with others.

use std::fmt::Write as _;

use async_trait::async_trait;

use super::{Append, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value, values};
use crate::{
    Result, Timestamp,
    id::{InstanceName, RecordId},
    store::{EventKind, EventQuery, EventRecord, EventStore, NewEvent},
};

const COLUMNS: &str = "id, at, instance, kind, from_state, to_state, reason";

fn event(row: &mut Row) -> Result<EventRecord, Damage> {
    let kind = if row.is_null(4) {
        EventKind::Other(row.get(3)?)
    } else {
        EventKind::Transition { from: row.parsed(4)?, to: row.parsed(5)? }
    };
    let event = NewEvent { at: row.get(1)?, instance: row.get(2)?, kind, reason: row.get(6)? };
    Ok(EventRecord { id: row.get(0)?, event })
}

fn columns(event: NewEvent) -> Vec<Value> {
    let (kind, from, to) = match event.kind {
        EventKind::Transition { from, to } => {
            ("instance.transition".into(), Some(from.as_str()), Some(to.as_str()))
        }
        EventKind::Other(word) => (word, None, None),
    };
    values![event.at, event.instance, kind, from, to, event.reason]
}

#[async_trait]
impl<E: Engine> EventStore for E {
    async fn append_events(&self, events: Vec<NewEvent>) -> Result<Vec<RecordId>> {
        self.append(Append {
            table: "events",
            columns: &["at", "instance", "kind", "from_state", "to_state", "reason"],
            rows: events.into_iter().map(columns).collect(),
        })
        .await
    }

    async fn events(&self, query: EventQuery) -> Result<Vec<EventRecord>> {
        let mut filter = Filter::new(&query.instances, query.since);
        if let Some(until) = query.until {
            filter.and("at <", until);
        }
        if let Some(after) = query.after {
            filter.and("id >", after);
        }
        let order = if query.after.is_some() { "ASC" } else { "DESC" };
        let Filter { sql, values } = filter.limit(query.limit, &format!("id {order}"));
        let sql = format!(
            "SELECT {COLUMNS} FROM (SELECT {COLUMNS} FROM events{sql}) AS found ORDER BY id"
        );
        self.fetch(Statement::new(sql, values), event).await
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < ?1 ORDER BY at, id LIMIT ?2)";
        let prune = Statement::new(sql, values![before, limit]);
        Ok(self.run(Durability::Process, prune).await?.changed)
    }
}

/// The conditions of a query. It writes only the ones that apply, so that the planner can use an index for each.
#[derive(Default)]
pub(super) struct Filter {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
}

impl Filter {
    pub(super) fn new(instances: &[InstanceName], since: Option<Timestamp>) -> Self {
        let mut filter = Self::default();
        if !instances.is_empty() {
            filter.values.push(instances.into());
            filter.sql.push_str(" WHERE instance IN {list ?1}");
        }
        if let Some(since) = since {
            filter.and("at >=", since);
        }
        filter
    }

    /// Adds `condition` with `value` on its right side.
    pub(super) fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        let word = if self.sql.is_empty() { "WHERE" } else { "AND" };
        // Writing to a String cannot fail.
        let _ = write!(self.sql, " {word} {condition} ?{}", self.values.len());
    }

    /// The same, where there is something to ask for.
    pub(super) fn maybe(&mut self, condition: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.and(condition, value);
        }
    }

    /// Adds `condition` with a row of `values` on its right side.
    pub(super) fn and_all(&mut self, condition: &str, values: Vec<Value>) {
        let first = self.values.len() + 1;
        let parameters: Vec<_> = (first..).take(values.len()).map(|n| format!("?{n}")).collect();
        let word = if self.sql.is_empty() { "WHERE" } else { "AND" };
        let _ = write!(self.sql, " {word} {condition} ({})", parameters.join(", "));
        self.values.extend(values);
    }

    /// Adds that `column` is one of `words`; any will do where there are none.
    pub(super) fn among(&mut self, column: &str, words: Vec<&str>) {
        if words.is_empty() {
            return;
        }
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        self.values.push(words.into());
        let word = if self.sql.is_empty() { "WHERE" } else { "AND" };
        let _ = write!(self.sql, " {word} {column} IN {{list ?{}}}", self.values.len());
    }

    /// The end of the query.
    pub(super) fn limit(mut self, limit: u32, order: &str) -> Self {
        self.values.push(limit.into());
        let _ = write!(self.sql, " ORDER BY {order} LIMIT ?{}", self.values.len());
        self
    }
}
