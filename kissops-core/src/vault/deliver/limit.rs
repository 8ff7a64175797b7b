//! The shared rate limits, and cool-downs of a bot's commands, for bots in any language (VLT-15).

use std::{collections::BTreeMap, time::Duration};

use hyper::{
    StatusCode,
    header::{HeaderValue, RETRY_AFTER},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::answer::{Answer, Problem, json, nothing};
use crate::{
    HumanDuration,
    id::InstanceName,
    limit::{Cooldowns, Limiter, Priority},
};

/// The longest name of a provider, a key, a user or a command.
const LONGEST: usize = 256;
/// How long is waited for a turn where nothing is said, and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(5));
/// Most headers of an answer that are looked at.
const HEADERS: usize = 100;

/// What a bot wants to send.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wish {
    cost: Option<u32>,
    priority: Option<String>,
    wait: Option<HumanDuration>,
}

/// What it was answered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answered {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// A user's use of a command.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Use {
    user: String,
    command: String,
    length: HumanDuration,
}

#[derive(Serialize)]
struct Granted {
    waited_seconds: f64,
}

#[derive(Serialize)]
struct Judged {
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_seconds: Option<f64>,
}

/// Waits until it may be sent, within what the bot is ready to wait.
pub(super) async fn take(
    limiter: &Limiter,
    (provider, key): (&str, &str),
    wish: Wish,
) -> Result<Answer, Problem> {
    let priority = match wish.priority.as_deref() {
        None => Priority::Chatter,
        Some(word) => Priority::parse(word)
            .ok_or_else(|| Problem::bad_request("the priority is vital, moderation or chatter"))?,
    };
    let cost = wish.cost.unwrap_or(1);
    let wait = wish.wait.map_or(WAIT.0, |HumanDuration(wait)| wait.min(WAIT.1));
    let bucket = limiter.bucket(short(provider)?, short(key)?);
    let begun = Instant::now();
    // Its turn came at the last moment, or the wait was none.
    let left = match tokio::time::timeout(wait, bucket.acquire(cost, priority)).await {
        Ok(taken) => {
            taken?;
            None
        }
        Err(_) => bucket.try_acquire(cost, priority)?.err(),
    };
    let Some(left) = left else {
        let granted = Granted { waited_seconds: begun.elapsed().as_secs_f64() };
        return Ok(json(StatusCode::OK, &granted));
    };
    let mut answer = Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "limited",
        format!("{provider} takes no more of this now"),
        "do without it, or ask again after what Retry-After says",
    )
    .answer();
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    Ok(answer)
}

/// Learns from an answer of the provider's.
pub(super) fn answered(
    limiter: &Limiter,
    (provider, key): (&str, &str),
    said: Option<Answered>,
) -> Result<Answer, Problem> {
    let Answered { status, headers } = said.ok_or_else(|| {
        Problem::bad_request(
            "say what was answered: {\"status\": 429, \"headers\": {\"Retry-After\": \"3\"}}",
        )
    })?;
    let headers: Vec<(&str, &str)> =
        headers.iter().take(HEADERS).map(|(name, value)| (&**name, &**value)).collect();
    limiter.bucket(short(provider)?, short(key)?).answered(status, &headers);
    Ok(nothing())
}

/// Begins a cool-down, unless one lasts.
pub(super) fn cooldown(
    cooldowns: &Cooldowns,
    bot: &InstanceName,
    said: Option<Use>,
) -> Result<Answer, Problem> {
    let Use { user, command, length } = said.ok_or_else(|| {
        Problem::bad_request(
            "say whose: {\"user\": \"ann\", \"command\": \"!joke\", \"length\": \"30s\"}",
        )
    })?;
    let (user, command) = (short(&user)?, short(&command)?);
    let judged = match cooldowns.begin(bot.as_str(), user, command, length.0) {
        Ok(()) => Judged { allowed: true, wait_seconds: None },
        Err(left) => Judged { allowed: false, wait_seconds: Some(left.as_secs_f64()) },
    };
    Ok(json(StatusCode::OK, &judged))
}

fn short(name: &str) -> Result<&str, Problem> {
    if name.is_empty() || name.len() > LONGEST {
        return Err(Problem::bad_request(format!("a name has 1 to {LONGEST} bytes")));
    }
    Ok(name)
}
