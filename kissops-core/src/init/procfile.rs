//! `Procfile`: a name and a command line for each process.

use std::path::Path;

use super::{Bot, Findings, read, shell};

pub(super) fn find(folder: &Path, findings: &mut Findings) {
    let Some(text) = read(&folder.join("Procfile")) else { return };
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once(':') {
            Some((name, command)) if !command.trim().is_empty() && !name.contains(' ') => {
                findings.bots.push(bot(name.trim(), command));
            }
            _ => findings.lost.push("Procfile: a line that is not like `name: command`".to_owned()),
        }
    }
    if !findings.bots.is_empty() {
        findings.found.push(format!("`Procfile` with {} processes", findings.bots.len()));
    }
}

fn bot(name: &str, line: &str) -> Bot {
    let (assigned, line) = shell::assignments(line);
    let (command, by_shell) = shell::command(line);
    let mut bot = Bot::new(name, command);
    bot.env.extend(assigned);
    bot.comment(format!("`{name}` of the Procfile."));
    if by_shell {
        bot.comment("It uses the syntax of a shell, so sh runs it.");
    }
    if line.contains("$PORT") || line.contains("${PORT") {
        bot.comment("PORT was given by the platform; 5000 is what foreman begins with.");
        bot.env.insert("PORT".to_owned(), "5000".to_owned());
    }
    if name == "release" {
        bot.comment(
            "The release phase runs once. Name it in the others: requires = [\"release\"].",
        );
        bot.set("kind", "\"oneshot\"");
    }
    bot
}
