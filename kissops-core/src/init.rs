//! `kissops init`: looks at a folder and proposes a configuration that runs what is in it (CTL-5).
//!
//! Nothing is written here: a [`Proposal`] can be shown before it is applied.

mod folder;
mod pm2;
mod procfile;
mod shell;
mod supervisord;
mod write;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    Error, Result,
    config::{self, Environment},
};

/// The largest file that is looked into, in bytes.
const LARGEST: u64 = 1 << 20;

/// A configuration for a folder, to be written there.
#[derive(Clone)]
pub struct Proposal {
    /// The text of `kissops.toml`, which passes [`config::load`].
    pub toml: String,
    /// What was recognised: "`Procfile` with 2 processes".
    pub found: Vec<String>,
    /// What the files say that the configuration does not, and why.
    pub not_carried_over: Vec<String>,
    /// What is left for the operator, as commands where possible: "chmod 600 .env".
    pub to_do: Vec<String>,
    /// Further files: absolute path, text (it holds secrets) and mode.
    pub files: Vec<(PathBuf, String, u32)>,
}

impl std::fmt::Debug for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The texts of `files` are secrets.
        let files: Vec<_> = self.files.iter().map(|(path, _, mode)| (path, mode)).collect();
        f.debug_struct("Proposal")
            .field("found", &self.found)
            .field("not_carried_over", &self.not_carried_over)
            .field("files", &files)
            .finish_non_exhaustive()
    }
}

/// What is known of one bot before it is written down.
#[derive(Clone, Debug, Default)]
struct Bot {
    name: String,
    command: Vec<String>,
    /// Names of members, where it is a template; in `command`, braces are then escaped already.
    members: Vec<String>,
    env: BTreeMap<String, String>,
    env_file: Vec<String>,
    /// Further keys with their values as TOML, in the order of writing.
    keys: Vec<(&'static str, String)>,
    /// Lines above it, for people.
    comments: Vec<String>,
}

impl Bot {
    fn new(name: &str, command: Vec<String>) -> Self {
        Self { name: clean_name(name), command, ..Self::default() }
    }

    fn set(&mut self, key: &'static str, value: impl Into<String>) {
        self.keys.push((key, value.into()));
    }

    fn comment(&mut self, line: impl Into<String>) {
        self.comments.push(line.into());
    }
}

/// What the parts of this module add to.
#[derive(Debug, Default)]
struct Findings {
    bots: Vec<Bot>,
    found: Vec<String>,
    lost: Vec<String>,
}

/// Proposes a configuration for `folder`: from a PM2 ecosystem file, a supervisord configuration or a Procfile, else
/// from what the folder's programs are written in.
///
/// Reads files of the folder; an ecosystem file in JavaScript is run by `node` for at most five seconds, as PM2 would.
/// Blocks meanwhile.
///
/// # Errors
/// - [`Error::NotFound`] if nothing is recognised: it says what was looked for.
/// - [`Error::Io`] if the folder cannot be read.
pub fn propose(folder: &Path) -> Result<Proposal> {
    let folder =
        std::path::absolute(folder).map_err(Error::io(format!("find {}", folder.display())))?;
    std::fs::read_dir(&folder).map_err(Error::io(format!("read {}", folder.display())))?;
    let mut findings = Findings::default();
    let sources: [fn(&Path, &mut Findings); 3] = [pm2::find, supervisord::find, procfile::find];
    for source in sources {
        // One manager's file is the truth about the fleet; a second one would start everything twice.
        if findings.bots.is_empty() {
            source(&folder, &mut findings);
        }
    }
    if findings.bots.is_empty() {
        folder::find(&folder, &mut findings);
    }
    if findings.bots.is_empty() {
        let lost: Vec<&str> = findings.lost.iter().map(String::as_str).collect();
        let lost = if lost.is_empty() { String::new() } else { format!(" ({})", lost.join("; ")) };
        return Err(Error::NotFound {
            what: format!(
                "bot that is recognised in {}: looked for ecosystem.config.js, supervisord.conf, Procfile, main.py, \
                 bot.py, __main__.py, package.json, Cargo.toml, go.mod{lost}",
                folder.display(),
            ),
        });
    }
    let to_do = dotenv(&folder, &mut findings);
    unique_names(&mut findings.bots);
    let files = write::secrets_apart(&folder, &mut findings);
    let toml = write::toml(&folder, &findings);
    config::parse(&folder.join("kissops.toml"), &toml, &Environment::default())
        .map_err(crate::Error::from)?;
    let Findings { found, lost, .. } = findings;
    Ok(Proposal { toml, found, not_carried_over: lost, to_do, files })
}

/// Gives every bot the `.env` of the folder; says what its rights need.
fn dotenv(folder: &Path, findings: &mut Findings) -> Vec<String> {
    let path = folder.join(".env");
    if !path.is_file() {
        return Vec::new();
    }
    findings.found.push("`.env`".to_owned());
    match config::read_env_file(&path) {
        Ok(_) => {}
        Err(Error::Denied { help, .. }) => {
            findings.bots.iter_mut().for_each(|bot| bot.env_file.push(".env".to_owned()));
            return vec![help];
        }
        Err(err) => {
            findings.lost.push(format!("`.env` is not used: {}", err.chain()));
            return vec![format!("mend {}: kissops reads it too", path.display())];
        }
    }
    findings.bots.iter_mut().for_each(|bot| bot.env_file.push(".env".to_owned()));
    Vec::new()
}

/// A text file of the folder, if it is there, regular and not too large.
fn read(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    (meta.is_file() && meta.len() <= LARGEST).then(|| std::fs::read_to_string(path).ok()).flatten()
}

/// `name` in the letters that an instance's name may have.
fn clean_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    let clean: String = name.chars().map(|c| if fits(c) { c } else { '-' }).take(60).collect();
    let clean = clean.trim_matches(['.', '-']);
    if clean.is_empty() { "bot".to_owned() } else { clean.to_owned() }
}

fn unique_names(bots: &mut [Bot]) {
    let mut taken: Vec<String> = Vec::new();
    for bot in bots {
        let mut name = bot.name.clone();
        for number in 2.. {
            if !taken.contains(&name) {
                break;
            }
            name = format!("{}-{number}", bot.name);
        }
        bot.name.clone_from(&name);
        taken.push(name);
    }
}
