//! Cgroups v2, where the host lets us make some: limits, one kill for a whole tree, and no doubt about who belongs to it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use crate::{Error, Result, id::InstanceName, supervisor::limits::Limits};

/// All the controllers that a limit may need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The cgroup below which each instance gets its own.
#[derive(Clone, Debug)]
pub struct CgroupRoot {
    path: PathBuf,
    controllers: Vec<&'static str>,
}

/// The cgroup of one instance, kept over its restarts.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
    not_applied: Vec<String>,
}

impl CgroupRoot {
    /// Makes `kissops-<fleet>` below the cgroup that this process is in, with every controller that there is.
    ///
    /// `fleet` tells daemons on one machine apart: it must differ between state directories and be the same after a
    /// restart. It goes into the name: letters, digits, `_`, `-` and `.` only. `None` where there is no cgroup v2 or it
    /// is not ours to write to; the reason is logged at debug level.
    ///
    /// Where we share our cgroup with processes of its own, controllers can be handed down only once it holds none
    /// ("no internal processes", see cgroups(7)): then we, alone in it, move to a leaf `kissops-self`. Leftovers of
    /// instances that are empty are removed.
    #[must_use]
    pub fn detect(fleet: &str) -> Option<Self> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if fleet.is_empty() || fleet.len() > 128 || !fleet.bytes().all(safe) {
            return None;
        }
        let own = Self::of_process(None)?;
        // A daemon that moved to its leaf and was restarted in place is still there.
        let base = if own.file_name().is_some_and(|name| name == LEAF) {
            own.parent()?.to_path_buf()
        } else {
            own
        };
        match Self::below(&base, fleet) {
            Ok(root) => Some(root),
            Err(err) => {
                tracing::debug!(error = %err, cgroup = %base.display(), "cannot use cgroups here");
                None
            }
        }
    }

    /// The directory of the cgroup v2 that a process is in; this one, where `pid` is `None`. Looks only.
    #[must_use]
    pub fn of_process(pid: Option<u32>) -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let own = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
        locate(&mounts, &own).filter(|path| path.join("cgroup.procs").is_file())
    }

    /// The same below a cgroup that was chosen by hand, such as one that an administrator has handed over.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if nothing can be made there.
    pub fn below(base: &Path, fleet: &str) -> Result<Self> {
        let path = base.join(format!("kissops-{fleet}"));
        make(&path)?;
        let hand_down = |path: &Path| {
            let available = words(&path.join("cgroup.controllers"));
            for name in CONTROLLERS {
                if available.iter().any(|word| word == name) {
                    // Refused ones show below: what counts is what the instances get.
                    let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{name}"));
                }
            }
        };
        if CONTROLLERS
            .iter()
            .any(|name| words(&base.join("cgroup.controllers")).iter().any(|word| word == name))
        {
            hand_down(base);
            if words(&base.join("cgroup.subtree_control")).is_empty() && step_aside(base) {
                hand_down(base);
            }
        }
        hand_down(&path);
        let granted = words(&path.join("cgroup.subtree_control"));
        let controllers = CONTROLLERS
            .into_iter()
            .filter(|name| granted.iter().any(|word| word == name))
            .collect();
        let root = Self { path, controllers };
        root.sweep();
        Ok(root)
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The controllers that instances can be limited by: some of `cpu`, `memory`, `pids`.
    #[must_use]
    pub fn controllers(&self) -> &[&'static str] {
        &self.controllers
    }

    /// The cgroup of an instance, with its limits as they are now. Blocks for some 50 µs.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if it cannot be made, or a limit is refused whose controller is there.
    pub fn instance(&self, name: &InstanceName, limits: &Limits) -> Result<Cgroup> {
        let path = self.path.join(name.as_str());
        make(&path)?;
        let mut cgroup = Cgroup { path, not_applied: Vec::new() };
        for (file, value) in settings(limits) {
            let controller = file.split('.').next().unwrap_or_default();
            let has = self.controllers.contains(&controller);
            match (has, value) {
                (true, value) => {
                    // `memory.swap.max` is missing where swap is not accounted for.
                    let target = cgroup.path.join(file);
                    let value_or_default =
                        value.clone().unwrap_or_else(|| default_of(file).to_owned());
                    match fs::write(&target, value_or_default) {
                        Ok(()) => {}
                        Err(err) if err.kind() == io::ErrorKind::NotFound => {
                            cgroup.not_applied.extend(value.map(|_| file.to_owned()));
                        }
                        Err(err) => {
                            return Err(Error::io(format!("set {file} of instance `{name}`"))(err));
                        }
                    }
                }
                (false, Some(_)) => cgroup.not_applied.push(file.to_owned()),
                (false, None) => {}
            }
        }
        Ok(cgroup)
    }

    /// The cgroup of an instance, if it has one, with the limits that it has.
    #[must_use]
    pub fn existing(&self, name: &InstanceName) -> Option<Cgroup> {
        let path = self.path.join(name.as_str());
        path.is_dir().then(|| Cgroup { path, not_applied: Vec::new() })
    }

    /// Removes the cgroups of instances that hold no process any more.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                // Refused by the kernel while somebody is in it: then it is not a leftover.
                let _ = remove_tree(&entry.path());
            }
        }
    }

    /// Removes the root itself, at a clean end, unless an instance still runs.
    pub fn remove(&self) {
        self.sweep();
        let _ = fs::remove_dir(&self.path);
    }
}

impl Cgroup {
    /// Its directory: what [`Launch::cgroup`](crate::supervisor::Launch::cgroup) wants.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The limits that were asked for and whose controller is missing, by the names of their files.
    #[must_use]
    pub fn not_applied(&self) -> &[String] {
        &self.not_applied
    }

    /// Kills all that is in it, atomically.
    ///
    /// # Errors
    /// [`Io`](Error::Io), with `ENOENT` as its cause on Linux before 5.14.
    pub fn kill(&self) -> Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
            .map_err(Error::io(format!("kill what runs in {}", self.path.display())))
    }

    /// Nobody is in it nor below it. Costs some 10 µs.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if it cannot be read; one that is gone is empty.
    pub fn is_empty(&self) -> Result<bool> {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(text) => Ok(value_of(&text, "populated") == Some(0)),
            Err(err) if is_gone(&err) => Ok(true),
            Err(err) => {
                Err(Error::io(format!("read cgroup.events of {}", self.path.display()))(err))
            }
        }
    }

    /// How often the kernel has killed something in it for want of memory, since it was made. `None` without the memory controller.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        value_of(&fs::read_to_string(self.path.join("memory.events")).ok()?, "oom_kill")
    }

    /// Bytes charged to it, page cache included. `None` without the memory controller.
    #[must_use]
    pub fn memory_current(&self) -> Option<u64> {
        fs::read_to_string(self.path.join("memory.current")).ok()?.trim().parse().ok()
    }

    /// The processes in it and below it.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if they cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect(&self.path, &mut pids)
            .map_err(Error::io(format!("list the processes of {}", self.path.display())))?;
        Ok(pids)
    }

    /// Removes it, waiting up to 1 s for the last process to be gone. Blocks.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if somebody is still in it.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match remove_tree(&self.path) {
                Ok(()) => return Ok(()),
                Err(err) if is_gone(&err) => return Ok(()),
                // A killed process counts until it was reaped.
                Err(err)
                    if err.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(err) => return Err(Error::io(format!("remove {}", self.path.display()))(err)),
            }
        }
    }
}

/// Where we go so that our own cgroup may hand controllers down.
const LEAF: &str = "kissops-self";

/// Moves this process to a leaf, if it is alone in `base` and controllers are refused for that reason.
fn step_aside(base: &Path) -> bool {
    let me = std::process::id().to_string();
    if words(&base.join("cgroup.procs")) != [me.as_str()] {
        return false;
    }
    let leaf = base.join(LEAF);
    make(&leaf).is_ok() && fs::write(leaf.join("cgroup.procs"), me).is_ok()
}

/// The mount's own root is part of the path in `/proc/self/cgroup`, but not of the path below its mount point.
fn locate(mounts: &str, own: &str) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, point) = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        right.starts_with("cgroup2 ").then(|| (unescape(root), unescape(point)))
    })?;
    let below = Path::new(own).strip_prefix(&root).ok()?;
    Some(Path::new(&point).join(below))
}

/// Spaces and the like are octal in mountinfo; see `proc_pid_mountinfo(5)`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The files to write, and what: `None` is a limit that is not set, and is taken back where an earlier run had one.
fn settings(limits: &Limits) -> [(&'static str, Option<String>); 6] {
    let bytes = |size: Option<crate::ByteSize>| size.map(|size| size.0.to_string());
    [
        ("memory.high", bytes(limits.memory_high)),
        ("memory.max", bytes(limits.memory_max)),
        ("memory.swap.max", bytes(limits.memory_swap_max)),
        ("cpu.weight", limits.cpu_weight.map(|weight| weight.to_string())),
        // Percent of one core, in microseconds of each 100 ms.
        (
            "cpu.max",
            limits.cpu_max_percent.map(|percent| format!("{} 100000", u64::from(percent) * 1000)),
        ),
        ("pids.max", limits.pids_max.map(|most| most.to_string())),
    ]
}

fn default_of(file: &str) -> &'static str {
    match file {
        "cpu.weight" => "100",
        "cpu.max" => "max 100000",
        _ => "max",
    }
}

fn make(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io(format!("make the cgroup {}", path.display()))(err))
        }
        _ => Ok(()),
    }
}

fn words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A cgroup that is being removed answers `ENODEV` to those who still have its files open.
fn is_gone(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::NotFound || Errno::from_io_error(err) == Some(Errno::NODEV)
}

/// A bot may have made cgroups of its own below.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn collect(path: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(err) if is_gone(&err) => return Ok(()),
        Err(err) => return Err(err),
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), pids)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_unified_hybrid_and_container_layouts() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            locate(unified, "0::/user.slice/x.service\n").unwrap(),
            Path::new("/sys/fs/cgroup/user.slice/x.service")
        );
        let hybrid = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 23 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            locate(hybrid, "4:memory:/a\n0::/\n").unwrap(),
            Path::new("/sys/fs/cgroup/unified")
        );
        let container = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(
            locate(container, "0::/docker/abc/sub\n").unwrap(),
            Path::new("/sys/fs/cgroup/sub")
        );
        assert_eq!(locate("", "0::/\n"), None);
        assert_eq!(locate(unified, "4:memory:/a\n"), None);
    }

    #[test]
    fn a_line_is_found_by_its_whole_key() {
        assert_eq!(value_of("oom 3\noom_kill 2\noom_group_kill 1\n", "oom_kill"), Some(2));
        assert_eq!(value_of("", "oom_kill"), None);
    }
}
