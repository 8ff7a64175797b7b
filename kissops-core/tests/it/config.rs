//! The configuration: what is accepted, what is refused and in which words.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kissops_core::{
    Timestamp,
    config::{self, Config, ConfigErrors, Environment, StoreUrl},
    id::InstanceName,
    store::MemberRecord,
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
    assert!(config.warnings.iter().any(|one| one.key == "template.twitch.tokens" && one.line > 0));
}

/// Each file begins with `#! line:column key | message | help` lines, all of its errors in order.
#[test]
fn each_bad_file_is_refused_by_name() {
    let mut count = 0;
    let mut wrong = String::new();
    for entry in fs::read_dir(data().join("bad")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let want: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
        let got: Vec<String> = match parse(&text) {
            Ok(config) => vec![format!("accepted: {:?}", config.instances)],
            Err(errors) => {
                assert!(errors.render().contains(&errors.errors()[0].message));
                let line = |e: &config::ConfigError| {
                    format!("{}:{} {} | {} | {}", e.line, e.column, e.key, e.message, e.help)
                };
                errors.errors().iter().map(line).collect()
            }
        };
        count += 1;
        if want != got {
            wrong.push_str(&format!("{}\n", path.display()));
            got.iter().for_each(|line| wrong.push_str(&format!("#! {line}\n")));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(count >= 40, "{count} bad files");
}
