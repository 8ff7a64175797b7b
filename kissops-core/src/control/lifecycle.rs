//! The daemon itself: is it alive, is it ready, and its end.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Problem, Verdict, query::JsonBody};
use crate::{Error, fleet::Fleet, store::EventQuery, supervisor::Leave};

/// The answer of a probe.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// `pass`; a failing probe answers 503 and a problem.
    pub status: Verdict,
}

const PASS: Json<Probe> = Json(Probe { status: Verdict::Pass });

/// The store has to answer a readiness probe within this time.
const STORE_LIMIT: Duration = Duration::from_secs(2);

/// The daemon answers.
#[utoipa::path(get, path = "/livez", responses((status = 200, body = Probe)))]
pub(super) async fn live() -> Json<Probe> {
    PASS
}

/// The daemon and its store answer.
#[utoipa::path(get, path = "/readyz",
    responses((status = 200, body = Probe), (status = 503, body = Problem)))]
pub(super) async fn ready(State(fleet): State<Fleet>) -> Result<Json<Probe>, Problem> {
    let query = fleet.store().events(EventQuery { limit: 1, ..EventQuery::default() });
    match tokio::time::timeout(STORE_LIMIT, query).await {
        Ok(Ok(_)) => Ok(PASS),
        Ok(Err(err)) => Err(not_ready(&err)),
        Err(_) => {
            Err(not_ready(&Error::Timeout { what: "the store".to_owned(), limit: STORE_LIMIT }))
        }
    }
}

fn not_ready(err: &Error) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        err.chain(),
        "look at the disk that holds the store",
    )
}

/// The daemon has taken over the fleet; it answers nothing before that.
#[utoipa::path(get, path = "/startupz", responses((status = 200, body = Probe)))]
pub(super) async fn started() -> Json<Probe> {
    PASS
}

/// How the daemon is to end.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// Leave the instances running, for the next daemon to take over.
    pub leave_running: bool,
}

/// The request was taken; its effect follows.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// `true`.
    pub ok: bool,
    /// The daemon's process.
    pub pid: u32,
}

/// Ends the daemon, after its instances unless they are to be left running.
#[utoipa::path(post, path = "/v1/stop", request_body = StopRequest,
    responses((status = 202, body = Accepted), (status = "default", body = Problem)))]
pub(super) async fn stop(
    State(fleet): State<Fleet>,
    JsonBody(request): JsonBody<StopRequest>,
) -> (StatusCode, Json<Accepted>) {
    fleet.request_stop(if request.leave_running { Leave::Running } else { Leave::Stopped });
    (StatusCode::ACCEPTED, Json(Accepted { ok: true, pid: std::process::id() }))
}
