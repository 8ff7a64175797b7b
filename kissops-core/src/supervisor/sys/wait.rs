//! How processes ended, and signals: the calls that do not start anything.

use std::{
    ffi::{c_int, c_void},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::supervisor::{Credentials, ExitStatus, ResourceUse, Signal, SignalTo};

/// An ended child, reaped.
#[derive(Debug)]
pub(crate) struct Reaped {
    pub(crate) pid: i32,
    pub(crate) status: ExitStatus,
    pub(crate) usage: ResourceUse,
}

/// Reaps any child that has ended. Only for a process that has no other children than these: the keeper.
pub(crate) fn reap_any() -> Option<Reaped> {
    let mut status: c_int = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for writing; rusage may be all zeros.
    let (pid, usage) = unsafe {
        let pid = libc::wait4(-1, &raw mut status, libc::WNOHANG, usage.as_mut_ptr());
        (pid, usage.assume_init())
    };
    (pid > 0).then(|| Reaped { pid, status: decode_status(status), usage: resource_use(&usage) })
}

/// Reaps the child behind `pidfd`, if it has ended.
///
/// # Errors
/// `ECHILD` if it is not our child, or somebody else has reaped it.
pub(crate) fn reap_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Option<(ExitStatus, ResourceUse)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG;
    // SAFETY: the kernel writes to the two structures, which may be all zeros.
    let (answer, info, usage) = unsafe {
        let answer = libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            info.as_mut_ptr(),
            flags,
            usage.as_mut_ptr(),
        );
        (answer, info.assume_init(), usage.assume_init())
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid fills these fields, or leaves them zero if nothing has ended.
    let (pid, value) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Code(value),
        code => by_signal(value, code == libc::CLD_DUMPED),
    };
    Ok(Some((status, resource_use(&usage))))
}

/// `struct pidfd_info` of linux/pidfd.h, its first published size.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// How a process ended that is not our child. `None` while it has not been reaped, and where the kernel (before 6.15) cannot tell.
pub(crate) fn exit_of(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    /// `_IOWR(0xFF, 11, struct pidfd_info)`.
    const PIDFD_GET_INFO: u64 = 0xC040_FF0B;
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request's number says how long the structure is.
    let answer = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (answer == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| decode_status(info.exit_code))
}

/// Signals the process group of the process behind `pidfd`, atomically against its forks (Linux 6.9).
pub(crate) fn signal_group(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
    // SAFETY: no memory is involved but a null pointer that the kernel allows.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal.number(),
            ptr::null::<c_void>(),
            PIDFD_SIGNAL_PROCESS_GROUP,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Signals the process behind `pidfd`, also by numbers that rustix has no name for.
pub(crate) fn signal_process(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    // SAFETY: as above.
    let answer = unsafe {
        let none = ptr::null::<c_void>();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal.number(), none, 0)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Signals a child of ours that was not reaped yet, or its process group, by number.
pub(crate) fn signal_child(pid: i32, signal: Signal, to: SignalTo) -> io::Result<()> {
    if pid <= 1 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    let target = if to == SignalTo::Group { -pid } else { pid };
    // SAFETY: no memory is involved.
    if unsafe { libc::kill(target, signal.number()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes SIGCHLD readable and deaf to what a terminal or a service manager sends. For a single-threaded process.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialised by sigemptyset; SIG_IGN needs no handler.
    unsafe {
        for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Leaves the starter's children: the caller goes on as an orphan, its former self ends. For a single-threaded process.
pub(crate) fn orphan_self() -> io::Result<()> {
    // SAFETY: the process has one thread, so the copy may use all of its memory; the parent ends at once.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(()),
            _ => libc::_exit(0),
        }
    }
}

/// Has the runtime watch `fd`, until the result is dropped.
pub(crate) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same one for as long as it lives, which is inside the AsyncFd.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// Lets all threads share one heap, where the C library would give each its own. To be called before there are any, by a
/// program that is nobody's guest and whose threads allocate little.
pub fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number that later calls of malloc look at; see mallopt(3).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the pages of the heap that hold nothing back to the system, where the C library can do that. Takes some
/// milliseconds for each 10 MB. For programs that are nobody's guest: a host decides over its own heap.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no argument, no precondition; see malloc_trim(3).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Changes the user of this whole process, all of its ids, for good.
pub(crate) fn become_for_good(wanted: &Credentials) -> io::Result<()> {
    let done =
        |answer: libc::c_int| if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the list is as long as it is said to be; the calls change nothing but our ids.
    unsafe {
        done(libc::setgroups(wanted.groups.len(), wanted.groups.as_ptr()))?;
        done(libc::setresgid(wanted.gid, wanted.gid, wanted.gid))?;
        done(libc::setresuid(wanted.uid, wanted.uid, wanted.uid))
    }
}

/// Takes what standard input is, and puts `with` in its place.
pub(crate) fn replace_stdin(with: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: 0 is either open, or the call fails; `taken` is new and ours.
    unsafe {
        let taken = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3);
        if taken < 0 {
            return Err(io::Error::last_os_error());
        }
        let taken = OwnedFd::from_raw_fd(taken);
        if libc::dup2(with.as_raw_fd(), 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(taken)
    }
}

/// A wait status as `wait(2)` has it.
fn decode_status(status: c_int) -> ExitStatus {
    if libc::WIFEXITED(status) {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    } else {
        by_signal(libc::WTERMSIG(status), libc::WCOREDUMP(status))
    }
}

fn by_signal(number: c_int, core_dumped: bool) -> ExitStatus {
    Signal::new(number)
        .map_or(ExitStatus::Unknown, |signal| ExitStatus::Signal { signal, core_dumped })
}

fn resource_use(usage: &libc::rusage) -> ResourceUse {
    let time = |time: libc::timeval| {
        let micros = u32::try_from(time.tv_usec).unwrap_or(0).min(999_999);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), micros * 1000)
    };
    ResourceUse {
        user_time: time(usage.ru_utime),
        system_time: time(usage.ru_stime),
        max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    }
}
