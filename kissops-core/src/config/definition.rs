//! `[instance.NAME]`, `[defaults]` and what a template gives its members: from tables to a [`Definition`].

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    checks,
    env_file::looks_secret,
    limits,
    node::{Place, Table, Value},
    reader::{Item, Section, shown},
};
use crate::{
    Backoff, Error,
    backoff::Jitter,
    id::InstanceName,
    logs::{LogFormat, LogPolicy},
    supervisor::{
        Definition, EnvValue, Hook, Hooks, Kind, Restart, RestartPolicy, SecretRef, Signal,
        SignalTo, StartLimit, Stop,
    },
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
    set(&mut d.env, section.get("env").and_then(|item| env(&item)));
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
    set(&mut d.backoff, section.get("backoff").and_then(|item| backoff(&item)));
    set(&mut d.start_limit, section.get("start_limit").and_then(|item| start_limit(&item)));
    d.ready = section.get("ready").and_then(|item| checks::ready(&item));
    set(&mut d.live, section.get("live").and_then(|item| checks::live(&item)));
    set(&mut d.stop, section.get("stop").and_then(|item| stop(&item)));
    set(&mut d.reload_signal, section.get("reload_signal").and_then(|item| signal(&item)));
    set(&mut d.hooks, section.get("hooks").and_then(|item| hooks(&item)));
    set(&mut d.limits, section.get("limits").and_then(|item| limits::read(&item)));
    set(&mut d.logs, section.get("logs").and_then(|item| logs(&item)));
    d.restart_schedule = section.get("restart_schedule").and_then(|item| schedule(&item));
    stdin(section);
    if let Some(item) = section.get("tokens") {
        item.pass.warn(
            item.key_at,
            &item.path,
            "is not supported by this version yet and has no effect",
            "",
        );
    }
    let requires = section.get("requires").and_then(|item| wishes(&item)).unwrap_or_default();
    let after = section.get("after").and_then(|item| wishes(&item)).unwrap_or_default();
    Some(Draft { definition: d, at, requires, after })
}

fn set<T>(slot: &mut T, value: Option<T>) {
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

fn command(item: &Item<'_>) -> Option<Vec<String>> {
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

fn env(item: &Item<'_>) -> Option<BTreeMap<String, EnvValue>> {
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
        Value::Table(_) => secret(item).map(EnvValue::Secret),
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
pub(super) fn secret(item: &Item<'_>) -> Option<SecretRef> {
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

fn backoff(item: &Item<'_>) -> Option<Backoff> {
    let section = item.section("write backoff = { base = \"1s\", cap = \"5m\" }")?;
    let usual = Backoff::default();
    let span = |key| section.get(key).and_then(|item| item.duration(Duration::ZERO));
    let (base, cap, reset_after) = (span("base"), span("cap"), span("reset_after"));
    let jitter = section.get("jitter").and_then(|item| match item.node.value {
        Value::Bool(true) => Some(Jitter::Full),
        Value::Bool(false) => Some(Jitter::None),
        _ => item.one_of(&[("full", Jitter::Full), ("none", Jitter::None)]),
    });
    let factor = section.get("factor").and_then(|item| {
        let factor = match item.node.value {
            Value::Float(factor) => factor,
            Value::Integer(..) => f64::from(item.integer(1..=100)?),
            _ => return item.fail("must be a number", "for example factor = 2"),
        };
        if (1.0..=100.0).contains(&factor) {
            Some(factor)
        } else {
            item.fail("must be from 1 to 100", "")
        }
    });
    let (base, cap) = (base.unwrap_or(usual.base()), cap.unwrap_or(usual.cap()));
    let built = Backoff::new(base, cap).and_then(|backoff| {
        let backoff = backoff.with_jitter(jitter.unwrap_or(usual.jitter()));
        let backoff = backoff.with_reset_after(reset_after.unwrap_or(usual.reset_after()));
        backoff.with_factor(factor.unwrap_or(usual.factor()))
    });
    let built = match built {
        Ok(built) => Some(built),
        Err(Error::InvalidConfig { rule, .. }) => {
            let item = section.get("cap").or_else(|| section.get("base"));
            item.and_then(|item| item.fail(rule, "base is the first delay, cap the longest"))
        }
        Err(_) => None,
    };
    section.finish();
    built
}

#[expect(clippy::option_option, reason = "an error, no limit, or a limit")]
fn start_limit(item: &Item<'_>) -> Option<Option<StartLimit>> {
    const HELP: &str = "write start_limit = { starts = 5, within = \"5m\" }, or false for none";
    match &item.node.value {
        Value::Bool(false) => return Some(None),
        Value::String(text) if text == "off" => return Some(None),
        _ => {}
    }
    let section = item.section(HELP)?;
    let usual = StartLimit::default();
    let starts = section.get("starts").and_then(|item| item.integer(1..=100_000_u32));
    let within = section.get("within").and_then(|item| item.duration(Duration::from_secs(1)));
    section.finish();
    let starts = starts.and_then(std::num::NonZeroU32::new).unwrap_or(usual.starts);
    Some(Some(StartLimit { starts, within: within.unwrap_or(usual.within) }))
}

fn signal(item: &Item<'_>) -> Option<Signal> {
    if let Value::Integer(..) = item.node.value {
        return Signal::new(item.integer(1..=64)?).ok();
    }
    item.parse("a signal", "for example \"SIGTERM\", \"SIGINT\" or \"SIGUSR1\"")
}

fn stop(item: &Item<'_>) -> Option<Stop> {
    let section = item.section("write stop = { signal = \"SIGTERM\", grace = \"30s\" }")?;
    let mut stop = Stop::default();
    set(&mut stop.signal, section.get("signal").and_then(|item| signal(&item)));
    set(&mut stop.grace, section.get("grace").and_then(|item| item.duration(Duration::ZERO)));
    set(
        &mut stop.to,
        section
            .get("to")
            .and_then(|item| item.one_of(&[("main", SignalTo::Main), ("group", SignalTo::Group)])),
    );
    section.finish();
    Some(stop)
}

fn hooks(item: &Item<'_>) -> Option<Hooks> {
    let section = item.section("write hooks = { pre_start = [[\"program\", \"argument\"]] }")?;
    let list = |key| section.get(key).and_then(|item| hook_list(&item)).unwrap_or_default();
    let hooks = Hooks {
        pre_start: list("pre_start"),
        post_start: list("post_start"),
        pre_stop: list("pre_stop"),
        post_stop: list("post_stop"),
    };
    section.finish();
    Some(hooks)
}

fn hook_list(item: &Item<'_>) -> Option<Vec<Hook>> {
    const FORM: &str = "an array of commands: [[\"program\", \"argument\"], …]";
    let items = item.array(FORM)?;
    if items.iter().any(|hook| matches!(hook.node.value, Value::String(_))) {
        return item.fail("must be an array of commands, each an array itself", FORM);
    }
    let hooks: Vec<_> = items.iter().map(hook).collect();
    hooks.into_iter().collect()
}

fn hook(item: &Item<'_>) -> Option<Hook> {
    if let Value::Array(_) = item.node.value {
        return Some(Hook { command: command(item)?, timeout: Hook::TIMEOUT });
    }
    let section = item.section("write { command = [\"program\"], timeout = \"60s\" }")?;
    let words = section.get("command").map(|item| command(&item));
    if words.is_none() {
        section.missing("command", "for example command = [\"node\", \"migrate.js\"]");
    }
    let timeout = section.get("timeout").and_then(|item| item.duration(Duration::from_millis(1)));
    section.finish();
    Some(Hook { command: words??, timeout: timeout.unwrap_or(Hook::TIMEOUT) })
}

fn logs(item: &Item<'_>) -> Option<LogPolicy> {
    let section = item.section("write logs = { rotate_size = \"100MB\", keep = 30 }")?;
    let mut logs = LogPolicy::default();
    set(
        &mut logs.format,
        section.get("format").and_then(|item| {
            item.one_of(&[
                ("text", LogFormat::Text),
                ("json", LogFormat::Json),
                ("raw", LogFormat::Raw),
            ])
        }),
    );
    let size = |key, least, most| {
        section.get(key).and_then(|item: Item<'_>| limits::size(&item, least, most))
    };
    set(&mut logs.rotate_size, size("rotate_size", 1_000, u64::MAX));
    set(&mut logs.keep_size, size("keep_size", 0, u64::MAX));
    set(&mut logs.max_line, size("max_line", 64, 16 << 20));
    set(&mut logs.rotate_daily, section.get("rotate_daily").and_then(|item| item.bool()));
    set(&mut logs.compress, section.get("compress").and_then(|item| item.bool()));
    set(&mut logs.keep, section.get("keep").and_then(|item| item.integer(0..=100_000)));
    set(
        &mut logs.keep_for,
        section.get("keep_for").and_then(|item| item.duration(Duration::from_secs(1))),
    );
    section.finish();
    Some(logs)
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
