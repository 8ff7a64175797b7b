//! Files of others: read in every state, and left as they were.

use super::*;

/// Every file in the folder, with what is in it.
fn files(predecessor: &Predecessor) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(predecessor.folder.path()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    // What is in the index of a log says who is reading it just now.
    let content = |path: &Path| {
        if path.extension().is_some_and(|end| end == "db-shm") {
            vec![]
        } else {
            std::fs::read(path).unwrap()
        }
    };
    paths.map(|path| (path.clone(), content(&path))).collect()
}

async fn refused(importer: &Importer, table: FernetTable, keys: FernetKeys) -> Error {
    importer.fernet(table, keys).await.unwrap_err()
}

#[tokio::test]
async fn vlt_4_a_file_is_not_changed_whatever_its_journal() {
    for mode in ["DELETE", "WAL"] {
        let predecessor = Predecessor::new(10);
        predecessor.run(&format!("PRAGMA journal_mode = {mode}"));
        let before = files(&predecessor);
        assert_eq!(before.len(), 3, "{mode}");
        let (_, importer) = empty().await;
        assert_eq!(predecessor.import(&importer).await.imported, 10, "{mode}");
        assert!(files(&predecessor) == before, "{mode}: {:?}", files(&predecessor).keys());
    }
}

#[tokio::test]
async fn vlt_4_a_file_in_use_is_read_with_its_log_and_left_alone() {
    let predecessor = Predecessor::new(10);
    let program = rusqlite::Connection::open(predecessor.file()).unwrap();
    program
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             DELETE FROM oauth WHERE name = 'account_9'; BEGIN IMMEDIATE; DELETE FROM oauth;",
        )
        .unwrap();
    let before = files(&predecessor);
    assert_eq!(before.len(), 5);
    let (_, importer) = empty().await;
    let done = predecessor.import(&importer).await;
    assert_eq!(done, Imported { imported: 9, ..Imported::default() });
    assert!(files(&predecessor) == before);
    program.execute_batch("ROLLBACK").unwrap();
}

#[tokio::test]
async fn vlt_4_a_log_that_nobody_has_taken_up_is_not_passed_over() {
    let predecessor = Predecessor::new(10);
    let program = rusqlite::Connection::open(predecessor.file()).unwrap();
    program
        .execute_batch("PRAGMA journal_mode = WAL; DELETE FROM oauth WHERE name = 'account_9'")
        .unwrap();
    let copy = Predecessor {
        folder: tempfile::tempdir().unwrap(),
        key: predecessor.key.clone(),
        plain: vec![],
    };
    for name in ["old.db", "old.db-wal"] {
        std::fs::copy(predecessor.folder.path().join(name), copy.folder.path().join(name)).unwrap();
    }
    let before = files(&copy);
    let (_, importer) = empty().await;
    let err = refused(&importer, copy.table(), copy.keys()).await;
    assert!(
        matches!(err, Error::WrongState { .. }) && err.to_string().contains("wal_checkpoint"),
        "{err}"
    );
    assert!(files(&copy) == before);
    // As it says.
    copy.run("PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(copy.import(&importer).await.imported, 9);
}

#[tokio::test]
async fn vlt_4_names_that_are_not_there_are_said_with_those_that_are() {
    let predecessor = Predecessor::new(1);
    predecessor.run("CREATE TABLE `odd ``name` (x)");
    let (store, importer) = empty().await;
    let mut table = predecessor.table();
    table.table = "oath".into();
    let err = refused(&importer, table, predecessor.keys()).await.to_string();
    assert!(err.contains("table `oath`") && err.ends_with("there is oauth, odd `name"), "{err}");
    let mut table = predecessor.table();
    table.columns.access = "tokens".into();
    let err = refused(&importer, table, predecessor.keys()).await.to_string();
    assert!(err.contains("column `tokens`") && err.contains("name, number, token,"), "{err}");
    let mut table = predecessor.table();
    table.table = "odd `name".into();
    let err = refused(&importer, table, predecessor.keys()).await.to_string();
    assert!(err.contains("there is x"), "{err}");
    let mut table = predecessor.table();
    table.provider = "nobody".into();
    let err = refused(&importer, table, predecessor.keys()).await;
    assert!(matches!(err, Error::NotFound { .. }), "{err}");
    let mut table = predecessor.table();
    table.file = predecessor.folder.path().join("none.db");
    let err = refused(&importer, table, predecessor.keys()).await;
    assert!(matches!(err, Error::NotFound { .. }) && err.to_string().contains("none.db"), "{err}");
    assert!(!predecessor.folder.path().join("none.db").exists());
    std::fs::write(
        predecessor.folder.path().join("none.db"),
        "no database, but longer than a header of one would be",
    )
    .unwrap();
    let mut table = predecessor.table();
    table.file = predecessor.folder.path().join("none.db");
    let err = refused(&importer, table, predecessor.keys()).await;
    assert!(matches!(err, Error::Corrupt { .. }), "{err}");
    assert_eq!(all(&*store).await, []);
}

#[tokio::test]
async fn vlt_4_a_file_that_changes_meanwhile_is_noticed() {
    let predecessor = Predecessor::new(10);
    predecessor.run("PRAGMA journal_mode = WAL");
    let foreign = table::Foreign::open(&predecessor.file()).unwrap();
    foreign.unchanged().unwrap();
    // Its last connection writes the log into the file.
    predecessor.run("DELETE FROM oauth WHERE name = 'account_9'");
    assert!(matches!(foreign.unchanged(), Err(Error::Conflict { .. })));
}
