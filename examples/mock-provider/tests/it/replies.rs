//! Every way in which a provider can misbehave.

use std::time::{Duration, Instant};

use kissops_mock_provider::{
    CLIENT_ID, Ending, Endpoint, Hold, ImportRow, Knobs, MockProvider, NewAccounts, Reply,
    Rotation, Scope, Secrets, Step, Storm,
};

use crate::{Got, account, get, post, refresh, refresh_at, start, until, validate, with};

/// The next refresh is answered so; what came, and whether it was carried out.
fn refreshed(mock: &MockProvider, row: &ImportRow, step: Step) -> (Got, bool) {
    let before = mock.totals().refreshes.committed;
    mock.script(&Scope::Account(row.account.clone()), vec![step]).unwrap();
    let got = refresh(mock, &row.refresh_token);
    (got, mock.totals().refreshes.committed > before)
}

#[tokio::test]
async fn refusals_are_told_and_do_nothing() {
    let (mock, row) = with(Rotation::OneTime).await;
    for (reply, status, says) in [
        (Reply::InvalidGrant, 400, "Invalid refresh token"),
        (Reply::InvalidClient, 403, "invalid client secret"),
        (Reply::Unauthorized, 401, "Invalid refresh token"),
        (Reply::Forbidden, 403, "Forbidden"),
        (Reply::NotFound, 404, "<html>"),
        (Reply::TooManyRequests, 429, "Too Many"),
        (Reply::ServerError, 500, "Internal"),
        (Reply::BadGateway, 502, "<html>"),
        (Reply::Unavailable, 503, "Unavailable"),
        (Reply::Redirect, 307, ""),
        (Reply::OkWithError, 200, "Invalid refresh token"),
        (Reply::Empty, 200, ""),
        (Reply::Huge, 200, "   "),
        (Reply::EmptyAccessToken, 200, "\"access_token\":\"\""),
    ] {
        let (got, committed) = refreshed(&mock, &row, Step::new(reply).retry_after(7));
        assert_eq!((got.status, committed), (status, false), "{reply:?}");
        assert!(String::from_utf8(got.body.clone()).unwrap().contains(says), "{reply:?}: {got:?}");
        let waits = matches!(reply, Reply::TooManyRequests | Reply::Unavailable);
        assert_eq!(got.header("retry-after"), waits.then(|| "7".to_owned()), "{reply:?}");
    }
    let (got, _) = refreshed(&mock, &row, Step::new(Reply::Redirect));
    assert_eq!(got.header("location"), Some(mock.url("/elsewhere")));
    let (got, _) = refreshed(&mock, &row, Step::new(Reply::Garbage));
    assert!(String::from_utf8(got.body).is_err());
    assert_eq!(validate(&mock, &row.access_token).status, 200);
    assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
    assert_eq!(mock.totals().refreshes.replays, 0);
}

#[tokio::test]
async fn a_refusal_can_be_told_of_what_was_carried_out() {
    let (mock, row) = with(Rotation::OneTime).await;
    let (got, committed) = refreshed(&mock, &row, Step::new(Reply::BadGateway).commit(true));
    assert_eq!((got.status, committed), (502, true));
    assert_eq!(validate(&mock, &row.access_token).status, 401);
    let row = account(&mock, "bob");
    let (got, committed) = refreshed(&mock, &row, Step::new(Reply::HalfBody).commit(false));
    assert_eq!((got.status, committed), (400, false));
}

#[tokio::test]
async fn connections_are_closed_before_and_after_the_commit() {
    let (mock, row) = with(Rotation::OneTime).await;
    let (got, committed) = refreshed(&mock, &row, Step::new(Reply::DropBeforeCommit));
    assert_eq!((got.status, got.body.len(), committed), (0, 0, false));
    let (got, committed) = refreshed(&mock, &row, Step::new(Reply::CommitThenDrop));
    assert_eq!((got.status, got.body.len(), committed), (0, 0, true));
    let row = account(&mock, "bob");
    let (got, committed) = refreshed(&mock, &row, Step::new(Reply::HalfBody));
    let told: usize = got.header("content-length").unwrap().parse().unwrap();
    assert_eq!((got.status, got.body.len(), committed), (200, told / 2, true));
    assert_eq!(mock.totals().dropped, 3);
}

#[tokio::test]
async fn a_slow_body_is_whole_in_the_end() {
    let (mock, row) = with(Rotation::OneTime).await;
    let begun = Instant::now();
    let step = Step { slow_ms: Some(200), ..Step::new(Reply::SlowBody) };
    let (got, committed) = refreshed(&mock, &row, step);
    assert!(begun.elapsed() >= Duration::from_millis(200) && committed);
    assert_eq!(validate(&mock, &got.text("access_token")).status, 200);
}

#[tokio::test]
async fn members_are_left_out() {
    let (mock, row) = with(Rotation::Reusable).await;
    for (reply, member) in [
        (Reply::MissingExpiresIn, "expires_in"),
        (Reply::MissingRefreshToken, "refresh_token"),
        (Reply::MissingScope, "scope"),
        (Reply::MissingTokenType, "token_type"),
    ] {
        let (got, committed) = refreshed(&mock, &row, Step::new(reply));
        assert_eq!((got.json().get(member), committed), (None, true), "{got:?}");
        assert_eq!(got.json().as_object().unwrap().len(), 4, "{got:?}");
    }
    let (got, _) = refreshed(&mock, &row, Step::new(Reply::NullScopes));
    assert!(got.json()["scope"].is_null() && got.json().get("scope").is_some());
    mock.script(&Scope::All, vec![Step::new(Reply::NullScopes).on(Endpoint::Validate)]).unwrap();
    assert!(validate(&mock, &row.access_token).json()["scopes"].is_null());
}

#[tokio::test]
async fn a_refresh_token_that_is_not_told_has_not_changed() {
    let (mock, row) = with(Rotation::OneTime).await;
    let (got, committed) = refreshed(&mock, &row, Step::new(Reply::MissingRefreshToken));
    assert_eq!((got.status, committed), (200, true));
    assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
    assert_eq!(mock.totals().refreshes.replays, 0);
}

#[tokio::test]
async fn a_script_is_played_step_by_step_and_the_narrower_first() {
    let (mock, row) = with(Rotation::Reusable).await;
    let all =
        vec![Step::new(Reply::ServerError).times(2), Step::default(), Step::new(Reply::BadGateway)];
    mock.script(&Scope::All, all).unwrap();
    mock.script(&Scope::Account("ann".into()), vec![Step::new(Reply::Forbidden)]).unwrap();
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(refresh(&mock, &row.refresh_token).status);
    }
    assert_eq!(statuses, [403, 500, 500, 200, 502, 200]);
    mock.script(&Scope::All, vec![Step::new(Reply::ServerError)]).unwrap();
    mock.forget_scripts();
    assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
}

#[tokio::test]
async fn a_fault_stays_and_may_hit_a_share_only() {
    let (mock, row) = with(Rotation::Reusable).await;
    let fault = Some(Step::new(Reply::Unavailable));
    mock.set(&Scope::All, Knobs { fault, ..Knobs::default() }).unwrap();
    for _ in 0..5 {
        assert_eq!(refresh(&mock, &row.refresh_token).status, 503);
    }
    assert_eq!(validate(&mock, &row.access_token).status, 200);
    mock.set(&Scope::All, Knobs { fault, fault_share: Some(0.5), ..Knobs::default() }).unwrap();
    let mut failed = 0;
    for _ in 0..200 {
        failed += u32::from(refresh(&mock, &row.refresh_token).status == 503);
    }
    assert!((60..140).contains(&failed), "{failed}");
}

#[tokio::test]
async fn a_storm_refuses_the_living_and_harms_nobody() {
    let mock = start().await;
    let rows = mock.add_accounts(&NewAccounts::many(40)).unwrap();
    mock.storm(Some(Storm::default()));
    assert!(rows.iter().all(|row| refresh(&mock, &row.refresh_token).status == 400));
    assert_eq!(validate(&mock, &rows[0].access_token).status, 200);
    mock.storm(Some(Storm { share: 0.5, validate: true }));
    let hit = |row: &ImportRow| refresh(&mock, &row.refresh_token).status == 400;
    let first: Vec<bool> = rows.iter().map(hit).collect();
    let again: Vec<bool> = rows.iter().map(hit).collect();
    assert_eq!(first, again);
    assert!((8..32).contains(&first.iter().filter(|hit| **hit).count()), "{first:?}");
    for (row, hit) in rows.iter().zip(first) {
        assert_eq!(validate(&mock, &row.access_token).status == 401, hit);
    }
    mock.storm(None);
    assert!(rows.iter().all(|row| refresh(&mock, &row.refresh_token).status == 200));
    assert_eq!(mock.totals().refreshes.replays, 0);
}

#[tokio::test]
async fn a_misconfigured_client_is_refused_until_it_is_mended() {
    let (mock, row) = with(Rotation::OneTime).await;
    let broken = Knobs { misconfigured: Some(true), ..Knobs::default() };
    mock.set(&Scope::Client(CLIENT_ID.into()), broken).unwrap();
    assert_eq!(refresh(&mock, &row.refresh_token).text("message"), "invalid client secret");
    assert_eq!(refresh_at(&mock, "/token", &row.refresh_token).text("error"), "invalid_client");
    mock.set(&Scope::Client(CLIENT_ID.into()), Knobs::default()).unwrap();
    assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_goes_on_when_it_is_released() {
    let (mock, row) = with(Rotation::OneTime).await;
    for hold in [Hold::BeforeCommit, Hold::AfterCommit] {
        let before = mock.totals().refreshes.committed;
        let current = mock.account("ann", Secrets::Shown).unwrap().grants[0].refresh.clone();
        let token = current.unwrap().token.unwrap();
        mock.script(&Scope::All, vec![Step::default().hold(hold)]).unwrap();
        std::thread::scope(|scope| {
            let got = scope.spawn(|| refresh(&mock, &token));
            until("the hold", || mock.totals().held == 1);
            let committed = mock.totals().refreshes.committed > before;
            assert_eq!(committed, hold == Hold::AfterCommit);
            assert_eq!(mock.totals().refreshes.in_flight, 1);
            assert_eq!(mock.release(), 1);
            assert_eq!(got.join().unwrap().status, 200);
        });
    }
    let totals = mock.totals();
    assert_eq!((totals.held, totals.refreshes.in_flight, totals.overlaps), (0, 0, 0));
    assert_eq!(validate(&mock, &row.access_token).status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_has_begun_does_not_care_who_hung_up() {
    let (mock, row) = with(Rotation::OneTime).await;
    mock.script(&Scope::All, vec![Step::default().hold(Hold::BeforeCommit)]).unwrap();
    let body = format!(
        "grant_type=refresh_token&client_id={CLIENT_ID}&client_secret=mock-client-secret&refresh_token={}",
        row.refresh_token
    );
    let mut stream = std::net::TcpStream::connect(mock.address()).unwrap();
    let head =
        "POST /token HTTP/1.1\r\nhost: m\r\ncontent-type: application/x-www-form-urlencoded\r\n";
    let text = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
    until("the hold", || mock.totals().held == 1);
    drop(stream);
    // The server hears of it on its own; only then is the answer undeliverable for sure.
    until("the commit", || {
        mock.release();
        mock.totals().refreshes.committed == 1
    });
    until("the end", || mock.ledger(Secrets::Hidden).requests[0].ending != Ending::Open);
    assert_eq!(validate(&mock, &row.access_token).status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_refreshes_of_a_grant_are_seen() {
    let (mock, row) = with(Rotation::Reusable).await;
    let delays =
        Knobs { delay_before_ms: Some(20), hold: Some(Hold::AfterCommit), ..Knobs::default() };
    mock.set(&Scope::Account("ann".into()), delays).unwrap();
    std::thread::scope(|scope| {
        let asked = [(); 2].map(|()| scope.spawn(|| refresh(&mock, &row.refresh_token).status));
        until("both", || mock.totals().held == 2);
        mock.release();
        assert_eq!(asked.map(|asked| asked.join().unwrap()), [200, 200]);
    });
    let totals = mock.totals();
    assert_eq!((totals.overlaps, totals.refreshes.most_in_flight), (1, 2));
    assert_eq!(mock.account("ann", Secrets::Hidden).unwrap().grants[0].counts.most_in_flight, 2);
}

#[tokio::test]
async fn delays_take_their_time() {
    let (mock, row) = with(Rotation::Reusable).await;
    let delays = Knobs { delay_before_ms: Some(60), delay_after_ms: Some(60), ..Knobs::default() };
    mock.set(&Scope::Client(CLIENT_ID.into()), delays).unwrap();
    let begun = Instant::now();
    assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(120));
    let request = mock.ledger(Secrets::Hidden).requests[0].clone();
    assert!(request.ended_at.unwrap() - request.at >= 120_000);
}

#[tokio::test]
async fn more_than_the_rate_has_to_wait() {
    let (mock, row) = with(Rotation::OneTime).await;
    mock.stop_clock();
    let rated =
        Knobs { token_rate: Some(2), rotation: Some(Rotation::Reusable), ..Knobs::default() };
    mock.set(&Scope::All, rated).unwrap();
    let statuses = [(); 3].map(|()| refresh(&mock, &row.refresh_token));
    assert_eq!(statuses.each_ref().map(|got| got.status), [200, 200, 429]);
    assert_eq!(statuses[2].header("retry-after").as_deref(), Some("1"));
    mock.advance(Duration::from_secs(1));
    assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
    let bearer = format!("Bearer {}", row.access_token);
    mock.set(&Scope::All, Knobs { api_points: Some(1), ..Knobs::default() }).unwrap();
    let first = get(&mock, "/helix/users", &bearer);
    assert_eq!(first.header("ratelimit-remaining").as_deref(), Some("0"));
    assert_eq!(first.json()["data"][0]["login"], "ann");
    let second = get(&mock, "/helix/users", &bearer);
    assert!(second.status == 429 && second.header("retry-after").is_some());
}

#[tokio::test]
async fn a_secret_in_a_url_is_refused_and_counted() {
    let (mock, row) = with(Rotation::OneTime).await;
    let path = format!("/oauth2/token?refresh_token={}", row.refresh_token);
    assert_eq!(post(&mock, &path, &[("grant_type", "refresh_token")]).status, 400);
    assert_eq!(mock.totals().secrets_in_urls, 1);
    assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_from_before_a_reset_is_nobodys() {
    let (mock, row) = with(Rotation::Reusable).await;
    mock.script(&Scope::All, vec![Step::default().hold(Hold::BeforeCommit)]).unwrap();
    std::thread::scope(|scope| {
        let old = scope.spawn(|| refresh(&mock, &row.refresh_token).status);
        until("the hold", || mock.totals().held == 1);
        mock.reset();
        let row = account(&mock, "bob");
        assert_eq!(refresh(&mock, &row.refresh_token).status, 200);
        mock.release();
        assert_eq!(old.join().unwrap(), 400);
    });
    let totals = mock.totals();
    assert_eq!((totals.refreshes.presented, totals.refreshes.in_flight), (1, 0));
    assert_eq!(totals.statuses[&200], 1);
}
