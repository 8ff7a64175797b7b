//! `[instance.NAME]`, `[defaults]` and what a template gives its members: from tables to a [`Definition`].

use std::path::PathBuf;

use super::{
    checks, limits,
    node::{Place, Table, Value},
    reader::{Item, Section},
    secret,
    suggest::shown,
    tables, tokens,
};
use crate::{
    id::InstanceName,
    supervisor::{Definition, Kind, Restart, RestartPolicy},
};

/// A definition whose requirements are still words.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) definition: Definition,
    pub(super) at: Place,
    pub(super) requires: Vec<Wish>,
    pub(super) after: Vec<Wish>,
}

/// An instance, a template or a pattern that was named as a requirement.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) word: String,
    pub(super) at: Place,
    pub(super) key: String,
}

/// `own` over `defaults`.
pub(super) fn inherit(defaults: Option<&Table>, own: &Table) -> Table {
    let mut merged = defaults.cloned().unwrap_or_default();
    // "always" is a fine default for services and would run a migration in a circle.
    if matches!(own.get("kind").map(|node| &node.value), Some(Value::String(kind)) if kind == "oneshot")
    {
        merged.0.remove("restart");
    }
    merged.overlay(own);
    merged
}

/// Reads a whole definition. `None` if it has an error that leaves no usable one.
pub(super) fn read(section: Section<'_>, name: &InstanceName) -> Option<Draft> {
    let words = section.get("command").map(|item| command(&item));
    if words.is_none() {
        section.missing("command", "for example command = [\"python3\", \"bot.py\"]");
    }
    let at = section.at;
    let mut draft = optional(&section, name, at)?;
    section.finish();
    draft.definition.command = words??;
    Some(draft)
}

/// Reads `[defaults]`, for its errors: the values reach instances by [`inherit`].
pub(super) fn check_defaults(section: Section<'_>) {
    if let Some(item) = section.get("command") {
        let _ = command(&item);
    }
    if let Ok(name) = InstanceName::new("defaults") {
        let _ = optional(&section, &name, section.at);
    }
    section.finish();
}

/// Everything but the command.
fn optional(section: &Section<'_>, name: &InstanceName, at: Place) -> Option<Draft> {
    let mut d = Definition::new(name.as_str(), ["-"]).ok()?;
    d.cwd.clone_from(&section.pass.shared.folder);
    set(&mut d.description, section.get("description").and_then(|item| item.text()));
    set(&mut d.tags, section.get("tags").and_then(|item| tags(&item)));
    set(&mut d.cwd, section.get("cwd").and_then(|item| item.path()));
    set(&mut d.env, section.get("env").and_then(|item| secret::env(&item)));
    set(&mut d.env_file, section.get("env_file").and_then(|item| paths(&item)));
    d.user = section.get("user").and_then(|item| account(&item));
    d.group = section.get("group").and_then(|item| account(&item));
    d.umask = section.get("umask").and_then(|item| umask(&item));
    set(
        &mut d.kind,
        section.get("kind").and_then(|item| {
            item.one_of(&[("service", Kind::Service), ("oneshot", Kind::Oneshot)])
        }),
    );
    set(&mut d.autostart, section.get("autostart").and_then(|item| item.bool()));
    d.restart = restart(section, d.kind);
    set(&mut d.backoff, section.get("backoff").and_then(|item| tables::backoff(&item)));
    set(&mut d.start_limit, section.get("start_limit").and_then(|item| tables::start_limit(&item)));
    d.ready = section.get("ready").and_then(|item| checks::ready(&item));
    set(&mut d.live, section.get("live").and_then(|item| checks::live(&item)));
    set(&mut d.stop, section.get("stop").and_then(|item| tables::stop(&item)));
    set(&mut d.reload_signal, section.get("reload_signal").and_then(|item| tables::signal(&item)));
    set(&mut d.hooks, section.get("hooks").and_then(|item| tables::hooks(&item)));
    set(&mut d.limits, section.get("limits").and_then(|item| limits::read(&item)));
    set(&mut d.logs, section.get("logs").and_then(|item| tables::logs(&item)));
    d.restart_schedule = section.get("restart_schedule").and_then(|item| schedule(&item));
    stdin(section);
    tokens::read(section, &mut d);
    let requires = section.get("requires").and_then(|item| wishes(&item)).unwrap_or_default();
    let after = section.get("after").and_then(|item| wishes(&item)).unwrap_or_default();
    Some(Draft { definition: d, at, requires, after })
}

pub(super) fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

/// `stdin = "null"` is what every instance gets; it may be said.
fn stdin(section: &Section<'_>) {
    if let Some(item) = section.get("stdin") {
        let _ = item.one_of(&[("null", ())]);
    }
}

pub(super) fn command(item: &Item<'_>) -> Option<Vec<String>> {
    if let Value::String(line) = &item.node.value {
        let plain = |c: char| c.is_ascii_alphanumeric() || " ._-/:=@+,".contains(c);
        let help = if line.chars().all(plain) {
            let words: Vec<String> =
                line.split_whitespace().map(|word| format!("\"{word}\"")).collect();
            format!("write {} = [{}]", item.key(), words.join(", "))
        } else {
            format!("for a shell's syntax write {} = [\"sh\", \"-c\", \"…\"]", item.key())
        };
        return item.fail("must be an array, never a shell string", help);
    }
    let words = item.texts()?;
    if words.first().is_none_or(String::is_empty) {
        return item.fail("must name a program", "for example [\"python3\", \"bot.py\"]");
    }
    Some(words)
}

fn tags(item: &Item<'_>) -> Option<Vec<String>> {
    let tags = item.texts()?;
    if tags
        .iter()
        .any(|tag| tag.is_empty() || tag.contains(|c: char| c.is_whitespace() || c == ','))
    {
        return item.fail("must be words without blanks and commas", "");
    }
    Some(tags)
}

fn paths(item: &Item<'_>) -> Option<Vec<PathBuf>> {
    if let Value::Array(_) = item.node.value {
        let paths: Vec<_> = item.array("")?.iter().map(Item::path).collect();
        return paths.into_iter().collect();
    }
    Some(vec![item.path()?])
}

/// A user or group, by name or number.
pub(super) fn account(item: &Item<'_>) -> Option<String> {
    if let Value::Integer(..) = item.node.value {
        return item.integer(0..=u32::MAX - 1).map(|id| id.to_string());
    }
    let name = item.text()?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == ':' || c == '/') {
        return item.fail("is not a name of an account", "");
    }
    Some(name)
}

fn umask(item: &Item<'_>) -> Option<u32> {
    const HELP: &str = "write it in octal, in quotes: umask = \"027\"";
    let mask = match &item.node.value {
        Value::String(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        Value::Integer(Some(number), base) if *base == 8 || *number == 0 => {
            u32::try_from(*number).ok()
        }
        Value::Integer(..) => return item.fail("must be octal", HELP),
        other => return item.fail(format!("must be a string, not {}", other.kind()), HELP),
    };
    match mask.filter(|mask| *mask <= 0o777) {
        Some(mask) => Some(mask),
        None => item.fail("must be from \"000\" to \"777\"", HELP),
    }
}

fn restart(section: &Section<'_>, kind: Kind) -> Restart {
    let policy = section.get("restart").and_then(|item| {
        let policy = item.one_of(&[
            ("always", RestartPolicy::Always),
            ("on-failure", RestartPolicy::OnFailure),
            ("never", RestartPolicy::Never),
        ])?;
        if policy == RestartPolicy::Always && kind == Kind::Oneshot {
            return item.fail(
                "a one-shot that is always restarted never ends",
                "write restart = \"on-failure\" or leave it out",
            );
        }
        Some(policy)
    });
    let unsaid = match kind {
        Kind::Service => RestartPolicy::Always,
        Kind::Oneshot => RestartPolicy::Never,
    };
    let codes = |key| section.get(key).and_then(|item| exit_codes(&item)).unwrap_or_default();
    let restart = Restart {
        policy: policy.unwrap_or(unsaid),
        success_exit_codes: codes("success_exit_codes"),
        restart_exit_codes: codes("restart_exit_codes"),
        stop_exit_codes: codes("stop_exit_codes"),
    };
    let twice =
        restart.restart_exit_codes.iter().find(|code| restart.stop_exit_codes.contains(code));
    if let (Some(code), Some(item)) = (twice, section.get("stop_exit_codes")) {
        let _ = item.fail::<()>(
            format!("exit code {code} is in restart_exit_codes too"),
            "it can mean one of the two",
        );
    }
    restart
}

fn exit_codes(item: &Item<'_>) -> Option<Vec<i32>> {
    let help = if let Value::Integer(Some(code), _) = item.node.value {
        format!("write {} = [{code}]", item.key())
    } else {
        String::new()
    };
    let codes: Vec<_> = item.array(&help)?.iter().map(|code| code.integer(0..=255)).collect();
    codes.into_iter().collect()
}

fn schedule(item: &Item<'_>) -> Option<String> {
    let text = item.string()?;
    match text.parse::<croner::Cron>() {
        Ok(_) => Some(text.to_owned()),
        Err(err) => item.fail(
            format!("`{}` is not a cron expression: {err}", shown(text)),
            "minute hour day month weekday, for example \"0 4 * * *\", or \"@daily\"",
        ),
    }
}

fn wishes(item: &Item<'_>) -> Option<Vec<Wish>> {
    let help = match &item.node.value {
        Value::String(text) => format!("write {} = [\"{}\"]", item.key(), shown(text)),
        _ => String::new(),
    };
    let items = item.array(&help)?;
    let wish = |item: &Item<'_>| {
        let word = item.text()?;
        Some(Wish { word, at: item.node.at, key: item.path.clone() })
    };
    Some(items.iter().filter_map(wish).collect())
}
