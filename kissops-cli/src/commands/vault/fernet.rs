//! `kissops vault import-fernet`. The file is read here, by whoever may read it; its tokens go to the vault by the socket.

use kissops_core::{
    Error,
    config::Environment,
    supervisor::SecretRef,
    vault::{
        FernetKey, FernetKeys, NewTokens,
        admin::{Imported, Skipped},
        import::{FernetColumns, FernetTable, read_fernet},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    args::FernetImport,
    commands::token::import,
    context::Context,
    desk::Desk,
    exit::{Exit, Failure},
};

/// What is in the rows of one read.
type Rows = (Vec<NewTokens>, Vec<Skipped>);

pub(super) async fn take_over(
    context: &Context,
    desk: &Desk,
    args: FernetImport,
) -> Result<Exit, Failure> {
    let (mut rows, reader) = read(args)?;
    let mut done = Imported::default();
    while let Some((good, skipped)) = rows.recv().await {
        done.skipped.extend(skipped);
        let tokens = good.into_iter().map(Into::into).collect();
        import::send(desk, tokens, import::Known::Keep, &mut done).await?;
    }
    ended(reader).await?;
    import::tell(context, &done)
}

/// As if everything that verifies were taken over.
pub(super) async fn verify(context: &Context, args: FernetImport) -> Result<Exit, Failure> {
    let (mut rows, reader) = read(args)?;
    let mut done = Imported::default();
    while let Some((good, skipped)) = rows.recv().await {
        done.skipped.extend(skipped);
        done.imported += good.len() as u64;
    }
    ended(reader).await?;
    context.say("a dry run: nothing is taken over, but if it were:");
    import::tell(context, &done)
}

fn read(
    args: FernetImport,
) -> Result<(mpsc::Receiver<Rows>, JoinHandle<kissops_core::Result<()>>), Failure> {
    let keys = keys(&args)?;
    let FernetImport { account, access, refresh, expires, scopes, user_id, .. } = args;
    let columns = FernetColumns { account, access, refresh, expires, scopes, user_id };
    let (file, table, provider) = (args.database, args.table, args.provider);
    let source = FernetTable { file, table, columns, provider };
    let (send, rows) = mpsc::channel(1);
    // Ends by itself once nobody receives.
    let reader = tokio::task::spawn_blocking(move || {
        read_fernet(&source, &keys, |good, skipped| send.blocking_send((good, skipped)).is_ok())
    });
    Ok((rows, reader))
}

async fn ended(reader: JoinHandle<kissops_core::Result<()>>) -> Result<(), Failure> {
    Ok(reader.await.map_err(|_| Error::Closed { what: "the reader" })??)
}

fn keys(args: &FernetImport) -> Result<FernetKeys, Failure> {
    let environment = Environment::of_process();
    let variables = args.key_env.iter().cloned().map(SecretRef::Env);
    let files = args.key_file.iter().cloned().map(SecretRef::File);
    let mut keys = Vec::new();
    for source in variables.chain(files) {
        let text = environment.lookup(&source)?;
        keys.push(match args.derive.as_str() {
            "sha256" => FernetKey::from_sha256(&text),
            "pbkdf2" => {
                let salt = args.salt.as_deref().unwrap_or_default();
                FernetKey::from_pbkdf2(&text, salt.as_bytes(), args.iterations.unwrap_or_default())?
            }
            _ => FernetKey::parse(&text)?,
        });
    }
    Ok(FernetKeys::new(keys)?)
}
