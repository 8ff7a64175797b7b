//! What a bot may ask of its supervisor by another way than its notify socket, and how it is known to be that bot.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak, atomic::Ordering},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CgroupRoot, Supervisor, notify::Said, shared::Shared, sys, user::Account};
use crate::{
    Result, clock,
    id::{InstanceName, RunId},
    store::EventKind,
};

/// Most statements that wait for an instance's task to take them up.
const WAITING: usize = 64;

/// A handle that does not keep its supervisor alive.
#[derive(Clone, Debug)]
pub(crate) struct WeakSupervisor(Weak<Shared>);

impl WeakSupervisor {
    pub(crate) fn upgrade(&self) -> Option<Supervisor> {
        Some(Supervisor { shared: self.0.upgrade()? })
    }
}

/// Whom an instance runs as, where its definition says so. Asks the machine's directory of users, which may take a while.
pub(crate) fn uid_of(user: Option<&str>, group: Option<&str>) -> Result<Option<u32>> {
    Ok(Account::find(user, group)?.map(|account| account.credentials.uid))
}

/// The process at the other end of a unix socket, as the kernel knows it.
#[derive(Debug)]
pub(crate) struct PeerProcess {
    pub(crate) pid: i32,
    /// Holds its number, so that nobody else gets it: Linux 6.5 or later.
    pidfd: Option<OwnedFd>,
}

impl PeerProcess {
    /// `pid` is what `SO_PEERCRED` says.
    pub(crate) fn of(socket: impl AsFd, pid: i32) -> Self {
        Self { pid, pidfd: sys::peer_pidfd(socket.as_fd()).ok() }
    }

    /// It still lives, as far as can be known: what `/proc` said of its number was said of itself.
    fn is_alive(&self) -> bool {
        let readable = |pidfd: BorrowedFd<'_>| {
            let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).unwrap_or(1) > 0
        };
        self.pidfd.as_ref().is_none_or(|pidfd| !readable(pidfd.as_fd()))
    }
}

impl Supervisor {
    pub(crate) fn downgrade(&self) -> WeakSupervisor {
        WeakSupervisor(Arc::downgrade(&self.shared))
    }

    /// The present run of an instance, if a process belongs to it for certain: by its cgroup, its session or its parents.
    pub(crate) fn run_of_peer(&self, name: &InstanceName, peer: &PeerProcess) -> Option<RunId> {
        let run = self.present_run(name)?;
        let of_cgroup = || {
            let own = self.shared.cgroups.as_ref()?.existing(name)?;
            let of_peer = CgroupRoot::of_process(Some(u32::try_from(peer.pid).ok()?))?;
            of_peer.starts_with(own.path()).then_some(())
        };
        let is_ours =
            self.shared.trees.certain_owner(peer.pid) == Some(run) || of_cgroup().is_some();
        (is_ours && peer.is_alive()).then_some(run)
    }

    /// The run that an instance has now.
    pub(crate) fn present_run(&self, name: &InstanceName) -> Option<RunId> {
        self.shared.cell(name)?.view().run.map(|run| run.id)
    }

    /// Passes on what the present process of an instance says of itself. More than it can take up is dropped.
    pub(crate) fn say(&self, name: &InstanceName, said: Said) -> Result<()> {
        let cell = self.cell(name)?;
        if cell.spoken.waiting() < WAITING {
            cell.spoken.send(said);
        }
        Ok(())
    }

    /// The present process of an instance is alive.
    pub(crate) fn beat(&self, name: &InstanceName) -> Result<()> {
        self.cell(name)?.beat.store(clock::now().0, Ordering::Relaxed);
        self.say(name, Said::Alive)
    }

    /// Notes an event of one instance.
    pub(crate) fn note_of(&self, name: &InstanceName, kind: &str, reason: &str) {
        self.shared.journal.event(Some(name.clone()), EventKind::Other(kind.to_owned()), reason);
    }
}
