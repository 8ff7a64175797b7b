//! The control API over a real unix socket.

#![expect(clippy::unwrap_used, reason = "the functions around the tests are tests, too")]

use std::{collections::BTreeSet, future::Future, path::Path, sync::Arc, time::Duration};

use kissops_core::{
    Error, Timestamp,
    config::{self, Environment},
    control::{ControlSocket, serve_unix},
    fleet::Fleet,
    id::{InstanceName, RunId},
    store::{CrashReport, Store, sqlite::SqliteStore},
    supervisor::{ExitStatus, Leave, Supervisor},
};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::oneshot,
    task::JoinHandle,
};

const DEADLINE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// A served fleet of `web`, `twitch@a` and `twitch@b`, the last two tagged `chat`.
struct Served {
    folder: tempfile::TempDir,
    fleet: Fleet,
    client: Client,
    end: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

const CONFIG: &str = r#"
[daemon]
name = "test"
log_dir = "."
[defaults]
autostart = false
command = ["sleep", "1000"]
[instance.web]
[template.twitch]
tags = ["chat"]
vars = { x = "z" }
env = { X = "{vars.x}" }
instances = ["a", "b"]
"#;

impl Served {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kissops.toml");
        std::fs::write(&file, CONFIG).unwrap();
        let environment = Environment::of_process();
        let config = config::load(&file, &environment).unwrap_or_else(|e| panic!("{}", e.render()));
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let supervisor = Supervisor::builder(store)
            .log_dir(folder.path())
            .runtime_dir(folder.path().join("run"))
            .build()
            .unwrap();
        let fleet = Fleet::begin(supervisor, config, environment, Arc::default()).await.unwrap();
        let socket = ControlSocket::bind(&folder.path().join("run")).unwrap();
        let client = kissops_core::control::client(socket.path()).unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = ended.await;
        };
        let server = tokio::spawn(serve_unix(socket, fleet.clone(), shutdown));
        Self { folder, fleet, client, end, server }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("run/control.sock")
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let request = self.client.request(method, format!("http://kissops{path}"));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        soon(path, request.send()).await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.send(Method::GET, path, None).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    async fn act(&self, body: Value) -> Value {
        let response = self.send(Method::POST, "/v1/instances/actions", Some(body)).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    /// The code of the problem, checked to be one.
    async fn problem(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        problem(self.send(method, path, body).await).await
    }

    async fn close(self) {
        let _ = self.end.send(());
        soon("the end of the server", self.server).await.unwrap();
        soon("the end of the fleet", self.fleet.supervisor().shutdown(Leave::Stopped)).await;
        assert!(!self.folder.path().join("run/control.sock").exists());
    }
}

async fn problem(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], status);
    for member in ["type", "title", "detail", "code", "help"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {body}");
    }
    (status, body)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn status_of_all_and_of_some() {
    let served = Served::new().await;
    let status = served.get("/v1/status").await;
    assert_eq!(status["verdict"], "pass");
    assert_eq!(status["fleet"]["pid"], std::process::id());
    assert_eq!(names(&status["instances"]), ["twitch@a", "twitch@b", "web"]);
    for target in ["twitch", "twitch@*", "tag:chat", "twitch@b,twitch@a"] {
        let status = served.get(&format!("/v1/status?target={target}")).await;
        assert_eq!(names(&status["instances"]), ["twitch@a", "twitch@b"], "{target}");
    }
    let (status, body) = served.problem(Method::GET, "/v1/status?target=wbe", None).await;
    assert_eq!((status, &body["code"]), (404, &json!("not_found")));
    assert!(body["detail"].as_str().unwrap().contains("did you mean `web`?"), "{body}");
    served.close().await;
}

#[tokio::test]
async fn actions_reach_their_targets_and_can_be_repeated() {
    let served = Served::new().await;
    for _ in 0..2 {
        let done = served
            .act(json!({"action": "start", "targets": ["tag:chat"], "wait": true, "timeout": "5s"}))
            .await;
        assert_eq!(names(&done["results"]), ["twitch@a", "twitch@b"]);
        for result in done["results"].as_array().unwrap() {
            assert_eq!(
                (&result["ok"], &result["state"], &result["error"]),
                (&json!(true), &json!("running"), &Value::Null)
            );
        }
    }
    let done = served
        .act(
            json!({"action": "restart", "all": true, "wait": true, "batch": 2, "wait_ready": true}),
        )
        .await;
    assert_eq!(done["results"].as_array().unwrap().len(), 3);
    let done = served.act(json!({"action": "signal", "signal": "HUP", "targets": ["web"]})).await;
    assert_eq!(done["results"][0]["ok"], true);
    let done = served.act(json!({"action": "stop", "targets": ["web"], "wait": true})).await;
    assert_eq!(done["results"][0]["state"], "stopped");
    let done = served.act(json!({"action": "reload", "targets": ["web"]})).await;
    assert_eq!(done["results"][0]["error"]["code"], "wrong_state");
    assert!(!done["results"][0]["error"]["help"].as_str().unwrap().is_empty());
    let done = served.act(json!({"action": "reset", "targets": ["web"]})).await;
    assert_eq!(done["results"][0]["ok"], true);
    served.close().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_change_nothing() {
    let served = Served::new().await;
    for body in [
        json!({"action": "start"}),
        json!({"action": "start", "targets": ["web"], "all": true}),
        json!({"action": "start", "targets": ["[x"]}),
        json!({"action": "fly", "targets": ["web"]}),
        json!({"action": "start", "targets": ["web"], "colour": "red"}),
        json!({"action": "signal", "targets": ["web"]}),
        json!({"action": "start", "targets": ["web"], "signal": "HUP"}),
        json!({"action": "signal", "targets": ["web"], "signal": "SIGFOO"}),
        json!({"action": "start", "targets": ["web"], "timeout": "soon"}),
        json!({"action": "restart", "targets": ["web"], "wait": true, "batch": 0}),
        json!({"action": "restart", "targets": ["web"], "batch": 1}),
        json!({"action": "restart", "targets": ["web"], "wait": true, "wait_ready": true}),
        json!([]),
    ] {
        let path = "/v1/instances/actions";
        let (status, answer) = served.problem(Method::POST, path, Some(body.clone())).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_request")), "{body}");
    }
    let unknown = json!({"action": "start", "targets": ["web", "nobody"]});
    let (status, _) = served.problem(Method::POST, "/v1/instances/actions", Some(unknown)).await;
    assert_eq!(status, 404);
    let events = served.get("/v1/events").await;
    assert_eq!(events, json!({"events": [], "next": null}));
    served.close().await;
}

#[tokio::test]
async fn bodies_are_checked_and_limited() {
    let served = Served::new().await;
    let post = || served.client.post("http://kissops/v1/reload");
    let kind = "content-type";
    let response = post().header(kind, "application/json").body("{ nonsense").send().await.unwrap();
    let (status, body) = problem(response).await;
    assert_eq!(status, 400);
    assert!(body["detail"].as_str().unwrap().contains("line 1 column 3"), "{body}");
    let response = post().header(kind, "text/plain").body("{}").send().await.unwrap();
    assert_eq!(problem(response).await.0, 415);
    let large = format!("{}{{}}", " ".repeat(2 << 20));
    // The server may close before all was sent, so the write may fail first; what must not happen is success.
    if let Ok(response) = post().header(kind, "application/json").body(large).send().await {
        assert_eq!(problem(response).await.0, 413);
    }
    let response = post().header(kind, "application/json; charset=utf-8").body("{}").send().await;
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    served.close().await;
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let served = Served::new().await;
    let (status, body) = served.problem(Method::GET, "/v1/nothing", None).await;
    assert_eq!((status, &body["code"]), (404, &json!("no_such_route")));
    let response = served.send(Method::PUT, "/v1/members", None).await;
    let allow = response.headers()["allow"].to_str().unwrap().to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    let (status, body) = problem(response).await;
    assert_eq!((status, &body["code"]), (405, &json!("method_not_allowed")));
    for path in ["/v1/status?colour=red", "/v1/events?limit=many", "/v1/events?since=yore"] {
        let (status, _) = served.problem(Method::GET, path, None).await;
        assert_eq!(status, 400, "{path}");
    }
    served.close().await;
}

#[tokio::test]
async fn one_instance_in_full() {
    let served = Served::new().await;
    served.act(json!({"action": "start", "targets": ["web"], "wait": true})).await;
    let report = crash("web", 7);
    served.fleet.store().add_crash(report).await.unwrap();
    let detail = served.get("/v1/instances/web").await;
    assert_eq!(detail["instance"]["state"], "running");
    assert_eq!(detail["definition"]["command"], json!(["sleep", "1000"]));
    assert_eq!(detail["events"][1]["to"], "running");
    assert_eq!(detail["last_crash"]["code"], 7);
    assert!(detail["processes"].is_array());
    let (status, _) = served.problem(Method::GET, "/v1/instances/nobody", None).await;
    assert_eq!(status, 404);
    let (status, _) = served.problem(Method::GET, "/v1/instances/twitch@*", None).await;
    assert_eq!(status, 400);
    let definitions = served.get("/v1/definitions?target=web").await;
    assert_eq!(names(&definitions["instances"]), ["web"]);
    assert_eq!(served.get("/v1/definitions").await["instances"].as_array().unwrap().len(), 3);
    served.close().await;
}

fn crash(name: &str, code: i32) -> CrashReport {
    CrashReport {
        instance: InstanceName::new(name).unwrap(),
        run: RunId(1),
        at: Timestamp(1_790_000_000_000_000),
        status: ExitStatus::Code(code),
        reason: format!("exit code {code}"),
        out_of_memory: false,
        uptime: Duration::from_secs(3),
        usage: None,
        restarts: 0,
        last_lines: vec!["bye".to_owned()],
    }
}

#[tokio::test]
async fn crashes_newest_first() {
    let served = Served::new().await;
    for (name, code) in [("web", 1), ("twitch@a", 2), ("web", 3)] {
        served.fleet.store().add_crash(crash(name, code)).await.unwrap();
    }
    let codes = |crashes: &Value| -> Vec<i64> {
        let list = crashes["crashes"].as_array().unwrap().iter();
        list.map(|crash| crash["code"].as_i64().unwrap()).collect()
    };
    assert_eq!(codes(&served.get("/v1/crashes").await), [3, 2, 1]);
    assert_eq!(codes(&served.get("/v1/crashes?target=web&limit=1").await), [3]);
    served.close().await;
}

#[tokio::test]
async fn events_in_pages() {
    let served = Served::new().await;
    for action in ["start", "stop", "start"] {
        served.act(json!({"action": action, "targets": ["web", "twitch@a"], "wait": true})).await;
    }
    let latest = served.get("/v1/events?limit=2").await;
    assert_eq!((latest["events"].as_array().unwrap().len(), &latest["next"]), (2, &Value::Null));
    let mut after = "0".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = served.get(&format!("/v1/events?instance=web&after={after}&limit=2")).await;
        seen.extend(page["events"].as_array().unwrap().iter().map(|e| e["to"].clone()));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    let (up, down) = (["starting", "running"], ["stopping", "stopped"]);
    assert_eq!(seen, [up, down, up].concat());
    let none = served.get("/v1/events?until=1h&since=2h").await;
    assert_eq!(none["events"], json!([]));
    served.close().await;
}

/// Reads a stream of server-sent events.
struct Sse {
    response: Response,
    text: String,
}

impl Sse {
    async fn open(served: &Served, query: &str, last: Option<&str>) -> Self {
        let mut request = served.client.get(format!("http://kissops/v1/events{query}"));
        request = request.header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = soon("a stream", request.send()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let data = block.lines().find_map(|line| line.strip_prefix("data: "));
                let Some(data) = data else { continue };
                let event: Value = serde_json::from_str(data).unwrap();
                let id = block.lines().find_map(|line| line.strip_prefix("id: "));
                assert_eq!(event["id"].as_str(), id);
                return Some(event);
            }
            let chunk = soon("an event", self.response.chunk()).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_resumes_where_it_was_cut() {
    let served = Served::new().await;
    let mut live = Sse::open(&served, "?target=web", None).await;
    served.act(json!({"action": "start", "targets": ["web"], "wait": true})).await;
    let first = live.next().await.unwrap();
    assert_eq!((&first["from"], &first["to"]), (&json!("stopped"), &json!("starting")));
    drop(live);
    for action in ["stop", "start"] {
        served.act(json!({"action": action, "targets": ["web"], "wait": true})).await;
    }
    let mut resumed = Sse::open(&served, "?follow=1&target=web", first["id"].as_str()).await;
    served.act(json!({"action": "stop", "targets": ["web"], "wait": true})).await;
    let mut states = Vec::new();
    for _ in 0..7 {
        states.push(resumed.next().await.unwrap()["to"].clone());
    }
    let (up, down) = (["starting", "running"], ["stopping", "stopped"]);
    assert_eq!(states, [&["running"][..], &down, &up, &down].concat());
    // A shutdown ends streams at once, instead of waiting for them.
    served.close().await;
    assert_eq!(resumed.next().await, None);
}

/// Far more than the channel and the socket's buffers hold.
const NOTES: usize = 20_000;

#[tokio::test]
async fn a_slow_reader_misses_nothing() {
    let served = Served::new().await;
    let mut stream = Sse::open(&served, "", None).await;
    for number in 0..NOTES {
        served.fleet.supervisor().note("test.note", &number.to_string());
    }
    let mut last = 0;
    for number in 0..NOTES {
        let event = stream.next().await.unwrap();
        let id: i64 = event["id"].as_str().unwrap().parse().unwrap();
        assert!(last < id, "event {number}");
        assert_eq!(event["reason"], number.to_string());
        last = id;
    }
    let response = served
        .client
        .get("http://kissops/v1/events?follow=1")
        .header("last-event-id", "x")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(response).await.0, 400);
    drop(stream);
    served.close().await;
}

#[tokio::test]
async fn members_come_and_go() {
    let served = Served::new().await;
    let body = json!({"name": "twitch@c", "vars": {"x": "y"}});
    let response = served.send(Method::POST, "/v1/members", Some(body.clone())).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let (status, answer) = served.problem(Method::POST, "/v1/members", Some(body)).await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")));
    let members = served.get("/v1/members").await;
    assert_eq!(names(&members["members"]), ["twitch@a", "twitch@b", "twitch@c"]);
    assert_eq!(members["members"][2]["vars"]["x"], "y");
    let (status, _) =
        served.problem(Method::POST, "/v1/members", Some(json!({"name": "solo"}))).await;
    assert_eq!(status, 400);
    let response = served.send(Method::DELETE, "/v1/members/twitch@c", None).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let (status, _) = served.problem(Method::DELETE, "/v1/members/twitch@c", None).await;
    assert_eq!(status, 404);
    served.close().await;
}

#[tokio::test]
async fn probes_reload_and_stop() {
    let served = Served::new().await;
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(served.get(path).await, json!({"status": "pass"}));
    }
    let response = served.send(Method::POST, "/v1/reload", Some(json!({"dry_run": true}))).await;
    let plan: Value = response.json().await.unwrap();
    assert_eq!(plan["unchanged"].as_array().unwrap().len(), 3);
    let response =
        served.send(Method::POST, "/v1/stop", Some(json!({"leave_running": true}))).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(soon("the request", served.fleet.stop_requested()).await, Leave::Running);
    served.close().await;
}

#[tokio::test]
async fn openapi_lists_every_route_and_no_other() {
    let served = Served::new().await;
    let document = served.get("/v1/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut routes = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let listed: BTreeSet<String> =
            operations.as_object().unwrap().keys().map(|m| m.to_uppercase()).collect();
        let path = path.replace("{name}", "x@y");
        let response = served.send(Method::PATCH, &path, None).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allow = response.headers()["allow"].to_str().unwrap();
        let served: BTreeSet<String> =
            allow.split(',').map(str::to_owned).filter(|method| method != "HEAD").collect();
        assert_eq!(listed, served, "{path}");
        routes += 1;
    }
    assert_eq!(routes, kissops_core::control::paths().count());
    served.close().await;
}

#[tokio::test]
async fn a_head_that_does_not_come_is_given_up() {
    let served = Served::new().await;
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut rest = Vec::new();
    let read = soon("the end of a slow head", stream.read_to_end(&mut rest)).await;
    assert!(read.is_err() || !rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    let head = format!("GET /v1/status HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(64 << 10));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut rest = Vec::new();
    let _ = soon("the refusal of a large head", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 431"), "{rest:?}");
    served.close().await;
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let served = Served::new().await;
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(Sse::open(&served, "", None).await);
    }
    let (status, body) = served.problem(Method::GET, "/v1/status", None).await;
    assert_eq!((status, &body["code"]), (503, &json!("busy")));
    drop(held);
    served.close().await;
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_socket_is_closed_to_others_and_replaced_only_when_dead() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("a/run");
    let socket = ControlSocket::bind(&run).unwrap();
    assert_eq!((mode(&run), mode(socket.path())), (0o700, 0o600));
    assert!(matches!(ControlSocket::bind(&run), Err(Error::Conflict { .. })));
    // A dead one: its file is there, and nobody listens.
    let path = socket.path().to_owned();
    drop(socket);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = ControlSocket::bind(&run).unwrap();
    drop(socket);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(ControlSocket::bind(&run), Err(Error::Denied { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let long = folder.path().join("x".repeat(100));
    assert!(matches!(ControlSocket::bind(&long), Err(Error::InvalidConfig { .. })));
}

fn write_log(served: &Served, name: &str, text: &str) {
    use std::io::Write as _;
    let folder = served.fleet.log_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(folder.join("current")).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

async fn lines(response: Response) -> Vec<Value> {
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = soon("the log", response.text()).await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn logs_of_several_in_order_and_to_come() {
    let served = Served::new().await;
    write_log(
        &served,
        "web",
        "2026-11-20T03:04:05.000001Z O one\n2026-11-20T03:04:05.000003Z E ERROR three\n",
    );
    write_log(&served, "twitch@a", "2026-11-20T03:04:05.000002Z O two\n");
    write_log(&served, "gone", "2026-11-20T03:04:05.000004Z O four\n");
    let texts = |lines: &[Value]| -> Vec<String> {
        lines.iter().map(|line| line["line"].as_str().unwrap().to_owned()).collect()
    };
    for (query, expected) in [
        ("", &["one", "two", "ERROR three"][..]),
        ("?target=web,twitch", &["one", "two", "ERROR three"]),
        ("?lines=1", &["ERROR three"]),
        ("?target=web&stream=stderr", &["ERROR three"]),
        ("?grep=^t", &["two"]),
        ("?level=error", &["ERROR three"]),
        ("?target=gone", &["four"]),
        ("?since=2026-11-20T03:04:05.000002Z&until=2026-11-20T03:04:05.000002Z", &["two"]),
    ] {
        let response = served.send(Method::GET, &format!("/v1/logs{query}"), None).await;
        assert_eq!(texts(&lines(response).await), expected, "{query}");
    }
    for query in ["grep=[", "level=loud", "since=yore", "lines=999999999", "stream=x"] {
        let (status, _) = served.problem(Method::GET, &format!("/v1/logs?{query}"), None).await;
        assert_eq!(status, 400, "{query}");
    }
    let (status, _) = served.problem(Method::GET, "/v1/logs?target=nobody", None).await;
    assert_eq!(status, 404);

    let mut response = served.send(Method::GET, "/v1/logs?target=web&follow=1", None).await;
    let mut text = String::new();
    let mut read_until = async |wanted: &str| {
        while !text.contains(wanted) {
            let chunk = soon("a line", response.chunk()).await.unwrap();
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    };
    read_until("three").await;
    write_log(&served, "web", "2026-11-20T03:04:06.000000Z O five\n");
    read_until("five").await;
    // A shutdown ends it at once.
    served.close().await;
}
