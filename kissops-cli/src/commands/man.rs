//! `kissops man`.

use std::io::Write as _;

use clap::CommandFactory as _;
use kissops_core::Error;

use crate::{
    args::{Cli, Man},
    context::out,
    exit::{Exit, Failure},
};

pub(crate) fn run(args: &Man) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    command.build();
    if let Some(folder) = &args.dir {
        clap_mangen::generate_to(command, folder)
            .map_err(Error::io(format!("write the manual pages into {}", folder.display())))?;
        return Ok(Exit::Ok);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    let mut out = out();
    out.write_all(&page)?;
    Ok(out.flush().map(|()| Exit::Ok)?)
}
