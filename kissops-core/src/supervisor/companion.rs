//! Programs of ours that outlive this process: each starts as nobody's child, with a listening socket as its standard
//! input. Blocking: to be called off the runtime.

use std::{
    ffi::{CStr, CString},
    fs::{File, OpenOptions},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use super::{
    limits::OpenFiles,
    plan,
    sys::{self, Hold, Program},
};
use crate::{Error, Result};

/// Between two looks at a lock.
const PAUSE: Duration = Duration::from_millis(5);

/// What is started, and where it listens.
pub(crate) struct Companion<'a> {
    /// Its socket, in a folder that only its user may enter. Beside it lie a lock and a log, `.lock` and `.log`.
    pub(crate) socket: &'a Path,
    /// The socket's type.
    pub(crate) kind: SocketType,
    /// The program. It calls [`adrift`] first.
    pub(crate) program: &'a Path,
    /// What it is called in a list of processes.
    pub(crate) name: &'static CStr,
    /// All of its environment: it lives for long, so nothing of ours that may hold secrets.
    pub(crate) env: Vec<CString>,
    /// What it may open; `None`: as much as this process.
    pub(crate) nofile: Option<OpenFiles>,
}

impl Companion<'_> {
    /// Starts it. It listens already: whoever connects from now on is answered.
    pub(crate) fn start(&self) -> Result<()> {
        let path = self.socket;
        let listener = socket(self.kind)?;
        let bound = rustix::fs::unlink(path)
            .or_else(|err| if err == Errno::NOENT { Ok(()) } else { Err(err) })
            // The socket's file gets its mode from the socket, so there is no moment at which it is open to others.
            .and_then(|()| rustix::fs::fchmod(&listener, Mode::RUSR | Mode::WUSR))
            .and_then(|()| address(path))
            .and_then(|(address, _dir)| rustix::net::bind(&listener, &address))
            .and_then(|()| rustix::net::listen(&listener, 16));
        bound.map_err(Error::io(format!("listen at {}", path.display())))?;
        let log_path = path.with_extension("log");
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(Error::io(format!("open {}", log_path.display())))?;
        let program = CString::new(self.program.as_os_str().as_bytes()).map_err(|_| {
            Error::invalid(self.program.display().to_string(), "must not hold a zero byte")
        })?;
        let started = sys::exec_child(
            &Program {
                candidates: vec![&program],
                argv: vec![self.name],
                env: self.env.iter().map(CString::as_c_str).collect(),
                cwd: c"/",
                credentials: None,
                umask: None,
                rlimits: self
                    .nofile
                    .map(|limit| (libc::RLIMIT_NOFILE, limit.as_raw()))
                    .into_iter()
                    .collect(),
                cgroup: None,
                stdio: [listener.as_fd(), log.as_fd(), log.as_fd()],
            },
            Hold::PidFd,
        );
        let words = plan::Words::program(self.program);
        let child = started.map_err(|failure| words.error(failure))?;
        // It forks itself away from us and ends; what is left is nobody's child, so that it never becomes our zombie.
        if let Some(pidfd) = child.pidfd {
            let ended = rustix::process::WaitIdOptions::EXITED;
            let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), ended);
        }
        Ok(())
    }
}

/// Only one at a time looks for a companion at `socket` or starts one.
pub(crate) fn lock(socket: &Path, deadline: Instant) -> Result<File> {
    let path = socket.with_extension("lock");
    let what = || format!("lock {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(Error::io(what()))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(err) => return Err(Error::io(what())(err)),
        }
    }
}

/// A unix socket that children do not inherit.
pub(crate) fn socket(kind: SocketType) -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .map_err(Error::io("make a socket"))
}

/// The socket's address. One that is too long for an address (107 bytes) goes by its folder's descriptor.
pub(crate) fn address(path: &Path) -> Result<(SocketAddrUnix, Option<OwnedFd>), Errno> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return Ok((address, None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NAMETOOLONG);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(folder, flags, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&dir);
    let short = Path::new("/proc/self/fd").join(number.to_string()).join(name);
    Ok((SocketAddrUnix::new(short)?, Some(dir)))
}

/// Connects to whoever listens at `path`.
pub(crate) fn connect(socket: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let (address, _dir) = address(path)?;
    rustix::net::connect(socket, &address)
}

/// What a companion does first, while it has one thread: leaves the starter's children, session and folder, and takes
/// the listening socket from its standard input.
pub(crate) fn adrift() -> std::io::Result<OwnedFd> {
    sys::orphan_self()?;
    // Never a terminal's, nor the group's that a signal may be sent to. Fails only for one that is a leader already.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir(c"/");
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let listener = sys::replace_stdin(null.as_fd())?;
    if rustix::net::sockopt::socket_domain(&listener)? != AddressFamily::UNIX {
        let what = "standard input must be a listening unix socket: kissopsd starts this program";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, what));
    }
    Ok(listener)
}
