//! Rotated files: compressed and, in the end, deleted. One thread, lowest priority, one file at a time; it lives only
//! while there is work.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::{LogPolicy, file};
use crate::Timestamp;

/// zstd's default: logs shrink about tenfold at some 300 MB/s.
const LEVEL: i32 = 3;
const BLOCK: usize = 128 << 10;

/// Queues folders to be put in order.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: HashMap<PathBuf, Job>,
    worker: Option<JoinHandle<()>>,
    running: bool,
}

#[derive(Debug)]
struct Job {
    policy: Arc<LogPolicy>,
    now: Timestamp,
}

impl Keeper {
    /// Compresses what is rotated in `dir` and deletes what is beyond `policy`, soon.
    pub(super) fn tidy(&self, dir: &Path, policy: &Arc<LogPolicy>, now: Timestamp) {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.jobs.insert(dir.to_owned(), Job { policy: Arc::clone(policy), now });
        if queue.running {
            return;
        }
        if let Some(ended) = queue.worker.take() {
            // It has left its loop: this waits for its last instructions at most.
            let _ = ended.join();
        }
        let shared = Arc::clone(&self.shared);
        match std::thread::Builder::new().name("kissops-tidy".into()).spawn(move || work(&shared)) {
            Ok(worker) => {
                queue.worker = Some(worker);
                queue.running = true;
            }
            // The next rotation tries again.
            Err(e) => tracing::warn!(error = %e, "cannot start the thread that compresses logs"),
        }
    }

    /// Stops between two blocks; what is half done is done again by a successor.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let worker = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).worker.take();
        if let Some(worker) = worker {
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared) {
    // On Linux this is the priority of the calling thread alone (setpriority(2), "C library/kernel differences").
    let _ = rustix::process::setpriority_process(None, 19);
    loop {
        let job = {
            let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let next = queue.jobs.keys().next().cloned();
            match next.and_then(|dir| queue.jobs.remove_entry(&dir)) {
                Some(job) if !shared.stop.load(Ordering::Relaxed) => job,
                _ => {
                    queue.running = false;
                    return;
                }
            }
        };
        let (dir, Job { policy, now }) = job;
        if let Err(e) = put_in_order(&dir, &policy, now, &shared.stop)
            // An instance that has printed nothing yet has no folder.
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), error = %e, "cannot compress or delete old logs");
        }
    }
}

/// A rotated file.
#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    end: Timestamp,
    size_bytes: u64,
}

/// Deletes what is beyond the policy, compresses the rest, and looks again, now that sizes have changed.
fn put_in_order(
    dir: &Path,
    policy: &LogPolicy,
    now: Timestamp,
    stop: &AtomicBool,
) -> io::Result<()> {
    retain(dir, policy, now)?;
    if !policy.compress {
        return Ok(());
    }
    for old in rotated(dir)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if old.path.extension().is_some_and(|e| e == "log") {
            compress(&old.path, stop)?;
        }
    }
    retain(dir, policy, now)
}

/// The rotated files, oldest first; leftovers of a crash are removed on the way.
fn rotated(dir: &Path) -> io::Result<Vec<Rotated>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with('.') && name.strip_suffix(".tmp").is_some() {
            fs::remove_file(entry.path())?;
        } else if let Some(end) = file::rotated_at(name) {
            // A compressed file gets its name when it is complete: the other is what a crash left.
            let compressed = entry.path().with_extension(file::COMPRESSED);
            if name.strip_suffix(".log").is_some() && compressed.exists() {
                fs::remove_file(entry.path())?;
                continue;
            }
            found.push(Rotated { path: entry.path(), end, size_bytes: entry.metadata()?.len() });
        }
    }
    found.sort_by_key(|file| file.end);
    Ok(found)
}

fn retain(dir: &Path, policy: &LogPolicy, now: Timestamp) -> io::Result<()> {
    for old in beyond(rotated(dir)?, policy, now) {
        match fs::remove_file(&old.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Which of `files`, oldest first, are to be deleted.
fn beyond(mut files: Vec<Rotated>, policy: &LogPolicy, now: Timestamp) -> Vec<Rotated> {
    let most = usize::try_from(policy.keep).unwrap_or(usize::MAX);
    let (mut count, mut bytes) = (0, 0_u64);
    let kept = files
        .iter()
        .rev()
        .take_while(|file| {
            count += 1;
            bytes = bytes.saturating_add(file.size_bytes);
            count <= most && bytes <= policy.keep_size.0 && now.since(file.end) <= policy.keep_for
        })
        .count();
    files.truncate(files.len() - kept);
    files
}

/// Puts `x.log.zst` in the place of `x.log`: under a temporary name, made safe on disk, then renamed.
fn compress(path: &Path, stop: &AtomicBool) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    let temporary = dir.join(format!(".{name}.zst.tmp"));
    let mut from = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let written = write_compressed(&mut from, &temporary, stop);
    if !matches!(written, Ok(true)) {
        let _ = fs::remove_file(&temporary);
        return written.map(drop);
    }
    fs::rename(&temporary, path.with_extension(file::COMPRESSED))?;
    File::open(dir)?.sync_all()?;
    fs::remove_file(path)
}

/// `Ok(false)`: it was told to stop.
fn write_compressed(from: &mut File, to: &Path, stop: &AtomicBool) -> io::Result<bool> {
    let meta = from.metadata()?;
    let to = fs::OpenOptions::new().write(true).create(true).truncate(true).open(to)?;
    to.set_permissions(meta.permissions())?;
    let mut encoder = zstd::Encoder::new(&to, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut block = vec![0; BLOCK];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match from.read(&mut block)? {
            0 => break,
            read => encoder.write_all(block.get(..read).unwrap_or_default())?,
        }
    }
    encoder.finish()?;
    to.set_modified(meta.modified().unwrap_or(std::time::SystemTime::now()))?;
    to.sync_all()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ByteSize;

    fn policy() -> LogPolicy {
        LogPolicy {
            keep: 3,
            keep_for: Duration::from_hours(1),
            keep_size: ByteSize(100),
            ..LogPolicy::default()
        }
    }

    fn files(sizes: &[(i64, u64)]) -> Vec<Rotated> {
        sizes
            .iter()
            .map(|(minute, size_bytes)| Rotated {
                path: PathBuf::new(),
                end: Timestamp(minute * 60_000_000),
                size_bytes: *size_bytes,
            })
            .collect()
    }

    #[test]
    fn what_is_beyond_count_age_or_size_goes_oldest_first() {
        let gone = |sizes: &[(i64, u64)]| {
            beyond(files(sizes), &policy(), Timestamp(100 * 60_000_000)).len()
        };
        assert_eq!(gone(&[]), 0);
        assert_eq!(gone(&[(96, 1), (97, 1), (98, 1), (99, 1)]), 1);
        assert_eq!(gone(&[(39, 1), (40, 1), (99, 1)]), 1);
        assert_eq!(gone(&[(97, 1), (98, 80), (99, 21)]), 2);
        assert_eq!(gone(&[(99, 101)]), 1);
    }

    #[test]
    fn leftovers_of_a_crash_are_cleared_and_the_work_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (a, b) = ("20261120T030405.000006Z.log", "20261120T030406.000006Z.log");
        fs::write(path(a), "complete").unwrap();
        fs::write(path(&format!("{a}.zst")), zstd::encode_all(&b"complete"[..], 3).unwrap())
            .unwrap();
        fs::write(path(b), "to do").unwrap();
        fs::write(path(&format!(".{b}.zst.tmp")), "half").unwrap();
        fs::write(path("current"), "now").unwrap();
        let keeper = Keeper::default();
        let policy = Arc::new(LogPolicy { keep_for: Duration::MAX, ..LogPolicy::default() });
        keeper.tidy(dir.path(), &policy, Timestamp::default());
        let begin = std::time::Instant::now();
        while keeper.shared.queue.lock().unwrap().running
            && begin.elapsed() < Duration::from_secs(20)
        {
            std::thread::yield_now();
        }
        keeper.stop();
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [format!("{a}.zst"), format!("{b}.zst"), "current".into()]);
        let packed = fs::read(path(&format!("{b}.zst"))).unwrap();
        assert_eq!(zstd::decode_all(&packed[..]).unwrap(), b"to do");
    }
}
