//! `/v1/tokens`: grants, never their tokens but for one route, which is audited.

use axum::{
    Json,
    extract::{FromRef, Path},
    http::StatusCode,
    routing::{MethodRouter, get, post, put},
};

use super::{
    Problem,
    api::{Desk, VaultSide},
    query::{Query, SecretBody, within},
};
use crate::{
    store::GrantKey,
    vault::admin::{
        BindRequest, Grant, GrantFilter, Grants, Imported, RevealedToken, RevokeRequest,
        RevokeResult, TokenImport,
    },
};

pub(super) fn routes<S>() -> Vec<(&'static str, MethodRouter<S>)>
where
    S: Clone + Send + Sync + 'static,
    VaultSide: FromRef<S>,
{
    vec![
        ("/v1/tokens", get(list)),
        ("/v1/tokens/{provider}/{account}", get(show).delete(remove)),
        ("/v1/tokens/{provider}/{account}/instances", put(bind)),
        ("/v1/tokens/{provider}/{account}/reveal", post(reveal)),
    ]
}

/// These wait for a provider, or write much: they have a limit of their own.
pub(super) fn slow_routes<S>() -> Vec<(&'static str, MethodRouter<S>)>
where
    S: Clone + Send + Sync + 'static,
    VaultSide: FromRef<S>,
{
    vec![
        ("/v1/tokens/import", post(import)),
        ("/v1/tokens/{provider}/{account}/refresh", post(refresh)),
        ("/v1/tokens/{provider}/{account}/revoke", post(revoke)),
    ]
}

type Which = Path<(String, String)>;

fn key(Path((provider, account)): Which) -> GrantKey {
    GrantKey { provider, account }
}

/// Grants, in the order in which they were made. Works while the vault is sealed, too.
#[utoipa::path(get, path = "/v1/tokens",
    params(("provider" = Option<String>, Query), ("state" = Option<String>, Query), ("instance" = Option<String>, Query),
        ("after" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = Grants), (status = "default", body = Problem)))]
pub(super) async fn list(
    desk: Desk,
    Query(filter): Query<GrantFilter>,
) -> Result<Json<Grants>, Problem> {
    let (users, wanted) = (desk.users(), filter.clone());
    let mut page = desk.vault.grants(filter).await?;
    page.grants = page.grants.into_iter().map(|grant| users.join(grant)).collect();
    // The store knows only of those that were bound to the grant by hand.
    if let (Some(instance), None) = (&wanted.instance, &wanted.after) {
        for key in users.grants_of(instance) {
            let Ok(grant) = desk.vault.grant(key).await else { continue };
            let is_wanted = wanted.provider.as_ref().is_none_or(|name| *name == grant.provider)
                && wanted.state.as_ref().is_none_or(|state| *state == grant.state);
            let grant = users.join(grant);
            if is_wanted && !page.grants.contains(&grant) {
                page.grants.push(grant);
            }
        }
    }
    Ok(Json(page))
}

/// One grant.
#[utoipa::path(get, path = "/v1/tokens/{provider}/{account}",
    params(("provider" = String, Path), ("account" = String, Path)),
    responses((status = 200, body = Grant), (status = "default", body = Problem)))]
pub(super) async fn show(desk: Desk, which: Which) -> Result<Json<Grant>, Problem> {
    Ok(Json(desk.users().join(desk.vault.grant(&key(which)).await?)))
}

/// Removes a grant without asking the provider.
#[utoipa::path(delete, path = "/v1/tokens/{provider}/{account}",
    params(("provider" = String, Path), ("account" = String, Path)),
    responses((status = 204), (status = "default", body = Problem)))]
pub(super) async fn remove(desk: Desk, which: Which) -> Result<StatusCode, Problem> {
    desk.vault.remove(&desk.caller, key(which)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes tokens over from elsewhere, at most 1 MiB at once. What cannot be taken over is skipped.
#[utoipa::path(post, path = "/v1/tokens/import", request_body = TokenImport,
    responses((status = 200, body = Imported), (status = "default", body = Problem)))]
pub(super) async fn import(
    desk: Desk,
    SecretBody(request): SecretBody<TokenImport>,
) -> Result<Json<Imported>, Problem> {
    within("the import", desk.vault.import(&desk.caller, request)).await
}

/// Refreshes now, or shares what is under way.
#[utoipa::path(post, path = "/v1/tokens/{provider}/{account}/refresh",
    params(("provider" = String, Path), ("account" = String, Path)),
    responses((status = 200, body = Grant), (status = "default", body = Problem)))]
pub(super) async fn refresh(desk: Desk, which: Which) -> Result<Json<Grant>, Problem> {
    within("the refresh", desk.vault.refresh(&desk.caller, key(which))).await
}

/// Revokes a grant at its provider, and removes its tokens here whatever the provider said.
#[utoipa::path(post, path = "/v1/tokens/{provider}/{account}/revoke", request_body = RevokeRequest,
    params(("provider" = String, Path), ("account" = String, Path)),
    responses((status = 200, body = RevokeResult), (status = "default", body = Problem)))]
pub(super) async fn revoke(
    desk: Desk,
    which: Which,
    SecretBody(request): SecretBody<RevokeRequest>,
) -> Result<Json<RevokeResult>, Problem> {
    within("the revocation", desk.vault.revoke(&desk.caller, key(which), request)).await
}

/// Sets the instances that a grant is handed to.
#[utoipa::path(put, path = "/v1/tokens/{provider}/{account}/instances", request_body = BindRequest,
    params(("provider" = String, Path), ("account" = String, Path)),
    responses((status = 200, body = Grant), (status = "default", body = Problem)))]
pub(super) async fn bind(
    desk: Desk,
    which: Which,
    SecretBody(request): SecretBody<BindRequest>,
) -> Result<Json<Grant>, Problem> {
    Ok(Json(desk.vault.bind(&desk.caller, key(which), request).await?))
}

/// The access token in clear text, once it is recorded who sees it.
#[utoipa::path(post, path = "/v1/tokens/{provider}/{account}/reveal",
    params(("provider" = String, Path), ("account" = String, Path)),
    responses((status = 200, body = RevealedToken), (status = "default", body = Problem)))]
pub(super) async fn reveal(desk: Desk, which: Which) -> Result<Json<RevealedToken>, Problem> {
    let desk = desk.named()?;
    Ok(Json(desk.vault.reveal_token(&desk.caller, &key(which)).await?))
}
