//! What `/proc/PID/stat` says, read without allocation; see `proc_pid_stat(5)`.

use std::{
    io::{self, Write as _},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

/// One process as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    /// `R`, `S`, `D`, `T`, `Z`, …
    pub(crate) state: u8,
    pub(crate) ppid: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// User and system time of its threads, in clock ticks.
    pub(crate) cpu_ticks: u64,
    pub(crate) threads: u32,
    /// Clock ticks from boot to its start.
    pub(crate) start_ticks: u64,
    /// Resident pages.
    pub(crate) rss_pages: u64,
}

impl Stat {
    /// It has ended and only waits to be reaped.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Parses one line. The name in it may hold anything, parentheses too: what counts is the last one.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let end = memchr::memrchr(b')', line)?;
        let pid = number(line.split(|byte| *byte == b' ').next()?)?;
        let mut fields = line.get(end + 2..)?.split(|byte| *byte == b' ');
        let state = *fields.next()?.first()?;
        let mut at = 3_u32;
        let mut next = |field: u32| {
            let skip = field.checked_sub(at + 1)?;
            at = field;
            fields.nth(skip as usize)
        };
        Some(Self {
            pid: i32::try_from(pid).ok()?,
            state,
            ppid: i32::try_from(number(next(4)?)?).ok()?,
            group: i32::try_from(number(next(5)?)?).ok()?,
            session: i32::try_from(number(next(6)?)?).ok()?,
            cpu_ticks: number(next(14)?)?.saturating_add(number(next(15)?)?),
            threads: u32::try_from(number(next(20)?)?).unwrap_or(0),
            start_ticks: number(next(22)?)?,
            rss_pages: number(next(24)?)?,
        })
    }
}

fn number(text: &[u8]) -> Option<u64> {
    if text.first() == Some(&b'-') {
        // Groups and sessions of kernel threads seen from another namespace; resident pages for an instant.
        return Some(0);
    }
    std::str::from_utf8(text).ok()?.trim_end().parse().ok()
}

/// Reads small files below `/proc`, always into the same memory.
#[derive(Debug)]
pub(crate) struct Procfs {
    root: OwnedFd,
    path: Vec<u8>,
    text: Vec<u8>,
}

impl Procfs {
    /// # Errors
    /// Where `/proc` is not mounted.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(c"/proc", flags, Mode::empty())?;
        Ok(Self { root, path: Vec::with_capacity(64), text: vec![0; 1024] })
    }

    /// The process' `stat`; `None` if there is no such process.
    pub(crate) fn stat(&mut self, pid: i32) -> Option<Stat> {
        Stat::parse(self.read_line(pid, "stat").ok()?).filter(|stat| stat.pid == pid)
    }

    /// The same, telling "there is none" from "it cannot be told".
    pub(crate) fn try_stat(&mut self, pid: i32) -> io::Result<Option<Stat>> {
        match self.read_line(pid, "stat") {
            Ok(line) => Ok(Stat::parse(line).filter(|stat| stat.pid == pid)),
            Err(err) if matches!(Errno::from_io_error(&err), Some(Errno::NOENT | Errno::SRCH)) => {
                Ok(None)
            }
            Err(err) => Err(err),
        }
    }

    /// A file of one line, which the kernel gives in one piece.
    fn read_line(&mut self, pid: i32, name: &str) -> io::Result<&[u8]> {
        let file = self.file(pid, name)?;
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut self.text[..]))?;
        Ok(self.text.get(..n).unwrap_or_default())
    }

    fn file(&mut self, pid: i32, name: &str) -> io::Result<OwnedFd> {
        self.path.clear();
        write!(self.path, "{pid}/{name}")?;
        Ok(rustix::fs::openat(&self.root, &*self.path, OFlags::CLOEXEC, Mode::empty())?)
    }

    /// A whole file of a process' folder.
    pub(crate) fn read(&mut self, pid: i32, name: &str) -> io::Result<&[u8]> {
        let file = self.file(pid, name)?;
        let mut filled = 0;
        loop {
            if filled == self.text.len() {
                self.text.resize(filled * 2, 0);
            }
            let rest = self.text.get_mut(filled..).unwrap_or_default();
            match rustix::io::read(&file, rest) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(self.text.get(..filled).unwrap_or_default())
    }

    /// The inode of the pipe that a descriptor of a process is, if it is one and we may look.
    pub(crate) fn pipe_inode(&self, pid: i32, fd: i32) -> Option<u64> {
        let link = rustix::fs::readlinkat(&self.root, format!("{pid}/fd/{fd}"), Vec::new()).ok()?;
        link.to_str().ok()?.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok()
    }

    /// Calls `each` with the number of every process.
    pub(crate) fn pids(&self, mut each: impl FnMut(i32)) -> io::Result<()> {
        let dir = rustix::fs::openat(
            &self.root,
            c".",
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut space = [std::mem::MaybeUninit::uninit(); 16 * 1024];
        let mut entries = rustix::fs::RawDir::new(dir, &mut space);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if let Some(pid) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
                each(pid);
            }
        }
        Ok(())
    }
}

/// When a living process was started, in clock ticks from boot; `None` if it is dead or a zombie.
///
/// # Errors
/// Where that cannot be told, for want of descriptors for example: it may well be alive.
pub(crate) fn started(pid: i32) -> io::Result<Option<u64>> {
    Ok(Procfs::open()?.try_stat(pid)?.filter(|stat| !stat.is_dead()).map(|stat| stat.start_ticks))
}

/// When a living process was started, in clock ticks from boot; `None` if it is dead or a zombie.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    Procfs::open().ok()?.stat(pid).filter(|stat| !stat.is_dead()).map(|stat| stat.start_ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = b"42 (a) S 1 (x) S 7 42 41 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 3 0 12345 1000 99 18446744073709551615\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.pid, stat.state, stat.ppid, stat.group, stat.session),
            (42, b'S', 7, 42, 41)
        );
        assert_eq!(
            (stat.cpu_ticks, stat.threads, stat.start_ticks, stat.rss_pages),
            (110, 3, 12345, 99)
        );
        assert_eq!(Stat::parse(b"42 (a"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn reads_this_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut procfs = Procfs::open().unwrap();
        assert_eq!(procfs.stat(pid).unwrap().pid, pid);
        assert_eq!(procfs.stat(-1), None);
        let mut found = false;
        procfs.pids(|other| found |= other == pid).unwrap();
        assert!(found);
    }
}
