//! Values and definitions that copies are known to get wrong: each is right here, or refused before anything is written.

use kissops_core::dbcopy::OnMismatch;

use super::{Bench, with};

const TIMES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, d DATETIME); INSERT INTO t VALUES";

#[tokio::test]
async fn boolean_stored_as_words() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, b BOOLEAN); INSERT INTO t VALUES(1,'t'),(2,'yes'),(3,1),(4,0)";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(bench.copied("SELECT count(*) FROM t WHERE b").await, "3");
}

#[tokio::test]
async fn datetime_with_z_offset_and_fractions() {
    let values =
        "(1,'2024-01-02T03:04:05Z'),(2,'2024-01-02 03:04:05+02:00'),(3,'2024-01-02 03:04:05.123')";
    let Some(bench) = Bench::new(&format!("{TIMES}{values}")).await else { return };
    assert_eq!(bench.copied("SELECT count(d) FROM t").await, "3");
    let shown =
        "SELECT string_agg(to_char(d AT TIME ZONE 'UTC', 'HH24:MI:SS.MS'), ' ' ORDER BY id) FROM t";
    assert_eq!(bench.answer(shown).await, "03:04:05.000 01:04:05.000 03:04:05.123");
}

#[tokio::test]
async fn datetime_empty_and_zero() {
    let Some(bench) = Bench::new(&format!("{TIMES}(1,''),(2,0),(3,'2024-01-02 03:04:05')")).await
    else {
        return;
    };
    let plan = bench.refused(with(OnMismatch::Fail)).await;
    let found: Vec<_> = plan.findings.iter().map(|one| (one.count, one.rows.join(","))).collect();
    assert_eq!(found, [(1, "1".to_owned()), (1, "2".to_owned())]);
    bench.copy(with(OnMismatch::Null)).await.unwrap();
    assert_eq!(bench.answer("SELECT count(*) || '/' || count(d) FROM t").await, "3/1");
}

#[tokio::test]
async fn datetime_as_text_where_it_cannot_be_a_time() {
    let Some(bench) = Bench::new(&format!("{TIMES}(1,''),(2,0),(3,'2024-01-02 03:04:05')")).await
    else {
        return;
    };
    bench.copy(with(OnMismatch::Text)).await.unwrap();
    let all = bench.answer("SELECT string_agg(d, '|' ORDER BY id) FROM t").await;
    assert_eq!(all, "|0|2024-01-02 03:04:05");
}

#[tokio::test]
async fn datetime_held_as_unix_seconds() {
    let Some(bench) = Bench::new(&format!("{TIMES}(1,1704164645)")).await else { return };
    assert_eq!(bench.copied("SELECT extract(year from d)::int FROM t").await, "2024");
}

#[tokio::test]
async fn datetime_held_as_milliseconds_and_text() {
    let Some(bench) = Bench::new(&format!("{TIMES}(1,1704164645000),(2,'2024-01-02')")).await
    else {
        return;
    };
    assert_eq!(
        bench.copied("SELECT extract(epoch from d)::int FROM t WHERE id = 1").await,
        "1704164645"
    );
}

#[tokio::test]
async fn datetime_in_two_units_is_refused() {
    let Some(bench) =
        Bench::new(&format!("{TIMES}(1,1704164645),(2,1704164645),(3,1704164645000)")).await
    else {
        return;
    };
    let plan = bench.refused(with(OnMismatch::Fail)).await;
    assert_eq!(plan.findings[0].rows, ["3"]);
}

#[tokio::test]
async fn datetime_held_as_julian_day() {
    let Some(bench) = Bench::new(&format!("{TIMES}(1,2460311.5)")).await else { return };
    assert_eq!(bench.copied("SELECT extract(year from d)::int FROM t").await, "2024");
}

#[tokio::test]
async fn text_in_an_integer_column() {
    let sql =
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t VALUES(1,'n/a'),(2,7)";
    let Some(bench) = Bench::new(sql).await else { return };
    let plan = bench.refused(with(OnMismatch::Fail)).await;
    assert_eq!(
        (plan.findings[0].column.as_str(), plan.findings[0].rows.join(",")),
        ("n", "1".to_owned())
    );
    bench.copy(with(OnMismatch::Text)).await.unwrap();
    assert_eq!(bench.answer("SELECT string_agg(n, ',' ORDER BY id) FROM t").await, "n/a,7");
}

#[tokio::test]
async fn nul_inside_text_is_refused() {
    let sql =
        "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT); INSERT INTO t VALUES(1,'a'||char(0)||'b')";
    let Some(bench) = Bench::new(sql).await else { return };
    bench.refused(with(OnMismatch::Fail)).await;
    bench.refused(with(OnMismatch::Text)).await;
    bench.copy(with(OnMismatch::Null)).await.unwrap();
    assert_eq!(bench.answer("SELECT coalesce(max(s),'refused') FROM t").await, "refused");
}

#[tokio::test]
async fn longer_text_than_declared() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, s VARCHAR(5)); INSERT INTO t VALUES(1,'much longer'),(2,'c')";
    let Some(bench) = Bench::new(sql).await else { return };
    bench.refused(with(OnMismatch::Fail)).await;
    bench.copy(with(OnMismatch::Text)).await.unwrap();
    assert_eq!(bench.answer("SELECT max(s) FROM t").await, "much longer");
}

#[tokio::test]
async fn text_stored_in_a_blob_column() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB); INSERT INTO t VALUES(1,'plain'),(2,x'00ff10')";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(bench.copied("SELECT encode(b,'hex') FROM t WHERE id=1").await, "706c61696e");
    assert_eq!(bench.answer("SELECT encode(b,'hex') FROM t WHERE id=2").await, "00ff10");
}

#[tokio::test]
async fn integers_of_64_bits() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER);
               INSERT INTO t VALUES(1,9223372036854775807),(2,-9223372036854775808)";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(bench.copied("SELECT n FROM t WHERE id = 1").await, "9223372036854775807");
    assert_eq!(bench.answer("SELECT n FROM t WHERE id = 2").await, "-9223372036854775808");
}

#[tokio::test]
async fn infinity_in_real() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, r REAL); INSERT INTO t VALUES(1,9e999),(2,1.5),(3,-9e999)";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(
        bench.copied("SELECT string_agg(r::text, ' ' ORDER BY id) FROM t").await,
        "Infinity 1.5 -Infinity"
    );
}

#[tokio::test]
async fn float_keeps_all_digits() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, r REAL); INSERT INTO t VALUES(1,0.1234567890123456)";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(bench.copied("SELECT r FROM t").await, "0.1234567890123456");
}

#[tokio::test]
async fn default_of_julianday() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, d REAL DEFAULT (julianday('now'))); INSERT INTO t(id) VALUES(1)";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(bench.copied("SELECT count(*) FROM t").await, "1");
    let added =
        bench.answer("INSERT INTO t DEFAULT VALUES RETURNING d > 2461000 AND d < 2800000").await;
    assert_eq!(added, "(t)");
}

#[tokio::test]
async fn defaults_of_datetime_and_strftime() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, d DATETIME DEFAULT (datetime('now')),
               e INTEGER DEFAULT (strftime('%s','now'))); INSERT INTO t(id) VALUES(1)";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(bench.copied("SELECT count(*) FROM t").await, "1");
    let added = bench
        .answer("INSERT INTO t DEFAULT VALUES RETURNING abs(extract(epoch from d) - e) < 2")
        .await;
    assert_eq!(added, "(t)");
}

#[tokio::test]
async fn reserved_names_and_mixed_case() {
    let sql = "CREATE TABLE \"Order\"(\"Id\" INTEGER PRIMARY KEY, \"user\" TEXT); INSERT INTO \"Order\" VALUES(1,'x')";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(bench.copied("SELECT \"user\" FROM \"Order\"").await, "x");
}

#[tokio::test]
async fn generated_column() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b INT AS (a*2) STORED); INSERT INTO t(id,a) VALUES(1,2)";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(bench.copied("SELECT b FROM t").await, "4");
    assert_eq!(bench.answer("INSERT INTO t(a) VALUES(21) RETURNING b").await, "(42)");
}

#[tokio::test]
async fn without_rowid_and_a_key_of_two_columns() {
    let sql = "CREATE TABLE t(a TEXT, b INT, c TEXT, PRIMARY KEY(a,b)) WITHOUT ROWID; INSERT INTO t VALUES('x',1,'y')";
    let Some(bench) = Bench::new(sql).await else { return };
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype='p' AND connamespace='public'::regnamespace";
    assert_eq!(bench.copied(keys).await, "1");
}

#[tokio::test]
async fn view_and_trigger_are_named_as_not_copied() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT); CREATE VIEW v AS SELECT n FROM t;
               CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END; INSERT INTO t VALUES(1,1)";
    let Some(bench) = Bench::new(sql).await else { return };
    let copier = bench.prepare(with(OnMismatch::Fail)).await.unwrap();
    let left: Vec<_> =
        copier.plan().not_copied.iter().map(|one| (one.what.as_str(), one.name.as_str())).collect();
    assert_eq!(left, [("view", "v"), ("trigger", "g")]);
    assert!(!copier.plan().is_refused());
}

#[tokio::test]
async fn empty_autoincrement_table_gets_a_sequence() {
    let Some(bench) =
        Bench::new("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, n INT)").await
    else {
        return;
    };
    assert_eq!(bench.copied("SELECT pg_get_serial_sequence('t','id') IS NOT NULL").await, "true");
    assert_eq!(bench.answer("INSERT INTO t(n) VALUES(1) RETURNING id").await, "(1)");
}

const ORPHAN: &str = "CREATE TABLE p(id INTEGER PRIMARY KEY);
    CREATE TABLE t(id INTEGER PRIMARY KEY, p INT REFERENCES p(id)); INSERT INTO t VALUES(1,99)";

#[tokio::test]
async fn orphan_is_refused_or_its_row_kept() {
    let Some(bench) = Bench::new(ORPHAN).await else { return };
    let plan = bench.refused(with(OnMismatch::Fail)).await;
    assert_eq!(
        (plan.findings[0].table.as_str(), plan.findings[0].rows.join(",")),
        ("t", "1".to_owned())
    );
    bench.copy(with(OnMismatch::Null)).await.unwrap();
    assert_eq!(bench.answer("SELECT count(*) FROM t WHERE p IS NULL").await, "1");
}

#[tokio::test]
async fn orphan_keeps_the_foreign_key() {
    let Some(bench) = Bench::new(ORPHAN).await else { return };
    bench.copy(with(OnMismatch::Null)).await.unwrap();
    assert_eq!(bench.answer("SELECT count(*) FROM pg_constraint WHERE contype='f'").await, "1");
}

#[tokio::test]
async fn nocase_stays_unique_without_regard_to_case() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT COLLATE NOCASE UNIQUE); INSERT INTO t VALUES(1,'Ann')";
    let Some(bench) = Bench::new(sql).await else { return };
    let added = bench.copied("INSERT INTO t(id,s) VALUES(2,'ann') RETURNING id").await;
    assert!(added.starts_with("ERROR") && added.contains("duplicate"), "{added}");
    assert_eq!(bench.answer("SELECT s FROM t WHERE s = 'ANN'").await, "Ann");
}
