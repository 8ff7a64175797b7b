//! The text of tokens. It is computed from a token's number, so a hundred thousand of them take no memory.

/// How tokens look. Real ones differ, and what carries them must not care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenStyle {
    /// Small letters and digits, as Twitch's.
    #[default]
    Plain,
    /// With characters that have a meaning in forms and URLs.
    Awkward,
    /// Two thousand characters and more.
    Long,
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const NUMBER_LENGTH: usize = 7;
const NUMBER_MASK: u64 = (1 << 36) - 1;
const SCRAMBLE: u64 = 0x9_E377_9B97 | 1;

/// Makes texts, and finds the number of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Minter {
    seed: u64,
}

impl Minter {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    pub(crate) fn seed(self) -> u64 {
        self.seed
    }

    /// The text of token `number`, `length` characters long in the plain style.
    pub(crate) fn text(self, number: u32, length: usize, style: TokenStyle) -> String {
        let random = length - NUMBER_LENGTH;
        let (before, random) = match style {
            TokenStyle::Plain => ("", random),
            TokenStyle::Awkward => ("a+b/c=d&e%20f~", random),
            TokenStyle::Long => ("", random + 2000),
        };
        let mut text = Vec::with_capacity(before.len() + random + NUMBER_LENGTH);
        text.extend_from_slice(before.as_bytes());
        let mut state = self.seed ^ u64::from(number).wrapping_mul(0xD1B5_4A32_D192_ED03);
        let mut left = random;
        while left > 0 {
            let take = left.min(12);
            push_digits(&mut text, splitmix(&mut state), take);
            left -= take;
        }
        let number = u64::from(number).wrapping_mul(SCRAMBLE).wrapping_add(self.seed);
        push_digits(&mut text, number & NUMBER_MASK, NUMBER_LENGTH);
        text.into_iter().map(char::from).collect()
    }

    /// The number that a text would have if it were one of ours.
    pub(crate) fn number(self, text: &str) -> Option<u32> {
        let digits = text.as_bytes().get(text.len().checked_sub(NUMBER_LENGTH)?..)?;
        let mut value = 0_u64;
        for digit in digits.iter().rev() {
            let digit = DIGITS.iter().position(|one| one == digit)?;
            value = value * 36 + digit as u64;
        }
        let number = value.wrapping_sub(self.seed).wrapping_mul(inverse(SCRAMBLE)) & NUMBER_MASK;
        u32::try_from(number).ok()
    }

    /// A text that is no token's: for codes.
    pub(crate) fn code(self, serial: u64, length: usize) -> String {
        let mut state = self.seed ^ serial.rotate_left(32) ^ 0xC0DE;
        let mut text = Vec::with_capacity(length);
        while text.len() < length {
            let take = (length - text.len()).min(12);
            push_digits(&mut text, splitmix(&mut state), take);
        }
        text.into_iter().map(char::from).collect()
    }
}

fn push_digits(text: &mut Vec<u8>, mut value: u64, count: usize) {
    for _ in 0..count {
        text.push(DIGITS[(value % 36) as usize]);
        value /= 36;
    }
}

/// Spreads `state` over 64 bits: a fixed sequence for a seed, without a crate.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// What undoes a multiplication by an odd number, modulo 2^64; so also modulo 2^36.
fn inverse(odd: u64) -> u64 {
    let mut found = odd;
    for _ in 0..6 {
        found = found.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(found)));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_text_leads_back_to_its_number() {
        let minter = Minter::new(7);
        let mut seen = HashSet::new();
        for number in (0..5000).chain([u32::MAX - 1, u32::MAX]) {
            for style in [TokenStyle::Plain, TokenStyle::Awkward, TokenStyle::Long] {
                let text = minter.text(number, 30, style);
                assert_eq!(minter.number(&text), Some(number), "{text}");
                assert!(style == TokenStyle::Long || seen.insert(text));
            }
        }
        assert_eq!(minter.text(1, 30, TokenStyle::Plain).len(), 30);
        assert_ne!(
            minter.text(1, 30, TokenStyle::Plain),
            Minter::new(8).text(1, 30, TokenStyle::Plain)
        );
    }

    #[test]
    fn other_texts_have_no_number_or_another_text() {
        let minter = Minter::new(7);
        for text in ["", "short", "ünïcödé-ünïcödé", "NOT-OURS-AT-ALL"] {
            assert_eq!(minter.number(text), None, "{text}");
        }
    }
}
