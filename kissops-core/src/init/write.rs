//! The text of `kissops.toml`, and secrets apart from it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{Bot, Findings, clean_name};
use crate::config::looks_secret;

/// A string as TOML.
pub(super) fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// An array of strings as TOML.
pub(super) fn strings<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<String> = items.iter().map(|item| string(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { string(name) }
}

/// Takes secrets out of the environments of the bots: into `kissops.env`, or one file for each bot where their values
/// differ.
pub(super) fn secrets_apart(folder: &Path, findings: &mut Findings) -> Vec<(PathBuf, String, u32)> {
    let mut apart: Vec<(usize, BTreeMap<String, String>)> = Vec::new();
    for (index, bot) in findings.bots.iter_mut().enumerate() {
        let secret = |key: &String, value: &mut String| looks_secret(key) && !value.is_empty();
        let secrets: BTreeMap<_, _> = bot.env.extract_if(.., secret).collect();
        if !secrets.is_empty() {
            apart.push((index, secrets));
        }
    }
    let first = apart.first().map(|(_, secrets)| secrets.clone());
    let shared = apart.iter().all(|(_, secrets)| Some(secrets) == first.as_ref());
    let mut files: Vec<(PathBuf, String, u32)> = Vec::new();
    for (index, secrets) in apart {
        let Some(bot) = findings.bots.get_mut(index) else { continue };
        let name =
            if shared { "kissops.env".to_owned() } else { format!("kissops.{}.env", bot.name) };
        let names: Vec<&str> = secrets.keys().map(String::as_str).collect();
        bot.comment(format!("Secrets ({}) are in {name}, mode 600.", names.join(", ")));
        bot.env_file.push(name.clone());
        let path = folder.join(name);
        if !files.iter().any(|(other, ..)| *other == path) {
            let mut text = String::from(
                "# Secrets, apart from kissops.toml. Keep it at mode 600 and out of git.\n",
            );
            for (key, value) in &secrets {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{key}={}", env_quoted(value));
            }
            files.push((path, text, 0o600));
        }
    }
    files
}

/// A value for an env file.
fn env_quoted(value: &str) -> String {
    let escaped =
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
    format!("\"{escaped}\"")
}

/// The text of `kissops.toml`.
pub(super) fn toml(folder: &Path, findings: &Findings) -> String {
    let name = clean_name(&folder.file_name().unwrap_or_default().to_string_lossy());
    let from = findings.found.join(", ").replace('\n', " ");
    let mut text = format!(
        "# Proposed by `kissops init` from {from}.\n\
         # Check it with `kissops check`, run it with `kissops up`. Relative paths are relative to this file.\n\n\
         [daemon]\nname = {}\n# state_dir = \".kissops\"           # state; sockets in .kissops/run, output in .kissops/logs\n\n\
         [defaults]                          # what every instance inherits; these are the built-in values\n\
         # restart     = \"always\"           # \"on-failure\", \"never\"\n\
         # backoff     = {{ base = \"1s\", cap = \"5m\", reset_after = \"60s\" }}\n\
         # start_limit = {{ starts = 5, within = \"5m\" }}\n\
         # stop        = {{ signal = \"SIGTERM\", grace = \"30s\" }}\n\
         # logs        = {{ rotate_size = \"100MB\", keep = 30, keep_for = \"30d\" }}\n",
        string(&name)
    );
    for bot in &findings.bots {
        text.push('\n');
        push_bot(&mut text, bot);
    }
    if !findings.lost.is_empty() {
        text.push_str("\n# Not carried over:\n");
        for lost in &findings.lost {
            push_comment(&mut text, &format!("- {lost}"));
        }
    }
    text
}

fn push_bot(text: &mut String, bot: &Bot) {
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for comment in &bot.comments {
        line(format!("# {}", one_line(comment)));
    }
    let kind = if bot.members.is_empty() { "instance" } else { "template" };
    line(format!("[{kind}.{}]", key(&bot.name)));
    line(format!("command = {}", strings(&bot.command)));
    if !bot.members.is_empty() {
        line(format!("instances = {}", strings(&bot.members)));
    }
    if !bot.env_file.is_empty() {
        line(format!("env_file = {}", strings(&bot.env_file)));
    }
    if !bot.env.is_empty() {
        let pairs: Vec<String> = bot
            .env
            .iter()
            .map(|(name, value)| format!("{} = {}", key(name), string(value)))
            .collect();
        line(format!("env = {{ {} }}", pairs.join(", ")));
    }
    for (name, value) in &bot.keys {
        line(format!("{name} = {value}"));
    }
    if !bot.keys.iter().any(|(name, _)| *name == "limits") {
        line("# limits = { memory_max = \"350MB\" }".to_owned());
    }
    if !bot.keys.iter().any(|(name, _)| *name == "ready") {
        line("# ready = { http = \"http://127.0.0.1:8000/health\", within = \"30s\" }".to_owned());
    }
}

fn push_comment(text: &mut String, comment: &str) {
    text.push_str("# ");
    text.push_str(&one_line(comment));
    text.push('\n');
}

fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}
