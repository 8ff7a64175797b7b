//! Bytes that only the vault can read, and what names the keys that sealed them.

use std::fmt;

/// Ciphertext. Its `Debug` shows the length alone: not even ciphertext belongs in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// A data key's number, made by an [`IdMaker`](crate::id::IdMaker) before the key is wrapped: the wrapping is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataKeyId(pub i64);

/// Sealed bytes together with the key that opens them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBy {
    /// The key.
    pub key: DataKeyId,
    /// The bytes.
    pub sealed: Sealed,
}
