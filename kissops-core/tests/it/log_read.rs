//! Reading logs back: SUP-23.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::format_collect, reason = "test data may take its time")]

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use kissops_core::{
    Timestamp,
    id::InstanceName,
    logs::{LogFollow, LogLevel, LogLine, LogQuery, LogReader, LogStream},
};

const START: i64 = 1_795_000_000_000_000;

fn at(n: i64) -> Timestamp {
    Timestamp(START + n * 1_000_000)
}

fn name(text: &str) -> InstanceName {
    InstanceName::new(text).unwrap()
}

fn text(range: std::ops::Range<i64>) -> String {
    range.map(|n| format!("{} {} line {n}\n", at(n), if n % 3 == 0 { "E" } else { "O" })).collect()
}

fn rotated(end: i64) -> String {
    let stamp: String = at(end).to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{stamp}.log")
}

/// A log of 40 lines: ten compressed, ten rotated, ten as JSON in the current file, ten more as text.
fn log(dir: &Path) {
    let web = dir.join("web");
    fs::create_dir(&web).unwrap();
    let packed = zstd::encode_all(text(0..10).as_bytes(), 3).unwrap();
    fs::write(web.join(rotated(9) + ".zst"), packed).unwrap();
    fs::write(web.join(rotated(19)), text(10..20)).unwrap();
    let json: String = (20..30)
        .map(|n| format!("{{\"at\":\"{}\",\"stream\":\"stdout\",\"line\":\"line {n}\"}}\n", at(n)))
        .collect();
    fs::write(web.join("current"), json + &text(30..40)).unwrap();
}

fn query(instances: &[&str]) -> LogQuery {
    LogQuery { instances: instances.iter().map(|n| name(n)).collect(), ..LogQuery::default() }
}

fn numbers(lines: impl IntoIterator<Item = LogLine>) -> Vec<i64> {
    lines.into_iter().map(|l| l.line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn every_kind_of_file_is_read_in_order_from_either_end() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let reader = LogReader::new(dir.path());
    let all: Vec<i64> = (0..40).collect();
    assert_eq!(numbers(reader.read(&query(&["web"])).unwrap()), all);
    for count in [0, 1, 9, 10, 11, 20, 21, 35, 40, 100] {
        let query = LogQuery { lines: Some(count), ..query(&["web"]) };
        let expected = &all[40_usize.saturating_sub(count)..];
        assert_eq!(numbers(reader.read(&query).unwrap()), expected, "the last {count}");
    }
    assert_eq!(reader.read(&query(&["nobody"])).unwrap().count(), 0);
    let first = reader.read(&query(&["web"])).unwrap().next().unwrap();
    assert_eq!(
        serde_json::to_string(&first).unwrap(),
        format!(r#"{{"at":"{}","instance":"web","stream":"stderr","line":"line 0"}}"#, at(0))
    );
}

#[test]
fn a_query_narrows_by_time_text_stream_and_level() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let reader = LogReader::new(dir.path());
    let ends = regex::Regex::new("[13]5$").unwrap();
    for lines in [None, Some(1_000)] {
        let read = |query: LogQuery| numbers(reader.read(&LogQuery { lines, ..query }).unwrap());
        let window = LogQuery { since: Some(at(8)), until: Some(at(22)), ..query(&["web"]) };
        assert_eq!(read(window), (8..=22).collect::<Vec<_>>());
        let grep = LogQuery { grep: Some(ends.clone()), ..query(&["web"]) };
        assert_eq!(read(grep), [15, 35]);
        let stderr = LogQuery { stream: Some(LogStream::Stderr), ..query(&["web"]) };
        assert_eq!(read(stderr), [0, 3, 6, 9, 12, 15, 18, 30, 33, 36, 39]);
    }
    let mut file = OpenOptions::new().append(true).open(dir.path().join("web/current")).unwrap();
    for (n, level) in ["INFO", "WARN", "ERROR"].iter().enumerate() {
        writeln!(file, "{} O [{level}] number {n}", at(50)).unwrap();
    }
    let warn = LogQuery { level: Some(LogLevel::Warn), ..query(&["web"]) };
    assert_eq!(numbers(reader.read(&warn).unwrap()), [1, 2]);
}

#[test]
fn several_instances_are_merged_by_time() {
    let dir = tempfile::tempdir().unwrap();
    for (shift, instance) in ["a", "b", "c"].iter().enumerate() {
        let folder = dir.path().join(instance);
        fs::create_dir(&folder).unwrap();
        let lines = |range: std::ops::Range<i64>| -> String {
            let shift = i64::try_from(shift).unwrap();
            range.map(|n| format!("{} O line {}\n", at(3 * n + shift), 3 * n + shift)).collect()
        };
        fs::write(folder.join(rotated(60)), lines(0..20)).unwrap();
        fs::write(folder.join("current"), lines(20..40)).unwrap();
    }
    let reader = LogReader::new(dir.path());
    let all: Vec<i64> = (0..120).collect();
    assert_eq!(numbers(reader.read(&query(&["c", "a", "b"])).unwrap()), all);
    let last = LogQuery { lines: Some(70), ..query(&["a", "b", "c"]) };
    assert_eq!(numbers(reader.read(&last).unwrap()), all[50..]);
}

#[test]
fn a_damaged_file_gives_what_is_readable_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let path = dir.path().join("web").join(rotated(9) + ".zst");
    let long: String =
        (0..60_000).map(|n| format!("{} O line {}\n", at(0), n * 7919 % 60_013)).collect();
    let packed = zstd::encode_all(long.as_bytes(), 3).unwrap();
    fs::write(&path, &packed[..packed.len() * 3 / 4]).unwrap();
    let reader = LogReader::new(dir.path());
    let lines: Vec<_> = reader.read(&query(&["web"])).unwrap().collect();
    let told: Vec<_> = lines.iter().filter(|l| l.line.contains("is damaged")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(lines.len() > 10_000 && lines.len() < 60_000, "{}", lines.len());
    assert_eq!(lines.last().unwrap().line, "line 39");
}

#[test]
fn the_last_lines_of_a_huge_log_are_read_from_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let web = dir.path().join("web");
    fs::create_dir(&web).unwrap();
    // 500 files of 100 MB, all but the end of the last a hole: to read them whole would take minutes.
    for n in 0..500 {
        let file = fs::File::create(web.join(rotated(n))).unwrap();
        file.set_len(100_000_000).unwrap();
    }
    let mut current = fs::File::create(web.join("current")).unwrap();
    current.write_all(text(1_000..2_000).as_bytes()).unwrap();
    let begin = Instant::now();
    let query = LogQuery { lines: Some(100), ..query(&["web"]) };
    let lines = numbers(LogReader::new(dir.path()).read(&query).unwrap());
    assert_eq!(lines, (1_900..2_000).collect::<Vec<_>>());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// Polls until `count` lines have come.
fn gather(follow: &mut LogFollow, count: usize) -> Vec<i64> {
    let begin = Instant::now();
    let mut lines = Vec::new();
    while lines.len() < count && begin.elapsed() < Duration::from_secs(20) {
        lines.extend(numbers(follow.poll().unwrap()));
    }
    lines
}

#[test]
fn following_survives_rotation_and_truncation() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let web = dir.path().join("web");
    let current = web.join("current");
    let append = |range: std::ops::Range<i64>| {
        let mut file = OpenOptions::new().append(true).create(true).open(&current).unwrap();
        file.write_all(text(range).as_bytes()).unwrap();
    };
    let reader = LogReader::new(dir.path());
    let query = LogQuery { lines: Some(5), ..query(&["web"]) };
    let (before, mut follow) = reader.follow(&query).unwrap();
    append(40..45);
    assert_eq!(numbers(before), (35..40).collect::<Vec<_>>());
    assert_eq!(gather(&mut follow, 5), (40..45).collect::<Vec<_>>());
    // Rotated twice between two looks, the first of the two compressed.
    append(45..50);
    let first = fs::read(&current).unwrap();
    fs::write(web.join(rotated(49) + ".zst"), zstd::encode_all(&first[..], 3).unwrap()).unwrap();
    fs::remove_file(&current).unwrap();
    append(50..60);
    fs::rename(&current, web.join(rotated(59))).unwrap();
    append(60..62);
    assert_eq!(gather(&mut follow, 17), (45..62).collect::<Vec<_>>());
    // Emptied by somebody else.
    fs::File::create(&current).unwrap();
    follow.poll().unwrap();
    append(62..64);
    assert_eq!(gather(&mut follow, 2), [62, 63]);
    // Half a line is not given before it is whole.
    let mut file = OpenOptions::new().append(true).open(&current).unwrap();
    write!(file, "{} O line", at(64)).unwrap();
    assert!(follow.poll().unwrap().is_empty());
    writeln!(file, " 64").unwrap();
    assert_eq!(gather(&mut follow, 1), [64]);
}

#[tokio::test]
async fn following_waits_for_the_first_file() {
    let dir = tempfile::tempdir().unwrap();
    let reader = LogReader::new(dir.path());
    let (before, mut follow) = reader.follow(&query(&["web"])).unwrap();
    assert_eq!(before.count(), 0);
    log(dir.path());
    let lines =
        tokio::time::timeout(Duration::from_secs(20), follow.next()).await.unwrap().unwrap();
    assert_eq!(numbers(lines), (0..40).collect::<Vec<_>>());
}
