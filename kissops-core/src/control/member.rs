//! `/v1/members`: members of templates, those of the file and those added at run time.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Problem, query::JsonBody};
use crate::{Timestamp, fleet::Fleet, id::InstanceName, store::MemberRecord};

/// A member of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its full name, `template@member`.
    #[schema(value_type = String)]
    pub name: InstanceName,
    /// What `{vars.x}` stands for; empty for those of the file.
    pub vars: BTreeMap<String, String>,
    /// When it was added; `null` for those of the file.
    #[schema(value_type = Option<String>)]
    pub added_at: Option<Timestamp>,
}

/// All members, by name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Members {
    /// By name.
    pub members: Vec<Member>,
}

/// A member to be added.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberRequest {
    /// Its full name, `template@member`.
    #[schema(value_type = String)]
    pub name: InstanceName,
    /// What `{vars.x}` of the template stands for.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
}

/// The members of all templates.
#[utoipa::path(get, path = "/v1/members",
    responses((status = 200, body = Members), (status = "default", body = Problem)))]
pub(super) async fn list(State(fleet): State<Fleet>) -> Result<Json<Members>, Problem> {
    let named = fleet.status().into_iter().map(|status| status.name);
    let of_file = named.filter(|name| name.template().is_some());
    let mut members: BTreeMap<InstanceName, Member> = of_file
        .map(|name| (name.clone(), Member { name, vars: BTreeMap::new(), added_at: None }))
        .collect();
    for MemberRecord { name, vars, added_at } in fleet.store().members().await? {
        members.insert(name.clone(), Member { name, vars, added_at: Some(added_at) });
    }
    Ok(Json(Members { members: members.into_values().collect() }))
}

/// Adds a member and starts it.
#[utoipa::path(post, path = "/v1/members", request_body = MemberRequest,
    responses((status = 201, body = MemberRequest), (status = "default", body = Problem)))]
pub(super) async fn add(
    State(fleet): State<Fleet>,
    JsonBody(request): JsonBody<MemberRequest>,
) -> Result<(StatusCode, Json<MemberRequest>), Problem> {
    if request.name.template().is_none() {
        let detail = format!("`{}` is not like template@member", request.name);
        return Err(Problem::bad_request(detail));
    }
    fleet.add_member(&request.name, request.vars.clone()).await?;
    Ok((StatusCode::CREATED, Json(request)))
}

/// Stops a member that was added at run time, and forgets it.
#[utoipa::path(delete, path = "/v1/members/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = "default", body = Problem)))]
pub(super) async fn remove(
    State(fleet): State<Fleet>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let name = InstanceName::new(&name).map_err(|err| Problem::bad_request(err.to_string()))?;
    fleet.remove_member(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
