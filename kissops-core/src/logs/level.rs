//! How serious a line of output is, as far as it says so.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How serious a line is. A query for a level shows it and all above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// `TRACE`.
    Trace,
    /// `DEBUG`.
    Debug,
    /// `INFO`, `NOTICE`.
    Info,
    /// `WARN`, `WARNING`.
    Warn,
    /// `ERROR`, `CRITICAL`, `FATAL`, `PANIC`.
    Error,
}

/// Words beyond this many bytes are the message, not its head.
const HEAD: usize = 120;

impl LogLevel {
    /// The level that a line names: in a JSON object as `level`, `severity` or `lvl` (a word, or a number as pino
    /// counts), else as a word in capitals or as `level=word` near its beginning.
    #[must_use]
    pub fn of(line: &str) -> Option<Self> {
        if line.starts_with('{')
            && let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(line)
        {
            return ["level", "severity", "lvl"].iter().find_map(|key| match fields.get(*key)? {
                serde_json::Value::String(word) => word.parse().ok(),
                serde_json::Value::Number(number) => Some(Self::of_number(number.as_u64()?)),
                _ => None,
            });
        }
        let end =
            line.char_indices().map(|(at, _)| at).find(|at| *at >= HEAD).unwrap_or(line.len());
        let mut before = "";
        for word in line.get(..end)?.split(|c: char| !c.is_ascii_alphanumeric()) {
            let capitals = word.len() > 3 && word.bytes().all(|b| b.is_ascii_uppercase());
            let named = ["level", "lvl", "severity"].contains(&before);
            if (capitals || named)
                && let Ok(level) = word.parse()
            {
                return Some(level);
            }
            before = word;
        }
        None
    }

    /// pino and bunyan: 10 trace, 20 debug, 30 info, 40 warn, 50 error, 60 fatal.
    fn of_number(number: u64) -> Self {
        match number {
            0..20 => Self::Trace,
            20..30 => Self::Debug,
            30..40 => Self::Info,
            40..50 => Self::Warn,
            _ => Self::Error,
        }
    }
}

impl FromStr for LogLevel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "info" | "notice" | "information" => Self::Info,
            "warn" | "warning" => Self::Warn,
            "error" | "err" | "critical" | "crit" | "fatal" | "panic" | "alert" | "emergency" => {
                Self::Error
            }
            _ => {
                return Err(Error::invalid(
                    "level",
                    format!("`{text}` is none of trace, debug, info, warn, error"),
                ));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_level_where_loggers_put_it() {
        for (line, level) in [
            ("2026-11-20 03:04:05,006 - bot - ERROR - lost the socket", Some(LogLevel::Error)),
            ("[WARNING] slow", Some(LogLevel::Warn)),
            ("time=x level=debug msg=INFO", Some(LogLevel::Debug)),
            (r#"{"level":"info","msg":"ERROR"}"#, Some(LogLevel::Info)),
            (r#"{"level":40}"#, Some(LogLevel::Warn)),
            (r#"{"severity":"CRITICAL"}"#, Some(LogLevel::Error)),
            ("no error here", None),
            ("Traceback (most recent call last):", None),
            ("", None),
        ] {
            assert_eq!(LogLevel::of(line), level, "{line}");
        }
    }
}
