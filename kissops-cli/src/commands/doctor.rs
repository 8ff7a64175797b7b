//! `kissops doctor`.

mod machine;
mod state;

use std::{io::Write as _, path::PathBuf};

use kissops_core::{
    config::{self, Config, Environment},
    control::{SOCKET_NAME, Status, Verdict},
};
use serde::Serialize;

use crate::{
    client::Client,
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{Style, clean, human, instances},
    settings,
};

/// What one look has found.
#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    status: Verdict,
    message: String,
    help: String,
}

impl Finding {
    fn new(name: &'static str, status: Verdict, message: impl Into<String>, help: &str) -> Self {
        Self { name, status, message: message.into(), help: help.to_owned() }
    }

    fn pass(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(name, Verdict::Pass, message, "")
    }
}

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let mut findings = Vec::new();
    let config = configuration(context, &mut findings);
    let status = daemon(context, config.as_ref(), &mut findings).await;
    if let Some(config) = &config {
        for (key, folder) in [
            ("state_dir", &config.daemon.state_dir),
            ("runtime_dir", &config.daemon.runtime_dir),
            ("log_dir", &config.daemon.log_dir),
        ] {
            findings.push(machine::folder(key, folder));
        }
        findings.push(machine::space(&config.daemon.log_dir));
        findings.push(state::store(&config.store.url).await);
        findings.extend(state::key(config));
    }
    if status.is_some()
        && let Some(Ok(client)) = socket(context, config.as_ref()).map(Client::at)
    {
        findings.extend(state::vault(&client).await);
    }
    let pid = status.as_ref().map(|status| status.fleet.pid);
    findings.push(machine::cgroup(pid));
    let instances = match (&status, &config) {
        (Some(status), _) => status.instances.len(),
        (None, Some(config)) => config.instances.len(),
        (None, None) => 0,
    };
    findings.push(machine::descriptors(pid, instances));
    print(context, &findings)
}

fn configuration(context: &Context, findings: &mut Vec<Finding>) -> Option<Config> {
    let found = config::find(context.config.as_deref());
    match found.and_then(|file| config::load(&file, &Environment::of_process())) {
        Ok(config) => {
            let instances = human::count(config.instances.len(), "instance", "instances");
            let warnings = human::count(config.warnings.len(), "warning", "warnings");
            let message = format!("{}, {instances}, {warnings}", config.path.display());
            let help = if config.warnings.is_empty() { "" } else { "kissops check shows them" };
            findings.push(Finding::new("configuration", Verdict::Pass, message, help));
            Some(config)
        }
        Err(errors) => {
            let help = "kissops check shows each error with its place";
            let finding = Finding::new("configuration", Verdict::Fail, errors.to_string(), help);
            findings.push(finding);
            None
        }
    }
}

fn socket(context: &Context, config: Option<&Config>) -> Option<PathBuf> {
    match (&context.socket, config) {
        (Some(socket), _) => Some(socket.clone()),
        (None, Some(config)) => Some(config.daemon.runtime_dir.join(SOCKET_NAME)),
        // A running daemon may be asked although the rest of its file is wrong.
        (None, None) => settings::socket(context).ok(),
    }
}

async fn daemon(
    context: &Context,
    config: Option<&Config>,
    findings: &mut Vec<Finding>,
) -> Option<Status> {
    let socket = socket(context, config)?;
    let asked = match Client::at(socket.clone()) {
        Ok(client) => client.status(&[]).await,
        Err(failure) => Err(failure),
    };
    match asked {
        Ok(status) => {
            let own = env!("CARGO_PKG_VERSION");
            let fleet = &status.fleet;
            let message =
                format!("pid {}, version {}, at {}", fleet.pid, fleet.version, socket.display());
            findings.push(if fleet.version == own {
                Finding::pass("daemon", message)
            } else {
                let help = format!("this is kissops {own}: restart the daemon after an upgrade");
                Finding::new("daemon", Verdict::Warn, message, &help)
            });
            findings.push(Finding::new(
                "instances",
                status.verdict,
                instances::headline(&status, Style::new(false)),
                if status.verdict == Verdict::Pass { "" } else { "kissops status says which" },
            ));
            Some(status)
        }
        Err(Failure::Told { code, message, help }) => {
            let down = code == "daemon_unreachable";
            let verdict = if down { Verdict::Warn } else { Verdict::Fail };
            findings.push(Finding::new("daemon", verdict, message, &help));
            None
        }
        Err(_) => None,
    }
}

fn print(context: &Context, findings: &[Finding]) -> Result<Exit, Failure> {
    let worst = findings.iter().map(|finding| finding.status).max().unwrap_or(Verdict::Pass);
    if context.json {
        print_json(&serde_json::json!({ "verdict": worst, "checks": findings }))?;
    } else {
        let (style, mut out) = (context.style(), out());
        for finding in findings {
            let mark = match finding.status {
                Verdict::Pass if context.quiet => continue,
                Verdict::Pass => style.green("ok  "),
                Verdict::Warn => style.yellow("warn"),
                Verdict::Fail => style.red("FAIL"),
            };
            writeln!(out, "{mark}  {}: {}", finding.name, clean::text(&finding.message))?;
            if !finding.help.is_empty() {
                writeln!(out, "      {}", clean::text(&finding.help))?;
            }
        }
        out.flush()?;
    }
    Ok(if worst == Verdict::Fail { Exit::Failed } else { Exit::Ok })
}
