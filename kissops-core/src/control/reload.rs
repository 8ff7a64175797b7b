//! `POST /v1/reload`: reads the configuration file again.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Problem, query::JsonBody};
use crate::fleet::{Fleet, ReloadError, ReloadMode};

/// Whether a reload is carried out.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadRequest {
    /// Only answer with the plan.
    pub dry_run: bool,
}

/// Reads the configuration again and carries out what changed; an invalid file changes nothing.
#[utoipa::path(post, path = "/v1/reload", request_body = ReloadRequest,
    responses((status = 200, description = "The plan: `added`, `removed`, `changed`, `unchanged`, `warnings`"),
        (status = 422, body = Problem), (status = "default", body = Problem)))]
pub(super) async fn reload(
    State(fleet): State<Fleet>,
    JsonBody(request): JsonBody<ReloadRequest>,
) -> Response {
    let mode = if request.dry_run { ReloadMode::DryRun } else { ReloadMode::Apply };
    match fleet.reload_config(mode).await {
        Ok(plan) => Json(plan).into_response(),
        Err(ReloadError::Other(err)) => Problem::from(err).into_response(),
        Err(ReloadError::Invalid(errors)) => Problem {
            errors: serde_json::to_value(&errors).ok().map(Box::new),
            ..Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_config",
                "the configuration file has errors; the old configuration stays in force",
                "mend what kissops check names, then reload again",
            )
        }
        .into_response(),
    }
}
