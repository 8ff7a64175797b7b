//! Planned restarts by cron expression (SUP-14).

use std::time::Duration;

use tokio::time::Instant;

/// The next time that `expression` names, in the machine's zone; `None` if it names none or cannot be read (which the
/// configuration has refused before).
pub(super) fn next(expression: &str) -> Option<Instant> {
    let cron: croner::Cron = expression.parse().ok()?;
    let now = jiff::Zoned::now();
    let due = cron.find_next_occurrence(&now, false).ok()?;
    let wait = Duration::try_from(due.timestamp().duration_since(now.timestamp())).ok()?;
    Some(Instant::now() + wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sup_14_the_next_minute_is_at_most_a_minute_away() {
        let wait = next("* * * * *").unwrap().saturating_duration_since(Instant::now());
        assert!(wait <= Duration::from_mins(1), "{wait:?}");
        assert!(next("nonsense").is_none());
    }
}
