//! What answers say about a limit.

use std::time::Duration;

/// As much of it as was said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Said {
    pub(super) limit: Option<f64>,
    pub(super) remaining: Option<f64>,
    /// Until the bucket is full again.
    pub(super) reset_after: Option<Duration>,
    /// Nothing at all before this has passed.
    pub(super) retry_after: Option<Duration>,
    /// A limit that others use up as well: it says nothing about us.
    pub(super) shared: bool,
}

/// Longer waits are not believed.
const LONGEST: Duration = Duration::from_hours(1);

/// Reads the headers of Twitch (`Ratelimit-*`), Discord (`X-RateLimit-*`), Reddit (`x-ratelimit-*`) and `Retry-After`.
/// Names in any case; what cannot be read is passed over. `now` is the seconds since 1970.
pub(super) fn read(headers: &[(&str, &str)], now: f64) -> Said {
    let mut said = Said::default();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("x-").unwrap_or(&name);
        let number = value.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
        match (name, number) {
            ("ratelimit-limit", Some(n)) if n >= 1.0 => said.limit = Some(n),
            ("ratelimit-remaining", Some(n)) => said.remaining = Some(n),
            ("ratelimit-reset-after" | "ratelimit-reset", Some(n)) => {
                // A moment or a span: nobody's limit takes thirty years.
                let span = if n > 1e9 { n - now } else { n };
                said.reset_after = Some(seconds(span));
            }
            ("retry-after", Some(n)) => said.retry_after = Some(seconds(n)),
            ("ratelimit-scope", _) => said.shared = value.trim() == "shared",
            _ => {}
        }
    }
    said
}

fn seconds(n: f64) -> Duration {
    Duration::try_from_secs_f64(n.max(0.0)).unwrap_or(LONGEST).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_providers_headers_are_read() {
        let now = 1_790_000_000.0;
        let twitch = [
            ("Ratelimit-Limit", "800"),
            ("Ratelimit-Remaining", "3"),
            ("Ratelimit-Reset", "1790000030"),
        ];
        let said = read(&twitch, now);
        assert_eq!((said.limit, said.remaining), (Some(800.0), Some(3.0)));
        assert_eq!(said.reset_after, Some(Duration::from_secs(30)));
        let discord = [
            ("X-RateLimit-Remaining", "0"),
            ("X-RateLimit-Reset", "1790000030"),
            ("X-RateLimit-Reset-After", "0.25"),
            ("x-ratelimit-scope", "shared"),
            ("retry-after", "1.5"),
        ];
        let said = read(&discord, now);
        assert_eq!(said.reset_after, Some(Duration::from_millis(250)));
        assert_eq!((said.retry_after, said.shared), (Some(Duration::from_millis(1500)), true));
        let reddit = [("x-ratelimit-remaining", "99.0"), ("x-ratelimit-reset", "300")];
        assert_eq!(read(&reddit, now).reset_after, Some(Duration::from_mins(5)));
    }

    #[test]
    fn nonsense_is_passed_over() {
        for bad in ["", "NaN", "inf", "-1", "soon", "1e400", "٣"] {
            let said = read(&[("ratelimit-limit", bad), ("ratelimit-remaining", bad)], 0.0);
            assert_eq!(said, Said::default(), "{bad}");
        }
        assert_eq!(read(&[("retry-after", "1e300")], 0.0).retry_after, Some(LONGEST));
        assert_eq!(read(&[("ratelimit-limit", "0")], 0.0), Said::default());
    }
}
