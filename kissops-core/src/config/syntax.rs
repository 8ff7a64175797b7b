//! TOML as text: its errors in words that help, and what can be read in spite of them.

use toml::de::DeTable;

use super::{
    ConfigError,
    node::{Layer, Table},
    source::Source,
};

/// The most syntax errors that are shown: after some, the rest are echoes.
const SYNTAX_ERRORS: usize = 5;

/// The document, or at most [`SYNTAX_ERRORS`] errors, one a line.
pub(super) fn syntax(source: &Source) -> Result<Table, Vec<ConfigError>> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    if errors.is_empty() {
        return Ok(Table::from_toml(table.get_ref(), Layer::File));
    }
    let mut found: Vec<ConfigError> = Vec::new();
    for error in errors {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = source.position(start);
        // What is never closed runs on to the end of the line, where the real mistake is reported next.
        match found.iter().position(|other| other.line == line) {
            Some(at)
                if found.get(at).is_some_and(|other| other.message.starts_with("unclosed")) =>
            {
                found.remove(at);
            }
            Some(_) => continue,
            None if found.len() == SYNTAX_ERRORS => break,
            None => {}
        }
        let span = error.span().and_then(|span| source.text.get(span)).unwrap_or_default();
        let said = error.message().lines().collect::<Vec<_>>().join(", ");
        let duplicate = said.starts_with("duplicate key");
        let key = if duplicate { span.trim().trim_matches(['"', '\'']) } else { "" };
        let (message, help) = if said.starts_with("string values") && span.trim().is_empty() {
            ("its value is missing".to_owned(), "")
        } else {
            syntax_words(said)
        };
        found.push(ConfigError {
            file: source.path.clone(),
            line,
            column,
            key: key.to_owned(),
            message,
            help: help.to_owned(),
        });
    }
    Err(found)
}

/// The document as far as it could be read, if what could not is no part of `[daemon]`.
///
/// An error belongs to the header above it. Without such a header, or if `[daemon]` is in the text but was swallowed, it
/// may be anywhere.
pub(super) fn daemon_alone(source: &Source) -> Option<Table> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    let is_header = |line: &&str| line.starts_with('[');
    let is_daemon = |line: &str| {
        let name = line.trim_start_matches('[').trim_start();
        ["daemon", "\"daemon", "'daemon", "profile"].iter().any(|start| name.starts_with(start))
    };
    for error in errors {
        let start = error.span().map_or(0, |span| span.start);
        let before = source.text.get(..start)?;
        let own_line = source.text.get(start..)?.lines().next().unwrap_or_default().len();
        let text = source.text.get(..before.len() + own_line)?;
        if is_daemon(text.lines().rfind(is_header)?) {
            return None;
        }
    }
    let table = Table::from_toml(table.get_ref(), Layer::File);
    let written = source.text.lines().filter(is_header).any(is_daemon);
    (!written || table.get("daemon").is_some()).then_some(table)
}

/// The parser's words, and ours for what mends it.
fn syntax_words(said: String) -> (String, &'static str) {
    const WORDS: [(&str, &str); 4] = [
        ("duplicate key", "remove or rename one of the two"),
        ("string values must be quoted", "put it in quotes: \"…\""),
        ("missing comma", "or the array that was opened above lacks its ]"),
        ("invalid basic string", "its closing \" is missing, or a \\ in it is to be written \\\\"),
    ];
    match WORDS.iter().find(|(begin, _)| said.starts_with(begin)) {
        Some((begin, help)) if begin.starts_with("string values") => ((*begin).to_owned(), help),
        Some((_, help)) => (said, help),
        None => (said, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(text: &str) -> Option<String> {
        let table = daemon_alone(&Source::new("kissops.toml".into(), text.to_owned()))?;
        Some(format!("{:?}", table.get("daemon").map(|node| &node.value)))
    }

    #[test]
    fn a_daemon_is_found_in_spite_of_an_error_elsewhere() {
        let good = "[daemon]\nruntime_dir = \"/run/x\"\n";
        let found = daemon(&format!("{good}[instance.a]\ncommand = [\"a\"\nx = [\n")).unwrap();
        assert!(found.contains("/run/x"), "{found}");
        assert!(daemon("[instance.a]\ncommand = \n").is_some());
        let found = daemon(&format!("[instance.a]\ncommand = sh\n{good}")).unwrap();
        assert!(found.contains("/run/x"), "{found}");
    }

    #[test]
    fn none_is_guessed_where_the_error_may_be_its_own() {
        for text in [
            "[daemon]\nruntime_dir = \"/run/x\n",
            "[daemon\nname = \"x\"\n",
            "x = [\n[daemon]\n",
            "[daemon.log]\nlevel = \n",
        ] {
            assert_eq!(daemon(text), None, "{text}");
        }
    }
}
