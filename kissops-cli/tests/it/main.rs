//! The command line as its users run it: the real binary, its exit codes, its two streams.

#![expect(clippy::unwrap_used, reason = "the functions around the tests are tests, too")]

mod asked;
mod bot_socket;
mod clients;
mod db;
mod documents;
mod import;
mod offline;
mod real;
mod scripted;
mod store;
mod vault;

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

/// `kissops` with nothing of the developer's own environment that would change what it does.
fn kissops(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kissops"));
    let foreign = std::env::vars_os().map(|(key, _)| key);
    for key in foreign.filter(|key| key.as_encoded_bytes().starts_with(b"KISSOPS_")) {
        command.env_remove(key);
    }
    command.current_dir(folder).env("COLUMNS", "100");
    command
}

/// What one call came to.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(folder: &Path, args: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = kissops(folder).args(args).output().unwrap();
    Ran {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

impl Ran {
    /// The only object on stdout.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|err| panic!("{err}: {}", self.out))
    }

    /// The error on stderr, checked to have all its members.
    fn error(&self) -> Value {
        let error: Value = serde_json::from_str(&self.err).unwrap();
        for member in ["code", "message", "help"] {
            assert!(error["error"][member].is_string(), "{member} of {error}");
        }
        error["error"].clone()
    }
}
