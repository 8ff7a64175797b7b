//! Answers that nobody was there to take, sealed, each in a file of its own.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::frame::End;
use crate::{
    Error, Result,
    vault::{
        Ticket,
        cipher::{Binding, Cipher, KeyBytes},
    },
};

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    folder: PathBuf,
}

impl Spool {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Keeps an answer for good: it is on the disk when this returns.
    pub(super) fn keep(&self, ticket: Ticket, end: &End, key: &KeyBytes) -> Result<()> {
        let path = self.path(ticket);
        let part = path.with_extension("part");
        let plain = end.to_bytes();
        let sealed = Cipher::new(key).seal(&binding(ticket), &plain)?;
        let written = (|| -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            File::open(&self.folder)?.sync_all()
        })();
        written.map_err(Error::io(format!("keep an answer in {}", path.display())))
    }

    /// What is kept of a ticket.
    pub(super) fn read(&self, ticket: Ticket, key: &KeyBytes) -> Result<Option<End>> {
        let path = self.path(ticket);
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(Error::io(format!("read {}", path.display()))(err)),
        };
        let plain = Cipher::new(key).open(&binding(ticket), &sealed);
        let end = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
        end.map(Some).ok_or_else(|| Error::Corrupt {
            what: path.display().to_string(),
            detail: "the key of this vault does not open it".into(),
        })
    }

    /// Forgets a ticket.
    pub(super) fn remove(&self, ticket: Ticket) {
        // Whatever is left is the answer to a question that nobody will ask again.
        let _ = fs::remove_file(self.path(ticket));
    }

    fn path(&self, ticket: Ticket) -> PathBuf {
        let Ticket { grant, generation, attempt } = ticket;
        self.folder.join(format!("{}-{}-{attempt}.answer", grant.0, generation.0))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Binds a file to its ticket.
fn binding(Ticket { grant, generation, attempt }: Ticket) -> Binding {
    Binding::of("exchanger answer").number(grant.0).number(generation.0).number(attempt)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::store::{Generation, GrantId};

    fn ticket(attempt: u32) -> Ticket {
        Ticket { grant: GrantId(7), generation: Generation(3), attempt }
    }

    fn answer() -> End {
        End::Answered { status: 200, retry_after: None, body: "c2VjcmV0".into(), sent_at: 1, at: 2 }
    }

    #[test]
    fn an_answer_is_read_by_its_ticket_and_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path().join("answers"));
        let (key, other) = (Zeroizing::new([1; 32]), Zeroizing::new([2; 32]));
        spool.keep(ticket(1), &answer(), &key).unwrap();
        let found = spool.read(ticket(1), &key).unwrap();
        assert!(matches!(found, Some(End::Answered { status: 200, .. })));
        assert!(spool.read(ticket(2), &key).unwrap().is_none());
        let err = spool.read(ticket(1), &other).err().unwrap();
        assert_eq!(err.code(), "corrupt");
        fs::copy(spool.path(ticket(1)), spool.path(ticket(2))).unwrap();
        let err = spool.read(ticket(2), &key).err().unwrap();
        assert_eq!(err.code(), "corrupt", "moved to another ticket");
        spool.remove(ticket(1));
        assert!(spool.read(ticket(1), &key).unwrap().is_none());
    }

    #[test]
    fn nothing_on_the_disk_shows_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path().to_owned());
        spool.keep(ticket(1), &answer(), &Zeroizing::new([1; 32])).unwrap();
        let bytes = fs::read(spool.path(ticket(1))).unwrap();
        assert!(!bytes.windows(8).any(|window| window == b"c2VjcmV0"));
    }
}
