//! "Stopped" means that the whole process tree is gone, whatever a bot does to hide a part of it (SUP-10).

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::harness::{Site, is_alive, signal, until};

/// Starts a grandchild that leaves its session, its parents and its output, and writes down who it is.
const HIDES: &str = r#"
import os, signal, sys, time
def hide(name):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in (0, 1, 2): os.close(fd)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.chdir("/")
            with open(sys.argv[1] + "/new." + name, "w") as file: file.write(str(os.getpid()))
            os.rename(sys.argv[1] + "/new." + name, sys.argv[1] + "/" + name)
            while True: time.sleep(100)
        os._exit(0)
    os.wait()
hide("hidden." + os.environ["KISSOPS_INSTANCE"] + "." + str(os.getpid()))
print("hidden", flush=True)
while True: time.sleep(100)
"#;

fn hider(with_cgroups: bool) -> Site {
    let mut site = Site::new(
        "[instance.bot]\ncommand = [\"python3\", \"bot.py\", \"{dir}\"]\nbackoff = { base = \"10ms\", cap = \"20ms\" }\nstop = { grace = \"2s\" }\n",
    );
    if !with_cgroups {
        site.without_cgroups();
    }
    site.write("bot.py", HIDES);
    site.start();
    site
}

fn hidden(site: &Site, bot: i32) -> i32 {
    site.number(&format!("hidden.bot.{bot}"))
}

fn nobody_hides(with_cgroups: bool) {
    let mut site = hider(with_cgroups);
    // At a stop.
    site.until_ready("bot");
    let bot = site.bot("bot");
    let grandchild = hidden(&site, bot);
    site.stop("bot");
    assert!(!is_alive(grandchild), "after a stop");
    assert_eq!(site.bots(), Vec::<i32>::new());
    // After its parent's crash, before the next copy starts.
    assert_eq!(site.act("start", "bot")["ok"], true);
    let bot = site.bot("bot");
    let grandchild = hidden(&site, bot);
    signal(bot, Signal::KILL);
    let next = site.until("bot", |status| {
        status["ready"] == true && status["pid"].as_i64() != Some(bot.into())
    });
    assert!(!is_alive(grandchild), "after a crash");
    // After the daemon was replaced, which has to find it too.
    let bot = i32::try_from(next["pid"].as_i64().unwrap()).unwrap();
    let grandchild = hidden(&site, bot);
    site.kill();
    site.start();
    assert_eq!(site.bot("bot"), bot);
    assert!(is_alive(grandchild));
    // At the daemon's end.
    assert!(site.end(Signal::TERM).success());
    assert!(!is_alive(grandchild), "after the daemon's end");
    assert_eq!(site.bots(), Vec::<i32>::new());
    until("the keeper is gone", || site.keeper().is_none());
    for cgroup in site.cgroups() {
        assert!(!cgroup.exists(), "{} is left", cgroup.display());
    }
}

#[test]
fn sup_10_a_grandchild_that_left_everything_goes_too() {
    nobody_hides(true);
}

#[test]
fn sup_10_a_grandchild_that_left_everything_goes_without_cgroups_too() {
    nobody_hides(false);
}

/// A grandchild that holds the output open does not delay a restart; what is written meanwhile is kept.
#[test]
fn sup_10_a_grandchild_with_the_output_open_delays_nothing() {
    for with_cgroups in [true, false] {
        let mut site = Site::new(
            "[instance.bot]\ncommand = [\"sh\", \"-c\", \"echo one of $$; (sleep 1000 &) ; test -e {dir}/stay && exec sleep 1000; exit 3\"]\nbackoff = { base = \"10ms\", cap = \"20ms\" }\nstart_limit = false\n",
        );
        if !with_cgroups {
            site.without_cgroups();
        }
        site.start();
        site.until("bot", |status| status["restarts"].as_u64() >= Some(3));
        site.write("stay", "");
        let crash = site.until_crash("bot", |crash| crash["code"] == 3);
        assert!(crash.to_string().contains("one of"), "{crash}");
        site.stop("bot");
        assert_eq!(site.bots(), Vec::<i32>::new());
    }
}

/// A bot that ignores SIGTERM gets its grace, and then goes with all that it has; it can be started again.
#[test]
fn sup_10_one_that_ignores_its_signal_is_killed_after_its_grace() {
    for with_cgroups in [true, false] {
        let mut site = Site::new(
            "[instance.bot]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; sleep 1000 & echo up $$; while :; do sleep 1000; done\"]\nstop = { grace = \"400ms\" }\n",
        );
        if !with_cgroups {
            site.without_cgroups();
        }
        site.start();
        site.until_ready("bot");
        for _ in 0..2 {
            site.until_line("bot", &format!("up {}", site.bot("bot")));
            let begun = Instant::now();
            site.stop("bot");
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(400), "{took:?}");
            assert!(took < Duration::from_secs(5), "{took:?}");
            assert_eq!(site.bots(), Vec::<i32>::new());
            assert!(site.until_event("bot", "stop.forced").contains("400ms"));
            let reason = site.status("bot")["last_exit"]["reason"].as_str().unwrap().to_owned();
            assert!(reason.contains("grace") && reason.contains("SIGKILL"), "{reason}");
            // It stays up when it is started again.
            assert_eq!(site.act("start", "bot")["ok"], true);
            let pid = site.bot("bot");
            site.until_line("bot", &format!("up {pid}"));
            assert!(is_alive(pid));
            assert_eq!(site.status("bot")["restarts"], 0);
        }
    }
}

/// One that forks all the time, and one that is never for long the same process.
#[test]
fn sup_10_fast_forkers_are_stopped() {
    // Both end by themselves, should the test fail before they are stopped.
    const FORKER: &str = "import os, time\nend = time.monotonic() + 60\nwhile time.monotonic() < end:\n if os.fork(): os._exit(0)\n os.setsid()\n";
    for with_cgroups in [true, false] {
        let mut site = Site::new(
            "[instance.crowd]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; echo up; i=0; while [ $i -lt 50000 ]; do sleep 0.2 & i=$((i+1)); done; wait\"]\nstop = { grace = \"100ms\" }\nlimits = { pids_max = 300, nproc = 2000 }\n\
             [instance.chain]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; (python3 {dir}/chain.py &) ; echo up; sleep 1000; sleep 1000\"]\nstop = { grace = \"100ms\" }\n",
        );
        if !with_cgroups {
            site.without_cgroups();
        }
        site.write("chain.py", FORKER);
        site.start();
        site.until_line("crowd", "up");
        site.until_line("chain", "up");
        let begun = Instant::now();
        site.stop("crowd");
        site.stop("chain");
        eprintln!("forkers stopped in {:?}, cgroups: {with_cgroups}", begun.elapsed());
        assert_eq!(site.bots(), Vec::<i32>::new());
    }
}

/// A bot whose children stay zombies: they do not count as alive, and go with it.
#[test]
fn sup_10_zombies_hold_up_nothing() {
    for with_cgroups in [true, false] {
        let mut site = Site::new(
            "[instance.bot]\ncommand = [\"python3\", \"-c\", \"import os,time\\nfor n in range(20):\\n if os.fork() == 0: os._exit(0)\\nprint('up', flush=True)\\ntime.sleep(1000)\"]\nstop = { grace = \"5s\" }\n",
        );
        if !with_cgroups {
            site.without_cgroups();
        }
        site.start();
        site.until_line("bot", "up");
        let bot = site.bot("bot");
        let begun = Instant::now();
        site.stop("bot");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        let keeper = site.keeper().unwrap();
        until("the zombies are reaped", || {
            fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"))
                .is_ok_and(|children| children.trim().is_empty())
        });
        assert!(!is_alive(bot));
    }
}

/// A process that was stopped with SIGSTOP cannot handle a signal: it is woken first.
#[test]
fn sup_10_a_frozen_bot_stops_promptly() {
    let site = Site::started(
        "[instance.bot]\ncommand = [\"python3\", \"-c\", \"import signal,sys,time\\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\\nprint('up', flush=True)\\ntime.sleep(1000)\"]\n",
    );
    site.until_line("bot", "up");
    signal(site.bot("bot"), Signal::STOP);
    let begun = Instant::now();
    site.stop("bot");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(site.status("bot")["last_exit"]["code"], 7, "it ended by itself");
}
