//! What a new process does on our memory until its program runs: plain system calls, and nothing that may lock or allocate.

use std::{
    ffi::{c_char, c_int, c_long, c_void},
    mem::MaybeUninit,
    os::fd::RawFd,
    ptr,
};

use super::{Failure, Step};
use crate::supervisor::Credentials;

/// What the child reads, and where it says what went wrong.
pub(super) struct Shared {
    pub(super) candidates: *const *const c_char,
    pub(super) argv: *const *const c_char,
    pub(super) env: *const *const c_char,
    pub(super) cwd: *const c_char,
    pub(super) credentials: *const Credentials,
    pub(super) umask: Option<u32>,
    pub(super) rlimits: *const (u32, libc::rlimit64),
    pub(super) rlimits_len: usize,
    /// `cgroup.procs`, where the kernel did not place the child itself.
    pub(super) procs: RawFd,
    pub(super) stdio: [RawFd; 3],
    pub(super) failure: Option<Failure>,
}

/// The child until its program runs: on our memory, with plain system calls only.
pub(super) extern "C" fn child(shared: *mut c_void) -> c_int {
    let shared = shared.cast::<Shared>();
    // SAFETY: `exec_child` passes its `Shared` and sleeps until we are done with it.
    unsafe {
        let failure = become_program(&*shared);
        (*shared).failure = Some(failure);
        libc::syscall(libc::SYS_exit_group, 127);
    }
    127
}

/// Does all steps in turn; returns only if one failed.
///
/// # Safety
/// To be called in a fresh child that shares our memory; all pointers of `shared` are valid.
unsafe fn become_program(shared: &Shared) -> Failure {
    let fail = |step, errno| Failure { step, errno };
    // SAFETY: plain system calls with valid pointers, which the caller vouches for; none touches memory but its arguments.
    unsafe {
        let top = shared.stdio.iter().copied().fold(shared.procs, RawFd::max) + 1;
        // Until now our descriptor table was shared; this copies no more of it than we need.
        if close_from(top, libc::CLOSE_RANGE_UNSHARE).is_err()
            && let Err(errno) = call(libc::syscall(libc::SYS_unshare, libc::CLONE_FILES))
        {
            return fail(Step::Stdio, errno);
        }
        if shared.procs >= 0 {
            let text = c"0";
            if let Err(errno) = call(libc::syscall(libc::SYS_write, shared.procs, text.as_ptr(), 1))
            {
                return fail(Step::Cgroup, errno);
            }
        }
        default_signals();
        if let Err(errno) = call(libc::syscall(libc::SYS_setsid)) {
            return fail(Step::Session, errno);
        }
        if let Some(mask) = shared.umask {
            libc::syscall(libc::SYS_umask, mask & 0o777);
        }
        for i in 0..shared.rlimits_len {
            let (resource, limit) = &*shared.rlimits.add(i);
            let none = ptr::null::<libc::rlimit64>();
            if let Err(errno) =
                call(libc::syscall(libc::SYS_prlimit64, 0, *resource, ptr::from_ref(limit), none))
            {
                return fail(Step::Limit, errno);
            }
        }
        if let Some(wanted) = shared.credentials.as_ref()
            && let Err(errno) = become_user(wanted)
        {
            return fail(Step::User, errno);
        }
        if let Err(errno) = call(libc::syscall(libc::SYS_chdir, shared.cwd)) {
            return fail(Step::Directory, errno);
        }
        for (source, target) in shared.stdio.iter().zip(0..3) {
            if let Err(errno) = call(libc::syscall(libc::SYS_dup3, *source, target, 0)) {
                return fail(Step::Stdio, errno);
            }
        }
        if close_from(3, 0).is_err() {
            let mut limit = MaybeUninit::<libc::rlimit64>::zeroed().assume_init();
            libc::syscall(
                libc::SYS_prlimit64,
                0,
                libc::RLIMIT_NOFILE,
                ptr::null::<u8>(),
                &raw mut limit,
            );
            for fd in 3..limit.rlim_max.min(1 << 20) {
                libc::syscall(libc::SYS_close, fd);
            }
        }
        fail(Step::Program, run(shared))
    }
}

/// Runs the first candidate that can be run. Returns why none could: a file that was there counts for more than none.
///
/// # Safety
/// The lists of `shared` end with a null.
unsafe fn run(shared: &Shared) -> c_int {
    let mut reason = libc::ENOENT;
    let mut next = shared.candidates;
    // SAFETY: the lists end with a null, which is not passed.
    unsafe {
        while !(*next).is_null() {
            match call(libc::syscall(libc::SYS_execve, *next, shared.argv, shared.env)) {
                Ok(()) | Err(libc::ENOENT | libc::ENOTDIR) => {}
                Err(libc::EACCES) => reason = libc::EACCES,
                Err(errno) => return errno,
            }
            next = next.add(1);
        }
    }
    reason
}

/// Raw calls, for libc's wrappers change every thread of the process by signalling it.
///
/// # Safety
/// Only in a child of its own thread group.
unsafe fn become_user(wanted: &Credentials) -> Result<(), c_int> {
    let Credentials { uid, gid, groups } = wanted;
    // SAFETY: the pointer and the length belong to one slice.
    unsafe {
        call(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        call(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid))?;
        call(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid))
    }
}

/// Ignored signals stay ignored over an exec and blocked ones blocked: undo both.
///
/// # Safety
/// Only in a child that has a table of handlers of its own.
unsafe fn default_signals() {
    // `struct sigaction` as the kernel has it, with `SIG_DFL`.
    let default = [0_u64; 4];
    let none = 0_u64;
    // SAFETY: the kernel reads at most 32 bytes of `default` and 8 of `none`.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null::<u64>(), 8);
        }
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null::<u64>(),
            8,
        );
    }
}

/// # Safety
/// Closes descriptors that others may own: only on a table that nobody shares, or with `CLOSE_RANGE_UNSHARE`.
unsafe fn close_from(first: RawFd, flags: libc::c_uint) -> Result<(), c_int> {
    // SAFETY: no memory is involved.
    call(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) })
}

fn call(answer: c_long) -> Result<(), c_int> {
    // SAFETY: errno is a plain integer of this thread.
    if answer < 0 { Err(unsafe { *libc::__errno_location() }) } else { Ok(()) }
}
