//! `GET /v1/logs`: what instances wrote, as lines of JSON, to the end or for ever.

use std::{io, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use regex::RegexBuilder;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinHandle};
use utoipa::{IntoParams, ToSchema};

use super::{
    Closing, Failure, Problem,
    query::{Query, choose, moment, words},
};
use crate::{
    Error, Result, clock,
    fleet::Fleet,
    id::InstanceName,
    logs::{LogFollow, LogLine, LogLines, LogQuery, LogReader, LogStream},
};

/// Which lines of whose output. As a query string it is what `GET /v1/logs` takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct LogRequest {
    /// Only of these: names, patterns, `tag:x`, templates; comma-separated. All where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The last so many lines, 50000 at most; 100 where neither this nor a time is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<usize>,
    /// Only at or after this time: RFC 3339, or a span such as `10m` before now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only until this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Only lines that match this regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grep: Option<String>,
    /// Only lines of this level or worse: `debug`, `info`, `warn`, `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Only this stream: `stdout` or `stderr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub stream: Option<LogStream>,
    /// `1`: go on with the lines to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow: Option<u8>,
}

/// As many lines as are shown when nobody says how many.
const LINES: usize = 100;
/// The last lines are held in memory at once.
const MOST_LINES: usize = 50_000;
/// A regular expression may compile to so many bytes.
const REGEX_BYTES: usize = 1 << 20;

impl LogRequest {
    /// The query for the reader of the files.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig), which names the parameter that makes no sense.
    pub fn query(&self, instances: Vec<InstanceName>) -> Result<LogQuery> {
        let now = clock::now();
        let when = |key, text: &Option<String>| {
            text.as_deref().map(|text| moment(key, text, now)).transpose()
        };
        let lines = match self.lines {
            Some(lines) if lines > MOST_LINES => {
                let rule = format!("must be at most {MOST_LINES}; give `since` to read more");
                return Err(Error::invalid("lines", rule));
            }
            None if self.since.is_none() && self.until.is_none() => Some(LINES),
            lines => lines,
        };
        let grep = self.grep.as_deref().map(|text| {
            let built = RegexBuilder::new(text).size_limit(REGEX_BYTES).build();
            built.map_err(|err| {
                // The first line only repeats the expression.
                let text = err.to_string();
                let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                Error::invalid("grep", format!("is not a regular expression: {why}"))
            })
        });
        Ok(LogQuery {
            instances,
            lines,
            since: when("since", &self.since)?,
            until: when("until", &self.until)?,
            grep: grep.transpose()?,
            level: self.level.as_deref().map(str::parse).transpose()?,
            stream: self.stream,
        })
    }

    fn follows(&self) -> bool {
        self.follow.is_some_and(|follow| follow != 0)
    }
}

/// The last line of a stream that could not go on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogFailure {
    /// Why.
    pub error: Failure,
}

/// What instances wrote: one JSON object a line, `{"at","instance","stream","line"}`, by time.
#[utoipa::path(get, path = "/v1/logs", params(LogRequest),
    responses((status = 200, description = "application/x-ndjson; a line with `error` ends it early", body = LogFailure),
        (status = "default", body = Problem)))]
pub(super) async fn logs(
    State(fleet): State<Fleet>,
    Query(request): Query<LogRequest>,
    closing: Option<Extension<Closing>>,
) -> Result<Response, Problem> {
    let instances = whose(&fleet, &words(request.target.as_ref()))?;
    let query = request.query(instances).map_err(|err| Problem::bad_request(err.to_string()))?;
    let reader = LogReader::new(fleet.log_dir());
    let follows = request.follows();
    let opened = blocking(move || {
        if follows {
            reader.follow(&query).map(|(lines, follow)| (lines, Some(follow)))
        } else {
            reader.read(&query).map(|lines| (lines, None))
        }
    });
    let (lines, follow) = opened.await??;
    let (sender, chunks) = mpsc::channel(4);
    let produced = tokio::task::spawn_blocking(move || produce(lines, &sender));
    let closing = closing.map(|Extension(closing)| closing).unwrap_or_default();
    let source = Source { chunks, produced: Some(produced), follow, closing };
    let body = Body::from_stream(stream::unfold(source, |mut source| async move {
        let chunk = source.next().await?;
        Some((Ok::<_, io::Error>(Bytes::from(chunk)), source))
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// The fleet's instances, and those that are gone but have left a log.
fn whose(fleet: &Fleet, targets: &[String]) -> Result<Vec<InstanceName>, Problem> {
    let statuses = fleet.status();
    if targets.is_empty() {
        return Ok(statuses.into_iter().map(|status| status.name).collect());
    }
    let mut chosen = Vec::new();
    for target in targets {
        match choose(&statuses, std::slice::from_ref(target)) {
            Ok(names) => chosen.extend(names),
            Err(problem) => match InstanceName::new(target) {
                Ok(name) if fleet.log_dir().join(name.as_str()).is_dir() => chosen.push(name),
                _ => return Err(problem),
            },
        }
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}

/// Runs what reads files off the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::unavailable("the reader of the logs"))
}

/// Lines are sent in pieces of about this size.
const CHUNK: usize = 32 << 10;

/// Sends all lines; ends early when nobody listens.
fn produce(lines: LogLines, chunks: &mpsc::Sender<Vec<u8>>) {
    let mut chunk = Vec::new();
    for line in lines {
        write(&mut chunk, &line);
        if chunk.len() >= CHUNK && chunks.blocking_send(std::mem::take(&mut chunk)).is_err() {
            return;
        }
    }
    if !chunk.is_empty() {
        // Nobody listens any more, or it is the end: the same to us.
        let _ = chunks.blocking_send(chunk);
    }
}

fn write<T: Serialize>(chunk: &mut Vec<u8>, line: &T) {
    let before = chunk.len();
    match serde_json::to_writer(&mut *chunk, line) {
        Ok(()) => chunk.push(b'\n'),
        Err(_) => chunk.truncate(before),
    }
}

/// How often the files are looked at for new lines.
const LOOK: Duration = Duration::from_millis(250);

/// First what there is, then what comes.
struct Source {
    chunks: mpsc::Receiver<Vec<u8>>,
    produced: Option<JoinHandle<()>>,
    follow: Option<LogFollow>,
    closing: Closing,
}

impl Source {
    async fn next(&mut self) -> Option<Vec<u8>> {
        let closing = self.closing.clone();
        tokio::select! {
            () = closing.wait() => None,
            chunk = self.chunk() => chunk,
        }
    }

    async fn chunk(&mut self) -> Option<Vec<u8>> {
        if let Some(chunk) = self.chunks.recv().await {
            return Some(chunk);
        }
        if let Some(produced) = self.produced.take() {
            // It has closed its channel, so it has ended.
            let _ = produced.await;
        }
        loop {
            let mut follow = self.follow.take()?;
            let (follow, looked) = match blocking(move || {
                let looked = follow.poll();
                (follow, looked)
            })
            .await
            {
                Ok(looked) => looked,
                Err(err) => return Some(farewell(err)),
            };
            let lines: Vec<LogLine> = match looked {
                Ok(lines) => lines,
                Err(err) => return Some(farewell(err)),
            };
            self.follow = Some(follow);
            if lines.is_empty() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let mut chunk = Vec::new();
            for line in &lines {
                write(&mut chunk, line);
            }
            return Some(chunk);
        }
    }
}

/// The last words of a stream that cannot go on.
fn farewell(err: Error) -> Vec<u8> {
    let mut chunk = Vec::new();
    write(&mut chunk, &LogFailure { error: err.into() });
    chunk
}
