//! `kissopsd` as our child.

use std::{
    collections::VecDeque,
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kissops_core::{Error, control::Accepted, control::StopRequest};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStderr, Command},
};

use crate::{client::Client, exit::Failure, render::clean};

/// It has to answer within this time; taking over 1,000 instances takes about one second.
const START: Duration = Duration::from_mins(1);
/// How often it is asked meanwhile.
const POLL: Duration = Duration::from_millis(50);
/// So many of its last lines are kept, to be shown if it fails.
const LINES: usize = 20;

type LastLines = Arc<Mutex<VecDeque<String>>>;

/// A running daemon that we have started.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    last: LastLines,
}

impl Daemon {
    /// Starts it in a process group of its own: Ctrl-C is for us to pass on. Its log goes to our stderr, unless the
    /// screen is taken (`live`), where its last lines are kept for the case that it fails.
    pub(super) fn start(file: &Path, live: bool) -> Result<Self, Failure> {
        let program = program();
        let mut child = Command::new(&program)
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(if live { Stdio::null() } else { io::stderr().into() })
            .stderr(if live { Stdio::piped() } else { Stdio::inherit() })
            .process_group(0)
            .spawn()
            .map_err(|err| {
                let help = match err.kind() {
                    io::ErrorKind::NotFound => "install kissopsd beside kissops, or into the PATH",
                    _ => "look at the rights of the file",
                };
                let message = Error::io(format!("start {}", program.display()))(err).chain();
                Failure::new("io", message, help)
            })?;
        let last = LastLines::default();
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep_last(stderr, Arc::clone(&last)));
        }
        Ok(Self { child, last })
    }

    /// Returns once it answers.
    pub(super) async fn wait_until_up(&mut self, client: &Client) -> Result<(), Failure> {
        let until = tokio::time::Instant::now() + START;
        loop {
            tokio::select! {
                ended = self.child.wait() => {
                    let status = ended.map_err(Error::io("wait for kissopsd"))?;
                    return Err(self.told(status));
                }
                () = tokio::time::sleep(POLL) => {}
            }
            if client.is_up().await? {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                let message = format!("kissopsd does not answer after {START:?}");
                return Err(Failure::new("timeout", message, "it still runs; see its log"));
            }
        }
    }

    /// Asks it to end, by a signal if it does not answer.
    pub(super) async fn stop(&mut self, client: &Client, leave_running: bool) {
        let request = StopRequest { leave_running };
        let limit = Some(Duration::from_secs(5));
        let asked: Result<Accepted, Failure> = client.post("/v1/stop", &request, limit).await;
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let (Err(_), false, Some(pid)) = (asked, leave_running, pid) {
            // It is gone if this fails, which is what was asked for.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Why it ended, as far as its exit status and its last lines tell.
    pub(super) fn failure(self, status: ExitStatus) -> Failure {
        match (self.told(status), status.signal()) {
            // It had no time to stop them.
            (Failure::Told { code, message, .. }, Some(_)) => Failure::Told {
                code,
                message,
                help: "the instances go on without it; kissops up takes them over".to_owned(),
            },
            (failure, _) => failure,
        }
    }

    fn told(&self, status: ExitStatus) -> Failure {
        let lines = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut message = format!("kissopsd ended: {status}");
        for line in lines.iter() {
            message.push_str("\n  ");
            message.push_str(&clean::text(line));
        }
        let code = match status.code() {
            Some(75) => "busy",
            Some(77) => "denied",
            Some(78) => "invalid_config",
            _ => "daemon_ended",
        };
        Failure::new(code, message, "kissops doctor looks for the cause")
    }
}

/// Resolves when the daemon has ended; never without one.
pub(super) async fn ended(daemon: &mut Option<Daemon>) -> io::Result<ExitStatus> {
    match daemon {
        Some(daemon) => daemon.child.wait().await,
        None => std::future::pending().await,
    }
}

/// The daemon of the same installation, else the one in the `PATH`.
fn program() -> PathBuf {
    let sibling = std::env::current_exe().ok().map(|own| own.with_file_name("kissopsd"));
    sibling.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("kissopsd"))
}

/// Reads to the end of the pipe, so that the daemon never waits for us.
async fn keep_last(stderr: ChildStderr, last: LastLines) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
}
