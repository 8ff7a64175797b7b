//! What asks a daemon, against a scripted one.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::{
    Ran, kissops, run,
    scripted::{Answer, Scripted},
};

fn instance(name: &str, state: &str) -> Value {
    json!({
        "name": name, "state": state, "ready": state == "running", "desired": "running",
        "since": "2026-11-20T03:04:05.000006Z", "reason": "because\u{1b}[31m",
        "pid": (state == "running").then_some(4711), "uptime_seconds": 184.5, "restarts": 2,
        "next_start_at": null, "rss_bytes": 1_572_864, "cpu_percent": 1.25, "threads": 3,
        "processes": 1, "memory_max_bytes": null, "status_text": "fine\u{7}", "last_exit": null,
        "description": "", "tags": []
    })
}

fn status(verdict: &str, instances: &[Value]) -> Answer {
    let fleet = json!({
        "name": "test", "pid": 1, "version": "0", "started_at": "2026-11-20T03:04:05.000006Z",
        "now": "2026-11-20T03:04:05.000006Z"
    });
    let body = json!({ "verdict": verdict, "fleet": fleet, "instances": instances });
    Answer::json("GET /v1/status", &body)
}

fn ask(daemon: &Scripted, args: &[&str]) -> Ran {
    let socket = daemon.socket();
    run(daemon.folder(), &[args, &["--socket", socket.to_str().unwrap()]].concat())
}

fn problem(start: &'static str, status: u16, code: &str) -> Answer {
    let body = json!({
        "type": "about:blank", "title": code, "status": status, "detail": "what is wrong",
        "code": code, "help": "what to do"
    });
    Answer { status, kind: "application/problem+json", ..Answer::json(start, &body) }
}

#[test]
fn status_exits_as_systemctl_does() {
    for (verdict, state, args, code) in [
        ("pass", "running", &["status"][..], 0),
        ("pass", "running", &["status", "web"], 0),
        ("pass", "stopped", &["status"], 0),
        ("pass", "stopped", &["status", "web"], 3),
        ("warn", "starting", &["status"], 0),
        ("warn", "backoff", &["status"], 3),
        ("fail", "failed", &["status"], 3),
    ] {
        let daemon = Scripted::new(vec![status(verdict, &[instance("web", state)])]);
        let ran = ask(&daemon, args);
        assert_eq!(ran.code, code, "{state} {args:?}: {}", ran.err);
        assert_eq!(ask(&daemon, &[args, &["--json"]].concat()).json()["verdict"], verdict);
    }
    let daemon = Scripted::new(vec![problem("GET /v1/status", 404, "not_found")]);
    assert_eq!(ask(&daemon, &["status", "nobody"]).code, 4);
}

#[test]
fn status_is_a_clean_table_on_stdout() {
    let instances =
        [instance("a-rather-long-name@of-a-member", "running"), instance("b", "failed")];
    let daemon = Scripted::new(vec![status("fail", &instances)]);
    let ran = ask(&daemon, &["status"]);
    assert_eq!(ran.err, "");
    assert!(ran.out.lines().all(|line| line.chars().count() <= 100), "{}", ran.out);
    assert!(!ran.out.contains('\x1b') && !ran.out.contains('\x07'), "{:?}", ran.out);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.out);
    assert!(lines[1].starts_with("NAME "));
    for word in ["4711", "3m04s", "1.5 MiB", "fine"] {
        assert!(lines[2].contains(word), "{word}: {}", lines[2]);
    }
    assert!(lines[3].ends_with("because"), "{}", lines[3]);
    let ran = ask(&daemon, &["status", "twitch@*", "tag:chat", "--quiet"]);
    assert!(ran.out.starts_with("NAME "));
    let asked = daemon.asked();
    assert_eq!(asked.last().unwrap().0, "GET /v1/status?target=twitch%40%2A%2Ctag%3Achat");
}

#[test]
fn problems_become_exit_codes() {
    for (status, code, exit) in [
        (400, "bad_request", 2),
        (404, "not_found", 4),
        (409, "wrong_state", 3),
        (409, "conflict", 75),
        (503, "busy", 75),
        (504, "timeout", 75),
        (403, "denied", 77),
        (422, "invalid_config", 78),
        (500, "io", 1),
        (503, "closed", 69),
    ] {
        let daemon = Scripted::new(vec![problem("POST /v1/reload", status, code)]);
        let ran = ask(&daemon, &["reload", "--json"]);
        assert_eq!((ran.code, ran.out.as_str()), (exit, ""), "{code}");
        let error = ran.error();
        assert_eq!((&error["code"], &error["help"]), (&json!(code), &json!("what to do")));
        let ran = ask(&daemon, &["reload"]);
        assert_eq!(ran.code, exit);
        assert_eq!(ran.err, "error: what is wrong\nhelp: what to do\n");
    }
    let daemon = Scripted::new(Vec::new());
    assert_eq!(ask(&daemon, &["reload", "--json"]).error()["code"], "protocol");
}

#[test]
fn actions_send_what_was_asked_and_report_each() {
    let results = json!({"results": [
        {"name": "a", "ok": true, "state": "running", "error": null},
        {"name": "b", "ok": false, "state": "failed",
         "error": {"code": "timeout", "message": "too slow", "help": "look"}},
    ]});
    let daemon = Scripted::new(vec![Answer::json("POST /v1/instances/actions", &results)]);
    let ran = ask(&daemon, &["start", "a", "b", "--timeout", "5s"]);
    assert_eq!(ran.code, 75);
    assert_eq!(ran.out, "a  running\n");
    assert_eq!(ran.err, "error: b: too slow\n       look\n");
    let ran = ask(&daemon, &["restart", "--all", "--json"]);
    assert_eq!((ran.code, ran.json()), (75, results));
    ask(&daemon, &["stop", "a", "--no-wait"]);
    ask(&daemon, &["signal", "a", "usr1"]);
    ask(&daemon, &["restart", "a", "--batch", "3", "--wait-ready"]);
    let sent: Vec<Value> =
        daemon.asked().iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect();
    let part = |at: usize, keys: &[&str]| -> Vec<Value> {
        keys.iter().map(|key| sent[at][*key].clone()).collect()
    };
    let keys = ["action", "targets", "all", "wait", "timeout"];
    assert_eq!(
        part(0, &keys),
        [json!("start"), json!(["a", "b"]), json!(false), json!(true), json!("5s")]
    );
    assert_eq!(part(1, &["action", "all", "batch"]), [json!("restart"), json!(true), json!(10)]);
    assert_eq!(part(2, &["action", "wait"]), [json!("stop"), json!(false)]);
    assert_eq!(part(3, &["action", "signal"]), [json!("signal"), json!("SIGUSR1")]);
    assert_eq!(part(4, &["batch", "wait_ready"]), [json!(3), json!(true)]);
}

fn event(id: u32, to: &str) -> Value {
    json!({"id": id.to_string(), "at": "2026-11-20T03:04:05.000006Z", "instance": "web",
        "from": "starting", "to": to, "reason": "why"})
}

#[test]
fn events_go_on_after_the_daemon_was_replaced() {
    let sse = |events: &[Value]| Answer {
        kind: "text/event-stream",
        body: events
            .iter()
            .map(|event| format!("id: {}\ndata: {event}\n\n", event["id"]))
            .collect::<Vec<_>>()
            .concat(),
        ..Answer::json("GET /v1/events?follow=1", &Value::Null)
    };
    let daemon = Scripted::new(vec![
        Answer::json(
            "GET /v1/events?limit",
            &json!({"events": [event(1, "running")], "next": null}),
        ),
        sse(&[event(2, "backoff")]),
        sse(&[event(3, "running"), event(4, "stopped")]),
        sse(&[]),
    ]);
    let socket = daemon.socket();
    let mut child = kissops(daemon.folder())
        .args(["events", "-f", "--json", "--quiet", "--socket", socket.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ids: Vec<Value> = lines
        .take(4)
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["id"].clone())
        .collect();
    assert_eq!(ids, ["1", "2", "3", "4"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let asked = daemon.asked();
    assert!(asked[1].0.ends_with("after=1") && asked[2].0.ends_with("after=2"), "{asked:?}");
}

#[test]
fn crashes_members_and_details() {
    let crash = json!({"id": "5", "at": "2026-11-20T03:04:05.000006Z", "instance": "web", "run": "1",
        "code": 3, "signal": null, "core_dumped": false, "out_of_memory": true,
        "reason": "exit code 3", "uptime_seconds": 5.0, "restarts": 1, "usage": null,
        "last_lines": ["\u{1b}]0;owned\u{7}bye"]});
    let daemon = Scripted::new(vec![
        Answer::json("GET /v1/crashes", &json!({"crashes": [crash]})),
        Answer::json(
            "GET /v1/members",
            &json!({"members": [
            {"name": "t@a", "vars": {"k": "v"}, "added_at": null}]}),
        ),
        Answer::json(
            "GET /v1/instances/web",
            &json!({"instance": instance("web", "running"),
            "definition": {"name": "web", "command": ["sleep", "1"]}, "processes": [{"pid": 4711}],
            "events": [event(1, "running")], "last_crash": crash}),
        ),
        Answer { status: 204, ..Answer::json("DELETE /v1/members/t%40a", &Value::Null) },
        problem("GET /v1/instances/t%40a", 404, "not_found"),
    ]);
    let ran = ask(&daemon, &["crashes", "web", "--lines"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("exit code 3 (out of memory)\n    bye\n"), "{}", ran.out);
    assert_eq!(ask(&daemon, &["crashes", "--json"]).json()["crashes"][0]["code"], 3);
    let ran = ask(&daemon, &["instance", "list"]);
    assert!(ran.out.contains("t@a   in the file  k=v"), "{}", ran.out);
    assert_eq!(ask(&daemon, &["instance", "remove", "t@a"]).code, 0);
    let ran = ask(&daemon, &["describe", "web"]);
    for part in ["web", "running since", "command: [\"sleep\",\"1\"]", "   4711", "    bye"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert_eq!(ask(&daemon, &["describe", "web", "--json"]).json()["instance"]["name"], "web");
}

#[test]
fn top_needs_a_terminal() {
    let daemon = Scripted::new(vec![status("pass", &[instance("web", "running")])]);
    let ran = ask(&daemon, &["top"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("kissops status"), "{}", ran.err);
}

#[test]
fn logs_come_from_the_daemon_as_they_were_written() {
    let line = |line: &str| json!({"at": "2026-11-20T03:04:05.000006Z", "instance": "web", "stream": "stdout", "line": line});
    let body = |last: &str| Answer {
        kind: "application/x-ndjson",
        body: format!("{}\n{}\n{last}", line("one"), line("\u{1b}[31mtwo")),
        ..Answer::json("GET /v1/logs", &Value::Null)
    };
    let daemon = Scripted::new(vec![body("")]);
    let ran = ask(&daemon, &["logs", "web", "--since", "10m", "--grep", "a b", "--stderr"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    // Not a terminal, so nothing is changed.
    assert_eq!(lines[1], "2026-11-20 03:04:05.000 web | \u{1b}[31mtwo");
    assert_eq!(daemon.asked()[0].0, "GET /v1/logs?target=web&since=10m&grep=a%20b&stream=stderr");
    let ran = ask(&daemon, &["logs", "web", "--json"]);
    assert_eq!(ran.out.lines().next().unwrap(), line("one").to_string());
    let failure = json!({"error": {"code": "io", "message": "no disk", "help": "mend it"}});
    let daemon = Scripted::new(vec![body(&failure.to_string())]);
    let ran = ask(&daemon, &["logs", "web", "--json"]);
    assert_eq!((ran.code, &ran.error()["message"]), (1, &json!("no disk")));
    assert_eq!(ran.out.lines().count(), 2);
    // A stream that was to go on and did not.
    let daemon = Scripted::new(vec![body("")]);
    assert_eq!(ask(&daemon, &["logs", "web", "-f"]).code, 69);
}
