//! What a bot may ask and say.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Bot, Inner,
    answer::{Answer, Problem, json, nothing},
    metrics, stream,
};
use crate::{
    Error, HumanDuration, Timestamp, clock,
    id::RunId,
    store::{Generation, GrantKey, GrantState},
    supervisor::{Said, Supervisor},
    vault::{AccessToken, TokenVault},
};

/// Most bytes of a body.
const BODY: usize = 64 << 10;
/// A body has to come within this time.
const BODY_TIME: Duration = Duration::from_secs(10);
/// The longest that a token is waited for: a refresh may be under way.
const TOKEN_TIME: Duration = Duration::from_secs(40);
/// How long the next token is waited for where nothing is said, and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_mins(5));

pub(super) async fn answer(
    inner: &Arc<Inner>,
    supervisor: &Supervisor,
    bot: &Arc<Bot>,
    run: RunId,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (head, body) = request.into_parts();
    let parts: Vec<String> = head
        .uri
        .path()
        .split('/')
        .skip(1)
        .map(decoded)
        .collect::<Option<_>>()
        .ok_or_else(|| Problem::bad_request("the path is not percent-encoded UTF-8"))?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let ctx = Context { inner, supervisor, bot };
    let get = head.method == Method::GET;
    let post = head.method == Method::POST;
    match parts.as_slice() {
        ["v1", "tokens"] if get => ctx.tokens().await,
        ["v1", "tokens", "stream"] if get => {
            let vault = Arc::clone(ctx.vault()?);
            Ok(stream::open(Arc::clone(inner), Arc::clone(bot), run, vault))
        }
        ["v1", "token", provider, account] if get => {
            let wanted = Wanted::read(head.uri.query().unwrap_or_default())?;
            ctx.token(&ctx.own(provider, account)?, wanted).await
        }
        ["v1", "token", provider, account, "invalid"] if post => {
            let key = ctx.own(provider, account)?;
            ctx.invalid(&key, read(body).await?).await
        }
        ["v1", "metrics"] if post => ctx.metrics(body).await,
        ["v1", word @ ("ready" | "status" | "stopping" | "heartbeat" | "restart")] if post => {
            ctx.said(word, read(body).await?)
        }
        [
            "v1",
            "tokens" | "metrics" | "ready" | "status" | "stopping" | "heartbeat" | "restart",
        ]
        | ["v1", "tokens", "stream"]
        | ["v1", "token", _, _]
        | ["v1", "token", _, _, "invalid"] => Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("{} does not take {}", head.uri.path(), head.method),
            "what is asked for is a GET, what is said is a POST",
        )),
        _ => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no_such_route",
            format!("there is no route {}", head.uri.path()),
            "a token is at /v1/token/PROVIDER/ACCOUNT",
        )),
    }
}

struct Context<'a> {
    inner: &'a Inner,
    supervisor: &'a Supervisor,
    bot: &'a Bot,
}

/// What is asked of a token.
struct Wanted {
    after: Option<Generation>,
    wait: Duration,
}

#[derive(Deserialize)]
struct Invalid {
    generation: u64,
}

/// What a bot says of itself; which of it counts depends on the route.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Statement {
    status: Option<String>,
    reason: Option<String>,
    ok: Option<bool>,
}

#[derive(Serialize)]
struct Token<'a> {
    #[serde(rename = "access_token")]
    access: &'a str,
    expires_at: Option<Timestamp>,
    generation: u64,
}

#[derive(Serialize)]
struct Listed<'a> {
    provider: &'a str,
    account: &'a str,
    state: &'static str,
    expires_at: Option<Timestamp>,
    generation: u64,
}

#[derive(Serialize)]
struct List<'a> {
    tokens: Vec<Listed<'a>>,
}

impl Context<'_> {
    /// The grant, if this instance may read it.
    fn own(&self, provider: &str, account: &str) -> Result<GrantKey, Problem> {
        let refused = || Problem::no_such_token(provider, account);
        let definition = self.supervisor.definition(&self.bot.name).map_err(|_| refused())?;
        let is_it = |key: &&GrantKey| key.provider == provider && key.account == account;
        definition.tokens.iter().find(is_it).cloned().ok_or_else(refused)
    }

    fn vault(&self) -> Result<&Arc<dyn TokenVault>, Problem> {
        self.inner.options.vault.as_ref().ok_or_else(|| {
            let help = "the operator adds [vault] to the configuration";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_vault", "there is no vault", help)
        })
    }

    async fn tokens(&self) -> Result<Answer, Problem> {
        let definition = self.supervisor.definition(&self.bot.name)?;
        let mut tokens = Vec::with_capacity(definition.tokens.len());
        for key in &definition.tokens {
            let (state, expires_at, generation) = match self.vault()?.grant(key).await {
                Ok(record) => {
                    (record.status.state.name().as_str(), record.expiry.access, record.generation.0)
                }
                Err(Error::NotFound { .. }) => ("pending", None, 0),
                Err(err) => return Err(self.problem(key, err).await),
            };
            let (provider, account) = (&*key.provider, &*key.account);
            tokens.push(Listed { provider, account, state, expires_at, generation });
        }
        Ok(json(StatusCode::OK, &List { tokens }))
    }

    async fn token(&self, key: &GrantKey, wanted: Wanted) -> Result<Answer, Problem> {
        let vault = self.vault()?;
        let Some(after) = wanted.after else {
            let token = within(TOKEN_TIME, vault.token(key)).await;
            return self.shown(key, token).await;
        };
        match tokio::time::timeout(wanted.wait, vault.token_after(key, after)).await {
            Ok(token) => self.shown(key, token).await,
            Err(_) => Ok(nothing()),
        }
    }

    async fn invalid(&self, key: &GrantKey, said: Option<Invalid>) -> Result<Answer, Problem> {
        let Invalid { generation } =
            said.ok_or_else(|| Problem::bad_request("say which: {\"generation\": 3}"))?;
        let reported = self.vault()?.report_invalid(key, Generation(generation));
        self.shown(key, within(TOKEN_TIME, reported).await).await
    }

    async fn shown(
        &self,
        key: &GrantKey,
        token: crate::Result<AccessToken>,
    ) -> Result<Answer, Problem> {
        let token = match token {
            Ok(token) => token,
            Err(err) => return Err(self.problem(key, err).await),
        };
        self.inner.counts.tokens.fetch_add(1, Ordering::Relaxed);
        let shown = Token {
            access: token.token.expose_secret(),
            expires_at: token.expires_at,
            generation: token.generation.0,
        };
        Ok(json(StatusCode::OK, &shown))
    }

    /// Why there is no token, by the state of its grant.
    async fn problem(&self, key: &GrantKey, err: Error) -> Problem {
        if let Error::NotFound { .. } = err {
            return Problem::needs_reauth(key, "it was not authorized yet");
        }
        if !matches!(err, Error::WrongState { .. }) {
            return err.into();
        }
        let Ok(vault) = self.vault() else { return err.into() };
        match vault.grant(key).await.map(|record| record.status.state) {
            Ok(GrantState::NeedsReauth { reason, .. } | GrantState::Revoked { reason, .. }) => {
                Problem::needs_reauth(key, &reason)
            }
            Ok(GrantState::Pending { .. }) => {
                Problem::needs_reauth(key, "it was not authorized yet")
            }
            Ok(GrantState::Fenced { reason, .. }) => Problem::new(
                StatusCode::CONFLICT,
                "fenced",
                format!("{key} is not used before it was probed or adopted: {reason}"),
                format!("the operator decides: kissops vault adopt {key}"),
            ),
            // The grant is well: it is the vault that is not.
            _ => {
                let problem = Problem::from(err);
                Problem { status: StatusCode::SERVICE_UNAVAILABLE, ..problem }
            }
        }
    }

    async fn metrics(&self, body: Incoming) -> Result<Answer, Problem> {
        let bytes = bytes(body, metrics::LARGEST).await?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Problem::bad_request("metrics are text in UTF-8"))?;
        // A label may hold anything that a bot has in its hands.
        let text = self.inner.options.redactor.current().mask_str(text).into_owned();
        let read = metrics::parse(&text, clock::now()).map_err(Problem::bad_request)?;
        *self.bot.metrics.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        Ok(nothing())
    }

    fn said(&self, word: &str, said: Option<Statement>) -> Result<Answer, Problem> {
        let (name, said) = (&self.bot.name, said.unwrap_or_default());
        match word {
            "heartbeat" if said.ok == Some(false) => self.supervisor.say(name, Said::Stuck)?,
            "heartbeat" => self.supervisor.beat(name)?,
            "stopping" => self.supervisor.say(name, Said::Stopping)?,
            "restart" => {
                let reason = said.reason.unwrap_or_default();
                let Said::Status(reason) = Said::status(&reason) else { return Ok(nothing()) };
                self.supervisor.request_restart(name, &reason)?;
                let mut accepted = nothing();
                *accepted.status_mut() = StatusCode::ACCEPTED;
                return Ok(accepted);
            }
            "ready" => {
                if let Some(text) = &said.status {
                    self.supervisor.say(name, Said::status(text))?;
                }
                self.supervisor.say(name, Said::Ready)?;
            }
            _ => {
                let text = said
                    .status
                    .ok_or_else(|| Problem::bad_request("say it: {\"status\": \"…\"}"))?;
                self.supervisor.say(name, Said::status(&text))?;
            }
        }
        Ok(nothing())
    }
}

impl Wanted {
    fn read(query: &str) -> Result<Self, Problem> {
        let mut wanted = Self { after: None, wait: WAIT.0 };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let refused = || Problem::bad_request("a token takes ?after=GENERATION&wait=30s");
            let (key, value) = pair.split_once('=').ok_or_else(refused)?;
            match key {
                "after" => {
                    wanted.after = Some(Generation(value.parse().map_err(|_| refused())?));
                }
                "wait" => {
                    let HumanDuration(wait) = value.parse().map_err(|_| refused())?;
                    wanted.wait = wait.min(WAIT.1);
                }
                _ => return Err(refused()),
            }
        }
        Ok(wanted)
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = crate::Result<T>>,
) -> crate::Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Error::Timeout { what: "waiting for the token".into(), limit }))
}

/// The body as JSON; `None` where there is none.
async fn read<T: DeserializeOwned>(body: Incoming) -> Result<Option<T>, Problem> {
    let bytes = bytes(body, BODY).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    // What serde says quotes no values of strings, but what is not JSON at all may be anything: its place will do.
    serde_json::from_slice(&bytes).map(Some).map_err(|err| {
        let place = format!("line {}, column {}", err.line(), err.column());
        Problem::bad_request(format!(
            "the body is not the JSON object that is expected here: {place}"
        ))
    })
}

async fn bytes(body: Incoming, most: usize) -> Result<Bytes, Problem> {
    let collected = tokio::time::timeout(BODY_TIME, Limited::new(body, most).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(err)) if err.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body has more than {most} bytes"),
            "say less at once",
        )),
        Ok(Err(_)) => Err(Problem::bad_request("the body broke off")),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "too_slow",
            format!("the body did not come within {}", HumanDuration(BODY_TIME)),
            "send it at once",
        )),
    }
}

/// A part of a path, percent-decoded.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (code, after) = after.split_at_checked(2)?;
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|n| u8::try_from(n).ok());
        bytes.push(digit(code.first()?)? << 4 | digit(code.last()?)?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once_and_wholly() {
        assert_eq!(decoded("a%2Fb%c3%a4").as_deref(), Some("a/b\u{e4}"));
        assert_eq!(decoded("%2541").as_deref(), Some("%41"));
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_wanted_is_bounded() {
        let wanted = Wanted::read("after=3&wait=2h").unwrap();
        assert_eq!((wanted.after, wanted.wait), (Some(Generation(3)), Duration::from_mins(5)));
        assert!(Wanted::read("").unwrap().after.is_none());
        for bad in ["after=x", "wait=30", "before=1", "after"] {
            assert!(Wanted::read(bad).is_err(), "{bad}");
        }
    }
}
