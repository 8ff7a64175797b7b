//! `kissops client`: what a bot in another language talks to its socket with, in one file.

use std::io::Write as _;

use crate::{
    args::{BotClient, Language},
    context::out,
    exit::{Exit, Failure},
};

const PYTHON: &str = include_str!("../../clients/kissops.py");
const NODE: &str = include_str!("../../clients/kissops.mjs");

pub(crate) fn run(args: &BotClient) -> Result<Exit, Failure> {
    let text = match args.language {
        Language::Python => PYTHON,
        Language::Node => NODE,
    };
    let mut out = out();
    out.write_all(text.as_bytes())?;
    Ok(out.flush().map(|()| Exit::Ok)?)
}
