//! What the machine gives: folders, disk, cgroups, limits. Looks only, changes nothing.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use kissops_core::{control::Verdict, supervisor::CgroupRoot};
use rustix::{
    fs::{Access, access, statvfs},
    process::{Resource, geteuid, getrlimit},
};

use super::Finding;
use crate::render::human;

/// A folder of the daemon: there, or to be made; writable by us; closed to others.
pub(super) fn folder(key: &'static str, folder: &Path) -> Finding {
    let shown = folder.display();
    let meta = match fs::metadata(folder) {
        Ok(meta) if meta.is_dir() => meta,
        Ok(_) => {
            let help = format!("set daemon.{key} to another place");
            return Finding::new(key, Verdict::Fail, format!("{shown} is not a folder"), &help);
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            return Finding::pass(key, format!("{shown} is made at the first start"));
        }
        Err(err) => {
            let message = format!("cannot look at {shown}: {err}");
            return Finding::new(key, Verdict::Fail, message, "look at the rights above it");
        }
    };
    if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let message = format!("{shown} is not writable for uid {}", geteuid().as_raw());
        let help = format!("it belongs to uid {}: ask as that user", meta.uid());
        return Finding::new(key, Verdict::Fail, message, &help);
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o022 != 0 {
        let help = format!("chmod go-w {shown}");
        let message = format!("{shown} can be written by others (mode {mode:o})");
        return Finding::new(key, Verdict::Warn, message, &help);
    }
    Finding::pass(key, format!("{shown}, mode {mode:o}, uid {}", meta.uid()))
}

/// Room for logs.
pub(super) fn space(folder: &Path) -> Finding {
    const NAME: &str = "disk";
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let Ok(stat) = statvfs(there) else {
        let message = format!("cannot ask for the space at {}", there.display());
        return Finding::new(NAME, Verdict::Warn, message, "");
    };
    let size = stat.f_frsize.saturating_mul(stat.f_blocks);
    let free = stat.f_frsize.saturating_mul(stat.f_bavail);
    let message =
        format!("{} of {} free at {}", human::size(free), human::size(size), there.display());
    let help = "logs that do not fit are dropped; make room or lower logs.keep_size";
    match free {
        0 => Finding::new(NAME, Verdict::Fail, message, help),
        _ if free < size / 20 => Finding::new(NAME, Verdict::Warn, message, help),
        _ => Finding::pass(NAME, message),
    }
}

/// How trees are found and memory limits enforced (SUP-13): by the kernel, or by looking.
pub(super) fn cgroup(daemon: Option<u32>) -> Finding {
    const NAME: &str = "limits";
    let warn = |text: String| {
        let help = "run the daemon as a systemd unit with Delegate=yes, or as root with cgroup v2";
        Finding::new(NAME, Verdict::Warn, text, help)
    };
    let none = |why: &str| {
        warn(format!("memory limits are enforced by sampling, trees are killed by a scan: {why}"))
    };
    let Some(own) = CgroupRoot::of_process(daemon) else {
        return none("there is no cgroup v2 here");
    };
    let shown = own.display();
    if access(&own, Access::WRITE_OK).is_err()
        || access(own.join("cgroup.procs"), Access::WRITE_OK).is_err()
    {
        return none(&format!("{shown} is not ours to write to"));
    }
    let granted = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &str| granted.split_whitespace().any(|word| word == name);
    if !has("memory") {
        return warn(format!(
            "trees are killed by cgroup; memory limits are enforced by sampling: {shown} has no memory controller"
        ));
    }
    Finding::pass(NAME, format!("by cgroups below {shown} ({})", granted.trim()))
}

/// Descriptors that the daemon may have: it holds a handful for each instance.
pub(super) fn descriptors(daemon: Option<u32>, instances: usize) -> Finding {
    const NAME: &str = "descriptors";
    const EACH: u64 = 8;
    let (whose, hard) = match daemon.and_then(hard_limit) {
        Some(hard) => ("the daemon", hard),
        None => ("this shell", getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)),
    };
    let needed = EACH * u64::try_from(instances).unwrap_or(u64::MAX) + 256;
    let fleet = human::count(instances, "instance needs", "instances need");
    let message = format!("{whose} may open {hard} files; {fleet} {needed}");
    if hard < needed {
        let help = "raise it: LimitNOFILE= in a systemd unit, or ulimit -Hn";
        return Finding::new(NAME, Verdict::Fail, message, help);
    }
    Finding::pass(NAME, message)
}

/// The hard limit of open files of a process: the daemon raises its soft one by itself.
fn hard_limit(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
