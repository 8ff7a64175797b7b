//! The vault's part of the API without a server: for a program that works on the store because no daemon runs.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::{Problem, api::VaultSide, problem, users::Users, vault_routes, vault_slow_routes};
use crate::{
    supervisor::Definition,
    vault::admin::{Caller, VaultAdmin},
};

/// The routes of `/v1/tokens`, `/v1/secrets`, `/v1/vault` and `/v1/incidents`, called in this process. What is done is
/// recorded as this process' user.
#[derive(Clone, Debug)]
pub struct LocalVault {
    vault: VaultAdmin,
    service: TowerToHyperService<Router>,
}

/// No answer is larger: what lists things does so by pages.
const LARGEST: usize = 64 << 20;

impl LocalVault {
    /// The routes over `vault`.
    #[must_use]
    pub fn new(vault: VaultAdmin) -> Self {
        Self::with_definitions(vault, [])
    }

    /// The same, with the instances that would run: so it is known who uses which grants.
    #[must_use]
    pub fn with_definitions<'a>(
        vault: VaultAdmin,
        definitions: impl IntoIterator<Item = &'a Definition>,
    ) -> Self {
        let mut router = Router::new();
        for (path, method_router) in vault_routes().into_iter().chain(vault_slow_routes()) {
            router = router.route(path, method_router);
        }
        let router = router
            .method_not_allowed_fallback(problem::method_not_allowed)
            .fallback(problem::no_such_route)
            .with_state(VaultSide {
                vault: Some(vault.clone()),
                fleet: None,
                users: Users::of_definitions(definitions),
            });
        Self { vault, service: TowerToHyperService::new(router) }
    }

    /// Ends what is still under way.
    pub async fn close(self) {
        self.vault.close().await;
    }

    /// The body of a successful answer.
    ///
    /// # Errors
    /// The problem that a daemon would have answered with.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, Problem> {
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let mut request = request
            .body(body.map_or_else(Body::empty, Body::from))
            .map_err(|err| Problem::bad_request(err.to_string()))?;
        request.extensions_mut().insert(Caller::local());
        let response = match self.service.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status();
        let bytes = to_bytes(response.into_body(), LARGEST).await.map_err(|err| odd(&err))?;
        if status.is_success() {
            return Ok(bytes.to_vec());
        }
        Err(serde_json::from_slice(&bytes).unwrap_or_else(|err| odd(&err)))
    }
}

fn odd(err: &dyn std::error::Error) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", err.to_string(), "please report it")
}
