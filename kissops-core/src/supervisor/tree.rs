//! [`Tree`]: all the processes of a run, also those that left its session, its group or its parents.
//!
//! Where the run has a cgroup, that is the answer. Elsewhere a process belongs to a run if it is in the session of the run's
//! main process, descends from one that belongs to it, carries the run's mark in its environment
//! ([`RUN_MARK`](crate::supervisor::RUN_MARK)), was seen in the tree before, or writes to the run's output.

mod fleet;
mod scan;

use std::{
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags};

use fleet::{Fleet, Main};
use scan::Scanner;

use crate::{
    Error, Result, clock,
    id::{ProcessIdentity, RunId},
    supervisor::{
        Cgroup, Signal,
        procfs::{Procfs, Stat},
        sys,
    },
};

pub use scan::{ProcessDetail, Sample};

/// Between two looks at processes that were killed and have not ended yet.
const PAUSE: Duration = Duration::from_millis(1);
/// A process may fork while we look: the tree is empty when so many looks in a row have found nobody.
const EMPTY_LOOKS: u32 = 2;

/// The process trees of all runs of one spawner. A cheap handle.
#[derive(Clone, Debug)]
pub struct Trees {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Held for microseconds, on the runtime's thread too.
    fleet: Mutex<Fleet>,
    /// Held for a pass over `/proc`, on blocking threads only.
    scanner: Mutex<Scanner>,
}

impl Shared {
    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scanner(&self) -> MutexGuard<'_, Scanner> {
        self.scanner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a run at its start, for [`Trees::track`].
#[derive(Debug)]
pub struct Tracked {
    /// The run.
    pub run: RunId,
    /// Its main process, the leader of its session.
    pub pid: i32,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// Inodes of the pipes that it writes to (`fstat` on either end).
    pub outputs: Vec<u64>,
}

/// The processes of one run. They are no longer attributed to it once this is dropped.
#[derive(Debug)]
pub struct Tree {
    shared: Arc<Shared>,
    run: RunId,
    main: Main,
    cgroup: Option<Cgroup>,
    /// Where its orphans go, so that a look at that one's children finds them.
    reaper: Option<i32>,
}

/// What it took to end a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Killed {
    /// Processes that got a signal; 0 where a cgroup was killed at once, or nobody was left.
    pub processes: usize,
    /// How long it took.
    pub took: Duration,
}

impl Trees {
    /// For the spawner whose [`reaper`](crate::supervisor::Spawn::reaper) that is.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if `/proc` is not mounted.
    pub fn new(reaper: Option<i32>) -> Result<Self> {
        let procfs = || Procfs::open().map_err(Error::io("open /proc"));
        let fleet = Mutex::new(Fleet::new(procfs()?, reaper));
        Ok(Self {
            shared: Arc::new(Shared { fleet, scanner: Mutex::new(Scanner::new(procfs()?)) }),
        })
    }

    /// After a new keeper was started. Trees that are tracked from now on may have it as their reaper; earlier ones do not.
    pub fn set_reaper(&self, reaper: Option<i32>) {
        self.shared.fleet().reaper = reaper;
    }

    /// Attributes processes to a run from now on: to be called right after its start or adoption. Costs some 20 µs.
    #[must_use]
    pub fn track(&self, tracked: Tracked) -> Tree {
        let Tracked { run, pid, cgroup, outputs } = tracked;
        let mut fleet = self.shared.fleet();
        let stat = fleet.procfs.stat(pid);
        // Where it is gone already, nothing has this start time.
        let main = Main {
            run,
            pid,
            start_ticks: stat.map_or(u64::MAX, |stat| stat.start_ticks),
            ended: stat.is_none(),
        };
        let reaper = fleet.reaper;
        fleet.add(main, &outputs);
        let reaper = reaper.filter(|reaper| stat.is_none_or(|stat| stat.ppid == *reaper));
        Tree { shared: Arc::clone(&self.shared), run, main, cgroup, reaper }
    }

    /// The run that a process belongs to for certain, by its session or parents. Takes some 20 µs.
    #[cfg(feature = "vault")]
    pub(super) fn certain_owner(&self, pid: i32) -> Option<RunId> {
        self.shared.fleet().certain_owner(pid)
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Tree {
    /// What names the main process for good. `None` if it had ended before it was tracked.
    #[must_use]
    pub fn identity(&self) -> Option<ProcessIdentity> {
        let Main { pid, start_ticks, .. } = self.main;
        let known = start_ticks != u64::MAX;
        known.then(|| ProcessIdentity { pid, start_ticks, boot_id: clock::boot_id().clone() })
    }

    /// The run's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Nobody of this run lives. One that is dead and not reaped yet does not count.
    ///
    /// Takes some 10 to 200 µs with a cgroup or a reaper, else a pass over `/proc` on another thread.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if `/proc` or the cgroup cannot be read.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn is_empty(&self) -> Result<bool> {
        if let Some(cgroup) = &self.cgroup {
            return cgroup.is_empty();
        }
        if let Some(tops) = self.shared.fleet().tops(&self.main, self.reaper) {
            return Ok(tops.is_empty());
        }
        let (shared, run) = (Arc::clone(&self.shared), self.run);
        blocking(move || Ok(members(&shared, run)?.is_empty())).await
    }

    /// [`is_empty`](Self::is_empty) for a run whose main process has ended at `exited_at`
    /// ([`Exited::at`](crate::supervisor::Exited::at)). When many end at once, one look serves them all.
    ///
    /// # Errors
    /// As [`is_empty`](Self::is_empty).
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn is_empty_since(&self, exited_at: Duration) -> Result<bool> {
        let quick = self.cgroup.is_none() && self.reaper.is_some();
        if quick && self.shared.fleet().was_empty(self.run, exited_at, self.reaper) {
            return Ok(true);
        }
        self.is_empty().await
    }

    /// The pids of those of this run that live.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if `/proc` or the cgroup cannot be read.
    pub async fn pids(&self) -> Result<Vec<i32>> {
        if let Some(cgroup) = &self.cgroup {
            return cgroup.pids();
        }
        let (shared, run) = (Arc::clone(&self.shared), self.run);
        blocking(move || Ok(members(&shared, run)?.iter().map(|stat| stat.pid).collect())).await
    }

    /// Kills every process of this run, and answers when none is left.
    ///
    /// # Errors
    /// [`Timeout`](Error::Timeout) if some still live after `limit`, such as one that waits for a disk;
    /// [`Io`](Error::Io) if `/proc` or the cgroup cannot be read.
    ///
    /// # Cancel safety
    /// A dropped call may go on for up to `limit`.
    pub async fn kill(&self, limit: Duration) -> Result<Killed> {
        let begun = Instant::now();
        if let Some(cgroup) = &self.cgroup {
            match cgroup.kill() {
                Ok(()) => return self.await_empty(cgroup, begun, limit).await,
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    // Either it is gone or the kernel is older than 5.14: signals, then.
                    if !cgroup.path().exists() {
                        return Ok(Killed { processes: 0, took: begun.elapsed() });
                    }
                }
                Err(err) => return Err(err),
            }
        }
        let hunt = Hunt {
            shared: Arc::clone(&self.shared),
            main: self.main,
            reaper: self.reaper,
            cgroup: self.cgroup.clone(),
        };
        blocking(move || hunt.kill(begun, limit)).await
    }

    async fn await_empty(
        &self,
        cgroup: &Cgroup,
        begun: Instant,
        limit: Duration,
    ) -> Result<Killed> {
        while !cgroup.is_empty()? {
            if begun.elapsed() > limit {
                return Err(still_alive(self.run, &cgroup.pids().unwrap_or_default(), limit));
            }
            tokio::time::sleep(PAUSE).await;
        }
        // Linux 6.14 and later count kills per cgroup and compare with the count of the *parent's* cgroup for a child
        // that is born elsewhere by CLONE_INTO_CGROUP: a cgroup that was killed once kills all that is born into it
        // afterwards (seen on 6.18). So it is used no more; the next run gets a fresh one.
        if let Err(error) = cgroup.remove() {
            tracing::warn!(error = %error.chain(), "a killed cgroup cannot be removed");
        }
        Ok(Killed { processes: 0, took: begun.elapsed() })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.shared.fleet().remove(&self.main);
    }
}

/// Killing without `cgroup.kill`, on a thread that may block.
struct Hunt {
    shared: Arc<Shared>,
    main: Main,
    reaper: Option<i32>,
    cgroup: Option<Cgroup>,
}

impl Hunt {
    /// Looks and kills until nobody is found.
    ///
    /// Where there is a reaper, looks are quick: a tree is taken from its top, with the top's process group, and what that
    /// leaves behind becomes the reaper's child. One that forks and ends all the time is caught sooner or later, for it can
    /// only be in that one place. Elsewhere each look is a whole pass.
    fn kill(&self, begun: Instant, limit: Duration) -> Result<Killed> {
        let (mut signalled, mut empty) = (std::collections::HashSet::new(), 0);
        let mut strays = self
            .shared
            .fleet()
            .procfs
            .stat(self.main.pid)
            .is_none_or(|stat| stat.is_dead() || stat.start_ticks != self.main.start_ticks);
        loop {
            let mut found = self.look()?;
            if found.is_empty() {
                empty += 1;
                if empty < EMPTY_LOOKS {
                    continue;
                }
                // The kernel lists children one by one, so a quick look can miss one that forks and ends all the time. Such
                // a one has shown itself: then a whole pass has the last word.
                if strays {
                    found = members(&self.shared, self.main.run)?;
                }
                if found.is_empty() {
                    return Ok(Killed { processes: signalled.len(), took: begun.elapsed() });
                }
            }
            empty = 0;
            strays |= found.iter().any(|stat| stat.pid != self.main.pid);
            let mut fresh = false;
            for stat in &found {
                fresh |= signalled.insert((stat.pid, stat.start_ticks));
                self.end(stat);
            }
            if begun.elapsed() > limit {
                let pids: Vec<i32> = found.iter().map(|stat| stat.pid).collect();
                return Err(still_alive(self.main.run, &pids, limit));
            }
            // Those that we have signalled need a moment to end; new ones must not get it.
            if !fresh {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn look(&self) -> Result<Vec<Stat>> {
        if let Some(cgroup) = &self.cgroup {
            let pids = cgroup.pids()?;
            let mut fleet = self.shared.fleet();
            let stats = pids.into_iter().filter_map(|pid| fleet.procfs.stat(pid));
            return Ok(stats.filter(|stat| !stat.is_dead()).collect());
        }
        if let Some(tops) = self.shared.fleet().tops(&self.main, self.reaper) {
            return Ok(tops);
        }
        members(&self.shared, self.main.run)
    }

    /// Kills the process that was seen, and no other that may have its number by now, with all of its process group.
    fn end(&self, seen: &Stat) {
        let Some(pid) = Pid::from_raw(seen.pid) else { return };
        // Any error means that it is gone, which the next look tells.
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
        let now = self.shared.fleet().procfs.stat(seen.pid);
        if now.is_none_or(|now| now.start_ticks != seen.start_ticks) {
            return;
        }
        // Of its own session, hence of its tree alone. The group's members cannot fork away from it.
        let _ = sys::signal_group(pidfd.as_fd(), Signal::KILL);
        let _ = sys::signal_process(pidfd.as_fd(), Signal::KILL);
    }
}

fn still_alive(run: RunId, pids: &[i32], limit: Duration) -> Error {
    Error::Timeout { what: format!("killing the processes {pids:?} of run {}", run.0), limit }
}

/// Those of a run that live, by a pass over `/proc`.
fn members(shared: &Shared, run: RunId) -> Result<Vec<Stat>> {
    let mut scanner = shared.scanner();
    scanner.scan(&shared.fleet).map_err(Error::io("read /proc"))?;
    Ok(scanner.of(run).filter(|stat| !stat.is_dead()).collect())
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(|_| Error::Closed { what: "the runtime" })?
}
