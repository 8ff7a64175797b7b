//! The socket of an instance: where it is, and making it.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
};

use crate::{
    Error, Result,
    id::{InstanceName, stable_hash},
};

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
    /// A file that only our user can reach.
    File(PathBuf),
    /// An abstract name, for bots that run as another user, who cannot enter our folder. It has no rights of its own:
    /// whoever connects is looked at.
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
        if let Some(uid) = user.filter(|uid| *uid != ours) {
            return Ok(Self::Abstract(format!("kissops/{fleet}/{uid}/{}", short(name))));
        }
        let path = dir.join(format!("{}.sock", short(name)));
        let length = path.as_os_str().len();
        if length > LONGEST_PATH {
            let rule = format!(
                "is too long: the socket {} would have {length} bytes, and at most {LONGEST_PATH} are possible",
                path.display()
            );
            return Err(Error::invalid("daemon.runtime_dir", rule));
        }
        Ok(Self::File(path))
    }

    /// The value of `KISSOPS_SOCKET`: a path, or an abstract name after an `@`.
    pub(super) fn variable(&self) -> OsString {
        match self {
            Self::File(path) => path.as_os_str().to_owned(),
            Self::Abstract(name) => format!("@{name}").into(),
        }
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
    /// Binds and listens. A dead predecessor's file is replaced; its folder has to be ours alone.
    pub(super) fn bind(address: &Address) -> Result<Self> {
        let what = || format!("bind the socket {}", address.variable().display());
        let (listener, file) = match address {
            Address::File(path) => {
                match fs::remove_file(path) {
                    Err(err) if err.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io(format!("remove {}", path.display()))(err));
                    }
                    _ => {}
                }
                let listener = UnixListener::bind(path).map_err(Error::io(what()))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))
                    .map_err(Error::io(format!("set the rights of {}", path.display())))?;
                let meta = fs::symlink_metadata(path)
                    .map_err(Error::io(format!("look at {}", path.display())))?;
                let file = File { path: path.clone(), device: meta.dev(), inode: meta.ino() };
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
        let abstract_name = Address::of(dir, "f", &"bot".parse().unwrap(), Some(12_345)).unwrap();
        assert_eq!(abstract_name.variable(), "@kissops/f/12345/bot");
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_successors_stays() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::File(dir.path().join("bot.sock"));
        let first = BotSocket::bind(&address).unwrap();
        assert!(first.is_there());
        let second = BotSocket::bind(&address).unwrap();
        assert!(!first.is_there() && second.is_there());
        drop(first);
        assert!(second.is_there());
        let mode = fs::metadata(dir.path().join("bot.sock")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(second);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
