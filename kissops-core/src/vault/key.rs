//! Key-encryption keys (KEK), which are kept outside the store and open the data keys in it.

use std::fmt;

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hkdf::Hkdf;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use super::cipher::{Binding, Cipher, KeyBytes, random_key};
use crate::{
    Error, Result,
    store::{DataKeyId, KekId, Sealed},
};

mod harden;
mod source;

pub use harden::harden_process;
pub use source::KeySource;

/// A key-encryption key: 256 bits that were drawn at random. It wraps data keys and nothing else.
pub struct Kek {
    id: KekId,
    cipher: Cipher,
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Kek {
    /// Reads a key: 64 hexadecimal digits, or 32 bytes in base64 (either alphabet, with or without `=`). Blanks around
    /// it do not count.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] says what is wrong with it and shows nothing of it; also for a key that can be guessed.
    pub fn parse(text: &SecretString) -> Result<Self> {
        let refuse = |rule: &str| {
            let rule = format!("{rule}: make one with `kissops vault key`");
            Err(Error::invalid("the vault's key", rule))
        };
        let text = text.expose_secret().trim();
        if text.is_empty() {
            return refuse("is empty");
        }
        let Some(bytes) = decode(text) else {
            return refuse("must be 64 hexadecimal digits or 32 bytes in base64");
        };
        match weakness(text, &bytes) {
            Some(rule) => refuse(rule),
            None => Ok(Self::derive(&bytes)),
        }
    }

    /// A new key as text: 43 characters of URL-safe base64.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the system's generator does not answer.
    pub fn generate() -> Result<SecretString> {
        loop {
            let text = SecretString::from(engine(false, false).encode(random_key()?.as_slice()));
            // One in some thousand million looks weak.
            if Self::parse(&text).is_ok() {
                return Ok(text);
            }
        }
    }

    /// What it is called in a store. Tells nothing of it.
    #[must_use]
    pub fn id(&self) -> KekId {
        self.id.clone()
    }

    fn derive(bytes: &KeyBytes) -> Self {
        let keys = Hkdf::<Sha256>::new(None, &**bytes);
        let (mut id, mut wrapping) = ([0; 8], KeyBytes::default());
        // Fails for more than 8 KiB only.
        let _ = keys.expand(b"kissops vault, name of a key", &mut id);
        let _ = keys.expand(b"kissops vault, wrapping of data keys", &mut *wrapping);
        let id = id.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        Self { id: KekId(id), cipher: Cipher::new(&wrapping) }
    }

    fn binding(&self, id: DataKeyId) -> Binding {
        Binding::of("data key").number(id.0).text(&self.id.0)
    }

    pub(super) fn wrap(&self, id: DataKeyId, key: &KeyBytes) -> Result<Sealed> {
        self.cipher.seal(&self.binding(id), &**key).map(Sealed)
    }

    pub(super) fn unwrap(&self, id: DataKeyId, wrapped: &Sealed) -> Option<KeyBytes> {
        let plain = self.cipher.open(&self.binding(id), &wrapped.0)?;
        let mut key = KeyBytes::default();
        (plain.len() == key.len()).then(|| key.copy_from_slice(&plain))?;
        Some(key)
    }
}

/// The keys that a vault is opened with.
#[derive(Debug)]
pub struct Keys {
    /// Under this one, data keys come when they are rotated; in an empty store, from the beginning.
    pub current: Kek,
    /// Those that may be in use beside it: of before a rotation, or of one to come.
    pub previous: Vec<Kek>,
}

impl Keys {
    /// One key.
    #[must_use]
    pub fn only(current: Kek) -> Self {
        Self { current, previous: Vec::new() }
    }

    pub(super) fn find(&self, id: &KekId) -> Option<&Kek> {
        std::iter::once(&self.current).chain(&self.previous).find(|kek| kek.id == *id)
    }

    /// Makes `to` the current one; the others open still.
    pub(super) fn move_to(&mut self, to: Kek) {
        self.previous.retain(|kek| kek.id != to.id);
        if to.id != self.current.id {
            self.previous.push(std::mem::replace(&mut self.current, to));
        }
    }

    pub(super) fn names(&self) -> String {
        let all = std::iter::once(&self.current).chain(&self.previous);
        all.map(|kek| kek.id.0.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Base64 of one alphabet, lenient in reading: with or without `=`.
fn engine(standard: bool, padded: bool) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_encode_padding(padded)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(if standard { &STANDARD } else { &URL_SAFE }, config)
}

fn decode(text: &str) -> Option<KeyBytes> {
    let mut key = KeyBytes::default();
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        return Some(key);
    }
    // Longer than any that holds 32 bytes, so that nothing long is copied.
    if text.len() > 44 {
        return None;
    }
    let mut buffer = Zeroizing::new([0; 48]);
    let length = [true, false]
        .into_iter()
        .find_map(|standard| engine(standard, false).decode_slice(text, &mut *buffer).ok())?;
    let found: Option<&[u8; 32]> = buffer.get(..length)?.try_into().ok();
    key.copy_from_slice(found?);
    buffer.zeroize();
    Some(key)
}

/// What is wrong with a key that nobody has drawn at random. A random one is refused less than once in 10^9.
fn weakness(text: &str, key: &[u8; 32]) -> Option<&'static str> {
    let step = |pair: &[u8]| pair[1].wrapping_sub(pair[0]);
    let steady = key.windows(2).all(|pair| step(pair) == step(&key[..2]));
    let repeats = (1..=16).any(|period| key.iter().zip(&key[period..]).all(|(a, b)| a == b));
    let mut seen = [false; 256];
    for byte in key {
        seen[usize::from(*byte)] = true;
    }
    let distinct = seen.iter().filter(|seen| **seen).count();
    let readable = |bytes: &[u8]| bytes.iter().all(|b| matches!(b, b' '..=b'~' | b'\t' | b'\n'));
    let any = |is: fn(&u8) -> bool| text.bytes().any(|byte| is(&byte));
    // Words of one case, which happen to be base64; digits alone, which happen to be hexadecimal.
    let words = text.len() < 64 && !(any(u8::is_ascii_lowercase) && any(u8::is_ascii_uppercase));
    let digits = text.len() == 64 && !any(u8::is_ascii_alphabetic);
    if steady || repeats || distinct < 8 {
        return Some("is a pattern that can be guessed");
    }
    (readable(key) || words || digits).then_some("is a text and not drawn at random")
}

#[cfg(test)]
mod tests;
