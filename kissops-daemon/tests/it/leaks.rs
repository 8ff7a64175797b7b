//! Thousands of starts leave nothing behind, and a crash loop costs next to nothing (SUP-7).

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::harness::{Site, count, large, until};

/// What a process holds: descriptors, threads, children.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    children: usize,
}

fn held(pid: i32) -> Held {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    Held { descriptors, children: children.split_whitespace().count() }
}

fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

fn files(site: &Site, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(site.path(folder)).unwrap().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Descriptors, zombies, threads, sockets, cgroups and files after many starts and stops are those of before.
#[test]
fn sup_10_many_starts_and_stops_leak_nothing() {
    let bots = 10;
    let rounds = count(20, 200);
    let mut site = Site::started(
        "[template.t]\ncommand = [\"sh\", \"-c\", \"echo up; exec sleep 1000\"]\ninstances = [\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"]\nready = { log = \"up\", within = \"50s\" }\nlive = { watchdog = \"10m\" }\nhooks = { pre_start = [[\"true\"]] }\n",
    );
    site.until_all_ready();
    let (daemon, keeper) = (site.pid(), site.keeper().unwrap());
    let act = |action: &str| {
        let body = serde_json::json!({ "action": action, "all": true, "wait": true });
        let (status, answer) = site.ask("POST", "/v1/instances/actions", Some(&body));
        assert_eq!(status, 200, "{answer}");
        let results = answer["results"].as_array().unwrap().clone();
        assert!(results.iter().all(|result| result["ok"] == true), "{answer}");
    };
    act("restart");
    act("stop");
    // What an end leaves to be done is done a moment later.
    let (mut before, mut last) = ((held(daemon), held(keeper)), Instant::now());
    until("it is calm", || {
        let now = (held(daemon), held(keeper));
        if now != before {
            (before, last) = (now, Instant::now());
        }
        last.elapsed() > Duration::from_millis(500)
    });
    let before_files = ["run", "run/b", "run/n", "state"].map(|folder| files(&site, folder));
    let begun = Instant::now();
    for round in 0..rounds {
        act("start");
        act(if round % 4 == 3 { "restart" } else { "stop" });
        act("stop");
    }
    eprintln!("{} starts and stops in {:?}", rounds * bots * 5 / 4, begun.elapsed());
    until("all is given back", || {
        site.get("/livez");
        (held(daemon), held(keeper)) == before
    });
    // Threads of the pool end after a while without work.
    until("the threads have ended", || threads(daemon) <= 4 && threads(keeper) == 1);
    let after_files = ["run", "run/b", "run/n", "state"].map(|folder| files(&site, folder));
    assert_eq!(before_files, after_files);
    for cgroup in site.cgroups() {
        let left = fs::read_dir(&cgroup).unwrap().flatten().filter(|entry| entry.path().is_dir());
        assert!(left.count() <= bots, "cgroups of {}", cgroup.display());
    }
    assert_eq!(site.bots(), Vec::<i32>::new());
    assert!(site.end(Signal::TERM).success());
    until("the keeper is gone", || site.keeper().is_none());
    assert_eq!(files(&site, "run"), ["b", "n"], "sockets are left");
    assert_eq!(files(&site, "run/b"), Vec::<String>::new(), "sockets of bots are left");
    assert_eq!(files(&site, "run/n"), Vec::<String>::new(), "notify sockets are left");
    for cgroup in site.cgroups() {
        assert!(!cgroup.exists(), "{} is left", cgroup.display());
    }
}

/// CPU time of a process, its ended threads included.
fn cpu(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Bots that die at once, all of them, with a backoff that an operator has set as low as it goes.
#[test]
fn sup_7_a_crash_loop_costs_little() {
    let bots = count(20, 100);
    let members: Vec<String> = (0..bots).map(|n| format!("\"{n}\"")).collect();
    let site = Site::started(&format!(
        "[template.loop]\ncommand = [\"false\"]\ninstances = [{}]\nbackoff = {{ base = \"1ms\", cap = \"2ms\" }}\nstart_limit = false\n",
        members.join(", ")
    ));
    // By then the delays have grown as far as they go; a large run waits for the first minute.
    let wanted = if large() { 20 } else { 15 };
    until("each has died often", || {
        site.all().iter().all(|status| status["restarts"].as_u64() >= Some(wanted))
    });
    let (daemon, keeper) = (site.pid(), site.keeper().unwrap());
    let window = Duration::from_secs(if large() { 30 } else { 3 });
    let (begun, before) = (Instant::now(), (cpu(daemon), cpu(keeper)));
    until("the window is over", || begun.elapsed() >= window);
    let spent = (cpu(daemon) + cpu(keeper)).saturating_sub(before.0 + before.1);
    let percent = spent.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    eprintln!("{bots} bots in a crash loop: daemon and keeper use {percent:.2} % of a core");
    assert!(percent < 25.0, "{percent} %");
    assert_eq!(site.get("/livez")["status"], "pass");
}
