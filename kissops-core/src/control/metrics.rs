//! `/metrics`: figures for a Prometheus, as `OpenMetrics` text.

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};

use super::{Problem, api::Api};
use crate::metrics::{self, Exposition};

/// How the vault and the sockets of bots are doing.
#[utoipa::path(get, path = "/metrics",
    responses((status = 200, description = "OpenMetrics"), (status = "default", body = Problem)))]
pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Problem> {
    let mut text = Exposition::default();
    api.write_metrics(&mut text).await?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text.text()).into_response())
}
