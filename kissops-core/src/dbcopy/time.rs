//! Dates and times as `SQLite`'s programs store them, as microseconds.

use super::kind::Stored;

/// What a number in a column of times counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
    Micros,
    Nanos,
    /// Days since noon in Greenwich on November 24, 4714 BC, as `julianday()` gives them.
    JulianDays,
}

impl Unit {
    pub(super) const ALL: [Self; 5] =
        [Self::Seconds, Self::Millis, Self::Micros, Self::Nanos, Self::JulianDays];
}

/// A time that was read from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Microseconds since 1970, UTC.
    pub(super) micros: i64,
    /// No digit was left away.
    pub(super) is_exact: bool,
}

const DAY: i64 = 86_400_000_000;

/// Reads `2024-01-02`, `2024-01-02 03:04`, `2024-01-02T03:04:05.123456Z`, with `+02:00` or `+0200` at the end. Without a
/// zone it is UTC, as for `SQLite`.
pub(super) fn parse(text: &[u8]) -> Option<Found> {
    let (year, rest) = (digits(text.get(..4)?)?, text.get(4..)?);
    let (month, day, rest) = match rest {
        [b'-', a, b, b'-', c, d, rest @ ..] => (digits(&[*a, *b])?, digits(&[*c, *d])?, rest),
        _ => return None,
    };
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) {
        return None;
    }
    let midnight = days_since_1970(year, month, day) * DAY;
    let Some((b' ' | b'T' | b't', rest)) = rest.split_first() else {
        return rest.is_empty().then_some(Found { micros: midnight, is_exact: true });
    };
    let (clock, is_exact, rest) = clock(rest)?;
    let offset = zone(rest)?;
    Some(Found { micros: midnight + clock - offset * 60_000_000, is_exact })
}

/// `03:04`, `03:04:05`, `03:04:05.678`: microseconds, whether they are all, and what follows.
fn clock(text: &[u8]) -> Option<(i64, bool, &[u8])> {
    let [a, b, b':', c, d, rest @ ..] = text else { return None };
    let (hour, minute) = (digits(&[*a, *b])?, digits(&[*c, *d])?);
    let (second, rest) = match rest {
        [b':', a, b, rest @ ..] => (digits(&[*a, *b])?, rest),
        rest => (0, rest),
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (mut fraction, mut is_exact, mut rest) = (0, true, rest);
    if let [b'.' | b',', after @ ..] = rest {
        let count = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return None;
        }
        for at in 0..6 {
            fraction =
                fraction * 10 + after[..count].get(at).map_or(0, |byte| i64::from(byte - b'0'));
        }
        is_exact = after[..count].iter().skip(6).all(|byte| *byte == b'0');
        rest = &after[count..];
    }
    Some((((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction, is_exact, rest))
}

/// Minutes east of Greenwich.
fn zone(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    let (sign, rest) = match text {
        [] | [b'Z' | b'z'] | b"UTC" | b"GMT" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [a, b] => (digits(&[*a, *b])?, 0),
        [a, b, b':', c, d] | [a, b, c, d] => (digits(&[*a, *b])?, digits(&[*c, *d])?),
        _ => return None,
    };
    (hours <= 15 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
    })
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar, counted in years that begin in March, so that leap days come last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Microseconds since 1970 of a number that counts `unit`; `None` beyond what Postgres can hold, or where digits would be lost.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "within ±2^63")]
pub(super) fn of_number(unit: Unit, value: Stored<'_>) -> Option<i64> {
    let micros = match (unit, value) {
        (Unit::Seconds, Stored::Int(n)) => n.checked_mul(1_000_000)?,
        (Unit::Millis, Stored::Int(n)) => n.checked_mul(1000)?,
        (Unit::Micros, Stored::Int(n)) => n,
        (Unit::Nanos, Stored::Int(n)) => (n % 1000 == 0).then_some(n / 1000)?,
        (Unit::JulianDays, Stored::Int(n)) => julian(n as f64),
        (Unit::Seconds, Stored::Real(n)) => (n * 1e6).round() as i64,
        (Unit::Millis, Stored::Real(n)) => (n * 1e3).round() as i64,
        (Unit::Micros, Stored::Real(n)) => n.round() as i64,
        (Unit::Nanos, Stored::Real(n)) => (n / 1e3).round() as i64,
        (Unit::JulianDays, Stored::Real(n)) => julian(n),
        _ => return None,
    };
    // Years 4713 BC to 294276.
    (-210_866_803_200_000_000..9_223_371_331_200_000_000 - 946_684_800_000_000)
        .contains(&micros)
        .then_some(micros)
}

/// To the millisecond, as `SQLite` itself reads a julian day: a double holds no more.
#[expect(clippy::cast_possible_truncation, reason = "days of the years 1 to 9999")]
fn julian(days: f64) -> i64 {
    ((days - 2_440_587.5) * 86_400_000.0).round() as i64 * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_programs_write() {
        let at = 1_704_164_645_000_000;
        for (text, micros) in [
            ("2024-01-02", at - (3 * 3600 + 4 * 60 + 5) * 1_000_000),
            ("2024-01-02 03:04", at - 5_000_000),
            ("2024-01-02 03:04:05", at),
            ("2024-01-02T03:04:05Z", at),
            ("2024-01-02 03:04:05.123", at + 123_000),
            ("2024-01-02T03:04:05.123456+00:00", at + 123_456),
            ("2024-01-02 05:04:05+02:00", at),
            ("2024-01-02 05:04:05 +0200", at),
            ("2024-01-01 22:04:05-05", at),
            ("1970-01-01", 0),
            ("1969-12-31 23:59:59", -1_000_000),
            ("2024-02-29", 1_709_164_800_000_000),
            ("0001-01-01", -62_135_596_800_000_000),
            ("9999-12-31", 253_402_214_400_000_000),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(Found { micros, is_exact: true }), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "0",
            "now",
            "2024",
            "2024-13-01",
            "2023-02-29",
            "2024-01-02 24:00:00",
            "2024-01-02 03:04:60",
            "2024-01-02 03",
            "2024-01-02x",
            "2024-01-02 03:04:05.",
            "2024-01-02 03:04:05+1",
            "24-01-02",
            "2024-1-2",
            "2024-01-02 03:04:05 CET",
            "2024-01-02T03:04:05\u{e9}",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        let fine = parse(b"2024-01-02 03:04:05.1234567").unwrap();
        assert!(!fine.is_exact);
        assert!(parse(b"2024-01-02 03:04:05.123456000").unwrap().is_exact);
    }

    #[test]
    fn reads_numbers_by_their_unit() {
        let at = 1_704_164_645_000_000;
        for (unit, value) in [
            (Unit::Seconds, Stored::Int(1_704_164_645)),
            (Unit::Seconds, Stored::Real(1_704_164_645.0)),
            (Unit::Millis, Stored::Int(1_704_164_645_000)),
            (Unit::Micros, Stored::Int(at)),
            (Unit::Nanos, Stored::Int(at * 1000)),
            (Unit::JulianDays, Stored::Real(2_460_311.627_835_648)),
        ] {
            assert_eq!(of_number(unit, value), Some(at), "{unit:?}");
        }
        assert_eq!(of_number(Unit::Nanos, Stored::Int(1)), None);
        assert_eq!(of_number(Unit::Seconds, Stored::Int(i64::MAX)), None);
    }
}
