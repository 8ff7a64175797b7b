//! How a vault is doing, in figures (VLT-16). By provider, never by account: a fleet may have 100,000 of these.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Answer, deliver::Delivery};
use crate::{
    Timestamp,
    limit::Limiter,
    metrics::{ByWord, Exposition, Histogram, Kind},
    store::{GrantExpiries, GrantStateName},
};

/// Bounds of the time that access tokens still have, in seconds: a minute to a month.
const EXPIRY: [u64; GrantExpiries::BOUNDS] =
    [60, 300, 600, 1_800, 3_600, 14_400, 86_400, 604_800, 2_592_000];
/// Bounds of how long a refresh takes, in seconds.
const LATENCY: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Limits are told apart by so many providers; bots choose these names.
#[cfg_attr(not(feature = "control"), allow(dead_code, reason = "told by the control API"))]
const LIMITED: usize = 50;

/// What can be the matter with a provider as a whole.
pub(crate) const TROUBLES: [&str; 3] = ["down", "refusing", "frozen"];

/// The moments of the bounds of what access tokens still have.
pub(crate) fn bounds(now: Timestamp) -> [Timestamp; GrantExpiries::BOUNDS] {
    EXPIRY.map(|seconds| now.plus(Duration::from_secs(seconds)))
}

/// How a request for tokens ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Tokens,
    Retryable,
    Unclear,
    Terminal,
    Misconfigured,
    NotSent,
    Unanswered,
}

impl Outcome {
    pub(crate) fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Tokens(_) => Self::Tokens,
            Answer::Retry { .. } => Self::Retryable,
            Answer::Unclear { .. } => Self::Unclear,
            Answer::Terminal { .. } => Self::Terminal,
            Answer::Misconfigured { .. } => Self::Misconfigured,
        }
    }

    /// Of a failure.
    fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::Tokens => return None,
            Self::Retryable => "retryable",
            Self::Unclear => "unclear",
            Self::Terminal => "terminal",
            Self::Misconfigured => "misconfigured",
            Self::NotSent => "not_sent",
            Self::Unanswered => "unanswered",
        })
    }
}

/// What was counted of one provider, by this process.
#[derive(Clone, Debug)]
pub struct ProviderTally {
    refreshes: u64,
    failures: ByWord,
    latency: Histogram,
    /// Those of [`TROUBLES`] that there are now.
    pub(crate) troubles: Vec<&'static str>,
}

impl Default for ProviderTally {
    fn default() -> Self {
        let latency = Histogram::new(LATENCY);
        Self { refreshes: 0, failures: ByWord::new(), latency, troubles: Vec::new() }
    }
}

/// Counts of all providers.
#[derive(Debug, Default)]
pub(crate) struct Tallies(Mutex<BTreeMap<Arc<str>, ProviderTally>>);

impl Tallies {
    /// `took`: how long the provider took, where something was sent to it just now.
    pub(crate) fn count(&self, provider: &str, outcome: Outcome, took: Option<Duration>) {
        let mut all = self.lock();
        if !all.contains_key(provider) {
            all.insert(provider.into(), ProviderTally::default());
        }
        let Some(tally) = all.get_mut(provider) else { return };
        match outcome.reason() {
            Some(reason) => *tally.failures.entry(reason).or_default() += 1,
            None => tally.refreshes += 1,
        }
        if let Some(took) = took {
            tally.latency.observe(took);
        }
    }

    pub(crate) fn all(&self) -> BTreeMap<Arc<str>, ProviderTally> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, ProviderTally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a vault is doing at one moment.
#[derive(Clone, Debug)]
pub struct VaultMetrics {
    pub(crate) at: Timestamp,
    pub(crate) is_sealed: bool,
    pub(crate) grants: Vec<(String, GrantStateName, u64)>,
    pub(crate) expiries: Vec<GrantExpiries>,
    pub(crate) tallies: BTreeMap<Arc<str>, ProviderTally>,
}

impl VaultMetrics {
    /// As `OpenMetrics` text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = Exposition::default();
        self.write(&mut text);
        text.text()
    }

    pub(crate) fn write(&self, to: &mut Exposition) {
        to.family(
            "kissops_vault_sealed",
            Kind::Gauge,
            "1 while the vault's key is missing or wrong.",
        );
        to.sample(&[], u64::from(self.is_sealed));
        to.family("kissops_grants", Kind::Gauge, "Grants by provider and state.");
        for (provider, state, count) in &self.grants {
            to.sample(&[("provider", provider), ("state", state.as_str())], *count);
        }
        self.write_expiries(to);
        self.write_tallies(to);
    }

    fn write_expiries(&self, to: &mut Exposition) {
        to.family(
            "kissops_token_expiry_seconds_min",
            Kind::Gauge,
            "Seconds that the access token with the least time has; below zero after its end.",
        );
        for one in &self.expiries {
            to.sample(&[("provider", &one.provider)], seconds(one.first.0 - self.at.0));
        }
        to.family(
            "kissops_token_expiry_seconds",
            Kind::GaugeHistogram,
            "Access tokens in use by the time that they still have.",
        );
        for one in &self.expiries {
            let within = EXPIRY.iter().zip(&one.within);
            let buckets = within.map(|(bound, count)| (whole(*bound), *count));
            to.histogram(
                &[("provider", &one.provider)],
                buckets,
                one.count,
                one.seconds_left.max(0.0),
            );
        }
    }

    fn write_tallies(&self, to: &mut Exposition) {
        to.family("kissops_refreshes", Kind::Counter, "Refreshes that gave tokens.");
        for (provider, tally) in &self.tallies {
            to.sample(&[("provider", provider)], tally.refreshes);
        }
        to.family("kissops_refresh_failures", Kind::Counter, "Refreshes that did not, by reason.");
        for (provider, tally) in &self.tallies {
            for (reason, count) in &tally.failures {
                to.sample(&[("provider", provider), ("reason", reason)], *count);
            }
        }
        to.family(
            "kissops_refresh_duration_seconds",
            Kind::Histogram,
            "From a refresh's request to what came of it.",
        );
        for (provider, tally) in &self.tallies {
            tally.latency.write(to, &[("provider", provider)]);
        }
        to.family(
            "kissops_provider_breaker",
            Kind::Gauge,
            "1 while the provider fails as a whole: it is down, refuses grants by the dozen, or is frozen as it refuses the client.",
        );
        for (provider, tally) in &self.tallies {
            for trouble in TROUBLES {
                let is_so = u64::from(tally.troubles.contains(&trouble));
                to.sample(&[("provider", provider), ("kind", trouble)], is_so);
            }
        }
    }
}

/// What bots asked for at their sockets.
#[cfg_attr(not(feature = "control"), allow(dead_code, reason = "told by the control API"))]
pub(crate) fn write_delivery(delivery: &Delivery, to: &mut Exposition) {
    let counts = delivery.counts();
    let all = [
        ("kissops_delivery_requests", "Requests of bots at their sockets.", counts.requests),
        ("kissops_delivery_tokens", "Access tokens handed out.", counts.tokens),
        (
            "kissops_delivery_refused",
            "Connections of processes that are none of the instance's.",
            counts.refused,
        ),
        ("kissops_delivery_busy", "Connections beyond what one instance may have.", counts.busy),
    ];
    for (name, help, count) in all {
        to.family(name, Kind::Counter, help);
        to.sample(&[], count);
    }
}

/// How often and how long was waited for a turn.
#[cfg_attr(not(feature = "control"), allow(dead_code, reason = "told by the control API"))]
pub(crate) fn write_limiter(limiter: &Limiter, to: &mut Exposition) {
    let mut sums: BTreeMap<String, (u64, Duration, usize)> = BTreeMap::new();
    for (provider, _, status) in limiter.status() {
        let is_known = sums.contains_key(&provider) || sums.len() < LIMITED;
        let sum = sums.entry(if is_known { provider } else { "other".into() }).or_default();
        sum.0 += status.waits;
        sum.1 += status.waited;
        sum.2 += status.waiting;
    }
    to.family("kissops_limiter_waits", Kind::Counter, "Calls that had to wait for their turn.");
    for (provider, (waits, ..)) in &sums {
        to.sample(&[("provider", provider)], *waits);
    }
    to.family("kissops_limiter_wait_seconds", Kind::Counter, "How long they waited, all together.");
    for (provider, (_, waited, _)) in &sums {
        to.sample(&[("provider", provider)], waited.as_secs_f64());
    }
    to.family("kissops_limiter_waiting", Kind::Gauge, "Calls that wait now.");
    for (provider, (.., waiting)) in &sums {
        to.sample(&[("provider", provider)], u64::try_from(*waiting).unwrap_or(u64::MAX));
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of some years")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "a bound of some days")]
fn whole(seconds: u64) -> f64 {
    seconds as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Reads text as strictly as the format is written: the names of all samples, with their labels and values.
    fn read(text: &str) -> BTreeMap<String, f64> {
        let body = text.strip_suffix("# EOF\n").unwrap();
        let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
        let (mut name, mut kind) = ("", "");
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                (name, kind) = rest.split_once(' ').unwrap();
                assert!(families.insert(name), "{name} comes in two pieces");
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (of, unit) = rest.split_once(' ').unwrap();
                assert!(of == name && of.ends_with(&format!("_{unit}")), "{line}");
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(rest.starts_with(&format!("{name} ")) && rest.ends_with('.'), "{line}");
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let suffix = sample.strip_prefix(name).unwrap().split('{').next().unwrap();
                let suffixes: &[&str] = match kind {
                    "gauge" => &[""],
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_count", "_sum"],
                    "gaugehistogram" => &["_bucket", "_gcount", "_gsum"],
                    other => panic!("{other} is no type"),
                };
                assert!(suffixes.contains(&suffix), "{line}");
                assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none());
            }
        }
        samples
    }

    #[test]
    fn vlt_16_the_text_is_open_metrics_by_provider() {
        let tallies = Tallies::default();
        tallies.count("twitch", Outcome::Tokens, Some(Duration::from_millis(300)));
        tallies.count("twitch", Outcome::Terminal, Some(Duration::from_mins(1)));
        tallies.count("twitch", Outcome::NotSent, None);
        let mut tallies = tallies.all();
        tallies.get_mut("twitch").unwrap().troubles.push("down");
        let at = Timestamp(1_790_000_000_000_000);
        let expiries = vec![GrantExpiries {
            provider: "twitch".into(),
            first: at.plus(Duration::from_secs(90)),
            within: [0, 1, 1, 1, 1, 2, 2, 2, 2],
            count: 3,
            seconds_left: 4_000.0,
        }];
        let grants = vec![("odd \"name\"\n".to_owned(), GrantStateName::Active, 7)];
        let metrics = VaultMetrics { at, is_sealed: false, grants, expiries, tallies };
        let limiter = Limiter::new();
        for nth in 0..LIMITED + 20 {
            let _ = limiter.bucket(&format!("p{nth}"), "k");
        }
        let mut text = Exposition::default();
        metrics.write(&mut text);
        write_limiter(&limiter, &mut text);
        let read = read(&text.text());
        let expected = [
            ("kissops_vault_sealed", 0.0),
            ("kissops_grants{provider=\"odd \\\"name\\\"\\n\",state=\"active\"}", 7.0),
            ("kissops_token_expiry_seconds_min{provider=\"twitch\"}", 90.0),
            ("kissops_token_expiry_seconds_bucket{provider=\"twitch\",le=\"300.0\"}", 1.0),
            ("kissops_token_expiry_seconds_bucket{provider=\"twitch\",le=\"+Inf\"}", 3.0),
            ("kissops_refreshes_total{provider=\"twitch\"}", 1.0),
            ("kissops_refresh_failures_total{provider=\"twitch\",reason=\"terminal\"}", 1.0),
            ("kissops_refresh_failures_total{provider=\"twitch\",reason=\"not_sent\"}", 1.0),
            ("kissops_refresh_duration_seconds_bucket{provider=\"twitch\",le=\"0.5\"}", 1.0),
            ("kissops_refresh_duration_seconds_count{provider=\"twitch\"}", 2.0),
            ("kissops_provider_breaker{provider=\"twitch\",kind=\"down\"}", 1.0),
            ("kissops_provider_breaker{provider=\"twitch\",kind=\"frozen\"}", 0.0),
        ];
        for (sample, value) in expected {
            let found = read.get(sample).unwrap_or_else(|| panic!("no {sample} in {read:?}"));
            assert!((found - value).abs() < 1e-9, "{sample}: {found}");
        }
        let waits = read.keys().filter(|name| name.starts_with("kissops_limiter_waits_total"));
        assert_eq!(waits.count(), LIMITED + 1, "whatever bots call their providers");
    }
}
