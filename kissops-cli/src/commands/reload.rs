//! `kissops reload`.

use std::io::Write as _;

use kissops_core::{control::ReloadRequest, fleet::Reload as Done, id::InstanceName};

use super::action;
use crate::{
    args::Reload,
    client::Client,
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::clean,
};

pub(crate) async fn run(context: &Context, args: Reload) -> Result<Exit, Failure> {
    if !args.targets.is_empty() {
        return action::reload(context, args.targets).await;
    }
    let request = ReloadRequest { dry_run: args.dry_run };
    let done: Done = Client::new(context)?.post("/v1/reload", &request, None).await?;
    if context.json {
        print_json(&done)?;
        return Ok(Exit::Ok);
    }
    for warning in &done.warnings {
        context.say(&format!("warning: {}", clean::text(warning)));
    }
    let plan = &done.plan;
    let (style, mut out) = (context.style(), out());
    let mut list = |sign: String, verb: &str, names: &[InstanceName]| {
        names.iter().try_for_each(|name| writeln!(out, "{sign} {name}  {verb}"))
    };
    list(style.green("+"), "added", &plan.added)?;
    list(style.red("-"), "removed", &plan.removed)?;
    list(style.yellow("~"), "changed", &plan.changed)?;
    out.flush()?;
    let touched = plan.added.len() + plan.removed.len() + plan.changed.len();
    let unchanged = plan.unchanged.len();
    context.say(&match (touched, args.dry_run) {
        (0, _) => format!("nothing to do: {unchanged} unchanged"),
        (_, true) => format!("{unchanged} unchanged; nothing was done (--dry-run)"),
        (_, false) => format!("{unchanged} unchanged; done"),
    });
    Ok(Exit::Ok)
}
