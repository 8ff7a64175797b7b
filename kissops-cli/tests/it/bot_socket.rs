//! The socket that a bot talks to, as small as it can be: one account, `twitch/ann`.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

use tempfile::TempDir;

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    #[default]
    Good,
    /// Takes connections and closes them: a daemon that is being restarted.
    Away,
    /// The account has to authorize again.
    NeedsReauth,
    /// The grant is not used before an operator has decided.
    Fenced,
    /// Says 503.
    Busy,
    /// Says at once that there is nothing new, instead of waiting.
    Hasty,
    /// Answers something that is no token.
    Nonsense,
    /// Knows no streams: an older kissopsd.
    Old,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) mood: Mood,
    pub(crate) generation: u64,
    /// Requests for the next token that wait now.
    pub(crate) waiting: usize,
    /// And the most at once.
    pub(crate) most_waiting: usize,
    /// Connections so far.
    pub(crate) connections: usize,
    /// Request lines and bodies so far.
    pub(crate) requests: Vec<(String, String)>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct BotSocket {
    folder: TempDir,
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl BotSocket {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from_pathname(folder.path().join("bot.sock")).unwrap();
        Self::at(folder, address)
    }

    /// Under an abstract name.
    pub(crate) fn named(name: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), SocketAddr::from_abstract_name(name).unwrap())
    }

    fn at(folder: TempDir, address: SocketAddr) -> Self {
        let mut new = Self { folder, address, shared: Arc::default(), listening: None };
        new.seen().generation = 1;
        new.open();
        new
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("bot.sock")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen.lock().unwrap()
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.seen().mood = mood;
        self.shared.changed.notify_all();
    }

    /// There is a new token.
    pub(crate) fn rotate(&self) {
        self.seen().generation += 1;
        self.shared.changed.notify_all();
    }

    pub(crate) fn open(&mut self) {
        self.seen().closed = false;
        let listener = UnixListener::bind_addr(&self.address).unwrap();
        let shared = Arc::clone(&self.shared);
        self.listening = Some(thread::spawn(move || listen(&listener, &shared)));
    }

    /// The socket is gone, and every connection with it.
    pub(crate) fn close(&mut self) {
        self.seen().closed = true;
        self.shared.changed.notify_all();
        // Wakes the listener, which then sees that it is over.
        let _ = UnixStream::connect_addr(&self.address);
        if let Some(listening) = self.listening.take() {
            listening.join().unwrap();
        }
        if let Some(path) = self.address.as_pathname() {
            std::fs::remove_file(path).unwrap();
        }
    }
}

impl Drop for BotSocket {
    fn drop(&mut self) {
        if self.listening.is_some() {
            self.close();
        }
    }
}

fn listen(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let mut seen = shared.seen.lock().unwrap();
        if seen.closed {
            return;
        }
        seen.connections += 1;
        if seen.mood == Mood::Away {
            continue;
        }
        drop(seen);
        let shared = Arc::clone(shared);
        // Ends with its request: a wait ends when the socket is closed.
        thread::spawn(move || stream.map(|stream| serve(stream, &shared)));
    }
}

fn serve(stream: UnixStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let line = line.trim_end_matches(" HTTP/1.1\r\n").to_owned();
    let body = String::from_utf8_lossy(&body).into_owned();
    shared.seen.lock().unwrap().requests.push((line.clone(), body.clone()));
    if line == "GET /v1/tokens/stream" {
        let mood = shared.seen.lock().unwrap().mood;
        if matches!(mood, Mood::Good | Mood::Hasty) {
            return follow(reader.get_mut(), shared);
        }
    }
    let Some((status, text)) = answer(&line, &body, shared) else { return Ok(()) };
    let kind = if status < 400 { "application/json" } else { "application/problem+json" };
    let head = format!("HTTP/1.1 {status} Script\r\ncontent-type: {kind}\r\nconnection: close\r\n");
    write!(reader.get_mut(), "{head}content-length: {}\r\n\r\n{text}", text.len())
}

/// The token, and each that follows, until the mood changes.
fn follow(to: &mut UnixStream, shared: &Shared) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 Script\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    write!(to, "{head}")?;
    let mut sent = 0;
    let mut seen = shared.seen.lock().unwrap();
    seen.waiting += 1;
    seen.most_waiting = seen.most_waiting.max(seen.waiting);
    let mut done = Ok(());
    while matches!(seen.mood, Mood::Good | Mood::Hasty) && !seen.closed && done.is_ok() {
        if seen.generation == sent && seen.mood == Mood::Hasty {
            break;
        }
        if seen.generation == sent {
            seen = shared.changed.wait(seen).unwrap();
            continue;
        }
        sent = seen.generation;
        let mut lines = "{\"heartbeat\":true}\n".to_owned();
        for account in ["ann".to_owned()].into_iter().chain((0..20).map(|n| format!("ann{n}"))) {
            let token = token(sent).replacen('{', "", 1);
            writeln!(lines, "{{\"provider\":\"twitch\",\"account\":\"{account}\",{token}").unwrap();
        }
        // In two pieces, neither of which ends with a line.
        let (one, other) = lines.split_at(30);
        for piece in [one, other] {
            done = done.and_then(|()| write!(to, "{:x}\r\n{piece}\r\n", piece.len()));
        }
    }
    seen.waiting -= 1;
    drop(seen);
    done?;
    write!(to, "0\r\n\r\n")
}

fn token(generation: u64) -> String {
    format!(
        "{{\"access_token\":\"secret-{generation}\",\"expires_at\":\"2099-01-02T03:04:05.000006Z\",\"generation\":{generation}}}"
    )
}

fn problem(status: u16, code: &str) -> (u16, String) {
    (
        status,
        format!(
            "{{\"status\":{status},\"code\":\"{code}\",\"detail\":\"about {code}\",\"help\":\"do so\"}}"
        ),
    )
}

fn answer(line: &str, body: &str, shared: &Shared) -> Option<(u16, String)> {
    if line == "GET /v1/tokens/stream" {
        return match shared.seen.lock().unwrap().mood {
            Mood::Old => Some(problem(404, "no_such_route")),
            Mood::Busy => Some(problem(503, "unavailable")),
            _ => None,
        };
    }
    match line {
        "POST /v1/limit/own/full" => return Some(problem(429, "limited")),
        "POST /v1/limit/own/a%2Fb" => return Some((200, "{\"waited_seconds\":0.5}".to_owned())),
        "POST /v1/cooldown" if body.contains("!again") => {
            return Some((200, "{\"allowed\":false,\"wait_seconds\":1.5}".to_owned()));
        }
        "POST /v1/cooldown" => return Some((200, "{\"allowed\":true}".to_owned())),
        _ => {}
    }
    let Some(rest) = line.split_once("/v1/token/").map(|(_, rest)| rest) else {
        return Some((204, String::new()));
    };
    if !rest.starts_with("twitch/ann") {
        return Some(problem(404, "no_such_token"));
    }
    let mut seen = shared.seen.lock().unwrap();
    match seen.mood {
        Mood::NeedsReauth => return Some(problem(409, "needs_reauth")),
        Mood::Fenced => return Some(problem(409, "fenced")),
        Mood::Busy => return Some(problem(503, "unavailable")),
        Mood::Nonsense => return Some((200, "[1]".to_owned())),
        Mood::Good | Mood::Old | Mood::Away | Mood::Hasty => {}
    }
    if rest.ends_with("/invalid") && body == format!("{{\"generation\":{}}}", seen.generation)
        || rest.ends_with("/invalid") && body == format!("{{\"generation\": {}}}", seen.generation)
    {
        seen.generation += 1;
        shared.changed.notify_all();
    }
    if let Some((_, wanted)) = rest.split_once("?after=") {
        let (after, wait) = wanted.split_once("&wait=").unwrap();
        let after: u64 = after.parse().unwrap();
        let wait = Duration::from_secs(wait.trim_end_matches('s').parse().unwrap());
        let wait = if seen.mood == Mood::Hasty { Duration::ZERO } else { wait };
        seen.waiting += 1;
        seen.most_waiting = seen.most_waiting.max(seen.waiting);
        let nothing_new = |seen: &mut Seen| {
            seen.generation <= after && !seen.closed && seen.mood != Mood::NeedsReauth
        };
        seen = shared.changed.wait_timeout_while(seen, wait, nothing_new).unwrap().0;
        seen.waiting -= 1;
        if seen.closed || seen.mood == Mood::NeedsReauth {
            return None;
        }
        if seen.generation <= after {
            return Some((204, String::new()));
        }
    }
    Some((200, token(seen.generation)))
}
