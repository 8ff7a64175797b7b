//! `POST /v1/instances/actions`: start, stop, restart, reset, reload, signal.

use std::time::Duration;

use axum::{Json, extract::State};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::{
    Problem,
    query::{JsonBody, choose},
};
use crate::{
    Error, HumanDuration, Result,
    fleet::Fleet,
    id::InstanceName,
    supervisor::{Goal, InstanceStatus, Rolling, Signal, StateName},
};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Run it, now and after each restart of the daemon. Nothing happens if it runs.
    Start,
    /// Stop it, and leave it so. Nothing happens if it is stopped.
    Stop,
    /// Stop it, then start it.
    Restart,
    /// Forget that it was given up, and start it if it is meant to run.
    Reset,
    /// Send its `reload_signal`.
    Reload,
    /// Send `signal`.
    Signal,
}

/// What to do, with whom, and whether to wait for the effect.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// What to do.
    pub action: Action,
    /// Names, patterns, `tag:x`, templates. One that means nothing refuses the whole request.
    #[serde(default)]
    pub targets: Vec<String>,
    /// All instances; then `targets` must be empty.
    #[serde(default)]
    pub all: bool,
    /// For `signal`: which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub signal: Option<Signal>,
    /// Answer once the state is reached.
    #[serde(default)]
    pub wait: bool,
    /// Wait so long at most: `"60s"`; two minutes where it is left out, an hour at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub timeout: Option<HumanDuration>,
    /// For `restart` with `wait`: so many at once. A closed connection ends it after the batch at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// With `batch`: the next batch waits until this one is ready.
    #[serde(default)]
    pub wait_ready: bool,
}

/// What came of it, one result each, by name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ActionResults {
    /// By name.
    pub results: Vec<ActionResult>,
}

/// What came of it for one instance.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ActionResult {
    /// Which instance.
    #[schema(value_type = String)]
    pub name: InstanceName,
    /// It was done, and the state was reached if it was waited for.
    pub ok: bool,
    /// Its state afterwards; `null` if it is gone.
    pub state: Option<StateName>,
    /// Why it was not done.
    pub error: Option<Failure>,
}

/// An error as one result tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// A short stable word.
    pub code: String,
    /// What went wrong.
    pub message: String,
    /// What to do next.
    pub help: String,
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        let Problem { code, detail, help, .. } = Problem::from(err);
        Self { code, message: detail, help }
    }
}

const TIMEOUT: Duration = Duration::from_mins(2);
const LONGEST: Duration = Duration::from_hours(1);

/// Does one thing to many instances.
#[utoipa::path(post, path = "/v1/instances/actions", request_body = ActionRequest,
    responses((status = 200, body = ActionResults), (status = "default", body = Problem)))]
pub(super) async fn act(
    State(fleet): State<Fleet>,
    JsonBody(request): JsonBody<ActionRequest>,
) -> Result<Json<ActionResults>, Problem> {
    let names = targets(&fleet, &request)?;
    let limit = request.timeout.map_or(TIMEOUT, |limit| limit.0).min(LONGEST);
    let wait = Wait { wanted: request.wait, limit, until: Instant::now() + limit };
    let outcomes = if let Some(batch) = request.batch {
        let rolling = Rolling { batch, wait_ready: request.wait_ready };
        restart_in_batches(&fleet, names, rolling, &wait).await
    } else {
        let each = names.into_iter().map(|name| {
            let (fleet, request, wait) = (&fleet, &request, &wait);
            async move {
                let outcome = one(fleet, request, &name, wait).await;
                (name, outcome)
            }
        });
        join_all(each).await
    };
    Ok(Json(ActionResults { results: report(&fleet.status(), outcomes) }))
}

fn targets(fleet: &Fleet, request: &ActionRequest) -> Result<Vec<InstanceName>, Problem> {
    let wrong = |detail: &str| Err(Problem::bad_request(detail));
    if request.all && !request.targets.is_empty() {
        return wrong("`all` and `targets` exclude each other");
    }
    if !request.all && request.targets.is_empty() {
        return wrong("`targets` is empty; to mean every instance, say `all`");
    }
    if (request.action == Action::Signal) != request.signal.is_some() {
        return wrong("`signal` is needed for the action `signal`, and only there");
    }
    match request.batch {
        Some(0) => return wrong("`batch` must be at least 1"),
        Some(_) if request.action != Action::Restart || !request.wait => {
            return wrong("`batch` works only with the action `restart` and with `wait`");
        }
        None if request.wait_ready => return wrong("`wait_ready` works only with `batch`"),
        _ => {}
    }
    let statuses = fleet.status();
    if request.all {
        return Ok(statuses.into_iter().map(|status| status.name).collect());
    }
    choose(&statuses, &request.targets)
}

struct Wait {
    wanted: bool,
    limit: Duration,
    until: Instant,
}

async fn one(
    fleet: &Fleet,
    request: &ActionRequest,
    name: &InstanceName,
    wait: &Wait,
) -> Result<()> {
    let goal = match request.action {
        Action::Start => {
            fleet.start(name).await?;
            Some(Goal::Up)
        }
        Action::Stop => {
            fleet.stop(name).await?;
            Some(Goal::Down)
        }
        Action::Restart => {
            fleet.restart(name).await?;
            Some(Goal::Up)
        }
        Action::Reset => {
            fleet.reset(name).await?;
            None
        }
        Action::Reload => {
            fleet.reload_signal(name).await?;
            None
        }
        Action::Signal => {
            if let Some(signal) = request.signal {
                fleet.signal(name, signal).await?;
            }
            None
        }
    };
    match goal.filter(|_| wait.wanted) {
        Some(goal) => {
            within(wait, name, async { reached(&fleet.settled(name, goal).await?, goal) }).await
        }
        None => Ok(()),
    }
}

/// Whether an instance got where it was sent; if not, why.
fn reached(status: &InstanceStatus, goal: Goal) -> Result<()> {
    let done = status.last_exit.as_ref().is_some_and(|exit| exit.code == Some(0));
    match (goal, status.state) {
        (Goal::Down, _) | (Goal::Up, StateName::Running) => Ok(()),
        // A one-shot that has done its work is where it should be.
        (Goal::Up, StateName::Stopped) if done => Ok(()),
        (Goal::Up, state) => Err(Error::WrongState {
            what: format!("instance `{}`", status.name),
            state: state.to_string(),
            help: status.reason.clone(),
        }),
    }
}

async fn within(
    wait: &Wait,
    name: &InstanceName,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    timeout_at(wait.until, work).await.unwrap_or_else(|_| Err(late(wait, name)))
}

fn late(wait: &Wait, name: &InstanceName) -> Error {
    Error::Timeout { what: format!("instance `{name}`"), limit: wait.limit }
}

async fn restart_in_batches(
    fleet: &Fleet,
    names: Vec<InstanceName>,
    rolling: Rolling,
    wait: &Wait,
) -> Vec<(InstanceName, Result<()>)> {
    match timeout_at(wait.until, fleet.rolling_restart(&names, rolling)).await {
        Ok(outcomes) => outcomes,
        Err(_) => names
            .into_iter()
            .map(|name| {
                let late = late(wait, &name);
                (name, Err(late))
            })
            .collect(),
    }
}

fn report(
    statuses: &[InstanceStatus],
    outcomes: Vec<(InstanceName, Result<()>)>,
) -> Vec<ActionResult> {
    let state = |name: &InstanceName| {
        let at = statuses.binary_search_by(|status| status.name.cmp(name)).ok()?;
        statuses.get(at).map(|status| status.state)
    };
    let results = outcomes.into_iter().map(|(name, outcome)| ActionResult {
        ok: outcome.is_ok(),
        state: state(&name),
        error: outcome.err().map(Failure::from),
        name,
    });
    results.collect()
}
