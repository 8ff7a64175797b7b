//! `kissops vault rotate`.

use std::time::Duration;

use kissops_core::{
    config::Environment,
    supervisor::SecretRef,
    vault::admin::{RotateRequest, RotationView, VaultStatus},
};

use crate::{
    args::VaultRotate,
    context::{Context, print_json},
    desk::Desk,
    exit::{Exit, Failure},
    render::{clean, human},
};

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(200);

pub(super) async fn run(
    context: &Context,
    desk: &Desk,
    args: &VaultRotate,
) -> Result<Exit, Failure> {
    let source = match (&args.to_file, &args.to_env) {
        (Some(file), _) => Some(SecretRef::File(file.clone())),
        (None, Some(name)) => Some(SecretRef::Env(name.clone())),
        (None, None) => None,
    };
    let to = source.map(|source| Environment::of_process().lookup(&source)).transpose()?;
    let moves = to.is_some();
    let mut now: RotationView = desk.post("/v1/vault/rotate", &RotateRequest { to }).await?;
    while now.state == "running" {
        tokio::time::sleep(POLL).await;
        let status: VaultStatus = desk.get("/v1/vault").await?;
        let Some(rotation) = status.rotation else {
            let help = "run kissops vault rotate again: it goes on where it was";
            return Err(Failure::new("closed", "the daemon was restarted meanwhile", help));
        };
        now = rotation;
    }
    if let Some(error) = now.error {
        let help = "run kissops vault rotate again: it goes on where it was";
        return Err(Failure::new("rotation_failed", error, help));
    }
    if context.json {
        print_json(&now)?;
        return Ok(Exit::Ok);
    }
    context.say(&format!("done: {} sealed anew", human::count(now.resealed, "row", "rows")));
    if moves {
        let place = match (&args.to_file, &args.to_env) {
            (Some(file), _) => format!("{{ file = \"{}\" }}", file.display()),
            (None, name) => format!("{{ env = \"{}\" }}", name.as_deref().unwrap_or_default()),
        };
        context.say(&format!(
            "before the next start of the daemon: [vault] key = {}; without it the vault stays sealed.\n\
             Keep the old key as long as there are backups from before: they open with nothing else.",
            clean::text(&place)
        ));
    }
    Ok(Exit::Ok)
}
