//! One daemon per state directory (SUP-19): a lock that the kernel releases with its holder.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use kissops_core::{Error, Result, clock};
use rustix::fs::{FlockOperation, flock};

/// Takes the lock of `state_dir`, held for as long as the file lives.
///
/// # Errors
/// [`Error::Conflict`] names who holds it.
pub(crate) fn take(state_dir: &Path) -> Result<File> {
    let path = state_dir.join("lock");
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let mut file = open.map_err(Error::io(format!("open {}", path.display())))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        // Who holds it has written it right after taking it; what cannot be read is said to be unknown.
        let _ = file.read_to_string(&mut holder);
        let holder = if holder.trim().is_empty() {
            "another process".to_owned()
        } else {
            holder.trim().to_owned()
        };
        return Err(Error::Conflict {
            what: format!("the state directory {}", state_dir.display()),
            holder,
        });
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "kissopsd, pid {}, since {}", std::process::id(), clock::now())
    };
    write(&mut file).map_err(Error::io(format!("write {}", path.display())))?;
    Ok(file)
}
