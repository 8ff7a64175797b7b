use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::config::Environment;

const GOOD: &str = "6f1c02d9a75be3480c91ff36aa20d47be85b13c6097d2f84b1e95a63dc0874f2";

fn parse(text: &str) -> Result<Kek> {
    Kek::parse(&SecretString::from(text))
}

fn base64(text: &str, standard: bool, padded: bool) -> String {
    engine(standard, padded).encode(decode(text).unwrap().as_slice())
}

#[test]
fn every_form_of_a_key_is_the_same_key() {
    let id = parse(GOOD).unwrap().id();
    assert_eq!(id.0.len(), 16);
    for standard in [true, false] {
        for padded in [true, false] {
            let text = base64(GOOD, standard, padded);
            assert_eq!(parse(&format!(" {text}\n")).unwrap().id(), id, "{text}");
        }
    }
    assert_eq!(parse(&GOOD.to_uppercase()).unwrap().id(), id);
}

#[test]
fn a_malformed_key_is_refused_and_not_shown() {
    let base = base64(GOOD, false, false);
    let long = "A1b2".repeat(5_000);
    let bad = [
        "",
        "  ",
        "hunter2",
        &GOOD[..63],
        &GOOD[..62],
        &format!("{GOOD}00"),
        &base[..42],
        &format!("{base}A"),
        &format!("{base}=="),
        &base.replace(&base[4..5], "!"),
        &base.replace(&base[4..5], "é"),
        &long,
    ];
    for text in bad {
        let err = parse(text).unwrap_err();
        let shown = format!("{err} {err:?}");
        assert!(matches!(err, Error::InvalidConfig { .. }), "{shown}");
        assert!(shown.contains("kissops vault key"), "{shown}");
        assert!(text.trim().len() < 8 || !shown.contains(&text[..8]), "{shown}");
        assert!(!shown.contains("hunter2"));
    }
}

#[test]
fn a_weak_key_is_refused() {
    let hex = |byte: &dyn Fn(u8) -> u8| {
        (0..32).fold(String::new(), |text, i| text + &format!("{:02x}", byte(i)))
    };
    let weak: [String; 10] = [
        hex(&|_| 0),
        hex(&|_| 0xff),
        hex(&|i| i),
        hex(&|i| 200_u8.wrapping_sub(i.wrapping_mul(3))),
        hex(&|i| (i * 7) % 5),
        hex(&|i| (i % 16).wrapping_mul(61)),
        hex(&|i| b"correct horse battery staple, no"[usize::from(i)]),
        "0123456789".repeat(7)[..64].to_owned(),
        "correcthorsebatterystaplecorrecthorsebattes".to_owned(),
        "Y2hhbmdlbWVjaGFuZ2VtZWNoYW5nZW1lY2hhbmdlbWU=".to_owned(),
    ];
    for text in weak {
        let err = parse(&text).unwrap_err().to_string();
        assert!(err.contains("guessed") || err.contains("drawn at random"), "{text}: {err}");
    }
}

#[test]
fn a_generated_key_is_a_good_one_and_another_each_time() {
    let keys: Vec<_> = (0..500).map(|_| Kek::generate().unwrap()).collect();
    let ids: std::collections::HashSet<_> =
        keys.iter().map(|text| Kek::parse(text).unwrap().id()).collect();
    assert_eq!(ids.len(), keys.len());
}

#[test]
fn nothing_of_a_key_is_shown() {
    let keys = Keys { current: parse(GOOD).unwrap(), previous: vec![parse(GOOD).unwrap()] };
    let shown = format!("{keys:?} {:?}", keys.current);
    assert!(shown.contains("***") && !shown.contains("6f") && !shown.contains("111"), "{shown}");
    assert!(!GOOD.contains(&keys.current.id().0));
}

#[test]
fn a_wrapped_key_opens_as_itself_only() {
    let (kek, other) = (parse(GOOD).unwrap(), Kek::parse(&Kek::generate().unwrap()).unwrap());
    let key = random_key().unwrap();
    let wrapped = kek.wrap(DataKeyId(5), &key).unwrap();
    assert_eq!(kek.unwrap(DataKeyId(5), &wrapped).unwrap(), key);
    assert!(kek.unwrap(DataKeyId(6), &wrapped).is_none());
    assert!(other.unwrap(DataKeyId(5), &wrapped).is_none());
    for bit in 0..wrapped.0.len() * 8 {
        let mut bytes = wrapped.0.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(kek.unwrap(DataKeyId(5), &Sealed(bytes)).is_none(), "bit {bit}");
    }
}

#[test]
fn a_variable_is_read_and_named_where_it_is_wrong() {
    let env: Environment = [("GOOD", GOOD), ("BAD", "hunter2hunter2")].into_iter().collect();
    let read = |name: &str| KeySource::Env(name.into()).read(&env);
    assert_eq!(read("GOOD").unwrap().id(), parse(GOOD).unwrap().id());
    let err = read("BAD").unwrap_err().to_string();
    assert!(err.contains("the variable BAD") && !err.contains("hunter2"), "{err}");
    assert!(matches!(read("NONE"), Err(Error::NotFound { .. })));
}

#[test]
fn a_file_must_be_ours_alone() {
    let folder = tempfile::tempdir().unwrap();
    let env = Environment::default();
    let path = folder.path().join("key");
    let link = folder.path().join("link");
    fs::write(&path, format!("{GOOD}\n")).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for mode in [0o600, 0o400, 0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        for place in [&path, &link] {
            let read = KeySource::File(place.clone()).read(&env);
            match read {
                Ok(kek) => assert!(mode % 0o100 == 0 && kek.id() == parse(GOOD).unwrap().id()),
                Err(err) => {
                    assert!(mode % 0o100 != 0 && matches!(err, Error::Denied { .. }), "{err}");
                    assert!(err.to_string().contains("chmod 600"), "{err}");
                }
            }
        }
    }
    let err = KeySource::File(folder.path().into()).read(&env).unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err}");
    let err = KeySource::File(folder.path().join("none")).read(&env).unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err}");
    if !rustix::process::geteuid().is_root() {
        // Of root's, and readable.
        let err = KeySource::File("/etc/hostname".into()).read(&env).unwrap_err();
        assert!(matches!(err, Error::Denied { .. }), "{err}");
    }
}

#[test]
fn a_credential_is_a_file_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault");
    fs::write(&path, GOOD).unwrap();
    let env: Environment =
        [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())].into_iter().collect();
    let read = |name: &str, env: &Environment| KeySource::Credential(name.into()).read(env);
    // As systemd gives it where the service has a user of its own.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
    assert!(read("vault", &env).is_ok());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(matches!(read("vault", &env), Err(Error::Denied { .. })));
    for name in ["../vault", "", "/etc/passwd", ".."] {
        assert!(matches!(read(name, &env), Err(Error::InvalidConfig { .. })), "{name}");
    }
    assert!(matches!(read("none", &env), Err(Error::NotFound { .. })));
    let err = read("vault", &Environment::default()).unwrap_err().to_string();
    assert!(err.contains("LoadCredential"), "{err}");
}
