//! Starts, ends, restarts and the order of them, with real bots (SUP-4 to SUP-9, SUP-12 to SUP-14, SUP-16).

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::harness::{Site, is_alive, is_root, signal, until};

const QUICK: &str = "[defaults]\nbackoff = { base = \"10ms\", cap = \"20ms\" }\n";

fn quick(config: &str) -> Site {
    Site::started(&format!("{QUICK}{config}"))
}

/// A port that nobody listens on just now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// SUP-7: so many starts, then an operator has to look; a reset starts it afresh. It stays given up over a restart.
#[test]
fn sup_7_a_start_limit_gives_up_until_a_reset() {
    let mut site = quick(
        "[instance.bot]\ncommand = [\"sh\", \"-c\", \"echo x >> starts; test -e good && exec sleep 1000; exit 1\"]\nstart_limit = { starts = 3, within = \"5m\" }\n",
    );
    let status = site.until_state("bot", "failed");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("kissops reset bot") && reason.contains("exit code 1"), "{reason}");
    assert_eq!(site.read("starts").lines().count(), 3);
    until("the reason is stored", || {
        site.events("bot").iter().any(|event| event["to"] == "failed")
    });
    site.kill();
    site.start();
    assert_eq!(site.status("bot")["state"], "failed");
    assert_eq!(site.get("/v1/status")["verdict"], "fail");
    site.write("good", "");
    assert_eq!(site.act("reset", "bot")["ok"], true);
    let status = site.until_ready("bot");
    assert_eq!(status["restarts"], 0);
    assert_eq!(site.read("starts").lines().count(), 4);
}

/// SUP-6: what each exit code leads to.
#[test]
fn sup_6_exit_codes_mean_what_the_configuration_says() {
    let site = quick(
        "[instance.again]\ncommand = [\"sh\", \"-c\", \"echo x >> again; test $(wc -l < again) -gt 8 && exec sleep 1000; exit 75\"]\nrestart_exit_codes = [75]\nstart_limit = { starts = 3, within = \"5m\" }\nbackoff = { base = \"1m\", cap = \"1m\", jitter = false }\n\
         [instance.stay-down]\ncommand = [\"sh\", \"-c\", \"exit 64\"]\nstop_exit_codes = [64]\n\
         [instance.done]\ncommand = [\"sh\", \"-c\", \"exit 0\"]\nrestart = \"on-failure\"\n\
         [instance.also-done]\ncommand = [\"sh\", \"-c\", \"exit 3\"]\nrestart = \"on-failure\"\nsuccess_exit_codes = [3]\n\
         [instance.failing]\ncommand = [\"sh\", \"-c\", \"test -e was && exec sleep 1000; touch was; kill -9 $$\"]\nrestart = \"on-failure\"\n\
         [instance.never]\ncommand = [\"sh\", \"-c\", \"exit 5\"]\nrestart = \"never\"\n",
    );
    assert_eq!(site.until_state("stay-down", "stopped")["last_exit"]["code"], 64);
    assert_eq!(site.until_state("done", "stopped")["last_exit"]["code"], 0);
    assert_eq!(site.until_state("also-done", "stopped")["last_exit"]["code"], 3);
    assert_eq!(site.until_state("never", "failed")["last_exit"]["code"], 5);
    let failing =
        site.until("failing", |status| status["restarts"] == 1 && status["ready"] == true);
    assert_eq!(failing["last_exit"]["signal"], "SIGKILL");
    // Eight asked-for restarts, at once, and none of them counts against the limit of 3.
    let again = site.until("again", |status| {
        status["ready"] == true && site.read("again").lines().count() == 9
    });
    assert_eq!(again["last_exit"]["code"], 75);
    // A bot that asked to stay down can be started by hand.
    let crashes = site.get("/v1/crashes");
    let names: Vec<_> = crashes["crashes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|crash| crash["instance"].clone())
        .collect();
    assert!(!names.contains(&"stay-down".into()) && !names.contains(&"again".into()), "{names:?}");
}

/// SUP-5, SUP-16: what is required first, and a one-shot must have succeeded; down in the opposite order.
#[test]
fn sup_5_order_up_and_down() {
    const BOT: &str = "import os,signal,sys,time\nname=os.environ['KISSOPS_INSTANCE']\ndef say(what):\n  fd=os.open('order',os.O_WRONLY|os.O_APPEND|os.O_CREAT,0o644); os.write(fd,('%s %s\\n'%(what,name)).encode())\ndef end(*_):\n  time.sleep(0.1); say('down'); sys.exit(0)\nsignal.signal(signal.SIGTERM,end)\nsay('up')\nopen(name+'.beat','w')\nwhile True: time.sleep(1000)\n";
    let mut site = Site::new(
        "[instance.db]\ncommand = [\"python3\", \"bot.py\"]\nready = { heartbeat = \"db.beat\" }\n\
         [instance.migrate]\nkind = \"oneshot\"\ncommand = [\"sh\", \"-c\", \"sleep 0.2; echo done migrate >> order\"]\nrequires = [\"db\"]\n\
         [instance.web]\ncommand = [\"python3\", \"bot.py\"]\nrequires = [\"migrate\", \"db\"]\nready = { heartbeat = \"web.beat\" }\n\
         [instance.bot]\ncommand = [\"python3\", \"bot.py\"]\nrequires = [\"web\"]\n",
    );
    site.write("bot.py", BOT);
    site.start();
    site.until("bot", |_| site.read("order").contains("up bot"));
    assert_eq!(site.read("order"), "up db\ndone migrate\nup web\nup bot\n");
    // Stopping what others need stops them first; they wait for its return.
    site.write("order", "");
    site.stop("db");
    assert_eq!(site.read("order"), "down bot\ndown web\ndown db\n");
    assert_eq!(site.status("bot")["desired"], "running");
    site.write("order", "");
    assert_eq!(site.act("start", "db")["ok"], true);
    site.until("bot", |_| site.read("order").contains("up bot"));
    assert_eq!(site.read("order").lines().collect::<Vec<_>>()[0], "up db");
    site.write("order", "");
    assert!(site.end(Signal::TERM).success());
    assert_eq!(site.read("order"), "down bot\ndown web\ndown db\n");
}

/// SUP-5: a cycle is refused before anything starts, with its names.
#[test]
fn sup_5_a_cycle_is_an_error_that_names_it() {
    let site = Site::new(
        "[instance.a]\ncommand = [\"x\"]\nrequires = [\"b\"]\n[instance.b]\ncommand = [\"x\"]\nrequires = [\"c\"]\n[instance.c]\ncommand = [\"x\"]\nrequires = [\"a\"]\n",
    );
    let output = site.command().output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("kissops.toml")
            && ["`a`", "`b`", "`c`"]
                .iter()
                .all(|name| text.contains(name) || text.contains("a → b → c")),
        "{text}"
    );
}

/// SUP-8: each way to become ready.
#[test]
fn sup_8_each_kind_of_readiness_is_reached() {
    let (http, tcp) = (free_port(), free_port());
    let mut site = Site::new(&format!(
        "[instance.notify]\ncommand = [\"python3\", \"bot.py\"]\nready = {{ notify = true }}\n\
         [instance.http]\ncommand = [\"python3\", \"-m\", \"http.server\", \"--bind\", \"127.0.0.1\", \"{http}\"]\nready = {{ http = \"http://127.0.0.1:{http}/\" }}\n\
         [instance.tcp]\ncommand = [\"python3\", \"-c\", \"import socket,time;s=socket.socket();s.bind(('127.0.0.1',{tcp}));s.listen();time.sleep(1000)\"]\nready = {{ tcp = \"127.0.0.1:{tcp}\" }}\n\
         [instance.log]\ncommand = [\"sh\", \"-c\", \"echo loading; while ! test -e go; do sleep 0.02; done; printf 'connected to '; sleep 0.1; echo 3 channels; exec sleep 1000\"]\nready = {{ log = \"^connected to [0-9]+ channels$\" }}\n\
         [instance.heartbeat]\ncommand = [\"sh\", \"-c\", \"while ! test -e go; do sleep 0.02; done; echo > beat; exec sleep 1000\"]\nready = {{ heartbeat = \"beat\" }}\n\
         [instance.delay]\ncommand = [\"sleep\", \"1000\"]\nready = {{ delay = \"300ms\" }}\n"
    ));
    site.write("bot.py", "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.connect(os.environ['NOTIFY_SOCKET'])\ns.send(b'STATUS=loading')\nwhile not os.path.exists('go'): time.sleep(0.02)\ns.send(b'READY=1')\ntime.sleep(1000)\n");
    // Of an earlier run: it does not count.
    site.write("beat", "");
    let old = std::time::SystemTime::now() - Duration::from_mins(1);
    fs::File::options().write(true).open(site.path("beat")).unwrap().set_modified(old).unwrap();
    site.start();
    site.until("notify", |status| status["status_text"] == "loading");
    for name in ["notify", "log", "heartbeat"] {
        let status = site.status(name);
        assert_eq!(
            (&status["state"], &status["ready"]),
            (&"starting".into(), &false.into()),
            "{name}"
        );
    }
    site.write("go", "");
    let all = site.until_all_ready();
    assert!(all.iter().all(|status| status["state"] == "running"), "{all:?}");
}

/// SUP-8: who is not ready in time is stopped, and that is a failed start.
#[test]
fn sup_8_not_ready_in_time_is_a_failed_start() {
    let port = free_port();
    let checks = [
        ("notify", "notify = true".to_owned()),
        ("http", format!("http = \"http://127.0.0.1:{port}/\"")),
        ("tcp", format!("tcp = \"127.0.0.1:{port}\"")),
        ("log", "log = \"never\"".to_owned()),
        ("heartbeat", "heartbeat = \"no-beat\"".to_owned()),
    ];
    let one = |(name, check): &(&str, String)| {
        format!(
            "[instance.{name}]\ncommand = [\"sleep\", \"1000\"]\nstart_limit = {{ starts = 2, within = \"5m\" }}\nready = {{ {check}, within = \"200ms\" }}\n"
        )
    };
    let config = checks.iter().map(one).collect::<Vec<_>>().concat();
    let site = quick(&config);
    for (name, _) in &checks {
        let status = site.until_state(name, "failed");
        assert!(status["reason"].as_str().unwrap().contains("not ready within 200ms"), "{status}");
        assert_eq!(status["restarts"], 1, "{status}");
    }
    assert_eq!(site.bots(), Vec::<i32>::new());
}

/// SUP-9: silence, an old heartbeat, a refused probe: a restart, with the check's name in the reason.
#[test]
fn sup_9_each_kind_of_liveness_restarts_a_stuck_bot() {
    let port = free_port();
    let site = quick(&format!(
        "[instance.watchdog]\ncommand = [\"python3\", \"{{dir}}/dog.py\"]\nlive = {{ watchdog = \"300ms\" }}\n\
         [instance.beat]\ncommand = [\"sh\", \"-c\", \"echo > {{dir}}/beat; exec sleep 1000\"]\nlive = {{ heartbeat = \"beat\", max_age = \"300ms\" }}\n\
         [instance.tcp]\ncommand = [\"sleep\", \"1000\"]\nlive = {{ tcp = \"127.0.0.1:{port}\", every = \"50ms\", failures = 3 }}\n"
    ));
    // It is started before its script is there: that end is one more to recover from.
    site.write("dog.py", "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.connect(os.environ['NOTIFY_SOCKET'])\nassert os.environ['WATCHDOG_USEC']=='300000'\nopen('dogs','a').write('x')\nfor n in range(10): s.send(b'WATCHDOG=1'); time.sleep(0.1)\ntime.sleep(1000)\n");
    for (name, want) in [
        ("watchdog", "watchdog: no sign of life for 300ms"),
        ("beat", "liveness: "),
        ("tcp", "3 times in a row"),
    ] {
        let reason = site.until_event(name, "liveness.failed");
        assert!(reason.contains(want), "{name}: {reason}");
        let status = site.until(name, |status| status["restarts"].as_u64() >= Some(1));
        assert!(status["last_exit"]["reason"].as_str().is_some(), "{status}");
    }
}

/// SUP-8: a bot may name another main process of its own tree, and no other.
#[test]
fn sup_8_mainpid_of_a_stranger_is_refused() {
    let site = Site::new(
        "[instance.bot]\ncommand = [\"python3\", \"bot.py\"]\nready = { notify = true }\nbackoff = { base = \"10ms\", cap = \"20ms\" }\nrestart = \"never\"\n",
    );
    site.write("bot.py", "import os,socket,sys,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.connect(os.environ['NOTIFY_SOCKET'])\ns.send(b'MAINPID=%d\\nREADY=1' % int(open('stranger').read()))\nwhile not os.path.exists('go'): time.sleep(0.01)\nchild=os.fork()\nif child==0:\n  while not os.path.exists('end'): time.sleep(0.01)\n  os._exit(9)\ns.send(b'MAINPID=%d' % child)\nwhile not os.path.exists('leave'): time.sleep(0.01)\nos._exit(0)\n");
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    site.write("stranger", &stranger.id().to_string());
    let mut site = site;
    site.start();
    let first = site.until_ready("bot")["pid"].clone();
    let reason = site.until_event("bot", "notify.refused");
    assert!(reason.contains(&stranger.id().to_string()), "{reason}");
    assert_eq!(site.bot("bot"), first);
    // Its own child is another matter: it is followed, over the end of the first one and of the daemon.
    site.write("go", "");
    let child = site.until("bot", |status| status["pid"] != first)["pid"].clone();
    site.write("leave", "");
    let first = i32::try_from(first.as_i64().unwrap()).unwrap();
    until("the first one ends", || !is_alive(first));
    assert_eq!(site.status("bot")["ready"], true);
    site.kill();
    site.start();
    assert_eq!(site.until_ready("bot")["pid"], child);
    site.write("end", "");
    let status = site.until_state("bot", "failed");
    assert_eq!(status["last_exit"]["code"], 9, "{status}");
    assert!(is_alive(i32::try_from(stranger.id()).unwrap()));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// SUP-12: hooks around a life; a failing or endless `pre_start` is a failed start, and leaves nobody.
#[test]
fn sup_12_hooks_run_in_order_and_fail_starts() {
    let site = quick(
        "[instance.bot]\ncommand = [\"sh\", \"-c\", \"echo bot >> order; exec sleep 1000\"]\nhooks = { pre_start = [[\"sh\", \"-c\", \"echo pre1 $WHO >> order\"], [\"sh\", \"-c\", \"echo pre2 >> order\"]], post_start = [[\"sh\", \"-c\", \"while ! test -s order; do :; done; echo post_start >> order\"]], pre_stop = [[\"sh\", \"-c\", \"echo pre_stop >> order\"]], post_stop = [[\"sh\", \"-c\", \"echo post_stop >> order\"]] }\nenv = { WHO = \"me\" }\n\
         [instance.bad]\ncommand = [\"sh\", \"-c\", \"echo bad >> order; sleep 1000\"]\nhooks = { pre_start = [[\"sh\", \"-c\", \"echo told why; exit 4\"]] }\nstart_limit = { starts = 2, within = \"5m\" }\n\
         [instance.endless]\ncommand = [\"sh\", \"-c\", \"echo endless >> order; sleep 1000\"]\nhooks = { pre_start = [{ command = [\"sh\", \"-c\", \"setsid sleep 1000 & sleep 1000\"], timeout = \"200ms\" }] }\nstart_limit = { starts = 2, within = \"5m\" }\n",
    );
    let bad = site.until_state("bad", "failed");
    let reason = bad["reason"].as_str().unwrap();
    assert!(reason.contains("pre_start") && reason.contains("exit code 4"), "{reason}");
    assert!(site.lines("bad").contains(&"told why".to_owned()));
    let endless = site.until_state("endless", "failed");
    let reason = endless["reason"].as_str().unwrap();
    assert!(reason.contains("pre_start") && reason.contains("200ms"), "{reason}");
    until("all have run", || site.read("order").lines().count() == 4);
    site.stop("bot");
    let order = site.read("order");
    let order: Vec<&str> = order.lines().collect();
    assert_eq!(order[..2], ["pre1 me", "pre2"]);
    assert_eq!(order[4..], ["pre_stop", "post_stop"]);
    assert!(order.contains(&"bot") && order.contains(&"post_start"), "{order:?}");
    assert_eq!(site.bots(), Vec::<i32>::new());
}

/// SUP-1: the environment file is read at each start, and refused where others may read its secrets.
#[test]
fn sup_1_env_files_are_read_afresh() {
    let site = Site::new(
        "[instance.bot]\ncommand = [\"sh\", \"-c\", \"echo now $COLOUR; exec sleep 1000\"]\nenv_file = [\"bot.env\"]\nstart_limit = { starts = 2, within = \"5m\" }\nbackoff = { base = \"10ms\", cap = \"20ms\" }\n",
    );
    site.write("bot.env", "COLOUR=red\n");
    fs::set_permissions(site.path("bot.env"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut site = site;
    site.start();
    site.until_line("bot", "now red");
    site.write("bot.env", "COLOUR='dark blue'\n");
    assert_eq!(site.act("restart", "bot")["ok"], true);
    site.until_line("bot", "now dark blue");
    site.write("bot.env", "API_TOKEN=abcdefgh\n");
    fs::set_permissions(site.path("bot.env"), fs::Permissions::from_mode(0o644)).unwrap();
    site.act("restart", "bot");
    let status = site.until_state("bot", "failed");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("bot.env") && !reason.contains("abcdefgh"), "{reason}");
}

/// SUP-1, SUP-13: another user, its groups, a mask, limits; and its notify socket can be reached.
#[test]
fn sup_13_user_mask_and_limits_are_seen_by_the_bot() {
    let who = if is_root() { "user = \"nobody\"\n" } else { "" };
    let site = Site::new(&format!(
        "[instance.bot]\ncommand = [\"python3\", \"bot.py\"]\numask = \"027\"\nlimits = {{ nofile = 333, core = 0, cpu = 1000 }}\nready = {{ notify = true }}\n{who}"
    ));
    site.write("bot.py", "import os,resource as r,socket,time\numask=os.umask(0)\nprint('uid',os.getuid(),'groups',os.getgroups(),'umask',oct(umask),'nofile',r.getrlimit(r.RLIMIT_NOFILE),'core',r.getrlimit(r.RLIMIT_CORE),'home',os.environ.get('HOME'),'fds',len(os.listdir('/proc/self/fd')),flush=True)\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\na=os.environ['NOTIFY_SOCKET']\ns.sendto(b'READY=1',('\\0'+a[1:]) if a[0]=='@' else a)\ntime.sleep(1000)\n");
    let mut site = site;
    site.start();
    site.until_ready("bot");
    let line = site.until_line("bot", "uid");
    assert!(
        line.contains("umask 0o27")
            && line.contains("nofile (333, 333)")
            && line.contains("core (0, 0)"),
        "{line}"
    );
    // Three, and the folder itself.
    assert!(line.contains("fds 4"), "{line}");
    if is_root() {
        let owner = fs::metadata(format!("/proc/{}", site.bot("bot"))).unwrap().uid();
        assert!(owner != 0 && line.contains(&format!("uid {owner}")), "{line}");
        site.kill();
        site.start();
        assert_eq!(site.until_ready("bot")["state"], "running");
    }
}

/// SUP-13: where no cgroup limits memory, sampling does, within a few seconds.
#[test]
fn sup_13_a_memory_hog_is_ended() {
    let mut site = Site::new(
        "[instance.hog]\ncommand = [\"python3\", \"-c\", \"import time,os\\nwhile not os.path.exists('go'): time.sleep(0.01)\\nx=b'x'*200_000_000\\ntime.sleep(1000)\"]\nlimits = { memory_max = \"100MB\" }\nrestart = \"never\"\nstop = { grace = \"1s\" }\n",
    );
    site.without_cgroups();
    site.start();
    site.until("hog", |status| status["rss_bytes"].is_u64());
    site.write("go", "");
    let begun = Instant::now();
    let status = site.until("hog", |status| status["last_exit"].is_object());
    eprintln!("hog ended after {:?}: {status}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(8));
    let crash = site.until_crash("hog", |_| true);
    assert!(crash.to_string().contains("out of memory"), "{crash}");
}

/// SUP-17, SUP-20: a process that has the number of one of ours is never touched.
#[test]
fn sup_17_a_reused_pid_is_a_stranger() {
    // The store of a daemon that died says that pid 1 (and this process) with another start time is its bot.
    let mut site = Site::started("[instance.bot]\ncommand = [\"sleep\", \"1000\"]\n");
    site.until_ready("bot");
    until("the run is stored", || site.events("bot").iter().any(|event| event["to"] == "running"));
    let (keeper, bot) = (site.keeper().unwrap(), site.bot("bot"));
    site.kill();
    signal(keeper, Signal::KILL);
    signal(bot, Signal::KILL);
    until("both are gone", || !is_alive(keeper) && !is_alive(bot));
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let script = "import sqlite3,sys\ndb=sqlite3.connect(sys.argv[1])\nt=[r[0] for r in db.execute(\"select name from sqlite_master where type='table'\") if 'pid' in [c[1] for c in db.execute('pragma table_info(%s)'%r[0])]]\nassert t\nfor n in t: print(n, db.execute('update %s set pid=?'%n,(int(sys.argv[2]),)).rowcount)\ndb.commit()\n";
    let changed = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(site.path("state/kissops.db"))
        .arg(stranger.id().to_string())
        .output()
        .unwrap();
    assert!(changed.status.success(), "{changed:?}");
    site.start();
    let status = site.until_ready("bot");
    assert_ne!(status["pid"], stranger.id());
    site.stop("bot");
    assert!(is_alive(i32::try_from(stranger.id()).unwrap()), "a stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
