//! [`ConfigErrors`]: everything that is wrong with a configuration, each with its place and what mends it.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

use serde::Serialize;

use super::{env_file::looks_secret, source::Source};

/// One thing that is wrong, or (as a warning) has no effect. Its JSON is the interface of `kissops check --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The file; `environment` for a variable.
    pub file: PathBuf,
    /// The line, from 1; 0 where it is about the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 where it is about the file as a whole.
    pub column: usize,
    /// The dotted key: `instance.web.restart`; empty where there is none.
    pub key: String,
    /// What is wrong, without any secret.
    pub message: String,
    /// What mends it; empty where the message says it all.
    pub help: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        f.write_char(' ')?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, " ({})", self.help) }
    }
}

/// Everything that is wrong with a configuration, in the order of the file; never empty.
#[derive(Clone)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    sources: Arc<[Source]>,
}

impl ConfigErrors {
    pub(super) fn new(mut errors: Vec<ConfigError>, sources: Arc<[Source]>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        Self { errors, sources }
    }

    /// One error that is about a file as a whole.
    pub(super) fn whole(file: impl Into<PathBuf>, message: impl Into<String>, help: &str) -> Self {
        let error = ConfigError {
            file: file.into(),
            line: 0,
            column: 0,
            key: String::new(),
            message: message.into(),
            help: help.to_owned(),
        };
        Self { errors: vec![error], sources: Arc::from([]) }
    }

    /// The errors, by line and column.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// For people, as a compiler would: each error with its line of the file and a caret.
    #[must_use]
    pub fn render(&self) -> String {
        render("error", &self.errors, &self.sources)
    }
}

impl fmt::Debug for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.errors).finish()
    }
}

impl fmt::Display for ConfigErrors {
    /// One line: the first error, and how many more there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.as_slice() {
            [] => f.write_str("the configuration is not valid"),
            [only] => only.fmt(f),
            [first, rest @ ..] => write!(f, "{first}, and {} more", rest.len()),
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl Serialize for ConfigErrors {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.errors.serialize(s)
    }
}

impl From<ConfigErrors> for crate::Error {
    /// The first error by name; the others are counted.
    fn from(errors: ConfigErrors) -> Self {
        let key = errors.errors.first().map(|first| first.key.clone()).unwrap_or_default();
        let key = if key.is_empty() { "configuration".to_owned() } else { key };
        Self::invalid(key, format!("is refused: {errors}"))
    }
}

/// `findings` for people, each headed by `severity`.
pub(super) fn render(severity: &str, findings: &[ConfigError], sources: &[Source]) -> String {
    let mut text = String::new();
    for finding in findings {
        // Writing to a String cannot fail.
        let _ = render_one(&mut text, severity, finding, sources);
    }
    text
}

fn render_one(
    text: &mut String,
    severity: &str,
    finding: &ConfigError,
    sources: &[Source],
) -> fmt::Result {
    let ConfigError { file, line, column, key, message, help } = finding;
    let colon = if key.is_empty() { "" } else { ": " };
    writeln!(text, "{severity}: {key}{colon}{message}")?;
    let gutter = line.to_string().len().max(1);
    if *line == 0 {
        writeln!(text, "{:gutter$}--> {}", "", file.display())?;
    } else {
        writeln!(text, "{:gutter$}--> {}:{line}:{column}", "", file.display())?;
        let shown = sources.iter().find(|source| source.path == *file);
        if let Some(shown) = shown.and_then(|source| source.line(*line)) {
            let (shown, masked) = mask(shown);
            writeln!(text, "{:gutter$} |", "")?;
            writeln!(text, "{line} | {shown}")?;
            // A caret has no place in a line whose value is masked; tabs keep it under its character.
            if !masked {
                let before: String = shown
                    .chars()
                    .take(column.saturating_sub(1))
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                writeln!(text, "{:gutter$} | {before}^", "")?;
            }
        }
    }
    if !help.is_empty() {
        writeln!(text, "{:gutter$} = help: {help}", "")?;
    }
    text.push('\n');
    Ok(())
}

/// The line as it may be shown: cut after a key that looks like a secret's, because what follows may be one.
fn mask(line: &str) -> (String, bool) {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    for (at, _) in line.match_indices('=') {
        let name = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let start = name.rfind(|c: char| !word(c)).map_or(0, |i| i + 1);
        if looks_secret(&name[start..]) {
            return (format!("{} ***", &line[..=at]), true);
        }
    }
    // A password in a URL: postgres://user:password@host.
    if let Some((before, after)) = line.split_once("://")
        && after.contains('@')
    {
        return (format!("{before}://***"), true);
    }
    (line.replace(|c: char| c.is_control() && c != '\t', "\u{fffd}"), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_a_secret_is_cut() {
        assert_eq!(
            mask("env = { API_TOKEN = 12, B = 1 }"),
            ("env = { API_TOKEN = ***".into(), true)
        );
        let url = "url = \"postgres://bots:geheim@db/x\"";
        assert_eq!(mask(url), ("url = \"postgres://***".into(), true));
        assert_eq!(mask("retries = 3"), ("retries = 3".into(), false));
    }
}
