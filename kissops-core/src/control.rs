//! The HTTP API over a [`Fleet`]: a router to mount, and the unix socket that serves it.
//!
//! Everything that a request or an answer may hold is a public type here, so a client of the API parses with the
//! types that the server writes with. Errors are [`Problem`] details (RFC 9457). Ids of records are text in JSON: they
//! have 63 bits, of which a JavaScript number would lose ten.

mod action;
mod event;
mod instance;
mod lifecycle;
mod log;
mod member;
mod problem;
mod query;
mod reload;
mod serve;
mod status;

use std::time::{Duration, Instant};

use axum::{
    Json, Router,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use utoipa::OpenApi;

use crate::{Error, fleet::Fleet};

pub use action::{Action, ActionRequest, ActionResult, ActionResults, Failure};
pub use event::{Crash, CrashUsage, Crashes, Event, Events};
pub use instance::InstanceDetail;
pub use lifecycle::{Accepted, Probe, StopRequest};
pub use log::{LogFailure, LogRequest};
pub use member::{Member, MemberRequest, Members};
pub use problem::Problem;
pub use query::moment;
pub use reload::ReloadRequest;
pub use serve::{Closing, ControlSocket, Peer, SOCKET_NAME, serve_unix};
pub use status::{FleetInfo, Status, Verdict};

/// The longest that an ordinary request may take. Streams and waits have limits of their own.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The API, to be mounted at the root. Whoever reaches it may do everything: guard it as [`serve_unix`] does.
pub fn router(fleet: Fleet) -> Router {
    let mut router = Router::new();
    for (path, method_router) in routes() {
        router = router.route(path, method_router);
    }
    router
        .layer(middleware::from_fn(limit))
        .merge(Router::new().route(ACTIONS, post(action::act)))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .fallback(problem::no_such_route)
        .layer(middleware::from_fn(trace))
        .with_state(fleet)
}

/// Answers when the instances have got there, which may take longer than [`REQUEST_LIMIT`].
const ACTIONS: &str = "/v1/instances/actions";

fn routes() -> Vec<(&'static str, MethodRouter<Fleet>)> {
    vec![
        ("/livez", get(lifecycle::live)),
        ("/readyz", get(lifecycle::ready)),
        ("/startupz", get(lifecycle::started)),
        ("/v1/openapi.json", get(openapi)),
        ("/v1/status", get(status::status)),
        ("/v1/instances/{name}", get(instance::detail)),
        ("/v1/definitions", get(instance::definitions)),
        ("/v1/events", get(event::events)),
        ("/v1/crashes", get(event::crashes)),
        ("/v1/logs", get(log::logs)),
        ("/v1/members", get(member::list).post(member::add)),
        ("/v1/members/{name}", delete(member::remove)),
        ("/v1/reload", post(reload::reload)),
        ("/v1/stop", post(lifecycle::stop)),
    ]
}

/// The paths of all routes, as the router matches them.
pub fn paths() -> impl Iterator<Item = &'static str> {
    routes().into_iter().map(|(path, _)| path).chain([ACTIONS])
}

#[derive(OpenApi)]
#[openapi(
    info(title = "kissops", description = "Control of a fleet of bots."),
    paths(
        lifecycle::live,
        lifecycle::ready,
        lifecycle::started,
        lifecycle::stop,
        openapi,
        status::status,
        instance::detail,
        instance::definitions,
        action::act,
        event::events,
        event::crashes,
        log::logs,
        member::list,
        member::add,
        member::remove,
        reload::reload,
    )
)]
struct ApiDoc;

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI")))]
async fn openapi() -> Response {
    Json(ApiDoc::openapi()).into_response()
}

async fn limit(request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    match tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::from(Error::Timeout { what, limit: REQUEST_LIMIT }).into_response(),
    }
}

async fn trace(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    tracing::debug!(
        %method,
        path,
        status = response.status().as_u16(),
        elapsed_ms = begun.elapsed().as_secs_f64() * 1e3,
        "control request"
    );
    response
}
