//! Rules of what is done to sealed rows by the thousand: import and rotation.

use super::{
    UNICODE, at,
    fixtures::{GRANT, KEY, active, add_grant, add_key, grant, new_grant, pair, sealed},
    is_invalid, is_not_found, name,
    refreshes::{granted, landing, refused, sent},
};
use crate::{
    Timestamp,
    store::{
        AuthorizedGrant, DataKeyId, FailureClass, Generation, GrantExpiry, GrantFailure, GrantFlow,
        GrantId, GrantQuery, GrantStatus, GrantVersion, Landing, LandingId, NewGrant, SealedBy,
        SealedToken, Store, TokenId, TokenKind,
    },
};

fn authorized(id: i64, account: &str) -> AuthorizedGrant {
    let instances = [name("web"), name("worker")].into();
    let grant = NewGrant { flow: GrantFlow::Imported, instances, ..new_grant(id, account) };
    let failure =
        GrantFailure { class: FailureClass::Retryable, count: 3, votes: 1, at: Timestamp(9) };
    AuthorizedGrant {
        grant,
        tokens: vec![
            (TokenKind::Access, sealed(&format!("access {account}"))),
            (TokenKind::Refresh, sealed(&format!("refresh {account}"))),
        ],
        expiry: GrantExpiry { access: Some(at(5)), refresh: None, idle: Some(at(7)) },
        status: GrantStatus { failure: Some(failure), ..active() },
    }
}

/// Every field, as if each had been added and committed alone.
pub async fn grants_come_back_with_their_first_tokens(store: &dyn Store) {
    add_key(store, KEY).await;
    let new = [authorized(1, "ada"), authorized(2, UNICODE)];
    let added = store.add_authorized_grants(new.to_vec()).await.unwrap();
    assert!(added.iter().eq(&[GrantId(1), GrantId(2)]), "{added:?}");
    for one in new {
        let id = one.grant.id;
        let record = store.grant(&one.grant.key).await.unwrap().unwrap();
        assert_eq!((record.generation, record.version), (Generation(1), GrantVersion(0)));
        assert_eq!((record.refreshed_at, record.updated_at), (Some(at(0)), at(0)));
        assert_eq!((record.status, record.expiry), (one.status, one.expiry));
        assert_eq!(record.grant, one.grant);
        let tokens = one.tokens.into_iter().map(|(kind, sealed)| SealedToken {
            id: TokenId { grant: id, kind, generation: Generation(1) },
            sealed,
        });
        assert_eq!(store.sealed_tokens(id).await.unwrap(), tokens.collect::<Vec<_>>());
    }
    assert_eq!(store.add_authorized_grants(vec![]).await.unwrap(), [].into());
}

/// Neither by its account nor by its number; its neighbours are added. The same once more changes nothing.
pub async fn a_grant_that_is_there_is_not_overwritten_by_many(store: &dyn Store) {
    let before = add_grant(store).await;
    let many = vec![authorized(1, "ada"), authorized(GRANT.0, "bob"), authorized(3, "eve")];
    let added = store.add_authorized_grants(many.clone()).await.unwrap();
    assert_eq!(added, [GrantId(3)].into());
    assert_eq!(grant(store).await, before);
    assert_eq!(store.sealed_tokens(GRANT).await.unwrap(), []);
    assert_eq!(store.sealed_tokens(GrantId(1)).await.unwrap(), []);
    assert_eq!(store.add_authorized_grants(many).await.unwrap(), [].into());
    assert_eq!(store.sealed_tokens(GrantId(3)).await.unwrap().len(), 2);
    let all = GrantQuery { limit: 9, ..GrantQuery::default() };
    assert_eq!(store.grants(all).await.unwrap().len(), 2);
}

/// Whichever of them are there; the others are passed over.
pub async fn many_grants_and_their_tokens_are_read_at_once(store: &dyn Store) {
    add_key(store, KEY).await;
    let many = vec![authorized(1, UNICODE), authorized(2, "bob"), authorized(3, "eve")];
    store.add_authorized_grants(many).await.unwrap();
    let accounts = ["nobody", "eve", UNICODE, "eve"].map(str::to_owned).to_vec();
    let provider = new_grant(1, UNICODE).key.provider;
    let found = store.grants_of(&provider, accounts.clone()).await.unwrap();
    let all = store.grants(GrantQuery { limit: 9, ..GrantQuery::default() }).await.unwrap();
    assert_eq!(found, [all[0].clone(), all[2].clone()]);
    assert_eq!(store.grants_of("another", accounts).await.unwrap(), []);
    assert_eq!(store.grants_of(&provider, vec![]).await.unwrap(), []);
    let tokens = store.sealed_tokens_of(vec![GrantId(3), GrantId(404), GrantId(1)]).await.unwrap();
    let mut expected = store.sealed_tokens(GrantId(1)).await.unwrap();
    expected.extend(store.sealed_tokens(GrantId(3)).await.unwrap());
    assert_eq!(tokens, expected);
    assert_eq!(store.sealed_tokens_of(vec![]).await.unwrap(), []);
}

/// However many they are, and wherever among them one is there already or comes twice.
pub async fn grants_are_added_by_the_hundred(store: &dyn Store) {
    let before = add_grant(store).await;
    let number = |n: i64| authorized(1_000 + n, &format!("account {n}"));
    let mut many: Vec<AuthorizedGrant> = (0..230).map(number).collect();
    many[17] = authorized(17, &before.grant.key.account);
    many[129] = authorized(1_129, "account 3");
    for (at, one) in many.iter_mut().enumerate() {
        one.tokens.truncate(1 + at % 2);
        one.expiry.refresh = (at % 3 == 0).then_some(Timestamp(9));
    }
    let added = store.add_authorized_grants(many.clone()).await.unwrap();
    let taken = |id: &GrantId| *id == GrantId(17) || *id == GrantId(1_129);
    assert!(added.len() == 228 && !added.iter().any(taken), "{added:?}");
    assert_eq!(grant(store).await, before);
    for one in many.into_iter().filter(|one| !taken(&one.grant.id)) {
        let record = store.grant_by_id(one.grant.id).await.unwrap().unwrap();
        assert_eq!((record.grant, record.expiry), (one.grant.clone(), one.expiry));
        let tokens = store.sealed_tokens(one.grant.id).await.unwrap().into_iter();
        let tokens: Vec<_> = tokens.map(|token| (token.id.kind, token.sealed)).collect();
        assert_eq!(tokens, one.tokens);
    }
}

/// None is added where one cannot be.
pub async fn many_grants_under_an_unknown_key_are_refused_whole(store: &dyn Store) {
    add_key(store, KEY).await;
    let mut stray = authorized(2, "bob");
    stray.tokens[1].1.key = DataKeyId(404);
    is_not_found(store.add_authorized_grants(vec![authorized(1, "ada"), stray]).await);
    let mut twice = authorized(2, "bob");
    twice.tokens[1].0 = TokenKind::Access;
    is_invalid(store.add_authorized_grants(vec![authorized(1, "ada"), twice]).await);
    let all = GrantQuery { limit: 9, ..GrantQuery::default() };
    assert_eq!(store.grants(all).await.unwrap(), []);
}

/// By key, in pages, with every answer once.
pub async fn answers_are_found_by_the_key_that_sealed_them(store: &dyn Store) {
    let held = granted(store).await;
    let mut refresh = sent(store, &held).await;
    let mut expected = Vec::new();
    for _ in 0..4 {
        refresh = store.mark_unanswered(&refresh, at(12)).await.unwrap();
        refresh = store.retry_refresh(&refresh, &held.fence(), at(13)).await.unwrap();
        refresh = store.mark_sent(&refresh, at(14)).await.unwrap();
        expected.push(refresh.clone());
    }
    let expected: Vec<Landing> = expected.iter().map(|one| landing(one, "answer")).collect();
    for one in &expected {
        store.land(one.clone()).await.unwrap();
    }
    let mut found: Vec<Landing> = Vec::new();
    loop {
        let after = found.last().map(Landing::id);
        let page = store.landings_sealed_by(KEY, after, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, expected);
    assert_eq!(store.landings_sealed_by(DataKeyId(2), None, 9).await.unwrap(), []);
}

/// Only what the former key sealed is replaced; an answer that is gone is not brought back.
pub async fn an_answer_is_resealed_once(store: &dyn Store) {
    let held = granted(store).await;
    let other = DataKeyId(2);
    add_key(store, other).await;
    let refresh = sent(store, &held).await;
    let landed = landing(&refresh, "answer");
    store.land(landed.clone()).await.unwrap();
    let again = |text: &str| SealedBy { key: other, ..sealed(text) };
    store.reseal_landing(landed.id(), KEY, again("new")).await.unwrap();
    refused(store.reseal_landing(landed.id(), KEY, again("late")).await);
    let gone = LandingId { attempt: 9, ..landed.id() };
    refused(store.reseal_landing(gone, KEY, again("x")).await);
    let unknown = SealedBy { key: DataKeyId(3), ..sealed("x") };
    is_not_found(store.reseal_landing(landed.id(), other, unknown).await);
    let body = again("new");
    assert_eq!(store.landings(GRANT).await.unwrap(), [Landing { body, ..landed }]);
    store.commit_generation(pair(1, &held)).await.unwrap();
    refused(store.reseal_landing(landing(&refresh, "").id(), other, again("x")).await);
    assert_eq!(store.landings(GRANT).await.unwrap(), []);
}
