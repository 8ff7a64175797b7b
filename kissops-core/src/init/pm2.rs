//! PM2's ecosystem files.
//!
//! Keys and their meaning: <https://pm2.keymetrics.io/docs/usage/application-declaration/>.

use std::{
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::{Map, Value};

use super::{Bot, Findings, LARGEST, folder::python_in, read, shell, write::string};

const JSON: [&str; 3] = ["ecosystem.json", "ecosystem.config.json", "pm2.json"];
const SCRIPTS: [&str; 3] = ["ecosystem.config.js", "ecosystem.config.cjs", "pm2.config.js"];
const YAML: [&str; 3] = ["ecosystem.config.yml", "ecosystem.config.yaml", "process.yml"];

/// How long a file in JavaScript may take.
const NODE_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn find(folder: &Path, findings: &mut Findings) {
    let json = JSON.iter().find_map(|file| Some((*file, read(&folder.join(file))?)));
    let (file, text) = if let Some((file, text)) = json {
        (file, Ok(text))
    } else if let Some(file) = SCRIPTS.into_iter().find(|file| folder.join(file).is_file()) {
        (file, run_node(&folder.join(file)))
    } else {
        if let Some(file) = YAML.iter().find(|file| folder.join(file).is_file()) {
            findings.lost.push(format!("`{file}`: YAML is not read; save it as ecosystem.json"));
        }
        return;
    };
    let document =
        text.and_then(|text| serde_json::from_str::<Value>(&text).map_err(|err| err.to_string()));
    let apps = match document {
        Ok(Value::Object(mut object)) => match object.remove("apps") {
            Some(Value::Array(apps)) => apps,
            Some(app) => vec![app],
            None => vec![Value::Object(object)],
        },
        Ok(Value::Array(apps)) => apps,
        Ok(_) => Vec::new(),
        Err(err) => {
            findings.lost.push(format!("`{file}` cannot be read: {err}"));
            return;
        }
    };
    let before = findings.bots.len();
    for app in &apps {
        if let Value::Object(app) = app {
            carry_app(folder, app, findings);
        }
    }
    let count = findings.bots.len() - before;
    if count > 0 {
        findings.found.push(format!("`{file}` with {count} apps"));
    }
}

/// What the module at `path` exports, as JSON. Its code runs, as it does under PM2.
fn run_node(path: &Path) -> Result<String, String> {
    const PRINT: &str = "process.stdout.write(JSON.stringify(require(process.argv[1])))";
    let mut child = Command::new("node")
        .args(["-e", PRINT])
        .arg(path)
        .current_dir(path.parent().unwrap_or(Path::new("/")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|err| format!("it is JavaScript, and node does not start: {err}"))?;
    let Some(stdout) = child.stdout.take() else { return Err("node has no output".to_owned()) };
    let (send, receive) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.take(LARGEST).read_to_string(&mut text);
        // Nobody listens after the time limit.
        let _ = send.send(read.map(|_| text));
    });
    let answer = receive.recv_timeout(NODE_LIMIT);
    // It is over either way: it has closed its output, or it has had its time.
    if answer.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|err| err.to_string())?;
    match answer {
        Ok(Ok(text)) => {
            let _ = reader.join();
            if status.success() { Ok(text) } else { Err(format!("node ended with {status}")) }
        }
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err(format!("node took longer than {NODE_LIMIT:?}")),
    }
}

fn carry_app(folder: &Path, app: &Map<String, Value>, findings: &mut Findings) {
    let text = |key: &str| app.get(key).and_then(Value::as_str);
    let Some(script) = text("script").or_else(|| text("exec")) else {
        findings.lost.push("an app without script".to_owned());
        return;
    };
    let stem = Path::new(script).file_stem().unwrap_or_default().to_string_lossy();
    let name = text("name").unwrap_or(&stem).to_owned();
    let mut bot = Bot::new(&name, command(folder, app, script));
    bot.comment(format!("From the PM2 app {name}."));
    if let Some(cwd) = text("cwd") {
        bot.set("cwd", string(cwd));
    }
    if let Some(Value::Object(env)) = app.get("env") {
        bot.env =
            env.iter().filter_map(|(key, value)| Some((key.clone(), plain(value)?))).collect();
    }
    members(&mut bot, app, findings);
    carry_keys(&mut bot, app, &name, findings);
    lost(app, &name, findings);
    findings.bots.push(bot);
}

/// A value of JSON as the text that a variable gets.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn words(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(line)) => shell::split(line)
            .unwrap_or_else(|| line.split_whitespace().map(str::to_owned).collect()),
        Some(Value::Array(items)) => items.iter().filter_map(plain).collect(),
        _ => Vec::new(),
    }
}

fn command(folder: &Path, app: &Map<String, Value>, script: &str) -> Vec<String> {
    let base =
        app.get("cwd").and_then(Value::as_str).map_or(folder.to_owned(), |cwd| folder.join(cwd));
    let named =
        app.get("interpreter").or_else(|| app.get("exec_interpreter")).and_then(Value::as_str);
    let extension = Path::new(script).extension().unwrap_or_default().to_string_lossy();
    let interpreter = match named {
        Some("none") => None,
        Some("python" | "python3") => Some(python_in(&base)),
        Some(other) => Some(other.to_owned()),
        None => match &*extension {
            "py" => Some(python_in(&base)),
            "sh" => Some("bash".to_owned()),
            "js" | "mjs" | "cjs" | "ts" => Some("node".to_owned()),
            // PM2 runs a file without a known ending by node, and a program of the PATH as it is.
            _ if base.join(script).is_file() && !executable(&base.join(script)) => {
                Some("node".to_owned())
            }
            _ => None,
        },
    };
    let mut command: Vec<String> = interpreter.into_iter().collect();
    if !command.is_empty() {
        command.extend(words(app.get("interpreter_args").or_else(|| app.get("node_args"))));
    }
    command.push(script.to_owned());
    command.extend(words(app.get("args")));
    command
}

fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0)
}

/// Several instances become a template.
fn members(bot: &mut Bot, app: &Map<String, Value>, findings: &mut Findings) {
    let count = match app.get("instances") {
        Some(Value::Number(number)) => number.as_i64().unwrap_or(1),
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        _ => 1,
    };
    let name = bot.name.clone();
    if count == 1 {
        return;
    }
    let count = if (2..=1_000).contains(&count) {
        count
    } else {
        findings
            .lost
            .push(format!("instances of {name}: PM2 takes the number of cores; two are written"));
        2
    };
    let escape = |text: &String| text.replace('{', "{{").replace('}', "}}");
    bot.command = bot.command.iter().map(escape).collect();
    bot.env.values_mut().for_each(|value| *value = escape(value));
    for (key, value) in &mut bot.keys {
        if *key == "cwd" {
            *value = escape(value);
        }
    }
    bot.members = (0..count).map(|number| number.to_string()).collect();
    bot.env.entry("NODE_APP_INSTANCE".to_owned()).or_insert_with(|| "{name}".to_owned());
    if app.get("exec_mode").and_then(Value::as_str).is_some_and(|mode| mode.starts_with("cluster"))
    {
        findings.lost.push(format!("cluster mode of {name}: instances do not share a port"));
    }
}

fn carry_keys(bot: &mut Bot, app: &Map<String, Value>, name: &str, findings: &mut Findings) {
    let millis = |key: &str| app.get(key).and_then(span).filter(|millis| *millis > 0);
    if app.get("autorestart") == Some(&Value::Bool(false)) {
        bot.set("restart", "\"never\"");
    }
    let mut backoff = Vec::new();
    if let Some(delay) = millis("exp_backoff_restart_delay") {
        // PM2 grows the delay by half each time, up to 15 s.
        backoff
            .push(format!("base = \"{delay}ms\", factor = 1.5, cap = \"{}ms\"", delay.max(15_000)));
    } else if let Some(delay) = millis("restart_delay") {
        backoff.push(format!("base = \"{delay}ms\", cap = \"{delay}ms\", jitter = false"));
    }
    backoff.extend(millis("min_uptime").map(|uptime| format!("reset_after = \"{uptime}ms\"")));
    if !backoff.is_empty() {
        bot.set("backoff", format!("{{ {} }}", backoff.join(", ")));
    }
    if let Some(most) = app.get("max_restarts").and_then(Value::as_u64) {
        bot.set(
            "start_limit",
            format!("{{ starts = {}, within = \"5m\" }}", most.clamp(1, 100_000)),
        );
    }
    if let Some(grace) = millis("kill_timeout") {
        bot.set("stop", format!("{{ signal = \"SIGINT\", grace = \"{grace}ms\" }}"));
    }
    match app.get("max_memory_restart").map(size) {
        Some(Some(size)) => bot.set("limits", format!("{{ max_rss = \"{size}\" }}")),
        Some(None) => findings.lost.push(format!("max_memory_restart of {name}: it is not a size")),
        None => {}
    }
    match app.get("cron_restart").and_then(Value::as_str) {
        Some(cron) if cron.parse::<croner::Cron>().is_ok() => {
            bot.set("restart_schedule", string(cron));
        }
        Some(_) => {
            findings.lost.push(format!("cron_restart of {name}: it is not a cron expression"));
        }
        None => {}
    }
    if let Some(Value::Array(codes)) = app.get("stop_exit_codes") {
        let codes: Vec<String> = codes
            .iter()
            .filter_map(Value::as_u64)
            .filter(|c| *c < 256)
            .map(|c| c.to_string())
            .collect();
        bot.set("stop_exit_codes", format!("[{}]", codes.join(", ")));
    }
    for (theirs, ours) in [("uid", "user"), ("user", "user"), ("gid", "group")] {
        if let Some(account) = app.get(theirs).and_then(plain)
            && !bot.keys.iter().any(|(key, _)| *key == ours)
        {
            bot.set(ours, string(&account));
        }
    }
}

/// Milliseconds: a number, or "10s", "5m", "1h".
fn span(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok().or_else(|| {
            let span: crate::HumanDuration = text.parse().ok()?;
            u64::try_from(span.0.as_millis()).ok()
        }),
        _ => None,
    }
}

/// PM2's sizes: bytes, or with K, M or G in powers of two.
fn size(value: &Value) -> Option<String> {
    let text = plain(value)?.trim().to_uppercase();
    let (number, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(number) => (number, format!("{}iB", text.chars().last()?)),
        None => (text.as_str(), "B".to_owned()),
    };
    let sized: crate::ByteSize = format!("{}{unit}", number.trim()).parse().ok()?;
    (sized.0 >= 1 << 20).then(|| sized.to_string())
}

/// Says what has no counterpart.
fn lost(app: &Map<String, Value>, name: &str, findings: &mut Findings) {
    const CARRIED: [&str; 26] = [
        "name",
        "script",
        "exec",
        "args",
        "interpreter",
        "exec_interpreter",
        "interpreter_args",
        "node_args",
        "cwd",
        "env",
        "instances",
        "exec_mode",
        "autorestart",
        "exp_backoff_restart_delay",
        "restart_delay",
        "min_uptime",
        "max_restarts",
        "kill_timeout",
        "max_memory_restart",
        "cron_restart",
        "stop_exit_codes",
        "uid",
        "user",
        "gid",
        "merge_logs",
        "combine_logs",
    ];
    for (key, value) in app.iter().filter(|(key, _)| !CARRIED.contains(&key.as_str())) {
        if matches!(value, Value::Bool(false) | Value::Null) {
            continue;
        }
        let why = match key.as_str() {
            "watch" | "ignore_watch" => ": restart by kissops restart",
            "wait_ready" | "listen_timeout" => {
                ": use ready = { notify = true } or { http = \"…\" }"
            }
            "error_file" | "out_file" | "log_file" | "output" | "error" | "log_date_format" => {
                ": output is in log_dir (kissops logs)"
            }
            env if env.starts_with("env_") => ": write [profile.NAME.instance.…] env = { … }",
            _ => "",
        };
        findings.lost.push(format!("{key} of {name}{why}"));
    }
}
