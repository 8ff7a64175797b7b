//! `[vault]` as people write it, and as they should not.

use std::{path::Path, time::Duration};

use secrecy::ExposeSecret;

use super::*;
use crate::{
    config::{Config, Environment, parse},
    vault::{ClientAuth, ErrorRule, Meaning, RotationClass, Undecidable},
};

const KEY: &str = "8f2c71d4a95be0367c1849fdb3620ea5d7461b9c03f85e2a6bd09c4713e8af52";
const BOT: &str = "[instance.bot]\ncommand = [\"true\"]\n";

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let environment: Environment = variables.iter().copied().collect();
    let text = format!("{text}\n{BOT}");
    parse(Path::new("/srv/kissops.toml"), &text, &environment).map_err(|errors| errors.to_string())
}

/// What is said of a file that is wrong.
#[track_caller]
fn refused(text: &str) -> String {
    read(text, &[]).map(|config| format!("{:?}", config.vault)).unwrap_err()
}

const FULL: &str = r#"
[vault]
key = { file = "vault.key" }
previous = [{ env = "OLD_KEY" }, { credential = "older" }]

[vault.provider.twitch]
client_id     = { env = "TWITCH_CLIENT_ID" }
client_secret = { env = "TWITCH_CLIENT_SECRET" }
scopes        = ["chat:read"]
rate          = { concurrency = 256 }

[vault.provider.ownidp]
token_url        = "https://id.example.org/token"
validate_url     = "https://id.example.org/validate"
revoke_url       = "https://id.example.org/revoke"
client_auth      = "basic"
rotation         = "one-time"
client_id        = "our-id"
client_secret    = { secret = "ownidp" }
defaults         = { expires_in = "20m" }
rate             = { per_second = 2.5 }
refresh_at       = { from = 0.5, to = 0.6, lead = "1m" }
refresh_lifetime = "90d"
undecidable      = "flag"
errors           = [{ status = 418, message = "teapot", means = "terminal" }]

[vault.provider.twitch-test]
profile   = "twitch"
token_url = "http://127.0.0.1:9000/token"
client_id = "test"
errors    = [{ error = "gone", means = "terminal" }]
"#;

#[test]
fn vlt_5_a_vault_with_providers_of_every_kind() {
    let config = read(FULL, &[("TWITCH_CLIENT_ID", "c"), ("TWITCH_CLIENT_SECRET", "s3cret")]);
    let vault = config.unwrap().vault;
    assert_eq!(vault.key, KeySource::File("/srv/vault.key".into()));
    let previous = [KeySource::Env("OLD_KEY".into()), KeySource::Credential("older".into())];
    assert_eq!(vault.previous, previous);
    let [own, twitch, test] = vault.providers.as_slice() else { panic!("{vault:?}") };
    assert_eq!((own.name.as_str(), twitch.name.as_str()), ("ownidp", "twitch"));
    // What a built-in profile says is kept but for what is said here.
    let builtin = Profile::builtin("twitch").unwrap();
    let wanted = Profile { scopes: vec!["chat:read".into()], concurrency: 256, ..builtin.clone() };
    assert_eq!(twitch.profile, wanted);
    assert_eq!(twitch.client_id, ClientId::Reference(SecretRef::Env("TWITCH_CLIENT_ID".into())));
    let profile = &own.profile;
    assert_eq!(
        (profile.client_auth, profile.rotation),
        (ClientAuth::Basic, RotationClass::OneTime)
    );
    assert_eq!(profile.expires_in, Duration::from_mins(20));
    assert_eq!((profile.per_second, profile.concurrency), (Some(2.5), 64));
    assert!((profile.refresh_at.from, profile.refresh_at.to) == (0.5, 0.6));
    assert_eq!(profile.undecidable, Undecidable::Flag);
    let teapot = ErrorRule {
        status: Some(418),
        error: None,
        message: Some("teapot".into()),
        means: Meaning::Terminal,
    };
    assert_eq!(profile.errors, [teapot]);
    assert_eq!(own.client_secret, Some(SecretRef::Secret("ownidp".into())));
    // Its own errors come before those of the profile that it is made from.
    assert_eq!(test.profile.errors.len(), builtin.errors.len() + 1);
    assert_eq!(test.profile.errors[0].error.as_deref(), Some("gone"));
    assert_eq!(test.profile.token_url, "http://127.0.0.1:9000/token");
}

#[test]
fn vlt_3_without_a_word_the_key_is_in_the_variable() {
    for text in ["", "[vault]"] {
        let config = read(text, &[("KISSOPS_SECRET_KEY", KEY)]).unwrap();
        assert_eq!(config.vault.key, KeySource::Env(KEY_VARIABLE.into()));
        assert_eq!(config.warnings, [], "{text}");
        let known: Vec<_> = config.secrets.iter().map(ExposeSecret::expose_secret).collect();
        assert_eq!(known, [KEY]);
        config.vault.keys(&config.environment).unwrap();
    }
    // One that is no key is said to be none, and what it is is not shown.
    let said = read("[vault]", &[("KISSOPS_SECRET_KEY", "s3cret")]).unwrap().render_warnings();
    assert!(said.contains("vault.key") && !said.contains("s3cret"), "{said}");
    // A file that has nothing to do with a vault does not need one.
    assert_eq!(read("", &[]).unwrap().warnings, []);
}

#[test]
fn vlt_3_what_is_missing_is_a_warning_and_bots_run() {
    let config = read(FULL, &[("TWITCH_CLIENT_ID", "c")]).unwrap();
    let said = config.render_warnings();
    for part in [
        "vault.key",
        "vault.previous",
        "OLD_KEY",
        "older",
        "vault.provider.twitch.client_secret",
        "the vault stays sealed without it",
        "the provider cannot be used without it",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // What is in the vault cannot be looked at from here.
    assert!(!said.contains("ownidp"), "{said}");
    assert!(said.contains("kissops.toml:2:"), "{said}");
}

#[test]
fn vlt_5_mistakes_are_named_with_what_mends_them() {
    let own = |keys: &str| {
        let urls = "token_url = \"https://id.example.org/token\"\nclient_id = \"c\"\n";
        format!("[vault.provider.own]\n{urls}{keys}")
    };
    let twitch = |keys: &str| format!("[vault.provider.twitch]\nclient_id = \"c\"\n{keys}");
    for (text, parts) in [
        ("[vault]\nkeys = { env = \"K\" }".to_owned(), ["vault.keys", "did you mean `key`?"]),
        ("[vault]\nkey = \"0123\"".to_owned(), ["vault.key", "must be a reference to a secret"]),
        (
            "[vault]\nkey = { secret = \"x\" }".to_owned(),
            ["vault.key", "in the vault that it opens"],
        ),
        ("[vault]\nkey = { evn = \"x\" }".to_owned(), ["vault.key.evn", "did you mean `env`?"]),
        ("[vault]\nkey = {}".to_owned(), ["vault.key", "must name one source"]),
        (
            "[vault]\nkey = { env = \"a\", file = \"b\" }".to_owned(),
            ["vault.key", "must name one source"],
        ),
        (
            "[vault]\nkey = { credential = \"../x\" }".to_owned(),
            ["vault.key.credential", "is not a name of a credential"],
        ),
        (
            "[vault.provider.twich]\nclient_id = \"c\"".to_owned(),
            ["token_url", "did you mean [vault.provider.twitch]?"],
        ),
        (
            "[vault.provider.own]\nclient_id = \"c\"".to_owned(),
            ["vault.provider.own.token_url", "built in are"],
        ),
        ("[vault.provider.twitch]".to_owned(), ["vault.provider.twitch.client_id", "is missing"]),
        (
            twitch("client_secret = \"s3cret\""),
            ["client_secret", "must be a reference to a secret"],
        ),
        (twitch("clientsecret = 1"), ["twitch.clientsecret", "did you mean `client_secret`?"]),
        (twitch("rotation = \"onetime\""), ["twitch.rotation", "did you mean \"one-time\"?"]),
        (twitch("rate = { per_second = 0 }"), ["rate.per_second", "must be from 0.001"]),
        (twitch("rate = { concurency = 4 }"), ["rate.concurency", "did you mean `concurrency`?"]),
        (twitch("validate_every = \"1s\""), ["validate_every", "must be at least 1m"]),
        (twitch("exchange_limit = \"0s\""), ["exchange_limit", "must be at least 1s"]),
        (twitch("exchange_limit = \"46s\""), ["exchange_limit", "must be at most 45s"]),
        (twitch("refresh_at = { from = 0.9 }"), ["refresh_at", "begins at 0.9, after its end"]),
        (
            own("validate_url = \"http://id.example.org/v\""),
            ["validate_url", "use https, or set insecure"],
        ),
        (own("revoke_url = \"id.example.org\""), ["revoke_url", "is not an https URL"]),
        (
            own("device_url = \"https://u:p@id.example.org/\""),
            ["device_url", "may not hold a user"],
        ),
        (own("redirect_url = \"https://bot.example.org/cb\""), ["redirect_url", "this machine"]),
        (own("user_agent = \"two\\nlines\""), ["user_agent", "no HTTP header"]),
        (own("profile = \"twich\""), ["own.profile", "did you mean \"twitch\"?"]),
        (own("errors = [{ error = \"x\" }]"), ["errors[0].means", "is missing"]),
        (own("errors = [{ means = \"terminal\" }]"), ["errors[0]", "names neither"]),
        (own("errors = [{ error = \"x\", means = \"final\" }]"), ["means", "`final`"]),
        ("[vault.provider.\"a b\"]\nclient_id = \"c\"".to_owned(), ["a b", "is not a name"]),
        (
            "[store]\nurl = { secret = \"db\" }".to_owned(),
            ["store.url", "cannot be in the vault, which is in the store"],
        ),
    ] {
        let said = refused(&text);
        for part in parts {
            assert!(said.contains(part), "{text}: {part}: {said}");
        }
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn vlt_7_what_is_said_of_public_clients_adds_to_what_is_built_in() {
    let twitch = |keys: &str| {
        let text = format!("[vault.provider.twitch]\nclient_id = \"c\"\n{keys}");
        let mut profile = read(&text, &[]).unwrap().vault.providers.remove(0).profile;
        profile.make_public();
        (profile.rotation, profile.client_auth, profile.refresh_idle)
    };
    let days = |days: u64| Some(Duration::from_hours(24 * days));
    // A token that is good for one use stays one.
    let said = twitch("public = { refresh_idle = \"20d\" }");
    assert_eq!(said, (RotationClass::OneTime, ClientAuth::Id, days(20)));
    // What is said of all clients is said of public ones, too.
    let said = twitch("rotation = \"rotating\"\nclient_auth = \"none\"");
    assert_eq!(said, (RotationClass::Rotating, ClientAuth::None, days(30)));
    let said = twitch("rotation = \"rotating\"\npublic = { rotation = \"one-time\" }");
    assert_eq!(said.0, RotationClass::OneTime);
}

#[test]
fn vlt_5_insecure_is_said_once_for_all_addresses() {
    let text = r#"
[vault.provider.own]
token_url = "http://idp.test:8080/token"
validate_url = "http://idp.test:8080/validate"
insecure = true
client_id = "c"
"#;
    assert!(read(text, &[]).unwrap().vault.providers[0].profile.insecure);
}

#[test]
fn cfg_origins_show_no_secret_of_the_vault() {
    let variables = [("TWITCH_CLIENT_SECRET", "s3cret"), ("TWITCH_CLIENT_ID", "c")];
    let origins = read(FULL, &variables).unwrap().origins();
    let row = |key: &str| {
        let found = origins.iter().find(|origin| origin.key == key);
        found.unwrap_or_else(|| panic!("{key}: {origins:?}")).value.clone()
    };
    assert_eq!(row("vault.key"), "*** (file vault.key)");
    assert_eq!(row("vault.provider.twitch.client_secret"), "*** (env TWITCH_CLIENT_SECRET)");
    assert_eq!(row("vault.provider.ownidp.client_secret"), "*** (secret ownidp)");
    assert_eq!(row("vault.provider.ownidp.rate.per_second"), "2.5");
    assert!(!format!("{origins:?}").contains("s3cret"));
}

#[test]
fn cfg_a_profile_replaces_a_reference_as_a_whole() {
    let text = "[vault]\nkey = { file = \"a\" }\n[profile.staging.vault]\nkey = { env = \"K\" }";
    let variables = [("KISSOPS_PROFILE", "staging"), ("K", "k3y-k3y")];
    assert_eq!(read(text, &variables).unwrap().vault.key, KeySource::Env("K".into()));
}

#[tokio::test]
async fn vlt_5_a_provider_is_resolved_with_what_is_found() {
    let config = read(FULL, &[]).unwrap();
    let twitch = config.vault.providers.iter().find(|provider| provider.name == "twitch").unwrap();
    let find = |reference: &SecretRef| std::future::ready(Ok(reference.to_string().into()));
    let provider = twitch.resolve(find).await.unwrap();
    assert_eq!(provider.client_id(), "env TWITCH_CLIENT_ID");
    assert_eq!(provider.rotation(), RotationClass::Reusable);
    let missing = |_: &SecretRef| {
        std::future::ready(Err(crate::Error::NotFound { what: "variable X".into() }))
    };
    assert!(twitch.resolve(missing).await.is_err());
}

#[test]
fn vlt_12_a_credential_is_a_file_of_systemds_folder() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("key"), "k3y-k3y\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    std::fs::set_permissions(folder.join("key"), mode).unwrap();
    let at = folder.to_str().unwrap();
    let environment: Environment = [("CREDENTIALS_DIRECTORY", at)].into_iter().collect();
    let look = |environment: &Environment, name: &str| {
        environment.lookup(&SecretRef::Credential(name.to_owned()))
    };
    assert_eq!(look(&environment, "key").unwrap().expose_secret(), "k3y-k3y");
    assert!(look(&environment, "other").is_err());
    let err = look(&Environment::default(), "key").unwrap_err().chain();
    assert!(err.contains("LoadCredential=key:"), "{err}");
}
