//! `tokens`, `token_policy` and `token_env`: which grants an instance may read, and how.

use std::collections::BTreeMap;

use super::{
    definition::set,
    reader::{Item, Section},
    suggest::{nearest, shown},
};
use crate::{
    Error,
    store::GrantKey,
    supervisor::{Definition, TokenPolicy},
};

const POLICIES: [(&str, TokenPolicy); 3] =
    [("stop", TokenPolicy::Stop), ("run", TokenPolicy::Run), ("strict", TokenPolicy::Strict)];

pub(super) fn read(section: &Section<'_>, d: &mut Definition) {
    set(&mut d.tokens, section.get("tokens").and_then(|item| tokens(&item)));
    let policy = section.get("token_policy");
    if let Some(item) = policy.as_ref().filter(|_| section.table.get("tokens").is_none()) {
        item.pass.warn(item.key_at, &item.path, "has no effect without tokens", "");
    }
    set(&mut d.token_policy, policy.and_then(|item| item.one_of(&POLICIES)));
    let variables = section.get("token_env").and_then(|item| variables(&item, d));
    set(&mut d.token_env, variables);
}

fn tokens(item: &Item<'_>) -> Option<Vec<GrantKey>> {
    let help = match &item.node.value {
        super::node::Value::String(text) => {
            format!("write {} = [\"{}\"]", item.key(), shown(text))
        }
        _ => "for example [\"twitch/{name}\"]".to_owned(),
    };
    let mut keys: Vec<GrantKey> = Vec::new();
    for entry in item.array(&help)? {
        let Some(key) = grant(&entry) else { continue };
        if keys.contains(&key) {
            let _ = entry.fail::<()>(format!("`{key}` is named twice"), "remove it here");
        } else {
            keys.push(key);
        }
    }
    Some(keys)
}

/// `"twitch/{name}"`.
fn grant(item: &Item<'_>) -> Option<GrantKey> {
    let text = item.text()?;
    match text.parse() {
        Ok(key) => Some(key),
        Err(Error::InvalidConfig { rule, .. }) => {
            let message = rule.replace(&text, &shown(&text));
            item.fail(message, "a grant is written provider/account: \"twitch/{name}\"")
        }
        Err(other) => item.fail(other.chain(), ""),
    }
}

fn variables(item: &Item<'_>, d: &Definition) -> Option<BTreeMap<String, GrantKey>> {
    let section = item.section("write token_env = { ACCESS_TOKEN = \"twitch/{name}\" }")?;
    let mut variables = BTreeMap::new();
    for (name, value) in section.items() {
        if name.is_empty() || name.contains(['=', '\0']) {
            let _ = value.fail::<()>("is not a name of a variable", "");
            continue;
        }
        if d.env.contains_key(name) {
            let _ = value.fail::<()>("is in env too", "it can have one of the two values");
            continue;
        }
        let Some(key) = grant(&value) else { continue };
        if d.tokens.contains(&key) {
            variables.insert(name.to_owned(), key);
            continue;
        }
        let known: Vec<String> = d.tokens.iter().map(ToString::to_string).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let help = nearest(&key.to_string(), &known).map_or_else(
            || format!("add it: tokens = [\"{key}\"]"),
            |near| format!("did you mean \"{near}\"?"),
        );
        let _ = value.fail::<()>(format!("`{key}` is not one of its tokens"), help);
    }
    if !variables.is_empty() {
        item.pass.warn(
            item.key_at,
            &item.path,
            "puts tokens into the environment, where every child of the bot and /proc show them, and where they go stale with the first refresh",
            "a bot that asks its socket (KISSOPS_SOCKET) gets the current one",
        );
    }
    Some(variables)
}
