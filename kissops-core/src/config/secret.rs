//! The `env` table, and references to secrets.

use std::collections::BTreeMap;

use super::{
    env_file::looks_secret,
    node::{Table, Value},
    reader::Item,
};
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

/// A reference to a secret: `{ env = "X" }`, `{ file = "…" }`, `{ secret = "name" }` or `{ credential = "name" }`.
pub(super) fn reference(item: &Item<'_>) -> Option<SecretRef> {
    const FORM: &str = "write { env = \"NAME\" }, { file = \"path\" }, { secret = \"name\" } or { credential = \"name\" }";
    if !matches!(item.node.value, Value::Table(_)) {
        // What stands there may be the secret itself, so it is not shown.
        return item.fail("must be a reference to a secret, not the secret", FORM);
    }
    let section = item.section(FORM)?;
    let found = [
        section.get("env").and_then(|item| variable(&item)),
        section.get("file").and_then(|item| Some(SecretRef::File(item.path()?))),
        section.get("secret").and_then(|item| Some(SecretRef::Secret(secret_name(&item)?))),
        section.get("credential").and_then(|item| credential(&item)),
    ];
    let named = REFERENCES.iter().filter(|key| section.table.get(key).is_some()).count();
    let none_misspelt = section.table.0.len() == named;
    section.finish();
    if named != 1 && none_misspelt {
        return item.fail("must name one source of the secret", FORM);
    }
    found.into_iter().flatten().next()
}

/// The keys that a reference can have.
const REFERENCES: [&str; 4] = ["env", "file", "secret", "credential"];

/// `{ env = "X" }` and the like: a table that is one value.
pub(super) fn is_reference(table: &Table) -> bool {
    let mut entries = table.0.iter();
    match (entries.next(), entries.next()) {
        (Some((key, (_, node))), None) => {
            REFERENCES.contains(&key.as_str()) && matches!(node.value, Value::String(_))
        }
        _ => false,
    }
}

fn variable(item: &Item<'_>) -> Option<SecretRef> {
    match item.text()? {
        name if name.is_empty() || name.contains('=') => {
            item.fail("is not a name of a variable", "for example { env = \"BOT_TOKEN\" }")
        }
        name => Some(SecretRef::Env(name)),
    }
}

fn secret_name(item: &Item<'_>) -> Option<String> {
    match item.text()? {
        name if name.is_empty() || name.chars().any(char::is_control) => {
            item.fail("is not a name of a secret", "as `kissops secret list` shows them")
        }
        name => Some(name),
    }
}

/// A file's name without a folder: nothing else may be read by it.
fn credential(item: &Item<'_>) -> Option<SecretRef> {
    let name = item.text()?;
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return item.fail("is not a name of a credential", "as in the unit: LoadCredential=name:…");
    }
    Some(SecretRef::Credential(name))
}
