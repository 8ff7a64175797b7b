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

/// So many go in one request, and so many bytes of tokens: below the largest body.
const AT_ONCE: (usize, usize) = (1_000, 512 << 10);

/// What becomes of grants that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Known {
    /// They stay.
    Keep,
    /// They get these tokens.
    Replace,
}

pub(super) async fn run(
    context: &Context,
    desk: &Desk,
    args: &args::TokenImport,
) -> Result<Exit, Failure> {
    let text = read(&args.file)?;
    let tokens: Vec<NewToken> = serde_json::from_str(text.expose_secret()).map_err(|err| {
        // What the reader quotes might be a token.
        let place = format!("line {} column {}", err.line(), err.column());
        let message = format!("{} cannot be read at {place}", args.file.display());
        Failure::usage(message, "it must be a JSON list as kissops token import --help shows")
    })?;
    let known = if args.replace { Known::Replace } else { Known::Keep };
    let mut done = Imported::default();
    send(desk, tokens, known, &mut done).await?;
    tell(context, &done)
}

/// Has them taken over, by as many requests as that needs.
pub(in crate::commands) async fn send(
    desk: &Desk,
    tokens: Vec<NewToken>,
    known: Known,
    done: &mut Imported,
) -> Result<(), Failure> {
    let mut tokens = tokens.into_iter().peekable();
    while tokens.peek().is_some() {
        let (mut part, mut bytes) = (Vec::new(), 0);
        while let Some(token) = tokens.next_if(|token| {
            bytes += size(token);
            part.is_empty() || (part.len() < AT_ONCE.0 && bytes <= AT_ONCE.1)
        }) {
            part.push(token);
        }
        let request = TokenImport { tokens: part, replace: known == Known::Replace };
        let part: Imported = desk.post("/v1/tokens/import", &request).await?;
        done.imported += part.imported;
        done.present += part.present;
        done.skipped.extend(part.skipped);
    }
    Ok(())
}

fn size(token: &NewToken) -> usize {
    let refresh = token.refresh_token.as_ref().map_or(0, |token| token.expose_secret().len());
    let scopes: usize = token.scopes.iter().flatten().map(String::len).sum();
    token.access_token.expose_secret().len() + refresh + scopes + token.account.len()
}

pub(in crate::commands) fn tell(context: &Context, done: &Imported) -> Result<Exit, Failure> {
    if context.json {
        print_json(done)?;
        return Ok(Exit::Ok);
    }
    for skipped in &done.skipped {
        let line = format!("skipped {}: {}", skipped.account, skipped.reason);
        context.say(&clean::text(&line));
    }
    let imported = human::count(done.imported, "grant was", "grants were");
    let mut line = format!("{imported} imported");
    if done.present > 0 {
        line.push_str(&format!(", {} there already", human::count(done.present, "was", "were")));
    }
    context.say(&line);
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
