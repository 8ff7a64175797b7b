//! JSON as people read it.

use std::io::{self, Write};

use serde_json::Value;

use super::clean;

/// A JSON value as indented `key: value` lines.
pub(crate) fn write(out: &mut impl Write, json: &Value, depth: usize) -> io::Result<()> {
    let indent = "  ".repeat(depth);
    match json {
        Value::Object(members) => {
            for (key, member) in members {
                if let Some(text) = plain(member) {
                    writeln!(out, "{indent}{key}: {}", clean::text(&text))?;
                } else {
                    writeln!(out, "{indent}{key}:")?;
                    write(out, member, depth + 1)?;
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(|item| match item {
            Value::Object(members) => {
                let parts = members
                    .iter()
                    .filter_map(|(key, member)| Some(format!("{key} {}", plain(member)?)));
                let text = parts.collect::<Vec<_>>().join(", ");
                writeln!(out, "{indent}- {}", clean::text(&text))?;
                let mut deep = members.iter().filter(|(_, member)| plain(member).is_none());
                deep.try_for_each(|(key, member)| {
                    writeln!(out, "{indent}  {key}:")?;
                    write(out, member, depth + 2)
                })
            }
            item => writeln!(out, "{indent}{}", clean::text(&item.to_string())),
        }),
        other => writeln!(out, "{indent}{}", clean::text(&other.to_string())),
    }
}

/// What fits on the line of its key.
fn plain(json: &Value) -> Option<String> {
    match json {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) => None,
        Value::Array(items) if items.iter().any(Value::is_object) => None,
        other => Some(other.to_string()),
    }
}
