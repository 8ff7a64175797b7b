//! Making secrets at random.

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::super::cipher::fill_random;
use crate::Result;

/// What a generated secret looks like. Each has at least 256 bits, and is printable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretForm {
    /// 43 letters and digits: goes into every URL, shell and form.
    #[default]
    Letters,
    /// 64 hexadecimal digits.
    Hex,
    /// 43 characters of URL-safe base64.
    Base64,
}

impl SecretForm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Letters, Self::Hex, Self::Base64];

    /// The form as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Letters => "letters",
            Self::Hex => "hex",
            Self::Base64 => "base64",
        }
    }

    /// The form of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.as_str() == word)
    }

    pub(super) fn generate(self) -> Result<SecretString> {
        let (letters, length): (&[u8], usize) = match self {
            // 62^43 is more than 2^256.
            Self::Letters => {
                (b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 43)
            }
            Self::Hex => (b"0123456789abcdef", 64),
            Self::Base64 => {
                (b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", 43)
            }
        };
        // The largest multiple of the alphabet's size: what is above would make some letters likelier than others.
        let fair = 256 - 256 % letters.len();
        let mut text = Zeroizing::new(String::with_capacity(length));
        let mut bytes = Zeroizing::new([0; 64]);
        while text.len() < length {
            fill_random(&mut *bytes)?;
            let fair = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
            let drawn = fair.map(|byte| char::from(letters[byte % letters.len()]));
            let missing = length - text.len();
            text.extend(drawn.take(missing));
        }
        Ok(SecretString::from(text.as_str()))
    }
}
