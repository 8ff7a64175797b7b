//! What operators do with a vault: over the control socket, and in a process without a daemon.

#![expect(clippy::unwrap_used, reason = "the functions around the tests are tests, too")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use kissops_core::{
    Error, Result, Timestamp,
    config::{self, Environment},
    control::{Api, ControlSocket, LocalVault, serve_unix},
    fleet::Fleet,
    id::InstanceName,
    store::{
        Actor, AuditOutcome, AuditQuery, AuditStore as _, DataKeyStore as _, Desired, EventQuery,
        EventStore as _, Generation, GrantId, GrantKey, GrantQuery, GrantRecord, GrantState,
        GrantStatus, GrantStore as _, InstanceStore as _, NewGrant, Store, StoreUrl,
        sqlite::{SqliteOptions, SqliteStore},
    },
    supervisor::{Leave, Supervisor},
    vault::{
        AccessToken, Http, Kek, Keyring, Keys, NewTokens, Providers, Revocation, TokenSet,
        TokenVault, VaultEvent, VaultEventKind,
        admin::{OperatedVault, VaultAdmin, VaultParts},
    },
};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, oneshot},
    task::JoinHandle,
};

/// A token that nothing may show unless it was asked for.
const CANARY: &str = "canary-4f1d0c77b2";
const NOW: Timestamp = Timestamp(1_790_000_000_000_000);

/// Keeps tokens in memory and the rest in a store; its provider confirms no revocation of `stubborn`.
#[derive(Debug)]
struct Plain {
    store: Arc<SqliteStore>,
    keyring: Result<Keyring>,
    tokens: Mutex<BTreeMap<GrantKey, TokenSet>>,
    events: broadcast::Sender<VaultEvent>,
}

impl Plain {
    fn status(state: GrantState) -> GrantStatus {
        GrantStatus { state, failure: None, next_refresh_at: None, next_validate_at: None }
    }

    async fn record(&self, key: &GrantKey) -> Result<GrantRecord> {
        let found = self.store.grant(key).await?;
        found.ok_or_else(|| Error::NotFound { what: format!("grant {key}") })
    }
}

#[async_trait]
impl TokenVault for Plain {
    async fn put(&self, new: NewTokens) -> Result<GrantId> {
        let id = GrantId(i64::try_from(self.tokens.lock().unwrap().len()).unwrap() + 1);
        let grant = NewGrant {
            id,
            key: new.key.clone(),
            client: "id".into(),
            flow: new.flow,
            scopes: new.tokens.scopes.clone().unwrap_or_default(),
            instances: new.instances.unwrap_or_default(),
            created_at: NOW,
        };
        self.store.add_grant(grant).await?;
        let record = self.record(&new.key).await?;
        let active = Self::status(GrantState::Active { since: NOW });
        self.store.set_grant_status(id, record.version, active, NOW).await?;
        self.tokens.lock().unwrap().insert(new.key, new.tokens);
        Ok(id)
    }

    async fn token(&self, key: &GrantKey) -> Result<AccessToken> {
        self.record(key).await?;
        let tokens = self.tokens.lock().unwrap().get(key).cloned();
        let tokens = tokens.ok_or_else(|| Error::NotFound { what: format!("token of {key}") })?;
        Ok(AccessToken {
            key: key.clone(),
            token: tokens.access,
            generation: Generation(1),
            expires_at: tokens.access_expires_at,
            scopes: BTreeSet::new(),
        })
    }

    async fn token_after(&self, key: &GrantKey, _: Generation) -> Result<AccessToken> {
        self.token(key).await
    }

    async fn refresh(&self, key: &GrantKey) -> Result<AccessToken> {
        self.token(key).await
    }

    async fn report_invalid(&self, key: &GrantKey, _: Generation) -> Result<AccessToken> {
        self.token(key).await
    }

    async fn grant(&self, key: &GrantKey) -> Result<GrantRecord> {
        self.record(key).await
    }

    async fn grants(&self, query: GrantQuery) -> Result<Vec<GrantRecord>> {
        self.store.grants(query).await
    }

    async fn bind(&self, key: &GrantKey, instances: BTreeSet<InstanceName>) -> Result<()> {
        let id = self.record(key).await?.grant.id;
        self.store.bind_grant(id, instances, NOW).await
    }

    async fn revoke(&self, key: &GrantKey, reason: &str) -> Result<Revocation> {
        let id = self.record(key).await?.grant.id;
        let gone = GrantState::Revoked { since: NOW, reason: reason.into() };
        self.store.shred_grant(id, Self::status(gone), NOW).await?;
        self.tokens.lock().unwrap().remove(key);
        let stubborn = key.account == "stubborn";
        let at_provider = if stubborn { Err("it does not answer".into()) } else { Ok(()) };
        Ok(Revocation { key: key.clone(), at_provider })
    }

    async fn remove(&self, key: &GrantKey) -> Result<()> {
        self.store.remove_grant(self.record(key).await?.grant.id).await
    }

    fn events(&self) -> broadcast::Receiver<VaultEvent> {
        self.events.subscribe()
    }
}

#[async_trait]
impl OperatedVault for Plain {
    fn keyring(&self) -> Result<&Keyring> {
        self.keyring.as_ref().map_err(|_| Error::WrongState {
            what: "the vault".into(),
            state: "sealed".into(),
            help: "there is no key".into(),
        })
    }

    async fn adopt(&self, key: &GrantKey) -> Result<()> {
        let record = self.record(key).await?;
        let active = Self::status(GrantState::Active { since: NOW });
        self.store.set_grant_status(record.grant.id, record.version, active, NOW).await.map(drop)
    }
}

const CONFIG: &str = r#"
[daemon]
name = "test"
log_dir = "."
[defaults]
command = ["sleep", "1000"]
[instance.web]
[instance.named]
tokens = ["twitch/c"]
[template.twitch]
instances = ["a", "b"]
"#;

/// A served fleet with a vault.
struct Served {
    fleet: Fleet,
    store: Arc<SqliteStore>,
    admin: VaultAdmin,
    client: Client,
    end: oneshot::Sender<()>,
    server: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// The parts of a vault over `store`, sealed where there is no key.
async fn parts(store: &Arc<SqliteStore>, keys: Result<Keys>) -> VaultParts {
    let keyring = match keys {
        Ok(keys) => Keyring::open(Arc::clone(store) as _, keys).await,
        Err(err) => Err(err),
    };
    let vault = Plain {
        store: Arc::clone(store),
        keyring,
        tokens: Mutex::default(),
        events: broadcast::channel(8).0,
    };
    VaultParts {
        vault: Arc::new(vault),
        store: Arc::clone(store) as _,
        providers: Arc::new(Providers::default()),
        http: Http::new().unwrap(),
    }
}

fn new_keys() -> Result<Keys> {
    Ok(Keys::only(Kek::parse(&Kek::generate()?)?))
}

impl Served {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kissops.toml");
        std::fs::write(&file, CONFIG).unwrap();
        let environment = Environment::of_process();
        let config = config::load(&file, &environment).unwrap_or_else(|e| panic!("{}", e.render()));
        let store = Arc::new(SqliteStore::in_memory().unwrap());
        let supervisor = Supervisor::builder(Arc::clone(&store) as Arc<dyn Store>)
            .log_dir(folder.path())
            .runtime_dir(folder.path().join("run"))
            .build()
            .unwrap();
        let fleet = Fleet::begin(supervisor, config, environment, Arc::default()).await.unwrap();
        let socket = ControlSocket::bind(&folder.path().join("run")).unwrap();
        let client = kissops_core::control::client(socket.path()).unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let admin = VaultAdmin::new(parts(&store, new_keys()).await);
        let api = Api::with_vault(fleet.clone(), admin.clone());
        let server = tokio::spawn(serve_unix(socket, api, async {
            let _ = ended.await;
        }));
        Self { fleet, store, admin, client, end, server, _folder: folder }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.client.request(method, format!("http://kissops{path}"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert!(status.is_success(), "{path}: {answer}");
        answer
    }

    /// Who did what on what, and what came of it.
    async fn audit(&self) -> Vec<(Actor, String, String, AuditOutcome)> {
        let query = AuditQuery { limit: 100, ..AuditQuery::default() };
        let entries = self.store.audit(query).await.unwrap().into_iter().map(|record| record.entry);
        entries.map(|entry| (entry.actor, entry.action, entry.target, entry.outcome)).collect()
    }

    async fn close(self) {
        let _ = self.end.send(());
        self.server.await.unwrap();
        self.admin.close().await;
        self.fleet.supervisor().shutdown(Leave::Stopped).await;
    }
}

fn import(accounts: &[&str]) -> Value {
    let token = |account: &&str| {
        json!({
            "provider": "twitch", "account": account, "access_token": format!("{CANARY}-{account}"),
            "refresh_token": format!("{CANARY}-refresh"), "expires_at": "2026-11-20T03:04:05Z",
            "scopes": ["chat:read"], "instances": [format!("twitch@{account}")]
        })
    };
    json!({ "tokens": accounts.iter().map(token).collect::<Vec<_>>() })
}

fn me() -> Actor {
    Actor::Uid(rustix::process::getuid().as_raw())
}

#[tokio::test]
async fn grants_are_imported_listed_and_shown_without_their_tokens() {
    let served = Served::new().await;
    let mut tokens = import(&["a", "b"]);
    let bad = json!({ "provider": "twitch", "account": "", "access_token": "x" });
    tokens["tokens"].as_array_mut().unwrap().push(bad);
    let done = served.done(Method::POST, "/v1/tokens/import", Some(tokens.clone())).await;
    assert_eq!(done["imported"], 2);
    assert!(done["skipped"][0]["reason"].as_str().unwrap().contains("account"), "{done}");
    let again = served.done(Method::POST, "/v1/tokens/import", Some(tokens)).await;
    assert_eq!((&again["imported"], again["skipped"].as_array().unwrap().len()), (&json!(0), 3));
    let first = served.done(Method::GET, "/v1/tokens?limit=1", None).await;
    let next = format!("/v1/tokens?limit=1&after={}", first["next"].as_str().unwrap());
    let second = served.done(Method::GET, &next, None).await;
    assert_eq!(
        (&first["grants"][0]["account"], &second["grants"][0]["account"]),
        (&json!("a"), &json!("b"))
    );
    assert_eq!(first["grants"][0]["state"], "active");
    let of_b = served.done(Method::GET, "/v1/tokens?instance=twitch@b&state=active", None).await;
    assert_eq!(of_b["grants"].as_array().unwrap().len(), 1);
    let one = served.done(Method::GET, "/v1/tokens/twitch/a", None).await;
    assert_eq!((&one["scopes"], &one["instances"]), (&json!(["chat:read"]), &json!(["twitch@a"])));
    for shown in [&done, &again, &first, &one] {
        assert!(!shown.to_string().contains(CANARY), "{shown}");
    }
    for (path, status) in
        [("/v1/tokens?state=odd", 422), ("/v1/tokens?x=1", 400), ("/v1/tokens/twitch/nobody", 404)]
    {
        assert_eq!(served.ask(Method::GET, path, None).await.0, status, "{path}");
    }
    served.close().await;
}

#[tokio::test]
async fn an_instance_whose_definition_names_a_grant_has_it() {
    let served = Served::new().await;
    let mut tokens = import(&["a", "c"]);
    tokens["tokens"][1]["instances"] = json!([]);
    served.done(Method::POST, "/v1/tokens/import", Some(tokens)).await;
    let one = served.done(Method::GET, "/v1/tokens/twitch/c", None).await;
    assert_eq!(one["instances"], json!(["named"]));
    let listed = async |query: &str| {
        let all = served.done(Method::GET, &format!("/v1/tokens{query}"), None).await;
        let of = |grant: &Value| format!("{} {}", grant["account"], grant["instances"]);
        all["grants"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, [r#""a" ["twitch@a"]"#, r#""c" ["named"]"#]);
    assert_eq!(listed("?instance=named").await, [r#""c" ["named"]"#]);
    assert!(listed("?instance=named&state=revoked").await.is_empty());
    assert!(listed("?instance=web").await.is_empty());
    let request = json!({ "provider": "twitch", "reason": "leak" });
    let report = served.done(Method::POST, "/v1/incidents", Some(request)).await;
    assert_eq!(report["stopped"], json!(["named", "twitch@a"]));
    served.close().await;
}

#[tokio::test]
async fn the_figures_are_open_metrics() {
    let served = Served::new().await;
    served.done(Method::POST, "/v1/tokens/import", Some(import(&["a"]))).await;
    let answer = served.client.get("http://kissops/metrics").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = answer.text().await.unwrap();
    let grants = r#"kissops_grants{provider="twitch",state="active"} 1"#;
    assert!(text.contains(grants) && text.ends_with("# EOF\n"), "{text}");
    assert!(text.contains("kissops_vault_sealed 0") && !text.contains(CANARY), "{text}");
    served.close().await;
}

/// What a body holds is not told back, whatever is wrong with it.
#[tokio::test]
async fn a_body_that_cannot_be_read_is_not_quoted() {
    let served = Served::new().await;
    for body in [json!(CANARY), json!({ "tokens": CANARY }), json!({ CANARY: 1, "tokens": [] })] {
        let (status, answer) = served.ask(Method::POST, "/v1/tokens/import", Some(body)).await;
        assert_eq!(status, 400);
        assert!(!answer.to_string().contains(CANARY), "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains("line 1 column"), "{answer}");
    }
    served.close().await;
}

#[tokio::test]
async fn every_change_is_audited_with_who_made_it() {
    let served = Served::new().await;
    served.done(Method::POST, "/v1/tokens/import", Some(import(&["a"]))).await;
    let a = "/v1/tokens/twitch/a";
    served.done(Method::POST, &format!("{a}/refresh"), None).await;
    let bound = json!({ "instances": ["web"] });
    let grant = served.done(Method::PUT, &format!("{a}/instances"), Some(bound)).await;
    assert_eq!(grant["instances"], json!(["web"]));
    served.done(Method::POST, &format!("{a}/revoke"), Some(json!({ "reason": "spring" }))).await;
    let (_, gone) = served.ask(Method::GET, a, None).await;
    assert_eq!((&gone["state"], &gone["reason"]), (&json!("revoked"), &json!("spring")));
    assert_eq!(gone["help"], "kissops token authorize twitch a");
    served.done(Method::DELETE, a, None).await;
    assert_eq!(served.ask(Method::DELETE, a, None).await.0, 404);
    let audit = served.audit().await;
    assert!(audit.iter().all(|(actor, _, target, _)| *actor == me() && target == "grant twitch/a"));
    let actions: Vec<&str> = audit.iter().map(|(_, action, ..)| &**action).collect();
    let wanted = ["token.import", "token.refresh", "token.bind", "token.revoke", "token.remove"];
    assert_eq!(actions[..5], wanted);
    // One that fails has been announced, and is taken back.
    assert_eq!(actions[5..], ["token.remove", "token.remove"]);
    assert_eq!(audit[5].3, AuditOutcome::Done);
    assert!(matches!(&audit[6].3, AuditOutcome::Failed(why) if why.contains("no grant")));
    served.close().await;
}

#[tokio::test]
async fn a_token_is_given_once_that_is_written_down_and_not_otherwise() {
    let served = Served::new().await;
    served.done(Method::POST, "/v1/tokens/import", Some(import(&["a"]))).await;
    let given = served.done(Method::POST, "/v1/tokens/twitch/a/reveal", None).await;
    assert_eq!(given["access_token"], format!("{CANARY}-a"));
    assert!(!given.to_string().contains("refresh"), "{given}");
    let (_, action, target, outcome) = served.audit().await.pop().unwrap();
    assert_eq!((&*action, &*target), ("token.reveal", "grant twitch/a"));
    assert_eq!(outcome, AuditOutcome::Done);
    let refused = served.ask(Method::POST, "/v1/tokens/twitch/nobody/reveal", None).await;
    assert_eq!(refused.0, 404);
    let (_, _, target, outcome) = served.audit().await.pop().unwrap();
    assert!(target == "grant twitch/nobody" && matches!(outcome, AuditOutcome::Failed(_)));
    served.close().await;
}

#[tokio::test]
async fn an_incident_revokes_stops_and_says_what_is_left() {
    let served = Served::new().await;
    let accounts = ["a", "b", "stubborn"];
    served.done(Method::POST, "/v1/tokens/import", Some(import(&accounts))).await;
    let request = json!({ "provider": "twitch", "reason": "leak" });
    let report = served.done(Method::POST, "/v1/incidents", Some(request.clone())).await;
    assert_eq!(
        (&report["ok"], &report["stopped"]),
        (&json!(false), &json!(["twitch@a", "twitch@b"]))
    );
    let revoked: Vec<_> =
        report["revoked"].as_array().unwrap().iter().map(|one| &one["ok"]).collect();
    assert_eq!(revoked, [true, true, false]);
    let by_hand = report["by_hand"][0].as_str().unwrap();
    assert!(
        by_hand.contains("twitch/stubborn") && by_hand.contains("it does not answer"),
        "{by_hand}"
    );
    for status in served.fleet.status() {
        let wanted =
            if ["web", "named"].contains(&status.name.as_str()) { "running" } else { "stopped" };
        assert_eq!(status.state.to_string(), wanted, "{}", status.name);
    }
    let (_, grants) = served.ask(Method::GET, "/v1/tokens?state=revoked", None).await;
    assert_eq!(grants["grants"].as_array().unwrap().len(), 3);
    let audit = served.audit().await;
    let of = |wanted: &str| audit.iter().filter(|(_, action, ..)| action == wanted).count();
    assert_eq!((of("incident.revoke"), of("token.revoke")), (1, 3));
    let events =
        served.store.events(EventQuery { limit: 50, ..EventQuery::default() }).await.unwrap();
    assert!(
        events.iter().any(|record| record.event.reason.contains("2 of 3 grants")),
        "{events:?}"
    );
    // There is nothing left to revoke.
    assert_eq!(served.ask(Method::POST, "/v1/incidents", Some(request)).await.0, 404);
    served.close().await;
}

#[tokio::test]
async fn without_a_vault_its_routes_say_so() {
    let served = Served::new().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = ControlSocket::bind(folder.path()).unwrap();
    let client = kissops_core::control::client(socket.path()).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve_unix(socket, served.fleet.clone(), async {
        let _ = ended.await;
    }));
    for path in ["/v1/tokens", "/v1/tokens/twitch/a"] {
        let answer = client.get(format!("http://kissops{path}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CONFLICT);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "wrong_state");
    }
    end.send(()).unwrap();
    serving.await.unwrap();
    served.close().await;
}

/// The same routes answer where no daemon runs; whom they would stop is not started by the next one.
#[tokio::test]
async fn without_a_daemon_the_same_is_done_on_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let url = StoreUrl::Sqlite(folder.path().join("kissops.db"));
    let StoreUrl::Sqlite(path) = &url else { unreachable!() };
    let store = Arc::new(SqliteStore::open(path, SqliteOptions::default()).unwrap());
    let local = LocalVault::new(VaultAdmin::new(parts(&store, new_keys()).await));
    let body = serde_json::to_vec(&import(&["a"])).unwrap();
    let answer = local.call(Method::POST, "/v1/tokens/import", Some(body)).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap()["imported"], 1);
    let given = local.call(Method::POST, "/v1/tokens/twitch/a/reveal", None).await.unwrap();
    assert!(String::from_utf8(given).unwrap().contains(CANARY));
    let problem = local.call(Method::GET, "/v1/tokens/twitch/b", None).await.unwrap_err();
    assert_eq!((problem.status, &*problem.code), (404, "not_found"));
    let body = br#"{"provider": "twitch", "account": "a"}"#.to_vec();
    let answer = local.call(Method::POST, "/v1/incidents", Some(body)).await.unwrap();
    let report: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((&report["ok"], &report["stopped"]), (&json!(false), &json!([])));
    assert!(report["by_hand"][0].as_str().unwrap().contains("stop twitch@a"), "{report}");
    let kept = store.instances().await.unwrap();
    assert_eq!((kept[0].name.as_str(), kept[0].desired), ("twitch@a", Desired::Stopped));
    let entries = store.audit(AuditQuery { limit: 9, ..AuditQuery::default() }).await.unwrap();
    assert!(entries.iter().all(|record| record.entry.actor == me()));
    assert!(entries[0].entry.origin.contains("without a daemon"));
    local.close().await;
}

#[tokio::test]
async fn secrets_are_kept_made_and_replaced() {
    let served = Served::new().await;
    let hook = "/v1/secrets/hook";
    let set =
        |value: &str| Some(json!({ "value": value, "kind": "webhook_url", "max_age": "90d" }));
    let kept = served.done(Method::PUT, hook, set(CANARY)).await;
    assert_eq!((&kept["version"], &kept["max_age"]), (&json!(1), &json!("90d")));
    let twin = served.done(Method::PUT, "/v1/secrets/twin", Some(json!({ "value": CANARY }))).await;
    assert_eq!(twin["alike"], json!(["hook"]), "the same value twice is told");
    let made = json!({ "kind": "signing_key" });
    let made = served.done(Method::POST, "/v1/secrets/made/generate", Some(made)).await;
    assert_eq!(made["generated"], true);
    let reveal = async |name: &str| {
        let path = format!("/v1/secrets/{name}/reveal");
        served.done(Method::POST, &path, None).await["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(reveal("hook").await, CANARY);
    let before = reveal("made").await;
    assert!(before.len() >= 43, "256 bits");
    let rotated = served.done(Method::POST, "/v1/secrets/made/rotate", None).await;
    assert_eq!(rotated["version"], 2);
    assert_ne!(reveal("made").await, before);
    let never = Some(json!({ "max_age": null }));
    let aged = served.done(Method::PUT, &format!("{hook}/age"), never).await;
    assert_eq!(aged["due_at"], Value::Null);
    for (method, path, body, status) in [
        (Method::POST, "/v1/secrets/hook/rotate", None, 409),
        (Method::POST, "/v1/secrets/made/generate", Some(json!({})), 409),
        (Method::POST, "/v1/secrets/none/reveal", None, 404),
        (Method::PUT, "/v1/secrets/a%20b", set("x"), 422),
        (Method::PUT, hook, set(""), 422),
    ] {
        let (found, answer) = served.ask(method, path, body).await;
        assert_eq!(found, status, "{path}: {answer}");
    }
    served.done(Method::DELETE, "/v1/secrets/twin", None).await;
    let list = served.done(Method::GET, "/v1/secrets", None).await;
    let names: Vec<_> =
        list["secrets"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["hook", "made"]);
    assert!(!list.to_string().contains(CANARY));
    let audit = served.audit().await;
    let on_hook = audit.iter().filter(|(_, _, target, _)| target == "secret hook");
    let actions: Vec<_> = on_hook.map(|(_, action, ..)| &**action).collect();
    assert_eq!(actions[..3], ["secret.set", "secret.reveal", "secret.age"]);
    assert!(audit.iter().all(|entry| !format!("{entry:?}").contains(CANARY)));
    served.close().await;
}

#[tokio::test]
async fn keys_are_rotated_while_everything_stays_readable() {
    let served = Served::new().await;
    served.done(Method::PUT, "/v1/secrets/hook", Some(json!({ "value": CANARY }))).await;
    let before = served.done(Method::GET, "/v1/vault", None).await;
    assert_eq!((&before["state"], &before["secrets"]), (&json!("open"), &json!(1)));
    let new = Kek::generate().unwrap();
    let id = Kek::parse(&new).unwrap().id().0;
    let weak = Some(json!({ "to": "0".repeat(64) }));
    assert_eq!(served.ask(Method::POST, "/v1/vault/rotate", weak).await.0, 422);
    let to = secrecy::ExposeSecret::expose_secret(&new);
    served.done(Method::POST, "/v1/vault/rotate", Some(json!({ "to": to }))).await;
    let done = async {
        loop {
            let status = served.done(Method::GET, "/v1/vault", None).await;
            if status["rotation"]["state"] != "running" {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    let after = tokio::time::timeout(std::time::Duration::from_secs(20), done).await.unwrap();
    assert_eq!(after["rotation"]["state"], "done", "{after}");
    assert_eq!((&after["key"], &after["rotation"]["resealed"]), (&json!(id), &json!(1)));
    assert_ne!(before["data_keys"][0]["id"], after["data_keys"][0]["id"]);
    let shown = served.done(Method::POST, "/v1/secrets/hook/reveal", None).await;
    assert_eq!(shown["value"], CANARY);
    let entry = served.audit().await.into_iter().find(|entry| entry.1 == "vault.rotate").unwrap();
    assert_eq!(entry.2, format!("vault, to key {id}"));
    served.close().await;
}

#[tokio::test]
async fn fenced_grants_are_adopted_one_or_all() {
    let served = Served::new().await;
    served.done(Method::POST, "/v1/tokens/import", Some(import(&["a", "b", "c"]))).await;
    for record in
        served.store.grants(GrantQuery { limit: 9, ..GrantQuery::default() }).await.unwrap()
    {
        let fenced = GrantState::Fenced { since: NOW, reason: "restored".into() };
        let (id, version) = (record.grant.id, record.version);
        served.store.set_grant_status(id, version, Plain::status(fenced), NOW).await.unwrap();
    }
    let list = served.done(Method::GET, "/v1/tokens?state=fenced&limit=1", None).await;
    assert_eq!(list["grants"][0]["help"], "kissops vault adopt twitch a");
    for (request, adopted) in [
        (json!({ "provider": "twitch", "account": "b" }), 1),
        (json!({ "provider": "twitch", "account": "b" }), 0),
        (json!({ "provider": "other" }), 0),
        (json!({}), 2),
    ] {
        let done = served.done(Method::POST, "/v1/vault/adopt", Some(request)).await;
        assert_eq!(done["adopted"], adopted);
    }
    let nobody = Some(json!({ "account": "a" }));
    assert_eq!(served.ask(Method::POST, "/v1/vault/adopt", nobody).await.0, 422);
    served.close().await;
}

/// A sealed vault shows what there is, keeps nothing, gives nothing, and changes nothing.
#[tokio::test]
async fn a_sealed_vault_says_so() {
    let store = Arc::new(SqliteStore::in_memory().unwrap());
    let none = Err(Error::NotFound { what: "key".into() });
    let local = LocalVault::new(VaultAdmin::new(parts(&store, none).await));
    let get = async |path: &str| {
        let answer = local.call(Method::GET, path, None).await.unwrap();
        serde_json::from_slice::<Value>(&answer).unwrap()
    };
    let status = get("/v1/vault").await;
    assert_eq!((&status["state"], &status["why"]), (&json!("sealed"), &json!("there is no key")));
    assert_eq!(get("/v1/tokens").await["grants"], json!([]));
    for (method, path, body) in [
        (Method::PUT, "/v1/secrets/hook", r#"{"value": "x"}"#),
        (Method::POST, "/v1/vault/rotate", "{}"),
        (Method::POST, "/v1/tokens/twitch/a/authorize", "{}"),
    ] {
        let answer = local.call(method, path, Some(body.into())).await;
        let problem = answer.unwrap_err();
        assert_eq!((&*problem.code, &*problem.help), ("wrong_state", "there is no key"), "{path}");
    }
    assert!(store.data_keys().await.unwrap().is_empty());
    local.close().await;
}

/// What a provider without device codes gets is the command, and what it has nothing to do with stays as it is.
#[tokio::test]
async fn an_event_of_a_lost_grant_names_the_command() {
    let store = Arc::new(SqliteStore::in_memory().unwrap());
    let admin = VaultAdmin::new(parts(&store, new_keys()).await);
    let event = |kind| VaultEvent {
        at: NOW,
        provider: "ownidp".into(),
        account: Some("a".into()),
        kind,
        message: "it is lost".into(),
    };
    let told = admin.with_link(event(VaultEventKind::NeedsReauth)).await;
    assert_eq!(told.message, "it is lost; kissops token authorize ownidp a");
    let told = admin.with_link(event(VaultEventKind::Refreshed)).await;
    assert_eq!(told.message, "it is lost");
    admin.close().await;
}
