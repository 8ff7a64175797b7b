//! What happens on Postgres when one transaction has to wait for another, step by step: the other is made by hand and
//! committed when the call under test is seen to wait for it. `SQLite` has one writer; there such races cannot be.

use std::{future::Future, sync::Arc, time::Duration};

use kissops_core::{
    Error, Timestamp,
    id::InstanceName,
    store::{
        Actor, AuditOutcome, AuditQuery, AuditStore as _, AuditVerdict, DataKeyId,
        DataKeyStore as _, FencingToken, Generation, GrantExpiry, GrantFlow, GrantId, GrantKey,
        GrantState, GrantStatus, GrantStore as _, HolderId, HostId, HostSession, HostStore as _,
        KekId, Landing, Lease, LeaseName, LeaseStore as _, NewAudit, NewDataKey, NewGeneration,
        NewGrant, NewHost, NewRefresh, PreviousPair, RefreshPhase, RefreshStore as _, Sealed,
        SealedBy, TokenId, TokenKind,
        postgres::{PostgresOptions, PostgresStore},
        verify_audit,
    },
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use crate::postgres::{ScratchDatabase, scratch_database};

const LONG: Duration = Duration::from_mins(10);
const INSTANT: Duration = Duration::from_micros(1);
const GRANT: GrantId = GrantId(7);
const KEY: DataKeyId = DataKeyId(1);
const AT: Timestamp = Timestamp(1_790_000_000_000_000);

/// A store, and a connection of its own to the same database.
pub(super) struct Pair {
    pub(super) store: Arc<PostgresStore>,
    pub(super) raw: PgConnection,
    database: ScratchDatabase,
}

impl Pair {
    pub(super) async fn new() -> Option<Self> {
        let database = scratch_database().await?;
        let options = PostgresOptions { connections: 2, ..PostgresOptions::default() };
        let store = PostgresStore::connect(&database.url().into(), options).await.unwrap();
        let raw = PgConnection::connect(database.url()).await.unwrap();
        Some(Self { store: Arc::new(store), raw, database })
    }

    /// Begins `sql` by hand, starts `call`, commits once that waits, and gives the call's answer.
    pub(super) async fn race<T, F>(
        &mut self,
        sql: &str,
        call: impl FnOnce(Arc<PostgresStore>) -> F,
    ) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.raw.execute("BEGIN").await.unwrap();
        self.raw.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
        let call = tokio::spawn(call(Arc::clone(&self.store)));
        let mut watch = PgConnection::connect(self.database.url()).await.unwrap();
        let waiting =
            "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
            WHERE NOT l.granted AND a.datname = current_database()";
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while watch.fetch_one(waiting).await.unwrap().get::<i64, _>(0) == 0 {
            assert!(!call.is_finished(), "the call did not wait for: {sql}");
            assert!(std::time::Instant::now() < deadline, "nothing waits for: {sql}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.raw.execute("COMMIT").await.unwrap();
        call.await.unwrap()
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Error>) {
    let answer = answer.map(drop);
    assert!(matches!(answer, Err(Error::Conflict { .. })), "{answer:?}");
}

fn sealed(text: &str) -> SealedBy {
    SealedBy { key: KEY, sealed: Sealed(text.as_bytes().to_vec()) }
}

fn active() -> GrantStatus {
    let state = GrantState::Active { since: AT };
    GrantStatus { state, failure: None, next_refresh_at: None, next_validate_at: None }
}

fn generation_after(from: u64, lease: &Lease) -> NewGeneration {
    NewGeneration {
        grant: GRANT,
        from: Generation(from),
        fence: lease.fence(),
        tokens: vec![(TokenKind::Access, sealed("access"))],
        previous: PreviousPair::Remove,
        scopes: None,
        expiry: GrantExpiry::default(),
        seen: if from == 0 { GrantState::Pending { since: AT } } else { active().state },
        status: active(),
        at: AT,
    }
}

/// A grant at generation 1, under a lease of the first holder.
async fn granted(store: &PostgresStore) -> Lease {
    let (kek, wrapped) = (KekId("kek".into()), Sealed(vec![]));
    store.add_data_key(NewDataKey { id: KEY, kek, wrapped, created_at: AT }).await.unwrap();
    let key = GrantKey { provider: "twitch".into(), account: "ada".into() };
    let grant = NewGrant {
        id: GRANT,
        key,
        client: "main".into(),
        flow: GrantFlow::DeviceCode,
        scopes: [].into(),
        instances: [].into(),
        created_at: AT,
    };
    store.add_grant(grant).await.unwrap();
    let lease = store.acquire_lease(&LeaseName::new("grant/7"), HolderId(1), LONG).await.unwrap();
    store.commit_generation(generation_after(0, &lease)).await.unwrap();
    lease
}

async fn generation(store: &PostgresStore) -> u64 {
    let key = GrantKey { provider: "twitch".into(), account: "ada".into() };
    store.grant(&key).await.unwrap().unwrap().generation.0
}

#[tokio::test]
async fn a_commit_that_waits_for_a_take_over_is_refused() {
    let Some(mut pair) = Pair::new().await else { return };
    let lease = granted(&pair.store).await;
    let take_over = "UPDATE leases SET holder = 2, token = token + 1";
    let commit = async move |store: Arc<PostgresStore>| {
        store.commit_generation(generation_after(1, &lease)).await
    };
    refused(pair.race(take_over, commit).await);
    assert_eq!(generation(&pair.store).await, 1);
}

#[tokio::test]
async fn a_take_over_waits_for_a_guarded_write() {
    let Some(mut pair) = Pair::new().await else { return };
    let name = LeaseName::new("x");
    pair.store.acquire_lease(&name, HolderId(1), INSTANT).await.unwrap();
    let guarded = "SELECT 1 FROM leases WHERE name = 'x' AND token = 1 FOR SHARE";
    let lease = pair.race(guarded, async move |store: Arc<PostgresStore>| {
        store.acquire_lease(&name, HolderId(2), LONG).await
    });
    assert_eq!(lease.await.unwrap().token, FencingToken(2));
}

#[tokio::test]
async fn a_take_over_that_waits_for_a_late_renewal_is_refused() {
    let Some(mut pair) = Pair::new().await else { return };
    let name = LeaseName::new("x");
    pair.store.acquire_lease(&name, HolderId(1), INSTANT).await.unwrap();
    let renewal = "UPDATE leases SET valid_until = valid_until + 600000000";
    refused(
        pair.race(renewal, async move |store: Arc<PostgresStore>| {
            store.acquire_lease(&name, HolderId(2), LONG).await
        })
        .await,
    );
}

#[tokio::test]
async fn a_lease_that_is_removed_meanwhile_does_not_begin_anew() {
    let Some(mut pair) = Pair::new().await else { return };
    let name = LeaseName::new("x");
    for _ in 0..5 {
        let lease = pair.store.acquire_lease(&name, HolderId(1), LONG).await.unwrap();
        pair.store.release_lease(&lease).await.unwrap();
    }
    let removal = "SELECT 1 FROM lease_floor FOR UPDATE; UPDATE lease_floor SET token = 5; DELETE FROM leases";
    let lease = pair.race(removal, async move |store: Arc<PostgresStore>| {
        store.acquire_lease(&name, HolderId(2), LONG).await
    });
    assert_eq!(lease.await.unwrap().token, FencingToken(6));
}

#[tokio::test]
async fn leases_are_not_removed_while_one_is_being_granted() {
    let Some(mut pair) = Pair::new().await else { return };
    let lease = pair.store.acquire_lease(&LeaseName::new("x"), HolderId(1), LONG).await.unwrap();
    pair.store.release_lease(&lease).await.unwrap();
    // Granted and over at once: the token must be below the floor when the lease is gone.
    let grant =
        "SELECT 1 FROM lease_floor FOR SHARE; UPDATE leases SET token = 99, valid_until = 0";
    let pruned = pair
        .race(grant, async |store: Arc<PostgresStore>| store.prune_leases(Duration::ZERO, 9).await);
    assert_eq!(pruned.await.unwrap(), 1);
    let next = pair.store.acquire_lease(&LeaseName::new("x"), HolderId(1), LONG).await.unwrap();
    assert_eq!(next.token, FencingToken(100));
}

#[tokio::test]
async fn a_retry_that_waits_for_an_answer_is_refused() {
    let Some(mut pair) = Pair::new().await else { return };
    let lease = granted(&pair.store).await;
    let new = NewRefresh { grant: GRANT, generation: Generation(1), fence: lease.fence(), at: AT };
    let refresh = pair.store.begin_refresh(new).await.unwrap();
    let sent = pair.store.mark_sent(&refresh, AT).await.unwrap();
    let landing = Landing {
        grant: GRANT,
        generation: Generation(1),
        attempt: 1,
        status: 200,
        body: sealed("answer"),
        at: AT,
    };
    pair.store.land(landing).await.unwrap();
    // As if it had not been committed yet.
    pair.raw.execute("UPDATE refresh_intents SET phase = 'sent'").await.unwrap();
    let answer = "UPDATE refresh_intents SET phase = 'landed'";
    refused(
        pair.race(answer, async move |store: Arc<PostgresStore>| {
            store.retry_refresh(&sent, &lease.fence(), AT).await
        })
        .await,
    );
    let found = pair.store.refresh(GRANT).await.unwrap().unwrap();
    assert_eq!((found.attempt, found.phase), (1, RefreshPhase::Landed));
}

#[tokio::test]
async fn a_refresh_that_waits_for_a_new_generation_is_refused() {
    let Some(mut pair) = Pair::new().await else { return };
    let lease = granted(&pair.store).await;
    let commit = "UPDATE grants SET generation = generation + 1";
    let new = NewRefresh { grant: GRANT, generation: Generation(1), fence: lease.fence(), at: AT };
    refused(
        pair.race(commit, async move |store: Arc<PostgresStore>| store.begin_refresh(new).await)
            .await,
    );
    assert_eq!(pair.store.refresh(GRANT).await.unwrap(), None);
}

#[tokio::test]
async fn a_grant_that_is_authorized_meanwhile_is_not_shredded() {
    let Some(mut pair) = Pair::new().await else { return };
    granted(&pair.store).await;
    let waits = "UPDATE grants SET state = 'needs_reauth', state_until = 1, state_reason = ''";
    pair.raw.execute(waits).await.unwrap();
    let authorize = "UPDATE grants SET state = 'active', state_until = NULL";
    let shred =
        async |store: Arc<PostgresStore>| store.shred_expired(Timestamp(2), 9).await.unwrap();
    assert_eq!(pair.race(authorize, shred).await, 0);
    assert_eq!(pair.store.sealed_tokens(GRANT).await.unwrap().len(), 1);
}

#[tokio::test]
async fn two_sets_of_instances_do_not_mix() {
    let Some(mut pair) = Pair::new().await else { return };
    granted(&pair.store).await;
    let first = "UPDATE grants SET version = version + 1; DELETE FROM grant_instances;
        INSERT INTO grant_instances (grant_id, instance) VALUES (7, 'a'), (7, 'b')";
    let second = async |store: Arc<PostgresStore>| {
        let instances = [InstanceName::new("c").unwrap()].into();
        store.bind_grant(GRANT, instances, AT).await
    };
    pair.race(first, second).await.unwrap();
    let key = GrantKey { provider: "twitch".into(), account: "ada".into() };
    let instances = pair.store.grant(&key).await.unwrap().unwrap().grant.instances;
    assert!(instances.iter().map(InstanceName::as_str).eq(["c"]), "{instances:?}");
}

fn entry(at: Timestamp) -> NewAudit {
    NewAudit {
        at,
        actor: Actor::System("test".into()),
        action: "test.acted".into(),
        target: String::new(),
        origin: String::new(),
        outcome: AuditOutcome::Done,
    }
}

#[tokio::test]
async fn an_entry_that_is_appended_meanwhile_is_not_pruned() {
    let Some(mut pair) = Pair::new().await else { return };
    pair.store.append_audit(vec![entry(Timestamp(1)), entry(Timestamp(2))]).await.unwrap();
    let young = entry(Timestamp(99));
    let hash = pair.store.audit_ends().await.unwrap().newest.hash.next(&young.digest()).0;
    let append = format!(
        "UPDATE audit_ends SET seq = 3, hash = '{hash}';
         INSERT INTO audit (seq, hash, at, actor_kind, actor, action, target, origin, outcome, reason)
         VALUES (3, '{hash}', 99, 'system', 'test', 'test.acted', '', '', 'done', '')"
    );
    let prune =
        async |store: Arc<PostgresStore>| store.prune_audit(Timestamp(50), 9).await.unwrap();
    assert_eq!(pair.race(&append, prune).await, 2);
    let query = AuditQuery { limit: 9, ..AuditQuery::default() };
    assert_eq!(pair.store.audit(query).await.unwrap().len(), 1);
    let verdict = verify_audit(&*pair.store, None).await.unwrap();
    assert!(matches!(verdict, AuditVerdict::Intact { entries: 1, .. }), "{verdict:?}");
}

fn host(id: i64, name: &str) -> NewHost {
    NewHost {
        id: HostId(id),
        name: name.into(),
        capacity: 1,
        labels: [].into(),
        program: "test".into(),
        joined_at: AT,
    }
}

#[tokio::test]
async fn a_host_whose_name_is_taken_in_the_same_instant_is_refused() {
    let Some(mut pair) = Pair::new().await else { return };
    let other = "INSERT INTO hosts (id, name, epoch, seq, nonce, expires_at, state, capacity, labels, program, joined_at)
        VALUES (2, 'a', 1, 0, 0, 0, 'fenced', 1, '{}', '', 0)";
    let register = async |store: Arc<PostgresStore>| {
        store.register_host(host(1, "a"), HostSession(1), None, LONG).await
    };
    refused(pair.race(other, register).await);
}

/// A key that a grant's token is sealed with, and another one.
async fn two_keys(store: &PostgresStore) -> DataKeyId {
    granted(store).await;
    let (id, kek) = (DataKeyId(2), KekId("kek".into()));
    let key = NewDataKey { id, kek, wrapped: Sealed(vec![]), created_at: AT };
    store.add_data_key(key).await.unwrap();
    store.retire_data_key(id, AT).await.unwrap();
    id
}

#[tokio::test]
async fn nothing_is_sealed_under_a_key_that_is_removed_meanwhile() {
    let Some(mut pair) = Pair::new().await else { return };
    let key = two_keys(&pair.store).await;
    let token = TokenId { grant: GRANT, kind: TokenKind::Access, generation: Generation(1) };
    let reseal = async move |store: Arc<PostgresStore>| {
        let to = SealedBy { key, sealed: Sealed(vec![1]) };
        store.reseal_token(token, KEY, to).await
    };
    let err = pair.race("DELETE FROM data_keys WHERE id = 2", reseal).await.unwrap_err();
    assert!(matches!(&err, Error::NotFound { what } if what == "data key 2"), "{err:?}");
}

#[tokio::test]
async fn a_key_that_is_used_meanwhile_is_not_removed() {
    let Some(mut pair) = Pair::new().await else { return };
    let key = two_keys(&pair.store).await;
    let seal =
        "SELECT 1 FROM data_keys WHERE id = 2 FOR SHARE; UPDATE sealed_tokens SET data_key = 2";
    let remove = async move |store: Arc<PostgresStore>| store.remove_data_key(key).await;
    let err = pair.race(seal, remove).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
}

#[tokio::test]
async fn a_fencing_that_waits_for_a_late_renewal_is_refused() {
    let Some(mut pair) = Pair::new().await else { return };
    let lease =
        pair.store.register_host(host(1, "a"), HostSession(1), None, INSTANT).await.unwrap();
    // It was evaluated in time and is committed late. The lease is not even longer by it.
    let renewal = "UPDATE hosts SET seq = seq + 1";
    let fence = async move |store: Arc<PostgresStore>| {
        store.fence_host(lease.host, lease.epoch, lease.seq).await
    };
    refused(pair.race(renewal, fence).await);
    assert_eq!(pair.store.hosts().await.unwrap()[0].session, Some(HostSession(1)));
}
