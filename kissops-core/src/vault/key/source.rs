//! Where a key comes from: never the command line, which everybody may read.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::Kek;
use crate::{Error, Result, config::Environment};

/// Where the vault's key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In an environment variable: `KISSOPS_SECRET_KEY`.
    Env(String),
    /// In a file of mode 600, owned by the user of this program.
    File(PathBuf),
    /// In a systemd credential: a file of that name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// No text of a key is longer, in bytes.
const LONGEST: u64 = 4096;

impl KeySource {
    /// Reads the key. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if there is no such variable, file or credential.
    /// - [`Error::Denied`] for a file that others may read or that is another's, with what mends it.
    /// - [`Error::InvalidConfig`] for a key that is malformed or weak, see [`Kek::parse`].
    pub fn read(&self, env: &Environment) -> Result<Kek> {
        let text = match self {
            Self::Env(name) => env.get(name).cloned().ok_or_else(|| Error::NotFound {
                what: format!("variable {name}, which should hold the vault's key"),
            })?,
            Self::File(path) => read_file(path, check_file)?,
            Self::Credential(name) => read_file(&credential(name, env)?, check_credential)?,
        };
        Kek::parse(&text).map_err(|err| match err {
            Error::InvalidConfig { key, rule } => {
                Error::invalid(format!("{key} in {}", self.shown()), rule)
            }
            other => other,
        })
    }

    fn shown(&self) -> String {
        match self {
            Self::Env(name) => format!("the variable {name}"),
            Self::File(path) => path.display().to_string(),
            Self::Credential(name) => format!("the credential `{name}`"),
        }
    }
}

fn credential(name: &str, env: &Environment) -> Result<PathBuf> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        let key = format!("credential `{}`", name.escape_debug());
        return Err(Error::invalid(key, "must be the name of a file in $CREDENTIALS_DIRECTORY"));
    }
    let folder = env.get("CREDENTIALS_DIRECTORY").ok_or_else(|| Error::NotFound {
        what: format!(
            "credential `{name}`: CREDENTIALS_DIRECTORY is not set; write LoadCredential={name}:… into the unit"
        ),
    })?;
    Ok(Path::new(secrecy::ExposeSecret::expose_secret(folder)).join(name))
}

fn read_file(path: &Path, check: fn(&Path, u32, u32) -> Result<()>) -> Result<SecretString> {
    let shown = path.display();
    // Non-blocking: a named pipe would wait for a writer for ever.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file: File = open.map_err(|err| match err.kind() {
        std::io::ErrorKind::NotFound => {
            Error::NotFound { what: format!("file {shown}, which should hold the vault's key") }
        }
        _ => Error::io(format!("open {shown}"))(err),
    })?;
    // Of the open file: what a link points to, and not what was there a moment ago.
    let meta = file.metadata().map_err(Error::io(format!("inspect {shown}")))?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(Error::invalid(shown.to_string(), "must be a regular file that holds a key"));
    }
    check(path, meta.mode(), meta.uid())?;
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(LONGEST).unwrap_or(0)));
    let read = file.take(LONGEST).read_to_string(&mut text);
    read.map_err(Error::io(format!("read {shown}")))?;
    Ok(SecretString::from(text.as_str()))
}

fn check_file(path: &Path, mode: u32, owner: u32) -> Result<()> {
    let (shown, ours) = (path.display(), rustix::process::geteuid().as_raw());
    if owner != ours {
        return Err(Error::Denied {
            what: format!("{shown} holds the vault's key and belongs to user {owner}"),
            help: format!("chown {ours} {shown}"),
        });
    }
    if mode & 0o077 != 0 {
        return Err(Error::Denied {
            what: format!(
                "{shown} holds the vault's key and is open to group or others (mode {:03o})",
                mode & 0o777
            ),
            help: format!("chmod 600 {shown}"),
        });
    }
    Ok(())
}

/// systemd gives a service its credentials by an access list, which shows as rights of the group of a file of root's.
fn check_credential(path: &Path, mode: u32, _owner: u32) -> Result<()> {
    if !mode & 0o007 == 0o007 {
        return Ok(());
    }
    let shown = path.display();
    Err(Error::Denied {
        what: format!("{shown} holds the vault's key and is open to everybody"),
        help: "let systemd provide it: LoadCredential= or SetCredentialEncrypted=".into(),
    })
}
