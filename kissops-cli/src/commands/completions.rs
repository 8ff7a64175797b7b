//! `kissops completions`.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::{
    args::{Cli, Completions},
    context::out,
    exit::{Exit, Failure},
};

pub(crate) fn run(args: &Completions) -> Result<Exit, Failure> {
    // Into memory first: the generator panics on a pipe that was closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kissops", &mut script);
    let mut out = out();
    out.write_all(&script)?;
    Ok(out.flush().map(|()| Exit::Ok)?)
}
