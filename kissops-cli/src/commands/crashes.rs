//! `kissops crashes`.

use std::io::Write as _;

use kissops_core::control::{self, Crash};

use crate::{
    args,
    client::{Client, Query},
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{
        clean, human,
        table::{Column, Table},
        width,
    },
};

const COLUMNS: [Column; 5] = [
    Column::Left("AT (UTC)"),
    Column::Left("NAME"),
    Column::Right("UPTIME"),
    Column::Right("RESTARTS"),
    Column::Rest("REASON"),
];

pub(crate) async fn run(context: &Context, args: &args::Crashes) -> Result<Exit, Failure> {
    let query = Query::new("/v1/crashes")
        .targets(&args.targets)
        .add("limit", &args.limit.clamp(1, 1000).to_string())
        .option("since", args.since.as_deref());
    let crashes: control::Crashes = Client::new(context)?.get(&query.path()).await?;
    if context.json {
        print_json(&crashes)?;
        return Ok(Exit::Ok);
    }
    if crashes.crashes.is_empty() {
        context.say("no crashes");
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&COLUMNS);
    for crash in &crashes.crashes {
        table.row(vec![
            human::time(crash.at).into(),
            crash.instance.as_str().into(),
            human::span(crash.uptime_seconds).into(),
            crash.restarts.to_string().into(),
            reason(crash).into(),
        ]);
    }
    let mut out = out();
    let lines = table.lines(width(), context.style());
    let (titles, rows) = lines.split_first().map_or((None, &lines[..]), |(t, r)| (Some(t), r));
    if let Some(titles) = titles {
        writeln!(out, "{titles}")?;
    }
    for (row, crash) in rows.iter().zip(&crashes.crashes) {
        writeln!(out, "{row}")?;
        for line in crash.last_lines.iter().filter(|_| args.lines) {
            writeln!(out, "    {}", clean::text(line))?;
        }
    }
    Ok(out.flush().map(|()| Exit::Ok)?)
}

/// Why it died, with what the exit status alone does not say.
pub(crate) fn reason(crash: &Crash) -> String {
    let mut text = clean::text(&crash.reason).into_owned();
    if crash.out_of_memory && !text.contains("memory") {
        text += " (out of memory)";
    }
    if crash.core_dumped && !text.contains("core") {
        text += " (core dumped)";
    }
    text
}
