//! The keeper: a small process that starts the instances, is their parent and keeps what must outlive the daemon.
//!
//! It decides nothing. The daemon is the brain and may come and go; the keeper holds the processes, their exit statuses,
//! the read ends of their output and a note on each. It has one thread, waits for events only, and never waits for the
//! daemon: whatever could not be told is state, and is told when the daemon asks again.

mod daemon;
mod runs;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    process::ExitCode,
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    net::{AddressFamily, SocketFlags},
    time::Timespec,
};

use crate::{
    clock,
    id::RunId,
    supervisor::{
        keeper::{daemon::Daemon, runs::Runs},
        limits::OpenFiles,
        sys,
        wire::{Buffer, Writer, kind},
    },
};

/// How long a keeper that was just started waits for its daemon.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an adopted process may be dead without anybody reaping it, before its end is told without its status.
/// Some containers have an init that reaps every few seconds.
const UNREAPED: Duration = Duration::from_secs(5);

/// What an event is about; an adopted run has its id with the highest bit set.
const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const DAEMON: u64 = 2;
const RUN_BIT: u64 = 1 << 63;

/// Runs a keeper on the listening socket that is its standard input, until nobody needs it.
///
/// For the program `kissops-keeper` only: it takes over all child processes, signals and standard input.
#[must_use]
pub fn run() -> ExitCode {
    match Keeper::start().and_then(|mut keeper| keeper.serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            complain(&format_args!("ended: {err}"));
            ExitCode::FAILURE
        }
    }
}

/// One line on standard error. It may be gone: then nobody wants to know.
fn complain(what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "kissops-keeper {}: {what}", std::process::id());
}

#[derive(Debug)]
struct Keeper {
    epoll: OwnedFd,
    listener: OwnedFd,
    signals: OwnedFd,
    daemon: Option<Daemon>,
    runs: Runs,
    /// Descriptors kept for the daemon as a whole, by name.
    store: BTreeMap<Vec<u8>, OwnedFd>,
    buffer: Buffer,
    started: Duration,
    /// A daemon has been here.
    used: bool,
    /// The daemon has asked for the end.
    ending: bool,
}

impl Keeper {
    fn start() -> io::Result<Self> {
        sys::orphan_self()?;
        // Never a terminal's, nor the group's that a signal may be sent to. Fails only for one that is a leader already.
        let _ = rustix::process::setsid();
        let _ = rustix::process::chdir(c"/");
        // First, so that they get the lowest numbers: see `Slots`.
        let slots = runs::Slots::open()?;
        let listener = sys::replace_stdin(slots.null())?;
        if rustix::net::sockopt::socket_domain(&listener)? != AddressFamily::UNIX {
            let what =
                "standard input must be a listening unix socket: kissopsd starts this program";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        rustix::io::ioctl_fionbio(&listener, true)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let signals = sys::child_signals()?;
        let nofile = Some(OpenFiles::raise().as_raw());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&epoll, &signals, EventData::new_u64(SIGNALS), EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            signals,
            daemon: None,
            runs: Runs::new(slots, nofile),
            store: BTreeMap::new(),
            buffer: Buffer::new(),
            started: clock::since_boot(),
            used: false,
            ending: false,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); 64];
        while !self.is_idle() {
            let timeout = self.timeout();
            let events = match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
                Ok((events, _)) => events,
                Err(rustix::io::Errno::INTR) => continue,
                Err(err) => return Err(err.into()),
            };
            for event in events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    SIGNALS => self.reap(),
                    DAEMON => self.talk(event.flags),
                    run => self.watch(RunId((run & !RUN_BIT).cast_signed()), event.flags),
                }
            }
            for (run, exited) in self.runs.give_up(UNREAPED) {
                self.tell_exit(run, &exited);
            }
            self.flush();
        }
        Ok(())
    }

    /// Nobody needs this process any more.
    fn is_idle(&self) -> bool {
        let waited = self.used || clock::since_boot() >= self.started + PATIENCE;
        self.runs.is_empty() && (self.ending || waited && self.daemon.is_none())
    }

    /// How long to sleep: for ever, but for a keeper that nobody has come to, and for dead processes that nobody reaps.
    fn timeout(&self) -> Option<Timespec> {
        let until = if !self.used && self.daemon.is_none() {
            Some(self.started + PATIENCE)
        } else {
            self.runs.oldest_unreaped().map(|since| since + UNREAPED)
        };
        let left = until?.saturating_sub(clock::since_boot()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    /// Takes the next daemon, unless the last one still lives.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
        let Ok(peer) = rustix::net::sockopt::socket_peercred(&socket) else { return };
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            complain(&format_args!("refused a connection of user {}", peer.uid.as_raw()));
            return;
        }
        if let Some(daemon) = &self.daemon {
            if daemon.is_alive() {
                let holder = format!("process {}", daemon.pid);
                let mut out = Writer::new(kind::REFUSED, 0);
                out.i32(libc::EBUSY);
                out.bytes(holder.as_bytes());
                let _ = crate::supervisor::wire::send(socket.as_fd(), &out.finish(), &[]);
                return;
            }
            self.leave();
        }
        let added = epoll::add(&self.epoll, &socket, EventData::new_u64(DAEMON), EventFlags::IN);
        if added.is_ok() {
            self.used = true;
            self.daemon = Some(Daemon::new(socket, peer.pid.as_raw_nonzero().get()));
        }
    }

    /// The daemon is gone. The epoll forgets its socket as it is closed.
    fn leave(&mut self) {
        self.daemon = None;
    }

    /// Reaps everybody that has ended, ours and those that were given to us.
    fn reap(&mut self) {
        // Signals of one kind are merged: what counts is what can be reaped.
        let mut info = [0_u8; 128 * 4];
        while rustix::io::read(&self.signals, &mut info).is_ok() {}
        while let Some(reaped) = sys::reap_any() {
            let pid = reaped.pid;
            let status = reaped.status;
            match self.runs.ended(&reaped) {
                Some((run, exited)) => self.tell_exit(run, &exited),
                None => self.tell_orphan(pid, status),
            }
        }
    }

    /// An adopted process has ended, or was reaped.
    fn watch(&mut self, run: RunId, flags: EventFlags) {
        if let Some(exited) = self.runs.adopted_ended(&self.epoll, run, flags) {
            self.tell_exit(run, &exited);
        }
    }
}
