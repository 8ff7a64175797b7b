//! Finding a keeper, starting one where there is none, and the greeting. Blocking: to be called off the runtime.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{SocketType, sockopt},
};

use super::KeeperOptions;
use crate::{
    Error, Result,
    supervisor::{
        companion::{self, Companion},
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
    let _lock = companion::lock(&options.socket, deadline)?;
    loop {
        let socket = companion::socket(SocketType::SEQPACKET)?;
        let last = match companion::connect(&socket, &options.socket) {
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

fn start(options: &KeeperOptions) -> Result<()> {
    let companion = Companion {
        socket: &options.socket,
        kind: SocketType::SEQPACKET,
        program: &options.program,
        name: c"kissops-keeper",
        env: Vec::new(),
        nofile: options.nofile,
    };
    companion.start()
}
