//! Figures as `OpenMetrics` text, and how they are kept.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// What [`Exposition::text`] is served as.
#[cfg(feature = "control")]
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a family of figures behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows; its samples end in `_total`.
    Counter,
    /// How often which size was seen so far.
    Histogram,
    /// How many of which size there are now.
    GaugeHistogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
        }
    }
}

/// Text being written: families in any order, all samples of one together.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
    name: &'static str,
    kind: Option<Kind>,
}

impl Exposition {
    /// Begins a family. A name that ends in `_seconds` has that unit.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.line(format_args!("# TYPE {name} {}", kind.word()));
        if name.ends_with("_seconds") {
            self.line(format_args!("# UNIT {name} seconds"));
        }
        self.line(format_args!("# HELP {name} {help}"));
        (self.name, self.kind) = (name, Some(kind));
    }

    /// A sample of the family.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Number>) {
        let suffix = if self.kind == Some(Kind::Counter) { "_total" } else { "" };
        self.write(suffix, labels, None, value.into());
    }

    /// A histogram of the family: `buckets` are bounds with how many are within each, the greater ones included.
    pub(crate) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        for (bound, within) in buckets {
            self.write("_bucket", labels, Some(bound), within.into());
        }
        self.write("_bucket", labels, Some(f64::INFINITY), count.into());
        let now = self.kind == Some(Kind::GaugeHistogram);
        self.write(if now { "_gcount" } else { "_count" }, labels, None, count.into());
        self.write(if now { "_gsum" } else { "_sum" }, labels, None, sum.into());
    }

    /// All of it.
    pub(crate) fn text(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }

    fn write(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<f64>, value: Number) {
        let mut shown: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        shown.extend(bound.map(|bound| format!("le=\"{}\"", Number::Float(bound).shown())));
        let labels =
            if shown.is_empty() { String::new() } else { format!("{{{}}}", shown.join(",")) };
        let name = self.name;
        self.line(format_args!("{name}{suffix}{labels} {}", value.shown()));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}

/// A value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Whole(u64),
    Float(f64),
}

impl Number {
    fn shown(self) -> String {
        match self {
            Self::Whole(n) => n.to_string(),
            Self::Float(n) if n == f64::INFINITY => "+Inf".into(),
            Self::Float(n) if n == f64::NEG_INFINITY => "-Inf".into(),
            Self::Float(n) if n.is_nan() => "NaN".into(),
            // With a point, as bounds have it everywhere.
            Self::Float(n) => format!("{n:?}"),
        }
    }
}

impl From<u64> for Number {
    fn from(n: u64) -> Self {
        Self::Whole(n)
    }
}

impl From<f64> for Number {
    fn from(n: f64) -> Self {
        Self::Float(n)
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// How long things took, by bounds in seconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// How many are within each bound and no smaller one.
    counts: Vec<u64>,
    count: u64,
    sum: Duration,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len()], count: 0, sum: Duration::ZERO }
    }

    pub(crate) fn observe(&mut self, took: Duration) {
        let at = self.bounds.partition_point(|bound| *bound < took.as_secs_f64());
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
    }

    pub(crate) fn write(&self, to: &mut Exposition, labels: &[(&str, &str)]) {
        let mut within = 0;
        let buckets: Vec<(f64, u64)> = self
            .bounds
            .iter()
            .zip(&self.counts)
            .map(|(bound, count)| {
                within += count;
                (*bound, within)
            })
            .collect();
        to.histogram(labels, buckets, self.count, self.sum.as_secs_f64());
    }
}

/// Counts by a word of a fixed set.
pub(crate) type ByWord = BTreeMap<&'static str, u64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_the_format_has_it() {
        let mut all = Exposition::default();
        all.family("done", Kind::Counter, "Things done.");
        all.sample(&[("by", "a\"b\\c\nd")], 3);
        all.family("age_seconds", Kind::Gauge, "How old.");
        all.sample(&[], 1.5);
        let mut took = Histogram::new(&[0.5, 1.0]);
        for millis in [100, 500, 700, 9_000] {
            took.observe(Duration::from_millis(millis));
        }
        all.family("took_seconds", Kind::Histogram, "How long.");
        took.write(&mut all, &[("by", "x")]);
        let expected = "# TYPE done counter\n# HELP done Things done.\ndone_total{by=\"a\\\"b\\\\c\\nd\"} 3\n\
            # TYPE age_seconds gauge\n# UNIT age_seconds seconds\n# HELP age_seconds How old.\nage_seconds 1.5\n\
            # TYPE took_seconds histogram\n# UNIT took_seconds seconds\n# HELP took_seconds How long.\n\
            took_seconds_bucket{by=\"x\",le=\"0.5\"} 2\ntook_seconds_bucket{by=\"x\",le=\"1.0\"} 3\n\
            took_seconds_bucket{by=\"x\",le=\"+Inf\"} 4\ntook_seconds_count{by=\"x\"} 4\ntook_seconds_sum{by=\"x\"} 10.3\n\
            # EOF\n";
        assert_eq!(all.text(), expected);
    }
}
