//! The database's file before `SQLite` sees it: made with narrow rights, or refused.
//!
//! The database file is never opened here. Closing any descriptor of a file drops all POSIX locks that this process
//! holds on it, those of an open `SQLite` connection included (sqlite.org/howtocorrupt.html, section 2.2).

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::{Error, Result};

/// Who can write to the folder can replace the database. Reading it shows names only: the files themselves are 600.
const FOLDER_REFUSED: u32 = 0o022;

/// `path` with `suffix` behind its last part: `kissops.db-wal`.
pub(in crate::store) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Makes the folder (mode 700) and the file (mode 600) where they are missing, and refuses what others could touch.
///
/// # Errors
/// [`Error::Denied`] with the `chmod` that mends it; [`Error::WrongState`] for what is not a regular file.
pub(super) fn prepare(path: &Path) -> Result<()> {
    prepare_folder(path)?;
    if let Some(found) = look(path)? {
        check(path, &found)?;
    } else {
        create(path)?;
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let side = beside(path, suffix);
        if let Some(found) = look(&side)? {
            check(&side, &found)?;
        }
    }
    Ok(())
}

/// Makes an empty file of mode 600, whatever the umask. One that appeared meanwhile is checked instead.
pub(in crate::store) fn create(path: &Path) -> Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    match mknodat(CWD, path, FileType::RegularFile, mode, 0) {
        // A umask can only have taken bits away, so nobody else could open it before this.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(Error::io(format!("set the mode of {}", path.display()))),
        Err(rustix::io::Errno::EXIST) => match look(path)? {
            Some(found) => check(path, &found),
            None => Ok(()),
        },
        Err(errno) => Err(Error::io(format!("create {}", path.display()))(errno)),
    }
}

fn prepare_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let found = match fs::metadata(folder) {
        Ok(found) => found,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(Error::io(format!("create the folder {}", folder.display())))?;
            return Ok(());
        }
        Err(err) => return Err(Error::io(format!("look at {}", folder.display()))(err)),
    };
    if found.mode() & FOLDER_REFUSED != 0 {
        return Err(Error::Denied {
            what: format!(
                "the folder {} of the store has mode {:03o}, so others could replace the database",
                folder.display(),
                found.mode() & 0o777
            ),
            help: format!("run: chmod 700 {}", quoted(folder)),
        });
    }
    Ok(())
}

fn look(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::io(format!("look at {}", path.display()))(err)),
    }
}

fn check(path: &Path, found: &Metadata) -> Result<()> {
    let kind = found.file_type();
    if !kind.is_file() {
        let state = if kind.is_dir() {
            "a directory"
        } else if kind.is_symlink() {
            "a symbolic link"
        } else {
            "not a regular file"
        };
        return Err(Error::WrongState {
            what: format!("the store {}", path.display()),
            state: state.into(),
            help: "name a file, or a path where there is nothing yet".into(),
        });
    }
    let mode = found.mode() & 0o777;
    let problem = if mode & 0o077 != 0 {
        "so others could read it"
    } else if mode & 0o600 != 0o600 {
        "so it cannot be read and written"
    } else {
        return Ok(());
    };
    Err(Error::Denied {
        what: format!("the store {} has mode {mode:03o}, {problem}", path.display()),
        help: format!("run: chmod 600 {}", quoted(path)),
    })
}

/// The path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-@+:,".contains(&b);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_odd_characters_stays_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("/var/lib/a b/it's")), r"'/var/lib/a b/it'\''s'");
        assert_eq!(quoted(Path::new("/var/lib/kissops.db")), "/var/lib/kissops.db");
    }
}
