//! `POST /v1/incidents`: tokens are in wrong hands.

use std::time::Duration;

use axum::{
    Json,
    extract::FromRef,
    routing::{MethodRouter, post},
};
use tokio::time::timeout;

use super::{
    Problem,
    api::{Desk, VaultSide},
    query::SecretBody,
};
use crate::{
    fleet::Fleet,
    supervisor::Goal,
    vault::admin::{IncidentReport, IncidentRequest, VaultAdmin},
};

pub(super) fn slow_routes<S>() -> Vec<(&'static str, MethodRouter<S>)>
where
    S: Clone + Send + Sync + 'static,
    VaultSide: FromRef<S>,
{
    vec![("/v1/incidents", post(revoke))]
}

/// So long an instance may take to stop before a person is asked to look.
const STOPPED: Duration = Duration::from_mins(2);

/// Revokes grants at their provider, shreds them here, and stops the instances that had them. Goes on when whoever asked
/// has gone.
#[utoipa::path(post, path = "/v1/incidents", request_body = IncidentRequest,
    responses((status = 200, body = IncidentReport), (status = "default", body = Problem)))]
pub(super) async fn revoke(
    desk: Desk,
    SecretBody(request): SecretBody<IncidentRequest>,
) -> Result<Json<IncidentReport>, Problem> {
    let users = desk.users();
    let Desk { vault, fleet, caller, .. } = desk;
    let whole = async move |vault: VaultAdmin| {
        let mut report = vault.incident(&caller, request).await?;
        users.to_be_stopped(&mut report);
        match &fleet {
            Some(fleet) => stop(fleet, &mut report).await,
            None => vault.want_stopped(&mut report).await?,
        }
        Ok(report)
    };
    Ok(Json(vault.carry_out(whole(vault.clone())).await?))
}

async fn stop(fleet: &Fleet, report: &mut IncidentReport) {
    let mut asked = Vec::new();
    for name in report.stopped.clone() {
        match fleet.stop(&name).await {
            Ok(()) => asked.push(name),
            // Its definition is gone: nothing of that name runs.
            Err(crate::Error::NotFound { .. }) => {
                report.stopped.remove(&name);
            }
            Err(err) => report.stop_failed(&name, &err.chain()),
        }
    }
    // All at once, so that the slowest sets the time.
    let each = asked.into_iter().map(|name| async move {
        let down = timeout(STOPPED, fleet.settled(&name, Goal::Down)).await;
        (name, matches!(down, Ok(Ok(_))))
    });
    for (name, down) in futures_util::future::join_all(each).await {
        if !down {
            report.stop_failed(&name, "it is still stopping");
        }
    }
}
