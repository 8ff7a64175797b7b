use serde::Deserialize;

use super::*;

/// Tokens, and what Python's `cryptography` says that is in them; `None` where it refuses them. The first is the
/// specification's own.
#[derive(Deserialize)]
struct Vectors {
    key: String,
    cases: Vec<Case>,
    derived: Vec<Derived>,
}

#[derive(Deserialize)]
struct Case {
    desc: String,
    token: String,
    plain: Option<String>,
}

#[derive(Deserialize)]
struct Derived {
    method: String,
    token: String,
}

const PASSPHRASE: &str = "correct horse battery staple";

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../../tests/data/vault/fernet.json")).unwrap()
}

fn only(key: FernetKey) -> FernetKeys {
    FernetKeys::new(vec![key]).unwrap()
}

fn parse(text: &str) -> Result<FernetKey> {
    FernetKey::parse(&SecretString::from(text))
}

#[test]
fn tokens_open_as_in_python_and_are_refused_as_in_python() {
    let Vectors { key, cases, .. } = vectors();
    let keys = only(parse(&key).unwrap());
    assert!(cases.len() > 100);
    for Case { desc, token, plain } in cases {
        let opened = keys.open(token.as_bytes()).ok();
        let opened = opened.map(|plain| String::from_utf8(plain.to_vec()).unwrap());
        assert_eq!(opened, plain, "{desc}");
    }
}

#[test]
fn a_refusal_says_why() {
    let Vectors { key, cases, .. } = vectors();
    let keys = only(parse(&key).unwrap());
    let of = |name: &str| {
        let case = cases.iter().find(|case| case.desc == name).unwrap();
        keys.open(case.token.as_bytes()).unwrap_err()
    };
    assert_eq!(of("no padding"), FernetFault::Base64);
    assert_eq!(of("too short"), FernetFault::Form);
    assert_eq!(of("version 0x81"), FernetFault::Form);
    assert_eq!(of("bit 203"), FernetFault::Signature);
    assert_eq!(of("signed, padding zero"), FernetFault::Padding);
    assert_eq!(of("signed, no block"), FernetFault::Padding);
}

#[test]
fn keys_are_derived_as_others_derive_them() {
    for Derived { method, token } in vectors().derived {
        let passphrase = SecretString::from(PASSPHRASE);
        let key = match &*method {
            "sha256" => FernetKey::from_sha256(&passphrase),
            _ => FernetKey::from_pbkdf2(&passphrase, b"salty", 1_000).unwrap(),
        };
        let plain = only(key).open(token.as_bytes()).unwrap();
        assert_eq!(String::from_utf8_lossy(&plain), format!("by {method}"));
    }
    assert!(FernetKey::from_pbkdf2(&PASSPHRASE.into(), b"salty", 0).is_err());
}

#[test]
fn any_of_several_keys_opens() {
    let Vectors { key, cases, .. } = vectors();
    let other = || FernetKey::from_sha256(&PASSPHRASE.into());
    let token = cases[0].token.as_bytes();
    let both = FernetKeys::new(vec![other(), parse(&key).unwrap(), other()]).unwrap();
    assert_eq!(**both.open(token).unwrap(), *b"hello");
    assert_eq!(only(other()).open(token).unwrap_err(), FernetFault::Signature);
    assert!(FernetKeys::new(vec![]).is_err());
}

#[test]
fn a_key_that_is_none_is_refused_and_not_shown() {
    for text in ["", "hunter2", "hunter2hunter2hunter2hunter2hunter2hunter2", &"A".repeat(48)] {
        let err = parse(text).unwrap_err();
        assert!(!format!("{err:?} {err}").contains("hunter2"), "{err:?}");
    }
    assert_eq!(format!("{:?}", parse(&vectors().key).unwrap()), "***");
}

#[test]
fn no_bytes_are_too_odd_to_be_refused() {
    let keys = only(FernetKey::from_sha256(&PASSPHRASE.into()));
    for length in 0..200_u8 {
        let bytes: Vec<u8> = (0..length).map(|i| i.wrapping_mul(length).wrapping_add(7)).collect();
        assert!(keys.open(&bytes).is_err());
        let text = vec![b'g'; usize::from(length)];
        assert!(keys.open(&text).is_err());
    }
}
