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

/// How errors name a data key: by this a key that is gone is told from anything else that is not there.
const NAME: &str = "data key ";

impl DataKeyId {
    /// The key as errors name it. A store says [`NotFound`](crate::Error::NotFound) of a key in these words, and no others.
    #[must_use]
    pub fn name(self) -> String {
        format!("{NAME}{}", self.0)
    }

    /// Whether that is what errors call a data key.
    #[must_use]
    pub fn is_name(what: &str) -> bool {
        what.strip_prefix(NAME).is_some_and(|id| id.parse::<i64>().is_ok())
    }
}

/// Sealed bytes together with the key that opens them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBy {
    /// The key.
    pub key: DataKeyId,
    /// The bytes.
    pub sealed: Sealed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_key_is_known_by_its_name() {
        assert!(DataKeyId::is_name(&DataKeyId(-7).name()));
        for other in ["grant `x/data key 1`", "data key", "data key x", "secret `data key 1`"] {
            assert!(!DataKeyId::is_name(other), "{other}");
        }
    }
}
