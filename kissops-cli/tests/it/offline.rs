//! What needs no daemon.

use std::{fs, path::Path, process::Stdio};

use tempfile::TempDir;

use crate::{kissops, run};

const GOOD: &str = "[daemon]\nname = \"test\"\n[instance.web]\ncommand = [\"sleep\", \"1000\"]\n";

fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kissops.toml"), config).unwrap();
    folder
}

const COMMANDS: [&str; 43] = [
    "init",
    "check",
    "up",
    "status",
    "top",
    "start",
    "stop",
    "restart",
    "reset",
    "reload",
    "signal",
    "logs",
    "crashes",
    "events",
    "describe",
    "instance",
    "doctor",
    "completions",
    "man",
    "instance add",
    "instance remove",
    "instance list",
    "client",
    "token list",
    "token show",
    "token authorize",
    "token refresh",
    "token import",
    "token bind",
    "token revoke",
    "token remove",
    "secret list",
    "secret set",
    "secret generate",
    "secret rotate",
    "secret age",
    "secret show",
    "secret remove",
    "vault status",
    "vault key",
    "vault rotate",
    "vault adopt",
    "incident revoke",
];

#[test]
fn every_command_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let args: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let ran = run(folder.path(), &args);
        assert_eq!(ran.code, 0, "{command}");
        assert!(ran.out.contains(&format!("  kissops {command}")), "{command}: {}", ran.out);
        assert_eq!(ran.err, "");
    }
    let ran = run(folder.path(), &["--help"]);
    for code in
        ["   0  ", "   1  ", "   2  ", "   3  ", "   4  ", "  69  ", "  75  ", "  77  ", "  78  "]
    {
        assert!(ran.out.contains(code), "{code}");
    }
}

#[test]
fn clients_of_bots_are_printed_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (language, begin) in [("python", "def "), ("node", "export ")] {
        let ran = run(folder.path(), &["client", language]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{language}");
        assert!(ran.out.contains(begin) && ran.out.ends_with('\n'), "{language}");
    }
}

/// VLT-3: a key goes where it was asked for, never over another, and is told nowhere else.
#[test]
fn a_new_key_is_printed_or_kept_in_a_closed_file() {
    let folder = tempfile::tempdir().unwrap();
    let printed = run(folder.path(), &["vault", "key"]);
    assert_eq!((printed.code, printed.out.trim().len()), (0, 43), "{}", printed.out);
    assert_ne!(printed.out, run(folder.path(), &["vault", "key"]).out);
    let kept = run(folder.path(), &["vault", "key", "--file", "vault.key"]);
    assert_eq!((kept.code, kept.out.as_str()), (0, ""), "{}", kept.err);
    let file = folder.path().join("vault.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let key = fs::read_to_string(&file).unwrap();
    assert!(!kept.err.contains(key.trim()), "{}", kept.err);
    assert_ne!(run(folder.path(), &["vault", "key", "--file", "vault.key"]).code, 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), key);
}

#[test]
fn wrong_use_is_2() {
    let folder = folder(GOOD);
    for args in [
        &["frobnicate"][..],
        &["status", "--frobnicate"],
        &["start"],
        &["start", "web", "--all"],
        &["start", "web", "--timeout", "soon"],
        &["start", "web", "--no-wait", "--timeout", "1s"],
        &["restart", "--all", "--batch", "0"],
        &["signal", "web", "SIGFOO"],
        &["signal", "web"],
        &["reload", "web", "--dry-run"],
        &["completions", "msdos"],
        &["instance", "add", "web"],
        &["instance", "add", "a@b", "--var", "novalue"],
        &["instance", "remove", "../x"],
        &["secret", "set", "name", "value"],
        &["vault", "adopt"],
        &["token", "bind", "twitch", "a", "../x", "--socket", "nowhere"],
        &["incident", "revoke"],
        &["client", "cobol"],
    ] {
        let ran = run(folder.path(), args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
        assert!(!ran.err.is_empty(), "{args:?}");
        let ran = run(folder.path(), &[args, &["--json"]].concat());
        assert_eq!(ran.code, 2, "{args:?}");
        assert_eq!(ran.error()["code"], "usage", "{args:?}");
    }
}

#[test]
fn without_a_daemon_it_is_69() {
    let folder = folder(GOOD);
    for args in [
        &["status"][..],
        &["start", "web"],
        &["stop", "--all"],
        &["restart", "web"],
        &["reset", "web"],
        &["reload"],
        &["reload", "web"],
        &["signal", "web", "HUP"],
        &["crashes"],
        &["events"],
        &["describe", "web"],
        &["instance", "add", "a@b"],
        &["instance", "remove", "a@b"],
        &["instance", "list"],
        &["top"],
    ] {
        let ran = run(folder.path(), args);
        assert_eq!((ran.code, ran.out.as_str()), (69, ""), "{args:?}: {}", ran.err);
        assert!(ran.err.contains("kissops up"), "{args:?}: {}", ran.err);
        let ran = run(folder.path(), &[args, &["--json"]].concat());
        assert_eq!(
            (ran.code, &ran.error()["code"]),
            (69, &"daemon_unreachable".into()),
            "{args:?}"
        );
    }
}

#[test]
fn a_dead_socket_is_69_too() {
    let folder = folder(GOOD);
    let socket = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let ran = run(folder.path(), &["status", "--socket", "dead.sock"]);
    assert_eq!(ran.code, 69, "{}", ran.err);
}

#[test]
fn check_prints_what_each_instance_comes_to() {
    let folder = folder(GOOD);
    let ran = run(folder.path(), &["check", "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let json = ran.json();
    assert_eq!(json["ok"], true);
    assert_eq!(json["instances"][0]["name"], "web");
    assert_eq!(json["instances"][0]["command"][0], "sleep");
    let ran = run(folder.path(), &["check"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("web\n"), "{}", ran.out);
    assert!(ran.err.contains("is fine: 1 instance,"), "{}", ran.err);
    let ran = run(folder.path(), &["check", "--quiet"]);
    assert_eq!(ran.err, "");
    let ran = run(folder.path(), &["check", "--origin"]);
    let name = ran.out.lines().find(|line| line.starts_with("daemon.name ")).unwrap();
    assert!(name.contains("kissops.toml:2") && name.contains("test"), "{name}");
    let ran = run(folder.path(), &["check", "--origin", "--json"]);
    assert!(ran.json()["origins"].as_array().is_some_and(|list| !list.is_empty()));
}

#[test]
fn check_names_every_error_and_is_78() {
    let folder = folder("[instance.web]\ncomand = [\"x\"]\n");
    let ran = run(folder.path(), &["check", "--json"]);
    assert_eq!(ran.code, 78);
    let json = ran.json();
    assert_eq!(json["ok"], false);
    let error = &json["errors"][0];
    for member in ["file", "key", "message", "help"] {
        assert!(error[member].is_string(), "{member} of {json}");
    }
    assert!(error["line"].is_number() && error["column"].is_number(), "{json}");
    let ran = run(folder.path(), &["check"]);
    assert_eq!((ran.code, ran.out.as_str()), (78, ""));
    assert!(ran.err.contains("command"), "{}", ran.err);
    let empty = tempfile::tempdir().unwrap();
    let ran = run(empty.path(), &["check", "--config", "nothing.toml"]);
    assert_eq!(ran.code, 78);
    assert!(ran.err.contains("kissops init"), "{}", ran.err);
}

#[test]
fn a_file_with_errors_does_not_keep_clients_from_the_daemon() {
    // 69, not 78: the daemon was looked for where [daemon] says.
    let folder = folder("[daemon]\nname = \"x\"\n[instance.web]\ncomand = [\"x\"]\n");
    assert_eq!(run(folder.path(), &["status"]).code, 69);
    let broken = self::folder("[daemon]\nruntime_dir = 5\n");
    let ran = run(broken.path(), &["status", "--json"]);
    assert_eq!((ran.code, &ran.error()["code"]), (78, &"invalid_config".into()));
    assert_eq!(run(broken.path(), &["up"]).code, 78);
}

#[test]
fn completions_and_manual() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(folder.path(), &["completions", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("kissops") && ran.out.contains("crashes"), "{shell}");
    }
    let ran = run(folder.path(), &["man"]);
    assert!(ran.out.starts_with(".ie") || ran.out.contains(".TH"), "{}", ran.out);
    let ran = run(folder.path(), &["man", "--dir", "."]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(folder.path().join("kissops-status.1").exists());
    assert_eq!(run(folder.path(), &["man", "--dir", "nowhere"]).code, 1);
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = kissops(folder.path())
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn init_writes_what_check_accepts_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.toml");
    fs::write(folder.path().join("bot.py"), "print('hello')\n").unwrap();
    let ran = run(folder.path(), &["init", "--dry-run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("bot.py") && !path.exists(), "{}", ran.out);
    let ran = run(Path::new("/"), &["init", folder.path().to_str().unwrap(), "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.json()["written"].as_array().unwrap().len() == 1 && path.exists());
    assert_eq!(run(folder.path(), &["check"]).code, 0);
    let before = fs::read(&path).unwrap();
    let ran = run(folder.path(), &["init", "--json"]);
    assert_eq!((ran.code, &ran.error()["code"]), (1, &"exists".into()));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(run(folder.path(), &["init", "--force"]).code, 0);
}

#[test]
fn doctor_says_what_it_looked_at() {
    let folder = folder(GOOD);
    let ran = run(folder.path(), &["doctor", "--json"]);
    let json = ran.json();
    let names: Vec<_> =
        json["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "configuration",
            "daemon",
            "state_dir",
            "runtime_dir",
            "log_dir",
            "disk",
            "store",
            "limits",
            "descriptors",
        ]
    );
    assert_eq!(json["checks"][1]["status"], "warn");
    let ran = run(folder.path(), &["doctor"]);
    assert!(ran.out.contains("memory limits") || ran.out.contains("by cgroups"), "{}", ran.out);
    fs::write(folder.path().join("kissops.toml"), "nonsense").unwrap();
    assert_eq!(run(folder.path(), &["doctor"]).code, 1);
}

#[test]
fn doctor_looks_for_the_key_of_a_vault() {
    let folder = folder(&format!("{GOOD}[vault]\nkey = {{ file = \"vault.key\" }}\n"));
    let found = || {
        let checks = run(folder.path(), &["doctor", "--json"]).json()["checks"].take();
        checks.as_array().unwrap().iter().find(|one| one["name"] == "vault key").cloned().unwrap()
    };
    assert_eq!(found()["status"], "fail");
    assert_eq!(run(folder.path(), &["vault", "key", "--file", "vault.key"]).code, 0);
    assert_eq!(found()["status"], "pass");
    let key = folder.path().join("vault.key");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let open = found();
    assert_eq!(open["status"], "fail");
    assert!(open["help"].as_str().unwrap().contains("chmod"), "{open}");
}

#[test]
fn logs_are_read_from_the_files_when_no_daemon_answers() {
    let folder =
        folder("[daemon]\nlog_dir = \"logs\"\n[instance.web]\ncommand = [\"x\"]\ntags = [\"t\"]\n");
    assert_eq!(run(folder.path(), &["logs"]).code, 69);
    for (name, line) in [("web", "2 O one"), ("old", "1 E zero")] {
        fs::create_dir_all(folder.path().join("logs").join(name)).unwrap();
        let line = format!("2026-11-20T03:04:05.00000{line}\n").replacen(' ', "Z ", 1);
        fs::write(folder.path().join("logs").join(name).join("current"), line).unwrap();
    }
    let ran = run(folder.path(), &["logs", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines,
        [
            r#"{"at":"2026-11-20T03:04:05.000001Z","instance":"old","stream":"stderr","line":"zero"}"#,
            r#"{"at":"2026-11-20T03:04:05.000002Z","instance":"web","stream":"stdout","line":"one"}"#,
        ]
    );
    assert!(ran.err.contains("reading the files in"), "{}", ran.err);
    let ran = run(folder.path(), &["logs", "tag:t", "-n", "5", "--quiet"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("2026-11-20 03:04:05.000 web | one\n", ""));
    assert_eq!(run(folder.path(), &["logs", "nobody"]).code, 4);
    for args in [["logs", "--grep", "["], ["logs", "--level", "loud"], ["logs", "--since", "yore"]]
    {
        assert_eq!(run(folder.path(), &args).code, 2, "{args:?}");
    }
}
