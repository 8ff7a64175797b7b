//! The socket of an instance: where it is, and making it.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
};

use crate::{
    Error, Result,
    id::{InstanceName, stable_hash},
    supervisor::make_private,
};

const ROOT: u32 = 0;
/// Where a socket is before it is moved to its place; no instance's ends like that.
const NEW: &str = ".new";

/// `sun_path` of unix(7) has 108 bytes, the last of which is zero.
const LONGEST_PATH: usize = 107;
/// Longer names are shortened to a hash.
const LONGEST_NAME: usize = 32;

/// A bound, listening socket. Its file goes when it is dropped.
#[derive(Debug)]
pub(super) struct BotSocket {
    pub(super) listener: tokio::net::UnixListener,
    file: Option<File>,
}

/// Where, and which: a successor's of the same name is not ours to remove.
#[derive(Debug)]
struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Where a bot finds its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A file that only one user can reach.
    File {
        path: PathBuf,
        /// Whose it is, where that is another user than ours.
        owner: Option<u32>,
    },
    /// An abstract name, for bots of another user where we are not root and cannot give a file away. It has no rights of
    /// its own: whoever connects is looked at. Node.js cannot connect to one.
    Abstract(String),
}

impl Address {
    /// Of an instance that runs as `user`. The same after a restart of ours: `fleet` tells us from other daemons.
    pub(super) fn of(
        dir: &Path,
        fleet: &str,
        name: &InstanceName,
        user: Option<u32>,
    ) -> Result<Self> {
        let ours = rustix::process::geteuid().as_raw();
        let owner = user.filter(|uid| *uid != ours);
        let file = format!("{}.sock", short(name));
        let path = match owner {
            Some(uid) if ours != ROOT => {
                return Ok(Self::Abstract(format!("kissops/{fleet}/{uid}/{}", short(name))));
            }
            Some(uid) => dir.join(format!("u{uid}")).join(file),
            None => dir.join(file),
        };
        let length = path.as_os_str().len();
        if length > LONGEST_PATH {
            let rule = format!(
                "is too long: the socket {} would have {length} bytes, and at most {LONGEST_PATH} are possible",
                path.display()
            );
            return Err(Error::invalid("daemon.runtime_dir", rule));
        }
        Ok(Self::File { path, owner })
    }

    /// The value of `KISSOPS_SOCKET`: a path, or an abstract name after an `@`.
    pub(super) fn variable(&self) -> OsString {
        match self {
            Self::File { path, .. } => path.as_os_str().to_owned(),
            Self::Abstract(name) => format!("@{name}").into(),
        }
    }

    /// Makes the folders that the socket lies in, where somebody has cleaned them away: ours for us alone, and another
    /// user's in it for that user alone. Only where there is such a user may others pass through ours, and the one above
    /// it; they can read neither.
    pub(super) fn make_folders(&self, dir: &Path) -> Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io(format!("make the folder {}", dir.display())))?;
        let Self::File { path, owner: Some(uid) } = self else { return Ok(()) };
        for passed in dir.parent().into_iter().chain([dir]) {
            fs::set_permissions(passed, fs::Permissions::from_mode(0o711))
                .map_err(Error::io(format!("let others pass through {}", passed.display())))?;
        }
        let Some(own) = path.parent() else { return Ok(()) };
        make_private(own)?;
        // What it is a name of cannot change: the folder that it lies in is ours.
        chown(own, Some(*uid), None)
            .map_err(Error::io(format!("give {} to its user", own.display())))
    }
}

/// The name itself, or a hash of it, which no name is like.
fn short(name: &InstanceName) -> String {
    if name.as_str().len() <= LONGEST_NAME {
        return name.as_str().to_owned();
    }
    format!(".{:016x}", stable_hash([name.as_str().as_bytes()]))
}

impl BotSocket {
    /// Binds and listens; the folders are there. A dead predecessor's file is replaced.
    pub(super) fn bind(dir: &Path, address: &Address) -> Result<Self> {
        let what = || format!("bind the socket {}", address.variable().display());
        let (listener, file) = match address {
            Address::File { path, owner } => {
                let (listener, file) = bind_file(dir, path, *owner).map_err(Error::io(what()))?;
                (listener, Some(file))
            }
            Address::Abstract(name) => {
                let address = SocketAddr::from_abstract_name(name).map_err(Error::io(what()))?;
                (UnixListener::bind_addr(&address).map_err(Error::io(what()))?, None)
            }
        };
        listener.set_nonblocking(true).map_err(Error::io(what()))?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(Error::io(what()))?;
        Ok(Self { listener, file })
    }

    /// It can still be reached: nobody has cleaned its folder.
    pub(super) fn is_there(&self) -> bool {
        self.file.as_ref().is_none_or(File::is_there)
    }
}

/// Removes the folders of other users from ours, where they are empty.
pub(super) fn tidy(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        // What is no empty folder stays.
        let _ = fs::remove_dir(entry.path());
    }
}

/// Binds beside the place and moves the socket there: in another user's folder that user could put something else in the
/// place of what we are about to give away.
fn bind_file(dir: &Path, path: &Path, owner: Option<u32>) -> io::Result<(UnixListener, File)> {
    let new = dir.join(NEW);
    match fs::remove_file(&new) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    chown(&new, owner, None)?;
    let meta = fs::symlink_metadata(&new)?;
    fs::rename(&new, path)?;
    let file = File { path: path.to_owned(), device: meta.dev(), inode: meta.ino() };
    Ok((listener, file))
}

impl File {
    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode))
    }
}

impl Drop for BotSocket {
    fn drop(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|file| file.is_there()) {
            // Best effort: whoever comes next replaces a socket that nobody answers.
            let _ = fs::remove_file(&file.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_short_and_apart() {
        let dir = Path::new("/run/kissbot/b");
        let long = format!("twitch@{}", "x".repeat(60));
        let other = format!("twitch@{}y", "x".repeat(59));
        let of = |name: &str| Address::of(dir, "f", &name.parse().unwrap(), None).unwrap();
        assert_eq!(of("twitch@el_serda").variable(), "/run/kissbot/b/twitch@el_serda.sock");
        assert_ne!(of(&long), of(&other));
        assert!(of(&long).variable().len() < 40);
        let deep = PathBuf::from(format!("/{}", "d".repeat(100)));
        let err = Address::of(&deep, "f", &"bot".parse().unwrap(), None).unwrap_err();
        assert!(err.to_string().contains("runtime_dir"), "{err}");
    }

    #[test]
    fn another_users_socket_is_in_a_folder_of_its_own() {
        let of = |uid| Address::of(Path::new("/r/b"), "f", &"bot".parse().unwrap(), Some(uid));
        let ours = rustix::process::geteuid().as_raw();
        assert_eq!(of(ours).unwrap().variable(), "/r/b/bot.sock");
        let expected = if ours == ROOT { "/r/b/u12345/bot.sock" } else { "@kissops/f/12345/bot" };
        assert_eq!(of(12_345).unwrap().variable(), expected);
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_successors_stays() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::File { path: dir.path().join("bot.sock"), owner: None };
        let first = BotSocket::bind(dir.path(), &address).unwrap();
        assert!(first.is_there());
        let second = BotSocket::bind(dir.path(), &address).unwrap();
        assert!(!first.is_there() && second.is_there());
        drop(first);
        assert!(second.is_there());
        let mode = fs::metadata(dir.path().join("bot.sock")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(second);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
