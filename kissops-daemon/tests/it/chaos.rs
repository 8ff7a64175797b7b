//! The daemon (and its keeper) is killed in the midst of work, again and again: nobody runs twice, nobody is forgotten
//! (SUP-17).

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Site, count, is_alive, signal, until};

/// Small and repeatable, so that a failure can be looked at again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// How many processes each instance has.
fn processes(site: &Site) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for pid in site.bots().into_iter().filter(|pid| is_alive(*pid)) {
        let environ = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap_or_default();
        if let Some(name) =
            environ.split('\0').find_map(|var| var.strip_prefix("KISSOPS_INSTANCE="))
        {
            *all.entry(name.to_owned()).or_default() += 1;
        }
    }
    all
}

fn chaos(with_cgroups: bool, keeper_dies: bool, seed: u64) {
    const BOTS: u64 = 6;
    let mut wanted = [true; 6];
    let config = |edition: u64| {
        (0..BOTS)
            .map(|n| {
                let needs = if n == 5 { "requires = [\"b4\"]\n" } else { "" };
                let edited = if n == edition % BOTS { edition } else { 0 };
                format!("[instance.b{n}]\ncommand = [\"sleep\", \"1000\"]\nenv = {{ EDITION = \"{edited}\" }}\n{needs}")
            })
            .chain(["[defaults]\nstart_limit = false\nbackoff = { base = \"5ms\", cap = \"20ms\" }\nready = { delay = \"5ms\" }\n".to_owned()])
            .collect::<String>()
    };
    let mut site = Site::new(&config(0));
    if !with_cgroups {
        site.without_cgroups();
    }
    site.start();
    let mut dice = Dice(seed);
    for round in 0..u64::try_from(count(12, 60)).unwrap() {
        for _ in 0..3 {
            let n = dice.roll(BOTS);
            let index = usize::try_from(n).unwrap();
            let action = ["start", "stop", "restart", "crash", "reload"]
                [usize::try_from(dice.roll(5)).unwrap()];
            match action {
                "reload" => {
                    site.configure(&config(round));
                    assert_eq!(site.reload(false).0, 200);
                }
                "crash" => {
                    if let Some(pid) = site.status(&format!("b{n}"))["pid"].as_i64() {
                        signal(i32::try_from(pid).unwrap(), Signal::KILL);
                    }
                }
                _ => {
                    let body = json!({ "action": action, "targets": [format!("b{n}")] });
                    let (status, answer) = site.ask("POST", "/v1/instances/actions", Some(&body));
                    assert_eq!(status, 200, "{answer}");
                    wanted[index] = action != "stop";
                    if action != "stop" && n == 5 {
                        wanted[4] = true;
                    }
                }
            }
        }
        let at = Instant::now() + Duration::from_millis(dice.roll(40));
        until("the moment", || Instant::now() >= at);
        let keeper = site.keeper();
        match dice.roll(if keeper_dies { 3 } else { 1 }) {
            0 => site.kill(),
            1 => {
                signal(keeper.unwrap(), Signal::KILL);
                if dice.roll(2) == 0 {
                    site.kill();
                }
            }
            _ => {
                site.kill();
                signal(keeper.unwrap(), Signal::KILL);
            }
        }
        if !site.runs() {
            site.start();
        }
        let settled = |status: &serde_json::Value| {
            let n: usize = status["name"].as_str().unwrap()[1..].parse().unwrap();
            // What it requires may be wanted down.
            let up = wanted[n] && (n != 5 || wanted[4]);
            if up { status["ready"] == true } else { status["pid"].is_null() }
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let all = site.all();
            let running = all.iter().filter(|status| !status["pid"].is_null()).count();
            let alive = processes(&site);
            let doubled = alive.values().any(|count| *count > 1);
            if all.iter().all(settled) && !doubled && alive.values().sum::<usize>() == running {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "seed {seed}, round {round}: {wanted:?} {alive:?}\n{all:#?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    if !site.runs() {
        site.start();
    }
    assert!(site.end(Signal::TERM).success());
    until("nobody is left", || site.bots().is_empty() && site.keeper().is_none());
}

#[test]
fn sup_17_kills_in_the_midst_of_work_double_nobody() {
    for seed in 1..=u64::try_from(count(2, 6)).unwrap() {
        chaos(true, false, seed);
        chaos(false, false, seed);
    }
}

#[test]
fn sup_17_nor_do_kills_of_the_keeper() {
    for seed in 1..=u64::try_from(count(1, 6)).unwrap() {
        chaos(true, true, seed);
        chaos(false, true, seed);
    }
}
