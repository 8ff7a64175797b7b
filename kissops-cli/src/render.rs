//! How things look on a terminal.

pub(crate) mod clean;
pub(crate) mod human;
pub(crate) mod instances;
pub(crate) mod progress;
pub(crate) mod screen;
pub(crate) mod table;
pub(crate) mod tree;

use std::io::IsTerminal as _;

use kissops_core::supervisor::StateName;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colored: bool,
}

impl Style {
    pub(crate) fn new(colored: bool) -> Self {
        Self { colored }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colored { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// `text` in the colour of `state`.
    pub(crate) fn state(self, state: StateName, text: &str) -> String {
        match state {
            StateName::Running => self.green(text),
            StateName::Starting | StateName::Backoff | StateName::Stopping => self.yellow(text),
            StateName::Failed | StateName::NeedsReauth => self.red(text),
            StateName::Stopped => self.dim(text),
        }
    }
}

/// The terminal's columns. Without one, as many as are needed: nothing is cut for `grep` or a file.
pub(crate) fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    if columns.is_none() && !std::io::stdout().is_terminal() {
        return usize::MAX;
    }
    columns
        .or_else(|| crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns)))
        .filter(|columns| *columns >= 20)
        .unwrap_or(80)
}
