//! What a killed process held is free at once where its next life can show that it is dead.
//!
//! The session of a live process is a lease that others wait for. So after a crash even the same daemon, started anew,
//! would wait until that runs out. But a lock on a file goes with the process that holds it, however it ends: whoever gets
//! the lock knows that the session which the file names is nobody's any more. A process that is only asleep keeps its lock.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, Timestamp,
    store::{FencingToken, HolderId, Lease, LeaseName},
};

/// What is written takes the place of what was there in one step: it is always as long.
const LENGTH: usize = 256;

#[derive(Serialize, Deserialize)]
struct Note {
    lease: String,
    holder: i64,
    token: i64,
}

/// The file, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Estate {
    file: File,
    path: PathBuf,
}

impl Estate {
    /// Takes the file at `path`; `None` while another process has it, which may be at work.
    ///
    /// # Errors
    /// [`Io`](Error::Io) for a file that cannot be opened or locked.
    pub(crate) fn take(path: &Path) -> Result<Option<Self>> {
        let what = || format!("lock {}", path.display());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(Error::io(what()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file, path: path.to_owned() })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(err) => Err(Error::io(what())(err)),
        }
    }

    /// The session that an earlier life noted last. What cannot be read is none: then it has to run out.
    pub(crate) fn left(&self) -> Option<Lease> {
        let mut text = Vec::with_capacity(LENGTH);
        (&self.file).take(LENGTH as u64).read_to_end(&mut text).ok()?;
        let note: Note = serde_json::from_slice(&text).ok()?;
        Some(Lease {
            name: LeaseName::new(note.lease),
            holder: HolderId(note.holder),
            token: FencingToken(note.token),
            until: Timestamp::default(),
        })
    }

    /// Notes the session of this life, before anything is begun in it. Without the note, the next life has to wait.
    pub(crate) fn note(&self, lease: &Lease) {
        let note =
            Note { lease: lease.name.to_string(), holder: lease.holder.0, token: lease.token.0 };
        let written = serde_json::to_vec(&note).map_err(io::Error::from).and_then(|mut text| {
            text.resize(LENGTH.max(text.len()), b' ');
            self.file.write_all_at(&text, 0)
        });
        if let Err(error) = written {
            tracing::warn!(%error, file = %self.path.display(), "the vault's session cannot be noted: after a crash it has to run out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(token: i64) -> Lease {
        Lease {
            name: LeaseName::new("vault/17"),
            holder: HolderId(17),
            token: FencingToken(token),
            until: Timestamp::default(),
        }
    }

    #[test]
    fn what_was_noted_is_found_by_the_next_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vault.session");
        let first = Estate::take(&path).unwrap().unwrap();
        assert_eq!(first.left(), None);
        for token in [1_000_000, 2] {
            first.note(&lease(token));
        }
        assert!(Estate::take(&path).unwrap().is_none(), "the first one is alive");
        drop(first);
        assert_eq!(Estate::take(&path).unwrap().unwrap().left(), Some(lease(2)));
        std::fs::write(&path, "no note").unwrap();
        assert_eq!(Estate::take(&path).unwrap().unwrap().left(), None);
    }
}
