//! `mock-provider`: an OAuth provider on this machine, for tests and for a first try without an account anywhere.

use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use kissops_mock_provider::{
    CLIENT_ID, CLIENT_SECRET, ImportRow, Knobs, MockProvider, NewAccounts, PUBLIC_CLIENT_ID,
    Rotation, Scope,
};
use tokio::signal::unix::{SignalKind, signal};

/// An OAuth provider on 127.0.0.1 that can be told to misbehave, and keeps a ledger of what it was asked.
///
/// Prints its address, a piece of kissops.toml to use it, and how to import its accounts. Everything can be changed while
/// it runs, over HTTP: `/_mock/` below its address tells how.
#[derive(Debug, Parser)]
#[command(name = "mock-provider", version)]
struct Arguments {
    /// Where to listen; 0 takes a free port.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// So many accounts are made at the start.
    #[arg(long, default_value_t = 3, value_name = "N")]
    accounts: u32,
    /// An account of this name is made, too; may be repeated.
    #[arg(long, value_name = "NAME")]
    account: Vec<String>,
    /// What becomes of a refresh token that is used.
    #[arg(long, value_enum, default_value = "one-time")]
    rotation: Class,
    /// The life of an access token: 45s, 10m, 4h.
    #[arg(long, default_value = "4h", value_parser = milliseconds)]
    lifetime: u64,
    /// Device codes approve themselves after so long, for scripts: otherwise a person does it.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    approve: Option<u64>,
    /// The accounts' tokens are written there, mode 600, as `kissops token import` takes them.
    #[arg(long, value_name = "FILE")]
    import_file: Option<PathBuf>,
    /// Accounts and tokens are kept there between two runs: read at the start, written at the end, mode 600.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Uses a client with a secret; otherwise one without.
    #[arg(long)]
    confidential: bool,
    /// With the same number, the tokens of the start are the same again.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Class {
    Reusable,
    Rotating,
    OneTime,
}

impl From<Class> for Rotation {
    fn from(class: Class) -> Self {
        match class {
            Class::Reusable => Self::Reusable,
            Class::Rotating => Self::Rotating,
            Class::OneTime => Self::OneTime,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let port = arguments.port;
    let mock = match arguments.seed {
        Some(seed) => MockProvider::start_at(port, seed).await,
        None => MockProvider::start_on(port).await,
    };
    let mock = mock.with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
    mock.set(
        &Scope::All,
        Knobs {
            rotation: Some(arguments.rotation.into()),
            lifetime_ms: Some(arguments.lifetime),
            device_approve_ms: arguments.approve,
            ..Knobs::default()
        },
    )?;
    let kept = arguments.state.as_deref().map(read_state).transpose()?.flatten();
    match (&kept, &arguments.state) {
        (Some(text), Some(path)) => {
            mock.recall(text).with_context(|| format!("cannot use {}", path.display()))?;
        }
        _ => drop(mock.add_accounts(&arguments.accounts())?),
    }
    let rows = mock.import();
    if let Some(path) = &arguments.import_file {
        let text = serde_json::to_string_pretty(&rows)?;
        write_private(path, &text)?;
    }
    tell(&mock, &arguments, &rows)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    match &arguments.state {
        Some(path) => write_private(path, &mock.keep()?),
        None => Ok(()),
    }
}

impl Arguments {
    fn client(&self) -> &'static str {
        if self.confidential { CLIENT_ID } else { PUBLIC_CLIENT_ID }
    }

    fn accounts(&self) -> NewAccounts {
        NewAccounts {
            names: self.account.clone(),
            count: self.accounts,
            client: Some(self.client().to_owned()),
            ..NewAccounts::default()
        }
    }
}

/// What was kept; `None` at the first time.
fn read_state(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn tell(mock: &MockProvider, arguments: &Arguments, rows: &[ImportRow]) -> std::io::Result<()> {
    let here = mock.url("");
    let rotation = arguments.rotation.to_possible_value();
    let rotation = rotation.as_ref().map_or("", |value| value.get_name());
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {here}\n\nIn kissops.toml:\n")?;
    writeln!(out, "    [vault.provider.mock]")?;
    for (key, path) in [
        ("token_url", "/token"),
        ("device_url", "/device"),
        ("authorize_url", "/authorize"),
        ("validate_url", "/validate"),
        ("revoke_url", "/revoke"),
    ] {
        writeln!(out, "    {key:<13} = \"{here}{path}\"")?;
    }
    writeln!(out, "    {:<13} = \"{rotation}\"", "rotation")?;
    writeln!(out, "    {:<13} = \"{}\"", "client_id", arguments.client())?;
    if arguments.confidential {
        writeln!(out, "    {:<13} = {{ env = \"MOCK_CLIENT_SECRET\" }}", "client_secret")?;
        writeln!(out, "\nIn .env beside it:\n\n    MOCK_CLIENT_SECRET={CLIENT_SECRET}")?;
    }
    writeln!(out)?;
    if !rows.is_empty() {
        let names: Vec<&str> = rows.iter().take(5).map(|row| row.account.as_str()).collect();
        let more = if rows.len() > names.len() { ", …" } else { "" };
        writeln!(out, "Accounts: {}{more}. To import them:\n", names.join(", "))?;
        let file = if let Some(path) = &arguments.import_file {
            path.display().to_string()
        } else {
            writeln!(out, "    (umask 077; curl -s {here}/_mock/import > tokens.json)")?;
            "tokens.json".to_owned()
        };
        writeln!(out, "    kissops token import --file {file}\n")?;
    }
    writeln!(out, "What it was asked: {here}/_mock/totals   All that it can do: {here}/_mock/")?;
    out.flush()
}

/// Readable by its owner alone, also where there was such a file before.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let partial = path.with_extension("partial");
        match std::fs::remove_file(&partial) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn milliseconds(text: &str) -> Result<u64, String> {
    let end = text.find(|one: char| !one.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("must be a number with ms, s, m, h or d: 45s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "must begin with a number".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "is too long".to_owned())
}
