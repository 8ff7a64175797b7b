//! The environment of an instance's process: what the daemon passes on, then files, then the definition, then ours.

use std::{collections::BTreeMap, ffi::OsString, os::unix::fs::PermissionsExt as _, path::Path};

use secrecy::{ExposeSecret as _, SecretString};

use super::{Definition, EnvValue, SecretRef};
use crate::{
    Error, Result,
    config::env_file::{looks_secret, read_env_file},
    id::RunId,
    redact::Redactor,
};

/// The variable that marks every process of a run, however far it has wandered.
pub(super) const MARK: &str = "KISSOPS_RUN";

/// Variables that instances get from us, and those that only we may read.
#[derive(Debug, Default)]
pub struct Variables {
    /// Passed on to every instance.
    pub passed_on: BTreeMap<OsString, OsString>,
    /// Looked up by `{ env = "NAME" }` and not passed on.
    pub secret: BTreeMap<String, SecretString>,
}

impl Variables {
    /// This process' own environment, all of it passed on but what is ours: `KISSOPS_*`, `NOTIFY_SOCKET` and the like.
    #[must_use]
    pub fn inherited() -> Self {
        let ours = |name: &OsString| {
            let name = name.to_string_lossy();
            name.starts_with("KISSOPS_")
                || matches!(&*name, "NOTIFY_SOCKET" | "WATCHDOG_USEC" | "WATCHDOG_PID" | "LISTEN_FDS" | "LISTEN_PID" | "LISTEN_FDNAMES" | "INVOCATION_ID" | "JOURNAL_STREAM")
        };
        Self { passed_on: std::env::vars_os().filter(|(name, _)| !ours(name)).collect(), secret: BTreeMap::new() }
    }
}

/// The whole environment of a run. Reads files: call it off the runtime where there are any.
pub(super) fn build(definition: &Definition, run: RunId, variables: &Variables, redactor: &Redactor) -> Result<BTreeMap<OsString, OsString>> {
    let mut env = variables.passed_on.clone();
    let mut secrets = Vec::new();
    for file in &definition.env_file {
        for (key, value) in read_env_file(file)? {
            if looks_secret(&key) {
                secrets.push(SecretString::from(value.clone()));
            }
            env.insert(key.into(), value.into());
        }
    }
    for (key, value) in &definition.env {
        let value = match value {
            EnvValue::Plain(value) => value.clone(),
            EnvValue::Secret(reference) => {
                let secret = resolve(reference, variables)?;
                let value = secret.expose_secret().to_owned();
                secrets.push(secret);
                value
            }
        };
        env.insert(key.into(), value.into());
    }
    redactor.learn(secrets);
    env.insert("KISSOPS_INSTANCE".into(), definition.name.as_str().into());
    env.insert(MARK.into(), run.0.to_string().into());
    Ok(env)
}

fn resolve(reference: &SecretRef, variables: &Variables) -> Result<SecretString> {
    match reference {
        SecretRef::Env(name) => {
            let known = variables.secret.get(name).cloned();
            let here = || std::env::var(name).ok().map(SecretString::from);
            known.or_else(here).ok_or_else(|| Error::NotFound { what: format!("variable `{name}` in the daemon's environment or its .env file") })
        }
        SecretRef::File(path) => secret_file(path),
    }
}

/// A secret in a file of its own, without its last line's end.
fn secret_file(path: &Path) -> Result<SecretString> {
    let what = || format!("read the secret file {}", path.display());
    let file = std::fs::metadata(path).map_err(Error::io(what()))?;
    if file.permissions().mode() & 0o077 != 0 {
        return Err(Error::Denied {
            what: format!("the secret file {} can be read by others", path.display()),
            help: format!("chmod 600 {}", path.display()),
        });
    }
    let mut text = std::fs::read_to_string(path).map_err(Error::io(what()))?;
    let end = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(end);
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sup_1_the_definition_wins_over_files_and_files_over_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "A=file\nB=file\n").unwrap();
        let mut bot = Definition::new("bot", ["true"]).unwrap();
        bot.env_file.push(file);
        bot.env.insert("B".into(), EnvValue::Plain("definition".into()));
        let passed_on = [("A", "daemon"), ("B", "daemon"), ("C", "daemon")].map(|(key, value)| (key.into(), value.into())).into();
        let env = build(&bot, RunId(7), &Variables { passed_on, secret: BTreeMap::new() }, &Redactor::default()).unwrap();
        let get = |key: &str| env[&OsString::from(key)].to_str().unwrap().to_owned();
        assert_eq!([get("A"), get("B"), get("C"), get(MARK), get("KISSOPS_INSTANCE")], ["file", "definition", "daemon", "7", "bot"]);
    }

    #[test]
    fn a_secret_file_that_others_can_read_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "s3cret\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = secret_file(&file).unwrap_err().chain();
        assert!(error.contains("chmod 600") && !error.contains("s3cret"), "{error}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(secret_file(&file).unwrap().expose_secret(), "s3cret");
    }
}
