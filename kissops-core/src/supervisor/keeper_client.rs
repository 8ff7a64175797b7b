//! [`KeeperClient`]: the daemon's hold on its keeper, as a [`Spawn`].

mod connection;
mod open;

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::{broadcast, oneshot};

use connection::{Connection, Reply};

use crate::{
    Error, Result,
    id::{ProcessIdentity, RunId},
    supervisor::{
        ExitStatus, Launch, Signal, SignalTo, Spawn, Started, Survivor,
        limits::OpenFiles,
        plan,
        sys::{Failure, Step},
        wire::kind,
    },
};

/// Ended orphans that a slow receiver may fall behind before it loses some.
const ORPHANS: usize = 1024;

/// Where a keeper is found, and how one is started.
#[derive(Clone, Debug)]
pub struct KeeperOptions {
    /// Its socket, in a folder that only its user may enter. Beside it lie a lock and a log, `.lock` and `.log`.
    pub socket: PathBuf,
    /// The program `kissops-keeper`.
    pub program: PathBuf,
    /// What a new keeper, and so the instances, may open: see [`OpenFiles::raise`](super::limits::OpenFiles::raise). `None`:
    /// as much as this process.
    pub nofile: Option<OpenFiles>,
}

/// A process has ended that was given to the keeper, as the child of one that had ended before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanExit {
    /// Its pid, which may be another's by now.
    pub pid: i32,
    /// How it ended.
    pub status: ExitStatus,
}

/// Starts processes through a keeper, which outlives this process.
///
/// When the keeper dies, all its calls fail with [`Unavailable`](Error::Unavailable) until [`reconnect`](Self::reconnect).
#[derive(Debug)]
pub struct KeeperClient {
    options: KeeperOptions,
    current: Mutex<Arc<Connection>>,
    /// Held while a new keeper is looked for: of two at once one would be told that another daemon is there.
    looking: tokio::sync::Mutex<()>,
    orphans: broadcast::Sender<OrphanExit>,
}

impl KeeperClient {
    /// Takes over the keeper that listens at the socket, or starts one there.
    ///
    /// # Errors
    /// - [`Conflict`](Error::Conflict) while another daemon uses it.
    /// - [`Io`](Error::Io) if it cannot be started; [`Unavailable`](Error::Unavailable) if it does not answer in 10 s.
    pub async fn connect_or_start(options: KeeperOptions) -> Result<Self> {
        let (orphans, _) = broadcast::channel(ORPHANS);
        let current = Mutex::new(connect(&options, &orphans).await?);
        Ok(Self { options, current, looking: tokio::sync::Mutex::default(), orphans })
    }

    /// Resolves when the keeper is gone. The processes that it started live on, as nobody's children.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn lost(&self) {
        self.current().lost().await;
    }

    /// Connects again after [`lost`](Self::lost), to a new keeper if the old one is gone; does nothing while it is there.
    /// The new one knows no run: ask [`survivors`](Spawn::survivors), and [`adopt`](Self::adopt) the others.
    ///
    /// # Errors
    /// As [`connect_or_start`](Self::connect_or_start).
    pub async fn reconnect(&self) -> Result<()> {
        if !self.current().is_lost() {
            return Ok(());
        }
        let _looking = self.looking.lock().await;
        if self.current().is_lost() {
            let fresh = connect(&self.options, &self.orphans).await?;
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        Ok(())
    }

    /// Lets the keeper watch a process that an earlier one has started. Its exit status is known where the kernel tells
    /// those who are not its parent (Linux 6.15), else it is [`ExitStatus::Unknown`].
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if that process has ended. The descriptors are dropped then.
    pub async fn adopt(
        &self,
        run: RunId,
        identity: &ProcessIdentity,
        note: &[u8],
        kept: Vec<OwnedFd>,
    ) -> Result<Started> {
        if identity.boot_id != *crate::clock::boot_id() {
            return Err(not_found(run));
        }
        let connection = self.current();
        let mut guard = connection.expect_exit(run)?;
        let fds: Vec<_> = kept.iter().map(OwnedFd::as_fd).collect();
        let reply = connection.call(kind::ADOPT, &fds, |out| {
            out.i64(run.0);
            out.i32(identity.pid);
            out.u64(identity.start_ticks);
            out.bytes(note);
            Ok(())
        })?;
        match reply.reply().await? {
            Reply::Started(pid) => Ok(Started { pid, exit: guard.keep() }),
            other => Err(refused(&other, || not_found(run))),
        }
    }

    /// Lets the keeper keep a descriptor under a name, for this daemon and its successors; replaces what was there.
    ///
    /// # Errors
    /// [`Unavailable`](Error::Unavailable) if the keeper does not answer.
    pub async fn put_fd(&self, name: &str, fd: OwnedFd) -> Result<()> {
        let reply = self.current().call(kind::PUT, &[fd.as_fd()], |out| {
            out.raw(name.as_bytes());
            Ok(())
        })?;
        done(&reply.reply().await?, || no_fd(name))
    }

    /// What was kept under a name; the keeper keeps it too.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if there is nothing; [`Unavailable`](Error::Unavailable) if the keeper does not answer.
    pub async fn get_fd(&self, name: &str) -> Result<OwnedFd> {
        match self
            .current()
            .call(kind::GET, &[], |out| {
                out.raw(name.as_bytes());
                Ok(())
            })?
            .reply()
            .await?
        {
            Reply::Found(fd) => Ok(fd),
            other => Err(refused(&other, || no_fd(name))),
        }
    }

    /// The ends of processes that were given to the keeper, from now on. For who is slow, the oldest are dropped.
    #[must_use]
    pub fn orphan_exits(&self) -> broadcast::Receiver<OrphanExit> {
        self.orphans.subscribe()
    }

    /// The keeper's pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.current().keeper.pid
    }

    /// The keeper's version, which may be older than ours.
    #[must_use]
    pub fn version(&self) -> String {
        self.current().keeper.version.clone()
    }

    /// Asks the keeper to end as soon as every run is forgotten.
    ///
    /// # Errors
    /// [`Unavailable`](Error::Unavailable) if it does not answer.
    pub async fn end(&self) -> Result<()> {
        let reply = self.current().call(kind::END, &[], |_| Ok(()))?;
        done(&reply.reply().await?, || Error::NotFound { what: "keeper".to_owned() })
    }

    fn current(&self) -> Arc<Connection> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn connect(
    options: &KeeperOptions,
    orphans: &broadcast::Sender<OrphanExit>,
) -> Result<Arc<Connection>> {
    let options = options.clone();
    // Locks, waits for the greeting and starts a program: not on the runtime's thread.
    let opened = tokio::task::spawn_blocking(move || open::open(&options)).await;
    let (socket, keeper) = opened.map_err(|_| Error::Closed { what: "the runtime" })??;
    Connection::start(socket, keeper, orphans.clone())
}

#[async_trait]
impl Spawn for KeeperClient {
    /// After the keeper's death it starts a new one first.
    async fn adopt(
        &self,
        run: RunId,
        process: &ProcessIdentity,
        note: Vec<u8>,
        kept: Vec<OwnedFd>,
    ) -> Result<Started> {
        self.reconnect().await?;
        Self::adopt(self, run, process, &note, kept).await
    }

    /// After the keeper's death it starts a new one first.
    async fn spawn(&self, launch: Launch) -> Result<Started> {
        self.reconnect().await?;
        let connection = self.current();
        let mut guard = connection.expect_exit(launch.run)?;
        let reply = connection
            .call(kind::SPAWN, &plan::descriptors(&launch), |out| plan::encode(&launch, out))?;
        let words = plan::Words::of(&launch);
        let run = launch.run;
        // The keeper has them now; a pipe ends when its last writer does.
        drop(launch);
        match reply.reply().await? {
            Reply::Started(pid) => Ok(Started { pid, exit: guard.keep() }),
            Reply::Failed { step, errno } => {
                Err(words.error(Failure { step: Step::from_number(step), errno }))
            }
            other => Err(refused(&other, || not_found(run))),
        }
    }

    async fn signal(&self, run: RunId, signal: Signal, to: SignalTo) -> Result<()> {
        let reply = self.current().call(kind::SIGNAL, &[], |out| {
            out.i64(run.0);
            out.i32(signal.number());
            out.u8(u8::from(to == SignalTo::Group));
            Ok(())
        })?;
        done(&reply.reply().await?, || not_found(run))
    }

    async fn note(&self, run: RunId, note: Vec<u8>) -> Result<()> {
        let reply = self.current().call(kind::NOTE, &[], |out| {
            out.i64(run.0);
            out.bytes(&note);
            Ok(())
        })?;
        done(&reply.reply().await?, || not_found(run))
    }

    async fn forget(&self, run: RunId) -> Result<()> {
        let connection = self.current();
        let reply = connection.call(kind::FORGET, &[], |out| {
            out.i64(run.0);
            Ok(())
        })?;
        done(&reply.reply().await?, || not_found(run))?;
        connection.forgotten(run);
        Ok(())
    }

    async fn survivors(&self) -> Result<Vec<Survivor>> {
        match self.current().call(kind::SURVIVORS, &[], |_| Ok(()))?.reply().await? {
            Reply::Done(survivors) => Ok(survivors),
            other => Err(refused(&other, || Error::NotFound { what: "keeper".to_owned() })),
        }
    }

    fn reaper(&self) -> Option<i32> {
        Some(self.pid())
    }
}

/// Counts on a run's exit from before its start; takes that back unless [`keep`](Self::keep) is called.
struct ExitGuard {
    connection: Arc<Connection>,
    run: RunId,
    exit: Option<oneshot::Receiver<crate::supervisor::Exited>>,
}

impl ExitGuard {
    fn keep(&mut self) -> oneshot::Receiver<crate::supervisor::Exited> {
        // Called once; a receiver without its sender says that the spawner is gone.
        self.exit.take().unwrap_or_else(|| oneshot::channel().1)
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        if self.exit.is_some() {
            self.connection.forgotten(self.run);
        }
    }
}

fn not_found(run: RunId) -> Error {
    Error::NotFound { what: format!("process of run {}", run.0) }
}

fn no_fd(name: &str) -> Error {
    Error::NotFound { what: format!("descriptor `{name}` in the keeper") }
}

fn done(reply: &Reply, missing: impl FnOnce() -> Error) -> Result<()> {
    if let Reply::Done(_) = reply { Ok(()) } else { Err(refused(reply, missing)) }
}

fn refused(reply: &Reply, missing: impl FnOnce() -> Error) -> Error {
    match reply {
        Reply::Refused { errno: libc::ESRCH, .. } => missing(),
        Reply::Refused { errno, text } => Error::Io {
            what: format!("do what was asked of the keeper ({text})"),
            source: std::io::Error::from_raw_os_error(*errno),
        },
        _ => Error::Corrupt {
            what: "the keeper's answer".to_owned(),
            detail: "not an answer to what was asked".to_owned(),
        },
    }
}
