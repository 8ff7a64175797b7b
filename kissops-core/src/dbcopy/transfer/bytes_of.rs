//! Rows in what a binary `COPY TO` sends, wherever the server cuts its messages.

use crate::{dbcopy::encode::HEADER, pg::Digest};

/// Finds the rows and adds them up.
#[derive(Debug, Default)]
pub(super) struct Walker {
    pub(super) digest: Digest,
    /// What was left of earlier messages: less than a row.
    rest: Vec<u8>,
    began: bool,
    ended: bool,
}

impl Walker {
    /// Takes the next bytes.
    pub(super) fn walk(&mut self, bytes: &[u8]) {
        if self.rest.is_empty() {
            let used = self.rows(bytes);
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            let mut all = std::mem::take(&mut self.rest);
            all.extend_from_slice(bytes);
            let used = self.rows(&all);
            all.drain(..used);
            self.rest = all;
        }
    }

    /// The end was sent, and nothing after it.
    pub(super) fn is_complete(&self) -> bool {
        self.ended && self.rest.is_empty()
    }

    /// Adds the complete rows at the beginning; gives their length.
    fn rows(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if !self.began {
            if bytes.len() < HEADER.len() {
                return 0;
            }
            self.began = true;
            at = HEADER.len();
        }
        while !self.ended {
            match row(&bytes[at..]) {
                Some(0) => {
                    self.ended = true;
                    at += 2;
                }
                Some(length) => {
                    self.digest.add(&bytes[at..at + length]);
                    at += length;
                }
                None => break,
            }
        }
        at
    }
}

/// The length of the row at the beginning; 0 for the end of all, `None` if it is not all there.
fn row(bytes: &[u8]) -> Option<usize> {
    let fields = i16::from_be_bytes(*bytes.first_chunk()?);
    if fields < 0 {
        return Some(0);
    }
    let mut at: usize = 2;
    for _ in 0..fields {
        let length = i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?);
        at += 4 + usize::try_from(length).unwrap_or(0);
    }
    (at <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_do_not_matter() {
        let rows: [&[u8]; 3] =
            [b"\0\x02\0\0\0\x01a\xff\xff\xff\xff", b"\0\x01\0\0\0\0", b"\0\x01\0\0\0\x03xyz"];
        let mut wanted = Digest::default();
        for row in rows {
            wanted.add(row);
        }
        let all = [HEADER.as_slice(), &rows.concat(), b"\xff\xff"].concat();
        for size in 1..all.len() {
            let mut walker = Walker::default();
            all.chunks(size).for_each(|part| walker.walk(part));
            assert!(walker.is_complete(), "{size}");
            assert_eq!(walker.digest, wanted, "{size}");
        }
        let mut walker = Walker::default();
        walker.walk(&all[..all.len() - 1]);
        assert!(!walker.is_complete());
    }
}
