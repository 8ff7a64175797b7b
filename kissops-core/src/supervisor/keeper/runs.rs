//! The runs that a keeper keeps, and what can be done to them.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    fs::{Mode, OFlags},
    io::{DupFlags, Errno},
    process::{Pid, PidfdFlags},
};

use super::RUN_BIT;
use crate::{
    clock,
    id::RunId,
    supervisor::{
        ExitStatus, Exited, Signal, SignalTo,
        plan::Plan,
        procfs::Procfs,
        sys::{self, Failure, Hold},
    },
};

/// One run, until the daemon forgets it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) pid: i32,
    pub(super) note: Box<[u8]>,
    pub(super) kept: Vec<OwnedFd>,
    pub(super) exit: Option<Exited>,
    adopted: Option<Adopted>,
}

/// A process that is not our child.
#[derive(Debug)]
struct Adopted {
    pidfd: OwnedFd,
    /// Since when it is dead, but not reaped by its parent.
    dead_since: Option<Duration>,
}

/// Why a request about a run was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    NotThere,
    Failed(Failure),
    System(io::Error),
}

/// Three descriptors with the lowest numbers, through which every child gets its standard streams.
///
/// A child copies our descriptor table only up to the highest one that it needs: so a start costs the same with
/// thousands of kept pipes as with none.
#[derive(Debug)]
pub(super) struct Slots([OwnedFd; 3]);

impl Slots {
    pub(super) fn open() -> io::Result<Self> {
        let null = || rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        Ok(Self([null()?, null()?, null()?]))
    }

    pub(super) fn null(&self) -> BorrowedFd<'_> {
        self.0[0].as_fd()
    }

    fn fill(&mut self, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<()> {
        let [_, out, err] = &mut self.0;
        rustix::io::dup3(stdout, out, DupFlags::CLOEXEC)?;
        rustix::io::dup3(stderr, err, DupFlags::CLOEXEC)?;
        Ok(())
    }

    /// Lets go of the write ends: a pipe ends when its last writer does.
    fn clear(&mut self) {
        let [null, out, err] = &mut self.0;
        // Cannot fail: all three are open.
        let _ = rustix::io::dup3(&*null, out, DupFlags::CLOEXEC);
        let _ = rustix::io::dup3(&*null, err, DupFlags::CLOEXEC);
    }
}

#[derive(Debug)]
pub(super) struct Runs {
    all: BTreeMap<RunId, Run>,
    by_pid: BTreeMap<i32, RunId>,
    slots: Slots,
    nofile: Option<libc::rlimit64>,
    /// How many adopted ones are dead and not reaped: mostly none, which saves the search.
    unreaped: usize,
}

impl Runs {
    pub(super) fn new(slots: Slots, nofile: Option<libc::rlimit64>) -> Self {
        Self { all: BTreeMap::new(), by_pid: BTreeMap::new(), slots, nofile, unreaped: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = RunId> {
        self.all.keys().copied()
    }

    pub(super) fn get(&self, run: RunId) -> Option<&Run> {
        self.all.get(&run)
    }

    /// Starts what `plan` says. `fds` are its output, its error output and those to keep.
    pub(super) fn spawn(&mut self, plan: Plan<'_>, fds: Vec<OwnedFd>) -> Result<i32, Refusal> {
        let run = plan.run;
        if self.all.contains_key(&run) {
            return Err(Refusal::System(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        let mut fds = fds.into_iter();
        let (Some(stdout), Some(stderr)) = (fds.next(), fds.next()) else {
            return Err(Refusal::System(io::Error::from_raw_os_error(libc::EBADMSG)));
        };
        let note = plan.note.into();
        self.slots.fill(stdout.as_fd(), stderr.as_fd()).map_err(Refusal::System)?;
        let program = plan.program(self.slots.0.each_ref().map(OwnedFd::as_fd), self.nofile);
        let started = sys::exec_child(&program, Hold::Pid);
        drop(program);
        self.slots.clear();
        let pid = started.map_err(Refusal::Failed)?.pid;
        self.by_pid.insert(pid, run);
        self.all.insert(run, Run { pid, note, kept: fds.collect(), exit: None, adopted: None });
        Ok(pid)
    }

    /// Watches a process that another keeper has started.
    pub(super) fn adopt(
        &mut self,
        epoll: &OwnedFd,
        (run, pid, start_ticks): (RunId, i32, u64),
        note: &[u8],
        kept: Vec<OwnedFd>,
    ) -> Result<i32, Refusal> {
        if self.all.contains_key(&run) {
            return Err(Refusal::System(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        let raw = Pid::from_raw(pid).filter(|_| pid > 1).ok_or(Refusal::NotThere)?;
        let pidfd = match rustix::process::pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Err(Refusal::NotThere),
            Err(err) => return Err(Refusal::System(err.into())),
        };
        // Only what is read after the pidfd was opened is about the process that it holds.
        let stat =
            Procfs::open().and_then(|mut procfs| procfs.try_stat(pid)).map_err(Refusal::System)?;
        if stat.is_none_or(|stat| stat.start_ticks != start_ticks) {
            return Err(Refusal::NotThere);
        }
        let data = EventData::new_u64(run.0.cast_unsigned() | RUN_BIT);
        epoll::add(epoll, &pidfd, data, EventFlags::IN)
            .map_err(|err| Refusal::System(err.into()))?;
        let adopted = Some(Adopted { pidfd, dead_since: None });
        self.all.insert(run, Run { pid, note: note.into(), kept, exit: None, adopted });
        Ok(pid)
    }

    /// A child was reaped: its run and its end; `None` if it is the child of one that has ended.
    pub(super) fn ended(&mut self, reaped: &sys::Reaped) -> Option<(RunId, Exited)> {
        let id = self.by_pid.remove(&reaped.pid)?;
        let run = self.all.get_mut(&id)?;
        let at = clock::since_boot();
        let exited = Exited { status: reaped.status, at, usage: Some(reaped.usage) };
        run.exit = Some(exited.clone());
        Some((id, exited))
    }

    /// The pidfd of an adopted process has become ready: it is dead (`IN`), or reaped too (`HUP`).
    pub(super) fn adopted_ended(
        &mut self,
        epoll: &OwnedFd,
        id: RunId,
        flags: EventFlags,
    ) -> Option<Exited> {
        let run = self.all.get_mut(&id)?;
        let adopted = run.adopted.as_mut()?;
        let status = sys::exit_of(adopted.pidfd.as_fd());
        if status.is_none() && !flags.contains(EventFlags::HUP) {
            // Its status can be read once its parent has reaped it: wait for that, which is always reported.
            if adopted.dead_since.is_none() {
                adopted.dead_since = Some(clock::since_boot());
                self.unreaped += 1;
                let data = EventData::new_u64(id.0.cast_unsigned() | RUN_BIT);
                let _ = epoll::modify(epoll, &adopted.pidfd, data, EventFlags::empty());
            }
            return None;
        }
        Some(self.close(id, status.unwrap_or(ExitStatus::Unknown)))?
    }

    /// Notes the end of an adopted run.
    fn close(&mut self, id: RunId, status: ExitStatus) -> Option<Exited> {
        let run = self.all.get_mut(&id)?;
        if run.adopted.take()?.dead_since.is_some() {
            self.unreaped = self.unreaped.saturating_sub(1);
        }
        let exited = Exited { status, at: clock::since_boot(), usage: None };
        run.exit = Some(exited.clone());
        Some(exited)
    }

    /// Since when the longest dead of the adopted is dead.
    pub(super) fn oldest_unreaped(&self) -> Option<Duration> {
        if self.unreaped == 0 {
            return None;
        }
        self.all.values().filter_map(|run| run.adopted.as_ref()?.dead_since).min()
    }

    /// The ends of adopted processes that nobody reaps, after `limit`.
    pub(super) fn give_up(&mut self, limit: Duration) -> Vec<(RunId, Exited)> {
        if self.unreaped == 0 {
            return Vec::new();
        }
        let now = clock::since_boot();
        let late = |run: &Run| {
            let since = run.adopted.as_ref().and_then(|adopted| adopted.dead_since);
            since.is_some_and(|since| now >= since + limit)
        };
        let ids: Vec<RunId> =
            self.all.iter().filter(|(_, run)| late(run)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| Some((id, self.close(id, ExitStatus::Unknown)?))).collect()
    }

    /// Signals the process of a run that has not ended.
    pub(super) fn signal(&self, id: RunId, signal: Signal, to: SignalTo) -> Result<(), Refusal> {
        let run = self.all.get(&id).filter(|run| run.exit.is_none()).ok_or(Refusal::NotThere)?;
        let sent = match (&run.adopted, to) {
            // Safe by number: it is our child and was not reaped.
            (None, to) => sys::signal_child(run.pid, signal, to),
            (Some(adopted), SignalTo::Main) => sys::signal_process(adopted.pidfd.as_fd(), signal),
            (Some(adopted), SignalTo::Group) => sys::signal_group(adopted.pidfd.as_fd(), signal),
        };
        match sent {
            Err(err) if err.raw_os_error() == Some(libc::ESRCH) => Err(Refusal::NotThere),
            other => other.map_err(Refusal::System),
        }
    }

    pub(super) fn note(&mut self, id: RunId, note: &[u8]) -> Result<(), Refusal> {
        self.all.get_mut(&id).ok_or(Refusal::NotThere)?.note = note.into();
        Ok(())
    }

    /// Drops an ended run.
    pub(super) fn forget(&mut self, id: RunId) -> Result<(), Refusal> {
        match self.all.get(&id) {
            None => Err(Refusal::NotThere),
            Some(run) if run.exit.is_none() => {
                Err(Refusal::System(io::Error::from_raw_os_error(libc::EBUSY)))
            }
            Some(_) => {
                self.all.remove(&id);
                Ok(())
            }
        }
    }
}
