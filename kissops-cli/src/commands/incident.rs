//! `kissops incident`.

use std::io::Write as _;

use kissops_core::vault::admin::{IncidentReport, IncidentRequest};

use crate::{
    args::{Incident, IncidentRevoke},
    context::{Context, out, print_json},
    desk::Desk,
    exit::{Exit, Failure},
    render::clean,
};

pub(crate) async fn run(context: &Context, command: Incident) -> Result<Exit, Failure> {
    match command {
        Incident::Revoke(args) => revoke(context, args).await,
    }
}

async fn revoke(context: &Context, args: IncidentRevoke) -> Result<Exit, Failure> {
    let whose = match &args.account {
        Some(account) => format!("the grant of {account} at {}", args.provider),
        None => format!("every grant of {}", args.provider),
    };
    let question = format!("Revoke {}, and stop the bots that use it?", clean::text(&whose));
    context.confirm(&question)?;
    let IncidentRevoke { provider, account, reason } = args;
    let request = IncidentRequest { provider, account, reason };
    let desk = Desk::open(context).await?;
    let report: IncidentReport = desk.post("/v1/incidents", &request).await?;
    desk.close().await;
    let exit = if report.ok { Exit::Ok } else { Exit::Failed };
    if context.json {
        print_json(&report)?;
        return Ok(exit);
    }
    print(context, &report)?;
    Ok(exit)
}

fn print(context: &Context, report: &IncidentReport) -> Result<(), Failure> {
    let (style, mut out) = (context.style(), out());
    for one in &report.revoked {
        let name = format!("{}/{}", one.provider, one.account);
        let name = clean::text(&name);
        match &one.error {
            None => writeln!(out, "{}  {name}", style.green("revoked"))?,
            Some(why) => {
                writeln!(out, "{}  {name}: {}", style.red("NOT REVOKED"), clean::text(why))?;
            }
        }
    }
    for name in &report.stopped {
        writeln!(out, "{}  {name}", style.green("stopped"))?;
    }
    writeln!(out, "\n{}", style.bold("To be done by hand:"))?;
    for (number, step) in report.by_hand.iter().enumerate() {
        writeln!(out, "{}. {}", number + 1, clean::text(step))?;
    }
    Ok(out.flush()?)
}
