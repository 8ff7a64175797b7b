//! One instance's log file: opened when needed, rotated at a line's end.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::Timestamp;

/// The file that is written to.
pub(super) const CURRENT: &str = "current";
/// Ending of a rotated file that is not compressed.
pub(super) const ROTATED: &str = "log";
/// Ending of a rotated and compressed file.
pub(super) const COMPRESSED: &str = "log.zst";
/// How often an active file is compared with its name, lest somebody has moved or removed it.
const CHECK_EVERY: Duration = Duration::from_secs(2);
const DAY_US: i64 = 86_400_000_000;

/// A log folder and its open file.
#[derive(Debug)]
pub(super) struct LogFile {
    dir: PathBuf,
    open: Option<Open>,
    /// End of the newest rotated file, lest a clock that steps back makes names that sort wrongly.
    newest: Timestamp,
}

#[derive(Debug)]
struct Open {
    file: File,
    id: (u64, u64),
    size: u64,
    /// Day of the last write, counted from 1970.
    day: i64,
    checked: Timestamp,
    /// The last byte ends a line: only then may the file be rotated.
    whole: bool,
}

impl LogFile {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, open: None, newest: Timestamp(i64::MIN) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Device, inode and size of the open file.
    pub(super) fn state(&self) -> Option<((u64, u64), u64)> {
        self.open.as_ref().map(|open| (open.id, open.size))
    }

    /// Closes the file; the next write opens it again.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Opens the file if it is not open, or no longer what its name leads to. Gives its size.
    pub(super) fn ensure(&mut self, now: Timestamp) -> io::Result<u64> {
        if let Some(open) = &mut self.open {
            let age = now.since(open.checked).max(open.checked.since(now));
            if age < CHECK_EVERY {
                return Ok(open.size);
            }
            open.checked = now;
            match fs::symlink_metadata(self.dir.join(CURRENT)) {
                Ok(named) if (named.dev(), named.ino()) == open.id => {
                    open.size = named.len();
                    return Ok(open.size);
                }
                _ => self.open = None,
            }
        }
        let open = self.open_file(now)?;
        let size = open.size;
        self.open = Some(open);
        Ok(size)
    }

    fn open_file(&mut self, now: Timestamp) -> io::Result<Open> {
        let path = self.dir.join(CURRENT);
        let open = |mode: u32| {
            OpenOptions::new().read(true).append(true).create(true).mode(mode).open(&path)
        };
        let file = match open(self.file_mode()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_dir(&self.dir)?;
                open(self.file_mode())?
            }
            other => other?,
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if self.newest.0 == i64::MIN {
            self.newest = newest(&self.dir).unwrap_or_default();
        }
        let day = if meta.len() == 0 { day_of(now) } else { meta.mtime().div_euclid(86_400) };
        let mut last = [b'\n'];
        if let Some(at) = meta.len().checked_sub(1) {
            file.read_exact_at(&mut last, at)?;
        }
        let (id, size) = ((meta.dev(), meta.ino()), meta.len());
        Ok(Open { file, id, size, day, checked: now, whole: last == [b'\n'] })
    }

    /// Readable by the folder's group where the folder is.
    fn file_mode(&self) -> u32 {
        0o600 | fs::metadata(&self.dir).map_or(0, |dir| dir.mode() & 0o040)
    }

    /// The open file is to be rotated before a line of `now` is written to it.
    pub(super) fn is_due(&self, limit: u64, daily: bool, now: Timestamp) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let due = open.size >= limit || (daily && day_of(now) > open.day);
            // A line that fills a file of its own is torn, lest the file grow without end.
            let may = open.whole || open.size / 2 >= limit;
            open.size > 0 && due && may
        })
    }

    /// Gives the open file its final name. The next [`ensure`](Self::ensure) opens a new one.
    pub(super) fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let mut end = now.max(self.newest.plus(Duration::from_micros(1)));
        let mut to = self.dir.join(rotated_name(end));
        while to.exists() || to.with_extension(COMPRESSED).exists() {
            end = end.plus(Duration::from_micros(1));
            to = self.dir.join(rotated_name(end));
        }
        fs::rename(self.dir.join(CURRENT), &to)?;
        self.newest = end;
        self.open = None;
        Ok(())
    }

    /// Appends `lines`.
    ///
    /// # Errors
    /// What the system said, with how many bytes of `lines` are in the file all the same: whole lines only.
    pub(super) fn append(
        &mut self,
        lines: &[u8],
        now: Timestamp,
    ) -> Result<(), (usize, io::Error)> {
        let Some(open) = &mut self.open else {
            return Err((0, io::ErrorKind::NotFound.into()));
        };
        open.day = open.day.max(day_of(now));
        let mut done = 0;
        while let Some(rest) = lines.get(done..).filter(|rest| !rest.is_empty()) {
            match open.file.write(rest) {
                Ok(0) => {
                    return Err(self.keep_whole_lines(
                        lines,
                        done,
                        io::ErrorKind::WriteZero.into(),
                    ));
                }
                Ok(written) => done += written,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.keep_whole_lines(lines, done, e)),
            }
        }
        open.size += done as u64;
        open.whole = lines.last().is_none_or(|last| *last == b'\n');
        Ok(())
    }

    fn keep_whole_lines(
        &mut self,
        lines: &[u8],
        done: usize,
        why: io::Error,
    ) -> (usize, io::Error) {
        let kept =
            lines.get(..done).and_then(|part| memchr::memrchr(b'\n', part)).map_or(0, |at| at + 1);
        if let Some(open) = &mut self.open {
            open.size += kept as u64;
            // A device that fails to cut as it fails to write leaves half a line: nothing better can be had.
            let _ = open.file.set_len(open.size);
        }
        (kept, why)
    }
}

/// Day of a time, counted from 1970, UTC.
fn day_of(at: Timestamp) -> i64 {
    at.0.div_euclid(DAY_US)
}

/// Makes the folder of an instance's logs, and those above it: for the owner alone, unless the folder above is meant
/// for a group (closed to others, open to the group).
fn make_dir(dir: &Path) -> io::Result<()> {
    let mut mode = 0o700;
    if let Some(parent) = dir.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let wanted = fs::metadata(parent)?.mode();
        let others = wanted & 0o007;
        if others == 0 {
            mode |= wanted & 0o050;
        }
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// `20261120T030405.000006Z.log`: the time at which the file was closed. Sorts by it.
fn rotated_name(end: Timestamp) -> String {
    let stamp: String = end.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{stamp}.{ROTATED}")
}

/// The time in the name of a rotated file, compressed or not.
pub(super) fn rotated_at(name: &str) -> Option<Timestamp> {
    let stamp = name.strip_suffix(".log.zst").or_else(|| name.strip_suffix(".log"))?;
    let (date, time) = stamp.split_once('T')?;
    if date.len() != 8 || time.len() < 7 || !stamp.is_ascii() {
        return None;
    }
    let text = format!(
        "{}-{}-{}T{}:{}:{}",
        date.get(..4)?,
        date.get(4..6)?,
        date.get(6..)?,
        time.get(..2)?,
        time.get(2..4)?,
        time.get(4..)?
    );
    text.parse().ok()
}

fn newest(dir: &Path) -> Option<Timestamp> {
    let entries = fs::read_dir(dir).ok()?;
    entries.flatten().filter_map(|entry| rotated_at(entry.file_name().to_str()?)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_and_tell_their_time() {
        let at = Timestamp(1_795_000_000_000_006);
        let name = rotated_name(at);
        assert_eq!(rotated_at(&name), Some(at));
        assert_eq!(rotated_at(&format!("{name}.zst")), Some(at));
        for other in
            ["current", "x.log", ".x.tmp", "20261120T030405.000006Z", "2026112\u{e9}T030405.log"]
        {
            assert_eq!(rotated_at(other), None, "{other}");
        }
        assert!(name < rotated_name(at.plus(Duration::from_micros(1))));
    }

    #[test]
    fn a_clock_that_steps_back_keeps_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().join("web"));
        let late = Timestamp(1_795_000_000_000_000);
        for (now, text) in
            [(late, "1\n"), (late.minus(Duration::from_hours(9000)), "2\n"), (late, "3\n")]
        {
            log.ensure(now).unwrap();
            log.append(text.as_bytes(), now).unwrap();
            log.rotate(now).unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(log.dir()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let texts: String = names.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(texts, "1\n2\n3\n");
    }

    #[test]
    fn a_file_that_was_taken_away_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().join("web"));
        let mut now = Timestamp(0);
        log.ensure(now).unwrap();
        log.append(b"1\n", now).unwrap();
        let current = log.dir().join(CURRENT);
        assert_eq!(fs::metadata(&current).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(log.dir()).unwrap().mode() & 0o777, 0o700);
        fs::rename(&current, dir.path().join("away")).unwrap();
        now = now.plus(CHECK_EVERY);
        log.ensure(now).unwrap();
        log.append(b"2\n", now).unwrap();
        assert_eq!(fs::read(&current).unwrap(), b"2\n");
        fs::remove_dir_all(log.dir()).unwrap();
        now = now.plus(CHECK_EVERY);
        log.ensure(now).unwrap();
        log.append(b"3\n", now).unwrap();
        assert_eq!(fs::read(&current).unwrap(), b"3\n");
    }
}
