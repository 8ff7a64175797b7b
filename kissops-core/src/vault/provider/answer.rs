//! What a provider's answer means. Nothing of it is quoted that could be a token.

use std::{collections::BTreeSet, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::{
    Answer,
    profile::{ErrorRule, Meaning, Profile, RotationClass},
};
use crate::{
    Timestamp,
    vault::{RawAnswer, TokenSet},
};

/// The longest that a provider may ask us to wait; it is asked again then.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// The longest life of a token that is believed.
const LONGEST_LIFE: Duration = Duration::from_hours(87_600);

/// Reads the answer of a token endpoint. `rotation` is that of the client's refresh tokens.
pub(super) fn read(profile: &Profile, rotation: RotationClass, answer: &RawAnswer) -> Answer {
    let body = answer.body.expose_secret();
    let page = body.trim_ascii_start().starts_with(b"<");
    let mut object = object(answer);
    let success = (200..300).contains(&answer.status);
    if success && let Some(tokens) = object.as_mut().and_then(|o| tokens(profile, answer, o)) {
        return Answer::Tokens(tokens);
    }
    let said = Said::new(answer.status, object.as_ref());
    if let Some(rule) = find_rule(profile, &said) {
        let detail = said.detail(Some(rule));
        return match rule.means {
            Meaning::Retry => Answer::Retry { after: wait(answer), detail },
            Meaning::Terminal => Answer::Terminal { detail },
            Meaning::Misconfigured => Answer::Misconfigured { detail },
            Meaning::Unclear => Answer::Unclear { detail },
        };
    }
    let detail = said.detail(None);
    let reusable = rotation == RotationClass::Reusable;
    let spent = if reusable { !page && !said.is_error() } else { said.code().is_none() };
    if success && spent {
        // It was carried out, and what it gave is lost or cut off. Of a token that is good once even a page is read so.
        return Answer::Unclear { detail: format!("{detail}, without a token that can be used") };
    }
    // A gateway that has lost its server, or the patience, does not know what that has done.
    if matches!(answer.status, 408 | 502 | 504 | 520..=527) && !reusable {
        return Answer::Unclear { detail };
    }
    Answer::Retry { after: wait(answer), detail }
}

/// The document, if it is one.
pub(crate) fn object(answer: &RawAnswer) -> Option<Map<String, Value>> {
    serde_json::from_slice(answer.body.expose_secret()).ok()
}

/// The tokens, taken out of the document; `None` if there is no access token that could be sent.
fn tokens(
    profile: &Profile,
    answer: &RawAnswer,
    object: &mut Map<String, Value>,
) -> Option<TokenSet> {
    let access = take_text(object, "access_token")?;
    if !access.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let access_life = life(object.get("expires_in")).unwrap_or(profile.expires_in);
    let refresh_life = ["refresh_token_expires_in", "refresh_expires_in"]
        .iter()
        .find_map(|key| life(object.get(*key)));
    let from = answer.sent_at;
    Some(TokenSet {
        access,
        refresh: take_text(object, "refresh_token"),
        access_expires_at: Some(from.plus(access_life)),
        refresh_expires_at: refresh_life.map(|life| from.plus(life)),
        idle_expires_at: profile.refresh_idle.map(|life| from.plus(life)),
        scopes: scopes(object.get("scope")),
    })
}

fn take_text(object: &mut Map<String, Value>, key: &str) -> Option<SecretString> {
    match object.remove(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.into()),
        _ => None,
    }
}

/// How long a token lives. Zero says nothing: some send it for what does not expire.
pub(super) fn life(value: Option<&Value>) -> Option<Duration> {
    Some(seconds(value)?.min(LONGEST_LIFE))
}

/// A positive number of seconds, as a number or as its digits.
pub(crate) fn seconds(value: Option<&Value>) -> Option<Duration> {
    let number = match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| number.is_finite() && *number >= 1.0)?;
    Some(Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX))
}

/// Scopes as an array, or as words between spaces.
pub(super) fn scopes(value: Option<&Value>) -> Option<BTreeSet<String>> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    match value? {
        Value::String(text) => Some(words(text)),
        Value::Array(items) => {
            Some(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        _ => None,
    }
}

/// What an answer says of an error.
pub(crate) struct Said {
    status: u16,
    error: Option<String>,
    message: Option<String>,
}

impl Said {
    pub(super) fn new(status: u16, object: Option<&Map<String, Value>>) -> Self {
        let text = |object: &Map<String, Value>, keys: &[&str]| {
            let found = keys.iter().find_map(|key| object.get(*key)?.as_str());
            found.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let Some(object) = object else { return Self { status, error: None, message: None } };
        // Google's APIs put both one level deeper.
        let inner = object.get("error").and_then(Value::as_object);
        let error = inner
            .and_then(|inner| text(inner, &["status", "code"]))
            .or_else(|| text(object, &["error", "code"]));
        let message = inner
            .and_then(|inner| text(inner, &["message"]))
            .or_else(|| text(object, &["error_description", "message"]));
        Self { status, error, message }
    }

    /// The code of the error, in small letters.
    pub(crate) fn code(&self) -> Option<String> {
        self.error.as_ref().map(|code| code.to_ascii_lowercase())
    }

    /// Says this word: as its code, or somewhere in its message.
    pub(crate) fn is(&self, word: &str) -> bool {
        self.code().as_deref() == Some(word) || self.mentions(word)
    }

    /// The message says it, in whatever case.
    pub(crate) fn mentions(&self, part: &str) -> bool {
        let message = self.message.as_ref().map(|message| message.to_ascii_lowercase());
        message.is_some_and(|message| message.contains(&part.to_ascii_lowercase()))
    }

    fn is_error(&self) -> bool {
        self.error.is_some() || self.message.is_some()
    }

    fn matches(&self, rule: &ErrorRule) -> bool {
        // Who is overloaded or broken may say anything; only a rule that names the status is believed then.
        let troubled = matches!(self.status, 408 | 425 | 429 | 500..=599);
        let status = rule.status.map_or(!troubled, |status| status == self.status);
        let error = rule.error.as_ref().is_none_or(|code| {
            self.error.as_ref().is_some_and(|said| said.eq_ignore_ascii_case(code))
        });
        status && error && rule.message.as_ref().is_none_or(|part| self.mentions(part))
    }

    /// For people: the rule's own words where there is one, else what cannot be a secret of what was said.
    pub(crate) fn detail(&self, rule: Option<&ErrorRule>) -> String {
        let mut text = format!("it answered {}", self.status);
        if let Some(code) = self.error.as_ref().filter(|code| is_code(code)) {
            text.push(' ');
            text.push_str(&code.to_ascii_lowercase());
        }
        let known = rule.and_then(|rule| rule.message.clone());
        if let Some(message) = known.or_else(|| self.message.as_deref().map(harmless)) {
            text.push_str(": ");
            text.push_str(&message);
        }
        text
    }
}

/// Looks like the code of an error: words of small letters with `_` between them.
fn is_code(text: &str) -> bool {
    text.len() <= 40
        && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
        && text.split('_').all(|word| word.len() <= 14)
}

/// A message without anything that could be a token: words of letters stay, up to a length.
fn harmless(message: &str) -> String {
    let plain = |word: &str| {
        let word = word.trim_matches(|c: char| c.is_ascii_punctuation());
        word.len() <= 14 && word.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
    };
    let words = message.split_whitespace().take(16);
    let shown: Vec<&str> = words.map(|word| if plain(word) { word } else { "***" }).collect();
    shown.join(" ")
}

fn find_rule<'a>(profile: &'a Profile, said: &Said) -> Option<&'a ErrorRule> {
    profile.errors.iter().chain(common()).find(|rule| said.matches(rule))
}

/// What RFC 6749 and its neighbours have words for. `invalid_request` is not here: what is wrong with one grant's
/// request must not freeze all others.
fn common() -> &'static [ErrorRule] {
    static RULES: std::sync::LazyLock<Vec<ErrorRule>> = std::sync::LazyLock::new(|| {
        [
            ("invalid_grant", Meaning::Terminal),
            ("access_denied", Meaning::Terminal),
            ("invalid_client", Meaning::Misconfigured),
            ("unauthorized_client", Meaning::Misconfigured),
            ("unsupported_grant_type", Meaning::Misconfigured),
            ("invalid_scope", Meaning::Misconfigured),
            ("temporarily_unavailable", Meaning::Retry),
            ("server_error", Meaning::Retry),
            ("slow_down", Meaning::Retry),
        ]
        .map(|(error, means)| ErrorRule {
            status: None,
            error: Some(error.to_owned()),
            message: None,
            means,
        })
        .into()
    });
    &RULES
}

/// What `Retry-After` asks for.
fn wait(answer: &RawAnswer) -> Option<Duration> {
    let text = answer.retry_after.as_deref()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More digits than a number has are very long.
        Err(_) if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() => LONGEST_WAIT,
        Err(_) => http_date(text)?.since(answer.at),
    };
    Some(wait.min(LONGEST_WAIT))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split_ascii_whitespace().skip(1);
    let mut part = || parts.next();
    let (day, month, year, time) = (part()?, part()?, part()?, part()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    format!("{year}-{month:02}-{day}T{time}Z").parse().ok()
}

#[cfg(test)]
mod tests;
