//! `kissops store`.

use std::io::Write as _;

use kissops_core::{
    Error,
    config::{self, Config, Environment},
    control::SOCKET_NAME,
    store::{self, CheckReport, CopyPhase, CopyReport, StoreOptions, StoreUrl},
};
use serde_json::{Value, json};

use crate::{
    args::{Store, StoreCopy, StoreNamed},
    client::Client,
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{
        clean, human,
        progress::Progress,
        table::{Column, Table},
        width,
    },
    settings,
};

pub(crate) async fn run(context: &Context, command: Store) -> Result<Exit, Failure> {
    match command {
        Store::Check(args) => check(context, &args).await,
        Store::Vacuum(args) => vacuum(context, &args).await,
        Store::Copy(args) => copy(context, &args).await,
    }
}

/// The store that is meant: a URL, `env:NAME` for one that holds a password, or the configuration's.
fn meant(context: &Context, named: Option<&str>) -> Result<(StoreUrl, StoreOptions), Failure> {
    let Some(named) = named else {
        let config = configuration(context)?;
        return Ok((config.store.url.clone(), config.store.options()));
    };
    Ok((parse(named)?, StoreOptions::default()))
}

/// Reads a URL of a store as it stands on the command line.
pub(crate) fn parse(named: &str) -> Result<StoreUrl, Failure> {
    let looked_up;
    let text = match named.strip_prefix("env:") {
        Some(variable) => {
            looked_up = std::env::var(variable).map_err(|_| {
                let message = format!("the variable {variable} is not set, or not UTF-8");
                Failure::usage(message, "put the URL there, for example postgres://…")
            })?;
            &*looked_up
        }
        None => named,
    };
    let here = std::env::current_dir()?;
    StoreUrl::parse(text, &here).map_err(|err| {
        let help =
            "sqlite:FILE, postgres://USER@HOST/DATABASE, or env:NAME for a URL with a password";
        Failure::usage(err.to_string(), help)
    })
}

fn configuration(context: &Context) -> Result<Config, Failure> {
    let file = settings::file(context)?;
    config::load(&file, &Environment::of_process()).map_err(|errors| settings::failure(&errors))
}

/// Opening makes a store where there is none, and brings an older one up to date. Nobody wants that who asks about one.
async fn must_exist(url: &StoreUrl) -> Result<(), Failure> {
    let newest = store::newest_schema_version();
    match store::schema_version(url).await.map_err(told)? {
        Some(version) if version < newest => Err(Failure::new(
            "wrong_version",
            format!("{url} is of schema version {version}, this program's is {newest}"),
            "nothing was changed: start kissopsd of this version once, which brings it up to date",
        )),
        // A newer one is refused by opening it.
        Some(_) => Ok(()),
        None => Err(Failure::new(
            "not_found",
            format!("there is no store in {url}"),
            "kissops up makes it; or name another: sqlite:FILE, postgres://… or env:NAME",
        )),
    }
}

/// As every error, but for its exit code: what is in use or there already has nothing to do with running.
fn told(err: Error) -> Failure {
    match err {
        Error::WrongState { what, state, help } => {
            Failure::new("unusable", format!("{what} is {state}"), help)
        }
        other => other.into(),
    }
}

async fn check(context: &Context, args: &StoreNamed) -> Result<Exit, Failure> {
    let (url, options) = meant(context, args.store.as_deref())?;
    must_exist(&url).await?;
    let report = store::open(&url, options).await.map_err(told)?.check().await?;
    let exit = if report.problems.is_empty() { Exit::Ok } else { Exit::Failed };
    if context.json {
        let mut value = serde_json::to_value(&report).map_err(std::io::Error::from)?;
        if let Value::Object(fields) = &mut value {
            fields.insert("ok".into(), report.problems.is_empty().into());
        }
        print_json(&value)?;
        return Ok(exit);
    }
    tables(context, &report)?;
    if report.problems.is_empty() {
        context.say(&format!(
            "{} is sound: {}, schema {}, {}",
            report.store,
            report.engine,
            report.schema_version,
            human::size(report.size_bytes)
        ));
    } else {
        let mut out = out();
        for problem in &report.problems {
            writeln!(out, "{} {}", context.style().red("problem:"), clean::text(problem))?;
        }
        out.flush()?;
        context.say("help: stop the daemon, keep a copy of the database, and restore a backup");
    }
    Ok(exit)
}

const SIZES: [Column; 3] = [Column::Left("TABLE"), Column::Right("ROWS"), Column::Right("SIZE")];

fn tables(context: &Context, report: &CheckReport) -> Result<(), Failure> {
    let mut table = Table::new(&SIZES);
    for one in &report.tables {
        let size = one.size_bytes.map_or_else(|| "-".into(), human::size);
        table.row(vec![one.name.clone().into(), one.rows.to_string().into(), size.into()]);
    }
    print(&table, context)
}

fn print(table: &Table, context: &Context) -> Result<(), Failure> {
    let mut out = out();
    for line in table.lines(width(), context.style()) {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

async fn vacuum(context: &Context, args: &StoreNamed) -> Result<Exit, Failure> {
    let (url, options) = meant(context, args.store.as_deref())?;
    must_exist(&url).await?;
    let report = store::open(&url, options).await.map_err(told)?.vacuum().await?;
    if context.json {
        print_json(&report)?;
    } else {
        let (before, after) = (human::size(report.before_bytes), human::size(report.after_bytes));
        context.say(&format!("{url}: {before} before, {after} now"));
    }
    Ok(Exit::Ok)
}

async fn copy(context: &Context, args: &StoreCopy) -> Result<Exit, Failure> {
    let (from, _) = meant(context, args.from.as_deref())?;
    let to = parse(&args.to)?;
    must_exist(&from).await?;
    if !args.while_running {
        refuse_running(context, &from).await?;
    }
    let mut progress = Progress::new(context.quiet || context.json);
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    let copy = store::copy_until(&from, &to, interrupted, |now| {
        let phase = match now.phase {
            CopyPhase::Copying => "copying",
            CopyPhase::Proving => "proving",
        };
        progress.rows(phase, now.table, now.rows, now.total);
    });
    // Interrupted too late, it has been made, and says so.
    let report = copy.await.map_err(|err| match err {
        Error::Closed { what: "the copy" } => {
            Failure::new("cancelled", "stopped: nothing was copied", "")
        }
        err => told(err),
    })?;
    drop(progress);
    tell(context, &report, &to)?;
    Ok(Exit::Ok)
}

/// What a daemon writes after the copy has begun would be missing from it.
async fn refuse_running(context: &Context, from: &StoreUrl) -> Result<(), Failure> {
    // Without a configuration there is no daemon that could be found.
    let Ok(config) = configuration(context) else { return Ok(()) };
    let socket = context.socket.clone();
    let socket = socket.unwrap_or_else(|| config.daemon.runtime_dir.join(SOCKET_NAME));
    if config.store.url != *from || !Client::at(socket)?.is_up().await? {
        return Ok(());
    }
    Err(Failure::new(
        "busy",
        "the daemon is writing to this store: what it writes from now on would not be copied",
        "stop the daemon first, or say --while-running for a trial",
    ))
}

/// How the configuration names the copy. A server's URL is not shown: what follows its `?`, and a password, belong to it.
fn advice(to: &StoreUrl) -> String {
    match to {
        StoreUrl::Sqlite(path) => format!("set [store] url to \"sqlite:{}\"", path.display()),
        _ => "put the URL that you gave as --to, whole, into a variable in .env, such as DATABASE_URL, and set [store] url to { env = \"DATABASE_URL\" }".to_owned(),
    }
}

const COPIED: [Column; 3] =
    [Column::Left("TABLE"), Column::Right("ROWS"), Column::Left("CHECKSUM")];

fn tell(context: &Context, report: &CopyReport, to: &StoreUrl) -> Result<(), Failure> {
    let seconds = report.elapsed.as_secs_f64();
    if context.json {
        return print_json(&json!({ "ok": true, "tables": report.tables, "seconds": seconds }));
    }
    let mut table = Table::new(&COPIED);
    for one in &report.tables {
        let rows = one.rows.to_string();
        table.row(vec![one.name.clone().into(), rows.into(), one.checksum.clone().into()]);
    }
    print(&table, context)?;
    let rows: u64 = report.tables.iter().map(|table| table.rows).sum();
    context.say(&format!(
        "copied and read back: {rows} rows in {seconds:.1} s; the same on both sides\n\
         next: {}, and start the daemon",
        advice(to)
    ));
    Ok(())
}
