use std::collections::BTreeSet;

use super::{
    super::fixtures::{KeyText, memory, open},
    *,
};
use crate::store::Store;

async fn secrets() -> (Arc<dyn Store>, Secrets) {
    let store = memory();
    let keyring = open(&store, &KeyText::new(), &[]).await;
    (store, Secrets::new(keyring).unwrap())
}

async fn set(secrets: &Secrets, name: &str, value: &str) -> Result<SecretInfo> {
    secrets.set(name, SecretKind::BotToken, &value.into(), MaxAge::Keep).await
}

async fn value(secrets: &Secrets, name: &str) -> String {
    secrets.get(name).await.unwrap().expose_secret().to_owned()
}

#[tokio::test]
async fn a_secret_comes_back_as_set() {
    let (_, secrets) = secrets().await;
    let one = set(&secrets, "discord", "hunter2 ü\n").await.unwrap();
    assert_eq!(
        (one.version, &one.kind, one.source),
        (1, &SecretKind::BotToken, SecretSource::Given)
    );
    assert_eq!(one.due_at, Some(one.set_at.plus(Duration::from_hours(24 * 365))));
    assert_eq!(value(&secrets, "discord").await, "hunter2 ü\n");
    let two = set(&secrets, "discord", "other").await.unwrap();
    assert_eq!((two.version, two.created_at), (2, one.created_at));
    assert_eq!(value(&secrets, "discord").await, "other");
    assert_eq!(secrets.list().await.unwrap(), [two]);
    secrets.remove("discord").await.unwrap();
    for err in [secrets.get("discord").await.err(), secrets.remove("discord").await.err()] {
        assert!(matches!(err, Some(Error::NotFound { .. })), "{err:?}");
    }
}

#[tokio::test]
async fn the_same_value_makes_a_secret_no_younger() {
    let (_, secrets) = secrets().await;
    let one = set(&secrets, "a", "hunter2").await.unwrap();
    assert_eq!(set(&secrets, "a", "hunter2").await.unwrap(), one);
}

#[tokio::test]
async fn an_age_is_that_of_the_kind_until_it_is_set() {
    let (_, secrets) = secrets().await;
    let days = |n: u64| Some(Duration::from_hours(24 * n));
    for (kind, age) in [(SecretKind::SigningKey, 90), (SecretKind::Password, 180)] {
        let name = kind.to_string();
        let info = secrets.generate(&name, kind, SecretForm::Hex, MaxAge::Keep).await.unwrap();
        assert_eq!(info.max_age, days(age));
    }
    let second = SecretString::from("second");
    let again = |age| secrets.set("password", SecretKind::Password, &second, age);
    assert_eq!(again(MaxAge::After(days(30).unwrap())).await.unwrap().max_age, days(30));
    assert_eq!(again(MaxAge::Keep).await.unwrap().max_age, days(30));
    assert_eq!(again(MaxAge::Unlimited).await.unwrap().due_at, None);
    secrets.set_age("password", days(365)).await.unwrap();
    assert_eq!(secrets.info("password").await.unwrap().max_age, days(365));
}

#[tokio::test]
async fn names_and_values_that_cannot_be_are_refused_and_values_never_shown() {
    let (_, secrets) = secrets().await;
    let long = "x".repeat(65);
    for name in ["", ".a", "-a", "a b", "a/b", "ä", "a\n", "a=b", "a`b", &long] {
        let err = set(&secrets, name, "hunter2").await.unwrap_err();
        assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
        let err = secrets.get(name).await.unwrap_err();
        assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
    }
    for name in ["a", "_A-1.b", &long[1..]] {
        set(&secrets, name, name).await.unwrap();
    }
    let large = "hunter2".repeat(10_000);
    for value in ["", "hunter2\0", &large] {
        let err = set(&secrets, "a", value).await.unwrap_err();
        assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
        assert!(!format!("{err:?} {err}").contains("hunter2"), "{err:?}");
    }
    let shown = format!("{:?} {:?}", secrets.list().await.unwrap(), secrets);
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn generated_secrets_are_long_printable_and_never_the_same() {
    for form in SecretForm::ALL {
        let made: BTreeSet<String> =
            (0..200).map(|_| form.generate().unwrap().expose_secret().to_owned()).collect();
        assert_eq!(made.len(), 200);
        let letters: BTreeSet<char> = made.iter().flat_map(|text| text.chars()).collect();
        let per_letter = f64::from(u32::try_from(letters.len()).unwrap()).log2();
        for text in &made {
            let bits = f64::from(u32::try_from(text.len()).unwrap()) * per_letter;
            assert!(bits >= 256.0, "{form:?}: {bits}");
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
        }
        assert_eq!(SecretForm::parse(form.as_str()), Some(form));
    }
}

#[tokio::test]
async fn only_what_was_generated_is_generated_anew() {
    let (_, secrets) = secrets().await;
    let make =
        || secrets.generate("jwt", SecretKind::SigningKey, SecretForm::Letters, MaxAge::Keep);
    assert_eq!(make().await.unwrap().source, SecretSource::Generated);
    let first = value(&secrets, "jwt").await;
    assert!(matches!(make().await, Err(Error::Conflict { .. })));
    assert_eq!(value(&secrets, "jwt").await, first);
    let info = secrets.rotate("jwt", SecretForm::Hex).await.unwrap();
    assert_eq!((info.version, info.source), (2, SecretSource::Generated));
    assert_ne!(value(&secrets, "jwt").await, first);
    set(&secrets, "discord", "hunter2").await.unwrap();
    let err = secrets.rotate("discord", SecretForm::Hex).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    assert!(err.to_string().contains("kissops secret set discord"), "{err}");
    assert_eq!(value(&secrets, "discord").await, "hunter2");
    let err = secrets.rotate("none", SecretForm::Hex).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
}

#[tokio::test]
async fn reuse_is_found_whoever_asks() {
    let (_, secrets) = secrets().await;
    set(&secrets, "a", "hunter2").await.unwrap();
    set(&secrets, "b", "other").await.unwrap();
    let third = set(&secrets, "c", "hunter2").await.unwrap();
    assert_eq!(third.alike, ["a"]);
    let list = secrets.list().await.unwrap();
    let alike: Vec<&[String]> = list.iter().map(|info| &info.alike[..]).collect();
    assert_eq!(alike, [&["c".to_owned()][..], &[], &["a".to_owned()]]);
    // Also after every key was replaced.
    secrets.keyring.rotate(Some(KeyText::new().kek())).await.unwrap();
    assert_eq!(set(&secrets, "d", "other").await.unwrap().alike, ["b"]);
    assert_eq!(value(&secrets, "a").await, "hunter2");
}

#[tokio::test]
async fn a_secret_cannot_take_the_place_of_another_or_of_its_successor() {
    let (store, secrets) = secrets().await;
    set(&secrets, "a", "hunter2").await.unwrap();
    set(&secrets, "b", "other").await.unwrap();
    let record = |name| store.secret(name);
    let (a, b) = (record("a").await.unwrap().unwrap(), record("b").await.unwrap().unwrap());
    let put_back = |record: &SecretRecord, sealed: &SecretRecord| {
        let (id, version, from) =
            (record.secret.id, record.version, record.secret.value.sealed.key);
        store.reseal_secret(id, version, from, sealed.secret.value.sealed.clone())
    };
    put_back(&a, &b).await.unwrap();
    let err = secrets.get("a").await.unwrap_err();
    assert!(matches!(&err, Error::Corrupt { what, .. } if what.contains("`a`")), "{err:?}");
    put_back(&a, &a).await.unwrap();
    set(&secrets, "a", "newer").await.unwrap();
    let newer = record("a").await.unwrap().unwrap();
    put_back(&newer, &a).await.unwrap();
    let err = secrets.get("a").await.unwrap_err();
    assert!(matches!(err, Error::Corrupt { .. }), "{err:?}");
}

#[tokio::test]
async fn setters_at_once_leave_one_whole_value() {
    let (_, secrets) = secrets().await;
    let mut all = tokio::task::JoinSet::new();
    for n in 0..10 {
        let secrets = secrets.clone();
        all.spawn(async move { set(&secrets, "a", &format!("value {n}")).await.map(drop) });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(secrets.info("a").await.unwrap().version, 10);
    assert!(value(&secrets, "a").await.starts_with("value "));
}

#[tokio::test]
async fn reminders_come_two_weeks_and_three_days_before_and_at_the_end() {
    let (_, secrets) = secrets().await;
    let age = |days: u64| MaxAge::After(Duration::from_hours(24 * days));
    for (name, days) in [("late", 90), ("early", 20), ("other", 365)] {
        let value = SecretString::from(name);
        secrets.set(name, SecretKind::ApiKey, &value, age(days)).await.unwrap();
    }
    let start = secrets.info("other").await.unwrap().set_at;
    let mut told = Vec::new();
    for day in 1..=100 {
        let at = |day: u64| start.plus(Duration::from_hours(24 * day));
        for (info, reminder) in secrets.reminders(at(day - 1), at(day)).await.unwrap() {
            told.push((day, info.name, reminder));
        }
    }
    let told: Vec<_> = told.iter().map(|(day, name, what)| (*day, &name[..], *what)).collect();
    let expected = [
        (6, "early", Reminder::TwoWeeks),
        (17, "early", Reminder::ThreeDays),
        (20, "early", Reminder::Due),
        (76, "late", Reminder::TwoWeeks),
        (87, "late", Reminder::ThreeDays),
        (90, "late", Reminder::Due),
    ];
    assert_eq!(told, expected);
}
