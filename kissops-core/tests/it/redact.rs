//! Secrets in every dress: SUP-22.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io::Write as _, sync::Arc};

use kissops_core::redact::Redactor;

fn redactor(secrets: &[&str]) -> Arc<Redactor> {
    let redactor = Redactor::new();
    redactor.learn(secrets.iter().map(|s| (*s).to_owned().into())).unwrap();
    Arc::new(redactor)
}

fn masked(redactor: &Redactor, text: &str) -> String {
    redactor.current().mask_str(text).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let mut three = [0; 3];
            three[..chunk.len()].copy_from_slice(chunk);
            let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            (0..4).map(move |n| {
                if n > chunk.len() {
                    '='
                } else {
                    char::from(ALPHABET[(bits >> (18 - 6 * n)) as usize & 63])
                }
            })
        })
        .collect()
}

#[test]
fn every_form_of_a_secret_is_found() {
    let secret = "p\u{e4}ss \"w\u{f6}rd\"/+1";
    let redactor = redactor(&[secret]);
    for form in [
        secret,
        r#"päss \"wörd\"/+1"#,
        r#"p\u00e4ss \"w\u00f6rd\"/+1"#,
        "p%C3%A4ss%20%22w%C3%B6rd%22%2F%2B1",
        "p%c3%a4ss%20%22w%c3%b6rd%22%2f%2b1",
        "p%C3%A4ss+%22w%C3%B6rd%22%2F%2B1",
    ] {
        assert_eq!(masked(&redactor, &format!("a {form} b")), "a *** b", "{form}");
    }
    for before in ["", "u", "us", "use"] {
        let text = base64(format!("{before}:{secret}").as_bytes());
        let hidden = masked(&redactor, &text);
        assert!(hidden.contains("***") && hidden.len() < 14, "{text} {hidden}");
        let url_safe = text.replace('+', "-").replace('/', "_");
        assert!(masked(&redactor, &url_safe).contains("***"), "{url_safe}");
    }
}

#[test]
fn the_longest_of_overlapping_secrets_is_masked_and_short_ones_are_not() {
    let redactor = redactor(&["abcd", "abcdefgh", "xyz", "", "\n"]);
    assert_eq!(masked(&redactor, "abcdefgh abcd xyz"), "*** *** xyz");
    assert_eq!(masked(&redactor, "abcdefg"), "***efg");
}

#[test]
fn a_key_of_several_lines_is_masked_line_by_line() {
    let key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\r\nshort\n-----END KEY-----\n";
    let redactor = redactor(&[key]);
    assert_eq!(masked(&redactor, "MIIEvQIBADANBg\nkqhkiG9w0BAQEF\nshort\n"), "***\n***\nshort\n");
    let json = serde_json::to_string(key).unwrap();
    assert_eq!(masked(&redactor, &json), "\"***\"");
}

#[test]
fn a_snapshot_stays_as_it_was_and_nothing_shows_a_secret() {
    let redactor = redactor(&["first-secret"]);
    let old = redactor.current();
    redactor.learn(["second-secret".to_owned().into()]).unwrap();
    assert!(redactor.generation() > old.generation());
    assert_eq!(old.mask_str("second-secret"), "second-secret");
    assert_eq!(masked(&redactor, "first-secret second-secret"), "*** ***");
    let generation = redactor.generation();
    redactor.learn(["second-secret".to_owned().into()]).unwrap();
    assert_eq!(redactor.generation(), generation);
    assert!(!format!("{redactor:?}").contains("secret"));
}

#[test]
fn a_writer_masks_across_writes() {
    let redactor = redactor(&["hunter2hunter2"]);
    let line = "user x hunter2hunter2 end\nrest";
    for split in 0..line.len() {
        let mut out = Vec::new();
        let mut writer = redactor.writer(&mut out);
        writer.write_all(&line.as_bytes()[..split]).unwrap();
        writer.write_all(&line.as_bytes()[split..]).unwrap();
        drop(writer);
        assert_eq!(out, b"user x *** end\nrest", "{split}");
    }
}
