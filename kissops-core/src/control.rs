//! The HTTP API over a [`Fleet`](crate::fleet::Fleet): a router to mount, and the unix socket that serves it.
//!
//! Everything that a request or an answer may hold is a public type here, so a client of the API parses with the
//! types that the server writes with. Errors are [`Problem`] details (RFC 9457). Ids of records are text in JSON: they
//! have 63 bits, of which a JavaScript number would lose ten.

mod action;
mod api;
#[cfg(feature = "vault")]
mod event;
#[cfg(feature = "vault")]
mod incident;
mod instance;
mod lifecycle;
#[cfg(feature = "vault")]
mod local;
mod log;
mod member;
#[cfg(feature = "vault")]
mod metrics;
mod problem;
mod query;
mod reload;
#[cfg(feature = "vault")]
mod secret;
mod serve;
mod status;
#[cfg(feature = "vault")]
mod token;
#[cfg(feature = "vault")]
mod users;
#[cfg(feature = "vault")]
mod vault;

use std::time::{Duration, Instant};

#[cfg(feature = "vault")]
use axum::extract::FromRef;
use axum::{
    Json, Router,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use utoipa::OpenApi;

use crate::Error;

pub use action::{Action, ActionRequest, ActionResult, ActionResults, Failure};
pub use api::Api;
pub use event::{Crash, CrashUsage, Crashes, Event, Events};
pub use instance::InstanceDetail;
pub use lifecycle::{Accepted, Probe, StopRequest};
#[cfg(feature = "vault")]
pub use local::LocalVault;
pub use log::{LogFailure, LogRequest};
pub use member::{Member, MemberRequest, Members};
pub use problem::Problem;
pub use query::moment;
pub use reload::ReloadRequest;
pub use serve::{Closing, ControlSocket, Peer, SOCKET_NAME, client, serve_unix};
pub use status::{FleetInfo, Status, Verdict};

/// The longest that an ordinary request may take. Streams and waits have limits of their own.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The API, to be mounted at the root. Whoever reaches it may do everything: guard it as [`serve_unix`] does.
pub fn router(api: impl Into<Api>) -> Router {
    let mut quick = Router::new();
    for (path, method_router) in routes() {
        quick = quick.route(path, method_router);
    }
    let mut slow = Router::new();
    for (path, method_router) in slow_routes() {
        slow = slow.route(path, method_router);
    }
    quick
        .layer(middleware::from_fn(limit))
        .merge(slow)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .fallback(problem::no_such_route)
        .layer(middleware::from_fn(trace))
        .with_state(api.into())
}

/// What is answered at once, or not within [`REQUEST_LIMIT`].
fn routes() -> Vec<(&'static str, MethodRouter<Api>)> {
    let mut routes = vec![
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
    ];
    #[cfg(feature = "vault")]
    routes.extend(vault_routes());
    #[cfg(feature = "vault")]
    routes.push(("/metrics", get(metrics::metrics)));
    routes
}

/// What waits for instances or providers, each with a limit of its own.
fn slow_routes() -> Vec<(&'static str, MethodRouter<Api>)> {
    let mut routes = vec![("/v1/instances/actions", post(action::act))];
    #[cfg(feature = "vault")]
    routes.extend(vault_slow_routes());
    routes
}

#[cfg(feature = "vault")]
fn vault_routes<S>() -> Vec<(&'static str, MethodRouter<S>)>
where
    S: Clone + Send + Sync + 'static,
    api::VaultSide: FromRef<S>,
{
    [token::routes(), secret::routes(), vault::routes()].into_iter().flatten().collect()
}

#[cfg(feature = "vault")]
fn vault_slow_routes<S>() -> Vec<(&'static str, MethodRouter<S>)>
where
    S: Clone + Send + Sync + 'static,
    api::VaultSide: FromRef<S>,
{
    [token::slow_routes(), vault::slow_routes(), incident::slow_routes()]
        .into_iter()
        .flatten()
        .collect()
}

/// The paths of all routes, as the router matches them.
pub fn paths() -> impl Iterator<Item = &'static str> {
    routes().into_iter().chain(slow_routes()).map(|(path, _)| path)
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

#[cfg(feature = "vault")]
#[derive(OpenApi)]
#[openapi(paths(
    token::list,
    token::show,
    token::remove,
    token::import,
    token::refresh,
    token::revoke,
    token::bind,
    token::reveal,
    secret::list,
    secret::set,
    secret::generate,
    secret::rotate,
    secret::age,
    secret::remove,
    secret::reveal,
    vault::status,
    vault::rotate,
    vault::adopt,
    vault::authorize,
    vault::authorization,
    vault::give_up,
    incident::revoke,
    metrics::metrics,
))]
struct VaultDoc;

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI")))]
async fn openapi() -> Response {
    let document = ApiDoc::openapi();
    #[cfg(feature = "vault")]
    let document = document.merge_from(VaultDoc::openapi());
    Json(document).into_response()
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
