//! The bots of `examples/tokens`, as they are, through all that may happen to their tokens.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Stage, built, nothing_was_presented_twice, repository};
use crate::harness::until;

/// The bots that can run here: instance, account, and its section of the configuration.
fn bots() -> Vec<(&'static str, &'static str, String)> {
    let node = Command::new("node").arg("--version").stdout(Stdio::null()).status();
    let has_node = node.is_ok_and(|status| status.success());
    if !has_node {
        eprintln!("without the bot in JavaScript: there is no node");
    }
    let file = |name: &str| repository("examples/tokens").join(name).display().to_string();
    let rust = built("examples/token_bot").map(|path| vec![path.display().to_string()]);
    let all = [
        ("python", "ann", Some(vec!["python3".to_owned(), file("bot.py")])),
        ("node", "bob", has_node.then(|| vec!["node".to_owned(), file("bot.mjs")])),
        ("rust", "cleo", rust),
    ];
    let section = |(name, account, command): (&'static str, &'static str, Option<Vec<String>>)| {
        let mut command = command?;
        command.push(account.to_owned());
        let section = format!(
            "[instance.{name}]\ncommand = {command:?}\ntokens = [\"mock/{account}\"]\n\
             ready = {{ notify = true, within = \"30s\" }}\nstop = {{ grace = \"5s\" }}\n\
             env = {{ API = \"{{mock}}/helix/users\" }}\n"
        );
        Some((name, account, section))
    };
    all.into_iter().filter_map(section).collect()
}

/// What must not change while the daemon comes and goes.
fn life(status: &Value) -> (i64, u64) {
    (status["pid"].as_i64().unwrap(), status["restarts"].as_u64().unwrap())
}

/// VLT-11: in Python, JavaScript and Rust, over a refresh, a refusal, a killed daemon, and a withdrawn permission.
#[test]
fn bots_in_three_languages_go_on_whatever_happens_to_their_tokens() {
    let bots = bots();
    let sections: String = bots.iter().map(|(_, _, section)| section.as_str()).collect();
    let mut stage = Stage::new(&sections);
    stage.site.start();
    for (name, account, _) in &bots {
        let waiting = stage.site.until_state(name, "needs_reauth");
        assert!(waiting.to_string().contains(account), "it says for whom it waits: {waiting}");
    }
    let accounts: Vec<&str> = bots.iter().map(|(_, account, _)| *account).collect();
    stage.import(&stage.accounts(&accounts));
    let hello = |stage: &Stage, generation: u64| {
        for (name, account, _) in &bots {
            let line = format!("hello from {account}, generation {generation}");
            stage.site.until_line(name, &line);
        }
    };
    hello(&stage, 1);
    for account in &accounts {
        stage.refresh(account);
    }
    hello(&stage, 2);
    for (name, account, _) in &bots {
        assert!(stage.mock.expire(account).unwrap() > 0);
        stage.site.until_line(name, "generation 2 was refused");
    }
    hello(&stage, 3);

    let before: Vec<Value> = bots.iter().map(|(name, ..)| stage.site.until_ready(name)).collect();
    stage.site.kill();
    let asked = stage.mock.totals().requests["api"];
    // Some rounds of each: they are not held up by a daemon that is not there.
    let rounds = asked + 3 * u32::try_from(bots.len()).unwrap();
    until("the bots go on", || stage.mock.totals().requests["api"] >= rounds);
    stage.site.start();
    let after: Vec<Value> = bots.iter().map(|(name, ..)| stage.site.until_ready(name)).collect();
    let lives = |all: &[Value]| all.iter().map(life).collect::<Vec<_>>();
    assert_eq!(lives(&before), lives(&after), "they were taken over as they were");
    for account in &accounts {
        stage.refresh(account);
    }
    hello(&stage, 4);
    nothing_was_presented_twice(&stage.mock);

    let (name, account, _) = &bots[0];
    assert_eq!(stage.mock.disconnect(account).unwrap(), 1);
    stage.site.until_state(name, "needs_reauth");
    let told = stage.site.until_event("", "token.needs_reauth");
    let code = told.split(" and enter ").nth(1).and_then(|rest| rest.split(' ').next());
    let code = code.unwrap_or_else(|| panic!("no code in {told}"));
    assert!(told.contains(&format!("as {account}, open {}", stage.mock.url(""))), "{told}");
    assert!(told.ends_with(&format!("kissops token authorize mock {account}")), "{told}");
    assert!(stage.mock.approve_device(code, account), "{told}");
    let back = stage.site.until_ready(name);
    assert_ne!(life(&back).0, life(&after[0]).0, "stopped, and started again by itself");
    stage.token_is_live(account);
    for (other, status) in bots.iter().zip(&after).skip(1) {
        assert_eq!(life(&stage.site.status(other.0)), life(status), "nobody else noticed");
    }
    nothing_was_presented_twice(&stage.mock);
}
