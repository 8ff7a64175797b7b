//! The smaller tables of an instance: `backoff`, `start_limit`, `stop`, `hooks`, `logs`.

use std::time::Duration;

use super::{
    definition::{command, set},
    limits,
    node::Value,
    reader::Item,
};
use crate::{
    Backoff, Error,
    backoff::Jitter,
    logs::{LogFormat, LogPolicy},
    supervisor::{Hook, Hooks, Signal, SignalTo, StartLimit, Stop},
};

pub(super) fn backoff(item: &Item<'_>) -> Option<Backoff> {
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
pub(super) fn start_limit(item: &Item<'_>) -> Option<Option<StartLimit>> {
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

pub(super) fn signal(item: &Item<'_>) -> Option<Signal> {
    if let Value::Integer(..) = item.node.value {
        return Signal::new(item.integer(1..=64)?).ok();
    }
    item.parse("a signal", "for example \"SIGTERM\", \"SIGINT\" or \"SIGUSR1\"")
}

pub(super) fn stop(item: &Item<'_>) -> Option<Stop> {
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

pub(super) fn hooks(item: &Item<'_>) -> Option<Hooks> {
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

pub(super) fn logs(item: &Item<'_>) -> Option<LogPolicy> {
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
