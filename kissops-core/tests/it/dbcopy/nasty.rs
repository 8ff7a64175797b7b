//! Definitions at the edges of what `SQLite` allows.

use kissops_core::{
    Error,
    dbcopy::{OnMismatch, silent},
};

use super::{Bench, Options, with};

#[tokio::test]
async fn self_references_composite_keys_and_deferred_ones() {
    let sql = "
        CREATE TABLE node(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES node ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE place(a TEXT, b INTEGER, PRIMARY KEY(b, a));
        CREATE TABLE visit(id INTEGER PRIMARY KEY, x INTEGER, y TEXT, FOREIGN KEY(x, y) REFERENCES place(b, a) ON UPDATE CASCADE);
        INSERT INTO node VALUES (1, 3), (2, 1), (3, NULL);
        INSERT INTO place VALUES ('p', 1); INSERT INTO visit VALUES (1, 1, 'p'), (2, NULL, 'nowhere');";
    let Some(bench) = Bench::new(sql).await else { return };
    bench.copy(Options::default()).await.unwrap();
    let keys = "SELECT string_agg(pg_get_constraintdef(oid), '; ' ORDER BY conrelid::regclass::text) FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(
        bench.answer(keys).await,
        "FOREIGN KEY (parent) REFERENCES node(id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED; \
         FOREIGN KEY (x, y) REFERENCES place(b, a) ON UPDATE CASCADE"
    );
}

#[tokio::test]
async fn names_that_are_words_quotes_and_capitals() {
    let sql = "CREATE TABLE \"select \"\"it\"\"\"(\"from\" INTEGER PRIMARY KEY, \"two words\" TEXT, [brackets] TEXT, `ticks` TEXT,
                 ünïcode TEXT, rowid TEXT, \"it's\" TEXT CHECK(\"it's\" <> ''));
               CREATE INDEX \"my Index\" ON \"select \"\"it\"\"\"(\"two words\" DESC, ünïcode);
               INSERT INTO \"select \"\"it\"\"\" VALUES (1, 'a', 'b', 'c', 'd', 'e', 'f');";
    let Some(bench) = Bench::new(sql).await else { return };
    let all = "SELECT concat(\"two words\", brackets, ticks, \"ünïcode\", rowid, \"it's\") FROM \"select \"\"it\"\"\"";
    assert_eq!(bench.copied(all).await, "abcdef");
    let index =
        "SELECT count(*) FROM pg_indexes WHERE indexname = 'my Index' AND indexdef LIKE '%DESC%'";
    assert_eq!(bench.answer(index).await, "1");
}

#[tokio::test]
async fn checks_indexes_and_generated_columns_mean_the_same() {
    let sql = "
        CREATE TABLE t(
          id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, flag BOOLEAN CHECK(flag IN (0, 1)), n INTEGER DEFAULT -3,
          at DATETIME CHECK(at > '2000-01-01'), code TEXT CHECK(code GLOB '[A-Z][0-9]*' AND length(code) BETWEEN 2 AND 9),
          total INTEGER GENERATED ALWAYS AS (coalesce(n, 0) * 10 + flag) VIRTUAL,
          label TEXT AS (CASE WHEN n IS NULL THEN 'none' ELSE upper(code) || '-' || n END) STORED,
          CHECK(n IS NULL OR typeof(n) = 'integer' AND n % 2 = 1), CONSTRAINT named CHECK(NOT (flag AND n < -100)));
        CREATE UNIQUE INDEX exact ON t(name COLLATE BINARY);
        CREATE INDEX folded ON t(lower(code), n DESC) WHERE flag AND name IS NOT NULL;
        INSERT INTO t(name, flag, n, at, code) VALUES ('Ann', 1, 5, '2024-01-02', 'A1'), ('ann', 0, NULL, NULL, 'B2x'), (NULL, 1, 7, '2024-01-02 00:00:01', 'C3');";
    let Some(bench) = Bench::new(sql).await else { return };
    bench.copy(Options::default()).await.unwrap();
    let shown = "SELECT string_agg(total || label, ' ' ORDER BY id) FROM t";
    assert_eq!(bench.answer(shown).await, "51A1-5 0none 71C3-7");
    for bad in [
        "(flag, n) VALUES (true, -201)",
        "(n) VALUES (2)",
        "(code) VALUES ('1')",
        "(at) VALUES ('1999-01-01')",
    ] {
        let added = bench.answer(&format!("INSERT INTO t{bad} RETURNING id")).await;
        assert!(added.contains("violates check constraint"), "{bad}: {added}");
    }
    let same = bench.answer("INSERT INTO t(name, n) VALUES ('Ann', 1) RETURNING id").await;
    assert!(same.contains("duplicate"), "{same}");
    let other = bench.answer("INSERT INTO t(name, n) VALUES ('ANN', 1) RETURNING n").await;
    assert_eq!(other, "(1)");
}

#[tokio::test]
async fn what_has_no_counterpart_is_named_and_refused_unless_told() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, j TEXT CHECK(json_valid(j)), r BLOB DEFAULT (randomblob(16)),
                 k TEXT AS (json_extract(j, '$.k')) STORED);
               CREATE INDEX i ON t(json_extract(j, '$.k')); INSERT INTO t(j) VALUES ('{\"k\": \"v\"}');
               CREATE TABLE lost(id INTEGER REFERENCES nowhere(id));";
    let Some(bench) = Bench::new(sql).await else { return };
    let plan = bench.refused(Options::default()).await;
    let mut left: Vec<_> = plan.not_copied.iter().map(|one| one.what.as_str()).collect();
    left.sort_unstable();
    assert_eq!(
        left,
        ["check", "default", "expression of the generated column", "foreign key", "index"]
    );
    bench.copy(Options { skip_untranslatable: true, ..Options::default() }).await.unwrap();
    assert_eq!(bench.answer("SELECT k FROM t").await, "v");
}

#[tokio::test]
async fn columns_without_types_take_what_is_stored() {
    let sql = "CREATE TABLE t(ints, floats, texts, blobs, mixed, empty, s STRING, ref REFERENCES p); CREATE TABLE p(id INTEGER PRIMARY KEY);
               INSERT INTO t VALUES (1, 1.5, 'x', x'00', 1, NULL, 'y', NULL), (2, 2, 'z', x'ff', 'two', NULL, 7, NULL);";
    let Some(bench) = Bench::new(sql).await else { return };
    let types = "SELECT string_agg(data_type, ', ' ORDER BY ordinal_position) FROM information_schema.columns WHERE table_name = 't'";
    assert_eq!(
        bench.copied(types).await,
        "bigint, double precision, text, bytea, text, text, text, bigint"
    );
    assert_eq!(bench.answer("SELECT string_agg(mixed, ',') FROM t").await, "1,two");
}

#[tokio::test]
async fn strict_any_json_numeric_and_wide_numbers() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, a ANY, i INT, r REAL) STRICT;
               CREATE TABLE n(d DECIMAL(6,2), free NUMERIC, j JSON);
               INSERT INTO t VALUES (1, 9007199254740993, 9007199254740993, 1e300);
               INSERT INTO n VALUES (1234.5, 0.1, '{\"b\":1, \"a\":2}'), (-0.05, 123456789012345678, '[1]'), (0, 1e-7, 'true');";
    let Some(bench) = Bench::new(sql).await else { return };
    bench.copy(Options::default()).await.unwrap();
    assert_eq!(bench.answer("SELECT a || ' ' || r FROM t").await, "9007199254740993 1e+300");
    assert_eq!(bench.answer("SELECT string_agg(d::text, ' ') FROM n").await, "1234.50 -0.05 0.00");
    assert_eq!(
        bench.answer("SELECT string_agg(free::text, ' ') FROM n").await,
        "0.1 123456789012345678 0.0000001"
    );
    assert_eq!(bench.answer("SELECT j FROM n WHERE d > 1").await, "{\"b\":1, \"a\":2}");
}

#[tokio::test]
async fn numbers_wider_than_declared_lose_the_limit_only() {
    let sql = "CREATE TABLE n(id INTEGER PRIMARY KEY, d DECIMAL(4,1)); INSERT INTO n VALUES (1, 1.25), (2, 12345)";
    let Some(bench) = Bench::new(sql).await else { return };
    bench.refused(with(OnMismatch::Fail)).await;
    bench.copy(with(OnMismatch::Text)).await.unwrap();
    assert_eq!(
        bench.answer("SELECT string_agg(d::text, ' ' ORDER BY id) FROM n").await,
        "1.25 12345"
    );
}

#[tokio::test]
async fn broken_text_blobs_in_text_and_null_keys_are_found() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT); CREATE TABLE k(name TEXT PRIMARY KEY);
               INSERT INTO t VALUES (1, CAST(x'ff41' AS TEXT)), (2, x'4142'), (3, 'fine'); INSERT INTO k VALUES (NULL), ('a');";
    let Some(bench) = Bench::new(sql).await else { return };
    let plan = bench.refused(with(OnMismatch::Text)).await;
    let found: Vec<_> = plan
        .findings
        .iter()
        .map(|one| format!("{}.{} {}", one.table, one.column, one.rows.join(",")))
        .collect();
    assert_eq!(found, ["t.s 1", "t.s 2", "k.name 1"]);
}

#[tokio::test]
async fn nocase_doubles_beyond_ascii_are_found_first() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT COLLATE NOCASE UNIQUE); INSERT INTO t VALUES (1,'É'),(2,'é')";
    let Some(bench) = Bench::new(sql).await else { return };
    let plan = bench.refused(Options::default()).await;
    assert!(plan.findings[0].problem.contains("beyond ASCII"), "{:?}", plan.findings);
}

#[tokio::test]
async fn full_text_tables_are_left_with_their_shadows() {
    let sql = "CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES ('hello'); CREATE TABLE t(id INTEGER PRIMARY KEY)";
    let Some(bench) = Bench::new(sql).await else { return };
    let report = bench.copy(Options::default()).await.unwrap();
    assert_eq!(report.tables.iter().map(|table| table.table.as_str()).collect::<Vec<_>>(), ["t"]);
}

#[tokio::test]
async fn chosen_tables_into_a_schema_of_their_own() {
    let sql = "CREATE TABLE a(id INTEGER PRIMARY KEY); CREATE TABLE b(id INTEGER PRIMARY KEY, a REFERENCES a);
               INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1);";
    let Some(bench) = Bench::new(sql).await else { return };
    let options = Options {
        schema: "My bot".to_owned(),
        exclude: vec!["A".to_owned()],
        ..Options::default()
    };
    bench.copy(options).await.unwrap();
    assert_eq!(bench.answer("SELECT count(*) FROM \"My bot\".b").await, "1");
    let none = bench.prepare(Options { only: vec!["typo".to_owned()], ..Options::default() }).await;
    assert!(matches!(none.unwrap_err(), Error::NotFound { .. }));
}

#[tokio::test]
async fn a_target_with_such_tables_is_refused_untouched() {
    let Some(bench) =
        Bench::new("CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)").await
    else {
        return;
    };
    bench.copy(Options::default()).await.unwrap();
    let again = bench.prepare(Options::default()).await.unwrap_err();
    assert!(again.to_string().contains("not empty, it has t"), "{again}");
    assert_eq!(bench.answer("SELECT count(*) FROM t").await, "1");
}

#[tokio::test]
async fn utf16_files_and_names_too_long() {
    let long = "x".repeat(64);
    let sql = format!(
        "PRAGMA encoding = 'UTF-16'; CREATE TABLE t(s TEXT); INSERT INTO t VALUES ('grün 😂'); CREATE TABLE {long}(n)"
    );
    let Some(bench) = Bench::new(&sql).await else { return };
    let plan = bench.refused(Options::default()).await;
    assert!(plan.not_copied[0].reason.contains("63 bytes"));
    bench.copy(Options { exclude: vec![long], ..Options::default() }).await.unwrap();
    assert_eq!(bench.answer("SELECT s FROM t").await, "grün 😂");
}

#[tokio::test]
async fn an_empty_file_and_a_plan_without_a_target() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, d DATE)")
        .unwrap();
    let copier = kissops_core::dbcopy::Copier::prepare(&path, None, Options::default(), &silent())
        .await
        .unwrap();
    assert!(
        copier.plan().ddl().contains("\"d\" timestamp with time zone"),
        "{}",
        copier.plan().ddl()
    );
    assert!(matches!(copier.run(&silent()).await.unwrap_err(), Error::WrongState { .. }));
}
