//! The configuration: what is accepted, what is refused and in which words.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kissops_core::{
    Timestamp,
    config::{self, Config, ConfigErrors, Environment},
    id::InstanceName,
    store::{MemberRecord, StoreUrl},
    supervisor::{LiveCheck, ReadyCheck, RestartPolicy},
};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config")
}

fn none() -> Environment {
    Environment::default()
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    config::parse(Path::new("/srv/fleet/kissops.toml"), text, &none())
}

fn user_folder() -> String {
    format!("/run/user/{}/fleet", rustix::process::getuid().as_raw())
}

fn name(text: &str) -> InstanceName {
    InstanceName::new(text).unwrap()
}

fn record(full: &str, vars: &[(&str, &str)]) -> MemberRecord {
    let vars = vars.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    MemberRecord { name: name(full), vars: vars.collect(), added_at: Timestamp(0) }
}

#[test]
fn the_example_is_accepted_and_says_what_has_no_effect() {
    let config = config::load(&data().join("example.toml"), &none()).unwrap();
    let names: Vec<&str> = config.instances.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["bot", "twitch@el_serda", "web"]);
    assert_eq!(config.daemon.name, "kissbot");
    assert_eq!(config.daemon.start_jitter, Duration::from_secs(2));
    assert_eq!(config.store.url, StoreUrl::Sqlite("/var/lib/kissbot/kissops.db".into()));
    let twitch = &config.instances[1];
    assert_eq!(twitch.command, ["python3", "main.py", "--channel", "el_serda"]);
    assert_eq!(twitch.ready.as_ref().unwrap().check, ReadyCheck::Notify);
    let bot = &config.instances[0];
    assert_eq!(bot.requires, [name("web")]);
    assert_eq!(bot.restart.restart_exit_codes, [75]);
    assert!(
        matches!(&bot.live[0].check, LiveCheck::Heartbeat { max_age, path } if max_age.as_secs() == 90 && path.is_absolute())
    );
    let warnings: Vec<&str> = config.warnings.iter().map(|one| one.message.as_str()).collect();
    assert!(
        warnings
            .contains(&"[backup.nightly] is not supported by this version yet and has no effect"),
        "{warnings:?}"
    );
    assert_eq!(twitch.tokens, ["twitch/el_serda".parse().unwrap()]);
}

/// Beside each file stands what is said of it, one `line:column key | message | help` line for each error.
#[test]
fn each_bad_file_is_refused_by_name() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(data().join("bad")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let want = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        let want: Vec<&str> = want.lines().collect();
        let got: Vec<String> = match parse(&text) {
            Ok(config) => vec![format!("accepted: {:?}", config.instances)],
            Err(errors) => {
                assert!(errors.render().contains(&errors.errors()[0].message));
                let line = |e: &config::ConfigError| {
                    // Whoever runs the tests has a run time folder of his own.
                    let help = e.help.replace(&user_folder(), "/run/fleet");
                    format!("{}:{} {} | {} | {help}", e.line, e.column, e.key, e.message)
                };
                errors.errors().iter().map(line).collect()
            }
        };
        count += 1;
        if want != got {
            wrong.push(format!("{}\n    {}", path.display(), got.join("\n    ")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(count >= 40, "{count} bad files");
}

#[test]
fn no_mutation_of_the_example_panics() {
    let text = fs::read(data().join("example.toml")).unwrap();
    let check = |bytes: &[u8]| {
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Err(errors) = parse(text)
        {
            assert!(!errors.errors().is_empty() && !errors.render().is_empty());
        }
    };
    for end in 0..=text.len() {
        check(&text[..end]);
    }
    for (at, flip) in
        (0..text.len()).zip([0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40].into_iter().cycle())
    {
        let mut bytes = text.clone();
        bytes[at] ^= flip;
        check(&bytes);
    }
}

#[test]
fn defaults_reach_instances_table_by_table() {
    let config = parse(
        "[defaults]\nrestart = \"on-failure\"\nbackoff = { base = \"2s\", cap = \"1m\" }\nenv = { A = \"1\", B = \"1\" }\n\
         ready = { delay = \"1s\" }\nstart_limit = false\n\
         [instance.bot]\ncommand = [\"x\"]\nbackoff = { cap = \"9s\" }\nenv = { B = \"2\" }\nready = { notify = true }\n\
         [instance.db]\nkind = \"oneshot\"\ncommand = [\"y\"]\n",
    )
    .unwrap();
    let bot = &config.instances[0];
    assert_eq!((bot.backoff.base().as_secs(), bot.backoff.cap().as_secs()), (2, 9));
    assert_eq!(bot.env.len(), 2);
    assert_eq!(bot.ready.as_ref().unwrap().check, ReadyCheck::Notify);
    assert_eq!(bot.start_limit, None);
    assert_eq!(bot.restart.policy, RestartPolicy::OnFailure);
    assert_eq!(bot.cwd, Path::new("/srv/fleet"));
    assert_eq!(config.instances[1].restart.policy, RestartPolicy::Never);
}

#[test]
fn every_key_beyond_the_example_is_read() {
    let config = config::load(&data().join("good/everything.toml"), &none()).unwrap();
    let shown = serde_json::to_value(&config.instances[0]).unwrap();
    let want: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(data().join("good/everything.json")).unwrap())
            .unwrap();
    assert_eq!(shown, want, "{shown:#}");
    let warned: Vec<&str> = config.warnings.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(warned, ["instance.all.token_env"]);
}

#[test]
fn members_come_from_the_file_and_from_run_time() {
    let config = parse(
        "[template.chat]\ncommand = [\"bot\", \"{name}\", \"{vars.port}\", \"{{x}}\"]\nvars = { port = 80 }\n\
         instances = [\"a\", { name = \"b\", vars = { port = \"81\" } }]\n\
         [instance.watch]\ncommand = [\"x\"]\nrequires = [\"chat@*\"]\nafter = [\"chat\", \"chat@late\"]\n",
    )
    .unwrap();
    assert_eq!(config.instances[1].command, ["bot", "b", "81", "{x}"]);
    assert_eq!(config.warnings.len(), 1, "chat@late may be added later");
    assert!(config.definitions(&[]).unwrap_err().to_string().contains("chat@late"));
    let added =
        [record("chat@late", &[("port", "99")]), record("chat@a", &[]), record("gone@x", &[])];
    let fleet = config.definitions(&added).unwrap();
    let names: Vec<&str> = fleet.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["chat@a", "chat@b", "chat@late", "watch"]);
    assert_eq!(fleet[2].command[2], "99");
    assert_eq!(fleet[3].requires, [name("chat@a"), name("chat@b"), name("chat@late")]);
    assert_eq!(config.orphans(&added), [name("gone@x")]);
    let template = config.template("chat").unwrap();
    let wrong = BTreeMap::from([("prot".to_owned(), "1".to_owned())]);
    let err = template.member(&name("chat@z"), &wrong).unwrap_err();
    assert_eq!(err.errors()[0].help, "did you mean `port`?");
    assert!(template.member(&name("other@z"), &BTreeMap::new()).is_err());
}

#[test]
fn layers_override_each_other_and_say_where_values_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kissops.toml");
    let text = "\u{feff}[daemon]\r\nname = \"one\"\r\nstart_concurrency = 5\r\nlog_dir = \"out\"\r\n\
                [instance.bot]\r\ncommand = [\"x\"]\r\nenv = { TOKEN = { env = \"BOT_TOKEN\" }, MODE = \"live\" }\r\n\
                [profile.staging.daemon]\r\nname = \"two\"\r\n[profile.staging.instance.bot]\r\nenv = { MODE = \"test\" }\r\n";
    fs::write(&file, text).unwrap();
    let dotenv = folder.path().join(".env");
    fs::write(
        &dotenv,
        "# x\nBOT_TOKEN=hunter2\nKISSOPS_DAEMON_LOG_DIR=/var/log/x\nKISSOPS_PROFILE=staging\n",
    )
    .unwrap();
    fs::set_permissions(&dotenv, fs::Permissions::from_mode(0o600)).unwrap();
    let environment: Environment =
        [("KISSOPS_DAEMON_START_CONCURRENCY", "7"), ("KISSOPS_DAEMON_STATEDIR", "/x")]
            .into_iter()
            .collect();
    let config = config::load(&file, &environment).unwrap();
    assert_eq!(config.profile.as_deref(), Some("staging"));
    assert_eq!((config.daemon.name.as_str(), config.daemon.start_concurrency), ("two", 7));
    assert_eq!(config.daemon.log_dir, Path::new("/var/log/x"));
    assert_eq!(config.daemon.runtime_dir, folder.path().join(".kissops/run"));
    assert!(config.warnings.iter().any(|one| one.help == "did you mean KISSOPS_DAEMON_STATE_DIR?"));
    assert_eq!(config.secrets.len(), 2, "from .env and by the reference");
    let from = |key: &str| {
        let row = config.origins().into_iter().find(|row| row.key == key);
        row.map(|row| format!("{} | {}", row.value, row.from)).unwrap_or_default()
    };
    assert_eq!(from("daemon.name"), "\"two\" | profile.staging (kissops.toml:9)");
    assert_eq!(from("daemon.log_dir"), "\"/var/log/x\" | .env:3");
    assert_eq!(from("daemon.start_concurrency"), "7 | environment");
    assert_eq!(from("daemon.start_jitter"), "\"0s\" | default");
    assert_eq!(from("instance.bot.env.TOKEN"), "*** (env BOT_TOKEN) | kissops.toml:7");
    assert_eq!(from("instance.bot.env.MODE"), "\"test\" | profile.staging (kissops.toml:11)");
    assert_eq!(from("instance.bot.stop.grace"), "\"30s\" | default");
    assert!(!format!("{config:?}").contains("hunter2"));

    fs::set_permissions(&dotenv, fs::Permissions::from_mode(0o640)).unwrap();
    let err = config::load(&file, &environment).unwrap_err();
    assert!(err.errors()[0].help.starts_with("chmod 600 "), "{err}");
    fs::remove_file(&dotenv).unwrap();
    let profile: Environment = [("KISSOPS_PROFILE", "stagin")].into_iter().collect();
    let err = config::load(&file, &profile).unwrap_err();
    assert_eq!(err.errors()[0].help, "did you mean `staging`?");
}

#[test]
fn what_is_no_file_of_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.toml");
    let message = || config::load(&path, &none()).unwrap_err().errors()[0].message.clone();
    assert_eq!(message(), "there is no such file");
    assert!(config::find(Some(&path)).unwrap_err().render().contains("kissops init"));
    fs::create_dir(&path).unwrap();
    assert_eq!(message(), "is a folder, not a file");
    fs::remove_dir(&path).unwrap();
    fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert_eq!(message(), "is not UTF-8 text (line 2)");
    fs::write(&path, vec![b'#'; (4 << 20) + 1]).unwrap();
    assert_eq!(message(), "is larger than 4 MiB");
    fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    assert_eq!(message(), "is not a regular file");
}

#[test]
fn an_error_is_shown_with_its_line_and_without_secrets() {
    let text =
        "[instance.bot]\ncommand = [\"x\"]\nrestrat = \"always\"\nenv = { API_TOKEN = 31337 }\n";
    let errors = parse(text).unwrap_err();
    let shown = errors.render();
    let want = "error: instance.bot.restrat: is not a known key\n --> /srv/fleet/kissops.toml:3:1\n  |\n\
                3 | restrat = \"always\"\n  | ^\n  = help: did you mean `restart`?\n";
    assert!(shown.starts_with(want), "{shown}");
    assert!(shown.contains("4 | env = { API_TOKEN = ***") && !shown.contains("31337"), "{shown}");
    let json = serde_json::to_value(&errors).unwrap();
    assert_eq!(json[0]["line"], 3);
    assert_eq!(json[0]["help"], "did you mean `restart`?");
}

#[test]
fn who_requires_what_is_wrong_is_not_to_blame() {
    let text =
        "[instance.a]\ncommand = [\"a\"]\nrequires = [\"b\"]\n[instance.b]\ncommand = \"b\"\n";
    let errors = parse(text).unwrap_err();
    let keys: Vec<&str> = errors.errors().iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["instance.b.command"]);
}

#[test]
fn an_address_that_nothing_serves_is_named() {
    let config =
        parse("[daemon]\nlisten = \"127.0.0.1:7788\"\n[instance.a]\ncommand = [\"a\"]\n").unwrap();
    let warning = &config.warnings[0];
    assert_eq!((warning.key.as_str(), warning.line), ("daemon.listen", 2));
    assert!(warning.message.contains("no effect"), "{}", warning.message);
}

#[test]
fn a_thousand_members_are_checked_in_moments() {
    let members: Vec<String> = (0..1_000).map(|n| format!("\"c{n}\"")).collect();
    let text = format!(
        "[instance.web]\ncommand = [\"x\"]\n[template.chat]\ncommand = [\"b\", \"{{name}}\"]\nrequires = [\"web\"]\ninstances = [{}]\n",
        members.join(", ")
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.instances.len(), 1_001);
    // A chain as long as this must not overflow the stack.
    let mut chain = "[instance.i5000]\ncommand = [\"x\"]\n".to_owned();
    for n in 0..5_000 {
        let next = format!("after = [\"i{}\"]\n", n + 1);
        chain.extend([format!("[instance.i{n}]\ncommand = [\"x\"]\n"), next]);
    }
    assert_eq!(parse(&chain).unwrap().instances.len(), 5_001);
}

#[test]
fn secrets_are_taken_only_from_files_that_nobody_else_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    assert_eq!(config::read_env_file(&write("a", "LANG=C\n", 0o644)).unwrap().len(), 1);
    let open = write("b", "LANG=C\nDISCORD_TOKEN=hunter2\n", 0o640);
    let err = config::read_env_file(&open).unwrap_err().to_string();
    assert!(err.contains("holds DISCORD_TOKEN") && err.contains("(mode 640)"), "{err}");
    assert!(err.ends_with(&format!("chmod 600 {}", open.display())), "{err}");
    let err = config::read_env_file(&write("c", "A=1\nhunter2\n", 0o600)).unwrap_err().to_string();
    assert!(err.contains("/c:2 ") && !err.contains("hunter2"), "{err}");

    write("key", "hunter2\r\n", 0o600);
    let text = "[instance.bot]\ncommand = [\"x\"]\nenv = { KEY = { file = \"key\" }, OTHER = { file = \"gone\" } }\n";
    let path = folder.path().join("kissops.toml");
    let config = config::parse(&path, text, &none()).unwrap();
    assert_eq!(config.secrets.len(), 1);
    assert_eq!(config.warnings.len(), 1, "each start looks for `gone` again");
    let shown = serde_json::to_string(&config.instances).unwrap();
    assert!(shown.contains("*** (file ") && !shown.contains("hunter2"), "{shown}");
    write("key", "hunter2", 0o644);
    let config = config::parse(&path, text, &none()).unwrap();
    assert!(config.warnings.iter().any(|one| one.message.contains("chmod 600")));
}

/// STO-4: a server may be named; its password is a secret of the fleet, and has no place in the file.
#[test]
fn a_store_on_a_server_keeps_its_password_to_itself() {
    let file = "[store]\nurl = \"postgres://kissops:hunter2@db.example.org/bots\"\nconnections = 4\nmmap = \"64MiB\"\n[instance.bot]\ncommand = [\"true\"]\n";
    let config = config::parse(Path::new("/etc/kissops.toml"), file, &none()).unwrap();
    assert_eq!(config.store.url.to_string(), "postgres://kissops@db.example.org/bots");
    assert_eq!(config.store.connections, 4);
    assert!(config.warnings.iter().any(|one| one.message.contains("password")));
    assert!(!format!("{:?}", config.store).contains("hunter2"));

    let learned = config
        .secrets
        .iter()
        .any(|secret| secrecy::ExposeSecret::expose_secret(secret) == "hunter2");
    assert!(learned);
    let file = file.replace(":hunter2", "");
    let config = config::parse(Path::new("/etc/kissops.toml"), &file, &none()).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}
