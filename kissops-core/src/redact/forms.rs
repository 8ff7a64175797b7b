//! The texts under which a secret may show up.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{SHORTEST, SHORTEST_LINE};

/// Shorter pieces of base64 text are not looked for: they occur by chance.
const SHORTEST_BASE64: usize = 8;

/// All texts under which `secret` may show up. Without line ends: output is treated line by line.
pub(super) fn of(secret: &str) -> BTreeSet<Vec<u8>> {
    let whole = secret.trim_matches(['\r', '\n']);
    if whole.len() < SHORTEST {
        return BTreeSet::new();
    }
    let mut forms = Vec::new();
    let lines = whole.lines().map(|line| line.trim_end_matches('\r'));
    if whole.contains('\n') {
        forms.extend(lines.filter(|line| line.len() >= SHORTEST_LINE).map(str::to_owned));
    } else {
        forms.push(whole.to_owned());
    }
    for text in [secret, whole] {
        forms.extend(json_forms(text));
        forms.extend(percent_forms(text));
        for alignment in 0..3 {
            let found = base64_core(text.as_bytes(), alignment);
            if found.len() >= SHORTEST_BASE64 {
                forms.push(found.replace('+', "-").replace('/', "_"));
                forms.push(found);
            }
        }
        if secret == whole {
            break;
        }
    }
    forms.into_iter().filter(|form| !form.contains('\n')).map(String::into_bytes).collect()
}

/// As a JSON string, with other alphabets as they are, and as `\uXXXX` (Python's default).
fn json_forms(text: &str) -> impl Iterator<Item = String> {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let plain = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned();
    let mut ascii = String::new();
    for c in plain.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    [plain, ascii].into_iter().filter(|form| form.len() >= SHORTEST)
}

/// Percent-encoded: upper and lower case digits, a space as `%20` and as `+`.
fn percent_forms(text: &str) -> impl Iterator<Item = String> {
    let mut upper = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            upper.push(char::from(byte));
        } else {
            let _ = write!(upper, "%{byte:02X}");
        }
    }
    let mut lower = String::new();
    let mut in_code = 0;
    for c in upper.chars() {
        in_code = if c == '%' { 3_u8 } else { in_code };
        lower.push(if in_code > 0 { c.to_ascii_lowercase() } else { c });
        in_code = in_code.saturating_sub(1);
    }
    let form = upper.replace("%20", "+");
    [upper, lower, form].into_iter()
}

/// The characters that `bytes` alone decide in the base64 text of something that holds `bytes` at an offset of
/// `alignment` modulo 3.
fn base64_core(bytes: &[u8], alignment: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in std::iter::repeat_n(&0, alignment).chain(bytes) {
        bits = (bits << 8) | u32::from(*byte);
        count += 8;
        while count >= 6 {
            count -= 6;
            let index = usize::try_from((bits >> count) & 63).unwrap_or(0);
            text.push(char::from(ALPHABET[index]));
        }
        bits &= (1 << count) - 1;
    }
    // The first characters hold bits of what stands before.
    text.get((alignment * 8).div_ceil(6)..).unwrap_or_default().to_owned()
}
