//! Rows, as Python has made them and as they get damaged.

use super::*;
use crate::store::sqlite::SqliteOptions;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vlt_4_a_hundred_thousand_rows_are_broken_off_continued_and_byte_equal() {
    const ROWS: u32 = 100_000;
    let predecessor = Predecessor::new(ROWS);
    let (kek, folder) = (KeyText::new(), tempfile::tempdir().unwrap());
    let file = folder.path().join("store.db");
    let begun = Instant::now();
    {
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&file, SqliteOptions::default()).unwrap());
        let importer = importer(&open(&store, &kek, &[]).await);
        let halfway = async {
            loop {
                let counts = store.count_grants().await.unwrap();
                if counts.iter().map(|(_, _, count)| count).sum::<u64>() >= u64::from(ROWS) / 3 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            done = predecessor.import(&importer) => panic!("it was not broken off: {}", done.imported),
            () = halfway => {}
        }
    }
    let store: Arc<dyn Store> =
        Arc::new(SqliteStore::open(&file, SqliteOptions::default()).unwrap());
    let importer = importer(&open(&store, &kek, &[]).await);
    let done = predecessor.import(&importer).await;
    eprintln!("{ROWS} rows, broken off and continued: {:?}", begun.elapsed());
    assert_eq!((done.imported + done.present, &done.skipped[..]), (ROWS.into(), &[][..]));
    assert!(done.imported > 0 && done.present >= u64::from(ROWS) / 3, "{done:?}");
    assert_equal(&importer, &predecessor).await;
    let begun = Instant::now();
    let again = predecessor.import(&importer).await;
    eprintln!("the same once more: {:?}", begun.elapsed());
    assert_eq!(again, Imported { present: ROWS.into(), ..Imported::default() });
}

#[tokio::test]
async fn vlt_4_a_wrong_key_imports_nothing_and_says_so_of_each_row() {
    let predecessor = Predecessor::new(50);
    let (store, importer) = empty().await;
    let other = FernetKey::from_sha256(&"another".into());
    let keys = FernetKeys::new(vec![other]).unwrap();
    let done = importer.fernet(predecessor.table(), keys).await.unwrap();
    assert_eq!((done.imported, done.present, done.skipped.len()), (0, 0, 50));
    assert!(reason(&done, "account_7").contains("access token does not verify"), "{done:?}");
    assert_says_nothing(&done);
    assert_eq!(all(&*store).await, []);
}

#[tokio::test]
async fn vlt_4_damaged_rows_are_reported_and_the_others_imported() {
    let mut predecessor = Predecessor::new(3_000);
    predecessor.run(
        "UPDATE oauth SET token = substr(token, 1, length(token) - 8) WHERE name = 'account_1';
         UPDATE oauth SET token = substr(token, 1, 40) WHERE name = 'account_2';
         UPDATE oauth SET renewal = replace(CAST(renewal AS TEXT), substr(renewal, 30, 1), '_') WHERE name = 'account_1500';
         UPDATE oauth SET token = 12345 WHERE name = 'account_4';
         UPDATE oauth SET token = NULL WHERE name = 'account_5';
         UPDATE oauth SET token = 'access-in-clear' WHERE name = 'account_6';
         UPDATE oauth SET valid_until = 3600 WHERE name = 'account_7';
         UPDATE oauth SET rights = '[1' WHERE name = 'account_8';
         UPDATE oauth SET name = NULL, number = NULL WHERE name = 'account_10';
         UPDATE oauth SET name = 'with blank' WHERE name = 'account_11';
         UPDATE oauth SET name = token, token = name WHERE name = 'account_2999';",
    );
    let (_, importer) = empty().await;
    let done = predecessor.import(&importer).await;
    let mixed_up = "row 3000";
    for (account, expected) in [
        ("account_1", "does not verify"),
        ("account_2", "no Fernet token"),
        ("account_1500", "its refresh token does not verify"),
        ("account_4", "is a number"),
        ("account_5", "has no access token"),
        ("account_6", "its access token is"),
        ("account_7", "its expiry is no time"),
        ("account_8", "its scopes"),
        ("row 11", "has no account"),
        ("with blank", "no name"),
        (mixed_up, "its access token is"),
    ] {
        assert!(reason(&done, account).contains(expected), "{account}: {}", reason(&done, account));
    }
    assert_says_nothing(&done);
    assert_eq!((done.imported, done.skipped.len()), (2_989, 11));
    let lost = [1, 2, 4, 5, 6, 7, 8, 10, 11, 1_500, 2_999].map(|n| format!("account_{n}"));
    predecessor.plain.retain(|plain| !lost.contains(&plain.account));
    assert_equal(&importer, &predecessor).await;
}

#[tokio::test]
async fn vlt_4_a_row_without_an_account_is_known_by_its_number() {
    let predecessor = Predecessor::new(3);
    predecessor.run("UPDATE oauth SET name = NULL WHERE name = 'account_1'");
    let (_, importer) = empty().await;
    assert_eq!(predecessor.import(&importer).await.imported, 3);
    assert!(opened(&importer).await.contains_key("1001"));
}

#[tokio::test]
async fn vlt_4_what_is_there_is_compared_and_never_overwritten() {
    let predecessor = Predecessor::new(20);
    let (store, importer) = empty().await;
    // Once more in the same table: the same row, and one of the same account with other tokens.
    predecessor.run(
        "INSERT INTO oauth SELECT * FROM oauth WHERE name = 'account_3';
         INSERT INTO oauth SELECT 'account_4', number, token, renewal, valid_until, rights FROM oauth WHERE name = 'account_5';",
    );
    let first = predecessor.import(&importer).await;
    assert_eq!((first.imported, first.present, first.skipped.len()), (20, 1, 1));
    assert_eq!(reason(&first, "account_4"), "has other tokens in the vault, which were kept");
    assert_equal(&importer, &predecessor).await;
    // Its access token was refreshed since, where it came from; another was given up here.
    predecessor.run(
        "UPDATE oauth SET token = (SELECT token FROM oauth WHERE name = 'account_6') WHERE name = 'account_7'",
    );
    let gone = all(&*store).await.swap_remove(0);
    assert_eq!(gone.grant.key.account, "account_0");
    let revoked = GrantState::Revoked { since: Timestamp(9), reason: "by hand".into() };
    let status = GrantStatus { state: revoked, ..gone.status };
    store.shred_grant(gone.grant.id, status, Timestamp(9)).await.unwrap();
    let second = predecessor.import(&importer).await;
    assert_eq!((second.imported, second.present, second.skipped.len()), (0, 20, 2));
    assert!(reason(&second, "account_0").contains("as revoked, without tokens"), "{second:?}");
    assert_eq!(store.sealed_tokens(gone.grant.id).await.unwrap(), []);
}

#[tokio::test]
async fn vlt_6_imported_tokens_do_not_come_due_together() {
    let predecessor = Predecessor::new(2_000);
    let (store, importer) = empty().await;
    let before = Timestamp::from(SystemTime::now());
    predecessor.import(&importer).await;
    let (mut minutes, mut known) = ([0_u32; 60], 0);
    for record in all(&*store).await {
        let GrantRecord { grant, expiry, status, .. } = record;
        assert_eq!((grant.client.as_str(), grant.flow), ("main", GrantFlow::Imported));
        assert!(grant.scopes.iter().eq(["chat:edit", "chat:read"]), "{:?}", grant.scopes);
        let from = grant.created_at;
        assert!(from >= before && status.next_validate_at.unwrap() <= from.plus(SOON));
        let number: i64 = grant.key.account["account_".len()..].parse().unwrap();
        let refresh = status.next_refresh_at.map(|at| at.since(from));
        if let Some(end) = expiry.access {
            assert_eq!(end.0, (1_893_456_000 + number % 14_400) * 1_000_000, "{number}");
            known += 1;
            let life = end.since(from).as_secs_f64();
            let share = refresh.unwrap().as_secs_f64() / life;
            let expected = if number % 10 == 9 { 1.0..1.001 } else { 0.75..0.8501 };
            assert!(expected.contains(&share), "{number}: {share}");
        } else {
            assert_eq!(number % 4, 3);
            let Some(refresh) = refresh else { continue };
            minutes[usize::try_from(refresh.as_secs() / 60).unwrap().min(59)] += 1;
        }
    }
    assert_eq!(known, 1_500);
    assert!(minutes.iter().filter(|count| **count > 0).count() > 50, "{minutes:?}");
}
