use std::{collections::BTreeSet, sync::Mutex};

use async_trait::async_trait;

use super::{
    super::{Kek, Ticket},
    *,
};
use crate::store::{
    Generation, GrantId, GrantKey, KekId, SecretId, TokenId, TokenKind, sqlite::SqliteStore,
};

const PLAIN: &[u8] = b"oauth:hunter2hunter2";

fn kek() -> Kek {
    Kek::parse(&Kek::generate().unwrap()).unwrap()
}

/// The same key once more: it has no `Clone`.
fn pair() -> (Kek, Kek) {
    let text = Kek::generate().unwrap();
    (Kek::parse(&text).unwrap(), Kek::parse(&text).unwrap())
}

fn store() -> Arc<dyn Store> {
    Arc::new(SqliteStore::in_memory().unwrap())
}

async fn keyring(store: &Arc<dyn Store>) -> Keyring {
    Keyring::open(Arc::clone(store), Keys::only(kek())).await.unwrap()
}

fn identity(id: i64, account: &str) -> GrantIdentity {
    let key = GrantKey { provider: "twitch".into(), account: account.into() };
    GrantIdentity { id: GrantId(id), key, client: "main".into() }
}

fn token(grant: &GrantIdentity, kind: TokenKind, generation: u64) -> Place<'_> {
    let id = TokenId { grant: grant.id, kind, generation: Generation(generation) };
    Place::Token { grant, id }
}

fn answer(grant: &GrantIdentity, generation: u64, attempt: u32, status: u16) -> Place<'_> {
    let ticket = Ticket { grant: grant.id, generation: Generation(generation), attempt };
    Place::Answer { grant, ticket, status }
}

fn assert_quiet(err: &Error) {
    let shown = format!("{err} {err:?} {}", err.chain());
    assert!(!shown.contains("hunter2"), "{shown}");
}

async fn assert_refused(keyring: &Keyring, place: Place<'_>, sealed: &SealedBy) {
    let err = keyring.unseal(&place, sealed).await.unwrap_err();
    assert!(matches!(&err, Error::Corrupt { what, .. } if *what == place.to_string()), "{err:?}");
    assert_quiet(&err);
}

/// A clock that is moved by hand.
#[derive(Debug)]
struct Hands(Mutex<Timestamp>);

#[async_trait]
impl VaultTime for Hands {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
    async fn sleep_until(&self, _until: Duration) {}
}

#[tokio::test]
async fn a_text_opens_in_its_own_place_and_in_no_other() {
    let store = store();
    let keyring = keyring(&store).await;
    let (ada, bob) = (identity(7, "ada"), identity(8, "bob"));
    let elsewhere = GrantIdentity { client: "other".into(), ..ada.clone() };
    let provider = GrantKey { provider: "discord".into(), account: "ada".into() };
    let provider = GrantIdentity { key: provider, ..ada.clone() };
    let renumbered = GrantIdentity { id: GrantId(9), ..ada.clone() };
    let secret = |id, name, version| Place::Secret { id: SecretId(id), name, version };
    let places = [
        token(&ada, TokenKind::Access, 1),
        token(&ada, TokenKind::Refresh, 1),
        token(&ada, TokenKind::Access, 2),
        token(&bob, TokenKind::Access, 1),
        token(&elsewhere, TokenKind::Access, 1),
        token(&provider, TokenKind::Access, 1),
        token(&renumbered, TokenKind::Access, 1),
        answer(&ada, 1, 1, 200),
        answer(&ada, 1, 2, 200),
        answer(&ada, 2, 1, 200),
        answer(&ada, 1, 1, 400),
        answer(&bob, 1, 1, 200),
        secret(1, "a", 1),
        secret(1, "b", 1),
        secret(2, "a", 1),
        secret(1, "a", 2),
    ];
    for (at, place) in places.iter().enumerate() {
        let sealed = keyring.seal(place, PLAIN).await.unwrap();
        for (other_at, other) in places.iter().enumerate() {
            if at == other_at {
                assert_eq!(**keyring.unseal(other, &sealed).await.unwrap(), *PLAIN);
            } else {
                assert_refused(&keyring, *other, &sealed).await;
            }
        }
    }
}

#[tokio::test]
async fn what_was_changed_does_not_open() {
    let store = store();
    let keyring = keyring(&store).await;
    let ada = identity(7, "ada");
    let place = token(&ada, TokenKind::Access, 1);
    let good = keyring.seal(&place, PLAIN).await.unwrap();
    for length in 0..good.sealed.0.len() {
        let sealed = Sealed(good.sealed.0[..length].to_vec());
        assert_refused(&keyring, place, &SealedBy { sealed, ..good.clone() }).await;
    }
    for bit in 0..good.sealed.0.len() * 8 {
        let mut bytes = good.sealed.0.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_refused(&keyring, place, &SealedBy { sealed: Sealed(bytes), ..good.clone() }).await;
    }
    let longer = Sealed([&*good.sealed.0, &[0]].concat());
    assert_refused(&keyring, place, &SealedBy { sealed: longer, ..good.clone() }).await;
    assert_eq!(**keyring.unseal(&place, &good).await.unwrap(), *PLAIN);
}

#[tokio::test]
async fn an_empty_text_and_a_long_one_are_sealed() {
    let store = store();
    let keyring = keyring(&store).await;
    let ada = identity(7, "ada");
    let place = answer(&ada, 1, 1, 200);
    for plain in [vec![], vec![7; 256 << 10]] {
        let sealed = keyring.seal(&place, &plain).await.unwrap();
        assert_eq!(*keyring.unseal(&place, &sealed).await.unwrap(), plain);
    }
}

#[tokio::test]
async fn a_row_under_another_data_key_does_not_open() {
    let store = store();
    let keyring = keyring(&store).await;
    let ada = identity(7, "ada");
    let place = token(&ada, TokenKind::Access, 1);
    let first = keyring.seal(&place, PLAIN).await.unwrap();
    store.retire_data_key(first.key, Timestamp(1)).await.unwrap();
    keyring.inner.renew_after_removal().await.unwrap();
    let second = keyring.seal(&place, PLAIN).await.unwrap();
    assert!(first.key < second.key, "{first:?} {second:?}");
    assert_refused(&keyring, place, &SealedBy { key: second.key, ..first.clone() }).await;
    assert_eq!(**keyring.unseal(&place, &first).await.unwrap(), *PLAIN);
}

#[tokio::test]
async fn a_new_life_of_the_program_opens_what_the_one_before_sealed() {
    let (store, (kek, again)) = (store(), pair());
    let ada = identity(7, "ada");
    let place = token(&ada, TokenKind::Refresh, 3);
    let first = Keyring::open(Arc::clone(&store), Keys::only(kek)).await.unwrap();
    let sealed = first.seal(&place, PLAIN).await.unwrap();
    let print = first.fingerprint(PLAIN);
    drop(first);
    let second = Keyring::open(store, Keys::only(again)).await.unwrap();
    assert_eq!(**second.unseal(&place, &sealed).await.unwrap(), *PLAIN);
    assert_eq!(second.fingerprint(PLAIN), print);
    assert_ne!(second.fingerprint(b"other"), print);
}

#[tokio::test]
async fn a_wrong_key_is_told_and_nothing_is_changed() {
    let store = store();
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    keyring(&store).await.seal(&place, PLAIN).await.unwrap();
    let before = store.data_keys().await.unwrap();
    let wrong = kek();
    let id = wrong.id();
    let err = Keyring::open(Arc::clone(&store), Keys::only(wrong)).await.unwrap_err();
    assert!(matches!(&err, Error::WrongState { state, .. } if state == "sealed"), "{err:?}");
    let text = err.to_string();
    assert!(text.contains(&id.0) && text.contains(&before[0].key.kek.0), "{text}");
    assert_eq!(store.data_keys().await.unwrap(), before);
}

#[tokio::test]
async fn keys_of_two_keks_open_with_both_and_not_with_one() {
    let store = store();
    let ((old, old_again), (new, new_again)) = (pair(), pair());
    let ada = identity(7, "ada");
    let place = token(&ada, TokenKind::Access, 1);
    let first = Keyring::open(Arc::clone(&store), Keys::only(old)).await.unwrap();
    let sealed = first.seal(&place, PLAIN).await.unwrap();
    // As a rotation leaves it that was killed between two keys.
    let master = store.data_keys().await.unwrap().remove(0);
    let bytes = old_again.unwrap(FINGERPRINTS, &master.key.wrapped).unwrap();
    let wrapped = new.wrap(FINGERPRINTS, &bytes).unwrap();
    store.rewrap_data_key(FINGERPRINTS, &old_again.id(), new.id(), wrapped).await.unwrap();
    let before = store.data_keys().await.unwrap();
    for only in [&new_again, &old_again] {
        let keys = Keys { current: kek(), previous: vec![] };
        assert_ne!(keys.current.id(), only.id());
        let err = Keyring::open(Arc::clone(&store), keys).await.unwrap_err();
        assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    }
    let err = Keyring::open(Arc::clone(&store), Keys::only(new)).await.unwrap_err();
    let names_it = format!("data key {}", sealed.key.0);
    assert!(err.to_string().contains(&names_it), "{err}");
    assert_eq!(store.data_keys().await.unwrap(), before);
    let keys = Keys { current: new_again, previous: vec![old_again] };
    let both = Keyring::open(Arc::clone(&store), keys).await.unwrap();
    assert_eq!(**both.unseal(&place, &sealed).await.unwrap(), *PLAIN);
    assert_eq!(both.fingerprint(PLAIN), first.fingerprint(PLAIN));
}

#[tokio::test]
async fn a_damaged_data_key_is_named() {
    let (store, (kek, again)) = (store(), pair());
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    let first = Keyring::open(Arc::clone(&store), Keys::only(kek)).await.unwrap();
    let id = first.seal(&place, PLAIN).await.unwrap().key;
    let record = store.data_keys().await.unwrap().pop().unwrap();
    let mut bytes = record.key.wrapped.0.clone();
    bytes[20] ^= 1;
    let (from, to) = (&again.id(), again.id());
    store.rewrap_data_key(id, from, to, Sealed(bytes)).await.unwrap();
    let err = Keyring::open(store, Keys::only(again)).await.unwrap_err();
    let named = format!("data key {}", id.0);
    assert!(matches!(&err, Error::Corrupt { what, .. } if *what == named), "{err:?}");
}

#[tokio::test]
async fn a_data_key_of_another_process_is_found_when_it_is_met() {
    let (store, (kek, again)) = (store(), pair());
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    let open = |kek| Keyring::open(Arc::clone(&store), Keys::only(kek));
    let (one, two) = (open(kek).await.unwrap(), open(again).await.unwrap());
    let sealed = one.seal(&place, PLAIN).await.unwrap();
    assert_eq!(**two.unseal(&place, &sealed).await.unwrap(), *PLAIN);
    assert_eq!(two.seal(&place, PLAIN).await.unwrap().key, sealed.key);
}

#[tokio::test]
async fn many_processes_at_once_make_no_quarrel() {
    let store = store();
    let text = Kek::generate().unwrap();
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (store, keys) = (Arc::clone(&store), Keys::only(Kek::parse(&text).unwrap()));
        all.spawn(async move {
            let keyring = Keyring::open(store, keys).await.unwrap();
            let sealed = keyring.seal(&place, PLAIN).await.unwrap();
            (keyring, sealed)
        });
    }
    let all = all.join_all().await;
    for (keyring, _) in &all {
        for (_, sealed) in &all {
            assert_eq!(**keyring.unseal(&place, sealed).await.unwrap(), *PLAIN);
        }
    }
    let prints: Vec<_> = all.iter().map(|(keyring, _)| keyring.fingerprint(PLAIN)).collect();
    assert!(prints.windows(2).all(|two| two[0] == two[1]));
}

#[tokio::test]
async fn a_row_whose_data_key_is_gone_is_to_be_read_again() {
    let store = store();
    let keyring = keyring(&store).await;
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    for key in [DataKeyId(404), FINGERPRINTS] {
        let sealed = SealedBy { key, sealed: Sealed(vec![1; 60]) };
        let err = keyring.unseal(&place, &sealed).await.unwrap_err();
        assert!(matches!(&err, Error::Conflict { what, .. } if what.contains("`a`")), "{err:?}");
    }
}

#[tokio::test]
async fn seals_are_counted_before_they_are_made_and_in_blocks() {
    let store = store();
    let keyring = keyring(&store).await;
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    for _ in 0..=BLOCK {
        keyring.seal(&place, PLAIN).await.unwrap();
    }
    let record = store.data_keys().await.unwrap().pop().unwrap();
    assert_eq!(record.seals, u64::from(BLOCK) * 2);
}

#[tokio::test]
async fn no_two_seals_are_alike() {
    let store = store();
    let keyring = keyring(&store).await;
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    let mut nonces = BTreeSet::new();
    for _ in 0..1_000 {
        let sealed = keyring.seal(&place, PLAIN).await.unwrap();
        assert!(nonces.insert(sealed.sealed.0[1..13].to_vec()));
    }
}

#[tokio::test]
async fn a_data_key_that_has_sealed_enough_is_replaced() {
    let store = store();
    let keyring = keyring(&store).await;
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    let first = keyring.seal(&place, PLAIN).await.unwrap();
    store.reserve_seals(first.key, u32::try_from(MOST_SEALS).unwrap()).await.unwrap();
    for _ in 1..BLOCK {
        assert_eq!(keyring.seal(&place, PLAIN).await.unwrap().key, first.key);
    }
    assert_ne!(keyring.seal(&place, PLAIN).await.unwrap().key, first.key);
    assert_eq!(**keyring.unseal(&place, &first).await.unwrap(), *PLAIN);
    let retired: Vec<_> = store.data_keys().await.unwrap().into_iter().collect();
    assert_eq!(retired.iter().filter(|record| record.retired_at.is_some()).count(), 1);
}

#[tokio::test]
async fn a_data_key_of_ninety_days_is_replaced() {
    let store = store();
    let hands = Arc::new(Hands(Mutex::new(Timestamp(1_800_000_000_000_000))));
    let time: Arc<dyn VaultTime> = Arc::<Hands>::clone(&hands);
    let keyring = Keyring::open_at(Arc::clone(&store), Keys::only(kek()), time).await.unwrap();
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    let first = keyring.seal(&place, PLAIN).await.unwrap();
    let pass = |days: u64| {
        let mut now = hands.0.lock().unwrap();
        *now = now.plus(Duration::from_hours(24 * days));
    };
    pass(89);
    assert_eq!(keyring.seal(&place, PLAIN).await.unwrap().key, first.key);
    pass(1);
    let second = keyring.seal(&place, PLAIN).await.unwrap();
    assert_ne!(second.key, first.key);
    let records = store.data_keys().await.unwrap();
    let [_, old, new] = &records[..] else { panic!("{records:?}") };
    assert!(old.retired_at.is_some() && old.retired_at != Some(new.key.created_at), "{old:?}");
}

#[tokio::test]
async fn what_was_sealed_under_a_key_that_went_is_sealed_again() {
    let store = store();
    let keyring = keyring(&store).await;
    let place = Place::Secret { id: SecretId(1), name: "a", version: 1 };
    let first = keyring.seal(&place, PLAIN).await.unwrap().key;
    store.retire_data_key(first, Timestamp(1)).await.unwrap();
    store.remove_data_key(first).await.unwrap();
    let mut tries = 0;
    let tries = &mut tries;
    let stored = keyring.sealing(|| {
        *tries += 1;
        async {
            let sealed = keyring.seal(&place, PLAIN).await?;
            let records = store.data_keys().await?;
            let there = records.iter().any(|record| record.key.id == sealed.key);
            let what = format!("data key {}", sealed.key.0);
            if there { Ok(sealed) } else { Err(Error::NotFound { what }) }
        }
    });
    assert_ne!(stored.await.unwrap().key, first);
    assert_eq!(*tries, 2);
}

#[tokio::test]
async fn a_key_that_never_sealed_does_not_keep_the_vault_shut() {
    let (store, (kek, again)) = (store(), pair());
    keyring_with(&store, kek).await;
    let lost = NewDataKey {
        id: DataKeyId(5),
        kek: KekId("gone".into()),
        wrapped: Sealed(vec![1; 61]),
        created_at: Timestamp(1),
    };
    store.add_data_key(lost).await.unwrap();
    keyring_with(&store, again).await;
}

async fn keyring_with(store: &Arc<dyn Store>, kek: Kek) -> Keyring {
    Keyring::open(Arc::clone(store), Keys::only(kek)).await.unwrap()
}

#[tokio::test]
async fn nothing_is_shown_by_debug() {
    let store = store();
    assert_eq!(format!("{:?}", keyring(&store).await), "Keyring { .. }");
}
