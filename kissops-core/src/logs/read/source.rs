//! The files of one instance: forwards, and from their end.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Deserialize;

use super::{LogLine, LogQuery};
use crate::{
    Error, Result, Timestamp,
    id::InstanceName,
    logs::{LogStream, file},
};

const BLOCK: usize = 64 << 10;
/// A line of raw output beyond this is given in pieces.
const LONGEST: usize = 1 << 20;
/// So many lines in a row before `since` end a search backwards; fewer may be a clock that stepped back.
const OLD_LINES: u32 = 1_000;

/// The files of one instance at one moment.
#[derive(Debug)]
pub(super) struct FileSet {
    pub(super) instance: InstanceName,
    pub(super) dir: PathBuf,
    /// Oldest first, with the time at which each was closed.
    pub(super) rotated: Vec<(Timestamp, PathBuf)>,
    pub(super) current: Option<Current>,
}

/// The file that is written to, as it was when it was opened.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) file: File,
    pub(super) id: (u64, u64),
    pub(super) size: u64,
    modified: Timestamp,
}

impl FileSet {
    pub(super) fn open(instance: &InstanceName, dir: PathBuf) -> Result<Self> {
        let wrong = |e: io::Error| Error::io(format!("read the logs in {}", dir.display()))(e);
        loop {
            let current = open_current(&dir).map_err(wrong)?;
            let rotated = list(&dir).map_err(wrong)?;
            // If it was rotated meanwhile, it may be in the list: once more.
            let id = current.as_ref().map(|c| c.id);
            if named_id(&dir) == id {
                return Ok(Self { instance: instance.clone(), dir, rotated, current });
            }
        }
    }

    /// The last `count` lines that fit, in order.
    pub(super) fn last(&self, count: usize, query: &LogQuery) -> Result<Vec<LogLine>> {
        let mut found = VecDeque::new();
        if count == 0 {
            return Ok(Vec::new());
        }
        if let Some(current) = &self.current {
            let mut back = Backward { query, found: &mut found, count, old: 0, set: self };
            let read = back.plain(&current.file, current.size, current.modified);
            if self.worth(read, &self.dir.join(file::CURRENT))? {
                return Ok(found.into());
            }
        }
        for (end, path) in self.rotated.iter().rev() {
            if found.len() >= count || query.since.is_some_and(|since| *end < since) {
                break;
            }
            let mut back = Backward { query, found: &mut found, count, old: 0, set: self };
            let done = if is_compressed(path) {
                back.compressed(path, *end).map(|()| false)
            } else {
                match File::open(path) {
                    Ok(opened) => {
                        opened.metadata().and_then(|meta| back.plain(&opened, meta.len(), *end))
                    }
                    // Compressed since it was listed.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => back
                        .compressed(&path.with_extension(file::COMPRESSED), *end)
                        .map(|()| false),
                    Err(e) => Err(e),
                }
            };
            if self.worth(done, path)? {
                break;
            }
        }
        Ok(found.into())
    }

    /// A file that was deleted by retention while it was looked for is no error.
    fn worth(&self, read: io::Result<bool>, path: &Path) -> Result<bool> {
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map_err(Error::io(format!(
                "read the log {} of `{}`",
                path.display(),
                self.instance
            ))),
        }
    }
}

/// Collects fitting lines from the end.
struct Backward<'a> {
    query: &'a LogQuery,
    found: &'a mut VecDeque<LogLine>,
    count: usize,
    old: u32,
    set: &'a FileSet,
}

impl Backward<'_> {
    /// Reads a file that is not compressed; `Ok(true)`: enough.
    fn plain(&mut self, from: &File, size: u64, fallback: Timestamp) -> io::Result<bool> {
        let mut position = size;
        // What was read of a line whose start stands further ahead.
        let mut tail: Vec<u8> = Vec::new();
        let mut at_end = true;
        while position > 0 {
            let length = usize::try_from(position).unwrap_or(BLOCK).min(BLOCK);
            position -= length as u64;
            let mut block = vec![0; length];
            from.read_exact_at(&mut block, position)?;
            if at_end && block.last() == Some(&b'\n') {
                block.pop();
            }
            at_end = false;
            block.append(&mut tail);
            let mut end = block.len();
            for newline in memchr::memrchr_iter(b'\n', &block) {
                let line = block.get(newline + 1..end).unwrap_or_default();
                if self.take(line, fallback) {
                    return Ok(true);
                }
                end = newline;
            }
            block.truncate(end);
            if block.len() > LONGEST {
                if self.take(&block, fallback) {
                    return Ok(true);
                }
                block.clear();
            }
            tail = block;
        }
        Ok(size > 0 && self.take(&tail, fallback))
    }

    /// Adds a line, later ones being there; `true`: enough.
    fn take(&mut self, line: &[u8], fallback: Timestamp) -> bool {
        let line = parse(line, &self.set.instance, fallback);
        self.old =
            if self.query.since.is_some_and(|since| line.at < since) { self.old + 1 } else { 0 };
        if self.query.fits(&line) {
            self.found.push_front(line);
        }
        self.found.len() >= self.count || self.old > OLD_LINES
    }

    /// Reads a compressed file, which goes forwards only, and keeps as many of its last lines as are wanted.
    fn compressed(&mut self, path: &Path, end: Timestamp) -> io::Result<()> {
        let wanted = self.count - self.found.len();
        let mut last = VecDeque::new();
        let mut lines = Lines::open(path, end, &self.set.instance)?;
        while let Some(line) = lines.next_line() {
            if self.query.fits(&line) || lines.is_broken() {
                last.push_back(line);
                if last.len() > wanted {
                    last.pop_front();
                }
            }
        }
        last.extend(self.found.drain(..));
        *self.found = last;
        Ok(())
    }
}

/// All fitting lines, oldest first; opens one file at a time.
pub(super) struct Forward {
    query: LogQuery,
    instance: InstanceName,
    rotated: VecDeque<(Timestamp, PathBuf)>,
    current: Option<Lines>,
    open: Option<Lines>,
}

impl Forward {
    pub(super) fn new(set: &FileSet, query: LogQuery) -> Result<Self> {
        let mut rotated: VecDeque<_> = set.rotated.clone().into();
        rotated.retain(|(end, _)| query.since.is_none_or(|since| *end >= since));
        let current = match &set.current {
            Some(current) => Some(
                Lines::of_current(current, &set.instance)
                    .map_err(Error::io(format!("read the log of `{}`", set.instance)))?,
            ),
            None => None,
        };
        Ok(Self { query, instance: set.instance.clone(), rotated, current, open: None })
    }

    fn next_file(&mut self) -> Option<Lines> {
        let Some((end, path)) = self.rotated.pop_front() else { return self.current.take() };
        // A later file holds later lines only.
        if self.query.until.is_some_and(|until| end > until) {
            self.rotated.clear();
            self.current = None;
        }
        match Lines::open(&path, end, &self.instance) {
            // Compressed meanwhile, or deleted by retention.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let packed = path.with_extension(file::COMPRESSED);
                Lines::open(&packed, end, &self.instance)
                    .or_else(|_| Ok::<_, io::Error>(Lines::nothing(&self.instance)))
                    .ok()
            }
            Err(e) => Some(Lines::broken(&path, &e, end, &self.instance)),
            Ok(lines) => Some(lines),
        }
    }
}

impl Iterator for Forward {
    type Item = LogLine;

    fn next(&mut self) -> Option<LogLine> {
        loop {
            if self.open.is_none() {
                self.open = Some(self.next_file()?);
            }
            let lines = self.open.as_mut()?;
            match lines.next_line() {
                Some(line) if self.query.fits(&line) || lines.is_broken() => return Some(line),
                Some(_) => {}
                None => self.open = None,
            }
        }
    }
}

/// The lines of one file.
pub(super) struct Lines {
    from: Box<dyn BufRead + Send>,
    instance: InstanceName,
    path: PathBuf,
    /// The time of lines without one: that of the line before, at first the file's.
    at: Timestamp,
    broken: Option<String>,
    buffer: Vec<u8>,
}

impl Lines {
    /// Opens a rotated file.
    pub(super) fn open(path: &Path, end: Timestamp, instance: &InstanceName) -> io::Result<Self> {
        let file = File::open(path)?;
        let from: Box<dyn BufRead + Send> = if is_compressed(path) {
            Box::new(BufReader::new(zstd::Decoder::new(file)?))
        } else {
            Box::new(BufReader::with_capacity(BLOCK, file))
        };
        Ok(Self::new(from, path, end, instance))
    }

    fn of_current(current: &Current, instance: &InstanceName) -> io::Result<Self> {
        // A clone shares its position, so it reads by place.
        let file = At { file: current.file.try_clone()?, place: 0 };
        let from = Box::new(BufReader::with_capacity(BLOCK, file.take(current.size)));
        Ok(Self::new(from, Path::new(file::CURRENT), current.modified, instance))
    }

    fn broken(path: &Path, error: &io::Error, at: Timestamp, instance: &InstanceName) -> Self {
        let mut lines = Self::new(Box::new(io::empty()), path, at, instance);
        lines.broken = Some(error.to_string());
        lines
    }

    fn nothing(instance: &InstanceName) -> Self {
        Self::new(Box::new(io::empty()), Path::new(""), Timestamp::default(), instance)
    }

    fn new(
        from: Box<dyn BufRead + Send>,
        path: &Path,
        at: Timestamp,
        instance: &InstanceName,
    ) -> Self {
        let (path, instance) = (path.to_owned(), instance.clone());
        Self { from, instance, path, at, broken: None, buffer: Vec::new() }
    }

    /// The line just given tells of damage.
    fn is_broken(&self) -> bool {
        self.path.as_os_str().is_empty() && self.at.0 == i64::MAX
    }

    pub(super) fn next_line(&mut self) -> Option<LogLine> {
        self.buffer.clear();
        if self.broken.is_none() {
            let read = (&mut self.from).take(LONGEST as u64).read_until(b'\n', &mut self.buffer);
            if let Err(e) = read {
                self.broken = Some(e.to_string());
            }
        }
        if let Some(why) = self.broken.take() {
            let line = format!(
                "kissops: {} is damaged, some lines are missing: {why}",
                self.path.display()
            );
            let at = self.at;
            // Marks the end: nothing more can be read.
            (self.from, self.path, self.at) =
                (Box::new(io::empty()), PathBuf::new(), Timestamp(i64::MAX));
            let stream = LogStream::Stderr;
            return Some(LogLine {
                at,
                instance: self.instance.clone(),
                stream,
                line,
                partial: false,
            });
        }
        if self.buffer.is_empty() {
            return None;
        }
        let text = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let line = parse(text, &self.instance, self.at);
        self.at = line.at;
        Some(line)
    }
}

/// A file that is read without moving a position that others share.
struct At {
    file: File,
    place: u64,
}

impl Read for At {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}

/// A line of a file in any of the formats, told by its beginning; `fallback` is the time of one without a stamp.
pub(super) fn parse(line: &[u8], instance: &InstanceName, fallback: Timestamp) -> LogLine {
    #[derive(Deserialize)]
    struct Json {
        at: Timestamp,
        stream: LogStream,
        #[serde(default)]
        partial: bool,
        line: String,
    }
    let instance = instance.clone();
    if line.starts_with(b"{\"at\":\"")
        && let Ok(Json { at, stream, partial, line }) = serde_json::from_slice(line)
    {
        return LogLine { at, instance, stream, line, partial };
    }
    if let Some((at, stream, partial, text)) = parse_text(line) {
        let line = String::from_utf8_lossy(text).into_owned();
        return LogLine { at, instance, stream, line, partial };
    }
    let line = String::from_utf8_lossy(line).into_owned();
    LogLine { at: fallback, instance, stream: LogStream::Stdout, line, partial: false }
}

fn parse_text(line: &[u8]) -> Option<(Timestamp, LogStream, bool, &[u8])> {
    let (stamp, rest) = line.split_at_checked(27)?;
    let (stream, rest) = match rest {
        [b' ', b'O', rest @ ..] => (LogStream::Stdout, rest),
        [b' ', b'E', rest @ ..] => (LogStream::Stderr, rest),
        _ => return None,
    };
    let (partial, text) = match rest {
        [b'+', b' ', text @ ..] => (true, text),
        [b' ', text @ ..] => (false, text),
        _ => return None,
    };
    Some((std::str::from_utf8(stamp).ok()?.parse().ok()?, stream, partial, text))
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "zst")
}

/// The rotated files, oldest first; one that is just being compressed, once.
pub(super) fn list(dir: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if let Some(end) = entry.file_name().to_str().and_then(file::rotated_at) {
            found.push((end, entry.path()));
        }
    }
    // `x.log` sorts before `x.log.zst`.
    found.sort();
    found.dedup_by_key(|(end, _)| *end);
    Ok(found)
}

pub(super) fn open_current(dir: &Path) -> io::Result<Option<Current>> {
    let file = match File::open(dir.join(file::CURRENT)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let meta = file.metadata()?;
    let modified = Timestamp::from(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    Ok(Some(Current { file, id: (meta.dev(), meta.ino()), size: meta.len(), modified }))
}

/// Device and inode of what is `current` now.
pub(super) fn named_id(dir: &Path) -> Option<(u64, u64)> {
    fs::metadata(dir.join(file::CURRENT)).ok().map(|meta| (meta.dev(), meta.ino()))
}
