//! Files with tokens in clear.

use std::{
    fs::OpenOptions,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use zeroize::Zeroizing;

use crate::{Error, Result};

/// The text of a file that nobody else may read or has written.
pub(super) fn read_private(path: &Path, largest: u64) -> Result<Zeroizing<String>> {
    let shown = path.display();
    // Non-blocking: a named pipe would wait for a writer for ever.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = open.map_err(|err| match err.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound { what: format!("file {shown}") },
        _ => Error::io(format!("open {shown}"))(err),
    })?;
    let meta = file.metadata().map_err(Error::io(format!("inspect {shown}")))?;
    if !meta.is_file() || meta.len() > largest {
        let rule = format!("must be a regular file of at most {largest} bytes");
        return Err(Error::invalid(shown.to_string(), rule));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::Denied {
            what: format!("{shown} is to hold tokens and belongs to user {}", meta.uid()),
            help: format!("make a copy of your own and import that: install -m 600 {shown} COPY"),
        });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Error::Denied {
            what: format!(
                "{shown} is to hold tokens and is open to group or others (mode {:03o})",
                meta.mode() & 0o777
            ),
            help: format!("chmod 600 {shown}"),
        });
    }
    // As large as the file from the beginning: a text that grows leaves copies behind.
    let size = usize::try_from(meta.len()).unwrap_or(0).saturating_add(1);
    let mut text = Zeroizing::new(String::with_capacity(size));
    file.take(meta.len()).read_to_string(&mut text).map_err(|err| match err.kind() {
        std::io::ErrorKind::InvalidData => Error::invalid(shown.to_string(), "must be UTF-8 text"),
        _ => Error::io(format!("read {shown}"))(err),
    })?;
    Ok(text)
}
