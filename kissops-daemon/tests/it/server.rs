//! A fleet whose state is in Postgres: one daemon per database, and a server that goes away (STO-4).

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    harness::{Site, until},
    postgres::PrivateServer,
};

const CONFIG: &str = "[daemon]\nstate_dir = \"state\"\nruntime_dir = \"run\"\nlog_dir = \"logs\"\n[store]\nurl = { env = \"BOTS\" }\n[instance.bot]\ncommand = [\"sleep\", \"1000\"]\n[instance.other]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n";

fn site(server: &PrivateServer) -> Site {
    let mut site = Site::new(CONFIG);
    site.env("BOTS", &server.url());
    site
}

/// Desired states, runs and events come back from the server after a kill; the dead daemon's lease is no obstacle.
#[test]
fn sto_4_a_fleet_on_a_server_survives_its_daemon() {
    let Some(server) = PrivateServer::start() else { return };
    let mut site = site(&server);
    site.start();
    site.until_ready("bot");
    site.act("start", "other");
    site.until_ready("other");
    let pids = (site.bot("bot"), site.bot("other"));
    site.kill();
    assert!(site.start() < Duration::from_secs(20), "the lease of the dead daemon was waited for");
    site.until_ready("other");
    assert_eq!((site.bot("bot"), site.bot("other")), pids);
    site.stop("other");
    assert!(site.end(Signal::TERM).success());
    site.start();
    site.until_ready("bot");
    assert_eq!(site.status("other")["state"], "stopped");
}

/// A second host is refused, by name of the reason, and gets the database at once when the first has ended properly.
#[test]
fn sto_4_a_second_host_on_one_database_is_refused() {
    let Some(server) = PrivateServer::start() else { return };
    let mut first = site(&server);
    first.start();
    first.until_ready("bot");
    let second = site(&server);
    let output = second.command().output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("another host") && text.contains("state_dir"), "{text}");
    assert!(first.end(Signal::TERM).success());
    let mut second = second;
    second.start();
    second.until_ready("bot");
}

/// While the server is away the bots run on and can be stopped; what happened is stored when it is back.
#[test]
fn sto_4_a_server_that_goes_away_stops_no_bot() {
    let Some(mut server) = PrivateServer::start() else { return };
    let mut site = site(&server);
    site.start();
    site.until_ready("bot");
    let bot = site.bot("bot");
    server.kill_9();
    crate::harness::signal(bot, Signal::KILL);
    until("the bot was started again", || {
        site.status("bot")["pid"].as_i64().is_some_and(|pid| pid != i64::from(bot))
    });
    server.restart();
    site.until_crash("bot", |crash| {
        crash["reason"].as_str().is_some_and(|why| why.contains("KILL"))
    });
}

/// A copy of a state directory, as a cloned machine has it, takes over; the original's bots are stopped, not doubled.
#[test]
fn sto_4_a_copied_state_directory_does_not_double_the_fleet() {
    let Some(server) = PrivateServer::start() else { return };
    let mut first = site(&server);
    first.start();
    first.until_ready("bot");
    let bot = first.bot("bot");
    let mut second = site(&server);
    std::fs::create_dir(second.path("state")).unwrap();
    std::fs::copy(first.path("state/tenure"), second.path("state/tenure")).unwrap();
    second.start();
    second.until_ready("bot");
    let daemon = first.pid();
    until("the first daemon has ended", || !crate::harness::is_alive(daemon));
    assert!(!crate::harness::is_alive(bot), "{}", first.log());
    second.until_ready("bot");
}
