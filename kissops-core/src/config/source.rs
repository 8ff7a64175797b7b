//! Files as they are read: bounded, checked to be text, with line and column of each byte.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use super::ConfigErrors;

/// The largest configuration file in bytes.
const LARGEST: u64 = 4 << 20;

/// A text and the path it came from.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Where each line starts, in bytes.
    starts: Vec<usize>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text may hold secrets.
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn new(path: PathBuf, text: String) -> Self {
        let starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path, text, starts }
    }

    /// Line and column, both from 1, of the byte at `offset`.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// The text of line `number`, from 1, without its end.
    pub(super) fn line(&self, number: usize) -> Option<&str> {
        let start = *self.starts.get(number.checked_sub(1)?)?;
        let rest = self.text.get(start..)?;
        Some(rest.split('\n').next().unwrap_or(rest).trim_end_matches('\r'))
    }

    /// Reads the configuration file at `path`, which is at most 4 MiB of UTF-8.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigErrors> {
        let refuse = |message: String, help: &str| Err(ConfigErrors::whole(path, message, help));
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(err) if err.kind() == ErrorKind::NotFound => {
                return refuse("there is no such file".into(), "`kissops init` writes one");
            }
            Err(err) => return refuse(format!("cannot be read: {err}"), ""),
        };
        // Asked before it is opened: opening a named pipe would wait for a writer.
        if meta.is_dir() {
            return refuse("is a folder, not a file".into(), "name the file in it: kissops.toml");
        }
        if !meta.is_file() {
            return refuse("is not a regular file".into(), "copy it into one");
        }
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
        if let Err(err) = read {
            return refuse(format!("cannot be read: {err}"), "");
        }
        if bytes.len() as u64 > LARGEST {
            return refuse("is larger than 4 MiB".into(), "a configuration is a few kilobytes");
        }
        match String::from_utf8(bytes) {
            Ok(text) => {
                let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
                Ok(Self::new(path.to_owned(), text))
            }
            Err(err) => {
                let good = err.utf8_error().valid_up_to();
                let line = err.as_bytes().iter().take(good).filter(|b| **b == b'\n').count() + 1;
                refuse(format!("is not UTF-8 text (line {line})"), "save it as UTF-8")
            }
        }
    }
}
