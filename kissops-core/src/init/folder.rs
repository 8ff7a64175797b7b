//! Folders of Python, Node, Rust and Go programs.

use std::path::Path;

use super::{Bot, Findings, clean_name, read, shell};

pub(super) fn find(folder: &Path, findings: &mut Findings) {
    let sources: [fn(&Path, &str, &mut Findings); 4] = [python, node, rust, go];
    let name = clean_name(&folder.file_name().unwrap_or_default().to_string_lossy());
    for source in sources {
        source(folder, &name, findings);
    }
}

/// The interpreter that scripts of `folder` are meant for.
pub(super) fn python_in(folder: &Path) -> String {
    let own = [".venv/bin/python", "venv/bin/python", "env/bin/python", ".env/bin/python"];
    let own = own.into_iter().find(|path| folder.join(path).exists());
    own.unwrap_or("python3").to_owned()
}

fn python(folder: &Path, name: &str, findings: &mut Findings) {
    let python = python_in(folder);
    let script = ["bot.py", "main.py", "app.py", "run.py"];
    let script = script.into_iter().find(|file| folder.join(file).is_file());
    let args = if let Some(script) = script {
        vec![script.to_owned()]
    } else if folder.join("__main__.py").is_file() {
        vec![".".to_owned()]
    } else if let Some(package) = package(folder) {
        vec!["-m".to_owned(), package]
    } else {
        for file in ["pyproject.toml", "requirements.txt"] {
            if folder.join(file).is_file() {
                findings.lost.push(format!(
                    "`{file}` is there, but no bot.py, main.py, app.py, run.py or __main__.py to start"
                ));
                break;
            }
        }
        return;
    };
    findings.found.push(format!("a Python program, `{}`", args.join(" ")));
    let mut command = vec![python];
    command.extend(args);
    let mut bot = Bot::new(name, command);
    bot.comment("PYTHONUNBUFFERED lets lines reach the log when they are printed.");
    bot.env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
    findings.bots.push(bot);
}

/// A package in `folder` or `folder/src` that can be run by `python -m`.
fn package(folder: &Path) -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("__main__.py").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .collect();
    names.sort();
    names.into_iter().next()
}

fn node(folder: &Path, name: &str, findings: &mut Findings) {
    let manifest = read(&folder.join("package.json"));
    let Some(text) = manifest else { return };
    let Ok(package) = serde_json::from_str::<serde_json::Value>(&text) else {
        findings.lost.push("`package.json` is not valid JSON".to_owned());
        return;
    };
    let start = package.pointer("/scripts/start").and_then(|start| start.as_str());
    let main = package.get("main").and_then(|main| main.as_str());
    let main = main.filter(|main| folder.join(main).is_file());
    let usual = ["bot.js", "index.js", "main.js", "app.js", "server.js"];
    let usual = usual.into_iter().find(|file| folder.join(file).is_file());
    let mut bot;
    if let Some(start) = start {
        let direct = shell::split(start).filter(|words| words.first().is_some_and(|w| w == "node"));
        bot = Bot::new(name, direct.clone().unwrap_or_default());
        if direct.is_some() {
            bot.comment(
                "scripts.start without npm around it, so that signals reach the bot itself.",
            );
        } else {
            bot.command = ["npm", "run", "--silent", "start"].map(str::to_owned).into();
            // npm leaves the passing on of signals to the shell that it starts.
            bot.comment("npm starts a shell: the stop signal goes to the whole group.");
            bot.set("stop", "{ signal = \"SIGTERM\", grace = \"30s\", to = \"group\" }");
        }
    } else if let Some(main) = main.or(usual) {
        bot = Bot::new(name, vec!["node".to_owned(), main.to_owned()]);
    } else {
        findings.lost.push("`package.json` has neither scripts.start nor main".to_owned());
        return;
    }
    findings.found.push(format!("a Node program, `{}`", bot.command.join(" ")));
    findings.bots.push(bot);
}

fn rust(folder: &Path, _: &str, findings: &mut Findings) {
    let Some(text) = read(&folder.join("Cargo.toml")) else { return };
    let manifest: Option<toml::Table> = text.parse().ok();
    let package = manifest
        .as_ref()
        .and_then(|manifest| manifest.get("package"))
        .and_then(|package| package.get("name"))
        .and_then(|name| name.as_str());
    let Some(package) = package else {
        findings
            .lost
            .push("`Cargo.toml` has no package.name: name the program yourself".to_owned());
        return;
    };
    let built = format!("target/release/{package}");
    let mut bot;
    if folder.join(&built).is_file() {
        bot = Bot::new(package, vec![built]);
    } else {
        bot = Bot::new(package, ["cargo", "run", "--release"].map(str::to_owned).into());
        bot.comment(format!("Once it is built, better: command = [\"{built}\"]"));
    }
    findings.found.push(format!("a Rust program, `{package}`"));
    findings.bots.push(bot);
}

fn go(folder: &Path, _: &str, findings: &mut Findings) {
    let Some(text) = read(&folder.join("go.mod")) else { return };
    let module = text.lines().find_map(|line| line.trim().strip_prefix("module "));
    let name = module.and_then(|module| module.trim().rsplit('/').next()).unwrap_or("bot");
    let mut bot;
    if folder.join(name).is_file() {
        bot = Bot::new(name, vec![format!("./{name}")]);
    } else {
        bot = Bot::new(name, ["go", "run", "."].map(str::to_owned).into());
        bot.comment(format!("Once it is built (go build), better: command = [\"./{name}\"]"));
    }
    findings.found.push(format!("a Go program, `{name}`"));
    findings.bots.push(bot);
}
