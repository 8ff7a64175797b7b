//! `kissops token`, `secret`, `vault`, `incident`, against a scripted daemon.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    Ran, kissops, run,
    scripted::{Answer, Scripted},
};

/// A token that no output may show unless it was asked for.
const CANARY: &str = "canary-4f1d0c77b2";

fn grant(account: &str, state: &str, help: Option<&str>) -> Value {
    json!({
        "provider": "twitch", "account": account, "state": state,
        "since": "2026-11-20T03:04:05.000006Z", "reason": null, "flow": "device_code",
        "scopes": ["chat:read"], "expires_at": "2026-11-20T07:04:05.000006Z",
        "refresh_expires_at": null, "last_refresh_at": "2026-11-20T03:04:05.000006Z",
        "next_refresh_at": null, "failures": 3, "instances": ["twitch@a"], "generation": 7,
        "help": help
    })
}

fn ask(daemon: &Scripted, args: &[&str]) -> Ran {
    let socket = daemon.socket();
    run(daemon.folder(), &[args, &["--socket", socket.to_str().unwrap()]].concat())
}

/// The same with `input` on stdin.
fn pipe(daemon: &Scripted, args: &[&str], input: &str) -> Ran {
    let socket = daemon.socket();
    let mut command = kissops(daemon.folder());
    command.args(args).arg("--socket").arg(socket);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Ran {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

#[test]
fn token_list_reads_every_page_and_names_the_command_that_mends() {
    let command = "kissops token authorize twitch b";
    let pages = || {
        let first = json!({ "grants": [grant("a", "active", None)], "next": "17" });
        let second = json!({ "grants": [grant("b", "needs_reauth", Some(command))], "next": null });
        vec![
            Answer::json("GET /v1/tokens?after=17", &second),
            Answer::json("GET /v1/tokens", &first),
        ]
    };
    // A script's answers are used up in order, so the second page comes first to be found by its cursor.
    let daemon = Scripted::new(pages());
    let ran = ask(&daemon, &["token", "list"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.out);
    for title in ["PROVIDER", "ACCOUNT", "STATE", "EXPIRES", "REFRESHED", "FAILURES", "INSTANCES"] {
        assert!(lines[0].contains(title), "{title} in {}", lines[0]);
    }
    assert!(lines[2].contains("needs_reauth") && lines[2].ends_with("3  twitch@a"), "{}", lines[2]);
    assert!(ran.err.contains(command), "{}", ran.err);
    let listed = ask(&Scripted::new(pages()), &["token", "list", "--json"]).json();
    let grants = listed["grants"].as_array().unwrap();
    assert_eq!(grants.len(), 2);
    let members =
        ["provider", "account", "state", "expires_at", "last_refresh_at", "failures", "instances"];
    for member in members {
        assert!(!grants[0][member].is_null(), "{member}");
    }
}

#[test]
fn a_token_is_shown_only_to_who_says_so() {
    let revealed = json!({
        "provider": "twitch", "account": "a", "access_token": CANARY,
        "expires_at": null, "generation": 7
    });
    let answers = vec![
        Answer::json("POST /v1/tokens/twitch/a/reveal", &revealed),
        Answer::json("GET /v1/tokens/twitch/a", &grant("a", "active", None)),
    ];
    let daemon = Scripted::new(answers);
    let shown = ask(&daemon, &["token", "show", "twitch", "a"]);
    assert!(shown.out.contains("generation 7") && !shown.out.contains(CANARY), "{}", shown.out);
    let refused = ask(&daemon, &["token", "show", "twitch", "a", "--reveal"]);
    assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{}", refused.err);
    assert!(daemon.asked().iter().all(|(line, _)| !line.ends_with("/reveal")), "it was not asked");
    let given = ask(&daemon, &["token", "show", "twitch", "a", "--reveal", "--yes"]);
    assert_eq!((given.code, given.out.as_str()), (0, &*format!("{CANARY}\n")), "{}", given.err);
}

#[test]
fn a_file_of_tokens_must_be_closed_to_others_and_is_never_quoted() {
    let done = json!({ "imported": 1, "present": 0, "skipped": [{ "account": "b", "reason": "is there" }] });
    let daemon = Scripted::new(vec![Answer::json("POST /v1/tokens/import", &done)]);
    let file = daemon.folder().join("tokens.json");
    let set = |mode: u32, text: &str| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    let import = || ask(&daemon, &["token", "import", "--file", "tokens.json", "--json"]);
    let good = json!([{
        "provider": "twitch", "account": "a", "access_token": CANARY, "refresh_token": "r",
        "expires_at": "2026-11-20T07:04:05Z", "scopes": ["chat:read"]
    }]);
    set(0o644, &good.to_string());
    let open = import();
    assert_eq!((open.code, daemon.asked().len()), (77, 0), "{}", open.err);
    for bad in [
        format!("[{{\"access_token\": \"{CANARY}\"}}]"),
        format!("\"{CANARY}\""),
        format!("[{{\"{CANARY}"),
    ] {
        set(0o600, &bad);
        let ran = import();
        assert_eq!(ran.code, 2, "{bad}: {}", ran.err);
        assert!(!ran.err.contains(CANARY) && ran.err.contains("line 1 column"), "{}", ran.err);
    }
    set(0o600, &good.to_string());
    let ran = import();
    assert_eq!((ran.code, ran.json()), (0, done), "{}", ran.err);
    let (_, body) = daemon.asked().pop().unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["tokens"][0]["access_token"], CANARY);
    assert_eq!(body["tokens"][0]["expires_at"], "2026-11-20T07:04:05.000000Z");
}

#[test]
fn authorize_shows_where_to_go_and_waits() {
    let begun = |state: &str, error: Option<&str>| {
        json!({
            "id": "7", "provider": "twitch", "account": "a", "state": state, "error": error,
            "url": "https://id.example.org/activate", "code": "ABCD-EFGH",
            "expires_at": "2026-11-20T07:04:05.000006Z"
        })
    };
    let answers = |end: &Value| {
        vec![
            Answer::json("POST /v1/tokens/twitch/a/authorize", &begun("pending", None)),
            Answer::json("GET /v1/authorizations/7", &begun("pending", None)),
            Answer::json("GET /v1/authorizations/7", end),
        ]
    };
    let daemon = Scripted::new(answers(&begun("done", None)));
    let args = ["token", "authorize", "twitch", "a", "--scope", "chat:read"];
    let ran = ask(&daemon, &args);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.out, "open   https://id.example.org/activate\nenter  ABCD-EFGH\n");
    let asked: Value = serde_json::from_str(&daemon.asked()[0].1).unwrap();
    assert_eq!(asked, json!({ "flow": "device_code", "scopes": ["chat:read"], "instances": null }));
    let daemon = Scripted::new(answers(&begun("failed", Some("the owner said no"))));
    let ran = ask(&daemon, &args);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("the owner said no"), "{}", ran.err);
    let ran = ask(&Scripted::new(answers(&Value::Null)), &[&args[..], &["--no-wait"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn a_secret_comes_by_stdin_and_is_not_told() {
    let view = json!({
        "name": "hook", "kind": "webhook_url", "version": 2, "generated": false,
        "changed_at": "2026-11-20T03:04:05.000006Z", "max_age": "90d",
        "due_at": "2027-02-18T03:04:05.000006Z", "alike": ["other"]
    });
    let daemon = Scripted::new(vec![Answer::json("PUT /v1/secrets/hook", &view)]);
    let args = ["secret", "set", "hook", "--kind", "webhook_url", "--max-age", "90d"];
    let ran = pipe(&daemon, &args, &format!("{CANARY} \n"));
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert!(
        ran.err.contains("other has the same value") && !ran.err.contains(CANARY),
        "{}",
        ran.err
    );
    let body: Value = serde_json::from_str(&daemon.asked()[0].1).unwrap();
    assert_eq!(body["value"], format!("{CANARY} "), "only the line's end is no part of it");
    let empty = pipe(&daemon, &["secret", "set", "hook"], "\n");
    assert_eq!((empty.code, daemon.asked().len()), (2, 1), "{}", empty.err);
    let word = ask(&daemon, &["secret", "set", "hook", CANARY]);
    assert_eq!((word.code, daemon.asked().len()), (2, 1), "no place for a value: {}", word.err);
    let list = Scripted::new(vec![Answer::json("GET /v1/secrets", &json!({ "secrets": [view] }))]);
    let ran = ask(&list, &["secret", "list"]);
    assert!(ran.out.contains("hook") && ran.out.contains("other"), "{}", ran.out);
}

#[test]
fn an_incident_ends_with_what_is_left_to_do() {
    let report = |ok: bool| {
        json!({
            "ok": ok,
            "revoked": [{ "provider": "twitch", "account": "a", "ok": ok,
                "error": (!ok).then_some("it does not answer") }],
            "stopped": ["twitch@a"],
            "by_hand": ["make a new client secret"]
        })
    };
    let args = ["incident", "revoke", "--provider", "twitch", "--account", "a", "--reason", "leak"];
    for (ok, code) in [(true, 0), (false, 1)] {
        let daemon = Scripted::new(vec![Answer::json("POST /v1/incidents", &report(ok))]);
        let ran = ask(&daemon, &args);
        assert_eq!(ran.code, code, "{}", ran.err);
        assert!(ran.out.contains("1. make a new client secret"), "{}", ran.out);
        assert_eq!(ran.out.contains("NOT REVOKED"), !ok, "{}", ran.out);
        assert_eq!(ask(&daemon, &[&args[..], &["--json"]].concat()).json(), report(ok));
        let body: Value = serde_json::from_str(&daemon.asked()[0].1).unwrap();
        let sent = json!({ "provider": "twitch", "account": "a", "reason": "leak" });
        assert_eq!(body, sent);
    }
}

#[test]
fn the_status_of_a_sealed_vault_is_a_failure() {
    let status = |state: &str| {
        json!({
            "state": state, "why": (state == "sealed").then_some("there is no key"),
            "key": (state == "open").then_some("0011223344556677"), "data_keys": [],
            "grants": { "active": 2 }, "secrets": 1, "rotation": null
        })
    };
    for (state, code, word) in [("open", 0, "0011223344556677"), ("sealed", 3, "there is no key")] {
        let daemon = Scripted::new(vec![Answer::json("GET /v1/vault", &status(state))]);
        let ran = ask(&daemon, &["vault", "status"]);
        assert_eq!(ran.code, code, "{}", ran.err);
        assert!(ran.out.contains(word) && ran.out.contains("grants: 2 active"), "{}", ran.out);
    }
}

/// `kissops` in a folder with a vault and without a daemon.
fn alone(folder: &std::path::Path, args: &[&str], input: &str) -> Ran {
    let mut command = kissops(folder);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who needs no input may have ended before it comes.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Ran {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// All of it works on the store itself, before the first start of a daemon, and shows no token unasked.
#[test]
fn before_the_first_start_tokens_and_secrets_can_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("kissops.toml"), VAULT).unwrap();
    let sealed = alone(here, &["secret", "set", "hook"], CANARY);
    assert_eq!(sealed.code, 3, "{}", sealed.err);
    assert!(sealed.err.contains("vault.key"), "{}", sealed.err);
    assert_eq!(run(here, &["vault", "status"]).code, 3);
    assert_eq!(run(here, &["vault", "key", "--file", "vault.key"]).code, 0);
    let kept = alone(here, &["secret", "set", "hook", "--json"], CANARY);
    assert_eq!((kept.code, &kept.json()["version"]), (0, &json!(1)), "{}", kept.err);
    let shown = run(here, &["secret", "show", "hook", "--yes"]);
    assert_eq!(shown.out, format!("{CANARY}\n"), "{}", shown.err);
    let file = here.join("tokens.json");
    let tokens = json!([
        { "provider": "twitch", "account": "a", "access_token": CANARY, "refresh_token": "r-secret",
            "expires_at": "2999-11-20T07:04:05Z", "scopes": ["chat:read"] },
        { "provider": "twitch", "account": "b", "access_token": "", "refresh_token": null,
            "expires_at": null, "scopes": [] }
    ]);
    fs::write(&file, tokens.to_string()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let done = run(here, &["token", "import", "--file", "tokens.json", "--json"]);
    let (imported, skipped) = (&done.json()["imported"], &done.json()["skipped"]);
    assert_eq!((imported, &skipped[0]["account"]), (&json!(1), &json!("b")), "{}", done.err);
    let list = run(here, &["token", "list", "--json"]);
    assert_eq!(list.json()["grants"][0]["state"], "active");
    let status = run(here, &["vault", "status", "--json"]);
    assert_eq!((status.code, &status.json()["grants"]["active"]), (0, &json!(1)));
    // The same under another key; the file names it afterwards.
    assert_eq!(run(here, &["vault", "key", "--file", "new.key"]).code, 0);
    let rotated = run(here, &["vault", "rotate", "--to-file", "new.key"]);
    assert_eq!(rotated.code, 0, "{}", rotated.err);
    assert!(rotated.err.contains("new.key"), "{}", rotated.err);
    assert_eq!(run(here, &["vault", "status"]).code, 3, "the old key opens nothing any more");
    fs::write(here.join("kissops.toml"), VAULT.replace("vault.key", "new.key")).unwrap();
    let token = run(here, &["token", "show", "twitch", "a", "--reveal", "--yes"]);
    assert_eq!((token.code, token.out.trim()), (0, CANARY), "{}", token.err);
    for ran in [&sealed, &kept, &done, &list, &status, &rotated] {
        for secret in [CANARY, "r-secret"] {
            assert!(
                !ran.out.contains(secret) && !ran.err.contains(secret),
                "{}{}",
                ran.out,
                ran.err
            );
        }
    }
    let bytes = fs::read(here.join(".kissops/kissops.db")).unwrap();
    for secret in [CANARY, "r-secret"] {
        assert!(
            !bytes.windows(secret.len()).any(|part| part == secret.as_bytes()),
            "in clear text"
        );
    }
}

const VAULT: &str = r#"
[vault]
key = { file = "vault.key" }
[vault.provider.twitch]
client_id = "abc"
[instance.web]
command = ["sleep", "1000"]
"#;
