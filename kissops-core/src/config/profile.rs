//! `[profile.NAME]`: what differs between development, staging and production.

use std::sync::Arc;

use super::{
    Environment,
    load::{LATER, inspect},
    node::{Layer, Place, Table, Value},
    reader::{Pass, Shared},
    suggest::{nearest, shown, unknown_help},
};

/// The sections that a profile can change.
const PROFILED: [&str; 6] = ["daemon", "store", "vault", "defaults", "instance", "template"];

/// Takes the profiles out of `doc` and lays the selected one over it.
pub(super) fn select(pass: &Pass<'_>, doc: &mut Table, shared: &Arc<Shared>) -> Option<String> {
    let profiles = doc.0.remove("profile").map(|(_, node)| node);
    let mut known = Vec::new();
    if let Some(node) = &profiles {
        let Value::Table(table) = &node.value else {
            let message = format!("must be a table, not {}", node.value.kind());
            pass.error(node.at, "profile", message, "write [profile.NAME]");
            return None;
        };
        for (name, (at, node)) in &table.0 {
            known.push(name.as_str());
            let key = format!("profile.{name}");
            if let Value::Table(sections) = &node.value {
                profile_sections(pass, &key, sections);
                rehearse(pass, doc, sections, shared);
            } else {
                let message = format!("must be a table, not {}", node.value.kind());
                pass.error(*at, &key, message, "write [profile.NAME.instance.bot] and the like");
            }
        }
    }
    let (layer, value) = pass.shared.environment.find("KISSOPS_PROFILE")?;
    let wanted = Environment::text(value);
    if wanted.is_empty() {
        return None;
    }
    let chosen = profiles.as_ref().and_then(|node| match &node.value {
        Value::Table(table) => table.table(wanted),
        _ => None,
    });
    if let Some(chosen) = chosen {
        let mut chosen = chosen.clone();
        chosen.relayer(Layer::Profile);
        doc.overlay(&chosen);
        return Some(wanted.to_owned());
    }
    let help = match nearest(wanted, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "the file has no [profile.…]".to_owned(),
        None => format!("the file has: {}", known.join(", ")),
    };
    let message = format!("there is no profile `{}`", shown(wanted));
    pass.error(Place { layer, offset: 0 }, "KISSOPS_PROFILE", message, help);
    None
}

/// Tries a profile on, so that its mistakes show before the day on which it is selected.
fn rehearse(pass: &Pass<'_>, doc: &Table, profile: &Table, shared: &Arc<Shared>) {
    let mut tried = doc.clone();
    let mut profile = profile.clone();
    profile.relayer(Layer::Profile);
    // An unknown section is reported by its full key already.
    profile.0.retain(|key, _| PROFILED.contains(&key.as_str()));
    tried.overlay(&profile);
    let trial = Pass::rehearsal(shared);
    inspect(&trial, &tried, shared);
    for error in trial.errors.into_inner() {
        pass.adopt(error);
    }
}

/// Checks the names of a profile's sections, also of one that is not selected.
fn profile_sections(pass: &Pass<'_>, path: &str, sections: &Table) {
    for (key, (at, _)) in &sections.0 {
        if !PROFILED.contains(&key.as_str()) && !LATER.contains(&key.as_str()) {
            let help = unknown_help(key, &PROFILED);
            pass.error(*at, &format!("{path}.{key}"), "is not a known section", help);
        }
    }
}
