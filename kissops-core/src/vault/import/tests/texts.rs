//! JSON and `.env`.

use super::*;
use crate::{
    id::InstanceName,
    vault::{MaxAge, SecretKind, Secrets},
};

fn file(text: &str, mode: u32) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    (folder, path)
}

const TOKENS: &str = r#"[
  {"provider": "twitch", "account": "ada", "access_token": "access-1", "refresh_token": "refresh-1",
   "expires_at": "2030-01-01T00:00:00Z", "scopes": ["chat:read", "chat:edit"], "instances": ["web"]},
  {"provider": "twitch", "account": "bob", "access_token": "access-\u0032", "expires_at": 1893456000},
  {"provider": "twitch", "account": "eve", "access_token": 1234, "refresh_token": "refresh-3"},
  {"provider": "twitch", "account": "joe", "access_token": "access-4", "expires_at": "refresh-4"},
  {"provider": "twitch", "account": "kim", "access_token": "access-5", "refreshtoken": "refresh-5"},
  {"provider": "twitch", "account": "leo"},
  {"provider": "nobody", "account": "max", "access_token": "access-6"},
  {"provider": "twitch", "account": "", "access_token": "access-7"},
  {"provider": "twitch", "account": "nil", "access_token": "access-8\n"},
  {"provider": "twitch", "account": "pam", "access_token": "access-9", "scopes": {"refresh-9": 1}},
  "access-10",
  {"provider": "twitch", "account": "roy", "access_token": "access-11", "refresh_token": null, "scopes": "a b"}
]"#;

#[tokio::test]
async fn vlt_4_items_are_imported_and_odd_ones_reported_by_their_place() {
    let (_folder, path) = file(TOKENS, 0o600);
    let (store, importer) = empty().await;
    let done = importer.json_file(path.clone()).await.unwrap();
    for (account, expected) in [
        ("eve", "item 3: access_token must be a text"),
        ("joe", "item 4: expires_at is no time"),
        ("item 5", "has another field than"),
        ("leo", "item 6: access_token is missing"),
        ("max", "[vault.provider.nobody]"),
        ("item 8", "item 8: account is missing"),
        ("nil", "its access token holds a control character"),
        ("pam", "item 10: scopes must be a list"),
        ("item 11", "is no object"),
    ] {
        assert!(reason(&done, account).contains(expected), "{account}: {}", reason(&done, account));
    }
    assert_says_nothing(&done);
    assert_eq!((done.imported, done.skipped.len()), (3, 9));
    let found = opened(&importer).await;
    assert_eq!(found["ada"], ("access-1".into(), Some("refresh-1".into())));
    assert_eq!(found["bob"], ("access-2".into(), None));
    assert_eq!(found["roy"], ("access-11".into(), None));
    let [ada, bob, roy] = &all(&*store).await[..] else { panic!() };
    assert_eq!(ada.expiry.access, Some("2030-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(bob.expiry, ada.expiry);
    assert!(ada.grant.instances.iter().map(InstanceName::as_str).eq(["web"]));
    assert_eq!((ada.grant.scopes.len(), roy.grant.scopes.len()), (2, 2));
    // Without a refresh token its end is what comes due; of another nobody knows it, so it is validated soon.
    assert_eq!(bob.status.next_refresh_at, bob.expiry.access);
    assert!(roy.status.next_refresh_at.is_none() && roy.status.next_validate_at.is_some());
    let again = importer.json_file(path).await.unwrap();
    assert_eq!((again.imported, again.present, again.skipped), (0, 3, done.skipped));
}

#[tokio::test]
async fn vlt_4_a_file_that_others_may_read_is_refused() {
    let (_, importer) = empty().await;
    for mode in [0o640, 0o604, 0o620] {
        let (_folder, path) = file(TOKENS, mode);
        let err = importer.json_file(path.clone()).await.unwrap_err();
        assert!(
            matches!(&err, Error::Denied { help, .. } if help.starts_with("chmod 600")),
            "{err}"
        );
        let err = importer.env_file(&path, EnvPlan::default()).await.unwrap_err();
        assert!(matches!(err, Error::Denied { .. }), "{err}");
    }
    let (folder, path) = file("[{\"access_token\": \"access-1\"", 0o600);
    let err = importer.json_file(path).await.unwrap_err().to_string();
    assert!(err.contains("must be a list in JSON") && !err.contains("access-1"), "{err}");
    let none = folder.path().join("none");
    let err = importer.json_file(none).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err}");
    let err = importer.json_file(folder.path().to_owned()).await.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err}");
}

const ENV: &str = "# of the old bot
export DISCORD_TOKEN='s3cret'
EMPTY=
TWITCH_TOKEN=access-1
TWITCH_REFRESH=\"refresh-1\"
TWITCH_EXPIRES=2030-01-01 00:00:00
DEBUG=1
";

fn plan() -> EnvPlan {
    let secret = |variable: &str, name: &str| EnvSecret {
        variable: variable.into(),
        name: name.into(),
        kind: SecretKind::BotToken,
    };
    let grant = |account: &str, access: &str, refresh: &str| EnvGrant {
        key: GrantKey { provider: "twitch".into(), account: account.into() },
        access: access.into(),
        refresh: Some(refresh.into()),
        expires: Some("TWITCH_EXPIRES".into()),
        scopes: Some(["chat:read".into()].into()),
        instances: None,
    };
    EnvPlan {
        secrets: vec![
            secret("DISCORD_TOKEN", "discord"),
            secret("EMPTY", "empty"),
            secret("NONE", "none"),
            secret("DEBUG", "no name"),
        ],
        grants: vec![
            grant("ada", "TWITCH_TOKEN", "TWITCH_REFRESH"),
            grant("bob", "TWITCH_TOKEN", "NONE"),
            grant("eve", "EMPTY", "TWITCH_REFRESH"),
        ],
    }
}

#[tokio::test]
async fn vlt_4_variables_become_secrets_and_grants_as_planned() {
    let (_folder, path) = file(ENV, 0o600);
    let (store, importer) = empty().await;
    let done = importer.env_file(&path, plan()).await.unwrap();
    for (account, expected) in [
        ("secret empty", "must not be empty"),
        ("secret none", "no variable NONE"),
        ("secret no name", "may hold only"),
        ("bob", "no variable NONE"),
        ("eve", "its access token is missing"),
    ] {
        assert!(reason(&done, account).contains(expected), "{account}: {}", reason(&done, account));
    }
    assert_says_nothing(&done);
    assert_eq!((done.imported, done.skipped.len()), (2, 5));
    assert_eq!(opened(&importer).await["ada"], ("access-1".into(), Some("refresh-1".into())));
    let expires = "2030-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(all(&*store).await[0].expiry.access, Some(expires));
    let secrets = Secrets::new(importer.keyring.clone()).unwrap();
    assert_eq!(secrets.get("discord").await.unwrap().expose_secret(), "s3cret");
    assert_eq!(secrets.list().await.unwrap().len(), 1);
    let again = importer.env_file(&path, plan()).await.unwrap();
    assert_eq!((again.imported, again.present, again.skipped.len()), (0, 2, 5));
    // Changed here since: it stays.
    let newer = SecretString::from("newer");
    let kind = SecretKind::BotToken;
    secrets.set("discord", kind, &newer, MaxAge::Keep).await.unwrap();
    let third = importer.env_file(&path, plan()).await.unwrap();
    assert!(reason(&third, "secret discord").contains("another value"), "{third:?}");
    assert_eq!(secrets.get("discord").await.unwrap().expose_secret(), "newer");
}

#[tokio::test]
async fn vlt_4_a_line_that_cannot_be_read_is_named_without_its_content() {
    let (_folder, path) = file("A=1\nTWITCH_TOKEN access-1\n", 0o600);
    let (_, importer) = empty().await;
    let err = importer.env_file(&path, plan()).await.unwrap_err().to_string();
    assert!(err.contains("tokens:2") && !err.contains("access-1"), "{err}");
}
