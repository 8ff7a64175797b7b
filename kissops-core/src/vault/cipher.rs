//! AES-256-GCM with a random nonce, and the bytes in which a sealed text is kept: version, nonce, ciphertext, tag.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{AeadInOut as _, Nonce},
};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// The first byte of everything sealed, and part of what it is bound to.
const FORMAT: u8 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;

/// A key's bytes, wiped when dropped.
pub(super) type KeyBytes = Zeroizing<[u8; 32]>;

/// Random bytes of the system's generator.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

/// A key of 256 random bits.
pub(super) fn random_key() -> Result<KeyBytes> {
    let mut key = KeyBytes::default();
    fill_random(&mut *key)?;
    Ok(key)
}

pub(super) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(Error::unavailable("the system's random generator"))
}

/// What a sealed text belongs to. Every part has its length before it: no two lists of parts give the same bytes.
pub(super) struct Binding(Vec<u8>);

impl Binding {
    pub(super) fn of(purpose: &str) -> Self {
        let mut bytes = Vec::with_capacity(192);
        bytes.extend_from_slice(b"kissops vault");
        bytes.push(FORMAT);
        Self(bytes).text(purpose)
    }

    pub(super) fn text(mut self, part: &str) -> Self {
        self.0.extend_from_slice(&(part.len() as u64).to_be_bytes());
        self.0.extend_from_slice(part.as_bytes());
        self
    }

    pub(super) fn number(mut self, part: impl Into<i128>) -> Self {
        self.0.extend_from_slice(&16_u64.to_be_bytes());
        self.0.extend_from_slice(&part.into().to_be_bytes());
        self
    }
}

/// One key, ready for use. The cipher's state is wiped when dropped (feature `zeroize` of its crate).
pub(super) struct Cipher(Aes256Gcm);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Cipher {
    pub(super) fn new(key: &KeyBytes) -> Self {
        Self(Aes256Gcm::new((&**key).into()))
    }

    pub(super) fn seal(&self, binding: &Binding, plain: &[u8]) -> Result<Vec<u8>> {
        let nonce: [u8; NONCE] = random()?;
        let mut sealed = Vec::with_capacity(1 + NONCE + plain.len() + TAG);
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let text = &mut sealed[1 + NONCE..];
        let nonce = Nonce::<Aes256Gcm>::from(nonce);
        let tag = self.0.encrypt_inout_detached(&nonce, &binding.0, text.into());
        let tag = tag.map_err(|_| Error::invalid("a text to be sealed", "is too long"))?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// What was sealed; `None` if it was not sealed by this key, for that, in this format, with these bytes.
    pub(super) fn open(&self, binding: &Binding, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let rest = sealed.strip_prefix(&[FORMAT])?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
        let (text, tag) = rest.split_last_chunk::<TAG>()?;
        let mut plain = Zeroizing::new(text.to_vec());
        let nonce = Nonce::<Aes256Gcm>::from(*nonce);
        let buffer = plain.as_mut_slice().into();
        self.0.decrypt_inout_detached(&nonce, &binding.0, buffer, tag.into()).ok()?;
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lists_of_parts_are_bound_alike() {
        let bindings = [
            Binding::of("a").text("bc"),
            Binding::of("ab").text("c"),
            Binding::of("a").text("b").text("c"),
            Binding::of("a").text("bc").text(""),
            Binding::of("a").number(7_u64),
            Binding::of("a").text("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\u{7}").text(""),
            Binding::of("a").number(-7_i64),
        ];
        for (at, one) in bindings.iter().enumerate() {
            assert!(bindings[..at].iter().all(|other| other.0 != one.0), "{at}");
        }
    }

    /// Made with Python's `cryptography`: this key, this nonce, these associated data.
    #[test]
    fn a_sealed_text_of_the_first_format_opens() {
        let key = KeyBytes::new(std::array::from_fn(|i| u8::try_from(i * 7 + 3).unwrap_or(0)));
        let sealed = include_bytes!("../../tests/data/vault/sealed-1.bin");
        let binding = Binding::of("token").text("twitch").number(-5_i64);
        let plain = Cipher::new(&key).open(&binding, sealed).unwrap();
        assert_eq!(**plain, *b"a token, made elsewhere");
    }
}
