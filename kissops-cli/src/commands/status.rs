//! `kissops status`.

use std::io::Write as _;

use kissops_core::{
    control::{Status, Verdict},
    supervisor::StateName,
};

use crate::{
    args::Targets,
    client::Client,
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{instances, width},
};

pub(crate) async fn run(context: &Context, args: &Targets) -> Result<Exit, Failure> {
    let status = Client::new(context)?.status(&args.targets).await?;
    if context.json {
        print_json(&status)?;
    } else {
        let style = context.style();
        let mut out = out();
        if !context.quiet {
            writeln!(out, "{}", instances::headline(&status, style))?;
        }
        for line in instances::lines(&status.instances, status.fleet.now, width(), style) {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
    }
    Ok(exit(&status, args))
}

/// As systemctl's: who is asked for by name should run; without a name, who is meant to run should.
fn exit(status: &Status, args: &Targets) -> Exit {
    let down = if args.targets.is_empty() {
        let backs_off = |state| state == StateName::Backoff;
        status.verdict == Verdict::Fail || status.instances.iter().any(|i| backs_off(i.state))
    } else {
        status.instances.iter().any(|instance| instance.state != StateName::Running)
    };
    if down { Exit::NotRunning } else { Exit::Ok }
}
