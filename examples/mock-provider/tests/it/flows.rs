//! First tokens: device codes, authorization codes, an app's own; the manners of each provider.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kissops_mock_provider::{
    CLIENT_ID, CLIENT_SECRET, Knobs, MockProvider, NewAccounts, PUBLIC_CLIENT_ID, Rotation, Scope,
};

use crate::{Got, account, get, post, refresh_at, request, start, validate};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

fn poll(mock: &MockProvider, path: &str, code: &str) -> Got {
    post(
        mock,
        path,
        &[("grant_type", DEVICE), ("client_id", PUBLIC_CLIENT_ID), ("device_code", code)],
    )
}

#[tokio::test]
async fn a_device_code_is_pending_then_approved_once() {
    let mock = start().await;
    mock.stop_clock();
    let form = [("client_id", PUBLIC_CLIENT_ID), ("scopes", "chat:read user:read:email")];
    let codes = post(&mock, "/oauth2/device", &form);
    assert_eq!((&codes.json()["expires_in"], &codes.json()["interval"]), (&1800.into(), &5.into()));
    assert!(codes.text("verification_uri").starts_with(&mock.url("/activate")));
    let code = codes.text("device_code");
    let pending = poll(&mock, "/oauth2/token", &code);
    assert_eq!((pending.status, pending.text("message")), (400, "authorization_pending".into()));
    assert_eq!(poll(&mock, "/token", &code).text("error"), "slow_down");
    mock.advance(std::time::Duration::from_secs(5));
    assert_eq!(poll(&mock, "/token", &code).text("error"), "authorization_pending");
    assert!(mock.approve_device(&codes.text("user_code"), "ann"));
    let tokens = poll(&mock, "/oauth2/token", &code);
    let valid = validate(&mock, &tokens.text("access_token"));
    assert_eq!(
        (valid.text("login"), valid.text("client_id")),
        ("ann".into(), PUBLIC_CLIENT_ID.into())
    );
    assert_eq!(valid.json()["scopes"][1], "user:read:email");
    assert_eq!(poll(&mock, "/oauth2/token", &code).text("message"), "invalid device code");
}

#[tokio::test]
async fn device_codes_are_denied_and_expire_and_can_approve_themselves() {
    let mock = start().await;
    mock.stop_clock();
    let start = || {
        let codes = post(&mock, "/device", &[("client_id", PUBLIC_CLIENT_ID), ("scope", "a")]);
        (codes.text("device_code"), codes.text("user_code"))
    };
    let (code, user) = start();
    assert!(mock.deny_device(&user) && !mock.deny_device("NOSUCH"));
    assert_eq!(poll(&mock, "/token", &code).text("error"), "access_denied");
    let (code, _) = start();
    mock.advance(std::time::Duration::from_mins(30));
    assert_eq!(poll(&mock, "/token", &code).text("error"), "expired_token");
    let knobs = Knobs { device_approve_ms: Some(10_000), ..Knobs::default() };
    mock.set(&Scope::All, knobs).unwrap();
    let (code, _) = start();
    assert_eq!(poll(&mock, "/token", &code).status, 400);
    mock.advance(std::time::Duration::from_secs(10));
    assert_eq!(poll(&mock, "/token", &code).status, 200);
}

#[tokio::test]
async fn a_person_can_approve_in_a_browser() {
    let mock = start().await;
    let codes = post(&mock, "/device", &[("client_id", PUBLIC_CLIENT_ID)]);
    let page = get(&mock, &format!("/activate?user_code={}", codes.text("user_code")), "");
    assert!(String::from_utf8(page.body).unwrap().contains(&codes.text("user_code")));
    let form = [("user_code", &*codes.text("user_code")), ("account", "ann")];
    assert_eq!(post(&mock, "/activate", &form).status, 200);
    assert_eq!(poll(&mock, "/token", &codes.text("device_code")).status, 200);
    assert_eq!(post(&mock, "/activate", &form).status, 404);
}

/// From RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const BACK: &str = "http://127.0.0.1:9/back";

fn authorized(mock: &MockProvider) -> String {
    let path = format!(
        "/authorize?response_type=code&client_id={PUBLIC_CLIENT_ID}&redirect_uri={BACK}&scope=a+b&state=xyz\
         &login_hint=ann&code_challenge={CHALLENGE}&code_challenge_method=S256"
    );
    let answer = get(mock, &path, "");
    let back = answer.header("location").unwrap();
    assert!(
        answer.status == 302 && back.starts_with(BACK) && back.ends_with("&state=xyz"),
        "{back}"
    );
    back.split("code=").nth(1).unwrap().split('&').next().unwrap().to_owned()
}

fn redeemed(mock: &MockProvider, code: &str, verifier: &str, back: &str) -> Got {
    post(
        mock,
        "/token",
        &[
            ("grant_type", "authorization_code"),
            ("client_id", PUBLIC_CLIENT_ID),
            ("code", code),
            ("code_verifier", verifier),
            ("redirect_uri", back),
        ],
    )
}

#[tokio::test]
async fn an_authorization_code_needs_its_verifier_and_works_once() {
    let mock = start().await;
    for (verifier, back) in [("wrong", BACK), (VERIFIER, "http://127.0.0.1:9/other")] {
        let code = authorized(&mock);
        assert_eq!(redeemed(&mock, &code, verifier, back).text("error"), "invalid_grant");
    }
    let code = authorized(&mock);
    let tokens = redeemed(&mock, &code, VERIFIER, BACK);
    assert_eq!((tokens.status, tokens.text("scope")), (200, "a b".into()));
    assert_eq!(validate(&mock, &tokens.text("access_token")).text("login"), "ann");
    assert_eq!(redeemed(&mock, &code, VERIFIER, BACK).status, 400);
    assert_eq!(validate(&mock, &tokens.text("access_token")).status, 401);
    let bare =
        format!("/authorize?response_type=code&client_id={PUBLIC_CLIENT_ID}&redirect_uri={BACK}");
    assert!(get(&mock, &bare, "").header("location").unwrap().contains("error=invalid_request"));
}

#[tokio::test]
async fn an_apps_own_token_has_no_refresh_token() {
    let mock = start().await;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT_ID),
        ("client_secret", CLIENT_SECRET),
    ];
    let tokens = post(&mock, "/oauth2/token", &form);
    assert_eq!((tokens.status, tokens.json().get("refresh_token")), (200, None));
    let valid = validate(&mock, &tokens.text("access_token"));
    assert_eq!((valid.status, valid.json().get("login")), (200, None));
    let public = [("grant_type", "client_credentials"), ("client_id", PUBLIC_CLIENT_ID)];
    assert_eq!(post(&mock, "/oauth2/token", &public).text("message"), "missing client secret");
}

#[tokio::test]
async fn clients_say_who_they_are_as_the_provider_wants_it() {
    let mock = start().await;
    let row = account(&mock, "ann");
    let body = format!("grant_type=refresh_token&refresh_token={}", row.refresh_token);
    let basic =
        |secret: &str| format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{secret}")));
    let by_basic = |path: &str, secret: &str| {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("authorization", &*basic(secret)),
            ("user-agent", "test/1 (by ann)"),
        ];
        request(mock.address(), &format!("POST {path}"), &headers, &body).status
    };
    let by_body = |path: &str| refresh_at(&mock, path, &row.refresh_token).status;
    for (path, basic, body) in [
        ("/token", 200, 200),
        ("/oauth2/token", 403, 200),
        ("/discord/api/oauth2/token", 200, 200),
        ("/discord/api/v10/oauth2/token", 200, 200),
        ("/google/token", 200, 200),
        ("/reddit/api/v1/access_token", 200, 429),
        ("/spotify/api/token", 200, 400),
    ] {
        assert_eq!((by_basic(path, CLIENT_SECRET), by_body(path)), (basic, body), "{path}");
    }
    assert_eq!((by_basic("/token", "wrong"), by_basic("/spotify/api/token", "wrong")), (401, 400));
    let unknown = [("grant_type", "refresh_token"), ("client_id", "x"), ("refresh_token", "y")];
    assert_eq!(post(&mock, "/oauth2/token", &unknown).text("message"), "invalid client");
}

#[tokio::test]
async fn each_provider_has_its_own_words() {
    let mock = start().await;
    let row = account(&mock, "ann");
    for (path, says, told) in [
        ("/token", "invalid_grant", true),
        ("/discord/api/oauth2/token", "invalid_grant", true),
        ("/google/token", "expired or revoked", false),
    ] {
        let dead = refresh_at(&mock, path, "nonsense-that-is-no-token");
        let text = String::from_utf8(dead.body.clone()).unwrap();
        assert!(dead.status == 400 && text.contains(says), "{path}: {text}");
        let good = refresh_at(&mock, path, &row.refresh_token).json();
        assert_eq!(good.get("refresh_token").is_some(), told, "{path}");
        assert!(good["scope"].is_string(), "{path}");
    }
    let bearer = format!("Bearer {}", row.access_token);
    for (path, body) in [
        ("/oauth2/validate", "invalid access token"),
        ("/helix/users", "Invalid OAuth token"),
        ("/validate", "invalid_token"),
        ("/userinfo", "invalid_token"),
        ("/discord/api/oauth2/@me", "401: Unauthorized"),
        ("/discord/api/users/@me", "401: Unauthorized"),
        ("/google/tokeninfo", "invalid_token"),
        ("/google/userinfo", "invalid_token"),
        ("/spotify/v1/me", "expired"),
    ] {
        assert_eq!(get(&mock, path, &bearer).status, 200, "{path}");
        let dead = get(&mock, path, "Bearer nonsense-that-is-no-token");
        let text = String::from_utf8(dead.body).unwrap();
        assert!(dead.status == 401 && text.contains(body), "{path}: {text}");
    }
    assert_eq!(get(&mock, "/nothing/here", "").status, 404);
}

#[tokio::test]
async fn revocation_reaches_as_far_as_the_provider_says() {
    let mock = start().await;
    mock.set(&Scope::All, Knobs { rotation: Some(Rotation::Reusable), ..Knobs::default() })
        .unwrap();
    let revoke = |path: &str, token: &str| {
        post(
            &mock,
            path,
            &[("client_id", CLIENT_ID), ("client_secret", CLIENT_SECRET), ("token", token)],
        )
        .status
    };
    let row = account(&mock, "ann");
    assert_eq!(revoke("/oauth2/revoke", &row.access_token), 200);
    assert_eq!(validate(&mock, &row.access_token).status, 401);
    assert_eq!(revoke("/oauth2/revoke", &row.access_token), 400);
    assert_eq!(refresh_at(&mock, "/token", &row.refresh_token).status, 200);
    assert_eq!(revoke("/revoke", &row.refresh_token), 200);
    assert_eq!(refresh_at(&mock, "/token", &row.refresh_token).status, 400);
    assert_eq!(revoke("/revoke", "unknown-as-good-as-revoked"), 200);
    let rows = mock.add_accounts(&NewAccounts {
        names: vec!["bob".into(), "bob".into()],
        ..NewAccounts::default()
    });
    let rows = rows.unwrap();
    assert_eq!(revoke("/discord/api/oauth2/token/revoke", &rows[0].access_token), 200);
    assert_eq!(validate(&mock, &rows[1].access_token).status, 401);
    let unknown = post(&mock, "/oauth2/revoke", &[("client_id", "x"), ("token", "y")]);
    assert_eq!((unknown.status, unknown.text("message")), (404, "client does not exist".into()));
}

#[tokio::test]
async fn introspection_says_of_a_dead_token_that_it_is_not_active() {
    let mock = start().await;
    let row = account(&mock, "ann");
    let ask = |secret: &str, token: &str| {
        let form = [("client_id", CLIENT_ID), ("client_secret", secret), ("token", token)];
        post(&mock, "/introspect", &form)
    };
    let active = ask(CLIENT_SECRET, &row.access_token).json();
    assert_eq!((&active["active"], &active["username"]), (&true.into(), &"ann".into()));
    let dead = ask(CLIENT_SECRET, "nonsense-that-is-no-token");
    assert_eq!((dead.status, &dead.json()["active"]), (200, &false.into()));
    assert_eq!(ask("wrong", &row.access_token).status, 401);
}
