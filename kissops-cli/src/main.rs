//! `kissops`: the command line. It parses, asks the daemon over its socket, and prints.

mod args;
mod client;
mod commands;
mod context;
mod desk;
mod exit;
mod prompt;
mod render;
mod settings;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    args::Cli,
    context::Context,
    exit::{Exit, Failure},
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => return usage(&err).into(),
    };
    let context = Context::new(&cli.global);
    match run(cli, &context) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.tell(&context).into(),
    }
}

fn run(cli: Cli, context: &Context) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Failure::from(kissops_core::Error::io("start the runtime")(err)))?;
    runtime.block_on(commands::run(cli.command, context))
}

/// Help and version go to stdout and are no failure; a wrong use is told on stderr, as JSON where that was asked for.
fn usage(err: &clap::Error) -> Exit {
    if !err.use_stderr() {
        // Whoever closed the pipe has read enough.
        let _ = err.print();
        return Exit::Ok;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = err.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        return Failure::usage(message, "kissops --help").tell_json();
    }
    let _ = err.print();
    Exit::Usage
}
