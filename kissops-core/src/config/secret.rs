//! The `env` table, and references to secrets.

use std::collections::BTreeMap;

use super::{env_file::looks_secret, node::Value, reader::Item};
use crate::supervisor::{EnvValue, SecretRef};

pub(super) fn env(item: &Item<'_>) -> Option<BTreeMap<String, EnvValue>> {
    let section = item.section("write env = { KEY = \"value\" }")?;
    let mut env = BTreeMap::new();
    for (key, value) in section.items() {
        if key.is_empty() || key.contains(['=', '\0']) {
            let _ = value.fail::<()>("is not a name of a variable", "");
        } else if let Some(read) = env_value(key, &value) {
            env.insert(key.to_owned(), read);
        }
    }
    Some(env)
}

fn env_value(key: &str, item: &Item<'_>) -> Option<EnvValue> {
    match &item.node.value {
        Value::Table(_) => reference(item).map(EnvValue::Secret),
        Value::Integer(..) | Value::Float(_) | Value::Bool(_) => {
            let value = match &item.node.value {
                _ if looks_secret(key) => "…".to_owned(),
                Value::Integer(Some(n), 10) => n.to_string(),
                Value::Bool(flag) => flag.to_string(),
                _ => "…".to_owned(),
            };
            let message = format!("must be a string, not {}", item.node.value.kind());
            item.fail(message, format!("put it in quotes: {key} = \"{value}\""))
        }
        _ => {
            let text = item.text()?;
            if looks_secret(key) && !text.is_empty() {
                item.pass.warn(
                    item.node.at,
                    &item.path,
                    "looks like a secret in clear text",
                    format!("put it into .env or another file with mode 600 and write {key} = {{ env = \"{key}\" }}"),
                );
            }
            Some(EnvValue::Plain(text))
        }
    }
}

/// A reference to a secret: `{ env = "X" }` or `{ file = "…" }`.
pub(super) fn reference(item: &Item<'_>) -> Option<SecretRef> {
    const FORM: &str = "write { env = \"NAME\" } or { file = \"path\" }";
    let section = item.section(FORM)?;
    let found = [
        section.get("env").and_then(|item| Some(SecretRef::Env(item.text()?))),
        section.get("file").and_then(|item| Some(SecretRef::File(item.path()?))),
    ];
    for later in ["secret", "credential"] {
        if section.table.get(later).is_some() {
            return item.fail(format!("`{later}` is not supported by this version yet"), FORM);
        }
    }
    let count = section.table.0.len();
    let [env, file] = found;
    let empty = section.table.0.is_empty();
    let both = env.is_some() && file.is_some();
    section.finish();
    if empty || (both && count == 2) {
        return item.fail("must name one source of the secret", FORM);
    }
    let found = env.or(file)?;
    if matches!(&found, SecretRef::Env(name) if name.is_empty() || name.contains('=')) {
        return item.fail("is not a name of a variable", FORM);
    }
    Some(found)
}
