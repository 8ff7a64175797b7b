//! Files of `KEY=value` lines, as bots' users write them.
//!
//! `export`, comments, CRLF, single and double quotes (which may span lines), `\n \r \t \\ \" \$` in double quotes.
//! `$NAME` is not expanded: a password with a `$` stays what it is.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use crate::{Error, Result};

/// The largest file in bytes.
const LARGEST: u64 = 1 << 20;

/// Reads the variables in `path`, in order; of a key that comes twice, the later value counts.
///
/// Blocks for as long as the disk does.
///
/// # Errors
/// - [`Error::Io`] if it cannot be read.
/// - [`Error::InvalidConfig`] names the file and line that is not like `KEY=value`; never a value.
/// - [`Error::Denied`] if it holds a secret (see [`looks_secret`]) and group or others may read it, with the `chmod`
///   that mends it.
pub fn read_env_file(path: &Path) -> Result<Vec<(String, String)>> {
    let lines = read_lines(path)?;
    Ok(lines.into_iter().map(|line| (line.key, line.value)).collect())
}

/// One variable and the line, from 1, that it starts on.
#[derive(Clone)]
pub(crate) struct EnvLine {
    pub(crate) line: usize,
    pub(crate) key: String,
    pub(crate) value: String,
}

pub(super) fn read_lines(path: &Path) -> Result<Vec<EnvLine>> {
    let (text, mode) = read_private(path, LARGEST)?;
    let lines = parse_env(&text)
        .map_err(|(line, rule)| Error::invalid(format!("{}:{line}", path.display()), rule))?;
    if let Some(secret) = lines.iter().find(|line| looks_secret(&line.key)) {
        check_private(path, mode, &format!("holds {}", secret.key))?;
    }
    Ok(lines)
}

/// Reads a secret from a file: its text without the last line's end.
pub(super) fn read_secret_file(path: &Path) -> Result<String> {
    let (mut text, mode) = read_private(path, 64 << 10)?;
    check_private(path, mode, "is a secret")?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

/// The text of a regular file and its mode, both of the same open file.
fn read_private(path: &Path, largest: u64) -> Result<(String, u32)> {
    let shown = path.display();
    // Non-blocking: a named pipe would wait for a writer for ever.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file: File = open.map_err(Error::io(format!("open {shown}")))?;
    let meta = file.metadata().map_err(Error::io(format!("inspect {shown}")))?;
    if !meta.is_file() {
        return Err(Error::invalid(shown.to_string(), "is not a regular file"));
    }
    if meta.len() > largest {
        return Err(Error::invalid(shown.to_string(), format!("is larger than {largest} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(largest).read_to_end(&mut bytes).map_err(Error::io(format!("read {shown}")))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::invalid(shown.to_string(), "is not UTF-8 text"))?;
    Ok((text, meta.permissions().mode()))
}

fn check_private(path: &Path, mode: u32, why: &str) -> Result<()> {
    if mode & 0o044 == 0 {
        return Ok(());
    }
    let shown = path.display();
    Err(Error::Denied {
        what: format!(
            "{shown} {why} and is readable by group or others (mode {:03o})",
            mode & 0o777
        ),
        help: format!("chmod 600 {shown}"),
    })
}

/// Whether a variable of this name probably holds a secret.
///
/// ```
/// use kissops_core::config::looks_secret;
/// assert!(looks_secret("DISCORD_TOKEN") && looks_secret("apiKey") && looks_secret("DATABASE_URL"));
/// assert!(!looks_secret("MAX_TOKENS") && !looks_secret("TOKEN_FILE") && !looks_secret("KEYBOARD"));
/// ```
#[must_use]
pub fn looks_secret(key: &str) -> bool {
    const PARTS: [&str; 11] = [
        "TOKEN",
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "CREDENTIAL",
        "OAUTH",
        "WEBHOOK",
        "COOKIE",
        "APIKEY",
        "PRIVATEKEY",
    ];
    const LAST: [&str; 7] = ["KEY", "PASS", "PWD", "DSN", "AUTH", "JWT", "PIN"];
    const URLS: [&str; 9] =
        ["DATABASE", "DB", "POSTGRES", "PG", "MYSQL", "MONGO", "MONGODB", "REDIS", "AMQP"];
    const HARMLESS: [&str; 17] = [
        "FILE", "PATH", "DIR", "MAX", "MIN", "NUM", "COUNT", "LIMIT", "TTL", "EXPIRY", "LENGTH",
        "NAME", "PORT", "ENABLED", "TIMEOUT", "PUBLIC", "ID",
    ];
    let upper = key.to_ascii_uppercase();
    let words: Vec<&str> = upper.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let Some(last) = words.iter().rfind(|word| !word.is_empty()) else { return false };
    if words.iter().any(|word| HARMLESS.contains(word)) {
        return false;
    }
    PARTS.iter().any(|part| upper.contains(part))
        || (words.len() > 1 && LAST.contains(last))
        || *last == "PASS"
        || (matches!(*last, "URL" | "URI") && words.iter().any(|word| URLS.contains(word)))
}

/// The variables in `text`, or the line that is wrong and why, without any of its content.
pub(crate) fn parse_env(text: &str) -> Result<Vec<EnvLine>, (usize, &'static str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let end = rest.find('\n').unwrap_or(rest.len());
        let entry = rest[..end].trim_start();
        if entry.trim_end().is_empty() || entry.starts_with('#') {
            rest = rest.get(end + 1..).unwrap_or_default();
            line += 1;
            continue;
        }
        let entry = match entry.strip_prefix("export") {
            Some(after) if after.starts_with([' ', '\t']) => after.trim_start(),
            _ => entry,
        };
        let Some((key, _)) = entry.split_once('=') else {
            return Err((line, "has no = after its key: write KEY=value"));
        };
        let key_name = key.trim_end();
        if !is_key(key_name) {
            return Err((line, "has a key that is not made of letters, digits and _"));
        }
        // From here on the text may go over several lines.
        let offset = rest.len() - after_equals(rest, entry, key.len());
        let (value, used) = value(&rest[offset..]).map_err(|rule| (line, rule))?;
        if value.contains('\0') {
            return Err((line, "holds a NUL byte"));
        }
        found.push(EnvLine { line, key: key_name.to_owned(), value });
        let consumed = offset + used;
        line += rest[..consumed].matches('\n').count();
        rest = &rest[consumed..];
    }
    Ok(found)
}

/// How many bytes of `rest` come after the `=` of `entry`, a part of its first line.
fn after_equals(rest: &str, entry: &str, key: usize) -> usize {
    let line = rest.find('\n').unwrap_or(rest.len());
    rest.len() - line + entry.len() - key - 1
}

fn is_key(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// The value at the start of `text`, and how much of `text` it took, the line's end included.
fn value(text: &str) -> Result<(String, usize), &'static str> {
    let blank = text.len() - text.trim_start_matches([' ', '\t']).len();
    let body = &text[blank..];
    let (value, quoted) = match body.as_bytes().first() {
        Some(b'\'') => {
            let end = body[1..].find('\'').ok_or("opens a ' that is never closed")?;
            (body[1..=end].to_owned(), end + 2)
        }
        Some(b'"') => double_quoted(body)?,
        _ => {
            let line = body.split('\n').next().unwrap_or_default();
            // A comment begins at a # after a blank, so that colours and fragments need no quotes.
            let comment = line
                .match_indices('#')
                .find(|(at, _)| *at == 0 && blank > 0 || line[..*at].ends_with([' ', '\t']));
            let value = comment.map_or(line, |(at, _)| &line[..at]).trim();
            return Ok((value.to_owned(), blank + (line.len() + 1).min(body.len())));
        }
    };
    let after = &body[quoted..];
    let line = after.split('\n').next().unwrap_or_default();
    let trailing = line.trim();
    if !trailing.is_empty() && !trailing.starts_with('#') {
        return Err("goes on after the closing quote");
    }
    Ok((value, blank + quoted + (line.len() + 1).min(after.len())))
}

fn double_quoted(body: &str) -> Result<(String, usize), &'static str> {
    let mut value = String::new();
    let mut chars = body.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, at + 1)),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c @ ('\\' | '"' | '$' | '\''))) => value.push(c),
                // What is no escape stays as it is: Windows paths, regular expressions.
                Some((_, other)) => value.extend(['\\', other]),
                None => break,
            },
            '\r' if body[at + 1..].starts_with('\n') => {}
            other => value.push(other),
        }
    }
    Err("opens a \" that is never closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        let lines = parse_env(text).unwrap();
        lines.into_iter().map(|line| (line.line, line.key, line.value)).collect()
    }

    #[test]
    fn reads_what_people_write() {
        let text = "# first\r\n\r\nA=1\r\nexport B = two words  # note\nC='a #b'\nD=\"x\\ny\\\"\"  # c\n\
                    E=\nF=#fff\nG=a#b\nK=\"-----BEGIN\nline\n-----END\"\nH=last $HOME\\n";
        let want = [
            (3, "A", "1"),
            (4, "B", "two words"),
            (5, "C", "a #b"),
            (6, "D", "x\ny\""),
            (7, "E", ""),
            (8, "F", "#fff"),
            (9, "G", "a#b"),
            (10, "K", "-----BEGIN\nline\n-----END"),
            (13, "H", "last $HOME\\n"),
        ];
        let want: Vec<_> =
            want.iter().map(|(l, k, v)| (*l, (*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(pairs(text), want);
    }

    #[test]
    fn an_error_names_the_line_and_never_the_value() {
        for (text, line) in [
            ("A=1\nhunter2\n", 2),
            ("A='hunter2\n", 1),
            ("\nA=\"hunter2", 2),
            ("A=\"x\" hunter2", 1),
            ("1A=hunter2", 1),
            ("=hunter2", 1),
        ] {
            let (at, rule) = parse_env(text).err().unwrap();
            assert_eq!(at, line, "{text}");
            assert!(!rule.contains("hunter2"));
        }
    }

    #[test]
    fn nothing_panics() {
        let text = "export A=\"x\\\"é\"\r\nB='ü' # y\nC = z\n";
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            for start in (0..end).filter(|start| text.is_char_boundary(*start)) {
                let _ = parse_env(&text[start..end]);
            }
        }
    }
}
