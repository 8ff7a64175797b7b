//! The daemon's API, over its socket.

use std::{fmt::Write as _, io, path::PathBuf, time::Duration};

use kissops_core::control::{self, Event, Probe, Problem, Status};
use reqwest::{Method, Response};
use serde::{Serialize, de::DeserializeOwned};

use crate::{context::Context, exit::Failure, settings};

/// A connection to the daemon; made at the first request.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

/// The server answers ordinary requests within 30 s, or says that it could not.
const LIMIT: Duration = Duration::from_secs(40);

impl Client {
    pub(crate) fn new(context: &Context) -> Result<Self, Failure> {
        Self::at(settings::socket(context)?)
    }

    pub(crate) fn at(socket: PathBuf) -> Result<Self, Failure> {
        let http = control::client(&socket)?;
        Ok(Self { http, socket })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let response = self.request(Method::GET, path, None::<&()>, Some(LIMIT)).await?;
        self.parse(response).await
    }

    /// Sends `body`. Without `limit` it waits as long as the daemon does.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        limit: Option<Duration>,
    ) -> Result<T, Failure> {
        let response = self.request(Method::POST, path, Some(body), limit).await?;
        self.parse(response).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.request(Method::DELETE, path, None::<&()>, Some(LIMIT)).await.map(drop)
    }

    /// Any request. Without `limit` it waits as long as the daemon does. An answer without a body is one of `()`.
    pub(crate) async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        limit: Option<Duration>,
    ) -> Result<T, Failure> {
        let response = self.request(method, path, body, limit).await?;
        self.parse(response).await
    }

    /// An answer that may go on for ever.
    pub(crate) async fn stream(&self, path: &str) -> Result<Response, Failure> {
        self.request(Method::GET, path, None::<&()>, None).await
    }

    pub(crate) async fn status(&self, targets: &[String]) -> Result<Status, Failure> {
        self.get(&Query::new("/v1/status").targets(targets).path()).await
    }

    /// The daemon answers, and nothing stands in the way of asking it.
    pub(crate) async fn is_up(&self) -> Result<bool, Failure> {
        match self.get::<Probe>("/livez").await {
            Ok(_) => Ok(true),
            Err(failure) if failure.is("daemon_unreachable") => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn request<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        limit: Option<Duration>,
    ) -> Result<Response, Failure> {
        let mut request = self.http.request(method, format!("http://kissops{path}"));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(limit) = limit {
            request = request.timeout(limit);
        }
        let response = request.send().await.map_err(|err| self.unreachable(&err))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let problem: Problem = response.json().await.map_err(|_| {
            Failure::new(
                "protocol",
                format!("the daemon answered {status} without saying why"),
                "is this kissopsd, and of the same version?",
            )
        })?;
        Err(problem.into())
    }

    async fn parse<T: DeserializeOwned>(&self, response: Response) -> Result<T, Failure> {
        let bytes = response.bytes().await.map_err(|err| self.unreachable(&err))?;
        let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(bytes).map_err(|err| {
            Failure::new(
                "protocol",
                format!("the daemon's answer cannot be read: {err}"),
                "kissops and kissopsd should be of the same version",
            )
        })
    }

    /// Nobody answers, and nothing else can be done.
    pub(crate) fn absent(&self) -> Failure {
        Failure::new(
            "daemon_unreachable",
            format!("no daemon answers at {}", self.socket.display()),
            "start it with kissops up (or kissopsd); --config or --socket name another one",
        )
    }

    pub(crate) fn unreachable(&self, err: &reqwest::Error) -> Failure {
        let socket = self.socket.display();
        if err.is_timeout() {
            return Failure::new(
                "timeout",
                format!("the daemon at {socket} does not answer in time"),
                "kissops doctor; if it hangs, its log says more",
            );
        }
        match cause(err).map(io::Error::kind) {
            Some(io::ErrorKind::PermissionDenied) => Failure::new(
                "denied",
                format!("no permission to use {socket}"),
                "ask as root or as the daemon's own user",
            ),
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => self.absent(),
            _ => Failure::new(
                "daemon_unreachable",
                format!("the daemon at {socket} closed the connection"),
                "look whether it still runs: kissops doctor",
            ),
        }
    }
}

/// The system's error below `err`, if one lies there.
fn cause(err: &reqwest::Error) -> Option<&io::Error> {
    let mut next = std::error::Error::source(err);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        next = cause.source();
    }
    None
}

/// A path with its query.
#[derive(Debug)]
pub(crate) struct Query(String);

impl Query {
    pub(crate) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn path(self) -> String {
        self.0
    }

    pub(crate) fn targets(self, targets: &[String]) -> Self {
        if targets.is_empty() { self } else { self.add("target", &targets.join(",")) }
    }

    pub(crate) fn add(mut self, key: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0 += key;
        self.0.push('=');
        self.0 += &escape(value);
        self
    }

    pub(crate) fn option(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.add(key, value),
            None => self,
        }
    }
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The lines of an answer as they come; a last one without an end counts.
#[derive(Debug)]
pub(crate) struct Lines {
    response: Response,
    buffer: Vec<u8>,
    start: usize,
}

impl Lines {
    pub(crate) fn new(response: Response) -> Self {
        Self { response, buffer: Vec::new(), start: 0 }
    }

    /// The next line has not come yet, so what was printed should be shown.
    pub(crate) fn is_drained(&self) -> bool {
        self.buffer.get(self.start..).is_none_or(|rest| !rest.contains(&b'\n'))
    }

    /// The next line without its end; `None` at the end, also when the daemon went away.
    pub(crate) async fn next(&mut self) -> Option<String> {
        let mut searched = self.start;
        loop {
            if let Some(found) =
                self.buffer.get(searched..).and_then(|rest| rest.iter().position(|b| *b == b'\n'))
            {
                let line = self.buffer.get(self.start..searched + found).unwrap_or_default();
                let line = String::from_utf8_lossy(line).into_owned();
                self.start = searched + found + 1;
                return Some(line);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            searched = self.buffer.len();
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) | Err(_) if self.buffer.is_empty() => return None,
                Ok(None) | Err(_) => {
                    let line = String::from_utf8_lossy(&self.buffer).into_owned();
                    self.buffer.clear();
                    return Some(line);
                }
            }
        }
    }
}

/// Live events, after the one of id `after`.
#[derive(Debug)]
pub(crate) struct EventStream {
    lines: Lines,
}

impl EventStream {
    pub(crate) async fn open(
        client: &Client,
        targets: &[String],
        after: Option<&str>,
    ) -> Result<Self, Failure> {
        let query = Query::new("/v1/events").add("follow", "1").targets(targets);
        let response = client.stream(&query.option("after", after).path()).await?;
        Ok(Self { lines: Lines::new(response) })
    }

    /// The next event; `None` when the daemon went away.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let line = self.lines.next().await?;
            // Only `data` matters: the id is in it, too.
            let event = line.strip_prefix("data:").map(|data| serde_json::from_str(data.trim()));
            if let Some(Ok(event)) = event {
                return Some(event);
            }
        }
    }
}
