//! What a bot reports of itself: `OpenMetrics` text, read strictly, bounded in size and in series.

use std::collections::{BTreeMap, BTreeSet};

use crate::Timestamp;

/// Most bytes of one report.
pub(super) const LARGEST: usize = 1 << 20;
/// Most series of one report.
const MOST_SERIES: usize = 2_000;
/// Most labels of one series.
const MOST_LABELS: usize = 32;
/// Longest name, label or value of one, in bytes.
const LONGEST: usize = 256;

/// The types of metrics that there are.
const KINDS: [&str; 9] = [
    "counter",
    "gauge",
    "histogram",
    "summary",
    "untyped",
    "unknown",
    "info",
    "stateset",
    "gaugehistogram",
];

/// The last report of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct BotMetrics {
    /// When it came.
    pub at: Timestamp,
    /// Its families, by name.
    pub families: BTreeMap<String, MetricFamily>,
}

/// Series of one name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricFamily {
    /// `counter`, `gauge` and so on; empty where it was not said.
    pub kind: String,
    /// For people; may be empty.
    pub help: String,
    /// The series.
    pub series: Vec<Series>,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its whole name, with the suffix that its kind may have: `requests_total`.
    pub name: String,
    /// Its labels, by name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// Reads a report. Timestamps and exemplars are passed over: the report is of now.
pub(super) fn parse(text: &str, at: Timestamp) -> Result<BotMetrics, String> {
    let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (nth, line) in text.lines().enumerate() {
        let wrong = |why: &str| format!("line {}: {why}", nth + 1);
        let line = line.trim_end();
        if line == "# EOF" {
            break;
        }
        if let Some(comment) = line.strip_prefix('#') {
            describe(comment, &mut families).map_err(|why| wrong(&why))?;
            continue;
        }
        if line.is_empty() {
            continue;
        }
        let series = series(line).map_err(|why| wrong(&why))?;
        if !seen.insert((series.name.clone(), series.labels.clone())) {
            return Err(wrong("the same series was there before"));
        }
        if seen.len() > MOST_SERIES {
            return Err(wrong(&format!("more than {MOST_SERIES} series")));
        }
        let family = family_of(&series.name, &families);
        families.entry(family).or_default().series.push(series);
    }
    families.retain(|_, family| !family.series.is_empty());
    Ok(BotMetrics { at, families })
}

/// `# TYPE name kind` and `# HELP name text`; other comments say nothing.
fn describe(comment: &str, families: &mut BTreeMap<String, MetricFamily>) -> Result<(), String> {
    let mut words = comment.trim_start().splitn(3, ' ');
    let (word, name, text) = (words.next(), words.next(), words.next().unwrap_or_default());
    let (Some(word @ ("TYPE" | "HELP")), Some(name)) = (word, name) else { return Ok(()) };
    if !is_name(name) {
        return Err(format!("`{}` is not a name of a metric", cut(name)));
    }
    if families.len() >= MOST_SERIES && !families.contains_key(name) {
        return Err(format!("more than {MOST_SERIES} metrics"));
    }
    let family = families.entry(name.to_owned()).or_default();
    if word == "HELP" {
        cut(text).clone_into(&mut family.help);
    } else if KINDS.contains(&text) {
        text.clone_into(&mut family.kind);
    } else {
        return Err(format!("`{}` is not a type of metrics", cut(text)));
    }
    Ok(())
}

/// The family of a series: the described one of its name, with or without a suffix.
fn family_of(name: &str, families: &BTreeMap<String, MetricFamily>) -> String {
    const SUFFIXES: [&str; 7] = ["_total", "_created", "_bucket", "_count", "_sum", "_info", ""];
    let known = SUFFIXES.iter().filter_map(|suffix| name.strip_suffix(suffix));
    let found =
        known.into_iter().find(|base| families.get(*base).is_some_and(|f| !f.kind.is_empty()));
    found.unwrap_or(name).to_owned()
}

/// `name{label="value"} 1.5`, and what may follow.
fn series(line: &str) -> Result<Series, String> {
    let end = line.find(['{', ' ']).ok_or("has no value")?;
    let (name, rest) = line.split_at(end);
    if !is_name(name) {
        return Err(format!("`{}` is not a name of a metric", cut(name)));
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next().ok_or("has no value")?;
    let value = match value {
        "+Inf" | "Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        other => other.parse().map_err(|_| format!("`{}` is not a number", cut(other)))?,
    };
    Ok(Series { name: name.to_owned(), labels, value })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches([' ', ',']);
        if let Some(rest) = text.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (name, rest) = text.split_once("=\"").ok_or("has labels that never end")?;
        let is_label = is_name(name) && !name.contains(':');
        if !is_label || labels.len() >= MOST_LABELS {
            return Err(format!("`{}` is not a name of a label, or one too many", cut(name)));
        }
        let (value, rest) = quoted(rest)?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("has label {name} twice"));
        }
        text = rest;
    }
}

/// A text up to its closing quote, with `\\`, `\"` and `\n` as they are meant.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => value.push('\n'),
                Some(c @ ('"' | '\\')) => value.push(c),
                _ => return Err("has a \\ before something that it does not change".into()),
            },
            c => value.push(c),
        }
        if value.len() > LONGEST {
            return Err(format!("has a label of more than {LONGEST} bytes"));
        }
    }
    Err("has a quote that never closes".into())
}

fn is_name(name: &str) -> bool {
    let fits = !name.is_empty() && name.len() <= LONGEST;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    fits && name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// As much as an error needs.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BotMetrics, String> {
        parse(text, Timestamp(1))
    }

    #[test]
    fn reads_what_exporters_write() {
        let text = "# TYPE messages counter\n# HELP messages Chat messages seen.\nmessages_total{channel=\"a\\\"b\\\\c\\n\",kind=\"x\"} 17 1700000000\nlag_seconds 0.25\nup +Inf\n\n# EOF\nafter 1\n";
        let read = read(text).unwrap();
        assert_eq!(read.families.len(), 3);
        let messages = &read.families["messages"];
        assert_eq!(
            (messages.kind.as_str(), messages.help.as_str()),
            ("counter", "Chat messages seen.")
        );
        assert_eq!(messages.series[0].labels["channel"], "a\"b\\c\n");
        assert!((messages.series[0].value - 17.0).abs() < f64::EPSILON);
        assert!(read.families["up"].series[0].value.is_infinite());
    }

    #[test]
    fn refuses_by_line_what_it_cannot_keep() {
        for (text, why) in [
            ("a 1\na 2\n", "line 2: the same series"),
            ("a\n", "line 1: has no value"),
            ("1a 1\n", "not a name"),
            ("a{b=\"c} 1\n", "never closes"),
            ("a{b=\"c\",b=\"d\"} 1\n", "twice"),
            ("a x\n", "not a number"),
            ("# TYPE a clock\n", "not a type"),
        ] {
            let err = read(text).unwrap_err();
            assert!(err.contains(why), "{text:?}: {err}");
        }
        let many: Vec<String> = (0..=MOST_SERIES).map(|n| format!("m{n} 1")).collect();
        assert!(read(&many.join("\n")).unwrap_err().contains("2000 series"));
    }

    #[test]
    fn no_bytes_panic() {
        let text = "# TYPE a counter\na_total{b=\"\\n\u{e4}\"} 1e3\n";
        for end in 0..text.len() {
            for insert in ["\"", "\\", "{", "}", "\u{0}", "="] {
                let at = text.floor_char_boundary(end);
                let _ = read(&format!("{}{insert}{}", &text[..at], &text[at..]));
            }
        }
    }
}
