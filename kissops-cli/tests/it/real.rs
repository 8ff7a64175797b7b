//! The whole of it: `kissops up` with a real daemon and real processes.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{kissops, run};

const DEADLINE: Duration = Duration::from_secs(30);

const CONFIG: &str = r#"
[daemon]
name = "real"
[instance.web]
command = ["sh", "-c", "echo hello; exec sleep 1000"]
tags = ["front"]
[instance.crash]
command = ["sh", "-c", "echo dying; exit 3"]
start_limit = { starts = 1, within = "1h" }
[instance.idle]
command = ["sleep", "1000"]
autostart = false
[template.tw]
command = ["sleep", "1000"]
instances = ["a"]
"#;

/// The daemon of the same build; it is there whenever the whole workspace was built.
fn kissopsd() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_kissops")).with_file_name("kissopsd");
    path.with_file_name("kissops-keeper").exists().then_some(path).filter(|path| path.exists())
}

/// `kissops up` without a terminal, stopped when it is dropped.
struct Up(Child);

impl Up {
    fn interrupt(&self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.interrupt();
            let _ = self.0.wait();
        }
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < DEADLINE, "{what} took too long");
        std::thread::yield_now();
    }
}

#[test]
fn a_fleet_from_up_to_its_end() {
    if kissopsd().is_none() {
        eprintln!("skipped: kissopsd was not built; cargo build --workspace builds it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("kissops.toml"), CONFIG).unwrap();
    let mut child = kissops(here)
        .args(["up", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let events = BufReader::new(child.stdout.take().unwrap());
    let mut up = Up(child);
    until("the start", || run(here, &["status", "web"]).code == 0);
    until("giving up", || {
        let status = run(here, &["status", "crash", "--json"]).json();
        status["instances"][0]["state"] == "failed"
    });
    assert_eq!(run(here, &["status"]).code, 3);
    assert_eq!(run(here, &["status", "idle"]).code, 3);
    assert_eq!(run(here, &["status", "nobody"]).code, 4);

    let ran = run(here, &["start", "idle", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let done = json!([{"name": "idle", "ok": true, "state": "running", "error": null}]);
    assert_eq!(ran.json()["results"], done);
    assert_eq!(run(here, &["stop", "idle"]).out, "idle  stopped\n");
    assert_eq!(run(here, &["signal", "idle", "HUP"]).code, 3);
    assert_eq!(run(here, &["instance", "add", "tw@b"]).code, 0);
    assert_eq!(run(here, &["instance", "add", "tw@b"]).code, 75);
    until("the member", || run(here, &["status", "tw"]).code == 0);
    assert_eq!(run(here, &["instance", "remove", "tw@b"]).code, 0);
    assert_eq!(run(here, &["status", "tw@b"]).code, 4);

    until("the line", || {
        run(here, &["logs", "tag:front", "-n", "1"]).out.ends_with("web | hello\n")
    });
    let crash = run(here, &["crashes", "crash", "--json"]).json()["crashes"][0].clone();
    assert_eq!((&crash["code"], &crash["last_lines"]), (&json!(3), &json!(["dying"])));
    let plan = run(here, &["reload", "--dry-run", "--json"]).json();
    assert_eq!((&plan["changed"], &plan["added"]), (&json!([]), &json!([])));
    let detail = run(here, &["describe", "web", "--json"]).json();
    assert_eq!(detail["definition"]["tags"], json!(["front"]));
    let pid = detail["instance"]["pid"].as_i64().unwrap();

    up.interrupt();
    assert_eq!(up.0.wait().unwrap().code(), Some(0));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(run(here, &["status"]).code, 69);
    let last = events.lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let stopped = last.filter(|event| event["instance"] == "web" && event["to"] == "stopped");
    assert_eq!(stopped.count(), 1);
}
