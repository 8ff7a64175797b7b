//! Answers as providers give them, and as they should not.

use super::super::{Client, Provider};
use super::*;

const AT: Timestamp = Timestamp(1_700_000_000_000_000);

fn raw(status: u16, body: &[u8]) -> RawAnswer {
    RawAnswer {
        status,
        retry_after: None,
        body: body.to_vec().into(),
        sent_at: AT,
        at: AT.plus(Duration::from_millis(80)),
    }
}

fn provider(name: &str, secret: Option<&str>) -> Provider {
    let profile =
        Profile::builtin(name).unwrap_or_else(|| Profile::new("https://id.example.org/token"));
    let client = Client { id: "our-id".into(), secret: secret.map(Into::into) };
    Provider::new(name, profile, client).unwrap()
}

fn confidential(name: &str) -> Provider {
    provider(name, Some("our-secret"))
}

fn kind(answer: &Answer) -> &'static str {
    match answer {
        Answer::Tokens(_) => "tokens",
        Answer::Retry { .. } => "retry",
        Answer::Unclear { .. } => "unclear",
        Answer::Terminal { .. } => "terminal",
        Answer::Misconfigured { .. } => "misconfigured",
    }
}

/// Provider, status, body, and what it means.
type Case = (&'static str, u16, &'static str, &'static str);

#[track_caller]
fn check(cases: &[Case]) {
    for (name, status, body, wanted) in cases {
        let answer = confidential(name).read(&raw(*status, body.as_bytes()));
        assert_eq!(kind(&answer), *wanted, "{name} {status} {body}: {answer:?}");
    }
}

#[test]
fn vlt_8_refusals_of_the_built_in_providers() {
    check(&[
        ("twitch", 400, r#"{"status":400,"message":"Invalid refresh token"}"#, "terminal"),
        ("twitch", 401, r#"{"status":401,"message":"invalid refresh token"}"#, "terminal"),
        ("twitch", 400, r#"{"status":400,"message":"Invalid grant"}"#, "terminal"),
        ("twitch", 400, r#"{"status":400,"message":"missing client secret"}"#, "misconfigured"),
        ("twitch", 403, r#"{"status":403,"message":"invalid client secret"}"#, "misconfigured"),
        ("twitch", 400, r#"{"status":400,"message":"invalid client"}"#, "misconfigured"),
        ("twitch", 400, r#"{"status":400,"message":"missing client id"}"#, "misconfigured"),
        ("twitch", 404, r#"{"status":404,"message":"client does not exist"}"#, "misconfigured"),
        ("twitch", 401, r#"{"status":401,"message":"something new"}"#, "retry"),
        ("twitch", 400, r#"{"error":"invalid_grant"}"#, "terminal"),
        ("twitch", 503, r#"{"status":503,"message":"Invalid refresh token"}"#, "retry"),
        ("twitch", 200, r#"{"status":400,"message":"Invalid refresh token"}"#, "terminal"),
        ("discord", 400, r#"{"error":"invalid_grant"}"#, "terminal"),
        ("discord", 401, r#"{"error":"invalid_client"}"#, "misconfigured"),
        ("discord", 401, r#"{"message":"401: Unauthorized","code":0}"#, "misconfigured"),
        ("discord", 429, r#"{"message":"You are being rate limited.","retry_after":1.3}"#, "retry"),
        (
            "discord",
            400,
            r#"{"error":"invalid_request","error_description":"Invalid \"refresh_token\" in request."}"#,
            "terminal",
        ),
        (
            "google",
            400,
            r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#,
            "terminal",
        ),
        (
            "google",
            401,
            r#"{"error":"invalid_client","error_description":"The OAuth client was not found."}"#,
            "misconfigured",
        ),
        ("google", 401, r#"{"error":"deleted_client"}"#, "misconfigured"),
        ("google", 401, r#"{"error":"unauthorized_client"}"#, "misconfigured"),
        ("google", 400, r#"{"error":"admin_policy_enforced"}"#, "terminal"),
        ("google", 500, r#"{"error":"internal_failure"}"#, "retry"),
        ("google", 503, r#"{"error":{"code":503,"status":"UNAVAILABLE"}}"#, "retry"),
        ("reddit", 400, r#"{"message":"Bad Request","error":400}"#, "terminal"),
        ("reddit", 400, r#"{"error":"invalid_grant"}"#, "terminal"),
        ("reddit", 401, r#"{"message":"Unauthorized","error":401}"#, "misconfigured"),
        ("reddit", 429, r#"{"message":"Too Many Requests","error":429}"#, "retry"),
        ("reddit", 200, r#"{"error":"invalid_grant"}"#, "terminal"),
        (
            "spotify",
            400,
            r#"{"error":"invalid_grant","error_description":"Refresh token revoked"}"#,
            "terminal",
        ),
        ("spotify", 400, r#"{"error":"invalid_client"}"#, "misconfigured"),
        ("spotify", 503, r#"{"error":"invalid_grant"}"#, "retry"),
        ("spotify", 503, "upstream connect error", "retry"),
    ]);
}

#[test]
fn vlt_8_what_any_provider_may_say() {
    check(&[
        ("own", 400, r#"{"error":"invalid_grant"}"#, "terminal"),
        ("own", 401, r#"{"error":"INVALID_GRANT"}"#, "terminal"),
        ("own", 400, r#"{"error":"invalid_request"}"#, "retry"),
        ("own", 400, r#"{"error":"unsupported_grant_type"}"#, "misconfigured"),
        ("own", 400, r#"{"error":"invalid_scope"}"#, "misconfigured"),
        ("own", 400, r#"{"error":"temporarily_unavailable"}"#, "retry"),
        ("own", 400, r#"{"error":"slow_down"}"#, "retry"),
        ("own", 400, r#"{"error":"something_else"}"#, "retry"),
        ("own", 400, "", "retry"),
        ("own", 400, "nonsense", "retry"),
        ("own", 401, "", "retry"),
        ("own", 403, "<html>blocked</html>", "retry"),
        ("own", 404, "", "retry"),
        ("own", 425, "", "retry"),
        ("own", 429, r#"{"error":"invalid_client"}"#, "retry"),
        ("own", 500, r#"{"error":"server_error"}"#, "retry"),
        ("own", 503, "<html>maintenance</html>", "retry"),
        ("own", 599, "", "retry"),
        ("own", 302, "", "retry"),
        ("own", 304, "", "retry"),
        ("own", 100, "", "retry"),
        ("own", 0, "", "retry"),
        ("own", 200, r#"{"error":"invalid_grant"}"#, "terminal"),
        ("own", 200, r#"{"error":"something_else"}"#, "retry"),
        ("own", 200, r#"{"error":"","access_token":"a"}"#, "tokens"),
        ("own", 200, r#"{"error":null,"access_token":"a"}"#, "tokens"),
        ("own", 200, r#"{"error":"odd","access_token":"a"}"#, "tokens"),
        ("own", 201, r#"{"access_token":"a"}"#, "tokens"),
        ("twitch", 200, "  <!doctype html><p>soon back", "retry"),
        ("twitch", 200, r#"{"message":"soon back"}"#, "retry"),
        // From here on it was carried out, and what it gave did not arrive.
        ("own", 200, "", "unclear"),
        ("own", 204, "", "unclear"),
        ("own", 200, "{}", "unclear"),
        ("own", 200, "null", "unclear"),
        ("own", 200, "[]", "unclear"),
        ("own", 200, r#"["access_token"]"#, "unclear"),
        ("own", 200, r#"{"access_token":"abc","refresh_tok"#, "unclear"),
        ("own", 200, r#"{"access_token":""}"#, "unclear"),
        ("own", 200, r#"{"access_token":null}"#, "unclear"),
        ("own", 200, r#"{"access_token":7}"#, "unclear"),
        ("own", 200, "{\"access_token\":\"two\\nlines\"}", "unclear"),
        ("own", 200, r#"{"access_token":"a b"}"#, "unclear"),
        ("own", 200, r#"{"access_token":"tökén"}"#, "unclear"),
        ("own", 200, "access_token=abc&token_type=bearer", "unclear"),
        ("own", 200, "\u{feff}{\"access_token\":\"a\"}", "unclear"),
        ("own", 200, "  <!doctype html><p>soon back", "unclear"),
        ("own", 200, r#"{"message":"soon back"}"#, "unclear"),
        // A gateway does not know what the server behind it has done with a token that may be used once.
        ("own", 502, "<html>bad gateway</html>", "unclear"),
        ("own", 504, "", "unclear"),
        ("own", 408, r#"{"error":"invalid_grant"}"#, "unclear"),
        ("own", 519, "", "retry"),
        ("own", 520, "", "unclear"),
        ("own", 524, "<html>a timeout occurred</html>", "unclear"),
        ("own", 527, "", "unclear"),
        ("own", 528, "", "retry"),
        ("twitch", 524, "", "retry"),
        ("discord", 504, "", "unclear"),
        ("twitch", 502, "", "retry"),
        ("google", 504, "", "retry"),
    ]);
}

fn read_tokens(provider: &Provider, body: &str) -> TokenSet {
    match provider.read(&raw(200, body.as_bytes())) {
        Answer::Tokens(tokens) => tokens,
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn vlt_5_missing_fields_have_defaults() {
    let hours = |hours| Some(AT.plus(Duration::from_hours(hours)));
    for (name, body, expires) in [
        ("twitch", r#"{"access_token":"a","expires_in":14400}"#, hours(4)),
        ("twitch", r#"{"access_token":"a"}"#, hours(4)),
        ("twitch", r#"{"access_token":"a","expires_in":0}"#, hours(4)),
        ("discord", r#"{"access_token":"a","expires_in":null}"#, hours(168)),
        ("google", r#"{"access_token":"a","expires_in":"7200"}"#, hours(2)),
        ("google", r#"{"access_token":"a","expires_in":3600.0}"#, hours(1)),
        ("google", r#"{"access_token":"a","expires_in":-5}"#, hours(1)),
        ("google", r#"{"access_token":"a","expires_in":"soon"}"#, hours(1)),
        ("google", r#"{"access_token":"a","expires_in":1e300}"#, hours(87_600)),
        ("google", r#"{"access_token":"a","expires_in":18446744073709551615}"#, hours(87_600)),
    ] {
        let tokens = read_tokens(&confidential(name), body);
        assert_eq!(tokens.access_expires_at, expires, "{name} {body}");
    }
}

#[test]
fn vlt_5_scopes_come_in_every_shape() {
    let set = |words: &[&str]| Some(words.iter().map(|w| (*w).to_owned()).collect::<BTreeSet<_>>());
    for (scope, wanted) in [
        (r#","scope":["chat:read","chat:edit"]"#, set(&["chat:edit", "chat:read"])),
        (r#","scope":"chat:read  chat:edit""#, set(&["chat:edit", "chat:read"])),
        (r#","scope":"""#, set(&[])),
        (r#","scope":[]"#, set(&[])),
        (r#","scope":[1,"a"]"#, set(&["a"])),
        (r#","scope":null"#, None),
        (r#","scope":{}"#, None),
        ("", None),
    ] {
        let tokens =
            read_tokens(&confidential("twitch"), &format!(r#"{{"access_token":"a"{scope}}}"#));
        assert_eq!(tokens.scopes, wanted, "{scope}");
    }
}

#[test]
fn vlt_5_a_missing_refresh_token_keeps_the_old_one() {
    for field in ["", r#","refresh_token":null"#, r#","refresh_token":"""#] {
        let tokens =
            read_tokens(&confidential("spotify"), &format!(r#"{{"access_token":"a"{field}}}"#));
        assert!(tokens.refresh.is_none(), "{field}");
    }
    let tokens =
        read_tokens(&confidential("twitch"), r#"{"access_token":"a","refresh_token":"r é"}"#);
    assert_eq!(tokens.refresh.unwrap().expose_secret(), "r é");
}

#[test]
fn vlt_13_only_an_authorization_moves_the_end_of_a_refresh_token() {
    let spotify = confidential("spotify");
    let tokens = read_tokens(&spotify, r#"{"access_token":"a","refresh_token":"r"}"#);
    assert_eq!(tokens.refresh_expires_at, None);
    let days = |days: u64| Some(AT.plus(Duration::from_hours(24 * days)));
    assert_eq!(spotify.authorized(tokens, AT).refresh_expires_at, days(180));
    // What the provider says wins, and a refresh may say it too.
    let body = r#"{"access_token":"a","refresh_token":"r","refresh_token_expires_in":86400}"#;
    let tokens = read_tokens(&spotify, body);
    assert_eq!(tokens.refresh_expires_at, days(1));
    assert_eq!(spotify.authorized(tokens, AT).refresh_expires_at, days(1));
    // Unused, a public client's token at Twitch ends after 30 days; each use begins them anew.
    let tokens = read_tokens(&provider("twitch", None), r#"{"access_token":"a"}"#);
    assert_eq!(tokens.idle_expires_at, days(30));
    assert_eq!(
        read_tokens(&confidential("twitch"), r#"{"access_token":"a"}"#).idle_expires_at,
        None
    );
}

#[test]
fn vlt_8_retry_after_is_read_and_bounded() {
    let secs = |secs| Some(Duration::from_secs(secs));
    for (header, wanted) in [
        (None, None),
        (Some("7"), secs(7)),
        (Some(" 7 "), secs(7)),
        (Some("0"), secs(0)),
        (Some("100000"), secs(3600)),
        (Some("99999999999999999999999"), secs(3600)),
        (Some("-1"), None),
        (Some("1.5"), None),
        (Some("soon"), None),
        (Some(""), None),
        (Some("Tue, 14 Nov 2023 22:14:20 GMT"), secs(60)),
        (Some("Tue, 14 Nov 2023 22:00:00 GMT"), secs(0)),
        (Some("Tue, 14 Nov 2033 22:00:00 GMT"), secs(3600)),
        (Some("Tue, 99 Nov 2023 22:00:00 GMT"), None),
        (Some("Tuesday"), None),
    ] {
        let mut answer = raw(429, b"");
        answer.at = AT;
        answer.retry_after = header.map(str::to_owned);
        match confidential("twitch").read(&answer) {
            Answer::Retry { after, .. } => assert_eq!(after, wanted, "{header:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn vlt_5_a_table_of_errors_is_read_in_order_before_the_usual_one() {
    let mut profile = Profile::new("https://id.example.org/token");
    let rule = |status, message: &str, means| ErrorRule {
        status,
        error: Some("invalid_grant".to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
        means,
    };
    profile.errors = vec![
        rule(None, "Locked", Meaning::Retry),
        rule(Some(503), "", Meaning::Terminal),
        rule(None, "maybe", Meaning::Unclear),
    ];
    let client = Client { id: "our-id".into(), secret: None };
    let own = Provider::new("own", profile, client).unwrap();
    for (status, message, wanted) in [
        (400, "is LOCKED now", "retry"),
        (400, "is gone", "terminal"),
        (503, "is gone", "terminal"),
        (500, "is gone", "retry"),
        (400, "maybe later", "unclear"),
    ] {
        let body = format!(r#"{{"error":"invalid_grant","error_description":"{message}"}}"#);
        let answer = own.read(&raw(status, body.as_bytes()));
        assert_eq!(kind(&answer), wanted, "{status} {message}");
    }
}

/// What people see of an answer.
fn detail(answer: Answer) -> String {
    match answer {
        Answer::Tokens(tokens) => format!("{tokens:?}"),
        Answer::Retry { detail, .. }
        | Answer::Unclear { detail }
        | Answer::Terminal { detail }
        | Answer::Misconfigured { detail } => detail,
    }
}

const SECRETS: [&str; 4] = [
    "q7w8e9r0t1z2u3i4o5p6",
    "1//0gAbCdEf-GhIjKl_MnOpQrStUvWxYz",
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "abcdefghijklmnopqrstuvwxyz",
];

#[test]
fn vlt_1_details_say_what_happened_and_never_a_token() {
    let said =
        |status, body: &str| detail(confidential("twitch").read(&raw(status, body.as_bytes())));
    assert_eq!(
        said(400, r#"{"status":400,"message":"Invalid refresh token: q7w8e9"}"#),
        "it answered 400: invalid refresh token"
    );
    assert_eq!(
        said(
            400,
            r#"{"error":"invalid_request","error_description":"Token q7w8e9r0 is not here."}"#
        ),
        "it answered 400 invalid_request: Token *** is not here."
    );
    assert_eq!(said(200, "{}"), "it answered 200, without a token that can be used");
    for secret in SECRETS {
        for status in [200, 400, 401, 429, 500, 502] {
            for body in [
                secret.to_owned(),
                format!("<html>{secret}</html>"),
                format!(r#"{{"access_token":"{secret}","refresh_token":"{secret}"}}"#),
                format!(r#"{{"access_token":"{secret}","refresh_token":"{secret}"#),
                format!(r#"{{"error":"{secret}"}}"#),
                format!(r#"{{"error":"invalid_grant","error_description":"bad '{secret}'"}}"#),
                format!(r#"{{"status":400,"message":"no {secret}, no"}}"#),
                format!(r#"{{"error":{{"message":"{secret}","status":"{secret}"}}}}"#),
            ] {
                for name in ["twitch", "own", "google"] {
                    let said = detail(confidential(name).read(&raw(status, body.as_bytes())));
                    assert!(!said.contains(secret), "{name} {status} {body}: {said}");
                }
            }
        }
    }
}

#[test]
fn vlt_5_no_bytes_make_it_panic() {
    // A generator of its own, so that a failure can be seen again.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let good = br#"{"access_token":"abc","refresh_token":"def","expires_in":14400,"scope":["a"]}"#;
    let providers = ["twitch", "google", "own"].map(confidential);
    for round in 0..20_000_u32 {
        let mut body = if round % 2 == 0 { good.to_vec() } else { Vec::new() };
        for _ in 0..next() % 12 {
            let byte = next().to_le_bytes()[0];
            let at = usize::try_from(next() % 80).unwrap();
            match at.checked_sub(body.len()) {
                None => body[at] = byte,
                Some(_) => body.push(byte),
            }
        }
        body.truncate(usize::try_from(next() % 100).unwrap());
        let status = u16::try_from(next() % 700).unwrap();
        let mut answer = raw(status, &body);
        answer.retry_after = Some(String::from_utf8_lossy(&body).into_owned());
        let _ = detail(providers[round as usize % 3].read(&answer));
    }
    let deep = "[".repeat(100_000);
    let answer = confidential("own").read(&raw(200, deep.as_bytes()));
    assert_eq!(kind(&answer), "unclear");
}
