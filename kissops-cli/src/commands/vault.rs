//! `kissops vault`.

mod fernet;
mod key;
mod rotate;

use std::io::Write as _;

use kissops_core::vault::admin::{AdoptRequest, Adopted, VaultStatus};

use crate::{
    args::{Vault, VaultAdopt},
    context::{Context, out, print_json},
    desk::Desk,
    exit::{Exit, Failure},
    render::{
        clean, human,
        table::{Column, Table},
        width,
    },
};

pub(crate) async fn run(context: &Context, command: Vault) -> Result<Exit, Failure> {
    match command {
        Vault::Key(args) => key::run(context, &args),
        Vault::ImportFernet(args) if args.dry_run => fernet::verify(context, args).await,
        command => at_desk(context, command).await,
    }
}

async fn at_desk(context: &Context, command: Vault) -> Result<Exit, Failure> {
    let desk = Desk::open(context).await?;
    let done = match command {
        Vault::Status => status(context, &desk).await,
        Vault::Rotate(args) => rotate::run(context, &desk, &args).await,
        Vault::Adopt(args) => adopt(context, &desk, args).await,
        Vault::ImportFernet(args) => fernet::take_over(context, &desk, args).await,
        Vault::Key(_) => Ok(Exit::Ok),
    };
    desk.close().await;
    done
}

const COLUMNS: [Column; 5] = [
    Column::Left("DATA KEY"),
    Column::Left("UNDER KEY"),
    Column::Left("MADE (UTC)"),
    Column::Right("SEALS"),
    Column::Rest("RETIRED"),
];

async fn status(context: &Context, desk: &Desk) -> Result<Exit, Failure> {
    let status: VaultStatus = desk.get("/v1/vault").await?;
    let open = status.state == "open";
    let exit = if open { Exit::Ok } else { Exit::NotRunning };
    if context.json {
        print_json(&status)?;
        return Ok(exit);
    }
    let (style, mut out) = (context.style(), out());
    if open {
        writeln!(out, "{}, key {}", style.green("open"), status.key.as_deref().unwrap_or("-"))?;
    } else {
        let why = status.why.as_deref().unwrap_or_default();
        writeln!(out, "{}: {}", style.red(&status.state), clean::text(why))?;
    }
    let grants: Vec<String> =
        status.grants.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let grants = if grants.is_empty() { "none".to_owned() } else { grants.join(", ") };
    writeln!(out, "grants: {grants}\nsecrets: {}", status.secrets)?;
    let mut table = Table::new(&COLUMNS);
    for key in &status.data_keys {
        table.row(vec![
            key.id.clone().into(),
            key.key.clone().into(),
            human::time(key.created_at).into(),
            key.seals.to_string().into(),
            key.retired_at.map_or_else(String::new, human::time).into(),
        ]);
    }
    if !status.data_keys.is_empty() {
        for line in table.lines(width(), style) {
            writeln!(out, "{line}")?;
        }
    }
    if let Some(rotation) = &status.rotation {
        let error = rotation.error.as_deref().map_or_else(String::new, |why| format!(": {why}"));
        let rows = human::count(rotation.resealed, "row", "rows");
        let line = format!("rotation: {}, {rows} sealed anew{error}", rotation.state);
        writeln!(out, "{}", clean::text(&line))?;
    }
    Ok(out.flush().map(|()| exit)?)
}

async fn adopt(context: &Context, desk: &Desk, args: VaultAdopt) -> Result<Exit, Failure> {
    let VaultAdopt { provider, account, all: _ } = args;
    context.confirm(
        "Is the store that these grants come from out of use for good? If not, using them here may end them there",
    )?;
    let done: Adopted = desk.post("/v1/vault/adopt", &AdoptRequest { provider, account }).await?;
    if context.json {
        print_json(&done)?;
    } else {
        context.say(&human::count(done.adopted, "grant is used again", "grants are used again"));
    }
    Ok(Exit::Ok)
}
