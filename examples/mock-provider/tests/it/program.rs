//! The program: what it prints is what it does.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
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

fn lines_of(running: &mut Running) -> impl Iterator<Item = String> + use<> {
    BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap)
}

fn address_of(running: &mut Running) -> SocketAddr {
    let mut lines = lines_of(running);
    let first = lines.next().unwrap();
    // Its output is read to the end: a program that cannot print ends.
    assert!(lines.any(|line| line.starts_with("What it was asked")));
    first.strip_prefix("listening on http://").unwrap().parse().unwrap()
}

#[test]
fn it_tells_how_to_use_it_and_writes_a_file_to_import() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let args =
        ["--account", "ann", "--accounts", "2", "--rotation", "rotating", "--lifetime", "90s"];
    let mut running =
        Running(program(&args).args(["--seed", "7", "--import-file"]).arg(&file).spawn().unwrap());
    let mut lines = lines_of(&mut running);
    let first = lines.next().unwrap();
    let address = first.strip_prefix("listening on http://").unwrap().parse().unwrap();
    let rest: Vec<String> =
        lines.by_ref().take_while(|line| !line.starts_with("What it was asked")).collect();
    let text = rest.join("\n");
    for part in [
        &*format!("token_url     = \"http://{address}/token\""),
        "rotation      = \"rotating\"",
        "client_id     = \"mock-public\"",
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
fn it_goes_on_where_it_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.json");
    let start = || {
        let args =
            ["--account", "ann", "--accounts", "0", "--confidential", "--rotation", "rotating"];
        Running(program(&args).arg("--state").arg(&file).spawn().unwrap())
    };
    let end = |mut running: Running| {
        let pid = i32::try_from(running.0.id()).unwrap();
        let killed = Command::new("kill").arg(pid.to_string()).status().unwrap();
        assert!(killed.success() && running.0.wait().unwrap().success());
    };
    let form = |token: &str| {
        format!(
            "grant_type=refresh_token&client_id=mock-client&client_secret=mock-client-secret&refresh_token={token}"
        )
    };
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    let mut first = start();
    let address = address_of(&mut first);
    let row = request(address, "GET /_mock/import", &[], "").json()[0].clone();
    let used = row["refresh_token"].as_str().unwrap();
    let next = request(address, "POST /token", &kind, &form(used)).text("refresh_token");
    end(first);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut second = start();
    let address = address_of(&mut second);
    assert_eq!(request(address, "POST /token", &kind, &form(used)).status, 400);
    assert_eq!(request(address, "POST /token", &kind, &form(&next)).status, 200);
    let names = request(address, "GET /_mock/accounts", &[], "").json();
    assert_eq!(names["accounts"].as_array().unwrap().len(), 1);
    end(second);
    std::fs::write(&file, "{}").unwrap();
    let failed = start().0.wait().unwrap();
    assert!(!failed.success());
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
