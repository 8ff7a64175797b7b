//! `kissops db copy`.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kissops_core::{
    Error,
    dbcopy::{Copier, OnMismatch, Options, Phase, Plan, Progress, Report, Watcher},
};
use serde_json::json;

use crate::{
    args::{Db, DbCopy, Mismatch},
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{
        self, clean, human,
        table::{Column, Table},
        width,
    },
};

/// Where the target may be named instead of in the arguments, which every user of the machine can read.
const TARGET: &str = "KISSOPS_DB_COPY_TO";

pub(crate) async fn run(context: &Context, command: Db) -> Result<Exit, Failure> {
    let Db::Copy(args) = command;
    let source = source(&args.from)?;
    let target =
        args.to.clone().or_else(|| std::env::var(TARGET).ok().filter(|url| !url.is_empty()));
    if target.is_none() && !args.dry_run {
        return Err(Failure::usage(
            "there is no target",
            format!("say --to postgres://USER@HOST/DATABASE, or set {TARGET}"),
        ));
    }
    let began = Instant::now();
    let target = target.map(Into::into);
    let mut interrupted = pin!(async { drop(tokio::signal::ctrl_c().await) });
    let watcher = meter(context);
    let copier = tokio::select! {
        biased;
        () = &mut interrupted => return Err(cancelled()),
        copier = Copier::prepare(&source, target.as_ref(), options(&args), &watcher) => copier?,
    };
    drop(watcher);
    tell_plan(context, &args, copier.plan())?;
    if args.dry_run {
        return Ok(if copier.plan().is_refused() { Exit::Failed } else { Exit::Ok });
    }
    if copier.plan().is_refused() {
        return Err(Failure::Said(Exit::Failed));
    }
    let lost =
        json!({ "findings": copier.plan().findings, "not_copied": copier.plan().not_copied });
    let rows = copier.plan().rows();
    let tables = copier.plan().tables.len();
    let what = format!(
        "{} in {}",
        human::count(rows, "row", "rows"),
        human::count(tables, "table", "tables")
    );
    context.confirm(&format!("Copy {what}?"))?;
    // Interrupted too late, it has been made, and says so.
    let report = copier.run_until(interrupted, &meter(context)).await.map_err(failed)?;
    tell_report(context, &report, rows, began.elapsed(), &lost)?;
    Ok(Exit::Ok)
}

fn cancelled() -> Failure {
    let help = "start again; the target is as it was";
    Failure::new("cancelled", "interrupted: nothing was copied", help)
}

fn options(args: &DbCopy) -> Options {
    Options {
        schema: args.schema.clone(),
        on_mismatch: match args.on_mismatch {
            Mismatch::Fail => OnMismatch::Fail,
            Mismatch::Text => OnMismatch::Text,
            Mismatch::Null => OnMismatch::Null,
        },
        only: args.only.clone(),
        exclude: args.exclude.clone(),
        skip_untranslatable: args.skip_untranslatable,
    }
}

/// `sqlite:/path`, `sqlite:///path`, or just the path.
fn source(text: &str) -> Result<PathBuf, Failure> {
    let path =
        text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")).unwrap_or(text);
    if path.is_empty() || path.contains("://") {
        return Err(Failure::usage(
            // Without the text: a URL may hold a password.
            "--from names no SQLite file",
            "say --from sqlite:/path/bot.db",
        ));
    }
    Ok(path.into())
}

fn failed(err: Error) -> Failure {
    let help = match &err {
        Error::Io { .. } => {
            "nothing was copied; mend what the server names, or leave that table out with --exclude"
        }
        Error::Corrupt { .. } => {
            "nothing was copied; if the file itself is damaged, try its last backup"
        }
        Error::Closed { what: "the copy" } => return cancelled(),
        Error::Closed { .. } => "nothing was copied; start again",
        _ => return err.into(),
    };
    Failure::new("copy_failed", err.chain(), help)
}

/// Tells how far the copy is, until it is dropped.
fn meter(context: &Context) -> Watcher {
    let progress = Mutex::new(render::progress::Progress::new(context.quiet || context.json));
    Arc::new(move |now: Progress<'_>| {
        let table = clean::text(now.table);
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        let (phase, of) = (verb(now.phase), now.of.unwrap_or_default());
        match now.phase {
            Phase::Lint => progress.show(&table, |_| format!("{phase} {table}: {} rows", now.rows)),
            Phase::Index => {
                progress.show(phase, |_| format!("{phase}: {table} ({} of {of})", now.rows + 1));
            }
            Phase::Load | Phase::Proof => progress.rows(phase, &table, now.rows, of),
        }
    })
}

fn verb(phase: Phase) -> &'static str {
    match phase {
        Phase::Lint => "looking at",
        Phase::Load => "loading",
        Phase::Index => "after the rows",
        Phase::Proof => "reading back",
    }
}

fn tell_plan(context: &Context, args: &DbCopy, plan: &Plan) -> Result<(), Failure> {
    if context.json {
        if args.dry_run || plan.is_refused() {
            print_json(&json!({ "refused": plan.is_refused(), "plan": plan, "ddl": plan.ddl() }))?;
        }
        return Ok(());
    }
    if args.dry_run {
        let mut out = out();
        for line in plan.ddl().lines() {
            writeln!(out, "{}", clean::text(line))?;
        }
        out.flush()?;
        chosen(context, plan);
    }
    let style = context.style_of_stderr();
    // What refuses the copy is said even where talk is not wanted.
    let say = |refused: bool, text: &str| {
        let text = clean::text(text);
        if refused {
            let _ = writeln!(io::stderr(), "{} {text}", style.red("refused:"));
        } else {
            context.say(&format!("{} {text}", style.yellow("note:")));
        }
    };
    for one in &plan.findings {
        let more = if one.count > one.rows.len() as u64 { ", …" } else { "" };
        let place = format!(
            "{}.{}: {} ({}: {}{more})",
            one.table,
            one.column,
            one.problem,
            human::count(one.count, "row", "rows"),
            one.rows.join(", ")
        );
        say(one.refused, &format!("{place}: {}", one.outcome));
    }
    for one in &plan.not_copied {
        say(one.refused, &format!("{} {} is not copied: {}", one.what, one.name, one.reason));
    }
    for note in &plan.notes {
        say(false, note);
    }
    if plan.not_copied.iter().any(|one| one.refused) {
        let _ =
            writeln!(io::stderr(), "--skip-untranslatable copies without what has no counterpart");
    }
    if plan.is_refused() {
        let _ = writeln!(io::stderr(), "nothing was written");
    }
    Ok(())
}

/// The types that were chosen by what is stored.
fn chosen(context: &Context, plan: &Plan) {
    for table in &plan.tables {
        for column in &table.columns {
            if let Some(note) = &column.note {
                let (name, becomes) = (&column.name, &column.becomes);
                let text = format!("-- {}.{name} becomes {becomes}: it holds {note}", table.name);
                context.say(&clean::text(&text));
            }
        }
    }
}

const COLUMNS: [Column; 4] = [
    Column::Left("TABLE"),
    Column::Right("ROWS"),
    Column::Right("NEXT ID"),
    Column::Rest("CHECKSUM, THE SAME ON BOTH SIDES"),
];

#[expect(clippy::cast_precision_loss, reason = "rows are shown in thousands")]
fn tell_report(
    context: &Context,
    report: &Report,
    rows: u64,
    took: Duration,
    lost: &serde_json::Value,
) -> Result<(), Failure> {
    if context.json {
        let elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        return print_json(&json!({
            "rows": rows,
            "elapsed_ms": elapsed_ms,
            "proven": report,
            "findings": lost["findings"],
            "not_copied": lost["not_copied"],
        }));
    }
    let mut table = Table::new(&COLUMNS);
    for one in &report.tables {
        table.row(vec![
            clean::text(&one.table).into_owned().into(),
            one.rows.to_string().into(),
            one.next_id.map(|id| id.to_string()).unwrap_or_default().into(),
            one.checksum.clone().into(),
        ]);
    }
    let mut out = out();
    for line in table.lines(width(), context.style()) {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    let seconds = took.as_secs_f64();
    context.say(&format!(
        "copied and proven: {} in {seconds:.1} s ({:.0} rows/s), {} made and found to hold",
        human::count(rows, "row", "rows"),
        rows as f64 / seconds.max(0.001),
        human::count(report.steps, "key, index or check", "keys, indexes and checks"),
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for text in ["sqlite:/a/b.db", "sqlite:///a/b.db", "/a/b.db"] {
            assert_eq!(source(text).unwrap(), PathBuf::from("/a/b.db"));
        }
        assert!(source("postgres://x").is_err() && source("sqlite:").is_err());
    }
}
