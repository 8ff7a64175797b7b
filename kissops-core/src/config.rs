//! The configuration file: checked once, whole, and refused by name.
//!
//! Layers, strongest first: the environment, the `.env` file beside the configuration, the selected profile, the file,
//! defaults. [`load`] reads and checks them all, [`Config::definitions`] gives the fleet with the members that were
//! added at run time, and [`ConfigErrors`] says everything that is wrong at once, with its place and what mends it.

mod checks;
mod daemon;
mod definition;
mod env_file;
mod environment;
mod error;
mod fleet;
mod limits;
mod load;
mod node;
mod origin;
mod profile;
#[cfg(feature = "vault")]
mod provider;
mod reader;
mod secret;
mod source;
mod suggest;
mod syntax;
mod tables;
mod template;
mod tokens;
#[cfg(feature = "vault")]
mod vault;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::SecretString;

pub use daemon::{DaemonConfig, DaemonLog, DaemonLogFormat, SOCKET_NAME_MAX, StoreConfig};
#[cfg(feature = "vault")]
pub(crate) use env_file::parse_env;
pub use env_file::{looks_secret, read_env_file};
pub use environment::Environment;
pub use error::{ConfigError, ConfigErrors};
pub use load::{find, load, load_daemon, parse};
pub use origin::Origin;
#[cfg(feature = "vault")]
pub(crate) use provider::builtin as builtin_profile;
pub use template::Template;
#[cfg(feature = "vault")]
pub use vault::{ClientId, KEY_VARIABLE, ProviderConfig, VaultConfig};

use crate::{id::InstanceName, store::MemberRecord, supervisor::Definition};
use definition::Draft;
use fleet::Absent;
use reader::{Pass, Shared};

/// A configuration that has been checked. `Debug` shows no secret.
#[derive(Clone)]
pub struct Config {
    /// The file, absolute.
    pub path: PathBuf,
    /// The profile that `KISSOPS_PROFILE` selected.
    pub profile: Option<String>,
    /// The fleet as a whole.
    pub daemon: DaemonConfig,
    /// Where the state is kept.
    pub store: StoreConfig,
    /// The vault.
    #[cfg(feature = "vault")]
    pub vault: VaultConfig,
    /// Every instance and member that the file names, by name.
    pub instances: Vec<Definition>,
    /// The templates, by name.
    pub templates: Vec<Template>,
    /// What is accepted and has no effect, or looks like a mistake.
    pub warnings: Vec<ConfigError>,
    /// Every secret that could be found when the file was read, to be redacted.
    pub secrets: Vec<SecretString>,
    /// Where secret references are looked up: the environment, and behind it `.env`.
    pub environment: Environment,
    drafts: Vec<Draft>,
    doc: node::Table,
    shared: Arc<Shared>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Definitions and tables may hold secrets in clear text, against all warnings.
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("profile", &self.profile)
            .field("daemon", &self.daemon)
            .field("instances", &self.instances.len())
            .field("templates", &self.templates.len())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The whole effective fleet, by name: what the file names and the members `added` at run time, checked together.
    ///
    /// A member that the file names too is taken from the file; one whose template is gone is left out, see
    /// [`orphans`](Self::orphans).
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn definitions(&self, added: &[MemberRecord]) -> Result<Vec<Definition>, ConfigErrors> {
        let pass = Pass::new(&self.shared);
        let mut drafts = self.drafts.clone();
        let named: BTreeSet<&InstanceName> =
            self.drafts.iter().map(|draft| &draft.definition.name).collect();
        let mut seen = BTreeSet::new();
        for record in added {
            if named.contains(&record.name) || !seen.insert(&record.name) {
                continue;
            }
            if let Some(template) = record.name.template().and_then(|name| self.template(name)) {
                drafts.extend(template.draft(&pass, &record.name, &record.vars));
            }
        }
        let templates = self.templates.iter().map(|template| template.name.as_str()).collect();
        let definitions = fleet::link(&pass, drafts, &templates, &BTreeSet::new(), Absent::Error);
        let errors = pass.errors.into_inner();
        if errors.is_empty() {
            Ok(definitions)
        } else {
            Err(ConfigErrors::new(errors, Arc::clone(&self.shared.sources)))
        }
    }

    /// Members `added` at run time whose template is no longer in the file.
    #[must_use]
    pub fn orphans(&self, added: &[MemberRecord]) -> Vec<InstanceName> {
        let orphan = |record: &&MemberRecord| {
            record.name.template().is_none_or(|name| self.template(name).is_none())
        };
        added.iter().filter(orphan).map(|record| record.name.clone()).collect()
    }

    /// The template of that name.
    #[must_use]
    pub fn template(&self, name: &str) -> Option<&Template> {
        self.templates.iter().find(|template| template.name == name)
    }

    /// Where each value comes from, in the order of the sections.
    #[must_use]
    pub fn origins(&self) -> Vec<Origin> {
        load::origins(self, &self.doc)
    }

    /// The warnings for people, as [`ConfigErrors::render`] does; empty where there are none.
    #[must_use]
    pub fn render_warnings(&self) -> String {
        error::render("warning", &self.warnings, &self.shared.sources)
    }

    /// What the file said when it was read.
    #[must_use]
    pub fn text(&self) -> &str {
        self.shared.sources.first().map_or("", |source| &source.text)
    }

    /// The folder of the file.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }
}
