//! From a path to a [`Config`].

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

#[cfg(feature = "vault")]
use super::vault;
use super::{
    Config, ConfigErrors, Environment,
    daemon::{self, VARIABLES},
    definition::{self, Draft},
    env_file::looks_secret,
    fleet::{self, Absent},
    node::{Layer, Node, Place, Table, Value},
    origin::Collector,
    profile,
    reader::{Pass, Section, Shared},
    source::Source,
    suggest::nearest,
    syntax::{self, syntax},
    template::{self, Template},
};
use crate::{
    HumanDuration,
    id::InstanceName,
    supervisor::{Definition, EnvValue, SecretRef},
};
use secrecy::SecretString;

/// The place of what no key says.
const ROOT: Place = Place { layer: Layer::File, offset: 0 };

/// Where the file is looked for when nobody names one.
const PLACES: [&str; 2] = ["kissops.toml", "/etc/kissops/kissops.toml"];

/// Sections of later versions: accepted, so that one file serves both, and named as a warning.
pub(super) const LATER: [&str; 5] = ["probe", "notify", "route", "backup", "job"];

/// The configuration file: `explicit`, else `kissops.toml` here, else `/etc/kissops/kissops.toml`.
///
/// # Errors
/// If there is none: the places that were looked at.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, ConfigErrors> {
    if let Some(path) = explicit {
        return if path.exists() {
            Ok(path.to_owned())
        } else {
            Err(ConfigErrors::whole(
                path,
                "there is no such file",
                "`kissops init` writes one for the folder it is called in",
            ))
        };
    }
    let found = PLACES.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        let here = std::env::current_dir().unwrap_or_default();
        ConfigErrors::whole(
            here.join(PLACES[0]),
            format!(
                "there is no configuration: looked at {} and {}",
                here.join(PLACES[0]).display(),
                PLACES[1]
            ),
            "`kissops init` writes one for this folder; --config names another",
        )
    })
}

/// Reads and checks the file at `path`, with the `.env` file beside it and `environment` over it.
///
/// Blocks for as long as the disk does.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, ConfigErrors> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let source = Source::read(&path)?;
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let dotenv = folder.join(".env");
    let environment =
        environment.with_dotenv(&dotenv).map_err(|err| dotenv_error(&dotenv, &err))?;
    check(source, Source::new(dotenv, String::new()), folder, environment)
}

/// Only `[daemon]` of the file at `path`: what a client needs to find the daemon.
///
/// The other sections are not looked at: a daemon that runs can be asked while its file is being mended.
///
/// # Errors
/// What is wrong with the profile, `[daemon]`, or the syntax if that may concern `[daemon]`.
pub fn load_daemon(
    path: &Path,
    environment: &Environment,
) -> Result<daemon::DaemonConfig, ConfigErrors> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let source = Source::read(&path)?;
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let dotenv = folder.join(".env");
    let environment =
        environment.with_dotenv(&dotenv).map_err(|err| dotenv_error(&dotenv, &err))?;
    let parsed = syntax(&source).or_else(|errors| syntax::daemon_alone(&source).ok_or(errors));
    let sources: Arc<[Source]> = Arc::from([source, Source::new(dotenv, String::new())]);
    let mut doc = parsed.map_err(|errors| ConfigErrors::new(errors, Arc::clone(&sources)))?;
    let shared = Arc::new(Shared { sources, folder, environment });
    let pass = Pass::new(&shared);
    profile::select(&pass, &mut doc, &shared);
    apply_variables(&pass, &mut doc);
    let sections = Section::new(&pass, &doc, ROOT, String::new());
    let (daemon, _) = daemon_and_store(&sections, ROOT);
    let mut errors = pass.errors.into_inner();
    // A profile is checked with all its sections, of which only one matters here.
    errors.retain(|error| {
        error.key == "KISSOPS_PROFILE" || error.key == "daemon" || error.key.starts_with("daemon.")
    });
    if errors.is_empty() {
        Ok(daemon)
    } else {
        Err(ConfigErrors::new(errors, Arc::clone(&shared.sources)))
    }
}

/// Checks `text` as if it stood in the file at `path`, without reading anything but the secrets it names.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str, environment: &Environment) -> Result<Config, ConfigErrors> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let dotenv = Source::new(folder.join(".env"), String::new());
    check(Source::new(path, text.to_owned()), dotenv, folder, environment.clone())
}

fn dotenv_error(path: &Path, err: &crate::Error) -> ConfigErrors {
    match err {
        crate::Error::Denied { what, help } => ConfigErrors::whole(path, what.clone(), help),
        crate::Error::InvalidConfig { key, rule } => {
            ConfigErrors::whole(key.as_str(), rule.clone(), "lines are like KEY=value")
        }
        other => ConfigErrors::whole(path, other.chain(), ""),
    }
}

fn check(
    source: Source,
    dotenv: Source,
    folder: PathBuf,
    environment: Environment,
) -> Result<Config, ConfigErrors> {
    let path = source.path.clone();
    let parsed = syntax(&source);
    let sources: Arc<[Source]> = Arc::from([source, dotenv]);
    let mut doc = parsed.map_err(|errors| ConfigErrors::new(errors, Arc::clone(&sources)))?;
    let shared = Arc::new(Shared { sources, folder, environment });
    let pass = Pass::new(&shared);
    let profile = profile::select(&pass, &mut doc, &shared);
    apply_variables(&pass, &mut doc);
    let seen = inspect(&pass, &doc, &shared);
    if seen.drafts.is_empty() && seen.templates.is_empty() && pass.errors.borrow().is_empty() {
        pass.warn(ROOT, "", "there is no instance", "add [instance.bot] with command = [\"…\"]");
    }
    let mut secrets = secrets(&pass, &seen);
    #[cfg(feature = "vault")]
    secrets.extend(vault_secrets(&pass, &seen.vault, doc.place("vault")));
    secrets.extend(seen.store.url.password());
    let errors = pass.errors.into_inner();
    if !errors.is_empty() {
        return Err(ConfigErrors::new(errors, Arc::clone(&shared.sources)));
    }
    let mut warnings = pass.warnings.into_inner();
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    Ok(Config {
        path,
        profile,
        daemon: seen.daemon,
        store: seen.store,
        #[cfg(feature = "vault")]
        vault: seen.vault,
        instances: seen.instances,
        templates: seen.templates,
        warnings,
        secrets,
        environment: shared.environment.clone(),
        drafts: seen.drafts,
        doc,
        shared: Arc::clone(&shared),
    })
}

/// What a document says, as far as it is right.
pub(super) struct Inspected {
    daemon: daemon::DaemonConfig,
    store: daemon::StoreConfig,
    #[cfg(feature = "vault")]
    vault: vault::VaultConfig,
    drafts: Vec<Draft>,
    templates: Vec<Template>,
    instances: Vec<Definition>,
}

pub(super) fn inspect(pass: &Pass<'_>, doc: &Table, shared: &Arc<Shared>) -> Inspected {
    let sections = Section::new(pass, doc, ROOT, String::new());
    later(&sections);
    let (daemon, store) = daemon_and_store(&sections, ROOT);
    let vault = sections.get("vault").and_then(|item| item.section("write [vault]"));
    #[cfg(feature = "vault")]
    let vault = vault.map(vault::read).unwrap_or_default();
    #[cfg(not(feature = "vault"))]
    if let Some(section) = vault {
        pass.warn(section.at, "vault", "has no effect: this program is built without a vault", "");
    }
    let (drafts, templates, named) = fleet(&sections, shared);
    sections.finish();
    let of_templates = templates.iter().map(|template| template.name.as_str()).collect();
    let named = named.iter().map(String::as_str).collect();
    let instances = fleet::link(pass, drafts.clone(), &of_templates, &named, Absent::Warning);
    Inspected {
        daemon,
        store,
        #[cfg(feature = "vault")]
        vault,
        drafts,
        templates,
        instances,
    }
}

/// Lays the variables of the environment and of `.env` over the file.
fn apply_variables(pass: &Pass<'_>, doc: &mut Table) {
    let environment = &pass.shared.environment;
    for (name, path) in VARIABLES {
        let Some((layer, value)) = environment.find(name) else { continue };
        let text = Environment::text(value);
        let value = match text.parse::<i64>() {
            Ok(number) if name.ends_with("_CONCURRENCY") => Value::Integer(Some(number), 10),
            _ => Value::String(text.to_owned()),
        };
        doc.set(path, Node { at: Place { layer, offset: 0 }, value });
    }
    let known = VARIABLES.map(|(name, _)| name);
    let foreign = environment.names("KISSOPS_DAEMON_").chain(environment.names("KISSOPS_STORE_"));
    for name in foreign.filter(|name| !known.contains(name)) {
        let help =
            nearest(name, &known).map_or_else(String::new, |near| format!("did you mean {near}?"));
        let layer = environment.find(name).map_or(Layer::Environment, |(layer, _)| layer);
        pass.warn(Place { layer, offset: 0 }, name, "sets nothing", help);
    }
}

/// Sections of later versions.
fn later(sections: &Section<'_>) {
    const MESSAGE: &str = "is not supported by this version yet and has no effect";
    for name in LATER {
        let Some(item) = sections.get(name) else { continue };
        let Some(section) = item.section("write it as a table") else { continue };
        let tables = section.items().filter(|(_, item)| matches!(item.node.value, Value::Table(_)));
        let mut named = 0;
        for (key, item) in tables {
            named += 1;
            item.pass.warn(item.key_at, "", format!("[{name}.{key}] {MESSAGE}"), "");
        }
        if named == 0 {
            item.pass.warn(item.key_at, "", format!("[{name}] {MESSAGE}"), "");
        }
    }
}

fn daemon_and_store(
    sections: &Section<'_>,
    root: Place,
) -> (daemon::DaemonConfig, daemon::StoreConfig) {
    let empty = Table::default();
    let section = sections.get("daemon").and_then(|item| item.section("write [daemon]"));
    let daemon = daemon::read(
        section.unwrap_or_else(|| Section::new(sections.pass, &empty, root, "daemon".into())),
    );
    let section = sections.get("store").and_then(|item| item.section("write [store]"));
    let store = daemon::read_store(
        section.unwrap_or_else(|| Section::new(sections.pass, &empty, root, "store".into())),
        &daemon.state_dir,
    );
    (daemon, store)
}

/// Instances with the members that the file names, templates, and the names of all instances: also of those that have
/// errors and so gave no draft.
fn fleet(
    sections: &Section<'_>,
    shared: &Arc<Shared>,
) -> (Vec<Draft>, Vec<Template>, BTreeSet<String>) {
    let defaults = sections.get("defaults").and_then(|item| item.section("write [defaults]"));
    let inherited = defaults.as_ref().map(|section| section.table);
    if let Some(section) = defaults {
        definition::check_defaults(section);
    }
    let mut drafts = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let instances = sections.get("instance").and_then(|item| item.section("write [instance.NAME]"));
    for (name, item) in instances.iter().flat_map(Section::items) {
        let Ok(valid) = InstanceName::new(name) else {
            let _ = item.fail::<()>(
                "is not a name of an instance",
                "1 to 64 letters, digits, _, - and ., not beginning with - or .",
            );
            continue;
        };
        taken.insert(name.to_owned());
        let Some(own) = item.section("write [instance.NAME] with its keys below") else { continue };
        let merged = definition::inherit(inherited, own.table);
        let section = Section::new(item.pass, &merged, own.at, item.path.clone());
        drafts.extend(definition::read(section, &valid));
    }
    let mut templates = Vec::new();
    let tables = sections.get("template").and_then(|item| item.section("write [template.NAME]"));
    for (name, item) in tables.iter().flat_map(Section::items) {
        if taken.contains(name) {
            item.pass.error(
                item.key_at,
                &item.path,
                format!("there is an instance `{name}` too"),
                "give one of the two another name",
            );
        }
        let Some((template, members)) = template::read(name, &item, inherited, shared) else {
            continue;
        };
        for member in members {
            if !taken.insert(member.name.to_string()) {
                let message = format!("there are two instances `{}`", member.name);
                item.pass.error(member.at, &member.key, message, "remove or rename one of the two");
                continue;
            }
            drafts.extend(template.draft(item.pass, &member.name, &member.vars));
        }
        templates.push(template);
    }
    (drafts, templates, taken)
}

/// Every secret that can be found now; those that cannot are warnings, because they are looked up at each use.
fn secrets(pass: &Pass<'_>, seen: &Inspected) -> Vec<SecretString> {
    let mut finder = Finder::new(pass);
    let mut secrets: Vec<SecretString> = finder.environment.secrets().cloned().collect();
    for draft in &seen.drafts {
        let path = format!("instance.{}.env", draft.definition.name);
        for (key, value) in &draft.definition.env {
            match value {
                EnvValue::Plain(text) if looks_secret(key) => secrets.push(text.as_str().into()),
                EnvValue::Plain(_) => {}
                EnvValue::Secret(reference) => match finder.find(reference) {
                    Ok(found) => secrets.extend(found),
                    Err(err) => {
                        let help = "each start looks it up and fails without it";
                        pass.warn(draft.at, &format!("{path}.{key}"), err.chain(), help);
                    }
                },
            }
        }
    }
    secrets.retain(|secret| !Environment::text(secret).is_empty());
    secrets
}

/// Those of `[vault]`. What is missing there keeps nobody from running: the vault stays sealed, or the provider unused.
#[cfg(feature = "vault")]
fn vault_secrets(pass: &Pass<'_>, vault: &vault::VaultConfig, at: Place) -> Vec<SecretString> {
    let environment = &pass.shared.environment;
    let mut secrets = Vec::new();
    for (key, source) in vault.key_sources() {
        // Also one that is malformed is to be kept out of logs.
        secrets.extend(environment.lookup(&vault::as_reference(source)));
        if let Err(err) = source.read(environment)
            && vault.configured
        {
            pass.warn(at, key, err.chain(), "the vault stays sealed without it");
        }
    }
    let mut finder = Finder::new(pass);
    for (key, reference) in vault.providers.iter().flat_map(vault::ProviderConfig::references) {
        match finder.find(reference) {
            // A client's number is no secret.
            Ok(found) => secrets.extend(found.filter(|_| key.ends_with("secret"))),
            Err(err) => pass.warn(at, &key, err.chain(), "the provider cannot be used without it"),
        }
    }
    secrets
}

/// Looks each reference up once.
struct Finder<'a> {
    environment: &'a Environment,
    seen: BTreeSet<String>,
}

impl<'a> Finder<'a> {
    fn new(pass: &Pass<'a>) -> Self {
        Self { environment: &pass.shared.environment, seen: BTreeSet::new() }
    }

    /// The secret; none if it was looked up before, or is in the vault.
    fn find(&mut self, reference: &SecretRef) -> crate::Result<Option<SecretString>> {
        if matches!(reference, SecretRef::Secret(_)) || !self.seen.insert(reference.to_string()) {
            return Ok(None);
        }
        self.environment.lookup(reference).map(Some)
    }
}

pub(super) fn origins(config: &Config, doc: &Table) -> Vec<super::Origin> {
    let mut all = Collector {
        shared: &config.shared,
        profile: config.profile.as_deref(),
        origins: Vec::new(),
    };
    all.collect(doc);
    let instances = all.origins.iter().position(|origin| {
        origin.key.starts_with("instance.") || origin.key.starts_with("template.")
    });
    let rest = instances.map(|at| all.origins.split_off(at)).unwrap_or_default();
    let daemon = &config.daemon;
    let path = |path: &Path| format!("\"{}\"", path.display());
    all.default(0, "daemon.name", format!("\"{}\"", daemon.name));
    all.default(0, "daemon.state_dir", path(&daemon.state_dir));
    all.default(0, "daemon.runtime_dir", path(&daemon.runtime_dir));
    all.default(0, "daemon.log_dir", path(&daemon.log_dir));
    all.default(0, "daemon.start_concurrency", daemon.start_concurrency.to_string());
    all.default(0, "daemon.start_jitter", format!("\"{}\"", HumanDuration(daemon.start_jitter)));
    all.default(0, "daemon.log.level", format!("\"{}\"", daemon.log.level));
    all.default(0, "daemon.log.format", "\"text\"");
    all.default(0, "store.url", format!("\"{}\"", config.store.url));
    all.default(0, "store.connections", config.store.connections.to_string());
    all.default(0, "store.mmap", format!("\"{}\"", config.store.mmap));
    all.origins.extend(rest);
    all.origins
}
