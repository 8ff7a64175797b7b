//! Tokens that are taken over: by the thousand, and from a predecessor's Fernet table (VLT-4).

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{kissops, run};

const CONFIG: &str = r#"
[vault]
key = { file = "vault.key" }
[vault.provider.twitch]
client_id = "abc"
"#;

/// What Python's `cryptography` has made of these texts with this key, at any time and with any initial vector.
const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
const HELLO: &str = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kissops.toml"), CONFIG).unwrap();
    assert_eq!(run(folder.path(), &["vault", "key", "--file", "vault.key"]).code, 0);
    folder
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn more_tokens_than_one_request_holds_are_imported_and_known_again() {
    let folder = folder();
    let here = folder.path();
    let row = |at: u32| {
        json!({
            "provider": "twitch", "account": format!("a{at}"), "scopes": ["chat:read"],
            "access_token": format!("access-{at}-secret"), "refresh_token": format!("refresh-{at}-secret"),
            "expires_at": "2999-11-20T07:04:05Z"
        })
    };
    let mut rows: Vec<Value> = (0..2_500).map(row).collect();
    rows[7]["access_token"] = json!("");
    write_private(&here.join("tokens.json"), &json!(rows).to_string());
    let import = || run(here, &["token", "import", "--file", "tokens.json", "--json"]);
    let first = import();
    let told = first.json();
    assert_eq!((first.code, &told["imported"]), (0, &json!(2_499)), "{}", first.err);
    assert_eq!(told["skipped"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(told["skipped"][0]["account"], "a7");
    let again = import().json();
    assert_eq!((&again["imported"], &again["present"]), (&json!(0), &json!(2_499)));
    let status = run(here, &["vault", "status", "--json"]).json();
    assert_eq!(status["grants"]["active"], 2_499);
    let token = run(here, &["token", "show", "twitch", "a2499", "--reveal", "--yes"]);
    assert_eq!(token.out.trim(), "access-2499-secret", "{}", token.err);
}

#[test]
fn a_predecessors_table_is_taken_over_and_what_does_not_verify_is_named() {
    let folder = folder();
    let here = folder.path();
    let sql = format!(
        "CREATE TABLE tokens (login TEXT, access_token TEXT, refresh_token TEXT);
         INSERT INTO tokens VALUES ('ann', '{HELLO}', '{HELLO}'), ('bad', '{}', NULL);",
        HELLO.replace("Jcb", "JcB")
    );
    let made = Command::new("python3")
        .args(["-c", "import sqlite3, sys; sqlite3.connect('bot.db').executescript(sys.argv[1])"])
        .arg(&sql)
        .current_dir(here)
        .status();
    assert!(made.unwrap().success());
    write_private(&here.join("fernet.key"), KEY);
    let common = [
        "vault",
        "import-fernet",
        "--database",
        "bot.db",
        "--table",
        "tokens",
        "--account",
        "login",
        "--access",
        "access_token",
        "--refresh",
        "refresh_token",
        "--provider",
        "twitch",
        "--json",
    ];
    let with = |more: &[&str]| run(here, &[&common[..], more].concat());
    assert_eq!(with(&[]).code, 2, "a key has to be named");
    let dry = with(&["--key-file", "fernet.key", "--dry-run"]);
    assert_eq!((dry.code, &dry.json()["imported"]), (0, &json!(1)), "{}", dry.err);
    assert_eq!(run(here, &["vault", "status", "--json"]).json()["grants"], json!({}));
    let done = with(&["--key-file", "fernet.key"]);
    assert_eq!((done.code, &done.json()["imported"]), (0, &json!(1)), "{}", done.err);
    assert_eq!(done.json()["skipped"][0]["account"], "bad");
    let token = run(here, &["token", "show", "twitch", "ann", "--reveal", "--yes"]);
    assert_eq!(token.out.trim(), "hello", "{}", token.err);
    // By a variable; and the wrong way to come from it to the key opens nothing.
    let mut command = kissops(here);
    command.args(common).args(["--key-env", "OLD_KEY", "--derive", "sha256"]).env("OLD_KEY", KEY);
    let wrong: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert_eq!((&wrong["imported"], wrong["skipped"].as_array().unwrap().len()), (&json!(0), 2));
    for ran in [&dry, &done] {
        assert!(!ran.out.contains("gAAAA") && !ran.err.contains("gAAAA"), "{}", ran.err);
    }
}
