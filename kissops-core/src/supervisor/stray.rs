//! Processes of ours that nobody knows: daemon and keeper both died between a start and its record.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{RUN_MARK, procfs::Procfs};
use crate::{Error, Result, id::RunId};

/// The variable that tells the processes of one fleet from those of another on the same machine.
pub(super) const FLEET_MARK: &str = "KISSOPS_FLEET";
/// How long they may take to be gone.
const LIMIT: Duration = Duration::from_secs(5);

/// Kills every process that bears the mark of `fleet` and a run that is not among `known`, until none is left; says how
/// many there were. Starting an instance beside a forgotten process of its own would run it twice.
///
/// Blocks for some 15 µs a process of the machine, and until they are gone.
pub(super) fn clear(fleet: &str, known: &BTreeSet<RunId>) -> Result<usize> {
    let mut procfs = Procfs::open().map_err(Error::io("open /proc"))?;
    let begun = Instant::now();
    let mut killed = BTreeSet::new();
    // A process has no environment for a moment while it becomes another program: one empty look is not enough.
    let mut empty = 0;
    loop {
        let mut pids = Vec::new();
        procfs.pids(|pid| pids.push(pid)).map_err(Error::io("list processes"))?;
        let strays: Vec<i32> =
            pids.into_iter().filter(|pid| is_stray(&mut procfs, *pid, fleet, known)).collect();
        if strays.is_empty() {
            empty += 1;
            if empty == 2 {
                return Ok(killed.len());
            }
        } else {
            empty = 0;
        }
        if begun.elapsed() > LIMIT {
            return Err(Error::Timeout {
                what: format!("ending {} forgotten processes of this fleet", strays.len()),
                limit: LIMIT,
            });
        }
        for pid in strays {
            if kill(&mut procfs, pid, fleet, known) {
                killed.insert(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Looks once more after the pidfd is open: only then is it certain whom the signal meets.
fn kill(procfs: &mut Procfs, pid: i32, fleet: &str, known: &BTreeSet<RunId>) -> bool {
    let Some(pidfd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    else {
        return false;
    };
    is_stray(procfs, pid, fleet, known) && pidfd_send_signal(pidfd, Signal::KILL).is_ok()
}

fn is_stray(procfs: &mut Procfs, pid: i32, fleet: &str, known: &BTreeSet<RunId>) -> bool {
    // A dead one that is not reaped yet has no environment any more. What we may not read is not ours.
    let Ok(environ) = procfs.read(pid, "environ") else { return false };
    let value = |name: &str| {
        environ
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    };
    let run = || std::str::from_utf8(value(RUN_MARK)?).ok()?.parse().ok().map(RunId);
    value(FLEET_MARK) == Some(fleet.as_bytes()) && run().is_some_and(|run| !known.contains(&run))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper(fleet: &str, run: &str) -> Child {
        Command::new("sleep").arg("1000").env(FLEET_MARK, fleet).env(RUN_MARK, run).spawn().unwrap()
    }

    #[test]
    fn sup_17_only_unknown_runs_of_the_same_fleet_are_killed() {
        let fleet = format!("test-{}", std::process::id());
        let (mut stray, mut known, mut other) =
            (sleeper(&fleet, "11"), sleeper(&fleet, "12"), sleeper("another-fleet", "11"));
        // A zombie counts as gone: its parent, this test, reaps it below.
        assert_eq!(clear(&fleet, &[RunId(12)].into()).unwrap(), 1);
        assert!(!stray.wait().unwrap().success());
        for child in [&mut known, &mut other] {
            assert!(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
