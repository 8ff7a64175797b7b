//! Tells a store that went on from one that was restored or copied, so that an old refresh token is never presented
//! beside the living grant (VLT-10).
//!
//! Inside a database nothing can show that all of it is older than it was. So a small file outside says when the newest
//! pair of tokens was committed, and on which machine, as which file, it was written: a copy of the file is another file.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result, Timestamp, store::GrantStore};

/// What a witness file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Testimony {
    /// Of this form; other numbers are of later versions.
    form: u32,
    /// When the newest pair of tokens was committed, in microseconds since the epoch.
    newest_commit: Option<i64>,
    /// Which machine.
    machine: String,
    /// Which file.
    inode: u64,
}

const FORM: u32 = 1;

/// Whether the store is the one that was used here last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is, or it is new.
    Same,
    /// It is not, and why, for people.
    Restored(String),
}

/// The file beside a store.
#[derive(Debug)]
pub(crate) struct Witness {
    path: PathBuf,
    newest: Mutex<Option<Timestamp>>,
    /// What the file says, once it was written. Held while it is: there is one writer at a time.
    #[expect(clippy::option_option, reason = "nothing was written, or that there is no commit")]
    written: Mutex<Option<Option<Timestamp>>>,
}

impl Witness {
    /// Reads the file at `path`, and judges the store by it. Nothing is written.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) for a file that no version has written, [`Io`](Error::Io) for one that cannot be read,
    /// and those of the store.
    pub(crate) async fn open(path: &Path, store: &dyn GrantStore) -> Result<(Self, Judgement)> {
        let newest = store.newest_commit().await?;
        let judgement = match read(path)? {
            None if newest.is_none() => Judgement::Same,
            None => Judgement::Restored(format!(
                "{} is not there, which is beside every vault that was used here",
                path.display()
            )),
            Some((testimony, inode)) => judge(&testimony, inode, newest),
        };
        let witness =
            Self { path: path.to_owned(), newest: Mutex::new(newest), written: Mutex::new(None) };
        Ok((witness, judgement))
    }

    /// A pair was committed at `at`. Cheap: [`write`](Self::write) brings it to the disk.
    pub(crate) fn committed(&self, at: Timestamp) {
        let mut newest = lock(&self.newest);
        *newest = newest.max(Some(at));
    }

    /// What was committed may be gone by purpose: the file says from now on what the store says.
    ///
    /// # Errors
    /// As [`write`](Self::write), and those of the store.
    pub(crate) async fn forget(self: &Arc<Self>, store: &dyn GrantStore) -> Result<()> {
        let found = store.newest_commit().await?;
        *lock(&self.newest) = found;
        let witness = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || witness.write()).await;
        written.unwrap_or(Err(Error::Closed { what: "the runtime" }))
    }

    /// Writes the file if there is something new. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`Io`](Error::Io); the next call tries again.
    pub(crate) fn write(&self) -> Result<()> {
        let mut written = lock(&self.written);
        // Under the lock: what is read later is written later.
        let newest = *lock(&self.newest);
        if *written != Some(newest) {
            self.replace(newest)?;
            *written = Some(newest);
        }
        Ok(())
    }

    fn replace(&self, newest: Option<Timestamp>) -> Result<()> {
        let part = self.path.with_extension("part");
        let replaced = (|| -> io::Result<()> {
            let mut options = File::options();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            let testimony = Testimony {
                form: FORM,
                newest_commit: newest.map(|at| at.0),
                machine: machine(),
                inode: file.metadata()?.ino(),
            };
            serde_json::to_writer(&mut file, &testimony)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&part, &self.path)?;
            match self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                Some(folder) => File::open(folder)?.sync_all(),
                None => Ok(()),
            }
        })();
        replaced.map_err(Error::io(format!("write {}", self.path.display())))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(path: &Path) -> Result<Option<(Testimony, u64)>> {
    let what = || format!("read {}", path.display());
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(Error::io(what())(err)),
    };
    let inode = fs::metadata(path).map_err(Error::io(what()))?.ino();
    match serde_json::from_slice::<Testimony>(&text) {
        Ok(testimony) if testimony.form == FORM => Ok(Some((testimony, inode))),
        _ => Err(Error::Corrupt {
            what: path.display().to_string(),
            detail: "not written by this version: remove it, then `kissops vault adopt` once you know that no other \
                     copy of this vault is in use"
                .into(),
        }),
    }
}

fn judge(testimony: &Testimony, inode: u64, newest: Option<Timestamp>) -> Judgement {
    let seen = testimony.newest_commit.map(Timestamp);
    let why = if seen > newest {
        "tokens were committed here that are not in this store: it is older than it was"
    } else if testimony.machine != machine() {
        "it was last used on another machine"
    } else if testimony.inode != inode {
        "it was last used in another folder: this is a copy"
    } else {
        return Judgement::Same;
    };
    Judgement::Restored(why.into())
}

/// Names this machine without telling its id; empty where it has none.
fn machine() -> String {
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    match id.trim() {
        "" => String::new(),
        id => {
            let hash = Sha256::digest(format!("kissops witness {id}"));
            let short = hash.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            format!("{short:016x}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn testimony() -> Testimony {
        Testimony { form: FORM, newest_commit: Some(50), machine: machine(), inode: 9 }
    }

    #[test]
    fn only_the_same_file_beside_a_store_that_went_on_is_believed() {
        let now = Some(Timestamp(50));
        assert_eq!(judge(&testimony(), 9, now), Judgement::Same);
        assert_eq!(judge(&testimony(), 9, Some(Timestamp(51))), Judgement::Same);
        let restored = |judgement| matches!(judgement, Judgement::Restored(_));
        assert!(restored(judge(&testimony(), 9, Some(Timestamp(49)))), "yesterday's copy");
        assert!(restored(judge(&testimony(), 9, None)), "an empty one in its place");
        assert!(restored(judge(&testimony(), 8, now)), "a copied file");
        let other = Testimony { machine: "another".into(), ..testimony() };
        assert!(restored(judge(&other, 9, now)));
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn what_is_written_is_found_and_a_copy_is_not_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::sqlite::SqliteStore::in_memory().unwrap();
        let path = dir.path().join("vault.witness");
        let (witness, judgement) = Witness::open(&path, &store).await.unwrap();
        let witness = Arc::new(witness);
        assert_eq!(judgement, Judgement::Same, "a new vault");
        witness.write().unwrap();
        assert_eq!(Witness::open(&path, &store).await.unwrap().1, Judgement::Same);
        fs::copy(&path, dir.path().join("copy")).unwrap();
        let (_, judgement) = Witness::open(&dir.path().join("copy"), &store).await.unwrap();
        assert!(matches!(judgement, Judgement::Restored(_)), "{judgement:?}");
        // More than the store has: it was put back.
        witness.committed(Timestamp(7));
        witness.write().unwrap();
        let (_, judgement) = Witness::open(&path, &store).await.unwrap();
        assert!(matches!(judgement, Judgement::Restored(_)), "{judgement:?}");
        witness.forget(&store).await.unwrap();
        assert_eq!(Witness::open(&path, &store).await.unwrap().1, Judgement::Same);
        fs::write(&path, "no").unwrap();
        assert_eq!(Witness::open(&path, &store).await.unwrap_err().code(), "corrupt");
    }
}
