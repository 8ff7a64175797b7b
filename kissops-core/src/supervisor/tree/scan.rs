//! One pass over `/proc` for the whole fleet.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use super::{Tree, Trees, blocking, fleet::Fleet, members};
use crate::{
    Error, Result,
    id::RunId,
    supervisor::procfs::{Procfs, Stat},
};

/// What the processes of one run use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Resident memory; what several processes share counts for each.
    pub rss_bytes: u64,
    /// CPU time used so far by those that live, in clock ticks of 1/[`clock_ticks_per_second`](rustix::param::clock_ticks_per_second) s.
    pub cpu_ticks: u64,
    /// Threads.
    pub threads: u32,
    /// Processes.
    pub processes: u32,
}

/// One process of a tree in detail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct ProcessDetail {
    /// Its pid.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its short name.
    pub comm: String,
    /// Its arguments. They may hold secrets: redact before they are shown.
    pub cmdline: Vec<String>,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Resident memory, of what is shared only its share. `None` where the kernel refuses.
    pub pss_bytes: Option<u64>,
    /// CPU time so far in clock ticks.
    pub cpu_ticks: u64,
    /// Threads.
    pub threads: u32,
    /// Open descriptors. `None` where the kernel refuses.
    pub open_files: Option<u32>,
    /// Bytes that it caused to be read from disks.
    pub read_bytes: Option<u64>,
    /// Bytes that it caused to be written to disks.
    pub write_bytes: Option<u64>,
}

/// The last pass; its memory is used again.
#[derive(Debug)]
pub(super) struct Scanner {
    procfs: Procfs,
    pids: Vec<i32>,
    stats: Vec<Stat>,
    owners: HashMap<i32, Option<RunId>>,
}

impl Scanner {
    pub(super) fn new(procfs: Procfs) -> Self {
        Self { procfs, pids: Vec::new(), stats: Vec::new(), owners: HashMap::new() }
    }

    /// Reads every process, then finds out whose each is. The fleet is held for a single process at a time.
    pub(super) fn scan(&mut self, fleet: &Mutex<Fleet>) -> io::Result<()> {
        let lock = || fleet.lock().unwrap_or_else(PoisonError::into_inner);
        self.pids.clear();
        self.stats.clear();
        self.owners.clear();
        let pids = &mut self.pids;
        self.procfs.pids(|pid| pids.push(pid))?;
        self.pids.sort_unstable();
        for pid in &self.pids {
            self.stats.extend(self.procfs.stat(*pid));
        }
        for stat in &self.stats {
            // A kernel thread is nobody's: it has the kernel's session and parent 2.
            let foreign = stat.pid <= 2 || stat.ppid == 2;
            let owner = if foreign { None } else { lock().owner(stat) };
            self.owners.insert(stat.pid, owner);
        }
        self.inherit(&mut lock());
        Ok(())
    }

    /// Who descends from a run's process is the run's.
    fn inherit(&mut self, fleet: &mut Fleet) {
        let parents: HashMap<i32, i32> = self.stats.iter().map(|s| (s.pid, s.ppid)).collect();
        for stat in &self.stats {
            if self.owners.get(&stat.pid).copied().flatten().is_some() {
                continue;
            }
            let mut above = stat.ppid;
            // Numbers may have changed hands meanwhile: a bound, lest a circle be walked for ever.
            for _ in 0..self.stats.len() {
                if above <= 2 {
                    break;
                }
                if let Some(run) = self.owners.get(&above).copied().flatten() {
                    self.owners.insert(stat.pid, Some(run));
                    // Its parents may be gone at the next look.
                    fleet.escaped.insert(stat.pid, (stat.start_ticks, run));
                    break;
                }
                let Some(next) = parents.get(&above) else { break };
                above = *next;
            }
        }
        let owners = &self.owners;
        fleet.escaped.retain(|pid, _| owners.get(pid).copied().flatten().is_some());
    }

    pub(super) fn of(&self, run: RunId) -> impl Iterator<Item = Stat> {
        self.stats
            .iter()
            .filter(move |stat| self.owners.get(&stat.pid).copied().flatten() == Some(run))
            .copied()
    }
}

impl Trees {
    /// What each tracked run uses, by one pass over `/proc` on another thread. Runs without a living process are left out.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if `/proc` cannot be read.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn sample(&self) -> Result<BTreeMap<RunId, Sample>> {
        let shared = self.shared();
        blocking(move || {
            let page = rustix::param::page_size() as u64;
            let mut scanner = shared.scanner();
            scanner.scan(&shared.fleet).map_err(Error::io("read /proc"))?;
            let mut samples = BTreeMap::new();
            for stat in scanner.stats.iter().filter(|stat| !stat.is_dead()) {
                let Some(run) = scanner.owners.get(&stat.pid).copied().flatten() else { continue };
                let sample: &mut Sample = samples.entry(run).or_default();
                sample.rss_bytes += stat.rss_pages.saturating_mul(page);
                sample.cpu_ticks += stat.cpu_ticks;
                sample.threads += stat.threads;
                sample.processes += 1;
            }
            Ok(samples)
        })
        .await
    }
}

impl Tree {
    /// Each process of this run in detail, for somebody who looks at one instance.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if `/proc` cannot be read.
    pub async fn describe(&self) -> Result<Vec<ProcessDetail>> {
        let pids = match self.cgroup() {
            Some(cgroup) => Some(cgroup.pids()?),
            None => None,
        };
        let (shared, run) = (std::sync::Arc::clone(&self.shared), self.run);
        blocking(move || {
            let mut procfs = Procfs::open().map_err(Error::io("open /proc"))?;
            let stats = match pids {
                Some(pids) => pids.into_iter().filter_map(|pid| procfs.stat(pid)).collect(),
                None => members(&shared, run)?,
            };
            Ok(stats.iter().map(|stat| detail(&mut procfs, stat)).collect())
        })
        .await
    }
}

fn detail(procfs: &mut Procfs, stat: &Stat) -> ProcessDetail {
    let pid = stat.pid;
    let mut text = |name: &str| {
        procfs.read(pid, name).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).ok()
    };
    let value = |text: &Option<String>, key: &str| -> Option<u64> {
        let line = text.as_ref()?.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let comm = text("comm").unwrap_or_default().trim_end().to_owned();
    let cmdline = text("cmdline").unwrap_or_default();
    let (rollup, io) = (text("smaps_rollup"), text("io"));
    let open_files = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()
        .map(|entries| u32::try_from(entries.count()).unwrap_or(u32::MAX));
    ProcessDetail {
        pid,
        ppid: stat.ppid,
        comm,
        cmdline: cmdline.split_terminator('\0').map(str::to_owned).collect(),
        rss_bytes: stat.rss_pages.saturating_mul(rustix::param::page_size() as u64),
        pss_bytes: value(&rollup, "Pss:").map(|kib| kib * 1024),
        cpu_ticks: stat.cpu_ticks,
        threads: stat.threads,
        open_files,
        read_bytes: value(&io, "read_bytes:"),
        write_bytes: value(&io, "write_bytes:"),
    }
}
