//! `supervisord.conf`: its `[program:x]` sections.
//!
//! Keys and their meaning: <https://supervisord.org/configuration.html#program-x-section-settings>.

use std::{collections::BTreeMap, path::Path};

use super::{
    Bot, Findings, read, shell,
    write::{string, strings},
};

const FILES: [&str; 3] = ["supervisord.conf", "supervisor.conf", "etc/supervisord.conf"];

/// Stands for `%(process_num)d` while braces are escaped.
const NUMBER: char = '\u{1}';

pub(super) fn find(folder: &Path, findings: &mut Findings) {
    let Some((file, text)) = FILES.iter().find_map(|f| Some((f, read(&folder.join(f))?))) else {
        return;
    };
    let before = findings.bots.len();
    for (section, keys) in sections(&text) {
        if let Some(name) = section.strip_prefix("program:") {
            program(folder, name.trim(), &keys, findings);
        } else if !matches!(
            section.as_str(),
            "supervisord" | "supervisorctl" | "unix_http_server" | "inet_http_server"
        ) && !section.starts_with("rpcinterface:")
        {
            findings.lost.push(format!("{file}: section [{section}]"));
        }
    }
    let count = findings.bots.len() - before;
    if count > 0 {
        findings.found.push(format!("`{file}` with {count} programs"));
    }
}

/// Sections with their keys, as supervisord reads them: `;` begins a comment, an indented line goes on.
fn sections(text: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut last = String::new();
    for raw in text.lines() {
        let line = raw.split(" ;").next().unwrap_or(raw);
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with([';', '#']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            found.push((name.to_owned(), BTreeMap::new()));
            last.clear();
            continue;
        }
        let Some((_, keys)) = found.last_mut() else { continue };
        if line.starts_with([' ', '\t']) && !last.is_empty() {
            if let Some(value) = keys.get_mut(&last) {
                value.push(' ');
                value.push_str(trimmed);
            }
        } else if let Some((key, value)) = trimmed.split_once(['=', ':']) {
            last = key.trim().to_lowercase();
            keys.insert(last.clone(), value.trim().to_owned());
        }
    }
    found
}

fn program(folder: &Path, name: &str, keys: &BTreeMap<String, String>, findings: &mut Findings) {
    let count = number(keys, "numprocs").unwrap_or(1).min(1_000);
    let expand = |text: &str| expand(text, folder, name);
    let Some(line) = keys.get("command").map(|line| expand(line)) else {
        findings.lost.push(format!("program {name} has no command"));
        return;
    };
    let (words, _) =
        shell::split(&line).map_or_else(|| shell::command(&line), |words| (words, false));
    let member = |text: &str| member_text(text, count > 1);
    let mut bot = Bot::new(name, words.iter().map(|word| member(word)).collect());
    bot.comment(format!("From [program:{name}] of supervisord."));
    if count > 1 {
        let start = number(keys, "numprocs_start").unwrap_or(0);
        // The bot gets to see the number in its command and environment; the process's name is only for people.
        let seen = |key: &String| key != "process_name";
        let has = |name: bool, what: &str| {
            keys.iter().any(|(key, value)| (name || seen(key)) && value.contains(what))
        };
        let width = if has(!has(false, "%(process_num)"), "%(process_num)02d") { 2 } else { 1 };
        bot.members = (start..start + count).map(|number| format!("{number:0width$}")).collect();
    }
    if let Some(text) = keys.get("environment") {
        for (key, value) in environment(&expand(text)) {
            bot.env.insert(key, member(&value));
        }
    }
    carry(&mut bot, keys, &|text: &str| member(&expand(text)));
    if keys.iter().any(|(key, value)| key != "command" && value.contains("%(ENV_")) {
        findings.lost.push(format!("program {name}: %(ENV_…)s outside of its command"));
    }
    lost(name, keys, findings);
    findings.bots.push(bot);
}

/// `%(here)s` and the like, and doubled percent signs.
fn expand(text: &str, folder: &Path, name: &str) -> String {
    let mut text = text
        .replace("%(here)s", &folder.display().to_string())
        .replace("%(program_name)s", name)
        .replace("%(group_name)s", name);
    for form in ["%(process_num)02d", "%(process_num)d", "%(process_num)s", "%(process_num)01d"] {
        text = text.replace(form, &NUMBER.to_string());
    }
    // %(ENV_X)s becomes $X, which makes it a shell's work.
    while let Some((before, rest)) = text.split_once("%(ENV_") {
        let Some((variable, after)) = rest.split_once(")s") else { break };
        text = format!("{before}${{{variable}}}{after}");
    }
    text.replace("%%", "%")
}

/// Braces as they are written in a template, and the number of the process.
fn member_text(text: &str, template: bool) -> String {
    if template {
        text.replace('{', "{{").replace('}', "}}").replace(NUMBER, "{name}")
    } else {
        text.replace(NUMBER, "0")
    }
}

/// `KEY="value",OTHER=value`.
fn environment(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, next) = match quote {
            Some(quote) => after[1..].split_once(quote).unwrap_or((&after[1..], "")),
            None => after.split_once(',').map_or((after, ""), |(value, next)| (value, next)),
        };
        found.push((key.trim().to_owned(), value.trim().to_owned()));
        rest = next.trim_start().trim_start_matches(',').trim_start();
    }
    found.retain(|(key, _)| !key.is_empty());
    found
}

fn carry(bot: &mut Bot, keys: &BTreeMap<String, String>, text: &dyn Fn(&str) -> String) {
    let get = |key: &str| keys.get(key).map(String::as_str);
    let truth = |key: &str| {
        get(key).map(|value| matches!(value.to_lowercase().as_str(), "true" | "yes" | "on" | "1"))
    };
    if let Some(folder) = get("directory") {
        bot.set("cwd", string(&text(folder)));
    }
    if let Some(user) = get("user") {
        bot.set("user", string(user));
    }
    if let Some(mask) = get("umask").filter(|mask| mask.bytes().all(|b| (b'0'..=b'7').contains(&b)))
    {
        bot.set("umask", string(mask));
    }
    if truth("autostart") == Some(false) {
        bot.set("autostart", "false");
    }
    match get("autorestart").map(str::to_lowercase).as_deref() {
        Some("true") => {}
        Some("false") => bot.set("restart", "\"never\""),
        // supervisord's own default is "unexpected".
        _ => {
            bot.set("restart", "\"on-failure\"");
            let codes = get("exitcodes")
                .unwrap_or("0")
                .split(',')
                .filter_map(|code| code.trim().parse::<u8>().ok());
            let codes: Vec<String> =
                codes.filter(|code| *code != 0).map(|code| code.to_string()).collect();
            if !codes.is_empty() {
                bot.set("success_exit_codes", format!("[{}]", codes.join(", ")));
            }
        }
    }
    if let Some(seconds) = number(keys, "startsecs").filter(|seconds| *seconds > 0) {
        bot.set("ready", format!("{{ delay = \"{seconds}s\", within = \"{}s\" }}", seconds + 60));
    }
    if let Some(retries) = number(keys, "startretries") {
        bot.set(
            "start_limit",
            format!("{{ starts = {}, within = \"5m\" }}", retries.min(99_999) + 1),
        );
    }
    stop(bot, keys, truth("stopasgroup") == Some(true));
    logs(bot, keys);
}

fn stop(bot: &mut Bot, keys: &BTreeMap<String, String>, group: bool) {
    let signal =
        keys.get("stopsignal").and_then(|name| name.parse::<crate::supervisor::Signal>().ok());
    let grace = number(keys, "stopwaitsecs");
    if signal.is_some() || grace.is_some() || group {
        let mut parts = Vec::new();
        parts.extend(signal.map(|signal| format!("signal = \"{signal}\"")));
        parts.push(format!("grace = \"{}s\"", grace.unwrap_or(10)));
        parts.extend(group.then(|| "to = \"group\"".to_owned()));
        bot.set("stop", format!("{{ {} }}", parts.join(", ")));
    }
}

fn logs(bot: &mut Bot, keys: &BTreeMap<String, String>) {
    let mut parts = Vec::new();
    if let Some(size) = keys.get("stdout_logfile_maxbytes") {
        // supervisord's KB and MB are powers of two.
        let size =
            size.to_uppercase().replace("KB", "KiB").replace("MB", "MiB").replace("GB", "GiB");
        if size.parse::<crate::ByteSize>().is_ok_and(|size| size.0 >= 1_000) {
            parts.push(format!("rotate_size = {}", string(&size_with_unit(&size))));
        }
    }
    if let Some(count) = number(keys, "stdout_logfile_backups") {
        parts.push(format!("keep = {}", count.min(100_000)));
    }
    if !parts.is_empty() {
        bot.set("logs", format!("{{ {} }}", parts.join(", ")));
    }
}

fn size_with_unit(size: &str) -> String {
    if size.bytes().all(|b| b.is_ascii_digit()) { format!("{size}B") } else { size.to_owned() }
}

fn number(keys: &BTreeMap<String, String>, key: &str) -> Option<u32> {
    keys.get(key)?.parse().ok()
}

/// Says what has no counterpart.
fn lost(name: &str, keys: &BTreeMap<String, String>, findings: &mut Findings) {
    const CARRIED: [&str; 21] = [
        "command",
        "directory",
        "user",
        "umask",
        "autostart",
        "autorestart",
        "exitcodes",
        "startsecs",
        "startretries",
        "stopsignal",
        "stopwaitsecs",
        "stopasgroup",
        "killasgroup",
        "environment",
        "numprocs",
        "numprocs_start",
        "process_name",
        "redirect_stderr",
        "stdout_logfile_maxbytes",
        "stdout_logfile_backups",
        "stderr_logfile_maxbytes",
    ];
    for key in keys.keys().filter(|key| !CARRIED.contains(&key.as_str())) {
        let why = match key.as_str() {
            "stdout_logfile" | "stderr_logfile" => {
                ": output is in log_dir, both streams in one file (kissops logs)".to_owned()
            }
            "priority" => ": say what must be ready first, requires = [\"…\"]".to_owned(),
            _ => String::new(),
        };
        findings.lost.push(format!(
            "{} of program {name}{why}",
            strings(&[key]).trim_matches(['[', ']', '"'])
        ));
    }
}
