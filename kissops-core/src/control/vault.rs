//! `/v1/vault`: open or sealed, its keys, and grants of a restored store; `/v1/authorizations`.

use axum::{
    Json,
    extract::{FromRef, Path},
    http::StatusCode,
    routing::{MethodRouter, get, post},
};

use super::{
    Problem,
    api::{Desk, VaultSide},
    query::{SecretBody, within},
};
use crate::store::GrantKey;
use crate::vault::admin::{
    AdoptRequest, Adopted, Authorization, AuthorizeRequest, RotateRequest, RotationView,
    VaultStatus,
};

pub(super) fn routes<S>() -> Vec<(&'static str, MethodRouter<S>)>
where
    S: Clone + Send + Sync + 'static,
    VaultSide: FromRef<S>,
{
    vec![
        ("/v1/vault", get(status)),
        ("/v1/vault/rotate", post(rotate)),
        ("/v1/authorizations/{id}", get(authorization).delete(give_up)),
    ]
}

pub(super) fn slow_routes<S>() -> Vec<(&'static str, MethodRouter<S>)>
where
    S: Clone + Send + Sync + 'static,
    VaultSide: FromRef<S>,
{
    vec![
        ("/v1/vault/adopt", post(adopt)),
        ("/v1/tokens/{provider}/{account}/authorize", post(authorize)),
    ]
}

/// How the vault is doing. Works while it is sealed, too.
#[utoipa::path(get, path = "/v1/vault",
    responses((status = 200, body = VaultStatus), (status = "default", body = Problem)))]
pub(super) async fn status(desk: Desk) -> Result<Json<VaultStatus>, Problem> {
    Ok(Json(desk.vault.status().await?))
}

/// Begins to seal everything anew, under a new key or the present one. `GET /v1/vault` says how far it is.
#[utoipa::path(post, path = "/v1/vault/rotate", request_body = RotateRequest,
    responses((status = 202, body = RotationView), (status = "default", body = Problem)))]
pub(super) async fn rotate(
    desk: Desk,
    SecretBody(request): SecretBody<RotateRequest>,
) -> Result<(StatusCode, Json<RotationView>), Problem> {
    let begun = desk.vault.rotate(&desk.caller, request).await?;
    Ok((StatusCode::ACCEPTED, Json(begun)))
}

/// Uses fenced grants again. The store that they come from must be out of use.
#[utoipa::path(post, path = "/v1/vault/adopt", request_body = AdoptRequest,
    responses((status = 200, body = Adopted), (status = "default", body = Problem)))]
pub(super) async fn adopt(
    desk: Desk,
    SecretBody(request): SecretBody<AdoptRequest>,
) -> Result<Json<Adopted>, Problem> {
    within("the adoption", desk.vault.adopt(&desk.caller, request)).await
}

/// Begins an authorization, or gives the one that waits for the account's owner already.
#[utoipa::path(post, path = "/v1/tokens/{provider}/{account}/authorize", request_body = AuthorizeRequest,
    params(("provider" = String, Path), ("account" = String, Path)),
    responses((status = 200, body = Authorization), (status = "default", body = Problem)))]
pub(super) async fn authorize(
    desk: Desk,
    Path((provider, account)): Path<(String, String)>,
    SecretBody(request): SecretBody<AuthorizeRequest>,
) -> Result<Json<Authorization>, Problem> {
    let key = GrantKey { provider, account };
    within("the authorization", desk.vault.authorize(&desk.caller, key, request)).await
}

/// How far an authorization has come.
#[utoipa::path(get, path = "/v1/authorizations/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Authorization), (status = "default", body = Problem)))]
pub(super) async fn authorization(
    desk: Desk,
    Path(id): Path<String>,
) -> Result<Json<Authorization>, Problem> {
    Ok(Json(desk.vault.authorization(&id)?))
}

/// Gives an authorization up.
#[utoipa::path(delete, path = "/v1/authorizations/{id}", params(("id" = String, Path)),
    responses((status = 204), (status = "default", body = Problem)))]
pub(super) async fn give_up(desk: Desk, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    desk.vault.cancel_authorization(&id)?;
    Ok(StatusCode::NO_CONTENT)
}
