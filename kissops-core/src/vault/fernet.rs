//! Opens Fernet tokens, in which a predecessor in Python has kept its secrets. Makes none.
//!
//! A token is base64 of: 0x80, eight bytes of time, the initial vector, AES-128-CBC with PKCS#7 padding, and HMAC-SHA256
//! over all before. It says nothing of the row that it is in, so rows that were swapped open all the same.

use std::fmt;

use aes_gcm::aes::Aes128;
use cbc::{
    Decryptor,
    cipher::{BlockModeDecrypt as _, KeyIvInit as _, block_padding::Pkcs7},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::cipher::KeyBytes;
use crate::{Error, Result};

const VERSION: u8 = 0x80;
const HEADER: usize = 9;
const VECTOR: usize = 16;
const SIGNATURE: usize = 32;
const BLOCK: usize = 16;
/// Fewer rounds are no protection of a passphrase; more would take minutes.
const ROUNDS: std::ops::RangeInclusive<u32> = 1..=100_000_000;

/// A Fernet key: 16 bytes that sign, 16 that encrypt.
pub struct FernetKey(KeyBytes);

impl fmt::Debug for FernetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FernetKey {
    /// A key as `Fernet.generate_key()` gives it: 32 bytes in base64.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is no such key; shows nothing of it.
    pub fn parse(text: &SecretString) -> Result<Self> {
        let bytes = lenient_base64(text.expose_secret().as_bytes());
        let found: Option<&[u8; 32]> = bytes.as_ref().and_then(|bytes| bytes[..].try_into().ok());
        let Some(found) = found else {
            return Err(Error::invalid("the Fernet key", "must be 32 bytes in base64"));
        };
        let mut key = KeyBytes::default();
        key.copy_from_slice(found);
        Ok(Self(key))
    }

    /// The key of a program that takes SHA-256 of a passphrase.
    #[must_use]
    pub fn from_sha256(passphrase: &SecretString) -> Self {
        let mut key = KeyBytes::default();
        key.copy_from_slice(&Sha256::digest(passphrase.expose_secret().as_bytes()));
        Self(key)
    }

    /// The key of a program that derives it by PBKDF2-HMAC-SHA256. Takes as long as it has rounds.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for no round at all, or more than anybody would wait for.
    pub fn from_pbkdf2(passphrase: &SecretString, salt: &[u8], rounds: u32) -> Result<Self> {
        if !ROUNDS.contains(&rounds) {
            return Err(Error::invalid("the iterations of PBKDF2", "must be 1 to 100,000,000"));
        }
        let mut key = KeyBytes::default();
        let passphrase = passphrase.expose_secret().as_bytes();
        pbkdf2::pbkdf2_hmac::<Sha256>(passphrase, salt, rounds, &mut *key);
        Ok(Self(key))
    }

    fn open(&self, token: &[u8]) -> Result<Zeroizing<Vec<u8>>, FernetFault> {
        let (signing, encryption) = self.0.split_at(16);
        let (signed, signature) =
            token.split_at_checked(token.len().wrapping_sub(SIGNATURE)).ok_or(FernetFault::Form)?;
        // Looked at first, and in constant time: nothing is decrypted that was not made with the key.
        let mac = Hmac::<Sha256>::new_from_slice(signing).map_err(|_| FernetFault::Form)?;
        let verified = mac.chain_update(signed).verify_slice(signature);
        verified.map_err(|_| FernetFault::Signature)?;
        let (vector, text) = signed
            .get(HEADER..)
            .and_then(|rest| rest.split_at_checked(VECTOR))
            .filter(|(_, text)| !text.is_empty() && text.len() % BLOCK == 0)
            .ok_or(FernetFault::Padding)?;
        let mut plain = Zeroizing::new(text.to_vec());
        let cipher = Decryptor::<Aes128>::new_from_slices(encryption, vector)
            .map_err(|_| FernetFault::Form)?;
        let length =
            cipher.decrypt_padded::<Pkcs7>(&mut plain).map_err(|_| FernetFault::Padding)?.len();
        plain.truncate(length);
        Ok(plain)
    }
}

/// Keys of which each token may have been made with any, as with `MultiFernet`.
#[derive(Debug)]
pub struct FernetKeys(Vec<FernetKey>);

impl FernetKeys {
    /// These keys.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if there is none.
    pub fn new(keys: Vec<FernetKey>) -> Result<Self> {
        if keys.is_empty() {
            return Err(Error::invalid("the Fernet keys", "must be at least one"));
        }
        Ok(Self(keys))
    }

    /// What is in a token, however old it is.
    ///
    /// # Errors
    /// Says what is wrong with it, and nothing of what is in it.
    pub fn open(&self, token: &[u8]) -> Result<Zeroizing<Vec<u8>>, FernetFault> {
        let bytes = lenient_base64(token).ok_or(FernetFault::Base64)?;
        if bytes.first() != Some(&VERSION) || bytes.len() < HEADER + VECTOR + SIGNATURE {
            return Err(FernetFault::Form);
        }
        let mut last = FernetFault::Signature;
        for key in &self.0 {
            match key.open(&bytes) {
                Err(fault @ FernetFault::Padding) => last = fault,
                Err(_) => {}
                opened => return opened,
            }
        }
        Err(last)
    }
}

/// Why a token does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FernetFault {
    /// It is cut short, or something else.
    #[error("is not base64: it was cut short, or is no Fernet token")]
    Base64,
    /// It is too short, or of another version.
    #[error("is no Fernet token")]
    Form,
    /// Another key has made it, or it was changed.
    #[error("does not verify: another key has made it, or it was changed")]
    Signature,
    /// It was made with the key and is none the less damaged.
    #[error("verifies and does not decrypt")]
    Padding,
}

/// Base64 as Python reads it: both alphabets, whatever belongs to neither is passed over, bits that are left over do not
/// count, and what follows the padding is not looked at. `None` without the padding that is due.
fn lenient_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 4 * 3 + 3));
    let (mut bits, mut place, mut padding) = (0_u32, 0, 0);
    for letter in text {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' if place >= 2 => {
                padding += 1;
                if place + padding >= 4 {
                    return Some(bytes);
                }
                continue;
            }
            _ => continue,
        };
        padding = 0;
        bits = bits << 6 | u32::from(value);
        place = (place + 1) % 4;
        if place != 1 {
            let left = [0, 0, 4, 2][place];
            bytes.push((bits >> left & 0xff) as u8);
        }
    }
    (place == 0).then_some(bytes)
}

#[cfg(test)]
mod tests;
