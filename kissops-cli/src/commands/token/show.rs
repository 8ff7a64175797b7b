//! `kissops token show`.

use std::io::Write as _;

use kissops_core::{
    Timestamp,
    id::InstanceName,
    vault::admin::{Grant, RevealedToken},
};
use secrecy::ExposeSecret as _;

use crate::{
    args::TokenShow,
    context::{Context, out, print_json},
    desk::Desk,
    exit::{Exit, Failure},
    prompt::confirm_reveal,
    render::{clean, human},
};

pub(super) async fn run(context: &Context, desk: &Desk, args: &TokenShow) -> Result<Exit, Failure> {
    if args.reveal {
        return reveal(context, desk, args).await;
    }
    let grant: Grant = desk.get(&args.grant.path("")).await?;
    if context.json {
        print_json(&grant)?;
        return Ok(Exit::Ok);
    }
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), human::time);
    let words = |list: Vec<&str>| if list.is_empty() { "-".to_owned() } else { list.join(" ") };
    let state = match &grant.reason {
        Some(reason) => format!("{} since {}: {reason}", grant.state, human::time(grant.since)),
        None => format!("{} since {}", grant.state, human::time(grant.since)),
    };
    let mut out = out();
    for (label, value) in [
        ("grant", args.grant.shown()),
        ("state", state),
        ("obtained by", grant.flow.replace('_', " ")),
        ("scopes", words(grant.scopes.iter().map(String::as_str).collect())),
        ("instances", words(grant.instances.iter().map(InstanceName::as_str).collect())),
        ("token expires", time(grant.expires_at)),
        ("refreshed", format!("{}, generation {}", time(grant.last_refresh_at), grant.generation)),
        ("next refresh", time(grant.next_refresh_at)),
        ("refresh token ends", time(grant.refresh_expires_at)),
        ("failures", grant.failures.to_string()),
    ] {
        writeln!(out, "{label:<19} {}", clean::text(&value))?;
    }
    out.flush()?;
    if let Some(help) = &grant.help {
        context.say(&format!("help: {}", clean::text(help)));
    }
    Ok(Exit::Ok)
}

async fn reveal(context: &Context, desk: &Desk, args: &TokenShow) -> Result<Exit, Failure> {
    let shown = args.grant.shown();
    confirm_reveal(context, &format!("Show the access token of {shown}? It is recorded."))?;
    let token: RevealedToken = desk.post(&args.grant.path("reveal"), &()).await?;
    if context.json {
        print_json(&token)?;
        return Ok(Exit::Ok);
    }
    let mut out = out();
    writeln!(out, "{}", token.access_token.expose_secret())?;
    out.flush()?;
    if let Some(at) = token.expires_at {
        context.say(&format!("it expires {} UTC", human::time(at)));
    }
    Ok(Exit::Ok)
}
