use std::{
    os::unix::fs::PermissionsExt as _,
    process::Command,
    time::{Instant, SystemTime},
};

use tempfile::TempDir;

use super::{
    super::fixtures::{KeyText, memory, open},
    *,
};
use crate::{
    store::{GrantQuery, Store, sqlite::SqliteStore},
    vault::{Client, FernetKey, FernetKeys, Profile},
};

mod foreign;
mod rows;
mod texts;

/// A database that Python has made, and what is in it.
struct Predecessor {
    folder: TempDir,
    key: SecretString,
    plain: Vec<Plain>,
}

struct Plain {
    account: String,
    access: String,
    refresh: Option<String>,
}

impl Predecessor {
    fn new(rows: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("old.db");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/vault/predecessor.py");
        let made = Command::new("python3").arg(script).arg(&file).arg(rows.to_string()).output();
        let made = made.expect("python3 with the package python3-cryptography");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let beside = |end: &str| std::fs::read_to_string(file.with_extension(end)).unwrap();
        let plain = beside("db.plain").lines().map(Plain::of).collect();
        Self { key: beside("db.key").into(), plain, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("old.db")
    }

    fn keys(&self) -> FernetKeys {
        FernetKeys::new(vec![FernetKey::parse(&self.key).unwrap()]).unwrap()
    }

    fn table(&self) -> FernetTable {
        let column = |name: &str| Some(name.to_owned());
        FernetTable {
            file: self.file(),
            table: "oauth".into(),
            columns: FernetColumns {
                account: "name".into(),
                access: "token".into(),
                refresh: column("renewal"),
                expires: column("valid_until"),
                scopes: column("rights"),
                user_id: column("number"),
            },
            provider: "twitch".into(),
        }
    }

    /// Changes the database as its own program would.
    fn run(&self, sql: &str) {
        rusqlite::Connection::open(self.file()).unwrap().execute_batch(sql).unwrap();
    }

    async fn import(&self, importer: &Importer) -> Imported {
        importer.fernet(self.table(), self.keys()).await.unwrap()
    }
}

impl Plain {
    fn of(line: &str) -> Self {
        let mut parts = line.split('\t').map(str::to_owned);
        let mut part = || parts.next().unwrap();
        let (account, access, refresh) = (part(), part(), part());
        Self { account, access, refresh: Some(refresh).filter(|token| !token.is_empty()) }
    }
}

fn importer(keyring: &Keyring) -> Importer {
    let client = Client { id: "main".into(), secret: Some("secret".into()) };
    let twitch = Provider::new("twitch", Profile::builtin("twitch").unwrap(), client).unwrap();
    Importer::new(keyring.clone(), Arc::new(Providers::new([twitch]))).unwrap()
}

async fn empty() -> (Arc<dyn Store>, Importer) {
    let store = memory();
    let keyring = open(&store, &KeyText::new(), &[]).await;
    (store, importer(&keyring))
}

/// Every grant there is.
async fn all(store: &dyn Store) -> Vec<GrantRecord> {
    let mut records: Vec<GrantRecord> = Vec::new();
    loop {
        let after = records.last().map(|record| record.grant.id);
        let page = store.grants(GrantQuery { after, limit: 5_000, ..GrantQuery::default() });
        let page = page.await.unwrap();
        if page.is_empty() {
            return records;
        }
        records.extend(page);
    }
}

/// The tokens of every grant, by account: access, refresh.
async fn opened(importer: &Importer) -> HashMap<String, (String, Option<String>)> {
    let mut found = HashMap::new();
    for records in all(&*importer.keyring.inner.store).await.chunks(1_000) {
        let mut tokens = importer.open_all(records).await.unwrap();
        for record in records {
            let mut text = |kind| {
                let open = tokens.get_mut(&record.grant.id).unwrap();
                let at = open.iter().position(|token| token.id.kind == kind)?;
                Some(String::from_utf8(open.swap_remove(at).plain.to_vec()).unwrap())
            };
            let pair = (text(TokenKind::Access).unwrap(), text(TokenKind::Refresh));
            found.insert(record.grant.key.account.clone(), pair);
        }
    }
    found
}

async fn assert_equal(importer: &Importer, predecessor: &Predecessor) {
    let mut found = opened(importer).await;
    for Plain { account, access, refresh } in &predecessor.plain {
        let kept = found.remove(account).unwrap_or_else(|| panic!("{account} is missing"));
        assert_eq!(kept, (access.clone(), refresh.clone()), "{account}");
    }
    assert!(found.is_empty(), "{:?}", found.keys());
}

/// No token, sealed or not, is in a report.
fn assert_says_nothing(done: &Imported) {
    let text = format!("{done:?}");
    for secret in ["gAAAA", "access-", "refresh-"] {
        assert!(!text.contains(secret), "{text}");
    }
}

fn reason<'a>(done: &'a Imported, account: &str) -> &'a str {
    let found: Vec<_> = done.skipped.iter().filter(|one| one.account == account).collect();
    let [one] = found[..] else { panic!("{account}: {found:?} of {done:?}") };
    &one.reason
}
