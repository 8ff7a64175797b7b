//! `GET /v1/events`, as pages or as a live stream, and `GET /v1/crashes`.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use utoipa::{IntoParams, ToSchema};

use super::{
    Closing, Problem,
    query::{Query, choose_past, when, words},
};
use crate::{
    Result, Timestamp,
    fleet::Fleet,
    id::{InstanceName, RecordId, RunId},
    store::{CrashQuery, CrashRecord, EventKind, EventQuery, EventRecord},
    supervisor::{ExitStatus, Signal, StateName},
};

/// Something that happened: a change of state with `from` and `to`, or anything else with `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number; later events have larger ones.
    pub id: String,
    /// When.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// To which instance; `null` for the fleet as a whole.
    #[schema(value_type = Option<String>)]
    pub instance: Option<InstanceName>,
    /// The state before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<StateName>,
    /// The state after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<StateName>,
    /// A stable word such as `daemon.started`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Why, for people.
    pub reason: String,
}

impl From<EventRecord> for Event {
    fn from(EventRecord { id, event }: EventRecord) -> Self {
        let (from, to, kind) = match event.kind {
            EventKind::Transition { from, to } => (Some(from), Some(to), None),
            EventKind::Other(kind) => (None, None, Some(kind)),
        };
        Self {
            id: id.0.to_string(),
            at: event.at,
            instance: event.instance,
            from,
            to,
            kind,
            reason: event.reason,
        }
    }
}

/// A page of events.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
    /// What to pass as `after` for the next page; `null` on the last one.
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Only of these: names, patterns, `tag:x`, templates; comma-separated.
    target: Option<String>,
    /// The same as `target`.
    instance: Option<String>,
    /// Only at or after this time: RFC 3339, or a span such as `10m` before now.
    since: Option<String>,
    /// Only before this time.
    until: Option<String>,
    /// Only after the event of this id, oldest first; `0` begins with the first. Without it: the latest ones.
    after: Option<i64>,
    /// At most so many, 1 to 1000; 100 where it is left out.
    limit: Option<u32>,
    /// `1`: a stream of server-sent events, as with `Accept: text/event-stream`.
    follow: Option<u8>,
}

const LIMIT: u32 = 100;
const MOST: u32 = 1000;

/// What happened. As a stream it goes on after `after` or the header `Last-Event-ID`, else with what comes.
#[utoipa::path(get, path = "/v1/events", params(EventsQuery),
    responses((status = 200, body = Events, description = "Or text/event-stream of `Event`"),
        (status = "default", body = Problem)))]
pub(super) async fn events(
    State(fleet): State<Fleet>,
    Query(query): Query<EventsQuery>,
    closing: Option<Extension<Closing>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut targets = words(query.target.as_ref());
    targets.extend(words(query.instance.as_ref()));
    let instances = choose_past(&fleet, &targets).await?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let streamed = text(header::ACCEPT).is_some_and(|kinds| kinds.contains("text/event-stream"));
    if streamed || query.follow.is_some_and(|follow| follow != 0) {
        let last = match text(header::HeaderName::from_static("last-event-id")) {
            Some(id) => Some(id.parse().map_err(|_| {
                Problem::bad_request(format!("Last-Event-ID `{}` is no id", id.escape_debug()))
            })?),
            None => query.after,
        };
        let closing = closing.map(|Extension(closing)| closing).unwrap_or_default();
        return Ok(follow(fleet, instances, last.map(RecordId), closing).await?.into_response());
    }
    let limit = query.limit.unwrap_or(LIMIT).clamp(1, MOST);
    let page = EventQuery {
        instances,
        since: when("since", query.since.as_ref())?,
        until: when("until", query.until.as_ref())?,
        after: query.after.map(RecordId),
        limit,
    };
    let forward = page.after.is_some();
    let events: Vec<Event> =
        fleet.store().events(page).await?.into_iter().map(Event::from).collect();
    let full = forward && events.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = events.last().filter(|_| full).map(|event| event.id.clone());
    Ok(Json(Events { events, next }).into_response())
}

/// A comment is sent after so much silence: it tells both ends that the other one is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

async fn follow(
    fleet: Fleet,
    instances: Vec<InstanceName>,
    last: Option<RecordId>,
    closing: Closing,
) -> Result<impl IntoResponse> {
    // Subscribed before the store is read: what is stored in between comes twice, and is told apart by its id.
    let live = fleet.subscribe();
    let behind = last.is_some();
    let after = if let Some(last) = last {
        last
    } else {
        let query = EventQuery { limit: 1, ..EventQuery::default() };
        fleet.store().events(query).await?.pop().map_or(RecordId(0), |event| event.id)
    };
    let follower =
        Follower { fleet, instances, live, after, behind, backlog: VecDeque::new(), closing };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(as_sse(event)), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn as_sse(event: EventRecord) -> sse::Event {
    let event = Event::from(event);
    let name = event.kind.as_deref().unwrap_or("transition").to_owned();
    let data = serde_json::to_string(&event).unwrap_or_default();
    sse::Event::default().id(&event.id).event(name).data(data)
}

/// Live events without a gap: whoever is too slow for the channel reads on from the store.
struct Follower {
    fleet: Fleet,
    instances: Vec<InstanceName>,
    live: Receiver<Arc<EventRecord>>,
    after: RecordId,
    behind: bool,
    backlog: VecDeque<EventRecord>,
    closing: Closing,
}

impl Follower {
    async fn next(&mut self) -> Option<EventRecord> {
        loop {
            if let Some(event) = self.backlog.pop_front() {
                self.after = event.id;
                return Some(event);
            }
            if self.behind {
                self.catch_up().await?;
                continue;
            }
            let received = tokio::select! {
                () = self.closing.wait() => return None,
                received = self.live.recv() => received,
            };
            match received {
                Ok(event) if event.id > self.after => {
                    self.after = event.id;
                    if self.wants(&event) {
                        return Some(EventRecord::clone(&event));
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn wants(&self, event: &EventRecord) -> bool {
        let of = event.event.instance.as_ref();
        self.instances.is_empty() || of.is_some_and(|name| self.instances.contains(name))
    }

    /// Reads the next page. `None` ends the stream: the client comes back with the id that it got last.
    async fn catch_up(&mut self) -> Option<()> {
        let query = EventQuery {
            instances: self.instances.clone(),
            after: Some(self.after),
            limit: MOST,
            ..EventQuery::default()
        };
        match self.fleet.store().events(query).await {
            Ok(page) => {
                self.behind = page.len() >= usize::try_from(MOST).unwrap_or(usize::MAX);
                self.backlog = page.into();
                Some(())
            }
            Err(err) => {
                tracing::warn!(error = %err.chain(), "an event stream ends: the store does not answer");
                None
            }
        }
    }
}

/// An abnormal exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Crash {
    /// Its number; later crashes have larger ones.
    pub id: String,
    /// When it died.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Whose.
    #[schema(value_type = String)]
    pub instance: InstanceName,
    /// Which run.
    pub run: String,
    /// The exit code, unless a signal killed it or nobody knows.
    pub code: Option<i32>,
    /// The signal that killed it.
    #[schema(value_type = Option<String>)]
    pub signal: Option<Signal>,
    /// It left a core dump.
    pub core_dumped: bool,
    /// It was killed for want of memory.
    pub out_of_memory: bool,
    /// Why the supervisor thinks so.
    pub reason: String,
    /// How long it had run.
    pub uptime_seconds: f64,
    /// How often the instance had been restarted before.
    pub restarts: u64,
    /// What it had used, where the kernel said.
    pub usage: Option<CrashUsage>,
    /// Its last lines of output, oldest first, redacted.
    pub last_lines: Vec<String>,
}

/// What a process had used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CrashUsage {
    /// CPU time in user mode.
    pub user_seconds: f64,
    /// CPU time in the kernel.
    pub system_seconds: f64,
    /// Largest resident set.
    pub max_rss_bytes: u64,
}

impl From<CrashRecord> for Crash {
    fn from(CrashRecord { id, report }: CrashRecord) -> Self {
        let RunId(run) = report.run;
        let (code, signal, core_dumped) = match report.status {
            ExitStatus::Code(code) => (Some(code), None, false),
            ExitStatus::Signal { signal, core_dumped } => (None, Some(signal), core_dumped),
            ExitStatus::Unknown => (None, None, false),
        };
        Self {
            id: id.0.to_string(),
            at: report.at,
            instance: report.instance,
            run: run.to_string(),
            code,
            signal,
            core_dumped,
            out_of_memory: report.out_of_memory,
            reason: report.reason,
            uptime_seconds: report.uptime.as_secs_f64(),
            restarts: report.restarts,
            usage: report.usage.map(|usage| CrashUsage {
                user_seconds: usage.user_time.as_secs_f64(),
                system_seconds: usage.system_time.as_secs_f64(),
                max_rss_bytes: usage.max_rss_bytes,
            }),
            last_lines: report.last_lines,
        }
    }
}

/// Abnormal exits.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Crashes {
    /// Newest first.
    pub crashes: Vec<Crash>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct CrashesQuery {
    /// Only of these: names, patterns, `tag:x`, templates; comma-separated.
    target: Option<String>,
    /// Only at or after this time: RFC 3339, or a span such as `10m` before now.
    since: Option<String>,
    /// At most so many, 1 to 1000; 100 where it is left out.
    limit: Option<u32>,
}

/// Reports of abnormal exits.
#[utoipa::path(get, path = "/v1/crashes", params(CrashesQuery),
    responses((status = 200, body = Crashes), (status = "default", body = Problem)))]
pub(super) async fn crashes(
    State(fleet): State<Fleet>,
    Query(query): Query<CrashesQuery>,
) -> Result<Json<Crashes>, Problem> {
    let page = CrashQuery {
        instances: choose_past(&fleet, &words(query.target.as_ref())).await?,
        since: when("since", query.since.as_ref())?,
        limit: query.limit.unwrap_or(LIMIT).clamp(1, MOST),
    };
    let crashes = fleet.store().crashes(page).await?;
    Ok(Json(Crashes { crashes: crashes.into_iter().map(Crash::from).collect() }))
}
