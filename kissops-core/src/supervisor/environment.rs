//! The environment of an instance's process: what the daemon passes on, then files, then the definition, then ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
};

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};

use super::{Definition, EnvValue, SecretRef};
use crate::{
    Error, Result,
    config::{Environment, looks_secret, read_env_file},
    redact::Redactor,
};

/// Knows the secrets that a configuration names as `{ secret = "name" }`. Held as `Arc<dyn SecretLookup>`.
#[async_trait]
pub trait SecretLookup: fmt::Debug + Send + Sync + 'static {
    /// The secret of that name, as it is now.
    ///
    /// # Errors
    /// - [`NotFound`](crate::Error::NotFound) if there is none.
    /// - [`WrongState`](crate::Error::WrongState) while it cannot be opened.
    ///
    /// # Cancel safety
    /// Nothing happens when it is dropped.
    async fn secret(&self, name: &str) -> Result<SecretString>;
}

/// Secrets that were looked up, by name.
pub(super) type Kept = BTreeMap<String, SecretString>;

/// Those that `definition` names as `{ secret = "name" }`.
pub(super) async fn kept(
    definition: &Definition,
    lookup: Option<&dyn SecretLookup>,
) -> Result<Kept> {
    let mut kept = Kept::new();
    for value in definition.env.values() {
        let EnvValue::Secret(SecretRef::Secret(name)) = value else { continue };
        let lookup = lookup.ok_or_else(|| Error::WrongState {
            what: format!("secret `{name}`"),
            state: "not to be had".into(),
            help: "there is no vault here: build the supervisor with .secrets(…)".into(),
        })?;
        if !kept.contains_key(name) {
            kept.insert(name.clone(), lookup.secret(name).await?);
        }
    }
    Ok(kept)
}

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
    ///
    /// [`without`](Self::without) leaves out more.
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

    /// The same, but `names` are not passed on.
    #[must_use]
    pub fn without<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            self.passed_on.remove(&OsString::from(name));
        }
        self
    }
}

/// The whole environment of a run, with the secrets that are [`kept`] for it. Reads files: call it off the runtime where
/// there are any.
pub(super) fn build(
    definition: &Definition,
    variables: &Variables,
    kept: &Kept,
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
                let known = match reference {
                    SecretRef::Secret(name) => kept.get(name).cloned(),
                    _ => None,
                };
                let secret = match known {
                    Some(secret) => secret,
                    None => variables.environment.lookup(reference)?,
                };
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
        let variables = Variables::new(passed_on, Environment::default());
        let env = build(&bot, &variables, &Kept::new(), &Redactor::default()).unwrap();
        let get = |key: &str| env[&OsString::from(key)].to_str().unwrap().to_owned();
        assert_eq!(
            [get("A"), get("B"), get("C"), get("KISSOPS_INSTANCE")],
            ["file", "definition", "daemon", "bot"]
        );
    }

    #[derive(Debug)]
    struct Vault;

    #[async_trait]
    impl SecretLookup for Vault {
        async fn secret(&self, name: &str) -> Result<SecretString> {
            match name {
                "bot" => Ok("s3cret-of-the-bot".into()),
                _ => Err(Error::NotFound { what: format!("secret `{name}`") }),
            }
        }
    }

    fn with_secret(name: &str) -> Definition {
        let mut bot = Definition::new("bot", ["true"]).unwrap();
        let reference = SecretRef::Secret(name.to_owned());
        bot.env.insert("BOT_TOKEN".into(), EnvValue::Secret(reference));
        bot
    }

    #[tokio::test]
    async fn vlt_12_a_secret_of_the_vault_is_looked_up_and_masked() {
        let (bot, redactor) = (with_secret("bot"), Redactor::default());
        let found = kept(&bot, Some(&Vault)).await.unwrap();
        let env = build(&bot, &Variables::default(), &found, &redactor).unwrap();
        assert_eq!(env[&OsString::from("BOT_TOKEN")], "s3cret-of-the-bot");
        assert_eq!(redactor.current().mask_str("it is s3cret-of-the-bot"), "it is ***");
        assert!(!serde_json::to_string(&bot).unwrap().contains("s3cret"));
    }

    #[tokio::test]
    async fn vlt_12_without_the_secret_or_a_vault_it_is_said_so() {
        let err = kept(&with_secret("other"), Some(&Vault)).await.unwrap_err();
        assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
        let err = kept(&with_secret("bot"), None).await.unwrap_err();
        assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
        // Nobody else needs a vault.
        let plain = Definition::new("bot", ["true"]).unwrap();
        assert!(kept(&plain, None).await.unwrap().is_empty());
    }
}
