//! The environment of an instance's process: what the daemon passes on, then files, then the definition, then ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::{Definition, EnvValue, SecretRef};
use crate::{
    Result,
    config::{Environment, looks_secret, read_env_file},
    redact::Redactor,
};

/// What instances inherit, and where the secrets that their definitions name are found.
#[derive(Debug, Default)]
pub struct Variables {
    passed_on: BTreeMap<OsString, OsString>,
    environment: Environment,
}

impl Variables {
    /// Nothing is inherited; secrets are looked up in `environment`.
    #[must_use]
    pub fn new(passed_on: BTreeMap<OsString, OsString>, environment: Environment) -> Self {
        Self { passed_on, environment }
    }

    /// This process' own environment is inherited, but for what is ours (`KISSOPS_*`, `NOTIFY_SOCKET` and the like)
    /// and for the variables that one of `fleet` names as a secret: only that instance gets it.
    #[must_use]
    pub fn inherited(environment: Environment, fleet: &[Definition]) -> Self {
        const OURS: [&str; 8] = [
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "LISTEN_FDS",
            "LISTEN_PID",
            "LISTEN_FDNAMES",
            "INVOCATION_ID",
            "JOURNAL_STREAM",
        ];
        let secret: BTreeSet<&str> = fleet
            .iter()
            .flat_map(|definition| definition.env.values())
            .filter_map(|value| match value {
                EnvValue::Secret(SecretRef::Env(name)) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let is_ours = |name: &OsString| {
            let name = name.to_string_lossy();
            name.starts_with("KISSOPS_") || OURS.contains(&&*name) || secret.contains(&*name)
        };
        Self {
            passed_on: std::env::vars_os().filter(|(name, _)| !is_ours(name)).collect(),
            environment,
        }
    }
}

/// The whole environment of a run. Reads files: call it off the runtime where there are any.
pub(super) fn build(
    definition: &Definition,
    variables: &Variables,
    redactor: &Redactor,
) -> Result<BTreeMap<OsString, OsString>> {
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
                let secret = variables.environment.lookup(reference)?;
                let value = secret.expose_secret().to_owned();
                secrets.push(secret);
                value
            }
        };
        env.insert(key.into(), value.into());
    }
    secrets.extend(definition.plain_secrets().map(SecretString::from));
    redactor.learn(secrets)?;
    env.insert("KISSOPS_INSTANCE".into(), definition.name.as_str().into());
    Ok(env)
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
        let passed_on = [("A", "daemon"), ("B", "daemon"), ("C", "daemon")]
            .map(|(key, value)| (key.into(), value.into()))
            .into();
        let env =
            build(&bot, &Variables::new(passed_on, Environment::default()), &Redactor::default())
                .unwrap();
        let get = |key: &str| env[&OsString::from(key)].to_str().unwrap().to_owned();
        assert_eq!(
            [get("A"), get("B"), get("C"), get("KISSOPS_INSTANCE")],
            ["file", "definition", "daemon", "bot"]
        );
    }
}
