//! What is sent.

use super::*;

fn provider(name: &str, secret: Option<&str>) -> Provider {
    let client = Client { id: "my id".into(), secret: secret.map(Into::into) };
    Provider::new(name, Profile::builtin(name).unwrap(), client).unwrap()
}

fn form(request: &TokenRequest) -> Vec<(&str, &str)> {
    request.form.iter().map(|(key, value)| (key.as_str(), value.expose_secret())).collect()
}

fn header<'a>(request: &'a TokenRequest, name: &str) -> Option<&'a str> {
    let found = request.headers.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.expose_secret())
}

#[test]
fn vlt_5_secrets_are_in_the_body_or_the_header_and_never_in_the_url() {
    let refresh = SecretString::from("r3fresh");
    let request = provider("twitch", Some("s3cret")).refresh_request(&refresh);
    let wanted = [
        ("grant_type", "refresh_token"),
        ("refresh_token", "r3fresh"),
        ("client_id", "my id"),
        ("client_secret", "s3cret"),
    ];
    assert_eq!(form(&request), wanted);
    assert_eq!(header(&request, "authorization"), None);
    let request = provider("spotify", Some("s3:cret")).refresh_request(&refresh);
    assert_eq!(form(&request), wanted[..2]);
    // RFC 6749, 2.3.1: `my+id:s3%3Acret`.
    assert_eq!(header(&request, "authorization"), Some("Basic bXkraWQ6czMlM0FjcmV0"));
    for name in Profile::BUILTIN {
        for secret in [Some("s3cret"), None] {
            let request = provider(name, secret).refresh_request(&refresh);
            assert_eq!(request.url, Profile::builtin(name).unwrap().token_url);
            let shown = format!("{request:?}");
            assert!(!shown.contains("s3cret") && !shown.contains("r3fresh"), "{shown}");
        }
    }
}

#[test]
fn vlt_5_a_client_without_a_secret_is_a_public_one() {
    let twitch = provider("twitch", None);
    assert_eq!(twitch.rotation(), RotationClass::OneTime);
    let request = twitch.refresh_request(&"r".into());
    assert_eq!(form(&request)[2..], [("client_id", "my id")]);
    assert_eq!(provider("twitch", Some("s")).rotation(), RotationClass::Reusable);
    let spotify = provider("spotify", None);
    assert_eq!(spotify.rotation(), RotationClass::Rotating);
    let request = spotify.refresh_request(&"r".into());
    assert_eq!(
        (form(&request)[2], header(&request, "authorization")),
        (("client_id", "my id"), None)
    );
    // Reddit wants the header also without a secret.
    let reddit = provider("reddit", None).refresh_request(&"r".into());
    assert_eq!(header(&reddit, "authorization"), Some("Basic bXkraWQ6"));
}

#[test]
fn vlt_5_client_credentials_name_their_scopes() {
    let twitch = provider("twitch", Some("s"));
    let scopes = BTreeSet::from(["b".to_owned(), "a".to_owned()]);
    let request = twitch.client_credentials_request(&scopes);
    assert_eq!(form(&request)[..2], [("grant_type", "client_credentials"), ("scope", "a b")]);
    let request = twitch.client_credentials_request(&BTreeSet::new());
    assert_eq!(form(&request)[1], ("client_id", "my id"));
}

#[test]
fn vlt_5_an_agent_of_the_profile_replaces_ours() {
    let mut profile = Profile::builtin("reddit").unwrap();
    profile.user_agent = Some("linux:bot:1.0 (by /u/me)".into());
    let client = Client { id: "i".into(), secret: Some("s".into()) };
    let reddit = Provider::new("reddit", profile, client).unwrap();
    let request = reddit.refresh_request(&"r".into());
    assert_eq!(header(&request, "user-agent"), Some("linux:bot:1.0 (by /u/me)"));
}

#[test]
fn vlt_5_addresses_that_would_show_secrets_are_refused() {
    let client = || Client { id: "i".into(), secret: None };
    let clear = Profile::new("http://id.example.org/token");
    let err = Provider::new("own", clear.clone(), client()).unwrap_err();
    assert!(err.chain().starts_with("vault.provider.own.token_url would send secrets"), "{err}");
    let insecure = Profile { insecure: true, ..clear };
    assert!(
        Provider::new("own", insecure, client()).unwrap().refresh_request(&"r".into()).insecure
    );
    let mut profile = Profile::new("https://id.example.org/token");
    profile.revoke_url = Some("http://id.example.org/revoke".into());
    let err = Provider::new("own", profile, client()).unwrap_err();
    assert!(err.chain().contains("revoke_url"), "{err}");
    let nobody = Client { id: String::new(), secret: None };
    assert!(Provider::new("own", Profile::new("https://id.example.org"), nobody).is_err());
}

#[test]
fn vlt_7_an_exchange_ends_before_the_lease_that_it_is_sent_under() {
    for (millis, fits) in [(999, false), (1_000, true), (45_000, true), (45_001, false)] {
        let mut profile = Profile::builtin("twitch").unwrap();
        profile.exchange_limit = Duration::from_millis(millis);
        let client = Client { id: "i".into(), secret: None };
        let made = Provider::new("twitch", profile, client);
        assert_eq!(made.is_ok(), fits, "{millis} ms: {made:?}");
    }
}

#[test]
fn vlt_1_a_client_shows_no_secret() {
    let shown = format!("{:?}", provider("twitch", Some("s3cret")));
    assert!(shown.contains("***") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn vlt_5_providers_are_replaced_as_a_whole() {
    let providers = Providers::new([provider("twitch", None)]);
    let before = (providers.version(), providers.get("twitch").unwrap());
    providers.replace([provider("discord", None)]);
    assert!(providers.version() > before.0);
    assert_eq!(before.1.name(), "twitch");
    let err = providers.get("twitch").unwrap_err().chain();
    assert!(err.contains("write [vault.provider.twitch] with client_id"), "{err}");
    let err = providers.get("own").unwrap_err().chain();
    assert!(err.contains("client_id and token_url"), "{err}");
}
