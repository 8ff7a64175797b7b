//! The notify protocol of `sd_notify(3)` on a socket per instance (SUP-8): what a bot says of itself.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use tokio::io::Interest;

use super::builder::make_private;
use crate::{Error, Result, id::InstanceName};

/// One thing that a bot said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Ready,
    Stopping,
    Alive,
    /// `WATCHDOG=trigger`: it knows that it is stuck.
    Stuck,
    Status(String),
    MainPid(i32),
    ExtendTimeout(Duration),
}

impl Said {
    /// What it does, for people: one line, not endless.
    pub(crate) fn status(text: &str) -> Self {
        let clean: String = text.chars().filter(|c| !c.is_control()).collect();
        Self::Status(clean.get(..clean.floor_char_boundary(STATUS)).unwrap_or_default().to_owned())
    }
}

/// Longest message that is read; systemd's limit too.
const LONGEST: usize = 4096;
/// Longest status text that is kept, in bytes.
const STATUS: usize = 256;

/// A bound datagram socket. Its file, if it has one, outlives a drop: a successor may take the socket over.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: tokio::net::UnixDatagram,
    address: Address,
    /// Besides root and ourselves, who may speak.
    speaker: Option<u32>,
}

/// Where the bot finds it.
#[derive(Clone, Debug)]
enum Address {
    /// A file: every client library can reach it, other users cannot.
    File(PathBuf),
    /// An abstract name: for bots that run as another user, who cannot enter our folder.
    Abstract(String),
}

impl NotifySocket {
    /// A fresh socket for an instance, under `dir` for a bot of our own user.
    pub(super) fn bind(
        dir: &Path,
        name: &InstanceName,
        run: i64,
        speaker: Option<u32>,
    ) -> Result<Self> {
        let what = || format!("bind the notify socket of `{name}` in {}", dir.display());
        let ours = rustix::process::geteuid().as_raw();
        let (socket, address) = if let Some(uid) = speaker.filter(|uid| *uid != ours) {
            let text = format!("kissops/{uid}/{name}/{run}");
            let address = SocketAddr::from_abstract_name(&text).map_err(Error::io(what()))?;
            (UnixDatagram::bind_addr(&address).map_err(Error::io(what()))?, Address::Abstract(text))
        } else {
            // Short: the whole path has to fit 107 bytes, see unix(7).
            let path = dir.join(format!("{run:x}"));
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(what())(error));
                }
                _ => {}
            }
            let socket = match UnixDatagram::bind(&path) {
                // Somebody has cleaned the folder that ours lies in.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_private(dir)?;
                    UnixDatagram::bind(&path)
                }
                other => other,
            }
            .map_err(Error::io(what()))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
                .map_err(Error::io(what()))?;
            (socket, Address::File(path))
        };
        Self::watch(socket, address, speaker).map_err(Error::io(what()))
    }

    /// The socket of a process that was taken over.
    pub(super) fn adopted(fd: OwnedFd, speaker: Option<u32>) -> Result<Self> {
        let socket = UnixDatagram::from(fd);
        let local = socket.local_addr().map_err(Error::io("look at an inherited notify socket"))?;
        let address = match (local.as_pathname(), local.as_abstract_name()) {
            (Some(path), _) => Address::File(path.to_owned()),
            (_, Some(name)) => Address::Abstract(String::from_utf8_lossy(name).into_owned()),
            _ => Address::Abstract(String::new()),
        };
        Self::watch(socket, address, speaker).map_err(Error::io("watch an inherited notify socket"))
    }

    fn watch(socket: UnixDatagram, address: Address, speaker: Option<u32>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        sockopt::set_socket_passcred(&socket, true)?;
        Ok(Self { socket: tokio::net::UnixDatagram::from_std(socket)?, address, speaker })
    }

    /// A duplicate for a successor.
    pub(super) fn share(&self) -> Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned().map_err(Error::io("duplicate a notify socket"))
    }

    /// The value of `NOTIFY_SOCKET`.
    pub(super) fn variable(&self) -> std::ffi::OsString {
        match &self.address {
            Address::File(path) => path.as_os_str().to_owned(),
            Address::Abstract(name) => format!("@{name}").into(),
        }
    }

    /// The next message's statements. Never fails: what cannot be understood is passed over.
    ///
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&self) -> Vec<Said> {
        loop {
            if self.socket.readable().await.is_err() {
                return std::future::pending().await;
            }
            match self.socket.try_io(Interest::READABLE, || self.receive()) {
                Ok(said) if !said.is_empty() => return said,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => tracing::debug!(%error, "a notify message could not be read"),
            }
        }
    }

    fn receive(&self) -> io::Result<Vec<Said>> {
        let mut text = [0; LONGEST];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut text)],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )?;
        // Descriptors that somebody sends along (FDSTORE=1) are closed as the buffer is drained.
        let mut sender = None;
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmCredentials(credentials) = item {
                sender = Some(credentials.uid.as_raw());
            }
        }
        let ours = rustix::process::geteuid().as_raw();
        let trusted =
            sender.is_some_and(|uid| uid == 0 || uid == ours || Some(uid) == self.speaker);
        Ok(if trusted { parse(text.get(..message.bytes).unwrap_or_default()) } else { Vec::new() })
    }
}

impl NotifySocket {
    /// Closes the socket and removes its file: the run is over.
    pub(super) fn remove(self) {
        if let Address::File(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Reads the lines of a message. Unknown ones are passed over, as the protocol wants.
fn parse(text: &[u8]) -> Vec<Said> {
    let text = String::from_utf8_lossy(text);
    text.split('\n')
        .filter_map(|line| line.split_once('='))
        .filter_map(|(key, value)| statement(key, value.trim_end()))
        .collect()
}

fn statement(key: &str, value: &str) -> Option<Said> {
    match (key, value) {
        ("READY", "1") => Some(Said::Ready),
        ("STOPPING", "1") => Some(Said::Stopping),
        ("WATCHDOG", "1") => Some(Said::Alive),
        ("WATCHDOG", "trigger") => Some(Said::Stuck),
        ("STATUS", text) => Some(Said::status(text)),
        ("MAINPID", pid) => pid.parse().ok().filter(|pid| *pid > 1).map(Said::MainPid),
        ("EXTEND_TIMEOUT_USEC", us) => {
            us.parse().ok().map(|us| Said::ExtendTimeout(Duration::from_micros(us)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_known_and_passes_over_the_rest() {
        let said = parse(b"READY=1\nSTATUS=up \x1b[31mand well\nFDSTORE=1\nMAINPID=0\nMAINPID=77\nEXTEND_TIMEOUT_USEC=5000000\nnonsense\n\xff=\xfe");
        assert_eq!(
            said,
            [
                Said::Ready,
                Said::Status("up [31mand well".into()),
                Said::MainPid(77),
                Said::ExtendTimeout(Duration::from_secs(5))
            ]
        );
    }

    #[test]
    fn a_long_status_is_cut_between_characters() {
        let text = format!("STATUS={}", "ä".repeat(200));
        assert_eq!(parse(text.as_bytes()), [Said::Status("ä".repeat(128))]);
    }

    #[tokio::test]
    async fn a_message_arrives_and_the_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let socket = NotifySocket::bind(dir.path(), &"bot".parse().unwrap(), 1, None).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(b"READY=1", socket.variable()).unwrap();
        assert_eq!(socket.next().await, [Said::Ready]);
        let path = PathBuf::from(socket.variable());
        socket.remove();
        assert!(!path.exists());
    }
}
