//! `GET /v1/status`: the whole fleet at a glance.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Problem,
    query::{Query, choose, words},
};
use crate::{
    Timestamp, clock,
    fleet::Fleet,
    store::Desired,
    supervisor::{Definition, InstanceStatus, StateName},
};

/// The fleet, or a part of it, at one moment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The worst of the instances shown.
    pub verdict: Verdict,
    /// The fleet and its daemon.
    pub fleet: FleetInfo,
    /// By name.
    pub instances: Vec<InstanceStatus>,
}

/// How well it goes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is as wanted.
    Pass,
    /// Something is on its way, or in trouble that may pass: starting, stopping, backing off, not ready.
    Warn,
    /// Something was given up or is down although it should run.
    Fail,
}

/// The fleet and its daemon.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FleetInfo {
    /// Its name.
    pub name: String,
    /// The daemon's process.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// When the daemon started.
    #[schema(value_type = String)]
    pub started_at: Timestamp,
    /// The daemon's clock as it answered.
    #[schema(value_type = String)]
    pub now: Timestamp,
}

impl FleetInfo {
    pub(super) fn of(fleet: &Fleet) -> Self {
        Self {
            name: fleet.name(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: fleet.started_at(),
            now: clock::now(),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusQuery {
    /// Only these: names, patterns, `tag:x`, templates; comma-separated.
    target: Option<String>,
}

/// The state of all instances, or of some.
#[utoipa::path(get, path = "/v1/status", params(StatusQuery),
    responses((status = 200, body = Status), (status = "default", body = Problem)))]
pub(super) async fn status(
    State(fleet): State<Fleet>,
    Query(query): Query<StatusQuery>,
) -> Result<Json<Status>, Problem> {
    let mut instances = fleet.status();
    let targets = words(query.target.as_ref());
    if !targets.is_empty() {
        let names = choose(&instances, &targets)?;
        instances.retain(|status| names.binary_search(&status.name).is_ok());
    }
    let verdict =
        instances.iter().map(|status| verdict(&fleet, status)).max().unwrap_or(Verdict::Pass);
    Ok(Json(Status { verdict, fleet: FleetInfo::of(&fleet), instances }))
}

fn verdict(fleet: &Fleet, status: &InstanceStatus) -> Verdict {
    match status.state {
        StateName::Running if status.ready => Verdict::Pass,
        StateName::Running | StateName::Starting | StateName::Backoff | StateName::Stopping => {
            Verdict::Warn
        }
        StateName::Failed | StateName::NeedsReauth => Verdict::Fail,
        StateName::Stopped if status.desired == Desired::Stopped => Verdict::Pass,
        // The definition is looked at only here: few are in this state, and a status must stay cheap at 1,000.
        StateName::Stopped => match fleet.definition(&status.name) {
            Ok(definition) if is_done(&definition, status) => Verdict::Pass,
            _ => Verdict::Fail,
        },
    }
}

/// It ended by itself in a way that its definition calls good: a one-shot, or a bot that asked to stay down.
fn is_done(definition: &Definition, status: &InstanceStatus) -> bool {
    let code = status.last_exit.as_ref().and_then(|exit| exit.code);
    let good = [&definition.restart.success_exit_codes, &definition.restart.stop_exit_codes];
    code.is_some_and(|code| code == 0 || good.iter().any(|codes| codes.contains(&code)))
}
