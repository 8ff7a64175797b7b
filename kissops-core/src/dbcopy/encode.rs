//! Values in the binary form of `COPY`, straight from `SQLite`'s buffers.

use std::io::Write as _;

use super::{
    kind::{Kind, Stored, Target, classify, truth},
    numeric::{self, Digits},
    time,
};

/// What stands before the rows of a binary COPY: signature, flags, no extension.
pub(super) const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What stands after them.
pub(super) const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// From 1970 to Postgres' epoch, the year 2000, in microseconds.
const EPOCH: i64 = 946_684_800_000_000;

/// How one column is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    pub(super) kind: Kind,
    pub(super) target: Target,
    /// What does not fit is written as NULL.
    pub(super) misfits_are_null: bool,
}

/// The value cannot be written in the type of its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misfit;

impl Encoding {
    /// Appends one field: its length and its bytes.
    pub(super) fn field(self, value: Stored<'_>, out: &mut Vec<u8>) -> Result<(), Misfit> {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let written = if self.misfits_are_null && !self.target.holds(classify(self.kind, value)) {
            Err(Misfit)
        } else {
            self.bytes(value, out)
        };
        let length = match written {
            Ok(true) => i32::try_from(out.len() - start - 4).map_err(|_| Misfit)?,
            Err(Misfit) if !self.misfits_are_null => return Err(Misfit),
            Ok(false) | Err(Misfit) => {
                out.truncate(start + 4);
                -1
            }
        };
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// `false` for NULL.
    fn bytes(self, value: Stored<'_>, out: &mut Vec<u8>) -> Result<bool, Misfit> {
        match (self.target, value) {
            (_, Stored::Null) => return Ok(false),
            (Target::Bigint, Stored::Int(n)) => out.extend_from_slice(&n.to_be_bytes()),
            (Target::Boolean, value) => out.push(u8::from(truth(value).ok_or(Misfit)?)),
            (Target::Double, Stored::Real(n)) => out.extend_from_slice(&n.to_be_bytes()),
            (Target::Double, Stored::Int(n)) if n.unsigned_abs() <= 1 << 53 => {
                #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
                out.extend_from_slice(&(n as f64).to_be_bytes());
            }
            (Target::Numeric(limits), value) => {
                let mut room = Digits::default();
                let decimal = numeric::read(value, &mut room).ok_or(Misfit)?;
                if limits.is_some_and(|limits| !decimal.fits(limits)) {
                    return Err(Misfit);
                }
                decimal.encode(limits.map(|(_, scale)| scale), out);
            }
            (Target::Text | Target::Varchar(_) | Target::Citext, value) => text(value, out)?,
            (Target::Bytea, Stored::Blob(bytes) | Stored::Text(bytes)) => {
                out.extend_from_slice(bytes);
            }
            (Target::Timestamp(unit), value) => {
                let micros = match (unit, value) {
                    (_, Stored::Text(text)) => time::parse(text).map(|found| found.micros),
                    (Some(unit), value) => time::of_number(unit, value),
                    (None, _) => None,
                };
                out.extend_from_slice(&(micros.ok_or(Misfit)? - EPOCH).to_be_bytes());
            }
            _ => return Err(Misfit),
        }
        Ok(true)
    }
}

/// Text as it is, numbers by the shortest text that gives them back. The server checks that it is UTF-8 without NUL.
fn text(value: Stored<'_>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    match value {
        Stored::Text(bytes) | Stored::Blob(bytes) => out.extend_from_slice(bytes),
        // Writing to memory cannot fail.
        Stored::Int(n) => write!(out, "{n}").map_err(|_| Misfit)?,
        Stored::Real(n) if n.is_infinite() => {
            out.extend_from_slice(if n > 0.0 { b"Infinity" } else { b"-Infinity" });
        }
        Stored::Real(n) => write!(out, "{n:?}").map_err(|_| Misfit)?,
        Stored::Null => return Err(Misfit),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(target: Target, value: Stored<'_>) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let encoding = Encoding { kind: Kind::Open, target, misfits_are_null: false };
        encoding.field(value, &mut out).ok().map(|()| out)
    }

    #[test]
    fn lengths_and_bytes() {
        assert_eq!(
            field(Target::Bigint, Stored::Int(258)).unwrap(),
            [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2]
        );
        assert_eq!(field(Target::Text, Stored::Null).unwrap(), [255; 4]);
        assert_eq!(field(Target::Text, Stored::Real(1.0)).unwrap(), *b"\0\0\0\x031.0");
        assert_eq!(field(Target::Boolean, Stored::Text(b"Yes")).unwrap(), [0, 0, 0, 1, 1]);
        let epoch = field(Target::Timestamp(None), Stored::Text(b"2000-01-01")).unwrap();
        assert_eq!(epoch[4..], [0; 8]);
    }

    #[test]
    fn nothing_is_bent_to_fit() {
        assert!(field(Target::Bigint, Stored::Real(1.5)).is_none());
        assert!(field(Target::Bigint, Stored::Text(b"1")).is_none());
        assert!(field(Target::Boolean, Stored::Int(7)).is_none());
        assert!(field(Target::Double, Stored::Int(i64::MAX)).is_none());
        assert!(field(Target::Numeric(Some((3, 1))), Stored::Real(1.25)).is_none());
        assert!(field(Target::Bytea, Stored::Int(1)).is_none());
        assert!(field(Target::Timestamp(None), Stored::Int(1)).is_none());
    }

    #[test]
    fn misfits_become_null_where_told() {
        let mut out = Vec::new();
        let encoding =
            Encoding { kind: Kind::Integer, target: Target::Bigint, misfits_are_null: true };
        encoding.field(Stored::Text(b"n/a"), &mut out).unwrap();
        assert_eq!(out, [255; 4]);
    }
}
