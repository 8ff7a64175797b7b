//! [`Capture`]: the handle of the thread that reads all output.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use regex::bytes::Regex;
use rustix::{event::EventfdFlags, fs::OFlags, pipe::PipeFlags};
use tokio::sync::oneshot;

use super::{LogFormat, LogPolicy, engine::Engine, spool::Spool};
use crate::{
    Error, Result, Timestamp,
    id::{InstanceName, RunId},
    redact::Redactor,
};

/// What a [`Capture`] needs.
pub struct CaptureOptions {
    /// Each instance gets a folder in this one.
    pub log_dir: PathBuf,
    /// The secrets to mask; what is learned later is masked from then on.
    pub redactor: Arc<Redactor>,
    /// What [`Capture::spool`] of the predecessor gave, in any order; empty for a first start.
    pub spool: Vec<OwnedFd>,
    /// Is told of trouble with log files. Called on the capture's thread: must not block.
    pub problems: Box<dyn Fn(CaptureProblem) + Send>,
    /// The wall clock, for stamps and for names of files: [`clock::now`](crate::clock::now).
    pub clock: Box<dyn Fn() -> Timestamp + Send>,
}

impl CaptureOptions {
    /// Options for a first start: no predecessor, trouble goes to the log of this program.
    pub fn new(log_dir: impl Into<PathBuf>, redactor: Arc<Redactor>) -> Self {
        Self {
            log_dir: log_dir.into(),
            redactor,
            spool: Vec::new(),
            problems: Box::new(|problem| tracing::error!("{problem}")),
            clock: Box::new(crate::clock::now),
        }
    }
}

impl fmt::Debug for CaptureOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureOptions").field("log_dir", &self.log_dir).finish_non_exhaustive()
    }
}

/// Trouble with an instance's log file: told once when it begins and once when it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureProblem {
    /// Output cannot be written; it is dropped and counted, so that the instance runs on.
    Dropping {
        /// Whose output.
        instance: InstanceName,
        /// What was tried, and why it failed: "write /var/log/x/current: No space left on device".
        cause: String,
    },
    /// It can be written again; the log holds a line that tells the same.
    Over {
        /// Whose output.
        instance: InstanceName,
        /// Lines that were dropped.
        lines: u64,
        /// Bytes that were dropped.
        bytes: u64,
    },
}

impl fmt::Display for CaptureProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropping { instance, cause } => {
                write!(f, "output of `{instance}` is being dropped: {cause}")
            }
            Self::Over { instance, lines, bytes } => write!(
                f,
                "output of `{instance}` is kept again; {lines} lines ({bytes} bytes) were dropped"
            ),
        }
    }
}

/// The output of one run: the reading ends of its pipes.
#[derive(Debug)]
pub struct Output {
    /// Whose.
    pub instance: InstanceName,
    /// Which run.
    pub run: RunId,
    /// Standard output; of a [`LogFormat::Raw`] instance both streams.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
    /// What is kept, from now on, of all output of this instance.
    pub policy: Arc<LogPolicy>,
    /// A line to wait for.
    pub watch: Option<LineWatch>,
}

/// Waits for a line of output: readiness by log.
#[derive(Debug)]
pub struct LineWatch {
    /// Must match within one line, seen as the instance wrote it, on either stream.
    pub pattern: Regex,
    /// Is told once.
    pub found: oneshot::Sender<()>,
}

/// How much output there was of an instance since this [`Capture`] knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputCounts {
    /// Lines kept; each piece of a cut line is one.
    pub lines: u64,
    /// Bytes read from the instance, dropped ones included.
    pub bytes: u64,
    /// Lines dropped.
    pub dropped_lines: u64,
    /// Bytes dropped.
    pub dropped_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) lines: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) dropped_lines: AtomicU64,
    pub(super) dropped_bytes: AtomicU64,
}

pub(super) type CounterMap = Arc<Mutex<HashMap<InstanceName, Arc<Counters>>>>;

/// What the thread is told.
pub(super) enum Command {
    Attach(Box<Output>),
    Policy(InstanceName, Arc<LogPolicy>),
    Drained(RunId, oneshot::Sender<()>),
    Finish(RunId, oneshot::Sender<()>),
    Share(RunId, oneshot::Sender<SharedPipes>),
    Remove(InstanceName),
    Tidy,
    Close,
}

/// Captures the output of any number of instances on one thread of its own, which sleeps while nobody prints.
///
/// No instance is ever blocked by an unwritable log: what cannot be written is dropped and counted. A disk that is
/// merely slow makes pipes fill up, and a bot that prints into a full pipe waits; the others share the same disk and
/// thread, each getting its turn of at most 256 KiB.
pub struct Capture {
    commands: mpsc::Sender<Command>,
    bell: Arc<OwnedFd>,
    spool: Vec<OwnedFd>,
    counters: CounterMap,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Sets right what a predecessor left half done, and starts the thread.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if descriptors, memory or threads are exhausted. A log folder that cannot be written is no
    /// error here: it is reported to [`CaptureOptions::problems`] when there is output to drop.
    pub fn start(options: CaptureOptions) -> Result<Self> {
        let CaptureOptions { log_dir, redactor, spool, problems, clock } = options;
        let spool = Spool::open(spool, &log_dir)?;
        let kept = spool
            .kept()
            .iter()
            .map(rustix::fd::BorrowedFd::try_clone_to_owned)
            .collect::<std::io::Result<_>>()
            .map_err(Error::io("duplicate the spool of the output capture"))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bell = rustix::event::eventfd(0, flags)
            .map_err(Error::io("make an eventfd for the output capture"))?;
        let bell = Arc::new(bell);
        let (commands, inbox) = mpsc::channel();
        let counters = CounterMap::default();
        let engine = Engine::new(
            log_dir,
            redactor,
            spool,
            (problems, clock),
            (inbox, Arc::clone(&bell)),
            Arc::clone(&counters),
        )?;
        let thread = std::thread::Builder::new()
            .name("kissops-logs".into())
            .spawn(move || engine.run())
            .map_err(Error::io("start the thread of the output capture"))?;
        Ok(Self { commands, bell, spool: kept, counters, thread: Some(thread) })
    }

    /// The descriptors of the spool, to be held open by somebody who outlives this process, and given to the successor
    /// as [`CaptureOptions::spool`].
    #[must_use]
    pub fn spool(&self) -> &[OwnedFd] {
        &self.spool
    }

    /// Captures the output of a run until its pipes end. The descriptors should be non-blocking, as those of [`pipes`].
    ///
    /// # Errors
    /// [`Closed`](Error::Closed) if the thread has ended.
    pub fn attach(&self, output: Output) -> Result<()> {
        self.send(Command::Attach(Box::new(output)))
    }

    /// Changes what is kept of an instance's output, from the next line on.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed) if the thread has ended.
    pub fn set_policy(&self, instance: InstanceName, policy: Arc<LogPolicy>) -> Result<()> {
        self.send(Command::Policy(instance, policy))
    }

    /// Resolves when all output of `run` is in its log: its pipes have ended, which a stray process that inherited
    /// them can delay for ever. To be awaited with a limit, and followed by [`finish`](Self::finish).
    ///
    /// Resolves at once if the run is not attached. Dropping it changes nothing.
    pub fn drained(&self, run: RunId) -> impl Future<Output = ()> + Send + 'static {
        self.ask(move |reply| Command::Drained(run, reply))
    }

    /// Takes what is in the pipes of `run` now, an unfinished line included, and lets go of them, even if a stray
    /// process still holds them. Resolves when all that is in the log. Dropping the future changes nothing: it is done
    /// all the same.
    pub fn finish(&self, run: RunId) -> impl Future<Output = ()> + Send + 'static {
        self.ask(move |reply| Command::Finish(run, reply))
    }

    /// Duplicates of the reading ends of `run`'s pipes that have not ended, to be held by somebody who outlives this
    /// process.
    pub fn share(&self, run: RunId) -> impl Future<Output = SharedPipes> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        // If the thread has ended, the sender is dropped with the command, and there is nothing to share.
        let _ = self.send(Command::Share(run, reply));
        async move { answer.await.unwrap_or_default() }
    }

    /// Forgets an instance and its counters; its files stay.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed) if the thread has ended.
    pub fn remove(&self, instance: InstanceName) -> Result<()> {
        self.send(Command::Remove(instance))
    }

    /// Applies retention to all instances: to be called daily, for those that print too little to rotate.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed) if the thread has ended.
    pub fn tidy(&self) -> Result<()> {
        self.send(Command::Tidy)
    }

    /// What was captured of `instance` so far.
    #[must_use]
    pub fn counts(&self, instance: &InstanceName) -> OutputCounts {
        let map = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(instance).map_or_else(OutputCounts::default, |c| OutputCounts {
            lines: c.lines.load(Ordering::Relaxed),
            bytes: c.bytes.load(Ordering::Relaxed),
            dropped_lines: c.dropped_lines.load(Ordering::Relaxed),
            dropped_bytes: c.dropped_bytes.load(Ordering::Relaxed),
        })
    }

    /// Writes the whole lines that wait in the pipes and ends the thread. What comes later waits in the pipes for a
    /// successor.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It fails if the thread has ended: then there is nothing to tell.
        let _ = self.send(Command::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| Error::Closed { what: "the output capture" })?;
        // A counter that is full has rung already.
        let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
        Ok(())
    }

    fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<()>) -> Command,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        // If the thread has ended, the sender is dropped with the command, and the answer resolves.
        let _ = self.send(command(reply));
        async move {
            let _ = answer.await;
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").finish_non_exhaustive()
    }
}

/// What [`Capture::share`] gives: the reading ends of a run's pipes.
#[derive(Debug, Default)]
pub struct SharedPipes {
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// The pipes of a run: the child's ends become its standard output and error, ours go to [`Output`].
#[derive(Debug)]
pub struct Pipes {
    /// The child's standard output.
    pub child_stdout: OwnedFd,
    /// The child's standard error; the same pipe for [`LogFormat::Raw`].
    pub child_stderr: OwnedFd,
    /// Our end of standard output.
    pub stdout: OwnedFd,
    /// Our end of standard error, where that is a pipe of its own.
    pub stderr: Option<OwnedFd>,
}

/// Makes the pipes of a run: all close-on-exec, our ends non-blocking.
///
/// # Errors
/// [`Io`](Error::Io) if there are too many open files.
pub fn pipes(format: LogFormat) -> Result<Pipes> {
    let make = || -> std::io::Result<Pipes> {
        let (stdout, child_stdout) = pipe()?;
        if format == LogFormat::Raw {
            let child_stderr = child_stdout.try_clone()?;
            return Ok(Pipes { child_stdout, child_stderr, stdout, stderr: None });
        }
        let (stderr, child_stderr) = pipe()?;
        Ok(Pipes { child_stdout, child_stderr, stdout, stderr: Some(stderr) })
    };
    make().map_err(Error::io("make the pipes of an instance's output"))
}

/// Our end, and the child's.
fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, child) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((ours, child))
}
