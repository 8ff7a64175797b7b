//! What an impatient operator, a cleaned `/run`, a full disk and low limits do to a running fleet (SUP-17, SUP-19, CTL-1).

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, process::Command};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Site, is_alive, is_root, signal, until};

/// From here on the daemon starts with a limit of open files: `"-Sn 64"` is the soft one alone.
fn limit(site: &mut Site, limit: &str) {
    let daemon = env!("CARGO_BIN_EXE_kissopsd");
    site.write("limited", &format!("#!/bin/sh\nulimit {limit}\nexec {daemon} \"$@\"\n"));
    fs::set_permissions(site.path("limited"), fs::Permissions::from_mode(0o755)).unwrap();
    site.program = site.path("limited");
}

fn sleepers(count: usize) -> String {
    let mut config = String::new();
    for number in 0..count {
        writeln!(config, "[instance.b{number}]\ncommand = [\"sleep\", \"1000\"]").unwrap();
    }
    config
}

/// SUP-19: whoever asks twice does not want to wait; what is left running then is no success, and it is not lost.
#[test]
fn sup_19_a_second_signal_leaves_the_bots_and_says_so() {
    let mut site = Site::started(
        "[instance.bot]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; while :; do sleep 1000; done\"]\nstop = { grace = \"50s\" }\n",
    );
    site.until_ready("bot");
    let bot = site.bot("bot");
    signal(site.pid(), Signal::TERM);
    until("it stops", || site.log().contains("to=stopping"));
    let ended = site.end(Signal::TERM);
    assert_eq!(ended.code(), Some(1), "{}", site.log());
    assert!(site.log().contains("(bot)"), "{}", site.log());
    assert!(is_alive(bot));
    site.start();
    assert_eq!(site.bot("bot"), bot);
}

/// The soft limit of open files is for the bots; the daemon and its keeper take what they may have.
#[test]
fn sup_13_a_low_soft_limit_is_no_limit_for_the_fleet() {
    let mut site = Site::new(&format!(
        "{}[instance.told]\ncommand = [\"sh\", \"-c\", \"ulimit -Sn; exec sleep 1000\"]\n",
        sleepers(60)
    ));
    limit(&mut site, "-Sn 64");
    site.start();
    site.until_all_ready();
    site.until_line("told", "64");
}

/// CTL-1: a daemon whose sockets were removed is to be reached again, and its bots can speak to it.
#[test]
fn ctl_1_a_cleaned_runtime_folder_is_made_again() {
    let site = Site::started(
        "[instance.bot]\ncommand = [\"sleep\", \"1000\"]\nlive = { watchdog = \"1h\" }\nbackoff = { base = \"1ms\", cap = \"1ms\" }\n",
    );
    site.until_ready("bot");
    let bot = site.bot("bot");
    fs::remove_dir_all(site.path("run")).unwrap();
    signal(bot, Signal::KILL);
    until("the daemon is reached again", || site.try_ask("GET", "/livez", None).is_some());
    site.until("bot", |status| {
        status["state"] == "running" && status["pid"].as_i64() != Some(i64::from(bot))
    });
    assert_eq!(site.status("bot")["restarts"], 1);
}

/// SUP-24: the bot that fills the disk can be stopped while it is full, and stays down.
#[test]
fn sup_24_a_stop_needs_no_room() {
    let mut site = Site::new(
        "[instance.bot]\ncommand = [\"sleep\", \"1000\"]\n[daemon]\nstate_dir = \"small\"\nruntime_dir = \"run\"\nlog_dir = \"logs\"\n",
    );
    let small = site.path("small");
    fs::create_dir(&small).unwrap();
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&small).status();
    if !is_root() || !mount.is_ok_and(|status| status.success()) {
        eprintln!("cannot mount a small tmpfs: not tested");
        return;
    }
    let unmount = Mounted(small.clone());
    site.start();
    site.until_ready("bot");
    let bot = site.bot("bot");
    // Until not a byte fits.
    let _ = fs::write(small.join("filler"), vec![0; 2 << 20]);
    let body = json!({ "action": "stop", "targets": ["bot"], "wait": true });
    let (_, answer) = site.ask("POST", "/v1/instances/actions", Some(&body));
    let message = answer["results"][0]["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("is stopping, but") && message.contains("full"), "{answer}");
    until("the bot is gone", || !is_alive(bot));
    site.until_state("bot", "stopped");
    fs::remove_file(small.join("filler")).unwrap();
    until("the wish is stored", || site.act("stop", "bot")["ok"] == true);
    site.kill();
    site.start();
    assert_eq!(site.status("bot")["state"], "stopped");
    site.end(Signal::TERM);
    drop(unmount);
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
