//! Spans, sizes and times as people read them.

use kissops_core::Timestamp;

/// `12s`, `3m04s`, `5h06m`, `2d03h`: two units, at most seven columns until 999 days.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range")]
pub(crate) fn span(seconds: f64) -> String {
    let all = seconds.clamp(0.0, 1e12) as u64;
    let (days, hours, minutes, seconds) = (all / 86_400, all / 3_600 % 24, all / 60 % 60, all % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds:02}s"),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// `1 process`, `2 processes`.
pub(crate) fn count<N: Copy + PartialEq + From<u8> + std::fmt::Display>(
    number: N,
    one: &str,
    many: &str,
) -> String {
    let word = if number == N::from(1) { one } else { many };
    format!("{number} {word}")
}

/// `512 B`, `1.5 KiB`, `23 MiB`.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    for unit in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        value /= 1024.0;
        if value < 9.95 {
            return format!("{value:.1} {unit}");
        }
        if value < 1023.5 {
            return format!("{value:.0} {unit}");
        }
    }
    format!("{bytes} B")
}

/// `2026-11-20 03:04:05.678`, UTC.
pub(crate) fn time_with_millis(at: Timestamp) -> String {
    at.to_string().replace('T', " ").chars().take(23).collect()
}

/// `2026-11-20 03:04:05`, UTC.
pub(crate) fn time(at: Timestamp) -> String {
    at.to_string().replace('T', " ").chars().take(19).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes() {
        for (seconds, text) in [
            (0.0, "0s"),
            (-5.0, "0s"),
            (59.9, "59s"),
            (184.0, "3m04s"),
            (18_360.0, "5h06m"),
            (183_600.0, "2d03h"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(span(seconds), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (10 << 20, "10 MiB"),
            (1_048_575, "1.0 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!(time(Timestamp(0)), "1970-01-01 00:00:00");
    }
}
