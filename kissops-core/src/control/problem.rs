//! [`Problem`]: an error as the API tells it, see RFC 9457.

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Error;

/// Problem details (RFC 9457, `application/problem+json`) with two members more: `code` for programs, `help` for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URI of this kind of problem; ends with `code`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: Box<str>,
    /// The kind in words.
    #[schema(value_type = String)]
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// A short stable word.
    pub code: String,
    /// What to do next.
    pub help: String,
    /// The errors of a configuration file, as `kissops check --json` lists them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub errors: Option<Box<serde_json::Value>>,
}

impl Problem {
    /// A problem of that code.
    #[must_use]
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>, help: &str) -> Self {
        Self {
            kind: format!("urn:kissops:problem:{code}").into(),
            title: code.replace('_', " ").into(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            help: help.to_owned(),
            errors: None,
        }
    }

    /// The request itself is wrong.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        let help = "see /v1/openapi.json for what this route takes";
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail, help)
    }
}

impl From<Error> for Problem {
    fn from(err: Error) -> Self {
        let (status, help) = advice(&err);
        if status.is_server_error() {
            tracing::warn!(error = %err.chain(), "a control request failed");
        }
        let detail = match &err {
            // Their help stands by itself here.
            Error::WrongState { what, state, .. } => format!("{what} is {state}"),
            Error::Denied { what, .. } => what.clone(),
            err => err.chain(),
        };
        Self::new(status, err.code(), detail, &help)
    }
}

/// The HTTP status of an error, and what to do next.
fn advice(err: &Error) -> (StatusCode, String) {
    let (status, help) = match err {
        Error::Conflict { .. } => {
            (StatusCode::CONFLICT, "look at the present state before trying again: kissops status")
        }
        Error::NotFound { .. } => (StatusCode::NOT_FOUND, "kissops status lists what there is"),
        Error::Unavailable { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "try again; kissops doctor looks for the cause")
        }
        // Like a time-out, not "try again": who asks a second time may get it twice.
        Error::Uncertain { .. } => (
            StatusCode::GATEWAY_TIMEOUT,
            "look whether it was done before you try again: kissops status, kissops events",
        ),
        Error::InvalidConfig { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "mend the value and try again")
        }
        Error::WrongState { help, .. } => return (StatusCode::CONFLICT, help.clone()),
        Error::Denied { help, .. } => return (StatusCode::FORBIDDEN, help.clone()),
        Error::Timeout { .. } => {
            (StatusCode::GATEWAY_TIMEOUT, "it may still happen: kissops status, kissops events")
        }
        Error::Closed { .. } => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the daemon is shutting down; try again once it is back",
        ),
        Error::Corrupt { .. } => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "stop the daemon and look at the file before anything else writes to it",
        ),
        Error::Io { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, "kissops doctor checks folders and rights")
        }
    };
    (status, help.to_owned())
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

pub(super) async fn no_such_route(uri: Uri) -> Problem {
    let detail = format!("there is no route {}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", detail, "see /v1/openapi.json")
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}", uri.path());
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        detail,
        "the Allow header lists what it takes",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_is_not_answered_with_try_again() {
        let err = Error::Uncertain { what: "the store".into(), source: "the line broke".into() };
        let problem = Problem::from(err);
        assert_eq!((problem.status, problem.code.as_str()), (504, "uncertain"));
        assert!(problem.help.contains("look whether"), "{}", problem.help);
        assert!(problem.detail.ends_with("the line broke"), "{}", problem.detail);
    }
}
