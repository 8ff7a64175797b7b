//! `kissops describe`.

use std::io::{self, Write};

use kissops_core::control::InstanceDetail;
use serde_json::Value;

use super::{crashes, events};
use crate::{
    args::Describe,
    client::{Client, escape},
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{
        clean, human,
        table::{Column, Table},
        tree, width,
    },
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
    if let Some(processes) = detail.processes.as_array().filter(|list| !list.is_empty()) {
        writeln!(out, "\n{}", style.bold("Processes"))?;
        for line in process_table(processes).lines(width().saturating_sub(2), style) {
            writeln!(out, "  {line}")?;
        }
    }
    writeln!(out, "\n{}", style.bold("Definition"))?;
    tree::write(&mut out, &unnamed(&detail.definition), 1)?;
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

const PROCESSES: [Column; 7] = [
    Column::Right("PID"),
    Column::Right("PARENT"),
    Column::Right("MEMORY"),
    Column::Right("CPU TIME"),
    Column::Right("THREADS"),
    Column::Right("FILES"),
    Column::Rest("COMMAND"),
];

/// The process tree. What the kernel does not tell is a dash.
fn process_table(processes: &[Value]) -> Table<'static> {
    let mut table = Table::new(&PROCESSES);
    for process in processes {
        let number = |key: &str| process[key].as_u64();
        let plain = |key: &str| number(key).map(|number| number.to_string());
        let arguments = process["cmdline"].as_array().map(Vec::as_slice).unwrap_or_default();
        let words: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
        // A zombie, or a thread of the kernel, has no arguments.
        let command = match words.as_slice() {
            [] => format!("[{}]", process["comm"].as_str().unwrap_or_default()),
            words => words.join(" "),
        };
        let cells = [
            plain("pid"),
            plain("ppid"),
            number("rss_bytes").map(human::size),
            number("cpu_ticks").map(cpu_time),
            plain("threads"),
            plain("open_files"),
            Some(clean::text(&command).into_owned()),
        ];
        let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()).into());
        table.row(cells.collect());
    }
    table
}

#[expect(clippy::cast_precision_loss, reason = "whole seconds are shown")]
fn cpu_time(ticks: u64) -> String {
    human::span(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The definition below its heading, which has the name already.
fn unnamed(definition: &Value) -> Value {
    let mut definition = definition.clone();
    if let Some(members) = definition.as_object_mut() {
        members.remove("name");
    }
    definition
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
        let processes = human::count(processes, "process", "processes");
        let threads = human::count(threads, "thread", "threads");
        line("Tree", &format!("{processes}, {threads}"))?;
    }
    if let Some(at) = instance.next_start_at {
        line("Next start", &human::time(at))?;
    }
    if let Some(exit) = &instance.last_exit {
        line("Last exit", &format!("{} at {}", exit.reason, human::time(exit.at)))?;
    }
    Ok(())
}
