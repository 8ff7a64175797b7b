//! `/v1/secrets`: never their values but for one route, which is audited.

use axum::{
    Json,
    extract::{FromRef, Path},
    http::StatusCode,
    routing::{MethodRouter, delete, get, post, put},
};

use super::{
    Problem,
    api::{Desk, VaultSide},
    query::SecretBody,
};
use crate::vault::admin::{
    GenerateSecret, RevealedSecret, SecretAge, SecretList, SecretView, SetSecret,
};

pub(super) fn routes<S>() -> Vec<(&'static str, MethodRouter<S>)>
where
    S: Clone + Send + Sync + 'static,
    VaultSide: FromRef<S>,
{
    vec![
        ("/v1/secrets", get(list)),
        ("/v1/secrets/{name}", delete(remove).put(set)),
        ("/v1/secrets/{name}/age", put(age)),
        ("/v1/secrets/{name}/generate", post(generate)),
        ("/v1/secrets/{name}/rotate", post(rotate)),
        ("/v1/secrets/{name}/reveal", post(reveal)),
    ]
}

/// All secrets, by name, without their values.
#[utoipa::path(get, path = "/v1/secrets",
    responses((status = 200, body = SecretList), (status = "default", body = Problem)))]
pub(super) async fn list(desk: Desk) -> Result<Json<SecretList>, Problem> {
    Ok(Json(desk.vault.secrets().await?))
}

/// Keeps a secret, or a new value of one that is there.
#[utoipa::path(put, path = "/v1/secrets/{name}", request_body = SetSecret, params(("name" = String, Path)),
    responses((status = 200, body = SecretView), (status = "default", body = Problem)))]
pub(super) async fn set(
    desk: Desk,
    Path(name): Path<String>,
    SecretBody(request): SecretBody<SetSecret>,
) -> Result<Json<SecretView>, Problem> {
    Ok(Json(desk.vault.set_secret(&desk.caller, name, request).await?))
}

/// Makes a secret at random, under a name that is free.
#[utoipa::path(post, path = "/v1/secrets/{name}/generate", request_body = GenerateSecret, params(("name" = String, Path)),
    responses((status = 200, body = SecretView), (status = "default", body = Problem)))]
pub(super) async fn generate(
    desk: Desk,
    Path(name): Path<String>,
    SecretBody(request): SecretBody<GenerateSecret>,
) -> Result<Json<SecretView>, Problem> {
    Ok(Json(desk.vault.generate_secret(&desk.caller, name, request).await?))
}

/// Replaces a secret by one made at random.
#[utoipa::path(post, path = "/v1/secrets/{name}/rotate", params(("name" = String, Path)),
    responses((status = 200, body = SecretView), (status = "default", body = Problem)))]
pub(super) async fn rotate(
    desk: Desk,
    Path(name): Path<String>,
) -> Result<Json<SecretView>, Problem> {
    Ok(Json(desk.vault.rotate_secret(&desk.caller, name).await?))
}

/// Sets after how long a secret should be replaced.
#[utoipa::path(put, path = "/v1/secrets/{name}/age", request_body = SecretAge, params(("name" = String, Path)),
    responses((status = 200, body = SecretView), (status = "default", body = Problem)))]
pub(super) async fn age(
    desk: Desk,
    Path(name): Path<String>,
    SecretBody(request): SecretBody<SecretAge>,
) -> Result<Json<SecretView>, Problem> {
    Ok(Json(desk.vault.set_secret_age(&desk.caller, name, request).await?))
}

/// Removes a secret.
#[utoipa::path(delete, path = "/v1/secrets/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = "default", body = Problem)))]
pub(super) async fn remove(desk: Desk, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    desk.vault.remove_secret(&desk.caller, name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A secret in clear text, once it is recorded who sees it.
#[utoipa::path(post, path = "/v1/secrets/{name}/reveal", params(("name" = String, Path)),
    responses((status = 200, body = RevealedSecret), (status = "default", body = Problem)))]
pub(super) async fn reveal(
    desk: Desk,
    Path(name): Path<String>,
) -> Result<Json<RevealedSecret>, Problem> {
    let desk = desk.named()?;
    Ok(Json(desk.vault.reveal_secret(&desk.caller, &name).await?))
}
