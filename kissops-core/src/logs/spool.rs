//! Exactly-once across the death of the process: the spool.
//!
//! # The problem
//! `read` takes bytes out of a pipe into memory that dies with the process. Bytes that were read and not yet written
//! are lost by `kill -9`; bytes that were written and then read again are doubled.
//!
//! # The way
//! Bytes stay in the bot's own pipe, which the keeper holds open, until they are in the log file. For each chunk:
//!
//! 1. *Peek.* `tee(2)` copies references to the pipe's pages into a scratch pipe, from which they are read and
//!    formatted. Nothing was taken. Only whole lines are chosen; the start of an unfinished line simply stays in the
//!    pipe, so there is no half line in memory either.
//! 2. *Open.* One `pwrite` to the journal (a memfd) notes the instance, the log file's identity and its size.
//! 3. *Write* the formatted lines to the log file.
//! 4. *Take.* `splice(2)` moves exactly the chosen bytes from the bot's pipe into the *sink*, another pipe. Both pipes
//!    are locked while it moves, it waits for nothing, and the sink was empty with at least as many slots as the
//!    scratch pipe, through which the same bytes have just passed: so it moves all or nothing, and no signal divides it.
//! 5. *Close* the journal, then throw away what is in the sink.
//!
//! Journal and sink outlive the process, because the keeper holds both. A successor finds one of four states:
//!
//! | journal | sink | it died | what is done |
//! |---|---|---|---|
//! | closed | empty | outside of a chunk, or in 1 | nothing |
//! | open | empty | in 2, 3, or before 4 | the file is cut back to the noted size: the bytes are still in the pipe |
//! | open | bytes | after 4 | the lines are in the file, the bytes are gone: the journal is closed |
//! | closed | bytes | in 5 | the sink is emptied |
//!
//! In each, every line is either in the pipe or in the file, never in both, never in neither. The journal's record is
//! one `pwrite` within one page, which a signal does not divide. Files are renamed (rotation) only while the journal is
//! closed, so the noted file is `current`; should somebody else have moved it, its identity differs and it is left alone.
//! A failed or short write (disk full) is handled inside step 3: the file is cut to the lines that fit, the rest is
//! counted as dropped, and step 4 takes all.
//!
//! This holds for the end of a process, not for the loss of power: the file's last seconds are then the file system's
//! affair, and the bots are gone as well.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::{
    fs::{FileType, MemfdFlags, Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, SpliceFlags},
};

use crate::{Error, Result, id::InstanceName};

/// Largest capacity that an unprivileged process may give a pipe by default (`/proc/sys/fs/pipe-max-size`).
pub(super) const PIPE_MAX: usize = 1 << 20;
const MAGIC: u64 = 0x6b69_7373_7370_6c31; // "kissspl1"
const OPEN: u64 = 1;
const CLOSED: u64 = 0;
/// Magic, state, device, inode, size: eight bytes each; then a byte for the length of the name, and the name.
const RECORD: usize = 5 * 8 + 1 + 255;

/// The journal, the sink, and the scratch pipe.
#[derive(Debug)]
pub(super) struct Spool {
    journal: OwnedFd,
    /// One descriptor, open for reading and writing.
    sink: OwnedFd,
    scratch_in: OwnedFd,
    scratch_out: OwnedFd,
    null: OwnedFd,
}

/// The state of a log file before a chunk is written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Before<'a> {
    /// Whose.
    pub(super) instance: &'a str,
    /// Device and inode.
    pub(super) file: (u64, u64),
    /// Size in bytes.
    pub(super) size: u64,
}

impl Spool {
    /// A new spool, or a predecessor's, whose unfinished chunk is undone in the files under `log_dir`.
    pub(super) fn open(kept: Vec<OwnedFd>, log_dir: &Path) -> Result<Self> {
        let wrong = |e: Errno| Error::io("set up the spool of the output capture")(e);
        let (mut journal, mut sink) = (None, None);
        for fd in kept {
            match FileType::from_raw_mode(rustix::fs::fstat(&fd).map_err(wrong)?.st_mode) {
                FileType::Fifo => sink = Some(fd),
                FileType::RegularFile => journal = Some(fd),
                _ => {}
            }
        }
        let (journal, sink, inherited) = match (journal, sink) {
            (Some(journal), Some(sink)) => (journal, sink, true),
            _ => (
                rustix::fs::memfd_create("kissops-journal", MemfdFlags::CLOEXEC).map_err(wrong)?,
                two_way_pipe().map_err(wrong)?,
                false,
            ),
        };
        let (scratch_out, scratch_in) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(wrong)?;
        match_sizes(&scratch_in, &sink).map_err(wrong)?;
        let null = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(wrong)?;
        let spool = Self { journal, sink, scratch_in, scratch_out, null };
        if inherited {
            spool.recover(log_dir)?;
        }
        spool.close_record().map_err(wrong)?;
        spool.empty_sink().map_err(wrong)?;
        Ok(spool)
    }

    /// The two descriptors that must outlive this process.
    pub(super) fn kept(&self) -> [BorrowedFd<'_>; 2] {
        [self.journal.as_fd(), self.sink.as_fd()]
    }

    /// Reads up to `limit` bytes from the head of `pipe` into `buf` without taking them.
    /// `Ok(0)`: the end of the pipe. [`Errno::AGAIN`]: nothing there now.
    pub(super) fn peek(
        &self,
        pipe: &OwnedFd,
        limit: usize,
        buf: &mut Vec<u8>,
    ) -> Result<usize, Errno> {
        buf.clear();
        let copied = rustix::pipe::tee(pipe, &self.scratch_in, limit, SpliceFlags::NONBLOCK)?;
        buf.reserve(copied);
        while buf.len() < copied {
            let left = copied - buf.len();
            match rustix::io::read(&self.scratch_out, rustix::buffer::spare_capacity(buf)) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => {
                    tracing::error!(left, error = %e, "the scratch pipe gave less than it got");
                    return Err(e);
                }
            }
        }
        Ok(buf.len())
    }

    /// Notes the state of the log file: from here to [`take`](Self::take) a successor would restore it.
    pub(super) fn begin(&self, before: Before<'_>) -> Result<(), Errno> {
        self.write_record(&encode(before))
    }

    /// Takes the first `bytes` bytes out of `pipe`: what was begun is done.
    pub(super) fn take(&self, pipe: &OwnedFd, bytes: usize) -> Result<(), Errno> {
        let mut left = bytes;
        while left > 0 {
            match rustix::pipe::splice(pipe, None, &self.sink, None, left, SpliceFlags::NONBLOCK) {
                // Not reached, see the module's documentation; should a kernel move less at once, the rest follows.
                Ok(moved) if moved < left && moved > 0 => {
                    left -= moved;
                    self.empty_sink()?;
                }
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(e) => {
                    self.close_record()?;
                    return Err(e);
                }
            }
        }
        self.close_record()?;
        self.empty_sink()
    }

    fn close_record(&self) -> Result<(), Errno> {
        let mut record = [0; 16];
        record[..8].copy_from_slice(&MAGIC.to_le_bytes());
        record[8..].copy_from_slice(&CLOSED.to_le_bytes());
        self.write_record(&record)
    }

    fn write_record(&self, record: &[u8]) -> Result<(), Errno> {
        match rustix::io::pwrite(&self.journal, record, 0)? {
            written if written == record.len() => Ok(()),
            _ => Err(Errno::NOSPC),
        }
    }

    fn empty_sink(&self) -> Result<(), Errno> {
        loop {
            match rustix::pipe::splice(
                &self.sink,
                None,
                &self.null,
                None,
                PIPE_MAX,
                SpliceFlags::NONBLOCK,
            ) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {
                    if rustix::io::ioctl_fionread(&self.sink)? == 0 {
                        return Ok(());
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Undoes the chunk that a predecessor died in, unless it was done.
    fn recover(&self, log_dir: &Path) -> Result<()> {
        let mut record = [0; RECORD];
        let wrong = |e: Errno| Error::io("read the journal of the output capture")(e);
        let length = rustix::io::pread(&self.journal, &mut record, 0).map_err(wrong)?;
        let taken = rustix::io::ioctl_fionread(&self.sink).map_err(wrong)?;
        let Some(before) = record.get(..length).and_then(decode) else { return Ok(()) };
        if taken > 0 {
            return Ok(());
        }
        let Ok(name) = InstanceName::new(before.instance) else { return Ok(()) };
        let path = log_dir.join(name.as_str()).join("current");
        match restore(&path, before) {
            Ok(()) => Ok(()),
            // The file is gone, with it what was written.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => {
                // A doubled chunk is the lesser evil: the bots' output goes on.
                tracing::error!(path = %path.display(), error = %e, "an unfinished write to a log could not be undone: some lines may be there twice");
                Ok(())
            }
        }
    }
}

fn restore(path: &Path, before: Before<'_>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let now = file.metadata()?;
    if (now.dev(), now.ino()) == before.file && now.len() > before.size {
        file.set_len(before.size)?;
    }
    Ok(())
}

/// A pipe with both ends in one descriptor.
fn two_way_pipe() -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd as _;
    let (out, _in) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // A pipe opened through /proc gets any mode that is asked for (fifo(7): O_RDWR succeeds on Linux).
    let path = format!("/proc/self/fd/{}", out.as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// Gives both pipes as many slots as can be had; the sink never fewer than the scratch pipe.
fn match_sizes(scratch: &OwnedFd, sink: &OwnedFd) -> Result<(), Errno> {
    // Refused to an unprivileged user with many pipes; the sizes in force are what counts.
    let _ = rustix::pipe::fcntl_setpipe_size(sink, PIPE_MAX);
    let size = rustix::pipe::fcntl_getpipe_size(sink)?;
    if rustix::pipe::fcntl_setpipe_size(scratch, size).is_err() {
        let size = rustix::pipe::fcntl_getpipe_size(scratch)?;
        if rustix::pipe::fcntl_getpipe_size(sink)? < size {
            return Err(Errno::PERM);
        }
    }
    Ok(())
}

fn encode(before: Before<'_>) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD);
    for number in [MAGIC, OPEN, before.file.0, before.file.1, before.size] {
        record.extend_from_slice(&number.to_le_bytes());
    }
    // An instance's name has at most 129 bytes.
    record.push(u8::try_from(before.instance.len()).unwrap_or(0));
    record.extend_from_slice(before.instance.as_bytes());
    record
}

/// The record, if it is an open one.
fn decode(record: &[u8]) -> Option<Before<'_>> {
    let number = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(record.get(at * 8..at * 8 + 8)?.try_into().ok()?))
    };
    if number(0)? != MAGIC || number(1)? != OPEN {
        return None;
    }
    let length = usize::from(*record.get(40)?);
    let instance = std::str::from_utf8(record.get(41..41 + length)?).ok()?;
    Some(Before { instance, file: (number(2)?, number(3)?), size: number(4)? })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn dup(spool: &Spool) -> Vec<OwnedFd> {
        spool.kept().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect()
    }

    #[test]
    fn each_state_that_a_death_leaves_is_set_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web");
        std::fs::create_dir(&path).unwrap();
        let path = path.join("current");
        std::fs::write(&path, "old\nhalf").unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        let before = Before { instance: "web", file: (meta.dev(), meta.ino()), size: 4 };
        let (out, pipe_in) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut writer = std::fs::File::from(pipe_in);
        writer.write_all(b"half a line\nrest").unwrap();

        // Died while writing: undone, and the bytes are still in the pipe.
        let first = Spool::open(Vec::new(), dir.path()).unwrap();
        let mut seen = Vec::new();
        assert_eq!(first.peek(&out, 1000, &mut seen).unwrap(), 16);
        first.begin(before).unwrap();
        let second = Spool::open(dup(&first), dir.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old\n");
        assert_eq!(second.peek(&out, 1000, &mut seen).unwrap(), 16);

        // Died after the bytes were taken: the file stays as it is.
        std::fs::write(&path, "old\nhalf a line\n").unwrap();
        second.begin(before).unwrap();
        rustix::pipe::splice(&out, None, &second.sink, None, 12, SpliceFlags::NONBLOCK).unwrap();
        let third = Spool::open(dup(&second), dir.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old\nhalf a line\n");
        assert_eq!(rustix::io::ioctl_fionread(&third.sink).unwrap(), 0);

        // A later death outside of a chunk changes nothing; another file of that name is left alone.
        drop(Spool::open(dup(&third), dir.path()).unwrap());
        third.begin(Before { file: (meta.dev(), meta.ino() + 1), ..before }).unwrap();
        drop(Spool::open(dup(&third), dir.path()).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"old\nhalf a line\n");
        third.take(&out, 4).unwrap();
        drop(writer);
        let mut rest = String::new();
        std::fs::File::from(out).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}
