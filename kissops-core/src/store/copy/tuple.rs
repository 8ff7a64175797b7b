//! Rows in the form of Postgres' binary COPY (manual, COPY, "Binary Format").
//!
//! The form says everything about a row, and is the same for the same values wherever they come from. So it is what goes
//! over, what is summed up, and what is compared.

/// What a binary COPY begins with: signature, flags, length of an extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with, in the place of a row's number of columns.
pub(super) const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Begins a row of `columns` columns.
pub(super) fn begin(out: &mut Vec<u8>, columns: usize) {
    out.extend_from_slice(&i16::try_from(columns).unwrap_or(i16::MAX).to_be_bytes());
}

/// Adds a column; `None` is NULL. Values are far shorter than the 2 GiB that the form has room for.
pub(super) fn field(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value.unwrap_or_default());
}

/// Takes the first row off `bytes`; `None` while it is not whole, or at the trailer.
pub(super) fn split<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let columns = i16::from_be_bytes(bytes.first_chunk().copied()?);
    let columns = usize::try_from(columns).ok()?;
    let mut end = 2;
    for _ in 0..columns {
        let length = i32::from_be_bytes(bytes.get(end..)?.first_chunk().copied()?);
        end += 4 + usize::try_from(length).unwrap_or(0);
    }
    let (row, rest) = bytes.split_at_checked(end)?;
    *bytes = rest;
    Some(row)
}

/// The columns of a whole row.
pub(super) fn fields(row: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = row.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk()?;
        let length = i32::from_be_bytes(*length);
        let (value, after) = after.split_at_checked(usize::try_from(length).unwrap_or(0))?;
        rest = after;
        Some((length >= 0).then_some(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Digest;

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out, values.len());
        for value in values {
            field(&mut out, *value);
        }
        out
    }

    #[test]
    fn rows_are_split_where_they_were_joined() {
        let one = row(&[Some(b"abc"), None, Some(b"")]);
        let two = row(&[Some(&[0; 300])]);
        let joined = [one.clone(), two.clone(), TRAILER.to_vec()].concat();
        let mut rest = &*joined;
        assert_eq!(split(&mut rest), Some(&*one));
        assert_eq!(split(&mut rest), Some(&*two));
        assert_eq!(split(&mut rest), None);
        assert_eq!(rest, TRAILER);
        for cut in 0..one.len() {
            assert_eq!(split(&mut &one[..cut]), None, "{cut}");
        }
        let found: Vec<_> = fields(&one).collect();
        assert_eq!(found, [Some(&b"abc"[..]), None, Some(&b""[..])]);
    }

    #[test]
    fn a_sum_depends_on_every_bit_and_not_on_the_order() {
        let digest = |rows: &[&[u8]]| {
            let mut digest = Digest::default();
            for row in rows {
                digest.add(row);
            }
            digest
        };
        let (one, two) = (row(&[Some(b"12345678abc")]), row(&[Some(b"xyz"), None]));
        assert_eq!(digest(&[&one, &two]), digest(&[&two, &one]));
        assert_ne!(digest(&[&one, &one]), digest(&[&two, &two]));
        for byte in 0..one.len() {
            for bit in 0..8 {
                let mut other = one.clone();
                other[byte] ^= 1 << bit;
                assert_ne!(digest(&[&one, &two]), digest(&[&other, &two]), "{byte}.{bit}");
            }
        }
        assert_ne!(digest(&[&row(&[None])]), digest(&[&row(&[Some(b"")])]));
    }
}
