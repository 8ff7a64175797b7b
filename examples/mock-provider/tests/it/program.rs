//! The program: what it prints is what it does.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::request;

/// Ended when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mock-provider"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn it_tells_how_to_use_it_and_writes_a_file_to_import() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let args =
        ["--account", "ann", "--accounts", "2", "--rotation", "rotating", "--lifetime", "90s"];
    let mut running =
        Running(program(&args).args(["--seed", "7", "--import-file"]).arg(&file).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    let address = first.strip_prefix("listening on http://").unwrap().parse().unwrap();
    let rest: Vec<String> =
        lines.by_ref().take_while(|line| !line.starts_with("What it was asked")).collect();
    let text = rest.join("\n");
    for part in [
        &*format!("token_url     = \"http://{address}/token\""),
        "rotation      = \"rotating\"",
        "MOCK_CLIENT_SECRET=mock-client-secret",
        "Accounts: ann, account0, account1",
        &*format!("kissops token import --file {}", file.display()),
    ] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let rows: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["account"]), (3, &"ann".into()));
    assert_eq!(request(address, "GET /_mock/import", &[], "").json(), rows);
    let bearer = format!("Bearer {}", rows[0]["access_token"].as_str().unwrap());
    let valid = request(address, "GET /validate", &[("authorization", &bearer)], "").json();
    assert!(valid["expires_in"].as_i64().unwrap() <= 90, "{valid}");
}

#[test]
fn wrong_arguments_and_a_taken_port_are_told() {
    let wrong = program(&["--lifetime", "soon"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let failed = program(&["--port", &port]).output().unwrap();
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(!failed.status.success() && said.contains(&port), "{said}");
}
