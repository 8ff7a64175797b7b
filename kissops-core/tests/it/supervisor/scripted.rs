//! [`Scripted`]: a spawner whose processes are entries in a list. The test says when one ends.

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kissops_core::{
    Error, Result,
    clock::since_boot,
    id::{ProcessIdentity, RunId},
    supervisor::{ExitStatus, Exited, Launch, Signal, SignalTo, Spawn, Started, Survivor},
};
use tokio::{sync::oneshot, time::Instant};

/// No kernel gives out pids as large: whoever looks such a process up finds nobody.
const FIRST_PID: i32 = 10_000_000;

#[derive(Debug, Default)]
pub(super) struct Scripted {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    processes: Vec<Process>,
    refused: BTreeSet<String>,
    stubborn: BTreeSet<String>,
}

/// One process, as the spawner has seen it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) run: RunId,
    pub(super) instance: String,
    pub(super) started: Instant,
    pub(super) ended: Option<Instant>,
    /// By a clock that goes on, which puts ends in order.
    ended_really: Option<std::time::Instant>,
    pub(super) signals: Vec<(Signal, Instant)>,
    pub(super) forgotten: bool,
    notify: Option<PathBuf>,
    boot: Duration,
    exit: Option<oneshot::Sender<Exited>>,
}

impl Process {
    pub(super) fn end(&mut self, status: ExitStatus) {
        let now = Instant::now();
        self.ended.get_or_insert(now);
        self.ended_really.get_or_insert_with(std::time::Instant::now);
        // Uptimes are by the boot clock, which no test can stop: it goes as the test's does.
        let at = self.boot + (now - self.started);
        if let Some(exit) = self.exit.take() {
            // Nobody may wait for it any more.
            let _ = exit.send(Exited { status, at, usage: None });
        }
    }

    pub(super) fn got(&self, signal: Signal) -> Option<Instant> {
        self.signals.iter().find(|(sent, _)| *sent == signal).map(|(_, at)| *at)
    }

    /// Speaks by the notify protocol.
    pub(super) fn say(&self, text: &str) {
        let socket = self.notify.as_ref().expect("it has a notify socket");
        UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), socket).unwrap();
    }
}

impl Scripted {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on an instance cannot be spawned, or can be again.
    pub(super) fn refuse(&self, instance: &str, refused: bool) {
        if refused {
            self.lock().refused.insert(instance.to_owned());
        } else {
            self.lock().refused.remove(instance);
        }
    }

    /// An instance that does not end on SIGTERM.
    pub(super) fn make_stubborn(&self, instance: &str) {
        self.lock().stubborn.insert(instance.to_owned());
    }

    /// Of all processes of an instance so far, in order.
    pub(super) fn each<T>(&self, instance: &str, look: impl FnMut(&Process) -> T) -> Vec<T> {
        let inner = self.lock();
        inner.processes.iter().filter(|process| process.instance == instance).map(look).collect()
    }

    pub(super) fn count(&self, instance: &str) -> usize {
        self.each(instance, |_| ()).len()
    }

    /// The latest process of an instance.
    pub(super) fn last<T>(&self, instance: &str, look: impl FnOnce(&mut Process) -> T) -> T {
        let mut inner = self.lock();
        let mut of = inner.processes.iter_mut().rev();
        look(of.find(|process| process.instance == instance).expect("it was started"))
    }

    pub(super) fn is_alive(&self, instance: &str) -> bool {
        self.each(instance, |process| process.ended.is_none()).last().copied().unwrap_or(false)
    }

    /// The instances in the order in which their latest processes have ended.
    pub(super) fn ends(&self) -> Vec<String> {
        let inner = self.lock();
        let mut ended: Vec<_> = inner.processes.iter().filter(|one| one.ended.is_some()).collect();
        ended.sort_by_key(|process| process.ended_really);
        ended.into_iter().map(|process| process.instance.clone()).collect()
    }
}

fn not_found(run: RunId) -> Error {
    Error::NotFound { what: format!("process of run {}", run.0) }
}

#[async_trait]
impl Spawn for Scripted {
    async fn spawn(&self, launch: Launch) -> Result<Started> {
        let instance = launch.instance.to_string();
        let mut inner = self.lock();
        if inner.refused.contains(&instance) {
            let none = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io("run the program")(none));
        }
        let (exit, exited) = oneshot::channel();
        let pid = FIRST_PID + i32::try_from(inner.processes.len()).unwrap();
        inner.processes.push(Process {
            run: launch.run,
            instance,
            started: Instant::now(),
            ended: None,
            ended_really: None,
            signals: Vec::new(),
            forgotten: false,
            notify: launch.env.get(std::ffi::OsStr::new("NOTIFY_SOCKET")).map(PathBuf::from),
            boot: since_boot(),
            exit: Some(exit),
        });
        Ok(Started { pid, exit: exited })
    }

    async fn signal(&self, run: RunId, signal: Signal, _to: SignalTo) -> Result<()> {
        let mut inner = self.lock();
        let Inner { processes, stubborn, .. } = &mut *inner;
        let process = processes.iter_mut().find(|one| one.run == run && one.ended.is_none());
        let process = process.ok_or_else(|| not_found(run))?;
        process.signals.push((signal, Instant::now()));
        let obeys = signal == Signal::TERM && !stubborn.contains(&process.instance);
        if obeys || signal == Signal::KILL {
            process.end(ExitStatus::Signal { signal, core_dumped: false });
        }
        Ok(())
    }

    async fn note(&self, _run: RunId, _note: Vec<u8>) -> Result<()> {
        Ok(())
    }

    async fn forget(&self, run: RunId) -> Result<()> {
        let mut inner = self.lock();
        let process = inner.processes.iter_mut().find(|process| process.run == run);
        process.ok_or_else(|| not_found(run))?.forgotten = true;
        Ok(())
    }

    async fn survivors(&self) -> Result<Vec<Survivor>> {
        Ok(Vec::new())
    }

    async fn adopt(
        &self,
        run: RunId,
        _process: &ProcessIdentity,
        _note: Vec<u8>,
        _kept: Vec<OwnedFd>,
    ) -> Result<Started> {
        Err(not_found(run))
    }
}
