//! How long to wait before the next try.

use std::time::Duration;

use crate::{Error, Result};

/// Doubling (or otherwise growing) delays from `base` up to `cap`.
///
/// ```
/// use std::time::Duration;
/// use kissops_core::Backoff;
/// let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8))?;
/// let secs: Vec<u64> = backoff.delays().take(5).map(|d| d.as_secs()).collect();
/// assert_eq!(secs, [1, 2, 4, 8, 8]);
/// # Ok::<(), kissops_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    base: Duration,
    factor: f64,
    cap: Duration,
    jitter: Jitter,
    reset_after: Duration,
}

/// How a delay is spread, so that many instances that died together do not come back together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// A random delay between zero and the computed one ("full jitter").
    #[default]
    Full,
    /// The computed delay itself.
    None,
}

impl Default for Backoff {
    /// 1 s doubling up to 5 min with full jitter; forgotten after 60 s of uptime.
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 2.0,
            cap: Duration::from_mins(5),
            jitter: Jitter::Full,
            reset_after: Duration::from_mins(1),
        }
    }
}

impl Backoff {
    /// Delays that double from `base` up to `cap`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when `cap` is below `base`.
    pub fn new(base: Duration, cap: Duration) -> Result<Self> {
        if cap < base {
            return Err(Error::invalid("backoff.cap", "must be at least backoff.base"));
        }
        Ok(Self { base, cap, ..Self::default() })
    }

    /// Multiplies the delay by `factor` at each attempt.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] unless `factor` is between 1 and 100.
    pub fn with_factor(self, factor: f64) -> Result<Self> {
        if !(1.0..=100.0).contains(&factor) {
            return Err(Error::invalid("backoff.factor", "must be between 1 and 100"));
        }
        Ok(Self { factor, ..self })
    }

    /// Spreads the delays by `jitter`.
    #[must_use]
    pub fn with_jitter(self, jitter: Jitter) -> Self {
        Self { jitter, ..self }
    }

    /// Starts over after an uptime of `reset_after`.
    #[must_use]
    pub fn with_reset_after(self, reset_after: Duration) -> Self {
        Self { reset_after, ..self }
    }

    /// The uptime after which the next delay is `base` again.
    #[must_use]
    pub fn reset_after(&self) -> Duration {
        self.reset_after
    }

    /// The first delay.
    #[must_use]
    pub fn base(&self) -> Duration {
        self.base
    }

    /// The longest delay.
    #[must_use]
    pub fn cap(&self) -> Duration {
        self.cap
    }

    /// What each delay is multiplied by to give the next.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// How delays are spread.
    #[must_use]
    pub fn jitter(&self) -> Jitter {
        self.jitter
    }

    /// The delay before attempt `attempt` (from 0), before jitter.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Duration {
        let grown =
            self.base.as_secs_f64() * self.factor.powi(i32::try_from(attempt).unwrap_or(i32::MAX));
        Duration::try_from_secs_f64(grown).map_or(self.cap, |delay| delay.min(self.cap))
    }

    /// The delay before attempt `attempt` (from 0), spread by `random`, a number from 0 to 1.
    #[must_use]
    pub fn jittered(&self, attempt: u32, random: f64) -> Duration {
        match self.jitter {
            Jitter::Full => self.delay(attempt).mul_f64(random.clamp(0.0, 1.0)),
            Jitter::None => self.delay(attempt),
        }
    }

    /// All delays in order, before jitter, without end.
    pub fn delays(self) -> impl Iterator<Item = Duration> {
        (0..).map(move |attempt| self.delay(attempt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_attempts_stay_at_the_cap() {
        assert_eq!(Backoff::default().delay(u32::MAX), Duration::from_mins(5));
    }

    #[test]
    fn full_jitter_spreads_from_zero_to_the_delay() {
        let backoff = Backoff::default();
        assert_eq!(backoff.jittered(3, 0.0), Duration::ZERO);
        assert_eq!(backoff.jittered(3, 1.0), Duration::from_secs(8));
    }
}
