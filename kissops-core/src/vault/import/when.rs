//! Times as programs write them: seconds, milliseconds or microseconds since the epoch, or a text.

use std::time::Duration;

use crate::Timestamp;

/// Less than this is a span, or so long ago that it is a mistake: 2001 in seconds.
const FIRST: i64 = 1_000_000_000;
/// So far one unit reaches; the next begins ten times higher.
const RANGE: i64 = 100;

const ODD: &str =
    "is no time: neither seconds nor milliseconds since 1970 nor like 2026-11-20T03:04:05Z";

/// A number. 0 says that it is not known, or never.
pub(super) fn of_int(number: i64) -> Result<Option<Timestamp>, &'static str> {
    if number == 0 {
        return Ok(None);
    }
    // In microseconds: seconds first, then milliseconds, then microseconds themselves.
    let units = [(FIRST, 1_000_000), (FIRST * 1_000, 1_000), (FIRST * 1_000_000, 1)];
    let unit = units.iter().find(|(first, _)| (*first..first * RANGE).contains(&number));
    unit.map(|(_, unit)| Some(Timestamp(number.saturating_mul(*unit)))).ok_or(ODD)
}

/// A number with decimals, of seconds.
pub(super) fn of_real(number: f64) -> Result<Option<Timestamp>, &'static str> {
    if number == 0.0 {
        return Ok(None);
    }
    if (1e9..1e11).contains(&number) {
        return Ok(Some(Timestamp(0).plus(Duration::from_secs_f64(number))));
    }
    // Milliseconds, of which decimals say nothing.
    if (1e12..1e14).contains(&number) {
        return Ok(Some(Timestamp(0).plus(Duration::from_secs_f64(number / 1e3))));
    }
    Err(ODD)
}

/// A text: a number, or a date and time, which is UTC where it does not say otherwise.
pub(super) fn of_text(text: &str) -> Result<Option<Timestamp>, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(number) = text.parse() {
        return of_int(number);
    }
    if let Ok(number) = text.parse() {
        return of_real(number);
    }
    // Python writes no offset for its naive times, and none with a colon for some others.
    let colon = text.len().checked_sub(2).and_then(|at| text.split_at_checked(at));
    let with_colon = colon.map(|(before, minutes)| format!("{before}:{minutes}"));
    let forms = [Some(text.to_owned()), Some(format!("{text}Z")), with_colon];
    forms.into_iter().flatten().find_map(|form| form.parse().ok()).map(Some).ok_or(ODD)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp(1_795_143_845_250_000);
    const WHOLE: Timestamp = Timestamp(1_795_143_845_000_000);

    #[test]
    fn times_are_read_as_programs_write_them() {
        for text in [
            "1795143845.25",
            "1795143845250",
            "1795143845250.0",
            "1795143845250000",
            "2026-11-20T03:04:05.25Z",
            "2026-11-20 03:04:05.250000",
            " 2026-11-20T05:04:05.25+02:00\n",
            "2026-11-20T05:04:05.25+0200",
        ] {
            let Ok(Some(read)) = of_text(text) else { panic!("{text:?}: {:?}", of_text(text)) };
            assert!(
                read.since(AT).max(AT.since(read)) < Duration::from_micros(1),
                "{text:?} {read}"
            );
        }
        assert_eq!(of_int(1_795_143_845), Ok(Some(WHOLE)));
        assert_eq!(of_int(1_795_143_845_000), Ok(Some(WHOLE)));
        assert_eq!(of_real(1_795_143_845.0), Ok(Some(WHOLE)));
        assert_eq!(of_text("2026-11-20 03:04:05"), Ok(Some(WHOLE)));
    }

    #[test]
    fn what_says_nothing_is_unknown_and_what_is_odd_is_refused() {
        for text in ["", " ", "0", "0.0"] {
            assert_eq!(of_text(text), Ok(None), "{text:?}");
        }
        for text in [
            "3600",
            "-1",
            "1e400",
            "nan",
            "inf",
            "tomorrow",
            "2026-11-20",
            "99999999999999999999",
            "é",
            "1",
            "2026-13-20T03:04:05Z",
            "500000000000",
        ] {
            assert_eq!(of_text(text), Err(ODD), "{text:?}");
        }
    }
}
