//! `kissopsd`: supervises the bots of one configuration file. Arguments, log and signals are here; what is built from
//! the configuration is in `wire`.

mod lock;
mod log;
mod tenure;
mod wire;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use kissops_core::{
    agent::Agent,
    config::{self, Config, Environment},
    fleet::{Fleet, ReloadError, ReloadMode},
    supervisor::{Leave, limits::OpenFiles, use_one_heap},
    vault::harden_process,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{log::Log, wire::Daemon};

/// The configuration has errors, see `sysexits(3)`.
const EXIT_CONFIG: u8 = 78;
/// Another daemon holds the state directory.
const EXIT_BUSY: u8 = 75;

/// Keeps the bots of a kissops.toml running.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 ended as asked, 1 could not start or go on, 2 wrong arguments, 75 another daemon runs, 78 the configuration has errors.

Signals: TERM and INT stop the bots in order and end; HUP reloads the configuration; QUIT ends and leaves the bots running.

Example: kissopsd --config /etc/kissops/kissops.toml"
)]
struct Arguments {
    /// The configuration [default: ./kissops.toml, then /etc/kissops/kissops.toml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// At a stop, leave the bots running for the next kissopsd to take over
    #[arg(long)]
    leave_running: bool,
}

fn main() -> ExitCode {
    // A heap for each of the few threads would be mostly holes: 11.8 MB instead of 14.2 with a thousand instances.
    use_one_heap();
    let arguments = Arguments::parse();
    // Before a key or another secret is read.
    if let Err(error) = harden_process() {
        eprintln!("kissopsd: {}", error.chain());
        return ExitCode::FAILURE;
    }
    let environment = Environment::of_process();
    let found = config::find(arguments.config.as_deref());
    let config = match found.and_then(|path| config::load(&path, &environment)) {
        Ok(config) => config,
        Err(errors) => {
            eprint!("{}", errors.render());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    eprint!("{}", config.render_warnings());
    let leave = if arguments.leave_running { Leave::Running } else { Leave::Stopped };
    match start(config, environment, leave) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kissopsd: {error:#}");
            let busy = error.chain().any(|cause| {
                matches!(cause.downcast_ref(), Some(kissops_core::Error::Conflict { .. }))
            });
            let config = error.chain().any(|cause| {
                matches!(cause.downcast_ref(), Some(kissops_core::Error::InvalidConfig { .. }))
            });
            ExitCode::from(if busy {
                EXIT_BUSY
            } else if config {
                EXIT_CONFIG
            } else {
                1
            })
        }
    }
}

fn start(config: Config, environment: Environment, leave: Leave) -> anyhow::Result<()> {
    let nofile = OpenFiles::raise();
    wire::prepare_folders(&config)?;
    let lock = lock::take(&config.daemon.state_dir)?;
    wire::become_user(&config)?;
    // One thread: a supervisor mostly sleeps, and a thousand tasks in one heap cost less than in several.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(run(config, environment, nofile, leave));
    // Reads of log files that a client has left behind must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(lock);
    ended
}

async fn run(
    config: Config,
    environment: Environment,
    nofile: OpenFiles,
    leave: Leave,
) -> anyhow::Result<()> {
    // Before anything is started: a signal that comes meanwhile is not lost.
    let mut signals = Signals::new()?;
    let agent = Agent::from_env()?;
    let (daemon, log) = Daemon::start(config, environment, nofile).await?;
    tell(agent.status(&format!("{} instances", daemon.fleet.status().len())));
    tell(agent.ready());
    let leave = watch(&daemon.fleet, &mut signals, &agent, &log, leave).await;
    tell(agent.stopping());
    let hurried = async {
        // A second signal while the bots have their grace: whoever sent it does not want to wait.
        while signals.next().await == Caught::Hangup {}
    };
    let fleet = daemon.fleet.clone();
    tokio::select! {
        () = daemon.stop(leave) => Ok(()),
        () = hurried => {
            let left: Vec<String> =
                fleet.supervisor().unfinished().iter().map(|(name, _)| name.to_string()).collect();
            // No success: nobody looks after them now.
            anyhow::bail!(
                "asked again to stop, so what still runs is left to the keeper as it is ({}): start kissopsd again to take it over or to stop it",
                left.join(", ")
            )
        }
    }
}

/// Serves until somebody asks for the end; says what is to become of the bots.
async fn watch(
    fleet: &Fleet,
    signals: &mut Signals,
    agent: &Agent,
    log: &Log,
    leave: Leave,
) -> Leave {
    let mut alive = agent.watchdog_interval().map(tokio::time::interval);
    loop {
        let beat = async {
            match &mut alive {
                Some(alive) => drop(alive.tick().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            asked = fleet.stop_requested() => return asked,
            caught = signals.next() => match caught {
                Caught::Stop => return leave,
                Caught::Quit => return Leave::Running,
                Caught::Hangup => {
                    tell(agent.reloading());
                    reload(fleet, log).await;
                    tell(agent.ready());
                }
            },
            () = beat => tell(agent.alive()),
        }
    }
}

async fn reload(fleet: &Fleet, log: &Log) {
    match fleet.reload_config(ReloadMode::Apply).await {
        Ok(done) => {
            let plan = &done.plan;
            tracing::info!(
                added = plan.added.len(),
                removed = plan.removed.len(),
                changed = plan.changed.len(),
                "configuration reloaded"
            );
            for warning in &done.warnings {
                tracing::warn!("{warning}");
            }
            log.set_level(&fleet.daemon().log.level);
        }
        Err(ReloadError::Invalid(errors)) => {
            tracing::error!("the configuration has errors; the fleet goes on with the old one");
            eprint!("{}", errors.render());
        }
        Err(ReloadError::Other(error)) => {
            tracing::error!(error = %error.chain(), "the configuration cannot be reloaded");
        }
    }
}

/// A service manager that does not listen is no reason to stop.
fn tell(told: kissops_core::Result<()>) {
    if let Err(error) = told {
        tracing::debug!(error = %error.chain(), "the service manager was not told");
    }
}

/// What a signal asks for.
#[derive(PartialEq, Eq)]
enum Caught {
    Stop,
    Hangup,
    Quit,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.terminate.recv() => Caught::Stop,
            _ = self.interrupt.recv() => Caught::Stop,
            _ = self.hangup.recv() => Caught::Hangup,
            _ = self.quit.recv() => Caught::Quit,
        }
    }
}
