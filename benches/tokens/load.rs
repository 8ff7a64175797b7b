//! 100,000 grants that are due at once, each with ten callers that wait for it: what `run.py` starts and measures.
//!
//! `load fill FOLDER FILE` seals the accounts of the mock provider (`/_mock/import`) into a store; all of them have expired
//! a moment ago. `load run FOLDER URL CALLERS` refreshes them, and prints what it took as JSON: a process of its own, so
//! that its memory is that of refreshing alone.
#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kissops_core::{
    Timestamp,
    store::{
        AuthorizedGrant, Generation, GrantExpiry, GrantFlow, GrantId, GrantKey, GrantQuery,
        GrantState, GrantStatus, GrantStore, NewGrant, Store, TokenId, TokenKind,
        sqlite::{SqliteOptions, SqliteStore},
    },
    vault::{
        AccessToken, Client, GrantIdentity, Kek, Keyring, Keys, Place, Profile, Provider,
        Providers, SystemTime, TokenVault, Vault, VaultTime as _,
    },
};
use serde::Deserialize;
use tokio::task::JoinSet;

/// Grants that are waited for at once.
const AT_ONCE: usize = 1024;
/// In flight at most.
const CONCURRENCY: usize = 256;
const PAGE: u32 = 1000;
/// A second apart.
const TRIES: usize = 60;

#[derive(Deserialize)]
struct Row {
    account: String,
    access_token: String,
    refresh_token: String,
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // As the daemon: one thread, and those of the store.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match words[..] {
        ["fill", folder, file] => runtime.block_on(fill(Path::new(folder), file)),
        ["run", folder, url, callers] => {
            runtime.block_on(run(Path::new(folder), url, callers.parse().unwrap()));
        }
        _ => eprintln!("load fill FOLDER FILE | load run FOLDER URL CALLERS: run.py does it"),
    }
}

fn open(folder: &Path) -> (Arc<dyn Store>, Keys) {
    let file = folder.join("key");
    if !file.exists() {
        use secrecy::ExposeSecret as _;
        fs::write(&file, Kek::generate().unwrap().expose_secret()).unwrap();
    }
    let key = Kek::parse(&fs::read_to_string(file).unwrap().into()).unwrap();
    let store = SqliteStore::open(folder.join("kissops.db"), SqliteOptions::default()).unwrap();
    (Arc::new(store), Keys { current: key, previous: Vec::new() })
}

async fn fill(folder: &Path, file: &str) {
    let (store, keys) = open(folder);
    let keyring = Keyring::open(Arc::clone(&store), keys).await.unwrap();
    let rows: Vec<Row> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let now = SystemTime.now();
    for (page, rows) in rows.chunks(PAGE as usize).enumerate() {
        let mut grants = Vec::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            let number = i64::try_from(page * PAGE as usize + at + 1).unwrap();
            grants.push(grant(&keyring, GrantId(number << 12), row, now).await);
        }
        store.add_authorized_grants(grants).await.unwrap();
    }
}

async fn grant(keyring: &Keyring, id: GrantId, row: &Row, now: Timestamp) -> AuthorizedGrant {
    let grant = NewGrant {
        id,
        key: GrantKey { provider: "mock".into(), account: row.account.clone() },
        client: "mock-public".into(),
        flow: GrantFlow::Imported,
        scopes: BTreeSet::from(["chat:read".to_owned(), "chat:edit".to_owned()]),
        instances: BTreeSet::new(),
        created_at: now,
    };
    let identity = GrantIdentity::from(&grant);
    let mut tokens = Vec::with_capacity(2);
    for (kind, text) in
        [(TokenKind::Access, &row.access_token), (TokenKind::Refresh, &row.refresh_token)]
    {
        let id = TokenId { grant: id, kind, generation: Generation(1) };
        let place = Place::Token { grant: &identity, id };
        tokens.push((kind, keyring.seal(&place, text.as_bytes()).await.unwrap()));
    }
    let expired = now.minus(Duration::from_secs(1));
    AuthorizedGrant {
        grant,
        tokens,
        expiry: GrantExpiry { access: Some(expired), ..GrantExpiry::default() },
        status: GrantStatus {
            state: GrantState::Active { since: now },
            failure: None,
            next_refresh_at: Some(now),
            next_validate_at: None,
        },
    }
}

async fn run(folder: &Path, url: &str, callers: usize) {
    let (store, keys) = open(folder);
    let names = accounts(&*store).await;
    let mut profile = Profile::new(&format!("{url}/token"));
    profile.concurrency = CONCURRENCY;
    let client = Client { id: "mock-public".into(), secret: None };
    let provider = Provider::new("mock", profile, client).unwrap();
    let providers = Arc::new(Providers::new([provider]));
    let cpu = cpu_seconds();
    let begun = Instant::now();
    let vault = Vault::builder(store, Ok(keys), providers).build().await.unwrap();
    vault.start();
    let (next, names) = (Arc::new(AtomicUsize::new(0)), Arc::new(names));
    let mut drivers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (vault, next, names) = (vault.clone(), Arc::clone(&next), Arc::clone(&names));
        drivers.spawn(async move {
            let mut served = 0;
            while let Some(account) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                served += ask(&vault, account, callers).await;
            }
            served
        });
    }
    let served: usize = drivers.join_all().await.into_iter().sum();
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    println!(
        "{{\"seconds\": {seconds:.2}, \"cpu\": {cpu:.2}, \"served\": {served}, \"kept\": {}, \"rss_kib\": {}}}",
        served / callers,
        peak_kib()
    );
    vault.close().await;
}

/// All that want one grant's token at once, and again a second later where there was none; says how many got the new one.
async fn ask(vault: &Vault, account: &str, callers: usize) -> usize {
    let key = GrantKey { provider: "mock".into(), account: account.to_owned() };
    for _ in 0..TRIES {
        let mut asking = JoinSet::new();
        for _ in 0..callers {
            let (vault, key) = (vault.clone(), key.clone());
            asking.spawn(async move { vault.token(&key).await });
        }
        let answers = asking.join_all().await;
        let new = |token: &&AccessToken| token.generation == Generation(2);
        let served = answers.iter().flatten().filter(new).count();
        if served == callers {
            return served;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    0
}

async fn accounts(store: &dyn Store) -> Vec<Box<str>> {
    let mut names = Vec::new();
    let mut query = GrantQuery { limit: PAGE, ..GrantQuery::default() };
    loop {
        let page = GrantStore::grants(store, query.clone()).await.unwrap();
        names.extend(page.iter().map(|record| record.grant.key.account.as_str().into()));
        query.after = page.last().map(|record| record.grant.id);
        if page.len() < PAGE as usize {
            return names;
        }
    }
}

/// Of this process, all of its threads.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = text.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
    // The kernel tells it in hundredths.
    ticks.map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

fn peak_kib() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
