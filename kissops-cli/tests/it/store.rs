//! `kissops store`: on files, without a daemon.

use std::fs;

use super::run;

#[test]
fn check_finds_a_sound_store_and_a_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let missing = run(folder, &["store", "check", "sqlite:bots.db", "--json"]);
    assert_eq!(missing.code, 4, "{}", missing.err);
    assert_eq!(missing.error()["code"], "not_found");
    assert!(!folder.join("bots.db").exists(), "asking makes nothing");
    fs::write(folder.join("empty.db"), "").unwrap();
    let empty = run(folder, &["store", "check", "sqlite:empty.db"]);
    assert_eq!(empty.code, 4, "a lost store must not pass for a sound one: {}", empty.out);
    assert_eq!(fs::metadata(folder.join("empty.db")).unwrap().len(), 0);
    make(folder, "bots.db");
    let sound = run(folder, &["store", "check", "sqlite:bots.db", "--json"]);
    assert_eq!(sound.code, 0, "{}", sound.err);
    let report = sound.json();
    assert_eq!(report["ok"], true);
    let tables = report["tables"].as_array().unwrap();
    assert!(tables.iter().any(|table| table["name"] == "events" && table["rows"] == 0));
    let mut bytes = fs::read(folder.join("bots.db")).unwrap();
    let last = bytes.len() - 4_096;
    bytes[last..].fill(0xa5);
    fs::write(folder.join("bots.db"), &bytes).unwrap();
    let damaged = run(folder, &["store", "check", "sqlite:bots.db", "--json"]);
    assert_eq!(damaged.code, 1, "{} {}", damaged.out, damaged.err);
}

/// An empty store, made by copying one that does not matter.
fn make(folder: &std::path::Path, name: &str) {
    let url = kissops_core::store::StoreUrl::Sqlite(folder.join(name));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opened = kissops_core::store::open(&url, kissops_core::store::StoreOptions::default());
    drop(runtime.block_on(opened).unwrap());
}

#[test]
fn copy_proves_what_it_copied_and_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "a.db");
    let args = ["store", "copy", "--from", "sqlite:a.db", "--to", "sqlite:b.db", "--json"];
    let copied = run(folder, &args);
    assert_eq!(copied.code, 0, "{}", copied.err);
    let report = copied.json();
    let tables = report["tables"].as_array().unwrap();
    assert!(tables.iter().all(|table| table["checksum"].as_str().unwrap().len() == 32), "{report}");
    let before = fs::read(folder.join("b.db")).unwrap();
    let again = run(folder, &args);
    assert_eq!(again.code, 1, "{}", again.err);
    assert_eq!(fs::read(folder.join("b.db")).unwrap(), before);
    let vacuumed = run(folder, &["store", "vacuum", "sqlite:b.db", "--json"]);
    assert!(vacuumed.json()["after_bytes"].is_u64(), "{}", vacuumed.out);
}

/// STO-4: neither a mistyped URL nor a server that does not answer shows a password.
#[test]
fn a_password_in_a_url_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    for url in [
        "postgres://u:geheim@127.0.0.1:1/d",
        "mysql://u:geheim@h/d",
        "postgres://u:geheim@h:port/d",
    ] {
        let mut command = super::kissops(folder.path());
        command.args(["store", "check", "env:STORE"]).env("STORE", url);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("error"), "{text}");
        assert!(!text.contains("geheim"), "{text}");
    }
}
