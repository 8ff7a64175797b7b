//! Rotation: data keys come under another KEK, and rows under another data key, while everything else goes on.
//!
//! Each step is a transaction that is right by itself, so it may end anywhere and be begun again. The key of fingerprints
//! comes first: by it other processes see under which KEK data keys are made from now on.

use std::{collections::HashMap, sync::PoisonError, time::Duration};

use futures_util::future::join_all;

use super::{
    Kek, Keyring, Ticket,
    envelope::{FINGERPRINTS, GrantIdentity, LONGEST_USE, Place, TRIES, unwrap_one},
};
use crate::{
    Error, Result,
    store::{DataKeyId, DataKeyRecord, GrantId, KekId, LandingId, SealedBy, Store},
};

/// How many rows are read, and then sealed again at once.
const PAGE: u32 = 128;
/// A rotation that was interrupted is continued for so long; after that it begins anew, with a new data key.
const CONTINUED: Duration = Duration::from_hours(24);

/// How far a rotation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationDepth {
    /// The data keys are wrapped by the new KEK and stay as they are: enough where a KEK is replaced in good time.
    Wrapping,
    /// Every row is sealed by a new data key, and the old ones are removed: whoever has a copy of one, or of the KEK and
    /// an old backup, opens nothing that is there now.
    Everything,
}

/// What a rotation has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// Data keys that came under the new KEK.
    pub rewrapped: u64,
    /// Tokens that came under the new data key.
    pub tokens: u64,
    /// Answers of providers that did.
    pub answers: u64,
    /// Secrets that did.
    pub secrets: u64,
    /// Old data keys that are gone.
    pub removed: u64,
    /// Rows that do not open, by name: they stay as they are, and so does the data key that they name.
    pub damaged: Vec<String>,
}

/// What a rotation reports to.
type Progress<'a> = &'a (dyn Fn(&Rotated) + Send + Sync);

impl Keyring {
    /// Rotates everything: to the KEK `to`, or to that which is current here. The former one opens still, in this process.
    ///
    /// Everybody may go on reading and writing. Other processes must know the new KEK before, as one of
    /// [`Keys::previous`](super::Keys::previous): one that does not know it is sealed as soon as it meets a row that came
    /// under the new data key. What was interrupted is continued by calling it again.
    ///
    /// # Errors
    /// - [`WrongState`](Error::WrongState), "sealed", if there is a data key that no key known here opens. Nothing was
    ///   changed then.
    /// - [`Conflict`](Error::Conflict) if another process keeps rotating elsewhere.
    pub async fn rotate(&self, to: Option<Kek>) -> Result<Rotated> {
        self.rotate_with(to, RotationDepth::Everything, &|_| ()).await
    }

    /// The same to a depth, telling `progress` now and then how far it is.
    ///
    /// # Errors
    /// Those of [`rotate`](Self::rotate).
    pub async fn rotate_with(
        &self,
        to: Option<Kek>,
        depth: RotationDepth,
        progress: Progress<'_>,
    ) -> Result<Rotated> {
        let _one = self.inner.rotating.lock().await;
        let target = {
            let mut keys = self.inner.keys.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(to) = to {
                keys.move_to(to);
            }
            keys.current.id()
        };
        let mut run = Run { keyring: self, target, progress, done: Rotated::default() };
        run.rewrap().await?;
        if depth == RotationDepth::Everything {
            run.replace_data_key().await?;
        }
        for _ in 0..TRIES {
            run.rewrap().await?;
            if depth == RotationDepth::Everything {
                run.empty_old_keys().await?;
            }
            if run.is_done(depth).await? {
                return Ok(run.done);
            }
        }
        let holder = "another process, which rotates as well".into();
        Err(Error::Conflict { what: "the rotation of the vault's keys".into(), holder })
    }
}

struct Run<'a> {
    keyring: &'a Keyring,
    target: KekId,
    progress: Progress<'a>,
    done: Rotated,
}

/// What became of one row.
enum Row {
    Moved,
    /// Changed or removed by somebody else, who has sealed it with a newer key if it is still there.
    Gone,
    Damaged(String),
}

impl Run<'_> {
    /// Brings all data keys under the target, in the order of their numbers: the key of fingerprints first.
    async fn rewrap(&mut self) -> Result<()> {
        let inner = &self.keyring.inner;
        let mut moves = Vec::new();
        for record in inner.store.data_keys().await? {
            let id = record.key.id;
            if record.key.kek == self.target {
                continue;
            }
            let keys = inner.keys.read().unwrap_or_else(PoisonError::into_inner);
            let wrapped = match unwrap_one(&keys, &record) {
                Ok(bytes) => Some(keys.current.wrap(id, &bytes)?),
                // Nothing was ever sealed by it, and nothing can be.
                Err(_) if record.seals == 0 && id != FINGERPRINTS => None,
                Err(err) => return Err(err),
            };
            moves.push((record, wrapped));
        }
        for (record, wrapped) in moves {
            let (id, from) = (record.key.id, &record.key.kek);
            let answer = match wrapped {
                Some(wrapped) => {
                    let to = self.target.clone();
                    inner.store.rewrap_data_key(id, from, to, wrapped).await
                }
                None => self.discard(id).await,
            };
            match answer {
                Ok(()) => self.done.rewrapped += 1,
                // Somebody else has done it, or removed it.
                Err(Error::Conflict { .. } | Error::NotFound { .. }) => {}
                Err(err) => return Err(err),
            }
        }
        (self.progress)(&self.done);
        Ok(())
    }

    async fn discard(&self, id: DataKeyId) -> Result<()> {
        let inner = &self.keyring.inner;
        inner.store.retire_data_key(id, inner.time.now()).await?;
        inner.store.remove_data_key(id).await
    }

    /// Makes a new data key and retires all others, or goes on with that of a rotation that was interrupted: a key that
    /// was made at the very moment at which another was retired.
    async fn replace_data_key(&self) -> Result<()> {
        let inner = &self.keyring.inner;
        let mut ids = inner.changing.lock().await;
        let records = inner.reload().await?;
        let of_rows = || records.iter().filter(|record| record.key.id != FINGERPRINTS);
        let newest = of_rows().rev().find(|record| record.retired_at.is_none());
        let begun = newest.filter(|newest| {
            let at = newest.key.created_at;
            of_rows().any(|record| record.retired_at == Some(at))
                && inner.time.now() < at.plus(CONTINUED)
        });
        let (id, at) = match begun {
            Some(record) => (record.key.id, record.key.created_at),
            None => inner.make(&mut ids, &records).await?,
        };
        for record in of_rows().filter(|record| record.key.id != id && record.retired_at.is_none())
        {
            match inner.store.retire_data_key(record.key.id, at).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(err) => return Err(err),
            }
        }
        // What is in memory must not go on sealing with what was just retired.
        inner.reload().await?;
        inner.reserve(id, at.plus(LONGEST_USE)).await.map(drop)
    }

    async fn retired(&self) -> Result<Vec<DataKeyId>> {
        let records = self.keyring.inner.store.data_keys().await?;
        let retired =
            |record: &DataKeyRecord| record.retired_at.is_some() && record.key.id != FINGERPRINTS;
        Ok(records.into_iter().filter(retired).map(|record| record.key.id).collect())
    }

    async fn empty_old_keys(&mut self) -> Result<()> {
        self.done.damaged.clear();
        for key in self.retired().await? {
            self.move_tokens(key).await?;
            self.move_answers(key).await?;
            self.move_secrets(key).await?;
            match self.keyring.inner.store.remove_data_key(key).await {
                Ok(()) => self.done.removed += 1,
                // Somebody had sealed with it before it was retired, and has stored that since: in the next round.
                Err(Error::WrongState { .. } | Error::NotFound { .. }) => {}
                Err(err) => return Err(err),
            }
            (self.progress)(&self.done);
        }
        Ok(())
    }

    /// Whether nothing is left to be done, but for rows that are damaged.
    async fn is_done(&self, depth: RotationDepth) -> Result<bool> {
        let inner = &self.keyring.inner;
        let records = {
            let _changing = inner.changing.lock().await;
            inner.reload().await?
        };
        let wrapped = records.iter().all(|record| record.key.kek == self.target);
        let emptied = match depth {
            RotationDepth::Wrapping => true,
            RotationDepth::Everything => {
                !self.done.damaged.is_empty() || self.retired().await?.is_empty()
            }
        };
        Ok(wrapped && emptied)
    }

    async fn move_tokens(&mut self, key: DataKeyId) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.keyring.inner.store.tokens_sealed_by(key, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            let grants = self.identities(page.iter().map(|token| token.id.grant)).await?;
            let rows = page.iter().filter_map(|token| {
                let grant = grants.get(&token.id.grant)?;
                Some((Place::Token { grant, id: token.id }, &token.sealed))
            });
            self.done.tokens += self.move_rows(rows).await?;
            (self.progress)(&self.done);
        }
    }

    async fn move_answers(&mut self, key: DataKeyId) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.keyring.inner.store.landings_sealed_by(key, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id());
            let grants = self.identities(page.iter().map(|landing| landing.grant)).await?;
            let rows = page.iter().filter_map(|landing| {
                Some((Place::of_landing(grants.get(&landing.grant)?, landing), &landing.body))
            });
            self.done.answers += self.move_rows(rows).await?;
            (self.progress)(&self.done);
        }
    }

    async fn move_secrets(&mut self, key: DataKeyId) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.keyring.inner.store.secrets_sealed_by(key, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.secret.id);
            let rows =
                page.iter().map(|record| (Place::of_secret(record), &record.secret.value.sealed));
            self.done.secrets += self.move_rows(rows).await?;
            (self.progress)(&self.done);
        }
    }

    /// Grants by their numbers; those that are gone are not there, and neither are their rows any more.
    async fn identities(
        &self,
        grants: impl Iterator<Item = GrantId>,
    ) -> Result<HashMap<GrantId, GrantIdentity>> {
        let mut found = HashMap::new();
        for id in grants {
            if found.contains_key(&id) {
                continue;
            }
            if let Some(record) = self.keyring.inner.store.grant_by_id(id).await? {
                found.insert(id, GrantIdentity::from(&record));
            }
        }
        Ok(found)
    }

    /// Seals rows again, all at once; says how many.
    async fn move_rows<'a>(
        &mut self,
        rows: impl Iterator<Item = (Place<'a>, &'a SealedBy)>,
    ) -> Result<u64> {
        let keyring = self.keyring;
        let calls = rows.map(|(place, sealed)| move_row(keyring, place, sealed));
        let mut moved = 0;
        for row in join_all(calls).await {
            match row? {
                Row::Moved => moved += 1,
                Row::Gone => {}
                Row::Damaged(place) => self.done.damaged.push(place),
            }
        }
        Ok(moved)
    }
}

async fn move_row(keyring: &Keyring, place: Place<'_>, sealed: &SealedBy) -> Result<Row> {
    let plain = match keyring.unseal(&place, sealed).await {
        Ok(plain) => plain,
        Err(Error::Conflict { .. }) => return Ok(Row::Gone),
        Err(Error::Corrupt { what, .. }) => return Ok(Row::Damaged(what)),
        Err(err) => return Err(err),
    };
    let moved = keyring.sealing(|| async {
        let again = keyring.seal(&place, &plain).await?;
        store_again(&*keyring.inner.store, place, sealed.key, again).await
    });
    match moved.await {
        Ok(()) => Ok(Row::Moved),
        Err(Error::Conflict { .. }) => Ok(Row::Gone),
        Err(err) => Err(err),
    }
}

async fn store_again(
    store: &dyn Store,
    place: Place<'_>,
    from: DataKeyId,
    to: SealedBy,
) -> Result<()> {
    match place {
        Place::Token { id, .. } => store.reseal_token(id, from, to).await,
        Place::Answer { ticket: Ticket { grant, generation, attempt }, .. } => {
            store.reseal_landing(LandingId { grant, generation, attempt }, from, to).await
        }
        Place::Secret { id, version, .. } => store.reseal_secret(id, version, from, to).await,
    }
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests;
