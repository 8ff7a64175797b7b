//! What requests carry, checked: queries, JSON bodies, targets, points in time.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::Problem;
use crate::{
    Error, HumanDuration, Result, Timestamp, clock,
    fleet::Fleet,
    id::InstanceName,
    store::EventQuery,
    supervisor::{
        InstanceStatus,
        select::{Candidate, select},
    },
};

/// The largest request body, in bytes.
const BODY_LIMIT: usize = 1 << 20;
/// The longest that a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A query string as a `T`.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let axum::extract::Query(value) =
            axum::extract::Query::<T>::from_request_parts(parts, state)
                .await
                .map_err(|err| Problem::bad_request(err.body_text()))?;
        Ok(Self(value))
    }
}

/// A JSON body as a `T`: of type `application/json`, at most 1 MiB, sent within 10 s.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = json(request).await?;
        let value = serde_json::from_slice(&bytes).map_err(|err| {
            Problem::bad_request(format!("the body is not what it should be: {err}"))
        })?;
        Ok(Self(value))
    }
}

/// As [`JsonBody`], for bodies that may hold secrets: what is wrong is told by its place, nothing of it is quoted. No body
/// is as good as `{}`.
#[cfg(feature = "vault")]
pub(super) struct SecretBody<T>(pub(super) T);

#[cfg(feature = "vault")]
impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for SecretBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = json(request).await?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let value = serde_json::from_slice(bytes).map_err(|err| {
            let what = match err.classify() {
                serde_json::error::Category::Data => {
                    "a member is missing, unknown or of another type"
                }
                _ => "it is no JSON",
            };
            let (line, column) = (err.line(), err.column());
            Problem::bad_request(format!(
                "the body is not what it should be: {what}, at line {line} column {column}"
            ))
        })?;
        Ok(Self(value))
    }
}

/// The longest that a request to the vault may take; what it has begun goes on.
#[cfg(feature = "vault")]
const SLOW: Duration = Duration::from_mins(2);

/// The answer of `work`, unless it takes too long.
#[cfg(feature = "vault")]
pub(super) async fn within<T>(
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<axum::Json<T>, Problem> {
    match tokio::time::timeout(SLOW, work).await {
        Ok(done) => Ok(axum::Json(done?)),
        Err(_) => Err(Error::Timeout { what: what.into(), limit: SLOW }.into()),
    }
}

/// The body of a request that says it is JSON.
async fn json(request: Request) -> Result<axum::body::Bytes, Problem> {
    // A page in a browser cannot send this type to a foreign origin unasked.
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_json = kind.is_some_and(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json")
    });
    if !is_json {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body is not declared as JSON",
            "send the header Content-Type: application/json",
        ));
    }
    read(request.into_body()).await
}

async fn read(body: Body) -> Result<axum::body::Bytes, Problem> {
    match tokio::time::timeout(BODY_TIME, to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body is broken or has more than {BODY_LIMIT} bytes"),
            "send less at once",
        )),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            format!("the body did not come within {BODY_TIME:?}"),
            "send it at once",
        )),
    }
}

/// A point in time as people write it: RFC 3339, or a span before `now` such as `10m`.
///
/// # Errors
/// [`InvalidConfig`](Error::InvalidConfig), which names `key`, if it is neither.
pub fn moment(key: &str, text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let span: HumanDuration = text.parse().map_err(|_| {
        let rule = format!("`{text}` is neither like 2026-11-20T03:04:05Z nor like 10m");
        Error::invalid(key, rule)
    })?;
    Ok(now.minus(span.0))
}

/// [`moment`] of an optional parameter, now.
pub(super) fn when(key: &str, text: Option<&String>) -> Result<Option<Timestamp>, Problem> {
    let at = text.map(|text| moment(key, text, clock::now())).transpose();
    at.map_err(|err| Problem::bad_request(err.to_string()))
}

/// The words of a comma-separated parameter.
pub(super) fn words(text: Option<&String>) -> Vec<String> {
    let parts = text.into_iter().flat_map(|text| text.split(','));
    parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The instances among `statuses` that `targets` mean.
pub(super) fn choose(
    statuses: &[InstanceStatus],
    targets: &[String],
) -> Result<Vec<InstanceName>, Problem> {
    let candidates: Vec<_> =
        statuses.iter().map(|s| Candidate { name: &s.name, tags: &s.tags }).collect();
    select(targets, &candidates).map_err(|err| match err {
        Error::InvalidConfig { .. } => Problem::bad_request(err.to_string()),
        _ => err.into(),
    })
}

/// [`choose`], and also a name that is gone from the fleet but not from its history.
pub(super) async fn choose_past(
    fleet: &Fleet,
    targets: &[String],
) -> Result<Vec<InstanceName>, Problem> {
    let statuses = fleet.status();
    let mut chosen = Vec::new();
    for target in targets {
        match choose(&statuses, std::slice::from_ref(target)) {
            Ok(names) => chosen.extend(names),
            Err(problem) => match InstanceName::new(target) {
                Ok(name) if has_history(fleet, &name).await? => chosen.push(name),
                _ => return Err(problem),
            },
        }
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}

async fn has_history(fleet: &Fleet, name: &InstanceName) -> Result<bool, Problem> {
    let query = EventQuery { instances: vec![name.clone()], limit: 1, ..EventQuery::default() };
    Ok(!fleet.store().events(query).await?.is_empty())
}
