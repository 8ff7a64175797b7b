//! What every command needs to know: the global options and the terminal.

use std::{
    io::{self, BufRead as _, BufWriter, IsTerminal as _, StdoutLock, Write as _},
    path::PathBuf,
};

use crate::{args::Global, exit::Failure, render::Style};

/// The global options and the terminal.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) config: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    yes: bool,
    no_color: bool,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Self {
        // https://no-color.org: set and not empty, whatever the value.
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            config: global.config.clone(),
            socket: global.socket.clone(),
            json: global.json,
            quiet: global.quiet,
            yes: global.yes,
            no_color: global.no_color || forbidden || dumb,
        }
    }

    /// Colours for stdout: on a terminal only.
    pub(crate) fn style(&self) -> Style {
        Style::new(!self.no_color && io::stdout().is_terminal())
    }

    pub(crate) fn style_of_stderr(&self) -> Style {
        Style::new(!self.no_color && io::stderr().is_terminal())
    }

    /// Says something that is not data, on stderr, unless `--quiet`.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            // Nobody to tell if nobody listens.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// `--yes` was given.
    pub(crate) fn says_yes(&self) -> bool {
        self.yes
    }

    /// Asks before something drastic: on a terminal, unless `--yes`. A script has said what it wants.
    pub(crate) fn confirm(&self, question: &str) -> Result<(), Failure> {
        if self.yes || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(());
        }
        write!(io::stderr(), "{question} [y/N] ")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(Failure::new("cancelled", "nothing was done", "say --yes to skip the question"))
    }
}

/// Standard output, buffered. Errors are returned: a closed pipe ends us quietly, see [`Failure`].
pub(crate) fn out() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(32 << 10, io::stdout().lock())
}

/// Writes a value as one line of JSON.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let mut out = out();
    serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
