//! For a bot that runs under `kissopsd`, or under systemd: tells it that it is ready, alive, stopping.
//!
//! The messages are those of `sd_notify(3)`: one datagram of `KEY=value` lines to the socket that `NOTIFY_SOCKET` names.
//! Without that variable every call does nothing, so the same bot runs from a shell.
//!
//! Under `kissopsd` there is a socket of the instance's own beside that, `KISSOPS_SOCKET`: access tokens by
//! [`Agent::token`], and what the bot has to say that the notify protocol has no words for.
//!
//! ```
//! use kissops_core::agent::Agent;
//! let agent = Agent::from_env()?;
//! agent.ready()?;
//! agent.status("42 channels joined")?;
//! agent.stopping()?;
//! # Ok::<(), kissops_core::Error>(())
//! ```

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

mod client;
mod tokens;

pub use client::BotToken;

use client::Client;

use crate::{Error, Result, clock};

/// A datagram is taken at once unless the supervisor does not read; then this is the longest that a call may block.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// The line to whoever started this bot.
///
/// Calls take some microseconds and may be made from asynchronous code. Each fails with [`Error::Timeout`] where the
/// supervisor takes nothing for a second, and with [`Error::Io`] where its socket is gone; a bot may ignore both.
#[derive(Debug)]
pub struct Agent {
    line: Option<Line>,
    watchdog: Option<Duration>,
    client: Client,
}

#[derive(Debug)]
struct Line {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl Agent {
    /// Finds the supervisor by `NOTIFY_SOCKET`, and its watchdog by `WATCHDOG_USEC` and `WATCHDOG_PID`.
    ///
    /// The variables stay in place, so children that this bot starts inherit them.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a variable that cannot be what a supervisor wrote; [`Error::Io`] without descriptors.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| env::var_os(name))
    }

    fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let line = match var("NOTIFY_SOCKET").filter(|address| !address.is_empty()) {
            Some(address) => Some(Line::to(&address)?),
            None => None,
        };
        let number = |name: &str| -> Result<Option<u64>> {
            let Some(text) = var(name) else { return Ok(None) };
            let number = text.to_str().and_then(|text| text.parse().ok());
            number.map(Some).ok_or_else(|| Error::invalid(name, "must be a number"))
        };
        // sd_watchdog_enabled(3): the variables are meant for one process, not for its children.
        let ours = number("WATCHDOG_PID")?.is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC")?.filter(|limit| ours && *limit > 0);
        let client = Client::new(var("KISSOPS_SOCKET"));
        Ok(Self { line, watchdog: watchdog.map(Duration::from_micros), client })
    }

    /// Somebody listens: `NOTIFY_SOCKET` or `KISSOPS_SOCKET` was set.
    #[must_use]
    pub fn is_supervised(&self) -> bool {
        self.line.is_some() || self.client.is_there()
    }

    /// The bot may take work now. Say it once; more does no harm.
    ///
    /// # Errors
    /// Those named at [`Agent`].
    pub fn ready(&self) -> Result<()> {
        self.send("READY=1")
    }

    /// What the bot is doing, for people: shown by `kissops status`. Line breaks become spaces.
    ///
    /// # Errors
    /// Those named at [`Agent`].
    pub fn status(&self, text: &str) -> Result<()> {
        // A line break would begin another message.
        self.send(&format!("STATUS={}", text.replace(['\n', '\r'], " ")))
    }

    /// How often to call [`alive`](Self::alive): half of the watchdog's limit. `None` if nobody watches.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// The bot is not stuck. Call it from where the work is done, not from a timer of its own.
    ///
    /// # Errors
    /// Those named at [`Agent`].
    pub fn alive(&self) -> Result<()> {
        self.send("WATCHDOG=1")
    }

    /// A new configuration is being read; [`ready`](Self::ready) says that it is in force.
    ///
    /// # Errors
    /// Those named at [`Agent`].
    pub fn reloading(&self) -> Result<()> {
        // systemd wants to know since when, on CLOCK_MONOTONIC: sd_notify(3).
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}",
            now.tv_sec * 1_000_000 + now.tv_nsec / 1000
        ))
    }

    /// The bot has begun to shut down.
    ///
    /// # Errors
    /// Those named at [`Agent`].
    pub fn stopping(&self) -> Result<()> {
        self.send("STOPPING=1")
    }

    /// The start or stop under way needs so much longer, from now on; to be repeated before that time has passed.
    ///
    /// # Errors
    /// Those named at [`Agent`].
    pub fn extend_timeout(&self, by: Duration) -> Result<()> {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()))
    }

    fn send(&self, message: &str) -> Result<()> {
        let Some(line) = &self.line else { return Ok(()) };
        match line.socket.send_to_addr(message.as_bytes(), &line.to) {
            Ok(_) => Ok(()),
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {
                Err(Error::Timeout { what: line.to_string(), limit: SEND_LIMIT })
            }
            Err(err) => Err(Error::io(format!("write to {line}"))(err)),
        }
    }
}

impl Line {
    /// A path, or a name in the abstract namespace with `@` for its first byte: `sd_notify(3)`.
    fn to(address: &OsStr) -> Result<Self> {
        let to = match address.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(address),
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => return Err(Error::invalid("NOTIFY_SOCKET", "must begin with / or @")),
        };
        let to =
            to.map_err(|err| Error::invalid("NOTIFY_SOCKET", format!("is no address: {err}")))?;
        let socket = UnixDatagram::unbound()
            .and_then(|socket| socket.set_write_timeout(Some(SEND_LIMIT)).map(|()| socket))
            .map_err(Error::io("make a socket for NOTIFY_SOCKET"))?;
        // Not connected: a supervisor that makes its socket anew at the same address is found again.
        Ok(Self { socket, to })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.to.as_pathname(), self.to.as_abstract_name()) {
            (Some(path), _) => write!(f, "the notify socket {}", path.display()),
            (None, name) => {
                let name = String::from_utf8_lossy(name.unwrap_or_default());
                write!(f, "the notify socket @{name}")
            }
        }
    }
}

/// Resolves at the first SIGTERM or SIGINT from now on: those no longer end the process by themselves.
///
/// ```no_run
/// # async fn bot() -> kissops_core::Result<()> {
/// let shutdown = kissops_core::agent::shutdown_signal()?;
/// // … start; then:
/// tokio::select! {
///     () = shutdown => { /* save, say good-bye */ }
///     // () = serve() => {}
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::WrongState`] outside of a tokio runtime; [`Error::Io`] if the handlers cannot be set.
///
/// # Panics
/// In a tokio runtime that was built without its I/O driver (`enable_io` or `enable_all`).
///
/// # Cancel safety
/// A signal that came while nobody awaited the future is not lost.
pub fn shutdown_signal() -> Result<impl Future<Output = ()> + Send> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(Error::WrongState {
            what: "shutdown_signal".into(),
            state: "called outside of a tokio runtime".into(),
            help: "call it in an async function, or under Runtime::enter".into(),
        });
    }
    let listen = |kind: SignalKind, name: &str| -> Result<Signal> {
        signal(kind).map_err(Error::io(format!("listen for {name}")))
    };
    let mut terminate = listen(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = listen(SignalKind::interrupt(), "SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A small file that is written again and again, and whose age tells that the bot works: `live = { heartbeat = … }`.
///
/// It holds `{"at":"2026-11-20T03:04:05.000006Z","ok":true}`. A reader never finds it half written.
#[derive(Debug)]
pub struct Heartbeat {
    path: PathBuf,
    partial: PathBuf,
}

impl Heartbeat {
    /// A heartbeat at `path`, in a folder that exists. Nothing is written yet.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let mut partial = path.clone().into_os_string();
        // Two lives of a bot may overlap for a moment; each renames a file of its own.
        partial.push(format!(".{}.partial", std::process::id()));
        Self { path, partial: partial.into() }
    }

    /// The bot works.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn ok(&self) -> Result<()> {
        self.write("true")
    }

    /// The bot runs but cannot do its work: counts as a failed check at once.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn failing(&self) -> Result<()> {
        self.write("false")
    }

    fn write(&self, ok: &str) -> Result<()> {
        let text = format!("{{\"at\":\"{}\",\"ok\":{ok}}}\n", clock::now());
        // Not synced: after a power cut it would be too old anyway.
        let done =
            fs::write(&self.partial, text).and_then(|()| fs::rename(&self.partial, &self.path));
        done.map_err(|err| {
            // What is left of a full disk is of no use to anybody.
            let _ = fs::remove_file(&self.partial);
            Error::io(format!("write the heartbeat {}", self.path.display()))(err)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(vars: &[(&str, &str)]) -> Result<Agent> {
        Agent::from_vars(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    fn receiver(address: &SocketAddr) -> UnixDatagram {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn next(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn without_a_supervisor_nothing_happens() {
        for agent in [agent(&[]).unwrap(), agent(&[("NOTIFY_SOCKET", "")]).unwrap()] {
            assert!(!agent.is_supervised());
            assert_eq!(agent.watchdog_interval(), None);
            agent.ready().unwrap();
            agent.alive().unwrap();
        }
    }

    #[test]
    fn each_message_is_one_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = receiver(&SocketAddr::from_pathname(&path).unwrap());
        let agent = agent(&[("NOTIFY_SOCKET", path.to_str().unwrap())]).unwrap();
        agent.ready().unwrap();
        agent.status("two\nlines READY=1").unwrap();
        agent.alive().unwrap();
        agent.extend_timeout(Duration::from_millis(1_500)).unwrap();
        agent.stopping().unwrap();
        let got: Vec<String> = (0..5).map(|_| next(&socket)).collect();
        let expected = [
            "READY=1",
            "STATUS=two lines READY=1",
            "WATCHDOG=1",
            "EXTEND_TIMEOUT_USEC=1500000",
            "STOPPING=1",
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn an_address_with_at_is_in_the_abstract_namespace() {
        let name = format!("kissops-test-{}-abstract", std::process::id());
        let socket = receiver(&SocketAddr::from_abstract_name(&name).unwrap());
        agent(&[("NOTIFY_SOCKET", &format!("@{name}"))]).unwrap().ready().unwrap();
        assert_eq!(next(&socket), "READY=1");
    }

    #[test]
    fn a_socket_that_is_made_anew_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let address = SocketAddr::from_pathname(&path).unwrap();
        let first = receiver(&address);
        let agent = agent(&[("NOTIFY_SOCKET", path.to_str().unwrap())]).unwrap();
        agent.ready().unwrap();
        drop(first);
        let err = agent.alive().unwrap_err();
        assert!(matches!(err, Error::Io { .. }) && err.to_string().contains("notify"), "{err}");
        fs::remove_file(&path).unwrap();
        let second = receiver(&address);
        agent.alive().unwrap();
        assert_eq!(next(&second), "WATCHDOG=1");
    }

    #[test]
    fn a_supervisor_that_reads_nothing_is_a_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _socket = receiver(&SocketAddr::from_pathname(&path).unwrap());
        let agent = agent(&[("NOTIFY_SOCKET", path.to_str().unwrap())]).unwrap();
        let err = (0..100_000).find_map(|_| agent.alive().err()).unwrap();
        assert!(matches!(err, Error::Timeout { .. }), "{err:?}");
    }

    #[test]
    fn the_watchdog_is_for_the_named_process_only() {
        let own = std::process::id().to_string();
        let interval = |pid: &str| {
            let vars = [("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", pid)];
            agent(&vars).unwrap().watchdog_interval()
        };
        assert_eq!(interval(&own), Some(Duration::from_millis(1_500)));
        assert_eq!(interval("1"), None);
        assert_eq!(
            agent(&[("WATCHDOG_USEC", "10")]).unwrap().watchdog_interval(),
            Some(Duration::from_micros(5))
        );
    }

    #[test]
    fn variables_that_cannot_be_right_are_refused_by_name() {
        let long = format!("/{}", "x".repeat(200));
        for (name, value) in [
            ("NOTIFY_SOCKET", "relative"),
            ("NOTIFY_SOCKET", &long),
            ("WATCHDOG_USEC", "soon"),
            ("WATCHDOG_PID", "-1"),
        ] {
            let err = agent(&[(name, value)]).unwrap_err();
            assert!(err.to_string().starts_with(name), "{err}");
        }
    }

    #[test]
    fn a_heartbeat_is_json_and_leaves_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("beat.json");
        let heartbeat = Heartbeat::new(&path);
        for (write, ok) in [
            (Heartbeat::failing as fn(&Heartbeat) -> Result<()>, false),
            (Heartbeat::ok as fn(&Heartbeat) -> Result<()>, true),
        ] {
            write(&heartbeat).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["ok"], ok);
            let at: crate::Timestamp = value["at"].as_str().unwrap().parse().unwrap();
            assert!(clock::now().since(at) < Duration::from_mins(1));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_heartbeat_in_no_folder_names_its_path() {
        let err = Heartbeat::new("/nonexistent/beat.json").ok().unwrap_err();
        assert!(err.to_string().contains("/nonexistent/beat.json"), "{err}");
    }
}
