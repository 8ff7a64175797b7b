//! Command lines that were meant for a shell.

/// `line` as program and arguments, or `None` if only a shell understands it.
pub(super) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut inside = false;
    let mut chars = line.trim().chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => {
                if inside {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
                continue;
            }
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    '$' | '`' => return None,
                    '\\' => match chars.next()? {
                        c @ ('"' | '\\' | '$' | '`') => word.push(c),
                        c => word.extend(['\\', c]),
                    },
                    c => word.push(c),
                }
            },
            '\\' => word.push(chars.next()?),
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '$' | '`' | '*' | '?' | '[' | '{' | '\n' => {
                return None;
            }
            '~' | '#' | '!' if !inside => return None,
            // An assignment before the program: FOO=1 node bot.js
            '=' if words.is_empty() => return None,
            c => word.push(c),
        }
        inside = true;
    }
    if inside {
        words.push(word);
    }
    (!words.is_empty()).then_some(words)
}

/// Plain assignments at the start of `line`, and the rest: `FOO=1 node bot.js`. They may be secrets, which do not belong
/// into a command.
pub(super) fn assignments(line: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = line.trim();
    while let Some((word, after)) = rest.split_once(' ') {
        let Some((key, value)) = word.split_once('=') else { break };
        let name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&b);
        if key.is_empty() || !key.bytes().all(name) || !value.bytes().all(plain) {
            break;
        }
        found.push((key.to_owned(), value.to_owned()));
        rest = after.trim_start();
    }
    (found, rest)
}

/// `line` as a command: split where that is enough, else by `sh -c`. The flag says whether a shell is needed.
pub(super) fn command(line: &str) -> (Vec<String>, bool) {
    if let Some(words) = split(line) {
        return (words, false);
    }
    let line = line.trim();
    // `exec` gives the bot the shell's place, so that signals reach it. It would cut a list or a pipe short.
    let list = line.contains(['|', '&', ';', '(', '{', '\n']);
    let assigns = line.split_whitespace().next().is_some_and(|word| word.contains('='));
    let exec = if list || assigns || line.starts_with("exec ") { "" } else { "exec " };
    (vec!["sh".to_owned(), "-c".to_owned(), format!("{exec}{line}")], true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_a_shell_would() {
        let words = split(r#"node  'my bot.js' --x="a b\"c" a\ b"#).unwrap();
        assert_eq!(words, ["node", "my bot.js", "--x=a b\"c", "a b"]);
        for shell in
            ["a | b", "a && b", "run $PORT", "FOO=1 node x", "a > b", "ls *.py", "a 'b", ""]
        {
            assert_eq!(split(shell), None, "{shell}");
        }
        assert_eq!(command("gunicorn -b :$PORT app").0[2], "exec gunicorn -b :$PORT app");
        assert_eq!(command("a && b").0[2], "a && b");
    }
}
