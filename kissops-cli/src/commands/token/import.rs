//! `kissops token import`.

use std::{io::Read as _, path::Path};

use kissops_core::{
    Error,
    config::Environment,
    supervisor::SecretRef,
    vault::admin::{Imported, NewToken, TokenImport},
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    args,
    context::{Context, print_json},
    desk::Desk,
    exit::{Exit, Failure},
    render::{clean, human},
};

/// So many go in one request: far below the largest body, with the longest tokens there are.
const AT_ONCE: usize = 100;

pub(super) async fn run(
    context: &Context,
    desk: &Desk,
    args: &args::TokenImport,
) -> Result<Exit, Failure> {
    let text = read(&args.file)?;
    let mut tokens: Vec<NewToken> = serde_json::from_str(text.expose_secret()).map_err(|err| {
        // What the reader quotes might be a token.
        let place = format!("line {} column {}", err.line(), err.column());
        let message = format!("{} cannot be read at {place}", args.file.display());
        Failure::usage(message, "it must be a JSON list as kissops token import --help shows")
    })?;
    let mut done = Imported::default();
    while !tokens.is_empty() {
        let rest = tokens.split_off(tokens.len().min(AT_ONCE));
        let request = TokenImport { tokens, replace: args.replace };
        let part: Imported = desk.post("/v1/tokens/import", &request).await?;
        done.imported += part.imported;
        done.skipped.extend(part.skipped);
        tokens = rest;
    }
    if context.json {
        print_json(&done)?;
        return Ok(Exit::Ok);
    }
    for skipped in &done.skipped {
        let line = format!("skipped {}: {}", skipped.account, skipped.reason);
        context.say(&clean::text(&line));
    }
    context.say(&format!("{} imported", human::count(done.imported, "grant was", "grants were")));
    Ok(Exit::Ok)
}

/// The file's text; one that others can read is refused.
fn read(file: &Path) -> Result<SecretString, Failure> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map_err(Error::io("read stdin"))?;
        return Ok(text.into());
    }
    Ok(Environment::default().lookup(&SecretRef::File(file.to_owned()))?)
}
