//! A bot's side of its socket under `kissopsd`: tokens, and what it says beside readiness. HTTP/1.1, one request a
//! connection, over `KISSOPS_SOCKET`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Write as _},
    io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{Error, HumanDuration, Result, Timestamp, limit::Priority};

/// The longest that an answer may take beyond what was to be waited for.
const LIMIT: Duration = Duration::from_mins(1);
/// A daemon that is being restarted is waited for.
const CONNECT: Duration = Duration::from_secs(10);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest answer, with its head.
const LARGEST: u64 = 256 << 10;

/// An access token, as the supervisor hands it out.
#[derive(Clone)]
pub struct BotToken {
    /// The token.
    pub token: SecretString,
    /// When it expires, as far as the provider has told.
    pub expires_at: Option<Timestamp>,
    /// Which of the grant's tokens it is: to be named when it is reported as invalid.
    pub generation: u64,
}

impl fmt::Debug for BotToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BotToken")
            .field("token", &"***")
            .field("expires_at", &self.expires_at)
            .field("generation", &self.generation)
            .finish()
    }
}

/// What the supervisor answers; the text is a secret until it is known to be none.
struct Answer {
    status: u16,
    body: SecretSlice<u8>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(rename = "access_token")]
    access: SecretString,
    expires_at: Option<Timestamp>,
    generation: u64,
}

#[derive(Deserialize)]
struct Judged {
    allowed: bool,
    #[serde(default)]
    wait_seconds: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
    help: String,
}

/// The socket, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    address: Option<PathBuf>,
}

impl Client {
    /// `value` is that of `KISSOPS_SOCKET`: a path, or an abstract name after an `@`.
    pub(super) fn new(value: Option<OsString>) -> Self {
        let address = value.filter(|value| !value.is_empty()).map(|value| {
            let mut bytes = value.into_vec();
            if let Some(first) = bytes.first_mut().filter(|first| **first == b'@') {
                // How the kernel marks abstract names.
                *first = 0;
            }
            PathBuf::from(OsString::from_vec(bytes))
        });
        Self { address }
    }

    pub(super) fn is_there(&self) -> bool {
        self.address.is_some()
    }

    pub(super) async fn token(&self, provider: &str, account: &str) -> Result<BotToken> {
        let answer = self.ask("GET", &path(provider, account, ""), b"", LIMIT).await?;
        answer.token(provider, account)
    }

    pub(super) async fn token_after(
        &self,
        provider: &str,
        account: &str,
        generation: u64,
        wait: Duration,
    ) -> Result<Option<BotToken>> {
        let query = format!("?after={generation}&wait={}", HumanDuration(wait));
        let path = path(provider, account, &query);
        let answer = self.ask("GET", &path, b"", wait.saturating_add(LIMIT)).await?;
        if answer.status == 204 {
            return Ok(None);
        }
        answer.token(provider, account).map(Some)
    }

    pub(super) async fn invalid(
        &self,
        provider: &str,
        account: &str,
        generation: u64,
    ) -> Result<BotToken> {
        let body = format!("{{\"generation\":{generation}}}");
        let path = path(provider, account, "/invalid");
        let answer = self.ask("POST", &path, body.as_bytes(), LIMIT).await?;
        answer.token(provider, account)
    }

    /// Says something to which there is no answer but that it was heard.
    pub(super) async fn say(&self, path: &str, body: &[u8]) -> Result<()> {
        if self.address.is_none() {
            return Ok(());
        }
        let answer = self.ask("POST", path, body, LIMIT).await?;
        if answer.status < 300 { Ok(()) } else { Err(answer.error(path)) }
    }

    pub(super) async fn limit(
        &self,
        provider: &str,
        key: &str,
        cost: u32,
        priority: Priority,
        wait: Duration,
    ) -> Result<bool> {
        if self.address.is_none() {
            return Ok(true);
        }
        let wish =
            json!({ "cost": cost, "priority": priority.as_str(), "wait": HumanDuration(wait) });
        let path = limit_path(provider, key, "");
        let limit = wait.saturating_add(LIMIT);
        let answer = self.ask("POST", &path, wish.to_string().as_bytes(), limit).await?;
        match answer.status {
            200 => Ok(true),
            429 => Ok(false),
            _ => Err(answer.error(&path)),
        }
    }

    pub(super) async fn answered(
        &self,
        provider: &str,
        key: &str,
        status: u16,
        headers: &[(&str, &str)],
    ) -> Result<()> {
        let told: BTreeMap<&str, &str> =
            headers.iter().copied().filter(|(name, _)| is_about_limits(name)).collect();
        let body = json!({ "status": status, "headers": told }).to_string();
        self.say(&limit_path(provider, key, "/answered"), body.as_bytes()).await
    }

    pub(super) async fn cooldown(
        &self,
        user: &str,
        command: &str,
        length: Duration,
    ) -> Result<Option<Duration>> {
        if self.address.is_none() {
            return Ok(None);
        }
        let path = "/v1/cooldown";
        let said = json!({ "user": user, "command": command, "length": HumanDuration(length) });
        let answer = self.ask("POST", path, said.to_string().as_bytes(), LIMIT).await?;
        if answer.status != 200 {
            return Err(answer.error(path));
        }
        let Some(Judged { allowed, wait_seconds }) = answer.read() else {
            let what = "the supervisor's answer";
            return Err(Error::unavailable(what)("it judges no cool-down".to_owned()));
        };
        Ok((!allowed).then(|| Duration::try_from_secs_f64(wait_seconds).unwrap_or_default()))
    }

    async fn ask(&self, method: &str, path: &str, body: &[u8], limit: Duration) -> Result<Answer> {
        let Some(address) = &self.address else {
            return Err(Error::WrongState {
                what: "this program".into(),
                state: "not run by kissopsd: KISSOPS_SOCKET is not set".into(),
                help: "run it as an instance, or give it a token in another way".into(),
            });
        };
        let name = address.as_os_str().as_bytes();
        let shown = String::from_utf8_lossy(name.strip_prefix(b"\0").unwrap_or(name)).into_owned();
        let work = async {
            let mut stream = connect(address).await?;
            let length = body.len();
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: kissops\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            stream.write_all(&[head.as_bytes(), body].concat()).await?;
            let mut text = Vec::new();
            (&mut stream).take(LARGEST).read_to_end(&mut text).await?;
            parse(&text)
        };
        match tokio::time::timeout(limit, work).await {
            Ok(answer) => answer.map_err(Error::unavailable(format!("the supervisor at {shown}"))),
            Err(_) => Err(Error::Timeout { what: format!("an answer of {shown}"), limit }),
        }
    }
}

async fn connect(address: &PathBuf) -> io::Result<UnixStream> {
    let deadline = tokio::time::Instant::now() + CONNECT;
    loop {
        match UnixStream::connect(address).await {
            Err(err)
                if matches!(
                    err.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::WouldBlock
                ) && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// A whole answer, up to the end of the connection.
fn parse(text: &[u8]) -> io::Result<Answer> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let end = text
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or_else(|| wrong("its answer broke off"))?;
    let (head, body) = text.split_at(end);
    let body = body.get(4..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| wrong("its answer is not HTTP"))?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| wrong("its answer is not HTTP/1.1"))?;
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().ok();
        }
    }
    // 204 has none.
    if length.unwrap_or(0) != body.len() {
        return Err(wrong("its answer broke off"));
    }
    Ok(Answer { status, body: body.to_vec().into() })
}

impl Answer {
    fn token(&self, provider: &str, account: &str) -> Result<BotToken> {
        if self.status != 200 {
            return Err(self.error(&format!("{provider}/{account}")));
        }
        let Some(Token { access: token, expires_at, generation }) = self.read() else {
            let what = "the supervisor's answer";
            return Err(Error::unavailable(what)("it is not a token".to_owned()));
        };
        Ok(BotToken { token, expires_at, generation })
    }

    fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(self.body.expose_secret()).ok()
    }

    /// Sorted by what the caller does next.
    fn error(&self, what: &str) -> Error {
        let Problem { code, detail, help } = self.read().unwrap_or_default();
        match self.status {
            403 => Error::Denied { what: detail, help },
            404 => Error::NotFound { what: detail },
            409 => Error::WrongState { what: what.to_owned(), state: code, help },
            400 | 405 | 413 => Error::invalid(what.to_owned(), detail),
            _ => Error::unavailable(what.to_owned())(format!("{} ({detail})", self.status)),
        }
    }
}

fn path(provider: &str, account: &str, rest: &str) -> String {
    format!("/v1/token/{}/{}{rest}", encoded(provider), encoded(account))
}

fn limit_path(provider: &str, key: &str, rest: &str) -> String {
    format!("/v1/limit/{}/{}{rest}", encoded(provider), encoded(key))
}

/// Other headers may hold secrets, and say nothing of limits.
fn is_about_limits(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "retry-after" || name.strip_prefix("x-").unwrap_or(&name).starts_with("ratelimit-")
}

fn encoded(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_refused() {
        let good = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(good).unwrap().status, 200);
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().status, 204);
        for end in 0..good.len() {
            assert!(parse(&good[..end]).is_err(), "{end}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{} ").is_err());
    }

    #[test]
    fn names_are_encoded_for_a_path() {
        assert_eq!(path("own", "a/b \u{e4}", "/invalid"), "/v1/token/own/a%2Fb%20%C3%A4/invalid");
    }

    #[test]
    fn a_problem_says_what_to_do_next() {
        let body = br#"{"code":"needs_reauth","detail":"x","help":"do y"}"#.to_vec();
        let err = Answer { status: 409, body: body.into() }.error("twitch/a");
        assert!(
            matches!(&err, Error::WrongState { state, help, .. } if state == "needs_reauth" && help == "do y"),
            "{err:?}"
        );
    }

    #[tokio::test]
    async fn without_a_supervisor_there_is_no_token_and_nobody_to_tell() {
        let client = Client::new(None);
        assert!(matches!(client.token("a", "b").await, Err(Error::WrongState { .. })));
        client.say("/v1/heartbeat", b"").await.unwrap();
    }
}
