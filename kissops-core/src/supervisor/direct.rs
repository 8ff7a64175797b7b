//! [`DirectSpawn`]: children of this very process, for a supervisor that is embedded and has no keeper.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use rustix::{
    fs::{Mode, OFlags},
    process::PidfdFlags,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Error, Result, clock,
    id::{ProcessIdentity, RunId},
    supervisor::{
        ExitStatus, Exited, Launch, Signal, SignalTo, Spawn, Started, Survivor,
        plan::{self, Plan, Words},
        procfs,
        sys::{self, Child, Hold},
        wire::{Reader, Writer},
    },
};

/// Starts processes as children of the host.
///
/// It waits for each by its pidfd, and for no other child: the host's own children and its SIGCHLD stay the host's. Needs
/// Linux 5.4. What it has started is not found again after the host's death.
#[derive(Debug)]
pub struct DirectSpawn {
    null: OwnedFd,
    children: Arc<Mutex<HashMap<RunId, Process>>>,
}

#[derive(Debug)]
struct Process {
    pid: i32,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    /// Set in the same critical section in which it is reaped: from then on its pid may be another's.
    ended: bool,
    parent: Parent,
    /// Waits for the end. `None` until it has begun to.
    watch: Option<AbortOnDropHandle<()>>,
}

/// Whose child a process is. One of another's can be reaped at any time, so only its pidfd names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parent {
    Ourselves,
    Another,
}

impl DirectSpawn {
    /// A spawner without children.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if there is no `/dev/null`.
    pub fn new() -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null = rustix::fs::open(c"/dev/null", flags, Mode::empty())
            .map_err(Error::io("open /dev/null"))?;
        Ok(Self { null, children: Arc::default() })
    }

    fn children(&self) -> MutexGuard<'_, HashMap<RunId, Process>> {
        lock(&self.children)
    }

    /// Waits for a child that was just started.
    fn watch(&self, run: RunId, child: Child, parent: Parent) -> Result<Started> {
        let pid = child.pid;
        let watched = child
            .pidfd
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
            .and_then(|pidfd| sys::watched(pidfd, Interest::READABLE));
        let pidfd = Arc::new(watched.map_err(Error::io(format!("watch process {pid}")))?);
        let (sender, exit) = oneshot::channel();
        let children = Arc::clone(&self.children);
        let waiting = Arc::clone(&pidfd);
        let mut process = Process { pid, pidfd, ended: false, parent, watch: None };
        let mut all = self.children();
        let task = tokio::spawn(async move {
            let exited = loop {
                let Ok(mut ready) = waiting.readable().await else { return };
                let mut all = lock(&children);
                let (status, usage) = match sys::reap_pidfd(waiting.get_ref().as_fd()) {
                    Ok(None) => {
                        ready.clear_ready();
                        continue;
                    }
                    Ok(Some((status, usage))) => (status, Some(usage)),
                    // The host has reaped it, against the rules; the kernel may still know.
                    Err(_) => {
                        let known = sys::exit_of(waiting.get_ref().as_fd());
                        (known.unwrap_or(ExitStatus::Unknown), None)
                    }
                };
                if let Some(process) = all.get_mut(&run) {
                    process.ended = true;
                }
                break Exited { status, at: clock::since_boot(), usage };
            };
            // Its owner may have gone.
            let _ = sender.send(exited);
        });
        process.watch = Some(AbortOnDropHandle::new(task));
        all.insert(run, process);
        Ok(Started { pid, exit })
    }
}

/// A child of which nobody knows yet. If its start is cancelled, it is killed and reaped: it would be nobody's.
struct Unwatched(Option<Child>);

impl Drop for Unwatched {
    fn drop(&mut self) {
        if let Some(Child { pid, pidfd: Some(pidfd) }) = self.0.take() {
            // Safe by number: it was not reaped.
            let _ = sys::signal_child(pid, Signal::KILL, SignalTo::Group);
            let _ = rustix::process::waitid(
                rustix::process::WaitId::PidFd(pidfd.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            );
        }
    }
}

fn lock(children: &Mutex<HashMap<RunId, Process>>) -> MutexGuard<'_, HashMap<RunId, Process>> {
    children.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_found(run: RunId) -> Error {
    Error::NotFound { what: format!("process of run {}", run.0) }
}

#[async_trait]
impl Spawn for DirectSpawn {
    async fn spawn(&self, launch: Launch) -> Result<Started> {
        let run = launch.run;
        if self.children().contains_key(&run) {
            let holder = "a process that was started before".to_owned();
            return Err(Error::Conflict { what: format!("run {}", run.0), holder });
        }
        let mut bytes = Writer::new(0, 0);
        plan::encode(&launch, &mut bytes)?;
        let words = Words::of(&launch);
        let null = self.null.try_clone().map_err(Error::io("duplicate /dev/null"))?;
        // The thread that clones sleeps until the program runs, and a folder may be slow: not the runtime's own.
        let started = tokio::task::spawn_blocking(move || {
            let bytes = bytes.finish();
            let plan = Plan::decode(&mut Reader(bytes.get(5..).unwrap_or_default()));
            let plan = plan.ok_or_else(|| Error::Corrupt {
                what: "the description of a process".to_owned(),
                detail: "it could not be read back".to_owned(),
            })?;
            let stdio = [null.as_fd(), launch.stdout.as_fd(), launch.stderr.as_fd()];
            let program = plan.program(stdio, None);
            let started = sys::exec_child(&program, Hold::PidFd);
            started.map(|child| Unwatched(Some(child))).map_err(|failure| words.error(failure))
        });
        let mut child = started.await.map_err(|_| Error::Closed { what: "the runtime" })??;
        // Without a pause from here on, so it cannot be cancelled in between.
        child
            .0
            .take()
            .map_or(Err(not_found(run)), |child| self.watch(run, child, Parent::Ourselves))
    }

    async fn adopt(
        &self,
        run: RunId,
        process: &ProcessIdentity,
        _note: Vec<u8>,
        _kept: Vec<OwnedFd>,
    ) -> Result<Started> {
        let pid = rustix::process::Pid::from_raw(process.pid)
            .filter(|_| process.pid > 1)
            .ok_or_else(|| not_found(run))?;
        let pidfd =
            rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|_| not_found(run))?;
        // Only what is read after the pidfd was opened is about the process that it holds.
        if process.boot_id != *clock::boot_id()
            || procfs::start_ticks(process.pid) != Some(process.start_ticks)
        {
            return Err(not_found(run));
        }
        self.watch(run, Child { pid: process.pid, pidfd: Some(pidfd) }, Parent::Another)
    }

    async fn signal(&self, run: RunId, signal: Signal, to: SignalTo) -> Result<()> {
        let children = self.children();
        let process =
            children.get(&run).filter(|process| !process.ended).ok_or_else(|| not_found(run))?;
        let sent = match to {
            _ if process.parent == Parent::Another => {
                sys::signal_process(process.pidfd.get_ref().as_fd(), signal)
            }
            SignalTo::Main => sys::signal_process(process.pidfd.get_ref().as_fd(), signal),
            // Not reaped, for that needs the lock: so the number is still its own.
            SignalTo::Group => sys::signal_child(process.pid, signal, to),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(err) if err.raw_os_error() == Some(libc::ESRCH) => Err(not_found(run)),
            Err(err) => Err(Error::io(format!("send {signal} to run {}", run.0))(err)),
        }
    }

    async fn note(&self, run: RunId, _note: Vec<u8>) -> Result<()> {
        // Nobody succeeds us.
        self.children().get(&run).map(|_| ()).ok_or_else(|| not_found(run))
    }

    async fn forget(&self, run: RunId) -> Result<()> {
        let mut children = self.children();
        match children.get(&run) {
            None => Err(not_found(run)),
            Some(process) if !process.ended => Err(Error::WrongState {
                what: format!("run {}", run.0),
                state: "running".to_owned(),
                help: "stop it first".to_owned(),
            }),
            Some(_) => {
                children.remove(&run);
                Ok(())
            }
        }
    }

    async fn survivors(&self) -> Result<Vec<Survivor>> {
        Ok(Vec::new())
    }
}
