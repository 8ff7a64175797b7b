//! [`Spawn`]: who starts processes, is their parent and tells how they ended. A seam: the daemon passes a keeper in,
//! an embedded supervisor spawns directly, a test follows a script.

use std::{
    collections::BTreeMap, ffi::OsString, fmt, os::fd::OwnedFd, path::PathBuf, time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    Result,
    id::{InstanceName, ProcessIdentity, RunId},
    supervisor::{Signal, limits::Rlimit},
};

/// Starts processes and is their parent. Held as `Arc<dyn Spawn>`.
///
/// A spawner reaps every process that it started, and no other (a keeper process reaps orphans too: it has no host
/// whose children it could steal).
#[async_trait]
pub trait Spawn: fmt::Debug + Send + Sync + 'static {
    /// Starts a process in a session of its own, and answers once it runs its program.
    ///
    /// # Errors
    /// [`Io`](crate::Error::Io) that says which step failed: the program, `cwd`, the user, a limit, the cgroup.
    /// Nothing is left behind then. [`Unavailable`](crate::Error::Unavailable) if the keeper does not answer.
    ///
    /// # Cancel safety
    /// A dropped call may still have started the process; it then shows up in [`survivors`](Self::survivors).
    async fn spawn(&self, launch: Launch) -> Result<Started>;

    /// Sends a signal to the process of `run`, or to its whole process group. Never reaches another process: a run
    /// that has ended is [`NotFound`](crate::Error::NotFound).
    async fn signal(&self, run: RunId, signal: Signal, to: SignalTo) -> Result<()>;

    /// Replaces the note that a successor gets back with `run`.
    async fn note(&self, run: RunId, note: Vec<u8>) -> Result<()>;

    /// Drops what is kept of an ended run: its exit status and its descriptors. To be called when both are safe.
    async fn forget(&self, run: RunId) -> Result<()>;

    /// What was started by a predecessor and not forgotten, ended or not. The descriptors are handed over once.
    async fn survivors(&self) -> Result<Vec<Survivor>>;

    /// Takes a running process for the one of `run`: one that an earlier spawner had started, or another of the same
    /// tree. Descriptors that are kept for `run` stay, `kept` comes on top.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if that process has ended; [`Unavailable`](crate::Error::Unavailable) if the
    /// keeper does not answer.
    async fn adopt(
        &self,
        run: RunId,
        process: &ProcessIdentity,
        note: Vec<u8>,
        kept: Vec<OwnedFd>,
    ) -> Result<Started>;

    /// The process to which orphaned descendants are given (a child subreaper), if there is one of ours.
    fn reaper(&self) -> Option<i32> {
        None
    }
}

/// A process to be started. Its `Debug` shows no value of the environment.
pub struct Launch {
    /// The run that this process is.
    pub run: RunId,
    /// Whose run.
    pub instance: InstanceName,
    /// Program and arguments; a program without a slash is looked up in `PATH` of `env`.
    pub command: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<OsString, OsString>,
    /// The working directory.
    pub cwd: PathBuf,
    /// User and groups to change to.
    pub credentials: Option<Credentials>,
    /// The file mode mask.
    pub umask: Option<u32>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// A cgroup v2 directory to be born in.
    pub cgroup: Option<PathBuf>,
    /// Standard output. Standard input is `/dev/null`.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Descriptors to keep for a successor: ends of pipes to read from, the notify socket.
    pub kept: Vec<OwnedFd>,
    /// A note to a successor, returned with the run.
    pub note: Vec<u8>,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("run", &self.run)
            .field("instance", &self.instance)
            .field("program", &self.command.first())
            .field("cwd", &self.cwd)
            .field("credentials", &self.credentials)
            .field("cgroup", &self.cgroup)
            .finish_non_exhaustive()
    }
}

/// A user, its group and its further groups, as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// Whom a signal goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalTo {
    /// The main process alone.
    #[default]
    Main,
    /// The main process' process group.
    Group,
}

/// A process that runs.
#[derive(Debug)]
pub struct Started {
    /// Its pid, which stays its own until [`Spawn::forget`].
    pub pid: i32,
    /// Resolves when it has ended and was reaped; an error means that the spawner is gone, the process perhaps not.
    pub exit: oneshot::Receiver<Exited>,
}

/// What a predecessor left.
#[derive(Debug)]
pub struct Survivor {
    /// The run.
    pub run: RunId,
    /// The process, as in [`Started`]; `exit` resolves at once if it has ended meanwhile.
    pub started: Started,
    /// The latest note.
    pub note: Vec<u8>,
    /// What [`Launch::kept`] held, in that order.
    pub kept: Vec<OwnedFd>,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exited {
    /// How.
    pub status: ExitStatus,
    /// When, on [`clock::since_boot`](crate::clock::since_boot).
    pub at: Duration,
    /// What the process itself and the children that it waited for had used.
    pub usage: Option<ResourceUse>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called exit with this code.
    Code(i32),
    /// A signal killed it.
    Signal {
        /// Which.
        signal: Signal,
        /// It left a core dump.
        core_dumped: bool,
    },
    /// It is gone, and the kernel would not say how.
    Unknown,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core_dumped: true } => {
                write!(f, "killed by {signal} (core dumped)")
            }
            Self::Signal { signal, .. } => write!(f, "killed by {signal}"),
            Self::Unknown => f.write_str("ended, exit status unknown"),
        }
    }
}

/// What a process has used, as the kernel counts at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceUse {
    /// CPU time in user mode.
    pub user_time: Duration,
    /// CPU time in the kernel.
    pub system_time: Duration,
    /// Largest resident set.
    pub max_rss_bytes: u64,
}
