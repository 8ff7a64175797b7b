//! `kissops token authorize`.

use std::{io::Write as _, time::Duration};

use kissops_core::vault::admin::{
    Authorization, AuthorizationState, AuthorizeFlow, AuthorizeRequest,
};

use super::instances;
use crate::{
    args::TokenAuthorize,
    context::{Context, out, print_json},
    desk::Desk,
    exit::{Exit, Failure},
    render::{clean, human},
};

pub(super) async fn run(
    context: &Context,
    desk: &Desk,
    args: TokenAuthorize,
) -> Result<Exit, Failure> {
    let some = |list: &[String]| (!list.is_empty()).then(|| list.iter().cloned().collect());
    let request = AuthorizeRequest {
        flow: if args.client_credentials {
            AuthorizeFlow::ClientCredentials
        } else if args.browser {
            AuthorizeFlow::Browser
        } else {
            AuthorizeFlow::DeviceCode
        },
        scopes: some(&args.scopes),
        instances: (!args.instances.is_empty()).then(|| instances(&args.instances)).transpose()?,
    };
    let begun: Authorization = desk.post(&args.grant.path("authorize"), &request).await?;
    if args.no_wait && desk.is_local() {
        let help = "start the daemon, which waits for the account's owner; or leave out --no-wait";
        return Err(Failure::usage("without a daemon nobody would wait", help));
    }
    if args.no_wait {
        show(context, &begun)?;
        return Ok(Exit::Ok);
    }
    if begun.url.is_some() {
        show(context, &begun)?;
    }
    let ended = wait(desk, begun).await?;
    if context.json {
        print_json(&ended)?;
    } else if ended.state == AuthorizationState::Done {
        context.say(&format!("{} is authorized", args.grant.shown()));
    }
    match ended.state {
        AuthorizationState::Failed => Err(Failure::new(
            "not_authorized",
            ended.error.unwrap_or_else(|| "it came to nothing".into()),
            "run the command again for a new code",
        )),
        _ => Ok(Exit::Ok),
    }
}

/// URL and code: data for a script, and talk for a person who waits with us.
fn show(context: &Context, begun: &Authorization) -> Result<(), Failure> {
    if context.json {
        return print_json(begun);
    }
    let mut out = out();
    if let Some(url) = &begun.url {
        writeln!(out, "open   {}", context.style().bold(&clean::text(url)))?;
    }
    if let Some(code) = &begun.code {
        writeln!(out, "enter  {}", context.style().bold(&clean::text(code)))?;
    }
    out.flush()?;
    if let Some(until) = begun.expires_at {
        context.say(&format!("as {}, until {} UTC", begun.account, human::time(until)));
    }
    Ok(())
}

async fn wait(desk: &Desk, mut now: Authorization) -> Result<Authorization, Failure> {
    let path = format!("/v1/authorizations/{}", now.id);
    while now.state == AuthorizationState::Pending {
        // The provider is asked by whoever holds the authorization; this only looks.
        tokio::time::sleep(Duration::from_secs(1)).await;
        now = desk.get(&path).await?;
    }
    Ok(now)
}
