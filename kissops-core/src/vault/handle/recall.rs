//! What a process before this one has handed out is masked from the start on: the bots that live on may print it at once.

use std::sync::Arc;

use secrecy::SecretString;

use super::super::{GrantIdentity, Secrets, refresh::engine::Engine, refresh::upkeep::Pages};
use crate::{Error, Result, store::GrantRecord};

/// So many grants are masked before the vault opens: some tenths of a second. Those beyond follow beside the rest.
const AT_ONCE: usize = 5_000;

/// Grants whose tokens are yet to be masked.
pub(super) struct Rest {
    pages: Pages,
    page: Vec<GrantRecord>,
}

/// Masks the secrets, and the tokens of the first grants that are handed to instances; gives what is left.
pub(super) async fn begin(engine: &Engine) -> Result<Option<Rest>> {
    mask_secrets(engine).await?;
    let mut rest = Rest { pages: Pages::of(None, None), page: Vec::new() };
    let is_done = rest.mask(engine, AT_ONCE).await?;
    Ok((!is_done).then_some(rest))
}

/// Masks what is left, until the engine stops.
pub(super) async fn finish(engine: Arc<Engine>, mut rest: Rest) {
    tokio::select! {
        () = engine.stop.cancelled() => {}
        done = rest.mask(&engine, usize::MAX) => {
            if let Err(err) = done {
                tracing::error!(error = %err.chain(), "tokens that were handed out before may come to light in the output of bots");
            }
        }
    }
}

impl Rest {
    /// Masks the tokens of at most so many grants; says whether these were all.
    async fn mask(&mut self, engine: &Engine, most: usize) -> Result<bool> {
        let mut masked = 0;
        loop {
            while let Some(record) = self.page.pop() {
                if record.grant.instances.is_empty() {
                    continue;
                }
                mask_grant(engine, &record).await?;
                masked += 1;
                if masked >= most {
                    return Ok(false);
                }
            }
            match self.pages.next(engine).await? {
                Some(page) => self.page = page,
                None => return Ok(true),
            }
        }
    }
}

/// All that is kept of it: the pair before may be in a bot's memory yet.
async fn mask_grant(engine: &Engine, record: &GrantRecord) -> Result<()> {
    let tokens = match engine.keyring.tokens(&GrantIdentity::from(record)).await {
        Ok(tokens) => tokens,
        // One that is damaged is told of when it is used; it holds up nobody else.
        Err(err @ Error::Corrupt { .. }) => {
            tracing::warn!(grant = record.grant.id.0, error = %err.chain(), "a token cannot be opened, so it is not masked");
            return Ok(());
        }
        Err(err) => return Err(err),
    };
    for token in tokens {
        if let Ok(text) = std::str::from_utf8(&token.plain) {
            engine.learn_one(&SecretString::from(text), record.expiry.access)?;
        }
    }
    Ok(())
}

async fn mask_secrets(engine: &Engine) -> Result<()> {
    let secrets = Secrets::new(engine.keyring.clone())?;
    let mut found = Vec::new();
    for info in secrets.list().await? {
        match secrets.get(&info.name).await {
            Ok(secret) => found.push(secret),
            Err(err @ (Error::Corrupt { .. } | Error::NotFound { .. })) => {
                tracing::warn!(secret = info.name, error = %err.chain(), "a secret cannot be opened, so it is not masked");
            }
            Err(err) => return Err(err),
        }
    }
    engine.redactor.learn(found)
}
