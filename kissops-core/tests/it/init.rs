//! What is proposed for folders as people have them; each proposal is a configuration that loads.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use kissops_core::{
    config::{self, Config, Environment},
    init::{self, Proposal},
    supervisor::{Definition, EnvValue, Kind, RestartPolicy, Signal},
};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::Builder::new().prefix("fleet").tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Writes the proposal as the command does and loads it.
fn apply(folder: &Path) -> (Proposal, Config) {
    let proposal = init::propose(folder).unwrap();
    for (path, text, mode) in &proposal.files {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
    }
    let path = folder.join("kissops.toml");
    fs::write(&path, &proposal.toml).unwrap();
    let config = config::load(&path, &Environment::default());
    let config = config.unwrap_or_else(|errors| panic!("{}\n{}", errors.render(), proposal.toml));
    (proposal, config)
}

fn only(config: &Config) -> &Definition {
    assert_eq!(config.instances.len(), 1);
    &config.instances[0]
}

#[test]
fn a_python_bot_runs_in_its_own_environment() {
    let dir = folder(&[
        ("bot.py", ""),
        ("requirements.txt", ""),
        (".venv/bin/python", ""),
        (".env", "LOG_LEVEL=1\n"),
    ]);
    let (proposal, config) = apply(dir.path());
    let bot = only(&config);
    assert_eq!(bot.command, [".venv/bin/python", "bot.py"]);
    assert_eq!(bot.env_file, [dir.path().join(".env")]);
    assert_eq!(bot.env["PYTHONUNBUFFERED"], EnvValue::Plain("1".into()));
    assert!(proposal.to_do.is_empty() && proposal.files.is_empty());

    let dir = folder(&[("chatbot/__main__.py", ""), ("pyproject.toml", "")]);
    assert_eq!(only(&apply(dir.path()).1).command, ["python3", "-m", "chatbot"]);
}

#[test]
fn an_env_file_that_others_can_read_is_named_with_its_chmod() {
    let dir = folder(&[("main.py", ""), (".env", "DISCORD_TOKEN=hunter2\n")]);
    fs::set_permissions(dir.path().join(".env"), fs::Permissions::from_mode(0o644)).unwrap();
    let proposal = init::propose(dir.path()).unwrap();
    assert_eq!(proposal.to_do, [format!("chmod 600 {}", dir.path().join(".env").display())]);
    assert!(!proposal.toml.contains("hunter2"));
}

#[test]
fn node_rust_and_go_programs_are_recognised() {
    let dir =
        folder(&[("package.json", r#"{"scripts":{"start":"node --enable-source-maps bot.js"}}"#)]);
    assert_eq!(only(&apply(dir.path()).1).command, ["node", "--enable-source-maps", "bot.js"]);
    let dir = folder(&[("package.json", r#"{"scripts":{"start":"tsc && node ."}}"#)]);
    assert_eq!(only(&apply(dir.path()).1).command, ["npm", "run", "--silent", "start"]);
    let dir = folder(&[("package.json", r#"{"main":"src/x.js"}"#), ("src/x.js", "")]);
    assert_eq!(only(&apply(dir.path()).1).command, ["node", "src/x.js"]);
    let dir = folder(&[("Cargo.toml", "[package]\nname = \"chat-bot\"\n")]);
    let (_, config) = apply(dir.path());
    assert_eq!(only(&config).command, ["cargo", "run", "--release"]);
    assert_eq!(only(&config).name.as_str(), "chat-bot");
    let dir = folder(&[("go.mod", "module example.org/x/gobot\n\ngo 1.24\n"), ("gobot", "")]);
    assert_eq!(only(&apply(dir.path()).1).command, ["./gobot"]);
}

#[test]
fn a_procfile_keeps_its_shell_only_where_it_needs_one() {
    let text = "# fleet\nweb: gunicorn app:app -b 0.0.0.0:$PORT\nworker: API_TOKEN=hunter2 python worker.py 'two words'\n\
                pipe: ./a | ./b\nrelease: ./migrate\nbroken\n";
    let dir = folder(&[("Procfile", text)]);
    let (proposal, config) = apply(dir.path());
    let get = |name: &str| config.instances.iter().find(|one| one.name.as_str() == name).unwrap();
    assert_eq!(get("web").command, ["sh", "-c", "exec gunicorn app:app -b 0.0.0.0:$PORT"]);
    assert_eq!(get("worker").command, ["python", "worker.py", "two words"]);
    assert_eq!(get("pipe").command, ["sh", "-c", "./a | ./b"]);
    assert_eq!(get("release").kind, Kind::Oneshot);
    assert_eq!(proposal.not_carried_over.len(), 1);
    assert!(!proposal.toml.contains("hunter2"));
    let (path, text, mode) = &proposal.files[0];
    assert!(
        path.ends_with("kissops.env") && text.contains("API_TOKEN=\"hunter2\"") && *mode == 0o600
    );
    assert!(!format!("{proposal:?}").contains("hunter2"));
}

const PM2: &str = r#"{"apps": [
  {"name": "chat bot", "script": "bot.js", "args": "--channel x", "node_args": "--max-old-space-size=200",
   "env": {"NODE_ENV": "production", "TWITCH_TOKEN": "hunter\"2\\", "PORT": 8000},
   "max_memory_restart": "300M", "cron_restart": "0 4 * * *", "kill_timeout": 5000, "max_restarts": 10,
   "exp_backoff_restart_delay": 100, "min_uptime": "60s", "watch": true, "out_file": "x.log"},
  {"script": "worker.py", "instances": 3, "autorestart": false, "cwd": "jobs"}]}"#;

#[test]
fn a_pm2_file_becomes_instances_and_templates() {
    let dir = folder(&[("ecosystem.json", PM2)]);
    let (proposal, config) = apply(dir.path());
    let names: Vec<&str> = config.instances.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["chat-bot", "worker@0", "worker@1", "worker@2"]);
    let bot = &config.instances[0];
    assert_eq!(bot.command, ["node", "--max-old-space-size=200", "bot.js", "--channel", "x"]);
    assert_eq!(bot.env["PORT"], EnvValue::Plain("8000".into()));
    assert_eq!(bot.limits.max_rss.unwrap().0, 300 << 20);
    assert_eq!(bot.stop.signal, Signal::INT);
    assert_eq!(bot.backoff.base().as_millis(), 100);
    assert_eq!(bot.restart_schedule.as_deref(), Some("0 4 * * *"));
    assert_eq!(config.instances[3].env["NODE_APP_INSTANCE"], EnvValue::Plain("2".into()));
    assert_eq!(config.instances[3].restart.policy, RestartPolicy::Never);
    assert!(config.instances[3].cwd.ends_with("jobs"));
    let lost: Vec<&str> =
        proposal.not_carried_over.iter().map(|lost| lost.split(' ').next().unwrap()).collect();
    assert_eq!(lost, ["out_file", "watch"]);
    assert!(!proposal.toml.contains("hunter"));
    let secrets = config::read_env_file(&bot.env_file[0]).unwrap();
    assert_eq!(secrets, [("TWITCH_TOKEN".to_owned(), "hunter\"2\\".to_owned())]);
}

#[test]
fn a_pm2_file_in_javascript_is_run_or_named() {
    let script = "module.exports = { apps: [{ name: 'b' + 1, script: './bot.sh' }] };";
    let dir = folder(&[("ecosystem.config.js", script), ("main.py", "")]);
    let (proposal, config) = apply(dir.path());
    if proposal.found[0].starts_with("`ecosystem") {
        assert_eq!(only(&config).name.as_str(), "b1");
        assert_eq!(only(&config).command, ["bash", "./bot.sh"]);
    } else {
        // A machine without node.
        assert!(proposal.not_carried_over[0].contains("node"), "{proposal:?}");
    }
}

const SUPERVISORD: &str = r#"
[supervisord]
nodaemon=true

[program:web]
command=%(here)s/run --port 8000 "two words" ; a comment
directory=/opt/web
user=nobody
autorestart=true
startsecs=5
stopsignal=INT
stopwaitsecs=20
stopasgroup=true
environment=LANG="C.UTF-8",API_KEY='hunter2',
    MODE=prod
stdout_logfile=/var/log/web.log
stdout_logfile_maxbytes=50MB
priority=10

[program:chat]
command=python bot.py --shard %(process_num)d --json {"a":1}
process_name=%(program_name)s_%(process_num)02d
numprocs=2
autostart=false
exitcodes=0,2

[group:all]
programs=web,chat
"#;

#[test]
fn supervisord_programs_become_instances_and_templates() {
    let dir = folder(&[("supervisord.conf", SUPERVISORD)]);
    let (proposal, config) = apply(dir.path());
    let names: Vec<&str> = config.instances.iter().map(|one| one.name.as_str()).collect();
    // The bot gets to see 0 and 1, as before; 00 and 01 were for people.
    assert_eq!(names, ["chat@0", "chat@1", "web"]);
    let chat = &config.instances[1];
    assert!(!chat.autostart);
    assert_eq!(chat.restart.policy, RestartPolicy::OnFailure);
    assert_eq!(chat.restart.success_exit_codes, [2]);
    let web = &config.instances[2];
    let run = format!("{}/run", dir.path().display());
    assert_eq!(web.command, [run.as_str(), "--port", "8000", "two words"]);
    assert_eq!((web.stop.signal, web.stop.grace.as_secs()), (Signal::INT, 20));
    assert_eq!(web.env["MODE"], EnvValue::Plain("prod".into()));
    assert_eq!(web.logs.rotate_size.0, 50 << 20);
    assert!(!proposal.toml.contains("hunter2"));
    assert!(proposal.not_carried_over.iter().any(|lost| lost.contains("[group:all]")));
    assert!(proposal.not_carried_over.iter().any(|lost| lost.contains("priority")));
}

#[test]
fn an_unknown_folder_says_what_was_looked_for() {
    let dir = folder(&[("notes.txt", ""), ("ecosystem.json", "{broken")]);
    let err = init::propose(dir.path()).unwrap_err().to_string();
    assert!(err.contains("main.py") && err.contains("`ecosystem.json` cannot be read"), "{err}");
    assert!(init::propose(&dir.path().join("missing")).is_err());
}

#[test]
fn odd_texts_stay_inside_their_strings() {
    let odd = "a\"b\\c\u{7}é\n[instance.evil]\n";
    let app = serde_json::json!({"apps": [{"name": odd, "script": "x", "args": [odd], "interpreter": "none",
        "env": {"A": odd}, "watch": odd}]});
    let dir = folder(&[("ecosystem.json", &app.to_string())]);
    let (_, config) = apply(dir.path());
    assert_eq!(only(&config).command, ["x", odd]);
    assert_eq!(only(&config).env["A"], EnvValue::Plain(odd.into()));
}
