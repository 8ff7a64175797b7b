//! The `ready` and `live` tables.

use std::{num::NonZeroU32, time::Duration};

use super::{
    node::Value,
    reader::{Item, Section},
    suggest::{nearest, shown},
};
use crate::supervisor::{Live, LiveCheck, Ready, ReadyCheck};

const READY: [&str; 6] = ["notify", "http", "tcp", "log", "heartbeat", "delay"];
const LIVE: [&str; 4] = ["watchdog", "heartbeat", "http", "tcp"];
const SHORT: Duration = Duration::from_millis(1);

/// The age at which a heartbeat counts as missed where the file does not say.
const MAX_AGE: Duration = Duration::from_secs(90);

pub(super) fn ready(item: &Item<'_>) -> Option<Ready> {
    let section = item.section("write ready = { notify = true, within = \"20s\" }")?;
    let check = one_check(item, &section, &READY, |key, item| match key {
        "notify" => {
            if item.bool()? {
                Some(ReadyCheck::Notify)
            } else {
                item.fail("must be true", "leave the table out if it does not notify")
            }
        }
        "http" => url(item).map(ReadyCheck::Http),
        "tcp" => address(item).map(ReadyCheck::Tcp),
        "log" => pattern(item).map(ReadyCheck::Log),
        "heartbeat" => item.path().map(ReadyCheck::Heartbeat),
        _ => item.duration(Duration::ZERO).map(ReadyCheck::Delay),
    });
    let within = section.get("within").and_then(|item| item.duration(SHORT));
    section.finish();
    Some(Ready { check: check?, within: within.unwrap_or(Ready::WITHIN) })
}

/// One table or an array of them.
pub(super) fn live(item: &Item<'_>) -> Option<Vec<Live>> {
    if let Value::Array(_) = item.node.value {
        let checks: Vec<_> = item.array("")?.iter().map(live_one).collect();
        return checks.into_iter().collect();
    }
    Some(vec![live_one(item)?])
}

fn live_one(item: &Item<'_>) -> Option<Live> {
    let section = item.section("write live = { watchdog = \"30s\" }")?;
    let span = |key| section.get(key).and_then(|item: Item<'_>| item.duration(SHORT));
    let kind = LIVE.iter().copied().find(|key| section.table.get(key).is_some());
    // Only what the check uses is a known key of its table.
    let heartbeat = kind == Some("heartbeat");
    let network = matches!(kind, Some("http" | "tcp"));
    let max_age = if heartbeat { span("max_age") } else { None }.unwrap_or(MAX_AGE);
    let every = if network { span("every") } else { None }.unwrap_or(Duration::from_secs(30));
    let timeout = if network { span("timeout") } else { None }.unwrap_or(Duration::from_secs(5));
    let failures = if kind == Some("watchdog") {
        None
    } else {
        section.get("failures").and_then(|item| item.integer(1..=1_000_u32))
    };
    let check = one_check(item, &section, &LIVE, |key, item| match key {
        "watchdog" => {
            item.duration(Duration::from_millis(10)).map(|every| LiveCheck::Watchdog { every })
        }
        "heartbeat" => item.path().map(|path| LiveCheck::Heartbeat { path, max_age }),
        "http" => url(item).map(|url| LiveCheck::Http { url, every, timeout }),
        _ => address(item).map(|address| LiveCheck::Tcp { address, every, timeout }),
    });
    section.finish();
    let usual = if network { 3 } else { 1 };
    let failures = NonZeroU32::new(failures.unwrap_or(usual)).unwrap_or(NonZeroU32::MIN);
    Some(Live { check: check?, failures })
}

/// Reads the one key of `kinds` that is there; none and two are errors.
fn one_check<'a, T>(
    item: &Item<'_>,
    section: &Section<'a>,
    kinds: &[&'static str],
    read: impl Fn(&str, &Item<'a>) -> Option<T>,
) -> Option<T> {
    let found: Vec<_> =
        kinds.iter().filter_map(|key| section.get(key).map(|item| (*key, item))).collect();
    match found.as_slice() {
        [(key, item)] => read(key, item),
        [] => {
            // A misspelt one is reported as an unknown key already.
            if section.table.0.keys().any(|key| nearest(key, kinds).is_some()) {
                return None;
            }
            item.fail("names no check", format!("one of {}", kinds.join(", ")))
        }
        [(first, _), (second, item), ..] => item
            .fail(format!("`{first}` and `{second}` cannot both be the check"), "keep one of them"),
    }
}

fn url(item: &Item<'_>) -> Option<String> {
    const LIKE: &str = "for example \"http://127.0.0.1:8000/health\"";
    let text = item.text()?;
    let Ok(url) = reqwest::Url::parse(&text) else {
        return item.fail(format!("`{}` is not a URL", shown(&text)), LIKE);
    };
    if url.scheme() == "https" {
        return item.fail(
            "https is not supported by this version yet",
            "check the bot's own port by http, or use tcp = \"host:port\"",
        );
    }
    if url.scheme() != "http" || url.host_str().is_none_or(str::is_empty) {
        return item.fail("must begin with http://", LIKE);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return item.fail("may not hold a user or password", LIKE);
    }
    Some(text)
}

fn address(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0) {
        Some(_) => Some(text),
        None => item.fail(
            format!("`{}` is not a host and port", shown(&text)),
            "for example \"127.0.0.1:8000\"",
        ),
    }
}

fn pattern(item: &Item<'_>) -> Option<String> {
    let text = item.string()?;
    // Its braces are repetitions, so nothing is filled in.
    match regex::Regex::new(text) {
        Ok(_) => Some(text.to_owned()),
        Err(err) => {
            let reason = err.to_string();
            let last = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
            item.fail(format!("is not a regular expression: {last}"), "")
        }
    }
}
