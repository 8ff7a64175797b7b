//! Output capture, over real pipes and files: SUP-17, SUP-21, SUP-22, SUP-24.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use kissops_core::{
    ByteSize, Timestamp,
    id::{InstanceName, RunId},
    logs::{
        Capture, CaptureOptions, CaptureProblem, LineWatch, LogFormat, LogPolicy, Output, Pipes,
        pipes,
    },
    redact::Redactor,
};
use rustix::fs::{Mode, OFlags};

const LIMIT: Duration = Duration::from_mins(1);

fn name(text: &str) -> InstanceName {
    InstanceName::new(text).unwrap()
}

fn policy(format: LogFormat) -> LogPolicy {
    LogPolicy { format, compress: false, keep: 100_000, ..LogPolicy::default() }
}

fn secrets(of: &[&str]) -> Arc<Redactor> {
    let redactor = Redactor::new();
    redactor.learn(of.iter().map(|s| (*s).to_owned().into())).unwrap();
    Arc::new(redactor)
}

/// Waits for a condition.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// All that is in the log of an instance, oldest first.
fn whole_log(dir: &Path) -> Vec<u8> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort(); // digits before letters: `current` is last
    files.iter().flat_map(|path| fs::read(path).unwrap()).collect()
}

/// Captures what `print` writes to standard output, and gives the log.
async fn captured(
    policy: LogPolicy,
    redactor: &Arc<Redactor>,
    print: impl FnOnce(File) + Send + 'static,
) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let capture = Capture::start(CaptureOptions::new(dir.path(), Arc::clone(redactor))).unwrap();
    let Pipes { child_stdout, stdout, stderr, .. } = pipes(policy.format).unwrap();
    let (instance, run) = (name("web"), RunId(1));
    capture
        .attach(Output { instance, run, stdout, stderr, policy: Arc::new(policy), watch: None })
        .unwrap();
    let writer = std::thread::spawn(move || print(File::from(child_stdout)));
    tokio::time::timeout(LIMIT, capture.drained(run)).await.unwrap();
    writer.join().unwrap();
    capture.close();
    whole_log(&dir.path().join("web"))
}

/// The lines of a text log without their stamps, in the form `O line`.
fn unstamped(log: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(log);
    text.lines()
        .map(|line| {
            let (stamp, rest) = line.split_once(' ').unwrap();
            stamp.parse::<Timestamp>().unwrap();
            rest.to_owned()
        })
        .collect()
}

#[tokio::test]
async fn lines_of_both_streams_are_kept_and_a_watched_one_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let capture = Capture::start(CaptureOptions::new(dir.path(), secrets(&["hunter2"]))).unwrap();
    let p = pipes(LogFormat::Text).unwrap();
    let (found, ready) = tokio::sync::oneshot::channel();
    let watch = LineWatch { pattern: regex::bytes::Regex::new("^listening").unwrap(), found };
    let run = RunId(7);
    capture
        .attach(Output {
            instance: name("web"),
            run,
            stdout: p.stdout,
            stderr: p.stderr,
            policy: Arc::new(policy(LogFormat::Text)),
            watch: Some(watch),
        })
        .unwrap();
    let (mut out, mut err) = (File::from(p.child_stdout), File::from(p.child_stderr));
    out.write_all(b"starting\nliste").unwrap();
    err.write_all(b"password is hunter2\n").unwrap();
    out.write_all(b"ning on 80\nno end").unwrap();
    tokio::time::timeout(LIMIT, ready).await.unwrap().unwrap();
    // A stray process holds the pipes: not drained, but finished when asked to.
    tokio::time::timeout(LIMIT, capture.finish(run)).await.unwrap();
    let mut lines = unstamped(&whole_log(&dir.path().join("web")));
    lines.sort();
    assert_eq!(lines, ["E password is ***", "O listening on 80", "O no end", "O starting"]);
    tokio::time::timeout(LIMIT, capture.drained(run)).await.unwrap();
    let counts = capture.counts(&name("web"));
    assert_eq!((counts.lines, counts.bytes, counts.dropped_lines), (4, 51, 0));
}

#[tokio::test]
async fn binary_and_endless_lines_are_kept_to_the_byte() {
    let none = secrets(&[]);
    let log = captured(policy(LogFormat::Text), &none, |mut out| {
        out.write_all(b"nul \0 bad \xff\xfe end\n").unwrap();
        out.write_all(&vec![b'x'; 10_000_000]).unwrap();
    })
    .await;
    let lines: Vec<&[u8]> = log.split(|b| *b == b'\n').collect();
    assert!(lines[0].ends_with(b" O nul \0 bad \xff\xfe end"));
    let (mut sum, mut marked) = (0, 0);
    for line in &lines[1..lines.len() - 1] {
        let text = &line[28..];
        marked += usize::from(text.starts_with(b"O+ "));
        sum += text.split(|b| *b == b'x').count() - 1;
        assert!(text.len() <= (16 << 10) + 3, "{}", text.len());
    }
    assert_eq!((sum, marked), (10_000_000, lines.len() - 3));
    let raw: Vec<u8> =
        (0..3_000_000_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    let expected = raw.clone();
    let log = captured(policy(LogFormat::Raw), &none, move |mut out| out.write_all(&raw).unwrap());
    assert!(log.await == expected, "raw output differs");
}

#[tokio::test]
async fn rotation_tears_and_loses_nothing() {
    for format in [LogFormat::Text, LogFormat::Raw, LogFormat::Json] {
        let dir = tempfile::tempdir().unwrap();
        let options = CaptureOptions::new(dir.path(), secrets(&["a secret"]));
        let capture = Capture::start(options).unwrap();
        let p = pipes(format).unwrap();
        let policy = Arc::new(LogPolicy { rotate_size: ByteSize(30_000), ..policy(format) });
        capture
            .attach(Output {
                instance: name("web"),
                run: RunId(1),
                stdout: p.stdout,
                stderr: p.stderr,
                policy,
                watch: None,
            })
            .unwrap();
        drop(p.child_stderr);
        let mut out = File::from(p.child_stdout);
        for n in 0..20_000 {
            writeln!(out, "line {n} of many").unwrap();
        }
        drop(out);
        tokio::time::timeout(LIMIT, capture.drained(RunId(1))).await.unwrap();
        let web = dir.path().join("web");
        let files = fs::read_dir(&web).unwrap().count();
        assert!(files > 5, "{format:?}: {files} files");
        for entry in fs::read_dir(&web).unwrap() {
            let text = fs::read(entry.unwrap().path()).unwrap();
            assert!(text.ends_with(b"\n") && text.len() < 200_000, "{format:?} {}", text.len());
        }
        let log = String::from_utf8(whole_log(&web)).unwrap();
        let mut next = 0;
        for line in log.lines() {
            assert!(
                line.contains(&format!("line {next} of many")),
                "{format:?}: {line} is not {next}"
            );
            next += 1;
        }
        assert_eq!(next, 20_000, "{format:?}");
    }
}

#[tokio::test]
async fn a_secret_is_masked_wherever_reads_and_cuts_fall() {
    let secret = "correct-horse-battery";
    let redactor = secrets(&[secret]);
    for format in [LogFormat::Text, LogFormat::Json, LogFormat::Raw] {
        // Lines are cut at 16 bytes, less than the secret has.
        let policy = LogPolicy { max_line: ByteSize(16), ..policy(format) };
        let log = captured(policy, &redactor, move |mut out| {
            let line = format!("before {secret} behind\n");
            for split in 0..line.len() {
                out.write_all(&line.as_bytes()[..split]).unwrap();
                std::thread::yield_now();
                out.write_all(&line.as_bytes()[split..]).unwrap();
            }
            for pad in 0..40 {
                write!(out, "{}{secret}", "p".repeat(pad)).unwrap();
            }
        })
        .await;
        let text = String::from_utf8(log).unwrap();
        // The line is 36 bytes long and split at each of them.
        assert_eq!(text.matches("***").count(), 36 + 40, "{format:?}");
        for part in ["correct", "horse", "battery"] {
            assert!(!text.contains(part), "{format:?}: {text}");
        }
    }
}

#[tokio::test]
async fn a_new_day_begins_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new("2030-01-01T23:59:59Z".parse::<Timestamp>().unwrap().0));
    let clock = Arc::clone(&now);
    let mut options = CaptureOptions::new(dir.path(), secrets(&[]));
    options.clock = Box::new(move || Timestamp(clock.load(Ordering::Relaxed)));
    let capture = Capture::start(options).unwrap();
    let p = pipes(LogFormat::Text).unwrap();
    capture
        .attach(Output {
            instance: name("web"),
            run: RunId(1),
            stdout: p.stdout,
            stderr: p.stderr,
            policy: Arc::new(LogPolicy { keep_for: Duration::MAX, ..policy(LogFormat::Text) }),
            watch: None,
        })
        .unwrap();
    let mut out = File::from(p.child_stdout);
    // A day on, a day back, and the day again: only the first is new.
    for (hours, line) in [(0, "a"), (24, "b"), (-24, "c"), (24, "d")] {
        now.fetch_add(hours * 3_600_000_000, Ordering::Relaxed);
        writeln!(out, "{line}").unwrap();
        let lines = capture.counts(&name("web")).lines;
        until("the line is kept", || {
            capture.counts(&name("web")).lines > lines || ends_with(dir.path(), line)
        });
    }
    capture.close();
    let mut files: Vec<_> =
        fs::read_dir(dir.path().join("web")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let texts: Vec<_> = files.iter().map(|f| unstamped(&fs::read(f).unwrap()).concat()).collect();
    assert_eq!(texts, ["O a", "O bO cO d"]);
}

fn ends_with(dir: &Path, line: &str) -> bool {
    let end = format!(" {line}\n");
    fs::read(dir.join("web/current")).is_ok_and(|log| log.ends_with(end.as_bytes()))
}

#[tokio::test]
async fn an_unwritable_log_drops_and_counts_and_tells_twice() {
    let dir = tempfile::tempdir().unwrap();
    let log_dir = dir.path().join("logs");
    fs::write(&log_dir, "in the way").unwrap();
    let (tell, told) = mpsc::channel();
    let mut options = CaptureOptions::new(&log_dir, secrets(&[]));
    options.problems = Box::new(move |problem| tell.send(problem).unwrap());
    let capture = Capture::start(options).unwrap();
    let p = pipes(LogFormat::Text).unwrap();
    capture
        .attach(Output {
            instance: name("web"),
            run: RunId(1),
            stdout: p.stdout,
            stderr: p.stderr,
            policy: Arc::new(policy(LogFormat::Text)),
            watch: None,
        })
        .unwrap();
    let mut out = File::from(p.child_stdout);
    // More than a pipe holds: the writer would wait for ever if nobody took it.
    for n in 0..30_000 {
        writeln!(out, "line {n}").unwrap();
    }
    let first = told.recv_timeout(LIMIT).unwrap();
    assert!(
        matches!(&first, CaptureProblem::Dropping { cause, .. } if cause.contains("Not a directory")),
        "{first}"
    );
    until("all is dropped", || capture.counts(&name("web")).dropped_lines == 30_000);
    fs::remove_file(&log_dir).unwrap();
    writeln!(out, "back").unwrap();
    let second = told.recv_timeout(LIMIT).unwrap();
    assert!(matches!(second, CaptureProblem::Over { lines: 30_000, .. }), "{second}");
    drop((out, p.child_stderr));
    tokio::time::timeout(LIMIT, capture.drained(RunId(1))).await.unwrap();
    let lines = unstamped(&whole_log(&log_dir.join("web")));
    assert!(lines[0].starts_with("E kissops: 30000 lines ("), "{lines:?}");
    assert_eq!(lines[1..], ["O back"]);
    assert!(told.try_recv().is_err());
}

/// A file system of a few pages, gone with this value.
struct Tiny(PathBuf);

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_drops_whole_lines_and_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "none"])
        .arg(dir.path())
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    }
    let tiny = Tiny(dir.path().to_owned());
    let (tell, told) = mpsc::channel();
    let mut options = CaptureOptions::new(dir.path(), secrets(&[]));
    options.problems = Box::new(move |problem| tell.send(problem).unwrap());
    let capture = Capture::start(options).unwrap();
    let p = pipes(LogFormat::Text).unwrap();
    capture
        .attach(Output {
            instance: name("web"),
            run: RunId(1),
            stdout: p.stdout,
            stderr: p.stderr,
            policy: Arc::new(policy(LogFormat::Text)),
            watch: None,
        })
        .unwrap();
    let mut out = File::from(p.child_stdout);
    for n in 0..20_000 {
        writeln!(out, "line {n}").unwrap();
    }
    let first = told.recv_timeout(LIMIT).unwrap();
    assert!(
        matches!(&first, CaptureProblem::Dropping { cause, .. } if cause.contains("No space left")),
        "{first}"
    );
    let counts = || capture.counts(&name("web"));
    until("all is taken", || counts().lines + counts().dropped_lines == 20_000);
    let web = dir.path().join("web");
    let lines = unstamped(&whole_log(&web));
    assert_eq!(lines.len() as u64, counts().lines);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("O line {n}"));
    }
    fs::remove_file(web.join("current")).unwrap();
    writeln!(out, "back").unwrap();
    assert!(matches!(told.recv_timeout(LIMIT).unwrap(), CaptureProblem::Over { .. }));
    drop((out, p.child_stderr));
    tokio::time::timeout(LIMIT, capture.drained(RunId(1))).await.unwrap();
    assert_eq!(unstamped(&whole_log(&web)).last().unwrap(), "O back");
    capture.close();
    drop(tiny);
}

#[tokio::test]
async fn one_that_prints_without_end_starves_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let capture = Capture::start(CaptureOptions::new(dir.path(), secrets(&[]))).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let policy =
        Arc::new(LogPolicy { rotate_size: ByteSize(1_000_000), keep: 2, ..policy(LogFormat::Raw) });
    let loud = pipes(LogFormat::Raw).unwrap();
    drop(loud.child_stderr);
    capture
        .attach(Output {
            instance: name("loud"),
            run: RunId(1),
            stdout: loud.stdout,
            stderr: None,
            policy: Arc::clone(&policy),
            watch: None,
        })
        .unwrap();
    let (mut out, ended) = (File::from(loud.child_stdout), Arc::clone(&stop));
    let writer = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            out.write_all(&[b"x".repeat(99), b"\n".to_vec()].concat().repeat(600)).unwrap();
        }
    });
    for run in 2..30 {
        let quiet = pipes(LogFormat::Raw).unwrap();
        drop(quiet.child_stderr);
        capture
            .attach(Output {
                instance: name("quiet"),
                run: RunId(run),
                stdout: quiet.stdout,
                stderr: None,
                policy: Arc::clone(&policy),
                watch: None,
            })
            .unwrap();
        writeln!(File::from(quiet.child_stdout), "run {run}").unwrap();
        tokio::time::timeout(Duration::from_secs(5), capture.drained(RunId(run))).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    capture.close();
    let log = String::from_utf8(whole_log(&dir.path().join("quiet"))).unwrap();
    assert_eq!(log.lines().count(), 28);
}

const KEPT: &str = "KISSOPS_TEST_CAPTURER";

/// Not a test: the process that is killed. It opens what its parent, in the part of the keeper, holds open.
#[tokio::test]
#[ignore = "started by another test"]
async fn capturer() {
    let Ok(kept) = std::env::var(KEPT) else { return };
    let mut words = kept.split(' ');
    let (dir, finish) = (words.next().unwrap(), words.next().unwrap());
    let mut fds = words.map(|path| {
        let flags = if path.ends_with(":w") { OFlags::RDWR } else { OFlags::RDONLY };
        rustix::fs::open(
            path.trim_end_matches(":w"),
            flags | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap()
    });
    let (stdout, stderr) = (fds.next().unwrap(), fds.next().unwrap());
    let mut options = CaptureOptions::new(dir, secrets(&["S3cr3t"]));
    options.spool = fds.collect();
    let capture = Capture::start(options).unwrap();
    let policy = Arc::new(LogPolicy { rotate_size: ByteSize(100_000), ..policy(LogFormat::Text) });
    capture
        .attach(Output {
            instance: name("web"),
            run: RunId(1),
            stdout,
            stderr: Some(stderr),
            policy,
            watch: None,
        })
        .unwrap();
    if finish == "finish" {
        capture.finish(RunId(1)).await;
        capture.close();
    } else {
        std::future::pending::<()>().await;
    }
}

struct Victim(Child);

impl Victim {
    fn start(dir: &Path, mode: &str, pipes: &[&OwnedFd], spool: &[OwnedFd]) -> Self {
        let me = std::process::id();
        let mut words = vec![dir.display().to_string(), mode.to_owned()];
        words.extend(pipes.iter().map(|fd| format!("/proc/{me}/fd/{}", fd.as_raw_fd())));
        words.extend(spool.iter().map(|fd| format!("/proc/{me}/fd/{}:w", fd.as_raw_fd())));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "capture::capturer", "--ignored", "--nocapture"])
            .env(KEPT, words.join(" "))
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_line_is_there_once_in_order_though_the_capturer_is_killed_200_times() {
    let dir = tempfile::tempdir().unwrap();
    let spool = {
        let capture = Capture::start(CaptureOptions::new(dir.path(), secrets(&[]))).unwrap();
        let kept: Vec<_> = capture.spool().iter().map(|fd| fd.try_clone().unwrap()).collect();
        capture.close();
        kept
    };
    let p = pipes(LogFormat::Text).unwrap();
    let (ours_out, ours_err) = (p.stdout, p.stderr.unwrap());
    let stop = AtomicBool::new(false);
    let written = [AtomicU64::new(0), AtomicU64::new(0)];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut kills = 0;
    std::thread::scope(|scope| {
        for (fd, count) in [p.child_stdout, p.child_stderr].into_iter().zip(&written) {
            let stop = &stop;
            scope.spawn(move || {
                let mut out = File::from(fd);
                let mut text = Vec::new();
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    // Writes end in the middle of lines, as those of a buffering program do.
                    while text.len() < 3_000 {
                        writeln!(text, "{n} S3cr3t {}", "x".repeat(n % 90)).unwrap();
                        n += 1;
                    }
                    let end = text.len() - n % 40;
                    out.write_all(&text[..end]).unwrap();
                    text.drain(..end);
                    count.store(n as u64, Ordering::Relaxed);
                }
                out.write_all(&text).unwrap();
                count.store(n as u64, Ordering::Relaxed);
            });
        }
        let total = || written.iter().map(|n| n.load(Ordering::Relaxed)).sum::<u64>();
        while kills < 220 {
            let victim = Victim::start(dir.path(), "run", &[&ours_out, &ours_err], &spool);
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let goal = total() + 500 + random % 6_000;
            until("the writers got on", || total() >= goal);
            drop(victim);
            kills += 1;
        }
        // The writers may wait in a full pipe: somebody must read while they end.
        let _reader = Victim::start(dir.path(), "run", &[&ours_out, &ours_err], &spool);
        stop.store(true, Ordering::Relaxed);
        let ended = || {
            [&ours_out, &ours_err].iter().all(|fd| {
                let mut poll = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
                let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                rustix::event::poll(&mut poll, Some(&none)).unwrap();
                poll[0].revents().contains(rustix::event::PollFlags::HUP)
            })
        };
        until("the writers have ended", ended);
    });
    let mut last = Victim::start(dir.path(), "finish", &[&ours_out, &ours_err], &spool);
    assert!(last.0.wait().unwrap().success());
    let mut next = [0_u64, 0];
    let web = dir.path().join("web");
    let log = String::from_utf8(whole_log(&web)).unwrap();
    for line in log.lines() {
        let rest = &line[28..];
        let stream = usize::from(rest.starts_with("E "));
        let number = rest[2..].split(' ').next().unwrap();
        assert_eq!(number, next[stream].to_string(), "stream {stream}: {line}");
        assert!(rest.contains(" *** "), "{line}");
        next[stream] += 1;
    }
    let files = fs::read_dir(&web).unwrap().count();
    assert_eq!(next, written.map(AtomicU64::into_inner), "after {kills} kills, {files} files");
    assert!(files > 10, "{files}");
}
