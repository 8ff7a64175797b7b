//! How far something is: one line that is drawn over on a terminal, otherwise a line a minute.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::human;

/// Often enough to look alive, seldom enough to cost nothing.
const REDRAW: Duration = Duration::from_millis(100);
const LOGGED: Duration = Duration::from_mins(1);

/// Draws on stderr; whatever it has drawn is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    every: Option<Duration>,
    last: Option<Instant>,
    phase: (String, Instant),
    terminal: bool,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        let every = if terminal { REDRAW } else { LOGGED };
        let now = Instant::now();
        Self {
            every: (!quiet).then_some(every),
            // A job of less than a minute says nothing into a log.
            last: (!terminal).then_some(now),
            phase: (String::new(), now),
            terminal,
        }
    }

    /// `done` of `total` rows in `phase`, at the moment those of `table`. A new phase begins to count anew.
    pub(crate) fn rows(&mut self, phase: &str, table: &str, done: u64, total: u64) {
        self.show(phase, |seconds| line(phase, table, done, total, seconds));
    }

    /// A line made from the seconds since `phase` began, if it is time for one.
    pub(crate) fn show(&mut self, phase: &str, line: impl FnOnce(f64) -> String) {
        let now = Instant::now();
        if self.phase.0 != phase {
            self.phase = (phase.to_owned(), now);
        }
        let Some(every) = self.every else { return };
        if self.last.is_some_and(|last| now - last < every) {
            return;
        }
        self.last = Some(now);
        let line = line(now.duration_since(self.phase.1).as_secs_f64().max(0.001));
        // Nobody to tell if nobody listens.
        let _ = if self.terminal {
            write!(io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.every.is_some() && self.last.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody reads that many digits")]
fn line(phase: &str, table: &str, done: u64, total: u64, seconds: f64) -> String {
    let rate = done as f64 / seconds;
    let percent = if total == 0 { 100.0 } else { done as f64 * 100.0 / total as f64 };
    let left = if rate > 0.0 { (total.saturating_sub(done)) as f64 / rate } else { 0.0 };
    let left = human::span(left);
    format!(
        "{phase} {table}: {done} of {total} rows, {percent:.0} %, {rate:.0} rows/s, {left} left"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let text = line("copying", "events", 500, 2_000, 5.0);
        assert_eq!(text, "copying events: 500 of 2000 rows, 25 %, 100 rows/s, 15s left");
        assert!(line("copying", "events", 0, 0, 0.001).contains("100 %"));
    }
}
