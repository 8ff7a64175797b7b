//! `kissops logs`.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

use kissops_core::{
    Error, Timestamp,
    config::{self, DaemonConfig, Environment},
    control::{LogFailure, LogRequest},
    id::InstanceName,
    logs::{LogLine, LogReader, LogStream},
    supervisor::select::{Candidate, select},
};
use serde::Deserialize;

use crate::{
    args::Logs,
    client::{Client, Lines, Query},
    context::{Context, out},
    exit::{Exit, Failure},
    render::{clean, human},
    settings,
};

pub(crate) async fn run(context: &Context, args: &Logs) -> Result<Exit, Failure> {
    let request = request(args);
    // What makes no sense is said before anybody is asked.
    request
        .query(Vec::new())
        .map_err(|err| Failure::usage(err.to_string(), "kissops logs --help"))?;
    match from_daemon(context, &request).await {
        Err(failure) if failure.is("daemon_unreachable") => {
            let Ok(daemon) = settings::daemon(context) else { return Err(failure) };
            if !daemon.log_dir.is_dir() {
                return Err(failure);
            }
            let folder = daemon.log_dir.display();
            context.say(&format!("no daemon answers; reading the files in {folder}"));
            from_files(context, args, &request, &daemon).await
        }
        answer => answer,
    }
}

fn request(args: &Logs) -> LogRequest {
    LogRequest {
        target: (!args.targets.is_empty()).then(|| args.targets.join(",")),
        lines: args.lines,
        since: args.since.clone(),
        until: args.until.clone(),
        grep: args.grep.clone(),
        level: args.level.clone(),
        stream: args.stderr.then_some(LogStream::Stderr),
        follow: args.follow.then_some(1),
    }
}

/// A line as the daemon sends it, or the reason why no more come.
#[derive(Deserialize)]
#[serde(untagged)]
enum Sent {
    Line(Entry),
    Failure(LogFailure),
}

#[derive(Deserialize)]
struct Entry {
    at: Timestamp,
    instance: InstanceName,
    stream: LogStream,
    line: String,
    #[serde(default)]
    partial: bool,
}

impl From<LogLine> for Entry {
    fn from(line: LogLine) -> Self {
        let LogLine { at, instance, stream, line, partial } = line;
        Self { at, instance, stream, line, partial }
    }
}

async fn from_daemon(context: &Context, request: &LogRequest) -> Result<Exit, Failure> {
    let client = Client::new(context)?;
    let number = |value: Option<usize>| value.map(|value| value.to_string());
    let query = Query::new("/v1/logs")
        .option("target", request.target.as_deref())
        .option("lines", number(request.lines).as_deref())
        .option("since", request.since.as_deref())
        .option("until", request.until.as_deref())
        .option("grep", request.grep.as_deref())
        .option("level", request.level.as_deref())
        .option("stream", request.stream.map(LogStream::name))
        .option("follow", request.follow.map(|_| "1"));
    let mut lines = Lines::new(client.stream(&query.path()).await?);
    let mut printer = Printer::new(context);
    loop {
        if lines.is_drained() {
            printer.flush()?;
        }
        let Some(text) = lines.next().await else { break };
        match serde_json::from_str(&text) {
            Ok(Sent::Line(_)) if context.json => printer.raw(&text)?,
            Ok(Sent::Line(line)) => printer.line(&line)?,
            Ok(Sent::Failure(failure)) => {
                printer.flush()?;
                return Err(failure.error.into());
            }
            Err(_) => break,
        }
    }
    printer.flush()?;
    if request.follow.is_some() {
        let help = "start it with kissops up; without -f the files are read directly";
        return Err(Failure::new("closed", "the daemon went away", help));
    }
    Ok(Exit::Ok)
}

async fn from_files(
    context: &Context,
    args: &Logs,
    request: &LogRequest,
    daemon: &DaemonConfig,
) -> Result<Exit, Failure> {
    let query = request.query(whose(context, &args.targets, &daemon.log_dir)?)?;
    let (lines, follow) = LogReader::new(&daemon.log_dir).follow(&query)?;
    let mut printer = Printer::new(context);
    for line in lines {
        printer.log_line(context, line)?;
    }
    printer.flush()?;
    let mut follow = if args.follow { follow } else { return Ok(Exit::Ok) };
    loop {
        for line in follow.next().await? {
            printer.log_line(context, line)?;
        }
        printer.flush()?;
    }
}

/// The instances that have a log; their tags are known as far as the file can be read.
fn whose(
    context: &Context,
    targets: &[String],
    log_dir: &Path,
) -> Result<Vec<InstanceName>, Failure> {
    let what = || format!("list {}", log_dir.display());
    let mut known: Vec<(InstanceName, Vec<String>)> = Vec::new();
    let loaded = config::find(context.config.as_deref())
        .and_then(|file| config::load(&file, &Environment::of_process()));
    let definitions = loaded.map(|config| config.instances).unwrap_or_default();
    for entry in fs::read_dir(log_dir).map_err(Error::io(what()))? {
        let entry = entry.map_err(Error::io(what()))?;
        let name = entry.file_name().to_str().and_then(|name| InstanceName::new(name).ok());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(name) = name.filter(|_| is_folder) else { continue };
        let tags = definitions.iter().find(|definition| definition.name == name);
        let tags = tags.map(|definition| definition.tags.clone()).unwrap_or_default();
        known.push((name, tags));
    }
    known.sort();
    if targets.is_empty() {
        return Ok(known.into_iter().map(|(name, _)| name).collect());
    }
    let candidates: Vec<_> = known.iter().map(|(name, tags)| Candidate { name, tags }).collect();
    Ok(select(targets, &candidates)?)
}

/// Prints lines: as they were written into a pipe or a file, made harmless on a terminal.
struct Printer {
    out: io::BufWriter<io::StdoutLock<'static>>,
    style: crate::render::Style,
    terminal: bool,
}

impl Printer {
    fn new(context: &Context) -> Self {
        Self { out: out(), style: context.style(), terminal: io::stdout().is_terminal() }
    }

    fn raw(&mut self, json: &str) -> io::Result<()> {
        writeln!(self.out, "{json}")
    }

    fn log_line(&mut self, context: &Context, line: LogLine) -> Result<(), Failure> {
        if context.json {
            serde_json::to_writer(&mut self.out, &line).map_err(io::Error::from)?;
            return Ok(self.out.write_all(b"\n")?);
        }
        Ok(self.line(&line.into())?)
    }

    fn line(&mut self, line: &Entry) -> io::Result<()> {
        let at = self.style.dim(&human::time_with_millis(line.at));
        let name = self.style.bold(line.instance.as_str());
        let mark = match line.stream {
            LogStream::Stdout => "|".to_owned(),
            LogStream::Stderr => self.style.red("!"),
        };
        let text = if self.terminal { clean::text(&line.line) } else { line.line.as_str().into() };
        let cut = if line.partial { " …" } else { "" };
        writeln!(self.out, "{at} {name} {mark} {text}{cut}")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
