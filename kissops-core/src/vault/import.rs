//! Takes tokens over from a predecessor: from a database with Fernet tokens, from JSON, from `.env`.
//!
//! What cannot be taken over is reported and skipped, and never overwrites anything; so an import that was broken off is
//! continued by running it again. Nothing here is told to the redactor: no token is shown or handed out by an import.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    GrantIdentity, Keyring, NewTokens, OpenToken, Place, Provider, Providers, cipher::random,
    envelope::TRIES,
};
use crate::{
    Error, Result, Timestamp,
    id::{IdMaker, stable_hash},
    store::{
        AuthorizedGrant, Generation, GrantExpiry, GrantFlow, GrantId, GrantKey, GrantRecord,
        GrantState, GrantStatus, NewGrant, SealedBy, TokenId, TokenKind,
    },
};

mod env;
#[cfg(feature = "sqlite")]
mod fernet;
mod file;
mod json;
#[cfg(feature = "sqlite")]
mod table;
mod when;

pub use env::{EnvGrant, EnvPlan, EnvSecret};
#[cfg(feature = "sqlite")]
pub use fernet::{FernetColumns, FernetTable, read_fernet};
pub use json::read_json;

/// So many are kept by one transaction.
const CHUNK: usize = 1_000;
/// Over this are spread the refreshes of tokens of which nobody knows when they expire.
const SOON: Duration = Duration::from_hours(1);
/// Between the refresh of a token and its end.
const LEAD: Duration = Duration::from_mins(10);
/// The longest token, in bytes.
const LONGEST: usize = 16 << 10;

/// What became of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Imported {
    /// So many were taken over.
    pub imported: u64,
    /// So many were there already, with the same tokens.
    #[serde(default)]
    pub present: u64,
    /// The others.
    pub skipped: Vec<Skipped>,
}

/// What was not taken over. Free of secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Skipped {
    /// Whose grant; where that is not known, which row or item.
    pub account: String,
    /// Why.
    pub reason: String,
}

impl Skipped {
    fn new(account: &str, reason: impl Into<String>) -> Self {
        let account = account.chars().flat_map(char::escape_debug).take(256).collect();
        Self { account, reason: reason.into() }
    }
}

impl Imported {
    fn skip(&mut self, key: &GrantKey, reason: impl Into<String>) {
        self.skipped.push(Skipped::new(&key.account, reason));
    }
}

/// Takes tokens over into a vault. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Importer {
    keyring: Keyring,
    providers: Arc<Providers>,
    ids: Arc<Mutex<IdMaker>>,
}

impl Importer {
    /// Into the store of `keyring`, for the clients of `providers`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the system's random generator does not answer.
    pub fn new(keyring: Keyring, providers: Arc<Providers>) -> Result<Self> {
        let ids = IdMaker::new(u64::from_le_bytes(random()?));
        Ok(Self { keyring, providers, ids: Arc::new(Mutex::new(ids)) })
    }

    /// Takes over what a predecessor has kept as Fernet tokens in a table of an `SQLite` file.
    ///
    /// The file is only read, and nothing is put beside it. Rows that do not verify are skipped.
    ///
    /// # Errors
    /// - [`NotFound`](Error::NotFound) for a provider that is not configured, a file, table or column that is not there.
    /// - [`WrongState`](Error::WrongState) for a file with a log that only a program that writes can take up.
    /// - [`Conflict`](Error::Conflict) if the file was changed meanwhile: import again.
    /// - Those of the store and of [`Keyring::seal`]. What was taken over before stays.
    ///
    /// # Cancel safety
    /// What was taken over stays. The same import again continues.
    #[cfg(feature = "sqlite")]
    pub async fn fernet(&self, source: FernetTable, keys: super::FernetKeys) -> Result<Imported> {
        self.providers.get(&source.provider)?;
        let (send, mut chunks) = tokio::sync::mpsc::channel(1);
        // Reads one chunk ahead, and ends by itself once nobody receives.
        let reader = tokio::task::spawn_blocking(move || {
            fernet::read(&source, &keys, |chunk| send.blocking_send(chunk).is_ok())
        });
        let mut done = Imported::default();
        while let Some(fernet::Chunk { good, skipped }) = chunks.recv().await {
            done.skipped.extend(skipped);
            self.take_over(good, &mut done).await?;
        }
        reader.await.map_err(|_| Error::Closed { what: "the import" })??;
        Ok(done)
    }

    /// Takes over the grants of a JSON file, see [`read_json`].
    ///
    /// # Errors
    /// Those of [`read_json`], of the store and of [`Keyring::seal`].
    ///
    /// # Cancel safety
    /// What was taken over stays. The same import again continues.
    pub async fn json_file(&self, path: PathBuf) -> Result<Imported> {
        let (good, skipped) = blocking(move || read_json(&path)).await?;
        let mut done = self.grants(good).await?;
        done.skipped.splice(..0, skipped);
        Ok(done)
    }

    /// Takes over variables of a file of `NAME=value` lines, of mode 600 and owned by the user of this program: those
    /// that `plan` names, as what it says. The others are left.
    ///
    /// # Errors
    /// - [`Denied`](Error::Denied) for a file that others may read or that is another's.
    /// - [`InvalidConfig`](Error::InvalidConfig) names a line that is not like `NAME=value`.
    /// - Those of the store and of [`Keyring::seal`].
    ///
    /// # Cancel safety
    /// What was taken over stays. The same import again continues.
    pub async fn env_file(&self, path: &Path, plan: EnvPlan) -> Result<Imported> {
        let read = path.to_owned();
        let variables = blocking(move || env::read(&read)).await?;
        let (good, skipped) = env::grants(&variables, plan.grants);
        let mut done = self.grants(good).await?;
        done.skipped.splice(..0, skipped);
        env::secrets(&self.keyring, &variables, plan.secrets, &mut done).await?;
        Ok(done)
    }

    /// Takes over these grants. Their [`flow`](NewTokens::flow) is kept as it is said.
    ///
    /// # Errors
    /// Those of the store and of [`Keyring::seal`]. What was taken over before stays.
    ///
    /// # Cancel safety
    /// What was taken over stays. The same import again continues.
    pub async fn grants(&self, all: Vec<NewTokens>) -> Result<Imported> {
        let mut done = Imported::default();
        let mut all = all.into_iter();
        loop {
            let chunk: Vec<_> = all.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Ok(done);
            }
            self.take_over(chunk, &mut done).await?;
        }
    }

    async fn take_over(&self, chunk: Vec<NewTokens>, done: &mut Imported) -> Result<()> {
        let mut by_provider: BTreeMap<String, Vec<NewTokens>> = BTreeMap::new();
        for one in chunk {
            match checked(&one) {
                Ok(()) => by_provider.entry(one.key.provider.clone()).or_default().push(one),
                Err(reason) => done.skip(&one.key, reason),
            }
        }
        for (name, new) in by_provider {
            match self.providers.get(&name) {
                Ok(provider) => self.of_provider(&provider, new, done).await?,
                Err(err) => new.iter().for_each(|one| done.skip(&one.key, err.to_string())),
            }
        }
        Ok(())
    }

    async fn of_provider(
        &self,
        provider: &Provider,
        mut new: Vec<NewTokens>,
        done: &mut Imported,
    ) -> Result<()> {
        // Again for what could not be added: it comes twice, or somebody else was first.
        for _ in 0..TRIES {
            new = self.without_known(provider, new, done).await?;
            new = self.add(provider, new, done).await?;
            if new.is_empty() {
                return Ok(());
            }
        }
        for one in new {
            done.skip(&one.key, "is changed by others just now: try again");
        }
        Ok(())
    }

    /// Compares those that the vault has, and gives the others.
    async fn without_known(
        &self,
        provider: &Provider,
        new: Vec<NewTokens>,
        done: &mut Imported,
    ) -> Result<Vec<NewTokens>> {
        let accounts = new.iter().map(|one| one.key.account.clone()).collect();
        let known = self.keyring.inner.store.grants_of(provider.name(), accounts).await?;
        if known.is_empty() {
            return Ok(new);
        }
        let tokens = self.open_all(&known).await?;
        let known: HashMap<&str, &GrantRecord> =
            known.iter().map(|record| (record.grant.key.account.as_str(), record)).collect();
        let mut missing = Vec::new();
        for one in new {
            let Some(record) = known.get(one.key.account.as_str()) else {
                missing.push(one);
                continue;
            };
            match tokens.get(&record.grant.id) {
                Some(kept) if is_same(&one, kept) => done.present += 1,
                Some(_) => done.skip(&one.key, "has other tokens in the vault, which were kept"),
                None => {
                    let state = record.status.state.name().as_str();
                    let reason = format!(
                        "is in the vault as {state}, without tokens that open: authorize it again"
                    );
                    done.skip(&one.key, reason);
                }
            }
        }
        Ok(missing)
    }

    /// The tokens of these grants, as far as they open.
    async fn open_all(&self, known: &[GrantRecord]) -> Result<HashMap<GrantId, Vec<OpenToken>>> {
        let grants: HashMap<GrantId, GrantIdentity> =
            known.iter().map(|record| (record.grant.id, GrantIdentity::from(record))).collect();
        let read = self.keyring.reading(|| async {
            let mut open: HashMap<GrantId, Vec<OpenToken>> = HashMap::new();
            let ids = grants.keys().copied().collect();
            for token in self.keyring.inner.store.sealed_tokens_of(ids).await? {
                let Some(grant) = grants.get(&token.id.grant) else { continue };
                let place = Place::Token { grant, id: token.id };
                match self.keyring.unseal(&place, &token.sealed).await {
                    Ok(plain) => {
                        open.entry(grant.id).or_default().push(OpenToken { id: token.id, plain });
                    }
                    Err(Error::Corrupt { .. }) => {}
                    Err(err) => return Err(err),
                }
            }
            Ok(open)
        });
        read.await
    }

    /// Seals and keeps what is not there yet, and gives what was there after all.
    async fn add(
        &self,
        provider: &Provider,
        new: Vec<NewTokens>,
        done: &mut Imported,
    ) -> Result<Vec<NewTokens>> {
        if new.is_empty() {
            return Ok(new);
        }
        let now = self.keyring.inner.time.now();
        let ids: Vec<GrantId> = {
            let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
            new.iter().map(|_| GrantId(ids.next(now))).collect()
        };
        let kept = self.keyring.sealing(|| async {
            let mut grants = Vec::with_capacity(new.len());
            for (id, one) in ids.iter().zip(&new) {
                grants.push(self.authorized(provider, *id, one, now).await?);
            }
            self.keyring.inner.store.add_authorized_grants(grants).await
        });
        let added = kept.await?;
        done.imported += added.len() as u64;
        let left = ids.iter().zip(new).filter(|(id, _)| !added.contains(id));
        Ok(left.map(|(_, one)| one).collect())
    }

    async fn authorized(
        &self,
        provider: &Provider,
        id: GrantId,
        new: &NewTokens,
        now: Timestamp,
    ) -> Result<AuthorizedGrant> {
        let set = &new.tokens;
        let grant = NewGrant {
            id,
            key: new.key.clone(),
            client: provider.client_id().to_owned(),
            flow: new.flow,
            scopes: set.scopes.clone().unwrap_or_default(),
            instances: new.instances.clone().unwrap_or_default(),
            created_at: now,
        };
        let identity = GrantIdentity::from(&grant);
        let mut tokens =
            vec![(TokenKind::Access, self.seal(&identity, TokenKind::Access, &set.access).await?)];
        if let Some(refresh) = &set.refresh {
            tokens.push((
                TokenKind::Refresh,
                self.seal(&identity, TokenKind::Refresh, refresh).await?,
            ));
        }
        let expiry = GrantExpiry {
            access: set.access_expires_at,
            refresh: set.refresh_expires_at,
            idle: set.idle_expires_at,
        };
        let status = first_status(provider, id, new, now);
        Ok(AuthorizedGrant { grant, tokens, expiry, status })
    }

    async fn seal(
        &self,
        grant: &GrantIdentity,
        kind: TokenKind,
        token: &SecretString,
    ) -> Result<SealedBy> {
        let id = TokenId { grant: grant.id, kind, generation: Generation(1) };
        self.keyring.seal(&Place::Token { grant, id }, token.expose_secret().as_bytes()).await
    }
}

/// When to look after an imported grant first. What expires nobody knows when is looked after within the hour; the rest
/// at 75 to 85 % of what is left of its life.
fn first_status(provider: &Provider, id: GrantId, new: &NewTokens, now: Timestamp) -> GrantStatus {
    let hash = stable_hash([id.0.to_le_bytes().as_slice()]);
    let share = f64::from(u32::try_from(hash >> 32).unwrap_or(0)) / f64::from(u32::MAX);
    let soon = now.plus(SOON.mul_f64(share));
    let can_refresh = new.tokens.refresh.is_some() || new.flow == GrantFlow::ClientCredentials;
    let next_refresh_at = match new.tokens.access_expires_at {
        Some(end) if can_refresh => {
            let left = end.since(now);
            let jittered = left.mul_f64(0.75 + 0.1 * share);
            Some(now.plus(jittered.min(left.saturating_sub(LEAD)).max(left / 2)))
        }
        // Without a refresh token its end is what comes due.
        Some(end) => Some(end),
        None => can_refresh.then_some(soon),
    };
    let next_validate_at = match provider.validate_every() {
        Some(every) => Some(now.plus(every.mul_f64(share))),
        None => (next_refresh_at.is_none() && provider.can_probe()).then_some(soon),
    };
    let state = GrantState::Active { since: now };
    GrantStatus { state, failure: None, next_refresh_at, next_validate_at }
}

/// Whether the vault has these tokens. A refresh token that is still the same says it too: the access token beside it was
/// refreshed since.
fn is_same(new: &NewTokens, kept: &[OpenToken]) -> bool {
    let has = |kind, token: &SecretString, generation| {
        let same = |open: &&OpenToken| {
            open.id.kind == kind && open.plain.as_slice() == token.expose_secret().as_bytes()
        };
        kept.iter().filter(same).any(|open| open.id.generation == generation)
    };
    kept.iter().map(|open| open.id.generation).any(|generation| match &new.tokens.refresh {
        Some(refresh) => has(TokenKind::Refresh, refresh, generation),
        None => has(TokenKind::Access, &new.tokens.access, generation),
    })
}

/// What a grant must be like to be kept and handed out.
fn checked(new: &NewTokens) -> Result<(), String> {
    if new.key.to_string().parse::<GrantKey>().ok().as_ref() != Some(&new.key) {
        return Err(
            "has no name of a provider, or of an account: 1 to 256 bytes without blanks".into()
        );
    }
    checked_token(&new.tokens.access).map_err(|rule| format!("its access token {rule}"))?;
    let refresh = new.tokens.refresh.as_ref().map_or(Ok(()), checked_token);
    refresh.map_err(|rule| format!("its refresh token {rule}"))
}

/// A token goes into a header.
fn checked_token(token: &SecretString) -> Result<(), &'static str> {
    let text = token.expose_secret();
    if text.is_empty() {
        return Err("is missing");
    }
    if text.len() > LONGEST {
        return Err("is longer than 16 KiB");
    }
    if text.chars().any(char::is_control) {
        return Err("holds a control character: it is no token");
    }
    Ok(())
}

/// Scopes in one text.
fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Closed { what: "the import" })?
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests;
