//! A checksum of a table that does not depend on the order of its rows.
//!
//! Each row's bytes give 128 bits, and the table's digest is their sum modulo 2^128, with their number. A sum keeps what
//! an exclusive or would lose: a row that is there twice. The bits come from two lanes of multiply-and-fold, as in
//! wyhash: this is to find what a copy lost or changed, not what somebody forged, and a difference goes unseen
//! about once in 2^64 differences at the worst. Both sides are read once and nothing is kept, whatever the size of the table.

/// The digest of a table, or of those rows of it that were seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) rows: u64,
    sum: u128,
}

const KEYS: [u64; 4] =
    [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];

impl Digest {
    /// Adds a row, given as its binary tuple.
    pub(crate) fn add(&mut self, row: &[u8]) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash(row));
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.sum)
    }
}

fn hash(bytes: &[u8]) -> u128 {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let (mut one, mut two) = (KEYS[0] ^ bytes.len() as u64, KEYS[1]);
    let mut absorb = |chunk: &[u8; 16]| {
        let word = u128::from_le_bytes(*chunk);
        let (low, high) = halves(word);
        one = fold(low ^ one, high ^ KEYS[2]);
        two = fold(low ^ KEYS[3], high ^ two).rotate_left(29) ^ low;
    };
    chunks.iter().for_each(&mut absorb);
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    absorb(&last);
    u128::from(fold(one ^ KEYS[1], two ^ KEYS[2])) << 64
        | u128::from(fold(two ^ KEYS[0], one ^ KEYS[3]))
}

fn fold(a: u64, b: u64) -> u64 {
    let (low, high) = halves(u128::from(a) * u128::from(b));
    low ^ high
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn halves(word: u128) -> (u64, u64) {
    (word as u64, (word >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn of(rows: &[&[u8]]) -> Digest {
        let mut digest = Digest::default();
        for row in rows {
            digest.add(row);
        }
        digest
    }

    #[test]
    fn order_is_nothing_content_is_all() {
        assert_eq!(of(&[b"a", b"b", b"c"]), of(&[b"c", b"a", b"b"]));
        assert_ne!(of(&[b"a", b"b"]), of(&[b"a", b"c"]));
        assert_ne!(of(&[b"a", b"a"]), of(&[b"b", b"b"]));
        assert_ne!(of(&[b"a"]), of(&[b"a", b"a"]));
        assert_ne!(of(&[b"a\0"]), of(&[b"a"]));
    }

    #[test]
    fn every_bit_changes_it() {
        let mut seen = HashSet::new();
        let mut row = [0_u8; 100];
        for bit in 0..800 {
            row[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(hash(&row)), "bit {bit}");
            row[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..100 {
            assert!(seen.insert(hash(&vec![7; length])), "length {length}");
        }
    }
}
