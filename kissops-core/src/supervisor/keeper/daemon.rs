//! The keeper's side of the conversation with the one daemon that it serves.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    net::RecvFlags,
};

use super::{DAEMON, Keeper, complain, runs::Refusal};
use crate::{
    id::RunId,
    supervisor::{
        ExitStatus, Exited, Signal, SignalTo,
        plan::Plan,
        wire::{self, Packet, Reader, Writer, kind},
    },
};

/// While so many packets wait to be sent, no further request is read.
const BACKLOG: usize = 256;
/// Most requests that are read in one turn, so that exits are not kept waiting.
const TURN: usize = 32;

/// A connected daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    socket: OwnedFd,
    pub(super) pid: i32,
    greeted: bool,
    waiting: VecDeque<Out>,
    interest: EventFlags,
}

/// What is still to be sent.
#[derive(Debug)]
enum Out {
    Packet(Vec<u8>, Option<OwnedFd>),
    /// Made when it is sent: so it tells of an end that came meanwhile, and holds no descriptors twice.
    Survivor(u32, RunId),
}

impl Daemon {
    pub(super) fn new(socket: OwnedFd, pid: i32) -> Self {
        Self { socket, pid, greeted: false, waiting: VecDeque::new(), interest: EventFlags::IN }
    }

    /// The other end was not closed.
    pub(super) fn is_alive(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let mut byte = [0_u8; 1];
        match rustix::net::recv(&self.socket, &mut byte, flags) {
            Ok((_, len)) => len > 0,
            Err(err) => err == rustix::io::Errno::AGAIN || err == rustix::io::Errno::INTR,
        }
    }

    fn push(&mut self, out: Out) {
        self.waiting.push_back(out);
    }
}

impl Keeper {
    pub(super) fn tell_exit(&mut self, run: RunId, exited: &Exited) {
        // An unheard exit is not lost: it stays with its run.
        self.tell(kind::EXIT, |out| {
            out.i64(run.0);
            out.exited(exited);
        });
    }

    pub(super) fn tell_orphan(&mut self, pid: i32, status: ExitStatus) {
        self.tell(kind::ORPHAN, |out| {
            out.i32(pid);
            out.exited(&Exited { status, at: crate::clock::since_boot(), usage: None });
        });
    }

    fn tell(&mut self, kind: u8, write: impl FnOnce(&mut Writer)) {
        if let Some(daemon) = self.daemon.as_mut().filter(|daemon| daemon.greeted) {
            let mut out = Writer::new(kind, 0);
            write(&mut out);
            daemon.push(Out::Packet(out.finish(), None));
        }
    }

    /// The daemon's socket is ready.
    pub(super) fn talk(&mut self, flags: EventFlags) {
        if flags.contains(EventFlags::IN) {
            self.hear();
        } else if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            self.leave();
        }
    }

    /// Sends what waits, as far as the socket takes it, and says what to be woken for.
    pub(super) fn flush(&mut self) {
        let Some(daemon) = self.daemon.as_mut() else { return };
        while let Some(out) = daemon.waiting.front() {
            let sent = match out {
                Out::Packet(packet, None) => wire::send(daemon.socket.as_fd(), packet, &[]),
                Out::Packet(packet, Some(fd)) => {
                    wire::send(daemon.socket.as_fd(), packet, &[fd.as_fd()])
                }
                Out::Survivor(number, id) => match self.runs.get(*id) {
                    None => Ok(()),
                    Some(run) => {
                        let mut out = Writer::new(kind::SURVIVOR, *number);
                        out.i64(id.0);
                        out.i32(run.pid);
                        out.bytes(&run.note);
                        out.u8(u8::from(run.exit.is_some()));
                        if let Some(exited) = &run.exit {
                            out.exited(exited);
                        }
                        let kept: Vec<_> = run.kept.iter().map(OwnedFd::as_fd).collect();
                        wire::send(daemon.socket.as_fd(), &out.finish(), &kept)
                    }
                },
            };
            match sent {
                Ok(()) => {
                    daemon.waiting.pop_front();
                }
                // Too many descriptors in flight (ETOOMANYREFS) passes too, as the daemon takes them.
                Err(err)
                    if err.kind() == ErrorKind::WouldBlock
                        || err.raw_os_error() == Some(libc::ETOOMANYREFS) =>
                {
                    break;
                }
                Err(err) => {
                    if !matches!(err.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
                        complain(&format_args!("cannot answer the daemon: {err}"));
                    }
                    return self.leave();
                }
            }
        }
        if daemon.waiting.is_empty() && daemon.waiting.capacity() > BACKLOG {
            daemon.waiting = VecDeque::new();
        }
        let interest = match daemon.waiting.len() {
            0 => EventFlags::IN,
            1..BACKLOG => EventFlags::IN | EventFlags::OUT,
            _ => EventFlags::OUT,
        };
        if interest != daemon.interest {
            daemon.interest = interest;
            let data = EventData::new_u64(DAEMON);
            if let Err(err) = epoll::modify(&self.epoll, &daemon.socket, data, interest) {
                complain(&format_args!("cannot wait for the daemon: {err}"));
                self.leave();
            }
        }
    }

    /// Reads and answers requests.
    fn hear(&mut self) {
        let mut buffer = std::mem::replace(&mut self.buffer, wire::Buffer::empty());
        for _ in 0..TURN {
            let Some(daemon) = self.daemon.as_ref().filter(|daemon| daemon.waiting.len() < BACKLOG)
            else {
                break;
            };
            match wire::receive(daemon.socket.as_fd(), &mut buffer) {
                Ok(Some(packet)) => self.answer(packet),
                Err(err) if err.kind() == ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == ErrorKind::InvalidData => {
                    complain(&format_args!("refused a request: {err}"));
                }
                Ok(None) | Err(_) => {
                    self.leave();
                    break;
                }
            }
            // The reply to a start is what somebody waits for: it goes before the next request is read.
            self.flush();
        }
        self.buffer = buffer;
    }

    fn answer(&mut self, packet: Packet<'_>) {
        let Packet { kind: asked, number, mut body, fds, cut } = packet;
        let greeted = self.daemon.as_ref().is_some_and(|daemon| daemon.greeted);
        let done = match asked {
            kind::HELLO => self.greet(number, &mut body),
            _ if !greeted => Err(Refusal::System(words("a request came before the greeting"))),
            // As at any other call that needs one more descriptor.
            _ if cut => Err(Refusal::System(io::Error::from_raw_os_error(libc::EMFILE))),
            kind::SURVIVORS => {
                let ids: Vec<RunId> = self.runs.ids().collect();
                if let Some(daemon) = &mut self.daemon {
                    daemon.waiting.extend(ids.into_iter().map(|id| Out::Survivor(number, id)));
                }
                Ok(Writer::new(kind::DONE, number))
            }
            kind::GET => match self.store.get(body.0).map(OwnedFd::try_clone) {
                Some(Ok(fd)) => {
                    if let Some(daemon) = &mut self.daemon {
                        let packet = Writer::new(kind::FOUND, number).finish();
                        daemon.push(Out::Packet(packet, Some(fd)));
                    }
                    return;
                }
                Some(Err(err)) => Err(Refusal::System(err)),
                None => Err(Refusal::NotThere),
            },
            _ => self.act(asked, number, &mut body, fds),
        };
        let out = done.unwrap_or_else(|refusal| refuse(number, &refusal));
        if let Some(daemon) = &mut self.daemon {
            daemon.push(Out::Packet(out.finish(), None));
        }
    }

    fn act(
        &mut self,
        asked: u8,
        number: u32,
        body: &mut Reader<'_>,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Writer, Refusal> {
        let damaged = || {
            complain(&format_args!("refused a damaged request of kind {asked}"));
            Refusal::System(words("the request is damaged, or of a newer version"))
        };
        match asked {
            kind::SPAWN => {
                let plan = Plan::decode(body).ok_or_else(damaged)?;
                let pid = self.runs.spawn(plan, fds)?;
                return Ok(started(number, pid));
            }
            kind::ADOPT => {
                let read = (|| Some((RunId(body.i64()?), body.i32()?, body.u64()?)))();
                let (who, note) = read.zip(body.bytes()).ok_or_else(damaged)?;
                let pid = self.runs.adopt(&self.epoll, who, note, fds)?;
                return Ok(started(number, pid));
            }
            kind::SIGNAL => {
                let read = (|| Some((RunId(body.i64()?), body.i32()?, body.u8()?)))();
                let (run, signal, to) = read.ok_or_else(damaged)?;
                let signal = Signal::new(signal).map_err(|_| damaged())?;
                let to = if to == 0 { SignalTo::Main } else { SignalTo::Group };
                self.runs.signal(run, signal, to)?;
            }
            kind::NOTE => {
                let read = (|| Some((RunId(body.i64()?), body.bytes()?)))();
                let (run, note) = read.ok_or_else(damaged)?;
                self.runs.note(run, note)?;
            }
            kind::FORGET => self.runs.forget(RunId(body.i64().ok_or_else(damaged)?))?,
            kind::PUT => {
                match fds.pop() {
                    Some(fd) => self.store.insert(body.0.to_vec(), fd),
                    None => self.store.remove(body.0),
                };
            }
            kind::END => self.ending = true,
            _ => return Err(damaged()),
        }
        Ok(Writer::new(kind::DONE, number))
    }

    /// Agrees on a protocol.
    fn greet(&mut self, number: u32, body: &mut Reader<'_>) -> Result<Writer, Refusal> {
        let (oldest, newest) = wire::PROTOCOLS;
        let asked = (|| Some((body.u32()?, body.u32()?, body.i32()?)))();
        let (from, to, pid) =
            asked.ok_or_else(|| Refusal::System(words("the greeting is damaged")))?;
        let common = newest.min(to);
        if common < oldest.max(from) {
            let what = format!(
                "this keeper speaks protocol {oldest} to {newest}, the daemon {from} to {to}"
            );
            return Err(Refusal::System(words(&what)));
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.greeted = true;
            daemon.pid = pid;
        }
        let mut out = Writer::new(kind::WELCOME, number);
        out.u32(common);
        out.i32(rustix::process::getpid().as_raw_nonzero().get());
        out.bytes(env!("CARGO_PKG_VERSION").as_bytes());
        Ok(out)
    }
}

fn started(number: u32, pid: i32) -> Writer {
    let mut out = Writer::new(kind::STARTED, number);
    out.i32(pid);
    out
}

fn words(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

fn refuse(number: u32, refusal: &Refusal) -> Writer {
    if let Refusal::Failed(failure) = refusal {
        let mut out = Writer::new(kind::FAILED, number);
        out.u8(failure.step as u8);
        out.i32(failure.errno);
        return out;
    }
    let mut out = Writer::new(kind::REFUSED, number);
    match refusal {
        Refusal::System(err) => {
            out.i32(err.raw_os_error().unwrap_or(libc::EBADMSG));
            out.bytes(err.to_string().as_bytes());
        }
        Refusal::NotThere | Refusal::Failed(_) => {
            out.i32(libc::ESRCH);
            out.bytes(b"");
        }
    }
    out
}
