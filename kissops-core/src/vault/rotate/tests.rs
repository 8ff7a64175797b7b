use std::{
    collections::BTreeSet,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    task::Poll,
};

use super::{
    super::fixtures::{KeyText, active, add, identity, memory, open, pair, token_text},
    *,
};
use crate::{
    Timestamp,
    store::{
        Fingerprint, Generation, GrantExpiry, GrantQuery, HolderId, Landing, Lease, LeaseName,
        NewGeneration, NewRefresh, NewSecret, PreviousPair, Sealed, SecretId, SecretSource,
        SecretValue,
    },
    vault::cipher::random,
};

const LONG: Duration = Duration::from_mins(10);

async fn lease(store: &dyn Store, name: &str) -> Lease {
    store.acquire_lease(&LeaseName::new(name), HolderId(1), LONG).await.unwrap()
}

/// Sends a refresh of a grant and lands an answer to it.
async fn land(store: &dyn Store, keyring: &Keyring, grant: &GrantIdentity, at: u64) {
    let held = lease(store, &format!("grant {}", grant.id.0)).await;
    let fence = held.fence();
    let new = NewRefresh { grant: grant.id, generation: Generation(at), fence, at: Timestamp(2) };
    let refresh = store.begin_refresh(new).await.unwrap();
    store.mark_sent(&refresh, Timestamp(3)).await.unwrap();
    let landed = keyring.sealing(|| async {
        let empty = SealedBy { key: DataKeyId(0), sealed: Sealed(vec![]) };
        let landing = Landing {
            grant: grant.id,
            generation: Generation(at),
            attempt: 1,
            status: 200,
            body: empty,
            at: Timestamp(4),
        };
        let place = Place::of_landing(grant, &landing);
        let body = keyring.seal(&place, format!("answer {at}").as_bytes()).await?;
        store.land(Landing { body, ..landing.clone() }).await
    });
    landed.await.unwrap();
    store.release_lease(&held).await.unwrap();
}

async fn commit(store: &dyn Store, keyring: &Keyring, grant: &GrantIdentity, from: u64) {
    let held = lease(store, &format!("grant {}", grant.id.0)).await;
    let fence = held.fence();
    let committed = keyring.sealing(|| async {
        let new = NewGeneration {
            grant: grant.id,
            from: Generation(from),
            fence: fence.clone(),
            tokens: pair(keyring, grant, from + 1).await?,
            previous: PreviousPair::Keep,
            scopes: None,
            expiry: GrantExpiry::default(),
            seen: active().state,
            status: active(),
            at: Timestamp(5),
        };
        store.commit_generation(new).await
    });
    committed.await.unwrap();
    store.release_lease(&held).await.unwrap();
}

fn secret_name(id: i64) -> String {
    format!("secret-{id}")
}

async fn value(keyring: &Keyring, id: i64, version: u64) -> Result<SecretValue> {
    let name = secret_name(id);
    let place = Place::Secret { id: SecretId(id), name: &name, version };
    Ok(SecretValue {
        sealed: keyring.seal(&place, format!("{id} {version}").as_bytes()).await?,
        fingerprint: Fingerprint(vec![1]),
        source: SecretSource::Given,
        at: Timestamp(1),
    })
}

async fn add_secret(store: &dyn Store, keyring: &Keyring, id: i64) {
    let (name, kind) = (secret_name(id), "api_key".to_owned());
    let added = keyring.sealing(|| async {
        let (id, value) = (SecretId(id), value(keyring, id, 1).await?);
        let (name, kind) = (name.clone(), kind.clone());
        store.add_secret(NewSecret { id, name, kind, value, max_age: None }).await
    });
    added.await.unwrap();
}

/// Opens every row of the store, and says how many there are.
async fn open_all(store: &dyn Store, keyring: &Keyring) -> Result<u64> {
    let mut rows = 0;
    let all = GrantQuery { limit: 10_000, ..GrantQuery::default() };
    for record in store.grants(all).await? {
        let grant = GrantIdentity::from(&record);
        for token in keyring.tokens(&grant).await? {
            let text = token_text(grant.id, token.id.kind, token.id.generation.0);
            assert_eq!(String::from_utf8_lossy(&token.plain), text);
            rows += 1;
        }
        let grant = &grant;
        rows += keyring
            .reading(|| async move {
                let landings = store.landings(grant.id).await?;
                for landing in &landings {
                    let place = Place::of_landing(grant, landing);
                    let plain = keyring.unseal(&place, &landing.body).await?;
                    let text = format!("answer {}", landing.generation.0);
                    assert_eq!(String::from_utf8_lossy(&plain), text);
                }
                Ok(landings.len() as u64)
            })
            .await?;
    }
    rows += keyring
        .reading(|| async {
            let secrets = store.secrets(None, 10_000).await?;
            for record in &secrets {
                let place = Place::of_secret(record);
                let plain = keyring.unseal(&place, &record.secret.value.sealed).await?;
                let text = format!("{} {}", record.secret.id.0, record.version);
                assert_eq!(String::from_utf8_lossy(&plain), text);
            }
            Ok(secrets.len() as u64)
        })
        .await?;
    Ok(rows)
}

/// Polls `call` so often, then drops it. Whether it came to its end.
async fn dropped_after<T>(polls: u64, call: impl Future<Output = Result<T>>) -> bool {
    let (mut call, mut left) = (pin!(call), polls);
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        call.as_mut().poll(cx).map(|answer| answer.map(|_| true).unwrap())
    })
    .await
}

#[tokio::test]
async fn a_rotation_leaves_nothing_of_the_keys_before() {
    let (store, old, new) = (memory(), KeyText::new(), KeyText::new());
    let keyring = open(&store, &old, &[]).await;
    for id in 1..=200 {
        add(&*store, &keyring, &identity(id, &id.to_string())).await;
    }
    land(&*store, &keyring, &identity(7, "7"), 1).await;
    add_secret(&*store, &keyring, 1).await;
    let (print, before) = (keyring.fingerprint(b"x"), store.data_keys().await.unwrap());
    let told = AtomicU64::new(0);
    let tell = |so_far: &Rotated| told.store(so_far.tokens, SeqCst);
    let depth = RotationDepth::Everything;
    let done = keyring.rotate_with(Some(new.kek()), depth, &tell).await.unwrap();
    let expected =
        Rotated { rewrapped: 2, tokens: 400, answers: 1, secrets: 1, removed: 1, damaged: vec![] };
    assert_eq!((done, told.load(SeqCst)), (expected, 400));
    let after = store.data_keys().await.unwrap();
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|record| record.key.kek == new.kek().id()), "{after:?}");
    assert!(after[1].key.id != before[1].key.id && after[1].retired_at.is_none());
    assert_eq!(open_all(&*store, &keyring).await.unwrap(), 402);
    drop(keyring);
    let keyring = open(&store, &new, &[]).await;
    assert_eq!(open_all(&*store, &keyring).await.unwrap(), 402);
    assert_eq!(keyring.fingerprint(b"x"), print);
    let keys = crate::vault::Keys::only(old.kek());
    let err = Keyring::open(Arc::clone(&store), keys).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
}

#[tokio::test]
async fn wrapping_alone_touches_no_row() {
    let (store, old, new) = (memory(), KeyText::new(), KeyText::new());
    let keyring = open(&store, &old, &[]).await;
    let grant = identity(1, "ada");
    add(&*store, &keyring, &grant).await;
    let rows = store.sealed_tokens(grant.id).await.unwrap();
    let done = keyring.rotate_with(Some(new.kek()), RotationDepth::Wrapping, &|_| ()).await;
    assert_eq!(done.unwrap(), Rotated { rewrapped: 2, ..Rotated::default() });
    assert_eq!(store.sealed_tokens(grant.id).await.unwrap(), rows);
    let keyring = open(&store, &new, &[]).await;
    assert_eq!(open_all(&*store, &keyring).await.unwrap(), 2);
}

#[tokio::test]
async fn a_rotation_without_another_kek_goes_to_the_current_one() {
    let (store, old, new) = (memory(), KeyText::new(), KeyText::new());
    let keyring = open(&store, &old, &[]).await;
    add(&*store, &keyring, &identity(1, "ada")).await;
    // The operator has put the new key first, and starts the program again.
    let keyring = open(&store, &new, &[old]).await;
    assert_eq!(open_all(&*store, &keyring).await.unwrap(), 2);
    let done = keyring.rotate(None).await.unwrap();
    assert_eq!((done.rewrapped, done.tokens, done.removed), (2, 2, 1));
    let again = keyring.rotate(None).await.unwrap();
    assert_eq!((again.rewrapped, again.tokens, again.removed), (0, 2, 1));
    let keyring = open(&store, &new, &[]).await;
    assert_eq!(open_all(&*store, &keyring).await.unwrap(), 2);
}

#[tokio::test]
async fn a_rotation_that_is_killed_again_and_again_comes_to_its_end() {
    let (store, old, new) = (memory(), KeyText::new(), KeyText::new());
    let mut keyring = open(&store, &old, &[]).await;
    for id in 1..=100 {
        add(&*store, &keyring, &identity(id, &id.to_string())).await;
    }
    let mut made = BTreeSet::new();
    // At each point once, and at the later ones in every state that the earlier kills have left.
    let mut polls = 0;
    loop {
        // Each life knows what its configuration says: the new key, and the old one beside it.
        keyring = Keyring::open(Arc::clone(&store), keys(&new, &old)).await.unwrap();
        polls += 1;
        let done = dropped_after(polls, keyring.rotate(None)).await;
        assert_eq!(open_all(&*store, &keyring).await.unwrap(), 200);
        made.extend(store.data_keys().await.unwrap().into_iter().map(|record| record.key.id));
        if done {
            break;
        }
        assert!(polls < 1_000, "it makes no progress");
    }
    // Most lives went on with the data key of the life before.
    let made = u64::try_from(made.len()).unwrap();
    assert!(polls > 20 && made < polls / 2, "{polls} {made}");
    let keyring = open(&store, &new, &[]).await;
    assert_eq!(open_all(&*store, &keyring).await.unwrap(), 200);
    assert_eq!(store.data_keys().await.unwrap().len(), 2);
}

fn keys(current: &KeyText, beside: &KeyText) -> crate::vault::Keys {
    crate::vault::Keys { current: current.kek(), previous: vec![beside.kek()] }
}

#[tokio::test]
async fn a_process_without_the_new_key_says_so_and_makes_no_key_under_the_old_one() {
    let (store, old, new) = (memory(), KeyText::new(), KeyText::new());
    let (one, two) = (open(&store, &old, &[]).await, open(&store, &old, &[]).await);
    let grant = identity(1, "ada");
    add(&*store, &one, &grant).await;
    assert_eq!(two.tokens(&grant).await.unwrap().len(), 2);
    one.rotate(Some(new.kek())).await.unwrap();
    let before = store.data_keys().await.unwrap();
    let err = two.tokens(&grant).await.unwrap_err();
    assert!(matches!(&err, Error::WrongState { state, .. } if state == "sealed"), "{err:?}");
    assert!(err.to_string().contains(&new.kek().id().0), "{err}");
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    let err = two.seal(&place, b"x").await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    assert_eq!(store.data_keys().await.unwrap(), before);
}

#[tokio::test]
async fn who_knows_both_keys_makes_data_keys_under_that_of_the_store() {
    let (store, old, new) = (memory(), KeyText::new(), KeyText::new());
    let one = open(&store, &old, &[]).await;
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    let prepared = Keyring::open(Arc::clone(&store), keys(&old, &new)).await.unwrap();
    one.rotate(Some(new.kek())).await.unwrap();
    for record in store.data_keys().await.unwrap().iter().skip(1) {
        store.retire_data_key(record.key.id, Timestamp(1)).await.unwrap();
    }
    let made = prepared.seal(&place, b"x").await.unwrap().key;
    let records = store.data_keys().await.unwrap();
    let record = records.iter().find(|record| record.key.id == made).unwrap();
    assert_eq!(record.key.kek, new.kek().id());
}

#[tokio::test]
async fn a_damaged_row_stops_nothing_and_is_named() {
    let (store, old) = (memory(), KeyText::new());
    let keyring = open(&store, &old, &[]).await;
    for id in 1..=3 {
        add(&*store, &keyring, &identity(id, &id.to_string())).await;
    }
    let token = store.sealed_tokens(GrantId(2)).await.unwrap().remove(0);
    let key = token.sealed.key;
    let mut bad = token.sealed.clone();
    bad.sealed.0[20] ^= 1;
    store.reseal_token(token.id, key, bad).await.unwrap();
    let done = keyring.rotate(None).await.unwrap();
    assert_eq!(done.tokens, 5);
    assert_eq!(done.damaged, ["the access token of generation 1 of twitch/2"]);
    assert_eq!(keyring.tokens(&identity(3, "3")).await.unwrap().len(), 2);
    let kept: Vec<_> = store.data_keys().await.unwrap();
    assert!(kept.iter().any(|record| record.key.id == key), "{kept:?}");
}

#[tokio::test]
async fn a_vault_that_does_not_open_is_not_rotated() {
    let (store, old, new) = (memory(), KeyText::new(), KeyText::new());
    let (one, two) = (open(&store, &old, &[]).await, open(&store, &old, &[]).await);
    add(&*store, &one, &identity(1, "ada")).await;
    one.rotate(Some(new.kek())).await.unwrap();
    let before = store.data_keys().await.unwrap();
    let err = two.rotate(Some(KeyText::new().kek())).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    assert_eq!(store.data_keys().await.unwrap(), before);
}

/// What the tasks under load have in common.
struct Load {
    store: Arc<dyn Store>,
    stop: AtomicBool,
    next: AtomicI64,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Load {
    async fn read(self: Arc<Self>, keyring: Keyring) {
        while !self.stop.load(SeqCst) {
            open_all(&*self.store, &keyring).await.unwrap();
            self.reads.fetch_add(1, SeqCst);
        }
    }

    /// Adds a grant and refreshes it, adds a secret and replaces it, lands an answer.
    async fn write(self: Arc<Self>, keyring: Keyring) {
        while !self.stop.load(SeqCst) {
            let id = self.next.fetch_add(1, SeqCst);
            let (store, grant) = (&*self.store, identity(id, &id.to_string()));
            add(store, &keyring, &grant).await;
            for from in 1..4 {
                commit(store, &keyring, &grant, from).await;
            }
            if id % 3 == 0 {
                land(store, &keyring, &grant, 4).await;
            }
            add_secret(store, &keyring, id).await;
            let replaced = keyring.sealing(|| async {
                let value = value(&keyring, id, 2).await?;
                store.rotate_secret(SecretId(id), 1, value).await
            });
            replaced.await.unwrap();
            // Old grants go, so that there are not ever more to read.
            if id > 40 {
                store.remove_grant(GrantId(id - 40)).await.unwrap();
                store.remove_secret(&secret_name(id - 40)).await.unwrap();
            }
            self.writes.fetch_add(1, SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotations_under_load_that_are_killed_lose_no_row_and_fail_no_read() {
    let store = memory();
    let all: Vec<KeyText> = (0..6).map(|_| KeyText::new()).collect();
    let (one, two) = (open(&store, &all[0], &all).await, open(&store, &all[0], &all).await);
    let load = Arc::new(Load {
        store: Arc::clone(&store),
        stop: AtomicBool::new(false),
        next: AtomicI64::new(1),
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for keyring in [&one, &two] {
        tasks.spawn(Arc::clone(&load).read(keyring.clone()));
        tasks.spawn(Arc::clone(&load).write(keyring.clone()));
    }
    let mut kills = 0;
    for to in &all[1..] {
        // Now this process rotates, now the other; whoever is killed, the other goes on.
        for _ in 0..12 {
            let [who, polls] = random::<2>().unwrap();
            let keyring = if who % 2 == 0 { &one } else { &two };
            let call = keyring.rotate(Some(to.kek()));
            kills += u64::from(!dropped_after(u64::from(polls % 64) + 1, call).await);
        }
        one.rotate(Some(to.kek())).await.unwrap();
    }
    assert!(kills > 10, "{kills}");
    // The tasks get on as well.
    let reads = load.reads.load(SeqCst);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while load.reads.load(SeqCst) < reads + 4 || load.writes.load(SeqCst) < 45 {
        assert!(std::time::Instant::now() < deadline, "the load does not get on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    load.stop.store(true, SeqCst);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    one.rotate(Some(all[5].kek())).await.unwrap();
    let only = open(&store, &all[5], &[]).await;
    let rows = open_all(&*store, &only).await.unwrap();
    assert!(rows > 100, "{rows}");
    assert_eq!(store.data_keys().await.unwrap().len(), 2);
    println!("{kills} kills, {} writes, {rows} rows", load.writes.load(SeqCst));
}
