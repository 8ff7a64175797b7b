//! What an instance may use: cgroup v2 where there is one, rlimits everywhere.

use serde::Serialize;

use crate::size::ByteSize;

/// Limits of one instance. `None` leaves a limit as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// Above this the kernel slows the instance down (`memory.high`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<ByteSize>,
    /// Above this it is killed (`memory.max`; by sampling where there is no memory controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<ByteSize>,
    /// How much of it may be swapped out (`memory.swap.max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap_max: Option<ByteSize>,
    /// Share of the CPU against others, 1 to 10000 (`cpu.weight`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Most CPU, in percent of one core (`cpu.max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_max_percent: Option<u32>,
    /// Most processes and threads (`pids.max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
    /// Restart when the tree's resident memory stays above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rss: Option<ByteSize>,
    /// For so many samples in a row.
    pub max_rss_samples: u32,
    /// Resource limits of each process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
}

/// One resource limit, soft and hard alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// Which.
    pub resource: Resource,
    /// How much; `None` is no limit.
    pub value: Option<u64>,
}

/// What a resource limit counts; see setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Open files.
    Nofile,
    /// Bytes of a core dump.
    Core,
    /// Processes of the user.
    Nproc,
    /// Bytes of a written file.
    Fsize,
    /// Bytes of address space.
    As,
    /// Bytes of stack.
    Stack,
    /// Bytes locked in memory.
    Memlock,
    /// Seconds of CPU time.
    Cpu,
}

/// How many files a process may open, as it was before [`OpenFiles::raise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// In force; `None` is no limit.
    soft: Option<u64>,
    /// The most that an unprivileged process may raise it to; `None` is no limit.
    hard: Option<u64>,
}

impl OpenFiles {
    /// Lets this process open as many as its hard limit allows: each instance takes some, and the usual soft limit of
    /// 1024 is for programs that call `select(2)`. Where it cannot be raised, starts fail one by one with a clear error.
    ///
    /// Returns the limits as they were, which are what instances are to get: `nofile` of
    /// [`KeeperOptions`](super::KeeperOptions).
    #[must_use]
    pub fn raise() -> Self {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let before = getrlimit(Resource::Nofile);
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit { current: before.maximum, maximum: before.maximum },
        );
        Self { soft: before.current, hard: before.maximum }
    }

    pub(super) fn as_raw(self) -> libc::rlimit64 {
        let number = |limit: Option<u64>| limit.unwrap_or(libc::RLIM64_INFINITY);
        libc::rlimit64 { rlim_cur: number(self.soft), rlim_max: number(self.hard) }
    }
}
