//! One connection to a keeper: requests go out at once, a task hands out what comes in.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::{self, ErrorKind},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, broadcast, oneshot, watch},
};
use tokio_util::task::AbortOnDropHandle;

use super::{ExitGuard, OrphanExit, open::Keeper};
use crate::{
    Error, Result,
    id::RunId,
    supervisor::{
        Exited, Started, Survivor, sys,
        wire::{self, Buffer, Packet, Writer, kind},
    },
};

/// Most packets that are taken in one turn before others of the runtime get theirs.
const TURN: usize = 64;

/// An answer.
#[derive(Debug)]
pub(super) enum Reply {
    Done(Vec<Survivor>),
    Started(i32),
    Failed { step: u8, errno: i32 },
    Refused { errno: i32, text: String },
    Found(OwnedFd),
}

/// A connection, which ends with its last handle.
#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    _reader: AbortOnDropHandle<()>,
}

impl std::ops::Deref for Connection {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What the calls and the task that reads have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) keeper: Keeper,
    socket: AsyncFd<OwnedFd>,
    state: Mutex<State>,
    /// Something waits for the socket to take it.
    full: Notify,
    lost: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    last: u32,
    pending: HashMap<u32, Pending>,
    exits: HashMap<RunId, oneshot::Sender<Exited>>,
    /// Runs whose owner has their [`Started`]: they are nobody's survivors.
    known: HashSet<RunId>,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

#[derive(Debug)]
struct Pending {
    reply: oneshot::Sender<Reply>,
    survivors: Vec<Survivor>,
}

impl Connection {
    pub(super) fn start(
        socket: OwnedFd,
        keeper: Keeper,
        orphans: broadcast::Sender<OrphanExit>,
    ) -> Result<Arc<Self>> {
        let socket = sys::watched(socket, Interest::READABLE | Interest::WRITABLE)
            .map_err(Error::io("watch the keeper's socket"))?;
        let shared = Arc::new(Shared {
            keeper,
            socket,
            state: Mutex::default(),
            full: Notify::new(),
            lost: watch::Sender::new(false),
        });
        let reading = Arc::clone(&shared);
        let reader = tokio::spawn(async move {
            let mut buffer = Buffer::new();
            loop {
                if let Err(err) = reading.turn(&mut buffer, &orphans).await {
                    return reading.fail(&err);
                }
            }
        });
        Ok(Arc::new(Self { shared, _reader: AbortOnDropHandle::new(reader) }))
    }

    /// Gets ready for the exit of a run that is about to be started.
    pub(super) fn expect_exit(self: &Arc<Self>, run: RunId) -> Result<ExitGuard> {
        let (sender, exit) = oneshot::channel();
        let mut state = self.state();
        if !state.known.insert(run) {
            let holder = "a process that was started before".to_owned();
            return Err(Error::Conflict { what: format!("run {}", run.0), holder });
        }
        state.exits.insert(run, sender);
        drop(state);
        Ok(ExitGuard { connection: Arc::clone(self), run, exit: Some(exit) })
    }
}

/// An answer that is on its way.
#[derive(Debug)]
pub(super) struct Answer(oneshot::Receiver<Reply>);

impl Answer {
    pub(super) async fn reply(self) -> Result<Reply> {
        self.0.await.map_err(|_| gone())
    }
}

impl Shared {
    pub(super) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    pub(super) async fn lost(&self) {
        // The sender lives as long as `self`.
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request, before it returns if the socket takes it.
    pub(super) fn call(
        &self,
        kind: u8,
        fds: &[BorrowedFd<'_>],
        write: impl FnOnce(&mut Writer) -> Result<()>,
    ) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.state();
        if self.is_lost() {
            return Err(gone());
        }
        state.last = state.last.wrapping_add(1).max(1);
        let number = state.last;
        let mut out = Writer::new(kind, number);
        write(&mut out)?;
        let packet = out.finish();
        let sent = if state.waiting.is_empty() {
            wire::send(self.socket.get_ref().as_fd(), &packet, fds)
        } else {
            Err(io::Error::from(ErrorKind::WouldBlock))
        };
        match sent {
            Ok(()) => {}
            Err(err) if is_full(&err) => {
                let fds: io::Result<Vec<OwnedFd>> =
                    fds.iter().map(BorrowedFd::try_clone_to_owned).collect();
                let fds = fds.map_err(Error::io("keep descriptors for the keeper"))?;
                state.waiting.push_back((packet, fds));
                self.full.notify_one();
            }
            Err(err) => return Err(Error::unavailable("the keeper")(err)),
        }
        state.pending.insert(number, Pending { reply, survivors: Vec::new() });
        Ok(Answer(answer))
    }

    pub(super) fn forgotten(&self, run: RunId) {
        let mut state = self.state();
        state.known.remove(&run);
        state.exits.remove(&run);
    }

    /// Waits for the socket, then takes what is there and sends what waits.
    async fn turn(
        &self,
        buffer: &mut Buffer,
        orphans: &broadcast::Sender<OrphanExit>,
    ) -> io::Result<()> {
        let waiting = !self.state().waiting.is_empty();
        let mut ready = tokio::select! {
            ready = self.socket.readable() => ready?,
            ready = self.socket.writable(), if waiting => ready?,
            () = self.full.notified(), if !waiting => return Ok(()),
        };
        if ready.ready().is_writable() && waiting {
            self.send_waiting(&mut ready)?;
        }
        if !ready.ready().is_readable() {
            return Ok(());
        }
        for _ in 0..TURN {
            match wire::receive(self.socket.get_ref().as_fd(), buffer) {
                Ok(Some(packet)) if packet.cut => {
                    tracing::error!(
                        "no file descriptor is left for what the keeper holds: raise the limit (ulimit -n, LimitNOFILE=)"
                    );
                    return Err(rustix::io::Errno::MFILE.into());
                }
                Ok(Some(packet)) => self.take(packet, orphans),
                Ok(None) => return Err(io::Error::from(ErrorKind::ConnectionReset)),
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    ready.clear_ready_matching(tokio::io::Ready::READABLE);
                    break;
                }
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn send_waiting(
        &self,
        ready: &mut tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd>,
    ) -> io::Result<()> {
        let mut state = self.state();
        while let Some((packet, fds)) = state.waiting.front() {
            let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
            match wire::send(self.socket.get_ref().as_fd(), packet, &fds) {
                Ok(()) => {
                    state.waiting.pop_front();
                }
                Err(err) if is_full(&err) => {
                    ready.clear_ready_matching(tokio::io::Ready::WRITABLE);
                    break;
                }
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn take(&self, packet: Packet<'_>, orphans: &broadcast::Sender<OrphanExit>) {
        let Packet { kind, number, mut body, mut fds, cut: _ } = packet;
        let understood = match kind {
            kind::EXIT => (|| Some((RunId(body.i64()?), body.exited()?)))().map(|(run, exited)| {
                if let Some(exit) = self.state().exits.remove(&run) {
                    // Nobody may wait for it any more.
                    let _ = exit.send(exited);
                }
            }),
            kind::ORPHAN => (|| Some((body.i32()?, body.exited()?)))().map(|(pid, exited)| {
                let _ = orphans.send(OrphanExit { pid, status: exited.status });
            }),
            kind::SURVIVOR => self.survivor(number, &mut body, fds),
            kind::DONE => self.reply(number, Reply::Done(Vec::new())),
            kind::STARTED => body.i32().and_then(|pid| self.reply(number, Reply::Started(pid))),
            kind::FAILED => (|| Some((body.u8()?, body.i32()?)))()
                .and_then(|(step, errno)| self.reply(number, Reply::Failed { step, errno })),
            kind::REFUSED => (|| Some((body.i32()?, body.bytes()?)))().and_then(|(errno, text)| {
                let text = String::from_utf8_lossy(text).into_owned();
                self.reply(number, Reply::Refused { errno, text })
            }),
            kind::FOUND => fds.pop().and_then(|fd| self.reply(number, Reply::Found(fd))),
            _ => None,
        };
        if understood.is_none() {
            tracing::warn!(kind, "the keeper sent what is not understood; it was ignored");
        }
    }

    fn reply(&self, number: u32, reply: Reply) -> Option<()> {
        let pending = self.state().pending.remove(&number)?;
        let reply = match reply {
            Reply::Done(_) => Reply::Done(pending.survivors),
            other => other,
        };
        // The caller may have gone.
        let _ = pending.reply.send(reply);
        Some(())
    }

    fn survivor(&self, number: u32, body: &mut wire::Reader<'_>, kept: Vec<OwnedFd>) -> Option<()> {
        let (run, pid) = (RunId(body.i64()?), body.i32()?);
        let note = body.bytes()?.to_vec();
        let exited = if body.u8()? == 0 { None } else { Some(body.exited()?) };
        let mut state = self.state();
        if state.known.contains(&run) {
            return Some(());
        }
        let (sender, exit) = oneshot::channel();
        let pending = state.pending.get_mut(&number)?;
        pending.survivors.push(Survivor { run, started: Started { pid, exit }, note, kept });
        state.known.insert(run);
        match exited {
            Some(exited) => drop(sender.send(exited)),
            None => drop(state.exits.insert(run, sender)),
        }
        Some(())
    }

    /// Everything that waits gets to know that it waits in vain.
    fn fail(&self, err: &io::Error) {
        let mut state = self.state();
        self.lost.send_replace(true);
        *state = State::default();
        drop(state);
        // Who needs it is told by [`lost`](Self::lost); one that was asked to end is no news.
        tracing::debug!(error = %err, keeper = self.keeper.pid, "the keeper is gone");
    }
}

/// The socket's buffer is full, or as many descriptors are on their way as may be: both pass.
fn is_full(err: &io::Error) -> bool {
    err.kind() == ErrorKind::WouldBlock || err.raw_os_error() == Some(libc::ETOOMANYREFS)
}

fn gone() -> Error {
    Error::unavailable("the keeper")("it has ended, or closed the connection")
}
