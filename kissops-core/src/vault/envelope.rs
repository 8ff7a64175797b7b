//! Sealing: a key-encryption key (KEK) wraps data keys, a data key seals rows, and each row opens in its own place only.
//!
//! The data key of number [`FINGERPRINTS`] seals nothing: it makes fingerprints, which have to stay comparable whatever
//! is rotated. The KEK that wraps it is the store's: under that one new data keys are wrapped.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{
    cipher::{Cipher, KeyBytes, random, random_key},
    key::Keys,
    sealed,
    time::{SystemTime, VaultTime},
};
use crate::{
    Error, Result, Timestamp,
    id::IdMaker,
    store::{DataKeyId, DataKeyRecord, Fingerprint, NewDataKey, Sealed, SealedBy, Store, TokenId},
};

mod place;

pub use place::{GrantIdentity, Place};

/// Makes fingerprints. Wrapped like the data keys; never retired.
pub(super) const FINGERPRINTS: DataKeyId = DataKeyId(0);
/// After so many seals with random nonces a key is replaced; NIST SP 800-38D allows sixteen times as many.
const MOST_SEALS: u64 = 1 << 28;
/// After this time as well.
pub(super) const LONGEST_USE: Duration = Duration::from_hours(24 * 90);
/// Reserved at once, so that no seal waits for a write. A program that ends loses what is left of them.
const BLOCK: u32 = 4096;
/// How often something is tried anew that others have changed meanwhile. Each time somebody else got on.
pub(super) const TRIES: usize = 32;

/// Seals and opens. Cheap to clone; the data keys are in memory once, and wiped when the last clone is dropped.
#[derive(Clone)]
pub struct Keyring {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) time: Arc<dyn VaultTime>,
    pub(super) keys: RwLock<Keys>,
    fingerprints: KeyBytes,
    held: RwLock<Held>,
    /// Whoever changes `held` has it, from before reading the store.
    pub(super) changing: tokio::sync::Mutex<IdMaker>,
    /// One rotation at a time.
    pub(super) rotating: tokio::sync::Mutex<()>,
}

/// Data keys in memory.
#[derive(Default)]
struct Held {
    ciphers: HashMap<DataKeyId, Arc<Cipher>>,
    current: Option<Arc<Current>>,
}

/// The data key that seals now.
struct Current {
    id: DataKeyId,
    cipher: Arc<Cipher>,
    /// What is left of the seals that were reserved.
    left: AtomicU32,
    until: Timestamp,
}

/// A token in clear, wiped when dropped.
pub struct OpenToken {
    /// Which token.
    pub id: TokenId,
    /// The token.
    pub plain: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for OpenToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

impl Keyring {
    /// Opens the data keys of a store; one that has none yet gets its first.
    ///
    /// # Errors
    /// - [`WrongState`](Error::WrongState), "sealed", if a data key in the store opens with none of `keys`; nothing was
    ///   changed then.
    /// - [`Corrupt`](Error::Corrupt) names a data key that is not what was wrapped.
    pub async fn open(store: Arc<dyn Store>, keys: Keys) -> Result<Self> {
        Self::open_at(store, keys, Arc::new(SystemTime)).await
    }

    /// The same by another clock.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn open_at(
        store: Arc<dyn Store>,
        keys: Keys,
        time: Arc<dyn VaultTime>,
    ) -> Result<Self> {
        let mut records = store.data_keys().await?;
        if !records.iter().any(|record| record.key.id == FINGERPRINTS) {
            unwrap_all(&keys, &records)?;
            let key = wrapped(&keys.current, FINGERPRINTS, &random_key()?, time.now())?;
            match store.add_data_key(key).await {
                // Another process was first.
                Ok(()) | Err(Error::Conflict { .. }) => {}
                Err(err) => return Err(err),
            }
            records = store.data_keys().await?;
        }
        let mut bytes = unwrap_all(&keys, &records)?;
        let fingerprints = bytes.remove(&FINGERPRINTS).ok_or_else(|| Error::Corrupt {
            what: "the vault".into(),
            detail: "its key of fingerprints is gone".into(),
        })?;
        let ciphers = bytes.iter().map(|(id, key)| (*id, Arc::new(Cipher::new(key)))).collect();
        let inner = Inner {
            store,
            time,
            keys: RwLock::new(keys),
            fingerprints,
            held: RwLock::new(Held { ciphers, current: None }),
            changing: tokio::sync::Mutex::new(IdMaker::new(u64::from_le_bytes(random()?))),
            rotating: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Seals `plain` for `place`. Touches the store once in 4,096 times.
    ///
    /// The data key may be replaced before the result is stored. Then the store says [`NotFound`](Error::NotFound), for
    /// the data key: seal again; [`sealing`](Self::sealing) does so.
    ///
    /// # Errors
    /// [`WrongState`](Error::WrongState), "sealed", if the store was rotated to a KEK that is not known here.
    pub async fn seal(&self, place: &Place<'_>, plain: &[u8]) -> Result<SealedBy> {
        for _ in 0..TRIES {
            if let Some(current) = self.inner.take_seal() {
                let sealed = current.cipher.seal(&place.binding(current.id), plain)?;
                return Ok(SealedBy { key: current.id, sealed: Sealed(sealed) });
            }
            self.inner.renew().await?;
        }
        Err(Error::unavailable("the vault's data key")("others use it up at once"))
    }

    /// Opens what was sealed for `place`.
    ///
    /// # Errors
    /// - [`Corrupt`](Error::Corrupt) names the place if it was not sealed for it, or changed since.
    /// - [`Conflict`](Error::Conflict) if the data key was replaced since the row was read: read it again.
    /// - [`WrongState`](Error::WrongState), "sealed", if no key known here opens the data key.
    pub async fn unseal(&self, place: &Place<'_>, sealed: &SealedBy) -> Result<Zeroizing<Vec<u8>>> {
        let cipher = match self.inner.cipher(sealed.key) {
            Some(cipher) => cipher,
            None => self.inner.fetch(place, sealed.key).await?,
        };
        cipher.open(&place.binding(sealed.key), &sealed.sealed.0).ok_or_else(|| Error::Corrupt {
            what: place.to_string(),
            detail: format!(
                "it does not open with data key {}: it was changed, or sealed for another place",
                sealed.key.0
            ),
        })
    }

    /// Makes sure that the next seals need no store, so that nothing which cannot be repeated is begun without.
    ///
    /// # Errors
    /// Those of [`seal`](Self::seal).
    pub async fn ready(&self) -> Result<()> {
        if self.inner.can_seal(BLOCK / 16) { Ok(()) } else { self.inner.renew().await }
    }

    /// Runs `write`, which seals and stores, and again where the data key was replaced in between.
    ///
    /// # Errors
    /// Those of `write`.
    pub async fn sealing<T, F>(&self, mut write: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        for _ in 0..TRIES {
            match write().await {
                Err(Error::NotFound { what }) if what.starts_with("data key ") => {
                    self.inner.renew_after_removal().await?;
                }
                other => return other,
            }
        }
        write().await
    }

    /// Runs `read`, which reads rows and opens them, and again where the data key of one was replaced in between. Nothing
    /// but reading may be in it.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn reading<T, F>(&self, mut read: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        for _ in 0..TRIES {
            match read().await {
                Err(Error::Conflict { .. }) => {}
                other => return other,
            }
        }
        read().await
    }

    /// The tokens of a grant, newest generation first, access before refresh.
    ///
    /// # Errors
    /// Those of [`unseal`](Self::unseal), but for a data key that was replaced.
    pub async fn tokens(&self, grant: &GrantIdentity) -> Result<Vec<OpenToken>> {
        self.reading(|| async {
            let mut open = Vec::new();
            for token in self.inner.store.sealed_tokens(grant.id).await? {
                let place = Place::Token { grant, id: token.id };
                let plain = self.unseal(&place, &token.sealed).await?;
                open.push(OpenToken { id: token.id, plain });
            }
            Ok(open)
        })
        .await
    }

    /// What seals the answers that an exchanger keeps. The same after any rotation.
    pub(super) fn key_of_answers(&self) -> KeyBytes {
        let mut key = KeyBytes::default();
        // Twice: what is hashed once is stored as a fingerprint, of whatever text somebody keeps as a secret.
        let once = self.hash(b"kissops vault, answers of an exchanger");
        key.copy_from_slice(&*self.hash(&*once));
        key
    }

    /// A keyed hash of a secret: equal for equal ones, also after any rotation; of no use without the vault's keys.
    #[must_use]
    pub fn fingerprint(&self, secret: &[u8]) -> Fingerprint {
        Fingerprint(self.hash(secret).to_vec())
    }

    fn hash(&self, text: &[u8]) -> Zeroizing<[u8; 32]> {
        // HMAC fills a short key up with zeros.
        let mut block = Zeroizing::new([0; 64]);
        block[..32].copy_from_slice(&*self.inner.fingerprints);
        let hash = Hmac::<Sha256>::new((&*block).into()).chain_update(text).finalize();
        Zeroizing::new(hash.into_bytes().into())
    }
}

impl Inner {
    fn cipher(&self, id: DataKeyId) -> Option<Arc<Cipher>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).ciphers.get(&id).cloned()
    }

    fn current(&self) -> Option<Arc<Current>> {
        let current = self.held.read().unwrap_or_else(PoisonError::into_inner).current.clone()?;
        (self.time.now() < current.until).then_some(current)
    }

    fn take_seal(&self) -> Option<Arc<Current>> {
        let current = self.current()?;
        let taken = current.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        taken.is_ok().then_some(current)
    }

    fn can_seal(&self, count: u32) -> bool {
        self.current().is_some_and(|current| current.left.load(Relaxed) >= count)
    }

    /// A data key that another process has made meanwhile.
    async fn fetch(&self, place: &Place<'_>, id: DataKeyId) -> Result<Arc<Cipher>> {
        let _changing = self.changing.lock().await;
        if let Some(cipher) = self.cipher(id) {
            return Ok(cipher);
        }
        let records = self.reload().await?;
        if let Some(cipher) = self.cipher(id).filter(|_| id != FINGERPRINTS) {
            return Ok(cipher);
        }
        match records.iter().find(|record| record.key.id == id) {
            Some(record) if id != FINGERPRINTS => Err(self.cannot_open(record)),
            _ => Err(Error::Conflict {
                what: place.to_string(),
                holder: format!("another data key than {} by now: read it again", id.0),
            }),
        }
    }

    fn cannot_open(&self, record: &DataKeyRecord) -> Error {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        unwrap_one(&keys, record).err().unwrap_or_else(|| unknown_kek(&keys, record))
    }

    /// Gets the store's data keys into memory, as far as they open, and wipes those that it has no more. For who has
    /// `changing`.
    pub(super) async fn reload(&self) -> Result<Vec<DataKeyRecord>> {
        let records = self.store.data_keys().await?;
        let mut found = HashMap::new();
        for record in records.iter().filter(|record| record.key.id != FINGERPRINTS) {
            let id = record.key.id;
            let cipher = self.cipher(id).or_else(|| {
                let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
                unwrap_one(&keys, record).ok().map(|key| Arc::new(Cipher::new(&key)))
            });
            found.extend(cipher.map(|cipher| (id, cipher)));
        }
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.current = held.current.take().filter(|current| {
            let still =
                |record: &DataKeyRecord| record.key.id == current.id && record.retired_at.is_none();
            records.iter().any(still)
        });
        held.ciphers = found;
        Ok(records)
    }

    async fn renew_after_removal(&self) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.reload().await.map(drop)
    }

    /// Reserves seals of the newest data key, or makes one.
    async fn renew(&self) -> Result<()> {
        let mut ids = self.changing.lock().await;
        if self.can_seal(BLOCK / 16) {
            return Ok(());
        }
        let records = self.reload().await?;
        let now = self.time.now();
        let in_force = records
            .iter()
            .rev()
            .filter(|record| record.key.id != FINGERPRINTS && record.retired_at.is_none());
        for record in in_force.clone() {
            let (id, until) = (record.key.id, record.key.created_at.plus(LONGEST_USE));
            if now < until && self.cipher(id).is_some() && self.reserve(id, until).await? {
                return Ok(());
            }
        }
        let (made, at) = self.make(&mut ids, &records).await?;
        for record in in_force {
            // Told apart from a rotation, which retires at the very moment of the new key.
            let at = self.time.now().max(at.plus(Duration::from_micros(1)));
            match self.store.retire_data_key(record.key.id, at).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(err) => return Err(err),
            }
        }
        self.reserve(made, at.plus(LONGEST_USE)).await.map(drop)
    }

    /// Whether `id` seals from now on. Not if others have retired it, or it has sealed enough.
    pub(super) async fn reserve(&self, id: DataKeyId, until: Timestamp) -> Result<bool> {
        let total = match self.store.reserve_seals(id, BLOCK).await {
            Ok(total) => total,
            Err(Error::WrongState { .. } | Error::NotFound { .. }) => return Ok(false),
            Err(err) => return Err(err),
        };
        let Some(cipher) = self.cipher(id).filter(|_| total <= MOST_SEALS) else {
            return Ok(false);
        };
        let current = Current { id, cipher, left: AtomicU32::new(BLOCK), until };
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.current = Some(Arc::new(current));
        Ok(true)
    }

    /// Makes a data key under the store's KEK, and keeps it here and in the store.
    pub(super) async fn make(
        &self,
        ids: &mut IdMaker,
        records: &[DataKeyRecord],
    ) -> Result<(DataKeyId, Timestamp)> {
        let at = self.time.now();
        for record in records {
            ids.resume_after(record.key.id.0);
        }
        let (id, key) = (DataKeyId(ids.next(at)), random_key()?);
        let store_kek = |records: &[DataKeyRecord]| {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            let Some(master) = records.iter().find(|record| record.key.id == FINGERPRINTS) else {
                return Err(sealed("its key of fingerprints is gone from the store"));
            };
            let kek = keys.find(&master.key.kek).ok_or_else(|| unknown_kek(&keys, master))?;
            wrapped(kek, id, &key, at)
        };
        let mut made = store_kek(records)?;
        self.store.add_data_key(made.clone()).await?;
        // A rotation that began before the key was there has not seen it, and one that comes to it now finds it: after
        // this no key is left under a KEK that was given up.
        loop {
            let records = self.store.data_keys().await?;
            let again = store_kek(&records)?;
            if again.kek == made.kek {
                break;
            }
            match self
                .store
                .rewrap_data_key(id, &made.kek, again.kek.clone(), again.wrapped.clone())
                .await
            {
                Ok(()) => {}
                Err(Error::Conflict { .. }) => break,
                Err(err) => return Err(err),
            }
            made = again;
        }
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.ciphers.insert(id, Arc::new(Cipher::new(&key)));
        Ok((id, at))
    }
}

fn wrapped(kek: &super::Kek, id: DataKeyId, key: &KeyBytes, at: Timestamp) -> Result<NewDataKey> {
    Ok(NewDataKey { id, kek: kek.id(), wrapped: kek.wrap(id, key)?, created_at: at })
}

pub(super) fn unwrap_one(keys: &Keys, record: &DataKeyRecord) -> Result<KeyBytes> {
    let kek = keys.find(&record.key.kek).ok_or_else(|| unknown_kek(keys, record))?;
    kek.unwrap(record.key.id, &record.key.wrapped).ok_or_else(|| Error::Corrupt {
        what: format!("data key {}", record.key.id.0),
        detail: format!("key {} does not open it, though it wraps it", record.key.kek.0),
    })
}

/// All keys. One that has never sealed anything may be missing: its maker ended before it was of use.
fn unwrap_all(keys: &Keys, records: &[DataKeyRecord]) -> Result<HashMap<DataKeyId, KeyBytes>> {
    let unused = |record: &DataKeyRecord| record.seals == 0 && record.key.id != FINGERPRINTS;
    let mut found = HashMap::new();
    for record in records {
        match unwrap_one(keys, record) {
            Ok(key) => drop(found.insert(record.key.id, key)),
            Err(_) if unused(record) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(found)
}

fn unknown_kek(keys: &Keys, record: &DataKeyRecord) -> Error {
    sealed(&format!(
        "data key {} is wrapped by key {}, and given is {}: give the vault the key that it was sealed with",
        record.key.id.0,
        record.key.kek.0,
        keys.names()
    ))
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests;
