//! Decimal numbers in the binary form of Postgres' `numeric`.

use std::io::Write as _;

use super::kind::Stored;

/// Room for the digits of a number; the longest float has 309 before the point, the shortest 1074 after it.
#[derive(Debug)]
pub(super) struct Digits {
    bytes: [u8; 1100],
}

impl Default for Digits {
    fn default() -> Self {
        Self { bytes: [0; 1100] }
    }
}

/// A decimal number, its digits without leading zeros before and trailing zeros after the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal<'a> {
    is_negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
}

/// Reads an integer, a float by its shortest text that gives it back, or text of digits.
pub(super) fn read<'a>(value: Stored<'a>, room: &'a mut Digits) -> Option<Decimal<'a>> {
    let size = room.bytes.len();
    let mut rest = &mut room.bytes[..];
    match value {
        Stored::Int(n) => write!(rest, "{n}").ok()?,
        Stored::Real(n) if n.is_finite() => write!(rest, "{n}").ok()?,
        Stored::Text(text) => return parse(text),
        _ => return None,
    }
    let written = size - rest.len();
    parse(&room.bytes[..written])
}

fn parse(text: &[u8]) -> Option<Decimal<'_>> {
    let (is_negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] | rest => (false, rest),
    };
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &text[text.len()..]),
    };
    let all_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
    if !all_digits || whole.is_empty() || whole.len() > 1000 || fraction.len() > 1100 {
        return None;
    }
    let zeros = whole.iter().take_while(|digit| **digit == b'0').count();
    let kept = fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    Some(Decimal { is_negative, whole: &whole[zeros..], fraction: &fraction[..kept] })
}

impl Decimal<'_> {
    /// Within a precision and a scale, without rounding.
    pub(super) fn fits(&self, (digits, scale): (u16, u16)) -> bool {
        self.fraction.len() <= usize::from(scale) && self.whole.len() <= usize::from(digits - scale)
    }

    /// Appends what `numeric_send` would give for it, so that both sides hash the same bytes: digits of base 10,000
    /// without zeros at either end, and as many decimals to show as `scale` says, or as there are.
    pub(super) fn encode(&self, scale: Option<u16>, out: &mut Vec<u8>) {
        let group = |digits: &[u8], width: usize| {
            let value =
                digits.iter().fold(0_i16, |value, digit| value * 10 + i16::from(digit - b'0'));
            (digits.len()..width).fold(value, |value, _| value * 10)
        };
        let first = self.whole.len() % 4;
        let mut groups: Vec<i16> = Vec::with_capacity(8);
        if first > 0 {
            groups.push(group(&self.whole[..first], first));
        }
        groups.extend(self.whole[first..].chunks(4).map(|digits| group(digits, 4)));
        let mut weight = small(groups.len()) - 1;
        groups.extend(self.fraction.chunks(4).map(|digits| group(digits, 4)));
        let zeros = groups.iter().take_while(|group| **group == 0).count();
        let kept = groups.iter().rposition(|group| *group != 0).map_or(zeros, |last| last + 1);
        weight -= small(zeros);
        let groups = &groups[zeros..kept];
        if groups.is_empty() {
            weight = 0;
        }
        let sign: u16 = if self.is_negative && !groups.is_empty() { 0x4000 } else { 0 };
        out.extend_from_slice(&small(groups.len()).to_be_bytes());
        out.extend_from_slice(&weight.to_be_bytes());
        out.extend_from_slice(&sign.to_be_bytes());
        let shown = scale.map_or_else(|| small(self.fraction.len()), u16::cast_signed);
        out.extend_from_slice(&shown.to_be_bytes());
        for group in groups {
            out.extend_from_slice(&group.to_be_bytes());
        }
    }
}

/// Numbers of digits, 1100 at most.
fn small(number: usize) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str, scale: Option<u16>) -> Vec<i16> {
        let mut out = Vec::new();
        parse(text.as_bytes()).unwrap().encode(scale, &mut out);
        out.chunks(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    #[test]
    fn encodes_as_postgres_does() {
        // ndigits, weight, sign, dscale, digits; taken from `SELECT numeric_send(…)`.
        for (text, scale, wanted) in [
            ("0", None, vec![0, 0, 0, 0]),
            ("0.00", Some(2), vec![0, 0, 0, 2]),
            ("1", None, vec![1, 0, 0, 0, 1]),
            ("-12.5", Some(2), vec![2, 0, 0x4000, 2, 12, 5000]),
            ("10000", None, vec![1, 1, 0, 0, 1]),
            ("123456.789", None, vec![4, 1, 0, 3, 12, 3456, 7890]),
            ("0.00012", None, vec![2, -1, 0, 5, 1, 2000]),
        ] {
            let mut wanted: Vec<i16> = wanted;
            wanted[0] = i16::try_from(wanted.len()).unwrap() - 4;
            assert_eq!(encoded(text, scale), wanted, "{text}");
        }
    }

    #[test]
    fn floats_keep_all_their_digits() {
        let mut room = Digits::default();
        let decimal = read(Stored::Real(0.1), &mut room).unwrap();
        assert!(decimal.fits((2, 1)) && !decimal.fits((2, 0)));
        let mut room = Digits::default();
        let sum = read(Stored::Real(0.1 + 0.2), &mut room).unwrap();
        assert!(!sum.fits((10, 2)));
        let mut room = Digits::default();
        assert!(read(Stored::Real(5e-324), &mut room).is_some());
        let mut room = Digits::default();
        assert!(read(Stored::Real(f64::MAX), &mut room).is_some());
        assert!(read(Stored::Real(f64::INFINITY), &mut Digits::default()).is_none());
        assert!(read(Stored::Text(b"1e5"), &mut Digits::default()).is_none());
    }
}
