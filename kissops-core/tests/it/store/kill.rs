//! STO-6: writers are killed at random moments, and nothing that they had acknowledged is lost.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    io::BufRead as _,
    path::Path,
    time::Duration,
};

use kissops_core::store::{InstanceStore as _, MemberStore as _};
use rusqlite::Connection;

use super::{
    all, open,
    process::{PASSING, Writer},
};

/// A number below `end`, of no quality but different at each call.
fn random(end: u64) -> u64 {
    RandomState::new().hash_one(0) % end
}

/// Compares what is in the file with what was said: `event ID REASON`, `instance N NAME`, `member N NAME`, `gone N NAME`.
async fn verify(path: &Path, heard: &[String]) {
    let conn = Connection::open(path).unwrap();
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    drop(conn);
    let store = open(path).unwrap();
    let mut found = all(&store).await;
    assert!(found.is_sorted_by(|a, b| a.id < b.id), "ids in their order");
    found.retain(|one| one.event.reason != PASSING);
    let by_id: HashMap<i64, &str> =
        found.iter().map(|one| (one.id.0, &*one.event.reason)).collect();
    let reasons: HashSet<_> = by_id.values().collect();
    assert_eq!(reasons.len(), found.len(), "an event is there twice");
    let restarts: HashMap<String, i64> = store
        .instances()
        .await
        .unwrap()
        .into_iter()
        .map(|one| (one.name.to_string(), one.restarts.cast_signed()))
        .collect();
    let members: HashSet<String> =
        store.members().await.unwrap().into_iter().map(|one| one.name.to_string()).collect();
    // Ids of one task grow in the order in which it heard of them.
    let mut latest: HashMap<&str, i64> = HashMap::new();
    for line in heard {
        let mut words = line.split(' ');
        let (kind, number, name) =
            (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let number: i64 = number.parse().unwrap();
        match kind {
            "event" => {
                assert_eq!(by_id.get(&number), Some(&name), "acknowledged and lost");
                let task = name.rsplitn(3, '.').last().unwrap();
                let before = latest.insert(task, number);
                assert!(before.is_none_or(|before| before < number), "{task}");
            }
            "instance" => {
                assert!(restarts.get(name).is_some_and(|there| *there >= number), "{line}");
            }
            "member" if number % 2 == 1 => assert!(members.contains(name), "{line}"),
            "gone" => assert!(!members.contains(name), "{line}"),
            _ => {}
        }
    }
    // Calls with several rows took effect whole.
    let mut parts: HashMap<&str, usize> = HashMap::new();
    for reason in reasons {
        *parts.entry(reason.rsplit_once('.').unwrap().0).or_default() += 1;
    }
    for (call, parts) in parts {
        let n: usize = call.rsplit('.').next().unwrap().parse().unwrap();
        assert_eq!(parts, n % 3 + 1, "half of {call}");
    }
}

/// One writer after the other on one file, and for half of the time two at once.
#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    let (mut heard, mut kills) = (Vec::new(), 0);
    while kills < 300 {
        let mut writers = vec![Writer::start("kill", &path)];
        if random(2) == 0 {
            writers.push(Writer::start("kill", &path));
        }
        for mut writer in writers {
            writer.listen(1 + usize::try_from(random(60)).unwrap(), &mut heard);
            writer.kill(&mut heard);
            kills += 1;
        }
    }
    assert!(heard.len() > 300, "{}", heard.len());
    println!("{kills} kills, {} writes acknowledged", heard.len());
    verify(&path, &heard).await;
}

/// The same for a database that is just being made.
#[tokio::test]
async fn kill_9_while_opening_leaves_a_database_that_opens() {
    for _ in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kissops.db");
        let writer = Writer::start("kill", &path);
        // Not a wait for anything: the moment of the kill is what varies.
        std::thread::sleep(Duration::from_micros(random(25_000)));
        let mut heard = Vec::new();
        writer.kill(&mut heard);
        drop(open(&path).unwrap());
        verify(&path, &heard).await;
    }
}

/// STO-5: processes that open a new database at the same moment all succeed, and it is migrated once.
#[tokio::test]
async fn many_processes_open_a_new_database_at_once() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kissops.db");
        let mut writers: Vec<_> = (0..8).map(|_| Writer::start("together", &path)).collect();
        for writer in &mut writers {
            let mut line = String::new();
            while line != "waiting\n" {
                line.clear();
                assert!(writer.out.read_line(&mut line).unwrap() > 0);
            }
        }
        for writer in &mut writers {
            drop(writer.process.stdin.take());
        }
        let mut heard = Vec::new();
        for writer in &mut writers {
            writer.listen(usize::MAX, &mut heard);
            assert!(writer.process.wait().unwrap().success());
        }
        assert_eq!(heard.len(), 8, "none failed");
        verify(&path, &heard).await;
        let conn = Connection::open(&path).unwrap();
        let sql = "SELECT count(*) = max(version) FROM schema_migrations";
        assert!(conn.query_row(sql, [], |row| row.get::<_, bool>(0)).unwrap());
    }
}
