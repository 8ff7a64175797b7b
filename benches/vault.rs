//! Sealing and opening a token against the AEAD alone: what the binding to its place, the choice of the data key and the
//! wiping cost.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]

use std::{collections::BTreeSet, hint::black_box, sync::Arc};

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{AeadInOut as _, Nonce},
};
use criterion::{Criterion, criterion_group, criterion_main};
use kissops_core::{
    store::{
        Generation, GrantFlow, GrantId, GrantKey, NewGrant, TokenId, TokenKind, sqlite::SqliteStore,
    },
    vault::{GrantIdentity, Kek, Keyring, Keys, Place, SystemTime, VaultTime as _},
};
use tokio::runtime::{Builder, Runtime};

/// As long as those of the usual providers, and as long as a JWT.
const LENGTHS: [usize; 2] = [48, 1024];

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn keyring(runtime: &Runtime) -> Keyring {
    let current = Kek::parse(&Kek::generate().unwrap()).unwrap();
    let store = Arc::new(SqliteStore::in_memory().unwrap());
    runtime.block_on(Keyring::open(store, Keys { current, previous: Vec::new() })).unwrap()
}

fn identity() -> GrantIdentity {
    GrantIdentity::from(&NewGrant {
        id: GrantId(1_790_000_000_000_000),
        key: GrantKey { provider: "twitch".into(), account: "el_serda".into() },
        client: "hof5gwx0su6owfnys0nyan9c87zr6t".into(),
        flow: GrantFlow::DeviceCode,
        scopes: BTreeSet::new(),
        instances: BTreeSet::new(),
        created_at: SystemTime.now(),
    })
}

/// The floor: the same cipher with a random nonce, no associated data, into a fresh buffer.
fn raw_seal(cipher: &Aes256Gcm, plain: &[u8]) -> Vec<u8> {
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce).unwrap();
    let mut sealed = Vec::with_capacity(12 + plain.len() + 16);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let nonce = Nonce::<Aes256Gcm>::from(nonce);
    let tag = cipher.encrypt_inout_detached(&nonce, b"", (&mut sealed[12..]).into()).unwrap();
    sealed.extend_from_slice(&tag);
    sealed
}

fn raw_open(cipher: &Aes256Gcm, sealed: &[u8]) -> Vec<u8> {
    let (nonce, rest) = sealed.split_first_chunk::<12>().unwrap();
    let (text, tag) = rest.split_last_chunk::<16>().unwrap();
    let mut plain = text.to_vec();
    let nonce = Nonce::<Aes256Gcm>::from(*nonce);
    let buffer = plain.as_mut_slice().into();
    cipher.decrypt_inout_detached(&nonce, b"", buffer, tag.into()).unwrap();
    plain
}

fn seal_and_open(c: &mut Criterion) {
    let runtime = runtime();
    let keyring = keyring(&runtime);
    let raw = Aes256Gcm::new((&[7; 32]).into());
    let grant = identity();
    let id = TokenId { grant: grant.id, kind: TokenKind::Access, generation: Generation(1) };
    let place = Place::Token { grant: &grant, id };
    for length in LENGTHS {
        let plain = vec![b'a'; length];
        let sealed = runtime.block_on(keyring.seal(&place, &plain)).unwrap();
        let by_hand = raw_seal(&raw, &plain);
        let mut group = c.benchmark_group(format!("seal_{length}"));
        group.bench_function("vault", |b| {
            b.iter(|| runtime.block_on(keyring.seal(&place, black_box(&plain))).unwrap());
        });
        group.bench_function("aead", |b| b.iter(|| raw_seal(&raw, black_box(&plain))));
        group.finish();
        let mut group = c.benchmark_group(format!("open_{length}"));
        group.bench_function("vault", |b| {
            b.iter(|| runtime.block_on(keyring.unseal(&place, black_box(&sealed))).unwrap());
        });
        group.bench_function("aead", |b| b.iter(|| raw_open(&raw, black_box(&by_hand))));
        group.finish();
    }
}

criterion_group!(benches, seal_and_open);
criterion_main!(benches);
