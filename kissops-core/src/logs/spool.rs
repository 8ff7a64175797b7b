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
//!    formatted. Nothing was taken.
//! 2. *Stage.* The chunk ends in the middle of a line, as a rule. That start of a line, the *carry*, is written to a
//!    free slot of the journal (a memfd). It cannot stay in the pipe: a writer that fills a pipe which was never empty
//!    goes to sleep without waking its reader (`pipe_write` in fs/pipe.c wakes only if the pipe was empty).
//! 3. *Open.* One `pwrite` to the journal notes the instance, the log file's identity and its size, the slot of the
//!    stream's carry so far and that of the new one.
//! 4. *Write* the formatted lines to the log file.
//! 5. *Take.* `splice(2)` moves exactly the peeked bytes from the bot's pipe into the *sink*, another pipe. Both pipes
//!    are locked while it moves, it waits for nothing, and the sink was empty with at least as many slots as the
//!    scratch pipe, through which the same bytes have just passed: so it moves all or nothing, and no signal divides it.
//! 6. *Settle.* The new carry's slot is marked valid, the old one free.
//! 7. *Close* the journal, then throw away what is in the sink.
//!
//! At the end of a pipe there is a carry but nothing to take; then freeing its slot is the step that counts.
//!
//! Journal and sink outlive the process, because the keeper holds both. A successor finds one of these states:
//!
//! | journal | sink empty and old carry not free | it died | what is done |
//! |---|---|---|---|
//! | closed | yes | outside of a chunk, or in 1 or 2 | nothing |
//! | open | yes | in 3, 4, or before 5 | the file is cut back to the noted size: the bytes are still in the pipe |
//! | open | no | after 5 | the lines are in the file, the bytes are gone: 6 and 7 are done again |
//! | closed | no | in 7 | the sink is emptied |
//!
//! In each, every byte is either in the pipe or carry, or in the file; never in both, never in neither. The journal's
//! record and a slot's mark are one `pwrite` within one page each, which a signal does not divide. Files are renamed
//! (rotation) only while the journal is closed, so the noted file is `current`; should somebody else have moved it, its
//! identity differs and it is left alone. A failed or short write (disk full) is handled inside step 4: the file is cut
//! to the lines that fit, the rest is counted as dropped, and step 5 takes all.
//!
//! This holds for the end of a process, not for the loss of power: the file's last seconds are then the file system's
//! affair, and the bots are gone as well.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, FileType, MemfdFlags, Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, SpliceFlags},
};

use super::LogStream;
use crate::{
    Error, Result,
    id::{InstanceName, RunId},
};

/// Largest capacity that an unprivileged process may give a pipe by default (`/proc/sys/fs/pipe-max-size`).
pub(super) const PIPE_MAX: usize = 1 << 20;
const MAGIC: u64 = 0x6b69_7373_7370_6c31; // "kissspl1"
const OPEN: u64 = 1;
const CLOSED: u64 = 0;
/// Magic, state, device, inode, size, old slot, new slot: eight bytes each; then a byte for the length of the name, and
/// the name.
const HEAD: usize = 7 * 8;
const RECORD: usize = HEAD + 1 + 255;
/// Slots begin here; each has room for a head and the longest carry. The file is sparse.
const SLOTS: u64 = 4096;
const SLOT: u64 = 512 << 10;
/// State, run, stream, length: eight bytes each, then the carry.
const SLOT_HEAD: usize = 4 * 8;
const NONE: u64 = u64::MAX;
const FREE: u64 = 0;
const STAGED: u64 = 1;
const VALID: u64 = 2;
/// The pages of a slot that held more than this are given back when it becomes free.
const LARGE: usize = 32 << 10;

/// The journal, the sink, and the scratch pipe.
#[derive(Debug)]
pub(super) struct Spool {
    journal: OwnedFd,
    /// One descriptor, open for reading and writing.
    sink: OwnedFd,
    scratch_in: OwnedFd,
    scratch_out: OwnedFd,
    null: OwnedFd,
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    count: u64,
    free: Vec<u64>,
    /// What a predecessor left, until its run is attached.
    left: HashMap<(RunId, LogStream), Carry>,
}

/// The start of a line, and the slot that keeps it safe.
#[derive(Debug, Default)]
pub(super) struct Carry {
    pub(super) bytes: Vec<u8>,
    slot: Option<u64>,
}

/// A chunk that is being written.
#[derive(Debug)]
pub(super) struct Chunk {
    old: Option<u64>,
    new: Option<u64>,
}

impl Chunk {
    /// A chunk that was not begun: a successor would not undo it.
    pub(super) fn unprotected(carry: &Carry) -> Self {
        Self { old: carry.slot, new: None }
    }
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

impl Before<'static> {
    /// No file is written.
    pub(super) const NOTHING: Self = Self { instance: "", file: (0, 0), size: 0 };
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
        let slots = RefCell::default();
        let spool = Self { journal, sink, scratch_in, scratch_out, null, slots };
        if inherited {
            spool.recover(log_dir)?;
        }
        spool.close_record().map_err(wrong)?;
        spool.empty_sink().map_err(wrong)?;
        spool.load_slots().map_err(wrong)?;
        Ok(spool)
    }

    /// The two descriptors that must outlive this process.
    pub(super) fn kept(&self) -> [BorrowedFd<'_>; 2] {
        [self.journal.as_fd(), self.sink.as_fd()]
    }

    /// The start of a line that a predecessor had taken from this stream.
    pub(super) fn carry_of(&self, run: RunId, stream: LogStream) -> Carry {
        self.slots.borrow_mut().left.remove(&(run, stream)).unwrap_or_default()
    }

    /// Appends up to `limit` bytes from the head of `pipe` to `buf` without taking them, and gives their number.
    /// `Ok(0)`: the end of the pipe. [`Errno::AGAIN`]: nothing there now.
    pub(super) fn peek(
        &self,
        pipe: &OwnedFd,
        limit: usize,
        buf: &mut Vec<u8>,
    ) -> Result<usize, Errno> {
        let copied = rustix::pipe::tee(pipe, &self.scratch_in, limit, SpliceFlags::NONBLOCK)?;
        buf.reserve(copied);
        let mut left = copied;
        while left > 0 {
            match rustix::io::read(&self.scratch_out, rustix::buffer::spare_capacity(buf)) {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(copied)
    }

    /// Begins a chunk: from here until [`commit`](Self::commit) a successor would undo it. `rest` is the start of a
    /// line that follows what is about to be written.
    pub(super) fn begin(
        &self,
        before: Before<'_>,
        (run, stream): (RunId, LogStream),
        carry: &Carry,
        rest: &[u8],
    ) -> Result<Chunk, Errno> {
        let new = if rest.is_empty() { None } else { Some(self.stage(run, stream, rest)?) };
        let chunk = Chunk { old: carry.slot, new };
        self.write_record(&encode(before, &chunk))?;
        Ok(chunk)
    }

    /// Takes `bytes` bytes out of `pipe`, and makes `rest` the carry: what was begun is done.
    pub(super) fn commit(
        &self,
        chunk: &Chunk,
        pipe: &OwnedFd,
        bytes: usize,
        carry: &mut Carry,
        rest: &[u8],
    ) -> Result<(), Errno> {
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
        let length = carry.bytes.len();
        self.settle(chunk.old, chunk.new)?;
        carry.slot = chunk.new;
        carry.bytes.clear();
        carry.bytes.extend_from_slice(rest);
        if rest.is_empty() {
            carry.bytes = Vec::new();
        }
        self.close_record()?;
        if let Some(old) = chunk.old {
            if length > LARGE {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = rustix::fs::fallocate(&self.journal, flags, place(old), SLOT);
            }
            self.slots.borrow_mut().free.push(old);
        }
        self.empty_sink()
    }

    /// Forgets a carry that nobody will ask for.
    pub(super) fn discard(&self, carry: &Carry) {
        if let Some(slot) = carry.slot
            && self.settle(Some(slot), None).is_ok()
        {
            self.slots.borrow_mut().free.push(slot);
        }
    }

    /// Writes a carry to a free slot.
    fn stage(&self, run: RunId, stream: LogStream, bytes: &[u8]) -> Result<u64, Errno> {
        let slot = {
            let mut slots = self.slots.borrow_mut();
            slots.free.pop().unwrap_or_else(|| {
                slots.count += 1;
                slots.count - 1
            })
        };
        let mut text = Vec::with_capacity(SLOT_HEAD + bytes.len());
        text.extend_from_slice(&STAGED.to_le_bytes());
        text.extend_from_slice(&run.0.to_le_bytes());
        text.extend_from_slice(&(stream as u64).to_le_bytes());
        text.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        text.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(rest) = text.get(done..).filter(|rest| !rest.is_empty()) {
            done += rustix::io::pwrite(&self.journal, rest, place(slot) + done as u64)?;
        }
        Ok(slot)
    }

    /// Marks the new slot valid, then the old one free. May be repeated.
    fn settle(&self, old: Option<u64>, new: Option<u64>) -> Result<(), Errno> {
        if let Some(new) = new {
            rustix::io::pwrite(&self.journal, &VALID.to_le_bytes(), place(new))?;
        }
        if let Some(old) = old {
            rustix::io::pwrite(&self.journal, &FREE.to_le_bytes(), place(old))?;
        }
        Ok(())
    }

    fn load_slots(&self) -> Result<(), Errno> {
        let size = u64::try_from(rustix::fs::fstat(&self.journal)?.st_size).unwrap_or(0);
        let mut slots = self.slots.borrow_mut();
        slots.count = size.saturating_sub(SLOTS).div_ceil(SLOT);
        for slot in 0..slots.count {
            let mut head = [0; SLOT_HEAD];
            let read = rustix::io::pread(&self.journal, &mut head, place(slot))?;
            let number = |at| number(&head, at).unwrap_or(0);
            if read < SLOT_HEAD || number(0) != VALID {
                slots.free.push(slot);
                continue;
            }
            let length = usize::try_from(number(3).min(SLOT - SLOT_HEAD as u64)).unwrap_or(0);
            let mut bytes = Vec::with_capacity(length);
            while bytes.len() < length {
                let from = place(slot) + (SLOT_HEAD + bytes.len()) as u64;
                if rustix::io::pread(
                    &self.journal,
                    rustix::buffer::spare_capacity(&mut bytes),
                    from,
                )? == 0
                {
                    break;
                }
            }
            bytes.truncate(length);
            let run = RunId(number(1).cast_signed());
            let stream = if number(2) == LogStream::Stdout as u64 {
                LogStream::Stdout
            } else {
                LogStream::Stderr
            };
            slots.left.insert((run, stream), Carry { bytes, slot: Some(slot) });
        }
        Ok(())
    }

    fn is_free(&self, slot: u64) -> Result<bool, Errno> {
        let mut state = [0; 8];
        rustix::io::pread(&self.journal, &mut state, place(slot))?;
        Ok(u64::from_le_bytes(state) == FREE)
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
        let Some((before, chunk)) = record.get(..length).and_then(decode) else { return Ok(()) };
        let carry_gone = match chunk.old {
            Some(old) => self.is_free(old).map_err(wrong)?,
            None => false,
        };
        if taken > 0 || carry_gone {
            return self.settle(chunk.old, chunk.new).map_err(wrong);
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

fn place(slot: u64) -> u64 {
    SLOTS + slot * SLOT
}

fn encode(before: Before<'_>, chunk: &Chunk) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD);
    let (old, new) = (chunk.old.unwrap_or(NONE), chunk.new.unwrap_or(NONE));
    for number in [MAGIC, OPEN, before.file.0, before.file.1, before.size, old, new] {
        record.extend_from_slice(&number.to_le_bytes());
    }
    // An instance's name has at most 129 bytes.
    record.push(u8::try_from(before.instance.len()).unwrap_or(0));
    record.extend_from_slice(before.instance.as_bytes());
    record
}

/// The `index`th number of eight bytes.
fn number(record: &[u8], index: usize) -> Option<u64> {
    Some(u64::from_le_bytes(record.get(index * 8..index * 8 + 8)?.try_into().ok()?))
}

/// The record, if it is an open one.
fn decode(record: &[u8]) -> Option<(Before<'_>, Chunk)> {
    let number = |index| number(record, index);
    if number(0)? != MAGIC || number(1)? != OPEN {
        return None;
    }
    let slot = |index| number(index).filter(|slot| *slot != NONE);
    let length = usize::from(*record.get(HEAD)?);
    let instance = std::str::from_utf8(record.get(HEAD + 1..HEAD + 1 + length)?).ok()?;
    let before = Before { instance, file: (number(2)?, number(3)?), size: number(4)? };
    Some((before, Chunk { old: slot(5), new: slot(6) }))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const STREAM: (RunId, LogStream) = (RunId(7), LogStream::Stderr);

    fn reopen(spool: &Spool, dir: &Path) -> Spool {
        let kept = spool.kept().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        Spool::open(kept, dir).unwrap()
    }

    fn peeked(spool: &Spool, pipe: &OwnedFd) -> String {
        let mut seen = Vec::new();
        let _ = spool.peek(pipe, 1000, &mut seen);
        String::from_utf8(seen).unwrap()
    }

    #[test]
    fn each_state_that_a_death_leaves_is_set_right() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("web")).unwrap();
        let path = dir.path().join("web/current");
        std::fs::write(&path, "old\nhalf").unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        let before = Before { instance: "web", file: (meta.dev(), meta.ino()), size: 4 };
        let (out, pipe_in) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut writer = std::fs::File::from(pipe_in);
        writer.write_all(b"a line\nrest").unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();

        // Died while writing: undone, the bytes are still in the pipe, there is no carry.
        let spool = Spool::open(Vec::new(), dir.path()).unwrap();
        assert_eq!(peeked(&spool, &out), "a line\nrest");
        spool.begin(before, STREAM, &Carry::default(), b"rest").unwrap();
        let spool = reopen(&spool, dir.path());
        assert_eq!(read(), "old\n");
        assert_eq!(peeked(&spool, &out), "a line\nrest");
        assert_eq!(spool.carry_of(STREAM.0, STREAM.1).bytes, b"");

        // Died right after the bytes were taken: the file stays, the carry is there.
        spool.begin(before, STREAM, &Carry::default(), b"rest").unwrap();
        std::fs::write(&path, "old\na line\n").unwrap();
        rustix::pipe::splice(&out, None, &spool.sink, None, 11, SpliceFlags::NONBLOCK).unwrap();
        let spool = reopen(&spool, dir.path());
        assert_eq!((read().as_str(), peeked(&spool, &out).as_str()), ("old\na line\n", ""));
        let mut carry = spool.carry_of(STREAM.0, STREAM.1);
        assert_eq!(carry.bytes, b"rest");

        // Died while the carry was written at the end of the pipe: undone, it is there again.
        let before = Before { size: 11, ..before };
        spool.begin(before, STREAM, &carry, b"").unwrap();
        std::fs::write(&path, "old\na line\nre").unwrap();
        let again = reopen(&spool, dir.path());
        assert_eq!(read(), "old\na line\n");
        assert_eq!(again.carry_of(STREAM.0, STREAM.1).bytes, b"rest");

        // Died just after: done.
        let chunk = again.begin(before, STREAM, &carry, b"").unwrap();
        std::fs::write(&path, "old\na line\nrest\n").unwrap();
        again.settle(chunk.old, chunk.new).unwrap();
        let last = reopen(&again, dir.path());
        assert_eq!(read(), "old\na line\nrest\n");
        assert_eq!(last.carry_of(STREAM.0, STREAM.1).bytes, b"");

        // A file of another identity is left alone.
        carry = Carry::default();
        let other = Before { file: (meta.dev(), meta.ino() + 1), size: 4, ..before };
        last.begin(other, STREAM, &carry, b"").unwrap();
        reopen(&last, dir.path());
        assert_eq!(read(), "old\na line\nrest\n");
        assert_eq!(last.commit(&Chunk { old: None, new: None }, &out, 0, &mut carry, b""), Ok(()));
    }
}
