//! Disks that are full or only read.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use kissops_core::{Error, store::EventStore as _};

use super::{all, event, open};

/// A small file system of its own, gone at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_read_only_file_system_is_refused_when_opening() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path().join("disk"), "size=1m,mode=700") else {
        eprintln!("skipped: mounting a tmpfs needs more rights");
        return;
    };
    let path = disk.0.join("kissops.db");
    drop(open(&path).unwrap());
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status();
    assert!(remount.unwrap().success());
    let err = open(&path).unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    let text = err.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("for writing"), "{text}");
    let err = open(&disk.0.join("new.db")).unwrap_err();
    assert!(err.chain().contains("new.db"), "{}", err.chain());
}

/// Nothing acknowledged is lost, the error says what to do, and it works again once there is space.
#[tokio::test]
async fn a_full_disk_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path().join("disk"), "size=1m,mode=700") else {
        eprintln!("skipped: mounting a tmpfs needs more rights");
        return;
    };
    let path = disk.0.join("kissops.db");
    let filler = disk.0.join("filler");
    fs::write(&filler, vec![0; 400 << 10]).unwrap();
    let store = open(&path).unwrap();
    let mut acknowledged = Vec::new();
    let err = loop {
        let reason = format!("{} {}", acknowledged.len(), "x".repeat(4_000));
        match store.append_events(vec![event(&reason)]).await {
            Ok(_) => acknowledged.push(reason),
            Err(err) => break err,
        }
    };
    assert!(err.is_transient(), "{err:?}");
    let text = err.chain();
    assert!(text.contains("full") && text.contains(path.to_str().unwrap()), "{text}");
    assert!(!acknowledged.is_empty());
    fs::remove_file(&filler).unwrap();
    acknowledged.push("there is space again".into());
    store.append_events(vec![event("there is space again")]).await.unwrap();
    let found = all(&store).await;
    let found: Vec<_> = found.into_iter().map(|record| record.event.reason).collect();
    assert_eq!(found, acknowledged);
    drop(store);
    let store = open(&path).unwrap();
    assert_eq!(all(&store).await.len(), acknowledged.len());
    drop(store);
}

/// A write that does not fit fails alone, not those that share its transaction.
#[tokio::test]
async fn one_write_that_does_not_fit_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path().join("disk"), "size=2m,mode=700") else {
        eprintln!("skipped: mounting a tmpfs needs more rights");
        return;
    };
    let store = Arc::new(open(&disk.0.join("kissops.db")).unwrap());
    let tasks: Vec<_> = (0..30_usize)
        .map(|i| {
            let store = Arc::clone(&store);
            let reason = if i == 11 { "x".repeat(8 << 20) } else { i.to_string() };
            tokio::spawn(async move { store.append_events(vec![event(&reason)]).await.is_ok() })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), i != 11, "{i}");
    }
    assert_eq!(all(&store).await.len(), 29);
    drop(store);
}
