//! Who belongs to which run: what is known between two passes over `/proc`.

use std::{collections::HashMap, time::Duration};

use crate::{
    clock,
    id::RunId,
    supervisor::{
        RUN_MARK,
        procfs::{Procfs, Stat},
    },
};

/// More strangers than this are not remembered, but looked at again.
const STRANGERS: usize = 8192;
/// So far up is looked for a process of a run.
#[cfg(feature = "vault")]
const MOST_PARENTS: usize = 64;

/// The main process of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Main {
    pub(super) run: RunId,
    pub(super) pid: i32,
    pub(super) start_ticks: u64,
    pub(super) ended: bool,
}

#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) procfs: Procfs,
    pub(super) reaper: Option<i32>,
    /// By pid, which is the session's number too.
    pub(super) mains: HashMap<i32, Main>,
    /// The pid of each run.
    runs: HashMap<RunId, i32>,
    /// Runs by the inodes of their output pipes.
    outputs: HashMap<u64, RunId>,
    /// Processes that left their session, with their start times.
    pub(super) escaped: HashMap<i32, (u64, RunId)>,
    /// Processes that were looked at and are nobody's, with their start times.
    strangers: HashMap<i32, u64>,
    /// The last look at the reaper's children: when it began, and those that live and are some run's.
    orphans: Option<(Duration, Vec<(RunId, Stat)>)>,
}

impl Fleet {
    pub(super) fn new(procfs: Procfs, reaper: Option<i32>) -> Self {
        Self {
            procfs,
            reaper,
            mains: HashMap::new(),
            runs: HashMap::new(),
            outputs: HashMap::new(),
            escaped: HashMap::new(),
            strangers: HashMap::new(),
            orphans: None,
        }
    }

    pub(super) fn add(&mut self, main: Main, outputs: &[u64]) {
        self.mains.insert(main.pid, main);
        self.runs.insert(main.run, main.pid);
        self.outputs.extend(outputs.iter().map(|inode| (*inode, main.run)));
        // Somebody may have been looked at before its run was known.
        self.strangers.clear();
    }

    pub(super) fn remove(&mut self, main: &Main) {
        if self.mains.get(&main.pid).is_some_and(|known| known.run == main.run) {
            self.mains.remove(&main.pid);
        }
        if self.runs.get(&main.run) == Some(&main.pid) {
            self.runs.remove(&main.run);
            self.outputs.retain(|_, run| *run != main.run);
            self.escaped.retain(|_, (_, run)| *run != main.run);
        }
    }

    /// The topmost of a run that live: the main process, and those children of the reaper that are the run's. `None`
    /// if the kernel does not list children, or another than `reaper` is asked now: the run's own is dead.
    pub(super) fn tops(&mut self, main: &Main, reaper: Option<i32>) -> Option<Vec<Stat>> {
        if reaper.is_none() || reaper != self.reaper {
            return None;
        }
        let mut found = Vec::new();
        match self.procfs.stat(main.pid).filter(|stat| stat.start_ticks == main.start_ticks) {
            Some(stat) if !stat.is_dead() => found.push(stat),
            _ => {
                if let Some(known) = self.mains.get_mut(&main.pid) {
                    known.ended |= known.run == main.run;
                }
            }
        }
        self.look()?;
        let (_, orphans) = self.orphans.as_ref()?;
        found.extend(orphans.iter().filter(|(run, _)| *run == main.run).map(|(_, stat)| *stat));
        Some(found)
    }

    /// The last look was after `since`, and nobody of the run was left: without its main process, nobody can come.
    pub(super) fn was_empty(&self, run: RunId, since: Duration, reaper: Option<i32>) -> bool {
        reaper == self.reaper
            && self.orphans.as_ref().is_some_and(|(at, orphans)| {
                *at > since && orphans.iter().all(|(other, _)| *other != run)
            })
    }

    /// Looks at the reaper's children. With 1,000 of them this takes the kernel some 150 µs, whoever they are.
    fn look(&mut self) -> Option<()> {
        let reaper = self.reaper?;
        self.orphans = None;
        let at = clock::since_boot();
        let list = self.procfs.read(reaper, &format!("task/{reaper}/children")).ok()?;
        let mains = &self.mains;
        let others: Vec<i32> = list
            .split(|byte| *byte == b' ')
            .filter_map(pid)
            // Main processes are by far the most, and never another run's.
            .filter(|pid| mains.get(pid).is_none_or(|main| main.ended))
            .collect();
        let mut orphans = Vec::new();
        for pid in others {
            if let Some(stat) = self.procfs.stat(pid).filter(|stat| !stat.is_dead())
                && let Some(run) = self.owner(&stat)
            {
                orphans.push((run, stat));
            }
        }
        self.orphans = Some((at, orphans));
        Some(())
    }

    /// Whose a process is, from itself alone.
    pub(super) fn owner(&mut self, stat: &Stat) -> Option<RunId> {
        if let Some(run) = self.by_session(stat) {
            return Some(run);
        }
        if let Some((start, run)) = self.escaped.get(&stat.pid)
            && *start == stat.start_ticks
        {
            return Some(*run);
        }
        if self.strangers.get(&stat.pid) == Some(&stat.start_ticks) {
            return None;
        }
        let (marked, settled) = self.by_mark(stat.pid);
        let run = marked.or_else(|| self.by_output(stat.pid));
        if let Some(run) = run {
            self.escaped.insert(stat.pid, (stat.start_ticks, run));
        } else if settled {
            if self.strangers.len() >= STRANGERS {
                self.strangers.clear();
            }
            self.strangers.insert(stat.pid, stat.start_ticks);
        }
        run
    }

    /// A session keeps its number from being used again for as long as anybody is in it. Where it has become empty, its
    /// number may be a stranger's: then there is another leader.
    pub(super) fn by_session(&mut self, stat: &Stat) -> Option<RunId> {
        if let Some(main) = self.mains.get(&stat.pid) {
            return (main.start_ticks == stat.start_ticks).then_some(main.run);
        }
        let main = *self.mains.get(&stat.session)?;
        if main.ended
            && let Some(leader) = self.procfs.stat(main.pid)
            && leader.start_ticks != main.start_ticks
        {
            return None;
        }
        Some(main.run)
    }

    /// Whose a process is for certain: by its session or that of one above it. A mark can be copied, a pipe can be passed
    /// on; neither counts.
    #[cfg(feature = "vault")]
    pub(super) fn certain_owner(&mut self, pid: i32) -> Option<RunId> {
        let mut stat = self.procfs.stat(pid)?;
        for _ in 0..MOST_PARENTS {
            if let Some(run) = self.by_session(&stat) {
                return Some(run);
            }
            if stat.ppid <= 1 || Some(stat.ppid) == self.reaper {
                break;
            }
            stat = self.procfs.stat(stat.ppid)?;
        }
        None
    }

    /// By the environment with which it, or the one that it was forked from, was started.
    ///
    /// The second says whether that will stay so: while a process becomes another program its environment is empty for a
    /// moment, and whoever took it for a stranger then would never find it.
    fn by_mark(&mut self, pid: i32) -> (Option<RunId>, bool) {
        match self.procfs.read(pid, "environ") {
            Ok([]) => (None, false),
            Ok(environ) => {
                let run = marked(environ).filter(|run| self.runs.contains_key(run));
                (run, true)
            }
            // What we may not read is not ours; what is gone is asked for no more.
            Err(_) => (None, true),
        }
    }

    /// By the pipes that it writes to: for one that has written over its environment, as those do that change their title.
    fn by_output(&self, pid: i32) -> Option<RunId> {
        if self.outputs.is_empty() {
            return None;
        }
        [1, 2].into_iter().find_map(|fd| {
            let inode = self.procfs.pipe_inode(pid, fd)?;
            self.outputs.get(&inode).copied()
        })
    }
}

/// The run that an environment names.
fn marked(environ: &[u8]) -> Option<RunId> {
    let value = environ
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(RUN_MARK.as_bytes())?.strip_prefix(b"="))?;
    Some(RunId(std::str::from_utf8(value).ok()?.parse().ok()?))
}

fn pid(word: &[u8]) -> Option<i32> {
    if word.is_empty() || word.len() > 9 {
        return None;
    }
    word.iter().try_fold(0_i32, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i32::from(byte - b'0'))
    })
}
