//! `kissops describe`.

use std::io::{self, Write};

use kissops_core::control::InstanceDetail;

use super::{crashes, events};
use crate::{
    args::Describe,
    client::{Client, escape},
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{clean, human, tree},
};

pub(crate) async fn run(context: &Context, args: &Describe) -> Result<Exit, Failure> {
    let path = format!("/v1/instances/{}", escape(&args.name));
    let detail: InstanceDetail = Client::new(context)?.get(&path).await?;
    if context.json {
        print_json(&detail)?;
        return Ok(Exit::Ok);
    }
    let (style, mut out) = (context.style(), out());
    state(&mut out, &detail)?;
    if detail.processes.as_array().is_some_and(|list| !list.is_empty()) {
        writeln!(out, "\n{}", style.bold("Processes"))?;
        tree::write(&mut out, &detail.processes, 1)?;
    }
    writeln!(out, "\n{}", style.bold("Definition"))?;
    tree::write(&mut out, &detail.definition, 1)?;
    if !detail.events.is_empty() {
        writeln!(out, "\n{}", style.bold("Last events"))?;
        for event in &detail.events {
            writeln!(out, "  {}", events::line(event, style))?;
        }
    }
    if let Some(crash) = &detail.last_crash {
        writeln!(out, "\n{}", style.bold("Last crash"))?;
        let after = human::span(crash.uptime_seconds);
        writeln!(out, "  {}  {} after {after}", human::time(crash.at), crashes::reason(crash))?;
        for line in &crash.last_lines {
            writeln!(out, "    {}", clean::text(line))?;
        }
    }
    Ok(out.flush().map(|()| Exit::Ok)?)
}

fn state(out: &mut impl Write, detail: &InstanceDetail) -> io::Result<()> {
    let instance = &detail.instance;
    let mut line = |key: &str, text: &str| writeln!(out, "{:<14} {}", key, clean::text(text));
    line("Name", instance.name.as_str())?;
    if !instance.description.is_empty() {
        line("Description", &instance.description)?;
    }
    if !instance.tags.is_empty() {
        line("Tags", &instance.tags.join(", "))?;
    }
    let since = human::time(instance.since);
    line("State", &format!("{} since {since}, {}", instance.state, instance.reason))?;
    line("Ready", if instance.ready { "yes" } else { "no" })?;
    if let Some(text) = &instance.status_text {
        line("Says", text)?;
    }
    if let Some(pid) = instance.pid {
        line("Main process", &pid.to_string())?;
    }
    if let Some(seconds) = instance.uptime_seconds {
        line("Uptime", &human::span(seconds))?;
    }
    line("Restarts", &instance.restarts.to_string())?;
    if let Some(bytes) = instance.rss_bytes {
        let limit = instance.memory_max_bytes.map(human::size);
        let limit = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        line("Memory", &format!("{}{limit}", human::size(bytes)))?;
    }
    if let Some(percent) = instance.cpu_percent {
        line("CPU", &format!("{percent:.1} %"))?;
    }
    if let (Some(processes), Some(threads)) = (instance.processes, instance.threads) {
        line("Tree", &format!("{processes} processes, {threads} threads"))?;
    }
    if let Some(at) = instance.next_start_at {
        line("Next start", &human::time(at))?;
    }
    if let Some(exit) = &instance.last_exit {
        line("Last exit", &format!("{} at {}", exit.reason, human::time(exit.at)))?;
    }
    Ok(())
}
