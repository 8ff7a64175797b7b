//! Answers on a bot's socket: JSON, and what went wrong as problem details (RFC 9457) with a `code` for programs.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http_body_util::{Either, Full};
use hyper::{
    Response, StatusCode,
    body::{Body, Bytes, Frame},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{Error, store::GrantKey};

pub(super) type Answer = Response<Either<Full<Bytes>, Lines>>;

/// A body that comes bit by bit.
pub(super) struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Why a request was not carried out.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) detail: String,
    pub(super) help: String,
}

/// RFC 9457.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    detail: &'a str,
    code: &'a str,
    help: &'a str,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { status, code, detail: detail.into(), help: help.into() }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail, "mend the request")
    }

    /// The same for a grant that is not there and for one that is not this instance's.
    pub(super) fn no_such_token(provider: &str, account: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_token",
            format!("this instance has no token {provider}/{account}"),
            "GET /v1/tokens lists those that it has; tokens = [\"provider/account\"] in its definition adds one",
        )
    }

    pub(super) fn needs_reauth(key: &GrantKey, why: &str) -> Self {
        let colon = if why.is_empty() { "" } else { ": " };
        Self::new(
            StatusCode::CONFLICT,
            "needs_reauth",
            format!("{key} needs a new authorization{colon}{why}"),
            format!(
                "its owner can give it: kissops token authorize {} {}",
                key.provider, key.account
            ),
        )
    }

    pub(super) fn answer(&self) -> Answer {
        let shown = Shown {
            kind: format!("urn:kissops:problem:{}", self.code),
            title: self.code.replace('_', " "),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            help: &self.help,
        };
        let mut answer = json(self.status, &shown);
        let kind = HeaderValue::from_static("application/problem+json");
        answer.headers_mut().insert(CONTENT_TYPE, kind);
        answer
    }
}

impl From<Error> for Problem {
    fn from(err: Error) -> Self {
        let (status, help) = match &err {
            Error::WrongState { what, state, help } => {
                let detail = format!("{what} is {state}");
                return Self::new(StatusCode::CONFLICT, err.code(), detail, help.clone());
            }
            Error::NotFound { .. } => (StatusCode::NOT_FOUND, "look for a slip in the name"),
            Error::InvalidConfig { .. } => (StatusCode::BAD_REQUEST, "mend the request"),
            Error::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "try again"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "try again in a moment"),
        };
        Self::new(status, err.code(), err.chain(), help)
    }
}

/// What is answered may be a token: nobody is to keep it.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = of_kind("application/json", Either::Left(Full::new(Bytes::from(text))));
    *answer.status_mut() = status;
    answer
}

/// One JSON value in each line, as they come.
pub(super) fn lines(lines: mpsc::Receiver<Bytes>) -> Answer {
    of_kind("application/x-ndjson", Either::Right(Lines(lines)))
}

fn of_kind(kind: &'static str, body: Either<Full<Bytes>, Lines>) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

pub(super) fn nothing() -> Answer {
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}
