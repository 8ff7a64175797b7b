//! [`DetachedExchanger`]: requests go out from a process of their own, so that an answer is there for the next daemon
//! when this one is killed between a request and its answer (VLT-10).
//!
//! The process keeps every answer until it is told that it was stored. Without a daemon it seals what it has into files
//! and ends.

mod frame;
mod serve;
mod spool;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    ffi::CString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustix::{io::Errno, net::SocketType};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
};
use zeroize::Zeroizing;

use frame::{Ask, End, Job, Number, Tell};
use spool::Spool;

use super::{
    ExchangeJob, Exchanged, Exchanger, Keyring, Ticket, cipher::KeyBytes, exchange::within,
};
use crate::{
    Error, Result,
    supervisor::companion::{self, Companion},
};

pub use serve::run;

/// Both sides must be of one version.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The longest that starting and greeting it may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long after an exchange's own limit its answer is still waited for.
const SLACK: Duration = Duration::from_secs(5);
/// After a failure to start it, requests go out from here for so long.
const REST: Duration = Duration::from_secs(10);
/// Between two tries to reach one that ends just then.
const PAUSE: Duration = Duration::from_millis(5);
/// Variables that say whose certificates are trusted.
const TRUST: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Where an exchanger is found, and how one is started.
#[derive(Clone, Debug)]
pub struct DetachedOptions {
    /// Its socket, in a folder that only its user may enter. Beside it lie a lock, a log, and the folder with answers that
    /// nobody has taken yet.
    pub socket: PathBuf,
    /// The program `kissops-exchanger`. `None`: none is started, requests go out from here; what one has kept is found.
    pub program: Option<PathBuf>,
}

/// Sends through a process that outlives this one.
///
/// Where it cannot be had, requests go out from here, and a killed daemon may then lose an answer.
#[derive(Debug)]
pub struct DetachedExchanger {
    options: DetachedOptions,
    spool: Spool,
    direct: Arc<dyn Exchanger>,
    key: OnceLock<KeyBytes>,
    line: tokio::sync::Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    line: Option<Arc<Line>>,
    /// Not before this moment is another one started.
    rest_until: Option<Instant>,
}

/// Who waits for what.
type Waiting = HashMap<Ticket, Vec<oneshot::Sender<Option<End>>>>;

/// A greeted connection.
#[derive(Debug)]
struct Line {
    send: mpsc::UnboundedSender<Zeroizing<Vec<u8>>>,
    /// Who waits for what; `None` once the other side is gone.
    waiting: Mutex<Option<Waiting>>,
}

impl DetachedExchanger {
    /// Nothing is started before there is something to send. `direct` sends where that cannot be done.
    #[must_use]
    pub fn new(options: DetachedOptions, direct: Arc<dyn Exchanger>) -> Self {
        let spool = Spool::new(options.socket.with_extension("answers"));
        Self { options, spool, direct, key: OnceLock::new(), line: tokio::sync::Mutex::default() }
    }

    /// Gives it what seals answers on the disk: derived from what no rotation changes, so that the next life opens what
    /// this one leaves. Without it answers are kept in memory alone.
    pub fn unlock(&self, keyring: &Keyring) {
        // A second key would be the same.
        let _ = self.key.set(keyring.key_of_answers());
    }

    /// The connection there is, or a new one, to one that is started where there is none.
    async fn line(&self) -> Option<Arc<Line>> {
        self.options.program.as_ref()?;
        let mut current = self.line.lock().await;
        if let Some(line) = current.line.as_ref().filter(|line| !line.is_lost()) {
            return Some(Arc::clone(line));
        }
        current.line = None;
        if current.rest_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        match self.open(Start::IfNeeded).await {
            Ok(line) => {
                current.rest_until = None;
                current.line.clone_from(&line);
                line
            }
            Err(error) => {
                tracing::warn!(
                    error = %error.chain(),
                    "no exchanger: tokens are refreshed from this process, which may lose one if it is killed"
                );
                current.rest_until = Some(Instant::now() + REST);
                None
            }
        }
    }

    /// As [`line`](Self::line), but nothing is started.
    async fn existing(&self) -> Result<Option<Arc<Line>>> {
        let mut current = self.line.lock().await;
        if let Some(line) = current.line.as_ref().filter(|line| !line.is_lost()) {
            return Ok(Some(Arc::clone(line)));
        }
        current.line = self.open(Start::Never).await?;
        Ok(current.line.clone())
    }

    /// `None`: there is none, or one of another version, which ends as soon as it has nothing under way.
    async fn open(&self, start: Start) -> Result<Option<Arc<Line>>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.open_once(start).await {
                // It was about to end, having nobody: the next one is found or started.
                Err(Error::Unavailable { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    async fn open_once(&self, start: Start) -> Result<Option<Arc<Line>>> {
        let (options, spool) = (self.options.clone(), self.spool.folder().to_owned());
        let connected = move || connect(&options, &spool, start);
        let connected = tokio::task::spawn_blocking(connected).await;
        let Some(stream) = connected.map_err(|_| Error::Closed { what: "the runtime" })?? else {
            return Ok(None);
        };
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream))
            .map_err(Error::io("set up the exchanger's socket"))?;
        tokio::time::timeout(LIMIT, self.greet(stream)).await.map_err(|_| Error::Timeout {
            what: "the greeting of the exchanger".into(),
            limit: LIMIT,
        })?
    }

    async fn greet(&self, mut stream: UnixStream) -> Result<Option<Arc<Line>>> {
        let key = self.key.get().map(|key| BASE64_STANDARD.encode(&key[..]));
        let hello = Ask::Hello { version: VERSION.into(), key: key.unwrap_or_default() };
        frame::send(&mut stream, &frame::encode(&hello)).await?;
        match frame::receive(&mut stream).await? {
            Some(Tell::Welcome { version, .. }) if version == VERSION => {
                Ok(Some(Line::start(stream)))
            }
            Some(Tell::Welcome { .. }) => {
                frame::send(&mut stream, &frame::encode(&Ask::Retire)).await?;
                Ok(None)
            }
            _ => Err(Error::Unavailable {
                what: "the exchanger".into(),
                source: "it closed the connection before it answered".into(),
            }),
        }
    }
}

/// Whether one is started.
#[derive(Clone, Copy)]
enum Start {
    IfNeeded,
    Never,
}

/// Blocking: locks, and starts a program.
fn connect(
    options: &DetachedOptions,
    spool: &Path,
    start: Start,
) -> Result<Option<std::os::unix::net::UnixStream>> {
    let deadline = Instant::now() + LIMIT;
    let _lock = companion::lock(&options.socket, deadline)?;
    let mut started = false;
    loop {
        let socket = companion::socket(SocketType::STREAM)?;
        match companion::connect(&socket, &options.socket) {
            Ok(()) => return Ok(Some(socket.into())),
            Err(Errno::NOENT | Errno::CONNREFUSED) if !started => {
                let (Start::IfNeeded, Some(program)) = (start, &options.program) else {
                    return Ok(None);
                };
                let mut spool_is = b"KISSOPS_EXCHANGER_SPOOL=".to_vec();
                spool_is.extend(spool.as_os_str().as_bytes());
                let trust = TRUST.iter().filter_map(|name| {
                    let value = std::env::var_os(name)?;
                    Some([name.as_bytes(), b"=", &value.into_vec()].concat())
                });
                let env = trust.chain([spool_is]).filter_map(|one| CString::new(one).ok());
                let companion = Companion {
                    socket: &options.socket,
                    kind: SocketType::STREAM,
                    program,
                    name: c"kissops-exchanger",
                    env: env.collect(),
                    nofile: None,
                };
                companion.start()?;
                started = true;
            }
            Err(err) => {
                let what = format!("connect to {}", options.socket.display());
                return Err(Error::io(what)(err));
            }
        }
    }
}

#[async_trait]
impl Exchanger for DetachedExchanger {
    async fn exchange(&self, job: ExchangeJob) -> Exchanged {
        let Some(line) = self.line().await else { return self.direct.exchange(job).await };
        let (ticket, limit) = (job.ticket, job.limit + SLACK);
        let Some(ended) = line.wait_for(ticket, &Ask::Exchange(Job::new(&job))) else {
            return Exchanged::NotSent(gone("before it had the request"));
        };
        match within(limit, ended).await {
            Some(Ok(Some(end))) => end.open(),
            Some(Ok(None) | Err(_)) => Exchanged::Unanswered(gone("with the request under way")),
            None => Exchanged::Unanswered(Error::Timeout { what: "the exchange".into(), limit }),
        }
    }

    async fn recover(&self, ticket: Ticket) -> Result<Option<Exchanged>> {
        if let Some(line) = self.existing().await?
            && let Some(ended) = line.wait_for(ticket, &Ask::Recover { ticket: ticket.into() })
        {
            let limit = super::LONGEST_EXCHANGE + SLACK;
            match tokio::time::timeout(limit, ended).await {
                Ok(Ok(Some(end))) => return Ok(Some(end.open())),
                Ok(Ok(None)) => {}
                Ok(Err(_)) => {
                    return Err(gone("before it said what had become of an exchange"));
                }
                Err(_) => return Err(Error::Timeout { what: "the exchanger".into(), limit }),
            }
        }
        let Some(key) = self.key.get().cloned() else { return Ok(None) };
        let spool = self.spool.clone();
        let read = tokio::task::spawn_blocking(move || spool.read(ticket, &key)).await;
        let end = read.map_err(|_| Error::Closed { what: "the runtime" })??;
        Ok(end.map(|end| end.open()))
    }

    async fn settled(&self, ticket: Ticket) {
        let line = self.line.lock().await.line.clone();
        if let Some(line) = line {
            line.say(&Ask::Settled { ticket: ticket.into() });
        }
        self.spool.remove(ticket);
    }
}

fn gone(when: &str) -> Error {
    Error::Unavailable {
        what: "the exchanger".into(),
        source: format!("its process ended {when}").into(),
    }
}

impl Line {
    fn start(stream: UnixStream) -> Arc<Self> {
        let (mut reads, mut writes) = stream.into_split();
        let (send, mut queue) = mpsc::unbounded_channel::<Zeroizing<Vec<u8>>>();
        let line = Arc::new(Self { send, waiting: Mutex::new(Some(HashMap::new())) });
        // Both end with the connection: the writer when the line is dropped, the reader when the other side has closed.
        tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if frame::send(&mut writes, &bytes).await.is_err() {
                    return;
                }
            }
        });
        let weak = Arc::downgrade(&line);
        tokio::spawn(async move {
            loop {
                let told = frame::receive(&mut reads).await;
                let Some(line) = weak.upgrade() else { return };
                match told {
                    Ok(Some(Tell::Ended { ticket, end })) => line.ended(ticket, Some(&end)),
                    Ok(Some(Tell::Unknown { ticket })) => line.ended(ticket, None),
                    Ok(Some(Tell::Welcome { .. })) => {}
                    Ok(None) | Err(_) => return line.close(),
                }
            }
        });
        line
    }

    /// Says it, and gives what will be told of that ticket; `None` if the other side is gone and knows nothing of it.
    fn wait_for(&self, ticket: Ticket, ask: &Ask) -> Option<oneshot::Receiver<Option<End>>> {
        let (told, wait) = oneshot::channel();
        self.lock().as_mut()?.entry(ticket).or_default().push(told);
        self.say(ask);
        Some(wait)
    }

    fn say(&self, ask: &Ask) {
        // A line that is lost is found out by its reader.
        let _ = self.send.send(frame::encode(ask));
    }

    fn ended(&self, ticket: Number, end: Option<&End>) {
        let waiting = self.lock().as_mut().and_then(|waiting| waiting.remove(&ticket.into()));
        for told in waiting.unwrap_or_default() {
            // Whoever has stopped waiting asks again.
            let _ = told.send(end.cloned());
        }
    }

    fn is_lost(&self) -> bool {
        self.lock().is_none()
    }

    fn close(&self) {
        let waiting = self.lock().take();
        drop(waiting);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
