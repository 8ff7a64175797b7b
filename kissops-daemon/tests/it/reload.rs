//! A changed configuration, and members that come and go (SUP-2, SUP-15).

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Site, count, until};

fn config(bots: usize, changed: &str) -> String {
    let one = |n: usize| {
        let more = if n == 7 { changed } else { "" };
        format!("[instance.b{n}]\ncommand = [\"sleep\", \"1000\"]\n{more}")
    };
    (0..bots).map(one).collect()
}

fn pids(site: &Site) -> BTreeMap<String, Value> {
    let all = site.until_all_ready();
    all.iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one["pid"].clone())).collect()
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

/// SUP-15: one changed instance out of many: that one restarts, and no other.
#[test]
fn sup_15_only_what_changed_restarts() {
    let bots = count(30, 100);
    let mut site = Site::started(&config(bots, ""));
    let before = pids(&site);
    site.configure(&config(bots, "env = { NEW = \"1\" }\n"));
    let (status, plan) = site.reload(true);
    assert_eq!(status, 200, "{plan}");
    assert_eq!(names(&plan["changed"]), ["b7"]);
    assert_eq!(pids(&site), before, "a dry run touches nothing");
    let (status, plan) = site.reload(false);
    assert_eq!((status, names(&plan["changed"])), (200, vec!["b7"]));
    assert_eq!(names(&plan["unchanged"]).len(), bots - 1);
    until("it has restarted", || pids(&site)["b7"] != before["b7"]);
    let after = pids(&site);
    let differ: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
    assert_eq!(differ, ["b7"]);
    assert_eq!(site.reload(false).1["changed"], json!([]), "nothing is left to do");

    // An invalid file is refused whole, by both ways.
    site.configure(
        "[instance.other]\ncommand = [\"sleep\", \"1\"]\n[instance.b7]\ncomand = [\"sleep\"]\n",
    );
    let (status, problem) = site.reload(false);
    assert_eq!(status, 422, "{problem}");
    assert!(
        problem.to_string().contains("did you mean") && problem.to_string().contains("comand"),
        "{problem}"
    );
    crate::harness::signal(site.pid(), Signal::HUP);
    until("the daemon has said so", || site.log().contains("goes on with the old one"));
    assert_eq!(pids(&site), after);

    // Added, removed and changed at once, by SIGHUP.
    let mut text = config(bots - 1, "");
    text.push_str("[instance.fresh]\ncommand = [\"sleep\", \"1000\"]\n");
    site.configure(&text);
    crate::harness::signal(site.pid(), Signal::HUP);
    until("the daemon has reloaded", || site.log().contains("configuration reloaded"));
    let last = format!("b{}", bots - 1);
    until("the old one is gone", || !pids(&site).contains_key(&last));
    let now = pids(&site);
    assert!(now.contains_key("fresh") && now["b7"] != after["b7"] && now["b1"] == after["b1"]);
    until("nobody is left of the removed", || site.bots().len() == bots);
    // What changed while no daemon was there is found at its start.
    site.kill();
    site.configure(&text.replace("[instance.b3]\n", "[instance.b3]\nenv = { X = \"y\" }\n"));
    site.start();
    until("it has restarted", || pids(&site)["b3"] != now["b3"]);
    let then = pids(&site);
    let differ: Vec<&String> = now.keys().filter(|name| now[*name] != then[*name]).collect();
    assert_eq!(differ, ["b3"]);
}

/// SUP-2: members that were added at run time outlive the daemon, and its next start.
#[test]
fn sup_2_members_added_at_run_time_stay() {
    let mut site = Site::started(
        "[template.t]\ncommand = [\"sh\", \"-c\", \"echo {name} {vars.room}; exec sleep 1000\"]\nvars = { room = \"none\" }\ninstances = [\"one\"]\n",
    );
    let add = |site: &Site, name: &str| {
        site.ask("POST", "/v1/members", Some(&json!({ "name": name, "vars": { "room": "r1" } })))
    };
    assert_eq!(add(&site, "t@two").0, 201);
    assert_eq!(add(&site, "t@three").0, 201);
    let (status, problem) = add(&site, "u@x");
    assert!((400..500).contains(&status), "{problem}");
    site.until_line("t@two", "two r1");
    let before = pids(&site);
    assert_eq!(before.len(), 3);
    site.stop("t@three");
    site.kill();
    site.start();
    site.until_ready("t@two");
    assert_eq!(site.status("t@two")["pid"], before["t@two"]);
    assert_eq!(site.status("t@three")["state"], "stopped", "stopped stays stopped");
    assert!(site.end(Signal::TERM).success());
    site.start();
    site.until_ready("t@two");
    assert_eq!(site.status("t@three")["state"], "stopped");
    let (status, _) = site.ask("DELETE", "/v1/members/t@two", None);
    assert_eq!(status, 204);
    until("it is gone", || site.all().len() == 2);
    until("its process too", || site.bots().len() == 1);
    site.kill();
    site.start();
    assert_eq!(site.all().len(), 2);
}
