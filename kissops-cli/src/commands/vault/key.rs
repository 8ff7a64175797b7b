//! `kissops vault key`.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use kissops_core::{Error, vault::Kek};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    args::VaultKey,
    context::{Context, out},
    exit::{Exit, Failure},
};

pub(super) fn run(context: &Context, args: &VaultKey) -> Result<Exit, Failure> {
    let key = Kek::generate()?;
    let Some(file) = &args.file else {
        let mut out = out();
        writeln!(out, "{}", key.expose_secret())?;
        out.flush()?;
        context.say("keep it where the store and its backups are not; it cannot be had again");
        return Ok(Exit::Ok);
    };
    write(file, &key)?;
    let shown = file.display();
    context.say(&format!("the key is in {shown}; name it: [vault] key = {{ file = \"{shown}\" }}"));
    Ok(Exit::Ok)
}

/// A file of its own: overwriting a key loses what it had sealed.
fn write(file: &Path, key: &SecretString) -> Result<(), Failure> {
    let shown = file.display();
    let mut options = fs::OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(file);
    let mut made = made.map_err(Error::io(format!("make {shown}")))?;
    let written = writeln!(made, "{}", key.expose_secret()).and_then(|()| made.sync_all());
    Ok(written.map_err(Error::io(format!("write {shown}")))?)
}
