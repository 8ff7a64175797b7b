//! The arguments.

mod vault;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kissops_core::{HumanDuration, supervisor::Signal};

pub(crate) use vault::{
    FernetImport, GrantNamed, Incident, IncidentRevoke, Secret, SecretAge, SecretGenerate,
    SecretSet, Token, TokenAuthorize, TokenBind, TokenImport, TokenList, TokenRevoke, TokenShow,
    Vault, VaultAdopt, VaultKey, VaultRotate,
};

const EXIT_CODES: &str = "\
Exit codes:
   0  done; status: all that should run runs
   1  failed
   2  wrong usage
   3  not running
   4  no such name
  69  the daemon cannot be reached
  75  busy, or not done in time: try again, if the message does not say otherwise
  77  permission denied
  78  the configuration has errors

Targets (NAME) are names, patterns such as 'twitch@*', tags such as tag:chat, and templates (all their members).
Data goes to stdout, talk to stderr. With --json, errors are {\"error\":{\"code\",\"message\",\"help\"}} on stderr.

Example:
  kissops init && kissops up";

/// Runs chat bots in production.
#[derive(Debug, Parser)]
#[command(name = "kissops", version, after_help = EXIT_CODES, arg_required_else_help = true, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// The configuration [default: kissops.toml here, then /etc/kissops/kissops.toml]
    #[arg(
        long,
        short,
        global = true,
        help_heading = "Options of every command",
        value_name = "FILE"
    )]
    pub(crate) config: Option<PathBuf>,
    /// The daemon's control socket [default: the one that the configuration leads to]
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "FILE")]
    pub(crate) socket: Option<PathBuf>,
    /// Print JSON; streams print one object a line
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub(crate) json: bool,
    /// Print data and errors only
    #[arg(long, short, global = true, help_heading = "Options of every command")]
    pub(crate) quiet: bool,
    /// Answer every question with yes
    #[arg(long, short, global = true, help_heading = "Options of every command")]
    pub(crate) yes: bool,
    /// No colours; as does the variable `NO_COLOR`
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub(crate) no_color: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at a folder and write a kissops.toml that runs its bot
    #[command(after_help = "Example:\n  kissops init ~/mybot")]
    Init(Init),
    /// Check the configuration and print what each instance comes to
    #[command(after_help = "Examples:\n  kissops check\n  kissops check --origin | grep log_dir")]
    Check(Check),
    /// Run the daemon in the foreground and show what the fleet does
    #[command(after_help = "Example:\n  kissops up")]
    Up(Up),
    /// Show the state of instances
    #[command(
        after_help = "Examples:\n  kissops status\n  kissops status 'twitch@*' --json\n\nExit code 3 if something that should run does not; with a NAME, if it is not in the state `running`."
    )]
    Status(Targets),
    /// Show the fleet live
    #[command(
        after_help = "Keys: c CPU, m memory, n name, r restarts, arrows and page keys scroll, q quits.\n\nExample:\n  kissops top"
    )]
    Top(Targets),
    /// Start instances, and keep them running
    #[command(after_help = "Examples:\n  kissops start web\n  kissops start --all --no-wait")]
    Start(Act),
    /// Stop instances with all their processes, and leave them stopped
    #[command(after_help = "Example:\n  kissops stop 'twitch@*'")]
    Stop(Act),
    /// Restart instances
    #[command(
        after_help = "Examples:\n  kissops restart web\n  kissops restart --all --batch 5 --wait-ready"
    )]
    Restart(Restart),
    /// Let failed instances try again
    #[command(after_help = "Example:\n  kissops reset web")]
    Reset(Act),
    /// Read the configuration again, or send instances their reload signal
    #[command(after_help = "Examples:\n  kissops reload --dry-run\n  kissops reload web")]
    Reload(Reload),
    /// Send a signal to the main process of instances
    #[command(after_help = "Example:\n  kissops signal web SIGUSR1")]
    Signal(SendSignal),
    /// Show what instances wrote
    #[command(
        after_help = "Examples:\n  kissops logs web -f\n  kissops logs 'twitch@*' --since 10m --grep 'timeout|refused'"
    )]
    Logs(Logs),
    /// Show abnormal exits
    #[command(after_help = "Example:\n  kissops crashes web --lines")]
    Crashes(Crashes),
    /// Show what happened
    #[command(
        after_help = "Examples:\n  kissops events -f\n  kissops events web --since 1h --json"
    )]
    Events(Events),
    /// Show all that is known of one instance
    #[command(after_help = "Example:\n  kissops describe web")]
    Describe(Describe),
    /// Add members to templates, remove and list them
    #[command(subcommand, after_help = "Example:\n  kissops instance add twitch@el_serda")]
    Instance(Instance),
    /// List, authorize, import and revoke OAuth grants
    #[command(subcommand, after_help = "Example:\n  kissops token list")]
    Token(Token),
    /// Keep, make and replace secrets: bot tokens, webhook URLs, API keys
    #[command(subcommand, after_help = "Example:\n  kissops secret set discord_webhook")]
    Secret(Secret),
    /// Look after the vault: its keys, a restored store, a predecessor's tokens
    #[command(subcommand, after_help = "Example:\n  kissops vault status")]
    Vault(Vault),
    /// Act when tokens are in wrong hands
    #[command(
        subcommand,
        after_help = "Example:\n  kissops incident revoke --provider twitch --account el_serda"
    )]
    Incident(Incident),
    /// Check, tidy and copy the database in which the state is kept
    #[command(subcommand, after_help = "Example:\n  kissops store check")]
    Store(Store),
    /// Look for what is wrong with this machine, the folders and the daemon
    #[command(after_help = "Example:\n  kissops doctor")]
    Doctor,
    /// Move a bot's own database; needs no daemon
    #[command(
        subcommand,
        after_help = "Example:\n  kissops db copy --from sqlite:/srv/bot/bot.db --to postgres://bot@localhost/bot --dry-run"
    )]
    Db(Db),
    /// Print the file with which a bot in Python or Node talks to its supervisor
    #[command(
        after_help = "Examples:\n  kissops client python > kissops.py\n  kissops client node > kissops.mjs\n\nOne file, no dependencies: readiness, heartbeat, live tokens, metrics."
    )]
    Client(BotClient),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  kissops completions bash > /etc/bash_completion.d/kissops")]
    Completions(Completions),
    /// Print the manual page
    #[command(
        after_help = "Examples:\n  kissops man | man -l -\n  kissops man --dir /usr/local/share/man/man1"
    )]
    Man(Man),
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// The bot's folder
    #[arg(default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Print the file instead of writing it
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Overwrite a kissops.toml that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// Say of each value where it came from; secrets show as ***
    #[arg(long)]
    pub(crate) origin: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Leave the instances running at Ctrl-C, for the next daemon to take over
    #[arg(long)]
    pub(crate) leave_running: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Targets {
    /// Only these; all where left out
    #[arg(value_name = "NAME")]
    pub(crate) targets: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Act {
    #[command(flatten)]
    pub(crate) whom: Whom,
}

#[derive(Args, Debug)]
pub(crate) struct Whom {
    /// Names, patterns, tag:x, templates
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) targets: Vec<String>,
    /// Every instance
    #[arg(long)]
    pub(crate) all: bool,
    /// Return at once instead of when the state is reached
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Wait so long at most, such as 30s or 5m, up to 1h
    #[arg(long, value_name = "SPAN", default_value = "2m", conflicts_with = "no_wait")]
    pub(crate) timeout: HumanDuration,
}

#[derive(Args, Debug)]
pub(crate) struct Restart {
    #[command(flatten)]
    pub(crate) whom: Whom,
    /// So many at once [default: 10 with --all, else all at once]
    #[arg(long, value_name = "N", conflicts_with = "no_wait", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,
    /// The next batch waits until this one is ready
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) wait_ready: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Reload {
    /// Send these their reload signal instead
    #[arg(value_name = "NAME", conflicts_with = "dry_run")]
    pub(crate) targets: Vec<String>,
    /// Only print what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SendSignal {
    /// A name, a pattern, tag:x or a template
    #[arg(value_name = "NAME")]
    pub(crate) target: String,
    /// The signal: SIGUSR1, usr1 or 10
    #[arg(value_name = "SIG")]
    pub(crate) signal: Signal,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Whose; all where left out
    #[arg(value_name = "NAME")]
    pub(crate) targets: Vec<String>,
    /// Go on with what comes
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// The last N lines [default: 100, or all with --since or --until]
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) lines: Option<usize>,
    /// From this time on: 10m (ago) or 2026-11-20T03:04:05Z
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "WHEN", conflicts_with = "follow")]
    pub(crate) until: Option<String>,
    /// Only lines that match this regular expression
    #[arg(long, value_name = "RE")]
    pub(crate) grep: Option<String>,
    /// Only lines of this level or worse: debug, info, warn, error
    #[arg(long)]
    pub(crate) level: Option<String>,
    /// Only what was written to stderr
    #[arg(long)]
    pub(crate) stderr: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Crashes {
    /// Whose; all where left out
    #[arg(value_name = "NAME")]
    pub(crate) targets: Vec<String>,
    /// From this time on: 10m (ago) or 2026-11-20T03:04:05Z
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// The latest N
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    pub(crate) limit: u32,
    /// Show the last lines of output with each
    #[arg(long)]
    pub(crate) lines: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Events {
    /// Whose; all where left out
    #[arg(value_name = "NAME")]
    pub(crate) targets: Vec<String>,
    /// Go on with what comes
    #[arg(long, short, conflicts_with = "until")]
    pub(crate) follow: bool,
    /// The latest N, 1000 at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    pub(crate) limit: u32,
    /// From this time on: 10m (ago) or 2026-11-20T03:04:05Z
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Describe {
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// Add a member to a template and start it; it stays over restarts
    #[command(after_help = "Example:\n  kissops instance add twitch@el_serda --var language=fr")]
    Add {
        /// Its full name
        #[arg(value_name = "TEMPLATE@MEMBER")]
        name: String,
        /// A value for {vars.KEY}; no place for secrets
        #[arg(long = "var", value_name = "KEY=VALUE")]
        vars: Vec<String>,
    },
    /// Stop a member that was added, and forget it
    #[command(after_help = "Example:\n  kissops instance remove twitch@el_serda")]
    Remove {
        /// Its full name
        #[arg(value_name = "TEMPLATE@MEMBER")]
        name: String,
    },
    /// List the members of templates
    #[command(after_help = "Example:\n  kissops instance list --json")]
    List,
}

const WHICH_STORE: &str = "sqlite:FILE, postgres://USER@HOST/DATABASE, or env:NAME for a URL that holds a password [default: the configuration's]";

#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Look for damage, and show how large the tables are; may run beside the daemon
    #[command(
        after_help = "Examples:\n  kissops store check\n  kissops store check sqlite:kissops.db --json\n\nExit code 1 if anything is wrong. A database of an older version is brought up to date first."
    )]
    Check(StoreNamed),
    /// Give back the space of what was deleted
    #[command(
        after_help = "Example:\n  kissops store vacuum\n\nNeeds as much free space as the database has. A daemon waits while its SQLite file is rewritten."
    )]
    Vacuum(StoreNamed),
    /// Copy everything to a new database, of either kind, and prove that it is there
    #[command(
        after_help = "Examples:\n  kissops store copy --to postgres://kissops@db.example.org/kissops\n  kissops store copy --from env:DATABASE_URL --to sqlite:kissops.db\n\nAll rows are read in one snapshot, written in one transaction and read back before it is committed.\nA copy that fails leaves the source untouched and the target empty: run it again. Stop the daemon before."
    )]
    Copy(StoreCopy),
}

#[derive(Args, Debug)]
pub(crate) struct StoreNamed {
    #[arg(value_name = "STORE", help = WHICH_STORE)]
    pub(crate) store: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct StoreCopy {
    #[arg(long, value_name = "STORE", help = WHICH_STORE)]
    pub(crate) from: Option<String>,
    /// Likewise; a file that is not there yet, or an empty database
    #[arg(long, value_name = "STORE")]
    pub(crate) to: String,
    /// Copy although the daemon runs: what it writes from now on is not copied
    #[arg(long)]
    pub(crate) while_running: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Db {
    #[command(about = "Copy any SQLite file to Postgres, and prove that all of it arrived", after_help = DB_COPY)]
    Copy(DbCopy),
}

const DB_COPY: &str = "\
All or nothing: a copy that fails, or is interrupted, leaves the target as it was. The file is read at one moment and never
written. Values that do not fit the type of their column are reported with their rows before anything is written.

Every user of a machine can read arguments. So a password is better in PGPASSWORD, in ~/.pgpass, or together with the whole
URL in KISSOPS_DB_COPY_TO. Off this machine the server has to prove who it is; ?sslmode=require trusts any certificate.

Examples:
  kissops db copy --from sqlite:/srv/bot/bot.db --dry-run
  kissops db copy --from sqlite:/srv/bot/bot.db --to postgres://bot@db.example.org/bot
  kissops db copy --from bot.db --to 'postgres://bot@localhost/bot?host=/run/postgresql' --schema bot --on-mismatch null";

#[derive(Args, Debug)]
pub(crate) struct DbCopy {
    #[arg(long, value_name = "SQLITE", help = "The file: sqlite:/PATH, or its path")]
    pub(crate) from: String,
    #[arg(
        long,
        value_name = "POSTGRES",
        help = "The database: postgres://USER@HOST/DATABASE [default: the variable KISSOPS_DB_COPY_TO]"
    )]
    pub(crate) to: Option<String>,
    /// The schema to copy into; made if it is not there
    #[arg(long, default_value = "public")]
    pub(crate) schema: String,
    /// Print the statements and what would be refused; write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Values that do not fit: refuse the copy, make the column text, or write NULL
    #[arg(long, value_name = "RULE", value_enum, default_value_t = Mismatch::Fail)]
    pub(crate) on_mismatch: Mismatch,
    /// Only this table; may be given several times
    #[arg(long, value_name = "TABLE")]
    pub(crate) only: Vec<String>,
    /// All but this table; may be given several times
    #[arg(long, value_name = "TABLE")]
    pub(crate) exclude: Vec<String>,
    /// Leave behind defaults, checks, indexes and keys that have no counterpart in Postgres
    #[arg(long)]
    pub(crate) skip_untranslatable: bool,
}

/// What to do with values that do not fit.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Mismatch {
    Fail,
    Text,
    Null,
}

#[derive(Args, Debug)]
pub(crate) struct BotClient {
    /// Of the bot
    #[arg(value_enum)]
    pub(crate) language: Language,
}

/// A language that there is a client in.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Language {
    /// 3.8 or later
    Python,
    /// 18 or later
    Node,
}

#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Write the page and one for each command into this folder
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
}
