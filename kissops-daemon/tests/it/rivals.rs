//! Two daemons, leftovers of a dead one, clients that misbehave, a clock that jumps (SUP-19, CTL-1, SUP-7).

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{Site, until};

const SLEEPER: &str = "[instance.bot]\ncommand = [\"sleep\", \"1000\"]\n";

/// SUP-19: the second daemon on a state directory ends with 75 and names the first; nothing happens to the bots.
#[test]
fn sup_19_a_second_daemon_is_refused_by_name() {
    let mut site = Site::started(SLEEPER);
    site.until_ready("bot");
    let bot = site.bot("bot");
    let output = site.command().output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&format!("pid {}", site.pid())) && text.contains("state"), "{text}");
    assert_eq!(site.bot("bot"), bot);
    // Leftovers of a daemon that was killed are no obstacle, nor are those of one that was before it.
    for _ in 0..3 {
        site.kill();
        assert!(site.path("run/control.sock").exists() && site.path("state/lock").exists());
        site.start();
        assert_eq!(site.bot("bot"), bot);
    }
    // Several that start at once: one of them gets it.
    site.kill();
    let mut all: Vec<_> = (0..4)
        .map(|_| site.command().stderr(std::process::Stdio::null()).spawn().unwrap())
        .collect();
    let mut codes = Vec::new();
    until("three have given up", || {
        all.retain_mut(|one| match one.try_wait().unwrap() {
            Some(status) => {
                codes.push(status.code());
                false
            }
            None => true,
        });
        codes.len() == 3
    });
    assert_eq!(codes, [Some(75); 3]);
    until("the fourth answers", || site.try_ask("GET", "/livez", None).is_some());
    assert_eq!(site.bot("bot"), bot);
    for mut one in all {
        one.kill().unwrap();
        one.wait().unwrap();
    }
}

/// CTL-1: garbage, huge requests and idle connections harm neither the bots nor who asks properly.
#[test]
fn ctl_1_clients_that_misbehave_harm_nobody() {
    let site = Site::started(SLEEPER);
    site.until_ready("bot");
    let bot = site.bot("bot");
    let socket = site.path("run/control.sock");
    let huge = [b"POST /v1/members HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90000000\r\n\r\n".as_slice(), &vec![b'x'; 3_000_000]].concat();
    let mut deep = b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n".to_vec();
    deep.extend(vec![b'['; 100_000]);
    let requests: [&[u8]; 9] = [
        b"\0\xff\xfe garbage \r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"GET /../../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v1/logs?target=../../../../etc&lines=99999999999 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v1/logs?grep=((((((((((a*)*)*)*)*)*)*)*)*)* HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /v1/instances/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nffffffffffffffff\r\n",
        &huge,
        &deep,
        &vec![b'A'; 200_000],
    ];
    for request in requests {
        let mut socket = UnixStream::connect(&socket).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It may hang up before all is sent.
        let _ = socket.write_all(request);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = [0; 64];
        let got = socket.read(&mut answer).unwrap_or(0);
        let head = String::from_utf8_lossy(&answer[..got]).into_owned();
        assert!(
            !head.contains(" 200 ") || head.is_empty() || request.starts_with(b"GET /v1/logs?grep"),
            "{head}"
        );
        assert_eq!(site.get("/livez")["status"], "pass");
    }
    // As many idle connections as we may have.
    let idle: Vec<UnixStream> = (0..900).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    assert_eq!(site.bot_of_proc(), Some(bot), "the bot lives");
    eprintln!("{} idle connections", idle.len());
    // Those that are in time are served or told that there are too many; when they have gone, all is as before.
    drop(idle);
    until("it is served again", || {
        site.try_ask("GET", "/livez", None).is_some_and(|(status, _)| status == 200)
    });
    // And while they stay, they are hung up on, for they ask nothing.
    let idle: Vec<UnixStream> = (0..900).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    until("who asks is served", || {
        site.try_ask("GET", "/livez", None).is_some_and(|(status, _)| status == 200)
    });
    drop(idle);
    assert_eq!(site.bot("bot"), bot);
    assert_eq!(site.status("bot")["restarts"], 0);
}

/// A wall clock that jumps a year ahead and two back: delays, uptimes and logs go on.
#[test]
fn sup_7_a_jumping_clock_disturbs_nobody() {
    let Some(library) = faketime() else {
        eprintln!("no libfaketime (Debian: faketime): not tested");
        return;
    };
    let mut site = Site::new(
        "[instance.bot]\ncommand = [\"sh\", \"-c\", \"n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done\"]\nlogs = { rotate_daily = true }\n\
         [instance.loop]\ncommand = [\"sh\", \"-c\", \"exit 1\"]\nbackoff = { base = \"300ms\", cap = \"300ms\", jitter = false }\nstart_limit = false\n",
    );
    site.write("clock", "+0");
    let clock = site.path("clock").to_str().unwrap().to_owned();
    for (key, value) in [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &clock),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ] {
        site.env(key, value);
    }
    // The bots keep the real clock.
    let text = fs::read_to_string(site.path("kissops.toml")).unwrap();
    site.write("kissops.toml", &format!("{text}\n[defaults]\nenv = {{ LD_PRELOAD = \"\" }}\n"));
    site.start();
    let bot = site.until_ready("bot")["pid"].clone();
    let year = |site: &Site| {
        site.get("/v1/status")["fleet"]["now"].as_str().unwrap()[..4].parse::<i32>().unwrap()
    };
    let now = year(&site);
    for (step, offset) in [("+1y", 1), ("-1y", -1), ("+0", 0)] {
        site.write("clock.new", step);
        fs::rename(site.path("clock.new"), site.path("clock")).unwrap();
        until("the clock has jumped", || {
            (year(&site) - now - offset).abs() <= 1 && (offset == 0 || year(&site) != now)
        });
        // Delays neither end at once nor last a year.
        let restarts = site.status("loop")["restarts"].as_u64().unwrap();
        let begun = std::time::Instant::now();
        site.until("loop", |status| status["restarts"].as_u64().unwrap() >= restarts + 4);
        let took = begun.elapsed();
        assert!(
            took > Duration::from_millis(600) && took < Duration::from_secs(20),
            "{step}: {took:?}"
        );
        let status = site.status("bot");
        assert_eq!((&status["pid"], &status["restarts"]), (&bot, &0.into()), "{step}");
        let uptime = status["uptime_seconds"].as_f64().unwrap();
        assert!((0.0..600.0).contains(&uptime), "{step}: {uptime}");
        assert_eq!(site.get("/livez")["status"], "pass");
    }
    site.stop("bot");
    let (_, text) = site.try_ask("GET", "/v1/logs?target=bot&since=10000d", None).unwrap();
    let mut numbers: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split("line ").nth(1)?.split('"').next()?.parse().ok())
        .collect();
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "no line twice");
    assert_eq!(numbers.last(), Some(&(count as u64)), "no line lost");
    assert!(site.end(Signal::TERM).success());
}

fn faketime() -> Option<String> {
    let found = Command::new("sh")
        .args(["-c", "ls /usr/lib/*/faketime/libfaketimeMT.so.1"])
        .output()
        .ok()?;
    let path = String::from_utf8_lossy(&found.stdout).lines().next()?.to_owned();
    (!path.is_empty()).then_some(path)
}
