//! The daemon and the keeper die; the bots and their output do not (SUP-17, SUP-18, SUP-20).

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Site, count, is_alive, large, signal, until};

/// Numbers its lines, writes some of them in pieces, says how far it is, and how many there were at its end.
const CHATTY: &str = r#"
import os, signal, sys, time
name, pause = os.environ["KISSOPS_INSTANCE"], float(sys.argv[1])
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
signal.signal(signal.SIGINT, signal.SIG_IGN)
number = 0
while not ending:
    line = b"line %d of %s end\n" % (number, name.encode())
    kind = number % 5
    if kind == 1:
        os.write(1, line[:5]); os.write(1, line[5:])
    elif kind == 2:
        os.write(1, line[:7]); time.sleep(pause); os.write(1, line[7:])
    elif kind == 3:
        for byte in line: os.write(1, bytes([byte]))
    else:
        os.write(1, line)
    number += 1
    if number % 4 == 0:
        with open(name + ".new", "w") as file: file.write(str(number))
        os.rename(name + ".new", name + ".at")
    time.sleep(pause)
with open(name + ".all", "w") as file: file.write(str(number))
"#;

fn chatty(bots: usize, pause: &str, logs: &str) -> Site {
    let members: Vec<String> = (0..bots).map(|n| format!("\"b{n}\"")).collect();
    let site = Site::new(&format!(
        "[template.t]\ncommand = [\"python3\", \"chatty.py\", \"{pause}\"]\ninstances = [{}]\nlogs = {logs}\n",
        members.join(", ")
    ));
    site.write("chatty.py", CHATTY);
    site
}

/// Waits until a bot has written so many more lines.
fn goes_on(site: &Site, name: &str, lines: i32) {
    let before = site.number(&format!("{name}.at"));
    until("the bot writes on", || {
        site.read(&format!("{name}.at")).parse().is_ok_and(|now: i32| now >= before + lines)
    });
}

/// Who each one is: name, pid, restarts, and how long it has run.
fn who(all: &[Value]) -> Vec<(String, i64, u64, f64)> {
    let one = |status: &Value| {
        (
            status["name"].as_str().unwrap().to_owned(),
            status["pid"].as_i64().unwrap_or_default(),
            status["restarts"].as_u64().unwrap(),
            status["uptime_seconds"].as_f64().unwrap_or_default(),
        )
    };
    all.iter().map(one).collect()
}

/// The same processes, with their uptime and counters.
#[track_caller]
fn same(before: &[Value], after: &[Value]) {
    let (before, after) = (who(before), who(after));
    assert_eq!(before.len(), after.len());
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((&old.0, old.1, old.2), (&new.0, new.1, new.2));
        assert!(new.3 >= old.3, "uptime: {old:?} {new:?}");
    }
}

/// Stops all and looks whether every line of each is in the log, once, in order.
#[track_caller]
fn every_line_is_there(site: &Site) -> usize {
    let all = site.all();
    let body = serde_json::json!({ "action": "stop", "all": true, "wait": true });
    let (status, answer) = site.ask("POST", "/v1/instances/actions", Some(&body));
    assert_eq!(status, 200, "{answer}");
    let mut sum = 0;
    for status in all {
        let name = status["name"].as_str().unwrap();
        let count = site.number(&format!("{name}.all"));
        let want: Vec<String> = (0..count).map(|n| format!("line {n} of {name} end")).collect();
        until("the last line is in the log", || {
            site.lines(name).last().is_some_and(|line| Some(line) == want.last())
        });
        let got = site.lines(name);
        let odd = got.iter().zip(&want).find(|(got, want)| got != want);
        assert!(got == want, "{name}: {} lines, {} written; {odd:?}", got.len(), want.len());
        sum += want.len();
    }
    sum
}

/// SUP-17: `kill -9` of the daemon with many chatty bots.
#[test]
fn sup_17_a_killed_daemon_costs_no_bot_and_no_line() {
    let bots = count(60, 200);
    let mut site =
        chatty(bots, if large() { "0.05" } else { "0.03" }, "{ rotate_size = \"100MB\" }");
    site.start();
    let before = site.until_all_ready();
    assert_eq!(before.len(), bots);
    goes_on(&site, "t@b0", 20);
    site.kill();
    goes_on(&site, "t@b0", 20);
    let begun = Instant::now();
    site.launch();
    until("all are adopted", || {
        site.try_ask("GET", "/livez", None).is_some()
            && site.all().iter().all(|status| status["ready"] == true)
    });
    let took = begun.elapsed();
    same(&before, &site.all());
    goes_on(&site, "t@b1", 8);
    let lines = every_line_is_there(&site);
    eprintln!(
        "{bots} bots re-adopted in {took:?} from the daemon's exec; {lines} lines, all there"
    );
    // The goal is one second; a debug build on a busy machine gets some more.
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// SUP-17, SUP-21: killed again and again, at any moment, while files rotate all the time.
#[test]
fn sup_21_kills_at_random_moments_while_rotating_lose_nothing() {
    let mut site = chatty(6, "0.002", "{ rotate_size = \"2KB\", keep = 100000, compress = true }");
    site.start();
    let before = site.until_all_ready();
    let mut seed = std::process::id();
    for _ in 0..20 {
        // Anywhere in the life of a daemon, its start included.
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let at = Instant::now() + Duration::from_millis(u64::from(seed >> 24));
        until("the moment", || Instant::now() >= at);
        site.kill();
        site.launch();
    }
    until("the last one answers", || site.try_ask("GET", "/livez", None).is_some());
    same(&before, &site.until_all_ready());
    goes_on(&site, "t@b0", 100);
    let lines = every_line_is_there(&site);
    let files = fs::read_dir(site.path("logs/t@b0")).unwrap().count();
    eprintln!("20 kills, {lines} lines, {files} files of one bot");
    assert!(files > 5, "it never rotated");
}

/// SUP-18: a planned upgrade: the daemon ends, its bots run on, a daemon from another file takes over.
#[test]
fn sup_18_no_bot_notices_an_upgrade() {
    let mut site = chatty(12, "0.01", "{ rotate_size = \"4KB\", keep = 100000 }");
    site.start();
    let before = site.until_all_ready();
    let keeper = site.keeper();
    for round in 0..3 {
        goes_on(&site, "t@b0", 12);
        assert!(site.end(Signal::QUIT).success(), "{}", site.log());
        goes_on(&site, "t@b1", 12);
        let copy = site.path(format!("kissopsd-{round}"));
        fs::copy(env!("CARGO_BIN_EXE_kissopsd"), &copy).unwrap();
        site.program = copy;
        site.start();
        same(&before, &site.until_all_ready());
    }
    assert_eq!(site.keeper(), keeper, "the same keeper");
    every_line_is_there(&site);
}

const ENDS_ON_COMMAND: &str = r#"
import os, socket, sys, time
def say(text):
    to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    to.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
open("pid", "w").write(str(os.getpid()))
print("begins", flush=True)
while True:
    time.sleep(0.01)
    if os.path.exists("ready"):
        say("READY=1\nSTATUS=fit"); os.rename("ready", "was-ready")
    if os.path.exists("end"):
        os.rename("end", "was-end")
        print("its last words", flush=True); sys.exit(42)
"#;

fn ends_on_command(ready: &str) -> Site {
    let site = Site::new(&format!(
        "[instance.bot]\ncommand = [\"python3\", \"bot.py\"]\nbackoff = {{ base = \"10ms\", cap = \"20ms\" }}\n{ready}"
    ));
    site.write("bot.py", ENDS_ON_COMMAND);
    site
}

/// SUP-20, SUP-25: an end that no daemon saw is known, reported and acted on.
#[test]
fn sup_20_an_end_while_the_daemon_was_dead_is_known() {
    let mut site = ends_on_command("");
    site.start();
    site.until_line("bot", "begins");
    let first = site.bot("bot");
    site.kill();
    site.write("end", "");
    until("the bot ends", || !is_alive(first));
    site.start();
    let status = site.until("bot", |status| status["state"] == "running" && status["pid"] != first);
    assert_eq!(status["last_exit"]["code"], 42, "{status}");
    assert_eq!(status["restarts"], 1, "{status}");
    let crash = site.until_crash("bot", |_| true);
    assert_eq!(crash["code"], 42, "{crash}");
    assert!(crash.to_string().contains("its last words"), "{crash}");
}

/// SUP-8, SUP-17: what a bot said while no daemon was there is heard by the next.
#[test]
fn sup_8_readiness_told_to_a_dead_daemon_is_not_lost() {
    let mut site = ends_on_command("ready = { notify = true, within = \"50s\" }");
    site.start();
    site.until_line("bot", "begins");
    let before = site.status("bot");
    assert_eq!((&before["state"], &before["ready"]), (&"starting".into(), &false.into()));
    site.kill();
    site.write("ready", "");
    until("it has said so", || site.path("was-ready").exists());
    site.start();
    let after = site.until_ready("bot");
    assert_eq!(after["pid"], before["pid"]);
    assert_eq!(after["status_text"], "fit");
    // And a daemon that comes later still knows.
    site.kill();
    site.start();
    assert_eq!(site.status("bot")["ready"], true);
}

/// SUP-17: the keeper is killed: a new one takes over, no bot dies or is doubled, nothing of its output is lost.
#[test]
fn sup_17_a_killed_keeper_is_replaced() {
    let mut site = chatty(8, "0.01", "{ rotate_size = \"4KB\", keep = 100000 }");
    site.start();
    let before = site.until_all_ready();
    goes_on(&site, "t@b0", 12);
    for round in 0..2 {
        let keeper = site.keeper().unwrap();
        signal(keeper, Signal::KILL);
        until("a new keeper", || site.keeper().is_some_and(|new| new != keeper));
        goes_on(&site, "t@b0", 12);
        same(&before, &site.until_all_ready());
        if round == 0 {
            // The daemon that comes then has to get everything from the new keeper.
            until("all bots are with the new keeper", || {
                site.get("/livez");
                site.log().matches("taken over by the new keeper").count() >= 8
            });
            site.kill();
            goes_on(&site, "t@b1", 12);
            site.start();
            same(&before, &site.until_all_ready());
        }
    }
    assert_eq!(site.bots().len(), 8, "none was doubled");
    // One that ends later: its status is known, or said to be unknown.
    let pid = site.bot("t@b7");
    signal(pid, Signal::KILL);
    let after = site.until("t@b7", |status| {
        status["ready"] == true && status["pid"].as_i64() != Some(pid.into())
    });
    let exit = &after["last_exit"];
    eprintln!("an adopted bot's end: {exit}");
    assert!(exit["signal"] == "SIGKILL" || exit["reason"].as_str().unwrap().contains("unknown"));
}

/// SUP-17: daemon and keeper both die: nobody runs twice.
#[test]
fn sup_17_without_daemon_and_keeper_no_bot_is_doubled() {
    let mut site = Site::started(
        "[template.t]\ncommand = [\"python3\", \"-c\", \"import time\\nwhile True: time.sleep(1)\"]\ninstances = [\"a\", \"b\", \"c\"]\n",
    );
    let before = site.until_all_ready();
    // Who they are is in the store by then.
    until("the store has them", || {
        site.events("").iter().filter(|event| event["to"] == "running").count() == 3
    });
    let keeper = site.keeper().unwrap();
    site.kill();
    signal(keeper, Signal::KILL);
    until("the keeper is gone", || !is_alive(keeper));
    site.start();
    let after = site.until_all_ready();
    let pids = |all: &[Value]| who(all).into_iter().map(|one| one.1).collect::<Vec<_>>();
    let kept = pids(&before) == pids(&after);
    eprintln!("bots kept: {kept}");
    until("as many processes as bots", || site.bots().len() == 3);
    assert!(kept, "{before:?}\n{after:?}");
    assert!(site.end(Signal::TERM).success());
    assert_eq!(site.bots(), Vec::<i32>::new());
}

/// SUP-6, SUP-17: what had ended for good before the daemon died is not started by the next one.
#[test]
fn sup_17_what_had_ended_for_good_stays_down() {
    let mut site = Site::started(
        "[instance.alive]\ncommand = [\"sleep\", \"1000\"]\n\
         [instance.once]\nkind = \"oneshot\"\ncommand = [\"sh\", \"-c\", \"echo x >> once\"]\n\
         [instance.asked]\ncommand = [\"sh\", \"-c\", \"echo x >> asked; exit 64\"]\nstop_exit_codes = [64]\n\
         [instance.gave-up]\ncommand = [\"sh\", \"-c\", \"echo x >> gave-up; exit 1\"]\nrestart = \"never\"\n",
    );
    let ends = [("once", "stopped"), ("asked", "stopped"), ("gave-up", "failed")];
    for (name, state) in ends {
        site.until_state(name, state);
    }
    until("all that is stored", || {
        ends.iter().all(|(name, state)| site.events(name).iter().any(|event| event["to"] == *state))
    });
    until("the crash report is there", || {
        site.get("/v1/crashes?target=gave-up")["crashes"].as_array().unwrap().len() == 1
    });
    for _ in 0..3 {
        site.kill();
        site.start();
        site.until_ready("alive");
    }
    for (name, state) in ends {
        let status = site.status(name);
        assert_eq!(status["state"], state, "{status}");
        assert_eq!(site.read(name), "x\n", "{name} ran once");
    }
    let crashes = site.get("/v1/crashes?target=gave-up");
    assert_eq!(crashes["crashes"].as_array().unwrap().len(), 1, "{crashes}");
}
