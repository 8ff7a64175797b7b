//! [`Environment`]: the variables that override the file, and where secret references look first.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    env_file::{self, looks_secret},
    node::Layer,
};
use crate::{Error, Result, supervisor::SecretRef};

/// The folder that systemd puts credentials into.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The environment, and behind it the `.env` file beside the configuration. `Debug` shows no value.
#[derive(Clone, Default)]
pub struct Environment {
    process: Arc<BTreeMap<String, SecretString>>,
    dotenv: Arc<BTreeMap<String, (usize, SecretString)>>,
}

impl Environment {
    /// The environment of this process; variables that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of `name`: from the environment, else from `.env`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&SecretString> {
        self.find(name).map(|(_, value)| value)
    }

    /// Looks a secret up, afresh where it is in a file. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the variable is not set.
    /// - Those of [`read_env_file`](super::read_env_file) for a file or a credential.
    /// - [`Error::WrongState`] for what only the vault knows.
    pub fn lookup(&self, reference: &SecretRef) -> Result<SecretString> {
        match reference {
            SecretRef::Env(name) => self.get(name).cloned().ok_or_else(|| Error::NotFound {
                what: format!("variable {name} in the environment or in .env"),
            }),
            SecretRef::File(path) => env_file::read_secret_file(path).map(SecretString::from),
            SecretRef::Credential(name) => {
                let folder = self.get(CREDENTIALS).ok_or_else(|| Error::NotFound {
                    what: format!("credential {name}: systemd has set no {CREDENTIALS}; the unit needs LoadCredential={name}:…"),
                })?;
                let path = Path::new(Self::text(folder)).join(name);
                env_file::read_secret_file(&path).map(SecretString::from)
            }
            SecretRef::Secret(name) => Err(Error::WrongState {
                what: format!("secret `{name}`"),
                state: "in the vault, which is not open here".into(),
                help: "it can be used where the daemon's vault is".into(),
            }),
        }
    }

    /// Every value of `.env` whose key looks like a secret's.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        self.dotenv.iter().filter(|(key, _)| looks_secret(key)).map(|(_, (_, value))| value)
    }

    pub(super) fn find(&self, name: &str) -> Option<(Layer, &SecretString)> {
        let process = self.process.get(name).map(|value| (Layer::Environment, value));
        process.or_else(|| self.dotenv.get(name).map(|(line, value)| (Layer::Dotenv(*line), value)))
    }

    /// The names that begin with `prefix`, of both layers.
    pub(super) fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let all = self.process.keys().chain(self.dotenv.keys());
        all.map(String::as_str).filter(move |name| name.starts_with(prefix))
    }

    /// The same with the file at `path` behind it, if there is one.
    pub(super) fn with_dotenv(&self, path: &Path) -> Result<Self> {
        // Some keep a Python environment in a folder of that name.
        if path.is_dir() {
            return Ok(self.clone());
        }
        let lines = match env_file::read_lines(path) {
            Ok(lines) => lines,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(self.clone());
            }
            Err(err) => return Err(err),
        };
        let entries = lines.into_iter().map(|line| (line.key, (line.line, line.value.into())));
        Ok(Self { process: Arc::clone(&self.process), dotenv: Arc::new(entries.collect()) })
    }

    pub(super) fn text(value: &SecretString) -> &str {
        value.expose_secret()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Self {
        let process = vars.into_iter().map(|(key, value)| (key.into(), value.into().into()));
        Self { process: Arc::new(process.collect()), dotenv: Arc::default() }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("process", &self.process.len())
            .field("dotenv", &self.dotenv.len())
            .finish()
    }
}
