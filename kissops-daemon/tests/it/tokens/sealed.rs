//! A vault without its key, with a wrong one, and with a new one (VLT-3).

use std::{collections::BTreeMap, process::Command};

use kissops_core::vault::Kek;
use rusqlite::{Connection, types::Value as Column};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{KEY, Stage, built, repository, write_private};
use crate::harness::{count, until};

const OTHER_KEY: &str = "00c1b9e5d47f2a6813fa40e69d58b2c7719e03a5f4cd8b62e0573d1946af82bc";

/// How often the bot was answered how.
fn asked(stage: &Stage) -> BTreeMap<String, u64> {
    serde_json::from_str(&stage.site.read("asked")).unwrap_or_default()
}

/// Waits until the bot was answered so, some times more.
#[track_caller]
fn until_answered(stage: &Stage, what: &str) {
    let matching = || -> u64 {
        let asked = asked(stage);
        asked.iter().filter(|(answer, _)| answer.contains(what)).map(|(_, times)| times).sum()
    };
    let before = matching();
    until(what, || matching() > before + 3);
}

fn stage() -> Stage {
    let script = repository("kissops-daemon/tests/it/tokens/asker.py");
    Stage::started(
        &format!(
            "[instance.asker]\ncommand = [\"python3\", {script:?}]\ntokens = [\"mock/ann\"]\nstop = {{ grace = \"1s\" }}\n"
        ),
        &["ann"],
    )
}

/// Every row of what the vault has in the store.
fn rows(stage: &Stage) -> Vec<Vec<Column>> {
    let store = Connection::open(stage.site.path("state/kissops.db")).unwrap();
    let mut all = Vec::new();
    for table in ["data_keys", "grants", "sealed_tokens", "refresh_intents", "refresh_landings"] {
        let mut query = store.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).unwrap();
        let width = query.column_count();
        let row = |row: &rusqlite::Row<'_>| (0..width).map(|at| row.get(at)).collect();
        all.extend(query.query_map([], row).unwrap().map(Result::unwrap));
    }
    all
}

/// Starts the daemon with that key, or none.
fn restart_with(stage: &mut Stage, key: Option<&str>) -> Value {
    if stage.site.runs() {
        stage.site.kill();
    }
    match key {
        Some(key) => write_private(&stage.site.path("vault.key"), key),
        None => std::fs::remove_file(stage.site.path("vault.key")).unwrap(),
    }
    stage.site.start();
    stage.site.get("/v1/vault")
}

#[test]
fn without_its_key_the_vault_is_sealed_and_nothing_else_happens() {
    let mut stage = stage();
    until_answered(&stage, "good");
    let (pid, token) = (stage.site.bot("asker"), stage.revealed("ann"));
    stage.site.kill();
    let before = rows(&stage);
    assert!(before.len() >= 4, "data keys, a grant, its tokens: {}", before.len());
    for key in [None, Some(OTHER_KEY), Some("0123")] {
        let status = restart_with(&mut stage, key);
        assert_eq!(status["state"], "sealed", "{status}");
        let why = status["why"].as_str().unwrap();
        assert!(why.contains("key") && key.is_none_or(|key| !why.contains(key)), "{why}");
        assert_eq!(status["grants"]["active"], 1, "what there is can be seen: {status}");
        until_answered(&stage, "sealed");
        assert_eq!(stage.site.bot("asker"), pid, "it runs on");
        let rows_of_new = stage.accounts(&["new"]);
        for (path, body) in [
            ("/v1/tokens/mock/ann/refresh", Value::Null),
            ("/v1/tokens/mock/ann/reveal", Value::Null),
            ("/v1/tokens/import", json!({ "tokens": rows_of_new })),
            ("/v1/vault/rotate", json!({})),
        ] {
            let (status, error) =
                stage.site.ask("POST", path, Some(&body).filter(|body| !body.is_null()));
            assert!(status >= 400 && error.to_string().contains("sealed"), "{path}: {error}");
        }
        if let Some(kissops) = built("kissops") {
            let mut status = Command::new(kissops);
            status.args(["vault", "status", "--config"]).arg(stage.site.path("kissops.toml"));
            let ran = status.output().unwrap();
            assert_eq!(ran.status.code(), Some(3), "{ran:?}");
            assert!(String::from_utf8_lossy(&ran.stdout).starts_with("sealed: "), "{ran:?}");
        }
        assert!(rows(&stage) == before, "something was changed in the store");
    }
    let status = restart_with(&mut stage, Some(KEY));
    assert_eq!(status["state"], "open", "{status}");
    until_answered(&stage, "good");
    assert_eq!((stage.site.bot("asker"), stage.revealed("ann")), (pid, token));
    assert_eq!(stage.mock.totals().refreshes.presented, 0, "nobody was asked for anything");
}

#[test]
fn a_rotation_of_keys_is_noticed_by_no_bot() {
    let mut stage = stage();
    let names: Vec<String> = (0..count(150, 5_000)).map(|at| format!("more{at}")).collect();
    stage.import(&stage.accounts(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    until_answered(&stage, "good");
    let token = stage.revealed("ann");
    let new = Kek::generate().unwrap();
    let old_name = stage.site.get("/v1/vault")["key"].clone();
    for to in [Some(new.expose_secret()), None] {
        let before = asked(&stage)["good"];
        let (status, begun) =
            stage.site.ask("POST", "/v1/vault/rotate", Some(&json!({ "to": to })));
        assert!(status < 300 && begun["state"] == "running", "{begun}");
        let mut rotation = Value::Null;
        until("the rotation is through", || {
            rotation = stage.site.get("/v1/vault")["rotation"].clone();
            rotation["state"] != "running"
        });
        assert_eq!((&rotation["state"], &rotation["damaged"]), (&json!("done"), &json!([])));
        assert!(rotation["resealed"].as_u64().unwrap() >= 2 * names.len() as u64, "{rotation}");
        until_answered(&stage, "good");
        assert!(asked(&stage)["good"] > before);
    }
    let answers = asked(&stage);
    assert_eq!(answers.len(), 1, "every read was answered with a token: {answers:?}");
    let new_name = stage.site.get("/v1/vault")["key"].clone();
    assert_ne!(old_name, new_name);

    let status = restart_with(&mut stage, Some(KEY));
    assert_eq!(status["state"], "sealed", "the old key opens nothing any more: {status}");
    let status = restart_with(&mut stage, Some(new.expose_secret()));
    assert_eq!((&status["state"], &status["key"]), (&json!("open"), &new_name));
    until_answered(&stage, "good");
    assert_eq!(stage.revealed("ann"), token);
    stage.refresh("ann");
    stage.token_is_live("ann");
}
