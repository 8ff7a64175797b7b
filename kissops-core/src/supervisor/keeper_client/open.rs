//! Finding a keeper, starting one where there is none, and the greeting. Blocking: to be called off the runtime.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};

use super::KeeperOptions;
use crate::{
    Error, Result,
    supervisor::{
        plan,
        sys::{self, Hold, Program},
        wire::{self, Buffer, Writer, kind},
    },
};

/// The longest that finding, starting and greeting a keeper may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long another daemon may hold the keeper before we say so.
const HOLDER: Duration = Duration::from_millis(500);
/// Between two looks at a keeper that is about to end.
const PAUSE: Duration = Duration::from_millis(5);

/// Who answers.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) pid: i32,
    pub(super) version: String,
}

/// A greeted connection.
pub(super) fn open(options: &KeeperOptions) -> Result<(OwnedFd, Keeper)> {
    let (patience, deadline) = (Instant::now() + HOLDER, Instant::now() + LIMIT);
    let _lock = lock(&options.socket, deadline)?;
    loop {
        let socket = socket()?;
        let last = match connect(&socket, &options.socket) {
            Ok(()) => match greet(&socket, &options.socket) {
                Ok(Some(keeper)) => {
                    rustix::io::ioctl_fionbio(&socket, true)
                        .map_err(Error::io("set up the keeper's socket"))?;
                    return Ok((socket, keeper));
                }
                Ok(None) => io::Error::from(io::ErrorKind::ConnectionReset),
                // A daemon that was just killed may take a moment to be gone.
                Err(Error::Conflict { .. }) if Instant::now() < patience => {
                    io::Error::from(io::ErrorKind::AddrInUse)
                }
                Err(err) => return Err(err),
            },
            Err(err @ (Errno::NOENT | Errno::CONNREFUSED)) => {
                start(options)?;
                err.into()
            }
            Err(err) => {
                return Err(Error::io(format!("connect to {}", options.socket.display()))(err));
            }
        };
        if Instant::now() >= deadline {
            return Err(Error::unavailable(format!("the keeper at {}", options.socket.display()))(
                last,
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Only one daemon at a time looks for a keeper or starts one.
fn lock(socket: &Path, deadline: Instant) -> Result<File> {
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

fn socket() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(Error::io("make a socket"))
}

/// The socket's address. One that is too long for an address (107 bytes) goes by its folder's descriptor.
fn address(path: &Path) -> Result<(SocketAddrUnix, Option<OwnedFd>), Errno> {
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

fn connect(socket: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let (address, _dir) = address(path)?;
    rustix::net::connect(socket, &address)
}

/// `None` if the keeper ended before it answered.
fn greet(socket: &OwnedFd, path: &Path) -> Result<Option<Keeper>> {
    let name = format!("the keeper at {}", path.display());
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(LIMIT))
        .map_err(Error::io("set up the keeper's socket"))?;
    let (oldest, newest) = wire::PROTOCOLS;
    let mut out = Writer::new(kind::HELLO, 0);
    out.u32(oldest);
    out.u32(newest);
    out.i32(rustix::process::getpid().as_raw_nonzero().get());
    let mut buffer = Buffer::new();
    let received = wire::send(socket.as_fd(), &out.finish(), &[])
        .and_then(|()| wire::receive(socket.as_fd(), &mut buffer));
    let mut packet = match received {
        Ok(Some(packet)) => packet,
        Ok(None) => return Ok(None),
        Err(err)
            if matches!(err.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            return Ok(None);
        }
        Err(err) => return Err(Error::unavailable(name)(err)),
    };
    let damaged =
        || Error::Corrupt { what: name.clone(), detail: "an unknown greeting".to_owned() };
    match packet.kind {
        kind::WELCOME => {
            let read = (|| Some((packet.body.u32()?, packet.body.i32()?, packet.body.bytes()?)))();
            let (_, pid, version) = read.ok_or_else(damaged)?;
            Ok(Some(Keeper { pid, version: String::from_utf8_lossy(version).into_owned() }))
        }
        kind::REFUSED => {
            let errno = packet.body.i32();
            let text = packet.body.bytes().unwrap_or_default();
            let text = String::from_utf8_lossy(text).into_owned();
            Err(match errno {
                Some(libc::EBUSY) => Error::Conflict { what: name, holder: text },
                _ => Error::Denied {
                    what: format!("{name} refused: {text}"),
                    help: "run a daemon of its version, or stop its instances and end it"
                        .to_owned(),
                },
            })
        }
        _ => Err(damaged()),
    }
}

/// Starts a keeper that listens already: whoever connects from now on is answered.
fn start(options: &KeeperOptions) -> Result<()> {
    let path = &options.socket;
    let listener = socket()?;
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
    let program = CString::new(options.program.as_os_str().as_bytes())
        .map_err(|_| Error::invalid("keeper program", "must not hold a zero byte"))?;
    let started = sys::exec_child(
        &Program {
            candidates: vec![&program],
            argv: vec![c"kissops-keeper"],
            // Nothing of ours: the environment may hold secrets, and this process lives for long.
            env: Vec::new(),
            cwd: c"/",
            credentials: None,
            umask: None,
            rlimits: options
                .nofile
                .map(|limit| (libc::RLIMIT_NOFILE, limit.as_raw()))
                .into_iter()
                .collect(),
            cgroup: None,
            stdio: [listener.as_fd(), log.as_fd(), log.as_fd()],
        },
        Hold::PidFd,
    );
    let words = plan::Words::program(&options.program);
    let child = started.map_err(|failure| words.error(failure))?;
    // It forks itself away from us and ends; what is left is nobody's child, so that it never becomes our zombie.
    if let Some(pidfd) = child.pidfd {
        let ended = rustix::process::WaitIdOptions::EXITED;
        let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), ended);
    }
    Ok(())
}
