//! System calls that have no safe wrapper: the only `unsafe` code of the crate.
//!
//! A child is started with `clone(2)`, sharing our memory until it runs its program (as `vfork` does), so the cost does
//! not grow with our size. Until then it may use nothing but plain system calls: another thread may hold any lock.

#![allow(unsafe_code, reason = "the one place for it; each use says why it is sound")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    ptr,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior},
};

use crate::supervisor::Credentials;

mod child;
mod wait;

use child::{Shared, child};
pub(crate) use wait::{
    Reaped, become_for_good, child_signals, exit_of, orphan_self, reap_any, reap_pidfd,
    replace_stdin, signal_child, signal_group, signal_process, watched,
};
pub use wait::{trim_heap, use_one_heap};

/// A process to be started. Everything that needs memory was done before; relative paths count from `cwd`.
pub(crate) struct Program<'a> {
    /// Paths to try in turn.
    pub(crate) candidates: Vec<&'a CStr>,
    pub(crate) argv: Vec<&'a CStr>,
    /// The whole environment, `KEY=value`.
    pub(crate) env: Vec<&'a CStr>,
    pub(crate) cwd: &'a CStr,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) umask: Option<u32>,
    /// `RLIMIT_*` with its soft and hard limit; later ones win.
    pub(crate) rlimits: Vec<(u32, libc::rlimit64)>,
    /// A cgroup v2 directory to be born in.
    pub(crate) cgroup: Option<&'a CStr>,
    pub(crate) stdio: [BorrowedFd<'a>; 3],
}

/// A started process, running its program.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    /// Where it was asked for.
    pub(crate) pidfd: Option<OwnedFd>,
}

/// How the caller wants to hold the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Pid,
    PidFd,
}

/// What a child does on its way to its program. The numbers are part of the keeper's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    Clone = 1,
    Cgroup,
    Session,
    Limit,
    User,
    Directory,
    Stdio,
    Program,
}

impl Step {
    pub(crate) fn from_number(number: u8) -> Self {
        let all = [Self::Clone, Self::Cgroup, Self::Session, Self::Limit, Self::User];
        let more = [Self::Directory, Self::Stdio, Self::Program];
        all.into_iter().chain(more).find(|step| *step as u8 == number).unwrap_or(Self::Clone)
    }
}

/// The step at which a start ended, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

impl Failure {
    fn new(step: Step, err: &io::Error) -> Self {
        Self { step, errno: err.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// Enough for the few frames of [`child`], in a debug build too.
const STACK_WORDS: usize = 64 * 1024 / size_of::<u128>();

/// A descriptor of the process that has connected a unix socket; see unix(7).
///
/// # Errors
/// Before Linux 6.5 there is no such option.
#[cfg(feature = "vault")]
pub(crate) fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut pidfd: c_int = -1;
    let mut size = libc::socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
    // SAFETY: both pointers are to live values of our own, of the size that is said.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            ptr::from_mut(&mut pidfd).cast(),
            &raw mut size,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if pidfd < 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// Starts a process in a session of its own and returns when it runs its program.
///
/// Nothing but standard input, output and error is inherited; signals are at their defaults.
///
/// # Errors
/// The step that failed. The child is gone and reaped then.
pub(crate) fn exec_child(program: &Program<'_>, hold: Hold) -> Result<Child, Failure> {
    let stdio = above_stdio(program.stdio).map_err(|err| Failure::new(Step::Stdio, &err))?;
    let strings = |list: &[&CStr]| -> Vec<*const c_char> {
        list.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (candidates, argv, env) =
        (strings(&program.candidates), strings(&program.argv), strings(&program.env));
    let credentials = program.credentials.as_ref().filter(|wanted| !already(wanted));
    let mut shared = Shared {
        candidates: candidates.as_ptr(),
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        cwd: program.cwd.as_ptr(),
        credentials: credentials.map_or(ptr::null(), ptr::from_ref),
        umask: program.umask,
        rlimits: program.rlimits.as_ptr(),
        rlimits_len: program.rlimits.len(),
        procs: -1,
        stdio: stdio.each_ref().map(Handle::raw),
        failure: None,
    };
    // A change of user in the child, which shares our memory, would mark us too as not to be dumped.
    let dumpable = credentials.and_then(|_| dumpable_behavior().ok());
    let started = start(program.cgroup, &mut shared, hold);
    if dumpable == Some(DumpableBehavior::Dumpable) {
        // It only keeps core dumps possible.
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    }
    let child = started?;
    match shared.failure {
        None => Ok(child),
        Some(failure) => {
            // SAFETY: waits for our own child, which is about to exit; a null status is allowed.
            unsafe { libc::waitpid(child.pid, ptr::null_mut(), 0) };
            Err(failure)
        }
    }
}

/// Clones into the cgroup at once where the kernel can; else the child moves itself before it runs anything.
fn start(cgroup: Option<&CStr>, shared: &mut Shared, hold: Hold) -> Result<Child, Failure> {
    let Some(path) = cgroup else { return clone(shared, hold, None) };
    let open = |path: &CStr, flags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|err| Failure::new(Step::Cgroup, &err.into()))
    };
    let dir = open(path, OFlags::PATH | OFlags::DIRECTORY)?;
    if cfg!(target_arch = "x86_64") {
        match clone(shared, hold, Some(dir.as_fd())) {
            Err(Failure {
                errno: libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::E2BIG, ..
            }) => {}
            done => return done,
        }
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs = rustix::fs::openat(&dir, c"cgroup.procs", flags, Mode::empty())
        .map_err(|err| Failure::new(Step::Cgroup, &err.into()))?;
    shared.procs = procs.as_raw_fd();
    clone(shared, hold, None)
}

/// The child is us already: an ordinary user need not (and may not) set its groups.
fn already(wanted: &Credentials) -> bool {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    !uid.is_root() && uid.as_raw() == wanted.uid && gid.as_raw() == wanted.gid
}

/// A descriptor from 3 on, so that `dup2` to 0, 1 and 2 never hits a source.
enum Handle<'a> {
    Lent(BorrowedFd<'a>),
    Own(OwnedFd),
}

impl Handle<'_> {
    fn raw(&self) -> RawFd {
        match self {
            Self::Lent(fd) => fd.as_raw_fd(),
            Self::Own(fd) => fd.as_raw_fd(),
        }
    }
}

fn above_stdio(stdio: [BorrowedFd<'_>; 3]) -> io::Result<[Handle<'_>; 3]> {
    let lift = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).map(Handle::Own);
    let [a, b, c] =
        stdio.map(|fd| if fd.as_raw_fd() < 3 { lift(fd) } else { Ok(Handle::Lent(fd)) });
    Ok([a?, b?, c?])
}

/// Clones with all signals blocked: no handler of ours may run in the child, on our memory.
fn clone(
    shared: &mut Shared,
    hold: Hold,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Child, Failure> {
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK_WORDS);
    let mut pidfd: c_int = -1;
    let (all, mut before) = (u64::MAX, 0_u64);
    let shared: *mut Shared = shared;
    // SAFETY: both sets are 8 bytes, as the kernel's are on every 64-bit Linux.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const all, &raw mut before, 8)
    };
    let answer = match cgroup {
        // SAFETY: as below.
        #[cfg(target_arch = "x86_64")]
        Some(dir) => unsafe { clone_into(shared, &mut stack, &mut pidfd, hold, dir) },
        _ => {
            let pidfd_flag = if hold == Hold::PidFd { libc::CLONE_PIDFD } else { 0 };
            // SAFETY: the stack is ours alone and outlives the child's use of it, as does all that `shared` points to:
            // with CLONE_VFORK we go on only when the child runs its program or has ended. `child` keeps to plain system calls.
            unsafe {
                let top = stack.as_mut_ptr().add(STACK_WORDS).cast::<c_void>();
                let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
                let pid =
                    libc::clone(child, top, flags | pidfd_flag, shared.cast(), &raw mut pidfd);
                if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
            }
        }
    };
    // SAFETY: as above.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const before,
            ptr::null::<u64>(),
            8,
        )
    };
    let step = if cgroup.is_some() { Step::Cgroup } else { Step::Clone };
    let pid = answer.map_err(|err| Failure::new(step, &err))?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok(Child { pid, pidfd })
}

/// `struct clone_args` of linux/sched.h, its version 2.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `clone3(2)` with `CLONE_INTO_CGROUP`, for which libc has no wrapper that gives the child a stack.
///
/// # Safety
/// As for `clone(2)` with `CLONE_VM | CLONE_VFORK`: `shared` and `stack` are valid and used by nobody else.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_into(
    shared: *mut Shared,
    stack: &mut Vec<MaybeUninit<u128>>,
    pidfd: &mut c_int,
    hold: Hold,
    dir: BorrowedFd<'_>,
) -> io::Result<c_int> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let wide = |flag: c_int| u64::from(flag.cast_unsigned());
    let pidfd_flag = if hold == Hold::PidFd { wide(libc::CLONE_PIDFD) } else { 0 };
    let common = wide(libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES);
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP | common | pidfd_flag,
        pidfd: (&raw mut *pidfd) as u64,
        exit_signal: wide(libc::SIGCHLD),
        stack: stack.as_mut_ptr() as u64,
        stack_size: (STACK_WORDS * size_of::<u128>()) as u64,
        cgroup: wide(dir.as_raw_fd()),
        ..CloneArgs::default()
    };
    let entry: extern "C" fn(*mut c_void) -> c_int = child;
    let answer: i64;
    // SAFETY: the parent passes straight through; the child starts on `stack`, calls `child`, which never returns, and
    // touches no other register or memory of this frame. The kernel overwrites rax, rcx and r11 only.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => answer,
            in("rdi") &raw const args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") shared,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    match c_int::try_from(answer) {
        Ok(pid) if pid > 0 => Ok(pid),
        Ok(errno) => Err(io::Error::from_raw_os_error(-errno)),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EIO)),
    }
}
