//! How the program ends: the table of exit codes, and failures as they are told.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use kissops_core::{
    Error,
    control::{self, Problem},
};
use serde_json::json;

use crate::{context::Context, render::clean};

/// The exit codes, as `--help` lists them. Those from 64 on are those of `sysexits.h`, 3 and 4 those of `systemctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    NotRunning = 3,
    NoSuchName = 4,
    Unreachable = 69,
    Busy = 75,
    Permission = 77,
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The exit code that goes with the `code` of an error.
    pub(crate) fn of(code: &str) -> Self {
        match code {
            "bad_request" | "usage" => Self::Usage,
            "wrong_state" => Self::NotRunning,
            "not_found" => Self::NoSuchName,
            "daemon_unreachable" | "closed" => Self::Unreachable,
            "busy" | "conflict" | "timeout" | "unavailable" | "uncertain" => Self::Busy,
            "denied" => Self::Permission,
            "invalid_config" => Self::Config,
            _ => Self::Failed,
        }
    }
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told: what, and what to do next.
    Told {
        /// A short stable word.
        code: String,
        /// What went wrong.
        message: String,
        /// What to do next.
        help: String,
    },
    /// It has been told already, as part of the output.
    Said(Exit),
    /// The reader of our output has read enough: `kissops logs web | head`.
    PipeClosed,
}

impl Failure {
    pub(crate) fn new(code: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Told { code: code.to_owned(), message: message.into(), help: help.into() }
    }

    pub(crate) fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new("usage", message, help)
    }

    pub(crate) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Told { code, .. } if code == wanted)
    }

    /// Tells it on stderr.
    pub(crate) fn tell(self, context: &Context) -> Exit {
        if context.json {
            return self.tell_json();
        }
        match self {
            Self::Told { code, message, help } => {
                let label = context.style_of_stderr().red("error:");
                // Made harmless line by line: the daemon's last words are several.
                let lines = message.lines().map(clean::text).collect::<Vec<_>>().join("\n");
                let mut text = format!("{label} {lines}\n");
                if !help.is_empty() {
                    let label = context.style_of_stderr().bold("help:");
                    // Writing to a String cannot fail.
                    let _ = writeln!(text, "{label} {}", clean::text(&help));
                }
                let _ = io::stderr().write_all(text.as_bytes());
                Exit::of(&code)
            }
            Self::Said(exit) => exit,
            Self::PipeClosed => Exit::Ok,
        }
    }

    /// Tells it on stderr as `{"error":{"code","message","help"}}`.
    pub(crate) fn tell_json(self) -> Exit {
        match self {
            Self::Told { code, message, help } => {
                let error = json!({ "error": { "code": code, "message": message, "help": help } });
                let _ = writeln!(io::stderr(), "{error}");
                Exit::of(&code)
            }
            Self::Said(exit) => exit,
            Self::PipeClosed => Exit::Ok,
        }
    }
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        // The API's advice on what to do next holds here, too.
        Problem::from(err).into()
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        // Where the routes are described is advice for those who call them themselves.
        let help = if problem.help.contains("/v1/openapi.json") {
            "--help of the command says what it takes".to_owned()
        } else {
            problem.help
        };
        Self::Told { code: problem.code, message: problem.detail, help }
    }
}

impl From<control::Failure> for Failure {
    fn from(failure: control::Failure) -> Self {
        Self::Told { code: failure.code, message: failure.message, help: failure.help }
    }
}

/// An error of writing our output; everything else is named where it happens.
impl From<io::Error> for Failure {
    fn from(err: io::Error) -> Self {
        if err.kind() == io::ErrorKind::BrokenPipe {
            return Self::PipeClosed;
        }
        Error::io("write the output")(err).into()
    }
}
