//! The exchanger's own process: sends requests, keeps their answers until somebody has stored them, and goes on when its
//! daemon is killed.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::net::UnixListener as StdListener},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    VERSION,
    frame::{self, Ask, End, Number, Tell},
    spool::Spool,
};
use crate::{
    Error, Result,
    supervisor::companion,
    vault::{ExchangeJob, Exchanged, Exchanger, Ticket, cipher::KeyBytes},
};

/// How long one that was just started waits for its daemon.
const PATIENCE: Duration = Duration::from_secs(20);
/// A daemon that leaves so many messages unread counts as gone.
const STALLED: usize = 100_000;

/// Runs an exchanger on the listening socket that is its standard input, until nobody needs it. `exchanger` is made once
/// the process is on its own; `KISSOPS_EXCHANGER_SPOOL` names the folder for answers that nobody takes.
///
/// For the program `kissops-exchanger` only: it takes over the process.
#[must_use]
pub fn run(exchanger: fn() -> Result<Arc<dyn Exchanger>>) -> ExitCode {
    let served = (|| -> Result<()> {
        let folder = std::env::var_os("KISSOPS_EXCHANGER_SPOOL").map(PathBuf::from);
        let folder = folder.ok_or_else(|| {
            Error::invalid("KISSOPS_EXCHANGER_SPOOL", "must be set: kissopsd starts this program")
        })?;
        let listener = companion::adrift().map_err(Error::io("become a process of its own"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("start the runtime"))?;
        runtime.block_on(serve(listener, exchanger()?, Spool::new(folder)))
    })();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            complain(&err.chain());
            ExitCode::FAILURE
        }
    }
}

/// One line on standard error, which is a file beside the socket.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "kissops-exchanger {}: {what}", std::process::id());
}

/// What happens to this process.
enum Happening {
    Came(UnixStream),
    Asked(u64, Ask),
    /// The connection of that number is gone.
    Left(u64),
    Ended(Ticket, Exchanged),
}

/// An exchange that was asked for and is not stored yet.
enum Held {
    UnderWay,
    Ended(End),
}

struct Server {
    exchanger: Arc<dyn Exchanger>,
    spool: Spool,
    held: HashMap<Ticket, Held>,
    /// To whom to talk, by the number of the connection. There is one, but for a moment after a daemon's death.
    daemons: BTreeMap<u64, mpsc::Sender<Zeroizing<Vec<u8>>>>,
    /// Known from the first greeting on.
    key: Option<KeyBytes>,
    retired: bool,
    happenings: mpsc::UnboundedSender<Happening>,
    connections: u64,
}

pub(super) async fn serve(
    listener: OwnedFd,
    exchanger: Arc<dyn Exchanger>,
    spool: Spool,
) -> Result<()> {
    let listener = StdListener::from(listener);
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .map_err(Error::io("listen"))?;
    let (happenings, mut happened) = mpsc::unbounded_channel();
    let mut server = Server {
        exchanger,
        spool,
        held: HashMap::new(),
        daemons: BTreeMap::new(),
        key: None,
        retired: false,
        happenings,
        connections: 0,
    };
    let started = tokio::time::Instant::now();
    loop {
        let idle = server.is_idle();
        if idle && server.key.is_some() {
            return Ok(());
        }
        let next = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => Happening::Came(stream),
                Err(_) => continue,
            },
            Some(next) = happened.recv() => next,
            () = tokio::time::sleep_until(started + PATIENCE), if idle => return Ok(()),
        };
        server.take(next);
    }
}

impl Server {
    /// Nobody is there, and nothing is under way that somebody could come for.
    fn is_idle(&self) -> bool {
        let under_way = self.held.values().any(|held| matches!(held, Held::UnderWay));
        (self.daemons.is_empty() || self.retired) && !under_way
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Came(stream) => self.accept(stream),
            Happening::Asked(connection, ask) => self.answer(connection, ask),
            Happening::Left(connection) => self.leave(connection),
            Happening::Ended(ticket, exchanged) => self.ended(ticket, exchanged.into()),
        }
    }

    fn leave(&mut self, connection: u64) {
        self.daemons.remove(&connection);
        if self.daemons.is_empty() {
            self.keep_all();
        }
    }

    /// A daemon has come. One that was here before is about to be gone: there is one at a time for a folder.
    fn accept(&mut self, stream: UnixStream) {
        let ours = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw());
        if !ours {
            complain("refused a connection of another user");
            return;
        }
        self.connections += 1;
        let number = self.connections;
        let (reads, writes) = stream.into_split();
        let (send, queue) = mpsc::channel(STALLED);
        tokio::spawn(listen(number, reads, self.happenings.clone()));
        tokio::spawn(talk(writes, queue));
        self.daemons.insert(number, send);
        self.tell(number, &Tell::Welcome { version: VERSION.into(), pid: std::process::id() });
    }

    fn answer(&mut self, connection: u64, ask: Ask) {
        match ask {
            Ask::Hello { mut key, .. } => {
                let bytes = BASE64_STANDARD.decode(&key).map(Zeroizing::new);
                key.zeroize();
                let bytes = bytes.ok().and_then(|bytes| <[u8; 32]>::try_from(&bytes[..]).ok());
                if let Some(bytes) = bytes {
                    self.key = Some(Zeroizing::new(bytes));
                    if self.daemons.is_empty() {
                        self.keep_all();
                    }
                }
            }
            Ask::Exchange(job) => self.exchange(connection, job.open()),
            Ask::Recover { ticket } => match self.held.get(&ticket.into()) {
                // Told when it ends.
                Some(Held::UnderWay) => {}
                Some(Held::Ended(end)) => {
                    let end = end.clone();
                    self.tell(connection, &Tell::Ended { ticket, end });
                }
                None => self.tell(connection, &Tell::Unknown { ticket }),
            },
            Ask::Settled { ticket } => {
                self.held.remove(&ticket.into());
                self.spool.remove(ticket.into());
            }
            Ask::Retire => {
                self.retired = true;
                self.keep_all();
            }
        }
    }

    fn exchange(&mut self, connection: u64, job: ExchangeJob) {
        let ticket = job.ticket;
        // What is read of a daemon that is gone is not sent for it: its successor decides.
        if self.retired || !self.daemons.contains_key(&connection) {
            let end = End::NotSent { why: "the exchanger is about to end".into() };
            return self.tell(connection, &Tell::Ended { ticket: ticket.into(), end });
        }
        match self.held.get(&ticket) {
            // Nothing is sent twice.
            Some(Held::UnderWay) => return,
            Some(Held::Ended(end)) => {
                let end = end.clone();
                return self.tell(connection, &Tell::Ended { ticket: ticket.into(), end });
            }
            None => {}
        }
        self.held.insert(ticket, Held::UnderWay);
        let (exchanger, happenings) = (Arc::clone(&self.exchanger), self.happenings.clone());
        tokio::spawn(async move {
            let ended = exchanger.exchange(job).await;
            let _ = happenings.send(Happening::Ended(ticket, ended));
        });
    }

    /// Whoever is there is told: one who does not wait for it passes over it.
    fn ended(&mut self, ticket: Ticket, end: End) {
        for connection in self.daemons.keys().copied().collect::<Vec<_>>() {
            self.tell(connection, &Tell::Ended { ticket: Number::from(ticket), end: end.clone() });
        }
        if self.daemons.is_empty() || self.retired {
            self.keep(ticket, &end);
        }
        self.held.insert(ticket, Held::Ended(end));
    }

    /// Nobody may come any more: what is there goes to the disk.
    fn keep_all(&self) {
        for (ticket, held) in &self.held {
            if let Held::Ended(end) = held {
                self.keep(*ticket, end);
            }
        }
    }

    fn keep(&self, ticket: Ticket, end: &End) {
        let Some(key) = &self.key else { return };
        if let Err(err) = self.spool.keep(ticket, end, key) {
            complain(&err.chain());
        }
    }

    fn tell(&mut self, connection: u64, what: &Tell) {
        let told = self.daemons.get(&connection).map(|send| send.try_send(frame::encode(what)));
        if let Some(Err(_)) = told {
            // It does not read: it is as good as gone, and asks again if it is not.
            self.leave(connection);
        }
    }
}

/// Reads what a daemon asks, until it is gone.
async fn listen(
    number: u64,
    mut reads: OwnedReadHalf,
    happenings: mpsc::UnboundedSender<Happening>,
) {
    while let Ok(Some(ask)) = frame::receive(&mut reads).await {
        if happenings.send(Happening::Asked(number, ask)).is_err() {
            return;
        }
    }
    let _ = happenings.send(Happening::Left(number));
}

/// Writes what a daemon is told, until it is gone.
async fn talk(mut writes: OwnedWriteHalf, mut queue: mpsc::Receiver<Zeroizing<Vec<u8>>>) {
    while let Some(bytes) = queue.recv().await {
        if frame::send(&mut writes, &bytes).await.is_err() {
            return;
        }
    }
}
