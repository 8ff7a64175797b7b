//! `GET /v1/instances/{name}` and `GET /v1/definitions`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::{
    Crash, Event, Problem,
    query::{Query, choose, words},
};
use crate::{
    Result,
    fleet::Fleet,
    id::InstanceName,
    store::{CrashQuery, EventQuery},
    supervisor::{Definition, InstanceStatus},
};

/// All that is known of one instance.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InstanceDetail {
    /// Its state.
    pub instance: InstanceStatus,
    /// Its effective definition, as `kissops check` prints it; secrets show as `***`.
    #[schema(value_type = Object)]
    pub definition: serde_json::Value,
    /// Its process tree.
    #[schema(value_type = Vec<Object>)]
    pub processes: serde_json::Value,
    /// What happened to it last, oldest first.
    pub events: Vec<Event>,
    /// Its last abnormal exit.
    pub last_crash: Option<Crash>,
}

/// So many of the last events are shown.
const EVENTS: u32 = 10;

/// One instance in full.
#[utoipa::path(get, path = "/v1/instances/{name}", params(("name" = String, Path)),
    responses((status = 200, body = InstanceDetail), (status = "default", body = Problem)))]
pub(super) async fn detail(
    State(fleet): State<Fleet>,
    Path(name): Path<String>,
) -> Result<Json<InstanceDetail>, Problem> {
    let statuses = fleet.status();
    let Some(instance) = statuses.iter().find(|status| status.name.as_str() == name).cloned()
    else {
        // Either this finds out the nearest name, or it is a pattern, and a pattern is no instance.
        choose(&statuses, std::slice::from_ref(&name))?;
        return Err(Problem::bad_request(format!("`{name}` is not the name of one instance")));
    };
    let instances = vec![instance.name.clone()];
    let query = EventQuery { instances: instances.clone(), limit: EVENTS, ..EventQuery::default() };
    let events = fleet.store().events(query).await?;
    let query = CrashQuery { instances, since: None, limit: 1 };
    let crashes = fleet.store().crashes(query).await?;
    let processes = fleet.processes(&instance.name).await?;
    Ok(Json(InstanceDetail {
        definition: to_value(&*fleet.definition(&instance.name)?)?,
        processes: to_value(&processes)?,
        events: events.into_iter().map(Event::from).collect(),
        last_crash: crashes.into_iter().next().map(Crash::from),
        instance,
    }))
}

fn to_value<T: Serialize>(value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(crate::Error::unavailable("the JSON of an instance"))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct DefinitionQuery {
    /// Only these: names, patterns, `tag:x`, templates; comma-separated.
    target: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Definitions {
    #[schema(value_type = Vec<Object>)]
    #[serde(serialize_with = "each")]
    instances: Vec<Arc<Definition>>,
}

/// serde serializes no `Arc` without a feature that reaches into the whole build.
fn each<S: Serializer>(definitions: &[Arc<Definition>], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(definitions.iter().map(|definition| &**definition))
}

/// The effective definitions that are in force.
#[utoipa::path(get, path = "/v1/definitions", params(DefinitionQuery),
    responses((status = 200, body = Definitions), (status = "default", body = Problem)))]
pub(super) async fn definitions(
    State(fleet): State<Fleet>,
    Query(query): Query<DefinitionQuery>,
) -> Result<Json<Definitions>, Problem> {
    let statuses = fleet.status();
    let targets = words(query.target.as_ref());
    let names: Vec<InstanceName> = if targets.is_empty() {
        statuses.into_iter().map(|status| status.name).collect()
    } else {
        choose(&statuses, &targets)?
    };
    let instances = names.iter().map(|name| fleet.definition(name)).collect::<Result<Vec<_>>>()?;
    Ok(Json(Definitions { instances }))
}
