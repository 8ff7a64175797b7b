//! `kissops init`.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use kissops_core::{
    Error,
    init::{self, Proposal},
};
use serde_json::json;

use crate::{
    args::Init,
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::clean,
};

const NAME: &str = "kissops.toml";

pub(crate) fn run(context: &Context, args: &Init) -> Result<Exit, Failure> {
    let folder = fs::canonicalize(&args.folder).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => {
            let message = format!("there is no folder {}", args.folder.display());
            Failure::new("not_found", message, "name the folder that the bot's program is in")
        }
        _ => Error::io(format!("open the folder {}", args.folder.display()))(err).into(),
    })?;
    let target = folder.join(NAME);
    // Said before anything is looked at, and enforced once more where it is written.
    if !args.dry_run && !args.force && target.exists() {
        return Err(exists(&target));
    }
    let proposal = init::propose(&folder).map_err(unrecognised)?;
    let mut written = Vec::new();
    if !args.dry_run {
        // Secrets first: a configuration that names a file which is not there would not start.
        for (path, text, mode) in &proposal.files {
            write(path, text, *mode, args.force)?;
            written.push(path.clone());
        }
        write(&target, &proposal.toml, 0o644, args.force)?;
        written.push(target);
    }
    if context.json {
        print_json(&json!({
            "written": written,
            "found": proposal.found,
            "not_carried_over": proposal.not_carried_over,
            "to_do": proposal.to_do,
            "toml": proposal.toml,
        }))?;
        return Ok(Exit::Ok);
    }
    if args.dry_run {
        let mut out = out();
        out.write_all(proposal.toml.as_bytes())?;
        out.flush()?;
    }
    tell(context, &proposal, &written);
    Ok(Exit::Ok)
}

fn tell(context: &Context, proposal: &Proposal, written: &[PathBuf]) {
    let style = context.style_of_stderr();
    let say = |label: String, text: &str| context.say(&format!("{label} {}", clean::text(text)));
    for text in &proposal.found {
        say(style.green("found"), text);
    }
    for text in &proposal.not_carried_over {
        say(style.yellow("not carried over:"), text);
    }
    for path in written {
        say(style.bold("wrote"), &path.display().to_string());
    }
    for text in &proposal.to_do {
        say(style.yellow("to do:"), text);
    }
    if !written.is_empty() {
        context.say("next: kissops check, then kissops up");
    }
}

fn write(path: &Path, text: &str, mode: u32, force: bool) -> Result<(), Failure> {
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(mode);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let written = options.open(path).and_then(|mut file| {
        if force {
            // One that was there keeps its mode at opening.
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
        file.write_all(text.as_bytes())
    });
    match written {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(err) => Err(Error::io(format!("write {}", path.display()))(err).into()),
        Ok(()) => Ok(()),
    }
}

fn unrecognised(err: Error) -> Failure {
    if !matches!(err, Error::NotFound { .. }) {
        return err.into();
    }
    let help = "write kissops.toml by hand: [instance.bot] with command = [\"./bot\"]; or name the bot's own folder: \
                kissops init FOLDER";
    Failure::new("not_found", err.to_string(), help)
}

fn exists(path: &Path) -> Failure {
    let help = "kissops init --dry-run prints the proposal; --force overwrites";
    Failure::new("exists", format!("{} is there already", path.display()), help)
}
