//! STO-10 for people, grants, secrets, leases and hosts: they go over whole, and what may never go back does not.

use std::{path::Path, sync::Arc, time::Duration};

use kissops_core::{
    Timestamp,
    id::InstanceName,
    store::{
        self, Access, Actor, ApiKeyId, AuditOutcome, AuditVerdict, DataKeyId, Fingerprint,
        Generation, GrantExpiry, GrantFlow, GrantId, GrantKey, GrantQuery, GrantRecord, GrantState,
        GrantStatus, HolderId, HostId, HostSession, KekId, KeyHash, Landing, Lease, LeaseName,
        NewApiKey, NewAudit, NewDataKey, NewGeneration, NewGrant, NewHost, NewRefresh, NewSecret,
        NewUser, PreviousPair, Role, Sealed, SealedBy, SealedToken, SecretId, SecretSource,
        SecretValue, Store, StoreOptions, StoreUrl, TokenKind, UserId, verify_audit,
    },
};

use crate::postgres::scratch_database;

const AT: Timestamp = Timestamp(1_790_000_000_000_001);
const GRANT: GrantId = GrantId(i64::MAX);
const KEY: DataKeyId = DataKeyId(1);
const LONG: Duration = Duration::from_mins(10);

fn odd() -> String {
    "naïve 🦀 \t\n\\N \\. \"'` end".into()
}

/// Every byte there is.
fn sealed() -> SealedBy {
    SealedBy { key: KEY, sealed: Sealed((0..=255).collect()) }
}

fn entry() -> NewAudit {
    NewAudit {
        at: AT,
        actor: Actor::Uid(u32::MAX),
        action: "test.acted".into(),
        target: odd(),
        origin: String::new(),
        outcome: AuditOutcome::Failed(odd()),
    }
}

async fn people(store: &dyn Store) {
    let password = Some(store::PasswordHash("$argon2id$…".into()));
    let (id, name, role) = (UserId(1), odd(), Role::Admin);
    store.add_user(NewUser { id, name, role, password, created_at: AT }).await.unwrap();
    let key = NewApiKey {
        id: ApiKeyId(1),
        name: odd(),
        prefix: "abc".into(),
        hash: KeyHash((0..=255).collect()),
        access: Access::Bot(InstanceName::new("twitch@one").unwrap()),
        created_by: odd(),
        created_at: AT,
        expires_at: None,
    };
    store.add_api_key(key).await.unwrap();
    store.append_audit(vec![entry(); 10]).await.unwrap();
    store.prune_audit(Timestamp(i64::MAX), 3).await.unwrap();
    let host = NewHost {
        id: HostId(1),
        name: odd(),
        capacity: u32::MAX,
        labels: [(odd(), odd())].into(),
        program: odd(),
        joined_at: AT,
    };
    store.register_host(host, HostSession(i64::MIN), None, LONG).await.unwrap();
}

/// A grant with an answer that has landed, a secret, and a lease whose token is not the first.
async fn vault(store: &dyn Store) -> Lease {
    let (kek, wrapped) = (KekId(odd()), sealed().sealed);
    store.add_data_key(NewDataKey { id: KEY, kek, wrapped, created_at: AT }).await.unwrap();
    let grant = NewGrant {
        id: GRANT,
        key: GrantKey { provider: "twitch".into(), account: odd() },
        client: odd(),
        flow: GrantFlow::Imported,
        scopes: [odd()].into(),
        instances: ["a", "b"].map(|name| InstanceName::new(name).unwrap()).into(),
        created_at: AT,
    };
    store.add_grant(grant).await.unwrap();
    let name = LeaseName::new(odd());
    let early = store.acquire_lease(&name, HolderId(1), LONG).await.unwrap();
    store.release_lease(&early).await.unwrap();
    let lease = store.acquire_lease(&name, HolderId(1), LONG).await.unwrap();
    let state = GrantState::Suspect { since: AT, reason: odd() };
    let new = NewGeneration {
        grant: GRANT,
        from: Generation(0),
        fence: lease.fence(),
        tokens: vec![(TokenKind::Access, sealed()), (TokenKind::Refresh, sealed())],
        previous: PreviousPair::Keep,
        scopes: None,
        expiry: GrantExpiry { access: Some(AT), refresh: None, idle: Some(Timestamp(-1)) },
        seen: GrantState::Pending { since: AT },
        status: GrantStatus { state, failure: None, next_refresh_at: None, next_validate_at: None },
        at: AT,
    };
    let generation = store.commit_generation(new).await.unwrap().generation;
    let new = NewRefresh { grant: GRANT, generation, fence: lease.fence(), at: AT };
    let refresh = store.begin_refresh(new).await.unwrap();
    store.mark_sent(&refresh, AT).await.unwrap();
    let (attempt, status, body) = (1, 200, sealed());
    store.land(Landing { grant: GRANT, generation, attempt, status, body, at: AT }).await.unwrap();
    let value = SecretValue {
        sealed: sealed(),
        fingerprint: Fingerprint((0..=255).collect()),
        source: SecretSource::Generated,
        at: AT,
    };
    let (kind, max_age) = ("password".into(), Some(Duration::from_hours(24)));
    let secret = NewSecret { id: SecretId(1), name: odd(), kind, value, max_age };
    store.add_secret(secret).await.unwrap();
    lease
}

async fn open(url: &StoreUrl) -> Arc<dyn Store> {
    store::open(url, StoreOptions::default()).await.unwrap()
}

async fn tokens(store: &dyn Store) -> (Vec<GrantRecord>, Vec<SealedToken>, Vec<Landing>) {
    let query = GrantQuery { limit: 9, ..GrantQuery::default() };
    (
        store.grants(query).await.unwrap(),
        store.sealed_tokens(GRANT).await.unwrap(),
        store.landings(GRANT).await.unwrap(),
    )
}

async fn contents(store: &dyn Store) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        store.users().await.unwrap(),
        store.api_keys().await.unwrap(),
        store.audit_ends().await.unwrap(),
        store.data_keys().await.unwrap(),
        store.open_refreshes(None, 9).await.unwrap(),
        store.secrets(None, 9).await.unwrap(),
        store.hosts().await.unwrap(),
    )
}

/// What was known of the source holds for the copy; counters go on where they were.
async fn goes_on(store: &dyn Store, known: &store::AuditLink, lease: &Lease) {
    store.append_audit(vec![entry()]).await.unwrap();
    let verdict = verify_audit(store, Some(known)).await.unwrap();
    assert!(matches!(verdict, AuditVerdict::Intact { entries: 1, .. }), "{verdict:?}");
    store.release_lease(lease).await.unwrap();
    let next = store.acquire_lease(&lease.name, HolderId(2), LONG).await.unwrap();
    assert!(next.token > lease.token);
}

#[tokio::test]
async fn people_and_the_vault_go_to_a_server_and_back() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| StoreUrl::Sqlite(folder.path().join(name));
    let (first, last) = (file("a.db"), file("b.db"));
    let middle = StoreUrl::parse(database.url(), Path::new("/")).unwrap();
    let source = open(&first).await;
    people(&*source).await;
    let lease = vault(&*source).await;
    let known = source.audit_ends().await.unwrap().newest;
    let before = (contents(&*source).await, tokens(&*source).await);
    drop(source);
    let there = store::copy(&first, &middle, |_| {}).await.unwrap();
    let back = store::copy(&middle, &last, |_| {}).await.unwrap();
    assert_eq!(there.tables, back.tables);
    for url in [middle, last] {
        let store = open(&url).await;
        assert_eq!((contents(&*store).await, tokens(&*store).await), before);
        let report = store.check().await.unwrap();
        assert_eq!(report.problems, [""; 0]);
        goes_on(&*store, &known, &lease).await;
    }
}
