//! Rotation, replays, lives of tokens.

use kissops_mock_provider::{
    Client, Kill, Knobs, NewAccounts, PUBLIC_CLIENT_ID, Rotation, Scope, Secrets, TokenStyle,
};

use crate::{account, post, refresh, refresh_at, start, validate, with};

#[tokio::test]
async fn a_reusable_token_stays_and_old_access_tokens_live() {
    let (mock, row) = with(Rotation::Reusable).await;
    let first = refresh(&mock, &row.refresh_token);
    assert_eq!((first.status, first.text("refresh_token")), (200, row.refresh_token.clone()));
    assert_eq!(first.json()["expires_in"], 4 * 3600);
    assert_eq!(first.json()["scope"], serde_json::json!(["chat:read", "chat:edit"]));
    assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
    for token in [&row.access_token, &first.text("access_token")] {
        assert_eq!(validate(&mock, token).status, 200);
    }
    let counts = mock.totals().refreshes;
    assert_eq!((counts.presented, counts.committed, counts.replays), (2, 2, 0));
}

#[tokio::test]
async fn a_rotated_token_is_refused_without_a_penalty() {
    let (mock, row) = with(Rotation::Rotating).await;
    let next = refresh(&mock, &row.refresh_token);
    assert_ne!(next.text("refresh_token"), row.refresh_token);
    assert_eq!(validate(&mock, &row.access_token).status, 401);
    let again = refresh(&mock, &row.refresh_token);
    assert_eq!((again.status, again.text("message")), (400, "Invalid refresh token".to_owned()));
    assert_eq!(validate(&mock, &next.text("access_token")).status, 200);
    assert_eq!(refresh(&mock, &next.text("refresh_token")).status, 200);
    let counts = mock.totals().refreshes;
    assert_eq!((counts.replays, counts.families_killed), (1, 0));
}

#[tokio::test]
async fn a_replayed_one_time_token_kills_all_of_that_user_and_client() {
    let (mock, row) = with(Rotation::OneTime).await;
    let elsewhere = account(&mock, "ann");
    let other = account(&mock, "bob");
    mock.add_client(Client::confidential("another", "s")).unwrap();
    let foreign = mock.add_accounts(&NewAccounts::named("ann").of("another")).unwrap().remove(0);
    let next = refresh(&mock, &row.refresh_token);
    assert_eq!(validate(&mock, &elsewhere.access_token).status, 200);
    assert_eq!(refresh(&mock, &row.refresh_token).status, 400);
    assert_eq!(validate(&mock, &next.text("access_token")).status, 401);
    assert_eq!(refresh(&mock, &next.text("refresh_token")).status, 400);
    assert_eq!(validate(&mock, &elsewhere.access_token).status, 401);
    for spared in [&other, &foreign] {
        assert_eq!(validate(&mock, &spared.access_token).status, 200);
    }
    let counts = mock.totals().refreshes;
    assert_eq!((counts.replays, counts.families_killed), (1, 1));
    let view = mock.account("ann", Secrets::Hidden).unwrap();
    assert_eq!(view.grants.iter().filter(|grant| grant.live).count(), 1);
}

#[tokio::test]
async fn a_family_can_be_all_that_a_replay_kills() {
    let (mock, row) = with(Rotation::OneTime).await;
    let knobs =
        Knobs { rotation: Some(Rotation::OneTime), kill: Some(Kill::Family), ..Knobs::default() };
    mock.set(&Scope::Account("ann".into()), knobs).unwrap();
    let elsewhere = account(&mock, "ann");
    let next = refresh(&mock, &row.refresh_token);
    refresh(&mock, &row.refresh_token);
    assert_eq!(validate(&mock, &next.text("access_token")).status, 401);
    assert_eq!(validate(&mock, &elsewhere.access_token).status, 200);
}

#[tokio::test]
async fn a_public_client_is_one_time_unless_told_otherwise() {
    let mock = start().await;
    let new = NewAccounts::named("ann").of(PUBLIC_CLIENT_ID);
    let row = mock.add_accounts(&new).unwrap().remove(0);
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", PUBLIC_CLIENT_ID),
        ("refresh_token", &row.refresh_token),
    ];
    assert_ne!(post(&mock, "/oauth2/token", &form).text("refresh_token"), row.refresh_token);
    assert_eq!(post(&mock, "/oauth2/token", &form).status, 400);
    assert_eq!(mock.totals().refreshes.families_killed, 1);
    // Another client's token: no replay of anybody's.
    assert_eq!(refresh(&mock, &row.refresh_token).status, 400);
    assert_eq!(mock.totals().outcomes["wrong_client"], 1);
}

#[tokio::test]
async fn narrower_knobs_win() {
    let (mock, row) = with(Rotation::Reusable).await;
    let rotation = |rotation| Knobs { rotation: Some(rotation), ..Knobs::default() };
    mock.set(&Scope::Client("mock-client".into()), rotation(Rotation::Rotating)).unwrap();
    let next = refresh(&mock, &row.refresh_token).text("refresh_token");
    assert_ne!(next, row.refresh_token);
    mock.set(&Scope::Account("ann".into()), rotation(Rotation::Reusable)).unwrap();
    assert_eq!(refresh(&mock, &next).text("refresh_token"), next);
    assert!(mock.set(&Scope::Account("nobody".into()), Knobs::default()).is_err());
}

#[tokio::test]
async fn the_fifty_first_access_token_kills_the_first() {
    let (mock, row) = with(Rotation::Reusable).await;
    let first = refresh(&mock, &row.refresh_token).text("access_token");
    for _ in 0..48 {
        assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
    }
    assert_eq!(validate(&mock, &row.access_token).status, 200);
    refresh(&mock, &row.refresh_token);
    assert_eq!(validate(&mock, &row.access_token).status, 401);
    assert_eq!(validate(&mock, &first).status, 200);
    let two = Knobs { access_limit: Some(2), ..Knobs::default() };
    mock.set(&Scope::All, two).unwrap();
    refresh(&mock, &row.refresh_token);
    assert_eq!(mock.account("ann", Secrets::Hidden).unwrap().grants[0].access.len(), 2);
}

#[tokio::test]
async fn lives_end_by_the_providers_clock() {
    let (mock, row) = with(Rotation::Rotating).await;
    let knobs = Knobs {
        lifetime_ms: Some(60_000),
        refresh_lifetime_ms: Some(120_000),
        refresh_kills_access: Some(false),
        rotation: Some(Rotation::Rotating),
        ..Knobs::default()
    };
    mock.set(&Scope::All, knobs).unwrap();
    mock.stop_clock();
    let next = refresh(&mock, &row.refresh_token);
    assert_eq!(next.json()["expires_in"], 60);
    assert_eq!(validate(&mock, &row.access_token).status, 200);
    mock.advance(std::time::Duration::from_secs(59));
    let valid = validate(&mock, &next.text("access_token"));
    assert_eq!((valid.status, &valid.json()["expires_in"]), (200, &1.into()));
    mock.advance(std::time::Duration::from_secs(1));
    assert_eq!(validate(&mock, &next.text("access_token")).status, 401);
    mock.advance(std::time::Duration::from_mins(1));
    assert_eq!(refresh(&mock, &next.text("refresh_token")).status, 400);
    assert_eq!(mock.totals().outcomes["dead"], 2);
    mock.set_clock(1_000_000_000);
    let old = validate(&mock, &next.text("access_token"));
    assert_eq!(old.header("date").unwrap(), "Thu, 01 Jan 1970 00:16:40 GMT");
}

#[tokio::test]
async fn awkward_and_long_tokens_come_back_as_they_went_out() {
    for style in [TokenStyle::Awkward, TokenStyle::Long] {
        let mock = start().await;
        let knobs = Knobs {
            token_style: Some(style),
            rotation: Some(Rotation::OneTime),
            ..Knobs::default()
        };
        mock.set(&Scope::All, knobs).unwrap();
        let row = account(&mock, "ann");
        assert!(row.refresh_token.contains('+') || row.refresh_token.len() > 2000);
        let next = refresh_at(&mock, "/token", &row.refresh_token);
        assert_eq!(next.status, 200);
        assert_eq!(validate(&mock, &next.text("access_token")).status, 200);
        assert_eq!(refresh_at(&mock, "/token", &next.text("refresh_token")).status, 200);
    }
}

#[tokio::test]
async fn disconnected_and_expired_accounts() {
    let (mock, row) = with(Rotation::Reusable).await;
    assert_eq!(mock.expire("ann").unwrap(), 1);
    assert_eq!(validate(&mock, &row.access_token).status, 401);
    assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
    assert_eq!(mock.disconnect("ann").unwrap(), 1);
    assert_eq!(refresh(&mock, &row.refresh_token).status, 400);
    assert!(mock.disconnect("nobody").is_err());
    mock.reset();
    assert!(mock.account("ann", Secrets::Hidden).is_none());
    assert_eq!(refresh(&mock, &row.refresh_token).status, 400);
    assert_eq!(mock.totals().outcomes["unknown"], 1);
}
