//! The control side over HTTP: `/_mock/…`, JSON in and out.

use hyper::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    body::Answer,
    control::{ControlError, NewAccounts, nobody},
    flow::Verdict,
    knobs::{Knobs, Scope, Step, Storm},
    ledger::Secrets,
    server::Shared,
    state::Client,
};

const HELP: &str = include_str!("help.txt");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForKnobs {
    account: Option<String>,
    client: Option<String>,
    knobs: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForScript {
    account: Option<String>,
    client: Option<String>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForClock {
    advance_ms: Option<i64>,
    now_ms: Option<i64>,
    stopped: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForDevice {
    user_code: String,
    account: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForLookup {
    token: String,
}

enum Fault {
    NotFound,
    Wrong(String),
}

impl From<ControlError> for Fault {
    fn from(err: ControlError) -> Self {
        Self::Wrong(err.0)
    }
}

type Answered = Result<Value, Fault>;

pub(crate) fn answer(
    shared: &Shared,
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Answer {
    if matches!(path, "" | "/") {
        return Answer::new(200, "text/plain; charset=utf-8", HELP);
    }
    let answered = match path.strip_prefix("/accounts/") {
        Some(rest) => account(shared, method, rest, query),
        None => route(shared, method, path, query, body),
    };
    match answered {
        Ok(value) => Answer::json(200, value.to_string()),
        Err(Fault::NotFound) => {
            Answer::json(404, json!({"error": "there is nothing here: see /_mock/"}).to_string())
        }
        Err(Fault::Wrong(error)) => Answer::json(422, json!({ "error": error }).to_string()),
    }
}

fn route(shared: &Shared, method: &Method, path: &str, query: &str, body: &[u8]) -> Answered {
    let mut state = shared.lock();
    match (method.as_str(), path) {
        ("GET", "/totals") => to_json(&state.totals()),
        ("GET", "/ledger") => to_json(&state.ledger_view(secrets(query))),
        ("GET", "/import") => to_json(&state.import()),
        ("GET", "/accounts") => {
            let names: Vec<&str> = state.accounts.iter().map(|one| one.name.as_str()).collect();
            Ok(json!({ "accounts": names }))
        }
        ("POST", "/accounts") => {
            let new: NewAccounts = from_json(body)?;
            to_json(&state.add_accounts(&new)?)
        }
        ("GET", "/clients") => {
            let ids: Vec<&str> = state.clients.iter().map(|one| one.id.as_str()).collect();
            Ok(json!({ "clients": ids }))
        }
        ("POST", "/clients") => done(state.register(from_json::<Client>(body)?)),
        ("GET", "/knobs") => to_json(&state.everywhere.knobs),
        (which @ ("PUT" | "POST"), "/knobs") => {
            let ForKnobs { account, client, knobs } = from_json(body)?;
            let scope = scope(account, client)?;
            let tuning = state.tuning(&scope).ok_or_else(|| nobody(&scope))?;
            let base = if which == "PUT" { Knobs::default() } else { tuning.knobs.clone() };
            tuning.knobs = overlaid(&base, knobs)?;
            to_json(&tuning.knobs)
        }
        ("POST", "/script") => {
            let ForScript { account, client, steps } = from_json(body)?;
            done(state.add_script(&scope(account, client)?, steps))
        }
        ("DELETE", "/script") => {
            state.forget_scripts();
            done(Ok(()))
        }
        ("POST", "/storm") => {
            let storm: Storm = if body.is_empty() { Storm::default() } else { from_json(body)? };
            state.storm = Some(storm);
            to_json(&storm)
        }
        ("DELETE", "/storm") => {
            state.storm = None;
            done(Ok(()))
        }
        ("GET", "/clock") => Ok(json!({ "now_us": state.clock.now() })),
        ("POST", "/clock") => {
            let ForClock { advance_ms, now_ms, stopped } = from_json(body)?;
            match stopped {
                Some(true) => state.clock.stop(),
                Some(false) => state.clock.run(),
                None => {}
            }
            if let Some(now) = now_ms {
                state.clock.set(now.saturating_mul(1000));
            }
            state.clock.advance(advance_ms.unwrap_or(0).saturating_mul(1000));
            Ok(json!({ "now_us": state.clock.now() }))
        }
        ("POST", "/release") => {
            drop(state);
            Ok(json!({ "released": shared.release() }))
        }
        ("POST", "/devices") => {
            let ForDevice { user_code, account } = from_json(body)?;
            let verdict = account.map_or(Verdict::Denied, |account| Verdict::Approved { account });
            if state.judge_device(&user_code, &verdict) {
                return done(Ok(()));
            }
            Err(Fault::Wrong("there is no such code".to_owned()))
        }
        ("POST", "/lookup") => {
            let ForLookup { token } = from_json(body)?;
            let found = state.find(&token).map(|at| state.token_view(at, Secrets::Hidden));
            Ok(json!({ "token": found }))
        }
        ("POST", "/reset") => {
            state.reset();
            done(Ok(()))
        }
        _ => Err(Fault::NotFound),
    }
}

fn account(shared: &Shared, method: &Method, rest: &str, query: &str) -> Answered {
    let mut state = shared.lock();
    let (name, verb) = rest.split_once('/').unwrap_or((rest, ""));
    match (method.as_str(), verb) {
        ("GET", "") => match state.account_view(name, secrets(query)) {
            Some(view) => to_json(&view),
            None => Err(nobody(&Scope::Account(name.to_owned())).into()),
        },
        ("POST", "disconnect") => Ok(json!({ "grants": state.withdraw(name)? })),
        ("POST", "expire") => Ok(json!({ "tokens": state.expire(name)? })),
        _ => Err(Fault::NotFound),
    }
}

fn secrets(query: &str) -> Secrets {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let asked = pairs.any(|(key, value)| key == "secrets" && value == "true");
    if asked { Secrets::Shown } else { Secrets::Hidden }
}

fn scope(account: Option<String>, client: Option<String>) -> Result<Scope, Fault> {
    match (account, client) {
        (Some(_), Some(_)) => Err(Fault::Wrong("either an account or a client".to_owned())),
        (Some(name), None) => Ok(Scope::Account(name)),
        (None, Some(id)) => Ok(Scope::Client(id)),
        (None, None) => Ok(Scope::All),
    }
}

/// What is given replaces what is there; null takes it away.
fn overlaid(base: &Knobs, over: Value) -> Result<Knobs, Fault> {
    let wrong = |err: serde_json::Error| Fault::Wrong(err.to_string());
    let mut value = serde_json::to_value(base).map_err(wrong)?;
    let (Value::Object(all), Value::Object(over)) = (&mut value, over) else {
        return Err(Fault::Wrong("`knobs` must be an object".to_owned()));
    };
    all.extend(over);
    let knobs: Knobs = serde_json::from_value(value).map_err(wrong)?;
    let within = |share: Option<f64>| share.is_none_or(|share| (0.0..=1.0).contains(&share));
    if !within(knobs.fault_share) {
        return Err(Fault::Wrong("`fault_share` must be from 0 to 1".to_owned()));
    }
    Ok(knobs)
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|err| Fault::Wrong(err.to_string()))
}

fn to_json(value: &impl Serialize) -> Answered {
    serde_json::to_value(value).map_err(|err| Fault::Wrong(err.to_string()))
}

fn done(result: Result<(), ControlError>) -> Answered {
    result?;
    Ok(json!({ "ok": true }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Endpoint;

    #[test]
    fn the_help_names_every_endpoint_that_a_step_may_be_for() {
        for endpoint in Endpoint::ALL {
            let word = serde_json::to_value(endpoint).unwrap();
            assert!(HELP.contains(word.as_str().unwrap()), "{word}");
        }
    }
}
