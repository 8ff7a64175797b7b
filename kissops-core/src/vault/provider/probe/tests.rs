//! What providers say of a token.

use super::*;
use crate::vault::{Client, Profile};

const AT: Timestamp = Timestamp(1_700_000_000_000_000);

fn provider(name: &str) -> Provider {
    let mut profile =
        Profile::builtin(name).unwrap_or_else(|| Profile::new("https://id.example.org/token"));
    if name == "introspecting" {
        profile.validate_auth = TokenAuth::Introspect;
    }
    let client = Client { id: "our-id".into(), secret: Some("our-secret".into()) };
    Provider::new(name, profile, client).unwrap()
}

fn probed(name: &str, status: u16, body: &str) -> Probed {
    let body = body.as_bytes().to_vec().into();
    let answer = RawAnswer { status, retry_after: None, body, sent_at: AT, at: AT };
    provider(name).read_probe(&answer)
}

#[test]
fn vlt_5_a_good_token_names_its_account() {
    let later = |secs| Some(AT.plus(Duration::from_secs(secs)));
    let set = |words: &[&str]| Some(words.iter().map(|w| (*w).to_owned()).collect::<BTreeSet<_>>());
    for (name, body, expires, wanted_scopes, names) in [
        (
            "twitch",
            r#"{"client_id":"c","login":"el_serda","scopes":["chat:read"],"user_id":"7","expires_in":5520838}"#,
            later(5_520_838),
            set(&["chat:read"]),
            vec!["el_serda", "7"],
        ),
        // A token of the client itself; and one that does not expire.
        ("twitch", r#"{"client_id":"c","scopes":null,"expires_in":0}"#, None, None, vec![]),
        (
            "discord",
            r#"{"application":{},"scopes":["identify"],"expires":"2023-11-14T22:14:20+00:00","user":{"id":"9","username":"mason"}}"#,
            later(60),
            set(&["identify"]),
            vec!["mason", "9"],
        ),
        (
            "google",
            r#"{"azp":"c","aud":"c","scope":"openid email","exp":"1700003600","expires_in":"3599","email":"a@b.c","sub":"1"}"#,
            later(3599),
            set(&["email", "openid"]),
            vec!["a@b.c", "1"],
        ),
        ("reddit", r#"{"name":"spez","id":"1w72"}"#, None, None, vec!["spez"]),
        ("spotify", r#"{"id":"smedjan","display_name":"D"}"#, None, None, vec!["smedjan"]),
        (
            "introspecting",
            r#"{"active":true,"scope":"read","username":"jdoe","exp":1700000060,"sub":"Z"}"#,
            later(60),
            set(&["read"]),
            vec!["jdoe", "Z"],
        ),
    ] {
        let wanted = Probed::Good {
            expires_at: expires,
            scopes: wanted_scopes,
            account: names.into_iter().map(str::to_owned).collect(),
        };
        assert_eq!(probed(name, 200, body), wanted, "{name}");
    }
}

#[test]
fn vlt_9_only_a_clear_answer_says_that_a_token_is_dead() {
    for (name, status, body) in [
        ("twitch", 401, r#"{"status":401,"message":"invalid access token"}"#),
        ("discord", 401, r#"{"message":"401: Unauthorized","code":0}"#),
        ("google", 400, r#"{"error":"invalid_token","error_description":"Invalid Value"}"#),
        ("spotify", 401, r#"{"error":{"status":401,"message":"The access token expired"}}"#),
        ("introspecting", 200, r#"{"active":false}"#),
        ("introspecting", 401, r#"{"error":"invalid_token"}"#),
    ] {
        let said = probed(name, status, body);
        assert!(matches!(said, Probed::Dead { .. }), "{name} {status} {body}: {said:?}");
    }
    for (name, status, body) in [
        ("twitch", 401, "<html>who are you?</html>"),
        ("twitch", 401, ""),
        ("twitch", 400, r#"{"status":400,"message":"missing authorization token"}"#),
        ("twitch", 403, "{}"),
        ("twitch", 404, "{}"),
        ("twitch", 429, "{}"),
        ("twitch", 500, r#"{"error":"invalid_token"}"#),
        ("twitch", 200, ""),
        ("twitch", 200, "[]"),
        ("twitch", 200, r#"{"error":"odd"}"#),
        ("twitch", 302, ""),
        ("google", 400, r#"{"error":"invalid_request"}"#),
        // Here it is our own client that is refused.
        ("introspecting", 401, r#"{"error":"invalid_client"}"#),
    ] {
        let said = probed(name, status, body);
        assert!(matches!(said, Probed::Unknown { .. }), "{name} {status} {body}: {said:?}");
    }
}

#[tokio::test]
async fn vlt_5_who_cannot_be_asked_says_so() {
    let profile = Profile::new("https://id.example.org/token");
    let client = Client { id: "our-id".into(), secret: None };
    let own = Provider::new("own", profile, client).unwrap();
    let http = Http::new().unwrap();
    assert!(!own.can_probe() && own.validate_every().is_none());
    assert!(matches!(own.probe(&http, &"a".into()).await, Probed::Unknown { .. }));
    let err = provider("spotify").revoke(&http, &"a".into(), None).await.unwrap_err();
    assert!(err.chain().contains("https://www.spotify.com/account/apps/"), "{err}");
}
