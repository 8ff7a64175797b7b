//! `kissops token list`.

use std::io::Write as _;

use kissops_core::{
    Timestamp, clock,
    id::InstanceName,
    vault::admin::{Grant, Grants},
};
use serde_json::json;

use crate::{
    args::TokenList,
    client::Query,
    context::{Context, out, print_json},
    desk::Desk,
    exit::{Exit, Failure},
    render::{
        Style, clean, human,
        table::{Cell, Column, Table},
        width,
    },
};

const COLUMNS: [Column; 7] = [
    Column::Left("PROVIDER"),
    Column::Left("ACCOUNT"),
    Column::Left("STATE"),
    Column::Left("EXPIRES"),
    Column::Left("REFRESHED"),
    Column::Right("FAILURES"),
    Column::Rest("INSTANCES"),
];

pub(super) async fn run(context: &Context, desk: &Desk, args: TokenList) -> Result<Exit, Failure> {
    let grants = all(desk, &args).await?;
    if context.json {
        print_json(&json!({ "grants": grants }))?;
        return Ok(Exit::Ok);
    }
    if grants.is_empty() {
        context.say("no grants; kissops token authorize PROVIDER ACCOUNT makes one");
        return Ok(Exit::Ok);
    }
    let now = clock::now();
    let mut table = Table::new(&COLUMNS);
    for grant in &grants {
        let instances: Vec<&str> = grant.instances.iter().map(InstanceName::as_str).collect();
        table.row(vec![
            clean::text(&grant.provider).into_owned().into(),
            clean::text(&grant.account).into_owned().into(),
            state(&grant.state),
            grant.expires_at.map_or_else(|| "-".into(), |at| expiry(at, now)),
            grant.last_refresh_at.map_or_else(|| "-".into(), |at| ago(at, now)).into(),
            grant.failures.to_string().into(),
            instances.join(" ").into(),
        ]);
    }
    let mut out = out();
    for line in table.lines(width(), context.style()) {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    advise(context, &grants);
    Ok(Exit::Ok)
}

/// All pages.
async fn all(desk: &Desk, args: &TokenList) -> Result<Vec<Grant>, Failure> {
    let (mut grants, mut after) = (Vec::new(), None::<String>);
    loop {
        let query = Query::new("/v1/tokens")
            .option("provider", args.provider.as_deref())
            .option("state", args.state.as_deref())
            .option("instance", args.instance.as_deref())
            .option("after", after.as_deref());
        let page: Grants = desk.get(&query.path()).await?;
        grants.extend(page.grants);
        after = page.next;
        if after.is_none() {
            return Ok(grants);
        }
    }
}

/// The state in the colour of what it asks for: red, a person; yellow, patience.
pub(super) fn state(state: &str) -> Cell {
    let paint = match state {
        "needs_reauth" | "revoked" => Style::red,
        "active" => Style::green,
        _ => Style::yellow,
    };
    Cell::painted(state, paint)
}

fn expiry(at: Timestamp, now: Timestamp) -> Cell {
    if at <= now {
        return Cell::painted("expired", Style::red);
    }
    format!("in {}", human::span(at.since(now).as_secs_f64())).into()
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", human::span(now.since(at).as_secs_f64()))
}

/// So many commands are worth listing.
const ADVICE: usize = 10;

/// The commands that mend what does not mend itself.
fn advise(context: &Context, grants: &[Grant]) {
    let with_help = grants.iter().filter(|grant| grant.state != "revoked" && grant.help.is_some());
    let commands: Vec<&str> = with_help.filter_map(|grant| grant.help.as_deref()).collect();
    if commands.is_empty() {
        return;
    }
    let style = context.style_of_stderr();
    let label = human::count(commands.len(), "grant needs you:", "grants need you:");
    context.say(&style.red(&label));
    for command in commands.iter().take(ADVICE) {
        context.say(&format!("  {}", clean::text(command)));
    }
    if commands.len() > ADVICE {
        context
            .say(&format!("  … and {} more: kissops token list --json", commands.len() - ADVICE));
    }
}
