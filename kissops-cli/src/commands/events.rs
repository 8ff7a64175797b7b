//! `kissops events`.

use std::io::Write as _;

use kissops_core::control::{Event, Events};

use crate::{
    args,
    client::{Client, EventStream, Query},
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{Style, clean, human},
};

/// How often a daemon that went away is looked for.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

pub(crate) async fn run(context: &Context, args: &args::Events) -> Result<Exit, Failure> {
    let client = Client::new(context)?;
    let query = Query::new("/v1/events")
        .targets(&args.targets)
        .add("limit", &args.limit.clamp(1, 1000).to_string())
        .option("since", args.since.as_deref())
        .option("until", args.until.as_deref());
    let page: Events = client.get(&query.path()).await?;
    for event in &page.events {
        print(context, event)?;
    }
    if !args.follow {
        return Ok(Exit::Ok);
    }
    // Nothing is lost between the page and the stream, nor while the daemon is replaced: each goes on after an id.
    let mut last = page.events.last().map_or_else(|| "0".to_owned(), |event| event.id.clone());
    if page.events.is_empty() && args.since.is_some() {
        last = newest(&client).await?;
    }
    loop {
        let mut stream = match EventStream::open(&client, &args.targets, Some(&last)).await {
            Ok(stream) => stream,
            Err(failure) if failure.is("daemon_unreachable") || failure.is("closed") => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        while let Some(event) = stream.next().await {
            print(context, &event)?;
            last = event.id;
        }
        context.say("the daemon went away; waiting for it (Ctrl-C ends this)");
    }
}

async fn newest(client: &Client) -> Result<String, Failure> {
    let page: Events = client.get("/v1/events?limit=1").await?;
    Ok(page.events.last().map_or_else(|| "0".to_owned(), |event| event.id.clone()))
}

fn print(context: &Context, event: &Event) -> Result<(), Failure> {
    if context.json {
        return print_json(event);
    }
    let mut out = out();
    writeln!(out, "{}", line(event, context.style()))?;
    Ok(out.flush()?)
}

/// One event as people read it.
pub(crate) fn line(event: &Event, style: Style) -> String {
    let at = style.dim(&human::time(event.at));
    let who = event.instance.as_ref().map_or("-", |name| name.as_str());
    let reason = clean::text(&event.reason);
    if let (Some(from), Some(to)) = (event.from, event.to) {
        let to = style.state(to, to.as_str());
        return format!("{at}  {}  {from} -> {to}  {reason}", style.bold(who));
    }
    let kind = event.kind.as_deref().unwrap_or("event");
    format!("{at}  {}  {}  {reason}", style.bold(who), clean::text(kind))
}
